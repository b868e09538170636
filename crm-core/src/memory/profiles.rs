use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;

use crate::capability::{EditRun, Edited, EditsUndone, ProfileEdit, ProfileWriter, RecordStore};
use crate::customer::{CUSTOMER, CustomerId};
use crate::record::{Outcome, Record, Version, Write};
use crate::{Clock, Context, Error, ErrorKind, Result};

/// Customers named in [`EditsUndone`].
const NAMED: usize = 1_000;

/// A [`ProfileWriter`] over any store that remembers its runs as long as it lives. For tests and small jobs: it knows of
/// no declared attributes and no merged customers; `crm_store::Customers` does.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use std::sync::Arc;
/// use crm_core::capability::{EditRun, Edited, ProfileEdit, ProfileWriter, RecordStore};
/// use crm_core::customer::{CUSTOMER, Provenance};
/// use crm_core::memory::{MemoryProfiles, MemoryStore};
/// use crm_core::{Context, SystemClock, TenantId, Timestamp, Uuid};
///
/// let store = Arc::new(MemoryStore::new("records"));
/// store.migrate(&[&CUSTOMER]).await.unwrap();
/// let writer = MemoryProfiles::new(store, SystemClock::shared());
/// let ctx = Context::new(TenantId::new("shop").unwrap());
/// let run = EditRun::new("names", Provenance::new("cleaning", Timestamp::EPOCH));
/// let edit = ProfileEdit::new(Uuid::from_u128(1).into(), 1).set("given_name".parse().unwrap(), "Ana");
/// assert_eq!(writer.edit(&ctx, &run, &[edit]).await.unwrap(), [Edited::Gone]);
/// # });
/// ```
#[derive(Debug)]
pub struct MemoryProfiles {
    store: Arc<dyn RecordStore>,
    clock: Arc<dyn Clock>,
    runs: Mutex<HashMap<(String, String), Run>>,
}

/// What a run did.
#[derive(Default)]
struct Run {
    edits: Vec<ProfileEdit>,
    /// The profile before the run's first write, and the version its last one gave it.
    before: BTreeMap<CustomerId, (Record, Version)>,
}

impl std::fmt::Debug for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Run")
            .field("customers", &self.before.len())
            .finish()
    }
}

impl MemoryProfiles {
    /// Edits the profiles in `store`, which has room for [`CUSTOMER`].
    pub fn new(store: Arc<dyn RecordStore>, clock: Arc<dyn Clock>) -> Self {
        Self {
            store,
            clock,
            runs: Mutex::default(),
        }
    }

    fn run<T>(&self, ctx: &Context, name: &str, look: impl FnOnce(&mut Run) -> T) -> T {
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        look(
            runs.entry((ctx.tenant().as_str().to_owned(), name.to_owned()))
                .or_default(),
        )
    }

    async fn one(&self, ctx: &Context, run: &EditRun, edit: &ProfileEdit) -> Result<Edited> {
        if !run.dry && self.run(ctx, &run.name, |run| run.edits.contains(edit)) {
            return Ok(Edited::Repeated);
        }
        let id = edit.customer.uuid();
        let Some(stored) = self
            .store
            .get(ctx, &CUSTOMER, &[id])
            .await?
            .into_iter()
            .flatten()
            .next()
        else {
            return Ok(Edited::Gone);
        };
        if stored.version != edit.expected {
            return Ok(Edited::ChangedSince(stored.version));
        }
        let record = match edit.applied(&stored, &run.said_by, self.clock.now()) {
            Ok(Some(record)) => record,
            Ok(None) => return Ok(Edited::Unchanged),
            Err(error) if error.kind() == ErrorKind::Invalid => return Ok(refused(&error)),
            Err(error) => return Err(error),
        };
        if run.dry {
            return Ok(Edited::Written(stored.version + 1));
        }
        let write = Write::update(id, stored.version, record);
        let version = match self.store.apply(ctx, &[write]).await {
            Ok(outcomes) => match outcomes.first() {
                Some(Outcome::Written(version)) => *version,
                _ => stored.version + 1,
            },
            Err(error) if error.kind() == ErrorKind::Conflict => {
                let now = self.store.get(ctx, &CUSTOMER, &[id]).await?;
                let now = now.into_iter().flatten().next();
                return Ok(now.map_or(Edited::Gone, |now| Edited::ChangedSince(now.version)));
            }
            Err(error) => return Err(error),
        };
        self.run(ctx, &run.name, |run| {
            run.edits.push(edit.clone());
            run.before
                .entry(edit.customer)
                .and_modify(|(_, wrote)| *wrote = version)
                .or_insert((stored.record, version));
        });
        Ok(Edited::Written(version))
    }
}

/// What an edit answers that cannot be stored.
fn refused(error: &Error) -> Edited {
    Edited::Refused {
        field: error.context("field").map(str::to_owned),
        reason: error.message().to_owned(),
    }
}

#[async_trait]
impl ProfileWriter for MemoryProfiles {
    async fn edit(&self, ctx: &Context, run: &EditRun, edits: &[ProfileEdit]) -> Result<Vec<Edited>> {
        run.validate().map_err(|error| error.operation("profiles.edit"))?;
        if !run.dry {
            self.run(ctx, &run.name, |_| ());
        }
        let mut seen = HashSet::new();
        let mut done = Vec::with_capacity(edits.len());
        for edit in edits {
            ctx.check(&*self.clock)?;
            done.push(if seen.insert(edit.customer) {
                self.one(ctx, run, edit).await?
            } else {
                Edited::Refused {
                    field: None,
                    reason: "the customer is edited twice in one call; put the fields into one edit"
                        .to_owned(),
                }
            });
        }
        Ok(done)
    }

    async fn undo(&self, ctx: &Context, run: &str) -> Result<EditsUndone> {
        let key = (ctx.tenant().as_str().to_owned(), run.to_owned());
        let known = {
            let runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
            runs.get(&key).map(|run| run.before.clone())
        };
        let Some(before) = known else {
            return Err(Error::new(ErrorKind::NotFound, "no edits of this name were made")
                .operation("profiles.undo")
                .with("run", run));
        };
        let mut undone = EditsUndone::default();
        for (customer, (record, wrote)) in before {
            ctx.check(&*self.clock)?;
            match self
                .store
                .apply(ctx, &[Write::update(customer, wrote, record)])
                .await
            {
                Ok(_) => undone.restored += 1,
                Err(error) if error.kind() == ErrorKind::Conflict => {
                    undone.kept += 1;
                    if undone.kept_customers.len() < NAMED {
                        undone.kept_customers.push(customer);
                    }
                }
                Err(error) => return Err(error),
            }
            self.run(ctx, run, |run| {
                run.before.remove(&customer);
                run.edits.retain(|edit| edit.customer != customer);
            });
        }
        Ok(undone)
    }
}
