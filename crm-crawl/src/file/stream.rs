//! What all files have in common: where reading stands, by what a file is recognised again, and the way of its batches
//! into a sink.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use crm_core::capability::{Checkpoint, Delivery, DraftSink, Originals, Progress, Reject, RejectKind};
use crm_core::customer::Draft;
use crm_core::{Clock, Context, Error, ErrorKind, Health, ProviderInfo, Result, Timestamp};
use encoding_rs::Encoding;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::decode::{Decoded, detect};

/// The most bytes of one record: more is a quote that was never closed, and would eat the memory.
pub(super) const MAX_RECORD: usize = 1024 * 1024;
/// The block of which a file is recognised again.
const HEAD: u64 = 64 * 1024;

/// Where reading stands: what a checkpoint holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stand {
    pub(super) kind: String,
    /// Bytes of decoded text that are done.
    pub(super) offset: u64,
    /// The line that comes next; 1 is the first.
    pub(super) line: u64,
    /// Of a folder: the file that was read last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) last: Option<String>,
    /// Rows done, drafts and rejects alike.
    pub(super) rows: u64,
    pub(super) drafts: u64,
    pub(super) rejects: u64,
    pub(super) file: Fingerprint,
}

/// By what a file is recognised: its size, its first block, and how its bytes were read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Fingerprint {
    pub(super) size: u64,
    head: String,
    encoding: String,
    delimiter: char,
}

impl Fingerprint {
    /// A folder is recognised by nothing: it lives. Its size is the number of its files.
    pub(super) fn of_folder() -> Self {
        Self {
            size: 0,
            head: String::new(),
            encoding: String::new(),
            delimiter: '\n',
        }
    }
}

/// What one step gave. `end` is set when there is nothing more, or when reading cannot go on.
pub(super) struct Batch {
    pub(super) drafts: Vec<Draft>,
    pub(super) rejects: Vec<Reject>,
    pub(super) originals: Originals,
    pub(super) end: Option<Result<()>>,
    pub(super) stand: Stand,
    pub(super) bytes: u64,
}

/// The field or path that is wrong, if it is one, and why.
pub(super) type Wrong = (Option<String>, String);

/// A record of a file: a row, a document, a card.
pub(super) struct Found {
    /// Where it begins.
    pub(super) line: u64,
    /// The file it stood in, when a source has several.
    pub(super) place: Option<String>,
    /// Whom it is about, as far as it can be read.
    pub(super) drafts: Vec<Draft>,
    /// What cannot be read in it, or why it is not about anybody.
    pub(super) wrong: Vec<Wrong>,
    /// How it stood in the file, if that can be told.
    pub(super) original: Option<Vec<String>>,
}

impl Found {
    /// A draft, or what is wrong.
    pub(super) fn one(line: u64, draft: Result<Draft, Wrong>, original: Option<Vec<String>>) -> Self {
        let (drafts, wrong) = match draft {
            Ok(draft) => (vec![draft], Vec::new()),
            Err(wrong) => (Vec::new(), vec![wrong]),
        };
        Self {
            line,
            place: None,
            drafts,
            wrong,
            original,
        }
    }
}

/// An open file that is read in batches; all of it blocking.
pub(super) trait Source: Send + 'static {
    /// Where it stands.
    fn stand(&self) -> &Stand;
    /// Where it stands, to be counted on.
    fn stand_mut(&mut self) -> &mut Stand;
    /// The file.
    fn place(&self) -> &str;
    /// How its records are written: without rows.
    fn originals(&self) -> Originals;
    /// The next record; `None` at the end.
    fn read(&mut self, now: Timestamp) -> Result<Option<Found>>;
    /// Notes offset and line of what comes next. Answers how many bytes of the file were read.
    fn settle(&mut self) -> u64;

    /// Reads up to `records` records.
    fn next(&mut self, records: usize, now: Timestamp) -> Batch {
        let (mut drafts, mut rejects, mut end) = (Vec::with_capacity(records), Vec::new(), None);
        let (mut originals, mut done) = (self.originals(), 0);
        for _ in 0..records {
            let found = match self.read(now) {
                Ok(Some(found)) => found,
                Ok(None) => {
                    end = Some(Ok(()));
                    break;
                }
                Err(error) => {
                    end = Some(Err(error));
                    break;
                }
            };
            done += 1;
            drafts.extend(found.drafts);
            let (place, whole) = match found.place {
                Some(place) => (place, true),
                None => (self.place().to_owned(), false),
            };
            rejects.extend(found.wrong.into_iter().map(|(field, reason)| Reject {
                kind: RejectKind::Invalid,
                place: place.clone(),
                line: (!whole).then_some(found.line),
                field,
                reason,
            }));
            if let Some(original) = found.original {
                originals.rows.insert(found.line, original);
            }
        }
        let bytes = self.settle();
        let stand = self.stand_mut();
        stand.rows += done;
        stand.drafts += drafts.len() as u64;
        stand.rejects += rejects.len() as u64;
        Batch {
            drafts,
            rejects,
            originals,
            end,
            stand: stand.clone(),
            bytes: bytes.min(stand.file.size),
        }
    }
}

/// A file that was opened: its encoding is known.
pub(super) struct Opened {
    pub(super) file: File,
    pub(super) size: u64,
    pub(super) head: Vec<u8>,
    pub(super) encoding: &'static Encoding,
    pub(super) mark: usize,
}

pub(super) fn open(path: &Path, encoding: &str) -> Result<Opened> {
    let mut file = File::open(path).map_err(|error| unreadable(path, error))?;
    let size = file.metadata().map_err(|error| unreadable(path, error))?.len();
    let mut head = Vec::new();
    (&mut file)
        .take(HEAD)
        .read_to_end(&mut head)
        .map_err(|error| unreadable(path, error))?;
    let (encoding, mark) = detect(&head, encoding).map_err(|error| error.with("path", path.display()))?;
    Ok(Opened {
        file,
        size,
        head,
        encoding,
        mark,
    })
}

impl Opened {
    pub(super) fn fingerprint(&self, delimiter: char) -> Fingerprint {
        Fingerprint {
            size: self.size,
            head: Sha256::digest(&self.head)
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect(),
            encoding: self.encoding.name().to_owned(),
            delimiter,
        }
    }

    /// Its text from the beginning.
    pub(super) fn decoded(&mut self, path: &Path) -> Result<Decoded<File>> {
        self.file
            .seek(SeekFrom::Start(self.mark as u64))
            .map_err(|error| unreadable(path, error))?;
        let file = self.file.try_clone().map_err(|error| unreadable(path, error))?;
        Ok(Decoded::new(file, self.encoding, self.mark))
    }
}

impl Stand {
    /// Where reading goes on, or begins.
    pub(super) fn begin(
        resume: Option<&Self>,
        kind: &'static str,
        (offset, line): (u64, u64),
        file: Fingerprint,
        path: &Path,
    ) -> Result<Self> {
        match resume {
            None => Ok(Self {
                kind: kind.to_owned(),
                offset,
                line,
                last: None,
                rows: 0,
                drafts: 0,
                rejects: 0,
                file,
            }),
            Some(stand) if stand.file == file => Ok(stand.clone()),
            Some(_) => Err(Error::conflict(
                "the file, its encoding or its delimiter changed since the checkpoint; start anew without it",
            )
            .operation(resuming(kind))
            .with("path", path.display())),
        }
    }
}

/// The operation in which a checkpoint of this kind is refused.
fn resuming(kind: &str) -> &'static str {
    match kind.split('/').next() {
        Some("csv") => "csv.resume",
        Some("jsonl") => "jsonl.resume",
        Some("vcard") => "vcard.resume",
        Some("mbox") => "mbox.resume",
        Some("maildir") => "maildir.resume",
        _ => "file.resume",
    }
}

/// A run of a collector of files.
pub(super) struct Run<'a> {
    pub(super) info: &'a ProviderInfo,
    pub(super) clock: &'a dyn Clock,
    /// Rows of a delivery.
    pub(super) batch: usize,
    /// The kind of its checkpoints.
    pub(super) kind: &'static str,
}

impl Run<'_> {
    /// Opens the file, goes to where `resume` stands, and hands over what is found to the end.
    pub(super) async fn through<S: Source>(
        self,
        ctx: &Context,
        resume: Option<&Checkpoint>,
        open: impl FnOnce(Option<&Stand>) -> Result<S> + Send + 'static,
        sink: &mut dyn DraftSink,
    ) -> Result<Progress> {
        let resume = resume
            .map(|checkpoint| stand(checkpoint, self.kind))
            .transpose()?;
        let mut delivered = resume.is_some();
        let mut source = blocking(move || open(resume.as_ref())).await??;
        let total = source.stand().file.size;
        let mut progress = Progress::default();
        progress.total = Some(total);
        progress.drafts = source.stand().drafts;
        progress.rejects = source.stand().rejects;
        loop {
            ctx.check(self.clock)?;
            let (count, now) = (self.batch, self.clock.now());
            let (back, batch) = blocking(move || {
                let batch = source.next(count, now);
                (source, batch)
            })
            .await?;
            source = back;
            // A folder may have grown.
            let total = batch.stand.file.size;
            progress.total = Some(total);
            progress.done = if matches!(batch.end, Some(Ok(()))) {
                total
            } else {
                batch.bytes
            };
            progress.drafts = batch.stand.drafts;
            progress.rejects = batch.stand.rejects;
            // A file without rows still leaves a checkpoint: it was read.
            if !(batch.drafts.is_empty() && batch.rejects.is_empty() && delivered) {
                let checkpoint = serde_json::to_value(&batch.stand)
                    .map_err(|error| Error::unexpected("a checkpoint cannot be written").source(error))?;
                sink.deliver(Delivery {
                    drafts: batch.drafts,
                    rejects: batch.rejects,
                    checkpoint: Some(Checkpoint(checkpoint)),
                    progress,
                    originals: batch.originals,
                })
                .await?;
                delivered = true;
            }
            match batch.end {
                None => {}
                Some(Ok(())) => {
                    tracing::debug!(collector = %self.info, drafts = progress.drafts, rejects = progress.rejects, "file read");
                    return Ok(progress);
                }
                Some(Err(error)) => return Err(error),
            }
        }
    }
}

/// The stand a checkpoint of this kind holds.
fn stand(checkpoint: &Checkpoint, kind: &str) -> Result<Stand> {
    let wrong = || {
        Error::invalid("the checkpoint is not one of this collector; start anew without it")
            .operation(resuming(kind))
    };
    let stand: Stand = serde_json::from_value(checkpoint.0.clone()).map_err(|_| wrong())?;
    if stand.kind == kind {
        Ok(stand)
    } else {
        Err(wrong())
    }
}

/// Whether the file is there and can be opened.
pub(super) async fn check(path: std::path::PathBuf) -> Result<Health> {
    blocking(move || File::open(&path).map_err(|error| unreadable(&path, error))).await??;
    Ok(Health::Ready)
}

/// Runs what reads files off the async workers.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        if error.is_cancelled() {
            Error::new(ErrorKind::Cancelled, "the runtime is shutting down")
        } else {
            Error::unexpected("reading the file panicked").source(error)
        }
    })
}

pub(super) fn unreadable(path: &Path, error: io::Error) -> Error {
    let message = match error.kind() {
        io::ErrorKind::NotFound => "there is no file at this path",
        io::ErrorKind::PermissionDenied => "the file may not be read by this process",
        io::ErrorKind::IsADirectory => "this path is a folder, not a file",
        _ => "the file cannot be read",
    };
    Error::config(message)
        .operation("file.open")
        .with("setting", "path")
        .with("path", path.display())
        .source(error)
}
