//! The suites can fail: providers with one fault each, and the properties that must find it.

use std::future::Future;
use std::sync::Arc;
use std::sync::Mutex;

use async_trait::async_trait;
use crm_core::capability::{
    Checkpoint, Collector, CollectorCapability, Delivery, DraftSink, MailCapability, Mailer, Progress,
    RecordStore, StoreCapability,
};
use crm_core::memory::{MemoryCollector, MemoryMailer, MemoryStore};
use crm_core::message::{Email, Permitted, Receipt};
use crm_core::query::{Aggregate, Claim, Filter, Page, Query, Scan};
use crm_core::record::{OnConflict, Outcome, Schema, Stored, Value, Write};
use crm_core::testkit::{collector, fixtures, mailer, store};
use crm_core::{Context, Error, Health, Provider, ProviderInfo, Result, Table, TenantId, Timestamp, Uuid};

/// What is wrong with a store.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    None,
    SharesTenants,
    AggregatesAllTenants,
    IgnoresVersions,
    WritesOneByOne,
    ForgetsTheIndexName,
    SkipsEverything,
    ClaimsWithoutLock,
    ClaimsUnsorted,
    RepeatsTheLastOfAPage,
    LosesTheCursor,
    ReadsPatterns,
    IgnoresCase,
    RoundsNumbers,
    NegatesNulls,
    DropsMicroseconds,
    TrimsText,
    ScansUnsorted,
    SwallowsTheTakersError,
    CountsAbsentAsZero,
    PutRestarts,
}

#[derive(Debug)]
struct Faulty {
    inner: MemoryStore,
    fault: Fault,
    open: Mutex<()>,
}

fn faulty(fault: Fault) -> Arc<dyn RecordStore> {
    Arc::new(Faulty {
        inner: MemoryStore::new("faulty"),
        fault,
        open: Mutex::new(()),
    })
}

impl Faulty {
    fn is(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    fn context(&self, ctx: &Context) -> Context {
        if self.is(Fault::SharesTenants) {
            Context::new(TenantId::new("all").unwrap())
        } else {
            ctx.clone()
        }
    }

    fn filter(&self, filter: &Filter) -> Filter {
        match (self.fault, filter) {
            (_, Filter::And(all)) => Filter::And(all.iter().map(|f| self.filter(f)).collect()),
            (_, Filter::Or(any)) => Filter::Or(any.iter().map(|f| self.filter(f)).collect()),
            (Fault::NegatesNulls, Filter::Not(inner)) => match &**inner {
                // As SQL does: not (null = 1) is unknown, which is not true.
                Filter::Is { field, .. } => (!self.filter(inner)).and(!Filter::Null { field: field.clone() }),
                inner => !self.filter(inner),
            },
            (_, Filter::Not(inner)) => !self.filter(inner),
            (Fault::ReadsPatterns, Filter::Contains { field, text }) if text == "%" => Filter::Contains {
                field: field.clone(),
                text: String::new(),
            },
            (Fault::IgnoresCase, Filter::Prefix { field, text }) => Filter::Or(vec![
                Filter::Prefix {
                    field: field.clone(),
                    text: text.to_lowercase(),
                },
                Filter::Prefix {
                    field: field.clone(),
                    text: text.to_uppercase(),
                },
            ]),
            (
                Fault::RoundsNumbers,
                Filter::Is {
                    field,
                    op,
                    value: Value::Int(int),
                },
            ) if field.field == "x" => Filter::Is {
                field: field.clone(),
                op: *op,
                value: Value::Float(*int as f64),
            },
            (_, other) => other.clone(),
        }
    }

    fn written(&self, write: &Write) -> Write {
        let mut write = write.clone();
        match (self.fault, &mut write) {
            (Fault::DropsMicroseconds, Write::Insert { record, .. }) => {
                if let Some(Value::Timestamp(at)) = record.get("at").cloned() {
                    record
                        .set("at", Timestamp::from_micros(at.as_micros() / 1000 * 1000))
                        .unwrap();
                }
            }
            (Fault::TrimsText, Write::Insert { record, .. }) => {
                if let Some(Value::Text(text)) = record.get("t").cloned() {
                    record.set("t", text.trim_end()).unwrap();
                }
            }
            (Fault::SkipsEverything, Write::Insert { on_conflict, .. }) => *on_conflict = OnConflict::Skip,
            _ => {}
        }
        write
    }
}

#[async_trait]
impl Provider for Faulty {
    fn info(&self) -> &ProviderInfo {
        self.inner.info()
    }
    async fn check(&self) -> Result<Health> {
        self.inner.check().await
    }
}

#[async_trait]
impl RecordStore for Faulty {
    fn capability(&self) -> StoreCapability {
        self.inner.capability()
    }

    async fn migrate(&self, schemas: &[&'static Schema]) -> Result<()> {
        self.inner.migrate(schemas).await
    }

    async fn apply(&self, ctx: &Context, writes: &[Write]) -> Result<Vec<Outcome>> {
        let ctx = &self.context(ctx);
        let mut writes: Vec<Write> = writes.iter().map(|write| self.written(write)).collect();
        for write in &mut writes {
            let now = self
                .inner
                .get(ctx, write.schema(), &[write.id()])
                .await?
                .remove(0);
            if let (Fault::IgnoresVersions, Write::Update { expected, .. }, Some(now)) =
                (self.fault, &mut *write, &now)
            {
                *expected = now.version;
            }
            if let (Fault::PutRestarts, Write::Put { id, record }, Some(_)) = (self.fault, &*write, &now) {
                let fresh = Write::insert(*id, record.clone());
                self.inner
                    .apply(ctx, &[Write::delete(write.schema(), *id, None)])
                    .await?;
                *write = fresh;
            }
        }
        let applied = if self.is(Fault::WritesOneByOne) {
            let mut outcomes = Vec::new();
            for (position, write) in writes.iter().enumerate() {
                let one = self.inner.apply(ctx, std::slice::from_ref(write)).await;
                let at = |error: Error| {
                    Error::new(error.kind(), "x")
                        .with("schema", error.context("schema").unwrap_or(""))
                        .with("write", position)
                        .with("index", error.context("index").unwrap_or(""))
                };
                outcomes.extend(one.map_err(at)?);
            }
            Ok(outcomes)
        } else {
            self.inner.apply(ctx, &writes).await
        };
        match applied {
            Err(error) if self.is(Fault::ForgetsTheIndexName) => Err(Error::new(error.kind(), "a conflict")),
            other => other,
        }
    }

    async fn get(&self, ctx: &Context, schema: &'static Schema, ids: &[Uuid]) -> Result<Vec<Option<Stored>>> {
        self.inner.get(&self.context(ctx), schema, ids).await
    }

    async fn find(&self, ctx: &Context, schema: &'static Schema, query: &Query) -> Result<Page<Stored>> {
        let mut query = Query {
            filter: self.filter(&query.filter),
            ..query.clone()
        };
        if self.is(Fault::LosesTheCursor) && query.after.is_some() && !query.order.is_empty() {
            // As paging by key alone does: every record with the key of the last one is passed over.
            if let Some(cursor) = &mut query.after {
                cursor.id = Uuid::max();
            }
        }
        let mut page = self.inner.find(&self.context(ctx), schema, &query).await?;
        if self.is(Fault::RepeatsTheLastOfAPage) && page.items.len() > 1 {
            let before = &page.items[page.items.len() - 2];
            if let Some(next) = &mut page.next {
                next.id = before.id;
                for (key, order) in next.keys.iter_mut().zip(&query.order) {
                    *key = if order.field == "id" {
                        before.id.into()
                    } else {
                        before.record.get(&order.field).unwrap().clone()
                    };
                }
            }
        }
        Ok(page)
    }

    async fn count(&self, ctx: &Context, schema: &'static Schema, filter: &Filter) -> Result<u64> {
        self.inner
            .count(&self.context(ctx), schema, &self.filter(filter))
            .await
    }

    async fn claim(&self, ctx: &Context, schema: &'static Schema, claim: &Claim) -> Result<Vec<Stored>> {
        let ctx = &self.context(ctx);
        if self.is(Fault::ClaimsUnsorted) {
            return self
                .inner
                .claim(
                    ctx,
                    schema,
                    &Claim {
                        order: Vec::new(),
                        ..claim.clone()
                    },
                )
                .await;
        }
        if !self.is(Fault::ClaimsWithoutLock) {
            return self.inner.claim(ctx, schema, claim).await;
        }
        // Reads what is due, lets others run, then marks blindly.
        let query = Query {
            order: claim.order.clone(),
            ..Query::new(claim.due.clone()).limit(claim.limit)
        };
        let due = self.inner.find(ctx, schema, &query).await?.items;
        tokio::task::yield_now().await;
        let ids: Vec<Value> = due.iter().map(|stored| stored.id.into()).collect();
        let blind = Claim {
            due: Filter::one_of("id", ids),
            ..claim.clone()
        };
        let taken = self.inner.claim(ctx, schema, &blind).await?;
        drop(self.open.lock());
        Ok(taken)
    }

    async fn scan(
        &self,
        ctx: &Context,
        schema: &'static Schema,
        scan: &Scan,
        take: &mut (dyn FnMut(Table) -> Result<()> + Send),
    ) -> Result<()> {
        let ctx = &self.context(ctx);
        let scan = Scan {
            filter: self.filter(&scan.filter),
            ..scan.clone()
        };
        match self.fault {
            Fault::ScansUnsorted => {
                let mut chunks = Vec::new();
                self.inner
                    .scan(ctx, schema, &scan, &mut |chunk| {
                        chunks.push(chunk);
                        Ok(())
                    })
                    .await?;
                chunks.into_iter().rev().try_for_each(take)
            }
            Fault::SwallowsTheTakersError => {
                self.inner
                    .scan(ctx, schema, &scan, &mut |chunk| {
                        let _ = take(chunk);
                        Ok(())
                    })
                    .await
            }
            _ => self.inner.scan(ctx, schema, &scan, take).await,
        }
    }

    async fn aggregate(
        &self,
        ctx: &Context,
        schema: &'static Schema,
        aggregate: &Aggregate,
    ) -> Result<Table> {
        let asked = Aggregate {
            filter: self.filter(&aggregate.filter),
            ..aggregate.clone()
        };
        let table = self.inner.aggregate(&self.context(ctx), schema, &asked).await?;
        match self.fault {
            Fault::AggregatesAllTenants => Table::new(
                table
                    .into_columns()
                    .into_iter()
                    .map(|column| {
                        if column.name() == "rows" {
                            crm_core::Column::ints("rows", vec![1; column.len()])
                        } else {
                            column
                        }
                    })
                    .collect(),
            ),
            Fault::CountsAbsentAsZero => {
                let filled = |column: crm_core::Column| {
                    if column.name() == "sum" {
                        let value = |row| column.value(row).as_int().unwrap_or(0);
                        crm_core::Column::ints("sum", (0..column.len()).map(value).collect())
                    } else {
                        column
                    }
                };
                Table::new(table.into_columns().into_iter().map(filled).collect())
            }
            _ => Ok(table),
        }
    }
}

pub(crate) async fn panics(case: impl Future<Output = ()> + Send + 'static) -> bool {
    tokio::spawn(case).await.is_err_and(|error| error.is_panic())
}

macro_rules! found {
    ($($fault:ident by $($case:ident),+;)+) => {$(
        $(
            assert!(panics(store::$case(faulty(Fault::$fault))).await, "{} does not find {:?}", stringify!($case), Fault::$fault);
        )+
    )+};
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_fault_of_a_store_is_found() {
    found! {
        SharesTenants by unique_keys_are_per_tenant, tenants_never_meet;
        AggregatesAllTenants by tenants_never_meet;
        IgnoresVersions by stale_updates_are_refused, racing_updates_lose_nothing, random_operations_agree_with_memory;
        WritesOneByOne by a_unit_of_work_is_whole, what_does_not_fit_is_refused, random_operations_agree_with_memory;
        ForgetsTheIndexName by conflicts_name_the_index, a_large_unit_of_work;
        SkipsEverything by conflicts_name_the_index, racing_inserts_keep_one_each, random_operations_agree_with_memory;
        ClaimsWithoutLock by claims_are_never_shared;
        ClaimsUnsorted by claims_mark_in_order;
        RepeatsTheLastOfAPage by pages_follow_the_order, pages_hold_while_records_come, random_operations_agree_with_memory;
        LosesTheCursor by pages_follow_the_order, pages_hold_while_records_come;
        ReadsPatterns by text_is_taken_literally;
        IgnoresCase by text_is_taken_literally;
        RoundsNumbers by numbers_compare_exactly;
        NegatesNulls by filters_mean_the_same, random_operations_agree_with_memory;
        DropsMicroseconds by every_type_comes_back, filters_mean_the_same, random_operations_agree_with_memory;
        TrimsText by every_type_comes_back, text_is_taken_literally, random_operations_agree_with_memory;
        ScansUnsorted by scan_is_find_in_columns;
        SwallowsTheTakersError by a_scan_stops_at_an_error;
        CountsAbsentAsZero by an_aggregate_over_nothing, aggregates_match_a_count_by_hand;
        PutRestarts by put_adds_or_replaces, random_operations_agree_with_memory;
    }
}

crm_core::store_suite!(without_a_fault, async { faulty(Fault::None) });

/// A mailer that keeps none of the promises beyond taking messages.
#[derive(Debug)]
struct Careless(MemoryMailer);

#[async_trait]
impl Provider for Careless {
    fn info(&self) -> &ProviderInfo {
        self.0.info()
    }
    async fn check(&self) -> Result<Health> {
        Ok(Health::Degraded)
    }
}

#[async_trait]
impl Mailer for Careless {
    fn capability(&self) -> MailCapability {
        self.0.capability()
    }
    async fn send(&self, _ctx: &Context, mail: &Permitted<Email>) -> Result<Receipt> {
        Ok(Receipt::new("someone", "always the same", Timestamp::EPOCH)
            .detail(mail.message().to.address.as_str()))
    }
}

#[tokio::test]
async fn every_fault_of_a_mailer_is_found() {
    let careless = || Arc::new(Careless(MemoryMailer::new("careless"))) as Arc<dyn Mailer>;
    let mail = || fixtures::email(1);
    assert!(panics(mailer::it_says_who_it_is(careless(), mail())).await);
    assert!(panics(mailer::a_receipt_says_who_took_it(careless(), mail())).await);
    assert!(panics(mailer::every_message_has_its_own_reference(careless(), mail())).await);
    assert!(panics(mailer::a_forged_header_is_refused(careless(), mail())).await);
    assert!(panics(mailer::tenants_share_it(careless(), mail())).await);
}

/// A collector that skips a draft after each resume, hides where drafts are from, miscounts, and swallows errors.
#[derive(Debug)]
struct Sloppy(MemoryCollector);

struct Blur<'a>(&'a mut dyn DraftSink, bool);

#[async_trait]
impl DraftSink for Blur<'_> {
    async fn deliver(&mut self, mut delivery: Delivery) -> Result<()> {
        if std::mem::take(&mut self.1) {
            delivery.drafts.remove(0);
        }
        for draft in &mut delivery.drafts {
            draft.provenance.location = None;
        }
        let _ = self.0.deliver(delivery).await;
        Ok(())
    }
}

#[async_trait]
impl Provider for Sloppy {
    fn info(&self) -> &ProviderInfo {
        self.0.info()
    }
    async fn check(&self) -> Result<Health> {
        Ok(Health::Ready)
    }
}

#[async_trait]
impl Collector for Sloppy {
    fn capability(&self) -> CollectorCapability {
        self.0.capability()
    }
    async fn collect(
        &self,
        ctx: &Context,
        resume: Option<&Checkpoint>,
        sink: &mut dyn DraftSink,
    ) -> Result<Progress> {
        let mut progress = self
            .0
            .collect(ctx, resume, &mut Blur(sink, resume.is_some()))
            .await?;
        progress.drafts += 1;
        Ok(progress)
    }
}

#[tokio::test]
async fn every_fault_of_a_collector_is_found() {
    let sloppy = || {
        Arc::new(Sloppy(
            MemoryCollector::new("sloppy", fixtures::drafts(9)).per_delivery(4),
        )) as Arc<dyn Collector>
    };
    assert!(panics(collector::drafts_have_provenance(sloppy())).await);
    assert!(panics(collector::progress_adds_up(sloppy())).await);
    assert!(panics(collector::it_resumes_without_a_gap(sloppy())).await);
    assert!(panics(collector::it_stops_when_the_sink_fails(sloppy())).await);
}
