//! Campaigns: one message to each member of an audience, once, by the channel at which they can be reached and have agreed.
//!
//! A campaign is a [`CampaignPlan`], kept in the store. [`Campaigns::plan`] says what it would do and writes nothing;
//! [`Campaigns::start`] lets it go; [`Campaigns::tick`] (or [`Campaigns::run`], in a task of the host's) puts its messages
//! into the outbox page by page, each page and the place reached in one unit of work, and looks after it: it pauses by
//! itself when too much bounces or is complained about, and ends when all its messages have. Dispatchers send them, and ask
//! about the campaign once a batch: of one that is paused or cancelled nothing is begun any more.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! use std::sync::Arc;
//! use crm_channels::{Audience, CampaignPlan, CampaignState, Outreach, Template, mail::RecordMailer};
//! use crm_core::capability::{Mailer, RecordStore};
//! use crm_core::consent::{AddressKey, Purpose};
//! use crm_core::customer::EmailAddress;
//! use crm_core::memory::MemoryStore;
//! use crm_core::message::Mailbox;
//! use crm_core::{Consumer, Context, Registry, Secret, TenantId};
//!
//! let registry = Registry::builder()
//!     .provide::<dyn RecordStore>(0, Arc::new(MemoryStore::new("records")))
//!     .provide::<dyn Mailer>(0, Arc::new(RecordMailer::new("record")))
//!     .build()
//!     .unwrap();
//! let key = AddressKey::new(&Secret::new("a long random text kept outside the store")).unwrap();
//! let campaigns = Outreach::bind(&registry).unwrap().address_key(key).campaigns();
//! campaigns.migrate().await.unwrap();
//! let ctx = Context::new(TenantId::new("shop").unwrap());
//!
//! let template = Template::new("News", "Hello {{ given_name | default('there') }}").unwrap();
//! let from = Mailbox::new(EmailAddress::parse("shop@example.com").unwrap(), "Shop").unwrap();
//! let audience = Audience::frozen(vec![]); // nobody, for the example
//! let plan = CampaignPlan::new("spring", audience, Purpose::marketing("news").unwrap(), template, from);
//! assert_eq!(campaigns.plan(&ctx, &plan).await.unwrap().members, 0);
//! campaigns.create(&ctx, &plan).await.unwrap();
//! campaigns.start(&ctx, "spring", |_| {}).await.unwrap();
//! campaigns.tick(&ctx, |_, _| {}).await.unwrap();
//! assert_eq!(campaigns.get(&ctx, "spring").await.unwrap().state, CampaignState::Finished);
//! # });
//! ```

mod audience;
mod compose;
mod control;
mod look;
mod plan;
mod preview;
mod run;
mod schedule;
mod status;
mod stored;

use std::fmt;
use std::time::Duration;

use crm_core::query::{Filter, Query};
use crm_core::record::{Stored, Version, Write};
use crm_core::{Context, Error, ErrorKind, Result};

pub(crate) use audience::in_any;
pub use plan::{Audience, Breaker, CampaignPlan, Incomplete, Members, TemplateChoice, Variant};
pub use preview::{CampaignPreview, CampaignReport, LaunchProgress, MissingVariable};
pub use run::CampaignTick;
pub use schedule::{Day, Schedule};
pub use status::{CampaignStatus, Tally};
pub(crate) use stored::Run;
pub use stored::{CAMPAIGN, CAMPAIGN_PAGE, CAMPAIGN_RUN, Campaign, CampaignState};

use crate::Outreach;
use crate::inbound::BulkReadiness;
use crate::template::PriceTable;
use audience::Walk;
use compose::Ready;
use plan::TemplateChoice as Choice;

/// Campaigns: planned, started, watched, paused, called off. See the [module](self).
#[derive(Clone)]
pub struct Campaigns {
    outreach: Outreach,
    prices: Option<PriceTable>,
    readiness: Option<BulkReadiness>,
    every: Duration,
}

impl Outreach {
    /// Campaigns over this store.
    pub fn campaigns(&self) -> Campaigns {
        Campaigns {
            outreach: self.clone(),
            prices: None,
            readiness: None,
            every: Duration::from_secs(1),
        }
    }

    /// [`Campaigns::plan`].
    ///
    /// # Errors
    /// As [`Campaigns::plan`]; [`ErrorKind::Invalid`] naming the variable that has no value for some who would get the
    /// message, unless the plan leaves them out.
    pub async fn plan(&self, ctx: &Context, plan: &CampaignPlan) -> Result<CampaignPreview> {
        let preview = self.campaigns().plan(ctx, plan).await?;
        run::complete(plan, &preview)?;
        Ok(preview)
    }

    /// [`Campaigns::launch`].
    ///
    /// # Errors
    /// As [`Campaigns::launch`].
    pub async fn launch(
        &self,
        ctx: &Context,
        plan: &CampaignPlan,
        progress: impl FnMut(LaunchProgress) + Send,
    ) -> Result<CampaignReport> {
        self.campaigns().launch(ctx, plan, progress).await
    }

    /// [`Campaigns::status`].
    ///
    /// # Errors
    /// Those of the store.
    pub async fn status(&self, ctx: &Context, campaign: &str) -> Result<CampaignStatus> {
        self.campaigns().status(ctx, campaign).await
    }
}

impl Campaigns {
    /// Says in previews what the SMS cost by these prices.
    #[must_use]
    pub fn prices(mut self, prices: PriceTable) -> Self {
        self.prices = Some(prices);
        self
    }

    /// Starts no campaign whose e-mails lack what mailbox providers and the law ask of those who write to many.
    #[must_use]
    pub fn readiness(mut self, readiness: BulkReadiness) -> Self {
        self.readiness = Some(readiness);
        self
    }

    /// How long [`Campaigns::run`] rests when there is nothing to queue; a second by default.
    #[must_use]
    pub fn every(mut self, every: Duration) -> Self {
        self.every = every;
        self
    }

    /// Makes room for what campaigns and their messages are kept in. Safe to call again at every start.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn migrate(&self) -> Result<()> {
        self.outreach.migrate().await
    }

    /// Keeps a plan. Nothing is queued before it is started.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] naming the field that is wrong; [`ErrorKind::NotFound`] for a template that is not there;
    /// [`ErrorKind::Conflict`] when there is a campaign of this name; those of the store.
    pub async fn create(&self, ctx: &Context, plan: &CampaignPlan) -> Result<Campaign> {
        Ready::of(&self.outreach, ctx, plan).await?;
        let (id, now) = (self.outreach.ids.fresh(), self.outreach.time.now());
        let writes = [
            Write::insert(id, stored::plan_record(plan, now, now)?),
            Write::insert(id, Run::new(id, plan).record()?),
        ];
        match self.outreach.store.apply(ctx, &writes).await {
            Ok(_) => self.get(ctx, &plan.name).await,
            Err(error) if error.kind() == ErrorKind::Conflict => {
                Err(Error::conflict("there is a campaign of this name already")
                    .with("campaign", &plan.name)
                    .with("field", "name"))
            }
            Err(error) => Err(error),
        }
    }

    /// Writes a new plan over the one of this name, while nothing of it was queued. `version` is that of the campaign the
    /// change was made to.
    ///
    /// # Errors
    /// As [`Campaigns::create`]; [`ErrorKind::NotFound`]; [`ErrorKind::Conflict`] when somebody changed or started it
    /// meanwhile.
    pub async fn update(&self, ctx: &Context, plan: &CampaignPlan, version: Version) -> Result<Campaign> {
        Ready::of(&self.outreach, ctx, plan).await?;
        let (stored, run) = self.load(ctx, &plan.name).await?;
        if run.state != CampaignState::Draft {
            return Err(Error::conflict(
                "a campaign that was started keeps its plan; cancel it and make another",
            )
            .with("campaign", &plan.name)
            .with("state", run.state));
        }
        let created = stored.record.timestamp("created_at")?;
        let mut run = run;
        run.rehearsal = plan.rehearsal;
        let writes = [
            Write::update(
                stored.id,
                version,
                stored::plan_record(plan, created, self.outreach.time.now())?,
            ),
            // Whoever starts it at the same moment is noticed.
            Write::update(run.id, run.version, run.record()?),
        ];
        self.outreach.store.apply(ctx, &writes).await?;
        self.get(ctx, &plan.name).await
    }

    /// A campaign as it stands.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; those of the store.
    pub async fn get(&self, ctx: &Context, name: &str) -> Result<Campaign> {
        let (stored, run) = self.load(ctx, name).await?;
        Ok(Campaign {
            id: stored.id,
            version: stored.version,
            plan: stored::plan(&stored)?,
            state: run.state,
            reason: run.reason,
            found: run.found,
            queued: run.queued,
            started_at: run.started_at,
            finished_at: run.finished_at,
        })
    }

    /// The names of the campaigns in these states (all when empty), and where each stands: at most 1,000, those due
    /// earliest first.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn list(
        &self,
        ctx: &Context,
        states: &[CampaignState],
    ) -> Result<Vec<(String, CampaignState)>> {
        let filter = match states {
            [] => Filter::All,
            states => Filter::one_of("state", states.iter().map(|state| state.as_str())),
        };
        let runs = self.runs(ctx, filter).await?;
        Ok(runs.into_iter().map(|run| (run.name, run.state)).collect())
    }

    /// What a campaign would do if it were started now: who would get it by which channel, who would not and why, which
    /// variables are missing, what the SMS would cost. Nothing is written. The plan need not have been created.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] naming the field that is wrong; [`ErrorKind::NotFound`] for a segment or template that is not
    /// there; those of the store.
    pub async fn plan(&self, ctx: &Context, plan: &CampaignPlan) -> Result<CampaignPreview> {
        let query = Query::new(Filter::eq("name", plan.name.as_str())).limit(1);
        let known = self.outreach.store.find(ctx, &CAMPAIGN_RUN, &query).await?;
        let known = !known.items.is_empty();
        self.checked(ctx, plan, known, &mut |_| {}).await
    }

    async fn checked(
        &self,
        ctx: &Context,
        plan: &CampaignPlan,
        known: bool,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<CampaignPreview> {
        let ready = Ready::of(&self.outreach, ctx, plan).await?;
        let walk = Walk::of(&self.outreach, ctx, plan.audience.members()).await?;
        let mut preview = CampaignPreview::default();
        let mut after = None;
        loop {
            let page = walk.page(&self.outreach, ctx, after.as_deref()).await?;
            after = page.next.clone();
            let looked = self.look(ctx, &ready, page, known).await?;
            preview.add(looked.preview);
            progress(preview.members);
            if after.is_none() {
                return Ok(preview);
            }
        }
    }

    /// The plan with the versions of its templates that are the newest now.
    async fn pinned(&self, ctx: &Context, plan: &CampaignPlan) -> Result<CampaignPlan> {
        let mut pinned = plan.clone();
        for variant in &mut pinned.variants {
            if let Choice::Stored { name, version } = &mut variant.template {
                *version = self
                    .outreach
                    .templates()
                    .get(ctx, name, *version)
                    .await?
                    .version();
            }
        }
        Ok(pinned)
    }

    async fn found(&self, ctx: &Context, name: &str) -> Result<Option<(Stored, Run)>> {
        let query = Query::new(Filter::eq("name", name)).limit(1);
        let page = self.outreach.store.find(ctx, &CAMPAIGN, &query).await?;
        let Some(stored) = page.items.into_iter().next() else {
            return Ok(None);
        };
        let run = self.outreach.store.get(ctx, &CAMPAIGN_RUN, &[stored.id]).await?;
        let run = run.into_iter().flatten().next();
        let run = run.as_ref().map(Run::read).transpose()?;
        Ok(run.map(|run| (stored, run)))
    }

    async fn load(&self, ctx: &Context, name: &str) -> Result<(Stored, Run)> {
        self.found(ctx, name)
            .await?
            .ok_or_else(|| Error::new(ErrorKind::NotFound, "no campaign of this name").with("campaign", name))
    }

    async fn runs(&self, ctx: &Context, filter: Filter) -> Result<Vec<Run>> {
        let query = Query::new(filter).ascending("due_at").limit(1000);
        let page = self.outreach.store.find(ctx, &CAMPAIGN_RUN, &query).await?;
        page.items.iter().map(Run::read).collect()
    }
}

impl fmt::Debug for Campaigns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Campaigns")
            .field("outreach", &self.outreach)
            .finish_non_exhaustive()
    }
}
