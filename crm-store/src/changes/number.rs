//! Gives the units of work their numbers.
//!
//! A writer adds its unit of work with number 0. A reader takes those that are there, and in one unit of work gives them
//! the next numbers and moves the head on, at the version it read: of two readers that number at once one fails and looks
//! again. So numbers have no gaps, and whoever sees one sees all smaller ones: a unit of work gets its number only after
//! it was committed, behind everything that has one.
//!
//! Units of work that were numbered together are ordered by the writers' clocks, except where versions tell better:
//! version 3 of a customer comes after version 2, whatever the clocks of the two writers said. So that the
//! one with version 2 is there when the one with version 3 is, what is taken is looked up a second time: what was
//! committed before one of them is there now.

use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet};

use crm_core::capability::RecordStore;
use crm_core::query::{Filter, Query};
use crm_core::record::{Record, Version, Write};
use crm_core::segment::SegmentId;
use crm_core::{Context, ErrorKind, IdSource, Result, Timestamp, Uuid};

use super::item::Unit;
use super::{CHANGE, CHANGE_HEAD, Entity};

/// Units of work numbered in one go.
const ROUND: u32 = 256;

/// The head's id in every tenant.
const HEAD: Uuid = Uuid::from_u128(0x6f70_656e_2d63_726d_6865_6164_0000_0001);

/// Where a tenant's feed stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    pub(super) version: Version,
    pub(super) feed: Uuid,
    pub(super) last: i64,
    pub(super) pruned: i64,
}

impl Head {
    /// The head, made when it is not there yet.
    pub(super) async fn read(store: &dyn RecordStore, ctx: &Context, ids: &dyn IdSource) -> Result<Self> {
        loop {
            if let Some(stored) = store.get(ctx, &CHANGE_HEAD, &[HEAD]).await?.pop().flatten() {
                return Ok(Self {
                    version: stored.version,
                    feed: stored.record.uuid("feed")?,
                    last: stored.record.int("last")?,
                    pruned: stored.record.int("pruned")?,
                });
            }
            let new = Self {
                version: 0,
                feed: ids.fresh(),
                last: 0,
                pruned: 0,
            };
            store
                .apply(ctx, &[Write::insert_or_skip(HEAD, new.record()?)])
                .await?;
        }
    }

    fn record(&self) -> Result<Record> {
        Record::from_values(
            &CHANGE_HEAD,
            vec![self.feed.into(), self.last.into(), self.pruned.into()],
        )
    }

    /// The write that makes it `self`, if nobody else moved it.
    pub(super) fn write(&self) -> Result<Write> {
        Ok(Write::update(HEAD, self.version, self.record()?))
    }
}

/// Numbers some units of work; false when there was nothing to number.
pub(super) async fn round(store: &dyn RecordStore, ctx: &Context, ids: &dyn IdSource) -> Result<bool> {
    loop {
        let head = Head::read(store, ctx, ids).await?;
        let first = pending(store, ctx, ROUND).await?;
        if first.is_empty() {
            return Ok(false);
        }
        let first: HashSet<Uuid> = first.into_iter().map(|unit| unit.stored.id).collect();
        let units = ordered(chosen(&first, pending(store, ctx, 2 * ROUND).await?));
        if units.is_empty() {
            // Somebody else numbered them meanwhile.
            return Ok(true);
        }
        let last = head
            .last
            .saturating_add(i64::try_from(units.len()).unwrap_or(i64::MAX));
        let mut writes = vec![Head { last, ..head }.write()?];
        for (unit, seq) in units.into_iter().zip(head.last.saturating_add(1)..) {
            let mut record = unit.stored.record;
            record.set("seq", seq)?;
            writes.push(Write::update(unit.stored.id, unit.stored.version, record));
        }
        match store.apply(ctx, &writes).await {
            Ok(_) => return Ok(true),
            // Somebody else was faster. Each time, some have their number.
            Err(error) if error.kind() == ErrorKind::Conflict => tokio::task::yield_now().await,
            Err(error) => return Err(error),
        }
    }
}

async fn pending(store: &dyn RecordStore, ctx: &Context, limit: u32) -> Result<Vec<Unit>> {
    let query = Query::new(Filter::eq("seq", 0_i64)).ascending("at").limit(limit);
    let page = store.find(ctx, &CHANGE, &query).await?;
    page.items.into_iter().map(Unit::read).collect()
}

type Line<'a> = (&'a Entity, Option<SegmentId>);

/// Of `units`, those in `first` and those that come before one of them in the life of an entity.
fn chosen(first: &HashSet<Uuid>, units: Vec<Unit>) -> Vec<Unit> {
    let mut taken: HashSet<Uuid> = HashSet::new();
    {
        let mut wanted: HashSet<(Line<'_>, Version)> = HashSet::new();
        let mut more = true;
        while more {
            more = false;
            for unit in &units {
                let lines = || unit.items.iter().filter_map(|item| item.line());
                let is_wanted = first.contains(&unit.stored.id)
                    || lines()
                        .any(|(entity, segment, version)| wanted.contains(&((entity, segment), version)));
                if is_wanted && taken.insert(unit.stored.id) {
                    more = true;
                    wanted
                        .extend(lines().map(|(entity, segment, version)| {
                            ((entity, segment), version.saturating_sub(1))
                        }));
                }
            }
        }
    }
    units
        .into_iter()
        .filter(|unit| taken.contains(&unit.stored.id))
        .collect()
}

/// By the writers' clocks, but each version behind the one before it.
fn ordered(units: Vec<Unit>) -> Vec<Unit> {
    let key = |unit: &Unit| (unit.at, unit.stored.id);
    let mut followers: HashMap<(Timestamp, Uuid), Vec<(Timestamp, Uuid)>> = HashMap::new();
    let mut waiting: HashMap<(Timestamp, Uuid), usize> = HashMap::new();
    {
        let mut at: HashMap<(Line<'_>, Version), (Timestamp, Uuid)> = HashMap::new();
        for unit in &units {
            for (entity, segment, version) in unit.items.iter().filter_map(|item| item.line()) {
                at.insert(((entity, segment), version), key(unit));
            }
        }
        for ((line, version), this) in &at {
            if let Some(before) = at.get(&(*line, version.saturating_sub(1)))
                && before != this
            {
                followers.entry(*before).or_default().push(*this);
                *waiting.entry(*this).or_default() += 1;
            }
        }
    }
    let mut rest: BTreeMap<(Timestamp, Uuid), Unit> =
        units.into_iter().map(|unit| (key(&unit), unit)).collect();
    let mut ready: BinaryHeap<std::cmp::Reverse<(Timestamp, Uuid)>> = rest
        .keys()
        .filter(|key| !waiting.contains_key(key))
        .map(|key| std::cmp::Reverse(*key))
        .collect();
    let mut ordered = Vec::with_capacity(rest.len());
    while let Some(std::cmp::Reverse(next)) = ready.pop() {
        ordered.extend(rest.remove(&next));
        for follower in followers.remove(&next).unwrap_or_default() {
            if let Some(count) = waiting.get_mut(&follower) {
                *count -= 1;
                if *count == 0 {
                    ready.push(std::cmp::Reverse(follower));
                }
            }
        }
    }
    // Ids that lived twice can go round in a circle; then the clocks decide.
    ordered.extend(rest.into_values());
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::changes::item::Item;
    use crate::changes::{Op, item};
    use crm_core::record::Stored;
    use crm_core::testkit::fixtures;

    /// A unit of work at `at` that made these versions of these customers.
    fn unit(id: u128, at: i64, versions: &[(u128, Version)]) -> Unit {
        let items: Vec<Item> = versions
            .iter()
            .map(|(customer, version)| Item {
                entity: Entity::Customer(Uuid::from_u128(*customer).into()),
                op: if *version == 1 { Op::Created } else { Op::Updated },
                version: Some(*version),
            })
            .collect();
        let at = Timestamp::from_micros(at);
        let record = item::record(&fixtures::context(), at, &items).unwrap();
        Unit::read(Stored {
            id: Uuid::from_u128(id),
            version: 1,
            record,
        })
        .unwrap()
    }

    fn ids(units: &[Unit]) -> Vec<u128> {
        units.iter().map(|unit| unit.stored.id.as_u128()).collect()
    }

    #[test]
    fn versions_count_more_than_clocks() {
        // The writer of 30 has a clock that is ahead.
        let units = vec![
            unit(10, 100, &[(1, 3)]),
            unit(20, 50, &[(2, 1)]),
            unit(30, 999, &[(1, 2), (3, 1)]),
            unit(40, 60, &[(1, 4), (2, 2)]),
        ];
        assert_eq!(ids(&ordered(units)), [20, 30, 10, 40]);
    }

    #[test]
    fn what_comes_before_is_taken_too() {
        let first = HashSet::from([Uuid::from_u128(40)]);
        let units = vec![
            unit(10, 100, &[(1, 3)]),
            unit(20, 50, &[(2, 1)]),
            unit(30, 999, &[(1, 2), (3, 1)]),
            unit(40, 60, &[(1, 4)]),
            unit(50, 1, &[(3, 2)]),
        ];
        assert_eq!(ids(&chosen(&first, units)), [10, 30, 40]);
    }

    #[test]
    fn a_circle_is_no_trap() {
        let units = vec![unit(10, 1, &[(1, 2), (2, 1)]), unit(20, 2, &[(1, 1), (2, 2)])];
        assert_eq!(ids(&ordered(units)), [10, 20]);
    }
}
