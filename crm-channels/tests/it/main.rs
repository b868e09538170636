//! The tests of this crate against in-memory providers, a scripted SMTP server, and a real one where there is one.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout
)]

#[cfg(all(feature = "aliyun", feature = "testkit"))]
mod aliyun;
mod campaign;
mod common;
mod crash;
mod dispatch;
mod engine;
mod gate;
#[cfg(all(feature = "http-provider", feature = "testkit"))]
mod http;
#[cfg(all(feature = "http-provider", feature = "smtp", feature = "testkit"))]
mod http_mail;
mod inbound;
#[cfg(all(feature = "smtp", feature = "testkit"))]
mod mail;
#[cfg(all(feature = "twilio", feature = "testkit"))]
mod prism;
mod template;
#[cfg(all(feature = "twilio", feature = "testkit"))]
mod twilio;
#[cfg(feature = "testkit")]
mod vendor;
