//! A connection to a SQLite file as it is, whatever is in it: for copies and their checks.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crm_core::{Error, ErrorKind, Result};
use futures_util::TryStreamExt as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteSynchronous};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Row, SqlSafeStr};

use super::Dialect;
use super::sqlite::{Sqlite, classify};

/// Instructions between two looks at whether to stop: about a tenth of a millisecond.
const STEPS: i32 = 10_000;

/// A connection whose statements stop when it is dropped.
pub(in crate::sql) struct Raw {
    connection: SqliteConnection,
    stop: Stop,
}

/// Dropped, it stops what runs on the connection.
struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn failed(error: sqlx::Error) -> Error {
    classify(&error).into_error()
}

fn quoted(name: &str) -> String {
    let mut out = String::new();
    Sqlite::quote(&mut out, name);
    out
}

impl Raw {
    /// Opens a file that others may use at the same time.
    pub(in crate::sql) async fn shared(path: &Path) -> Result<Self> {
        Self::open(SqliteConnectOptions::new().filename(path)).await
    }

    /// Opens a file without changing anything about it.
    pub(in crate::sql) async fn read_only(path: &Path) -> Result<Self> {
        Self::open(SqliteConnectOptions::new().filename(path).read_only(true)).await
    }

    /// Opens a file that is ours alone.
    pub(in crate::sql) async fn own(path: &Path) -> Result<Self> {
        let options = SqliteConnectOptions::new().filename(path);
        Self::open(options.synchronous(SqliteSynchronous::Full)).await
    }

    async fn open(options: SqliteConnectOptions) -> Result<Self> {
        let mut connection = options
            .create_if_missing(false)
            .busy_timeout(Duration::from_secs(5))
            .disable_statement_logging()
            .connect()
            .await
            .map_err(failed)?;
        let stop = Stop(Arc::new(AtomicBool::new(false)));
        let stopped = stop.0.clone();
        connection
            .lock_handle()
            .await
            .map_err(failed)?
            .set_progress_handler(STEPS, move || !stopped.load(Ordering::Relaxed));
        Ok(Self { connection, stop })
    }

    /// Closes the file, and says when that failed.
    pub(in crate::sql) async fn close(self) -> Result<()> {
        let Self { connection, stop } = self;
        let closed = connection.close().await.map_err(failed);
        drop(stop);
        closed
    }

    async fn text(&mut self, sql: &'static str) -> Result<Vec<String>> {
        let rows = sqlx::query(sql)
            .fetch_all(&mut self.connection)
            .await
            .map_err(failed)?;
        rows.iter().map(|row| row.try_get(0).map_err(failed)).collect()
    }

    /// The size of the database in bytes.
    pub(in crate::sql) async fn bytes(&mut self) -> Result<u64> {
        let sql = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size";
        let row = sqlx::query(sql)
            .fetch_one(&mut self.connection)
            .await
            .map_err(failed)?;
        let bytes: i64 = row.try_get(0).map_err(failed)?;
        Ok(u64::try_from(bytes).unwrap_or_default())
    }

    /// Copies the database, as it is at this moment, to a new file (<https://www.sqlite.org/lang_vacuum.html>).
    pub(in crate::sql) async fn copy_to(&mut self, path: &Path) -> Result<()> {
        let Some(name) = path.to_str() else {
            return Err(
                Error::config("SQLite only writes files whose names are UTF-8").with("setting", "path")
            );
        };
        let done = sqlx::query("VACUUM INTO ?")
            .bind(name)
            .execute(&mut self.connection)
            .await;
        done.map(|_| ()).map_err(failed)
    }

    /// Checks every page, and every row against every index; and that the ledger's tables are there.
    pub(in crate::sql) async fn check(&mut self) -> Result<()> {
        let found = self.text("PRAGMA integrity_check(1)").await?;
        if found != ["ok"] {
            // SQLite's words are about pages and names, never values.
            let found = found.into_iter().next().unwrap_or_default();
            return Err(Error::new(ErrorKind::Corrupt, "the SQLite file is damaged").with("found", found));
        }
        let tables = self.tables().await?;
        if tables.iter().any(|table| table == "crm_ledger") {
            for name in self
                .text("SELECT name FROM crm_ledger WHERE name NOT LIKE '#%'")
                .await?
            {
                if !tables.contains(&name) {
                    return Err(Error::new(
                        ErrorKind::Corrupt,
                        "a table is missing that the ledger of schemas lists",
                    )
                    .with("table", name));
                }
            }
        }
        Ok(())
    }

    /// The names of all tables.
    pub(in crate::sql) async fn tables(&mut self) -> Result<Vec<String>> {
        self.text(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' \
             AND sql NOT LIKE 'CREATE VIRTUAL%' ORDER BY name",
        )
        .await
    }

    /// Hands out every row of a table, in the order of its key, as one text that differs when any value or its type does.
    pub(in crate::sql) async fn rows(
        &mut self,
        table: &str,
        take: &mut (dyn FnMut(&[u8]) + Send),
    ) -> Result<()> {
        let columns = sqlx::query("SELECT name, pk FROM pragma_table_info(?) ORDER BY cid")
            .bind(table)
            .fetch_all(&mut self.connection)
            .await
            .map_err(failed)?;
        let (mut values, mut key) = (String::new(), Vec::new());
        for column in &columns {
            let name = quoted(column.try_get(0).map_err(failed)?);
            let place: i64 = column.try_get(1).map_err(failed)?;
            if !values.is_empty() {
                values.push_str(" || ',' || ");
            }
            values.push_str(&format!("quote({name})"));
            if place > 0 {
                key.push((place, name));
            }
        }
        key.sort();
        let order = match key.is_empty() {
            true => "rowid".to_owned(),
            false => key
                .into_iter()
                .map(|(_, name)| name)
                .collect::<Vec<_>>()
                .join(", "),
        };
        // Names come from the file itself, quoted.
        let sql = format!("SELECT {values} FROM {} ORDER BY {order}", quoted(table));
        let sql = AssertSqlSafe(sql).into_sql_str();
        let mut rows = sqlx::query(sql).fetch(&mut self.connection);
        while let Some(row) = rows.try_next().await.map_err(failed)? {
            take(row.try_get_unchecked(0).map_err(failed)?);
        }
        Ok(())
    }

    /// Removes the list of a backup, if there is one.
    pub(in crate::sql) async fn forget_list(&mut self) -> Result<()> {
        let done = sqlx::query("DROP TABLE IF EXISTS crm_backup")
            .execute(&mut self.connection)
            .await;
        done.map(|_| ()).map_err(failed)
    }

    /// Writes the list of a backup: name, rows and hash of each table. Returns when it, and so the file, is on the disk.
    pub(in crate::sql) async fn write_list(
        &mut self,
        list: impl Iterator<Item = (&str, u64, &str)>,
    ) -> Result<()> {
        let mut unit = self.connection.begin().await.map_err(failed)?;
        sqlx::query(
            "CREATE TABLE crm_backup (name TEXT NOT NULL PRIMARY KEY, records INTEGER NOT NULL, sha256 TEXT NOT NULL) STRICT",
        )
        .execute(&mut *unit)
        .await
        .map_err(failed)?;
        for (name, rows, sha256) in list {
            sqlx::query("INSERT INTO crm_backup VALUES (?, ?, ?)")
                .bind(name)
                .bind(i64::try_from(rows).unwrap_or(i64::MAX))
                .bind(sha256)
                .execute(&mut *unit)
                .await
                .map_err(failed)?;
        }
        unit.commit().await.map_err(failed)
    }

    /// The list of a backup; none in a file that is no backup.
    pub(in crate::sql) async fn read_list(&mut self) -> Result<Option<Vec<(String, u64, String)>>> {
        if !self.tables().await?.iter().any(|table| table == "crm_backup") {
            return Ok(None);
        }
        let sql = "SELECT name, records, sha256 FROM crm_backup ORDER BY name";
        let rows = sqlx::query(sql)
            .fetch_all(&mut self.connection)
            .await
            .map_err(failed)?;
        let entry = |row: &sqlx::sqlite::SqliteRow| {
            let records: i64 = row.try_get(1).map_err(failed)?;
            let records = u64::try_from(records).unwrap_or_default();
            Ok((
                row.try_get(0).map_err(failed)?,
                records,
                row.try_get(2).map_err(failed)?,
            ))
        };
        rows.iter().map(entry).collect::<Result<_>>().map(Some)
    }
}
