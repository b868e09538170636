//! Copies of a SQLite store: taken while it is in use, and proven before they count.
//!
//! A backup is one file. It is written under another name, checked, and only then given its own; so a file of that name
//! is a whole backup. It carries a list of its tables with the number of rows and a hash of the contents of each, and
//! [`verify`] reads all of it again.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! use crm_core::capability::RecordStore;
//! use crm_store::sql::{SqliteConfig, SqliteStore, backup};
//!
//! let folder = tempfile::tempdir().unwrap();
//! let store = SqliteStore::open_file(folder.path().join("crm.db"), SqliteConfig::default()).await.unwrap();
//! store.migrate(&[&crm_core::customer::CUSTOMER]).await.unwrap();
//!
//! let file = folder.path().join("monday.backup");
//! let taken = store.backup(&file, &mut |_| ()).await.unwrap();
//! assert_eq!(backup::verify(&file, &mut |_| ()).await.unwrap(), taken);
//! let restored = backup::restore(&file, folder.path().join("new.db"), &mut |_| ()).await.unwrap();
//! assert_eq!(restored.tables, taken.tables);
//! # });
//! ```

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crm_core::{Error, ErrorKind, Result};
use sha2::{Digest, Sha256};

use super::SqliteStore;
use super::driver::Raw;

/// How often the size of a growing copy is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// The table in which a backup lists what is in it.
const LIST: &str = "crm_backup";

/// What a backup, its check or a restore is at.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// The copy is being written.
    Copying {
        /// Bytes written.
        bytes: u64,
        /// Bytes expected; the copy may end smaller, as it has no gaps.
        of: u64,
    },
    /// The structure of the file is being checked: every page, every row against every index.
    Checking,
    /// The contents of a table are being hashed.
    Reading {
        /// The table.
        table: String,
        /// Rows read.
        rows: u64,
    },
}

/// What is in a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Backup {
    /// The size of the file in bytes.
    pub bytes: u64,
    /// Its tables, by name.
    pub tables: Vec<TableCopy>,
}

/// A table of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TableCopy {
    /// Its name.
    pub name: String,
    /// How many rows it has.
    pub rows: u64,
    /// SHA-256 over all values of all rows in the order of the key, in hexadecimal.
    pub sha256: String,
}

impl SqliteStore {
    /// Copies the store, as it is at one moment, to a new file at `path`, while others read and write. The copy is whole,
    /// checked and on the disk before this returns. Reports its progress; dropped, it leaves nothing behind.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] (`setting=path`) when there is already a file, or it cannot be made;
    /// [`ErrorKind::Unsupported`] for a store in memory; [`ErrorKind::Unavailable`] when the disk is full;
    /// [`ErrorKind::Corrupt`] when the store or the copy is damaged.
    pub async fn backup(
        &self,
        path: impl AsRef<Path>,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Backup> {
        let named = |error: Error| error.operation("store.backup");
        let source = self.driver.path().ok_or_else(|| {
            named(Error::new(
                ErrorKind::Unsupported,
                "a store in memory has no file to copy; open it on a file",
            ))
        })?;
        copied(source, path.as_ref(), progress, Marking::List)
            .await
            .map_err(named)
    }
}

/// Reads a whole backup and compares it with its own list: structure, tables, rows, contents.
///
/// # Errors
/// [`ErrorKind::Corrupt`] when it is truncated, altered, or no backup, naming the table that differs;
/// [`ErrorKind::Config`] (`setting=path`) when there is no such file.
pub async fn verify(path: impl AsRef<Path>, progress: &mut (dyn FnMut(Progress) + Send)) -> Result<Backup> {
    verified(path.as_ref(), progress)
        .await
        .map_err(|error| error.operation("store.verify_backup"))
}

/// Makes a store's file at `path` from a backup, which is verified first, as the new file is before it gets its name.
/// Never overwrites: put a database that is in the way elsewhere yourself, with its `-wal` and `-shm` files.
///
/// # Errors
/// [`ErrorKind::Config`] (`setting=path`) when there is already something at `path`; those of [`verify`].
pub async fn restore(
    backup: impl AsRef<Path>,
    path: impl AsRef<Path>,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<Backup> {
    let named = |error: Error| error.operation("store.restore");
    let (backup, path) = (backup.as_ref(), path.as_ref());
    vacant(path).map_err(named)?;
    let wanted = verified(backup, progress).await.map_err(named)?;
    let found = copied(backup, path, progress, Marking::Compare(&wanted))
        .await
        .map_err(named)?;
    Ok(found)
}

/// What happens to a copy before it gets its name.
#[derive(Clone, Copy)]
enum Marking<'a> {
    /// It becomes a backup: its list is written into it.
    List,
    /// It becomes a store: it is compared with the backup's list, which is taken out.
    Compare(&'a Backup),
}

/// A file under its working name; removed unless it was given its own.
struct Unfinished {
    at: PathBuf,
    finished: bool,
}

impl Unfinished {
    fn beside(path: &Path) -> Result<Self> {
        let mut name = path
            .file_name()
            .ok_or_else(|| wrong(path, "this is no name of a file"))?
            .to_owned();
        name.push(format!(".{}.unfinished", std::process::id()));
        let at = path.with_file_name(name);
        // Left by a process of this number that was killed.
        remove(&at);
        Ok(Self { at, finished: false })
    }

    /// Gives the file its name, unless there is one by now; and makes the disk keep the name.
    fn finish(mut self, path: &Path) -> Result<()> {
        std::fs::hard_link(&self.at, path).or_else(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => Err(taken(path)),
            // A file system without links: what came meanwhile is seen, if not excluded.
            _ if path.exists() => Err(taken(path)),
            _ => std::fs::rename(&self.at, path).map_err(|error| unwritable(path, &error)),
        })?;
        remove(&self.at);
        self.finished = true;
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        // Some file systems cannot do this to a folder, and do not need it.
        let _ = File::open(folder).and_then(|folder| folder.sync_all());
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.finished {
            remove(&self.at);
        }
    }
}

fn remove(path: &Path) {
    for end in ["", "-journal", "-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        let _ = std::fs::remove_file(name);
    }
}

fn wrong(path: &Path, message: &'static str) -> Error {
    Error::config(message)
        .with("setting", "path")
        .with("path", path.display())
}

fn taken(path: &Path) -> Error {
    wrong(
        path,
        "there is already something of this name; it is never overwritten, take another name",
    )
}

fn unwritable(path: &Path, error: &std::io::Error) -> Error {
    wrong(
        path,
        "the file cannot be made; check that its folder is there and may be written",
    )
    .with("io", error.kind())
}

fn damaged(message: &'static str) -> Error {
    Error::new(ErrorKind::Corrupt, message)
}

/// Refuses a name under which there is a database, or what is left of one: its log would be played into the new file.
fn vacant(path: &Path) -> Result<()> {
    for end in ["", "-journal", "-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        if std::fs::symlink_metadata(&name).is_ok() {
            return Err(taken(Path::new(&name)));
        }
    }
    Ok(())
}

async fn copied(
    source: &Path,
    path: &Path,
    progress: &mut (dyn FnMut(Progress) + Send),
    marking: Marking<'_>,
) -> Result<Backup> {
    vacant(path)?;
    let unfinished = Unfinished::beside(path)?;
    // Dropped first: whatever runs is told to stop before the file is removed.
    let mut raw = match marking {
        Marking::List => Raw::shared(source).await?,
        Marking::Compare(_) => Raw::read_only(source).await?,
    };
    let of = raw.bytes().await?;
    {
        let mut copy = std::pin::pin!(raw.copy_to(&unfinished.at));
        loop {
            match tokio::time::timeout(LOOK, copy.as_mut()).await {
                Ok(done) => break done?,
                Err(_) => {
                    let bytes = std::fs::metadata(&unfinished.at).map_or(0, |file| file.len());
                    progress(Progress::Copying { bytes, of });
                }
            }
        }
    }
    drop(raw);
    let mut raw = Raw::own(&unfinished.at).await?;
    raw.forget_list().await?;
    let tables = checked(&mut raw, progress).await?;
    match marking {
        Marking::List => {
            let list = tables
                .iter()
                .map(|t| (t.name.as_str(), t.rows, t.sha256.as_str()));
            raw.write_list(list).await?;
        }
        Marking::Compare(wanted) => compare(&wanted.tables, &tables)?,
    }
    raw.close().await?;
    let bytes = std::fs::metadata(&unfinished.at)
        .map_err(|error| unwritable(path, &error))?
        .len();
    unfinished.finish(path)?;
    Ok(Backup { bytes, tables })
}

async fn verified(path: &Path, progress: &mut (dyn FnMut(Progress) + Send)) -> Result<Backup> {
    let bytes = std::fs::metadata(path)
        .map_err(|error| wrong(path, "there is no backup that can be read here").with("io", error.kind()))?
        .len();
    let mut raw = Raw::read_only(path).await?;
    let list = raw.read_list().await?.ok_or_else(|| {
        damaged("this is no backup: it has no list of what is in it").with("path", path.display())
    })?;
    let listed: Vec<TableCopy> = list
        .into_iter()
        .map(|(name, rows, sha256)| TableCopy { name, rows, sha256 })
        .collect();
    let mut found = checked(&mut raw, progress).await?;
    found.retain(|table| table.name != LIST);
    compare(&listed, &found)?;
    raw.close().await?;
    Ok(Backup { bytes, tables: found })
}

fn compare(wanted: &[TableCopy], found: &[TableCopy]) -> Result<()> {
    let names =
        |tables: &[TableCopy]| -> Vec<String> { tables.iter().map(|table| table.name.clone()).collect() };
    if names(wanted) != names(found) {
        return Err(damaged("the tables are not those that the backup lists"));
    }
    for (wanted, found) in wanted.iter().zip(found) {
        if wanted != found {
            return Err(
                damaged("the contents of a table are not those that the backup lists")
                    .with("table", &wanted.name)
                    .with("rows_listed", wanted.rows)
                    .with("rows_found", found.rows),
            );
        }
    }
    Ok(())
}

/// Checks the structure of a file and hashes the contents of its tables.
async fn checked(raw: &mut Raw, progress: &mut (dyn FnMut(Progress) + Send)) -> Result<Vec<TableCopy>> {
    progress(Progress::Checking);
    raw.check().await?;
    let mut tables = Vec::new();
    for name in raw.tables().await? {
        let (mut hash, mut rows) = (Sha256::new(), 0_u64);
        let mut take = |row: &[u8]| {
            hash.update((row.len() as u64).to_le_bytes());
            hash.update(row);
            rows += 1;
            if rows.is_multiple_of(65_536) {
                progress(Progress::Reading {
                    table: name.clone(),
                    rows,
                });
            }
        };
        raw.rows(&name, &mut take).await?;
        progress(Progress::Reading {
            table: name.clone(),
            rows,
        });
        let sha256 = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        tables.push(TableCopy { name, rows, sha256 });
    }
    Ok(tables)
}
