//! The words, the registry and the in-memory providers of **open-crm**, the customer platform you link, not host.
//!
//! This crate does no I/O by itself. Use it through the `open-crm` crate unless you write a provider; then this is the
//! one crate you need (`crm_core::testkit`, feature `testkit`, proves that your provider keeps its contract).
//!
//! - what is stored and said: [`customer`], [`activity`], [`segment`], [`score`], [`message`], [`consent`]
//! - how it is stored and asked for: [`record`], [`query`], [`table`], [`Matrix`]
//! - who does it: [`Provider`], [`Consumer`], [`capability`], [`registry`], [`policy`]
//! - what comes with every call: [`Context`], [`Clock`], [`IdSource`], [`Error`]

pub mod access;
pub mod activity;
pub mod capability;
pub mod cell;
mod clock;
pub mod consent;
mod consumer;
mod context;
pub mod customer;
mod error;
#[cfg(feature = "http")]
pub mod http;
mod id;
mod layered;
pub mod matrix;
pub mod memory;
pub mod message;
pub mod policy;
mod provider;
pub mod query;
pub mod record;
pub mod registry;
pub mod score;
mod secret;
pub mod segment;
mod shared_time;
pub mod table;
#[cfg(feature = "testkit")]
pub mod testkit;
pub mod zone;

pub use clock::{Clock, ManualClock, SystemClock, Timestamp};
pub use consumer::{Consumer, Needs};
pub use context::{Actor, Context, TenantId};
pub use customer::CustomerId;
pub use error::{Effect, Error, ErrorKind, Result, Retry};
pub use id::{Id, IdSource, RandomIds, SeededIds, Uuid};
pub use layered::Layered;
pub use matrix::Matrix;
pub use provider::{Health, Provider, ProviderInfo};
pub use registry::Registry;
pub use secret::Secret;
pub use shared_time::SharedTime;
pub use table::{Column, Table};
pub use zone::TimeZone;
