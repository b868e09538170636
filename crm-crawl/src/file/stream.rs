//! What all files have in common: where reading stands, by what a file is recognised again, and the way of its batches
//! into a sink.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use crm_core::capability::{Checkpoint, Delivery, DraftSink, Originals, Progress, Reject};
use crm_core::customer::Draft;
use crm_core::{Clock, Context, Error, ErrorKind, ProviderInfo, Result, Timestamp};
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

/// What one step gave. `end` is set when there is nothing more, or when reading cannot go on.
pub(super) struct Batch {
    pub(super) drafts: Vec<Draft>,
    pub(super) rejects: Vec<Reject>,
    pub(super) originals: Originals,
    pub(super) end: Option<Result<()>>,
    pub(super) stand: Stand,
    pub(super) bytes: u64,
}

/// An open file that is read in batches; all of it blocking.
pub(super) trait Source: Send + 'static {
    /// Bytes in all.
    fn size(&self) -> u64;
    /// Where it stands.
    fn stand(&self) -> &Stand;
    /// Reads up to `rows` rows.
    fn next(&mut self, rows: usize, now: Timestamp) -> Batch;
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
        _ => "file.resume",
    }
}

/// A run of a collector of files.
pub(super) struct Run<'a> {
    pub(super) info: &'a ProviderInfo,
    pub(super) clock: &'a dyn Clock,
    /// Rows of a delivery.
    pub(super) batch: usize,
    /// From the beginning, not from a checkpoint.
    pub(super) fresh: bool,
}

impl Run<'_> {
    pub(super) async fn through<S: Source>(
        self,
        ctx: &Context,
        mut source: S,
        sink: &mut dyn DraftSink,
    ) -> Result<Progress> {
        let total = source.size();
        let mut progress = Progress::default();
        progress.total = Some(total);
        progress.drafts = source.stand().drafts;
        progress.rejects = source.stand().rejects;
        let mut delivered = !self.fresh;
        loop {
            ctx.check(self.clock)?;
            let (count, now) = (self.batch, self.clock.now());
            let (back, batch) = blocking(move || {
                let batch = source.next(count, now);
                (source, batch)
            })
            .await?;
            source = back;
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
pub(super) fn stand(checkpoint: &Checkpoint, kind: &str) -> Result<Stand> {
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
