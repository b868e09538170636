//! The last moment before messages are handed over: may they still go, to whom are they handed, and the mark that they
//! were begun.

use std::collections::HashMap;
use std::time::Duration;

use crm_core::consent::{Ask, Verdict};
use crm_core::message::{Message, Permitted, PermittedMessage, Sendable};
use crm_core::query::{Aggregate, Filter, Measure, Query};
use crm_core::record::Write;
use crm_core::{Context, ErrorKind, Result, Timestamp, Uuid};

use super::commit::{Fate, Lease, Unit};
use super::report::Done;
use super::settle::{End, What};
use super::{Dispatcher, Mode};
use crate::limits::{Answer, Want};
use crate::outbox::{Entry, OUTBOX, OutboxState, json, resolved};
use crate::routing::{Route, Wanted};

/// A message that takes its process down this often is given up.
const POISON: i64 = 3;
/// A message whose dispatcher dies this often before it is begun is given up.
const NEVER_BEGUN: i64 = 10;
/// How long an answer about a campaign holds.
const FRESH: Duration = Duration::from_millis(250);

/// A claimed message.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) lease: Lease,
    pub(super) entry: Entry,
}

/// A message that is marked as begun and may be handed over.
pub(super) struct Go {
    pub(super) job: Job,
    pub(super) permitted: PermittedMessage,
    pub(super) route: Route,
}

/// A message the gate lets out, the way it goes unless it is only recorded, and what counts it at the gate.
struct Going {
    job: Job,
    route: Option<Route>,
    permitted: Permitted<Message>,
    writes: Vec<Write>,
}

/// What is known of a message without asking anybody.
enum Look {
    /// The gate is asked; then it goes this way, or is only recorded.
    Ask(Option<Route>),
    Over(What),
}

/// What became of a group of claimed messages.
#[derive(Default)]
pub(super) struct Begun {
    pub(super) go: Vec<Go>,
    pub(super) ended: Vec<(Job, What)>,
    /// To be asked about once more: somebody was faster at a limit they share.
    pub(super) again: Vec<Job>,
    pub(super) gone: Vec<(Job, Done)>,
}

/// What becomes of a message that the gate does not let out now.
fn turned_away(verdict: &Verdict) -> Option<What> {
    match verdict {
        Verdict::Go { .. } => None,
        Verdict::Later { at, decision, .. } => Some(What::snooze(*at, decision.last())),
        Verdict::No { decision, .. } => {
            let end = End::new(OutboxState::Refused, decision.last());
            Some(What::End(end))
        }
    }
}

impl Dispatcher {
    /// Decides about a group of claimed messages on what is stored now, and marks those that go as begun: in the same unit
    /// of work in which the limits of the gate count them.
    pub(super) async fn begin(&self, ctx: &Context, jobs: Vec<Job>) -> Begun {
        let mut begun = Begun::default();
        let mut ready = Vec::with_capacity(jobs.len());
        let blocked = match self.blocked(ctx, &jobs).await {
            Ok(blocked) => blocked,
            Err(error) => return self.not_now(begun, jobs, &error),
        };
        let asked_at = self.now();
        let campaigns = match self.campaigns(ctx, jobs.iter(), true).await {
            Ok(campaigns) => campaigns,
            Err(error) => return self.not_now(begun, jobs, &error),
        };
        for job in jobs {
            match blocked.get(&job.lease.id) {
                Some(at) => {
                    let why = "an earlier message goes first";
                    begun.ended.push((job, What::snooze(*at, why)));
                }
                None => match self.look(ctx, &job) {
                    // One that may be there already is judged by what is known of it first.
                    Look::Ask(route) => match campaigns.end(&job, self) {
                        Some(what) => begun.ended.push((job, what)),
                        None if campaigns.rehearses(&job) => ready.push((job, None)),
                        None => ready.push((job, route)),
                    },
                    Look::Over(what) => begun.ended.push((job, what)),
                },
            }
        }
        let asks = ready
            .iter()
            .map(|(job, _)| {
                let entry = &job.entry;
                Ask::new(entry.message.clone(), entry.purpose.clone(), entry.customer)
            })
            .collect();
        let permitted = self.permitted(ctx, asks).await;
        let verdicts = match permitted {
            Ok(verdicts) => verdicts,
            Err(error) => {
                let jobs = ready.into_iter().map(|(job, _)| job).collect();
                return self.not_now(begun, jobs, &error);
            }
        };
        let mut going = Vec::with_capacity(ready.len());
        for ((mut job, route), verdict) in ready.into_iter().zip(verdicts) {
            if let Ok(decision) = json("decision", verdict.decision()) {
                let _ = job.lease.record.set("decision", decision);
            }
            match verdict {
                Verdict::Go { permitted, writes } => going.push(Going {
                    job,
                    route,
                    permitted,
                    writes,
                }),
                verdict => begun.ended.extend(turned_away(&verdict).map(|what| (job, what))),
            }
        }
        let answers = match self.counted(ctx, &going).await {
            Ok(answers) => answers,
            Err(error) => {
                let jobs = going.into_iter().map(|going| going.job).collect();
                return self.not_now(begun, jobs, &error);
            }
        };
        let mut marked = Vec::with_capacity(going.len());
        for (going, answer) in going.into_iter().zip(answers) {
            let Going {
                mut job,
                route,
                permitted,
                writes,
            } = going;
            let Some(mut route) = route else {
                let end = End::new(OutboxState::Recorded, "recorded: the mode is not live");
                begun.ended.push((job, What::End(end)));
                continue;
            };
            match answer {
                Answer::Now(providers) => route.keep(&providers),
                Answer::Later(at, rule) => {
                    let what = What::snooze(at, &format!("limit: {rule} has no room before then"));
                    begun.ended.push((job, what));
                    continue;
                }
            }
            match self.mark(&mut job, &route) {
                Ok(()) => marked.push((job, route, permitted, writes)),
                Err(error) => {
                    let end = End::new(OutboxState::Failed, error.to_string());
                    begun.ended.push((job, What::End(end)));
                }
            }
        }
        self.write_begun(ctx, marked, &mut begun).await;
        if self.now().since(asked_at) > FRESH {
            self.ask_again(ctx, &mut begun).await;
        }
        begun
    }

    async fn permitted(&self, ctx: &Context, asks: Vec<Ask>) -> Result<Vec<Verdict>> {
        match &self.mode {
            Mode::Redirect(to) => {
                let (email, phone) = (to.email.as_ref(), to.phone.as_ref());
                self.gate.permit_elsewhere(ctx, asks, email, phone).await
            }
            _ => self.gate.permit_all(ctx, asks).await,
        }
    }

    /// It took long until they were marked: those whose recipient opted out meanwhile, or whose campaign was paused or
    /// cancelled, are not handed over.
    async fn ask_again(&self, ctx: &Context, begun: &mut Begun) {
        let go = std::mem::take(&mut begun.go);
        let asks = go
            .iter()
            .map(|go| {
                let entry = &go.job.entry;
                Ask::new(entry.message.clone(), entry.purpose.clone(), entry.customer)
            })
            .collect();
        let asked = async {
            let campaigns = self.campaigns(ctx, go.iter().map(|go| &go.job), false).await?;
            // One that is counted already is not counted again.
            Ok((campaigns, self.permitted(ctx, asks).await?))
        };
        let asked: Result<_> = asked.await;
        match asked {
            Ok((campaigns, verdicts)) => {
                for (go, verdict) in go.into_iter().zip(verdicts) {
                    let what = campaigns.end(&go.job, self).or_else(|| turned_away(&verdict));
                    match what {
                        Some(what) => begun.ended.push((go.job, what)),
                        None => begun.go.push(go),
                    }
                }
            }
            Err(error) => {
                tracing::warn!(%error, "permissions cannot be read; trying again");
                let at = self.now().plus(self.settings.idle.max(super::SECOND));
                let put_back = go.into_iter().map(|go| (go.job, What::Trouble(at)));
                begun.ended.extend(put_back);
            }
        }
    }

    /// What is known without asking anybody: whether the message still makes sense, and who would take it. None when it
    /// is only recorded.
    fn look(&self, ctx: &Context, job: &Job) -> Look {
        let entry = &job.entry;
        let over = |state, why: &str| Look::Over(What::End(End::new(state, why)));
        if entry.maybe_sent && !entry.repeats() {
            // Its dispatcher died while sending: nobody knows how far it came.
            return over(
                resolved(OutboxState::Unknown, true, entry.delivery),
                "the dispatcher died while sending; not repeated",
            );
        }
        let known = resolved(OutboxState::Queued, entry.maybe_sent, entry.delivery);
        if known != OutboxState::Queued {
            return over(
                known,
                "its answer was lost, but news about it came in; not repeated",
            );
        }
        if entry.crash_count >= POISON || entry.rescues >= NEVER_BEGUN {
            let times = entry.crash_count.max(entry.rescues);
            let why = format!("poison: it took its dispatcher down {times} times");
            return over(OutboxState::Dead, &why);
        }
        let now = self.now();
        if entry.expires_at.is_some_and(|at| at <= now) {
            return over(OutboxState::Expired, "its time was over before it could be sent");
        }
        let wanted = Wanted {
            tenant: ctx.tenant(),
            message: &entry.message,
            purpose: &entry.purpose,
            tags: &entry.tags,
        };
        let live = self.mode.is_live(&entry.message);
        let route = self.router.route(&wanted, live, now);
        match (route.is_empty(), live) {
            (false, _) => Look::Ask(Some(route)),
            (true, false) => Look::Ask(None),
            (true, true) => Look::Over(What::Pause {
                kind: ErrorKind::Unsupported,
                provider: None,
                error: format!(
                    "no provider takes this {} message now: none matches, or all are down or paused",
                    entry.channel()
                ),
            }),
        }
    }

    /// Counts them against the limits, where a live provider would take them.
    async fn counted(&self, ctx: &Context, going: &[Going]) -> Result<Vec<Answer>> {
        let wants: Vec<Want<'_>> = going
            .iter()
            .map(|Going { job, route, .. }| {
                let message = &job.entry.message;
                Want {
                    message,
                    address: self
                        .gate
                        .address_key(job.entry.contact_kind(), message.recipient()),
                    providers: route
                        .as_ref()
                        .map(|route| route.senders(message))
                        .unwrap_or_default(),
                }
            })
            .collect();
        let of = self.settings.limits_of.clone().map(Context::new);
        self.limits
            .take(&*self.store, of.as_ref().unwrap_or(ctx), || self.now(), &wants)
            .await
    }

    /// From here on a crash leaves a mark: the message may have gone out.
    fn mark(&self, job: &mut Job, route: &Route) -> Result<()> {
        let now = self.now();
        job.entry.attempt += 1;
        job.entry.send_started_at = Some(now);
        let record = &mut job.lease.record;
        record.set("attempt", job.entry.attempt)?;
        record.set("maybe_sent", job.entry.maybe_sent)?;
        record.set("send_started_at", now)?;
        record.set("lease_until", self.lease_end(now))?;
        if let Some(first) = route.infos().first() {
            record.set("provider", first.name.as_str())?;
        }
        Ok(())
    }

    async fn write_begun(
        &self,
        ctx: &Context,
        marked: Vec<(Job, Route, Permitted<Message>, Vec<Write>)>,
        begun: &mut Begun,
    ) {
        let mut units = Vec::with_capacity(marked.len());
        let mut rest = Vec::with_capacity(marked.len());
        for (job, route, permitted, writes) in marked {
            units.push(Unit::new(job.lease, writes));
            rest.push((job.entry, route, permitted));
        }
        self.commit(ctx, &mut units).await;
        for (unit, (entry, route, permitted)) in units.into_iter().zip(rest) {
            let mut job = Job {
                lease: unit.lease,
                entry,
            };
            match unit.fate {
                Some(Fate::Written) => begun.go.push(Go {
                    job,
                    permitted: permitted.by_channel(),
                    route,
                }),
                Some(Fate::Refused(error)) => {
                    // It was not begun after all.
                    job.entry.attempt -= 1;
                    job.entry.send_started_at = None;
                    if error.kind() == ErrorKind::Conflict {
                        begun.again.push(job);
                    } else {
                        let end = End::new(OutboxState::Failed, error.to_string());
                        begun.ended.push((job, What::End(end)));
                    }
                }
                Some(Fate::Lost) => begun.gone.push((job, Done::LeaseLost)),
                Some(Fate::Failed) | None => begun.gone.push((job, Done::StoreError)),
            }
        }
    }

    /// What is asked cannot be answered now: they wait a little, without having used up a try.
    fn not_now(&self, mut begun: Begun, jobs: Vec<Job>, error: &crm_core::Error) -> Begun {
        tracing::warn!(%error, "permissions cannot be read; trying again");
        let at = self.now().plus(self.settings.idle.max(super::SECOND));
        let put_back = jobs.into_iter().map(|job| (job, What::Trouble(at)));
        begun.ended.extend(put_back);
        begun
    }

    /// Of those that go out in order, the ones that something earlier of their key holds up, and until when at least.
    async fn blocked(&self, ctx: &Context, jobs: &[Job]) -> Result<HashMap<Uuid, Timestamp>> {
        let ordered: Vec<_> = jobs
            .iter()
            .filter_map(|job| job.entry.order.as_ref().map(|place| (job.lease.id, place)))
            .collect();
        let mut blocked = HashMap::new();
        if ordered.is_empty() {
            return Ok(blocked);
        }
        let open = || {
            let states = [OutboxState::Queued, OutboxState::Leased].map(OutboxState::as_str);
            Filter::one_of("order_key", ordered.iter().map(|(_, place)| place.key.as_str()))
                .and(Filter::one_of("state", states))
        };
        let mut earliest = Aggregate::new(open()).by("order_key");
        let first = Measure::Min("created_at".to_owned());
        earliest.measures.push(("first".to_owned(), first));
        let found = self.store.aggregate(ctx, &OUTBOX, &earliest).await?;
        let column = found.column("first")?;
        let firsts: Vec<Timestamp> = (0..found.rows())
            .filter_map(|row| column.timestamp_at(row))
            .collect();
        // Several may have been queued in the same instant: then the id decides.
        let query = Query::new(open().and(Filter::one_of("created_at", firsts)))
            .ascending("created_at")
            .limit(1000);
        let mut first: HashMap<String, ((Timestamp, Uuid), Timestamp)> = HashMap::new();
        for stored in self.store.find(ctx, &OUTBOX, &query).await?.items {
            let r = &stored.record;
            let at = (r.timestamp("created_at")?, stored.id);
            let run_at = r.timestamp("run_at")?;
            let known = first
                .entry(r.text("order_key")?.to_owned())
                .or_insert((at, run_at));
            if at < known.0 {
                *known = (at, run_at);
            }
        }
        let soon = self.now().plus(super::SECOND);
        for (id, place) in ordered {
            if let Some((at, run_at)) = first.get(&place.key)
                && *at < place.at
            {
                blocked.insert(id, soon.max(*run_at));
            }
        }
        Ok(blocked)
    }
}
