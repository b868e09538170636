//! A store that fails in the middle, and several processes at once.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use crm_channels::{Audience, CampaignPlan, CampaignState};
use crm_core::capability::{RecordStore, StoreCapability};
use crm_core::query::{Aggregate, Claim, Filter, Page, Query, Scan};
use crm_core::record::{Outcome, Schema, Stored, Write};
use crm_core::{Context, Error, ErrorKind, Health, Provider, ProviderInfo, Result, Table, Uuid};

use super::{Person, Town, letter};
use crate::common::{mailbox, news};

/// Fails every third commit: in turn before it is carried out, and after, with the answer lost.
struct Flaky {
    inner: Arc<dyn RecordStore>,
    commits: AtomicUsize,
}

impl std::fmt::Debug for Flaky {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Flaky")
    }
}

#[async_trait]
impl Provider for Flaky {
    fn info(&self) -> &ProviderInfo {
        self.inner.info()
    }
    async fn check(&self) -> Result<Health> {
        self.inner.check().await
    }
}

#[async_trait]
impl RecordStore for Flaky {
    fn capability(&self) -> StoreCapability {
        self.inner.capability()
    }
    async fn migrate(&self, schemas: &[&'static Schema]) -> Result<()> {
        self.inner.migrate(schemas).await
    }
    async fn apply(&self, ctx: &Context, writes: &[Write]) -> Result<Vec<Outcome>> {
        let gone = || Error::new(ErrorKind::Unavailable, "the connection broke");
        match self.commits.fetch_add(1, Ordering::SeqCst) % 6 {
            2 => Err(gone()),
            5 => {
                self.inner.apply(ctx, writes).await?;
                Err(gone().effect_unknown())
            }
            _ => self.inner.apply(ctx, writes).await,
        }
    }
    async fn get(&self, ctx: &Context, schema: &'static Schema, ids: &[Uuid]) -> Result<Vec<Option<Stored>>> {
        self.inner.get(ctx, schema, ids).await
    }
    async fn find(&self, ctx: &Context, schema: &'static Schema, query: &Query) -> Result<Page<Stored>> {
        self.inner.find(ctx, schema, query).await
    }
    async fn count(&self, ctx: &Context, schema: &'static Schema, filter: &Filter) -> Result<u64> {
        self.inner.count(ctx, schema, filter).await
    }
    async fn claim(&self, ctx: &Context, schema: &'static Schema, claim: &Claim) -> Result<Vec<Stored>> {
        self.inner.claim(ctx, schema, claim).await
    }
    async fn scan(
        &self,
        ctx: &Context,
        schema: &'static Schema,
        scan: &Scan,
        take: &mut (dyn FnMut(Table) -> Result<()> + Send),
    ) -> Result<()> {
        self.inner.scan(ctx, schema, scan, take).await
    }
    async fn aggregate(
        &self,
        ctx: &Context,
        schema: &'static Schema,
        aggregate: &Aggregate,
    ) -> Result<Table> {
        self.inner.aggregate(ctx, schema, aggregate).await
    }
}

const PEOPLE: usize = 4_200;

async fn town() -> (Town, CampaignPlan) {
    let town = Town::new().await;
    let people: Vec<Person> = (0..PEOPLE).map(|n| Person::by_mail("Ana", n)).collect();
    town.settle(&people).await;
    let all = town.segment("all", Filter::All).await;
    let from = mailbox("shop@example.com", "Shop");
    (
        town,
        CampaignPlan::new("spring", Audience::frozen(all), news(), letter(), from),
    )
}

async fn everybody_once(town: &Town) {
    let rows = town.rows("spring").await;
    let customers: BTreeSet<Uuid> = rows
        .iter()
        .map(|row| row.record.uuid("customer_id").unwrap())
        .collect();
    assert_eq!((rows.len(), customers.len()), (PEOPLE, PEOPLE));
    let campaign = town.campaigns().get(&town.w.ctx, "spring").await.unwrap();
    assert_eq!(
        (campaign.found.members, campaign.found.will_go),
        (PEOPLE as u64, PEOPLE as u64)
    );
    assert!(campaign.queued && campaign.state == CampaignState::Running);
}

#[tokio::test]
async fn a_store_that_fails_in_the_middle_loses_and_doubles_nobody() {
    let (town, plan) = town().await;
    town.campaigns().create(&town.w.ctx, &plan).await.unwrap();
    let flaky = Arc::new(Flaky {
        inner: town.w.store.clone(),
        commits: AtomicUsize::new(0),
    });
    let campaigns = town.outreach_over(flaky.clone()).campaigns();
    let (mut failed, mut rounds) = (0, 0);
    while !campaigns.get(&town.w.ctx, "spring").await.unwrap().queued {
        rounds += 1;
        assert!(rounds < 100, "it does not come to an end");
        // A host that knows nothing but to try again.
        let moved = match campaigns.start(&town.w.ctx, "spring", |_| {}).await {
            Ok(_) => campaigns.tick(&town.w.ctx, |_, _| {}).await.map(drop),
            Err(error) => Err(error),
        };
        failed += usize::from(moved.is_err());
    }
    assert!(failed >= 3, "the store failed {failed} times only");
    everybody_once(&town).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_processes_queue_it_together_without_doubling_anybody() {
    let (town, plan) = town().await;
    town.campaigns().create(&town.w.ctx, &plan).await.unwrap();
    let work: Vec<_> = (0..4)
        .map(|_| {
            let (campaigns, ctx) = (town.campaigns(), town.w.ctx.clone());
            tokio::spawn(async move {
                loop {
                    match campaigns.start(&ctx, "spring", |_| {}).await {
                        Ok(_) => {}
                        Err(error) => assert_eq!(error.kind(), ErrorKind::Conflict, "{error}"),
                    }
                    campaigns.tick(&ctx, |_, _| {}).await.unwrap();
                    if campaigns.get(&ctx, "spring").await.unwrap().queued {
                        return;
                    }
                }
            })
        })
        .collect();
    for work in work {
        work.await.unwrap();
    }
    everybody_once(&town).await;
}
