use std::collections::BTreeMap;

use serde::Deserialize;
use url::Url;

use crate::registry::discovery::{Service, check_id};
use crate::{Error, Result, Secret};

/// Where a register of Eureka is and how it is asked. Times are in seconds.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EurekaConfig {
    /// The service URLs of its nodes, `http://eureka-1:8761/eureka/v2/`: asked in this order, those of one's own zone
    /// first. Without user and password.
    pub peers: Vec<Url>,
    /// The user, when the nodes ask for one (HTTP Basic).
    #[serde(default)]
    pub user: Option<String>,
    /// That user's password.
    #[serde(default)]
    pub password: Option<Secret>,
    /// How often changes are fetched, in seconds. 30 s.
    #[serde(default = "thirty")]
    pub fetch_every: u64,
    /// After how many fetches of changes everything is fetched again, so that instances that have not renewed for long
    /// are seen. 10.
    #[serde(default = "ten")]
    pub full_every: u32,
    /// Services that are applications of another name than `CAPABILITY.NAME`: those that other programs registered.
    #[serde(default)]
    pub apps: BTreeMap<Service, String>,
    /// The most instances of an answer, all applications together. 20,000.
    #[serde(default = "twenty_thousand")]
    pub max_instances: usize,
}

fn thirty() -> u64 {
    30
}
fn ten() -> u32 {
    10
}
fn twenty_thousand() -> usize {
    20_000
}

impl EurekaConfig {
    /// Of these nodes, everything else as usual.
    pub fn new(peers: Vec<Url>) -> Self {
        Self {
            peers,
            user: None,
            password: None,
            fetch_every: thirty(),
            full_every: ten(),
            apps: BTreeMap::new(),
            max_instances: twenty_thousand(),
        }
    }

    /// Checks every setting.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Config`] naming the setting.
    pub fn validate(&self) -> Result<()> {
        let wrong = |setting: &'static str, message: &'static str| {
            Err(Error::config(message).with("setting", setting))
        };
        if self.peers.is_empty() || self.peers.len() > 16 {
            return wrong("peers", "1 to 16 service URLs are needed");
        }
        for peer in &self.peers {
            if !matches!(peer.scheme(), "http" | "https") || peer.cannot_be_a_base() {
                return wrong("peers", "a service URL begins with http:// or https://");
            }
            if !peer.username().is_empty() || peer.password().is_some() {
                return wrong(
                    "peers",
                    "user and password are settings of their own, not part of a URL",
                );
            }
            if peer.query().is_some() || peer.fragment().is_some() {
                return wrong("peers", "a service URL ends with its path");
            }
        }
        if self.user.is_some() != self.password.is_some() {
            return wrong("user", "user and password are set both or neither");
        }
        if self
            .user
            .as_ref()
            .is_some_and(|user| user.contains(':') || user.is_empty())
        {
            return wrong("user", "a user's name is not empty and has no colon (RFC 7617)");
        }
        if !(1..=3600).contains(&self.fetch_every) {
            return wrong("fetch_every", "1 s to 3600 s");
        }
        if self.full_every == 0 {
            return wrong("full_every", "at least 1");
        }
        if self.apps.values().any(|app| check_id(app).is_err()) {
            return wrong(
                "apps",
                "an application's name is 1 to 128 visible ASCII characters without / and %",
            );
        }
        if self.max_instances == 0 {
            return wrong("max_instances", "at least 1");
        }
        Ok(())
    }
}
