//! Which changes a unit of work makes, told from its writes.

use std::collections::{HashMap, HashSet};

use crm_core::activity::{INTERACTION, ORDER};
use crm_core::capability::RecordStore;
use crm_core::consent::CONSENT_EVENT;
use crm_core::customer::{CONTACT_POINT, CUSTOMER, EXTERNAL_REF};
use crm_core::record::{Record, Schema, Value, Version, Write};
use crm_core::segment::{SEGMENT, SEGMENT_MEMBER, SEGMENT_OVERRIDE};
use crm_core::{Context, Error, Result, Uuid};

use super::item::Item;
use super::{Entity, Op};
use crate::customers::{AFFILIATION, ORGANISATION};
use crate::segments::SEGMENT_EVENT;

/// Records looked up in one question.
const IDS: usize = 500;

/// What a write on a watched schema says.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Customer,
    Segment,
    Other,
    /// Belongs to the customer in `owner`.
    Contact,
    Order,
    Interaction,
    Consent,
    Member,
    Event,
    Related,
}

/// A watched schema.
#[derive(Debug, Clone, Copy)]
struct Watched {
    schema: &'static Schema,
    kind: Kind,
    /// The field with the customer's id.
    owner: Option<&'static str>,
}

/// All watched schemas.
#[derive(Debug, Clone)]
pub(super) struct Watch(HashMap<&'static str, Watched>);

impl Default for Watch {
    fn default() -> Self {
        let mut watch = Self(HashMap::new());
        for (schema, kind) in [(&CUSTOMER, Kind::Customer), (&SEGMENT, Kind::Segment)] {
            watch.insert(schema, kind, None);
        }
        for (schema, kind) in [
            (&CONTACT_POINT, Kind::Contact),
            (&EXTERNAL_REF, Kind::Contact),
            (&ORDER, Kind::Order),
            (&INTERACTION, Kind::Interaction),
            (&CONSENT_EVENT, Kind::Consent),
            (&SEGMENT_MEMBER, Kind::Member),
            (&SEGMENT_OVERRIDE, Kind::Member),
            (&SEGMENT_EVENT, Kind::Event),
        ] {
            watch.insert(schema, kind, Some("customer_id"));
        }
        watch.also(&ORGANISATION, None);
        watch.also(&AFFILIATION, Some("customer_id"));
        watch
    }
}

impl Watch {
    fn insert(&mut self, schema: &'static Schema, kind: Kind, owner: Option<&'static str>) {
        self.0.insert(schema.name, Watched { schema, kind, owner });
    }

    /// Watches one more schema; with `owner`, its records belong to the customer named there.
    pub(super) fn also(&mut self, schema: &'static Schema, owner: Option<&'static str>) {
        let kind = if owner.is_some() {
            Kind::Related
        } else {
            Kind::Other
        };
        self.insert(schema, kind, owner);
    }

    pub(super) fn has(&self, schema: &Schema) -> bool {
        self.0.contains_key(schema.name)
    }

    /// The changes of these writes, each once.
    pub(super) async fn changes(
        &self,
        store: &dyn RecordStore,
        ctx: &Context,
        writes: &[Write],
    ) -> Result<Vec<Item>> {
        let removed = self.removed(store, ctx, writes).await?;
        let mut unit = UnitOfWork::default();
        for write in writes {
            let Some(watched) = self.0.get(write.schema().name) else {
                continue;
            };
            let record = match write {
                Write::Insert { record, .. } | Write::Update { record, .. } | Write::Put { record, .. } => {
                    Some(record)
                }
                Write::Delete { .. } => removed.get(&(watched.schema.name, write.id())),
            };
            unit.take(watched, write, record)?;
        }
        Ok(unit.finish())
    }

    /// The records that the writes remove and that say whose they are: a removal itself only names the record.
    async fn removed(
        &self,
        store: &dyn RecordStore,
        ctx: &Context,
        writes: &[Write],
    ) -> Result<HashMap<(&'static str, Uuid), Record>> {
        let mut asked: HashMap<&'static str, (&'static Schema, Vec<Uuid>)> = HashMap::new();
        for write in writes {
            let Write::Delete { schema, id, .. } = write else {
                continue;
            };
            if self
                .0
                .get(schema.name)
                .is_some_and(|watched| watched.owner.is_some())
            {
                asked
                    .entry(schema.name)
                    .or_insert((schema, Vec::new()))
                    .1
                    .push(*id);
            }
        }
        let mut removed = HashMap::new();
        for (schema, ids) in asked.into_values() {
            for ids in ids.chunks(IDS) {
                for stored in store.get(ctx, schema, ids).await?.into_iter().flatten() {
                    removed.insert((schema.name, stored.id), stored.record);
                }
            }
        }
        Ok(removed)
    }
}

/// The changes found so far.
#[derive(Default)]
struct UnitOfWork {
    items: Vec<Item>,
    /// Where the creation, update or removal of an entity stands.
    lives: HashMap<Entity, usize>,
    seen: HashSet<(Entity, Op)>,
}

impl UnitOfWork {
    fn take(&mut self, watched: &Watched, write: &Write, record: Option<&Record>) -> Result<()> {
        let id = write.id();
        match watched.kind {
            Kind::Customer => self.life(Entity::Customer(id.into()), write),
            Kind::Segment => self.life(Entity::Segment(id.into()), write),
            Kind::Other => {
                let schema = watched.schema.name.to_owned();
                self.life(Entity::Record { schema, id }, write);
            }
            kind => {
                // What is gone already makes the unit of work fail; nothing to say.
                let (Some(record), Some(owner)) = (record, watched.owner) else {
                    return Ok(());
                };
                let Some(owner) = record.get(owner).and_then(Value::as_uuid) else {
                    return Ok(());
                };
                let op = match kind {
                    Kind::Contact => Op::Contacts,
                    Kind::Order => Op::Orders,
                    Kind::Interaction => Op::Interactions,
                    Kind::Consent => Op::Consents,
                    Kind::Member => Op::Membership(segment(record)?),
                    // Only what happens is an event: one that is removed or moved says that something may have.
                    Kind::Event if !matches!(write, Write::Insert { .. }) => Op::Membership(segment(record)?),
                    Kind::Event if record.int("delta")? > 0 => Op::Entered(segment(record)?),
                    Kind::Event => Op::Left(segment(record)?),
                    _ => Op::Related {
                        schema: watched.schema.name.to_owned(),
                    },
                };
                let round = matches!(op, Op::Entered(_) | Op::Left(_)).then(|| record.int("round"));
                self.add(Entity::Customer(owner.into()), op, round.transpose()?);
            }
        }
        Ok(())
    }

    fn add(&mut self, entity: Entity, op: Op, version: Option<Version>) {
        if self.seen.insert((entity.clone(), op.clone())) {
            self.items.push(Item { entity, op, version });
        }
    }

    /// A record that is itself what changed: several writes on it are one change.
    fn life(&mut self, entity: Entity, write: &Write) {
        let (op, version) = match write {
            Write::Insert { .. } => (Op::Created, Some(1)),
            Write::Update { expected, .. } => (Op::Updated, Some(expected.saturating_add(1))),
            Write::Put { .. } => (Op::Updated, None),
            Write::Delete { expected, .. } => (Op::Deleted, expected.map(|v| v.saturating_add(1))),
        };
        let known = self.lives.get(&entity).and_then(|at| self.items.get_mut(*at));
        match known {
            Some(known) => {
                known.op = match (&known.op, op) {
                    (Op::Created, Op::Updated) => Op::Created,
                    (Op::Deleted, Op::Created) => Op::Updated,
                    (_, op) => op,
                };
                known.version = version;
            }
            None => {
                self.lives.insert(entity.clone(), self.items.len());
                self.items.push(Item { entity, op, version });
            }
        }
    }

    fn finish(self) -> Vec<Item> {
        let Self { items, lives, seen } = self;
        let born: HashSet<Entity> = lives
            .into_iter()
            .filter(|(_, at)| items.get(*at).is_some_and(|item| item.op == Op::Created))
            .map(|(entity, _)| entity)
            .collect();
        let mut items = items;
        items.retain(|item| match &item.op {
            // A customer is made with its contact points.
            Op::Contacts => !born.contains(&item.entity),
            // An event of the same unit of work says it better.
            Op::Membership(segment) => ![Op::Entered(*segment), Op::Left(*segment)]
                .into_iter()
                .any(|op| seen.contains(&(item.entity.clone(), op))),
            _ => true,
        });
        items
    }
}

fn segment(record: &Record) -> Result<crm_core::segment::SegmentId> {
    record
        .get("segment_id")
        .and_then(Value::as_uuid)
        .map(Into::into)
        .ok_or_else(|| Error::invalid("a required field is absent").with("field", "segment_id"))
}
