use std::fmt;
use std::sync::Arc;

use crm_core::capability::RecordStore;
use crm_core::registry::{Catalog, RegistryBuilder};
use crm_core::{Clock, Consumer, Error, IdSource, Provider, RandomIds, Registry, Result, SystemClock};
use crm_store::Customers;
use crm_store::changes::ChangeLog;

#[cfg(feature = "outreach")]
use crm_core::{Secret, consent::AddressKey};

/// The whole platform in one value: a registry of providers, and the consumers bound to it.
///
/// Cheap to clone, shared by threads. Opened once, then called:
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use open_crm::prelude::*;
///
/// let crm = Crm::builder().store("memory:").build().await?;
/// let ctx = Context::new(TenantId::new("shop")?);
/// assert_eq!(crm.customers().count(&ctx, &Filter::All).await?, 0);
/// # Ok::<(), Error>(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone)]
pub struct Crm {
    registry: Registry,
    customers: Customers,
    #[cfg(feature = "files")]
    collection: Option<crm_crawl::Collection>,
    #[cfg(feature = "analytics")]
    insights: crm_analytics::Insights,
    #[cfg(feature = "outreach")]
    outreach: crm_channels::Outreach,
}

impl Crm {
    /// Says what it is made of.
    pub fn builder() -> CrmBuilder {
        CrmBuilder::default()
    }

    /// The platform on one store, everything else as it comes: `sqlite:crm.db`, `memory:`.
    ///
    /// # Errors
    /// As [`CrmBuilder::build`].
    pub async fn open(store: &str) -> Result<Self> {
        Self::builder().store(store).build().await
    }

    /// The providers.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Customer information: create, find, change, import.
    pub fn customers(&self) -> &Customers {
        &self.customers
    }

    /// Runs collectors.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Unsupported`] when no collector was provided.
    #[cfg(feature = "files")]
    pub fn collection(&self) -> Result<&crm_crawl::Collection> {
        match &self.collection {
            Some(collection) => Ok(collection),
            // Says what is missing in the consumer's own words.
            None => Err(crm_crawl::Collection::needs()
                .check(&self.registry)
                .err()
                .unwrap_or_else(|| {
                    Error::unexpected("the collectors are there, but their consumer is not bound")
                })),
        }
    }

    /// Cleans, clusters, explains.
    #[cfg(feature = "analytics")]
    pub fn insights(&self) -> &crm_analytics::Insights {
        &self.insights
    }

    /// Consent, campaigns, messages.
    #[cfg(feature = "outreach")]
    pub fn outreach(&self) -> &crm_channels::Outreach {
        &self.outreach
    }

    /// Runs a registered collector into the customers, as the import job of the same name: drafts, rejects and the
    /// collector's checkpoint are stored together, so a run that was stopped or killed goes on where it was, and one that
    /// was finished begins anew without storing anybody twice. `progress` is called after each stored delivery.
    ///
    /// ```
    /// # #[cfg(feature = "files")]
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// use std::sync::Arc;
    /// use open_crm::crawl::file::{CsvCollector, CsvConfig};
    /// use open_crm::prelude::*;
    ///
    /// let folder = tempfile::tempdir().unwrap();
    /// let path = folder.path().join("people.csv");
    /// std::fs::write(&path, "email,given name\nana@example.com,Ana\nnot an address,Bo\n").unwrap();
    ///
    /// let crm = Crm::builder()
    ///     .store("memory:")
    ///     .collector(Arc::new(CsvCollector::new(CsvConfig::new(path, "sign-ups"))?))
    ///     .build()
    ///     .await?;
    /// let ctx = Context::new(TenantId::new("shop")?);
    /// let report = crm.collect(&ctx, "sign-ups", &mut |_, _| ()).await?;
    /// assert_eq!((report.created, report.rejected), (1, 1));
    /// let rejects = crm.customers().rejects(&ctx, "sign-ups", 10, None).await?;
    /// assert_eq!(rejects.items[0].line, Some(3)); // nothing is lost without a word
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// Those of the collector and the store.
    #[cfg(feature = "files")]
    pub async fn collect(
        &self,
        ctx: &crm_core::Context,
        collector: &str,
        progress: &mut (
                 dyn FnMut(&crm_core::capability::Progress, &crm_store::customers::ImportReport) + Send
             ),
    ) -> Result<crm_store::customers::ImportReport> {
        use std::sync::{Mutex, PoisonError};

        let collection = self.collection()?;
        // What the sink stored last, for the one who watches.
        let stored = Arc::new(Mutex::new(crm_store::customers::ImportReport::default()));
        let options = crm_store::customers::ImportOptions::default().on_progress({
            let stored = stored.clone();
            move |report| *stored.lock().unwrap_or_else(PoisonError::into_inner) = *report
        });
        let mut sink = self.customers.sink(ctx, collector, options).await?;
        let resume = sink.checkpoint().cloned();
        let mut step = |found: &crm_core::capability::Progress| {
            let report = *stored.lock().unwrap_or_else(PoisonError::into_inner);
            progress(found, &report);
        };
        collection
            .run(ctx, collector, resume.as_ref(), &mut sink, &mut step)
            .await?;
        sink.finish().await
    }
}

#[cfg(feature = "parquet")]
impl Crm {
    /// Writes the customers that match into a Parquet file, a row group a page (1,000 customers unless the options say
    /// otherwise), in the columns of the CSV export, numbers as numbers. `TableCollector` over a `ParquetFile` reads it back.
    ///
    /// `into` is written from within the call: hand in a buffered file that does not block for long.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// use open_crm::prelude::*;
    /// use open_crm::store::customers::ExportOptions;
    ///
    /// let crm = Crm::builder().store("memory:").build().await?;
    /// let ctx = Context::new(TenantId::new("shop")?);
    /// let mut file = Vec::new();
    /// let report = crm.export_parquet(&ctx, &Filter::All, &mut file, ExportOptions::default()).await?;
    /// assert_eq!((report.customers, &file[..4]), (0, b"PAR1".as_slice()));
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// As [`Customers::export_tables`]; [`crm_core::ErrorKind::Unavailable`] when `into` cannot be written. What was
    /// written until then is no file that can be read.
    pub async fn export_parquet<W: std::io::Write + Send>(
        &self,
        ctx: &crm_core::Context,
        filter: &crm_core::query::Filter,
        into: W,
        options: crm_store::customers::ExportOptions,
    ) -> Result<crm_store::customers::ExportReport> {
        let named = |error: Error| error.operation("crm.export_parquet");
        let bytes = std::sync::atomic::AtomicU64::new(0);
        let mut writer = crm_analytics::parquet::ParquetWriter::new(Counted { into, bytes: &bytes });
        let mut take = |table: crm_core::Table| writer.write(&table);
        let exported = self.customers.export_tables(ctx, filter, options, &mut take);
        let mut report = exported.await.map_err(named)?;
        writer.finish().map_err(named)?;
        report.bytes = bytes.into_inner();
        Ok(report)
    }
}

/// Counts what is written.
#[cfg(feature = "parquet")]
struct Counted<'a, W> {
    into: W,
    bytes: &'a std::sync::atomic::AtomicU64,
}

#[cfg(feature = "parquet")]
impl<W: std::io::Write> std::io::Write for Counted<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.into.write(bytes)?;
        let counted = u64::try_from(written).unwrap_or(u64::MAX);
        self.bytes
            .fetch_add(counted, std::sync::atomic::Ordering::Relaxed);
        Ok(written)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        self.into.flush()
    }
}

/// Says what a [`Crm`] is made of: providers by URL or by value; what is not said has a default that does no harm.
pub struct CrmBuilder {
    store: Option<String>,
    catalog: Catalog,
    providers: RegistryBuilder,
    stores: Vec<(i32, Arc<dyn RecordStore>)>,
    change_feed: bool,
    clock: Arc<dyn Clock>,
    ids: Option<Arc<dyn IdSource>>,
    #[cfg(feature = "analytics")]
    has_models: [bool; 3],
    #[cfg(feature = "outreach")]
    reach: Reach,
}

/// What is said about reaching people.
#[cfg(feature = "outreach")]
#[derive(Default)]
struct Reach {
    mailers: Vec<(i32, String)>,
    has_mailer: bool,
    key: Option<Secret>,
    mode: crm_channels::Mode,
    settings: crm_channels::DispatchSettings,
}

impl Default for CrmBuilder {
    fn default() -> Self {
        Self {
            store: None,
            catalog: crate::catalog(),
            providers: Registry::builder(),
            stores: Vec::new(),
            change_feed: true,
            clock: SystemClock::shared(),
            ids: None,
            #[cfg(feature = "analytics")]
            has_models: [false; 3],
            #[cfg(feature = "outreach")]
            reach: Reach::default(),
        }
    }
}

impl fmt::Debug for CrmBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CrmBuilder")
            .field("providers", &self.providers)
            .finish_non_exhaustive()
    }
}

impl CrmBuilder {
    /// Where customers are kept, by URL: `sqlite:crm.db`, `memory:`.
    #[must_use]
    pub fn store(mut self, url: impl Into<String>) -> Self {
        self.store = Some(url.into());
        self
    }

    /// Makes providers from URLs with this catalogue instead of the built-in one: [`crate::catalog`] and what you add.
    #[must_use]
    pub fn catalog(mut self, catalog: Catalog) -> Self {
        self.catalog = catalog;
        self
    }

    /// Adds a provider of any capability: `provide::<dyn Mailer>(10, mailer)`. The highest priority is asked first.
    #[must_use]
    pub fn provide<T: ?Sized + Provider>(mut self, priority: i32, provider: Arc<T>) -> Self {
        #[cfg(any(feature = "analytics", feature = "outreach"))]
        use std::any::TypeId;

        let any: &dyn std::any::Any = &provider;
        if let Some(store) = any.downcast_ref::<Arc<dyn RecordStore>>() {
            // Kept apart: it gets its change feed when everything is said.
            self.stores.push((priority, store.clone()));
            return self;
        }
        #[cfg(any(feature = "analytics", feature = "outreach"))]
        let id = TypeId::of::<T>();
        #[cfg(feature = "analytics")]
        {
            use crm_core::capability::{Classifier, Clusterer, Reducer};
            let kinds = [
                TypeId::of::<dyn Clusterer>(),
                TypeId::of::<dyn Reducer>(),
                TypeId::of::<dyn Classifier>(),
            ];
            for (has, kind) in self.has_models.iter_mut().zip(kinds) {
                *has |= kind == id;
            }
        }
        #[cfg(feature = "outreach")]
        {
            self.reach.has_mailer |= id == TypeId::of::<dyn crm_core::capability::Mailer>();
        }
        self.providers = self.providers.provide(priority, provider);
        self
    }

    /// Adds a collector, to be run by its name.
    #[must_use]
    pub fn collector(self, collector: Arc<dyn crm_core::capability::Collector>) -> Self {
        self.provide(0, collector)
    }

    /// Adds a mailer by URL: `smtp://user:password@host:587` (STARTTLS), `smtps://...`. The highest priority is asked
    /// first. Without one, messages are only recorded.
    #[cfg(feature = "outreach")]
    #[must_use]
    pub fn mailer(mut self, priority: i32, url: impl Into<String>) -> Self {
        self.reach.mailers.push((priority, url.into()));
        self
    }

    /// The secret under which addresses are remembered in consents and suppressions: 16 characters or more, kept outside
    /// the store, the same for ever. Consent and sending ask for it; everything else works without.
    #[cfg(feature = "outreach")]
    #[must_use]
    pub fn address_key(mut self, secret: Secret) -> Self {
        self.reach.key = Some(secret);
        self
    }

    /// Whether messages really go out. They are only recorded unless this says [`crm_channels::Mode::Live`].
    #[cfg(feature = "outreach")]
    #[must_use]
    pub fn mode(mut self, mode: crm_channels::Mode) -> Self {
        self.reach.mode = mode;
        self
    }

    /// How messages are sent: batches, leases, waits.
    #[cfg(feature = "outreach")]
    #[must_use]
    pub fn dispatch(mut self, settings: crm_channels::DispatchSettings) -> Self {
        self.reach.settings = settings;
        self
    }

    /// Leaves changes out of the change feed: [`Customers::changes_since`], [`Customers::subscribe`] and segments with
    /// stored members say that they are not there, and every unit of work is one record smaller.
    #[must_use]
    pub fn without_change_feed(mut self) -> Self {
        self.change_feed = false;
        self
    }

    /// Takes the time from `clock`.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Takes ids from `ids`; else random ones stamped by the clock.
    #[must_use]
    pub fn ids(mut self, ids: Arc<dyn IdSource>) -> Self {
        self.ids = Some(ids);
        self
    }

    /// Opens the store, makes room for what is kept in it, and binds the consumers.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Config`] when no store is named or a setting is wrong (naming it);
    /// [`crm_core::ErrorKind::Unsupported`] when a provider was left out when compiling (naming its feature).
    pub async fn build(self) -> Result<Crm> {
        let Self {
            store,
            catalog,
            mut providers,
            mut stores,
            change_feed,
            clock,
            ids,
            ..
        } = self;
        let ids = ids.unwrap_or_else(|| Arc::new(RandomIds::new(clock.clone())));
        if let Some(url) = store {
            stores.push((0, catalog.open::<dyn RecordStore>(&url).await?));
        } else if stores.is_empty() {
            return Err(
                Error::config("no store is named; say Crm::builder().store(\"sqlite:crm.db\")")
                    .with("setting", "store"),
            );
        }
        // Of several stores, the consumers are bound to the first of the highest priority.
        stores.sort_by_key(|(priority, _)| std::cmp::Reverse(*priority));
        let mut feed = None;
        for (place, (priority, store)) in stores.into_iter().enumerate() {
            if !change_feed || store.info().tag_value("changes").is_some() {
                providers = providers.provide(priority, store);
                continue;
            }
            let log = ChangeLog::new(store, clock.clone(), ids.clone());
            if place == 0 {
                feed = Some(log.feed());
            }
            providers = providers.provide::<dyn RecordStore>(priority, Arc::new(log));
        }
        #[cfg(feature = "analytics")]
        let providers = default_models(providers, self.has_models)?;
        #[cfg(feature = "outreach")]
        let providers = mailers(providers, &catalog, &self.reach).await?;

        let registry = providers.build()?;
        let mut customers = Customers::bind(&registry)?
            .with_clock(clock.clone())
            .with_ids(ids.clone());
        if let Some(feed) = feed {
            customers = customers.with_feed(feed);
        }
        #[cfg(feature = "outreach")]
        let customers = customers.with_references(references()?);
        customers.prepare().await?;
        #[cfg(feature = "outreach")]
        let outreach = outreach(&registry, self.reach, &clock, &ids).await?;
        Ok(Crm {
            customers,
            #[cfg(feature = "files")]
            collection: crm_crawl::Collection::bind(&registry)
                .ok()
                .map(|c| c.with_clock(clock.clone())),
            #[cfg(feature = "analytics")]
            insights: crm_analytics::Insights::bind(&registry)?.with_clock(clock.clone()),
            #[cfg(feature = "outreach")]
            outreach,
            registry,
        })
    }
}

/// The built-in methods, where the host brought none.
#[cfg(feature = "analytics")]
fn default_models(mut providers: RegistryBuilder, has: [bool; 3]) -> Result<RegistryBuilder> {
    use crm_analytics::model::{CartTree, KMeans, KMeansConfig, Pca, PcaConfig, TreeConfig};
    use crm_core::capability::{Classifier, Clusterer, Reducer};

    let [clusterer, reducer, classifier] = has;
    if !clusterer {
        providers = providers.provide::<dyn Clusterer>(0, KMeans::shared(KMeansConfig::new(4))?);
    }
    if !reducer {
        providers = providers.provide::<dyn Reducer>(0, Pca::shared(PcaConfig::default())?);
    }
    if !classifier {
        providers = providers.provide::<dyn Classifier>(0, CartTree::shared(TreeConfig::default())?);
    }
    Ok(providers)
}

/// The mailers named by URL; one that only records when there is none.
#[cfg(feature = "outreach")]
async fn mailers(
    mut providers: RegistryBuilder,
    catalog: &Catalog,
    reach: &Reach,
) -> Result<RegistryBuilder> {
    use crm_core::capability::Mailer;

    for (priority, url) in &reach.mailers {
        providers = providers.provide(*priority, catalog.open::<dyn Mailer>(url).await?);
    }
    if reach.mailers.is_empty() && !reach.has_mailer {
        providers = providers.provide(0, catalog.open::<dyn Mailer>("record:").await?);
    }
    Ok(providers)
}

/// Merges of customers take their messages along; one that is being sent makes a merge wait.
#[cfg(feature = "outreach")]
fn references() -> Result<crm_store::customers::References> {
    use crm_core::query::Filter;
    use crm_store::customers::{Reference, References, Rule};

    let leased = Filter::eq("state", crm_channels::OutboxState::Leased.as_str());
    References::core()
        .with(Reference::customer(&crm_channels::OUTBOX, "customer_id", Rule::Move).busy_while(leased))?
        .with(Reference::contact_point(
            &crm_channels::OUTBOX,
            "contact_point_id",
        ))
}

#[cfg(feature = "outreach")]
async fn outreach(
    registry: &Registry,
    reach: Reach,
    clock: &Arc<dyn Clock>,
    ids: &Arc<dyn IdSource>,
) -> Result<crm_channels::Outreach> {
    let outreach = crm_channels::Outreach::bind(registry)?
        .with_clock(clock.clone())
        .with_ids(ids.clone())
        .mode(reach.mode)
        .settings(reach.settings);
    let outreach = match reach.key {
        Some(secret) => outreach.address_key(AddressKey::new(&secret)?),
        None => outreach,
    };
    outreach.migrate().await?;
    Ok(outreach)
}
