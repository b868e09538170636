//! The REST interface over a real socket, spoken to with bytes.

mod asked;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use crm_core::access::{ApiKeys, NewKey};
use crm_core::capability::{Principal, Scope};
use crm_core::memory::MemoryStore;
use crm_core::{Actor, Context, RandomIds, Secret, SystemClock, TenantId};
use crm_store::Customers;
use crm_store::api::RestApi;
use serde_json::{Value as Json, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

struct Server {
    address: SocketAddr,
    keys: ApiKeys,
}

struct Reply {
    status: u16,
    headers: BTreeMap<String, String>,
    body: String,
}

impl Reply {
    fn json(&self) -> Json {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
    /// A problem of this status and kind.
    #[track_caller]
    fn is_problem(&self, status: u16, kind: &str) -> Json {
        assert_eq!(self.status, status, "{}", self.body);
        assert_eq!(self.header("content-type"), "application/problem+json");
        let json = self.json();
        assert_eq!(
            (&json["kind"], &json["status"]),
            (&json!(kind), &json!(status)),
            "{json}"
        );
        json
    }
}

impl Server {
    async fn start() -> Self {
        Self::start_with(axum::Router::new()).await
    }

    /// With routes of the test's own beside.
    async fn start_with(more: axum::Router) -> Self {
        let store = Arc::new(MemoryStore::new("records"));
        let customers = Customers::new(store.clone(), SystemClock::shared(), RandomIds::shared());
        let pepper = Secret::new("a pepper of more than thirty-two bytes, for tests");
        let keys =
            || ApiKeys::new(store.clone(), SystemClock::shared(), RandomIds::shared(), &pepper).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = RestApi::new(customers, Arc::new(keys())).router().merge(more);
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self {
            address,
            keys: keys(),
        }
    }

    async fn key(&self, tenant: &str, scopes: &[&str]) -> String {
        let ctx = Context::new(TenantId::new(tenant).unwrap());
        let new = NewKey::new("test", scopes.iter().copied()).unwrap();
        self.keys
            .issue(&ctx, new)
            .await
            .unwrap()
            .token
            .expose()
            .to_owned()
    }

    async fn send(&self, text: &str) -> Reply {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").expect("a whole answer");
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap();
        Reply {
            status: status.parse().unwrap(),
            headers: lines
                .filter_map(|line| line.split_once(": "))
                .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
                .collect(),
            body: body.to_owned(),
        }
    }

    async fn ask(&self, key: &str, request: &str, more: &str, body: Option<&Json>) -> Reply {
        let body = body.map(Json::to_string).unwrap_or_default();
        let kind = if body.is_empty() || more.to_ascii_lowercase().contains("content-type") {
            ""
        } else {
            "Content-Type: application/json\r\n"
        };
        self.send(&format!(
            "{request} HTTP/1.1\r\nHost: crm\r\nConnection: close\r\nAuthorization: Bearer {key}\r\n{kind}{more}\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        ))
        .await
    }

    async fn post(&self, key: &str, path: &str, body: &Json) -> Reply {
        self.ask(key, &format!("POST {path}"), "", Some(body)).await
    }

    async fn get(&self, key: &str, path: &str) -> Reply {
        self.ask(key, &format!("GET {path}"), "", None).await
    }
}

#[tokio::test]
async fn a_name_and_an_address_make_a_customer() {
    let server = Server::start().await;
    let key = server.key("shop", &["customers.*"]).await;
    let made = server
        .post(
            &key,
            "/customers",
            &json!({ "name": "Ana Kask", "email": " Ana@Example.COM " }),
        )
        .await;
    assert_eq!(made.status, 201, "{}", made.body);
    let customer = made.json();
    assert_eq!(customer["email"], "ana@example.com");
    assert_eq!(customer["name"]["family"], "Kask");
    let id = customer["id"].as_str().unwrap();
    assert_eq!(made.header("location"), format!("/customers/{id}"));
    assert_eq!(made.header("etag"), "\"v1\"");

    let got = server.get(&key, &format!("/customers/{id}")).await;
    assert_eq!((got.status, got.json()), (200, customer.clone()));
    let again = server
        .ask(
            &key,
            &format!("GET /customers/{id}"),
            "If-None-Match: \"v1\"\r\n",
            None,
        )
        .await;
    assert_eq!((again.status, again.body.as_str()), (304, ""));

    let known = server
        .post(&key, "/customers", &json!({ "email": "ana@example.com" }))
        .await;
    assert_eq!(known.is_problem(409, "conflict")["customer_id"], customer["id"]);
    let found = server
        .get(&key, "/customers?email=ANA%40example.com")
        .await
        .json();
    assert_eq!(found["items"][0]["id"], customer["id"]);
}

#[tokio::test]
async fn nobody_gets_in_who_should_not() {
    let server = Server::start().await;
    let (reader, writer, other) = (
        server.key("shop", &["customers.read"]).await,
        server.key("shop", &["customers.write"]).await,
        server.key("other", &["*.*"]).await,
    );
    let id = server
        .post(&writer, "/customers", &json!({ "email": "a@example.com" }))
        .await
        .json()["id"]
        .clone();
    let id = id.as_str().unwrap();
    for authorization in [
        "",
        "Authorization: Bearer x\r\n",
        "Authorization: Basic !!\r\n",
        "Authorization: Digest x\r\n",
    ] {
        let text =
            format!("GET /customers HTTP/1.1\r\nHost: crm\r\nConnection: close\r\n{authorization}\r\n");
        let refused = server.send(&text).await;
        refused.is_problem(401, "unauthenticated");
        assert!(refused.header("www-authenticate").starts_with("Bearer"));
    }
    for (key, request, status) in [
        (&reader, "POST /customers".to_owned(), 403),
        (&reader, format!("DELETE /customers/{id}"), 403),
        (&writer, format!("GET /customers/{id}"), 403),
        (&writer, format!("DELETE /customers/{id}"), 403),
        (&reader, "GET /segments".to_owned(), 403),
        (&other, format!("GET /customers/{id}"), 404),
        (&other, format!("DELETE /customers/{id}"), 404),
        (&reader, format!("GET /customers/{id}"), 200),
    ] {
        let answer = server.ask(key, &request, "", Some(&json!({}))).await;
        assert_eq!(answer.status, status, "{request}: {}", answer.body);
    }
    assert_eq!(
        server.get(&other, "/customers").await.json()["items"],
        json!([]),
        "not of another tenant"
    );
}

#[tokio::test]
async fn what_is_wrong_is_named_and_values_are_not_repeated() {
    let server = Server::start().await;
    let key = server.key("shop", &["*.*"]).await;
    for (body, field) in [
        (json!({ "email": "no-address-secret" }), "email"),
        (json!({ "emial": "secret@example.com" }), "emial"),
        (
            json!({ "name": "A", "attributes": { "Not A Name": "secret" } }),
            "",
        ),
    ] {
        let refused = server.post(&key, "/customers", &body).await;
        let problem = refused.is_problem(400, "invalid");
        if !field.is_empty() {
            assert_eq!(problem["field"], field);
        }
        assert!(!refused.body.contains("secret"), "{}", refused.body);
    }
    for (path, member, value) in [
        ("/customers?fliter=all", "parameter", "fliter"),
        ("/customers?filter=nmae+%3D+%27secret%27", "parameter", "filter"),
        ("/customers?limit=0", "parameter", "limit"),
        ("/customers?cursor=secret", "parameter", "cursor"),
        ("/customers?order=nothing", "parameter", "order"),
        ("/customers?limit=1&limit=2", "parameter", "limit"),
    ] {
        let refused = server.get(&key, path).await;
        assert_eq!(refused.is_problem(400, "invalid")[member], value, "{path}");
        assert!(!refused.body.contains("secret"), "{}", refused.body);
    }
    for body in [json!([null, null]), json!("Ana"), json!(null)] {
        let refused = server.post(&key, "/customers", &body).await;
        refused.is_problem(400, "invalid");
    }
    let plain = "Content-Type: text/plain\r\n";
    let refused = server.ask(&key, "POST /customers", plain, Some(&json!({}))).await;
    assert_eq!(refused.status, 415);
    server.get(&key, "/nothing").await.is_problem(404, "not-found");
    server
        .get(&key, "/customers/not-an-id")
        .await
        .is_problem(404, "not-found");
    assert_eq!(server.ask(&key, "PUT /customers", "", None).await.status, 405);
}

#[tokio::test]
async fn changes_are_based_on_what_was_read() {
    let server = Server::start().await;
    let key = server.key("shop", &["*.*"]).await;
    let said = json!({ "name": { "given": "Ana", "family": "Kask" }, "emails": ["a@example.com", "b@example.com"],
        "tags": ["vip"], "attributes": { "plan": { "name": "pro", "seats": 3 }, "age": 30 } });
    let made = server.post(&key, "/customers", &said).await.json();
    let path = format!("/customers/{}", made["id"].as_str().unwrap());
    let patch = json!({ "emails": ["b@example.com", "c@example.com"], "tags": null,
        "attributes": { "plan": { "seats": null, "term": "year" }, "age": null } });
    let merge = "Content-Type: application/merge-patch+json\r\n";
    let stale = server
        .ask(
            &key,
            &format!("PATCH {path}"),
            &format!("{merge}If-Match: \"v9\"\r\n"),
            Some(&patch),
        )
        .await;
    stale.is_problem(412, "conflict");
    let changed = server
        .ask(
            &key,
            &format!("PATCH {path}"),
            &format!("{merge}If-Match: \"v1\"\r\n"),
            Some(&patch),
        )
        .await;
    assert_eq!(changed.status, 200, "{}", changed.body);
    assert_eq!(changed.header("etag"), "\"v2\"");
    let now = changed.json();
    let values: Vec<_> = now["contact_points"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p["id"].clone())
        .collect();
    assert_eq!(values.len(), 2);
    assert_eq!(now["email"], "b@example.com");
    assert!(
        made["contact_points"]
            .as_array()
            .unwrap()
            .iter()
            .any(|point| values.contains(&point["id"])),
        "the address that stayed is the same contact point"
    );
    assert_eq!(now["tags"], json!([]));
    assert_eq!(
        now["attributes"],
        json!({ "plan": { "name": "pro", "term": "year" } })
    );
    assert_eq!(now["name"], made["name"], "what was not named stays");

    let gone = server
        .ask(&key, &format!("DELETE {path}"), "If-Match: \"v1\"\r\n", None)
        .await;
    assert_eq!(gone.status, 412);
    assert_eq!(
        server
            .ask(&key, &format!("DELETE {path}"), "If-Match: \"v2\"\r\n", None)
            .await
            .status,
        204
    );
    server.get(&key, &path).await.is_problem(404, "not-found");
}

#[tokio::test]
async fn a_request_that_comes_twice_is_carried_out_once() {
    let server = Server::start().await;
    let key = server.key("shop", &["*.*"]).await;
    let said = json!({ "name": "Bo", "email": "bo@example.com" });
    let once = "Idempotency-Key: \"k-1\"\r\n";
    let first = server.ask(&key, "POST /customers", once, Some(&said)).await;
    let second = server.ask(&key, "POST /customers", once, Some(&said)).await;
    assert_eq!((first.status, second.status), (201, 201), "{}", second.body);
    assert_eq!(first.json()["id"], second.json()["id"]);
    assert_eq!(
        (
            first.header("idempotency-replayed"),
            second.header("idempotency-replayed")
        ),
        ("", "true")
    );
    let other = json!({ "email": "cy@example.com" });
    let reused = server.ask(&key, "POST /customers", once, Some(&other)).await;
    reused.is_problem(422, "conflict");
    assert_eq!(
        server.get(&key, "/customers").await.json()["items"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[tokio::test]
async fn pages_filters_events_and_segments() {
    let server = Server::start().await;
    let key = server.key("shop", &["*.*"]).await;
    for n in 0..5 {
        let city = if n < 3 { "Tartu" } else { "Narva" };
        let said =
            json!({ "email": format!("c{n}@example.com"), "addresses": [{ "city": city, "country": "EE" }] });
        assert_eq!(server.post(&key, "/customers", &said).await.status, 201);
    }
    let (mut path, mut seen) = (
        "/customers?filter=city+%3D+%27Tartu%27&order=-created_at&limit=2".to_owned(),
        Vec::new(),
    );
    loop {
        let page = server.get(&key, &path).await.json();
        seen.extend(
            page["items"]
                .as_array()
                .unwrap()
                .iter()
                .map(|c| c["email"].as_str().unwrap().to_owned()),
        );
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/customers?filter=city+%3D+%27Tartu%27&order=-created_at&limit=2&cursor={next}");
    }
    assert_eq!(seen, ["c2@example.com", "c1@example.com", "c0@example.com"]);

    let all = server.get(&key, "/customers").await.json();
    let id = all["items"][0]["id"].as_str().unwrap().to_owned();
    let told = json!({ "source": "shop", "orders": [{ "event_id": "o-1", "at": "2026-01-31T00:00:00Z",
        "total": { "minor": 2933, "currency": "EUR" }, "items": 2 }] });
    for (orders, known) in [(1, 0), (0, 1)] {
        let done = server
            .post(&key, &format!("/customers/{id}/events"), &told)
            .await
            .json();
        assert_eq!((&done["orders"], &done["known"]), (&json!(orders), &json!(known)));
    }
    let nameless = json!({ "source": "shop", "interactions": [{ "event_id": "i-1", "at": "2026-01-31T00:00:00Z", "kind": "" }] });
    let refused = server
        .post(&key, &format!("/customers/{id}/events"), &nameless)
        .await;
    assert_eq!(refused.is_problem(400, "invalid")["field"], "kind");
    let orders = server.get(&key, &format!("/customers/{id}/orders")).await.json();
    assert_eq!(orders["items"][0]["total"]["minor"], 2933);

    let said = json!({ "name": "buyers", "filter": "count(order where currency = 'EUR') >= 1" });
    let segment = server.post(&key, "/segments", &said).await;
    assert_eq!(segment.status, 201, "{}", segment.body);
    let place = segment.header("location").to_owned();
    assert_eq!(segment.json()["filter"], said["filter"]);
    assert_eq!(server.get(&key, &place).await.json()["members"], 1);
    assert_eq!(
        server.get(&key, &format!("{place}/members")).await.json()["items"],
        json!([id])
    );
    let another = all["items"][1]["id"].clone();
    let by_hand = json!({ "add": [another] });
    assert_eq!(
        server
            .post(&key, &format!("{place}/members"), &by_hand)
            .await
            .status,
        204
    );
    assert_eq!(server.get(&key, &place).await.json()["members"], 2);
    server
        .post(&key, "/segments", &said)
        .await
        .is_problem(409, "conflict");
    assert_eq!(
        server
            .ask(&key, &format!("DELETE {place}"), "", None)
            .await
            .status,
        204
    );
    server.get(&key, &place).await.is_problem(404, "not-found");
}

#[tokio::test]
async fn many_changes_each_for_itself_or_all_or_nothing() {
    let server = Server::start().await;
    let key = server.key("shop", &["customers.*"]).await;
    let draft = |email: &str| json!({ "upsert": { "provenance": { "source": "form", "observed_at": "2026-01-31T00:00:00Z" }, "emails": [email] } });
    let ops = json!([draft("a@example.com"), draft("nobody")]);
    let each = server
        .post(
            &key,
            "/customers/batch",
            &json!({ "mode": "per_item", "ops": ops }),
        )
        .await
        .json();
    assert!(each["items"][0]["done"]["upserted"]["id"].is_string(), "{each}");
    assert_eq!(each["items"][1]["problem"]["field"], "email");
    let whole = json!({ "mode": "all_or_nothing", "ops": [draft("b@example.com"), draft("nobody")] });
    let all = server.post(&key, "/customers/batch", &whole).await;
    assert_eq!(all.is_problem(400, "invalid")["item"], "1");
    assert_eq!(
        server.get(&key, "/customers").await.json()["items"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[tokio::test]
async fn a_host_nests_it_and_says_itself_who_asks() {
    let store = Arc::new(MemoryStore::new("records"));
    let customers = Customers::new(store.clone(), SystemClock::shared(), RandomIds::shared());
    let pepper = Secret::new("a pepper of more than thirty-two bytes, for tests");
    let keys = || ApiKeys::new(store.clone(), SystemClock::shared(), RandomIds::shared(), &pepper).unwrap();
    let known = Principal {
        tenant: TenantId::new("shop").unwrap(),
        actor: Actor::User("ana".into()),
        scopes: [Scope::new("customers.*").unwrap()].into(),
    };
    let inner = RestApi::new(customers, Arc::new(keys())).router();
    let app = axum::Router::new()
        .nest("/crm/v1", inner)
        .layer(axum::Extension(known));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    let server = Server {
        address,
        keys: keys(),
    };
    let said = json!({ "email": "a@example.com" });
    for path in ["/crm/v1/customers", "/crm/v1/customers/upsert"] {
        let made = server.post("nothing that holds", path, &said).await;
        let id = made.json()["id"].as_str().unwrap().to_owned();
        assert_eq!(made.header("location"), format!("/crm/v1/customers/{id}"));
        let place = made.header("location").to_owned();
        assert_eq!(server.get("", &place).await.json()["id"], id.as_str());
    }
    let refused = server.get("", "/crm/v1/segments").await;
    refused.is_problem(403, "permission-denied");
}

#[tokio::test]
async fn the_interface_describes_itself() {
    let server = Server::start().await;
    let described = server.get("", "/openapi.json").await;
    assert_eq!(described.status, 200);
    assert_eq!(described.json()["openapi"], "3.1.0");
    let page = server.get("", "/docs").await;
    assert_eq!(
        (page.status, page.header("content-type")),
        (200, "text/html; charset=utf-8")
    );
    assert!(
        page.header("content-security-policy")
            .starts_with("default-src 'none'")
    );
    assert!(!page.body.contains("http"), "nothing comes from elsewhere");
    // Each route that is described is there: without credentials it answers 401, not 404 or 405.
    let json = described.json();
    for (path, operations) in json["paths"].as_object().unwrap() {
        for method in operations.as_object().unwrap().keys() {
            let path = path.replace("{id}", "018f0000-0000-7000-8000-000000000000");
            let text = format!(
                "{} {path} HTTP/1.1\r\nHost: crm\r\nConnection: close\r\n\r\n",
                method.to_uppercase()
            );
            assert_eq!(server.send(&text).await.status, 401, "{method} {path}");
        }
    }
}
