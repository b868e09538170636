//! Clean, cluster, explain and draw customer data: part of **open-crm** (use the `open-crm` crate).
//!
//! The way of the numbers: rows of the store become [`features`], are [`clean`]ed, become a matrix, and [`model`]s make
//! groups, directions and rules of it; [`Insights`] goes the whole way and writes segments; `plot` and `report` (feature
//! `plot`) show it to people. Everything learned is plain data with a seed in it: same rows and seed, same answer.
//!
//! Polars, linfa and ndarray work inside and never show in a signature.

pub mod clean;
pub mod expect;
pub mod features;
pub mod insights;
pub mod judge;
pub mod metrics;
pub mod model;
#[cfg(feature = "parquet")]
pub mod parquet;
pub mod pipeline;
#[cfg(feature = "plot")]
pub mod plot;
pub mod privacy;
pub mod profile;
#[cfg(feature = "plot")]
pub mod report;
mod sample;
pub mod segments;

pub use insights::Insights;
