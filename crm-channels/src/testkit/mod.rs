//! Servers that behave as the vendors do, and misbehave on demand (feature `testkit`): [`FakeTwilio`],
//! [`FakeAliyun`], [`VendorServer`] for vendors of your own, and [`SmtpSink`] for mail. They listen on loopback only.
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
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! use crm_channels::testkit::{SmtpFault, SmtpSink, SmtpStep};
//!
//! let sink = SmtpSink::start().await.unwrap();
//! sink.refuse("bo@example.org", "550 5.1.1 no such user");
//! sink.fault_times(SmtpStep::End, 1, SmtpFault::Close); // takes one message and never says so
//! assert!(sink.url().starts_with("smtp://127.0.0.1:"));
//! assert!(sink.mails().is_empty());
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
mod smtp;
mod twilio;

pub use aliyun::{FakeAliyun, TakenByAliyun};
pub use server::{Fault, Heard, Reply, VendorServer, deliver};
pub use smtp::{SmtpFault, SmtpSink, SmtpStep, SunkMail};
pub use twilio::{FakeTwilio, TakenByTwilio};
