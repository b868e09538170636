//! Privacy: who may be looked at for a purpose, which figures may be shown, and how much is given away.
//!
//! ```
//! use crm_analytics::privacy::{EpsilonLedger, Epsilon, quasi_identifiers};
//! use crm_core::{Column, Table};
//!
//! let mut city = Column::text("city");
//! ["Oslo", "Oslo", "Oslo", "Bern"].iter().for_each(|c| city.push_text(Some(c)));
//! let table = Table::new(vec![city]).unwrap();
//! let report = quasi_identifiers(&table, &["city"], 2).unwrap();
//! assert_eq!((report.classes, report.smallest, report.rows_below), (2, 1, 1));
//!
//! let mut ledger = EpsilonLedger::new(Epsilon::thousandths(1_000).unwrap());
//! let noisy = ledger.count("customers", 4_000, 1, Epsilon::thousandths(600).unwrap(), 7).unwrap();
//! assert!((3_900..4_100).contains(&noisy));
//! // What was given away is never given back.
//! assert!(ledger.count("customers", 4_000, 1, Epsilon::thousandths(600).unwrap(), 8).is_err());
//! ```

mod anonymity;
mod audience;
mod noise;

pub use anonymity::{AnonymityReport, Suppressed, quasi_identifiers, suppress_small};
pub use audience::{Audience, AudienceReport};
pub use noise::{Epsilon, EpsilonLedger, Spent};
