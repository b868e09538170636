use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use crm_core::capability::{
    Checkpoint, Collector, CollectorCapability, Delivery, DraftSink, Originals, Outline, Progress, Reject,
    RejectKind, TableSource,
};
use crm_core::customer::{Draft, Provenance};
use crm_core::table::{Column, ColumnData};
use crm_core::{
    Clock, Context, Error, Health, Provider, ProviderInfo, Result, SystemClock, Table, Timestamp,
};
use serde::{Deserialize, Serialize};

use super::Mapping;
use super::stream::blocking;
use crate::assemble::{Assembly, Reading};
use crate::target::Target;

const KIND: &str = "table/1";

/// How the rows of a [`TableSource`] are read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableConfig {
    /// The collector's name and the source in the drafts' provenance.
    pub name: String,
    /// Which column says what; usual names are recognised when not set.
    #[serde(default)]
    pub mapping: Option<Mapping>,
    /// How dates, amounts and phone numbers in text columns are read.
    #[serde(default)]
    pub reading: Reading,
    /// Rows in one delivery, 1 to 10,000. 500.
    #[serde(default = "super::csv::batch")]
    pub batch: usize,
}

impl TableConfig {
    /// Its source named `name`, everything else found out.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            mapping: None,
            reading: Reading::default(),
            batch: super::csv::batch(),
        }
    }
}

/// Makes drafts of the rows of a file of columns, such as Parquet: a row a person, or an order with a reference to one.
///
/// One part of the file is held at a time. A value that cannot be read is a reject of its row (counted from 1) and
/// column. It goes on from every checkpoint, and refuses to when the file is not the same any more.
///
/// ```
/// use std::sync::Arc;
/// use crm_core::capability::{Outline, TableSource};
/// use crm_core::table::{Column, Table};
/// use crm_core::{Provider, Result};
/// use crm_crawl::file::{TableCollector, TableConfig};
///
/// #[derive(Debug)]
/// struct Two;
/// impl TableSource for Two {
///     fn outline(&self) -> Result<Outline> {
///         let columns = vec!["email".to_owned()];
///         Ok(Outline { place: "two".into(), columns, rows: 2, chunks: 1, fingerprint: "2".into() })
///     }
///     fn chunk(&self, _: usize) -> Result<Table> {
///         let mut email = Column::text("email");
///         email.push_text(Some("ana@example.com"));
///         email.push_text(Some("bo@example.com"));
///         Table::new(vec![email])
///     }
/// }
/// let collector = TableCollector::new(Arc::new(Two), TableConfig::new("two")).unwrap();
/// assert_eq!(collector.info().name, "two");
/// ```
pub struct TableCollector {
    info: ProviderInfo,
    source: Arc<dyn TableSource>,
    config: TableConfig,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for TableCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TableCollector")
            .field("source", &self.source)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// What a checkpoint holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct At {
    kind: String,
    fingerprint: String,
    chunk: usize,
    /// Rows of the chunk that are done.
    row: usize,
    /// Rows that are done.
    done: u64,
    drafts: u64,
    rejects: u64,
}

impl TableCollector {
    /// A collector of one file; it is opened when it runs.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Config`] naming the setting that is wrong.
    pub fn new(source: Arc<dyn TableSource>, config: TableConfig) -> Result<Self> {
        super::csv::common(&config.name, config.batch, "auto", &config.reading)?;
        if let Some(mapping) = &config.mapping {
            mapping.validate(&config.reading)?;
        }
        Ok(Self {
            info: ProviderInfo::new("table", config.name.as_str()),
            source,
            config,
            clock: SystemClock::shared(),
        })
    }

    /// Takes the time of observation from `clock`.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    fn begin(&self, resume: Option<&Checkpoint>, outline: &Outline) -> Result<At> {
        let Some(Checkpoint(json)) = resume else {
            return Ok(At {
                kind: KIND.to_owned(),
                fingerprint: outline.fingerprint.clone(),
                chunk: 0,
                row: 0,
                done: 0,
                drafts: 0,
                rejects: 0,
            });
        };
        let at: Option<At> = serde_json::from_value(json.clone()).ok();
        match at.filter(|at| at.kind == KIND) {
            Some(at) if at.fingerprint == outline.fingerprint => Ok(at),
            Some(_) => Err(
                Error::conflict("the file changed since the checkpoint; start anew without it")
                    .operation("table.resume")
                    .with("path", &outline.place),
            ),
            None => Err(
                Error::invalid("the checkpoint is not one of this collector; start anew without it")
                    .operation("table.resume"),
            ),
        }
    }
}

#[async_trait]
impl Provider for TableCollector {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }

    async fn check(&self) -> Result<Health> {
        let source = self.source.clone();
        blocking(move || source.outline()).await??;
        Ok(Health::Ready)
    }
}

#[async_trait]
impl Collector for TableCollector {
    fn capability(&self) -> CollectorCapability {
        CollectorCapability::new(true, true)
    }

    /// [`Progress`] counts rows. Errors as [`TableCollector`] says.
    async fn collect(
        &self,
        ctx: &Context,
        resume: Option<&Checkpoint>,
        sink: &mut dyn DraftSink,
    ) -> Result<Progress> {
        let source = self.source.clone();
        let outline = blocking(move || source.outline()).await??;
        let mut at = self.begin(resume, &outline)?;
        let mapping = match &self.config.mapping {
            Some(mapping) => mapping.clone(),
            None => {
                let mapping = Mapping::recognise(&outline.columns, &self.config.name);
                mapping.validate(&self.config.reading).map_err(|error| {
                    error
                        .with("path", &outline.place)
                        .with("columns", outline.columns.join(", "))
                })?;
                mapping
            }
        };
        mapping
            .locate(&outline.columns)
            .map_err(|error| error.with("path", &outline.place))?;
        let mut progress = Progress::default();
        progress.total = Some(outline.rows);
        (progress.done, progress.drafts, progress.rejects) = (at.done, at.drafts, at.rejects);
        let mut delivered = resume.is_some();
        while at.chunk < outline.chunks || !delivered {
            let (source, index) = (self.source.clone(), at.chunk);
            let table = if index < outline.chunks {
                blocking(move || source.chunk(index)).await??
            } else {
                Table::default()
            };
            loop {
                ctx.check(self.clock.as_ref())?;
                let end = table.rows().min(at.row + self.config.batch);
                let mut delivery = self.rows(&table, at.row..end, at.done, &mapping, &outline)?;
                at.done += (end - at.row) as u64;
                at.row = end;
                at.drafts += delivery.drafts.len() as u64;
                at.rejects += delivery.rejects.len() as u64;
                let last = end == table.rows();
                if last {
                    (at.chunk, at.row) = (index + 1, 0);
                }
                (progress.done, progress.drafts, progress.rejects) = (at.done, at.drafts, at.rejects);
                let checkpoint = serde_json::to_value(&at)
                    .map_err(|error| Error::unexpected("a checkpoint cannot be written").source(error))?;
                (delivery.checkpoint, delivery.progress) = (Some(Checkpoint(checkpoint)), progress);
                sink.deliver(delivery).await?;
                delivered = true;
                if last {
                    break;
                }
            }
        }
        Ok(progress)
    }
}

impl TableCollector {
    /// Drafts and rejects of some rows; `done` rows stand before them in the file.
    fn rows(
        &self,
        table: &Table,
        rows: std::ops::Range<usize>,
        done: u64,
        mapping: &Mapping,
        outline: &Outline,
    ) -> Result<Delivery> {
        let names: Vec<String> = table.columns().iter().map(|c| c.name().to_owned()).collect();
        let located = if table.rows() == 0 {
            Vec::new()
        } else {
            mapping.locate(&names)?
        };
        let mut delivery = Delivery {
            originals: Originals {
                columns: names.clone(),
                ..Originals::default()
            },
            ..Delivery::default()
        };
        let now = self.clock.now();
        for (line, row) in (done + 1..).zip(rows) {
            let place = Provenance::new(self.config.name.as_str(), now)
                .at(outline.place.as_str())
                .line(line);
            match self.draft(table, row, &located, &names, place) {
                Ok(draft) => delivery.drafts.push(draft),
                Err((field, reason)) => delivery.rejects.push(Reject {
                    kind: RejectKind::Invalid,
                    place: outline.place.clone(),
                    line: Some(line),
                    field,
                    reason: reason.to_owned(),
                }),
            }
            let cells = table
                .columns()
                .iter()
                .map(|column| text(column, row).unwrap_or_default());
            delivery.originals.rows.insert(line, cells.collect());
        }
        Ok(delivery)
    }

    fn draft(
        &self,
        table: &Table,
        row: usize,
        located: &[(usize, Target)],
        names: &[String],
        place: Provenance,
    ) -> Result<Draft, (Option<String>, &'static str)> {
        let mut assembly = Assembly::new(&self.config.reading, place);
        for (at, target) in located {
            let Some(value) = table.columns().get(*at).and_then(|column| text(column, row)) else {
                continue;
            };
            assembly
                .put(target, &value)
                .map_err(|reason| (names.get(*at).cloned(), reason))?;
        }
        assembly.finish().map_err(|(target, reason)| {
            let at = target.and_then(|t| located.iter().find(|(_, other)| *other == t));
            (at.and_then(|(at, _)| names.get(*at).cloned()), reason)
        })
    }
}

/// A value as a file of text would hold it; `None` when it is absent.
fn text(column: &Column, row: usize) -> Option<String> {
    if !column.is_valid(row) {
        return None;
    }
    Some(match column.data() {
        ColumnData::Bool(values) => values.get(row)?.to_string(),
        ColumnData::Int(values) => values.get(row)?.to_string(),
        ColumnData::Float(values) => values.get(row)?.to_string(),
        ColumnData::Text(values) => values.get(row)?.to_owned(),
        ColumnData::Timestamp(values) => Timestamp::from_micros(*values.get(row)?).to_string(),
        ColumnData::Uuid(values) => values.get(row)?.to_string(),
    })
}
