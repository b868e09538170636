//! The page where people choose what they want to get, and how.

use std::collections::{BTreeMap, BTreeSet};

use crm_core::capability::{WebhookReply, WebhookRequest};
use crm_core::consent::{
    ConsentAction, ConsentState, Evidence, LegalBasis, Purpose, PurposeClass, RegisteredPurpose, SUPPRESSION,
    SuppressionReason, SuppressionScope,
};
use crm_core::customer::{Address, CONTACT_POINT, ContactKind, EmailAddress, PhoneNumber};
use crm_core::message::Channel;
use crm_core::query::{Filter, Query};
use crm_core::record::Write;
use crm_core::{Actor, Context, ErrorKind, Result, Timestamp};

use super::desk::{Inbound, WithoutBody as _, not_allowed};
use super::key::LinkSubject;
use super::page::{self, Line};
use super::permission::{Standing, Who, Word};
use super::unsubscribe::evidence;
use crate::Outreach;

/// How often a choice is stored again when somebody else writes the same records at the same time.
const TRIES: usize = 8;

/// What somebody gets for one purpose by one channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The purpose's name.
    pub purpose: String,
    /// The channel.
    pub channel: Channel,
    /// Whether messages go out, as far as consent and suppressions are concerned.
    pub on: bool,
    /// Whether it can be turned on here: not after an erasure, and not where the address itself does not work.
    pub can_turn_on: bool,
}

/// One address of the person whose choice it is.
struct Point {
    kind: ContactKind,
    address_key: String,
    /// Absent when it is only known by its hash.
    address: Option<Address>,
    /// The one that the link was sent to.
    own: bool,
    standing: Standing,
}

impl Point {
    fn who<'a>(&'a self, subject: &LinkSubject) -> Who<'a> {
        Who {
            customer: subject.customer,
            kind: self.kind,
            address_key: &self.address_key,
        }
    }

    fn can_agree(&self, step: &Step<'_>, now: Timestamp) -> bool {
        self.address.is_some() && !self.is_blocked(step.purpose, step.channel, now)
    }

    /// What keeps it back, and is not the person's own word: turning it on here would change nothing.
    fn is_blocked(&self, purpose: &Purpose, channel: Channel, now: Timestamp) -> bool {
        self.standing.is_erased()
            || self
                .standing
                .suppressions
                .iter()
                .any(|s| s.reason != SuppressionReason::Unsubscribed && s.covers(purpose, channel, now))
    }
}

impl Outreach {
    /// What the person behind a link gets: for every purpose on record that they may refuse, by every channel that reaches
    /// one of their addresses. After an erasure only the address of the link is left.
    ///
    /// # Errors
    /// [`ErrorKind::Unauthenticated`] when the token is not ours; [`ErrorKind::Config`] when no link key was given; those
    /// of the store.
    pub async fn choices(&self, token: &str) -> Result<Vec<Choice>> {
        let subject = self.unsubscriber()?.read_preferences(token)?;
        let ctx = context(&subject);
        let points = self.reached(&ctx, &subject).await?;
        self.choices_at(&ctx, &subject, &points).await
    }

    /// Stores a choice: what is named is wanted, all else of what can be chosen is not. What did not change is left alone;
    /// the rest is recorded with the words of the page as proof, in one unit of work.
    ///
    /// # Errors
    /// As [`Outreach::choices`].
    pub async fn choose(&self, token: &str, wanted: &BTreeSet<(String, Channel)>, words: &str) -> Result<()> {
        let subject = self.unsubscriber()?.read_preferences(token)?;
        let ctx = context(&subject);
        let mut tries = 0;
        loop {
            let points = self.reached(&ctx, &subject).await?;
            let purposes = self.choosable(&ctx).await?;
            let choices = self.choices_at(&ctx, &subject, &points).await?;
            let is_wanted = |purpose: &str, channel| wanted.contains(&(purpose.to_owned(), channel));
            let mut writes = Vec::new();
            for point in &points {
                let mut steps = Vec::new();
                for choice in choices.iter().filter(|c| c.channel.contact_kind() == point.kind) {
                    let on = is_wanted(&choice.purpose, choice.channel);
                    let registered = purposes.iter().find(|p| p.purpose.name == choice.purpose);
                    if let Some(registered) = registered
                        && on != choice.on
                    {
                        steps.push(Step {
                            purpose: &registered.purpose,
                            channel: choice.channel,
                            on,
                            proof: self.proof(&subject, registered, words)?,
                        });
                    }
                }
                let all: Vec<&Purpose> = purposes.iter().map(|p| &p.purpose).collect();
                self.lift_for(&subject, point, &steps, &all, &is_wanted, &mut writes)?;
                for step in steps {
                    self.say(&ctx, &subject, point, step, &mut writes)?;
                }
            }
            if writes.is_empty() {
                return Ok(());
            }
            match self.store.apply(&ctx, &writes).await {
                Err(error) if error.kind() == ErrorKind::Conflict && tries < TRIES => tries += 1,
                done => return done.map(drop),
            }
        }
    }

    /// The purposes that a person may refuse; a contract or a law leaves no choice.
    async fn choosable(&self, ctx: &Context) -> Result<Vec<RegisteredPurpose>> {
        let mut purposes = self.gate()?.purposes(ctx).await?;
        purposes.retain(|p| {
            p.purpose.class == PurposeClass::Marketing
                || matches!(
                    p.purpose.legal_basis,
                    LegalBasis::Consent | LegalBasis::LegitimateInterest
                )
        });
        Ok(purposes)
    }

    /// The address of the link, and the customer's other ones.
    async fn reached(&self, ctx: &Context, subject: &LinkSubject) -> Result<Vec<Point>> {
        let mut found = vec![(subject.kind, subject.address_key.clone(), None, true)];
        let query = Query::new(Filter::eq("customer_id", subject.customer)).limit(100);
        for stored in self.store.find(ctx, &CONTACT_POINT, &query).await?.items {
            let r = &stored.record;
            let address = match r.text("kind")? {
                "email" => EmailAddress::parse(r.text("value")?).map(Address::Email),
                _ => PhoneNumber::parse(r.text("value")?, None).map(Address::Phone),
            };
            let address = address.map_err(|_| r.damaged("value"))?;
            let kind = match address {
                Address::Email(_) => ContactKind::Email,
                Address::Phone(_) => ContactKind::Phone,
            };
            let key = self.key()?.of_address(&address);
            match found.iter_mut().find(|(_, known, ..)| *known == key) {
                Some((_, _, known, _)) => *known = Some(address),
                None => found.push((kind, key, Some(address), false)),
            }
        }
        let mut points = Vec::with_capacity(found.len());
        for (kind, address_key, address, own) in found {
            let standing = self.standing(ctx, &address_key).await?;
            points.push(Point {
                kind,
                address_key,
                address,
                own,
                standing,
            });
        }
        Ok(points)
    }

    async fn choices_at(
        &self,
        ctx: &Context,
        subject: &LinkSubject,
        points: &[Point],
    ) -> Result<Vec<Choice>> {
        let now = self.clock.now();
        let mut on: BTreeSet<(String, Channel)> = BTreeSet::new();
        for point in points {
            // The gate's own view where the address is known; behind an erasure, what the log says about its hash.
            if let Some(address) = &point.address {
                let view = self
                    .gate()?
                    .preferences_at(ctx, subject.customer, address)
                    .await?;
                for choice in view.choices.into_iter().filter(|choice| choice.on) {
                    on.insert((choice.purpose.purpose.name, choice.channel));
                }
            } else {
                for registered in self.choosable(ctx).await? {
                    for channel in channels(point.kind) {
                        if hashed_on(point, subject, &registered.purpose, channel, now) {
                            on.insert((registered.purpose.name.clone(), channel));
                        }
                    }
                }
            }
        }
        let mut choices = Vec::new();
        for registered in self.choosable(ctx).await? {
            let purpose = registered.purpose;
            for channel in Channel::ALL {
                let mut there = points
                    .iter()
                    .filter(|p| p.kind == channel.contact_kind())
                    .peekable();
                if there.peek().is_none() {
                    continue;
                }
                let can_turn_on = there.any(|p| p.address.is_some() && !p.is_blocked(&purpose, channel, now));
                choices.push(Choice {
                    on: on.contains(&(purpose.name.clone(), channel)),
                    purpose: purpose.name.clone(),
                    channel,
                    can_turn_on,
                });
            }
        }
        Ok(choices)
    }

    fn proof(&self, subject: &LinkSubject, registered: &RegisteredPurpose, words: &str) -> Result<Evidence> {
        let notice = format!("{words}: {}", registered.purpose.name);
        Ok(evidence("preference page", &notice, subject.message)?.version(registered.version.to_string()))
    }

    /// Lifts what the person's own word keeps back and is now wanted; what else it kept back stays so, piece by piece.
    fn lift_for(
        &self,
        subject: &LinkSubject,
        point: &Point,
        steps: &[Step<'_>],
        purposes: &[&Purpose],
        is_wanted: &dyn Fn(&str, Channel) -> bool,
        writes: &mut Vec<Write>,
    ) -> Result<()> {
        let now = self.clock.now();
        for suppression in &point.standing.suppressions {
            let in_the_way = suppression.reason == SuppressionReason::Unsubscribed
                && steps.iter().any(|step| {
                    step.on
                        && point.can_agree(step, now)
                        && suppression.covers(step.purpose, step.channel, now)
                });
            if !in_the_way {
                continue;
            }
            writes.push(Write::delete(&SUPPRESSION, suppression.id, None));
            for purpose in purposes {
                for channel in channels(point.kind) {
                    if suppression.covers(purpose, channel, now) && !is_wanted(&purpose.name, channel) {
                        let scope = SuppressionScope::Purpose(purpose.name.clone());
                        let rest = self.unsubscribed(point.who(subject), scope, Some(channel));
                        writes.push(rest.write()?);
                    }
                }
            }
        }
        Ok(())
    }

    /// Records what the person says now. At the address the link was sent to, a yes is also the confirmation of a double
    /// opt-in.
    fn say(
        &self,
        ctx: &Context,
        subject: &LinkSubject,
        point: &Point,
        step: Step<'_>,
        writes: &mut Vec<Write>,
    ) -> Result<()> {
        let now = self.clock.now();
        if step.on && !point.can_agree(&step, now) {
            return Ok(());
        }
        let action = match step.on {
            true if point.own => ConsentAction::Confirmed,
            true => ConsentAction::Granted,
            false if step.purpose.needs_consent() => ConsentAction::Withdrawn,
            // What needs no consent is objected to (GDPR, Art. 21).
            false => ConsentAction::Objected,
        };
        let word = Word {
            purpose: &step.purpose.name,
            channel: Some(step.channel),
            action,
            evidence: step.proof,
            at: after(point, now),
        };
        writes.push(self.said(ctx, point.who(subject), word)?);
        if !step.on {
            let scope = SuppressionScope::Purpose(step.purpose.name.clone());
            let suppression = self.unsubscribed(point.who(subject), scope, Some(step.channel));
            writes.push(suppression.write()?);
        }
        Ok(())
    }
}

/// One change of mind.
struct Step<'a> {
    purpose: &'a Purpose,
    channel: Channel,
    on: bool,
    proof: Evidence,
}

/// Now, or right after the last word that is on record: the choice made last counts, whatever the clocks say.
fn after(point: &Point, now: Timestamp) -> Timestamp {
    let last = point.standing.events.iter().map(|event| event.at).max();
    last.map_or(now, |last| {
        now.max(last.plus(std::time::Duration::from_micros(1)))
    })
}

fn context(subject: &LinkSubject) -> Context {
    Context::new(subject.tenant.clone()).actor(Actor::system("preferences"))
}

fn channels(kind: ContactKind) -> impl Iterator<Item = Channel> {
    Channel::ALL
        .into_iter()
        .filter(move |channel| channel.contact_kind() == kind)
}

fn hashed_on(
    point: &Point,
    subject: &LinkSubject,
    purpose: &Purpose,
    channel: Channel,
    now: Timestamp,
) -> bool {
    if point
        .standing
        .suppressions
        .iter()
        .any(|s| s.covers(purpose, channel, now))
    {
        return false;
    }
    let about: Vec<_> = point
        .standing
        .events
        .iter()
        .filter(|e| e.purpose == purpose.name && e.concerns(channel))
        .collect();
    match ConsentState::derive(about, subject.customer, now) {
        ConsentState::Granted { .. } => true,
        ConsentState::None => !purpose.needs_consent(),
        _ => false,
    }
}

impl Inbound {
    /// Answers at a link to the preference page: `GET` shows it, `POST` stores the choice, `HEAD` does nothing.
    pub async fn preferences(&self, token: &str, request: &WebhookRequest) -> WebhookReply {
        let texts = self.texts(request);
        let saved = match request.method.as_str() {
            "GET" | "HEAD" => false,
            "POST" => {
                let Some(wanted) = chosen(&request.body) else {
                    return WebhookReply::new(400, "text/plain; charset=utf-8", "not the form of this page");
                };
                let words = format!("{} {}", texts.preferences_title, texts.preferences_question);
                match self.outreach.choose(token, &wanted, &words).await {
                    Ok(()) => true,
                    Err(error) => return refused(&error, &texts),
                }
            }
            _ => return not_allowed(),
        };
        let choices = match self.outreach.choices(token).await {
            Ok(choices) => choices,
            Err(error) => return refused(&error, &texts),
        };
        let mut lines: Vec<Line> = Vec::new();
        let mut columns: Vec<&'static str> = Vec::new();
        for choice in choices {
            let column = choice.channel.as_str();
            if !columns.contains(&column) {
                columns.push(column);
            }
            let (title, description) = self.outreach.inbound.words_of(&choice.purpose, &texts.language);
            let at = match lines.iter().position(|line| line.name == choice.purpose) {
                Some(at) => at,
                None => {
                    lines.push(Line {
                        name: choice.purpose.clone(),
                        title,
                        description,
                        cells: BTreeMap::new(),
                    });
                    lines.len() - 1
                }
            };
            if let Some(line) = lines.get_mut(at)
                && (choice.on || choice.can_turn_on)
            {
                line.cells.insert(column, choice.on);
            }
        }
        let reply = page::choose(&texts, &columns, &lines, saved);
        if request.method == "HEAD" {
            reply.without_body()
        } else {
            reply
        }
    }
}

fn refused(error: &crm_core::Error, texts: &page::PageTexts) -> WebhookReply {
    if error.kind() == ErrorKind::Unauthenticated {
        tracing::debug!(%error, "a link was refused");
        return page::invalid(texts);
    }
    tracing::error!(%error, "a choice could not be read or stored");
    page::busy(texts)
}

/// The boxes that are ticked in a form; `None` when it is not our form.
fn chosen(body: &[u8]) -> Option<BTreeSet<(String, Channel)>> {
    let mut ours = false;
    let mut wanted = BTreeSet::new();
    for (name, value) in url::form_urlencoded::parse(body).take(2000) {
        if name == "save" {
            ours = value == "1";
        } else if let Some((purpose, channel)) = name.rsplit_once(':')
            && let Ok(channel) = channel.parse()
        {
            wanted.insert((purpose.to_owned(), channel));
        }
    }
    ours.then_some(wanted)
}
