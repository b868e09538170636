//! A worker that is frozen, and wakes up when another one has done its work.

use std::io::Read as _;
use std::process::{Child, Command};
use std::time::Duration;

use super::sink::{Sink, silent};
use super::worker::{fill, start};
use super::{Place, table};

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_was_frozen_cannot_complete_what_another_one_has_done() {
    let Some(place) = Place::server("OPEN_CRM_TEST_POSTGRES_URL") else {
        return;
    };
    let Some(sink) = Sink::start() else {
        return;
    };
    let id = fill(&place, 1, false).await[0];
    let (silent, got, go) = silent();
    let signal = |child: &Child, name: &str| {
        let done = Command::new("kill")
            .args([name, &child.id().to_string()])
            .status();
        assert!(done.unwrap().success());
    };
    let mut frozen = start(&place, "worker", &silent.to_string());
    got.recv_timeout(Duration::from_secs(20)).unwrap();
    // It has handed the message over and waits for the answer; now it hears nothing any more.
    signal(&frozen, "-STOP");
    let mut other = start(&place, "worker", &sink.at);
    let state = format!("select state from {} where tenant = $tenant", table());
    let mut patience = 200;
    while place.ask(&state) != ["sent"] {
        assert!(patience > 0, "{:?}", place.ask(&state));
        std::thread::sleep(Duration::from_millis(50));
        patience -= 1;
    }
    let before = place.ask(&format!("select * from {} where tenant = $tenant", table()));
    go.send(()).unwrap();
    signal(&frozen, "-CONT");
    let mut told = String::new();
    for worker in [&mut frozen, &mut other] {
        std::thread::sleep(Duration::from_millis(500));
        drop(worker.stdin.take());
        let mut out = worker.stdout.take().unwrap();
        out.read_to_string(&mut told).unwrap();
        worker.wait().unwrap();
    }
    assert!(
        told.contains("sent=0 lease_lost=1"),
        "the first one is told: {told}"
    );
    assert!(told.contains("sent=1 lease_lost=0"), "{told}");
    assert_eq!(
        place.ask(&format!("select * from {} where tenant = $tenant", table())),
        before,
        "nothing was overwritten"
    );
    let news = "select kind from crm_interaction where tenant = $tenant";
    assert_eq!(place.ask(news), ["mail.accepted"], "one completion");
    // The recipient's system sees the same name twice.
    assert_eq!(sink.mails().get(&id.to_string().replace('-', "")), Some(&1));
}
