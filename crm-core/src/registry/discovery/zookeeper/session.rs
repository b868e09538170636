//! The session: who we are to the ensemble, through whichever server.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpStream;
use zeroize::Zeroizing;

use super::config::ZooKeeperConfig;
use super::link::{Broken, Link, Reply};
use super::wire::{Reader, Writer, code, op};
use crate::registry::discovery::{Instance, Service};
use crate::{Clock, Error, ErrorKind, Result, Timestamp};

/// What may be done with a node, and by whom.
const ALL: i32 = 31;
const READ: i32 = 1;
/// A node that goes with its session.
const EPHEMERAL: i32 = 1;
const PERSISTENT: i32 = 0;
/// No instance is larger than this as JSON: 4 KiB of content, escaped at worst.
const MAX_DATA: usize = 32 * 1024;

pub(super) struct Session {
    config: ZooKeeperConfig,
    clock: Arc<dyn Clock>,
    /// What to wait on for something to come in, for those who do not hold the session.
    pub(super) wake: Arc<Mutex<Option<Arc<TcpStream>>>>,
    link: Option<Link>,
    /// Which server is tried next.
    turn: usize,
    id: i64,
    password: Zeroizing<Vec<u8>>,
    zxid: i64,
    timeout: Duration,
    pinged: Timestamp,
    /// What this process announced: announced again in a new session.
    pub(super) mine: BTreeMap<(Service, String), Instance>,
    /// What is watched, and what of it has to be read again.
    pub(super) watched: BTreeSet<Service>,
    pub(super) dirty: BTreeSet<Service>,
}

/// Two sentences of every operation that met a broken connection: what the caller may do is the same.
fn unreachable(broken: Broken) -> Error {
    let (kind, message) = match broken {
        Broken::Closed => (
            ErrorKind::Unavailable,
            "no server of the ensemble can be reached, or none serves",
        ),
        Broken::Silent => (ErrorKind::Timeout, "the server does not answer"),
        Broken::Garbage => (
            ErrorKind::Unavailable,
            "what answers does not speak ZooKeeper's protocol",
        ),
    };
    Error::new(kind, message)
}

/// A code that no caller expected.
pub(super) fn refused(code: i32) -> Error {
    let (kind, message) = match code {
        code::NO_AUTH => (
            ErrorKind::PermissionDenied,
            "the node belongs to another user (ACL)",
        ),
        code::AUTH_FAILED => (ErrorKind::Unauthenticated, "user and password are refused"),
        code::SESSION_EXPIRED | code::SESSION_MOVED => {
            (ErrorKind::Unavailable, "the session has ended or moved")
        }
        _ => (ErrorKind::Unavailable, "the ensemble refuses the request"),
    };
    Error::new(kind, message).with("code", code)
}

impl Session {
    pub(super) fn new(config: ZooKeeperConfig, clock: Arc<dyn Clock>) -> Self {
        let timeout = Duration::from_secs(config.session_timeout);
        Self {
            config,
            clock,
            wake: Arc::default(),
            link: None,
            turn: 0,
            id: 0,
            password: Zeroizing::new(vec![0; 16]),
            zxid: 0,
            timeout,
            pinged: Timestamp::EPOCH,
            mine: BTreeMap::new(),
            watched: BTreeSet::new(),
            dirty: BTreeSet::new(),
        }
    }

    /// Whether it stands as far as one can know without asking.
    pub(super) fn stands(&self) -> bool {
        self.link.is_some()
    }

    pub(super) fn most(&self) -> usize {
        self.config.max_instances
    }

    /// How often a sign of life is due.
    pub(super) fn rhythm(&self) -> Duration {
        self.timeout / 4
    }

    fn set_wake(&self, stream: Option<Arc<TcpStream>>) {
        *self.wake.lock().unwrap_or_else(PoisonError::into_inner) = stream;
    }

    fn lose(&mut self) {
        if let Some(link) = self.link.take() {
            self.zxid = self.zxid.max(link.zxid);
        }
        self.set_wake(None);
    }

    /// Connects if need be: to any server, going on with the session, or with a new one when it has expired.
    pub(super) async fn connect(&mut self) -> Result<()> {
        match &self.link {
            Some(link) if !link.torn() => return Ok(()),
            _ => self.lose(),
        }
        let servers = self.config.servers.clone();
        // All of them within the time after which the session would be lost.
        let share = self.timeout / u32::try_from(servers.len() + 1).unwrap_or(17);
        let patience = share.clamp(Duration::from_millis(200), Duration::from_secs(5));
        let mut last = unreachable(Broken::Closed);
        for _ in 0..servers.len() {
            let server = servers
                .get(self.turn % servers.len())
                .cloned()
                .unwrap_or_default();
            match self.attach(&server, patience).await {
                Ok(()) => return Ok(()),
                Err(error) => {
                    self.lose();
                    self.turn = self.turn.wrapping_add(1);
                    let fatal = error.kind() == ErrorKind::Unauthenticated;
                    last = error.with("server", &server);
                    if fatal {
                        break;
                    }
                }
            }
        }
        Err(last)
    }

    async fn attach(&mut self, server: &str, patience: Duration) -> Result<()> {
        let asked = Duration::from_secs(self.config.session_timeout);
        // An expired session is told once; the second time we come as somebody new.
        for _ in 0..2 {
            let mut link = Link::open(server, patience).await.map_err(unreachable)?;
            let granted = link
                .greet(self.zxid, asked, self.id, &self.password)
                .await
                .map_err(unreachable)?;
            if granted.id == 0 {
                self.id = 0;
                self.password = Zeroizing::new(vec![0; 16]);
                continue;
            }
            if let (Some(user), Some(password)) = (&self.config.user, &self.config.password) {
                let pair = Zeroizing::new(format!("{user}:{}", password.expose()));
                let code = link.authenticate(pair.as_bytes()).await.map_err(unreachable)?;
                if code != code::OK {
                    return Err(refused(code::AUTH_FAILED));
                }
            }
            let fresh = granted.id != self.id;
            self.id = granted.id;
            self.password = Zeroizing::new(granted.password);
            self.timeout = granted.timeout;
            self.pinged = self.clock.now();
            self.set_wake(Some(link.stream()));
            self.link = Some(link);
            // Watches end with the connection they were set on: everything is read again.
            self.dirty = self.watched.clone();
            if fresh {
                tracing::debug!(
                    server,
                    announced = self.mine.len(),
                    "a new session with ZooKeeper"
                );
                for instance in self.mine.clone().values() {
                    match self.create(instance).await {
                        Ok(()) => {}
                        Err(error) if self.link.is_none() => return Err(error),
                        // Its renewal will say so.
                        Err(error) => {
                            tracing::warn!(server, kind = %error.kind(), "an instance could not be announced again");
                        }
                    }
                }
            }
            return Ok(());
        }
        Err(unreachable(Broken::Closed))
    }

    /// One request; a broken connection is given up, so that the next call makes another.
    async fn call(&mut self, kind: i32, body: Writer) -> Result<Reply> {
        self.calls(vec![(kind, body)])
            .await?
            .pop()
            .ok_or_else(|| unreachable(Broken::Garbage))
    }

    async fn calls(&mut self, requests: Vec<(i32, Writer)>) -> Result<Vec<Reply>> {
        let Some(link) = &mut self.link else {
            return Err(unreachable(Broken::Closed));
        };
        match link.calls(requests).await {
            Ok(replies) => {
                let ended = |reply: &Reply| matches!(reply.code, code::SESSION_EXPIRED | code::SESSION_MOVED);
                if let Some(reply) = replies.iter().find(|reply| ended(reply)) {
                    let error = refused(reply.code);
                    self.lose();
                    return Err(error);
                }
                Ok(replies)
            }
            Err(broken) => {
                self.lose();
                Err(unreachable(broken))
            }
        }
    }

    fn garbled(&mut self) -> Error {
        self.lose();
        unreachable(Broken::Garbage)
    }

    pub(super) fn path(&self, service: &Service) -> String {
        format!("{}/{}/{}", self.config.root, service.capability(), service.name())
    }

    /// Whose service a path is, or belongs to an instance of.
    fn service_of(&self, path: &str) -> Option<Service> {
        let inside = path.strip_prefix(&self.config.root)?.strip_prefix('/')?;
        let mut parts = inside.split('/');
        Service::new(parts.next()?, parts.next()?).ok()
    }

    /// A list of who may do what, in front of the flags of a new node.
    fn acl(&self, request: Writer) -> Writer {
        match (&self.config.user, self.config.public_read) {
            (None, _) => request.int(1).int(ALL).text("world").text("anyone"),
            (Some(_), false) => request.int(1).int(ALL).text("auth").text(""),
            (Some(_), true) => request
                .int(2)
                .int(ALL)
                .text("auth")
                .text("")
                .int(READ)
                .text("world")
                .text("anyone"),
        }
    }

    /// Makes the node of an instance, or takes over the one that is there.
    pub(super) async fn create(&mut self, instance: &Instance) -> Result<()> {
        let folder = self.path(&instance.service);
        let path = format!("{folder}/{}", instance.id);
        let data = serde_json::to_vec(instance)
            .map_err(|error| Error::unexpected("an instance cannot be written as JSON").source(error))?;
        for _ in 0..6 {
            let request = self
                .acl(Writer::default().text(&path).buffer(&data))
                .int(EPHEMERAL);
            match self.call(op::CREATE, request).await?.code {
                code::OK => return Ok(()),
                code::NO_NODE => self.make_folders(&folder).await?,
                code::NODE_EXISTS => {
                    // Ours: made before the answer was lost, or announced before. Of another session: an earlier life
                    // of ours that has not expired yet; the node must belong to this one.
                    match self.owner(&path).await? {
                        Some(owner) if owner == self.id => {
                            let request = Writer::default().text(&path).buffer(&data).int(-1);
                            match self.call(op::SET_DATA, request).await?.code {
                                code::OK => return Ok(()),
                                code::NO_NODE => {}
                                other => return Err(refused(other)),
                            }
                        }
                        Some(_) => self.delete(&path).await?,
                        None => {}
                    }
                }
                other => return Err(refused(other)),
            }
        }
        Err(
            Error::conflict("two processes announce the same instance at the same time")
                .with("service", &instance.service),
        )
    }

    async fn make_folders(&mut self, folder: &str) -> Result<()> {
        let ends = folder
            .char_indices()
            .filter(|(at, c)| *c == '/' && *at > 0)
            .map(|(at, _)| at)
            .chain([folder.len()]);
        for end in ends {
            let request = self
                .acl(
                    Writer::default()
                        .text(folder.get(..end).unwrap_or_default())
                        .buffer(b""),
                )
                .int(PERSISTENT);
            let code = self.call(op::CREATE, request).await?.code;
            // Further up, somebody else's folders are fine even if we may not touch them.
            if !matches!(code, code::OK | code::NODE_EXISTS | code::NO_AUTH) {
                return Err(refused(code));
            }
        }
        Ok(())
    }

    /// The session that a node belongs to; `None` when there is no such node.
    async fn owner(&mut self, path: &str) -> Result<Option<i64>> {
        let reply = self
            .call(op::EXISTS, Writer::default().text(path).flag(false))
            .await?;
        match reply.code {
            code::OK => match Reader(&reply.body).owner() {
                Ok(owner) => Ok(Some(owner)),
                Err(_) => Err(self.garbled()),
            },
            code::NO_NODE => Ok(None),
            other => Err(refused(other)),
        }
    }

    /// Whether an instance's node is there and ours.
    pub(super) async fn holds(&mut self, service: &Service, id: &str) -> Result<bool> {
        let path = format!("{}/{id}", self.path(service));
        Ok(self.owner(&path).await? == Some(self.id))
    }

    async fn delete(&mut self, path: &str) -> Result<()> {
        match self
            .call(op::DELETE, Writer::default().text(path).int(-1))
            .await?
            .code
        {
            code::OK | code::NO_NODE => Ok(()),
            other => Err(refused(other)),
        }
    }

    /// Takes out an instance.
    pub(super) async fn remove(&mut self, service: &Service, id: &str) -> Result<()> {
        let path = format!("{}/{id}", self.path(service));
        self.delete(&path).await
    }

    /// All instances of a service; with `watch`, the ensemble tells of the next change.
    pub(super) async fn read(&mut self, service: &Service, watch: bool) -> Result<Vec<Instance>> {
        let folder = self.path(service);
        for _ in 0..3 {
            let reply = self
                .call(op::GET_CHILDREN, Writer::default().text(&folder).flag(watch))
                .await?;
            match reply.code {
                code::OK => {
                    let most = self.most();
                    return match Reader(&reply.body).texts(most) {
                        Ok(Some(ids)) => self.read_all(service, &folder, ids, watch).await,
                        Ok(None) => Err(Error::new(
                            ErrorKind::Unavailable,
                            "the service has too many instances",
                        )
                        .with("service", service)
                        .with("setting", "max_instances")
                        .with("most", most)),
                        Err(_) => Err(self.garbled()),
                    };
                }
                code::NO_NODE => {
                    // Nobody offered it yet. The watch has to be on the folder's coming into being.
                    let reply = self
                        .call(op::EXISTS, Writer::default().text(&folder).flag(watch))
                        .await?;
                    match reply.code {
                        code::NO_NODE => return Ok(Vec::new()),
                        code::OK => {}
                        other => return Err(refused(other)),
                    }
                }
                other => return Err(refused(other)),
            }
        }
        // It comes and goes while we look; the next look is due at once.
        self.dirty.insert(service.clone());
        Ok(Vec::new())
    }

    async fn read_all(
        &mut self,
        service: &Service,
        folder: &str,
        ids: Vec<String>,
        watch: bool,
    ) -> Result<Vec<Instance>> {
        let requests = ids
            .iter()
            .map(|id| {
                (
                    op::GET_DATA,
                    Writer::default().text(&format!("{folder}/{id}")).flag(watch),
                )
            })
            .collect();
        let replies = self.calls(requests).await?;
        let mut instances = Vec::with_capacity(ids.len());
        for (id, reply) in ids.iter().zip(replies) {
            match reply.code {
                code::OK => {}
                // Gone in between, or not for us to see.
                code::NO_NODE | code::NO_AUTH => continue,
                other => return Err(refused(other)),
            }
            let Ok(data) = Reader(&reply.body).buffer() else {
                return Err(self.garbled());
            };
            match sound(service, id, data) {
                Some(instance) => instances.push(instance),
                None => tracing::debug!(%service, "an entry that is no sound instance is left out"),
            }
        }
        Ok(instances)
    }

    /// Takes in what came unasked, and notes what has to be read again. Sends a sign of life when one is due.
    pub(super) async fn pump(&mut self) -> Result<()> {
        let now = self.clock.now();
        let rhythm = self.rhythm();
        let Some(link) = &mut self.link else {
            return Err(unreachable(Broken::Closed));
        };
        // A clock that was set back must not keep the signs of life away.
        let due = now < self.pinged || now.since(self.pinged) >= rhythm;
        let mut outcome = link.drain().map(|_| ());
        if outcome.is_ok() && due {
            outcome = link.ping().await;
        }
        let mut paths = Vec::new();
        while let Some(path) = link.event() {
            paths.push(path);
        }
        if due {
            self.pinged = now;
        }
        for path in paths {
            if path.is_empty() {
                self.dirty = self.watched.clone();
            } else if let Some(service) = self.service_of(&path)
                && self.watched.contains(&service)
            {
                self.dirty.insert(service);
            }
        }
        if let Err(broken) = outcome {
            self.lose();
            return Err(unreachable(broken));
        }
        Ok(())
    }

    /// Ends the session: all that this process announced is gone at once.
    pub(super) async fn close(&mut self) -> Result<()> {
        self.mine.clear();
        if let Some(mut link) = self.link.take() {
            // The server answers and closes; when it does not answer, the session ends by its time-out.
            let closed = link.call(op::CLOSE, Writer::default()).await;
            self.lose();
            self.id = 0;
            closed.map_err(unreachable)?;
        }
        Ok(())
    }
}

/// An instance out of what a node holds; what other processes wrote is not trusted.
fn sound(service: &Service, id: &str, data: &[u8]) -> Option<Instance> {
    if data.len() > MAX_DATA {
        return None;
    }
    let instance: Instance = serde_json::from_slice(data).ok()?;
    (instance.service == *service && instance.id == id && instance.validate().is_ok()).then_some(instance)
}
