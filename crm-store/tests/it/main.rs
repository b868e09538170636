//! Tests of crm-store: the contract of every store, SQLite's promises under fire, and customers on top.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr
)]

#[cfg(feature = "api")]
mod api;
mod batch;
#[cfg(feature = "cached")]
mod cached;
mod caps;
mod changes;
mod child;
mod conformance;
mod copies;
mod customers;
mod export;
mod group_kill;
mod imports;
mod kill;
mod merge;
#[cfg(feature = "mongodb")]
mod mongo;
#[cfg(feature = "mongodb")]
mod mongo_faults;
#[cfg(all(feature = "mysql", feature = "postgres"))]
mod mysql;
#[cfg(all(feature = "mysql", feature = "postgres"))]
mod own;
#[cfg(all(feature = "mysql", feature = "postgres"))]
mod own_server;
mod people;
#[cfg(all(feature = "mysql", feature = "postgres"))]
mod postgres;
mod profiles;
mod retention;
#[cfg(feature = "sealed")]
mod sealed;
mod segments;
#[cfg(feature = "sqlite")]
mod segments_kill;
#[cfg(all(feature = "mysql", feature = "postgres"))]
mod server_kill;
#[cfg(all(feature = "mysql", feature = "postgres"))]
mod sql_faults;
#[cfg(all(feature = "mysql", feature = "postgres", feature = "unstable-raw"))]
mod sql_host;
#[cfg(all(feature = "mysql", feature = "postgres"))]
mod sql_servers;
mod sqlite;
mod sqlite_backup;
mod sqlite_faults;
mod sqlite_group;
#[cfg(feature = "unstable-raw")]
mod sqlite_host;
mod stores;
mod tenants;
mod undo;
mod undo_kill;
mod unique;
mod weaker;
