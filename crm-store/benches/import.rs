//! How fast people are taken in: drafts with name, e-mail address, phone number, external reference and attributes, into
//! a SQLite file with full durability, matched against everything stored before.
//!
//! `cargo bench -p crm-store --bench import -- 1000000`
#![allow(
    clippy::indexing_slicing,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::disallowed_methods
)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use crm_core::customer::{
    ContactKind, Draft, EmailAddress, ExternalRef, PersonName, PhoneNumber, Provenance,
};
use crm_core::query::{Filter, Query};
use crm_core::{Context, RandomIds, SystemClock, TenantId, Timestamp};
use crm_store::customers::{Customers, ImportOptions};
use crm_store::{SqliteConfig, SqliteStore};

fn draft(n: u64) -> Draft {
    let mut draft = Draft::new(
        Provenance::new("bench", Timestamp::from_micros(1))
            .at("people.csv")
            .line(n),
    );
    draft.name = Some(PersonName::new("Ana", &format!("Kask{n}")));
    // Scattered, as real addresses are.
    let key = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 24;
    draft
        .emails
        .push(format!("Person.{key:x}.{n}@Example{}.com", n % 97));
    draft
        .phones
        .push(format!("+61 4{:08}", 10_000_000 + n % 90_000_000));
    draft
        .external_refs
        .push(ExternalRef::new("shop", format!("C-{key:x}-{n}")));
    draft
        .attributes
        .set("plan", ["free", "pro", "team"][(n % 3) as usize])
        .unwrap();
    draft.attributes.set("visits", n % 50).unwrap();
    draft
}

/// Processor time of this process, all threads.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<u64> = stat
        .rsplit(") ")
        .next()
        .unwrap_or("")
        .split(' ')
        .skip(11)
        .take(2)
        .filter_map(|f| f.parse().ok())
        .collect();
    Duration::from_millis(fields.iter().sum::<u64>() * 10)
}

async fn timed<T>(what: &str, count: u64, work: impl Future<Output = T>) -> T {
    let (wall, before) = (Instant::now(), cpu());
    let answer = work.await;
    let (wall, used) = (wall.elapsed(), cpu() - before);
    let rate = count as f64 / wall.as_secs_f64();
    println!(
        "{what:<34} {count:>9}  {:>8.2} s  {rate:>9.0}/s  {:>7.2} cpu s  {:>6.1} cpu us each",
        wall.as_secs_f64(),
        used.as_secs_f64(),
        used.as_secs_f64() * 1e6 / count as f64
    );
    answer
}

#[tokio::main]
async fn main() {
    let count = std::env::args()
        .skip(1)
        .find_map(|arg| arg.parse().ok())
        .unwrap_or(20_000_u64);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("crm.db");
    let store = SqliteStore::open_file(&path, SqliteConfig::default())
        .await
        .unwrap();
    let customers = Customers::new(Arc::new(store), SystemClock::shared(), RandomIds::shared());
    let ctx = Context::new(TenantId::new("bench").unwrap());

    timed("make drafts (not stored)", count, async {
        (0..count).map(draft).map(drop).for_each(drop)
    })
    .await;
    timed("of it: reading phone numbers", count, async {
        (0..count).for_each(|n| drop(PhoneNumber::parse(&draft(n).phones[0], None).unwrap()));
    })
    .await;
    timed("of it: reading e-mail addresses", count, async {
        (0..count).for_each(|n| drop(EmailAddress::parse(&draft(n).emails[0]).unwrap()));
    })
    .await;
    let fresh = customers.import(&ctx, "fresh", (0..count).map(draft), ImportOptions::default());
    let report = timed("import, all new", count, fresh).await.unwrap();
    assert_eq!(
        (report.created, report.rejected + report.fields_rejected),
        (count, 0)
    );
    let again = customers.import(&ctx, "again", (0..count).map(draft), ImportOptions::default());
    let report = timed("import again, all known", count, again).await.unwrap();
    assert_eq!(report.unchanged, count);
    println!(
        "{:<34} {:>9.1} MB",
        "file",
        std::fs::metadata(&path).unwrap().len() as f64 / 1e6
    );

    let some: Vec<u64> = (0..2000).map(|i| i * count / 2000).collect();
    let mut ids = Vec::new();
    timed("find by e-mail address", some.len() as u64, async {
        for n in &some {
            let draft = draft(*n);
            ids.push(
                customers
                    .by_contact(&ctx, ContactKind::Email, &draft.emails[0])
                    .await
                    .unwrap()
                    .unwrap()
                    .id,
            );
        }
    })
    .await;
    timed("get by id, whole customer", ids.len() as u64, async {
        for id in &ids {
            customers.get(&ctx, *id).await.unwrap().unwrap();
        }
    })
    .await;
    timed("pages of 50, by family name", 200, async {
        let mut query = Query::new(Filter::All).ascending("family_name").limit(50);
        for _ in 0..200 {
            query.after = customers.find(&ctx, &query).await.unwrap().next;
        }
    })
    .await;
    timed("upsert one by one, new", 1000, async {
        for n in 0..1000 {
            customers.upsert(&ctx, draft(count + n)).await.unwrap();
        }
    })
    .await;
}
