//! Units of work that are rolled back send nothing, those that are committed send, on every database.

use std::collections::BTreeSet;
use std::sync::Arc;

use open_crm::ErrorKind;
use open_crm::capability::RecordStore;
use open_crm::channels::{Outgoing, Outreach};
use tokio::task::JoinSet;

use super::sink::Sink;
use super::worker::{mailer, outreach, receipt};
use super::{Place, contact, fresh, mail, places, table};

/// How many of each.
const UNITS: usize = 1000;
const TASKS: usize = 16;

/// Every second piece of business cannot be stored: its customer's address is there already. Answers the ids of the
/// messages whose business is.
async fn business(
    place: &Place,
    outreach: &Outreach,
    store: &Arc<dyn RecordStore>,
    torn: bool,
) -> BTreeSet<String> {
    let taken = contact(fresh().into(), 0);
    let ctx = place.ctx();
    store.apply(&ctx, std::slice::from_ref(&taken)).await.unwrap();
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let (outreach, store, ctx, taken) = (outreach.clone(), store.clone(), ctx.clone(), taken.clone());
        tasks.spawn(async move {
            let mut stored = Vec::new();
            for n in (task..2 * UNITS).step_by(TASKS) {
                let (customer, fine) = (fresh().into(), n % 2 == 0);
                let outgoing = Outgoing::email(mail(n + 1), customer, receipt());
                let id = outgoing.id().to_string().replace('-', "");
                let address = contact(customer, n + 1);
                let business = if fine { vec![] } else { vec![taken.clone()] };
                let done = if torn {
                    // What not to do: the message in a unit of its own.
                    outreach.enqueue(&ctx, outgoing, vec![address]).await.unwrap();
                    store.apply(&ctx, &business).await.map(drop)
                } else {
                    let also = [vec![address], business].concat();
                    outreach.enqueue(&ctx, outgoing, also).await.map(drop)
                };
                match done {
                    Ok(()) => stored.push(id),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Conflict, "{error}"),
                }
            }
            stored
        });
    }
    tasks.join_all().await.into_iter().flatten().collect()
}

/// The messages that arrived, and those that should have.
async fn sent(place: &Place, sink: &Sink, torn: bool) -> (BTreeSet<String>, BTreeSet<String>) {
    let store = place.open().await;
    let outreach = outreach(store.clone(), mailer(&sink.at).await);
    let wanted = business(place, &outreach, &store, torn).await;
    let report = outreach.dispatcher().unwrap().drain(&place.ctx()).await.unwrap();
    assert_eq!(report.claimed, report.sent, "{report:?}");
    let mails = sink.mails();
    assert!(
        mails.values().all(|times| *times == 1),
        "nothing twice without a fault"
    );
    (mails.into_keys().collect(), wanted)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_rolled_back_sends_nothing_and_what_is_committed_sends() {
    let folder = tempfile::tempdir().unwrap();
    for place in places(folder.path()) {
        let Some(sink) = Sink::start() else {
            return;
        };
        let (arrived, wanted) = sent(&place, &sink, false).await;
        assert_eq!(wanted.len(), UNITS);
        assert_eq!(arrived, wanted, "{}", place.url);
        let rows = format!(
            "select count(*) from {} where tenant = $tenant and state = 'sent'",
            table()
        );
        assert_eq!(place.ask(&rows), [UNITS.to_string()]);
    }
    // Where the message is stored apart from its business, it goes out without it.
    let Some(sink) = Sink::start() else {
        return;
    };
    let place = Place::file(&folder.path().join("torn"));
    let (arrived, wanted) = sent(&place, &sink, true).await;
    assert_eq!((wanted.len(), arrived.len()), (UNITS, 2 * UNITS));
}
