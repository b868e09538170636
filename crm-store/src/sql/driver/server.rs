//! What the databases that run as servers share: configuration, URLs, time limits.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crm_core::{Clock, Error, Result, Secret, SystemClock};

use super::Names;

/// How the connection to a database server is encrypted, with rustls and ring.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Tls {
    /// Encrypted whenever the server is not this machine; to this machine when the server offers it. The server's
    /// certificate is not checked.
    #[default]
    Auto,
    /// Not encrypted: password and data can be read on the way.
    Off,
    /// Encrypted, but the server's certificate is not checked: safe from listeners, not from impostors.
    Required,
    /// Encrypted, and the certificate must be made out to the URL's host by an authority of this PEM file, or by one of
    /// the public ones when `None`.
    Verified {
        /// The PEM file of the authority.
        ca: Option<PathBuf>,
    },
}

/// The configuration that is the same for every server.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) name: String,
    pub(super) connections: usize,
    pub(super) wait: Duration,
    pub(super) limit: Duration,
    pub(super) schema: String,
    pub(super) prefix: String,
    pub(super) tls: Tls,
    pub(super) weak: bool,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) seed: u64,
}

impl Settings {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            connections: 10,
            wait: Duration::from_secs(2),
            limit: Duration::from_secs(30),
            schema: String::new(),
            prefix: String::new(),
            tls: Tls::Auto,
            weak: false,
            clock: SystemClock::shared(),
            // Processes that were started together do not pause alike.
            seed: u64::from(std::process::id()),
        }
    }

    pub(super) fn names(&self) -> Result<Names> {
        let wrong = |setting: &'static str, message: &'static str| {
            Err(Error::config(message).with("setting", setting))
        };
        if self.name.is_empty() {
            return wrong("name", "a provider needs a name");
        }
        if !(1..=1000).contains(&self.connections) {
            return wrong("connections", "a store has 1 to 1,000 connections");
        }
        if self.wait.is_zero() || self.wait > Duration::from_secs(3600) {
            return wrong(
                "wait",
                "waiting for a connection takes up to an hour, and some time",
            );
        }
        if self.limit < Duration::from_millis(10) || self.limit > Duration::from_secs(24 * 3600) {
            return wrong("time_limit", "a call may take 10 ms to a day");
        }
        Names::new(&self.schema, &self.prefix)
    }
}

/// The values of a statement that fits into one TLS record (16 KiB, RFC 8446 section 5.1) with what is around them. sqlx
/// leaves Nagle's algorithm on, so the last bytes of a second record wait for the answer to the first, and the server
/// answers nothing before it has all: some 40 ms a statement.
const RECORD_BYTES: usize = 15 << 10;

impl Settings {
    pub(super) fn statement_bytes(&self, most: usize) -> usize {
        match self.tls {
            Tls::Off => most,
            Tls::Auto | Tls::Required | Tls::Verified { .. } => most.min(RECORD_BYTES),
        }
    }
}

/// The builder methods every server's configuration has.
macro_rules! settings_methods {
    () => {
        /// Sets the provider's name in a registry.
        #[must_use]
        pub fn name(mut self, name: impl Into<String>) -> Self {
            self.0.name = name.into();
            self
        }
        /// Sets how many connections there are at most (1 to 1,000); 10 unless set.
        #[must_use]
        pub fn connections(mut self, connections: usize) -> Self {
            self.0.connections = connections;
            self
        }
        /// Sets how long a call waits for a free connection; 2 seconds unless set.
        #[must_use]
        pub fn wait(mut self, wait: Duration) -> Self {
            self.0.wait = wait;
            self
        }
        /// Sets how long a call may take when its context has no nearer deadline; 30 seconds unless set. The server stops
        /// working on it, too. Migrations are not limited.
        #[must_use]
        pub fn time_limit(mut self, limit: Duration) -> Self {
            self.0.limit = limit;
            self
        }
        /// Sets what the names of all tables and indexes begin with, to share a database; nothing unless set.
        #[must_use]
        pub fn with_prefix(mut self, prefix: impl Into<String>) -> Self {
            self.0.prefix = prefix.into();
            self
        }
        /// Sets how connections are encrypted.
        #[must_use]
        pub fn tls(mut self, tls: Tls) -> Self {
            self.0.tls = tls;
            self
        }
        /// Sets the clock that contexts' deadlines are measured on; the machine's unless set.
        #[must_use]
        pub fn clock(mut self, clock: std::sync::Arc<dyn Clock>) -> Self {
            self.0.clock = clock;
            self
        }
        /// Sets the seed of the pauses between tries; the process' id unless set.
        #[must_use]
        pub fn seed(mut self, seed: u64) -> Self {
            self.0.seed = seed;
            self
        }
        /// Opens also a server whose settings can lose what was acknowledged when it crashes: for tests and throw-away
        /// data. The store then does not promise to be durable.
        #[must_use]
        pub fn dangerous_accept_weak_durability(mut self) -> Self {
            self.0.weak = true;
            self
        }
    };
}
pub(super) use settings_methods;

/// Where a server is, and who asks.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) user: String,
    pub(super) password: Option<Secret>,
    pub(super) database: String,
}

/// Reads a URL; its parameters go into the settings.
pub(super) fn place(url: &str, schemes: &[&str], port: u16, settings: &mut Settings) -> Result<Place> {
    // Neither the URL nor the parser's complaint is passed on: there may be a password in it.
    let wrong = |message: &'static str| Error::config(message).with("setting", "url");
    let url = url::Url::parse(url)
        .map_err(|_| wrong("a database is named <scheme>://user:password@host:port/database"))?;
    if !schemes.contains(&url.scheme()) {
        return Err(wrong("this scheme belongs to another store"));
    }
    let decode =
        |text: &str| super::percent_decode(text).ok_or_else(|| wrong("the URL has a broken %-escape"));
    let host = url
        .host_str()
        .filter(|host| !host.is_empty())
        .ok_or_else(|| wrong("the URL has no host"))?;
    let database = decode(url.path().trim_start_matches('/'))?;
    if database.is_empty() || database.contains('\0') {
        return Err(wrong(
            "the URL has no database: it follows the host, after a slash",
        ));
    }
    if url.username().is_empty() {
        return Err(wrong(
            "the URL has no user: it stands before the host, followed by @",
        ));
    }
    for (key, value) in url.query_pairs() {
        let bad = |message: &'static str| wrong(message).with("parameter", &key);
        match &*key {
            "schema" => settings.schema = value.into_owned(),
            "prefix" => settings.prefix = value.into_owned(),
            "connections" => {
                settings.connections = value
                    .parse()
                    .map_err(|_| bad("the number of connections is a number"))?;
            }
            "ca" | "sslrootcert" | "ssl-ca" => {
                settings.tls = Tls::Verified {
                    ca: Some(PathBuf::from(value.into_owned())),
                };
            }
            "tls" | "sslmode" | "ssl-mode" => match &*value.to_ascii_lowercase() {
                "auto" | "prefer" | "preferred" => settings.tls = Tls::Auto,
                "off" | "disable" | "disabled" => settings.tls = Tls::Off,
                "require" | "required" => settings.tls = Tls::Required,
                "verify" | "verify-full" | "verify_identity" => {
                    if !matches!(settings.tls, Tls::Verified { .. }) {
                        settings.tls = Tls::Verified { ca: None };
                    }
                }
                _ => return Err(bad("tls is auto, off, require or verify")),
            },
            "durability" => match &*value {
                "full" => settings.weak = false,
                "weak" => settings.weak = true,
                _ => {
                    return Err(bad(
                        "durability is full, or weak to accept a server that can lose data",
                    ));
                }
            },
            _ => {
                return Err(bad(
                    "a database URL has no such parameter; set it in the configuration",
                ));
            }
        }
    }
    Ok(Place {
        host: host.trim_matches(['[', ']']).to_owned(),
        port: url.port().unwrap_or(port),
        user: decode(url.username())?,
        password: url.password().map(decode).transpose()?.map(Secret::new),
        database,
    })
}

impl Place {
    /// Whether the server is this machine.
    pub(super) fn is_local(&self) -> bool {
        let address = self.host.parse::<std::net::IpAddr>();
        self.host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    }
}

/// Pauses that grow with the tries, never alike for two that were in each other's way.
#[derive(Debug)]
pub(super) struct Pauses(AtomicU64);

impl Pauses {
    pub(super) fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    /// Between nothing and 5 ms doubled with each try.
    pub(super) fn next(&self, tries: u32) -> Duration {
        let most = 5_000_u64 << tries.min(8);
        Duration::from_micros(self.random() % most)
    }

    /// SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014).
    fn random(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut z = self.0.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// The error for a server whose settings can lose what was acknowledged.
pub(super) fn weak(setting: &'static str, wanted: &'static str, found: &str) -> Error {
    Error::config(
        "the server can lose what it acknowledged; change its setting, or accept it (dangerous_accept_weak_durability)",
    )
    .with("setting", setting)
    .with("wanted", wanted)
    .with("found", found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crm_core::ErrorKind;

    fn read(url: &str) -> Result<(Place, Settings)> {
        let mut settings = Settings::new("x");
        place(url, &["mysql", "mariadb"], 3306, &mut settings).map(|place| (place, settings))
    }

    #[test]
    fn urls() {
        let (place, settings) =
            read("mysql://crm:p%40ss@db.example:3307/shop?prefix=crm_x_&tls=verify&ca=/ca.pem").unwrap();
        assert_eq!(
            (&*place.host, place.port, &*place.user, &*place.database),
            ("db.example", 3307, "crm", "shop")
        );
        assert_eq!(place.password.as_ref().map(|p| p.expose()), Some("p@ss"));
        assert!(!place.is_local());
        assert_eq!(settings.names().unwrap().prefix(), "crm_x_");
        assert!(matches!(settings.tls, Tls::Verified { ca: Some(_) }));
        assert!(read("mariadb://crm@[::1]/shop").unwrap().0.is_local());
        assert!(!format!("{place:?}").contains("p@ss"));
        for (url, word) in [
            ("mysql://crm:s3cret@host", "no database"),
            ("mysql://host/db", "no user"),
            ("mysql://crm:s3cret@host/db?nope=1", "parameter=nope"),
            ("mysql://crm:s3cret@host/db?tls=maybe", "parameter=tls"),
            ("mysql://crm:s3cret@ho st/db", "named"),
            ("oracle://crm:s3cret@host/db", "scheme"),
        ] {
            let error = read(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.to_string().contains(word), "{error}");
            assert!(!format!("{error:?}").contains("s3cret"));
        }
    }

    #[test]
    fn names_are_plain() {
        for (schema, prefix) in [
            ("Crm", ""),
            ("", "a-b"),
            ("", "9a"),
            ("a\"b", ""),
            ("", "long_long_long_long_long_long_long_"),
        ] {
            assert_eq!(Names::new(schema, prefix).unwrap_err().kind(), ErrorKind::Config);
        }
        assert!(Names::new("crm", "x_").is_ok());
    }

    #[test]
    fn pauses_grow_and_differ() {
        let (a, b) = (Pauses::new(1), Pauses::new(2));
        assert!((0..100).all(|_| a.next(1) < Duration::from_millis(10)));
        assert!((0..100).any(|_| a.next(4) > Duration::from_millis(10)));
        assert_ne!(a.next(5), b.next(5));
    }
}
