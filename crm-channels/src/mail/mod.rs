//! Mailers.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! use crm_core::capability::Mailer;
//! use crm_core::registry::Catalog;
//!
//! let mut catalog = Catalog::new();
//! crm_channels::register(&mut catalog);
//! let mailer = catalog.open::<dyn Mailer>("record:").await.unwrap();
//! assert!(!mailer.capability().live, "it only counts");
//! # });
//! ```

mod record;
pub mod status;

#[cfg(feature = "smtp")]
mod dkim;
#[cfg(feature = "smtp")]
mod file;
#[cfg(feature = "smtp")]
pub(crate) mod mime;
#[cfg(feature = "smtp")]
pub mod smtp;

use std::sync::Arc;

use crm_core::capability::Mailer;
use crm_core::memory::MemoryMailer;
use crm_core::registry::Catalog;

#[cfg(feature = "smtp")]
pub use dkim::{DkimConfig, DkimSigner};
#[cfg(feature = "smtp")]
pub use file::FileMailer;
pub use record::RecordMailer;
#[cfg(feature = "smtp")]
pub use smtp::{Auth, SmtpConfig, SmtpMailer, Tls};

/// Adds the mailers of this crate to a catalogue: `smtp`, `smtps`, `file` (feature `smtp`), `memory` and `record`.
pub fn register(catalog: &mut Catalog) {
    catalog.register::<dyn Mailer, _, _>("memory", |_url| async {
        Ok(Arc::new(MemoryMailer::new("memory")) as Arc<dyn Mailer>)
    });
    catalog.register::<dyn Mailer, _, _>("record", |_url| async {
        Ok(Arc::new(RecordMailer::new("record")) as Arc<dyn Mailer>)
    });
    #[cfg(feature = "smtp")]
    {
        for scheme in ["smtp", "smtps"] {
            catalog.register::<dyn Mailer, _, _>(scheme, |url| async move {
                let config = SmtpConfig::from_url(&url)?;
                Ok(Arc::new(SmtpMailer::build("smtp", config)?) as Arc<dyn Mailer>)
            });
        }
        catalog.register::<dyn Mailer, _, _>("file", |url| async move {
            Ok(Arc::new(FileMailer::open_url("file", &url)?) as Arc<dyn Mailer>)
        });
    }
    for scheme in ["smtp", "smtps", "file"] {
        catalog.absent::<dyn Mailer>(scheme, "smtp");
    }
}
