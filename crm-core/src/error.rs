//! The one error type of every crate: what went wrong, where, whether to try again, and whether the outside world
//! may have changed.
//!
//! ```
//! use crm_core::{Effect, Error, ErrorKind, Retry};
//!
//! let error = Error::new(ErrorKind::Timeout, "no answer to the end of data within 600 s")
//!     .operation("mail.send")
//!     .with("provider", "smtp")
//!     .effect_unknown();
//! assert_eq!(error.kind(), ErrorKind::Timeout);
//! assert_eq!(error.effect(), Effect::Unknown);
//! assert_eq!(error.retry(), Retry::Never); // never repeated blindly: it may have happened
//! assert_eq!(
//!     error.to_string(),
//!     "timeout at mail.send: no answer to the end of data within 600 s [provider=smtp]"
//! );
//! ```

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use crate::message::Blame;

/// The result of every fallible call of the workspace.
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn std::error::Error + Send + Sync + 'static>;

/// What kind of failure it is; what a caller branches on.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// A setting is wrong; the context names it.
    Config,
    /// The operation or provider is not there: compiled out, not registered, or not offered.
    Unsupported,
    /// The input is wrong; the context names the field, row or parameter.
    Invalid,
    /// What was asked for does not exist (for this tenant).
    NotFound,
    /// A version, unique key or lease is not what the caller thought.
    Conflict,
    /// The credentials were refused.
    Unauthenticated,
    /// Known, but not allowed.
    PermissionDenied,
    /// The message must not go out: no consent, suppressed, or outside the allowed hours.
    Refused,
    /// The other side asks to slow down.
    RateLimited,
    /// It took longer than allowed.
    Timeout,
    /// The other side cannot be reached or cannot serve now.
    Unavailable,
    /// The caller cancelled.
    Cancelled,
    /// Data at rest is damaged or written by a newer version.
    Corrupt,
    /// Anything that should not happen; worth a bug report.
    Unexpected,
}

impl ErrorKind {
    /// The kind in words, as it stands in messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Config => "wrong setting",
            Self::Unsupported => "not supported",
            Self::Invalid => "invalid input",
            Self::NotFound => "not found",
            Self::Conflict => "conflict",
            Self::Unauthenticated => "unauthenticated",
            Self::PermissionDenied => "permission denied",
            Self::Refused => "refused",
            Self::RateLimited => "rate limited",
            Self::Timeout => "timeout",
            Self::Unavailable => "unavailable",
            Self::Cancelled => "cancelled",
            Self::Corrupt => "corrupt data",
            Self::Unexpected => "unexpected",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether the same call may be made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// It would fail again, or could do harm.
    Never,
    /// It may be made again, not before `after` when the other side said so.
    Allowed {
        /// The wait the other side asked for.
        after: Option<Duration>,
    },
    /// A policy below already tried as often as it may: do not multiply.
    Exhausted,
}

/// Whether the side effect of a failed call may have happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It certainly did not happen.
    None,
    /// It may have happened: such a call is neither repeated blindly nor failed over.
    Unknown,
}

/// What went wrong. One line in `Display`, the chain of causes in `Debug`.
///
/// Neither form ever holds a secret or a person's data: who makes an error passes names of fields, settings and rows,
/// never their values.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: Cow<'static, str>,
    operation: Option<&'static str>,
    context: Vec<(&'static str, String)>,
    retry: Retry,
    effect: Effect,
    source: Option<Source>,
}

impl Error {
    /// A new error. `message` is lower case, without a full stop, without personal data.
    ///
    /// [`ErrorKind::RateLimited`], [`ErrorKind::Timeout`] and [`ErrorKind::Unavailable`] may be retried unless said
    /// otherwise; the effect is [`Effect::None`] unless said otherwise.
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        let retry = match kind {
            ErrorKind::RateLimited | ErrorKind::Timeout | ErrorKind::Unavailable => {
                Retry::Allowed { after: None }
            }
            _ => Retry::Never,
        };
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            operation: None,
            context: Vec::new(),
            retry,
            effect: Effect::None,
            source: None,
        }))
    }

    /// Shorthand for [`ErrorKind::Invalid`].
    pub fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    /// Shorthand for [`ErrorKind::Config`].
    pub fn config(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Config, message)
    }

    /// Shorthand for [`ErrorKind::Conflict`].
    pub fn conflict(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Conflict, message)
    }

    /// Shorthand for [`ErrorKind::Unexpected`].
    pub fn unexpected(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Unexpected, message)
    }

    /// Names the operation, `noun.verb` (`mail.send`, `store.apply`). The innermost name stays.
    #[must_use]
    pub fn operation(mut self, operation: &'static str) -> Self {
        self.0.operation.get_or_insert(operation);
        self
    }

    /// Adds a piece of context: a field's, setting's or provider's name, a row number. Never a person's data.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl fmt::Display) -> Self {
        self.0.context.push((key, value.to_string()));
        self
    }

    /// Keeps the cause.
    #[must_use]
    pub fn source(mut self, source: impl Into<Source>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Sets whether it may be tried again.
    #[must_use]
    pub fn with_retry(mut self, retry: Retry) -> Self {
        self.0.retry = retry;
        self
    }

    /// Sets the effect. [`Effect::Unknown`] also forbids a retry; an idempotent caller may allow it again.
    #[must_use]
    pub fn with_effect(mut self, effect: Effect) -> Self {
        self.0.effect = effect;
        if effect == Effect::Unknown {
            self.0.retry = Retry::Never;
        }
        self
    }

    /// Marks that the side effect may have happened.
    #[must_use]
    pub fn effect_unknown(self) -> Self {
        self.with_effect(Effect::Unknown)
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The message alone.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The operation that failed, if named.
    pub fn operation_name(&self) -> Option<&'static str> {
        self.0.operation
    }

    /// The first piece of context under `key`.
    pub fn context(&self, key: &str) -> Option<&str> {
        self.0
            .context
            .iter()
            .find(|(k, _)| *k == key)
            .map(|(_, v)| v.as_str())
    }

    /// All pieces of context, in the order in which they were added.
    pub fn contexts(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.context.iter().map(|(key, value)| (*key, value.as_str()))
    }

    /// Says whose fault it is that a message did not arrive.
    #[must_use]
    pub fn blame(self, blame: Blame) -> Self {
        self.with("blame", blame)
    }

    /// Whose fault it is that a message did not arrive, and so what follows for whom; nobody's unless said.
    pub fn blamed(&self) -> Blame {
        self.context("blame")
            .and_then(|blame| blame.parse().ok())
            .unwrap_or_default()
    }

    /// Whether it may be tried again.
    pub fn retry(&self) -> Retry {
        self.0.retry
    }

    /// Whether the side effect may have happened.
    pub fn effect(&self) -> Effect {
        self.0.effect
    }

    /// True for [`Retry::Allowed`].
    pub fn is_retryable(&self) -> bool {
        matches!(self.0.retry, Retry::Allowed { .. })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.kind.as_str())?;
        if let Some(operation) = self.0.operation {
            write!(f, " at {operation}")?;
        }
        write!(f, ": {}", self.0.message)?;
        if !self.0.context.is_empty() {
            f.write_str(" [")?;
            for (i, (key, value)) in self.0.context.iter().enumerate() {
                if i > 0 {
                    f.write_str(", ")?;
                }
                write!(f, "{key}={value}")?;
            }
            f.write_str("]")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        write!(f, " (retry: {:?}, effect: {:?})", self.0.retry, self.0.effect)?;
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            write!(f, "\n  caused by: {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0
            .source
            .as_deref()
            .map(|s| s as &(dyn std::error::Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_one_word() {
        assert_eq!(size_of::<Result<()>>(), size_of::<usize>());
    }

    #[test]
    fn innermost_operation_stays() {
        let error = Error::invalid("x")
            .operation("store.apply")
            .operation("customers.upsert");
        assert_eq!(error.operation_name(), Some("store.apply"));
    }

    #[test]
    fn debug_shows_the_chain() {
        let io = std::io::Error::new(std::io::ErrorKind::PermissionDenied, "read-only file system");
        let error = Error::new(ErrorKind::Config, "the database file cannot be opened").source(io);
        assert_eq!(
            format!("{error:?}"),
            "wrong setting: the database file cannot be opened (retry: Never, effect: None)\n  caused by: read-only file system"
        );
    }
}
