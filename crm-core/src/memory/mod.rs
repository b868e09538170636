//! Real providers that keep everything in memory: for tests, examples and small jobs. Always compiled.
//!
//! They keep the whole contract of their capability (the conformance suites run on them first), only not beyond the
//! life of the process.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! use crm_core::activity::ORDER;
//! use crm_core::capability::RecordStore;
//! use crm_core::memory::MemoryStore;
//! use crm_core::query::Filter;
//! use crm_core::{Context, TenantId};
//!
//! let store = MemoryStore::new("records");
//! store.migrate(&[&ORDER]).await.unwrap();
//! let ctx = Context::new(TenantId::new("shop").unwrap());
//! assert_eq!(store.count(&ctx, &ORDER, &Filter::All).await.unwrap(), 0);
//! # });
//! ```

mod collector;
mod mailer;
mod profiles;
mod recorder;
mod shelf;
mod sms;
mod store;
mod voice;

pub use collector::MemoryCollector;
pub use mailer::MemoryMailer;
pub use profiles::MemoryProfiles;
pub use sms::MemorySms;
pub use store::MemoryStore;
pub use voice::MemoryVoice;
