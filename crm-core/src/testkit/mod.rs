//! Conformance suites: proof that a provider keeps the contract of its capability. For our own providers and for those
//! of third parties (feature `testkit`; add `tokio` with `macros` and `rt-multi-thread` to your dev-dependencies).
//!
//! A suite is one async function a property, which panics with the property's name when it does not hold, and a macro
//! that makes a test of each:
//!
//! ```
//! use std::sync::Arc;
//! use crm_core::capability::RecordStore;
//! use crm_core::memory::MemoryStore;
//!
//! crm_core::store_suite!(memory, async { Arc::new(MemoryStore::new("memory")) as Arc<dyn RecordStore> });
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! // One property by itself:
//! crm_core::testkit::store::unique_keys_are_per_tenant(Arc::new(MemoryStore::new("memory"))).await;
//! # });
//! ```

// A suite speaks by panicking.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

pub mod collector;
pub mod discovery;
pub mod fixtures;
pub mod keys;
pub mod mailer;
pub mod models;
pub mod profile;
pub mod sms;
pub mod store;
pub mod voice;
pub mod webhook;
