//! A connection to a SQLite file as it is, whatever is in it: for copies and their checks.

use std::path::Path;
use std::time::Duration;

use crm_core::{Error, ErrorKind, Result};
use rusqlite::{Connection, OpenFlags};
use tokio::sync::mpsc;

use super::Dialect;
use super::sqlite::{Failure, Link, Sqlite, classify, literal};

/// Rows that are handed out together.
const ROWS: usize = 512;
/// How many such batches wait at most.
const BATCHES: usize = 2;

/// A connection whose statements stop when it is dropped.
pub(in crate::sql) struct Raw {
    link: Link,
}

fn failed(error: rusqlite::Error) -> Error {
    classify(&error).into_error()
}

fn lost(failure: Failure) -> Error {
    failure.fault().into_error()
}

fn quoted(name: &str) -> String {
    let mut out = String::new();
    Sqlite::quote(&mut out, name);
    out
}

impl Raw {
    /// Opens a file that others may use at the same time.
    pub(in crate::sql) async fn shared(path: &Path) -> Result<Self> {
        Self::open(path, OpenFlags::SQLITE_OPEN_READ_WRITE).await
    }

    /// Opens a file without changing anything about it.
    pub(in crate::sql) async fn read_only(path: &Path) -> Result<Self> {
        Self::open(path, OpenFlags::SQLITE_OPEN_READ_ONLY).await
    }

    /// Opens a file that is ours alone.
    pub(in crate::sql) async fn own(path: &Path) -> Result<Self> {
        let raw = Self::shared(path).await?;
        raw.ask(|connection| connection.execute_batch("PRAGMA synchronous = FULL"))
            .await?;
        Ok(raw)
    }

    async fn open(path: &Path, flags: OpenFlags) -> Result<Self> {
        let path = literal(path);
        let open = move || {
            let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
            connection.busy_timeout(Duration::from_secs(5))?;
            Ok(connection)
        };
        let link = Link::open(open).await.map_err(lost)?;
        Ok(Self { link })
    }

    async fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        let done = self.link.on(move |session| work(session.connection()));
        done.await.map_err(lost)?.map_err(failed)
    }

    /// Closes the file, and says when that failed.
    pub(in crate::sql) async fn close(self) -> Result<()> {
        self.link.close().await.map_err(lost)
    }

    async fn text(&self, sql: impl Into<String>) -> Result<Vec<String>> {
        let sql = sql.into();
        self.ask(move |connection| {
            let mut statement = connection.prepare(&sql)?;
            statement.query_map([], |row| row.get(0))?.collect()
        })
        .await
    }

    /// The size of the database in bytes.
    pub(in crate::sql) async fn bytes(&mut self) -> Result<u64> {
        let sql = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size";
        let bytes: i64 = self
            .ask(move |connection| connection.query_row(sql, [], |row| row.get(0)))
            .await?;
        Ok(u64::try_from(bytes).unwrap_or_default())
    }

    /// Copies the database, as it is at this moment, to a new file (<https://www.sqlite.org/lang_vacuum.html>).
    pub(in crate::sql) async fn copy_to(&mut self, path: &Path) -> Result<()> {
        let Some(name) = literal(path).to_str().map(str::to_owned) else {
            return Err(
                Error::config("SQLite only writes files whose names are UTF-8").with("setting", "path")
            );
        };
        let done = self.ask(move |connection| connection.execute("VACUUM INTO ?", [name]));
        done.await.map(|_| ())
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
        // A file may hold stores of several prefixes.
        for ledger in tables.iter().filter(|table| table.ends_with("crm_ledger")) {
            let prefix = ledger.strip_suffix("crm_ledger").unwrap_or_default();
            let sql = format!("SELECT name FROM {} WHERE name NOT LIKE '#%'", quoted(ledger));
            for name in self.text(sql).await? {
                let name = format!("{prefix}{name}");
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
        let table = table.to_owned();
        let (batches, mut given) = mpsc::channel::<Vec<Vec<u8>>>(BATCHES);
        let read = self.ask(move |connection| {
            let sql = in_order(connection, &table)?;
            let mut statement = connection.prepare(&sql)?;
            let mut rows = statement.query([])?;
            let mut batch = Vec::with_capacity(ROWS);
            while let Some(row) = rows.next()? {
                batch.push(row.get_ref(0)?.as_bytes()?.to_vec());
                // Nobody takes it: nobody waits for the end either.
                if batch.len() == ROWS && batches.blocking_send(std::mem::take(&mut batch)).is_err() {
                    return Ok(());
                }
            }
            let _ = batches.blocking_send(batch);
            Ok(())
        });
        let taken = async {
            while let Some(batch) = given.recv().await {
                batch.iter().for_each(|row| take(row));
            }
        };
        let (read, ()) = tokio::join!(read, taken);
        read
    }

    /// Removes the list of a backup, if there is one.
    pub(in crate::sql) async fn forget_list(&mut self) -> Result<()> {
        self.ask(|connection| connection.execute_batch("DROP TABLE IF EXISTS crm_backup"))
            .await
    }

    /// Writes the list of a backup: name, rows and hash of each table. Returns when it, and so the file, is on the disk.
    pub(in crate::sql) async fn write_list(
        &mut self,
        list: impl Iterator<Item = (&str, u64, &str)>,
    ) -> Result<()> {
        let list: Vec<(String, i64, String)> = list
            .map(|(name, rows, sha256)| {
                let rows = i64::try_from(rows).unwrap_or(i64::MAX);
                (name.to_owned(), rows, sha256.to_owned())
            })
            .collect();
        self.ask(move |connection| {
            let unit = connection.unchecked_transaction()?;
            unit.execute_batch(
                "CREATE TABLE crm_backup (name TEXT NOT NULL PRIMARY KEY, records INTEGER NOT NULL, sha256 TEXT NOT NULL) STRICT",
            )?;
            for entry in list {
                unit.execute("INSERT INTO crm_backup VALUES (?, ?, ?)", entry)?;
            }
            unit.commit()
        })
        .await
    }

    /// The list of a backup; none in a file that is no backup.
    pub(in crate::sql) async fn read_list(&mut self) -> Result<Option<Vec<(String, u64, String)>>> {
        if !self.tables().await?.iter().any(|table| table == "crm_backup") {
            return Ok(None);
        }
        let list = self.ask(|connection| {
            let mut statement =
                connection.prepare("SELECT name, records, sha256 FROM crm_backup ORDER BY name")?;
            let entry = |row: &rusqlite::Row<'_>| {
                let records: i64 = row.get(1)?;
                Ok((
                    row.get(0)?,
                    u64::try_from(records).unwrap_or_default(),
                    row.get(2)?,
                ))
            };
            statement.query_map([], entry)?.collect()
        });
        list.await.map(Some)
    }
}

/// The question for every row of a table in the order of its key. Names come from the file itself, quoted.
fn in_order(connection: &Connection, table: &str) -> rusqlite::Result<String> {
    let mut columns = connection.prepare("SELECT name, pk FROM pragma_table_info(?) ORDER BY cid")?;
    let mut columns = columns.query([table])?;
    let (mut values, mut key) = (String::new(), Vec::new());
    while let Some(column) = columns.next()? {
        let name = quoted(column.get_ref(0)?.as_str()?);
        let place: i64 = column.get(1)?;
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
    Ok(format!("SELECT {values} FROM {} ORDER BY {order}", quoted(table)))
}
