//! [`Insights`]: from the store to segments and back, in one call.
//!
//! ```
//! use std::sync::Arc;
//! use crm_analytics::Insights;
//! use crm_analytics::features::FeaturePlan;
//! use crm_analytics::insights::SegmentationPlan;
//! use crm_analytics::model::{CartTree, KMeans, KMeansConfig, Pca, PcaConfig, TreeConfig};
//! use crm_core::activity::ORDER;
//! use crm_core::capability::{Classifier, Clusterer, RecordStore, Reducer};
//! use crm_core::customer::CUSTOMER;
//! use crm_core::segment::{SEGMENT, SEGMENT_MEMBER};
//! use crm_core::memory::MemoryStore;
//! use crm_core::{Consumer, Context, Registry, TenantId, Timestamp};
//!
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! let store = Arc::new(MemoryStore::new("records"));
//! store.migrate(&[&CUSTOMER, &ORDER, &SEGMENT, &SEGMENT_MEMBER]).await.unwrap();
//! let registry = Registry::builder()
//!     .provide::<dyn RecordStore>(0, store)
//!     .provide::<dyn Clusterer>(0, KMeans::shared(KMeansConfig::new(4)).unwrap())
//!     .provide::<dyn Reducer>(0, Pca::shared(PcaConfig::default()).unwrap())
//!     .provide::<dyn Classifier>(0, CartTree::shared(TreeConfig::default()).unwrap())
//!     .build()
//!     .unwrap();
//! let insights = Insights::bind(&registry).unwrap();
//! let ctx = Context::new(TenantId::new("shop").unwrap());
//! let plan = SegmentationPlan::new("value", FeaturePlan::rfm(Timestamp::from_ymd(2026, 3, 1).unwrap()));
//! let nobody = insights.segment_customers(&ctx, &plan, &mut |_| ()).await.unwrap_err();
//! assert!(nobody.to_string().contains("customers=0"), "{nobody}");
//! # });
//! ```

mod compute;
mod names;
mod write;

use std::collections::BTreeMap;
use std::sync::Arc;

use crm_core::capability::{Classifier, Clusterer, RecordStore, Reducer};
use crm_core::consent::Purpose;
use crm_core::query::Scan;
use crm_core::record::Schema;
use crm_core::segment::{Lineage, SegmentId};
use crm_core::{
    Clock, Consumer, Context, CustomerId, Error, Matrix, Needs, Registry, Result, SystemClock, Table,
    Timestamp, Uuid,
};
use serde::{Deserialize, Serialize};

use crate::clean::{CleaningPlan, CleaningReport, FittedCleaning};
use crate::features::{FeaturePlan, FeatureReport, Scaling, to_matrix};
use crate::model::Choice;
use crate::privacy::Audience;

#[cfg(feature = "plot")]
pub(crate) use names::figure;
pub use write::Written;

/// How many groups are made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Groups {
    /// As many as the clusterer is configured for, or finds.
    AsConfigured,
    /// So many.
    Fixed(usize),
    /// The number with the best silhouette, from `from` to `to`, tried on at most 10,000 customers drawn by the seed.
    Choose {
        /// The least, 2 or more.
        from: usize,
        /// The most.
        to: usize,
    },
}

/// How customers are put into segments. Plain data: the same plan on the same rows gives the same segments.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentationPlan {
    /// What the names of the segments begin with, 1 to 60 characters without `:`. A new run replaces the segments of the
    /// last run with the same prefix.
    pub name_prefix: String,
    /// What is known of each customer.
    pub features: FeaturePlan,
    /// How it is cleaned. Everything must be a number afterwards; scaling comes by itself.
    pub cleaning: CleaningPlan,
    /// Columns (as they are called after cleaning) whose logarithm is taken before scaling, because a few values are
    /// much larger than most: frequency and monetary unless said otherwise.
    pub logs: Vec<String>,
    /// How many groups.
    pub groups: Groups,
    /// The seed of everything random.
    pub seed: u64,
    /// At most so many customers, drawn by the seed, are used to learn; all are assigned. 50,000 unless said otherwise.
    pub fit_rows: usize,
    /// At most so many customers are placed on the plane for pictures. 5,000 unless said otherwise.
    pub picture_rows: usize,
    /// What the segments are for: whoever may not be looked at for it ([`Audience`]), as things stand when it is run, is left
    /// out and counted. Nobody is asked without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purpose: Option<Purpose>,
}

impl SegmentationPlan {
    /// The best of 2 to 8 groups by these features.
    pub fn new(name_prefix: impl Into<String>, features: FeaturePlan) -> Self {
        Self {
            name_prefix: name_prefix.into(),
            features,
            cleaning: CleaningPlan::new(),
            logs: vec!["frequency".into(), "monetary".into()],
            groups: Groups::Choose { from: 2, to: 8 },
            seed: 0,
            fit_rows: 50_000,
            picture_rows: 5_000,
            purpose: None,
        }
    }
    /// Says how the features are cleaned.
    #[must_use]
    pub fn cleaning(mut self, plan: CleaningPlan) -> Self {
        self.cleaning = plan;
        self
    }
    /// Says how many groups are made.
    #[must_use]
    pub fn groups(mut self, groups: Groups) -> Self {
        self.groups = groups;
        self
    }
    /// Says what the segments are for.
    #[must_use]
    pub fn purpose(mut self, purpose: Purpose) -> Self {
        self.purpose = Some(purpose);
        self
    }
    /// Sets the seed.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Config`] naming the setting.
    pub fn validate(&self) -> Result<()> {
        let wrong = |message: &'static str, setting: &'static str| {
            Err(Error::config(message).with("setting", setting))
        };
        let prefix = self.name_prefix.trim();
        if !(1..=60).contains(&prefix.chars().count()) || prefix != self.name_prefix || prefix.contains(':') {
            return wrong(
                "a prefix of names has 1 to 60 characters, no ':' and no blanks around",
                "name_prefix",
            );
        }
        if self.fit_rows < 2 || self.picture_rows < 2 {
            return wrong(
                "at least 2 rows are needed to learn from and to draw",
                "fit_rows, picture_rows",
            );
        }
        match self.groups {
            Groups::Fixed(0) => wrong("at least one group is needed", "groups"),
            Groups::Choose { from, to } if from < 2 || to < from => wrong(
                "numbers of groups to choose from begin with 2 and do not go backwards",
                "groups",
            ),
            _ => Ok(()),
        }
    }
}

/// What a segmentation is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Reading features; the number of customers is not known before.
    Reading,
    /// Cleaning, learning, describing.
    Computing,
    /// Writing members.
    Writing,
    /// Removing members of replaced segments.
    Tidying,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What it is doing.
    pub stage: Stage,
    /// How many customers are done.
    pub done: usize,
    /// Of how many, if known.
    pub total: Option<usize>,
}

/// A column in which a segment differs from the rest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trait {
    /// The column.
    pub column: String,
    /// The segment's mean, in the column's own unit.
    pub mean: f64,
    /// The mean of all, in the same unit.
    pub overall: f64,
    /// The difference in standard deviations (of the scaled column): its sign says above or below.
    pub effect: f64,
}

/// One segment that was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SegmentSummary {
    /// Its id in the store.
    pub id: SegmentId,
    /// Its name: the prefix and what sets it apart: `value: recent, frequent, high spend`.
    pub name: String,
    /// What it is, for people, with numbers.
    pub description: String,
    /// The number of customers in it.
    pub size: usize,
    /// Their share of all customers looked at, 0 to 1.
    pub share: f64,
    /// The mean of each column in its own unit.
    pub means: Vec<f64>,
    /// The median of each column in its own unit.
    pub medians: Vec<f64>,
    /// The mean of each column in standard deviations from the mean of all.
    pub effects: Vec<f64>,
    /// The columns that set it apart, the strongest first.
    pub traits: Vec<Trait>,
}

/// How the groups can be told apart in plain conditions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SegmentRule {
    /// The position of the segment it leads to.
    pub segment: usize,
    /// The conditions in words: `recency_days <= 31.5 and monetary > 120`.
    pub text: String,
    /// The conditions: column name, true for `<=` and false for `>`, threshold, in the column's own unit;
    /// [`crate::segments::Vocabulary`] makes a filter of them.
    #[serde(default)]
    pub conditions: Vec<(String, bool, f64)>,
    /// How many of the customers learned from follow it.
    pub rows: usize,
    /// The share of these that are in the segment, 0 to 1.
    pub purity: f64,
    /// The share of the segment's customers (of those learned from) who follow it, 0 to 1.
    #[serde(default)]
    pub coverage: f64,
}

/// Customers on the plane of the two strongest directions.
#[derive(Debug, Clone, PartialEq)]
pub struct Projection {
    /// One row a customer, one column a direction.
    pub points: Matrix,
    /// The position of the segment of each row; `None` for customers in none.
    pub segments: Vec<Option<usize>>,
    /// The share of the total variance of each direction, 0 to 1.
    pub explained: Vec<f64>,
    /// The directions: one row each, one column a feature.
    pub components: Matrix,
}

/// Everything that was learned, as plain data: puts any customer into the segment that the run would have put them in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pipeline {
    /// The cleaning.
    pub cleaning: FittedCleaning,
    /// The scale.
    pub scaling: Scaling,
    /// The groups, as written by [`crm_core::capability::ClusterModel::to_json`]; the labels of its predictions are the
    /// positions of the segments.
    pub clusters: serde_json::Value,
}

impl Pipeline {
    /// From features to what the model's `predict` takes.
    ///
    /// # Errors
    /// As [`FittedCleaning::apply`], [`to_matrix`] and [`Scaling::apply`].
    pub fn prepare(&self, features: &Table) -> Result<Matrix> {
        self.scaling.apply(&to_matrix(&self.cleaning.apply(features)?.0)?)
    }
}

/// What a segmentation found.
#[derive(Debug, Clone, PartialEq)]
pub struct Segmentation {
    /// The run: the same plan on the same rows is the same run.
    pub run: Uuid,
    /// What it was made of, as stored with each segment.
    pub lineage: Lineage,
    /// The names of the columns that `means`, `medians` and `effects` follow.
    pub columns: Vec<String>,
    /// The median of each column over all customers, in its own unit.
    pub overall_medians: Vec<f64>,
    /// The segments, the largest first.
    pub segments: Vec<SegmentSummary>,
    /// Whose assignment it is; as long as `assignments`.
    pub ids: Vec<CustomerId>,
    /// The position of each customer's segment; `None` for those in no group.
    pub assignments: Vec<Option<usize>>,
    /// The plane for pictures; `None` when nothing varies.
    pub projection: Option<Projection>,
    /// How the groups can be told apart; empty with a single group.
    pub rules: Vec<SegmentRule>,
    /// How much each column matters to tell them apart; sums to 1.
    pub importances: Vec<f64>,
    /// How the number of groups was chosen, if it was.
    pub choice: Option<Choice>,
    /// Figures of the fit: rows, inertia, silhouette, rule_accuracy.
    pub metrics: BTreeMap<String, f64>,
    /// What was read.
    pub features: FeatureReport,
    /// What was cleaned.
    pub cleaning: CleaningReport,
    /// What a reader should know: sampling, constant columns, customers left out.
    pub notes: Vec<String>,
    /// What was learned.
    pub pipeline: Pipeline,
}

/// The consumer of analytics: reads customers, finds segments, writes them.
#[derive(Debug, Clone)]
pub struct Insights {
    store: Arc<dyn RecordStore>,
    models: Models,
    clock: Arc<dyn Clock>,
}

/// The methods a segmentation uses.
#[derive(Debug, Clone)]
struct Models {
    clusterer: Arc<dyn Clusterer>,
    reducer: Arc<dyn Reducer>,
    classifier: Arc<dyn Classifier>,
}

impl Consumer for Insights {
    fn needs() -> Needs {
        Needs::new("Insights")
            .requires::<dyn RecordStore>()
            .requires::<dyn Clusterer>()
            .requires::<dyn Reducer>()
            .requires::<dyn Classifier>()
    }

    fn bind(registry: &Registry) -> Result<Self> {
        Self::needs().check(registry)?;
        let models = Models {
            clusterer: registry.get()?,
            reducer: registry.get()?,
            classifier: registry.get()?,
        };
        Ok(Self {
            store: registry.get()?,
            models,
            clock: SystemClock::shared(),
        })
    }
}

impl Insights {
    /// Takes the time from another clock: it stamps segments and their members.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Reads columns of all records that match into one table; only as much as fits into memory. Time gone by is counted
    /// back from now, and customers can be asked for by segment.
    ///
    /// # Errors
    /// As [`RecordStore::scan`] and [`crm_core::segment::resolve`].
    pub async fn table(&self, ctx: &Context, schema: &'static Schema, scan: &Scan) -> Result<Table> {
        let scan = Scan {
            filter: crm_core::segment::resolve(&*self.store, ctx, self.clock.now(), &scan.filter).await?,
            ..scan.clone()
        };
        let mut table = Table::default();
        self.store
            .scan(ctx, schema, &scan, &mut |chunk| table.append(chunk))
            .await?;
        Ok(table)
    }

    /// Finds segments and writes nothing: to look at before.
    ///
    /// The computation runs on tokio's threads for blocking work; a dropped call leaves no trace, but a started fit
    /// runs to its end.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Config`] when the plan is wrong, [`crm_core::ErrorKind::Invalid`] when the customers
    /// cannot be grouped so (naming why), those of the store.
    pub async fn preview(
        &self,
        ctx: &Context,
        plan: &SegmentationPlan,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Segmentation> {
        plan.validate().map_err(|e| e.operation("insights.segment"))?;
        let reading = &mut |done| {
            progress(Progress {
                stage: Stage::Reading,
                done,
                total: None,
            })
        };
        let features = match &plan.purpose {
            None => plan.features.read(ctx, &*self.store, reading).await?,
            Some(purpose) => {
                let audience = Audience::read(ctx, &*self.store, purpose, self.clock.now()).await?;
                plan.features
                    .read_for(ctx, &*self.store, &audience, reading)
                    .await?
            }
        };
        ctx.check(&*self.clock)?;
        let rows = features.ids.len();
        progress(Progress {
            stage: Stage::Computing,
            done: 0,
            total: Some(rows),
        });
        let (models, plan, tenant) = (self.models.clone(), plan.clone(), ctx.tenant().clone());
        let found =
            tokio::task::spawn_blocking(move || compute::segmentation(&models, &plan, &tenant, features))
                .await
                .map_err(|e| {
                    Error::unexpected("the computation was broken off")
                        .operation("insights.segment")
                        .source(e)
                })?;
        progress(Progress {
            stage: Stage::Computing,
            done: rows,
            total: Some(rows),
        });
        found.map_err(|e| e.operation("insights.segment"))
    }

    /// Finds segments and writes them as snapshots with their members: [`Insights::preview`], then [`Insights::write`].
    ///
    /// # Errors
    /// Those of both.
    pub async fn segment_customers(
        &self,
        ctx: &Context,
        plan: &SegmentationPlan,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<(Segmentation, Written)> {
        let found = self.preview(ctx, plan, progress).await?;
        let written = self.write(ctx, &found, progress).await?;
        Ok((found, written))
    }

    /// Writes what was found. Members go first, in batches; then one unit of work puts the new segments in the place of
    /// the last run's. Whoever reads sees the old segments whole or the new ones whole, also when the process dies in
    /// between: then the same call (or the same plan on the same rows) goes on where it stopped.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Conflict`] when a name belongs to a segment that no run made, or another run replaced the
    /// segments meanwhile; those of the store.
    pub async fn write(
        &self,
        ctx: &Context,
        found: &Segmentation,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Written> {
        write::segments(&*self.store, &*self.clock, ctx, found, progress)
            .await
            .map_err(|e| e.operation("insights.write"))
    }

    /// Removes members that belong to no segment and were written before `before`: what broken-off runs left behind.
    /// Name an instant well before any run that may be under way. Answers how many were removed.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn sweep(&self, ctx: &Context, before: Timestamp) -> Result<u64> {
        write::sweep(&*self.store, ctx, before)
            .await
            .map_err(|e| e.operation("insights.sweep"))
    }
}
