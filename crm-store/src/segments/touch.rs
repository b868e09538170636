//! Which changes can make a customer a member, or no member any more.

use std::collections::{BTreeSet, HashSet};

use crm_core::Uuid;
use crm_core::activity::{INTERACTION, ORDER};
use crm_core::consent::CONSENT_EVENT;
use crm_core::customer::{CONTACT_POINT, EXTERNAL_REF};
use crm_core::query::{Compare, Filter};
use crm_core::record::Value;
use crm_core::segment::{SEGMENT_MEMBER, SEGMENT_OVERRIDE, SegmentId};

use super::SEGMENT_EVENT;
use crate::changes::{Change, Entity, Op};

/// What a resolved rule looks at besides the customer's profile.
#[derive(Debug, Default)]
pub(super) struct Touch {
    related: HashSet<&'static str>,
    /// The segments whose memberships it asks about; `None` for any.
    segments: Option<BTreeSet<Uuid>>,
    own: Uuid,
}

impl Touch {
    pub(super) fn of(segment: SegmentId, rule: &Filter) -> Self {
        let mut touch = Self {
            segments: Some(BTreeSet::new()),
            own: segment.uuid(),
            ..Self::default()
        };
        touch.look(rule);
        touch
    }

    fn look(&mut self, filter: &Filter) {
        match filter {
            Filter::And(all) | Filter::Or(all) => all.iter().for_each(|filter| self.look(filter)),
            Filter::Not(filter) => self.look(filter),
            Filter::Related(related) => {
                let schema = related.relation.schema().name;
                self.related.insert(schema);
                if [SEGMENT_MEMBER.name, SEGMENT_OVERRIDE.name, SEGMENT_EVENT.name].contains(&schema) {
                    match (one_segment(&related.filter), &mut self.segments) {
                        (Some(segment), Some(known)) => {
                            known.insert(segment);
                        }
                        _ => self.segments = None,
                    }
                }
            }
            _ => {}
        }
    }

    /// The customer whose membership the change can touch.
    pub(super) fn customer(&self, change: &Change) -> Option<Uuid> {
        let Entity::Customer(customer) = &change.entity else {
            return None;
        };
        let looks_at = |schema: &str| self.related.contains(schema);
        let asks_about = |segment: &SegmentId| match &self.segments {
            Some(known) => known.contains(&segment.uuid()),
            None => true,
        };
        let touched = match &change.op {
            Op::Created | Op::Updated | Op::Deleted => true,
            Op::Contacts => looks_at(CONTACT_POINT.name) || looks_at(EXTERNAL_REF.name),
            Op::Orders => looks_at(ORDER.name),
            Op::Interactions => looks_at(INTERACTION.name),
            Op::Consents => looks_at(CONSENT_EVENT.name),
            Op::Related { schema } => looks_at(schema),
            // By hand, or moved by a merge; what this segment's own account says about itself is no news to it.
            Op::Membership(segment) => segment.uuid() == self.own || asks_about(segment),
            Op::Entered(segment) | Op::Left(segment) => segment.uuid() != self.own && asks_about(segment),
        };
        touched.then(|| customer.uuid())
    }
}

/// The one segment that a condition on memberships is about.
fn one_segment(filter: &Filter) -> Option<Uuid> {
    match filter {
        Filter::Is {
            field,
            op: Compare::Eq,
            value: Value::Uuid(segment),
        } if field.field == "segment_id" => Some(*segment),
        Filter::And(all) => all.iter().find_map(one_segment),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crm_core::query::Relation;
    use crm_core::{Actor, Timestamp};

    #[test]
    fn only_what_the_rule_looks_at_touches() {
        let (own, other, third) = (Uuid::from_u128(1), Uuid::from_u128(2), Uuid::from_u128(3));
        let customer = Uuid::from_u128(9);
        let touches = |rule: &Filter, op: Op| {
            let change = Change {
                seq: 1,
                entity: Entity::Customer(customer.into()),
                op,
                version: None,
                at: Timestamp::EPOCH,
                actor: Actor::system("test"),
                request: None,
            };
            Touch::of(own.into(), rule).customer(&change) == Some(customer)
        };
        let orders = Filter::at_least(2, Relation::ORDERS, Filter::All);
        assert!(touches(&orders, Op::Orders) && touches(&orders, Op::Updated));
        assert!(!touches(&orders, Op::Interactions) && !touches(&orders, Op::Entered(other.into())));
        let nested = Filter::at_least(1, Relation::MEMBERSHIPS, Filter::eq("segment_id", other));
        assert!(
            touches(&nested, Op::Entered(other.into())) && touches(&nested, Op::Membership(other.into()))
        );
        assert!(!touches(&nested, Op::Left(third.into())) && !touches(&nested, Op::Orders));
        assert!(touches(&nested, Op::Membership(own.into())) && !touches(&nested, Op::Entered(own.into())));
        let any = Filter::at_least(3, Relation::MEMBERSHIPS, Filter::All);
        assert!(touches(&any, Op::Left(third.into())));
    }
}
