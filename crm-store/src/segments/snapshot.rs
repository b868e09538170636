//! Members frozen.

use std::collections::{BTreeMap, BTreeSet};

use crm_core::customer::CUSTOMER;
use crm_core::query::Filter;
use crm_core::record::{Entity, Record, Write};
use crm_core::segment::{Lineage, SEGMENT_MEMBER, Segment, SegmentId, SegmentKind};
use crm_core::{Context, Error, Result, Uuid};
use sha2::{Digest, Sha256};

use super::{BATCH, Segments, column};

/// The fields a filter looks at.
fn fields(filter: &Filter, into: &mut BTreeSet<String>) {
    match filter {
        Filter::And(all) | Filter::Or(all) => all.iter().for_each(|filter| fields(filter, into)),
        Filter::Not(filter) => fields(filter, into),
        Filter::Is { field, .. }
        | Filter::In { field, .. }
        | Filter::Prefix { field, .. }
        | Filter::Contains { field, .. }
        | Filter::Null { field }
        | Filter::Has { field, .. }
        | Filter::Ago { field, .. } => {
            into.insert(field.to_string());
        }
        Filter::Related(related) => {
            into.insert(related.relation.schema().name.to_owned());
        }
        Filter::InSegment(id) => {
            into.insert(format!("segment:{id}"));
        }
        Filter::All => {}
    }
}

impl Segments {
    /// Freezes the members a segment has now under a new name, with how they were found: `lineage.method` names the segment
    /// and its version, `lineage.schema_hash` is over the filter as it was asked. Members are written first, 1,000 a unit of
    /// work, then the segment: until then it is not there.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::NotFound`]; [`crm_core::ErrorKind::Conflict`] with `field=name` when the name is taken; the
    /// store's.
    pub async fn snapshot(&self, ctx: &Context, id: SegmentId, name: &str) -> Result<Segment> {
        self.frozen(ctx, id, name)
            .await
            .map_err(|error| error.operation("segments.snapshot"))
    }

    async fn frozen(&self, ctx: &Context, id: SegmentId, name: &str) -> Result<Segment> {
        let source = self.there(ctx, id).await?;
        if self.by_name(ctx, name).await?.is_some() {
            return Err(Error::conflict("a segment of this name is there already").with("field", "name"));
        }
        let now = self.customers.clock.now();
        let filter =
            crm_core::segment::resolve(self.store(), ctx, now, &Filter::InSegment(id.uuid())).await?;
        let members = column(self.store(), ctx, &CUSTOMER, filter.clone(), "id").await?;
        let new: SegmentId = self.customers.ids.fresh().into();
        for some in members.chunks(BATCH) {
            ctx.check(&*self.customers.clock)?;
            let write = |customer: &Uuid| {
                let values = vec![new.into(), (*customer).into(), now.into()];
                let record = Record::from_values(&SEGMENT_MEMBER, values)?;
                Ok(Write::insert(self.customers.ids.fresh(), record))
            };
            let writes = some.iter().map(write).collect::<Result<Vec<Write>>>()?;
            self.store().apply(ctx, &writes).await?;
        }
        let json = serde_json::to_vec(&filter)
            .map_err(|e| Error::invalid("the rule cannot be written as JSON").source(e))?;
        let mut features = BTreeSet::new();
        if let SegmentKind::Dynamic { filter } = &source.kind {
            fields(filter, &mut features);
        }
        let lineage = Lineage {
            run: self.customers.ids.fresh(),
            method: format!("segment({id}, version={})", source.version),
            seed: 0,
            as_of: now,
            features: features.into_iter().collect(),
            schema_hash: Sha256::digest(json)
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect(),
            metrics: BTreeMap::from([("members".to_owned(), members.len() as f64)]),
        };
        let segment = Segment {
            id: new,
            version: 1,
            name: name.to_owned(),
            description: source.description,
            kind: SegmentKind::Snapshot { lineage },
            size: i64::try_from(members.len()).unwrap_or(i64::MAX),
            created_at: now,
        };
        let write = Write::insert(segment.id, segment.to_record()?);
        self.save(ctx, &segment, write).await?;
        Ok(segment)
    }
}
