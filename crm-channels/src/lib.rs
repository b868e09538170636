//! Reach people, with permission, once: the outbox, its dispatcher, mailers, and the consumer [`Outreach`].
//!
//! Use it through the `open-crm` crate.
//!
//! - [`Outreach`]: campaigns, single messages, consent; what a host calls
//! - [`campaign`]: one message to each member of an audience, planned, started, watched, paused, called off
//! - [`outbox`]: messages waiting in the store, put there in the same unit of work as the business that caused them
//! - [`Dispatcher`]: takes them from there under fenced leases and hands them to a provider, once, or says so
//! - [`routing`] picks the provider, [`limits`] say how many may go
//! - [`inbound`]: what comes back: news, bounces, messages to us, people who unsubscribe (feature `api`: as a router)
//! - [`retention`]: how long is kept what came in
//! - [`mail`](mod@mail): mailers (SMTP and files with the feature `smtp`; one that only counts, always)
//! - `twilio`, `aliyun`, `http`: SMS and calls through these vendors, each with the feature of its name (`http-provider` for
//!   the vendors that a file describes)
//! - `testkit`: servers that behave as the vendors do, and misbehave on demand (feature `testkit`)

#[cfg(feature = "aliyun")]
pub mod aliyun;
pub mod campaign;
mod catalog;
pub mod dispatch;
#[cfg(feature = "vendors")]
mod exchange;
#[cfg(feature = "http-provider")]
pub mod http;
pub mod inbound;
pub mod limits;
pub mod mail;
pub mod outbox;
mod outreach;
pub mod retention;
pub mod routing;
mod settings;
pub mod template;
#[cfg(feature = "testkit")]
pub mod testkit;
#[cfg(feature = "twilio")]
pub mod twilio;

pub use campaign::{
    Audience, Campaign, CampaignPlan, CampaignPreview, CampaignReport, CampaignState, CampaignStatus,
    Campaigns, LaunchProgress, Members, Schedule,
};
pub use catalog::register;
pub use dispatch::{Allowed, DispatchSettings, Dispatcher, Mode, ReconcileReport, Redirect, TickReport};
pub use outbox::{Attempt, OUTBOX, OutboxEntry, OutboxState, Outgoing, Priority};
pub use outreach::Outreach;
pub use template::{
    Encoding, PriceTable, Segments, TEMPLATE, Template, TemplateSource, Templates, Variables,
};
