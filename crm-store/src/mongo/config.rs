//! How a MongoDB store is opened.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crm_core::{Clock, Error, Result, SystemClock};
use mongodb::options::{
    Acknowledgment, ClientOptions, ReadConcern, ReadPreference, SelectionCriteria, WriteConcern,
};

/// How a MongoDB deployment is used. [`MongoConfig::default`] is right for most.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct MongoConfig {
    /// The provider's name in a registry; `mongodb` unless set.
    pub name: String,
    /// The database; the one in the URL unless set.
    pub database: Option<String>,
    /// Put before the name of every collection, so that several stores share a database; empty unless set.
    pub prefix: String,
    /// How many calls run at the same time, each on a connection of its own (1 to 512); 16 unless set.
    pub connections: u32,
    /// How long a call waits for a free connection, for a server that can take it, for another unit of work that is in
    /// its way, or for the answer to a lost commit; 5 seconds unless set.
    pub wait: Duration,
    /// Whether a server without transactions is accepted; see
    /// [`dangerously_without_transactions`](Self::dangerously_without_transactions).
    pub without_transactions: bool,
    /// What a call's deadline is measured against; the machine's clock unless set.
    pub clock: Arc<dyn Clock>,
}

impl Default for MongoConfig {
    fn default() -> Self {
        Self {
            name: "mongodb".to_owned(),
            database: None,
            prefix: String::new(),
            connections: 16,
            wait: Duration::from_secs(5),
            without_transactions: false,
            clock: SystemClock::shared(),
        }
    }
}

impl MongoConfig {
    /// Sets the provider's name.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }
    /// Sets the database.
    #[must_use]
    pub fn database(mut self, database: impl Into<String>) -> Self {
        self.database = Some(database.into());
        self
    }
    /// Sets what stands before the name of every collection.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }
    /// Sets how many calls run at the same time.
    #[must_use]
    pub fn connections(mut self, connections: u32) -> Self {
        self.connections = connections;
        self
    }
    /// Sets how long a call waits.
    #[must_use]
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }
    /// Sets what deadlines are measured against.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }
    /// Accepts a standalone server, which has no transactions: every single write is still whole and fenced, but a unit
    /// of work of two writes or more is refused ([`crm_core::ErrorKind::Unsupported`]), and
    /// [`StoreCapability::atomic`](crm_core::capability::StoreCapability) is false. `Customers` needs more than that.
    #[must_use]
    pub fn dangerously_without_transactions(mut self) -> Self {
        self.without_transactions = true;
        self
    }

    pub(super) fn validate(&self) -> Result<()> {
        let wrong = |setting: &'static str, message: &'static str| {
            Err(Error::config(message).with("setting", setting))
        };
        if self.name.is_empty() {
            return wrong("name", "a provider needs a name");
        }
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        if self.prefix.len() > 32 || !self.prefix.bytes().all(plain) {
            return wrong("prefix", "a prefix is made of a-z, 0-9 and _, at most 32 of them");
        }
        if !(1..=512).contains(&self.connections) {
            return wrong("connections", "a store uses 1 to 512 connections");
        }
        if self.wait < Duration::from_millis(10) || self.wait > Duration::from_secs(3600) {
            return wrong("wait", "a call waits 10 milliseconds to an hour");
        }
        Ok(())
    }
}

/// What the driver is to do, and which database to use.
pub(super) struct Opening {
    pub(super) options: ClientOptions,
    pub(super) database: String,
}

impl fmt::Debug for Opening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opening")
            .field("database", &self.database)
            .finish_non_exhaustive()
    }
}

/// Reads the URL and puts the settings of durability in order. The URL never stands in an error: it may hold a password.
pub(super) async fn read(url: &str, config: &MongoConfig) -> Result<Opening> {
    config.validate()?;
    let wrong =
        |setting: &'static str, message: &'static str| Error::config(message).with("setting", setting);
    let mut options = ClientOptions::parse(url).await.map_err(|error| {
        let unreadable = wrong(
            "url",
            "a MongoDB store is named mongodb://user:password@host:27017/database?replicaSet=rs0 or \
             mongodb+srv://..; reserved characters of user and password are percent-encoded",
        );
        match &*error.kind {
            mongodb::error::ErrorKind::DnsResolve { .. } => wrong(
                "url",
                "the hosts of the mongodb+srv URL cannot be found in the DNS",
            ),
            // The driver's words name the option that is wrong, but may quote the URL.
            mongodb::error::ErrorKind::InvalidArgument { message, .. } if !url.contains('@') => {
                unreadable.with("driver", message)
            }
            _ => unreadable,
        }
    })?;
    let database = config
        .database
        .clone()
        .or_else(|| options.default_database.clone())
        .filter(|name| !name.is_empty())
        .ok_or_else(|| {
            wrong(
                "database",
                "name the database, behind the host in the URL or in the configuration",
            )
        })?;
    if let Some(asked) = &options.write_concern {
        let weak = match &asked.w {
            None | Some(Acknowledgment::Majority) => asked.journal == Some(false),
            Some(_) => true,
        };
        if weak {
            return Err(wrong(
                "url",
                "what is acknowledged must be on the journals of a majority; leave w and journal out of the URL",
            ));
        }
    }
    if let Some(SelectionCriteria::ReadPreference(preference)) = &options.selection_criteria
        && !matches!(preference, ReadPreference::Primary)
    {
        return Err(wrong(
            "url",
            "a secondary may not know yet what was just written; leave readPreference out of the URL",
        ));
    }
    options.write_concern = Some(durable());
    options.read_concern = Some(ReadConcern::majority());
    options.selection_criteria = Some(SelectionCriteria::ReadPreference(ReadPreference::Primary));
    // One more than calls, for a unit of work that was dropped and is being given up.
    options.max_pool_size = Some(config.connections + 1);
    options.server_selection_timeout = Some(config.wait);
    options.connect_timeout.get_or_insert(config.wait);
    options.app_name.get_or_insert_with(|| "open-crm".to_owned());
    Ok(Opening { options, database })
}

/// On the journals of a majority: what is acknowledged outlives a crash and a failover.
pub(super) fn durable() -> WriteConcern {
    WriteConcern::builder()
        .w(Acknowledgment::Majority)
        .journal(true)
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(url: &str, config: MongoConfig) -> Error {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(read(url, &config)).unwrap_err()
    }

    #[test]
    fn wrong_settings_are_named_and_the_password_is_not() {
        let good = "mongodb://ana:hunter2@localhost/crm";
        let config = MongoConfig::default;
        for (url, config, setting) in [
            ("mongodb://ana:hunter2@local host:x/crm", config(), "url"),
            ("mongodb://ana:hunt@er2@localhost/crm", config(), "url"),
            ("mongodb://ana:hunter2@localhost", config(), "database"),
            ("mongodb://ana:hunter2@localhost/crm?w=1", config(), "url"),
            (
                "mongodb://ana:hunter2@localhost/crm?journal=false",
                config(),
                "url",
            ),
            (
                "mongodb://ana:hunter2@localhost/crm?readPreference=secondary",
                config(),
                "url",
            ),
            (good, config().name(""), "name"),
            (good, config().prefix("Crm."), "prefix"),
            (good, config().connections(0), "connections"),
            (good, config().wait(Duration::ZERO), "wait"),
        ] {
            let error = refused(url, config);
            assert_eq!(error.context("setting"), Some(setting), "{error}");
            assert!(!format!("{error:?}").contains("hunt"), "{error:?}");
        }
    }
}
