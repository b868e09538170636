use std::collections::BTreeMap;

use crm_core::customer::PhoneNumber;
use crm_core::message::Price;
use serde::{Deserialize, Serialize};

/// The letters of the GSM alphabet that take one place (3GPP TS 23.038, 6.2.1).
const BASIC: &str = "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà";
/// Those that take two (3GPP TS 23.038, 6.2.1.1).
const EXTENDED: &str = "\u{c}^{}\\[~]|€";

/// How the letters of an SMS are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// The GSM alphabet, 7 bits a letter: 160 in one part, 153 in each of several.
    Gsm7,
    /// UTF-16, for everything else: 70 in one part, 67 in each of several.
    Ucs2,
}

impl Encoding {
    /// That of a text.
    pub fn of(text: &str) -> Self {
        if text.chars().all(|c| places(c).is_some()) {
            Self::Gsm7
        } else {
            Self::Ucs2
        }
    }

    const fn limits(self) -> (u32, u32) {
        match self {
            Self::Gsm7 => (160, 153),
            Self::Ucs2 => (70, 67),
        }
    }

    fn units(self, c: char) -> u32 {
        match self {
            Self::Gsm7 => places(c).unwrap_or(1),
            Self::Ucs2 => u32::try_from(c.len_utf16()).unwrap_or(2),
        }
    }
}

fn places(c: char) -> Option<u32> {
    if BASIC.contains(c) {
        Some(1)
    } else if EXTENDED.contains(c) {
        Some(2)
    } else {
        None
    }
}

/// Into how many parts an SMS is divided, and so what it costs.
///
/// ```
/// use crm_channels::{Encoding, Segments};
///
/// assert_eq!(Segments::of(&"a".repeat(161)).parts, 2);
/// let one_emoji = Segments::of(&format!("{}\u{1f44d}", "a".repeat(69)));
/// assert_eq!((one_emoji.encoding, one_emoji.units, one_emoji.parts), (Encoding::Ucs2, 71, 2));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segments {
    /// How it is written.
    pub encoding: Encoding,
    /// How many places it takes: letters of 7 bits (two for some), or units of UTF-16.
    pub units: u32,
    /// How many parts; none for an empty text.
    pub parts: u32,
}

impl Segments {
    /// Those of a text as GSM networks and Twilio divide it: a letter is never torn apart (3GPP TS 23.040, 9.2.3.24.1).
    pub fn of(text: &str) -> Self {
        Self::written(text, Encoding::of(text))
    }

    /// Those of a text as Aliyun counts: 70 characters in one part, 67 in each of several, whatever the letters
    /// (help.aliyun.com, "Short Message Service pricing").
    pub fn by_aliyun(text: &str) -> Self {
        Self::written(text, Encoding::Ucs2)
    }

    fn written(text: &str, encoding: Encoding) -> Self {
        let units: u32 = text.chars().map(|c| encoding.units(c)).sum();
        let (single, _) = encoding.limits();
        let parts = match units {
            0 => 0,
            units if units <= single => 1,
            _ => u32::try_from(divide(text, encoding).len()).unwrap_or(u32::MAX),
        };
        Self {
            encoding,
            units,
            parts,
        }
    }

    /// The parts of a text as it is divided.
    pub fn split(text: &str) -> Vec<&str> {
        let whole = Self::of(text);
        match whole.parts {
            0 => Vec::new(),
            1 => vec![text],
            _ => divide(text, whole.encoding),
        }
    }
}

fn divide(text: &str, encoding: Encoding) -> Vec<&str> {
    let (_, most) = encoding.limits();
    let mut parts = Vec::new();
    let (mut from, mut taken) = (0, 0);
    for (at, c) in text.char_indices() {
        let units = encoding.units(c);
        if taken + units > most {
            parts.extend(text.get(from..at));
            (from, taken) = (at, 0);
        }
        taken += units;
    }
    parts.extend(text.get(from..).filter(|rest| !rest.is_empty()));
    parts
}

/// What a part of an SMS costs, by where it goes: for saying beforehand what a campaign will cost.
///
/// ```
/// use crm_channels::{PriceTable, Segments};
/// use crm_core::customer::PhoneNumber;
///
/// let prices: PriceTable = serde_json::from_str(r#"{"currency": "USD", "micros": {"+1": 7900, "+1876": 255000}}"#).unwrap();
/// let number = |text| PhoneNumber::parse(text, None).unwrap();
/// let two_parts = Segments::of(&"a".repeat(200));
/// assert_eq!(prices.price(&number("+12125551234"), &two_parts).unwrap().micros, 15_800);
/// assert_eq!(prices.price(&number("+18765551234"), &two_parts).unwrap().micros, 510_000); // the longest beginning counts
/// assert_eq!(prices.price(&number("+442079460000"), &two_parts), None); // not known is not free
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PriceTable {
    /// ISO 4217.
    pub currency: String,
    /// Millionths a part, by how numbers begin (E.164); the longest beginning counts.
    pub micros: BTreeMap<String, i64>,
}

impl PriceTable {
    /// What an SMS costs; `None` where no price is known.
    pub fn price(&self, to: &PhoneNumber, segments: &Segments) -> Option<Price> {
        let (_, each) = self
            .micros
            .iter()
            .filter(|(beginning, _)| to.as_str().starts_with(beginning.as_str()))
            .max_by_key(|(beginning, _)| beginning.len())?;
        Some(Price {
            micros: each.saturating_mul(i64::from(segments.parts)),
            currency: self.currency.clone(),
        })
    }
}
