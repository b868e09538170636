use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use crm_core::capability::{
    Checkpoint, Collector, CollectorCapability, DraftSink, OriginalKind, Originals, Progress,
};
use crm_core::{Clock, Context, Health, Provider, ProviderInfo, Result, SystemClock, Timestamp};
use serde::{Deserialize, Serialize};

use super::card::{Card, Found};
use super::lines::{Line, Lines};
use super::stream::{self, Found as Record, MAX_RECORD, Run, Source, Stand, unreadable};
use crate::assemble::Reading;

const KIND: &str = "vcard/1";

/// Which file of vCards, and how it is read.
///
/// ```
/// use crm_crawl::file::VcardConfig;
///
/// let config: VcardConfig =
///     serde_json::from_str(r#"{"path": "contacts.vcf", "name": "phone", "reading": {"phone_region": "DE"}}"#).unwrap();
/// assert!(config.validate().is_ok() && config.uid);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VcardConfig {
    /// The file.
    pub path: PathBuf,
    /// The collector's name, the source in the drafts' provenance, and the system of the cards' `UID`s.
    pub name: String,
    /// `auto` (byte order mark, UTF-16 by its zero bytes, else UTF-8) or a label of the WHATWG Encoding Standard.
    #[serde(default = "super::csv::auto")]
    pub encoding: String,
    /// Takes a card's `UID` as the person's id in the system `name`, so that the person is recognised next time.
    #[serde(default = "yes")]
    pub uid: bool,
    /// How phone numbers are read.
    #[serde(default)]
    pub reading: Reading,
    /// Cards in one delivery, 1 to 10,000. 500.
    #[serde(default = "super::csv::batch")]
    pub batch: usize,
}

fn yes() -> bool {
    true
}

impl VcardConfig {
    /// The file at `path`, its source named `name`.
    pub fn new(path: impl Into<PathBuf>, name: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            name: name.into(),
            encoding: super::csv::auto(),
            uid: true,
            reading: Reading::default(),
            batch: super::csv::batch(),
        }
    }

    /// Checks every setting that can be checked without the file.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Config`] naming the setting.
    pub fn validate(&self) -> Result<()> {
        super::csv::common(&self.name, self.batch, &self.encoding, &self.reading)
    }
}

/// Reads a file of vCards: 4.0 (RFC 6350), 3.0 (RFC 2426), and what phones still write as 2.1.
///
/// | property | where it goes |
/// |---|---|
/// | `FN`, `N` | the name; of several the preferred one |
/// | `EMAIL`, `TEL` | contact points, the preferred one first; numbers of fax machines and pagers are passed over |
/// | `ADR` | a postal address; a country that is no ISO code becomes its last line |
/// | `CATEGORIES` | tags |
/// | `UID` | the person's id in the system named as the collector |
/// | `ORG`, `TITLE`, `NOTE`, `BDAY` | attributes `organisation`, `title`, `note`, `birthday` |
/// | `REV` | when it was observed, if that is in the past |
/// | `X-CRM-REF`, `X-CRM-ATTRIBUTE` | what this library's export wrote |
///
/// The file is streamed; pictures are never held. A property that cannot be read is one reject and the card goes on; a
/// card of nobody, without an end, or longer than 1 MiB is one reject and the file goes on.
pub struct VcardCollector {
    info: ProviderInfo,
    config: Arc<VcardConfig>,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for VcardCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VcardCollector")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl VcardCollector {
    /// A collector of one file; the file is opened when it runs.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Config`] naming the setting that is wrong.
    pub fn new(config: VcardConfig) -> Result<Self> {
        config.validate()?;
        Ok(Self {
            info: ProviderInfo::new("vcard", config.name.as_str()),
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
impl Provider for VcardCollector {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }

    async fn check(&self) -> Result<Health> {
        stream::check(self.config.path.clone()).await
    }
}

#[async_trait]
impl Collector for VcardCollector {
    fn capability(&self) -> CollectorCapability {
        CollectorCapability::new(true, true)
    }

    /// [`Progress`] counts bytes. Errors as [`VcardCollector`] says.
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
        run.through(ctx, resume, move |stand| Cards::open(&config, stand), sink)
            .await
    }
}

/// An open file.
struct Cards {
    lines: Lines,
    /// A line that was read and belongs to the next card, with its number.
    ahead: Option<(u64, String)>,
    config: VcardConfig,
    encoding: &'static str,
    place: String,
    stand: Stand,
}

/// What comes next in the file.
enum Next {
    /// A card from this line on: its text, and its unfolded lines with their numbers.
    Card(u64, String, Vec<(u64, String)>),
    /// One that cannot be a card, and why.
    Bad(u64, &'static str),
    End,
}

impl Cards {
    fn open(config: &VcardConfig, resume: Option<&Stand>) -> Result<Self> {
        let path = &config.path;
        let mut opened = stream::open(path, &config.encoding)?;
        let stand = Stand::begin(resume, KIND, (0, 1), opened.fingerprint('\n'), path)?;
        let mut decoded = opened.decoded(path)?;
        decoded
            .skip(stand.offset)
            .map_err(|error| unreadable(path, error))?;
        Ok(Self {
            lines: Lines::new(decoded, stand.offset, stand.line),
            ahead: None,
            encoding: opened.encoding.name(),
            place: path.display().to_string(),
            config: config.clone(),
            stand,
        })
    }

    /// The next line and its number; `None` in place of the text when it was too long.
    fn line(&mut self) -> std::io::Result<Option<(u64, Option<String>)>> {
        if let Some((number, text)) = self.ahead.take() {
            return Ok(Some((number, Some(text))));
        }
        let number = self.lines.number;
        Ok(match self.lines.next()? {
            Line::End => None,
            Line::TooLong => Some((number, None)),
            Line::Text(text) => Some((number, Some(text))),
        })
    }

    fn next_card(&mut self) -> std::io::Result<Next> {
        // To the beginning of a card; what stands between cards says nothing, unless it is not blank.
        let mut stray = None;
        let begin = loop {
            match self.line()? {
                None => {
                    return Ok(match stray {
                        Some(line) => {
                            Next::Bad(line, "text outside of a card; a card begins with BEGIN:VCARD")
                        }
                        None => Next::End,
                    });
                }
                Some((line, Some(text))) if is(&text, "BEGIN:VCARD") => {
                    if let Some(stray) = stray {
                        self.ahead = Some((line, text));
                        return Ok(Next::Bad(
                            stray,
                            "text outside of a card; a card begins with BEGIN:VCARD",
                        ));
                    }
                    break line;
                }
                Some((_, Some(text))) if text.trim().is_empty() => {}
                Some((line, _)) => {
                    stray.get_or_insert(line);
                }
            }
        };
        let (mut unfolded, mut raw, mut long, mut dropped) = (Vec::new(), String::new(), false, false);
        let mut depth = 0_u32;
        loop {
            let Some((number, text)) = self.line()? else {
                return Ok(Next::Bad(begin, "the card has no END:VCARD"));
            };
            let Some(text) = text else {
                long = true;
                continue;
            };
            if is(&text, "END:VCARD") {
                if depth == 0 {
                    break;
                }
                // A card within a card (3.0, AGENT): passed over.
                depth -= 1;
                continue;
            }
            if is(&text, "BEGIN:VCARD") {
                if dropped {
                    depth += 1;
                    continue;
                }
                self.ahead = Some((number, text));
                return Ok(Next::Bad(
                    begin,
                    "the card has no END:VCARD before the next one begins",
                ));
            }
            if depth > 0 {
                continue;
            }
            // Continued: folded (a blank first), or quoted-printable with a soft line end, or 2.1's base64.
            let continued = text.starts_with([' ', '\t']) && !unfolded.is_empty();
            if dropped && (continued || !text.contains(':')) {
                continue;
            }
            if raw.len() + text.len() > MAX_RECORD {
                long = true;
                continue;
            }
            let soft = unfolded.last_mut().filter(|(_, last): &&mut (u64, String)| {
                last.ends_with('=') && last.to_ascii_uppercase().contains("QUOTED-PRINTABLE")
            });
            if let Some((_, last)) = soft {
                last.pop();
                last.push_str(&text);
            } else if continued {
                if let Some((_, last)) = unfolded.last_mut() {
                    last.push_str(text.get(1..).unwrap_or_default());
                }
            } else {
                dropped = is_heavy(&text);
                if dropped {
                    continue;
                }
                unfolded.push((number, text.clone()));
            }
            raw.push_str(&text);
            raw.push('\n');
        }
        if long {
            return Ok(Next::Bad(begin, "the card is longer than 1 MiB"));
        }
        Ok(Next::Card(
            begin,
            format!("BEGIN:VCARD\n{raw}END:VCARD\n"),
            unfolded,
        ))
    }
}

fn is(line: &str, wanted: &str) -> bool {
    let line = line.trim();
    let (name, value) = line.split_once(':').unwrap_or((line, ""));
    let (wanted_name, wanted_value) = wanted.split_once(':').unwrap_or((wanted, ""));
    let name = name.rsplit('.').next().unwrap_or(name);
    name.trim().eq_ignore_ascii_case(wanted_name) && value.trim().eq_ignore_ascii_case(wanted_value)
}

/// Pictures, sounds, keys and cards within cards: large, and never read.
fn is_heavy(line: &str) -> bool {
    let name = line.split([':', ';']).next().unwrap_or_default();
    let name = name.rsplit('.').next().unwrap_or(name);
    ["PHOTO", "LOGO", "SOUND", "KEY", "AGENT"]
        .iter()
        .any(|heavy| name.eq_ignore_ascii_case(heavy))
}

impl Source for Cards {
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
            kind: OriginalKind::Vcard,
            ..Originals::default()
        }
    }

    fn read(&mut self, now: Timestamp) -> Result<Option<Record>> {
        let next = self.next_card();
        let (line, text, unfolded) = match next.map_err(|error| unreadable(Path::new(&self.place), error))? {
            Next::Card(line, text, unfolded) => (line, text, unfolded),
            Next::Bad(line, reason) => {
                return Ok(Some(Record::one(line, Err((None, reason.to_owned())), None)));
            }
            Next::End => return Ok(None),
        };
        let mut card = Card::new(&self.config, &self.place, line, now);
        let mut wrong = Vec::new();
        for (_, property) in unfolded
            .iter()
            .filter(|(_, property)| !property.trim().is_empty())
        {
            let found = if property.contains('\u{fffd}') {
                let reason = format!(
                    "bytes that are no {}; set `encoding` to what the file is in",
                    self.encoding
                );
                Found::Wrong(None, reason)
            } else {
                card.take(property)
            };
            if let Found::Wrong(field, reason) = found {
                wrong.push((field, reason));
            }
        }
        // What is wrong with the whole comes after what is wrong within.
        let drafts = match card.finish() {
            Ok(draft) => vec![draft],
            Err(reason) => {
                wrong.push((None, reason.to_owned()));
                Vec::new()
            }
        };
        Ok(Some(Record {
            line,
            place: None,
            drafts,
            wrong,
            original: Some(vec![text]),
        }))
    }

    fn settle(&mut self) -> u64 {
        // A line that was read ahead is read again after a resume.
        (self.stand.offset, self.stand.line) = match &self.ahead {
            Some((number, text)) => (self.lines.offset - text.len() as u64 - 1, *number),
            None => (self.lines.offset, self.lines.number),
        };
        self.lines.raw()
    }
}
