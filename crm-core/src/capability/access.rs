use std::collections::BTreeSet;
use std::fmt;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{Actor, Context, Error, ErrorKind, Provider, Result, Secret, TenantId};

/// What somebody presents to say who they are. `Debug` shows no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Credentials {
    /// Nothing.
    Nothing,
    /// A bearer token (RFC 6750): an API key or a signed token.
    Bearer(Secret),
    /// Name and password (RFC 7617).
    Basic {
        /// The name.
        name: String,
        /// The password.
        password: Secret,
    },
}

/// One thing that may be done to one kind of thing: `customers.read`, `segments.write`; `*` stands for all on either side
/// of the point.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Scope {
    kind: String,
    action: String,
}

impl Scope {
    /// Everything.
    pub fn all() -> Self {
        Self {
            kind: "*".to_owned(),
            action: "*".to_owned(),
        }
    }

    /// Reads `kind.action`.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when it is not two words of `a-z` and `_`, or `*`, with a point between them.
    pub fn new(text: &str) -> Result<Self> {
        let word = |word: &str| {
            word == "*"
                || !word.is_empty()
                    && word.len() <= 64
                    && word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
        };
        match text.split_once('.') {
            Some((kind, action)) if word(kind) && word(action) => Ok(Self {
                kind: kind.to_owned(),
                action: action.to_owned(),
            }),
            _ => Err(
                Error::invalid("a scope is written `customers.read`, `customers.*` or `*.*`")
                    .with("field", "scope"),
            ),
        }
    }

    /// Whether it holds for what the other one names.
    pub fn covers(&self, other: &Self) -> bool {
        let holds = |mine: &str, theirs: &str| mine == "*" || mine == theirs;
        holds(&self.kind, &other.kind) && holds(&self.action, &other.action)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.kind, self.action)
    }
}
impl TryFrom<String> for Scope {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        Self::new(&text)
    }
}
impl From<Scope> for String {
    fn from(scope: Scope) -> Self {
        scope.to_string()
    }
}

/// Who somebody was found to be, and what they may do at the most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// For which tenant they act; for no other one.
    pub tenant: TenantId,
    /// Who they are.
    pub actor: Actor,
    /// What they may do; nothing when empty.
    pub scopes: BTreeSet<Scope>,
}

impl Principal {
    /// A context to call with.
    pub fn context(&self) -> Context {
        Context::new(self.tenant.clone()).actor(self.actor.clone())
    }

    /// Whether they may do this: `customers.read`.
    ///
    /// # Errors
    /// [`ErrorKind::PermissionDenied`] naming the scope that is missing.
    pub fn require(&self, scope: &str) -> Result<()> {
        let wanted = Scope::new(scope)?;
        if self.scopes.iter().any(|held| held.covers(&wanted)) {
            return Ok(());
        }
        Err(
            Error::new(ErrorKind::PermissionDenied, "the credentials do not allow this")
                .with("scope", wanted),
        )
    }
}

/// Finds out who somebody is.
#[async_trait]
pub trait Authenticator: Provider {
    /// The one who presents these.
    ///
    /// # Errors
    /// [`ErrorKind::Unauthenticated`] when they say nothing, or nothing that holds: unknown, wrong, expired and revoked are
    /// not told apart.
    async fn authenticate(&self, credentials: &Credentials) -> Result<Principal>;
}

/// The answer to credentials that do not hold, the same for every reason.
pub fn not_authenticated() -> Error {
    Error::new(
        ErrorKind::Unauthenticated,
        "the credentials are missing or do not hold",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_holds_for_what_it_names() {
        let held = |scopes: &[&str]| Principal {
            tenant: TenantId::new("shop").unwrap(),
            actor: Actor::system("test"),
            scopes: scopes.iter().map(|scope| Scope::new(scope).unwrap()).collect(),
        };
        for (scopes, wanted, allowed) in [
            (&["customers.read"][..], "customers.read", true),
            (&["customers.read"], "customers.write", false),
            (&["customers.*"], "customers.write", true),
            (&["*.read"], "segments.read", true),
            (&["*.read"], "segments.write", false),
            (&["*.*"], "segments.write", true),
            (&[], "customers.read", false),
        ] {
            let answer = held(scopes).require(wanted);
            assert_eq!(answer.is_ok(), allowed, "{scopes:?} {wanted}");
            if let Err(error) = answer {
                assert_eq!(
                    (error.kind(), error.context("scope")),
                    (ErrorKind::PermissionDenied, Some(wanted))
                );
            }
        }
        for bad in [
            "",
            "customers",
            "customers.",
            ".read",
            "Customers.read",
            "a.b.c",
            "customers.read ",
        ] {
            assert!(Scope::new(bad).is_err(), "{bad}");
        }
        assert!(!format!("{:?}", Credentials::Bearer(Secret::new("token-1"))).contains("token-1"));
    }
}
