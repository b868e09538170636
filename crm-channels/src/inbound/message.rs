//! Messages to us: commands, and everything else.

use crm_core::activity::Interaction;
use crm_core::consent::{ConsentAction, Evidence, Purpose, SUPPRESSION, SuppressionReason, SuppressionScope};
use crm_core::customer::{Attributes, CONTACT_POINT, CustomerId, PhoneNumber};
use crm_core::message::{Channel, InboundMessage, Keyword, Sms};
use crm_core::query::{Filter, Query};
use crm_core::record::{Entity, Write};
use crm_core::{Context, Result, Uuid};

use super::ingest::{MAX_TEXT, Outcome, Work, clean, json, key, text_of};
use super::permission::{Standing, Who, Word};
use super::words::Reading;
use crate::Outreach;
use crate::outbox::{Outgoing, channel_word};

/// Where the word to stop came from, in the evidence of what it withdrew: what START may give back.
fn by_keyword(channel: Channel) -> &'static str {
    match channel {
        Channel::Sms => "sms keyword",
        Channel::Voice => "key in a call",
        Channel::Email => "mail keyword",
    }
}

/// What is answered to a command. Vendors that answer by themselves say so with the message; then nothing is answered.
///
/// ```
/// use crm_channels::inbound::Answers;
///
/// let answers = Answers {
///     stopped: Some("You will get no more messages from Shop. Reply START to get them again.".into()),
///     ..Answers::default()
/// };
/// assert!(answers.help.is_none());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Answers {
    /// Once after a STOP, without a word of marketing.
    pub stopped: Option<String>,
    /// After a START that changed something.
    pub started: Option<String>,
    /// After a HELP: who writes, how to reach a person, how to stop.
    pub help: Option<String>,
}

impl Outreach {
    pub(super) async fn take_message(&self, ctx: &Context, message: InboundMessage) -> Result<Outcome> {
        let message = InboundMessage {
            provider: key(&message.provider),
            provider_ref: key(&message.provider_ref),
            text: clean(&message.text, MAX_TEXT),
            to: clean(&message.to, 320),
            ..message
        };
        let reading = match (message.keyword, message.channel) {
            (Some(keyword), _) => Reading::Command(keyword),
            // Only a text message is a command: a mail may quote the word "stop" from anywhere.
            (None, Channel::Sms) => self.inbound.words.read(&message.text, text_of(&message.from)),
            (None, _) => Reading::Text,
        };
        self.intake()?
            .once(ctx, || self.message_work(ctx, &message, reading))
            .await
    }

    async fn message_work(&self, ctx: &Context, message: &InboundMessage, reading: Reading) -> Result<Work> {
        let outcome = match reading {
            Reading::Command(Keyword::Stop) => Outcome::Stop,
            Reading::Command(Keyword::Start) => Outcome::Start,
            Reading::Command(Keyword::Help) => Outcome::Help,
            Reading::Review => Outcome::Review,
            Reading::Text => Outcome::Text,
        };
        let address_key = self.key()?.of_address(&message.from);
        let owners = self.owners(ctx, message).await?;
        let event_id = key(&format!("message:{}", message.provider_ref));
        let mut record =
            self.intake()?
                .inbound(&message.provider, &event_id, "message", outcome, message.at)?;
        record.set("provider_ref", message.provider_ref.as_str())?;
        record.set("address_key", address_key.as_str())?;
        if owners.is_empty() {
            // Nobody's timeline: kept here for a person to read.
            record.set("event", json(message)?)?;
        }
        let mut writes = vec![Write::insert(self.ids.fresh(), record)];
        for owner in &owners {
            writes.push(self.received(*owner, message, outcome)?);
        }
        let who = Who {
            // The nil id stands for nobody: an address that no customer has.
            customer: owners.first().copied().unwrap_or_else(|| Uuid::nil().into()),
            kind: message.channel.contact_kind(),
            address_key: &address_key,
        };
        let answer = match outcome {
            Outcome::Stop => {
                let standing = self.standing(ctx, &address_key).await?;
                let fresh = self.stop(ctx, who, message, &standing, &mut writes)?;
                self.inbound.answers.stopped.as_ref().filter(|_| fresh)
            }
            Outcome::Start => {
                let standing = self.standing(ctx, &address_key).await?;
                let fresh = self.start(ctx, who, message, &standing, &mut writes)?;
                self.inbound.answers.started.as_ref().filter(|_| fresh)
            }
            Outcome::Help => self.inbound.answers.help.as_ref(),
            _ => None,
        };
        if let Some(text) = answer
            && message.keyword.is_none()
            && let Some(owner) = owners.first()
        {
            writes.extend(self.answer(*owner, message, outcome, text)?);
        }
        Ok(Work { outcome, writes })
    }

    /// The customers who are reached at the sender's address.
    async fn owners(&self, ctx: &Context, message: &InboundMessage) -> Result<Vec<CustomerId>> {
        let filter = Filter::eq("value", text_of(&message.from))
            .and(Filter::eq("kind", message.channel.contact_kind().as_str()));
        let page = self
            .store
            .find(ctx, &CONTACT_POINT, &Query::new(filter).limit(100))
            .await?;
        let mut owners = Vec::with_capacity(page.items.len());
        for stored in page.items {
            owners.push(stored.record.uuid("customer_id")?.into());
        }
        owners.sort_unstable();
        owners.dedup();
        Ok(owners)
    }

    /// The message on a customer's timeline.
    fn received(&self, customer: CustomerId, message: &InboundMessage, outcome: Outcome) -> Result<Write> {
        let mut data = Attributes::default();
        data.set("text", message.text.as_str())?;
        data.set("to", message.to.as_str())?;
        data.set("provider", message.provider.as_str())?;
        data.set("provider_ref", message.provider_ref.as_str())?;
        data.set("meaning", outcome.as_str())?;
        data.set("review", outcome == Outcome::Review)?;
        let interaction = Interaction {
            id: self.ids.fresh().into(),
            customer_id: customer,
            at: message.at,
            kind: format!("{}.received", channel_word(message.channel)),
            source: message.provider.clone(),
            event_id: key(&format!("{}:{customer}", message.provider_ref)),
            data,
        };
        Ok(Write::insert_or_skip(interaction.id, interaction.to_record()?))
    }

    /// Ends marketing by the channel it was said on, texts or calls: whatever was agreed to is withdrawn, and the address
    /// is kept back, whoever's it is. The other channels go on. Answers whether anything changed.
    fn stop(
        &self,
        ctx: &Context,
        who: Who<'_>,
        message: &InboundMessage,
        standing: &Standing,
        writes: &mut Vec<Write>,
    ) -> Result<bool> {
        let channel = message.channel;
        for ((purpose, customer), event) in standing.newest(channel) {
            if event.action.agrees() {
                let who = Who { customer, ..who };
                let evidence = self.keyword_evidence(message)?;
                let at = self.clock.now().max(event.at);
                writes.push(self.said(
                    ctx,
                    who,
                    Word {
                        purpose,
                        channel: Some(channel),
                        action: ConsentAction::Withdrawn,
                        evidence,
                        at,
                    },
                )?);
            }
        }
        let suppression = self.unsubscribed(who, SuppressionScope::Marketing, Some(channel));
        let known = standing.suppressions.iter().any(|s| s.id == suppression.id);
        if !known {
            // Not "or skip": of two at once only one is the first, and only the first is answered.
            writes.push(Write::insert(suppression.id, suppression.to_record()?));
        }
        Ok(!known)
    }

    /// Gives back what STOP took, for the same channel, and nothing more: neither what was withdrawn elsewhere nor what
    /// was complained about. Answers whether anything changed.
    fn start(
        &self,
        ctx: &Context,
        who: Who<'_>,
        message: &InboundMessage,
        standing: &Standing,
        writes: &mut Vec<Write>,
    ) -> Result<bool> {
        if standing.is_erased() {
            return Ok(false);
        }
        let channel = message.channel;
        let mut changed = false;
        for suppression in &standing.suppressions {
            let by_stop = suppression.channel == Some(channel)
                && suppression.scope == SuppressionScope::Marketing
                && suppression.reason == SuppressionReason::Unsubscribed;
            if by_stop {
                writes.push(Write::delete(&SUPPRESSION, suppression.id, None));
                changed = true;
            }
        }
        for ((purpose, customer), event) in standing.newest(channel) {
            let by_stop = event.action == ConsentAction::Withdrawn
                && event.channel == Some(channel)
                && event.evidence.source == by_keyword(channel);
            if by_stop {
                let who = Who { customer, ..who };
                let evidence = self.keyword_evidence(message)?;
                // At one instant a withdrawal beats a consent: this one comes after.
                let at = self
                    .clock
                    .now()
                    .max(event.at.plus(std::time::Duration::from_micros(1)));
                writes.push(self.said(
                    ctx,
                    who,
                    Word {
                        purpose,
                        channel: Some(channel),
                        action: ConsentAction::Granted,
                        evidence,
                        at,
                    },
                )?);
                changed = true;
            }
        }
        Ok(changed)
    }

    fn keyword_evidence(&self, message: &InboundMessage) -> Result<Evidence> {
        let text = clean(message.text.trim(), 200);
        let words = if text.is_empty() {
            "keyword told by the vendor"
        } else {
            text.as_str()
        };
        let detail =
            serde_json::json!({ "provider": message.provider, "provider_ref": message.provider_ref });
        Ok(Evidence::new(by_keyword(message.channel), words)?.detail(detail))
    }

    /// The answer to a command, from the number that was written to; the same message is answered once.
    fn answer(
        &self,
        owner: CustomerId,
        message: &InboundMessage,
        outcome: Outcome,
        text: &str,
    ) -> Result<Option<Write>> {
        let crm_core::customer::Address::Phone(to) = &message.from else {
            return Ok(None);
        };
        if message.channel != Channel::Sms {
            return Ok(None);
        }
        let mut sms = Sms::new(self.ids.fresh().into(), PhoneNumber::clone(to), text);
        if !message.to.trim().is_empty() {
            sms = sms.from(message.to.trim());
        }
        let purpose = Purpose::transactional(ANSWER)?;
        let outgoing = Outgoing::sms(sms, owner, purpose).dedupe_key(key(&format!(
            "answer:{}:{}:{}",
            outcome.as_str(),
            message.provider,
            message.provider_ref
        )));
        outgoing.write_once(self.clock.now()).map(Some)
    }
}

/// The purpose for which commands are answered; transactional.
pub const ANSWER: &str = "keyword-answer";
