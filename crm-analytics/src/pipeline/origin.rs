//! From the customer's side: what was computed of them, and from what.

use crm_core::capability::RecordStore;
use crm_core::query::{Filter, Query};
use crm_core::record::Entity;
use crm_core::score::{SCORE, SCORE_RUN, Score, ScoreRun};
use crm_core::segment::{Lineage, SEGMENT, SEGMENT_MEMBER, Segment, SegmentId, SegmentKind};
use crm_core::{Context, CustomerId, Result, Timestamp, Uuid};

/// A score with what it was made of; `lineage` is `None` when the record of its run is gone.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoreOrigin {
    /// The score.
    pub score: Score,
    /// Which model, from which features, by which run.
    pub lineage: Option<Lineage>,
}

/// A computed segment a customer is in.
#[derive(Debug, Clone, PartialEq)]
pub struct SegmentOrigin {
    /// The segment.
    pub segment: SegmentId,
    /// Its name.
    pub name: String,
    /// Since when the customer is in it.
    pub since: Timestamp,
    /// Which method, from which features, by which run.
    pub lineage: Lineage,
}

/// What was computed of a customer.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Origins {
    /// Scores, by model.
    pub scores: Vec<ScoreOrigin>,
    /// Computed segments, by name.
    pub segments: Vec<SegmentOrigin>,
}

impl Origins {
    /// Looks up what was computed of a customer, and how: the answer to "why am I in here".
    ///
    /// # Errors
    /// Those of the store; [`crm_core::ErrorKind::Corrupt`] when a record is not as it was written.
    pub async fn of(ctx: &Context, store: &dyn RecordStore, customer: CustomerId) -> Result<Self> {
        Self::read(ctx, store, customer)
            .await
            .map_err(|error| error.operation("origins.of"))
    }

    async fn read(ctx: &Context, store: &dyn RecordStore, customer: CustomerId) -> Result<Self> {
        let mut origins = Self::default();
        let of = || Query::new(Filter::eq("customer_id", customer)).limit(10_000);
        let scores = store.find(ctx, &SCORE, &of()).await?;
        let scores: Vec<Score> = scores
            .items
            .into_iter()
            .map(Score::from_stored)
            .collect::<Result<_>>()?;
        let runs: Vec<Uuid> = scores.iter().map(|score| score.run).collect();
        let runs = store.get(ctx, &SCORE_RUN, &runs).await?;
        for (score, run) in scores.into_iter().zip(runs) {
            let lineage = run.map(ScoreRun::from_stored).transpose()?.map(|run| run.lineage);
            origins.scores.push(ScoreOrigin { score, lineage });
        }
        origins.scores.sort_by(|a, b| a.score.model.cmp(&b.score.model));
        let members = store.find(ctx, &SEGMENT_MEMBER, &of()).await?.items;
        let mut segments = Vec::with_capacity(members.len());
        for member in &members {
            segments.push(member.record.uuid("segment_id")?);
        }
        let segments = store.get(ctx, &SEGMENT, &segments).await?;
        for (member, segment) in members.iter().zip(segments) {
            let Some(segment) = segment.map(Segment::from_stored).transpose()? else {
                continue;
            };
            if let SegmentKind::Snapshot { lineage } = segment.kind {
                origins.segments.push(SegmentOrigin {
                    segment: segment.id,
                    name: segment.name,
                    since: member.record.timestamp("created_at")?,
                    lineage,
                });
            }
        }
        origins.segments.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(origins)
    }
}
