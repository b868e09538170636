//! Discovery: the conformance suite on every register, and what each of them has beyond it.

mod basics;
#[cfg(feature = "eureka")]
mod eureka;
mod file;
#[cfg(feature = "eureka")]
mod http1;
#[cfg(feature = "zookeeper")]
mod zookeeper;
