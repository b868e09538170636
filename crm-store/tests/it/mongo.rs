//! The one suite of all stores, on a real MongoDB replica set, and what is MongoDB's own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crm_core::capability::RecordStore;
use crm_core::memory::MemoryStore;
use crm_core::query::{FieldRef, Filter, Query, Relation};
use crm_core::record::{Field, FieldType, Index, Record, Schema, Write};
use crm_core::testkit::fixtures::{self, Dice};
use crm_core::testkit::store::{LINK, SAMPLE, agrees_with_memory};
use crm_core::{Effect, ErrorKind, Health, Provider, Timestamp};
use crm_store::customers::SCHEMAS;
use crm_store::mongo::{MongoConfig, MongoStore};
use futures_util::TryStreamExt;
use mongodb::Client;
use mongodb::bson::{Bson, Document, doc};

use crate::stores::{self, Opened, or_memory, sequences};

/// The server's URL, where there is one.
pub(crate) fn url() -> Option<String> {
    stores::setting(stores::MONGODB)
}

/// A database of this test alone; gone with the guard.
pub(crate) struct Scratch {
    pub(crate) url: String,
    pub(crate) name: String,
}

impl Scratch {
    pub(crate) fn new(url: String) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let (process, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let unique = fixtures::id().as_u128() >> 96;
        Self {
            url,
            name: format!("crm_mongo_{process}_{count}_{unique}"),
        }
    }

    pub(crate) async fn open(&self, config: MongoConfig) -> MongoStore {
        MongoStore::open(&self.url, config.database(&self.name))
            .await
            .unwrap()
    }

    /// A connection that knows nothing of the store.
    pub(crate) async fn raw(&self) -> mongodb::Database {
        Client::with_uri_str(&self.url)
            .await
            .unwrap()
            .database(&self.name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let (url, name) = (self.url.clone(), self.name.clone());
        // A runtime of its own: the test's may be going down.
        let gone = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(async {
                let client = Client::with_uri_str(&url).await.map_err(std::io::Error::other)?;
                client.database(&name).drop().await.map_err(std::io::Error::other)
            })
        });
        if !matches!(gone.join(), Ok(Ok(()))) {
            eprintln!("the database {} is left", self.name);
        }
    }
}

/// Patient enough for 64 writers on a busy machine.
pub(crate) fn patient() -> MongoConfig {
    MongoConfig::default().wait(Duration::from_secs(60))
}

pub(crate) async fn fresh() -> Option<(Arc<dyn RecordStore>, Scratch)> {
    let scratch = Scratch::new(url()?);
    let store = scratch.open(patient()).await;
    Some((Arc::new(store), scratch))
}

/// As [`fresh`], among other stores.
pub(crate) async fn opened() -> Option<Opened> {
    let (store, scratch) = fresh().await?;
    Some(Opened::new("mongodb", store, 1, scratch))
}

crm_core::store_suite!(suite, async { or_memory(opened().await) });

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_sequence_of_operations_ends_as_in_the_model() {
    let Some((store, _scratch)) = fresh().await else {
        return;
    };
    agrees_with_memory(store, 20_261_122, sequences(50), 50).await;
}

static NOTE: Schema = Schema {
    name: "note",
    fields: &[
        Field::new("text", FieldType::Text),
        Field::new("stars", FieldType::Int),
    ],
    indexes: &[Index::unique("note_text", &["text"])],
};

pub(crate) fn note(text: &str) -> Record {
    let note = Record::new(&NOTE).with("text", text).unwrap();
    note.with("stars", 1_i64).unwrap()
}

pub(crate) fn note_schema() -> &'static Schema {
    &NOTE
}

#[tokio::test]
async fn what_cannot_be_opened_says_why_and_keeps_the_password() {
    let Some(url) = url() else { return };
    let short = || MongoConfig::default().wait(Duration::from_millis(300));
    let wrong = url.replace(":s3cret@", ":wr0ng-s3cret@");
    assert_ne!(wrong, url, "the test's URL has the password of scripts/services");
    let error = MongoStore::open(&wrong, short()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error}");
    assert!(!format!("{error:?}").contains("s3cret"), "{error:?}");

    let nobody = "mongodb://ana:s3cret@127.0.0.1:1/crm?replicaSet=rs0";
    let error = MongoStore::open(nobody, short()).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.is_retryable()),
        (ErrorKind::Unavailable, true),
        "{error}"
    );
    assert!(!format!("{error:?}").contains("s3cret"), "{error:?}");

    let store = MongoStore::open(&url, MongoConfig::default().name("main"))
        .await
        .unwrap();
    assert!(!format!("{store:?}").contains("s3cret"), "{store:?}");
    assert_eq!(
        (store.info().scheme.as_str(), store.info().name.as_str()),
        ("mongodb", "main")
    );
    assert_eq!(store.check().await.unwrap(), Health::Ready);
    let capability = store.capability();
    assert!(capability.atomic && capability.durable && capability.shared);
}

/// No rustls provider is installed in this process: the driver brings its own to each connection.
#[tokio::test]
async fn tls_is_checked_against_the_given_authority() {
    let Some(url) = url() else { return };
    let Some(authority) = stores::setting(stores::AUTHORITY) else {
        return;
    };
    let scratch = Scratch::new(format!("{url}&tls=true&tlsCAFile={authority}"));
    let store = scratch.open(patient()).await;
    store.migrate(&[&NOTE]).await.unwrap();
    let ctx = fixtures::context();
    let two = [
        Write::insert(fixtures::id(), note("a")),
        Write::insert(fixtures::id(), note("b")),
    ];
    store.apply(&ctx, &two).await.unwrap();
    // The control: an authority nobody knows is not trusted.
    let config = MongoConfig::default().wait(Duration::from_millis(500));
    let error = MongoStore::open(&format!("{url}&tls=true"), config)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("tlsCAFile"), "{error}");
}

#[tokio::test]
async fn by_url_from_the_catalogue() {
    let Some(url) = url() else { return };
    let mut catalog = crm_core::registry::Catalog::new();
    crm_store::catalog::register(&mut catalog);
    let store = catalog.open::<dyn RecordStore>(&url).await.unwrap();
    assert_eq!(store.info().scheme, "mongodb");
}

#[tokio::test]
async fn without_migration_the_error_says_so() {
    let Some(url) = url() else { return };
    let scratch = Scratch::new(url);
    let store = scratch.open(patient()).await;
    let ctx = fixtures::context();
    let mut errors = vec![
        store.count(&ctx, &NOTE, &Filter::All).await.unwrap_err(),
        store.get(&ctx, &NOTE, &[fixtures::id()]).await.unwrap_err(),
        store
            .apply(&ctx, &[Write::insert(fixtures::id(), note("x"))])
            .await
            .unwrap_err(),
    ];
    let other = scratch.open(patient()).await;
    other.migrate(&[&NOTE]).await.unwrap();
    assert_eq!(
        store.count(&ctx, &NOTE, &Filter::All).await.unwrap(),
        0,
        "another process may have migrated"
    );
    static GROWN: Schema = Schema {
        name: "note",
        fields: &[
            Field::new("text", FieldType::Text),
            Field::new("stars", FieldType::Int),
            Field::new("mood", FieldType::Text).nullable(),
        ],
        indexes: &[],
    };
    errors.push(
        store
            .count(&ctx, &GROWN, &Filter::null("mood"))
            .await
            .unwrap_err(),
    );
    for error in errors {
        assert!(
            error.kind() == ErrorKind::Config && error.to_string().contains("migrate"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn schemas_grow_but_never_lose() {
    static GROWN: Schema = Schema {
        name: "note",
        fields: &[
            Field::new("text", FieldType::Text),
            Field::new("stars", FieldType::Int),
            Field::new("mood", FieldType::Text).nullable(),
        ],
        indexes: &[
            Index::unique("note_text", &["text"]),
            Index::new("note_mood", &["mood"]),
        ],
    };
    static LOST: Schema = Schema {
        name: "note",
        fields: &[Field::new("text", FieldType::Text)],
        indexes: &[],
    };
    static TYPED: Schema = Schema {
        name: "note",
        fields: &[
            Field::new("text", FieldType::Text),
            Field::new("stars", FieldType::Float),
        ],
        indexes: &[],
    };
    static COLLIDING: Schema = Schema {
        name: "note",
        fields: NOTE.fields,
        indexes: &[
            Index::unique("note_text", &["text"]),
            Index::unique("note_stars", &["stars"]),
        ],
    };
    static MOVED: Schema = Schema {
        name: "note",
        fields: NOTE.fields,
        indexes: &[Index::unique("note_text", &["stars"])],
    };
    let Some(url) = url() else { return };
    let scratch = Scratch::new(url);
    let store = scratch.open(patient()).await;
    let ctx = fixtures::context();
    store.migrate(&[&NOTE]).await.unwrap();
    let id = fixtures::id();
    let writes = [
        Write::insert(id, note("a")),
        Write::insert(fixtures::id(), note("b")),
    ];
    store.apply(&ctx, &writes).await.unwrap();
    for (schema, word) in [
        (&LOST, "field=stars"),
        (&TYPED, "stored=Int"),
        (&COLLIDING, "index=note_stars"),
        (&MOVED, "index=note_text"),
    ] {
        let error = store.migrate(&[schema]).await.unwrap_err();
        assert!(
            error.kind() == ErrorKind::Config && error.to_string().contains(word),
            "{error}"
        );
    }
    store.migrate(&[&GROWN]).await.unwrap();
    let all = store
        .find(&ctx, &GROWN, &Query::new(Filter::null("mood")))
        .await
        .unwrap();
    assert_eq!(all.items.len(), 2);
    // A process of the version before does not know the new field, and leaves it as it is.
    let mooded = Record::from_values(&GROWN, vec!["a".into(), 1_i64.into(), "fine".into()]).unwrap();
    store.apply(&ctx, &[Write::update(id, 1, mooded)]).await.unwrap();
    store
        .apply(&ctx, &[Write::update(id, 2, note("changed"))])
        .await
        .unwrap();
    store.apply(&ctx, &[Write::put(id, note("again"))]).await.unwrap();
    let kept = store.get(&ctx, &GROWN, &[id]).await.unwrap().remove(0).unwrap();
    assert_eq!((kept.version, kept.record.text("mood").unwrap()), (4, "fine"));
    // The oracle: what the database has, by its own account.
    let indexes = scratch
        .raw()
        .await
        .collection::<Document>("note")
        .list_index_names()
        .await
        .unwrap();
    assert_eq!(indexes, ["_id_", "note_text", "note_mood"]);
}

#[tokio::test]
async fn a_ledger_of_a_newer_version_and_a_foreign_collection_are_refused() {
    let Some(url) = url() else { return };
    let scratch = Scratch::new(url);
    let raw = scratch.raw().await;
    let foreign = raw.collection::<Document>("note");
    foreign.insert_one(doc! { "mine": true }).await.unwrap();
    let store = scratch.open(patient()).await;
    let error = store.migrate(&[&NOTE]).await.unwrap_err();
    assert!(
        error.kind() == ErrorKind::Config && error.context("collection") == Some("note"),
        "{error}"
    );
    assert_eq!(foreign.count_documents(doc! {}).await.unwrap(), 1);
    // Beside it, under a prefix, there is room.
    let beside = scratch.open(patient().prefix("crm_")).await;
    beside.migrate(&[&NOTE]).await.unwrap();
    let ledger = raw.collection::<Document>("crm_crm_ledger");
    ledger
        .update_one(doc! { "_id": "#format" }, doc! { "$set": { "format": 2_i64 } })
        .await
        .unwrap();
    let error = beside.migrate(&[&NOTE]).await.unwrap_err();
    assert!(
        error.kind() == ErrorKind::Corrupt && error.to_string().contains("newer"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_stores_start_at_once() {
    let Some(url) = url() else { return };
    let scratch = Arc::new(Scratch::new(url));
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..8 {
        let scratch = scratch.clone();
        tasks.spawn(async move {
            let store = scratch.open(patient()).await;
            store.migrate(&SCHEMAS).await.unwrap();
            store.migrate(&[&NOTE]).await.unwrap();
            let ctx = fixtures::context();
            let write = Write::insert(fixtures::id(), note(&n.to_string()));
            store.apply(&ctx, &[write]).await.unwrap();
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let raw = scratch.raw().await;
    let entries = raw
        .collection::<Document>("crm_ledger")
        .count_documents(doc! {})
        .await
        .unwrap();
    assert_eq!(entries as usize, SCHEMAS.len() + 2);
    for schema in SCHEMAS {
        let there = raw
            .collection::<Document>(schema.name)
            .list_index_names()
            .await
            .unwrap();
        assert_eq!(there.len(), schema.indexes.len() + 1, "{}", schema.name);
    }
    assert_eq!(
        raw.collection::<Document>("note")
            .count_documents(doc! {})
            .await
            .unwrap(),
        8
    );
}

#[tokio::test]
async fn errors_never_hold_values() {
    let Some(url) = url() else { return };
    let scratch = Scratch::new(url);
    let store = scratch.open(patient()).await;
    store.migrate(&[&NOTE]).await.unwrap();
    let ctx = fixtures::context();
    let ana = || Write::insert(fixtures::id(), note("ana@example.com"));
    let together = store.apply(&ctx, &[ana(), ana()]).await.unwrap_err();
    store.apply(&ctx, &[ana()]).await.unwrap();
    let alone = store.apply(&ctx, &[ana()]).await.unwrap_err();
    for (error, write) in [(together, "1"), (alone, "0")] {
        let context = |key| error.context(key);
        assert_eq!(
            (context("schema"), context("write"), context("index")),
            (Some("note"), Some(write), Some("note_text"))
        );
        assert!(!format!("{error:?}").contains("ana@"), "{error:?}");
    }
    // The control: the server's own words do hold it.
    let raw = scratch.raw().await.collection::<Document>("note");
    let mut twin = raw.find_one(doc! {}).await.unwrap().unwrap();
    twin.get_document_mut("_id").unwrap().insert("i", "other");
    assert!(
        raw.insert_one(twin)
            .await
            .unwrap_err()
            .to_string()
            .contains("ana@")
    );
}

#[tokio::test]
async fn a_record_larger_than_a_document_is_refused_by_name() {
    static HEAP: Schema = Schema {
        name: "heap",
        fields: &[Field::new("j", FieldType::Json)],
        indexes: &[],
    };
    let Some(url) = url() else { return };
    let scratch = Scratch::new(url);
    let store = scratch.open(patient()).await;
    store.migrate(&[&HEAP]).await.unwrap();
    let ctx = fixtures::context();
    let heap = |texts: usize| {
        let texts: Vec<String> = (0..texts).map(|_| "x".repeat(1 << 20)).collect();
        Write::insert(
            fixtures::id(),
            Record::new(&HEAP).with("j", serde_json::json!(texts)).unwrap(),
        )
    };
    for writes in [vec![heap(17)], vec![heap(1), heap(17)]] {
        let error = store.apply(&ctx, &writes).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.effect()),
            (ErrorKind::Invalid, Effect::None),
            "{error}"
        );
    }
    assert_eq!(store.count(&ctx, &HEAP, &Filter::All).await.unwrap(), 0);
    let outcomes = store.apply(&ctx, &[heap(7), heap(7), heap(7)]).await.unwrap();
    assert_eq!(outcomes.len(), 3, "more than one command can carry");
}

/// Texts and keys that are commands in MongoDB mean nothing here: every answer is the model's.
#[tokio::test]
async fn commands_in_values_and_keys_are_only_text() {
    let Some((store, _scratch)) = fresh().await else {
        return;
    };
    let model: Arc<dyn RecordStore> = Arc::new(MemoryStore::new("model"));
    let ctx = fixtures::context();
    let words = [
        "$where",
        "$gt",
        "$$ROOT",
        "$t",
        "a.b",
        ".",
        "$",
        "",
        "%24gt",
        "_id",
        "_id.t",
        "v",
        "a",
        "0",
        "{\"$gt\":\"\"}",
        "{$ne: null}",
        "\\Qx\\E",
        "(?i)A",
        ".*",
        "^",
        "a|b",
        "x{2}",
        "[a-z]",
        "\\",
        "\u{1}",
        "'; return true; //",
        "\n",
    ];
    let mut writes = Vec::new();
    for (i, word) in words.iter().enumerate() {
        let next = words[(i + 1) % words.len()];
        let document =
            serde_json::json!({ *word: next, "deep": { *word: { next: [word, 1] } }, "list": [next] });
        let record = Record::new(&SAMPLE)
            .with("label", *word)
            .unwrap()
            .with("t", next)
            .unwrap();
        writes.push(Write::insert(fixtures::id(), record.with("j", document).unwrap()));
    }
    for store in [&store, &model] {
        store.migrate(&[&SAMPLE]).await.unwrap();
        store.apply(&ctx, &writes).await.unwrap();
    }
    let below = |keys: &[&str]| FieldRef {
        field: "j".to_owned(),
        path: keys.iter().map(|key| (*key).to_owned()).collect(),
    };
    let mut dice = Dice::new(17);
    let mut matches = 0;
    for round in 0..1000 {
        let (key, word) = (*dice.pick(&words), *dice.pick(&words));
        let field = match dice.below(5) {
            0 => "t".into(),
            1 => "label".into(),
            2 => below(&[key]),
            3 => below(&["deep", key]),
            _ => below(&["deep", key, word]),
        };
        let filter = match dice.below(8) {
            0 => Filter::prefix(field, word),
            1 => Filter::contains(field, word),
            2 => Filter::one_of(field, [word, key]),
            3 => Filter::null(field),
            4 if !field.path.is_empty() => Filter::has(field, word),
            5 => Filter::has(below(&["list"]), word),
            6 => Filter::lt(field, word),
            _ => Filter::eq(field, word),
        };
        let filter = if dice.one_in(3) { !filter } else { filter };
        let mut counts = Vec::new();
        for store in [&store, &model] {
            counts.push(store.count(&ctx, &SAMPLE, &filter).await.unwrap());
        }
        assert_eq!(
            counts[0], counts[1],
            "round {round}: {filter:?} on {key:?} {word:?}"
        );
        matches += usize::from((1..words.len() as u64).contains(&counts[0]));
    }
    assert!(
        matches > 300,
        "only {matches} questions had something to find and something to leave out"
    );
    let long = "x".repeat(5000);
    let record = Record::new(&SAMPLE).with("label", format!("a{long}b")).unwrap();
    store
        .apply(&ctx, &[Write::insert(fixtures::id(), record)])
        .await
        .unwrap();
    for (text, found) in [
        (long.clone(), 1),
        (format!("{long}b"), 1),
        (format!("{long}c"), 0),
    ] {
        let filter = Filter::contains("label", text);
        assert_eq!(store.count(&ctx, &SAMPLE, &filter).await.unwrap(), found);
    }
}

/// Related records are looked up by the index on their key, pages of them stop when they are full, and an order that an
/// index has is not sorted again: told by the server's own profile.
#[tokio::test]
async fn questions_read_no_more_than_they_must() {
    const OWNERS: usize = 300;
    const LINKS_EACH: usize = 4;
    let Some((store, scratch)) = fresh().await else {
        return;
    };
    store.migrate(&[&SAMPLE, &LINK]).await.unwrap();
    let ctx = fixtures::context();
    let mut writes = Vec::new();
    for n in 0..OWNERS {
        let id = fixtures::id();
        let record = Record::new(&SAMPLE)
            .with("label", "owner")
            .unwrap()
            .with("n", n as i64)
            .unwrap();
        writes.push(Write::insert(id, record));
        for at in 0..LINKS_EACH {
            let link = Record::new(&LINK)
                .with("sample_id", id)
                .unwrap()
                .with("kind", "order")
                .unwrap();
            let link = link.with("at", Timestamp::from_micros(at as i64)).unwrap();
            writes.push(Write::insert(fixtures::id(), link));
        }
    }
    store.apply(&ctx, &writes).await.unwrap();
    let raw = scratch.raw().await;
    raw.run_command(doc! { "profile": 2 }).await.unwrap();
    let links = Relation::new(&LINK, "sample_id");
    let regulars = Filter::at_least(2, links, Filter::ge("at", Timestamp::EPOCH));
    assert_eq!(
        store.count(&ctx, &SAMPLE, &regulars).await.unwrap() as usize,
        OWNERS
    );
    let page = Query::new(regulars.clone()).limit(10);
    assert_eq!(store.find(&ctx, &SAMPLE, &page).await.unwrap().items.len(), 10);
    let sorted = Query::new(Filter::All).ascending("n").limit(10);
    let first = store.find(&ctx, &SAMPLE, &sorted).await.unwrap();
    store
        .find(&ctx, &SAMPLE, &sorted.clone().after(first.next))
        .await
        .unwrap();
    let unsorted = Query::new(Filter::All).ascending("x").limit(10);
    store.find(&ctx, &SAMPLE, &unsorted).await.unwrap();
    raw.run_command(doc! { "profile": 0 }).await.unwrap();
    let told: Vec<Document> = raw
        .collection::<Document>("system.profile")
        .find(doc! { "command.aggregate": "kit_sample" })
        .sort(doc! { "ts": 1 })
        .await
        .unwrap()
        .try_collect()
        .await
        .unwrap();
    let number = |n: usize, what: &str| match told[n].get(what) {
        Some(Bson::Int32(n)) => *n as usize,
        Some(Bson::Int64(n)) => *n as usize,
        other => panic!("{other:?}"),
    };
    let examined = |n: usize| number(n, "docsExamined");
    let sorts = |n: usize| told[n].get_bool("hasSortStage").unwrap_or(false);
    assert_eq!(told.len(), 5);
    // Each owner, and three links of each: with three, "at least two" is decided.
    assert!(examined(0) <= OWNERS * 4, "{}", told[0]);
    // The server reads the first hundred records ahead, but looks up the links of a page's only.
    assert!(number(1, "keysExamined") <= 101 + 12 * 3, "{}", told[1]);
    assert!(!sorts(2) && examined(2) <= 12, "{}", told[2]);
    assert!(!sorts(3) && examined(3) <= 12, "{}", told[3]);
    // The control: an order that no index has.
    assert!(sorts(4) && examined(4) == OWNERS, "{}", told[4]);
}
