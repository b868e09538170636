//! Erasure: destroy the key first, and nothing that was ever written about the person can be read; then remove the rows.

use std::collections::BTreeSet;

use crm_core::customer::CUSTOMER_ALIAS;
use crm_core::query::{Filter, Query};
use crm_core::record::{Schema, Stored, Value, Write};
use crm_core::{Context, Error, ErrorKind, Result, Timestamp, Uuid};
use serde::{Deserialize, Serialize};

use super::SealedStore;
use super::keys::SUBJECT_KEY;
use super::plan::SubjectAt;

/// How many rows are removed in one unit of work.
const BATCH: u32 = 500;

/// How long the last write with a key from memory may take, and clocks differ, in seconds.
const LATE: u64 = 60;

/// An entry of the ledger of erasures: says that somebody was erased, and nothing about them.
///
/// The ledger has to be kept apart from the data's backups: what is restored from one is read again until the ledger
/// was replayed ([`SealedStore::replay`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Erasure {
    /// The person's id (or that of a merge whose images had their data).
    pub subject: Uuid,
    /// When the key was destroyed.
    pub at: Timestamp,
    /// When the last of the rows was removed; absent while that goes on.
    pub swept_at: Option<Timestamp>,
}

/// What an erasure did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Erased {
    /// Whose keys are destroyed: the person's, those of the records merged into theirs, and those of the merges.
    pub subjects: Vec<Uuid>,
    /// How many rows were removed.
    pub rows: u64,
}

impl Erased {
    fn add(&mut self, other: Self) {
        self.rows += other.rows;
        self.subjects.extend(other.subjects);
        self.subjects.sort_unstable();
        self.subjects.dedup();
    }
}

impl SealedStore {
    /// Erases a person: destroys their data key, and with it every encrypted value of theirs wherever it lies (rows,
    /// write-ahead logs, replicas, backups), then removes the rows, which also takes their blind indexes away. Customers
    /// that were merged into this one, and what the merges replaced, go with it.
    ///
    /// Destroying the key is the point of no return and comes first. When the call is stopped after it, the person cannot
    /// be read any more, and [`SealedStore::resume_erasures`] removes the rest. Rows that are still there then count as
    /// gone wherever they would have to be decrypted; only what the store behind counts or groups by itself still sees
    /// them. Other processes may read the person for [`super::SealConfig::recheck_seconds`] more, and write a record that
    /// nobody reads after that: call [`SealedStore::resume_erasures`] from time to time, it removes those too.
    ///
    /// Consent events go, too; who has to keep them as proof says that they belong to nobody (`subjects`). Not erased with
    /// a person: suppressions, which hold no address, only a keyed hash, so that nobody writes to them again; records that belong to nobody ([`super::Subject::Tenant`]), which end with their own retention.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] (`index=merged`) when the person was merged into somebody, who has their data now and is
    /// named under `merged_into`; those of the stores of keys and data.
    pub async fn erase(&self, ctx: &Context, subject: Uuid) -> Result<Erased> {
        let named = |error: Error| error.operation("store.erase");
        if let Some(winner) = self.merged_into(ctx, subject).await.map_err(named)? {
            return Err(named(
                Error::conflict(
                    "this person was merged into another one, who has their data now; erase that one",
                )
                .with("index", "merged")
                .with("subject", subject)
                .with("merged_into", winner),
            ));
        }
        self.erase_all(ctx, subject).await.map_err(named)
    }

    async fn merged_into(&self, ctx: &Context, subject: Uuid) -> Result<Option<Uuid>> {
        let Some(alias) = self.room_for(CUSTOMER_ALIAS.name) else {
            return Ok(None);
        };
        let found = self.inner.get(ctx, self.stored_as(alias)?, &[subject]).await?;
        let found = found.into_iter().flatten().next();
        found.map(|stored| stored.record.uuid("customer_id")).transpose()
    }

    async fn erase_all(&self, ctx: &Context, subject: Uuid) -> Result<Erased> {
        let mut others = self.together(ctx, subject).await?;
        others.remove(&subject);
        // All keys before all rows: what is worst to be left half done is done first. The person's key before the others'
        // and their rows after: whoever goes on after a stop finds the person in the ledger, and by the rows the others.
        self.keys.destroy(ctx, subject).await?;
        for other in &others {
            self.keys.destroy(ctx, *other).await?;
        }
        let mut rows = 0;
        for one in others.iter().chain([&subject]) {
            rows += self.sweep(ctx, *one).await?;
            self.keys.swept(ctx, *one).await?;
        }
        let subjects = [subject].into_iter().chain(others).collect();
        Ok(Erased { subjects, rows })
    }

    /// Removes the rows of all erasures that were stopped on the way, and those that another process, which had the key in
    /// memory, wrote while the person was being erased. To be called regularly, for instance every hour.
    ///
    /// # Errors
    /// Those of the stores of keys and data.
    pub async fn resume_erasures(&self, ctx: &Context) -> Result<Erased> {
        let late = self.config.recheck_seconds.saturating_add(LATE);
        let late = i64::try_from(late).unwrap_or(i64::MAX).saturating_mul(1_000_000);
        // Swept before the last writer had noticed: once more.
        let early = |erasure: &Erasure, swept: Timestamp| {
            swept.as_micros() < erasure.at.as_micros().saturating_add(late)
        };
        let mut all = Erased::default();
        for erasure in self.erasures(ctx).await? {
            if erasure.swept_at.is_none_or(|swept| early(&erasure, swept)) {
                let done = self.erase_all(ctx, erasure.subject).await;
                all.add(done.map_err(|error| error.operation("store.erase"))?);
            }
        }
        Ok(all)
    }

    /// The ledger: everybody who was erased.
    ///
    /// # Errors
    /// Those of the store of the keys.
    pub async fn erasures(&self, ctx: &Context) -> Result<Vec<Erasure>> {
        let mut query = Query::new(!Filter::null("destroyed_at")).limit(1_000);
        let mut ledger = Vec::new();
        loop {
            let page = self.keys.store().find(ctx, &SUBJECT_KEY, &query).await?;
            for Stored { record, .. } in page.items {
                ledger.push(Erasure {
                    subject: record.uuid("subject")?,
                    at: record.timestamp("destroyed_at")?,
                    swept_at: record.get("swept_at").and_then(Value::as_timestamp),
                });
            }
            match page.next {
                Some(next) => query.after = Some(next),
                None => return Ok(ledger),
            }
        }
    }

    /// Erases everybody in a ledger again: to be called on a restored backup before it serves. Answers what was there.
    ///
    /// # Errors
    /// Those of the stores of keys and data.
    pub async fn replay(&self, ctx: &Context, ledger: &[Erasure]) -> Result<Erased> {
        let mut all = Erased::default();
        for erasure in ledger {
            self.keys.destroy(ctx, erasure.subject).await?;
        }
        for erasure in ledger {
            let done = self.erase_all(ctx, erasure.subject).await;
            all.add(done.map_err(|error| error.operation("store.erase"))?);
        }
        Ok(all)
    }

    /// Who goes together: the person, whoever was merged into them, and the merges.
    async fn together(&self, ctx: &Context, subject: Uuid) -> Result<BTreeSet<Uuid>> {
        let mut all = BTreeSet::from([subject]);
        if let Some(merge) = self.room_for("crm_merge") {
            let won = Filter::eq("winner_id", subject);
            all.extend(
                self.rows(ctx, merge, won)
                    .await?
                    .into_iter()
                    .map(|stored| stored.id),
            );
        }
        if let Some(alias) = self.room_for(CUSTOMER_ALIAS.name) {
            for stored in self.rows(ctx, alias, Filter::eq("customer_id", subject)).await? {
                all.insert(stored.id);
                all.insert(stored.record.uuid("merge_id")?);
            }
        }
        Ok(all)
    }

    /// The schema of this name, if room was made for it.
    fn room_for(&self, name: &str) -> Option<&'static Schema> {
        use crm_core::capability::RecordStore as _;
        self.schemas().into_iter().find(|schema| schema.name == name)
    }

    async fn rows(&self, ctx: &Context, schema: &'static Schema, filter: Filter) -> Result<Vec<Stored>> {
        let physical = self.stored_as(schema)?;
        let mut query = Query::new(filter).limit(1_000);
        let mut rows = Vec::new();
        loop {
            let page = self.inner.find(ctx, physical, &query).await?;
            rows.extend(page.items);
            match page.next {
                Some(next) => query.after = Some(next),
                None => return Ok(rows),
            }
        }
    }

    /// Removes the rows of an erased person, in all schemas room was made for.
    async fn sweep(&self, ctx: &Context, subject: Uuid) -> Result<u64> {
        use crm_core::capability::RecordStore as _;
        let mut removed = 0;
        for schema in self.schemas() {
            let plan = self.plan(schema)?;
            let theirs = match plan.subject {
                SubjectAt::Record => Filter::eq("id", subject),
                SubjectAt::Field(field) => Filter::eq(field, subject),
                SubjectAt::Tenant => continue,
            };
            loop {
                let query = Query::new(theirs.clone()).limit(BATCH);
                let page = self.inner.find(ctx, plan.physical, &query).await?;
                if page.items.is_empty() {
                    break;
                }
                let writes: Vec<Write> = page
                    .items
                    .iter()
                    .map(|stored| Write::delete(plan.physical, stored.id, None))
                    .collect();
                match self.inner.apply(ctx, &writes).await {
                    Ok(done) => removed += done.len() as u64,
                    // Somebody removed one of them meanwhile: look again.
                    Err(error) if error.kind() == ErrorKind::Conflict => {}
                    Err(error) => return Err(Error::with(error, "schema", schema.name)),
                }
            }
        }
        Ok(removed)
    }
}
