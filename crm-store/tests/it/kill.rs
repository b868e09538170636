//! Processes that are killed: what was acknowledged is there, whole, and nothing else is half there.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use crm_core::activity::{Money, Order};
use crm_core::capability::RecordStore;
use crm_core::customer::{CONTACT_POINT, CUSTOMER, Draft, ExternalRef, Provenance};
use crm_core::record::{Entity, Record, Value, Write};
use crm_core::testkit::fixtures::Dice;
use crm_core::{Context, RandomIds, SystemClock, TenantId, Timestamp, Uuid};
use crm_store::customers::{Customers, ImportOptions, SCHEMAS};
use crm_store::{SqliteConfig, SqliteStore};
use sqlx::Row;

use crate::sqlite::raw;

const PATH: &str = "CRM_STORE_TEST_CHILD";
const MODE: &str = "CRM_STORE_TEST_MODE";

/// In a child process: the file it works on and how.
fn child() -> Option<(String, String)> {
    Some((std::env::var(PATH).ok()?, std::env::var(MODE).unwrap_or_default()))
}

/// Runs the named test of this binary in a process of its own.
fn spawn(test: &str, path: &Path, mode: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(PATH, path)
        .env(MODE, mode)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap()
}

fn ctx() -> Context {
    Context::new(TenantId::new("shop").unwrap())
}

/// A customer, an e-mail address and an order that belong together; the ids tell the number.
fn unit(n: u64) -> [Write; 3] {
    let id = |kind: u128| Uuid::from_u128(kind << 64 | u128::from(n));
    let now = Timestamp::from_micros(n as i64);
    let json = |text: &str| Value::Json(serde_json::from_str(text).unwrap());
    let profile = vec![
        "".into(),
        "".into(),
        format!("Person {n}").into(),
        Value::Null,
        Value::Null,
        Value::Null,
        json("[]"),
        json("[]"),
        json("{}"),
        json("[]"),
        now.into(),
        now.into(),
        Value::Null,
    ];
    let key = format!("email:p{n}@example.com");
    let point = vec![
        id(1).into(),
        "email".into(),
        format!("p{n}@example.com").into(),
        key.into(),
        true.into(),
        "unverified".into(),
        now.into(),
        Value::Null,
        Value::Null,
        Value::Null,
    ];
    let order = Order {
        id: id(3).into(),
        customer_id: id(1).into(),
        at: now,
        total: Money::new(100, "EUR").unwrap(),
        items: 1,
        source: "test".into(),
        event_id: n.to_string(),
    };
    [
        Write::insert(id(1), Record::from_values(&CUSTOMER, profile).unwrap()),
        Write::insert(id(2), Record::from_values(&CONTACT_POINT, point).unwrap()),
        Write::insert(id(3), order.to_record().unwrap()),
    ]
}

/// Stores units for ever and says so after each. `torn` stores each in three steps: what the oracle must catch.
async fn work(path: &str, mode: &str) {
    let store = SqliteStore::open_file(path, SqliteConfig::default())
        .await
        .unwrap();
    store.migrate(&SCHEMAS).await.unwrap();
    let done = store
        .count(&ctx(), &CUSTOMER, &crm_core::query::Filter::All)
        .await
        .unwrap();
    let base = done.max(u64::from(std::process::id()) << 20);
    for n in base.. {
        if mode == "torn" {
            for write in unit(n) {
                store.apply(&ctx(), &[write]).await.unwrap();
            }
        } else {
            store.apply(&ctx(), &unit(n)).await.unwrap();
        }
        println!("ack {n}");
        std::io::stdout().flush().unwrap();
    }
}

/// Reads the file without the store: (ids of customers, how many things belong to nothing or lack a part).
async fn look(path: &Path) -> (BTreeSet<u64>, i64) {
    let mut raw = raw(path).await;
    let check: String = sqlx::query("PRAGMA integrity_check")
        .fetch_one(&mut raw)
        .await
        .unwrap()
        .get(0);
    assert_eq!(check, "ok");
    let rows = sqlx::query("SELECT id FROM crm_customer WHERE tenant = 'shop'")
        .fetch_all(&mut raw)
        .await
        .unwrap();
    let there = rows
        .iter()
        .map(|row| Uuid::from_slice(row.get::<&[u8], _>(0)).unwrap().as_u128() as u64)
        .collect();
    let halves: i64 = sqlx::query(
        "SELECT (SELECT count(*) FROM crm_customer c WHERE NOT EXISTS (SELECT 1 FROM crm_order o WHERE o.customer_id = c.id) \
           OR NOT EXISTS (SELECT 1 FROM crm_contact_point p WHERE p.customer_id = c.id)) \
         + (SELECT count(*) FROM crm_order o WHERE NOT EXISTS (SELECT 1 FROM crm_customer c WHERE c.id = o.customer_id))",
    )
    .fetch_one(&mut raw)
    .await
    .unwrap()
    .get(0);
    (there, halves)
}

/// Kills a child `times` times; answers acknowledged units that are gone, and halves.
async fn storm(test: &str, mode: &str, times: usize) -> (usize, i64) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("crm.db");
    let mut dice = Dice::new(11);
    let mut acknowledged = BTreeSet::new();
    let mut halves = 0;
    for _ in 0..times {
        let mut child = spawn(test, &path, mode);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let wanted = 1 + dice.below(40);
        let mut seen = 0;
        while seen < wanted {
            let line = lines.next().expect("the child ended by itself").unwrap();
            if let Some(n) = line.strip_prefix("ack ") {
                acknowledged.insert(n.parse::<u64>().unwrap());
                seen += 1;
            }
        }
        std::thread::sleep(std::time::Duration::from_micros(dice.below(3000) as u64));
        child.kill().unwrap();
        child.wait().unwrap();
        // What it said before it died counts too.
        for line in lines.map_while(Result::ok) {
            acknowledged.extend(line.strip_prefix("ack ").and_then(|n| n.parse::<u64>().ok()));
        }
        halves += look(&path).await.1;
    }
    let there = look(&path).await.0;
    assert!(acknowledged.len() >= times);
    (acknowledged.difference(&there).count(), halves)
}

#[tokio::test]
async fn acknowledged_is_there_and_nothing_is_half() {
    if let Some((path, mode)) = child() {
        return work(&path, &mode).await;
    }
    let (lost, halves) = storm("kill::acknowledged_is_there_and_nothing_is_half", "whole", 20).await;
    assert_eq!((lost, halves), (0, 0), "(lost, halves)");
}

/// The negative control: three units of work instead of one must show as halves, or the oracle sees nothing.
#[tokio::test]
async fn the_oracle_sees_halves() {
    if let Some((path, mode)) = child() {
        return work(&path, &mode).await;
    }
    let (_, halves) = storm("kill::the_oracle_sees_halves", "torn", 20).await;
    assert!(halves > 0);
}

#[tokio::test]
async fn eight_processes_start_at_once() {
    if let Some((path, mode)) = child() {
        let config = SqliteConfig::default().wait(std::time::Duration::from_secs(30));
        let store = SqliteStore::open_file(&path, config).await.unwrap();
        store.migrate(&SCHEMAS).await.unwrap();
        store.apply(&ctx(), &unit(mode.parse().unwrap())).await.unwrap();
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("crm.db");
    let children: Vec<Child> = (0..8)
        .map(|n| spawn("kill::eight_processes_start_at_once", &path, &n.to_string()))
        .collect();
    for child in children {
        assert!(child.wait_with_output().unwrap().status.success());
    }
    let (there, halves) = look(&path).await;
    assert_eq!((there.len(), halves), (8, 0));
    let mut raw = raw(&path).await;
    let entries: i64 = sqlx::query("SELECT count(*) FROM crm_ledger")
        .fetch_one(&mut raw)
        .await
        .unwrap()
        .get(0);
    assert_eq!(entries as usize, SCHEMAS.len() + 1);
}

const PEOPLE: u64 = 15_000;

fn person(n: u64) -> Draft {
    let mut draft = Draft::new(
        Provenance::new("file", Timestamp::from_micros(5))
            .at("people.csv")
            .line(n + 2),
    );
    // Every tenth is the one before again; every fiftieth cannot be recognised.
    let who = if n % 10 == 9 { n - 1 } else { n };
    if n % 50 != 7 {
        draft
            .external_refs
            .push(ExternalRef::new("shop", who.to_string()));
    }
    draft.emails.push(if n % 50 == 7 {
        "nobody".into()
    } else {
        format!("p{who}@example.com")
    });
    draft
}

#[tokio::test]
async fn a_killed_import_goes_on_without_gap_or_duplicate() {
    async fn customers(path: &str) -> Customers {
        let store = SqliteStore::open_file(path, SqliteConfig::default())
            .await
            .unwrap();
        Customers::new(Arc::new(store), SystemClock::shared(), RandomIds::shared())
    }
    if let Some((path, _)) = child() {
        let options = ImportOptions::default().batch(100).on_progress(|report| {
            println!("ack {}", report.seen());
            std::io::stdout().flush().unwrap();
        });
        customers(&path)
            .await
            .import(&ctx(), "people", (0..PEOPLE).map(person), options)
            .await
            .unwrap();
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("crm.db");
    let mut dice = Dice::new(5);
    let mut last = 0;
    let mut kills = 0;
    loop {
        let mut child = spawn(
            "kill::a_killed_import_goes_on_without_gap_or_duplicate",
            &path,
            "",
        );
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let patience = if kills < 10 { 1 + dice.below(2) } else { usize::MAX };
        let mut units = 0;
        while units < patience {
            let Some(Ok(line)) = lines.next() else { break };
            if let Some(seen) = line.strip_prefix("ack ") {
                let seen: u64 = seen.parse().unwrap();
                assert!(seen > last, "it went back: {last} -> {seen}");
                last = seen;
                units += 1;
            }
        }
        if units == patience {
            std::thread::sleep(std::time::Duration::from_micros(dice.below(5_000) as u64));
            child.kill().unwrap();
            kills += 1;
            for line in lines.map_while(Result::ok) {
                if let Some(seen) = line.strip_prefix("ack ") {
                    last = seen.parse().unwrap();
                }
            }
            child.wait().unwrap();
        } else {
            assert!(child.wait().unwrap().success());
            break;
        }
    }
    assert!(
        kills >= 5,
        "only {kills} kills: the import was over too soon to test anything"
    );
    let path = path.to_str().unwrap();
    let job = customers(path)
        .await
        .job(&ctx(), "people")
        .await
        .unwrap()
        .unwrap();
    let nobody = PEOPLE / 50;
    let again = (0..PEOPLE).filter(|n| n % 10 == 9 && n % 50 != 7).count() as u64;
    assert_eq!(
        (
            job.report.created,
            job.report.unchanged,
            job.report.rejected,
            job.report.updated
        ),
        (PEOPLE - nobody - again, again, nobody, 0)
    );
    let mut raw = raw(Path::new(path)).await;
    for (sql, wanted) in [
        ("SELECT count(*) FROM crm_customer", job.report.created),
        (
            "SELECT count(DISTINCT external_id) FROM crm_external_ref",
            job.report.created,
        ),
        (
            "SELECT count(DISTINCT match_key) FROM crm_contact_point",
            job.report.created,
        ),
        ("SELECT count(*) FROM crm_import_reject", nobody),
    ] {
        let found: i64 = sqlx::query(sql).fetch_one(&mut raw).await.unwrap().get(0);
        assert_eq!(found as u64, wanted, "{sql}");
    }
}
