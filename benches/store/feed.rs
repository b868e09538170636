//! What the change feed adds to a write, and an import's journal to a row.

use std::sync::Arc;

use anyhow::{Result, ensure};
use open_crm::capability::RecordStore;
use open_crm::record::Write;
use open_crm::store::changes::ChangeLog;
use open_crm::store::customers::{Customers, ImportOptions};
use open_crm::{Context, RandomIds, SystemClock, TenantId};

use super::{Bench, PERSON, draft, id, person, timed};

impl Bench {
    /// A tenant of its own, so that every way meets an equal, empty place.
    pub(super) fn place(&self, name: &str) -> Result<Context> {
        Ok(Context::new(TenantId::new(&format!(
            "{}-{name}",
            self.ctx.tenant().as_str()
        ))?))
    }

    pub(super) fn log(&self) -> ChangeLog {
        ChangeLog::new(self.store.clone(), SystemClock::shared(), RandomIds::shared()).watch(&PERSON, None)
    }

    pub(super) async fn feed(&self) -> Result<()> {
        let log = self.log();
        log.migrate(&[&PERSON]).await?;
        let ways: [(&str, Arc<dyn RecordStore>); 2] =
            [("without", self.store.clone()), ("with", Arc::new(log.clone()))];
        let (single, many) = (self.rows.min(5_000), self.rows.min(200_000));
        for (name, store) in &ways {
            let ctx = self.place(name)?;
            let one_by_one = async {
                for n in 0..single {
                    let write = Write::insert(id(n), person(n, "Ana Kask".into()));
                    store.apply(&ctx, &[write]).await?;
                }
                anyhow::Ok(())
            };
            timed(&format!("write with commit, {name} the feed"), single, one_by_one).await?;
            let batches = async {
                for start in (single..single + many).step_by(1_000) {
                    let some = start..(start + 1_000).min(single + many);
                    let writes: Vec<Write> = some
                        .map(|n| Write::insert(id(n), person(n, "Ana Kask".into())))
                        .collect();
                    store.apply(&ctx, &writes).await?;
                }
                anyhow::Ok(())
            };
            timed(&format!("write, 1,000 at once, {name} the feed"), many, batches).await?;
        }
        // Whoever reads first numbers what was written.
        let ctx = self.place("with")?;
        for name in ["first", "next"] {
            let (mut cursor, mut seen) = (None, 0);
            let read = async {
                loop {
                    let changes = log.feed().changes_since(&ctx, cursor.as_ref(), 2_000).await?;
                    if changes.items.is_empty() {
                        return anyhow::Ok(());
                    }
                    seen += changes.items.len() as u64;
                    cursor = Some(changes.next);
                }
            };
            timed(&format!("reading the feed, {name} reader"), single + many, read).await?;
            ensure!(seen == single + many, "{seen} changes were told");
        }
        Ok(())
    }

    pub(super) async fn journal(&self) -> Result<()> {
        let rows = self.rows.min(200_000);
        for name in ["without", "with"] {
            let ctx = self.place(&format!("journal-{name}"))?;
            let customers = Customers::new(self.store.clone(), SystemClock::shared(), RandomIds::shared());
            customers.prepare().await?;
            let options = match name {
                "with" => ImportOptions::default(),
                _ => ImportOptions::default().without_journal(),
            };
            let work = customers.import(&ctx, "bench", (0..rows).map(draft), options);
            let report = timed(&format!("import of a row, {name} the journal"), rows, work).await?;
            ensure!(report.created == rows && report.rejected == 0, "{report:?}");
            if name == "with" {
                let again = customers.import(&ctx, "bench", (0..rows).map(draft), ImportOptions::default());
                let report = timed("the same import again, with the journal", rows, again).await?;
                ensure!(report.created == 0, "{report:?}");
            }
        }
        Ok(())
    }
}
