//! How the frontier's URLs and sites are kept.

use crm_core::record::{Field, FieldType, Index, Record, Schema, Stored, Value};
use crm_core::table::ColumnData;
use crm_core::{Result, Timestamp, Uuid};
use serde_json::json;
use sha2::{Digest, Sha256};
use url::Url;

use crate::spider::canonical::{authority, variants_key};
use crate::spider::frontier::{Kind, Lease, Waiting};

pub(super) const WAITING: i64 = 0;
pub(super) const LEASED: i64 = 1;
pub(super) const DONE: i64 = 2;

pub(super) static URLS: Schema = Schema {
    name: "crm_frontier",
    fields: &[
        Field::new("job", FieldType::Text),
        Field::new("state", FieldType::Int),
        // Breadth first: what is nearer to a seed is claimed earlier.
        Field::new("position", FieldType::Int),
        Field::new("leased_until", FieldType::Timestamp),
        Field::new("worker", FieldType::Text).nullable(),
        Field::new("site", FieldType::Text),
        // A query may name a person.
        Field::new("url", FieldType::Text).personal(),
        Field::new("depth", FieldType::Int),
        Field::new("kind", FieldType::Int),
        Field::new("attempt", FieldType::Int),
        Field::new("chain", FieldType::Json).nullable(),
        Field::new("variant", FieldType::Int).nullable(),
    ],
    indexes: &[
        Index::new("crm_frontier_due", &["job", "state", "position"]),
        Index::new("crm_frontier_variant", &["job", "variant"]),
    ],
};

pub(super) static SITES: Schema = Schema {
    name: "crm_frontier_site",
    fields: &[
        Field::new("site", FieldType::Text),
        Field::new("next_allowed", FieldType::Timestamp),
    ],
    indexes: &[Index::unique("crm_frontier_site_name", &["site"])],
};

/// A URL's record in `state`; `now` puts one that is new in line.
pub(super) fn url_record(job: &str, waiting: &Waiting, state: i64, now: Timestamp) -> Result<Record> {
    let position = waiting.lease.map_or_else(
        || {
            // Redirects go first: they belong to a page that was due already.
            let depth = if waiting.chain.is_empty() {
                i64::from(waiting.depth.min(2000)) + 1
            } else {
                0
            };
            depth << 52 | now.as_micros() & ((1 << 52) - 1)
        },
        |lease| lease.position,
    );
    let chain = (!waiting.chain.is_empty()).then(|| {
        let hops: Vec<String> = waiting.chain.iter().map(|hop| format!("{hop:x}")).collect();
        json!(hops)
    });
    let variant = waiting
        .url
        .query()
        .map(|_| variants_key(&waiting.url).cast_signed());
    Record::from_values(
        &URLS,
        vec![
            job.into(),
            state.into(),
            position.into(),
            Timestamp::EPOCH.into(),
            Value::Null,
            authority(&waiting.url).into(),
            waiting.url.as_str().into(),
            waiting.depth.into(),
            i64::from(waiting.kind.code()).into(),
            waiting.attempt.into(),
            chain.into(),
            variant.into(),
        ],
    )
}

/// A URL's record read back, with the lease that claimed it; `None` when it cannot be read.
pub(super) fn waiting(stored: &Stored) -> Option<Waiting> {
    let int = |name| stored.record.get(name).and_then(Value::as_int);
    let url = Url::parse(stored.record.get("url").and_then(Value::as_str)?).ok()?;
    let kind = Kind::of(u64::try_from(int("kind")?).ok()?)?;
    let mut waiting = Waiting::known(url, u32::try_from(int("depth")?).ok()?, kind);
    waiting.attempt = u32::try_from(int("attempt")?).ok()?;
    if let Some(chain) = stored.record.get("chain").and_then(Value::as_json) {
        for hop in chain.as_array()? {
            waiting.chain.push(u64::from_str_radix(hop.as_str()?, 16).ok()?);
        }
    }
    waiting.lease = Some(Lease {
        id: stored.id,
        version: stored.version,
        until: stored.record.get("leased_until").and_then(Value::as_timestamp)?,
        position: int("position")?,
    });
    Some(waiting)
}

pub(super) fn site_record(site: &str, next_allowed: Timestamp) -> Result<Record> {
    Record::from_values(&SITES, vec![site.into(), next_allowed.into()])
}

pub(super) fn url_id(job: &str, url: &Url) -> Uuid {
    name(&[job.as_bytes(), b"\0", url.as_str().as_bytes()])
}

pub(super) fn site_id(site: &str) -> Uuid {
    name(&[b"site\0", site.as_bytes()])
}

fn name(parts: &[&[u8]]) -> Uuid {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().zip(hash.finalize()) {
        *to = from;
    }
    Uuid::from_bytes(bytes)
}

/// The two columns of integers of an answer.
pub(super) fn pairs(table: &crm_core::Table) -> impl Iterator<Item = (i64, i64)> {
    let ints = |at: usize| match table.columns().get(at).map(crm_core::Column::data) {
        Some(ColumnData::Int(ints)) => ints.clone(),
        _ => Vec::new(),
    };
    ints(0).into_iter().zip(ints(1))
}
