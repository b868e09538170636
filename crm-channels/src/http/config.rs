use std::collections::BTreeMap;

use crm_core::http::HttpConfig;
use crm_core::message::{Blame, DeliveryState};
use crm_core::{ErrorKind, Result, Secret};
use serde::Deserialize;
use serde_json::Value;

use super::answer::Read;
use super::hook::WebhookSpec;
use crate::settings::{decoded, wrong};

/// A vendor, described by data: as JSON in a file ([`HttpVendorConfig::from_url`]), or built in code.
///
/// Texts have places that are filled from the message, each written so that it cannot leave its place (percent-encoded in
/// a URL or form, a JSON value in JSON, escaped in text). A place that ends in `?` may stay empty; a field that is only such
/// a place is left out.
///
/// | places | in |
/// |---|---|
/// | `{{id}}`, `{{now}}`, `{{now_unix}}`, `{{secret.NAME}}`, `{{setting.NAME}}` | all requests |
/// | `{{to}}` (E.164), `{{to_digits}}`, `{{from}}`, `{{template.code}}`, `{{template.sign_name}}`, `{{template.params}}` (an object), `{{param.NAME}}`, `{{parameter.NAME}}` (of the message's own parameters for this scheme) | SMS and calls |
/// | `{{text}}`, `{{media}}` (a list) | SMS |
/// | `{{text}}`, `{{recording}}`, `{{times}}` | calls |
/// | `{{to}}`, `{{from}}`, `{{reply_to}}` (addresses), each with `_name` and `_mailbox` (`"Name" <address>`), `{{bounces_to}}`, `{{subject}}`, `{{text}}`, `{{html}}`, `{{headers}}` (an object), `{{header.NAME}}`, `{{attachments}}` (a list of objects with `file_name`, `content_type`, `content` in Base64, `content_id`), `{{message_id}}`, `{{raw}}` (the whole message in Base64) | e-mail |
/// | `{{reference}}` | questions |
///
/// ```
/// use crm_channels::http::HttpVendorConfig;
///
/// let config: HttpVendorConfig = serde_json::from_str(r#"{
///     "scheme": "acme",
///     "auth": {"bearer": {"token": "s3cret"}},
///     "sms": {
///         "request": {
///             "url": "https://sms.acme.example/v1/messages",
///             "body": {"json": {"to": "{{to}}", "text": "{{text}}", "ref": "{{id}}"}}
///         },
///         "answer": {
///             "reference": {"json": "/message/id"},
///             "code": {"json": "/error/code"},
///             "rules": [
///                 {"code": ["bad_number"], "means": "invalid", "blame": "recipient"},
///                 {"code": ["busy*"], "means": "rate_limited", "wait": 30}
///             ]
///         }
///     }
/// }"#).unwrap();
/// assert!(config.validate().is_ok());
/// assert!(!format!("{config:?}").contains("s3cret"));
/// ```
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpVendorConfig {
    /// What the vendor is called: the scheme of the provider, and of the templates that messages keep for it.
    pub scheme: String,
    /// Values for `{{secret.NAME}}`.
    #[serde(default)]
    pub secrets: BTreeMap<String, Secret>,
    /// Values for `{{setting.NAME}}`.
    #[serde(default)]
    pub settings: BTreeMap<String, String>,
    /// How every request is authenticated.
    #[serde(default)]
    pub auth: Auth,
    /// How an e-mail is sent.
    #[serde(default)]
    pub mail: Option<Exchange>,
    /// How a text message is sent.
    #[serde(default)]
    pub sms: Option<Exchange>,
    /// How a call is made.
    #[serde(default)]
    pub voice: Option<Exchange>,
    /// How the vendor is asked what became of a message.
    #[serde(default)]
    pub lookup: Option<LookupSpec>,
    /// How to see that the vendor is there and takes our credentials. Without it, nobody is asked: a description that can
    /// be carried out counts as ready.
    #[serde(default)]
    pub check: Option<CheckSpec>,
    /// What the vendor tells us, and how it proves who it is.
    #[serde(default)]
    pub webhook: Option<WebhookSpec>,
    /// The HTTP client's settings.
    #[serde(default)]
    pub http: HttpConfig,
}

/// How requests are authenticated.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Auth {
    /// Not at all, or by places in the request.
    #[default]
    None,
    /// RFC 7617.
    Basic {
        /// The user.
        user: String,
        /// The password.
        password: Secret,
    },
    /// RFC 6750.
    Bearer {
        /// The token.
        token: Secret,
    },
    /// A header of the vendor's own.
    Header {
        /// Its name.
        name: String,
        /// Its value.
        value: Secret,
    },
}

/// A request and how its answer is read.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exchange {
    /// The request.
    pub request: RequestSpec,
    /// The answer.
    pub answer: AnswerSpec,
}

/// A request with places.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestSpec {
    /// The method; `POST` unless said.
    #[serde(default = "post")]
    pub method: String,
    /// The URL.
    pub url: String,
    /// Further headers.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// The body.
    #[serde(default)]
    pub body: BodySpec,
}

fn post() -> String {
    "POST".to_owned()
}

/// The body of a request, with places.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum BodySpec {
    /// No body.
    #[default]
    None,
    /// JSON.
    Json(Value),
    /// A form: pairs in their order, names may repeat. A place alone that is a list comes once for each of its items.
    Form(Vec<(String, String)>),
    /// Any text.
    Text {
        /// What it is: `application/xml`.
        content_type: String,
        /// The text.
        text: String,
        /// How the values are written into it.
        escape: Escape,
    },
}

/// How a value is written into a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Escape {
    /// As XML 1.0 takes it, in content and attributes.
    Xml,
    /// As it stands between the quotes of a JSON text.
    Json,
    /// Percent-encoded.
    Url,
}

/// How an answer is read.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnswerSpec {
    /// When it is a yes: the status is 2xx and, where this is given, the value is one of these.
    #[serde(default)]
    pub success: Option<Expect>,
    /// Where the vendor's reference stands.
    pub reference: Read,
    /// Where the vendor's code of a refusal stands.
    #[serde(default)]
    pub code: Option<Read>,
    /// What refusals mean; the first that fits. What fits none goes by its status.
    #[serde(default)]
    pub rules: Vec<Rule>,
}

/// A question that changes nothing, and only shows whether the vendor answers: a `GET`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckSpec {
    /// The URL.
    pub url: String,
    /// Further headers.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// When the vendor is ready: the status is 2xx and, where this is given, the value is one of these.
    #[serde(default)]
    pub success: Option<Expect>,
}

impl CheckSpec {
    pub(super) fn request(&self) -> RequestSpec {
        RequestSpec {
            method: "GET".to_owned(),
            url: self.url.clone(),
            headers: self.headers.clone(),
            body: BodySpec::None,
        }
    }
}

/// A value that is expected.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// Where it stands.
    pub at: Read,
    /// What it may be, as text.
    pub equals: Vec<String>,
}

/// What a refusal means.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The statuses it is about: `429`, `4xx`; empty for all.
    #[serde(default)]
    pub status: Vec<String>,
    /// The codes it is about; a `*` at the end stands for any rest; empty for all.
    #[serde(default)]
    pub code: Vec<String>,
    /// What it means.
    pub means: Means,
    /// Whose fault it is.
    #[serde(default)]
    pub blame: Blame,
    /// How long to wait, in seconds, where the vendor does not say.
    #[serde(default)]
    pub wait: Option<u64>,
}

/// What a refusal means for the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Means {
    /// The message or the number is wrong: for good.
    Invalid,
    /// The recipient must not be written to: for good.
    Refused,
    /// Too many: later.
    RateLimited,
    /// The vendor cannot now: later.
    Unavailable,
    /// The credentials are wrong.
    Unauthenticated,
    /// The account may not.
    PermissionDenied,
    /// A setting is wrong.
    Config,
    /// It may have been sent: never again by itself.
    Unknown,
}

impl Means {
    pub(super) fn kind(self) -> ErrorKind {
        match self {
            Self::Invalid => ErrorKind::Invalid,
            Self::Refused => ErrorKind::Refused,
            Self::RateLimited => ErrorKind::RateLimited,
            Self::Unavailable | Self::Unknown => ErrorKind::Unavailable,
            Self::Unauthenticated => ErrorKind::Unauthenticated,
            Self::PermissionDenied => ErrorKind::PermissionDenied,
            Self::Config => ErrorKind::Config,
        }
    }

    pub(super) fn says(self) -> &'static str {
        match self {
            Self::Invalid => "the vendor refuses the message or the number",
            Self::Refused => "the recipient has opted out at the vendor",
            Self::RateLimited => "the vendor asks to slow down",
            Self::Unavailable => "the vendor cannot serve now",
            Self::Unauthenticated => "the vendor refuses our credentials",
            Self::PermissionDenied => "the vendor does not allow it to this account",
            Self::Config => "the vendor does not accept a setting of ours",
            Self::Unknown => "the vendor does not know whether it was sent",
        }
    }
}

/// How the vendor is asked.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LookupSpec {
    /// The request, with `{{reference}}` or `{{id}}` in it.
    pub request: RequestSpec,
    /// Statuses that say that the vendor knows nothing of it. 404 unless said.
    #[serde(default = "not_found")]
    pub unknown: Vec<u16>,
    /// Where the vendor's word for the state stands.
    pub state: Read,
    /// Where the vendor's reference stands, for questions by `{{id}}`.
    #[serde(default)]
    pub reference: Option<Read>,
    /// What its words mean; what is not among them says that the vendor has the message.
    pub states: BTreeMap<String, StateSpec>,
}

fn not_found() -> Vec<u16> {
    vec![404]
}

/// What a vendor's word for a state means.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateSpec {
    /// How far the message has come.
    pub state: DeliveryState,
    /// Whose fault it is that it did not arrive.
    #[serde(default)]
    pub blame: Blame,
}

impl HttpVendorConfig {
    /// Reads the description of a vendor from a file: `vendor:acme.json`, with secrets and settings beside it,
    /// `vendor:acme.json?secret.token=s3cret&setting.sender=ACME`.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] naming the setting, or the line of the file; never a secret.
    pub fn from_url(url: &str) -> Result<Self> {
        let rest = url.strip_prefix("vendor:").unwrap_or(url);
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let path = decoded(path.strip_prefix("//").unwrap_or(path));
        if path.is_empty() {
            return Err(wrong("path", "the file is missing; write it as vendor:acme.json"));
        }
        let text = std::fs::read_to_string(&path).map_err(|e| {
            wrong("path", "the vendor's description cannot be read")
                .with("path", &path)
                .source(e)
        })?;
        let mut config: Self = serde_json::from_str(&text).map_err(|e| {
            // The parser's own words may hold a value of the file, and so a secret.
            wrong("path", "the vendor's description is not what it should be")
                .with("path", &path)
                .with("line", e.line())
                .with("column", e.column())
        })?;
        for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
            match key.split_once('.') {
                Some(("secret", name)) => {
                    config.secrets.insert(name.to_owned(), Secret::new(value));
                }
                Some(("setting", name)) => {
                    config.settings.insert(name.to_owned(), value.into_owned());
                }
                _ if key == "allow" => config.http.allow.push(value.parse()?),
                _ => {
                    return Err(wrong(
                        &key,
                        "unknown setting; known are secret.NAME, setting.NAME, allow",
                    ));
                }
            }
        }
        config.validate()?;
        Ok(config)
    }

    /// Checks every setting, and every place.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] naming the setting.
    pub fn validate(&self) -> Result<()> {
        let word = |text: &str| {
            (1..=32).contains(&text.len())
                && text
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
        };
        if !word(&self.scheme) {
            return Err(wrong(
                "scheme",
                "a vendor is named with 1 to 32 of a-z, 0-9, - and _",
            ));
        }
        if self.mail.is_none() && self.sms.is_none() && self.voice.is_none() && self.webhook.is_none() {
            return Err(wrong(
                "sms",
                "nothing is described: neither mail nor sms nor voice nor webhook",
            ));
        }
        if let Auth::Header { name, value } = &self.auth {
            header("auth", name, value.expose())?;
        }
        for (setting, exchange) in [("mail", &self.mail), ("sms", &self.sms), ("voice", &self.voice)] {
            if let Some(exchange) = exchange {
                super::request::Request::parse(setting, &exchange.request, self)?;
                exchange.answer.validate(setting)?;
            }
        }
        if let Some(lookup) = &self.lookup {
            super::request::Request::parse("lookup", &lookup.request, self)?;
            lookup.state.validate("lookup")?;
            lookup
                .reference
                .as_ref()
                .map_or(Ok(()), |read| read.validate("lookup"))?;
        }
        if let Some(check) = &self.check {
            let request = super::request::Request::parse("check", &check.request(), self)?;
            let of_all = |name: &str| {
                name.starts_with("now") || name.starts_with("secret.") || name.starts_with("setting.")
            };
            if let Some((place, _)) = request.places().into_iter().find(|(name, _)| !of_all(name)) {
                return Err(
                    wrong("check", "this question is about no message; it has no such place")
                        .with("place", place),
                );
            }
            check
                .success
                .as_ref()
                .map_or(Ok(()), |success| success.at.validate("check"))?;
        }
        if let Some(webhook) = &self.webhook {
            webhook.validate()?;
        }
        self.http.validate()
    }
}

impl AnswerSpec {
    fn validate(&self, setting: &'static str) -> Result<()> {
        self.reference.validate(setting)?;
        self.code.as_ref().map_or(Ok(()), |read| read.validate(setting))?;
        if let Some(success) = &self.success {
            success.at.validate(setting)?;
        }
        for rule in &self.rules {
            if rule.status.is_empty() && rule.code.is_empty() {
                return Err(wrong(
                    setting,
                    "a rule is about a status or a code; give one of them",
                ));
            }
            let fits = |text: &String| {
                text.len() == 3
                    && (text.bytes().all(|b| b.is_ascii_digit())
                        || (text.ends_with("xx") && text.starts_with(|c: char| c.is_ascii_digit())))
            };
            if !rule.status.iter().all(fits) {
                return Err(wrong(setting, "a status is written 429 or 4xx"));
            }
        }
        Ok(())
    }
}

pub(super) fn header(setting: &'static str, name: &str, value: &str) -> Result<()> {
    if ::http::HeaderName::from_bytes(name.as_bytes()).is_err() {
        return Err(wrong(
            setting,
            "a header's name has characters that no header may have",
        ));
    }
    if ::http::HeaderValue::from_str(value).is_err() {
        return Err(
            wrong(setting, "a header's value has characters that no header may have").with("header", name),
        );
    }
    Ok(())
}
