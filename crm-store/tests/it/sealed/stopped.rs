//! ERA-2 and ERA-3: an erasure that is stopped anywhere ends, and who was erased is not written to again.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use crm_core::capability::{RecordStore, StoreCapability};
use crm_core::consent::{
    AddressKey, Evidence, Gate, Purpose, Recipient, SuppressionReason, SuppressionScope,
};
use crm_core::customer::{Address, EmailAddress};
use crm_core::memory::MemoryStore;
use crm_core::query::{Aggregate, Claim, Filter, Page, Query, Scan};
use crm_core::record::{Outcome, Schema, Stored, Value, Write};
use crm_core::testkit::fixtures;
use crm_core::{
    Context, CustomerId, Error, ErrorKind, Health, ManualClock, Provider, ProviderInfo, RandomIds, Result,
    Secret, SystemClock, Table, Timestamp, Uuid,
};
use crm_store::customers::{Customers, ImportOptions, MergeRules, SCHEMAS};
use crm_store::sealed::{SUBJECT_KEY, SealConfig, SealedStore};

use super::{GUEST, STAY, guest, guests, ring, sealed_with};
use crate::customers::keys;

/// A store whose user dies: from a certain call on nothing is done any more.
#[derive(Debug)]
struct Dying {
    inner: Arc<MemoryStore>,
    /// How many calls are still made.
    left: AtomicI64,
    /// The last one is carried out, but nobody hears of it.
    unheard: bool,
}

impl Dying {
    fn dead() -> Error {
        Error::new(ErrorKind::Unexpected, "the process is dead")
    }

    /// Whether this call is carried out, and whether its answer is heard.
    fn step(&self) -> (bool, bool) {
        let left = self.left.fetch_sub(1, Ordering::Relaxed);
        (left > 0 || (left == 0 && self.unheard), left > 0)
    }

    async fn during<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let (done, heard) = self.step();
        if !done {
            return Err(Self::dead());
        }
        let answer = work.await?;
        if heard { Ok(answer) } else { Err(Self::dead()) }
    }
}

#[async_trait]
impl Provider for Dying {
    fn info(&self) -> &ProviderInfo {
        self.inner.info()
    }
    async fn check(&self) -> Result<Health> {
        self.inner.check().await
    }
}

#[async_trait]
impl RecordStore for Dying {
    fn capability(&self) -> StoreCapability {
        self.inner.capability()
    }
    async fn migrate(&self, schemas: &[&'static Schema]) -> Result<()> {
        self.inner.migrate(schemas).await
    }
    fn schemas(&self) -> Vec<&'static Schema> {
        self.inner.schemas()
    }
    async fn apply(&self, ctx: &Context, writes: &[Write]) -> Result<Vec<Outcome>> {
        self.during(self.inner.apply(ctx, writes)).await
    }
    async fn get(&self, ctx: &Context, schema: &'static Schema, ids: &[Uuid]) -> Result<Vec<Option<Stored>>> {
        self.during(self.inner.get(ctx, schema, ids)).await
    }
    async fn find(&self, ctx: &Context, schema: &'static Schema, query: &Query) -> Result<Page<Stored>> {
        self.during(self.inner.find(ctx, schema, query)).await
    }
    async fn count(&self, ctx: &Context, schema: &'static Schema, filter: &Filter) -> Result<u64> {
        self.during(self.inner.count(ctx, schema, filter)).await
    }
    async fn claim(&self, ctx: &Context, schema: &'static Schema, claim: &Claim) -> Result<Vec<Stored>> {
        self.during(self.inner.claim(ctx, schema, claim)).await
    }
    async fn scan(
        &self,
        ctx: &Context,
        schema: &'static Schema,
        scan: &Scan,
        take: &mut (dyn FnMut(Table) -> Result<()> + Send),
    ) -> Result<()> {
        self.during(self.inner.scan(ctx, schema, scan, take)).await
    }
    async fn aggregate(
        &self,
        ctx: &Context,
        schema: &'static Schema,
        aggregate: &Aggregate,
    ) -> Result<Table> {
        self.during(self.inner.aggregate(ctx, schema, aggregate)).await
    }
}

/// Rows of these people in the store behind, and how many of their keys are there.
async fn left(plain: &MemoryStore, sealed: &SealedStore, ctx: &Context, people: &[Uuid]) -> (usize, usize) {
    let all = Query::new(Filter::All).limit(10_000);
    let mut rows = 0;
    for schema in SCHEMAS {
        let physical = sealed.stored_as(schema).unwrap();
        for stored in plain.find(ctx, physical, &all).await.unwrap().items {
            let of = |field: &str| match stored.record.get(field) {
                Some(Value::Uuid(id)) => people.contains(id),
                _ => false,
            };
            let image = schema.name == "crm_merge_image" && of("merge_id");
            rows += usize::from(people.contains(&stored.id) || of("customer_id") || image);
        }
    }
    let keys = plain.find(ctx, &SUBJECT_KEY, &all).await.unwrap().items;
    let theirs = keys.iter().filter(|key| match key.record.get("subject") {
        Some(Value::Uuid(id)) => people.contains(id) && !key.record.get("wrapped").is_none_or(Value::is_null),
        _ => false,
    });
    (rows, theirs.count())
}

/// Two people who were merged, and somebody else; in a store that is still whole.
async fn merged(plain: &Arc<MemoryStore>, ctx: &Context) -> ([Uuid; 2], CustomerId) {
    let store = Arc::new(sealed_with(plain.clone(), SealConfig::default()));
    let customers = Customers::new(store, SystemClock::shared(), RandomIds::shared());
    let mut ids = Vec::new();
    for (reference, email) in [
        ("1", "ana@example.com"),
        ("2", "ana@example.org"),
        ("3", "bo@example.org"),
    ] {
        let done = customers.upsert(ctx, keys(reference, email, "")).await.unwrap();
        ids.push(done.id);
    }
    let merges = customers.merge();
    let plan = merges
        .plan(ctx, ids[0], &[ids[1]], MergeRules::default())
        .await
        .unwrap();
    merges.apply(ctx, &plan).await.unwrap();
    ([ids[0].uuid(), ids[1].uuid()], ids[2])
}

/// ERA-3: the process dies at each of its calls to the store, before and after the call was carried out.
#[tokio::test]
async fn era_3_an_erasure_that_dies_anywhere_is_finished() {
    let (mut points, mut halves, mut untouched) = (0, 0, 0);
    for unheard in [false, true] {
        for at in 0.. {
            let plain = Arc::new(MemoryStore::new("plain"));
            let ctx = fixtures::context();
            let (people, other) = merged(&plain, &ctx).await;
            let dying = Arc::new(Dying {
                inner: plain.clone(),
                left: AtomicI64::new(i64::MAX),
                unheard,
            });
            let store = sealed_with(dying.clone(), SealConfig::default());
            store.migrate(&SCHEMAS).await.unwrap();
            dying.left.store(at, Ordering::Relaxed);
            let done = store.erase(&ctx, people[0]).await;
            points += 1;

            // Somebody else comes after it.
            let next = Arc::new(sealed_with(plain.clone(), SealConfig::default()));
            next.migrate(&SCHEMAS).await.unwrap();
            let (rows, keys) = left(&plain, &next, &ctx, &people).await;
            match (rows, keys) {
                (0, 0) => {}
                (_, 2) => untouched += 1,
                _ => halves += 1,
            }
            let erased = !next.erasures(&ctx).await.unwrap().is_empty();
            next.resume_erasures(&ctx).await.unwrap();
            let after = left(&plain, &next, &ctx, &people).await;
            let customers = Customers::new(next.clone(), SystemClock::shared(), RandomIds::shared());
            if erased {
                assert_eq!(after, (0, 0), "call {at}: begun, so it ends");
                let one = customers.get(&ctx, people[0].into()).await.unwrap();
                assert!(one.is_none(), "call {at}");
            } else {
                assert!(done.is_err(), "call {at}");
                assert_eq!(after, (rows, keys), "call {at}: not begun, so nothing is lost");
                let one = customers.get(&ctx, people[0].into()).await.unwrap();
                assert!(one.is_some(), "call {at}");
                next.erase(&ctx, people[0]).await.unwrap();
                assert_eq!(left(&plain, &next, &ctx, &people).await, (0, 0));
            }
            assert!(customers.get(&ctx, other).await.unwrap().is_some(), "call {at}");
            // The certificate: ids and times, nothing of the person.
            let ledger = next.erasures(&ctx).await.unwrap();
            assert!(ledger.iter().all(|entry| entry.swept_at.is_some()));
            let text = serde_json::to_string(&ledger).unwrap();
            assert!(
                text.contains(&people[0].to_string()) && !text.contains("ana"),
                "{text}"
            );
            if done.is_ok() {
                break;
            }
        }
    }
    assert!(points >= 20, "{points} points");
    assert!(
        halves > 10 && untouched > 0,
        "the control: it died in the middle {halves} times, and before the first step {untouched} times"
    );
}

/// ERA-1: what another process wrote with a key from its memory, while the person was being erased, goes as well.
#[tokio::test]
async fn era_1_what_was_written_meanwhile_goes_later() {
    let plain: Arc<dyn RecordStore> = Arc::new(MemoryStore::new("plain"));
    let clock = Arc::new(ManualClock::at(Timestamp::from_ymd(2026, 11, 23).unwrap()));
    let open =
        || SealedStore::new(plain.clone(), Arc::new(ring(&["2026"])), clock.clone(), guests()).unwrap();
    let (here, there) = (open(), open());
    here.migrate(&[&GUEST, &STAY]).await.unwrap();
    there.migrate(&[&GUEST, &STAY]).await.unwrap();
    let (ctx, ana) = (fixtures::context(), fixtures::id());
    let written = [Write::insert(ana, guest("ana@example.org", "Ana"))];
    there.apply(&ctx, &written).await.unwrap();
    here.erase(&ctx, ana).await.unwrap();
    let again = [Write::put(ana, guest("ana@example.org", "Ana"))];
    there
        .apply(&ctx, &again)
        .await
        .expect("the key is still in memory there");
    let physical = here.stored_as(&GUEST).unwrap();
    let rows = async || plain.count(&ctx, physical, &Filter::All).await.unwrap();
    assert_eq!(rows().await, 1, "the control: its blind index lies there");
    assert!(
        here.get(&ctx, &GUEST, &[ana]).await.unwrap()[0].is_none(),
        "nobody reads it"
    );
    clock.advance(Duration::from_secs(61));
    let late = there.apply(&ctx, &again).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::NotFound, "by now it has noticed");
    clock.advance(Duration::from_secs(60));
    assert_eq!(here.resume_erasures(&ctx).await.unwrap().rows, 1);
    assert_eq!(rows().await, 0);
    assert!(
        here.resume_erasures(&ctx).await.unwrap().subjects.is_empty(),
        "swept after the last writer had noticed: done for good"
    );
}

/// Whoever was merged into somebody is erased with them, not alone: the data are with the other one.
#[tokio::test]
async fn a_merged_customer_is_not_erased_alone() {
    let plain = Arc::new(MemoryStore::new("plain"));
    let ctx = fixtures::context();
    let ([winner, loser], _) = merged(&plain, &ctx).await;
    let store = sealed_with(plain, SealConfig::default());
    store.migrate(&SCHEMAS).await.unwrap();
    let error = store.erase(&ctx, loser).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.context("index"), error.context("merged_into")),
        (ErrorKind::Conflict, Some("merged"), Some(&*winner.to_string())),
        "{error}"
    );
    let erased = store.erase(&ctx, winner).await.unwrap();
    assert!(erased.subjects.contains(&loser));
}

/// ERA-2: the address comes back with a list, even with a consent in it: it is somebody again, and nobody writes to them.
#[tokio::test]
async fn era_2_an_erased_person_is_not_written_to_again() {
    let store = Arc::new(sealed_with(
        Arc::new(MemoryStore::new("plain")),
        SealConfig::default(),
    ));
    let clock = SystemClock::shared();
    let customers = Customers::new(store.clone(), clock.clone(), RandomIds::shared());
    customers.prepare().await.unwrap();
    store.migrate(&Gate::schemas()).await.unwrap();
    let key = AddressKey::new(&Secret::new("a long random text kept outside the store")).unwrap();
    let gate = Gate::new(store.clone(), clock, key);
    let ctx = fixtures::context();
    let news = Purpose::marketing("newsletter").unwrap();
    // Whether a consent is taken, and whether they may be written to then.
    let consents = async |id: CustomerId, address: &Address| {
        let evidence = Evidence::new("sign-up form", "Yes, send me the newsletter").unwrap();
        let granted = gate.grant(&ctx, id, address, &news, evidence, None).await;
        let recipient = Recipient::new(id, address);
        let decision = gate.explain(&ctx, &recipient, &news).await.unwrap();
        (granted.is_ok(), decision.allowed)
    };
    for (email, forgotten) in [("ana@example.com", true), ("bo@example.com", false)] {
        let address = Address::Email(EmailAddress::parse(email).unwrap());
        let first = customers.upsert(&ctx, keys("", email, "")).await.unwrap().id;
        assert_eq!(consents(first, &address).await, (true, true), "{email}: before");
        if forgotten {
            let reason = SuppressionReason::Erased;
            gate.suppress(&ctx, &address, SuppressionScope::All, reason)
                .await
                .unwrap();
        }
        store.erase(&ctx, first.uuid()).await.unwrap();
        assert!(customers.get(&ctx, first).await.unwrap().is_none());
        let report = customers
            .import(&ctx, email, vec![keys("", email, "")], ImportOptions::default())
            .await
            .unwrap();
        assert_eq!(report.created, 1, "{email}: nobody knows them");
        let kind = crm_core::customer::ContactKind::Email;
        let back = customers.by_contact(&ctx, kind, email).await.unwrap().unwrap().id;
        assert_ne!(back, first);
        // Without the suppression the new consent counts: that is the control.
        let consented = consents(back, &address).await;
        assert_eq!(consented, (!forgotten, !forgotten), "{email}");
    }
}
