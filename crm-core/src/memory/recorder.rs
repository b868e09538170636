//! What the in-memory mailer, SMS sender and voice caller have in common: they record and follow a script.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::message::{DeliveryEvent, DeliveryState, Lookup, Permitted, Receipt, Sendable};
use crate::{Clock, Effect, Error, ErrorKind, ProviderInfo, Result, SystemClock, TenantId};

type Refusal = Box<dyn Fn() -> Error + Send>;

enum Step {
    Fail(Error),
    LoseAnswer,
}

struct State<M> {
    taken: Vec<(TenantId, Permitted<M>)>,
    script: VecDeque<Step>,
    refusals: Vec<(String, Refusal)>,
}

pub(super) struct Recorder<M> {
    pub(super) info: ProviderInfo,
    pub(super) clock: Arc<dyn Clock>,
    operation: &'static str,
    state: Mutex<State<M>>,
}

impl<M: Sendable + Clone> Recorder<M> {
    pub(super) fn new(name: String, operation: &'static str) -> Self {
        Self {
            info: ProviderInfo::new("memory", name),
            clock: SystemClock::shared(),
            operation,
            state: Mutex::new(State {
                taken: Vec::new(),
                script: VecDeque::new(),
                refusals: Vec::new(),
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State<M>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn sent(&self) -> Vec<Permitted<M>> {
        self.state()
            .taken
            .iter()
            .map(|(_, message)| message.clone())
            .collect()
    }

    pub(super) fn sent_for(&self, tenant: &TenantId) -> Vec<Permitted<M>> {
        self.state()
            .taken
            .iter()
            .filter(|(of, _)| of == tenant)
            .map(|(_, message)| message.clone())
            .collect()
    }

    pub(super) fn fail_next(&self, error: Error) {
        self.state().script.push_back(Step::Fail(error));
    }

    pub(super) fn lose_next_answer(&self) {
        self.state().script.push_back(Step::LoseAnswer);
    }

    pub(super) fn refuse(&self, recipient: String, with: Refusal) {
        self.state().refusals.push((recipient, with));
    }

    pub(super) fn take(&self, tenant: &TenantId, message: &Permitted<M>) -> Result<Receipt> {
        let mut state = self.state();
        let named = |error: Error| error.operation(self.operation);
        let recipient = message.message().recipient();
        if let Some((_, refusal)) = state.refusals.iter().find(|(who, _)| who == recipient) {
            return Err(named(refusal()));
        }
        let step = state.script.pop_front();
        if let Some(Step::Fail(error)) = step {
            return Err(named(error));
        }
        state.taken.push((tenant.clone(), message.clone()));
        if matches!(step, Some(Step::LoseAnswer)) {
            return Err(named(
                Error::new(ErrorKind::Timeout, "the answer was lost").with_effect(Effect::Unknown),
            ));
        }
        Ok(Receipt::new(
            self.info.name.clone(),
            self.reference(state.taken.len()),
            self.clock.now(),
        ))
    }

    fn reference(&self, place: usize) -> String {
        format!("{}-{place}", self.info.name)
    }

    /// What is recorded under the reference, or under the message's own id when there is none.
    pub(super) fn look_up(&self, tenant: &TenantId, lookup: &Lookup) -> Vec<DeliveryEvent> {
        let state = self.state();
        let taken = state.taken.iter().enumerate();
        let wanted = taken.filter(|(place, (of, message))| {
            of == tenant
                && match &lookup.provider_ref {
                    Some(reference) => *reference == self.reference(place + 1),
                    None => message.message().message_id() == lookup.message_id,
                }
        });
        wanted
            .map(|(place, (_, message))| DeliveryEvent {
                provider: self.info.name.clone(),
                event_id: format!("{}:accepted", self.reference(place + 1)),
                message_id: Some(message.message().message_id()),
                provider_ref: Some(self.reference(place + 1)),
                recipient: None,
                state: DeliveryState::Accepted,
                at: self.clock.now(),
                code: None,
                reason: None,
                blame: crate::message::Blame::Nobody,
            })
            .collect()
    }
}

impl<M> fmt::Debug for Recorder<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder")
            .field("name", &self.info.name)
            .finish_non_exhaustive()
    }
}
