use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use crm_core::capability::{Checkpoint, Collector, CollectorCapability, DraftSink, Originals, Progress};
use crm_core::customer::Provenance;
use crm_core::{Clock, Context, Error, Health, Provider, ProviderInfo, Result, SystemClock, Timestamp};
use serde::{Deserialize, Serialize};

use super::super::stream::{Fingerprint, Found, Run, Source, Stand, blocking, unreadable};
use super::head::Head;
use super::message::Reader;
use super::{MAX_HEAD, MailReading};
use crate::assemble::Reading;

const KIND: &str = "maildir/1";
/// Names of files that are held at once; a folder with more is listed again for the next ones.
const WINDOW: usize = 10_000;
/// The most folders within a maildir.
const MAX_FOLDERS: usize = 10_000;

/// Which maildir, and who in it is a customer.
///
/// ```
/// use crm_crawl::file::MaildirConfig;
///
/// let config: MaildirConfig =
///     serde_json::from_str(r#"{"path": "Maildir", "name": "sales", "mail": {"own": ["@shop.example"]}}"#).unwrap();
/// assert!(config.validate().is_ok() && config.folders);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaildirConfig {
    /// The folder that holds `cur` and `new`.
    pub path: PathBuf,
    /// The collector's name and the source in the drafts' provenance.
    pub name: String,
    /// Reads the folders within too (Maildir++: `.Sent`, `.Archive.2026`).
    #[serde(default = "yes")]
    pub folders: bool,
    /// Reads messages that are marked as trashed too. Drafts are never read: nobody got them.
    #[serde(default)]
    pub trashed: bool,
    /// Who in it is a customer.
    #[serde(default)]
    pub mail: MailReading,
    /// Messages in one delivery, 1 to 10,000. 500.
    #[serde(default = "super::super::csv::batch")]
    pub batch: usize,
}

fn yes() -> bool {
    true
}

impl MaildirConfig {
    /// The maildir at `path`, its source named `name`.
    pub fn new(path: impl Into<PathBuf>, name: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            name: name.into(),
            folders: true,
            trashed: false,
            mail: MailReading::default(),
            batch: super::super::csv::batch(),
        }
    }

    /// Checks every setting that can be checked without the folder.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Config`] naming the setting.
    pub fn validate(&self) -> Result<()> {
        super::super::csv::common(&self.name, self.batch, "auto", &Reading::default())?;
        self.mail.validate()
    }
}

/// Reads the headers of the messages of a maildir (cr.yp.to/proto/maildir.html, Maildir++): what is found in them is told at
/// [`MboxCollector`](super::MboxCollector).
///
/// Messages are read in the order of their names. One that moves from `new` to `cur` or changes its flags meanwhile stays the
/// same one; one that goes is passed over; one that comes in behind is read. It goes on from every checkpoint. Memory does not
/// grow with the number of messages.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use crm_core::Provider;
/// use crm_crawl::file::{MaildirCollector, MaildirConfig};
///
/// let folder = tempfile::tempdir().unwrap();
/// std::fs::create_dir(folder.path().join("cur")).unwrap();
/// std::fs::create_dir(folder.path().join("new")).unwrap();
/// let collector = MaildirCollector::new(MaildirConfig::new(folder.path(), "sales")).unwrap();
/// assert!(collector.check().await.is_ok());
/// # });
/// ```
pub struct MaildirCollector {
    info: ProviderInfo,
    config: Arc<MaildirConfig>,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for MaildirCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MaildirCollector")
            .field("path", &self.config.path)
            .finish_non_exhaustive()
    }
}

impl MaildirCollector {
    /// A collector of one maildir; it is opened when it runs.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Config`] naming the setting that is wrong.
    pub fn new(config: MaildirConfig) -> Result<Self> {
        config.validate()?;
        Ok(Self {
            info: ProviderInfo::new("maildir", config.name.as_str()),
            config: Arc::new(config),
            clock: SystemClock::shared(),
        })
    }

    /// Takes the time of observation from `clock`.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }
}

#[async_trait]
impl Provider for MaildirCollector {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }

    async fn check(&self) -> Result<Health> {
        let path = self.config.path.clone();
        blocking(move || folders(&path, false)).await??;
        Ok(Health::Ready)
    }
}

#[async_trait]
impl Collector for MaildirCollector {
    fn capability(&self) -> CollectorCapability {
        CollectorCapability::new(true, false)
    }

    /// [`Progress`] counts messages. Errors as [`MaildirCollector`] says.
    async fn collect(
        &self,
        ctx: &Context,
        resume: Option<&Checkpoint>,
        sink: &mut dyn DraftSink,
    ) -> Result<Progress> {
        let config = self.config.clone();
        let run = Run {
            info: &self.info,
            clock: self.clock.as_ref(),
            batch: self.config.batch,
            kind: KIND,
        };
        run.through(ctx, resume, move |stand| Folders::open(&config, stand), sink)
            .await
    }
}

/// A message: its folder, its unique name, and its file. Ordered by folder, then name.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Mail {
    folder: usize,
    unique: String,
    path: PathBuf,
}

/// An open maildir.
struct Folders {
    config: MaildirConfig,
    /// With `cur` and `new` in each.
    folders: Vec<PathBuf>,
    /// Those that come next, the nearest first.
    ahead: BTreeSet<Mail>,
    /// Nothing is behind `ahead`.
    listed: bool,
    reader: Reader,
    place: String,
    done: u64,
    stand: Stand,
}

impl Folders {
    fn open(config: &MaildirConfig, resume: Option<&Stand>) -> Result<Self> {
        let folders = folders(&config.path, config.folders)?;
        let mut stand = match resume {
            Some(stand) => stand.clone(),
            None => Stand {
                kind: KIND.to_owned(),
                offset: 0,
                line: 1,
                last: None,
                rows: 0,
                drafts: 0,
                rejects: 0,
                file: Fingerprint::of_folder(),
            },
        };
        // How many there are now: it may be more than at the checkpoint.
        let mut size = 0_u64;
        for folder in &folders {
            each(folder, |_| size += 1).map_err(|error| unreadable(folder, error))?;
        }
        stand.file.size = size.max(stand.rows);
        Ok(Self {
            reader: Reader::new(&config.mail),
            place: config.path.display().to_string(),
            config: config.clone(),
            folders,
            ahead: BTreeSet::new(),
            listed: false,
            done: stand.rows,
            stand,
        })
    }

    /// Fills `ahead` with the names that come next.
    fn list(&mut self) -> io::Result<()> {
        // Where reading stands: the folder's name and the message's.
        let last = self
            .stand
            .last
            .as_deref()
            .and_then(|last| last.split_once('/'))
            .map(|(folder, unique)| (folder.to_owned(), unique.to_owned()));
        let (config, folders) = (&self.config, &self.folders);
        self.listed = true;
        for (index, folder) in folders.iter().enumerate() {
            let name = name_of(folder, &config.path);
            let behind = match &last {
                Some((at, _)) if name < *at => continue,
                Some((at, unique)) if name == *at => Some(unique.as_str()),
                _ => None,
            };
            let mut more = false;
            let ahead = &mut self.ahead;
            each(folder, |entry| {
                let Some(unique) = wanted(&entry, config.trashed) else {
                    return;
                };
                if behind.is_some_and(|last| unique.as_str() <= last) {
                    return;
                }
                ahead.insert(Mail {
                    folder: index,
                    unique,
                    path: entry,
                });
                if ahead.len() > WINDOW {
                    ahead.pop_last();
                    more = true;
                }
            })?;
            if more {
                self.listed = false;
                break;
            }
            if self.ahead.len() >= WINDOW && index + 1 < folders.len() {
                self.listed = false;
                break;
            }
        }
        Ok(())
    }

    fn next_mail(&mut self) -> io::Result<Option<Mail>> {
        if self.ahead.is_empty() && !self.listed {
            self.list()?;
        }
        let Some(mail) = self.ahead.pop_first() else {
            return Ok(None);
        };
        // Found in both folders while it moved: once is enough.
        while self
            .ahead
            .first()
            .is_some_and(|next| next.folder == mail.folder && next.unique == mail.unique)
        {
            self.ahead.pop_first();
        }
        let folder = self
            .folders
            .get(mail.folder)
            .map(|path| name_of(path, &self.config.path));
        self.stand.last = Some(format!("{}/{}", folder.unwrap_or_default(), mail.unique));
        Ok(Some(mail))
    }
}

/// The maildir itself and, if wanted, those within, by name.
fn folders(path: &Path, within: bool) -> Result<Vec<PathBuf>> {
    let failed = |error| unreadable(path, error);
    if !path.join("cur").is_dir() && !path.join("new").is_dir() {
        // Says first whether there is anything at all.
        fs::read_dir(path).map_err(failed)?;
        return Err(
            Error::config("the folder is no maildir: it has neither `cur` nor `new` in it")
                .operation("file.open")
                .with("setting", "path")
                .with("path", path.display()),
        );
    }
    let mut folders = Vec::new();
    if within {
        for entry in fs::read_dir(path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let is_folder = name
                .to_str()
                .is_some_and(|name| name.starts_with('.') && !name.contains('/'));
            if is_folder && entry.path().join("cur").is_dir() && folders.len() < MAX_FOLDERS {
                folders.push(entry.path());
            }
        }
    }
    folders.push(path.to_owned());
    folders.sort_by_key(|folder| name_of(folder, path));
    Ok(folders)
}

/// The name of a folder within the maildir; empty for the maildir itself, which comes first.
fn name_of(folder: &Path, root: &Path) -> String {
    let name = folder.strip_prefix(root).unwrap_or(folder);
    name.to_string_lossy().into_owned()
}

/// Every file of `cur` and `new`.
fn each(folder: &Path, mut take: impl FnMut(PathBuf)) -> io::Result<()> {
    for part in ["cur", "new"] {
        let entries = match fs::read_dir(folder.join(part)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                take(entry.path());
            }
        }
    }
    Ok(())
}

/// The unique part of a message's name, unless its flags say that it is a draft, or trashed.
fn wanted(path: &Path, trashed: bool) -> Option<String> {
    let name = path
        .file_name()
        .map(|name| OsString::from(name).to_string_lossy().into_owned())?;
    if name.starts_with('.') {
        return None;
    }
    let (unique, info) = name.split_once(":2,").unwrap_or((&name, ""));
    let out = info.contains('D') || !trashed && info.contains('T');
    (!out).then(|| unique.to_owned())
}

/// When a message came in: its name begins with the seconds since 1970.
fn arrived(unique: &str) -> Option<Timestamp> {
    let digits = unique.split('.').next()?;
    let seconds: i64 = digits.parse().ok().filter(|_| digits.len() == 10)?;
    Some(Timestamp::from_micros(seconds.checked_mul(1_000_000)?))
}

/// What a message's file begins with: its headers, or `None` when they are too long.
fn head_of(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut file = File::open(path)?;
    let mut head = Vec::new();
    let mut block = vec![0_u8; 8192];
    loop {
        let read = match file.read(&mut block) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let from = head.len().saturating_sub(3);
        head.extend_from_slice(block.get(..read).unwrap_or_default());
        let new = head.get(from..).unwrap_or_default();
        let end = new.windows(2).position(|pair| pair == b"\n\n").map(|at| at + 1);
        let end = end.or_else(|| {
            new.windows(3)
                .position(|three| three == b"\n\r\n")
                .map(|at| at + 1)
        });
        if let Some(end) = end {
            head.truncate(from + end);
            return Ok(Some(head));
        }
        if read == 0 {
            return Ok(Some(head));
        }
        if head.len() > MAX_HEAD {
            return Ok(None);
        }
    }
}

impl Source for Folders {
    fn stand(&self) -> &Stand {
        &self.stand
    }

    fn stand_mut(&mut self) -> &mut Stand {
        &mut self.stand
    }

    fn place(&self) -> &str {
        &self.place
    }

    fn originals(&self) -> Originals {
        Originals::default()
    }

    fn read(&mut self, now: Timestamp) -> Result<Option<Found>> {
        loop {
            let next = self.next_mail();
            let Some(mail) = next.map_err(|error| unreadable(Path::new(&self.place), error))? else {
                return Ok(None);
            };
            let place = mail.path.display().to_string();
            let bad = |reason: String| Found {
                line: 1,
                place: Some(place.clone()),
                drafts: Vec::new(),
                wrong: vec![(None, reason)],
                original: None,
            };
            self.done += 1;
            return Ok(Some(match head_of(&mail.path) {
                // It was moved or removed since it was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => match self.moved(&mail) {
                    Some(path) => {
                        self.ahead.insert(Mail { path, ..mail });
                        self.done -= 1;
                        continue;
                    }
                    None => continue,
                },
                Err(error) => bad(format!("the message cannot be read: {}", error.kind())),
                Ok(None) => bad("the headers of the message are longer than 256 KiB".to_owned()),
                Ok(Some(head)) => {
                    let provenance = Provenance::new(self.config.name.as_str(), now).at(place.as_str());
                    let (drafts, wrong) =
                        self.reader
                            .read(&Head::parse(&head), arrived(&mail.unique), &provenance);
                    Found {
                        line: 1,
                        place: Some(place),
                        drafts,
                        wrong,
                        original: None,
                    }
                }
            }));
        }
    }

    fn settle(&mut self) -> u64 {
        self.stand.file.size = self.stand.file.size.max(self.done);
        self.done
    }
}

impl Folders {
    /// Where a message is now that was elsewhere before.
    fn moved(&self, mail: &Mail) -> Option<PathBuf> {
        let folder = self.folders.get(mail.folder)?;
        let mut found = None;
        each(folder, |path| {
            if path != mail.path && wanted(&path, true).is_some_and(|unique| unique == mail.unique) {
                found = Some(path);
            }
        })
        .ok()?;
        found
    }
}
