//! The host's own pool and transaction (feature `unstable-raw`): here sqlx and rusqlite are part of the interface, and change
//! with them.

#[cfg(feature = "sqlite")]
use std::path::Path;

#[cfg(feature = "sqlite")]
use crm_core::Error;
#[cfg(any(feature = "mysql", feature = "postgres"))]
use crm_core::ProviderInfo;
use crm_core::record::{Outcome, Write};
use crm_core::{Context, Result};

use super::compile::Control;
use super::driver::Driver;
#[cfg(feature = "sqlite")]
use super::driver::{Link, Sqlite, serve};
#[cfg(feature = "mysql")]
use super::driver::{Mysql, MysqlConfig};
#[cfg(feature = "postgres")]
use super::driver::{Postgres, PostgresConfig};
use super::lane::Lane;
use super::{SqlStore, write};

/// A unit of work that leaves no trace when it fails, whatever else the transaction holds. The lane ends with it.
async fn within<D: Driver>(mut lane: Lane<D>, ctx: &Context, writes: &[Write]) -> Result<Vec<Outcome>> {
    write::validate(writes)?;
    if writes.is_empty() {
        return Ok(Vec::new());
    }
    lane.step(Control::Mark).await?;
    match write::all(&mut lane, ctx.tenant(), writes).await {
        Ok(outcomes) => {
            lane.step(Control::Keep).await?;
            Ok(outcomes)
        }
        Err(error) => {
            // Where that fails too, the transaction is gone, and with it the unit.
            let _ = lane.step(Control::Undo).await;
            Err(error)
        }
    }
}

#[cfg(feature = "postgres")]
impl SqlStore<Postgres> {
    /// A store on the host's own pool. Sessions keep the host's settings. A call that is dropped halfway takes its connection out of the pool and
    /// closes it. The URL's settings (connections, TLS) are the pool's.
    ///
    /// # Errors
    /// As [`SqlStore::open`].
    pub async fn from_pool(pool: sqlx::PgPool, config: PostgresConfig) -> Result<Self> {
        let driver = Postgres::from_pool(pool, config)
            .await
            .map_err(|e| e.operation("store.open"))?;
        Self::connected(ProviderInfo::new("postgres", driver.name()), driver).await
    }

    /// Carries out a unit of work within the transaction the host has open on `connection`: it happens when the host
    /// commits, and not at all when the host rolls back or the unit fails; a failed unit leaves what the host did before.
    ///
    /// # Errors
    /// As [`crm_core::capability::RecordStore::apply`]; nothing is tried again: a deadlock takes the host's transaction
    /// with it.
    pub async fn apply_in(
        &self,
        connection: &mut sqlx::PgConnection,
        ctx: &Context,
        writes: &[Write],
    ) -> Result<Vec<Outcome>> {
        let limit = self.time(ctx).map_err(|e| e.operation("store.apply"))?;
        let (link, asked) = Postgres::guest();
        let lane = Lane::guest(&self.writer, link, limit);
        let served = Postgres::serve(connection, asked);
        let (done, ()) = futures_util::future::join(within(lane, ctx, writes), served).await;
        done.map_err(|e| e.operation("store.apply"))
    }
}

#[cfg(feature = "mysql")]
impl SqlStore<Mysql> {
    /// A store on the host's own pool. Sessions keep the host's settings; they must be strict (`sql_mode`) and speak utf8mb4. A call that is dropped halfway takes its connection out of the pool and
    /// closes it. The URL's settings (connections, TLS) are the pool's.
    ///
    /// # Errors
    /// As [`SqlStore::open`].
    pub async fn from_pool(pool: sqlx::MySqlPool, config: MysqlConfig) -> Result<Self> {
        let driver = Mysql::from_pool(pool, config)
            .await
            .map_err(|e| e.operation("store.open"))?;
        Self::connected(ProviderInfo::new("mysql", driver.name()), driver).await
    }

    /// Carries out a unit of work within the transaction the host has open on `connection`: it happens when the host
    /// commits, and not at all when the host rolls back or the unit fails; a failed unit leaves what the host did before.
    ///
    /// # Errors
    /// As [`crm_core::capability::RecordStore::apply`]; nothing is tried again: a deadlock takes the host's transaction
    /// with it.
    pub async fn apply_in(
        &self,
        connection: &mut sqlx::MySqlConnection,
        ctx: &Context,
        writes: &[Write],
    ) -> Result<Vec<Outcome>> {
        let limit = self.time(ctx).map_err(|e| e.operation("store.apply"))?;
        let (link, asked) = Mysql::guest();
        let lane = Lane::guest(&self.writer, link, limit);
        let served = Mysql::serve(connection, asked);
        let (done, ()) = futures_util::future::join(within(lane, ctx, writes), served).await;
        done.map_err(|e| e.operation("store.apply"))
    }
}

#[cfg(feature = "sqlite")]
impl SqlStore<Sqlite> {
    /// Carries out a unit of work within the transaction the host has open on `connection`, on this thread: it happens when
    /// the host commits, and not at all when the host rolls back or the unit fails; a failed unit leaves what the host did
    /// before. The store's own writes wait until the host's transaction ends. Begin it as `IMMEDIATE`, else SQLite may have
    /// to refuse it its first write.
    ///
    /// # Errors
    /// As [`crm_core::capability::RecordStore::apply`]; [`crm_core::ErrorKind::Invalid`] (`setting=connection`) when no
    /// transaction is open; [`crm_core::ErrorKind::Config`] when it is a connection to another file.
    pub fn apply_in(
        &self,
        connection: &rusqlite::Connection,
        ctx: &Context,
        writes: &[Write],
    ) -> Result<Vec<Outcome>> {
        let named = |error: Error| error.operation("store.apply");
        let wrong = |error: Error| named(error.with("setting", "connection"));
        // There is no clock on this thread that could stop it later.
        self.time(ctx).map_err(named)?;
        if connection.is_autocommit() {
            return Err(wrong(Error::invalid(
                "no transaction is open on this connection; begin one first",
            )));
        }
        let file = |path: &Path| path.canonicalize().ok();
        let theirs = connection.path().map(Path::new).and_then(file);
        if theirs.is_none() || theirs != self.driver.path().and_then(file) {
            return Err(wrong(Error::config(
                "this is a connection to another database than the store's file",
            )));
        }
        let (link, inbox) = Link::guest();
        let lane = Lane::guest(&self.writer, link, None);
        serve(connection, &inbox, within(lane, ctx, writes)).map_err(named)
    }
}
