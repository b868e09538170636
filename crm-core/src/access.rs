//! Who may do what: API keys, kept by any store.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! use std::sync::Arc;
//! use crm_core::access::{ApiKeys, NewKey};
//! use crm_core::capability::{Authenticator, Credentials};
//! use crm_core::memory::MemoryStore;
//! use crm_core::{Context, RandomIds, Secret, SystemClock, TenantId};
//!
//! let store = Arc::new(MemoryStore::new("records"));
//! let pepper = Secret::new("thirty-two or more characters, kept apart from the data");
//! let keys = ApiKeys::new(store, SystemClock::shared(), RandomIds::shared(), &pepper)?;
//!
//! let ctx = Context::new(TenantId::new("shop")?);
//! let issued = keys.issue(&ctx, NewKey::new("web shop", ["customers.read"])?).await?;
//! let shown_once = Credentials::Bearer(issued.token);
//! let who = keys.authenticate(&shown_once).await?;
//! assert!(who.require("customers.read").is_ok());
//! assert!(who.require("customers.write").is_err());
//!
//! keys.revoke(&ctx, issued.key.id).await?;
//! assert!(keys.authenticate(&shown_once).await.is_err());
//! # Ok::<(), crm_core::Error>(())
//! # }).unwrap();
//! ```

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::capability::{Authenticator, Credentials, Principal, RecordStore, Scope, not_authenticated};
use crate::query::{Cursor, Filter, Page, Query};
use crate::record::{Field, FieldType, Index, Record, Schema, Stored, Value, Write};
use crate::{
    Actor, Clock, Context, Error, ErrorKind, Health, IdSource, Provider, ProviderInfo, Result, Secret,
    TenantId, Timestamp, Uuid,
};

/// How API keys are stored: never the key itself, but a keyed hash of it.
///
/// All keys lie in one place, whatever their tenant: who presents one has not said yet whose it is.
pub static API_KEY: Schema = Schema {
    name: "crm_api_key",
    fields: &[
        Field::new("owner", FieldType::Text),
        Field::new("name", FieldType::Text),
        Field::new("hash", FieldType::Text),
        Field::new("scopes", FieldType::Json),
        Field::new("created_at", FieldType::Timestamp),
        Field::new("created_by", FieldType::Text).pseudonym(),
        Field::new("expires_at", FieldType::Timestamp).nullable(),
        Field::new("revoked_at", FieldType::Timestamp).nullable(),
    ],
    indexes: &[Index::new("crm_api_key_owner", &["owner", "created_at"])],
};

/// The tenant under which keys lie: no host can name one so, for theirs do not begin with `_`.
const KEYS: &str = "_api-keys";
/// How often a key is taken back anew after somebody else was faster.
const TRIES: usize = 20;
/// What a key begins with, so that scanners for leaked secrets know it.
const PREFIX: &str = "ocrm_";

/// An API key, without the secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// Its id; also the part of the key that is no secret.
    pub id: Uuid,
    /// Whose it is.
    pub tenant: TenantId,
    /// What it is for.
    pub name: String,
    /// What it allows.
    pub scopes: BTreeSet<Scope>,
    /// When it was made.
    pub created_at: Timestamp,
    /// From when on it no longer holds.
    pub expires_at: Option<Timestamp>,
    /// When it was taken back.
    pub revoked_at: Option<Timestamp>,
}

/// A key to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewKey {
    /// What it is for, 1 to 200 characters.
    pub name: String,
    /// What it allows.
    pub scopes: BTreeSet<Scope>,
    /// From when on it no longer holds; never when absent.
    pub expires_at: Option<Timestamp>,
}

impl NewKey {
    /// A key that does not expire.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] as [`Scope::new`].
    pub fn new<'a>(name: impl Into<String>, scopes: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        Ok(Self {
            name: name.into(),
            scopes: scopes.into_iter().map(Scope::new).collect::<Result<_>>()?,
            expires_at: None,
        })
    }

    /// Says from when on it no longer holds.
    #[must_use]
    pub fn until(mut self, at: Timestamp) -> Self {
        self.expires_at = Some(at);
        self
    }
}

/// A key that was just made: the only time its text is known. `Debug` does not show it.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The key as it is presented: `Authorization: Bearer ocrm_...`.
    pub token: Secret,
    /// What is stored of it.
    pub key: ApiKey,
}

/// Makes, checks and takes back API keys. `Debug` shows no secret.
pub struct ApiKeys {
    info: ProviderInfo,
    store: Arc<dyn RecordStore>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdSource>,
    mac: Hmac<Sha256>,
    home: TenantId,
    ready: AtomicBool,
}

impl fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKeys")
            .field("info", &self.info)
            .finish_non_exhaustive()
    }
}

impl ApiKeys {
    /// Keys kept by `store`. `pepper` is a secret of at least 32 bytes that does not lie with the data: whoever reads the
    /// store alone can neither use nor make keys. With another pepper no key holds any more.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when the pepper is short.
    pub fn new(
        store: Arc<dyn RecordStore>,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn IdSource>,
        pepper: &Secret,
    ) -> Result<Self> {
        if pepper.expose().len() < 32 {
            return Err(Error::config(
                "a pepper has at least 32 bytes; make one with `openssl rand -base64 32`",
            )
            .with("setting", "pepper"));
        }
        let mac = Hmac::<Sha256>::new_from_slice(pepper.expose().as_bytes())
            .map_err(|_| Error::config("the pepper cannot be used as a key").with("setting", "pepper"))?;
        Ok(Self {
            info: ProviderInfo::new("api-keys", "api-keys"),
            store,
            clock,
            ids,
            mac,
            home: TenantId::of_the_platform(KEYS),
            ready: AtomicBool::new(false),
        })
    }

    fn hash(&self, what: &str, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut mac = self.mac.clone();
        for part in std::iter::once(what.as_bytes()).chain(parts.iter().copied()) {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        mac
    }

    async fn home(&self) -> Result<Context> {
        if !self.ready.load(Ordering::Relaxed) {
            self.store.migrate(&[&API_KEY]).await?;
            self.ready.store(true, Ordering::Relaxed);
        }
        Ok(Context::new(self.home.clone()).actor(Actor::system("api-keys")))
    }

    /// Makes a key for the tenant of the context.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] naming the field; the store's.
    pub async fn issue(&self, ctx: &Context, new: NewKey) -> Result<Issued> {
        let named = |error: Error| error.operation("api_keys.issue");
        let (issued, write) = self.made(ctx, new).map_err(named)?;
        let home = self.home().await.map_err(named)?;
        self.store.apply(&home, &[write]).await.map_err(named)?;
        Ok(issued)
    }

    /// A new key, and the write that makes it hold.
    fn made(&self, ctx: &Context, new: NewKey) -> Result<(Issued, Write)> {
        if new.name.trim().is_empty() || new.name.chars().count() > 200 || new.name.contains('\0') {
            return Err(Error::invalid("a key has a name of 1 to 200 characters").with("field", "name"));
        }
        if new.scopes.is_empty() {
            return Err(
                Error::invalid("a key without scopes allows nothing; name at least one")
                    .with("field", "scopes"),
            );
        }
        let now = self.clock.now();
        if new.expires_at.is_some_and(|at| at <= now) {
            return Err(Error::invalid("a key cannot expire before it is made").with("field", "expires_at"));
        }
        let id = self.ids.fresh();
        // Under the pepper, so that whoever guesses the ids still knows nothing.
        let fresh = [self.ids.fresh(), self.ids.fresh(), self.ids.fresh()];
        let parts = [&id, &fresh[0], &fresh[1], &fresh[2]].map(|id| id.as_bytes().as_slice());
        let secret = self.hash("secret", &parts).finalize().into_bytes();
        let token = Secret::new(format!(
            "{PREFIX}{}_{}",
            URL_SAFE_NO_PAD.encode(id.as_bytes()),
            URL_SAFE_NO_PAD.encode(secret)
        ));
        let hash = self.hash("stored", &[token.expose().as_bytes()]);
        let actor = match ctx.acting() {
            Actor::System(name) => format!("system:{name}"),
            Actor::User(id) => format!("user:{id}"),
        };
        let scopes = serde_json::to_value(&new.scopes)
            .map_err(|error| Error::unexpected("scopes are not JSON").source(error))?;
        let record = Record::from_values(
            &API_KEY,
            vec![
                ctx.tenant().as_str().into(),
                new.name.as_str().into(),
                URL_SAFE_NO_PAD.encode(hash.finalize().into_bytes()).into(),
                scopes.into(),
                now.into(),
                actor.into(),
                new.expires_at.into(),
                Value::Null,
            ],
        )?;
        let key = ApiKey {
            id,
            tenant: ctx.tenant().clone(),
            name: new.name,
            scopes: new.scopes,
            created_at: now,
            expires_at: new.expires_at,
            revoked_at: None,
        };
        Ok((Issued { token, key }, Write::insert(id, record)))
    }

    /// The tenant's keys, the newest first, those that no longer hold included.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a wrong limit or cursor; the store's.
    pub async fn list(&self, ctx: &Context, limit: u32, after: Option<Cursor>) -> Result<Page<ApiKey>> {
        let named = |error: Error| error.operation("api_keys.list");
        let query = Query::new(Filter::eq("owner", ctx.tenant().as_str()))
            .descending("created_at")
            .limit(limit)
            .after(after);
        let home = self.home().await.map_err(named)?;
        self.store
            .find(&home, &API_KEY, &query)
            .await
            .map_err(named)?
            .try_map(|stored| read(&stored))
    }

    /// Takes a key back: from now on it does not hold. Again is harmless.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when the tenant has no such key; the store's.
    pub async fn revoke(&self, ctx: &Context, id: Uuid) -> Result<ApiKey> {
        let named = |error: Error| error.operation("api_keys.revoke");
        let home = self.home().await.map_err(named)?;
        for _ in 0..TRIES {
            let (mut key, stored) = self.owned(ctx, &home, id).await.map_err(named)?;
            if key.revoked_at.is_some() {
                return Ok(key);
            }
            let now = self.clock.now();
            let record = stored.record.with("revoked_at", now).map_err(named)?;
            match self
                .store
                .apply(&home, &[Write::update(id, stored.version, record)])
                .await
            {
                Ok(_) => {
                    key.revoked_at = Some(now);
                    return Ok(key);
                }
                // Somebody else was faster: looked at again, it may be revoked already.
                Err(error) if error.kind() == ErrorKind::Conflict => {}
                Err(error) => return Err(named(error)),
            }
        }
        Err(named(
            Error::conflict("others kept changing the same key; try again").with("key", id),
        ))
    }

    /// Makes a key with the name and scopes of this one, and lets this one hold until `overlap_until` at the longest, so
    /// that its users can change over; both in one unit of work.
    ///
    /// # Errors
    /// As [`ApiKeys::issue`]; [`ErrorKind::NotFound`] when the tenant has no such key, [`ErrorKind::Conflict`] when it no
    /// longer holds or was changed at this moment.
    pub async fn rotate(
        &self,
        ctx: &Context,
        id: Uuid,
        overlap_until: Timestamp,
        expires_at: Option<Timestamp>,
    ) -> Result<Issued> {
        let named = |error: Error| error.operation("api_keys.rotate");
        let home = self.home().await.map_err(named)?;
        let (key, stored) = self.owned(ctx, &home, id).await.map_err(named)?;
        if !holds(&key, self.clock.now()) {
            return Err(named(
                Error::conflict("the key no longer holds; issue a new one").with("key", id),
            ));
        }
        let end = key.expires_at.map_or(overlap_until, |at| at.min(overlap_until));
        let next = NewKey {
            name: key.name,
            scopes: key.scopes,
            expires_at,
        };
        let (issued, made) = self.made(ctx, next).map_err(named)?;
        let record = stored.record.with("expires_at", end).map_err(named)?;
        self.store
            .apply(&home, &[made, Write::update(id, stored.version, record)])
            .await
            .map_err(named)?;
        Ok(issued)
    }

    /// A key of the context's tenant.
    async fn owned(&self, ctx: &Context, home: &Context, id: Uuid) -> Result<(ApiKey, Stored)> {
        let found = self.store.get(home, &API_KEY, &[id]).await?;
        let missing = || Error::new(ErrorKind::NotFound, "there is no such key").with("key", id);
        let stored = found.into_iter().flatten().next().ok_or_else(missing)?;
        let key = read(&stored)?;
        if key.tenant == *ctx.tenant() {
            Ok((key, stored))
        } else {
            Err(missing())
        }
    }

    async fn holder(&self, token: &str) -> Result<Principal> {
        let id = token
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.get(..22))
            .and_then(|id| URL_SAFE_NO_PAD.decode(id).ok())
            .and_then(|id| Uuid::from_slice(&id).ok())
            .ok_or_else(not_authenticated)?;
        let home = self.home().await?;
        let found = self.store.get(&home, &API_KEY, &[id]).await?;
        let stored = found.into_iter().flatten().next().ok_or_else(not_authenticated)?;
        let hash = URL_SAFE_NO_PAD
            .decode(stored.record.text("hash")?)
            .map_err(|_| stored.record.damaged("hash"))?;
        // In constant time.
        self.hash("stored", &[token.as_bytes()])
            .verify_slice(&hash)
            .map_err(|_| not_authenticated())?;
        let key = read(&stored)?;
        if !holds(&key, self.clock.now()) {
            return Err(not_authenticated());
        }
        Ok(Principal {
            tenant: key.tenant,
            actor: Actor::system(format!("api-key {id}")),
            scopes: key.scopes,
        })
    }
}

fn holds(key: &ApiKey, now: Timestamp) -> bool {
    key.revoked_at.is_none() && key.expires_at.is_none_or(|at| now < at)
}

fn read(stored: &Stored) -> Result<ApiKey> {
    let record = &stored.record;
    let time = |field: &str| record.get(field).and_then(Value::as_timestamp);
    Ok(ApiKey {
        id: stored.id,
        tenant: TenantId::new(record.text("owner")?).map_err(|_| record.damaged("owner"))?,
        name: record.text("name")?.to_owned(),
        scopes: record.json("scopes")?,
        created_at: record.timestamp("created_at")?,
        expires_at: time("expires_at"),
        revoked_at: time("revoked_at"),
    })
}

#[async_trait]
impl Provider for ApiKeys {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }
    async fn check(&self) -> Result<Health> {
        self.store.check().await
    }
}

#[async_trait]
impl Authenticator for ApiKeys {
    async fn authenticate(&self, credentials: &Credentials) -> Result<Principal> {
        let token = match credentials {
            Credentials::Bearer(token) => token,
            // Tools that only know names and passwords give the key as the password.
            Credentials::Basic { password, .. } => password,
            Credentials::Nothing => return Err(not_authenticated().operation("api_keys.authenticate")),
        };
        self.holder(token.expose())
            .await
            .map_err(|error| error.operation("api_keys.authenticate"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryStore;
    use crate::{RandomIds, SystemClock};

    #[tokio::test]
    async fn the_store_knows_no_key_and_no_host_reaches_it() {
        let store = Arc::new(MemoryStore::new("records"));
        let pepper = Secret::new("a pepper of more than thirty-two bytes");
        let keys = ApiKeys::new(store.clone(), SystemClock::shared(), RandomIds::shared(), &pepper).unwrap();
        let ctx = Context::new(TenantId::new("shop").unwrap());
        let issued = keys
            .issue(&ctx, NewKey::new("web", ["*.*"]).unwrap())
            .await
            .unwrap();
        let secret = issued.token.expose().get(28..).unwrap().to_owned();
        assert_eq!(secret.len(), 43, "256 bits");

        let home = Context::new(TenantId::of_the_platform(KEYS));
        let all = Query::new(Filter::All);
        let found = store.find(&home, &API_KEY, &all).await.unwrap().items;
        let [stored] = found.as_slice() else {
            panic!("one key")
        };
        let shown = serde_json::to_string(stored.record.values()).unwrap();
        assert!(shown.contains("web"), "the oracle sees what is stored");
        assert!(!shown.contains(&secret) && !shown.contains(issued.token.expose()));
        assert!(!format!("{issued:?} {keys:?}").contains(&secret));

        assert!(store.find(&ctx, &API_KEY, &all).await.unwrap().items.is_empty());
        assert!(TenantId::new(KEYS).is_err(), "no host can name the place");
    }
}
