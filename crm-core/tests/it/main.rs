//! What crm-core promises, tested through its public face.
#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr
)]

mod access;
mod broken;
mod consent;
mod discovery;
mod lapses;
mod memory;
mod policy;
mod registry;
