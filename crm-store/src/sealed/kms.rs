use std::fmt;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use crm_core::capability::{DataKey, KeyProvider, ToUnwrap, ToWrap, WrappedKey};
use crm_core::http::HttpClient;
use crm_core::{Effect, Error, ErrorKind, Health, Provider, ProviderInfo, Result, Retry, Secret, TenantId};
use http::{Method, Request, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value as Json};
use url::Url;
use zeroize::{Zeroize as _, Zeroizing};

/// A key management service, as data. The default words are those of the transit engine of HashiCorp Vault and OpenBao
/// (`POST /v1/transit/encrypt/:name`, batches, `associated_data` for AES-GCM keys, since Vault 1.10;
/// <https://developer.hashicorp.com/vault/api-docs/secret/transit>).
///
/// ```
/// use crm_store::sealed::HttpKmsConfig;
///
/// let config: HttpKmsConfig = serde_json::from_str(r#"{
///     "name": "vault",
///     "base": "https://vault.example:8200/v1/transit/",
///     "key": "crm-{tenant}",
///     "token": "s.abc"
/// }"#).unwrap();
/// assert!(config.validate().is_ok() && !format!("{config:?}").contains("s.abc"));
/// ```
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpKmsConfig {
    /// The provider's name.
    pub name: String,
    /// Under which URL the paths lie; https, and with a slash at the end.
    pub base: Url,
    /// The name of a tenant's key; `{tenant}` stands for the tenant. Without it, all tenants share one, kept apart by what
    /// their keys are bound to.
    pub key: String,
    /// What authenticates us.
    pub token: Secret,
    /// The header for the token. `X-Vault-Token`.
    #[serde(default = "words::token_header")]
    pub token_header: String,
    /// What stands before the token, such as `Bearer `. Nothing.
    #[serde(default)]
    pub token_prefix: String,
    /// Where keys are wrapped; `{key}` stands for the key's name. `encrypt/{key}`.
    #[serde(default = "words::wrap_path")]
    pub wrap_path: String,
    /// Where they are unwrapped. `decrypt/{key}`.
    #[serde(default = "words::unwrap_path")]
    pub unwrap_path: String,
    /// Where the current version of a key is asked for (GET). `keys/{key}`.
    #[serde(default = "words::current_path")]
    pub current_path: String,
    /// The list of a request. `batch_input`.
    #[serde(default = "words::list")]
    pub list: String,
    /// Where the list of an answer is (JSON pointer, RFC 6901). `/data/batch_results`.
    #[serde(default = "words::results")]
    pub results: String,
    /// Where the current version is (JSON pointer). `/data/latest_version`.
    #[serde(default = "words::latest")]
    pub latest: String,
    /// The data key of an item, in base64. `plaintext`.
    #[serde(default = "words::plain")]
    pub plain: String,
    /// The wrapped key of an item. `ciphertext`.
    #[serde(default = "words::wrapped")]
    pub wrapped: String,
    /// What an item is bound to, in base64. `associated_data`.
    #[serde(default = "words::bound")]
    pub bound: String,
    /// The version an item was wrapped with. `key_version`.
    #[serde(default = "words::version")]
    pub version: String,
}

mod words {
    macro_rules! words {
        ($($name:ident => $word:literal),* $(,)?) => {
            $(pub(super) fn $name() -> String { $word.to_owned() })*
        };
    }
    words! {
        token_header => "X-Vault-Token",
        wrap_path => "encrypt/{key}",
        unwrap_path => "decrypt/{key}",
        current_path => "keys/{key}",
        list => "batch_input",
        results => "/data/batch_results",
        latest => "/data/latest_version",
        plain => "plaintext",
        wrapped => "ciphertext",
        bound => "associated_data",
        version => "key_version",
    }
}

impl HttpKmsConfig {
    /// Checks every setting.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] naming the setting.
    pub fn validate(&self) -> Result<()> {
        let wrong = |setting: &'static str, message: &'static str| {
            Err(Error::config(message).with("setting", setting))
        };
        let local = matches!(self.base.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
        if self.base.scheme() != "https" && !local {
            return wrong("base", "keys only go over https, or to this machine");
        }
        if !self.base.path().ends_with('/') {
            return wrong("base", "the URL ends with a slash");
        }
        if self.key.is_empty() || self.key.contains(['/', '?', '#']) {
            return wrong("key", "a key has a name without '/', '?' and '#'");
        }
        if self.token.expose().is_empty() {
            return wrong("token", "there is no token");
        }
        if http::HeaderName::try_from(&self.token_header).is_err() {
            return wrong("token_header", "not the name of a header");
        }
        for (setting, path) in [
            ("wrap_path", &self.wrap_path),
            ("unwrap_path", &self.unwrap_path),
            ("current_path", &self.current_path),
        ] {
            if !path.contains("{key}") || path.starts_with('/') || path.contains("..") {
                return wrong(setting, "a path has {key} in it and does not begin with a slash");
            }
        }
        Ok(())
    }
}

/// A key management service over HTTP: data keys go there in batches to be wrapped and unwrapped, the tenants' keys never
/// leave it. Everything goes through the guarded client; a service in a private network needs an allow entry there.
///
/// Data keys are wiped from our own memory; the buffers of HTTP and TLS are not ours to wipe.
pub struct HttpKms {
    info: ProviderInfo,
    config: HttpKmsConfig,
    client: HttpClient,
}

impl fmt::Debug for HttpKms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpKms")
            .field("info", &self.info)
            .field("base", &crm_core::http::redacted(&self.config.base))
            .field("token", &"REDACTED")
            .finish_non_exhaustive()
    }
}

impl HttpKms {
    /// A service described by `config`.
    ///
    /// # Errors
    /// As [`HttpKmsConfig::validate`].
    pub fn new(config: HttpKmsConfig, client: HttpClient) -> Result<Self> {
        config.validate().map_err(|error| error.operation("keys.open"))?;
        Ok(Self {
            info: ProviderInfo::new("kms", config.name.clone()),
            config,
            client,
        })
    }

    fn key(&self, tenant: &TenantId) -> String {
        self.config.key.replace("{tenant}", tenant.as_str())
    }

    async fn call(&self, method: Method, path: &str, key: &str, body: Option<Json>) -> Result<Json> {
        let url = self.config.base.join(&path.replace("{key}", key)).map_err(|_| {
            Error::config("a path of the key management service makes no URL").with("path", path)
        })?;
        let token = Zeroizing::new(format!(
            "{}{}",
            self.config.token_prefix,
            self.config.token.expose()
        ));
        let mut token = http::HeaderValue::from_str(&token)
            .map_err(|_| Error::config("the token cannot stand in a header").with("setting", "token"))?;
        token.set_sensitive(true);
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(url.as_str())
            .header(self.config.token_header.as_str(), token)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(Bytes::from(body))
            .map_err(|_| Error::unexpected("a request to the key management service cannot be made"))?;
        // Wrapping changes nothing over there: it may be done again, whether it was heard or not.
        let answer = self.client.send(request).await.map_err(|error| {
            let again = matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Unavailable);
            let error = error.with_effect(Effect::None);
            if again {
                error.with_retry(Retry::Allowed { after: None })
            } else {
                error
            }
        })?;
        classify(answer.status)?;
        serde_json::from_slice(&answer.body)
            .map_err(|_| Error::new(ErrorKind::Corrupt, "the key management service answers no JSON"))
    }

    /// Sends a list and hands back the list that was answered, of the same length.
    async fn batch(&self, path: &str, key: &str, items: Vec<Json>) -> Result<Vec<Json>> {
        let asked = items.len();
        if asked == 0 {
            return Ok(items); // Vault refuses an empty batch
        }
        let mut body = Map::new();
        body.insert(self.config.list.clone(), Json::Array(items));
        let mut answer = self
            .call(Method::POST, path, key, Some(Json::Object(body)))
            .await?;
        match answer.pointer_mut(&self.config.results).map(Json::take) {
            Some(Json::Array(results)) if results.len() == asked => Ok(results),
            _ => Err(Error::new(
                ErrorKind::Corrupt,
                "the key management service did not answer for every key",
            )
            .with("asked", asked)),
        }
    }

    /// A field of an answer's item; where there is none, the service could not do it.
    fn text(&self, item: &Json, field: &str) -> Result<String> {
        match item.get(field) {
            Some(Json::String(text)) => Ok(text.clone()),
            Some(Json::Number(number)) => Ok(number.to_string()),
            _ => Err(Error::new(
                ErrorKind::Corrupt,
                "the key management service could not do this for a key: it was changed, or belongs to another tenant",
            )
            .with("answer_field", field)),
        }
    }
}

/// What a status means.
fn classify(status: StatusCode) -> Result<()> {
    let (kind, message) = match status.as_u16() {
        200..=299 => return Ok(()),
        400 => (
            ErrorKind::Corrupt,
            "the key management service refused a key: it was changed, or belongs to another tenant",
        ),
        401 => (
            ErrorKind::Unauthenticated,
            "the key management service does not know the token",
        ),
        403 => (
            ErrorKind::PermissionDenied,
            "the key management service refuses the token, or what it may do",
        ),
        404 => (
            ErrorKind::Config,
            "the key management service has no such key; make one of type aes256-gcm96 for the tenant",
        ),
        429 => (
            ErrorKind::RateLimited,
            "the key management service asks to slow down",
        ),
        408 | 500..=599 => (
            ErrorKind::Unavailable,
            "the key management service cannot serve now",
        ),
        _ => (
            ErrorKind::Unexpected,
            "the key management service answers with an unexpected status",
        ),
    };
    Err(Error::new(kind, message).with("status", status.as_u16()))
}

#[async_trait]
impl Provider for HttpKms {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }

    async fn check(&self) -> Result<Health> {
        // Any answer but a failure of the service itself: which keys there are, only a tenant's call can tell.
        match self
            .call(Method::GET, &self.config.current_path, "health", None)
            .await
        {
            Err(error) if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout) => Err(error),
            Err(error) if error.kind() == ErrorKind::Unauthenticated => Err(error),
            _ => Ok(Health::Ready),
        }
    }
}

#[async_trait]
impl KeyProvider for HttpKms {
    async fn current(&self, tenant: &TenantId) -> Result<String> {
        let key = self.key(tenant);
        let answer = self
            .call(Method::GET, &self.config.current_path, &key, None)
            .await
            .map_err(|error| error.operation("keys.current"))?;
        match answer.pointer(&self.config.latest) {
            Some(Json::Number(version)) => Ok(format!("{key}:{version}")),
            Some(Json::String(version)) => Ok(format!("{key}:{version}")),
            _ => Err(Error::new(
                ErrorKind::Corrupt,
                "the key management service does not say which version is current",
            )
            .operation("keys.current")
            .with("setting", "latest")),
        }
    }

    async fn wrap(&self, tenant: &TenantId, keys: &[ToWrap<'_>]) -> Result<Vec<WrappedKey>> {
        let named = |error: Error| error.operation("keys.wrap");
        let key = self.key(tenant);
        let items = keys
            .iter()
            .map(|one| {
                let mut item = Map::new();
                item.insert(
                    self.config.plain.clone(),
                    STANDARD.encode(one.key.expose()).into(),
                );
                item.insert(self.config.bound.clone(), STANDARD.encode(one.bound_to).into());
                Json::Object(item)
            })
            .collect();
        let results = self
            .batch(&self.config.wrap_path, &key, items)
            .await
            .map_err(named)?;
        results
            .iter()
            .map(|item| {
                Ok(WrappedKey {
                    key_id: format!("{key}:{}", self.text(item, &self.config.version).map_err(named)?),
                    bytes: self.text(item, &self.config.wrapped).map_err(named)?.into_bytes(),
                })
            })
            .collect()
    }

    async fn unwrap(&self, tenant: &TenantId, keys: &[ToUnwrap<'_>]) -> Result<Vec<DataKey>> {
        let named = |error: Error| error.operation("keys.unwrap");
        let key = self.key(tenant);
        let mut items = Vec::with_capacity(keys.len());
        for one in keys {
            let ours = one
                .wrapped
                .key_id
                .rsplit_once(':')
                .is_some_and(|(name, _)| name == key);
            let text = std::str::from_utf8(&one.wrapped.bytes).ok().filter(|_| ours);
            let text = text.ok_or_else(|| {
                named(Error::config(
                    "a data key is wrapped with a key of another name or provider",
                ))
                .with("key_id", &one.wrapped.key_id)
            })?;
            let mut item = Map::new();
            item.insert(self.config.wrapped.clone(), text.into());
            item.insert(self.config.bound.clone(), STANDARD.encode(one.bound_to).into());
            items.push(Json::Object(item));
        }
        let results = self
            .batch(&self.config.unwrap_path, &key, items)
            .await
            .map_err(named)?;
        results
            .iter()
            .map(|item| {
                let text = Zeroizing::new(self.text(item, &self.config.plain).map_err(named)?);
                let decoded = STANDARD.decode(text.as_bytes()).map(Zeroizing::new).ok();
                let bytes = decoded.and_then(|decoded| <[u8; 32]>::try_from(decoded.as_slice()).ok());
                let mut bytes = bytes.ok_or_else(|| {
                    named(Error::new(
                        ErrorKind::Corrupt,
                        "the key management service answers no data key",
                    ))
                })?;
                let data_key = DataKey::new(bytes);
                bytes.zeroize();
                Ok(data_key)
            })
            .collect()
    }
}
