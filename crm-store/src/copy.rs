//! One store copied into another, whatever they are, and compared to the last bit.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! use crm_core::memory::MemoryStore;
//! use crm_core::{Context, TenantId};
//! use crm_store::copy::{CopyOptions, copy};
//!
//! let (from, to) = (MemoryStore::new("from"), MemoryStore::new("to"));
//! let ctx = Context::new(TenantId::new("shop").unwrap());
//! let report = copy(&ctx, &from, &to, CopyOptions::default()).await.unwrap();
//! assert_eq!(report.records(), 0);
//! # });
//! ```

use std::collections::BTreeSet;
use std::fmt;

use crm_core::capability::RecordStore;
use crm_core::query::{Filter, Query};
use crm_core::record::{Record, Schema, Write};
use crm_core::{Context, Error, ErrorKind, Result, Uuid};
use sha2::{Digest, Sha256};

use crate::customers::{SCHEMAS, plain};

type OnProgress = Box<dyn FnMut(&CopyReport) + Send>;

/// Settings of a copy.
pub struct CopyOptions {
    also: Vec<&'static Schema>,
    page: u32,
    resume: bool,
    progress: Option<OnProgress>,
}

impl Default for CopyOptions {
    fn default() -> Self {
        Self {
            also: Vec::new(),
            page: 1000,
            resume: false,
            progress: None,
        }
    }
}

impl CopyOptions {
    /// Copies records of these kinds too: those of other crates and of the host.
    #[must_use]
    pub fn also(mut self, schemas: &[&'static Schema]) -> Self {
        self.also.extend(schemas);
        self
    }
    /// How many records are held in memory, and stored as one unit of work (1 to 10,000); 1,000 unless set.
    #[must_use]
    pub fn page(mut self, records: u32) -> Self {
        self.page = records;
        self
    }
    /// Goes on with a copy that was stopped: the target may have records. Those that are the same are passed over, those
    /// that differ become what the source has.
    #[must_use]
    pub fn resume(mut self) -> Self {
        self.resume = true;
        self
    }
    /// Called after each page.
    #[must_use]
    pub fn on_progress(mut self, progress: impl FnMut(&CopyReport) + Send + 'static) -> Self {
        self.progress = Some(Box::new(progress));
        self
    }
}

impl fmt::Debug for CopyOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CopyOptions")
            .field("page", &self.page)
            .field("resume", &self.resume)
            .finish_non_exhaustive()
    }
}

/// What was copied of one kind of record.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// The schema's name.
    pub schema: String,
    /// Records in the source, and after the copy in the target.
    pub records: u64,
    /// Of these, written by this call.
    pub written: u64,
    /// SHA-256 over ids and values, in hex: the same in both stores. Versions are each store's own.
    pub sha256: String,
}

/// What a copy did.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CopyReport {
    /// Each kind of record.
    pub schemas: Vec<Copied>,
}

impl CopyReport {
    /// Records of all kinds.
    pub fn records(&self) -> u64 {
        self.schemas.iter().map(|one| one.records).sum()
    }
}

/// Copies everything the context's tenant has from one store into another: customers, contact points, references,
/// timeline, segments, consents, suppressions, imports, every other kind the source was migrated for
/// ([`RecordStore::schemas`]), and the kinds named in the options. Room is made in the target
/// first. Records keep their ids; versions begin anew. Reads and writes a page at a time. At the end both stores are
/// read and compared by count and hash.
///
/// A store serves many tenants and cannot list them: copy each.
///
/// # Errors
/// [`ErrorKind::Invalid`] for a wrong setting; [`ErrorKind::Conflict`] when the target has records already and
/// [`CopyOptions::resume`] was not said, when a unique key is taken there, or when the two differ at the end, because one
/// of them was written to meanwhile (repeat with `resume`); the stores'.
pub async fn copy(
    ctx: &Context,
    from: &dyn RecordStore,
    to: &dyn RecordStore,
    options: CopyOptions,
) -> Result<CopyReport> {
    copied(ctx, from, to, options)
        .await
        .map_err(|error| error.operation("store.copy"))
}

async fn copied(
    ctx: &Context,
    from: &dyn RecordStore,
    to: &dyn RecordStore,
    mut options: CopyOptions,
) -> Result<CopyReport> {
    if !(1..=10_000).contains(&options.page) {
        return Err(Error::invalid("a page has 1 to 10,000 records").with("field", "page"));
    }
    let mut names = BTreeSet::new();
    let registered = from.schemas();
    let schemas: Vec<&'static Schema> = SCHEMAS
        .iter()
        .chain(&options.also)
        .chain(&registered)
        .copied()
        .filter(|schema| names.insert(schema.name))
        .collect();
    from.migrate(&schemas).await?;
    to.migrate(&schemas).await?;
    if !options.resume {
        for schema in &schemas {
            let there = to.count(ctx, schema, &Filter::All).await?;
            if there > 0 {
                return Err(Error::conflict(
                    "the target has records already; copy into an empty one, or say that this goes on with a copy (CopyOptions::resume)",
                )
                .with("schema", schema.name)
                .with("records", there));
            }
        }
    }
    let mut report = CopyReport::default();
    for schema in schemas {
        report.schemas.push(Copied {
            schema: schema.name.to_owned(),
            records: 0,
            written: 0,
            sha256: String::new(),
        });
        copy_kind(ctx, (from, to), schema, &mut options, &mut report).await?;
        let source = fingerprint(ctx, from, schema, options.page).await?;
        let target = fingerprint(ctx, to, schema, options.page).await?;
        if source != target {
            return Err(Error::conflict(
                "source and target differ after the copy: one of them is being written to, or the target has records of its own",
            )
            .with("schema", schema.name)
            .with("source_records", source.0)
            .with("target_records", target.0));
        }
        if let Some(last) = report.schemas.last_mut() {
            (last.records, last.sha256) = source;
        }
    }
    Ok(report)
}

async fn copy_kind(
    ctx: &Context,
    (from, to): (&dyn RecordStore, &dyn RecordStore),
    schema: &'static Schema,
    options: &mut CopyOptions,
    report: &mut CopyReport,
) -> Result<()> {
    let mut query = Query::new(Filter::All).limit(options.page);
    loop {
        let page = from.find(ctx, schema, &query).await?;
        let ids: Vec<Uuid> = page.items.iter().map(|stored| stored.id).collect();
        let there = if options.resume {
            to.get(ctx, schema, &ids).await?
        } else {
            vec![None; ids.len()]
        };
        let read = page.items.len() as u64;
        let mut writes = Vec::with_capacity(ids.len());
        for (stored, there) in page.items.into_iter().zip(there) {
            match there {
                None => writes.push(Write::insert(stored.id, stored.record)),
                Some(other) if same(stored.id, &other.record, &stored.record)? => {}
                Some(other) => writes.push(Write::update(stored.id, other.version, stored.record)),
            }
        }
        if !writes.is_empty() {
            to.apply(ctx, &writes).await?;
        }
        if let Some(last) = report.schemas.last_mut() {
            last.records += read;
            last.written += writes.len() as u64;
        }
        if let Some(progress) = &mut options.progress {
            progress(report);
        }
        match page.next {
            None => return Ok(()),
            next => query.after = next,
        }
    }
}

fn same(id: Uuid, a: &Record, b: &Record) -> Result<bool> {
    let hash = |record| -> Result<_> {
        let mut hash = Sha256::new();
        plain::digest(&mut hash, id, record)?;
        Ok(hash.finalize())
    };
    Ok(a == b || hash(a)? == hash(b)?)
}

/// How many records of a kind a store has, and a hash over them in the order of their ids.
///
/// # Errors
/// [`ErrorKind::Corrupt`] when pages are not in the order of ids; the store's.
pub async fn fingerprint(
    ctx: &Context,
    store: &dyn RecordStore,
    schema: &'static Schema,
    page: u32,
) -> Result<(u64, String)> {
    let (mut count, mut hash) = (0, Sha256::new());
    let mut last: Option<Uuid> = None;
    let mut query = Query::new(Filter::All).limit(page);
    loop {
        let page = store.find(ctx, schema, &query).await?;
        for stored in &page.items {
            if last.is_some_and(|last| last >= stored.id) {
                return Err(Error::new(
                    ErrorKind::Corrupt,
                    "records do not come in the order of their ids",
                )
                .with("schema", schema.name));
            }
            last = Some(stored.id);
            count += 1;
            plain::digest(&mut hash, stored.id, &stored.record)?;
        }
        match page.next {
            None => return Ok((count, plain::hex(&hash.finalize()))),
            next => query.after = next,
        }
    }
}
