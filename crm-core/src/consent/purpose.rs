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

/// What messages are sent for. Consent is given and withdrawn for one purpose at a time.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Purpose {
    /// Its name: 1 to 64 of `a-z`, `0-9`, `-`, `_`, a letter first.
    pub name: String,
    /// Whether it promotes.
    pub class: PurposeClass,
    /// On what ground.
    pub legal_basis: LegalBasis,
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

    /// Checks the name; a purpose read from elsewhere may not be well formed.
    ///
    /// # Errors
    /// As [`Purpose::new`].
    pub fn validate(&self) -> Result<()> {
        let plain = (1..=64).contains(&self.name.len())
            && self.name.starts_with(|c: char| c.is_ascii_lowercase())
            && self
                .name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_');
        if plain {
            Ok(())
        } else {
            Err(
                Error::invalid("a purpose is named with 1 to 64 of a-z, 0-9, '-', '_', a letter first")
                    .with("field", "purpose"),
            )
        }
    }

    /// Whether nothing may be sent for it without a consent on record: all marketing, and all that is based on consent.
    pub fn needs_consent(&self) -> bool {
        self.class == PurposeClass::Marketing || self.legal_basis == LegalBasis::Consent
    }
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
