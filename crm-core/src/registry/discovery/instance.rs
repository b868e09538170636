use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use url::Url;

use crate::{Error, Result};

/// The most bytes of what an instance says about itself: address, zone and metadata together.
pub const MAX_INSTANCE_BYTES: usize = 4096;
const MAX_NAME: usize = 64;
const MAX_ID: usize = 128;
/// A lease shorter than this could not be renewed in time; a longer one would keep the dead for hours.
const LEASE: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);

/// What is offered: a capability, and the name of the offer. Written `capability/name`: `mailer/outbound`.
///
/// Both parts are lower case ASCII letters, digits and hyphens, 1 to 64 of them, a letter first, so that they mean the
/// same as a node of ZooKeeper, as an application of Eureka and in a file.
///
/// ```
/// use crm_core::registry::discovery::Service;
///
/// let service: Service = "mailer/outbound".parse().unwrap();
/// assert_eq!((service.capability(), service.name()), ("mailer", "outbound"));
/// assert!("Mailer/outbound".parse::<Service>().is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Service {
    capability: String,
    name: String,
}

impl Service {
    /// The offer `name` of a capability.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] naming the part that is not well formed.
    pub fn new(capability: impl Into<String>, name: impl Into<String>) -> Result<Self> {
        let service = Self {
            capability: capability.into(),
            name: name.into(),
        };
        for (field, value) in [("capability", &service.capability), ("name", &service.name)] {
            let well_formed = (1..=MAX_NAME).contains(&value.len())
                && value.starts_with(|first: char| first.is_ascii_lowercase())
                && value
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
            if !well_formed {
                return Err(Error::invalid(
                    "a service is written capability/name, in lower case letters, digits and hyphens, each 1 to 64 long and with a letter first",
                )
                .with("field", field));
            }
        }
        Ok(service)
    }

    /// What is offered: `mailer`, `record-store`.
    pub fn capability(&self) -> &str {
        &self.capability
    }

    /// Which offer of that capability.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.capability, self.name)
    }
}

impl FromStr for Service {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let (capability, name) = text.split_once('/').unwrap_or((text, ""));
        Self::new(capability, name)
    }
}

impl Serialize for Service {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Service {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(|error: Error| serde::de::Error::custom(error.message().to_owned()))
    }
}

/// Whether an instance may be called, as it or its operator says.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum InstanceStatus {
    /// Ready.
    #[default]
    Up,
    /// There, but not ready yet.
    Starting,
    /// Says itself that it cannot serve.
    Down,
    /// Taken out by an operator, or about to leave.
    OutOfService,
    /// Nobody can say: ask the instance itself.
    Unknown,
}

impl InstanceStatus {
    /// As it is written by ZooKeeper entries, files and Eureka: `OUT_OF_SERVICE`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "UP",
            Self::Starting => "STARTING",
            Self::Down => "DOWN",
            Self::OutOfService => "OUT_OF_SERVICE",
            Self::Unknown => "UNKNOWN",
        }
    }
}

impl fmt::Display for InstanceStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for InstanceStatus {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        [
            Self::Up,
            Self::Starting,
            Self::Down,
            Self::OutOfService,
            Self::Unknown,
        ]
        .into_iter()
        .find(|status| status.as_str() == text)
        .ok_or_else(|| {
            Error::invalid("a status is one of UP, STARTING, DOWN, OUT_OF_SERVICE, UNKNOWN")
                .with("field", "status")
        })
    }
}

/// One process that offers a service, as it is announced.
///
/// ```
/// use std::time::Duration;
/// use crm_core::registry::discovery::Instance;
///
/// let instance = Instance::new("mailer/outbound".parse().unwrap(), "host-1", "http://10.0.0.7:8080/".parse().unwrap())
///     .zone("eu-1")
///     .lease(Duration::from_secs(30));
/// assert!(instance.validate().is_ok());
/// // What comes from outside is not believed: an address with a password in it is refused.
/// let odd = Instance::new("mailer/outbound".parse().unwrap(), "x", "http://u:p@10.0.0.7/".parse().unwrap());
/// assert_eq!(odd.validate().unwrap_err().context("field"), Some("address"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Instance {
    /// What it offers.
    pub service: Service,
    /// Which one it is: unique within the service, and the same after a restart if the host wants it to take over its
    /// own old entry. 1 to 128 visible ASCII characters without `/` and `%`, not `.` or `..`.
    pub id: String,
    /// Where it is. The scheme chooses the factory of the [`Catalog`](crate::registry::Catalog). Without user and
    /// password: everybody who may list it can read it.
    pub address: Url,
    /// Where it stands; its own zone is preferred by a [`Resolver`](super::Resolver) that knows its zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// What else is to be known. No secrets, no personal data.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Whether it may be called.
    #[serde(default)]
    pub status: InstanceStatus,
    /// How long it counts as alive without a renewal, in seconds when written down. 1 s to 1 h; 30 s unless said
    /// otherwise. ZooKeeper uses the session's time-out in its place; Eureka keeps a renewed lease for twice as long.
    #[serde(default = "usual_lease", with = "whole_seconds")]
    pub lease: Duration,
}

fn usual_lease() -> Duration {
    Duration::from_secs(30)
}

impl Instance {
    /// An instance that is up, with a lease of 30 s.
    pub fn new(service: Service, id: impl Into<String>, address: Url) -> Self {
        Self {
            service,
            id: id.into(),
            address,
            zone: None,
            metadata: BTreeMap::new(),
            status: InstanceStatus::Up,
            lease: usual_lease(),
        }
    }

    /// Sets where it stands.
    #[must_use]
    pub fn zone(mut self, zone: impl Into<String>) -> Self {
        self.zone = Some(zone.into());
        self
    }

    /// Adds a piece of metadata.
    #[must_use]
    pub fn with(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(key.into(), value.into());
        self
    }

    /// Sets whether it may be called.
    #[must_use]
    pub fn status(mut self, status: InstanceStatus) -> Self {
        self.status = status;
        self
    }

    /// Sets how long it counts as alive without a renewal.
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// Checks it: before it is announced, and whenever one comes in, for what other processes announce is not to be
    /// trusted.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] naming the field.
    pub fn validate(&self) -> Result<()> {
        let wrong = |field: &'static str, message: &'static str| {
            Err(Error::invalid(message)
                .with("field", field)
                .with("service", &self.service))
        };
        check_id(&self.id).map_err(|error| error.with("service", &self.service))?;
        if !self.address.username().is_empty() || self.address.password().is_some() {
            return wrong(
                "address",
                "an address that everybody may read has no user and no password",
            );
        }
        if self.address.host_str().is_none_or(str::is_empty) {
            return wrong("address", "an address names a host");
        }
        if let Some(zone) = &self.zone
            && !is_label(zone)
        {
            return wrong("zone", "a zone is 1 to 64 visible ASCII characters");
        }
        if self.metadata.len() > 64 {
            return wrong("metadata", "at most 64 pieces of metadata");
        }
        if self.metadata.keys().any(|key| !is_label(key)) {
            return wrong(
                "metadata",
                "a key of metadata is 1 to 64 visible ASCII characters",
            );
        }
        if self
            .metadata
            .values()
            .any(|value| value.chars().any(|c| c.is_control()))
        {
            return wrong("metadata", "a value of metadata has no control characters");
        }
        let size = self.address.as_str().len()
            + self.zone.as_ref().map_or(0, String::len)
            + self
                .metadata
                .iter()
                .map(|(key, value)| key.len() + value.len())
                .sum::<usize>();
        if size > MAX_INSTANCE_BYTES {
            return wrong(
                "metadata",
                "address, zone and metadata have at most 4096 bytes together",
            );
        }
        if !LEASE.contains(&self.lease) {
            return wrong("lease", "a lease is 1 s to 1 h");
        }
        Ok(())
    }
}

fn is_label(text: &str) -> bool {
    (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// An id is a name of a node and a segment of a path.
pub(crate) fn check_id(id: &str) -> Result<()> {
    let well_formed = (1..=MAX_ID).contains(&id.len())
        && id
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'/' && byte != b'%')
        && id != "."
        && id != "..";
    if well_formed {
        Ok(())
    } else {
        Err(
            Error::invalid("an id is 1 to 128 visible ASCII characters without / and %, and not . or ..")
                .with("field", "id"),
        )
    }
}

mod whole_seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(lease: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(lease.as_secs())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_secs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sound() -> Instance {
        Instance::new(
            Service::new("mailer", "out").unwrap(),
            "a-1",
            "http://10.0.0.1:80/".parse().unwrap(),
        )
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert!(sound().validate().is_ok());
        let long = "x".repeat(4097);
        for (field, wrong) in [
            (
                "id",
                Instance {
                    id: String::new(),
                    ..sound()
                },
            ),
            (
                "id",
                Instance {
                    id: "a/b".into(),
                    ..sound()
                },
            ),
            (
                "id",
                Instance {
                    id: "..".into(),
                    ..sound()
                },
            ),
            (
                "id",
                Instance {
                    id: "ä".into(),
                    ..sound()
                },
            ),
            (
                "address",
                Instance {
                    address: "http://u@h/".parse().unwrap(),
                    ..sound()
                },
            ),
            (
                "address",
                Instance {
                    address: "mailto:a@example.org".parse().unwrap(),
                    ..sound()
                },
            ),
            ("zone", sound().zone("")),
            ("zone", sound().zone("a b")),
            ("metadata", sound().with("", "v")),
            ("metadata", sound().with("k", "a\nb")),
            ("metadata", sound().with("k", long)),
            ("lease", sound().lease(Duration::ZERO)),
            ("lease", sound().lease(Duration::from_secs(3601))),
        ] {
            let error = wrong.validate().unwrap_err();
            assert_eq!(error.context("field"), Some(field), "{error}");
        }
        let many = (0..65).fold(sound(), |instance, n| instance.with(format!("k{n}"), "v"));
        assert_eq!(many.validate().unwrap_err().context("field"), Some("metadata"));
    }

    #[test]
    fn it_is_written_and_read() {
        let instance = sound()
            .zone("z")
            .with("k", "ü")
            .status(InstanceStatus::OutOfService);
        let text = serde_json::to_string(&instance).unwrap();
        assert_eq!(
            text,
            r#"{"service":"mailer/out","id":"a-1","address":"http://10.0.0.1/","zone":"z","metadata":{"k":"ü"},"status":"OUT_OF_SERVICE","lease":30}"#
        );
        assert_eq!(serde_json::from_str::<Instance>(&text).unwrap(), instance);
        assert!(serde_json::from_str::<Instance>(&text.replace("zone", "zine")).is_err());
    }
}
