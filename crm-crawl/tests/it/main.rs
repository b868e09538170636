//! What the collectors promise, against real files and a real web site on loopback.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

#[cfg(feature = "crawl")]
mod api;
#[cfg(feature = "crawl")]
mod bad_input;
mod catalog;
mod collection;
#[cfg(feature = "crawl")]
mod crawl;
#[cfg(feature = "crawl")]
mod crawl_again;
mod csv;
mod csv_bad;
mod csv_random;
#[cfg(feature = "crawl")]
mod engine;
#[cfg(feature = "crawl")]
mod extract;
#[cfg(feature = "crawl")]
mod extract_odd;
#[cfg(feature = "crawl")]
mod fleet;
mod folder;
#[cfg(feature = "crawl")]
mod frontier;
#[cfg(feature = "crawl")]
mod http;
mod jsonl;
#[cfg(feature = "crawl")]
mod known;
mod mail;
mod maildir;
#[cfg(feature = "crawl")]
mod polite;
#[cfg(feature = "crawl")]
mod real;
#[cfg(feature = "crawl")]
mod rest;
#[cfg(feature = "crawl")]
mod rest_since;
#[cfg(feature = "crawl")]
mod shaky;
#[cfg(feature = "crawl")]
mod site;
#[cfg(feature = "crawl")]
mod spec;
#[cfg(feature = "crawl")]
mod ssrf;
mod table;
#[cfg(feature = "crawl")]
mod trial;
mod vcard;
#[cfg(feature = "crawl")]
mod xpath;

use crm_core::capability::{Checkpoint, Collector, Delivery, DraftSink, Progress, Reject};
use crm_core::customer::Draft;
use crm_core::{Context, Result, TenantId};

/// Keeps every delivery.
#[derive(Default)]
pub(crate) struct Kept(pub(crate) Vec<Delivery>);

#[async_trait::async_trait]
impl DraftSink for Kept {
    async fn deliver(&mut self, delivery: Delivery) -> Result<()> {
        self.0.push(delivery);
        Ok(())
    }
}

impl Kept {
    pub(crate) fn drafts(&self) -> Vec<Draft> {
        self.0.iter().flat_map(|d| d.drafts.clone()).collect()
    }
    pub(crate) fn rejects(&self) -> Vec<Reject> {
        self.0.iter().flat_map(|d| d.rejects.clone()).collect()
    }
    pub(crate) fn emails(&self) -> Vec<String> {
        let mut emails: Vec<String> = self.drafts().into_iter().flat_map(|d| d.emails).collect();
        emails.sort();
        emails
    }
    pub(crate) fn checkpoint(&self) -> Option<Checkpoint> {
        self.0.iter().rev().find_map(|d| d.checkpoint.clone())
    }
}

pub(crate) fn ctx() -> Context {
    Context::new(TenantId::new("shop").unwrap())
}

pub(crate) async fn run(collector: &dyn Collector, resume: Option<&Checkpoint>) -> (Kept, Result<Progress>) {
    let mut kept = Kept::default();
    let result = collector.collect(&ctx(), resume, &mut kept).await;
    (kept, result)
}
