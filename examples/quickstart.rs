//! The main job, on real data: people collected from a web site and from files, stored in SQLite, cleaned, clustered,
//! drawn, and written to through a mail server, each with permission and once.
//!
//! ```sh
//! cargo run --features full --example quickstart
//! ```
//!
//! Without options the example serves a web site and a mail server itself, on loopback, and works in `quickstart-out/`.
//! Kill it at any moment and start it again: it goes on. `--help` tells how to use your own site, files, database and
//! mail server instead.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a program for people, not the library"
)]

mod demo;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use open_crm::analytics::clean::{Bounds, CleaningPlan, Columns};
use open_crm::analytics::features::FeaturePlan;
use open_crm::analytics::insights::{Groups, SegmentSummary, Segmentation, SegmentationPlan};
use open_crm::analytics::plot::Chart;
use open_crm::analytics::report;
use open_crm::channels::{Audience, CampaignPlan, DispatchSettings, Mode, OutboxState, Template};
use open_crm::consent::{
    ConsentAction, ConsentState, Evidence, Recipient, SuppressionReason, SuppressionScope,
};
use open_crm::crawl::file::{CsvCollector, CsvConfig, CsvMapping};
use open_crm::crawl::spider::{SpiderSpec, WebCollector};
use open_crm::message::Mailbox;
use open_crm::prelude::*;
use open_crm::store::customers::ImportReport;

use demo::people::People;
use demo::site::{DEFAULT_SITE_PORT, DemoSite};
use demo::smtp_sink::{DEFAULT_SMTP_PORT, SmtpSink};

/// Collect, store, clean, segment, draw, write to: the whole way of open-crm.
#[derive(Debug, Parser)]
struct Options {
    /// Where everything is written: the database, pictures, report and mails.
    #[arg(long, default_value = "quickstart-out")]
    out: PathBuf,
    /// Crawl this page instead of the demo site; its people are `div.customer` with `h2` and `p > a`, the way on `a.next`.
    #[arg(long, value_name = "URL")]
    site: Option<String>,
    /// Crawl with this spider, a JSON file, instead.
    #[arg(long, value_name = "FILE", conflicts_with = "site")]
    spider: Option<PathBuf>,
    /// Let the crawler reach this private address, as CIDR and port: 127.0.0.1/32:8080.
    #[arg(long, value_name = "CIDR:PORT")]
    allow: Vec<String>,
    /// Read people from this CSV file; usual column names are recognised.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Read purchases from this CSV file (order_id, external_id, date, items, amount, currency).
    #[arg(long, value_name = "FILE")]
    purchases: Option<PathBuf>,
    /// Keep customers here, as a URL: sqlite:crm.db.
    #[arg(long, value_name = "URL")]
    database: Option<String>,
    /// Send through this server: smtp://user:password@host:587 (STARTTLS) or smtps://...
    #[arg(long, value_name = "URL")]
    smtp: Option<String>,
    /// Really send through the server of --smtp. Without it mails are only recorded.
    #[arg(long, requires = "smtp")]
    live: bool,
    /// How many segments; the best of 3 to 6 when not said.
    #[arg(long, value_name = "NUMBER")]
    segments: Option<usize>,
    /// How long letters that a killed run was sending stay reserved for it, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    lease: u64,
}

/// The secret of the demonstration. A real one is long, random, and kept outside program and database.
const DEMO_KEY: &str = "a demonstration key, good for nothing else";

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    std::fs::create_dir_all(&options.out).with_context(|| {
        format!(
            "cannot make the folder {}; choose another with --out",
            options.out.display()
        )
    })?;
    let mut steps = Steps::new(6);

    // The world around: a web site, files, a mail server.
    let people = People::load()?;
    let files = people.write_csv(&options.out.join("input"))?;
    let site = DemoSite::start(&people, DEFAULT_SITE_PORT).await?;
    let sink = SmtpSink::start(options.out.join("mails"), DEFAULT_SMTP_PORT).await?;

    // The platform: providers, and the consumers bound to them.
    let database = match &options.database {
        Some(url) => url.clone(),
        None => format!("sqlite:{}", options.out.join("crm.db").display()),
    };
    let (smtp, mode) = match &options.smtp {
        Some(url) => (url.clone(), if options.live { Mode::Live } else { Mode::Record }),
        // Our own server, in this process, on loopback: the one place where going live needs no asking.
        None => (
            format!("smtp://{}?tls=dangerous-plaintext", sink.address()),
            Mode::Live,
        ),
    };
    let lease = Duration::from_secs(options.lease);
    let settings = DispatchSettings {
        concurrency: 16,
        lease,
        ..DispatchSettings::default()
    };
    let crm = Crm::builder()
        .store(database.as_str())
        .collector(Arc::new(web(&options, &site)?))
        .collector(Arc::new(CsvCollector::new(people_file(&options, &files.people))?))
        .collector(Arc::new(CsvCollector::new(purchases_file(
            &options,
            &files.purchases,
        ))?))
        .mailer(0, smtp)
        .mode(mode)
        .dispatch(settings)
        .address_key(Secret::new(DEMO_KEY))
        .build()
        .await?;
    let ctx = Context::new(TenantId::new("record-shop")?);

    // Collect and store.
    let mut collected = Vec::new();
    for (name, what) in [
        ("web", "people from the web site"),
        ("people", "people from a file"),
        ("purchases", "purchases from a file"),
    ] {
        let bar = steps.next(what);
        let report = crm
            .collect(&ctx, name, &mut |found, stored| {
                bar.set_length(found.total.unwrap_or(found.done));
                bar.set_position(found.done);
                bar.set_message(format!(
                    "{} new, {} known",
                    stored.created,
                    stored.updated + stored.unchanged
                ));
            })
            .await?;
        bar.finish_with_message(said(&report));
        collected.push((what, report));
        for reject in crm.customers().rejects(&ctx, name, 3, None).await?.items {
            steps.say(&format!(
                "     left out: {} line {:?}: {}",
                reject.place, reject.line, reject.reason
            ));
        }
    }
    let customers = crm.customers().count(&ctx, &Filter::All).await?;

    // Clean, cluster, explain, draw.
    let bar = steps.next("segments of purchase behaviour");
    let found = segments(&crm, &ctx, &options, &bar).await?;
    bar.finish_with_message(format!(
        "{} segments of {} buyers",
        found.segments.len(),
        found.ids.len()
    ));
    let pictures = draw(&found, &options.out)?;

    // Write to those who spend most, if they agreed.
    let best = best_segment(&found).context("no segment was found")?;
    let bar = steps.next("consents as they came with the sign-ups");
    let audience = crm.customers().get_many(&ctx, &members(&found, best)).await?;
    let recipients: Vec<Recipient> = audience
        .iter()
        .flatten()
        .filter_map(|customer| Some(Recipient::new(customer.id, &customer.email()?.address)))
        .collect();
    let letters = Purpose::marketing("newsletter")?;
    consents(&crm, &ctx, &letters, &audience).await?;
    bar.finish_with_message(format!("{} people have an address", recipients.len()));

    let bar = steps.next("letters to the best segment");
    let template = Template::new(
        "The new records are in",
        "Hello {{ given_name | default('music lover') }},\n\nyou are one of our best customers, so you hear it first: the new records are in.\n\nYour record shop\n",
    )?;
    let from = Mailbox::new(EmailAddress::parse("shop@example.com")?, "The record shop")?;
    let segment = &found.segments[best];
    let plan = CampaignPlan::new(
        "new-records",
        Audience::frozen(segment.id),
        letters,
        template,
        from,
    );
    let launched = crm.outreach().launch(&ctx, &plan, &mut |_| ()).await?;
    let status = send(&crm, &ctx, &plan.name, &bar).await?;

    // What came of it.
    let mut summary = String::new();
    let out = |name: &str| options.out.join(name).display().to_string();
    for (what, report) in &collected {
        writeln!(summary, "  {what:<26} {}", said(report))?;
    }
    writeln!(summary, "  customers                  {customers} in {database}")?;
    for (place, segment) in found.segments.iter().enumerate() {
        let mark = if place == best { " <- written to" } else { "" };
        writeln!(
            summary,
            "  segment                    {:>5}  {}{mark}",
            segment.size, segment.name
        )?;
    }
    for picture in pictures {
        writeln!(summary, "  picture                    {}", picture.display())?;
    }
    writeln!(summary, "  report                     {}", out("report.html"))?;
    let gate = &launched.preview;
    writeln!(
        summary,
        "  letters                    {} of {} may go: {} without consent, {} suppressed, {} without address",
        gate.will_go + gate.already_queued,
        gate.members,
        gate.no_consent,
        gate.suppressed,
        gate.no_address
    )?;
    let counts: Vec<String> = status
        .counts
        .iter()
        .map(|(state, n)| format!("{n} {}", state.as_str()))
        .collect();
    writeln!(summary, "  outbox                     {}", counts.join(", "))?;
    for id in &status.unknown {
        writeln!(
            summary,
            "  outcome unknown            {id} (the answer was lost; it is not sent again blindly)"
        )?;
    }
    if options.smtp.is_none() {
        let mailbox = sink.mailbox()?;
        writeln!(
            summary,
            "  mail server                {} mails accepted, {} different, in {}",
            mailbox.mails,
            mailbox.distinct,
            sink.folder().display()
        )?;
    }
    if options.site.is_none() && options.spider.is_none() {
        let (pages, private) = (site.hits("/customers"), site.hits("/private/"));
        writeln!(
            summary,
            "  web site                   {pages} list pages asked for, {private} of those robots.txt forbids"
        )?;
    }
    println!("\n{summary}");
    Ok(())
}

/// The spider: where the people and the links are, and how fast it may go.
fn web(options: &Options, site: &DemoSite) -> Result<WebCollector> {
    let mut spec: SpiderSpec = match (&options.spider, &options.site) {
        (Some(file), _) => {
            let text =
                std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
            serde_json::from_str(&text).with_context(|| format!("{} is not a spider", file.display()))?
        }
        (None, start) => serde_json::from_value(serde_json::json!({
            "name": "web",
            "start": [start.clone().unwrap_or_else(|| site.start_url())],
            "follow": ["a.next"],
            "item": "div.customer",
            "fields": [
                {"selector": "", "attr": "data-id", "target": "external:shop"},
                {"selector": "h2", "target": "name"},
                {"selector": "p > a[href^='mailto:']", "target": "email"},
                {"selector": "p > a[href^='tel:']", "target": "phone"},
                {"selector": ".street", "target": "street"},
                {"selector": ".line2", "target": "street"},
                {"selector": ".suburb", "target": "city"},
                {"selector": ".state", "target": "region"},
                {"selector": ".postcode", "target": "postal_code"},
                {"selector": ".country", "target": "country"},
                {"selector": "time.born", "attr": "datetime", "target": "attribute:date_of_birth"}
            ],
            "reading": {"phone_region": "AU"}
        }))?,
    };
    spec.name = "web".into();
    if options.site.is_none() && options.spider.is_none() {
        // The site is ours, so it may be asked faster than a stranger's, and loopback is no trap.
        spec.crawl.delay = 0.02;
        spec.crawl
            .http
            .allow
            .push(open_crm::http::AllowEntry::address(site.address()));
    }
    for entry in &options.allow {
        spec.crawl.http.allow.push(entry.parse()?);
    }
    Ok(WebCollector::new(Arc::new(spec.compile()?), spec.crawl.clone())?)
}

fn people_file(options: &Options, demo: &Path) -> CsvConfig {
    let Some(path) = &options.csv else {
        let mut config = CsvConfig::new(demo, "people");
        config.mapping = Some(mapping(&[
            ("external_id", "external:shop"),
            ("given_name", "given"),
            ("surname", "family"),
            ("email", "email"),
            ("phone", "phone"),
            ("street", "street"),
            ("line2", "street"),
            ("suburb", "city"),
            ("postcode", "postal_code"),
            ("state", "region"),
            ("country", "country"),
            ("date_of_birth", "attribute:date_of_birth"),
        ]));
        config.reading.phone_region = Some("AU".into());
        return config;
    };
    CsvConfig::new(path, "people")
}

fn purchases_file(options: &Options, demo: &Path) -> CsvConfig {
    let Some(path) = &options.purchases else {
        let mut config = CsvConfig::new(demo, "purchases");
        config.mapping = Some(mapping(&[
            ("order_id", "order.id"),
            ("external_id", "external:shop"),
            ("date", "order.date"),
            ("cds", "order.items"),
            ("dollars", "order.amount"),
        ]));
        config.reading.currency = Some("USD".into());
        return config;
    };
    CsvConfig::new(path, "purchases")
}

fn mapping(columns: &[(&str, &str)]) -> CsvMapping {
    columns
        .iter()
        .fold(CsvMapping::new(), |mapping, (column, target)| {
            mapping.column(
                *column,
                target.parse().expect("targets of this example are targets"),
            )
        })
}

/// Recency, frequency and spend of every buyer, cleaned, put into groups.
async fn segments(crm: &Crm, ctx: &Context, options: &Options, bar: &ProgressBar) -> Result<Segmentation> {
    // The demo's purchases end in June 1998; yours are looked at from today.
    let as_of = match options.purchases {
        None => "1998-07-01".parse()?,
        Some(_) => SystemClock.now(),
    };
    let groups = match options.segments {
        Some(k) => Groups::Fixed(k),
        None => Groups::Choose { from: 3, to: 6 },
    };
    // Everybody in the demo's log came in the same quarter, so tenure says nothing. A few very large sums would make
    // segments of their own: the top half per cent counts as its border.
    let cleaning = CleaningPlan::new()
        .drop("tenure_days")
        .fill(Columns::All, 0.0)
        .clip(
            "monetary",
            Bounds::Quantiles {
                low: 0.0,
                high: 0.995,
            },
        );
    let plan = SegmentationPlan::new("buyers", FeaturePlan::rfm(as_of))
        .cleaning(cleaning)
        .groups(groups)
        .seed(7);
    let (found, _written) = crm
        .insights()
        .segment_customers(ctx, &plan, &mut |step| {
            bar.set_length(step.total.unwrap_or(step.done) as u64);
            bar.set_position(step.done as u64);
            bar.set_message(format!("{:?}", step.stage).to_lowercase());
        })
        .await?;
    Ok(found)
}

fn draw(found: &Segmentation, folder: &Path) -> Result<Vec<PathBuf>> {
    let charts = [
        ("segments", Chart::plane(found)),
        ("sizes", Some(Chart::sizes(found))),
        ("profile", Some(Chart::profile(found))),
    ];
    let mut written = Vec::new();
    for (name, chart) in charts {
        let Some(chart) = chart else { continue };
        for (extension, bytes) in [
            ("svg", chart.svg(1200, 760)?.into_bytes()),
            ("png", chart.png(1200, 760)?),
        ] {
            let path = folder.join(format!("{name}.{extension}"));
            std::fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
            written.push(path);
        }
    }
    let path = folder.join("report.html");
    std::fs::write(
        &path,
        report::html("Segments of the record shop's buyers", found)?,
    )
    .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(written)
}

/// The segment that spends most above the average.
fn best_segment(found: &Segmentation) -> Option<usize> {
    let spend = found.columns.iter().position(|name| name == "monetary")?;
    let by_spend = |segment: &SegmentSummary| segment.medians.get(spend).copied().unwrap_or(0.0);
    (0..found.segments.len())
        .max_by(|a, b| by_spend(&found.segments[*a]).total_cmp(&by_spend(&found.segments[*b])))
}

fn members(found: &Segmentation, segment: usize) -> Vec<CustomerId> {
    found
        .ids
        .iter()
        .zip(&found.assignments)
        .filter(|(_, s)| **s == Some(segment))
        .map(|(id, _)| *id)
        .collect()
}

/// What the shop's sign-up form would have recorded: nine of ten agreed to letters; one in fifty wrote that it is enough.
async fn consents(crm: &Crm, ctx: &Context, purpose: &Purpose, audience: &[Option<Customer>]) -> Result<()> {
    let gate = crm.outreach().gate()?;
    let evidence = Evidence::new("sign-up form", "Yes, write to me about new records.")?;
    let mut events = Vec::new();
    for customer in audience.iter().flatten() {
        let (Some(point), Some(number)) = (customer.email(), number(customer)) else {
            continue;
        };
        let recipient = Recipient::new(customer.id, &point.address);
        let agreed = matches!(
            gate.consent(ctx, &recipient, purpose).await?,
            ConsentState::Granted { .. }
        );
        if number % 10 != 9 && !agreed {
            let granted = ConsentAction::Granted;
            events.push(gate.event(customer.id, &point.address, purpose, granted, evidence.clone())?);
        }
        if number % 50 == 7 {
            gate.suppress(
                ctx,
                &point.address,
                SuppressionScope::Marketing,
                SuppressionReason::Unsubscribed,
            )
            .await?;
        }
    }
    gate.record(ctx, &events).await?;
    Ok(())
}

/// The number in the shop's own id of a customer (`demo:rec-17`).
fn number(customer: &Customer) -> Option<u32> {
    let external = customer
        .external_refs
        .iter()
        .find(|external| external.system == "shop")?;
    external.id.rsplit('-').next()?.parse().ok()
}

/// Ticks the dispatcher until nothing of the campaign is waiting any more.
async fn send(
    crm: &Crm,
    ctx: &Context,
    campaign: &str,
    bar: &ProgressBar,
) -> Result<open_crm::channels::CampaignStatus> {
    let dispatcher = crm.outreach().dispatcher()?;
    loop {
        let status = crm.outreach().status(ctx, campaign).await?;
        let all: u64 = status.counts.values().sum();
        let waiting = status.count(OutboxState::Queued) + status.count(OutboxState::Leased);
        bar.set_length(all);
        bar.set_position(all - waiting);
        if waiting == 0 {
            bar.finish_with_message(format!("{all} letters"));
            return Ok(status);
        }
        let report = dispatcher.tick(ctx).await?;
        if report.claimed == 0 {
            // Rows leased by a run that was killed come back when their lease ends.
            bar.set_message("waiting for letters another run was sending");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

fn said(report: &ImportReport) -> String {
    let mut words = BTreeMap::new();
    for (word, n) in [
        ("1 new", report.created),
        ("2 with news", report.updated),
        ("3 unchanged", report.unchanged),
        ("4 left out", report.rejected),
        ("5 fields left out", report.fields_rejected),
        ("6 orders", report.orders),
    ] {
        if n > 0 {
            words.insert(word, n);
        }
    }
    words
        .iter()
        .map(|(word, n)| format!("{n} {}", &word[2..]))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Numbered steps with a bar each; plain lines when the output is not a terminal.
struct Steps {
    all: usize,
    done: usize,
}

impl Steps {
    fn new(all: usize) -> Self {
        Self { all, done: 0 }
    }

    fn next(&mut self, what: &str) -> ProgressBar {
        self.done += 1;
        let style = ProgressStyle::with_template("{prefix} [{bar:30}] {pos}/{len} {msg}")
            .expect("the template is one")
            .progress_chars("=> ");
        let prefix = format!("[{}/{}] {what:<40}", self.done, self.all);
        if !std::io::IsTerminal::is_terminal(&std::io::stderr()) {
            self.say(&prefix);
        }
        ProgressBar::new(0).with_style(style).with_prefix(prefix)
    }

    fn say(&self, line: &str) {
        eprintln!("{line}");
    }
}
