use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use crm_core::capability::{Checkpoint, Collector, CollectorCapability, DraftSink, Progress};
use crm_core::{Clock, Context, Error, Health, Provider, ProviderInfo, Result, SystemClock};
use serde::{Deserialize, Serialize};

use super::mapping::Mapping;
use super::rows::{KIND, Rows};
use super::stream::{self, Run};
use crate::assemble::Reading;

/// Which file, and how it is read.
///
/// ```
/// use crm_crawl::file::CsvConfig;
///
/// let config: CsvConfig = serde_json::from_str(
///     r#"{"path": "orders.csv", "name": "shop", "delimiter": ";", "encoding": "windows-1252",
///         "mapping": [{"column": "Kunde", "target": "external:shop"}],
///         "reading": {"phone_region": "AU", "date_formats": ["%d.%m.%Y"]}}"#,
/// )
/// .unwrap();
/// assert!(config.validate().is_ok());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CsvConfig {
    /// The file.
    pub path: PathBuf,
    /// The collector's name and the source in the drafts' provenance.
    pub name: String,
    /// What stands between columns, one ASCII character; found out from the header when not set (`,` `;` tab `|`).
    #[serde(default, with = "delimiter")]
    pub delimiter: Option<u8>,
    /// `auto` (byte order mark, UTF-16 by its zero bytes, else UTF-8) or a label of the WHATWG Encoding Standard.
    #[serde(default = "auto")]
    pub encoding: String,
    /// The names of the columns of a file without a header; its first line is data then.
    #[serde(default)]
    pub columns: Option<Vec<String>>,
    /// Which column says what; usual names are recognised when not set ([`Mapping::recognise`]).
    #[serde(default)]
    pub mapping: Option<Mapping>,
    /// How dates, amounts and phone numbers are read.
    #[serde(default)]
    pub reading: Reading,
    /// Rows in one delivery, 1 to 10,000. 500.
    #[serde(default = "batch")]
    pub batch: usize,
}

pub(super) fn auto() -> String {
    "auto".to_owned()
}

pub(super) fn batch() -> usize {
    500
}

/// Checks what all files have in common.
pub(super) fn common(name: &str, batch: usize, encoding: &str, reading: &Reading) -> Result<()> {
    let wrong =
        |setting: &'static str, message: &'static str| Err(Error::config(message).with("setting", setting));
    if name.trim().is_empty() {
        return wrong("name", "a collector has a name");
    }
    if !(1..=10_000).contains(&batch) {
        return wrong("batch", "a delivery has 1 to 10,000 rows");
    }
    super::decode::detect(b"", encoding)?;
    reading.validate()
}

mod delimiter {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    pub(super) fn serialize<S: Serializer>(delimiter: &Option<u8>, serializer: S) -> Result<S::Ok, S::Error> {
        delimiter.map(char::from).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u8>, D::Error> {
        match Option::<char>::deserialize(deserializer)? {
            None => Ok(None),
            Some(c) if c.is_ascii() => Ok(Some(c as u8)),
            Some(_) => Err(D::Error::custom("the delimiter is one ASCII character")),
        }
    }
}

impl CsvConfig {
    /// The file at `path`, its source named `name`, everything else found out.
    pub fn new(path: impl Into<PathBuf>, name: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            name: name.into(),
            delimiter: None,
            encoding: auto(),
            columns: None,
            mapping: None,
            reading: Reading::default(),
            batch: batch(),
        }
    }

    /// Checks every setting that can be checked without the file.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Config`] naming the setting.
    pub fn validate(&self) -> Result<()> {
        if self
            .delimiter
            .is_some_and(|d| !d.is_ascii() || matches!(d, b'"' | b'\r' | b'\n' | 0))
        {
            return Err(
                Error::config("the delimiter is one ASCII character, not a quote or a line end")
                    .with("setting", "delimiter"),
            );
        }
        common(&self.name, self.batch, &self.encoding, &self.reading)?;
        if let Some(mapping) = &self.mapping {
            mapping.validate(&self.reading)?;
        }
        Ok(())
    }
}

/// Reads a delimited file (RFC 4180 and what people make of it): a line a person, or an order with a reference to one.
///
/// The file is streamed: memory does not grow with it. A row that has another number of columns than the header, a
/// value that cannot be read, or bytes that are not of the encoding is rejected with its line and column, and the rest
/// goes on. A mapped column that is missing, or a quote that is never closed, is an error.
///
/// It goes on from every checkpoint, and refuses to when the file is not the same any more.
pub struct CsvCollector {
    info: ProviderInfo,
    config: Arc<CsvConfig>,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for CsvCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CsvCollector")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl CsvCollector {
    /// A collector of one file; the file is opened when it runs.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Config`] naming the setting that is wrong.
    pub fn new(config: CsvConfig) -> Result<Self> {
        config.validate()?;
        Ok(Self {
            info: ProviderInfo::new("csv", config.name.as_str()),
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
impl Provider for CsvCollector {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }

    async fn check(&self) -> Result<Health> {
        stream::check(self.config.path.clone()).await
    }
}

#[async_trait]
impl Collector for CsvCollector {
    fn capability(&self) -> CollectorCapability {
        CollectorCapability::new(true, true)
    }

    /// [`Progress`] counts bytes. Errors as [`CsvCollector`] says; [`crm_core::ErrorKind::Conflict`] when the file changed since
    /// the checkpoint, [`crm_core::ErrorKind::Invalid`] when the checkpoint is another collector's.
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
        run.through(ctx, resume, move |stand| Rows::open(&config, stand), sink)
            .await
    }
}
