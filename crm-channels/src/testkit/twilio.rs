use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crm_core::Result;
use crm_core::capability::WebhookRequest;
use crm_core::http::HttpConfig;
use ring::hmac;
use serde_json::json;
use url::Url;

use super::server::{Fault, Heard, Reply, VendorServer, lock};
use crate::exchange::{basic, form};

/// A message or call that the fake took.
#[derive(Debug, Clone)]
pub struct TakenByTwilio {
    /// The identifier it gave: `SM...` or `CA...`.
    pub sid: String,
    /// The parameters it was given, decoded, in order.
    pub fields: Vec<(String, String)>,
}

impl TakenByTwilio {
    /// The first parameter of this name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.fields
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }
}

#[derive(Default)]
struct State {
    taken: Vec<TakenByTwilio>,
    opted_out: BTreeSet<String>,
}

/// A server that takes messages and calls as Twilio does: checks credentials and parameters, refuses with Twilio's own
/// codes, keeps what it took, shows it when asked, and makes the callbacks, signed.
///
/// It knows one account, [`FakeTwilio::ACCOUNT`]. Numbers that Twilio reserves for tests behave as documented
/// (twilio.com/docs/iam/test-credentials): `+15005550001` is not valid, `+15005550009` cannot get messages.
pub struct FakeTwilio {
    server: VendorServer,
    token: String,
    state: Arc<Mutex<State>>,
}

impl FakeTwilio {
    /// The account it knows.
    pub const ACCOUNT: &'static str = "AC00000000000000000000000000000000";
    /// A number of that account's.
    pub const NUMBER: &'static str = "+15005550006";

    /// Starts it with this auth token.
    ///
    /// # Errors
    /// As [`VendorServer::start`].
    pub async fn start(token: &str) -> Result<Self> {
        let state = Arc::new(Mutex::new(State::default()));
        let (of_server, key) = (state.clone(), basic(Self::ACCOUNT, token));
        let server = VendorServer::start(move |heard| answer(&mut lock(&of_server), &key, heard)).await?;
        Ok(Self {
            server,
            token: token.to_owned(),
            state,
        })
    }

    /// Where it listens: the setting `base_url`.
    pub fn url(&self) -> Url {
        self.server.url()
    }

    /// Settings with which a client may call it: the setting `http`.
    pub fn http(&self) -> HttpConfig {
        self.server.http()
    }

    /// What goes wrong with the next request.
    pub fn fault(&self, fault: Fault) {
        self.server.fault(fault);
    }

    /// Makes it refuse messages to this number as one that has opted out (21610).
    pub fn opt_out(&self, number: &str) {
        lock(&self.state).opted_out.insert(number.to_owned());
    }

    /// What it took, in order.
    pub fn taken(&self) -> Vec<TakenByTwilio> {
        lock(&self.state).taken.clone()
    }

    /// Every request it heard, also those it refused.
    pub fn heard(&self) -> Vec<Heard> {
        self.server.heard()
    }

    /// The callback that Twilio would make about a message or call it took; `None` when it was given no address for it.
    ///
    /// # Panics
    /// When the address it was given is none.
    pub fn callback(&self, taken: &TakenByTwilio, status: &str, code: Option<u32>) -> Option<WebhookRequest> {
        let url: Url = taken.get("StatusCallback")?.parse().expect("a URL");
        let code = code.map(|code| code.to_string());
        let (kind, word) = if taken.sid.starts_with("CA") {
            ("CallSid", "CallStatus")
        } else {
            ("MessageSid", "MessageStatus")
        };
        let mut fields = vec![
            ("AccountSid", Self::ACCOUNT),
            ("ApiVersion", "2010-04-01"),
            ("To", taken.get("To").unwrap_or_default()),
            ("From", taken.get("From").unwrap_or_default()),
            (kind, taken.sid.as_str()),
            (word, status),
        ];
        if let Some(code) = &code {
            fields.push(("ErrorCode", code));
        }
        if kind == "CallSid" {
            fields.push(("Timestamp", "Fri, 02 Jan 2026 03:04:05 +0000"));
        }
        Some(self.signed(&url, &fields))
    }

    /// A text message that somebody sends to us.
    pub fn incoming(&self, url: &Url, from: &str, text: &str, opt_out_type: Option<&str>) -> WebhookRequest {
        let mut fields = vec![
            ("MessageSid", "SMeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee"),
            ("SmsStatus", "received"),
            ("AccountSid", Self::ACCOUNT),
            ("From", from),
            ("To", Self::NUMBER),
            ("Body", text),
            ("NumMedia", "0"),
        ];
        if let Some(kind) = opt_out_type {
            fields.push(("OptOutType", kind));
        }
        self.signed(url, &fields)
    }

    /// A request with these parameters, signed as Twilio signs.
    pub fn signed(&self, url: &Url, fields: &[(&str, &str)]) -> WebhookRequest {
        let mut sorted = fields.to_vec();
        sorted.sort_unstable();
        let mut text = url.as_str().to_owned();
        for (name, value) in sorted {
            text.push_str(name);
            text.push_str(value);
        }
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, self.token.as_bytes());
        WebhookRequest::post(url.clone(), form(fields.iter().copied()))
            .header("content-type", "application/x-www-form-urlencoded; charset=UTF-8")
            .header(
                "x-twilio-signature",
                STANDARD.encode(hmac::sign(&key, text.as_bytes())),
            )
            .header(
                "i-twilio-idempotency-token",
                "00000000-0000-0000-0000-000000000000",
            )
    }
}

impl fmt::Debug for FakeTwilio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeTwilio")
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

fn refusal(status: u16, code: u32, fields: &TakenByTwilio) -> Reply {
    // As Twilio does, the words hold what was sent.
    let message = format!(
        "The number {} is not what it should be.",
        fields.get("To").unwrap_or("?")
    );
    Reply::json(
        status,
        json!({"code": code, "message": message, "more_info": format!("https://www.twilio.com/docs/errors/{code}"), "status": status}),
    )
}

fn answer(state: &mut State, key: &str, heard: &Heard) -> Reply {
    let mut given = TakenByTwilio {
        sid: String::new(),
        fields: heard.form(),
    };
    if heard.header("authorization") != Some(key) {
        return refusal(401, 20003, &given);
    }
    let account = format!("/2010-04-01/Accounts/{}", FakeTwilio::ACCOUNT);
    let Some(path) = heard.path().strip_prefix(&account) else {
        return refusal(404, 20404, &given);
    };
    match (heard.method.as_str(), path) {
        ("GET", ".json") => Reply::json(200, json!({"sid": FakeTwilio::ACCOUNT, "status": "active"})),
        ("POST", "/Messages.json" | "/Calls.json") => {
            if heard.header("content-type") != Some("application/x-www-form-urlencoded") {
                return refusal(415, 20001, &given);
            }
            let call = path == "/Calls.json";
            if let Some(code) = wrong(state, &given, call) {
                return refusal(400, code, &given);
            }
            let number = state.taken.len();
            given.sid = format!("{}{number:032x}", if call { "CA" } else { "SM" });
            state.taken.push(given.clone());
            Reply::json(201, shown(&given))
        }
        ("GET", "/Messages.json" | "/Calls.json") => {
            let (kind, name) = if path == "/Calls.json" {
                ("CA", "calls")
            } else {
                ("SM", "messages")
            };
            let wanted = heard.query();
            let to = wanted
                .iter()
                .find(|(name, _)| name == "To")
                .map(|(_, to)| to.as_str());
            let found: Vec<_> = state
                .taken
                .iter()
                .filter(|one| one.sid.starts_with(kind) && (to.is_none() || one.get("To") == to))
                .map(shown)
                .collect();
            Reply::json(200, json!({name: found, "page": 0}))
        }
        ("GET", path) => {
            let sid = path
                .rsplit('/')
                .next()
                .unwrap_or_default()
                .trim_end_matches(".json");
            match state.taken.iter().find(|one| one.sid == sid) {
                Some(one) => Reply::json(200, shown(one)),
                None => refusal(404, 20404, &given),
            }
        }
        _ => refusal(405, 20004, &given),
    }
}

/// The code with which Twilio refuses these parameters.
fn wrong(state: &State, given: &TakenByTwilio, call: bool) -> Option<u32> {
    let number = |text: &str| {
        text.strip_prefix('+').is_some_and(|digits| {
            (7..=15).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit())
        })
    };
    let Some(to) = given.get("To") else {
        return Some(if call { 21201 } else { 21604 });
    };
    if !number(to) || to == "+15005550001" {
        return Some(21211);
    }
    if call {
        match given.get("From") {
            None => return Some(21213),
            Some(from) if !number(from) => return Some(21212),
            Some(_) => {}
        }
        return match (given.get("Url"), given.get("Twiml"), given.get("ApplicationSid")) {
            (Some(_), None, None) | (None, None, Some(_)) => None,
            (None, Some(twiml), None) if twiml.starts_with("<Response>") && twiml.len() <= 16_000 => None,
            _ => Some(21205),
        };
    }
    if to == "+15005550009" {
        return Some(21614);
    }
    if state.opted_out.contains(to) {
        return Some(21610);
    }
    if given.get("From").is_none() && given.get("MessagingServiceSid").is_none() {
        return Some(21603);
    }
    if given.get("From") == Some("+15005550001") {
        return Some(21606);
    }
    if given.get("Body").is_none() && given.get("MediaUrl").is_none() && given.get("ContentSid").is_none() {
        return Some(21602);
    }
    if given.get("Body").is_some_and(|body| body.chars().count() > 1600) {
        return Some(21617);
    }
    None
}

fn shown(one: &TakenByTwilio) -> serde_json::Value {
    json!({
        "sid": one.sid, "account_sid": FakeTwilio::ACCOUNT, "api_version": "2010-04-01", "status": "queued",
        "to": one.get("To"), "from": one.get("From"), "body": one.get("Body"), "direction": "outbound-api",
        "num_segments": "1", "price": null, "price_unit": "USD", "error_code": null, "error_message": null,
        "date_created": "Fri, 02 Jan 2026 03:04:05 +0000", "date_updated": "Fri, 02 Jan 2026 03:04:06 +0000",
    })
}
