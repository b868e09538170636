use std::collections::BTreeMap;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use crm_core::{Result, Timestamp};
use http::{Method, Request};
use ring::{digest, hmac};
use url::Url;

use super::config::{AliyunConfig, AliyunSignature};
use super::wire::VERSION;
use crate::exchange::{self, Question, form, percent};

/// A request to one of Aliyun's RPC interfaces, as the vendor's own client makes it: a `POST` to `/`, some parameters in the
/// query and some in the body, which of them is the vendor's choice for each action.
///
/// [`AliyunSms`](super::AliyunSms) and [`AliyunVoice`](super::AliyunVoice) make theirs of it. For other actions of the same
/// services, such as asking what became of a template, sign one of your own and send it through any client:
///
/// ```
/// use crm_channels::aliyun::{AliyunConfig, AliyunRequest};
/// use crm_core::{Clock, Secret, SystemClock};
///
/// let config = AliyunConfig::new("LTAI5tExample", Secret::new("s3cret"));
/// let ask = AliyunRequest::new("QuerySmsTemplate").query("TemplateCode", "SMS_154950909");
/// let at = "https://dysmsapi.aliyuncs.com/".parse().unwrap();
/// // The nonce must not come twice within 15 minutes.
/// let request = ask.signed(&config, &at, SystemClock.now(), "0123456789abcdef").unwrap();
/// assert_eq!(request.uri().query(), Some("TemplateCode=SMS_154950909"));
/// assert!(request.headers()["authorization"].to_str().unwrap().starts_with("ACS3-HMAC-SHA256 Credential=LTAI5tExample"));
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct AliyunRequest {
    action: String,
    query: BTreeMap<String, String>,
    body: BTreeMap<String, String>,
}

impl AliyunRequest {
    /// For this action, without parameters.
    pub fn new(action: impl Into<String>) -> Self {
        Self {
            action: action.into(),
            query: BTreeMap::new(),
            body: BTreeMap::new(),
        }
    }

    /// With this parameter in the query.
    #[must_use]
    pub fn query(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.query.insert(name.into(), value.into());
        self
    }

    /// With this parameter in the body, which is a form.
    #[must_use]
    pub fn body(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.body.insert(name.into(), value.into());
        self
    }

    /// What is asked for.
    pub fn action(&self) -> &str {
        &self.action
    }

    /// Signed for a service at `endpoint`, with the key, the token and the kind of signature of these settings. `nonce` is
    /// any text that was not used before; `at` may be at most 15 minutes from the vendor's clock.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Invalid`] when a value cannot stand in a header.
    pub fn signed(
        &self,
        config: &AliyunConfig,
        endpoint: &Url,
        at: Timestamp,
        nonce: &str,
    ) -> Result<Request<Bytes>> {
        let time: String = at.to_string().chars().take(19).chain(['Z']).collect();
        let body = form(
            self.body
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str())),
        );
        let host = match (endpoint.host_str().unwrap_or_default(), endpoint.port()) {
            (host, Some(port)) => format!("{host}:{port}"),
            (host, None) => host.to_owned(),
        };
        let credentials = match config.token {
            None => "static_ak",
            Some(_) => "static_sts",
        };
        let mut headers = vec![
            ("host", host),
            ("user-agent", config.http.user_agent.clone()),
            ("x-acs-action", self.action.clone()),
            ("x-acs-credentials-provider", credentials.to_owned()),
            ("x-acs-version", VERSION.to_owned()),
        ];
        if !self.body.is_empty() {
            headers.push(("content-type", "application/x-www-form-urlencoded".to_owned()));
        }
        let mut url = endpoint.clone();
        let query = match config.signature {
            AliyunSignature::V3 => {
                headers.extend([
                    ("accept", "application/json".to_owned()),
                    ("x-acs-content-sha256", sha256(body.as_bytes())),
                    ("x-acs-date", time),
                    ("x-acs-signature-nonce", nonce.to_owned()),
                ]);
                if let Some(token) = &config.token {
                    headers.push(("x-acs-accesskey-id", config.key.clone()));
                    headers.push(("x-acs-security-token", token.expose().to_owned()));
                }
                let authorization = self.version_3(config, &mut headers, body.as_bytes());
                headers.push(("authorization", authorization));
                form(
                    self.query
                        .iter()
                        .map(|(name, value)| (name.as_str(), value.as_str())),
                )
            }
            AliyunSignature::V2 => self.version_2(config, &time, nonce),
        };
        url.set_query(Some(query.as_str()).filter(|query| !query.is_empty()));
        exchange::request(Question {
            method: Method::POST,
            url: &url,
            headers,
            body,
        })
    }

    /// The value of `Authorization`: `ACS3-HMAC-SHA256` over method, path, query, all headers and the body's hash
    /// (alibabacloud.com/help/en/sdk/product-overview/v3-request-structure-and-signature).
    fn version_3(&self, config: &AliyunConfig, headers: &mut [(&str, String)], body: &[u8]) -> String {
        headers.sort_unstable();
        let query = canonical(
            self.query
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str())),
        );
        let lines: String = headers
            .iter()
            .map(|(name, value)| format!("{name}:{}\n", value.trim()))
            .collect();
        let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
        let names = names.join(";");
        let request = format!("POST\n/\n{query}\n{lines}\n{names}\n{}", sha256(body));
        let text = format!("ACS3-HMAC-SHA256\n{}", sha256(request.as_bytes()));
        let key = hmac::Key::new(hmac::HMAC_SHA256, config.secret.expose().as_bytes());
        let signature = hex(hmac::sign(&key, text.as_bytes()).as_ref());
        format!(
            "ACS3-HMAC-SHA256 Credential={},SignedHeaders={names},Signature={signature}",
            config.key
        )
    }

    /// The whole query with its signature: HMAC-SHA1 over all parameters, those of the body too, in the order of their names
    /// (help.aliyun.com/zh/sdk/product-overview/rpc-mechanism).
    fn version_2(&self, config: &AliyunConfig, time: &str, nonce: &str) -> String {
        let mut pairs = vec![
            ("Action", self.action.as_str()),
            ("Format", "json"),
            ("Version", VERSION),
            ("Timestamp", time),
            ("SignatureNonce", nonce),
        ];
        pairs.extend(
            self.query
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str())),
        );
        pairs.extend(
            config
                .token
                .as_ref()
                .map(|token| ("SecurityToken", token.expose())),
        );
        pairs.extend([
            ("SignatureMethod", "HMAC-SHA1"),
            ("SignatureVersion", "1.0"),
            ("AccessKeyId", config.key.as_str()),
        ]);
        let mut signed = pairs.clone();
        signed.extend(
            self.body
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str())),
        );
        signed.sort_unstable();
        let text = format!("POST&%2F&{}", percent(&canonical(signed.into_iter())));
        let secret = format!("{}&", config.secret.expose());
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret.as_bytes());
        let signature = STANDARD.encode(hmac::sign(&key, text.as_bytes()));
        pairs.push(("Signature", &signature));
        form(pairs)
    }
}

impl fmt::Debug for AliyunRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AliyunRequest({}, ..)", self.action)
    }
}

/// Parameters as they are signed: a blank is `%20`, where the form that goes out has `+`.
fn canonical<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let pairs: Vec<String> = pairs
        .map(|(name, value)| format!("{}={}", percent(name), percent(value)))
        .collect();
    pairs.join("&")
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sha256(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use crm_core::Secret;

    use super::*;

    /// A recorded head, its lines' names in small letters.
    struct Recorded {
        target: String,
        headers: BTreeMap<String, String>,
        body: String,
    }

    fn read(path: &std::path::Path) -> Recorded {
        let text = String::from_utf8(std::fs::read(path).unwrap()).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let mut lines = head.split("\r\n");
        Recorded {
            target: lines.next().unwrap().split(' ').nth(1).unwrap().to_owned(),
            headers: lines
                .map(|line| line.split_once(": ").unwrap())
                .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
                .collect(),
            body: body.to_owned(),
        }
    }

    fn pairs(text: &str) -> Vec<(String, String)> {
        url::form_urlencoded::parse(text.as_bytes())
            .into_owned()
            .collect()
    }

    /// Every recording of the vendor's own client: from the same parameters, time and nonce comes the same request, byte
    /// for byte: target, headers, body, and so the signature.
    #[test]
    fn every_recorded_request_comes_out_again() {
        let (mut third, mut second) = (0, 0);
        for entry in std::fs::read_dir("tests/data/aliyun").unwrap() {
            let path = entry.unwrap().path();
            let theirs = read(&path);
            let mut config = AliyunConfig::new(
                "LTAI5tFAKEFAKEFAKEFAKE01",
                Secret::new("fakeSecretfakeSecretfakeSecret"),
            );
            config.http.user_agent = theirs.headers["user-agent"].clone();
            let mut token = theirs.headers.get("x-acs-security-token").cloned();
            let mut ours = AliyunRequest::new(theirs.headers["x-acs-action"].as_str());
            if theirs.headers.contains_key("authorization") {
                third += 1;
            } else {
                second += 1;
                config.signature = AliyunSignature::V2;
            }
            for (name, value) in pairs(theirs.target.split_once('?').map_or("", |(_, query)| query)) {
                match (config.signature, name.as_str()) {
                    (AliyunSignature::V2, "SecurityToken") => token = Some(value),
                    (
                        AliyunSignature::V2,
                        "Action" | "Format" | "Version" | "Timestamp" | "SignatureNonce" | "SignatureMethod"
                        | "SignatureVersion" | "AccessKeyId" | "Signature",
                    ) => {}
                    _ => ours = ours.query(name, value),
                }
            }
            for (name, value) in pairs(&theirs.body) {
                ours = ours.body(name, value);
            }
            config.token = token.map(Secret::new);
            let made = ours
                .signed(
                    &config,
                    &format!("http://{}/", theirs.headers["host"]).parse().unwrap(),
                    "2026-01-02T03:04:05Z".parse().unwrap(),
                    "0123456789abcdef0123456789abcdef",
                )
                .unwrap();
            let target = made.uri().path_and_query().unwrap().as_str();
            assert_eq!(target, theirs.target, "{}", path.display());
            assert_eq!(made.body(), theirs.body.as_bytes(), "{}", path.display());
            let made: BTreeMap<String, String> = made
                .headers()
                .iter()
                .map(|(name, value)| (name.as_str().to_owned(), value.to_str().unwrap().to_owned()))
                .collect();
            let mut wanted = theirs.headers;
            // The transport's own.
            wanted.retain(|name, _| !matches!(name.as_str(), "accept-encoding" | "content-length"));
            assert_eq!(made, wanted, "{}", path.display());
        }
        assert!(third >= 12 && second >= 5, "{third} and {second} recordings");
    }

    #[test]
    fn another_secret_or_value_is_another_signature() {
        let sign = |secret: &str, value: &str, signature| {
            let mut config = AliyunConfig::new("k", Secret::new(secret));
            config.signature = signature;
            let made = AliyunRequest::new("SendSms").query("A", value).signed(
                &config,
                &"https://dysmsapi.aliyuncs.com/".parse().unwrap(),
                Timestamp::EPOCH,
                "n",
            );
            let made = made.unwrap();
            format!(
                "{:?} {}",
                made.headers()
                    .get("authorization")
                    .map(|v| v.to_str().unwrap().to_owned()),
                made.uri()
            )
        };
        for kind in [AliyunSignature::V3, AliyunSignature::V2] {
            let one = sign("s", "1", kind);
            assert_eq!(one, sign("s", "1", kind));
            assert!(one != sign("t", "1", kind) && one != sign("s", "2", kind));
        }
        assert!(!format!("{:?}", AliyunRequest::new("SendSms").query("PhoneNumbers", "138")).contains("138"));
    }
}
