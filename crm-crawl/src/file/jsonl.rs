use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use crm_core::capability::{
    Checkpoint, Collector, CollectorCapability, DraftSink, OriginalKind, Originals, Progress,
};
use crm_core::customer::{Draft, Provenance};
use crm_core::{Clock, Context, Health, Provider, ProviderInfo, Result, SystemClock, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::Mapping;
use super::document::Documents;
use super::lines::{Line, Lines};
use super::stream::{self, Found, Run, Source, Stand, Wrong, unreadable};
use crate::assemble::Reading;

const KIND: &str = "jsonl/1";

/// Which file of JSON Lines (jsonlines.org, NDJSON), and how it is read.
///
/// ```
/// use crm_crawl::file::JsonlConfig;
///
/// let config: JsonlConfig = serde_json::from_str(
///     r#"{"path": "people.jsonl", "name": "app",
///         "mapping": [{"column": "contact.emails", "target": "email"},
///                     {"column": "prefs", "target": "attribute:prefs:json"}]}"#,
/// )
/// .unwrap();
/// assert!(config.validate().is_ok());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JsonlConfig {
    /// The file.
    pub path: PathBuf,
    /// The collector's name and the source in the drafts' provenance.
    pub name: String,
    /// `auto` (byte order mark, UTF-16 by its zero bytes, else UTF-8) or a label of the WHATWG Encoding Standard.
    #[serde(default = "super::csv::auto")]
    pub encoding: String,
    /// Which path says what; usual names are recognised when not set, at the top and in `name`, `address` and `contact`.
    #[serde(default)]
    pub mapping: Option<Mapping>,
    /// How dates, amounts and phone numbers are read.
    #[serde(default)]
    pub reading: Reading,
    /// Lines in one delivery, 1 to 10,000. 500.
    #[serde(default = "super::csv::batch")]
    pub batch: usize,
}

impl JsonlConfig {
    /// The file at `path`, its source named `name`, everything else found out.
    pub fn new(path: impl Into<PathBuf>, name: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            name: name.into(),
            encoding: super::csv::auto(),
            mapping: None,
            reading: Reading::default(),
            batch: super::csv::batch(),
        }
    }

    /// Checks every setting that can be checked without the file.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Config`] naming the setting.
    pub fn validate(&self) -> Result<()> {
        super::csv::common(&self.name, self.batch, &self.encoding, &self.reading)?;
        match &self.mapping {
            Some(mapping) => mapping.validate(&self.reading),
            None => Ok(()),
        }
    }
}

/// Reads a file of JSON documents, one a line: each a person, or an order with a reference to one.
///
/// The file is streamed. A line that is no JSON object, is longer than 1 MiB, or has a value that cannot be read is one
/// reject with its line and path; the rest goes on. It goes on from every checkpoint, and refuses to when the file is
/// not the same any more.
pub struct JsonlCollector {
    info: ProviderInfo,
    config: Arc<JsonlConfig>,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for JsonlCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JsonlCollector")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl JsonlCollector {
    /// A collector of one file; the file is opened when it runs.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Config`] naming the setting that is wrong.
    pub fn new(config: JsonlConfig) -> Result<Self> {
        config.validate()?;
        Ok(Self {
            info: ProviderInfo::new("jsonl", config.name.as_str()),
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
impl Provider for JsonlCollector {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }

    async fn check(&self) -> Result<Health> {
        stream::check(self.config.path.clone()).await
    }
}

#[async_trait]
impl Collector for JsonlCollector {
    fn capability(&self) -> CollectorCapability {
        CollectorCapability::new(true, true)
    }

    /// [`Progress`] counts bytes. Errors as [`JsonlCollector`] says.
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
        run.through(ctx, resume, move |stand| Lined::open(&config, stand), sink)
            .await
    }
}

/// An open file.
struct Lined {
    lines: Lines,
    encoding: &'static str,
    documents: Documents,
    name: String,
    place: String,
    stand: Stand,
}

impl Lined {
    fn open(config: &JsonlConfig, resume: Option<&Stand>) -> Result<Self> {
        let path = &config.path;
        let mut opened = stream::open(path, &config.encoding)?;
        let stand = Stand::begin(resume, KIND, (0, 1), opened.fingerprint('\n'), path)?;
        let mut decoded = opened.decoded(path)?;
        decoded
            .skip(stand.offset)
            .map_err(|error| unreadable(path, error))?;
        Ok(Self {
            lines: Lines::new(decoded, stand.offset, stand.line),
            encoding: opened.encoding.name(),
            documents: Documents::new(config.mapping.as_ref(), &config.reading, &config.name),
            name: config.name.clone(),
            place: path.display().to_string(),
            stand,
        })
    }

    fn draft(&mut self, text: &str, line: u64, now: Timestamp) -> Result<Draft, Wrong> {
        if text.contains('\u{fffd}') {
            let reason = format!(
                "bytes that are no {} (or were damaged before); set `encoding` to what the file is in",
                self.encoding
            );
            return Err((None, reason));
        }
        let json: Json = serde_json::from_str(text)
            .map_err(|error| (None, format!("not JSON at column {} of the line", error.column())))?;
        if !json.is_object() {
            return Err((None, "not a JSON object; a line is one object".to_owned()));
        }
        let provenance = Provenance::new(self.name.as_str(), now)
            .at(self.place.as_str())
            .line(line);
        self.documents.draft(&json, provenance)
    }
}

impl Source for Lined {
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
            kind: OriginalKind::Json,
            ..Originals::default()
        }
    }

    fn read(&mut self, now: Timestamp) -> Result<Option<Found>> {
        loop {
            let line = self.lines.number;
            let next = self.lines.next();
            return Ok(
                match next.map_err(|error| unreadable(Path::new(&self.place), error))? {
                    Line::End => None,
                    Line::Text(text) if text.trim().is_empty() => continue,
                    Line::Text(text) => {
                        let draft = self.draft(&text, line, now);
                        Some(Found::one(line, draft, Some(vec![text])))
                    }
                    Line::TooLong => {
                        let long = (None, "the line is longer than 1 MiB".to_owned());
                        Some(Found::one(line, Err(long), None))
                    }
                },
            );
        }
    }

    fn settle(&mut self) -> u64 {
        (self.stand.offset, self.stand.line) = (self.lines.offset, self.lines.number);
        self.lines.raw()
    }
}
