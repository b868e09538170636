//! The outbox end to end: queued, claimed, permitted, marked as begun, handed to a mailer that only counts, and settled
//! with the news on the timeline; every step a durable commit of the store.

use std::sync::Arc;

use anyhow::{Result, ensure};
use open_crm::capability::{Mailer, RecordStore};
use open_crm::channels::mail::RecordMailer;
use open_crm::channels::{DispatchSettings, OUTBOX, Outgoing, Outreach, TickReport};
use open_crm::consent::{AddressKey, ConsentAction, Evidence, Purpose};
use open_crm::customer::{Address, CONTACT_POINT, EmailAddress};
use open_crm::message::{Email, Mailbox};
use open_crm::query::Filter;
use open_crm::record::{Entity, Record, Write};
use open_crm::{
    Consumer, Context, CustomerId, IdSource, RandomIds, Registry, Secret, SystemClock, TenantId, Timestamp,
};

use super::timed;

/// Writes of one unit of work when messages are queued.
const TOGETHER: usize = 500;

pub(crate) struct Plan {
    /// The store's URL; a SQLite file in a new folder unless given.
    pub(crate) store: Option<String>,
    pub(crate) messages: usize,
    /// How many dispatchers share the work.
    pub(crate) dispatchers: usize,
    pub(crate) concurrency: usize,
}

pub(crate) async fn run(plan: &Plan) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let url = plan
        .store
        .clone()
        .unwrap_or_else(|| format!("sqlite:{}", folder.path().join("outbox.db").display()));
    let kind = url.split(':').next().unwrap_or_default().to_owned();
    let mut catalog = open_crm::registry::Catalog::new();
    open_crm::store::catalog::register(&mut catalog);
    let store = catalog.open::<dyn RecordStore>(&url).await?;
    let mailer = Arc::new(RecordMailer::new("record"));
    let registry = Registry::builder()
        .provide::<dyn RecordStore>(0, store.clone())
        .provide::<dyn Mailer>(0, mailer.clone())
        .build()?;
    let settings = DispatchSettings {
        batch: 1000.min(plan.concurrency as u32 * 4),
        concurrency: plan.concurrency,
        ..DispatchSettings::default()
    };
    let outreach = Outreach::bind(&registry)?
        .address_key(AddressKey::new(&Secret::new(
            "a key for a benchmark and nothing else",
        ))?)
        .settings(settings);
    outreach.migrate().await?;
    let clock = SystemClock::shared();
    let ids: Arc<dyn IdSource> = RandomIds::shared();
    let ctx = Context::new(TenantId::new(&format!("b{}", std::process::id()))?);
    let news = Purpose::marketing("news")?;
    let people = people(&outreach, &*store, &ctx, &ids, &news, plan.messages).await?;

    let queued: Vec<Write> = people
        .iter()
        .map(|(customer, address)| {
            let mail = mail(&ids, address)?;
            Ok(Outgoing::email(mail, *customer, news.clone()).write(clock.now())?)
        })
        .collect::<Result<_>>()?;
    timed(
        &format!("outbox {kind}: queued, {TOGETHER} a commit"),
        plan.messages,
        async {
            for writes in queued.chunks(TOGETHER) {
                store.apply(&ctx, writes).await?;
            }
            anyhow::Ok(())
        },
    )
    .await?;

    let what = format!(
        "outbox {kind}: sent, {} dispatchers of {}",
        plan.dispatchers, plan.concurrency
    );
    let reports = timed(&what, plan.messages, async {
        let work: Vec<_> = (0..plan.dispatchers)
            .map(|_| {
                let (dispatcher, ctx) = (outreach.dispatcher(), ctx.clone());
                tokio::spawn(async move { dispatcher?.drain(&ctx).await })
            })
            .collect();
        let mut reports: Vec<TickReport> = Vec::new();
        for work in work {
            reports.push(work.await??);
        }
        anyhow::Ok(reports)
    })
    .await?;
    let recorded: u64 = reports.iter().map(|report| report.recorded).sum();
    let done = Filter::eq("state", "recorded");
    let done = store.count(&ctx, &OUTBOX, &done).await?;
    ensure!(
        (recorded, done, mailer.taken())
            == (plan.messages as u64, plan.messages as u64, plan.messages as u64),
        "{recorded} reported, {done} stored, {} handed over: {reports:?}",
        mailer.taken()
    );
    Ok(())
}

/// Customers who agreed to the news.
async fn people(
    outreach: &Outreach,
    store: &dyn RecordStore,
    ctx: &Context,
    ids: &Arc<dyn IdSource>,
    news: &Purpose,
    count: usize,
) -> Result<Vec<(CustomerId, EmailAddress)>> {
    let gate = outreach.gate()?;
    let now = SystemClock::shared().now();
    let mut people = Vec::with_capacity(count);
    for begin in (0..count).step_by(TOGETHER) {
        let mut writes = Vec::new();
        for n in begin..count.min(begin + TOGETHER) {
            let address = EmailAddress::parse(&format!("person{n}@example.org"))?;
            let customer: CustomerId = ids.fresh().into();
            writes.push(Write::insert(ids.fresh(), contact(customer, &address, now)?));
            let evidence = Evidence::new("sign-up form", "Yes, send me the news")?;
            let email = Address::Email(address.clone());
            let event = gate.event(customer, &email, news, ConsentAction::Granted, evidence)?;
            writes.push(Write::insert(event.id, event.to_record()?));
            people.push((customer, address));
        }
        store.apply(ctx, &writes).await?;
    }
    Ok(people)
}

fn contact(customer: CustomerId, address: &EmailAddress, now: Timestamp) -> Result<Record> {
    Ok(Record::new(&CONTACT_POINT)
        .with("customer_id", customer)?
        .with("kind", "email")?
        .with("value", address.as_str())?
        .with("match_key", format!("email:{}", address.as_str()))?
        .with("primary_point", true)?
        .with("state", "unverified")?
        .with("created_at", now)?)
}

/// A personal mail of text and HTML, about 2.5 KB.
fn mail(ids: &Arc<dyn IdSource>, to: &EmailAddress) -> Result<Email> {
    let from = Mailbox::new(EmailAddress::parse("shop@example.com")?, "The shop")?;
    let text = format!(
        "Hello {},\n\n{}\n",
        to.as_str(),
        "What is new this week. ".repeat(30)
    );
    let html = format!(
        "<p>Hello {},</p><p>{}</p>",
        to.as_str(),
        "What is <b>new</b> this week. ".repeat(45)
    );
    let mut mail = Email::new(
        ids.fresh().into(),
        from,
        Mailbox::new(to.clone(), "")?,
        "What is new",
        &text,
    );
    mail.html = Some(html);
    Ok(mail)
}
