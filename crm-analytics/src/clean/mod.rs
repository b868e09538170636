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

mod expr;
mod fill;
mod fitted;
mod frame;
mod learn;
mod learned;
mod options;
mod plan;
pub(crate) mod read;
mod report;
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
pub use report::{CleaningLine, CleaningReport};
pub use step::Step;

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
