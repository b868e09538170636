//! Netflix Eureka (feature `eureka`): a client that is a [`Discovery`](super::Discovery), and a small server to embed.
//!
//! A [`Service`](super::Service) `mailer/outbound` is the application `MAILER.OUTBOUND` of Eureka, with the virtual
//! address `mailer.outbound`. What Eureka has no field for stands in the metadata: `zone`, as everywhere with Eureka,
//! and `crm-address`, the whole URL. An instance that somebody else registered under that name without it is found at
//! its home page, or at its host and port.
//!
//! The protocol has no published specification; what is done here follows recorded exchanges of the public server
//! (Netflix Eureka 2, REST v2) and of two public clients.
//!
//! ```
//! use crm_core::registry::discovery::eureka::EurekaConfig;
//!
//! let config: EurekaConfig = serde_json::from_str(
//!     r#"{"peers": ["http://eureka-1:8761/eureka/v2/", "http://eureka-2:8761/eureka/v2/"], "user": "crm", "password": "s3cret"}"#,
//! )
//! .unwrap();
//! assert!(config.validate().is_ok());
//! assert!(!format!("{config:?}").contains("s3cret"));
//! ```

mod ask;
mod client;
mod config;
mod json;
mod model;
mod order;
mod server;
mod state;
mod translate;
mod view;
mod xml;

pub use client::EurekaDiscovery;
pub use config::EurekaConfig;
pub use server::{EurekaServer, EurekaServerConfig};
