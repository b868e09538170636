//! Lines of a delimited file to drafts and rejects, a batch at a time; all of it blocking.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use crm_core::capability::Reject;
use crm_core::customer::{Draft, Provenance};
use crm_core::{Error, Result, Timestamp};
use csv::StringRecord;
use encoding_rs::{Encoding, WINDOWS_1252};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::decode::{Decoded, END, detect};
use super::{CsvConfig, CsvMapping};
use crate::assemble::{Assembly, Reading};
use crate::target::Target;

/// The most bytes of one record: more is a quote that was never closed, and would eat the memory.
const MAX_RECORD: usize = 1024 * 1024;
/// The block of which a file is recognised again.
const HEAD: u64 = 64 * 1024;
const DELIMITERS: [u8; 4] = *b",;\t|";

/// Where reading stands: what a checkpoint holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stand {
    pub(super) kind: String,
    /// Bytes of decoded text that are done.
    pub(super) offset: u64,
    /// The line that comes next; 1 is the first.
    pub(super) line: u64,
    /// Rows done, drafts and rejects alike.
    pub(super) rows: u64,
    pub(super) drafts: u64,
    pub(super) rejects: u64,
    pub(super) file: Fingerprint,
}

pub(super) const KIND: &str = "csv/1";

/// By what a file is recognised: its size, its first block, and how its bytes were read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Fingerprint {
    size: u64,
    head: String,
    encoding: String,
    delimiter: char,
}

/// What one step gave. `end` is set when there is nothing more, or when reading cannot go on.
pub(super) struct Batch {
    pub(super) drafts: Vec<Draft>,
    pub(super) rejects: Vec<Reject>,
    pub(super) end: Option<Result<()>>,
    pub(super) stand: Stand,
    pub(super) bytes: u64,
}

/// An open file.
pub(super) struct Rows {
    reader: csv::Reader<Decoded<File>>,
    encoding: &'static Encoding,
    columns: Vec<(usize, Target)>,
    header: Vec<String>,
    reading: Reading,
    name: String,
    place: String,
    stand: Stand,
    base: (u64, u64),
}

impl Rows {
    /// Opens the file, reads its header, finds every mapped column, and goes to where `resume` stands.
    pub(super) fn open(config: &CsvConfig, resume: Option<&Stand>) -> Result<Self> {
        let path = &config.path;
        let mut file = File::open(path).map_err(|error| unreadable(path, error))?;
        let size = file.metadata().map_err(|error| unreadable(path, error))?.len();
        let mut head = Vec::new();
        (&mut file)
            .take(HEAD)
            .read_to_end(&mut head)
            .map_err(|error| unreadable(path, error))?;
        let (encoding, mark) =
            detect(&head, &config.encoding).map_err(|error| error.with("path", path.display()))?;

        let delimiter = match config.delimiter {
            Some(delimiter) => delimiter,
            None => sniff(head.get(mark..).unwrap_or_default(), encoding),
        };
        let header = header(config, &mut file, encoding, mark, delimiter)?;
        let mapping = match &config.mapping {
            Some(mapping) => mapping.clone(),
            None => {
                let mapping = CsvMapping::recognise(&header.names, &config.name);
                mapping.validate(&config.reading).map_err(|error| {
                    error
                        .with("path", path.display())
                        .with("columns", header.names.join(", "))
                })?;
                mapping
            }
        };
        let columns = mapping
            .locate(&header.names)
            .map_err(|error| error.with("path", path.display()))?;

        let print = Fingerprint {
            size,
            head: Sha256::digest(&head)
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect(),
            encoding: encoding.name().to_owned(),
            delimiter: char::from(delimiter),
        };
        let stand = match resume {
            None => Stand {
                kind: KIND.to_owned(),
                offset: header.bytes,
                line: header.next_line,
                rows: 0,
                drafts: 0,
                rejects: 0,
                file: print,
            },
            Some(stand) if stand.file == print => stand.clone(),
            Some(_) => {
                return Err(Error::conflict(
                    "the file, its encoding or its delimiter changed since the checkpoint; start anew without it",
                )
                .operation("csv.resume")
                .with("path", path.display()));
            }
        };
        let mut decoded = decoded(&mut file, path, encoding, mark)?;
        decoded
            .skip(stand.offset)
            .map_err(|error| unreadable(path, error))?;
        let base = (stand.offset, stand.line);
        Ok(Self {
            reader: parser(decoded, delimiter),
            encoding,
            columns,
            header: header.names,
            reading: config.reading.clone(),
            name: config.name.clone(),
            place: path.display().to_string(),
            stand,
            base,
        })
    }

    pub(super) fn size(&self) -> u64 {
        self.stand.file.size
    }

    pub(super) fn stand(&self) -> &Stand {
        &self.stand
    }

    /// Reads up to `rows` rows.
    pub(super) fn next(&mut self, rows: usize, now: Timestamp) -> Batch {
        let mut drafts = Vec::with_capacity(rows);
        let mut rejects = Vec::new();
        let mut end = None;
        let mut record = StringRecord::new();
        for _ in 0..rows {
            match self.row(&mut record, now) {
                Ok(Some(Ok(draft))) => drafts.push(draft),
                Ok(Some(Err(reject))) => rejects.push(reject),
                Ok(None) => {
                    end = Some(Ok(()));
                    break;
                }
                Err(error) => {
                    end = Some(Err(error));
                    break;
                }
            }
        }
        self.stand.drafts += drafts.len() as u64;
        self.stand.rejects += rejects.len() as u64;
        let bytes = self.reader.get_ref().raw.min(self.stand.file.size);
        Batch {
            drafts,
            rejects,
            end,
            stand: self.stand.clone(),
            bytes,
        }
    }

    #[allow(
        clippy::result_large_err,
        reason = "a reject is a result of its own here, not an error that travels"
    )]
    fn row(&mut self, record: &mut StringRecord, now: Timestamp) -> Result<Option<Result<Draft, Reject>>> {
        let endless = |line: u64, place: &str| {
            Error::invalid(
                "a quote is opened here and never closed, or the row is longer than 1 MiB; correct the file",
            )
            .operation("csv.read")
            .with("path", place)
            .with("line", line)
        };
        self.reader.get_mut().budget = MAX_RECORD;
        let more = match self.reader.read_record(record) {
            Ok(more) => more,
            Err(error) => {
                return Err(match error.into_kind() {
                    csv::ErrorKind::Io(error) if error.kind() == io::ErrorKind::InvalidData => {
                        endless(self.stand.line, &self.place)
                    }
                    csv::ErrorKind::Io(error) => unreadable(Path::new(&self.place), error),
                    _ => Error::unexpected("decoded text is not UTF-8")
                        .operation("csv.read")
                        .with("path", &self.place),
                });
            }
        };
        if !more || (record.len() == 1 && record.get(0) == Some(END)) {
            return Ok(None);
        }
        let inner: u64 = record
            .iter()
            .map(|value| value.bytes().filter(|b| *b == b'\n').count() as u64)
            .sum();
        let after = self.base.1 + self.reader.position().line() - 1;
        let line = after.saturating_sub(1 + inner);
        if record
            .iter()
            .any(|value| value.ends_with(&format!("{END}\n")) || value.ends_with(END))
        {
            // It ended with the text, not with a line.
            return Err(endless(line + 1, &self.place));
        }
        self.stand.offset = self.base.0 + self.reader.position().byte();
        self.stand.line = after;
        self.stand.rows += 1;
        Ok(Some(self.draft(record, line, inner, now).map_err(
            |(field, reason)| Reject {
                place: self.place.clone(),
                line: Some(line),
                field,
                reason,
            },
        )))
    }

    fn draft(
        &self,
        record: &StringRecord,
        line: u64,
        inner: u64,
        now: Timestamp,
    ) -> Result<Draft, (Option<String>, String)> {
        if record.len() != self.header.len() {
            let spans = if inner > 0 {
                format!("; it goes on to line {}: was a quote left open?", line + inner)
            } else {
                String::new()
            };
            let reason = format!(
                "the row has {} columns, the header has {}{spans}",
                record.len(),
                self.header.len()
            );
            return Err((None, reason));
        }
        let column = |at: usize| self.header.get(at).cloned();
        if let Some(at) = record.iter().position(|value| value.contains('\u{fffd}')) {
            let reason = format!(
                "bytes that are no {} (or were damaged before); set `encoding` to what the file is in",
                self.encoding.name()
            );
            return Err((column(at), reason));
        }
        if self.encoding == WINDOWS_1252
            && let Some(at) = record.iter().position(is_utf8_read_as_1252)
        {
            let reason = "the bytes are UTF-8 and not windows-1252; set `encoding` to utf-8".to_owned();
            return Err((column(at), reason));
        }
        let provenance = Provenance::new(self.name.as_str(), now)
            .at(self.place.as_str())
            .line(line);
        let mut assembly = Assembly::new(&self.reading, provenance);
        for (at, target) in &self.columns {
            let value = record.get(*at).unwrap_or_default();
            assembly
                .put(target, value)
                .map_err(|reason| (column(*at), reason.to_owned()))?;
        }
        assembly.finish().map_err(|(target, reason)| {
            let at = target
                .and_then(|t| self.columns.iter().find(|(_, other)| *other == t))
                .map(|(at, _)| *at);
            (at.and_then(column), reason.to_owned())
        })
    }
}

/// Nearly every text is valid windows-1252, also UTF-8; but no sensible text in it is valid UTF-8 beyond ASCII.
fn is_utf8_read_as_1252(value: &str) -> bool {
    if value.is_ascii() {
        return false;
    }
    let (bytes, _, unmappable) = WINDOWS_1252.encode(value);
    !unmappable && std::str::from_utf8(&bytes).is_ok()
}

struct Header {
    names: Vec<String>,
    bytes: u64,
    next_line: u64,
}

fn header(
    config: &CsvConfig,
    file: &mut File,
    encoding: &'static Encoding,
    mark: usize,
    delimiter: u8,
) -> Result<Header> {
    let path = &config.path;
    let mut reader = parser(decoded(file, path, encoding, mark)?, delimiter);
    reader.get_mut().budget = MAX_RECORD;
    let mut record = StringRecord::new();
    let wrong = |message: &'static str| {
        Error::invalid(message)
            .operation("csv.open")
            .with("path", path.display())
    };
    let more = reader
        .read_record(&mut record)
        .map_err(|error| match error.into_kind() {
            csv::ErrorKind::Io(error) if error.kind() != io::ErrorKind::InvalidData => {
                unreadable(path, error)
            }
            _ => wrong("the header has no end within 1 MiB: is a quote left open?"),
        })?;
    if !more || (record.len() == 1 && record.get(0) == Some(END)) {
        return Err(wrong("the file is empty: there is not even a header"));
    }
    if record.iter().any(|name| name.contains(END)) {
        return Err(wrong("the header has a quote that is never closed"));
    }
    if let Some(columns) = &config.columns {
        if columns.len() != record.len() {
            return Err(
                Error::config("the setting names another number of columns than the file has")
                    .with("setting", "columns")
                    .with("named", columns.len())
                    .with("found", record.len())
                    .with("path", path.display()),
            );
        }
        return Ok(Header {
            names: columns.clone(),
            bytes: 0,
            next_line: 1,
        });
    }
    let names: Vec<String> = record.iter().map(|name| name.trim().to_owned()).collect();
    if names.iter().any(|name| name.contains('\u{fffd}')) {
        return Err(
            wrong("the header has bytes that are not of its encoding").with("encoding", encoding.name())
        );
    }
    Ok(Header {
        names,
        bytes: reader.position().byte(),
        next_line: reader.position().line(),
    })
}

fn parser(decoded: Decoded<File>, delimiter: u8) -> csv::Reader<Decoded<File>> {
    csv::ReaderBuilder::new()
        .delimiter(delimiter)
        .has_headers(false)
        .flexible(true)
        .from_reader(decoded)
}

fn decoded(file: &mut File, path: &Path, encoding: &'static Encoding, mark: usize) -> Result<Decoded<File>> {
    file.seek(SeekFrom::Start(mark as u64))
        .map_err(|error| unreadable(path, error))?;
    let file = file.try_clone().map_err(|error| unreadable(path, error))?;
    Ok(Decoded::new(file, encoding, mark))
}

/// The delimiter that stands most often in the first line, outside quotes.
fn sniff(head: &[u8], encoding: &'static Encoding) -> u8 {
    let (text, _) = encoding.decode_without_bom_handling(head);
    let mut counts = [0usize; DELIMITERS.len()];
    let mut quoted = false;
    for byte in text.trim_start().bytes() {
        match byte {
            b'"' => quoted = !quoted,
            b'\n' | b'\r' if !quoted => break,
            other if !quoted => {
                for (count, _) in counts.iter_mut().zip(DELIMITERS).filter(|(_, d)| *d == other) {
                    *count += 1;
                }
            }
            _ => {}
        }
    }
    // Equal counts: the one that stands first in the list.
    let best = counts.iter().copied().max().unwrap_or(0);
    counts
        .iter()
        .zip(DELIMITERS)
        .find(|(count, _)| **count == best)
        .map_or(b',', |(_, delimiter)| delimiter)
}

pub(super) fn unreadable(path: &Path, error: io::Error) -> Error {
    let message = match error.kind() {
        io::ErrorKind::NotFound => "there is no file at this path",
        io::ErrorKind::PermissionDenied => "the file may not be read by this process",
        io::ErrorKind::IsADirectory => "this path is a folder, not a file",
        _ => "the file cannot be read",
    };
    Error::config(message)
        .operation("csv.open")
        .with("setting", "path")
        .with("path", path.display())
        .source(error)
}
