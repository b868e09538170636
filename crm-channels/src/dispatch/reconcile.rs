//! Asking the vendors what became of messages whose answer was lost.

use crm_core::message::{
    Blame, Channel, DeliveryEvent, DeliveryState, Lookup, Message, MessageId, Receipt, Sendable,
};
use crm_core::query::{Filter, Query};
use crm_core::record::{Stored, Value};
use crm_core::{Context, Error, Result};
use futures_util::stream::{StreamExt as _, iter};

use super::Dispatcher;
use super::begin::Job;
use super::commit::Lease;
use super::report::Done;
use super::settle::{End, What};
use crate::outbox::{Entry, OUTBOX, OutboxState};

/// What [`Dispatcher::reconcile`] found out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ReconcileReport {
    /// Messages asked about.
    pub asked: u64,
    /// Those that did go out.
    pub sent: u64,
    /// Those that did not, or did not arrive.
    pub failed: u64,
    /// Those that no vendor knows: if they still make sense, they can be queued again
    /// ([`Dispatcher::requeue`](super::Dispatcher::requeue)).
    pub not_found: Vec<MessageId>,
    /// Those nobody can be asked about: by e-mail, or through a vendor that gives no answers.
    pub cannot_ask: u64,
    /// Those about which the vendor could not be asked now, or does not know yet.
    pub later: u64,
}

enum Found {
    Events(Vec<DeliveryEvent>),
    Nothing,
    CannotAsk,
    Later(Error),
}

impl Dispatcher {
    /// Asks the vendors about text messages and calls whose outcome is unknown, by their reference or our id, and settles
    /// those they know. [`Dispatcher::run`] does it by itself now and then ([`upkeep`](super::DispatchSettings::upkeep)); this asks about all of them, whenever they ended. Vendors need a few minutes to
    /// file what they took.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn reconcile(&self, ctx: &Context) -> Result<ReconcileReport> {
        let mut report = ReconcileReport::default();
        let phone = [Channel::Sms, Channel::Voice].map(Channel::as_str);
        let unknown = Filter::eq("state", OutboxState::Unknown.as_str());
        let mails = unknown
            .clone()
            .and(Filter::eq("channel", Channel::Email.as_str()));
        report.cannot_ask = self.store.count(ctx, &OUTBOX, &mails).await?;
        let unknown = unknown.and(Filter::one_of("channel", phone));
        self.reconcile_those(ctx, unknown, &mut report).await?;
        Ok(report)
    }

    /// As [`Dispatcher::reconcile`], about texts and calls that ended within one of these times.
    pub(super) async fn reconcile_of(&self, ctx: &Context, ended: Filter) -> Result<ReconcileReport> {
        let mut report = ReconcileReport::default();
        let phone = [Channel::Sms, Channel::Voice].map(Channel::as_str);
        let unknown = Filter::eq("state", OutboxState::Unknown.as_str())
            .and(Filter::one_of("channel", phone))
            .and(ended);
        self.reconcile_those(ctx, unknown, &mut report).await?;
        Ok(report)
    }

    async fn reconcile_those(
        &self,
        ctx: &Context,
        which: Filter,
        report: &mut ReconcileReport,
    ) -> Result<()> {
        let mut query = Query::new(which).limit(100);
        loop {
            let page = self.store.find(ctx, &OUTBOX, &query).await?;
            let mut found = iter(page.items)
                .map(|stored| async move { self.asked(ctx, stored).await })
                .buffer_unordered(self.settings.concurrency);
            while let Some((job, found)) = found.next().await {
                if let Some(job) = job {
                    self.conclude(ctx, job, found, report).await;
                }
            }
            drop(found);
            match page.next {
                Some(next) => query = query.after(Some(next)),
                None => return Ok(()),
            }
        }
    }

    async fn asked(&self, ctx: &Context, stored: Stored) -> (Option<Job>, Found) {
        let lease = Lease::of(stored);
        let entry = match Entry::read(lease.id, &lease.record) {
            Ok(entry) => entry,
            Err(error) => return (None, Found::Later(error)),
        };
        let r = &lease.record;
        let text = |field: &str| r.get(field).and_then(Value::as_str).map(str::to_owned);
        let begun = entry
            .send_started_at
            .or_else(|| r.get("finished_at").and_then(Value::as_timestamp));
        let to = match &entry.message {
            Message::Email(_) => return (None, Found::CannotAsk),
            Message::Sms(sms) => sms.to.clone(),
            Message::Voice(call) => call.to.clone(),
        };
        let lookup = Lookup {
            message_id: entry.message.message_id(),
            provider_ref: text("provider_ref"),
            to,
            sent_at: begun.unwrap_or_else(|| self.now()),
        };
        let found = self.look_up(ctx, &entry, text("provider"), lookup).await;
        (Some(Job { lease, entry }), found)
    }

    /// Asks whoever had it first, then those who may have helped out.
    async fn look_up(&self, ctx: &Context, entry: &Entry, first: Option<String>, lookup: Lookup) -> Found {
        let providers = self.router.live();
        let mut names: Vec<String> = match entry.channel() {
            Channel::Sms => providers
                .sms
                .entries()
                .iter()
                .filter(|e| e.provider().capability().lookup)
                .map(|e| e.provider().info().name.clone())
                .collect(),
            _ => providers
                .voice
                .entries()
                .iter()
                .filter(|e| e.provider().capability().lookup)
                .map(|e| e.provider().info().name.clone())
                .collect(),
        };
        if names.is_empty() {
            return Found::CannotAsk;
        }
        names.sort_by_key(|name| Some(name) != first.as_ref());
        let mut trouble = None;
        for name in names {
            // A reference means something only to the one who gave it.
            let mut lookup = lookup.clone();
            if first.as_ref() != Some(&name) {
                lookup.provider_ref = None;
            }
            let asked = match entry.channel() {
                Channel::Sms => match providers.sms.filter(|p| p.info().name == name).best() {
                    Ok(sender) => sender.lookup(ctx, &lookup).await,
                    Err(error) => Err(error),
                },
                _ => match providers.voice.filter(|p| p.info().name == name).best() {
                    Ok(caller) => caller.lookup(ctx, &lookup).await,
                    Err(error) => Err(error),
                },
            };
            match asked {
                Ok(events) if events.is_empty() => {}
                Ok(events) => return Found::Events(events),
                Err(error) => trouble = Some(error),
            }
        }
        trouble.map_or(Found::Nothing, Found::Later)
    }

    async fn conclude(&self, ctx: &Context, mut job: Job, found: Found, report: &mut ReconcileReport) {
        report.asked += 1;
        let events = match found {
            Found::Events(events) => events,
            Found::Nothing => {
                report.not_found.push(job.lease.id.into());
                return;
            }
            Found::CannotAsk => {
                report.asked -= 1;
                report.cannot_ask += 1;
                return;
            }
            Found::Later(error) => {
                tracing::warn!(message = %job.lease.id, %error, "the vendor could not be asked");
                report.later += 1;
                return;
            }
        };
        let state = events
            .iter()
            .map(|event| event.state)
            .fold(DeliveryState::Queued, DeliveryState::join);
        let end = match state {
            DeliveryState::Accepted | DeliveryState::Delivered | DeliveryState::Complained => {
                OutboxState::Sent
            }
            DeliveryState::Failed | DeliveryState::Refused => OutboxState::Failed,
            DeliveryState::Queued | DeliveryState::Recorded | DeliveryState::Unknown => {
                report.later += 1;
                return;
            }
        };
        let blame = events
            .iter()
            .map(|event| event.blame)
            .find(|b| *b != Blame::Nobody);
        let reason = events.iter().rev().find_map(|event| event.reason.clone());
        let receipt = events.iter().find_map(|event| {
            let reference = event.provider_ref.clone()?;
            Some(Receipt::new(event.provider.clone(), reference, event.at))
        });
        job.entry.maybe_sent = false; // it is known now
        let what = What::End(End::found(end, state, receipt, reason, blame.unwrap_or_default()));
        for settled in self.settle(ctx, vec![(job, what)]).await {
            match settled.done {
                Done::Sent => report.sent += 1,
                Done::Failed => report.failed += 1,
                _ => report.later += 1,
            }
        }
    }
}
