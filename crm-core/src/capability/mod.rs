//! The capabilities: small traits that providers implement and consumers use, always behind `Arc<dyn _>`.
//!
//! Arguments go in by reference and results come out by value, so that any call can be repeated by a policy.
//!
//! ```
//! use std::sync::Arc;
//! use crm_core::capability::RecordStore;
//! use crm_core::memory::MemoryStore;
//!
//! let store: Arc<dyn RecordStore> = Arc::new(MemoryStore::new("memory"));
//! assert!(store.capability().atomic);
//! ```

mod access;
mod analysis;
mod changes;
mod collector;
mod keys;
mod message;
mod profile;
mod store;

pub use access::{Authenticator, Credentials, Principal, Scope, not_authenticated};
pub use analysis::{
    Classifier, ClassifierModel, ClusterModel, Clusterer, Contributions, ReduceModel, Reducer, Regressor,
    RegressorModel, Rule,
};
pub use changes::{ChangeReader, ChangedCustomers};
pub use collector::{
    Checkpoint, Collector, CollectorCapability, Delivery, DraftSink, OriginalKind, Originals, Outline,
    Progress, Reject, RejectKind, TableSource,
};
pub use keys::{DataKey, KeyProvider, ToUnwrap, ToWrap, WrappedKey};
pub use message::{
    MailCapability, Mailer, SmsCapability, SmsSender, VoiceCaller, VoiceCapability, WebhookReply,
    WebhookRequest, WebhookSource,
};
pub use profile::{EditRun, Edited, EditsUndone, ProfileEdit, ProfileField, ProfileWriter};
pub use store::{RecordStore, StoreCapability};
