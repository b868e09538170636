use crm_core::http::HttpConfig;
use crm_core::{Result, Secret};
use serde::Deserialize;
use url::Url;

use crate::exchange::endpoint;
use crate::settings::{decoded, number, wrong};

/// How requests are signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AliyunSignature {
    /// Version 3, `ACS3-HMAC-SHA256`: over the headers and the body too.
    #[default]
    V3,
    /// The older version of RPC interfaces, `HMAC-SHA1` in the query: for a gateway on the way that knows nothing else.
    V2,
}

/// The settings of an Aliyun account: as configuration, or as a URL ([`AliyunConfig::from_url`]).
///
/// ```
/// use crm_channels::aliyun::AliyunConfig;
///
/// let url = "aliyun://LTAI5tExample:s3cret@cn-hangzhou?sign_name=%E9%98%BF%E9%87%8C%E4%BA%91&caller=057112345678";
/// let config = AliyunConfig::from_url(url).unwrap();
/// assert_eq!(config.sign_name.as_deref(), Some("阿里云"));
/// assert!(!format!("{config:?}").contains("s3cret"));
/// ```
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AliyunConfig {
    /// The AccessKey's id.
    pub key: String,
    /// The AccessKey's secret.
    pub secret: Secret,
    /// The security token that belongs to a temporary AccessKey (STS).
    #[serde(default)]
    pub token: Option<Secret>,
    /// The region; chooses the endpoint of the SMS service.
    #[serde(default = "hangzhou")]
    pub region: String,
    /// How requests are signed.
    #[serde(default)]
    pub signature: AliyunSignature,
    /// The name that messages are signed with, where their template does not say.
    #[serde(default)]
    pub sign_name: Option<String>,
    /// Digits that answers to a message come back with (`SmsUpExtendCode`).
    #[serde(default)]
    pub extend_code: Option<String>,
    /// The number that calls show, where they do not say; none in the vendor's common mode.
    #[serde(default)]
    pub caller: Option<String>,
    /// How often a call's text is spoken; 1 to 3.
    #[serde(default)]
    pub play_times: Option<u32>,
    /// How loud, 0 to 100.
    #[serde(default)]
    pub volume: Option<u32>,
    /// How fast, -500 to 500.
    #[serde(default)]
    pub speed: Option<i32>,
    /// The last part of the path at which receipts come in: Aliyun signs nothing, so only who knows it is believed. At
    /// least 16 characters.
    #[serde(default)]
    pub hook_secret: Option<Secret>,
    /// Another address than Aliyun's own, for a proxy of yours or a test.
    #[serde(default)]
    pub base_url: Option<Url>,
    /// The HTTP client's settings.
    #[serde(default)]
    pub http: HttpConfig,
}

fn hangzhou() -> String {
    "cn-hangzhou".to_owned()
}

/// The two services.
#[derive(Debug, Clone, Copy)]
pub(super) enum Service {
    Sms,
    Voice,
}

const KNOWN: &str = "unknown setting; known are token, signature, sign_name, extend_code, caller, play_times, volume, speed, hook_secret, base_url, timeout, allow";

impl AliyunConfig {
    /// An account in the region `cn-hangzhou`.
    pub fn new(key: impl Into<String>, secret: Secret) -> Self {
        Self {
            key: key.into(),
            secret,
            token: None,
            region: hangzhou(),
            signature: AliyunSignature::V3,
            sign_name: None,
            extend_code: None,
            caller: None,
            play_times: None,
            volume: None,
            speed: None,
            hook_secret: None,
            base_url: None,
            http: HttpConfig::default(),
        }
    }

    /// From `aliyun://KEY:SECRET@REGION?sign_name=...`; key and secret are percent-encoded. Further keys are the names of
    /// the settings, and `timeout` (seconds) and `allow` ([`crm_core::http::AllowEntry`]) of the HTTP client.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Config`] naming the part; never the URL, which holds the secret.
    pub fn from_url(url: &str) -> Result<Self> {
        let url = Url::parse(url).map_err(|e| {
            wrong(
                "url",
                "not a URL; write it as aliyun://KEY:SECRET@cn-hangzhou?sign_name=...",
            )
            .source(e)
        })?;
        if url.scheme() != "aliyun" {
            return Err(wrong("scheme", "the scheme of an Aliyun account is aliyun"));
        }
        if !matches!(url.path(), "" | "/") || url.fragment().is_some() || url.port().is_some() {
            return Err(wrong(
                "path",
                "an account's URL has no path, no port and no fragment",
            ));
        }
        let Some(password) = url.password() else {
            return Err(wrong(
                "secret",
                "the secret is missing; write it after the key, as aliyun://KEY:SECRET@...",
            ));
        };
        let mut config = Self::new(decoded(url.username()), Secret::new(decoded(password)));
        if let Some(region) = url.host_str().filter(|host| !host.is_empty()) {
            config.region = region.to_owned();
        }
        for (key, value) in url.query_pairs() {
            let value = value.into_owned();
            match key.as_ref() {
                "token" => config.token = Some(Secret::new(value)),
                "signature" => {
                    config.signature = match value.as_str() {
                        "v3" => AliyunSignature::V3,
                        "v2" => AliyunSignature::V2,
                        _ => return Err(wrong("signature", "requests are signed by v3 or v2")),
                    }
                }
                "sign_name" => config.sign_name = Some(value),
                "extend_code" => config.extend_code = Some(value),
                "caller" => config.caller = Some(value),
                "play_times" => config.play_times = Some(number("play_times", &value)?),
                "volume" => config.volume = Some(number("volume", &value)?),
                "speed" => config.speed = Some(number("speed", &value)?),
                "hook_secret" => config.hook_secret = Some(Secret::new(value)),
                "base_url" => {
                    config.base_url = Some(value.parse().map_err(|_| wrong("base_url", "not a URL"))?);
                }
                "timeout" => {
                    config.http.total_timeout = std::time::Duration::from_secs(number("timeout", &value)?)
                }
                "allow" => config.http.allow.push(value.parse()?),
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
        let visible =
            |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && b != b',');
        if !visible(&self.key) {
            return Err(wrong(
                "key",
                "the AccessKey's id is missing or has characters no key has",
            ));
        }
        if self.secret.expose().is_empty() {
            return Err(wrong("secret", "the AccessKey's secret is missing"));
        }
        if self.token.as_ref().is_some_and(|token| !visible(token.expose())) {
            return Err(wrong(
                "token",
                "a security token that is given is not empty, and one word",
            ));
        }
        let region = |text: &str| {
            (1..=32).contains(&text.len())
                && text
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        if !region(&self.region) {
            return Err(wrong(
                "region",
                "a region is a word such as cn-hangzhou or ap-southeast-1",
            ));
        }
        let blank = |text: &Option<String>| {
            text.as_deref()
                .is_some_and(|text| text.trim().is_empty() || text.chars().any(char::is_control))
        };
        if blank(&self.sign_name) {
            return Err(wrong(
                "sign_name",
                "a name that is given is not empty; leave it out instead",
            ));
        }
        let digits = |text: &Option<String>| {
            text.as_deref()
                .is_some_and(|text| text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()))
        };
        if digits(&self.extend_code) {
            return Err(wrong("extend_code", "an extension is made of digits"));
        }
        if digits(&self.caller) {
            return Err(wrong(
                "caller",
                "a number to show is made of digits, as the vendor's console writes it",
            ));
        }
        if self.play_times.is_some_and(|times| !(1..=3).contains(&times)) {
            return Err(wrong("play_times", "a text is spoken 1 to 3 times"));
        }
        if self.volume.is_some_and(|volume| volume > 100) {
            return Err(wrong("volume", "the volume is 0 to 100"));
        }
        if self.speed.is_some_and(|speed| !(-500..=500).contains(&speed)) {
            return Err(wrong("speed", "the speed is -500 to 500"));
        }
        if self.hook_secret.as_ref().is_some_and(|secret| {
            secret.expose().len() < 16
                || !secret
                    .expose()
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
        }) {
            return Err(wrong(
                "hook_secret",
                "a secret part of a path has at least 16 of a-z, A-Z, 0-9, - and _",
            ));
        }
        if let Some(url) = &self.base_url {
            endpoint("base_url", url)?;
            if url.query().is_some() || url.path() != "/" {
                return Err(wrong("base_url", "this address has no path and no query"));
            }
        }
        self.http.validate()
    }

    /// Where the service is; the list of regions with an endpoint of their own is that of the vendor's own client.
    pub(super) fn endpoint(&self, service: Service) -> Result<Url> {
        let host = match (service, self.region.as_str()) {
            (Service::Sms, "cn-beijing") => "dysmsapi-proxy.cn-beijing.aliyuncs.com".to_owned(),
            (Service::Sms, "cn-hongkong") => "dysmsapi-xman.cn-hongkong.aliyuncs.com".to_owned(),
            (Service::Sms, region @ ("ap-southeast-1" | "ap-southeast-5" | "eu-central-1" | "us-east-1")) => {
                format!("dysmsapi.{region}.aliyuncs.com")
            }
            (Service::Sms, _) => "dysmsapi.aliyuncs.com".to_owned(),
            (Service::Voice, _) => "dyvmsapi.aliyuncs.com".to_owned(),
        };
        match &self.base_url {
            Some(url) => Ok(url.clone()),
            None => Url::parse(&format!("https://{host}/"))
                .map_err(|e| wrong("region", "no address can be made of it").source(e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let config = AliyunConfig::from_url(
            "aliyun://LTAI5t:s3%2Fcret@ap-southeast-1?token=t%3D&play_times=2&signature=v2",
        )
        .unwrap();
        assert_eq!(config.signature, AliyunSignature::V2);
        assert_eq!(config.secret.expose(), "s3/cret");
        assert_eq!(config.token.as_ref().unwrap().expose(), "t=");
        for (region, service, host) in [
            (
                "ap-southeast-1",
                Service::Sms,
                "dysmsapi.ap-southeast-1.aliyuncs.com",
            ),
            (
                "cn-beijing",
                Service::Sms,
                "dysmsapi-proxy.cn-beijing.aliyuncs.com",
            ),
            ("cn-shanghai", Service::Sms, "dysmsapi.aliyuncs.com"),
            ("cn-shanghai", Service::Voice, "dyvmsapi.aliyuncs.com"),
        ] {
            let config = AliyunConfig {
                region: region.into(),
                ..config.clone()
            };
            assert_eq!(config.endpoint(service).unwrap().host_str(), Some(host));
        }
        assert_eq!(
            AliyunConfig::from_url("aliyun://LTAI5t:x@")
                .unwrap_err()
                .context("setting"),
            Some("url")
        );
    }

    #[test]
    fn what_is_wrong_is_named_and_the_secret_is_not() {
        for (rest, setting) in [
            ("cn-hangzhou?sing_name=x", "sing_name"),
            ("cn-hangzhou?sign_name=", "sign_name"),
            ("cn-hangzhou?token=", "token"),
            ("cn-hangzhou?extend_code=x", "extend_code"),
            ("cn-hangzhou?caller=%2B86571", "caller"),
            ("cn-hangzhou?play_times=4", "play_times"),
            ("cn-hangzhou?signature=v1", "signature"),
            ("cn-hangzhou?volume=101", "volume"),
            ("cn-hangzhou?speed=-501", "speed"),
            ("cn-hangzhou?speed=fast", "speed"),
            ("cn-hangzhou?hook_secret=short", "hook_secret"),
            ("cn-hangzhou?base_url=http://dysmsapi.example", "base_url"),
            ("CN_1", "region"),
            ("cn-hangzhou/x", "path"),
        ] {
            let error = AliyunConfig::from_url(&format!("aliyun://LTAI5t:hunter22@{rest}")).unwrap_err();
            assert_eq!(error.context("setting"), Some(setting), "{rest}: {error}");
            assert!(!format!("{error:?}").contains("hunter22"), "{error:?}");
        }
        assert!(serde_json::from_str::<AliyunConfig>(r#"{"key": "a", "secret": "b", "sign": "c"}"#).is_err());
        let error = AliyunConfig::from_url("aliyun://LTAI5t@cn-hangzhou").unwrap_err();
        assert_eq!(error.context("setting"), Some("secret"));
    }
}
