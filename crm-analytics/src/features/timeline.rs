//! What customers did besides buying, and through which channels: counts and shares, summed up where the data lives.

use std::collections::{BTreeSet, HashMap};

use crm_core::activity::{INTERACTION, ORDER};
use crm_core::capability::RecordStore;
use crm_core::query::{Aggregate, Filter, Measure};
use crm_core::record::Schema;
use crm_core::{Context, Error, Result, Uuid};
use serde::{Deserialize, Serialize};

use super::AsOf;

/// Interactions that are counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InteractionCounts {
    /// Their kinds, each a column of its own (`call_30d`); none for all kinds together (`interactions_30d`).
    #[serde(default)]
    pub kinds: Vec<String>,
    /// The days before the instant, a column each; 0 for all time (`call_ever`).
    pub days: Vec<u32>,
}

/// Which events a mix is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MixOf {
    /// Orders by who told them (`source`: web shop, branch, app).
    Orders,
    /// Interactions by who told them (`source`).
    Interactions,
    /// Interactions by their kind.
    Kinds,
}

impl MixOf {
    fn place(self) -> (&'static Schema, &'static str, &'static str) {
        match self {
            Self::Orders => (&ORDER, "source", "orders_by"),
            Self::Interactions => (&INTERACTION, "source", "interactions_by"),
            Self::Kinds => (&INTERACTION, "kind", "interactions_of"),
        }
    }
}

/// The shares of channels among a customer's events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChannelMix {
    /// Of which events.
    pub of: MixOf,
    /// The channels, a column each (`orders_by=web-shop`), and one for all others (`orders_by=#other`). The shares of a
    /// customer sum to 1; without an event they are missing.
    pub channels: Vec<String>,
}

/// Columns of the timeline that one question answers.
#[derive(Debug)]
enum Question {
    Count {
        name: String,
        kind: Option<String>,
        days: u32,
    },
    Mix(ChannelMix),
}

/// The questions of a plan.
#[derive(Debug)]
pub(super) struct Questions(Vec<Question>);

impl Questions {
    pub(super) fn of(counts: Option<&InteractionCounts>, mixes: &[ChannelMix]) -> Self {
        let mut questions = Vec::new();
        if let Some(counts) = counts {
            let named = |kind: Option<&String>, days: u32| {
                let what = kind.map_or("interactions", String::as_str);
                Question::Count {
                    name: match days {
                        0 => format!("{what}_ever"),
                        days => format!("{what}_{days}d"),
                    },
                    kind: kind.cloned(),
                    days,
                }
            };
            for days in &counts.days {
                if counts.kinds.is_empty() {
                    questions.push(named(None, *days));
                }
                questions.extend(counts.kinds.iter().map(|kind| named(Some(kind), *days)));
            }
        }
        questions.extend(mixes.iter().cloned().map(Question::Mix));
        Self(questions)
    }

    /// The names of the columns, in order.
    pub(super) fn names(&self) -> Vec<String> {
        let mut names = Vec::new();
        for question in &self.0 {
            match question {
                Question::Count { name, .. } => names.push(name.clone()),
                Question::Mix(mix) => {
                    let (_, _, prefix) = mix.of.place();
                    names.extend(mix.channels.iter().map(|channel| format!("{prefix}={channel}")));
                    names.push(format!("{prefix}=#other"));
                }
            }
        }
        names
    }

    /// Checks that no two columns have the same name.
    pub(super) fn check(&self, taken: &[String]) -> Result<()> {
        let mut seen: BTreeSet<String> = taken.iter().cloned().collect();
        for name in self.names() {
            if !seen.insert(name.clone()) {
                return Err(Error::invalid("two features would have the same name").with("feature", name));
            }
        }
        Ok(())
    }

    /// Asks the store.
    pub(super) async fn ask(
        &self,
        ctx: &Context,
        store: &dyn RecordStore,
        as_of: AsOf,
        only: Option<&[Uuid]>,
    ) -> Result<Answered> {
        let mut answered = Answered::default();
        for question in &self.0 {
            let (schema, filter, by) = match question {
                Question::Count { kind, days, .. } => {
                    let filter = match days {
                        0 => as_of.before("at"),
                        days => as_of.within("at", *days),
                    };
                    let filter = match kind {
                        Some(kind) => filter.and(Filter::eq("kind", kind.as_str())),
                        None => filter,
                    };
                    (&INTERACTION, filter, None)
                }
                Question::Mix(mix) => {
                    let (schema, by, _) = mix.of.place();
                    (schema, as_of.before("at"), Some((by, mix)))
                }
            };
            let filter = match only {
                Some(ids) => filter.and(Filter::one_of("customer_id", ids.iter().copied())),
                None => filter,
            };
            let mut sums = Aggregate::new(filter).by("customer_id");
            if let Some((by, _)) = by {
                sums = sums.by(by);
            }
            let table = store
                .aggregate(ctx, schema, &sums.measure("count", Measure::Count))
                .await?;
            let (id, count) = (table.column("customer_id")?, table.column("count")?);
            let channel = by.map(|(by, _)| table.column(by)).transpose()?;
            let width = by.map_or(1, |(_, mix)| mix.channels.len() + 1);
            let mut found: HashMap<Uuid, Vec<f64>> = HashMap::new();
            for row in 0..table.rows() {
                let (Some(customer), Some(count)) = (id.uuid_at(row), count.f64_at(row)) else {
                    return Err(Error::unexpected("the store answered a sum without a value"));
                };
                let at = match (by, channel) {
                    (Some((_, mix)), Some(channel)) => {
                        let named = channel.text_at(row);
                        let known = mix.channels.iter().position(|one| Some(one.as_str()) == named);
                        known.unwrap_or(mix.channels.len())
                    }
                    _ => 0,
                };
                let counts = found.entry(customer).or_insert_with(|| vec![0.0; width]);
                if let Some(slot) = counts.get_mut(at) {
                    *slot += count;
                }
            }
            answered.0.push(Answer {
                width,
                shares: by.is_some(),
                found,
            });
        }
        Ok(answered)
    }
}

/// What the store answered to one question.
#[derive(Debug)]
struct Answer {
    width: usize,
    shares: bool,
    found: HashMap<Uuid, Vec<f64>>,
}

/// What the store answered.
#[derive(Debug, Default)]
pub(super) struct Answered(Vec<Answer>);

impl Answered {
    /// The values of a customer, in the order of [`Questions::names`].
    pub(super) fn values(&self, customer: Uuid, out: &mut Vec<Option<f64>>) {
        for answer in &self.0 {
            match answer.found.get(&customer) {
                Some(counts) if answer.shares => {
                    let all: f64 = counts.iter().sum();
                    out.extend(counts.iter().map(|count| Some(count / all)));
                }
                Some(counts) => out.extend(counts.iter().copied().map(Some)),
                None => {
                    let nothing = if answer.shares { None } else { Some(0.0) };
                    out.extend(std::iter::repeat_n(nothing, answer.width));
                }
            }
        }
    }
}
