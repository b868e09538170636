//! **open-crm**: the customer platform you link, not host.
//!
//! One dependency, in-process: collect people from web sites and files, store them, clean and cluster what is known about
//! them, and write to them with their permission, once. Every part is a provider behind a trait; [`Crm`] binds the
//! consumers you call to a [`Registry`] of them.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! use open_crm::prelude::*;
//!
//! let crm = Crm::open("memory:").await?; // or "sqlite:crm.db"
//! let ctx = Context::new(TenantId::new("shop")?);
//!
//! let mut draft = Draft::new(Provenance::new("sign-up form", Timestamp::EPOCH));
//! draft.name = Some(PersonName::new("Ana", "Kask"));
//! draft.emails.push(" Ana@Example.COM ".into());
//! crm.customers().upsert(&ctx, draft).await?;
//!
//! let ana = crm.customers().by_contact(&ctx, ContactKind::Email, "ana@example.com").await?.expect("stored");
//! assert_eq!(ana.name.full(), "Ana Kask");
//! # Ok::<(), Error>(())
//! # }).unwrap();
//! ```
//!
//! # Features
//!
//! | feature | brings |
//! |---|---|
//! | `sqlite` (default) | the SQLite store, bundled |
//! | `files` | CSV collectors |
//! | `crawl` | the web spider, and `files` |
//! | `analytics` | cleaning, clustering, principal components, decision trees |
//! | `plot` | pictures and the HTML report, and `analytics` |
//! | `outreach` | consent gate, outbox, dispatcher; a mailer that records |
//! | `smtp` | e-mail over SMTP, and `outreach` |
//! | `twilio` | SMS and calls through Twilio, and `outreach` |
//! | `aliyun` | SMS and calls through Aliyun (Alibaba Cloud), and `outreach` |
//! | `http-provider` | e-mail, SMS and calls through a vendor that is described by data, and `outreach` |
//! | `api` | webhooks, bounces, links to unsubscribe as an axum router, and `outreach` |
//! | `eureka` | discovery through Eureka: a client, and a small server to embed |
//! | `zookeeper` | discovery through ZooKeeper |
//! | `testkit` | conformance suites for providers of your own |
//! | `full` | all of it except `testkit` |
//!
//! Features only add. A provider that was left out still answers in the [`catalog()`], naming its feature.

mod catalog;
mod crm;
pub mod prelude;

/// Collecting from web sites and files.
#[cfg(feature = "files")]
pub use crm_crawl as crawl;

/// Cleaning, models, segments, pictures, reports.
#[cfg(feature = "analytics")]
pub use crm_analytics as analytics;

/// Templates, campaigns, outbox, mailers.
#[cfg(feature = "outreach")]
pub use crm_channels as channels;

/// Stores and the customers in them.
pub use crm_store as store;

pub use catalog::catalog;
pub use crm::{Crm, CrmBuilder};
/// The guarded HTTP client that collectors and registers use.
#[cfg(any(feature = "crawl", feature = "eureka"))]
pub use crm_core::http;
pub use crm_core::{
    Actor, Clock, Column, Consumer, Context, CustomerId, Effect, Error, ErrorKind, Health, Id, IdSource,
    Layered, ManualClock, Matrix, Needs, Provider, ProviderInfo, RandomIds, Registry, Result, Retry, Secret,
    SeededIds, SystemClock, Table, TenantId, Timestamp, Uuid,
};
pub use crm_core::{
    access, activity, capability, consent, customer, matrix, memory, message, policy, query, record,
    registry, score, segment, table,
};
#[cfg(feature = "testkit")]
pub use crm_core::{
    collector_suite, discovery_suite, key_suite, mailer_suite, profile_suite, sms_suite, store_suite,
    testkit, voice_suite, webhook_suite,
};

/// The README's program compiles.
#[cfg(all(doctest, feature = "full"))]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;
