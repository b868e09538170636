//! Lines of a delimited file to drafts and rejects, a batch at a time; all of it blocking.

use std::fs::File;
use std::io;
use std::path::Path;

use crm_core::capability::Originals;
use crm_core::customer::{Draft, Provenance};
use crm_core::{Error, Result, Timestamp, cell};
use csv::StringRecord;
use encoding_rs::{Encoding, WINDOWS_1252};

use super::decode::{Decoded, END};
use super::stream::{self, Found, MAX_RECORD, Opened, Source, Stand, Wrong, unreadable};
use super::{CsvConfig, Mapping};
use crate::assemble::{Assembly, Reading};
use crate::target::Target;

const DELIMITERS: [u8; 4] = *b",;\t|";

pub(super) const KIND: &str = "csv/1";

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
    /// The row that is read, kept for its room.
    record: StringRecord,
}

impl Rows {
    /// Opens the file, reads its header, finds every mapped column, and goes to where `resume` stands.
    pub(super) fn open(config: &CsvConfig, resume: Option<&Stand>) -> Result<Self> {
        let path = &config.path;
        let mut opened = stream::open(path, &config.encoding)?;
        let (encoding, mark) = (opened.encoding, opened.mark);
        let delimiter = match config.delimiter {
            Some(delimiter) => delimiter,
            None => sniff(opened.head.get(mark..).unwrap_or_default(), encoding),
        };
        let header = header(config, &mut opened, delimiter)?;
        let mapping = match &config.mapping {
            Some(mapping) => mapping.clone(),
            None => {
                let mapping = Mapping::recognise(&header.names, &config.name);
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

        let print = opened.fingerprint(char::from(delimiter));
        let stand = Stand::begin(resume, KIND, (header.bytes, header.next_line), print, path)?;
        let mut decoded = opened.decoded(path)?;
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
            record: StringRecord::new(),
        })
    }
}

impl Source for Rows {
    fn stand(&self) -> &Stand {
        &self.stand
    }

    fn stand_mut(&mut self) -> &mut Stand {
        &mut self.stand
    }

    fn place(&self) -> &str {
        &self.place
    }

    fn originals(&self) -> Originals {
        Originals {
            columns: self.header.clone(),
            ..Originals::default()
        }
    }

    fn read(&mut self, now: Timestamp) -> Result<Option<Found>> {
        let mut record = std::mem::take(&mut self.record);
        let found = self.row(&mut record, now);
        self.record = record;
        found
    }

    /// Each row notes where the next one stands.
    fn settle(&mut self) -> u64 {
        self.reader.get_ref().raw
    }
}

impl Rows {
    fn row(&mut self, record: &mut StringRecord, now: Timestamp) -> Result<Option<Found>> {
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
        let cells = record.iter().map(|text| cell::unguard(text).into_owned());
        let draft = self.draft(record, line, inner, now);
        Ok(Some(Found::one(line, draft, Some(cells.collect()))))
    }

    fn draft(&self, record: &StringRecord, line: u64, inner: u64, now: Timestamp) -> Result<Draft, Wrong> {
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
            // What an export guarded against spreadsheets comes back as it was.
            let value = cell::unguard(record.get(*at).unwrap_or_default());
            assembly
                .put(target, &value)
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

fn header(config: &CsvConfig, opened: &mut Opened, delimiter: u8) -> Result<Header> {
    let path = &config.path;
    let encoding = opened.encoding;
    let mut reader = parser(opened.decoded(path)?, delimiter);
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
