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

mod cap;
mod consequence;
mod elsewhere;
mod event;
mod facts;
mod gate;
mod key;
mod opt_in;
mod preference;
mod purpose;
mod quiet;
mod recipient;
mod registered;
mod rules;
mod setting;
mod state;
mod suppress;
mod suppression;
mod verdict;

pub use cap::{FrequencyCap, SEND_COUNT};
pub use consequence::{Consequence, Fate, SOFT_FAILURE};
pub use event::{CONSENT_EVENT, ConsentAction, ConsentEvent, Evidence};
pub use gate::Gate;
pub use key::AddressKey;
pub use opt_in::{OPT_IN, OptInRequest};
pub use preference::{Preference, Preferences};
pub use purpose::{LegalBasis, Purpose, PurposeClass};
pub use quiet::{QuietHours, Window};
pub use recipient::Recipient;
pub use registered::{PURPOSE, RegisteredPurpose};
pub use setting::{GateRules, SoftFailures};
pub use state::ConsentState;
pub use suppression::{SUPPRESSION, Suppression, SuppressionReason, SuppressionScope};
pub use verdict::{Ask, Decision, Verdict};
