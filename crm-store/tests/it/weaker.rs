//! A SQLite file that cannot be kept as is promised is refused when it is opened, not used with less.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crm_core::ErrorKind;
use crm_store::{SqliteConfig, SqliteStore};

use crate::child::{armed, sqlite3};

/// SQLite's own program with the file open, in the middle of what it was told.
struct Holder(Child);

impl Holder {
    fn new(path: &Path, sql: &str) -> Self {
        let mut child = Command::new("sqlite3")
            .arg("-batch")
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        writeln!(child.stdin.as_mut().unwrap(), "{sql}\nSELECT 'held';").unwrap();
        let mut said = BufReader::new(child.stdout.as_mut().unwrap()).lines();
        assert!(said.any(|line| line.unwrap() == "held"));
        Self(child)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn hurried() -> SqliteConfig {
    SqliteConfig::default().wait(Duration::from_millis(200))
}

/// Another process keeps the file in its old journal mode, in which readers and the writer would be in each other's way and
/// which the store does not promise anything for.
#[tokio::test]
async fn a_file_that_stays_in_its_old_journal_mode() {
    if !armed() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("crm.db");
    for hold in [
        "BEGIN; SELECT count(*) FROM theirs;",
        "PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE; COMMIT;",
    ] {
        sqlite3(
            &path,
            "PRAGMA journal_mode = DELETE; CREATE TABLE IF NOT EXISTS theirs (n)",
        );
        let holder = Holder::new(&path, hold);
        if hold.starts_with("BEGIN;") {
            // The control: whoever does not insist on the mode is let in.
            sqlite3(&path, "BEGIN IMMEDIATE; ROLLBACK");
        }
        let error = SqliteStore::open_file(&path, hurried()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{hold} {error}");
        assert!(error.is_retryable() && error.context("path").is_some(), "{error}");
        drop(holder);
        let tables = sqlite3(&path, "SELECT name FROM sqlite_schema");
        assert_eq!(tables, ["theirs"], "something was written");
        assert_eq!(sqlite3(&path, "PRAGMA journal_mode"), ["delete"]);

        drop(
            SqliteStore::open_file(&path, SqliteConfig::default())
                .await
                .unwrap(),
        );
        assert_eq!(sqlite3(&path, "PRAGMA journal_mode"), ["wal"]);
    }
}

/// The file system does not give what the write-ahead log is shared with.
#[tokio::test]
async fn a_place_without_shared_memory() {
    if !armed() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("crm.db");
    let shared = folder.path().join("crm.db-shm");
    std::fs::create_dir(&shared).unwrap();
    let error = SqliteStore::open_file(&path, hurried()).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.context("setting")),
        (ErrorKind::Config, Some("url")),
        "{error}"
    );
    std::fs::remove_dir(&shared).unwrap();
    SqliteStore::open_file(&path, hurried()).await.unwrap();
}

/// SQLite reads a path that begins with `file:` as a URI and takes orders from it, also such that lose data; the store
/// takes paths literally.
#[tokio::test]
async fn a_path_gives_no_orders() {
    if !armed() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("crm.db");
    sqlite3(&path, "CREATE TABLE theirs (n)");
    // The control: SQLite's own program obeys, goes on with less, and says only which mode it is in.
    let careless = format!("file:{}?nolock=1", path.display());
    let script = "PRAGMA journal_mode = WAL; INSERT INTO theirs VALUES (1)";
    assert_eq!(sqlite3(Path::new(&careless), script), ["delete"]);
    for order in ["nolock=1", "vfs=unix-none", "mode=memory"] {
        let careless = format!("file:{}?{order}", path.display());
        let error = SqliteStore::open_file(&careless, hurried()).await.unwrap_err();
        // There is no folder of the name `file:`.
        assert_eq!(
            (error.kind(), error.context("setting")),
            (ErrorKind::Config, Some("url")),
            "{error}"
        );
    }
    assert_eq!(sqlite3(&path, "SELECT name FROM sqlite_schema"), ["theirs"]);
}
