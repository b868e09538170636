//! Campaigns: one message to each member of an audience, put into the outbox once each.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crm_core::consent::{Decision, Purpose, Recipient};
use crm_core::customer::{
    Address, CONTACT_POINT, CUSTOMER, ContactKind, ContactPointId, ContactState, CustomerId, EmailAddress,
};
use crm_core::message::{Email, Mailbox, MessageId};
use crm_core::query::{Cursor, Filter, Query};
use crm_core::record::{Entity, Outcome, Record, Stored, Value, Write};
use crm_core::segment::{SEGMENT, SEGMENT_MEMBER, Segment, SegmentId, SegmentKind};
use crm_core::{Context, Error, ErrorKind, Result, Timestamp, Uuid};

use crate::Outreach;
use crate::outbox::{OUTBOX, OutboxState, Outgoing};
use crate::template::{Escape, Part, Template, Variables, check_variables};

/// How many members are looked at, and how many messages are queued, at once.
const PAGE: u32 = 200;

/// Who gets a campaign.
#[derive(Debug, Clone, PartialEq)]
pub enum Audience {
    /// The members of a segment at the moment of the call.
    Segment(SegmentId),
    /// These customers.
    Customers(Vec<CustomerId>),
}

/// What a campaign sends, to whom, and for what purpose. `Debug` shows no address.
#[derive(Debug, Clone)]
pub struct CampaignPlan {
    /// Its name: launched again under the same name, nobody gets it twice.
    pub name: String,
    /// Who gets it.
    pub audience: Audience,
    /// What for.
    pub purpose: Purpose,
    /// What it says.
    pub template: Template,
    /// Who it is from.
    pub from: Mailbox,
    /// Where answers go, if not to `from`.
    pub reply_to: Option<Mailbox>,
    /// More headers, such as `List-Unsubscribe`; variables are put in here too.
    pub headers: BTreeMap<String, String>,
    /// Nothing goes out before.
    pub not_before: Option<Timestamp>,
}

impl CampaignPlan {
    /// A campaign without further headers, due at once.
    pub fn new(name: &str, audience: Audience, purpose: Purpose, template: Template, from: Mailbox) -> Self {
        Self {
            name: name.to_owned(),
            audience,
            purpose,
            template,
            from,
            reply_to: None,
            headers: BTreeMap::new(),
            not_before: None,
        }
    }

    fn check(&self) -> Result<BTreeMap<String, Part>> {
        self.purpose.validate()?;
        if self.name.trim().is_empty() || self.name.len() > 100 || self.name.chars().any(char::is_control) {
            return Err(Error::invalid(
                "a campaign is named with 1 to 100 characters, none a control character",
            )
            .with("field", "name"));
        }
        self.headers
            .iter()
            .map(|(name, value)| {
                let part = Part::compile("headers", "", Escape::Header, value)?;
                check_variables(&part, &[])?;
                Ok((name.clone(), part))
            })
            .collect()
    }
}

/// What a launch would do now. The numbers after `members` add up to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CampaignPreview {
    /// Members of the audience.
    pub members: u64,
    /// Those who would get a message.
    pub will_go: u64,
    /// Those without an e-mail address that works.
    pub no_address: u64,
    /// Those without a consent in force, or all when the purpose is not the one on record.
    pub no_consent: u64,
    /// Those whose address is suppressed.
    pub suppressed: u64,
    /// Those who have it in the outbox already, or had it.
    pub already_queued: u64,
    /// Those who are no customers any more.
    pub gone: u64,
}

/// What a launch did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CampaignReport {
    /// What was found.
    pub preview: CampaignPreview,
    /// Messages put into the outbox by this call.
    pub queued: u64,
}

/// How far a launch is: every member is looked at twice, checked first and queued then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LaunchProgress {
    /// Members checked.
    pub checked: u64,
    /// Members gone through for queueing.
    pub done: u64,
    /// Messages queued.
    pub queued: u64,
}

/// Where a campaign stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CampaignStatus {
    /// How many messages are in each state; states without any are left out.
    pub counts: BTreeMap<OutboxState, u64>,
    /// Those that may have been sent, to be looked into: at most 1,000 of them.
    pub unknown: Vec<MessageId>,
}

impl CampaignStatus {
    /// How many messages are in a state.
    pub fn count(&self, state: OutboxState) -> u64 {
        self.counts.get(&state).copied().unwrap_or(0)
    }

    /// True when nothing of it waits any more.
    pub fn is_finished(&self) -> bool {
        self.counts.keys().all(|state| state.is_final())
    }
}

/// The pages of an audience.
enum Members {
    Listed(Vec<CustomerId>),
    Found {
        schema: &'static crm_core::record::Schema,
        filter: Filter,
        after: Option<Cursor>,
        end: bool,
    },
}

impl Members {
    async fn of(outreach: &Outreach, ctx: &Context, audience: &Audience) -> Result<Self> {
        let id = match audience {
            Audience::Customers(ids) => {
                let unique: BTreeSet<CustomerId> = ids.iter().copied().collect();
                return Ok(Self::Listed(unique.into_iter().rev().collect()));
            }
            Audience::Segment(id) => *id,
        };
        let stored = outreach
            .store
            .get(ctx, &SEGMENT, &[id.uuid()])
            .await?
            .into_iter()
            .next()
            .flatten();
        let stored =
            stored.ok_or_else(|| Error::new(ErrorKind::NotFound, "no such segment").with("segment", id))?;
        let (schema, filter) = match Segment::from_stored(stored)?.kind {
            // Time gone by, segments within it, exceptions by hand, stored members.
            SegmentKind::Dynamic { .. } => {
                let members = Filter::InSegment(id.uuid());
                let now = outreach.clock.now();
                let filter = crm_core::segment::resolve(&*outreach.store, ctx, now, &members).await?;
                (&CUSTOMER, filter)
            }
            SegmentKind::Manual | SegmentKind::Snapshot { .. } => {
                (&SEGMENT_MEMBER, Filter::eq("segment_id", id))
            }
        };
        Ok(Self::Found {
            schema,
            filter,
            after: None,
            end: false,
        })
    }

    async fn next(&mut self, outreach: &Outreach, ctx: &Context) -> Result<Option<Vec<Uuid>>> {
        let ids: Vec<Uuid> = match self {
            Self::Listed(rest) => {
                let keep = rest.len().saturating_sub(PAGE as usize);
                rest.split_off(keep)
                    .into_iter()
                    .rev()
                    .map(CustomerId::uuid)
                    .collect()
            }
            Self::Found { end: true, .. } => Vec::new(),
            Self::Found {
                schema,
                filter,
                after,
                end,
            } => {
                let query = Query::new(filter.clone()).limit(PAGE).after(after.take());
                let page = outreach.store.find(ctx, schema, &query).await?;
                *end = page.next.is_none();
                *after = page.next;
                let member = schema.field("customer_id").is_some();
                let ids = page.items.iter().map(|s| {
                    if member {
                        s.record.uuid("customer_id")
                    } else {
                        Ok(s.id)
                    }
                });
                ids.collect::<Result<_>>()?
            }
        };
        Ok((!ids.is_empty()).then_some(ids))
    }
}

/// One page of an audience, looked at.
#[derive(Default)]
struct Looked {
    preview: CampaignPreview,
    outgoing: Vec<Outgoing>,
    /// Variables without a value, and for whom.
    missing: Vec<(String, CustomerId)>,
}

impl CampaignPreview {
    fn add(&mut self, other: Self) {
        self.members += other.members;
        self.will_go += other.will_go;
        self.no_address += other.no_address;
        self.no_consent += other.no_consent;
        self.suppressed += other.suppressed;
        self.already_queued += other.already_queued;
        self.gone += other.gone;
    }

    fn refuse(&mut self, decision: &Decision) {
        match decision.rule() {
            "consent" | "purpose" => self.no_consent += 1,
            "suppression" => self.suppressed += 1,
            _ => self.no_address += 1,
        }
    }
}

impl Outreach {
    /// What a launch would do now. Nothing is written.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] naming the field that is wrong, or the variable that has no value for some who would get
    /// the message; [`ErrorKind::NotFound`] for a segment that is not there.
    pub async fn plan(&self, ctx: &Context, plan: &CampaignPlan) -> Result<CampaignPreview> {
        self.check_all(ctx, plan, &mut |_| {}).await
    }

    /// Puts one message per member into the outbox, in bounded batches, after all of them were found to be fine. Every
    /// (campaign, contact point) gets in once: launched again, after a crash or by mistake, it goes on where it was and
    /// doubles nothing.
    ///
    /// # Errors
    /// As [`Outreach::plan`], before anything is queued.
    pub async fn launch(
        &self,
        ctx: &Context,
        plan: &CampaignPlan,
        mut progress: impl FnMut(LaunchProgress) + Send,
    ) -> Result<CampaignReport> {
        let mut at = LaunchProgress::default();
        self.check_all(ctx, plan, &mut |checked| {
            at.checked = checked;
            progress(at);
        })
        .await?;
        let headers = plan.check()?;
        let mut report = CampaignReport::default();
        let mut members = Members::of(self, ctx, &plan.audience).await?;
        while let Some(ids) = members.next(self, ctx).await? {
            let looked = self.look(ctx, plan, &headers, &ids).await?;
            refuse_missing(&looked.missing)?;
            let now = self.time.fresh().await;
            let writes: Vec<Write> = looked
                .outgoing
                .iter()
                .map(|outgoing| outgoing.write_once(now))
                .collect::<Result<_>>()?;
            if !writes.is_empty() {
                let outcomes = self.store.apply(ctx, &writes).await?;
                report.queued += outcomes
                    .iter()
                    .filter(|o| matches!(o, Outcome::Written(_)))
                    .count() as u64;
            }
            report.preview.add(looked.preview);
            at.done = report.preview.members;
            at.queued = report.queued;
            progress(at);
        }
        Ok(report)
    }

    /// Where a campaign stands.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn status(&self, ctx: &Context, campaign: &str) -> Result<CampaignStatus> {
        let mut status = CampaignStatus::default();
        let of =
            |state: OutboxState| Filter::eq("campaign", campaign).and(Filter::eq("state", state.as_str()));
        for state in OutboxState::ALL {
            let count = self.store.count(ctx, &OUTBOX, &of(state)).await?;
            if count > 0 {
                status.counts.insert(state, count);
            }
        }
        let unknown = self
            .store
            .find(ctx, &OUTBOX, &Query::new(of(OutboxState::Unknown)).limit(1000))
            .await?;
        status.unknown = unknown.items.iter().map(|stored| stored.id.into()).collect();
        Ok(status)
    }

    async fn check_all(
        &self,
        ctx: &Context,
        plan: &CampaignPlan,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<CampaignPreview> {
        let headers = plan.check()?;
        let mut preview = CampaignPreview::default();
        let mut missing = Vec::new();
        let mut members = Members::of(self, ctx, &plan.audience).await?;
        while let Some(ids) = members.next(self, ctx).await? {
            let looked = self.look(ctx, plan, &headers, &ids).await?;
            preview.add(looked.preview);
            missing.extend(looked.missing);
            progress(preview.members);
        }
        refuse_missing(&missing)?;
        Ok(preview)
    }

    /// Looks at one page: finds each one's address, asks the gate, and makes the messages of those who would get one.
    async fn look(
        &self,
        ctx: &Context,
        plan: &CampaignPlan,
        headers: &BTreeMap<String, Part>,
        ids: &[Uuid],
    ) -> Result<Looked> {
        let mut looked = Looked::default();
        looked.preview.members = ids.len() as u64;
        let customers = self.store.get(ctx, &CUSTOMER, ids).await?;
        let points = self.points(ctx, ids).await?;
        let mut asked: Vec<(Stored, ContactPointId, EmailAddress)> = Vec::new();
        for customer in customers {
            let Some(customer) = customer else {
                looked.preview.gone += 1;
                continue;
            };
            match points.get(&customer.id) {
                None => looked.preview.no_address += 1,
                Some((point, address)) => asked.push((customer, *point, address.clone())),
            }
        }
        let recipients: Vec<Recipient> = asked
            .iter()
            .map(|(customer, _, address)| {
                Recipient::new(customer.id.into(), &Address::Email(address.clone()))
            })
            .collect();
        let decisions = self.gate()?.explain_all(ctx, &recipients, &plan.purpose).await?;
        let queued = self.queued(ctx, &plan.name, &asked).await?;
        for ((customer, point, address), decision) in asked.into_iter().zip(&decisions) {
            if queued.contains(&point) {
                looked.preview.already_queued += 1;
                continue;
            }
            // What only has to wait is put into the outbox, and waits there.
            if !decision.allowed && decision.later.is_none() {
                looked.preview.refuse(decision);
                continue;
            }
            looked.preview.will_go += 1;
            match self.compose(plan, headers, &customer, address)? {
                Ok(email) => {
                    let mut outgoing = Outgoing::email(email, customer.id.into(), plan.purpose.clone())
                        .campaign(&plan.name, point);
                    if let Some(at) = plan.not_before {
                        outgoing = outgoing.not_before(at);
                    }
                    looked.outgoing.push(outgoing);
                }
                Err(variable) => looked.missing.push((variable, customer.id.into())),
            }
        }
        Ok(looked)
    }

    /// The e-mail address to use of each customer: the primary one, else the oldest that is not known to be dead.
    async fn points(
        &self,
        ctx: &Context,
        ids: &[Uuid],
    ) -> Result<HashMap<Uuid, (ContactPointId, EmailAddress)>> {
        let filter = Filter::one_of("customer_id", ids.iter().copied())
            .and(Filter::eq("kind", ContactKind::Email.as_str()))
            .and(Filter::ne("state", ContactState::Invalid.as_str()));
        let mut best: HashMap<Uuid, (bool, ContactPointId, EmailAddress)> = HashMap::new();
        let mut query = Query::new(filter).limit(1000);
        loop {
            let page = self.store.find(ctx, &CONTACT_POINT, &query).await?;
            for stored in page.items {
                let r = &stored.record;
                let (customer, primary) = (r.uuid("customer_id")?, r.bool("primary_point")?);
                let address = EmailAddress::parse(r.text("value")?).map_err(|_| r.damaged("value"))?;
                let better = best.get(&customer).is_none_or(|(was_primary, id, _)| {
                    (primary, std::cmp::Reverse(stored.id)) > (*was_primary, std::cmp::Reverse(id.uuid()))
                });
                if better {
                    best.insert(customer, (primary, stored.id.into(), address));
                }
            }
            match page.next {
                Some(next) => query = query.after(Some(next)),
                None => {
                    return Ok(best
                        .into_iter()
                        .map(|(id, (_, point, a))| (id, (point, a)))
                        .collect());
                }
            }
        }
    }

    async fn queued(
        &self,
        ctx: &Context,
        campaign: &str,
        asked: &[(Stored, ContactPointId, EmailAddress)],
    ) -> Result<BTreeSet<ContactPointId>> {
        let keys = asked
            .iter()
            .map(|(_, point, _)| Outgoing::campaign_key(campaign, *point));
        let query = Query::new(Filter::one_of("dedupe_key", keys)).limit(PAGE);
        let page = self.store.find(ctx, &OUTBOX, &query).await?;
        let points = page
            .items
            .iter()
            .filter_map(|s| s.record.get("contact_point_id").and_then(Value::as_uuid));
        Ok(points.map(Into::into).collect())
    }

    /// The message for one customer, or the variable that has no value.
    fn compose(
        &self,
        plan: &CampaignPlan,
        headers: &BTreeMap<String, Part>,
        customer: &Stored,
        address: EmailAddress,
    ) -> Result<Result<Email, String>> {
        let to = Mailbox {
            name: full_name(&customer.record),
            address,
        };
        let vars = variables(customer, &to);
        let made = || -> Result<Email> {
            let said = plan.template.email(language(&customer.record), &vars)?;
            let mut mail = said.into_email(self.ids.fresh().into(), plan.from.clone(), to.clone());
            mail.reply_to = plan.reply_to.clone();
            for (name, part) in headers {
                mail.headers.insert(name.clone(), part.render(&vars)?);
            }
            mail.validate()?;
            Ok(mail)
        };
        match made() {
            Ok(mail) => Ok(Ok(mail)),
            Err(error) => match error.context("variable") {
                Some(variable) => Ok(Err(variable.to_owned())),
                None => Err(error.with("customer", customer.id)),
            },
        }
    }
}

fn refuse_missing(missing: &[(String, CustomerId)]) -> Result<()> {
    let Some((variable, customer)) = missing.first() else {
        return Ok(());
    };
    Err(Error::invalid(
        "a variable of the template has no value for some; give a default as {{ given_name | default(\"there\") }}",
    )
    .with("variable", variable)
    .with("customers", missing.len())
    .with("first", customer))
}

fn text<'r>(r: &'r Record, field: &str) -> Option<&'r str> {
    r.get(field)
        .and_then(Value::as_str)
        .filter(|text| !text.trim().is_empty())
}

fn full_name(r: &Record) -> String {
    match text(r, "display_name") {
        Some(name) => name.to_owned(),
        None => ["given_name", "family_name"]
            .into_iter()
            .filter_map(|field| text(r, field))
            .collect::<Vec<_>>()
            .join(" "),
    }
}

/// The language the customer is written to in: the attribute `locale`, or `language`.
fn language(r: &Record) -> &str {
    let attributes = r.get("attributes").and_then(Value::as_json);
    ["locale", "language"]
        .into_iter()
        .find_map(|name| attributes?.get(name)?.as_str())
        .unwrap_or_default()
}

/// What a template may name, for one customer.
fn variables<'a>(customer: &'a Stored, to: &'a Mailbox) -> Variables<'a> {
    static NONE: serde_json::Value = serde_json::Value::Null;
    let r = &customer.record;
    let mut vars = Variables::new()
        .text("customer_id", customer.id.to_string())
        .text("email", to.address.as_str())
        .text("name", to.name.as_str())
        .json(
            "attributes",
            r.get("attributes").and_then(Value::as_json).unwrap_or(&NONE),
        );
    for field in ["given_name", "family_name", "city", "region", "country"] {
        if let Some(text) = text(r, field) {
            vars = vars.text(field, text);
        }
    }
    vars
}
