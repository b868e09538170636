//! Scoring customers in the store: all of them when a model becomes the one in use, then those about whom something
//! changed.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use crm_core::capability::{ChangeReader, RecordStore};
use crm_core::customer::CUSTOMER;
use crm_core::query::{Filter, Query};
use crm_core::record::{Entity, Field, FieldType, Index, Record, Schema, Stored, Value, Version, Write};
use crm_core::score::{SCORE, SCORE_RUN, Score, ScoreRun};
use crm_core::segment::Lineage;
use crm_core::{Clock, Context, CustomerId, Error, ErrorKind, IdSource, Result, Timestamp, Uuid};

use super::fitted::{Answers, FittedPipeline, Scored, Scorer};
use super::sealed::Artefact;
use super::shelf::{MODEL, MODEL_PART, ModelRecord, StoredModels, Which};
use crate::privacy::{Audience, AudienceReport};

/// Customers of one step.
const STEP: u32 = 500;
/// How often a step is made anew when somebody else writes the same.
const TRIES: usize = 5;

/// How far the scoring of a model is: one record a model.
pub static SCORE_STATE: Schema = Schema {
    name: "crm_score_state",
    fields: &[
        Field::new("model", FieldType::Text),
        Field::new("number", FieldType::Int),
        Field::new("run", FieldType::Uuid),
        Field::new("phase", FieldType::Text),
        Field::new("after", FieldType::Uuid).nullable().pseudonym(),
        Field::new("feed", FieldType::Text).nullable(),
        Field::new("updated_at", FieldType::Timestamp),
    ],
    indexes: &[Index::unique("crm_score_state_model", &["model"])],
};

/// What a step works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Everybody, since another version of the model came into use, or the feed's cursor was lost.
    Everybody,
    /// The scores of those who are not to be scored any more are removed.
    Tidying,
    /// Those who changed.
    Changed,
}

impl Phase {
    fn as_str(self) -> &'static str {
        match self {
            Self::Everybody => "everybody",
            Self::Tidying => "tidying",
            Self::Changed => "changed",
        }
    }
}

/// What one step did.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ScoringStep {
    /// What it worked on.
    pub phase: Phase,
    /// The model's version.
    pub number: i64,
    /// The run ([`ScoreRun`]).
    pub run: Uuid,
    /// Customers looked at.
    pub looked_at: usize,
    /// Scores written.
    pub written: usize,
    /// Scores removed, of customers who are gone, may not be looked at, or are left out by the plan.
    pub removed: usize,
    /// Who was let in and who was not, when there is an audience.
    pub audience: Option<AudienceReport>,
    /// Whether there is more to do right away.
    pub more: bool,
}

/// Where the scoring stands.
#[derive(Debug, Clone)]
struct State {
    id: Uuid,
    version: Version,
    number: i64,
    run: Uuid,
    phase: Phase,
    after: Option<Uuid>,
    feed: Option<String>,
}

impl State {
    fn read(stored: &Stored) -> Result<Self> {
        let r = &stored.record;
        let phase = r.text("phase")?;
        let known = [Phase::Everybody, Phase::Tidying, Phase::Changed];
        Ok(Self {
            id: stored.id,
            version: stored.version,
            number: r.int("number")?,
            run: r.uuid("run")?,
            phase: known
                .into_iter()
                .find(|one| one.as_str() == phase)
                .ok_or_else(|| r.damaged("phase"))?,
            after: r.get("after").and_then(Value::as_uuid),
            feed: r.get("feed").and_then(Value::as_str).map(str::to_owned),
        })
    }

    fn write(&self, model: &str, now: Timestamp) -> Result<Write> {
        let record = Record::from_values(
            &SCORE_STATE,
            vec![
                model.into(),
                self.number.into(),
                self.run.into(),
                self.phase.as_str().into(),
                self.after.into(),
                self.feed.clone().into(),
                now.into(),
            ],
        )?;
        Ok(match self.version {
            0 => Write::insert(self.id, record),
            version => Write::update(self.id, version, record),
        })
    }
}

/// A model, loaded.
#[derive(Debug)]
struct Loaded {
    record: ModelRecord,
    artefact: Artefact<FittedPipeline>,
    scorer: Scorer,
}

/// Keeps scores of customers up to date: `step` after `step`, each one unit of work with the place where the next one goes
/// on. Stopped or killed between two steps nothing is lost; within one, it is made again.
///
/// A new version of a model that comes into use is run over everybody once, then over those who changed. Features that
/// depend on the day alone (days since the last order) do not change anything in the store: a host that wants them fresh
/// calls [`Scoring::restart`] every night.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use std::sync::Arc;
/// use crm_analytics::pipeline::Scoring;
/// use crm_core::capability::RecordStore;
/// use crm_core::memory::MemoryStore;
/// use crm_core::testkit::fixtures;
/// use crm_core::{ErrorKind, RandomIds, SystemClock};
///
/// let store = Arc::new(MemoryStore::new("records"));
/// store.migrate(&Scoring::schemas()).await.unwrap();
/// let scoring = Scoring::new(store, SystemClock::shared(), RandomIds::shared());
/// let none = scoring.step(&fixtures::context(), "churn", None, None).await.unwrap_err();
/// assert_eq!(none.kind(), ErrorKind::NotFound); // publish a model, and make it live
/// # });
/// ```
#[derive(Debug)]
pub struct Scoring {
    store: Arc<dyn RecordStore>,
    models: StoredModels,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdSource>,
    loaded: Mutex<HashMap<Uuid, Arc<Loaded>>>,
}

impl Scoring {
    /// The scoring of the models in `store`; its schemas are to be migrated first.
    pub fn new(store: Arc<dyn RecordStore>, clock: Arc<dyn Clock>, ids: Arc<dyn IdSource>) -> Self {
        Self {
            models: StoredModels::new(store.clone(), clock.clone(), ids.clone()),
            store,
            clock,
            ids,
            loaded: Mutex::default(),
        }
    }

    /// What it stores; to be passed to [`RecordStore::migrate`].
    pub fn schemas() -> [&'static Schema; 5] {
        [&MODEL, &MODEL_PART, &SCORE, &SCORE_RUN, &SCORE_STATE]
    }

    /// Does the next piece of work for a model: up to 500 customers. Without `changes` nobody is scored anew after everybody
    /// was; with an audience only those who may be looked at are scored, and the scores of the others are removed.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when no version of the model is live; [`ErrorKind::Invalid`] when it does not say how its
    /// columns are read (`features`), or they are not those it takes; [`ErrorKind::Conflict`] when others score the same
    /// model all the time; those of the store and of the feed.
    pub async fn step(
        &self,
        ctx: &Context,
        model: &str,
        changes: Option<&dyn ChangeReader>,
        audience: Option<&Audience>,
    ) -> Result<ScoringStep> {
        let named = |error: Error| error.operation("scoring.step").with("model", model);
        let mut last = None;
        for _ in 0..TRIES {
            ctx.check(&*self.clock)?;
            match self.one(ctx, model, changes, audience).await {
                Err(error) if error.kind() == ErrorKind::Conflict => last = Some(error),
                done => return done.map_err(named),
            }
        }
        Err(named(last.unwrap_or_else(|| {
            Error::conflict("others score the same model")
        })))
    }

    /// Runs over everybody again, from the next step on, as a new run.
    ///
    /// # Errors
    /// As [`Scoring::step`].
    pub async fn restart(
        &self,
        ctx: &Context,
        model: &str,
        changes: Option<&dyn ChangeReader>,
    ) -> Result<()> {
        let loaded = self.live(ctx, model).await?;
        let state = self.state(ctx, model).await?;
        self.begin(ctx, model, &loaded, state, changes).await.map(drop)
    }

    /// The version in use, loaded once.
    async fn live(&self, ctx: &Context, model: &str) -> Result<Arc<Loaded>> {
        let record = self.models.find(ctx, model, Which::Live).await?;
        let lock = || self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(loaded) = lock().get(&record.id) {
            return Ok(loaded.clone());
        }
        let (record, bytes) = self.models.load(ctx, model, Which::Number(record.number)).await?;
        let artefact = Artefact::<FittedPipeline>::from_bytes(&bytes)?;
        let scorer = Scorer::new(&artefact.learned)?;
        let loaded = Arc::new(Loaded {
            record,
            artefact,
            scorer,
        });
        let mut known = lock();
        // Few models are in use at once; those that are not are read again.
        if known.len() >= 64 {
            known.clear();
        }
        known.insert(loaded.record.id, loaded.clone());
        Ok(loaded)
    }

    async fn state(&self, ctx: &Context, model: &str) -> Result<Option<State>> {
        let query = Query::new(Filter::eq("model", model)).limit(1);
        let page = self.store.find(ctx, &SCORE_STATE, &query).await?;
        page.items.first().map(State::read).transpose()
    }

    /// Begins a run over everybody. The feed's place is taken first: what changes from now on is told later.
    async fn begin(
        &self,
        ctx: &Context,
        model: &str,
        loaded: &Loaded,
        before: Option<State>,
        changes: Option<&dyn ChangeReader>,
    ) -> Result<State> {
        let now = self.clock.now();
        let feed = match changes {
            Some(changes) => Some(changes.latest(ctx).await?),
            None => None,
        };
        let (id, version) = before.map_or_else(|| (self.ids.fresh(), 0), |state| (state.id, state.version));
        let artefact = &loaded.artefact;
        let run = ScoreRun {
            id: self.ids.fresh(),
            model: model.to_owned(),
            number: loaded.record.number,
            lineage: Lineage {
                run: Uuid::nil(),
                method: format!(
                    "{model} v{} ({})",
                    loaded.record.number,
                    method(&artefact.learned)
                ),
                seed: artefact.seed,
                as_of: artefact.as_of,
                features: artefact.learned.encoding.names().to_vec(),
                schema_hash: artefact.schema_hash.clone(),
                metrics: artefact.metrics.clone(),
            },
            started_at: now,
        };
        let run = ScoreRun {
            lineage: Lineage {
                run: run.id,
                ..run.lineage
            },
            ..run
        };
        let mut state = State {
            id,
            version,
            number: loaded.record.number,
            run: run.id,
            phase: Phase::Everybody,
            after: None,
            feed,
        };
        let writes = [Write::insert(run.id, run.to_record()?), state.write(model, now)?];
        self.store.apply(ctx, &writes).await?;
        state.version += 1;
        Ok(state)
    }

    async fn one(
        &self,
        ctx: &Context,
        model: &str,
        changes: Option<&dyn ChangeReader>,
        audience: Option<&Audience>,
    ) -> Result<ScoringStep> {
        let loaded = self.live(ctx, model).await?;
        let mut state = match self.state(ctx, model).await? {
            Some(state) if state.number == loaded.record.number => state,
            other => self.begin(ctx, model, &loaded, other, changes).await?,
        };
        let mut step = ScoringStep {
            phase: state.phase,
            number: state.number,
            run: state.run,
            looked_at: 0,
            written: 0,
            removed: 0,
            audience: None,
            more: true,
        };
        let mut writes = Vec::new();
        match state.phase {
            Phase::Everybody => {
                let filter = state.after.map_or(Filter::All, |after| Filter::gt("id", after));
                let query = Query::new(filter).limit(STEP);
                let page = self.store.find(ctx, &CUSTOMER, &query).await?;
                let ids: Vec<CustomerId> = page.items.iter().map(|stored| stored.id.into()).collect();
                match ids.last() {
                    Some(last) if page.next.is_some() => state.after = Some(last.uuid()),
                    _ => (state.phase, state.after) = (Phase::Tidying, None),
                }
                self.scores(ctx, &loaded, &state, (&ids, audience), &mut step, &mut writes)
                    .await?;
            }
            Phase::Tidying => {
                let older = Filter::eq("model", model).and(Filter::ne("run", state.run));
                let page = self
                    .store
                    .find(ctx, &SCORE, &Query::new(older).limit(STEP))
                    .await?;
                step.removed = page.items.len();
                writes.extend(
                    page.items
                        .iter()
                        .map(|stored| Write::delete(&SCORE, stored.id, Some(stored.version))),
                );
                if page.items.len() < STEP as usize {
                    state.phase = Phase::Changed;
                }
            }
            Phase::Changed => {
                let Some(changes) = changes else {
                    step.more = false;
                    return Ok(step);
                };
                let read = match changes.changed_customers(ctx, state.feed.as_deref(), STEP).await {
                    Ok(read) => read,
                    // What changed is not told any more: everybody is looked at.
                    Err(error)
                        if error.kind() == ErrorKind::NotFound
                            && error.context("field") == Some("cursor") =>
                    {
                        self.begin(ctx, model, &loaded, Some(state), Some(changes))
                            .await?;
                        return Ok(step);
                    }
                    Err(error) => return Err(error),
                };
                step.more = read.behind > 0;
                if state.feed.as_deref() == Some(read.next.as_str()) {
                    return Ok(step);
                }
                state.feed = Some(read.next);
                let asked = (read.customers.as_slice(), audience);
                self.scores(ctx, &loaded, &state, asked, &mut step, &mut writes)
                    .await?;
            }
        }
        writes.push(state.write(model, self.clock.now())?);
        self.store.apply(ctx, &writes).await?;
        Ok(step)
    }

    /// The writes that bring the scores of some customers up to date.
    async fn scores(
        &self,
        ctx: &Context,
        loaded: &Loaded,
        state: &State,
        (ids, audience): (&[CustomerId], Option<&Audience>),
        step: &mut ScoringStep,
        writes: &mut Vec<Write>,
    ) -> Result<()> {
        step.looked_at += ids.len();
        if ids.is_empty() {
            return Ok(());
        }
        let plan = loaded.artefact.learned.features.as_ref().ok_or_else(|| {
            Error::invalid("the pipeline does not say how its columns are read from the store; fit it with a feature plan")
                .with("setting", "features")
        })?;
        let now = self.clock.now();
        let plan = plan.clone().at(now);
        let features = plan.read_some(ctx, &*self.store, ids, audience).await?;
        step.audience = features.report.audience.clone();
        let uuids: Vec<Uuid> = ids.iter().map(|id| id.uuid()).collect();
        let mine = Filter::eq("model", loaded.record.name.as_str()).and(Filter::one_of("customer_id", uuids));
        let page = self
            .store
            .find(ctx, &SCORE, &Query::new(mine).limit(10_000))
            .await?;
        let mut known: HashMap<CustomerId, Stored> = HashMap::new();
        for stored in page.items {
            known.insert(stored.record.uuid("customer_id")?.into(), stored);
        }
        let mut scored_now = HashSet::new();
        if !features.ids.is_empty() {
            let scored = loaded.scorer.score(&features.table)?;
            for (id, scored) in features.ids.iter().zip(scored) {
                let Some((value, label)) = said(&scored, loaded.scorer.labels()) else {
                    continue;
                };
                let before = known.get(id);
                let score = Score {
                    id: before.map_or_else(|| self.ids.fresh(), |stored| stored.id).into(),
                    version: before.map_or(0, |stored| stored.version),
                    customer_id: *id,
                    model: loaded.record.name.clone(),
                    number: loaded.record.number,
                    run: state.run,
                    value,
                    label,
                    as_of: now,
                    scored_at: now,
                };
                let record = score.to_record()?;
                writes.push(match before {
                    Some(stored) => Write::update(stored.id, stored.version, record),
                    None => Write::insert(score.id, record),
                });
                scored_now.insert(*id);
                step.written += 1;
            }
        }
        for (id, stored) in known {
            if !scored_now.contains(&id) {
                writes.push(Write::delete(&SCORE, stored.id, Some(stored.version)));
                step.removed += 1;
            }
        }
        Ok(())
    }
}

/// The kind of model, as its JSON says.
fn method(pipeline: &FittedPipeline) -> String {
    let kind = pipeline.model.get("kind").and_then(serde_json::Value::as_str);
    let answers = match &pipeline.answers {
        Answers::Classes(labels) => format!("{} classes", labels.len()),
        Answers::Number => "a number".to_owned(),
        Answers::Group => "groups".to_owned(),
    };
    format!("{}, {answers}", kind.unwrap_or("model"))
}

/// What is stored of an answer; `None` when there is none.
fn said(scored: &Scored, labels: &[String]) -> Option<(Option<f64>, Option<String>)> {
    match scored {
        Scored::LeftOut => None,
        Scored::Number(value) => Some((Some(*value), None)),
        Scored::Group(group) => Some((None, group.map(|group| group.to_string()))),
        Scored::Probabilities(p) => {
            let best =
                p.iter().enumerate().fold(
                    (0, f64::NEG_INFINITY),
                    |best, (at, p)| {
                        if *p > best.1 { (at, *p) } else { best }
                    },
                );
            let value = match p.as_slice() {
                [_, second] => *second,
                _ => best.1,
            };
            Some((Some(value), labels.get(best.0).cloned()))
        }
    }
}
