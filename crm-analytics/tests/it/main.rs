//! Tests of crm-analytics against published values, a store, broken-off runs and hostile input.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod clean;
mod encode;
mod expect;
mod hostile;
mod hostile_tables;
mod insights;
mod iris;
mod judge;
mod model;
mod model_broken;
mod model_hostile;
mod model_sklearn;
mod model_suites;
mod models_stored;
mod pipeline;
#[cfg(feature = "plot")]
mod plot;
#[cfg(feature = "plot")]
mod plot_charts;
#[cfg(feature = "plot")]
mod plot_hostile;
#[cfg(feature = "plot")]
mod plot_names;
mod prepare_peers;
mod privacy;
mod profile;
mod proposal;
mod scoring;
mod segments;
mod sklearn;
mod steps;
mod timeline;
