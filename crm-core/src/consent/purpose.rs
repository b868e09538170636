use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Whether a message serves the customer's own business or ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PurposeClass {
    /// Part of something the customer asked for: a receipt, a reset link.
    Transactional,
    /// Anything that promotes. Needs consent.
    Marketing,
}

impl PurposeClass {
    pub(super) fn parse(text: &str) -> Option<Self> {
        [Self::Transactional, Self::Marketing]
            .into_iter()
            .find(|class| class.as_str() == text)
    }

    /// The class as it is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Transactional => "transactional",
            Self::Marketing => "marketing",
        }
    }
}

/// On what ground the law lets the data be used (GDPR, Art. 6(1)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LegalBasis {
    /// The person agreed (a).
    Consent,
    /// Needed to keep a contract with the person (b).
    Contract,
    /// A law demands it (c).
    LegalObligation,
    /// A legitimate interest that outweighs the person's (f).
    LegitimateInterest,
}

impl LegalBasis {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Consent,
        Self::Contract,
        Self::LegalObligation,
        Self::LegitimateInterest,
    ];

    /// The basis as it is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Consent => "consent",
            Self::Contract => "contract",
            Self::LegalObligation => "legal_obligation",
            Self::LegitimateInterest => "legitimate_interest",
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|basis| basis.as_str() == text)
    }
}

/// What messages are sent for. Consent is given and withdrawn for one purpose at a time.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Purpose {
    /// Its name: 1 to 64 of `a-z`, `0-9`, `-`, `_`, a letter first.
    pub name: String,
    /// Whether it promotes.
    pub class: PurposeClass,
    /// On what ground.
    pub legal_basis: LegalBasis,
    /// Whether a consent counts only once it was confirmed from the address itself (double opt-in).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub double_opt_in: bool,
}

impl Purpose {
    /// A purpose of any class and basis.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] on `field=purpose` when the name has other characters.
    pub fn new(name: &str, class: PurposeClass, legal_basis: LegalBasis) -> Result<Self> {
        let purpose = Self {
            name: name.to_owned(),
            class,
            legal_basis,
            double_opt_in: false,
        };
        purpose.validate()?;
        Ok(purpose)
    }

    /// A marketing purpose, based on consent.
    ///
    /// # Errors
    /// As [`Purpose::new`].
    pub fn marketing(name: &str) -> Result<Self> {
        Self::new(name, PurposeClass::Marketing, LegalBasis::Consent)
    }

    /// A transactional purpose, based on a contract.
    ///
    /// # Errors
    /// As [`Purpose::new`].
    pub fn transactional(name: &str) -> Result<Self> {
        Self::new(name, PurposeClass::Transactional, LegalBasis::Contract)
    }

    /// The same purpose, but a consent counts only once it was confirmed from the address itself
    /// ([`super::Gate::request_opt_in`]).
    #[must_use]
    pub fn with_double_opt_in(mut self) -> Self {
        self.double_opt_in = true;
        self
    }

    /// Checks the name; a purpose read from elsewhere may not be well formed.
    ///
    /// # Errors
    /// As [`Purpose::new`].
    pub fn validate(&self) -> Result<()> {
        named(&self.name)
    }

    /// Whether nothing may be sent for it without a consent on record: all marketing, and all that is based on consent.
    pub fn needs_consent(&self) -> bool {
        self.class == PurposeClass::Marketing || self.legal_basis == LegalBasis::Consent
    }

    /// Whether the log of consents has a say: everything that needs consent, and what rests on a legitimate interest, to
    /// which a person may object (GDPR, Art. 21).
    pub(super) fn asks_consent(&self) -> bool {
        self.needs_consent() || self.legal_basis == LegalBasis::LegitimateInterest
    }

    /// Whether a recorded ground counts for it: a consent always, a legitimate interest where the purpose rests on one.
    pub(super) fn accepts(&self, ground: Option<LegalBasis>) -> bool {
        match ground {
            None | Some(LegalBasis::Consent) => true,
            Some(LegalBasis::LegitimateInterest) => self.legal_basis == LegalBasis::LegitimateInterest,
            Some(LegalBasis::Contract | LegalBasis::LegalObligation) => false,
        }
    }
}

/// Checks the name of a purpose, or of a rule.
pub(super) fn named(name: &str) -> Result<()> {
    let plain = (1..=64).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_');
    if plain {
        return Ok(());
    }
    Err(
        Error::invalid("a purpose is named with 1 to 64 of a-z, 0-9, '-', '_', a letter first")
            .with("field", "purpose"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_and_marketing_always_needs_consent() {
        for wrong in ["", "News", "9", "a b", "a:b", &"x".repeat(65)] {
            assert_eq!(
                Purpose::marketing(wrong).unwrap_err().context("field"),
                Some("purpose"),
                "{wrong}"
            );
        }
        let soft = Purpose::new("offers", PurposeClass::Marketing, LegalBasis::LegitimateInterest).unwrap();
        assert!(soft.needs_consent());
        assert!(!Purpose::transactional("receipt").unwrap().needs_consent());
        assert!(
            Purpose::new("survey", PurposeClass::Transactional, LegalBasis::Consent)
                .unwrap()
                .needs_consent()
        );
    }
}
