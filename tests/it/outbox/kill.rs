//! Workers that are killed, and database servers that are killed under them.

use std::collections::BTreeMap;
use std::process::Child;
use std::time::Duration;

use super::own_server::{Kind, Server};
use super::sink::Sink;
use super::worker::{CONCURRENCY, fill, start};
use super::{Place, skipped, table};

/// How a storm goes.
struct Storm {
    messages: usize,
    workers: usize,
    /// How often one of the workers is killed, evenly over the messages.
    kills: usize,
    /// How often the database server is killed, between the others.
    server_kills: usize,
}

/// Kills workers again and again while they send, starting another one each time, and the database server too, until there
/// is nothing left to do; then stops them.
async fn storm(place: &Place, sink: &Sink, role: &str, storm: &Storm, mut server: Option<&mut Server>) {
    let mut workers: Vec<Child> = (0..storm.workers).map(|_| start(place, role, &sink.at)).collect();
    let blows = storm.kills + storm.server_kills;
    for blow in 0..blows {
        // It goes by what has arrived, so that every blow hits while they work.
        let when = storm.messages * (blow + 1) / (blows + 2);
        let mut patience = 4000;
        while sink.count() < when {
            assert!(patience > 0, "{} of {when} messages came", sink.count());
            tokio::time::sleep(Duration::from_millis(25)).await;
            patience -= 1;
        }
        let every = blows / storm.server_kills.max(1);
        match &mut server {
            Some(server) if blow % every == every / 2 && blow / every < storm.server_kills => {
                server.kill();
                server.up().await;
            }
            _ => {
                let n = blow % workers.len();
                let ended = workers[n].try_wait().unwrap();
                assert!(ended.is_none(), "a worker gave up by itself: {ended:?}");
                workers[n].kill().unwrap(); // SIGKILL
                workers[n].wait().unwrap();
                workers[n] = start(place, role, &sink.at);
            }
        }
    }
    let open = format!(
        "select count(*) from {} where tenant = $tenant and state in ('queued', 'leased')",
        table()
    );
    let mut patience = 1000;
    while place.ask(&open) != ["0"] {
        assert!(patience > 0, "not done: {:?}", place.ask(&open));
        tokio::time::sleep(Duration::from_millis(100)).await;
        patience -= 1;
    }
    for mut worker in workers {
        let forgets = role == "forgetful";
        if forgets {
            worker.kill().unwrap();
        }
        drop(worker.stdin.take());
        let ended = worker.wait().unwrap();
        assert!(forgets || ended.success(), "a worker gave up: {ended}");
    }
}

/// What the database says about a message.
struct Told {
    state: String,
    marketing: bool,
    crashes: i64,
}

/// What the database says about each message, by its id without hyphens.
fn told(place: &Place) -> BTreeMap<String, Told> {
    let (id, purpose) = (place.hex("id"), place.text("purpose"));
    let sql = format!(
        "select {id}, state, case when {purpose} like '%marketing%' then 1 else 0 end, crash_count from {} where tenant = $tenant",
        table()
    );
    let told = |row: &String| {
        let columns: Vec<&str> = row.split('\t').collect();
        let told = Told {
            state: columns[1].to_owned(),
            marketing: columns[2] == "1",
            crashes: columns[3].parse().unwrap(),
        };
        (columns[0].to_owned(), told)
    };
    place.ask(&sql).iter().map(told).collect()
}

/// Every message has one end, nothing is lost, and at most what was in the hands of those who died is there twice or in
/// doubt.
async fn nothing_is_lost(place: Place, plan: Storm, server: Option<&mut Server>) {
    let Some(sink) = Sink::start() else {
        return;
    };
    let ids = fill(&place, plan.messages, true).await;
    storm(&place, &sink, "worker", &plan, server).await;

    let (told, mails) = (told(&place), sink.mails());
    assert_eq!(told.len(), ids.len());
    let of = |wanted: &str| told.values().filter(|told| told.state == wanted).count();
    let (sent, unknown) = (of("sent"), of("unknown"));
    assert_eq!(sent + unknown, ids.len(), "every message has one end");
    for (id, told) in &told {
        let times = mails.get(id).copied().unwrap_or(0);
        if told.state == "sent" {
            assert!(
                times >= 1,
                "{id} is said to be sent, but the sink does not have it"
            );
        } else {
            // What may be repeated is left in doubt only when it seems to have taken three workers down.
            assert!(
                told.marketing || told.crashes >= 3,
                "{id}: {} crashes",
                told.crashes
            );
        }
        if told.marketing {
            assert!(times <= 1, "{id} was sent {times} times");
        }
    }
    assert!(mails.keys().all(|id| told.contains_key(id)));
    let doubled: usize = mails.values().map(|times| times - 1).sum();
    // A server that dies may leave everything in doubt that all workers have in hand.
    let most = (plan.kills + plan.server_kills * plan.workers) * CONCURRENCY;
    assert!(
        doubled <= most && unknown <= most,
        "{} messages, {} kills, {} of the server: {doubled} twice, {unknown} in doubt, {most} may be",
        ids.len(),
        plan.kills,
        plan.server_kills
    );
    // The kills hit: somebody died with messages, and others took them over.
    let rescued = told.values().filter(|told| told.crashes > 0).count();
    assert!(rescued + unknown > 0, "no kill hit");
}

/// A server of the test's own, and a place on it.
async fn own(kind: Kind) -> Option<(Server, Place)> {
    match Server::start(kind, false).await {
        Ok(server) => {
            let place = Place::new(&server.url());
            Some((server, place))
        }
        Err(why) => {
            skipped(&why);
            None
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_workers_and_postgres_lose_nothing_and_double_only_what_was_in_their_hands() {
    let Some((mut server, place)) = own(Kind::Postgres).await else {
        return;
    };
    let plan = Storm {
        messages: 3000,
        workers: 4,
        kills: 30,
        server_kills: 3,
    };
    nothing_is_lost(place, plan, Some(&mut server)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_workers_and_mariadb_lose_nothing_and_double_only_what_was_in_their_hands() {
    let Some((mut server, place)) = own(Kind::Mariadb).await else {
        return;
    };
    let plan = Storm {
        messages: 1500,
        workers: 3,
        kills: 8,
        server_kills: 2,
    };
    nothing_is_lost(place, plan, Some(&mut server)).await;
}

/// A file has one process at a time, with many tasks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_worker_on_sqlite_loses_nothing_and_doubles_only_what_was_in_its_hands() {
    let folder = tempfile::tempdir().unwrap();
    let plan = Storm {
        messages: 2000,
        workers: 1,
        kills: 10,
        server_kills: 0,
    };
    nothing_is_lost(Place::file(folder.path()), plan, None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_says_sent_first_loses_messages_and_that_shows() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::file(folder.path());
    let Some(sink) = Sink::start() else {
        return;
    };
    fill(&place, 1500, false).await;
    let plan = Storm {
        messages: 1500,
        workers: 1,
        kills: 6,
        server_kills: 0,
    };
    storm(&place, &sink, "forgetful", &plan, None).await;
    let (told, mails) = (told(&place), sink.mails());
    let lost = told
        .iter()
        .filter(|(id, told)| told.state == "sent" && !mails.contains_key(*id))
        .count();
    assert!(lost > 0, "nothing was lost: this way of looking finds nothing");
}
