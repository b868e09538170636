//! The whole way for a million generated customers: collect from files, store, clean, cluster, draw, write to. Prints
//! wall time, CPU time and peak memory of each step.
//!
//! ```sh
//! cargo bench --features full --bench pipeline              # 1,000,000 customers
//! PIPELINE_CUSTOMERS=50000 cargo bench --features full --bench pipeline
//! ```
//!
//! The customers come from a seed: same seed, same files. Every step checks its own answer, so that a fast step with a
//! wrong answer does not count.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a program for people, not the library"
)]
#![allow(clippy::disallowed_methods, reason = "a benchmark reads the real clock")]

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use open_crm::analytics::clean::{Bounds, CleaningPlan, Columns};
use open_crm::analytics::features::FeaturePlan;
use open_crm::analytics::insights::{Groups, SegmentationPlan};
use open_crm::analytics::plot::Chart;
use open_crm::analytics::report;
use open_crm::channels::{Audience, CampaignPlan, OutboxState, Template};
use open_crm::consent::{ConsentAction, Evidence};
use open_crm::crawl::file::{CsvCollector, CsvConfig, CsvMapping};
use open_crm::message::Mailbox;
use open_crm::prelude::*;

/// How many get the campaign: each message is three durable commits, so this step is not scaled with the customers.
const LETTERS: usize = 10_000;

fn main() -> Result<()> {
    let customers: usize = match std::env::var("PIPELINE_CUSTOMERS") {
        Ok(text) => text.parse().context("PIPELINE_CUSTOMERS is a number")?,
        Err(_) => 1_000_000,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run(customers))
}

async fn run(customers: usize) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let at = folder.path();
    let mut steps = Steps::default();

    let orders = steps.step("generate files", customers, || generate(at, customers, 7))?;

    let database = format!("sqlite:{}", at.join("crm.db").display());
    let crm = Crm::builder()
        .store(database)
        .collector(Arc::new(collector(at, "people", &PEOPLE)?))
        .collector(Arc::new(collector(at, "orders", &ORDERS)?))
        .address_key(Secret::new("a benchmark's key, good for nothing else"))
        .build()
        .await?;
    let ctx = Context::new(TenantId::new("bench")?);

    let begun = steps.begin();
    let people = crm.collect(&ctx, "people", &mut |_, _| ()).await?;
    steps.end("collect and store people", customers, begun);
    ensure!(
        people.created == customers as u64 && people.rejected == 0,
        "people: {people:?}"
    );

    let begun = steps.begin();
    let bought = crm.collect(&ctx, "orders", &mut |_, _| ()).await?;
    steps.end("collect and store orders", orders, begun);
    ensure!(bought.orders == orders as u64, "orders: {bought:?}");

    let plan = SegmentationPlan::new("buyers", FeaturePlan::rfm("2026-01-01".parse()?))
        .cleaning(CleaningPlan::new().fill(Columns::All, 0.0).clip(
            "monetary",
            Bounds::Quantiles {
                low: 0.0,
                high: 0.995,
            },
        ))
        .groups(Groups::Choose { from: 3, to: 6 })
        .seed(7);
    let begun = steps.begin();
    let (found, _) = crm.insights().segment_customers(&ctx, &plan, &mut |_| ()).await?;
    steps.end("features, clean, cluster, write", customers, begun);
    ensure!(
        found.assignments.iter().flatten().count() == customers,
        "everybody is in a segment"
    );

    let begun = steps.begin();
    for chart in [
        Chart::plane(&found),
        Some(Chart::sizes(&found)),
        Some(Chart::profile(&found)),
    ]
    .into_iter()
    .flatten()
    {
        ensure!(!chart.svg(1200, 760)?.is_empty() && !chart.png(1200, 760)?.is_empty());
    }
    std::fs::write(at.join("report.html"), report::html("Benchmark", &found)?)?;
    steps.end("draw and report", found.segments.len(), begun);

    let audience: Vec<CustomerId> = found.ids.iter().take(LETTERS).copied().collect();
    let letters = Purpose::marketing("newsletter")?;
    let begun = steps.begin();
    consents(&crm, &ctx, &letters, &audience).await?;
    steps.end("record consents", audience.len(), begun);

    let begun = steps.begin();
    let from = Mailbox::new(EmailAddress::parse("shop@example.com")?, "Shop")?;
    let template = Template::new(
        "News for {{ given_name }}",
        "Hello {{ given_name }},\n\nthere is news.\n",
    )?;
    let plan = CampaignPlan::new(
        "news",
        Audience::frozen(audience.clone()),
        letters,
        template,
        from,
    );
    let launched = crm.outreach().launch(&ctx, &plan, &mut |_| ()).await?;
    steps.end("queue a campaign", audience.len(), begun);
    ensure!(launched.queued == audience.len() as u64, "queued: {launched:?}");

    let begun = steps.begin();
    crm.outreach().dispatcher()?.drain(&ctx).await?;
    steps.end("gate and dispatch (recorded)", audience.len(), begun);
    let status = crm.outreach().status(&ctx, "news").await?;
    ensure!(
        status.count(OutboxState::Recorded) == audience.len() as u64,
        "dispatched: {status:?}"
    );

    let size = std::fs::metadata(at.join("crm.db"))?.len();
    println!(
        "{customers} customers, {orders} orders, database {} MiB",
        size >> 20
    );
    steps.total();
    Ok(())
}

async fn consents(crm: &Crm, ctx: &Context, purpose: &Purpose, audience: &[CustomerId]) -> Result<()> {
    let gate = crm.outreach().gate()?;
    let evidence = Evidence::new("sign-up form", "Yes, write to me.")?;
    for chunk in audience.chunks(500) {
        let mut events = Vec::with_capacity(chunk.len());
        for customer in crm.customers().get_many(ctx, chunk).await?.into_iter().flatten() {
            let point = customer.email().context("everybody has an address")?;
            events.push(gate.event(
                customer.id,
                &point.address,
                purpose,
                ConsentAction::Granted,
                evidence.clone(),
            )?);
        }
        gate.record(ctx, &events).await?;
    }
    Ok(())
}

const PEOPLE: [(&str, &str); 7] = [
    ("id", "external:shop"),
    ("given", "given"),
    ("family", "family"),
    ("email", "email"),
    ("city", "city"),
    ("country", "country"),
    ("plan", "attribute:plan"),
];

const ORDERS: [(&str, &str); 5] = [
    ("order", "order.id"),
    ("id", "external:shop"),
    ("date", "order.date"),
    ("items", "order.items"),
    ("amount", "order.amount"),
];

fn collector(folder: &Path, name: &str, columns: &[(&str, &str)]) -> Result<CsvCollector> {
    let mut config = CsvConfig::new(folder.join(format!("{name}.csv")), name);
    let mut mapping = CsvMapping::new();
    for (column, target) in columns {
        mapping = mapping.column(*column, target.parse()?);
    }
    config.mapping = Some(mapping);
    config.batch = 1000;
    config.reading.currency = Some("EUR".into());
    Ok(CsvCollector::new(config)?)
}

/// Writes `people.csv` and `orders.csv`; answers the number of orders. Three kinds of buyers (regular, occasional, lapsed)
/// hide in the orders, so that there is something to find.
fn generate(folder: &Path, customers: usize, seed: u64) -> Result<usize> {
    const GIVEN: [&str; 12] = [
        "Ana", "Bo", "Chen", "Dora", "Emil", "Fatima", "Gil", "Hana", "Ivo", "Jun", "Kaja", "Liv",
    ];
    const FAMILY: [&str; 10] = [
        "Kask", "Okoye", "Silva", "Tanaka", "Novak", "Dubois", "Haugen", "Rossi", "Weber", "Ýmir",
    ];
    const CITY: [(&str, &str); 6] = [
        ("Oslo", "NO"),
        ("Lyon", "FR"),
        ("Porto", "PT"),
        ("Graz", "AT"),
        ("Osaka", "JP"),
        ("Perth", "AU"),
    ];
    let mut people = BufWriter::new(File::create(folder.join("people.csv"))?);
    let mut orders = BufWriter::new(File::create(folder.join("orders.csv"))?);
    writeln!(people, "id,given,family,email,city,country,plan")?;
    writeln!(orders, "order,id,date,items,amount")?;
    let mut dice = Dice(seed);
    let mut count = 0;
    for n in 0..customers {
        let (given, family) = (dice.of(&GIVEN), dice.of(&FAMILY));
        let (city, country) = dice.of(&CITY);
        let plan = dice.of(&["free", "free", "pro", "team"]);
        writeln!(
            people,
            "c{n},{given},{family},{}.{n}@example.com,{city},{country},{plan}",
            given.to_lowercase()
        )?;
        let (most, newest, price) = match dice.below(10) {
            0..2 => (8, 60, 90),
            2..6 => (2, 365, 30),
            _ => (1, 1400, 25),
        };
        for _ in 0..=dice.below(most) {
            let days = newest.min(1400) * dice.below(1000) / 1000 + 1;
            let cents = price * (50 + dice.below(100));
            let date = Timestamp::from_ymd(2026, 1, 1)
                .context("a day")?
                .minus(Duration::from_secs(86_400 * days));
            let day = date.to_string();
            writeln!(
                orders,
                "o{count},c{n},{},{},{}.{:02}",
                &day[..10],
                1 + dice.below(3),
                cents / 100,
                cents % 100
            )?;
            count += 1;
        }
    }
    people.flush()?;
    orders.flush()?;
    Ok(count)
}

/// SplitMix64: a seeded sequence.
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }

    fn of<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len() as u64) as usize]
    }
}

#[derive(Default)]
struct Steps {
    wall: Duration,
    cpu: f64,
    peak: u64,
}

struct Begun {
    wall: Instant,
    cpu: f64,
}

impl Steps {
    fn begin(&self) -> Begun {
        // Forgets the peak so far (Linux); elsewhere peaks are those of the whole run.
        let _ = std::fs::write("/proc/self/clear_refs", "5");
        Begun {
            wall: Instant::now(),
            cpu: cpu_seconds(),
        }
    }

    fn end(&mut self, what: &str, rows: usize, begun: Begun) {
        let (wall, cpu) = (begun.wall.elapsed(), cpu_seconds() - begun.cpu);
        let peak = peak_mib();
        if self.wall.is_zero() {
            println!(
                "{:<34} {:>10} {:>9} {:>9} {:>12} {:>10}",
                "step", "rows", "wall s", "CPU s", "rows/s", "peak MiB"
            );
        }
        let rate = rows as f64 / wall.as_secs_f64();
        println!(
            "{what:<34} {rows:>10} {:>9.2} {cpu:>9.2} {rate:>12.0} {peak:>10}",
            wall.as_secs_f64()
        );
        self.wall += wall;
        self.cpu += cpu;
        self.peak = self.peak.max(peak);
    }

    fn step<T>(&mut self, what: &str, rows: usize, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let begun = self.begin();
        let done = work()?;
        self.end(what, rows, begun);
        Ok(done)
    }

    fn total(&self) {
        println!(
            "{:<34} {:>10} {:>9.2} {:>9.2} {:>12} {:>10}",
            "all",
            "",
            self.wall.as_secs_f64(),
            self.cpu,
            "",
            self.peak
        );
    }
}

/// User and system time of this process, all threads; 0 where `/proc` is not.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    // Fields 14 and 15 of proc(5), in hundredths of a second; 11 and 12 after the name and state.
    let ticks = |i: usize| fields.get(i).and_then(|t| t.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap_or_default();
    line.split_whitespace()
        .nth(1)
        .and_then(|kib| kib.parse::<u64>().ok())
        .unwrap_or(0)
        >> 10
}
