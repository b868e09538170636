//! How campaigns are kept.

use std::fmt;

use crm_core::record::{Field, FieldType, Index, Record, Schema, Stored, Value, Version};
use crm_core::segment::SegmentId;
use crm_core::{Error, Result, Timestamp, Uuid};
use serde::{Deserialize, Serialize};

use super::plan::CampaignPlan;
use super::preview::CampaignPreview;
use crate::outbox::json;

/// How a campaign's plan is stored; the record's version is the plan's.
pub static CAMPAIGN: Schema = Schema {
    name: "crm_campaign",
    fields: &[
        Field::new("name", FieldType::Text),
        Field::new("plan", FieldType::Json).pseudonym(),
        Field::new("created_at", FieldType::Timestamp),
        Field::new("updated_at", FieldType::Timestamp),
    ],
    indexes: &[Index::unique("crm_campaign_name", &["name"])],
};

/// How far a campaign is; the record's id is the campaign's. Every step of it is a unit of work with this record in it, so
/// that who pauses or cancels it, or works on it beside, is noticed.
pub static CAMPAIGN_RUN: Schema = Schema {
    name: "crm_campaign_run",
    fields: &[
        Field::new("name", FieldType::Text),
        Field::new("state", FieldType::Text),
        Field::new("reason", FieldType::Text).nullable(),
        Field::new("due_at", FieldType::Timestamp).nullable(),
        // What messages are checked against once more right before they are sent.
        Field::new("recheck", FieldType::Json).nullable(),
        Field::new("rehearsal", FieldType::Bool),
        // Pages of a frozen audience that are written down.
        Field::new("pages", FieldType::Int),
        Field::new("cursor", FieldType::Text).nullable(),
        Field::new("queued", FieldType::Bool),
        Field::new("found", FieldType::Json).pseudonym(),
        Field::new("baseline", FieldType::Json).nullable(),
        Field::new("started_at", FieldType::Timestamp).nullable(),
        Field::new("finished_at", FieldType::Timestamp).nullable(),
    ],
    indexes: &[
        Index::unique("crm_campaign_run_name", &["name"]),
        Index::new("crm_campaign_run_due", &["state", "due_at"]),
    ],
};

/// A page of a frozen audience: the ids of up to 1,000 customers, 16 bytes each.
pub static CAMPAIGN_PAGE: Schema = Schema {
    name: "crm_campaign_page",
    fields: &[
        Field::new("campaign_id", FieldType::Uuid),
        Field::new("number", FieldType::Int),
        Field::new("members", FieldType::Bytes).pseudonym(),
    ],
    indexes: &[Index::unique(
        "crm_campaign_page_number",
        &["campaign_id", "number"],
    )],
};

/// Where a campaign stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CampaignState {
    /// Created; may be changed.
    Draft,
    /// Its audience is being written down.
    Starting,
    /// Waits until it is due.
    Scheduled,
    /// Its messages are being queued and sent.
    Running,
    /// Nothing is queued or sent until it is resumed.
    Paused,
    /// Nothing more is sent, for good.
    Cancelled,
    /// Every message has come to its end.
    Finished,
}

impl CampaignState {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Draft,
        Self::Starting,
        Self::Scheduled,
        Self::Running,
        Self::Paused,
        Self::Cancelled,
        Self::Finished,
    ];

    /// The state as it is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Draft => "draft",
            Self::Starting => "starting",
            Self::Scheduled => "scheduled",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Cancelled => "cancelled",
            Self::Finished => "finished",
        }
    }

    /// Whether nothing more happens.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Cancelled | Self::Finished)
    }
}

impl fmt::Display for CampaignState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A campaign as it is kept.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Campaign {
    /// Its id.
    pub id: Uuid,
    /// How often its plan was written: what [`super::Campaigns::update`] wants to see.
    pub version: Version,
    /// What it is to do.
    pub plan: CampaignPlan,
    /// Where it stands.
    pub state: CampaignState,
    /// Why it is paused or cancelled.
    pub reason: Option<String>,
    /// What was found while its messages were queued, so far.
    pub found: CampaignPreview,
    /// Whether every member was gone through.
    pub queued: bool,
    /// When it was started.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
}

/// What messages of a re-evaluated audience are checked against right before they are sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Recheck {
    pub(crate) member: SegmentId,
    #[serde(default)]
    pub(crate) exclude: Vec<SegmentId>,
}

/// What had become of messages when the breaker was closed by hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Known {
    pub(super) good: u64,
    pub(super) bounced: u64,
    pub(super) complained: u64,
    /// Refused for what they say or for who we are.
    #[serde(default)]
    pub(super) refused: u64,
}

/// [`CAMPAIGN_RUN`], read.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub(crate) id: Uuid,
    pub(super) version: Version,
    pub(crate) name: String,
    pub(crate) state: CampaignState,
    pub(crate) reason: Option<String>,
    pub(super) due_at: Option<Timestamp>,
    pub(crate) recheck: Option<Recheck>,
    pub(crate) rehearsal: bool,
    pub(super) pages: i64,
    pub(super) cursor: Option<String>,
    pub(super) queued: bool,
    pub(super) found: CampaignPreview,
    pub(super) baseline: Known,
    pub(super) started_at: Option<Timestamp>,
    pub(super) finished_at: Option<Timestamp>,
}

impl Run {
    pub(super) fn new(id: Uuid, plan: &CampaignPlan) -> Self {
        Self {
            id,
            version: 0,
            name: plan.name.clone(),
            state: CampaignState::Draft,
            reason: None,
            due_at: None,
            recheck: None,
            rehearsal: plan.rehearsal,
            pages: 0,
            cursor: None,
            queued: false,
            found: CampaignPreview::default(),
            baseline: Known::default(),
            started_at: None,
            finished_at: None,
        }
    }

    pub(crate) fn read(stored: &Stored) -> Result<Self> {
        let r = &stored.record;
        let text = |field: &str| r.get(field).and_then(Value::as_str).map(str::to_owned);
        let at = |field: &str| r.get(field).and_then(Value::as_timestamp);
        let state = r.text("state")?;
        Ok(Self {
            id: stored.id,
            version: stored.version,
            name: r.text("name")?.to_owned(),
            state: CampaignState::ALL
                .into_iter()
                .find(|known| known.as_str() == state)
                .ok_or_else(|| r.damaged("state"))?,
            reason: text("reason"),
            due_at: at("due_at"),
            recheck: r.json("recheck")?,
            rehearsal: r.bool("rehearsal")?,
            pages: r.int("pages")?,
            cursor: text("cursor"),
            queued: r.bool("queued")?,
            found: r.json("found")?,
            baseline: r.json("baseline")?,
            started_at: at("started_at"),
            finished_at: at("finished_at"),
        })
    }

    pub(super) fn record(&self) -> Result<Record> {
        let recheck = self.recheck.as_ref().map(|recheck| json("recheck", recheck));
        Record::from_values(
            &CAMPAIGN_RUN,
            vec![
                self.name.as_str().into(),
                self.state.as_str().into(),
                self.reason.clone().into(),
                self.due_at.into(),
                recheck.transpose()?.into(),
                self.rehearsal.into(),
                self.pages.into(),
                self.cursor.clone().into(),
                self.queued.into(),
                json("found", &self.found)?.into(),
                json("baseline", &self.baseline)?.into(),
                self.started_at.into(),
                self.finished_at.into(),
            ],
        )
    }
}

pub(super) fn plan(stored: &Stored) -> Result<CampaignPlan> {
    let r = &stored.record;
    let json = r
        .get("plan")
        .and_then(Value::as_json)
        .ok_or_else(|| r.damaged("plan"))?;
    CampaignPlan::deserialize(json).map_err(|_| r.damaged("plan"))
}

pub(super) fn plan_record(plan: &CampaignPlan, created: Timestamp, now: Timestamp) -> Result<Record> {
    let json = json("plan", plan)?;
    let long = |error: Error| match error.context("field") {
        Some("plan") => Error::invalid("the plan is too long to be kept; keep its templates in the store")
            .with("field", "variants"),
        _ => error,
    };
    Record::from_values(
        &CAMPAIGN,
        vec![plan.name.as_str().into(), json.into(), created.into(), now.into()],
    )
    .map_err(long)
}
