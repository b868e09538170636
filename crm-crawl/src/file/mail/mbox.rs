use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use crm_core::capability::{Checkpoint, Collector, CollectorCapability, DraftSink, Originals, Progress};
use crm_core::customer::Provenance;
use crm_core::{Clock, Context, Health, Provider, ProviderInfo, Result, SystemClock, Timestamp};
use serde::{Deserialize, Serialize};

use super::super::stream::{self, Found, Run, Source, Stand, unreadable};
use super::head::{self, Head};
use super::message::Reader;
use super::raw::{RawLine, RawLines};
use super::{MAX_HEAD, MailReading};
use crate::assemble::Reading;

const KIND: &str = "mbox/1";
/// Of a line in a body no more is kept.
const KEPT: usize = 1000;

/// Which mbox file, and who in it is a customer.
///
/// ```
/// use crm_crawl::file::MboxConfig;
///
/// let config: MboxConfig =
///     serde_json::from_str(r#"{"path": "sales.mbox", "name": "sales", "mail": {"own": ["@shop.example"]}}"#).unwrap();
/// assert!(config.validate().is_ok());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MboxConfig {
    /// The file.
    pub path: PathBuf,
    /// The collector's name and the source in the drafts' provenance.
    pub name: String,
    /// Who in it is a customer.
    #[serde(default)]
    pub mail: MailReading,
    /// Messages in one delivery, 1 to 10,000. 500.
    #[serde(default = "super::super::csv::batch")]
    pub batch: usize,
}

impl MboxConfig {
    /// The file at `path`, its source named `name`.
    pub fn new(path: impl Into<PathBuf>, name: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            name: name.into(),
            mail: MailReading::default(),
            batch: super::super::csv::batch(),
        }
    }

    /// Checks every setting that can be checked without the file.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Config`] naming the setting.
    pub fn validate(&self) -> Result<()> {
        super::super::csv::common(&self.name, self.batch, "auto", &Reading::default())?;
        self.mail.validate()
    }
}

/// Reads the headers of an mbox file (RFC 4155 and its four dialects: mboxo, mboxrd, mboxcl, mboxcl2): each person in
/// them a draft, with the message as an interaction of kind `email` (its data: `role`, `direction`). How often and since when
/// somebody wrote is what the timeline counts.
///
/// A line `From ` begins a message when a date as `asctime` writes it stands in it, or an envelope sender alone behind a
/// blank line, and a header field follows; so one in a text that was not escaped does not. `Content-Length` counts when a
/// message begins, or the file ends, where it says; else it lies and is passed over.
///
/// The file is streamed and bodies are never held. A date or an address that cannot be read is one reject with its line
/// and field, and the message goes on. It goes on from every checkpoint, and refuses to when the file is not the same any more.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use crm_core::Provider;
/// use crm_crawl::file::{MboxCollector, MboxConfig};
///
/// let folder = tempfile::tempdir().unwrap();
/// let path = folder.path().join("sales.mbox");
/// std::fs::write(&path, "From ana@x.example Thu Jan  1 09:00:00 2026\nFrom: Ana <ana@x.example>\n\nHello\n").unwrap();
/// let collector = MboxCollector::new(MboxConfig::new(&path, "sales")).unwrap();
/// assert!(collector.check().await.is_ok());
/// # });
/// ```
pub struct MboxCollector {
    info: ProviderInfo,
    config: Arc<MboxConfig>,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for MboxCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MboxCollector")
            .field("path", &self.config.path)
            .finish_non_exhaustive()
    }
}

impl MboxCollector {
    /// A collector of one file; the file is opened when it runs.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Config`] naming the setting that is wrong.
    pub fn new(config: MboxConfig) -> Result<Self> {
        config.validate()?;
        Ok(Self {
            info: ProviderInfo::new("mbox", config.name.as_str()),
            config: Arc::new(config),
            clock: SystemClock::shared(),
        })
    }

    /// Takes the time of observation from `clock`.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }
}

#[async_trait]
impl Provider for MboxCollector {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }

    async fn check(&self) -> Result<Health> {
        stream::check(self.config.path.clone()).await
    }
}

#[async_trait]
impl Collector for MboxCollector {
    fn capability(&self) -> CollectorCapability {
        CollectorCapability::new(true, true)
    }

    /// [`Progress`] counts bytes. Errors as [`MboxCollector`] says.
    async fn collect(
        &self,
        ctx: &Context,
        resume: Option<&Checkpoint>,
        sink: &mut dyn DraftSink,
    ) -> Result<Progress> {
        let config = self.config.clone();
        let run = Run {
            info: &self.info,
            clock: self.clock.as_ref(),
            batch: self.config.batch,
            kind: KIND,
        };
        run.through(ctx, resume, move |stand| Messages::open(&config, stand), sink)
            .await
    }
}

/// An open file.
struct Messages {
    lines: RawLines,
    /// The same file once more, to look where a `Content-Length` leads.
    probe: File,
    size: u64,
    reader: Reader,
    name: String,
    place: String,
    stand: Stand,
}

/// What comes next in the file.
enum Next {
    /// A message: its first line, its header section, and the time it came in.
    Message(u64, Vec<u8>, Option<Timestamp>),
    /// What is none, and why.
    Bad(u64, &'static str),
    End,
}

impl Messages {
    fn open(config: &MboxConfig, resume: Option<&Stand>) -> Result<Self> {
        let path = &config.path;
        // Headers have no one encoding; a byte order mark says that this is something else.
        let mut opened = stream::open(path, "utf-8")?;
        let stand = Stand::begin(
            resume,
            KIND,
            (opened.mark as u64, 1),
            opened.fingerprint('\n'),
            path,
        )?;
        let failed = |error| unreadable(path, error);
        opened.file.seek(SeekFrom::Start(stand.offset)).map_err(failed)?;
        Ok(Self {
            // Another handle: one that was only cloned would move along.
            probe: File::open(path).map_err(failed)?,
            size: opened.size,
            lines: RawLines::new(opened.file, stand.offset, stand.line),
            reader: Reader::new(&config.mail),
            name: config.name.clone(),
            place: path.display().to_string(),
            stand,
        })
    }

    fn next_message(&mut self) -> io::Result<Next> {
        let begin = loop {
            match self.lines.next(KEPT)? {
                None => return Ok(Next::End),
                Some(line) if line.is_blank() => {}
                Some(line) => break line,
            }
        };
        if !begin.bytes.starts_with(b"From ") {
            self.skip(0)?;
            return Ok(Next::Bad(
                begin.number,
                "text before the first message; a message in an mbox begins with a line `From sender date`",
            ));
        }
        let came = envelope_date(&begin.bytes);
        let (mut head, mut long, mut length) = (Vec::new(), false, None);
        while let Some(line) = self.lines.next(MAX_HEAD)? {
            if line.is_blank() {
                let (offset, _) = self.lines.place();
                let end = match length {
                    Some(length) => self.verified(offset, length)?,
                    None => 0,
                };
                self.skip(end)?;
                break;
            }
            // A message of headers alone, without the blank line behind them.
            if self.begins_message(&line, false)? {
                self.lines.give_back([line]);
                break;
            }
            if let Some(value) = content_length(&line.bytes) {
                length = Some(value);
            }
            long |= line.cut || head.len() + line.bytes.len() > MAX_HEAD;
            if !long {
                head.extend_from_slice(&line.bytes);
                head.push(b'\n');
            }
        }
        Ok(if long {
            Next::Bad(begin.number, "the headers of the message are longer than 256 KiB")
        } else {
            Next::Message(begin.number, head, came)
        })
    }

    /// Where a body ends by its `Content-Length`: there the next message begins, or the file ends; 0 when it lies.
    fn verified(&mut self, begin: u64, length: u64) -> io::Result<u64> {
        let Some(end) = begin.checked_add(length).filter(|end| *end <= self.size) else {
            return Ok(0);
        };
        self.probe.seek(SeekFrom::Start(end))?;
        let mut text = Vec::new();
        (&mut self.probe).take(300).read_to_end(&mut text)?;
        let blanks = text
            .iter()
            .take(4)
            .take_while(|b| matches!(b, b'\r' | b'\n'))
            .count();
        let next = text.get(blanks..).unwrap_or_default();
        let line = next.split(|b| *b == b'\n').next().unwrap_or_default();
        let whole = blanks > 0 || length == 0 || ends_line(&mut self.probe, end)?;
        let good = next.is_empty() && end + blanks as u64 == self.size
            || whole && line.starts_with(b"From ") && envelope_date(line).is_some();
        Ok(if good { end } else { 0 })
    }

    /// Passes over a body; nothing before `end` begins a message.
    fn skip(&mut self, end: u64) -> io::Result<()> {
        let mut blank = false;
        while let Some(line) = self.lines.next(KEPT)? {
            if line.offset >= end && self.begins_message(&line, blank)? {
                self.lines.give_back([line]);
                break;
            }
            blank = line.is_blank();
        }
        Ok(())
    }

    /// Whether a line begins a message; looks at the line behind it.
    fn begins_message(&mut self, line: &RawLine, after_blank: bool) -> io::Result<bool> {
        if !line.bytes.starts_with(b"From ") {
            return Ok(false);
        }
        let dated = envelope_date(&line.bytes).is_some();
        let alone = after_blank
            && line
                .bytes
                .split(|b| *b == b' ')
                .filter(|word| !word.is_empty())
                .count()
                == 2;
        if !dated && !alone {
            return Ok(false);
        }
        let Some(next) = self.lines.next(MAX_HEAD)? else {
            return Ok(dated);
        };
        // Old mailers put the line of the one before behind it: `>From ana@x.example ... remote from y`.
        let field = head::is_field(&next.bytes) || next.bytes.starts_with(b">From ");
        let begins = field || next.is_blank() && dated;
        self.lines.give_back([next]);
        Ok(begins)
    }
}

/// Whether what stands before `end` is the end of a line.
fn ends_line(file: &mut File, end: u64) -> io::Result<bool> {
    let Some(before) = end.checked_sub(1) else {
        return Ok(true);
    };
    file.seek(SeekFrom::Start(before))?;
    let mut byte = [0];
    file.read_exact(&mut byte)?;
    Ok(byte == [b'\n'])
}

/// The date in `From ana@shop.example Thu Jan  1 09:00:00 2026`.
fn envelope_date(line: &[u8]) -> Option<Timestamp> {
    let line = String::from_utf8_lossy(line.get(..300).unwrap_or(line)).into_owned();
    let words: Vec<&str> = line.split_whitespace().skip(1).collect();
    head::c_time(&words)
}

fn content_length(line: &[u8]) -> Option<u64> {
    let colon = line.iter().position(|b| *b == b':')?;
    let (name, value) = (line.get(..colon)?, line.get(colon + 1..)?);
    name.trim_ascii_end()
        .eq_ignore_ascii_case(b"content-length")
        .then(|| std::str::from_utf8(value).ok()?.trim().parse().ok())
        .flatten()
}

impl Source for Messages {
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
        Originals::default()
    }

    fn read(&mut self, now: Timestamp) -> Result<Option<Found>> {
        let next = self
            .next_message()
            .map_err(|error| unreadable(Path::new(&self.place), error))?;
        Ok(Some(match next {
            Next::End => return Ok(None),
            Next::Bad(line, reason) => Found::one(line, Err((None, reason.to_owned())), None),
            Next::Message(line, head, came) => {
                let provenance = Provenance::new(self.name.as_str(), now)
                    .at(self.place.as_str())
                    .line(line);
                let (drafts, wrong) = self.reader.read(&Head::parse(&head), came, &provenance);
                Found {
                    line,
                    place: None,
                    drafts,
                    wrong,
                    original: None,
                }
            }
        }))
    }

    fn settle(&mut self) -> u64 {
        (self.stand.offset, self.stand.line) = self.lines.place();
        self.stand.offset
    }
}
