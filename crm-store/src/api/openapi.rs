//! The interface, described for machines (OpenAPI 3.1).

use std::sync::OnceLock;

use serde_json::{Map, Value as Json, json};

/// The description of all routes as an OpenAPI 3.1 document.
pub fn openapi() -> &'static Json {
    static MADE: OnceLock<Json> = OnceLock::new();
    MADE.get_or_init(made)
}

/// What stands before a route's own answers: everybody can be told these.
fn answers(own: &[(&str, &str, Json)], problems: &[&str]) -> Json {
    let mut all = Map::new();
    for (status, what, schema) in own {
        let body = if schema.is_null() {
            json!({ "description": what })
        } else {
            json!({ "description": what, "content": { "application/json": { "schema": schema } } })
        };
        all.insert((*status).to_owned(), body);
    }
    for status in ["400", "401", "403", "429", "500", "503"].iter().chain(problems) {
        all.insert(
            (*status).to_owned(),
            json!({ "$ref": "#/components/responses/Problem" }),
        );
    }
    Json::Object(all)
}

fn of(name: &str) -> Json {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn page(item: Json) -> Json {
    json!({
        "type": "object",
        "required": ["items", "next"],
        "properties": {
            "items": { "type": "array", "items": item },
            "next": { "type": ["string", "null"], "description": "the cursor of the next page; null after the last" },
        },
    })
}

fn parameter(name: &str) -> Json {
    json!({ "$ref": format!("#/components/parameters/{name}") })
}

fn body(schema: &str) -> Json {
    json!({ "required": true, "content": { "application/json": { "schema": of(schema) } } })
}

fn operation(
    id: &str,
    summary: &str,
    scope: &str,
    parameters: Vec<Json>,
    asks: Option<Json>,
    answers: Json,
) -> Json {
    let mut made = json!({
        "operationId": id,
        "summary": summary,
        "security": [{ "key": [scope] }],
        "parameters": parameters,
        "responses": answers,
    });
    if let (Some(members), Some(asks)) = (made.as_object_mut(), asks) {
        members.insert("requestBody".to_owned(), asks);
    }
    made
}

fn made() -> Json {
    let customer = || of("Customer");
    let none = Json::Null;
    let paged = || vec![parameter("limit"), parameter("cursor")];
    let one = || vec![parameter("id")];
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "open-crm",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Customers and segments of an open-crm platform.",
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "paths": {
            "/customers": {
                "get": operation("listCustomers", "Customers that match, page by page", "customers.read",
                    [paged(), ["filter", "order", "email", "phone"].map(parameter).to_vec()].concat(), None,
                    answers(&[("200", "a page", page(customer()))], &[])),
                "post": operation("createCustomer", "Makes a customer", "customers.write",
                    vec![parameter("key")], Some(body("NewCustomer")),
                    answers(&[("201", "the customer", customer())], &["409", "413", "415", "422"])),
            },
            "/customers/upsert": {
                "post": operation("upsertCustomer", "Finds or makes a customer", "customers.write",
                    vec![], Some(body("NewCustomer")),
                    answers(&[("200", "a known customer", customer()), ("201", "a new customer", customer())], &["409", "413", "415"])),
            },
            "/customers/batch": {
                "post": operation("batchCustomers", "Many changes, one answer each", "customers.write",
                    vec![parameter("key")], Some(body("Batch")),
                    answers(&[("200", "one answer an operation, in order", of("BatchAnswer"))], &["404", "409", "413", "415", "422"])),
            },
            "/customers/{id}": {
                "get": operation("getCustomer", "One customer", "customers.read",
                    [one(), vec![parameter("if_none_match")]].concat(), None,
                    answers(&[("200", "the customer", customer()), ("304", "as it was", none.clone())], &["404"])),
                "patch": operation("patchCustomer", "Changes what is named (RFC 7396)", "customers.write",
                    [one(), vec![parameter("if_match")]].concat(), Some(json!({
                        "required": true,
                        "content": {
                            "application/merge-patch+json": { "schema": of("CustomerPatch") },
                            "application/json": { "schema": of("CustomerPatch") },
                        },
                    })),
                    answers(&[("200", "the customer as it is now", customer())], &["404", "409", "412", "413", "415"])),
                "delete": operation("deleteCustomer", "Removes a customer with what belongs to it", "customers.delete",
                    [one(), vec![parameter("if_match")]].concat(), None,
                    answers(&[("204", "it is gone", none.clone())], &["404", "409", "412"])),
            },
            "/customers/{id}/timeline": {
                "get": operation("listInteractions", "What happened, the latest first", "customers.read",
                    [one(), paged()].concat(), None,
                    answers(&[("200", "a page", page(of("Interaction")))], &["404"])),
            },
            "/customers/{id}/orders": {
                "get": operation("listOrders", "What was bought, the latest first", "customers.read",
                    [one(), paged()].concat(), None,
                    answers(&[("200", "a page", page(of("Order")))], &["404"])),
            },
            "/customers/{id}/events": {
                "post": operation("appendEvents", "Adds orders and interactions, each once", "customers.write",
                    one(), Some(body("NewEvents")),
                    answers(&[("200", "what was new", of("Appended"))], &["404", "413", "415"])),
            },
            "/segments": {
                "get": operation("listSegments", "Segments by name", "segments.read", paged(), None,
                    answers(&[("200", "a page", page(of("Segment")))], &[])),
                "post": operation("createSegment", "Makes a segment", "segments.write", vec![], Some(body("NewSegment")),
                    answers(&[("201", "the segment", of("Segment"))], &["404", "409", "413", "415"])),
            },
            "/segments/{id}": {
                "get": operation("getSegment", "One segment, with the number of its members", "segments.read", one(), None,
                    answers(&[("200", "the segment", of("Segment"))], &["404"])),
                "delete": operation("deleteSegment", "Removes a segment", "segments.write",
                    [one(), vec![parameter("if_match")]].concat(), None,
                    answers(&[("204", "it is gone", none.clone())], &["404", "409", "412"])),
            },
            "/segments/{id}/members": {
                "get": operation("listMembers", "Ids of the members, page by page", "segments.read",
                    [one(), paged()].concat(), None,
                    answers(&[("200", "a page", page(json!({ "type": "string", "format": "uuid" })))], &["404"])),
                "post": operation("changeMembers", "Adds and removes members by hand", "segments.write",
                    one(), Some(body("MemberChanges")),
                    answers(&[("204", "done", none)], &["404", "409", "413", "415"])),
            },
        },
        "components": {
            "securitySchemes": { "key": { "type": "http", "scheme": "bearer", "description": "an API key" } },
            "parameters": parameters(),
            "responses": { "Problem": {
                "description": "what went wrong (RFC 9457)",
                "content": { "application/problem+json": { "schema": of("Problem") } },
            } },
            "schemas": schemas(),
        },
    })
}

fn parameters() -> Json {
    let query = |name: &str, what: &str, schema: Json| json!({ "name": name, "in": "query", "description": what, "schema": schema });
    let header = |name: &str, what: &str| json!({ "name": name, "in": "header", "description": what, "schema": { "type": "string" } });
    json!({
        "limit": query("limit", "how many at most", json!({ "type": "integer", "minimum": 1, "maximum": 1000, "default": 50 })),
        "cursor": query("cursor", "`next` of the page before", json!({ "type": "string" })),
        "filter": query("filter", "which, as text: `city = 'Tartu' and updated_at > 90 days ago`", json!({ "type": "string" })),
        "order": query("order", "fields with commas between, `-` before those with the largest first", json!({ "type": "string" })),
        "email": query("email", "the customer of this e-mail address", json!({ "type": "string" })),
        "phone": query("phone", "the customer of this phone number", json!({ "type": "string" })),
        "id": { "name": "id", "in": "path", "required": true, "schema": { "type": "string", "format": "uuid" } },
        "key": { "name": "Idempotency-Key", "in": "header", "description": "the same key with the same body is carried out once",
            "schema": { "type": "string", "minLength": 1, "maxLength": 255 } },
        "if_match": header("If-Match", "the entity tag the change is based on"),
        "if_none_match": header("If-None-Match", "the entity tag the caller has"),
    })
}

fn schemas() -> Json {
    let text = || json!({ "type": "string" });
    let named = || json!({ "type": "string", "minLength": 1, "maxLength": 255 });
    let texts = || json!({ "type": "array", "items": { "type": "string" } });
    let uuid = || json!({ "type": "string", "format": "uuid" });
    let time = || json!({ "type": "string", "format": "date-time" });
    let or_null = |schema: Json| json!({ "anyOf": [schema, { "type": "null" }] });
    let list = |name: &str| json!({ "type": "array", "items": of(name) });
    let attributes = || json!({ "type": "object", "propertyNames": { "pattern": "^[a-z][a-z0-9_]{0,63}$" } });
    let ids = || json!({ "type": "array", "items": { "type": "string", "format": "uuid" } });
    json!({
        "Name": { "type": "object", "properties": { "given": text(), "family": text(), "display": text() } },
        "PostalAddress": { "type": "object", "properties": {
            "lines": texts(), "city": text(), "region": text(), "postal_code": text(), "country": text() } },
        "ExternalRef": { "type": "object", "required": ["system", "id"], "properties": { "system": text(), "id": text() } },
        "NewCustomer": { "type": "object", "additionalProperties": false, "properties": {
            "name": or_null(json!({ "oneOf": [text(), of("Name")] })), "email": or_null(text()), "phone": or_null(text()),
            "emails": texts(), "phones": texts(), "phone_region": or_null(text()), "addresses": list("PostalAddress"),
            "external_refs": list("ExternalRef"), "tags": texts(), "attributes": attributes(), "source": or_null(named()) } },
        "CustomerPatch": { "type": "object", "additionalProperties": false, "properties": {
            "name": or_null(json!({ "oneOf": [text(), of("Name")] })), "emails": or_null(texts()), "phones": or_null(texts()),
            "addresses": or_null(list("PostalAddress")), "external_refs": or_null(list("ExternalRef")),
            "tags": or_null(texts()), "attributes": or_null(attributes()) } },
        "Customer": { "type": "object",
            "required": ["id", "version", "name", "contact_points", "addresses", "external_refs", "tags", "attributes",
                "provenance", "created_at", "updated_at"],
            "properties": {
                "id": uuid(), "version": { "type": "integer", "minimum": 1 }, "name": of("Name"),
                "email": or_null(text()), "phone": or_null(text()),
                "contact_points": { "type": "array", "items": { "type": "object" } },
                "addresses": list("PostalAddress"), "external_refs": list("ExternalRef"), "tags": texts(),
                "attributes": { "type": "object" }, "provenance": { "type": "array", "items": { "type": "object" } },
                "known_from": { "type": "object" }, "created_at": time(), "updated_at": time() } },
        "Batch": { "type": "object", "additionalProperties": false, "required": ["mode", "ops"], "properties": {
            "mode": { "enum": ["per_item", "all_or_nothing"] },
            "ops": { "type": "array", "maxItems": 1000, "items": { "type": "object" } } } },
        "BatchAnswer": { "type": "object", "required": ["items"], "properties": { "items": { "type": "array", "items": {
            "oneOf": [
                { "type": "object", "required": ["done"], "description": "what was done" },
                { "type": "object", "required": ["problem"], "properties": { "problem": of("Problem") } },
            ] } } } },
        "NewOrder": { "type": "object", "required": ["event_id", "at", "total", "items"], "properties": {
            "event_id": named(), "at": time(), "total": of("Money"), "items": { "type": "integer" } } },
        "NewInteraction": { "type": "object", "required": ["event_id", "at", "kind"], "properties": {
            "event_id": named(), "at": time(), "kind": named(), "data": { "type": "object" } } },
        "NewEvents": { "type": "object", "required": ["source"], "properties": {
            "source": named(), "orders": list("NewOrder"), "interactions": list("NewInteraction") } },
        "Money": { "type": "object", "required": ["minor", "currency"], "properties": {
            "minor": { "type": "integer", "description": "hundredths" },
            "currency": { "type": "string", "pattern": "^[A-Z]{3}$" } } },
        "Order": { "type": "object", "required": ["id", "customer_id", "at", "total", "items", "source", "event_id"] },
        "Interaction": { "type": "object", "required": ["id", "customer_id", "at", "kind", "source", "event_id", "data"] },
        "Appended": { "type": "object", "required": ["orders", "interactions", "known"] },
        "NewSegment": { "type": "object", "additionalProperties": false, "required": ["name"], "properties": {
            "name": { "type": "string", "minLength": 1 }, "description": text(), "filter": or_null(text()) } },
        "Segment": { "type": "object", "required": ["id", "version", "name", "description", "kind", "created_at"], "properties": {
            "id": uuid(), "version": { "type": "integer" }, "name": text(), "description": text(),
            "kind": { "enum": ["manual", "dynamic", "snapshot"] }, "filter": or_null(text()),
            "members": { "type": "integer" }, "created_at": time() } },
        "MemberChanges": { "type": "object", "additionalProperties": false, "properties": {
            "add": ids(), "remove": ids(), "release": ids() } },
        "Problem": { "type": "object", "required": ["type", "title", "status", "detail", "kind", "retry", "effect"], "properties": {
            "type": { "type": "string", "format": "uri" }, "title": text(), "status": { "type": "integer" }, "detail": text(),
            "kind": text(), "effect": { "enum": ["none", "unknown"] },
            "retry": { "type": "object", "required": ["allowed"], "properties": {
                "allowed": { "type": "boolean" }, "after_ms": { "type": ["integer", "null"] } } } } },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_leads_somewhere_and_every_operation_has_a_name_of_its_own() {
        fn walk(json: &Json, see: &mut dyn FnMut(&str, &Json)) {
            match json {
                Json::Object(members) => {
                    for (key, value) in members {
                        see(key, value);
                        walk(value, see);
                    }
                }
                Json::Array(items) => items.iter().for_each(|item| walk(item, see)),
                _ => {}
            }
        }
        let (mut references, mut names) = (Vec::new(), Vec::new());
        walk(openapi(), &mut |key, value| match (key, value.as_str()) {
            ("$ref", Some(to)) => references.push(to.to_owned()),
            ("operationId", Some(name)) => names.push(name.to_owned()),
            _ => {}
        });
        assert!(references.len() > 50 && names.len() > 15);
        for to in references {
            let pointer = to.strip_prefix('#').expect("within the document");
            assert!(openapi().pointer(pointer).is_some(), "{to}");
        }
        let all = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
