//! The real servers, where there are any: an empty database of its own for each test that asks.

use std::sync::Arc;

use crm_core::capability::RecordStore;
use crm_core::registry::Catalog;

/// Every server named by the environment (`scripts/services`) whose store is compiled in, each with an empty database
/// that ends in `part`. Says loudly which are left out; with `OPEN_CRM_REQUIRE_BACKENDS` that fails.
pub(crate) async fn all(part: &str) -> Vec<(&'static str, Arc<dyn RecordStore>)> {
    let mut found = Vec::new();
    let mut catalog = Catalog::new();
    crm_store::catalog::register(&mut catalog);
    for (name, variable) in [
        ("mysql", "OPEN_CRM_TEST_MYSQL_URL"),
        ("postgres", "OPEN_CRM_TEST_POSTGRES_URL"),
        ("mongodb", "OPEN_CRM_TEST_MONGODB_URL"),
    ] {
        let required = std::env::var_os("OPEN_CRM_REQUIRE_BACKENDS").is_some();
        let Ok(url) = std::env::var(variable) else {
            assert!(
                !required,
                "{variable} is not set, and OPEN_CRM_REQUIRE_BACKENDS is"
            );
            let _ = std::io::Write::write_all(
                &mut std::io::stderr(),
                format!("SKIPPED: {name}: {variable} is not set\n").as_bytes(),
            );
            continue;
        };
        match fresh(&catalog, name, &url, part).await {
            Ok(store) => found.push((name, store)),
            Err(reason) => {
                assert!(!required, "{name}: {reason}");
                let _ = std::io::Write::write_all(
                    &mut std::io::stderr(),
                    format!("SKIPPED: {name}: {reason}\n").as_bytes(),
                );
            }
        }
    }
    found
}

async fn fresh(catalog: &Catalog, name: &str, url: &str, part: &str) -> Result<Arc<dyn RecordStore>, String> {
    let database = format!("crm_{part}_{}", std::process::id());
    let target = with_database(url, &database);
    match name {
        "mysql" => {
            #[cfg(feature = "mysql")]
            {
                use sqlx::{Connection, Executor};
                let mut raw = sqlx::MySqlConnection::connect(url)
                    .await
                    .map_err(|e| e.to_string())?;
                for sql in [
                    format!("DROP DATABASE IF EXISTS {database}"),
                    format!("CREATE DATABASE {database} CHARACTER SET utf8mb4"),
                ] {
                    raw.execute(sqlx::AssertSqlSafe(sql))
                        .await
                        .map_err(|e| e.to_string())?;
                }
            }
        }
        "postgres" => {
            #[cfg(feature = "postgres")]
            {
                use sqlx::{Connection, Executor};
                let mut raw = sqlx::PgConnection::connect(url)
                    .await
                    .map_err(|e| e.to_string())?;
                for sql in [
                    format!("DROP DATABASE IF EXISTS {database} WITH (FORCE)"),
                    format!("CREATE DATABASE {database}"),
                ] {
                    raw.execute(sqlx::AssertSqlSafe(sql))
                        .await
                        .map_err(|e| e.to_string())?;
                }
            }
        }
        _ => {}
    }
    catalog
        .open::<dyn RecordStore>(&target)
        .await
        .map_err(|error| error.to_string())
}

/// The same URL with another database.
fn with_database(url: &str, database: &str) -> String {
    let (rest, query) = url
        .split_once('?')
        .map_or((url, None), |(rest, query)| (rest, Some(query)));
    let start = rest.find("://").map_or(0, |at| at + 3);
    let host = rest[start..].find('/').map_or(rest, |at| &rest[..start + at]);
    match query {
        Some(query) => format!("{host}/{database}?{query}"),
        None => format!("{host}/{database}"),
    }
}
