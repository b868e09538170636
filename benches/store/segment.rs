//! Members kept up to date by what changed, beside asking everything again.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use open_crm::customer::CUSTOMER;
use open_crm::query::{Filter, Query, Scan};
use open_crm::store::customers::{Customers, ImportOptions, Mode, Op};
use open_crm::store::segments::{Budget, NewSegment};
use open_crm::table::Table;
use open_crm::{Context, RandomIds, SystemClock};

use super::{Bench, draft, timed};

/// Customers that change between two refreshes.
const CHANGED: u64 = 1_000;

impl Bench {
    pub(super) async fn segment(&self) -> Result<()> {
        let rows = self.rows.min(100_000);
        ensure!(
            rows >= 10 * CHANGED,
            "segments need {} rows or more",
            10 * CHANGED
        );
        let ctx = self.place("segment")?;
        let log = self.log();
        let feed = log.feed();
        let customers =
            Customers::new(Arc::new(log), SystemClock::shared(), RandomIds::shared()).with_feed(feed);
        customers.prepare().await?;
        let options = ImportOptions::default().without_journal();
        let import = customers.import(&ctx, "bench", (0..rows).map(draft), options);
        timed("import, with the feed", rows, import).await?;

        let segments = customers.segments();
        let rule = Filter::ge("attributes.visits", 25_i64).and(Filter::eq("attributes.plan", "pro"));
        let new = NewSegment::dynamic("often", rule.clone());
        let segment = segments.create(&ctx, new).await?.id;
        let first = segments.materialise(&ctx, segment, Duration::from_secs(86_400));
        let first = timed("segment: first evaluation, a customer", rows, first).await?;
        ensure!(first.entered > rows / 10, "{first:?}");
        timed(
            "segment: refresh, nothing changed",
            1,
            segments.refresh(&ctx, Budget::default()),
        )
        .await?;

        // All of these change, and those whose plan it is come or go.
        let query = Query::new(Filter::All).limit(CHANGED as u32);
        let some = customers.find(&ctx, &query).await?.items;
        let change = async {
            for chunk in some.chunks(100) {
                let mut ops = Vec::new();
                for customer in chunk {
                    let mut customer = customer.clone();
                    let visits = customer
                        .attributes
                        .get("visits")
                        .and_then(|v| v.as_i64())
                        .unwrap_or(0);
                    customer.attributes.set("visits", (visits + 25) % 50)?;
                    ops.push(Op::Update(Box::new(customer)));
                }
                customers.batch(&ctx, ops, Mode::AllOrNothing).await?;
            }
            anyhow::Ok(())
        };
        timed("changing 1,000 of them", CHANGED, change).await?;
        let done = segments.refresh(&ctx, Budget::default());
        let done = timed("segment: refresh after it, a changed one", CHANGED, done).await?;
        ensure!(
            done.full == 0 && done.evaluated == CHANGED && done.entered + done.left > 0,
            "{done:?}"
        );
        let check = segments.check(&ctx, segment);
        let drift = timed("segment: checked in full, a customer", rows, check).await?;
        ensure!(drift.is_clean(), "{drift:?}");
        let ids = self.ids_of(&ctx, &rule);
        let found = timed("the rule asked in full, ids of its members", rows, ids).await?;
        ensure!(found == segments.count(&ctx, segment).await?);
        Ok(())
    }

    /// What a host does without stored members: all ids that match, again.
    async fn ids_of(&self, ctx: &Context, rule: &Filter) -> Result<u64> {
        let (scan, mut found) = (Scan::new(rule.clone(), ["id"]), 0);
        let mut take = |chunk: Table| {
            found += chunk.rows() as u64;
            Ok(())
        };
        self.store.scan(ctx, &CUSTOMER, &scan, &mut take).await?;
        Ok(found)
    }
}
