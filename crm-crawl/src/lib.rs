//! Collecting customer information from files and web sites, for the **open-crm** crate.
//!
//! - [`mod@file`]: [`file::CsvCollector`] reads delimited text, as spreadsheets and shops export it,
//!   [`file::JsonlCollector`] JSON Lines, [`file::VcardCollector`] address books.
//! - `spider` (feature `crawl`): `WebCollector` crawls a site politely and picks people out of its pages.
//! - `extract` (feature `crawl`): people and organisations on a page, found without selectors.
//! - [`Collection`]: the consumer; runs collectors into any [`DraftSink`](crm_core::capability::DraftSink).
//! - [`catalog`]: makes collectors from URLs, for hosts that configure by data.
//!
//! Every collector yields [`Draft`](crm_core::customer::Draft)s with provenance, reports what it could not read as a
//! [`Reject`](crm_core::capability::Reject) with its place, and goes on from its last checkpoint when it was stopped.

mod assemble;
pub mod catalog;
mod collection;
mod escape;
#[cfg(feature = "crawl")]
pub mod extract;
pub mod file;
#[cfg(feature = "crawl")]
pub mod spider;
mod target;

pub use assemble::Reading;
pub use collection::{Collection, CollectionReport};
pub use target::{AttributeType, Target};
