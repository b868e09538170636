//! ZooKeeper (feature `zookeeper`): a register that ends leases by itself when a process dies.
//!
//! An instance is an ephemeral node `<root>/<capability>/<name>/<id>` with the [`Instance`](super::Instance) as JSON. It
//! belongs to the process's session, which is kept alive by [`Discovery::tick`](super::Discovery::tick); when the process
//! dies, ZooKeeper removes the node after the session's time-out.
//!
//! - **Disconnected** is not gone: another server of the ensemble is tried, the session goes on, and until then the last
//!   known instances stay, marked stale.
//! - **Expired**, which only the ensemble decides, is a new session: everything this process announced is announced
//!   again, and everything that is watched is read again.
//! - A watch of ZooKeeper tells once. Each one is armed anew with the very read that follows it, so that no change falls in
//!   between, and many changes between two ticks are read once.
//!
//! The protocol is spoken here directly (the records of ZooKeeper's `zookeeper.jute`, version 3.4 and later): the ten
//! requests it takes are fewer than the dependencies of the clients there are, which start threads or tasks of their own.
//! There is no TLS yet; put ZooKeeper into a network of its own.
//!
//! ```
//! use crm_core::SystemClock;
//! use crm_core::registry::discovery::zookeeper::{ZooKeeperConfig, ZooKeeperDiscovery};
//!
//! let config = ZooKeeperConfig::from_url("zookeeper://zk-1:2181,zk-2:2181,zk-3:2181/crm/prod").unwrap();
//! assert_eq!((config.servers.len(), config.root.as_str()), (3, "/crm/prod"));
//! assert!(ZooKeeperDiscovery::new("zookeeper", config, SystemClock::shared()).is_ok());
//! ```

mod config;
mod link;
mod provider;
mod session;
mod wire;

pub use config::ZooKeeperConfig;
pub use provider::ZooKeeperDiscovery;
