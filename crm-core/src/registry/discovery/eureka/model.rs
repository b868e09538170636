//! An instance as Eureka's protocol has it (`InstanceInfo`), apart from how it is written.

use std::fmt;

/// The most pieces of metadata that are read.
pub(super) const MAX_METADATA: usize = 256;

/// `InstanceStatus` of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Status {
    Up,
    Down,
    Starting,
    OutOfService,
    Unknown,
}

impl Status {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Up => "UP",
            Self::Down => "DOWN",
            Self::Starting => "STARTING",
            Self::OutOfService => "OUT_OF_SERVICE",
            Self::Unknown => "UNKNOWN",
        }
    }

    /// Exactly one of the names, as a query parameter must be.
    pub(super) fn exact(text: &str) -> Option<Self> {
        [
            Self::Up,
            Self::Down,
            Self::Starting,
            Self::OutOfService,
            Self::Unknown,
        ]
        .into_iter()
        .find(|status| status.as_str() == text)
    }

    /// As a body is read: in any case, and unknown when it is none of them.
    pub(super) fn lenient(text: &str) -> Self {
        Self::exact(&text.to_uppercase()).unwrap_or(Self::Unknown)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What happened to it last, as a delta says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Added,
    Modified,
    Deleted,
}

impl Action {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }

    pub(super) fn of(text: &str) -> Option<Self> {
        [Self::Added, Self::Modified, Self::Deleted]
            .into_iter()
            .find(|action| action.as_str() == text)
    }
}

/// A port and whether it is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Port {
    pub(super) number: i32,
    pub(super) enabled: bool,
}

/// Where it runs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct DataCenter {
    /// `Netflix`, `Amazon` or `MyOwn`.
    pub(super) name: Option<String>,
    /// Of `Amazon` only.
    pub(super) metadata: Vec<(String, String)>,
}

/// How its lease stands. Milliseconds since 1970; 0 is never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lease {
    pub(super) renewal_secs: i64,
    pub(super) duration_secs: i64,
    pub(super) registered: i64,
    pub(super) renewed: i64,
    pub(super) evicted: i64,
    pub(super) up: i64,
}

impl Default for Lease {
    fn default() -> Self {
        Self {
            renewal_secs: 30,
            duration_secs: 90,
            registered: 0,
            renewed: 0,
            evicted: 0,
            up: 0,
        }
    }
}

/// An instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Info {
    pub(super) instance_id: Option<String>,
    pub(super) host: Option<String>,
    /// Upper case.
    pub(super) app: Option<String>,
    pub(super) ip: Option<String>,
    pub(super) sid: Option<String>,
    pub(super) status: Status,
    pub(super) overridden: Status,
    pub(super) port: Port,
    pub(super) secure_port: Port,
    pub(super) country: i64,
    pub(super) data_center: Option<DataCenter>,
    pub(super) lease: Lease,
    pub(super) metadata: Vec<(String, String)>,
    /// The texts of [`TEXTS`], in their order.
    pub(super) texts: [Option<String>; 8],
    pub(super) coordinating: bool,
    pub(super) last_updated: i64,
    pub(super) last_dirty: i64,
    pub(super) action: Option<Action>,
}

/// Plain texts of an instance, in the order they are written; the last one comes at the very end.
pub(super) const TEXTS: [&str; 8] = [
    "appGroupName",
    "homePageUrl",
    "statusPageUrl",
    "healthCheckUrl",
    "secureHealthCheckUrl",
    "vipAddress",
    "secureVipAddress",
    "asgName",
];
/// Places in it.
pub(super) const HOME_PAGE: usize = 1;
pub(super) const VIP: usize = 5;
pub(super) const SECURE_VIP: usize = 6;

impl Info {
    /// What an instance is about which nothing was said, at this time.
    pub(super) fn blank(now_ms: i64) -> Self {
        Self {
            instance_id: None,
            host: None,
            app: None,
            ip: None,
            sid: None,
            status: Status::Up,
            overridden: Status::Unknown,
            port: Port {
                number: 7001,
                enabled: true,
            },
            secure_port: Port {
                number: 7002,
                enabled: false,
            },
            country: 1,
            data_center: None,
            lease: Lease::default(),
            metadata: Vec::new(),
            texts: Default::default(),
            coordinating: false,
            last_updated: now_ms,
            last_dirty: now_ms,
            action: None,
        }
    }

    /// What it is known by: its id, the id of its machine, or its host.
    pub(super) fn id(&self) -> Option<&str> {
        let filled = |text: &&str| !text.is_empty();
        self.instance_id
            .as_deref()
            .filter(filled)
            .or_else(|| {
                self.data_center
                    .iter()
                    .filter(|center| center.name.as_deref() == Some("Amazon"))
                    .flat_map(|center| &center.metadata)
                    .find(|(key, _)| key == "instance-id")
                    .map(|(_, value)| value.as_str())
                    .filter(filled)
            })
            .or(self.host.as_deref())
    }

    pub(super) fn text(&self, which: usize) -> Option<&str> {
        self.texts.get(which).and_then(|text| text.as_deref())
    }

    /// Sets a field of the wire by its name, as far as it is a plain one. `false` when it is none.
    pub(super) fn set_plain(&mut self, name: &str, value: String) -> bool {
        let number = |default: i64| value.trim().parse().unwrap_or(default);
        match name {
            "instanceId" => self.instance_id = Some(value),
            "hostName" => self.host = Some(value),
            "app" => self.app = Some(value.to_uppercase()),
            "ipAddr" => self.ip = Some(value),
            "sid" => self.sid = Some(value),
            "status" => self.status = Status::lenient(&value),
            "overriddenStatus" | "overriddenstatus" => self.overridden = Status::lenient(&value),
            "countryId" => self.country = number(1),
            "lastUpdatedTimestamp" => self.last_updated = number(self.last_updated),
            "lastDirtyTimestamp" => self.last_dirty = number(self.last_dirty),
            "isCoordinatingDiscoveryServer" => self.coordinating = value.trim() == "true",
            "actionType" => self.action = Action::of(value.trim()),
            _ => match TEXTS.iter().position(|text| *text == name) {
                Some(at) => {
                    if let Some(text) = self.texts.get_mut(at) {
                        *text = Some(value);
                    }
                }
                None => return false,
            },
        }
        true
    }

    /// Sets a field of the lease by its name.
    pub(super) fn set_lease(&mut self, name: &str, value: i64) {
        // Less than a second is nothing that can be meant.
        let at_least_one = |value: i64, usual: i64| if value <= 0 { usual } else { value };
        match name {
            "renewalIntervalInSecs" => self.lease.renewal_secs = at_least_one(value, 30),
            "durationInSecs" => self.lease.duration_secs = at_least_one(value, 90),
            "registrationTimestamp" => self.lease.registered = value,
            "lastRenewalTimestamp" | "renewalTimestamp" => self.lease.renewed = value,
            "evictionTimestamp" => self.lease.evicted = value,
            "serviceUpTimestamp" => self.lease.up = value,
            _ => {}
        }
    }
}

/// Adds a piece of metadata or replaces it. `false` when there are too many.
pub(super) fn put(metadata: &mut Vec<(String, String)>, key: String, value: String) -> bool {
    if let Some((_, old)) = metadata.iter_mut().find(|(k, _)| *k == key) {
        *old = value;
        return true;
    }
    if metadata.len() >= MAX_METADATA {
        return false;
    }
    metadata.push((key, value));
    true
}

/// An application: all instances of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct App {
    pub(super) name: String,
    pub(super) instances: Vec<Info>,
}

/// Several of them, as they are sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Apps {
    pub(super) version: i64,
    pub(super) hash: String,
    pub(super) apps: Vec<App>,
}

/// How many there are of each status, in the order of the statuses' names: `DOWN_1_UP_2_`. What a client compares to
/// know whether it has missed something.
pub(super) fn hash_of<'a>(instances: impl Iterator<Item = &'a Info>) -> String {
    let mut counts: std::collections::BTreeMap<&'static str, usize> = std::collections::BTreeMap::new();
    for info in instances {
        *counts.entry(info.status.as_str()).or_default() += 1;
    }
    counts
        .into_iter()
        .map(|(status, count)| format!("{status}_{count}_"))
        .collect()
}
