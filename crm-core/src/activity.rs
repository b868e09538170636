//! The timeline: orders and other interactions, append-only, taken in at least once and kept exactly once.
//!
//! ```
//! use crm_core::activity::Money;
//!
//! let paid = Money::parse("29.33", "USD").unwrap();
//! assert_eq!((paid.minor, paid.currency()), (2933, "USD"));
//! assert_eq!(paid.to_string(), "29.33 USD");
//! assert!(Money::parse("29.333", "USD").is_err(), "no silent rounding");
//! ```

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::customer::{Attributes, CustomerId};
use crate::record::{Entity, Field, FieldType, Index, Record, Schema, Stored};
use crate::{Error, Id, Result, Timestamp, Uuid};

/// An amount of money in hundredths of its currency (`minor`), so that sums are exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Money {
    /// Hundredths: 2933 is 29.33.
    pub minor: i64,
    /// ISO 4217, as bytes.
    currency: Currency,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
struct Currency([u8; 3]);

impl TryFrom<String> for Currency {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        match <[u8; 3]>::try_from(text.as_bytes()) {
            Ok(code) if code.iter().all(u8::is_ascii_uppercase) => Ok(Self(code)),
            _ => {
                Err(Error::invalid("a currency is three capital letters (ISO 4217)")
                    .with("field", "currency"))
            }
        }
    }
}
impl From<Currency> for String {
    fn from(code: Currency) -> Self {
        code.0.iter().map(|b| char::from(*b)).collect()
    }
}

impl Money {
    /// `minor` hundredths of a currency.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] when the currency is not three capital letters.
    pub fn new(minor: i64, currency: &str) -> Result<Self> {
        Ok(Self {
            minor,
            currency: Currency::try_from(currency.to_owned())?,
        })
    }

    /// Reads a decimal amount with a point: `29.33`, `-5`, `1200.5`.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] on `field=amount` when it is no number, has more than two decimals, or is too large.
    pub fn parse(text: &str, currency: &str) -> Result<Self> {
        let wrong = || Error::invalid("not an amount; write it as 29.33").with("field", "amount");
        let text = text.trim();
        let (negative, digits) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
        let plain = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || !plain(whole) || !plain(part) || part.len() > 2 {
            return Err(wrong());
        }
        let whole: i64 = whole.parse().map_err(|_| wrong())?;
        let part: i64 = format!("{part:0<2}").parse().map_err(|_| wrong())?;
        let minor = whole
            .checked_mul(100)
            .and_then(|m| m.checked_add(part))
            .ok_or_else(wrong)?;
        Self::new(if negative { -minor } else { minor }, currency)
    }

    /// ISO 4217.
    pub fn currency(&self) -> &str {
        // Three capital letters by construction; XXX is ISO 4217's own code for "no currency".
        std::str::from_utf8(&self.currency.0).unwrap_or("XXX")
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.minor < 0 { "-" } else { "" };
        let minor = self.minor.unsigned_abs();
        write!(f, "{sign}{}.{:02} {}", minor / 100, minor % 100, self.currency())
    }
}

/// The id of an order.
pub type OrderId = Id<Order>;

/// A purchase.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Order {
    /// Its id.
    pub id: OrderId,
    /// Whose it is.
    pub customer_id: CustomerId,
    /// When it was made.
    pub at: Timestamp,
    /// What was paid.
    pub total: Money,
    /// How many things were bought.
    pub items: i64,
    /// Where it is known from.
    pub source: String,
    /// Its id there; `(source, event_id)` is kept once.
    pub event_id: String,
}

/// How an [`Order`] is stored. `total_minor` is in hundredths of `currency`.
pub static ORDER: Schema = Schema {
    name: "crm_order",
    fields: &[
        Field::new("customer_id", FieldType::Uuid).pseudonym(),
        Field::new("at", FieldType::Timestamp).personal(),
        Field::new("total_minor", FieldType::Int).personal(),
        Field::new("currency", FieldType::Text),
        Field::new("items", FieldType::Int).personal(),
        Field::new("source", FieldType::Text),
        Field::new("event_id", FieldType::Text).pseudonym(),
    ],
    indexes: &[
        Index::unique("crm_order_event", &["source", "event_id"]),
        Index::new("crm_order_customer", &["customer_id", "at"]),
    ],
};

impl Entity for Order {
    fn schema() -> &'static Schema {
        &ORDER
    }
    fn record_id(&self) -> Uuid {
        self.id.uuid()
    }
    fn to_record(&self) -> Result<Record> {
        Record::from_values(
            &ORDER,
            vec![
                self.customer_id.into(),
                self.at.into(),
                self.total.minor.into(),
                self.total.currency().into(),
                self.items.into(),
                self.source.as_str().into(),
                self.event_id.as_str().into(),
            ],
        )
    }
    fn from_stored(stored: Stored) -> Result<Self> {
        let r = &stored.record;
        Ok(Self {
            id: stored.id.into(),
            customer_id: r.uuid("customer_id")?.into(),
            at: r.timestamp("at")?,
            total: Money::new(r.int("total_minor")?, r.text("currency")?)
                .map_err(|_| r.damaged("currency"))?,
            items: r.int("items")?,
            source: r.text("source")?.to_owned(),
            event_id: r.text("event_id")?.to_owned(),
        })
    }
}

/// The id of an interaction.
pub type InteractionId = Id<Interaction>;

/// Anything else that happened between a customer and the host: a visit, a call, a delivered mail.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Interaction {
    /// Its id.
    pub id: InteractionId,
    /// With whom.
    pub customer_id: CustomerId,
    /// When.
    pub at: Timestamp,
    /// What: `visit`, `mail.accepted`, `ticket.opened`.
    pub kind: String,
    /// Where it is known from.
    pub source: String,
    /// Its id there; `(source, event_id)` is kept once.
    pub event_id: String,
    /// What else is known.
    pub data: Attributes,
}

/// How an [`Interaction`] is stored.
pub static INTERACTION: Schema = Schema {
    name: "crm_interaction",
    fields: &[
        Field::new("customer_id", FieldType::Uuid).pseudonym(),
        Field::new("at", FieldType::Timestamp).personal(),
        Field::new("kind", FieldType::Text),
        Field::new("source", FieldType::Text),
        Field::new("event_id", FieldType::Text).pseudonym(),
        Field::new("data", FieldType::Json).personal(),
    ],
    indexes: &[
        Index::unique("crm_interaction_event", &["source", "event_id"]),
        Index::new("crm_interaction_customer", &["customer_id", "at"]),
    ],
};

impl Entity for Interaction {
    fn schema() -> &'static Schema {
        &INTERACTION
    }
    fn record_id(&self) -> Uuid {
        self.id.uuid()
    }
    fn to_record(&self) -> Result<Record> {
        let data = serde_json::to_value(&self.data).map_err(|e| {
            Error::invalid("data cannot be written as JSON")
                .with("field", "data")
                .source(e)
        })?;
        Record::from_values(
            &INTERACTION,
            vec![
                self.customer_id.into(),
                self.at.into(),
                self.kind.as_str().into(),
                self.source.as_str().into(),
                self.event_id.as_str().into(),
                data.into(),
            ],
        )
    }
    fn from_stored(stored: Stored) -> Result<Self> {
        let r = &stored.record;
        Ok(Self {
            id: stored.id.into(),
            customer_id: r.uuid("customer_id")?.into(),
            at: r.timestamp("at")?,
            kind: r.text("kind")?.to_owned(),
            source: r.text("source")?.to_owned(),
            event_id: r.text("event_id")?.to_owned(),
            data: r.json("data")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts() {
        for (text, minor) in [
            ("0.00", 0),
            ("29.33", 2933),
            ("-5", -500),
            ("1200.5", 120_050),
            (" 7 ", 700),
        ] {
            assert_eq!(Money::parse(text, "USD").unwrap().minor, minor, "{text}");
        }
        for text in [
            "",
            "-",
            ".5",
            "1,5",
            "1e3",
            "12.345",
            "99999999999999999999",
            "$3",
        ] {
            assert!(Money::parse(text, "USD").is_err(), "{text}");
        }
        assert!(Money::new(1, "usd").is_err());
        assert_eq!(Money::new(-5, "EUR").unwrap().to_string(), "-0.05 EUR");
    }
}
