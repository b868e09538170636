//! A process in which 64 callers share commits is killed: what each was told is there, and every unit of work is whole.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write as _};
use std::sync::Arc;
use std::time::Duration;

use crm_core::capability::RecordStore;
use crm_core::record::{Field, FieldType, Record, Schema, Write};
use crm_core::testkit::fixtures::{self, Dice};
use crm_store::{SqliteConfig, SqliteStore};

use crate::child::{armed, number, role, sound, spawn, sqlite3};
use crate::sqlite_group::commits;

static PART: Schema = Schema {
    name: "part",
    fields: &[
        Field::new("name", FieldType::Text),
        Field::new("side", FieldType::Text),
    ],
    indexes: &[],
};

const CALLERS: usize = 64;

/// Units of two records and of one, for ever, by 64 callers; says so after each. The controls: `torn` stores the two in
/// two units, `early` says so before.
async fn work(path: &str, role: &str) {
    let (way, round) = role.split_once(' ').unwrap();
    let config = SqliteConfig::default().wait(Duration::from_secs(60));
    let store = Arc::new(SqliteStore::open_file(path, config).await.unwrap());
    store.migrate(&[&PART]).await.unwrap();
    let ctx = fixtures::context();
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..CALLERS {
        let (store, ctx) = (store.clone(), ctx.clone());
        let (torn, early, round) = (way == "torn", way == "early", round.to_owned());
        callers.spawn(async move {
            for n in 0.. {
                let name = format!("{round}-{caller}-{n}");
                let sides: &[&str] = if n % 3 == 2 {
                    &["alone"]
                } else {
                    &["left", "right"]
                };
                let unit: Vec<Write> = sides
                    .iter()
                    .map(|side| vec![name.as_str().into(), (*side).into()])
                    .map(|values| Record::from_values(&PART, values).unwrap())
                    .map(|record| Write::insert(fixtures::id(), record))
                    .collect();
                let tell = || {
                    println!("ack {name} {}", sides.join(" "));
                    std::io::stdout().flush().unwrap();
                };
                if early {
                    tell();
                }
                for part in unit.chunks(if torn { 1 } else { 2 }) {
                    store.apply(&ctx, part).await.unwrap();
                    if torn {
                        // Else all callers are at the same half, in one commit.
                        tokio::time::sleep(Duration::from_millis(caller as u64 % 8)).await;
                    }
                }
                if !early {
                    tell();
                }
            }
        });
    }
    while let Some(ended) = callers.join_next().await {
        ended.unwrap();
    }
}

/// What a storm left.
#[derive(Default)]
struct Found {
    /// Units that were acknowledged.
    units: usize,
    /// Records of these that are gone.
    lost: usize,
    /// Names of which one side is there.
    halves: i64,
    /// Commits that brought them.
    commits: usize,
}

/// Kills a child up to `kills` times, until something is not as it was told.
fn storm(test: &str, way: &str, kills: usize) -> Found {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("crm.db");
    let mut dice = Dice::new(23);
    let mut found = Found::default();
    let mut acknowledged = BTreeSet::new();
    for round in 0..kills {
        let mut child = spawn(test, &path, &format!("{way} {round}"));
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let wanted = acknowledged.len() + 100 + dice.below(400);
        let mut hear = |line: &str| {
            // The runner's own words may stand before the first.
            if let Some((_, said)) = line.split_once("ack ") {
                let (name, sides) = said.split_once(' ').unwrap();
                acknowledged.extend(sides.split(' ').map(|side| format!("{name}|{side}")));
                found.units += 1;
            }
            acknowledged.len()
        };
        while hear(&lines.next().expect("the child ended by itself").unwrap()) < wanted {}
        std::thread::sleep(Duration::from_micros(dice.below(5_000) as u64));
        child.kill().unwrap();
        child.wait().unwrap();
        // What it said before it died counts too.
        for line in lines.map_while(Result::ok) {
            hear(&line);
        }
        // Before anybody reads the file, and so brings its log into it.
        found.commits += commits(&path);
        sound(&path);
        let there: BTreeSet<String> = sqlite3(&path, "SELECT name, side FROM part")
            .into_iter()
            .collect();
        found.lost = acknowledged.difference(&there).count();
        found.halves = number(
            &path,
            "SELECT count(*) FROM (SELECT name FROM part WHERE side <> 'alone' GROUP BY name HAVING count(*) <> 2)",
        );
        if (found.lost, found.halves) != (0, 0) {
            break;
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_is_there_and_nothing_is_half() {
    if let Some((path, role)) = role() {
        return work(&path, &role).await;
    }
    if !armed() {
        return;
    }
    let found = storm(
        "group_kill::acknowledged_is_there_and_nothing_is_half",
        "whole",
        20,
    );
    println!("{} units in {} commits", found.units, found.commits);
    assert_eq!((found.lost, found.halves), (0, 0), "(lost, halves)");
    assert!(
        found.commits < found.units,
        "{} commits of {} units: nobody shared one",
        found.commits,
        found.units
    );
}

/// The negative control: two units instead of one show as halves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_oracle_sees_halves() {
    if let Some((path, role)) = role() {
        return work(&path, &role).await;
    }
    if armed() {
        assert!(storm("group_kill::the_oracle_sees_halves", "torn", 40).halves > 0);
    }
}

/// The negative control: what is acknowledged before it is stored shows as lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_oracle_sees_losses() {
    if let Some((path, role)) = role() {
        return work(&path, &role).await;
    }
    if armed() {
        assert!(storm("group_kill::the_oracle_sees_losses", "early", 40).lost > 0);
    }
}
