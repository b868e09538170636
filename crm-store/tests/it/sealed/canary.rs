//! ENC-1: what is personal is nowhere in clear. Databases are read by their own drivers, files byte by byte; the same
//! search over a store without encryption finds everything.

use std::path::Path;
use std::sync::Arc;

use crm_core::activity::Money;
use crm_core::capability::{
    Delivery, DraftSink as _, OriginalKind, Originals, RecordStore, Reject, RejectKind,
};
use crm_core::customer::{
    ContactKind, Draft, ExternalRef, InteractionDraft, OrderDraft, PersonName, PostalAddress, Provenance,
};
use crm_core::testkit::fixtures;
use crm_core::{Context, RandomIds, SystemClock, Timestamp};
use crm_store::customers::{Customers, Events, ImportOptions, MergeRules};
use crm_store::{SqliteConfig, SqliteStore};

use super::people;

const PEOPLE: usize = 100;

/// A word that stands nowhere else: of a person and a field.
fn canary(person: usize, field: &str) -> String {
    format!("Qz{person:04}{field}x")
}

/// What is looked for: words of each person in twelve fields.
fn canaries() -> Vec<String> {
    let fields = [
        "Given", "Family", "City", "Region", "Street", "Tag", "Attr", "Data", "Cell",
    ];
    (0..PEOPLE)
        .flat_map(|person| {
            let words = fields.iter().map(move |field| canary(person, field));
            words.chain([
                format!("qz{person:04}mail"),
                format!("+4930123{person:05}"),
                // The same as it stands without the sign, and in a key.
                format!("4930123{person:05}"),
            ])
        })
        .collect()
}

fn draft(person: usize) -> Draft {
    let mut draft = Draft::new(Provenance::new("canary", Timestamp::EPOCH).at("list.csv").line(2));
    draft.name = Some(PersonName::new(
        &canary(person, "Given"),
        &canary(person, "Family"),
    ));
    draft.emails.push(format!("qz{person:04}mail@example.org"));
    draft.phones.push(format!("+49 30 123{person:05}"));
    draft.addresses.push(PostalAddress {
        lines: vec![canary(person, "Street")],
        city: canary(person, "City"),
        region: canary(person, "Region"),
        ..PostalAddress::default()
    });
    draft.tags.push(canary(person, "Tag"));
    draft.attributes.set("plan", canary(person, "Attr")).unwrap();
    draft
        .external_refs
        .push(ExternalRef::new("canary", person.to_string()));
    draft
}

/// Customers with everything personal that there is.
async fn fill(store: Arc<dyn RecordStore>, ctx: &Context) {
    let clock = SystemClock::shared();
    let customers = Customers::new(store, clock, RandomIds::shared());
    customers.prepare().await.unwrap();
    for person in 0..PEOPLE {
        let id = customers.upsert(ctx, draft(person)).await.unwrap().id;
        let mut visit = InteractionDraft {
            event_id: format!("v{person}"),
            at: Timestamp::EPOCH,
            kind: "visit".into(),
            data: Default::default(),
        };
        visit.data.set("page", canary(person, "Data")).unwrap();
        let order = OrderDraft {
            event_id: format!("o{person}"),
            at: Timestamp::EPOCH,
            total: Money::new(100, "EUR").unwrap(),
            items: 1,
        };
        let events = Events {
            interactions: vec![visit],
            orders: vec![order],
        };
        customers.append(ctx, id, "canary", events).await.unwrap();
    }
    // Some come back changed with a list, whose journal keeps what they were, and rows of it that were no good: there are
    // old versions in logs and free pages, too.
    let changed = (0..10).map(|person| {
        let mut again = draft(person);
        again.tags.push("changed".to_owned());
        again
    });
    let options = ImportOptions::default();
    let report = customers
        .import(ctx, "list", changed.collect::<Vec<_>>(), options)
        .await
        .unwrap();
    assert_eq!(report.updated, 10);
    let mut sink = customers
        .sink(ctx, "rejects", ImportOptions::default())
        .await
        .unwrap();
    let line = |person: usize| person as u64 + 2;
    sink.deliver(Delivery {
        rejects: (0..PEOPLE)
            .map(|person| Reject {
                kind: RejectKind::Invalid,
                place: "list.csv".into(),
                line: Some(line(person)),
                field: Some("email".into()),
                reason: "not an address".into(),
            })
            .collect(),
        originals: Originals {
            kind: OriginalKind::Cells,
            columns: vec!["name".into()],
            rows: (0..PEOPLE)
                .map(|person| (line(person), vec![canary(person, "Cell")]))
                .collect(),
        },
        ..Delivery::default()
    })
    .await
    .unwrap();
    sink.finish().await.unwrap();
    // And two are one: the images of a merge.
    let point = |person: usize| format!("qz{person:04}mail@example.org");
    let mut same = Vec::new();
    for person in [20, 21] {
        let found = customers
            .by_contact(ctx, ContactKind::Email, &point(person))
            .await;
        same.push(found.unwrap().unwrap().id);
    }
    let merges = customers.merge();
    let plan = merges.plan(ctx, same[0], &same[1..], MergeRules::default()).await;
    merges.apply(ctx, &plan.unwrap()).await.unwrap();
}

/// Which of the words are in these bytes, in clear or in hexadecimal.
fn found(bytes: &[u8]) -> Vec<String> {
    let hay = bytes.to_ascii_lowercase();
    // One pass over what is long: every word begins so.
    let hex = |text: &str| text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
    let contains = |needle: &[u8]| hay.windows(needle.len()).any(|window| window == needle);
    let possible = ["qz0", "4930123", &hex("qz0"), &hex("Qz0"), &hex("4930123")];
    if !possible.iter().any(|start| contains(start.as_bytes())) {
        return Vec::new();
    }
    let text = String::from_utf8_lossy(&hay);
    canaries()
        .into_iter()
        .filter(|word| text.contains(&word.to_lowercase()) || text.contains(&hex(word)))
        .collect()
}

fn files(folder: &Path) -> Vec<u8> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        all.extend(std::fs::read(entry.unwrap().path()).unwrap());
        all.push(0);
    }
    all
}

#[tokio::test]
async fn enc_1_no_canary_in_sqlites_files() {
    let run = async |sealed: bool| {
        let folder = tempfile::tempdir().unwrap();
        let file = SqliteStore::open_file(folder.path().join("crm.db"), SqliteConfig::default())
            .await
            .unwrap();
        let file: Arc<dyn RecordStore> = Arc::new(file);
        let ctx = fixtures::context();
        fill(
            if sealed {
                people(file.clone())
            } else {
                file.clone()
            },
            &ctx,
        )
        .await;
        // The database, its write-ahead log and the index of that, while they are in use.
        assert!(folder.path().join("crm.db-wal").exists());
        found(&files(folder.path()))
    };
    let leaked = run(true).await;
    assert!(
        leaked.is_empty(),
        "{} words in clear: {:?}",
        leaked.len(),
        leaked.first()
    );
    assert_eq!(
        run(false).await.len(),
        canaries().len(),
        "the control: without encryption every word is found"
    );
}

/// Every column of every table of a place, as its server tells them to somebody else.
#[cfg(all(feature = "mysql", feature = "postgres"))]
mod servers {
    use crm_store::{MysqlConfig, PostgresConfig};
    use sqlx::{AssertSqlSafe, Connection as _, Row as _, SqlSafeStr as _};

    use super::*;
    use crate::own::Own;

    async fn mysql_dump(own: &Own) -> Vec<u8> {
        let mut connection = sqlx::MySqlConnection::connect(&own.url).await.unwrap();
        let columns = sqlx::query(
            "SELECT CAST(table_name AS CHAR) AS t, CAST(column_name AS CHAR) AS c FROM information_schema.columns \
             WHERE table_schema = ?",
        )
        .bind(&own.name)
        .fetch_all(&mut connection)
        .await
        .unwrap();
        let mut dump = Vec::new();
        for column in columns {
            let (table, column): (String, String) = (column.get("t"), column.get("c"));
            let sql = format!("SELECT HEX(`{column}`) AS h FROM `{table}`");
            let sql = sqlx::raw_sql(AssertSqlSafe(sql).into_sql_str());
            for row in sql.fetch_all(&mut connection).await.unwrap() {
                dump.extend(row.get::<Option<String>, _>("h").unwrap_or_default().into_bytes());
                dump.push(b' ');
            }
        }
        dump
    }

    async fn postgres_dump(own: &Own) -> Vec<u8> {
        let mut connection = sqlx::PgConnection::connect(&own.url).await.unwrap();
        let tables = sqlx::query(
            "SELECT table_name::text AS t FROM information_schema.tables WHERE table_schema = $1",
        )
        .bind(&own.name)
        .fetch_all(&mut connection)
        .await
        .unwrap();
        let mut dump = Vec::new();
        for table in tables {
            let sql = format!(
                "SELECT r::text AS h FROM {}.{} AS r",
                own.name,
                table.get::<String, _>("t")
            );
            let sql = sqlx::raw_sql(AssertSqlSafe(sql).into_sql_str());
            for row in sql.fetch_all(&mut connection).await.unwrap() {
                dump.extend(row.get::<String, _>("h").into_bytes());
                dump.push(b' ');
            }
        }
        dump
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn enc_1_no_canary_in_mariadb() {
        for sealed in [true, false] {
            let Some(own) = Own::mysql().await else { return };
            let store: Arc<dyn RecordStore> = Arc::new(own.open_mysql(MysqlConfig::default()).await);
            let ctx = fixtures::context();
            fill(if sealed { people(store) } else { store }, &ctx).await;
            let words = found(&mysql_dump(&own).await);
            if sealed {
                assert!(
                    words.is_empty(),
                    "{} words in clear: {:?}",
                    words.len(),
                    words.first()
                );
            } else {
                assert_eq!(words.len(), canaries().len(), "the control");
            }
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn enc_1_no_canary_in_postgresql() {
        for sealed in [true, false] {
            let Some(own) = Own::postgres().await else { return };
            let store: Arc<dyn RecordStore> = Arc::new(own.open_postgres(PostgresConfig::default()).await);
            let ctx = fixtures::context();
            fill(if sealed { people(store) } else { store }, &ctx).await;
            let words = found(&postgres_dump(&own).await);
            if sealed {
                assert!(
                    words.is_empty(),
                    "{} words in clear: {:?}",
                    words.len(),
                    words.first()
                );
            } else {
                assert_eq!(words.len(), canaries().len(), "the control");
            }
        }
    }
}

#[cfg(feature = "mongodb")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn enc_1_no_canary_in_mongodb() {
    use mongodb::bson::{Document, RawDocumentBuf};
    for sealed in [true, false] {
        let Some((store, scratch)) = crate::mongo::fresh().await else {
            return;
        };
        let ctx = fixtures::context();
        fill(if sealed { people(store) } else { store }, &ctx).await;
        let raw = scratch.raw().await;
        let (mut dump, mut documents) = (Vec::new(), 0);
        for name in raw.list_collection_names().await.unwrap() {
            let all = raw.collection::<RawDocumentBuf>(&name);
            let mut cursor = all.find(Document::new()).await.unwrap();
            while cursor.advance().await.unwrap() {
                dump.extend_from_slice(cursor.current().as_bytes());
                documents += 1;
            }
        }
        let words = found(&dump);
        if sealed {
            assert!(
                words.is_empty(),
                "{} words in clear: {:?}",
                words.len(),
                words.first()
            );
            assert!(documents > 2 * PEOPLE, "{documents}");
        } else {
            assert_eq!(words.len(), canaries().len(), "the control");
        }
    }
}
