//! Why a customer is, or is not, a member.

use crm_core::capability::RecordStore;
use crm_core::customer::CUSTOMER;
use crm_core::query::{Aggregate, FieldRef, Filter, Query, Related};
use crm_core::record::{Entity, Stored, Value};
use crm_core::segment::{SEGMENT, SEGMENT_MEMBER, SEGMENT_OVERRIDE, Segment, SegmentId, SegmentKind};
use crm_core::{Context, CustomerId, Error, ErrorKind, Result, Timestamp};
use serde::Serialize;

use super::Segments;
use super::account::State;

/// Why a customer is, or is not, a member of a segment. `Debug` shows no values; they are data about a person.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explanation {
    /// The segment.
    pub segment: SegmentId,
    /// Its name.
    pub name: String,
    /// Whether the customer is a member now: what [`Segments::contains`] says.
    pub member: bool,
    /// Whether there is a membership record: what decides for manual segments, snapshots, and dynamic ones whose members
    /// are stored (as of the time here).
    pub stored: Option<(bool, Option<Timestamp>)>,
    /// What was said by hand; it wins over the rule.
    pub by_hand: Option<Override>,
    /// The rule, evaluated now, down to its conditions.
    pub rule: Option<Reason>,
}

/// A customer included or excluded by hand.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Override {
    /// Included, or excluded.
    pub included: bool,
    /// By whom: `user:..` or `system:..`.
    pub actor: String,
    /// When.
    pub at: Timestamp,
}

/// One condition of a rule, and what was seen.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Reason {
    /// The condition as it was written; for `and`, `or` and `not` see `parts`.
    pub condition: Filter,
    /// Whether it holds for the customer.
    pub holds: bool,
    /// What was seen: the customer's value (`None` when absent), or the count, sum, minimum or maximum over the related
    /// records that match.
    pub seen: Option<Value>,
    /// The parts of `and`, `or` and `not`, all of them, whatever decided.
    pub parts: Vec<Reason>,
    /// The explanation of a segment that was asked about.
    pub segment: Option<Box<Explanation>>,
}

/// What explanations look at.
struct Look<'a> {
    segments: &'a Segments,
    ctx: &'a Context,
    customer: &'a Stored,
    now: Timestamp,
}

impl Segments {
    /// Why a customer is, or is not, a member: the rule down to its conditions, each with the value seen, what was said by
    /// hand, and nested segments likewise.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] naming the segment or the customer; the store's.
    pub async fn explain(&self, ctx: &Context, customer: CustomerId, id: SegmentId) -> Result<Explanation> {
        self.explained(ctx, customer, id)
            .await
            .map_err(|error| error.operation("segments.explain"))
    }

    async fn explained(&self, ctx: &Context, customer: CustomerId, id: SegmentId) -> Result<Explanation> {
        self.customers.prepare().await?;
        let found = self.store().get(ctx, &CUSTOMER, &[customer.uuid()]).await?;
        let found = found.into_iter().flatten().next();
        let stored = found.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "no such customer").with("customer_id", customer)
        })?;
        let look = Look {
            segments: self,
            ctx,
            customer: &stored,
            now: self.customers.clock.now(),
        };
        look.segment(id, 0).await
    }
}

impl Look<'_> {
    fn store(&self) -> &dyn RecordStore {
        self.segments.store()
    }

    async fn segment(&self, id: SegmentId, depth: usize) -> Result<Explanation> {
        if depth > super::DEPTH {
            return Err(Error::invalid("segments are nested more than 16 levels deep").with("segment", id));
        }
        let found = self.store().get(self.ctx, &SEGMENT, &[id.uuid()]).await?;
        let found = found.into_iter().flatten().next();
        let segment = Segment::from_stored(
            found.ok_or_else(|| Error::new(ErrorKind::NotFound, "no such segment").with("segment", id))?,
        )?;
        let state = State::read(self.store(), self.ctx, id.uuid()).await?;
        let of_this = Filter::eq("segment_id", id).and(Filter::eq("customer_id", self.customer.id));
        let has_rule = matches!(segment.kind, SegmentKind::Dynamic { .. });
        let by_stored = !has_rule || (state.stored && state.ready);
        let stored = if by_stored {
            let there = self.store().count(self.ctx, &SEGMENT_MEMBER, &of_this).await?;
            Some((there > 0, state.refreshed_at.filter(|_| has_rule)))
        } else {
            None
        };
        let by_hand = self.by_hand(of_this).await?;
        let rule = match &segment.kind {
            SegmentKind::Dynamic { filter } => Some(Box::pin(self.reason(filter, depth)).await?),
            _ => None,
        };
        let member = match (&stored, &by_hand, &rule) {
            (Some((there, _)), _, _) => *there,
            (None, Some(by_hand), _) => by_hand.included,
            (None, None, Some(rule)) => rule.holds,
            (None, None, None) => false,
        };
        Ok(Explanation {
            segment: id,
            name: segment.name,
            member,
            stored,
            by_hand,
            rule,
        })
    }

    async fn by_hand(&self, of_this: Filter) -> Result<Option<Override>> {
        let query = Query::new(of_this).limit(1);
        let page = self.store().find(self.ctx, &SEGMENT_OVERRIDE, &query).await?;
        let Some(found) = page.items.into_iter().next() else {
            return Ok(None);
        };
        Ok(Some(Override {
            included: found.record.bool("included")?,
            actor: found.record.text("actor")?.to_owned(),
            at: found.record.timestamp("at")?,
        }))
    }

    async fn reason(&self, filter: &Filter, depth: usize) -> Result<Reason> {
        let mut reason = Reason {
            condition: filter.clone(),
            holds: false,
            seen: None,
            parts: Vec::new(),
            segment: None,
        };
        match filter {
            Filter::And(all) | Filter::Or(all) => {
                for part in all {
                    reason.parts.push(Box::pin(self.reason(part, depth)).await?);
                }
                let mut parts = reason.parts.iter().map(|part| part.holds);
                reason.holds = if matches!(filter, Filter::And(_)) {
                    parts.all(|holds| holds)
                } else {
                    parts.any(|holds| holds)
                };
            }
            Filter::Not(part) => {
                let part = Box::pin(self.reason(part, depth)).await?;
                reason.holds = !part.holds;
                reason.parts.push(part);
            }
            Filter::Related(related) => {
                (reason.holds, reason.seen) = self.related(related).await?;
            }
            Filter::InSegment(id) => {
                let nested = self.segment((*id).into(), depth + 1).await?;
                reason.holds = nested.member;
                reason.segment = Some(Box::new(nested));
            }
            Filter::All => reason.holds = true,
            Filter::Is { field, .. }
            | Filter::In { field, .. }
            | Filter::Prefix { field, .. }
            | Filter::Contains { field, .. }
            | Filter::Null { field }
            | Filter::Has { field, .. }
            | Filter::Ago { field, .. } => {
                reason.holds = filter.at(self.now).matches(self.customer);
                reason.seen = self.value(field);
            }
        }
        Ok(reason)
    }

    /// The customer's own value.
    fn value(&self, field: &FieldRef) -> Option<Value> {
        if field.field == "id" {
            return Some(self.customer.id.into());
        }
        let value = self.customer.record.get(&field.field)?;
        if field.path.is_empty() {
            return (!value.is_null()).then(|| value.clone());
        }
        let below = field
            .path
            .iter()
            .try_fold(value.as_json()?, |json, key| json.as_object()?.get(key))?;
        use serde_json::Value as Json;
        Some(match below {
            Json::Null => return None,
            Json::Bool(value) => (*value).into(),
            Json::String(text) => text.as_str().into(),
            Json::Number(number) => match (number.as_i64(), number.as_f64()) {
                (Some(int), _) => int.into(),
                (None, Some(float)) => float.into(),
                (None, None) => return None,
            },
            other => other.clone().into(),
        })
    }

    /// Both answers are the store's, so that they cannot differ from what finds the members.
    async fn related(&self, related: &Related) -> Result<(bool, Option<Value>)> {
        let filter = Filter::Related(related.clone()).at(self.now);
        let Filter::Related(related) = &filter else {
            return Err(Error::unexpected("a condition on related records that is none"));
        };
        let this = Filter::eq("id", self.customer.id).and(filter.clone());
        let holds = self.store().count(self.ctx, &CUSTOMER, &this).await? > 0;
        let own = Filter::eq(related.relation.key(), self.customer.id).and((*related.filter).clone());
        let aggregate = Aggregate::new(own).measure("seen", related.measure.clone());
        let table = self
            .store()
            .aggregate(self.ctx, related.relation.schema(), &aggregate)
            .await?;
        let seen = if table.rows() > 0 {
            Some(table.column("seen")?.value(0)).filter(|value| !value.is_null())
        } else {
            None
        };
        Ok((holds, seen))
    }
}
