//! What a record costs when the cache has it.

use anyhow::{Result, ensure};
use open_crm::capability::RecordStore;
use open_crm::query::{Filter, Query};
use open_crm::store::cached::{CacheConfig, CachedStore};
use open_crm::{SystemClock, Uuid};

use super::{Bench, PERSON, email, id, mixed, timed};

impl Bench {
    /// Customers that are asked for often, all of them in the cache.
    pub(super) async fn cache(&self) -> Result<()> {
        let often = self.rows.min(50_000);
        let config = CacheConfig::default()
            .keep(&PERSON, &["email"])
            .max_bytes(1 << 30);
        let store = CachedStore::new(self.store.clone(), SystemClock::shared(), config)?;
        let all: Vec<Uuid> = (0..often).map(id).collect();
        for ids in all.chunks(500) {
            store.get(&self.ctx, &PERSON, ids).await?;
        }
        let some: Vec<u64> = (0..500_000).map(|n| mixed(n) % often).collect();
        let before = store.stats();
        let one = async {
            for n in &some {
                let found = store.get(&self.ctx, &PERSON, &[id(*n)]).await?;
                ensure!(found[0].as_ref().is_some_and(|found| found.id == id(*n)));
            }
            Ok(())
        };
        timed("cache: get by id, one by one", some.len() as u64, one).await?;
        let many = async {
            for batch in some.chunks(500) {
                let ids: Vec<Uuid> = batch.iter().map(|n| id(*n)).collect();
                let found = store.get(&self.ctx, &PERSON, &ids).await?;
                ensure!(
                    found
                        .iter()
                        .zip(&ids)
                        .all(|(found, id)| found.as_ref().is_some_and(|f| f.id == *id))
                );
            }
            Ok(())
        };
        timed("cache: get by id, 500 at once", some.len() as u64, many).await?;
        let after = store.stats();
        ensure!(
            after.misses == before.misses,
            "not everything was in the cache: {after:?}"
        );

        let some = &some[..50_000];
        for round in ["store", "cache"] {
            let lookup = async {
                for n in some {
                    let query = Query::new(Filter::eq("email", email(*n))).limit(1);
                    let page = store.find(&self.ctx, &PERSON, &query).await?;
                    ensure!(page.items.first().is_some_and(|found| found.id == id(*n)));
                }
                Ok(())
            };
            timed(&format!("{round}: look-up by e-mail"), some.len() as u64, lookup).await?;
        }
        Ok(())
    }
}
