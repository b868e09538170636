//! Cleaning: a list of steps as data, fitted once, applied to one row as to a million.
//!
//! Each step runs as a Polars expression; the learned values (means, categories, bounds) are kept, so that what is
//! scored later is cleaned exactly as what was learned from. Nothing happens silently: the report counts every change.
//!
//! ```
//! use crm_analytics::clean::{CleaningPlan, Columns};
//! use crm_core::{Column, Table, record::Value};
//!
//! let mut plan_name = Column::text("plan");
//! ["free", "pro", "free"].iter().for_each(|p| plan_name.push_text(Some(p)));
//! let mut visits = Column::float("visits");
//! for v in [Value::Float(2.0), Value::Null, Value::Float(7.0)] { visits.push(v).unwrap(); }
//! let table = Table::new(vec![plan_name, visits]).unwrap();
//!
//! let cleaned = CleaningPlan::new().fill(Columns::All, 0.0).dummies("plan").fit(&table).unwrap();
//! assert_eq!(cleaned.table.column("visits").unwrap().f64_at(1), Some(0.0));
//! assert_eq!(cleaned.table.column("plan_pro").unwrap().f64_at(1), Some(1.0));
//! assert_eq!(cleaned.fitted.apply(&table).unwrap().0, cleaned.table);
//! ```
//!
//! Profiles of the store are cleaned where they are: read with their versions, what would change is looked at, and carried
//! out as one run that can be undone.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! # use std::sync::Arc;
//! use crm_analytics::clean::{Case, CleaningPlan, Columns, ProfilePlan, ProposalOptions};
//! use crm_core::capability::{EditRun, ProfileWriter, RecordStore};
//! use crm_core::customer::{CUSTOMER, Provenance};
//! # use crm_core::memory::{MemoryProfiles, MemoryStore};
//! # use crm_core::record::Write;
//! # use crm_core::testkit::fixtures;
//! # use crm_core::{Clock, SystemClock};
//!
//! # let (store, clock, ctx) = (Arc::new(MemoryStore::new("records")), SystemClock::shared(), fixtures::context());
//! # store.migrate(&[&CUSTOMER]).await.unwrap();
//! # let writer = MemoryProfiles::new(store.clone(), clock.clone());
//! let profiles = ProfilePlan::text(["given_name", "city", "attributes.plan"]).unwrap();
//! let profiles = profiles.read(&ctx, &*store, clock.now(), None).await.unwrap();
//! let cleaned = CleaningPlan::new().squeeze(Columns::All).case("given_name", Case::Title).fit(profiles.table()).unwrap();
//!
//! let proposal = cleaned.fitted.propose(&profiles, &ProposalOptions::default()).unwrap();
//! for edit in &proposal.edits { /* customer -> field -> before, after: show it to somebody */ }
//! let run = EditRun::new("names-2026-03", Provenance::new("cleaning", clock.now()));
//! let applied = proposal.apply(&ctx, &writer, &run).await.unwrap(); // `writer`: crm_store::Customers
//! assert_eq!(applied.not_written, []);
//! writer.undo(&ctx, "names-2026-03").await.unwrap();
//! # });
//! ```

mod expr;
mod fill;
mod fitted;
mod frame;
mod learn;
mod learned;
mod options;
mod plan;
mod profiles;
mod proposal;
pub(crate) mod read;
mod report;
mod row;
mod rows;
mod run;
mod step;
pub(crate) mod text;

use crm_core::record::FieldType;

pub use expr::{DatePart, Expr, When};
pub use fitted::FittedCleaning;
pub use options::{
    Bounds, Case, CastTo, Columns, DateOrder, Decimal, Fill, Keep, OutlierAction, OutlierRule, Statistic,
    UnicodeForm, Unknown, Unreadable,
};
pub use plan::{Cleaned, CleaningPlan};
pub use profiles::{ProfileColumn, ProfilePlan, Profiles};
pub use proposal::{
    Applied, Blanks, CleaningProposal, FieldCount, ProposalOptions, ProposedEdit, ProposedField,
};
pub use report::{CleaningLine, CleaningReport};
pub use row::RowCleaner;
pub use step::Step;

pub(crate) use expr::Cell;

/// The names of types in messages.
pub(crate) fn type_name(ty: FieldType) -> &'static str {
    match ty {
        FieldType::Bool => "bool",
        FieldType::Int => "int",
        FieldType::Float => "float",
        FieldType::Text => "text",
        FieldType::Bytes => "bytes",
        FieldType::Timestamp => "timestamp",
        FieldType::Uuid => "uuid",
        FieldType::Json => "json",
    }
}
