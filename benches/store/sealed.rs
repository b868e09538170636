//! What encryption costs: the same customers, written and read, on two SQLite files, one behind a sealed store.

use std::sync::Arc;

use anyhow::{Result, ensure};
use open_crm::capability::RecordStore;
use open_crm::customer::{Draft, PersonName, Provenance};
use open_crm::store::customers::Customers;
use open_crm::store::sealed::{KeyRing, SealConfig, SealedStore};
use open_crm::store::{SqliteConfig, SqliteStore};
use open_crm::{Context, CustomerId, RandomIds, Secret, SystemClock, TenantId, Timestamp};

use super::{CITIES, email, mixed, timed};

const GETS: u64 = 20_000;
const PAGE: usize = 100;

fn draft(n: u64, again: bool) -> Draft {
    let mut draft = Draft::new(Provenance::new(
        "bench",
        Timestamp::from_micros(n as i64 + i64::from(again)),
    ));
    draft.name = Some(PersonName::new(
        "Ana",
        &format!("Kask {n}{}", if again { " again" } else { "" }),
    ));
    draft.emails.push(email(n));
    draft.phones.push(format!("+3725{:07}", n % 10_000_000));
    draft.tags.push(CITIES[(n % 8) as usize].to_owned());
    draft
}

async fn one(name: &str, store: Arc<dyn RecordStore>, rows: u64) -> Result<()> {
    let ctx = Context::new(TenantId::new("bench")?);
    let customers = Customers::new(store, SystemClock::shared(), RandomIds::shared());
    customers.prepare().await?;
    let mut ids: Vec<CustomerId> = Vec::new();
    let new = async {
        for n in 0..rows {
            ids.push(customers.upsert(&ctx, draft(n, false)).await?.id);
        }
        Ok::<(), open_crm::Error>(())
    };
    timed(&format!("{name}: upsert of a new customer"), rows, new).await?;
    let again = async {
        for n in 0..rows {
            let found = customers.upsert(&ctx, draft(n, true)).await?.id;
            ensure!(Some(&found) == ids.get(n as usize), "somebody else was found");
        }
        Ok(())
    };
    timed(&format!("{name}: upsert that changes one"), rows, again).await?;
    let get = async {
        for n in 0..GETS {
            let id = ids[(mixed(n) % rows) as usize];
            ensure!(customers.get(&ctx, id).await?.is_some_and(|found| found.id == id));
        }
        Ok(())
    };
    timed(&format!("{name}: get by id"), GETS, get).await?;
    let pages = async {
        for page in ids.chunks_exact(PAGE) {
            let found = customers.get_many(&ctx, page).await?;
            ensure!(found.iter().all(Option::is_some));
        }
        Ok(())
    };
    timed(
        &format!("{name}: get of {PAGE}, each"),
        rows / PAGE as u64 * PAGE as u64,
        pages,
    )
    .await?;
    Ok(())
}

/// Writes and reads `rows` customers, in clear and encrypted.
pub(super) async fn sealed(rows: u64) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let open =
        async |name: &str| SqliteStore::open_file(folder.path().join(name), SqliteConfig::default()).await;
    one("in clear", Arc::new(open("clear.db").await?), rows).await?;
    let ring = KeyRing::new("bench", [("k", Secret::new("5e".repeat(32)))])?;
    let config = SealConfig {
        kept_keys: rows,
        ..SealConfig::default()
    };
    let inner = Arc::new(open("sealed.db").await?);
    let store = SealedStore::new(inner, Arc::new(ring), SystemClock::shared(), config)?;
    one("encrypted", Arc::new(store), rows).await
}
