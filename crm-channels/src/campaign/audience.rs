//! The members of an audience, page by page.

use std::collections::{BTreeSet, HashSet};

use crm_core::capability::RecordStore;
use crm_core::customer::{CUSTOMER, CUSTOMER_ALIAS, CustomerId};
use crm_core::query::{Cursor, Filter, Query, Scan};
use crm_core::record::{Entity as _, Record, Schema, Stored, Value, Write};
use crm_core::segment::{SEGMENT, SEGMENT_MEMBER, Segment, SegmentId, SegmentKind};
use crm_core::{Context, Error, ErrorKind, Result, Timestamp, Uuid};

use super::plan::Members;
use super::stored::CAMPAIGN_PAGE;
use crate::Outreach;

/// How many members are looked at at once.
pub(super) const PAGE: u32 = 1000;

/// One page: the members, those whose profile came along, and where the next page begins.
pub(super) struct Page {
    pub(super) ids: Vec<Uuid>,
    pub(super) profiles: Option<Vec<Stored>>,
    /// Where to go on; `None` after the last page.
    pub(super) next: Option<String>,
}

/// Where members come from.
pub(super) enum Walk {
    Listed(Vec<Uuid>),
    Found { schema: &'static Schema, filter: Filter },
    Written { campaign: Uuid, pages: i64 },
}

impl Walk {
    /// The members as they are now.
    pub(super) async fn of(outreach: &Outreach, ctx: &Context, members: &Members) -> Result<Self> {
        let segment = match members {
            Members::Customers(ids) => {
                let unique: BTreeSet<Uuid> = ids.iter().map(|id| id.uuid()).collect();
                return Ok(Self::Listed(unique.into_iter().collect()));
            }
            Members::Segment(segment) => *segment,
        };
        let stored = outreach.store.get(ctx, &SEGMENT, &[segment.uuid()]).await?;
        let stored = stored
            .into_iter()
            .flatten()
            .next()
            .ok_or_else(|| Error::new(ErrorKind::NotFound, "no such segment").with("segment", segment))?;
        Ok(match Segment::from_stored(stored)?.kind {
            SegmentKind::Dynamic { .. } => Self::Found {
                schema: &CUSTOMER,
                filter: {
                    let members = Filter::InSegment(segment.uuid());
                    let now = outreach.time.now();
                    crm_core::segment::resolve(&*outreach.store, ctx, now, &members).await?
                },
            },
            SegmentKind::Manual | SegmentKind::Snapshot { .. } => Self::Found {
                schema: &SEGMENT_MEMBER,
                filter: Filter::eq("segment_id", segment),
            },
        })
    }

    /// The page that begins there; the first one when nothing is said.
    pub(super) async fn page(&self, outreach: &Outreach, ctx: &Context, after: Option<&str>) -> Result<Page> {
        let place = |after: Option<&str>| -> Result<usize> {
            let wrong = || Error::invalid("not a place in this audience").with("field", "cursor");
            after.map_or(Ok(0), |text| text.parse().map_err(|_| wrong()))
        };
        match self {
            Self::Listed(all) => {
                let from = place(after)?;
                let rest = all.get(from..).unwrap_or_default();
                let ids: Vec<Uuid> = rest.iter().take(PAGE as usize).copied().collect();
                let end = from + ids.len();
                Ok(Page {
                    ids,
                    profiles: None,
                    next: (end < all.len()).then(|| end.to_string()),
                })
            }
            Self::Written { campaign, pages } => {
                let number = place(after)?;
                let filter = Filter::eq("campaign_id", *campaign)
                    .and(Filter::eq("number", i64::try_from(number).unwrap_or(i64::MAX)));
                let found = outreach
                    .store
                    .find(ctx, &CAMPAIGN_PAGE, &Query::new(filter).limit(1))
                    .await?;
                let ids = match found.items.first() {
                    Some(stored) => read_ids(&stored.record)?,
                    None => Vec::new(),
                };
                let more = i64::try_from(number + 1).is_ok_and(|next| next < *pages);
                Ok(Page {
                    ids,
                    profiles: None,
                    next: more.then(|| (number + 1).to_string()),
                })
            }
            Self::Found { schema, filter } => {
                let after: Option<Cursor> = after.map(str::parse).transpose()?;
                let query = Query::new(filter.clone()).limit(PAGE).after(after);
                let page = outreach.store.find(ctx, schema, &query).await?;
                let next = page.next.map(|next| next.to_string());
                if schema.name == CUSTOMER.name {
                    return Ok(Page {
                        ids: page.items.iter().map(|stored| stored.id).collect(),
                        profiles: Some(page.items),
                        next,
                    });
                }
                let ids = page.items.iter().map(|stored| stored.record.uuid("customer_id"));
                Ok(Page {
                    ids: ids.collect::<Result<_>>()?,
                    profiles: None,
                    next,
                })
            }
        }
    }
}

impl Page {
    /// The profiles of its members, and how many of them are no customers any more. Who was merged into another is that
    /// other one.
    pub(super) async fn profiles(self, outreach: &Outreach, ctx: &Context) -> Result<(Vec<Stored>, u64)> {
        if let Some(profiles) = self.profiles {
            return Ok((profiles, 0));
        }
        let found = outreach.store.get(ctx, &CUSTOMER, &self.ids).await?;
        let lost: Vec<Uuid> = self
            .ids
            .iter()
            .zip(&found)
            .filter_map(|(id, found)| found.is_none().then_some(*id))
            .collect();
        let mut profiles: Vec<Stored> = found.into_iter().flatten().collect();
        if lost.is_empty() {
            return Ok((profiles, 0));
        }
        let here: HashSet<Uuid> = profiles.iter().map(|stored| stored.id).collect();
        let aliases = outreach.store.get(ctx, &CUSTOMER_ALIAS, &lost).await?;
        let mut into: Vec<Uuid> = aliases
            .iter()
            .flatten()
            .map(|stored| stored.record.uuid("customer_id"))
            .collect::<Result<_>>()?;
        into.sort_unstable();
        into.dedup();
        into.retain(|id| !here.contains(id));
        let merged = outreach.store.get(ctx, &CUSTOMER, &into).await?;
        let merged: Vec<Stored> = merged.into_iter().flatten().collect();
        let gone = lost.len() - merged.len().min(lost.len());
        profiles.extend(merged);
        Ok((profiles, gone as u64))
    }
}

/// Those of the customers who are members of one of the segments.
pub(crate) async fn in_any(
    store: &dyn RecordStore,
    now: Timestamp,
    ctx: &Context,
    segments: &[SegmentId],
    customers: &[Uuid],
) -> Result<HashSet<Uuid>> {
    let mut found = HashSet::new();
    if segments.is_empty() || customers.is_empty() {
        return Ok(found);
    }
    let any = segments.iter().map(|id| Filter::InSegment(id.uuid())).collect();
    let filter = crm_core::segment::resolve(store, ctx, now, &Filter::Or(any)).await?;
    let filter = Filter::one_of("id", customers.iter().copied()).and(filter);
    store
        .scan(ctx, &CUSTOMER, &Scan::new(filter, ["id"]), &mut |table| {
            let ids = table.column("id")?;
            found.extend((0..table.rows()).filter_map(|row| ids.uuid_at(row)));
            Ok(())
        })
        .await?;
    Ok(found)
}

/// The write that keeps a page of members.
pub(super) fn written(id: Uuid, campaign: Uuid, number: i64, members: &[Uuid]) -> Result<Write> {
    let bytes: Vec<u8> = members.iter().flat_map(|id| *id.as_bytes()).collect();
    let record = Record::from_values(
        &CAMPAIGN_PAGE,
        vec![campaign.into(), number.into(), Value::Bytes(bytes)],
    )?;
    Ok(Write::insert(id, record))
}

fn read_ids(r: &Record) -> Result<Vec<Uuid>> {
    let Some(Value::Bytes(bytes)) = r.get("members") else {
        return Err(r.damaged("members"));
    };
    bytes
        .chunks(16)
        .map(|id| Uuid::from_slice(id).map_err(|_| r.damaged("members")))
        .collect()
}

/// The customer of a profile.
pub(super) fn customer(stored: &Stored) -> CustomerId {
    stored.id.into()
}
