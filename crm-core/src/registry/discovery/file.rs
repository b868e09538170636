use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::watch::Board;
use super::{Discovery, Instance, Service, Snapshot, Watch};
use crate::{Error, ErrorKind, Health, Provider, ProviderInfo, Result};

/// The most bytes of a file.
const MAX_BYTES: u64 = 4 * 1024 * 1024;
/// How often the file is looked at.
const LOOK: Duration = Duration::from_secs(5);

/// A register that an operator writes: a JSON file with the instances, read again when its content changed.
///
/// ```json
/// { "instances": [
///     { "service": "mailer/outbound", "id": "one", "address": "https://mail-1.example:8443/", "zone": "eu-1" },
///     { "service": "mailer/outbound", "id": "two", "address": "https://mail-2.example:8443/", "status": "OUT_OF_SERVICE" }
/// ] }
/// ```
///
/// Fields are those of [`Instance`]. A file that cannot be read or has a mistake in it changes nothing: what was known
/// stays, marked stale, and every call of [`Discovery::tick`] says which entry is wrong. A file is best replaced by
/// renaming, so that nobody reads half of it. There are no leases: who is in the file is there. Registering answers
/// [`ErrorKind::Unsupported`].
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use crm_core::registry::discovery::{Discovery, FileDiscovery};
///
/// let path = std::env::temp_dir().join(format!("open-crm-instances-{}.json", std::process::id()));
/// std::fs::write(&path, r#"{"instances":[{"service":"mailer/out","id":"one","address":"http://10.0.0.1/"}]}"#).unwrap();
/// let discovery = FileDiscovery::open("static", &path).unwrap();
/// assert_eq!(discovery.list(&"mailer/out".parse().unwrap()).await.unwrap().instances.len(), 1);
/// # std::fs::remove_file(&path).unwrap();
/// # });
/// ```
#[derive(Debug, Clone)]
pub struct FileDiscovery(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    info: ProviderInfo,
    path: PathBuf,
    held: Mutex<Held>,
    board: Board,
}

#[derive(Debug, Default)]
struct Held {
    hash: [u8; 32],
    services: BTreeMap<Service, Vec<Instance>>,
    stale: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listing {
    instances: Vec<serde_json::Value>,
}

impl FileDiscovery {
    /// Reads the file.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when it cannot be read or is not of this form, naming the entry (counted from 1) and the
    /// field.
    pub fn open(name: impl Into<String>, path: impl AsRef<Path>) -> Result<Self> {
        let discovery = Self(Arc::new(Inner {
            info: ProviderInfo::new("file", name),
            path: path.as_ref().to_path_buf(),
            held: Mutex::default(),
            board: Board::default(),
        }));
        discovery.reload()?;
        Ok(discovery)
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the file, and takes it over when its content is another one and sound.
    fn reload(&self) -> Result<()> {
        let read = read(&self.0.path);
        let mut held = self.lock();
        let outcome = match read {
            Ok(text) => {
                let hash: [u8; 32] = Sha256::digest(&text).into();
                if hash == held.hash {
                    held.stale = false;
                    Ok(())
                } else {
                    parse(&text).map(|services| {
                        *held = Held {
                            hash,
                            services,
                            stale: false,
                        };
                    })
                }
            }
            Err(error) => Err(error),
        };
        held.stale = outcome.is_err();
        let services: Vec<Service> = held
            .services
            .keys()
            .cloned()
            .chain(self.0.board.services())
            .collect();
        for service in &services {
            self.publish(&held, service);
        }
        outcome.map_err(|error| {
            error
                .operation("discovery.tick")
                .with("file", self.0.path.display())
        })
    }

    fn publish(&self, held: &Held, service: &Service) -> Snapshot {
        let instances = held.services.get(service).cloned().unwrap_or_default();
        self.0.board.publish(service, instances, held.stale)
    }

    fn read_only(&self, operation: &'static str) -> Error {
        Error::new(
            ErrorKind::Unsupported,
            "a static file is written by its operator; register with memory, ZooKeeper or Eureka",
        )
        .operation(operation)
        .with("provider", &self.0.info)
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    use std::io::Read;
    let unreadable =
        |error: std::io::Error| Error::config("the file of instances cannot be read").source(error);
    let mut text = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(MAX_BYTES + 1)
        .read_to_end(&mut text)
        .map_err(unreadable)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(Error::config("the file of instances is too large").with("most", MAX_BYTES));
    }
    Ok(text)
}

fn parse(text: &[u8]) -> Result<BTreeMap<Service, Vec<Instance>>> {
    let listing: Listing = serde_json::from_slice(text).map_err(|error| {
        Error::config("the file of instances is no JSON of the form {\"instances\": [...]}")
            .with("line", error.line())
            .with("column", error.column())
            .source(error)
    })?;
    let mut services: BTreeMap<Service, Vec<Instance>> = BTreeMap::new();
    for (index, value) in listing.instances.into_iter().enumerate() {
        let entry = index + 1;
        let instance: Instance = serde_json::from_value(value).map_err(|error| {
            Error::config("this entry of the file is no instance")
                .with("entry", entry)
                .source(error)
        })?;
        instance.validate().map_err(|error| {
            Error::config(error.message().to_owned())
                .with("entry", entry)
                .with("field", error.context("field").unwrap_or_default())
        })?;
        let same = services.entry(instance.service.clone()).or_default();
        if same.iter().any(|other| other.id == instance.id) {
            return Err(Error::config("two entries of one service have the same id")
                .with("entry", entry)
                .with("field", "id"));
        }
        same.push(instance);
    }
    Ok(services)
}

#[async_trait]
impl Provider for FileDiscovery {
    fn info(&self) -> &ProviderInfo {
        &self.0.info
    }
    async fn check(&self) -> Result<Health> {
        Ok(if self.lock().stale {
            Health::Degraded
        } else {
            Health::Ready
        })
    }
}

#[async_trait]
impl Discovery for FileDiscovery {
    async fn register(&self, _instance: &Instance) -> Result<()> {
        Err(self.read_only("discovery.register"))
    }
    async fn renew(&self, _service: &Service, _id: &str) -> Result<()> {
        Err(self.read_only("discovery.renew"))
    }
    async fn deregister(&self, _service: &Service, _id: &str) -> Result<()> {
        Err(self.read_only("discovery.deregister"))
    }
    async fn list(&self, service: &Service) -> Result<Snapshot> {
        let held = self.lock();
        Ok(self.publish(&held, service))
    }
    async fn watch(&self, service: &Service) -> Result<Watch> {
        let held = self.lock();
        let watch = self.0.board.watch(service)?;
        self.publish(&held, service);
        Ok(watch)
    }
    /// Looks at the file, in the calling task: it is small and local.
    async fn tick(&self) -> Result<Duration> {
        self.reload()?;
        Ok(LOOK)
    }
}
