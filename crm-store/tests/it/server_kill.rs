//! Database servers that are killed while callers write: what was acknowledged is there, every unit of work is whole or
//! absent, and the same store goes on when the server is back. The servers are this module's own; the controls write torn,
//! or past the store on settings that it refuses or mends.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crm_core::capability::RecordStore;
use crm_core::record::{Field, FieldType, Index, Record, Schema, Write};
use crm_core::testkit::fixtures::{self, Dice};
use crm_core::{Error, ErrorKind, Result};
use crm_store::{MysqlStore, PostgresStore};
use tokio::sync::mpsc;

use crate::own_server::{Kind, PATIENCE, Server, succeeded};
use crate::stores::skipped;

static PAIR: Schema = Schema {
    name: "pair",
    fields: &[
        Field::new("name", FieldType::Text),
        Field::new("side", FieldType::Text),
    ],
    indexes: &[Index::unique("pair_side", &["name", "side"])],
};

/// How often a server is killed; each costs a start of some seconds. `OPEN_CRM_TEST_KILLS` sets another number.
const KILLS: usize = 5;
/// Writers at the same time, and how many units they have to store before the next kill.
const WRITERS: usize = 8;
const UNITS: usize = 100;

/// A server of this test alone; says so when its programs are not installed.
async fn started(kind: Kind, weak: bool) -> Option<Server> {
    match Server::start(kind, weak).await {
        Ok(server) => Some(server),
        Err(why) => {
            skipped(&why);
            None
        }
    }
}

/// The names of which each side is there.
fn sides(server: &Server) -> [BTreeSet<String>; 2] {
    let out = server.ask("crm", "SELECT side, name FROM pair");
    succeeded(&out);
    let said = String::from_utf8(out.stdout).unwrap();
    ["left", "right"].map(|side| {
        let rows = said.lines().filter_map(|line| line.split_once('\t'));
        rows.filter(|row| row.0 == side)
            .map(|row| row.1.to_owned())
            .collect()
    })
}

async fn open(server: &Server) -> Result<Arc<dyn RecordStore>> {
    let url = server.url();
    Ok(match server.kind {
        Kind::Mariadb => Arc::new(MysqlStore::open_url(&url).await?),
        Kind::Postgres => Arc::new(PostgresStore::open_url(&url).await?),
    })
}

/// How pairs are written.
#[derive(Clone)]
enum Way {
    /// By the store, in one unit of work.
    Whole(Arc<dyn RecordStore>),
    /// By the store, in two, one after the other: the control, which shows as halves.
    Torn(Arc<dyn RecordStore>),
    /// By the driver on a weak server: the control, which shows as losses.
    CarelessMysql(sqlx::MySqlPool),
    CarelessPostgres(sqlx::PgPool),
}

impl Way {
    async fn write(&self, name: &str) -> Result<()> {
        let ctx = fixtures::context();
        let both = ["left", "right"].map(|side| {
            let values = vec![name.into(), side.into()];
            Write::insert(fixtures::id(), Record::from_values(&PAIR, values).unwrap())
        });
        let lost = |_| Error::new(ErrorKind::Unavailable, "not written");
        match self {
            Self::Whole(store) => store.apply(&ctx, &both).await.map(drop),
            Self::Torn(store) => {
                store.apply(&ctx, &both[..1]).await?;
                store.apply(&ctx, &both[1..]).await.map(drop)
            }
            Self::CarelessMysql(pool) => {
                let sql = "INSERT INTO pair (side, name) VALUES ('left', ?), ('right', ?)";
                let insert = sqlx::query(sql).bind(name).bind(name);
                insert.execute(pool).await.map(drop).map_err(lost)
            }
            Self::CarelessPostgres(pool) => {
                let sql = "INSERT INTO pair (side, name) VALUES ('left', $1), ('right', $1)";
                let insert = sqlx::query(sql).bind(name);
                insert.execute(pool).await.map(drop).map_err(lost)
            }
        }
    }
}

/// Writes until told to stop, through every end of the server; tells what was acknowledged.
async fn writer(way: Way, number: usize, told: mpsc::UnboundedSender<String>, stop: Arc<AtomicBool>) {
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let name = format!("{number}-{n}");
        match way.write(&name).await {
            Ok(()) => told.send(name).unwrap(),
            Err(error) => {
                let typed = matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout);
                assert!(typed, "{error:?}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

/// What a storm left: names that were acknowledged, those of them that are gone, and names of which one side is there.
struct Found {
    acknowledged: usize,
    lost: usize,
    halves: usize,
}

/// Kills the server `kills` times while callers write.
async fn storm(server: &mut Server, way: Way, kills: usize) -> Found {
    let (told, mut heard) = mpsc::unbounded_channel();
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = tokio::task::JoinSet::new();
    for number in 0..WRITERS {
        writers.spawn(writer(way.clone(), number, told.clone(), stop.clone()));
    }
    drop(told);
    let mut dice = Dice::new(17);
    let mut acknowledged = BTreeSet::new();
    // The same store works after each end of the server as before, the last included.
    for round in 0..=kills {
        for _ in 0..UNITS {
            let name = tokio::time::timeout(PATIENCE, heard.recv()).await;
            let name = name.unwrap_or_else(|_| panic!("nothing is stored after {round} kills"));
            acknowledged.insert(name.expect("the writers ended by themselves"));
        }
        if round < kills {
            tokio::time::sleep(Duration::from_millis(dice.below(40) as u64)).await;
            server.kill();
            server.up().await;
            // What was acknowledged before its end does not show that the store works after it.
            while let Ok(name) = heard.try_recv() {
                acknowledged.insert(name);
            }
        }
    }
    stop.store(true, Ordering::Relaxed);
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
    while let Some(name) = heard.recv().await {
        acknowledged.insert(name);
    }
    let [left, right] = sides(server);
    let gone = |name: &&String| !(left.contains(*name) && right.contains(*name));
    Found {
        acknowledged: acknowledged.len(),
        lost: acknowledged.iter().filter(gone).count(),
        halves: left.symmetric_difference(&right).count(),
    }
}

/// Where a session can ask for more than the server's default, as in PostgreSQL, the server starts with a weak one: the
/// store has to ask. MariaDB's setting is the server's alone.
fn default_is_weak(kind: Kind) -> bool {
    kind == Kind::Postgres
}

async fn nothing_is_lost(kind: Kind) {
    let kills = std::env::var("OPEN_CRM_TEST_KILLS").map_or(KILLS, |text| text.parse().unwrap());
    let Some(mut server) = started(kind, default_is_weak(kind)).await else {
        return;
    };
    let store = open(&server).await.unwrap();
    assert!(store.capability().durable);
    store.migrate(&[&PAIR]).await.unwrap();
    let found = storm(&mut server, Way::Whole(store), kills).await;
    println!("{kills} kills, {} acknowledged units", found.acknowledged);
    assert!(found.acknowledged > kills * UNITS);
    assert_eq!((found.lost, found.halves), (0, 0), "(lost, halves)");
}

/// The negative control: pairs stored in two units show as halves, and a server that answers before it writes loses.
async fn the_oracle_sees(kind: Kind) {
    let Some(mut server) = started(kind, default_is_weak(kind)).await else {
        return;
    };
    let store = open(&server).await.unwrap();
    store.migrate(&[&PAIR]).await.unwrap();
    let torn = storm(&mut server, Way::Torn(store), 2).await;
    assert!(torn.halves > 0, "none of {} is half", torn.acknowledged);

    server.kill();
    server.weak = true;
    server.up().await;
    succeeded(&server.ask("crm", "DROP TABLE pair"));
    succeeded(&server.ask(
        "crm",
        "CREATE TABLE pair (side varchar(9) NOT NULL, name varchar(99) NOT NULL, PRIMARY KEY (name, side))",
    ));
    let url = server.url();
    let careless = match kind {
        Kind::Mariadb => {
            let error = open(&server).await.unwrap_err();
            let setting = Some("innodb_flush_log_at_trx_commit");
            assert_eq!(
                (error.kind(), error.context("setting")),
                (ErrorKind::Config, setting)
            );
            Way::CarelessMysql(sqlx::MySqlPool::connect(&url).await.unwrap())
        }
        Kind::Postgres => Way::CarelessPostgres(sqlx::PgPool::connect(&url).await.unwrap()),
    };
    let careless = storm(&mut server, careless, 3).await;
    assert!(careless.lost > 0, "none of {} is lost", careless.acknowledged);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_mariadb_has_what_it_acknowledged() {
    nothing_is_lost(Kind::Mariadb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_oracle_sees_what_mariadb_loses() {
    the_oracle_sees(Kind::Mariadb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_postgres_has_what_it_acknowledged() {
    nothing_is_lost(Kind::Postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_oracle_sees_what_postgres_loses() {
    the_oracle_sees(Kind::Postgres).await;
}
