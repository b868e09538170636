//! One change as it is stored: `[entity, id, op]`, then the segment or schema it is about, then the version, as far as it
//! has them.

use crm_core::record::{Record, Stored, Value, Version};
use crm_core::segment::SegmentId;
use crm_core::{Actor, Context, Error, ErrorKind, Result, Timestamp, Uuid};
use serde_json::{Value as Json, json};

use super::{CHANGE, Change, Entity, Op};

/// A change before it knows its unit of work.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Item {
    pub(super) entity: Entity,
    pub(super) op: Op,
    pub(super) version: Option<Version>,
}

impl Item {
    fn to_json(&self) -> Json {
        let (kind, id) = match &self.entity {
            Entity::Customer(id) => ("c".to_owned(), id.uuid()),
            Entity::Segment(id) => ("s".to_owned(), id.uuid()),
            Entity::Record { schema, id } => (format!("r:{schema}"), *id),
        };
        let id = id.simple().to_string();
        let (op, also) = match &self.op {
            Op::Created => ("n", None),
            Op::Updated => ("u", None),
            Op::Deleted => ("d", None),
            Op::Contacts => ("p", None),
            Op::Orders => ("o", None),
            Op::Interactions => ("i", None),
            Op::Consents => ("y", None),
            Op::Membership(segment) => ("m", Some(segment.uuid().simple().to_string())),
            Op::Entered(segment) => ("e", Some(segment.uuid().simple().to_string())),
            Op::Left(segment) => ("l", Some(segment.uuid().simple().to_string())),
            Op::Related { schema } => ("x", Some(schema.clone())),
        };
        match (also, self.version) {
            (Some(also), Some(version)) => json!([kind, id, op, also, version]),
            (Some(also), None) => json!([kind, id, op, also]),
            (None, Some(version)) => json!([kind, id, op, version]),
            (None, None) => json!([kind, id, op]),
        }
    }

    /// What must be told in the order of [`Item::version`]: an entity's life, and its way in and out of a segment.
    pub(super) fn line(&self) -> Option<(&Entity, Option<SegmentId>, Version)> {
        let segment = match &self.op {
            Op::Entered(segment) | Op::Left(segment) => Some(*segment),
            _ => None,
        };
        Some((&self.entity, segment, self.version?))
    }

    fn from_json(json: &Json) -> Option<Self> {
        let parts = json.as_array()?;
        let text = |at: usize| parts.get(at)?.as_str();
        let segment = || Some(Uuid::parse_str(text(3)?).ok()?.into());
        let id = Uuid::parse_str(text(1)?).ok()?;
        Some(Self {
            entity: match text(0)? {
                "c" => Entity::Customer(id.into()),
                "s" => Entity::Segment(id.into()),
                other => Entity::Record {
                    schema: other.strip_prefix("r:")?.to_owned(),
                    id,
                },
            },
            op: match text(2)? {
                "n" => Op::Created,
                "u" => Op::Updated,
                "d" => Op::Deleted,
                "p" => Op::Contacts,
                "o" => Op::Orders,
                "i" => Op::Interactions,
                "y" => Op::Consents,
                "m" => Op::Membership(segment()?),
                "e" => Op::Entered(segment()?),
                "l" => Op::Left(segment()?),
                "x" => Op::Related {
                    schema: text(3)?.to_owned(),
                },
                _ => return None,
            },
            version: parts.last().and_then(Json::as_i64),
        })
    }
}

/// Who acts, as it is stored: `user:..` or `system:..`.
pub(crate) fn acting(ctx: &Context) -> String {
    match ctx.acting() {
        Actor::System(name) => format!("system:{name}"),
        Actor::User(id) => format!("user:{id}"),
    }
}

/// The record of a unit of work that nobody has numbered yet.
pub(super) fn record(ctx: &Context, at: Timestamp, items: &[Item]) -> Result<Record> {
    Record::from_values(
        &CHANGE,
        vec![
            0_i64.into(),
            at.into(),
            acting(ctx).into(),
            ctx.request().into(),
            Value::Json(items.iter().map(Item::to_json).collect()),
        ],
    )
}

/// A stored unit of work.
pub(super) struct Unit {
    pub(super) stored: Stored,
    pub(super) seq: i64,
    pub(super) at: Timestamp,
    pub(super) items: Vec<Item>,
}

impl Unit {
    pub(super) fn read(stored: Stored) -> Result<Self> {
        let r = &stored.record;
        let items = r
            .get("items")
            .and_then(Value::as_json)
            .and_then(Json::as_array)
            .ok_or_else(|| r.damaged("items"))?;
        let items = items
            .iter()
            .map(|json| {
                Item::from_json(json).ok_or_else(|| {
                    Error::new(
                        ErrorKind::Corrupt,
                        "a change is damaged or was written by a newer version",
                    )
                    .with("schema", CHANGE.name)
                })
            })
            .collect::<Result<Vec<Item>>>()?;
        Ok(Self {
            seq: r.int("seq")?,
            at: r.timestamp("at")?,
            items,
            stored,
        })
    }

    /// Its changes from the `skip`ped on, as a reader sees them.
    pub(super) fn changes(self, skip: usize, into: &mut Vec<Change>, limit: usize) -> Result<usize> {
        let r = &self.stored.record;
        let actor = r.text("actor")?;
        let actor = match actor.split_once(':') {
            Some(("user", id)) => Actor::user(id),
            Some(("system", name)) => Actor::system(name),
            _ => return Err(r.damaged("actor")),
        };
        let request = r.get("request").and_then(Value::as_uuid);
        let room = limit.saturating_sub(into.len());
        let before = into.len();
        into.extend(self.items.into_iter().skip(skip).take(room).map(|item| Change {
            seq: self.seq,
            entity: item.entity,
            op: item.op,
            version: item.version,
            at: self.at,
            actor: actor.clone(),
            request,
        }));
        Ok(into.len() - before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_comes_back() {
        let (a, b) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let whose = [
            Entity::Customer(a.into()),
            Entity::Segment(a.into()),
            Entity::Record {
                schema: "crm_organisation".into(),
                id: a,
            },
        ];
        let ops = [
            Op::Created,
            Op::Updated,
            Op::Deleted,
            Op::Contacts,
            Op::Orders,
            Op::Interactions,
            Op::Consents,
            Op::Membership(b.into()),
            Op::Entered(b.into()),
            Op::Left(b.into()),
            Op::Related {
                schema: "host_note".into(),
            },
        ];
        for entity in whose {
            for op in &ops {
                let version = matches!(op, Op::Created | Op::Updated | Op::Left(_)).then_some(7);
                let item = Item {
                    entity: entity.clone(),
                    op: op.clone(),
                    version,
                };
                assert_eq!(Item::from_json(&item.to_json()), Some(item));
            }
        }
        for damaged in [
            json!(1),
            json!(["c"]),
            json!(["c", "no", "n"]),
            json!(["c", a, "?"]),
        ] {
            assert_eq!(Item::from_json(&damaged), None);
        }
    }
}
