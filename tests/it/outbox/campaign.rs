//! A campaign whose process is killed while it is written down and queued.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use open_crm::capability::{Mailer, RecordStore};
use open_crm::channels::mail::RecordMailer;
use open_crm::channels::{Audience, CampaignPlan, OutboxState, Outreach, Template};
use open_crm::consent::{ConsentAction, Evidence, Purpose};
use open_crm::customer::{Address, CUSTOMER};
use open_crm::message::Mailbox;
use open_crm::query::Filter;
use open_crm::record::{Entity as _, Record, Write};
use open_crm::segment::{Segment, SegmentId, SegmentKind};
use open_crm::{Consumer, CustomerId, Registry, Timestamp};

use super::{Place, address, contact, fresh, key};

const ROLE: &str = "OPEN_CRM_CAMPAIGN_ROLE";
const URL: &str = "OPEN_CRM_CAMPAIGN_URL";
const TENANT: &str = "OPEN_CRM_CAMPAIGN_TENANT";
const PEOPLE: usize = 6_300;

fn news() -> Purpose {
    Purpose::marketing("news").unwrap()
}

fn outreach(store: Arc<dyn RecordStore>) -> Outreach {
    let registry = Registry::builder()
        .provide::<dyn RecordStore>(0, store)
        .provide::<dyn Mailer>(0, Arc::new(RecordMailer::new("record")))
        .build()
        .unwrap();
    Outreach::bind(&registry).unwrap().address_key(key())
}

/// In a child process: does its part of the work until it is killed. Says what it has come to.
#[test]
fn worker() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let place = Place {
        url: std::env::var(URL).unwrap(),
        tenant: std::env::var(TENANT).unwrap(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let outreach = outreach(place.open().await);
        let (campaigns, ctx) = (outreach.campaigns(), place.ctx());
        println!("ready");
        if role == "forgetful" {
            // What not to do: every time from the beginning, each under a name of its own.
            let known = campaigns.get(&ctx, "spring").await.unwrap().plan;
            let plan = CampaignPlan {
                name: format!("spring {}", fresh()),
                ..known
            };
            campaigns
                .launch(&ctx, &plan, |at| {
                    if at.queued > 0 {
                        println!("queued {}", at.queued);
                    }
                })
                .await
                .unwrap();
        } else {
            campaigns
                .start(&ctx, "spring", |at| println!("written {}", at.written))
                .await
                .unwrap();
            loop {
                let tick = campaigns
                    .tick(&ctx, |_, found| println!("queued {}", found.will_go))
                    .await
                    .unwrap();
                if tick.done == 0 {
                    break;
                }
            }
        }
        println!("done");
    });
}

fn start(place: &Place, role: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([
            "outbox::campaign::worker",
            "--exact",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(ROLE, role)
        .env(URL, &place.url)
        .env(TENANT, &place.tenant)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap()
}

/// Kills a worker when it has said so many lines of that word; answers whether it had come to its end before.
fn kill_after(place: &Place, role: &str, word: &str, lines: usize) -> bool {
    let mut child = start(place, role);
    let said = BufReader::new(child.stdout.take().unwrap());
    let mut left = lines;
    for line in said.lines().map_while(Result::ok) {
        if line.contains("done") {
            child.wait().unwrap();
            return true;
        }
        if line.contains(word) {
            left = left.saturating_sub(1);
            if left == 0 {
                break;
            }
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    false
}

async fn fill(place: &Place) {
    let store = place.open().await;
    let outreach = outreach(store.clone());
    let gate = outreach.gate().unwrap();
    let ctx = place.ctx();
    let empty = || serde_json::json!([]);
    for begin in (0..PEOPLE).step_by(300) {
        let mut writes = Vec::new();
        for n in begin..(begin + 300).min(PEOPLE) {
            let customer: CustomerId = fresh().into();
            let profile = Record::new(&CUSTOMER)
                .with("given_name", "Ana")
                .unwrap()
                .with("family_name", "")
                .unwrap()
                .with("display_name", "")
                .unwrap()
                .with("addresses", empty())
                .unwrap()
                .with("tags", empty())
                .unwrap()
                .with("attributes", serde_json::json!({}))
                .unwrap()
                .with("provenance", empty())
                .unwrap()
                .with("created_at", Timestamp::EPOCH)
                .unwrap()
                .with("updated_at", Timestamp::EPOCH)
                .unwrap();
            writes.push(Write::insert(customer, profile));
            writes.push(contact(customer, n));
            let event = gate
                .event(
                    customer,
                    &Address::Email(address(n)),
                    &news(),
                    ConsentAction::Granted,
                    Evidence::new("form", "Yes").unwrap(),
                )
                .unwrap();
            writes.push(Write::insert(event.id, event.to_record().unwrap()));
        }
        store.apply(&ctx, &writes).await.unwrap();
    }
    let id: SegmentId = fresh().into();
    let segment = Segment {
        id,
        version: 1,
        name: "all".into(),
        description: String::new(),
        kind: SegmentKind::Dynamic { filter: Filter::All },
        size: 0,
        created_at: Timestamp::EPOCH,
    };
    let write = Write::insert(id, segment.to_record().unwrap());
    store.apply(&ctx, &[write]).await.unwrap();
    let template = Template::new("Hello {{ given_name }}", "There is news.").unwrap();
    let from = Mailbox::new("shop@example.com".parse().unwrap(), "Shop").unwrap();
    let plan = CampaignPlan::new("spring", Audience::frozen(id), news(), template, from);
    outreach.campaigns().create(&ctx, &plan).await.unwrap();
}

/// Messages, and different customers among them, as another program reads them.
fn counted(place: &Place) -> (usize, usize) {
    let row =
        place.ask("select count(*), count(distinct customer_id) from crm_outbox where tenant = $tenant");
    let (all, different) = row[0].split_once('\t').unwrap();
    (all.parse().unwrap(), different.parse().unwrap())
}

#[tokio::test]
async fn a_campaign_that_is_killed_again_and_again_queues_everybody_once() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::file(folder.path());
    fill(&place).await;
    // While it looks at everybody, while it writes them down, and while it queues them.
    let mut kills = 0;
    for (word, lines) in [
        ("ready", 1),
        ("written", 1),
        ("written", 3),
        ("written", 4),
        ("queued", 1),
    ] {
        kills += usize::from(!kill_after(&place, "worker", word, lines));
    }
    assert!(kills >= 4, "it was killed {kills} times only");
    let (before, _) = counted(&place);
    assert!(kill_after(&place, "worker", "nothing", 1), "it comes to its end");
    let (all, different) = counted(&place);
    assert_eq!((all, different), (PEOPLE, PEOPLE), "{before} were there before");
    let pages = place.ask(
        "select count(*), sum(length(members)) / 16, min(number), max(number) from crm_campaign_page where tenant = $tenant",
    );
    assert_eq!(pages, ["7\t6300\t0\t6"]);
    let store = place.open().await;
    let status = outreach(store)
        .campaigns()
        .status(&place.ctx(), "spring")
        .await
        .unwrap();
    assert_eq!(status.count(OutboxState::Queued), PEOPLE as u64);
    assert_eq!(
        (status.found.members, status.found.will_go),
        (PEOPLE as u64, PEOPLE as u64)
    );
    let states: BTreeSet<String> = place
        .ask("select state from crm_campaign_run where tenant = $tenant")
        .into_iter()
        .collect();
    assert_eq!(states, BTreeSet::from(["running".to_owned()]));

    // Without a name that is kept, people are doubled by the first run that was killed when it had queued some: seen.
    kill_after(&place, "forgetful", "queued", 1);
    let (all, different) = counted(&place);
    assert!(all > different, "{all} messages to {different} people");
}
