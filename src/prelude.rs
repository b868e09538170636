//! What most programs that use open-crm name: `use open_crm::prelude::*;`
//!
//! ```
//! use open_crm::prelude::*;
//!
//! let ctx = Context::new(TenantId::new("shop").unwrap()).actor(Actor::user("ana"));
//! assert_eq!(ctx.tenant().as_str(), "shop");
//! ```

pub use crate::{Crm, CrmBuilder};
pub use crm_core::activity::{Interaction, Money, Order};
pub use crm_core::capability::{Collector, DraftSink, Mailer, RecordStore};
pub use crm_core::consent::{Purpose, PurposeClass};
pub use crm_core::customer::{
    Address, ContactKind, ContactPoint, Customer, Draft, EmailAddress, ExternalRef, PersonName, PhoneNumber,
    PostalAddress, Provenance,
};
pub use crm_core::query::{Filter, Query};
pub use crm_core::{
    Actor, Clock, Consumer, Context, CustomerId, Error, ErrorKind, Provider, ProviderInfo, Registry, Result,
    Secret, SystemClock, TenantId, Timestamp,
};
