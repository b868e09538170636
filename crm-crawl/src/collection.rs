use std::sync::Arc;

use async_trait::async_trait;
use crm_core::capability::{Checkpoint, Collector, Delivery, DraftSink, Progress};
use crm_core::{
    Clock, Consumer, Context, Error, ErrorKind, Needs, Registry, Result, SystemClock, registry::Pool,
};

/// What came of one run of a collector.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq)]
pub struct CollectionReport {
    /// The collector's name.
    pub collector: String,
    /// How far it came; drafts and rejects count from the beginning, also after a resume.
    pub progress: Progress,
    /// Deliveries of this run.
    pub deliveries: u64,
    /// Drafts of this run.
    pub drafts: u64,
    /// Rejects of this run.
    pub rejects: u64,
    /// Where it stood at the end: where to go on should more come.
    pub checkpoint: Option<Checkpoint>,
}

/// Runs collectors into a sink: the consumer of this crate. Does not know where drafts are stored; `Customers` of
/// `crm-store` brings a sink that stores each delivery together with its checkpoint.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use std::sync::Arc;
/// use crm_core::capability::{Collector, Delivery, DraftSink};
/// use crm_core::{Consumer, Context, Registry, Result, TenantId};
/// use crm_crawl::Collection;
/// use crm_crawl::file::{CsvCollector, CsvConfig};
///
/// struct Kept(Vec<Delivery>);
/// #[async_trait::async_trait]
/// impl DraftSink for Kept {
///     async fn deliver(&mut self, delivery: Delivery) -> Result<()> {
///         self.0.push(delivery);
///         Ok(())
///     }
/// }
///
/// let folder = tempfile::tempdir().unwrap();
/// let path = folder.path().join("people.csv");
/// std::fs::write(&path, "name,email\nAna Kask,ana@example.com\n").unwrap();
/// let people = CsvCollector::new(CsvConfig::new(&path, "people")).unwrap();
/// let registry = Registry::builder().provide::<dyn Collector>(0, Arc::new(people)).build().unwrap();
///
/// let collection = Collection::bind(&registry).unwrap();
/// let ctx = Context::new(TenantId::new("shop").unwrap());
/// let mut sink = Kept(Vec::new());
/// let report = collection.run(&ctx, "people", None, &mut sink, &mut |_| {}).await.unwrap();
/// assert_eq!((report.drafts, report.rejects), (1, 0));
/// assert_eq!(sink.0[0].drafts[0].emails, ["ana@example.com"]);
/// # });
/// ```
#[derive(Debug, Clone)]
pub struct Collection {
    collectors: Pool<dyn Collector>,
    clock: Arc<dyn Clock>,
}

impl Consumer for Collection {
    fn needs() -> Needs {
        Needs::new("Collection").requires::<dyn Collector>()
    }

    fn bind(registry: &Registry) -> Result<Self> {
        Self::needs().check(registry)?;
        Ok(Self {
            collectors: registry.pool()?,
            clock: SystemClock::shared(),
        })
    }
}

impl Collection {
    /// Takes the time for deadlines from `clock`.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// The names of the collectors, highest priority first.
    pub fn names(&self) -> Vec<String> {
        self.collectors
            .entries()
            .iter()
            .map(|entry| entry.provider().info().name.clone())
            .collect()
    }

    /// Runs the collector of this name to its end, from `resume` when given. `progress` is called after each delivery
    /// that was stored. Dropping the future stops it without harm; what was delivered stays.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is no such collector, [`ErrorKind::Timeout`] when the context's deadline
    /// passes, else the collector's or the sink's.
    pub async fn run(
        &self,
        ctx: &Context,
        collector: &str,
        resume: Option<&Checkpoint>,
        sink: &mut dyn DraftSink,
        progress: &mut (dyn FnMut(&Progress) + Send),
    ) -> Result<CollectionReport> {
        let found = self
            .collectors
            .entries()
            .iter()
            .find(|entry| entry.provider().info().name == collector);
        let Some(entry) = found else {
            return Err(
                Error::new(ErrorKind::NotFound, "no collector of this name is registered")
                    .operation("collection.run")
                    .with("collector", collector)
                    .with("registered", self.names().join(", ")),
            );
        };
        self.run_with(ctx, entry.provider().as_ref(), resume, sink, progress)
            .await
    }

    /// Runs a collector that is not registered; else as [`Collection::run`].
    ///
    /// # Errors
    /// As [`Collection::run`].
    pub async fn run_with(
        &self,
        ctx: &Context,
        collector: &dyn Collector,
        resume: Option<&Checkpoint>,
        sink: &mut dyn DraftSink,
        progress: &mut (dyn FnMut(&Progress) + Send),
    ) -> Result<CollectionReport> {
        let name = collector.info().name.clone();
        if resume.is_some() && !collector.capability().resumable {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "this collector cannot go on from a checkpoint; run it anew",
            )
            .operation("collection.run")
            .with("collector", name));
        }
        let report = CollectionReport {
            collector: name.clone(),
            progress: Progress::default(),
            deliveries: 0,
            drafts: 0,
            rejects: 0,
            checkpoint: resume.cloned(),
        };
        let mut counted = Counted {
            ctx,
            clock: self.clock.as_ref(),
            sink,
            progress,
            report,
        };
        let end = collector
            .collect(ctx, resume, &mut counted)
            .await
            .map_err(|error| error.operation("collection.run").with("collector", &name))?;
        let mut report = counted.report;
        report.progress = end;
        Ok(report)
    }

    /// Runs every collector, one after the other, each into the same sink. One that fails does not keep the others from
    /// running: each has its own result.
    ///
    /// `resume` says by name where a collector goes on; `progress` gets the name and how far it is.
    pub async fn run_all(
        &self,
        ctx: &Context,
        resume: &(dyn Fn(&str) -> Option<Checkpoint> + Send + Sync),
        sink: &mut dyn DraftSink,
        progress: &mut (dyn FnMut(&str, &Progress) + Send),
    ) -> Vec<(String, Result<CollectionReport>)> {
        let mut results = Vec::with_capacity(self.collectors.len());
        for entry in self.collectors.entries() {
            let name = entry.provider().info().name.clone();
            let from = resume(&name);
            let mut step = |p: &Progress| progress(&name, p);
            let result = self
                .run_with(ctx, entry.provider().as_ref(), from.as_ref(), sink, &mut step)
                .await;
            results.push((name, result));
        }
        results
    }
}

/// The sink a collector sees: counts, minds the deadline, and tells the caller.
struct Counted<'a> {
    ctx: &'a Context,
    clock: &'a dyn Clock,
    sink: &'a mut dyn DraftSink,
    progress: &'a mut (dyn FnMut(&Progress) + Send),
    report: CollectionReport,
}

#[async_trait]
impl DraftSink for Counted<'_> {
    async fn deliver(&mut self, delivery: Delivery) -> Result<()> {
        self.ctx.check(self.clock)?;
        let (drafts, rejects) = (delivery.drafts.len() as u64, delivery.rejects.len() as u64);
        let (at, checkpoint) = (delivery.progress, delivery.checkpoint.clone());
        self.sink.deliver(delivery).await?;
        self.report.deliveries += 1;
        self.report.drafts += drafts;
        self.report.rejects += rejects;
        self.report.progress = at;
        if checkpoint.is_some() {
            self.report.checkpoint = checkpoint;
        }
        (self.progress)(&at);
        Ok(())
    }
}
