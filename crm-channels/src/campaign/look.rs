//! One page of an audience, looked at: who gets it, by which channel, when, and why the others do not.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

use crm_core::consent::{Decision, Recipient};
use crm_core::customer::{
    Address, CONTACT_POINT, ContactKind, ContactPointId, ContactState, EmailAddress, PhoneNumber,
};
use crm_core::message::{Channel, Message};
use crm_core::query::{Filter, Query};
use crm_core::record::{Stored, Value};
use crm_core::{Context, Result, Timestamp, Uuid};

use super::Campaigns;
use super::audience::{Page, customer, in_any};
use super::compose::{Place, Ready, attribute, text};
use super::preview::CampaignPreview;
use crate::outbox::{OUTBOX, Outgoing};
use crate::template::Segments;

/// What was found on a page.
#[derive(Default)]
pub(super) struct Looked {
    pub(super) preview: CampaignPreview,
    /// The messages, and what each adds to the preview.
    pub(super) outgoing: Vec<Outgoing>,
}

/// Somebody who may get a message.
struct Member<'a> {
    profile: &'a Stored,
    variant: usize,
    /// The first refusal: the reason when no channel is left.
    refused: Option<Decision>,
}

/// The places of one kind that customers can be reached at.
type Points = HashMap<Uuid, (ContactPointId, Place)>;

impl Campaigns {
    pub(super) async fn look(
        &self,
        ctx: &Context,
        ready: &Ready<'_>,
        page: Page,
        known: bool,
    ) -> Result<Looked> {
        let (outreach, plan) = (&self.outreach, ready.plan);
        let mut looked = Looked::default();
        let (profiles, gone) = page.profiles(outreach, ctx).await?;
        let preview = &mut looked.preview;
        preview.gone = gone;
        preview.members = profiles.len() as u64 + gone;
        let ids: Vec<Uuid> = profiles.iter().map(|profile| profile.id).collect();
        let excluded = in_any(&*outreach.store, outreach.time.now(), ctx, &plan.exclude, &ids).await?;
        let mut open = Vec::with_capacity(profiles.len());
        for profile in &profiles {
            if excluded.contains(&profile.id) {
                preview.excluded += 1;
                continue;
            }
            let (held_out, variant) = ready.draw(profile.id);
            if held_out {
                preview.held_out += 1;
                continue;
            }
            open.push(Member {
                profile,
                variant,
                refused: None,
            });
        }
        let mut points: HashMap<ContactKind, Points> = HashMap::new();
        for kind in [ContactKind::Email, ContactKind::Phone] {
            if plan.channels.iter().any(|channel| channel.contact_kind() == kind) {
                let ids = open.iter().map(|member| member.profile.id);
                points.insert(kind, self.points(ctx, kind, ids).await?);
            }
        }
        let queued = match known {
            true => self.queued(ctx, &plan.name, points.values()).await?,
            false => HashSet::new(),
        };
        let has_it = |member: &Member<'_>| {
            let ids = points.values().filter_map(|of| of.get(&member.profile.id));
            ids.into_iter().any(|(point, _)| queued.contains(point))
        };
        let before = open.len();
        open.retain(|member| !has_it(member));
        looked.preview.already_queued = (before - open.len()) as u64;

        for channel in &plan.channels {
            let Some(points) = points.get(&channel.contact_kind()) else {
                continue;
            };
            open = self.by(ctx, ready, *channel, points, open, &mut looked).await?;
        }
        for member in open {
            match member.refused {
                Some(decision) => looked.preview.refuse(&decision),
                None => looked.preview.no_address += 1,
            }
        }
        Ok(looked)
    }

    /// Those who can be reached by this channel get their message; the others are handed on.
    async fn by<'a>(
        &self,
        ctx: &Context,
        ready: &Ready<'_>,
        channel: Channel,
        points: &Points,
        open: Vec<Member<'a>>,
        looked: &mut Looked,
    ) -> Result<Vec<Member<'a>>> {
        let mut rest = Vec::new();
        let mut asked = Vec::with_capacity(open.len());
        let mut recipients = Vec::with_capacity(open.len());
        for member in open {
            match points.get(&member.profile.id) {
                Some((point, place)) if ready.says(member.variant, channel) => {
                    let address = match place {
                        Place::Email(address) => Address::Email(address.clone()),
                        Place::Phone(number) => Address::Phone(number.clone()),
                    };
                    recipients.push(Recipient::new(customer(member.profile), &address).by(channel));
                    asked.push((member, *point, place));
                }
                _ => rest.push(member),
            }
        }
        let gate = self.outreach.gate()?;
        let decisions = gate.explain_all(ctx, &recipients, &ready.plan.purpose).await?;
        for ((mut member, point, place), decision) in asked.into_iter().zip(decisions) {
            // What only has to wait is put into the outbox, and waits there.
            if !decision.allowed && decision.later.is_none() {
                member.refused.get_or_insert(decision);
                rest.push(member);
                continue;
            }
            self.take(ctx, ready, channel, &member, point, place, &decision, looked)?;
        }
        Ok(rest)
    }

    #[allow(clippy::too_many_arguments, reason = "all of what is known of one member")]
    fn take(
        &self,
        ctx: &Context,
        ready: &Ready<'_>,
        channel: Channel,
        member: &Member<'_>,
        point: ContactPointId,
        place: &Place,
        decision: &Decision,
        looked: &mut Looked,
    ) -> Result<()> {
        let (plan, preview) = (ready.plan, &mut looked.preview);
        let now = self.outreach.time.now();
        let due = self.due(ready, member.profile, place, now)?;
        let expires = plan.window.map(|window| due.plus(window));
        if expires.is_some_and(|at| at <= now) {
            preview.too_late += 1;
            return Ok(());
        }
        let id = self.outreach.ids.fresh();
        let mut message = match ready.compose(id, member.variant, channel, member.profile, place)? {
            Ok(message) => message,
            Err(variable) => {
                preview.lacks(&variable, customer(member.profile));
                return Ok(());
            }
        };
        let variant = ready.variant(member.variant);
        if let Message::Email(mail) = &mut message {
            self.outreach
                .stamp(ctx, mail, customer(member.profile), &plan.purpose)?;
            // One of each variant tells.
            if let Some(readiness) = &self.readiness
                && !preview.variants.contains_key(variant)
            {
                let gaps = readiness.gaps(mail, &plan.purpose);
                preview
                    .not_ready
                    .extend(gaps.iter().map(|gap| gap.as_str().to_owned()));
            }
        }
        preview.will_go += 1;
        *preview.channels.entry(channel).or_default() += 1;
        match preview.variants.get_mut(variant) {
            Some(count) => *count += 1,
            None => drop(preview.variants.insert(variant.to_owned(), 1)),
        }
        if decision.later.is_some() {
            match decision.rule() {
                "frequency" => preview.capped += 1,
                _ => preview.quiet += 1,
            }
        }
        if let Message::Sms(sms) = &message {
            let segments = Segments::of(&sms.text);
            preview.sms_parts += u64::from(segments.parts);
            let price = self
                .prices
                .as_ref()
                .map(|prices| prices.price(&sms.to, &segments));
            match price {
                Some(Some(price)) => *preview.sms_cost.entry(price.currency).or_default() += price.micros,
                _ => preview.sms_unpriced += 1,
            }
        }
        let mut outgoing = Outgoing::new(message, customer(member.profile), plan.purpose.clone())
            .campaign(&plan.name, variant, point)
            .priority(plan.priority);
        if due > now {
            outgoing = outgoing.not_before(due);
        }
        if let Some(at) = expires {
            outgoing = outgoing.expires_at(at);
        }
        looked.outgoing.push(outgoing);
        Ok(())
    }

    fn due(&self, ready: &Ready<'_>, profile: &Stored, place: &Place, now: Timestamp) -> Result<Timestamp> {
        let super::schedule::Schedule::Local { .. } = ready.plan.schedule else {
            return Ok(ready.plan.schedule.due(&[], now));
        };
        let phone = match place {
            Place::Phone(number) => Some(number.as_str()),
            Place::Email(_) => None,
        };
        let r = &profile.record;
        let zones = self
            .outreach
            .gate()?
            .zones(attribute(r, "timezone"), phone, text(r, "country"));
        Ok(ready.plan.schedule.due(&zones, now))
    }

    /// The place to use of each customer: the primary one, else the oldest that is not known to be dead.
    async fn points(
        &self,
        ctx: &Context,
        kind: ContactKind,
        ids: impl Iterator<Item = Uuid>,
    ) -> Result<Points> {
        let filter = Filter::one_of("customer_id", ids)
            .and(Filter::eq("kind", kind.as_str()))
            .and(Filter::ne("state", ContactState::Invalid.as_str()));
        let mut best: HashMap<Uuid, (bool, Stored)> = HashMap::new();
        let mut query = Query::new(filter).limit(2000);
        loop {
            let page = self.outreach.store.find(ctx, &CONTACT_POINT, &query).await?;
            for stored in page.items {
                let r = &stored.record;
                let (customer, primary) = (r.uuid("customer_id")?, r.bool("primary_point")?);
                let better = best
                    .get(&customer)
                    .is_none_or(|(was, known)| (primary, Reverse(stored.id)) > (*was, Reverse(known.id)));
                if better {
                    best.insert(customer, (primary, stored));
                }
            }
            match page.next {
                Some(next) => query = query.after(Some(next)),
                None => break,
            }
        }
        best.into_iter()
            .map(|(customer, (_, stored))| {
                let value = stored.record.text("value")?;
                let damaged = |_| stored.record.damaged("value");
                let place = match kind {
                    ContactKind::Email => Place::Email(EmailAddress::parse(value).map_err(damaged)?),
                    ContactKind::Phone => Place::Phone(PhoneNumber::parse(value, None).map_err(damaged)?),
                };
                Ok((customer, (stored.id.into(), place)))
            })
            .collect()
    }

    async fn queued<'p>(
        &self,
        ctx: &Context,
        campaign: &str,
        points: impl Iterator<Item = &'p Points>,
    ) -> Result<HashSet<ContactPointId>> {
        let keys: Vec<String> = points
            .flat_map(HashMap::values)
            .map(|(point, _)| Outgoing::campaign_key(campaign, *point))
            .collect();
        let mut found = HashSet::new();
        for keys in keys.chunks(1000) {
            let query = Query::new(Filter::one_of("dedupe_key", keys.iter().map(String::as_str))).limit(1000);
            let page = self.outreach.store.find(ctx, &OUTBOX, &query).await?;
            let points = page
                .items
                .iter()
                .filter_map(|stored| stored.record.get("contact_point_id").and_then(Value::as_uuid));
            found.extend(points.map(ContactPointId::from));
        }
        Ok(found)
    }
}
