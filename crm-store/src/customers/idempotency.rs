//! Requests that may come twice and are carried out once.

use std::time::Duration;

use crm_core::query::{Filter, Query};
use crm_core::record::{Field, FieldType, Index, Record, Schema, Stored, Value, Write};
use crm_core::{Context, Error, ErrorKind, Result, Retry};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::batch::{Op, OpDone};
use super::{Customers, import};

/// How long an answer is kept.
pub const KEPT: Duration = Duration::from_secs(24 * 60 * 60);
/// How often a unit of work is planned anew after somebody else was faster.
const TRIES: usize = 200;
/// Keys removed in one unit of work.
const SWEPT: u32 = 1000;

/// How keys are kept: what was asked, as a hash, and what was answered.
pub static IDEMPOTENCY_KEY: Schema = Schema {
    name: "crm_idempotency_key",
    fields: &[
        Field::new("operation", FieldType::Text),
        Field::new("request_key", FieldType::Text).pseudonym(),
        Field::new("request_hash", FieldType::Text).pseudonym(),
        Field::new("answer", FieldType::Json).personal(),
        Field::new("created_at", FieldType::Timestamp),
        Field::new("expires_at", FieldType::Timestamp),
    ],
    indexes: &[
        Index::unique("crm_idempotency_key_request", &["operation", "request_key"]),
        Index::new("crm_idempotency_key_expiry", &["expires_at"]),
    ],
};

/// The answer to a request with a key.
#[derive(Debug, Clone, PartialEq)]
pub struct Once<A> {
    /// What was answered the first time.
    pub answer: A,
    /// Whether this was not the first time: nothing was done now.
    pub replayed: bool,
}

impl Customers {
    /// Carries out changes as one unit of work, once for this key: whoever asks again with the same key and the same
    /// changes, now or within [`KEPT`], gets the first answer. The key is stored in the same unit of work, so that after a
    /// lost answer ([`crm_core::Effect::Unknown`]) the same call tells what happened.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] with `index=idempotency_key` when the key was used for other changes; those of
    /// [`Customers::batch`]. After an error the key is free.
    pub async fn once(&self, ctx: &Context, key: &str, ops: Vec<Op>) -> Result<Once<Vec<OpDone>>> {
        self.once_for(ctx, "customers.batch", key, &ops, &ops).await
    }

    /// [`Customers::once`] for changes that were made of a request: the same request is recognised even where what was made of
    /// it holds the time it came.
    pub(crate) async fn once_for<Q: Serialize + Sync + ?Sized>(
        &self,
        ctx: &Context,
        operation: &str,
        key: &str,
        request: &Q,
        ops: &[Op],
    ) -> Result<Once<Vec<OpDone>>> {
        let answer = self
            .once_as(ctx, operation, key, request, || {
                self.batch_writes_swapped(ctx, ops)
            })
            .await?;
        if !answer.replayed {
            self.told(ctx, ops).await?;
        }
        Ok(answer)
    }

    async fn batch_writes_swapped(&self, ctx: &Context, ops: &[Op]) -> Result<(Vec<Write>, Vec<OpDone>)> {
        let (done, writes) = self.batch_writes(ctx, ops).await?;
        Ok((writes, done))
    }

    /// The same for an operation of the host's own: `plan` reads what it needs and says what is to be written and
    /// answered. It may be asked again when somebody else was faster, so it does nothing else. Keys of different
    /// operations do not meet.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// # use std::sync::Arc;
    /// # use crm_core::memory::MemoryStore;
    /// # use crm_core::{Context, RandomIds, SystemClock, TenantId, Timestamp};
    /// use crm_store::customers::Customers;
    ///
    /// # let store = Arc::new(MemoryStore::new("records"));
    /// # let customers = Customers::new(store, SystemClock::shared(), RandomIds::shared());
    /// # let ctx = Context::new(TenantId::new("shop").unwrap());
    /// let order = |n: i64| customers.once_as(&ctx, "orders.place", "key-1", &42, move || async move { Ok((vec![], n)) });
    /// assert_eq!(order(7).await.unwrap().answer, 7);
    /// assert_eq!(order(8).await.unwrap().answer, 7, "the first answer");
    /// # });
    /// ```
    ///
    /// # Errors
    /// As [`Customers::once`]; those of `plan`.
    pub async fn once_as<Q, A, P, F>(
        &self,
        ctx: &Context,
        operation: &str,
        key: &str,
        request: &Q,
        plan: P,
    ) -> Result<Once<A>>
    where
        Q: Serialize + Sync + ?Sized,
        A: Serialize + DeserializeOwned + Send,
        P: Fn() -> F + Send,
        F: Future<Output = Result<(Vec<Write>, A)>> + Send,
    {
        let named = |error: Error| error.operation("customers.once");
        for (field, text) in [("operation", operation), ("key", key)] {
            if text.trim().is_empty() || text.len() > 255 || text.contains('\0') {
                return Err(named(
                    Error::invalid("an operation and a key have 1 to 255 characters").with("field", field),
                ));
            }
        }
        self.prepare().await.map_err(named)?;
        let hash = fingerprint(request).map_err(named)?;
        for _ in 0..TRIES {
            let known = self.key(ctx, operation, key).await.map_err(named)?;
            let now = self.clock.now();
            let mut writes = Vec::new();
            if let Some(known) = known {
                if known.record.timestamp("expires_at").map_err(named)? > now {
                    return replay(&known, &hash).map_err(named);
                }
                writes.push(Write::delete(&IDEMPOTENCY_KEY, known.id, Some(known.version)));
            }
            let (effect, answer) = match plan().await {
                Ok(planned) => planned,
                Err(error) => match self.key(ctx, operation, key).await.map_err(named)? {
                    // It stumbled over what the same request has just done elsewhere.
                    Some(known) if known.record.timestamp("expires_at").map_err(named)? > now => continue,
                    _ => return Err(named(error)),
                },
            };
            let json = serde_json::to_value(&answer).map_err(|error| {
                named(
                    Error::invalid("the answer cannot be kept as JSON")
                        .with("field", "answer")
                        .source(error),
                )
            })?;
            let record = Record::from_values(
                &IDEMPOTENCY_KEY,
                vec![
                    operation.into(),
                    key.into(),
                    hash.as_str().into(),
                    Value::Json(json),
                    now.into(),
                    now.plus(KEPT).into(),
                ],
            )
            .map_err(named)?;
            // The key comes first: whoever is late stops there.
            writes.push(Write::insert(self.ids.fresh(), record));
            writes.extend(effect);
            match self.commit(ctx, &writes).await {
                Ok(_) => {
                    return Ok(Once {
                        answer,
                        replayed: false,
                    });
                }
                Err(error)
                    if import::is_race(&error)
                        || (error.kind() == ErrorKind::Conflict
                            && error.context("schema") == Some(IDEMPOTENCY_KEY.name)) =>
                {
                    tokio::task::yield_now().await;
                }
                Err(error) => return Err(named(error)),
            }
        }
        Err(named(
            Error::conflict("others kept changing the same records; try again later")
                .with("tries", TRIES)
                .with_retry(Retry::Exhausted),
        ))
    }

    async fn key(&self, ctx: &Context, operation: &str, key: &str) -> Result<Option<Stored>> {
        let filter = Filter::eq("operation", operation).and(Filter::eq("request_key", key));
        let page = self
            .store
            .find(ctx, &IDEMPOTENCY_KEY, &Query::new(filter).limit(1))
            .await?;
        Ok(page.items.into_iter().next())
    }

    /// Removes keys whose time is over; answers how many there were. A host calls it now and then.
    ///
    /// # Errors
    /// The store's.
    pub async fn sweep_keys(&self, ctx: &Context) -> Result<u64> {
        self.prepare().await?;
        let query = Query::new(Filter::le("expires_at", self.clock.now())).limit(SWEPT);
        let mut swept = 0;
        loop {
            let page = self.store.find(ctx, &IDEMPOTENCY_KEY, &query).await?;
            if page.items.is_empty() {
                return Ok(swept);
            }
            let writes: Vec<Write> = page
                .items
                .iter()
                .map(|stored| Write::delete(&IDEMPOTENCY_KEY, stored.id, Some(stored.version)))
                .collect();
            match self.store.apply(ctx, &writes).await {
                Ok(_) => swept += writes.len() as u64,
                // Somebody else sweeps the same ones: fewer are left.
                Err(error) if error.kind() == ErrorKind::Conflict => tokio::task::yield_now().await,
                Err(error) => return Err(error.operation("customers.sweep_keys")),
            }
        }
    }
}

fn replay<A: DeserializeOwned>(known: &Stored, hash: &str) -> Result<Once<A>> {
    let r = &known.record;
    if r.text("request_hash")? != hash {
        return Err(Error::conflict(
            "this key was used for another request; take a fresh key for each request",
        )
        .with("index", "idempotency_key")
        .with("field", "key"));
    }
    let answer = r
        .get("answer")
        .and_then(Value::as_json)
        .ok_or_else(|| r.damaged("answer"))?;
    let answer = A::deserialize(answer).map_err(|_| r.damaged("answer"))?;
    Ok(Once {
        answer,
        replayed: true,
    })
}

/// A hash over the request as JSON with sorted keys.
fn fingerprint<Q: Serialize + ?Sized>(request: &Q) -> Result<String> {
    let json = serde_json::to_value(request).map_err(|error| {
        Error::invalid("the request cannot be written as JSON")
            .with("field", "request")
            .source(error)
    })?;
    let digest = Sha256::digest(json.to_string().as_bytes());
    Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}
