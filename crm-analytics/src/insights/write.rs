//! Segments into the store: members first, then everything changes at once.

use std::collections::HashSet;

use crm_core::capability::RecordStore;
use crm_core::query::{Aggregate, Filter, Measure, Query};
use crm_core::record::{Entity, Record, Write};
use crm_core::segment::{SEGMENT, SEGMENT_MEMBER, Segment, SegmentKind};
use crm_core::{Clock, Context, CustomerId, Error, Result, Timestamp, Uuid};
use serde::{Deserialize, Serialize};

use super::compute::derived;
use super::{Progress, Segmentation, Stage};

/// Members in one unit of work.
const BATCH: usize = 1_000;

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// The segments that are new.
    pub segments: usize,
    /// The members that are new.
    pub members: u64,
    /// The members that a run broken off before had already written.
    pub resumed: u64,
    /// The segments of the last run that were replaced.
    pub replaced: usize,
}

/// The prefix of a name, with its colon.
fn prefix(name: &str) -> String {
    name.split_once(": ")
        .map_or_else(|| name.to_owned(), |(prefix, _)| format!("{prefix}: "))
}

pub(super) async fn segments(
    store: &dyn RecordStore,
    clock: &dyn Clock,
    ctx: &Context,
    found: &Segmentation,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<Written> {
    // Empty groups are not segments.
    let wanted: Vec<_> = found.segments.iter().filter(|segment| segment.size > 0).collect();
    let Some(first) = wanted.first() else {
        return Err(Error::invalid(
            "there is no customer in any group: nothing to write",
        ));
    };
    let before = with_prefix(store, ctx, &prefix(&first.name)).await?;
    let made: Vec<&Segment> = before
        .iter()
        .filter(|s| matches!(s.kind, SegmentKind::Snapshot { .. }))
        .collect();
    let taken = |name: &str| {
        before
            .iter()
            .any(|s| s.name == name && !matches!(s.kind, SegmentKind::Snapshot { .. }))
    };
    if wanted.iter().any(|segment| taken(&segment.name)) {
        return Err(Error::conflict(
            "a name belongs to a segment that no run made; choose another name_prefix",
        )
        .with("setting", "name_prefix"));
    }
    let mut written = Written {
        segments: 0,
        members: 0,
        resumed: 0,
        replaced: 0,
    };
    write_members(store, clock, ctx, found, &mut written, progress).await?;

    // One unit of work: the old ones go, the new ones come.
    let now = clock.now();
    let mut switch = Vec::new();
    let kept = |segment: &Segment| wanted.iter().any(|new| new.id == segment.id);
    for old in made.iter().filter(|old| !kept(old)) {
        switch.push(Write::delete(&SEGMENT, old.id, Some(old.version)));
        written.replaced += 1;
    }
    for new in wanted
        .iter()
        .filter(|new| !made.iter().any(|old| old.id == new.id))
    {
        let segment = Segment {
            id: new.id,
            version: 0,
            name: new.name.clone(),
            description: new.description.clone(),
            kind: SegmentKind::Snapshot {
                lineage: found.lineage.clone(),
            },
            size: new.size as i64,
            created_at: now,
        };
        switch.push(Write::insert(new.id, segment.to_record()?));
        written.segments += 1;
    }
    if !switch.is_empty() {
        ctx.check(clock)?;
        store.apply(ctx, &switch).await?;
    }
    let replaced = made.iter().filter(|old| !kept(old));
    let mut removed = 0;
    for old in replaced {
        removed += remove_members(store, ctx, old.id.uuid(), |done| {
            progress(Progress {
                stage: Stage::Tidying,
                done: removed as usize + done,
                total: None,
            });
        })
        .await?;
    }
    Ok(written)
}

async fn with_prefix(store: &dyn RecordStore, ctx: &Context, prefix: &str) -> Result<Vec<Segment>> {
    let mut query = Query::new(Filter::prefix("name", prefix));
    query.limit = 1_000;
    let mut segments = Vec::new();
    loop {
        let page = store.find(ctx, &SEGMENT, &query).await?;
        for stored in page.items {
            segments.push(Segment::from_stored(stored)?);
        }
        match page.next {
            Some(next) => query.after = Some(next),
            None => return Ok(segments),
        }
    }
}

async fn write_members(
    store: &dyn RecordStore,
    clock: &dyn Clock,
    ctx: &Context,
    found: &Segmentation,
    written: &mut Written,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<()> {
    let total = found.ids.len();
    let customers: Vec<(&CustomerId, &Option<usize>)> = found.ids.iter().zip(&found.assignments).collect();
    for (batch, chunk) in customers.chunks(BATCH).enumerate() {
        ctx.check(clock)?;
        let now = clock.now();
        let mut writes = Vec::with_capacity(chunk.len());
        for (customer, label) in chunk {
            let Some(segment) = label.and_then(|label| found.segments.get(label)) else {
                continue;
            };
            let record = Record::from_values(
                &SEGMENT_MEMBER,
                vec![segment.id.into(), (**customer).into(), now.into()],
            )?;
            let id = derived(segment.id.uuid(), &customer.to_string());
            writes.push(Write::insert_or_skip(id, record));
        }
        let outcomes = store.apply(ctx, &writes).await?;
        let resumed = outcomes
            .iter()
            .filter(|o| **o == crm_core::record::Outcome::Skipped)
            .count() as u64;
        written.resumed += resumed;
        written.members += outcomes.len() as u64 - resumed;
        progress(Progress {
            stage: Stage::Writing,
            done: batch * BATCH + chunk.len(),
            total: Some(total),
        });
    }
    Ok(())
}

/// Removes the members of a segment that is gone.
async fn remove_members(
    store: &dyn RecordStore,
    ctx: &Context,
    segment: Uuid,
    mut progress: impl FnMut(usize),
) -> Result<u64> {
    let mut query = Query::new(Filter::eq("segment_id", segment));
    query.limit = BATCH as u32;
    let mut removed = 0_u64;
    loop {
        let page = store.find(ctx, &SEGMENT_MEMBER, &query).await?;
        if page.items.is_empty() {
            return Ok(removed);
        }
        let deletes: Vec<Write> = page
            .items
            .iter()
            .map(|member| Write::delete(&SEGMENT_MEMBER, member.id, None))
            .collect();
        match store.apply(ctx, &deletes).await {
            Ok(_) => removed += deletes.len() as u64,
            // Somebody else is tidying the same; what is left is found again.
            Err(error) if error.kind() == crm_core::ErrorKind::Conflict => {}
            Err(error) => return Err(error),
        }
        progress(removed as usize);
    }
}

pub(super) async fn sweep(store: &dyn RecordStore, ctx: &Context, before: Timestamp) -> Result<u64> {
    let groups = Aggregate::new(Filter::All)
        .by("segment_id")
        .measure("last", Measure::Max("created_at".into()));
    let table = store.aggregate(ctx, &SEGMENT_MEMBER, &groups).await?;
    let (id, last) = (table.column("segment_id")?, table.column("last")?);
    let old: Vec<Uuid> = (0..table.rows())
        .filter(|row| last.timestamp_at(*row).is_some_and(|at| at < before))
        .filter_map(|row| id.uuid_at(row))
        .collect();
    let mut there = HashSet::new();
    for chunk in old.chunks(BATCH) {
        there.extend(
            store
                .get(ctx, &SEGMENT, chunk)
                .await?
                .into_iter()
                .flatten()
                .map(|stored| stored.id),
        );
    }
    let mut removed = 0;
    for segment in old.into_iter().filter(|segment| !there.contains(segment)) {
        removed += remove_members(store, ctx, segment, |_| ()).await?;
    }
    Ok(removed)
}
