use std::fmt;
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::net::TcpStream;
use tokio::sync::{Mutex, MutexGuard};

use super::config::ZooKeeperConfig;
use super::session::Session;
use crate::registry::discovery::watch::Board;
use crate::registry::discovery::{
    BREATH, Discovery, IDLE, Instance, Service, Snapshot, Watch, check_id, not_registered,
};
use crate::{Clock, Error, ErrorKind, Health, Provider, ProviderInfo, Result, Retry};

/// A register in ZooKeeper. Clones share one session.
///
/// The session lives by [`Discovery::tick`]: a host that does not call it (or await
/// [`run`](crate::registry::discovery::run) or [`Announcer::run`](crate::registry::discovery::Announcer::run)) loses it
/// after the session's time-out, and with it all that it announced.
///
/// See the example of the [module](super).
#[derive(Clone)]
pub struct ZooKeeperDiscovery(Arc<Inner>);

struct Inner {
    info: ProviderInfo,
    config: ZooKeeperConfig,
    board: Board,
    session: Mutex<Session>,
    wake: Arc<StdMutex<Option<Arc<TcpStream>>>>,
}

impl fmt::Debug for ZooKeeperDiscovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZooKeeperDiscovery")
            .field("name", &self.0.info.name)
            .field("config", &self.0.config)
            .finish_non_exhaustive()
    }
}

impl ZooKeeperDiscovery {
    /// A register; nothing is connected yet.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] naming the setting.
    pub fn new(name: impl Into<String>, config: ZooKeeperConfig, clock: Arc<dyn Clock>) -> Result<Self> {
        config.validate()?;
        let session = Session::new(config.clone(), clock);
        let wake = session.wake.clone();
        Ok(Self(Arc::new(Inner {
            info: ProviderInfo::new("zookeeper", name),
            config,
            board: Board::default(),
            session: Mutex::new(session),
            wake,
        })))
    }

    /// Ends the session in good order: everything it announced is gone at once, not after the time-out. It may be used
    /// again, with a new session.
    ///
    /// # Errors
    /// When the server did not answer; the session then ends by its time-out.
    pub async fn close(&self) -> Result<()> {
        let mut session = self.0.session.lock().await;
        session
            .close()
            .await
            .map_err(|error| self.named(error, "discovery.close"))
    }

    fn named(&self, error: Error, operation: &'static str) -> Error {
        error.operation(operation).with("provider", &self.0.info)
    }

    /// A session that is connected.
    async fn session(&self, operation: &'static str) -> Result<MutexGuard<'_, Session>> {
        let mut session = self.0.session.lock().await;
        match session.connect().await {
            Ok(()) => Ok(session),
            Err(error) => {
                self.0.board.mark(true);
                Err(self.named(error, operation))
            }
        }
    }

    /// A connection that breaks says nothing about whether the request was carried out, but each may be sent again.
    fn unsure(&self, error: Error, operation: &'static str) -> Error {
        let broken = matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout);
        let error = self.named(error, operation);
        if broken {
            error.effect_unknown().with_retry(Retry::Allowed { after: None })
        } else {
            error
        }
    }

    /// Reads again what changed, and tells the watches.
    async fn catch_up(&self, session: &mut Session) -> Result<()> {
        let watched = self.0.board.watched();
        // What nobody listens to any more is not read again.
        session.watched.retain(|service| watched.contains(service));
        session.dirty.retain(|service| watched.contains(service));
        for service in watched {
            if session.watched.insert(service.clone()) {
                session.dirty.insert(service);
            }
        }
        // What becomes due while it is read waits for the next tick.
        for service in std::mem::take(&mut session.dirty) {
            match session.read(&service, true).await {
                Ok(instances) => {
                    self.0.board.publish(&service, instances, false);
                }
                Err(error) => {
                    // Those that were not read yet are as outdated as this one.
                    session.dirty = session.watched.clone();
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Provider for ZooKeeperDiscovery {
    fn info(&self) -> &ProviderInfo {
        &self.0.info
    }

    /// Ready when there is a session with a server that serves.
    async fn check(&self) -> Result<Health> {
        let mut session = self.session("discovery.check").await?;
        session
            .pump()
            .await
            .map_err(|error| self.named(error, "discovery.check"))?;
        Ok(Health::Ready)
    }
}

#[async_trait]
impl Discovery for ZooKeeperDiscovery {
    async fn register(&self, instance: &Instance) -> Result<()> {
        const NAME: &str = "discovery.register";
        instance.validate().map_err(|error| error.operation(NAME))?;
        let mut session = self.session(NAME).await?;
        let mut made = session.create(instance).await;
        if made.is_err() && !session.stands() {
            // The server went away: once more, through another one. The node tells whether the first was heard.
            session
                .connect()
                .await
                .map_err(|error| self.unsure(error, NAME))?;
            made = session.create(instance).await;
        }
        made.map_err(|error| self.unsure(error, NAME))?;
        let key = (instance.service.clone(), instance.id.clone());
        session.mine.insert(key, instance.clone());
        Ok(())
    }

    /// Makes sure that the node is there and belongs to the session; the session itself is kept alive by ticks.
    async fn renew(&self, service: &Service, id: &str) -> Result<()> {
        const NAME: &str = "discovery.renew";
        check_id(id).map_err(|error| error.operation(NAME))?;
        let mut session = self.session(NAME).await?;
        if !session.mine.contains_key(&(service.clone(), id.to_owned())) {
            return Err(not_registered(service));
        }
        let mut held = session.holds(service, id).await;
        if held.is_err() && !session.stands() {
            session.connect().await.map_err(|error| self.named(error, NAME))?;
            held = session.holds(service, id).await;
        }
        match held {
            Ok(true) => Ok(()),
            Ok(false) => Err(not_registered(service)),
            Err(error) => Err(self.named(error, NAME)),
        }
    }

    async fn deregister(&self, service: &Service, id: &str) -> Result<()> {
        const NAME: &str = "discovery.deregister";
        check_id(id).map_err(|error| error.operation(NAME))?;
        // First of all it must not be announced again by a new session.
        self.0
            .session
            .lock()
            .await
            .mine
            .remove(&(service.clone(), id.to_owned()));
        let mut session = self.session(NAME).await?;
        let mut gone = session.remove(service, id).await;
        if gone.is_err() && !session.stands() {
            session
                .connect()
                .await
                .map_err(|error| self.unsure(error, NAME))?;
            gone = session.remove(service, id).await;
        }
        gone.map_err(|error| self.unsure(error, NAME))
    }

    async fn list(&self, service: &Service) -> Result<Snapshot> {
        const NAME: &str = "discovery.list";
        let outcome = match self.session(NAME).await {
            Ok(mut session) => {
                let mut read = session.read(service, false).await;
                if read.is_err() && !session.stands() {
                    read = match session.connect().await {
                        Ok(()) => session.read(service, false).await,
                        Err(error) => Err(error),
                    };
                }
                read.map_err(|error| self.named(error, NAME))
            }
            Err(error) => Err(error),
        };
        match outcome {
            Ok(instances) => Ok(self.0.board.publish(service, instances, false)),
            // What was known stays.
            Err(error) => match self.0.board.last(service).filter(|last| last.generation > 0) {
                Some(last) if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout) => {
                    Ok(self.0.board.publish(service, last.instances.to_vec(), true))
                }
                _ => Err(error),
            },
        }
    }

    async fn watch(&self, service: &Service) -> Result<Watch> {
        let watch = self.0.board.watch(service)?;
        // A watch may be asked for before the ensemble can be reached: the next tick arms it.
        if let Ok(mut session) = self.session("discovery.watch").await {
            let _ = self.catch_up(&mut session).await;
        }
        Ok(watch)
    }

    async fn tick(&self) -> Result<Duration> {
        const NAME: &str = "discovery.tick";
        let mut session = self.session(NAME).await?;
        let mut outcome = session.pump().await;
        if outcome.is_err() && !session.stands() {
            // The server went away: another one takes the session over while it lives.
            outcome = session.connect().await;
        }
        if outcome.is_ok() {
            outcome = self.catch_up(&mut session).await;
        }
        match outcome {
            Ok(()) => Ok(session.rhythm().clamp(BREATH, IDLE)),
            Err(error) => {
                self.0.board.mark(true);
                Err(self.named(error, NAME))
            }
        }
    }

    async fn stirred(&self) {
        let stream = self.0.wake.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match stream {
            // Whether it can be read or has failed, the tick finds out.
            Some(stream) => drop(stream.readable().await),
            None => std::future::pending().await,
        }
    }
}
