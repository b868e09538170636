//! What imports put aside: kept with the row as it stood, written out to be corrected, and read again.

use std::collections::BTreeMap;
use std::io;

use crm_core::capability::{OriginalKind, Originals, Reject, RejectKind};
use crm_core::query::{Cursor, Filter, Page, Query};
use crm_core::record::{Field, FieldType, Index, Record, Schema, Stored, Write};
use crm_core::{Context, Error, Result, Timestamp, Uuid, cell};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::super::Customers;
use super::super::export::csv;

/// How rejects of imports are kept. `row` is the row as it stood in the file, as far as the collector knew it and it is
/// no longer than 64 KiB.
pub static IMPORT_REJECT: Schema = Schema {
    name: "crm_import_reject",
    fields: &[
        Field::new("job", FieldType::Text),
        Field::new("place", FieldType::Text),
        Field::new("line", FieldType::Int).nullable(),
        Field::new("field", FieldType::Text).nullable(),
        Field::new("reason", FieldType::Text),
        Field::new("created_at", FieldType::Timestamp),
        Field::new("run", FieldType::Uuid).nullable(),
        Field::new("original", FieldType::Json).nullable().personal(),
        Field::new("kind", FieldType::Text).nullable(),
    ],
    indexes: &[Index::new("crm_import_reject_job", &["job"])],
};

/// The longest row that is kept, in bytes.
const LONGEST: usize = 64 * 1024;
/// Rejects read at once.
const PAGE: u32 = 1000;

/// A row as it is kept with its reject.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Original {
    kind: OriginalKind,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    columns: Vec<String>,
    cells: Vec<String>,
}

impl Original {
    fn of(originals: &Originals, line: Option<u64>) -> Option<Self> {
        let cells = originals.rows.get(&line?)?;
        let size: usize = cells.iter().chain(&originals.columns).map(String::len).sum();
        let storable = size <= LONGEST && !cells.iter().any(|cell| cell.contains('\0'));
        storable.then(|| Self {
            kind: originals.kind,
            columns: originals.columns.clone(),
            cells: cells.clone(),
        })
    }
}

pub(super) fn write(
    (job, run, id, now): (&str, Uuid, Uuid, Timestamp),
    reject: &Reject,
    originals: &Originals,
) -> Result<Write> {
    let short = |text: &str| text.replace('\0', "").chars().take(2000).collect::<String>();
    let original = Original::of(originals, reject.line)
        .map(serde_json::to_value)
        .transpose()
        .map_err(|e| Error::unexpected("a row as JSON").source(e))?;
    let record = Record::from_values(
        &IMPORT_REJECT,
        vec![
            job.into(),
            short(&reject.place).into(),
            reject.line.and_then(|line| i64::try_from(line).ok()).into(),
            reject.field.as_deref().map(short).into(),
            short(&reject.reason).into(),
            now.into(),
            run.into(),
            original.into(),
            reject.kind.as_str().into(),
        ],
    )?;
    Ok(Write::insert(id, record))
}

fn read(stored: &Stored) -> Result<Reject> {
    let r = &stored.record;
    let kind = r.get("kind").and_then(|v| v.as_str());
    Ok(Reject {
        kind: match kind {
            Some(kind) if kind == RejectKind::Conflict.as_str() => RejectKind::Conflict,
            _ => RejectKind::Invalid,
        },
        place: r.text("place")?.to_owned(),
        line: r
            .get("line")
            .and_then(|v| v.as_int())
            .and_then(|line| u64::try_from(line).ok()),
        field: r.get("field").and_then(|v| v.as_str()).map(str::to_owned),
        reason: r.text("reason")?.to_owned(),
    })
}

/// What was written to a file of rejects.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RejectsWritten {
    /// Rows written, each once whatever is wrong with it.
    pub rows: u64,
    /// Rejects that name no row, or one that was too long to keep: only in the list ([`Customers::rejects`]).
    pub without_row: u64,
}

/// Columns a file of rejects has besides the original ones.
const LINE: &str = "crm_line";
const FIELD: &str = "crm_field";
const ERROR: &str = "crm_error";

impl Customers {
    /// What the last run of an import put aside, page by page.
    ///
    /// # Errors
    /// The store's.
    pub async fn rejects(
        &self,
        ctx: &Context,
        job: &str,
        limit: u32,
        after: Option<Cursor>,
    ) -> Result<Page<Reject>> {
        self.rejected(ctx, job, limit, after)
            .await?
            .try_map(|stored| read(&stored))
    }

    async fn rejected(
        &self,
        ctx: &Context,
        job: &str,
        limit: u32,
        after: Option<Cursor>,
    ) -> Result<Page<Stored>> {
        self.prepare().await?;
        let run = self.job(ctx, job).await?.and_then(|job| job.run);
        let mut filter = Filter::eq("job", job);
        if let Some(run) = run {
            filter = filter.and(Filter::eq("run", run));
        }
        let query = Query::new(filter).limit(limit).after(after);
        self.store.find(ctx, &IMPORT_REJECT, &query).await
    }

    /// Writes the rows that the last run of an import put aside, whole or in part, to be corrected and read again by the
    /// same collector: in the format they came in, with what is wrong beside each (`crm_line`, `crm_field`, `crm_error`
    /// as columns, as keys of the JSON line, or as `X-CRM-ERROR` of the card), which the collector passes over. Cells
    /// are guarded against spreadsheets ([`crm_core::cell`]). Rows of different kinds cannot share a file.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Unsupported`] when the job's rows are of different kinds; what writing gave; the store's.
    pub async fn write_rejects(
        &self,
        ctx: &Context,
        job: &str,
        into: &mut (dyn io::Write + Send),
    ) -> Result<RejectsWritten> {
        let named = |error: Error| error.operation("customers.write_rejects").with("job", job);
        let mut written = RejectsWritten::default();
        let mut shape: Option<(OriginalKind, Vec<String>)> = None;
        let mut after = None;
        // Rejects of one row come one after the other: they are told by the same delivery, by line.
        let mut open: Option<(u64, Original, Vec<Reject>)> = None;
        loop {
            let page = self.rejected(ctx, job, PAGE, after).await.map_err(named)?;
            let mut rows: BTreeMap<(u64, Uuid), (Original, Reject)> = BTreeMap::new();
            for stored in &page.items {
                let reject = read(stored).map_err(named)?;
                let original = stored.record.get("original").and_then(|v| v.as_json());
                match (original.map(Original::deserialize), reject.line) {
                    (Some(Ok(original)), Some(line)) => {
                        rows.insert((line, stored.id), (original, reject));
                    }
                    _ => written.without_row += 1,
                }
            }
            for ((line, _), (original, reject)) in rows {
                match &shape {
                    None => {
                        head(into, &original).map_err(|e| named(unwritten(e)))?;
                        shape = Some((original.kind, original.columns.clone()));
                    }
                    Some((kind, columns)) if (*kind, columns) == (original.kind, &original.columns) => {}
                    Some(_) => {
                        return Err(named(Error::new(
                            crm_core::ErrorKind::Unsupported,
                            "the rejects of this job come from files with different columns; list them instead",
                        )));
                    }
                }
                match &mut open {
                    Some((at, _, rejects)) if *at == line => rejects.push(reject),
                    _ => {
                        if let Some((line, original, rejects)) = open.take() {
                            row(into, line, original, &rejects).map_err(|e| named(unwritten(e)))?;
                            written.rows += 1;
                        }
                        open = Some((line, original, vec![reject]));
                    }
                }
            }
            match page.next {
                None => break,
                next => after = next,
            }
        }
        if let Some((line, original, rejects)) = open {
            row(into, line, original, &rejects).map_err(|e| named(unwritten(e)))?;
            written.rows += 1;
        }
        into.flush().map_err(|e| named(unwritten(e)))?;
        Ok(written)
    }
}

fn unwritten(error: io::Error) -> Error {
    Error::new(crm_core::ErrorKind::Unavailable, "the output cannot be written").source(error)
}

fn head(into: &mut dyn io::Write, original: &Original) -> io::Result<()> {
    if original.kind != OriginalKind::Cells {
        return Ok(());
    }
    let own = |name: &&str| !original.columns.iter().any(|column| column == name);
    let added: Vec<&str> = [LINE, FIELD, ERROR].into_iter().filter(own).collect();
    let names = original.columns.iter().map(String::as_str).chain(added);
    csv::line(into, names, b',')
}

fn row(into: &mut dyn io::Write, line: u64, original: Original, rejects: &[Reject]) -> io::Result<()> {
    let fields: Vec<&str> = rejects.iter().filter_map(|r| r.field.as_deref()).collect();
    let reasons: Vec<&str> = rejects.iter().map(|r| r.reason.as_str()).collect();
    let (fields, reasons) = (fields.join("; "), reasons.join("; "));
    match original.kind {
        OriginalKind::Cells => {
            // A file of rejects that is read again has these columns already: they are written anew.
            let told = [(LINE, line.to_string()), (FIELD, fields), (ERROR, reasons)];
            let mut cells = original.cells;
            // A row of another length than the header keeps its cells under the columns there are.
            let extra = cells.split_off(cells.len().min(original.columns.len()));
            cells.resize(original.columns.len(), String::new());
            for (name, text) in told {
                let text = if name == ERROR && !extra.is_empty() {
                    format!("{text}; cells beyond the last column: {}", extra.join(" | "))
                } else {
                    text
                };
                match original.columns.iter().position(|column| column == name) {
                    Some(at) => cells
                        .get_mut(at)
                        .into_iter()
                        .for_each(|cell| cell.clone_from(&text)),
                    None => cells.push(text),
                }
            }
            let guarded: Vec<_> = cells.iter().map(|text| cell::guard(text)).collect();
            csv::line(into, guarded.iter().map(AsRef::as_ref), b',')
        }
        OriginalKind::Json => {
            let text = original.cells.into_iter().next().unwrap_or_default();
            let mut json = match serde_json::from_str(&text) {
                Ok(Json::Object(map)) => map,
                _ => serde_json::Map::from_iter([("crm_unreadable".to_owned(), text.into())]),
            };
            json.insert(LINE.to_owned(), line.into());
            json.insert(FIELD.to_owned(), fields.into());
            json.insert(ERROR.to_owned(), reasons.into());
            writeln!(into, "{}", Json::Object(json))
        }
        OriginalKind::Vcard => {
            let text = original.cells.into_iter().next().unwrap_or_default();
            for part in text.lines() {
                if part.trim().eq_ignore_ascii_case("END:VCARD") {
                    let reason = format!("X-CRM-ERROR:line {line}: {reasons}");
                    super::super::export::vcard::property(into, &reason)?;
                }
                write!(into, "{part}\r\n")?;
            }
            Ok(())
        }
    }
}
