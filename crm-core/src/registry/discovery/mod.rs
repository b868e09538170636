//! Discovery: who offers what where, when providers live in other processes.
//!
//! A process announces itself as an [`Instance`] of a [`Service`] and keeps its lease alive ([`Announcer`]); others list
//! or watch the service, and a [`Resolver`] turns what they find into a [`Pool`](crate::registry::Pool) of providers.
//! The register between them is a [`Discovery`]: [`MemoryDiscovery`] within one process, [`FileDiscovery`] for a list
//! that an operator writes, and what the features `eureka` and `zookeeper` bring.
//!
//! Nothing here starts a task. The host drives a register by calling [`Discovery::tick`] now and then, or by awaiting
//! [`run`] or [`Announcer::run`], which do it for as long as they are awaited.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
//! use std::sync::Arc;
//! use crm_core::SystemClock;
//! use crm_core::registry::discovery::{Announcer, Discovery, Instance, MemoryDiscovery, Service};
//!
//! let register: Arc<dyn Discovery> = Arc::new(MemoryDiscovery::new("register", SystemClock::shared()));
//! let service = Service::new("mailer", "outbound").unwrap();
//! let me = Instance::new(service.clone(), "host-1", "http://10.0.0.7:8080/".parse().unwrap());
//! let announcer = Announcer::new(register.clone(), me, SystemClock::shared()).unwrap();
//! announcer.tick().await.unwrap(); // registers, later on renews in time
//!
//! let mut watch = register.watch(&service).await.unwrap();
//! assert_eq!(watch.next().await.unwrap().instances.len(), 1);
//! announcer.leave().await.unwrap();
//! assert_eq!(watch.next().await.unwrap().instances.len(), 0);
//! # });
//! ```

mod announce;
#[cfg(feature = "eureka")]
pub mod eureka;
mod file;
mod instance;
mod memory;
mod resolve;
mod watch;
#[cfg(feature = "zookeeper")]
pub mod zookeeper;

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use async_trait::async_trait;

pub use announce::Announcer;
pub use file::FileDiscovery;
pub(crate) use instance::check_id;
pub use instance::{Instance, InstanceStatus, MAX_INSTANCE_BYTES, Service};
pub use memory::MemoryDiscovery;
pub use resolve::{Resolved, Resolver};
pub use watch::{Snapshot, Watch};

use crate::{Error, ErrorKind, Provider, Result};

/// The longest wait between two ticks.
const IDLE: Duration = Duration::from_secs(5);
/// The shortest wait between two ticks: a register that is in trouble is not asked without a pause.
const BREATH: Duration = Duration::from_millis(50);

/// A register of instances.
///
/// All of them keep the same contract, which [`discovery_suite!`](crate::discovery_suite) proves:
///
/// - Registering again under the same id replaces what was there. Deregistering who is not there is fine.
/// - Whoever does not renew, or dies, is gone when its lease is over.
/// - [`Discovery::list`] and [`Discovery::watch`] show all instances whatever their status, in the order of their ids.
/// - When the register cannot be reached, what was known last stays, marked stale: live instances remain usable.
/// - What other processes wrote is not trusted: an entry that does not [validate](Instance::validate) is left out.
#[async_trait]
pub trait Discovery: Provider {
    /// Announces an instance for as long as its lease, or replaces what it said of itself.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] naming the field; [`crate::ErrorKind::Unsupported`] from a register that is only
    /// read; else why the register did not take it. May be called again after any of them.
    async fn register(&self, instance: &Instance) -> Result<()>;

    /// Keeps an instance for another lease. Three times a lease is a good rhythm; an [`Announcer`] keeps it.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] when the lease has lapsed: register again.
    async fn renew(&self, service: &Service, id: &str) -> Result<()>;

    /// Takes an instance out. Best before it stops serving, so that nobody calls it in between.
    ///
    /// # Errors
    /// Why the register did not do it; the lease ends it later on.
    async fn deregister(&self, service: &Service, id: &str) -> Result<()>;

    /// The instances of a service. From a remote register: what was known at the last tick, if the service is known.
    ///
    /// # Errors
    /// When the register cannot be reached and nothing is known of the service.
    async fn list(&self, service: &Service) -> Result<Snapshot>;

    /// The instances of a service and every change of them, seen when the register is driven.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] when too many services are watched.
    async fn watch(&self, service: &Service) -> Result<Watch>;

    /// Does what is due: ends leases, reads again, keeps sessions alive, tells the watches. Gives the time after which
    /// it wants to be called again; calling sooner does no harm.
    ///
    /// # Errors
    /// What kept it from its work. Call it again all the same.
    async fn tick(&self) -> Result<Duration>;

    /// Resolves when something came in that makes a tick worth it before its time. Unless said otherwise: never. May be
    /// dropped.
    async fn stirred(&self) {
        std::future::pending::<()>().await;
    }
}

/// Drives a register until `shutdown` resolves: [`Discovery::tick`] whenever it is due. Errors are traced and do not
/// end it. Waits on tokio's clock.
pub async fn run(discovery: &dyn Discovery, shutdown: impl Future<Output = ()>) {
    let mut shutdown = pin!(shutdown);
    loop {
        let wait = match discovery.tick().await {
            Ok(wait) => wait,
            Err(error) => {
                tracing::warn!(provider = %discovery.info(), kind = %error.kind(), "discovery.tick failed");
                Duration::from_secs(1)
            }
        };
        tokio::select! {
            () = &mut shutdown => return,
            () = tokio::time::sleep(wait.clamp(BREATH, IDLE)) => {}
            () = discovery.stirred() => {}
        }
    }
}

/// What [`Discovery::renew`] answers about who is not there.
fn not_registered(service: &Service) -> Error {
    Error::new(
        ErrorKind::NotFound,
        "the instance is not registered, or its lease has lapsed; register it again",
    )
    .operation("discovery.renew")
    .with("service", service)
}
