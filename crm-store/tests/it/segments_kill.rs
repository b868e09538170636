//! A process that changes customers and refreshes a segment is killed: feed, members and events still tell one story.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use crm_core::capability::RecordStore;
use crm_core::customer::{Draft, ExternalRef, Provenance};
use crm_core::query::Filter;
use crm_core::testkit::fixtures::Dice;
use crm_core::{Context, RandomIds, SystemClock, TenantId, Uuid};
use crm_store::changes::{ChangeLog, Entity, Op};
use crm_store::segments::{Budget, NewSegment};
use crm_store::{Customers, SqliteConfig, SqliteStore};
use sqlx::Row;

use crate::sqlite::raw;

const PATH: &str = "CRM_STORE_TEST_SEGMENTS";

fn ctx() -> Context {
    Context::new(TenantId::new("shop").unwrap())
}

/// Customers on the file, and the store that tells nobody.
async fn open(path: &str) -> (Customers, Arc<dyn RecordStore>) {
    let store: Arc<dyn RecordStore> = Arc::new(
        SqliteStore::open_file(path, SqliteConfig::default())
            .await
            .unwrap(),
    );
    let log = ChangeLog::new(store.clone(), SystemClock::shared(), RandomIds::shared());
    let feed = log.feed();
    let customers = Customers::new(Arc::new(log), SystemClock::shared(), RandomIds::shared()).with_feed(feed);
    customers.prepare().await.unwrap();
    (customers, store)
}

/// Changes customers and refreshes for ever. `torn` changes them without a word: what the oracle must catch.
async fn work(path: &str, torn: bool) {
    let (customers, silent) = open(path).await;
    let quiet = Customers::new(silent, SystemClock::shared(), RandomIds::shared());
    let (ctx, segments) = (ctx(), customers.segments());
    if segments.by_name(&ctx, "often").await.unwrap().is_none() {
        let rule = Filter::ge("attributes.visits", 5_i64);
        segments
            .create(&ctx, NewSegment::dynamic("often", rule))
            .await
            .unwrap();
    }
    let id = segments.by_name(&ctx, "often").await.unwrap().unwrap().id;
    segments
        .materialise(&ctx, id, std::time::Duration::from_secs(3_600))
        .await
        .unwrap();
    let mut dice = Dice::new(u64::from(std::process::id()));
    for n in 0_u64.. {
        let mut draft = Draft::new(Provenance::new("test", SystemClock::shared().now()));
        draft
            .external_refs
            .push(ExternalRef::new("test", dice.below(60).to_string()));
        draft.attributes.set("visits", dice.below(10) as i64).unwrap();
        if torn {
            quiet.upsert(&ctx, draft).await.unwrap();
        } else {
            customers.upsert(&ctx, draft).await.unwrap();
        }
        segments.refresh(&ctx, Budget::default()).await.unwrap();
        println!("ack {n}");
        std::io::stdout().flush().unwrap();
    }
}

fn spawn(test: &str, path: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(PATH, path)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap()
}

/// Reads the file without the store: how many customers' versions the feed does not know, and how many members the events
/// do not add up to.
async fn look(path: &Path) -> (usize, usize) {
    let mut raw = raw(path).await;
    let id = |row: &sqlx::sqlite::SqliteRow, at: usize| Uuid::from_slice(row.get::<&[u8], _>(at)).unwrap();
    let mut told: BTreeMap<Uuid, i64> = BTreeMap::new();
    let rows = sqlx::query("SELECT items FROM crm_change WHERE tenant = 'shop'")
        .fetch_all(&mut raw)
        .await
        .unwrap();
    for row in rows {
        let items: serde_json::Value = serde_json::from_str(row.get::<&str, _>(0)).unwrap();
        for item in items.as_array().unwrap() {
            if item[0] == "c" && (item[2] == "n" || item[2] == "u") {
                *told
                    .entry(item[1].as_str().unwrap().parse().unwrap())
                    .or_default() += 1;
            }
        }
    }
    let mut versions: BTreeMap<Uuid, i64> = BTreeMap::new();
    let rows = sqlx::query("SELECT id, version FROM crm_customer WHERE tenant = 'shop'")
        .fetch_all(&mut raw)
        .await
        .unwrap();
    for row in rows {
        versions.insert(id(&row, 0), row.get(1));
    }
    let unknown = versions
        .iter()
        .filter(|(id, version)| told.get(id) != Some(version))
        .count();
    let rows = sqlx::query(
        "SELECT count(*) FROM (\
           SELECT customer_id FROM crm_segment_event GROUP BY customer_id HAVING sum(delta) NOT IN (0, 1) \
           UNION SELECT customer_id FROM crm_segment_event GROUP BY customer_id HAVING sum(delta) = 1 \
             AND customer_id NOT IN (SELECT customer_id FROM crm_segment_member) \
           UNION SELECT customer_id FROM crm_segment_member m WHERE \
             (SELECT sum(delta) FROM crm_segment_event e WHERE e.customer_id = m.customer_id) IS NOT 1)",
    )
    .fetch_one(&mut raw)
    .await
    .unwrap();
    (unknown, rows.get::<i64, _>(0) as usize)
}

/// Kills a child `times` times and looks each time.
async fn storm(test: &str, times: usize) -> (usize, usize, std::path::PathBuf, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("crm.db");
    let mut dice = Dice::new(3);
    let (mut unknown, mut unbalanced) = (0, 0);
    for _ in 0..times {
        let mut child = spawn(test, &path);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let wanted = 2 + dice.below(12);
        let mut seen = 0;
        while seen < wanted {
            if lines
                .next()
                .expect("the child ended by itself")
                .unwrap()
                .starts_with("ack ")
            {
                seen += 1;
            }
        }
        std::thread::sleep(std::time::Duration::from_micros(dice.below(8_000) as u64));
        child.kill().unwrap();
        child.wait().unwrap();
        let found = look(&path).await;
        unknown += found.0;
        unbalanced += found.1;
    }
    (unknown, unbalanced, path, folder)
}

#[tokio::test]
async fn a_killed_refresh_leaves_no_gap() {
    if let Ok(path) = std::env::var(PATH) {
        return work(&path, false).await;
    }
    let test = "segments_kill::a_killed_refresh_leaves_no_gap";
    let (unknown, unbalanced, path, _folder) = storm(test, 20).await;
    assert_eq!(
        (unknown, unbalanced),
        (0, 0),
        "(not in the feed, events and members differ)"
    );
    // It goes on where it was, without looking at everybody again.
    let (customers, _) = open(path.to_str().unwrap()).await;
    let (ctx, segments) = (ctx(), customers.segments());
    let report = segments.refresh(&ctx, Budget::default()).await.unwrap();
    assert_eq!(report.full, 0);
    let id = segments.by_name(&ctx, "often").await.unwrap().unwrap().id;
    assert!(segments.check(&ctx, id).await.unwrap().is_clean());
    // The feed's own story: entered and left in turn.
    let (mut inside, mut cursor) = (std::collections::BTreeSet::new(), None);
    loop {
        let changes = customers
            .changes_since(&ctx, cursor.as_ref(), 1_000)
            .await
            .unwrap();
        if changes.items.is_empty() {
            break;
        }
        for change in changes.items {
            match (change.entity, change.op) {
                (Entity::Customer(who), Op::Entered(_)) => assert!(inside.insert(who)),
                (Entity::Customer(who), Op::Left(_)) => assert!(inside.remove(&who)),
                _ => {}
            }
        }
        cursor = Some(changes.next);
    }
    assert_eq!(inside.len() as u64, segments.count(&ctx, id).await.unwrap());
}

/// The negative control: changes that are not written with their announcement show.
#[tokio::test]
async fn the_oracle_sees_what_the_feed_does_not_say() {
    if let Ok(path) = std::env::var(PATH) {
        return work(&path, true).await;
    }
    let test = "segments_kill::the_oracle_sees_what_the_feed_does_not_say";
    let (unknown, _, _, _folder) = storm(test, 2).await;
    assert!(unknown > 0);
}
