//! Permission: purposes, consent events, suppressions, and the gate that alone lets a message out.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! use std::sync::Arc;
//! use crm_core::capability::RecordStore;
//! use crm_core::consent::{AddressKey, Evidence, Gate, Purpose, Recipient};
//! use crm_core::customer::{Address, EmailAddress, CONTACT_POINT};
//! use crm_core::memory::MemoryStore;
//! use crm_core::{Context, CustomerId, Secret, SystemClock, TenantId, Uuid};
//!
//! let store: Arc<dyn RecordStore> = Arc::new(MemoryStore::new("records"));
//! let mut schemas = Gate::schemas().to_vec();
//! schemas.push(&CONTACT_POINT);
//! store.migrate(&schemas).await.unwrap();
//!
//! let key = AddressKey::new(&Secret::new("a long random text kept outside the store")).unwrap();
//! let gate = Gate::new(store, SystemClock::shared(), key);
//! let ctx = Context::new(TenantId::new("shop").unwrap());
//! let news = Purpose::marketing("newsletter").unwrap();
//! let ana: CustomerId = Uuid::nil().into();
//! let address = Address::Email(EmailAddress::parse("ana@example.com").unwrap());
//!
//! let evidence = Evidence::new("sign-up form", "Yes, send me the newsletter").unwrap();
//! gate.grant(&ctx, ana, &address, &news, evidence, None).await.unwrap();
//! // Consent alone is not enough: the address must also be a contact point of this customer.
//! let decision = gate.explain(&ctx, &Recipient::new(ana, &address), &news).await.unwrap();
//! assert!(!decision.allowed);
//! assert_eq!(decision.last(), "contact: the address is no contact point of this customer");
//! # });
//! ```

mod event;
mod gate;
mod purpose;
mod suppression;

use serde::{Deserialize, Serialize};

pub use event::{CONSENT_EVENT, ConsentAction, ConsentEvent, ConsentState, Evidence};
pub use gate::{Gate, Recipient};
pub use purpose::{LegalBasis, Purpose, PurposeClass};
pub use suppression::{AddressKey, SUPPRESSION, Suppression, SuppressionReason, SuppressionScope};

/// Why a message may or may not go out: each rule that was asked and what it answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// Whether it may.
    pub allowed: bool,
    /// The rules asked, in order, and their answers, without personal data.
    pub trace: Vec<String>,
}

impl Decision {
    /// The last rule asked and its answer: for a refusal, the reason.
    pub fn last(&self) -> &str {
        self.trace.last().map_or("no rule was asked", String::as_str)
    }

    /// The name of the last rule asked: `contact`, `suppression` or `consent`.
    pub fn rule(&self) -> &str {
        self.last().split(':').next().unwrap_or_default()
    }
}
