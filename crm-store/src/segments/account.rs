//! The account a segment keeps of its members: who is one, who came and went.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use crm_core::capability::RecordStore;
use crm_core::query::{Aggregate, Filter, Measure};
use crm_core::record::{Record, Stored, Value, Version, Write};
use crm_core::segment::{SEGMENT_MEMBER, SEGMENT_STATE, SegmentId};
use crm_core::{Context, CustomerId, Error, ErrorKind, IdSource, Result, Timestamp, Uuid};

use super::{SEGMENT_EVENT, all};
use crate::changes::{FeedCursor, acting};

/// What [`SEGMENT_STATE`] says about a segment. Every write of its account also writes this, at the version that was read:
/// so accounts are kept by one at a time, and the version numbers the rounds.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct State {
    /// 0 when there is none yet.
    pub(super) version: Version,
    pub(super) stored: bool,
    pub(super) ready: bool,
    pub(super) meaning: Option<String>,
    pub(super) cursor: Option<FeedCursor>,
    pub(super) every: Duration,
    pub(super) refreshed_at: Option<Timestamp>,
    pub(super) due_at: Option<Timestamp>,
}

impl State {
    pub(super) async fn read(store: &dyn RecordStore, ctx: &Context, id: Uuid) -> Result<Self> {
        match store.get(ctx, &SEGMENT_STATE, &[id]).await?.pop().flatten() {
            Some(stored) => Self::from_stored(&stored),
            None => Ok(Self::default()),
        }
    }

    fn from_stored(stored: &Stored) -> Result<Self> {
        let r = &stored.record;
        let text = |field| r.get(field).and_then(Value::as_str);
        let time = |field| r.get(field).and_then(Value::as_timestamp);
        Ok(Self {
            version: stored.version,
            stored: r.bool("stored")?,
            ready: r.bool("ready")?,
            meaning: text("meaning").map(str::to_owned),
            cursor: text("cursor")
                .map(str::parse)
                .transpose()
                .map_err(|_| r.damaged("cursor"))?,
            every: Duration::from_secs(u64::try_from(r.int("every_seconds")?).unwrap_or(0)),
            refreshed_at: time("refreshed_at"),
            due_at: time("due_at"),
        })
    }

    pub(super) fn write(&self, id: Uuid) -> Result<Write> {
        let record = Record::from_values(
            &SEGMENT_STATE,
            vec![
                self.stored.into(),
                self.ready.into(),
                self.meaning.clone().into(),
                self.cursor.as_ref().map(ToString::to_string).into(),
                i64::try_from(self.every.as_secs()).unwrap_or(i64::MAX).into(),
                self.refreshed_at.into(),
                self.due_at.into(),
            ],
        )?;
        Ok(match self.version {
            0 => Write::insert(id, record),
            version => Write::update(id, version, record),
        })
    }

    pub(super) fn delete(&self, id: Uuid) -> Option<Write> {
        (self.version > 0).then(|| Write::delete(&SEGMENT_STATE, id, Some(self.version)))
    }

    /// The round that [`State::write`] makes.
    pub(super) fn round(&self) -> i64 {
        self.version.saturating_add(1)
    }
}

/// Whether somebody else kept the account, or moved a membership, at the same time: worth looking again.
pub(super) fn is_race(error: &Error) -> bool {
    let ours = [SEGMENT_STATE.name, SEGMENT_MEMBER.name, SEGMENT_EVENT.name];
    error.kind() == ErrorKind::Conflict
        && error
            .context("schema")
            .is_some_and(|schema| ours.contains(&schema))
}

/// Why a membership changed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Cause {
    Hand,
    Rule,
    Repair,
}

impl Cause {
    fn as_str(self) -> &'static str {
        match self {
            Self::Hand => "hand",
            Self::Rule => "rule",
            Self::Repair => "repair",
        }
    }
}

/// The writes that bring an account to what it should be.
#[derive(Debug, Default)]
pub(super) struct Entries {
    pub(super) writes: Vec<Write>,
    pub(super) entered: u64,
    pub(super) left: u64,
}

/// One round of a segment's account.
pub(super) struct Round<'a> {
    pub(super) segment: SegmentId,
    pub(super) number: i64,
    pub(super) cause: Cause,
    pub(super) at: Timestamp,
    pub(super) ids: &'a dyn IdSource,
}

impl Round<'_> {
    /// What has to be written so that of `customers` just those in `members` are members, and the events say so. Memberships
    /// and events are looked at each for itself: a merge or a deletion may have moved one without the other.
    pub(super) async fn entries(
        &self,
        store: &dyn RecordStore,
        ctx: &Context,
        customers: &BTreeSet<Uuid>,
        members: &HashSet<Uuid>,
    ) -> Result<Entries> {
        let mut entries = Entries::default();
        let customers: Vec<Uuid> = customers.iter().copied().collect();
        let actor = acting(ctx);
        for some in customers.chunks(super::BATCH) {
            let filter = Filter::eq("segment_id", self.segment)
                .and(Filter::one_of("customer_id", some.iter().copied()));
            let mut rows: HashMap<Uuid, Stored> = HashMap::new();
            for row in all(store, ctx, &SEGMENT_MEMBER, filter.clone()).await? {
                rows.insert(row.record.uuid("customer_id")?, row);
            }
            let inside = inside(store, ctx, filter).await?;
            for customer in some {
                let member = members.contains(customer);
                match (member, rows.get(customer)) {
                    (true, None) => {
                        let values = vec![self.segment.into(), (*customer).into(), self.at.into()];
                        let record = Record::from_values(&SEGMENT_MEMBER, values)?;
                        entries.writes.push(Write::insert(self.ids.fresh(), record));
                    }
                    (false, Some(row)) => {
                        let gone = Write::delete(&SEGMENT_MEMBER, row.id, Some(row.version));
                        entries.writes.push(gone);
                    }
                    _ => {}
                }
                if member != inside.contains(customer) {
                    let delta = if member { 1_i64 } else { -1 };
                    let values = vec![
                        self.segment.into(),
                        (*customer).into(),
                        delta.into(),
                        self.number.into(),
                        self.cause.as_str().into(),
                        actor.as_str().into(),
                        self.at.into(),
                    ];
                    let record = Record::from_values(&SEGMENT_EVENT, values)?;
                    entries.writes.push(Write::insert(self.ids.fresh(), record));
                    if member {
                        entries.entered += 1;
                    } else {
                        entries.left += 1;
                    }
                }
            }
        }
        Ok(entries)
    }
}

/// Of the events that match, the customers who entered and did not leave.
pub(super) async fn inside(store: &dyn RecordStore, ctx: &Context, filter: Filter) -> Result<HashSet<Uuid>> {
    let sums = Aggregate::new(filter)
        .by("customer_id")
        .measure("inside", Measure::Sum("delta".to_owned()));
    let table = store.aggregate(ctx, &SEGMENT_EVENT, &sums).await?;
    let (customer, sum) = (table.column("customer_id")?, table.column("inside")?);
    Ok((0..table.rows())
        .filter(|row| sum.value(*row).as_int().is_some_and(|sum| sum > 0))
        .filter_map(|row| customer.uuid_at(row))
        .collect())
}

/// A customer became, or ceased to be, a member.
#[derive(Debug, Clone, PartialEq)]
pub struct SegmentEvent {
    /// Of which segment.
    pub segment: SegmentId,
    /// Who.
    pub customer: CustomerId,
    /// True when the customer became a member.
    pub entered: bool,
    /// The round of the segment's account; later rounds are larger.
    pub round: i64,
    /// `rule`, `hand` or `repair`.
    pub cause: String,
    /// Who did it: `user:..` or `system:..`.
    pub actor: String,
    /// When.
    pub at: Timestamp,
}

impl SegmentEvent {
    pub(super) fn from_stored(stored: &Stored) -> Result<Self> {
        let r = &stored.record;
        Ok(Self {
            segment: r.uuid("segment_id")?.into(),
            customer: r.uuid("customer_id")?.into(),
            entered: r.int("delta")? > 0,
            round: r.int("round")?,
            cause: r.text("cause")?.to_owned(),
            actor: r.text("actor")?.to_owned(),
            at: r.timestamp("at")?,
        })
    }
}
