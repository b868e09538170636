//! Campaigns planned, written down and queued for many people kept in a store: time, and the memory that it takes.

use std::process::Command;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use open_crm::capability::{Mailer, RecordStore};
use open_crm::channels::mail::RecordMailer;
use open_crm::channels::{Audience, CampaignPlan, OUTBOX, Outreach, Template};
use open_crm::consent::{AddressKey, ConsentAction, Evidence, Purpose};
use open_crm::customer::{Address, CONTACT_POINT, CUSTOMER, EmailAddress};
use open_crm::message::Mailbox;
use open_crm::query::Filter;
use open_crm::record::{Entity, Record, Write};
use open_crm::segment::{SEGMENT, Segment, SegmentId, SegmentKind};
use open_crm::{
    Consumer, Context, CustomerId, IdSource, RandomIds, Registry, Secret, SystemClock, TenantId, Timestamp,
};

use super::timed;

/// Customers of one unit of work when they are stored.
const TOGETHER: usize = 500;

/// What the last line of a campaign in a process of its own begins with.
const MORE: &str = "more memory at its peak, in KiB: ";

/// A campaign for a tenth as many first, each in a process of its own: what it needs in memory does not grow with its
/// members, and nothing that the other one left behind is in the way.
pub(crate) async fn run(url: Option<&str>, members: usize, threads: usize, alone: bool) -> Result<()> {
    if alone {
        let more = Box::pin(one(url, members)).await?;
        println!("{MORE}{more}");
        return Ok(());
    }
    let few = members.div_ceil(10);
    let mut peaks = Vec::new();
    for members in [few, members] {
        let mut process = Command::new(std::env::current_exe()?);
        process.args(["--section", "campaign", "--alone"]);
        process.args(["--mails", &members.to_string(), "--threads", &threads.to_string()]);
        process.args(url.into_iter().flat_map(|url| ["--store", url]));
        let done = process.stderr(std::process::Stdio::inherit()).output()?;
        let said = String::from_utf8(done.stdout)?;
        print!("{said}");
        ensure!(done.status.success(), "the campaign for {members} failed");
        let more = said.lines().find_map(|line| line.strip_prefix(MORE));
        peaks.push(more.context("no peak")?.parse::<u64>()?);
    }
    if let [small, large] = peaks[..] {
        println!("campaign: {small} KiB more at its peak for {few} members, {large} KiB for {members}");
        ensure!(
            large <= small + (16 << 10),
            "{small} KiB and {large} KiB: it grows"
        );
    }
    Ok(())
}

/// Answers how much more memory was in use at the peak than before the campaign, in KiB.
async fn one(url: Option<&str>, members: usize) -> Result<u64> {
    let folder = tempfile::tempdir()?;
    let url = url.map_or_else(
        || format!("sqlite:{}", folder.path().join("campaign.db").display()),
        str::to_owned,
    );
    let kind = url.split(':').next().unwrap_or_default().to_owned();
    let mut catalog = open_crm::registry::Catalog::new();
    open_crm::store::catalog::register(&mut catalog);
    let store = catalog.open::<dyn RecordStore>(&url).await?;
    let registry = Registry::builder()
        .provide::<dyn RecordStore>(0, store.clone())
        .provide::<dyn Mailer>(0, Arc::new(RecordMailer::new("record")))
        .build()?;
    let key = AddressKey::new(&Secret::new("a key for a benchmark and nothing else"))?;
    let outreach = Outreach::bind(&registry)?.address_key(key);
    outreach.migrate().await?;
    let ids: Arc<dyn IdSource> = RandomIds::shared();
    let ctx = Context::new(TenantId::new(&format!("c{}-{members}", std::process::id()))?);
    let news = Purpose::marketing("news")?;
    people(&outreach, &*store, &ctx, &ids, &news, members).await?;
    let segment = segment(&*store, &ctx, &ids).await?;

    let template = Template::new(
        "News for {{ given_name }}",
        "Dear {{ name }} of {{ city | default(\"somewhere\") }},\n\nthere is news: {{ attributes.plan }}.\n",
    )?
    .html("<p>Dear {{ name }} of {{ city | default(\"somewhere\") }},</p><p>there is news: {{ attributes.plan }}.</p>")?;
    let from = Mailbox::new(EmailAddress::parse("shop@example.com")?, "The shop")?;
    let plan = CampaignPlan::new("spring", Audience::frozen(segment), news, template, from);
    let campaigns = outreach.campaigns();
    // The peak is counted anew from here on (proc(5), clear_refs); where the system does not do that, the peak of what came
    // before is printed, and seen to be one.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    let before = memory()?;
    let what = |what: &str| format!("campaign {kind}: {what}");
    let preview = timed(&what("planned"), members, campaigns.plan(&ctx, &plan)).await?;
    let planned = memory()?;
    ensure!(preview.will_go == members as u64, "{preview:?}");
    campaigns.create(&ctx, &plan).await?;
    timed(
        &what("started: planned, written down"),
        members,
        campaigns.start(&ctx, "spring", |_| {}),
    )
    .await?;
    let queued = timed(&what("queued"), members, async {
        let mut queued = 0;
        loop {
            let tick = campaigns.tick(&ctx, |_, _| {}).await?;
            queued += tick.queued;
            if tick.done == 0 {
                return anyhow::Ok(queued);
            }
        }
    })
    .await?;
    let there = store
        .count(&ctx, &OUTBOX, &Filter::eq("campaign", "spring"))
        .await?;
    ensure!(
        (queued, there) == (members as u64, members as u64),
        "{queued} queued, {there} there"
    );
    let status = timed(&what("status"), 1, campaigns.status(&ctx, "spring")).await?;
    ensure!(status.all.messages == members as u64, "{status:?}");
    timed(
        &what("paused"),
        members,
        campaigns.pause(&ctx, "spring", "measured"),
    )
    .await?;
    timed(
        &what("cancelled"),
        members,
        campaigns.cancel(&ctx, "spring", "measured"),
    )
    .await?;
    let peak = memory()?;
    println!(
        "memory (peak RSS): {before} KiB before the campaign, {planned} KiB planned, {peak} KiB queued and called off"
    );
    Ok(peak - before)
}

/// The most memory this process had since the peak was counted anew, in KiB.
fn memory() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .context("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse::<u64>()?)
}

async fn segment(store: &dyn RecordStore, ctx: &Context, ids: &Arc<dyn IdSource>) -> Result<SegmentId> {
    let id: SegmentId = ids.fresh().into();
    let segment = Segment {
        id,
        version: 1,
        name: "all".into(),
        description: String::new(),
        kind: SegmentKind::Dynamic {
            filter: Filter::eq("city", "Tartu"),
        },
        size: 0,
        created_at: Timestamp::EPOCH,
    };
    store.migrate(&[&SEGMENT]).await?;
    store
        .apply(ctx, &[Write::insert(id, segment.to_record()?)])
        .await?;
    Ok(id)
}

/// Customers with an address, who agreed to the news.
async fn people(
    outreach: &Outreach,
    store: &dyn RecordStore,
    ctx: &Context,
    ids: &Arc<dyn IdSource>,
    news: &Purpose,
    count: usize,
) -> Result<()> {
    let gate = outreach.gate()?;
    let now = open_crm::Clock::now(&SystemClock);
    let empty = || serde_json::json!([]);
    for begin in (0..count).step_by(TOGETHER) {
        let mut writes = Vec::new();
        for n in begin..count.min(begin + TOGETHER) {
            let address = EmailAddress::parse(&format!("person{n}@example.org"))?;
            let customer: CustomerId = ids.fresh().into();
            let profile = Record::new(&CUSTOMER)
                .with("given_name", format!("Given{n}"))?
                .with("family_name", "Kask")?
                .with("display_name", "")?
                .with("city", "Tartu")?
                .with("addresses", empty())?
                .with("tags", empty())?
                .with("attributes", serde_json::json!({"plan": "pro", "visits": n}))?
                .with("provenance", empty())?
                .with("created_at", now)?
                .with("updated_at", now)?;
            let contact = Record::new(&CONTACT_POINT)
                .with("customer_id", customer)?
                .with("kind", "email")?
                .with("value", address.as_str())?
                .with("match_key", format!("email:{}", address.as_str()))?
                .with("primary_point", true)?
                .with("state", "unverified")?
                .with("created_at", now)?;
            writes.push(Write::insert(customer, profile));
            writes.push(Write::insert(ids.fresh(), contact));
            let evidence = Evidence::new("sign-up form", "Yes, send me the news")?;
            let email = Address::Email(address);
            let event = gate.event(customer, &email, news, ConsentAction::Granted, evidence)?;
            writes.push(Write::insert(event.id, event.to_record()?));
        }
        store.apply(ctx, &writes).await?;
    }
    Ok(())
}
