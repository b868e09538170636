use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Timestamp;
use crate::customer::CustomerId;
use crate::message::{Message, Permitted, Sendable as _};
use crate::record::Write;

use super::Purpose;

/// Why a message may or may not go out: each rule that was asked and what it answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// Whether it may.
    pub allowed: bool,
    /// The rules asked, in order, and their answers, without personal data.
    pub trace: Vec<String>,
    /// When only the time is wrong: the instant from which it may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub later: Option<Timestamp>,
}

impl Decision {
    /// A decision that does not depend on the time of day.
    pub fn new(allowed: bool, trace: Vec<String>) -> Self {
        Self {
            allowed,
            trace,
            later: None,
        }
    }

    /// The last rule asked and its answer: for a refusal, the reason.
    pub fn last(&self) -> &str {
        self.trace.last().map_or("no rule was asked", String::as_str)
    }

    /// The name of the last rule asked: for a refusal, the one that said no.
    pub fn rule(&self) -> &str {
        self.last().split(':').next().unwrap_or_default()
    }
}

impl fmt::Display for Decision {
    /// One line a rule.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.trace {
            writeln!(f, "{line}")?;
        }
        f.write_str(match (self.allowed, self.later) {
            (true, _) => "allowed",
            (false, None) => "refused",
            (false, Some(_)) => "not yet",
        })
    }
}

/// A message that wants to go out. `Debug` shows no content.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The message.
    pub message: Message,
    /// What for.
    pub purpose: Purpose,
    /// Whose it is.
    pub customer: CustomerId,
}

impl Ask {
    /// A message to a customer for a purpose.
    pub fn new(message: impl Into<Message>, purpose: Purpose, customer: CustomerId) -> Self {
        Self {
            message: message.into(),
            purpose,
            customer,
        }
    }
}

/// What the gate says about one [`Ask`].
#[derive(Debug, Clone)]
pub enum Verdict {
    /// It may go out now.
    Go {
        /// The message, as a channel takes it.
        permitted: Permitted<Message>,
        /// What counts it against a limit. Belongs into the unit of work that marks the message as begun; when that
        /// fails with a [`crate::ErrorKind::Conflict`] on one of these, somebody else was let out meanwhile: ask again.
        writes: Vec<Write>,
    },
    /// Not now: wait, and use up no attempt.
    Later {
        /// The message, given back.
        message: Message,
        /// From when on asking again makes sense.
        at: Timestamp,
        /// Why.
        decision: Decision,
    },
    /// No.
    No {
        /// The message, given back.
        message: Message,
        /// Why.
        decision: Decision,
    },
}

impl Verdict {
    pub(super) fn of(message: Message, decision: Decision, writes: Vec<Write>) -> Self {
        match (decision.allowed, decision.later) {
            (true, _) => Self::Go {
                permitted: Permitted::new(message, decision),
                writes,
            },
            (false, Some(at)) => Self::Later {
                message,
                at,
                decision,
            },
            (false, None) => Self::No { message, decision },
        }
    }

    /// The rules asked and their answers.
    pub fn decision(&self) -> &Decision {
        match self {
            Self::Go { permitted, .. } => permitted.decision(),
            Self::Later { decision, .. } | Self::No { decision, .. } => decision,
        }
    }

    /// The message it is about.
    pub fn message_id(&self) -> crate::message::MessageId {
        match self {
            Self::Go { permitted, .. } => permitted.message().message_id(),
            Self::Later { message, .. } | Self::No { message, .. } => message.message_id(),
        }
    }
}
