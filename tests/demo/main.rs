//! The surroundings of the examples (`examples/demo`) keep their word: what the examples show is only worth as much.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

#[path = "../../examples/demo/mod.rs"]
mod demo;
mod people;
mod site;
mod smtp;

use std::time::Duration;

/// Longer than anything here takes on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(20);
