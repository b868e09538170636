//! Letting a campaign go, and moving it on.

use std::time::Duration;

use crm_core::query::Filter;
use crm_core::record::Write;
use crm_core::{Context, Error, ErrorKind, Result, Timestamp};

use super::audience::{self, Walk};
use super::compose::Ready;
use super::plan::{CampaignPlan, Incomplete, Members};
use super::preview::{CampaignPreview, CampaignReport, LaunchProgress};
use super::stored::{self, CampaignState, Recheck, Run};
use super::{Campaign, Campaigns};
use crate::outbox::{OUTBOX, OutboxState};

/// How many pages of one campaign are queued before the next one has its turn.
const TURN: usize = 8;

/// What a tick did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct CampaignTick {
    /// Members gone through.
    pub done: u64,
    /// Messages queued.
    pub queued: u64,
    /// Campaigns that came to their end.
    pub finished: Vec<String>,
    /// Campaigns that paused by themselves, and why.
    pub paused: Vec<(String, String)>,
    /// Campaigns that could not be moved on, and why; the others were.
    pub failed: Vec<(String, String)>,
}

/// Refuses to start while e-mails lack what is asked of them, or members what the template wants.
pub(super) fn complete(plan: &CampaignPlan, preview: &CampaignPreview) -> Result<()> {
    if !preview.not_ready.is_empty() {
        let gaps: Vec<&str> = preview.not_ready.iter().map(String::as_str).collect();
        return Err(Error::invalid(
            "its e-mails are not ready to go to many: mailbox providers or the law would refuse them; add what is missing",
        )
        .with("field", "variants")
        .with("missing", gaps.join(", ")));
    }
    let Some((variable, missing)) = preview.missing.iter().next() else {
        return Ok(());
    };
    if plan.incomplete == Incomplete::LeaveOut {
        return Ok(());
    }
    Err(Error::invalid(
        "a variable of the template has no value for some; give a default as {{ given_name | default(\"there\") }}, or leave them out",
    )
    .with("variable", variable)
    .with("customers", missing.customers)
    .with("first", missing.first))
}

impl Campaigns {
    /// Lets a campaign go: looks at its whole audience once, writes a frozen one down, and sets it to running, or to
    /// scheduled when it is not due yet. Its messages are queued by [`Campaigns::tick`]. Started again after a crash it goes
    /// on where it was; one that runs is left as it is.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] naming the variable that has no value for some, before anything is written;
    /// [`ErrorKind::Conflict`] for one that is paused (resume it), cancelled or finished; as [`Campaigns::plan`].
    pub async fn start(
        &self,
        ctx: &Context,
        name: &str,
        mut progress: impl FnMut(LaunchProgress) + Send,
    ) -> Result<Campaign> {
        let mut at = LaunchProgress::default();
        self.started(ctx, name, &mut at, &mut progress).await?;
        self.get(ctx, name).await
    }

    async fn started(
        &self,
        ctx: &Context,
        name: &str,
        at: &mut LaunchProgress,
        progress: &mut (dyn FnMut(LaunchProgress) + Send),
    ) -> Result<(CampaignPlan, Run)> {
        self.outreach.time.fresh().await;
        let (stored, mut run) = self.load(ctx, name).await?;
        let mut plan = stored::plan(&stored)?;
        match run.state {
            CampaignState::Draft => {
                plan = self.pinned(ctx, &plan).await?;
                let mut checked = |members| {
                    at.checked = members;
                    progress(*at);
                };
                let preview = self.checked(ctx, &plan, false, &mut checked).await?;
                complete(&plan, &preview)?;
                let now = self.outreach.time.now();
                run.started_at = Some(now);
                run.recheck = match plan.audience.members() {
                    Members::Segment(member) if !plan.audience.is_frozen() => Some(Recheck {
                        member: *member,
                        exclude: plan.exclude.clone(),
                    }),
                    _ => None,
                };
                if writes_down(&plan) {
                    run.state = CampaignState::Starting;
                } else {
                    self.ready_to_go(&plan, &mut run);
                }
                let created = stored.record.timestamp("created_at")?;
                let writes = [
                    Write::update(
                        stored.id,
                        stored.version,
                        stored::plan_record(&plan, created, now)?,
                    ),
                    Write::update(run.id, run.version, run.record()?),
                ];
                self.outreach.store.apply(ctx, &writes).await?;
                run.version += 1;
            }
            CampaignState::Starting | CampaignState::Scheduled | CampaignState::Running => {}
            CampaignState::Paused | CampaignState::Cancelled | CampaignState::Finished => {
                let why = match run.state {
                    CampaignState::Paused => "the campaign is paused; resume it",
                    _ => "the campaign is over; make another one",
                };
                let mut error = Error::conflict(why)
                    .with("campaign", name)
                    .with("state", run.state);
                if let Some(reason) = run.reason {
                    error = error.with("reason", reason);
                }
                return Err(error);
            }
        }
        if run.state == CampaignState::Starting {
            run = self.write_down(ctx, &plan, run, at, progress).await?;
        }
        Ok((plan, run))
    }

    /// Puts a plan to work in one call: creates the campaign unless it is there, starts it, and, when it is due, queues all
    /// its messages. Called again, after a crash or by mistake, it goes on where it was and doubles nothing.
    ///
    /// # Errors
    /// As [`Campaigns::create`] and [`Campaigns::start`], before anything is queued; [`ErrorKind::Conflict`] when a campaign
    /// of this name was started with another plan.
    pub async fn launch(
        &self,
        ctx: &Context,
        plan: &CampaignPlan,
        mut progress: impl FnMut(LaunchProgress) + Send,
    ) -> Result<CampaignReport> {
        match self.found(ctx, &plan.name).await? {
            None => drop(self.create(ctx, plan).await?),
            Some((stored, run)) => {
                let known = stored::plan(&stored)?;
                if known != *plan && known != self.pinned(ctx, plan).await? {
                    if run.state != CampaignState::Draft {
                        return Err(Error::conflict(
                            "a campaign of this name was started with another plan; give this one another name",
                        )
                        .with("campaign", &plan.name)
                        .with("field", "name"));
                    }
                    self.update(ctx, plan, stored.version).await?;
                }
                if run.state == CampaignState::Finished {
                    return Ok(CampaignReport {
                        preview: run.found,
                        queued: 0,
                    });
                }
            }
        }
        let mut at = LaunchProgress::default();
        let (plan, mut run) = self.started(ctx, &plan.name, &mut at, &mut progress).await?;
        let mut queued = 0;
        while self.is_due(&run) && !run.queued {
            let moved;
            (run, moved) = self.advance(ctx, &plan, run, TURN).await?;
            queued += moved.queued;
            at.done = run.found.members;
            at.queued = run.found.will_go;
            progress(at);
        }
        Ok(CampaignReport {
            preview: run.found,
            queued,
        })
    }

    /// Moves all campaigns of a tenant on that are due: queues up to 8,000 members of each, pauses those whose messages
    /// bounce or are complained about too often, and ends those whose messages have all ended. Any number of processes may
    /// tick: a page is queued by one of them.
    ///
    /// # Errors
    /// Those of the store. What is wrong with one campaign is in the answer.
    pub async fn tick(
        &self,
        ctx: &Context,
        mut progress: impl FnMut(&str, &CampaignPreview) + Send,
    ) -> Result<CampaignTick> {
        let now = self.outreach.time.fresh().await;
        let busy = [
            CampaignState::Starting,
            CampaignState::Running,
            CampaignState::Paused,
        ];
        let waiting = Filter::eq("state", CampaignState::Scheduled.as_str()).and(Filter::le("due_at", now));
        let due = Filter::one_of("state", busy.map(CampaignState::as_str)).or(waiting);
        let mut tick = CampaignTick::default();
        for run in self.runs(ctx, due).await? {
            let name = run.name.clone();
            match self.turn(ctx, run, &mut tick).await {
                Ok(run) => progress(&name, &run.found),
                Err(error) if error.is_retryable() => return Err(error),
                Err(error) => {
                    tracing::warn!(campaign = %name, %error, "a campaign cannot be moved on");
                    tick.failed.push((name, error.to_string()));
                }
            }
        }
        Ok(tick)
    }

    /// [`Campaigns::tick`] again and again until `shutdown` is ready. A store that fails for a while is waited for.
    ///
    /// # Errors
    /// Those of the store that will not go away by themselves.
    pub async fn run(
        &self,
        ctx: &Context,
        shutdown: impl Future<Output = ()>,
        mut progress: impl FnMut(&str, &CampaignPreview) + Send,
    ) -> Result<()> {
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            let rest = match self.tick(ctx, &mut progress).await {
                Ok(tick) if tick.done > 0 => Duration::ZERO,
                Ok(_) => self.every,
                Err(error) if error.is_retryable() => {
                    tracing::warn!(%error, "campaigns cannot be read; trying again");
                    self.every.max(Duration::from_secs(1))
                }
                Err(error) => return Err(error),
            };
            tokio::select! {
                biased;
                () = &mut shutdown => return Ok(()),
                () = tokio::time::sleep(rest) => {}
            }
        }
    }

    async fn turn(&self, ctx: &Context, run: Run, tick: &mut CampaignTick) -> Result<Run> {
        let mut run = run;
        if run.state == CampaignState::Paused {
            // What came back into the queue from a dispatcher meanwhile.
            self.hold(ctx, &run.name).await?;
            return Ok(run);
        }
        let stored = self.outreach.store.get(ctx, &stored::CAMPAIGN, &[run.id]).await?;
        let Some(stored) = stored.into_iter().flatten().next() else {
            return Err(
                Error::new(ErrorKind::Corrupt, "a campaign without a plan").with("campaign", &run.name)
            );
        };
        let plan = stored::plan(&stored)?;
        if run.state == CampaignState::Starting {
            let mut at = LaunchProgress::default();
            run = self.write_down(ctx, &plan, run, &mut at, &mut |_| {}).await?;
        }
        if !self.is_due(&run) {
            return Ok(run);
        }
        self.release(ctx, &run.name).await?;
        if let Some(why) = self.trips(ctx, &plan, &run).await? {
            self.pause(ctx, &run.name, &why).await?;
            tick.paused.push((run.name.clone(), why));
            return Ok(run);
        }
        if !run.queued {
            let moved;
            (run, moved) = self.advance(ctx, &plan, run, TURN).await?;
            tick.done += moved.done;
            tick.queued += moved.queued;
        }
        if run.queued && run.state == CampaignState::Running {
            let open = [OutboxState::Queued, OutboxState::Leased, OutboxState::Held];
            let open = Filter::eq("campaign", run.name.as_str())
                .and(Filter::one_of("state", open.map(OutboxState::as_str)));
            if self.outreach.store.count(ctx, &OUTBOX, &open).await? == 0 {
                run.state = CampaignState::Finished;
                run.finished_at = Some(self.outreach.time.now());
                if self.keep(ctx, &mut run, Vec::new()).await? {
                    tick.finished.push(run.name.clone());
                }
            }
        }
        Ok(run)
    }

    pub(super) fn is_due(&self, run: &Run) -> bool {
        match run.state {
            CampaignState::Running => true,
            CampaignState::Scheduled => run.due_at.is_some_and(|at| at <= self.outreach.time.now()),
            _ => false,
        }
    }

    /// Its audience is known: it runs, or waits until it is due.
    pub(super) fn ready_to_go(&self, plan: &CampaignPlan, run: &mut Run) {
        let now = self.outreach.time.now();
        let begins: Timestamp = plan.schedule.begins().map_or(now, |at| at.max(now));
        run.due_at = Some(run.due_at.unwrap_or(begins));
        run.state = match begins > now {
            true => CampaignState::Scheduled,
            false => CampaignState::Running,
        };
    }

    /// Writes a frozen audience down, page by page, from where it was left.
    async fn write_down(
        &self,
        ctx: &Context,
        plan: &CampaignPlan,
        mut run: Run,
        at: &mut LaunchProgress,
        progress: &mut (dyn FnMut(LaunchProgress) + Send),
    ) -> Result<Run> {
        let walk = Walk::of(&self.outreach, ctx, plan.audience.members()).await?;
        while run.state == CampaignState::Starting {
            let page = walk.page(&self.outreach, ctx, run.cursor.as_deref()).await?;
            let mut writes = Vec::new();
            if !page.ids.is_empty() {
                let id = self.outreach.ids.fresh();
                writes.push(audience::written(id, run.id, run.pages, &page.ids)?);
                run.pages += 1;
            }
            let last = page.next.is_none();
            run.cursor = page.next;
            if last {
                self.ready_to_go(plan, &mut run);
            }
            if self.keep(ctx, &mut run, writes).await? {
                at.written += page.ids.len() as u64;
                progress(*at);
            }
        }
        Ok(run)
    }

    /// Queues up to so many pages, from where it was left.
    async fn advance(
        &self,
        ctx: &Context,
        plan: &CampaignPlan,
        mut run: Run,
        pages: usize,
    ) -> Result<(Run, CampaignTick)> {
        let mut moved = CampaignTick::default();
        let ready = Ready::of(&self.outreach, ctx, plan).await?;
        let walk = match writes_down(plan) {
            true => Walk::Written {
                campaign: run.id,
                pages: run.pages,
            },
            false => Walk::of(&self.outreach, ctx, plan.audience.members()).await?,
        };
        for _ in 0..pages {
            if run.queued || !self.is_due(&run) {
                break;
            }
            let page = walk.page(&self.outreach, ctx, run.cursor.as_deref()).await?;
            let next = page.next.clone();
            // What is in the outbox already is asked for, so that what is counted is what is there.
            let looked = self.look(ctx, &ready, page, true).await?;
            let now = self.outreach.time.fresh().await;
            let writes: Vec<Write> = looked
                .outgoing
                .iter()
                .map(|outgoing| outgoing.write_once(now))
                .collect::<Result<_>>()?;
            let (done, queued) = (looked.preview.members, writes.len() as u64);
            run.state = CampaignState::Running;
            run.found.add(looked.preview);
            run.queued = next.is_none();
            run.cursor = next;
            if self.keep(ctx, &mut run, writes).await? {
                moved.done += done;
                moved.queued += queued;
            }
        }
        Ok((run, moved))
    }

    /// Writes how far a campaign is, together with what came of it. False when somebody else moved, paused or cancelled it
    /// meanwhile: then nothing was written, and `run` is how it stands.
    pub(super) async fn keep(&self, ctx: &Context, run: &mut Run, writes: Vec<Write>) -> Result<bool> {
        let mut writes = writes;
        // It goes first: who lost the race is told so before anything else is looked at.
        writes.insert(0, Write::update(run.id, run.version, run.record()?));
        match self.outreach.store.apply(ctx, &writes).await {
            Ok(_) => {
                run.version += 1;
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::Conflict => {
                let stored = self
                    .outreach
                    .store
                    .get(ctx, &stored::CAMPAIGN_RUN, &[run.id])
                    .await?;
                match stored.into_iter().flatten().next() {
                    Some(stored) if stored.version != run.version => {
                        *run = Run::read(&stored)?;
                        Ok(false)
                    }
                    _ => Err(error),
                }
            }
            Err(error) => Err(error),
        }
    }
}

/// Whether its members are written down when it is started. A list of customers is written down in the plan.
fn writes_down(plan: &CampaignPlan) -> bool {
    plan.audience.is_frozen() && matches!(plan.audience.members(), Members::Segment(_))
}
