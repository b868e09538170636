//! The change feed: nothing missed, nothing out of order, on every store.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crm_core::activity::Money;
use crm_core::capability::RecordStore;
use crm_core::customer::{CUSTOMER, Draft, OrderDraft, Provenance};
use crm_core::memory::MemoryStore;
use crm_core::policy::Stack;
use crm_core::query::{Claim, Filter, Query};
use crm_core::record::{Record, Value, Version, Write};
use crm_core::testkit::fixtures::{self, Dice};
use crm_core::{Actor, Clock, Context, ErrorKind, Layered, RandomIds, SystemClock, Timestamp, Uuid};
use crm_store::Customers;
use crm_store::changes::{CHANGE, Change, ChangeLog, Entity, Feed, FeedCursor, Op};
use crm_store::segments::NewSegment;

use crate::stores::{Opened, on_each_store, stores};

/// A clock that is off, as those of other machines are.
#[derive(Debug)]
struct Off(i64);

impl Clock for Off {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(SystemClock::shared().now().as_micros() + self.0)
    }
}

/// A log of its own, as another process would have, whose clock is off by so many microseconds.
pub(crate) fn log(store: &Arc<dyn RecordStore>, off: i64) -> ChangeLog {
    let clock: Arc<dyn Clock> = Arc::new(Off(off));
    ChangeLog::new(store.clone(), clock.clone(), Arc::new(RandomIds::new(clock)))
}

pub(crate) fn people(log: &ChangeLog) -> Customers {
    let feed = log.feed();
    Customers::new(Arc::new(log.clone()), SystemClock::shared(), RandomIds::shared()).with_feed(feed)
}

fn draft(n: u64) -> Draft {
    let mut draft = Draft::new(Provenance::new("test", Timestamp::from_micros(n as i64)));
    draft.emails.push(format!("p{n}@example.com"));
    draft
}

pub(crate) fn profile(n: i64) -> Record {
    let mut record = Record::new(&CUSTOMER);
    let json = |text: &str| Value::Json(serde_json::from_str(text).unwrap());
    for field in ["given_name", "family_name", "display_name"] {
        record.set(field, "x").unwrap();
    }
    for (field, value) in [
        ("addresses", "[]"),
        ("tags", "[]"),
        ("attributes", &format!(r#"{{"n":{n}}}"#)),
        ("provenance", "[]"),
    ] {
        record.set(field, json(value)).unwrap();
    }
    for field in ["created_at", "updated_at"] {
        record.set(field, Timestamp::from_micros(n)).unwrap();
    }
    record
}

/// Everything behind a cursor, in pages of `limit`.
async fn follow(feed: &Feed, ctx: &Context, mut cursor: Option<FeedCursor>, limit: u32) -> Vec<Change> {
    let mut found = Vec::new();
    loop {
        let changes = feed.changes_since(ctx, cursor.as_ref(), limit).await.unwrap();
        if changes.items.is_empty() {
            return found;
        }
        assert!(changes.items.len() <= limit as usize);
        found.extend(changes.items);
        cursor = Some(changes.next);
    }
}

fn seen(changes: &[Change]) -> Vec<(Entity, Op, Option<Version>)> {
    changes
        .iter()
        .map(|change| (change.entity.clone(), change.op.clone(), change.version))
        .collect()
}

async fn says_what_happened(Opened { store, .. }: &Opened) {
    let log = log(store, 0);
    let customers = people(&log);
    let request = fixtures::id();
    let ctx = fixtures::context().actor(Actor::user("ana")).request_id(request);
    let feed = log.feed();
    customers.prepare().await.unwrap();
    let start = feed.latest(&ctx).await.unwrap();

    let id = customers.upsert(&ctx, draft(1)).await.unwrap().id;
    let mut customer = customers.get(&ctx, id).await.unwrap().unwrap();
    customer.tags.push("vip".into());
    customers.update(&ctx, &customer).await.unwrap();
    let order = OrderDraft {
        at: Timestamp::EPOCH,
        total: Money::new(1, "EUR").unwrap(),
        items: 1,
        event_id: "1".into(),
    };
    customers.append(&ctx, id, "test", order).await.unwrap();
    let segment = customers
        .segments()
        .create(&ctx, NewSegment::manual("m"))
        .await
        .unwrap()
        .id;
    customers.segments().add(&ctx, segment, &[id]).await.unwrap();
    customers.delete(&ctx, id).await.unwrap();

    let changes = follow(&feed, &ctx, Some(start.clone()), 100).await;
    let them = Entity::Customer(id);
    assert_eq!(
        seen(&changes),
        [
            (them.clone(), Op::Created, Some(1)),
            (them.clone(), Op::Updated, Some(2)),
            (them.clone(), Op::Orders, None),
            (Entity::Segment(segment), Op::Created, Some(1)),
            (them.clone(), Op::Entered(segment), Some(1)),
            (them.clone(), Op::Orders, None),
            (them.clone(), Op::Deleted, Some(3)),
            (them.clone(), Op::Contacts, None),
            (them, Op::Membership(segment), None),
        ]
    );
    assert!(
        changes
            .iter()
            .all(|change| change.actor == Actor::user("ana") && change.request == Some(request))
    );
    // Numbers are dense; one unit of work has one.
    let numbers: BTreeSet<i64> = changes.iter().map(|change| change.seq).collect();
    assert_eq!(numbers.into_iter().collect::<Vec<i64>>(), [1, 2, 3, 4, 5, 6, 7]);
    // Read one by one, also from the middle of a unit of work, it is the same.
    assert_eq!(follow(&feed, &ctx, Some(start), 1).await, changes);
    // What fails is not told.
    let gone = Write::update(id, 1, profile(1));
    log.apply(&ctx, &[Write::insert(fixtures::id(), profile(2)), gone])
        .await
        .unwrap_err();
    assert_eq!(follow(&feed, &ctx, None, 100).await, changes);
    // Nor is it told to others.
    assert_eq!(follow(&feed, &fixtures::context(), None, 100).await, []);
}

#[tokio::test]
async fn the_feed_says_what_happened() {
    for opened in stores().await {
        eprintln!("on {}", opened.name);
        says_what_happened(&opened).await;
    }
}

const PEOPLE: usize = 12;

/// Changes one of `people` at a time for ever so often, at the version it read; answers what was acknowledged.
async fn write(
    log: ChangeLog,
    ctx: Context,
    people: Arc<Vec<Uuid>>,
    seed: u64,
    times: usize,
) -> Vec<(Uuid, Version)> {
    let mut dice = Dice::new(seed);
    let mut done = Vec::new();
    while done.len() < times {
        // One to three at once, so that units of work overlap.
        let mut wanted = BTreeSet::new();
        for _ in 0..=dice.below(3) {
            wanted.insert(*dice.pick(&people));
        }
        let wanted: Vec<Uuid> = wanted.into_iter().collect();
        let known = log.get(&ctx, &CUSTOMER, &wanted).await.unwrap();
        if dice.one_in(3) {
            tokio::time::sleep(Duration::from_micros(dice.below(3_000) as u64)).await;
        }
        let mut made = Vec::new();
        let writes: Vec<Write> = wanted
            .iter()
            .zip(known)
            .map(|(id, known)| {
                let version = known.map_or(0, |known| known.version);
                made.push((*id, version + 1));
                match version {
                    0 => Write::insert(*id, profile(1)),
                    version => Write::update(*id, version, profile(version)),
                }
            })
            .collect();
        match log.apply(&ctx, &writes).await {
            Ok(_) => done.extend(made),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}"),
        }
        tokio::task::yield_now().await;
    }
    done
}

/// Reads the feed while others write, in pages of any size, until it has seen the end after `done`.
async fn read(log: ChangeLog, ctx: Context, seed: u64, done: Arc<AtomicBool>) -> Vec<Change> {
    let mut dice = Dice::new(seed);
    let feed = log.feed();
    let (mut cursor, mut found) = (None, Vec::new());
    loop {
        let over = done.load(Ordering::SeqCst);
        let limit = 1 + dice.below(30) as u32;
        let changes = feed.changes_since(&ctx, cursor.as_ref(), limit).await.unwrap();
        let nothing = changes.items.is_empty();
        found.extend(changes.items);
        // Cursors go through text, as hosts keep them.
        cursor = Some(changes.next.to_string().parse().unwrap());
        if nothing {
            if over {
                return found;
            }
            tokio::time::sleep(Duration::from_micros(dice.below(2_000) as u64)).await;
        }
    }
}

/// A feed by the writers' clocks, read likewise: what this one is not.
async fn read_by_time(store: Arc<dyn RecordStore>, ctx: Context, done: Arc<AtomicBool>) -> BTreeSet<Uuid> {
    let (mut last, mut found) = (Timestamp::from_micros(i64::MIN), BTreeSet::new());
    loop {
        let over = done.load(Ordering::SeqCst);
        let query = Query::new(Filter::gt("at", last)).ascending("at").limit(30);
        let page = store.find(&ctx, &CHANGE, &query).await.unwrap();
        let nothing = page.items.is_empty();
        for stored in page.items {
            last = stored.record.timestamp("at").unwrap();
            found.insert(stored.id);
        }
        if nothing && over {
            return found;
        }
        tokio::time::sleep(Duration::from_micros(500)).await;
    }
}

/// Eight writers whose clocks are up to 40 ms apart, four readers, and one who goes by time; answers how many units of
/// work that one missed.
async fn nothing_is_missed(store: &Arc<dyn RecordStore>, times: usize) -> usize {
    let ctx = fixtures::context();
    let schemas = [&CUSTOMER];
    log(store, 0).migrate(&schemas).await.unwrap();
    let people: Arc<Vec<Uuid>> = Arc::new((0..PEOPLE).map(|_| fixtures::id()).collect());
    let done = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..8)
        .map(|n| {
            let log = log(store, (n as i64 - 4) * 10_000);
            tokio::spawn(write(log, ctx.clone(), people.clone(), n as u64, times))
        })
        .collect();
    let readers: Vec<_> = (0..4)
        .map(|n| tokio::spawn(read(log(store, n * 5_000), ctx.clone(), n as u64, done.clone())))
        .collect();
    let by_time = tokio::spawn(read_by_time(store.clone(), ctx.clone(), done.clone()));
    let mut acknowledged = BTreeSet::new();
    for writer in writers {
        acknowledged.extend(writer.await.unwrap());
    }
    done.store(true, Ordering::SeqCst);
    let mut all: Vec<Vec<Change>> = Vec::new();
    for reader in readers {
        all.push(reader.await.unwrap());
    }
    let first = &all[0];
    for other in &all {
        assert_eq!(first, other, "two readers saw different things");
    }
    // Exactly what was acknowledged, each once.
    let told: Vec<(Uuid, Version)> = first
        .iter()
        .map(|change| match (&change.entity, change.version) {
            (Entity::Customer(id), Some(version)) => (id.uuid(), version),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(told.len(), acknowledged.len());
    assert_eq!(told.iter().copied().collect::<BTreeSet<_>>(), acknowledged);
    // Per customer in the order of the versions, and no number twice or left out.
    let mut versions: BTreeMap<Uuid, Version> = BTreeMap::new();
    for (customer, version) in &told {
        let last = versions.insert(*customer, *version).unwrap_or(0);
        assert_eq!(*version, last + 1, "out of order");
    }
    let mut expected = 0;
    for change in first {
        assert!(change.seq == expected || change.seq == expected + 1, "a gap");
        expected = change.seq;
    }
    expected as usize - by_time.await.unwrap().len()
}

on_each_store!(no_reader_misses_a_change_or_sees_one_out_of_order);

async fn no_reader_misses_a_change_or_sees_one_out_of_order(
    Opened {
        store, name, seeds, ..
    }: Opened,
) {
    let mut missed = 0;
    for _ in 0..seeds.min(3) {
        missed += nothing_is_missed(&store, 60).await;
    }
    eprintln!("on {name}: a feed by time would have missed {missed} units of work");
    // The negative control: the same writers, read by time, lose changes; so the test can see it.
    assert!(missed > 0, "{name}");
}

#[tokio::test]
async fn large_units_of_work_are_split_and_told_whole() {
    for Opened { store, name, .. } in stores().await {
        let ctx = fixtures::context();
        let log = log(&store, 0);
        log.migrate(&[&CUSTOMER]).await.unwrap();
        let ids: Vec<Uuid> = (0..8_100).map(|_| fixtures::id()).collect();
        let writes: Vec<Write> = ids.iter().map(|id| Write::insert(*id, profile(1))).collect();
        assert_eq!(
            log.apply(&ctx, &writes).await.unwrap().len(),
            writes.len(),
            "{name}"
        );
        assert_eq!(store.count(&ctx, &CHANGE, &Filter::All).await.unwrap(), 2);
        let told: Vec<Uuid> = follow(&log.feed(), &ctx, None, 1_000)
            .await
            .iter()
            .map(|change| match &change.entity {
                Entity::Customer(id) => id.uuid(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(told, ids);
    }
}

#[tokio::test]
async fn cursors_that_lead_nowhere_are_refused() {
    for Opened { store, name, .. } in stores().await {
        eprintln!("on {name}");
        let (ctx, log) = (fixtures::context(), log(&store, 0));
        let feed = log.feed();
        log.migrate(&[&CUSTOMER]).await.unwrap();
        let mut cursors = vec![feed.latest(&ctx).await.unwrap()];
        for n in 0..5 {
            log.apply(&ctx, &[Write::insert(fixtures::id(), profile(n))])
                .await
                .unwrap();
            cursors.push(feed.latest(&ctx).await.unwrap());
        }
        let third = follow(&feed, &ctx, None, 10).await[3].at;
        let pruned = feed.prune(&ctx, third).await.unwrap();
        assert!((1..=3).contains(&pruned), "{pruned}");
        for (n, cursor) in cursors.iter().enumerate() {
            let read = feed.changes_since(&ctx, Some(cursor), 10).await;
            if (n as u64) < pruned {
                let error = read.unwrap_err();
                assert_eq!(
                    (error.kind(), error.context("field")),
                    (ErrorKind::NotFound, Some("cursor"))
                );
                assert!(error.to_string().contains("snapshot"), "{error}");
            } else {
                assert_eq!(read.unwrap().items.len(), 5 - n);
            }
        }
        // From the beginning: it is not there any more, and that is said instead of beginning somewhere.
        assert_eq!(
            feed.changes_since(&ctx, None, 10).await.unwrap_err().kind(),
            ErrorKind::NotFound
        );
        // Another tenant's.
        let other = fixtures::context();
        let error = feed.changes_since(&other, cursors.last(), 10).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        for text in ["", "garbage", "e30", &format!("{}x", cursors[0])] {
            assert_eq!(
                text.parse::<FeedCursor>().unwrap_err().kind(),
                ErrorKind::Invalid,
                "{text}"
            );
        }
        for limit in [0, 10_001] {
            let error = feed.changes_since(&ctx, None, limit).await.unwrap_err();
            assert_eq!(
                (error.kind(), error.context("field")),
                (ErrorKind::Invalid, Some("limit"))
            );
        }
        // Everything can go, and the feed goes on behind it.
        feed.prune(&ctx, Timestamp::from_micros(i64::MAX)).await.unwrap();
        log.apply(&ctx, &[Write::insert(fixtures::id(), profile(9))])
            .await
            .unwrap();
        let last = feed.changes_since(&ctx, cursors.last(), 10).await.unwrap();
        assert_eq!((last.items.len(), last.items[0].seq), (1, 6));
    }
}

#[tokio::test]
async fn readers_that_come_while_it_is_pruned_get_all_or_an_error() {
    let store: Arc<dyn RecordStore> = Arc::new(MemoryStore::new("records"));
    let (ctx, log) = (fixtures::context(), log(&store, 0));
    log.migrate(&[&CUSTOMER]).await.unwrap();
    for n in 0..400 {
        log.apply(&ctx, &[Write::insert(fixtures::id(), profile(n))])
            .await
            .unwrap();
    }
    let feed = log.feed();
    let pruner = tokio::spawn({
        let (feed, ctx) = (feed.clone(), ctx.clone());
        async move {
            tokio::task::yield_now().await;
            feed.prune(&ctx, Timestamp::from_micros(i64::MAX)).await.unwrap()
        }
    });
    let mut cursor = None;
    let mut next = 1;
    while let Ok(changes) = feed.changes_since(&ctx, cursor.as_ref(), 7).await {
        for change in &changes.items {
            assert_eq!(change.seq, next);
            next += 1;
        }
        if changes.items.is_empty() {
            break;
        }
        cursor = Some(changes.next);
        tokio::task::yield_now().await;
    }
    assert_eq!(pruner.await.unwrap(), 400);
}

#[tokio::test]
async fn a_subscription_is_woken_and_loses_nothing() {
    for Opened { store, name, .. } in stores().await {
        eprintln!("on {name}");
        let (ctx, mine, theirs) = (fixtures::context(), log(&store, 0), log(&store, 0));
        mine.migrate(&[&CUSTOMER]).await.unwrap();
        // Woken: polling would take an hour.
        let mut stream = mine
            .feed()
            .subscribe(&ctx, None)
            .await
            .unwrap()
            .every(Duration::from_secs(3_600));
        let ids: Vec<Uuid> = (0..20).map(|_| fixtures::id()).collect();
        let writer = tokio::spawn({
            let (mine, ctx, ids) = (mine.clone(), ctx.clone(), ids.clone());
            async move {
                for id in ids {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    mine.apply(&ctx, &[Write::insert(id, profile(1))]).await.unwrap();
                }
            }
        });
        let told = Mutex::new(Vec::new());
        let reading = async {
            let mut patience = Duration::from_millis(1);
            while told.lock().unwrap().len() < ids.len() {
                // Dropped again and again while it waits or reads, but not for ever: a server takes its time.
                patience = patience * 3 / 2;
                let next = tokio::time::timeout(patience, stream.next(4)).await;
                if let Ok(changes) = next {
                    let changes = changes.unwrap();
                    told.lock()
                        .unwrap()
                        .extend(changes.items.into_iter().map(|change| change.entity));
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(60), reading)
            .await
            .unwrap();
        writer.await.unwrap();
        let wanted: Vec<Entity> = ids.iter().map(|id| Entity::Customer((*id).into())).collect();
        assert_eq!(told.into_inner().unwrap(), wanted);
        // Another process' writes are found without being woken.
        let mut stream = stream.every(Duration::from_millis(5));
        theirs
            .apply(&ctx, &[Write::insert(fixtures::id(), profile(1))])
            .await
            .unwrap();
        assert_eq!(stream.next(10).await.unwrap().items.len(), 1);
        // It says how far behind it is.
        for n in 0..5 {
            mine.apply(&ctx, &[Write::insert(fixtures::id(), profile(n))])
                .await
                .unwrap();
        }
        assert_eq!(stream.next(2).await.unwrap().behind, 3);
        // And when what it should tell next is gone.
        mine.feed()
            .prune(&ctx, Timestamp::from_micros(i64::MAX))
            .await
            .unwrap();
        assert_eq!(stream.next(2).await.unwrap_err().kind(), ErrorKind::NotFound);
    }
}

#[tokio::test]
async fn without_a_log_there_is_no_feed_and_within_layers_there_is() {
    let store: Arc<dyn RecordStore> = Arc::new(MemoryStore::new("records"));
    let ctx = fixtures::context();
    let plain = Customers::new(store.clone(), SystemClock::shared(), RandomIds::shared());
    let error = plain.changes_since(&ctx, None, 10).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("ChangeLog"), "{error}");
    assert_eq!(
        plain.subscribe(&ctx, None).await.unwrap_err().kind(),
        ErrorKind::Unsupported
    );

    let logged: Arc<dyn RecordStore> = Arc::new(log(&store, 0));
    let layered = Layered::new(logged, Stack::recommended(SystemClock::shared(), 1));
    let customers = Customers::new(Arc::new(layered), SystemClock::shared(), RandomIds::shared());
    customers.upsert(&ctx, draft(1)).await.unwrap();
    assert_eq!(
        customers.changes_since(&ctx, None, 10).await.unwrap().items.len(),
        1
    );
}

#[tokio::test]
async fn claims_on_watched_records_are_refused() {
    let store: Arc<dyn RecordStore> = Arc::new(MemoryStore::new("records"));
    let log = log(&store, 0);
    log.migrate(&[&CUSTOMER]).await.unwrap();
    let claim = Claim {
        due: Filter::All,
        order: Vec::new(),
        limit: 1,
        assign: Vec::new(),
    };
    let error = log
        .claim(&fixtures::context(), &CUSTOMER, &claim)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

static NOTE: crm_core::record::Schema = crm_core::record::Schema {
    name: "host_note",
    fields: &[crm_core::record::Field::new("customer_id", crm_core::record::FieldType::Uuid).pseudonym()],
    indexes: &[],
};
static PLACE: crm_core::record::Schema = crm_core::record::Schema {
    name: "host_place",
    fields: &[crm_core::record::Field::new(
        "n",
        crm_core::record::FieldType::Int,
    )],
    indexes: &[],
};

#[tokio::test]
async fn tables_of_the_host_can_be_watched() {
    let store: Arc<dyn RecordStore> = Arc::new(MemoryStore::new("records"));
    let log = log(&store, 0)
        .watch(&NOTE, Some("customer_id"))
        .watch(&PLACE, None);
    log.migrate(&[&NOTE, &PLACE]).await.unwrap();
    let (ctx, ids) = (fixtures::context(), RandomIds::shared());
    let (note, place, customer) = (ids.fresh(), ids.fresh(), ids.fresh());
    let record = Record::new(&NOTE).with("customer_id", customer).unwrap();
    log.apply(&ctx, &[Write::insert(note, record)]).await.unwrap();
    log.apply(
        &ctx,
        &[Write::put(place, Record::new(&PLACE).with("n", 1_i64).unwrap())],
    )
    .await
    .unwrap();
    // Whose it was is found out before it is gone.
    log.apply(&ctx, &[Write::delete(&NOTE, note, None)])
        .await
        .unwrap();
    let related = || {
        let op = Op::Related {
            schema: "host_note".into(),
        };
        (Entity::Customer(customer.into()), op, None)
    };
    let placed = Entity::Record {
        schema: "host_place".into(),
        id: place,
    };
    assert_eq!(
        seen(&follow(&log.feed(), &ctx, None, 10).await),
        [related(), (placed, Op::Updated, None), related()]
    );
}
