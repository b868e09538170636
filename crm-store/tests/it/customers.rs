//! Customers: matching, merging, changing, removing. The same on SQLite and in memory.

use std::sync::Arc;
use std::time::Duration;

use crm_core::activity::Money;
use crm_core::capability::RecordStore;
use crm_core::customer::{
    ContactKind, ContactState, Customer, Draft, ExternalRef, InteractionDraft, OrderDraft, PersonName,
    PostalAddress, Provenance,
};
use crm_core::memory::MemoryStore;
use crm_core::query::{Filter, Query};
use crm_core::testkit::fixtures;
use crm_core::{Consumer, Context, CustomerId, ErrorKind, ManualClock, Registry, SeededIds, Timestamp};
use crm_store::customers::{Change, Customers, Events};

use crate::conformance::{in_memory, on_file};

pub(crate) fn at(micros: i64) -> Timestamp {
    Timestamp::from_micros(micros)
}

pub(crate) fn draft(source: &str, seen: i64) -> Draft {
    Draft::new(Provenance::new(source, at(seen)).at("list.csv").line(2))
}

/// A draft with these keys; an empty one is left out.
pub(crate) fn keys(reference: &str, email: &str, phone: &str) -> Draft {
    let mut draft = draft("shop", 10);
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    draft
        .external_refs
        .extend(some(reference).map(|id| ExternalRef::new("shop", id)));
    draft.emails.extend(some(email));
    draft.phones.extend(some(phone));
    draft
}

pub(crate) struct Desk {
    pub(crate) customers: Customers,
    pub(crate) ctx: Context,
    pub(crate) clock: Arc<ManualClock>,
}

pub(crate) fn desk(store: Arc<dyn RecordStore>) -> Desk {
    let clock = Arc::new(ManualClock::at("2026-03-01T09:00:00Z".parse().unwrap()));
    let ids = Arc::new(SeededIds::new(clock.clone(), 1));
    Desk {
        customers: Customers::new(store, clock.clone(), ids),
        ctx: fixtures::context(),
        clock,
    }
}

impl Desk {
    async fn upsert(&self, draft: Draft) -> (CustomerId, Change, Vec<Option<String>>) {
        let done = self.customers.upsert(&self.ctx, draft).await.unwrap();
        (
            done.id,
            done.change,
            done.rejects.into_iter().map(|reject| reject.field).collect(),
        )
    }
    async fn get(&self, id: CustomerId) -> Customer {
        self.customers.get(&self.ctx, id).await.unwrap().unwrap()
    }
    async fn count(&self) -> u64 {
        self.customers.count(&self.ctx, &Filter::All).await.unwrap()
    }
}

const PHONE: &str = "+61 491 570 156";

/// Every case on every store.
macro_rules! on_every_store {
    ($($case:ident),* $(,)?) => {
        mod on_sqlite { $(#[tokio::test] async fn $case() { super::$case(super::desk(super::in_memory().await)).await })* }
        mod on_memory {
            $(#[tokio::test] async fn $case() {
                super::$case(super::desk(std::sync::Arc::new(super::MemoryStore::new("memory")))).await
            })*
        }
        #[cfg(feature = "sealed")]
        mod on_sealed {
            $(#[tokio::test] async fn $case() {
                let store = std::sync::Arc::new(super::MemoryStore::new("memory"));
                super::$case(super::desk(crate::sealed::people(store))).await
            })*
        }
        #[cfg(feature = "mongodb")]
        mod on_mongo {
            $(#[tokio::test] async fn $case() {
                let Some((store, _scratch)) = crate::mongo::fresh().await else { return };
                super::$case(super::desk(store)).await
            })*
        }
    };
}

on_every_store!(
    a_person_is_recognised_by_each_key,
    a_shared_phone_is_no_identity,
    keys_of_two_customers_are_not_merged,
    wrong_fields_are_told_and_the_rest_kept,
    newer_wins_and_empty_never_overwrites,
    create_is_strict,
    update_is_fenced_and_whole,
    delete_leaves_nothing,
    events_are_kept_once,
    pages_and_tenants,
);

async fn a_person_is_recognised_by_each_key(desk: Desk) {
    let (ana, change, _) = desk.upsert(keys("1", "Ana@Example.com", PHONE)).await;
    assert_eq!(change, Change::Created);
    for (again, change) in [
        (keys("1", "", ""), Change::Unchanged),
        (keys("", "ana@example.COM", ""), Change::Unchanged),
        (keys("", "", "+61491570156"), Change::Unchanged),
        (keys("1", "ana@example.com", PHONE), Change::Unchanged),
        (keys("2", "ana@example.com", ""), Change::Updated),
        (keys("1", "second@example.com", ""), Change::Updated),
        (keys("", "second@example.com", ""), Change::Unchanged),
    ] {
        assert_eq!(desk.upsert(again).await, (ana, change, vec![]));
    }
    let found = desk.get(ana).await;
    assert_eq!(
        (
            found.version,
            found.external_refs.len(),
            found.contact_points.len()
        ),
        (3, 2, 3)
    );
    assert_eq!(
        found.email().unwrap().value(),
        "ana@example.com",
        "the first one is the primary one"
    );
    let by = desk
        .customers
        .by_contact(&desk.ctx, ContactKind::Phone, PHONE)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(by.id, ana);
    let by = desk
        .customers
        .by_external(&desk.ctx, &ExternalRef::new("shop", "2"))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(by.id, ana);
    assert_eq!(desk.count().await, 1);
}

async fn a_shared_phone_is_no_identity(desk: Desk) {
    let (ana, ..) = desk.upsert(keys("", "ana@example.com", PHONE)).await;
    let (bea, change, rejects) = desk.upsert(keys("", "bea@example.com", PHONE)).await;
    assert!(bea != ana && change == Change::Created && rejects.is_empty());
    assert_eq!(
        desk.get(bea).await.phone().unwrap().value(),
        "+61491570156",
        "she has it all the same"
    );
    assert_eq!(
        desk.upsert(keys("", "bea@example.com", PHONE)).await.1,
        Change::Unchanged
    );
    assert_eq!(
        desk.upsert(keys("", "", PHONE)).await.0,
        ana,
        "the number alone means its first owner"
    );
    // A customer without any address may well be the one the address belongs to.
    let (cleo, ..) = desk.upsert(keys("", "", "+61 491 570 157")).await;
    assert_eq!(
        desk.upsert(keys("", "cleo@example.com", "+61 491 570 157")).await,
        (cleo, Change::Updated, vec![])
    );
}

async fn keys_of_two_customers_are_not_merged(desk: Desk) {
    let (ana, ..) = desk.upsert(keys("1", "ana@example.com", "")).await;
    let (bea, ..) = desk.upsert(keys("2", "bea@example.com", "")).await;
    let (found, change, rejects) = desk.upsert(keys("1", "bea@example.com", "")).await;
    assert_eq!(
        (found, change, rejects),
        (ana, Change::Unchanged, vec![Some("email".to_owned())])
    );
    let by = desk
        .customers
        .by_contact(&desk.ctx, ContactKind::Email, "bea@example.com")
        .await
        .unwrap()
        .unwrap();
    assert_eq!(by.id, bea, "the address stays with its owner");
    let mut both = keys("1", "", "");
    both.external_refs.push(ExternalRef::new("shop", "2"));
    assert_eq!(
        desk.upsert(both).await,
        (ana, Change::Unchanged, vec![Some("external".to_owned())])
    );
    assert_eq!(desk.count().await, 2);
}

async fn wrong_fields_are_told_and_the_rest_kept(desk: Desk) {
    let mut wrong = keys("1", "not an address", "12");
    wrong.name = Some(PersonName::new("Ana", "Kask"));
    let (ana, change, rejects) = desk.upsert(wrong).await;
    assert_eq!(
        (change, rejects),
        (
            Change::Created,
            vec![Some("email".to_owned()), Some("phone".to_owned())]
        )
    );
    assert_eq!(desk.get(ana).await.name.full(), "Ana Kask");
    let error = desk
        .customers
        .upsert(&desk.ctx, keys("", "nobody", ""))
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.context("field")),
        (ErrorKind::Invalid, Some("email"))
    );
    assert!(!error.to_string().contains("nobody"));
    let error = desk
        .customers
        .upsert(&desk.ctx, draft("shop", 1))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("recognise"), "{error}");
    assert_eq!(desk.count().await, 1);
}

async fn newer_wins_and_empty_never_overwrites(desk: Desk) {
    let told = |source: &str, seen: i64, given: &str, city: &str, plan: &str| {
        let mut d = draft(source, seen);
        d.external_refs.push(ExternalRef::new("shop", "1"));
        d.name = Some(PersonName::new(given, if given.is_empty() { "" } else { "Kask" }));
        d.addresses.push(PostalAddress {
            city: city.into(),
            ..PostalAddress::default()
        });
        d.tags.push(source.into());
        d.attributes.set("plan", plan).unwrap();
        d
    };
    let (ana, ..) = desk.upsert(told("shop", 10, "Anna", "Oslo", "free")).await;
    desk.clock.advance(Duration::from_secs(60));
    assert_eq!(
        desk.upsert(told("old-list", 5, "Anne", "Bergen", "none")).await.1,
        Change::Updated
    );
    let known = desk.get(ana).await;
    assert_eq!(
        (known.name.given.as_str(), known.addresses[0].city.as_str()),
        ("Anna", "Oslo"),
        "older does not win"
    );
    assert_eq!(known.attributes.get("plan").unwrap(), "free");
    assert_eq!(known.tags, ["shop", "old-list"]);
    assert_eq!(known.updated_at.since(known.created_at), Duration::from_secs(60));
    desk.upsert(told("crawler", 20, "", "", "")).await;
    assert_eq!(desk.get(ana).await.name, known.name, "empty does not overwrite");
    assert_eq!(desk.get(ana).await.attributes.get("plan").unwrap(), "free");
    desk.upsert(told("shop", 30, "Ana", "Bergen", "pro")).await;
    let known = desk.get(ana).await;
    assert_eq!(
        (known.name.full().as_str(), known.addresses[0].city.as_str()),
        ("Ana Kask", "Bergen")
    );
    assert_eq!(known.attributes.get("plan").unwrap(), "pro");
    let sources: Vec<_> = known
        .provenance
        .iter()
        .map(|p| (p.source.as_str(), p.observed_at.as_micros()))
        .collect();
    assert_eq!(
        sources,
        [("shop", 30), ("old-list", 5), ("crawler", 20)],
        "one entry a source"
    );
    let version = known.version;
    assert_eq!(
        desk.upsert(told("shop", 40, "Ana", "Bergen", "pro")).await.1,
        Change::Unchanged
    );
    assert_eq!(
        desk.get(ana).await.version,
        version,
        "nothing new, nothing written"
    );
}

async fn create_is_strict(desk: Desk) {
    let mut first = keys("1", "ana@example.com", PHONE);
    first.orders.push(OrderDraft {
        event_id: "o1".into(),
        at: at(1),
        total: Money::new(500, "EUR").unwrap(),
        items: 1,
    });
    let ana = desk.customers.create(&desk.ctx, first).await.unwrap();
    assert_eq!(
        desk.customers
            .orders(&desk.ctx, ana.id, 10, None)
            .await
            .unwrap()
            .items
            .len(),
        1
    );
    for taken in [
        keys("1", "", ""),
        keys("", "ana@example.com", ""),
        keys("9", "ana@example.com", PHONE),
    ] {
        let error = desk.customers.create(&desk.ctx, taken).await.unwrap_err();
        let id = ana.id.to_string();
        assert_eq!(
            (error.kind(), error.context("customer_id")),
            (ErrorKind::Conflict, Some(id.as_str()))
        );
    }
    let error = desk
        .customers
        .create(&desk.ctx, keys("3", "nobody", ""))
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.context("field")),
        (ErrorKind::Invalid, Some("email"))
    );
    let shares = desk
        .customers
        .create(&desk.ctx, keys("", "", PHONE))
        .await
        .unwrap();
    assert!(shares.id != ana.id && shares.phone().is_some());
    let mut named = draft("host", 1);
    named.name = Some(PersonName::whole("Nameless But Here"));
    let nameless = desk.customers.create(&desk.ctx, named).await.unwrap();
    assert_eq!(nameless.name.full(), "Nameless But Here");
    assert_eq!(desk.count().await, 3);
}

async fn update_is_fenced_and_whole(desk: Desk) {
    let (id, ..) = desk.upsert(keys("1", "ana@example.com", PHONE)).await;
    desk.upsert(keys("2", "bea@example.com", "")).await;
    let mut ana = desk.get(id).await;
    ana.name = PersonName::new("Ana", "Kask");
    ana.external_refs = vec![ExternalRef::new("erp", "77")];
    ana.contact_points
        .retain(|point| point.kind() == ContactKind::Email);
    ana.contact_points[0].state = ContactState::Verified;
    let stored = desk.customers.update(&desk.ctx, &ana).await.unwrap();
    assert_eq!(
        (
            stored.version,
            stored.name.full().as_str(),
            stored.external_refs.as_slice()
        ),
        (2, "Ana Kask", &ana.external_refs[..])
    );
    assert_eq!(stored.contact_points, ana.contact_points);
    assert_eq!(desk.get(id).await, stored);
    assert!(
        desk.customers
            .by_external(&desk.ctx, &ExternalRef::new("shop", "1"))
            .await
            .unwrap()
            .is_none()
    );
    let error = desk.customers.update(&desk.ctx, &ana).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.context("index")),
        (ErrorKind::Conflict, Some("version")),
        "it was read before"
    );
    let mut thief = stored.clone();
    thief.external_refs.push(ExternalRef::new("shop", "2"));
    let error = desk.customers.update(&desk.ctx, &thief).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.context("index")),
        (ErrorKind::Conflict, Some("crm_external_ref_key"))
    );
    let mut twice = stored.clone();
    twice.contact_points.push(twice.contact_points[0].clone());
    assert_eq!(
        desk.customers.update(&desk.ctx, &twice).await.unwrap_err().kind(),
        ErrorKind::Invalid
    );
    assert_eq!(desk.get(id).await, stored, "what was refused changed nothing");
    let mut nobody = stored.clone();
    nobody.id = fixtures::id().into();
    assert_eq!(
        desk.customers
            .update(&desk.ctx, &nobody)
            .await
            .unwrap_err()
            .kind(),
        ErrorKind::NotFound
    );
}

async fn delete_leaves_nothing(desk: Desk) {
    let (ana, ..) = desk.upsert(keys("1", "ana@example.com", PHONE)).await;
    let (bea, ..) = desk.upsert(keys("2", "bea@example.com", "")).await;
    let visit = |n: usize| InteractionDraft {
        event_id: format!("v{n}"),
        at: at(n as i64),
        kind: "visit".into(),
        data: Default::default(),
    };
    let many = Events {
        orders: vec![],
        interactions: (0..2500).map(visit).collect(),
    };
    desk.customers.append(&desk.ctx, ana, "web", many).await.unwrap();
    desk.customers
        .append(&desk.ctx, bea, "web", visit(9999))
        .await
        .unwrap();
    desk.customers.delete(&desk.ctx, ana).await.unwrap();
    assert!(desk.customers.get(&desk.ctx, ana).await.unwrap().is_none());
    assert_eq!(
        desk.customers.delete(&desk.ctx, ana).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
    let store = desk.customers.store_ref();
    for schema in crm_store::customers::SCHEMAS
        .iter()
        .filter(|schema| schema.field("customer_id").is_some())
    {
        assert_eq!(
            store
                .count(&desk.ctx, schema, &Filter::eq("customer_id", ana))
                .await
                .unwrap(),
            0,
            "{}",
            schema.name
        );
    }
    assert_eq!(
        desk.customers
            .timeline(&desk.ctx, bea, 10, None)
            .await
            .unwrap()
            .items
            .len(),
        1
    );
    assert_eq!(
        desk.upsert(keys("1", "ana@example.com", PHONE)).await.1,
        Change::Created,
        "her keys are free"
    );
}

async fn events_are_kept_once(desk: Desk) {
    let (ana, ..) = desk.upsert(keys("1", "", "")).await;
    let order = |n: i64| OrderDraft {
        event_id: format!("o{n}"),
        at: at(n),
        total: Money::new(100 * n, "EUR").unwrap(),
        items: 1,
    };
    let events = Events {
        orders: vec![order(1), order(2), order(1)],
        interactions: vec![],
    };
    let done = desk
        .customers
        .append(&desk.ctx, ana, "shop", events.clone())
        .await
        .unwrap();
    assert_eq!((done.orders, done.known), (2, 1));
    let done = desk
        .customers
        .append(&desk.ctx, ana, "shop", events)
        .await
        .unwrap();
    assert_eq!((done.orders, done.known), (0, 3));
    let done = desk
        .customers
        .append(&desk.ctx, ana, "till", order(1))
        .await
        .unwrap();
    assert_eq!(done.orders, 1, "another source has its own ids");
    let page = desk.customers.orders(&desk.ctx, ana, 2, None).await.unwrap();
    assert_eq!(page.items[0].total.to_string(), "2.00 EUR", "the latest first");
    let rest = desk.customers.orders(&desk.ctx, ana, 2, page.next).await.unwrap();
    assert_eq!((rest.items.len(), rest.next), (1, None));
    let error = desk
        .customers
        .append(&desk.ctx, fixtures::id().into(), "shop", order(9))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let nameless = OrderDraft {
        event_id: " ".into(),
        ..order(3)
    };
    let error = desk
        .customers
        .append(&desk.ctx, ana, "shop", nameless)
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.context("field")),
        (ErrorKind::Invalid, Some("event_id"))
    );
}

async fn pages_and_tenants(desk: Desk) {
    for n in 0..25 {
        let mut d = keys(&n.to_string(), &format!("p{n}@example.com"), "");
        d.name = Some(PersonName::new("Ana", &format!("Kask{}", n % 5)));
        d.attributes.set("visits", n).unwrap();
        desk.upsert(d).await;
    }
    let mut query = Query::new(Filter::ge("attributes.visits", 10_i64))
        .ascending("family_name")
        .limit(4);
    let mut seen = Vec::new();
    loop {
        let page = desk.customers.find(&desk.ctx, &query).await.unwrap();
        seen.extend(page.items);
        match page.next {
            Some(next) => query.after = Some(next.to_string().parse().unwrap()),
            None => break,
        }
    }
    assert_eq!(seen.len(), 15);
    assert!(
        seen.windows(2)
            .all(|w| (&w[0].name.family, w[0].id) < (&w[1].name.family, w[1].id))
    );
    assert!(
        seen.iter()
            .all(|customer| customer.email().is_some() && customer.external_refs.len() == 1)
    );
    let ids: Vec<CustomerId> = seen.iter().map(|customer| customer.id).collect();
    let other = fixtures::context();
    assert!(
        desk.customers
            .get_many(&other, &ids)
            .await
            .unwrap()
            .iter()
            .all(Option::is_none)
    );
    assert!(
        desk.customers
            .by_contact(&other, ContactKind::Email, "p1@example.com")
            .await
            .unwrap()
            .is_none()
    );
    assert_eq!(
        desk.customers.delete(&other, ids[0]).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
    let theirs = desk
        .customers
        .upsert(&other, keys("1", "p1@example.com", ""))
        .await
        .unwrap();
    assert_eq!(theirs.change, Change::Created, "keys are per tenant");
}

#[tokio::test]
async fn bound_to_a_registry_or_told_what_is_missing() {
    let error = Customers::bind(&Registry::builder().build().unwrap()).unwrap_err();
    assert!(error.to_string().contains("RecordStore"), "{error}");
    let registry = Registry::builder()
        .provide::<dyn RecordStore>(0, in_memory().await)
        .build()
        .unwrap();
    let customers = Customers::bind(&registry).unwrap();
    assert_eq!(
        customers.count(&fixtures::context(), &Filter::All).await.unwrap(),
        0
    );
}

/// 64 writers tell of the same 100 people at the same time, each of `each` of them, in an order of its own, and with
/// something of its own to add: exactly 100 customers, everybody is told the same one for the same person, and all that
/// was added is there.
async fn race(store: Arc<dyn RecordStore>, each: u32) {
    let (customers, ctx) = (desk(store).customers, fixtures::context());
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..64_u32 {
        let (customers, ctx) = (customers.clone(), ctx.clone());
        tasks.spawn(async move {
            let mut told = std::collections::BTreeSet::new();
            for n in 0..each {
                let who = (n + writer * 7) % 100;
                let mut d = keys(&who.to_string(), &format!("p{who}@example.com"), "");
                d.tags.push(format!("w{}", writer % 4));
                told.insert((who, customers.upsert(&ctx, d).await.unwrap().id));
            }
            told
        });
    }
    let told: std::collections::BTreeSet<_> = tasks.join_all().await.into_iter().flatten().collect();
    assert_eq!(told.len(), 100, "one customer for each person, whoever is told");
    let page = customers
        .find(&ctx, &Query::new(Filter::All).limit(1000))
        .await
        .unwrap();
    // Halves would be customers without a key.
    let halves = page
        .items
        .iter()
        .filter(|one| one.external_refs.is_empty())
        .count();
    assert_eq!(halves, 0, "of {} customers", page.items.len());
    assert_eq!(page.items.len(), 100);
    for customer in page.items {
        let mut tags = customer.tags;
        tags.sort();
        assert_eq!(tags, ["w0", "w1", "w2", "w3"], "no update was lost");
        assert_eq!(customer.contact_points.len(), 1);
    }
}

/// How many of the 100 people each writer brings to a server: more takes long, and all of them have met by then.
const BROUGHT: u32 = 30;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn racing_writers_make_each_person_once_on_sqlite() {
    let (store, _folder) = on_file().await;
    race(store, 100).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn racing_writers_make_each_person_once_in_memory() {
    race(Arc::new(MemoryStore::new("memory")), 100).await;
}

#[cfg(all(feature = "mysql", feature = "postgres"))]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn racing_writers_make_each_person_once_on_mysql() {
    if let Some(opened) = crate::own::mysql().await {
        race(opened.store, BROUGHT).await;
    }
}

#[cfg(all(feature = "mysql", feature = "postgres"))]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn racing_writers_make_each_person_once_on_postgres() {
    if let Some(opened) = crate::own::postgres().await {
        race(opened.store, BROUGHT).await;
    }
}

#[cfg(feature = "mongodb")]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn racing_writers_make_each_person_once_on_mongodb() {
    if let Some((store, _scratch)) = crate::mongo::fresh().await {
        race(store, BROUGHT).await;
    }
}
