use std::collections::BTreeMap;

use crm_core::http::HttpConfig;
use crm_core::{Result, Secret};
use serde::Deserialize;
use url::Url;

use super::fields::Kind;
use crate::exchange::{basic, endpoint};
use crate::settings::{decoded, number, wrong};

/// What to do when a machine answers the phone (`MachineDetection`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MachineDetection {
    /// Nobody listens for machines.
    #[default]
    Off,
    /// The call goes on as soon as it is known who answered.
    Enable,
    /// With a machine, the call goes on when its greeting is over.
    DetectMessageEnd,
}

/// What a call tells while it goes on (`StatusCallbackEvent`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CallEvent {
    /// It is being dialled.
    Initiated,
    /// It rings.
    Ringing,
    /// Somebody or something answered.
    Answered,
    /// It is over.
    Completed,
}

impl CallEvent {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Initiated => "initiated",
            Self::Ringing => "ringing",
            Self::Answered => "answered",
            Self::Completed => "completed",
        }
    }
}

/// The settings of a Twilio account: as configuration, or as a URL ([`TwilioConfig::from_url`]).
///
/// ```
/// use crm_channels::twilio::TwilioConfig;
///
/// let account = format!("AC{}", "0".repeat(32));
/// let config = TwilioConfig::from_url(&format!("twilio://{account}:s3cret@api.twilio.com?from=%2B15005550006")).unwrap();
/// assert_eq!(config.from.as_deref(), Some("+15005550006"));
/// assert!(!format!("{config:?}").contains("s3cret"));
/// ```
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TwilioConfig {
    /// The account's SID, `AC` and 32 hexadecimal digits.
    pub account: String,
    /// The account's auth token: signs in, unless there is a key, and proves webhooks.
    #[serde(default)]
    pub token: Option<Secret>,
    /// An API key's SID, `SK...`, to sign in with instead of the token.
    #[serde(default)]
    pub key: Option<String>,
    /// The API key's secret.
    #[serde(default)]
    pub key_secret: Option<Secret>,
    /// The number or name that messages and calls come from, where they do not say.
    #[serde(default)]
    pub from: Option<String>,
    /// A messaging service, `MG...`, that chooses the number.
    #[serde(default)]
    pub messaging_service: Option<String>,
    /// Where Twilio tells what became of a message or call; each one's id is added as `message=`.
    #[serde(default)]
    pub status_callback: Option<Url>,
    /// How long a text message may wait to be handed to the carrier, in seconds; 1 to 36,000.
    #[serde(default)]
    pub validity: Option<u32>,
    /// How long a phone rings, in seconds; 1 to 600.
    #[serde(default)]
    pub ring_seconds: Option<u32>,
    /// What to do when a machine answers the phone.
    #[serde(default)]
    pub machine_detection: MachineDetection,
    /// What calls tell while they go on. All of it.
    #[serde(default = "all_events")]
    pub call_events: Vec<CallEvent>,
    /// What every text message is told besides, by Twilio's own names: `{"RiskCheck": ["disable"]}`. A message's own
    /// parameters go before. The values are not shown: some are passwords.
    #[serde(default)]
    pub message_parameters: BTreeMap<String, Vec<Secret>>,
    /// What every call is told besides: `{"Record": ["true"]}`.
    #[serde(default)]
    pub call_parameters: BTreeMap<String, Vec<Secret>>,
    /// The region that data is processed in: `us1`, `ie1`, `au1`.
    #[serde(default)]
    pub region: Option<String>,
    /// The edge of Twilio's network to go through: `dublin`, `sydney`.
    #[serde(default)]
    pub edge: Option<String>,
    /// Another address than Twilio's own, for a proxy of yours or a test.
    #[serde(default)]
    pub base_url: Option<Url>,
    /// The HTTP client's settings.
    #[serde(default)]
    pub http: HttpConfig,
}

fn all_events() -> Vec<CallEvent> {
    vec![
        CallEvent::Initiated,
        CallEvent::Ringing,
        CallEvent::Answered,
        CallEvent::Completed,
    ]
}

/// Whether it is one of Twilio's identifiers of this kind.
pub(super) fn is_sid(kind: &str, text: &str) -> bool {
    text.strip_prefix(kind)
        .is_some_and(|rest| rest.len() == 32 && rest.bytes().all(|b| b.is_ascii_hexdigit()))
}

const KNOWN: &str = "unknown setting; known are account, token, from, messaging_service, status_callback, validity, ring_seconds, machine_detection, region, edge, base_url, timeout, allow, and message.NAME and call.NAME for parameters by Twilio's own names";

impl TwilioConfig {
    /// An account with its auth token.
    pub fn new(account: impl Into<String>, token: Secret) -> Self {
        Self {
            account: account.into(),
            token: Some(token),
            key: None,
            key_secret: None,
            from: None,
            messaging_service: None,
            status_callback: None,
            validity: None,
            ring_seconds: None,
            machine_detection: MachineDetection::Off,
            call_events: all_events(),
            message_parameters: BTreeMap::new(),
            call_parameters: BTreeMap::new(),
            region: None,
            edge: None,
            base_url: None,
            http: HttpConfig::default(),
        }
    }

    /// From `twilio://ACCOUNT:TOKEN@api.twilio.com?from=%2B15005550006`, or with an API key
    /// `twilio://KEY:SECRET@api.twilio.com?account=ACCOUNT`. The host is `api.twilio.com` or
    /// `api.EDGE.REGION.twilio.com`; user and password are percent-encoded. Further keys are the names of the settings, and
    /// `timeout` (seconds) and `allow` ([`crm_core::http::AllowEntry`]) of the HTTP client, and for parameters by Twilio's
    /// own names `message.RiskCheck=disable` and `call.Record=true`.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Config`] naming the part; never the URL, which holds the token.
    pub fn from_url(url: &str) -> Result<Self> {
        let url = Url::parse(url).map_err(|e| {
            wrong(
                "url",
                "not a URL; write it as twilio://ACCOUNT:TOKEN@api.twilio.com?from=%2B15005550006",
            )
            .source(e)
        })?;
        if url.scheme() != "twilio" {
            return Err(wrong("scheme", "the scheme of a Twilio account is twilio"));
        }
        if !matches!(url.path(), "" | "/") || url.fragment().is_some() {
            return Err(wrong("path", "an account's URL has no path and no fragment"));
        }
        let user = decoded(url.username());
        let Some(password) = url.password().map(|password| Secret::new(decoded(password))) else {
            return Err(wrong(
                "token",
                "the token is missing; write it after the account, as twilio://ACCOUNT:TOKEN@...",
            ));
        };
        let mut config = Self::new(user.clone(), password.clone());
        if user.starts_with("SK") {
            config.account = String::new();
            config.token = None;
            config.key = Some(user);
            config.key_secret = Some(password);
        }
        match url.host_str() {
            None | Some("" | "api.twilio.com") if url.port().is_none() => {}
            Some(host) if url.port().is_none() => {
                let parts: Vec<&str> = host.split('.').collect();
                match parts.as_slice() {
                    ["api", edge, region, "twilio", "com"] => {
                        config.edge = Some((*edge).to_owned());
                        config.region = Some((*region).to_owned());
                    }
                    _ => {
                        return Err(wrong(
                            "host",
                            "the host is api.twilio.com or api.EDGE.REGION.twilio.com; anything else is a base_url",
                        ));
                    }
                }
            }
            _ => return Err(wrong("host", "another port or host is a base_url")),
        }
        for (key, value) in url.query_pairs() {
            let value = value.into_owned();
            match key.as_ref() {
                "account" => config.account = value,
                "token" => config.token = Some(Secret::new(value)),
                "from" => config.from = Some(value),
                "messaging_service" => config.messaging_service = Some(value),
                "status_callback" => config.status_callback = Some(address("status_callback", &value)?),
                "validity" => config.validity = Some(number("validity", &value)?),
                "ring_seconds" => config.ring_seconds = Some(number("ring_seconds", &value)?),
                "machine_detection" => {
                    config.machine_detection = match value.as_str() {
                        "off" => MachineDetection::Off,
                        "enable" => MachineDetection::Enable,
                        "detect-message-end" => MachineDetection::DetectMessageEnd,
                        _ => {
                            return Err(wrong(
                                "machine_detection",
                                "it is off, enable or detect-message-end",
                            ));
                        }
                    }
                }
                "region" => config.region = Some(value),
                "edge" => config.edge = Some(value),
                "base_url" => config.base_url = Some(address("base_url", &value)?),
                "timeout" => {
                    config.http.total_timeout = std::time::Duration::from_secs(number("timeout", &value)?)
                }
                "allow" => config.http.allow.push(value.parse()?),
                other if other.starts_with("message.") || other.starts_with("call.") => {
                    let (kind, name) = other.split_once('.').unwrap_or_default();
                    let parameters = match kind {
                        "call" => &mut config.call_parameters,
                        _ => &mut config.message_parameters,
                    };
                    parameters
                        .entry(name.to_owned())
                        .or_default()
                        .push(Secret::new(value));
                }
                other => return Err(wrong(other, KNOWN)),
            }
        }
        config.validate()?;
        Ok(config)
    }

    /// Checks every setting.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Config`] naming the setting.
    pub fn validate(&self) -> Result<()> {
        if !is_sid("AC", &self.account) {
            return Err(wrong("account", "an account is AC and 32 hexadecimal digits"));
        }
        if self.key.is_some() != self.key_secret.is_some() {
            return Err(wrong(
                "key_secret",
                "key and key_secret belong together; give both or none",
            ));
        }
        if self.key.as_deref().is_some_and(|key| !is_sid("SK", key)) {
            return Err(wrong("key", "an API key is SK and 32 hexadecimal digits"));
        }
        for (setting, kind, parameters) in [
            ("message_parameters", Kind::Message, &self.message_parameters),
            ("call_parameters", Kind::Call, &self.call_parameters),
        ] {
            if let Some(name) = parameters.keys().find(|name| !kind.may_set(name)) {
                return Err(wrong(
                    setting,
                    "Twilio has no such parameter, or a setting of its own or a field of the message is for it",
                )
                .with("parameter", crate::exchange::shown(name)));
            }
        }
        if self.key.is_none() && self.token.is_none() {
            return Err(wrong(
                "token",
                "without an API key, the account's auth token is needed",
            ));
        }
        for (setting, secret) in [("token", &self.token), ("key_secret", &self.key_secret)] {
            if secret.as_ref().is_some_and(|secret| secret.expose().is_empty()) {
                return Err(wrong(setting, "a secret is not empty"));
            }
        }
        let blank = |text: &Option<String>| {
            text.as_deref()
                .is_some_and(|text| text.trim().is_empty() || text.chars().any(char::is_control))
        };
        if blank(&self.from) {
            return Err(wrong(
                "from",
                "a number or name that is given is not empty; leave it out instead",
            ));
        }
        if self
            .messaging_service
            .as_deref()
            .is_some_and(|sid| !is_sid("MG", sid))
        {
            return Err(wrong(
                "messaging_service",
                "a messaging service is MG and 32 hexadecimal digits",
            ));
        }
        if self
            .validity
            .is_some_and(|seconds| !(1..=36_000).contains(&seconds))
        {
            return Err(wrong("validity", "a message waits 1 to 36,000 seconds"));
        }
        if self
            .ring_seconds
            .is_some_and(|seconds| !(1..=600).contains(&seconds))
        {
            return Err(wrong("ring_seconds", "a phone rings 1 to 600 seconds"));
        }
        for (setting, label) in [("region", &self.region), ("edge", &self.edge)] {
            let plain = |label: &str| {
                (1..=32).contains(&label.len())
                    && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            };
            if label.as_deref().is_some_and(|label| !plain(label)) {
                return Err(wrong(setting, "a region or edge is a word such as ie1 or dublin"));
            }
        }
        if let Some(url) = &self.status_callback {
            endpoint("status_callback", url)?;
        }
        if let Some(url) = &self.base_url {
            endpoint("base_url", url)?;
            if url.query().is_some() {
                return Err(wrong("base_url", "an address of a vendor has no query"));
            }
        }
        self.http.validate()
    }

    /// Who signs in: the API key where there is one, else the account with its token.
    pub(super) fn credentials(&self) -> String {
        match (&self.key, &self.key_secret, &self.token) {
            (Some(key), Some(secret), _) => basic(key, secret.expose()),
            (_, _, Some(token)) => basic(&self.account, token.expose()),
            _ => String::new(),
        }
    }

    /// Where the account's resources are. An edge without a region means the region `us1`, as Twilio's own clients do.
    pub(super) fn resource(&self, path: &str) -> Result<Url> {
        let host = match (self.edge.as_deref(), self.region.as_deref()) {
            (None, None) => "api.twilio.com".to_owned(),
            (None, Some(region)) => format!("api.{region}.twilio.com"),
            (Some(edge), region) => format!("api.{edge}.{}.twilio.com", region.unwrap_or("us1")),
        };
        let base = match &self.base_url {
            Some(base) => base.as_str().trim_end_matches('/').to_owned(),
            None => format!("https://{host}"),
        };
        Url::parse(&format!("{base}/2010-04-01/Accounts/{}{path}", self.account))
            .map_err(|e| wrong("base_url", "no address can be made of it").source(e))
    }
}

fn address(setting: &'static str, text: &str) -> Result<Url> {
    text.parse().map_err(|_| wrong(setting, "not a URL"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCOUNT: &str = "AC00000000000000000000000000000000";

    fn from(rest: &str) -> Result<TwilioConfig> {
        TwilioConfig::from_url(&format!("twilio://{ACCOUNT}:hunter22@{rest}"))
    }

    #[test]
    fn urls() {
        let config =
            from("api.twilio.com?messaging_service=MG11111111111111111111111111111111&validity=600").unwrap();
        assert_eq!(config.validity, Some(600));
        let more =
            from("api.twilio.com?message.PersistentAction=a&message.PersistentAction=b&call.Record=true")
                .unwrap();
        let said = |all: &[Secret]| all.iter().map(|one| one.expose().to_owned()).collect::<Vec<_>>();
        assert_eq!(said(&more.message_parameters["PersistentAction"]), ["a", "b"]);
        assert_eq!(said(&more.call_parameters["Record"]), ["true"]);
        let hidden = from("api.twilio.com?call.SipAuthPassword=hunter23").unwrap();
        assert!(!format!("{hidden:?}").contains("hunter23"));
        assert_eq!(
            config.resource("/Messages.json").unwrap().as_str(),
            format!("https://api.twilio.com/2010-04-01/Accounts/{ACCOUNT}/Messages.json")
        );
        for (rest, host) in [
            ("api.dublin.ie1.twilio.com", "api.dublin.ie1.twilio.com"),
            ("api.twilio.com?region=au1", "api.au1.twilio.com"),
            ("api.twilio.com?edge=sydney", "api.sydney.us1.twilio.com"),
            (
                "api.twilio.com?edge=sydney&region=au1",
                "api.sydney.au1.twilio.com",
            ),
            (
                "api.twilio.com?base_url=https://proxy.example/twilio/",
                "proxy.example",
            ),
        ] {
            assert_eq!(
                from(rest).unwrap().resource("").unwrap().host_str(),
                Some(host),
                "{rest}"
            );
        }
        assert_eq!(config.credentials(), basic(ACCOUNT, "hunter22"));
        let key = "SK22222222222222222222222222222222";
        let keyed = TwilioConfig::from_url(&format!(
            "twilio://{key}:pa%3Ass@api.twilio.com?account={ACCOUNT}"
        ))
        .unwrap();
        assert_eq!(keyed.credentials(), basic(key, "pa:ss"));
        assert!(keyed.token.is_none());
    }

    #[test]
    fn what_is_wrong_is_named_and_the_token_is_not() {
        for (rest, setting) in [
            ("api.twilio.com?form=x", "form"),
            ("api.twilio.com?from=", "from"),
            ("api.twilio.com?from=a%0Ab", "from"),
            ("api.twilio.com?messaging_service=MG1", "messaging_service"),
            ("api.twilio.com?validity=0", "validity"),
            ("api.twilio.com?validity=long", "validity"),
            ("api.twilio.com?ring_seconds=601", "ring_seconds"),
            ("api.twilio.com?machine_detection=yes", "machine_detection"),
            ("api.twilio.com?message.To=%2B1", "message_parameters"),
            ("api.twilio.com?call.Riskcheck=x", "call_parameters"),
            ("api.twilio.com?region=a.b", "region"),
            ("api.twilio.com?edge=", "edge"),
            (
                "api.twilio.com?status_callback=http://crm.example/cb",
                "status_callback",
            ),
            ("api.twilio.com?base_url=http://10.0.0.1", "base_url"),
            ("api.twilio.com?base_url=https://u:p@proxy.example", "base_url"),
            ("api.twilio.com?timeout=0", "total_timeout"),
            ("evil.example", "host"),
            ("api.twilio.com:81", "host"),
            ("api.twilio.com/x", "path"),
        ] {
            let error = from(rest).unwrap_err();
            assert_eq!(error.context("setting"), Some(setting), "{rest}: {error}");
            assert!(!format!("{error:?}").contains("hunter22"), "{error:?}");
        }
        for (url, setting) in [
            ("twilio://AC0:hunter22@api.twilio.com", "account"),
            (
                "twilio://AC00000000000000000000000000000000@api.twilio.com",
                "token",
            ),
            (
                "twilio://SK00000000000000000000000000000000:hunter22@api.twilio.com",
                "account",
            ),
            ("http://x:hunter22@api.twilio.com", "scheme"),
        ] {
            let error = TwilioConfig::from_url(url).unwrap_err();
            assert_eq!(error.context("setting"), Some(setting), "{url}: {error}");
        }
        assert!(serde_json::from_str::<TwilioConfig>(r#"{"account": "AC", "tokn": "x"}"#).is_err());
    }
}
