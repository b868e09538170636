//! Collecting customer information from files and web sites, for the **open-crm** crate.
//!
//! - [`mod@file`]: [`file::CsvCollector`] reads delimited text, as spreadsheets and shops export it,
//!   [`file::JsonlCollector`] JSON Lines, [`file::VcardCollector`] address books, [`file::MboxCollector`] and
//!   [`file::MaildirCollector`] the headers of mail; [`file::FolderCollector`] takes whatever arrives in a folder.
//! - `spider` (feature `crawl`): `WebCollector` crawls a site politely and picks people out of its pages.
//! - `extract` (feature `crawl`): people and organisations on a page, found without selectors.
//! - `rest` (feature `crawl`): `RestCollector` reads another system's interface, page by page.
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
#[cfg(all(feature = "crawl", any(test, fuzzing)))]
#[doc(hidden)]
pub mod fuzz;
#[cfg(feature = "crawl")]
pub mod rest;
#[cfg(feature = "crawl")]
pub mod spider;
mod target;
mod written;

pub use assemble::Reading;
pub use collection::{Collection, CollectionReport};
pub use target::{AttributeType, Target};

#[cfg(test)]
extern crate self as crm_crawl;
// The seeds of the fuzz targets, replayed.
#[cfg(all(test, feature = "crawl"))]
#[path = "../../fuzz/src/targets.rs"]
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a harness"
)]
mod fuzz_targets;
