//! Servers that behave as the vendors do, and misbehave on demand (feature `testkit`): [`FakeTwilio`],
//! [`FakeAliyun`], and [`VendorServer`] for vendors of your own. They listen on loopback only.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! use crm_channels::testkit::{FakeTwilio, Fault};
//!
//! let vendor = FakeTwilio::start("s3cret").await.unwrap();
//! vendor.fault(Fault::AcceptThenHang); // for the next request; those after it are answered in good order
//! assert!(vendor.taken().is_empty());
//! # });
//! ```

// A fake speaks by panicking, and runs in tests only.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod aliyun;
mod server;
mod twilio;

pub use aliyun::{FakeAliyun, TakenByAliyun};
pub use server::{Fault, Heard, Reply, VendorServer};
pub use twilio::{FakeTwilio, TakenByTwilio};
