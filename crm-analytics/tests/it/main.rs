//! Tests of crm-analytics against published values, real stores and hostile input.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod clean;
mod iris;
mod model;
