//! The change feed: who changed what, in one order, written together with the change itself.
//!
//! [`ChangeLog`] is a store around a store. Its units of work carry one more record that says what they change, so that a
//! change and its announcement are there both or not at all, on every backend. Readers number these records when they
//! read ([`Feed`]): writers never wait for a counter, and yet every reader sees every change once, in the same order.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! use std::sync::Arc;
//! use crm_core::customer::{Draft, Provenance};
//! use crm_core::memory::MemoryStore;
//! use crm_core::{Context, RandomIds, SystemClock, TenantId, Timestamp};
//! use crm_store::Customers;
//! use crm_store::changes::{ChangeLog, Entity, Op};
//!
//! let (clock, ids) = (SystemClock::shared(), RandomIds::shared());
//! let log = ChangeLog::new(Arc::new(MemoryStore::new("records")), clock.clone(), ids.clone());
//! let customers = Customers::new(Arc::new(log), clock, ids);
//! let ctx = Context::new(TenantId::new("shop").unwrap());
//!
//! let mut draft = Draft::new(Provenance::new("web-shop", Timestamp::EPOCH));
//! draft.emails.push("ana@example.com".into());
//! let ana = customers.upsert(&ctx, draft).await.unwrap().id;
//!
//! let changes = customers.changes_since(&ctx, None, 100).await.unwrap();
//! assert_eq!((&changes.items[0].entity, &changes.items[0].op), (&Entity::Customer(ana), &Op::Created));
//! // Keep the cursor; the next call goes on behind it.
//! assert!(customers.changes_since(&ctx, Some(&changes.next), 100).await.unwrap().items.is_empty());
//! # });
//! ```

mod derive;
mod feed;
mod item;
mod log;
mod number;
mod reach;
mod reader;
mod stream;

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use crm_core::record::{Field, FieldType, Index, Schema, Version};
use crm_core::segment::SegmentId;
use crm_core::{Actor, CustomerId, Error, Result, Timestamp, Uuid};
use serde::{Deserialize, Serialize};

pub use feed::Feed;
pub(crate) use item::acting;
pub use log::ChangeLog;
pub use stream::ChangeStream;

/// One record a unit of work: what it changed. `seq` is 0 until a reader numbers it; `items` is what
/// [`Changes::items`] shows, `[[entity, id, op, version or other]..]`.
pub static CHANGE: Schema = Schema {
    name: "crm_change",
    fields: &[
        Field::new("seq", FieldType::Int),
        Field::new("at", FieldType::Timestamp),
        Field::new("actor", FieldType::Text).pseudonym(),
        Field::new("request", FieldType::Uuid).nullable(),
        Field::new("items", FieldType::Json).pseudonym(),
    ],
    indexes: &[Index::new("crm_change_seq", &["seq", "at"])],
};

/// One record a tenant: which feed it is, the last number given, and the last number removed.
pub static CHANGE_HEAD: Schema = Schema {
    name: "crm_change_head",
    fields: &[
        Field::new("feed", FieldType::Uuid),
        Field::new("last", FieldType::Int),
        Field::new("pruned", FieldType::Int),
    ],
    indexes: &[],
};

/// The tag of a store's [`crm_core::ProviderInfo`] that says that its writes are in the feed.
pub(crate) const TAG: (&str, &str) = ("changes", "feed");

/// What was changed.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Entity {
    /// A customer: the profile or what belongs to it.
    Customer(CustomerId),
    /// A segment's definition.
    Segment(SegmentId),
    /// A record of another watched kind: `crm_organisation`, tables of the host.
    Record {
        /// The schema's name.
        schema: String,
        /// The record's id.
        id: Uuid,
    },
}

/// What happened to it.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Op {
    /// It is new.
    Created,
    /// It was written.
    Updated,
    /// It is gone.
    Deleted,
    /// An e-mail address, phone number or external reference of the customer was added, changed or removed.
    Contacts,
    /// An order of the customer's timeline was added, changed or removed.
    Orders,
    /// Another event of the customer's timeline was added, changed or removed.
    Interactions,
    /// The customer said yes or no to something.
    Consents,
    /// The customer's membership of a segment may have changed, by hand or by a run that wrote the segment.
    Membership(SegmentId),
    /// The customer became a member of a segment that keeps track ([`crate::segments`]).
    Entered(SegmentId),
    /// The customer is no longer a member of a segment that keeps track.
    Left(SegmentId),
    /// A record of another watched kind that belongs to the customer was added, changed or removed.
    Related {
        /// The schema's name.
        schema: String,
    },
}

/// One change.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The number of the unit of work it was part of; changes of one unit of work became true together.
    pub seq: i64,
    /// What was changed.
    pub entity: Entity,
    /// What happened to it.
    pub op: Op,
    /// The version it has now, as far as the writer knew it (of one that is gone: the one it would have got). For
    /// [`Op::Entered`] and [`Op::Left`] the round of the segment's account of its members.
    pub version: Option<Version>,
    /// When it was written, by the writer's clock.
    pub at: Timestamp,
    /// Who did it.
    pub actor: Actor,
    /// The host's request it was part of.
    pub request: Option<Uuid>,
}

/// Some changes in order, and where the next ones begin.
#[derive(Debug, Clone, PartialEq)]
pub struct Changes {
    /// The changes.
    pub items: Vec<Change>,
    /// Where to go on; to be kept by the reader together with what it made of the changes.
    pub next: FeedCursor,
    /// How many units of work there are behind these (at least).
    pub behind: u64,
}

/// A place in a tenant's feed. Opaque as text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeedCursor {
    #[serde(rename = "f")]
    feed: Uuid,
    /// The unit of work it stands in or behind.
    #[serde(rename = "s")]
    seq: i64,
    /// How many of the changes of the unit `seq + 1` were read.
    #[serde(rename = "i", default)]
    items: u32,
}

impl fmt::Display for FeedCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let json = serde_json::to_vec(self).map_err(|_| fmt::Error)?;
        f.write_str(&URL_SAFE_NO_PAD.encode(json))
    }
}

impl FromStr for FeedCursor {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let wrong =
            || Error::invalid("not a cursor of a change feed; start from a snapshot").with("field", "cursor");
        let json = URL_SAFE_NO_PAD.decode(text).map_err(|_| wrong())?;
        let cursor: Self = serde_json::from_slice(&json).map_err(|_| wrong())?;
        if cursor.seq < 0 {
            return Err(wrong());
        }
        Ok(cursor)
    }
}
