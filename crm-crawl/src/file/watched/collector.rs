use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use crm_core::capability::{
    Checkpoint, Collector, CollectorCapability, Delivery, DraftSink, Progress, RecordStore, Reject,
    RejectKind,
};
use crm_core::{Clock, Context, Error, ErrorKind, Health, Provider, ProviderInfo, Result, SystemClock};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::super::stream::blocking;
use super::found::{self, Memory};
use super::ledger::{Ledger, State};
use super::{FolderConfig, found::unusable};

const KIND: &str = "folder/1";

/// Takes in the files that arrive in a folder, each once: a run reads those that are ready, in the order of their names.
///
/// A file counts when its size and time have not changed for `settle` seconds, or when its marker is there. Hidden files, links
/// and what programs call unfinished (`.part`, `.tmp`, `~`) never count. One that was read goes to the folder `done`; one that
/// cannot be read at all (a missing column, another encoding) is a reject and goes to `failed`; the others go on. Rejects stand
/// beside the file in `<name>.rejects.jsonl`.
///
/// By the hash of its content, kept in the store, a file is taken in once, whatever it is called; one that failed is tried again
/// when it comes again. A run that was killed goes on within the file it read, from its checkpoint: nothing is lost and nothing
/// is stored twice, wherever it was stopped.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// use std::sync::Arc;
/// use crm_core::memory::MemoryStore;
/// use crm_core::{Context, TenantId};
/// use crm_crawl::file::{FileFormat, FolderCollector, FolderConfig};
///
/// let folder = tempfile::tempdir().unwrap();
/// let mut config = FolderConfig::new(folder.path(), "erp").rule("*.csv", FileFormat::Csv);
/// config.settle = 0.0;
/// let inbox = FolderCollector::new(config, Arc::new(MemoryStore::new("memory"))).unwrap();
/// assert_eq!(inbox.ready().await.unwrap(), 0);
/// std::fs::write(folder.path().join("people.csv"), "email\nana@shop.example\n").unwrap();
///
/// let ctx = Context::new(TenantId::new("shop").unwrap());
/// inbox.wait(&ctx, std::time::Duration::from_secs(1)).await.unwrap();
/// // Now `crm.collect(&ctx, "erp", ...)`, and again from the top: the host's own loop.
/// # });
/// ```
pub struct FolderCollector {
    info: ProviderInfo,
    config: Arc<FolderConfig>,
    ledger: Ledger,
    memory: Arc<Mutex<Memory>>,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for FolderCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FolderCollector")
            .field("path", &self.config.path)
            .finish_non_exhaustive()
    }
}

/// What a checkpoint holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Stand {
    kind: String,
    /// The file that is read now.
    file: Option<Current>,
    /// Files that are finished.
    files: u64,
    drafts: u64,
    rejects: u64,
}

/// The file that is read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Current {
    name: String,
    content: String,
    /// Where its own collector stands.
    inner: Option<Json>,
    /// It was told to be unreadable.
    failed: bool,
    /// Bytes of its file of rejects that are told.
    rejects_length: u64,
    drafts: u64,
    rejects: u64,
}

impl FolderCollector {
    /// A collector of one folder; `store` remembers which contents were taken in.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] naming the setting that is wrong.
    pub fn new(config: FolderConfig, store: Arc<dyn RecordStore>) -> Result<Self> {
        config.validate()?;
        Ok(Self {
            info: ProviderInfo::new("folder", config.name.as_str()),
            ledger: Ledger {
                store,
                name: config.name.clone(),
            },
            config: Arc::new(config),
            memory: Arc::default(),
            clock: SystemClock::shared(),
        })
    }

    /// Takes the time from `clock`.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// How many files are ready now. Cheap: lists the folder.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when the folder cannot be read.
    pub async fn ready(&self) -> Result<usize> {
        Ok(self.list().await?.0.len())
    }

    /// Waits until a file is ready, looking every `every`; longer than the context's deadline it does not wait.
    ///
    /// # Errors
    /// [`ErrorKind::Timeout`] when the deadline passes, [`ErrorKind::Config`] when the folder cannot be read.
    pub async fn wait(&self, ctx: &Context, every: Duration) -> Result<()> {
        loop {
            if self.ready().await? > 0 {
                return Ok(());
            }
            ctx.check(self.clock.as_ref())?;
            let left = ctx
                .until()
                .map_or(every, |until| until.since(self.clock.now()).min(every));
            tokio::time::sleep(left.max(Duration::from_millis(1))).await;
        }
    }

    async fn list(&self) -> Result<(Vec<String>, u64)> {
        let (config, memory, now) = (self.config.clone(), self.memory.clone(), self.clock.now());
        blocking(move || {
            let mut memory = memory.lock().unwrap_or_else(PoisonError::into_inner);
            found::ready(&config, &mut memory, now)
        })
        .await?
    }

    async fn content(&self, name: &str) -> Result<Option<String>> {
        let path = self.config.path.join(name);
        blocking(move || found::content(&path)).await?
    }

    async fn put_away(&self, file: &Current, done: bool) -> Result<()> {
        let (config, name, content) = (self.config.clone(), file.name.clone(), file.content.clone());
        // What comes under this name from now on is another file.
        self.memory
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&name);
        blocking(move || found::put_away(&config, &name, &content, done)).await?
    }

    /// Goes on with the file a checkpoint stands in.
    async fn go_on(
        &self,
        ctx: &Context,
        stand: &mut Stand,
        file: Current,
        total: u64,
        sink: &mut dyn DraftSink,
    ) -> Result<()> {
        let there = self.content(&file.name).await?;
        let same = there.as_deref() == Some(file.content.as_str());
        let state = self.ledger.state(ctx, &file.content).await?;
        // Stopped between the note and the move; what has the name now may be another one.
        let noted = state == Some(State::Done) || state == Some(State::Failed) && file.failed;
        if !noted && same {
            return self.read(ctx, stand, file, total, sink).await;
        }
        if !noted {
            let reason = match there {
                Some(_) => "the file changed while it was read; it is read anew, from its beginning",
                None => "the file went away while it was read; what was read of it is stored",
            };
            stand.file = None;
            return self.tell(stand, total, &file.name, reason.to_owned(), sink).await;
        }
        if same {
            self.put_away(&file, state == Some(State::Done)).await?;
        }
        stand.file = None;
        stand.files += 1;
        Ok(())
    }

    /// Reads one file, or what is left of it, and puts it away.
    async fn read(
        &self,
        ctx: &Context,
        stand: &mut Stand,
        file: Current,
        total: u64,
        sink: &mut dyn DraftSink,
    ) -> Result<()> {
        let path = self.config.path.join(&file.name);
        let rule = self
            .config
            .rule_of(&file.name)
            .ok_or_else(|| Error::conflict("no rule fits the file any more").operation("folder.resume"))?;
        if file.inner.is_none() && !file.failed {
            // What a run that was killed before its first delivery wrote.
            let rejects = found::rejects_path(&self.config, &file.name);
            blocking(move || found::write_rejects(&rejects, 0, &[])).await??;
        }
        let mut failed = file.failed;
        let inner = file.inner.clone().map(Checkpoint);
        stand.file = Some(file);
        if !failed {
            let collector = self.config.collector(rule, &path, Some(&self.clock))?;
            let mut through = Through {
                rejects: found::rejects_path(&self.config, stand.file.as_ref().map_or("", |file| &file.name)),
                stand: &mut *stand,
                total,
                sink: &mut *sink,
                stopped: false,
            };
            let end = collector.collect(ctx, inner.as_ref(), &mut through).await;
            let stopped = through.stopped;
            if let Err(error) = end {
                let of_the_file = matches!(
                    error.kind(),
                    ErrorKind::Config | ErrorKind::Invalid | ErrorKind::Corrupt | ErrorKind::Unsupported
                );
                if stopped || !of_the_file {
                    return Err(error);
                }
                failed = true;
                let name = stand
                    .file
                    .as_ref()
                    .map_or(String::new(), |file| file.name.clone());
                if let Some(file) = &mut stand.file {
                    file.failed = true;
                }
                self.tell(stand, total, &name, why(&error), sink).await?;
            }
        }
        let Some(file) = stand.file.take() else {
            return Ok(());
        };
        let state = if failed { State::Failed } else { State::Done };
        let counts = (file.drafts, file.rejects);
        let now = self.clock.now();
        self.ledger
            .note(ctx, (&file.name, &file.content), state, counts, now)
            .await?;
        self.put_away(&file, !failed).await?;
        tracing::debug!(collector = %self.info, failed, drafts = file.drafts, rejects = file.rejects, "file taken in");
        stand.files += 1;
        Ok(())
    }

    /// Delivers a reject of a whole file.
    async fn tell(
        &self,
        stand: &mut Stand,
        total: u64,
        name: &str,
        reason: String,
        sink: &mut dyn DraftSink,
    ) -> Result<()> {
        let mut through = Through {
            rejects: found::rejects_path(&self.config, name),
            stand,
            total,
            sink,
            stopped: false,
        };
        let reject = Reject {
            kind: RejectKind::Invalid,
            place: self.config.path.join(name).display().to_string(),
            line: None,
            field: None,
            reason,
        };
        through
            .deliver(Delivery {
                rejects: vec![reject],
                ..Delivery::default()
            })
            .await
    }
}

/// An error in one line, for a reject.
fn why(error: &Error) -> String {
    let mut text = error.message().to_owned();
    for key in ["setting", "column", "missing", "columns", "found", "declared"] {
        if let Some(value) = error.context(key) {
            text.push_str(&format!("; {key}={value}"));
        }
    }
    text
}

/// Hands on what the collector of one file delivers, with our own place in front of its.
struct Through<'a> {
    rejects: PathBuf,
    stand: &'a mut Stand,
    total: u64,
    sink: &'a mut dyn DraftSink,
    /// The sink failed, not the file.
    stopped: bool,
}

#[async_trait]
impl DraftSink for Through<'_> {
    async fn deliver(&mut self, mut delivery: Delivery) -> Result<()> {
        let (drafts, rejects) = (delivery.drafts.len() as u64, delivery.rejects.len() as u64);
        self.stand.drafts += drafts;
        self.stand.rejects += rejects;
        if let Some(file) = &mut self.stand.file {
            file.drafts += drafts;
            file.rejects += rejects;
            if let Some(Checkpoint(inner)) = delivery.checkpoint.take() {
                file.inner = Some(inner);
            }
            let (path, length, lines) = (
                self.rejects.clone(),
                file.rejects_length,
                delivery.rejects.clone(),
            );
            let written = blocking(move || found::write_rejects(&path, length, &lines)).await;
            match written.and_then(|written| written) {
                Ok(length) => file.rejects_length = length,
                Err(error) => {
                    // The folder, not the file.
                    self.stopped = true;
                    return Err(error);
                }
            }
        }
        let checkpoint = serde_json::to_value(&*self.stand)
            .map_err(|error| Error::unexpected("a checkpoint cannot be written").source(error))?;
        delivery.checkpoint = Some(Checkpoint(checkpoint));
        delivery.progress = progress(self.stand, self.total);
        let done = self.sink.deliver(delivery).await;
        self.stopped |= done.is_err();
        done
    }
}

fn progress(stand: &Stand, total: u64) -> Progress {
    let mut progress = Progress::default();
    (progress.done, progress.drafts, progress.rejects) = (stand.files, stand.drafts, stand.rejects);
    progress.total = Some(total.max(stand.files));
    progress
}

#[async_trait]
impl Provider for FolderCollector {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }

    async fn check(&self) -> Result<Health> {
        let path = self.config.path.clone();
        blocking(move || std::fs::read_dir(&path).map_err(|error| unusable(&path, error))).await??;
        Ok(Health::Ready)
    }
}

#[async_trait]
impl Collector for FolderCollector {
    fn capability(&self) -> CollectorCapability {
        CollectorCapability::new(true, false)
    }

    /// [`Progress`] counts files. Errors are those of the folder and of the store; a file that cannot be read is a reject.
    async fn collect(
        &self,
        ctx: &Context,
        resume: Option<&Checkpoint>,
        sink: &mut dyn DraftSink,
    ) -> Result<Progress> {
        self.ledger.prepare().await?;
        let mut stand = match resume {
            None => Stand {
                kind: KIND.to_owned(),
                file: None,
                files: 0,
                drafts: 0,
                rejects: 0,
            },
            Some(Checkpoint(json)) => serde_json::from_value::<Stand>(json.clone())
                .ok()
                .filter(|stand| stand.kind == KIND)
                .ok_or_else(|| {
                    Error::invalid("the checkpoint is not one of this collector; start anew without it")
                        .operation("folder.resume")
                })?,
        };
        let (names, unnamed) = self.list().await?;
        let total = stand.files + names.len() as u64;
        if let Some(file) = stand.file.take() {
            self.go_on(ctx, &mut stand, file, total, sink).await?;
        }
        for name in names {
            ctx.check(self.clock.as_ref())?;
            // Gone since it was listed: the file of the checkpoint, or taken by another.
            let Some(content) = self.content(&name).await? else {
                continue;
            };
            let file = Current {
                name,
                content,
                inner: None,
                failed: false,
                rejects_length: 0,
                drafts: 0,
                rejects: 0,
            };
            if self.ledger.state(ctx, &file.content).await? == Some(State::Done) {
                tracing::debug!(collector = %self.info, "the same content came again");
                self.put_away(&file, true).await?;
                stand.files += 1;
                continue;
            }
            self.read(ctx, &mut stand, file, total, sink).await?;
        }
        if unnamed > 0 {
            let reason = format!("{unnamed} files have names that are no UTF-8; rename them");
            self.tell(&mut stand, total, "", reason, sink).await?;
        }
        Ok(progress(&stand, total))
    }
}
