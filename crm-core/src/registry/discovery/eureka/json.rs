//! The protocol in JSON.

use serde_json::{Map, Value, json};

use super::model::{App, Apps, DataCenter, Info, Lease, Port, TEXTS, put};
use super::order;

const PLAIN_CENTER: &str = "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo";
const AMAZON_CENTER: &str = "com.netflix.appinfo.AmazonInfo";
const EMPTY_MAP: &str = "java.util.Collections$EmptyMap";

/// Text of JSON, with the fields in the order they are put in.
struct Object(String);

impl Object {
    fn new() -> Self {
        Self("{".to_owned())
    }
    fn raw(&mut self, key: &str, value: &str) -> &mut Self {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        self.0.push_str(&json!(key).to_string());
        self.0.push(':');
        self.0.push_str(value);
        self
    }
    fn text(&mut self, key: &str, value: &str) -> &mut Self {
        self.raw(key, &json!(value).to_string())
    }
    fn number(&mut self, key: &str, value: i64) -> &mut Self {
        self.raw(key, &value.to_string())
    }
    fn end(&mut self) -> String {
        self.0.push('}');
        std::mem::take(&mut self.0)
    }
}

fn port(port: Port) -> String {
    Object::new()
        .number("$", port.number.into())
        .text("@enabled", if port.enabled { "true" } else { "false" })
        .end()
}

fn map(pairs: &[(String, String)]) -> String {
    let mut object = Object::new();
    for (key, value) in pairs {
        object.text(key, value);
    }
    object.end()
}

fn center(center: &DataCenter) -> String {
    let name = center.name.as_deref().unwrap_or_default();
    let mut object = Object::new();
    object.text(
        "@class",
        if name == "Amazon" {
            AMAZON_CENTER
        } else {
            PLAIN_CENTER
        },
    );
    object.text("name", name);
    if name == "Amazon" {
        object.raw("metadata", &map(&center.metadata));
    }
    object.end()
}

/// An instance as the server writes it.
pub(super) fn instance(info: &Info) -> String {
    let mut object = Object::new();
    if let Some(id) = &info.instance_id {
        object.text("instanceId", id);
    }
    for (key, value) in [("hostName", &info.host), ("app", &info.app), ("ipAddr", &info.ip)] {
        object.text(key, value.as_deref().unwrap_or_default());
    }
    if let Some(sid) = info
        .sid
        .as_deref()
        .filter(|sid| !matches!(*sid, "na" | "unknown"))
    {
        object.text("sid", sid);
    }
    object
        .text("status", info.status.as_str())
        .text("overriddenStatus", info.overridden.as_str())
        .raw("port", &port(info.port))
        .raw("securePort", &port(info.secure_port))
        .number("countryId", info.country);
    if let Some(data_center) = &info.data_center {
        object.raw("dataCenterInfo", &center(data_center));
    }
    let Lease {
        renewal_secs,
        duration_secs,
        registered,
        renewed,
        evicted,
        up,
    } = info.lease;
    let lease = Object::new()
        .number("renewalIntervalInSecs", renewal_secs)
        .number("durationInSecs", duration_secs)
        .number("registrationTimestamp", registered)
        .number("lastRenewalTimestamp", renewed)
        .number("evictionTimestamp", evicted)
        .number("serviceUpTimestamp", up)
        .end();
    object.raw("leaseInfo", &lease);
    let metadata = if info.metadata.is_empty() {
        Object::new().text("@class", EMPTY_MAP).end()
    } else {
        let mut pairs = info.metadata.clone();
        order::by_trie(&mut pairs, |(key, _)| key);
        map(&pairs)
    };
    object.raw("metadata", &metadata);
    let (last, first) = (TEXTS.len() - 1, &info.texts);
    for (key, value) in TEXTS.iter().zip(first).take(last) {
        if let Some(value) = value {
            object.text(key, value);
        }
    }
    object
        .text(
            "isCoordinatingDiscoveryServer",
            if info.coordinating { "true" } else { "false" },
        )
        .text("lastUpdatedTimestamp", &info.last_updated.to_string())
        .text("lastDirtyTimestamp", &info.last_dirty.to_string());
    if let Some(action) = info.action {
        object.text("actionType", action.as_str());
    }
    if let (Some(key), Some(Some(value))) = (TEXTS.last(), info.texts.last()) {
        object.text(key, value);
    }
    object.end()
}

/// An instance as a client writes it when it registers: without what the server decides.
pub(super) fn registration(info: &Info) -> String {
    let mut object = Object::new();
    for (key, value) in [
        ("instanceId", &info.instance_id),
        ("hostName", &info.host),
        ("app", &info.app),
        ("ipAddr", &info.ip),
    ] {
        object.text(key, value.as_deref().unwrap_or_default());
    }
    object
        .text("status", info.status.as_str())
        .text("overriddenstatus", info.overridden.as_str())
        .raw("port", &port(info.port))
        .raw("securePort", &port(info.secure_port))
        .number("countryId", info.country);
    if let Some(data_center) = &info.data_center {
        object.raw("dataCenterInfo", &center(data_center));
    }
    let lease = Object::new()
        .number("renewalIntervalInSecs", info.lease.renewal_secs)
        .number("durationInSecs", info.lease.duration_secs)
        .end();
    object
        .raw("leaseInfo", &lease)
        .raw("metadata", &map(&info.metadata));
    for (key, value) in TEXTS.iter().zip(&info.texts) {
        if let Some(value) = value {
            object.text(key, value);
        }
    }
    object
        .text("lastUpdatedTimestamp", &info.last_updated.to_string())
        .text("lastDirtyTimestamp", &info.last_dirty.to_string());
    Object::new().raw("instance", &object.end()).end()
}

/// `{"instance": ...}`.
pub(super) fn one(info: &Info) -> String {
    Object::new().raw("instance", &instance(info)).end()
}

fn app_body(app: &App) -> String {
    let instances: Vec<String> = app.instances.iter().map(instance).collect();
    Object::new()
        .text("name", &app.name)
        .raw("instance", &format!("[{}]", instances.join(",")))
        .end()
}

/// `{"application": ...}`.
pub(super) fn app(app: &App) -> String {
    Object::new().raw("application", &app_body(app)).end()
}

/// `{"applications": ...}`.
pub(super) fn apps(apps: &Apps) -> String {
    let list: Vec<String> = apps.apps.iter().map(app_body).collect();
    let body = Object::new()
        .text("versions__delta", &apps.version.to_string())
        .text("apps__hashcode", &apps.hash)
        .raw("application", &format!("[{}]", list.join(",")))
        .end();
    Object::new().raw("applications", &body).end()
}

/// A scalar as text, however it was written; `None` for null, lists and objects.
fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        _ => None,
    }
}

fn whole(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

fn read_port(value: &Value, port: &mut Port) -> Option<()> {
    let fields = value.as_object()?;
    if let Some(number) = fields.get("$") {
        port.number = whole(number).and_then(|n| n.try_into().ok()).unwrap_or(0);
    }
    if let Some(enabled) = fields.get("@enabled") {
        port.enabled = scalar(enabled).is_some_and(|text| text.eq_ignore_ascii_case("true"));
    }
    Some(())
}

fn read_map(fields: &Map<String, Value>) -> Option<Vec<(String, String)>> {
    let mut pairs = Vec::new();
    for (key, value) in fields {
        if let Some(value) = scalar(value)
            && !(key == "@class" && value == EMPTY_MAP)
            && !put(&mut pairs, key.clone(), value)
        {
            return None;
        }
    }
    Some(pairs)
}

/// Reads one; `None` when it is not of this form.
fn read_info(value: &Value, now_ms: i64) -> Option<Info> {
    let mut info = Info::blank(now_ms);
    for (key, value) in value.as_object()? {
        match key.as_str() {
            _ if value.is_null() => {}
            "port" => read_port(value, &mut info.port)?,
            "securePort" => read_port(value, &mut info.secure_port)?,
            "leaseInfo" => {
                for (key, value) in value.as_object()? {
                    if let Some(number) = whole(value) {
                        info.set_lease(key, number);
                    }
                }
            }
            "metadata" => info.metadata = read_map(value.as_object()?)?,
            "dataCenterInfo" => {
                let fields = value.as_object()?;
                let name = match fields.get("name") {
                    None | Some(Value::Null) => None,
                    Some(name) => Some(
                        name.as_str()
                            .filter(|n| matches!(*n, "Netflix" | "Amazon" | "MyOwn"))?
                            .to_owned(),
                    ),
                };
                let metadata = match fields.get("metadata").and_then(Value::as_object) {
                    Some(fields) => read_map(fields)?,
                    None => Vec::new(),
                };
                info.data_center = Some(DataCenter { name, metadata });
            }
            key => {
                if let Some(text) = scalar(value) {
                    info.set_plain(key, text);
                }
            }
        }
    }
    Some(info)
}

/// Reads `{"instance": ...}`; `None` when it is not of this form.
pub(super) fn read_one(body: &[u8], now_ms: i64) -> Option<Info> {
    let value: Value = serde_json::from_slice(body).ok()?;
    read_info(value.get("instance")?, now_ms)
}

/// A list; a list of one may be written as that one.
fn list(value: Option<&Value>) -> Option<&[Value]> {
    match value {
        None | Some(Value::Null) => Some(&[]),
        Some(Value::Array(items)) => Some(items),
        Some(one @ Value::Object(_)) => Some(std::slice::from_ref(one)),
        Some(_) => None,
    }
}

/// Reads `{"applications": ...}` with at most `most` instances; `None` when it is not of this form. An instance that
/// cannot be read is left out, and missed by whoever compares the hash.
pub(super) fn read_apps(body: &[u8], most: usize) -> Option<Apps> {
    let value: Value = serde_json::from_slice(body).ok()?;
    let fields = value.get("applications")?.as_object()?;
    let mut apps = Vec::new();
    let mut count = 0;
    for item in list(fields.get("application"))? {
        let name = item.get("name").and_then(scalar)?.to_uppercase();
        let mut instances = Vec::new();
        for item in list(item.get("instance"))? {
            count += 1;
            if count > most {
                return None;
            }
            if let Some(info) = read_info(item, 0)
                && info.id().is_some()
            {
                instances.push(info);
            }
        }
        apps.push(App { name, instances });
    }
    Some(Apps {
        version: fields.get("versions__delta").and_then(whole).unwrap_or(-1),
        hash: fields.get("apps__hashcode").and_then(scalar).unwrap_or_default(),
        apps,
    })
}
