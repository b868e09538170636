//! An archive read back, record by record.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read};

use crm_core::consent::CONSENT_EVENT;
use crm_core::record::{Record, Schema, Write};
use crm_core::{Context, Error, ErrorKind, Result, Uuid};
use sha2::{Digest, Sha256};

use super::super::{Customers, plain};
use super::archive::{End, Head, Line, VERSION, WHAT, kinds};

/// The longest line: a record of the largest values there are.
const LONGEST: u64 = 64 * 1024 * 1024;

/// What is done with a record that is there already with other values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnExisting {
    /// The import stops; what was stored before stays.
    #[default]
    Refuse,
    /// It stays as it is.
    Keep,
    /// It becomes what the archive says. A consent event is never replaced: that stops the import.
    Replace,
}

type OnProgress = Box<dyn FnMut(&ArchiveReport) + Send>;

/// Settings of reading an archive.
#[derive(Default)]
pub struct ArchiveOptions {
    existing: OnExisting,
    dry: bool,
    also: Vec<&'static Schema>,
    progress: Option<OnProgress>,
}

impl ArchiveOptions {
    /// What is done with records that are there already with other values.
    #[must_use]
    pub fn existing(mut self, existing: OnExisting) -> Self {
        self.existing = existing;
        self
    }
    /// Nothing is stored: the archive is read and checked to its end, and the report says what is new and what differs.
    /// That a unique key is taken by another record shows only in a real run.
    #[must_use]
    pub fn dry_run(mut self) -> Self {
        self.dry = true;
        self
    }
    /// Takes in records of these kinds too: those of other crates and of the host.
    #[must_use]
    pub fn also(mut self, schemas: &[&'static Schema]) -> Self {
        self.also.extend(schemas);
        self
    }
    /// Called after each stored unit of work.
    #[must_use]
    pub fn on_progress(mut self, progress: impl FnMut(&ArchiveReport) + Send + 'static) -> Self {
        self.progress = Some(Box::new(progress));
        self
    }
}

impl std::fmt::Debug for ArchiveOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ArchiveOptions")
            .field("existing", &self.existing)
            .field("dry_run", &self.dry)
            .finish_non_exhaustive()
    }
}

/// What came of an archive.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ArchiveReport {
    /// Records added, by schema.
    pub added: BTreeMap<String, u64>,
    /// Records that were there already just so.
    pub unchanged: u64,
    /// Records that were there with other values and became what the archive says.
    pub replaced: u64,
    /// Records that were there with other values and stayed.
    pub kept: u64,
}

impl ArchiveReport {
    /// Records seen.
    pub fn seen(&self) -> u64 {
        self.added.values().sum::<u64>() + self.unchanged + self.replaced + self.kept
    }
}

/// Records of one kind that wait to be stored.
struct Waiting {
    schema: &'static Schema,
    /// Line, id and record.
    records: Vec<(u64, Uuid, Record)>,
}

impl Customers {
    /// Reads an archive ([`super::Format::Jsonl`]) back: every record gets the id it had, so that references, consent
    /// and suppressions hold. A record that is there just so is passed over, so the call may be repeated after it was
    /// stopped. Reads a thousand records at a time, each stored as one unit of work.
    ///
    /// Consents and suppressions name addresses by a keyed hash: they hold where the same
    /// [`AddressKey`](crm_core::consent::AddressKey) is used. Versions begin anew: a customer read before is to be read
    /// again before it is updated.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] with `line` for what is no archive, of a newer version, or of another tenant, and for a
    /// record that cannot be read; [`ErrorKind::Corrupt`] when it ends early or was changed since it was written;
    /// [`ErrorKind::Conflict`] with `line` for a record that is there with other values, or whose unique key another
    /// record has. What was stored before stays.
    pub async fn import_archive(
        &self,
        ctx: &Context,
        from: &mut (dyn io::Read + Send),
        options: ArchiveOptions,
    ) -> Result<ArchiveReport> {
        self.prepare().await?;
        self.restored(ctx, from, options)
            .await
            .map_err(|error| error.operation("customers.import_archive"))
    }

    async fn restored(
        &self,
        ctx: &Context,
        from: &mut (dyn io::Read + Send),
        mut options: ArchiveOptions,
    ) -> Result<ArchiveReport> {
        let kinds = kinds(&options.also);
        if !options.dry {
            self.store.migrate(&kinds).await?;
        }
        let mut lines = Lines::new(from);
        let head: Head = match lines.next()? {
            Some(text) => {
                serde_json::from_slice(text).map_err(|_| not_an_archive().with("line", lines.number))?
            }
            None => return Err(not_an_archive()),
        };
        check(&head, ctx, &kinds)?;
        let mut report = ArchiveReport::default();
        let mut waiting: Option<Waiting> = None;
        loop {
            let before = lines.hash.clone();
            let Some(text) = lines.next()? else {
                return Err(Error::new(
                    ErrorKind::Corrupt,
                    "the archive ends early; what was read is stored, run it again with the whole file",
                )
                .with("line", lines.number));
            };
            if text.starts_with(b"{\"end\"") {
                let end: End = serde_json::from_slice(text).map_err(|_| unreadable(lines.number))?;
                if let Some(last) = waiting.take() {
                    self.put_back(ctx, last, &mut options, &mut report).await?;
                }
                if end.sha256 != plain::hex(&before.finalize()) || end.records != report.seen() {
                    return Err(Error::new(
                        ErrorKind::Corrupt,
                        "the archive is not as it was written: lines are missing or changed",
                    )
                    .with("records", end.records)
                    .with("read", report.seen()));
                }
                return Ok(report);
            }
            let line: Line = serde_json::from_slice(text).map_err(|_| unreadable(lines.number))?;
            let schema = kinds
                .iter()
                .find(|schema| schema.name == line.schema)
                .ok_or_else(|| unknown(&line.schema).with("line", lines.number))?;
            let record =
                plain::record(schema, line.values).map_err(|error| error.with("line", lines.number))?;
            let full = waiting
                .as_ref()
                .is_some_and(|waiting| waiting.schema.name != schema.name || waiting.records.len() >= 1000);
            if full && let Some(last) = waiting.take() {
                ctx.check(&*self.clock)?;
                self.put_back(ctx, last, &mut options, &mut report).await?;
            }
            let open = waiting.get_or_insert_with(|| Waiting {
                schema,
                records: Vec::new(),
            });
            open.records.push((lines.number, line.id, record));
        }
    }

    /// Stores records of one kind as one unit of work.
    async fn put_back(
        &self,
        ctx: &Context,
        waiting: Waiting,
        options: &mut ArchiveOptions,
        report: &mut ArchiveReport,
    ) -> Result<()> {
        let Waiting { schema, records } = waiting;
        let ids: Vec<Uuid> = records.iter().map(|(_, id, _)| *id).collect();
        let there = self.store.get(ctx, schema, &ids).await?;
        let (mut writes, mut at) = (Vec::new(), Vec::new());
        let (mut added, mut unchanged, mut replaced, mut kept) = (0, 0, 0, 0);
        for ((line, id, record), there) in records.into_iter().zip(there) {
            match there {
                None => {
                    added += 1;
                    writes.push(Write::insert(id, record));
                    at.push(line);
                }
                Some(stored) if same(&stored.record, &record)? => unchanged += 1,
                Some(_) if options.existing == OnExisting::Keep => kept += 1,
                Some(stored)
                    if options.existing == OnExisting::Replace && schema.name != CONSENT_EVENT.name =>
                {
                    replaced += 1;
                    writes.push(Write::update(id, stored.version, record));
                    at.push(line);
                }
                Some(_) => {
                    return Err(Error::conflict(
                        "a record of this id is there with other values; say what is done with it (ArchiveOptions::existing)",
                    )
                    .with("schema", schema.name)
                    .with("line", line)
                    .with("id", id));
                }
            }
        }
        if !options.dry && !writes.is_empty() {
            self.store.apply(ctx, &writes).await.map_err(|error| {
                let position: Option<usize> = error.context("write").and_then(|text| text.parse().ok());
                match position.and_then(|position| at.get(position)) {
                    Some(line) => error.with("line", line),
                    None => error,
                }
            })?;
        }
        if added > 0 {
            *report.added.entry(schema.name.to_owned()).or_default() += added;
        }
        report.unchanged += unchanged;
        report.replaced += replaced;
        report.kept += kept;
        if let Some(progress) = &mut options.progress {
            progress(report);
        }
        Ok(())
    }
}

/// Whether two records say the same; JSON documents are compared as such.
fn same(a: &Record, b: &Record) -> Result<bool> {
    Ok(a == b || plain::sorted(plain::values(a)?) == plain::sorted(plain::values(b)?))
}

fn not_an_archive() -> Error {
    Error::invalid("not an archive of open-crm; its first line says so")
}

fn unreadable(line: u64) -> Error {
    Error::invalid("the line is not a record of an archive").with("line", line)
}

fn unknown(schema: &str) -> Error {
    Error::invalid("records of a kind that is not known here; name its schema (ArchiveOptions::also)")
        .with("schema", schema)
}

fn check(head: &Head, ctx: &Context, kinds: &[&'static Schema]) -> Result<()> {
    if head.open_crm != WHAT {
        return Err(not_an_archive());
    }
    if head.version > VERSION {
        return Err(
            Error::invalid("the archive is of a newer version; update this library first")
                .with("version", head.version)
                .with("known", VERSION),
        );
    }
    if head.tenant != ctx.tenant().as_str() {
        return Err(
            Error::invalid("the archive is another tenant's; read it in a context of that tenant")
                .with("tenant", &head.tenant),
        );
    }
    match head
        .schemas
        .iter()
        .find(|name| !kinds.iter().any(|schema| schema.name == name.as_str()))
    {
        Some(name) => Err(unknown(name)),
        None => Ok(()),
    }
}

/// Lines of bounded length, counted and hashed.
struct Lines<'a> {
    from: BufReader<&'a mut (dyn io::Read + Send)>,
    line: Vec<u8>,
    number: u64,
    hash: Sha256,
}

impl<'a> Lines<'a> {
    fn new(from: &'a mut (dyn io::Read + Send)) -> Self {
        Self {
            from: BufReader::with_capacity(1 << 16, from),
            line: Vec::new(),
            number: 0,
            hash: Sha256::new(),
        }
    }

    /// The next line without its end.
    fn next(&mut self) -> Result<Option<&[u8]>> {
        self.line.clear();
        self.number += 1;
        (&mut self.from)
            .take(LONGEST)
            .read_until(b'\n', &mut self.line)
            .map_err(|error| {
                Error::new(ErrorKind::Unavailable, "the archive cannot be read")
                    .with("line", self.number)
                    .source(error)
            })?;
        self.hash.update(&self.line);
        if self.line.is_empty() {
            return Ok(None);
        }
        match self.line.strip_suffix(b"\n") {
            Some(line) => Ok(Some(line)),
            None if self.line.len() as u64 >= LONGEST => {
                Err(Error::invalid("a line longer than 64 MiB").with("line", self.number))
            }
            None => Ok(Some(&self.line)),
        }
    }
}
