//! Texts with their targets to one draft: shared by files and pages.

use chrono::{DateTime, NaiveDate, NaiveDateTime};
use crm_core::activity::Money;
use crm_core::customer::{Draft, ExternalRef, OrderDraft, PersonName, PostalAddress, Provenance};
use crm_core::{Error, Result, Timestamp};
use serde::{Deserialize, Serialize};

use crate::target::{AttributeType, Target};

/// How texts are read where the text alone does not say it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Reading {
    /// Where phone numbers without a country code are dialled, ISO 3166-1 alpha-2.
    pub phone_region: Option<String>,
    /// Formats of days and times, in `strftime` letters (`%d.%m.%Y`). The first that fits the whole text counts. A time
    /// without a zone is UTC, a day is its midnight in UTC. RFC 3339 and `%Y-%m-%d`.
    pub date_formats: Vec<String>,
    /// The currency of amounts that do not name one, ISO 4217.
    pub currency: Option<String>,
    /// Amounts are written with a comma: `29,33`.
    pub decimal_comma: bool,
}

impl Default for Reading {
    fn default() -> Self {
        Self {
            phone_region: None,
            date_formats: vec!["%+".into(), "%Y-%m-%d".into()],
            currency: None,
            decimal_comma: false,
        }
    }
}

impl Reading {
    pub(crate) fn validate(&self) -> Result<()> {
        if let Some(region) = &self.phone_region
            && !(region.len() == 2 && region.bytes().all(|b| b.is_ascii_alphabetic()))
        {
            return Err(Error::config("a region is an ISO 3166-1 alpha-2 code such as AU")
                .with("setting", "phone_region"));
        }
        if let Some(currency) = &self.currency {
            Money::new(0, currency).map_err(|_| {
                Error::config("a currency is three capital letters (ISO 4217)").with("setting", "currency")
            })?;
        }
        for format in &self.date_formats {
            if chrono::format::StrftimeItems::new(format).any(|item| item == chrono::format::Item::Error) {
                return Err(
                    Error::config("not a date format in strftime letters, such as %d.%m.%Y")
                        .with("setting", "date_formats")
                        .with("format", format),
                );
            }
        }
        let day_first = |f: &String| f.starts_with("%d") || f.starts_with("%e");
        let month_first = |f: &String| f.starts_with("%m");
        let separator = |f: &String| f.chars().nth(2);
        for a in self.date_formats.iter().filter(|f| day_first(f)) {
            if self
                .date_formats
                .iter()
                .any(|b| month_first(b) && separator(a) == separator(b))
            {
                return Err(Error::config(
                    "two date formats cannot be told apart: 03/04 would be read as either day",
                )
                .with("setting", "date_formats"));
            }
        }
        Ok(())
    }

    /// A day as `YYYY-MM-DD`, a time as RFC 3339 in UTC.
    pub(crate) fn day_or_time(&self, text: &str) -> Option<String> {
        let (time, day_alone) = self.time(text)?;
        let text = time.to_string();
        Some(if day_alone {
            text.get(..10).unwrap_or(&text).to_owned()
        } else {
            text
        })
    }

    fn time(&self, text: &str) -> Option<(Timestamp, bool)> {
        for format in &self.date_formats {
            let micros = if let Ok(time) = DateTime::parse_from_str(text, format) {
                (time.timestamp_micros(), false)
            } else if let Ok(time) = NaiveDateTime::parse_from_str(text, format) {
                (time.and_utc().timestamp_micros(), false)
            } else if let Ok(day) = NaiveDate::parse_from_str(text, format) {
                (day.and_hms_opt(0, 0, 0)?.and_utc().timestamp_micros(), true)
            } else {
                continue;
            };
            return Some((Timestamp::from_micros(micros.0), micros.1));
        }
        None
    }
}

/// A draft in the making.
pub(crate) struct Assembly<'a> {
    reading: &'a Reading,
    draft: Draft,
    given: String,
    family: String,
    whole: String,
    address: PostalAddress,
    order: OrderParts,
}

#[derive(Default)]
struct OrderParts {
    id: Option<String>,
    at: Option<Timestamp>,
    amount: Option<String>,
    currency: Option<String>,
    items: Option<i64>,
}

/// Why a text cannot be used; never holds the text.
pub(crate) type Reason = &'static str;

impl<'a> Assembly<'a> {
    pub(crate) fn new(reading: &'a Reading, provenance: Provenance) -> Self {
        let mut draft = Draft::new(provenance);
        draft.phone_region.clone_from(&reading.phone_region);
        Self {
            reading,
            draft,
            given: String::new(),
            family: String::new(),
            whole: String::new(),
            address: PostalAddress::default(),
            order: OrderParts::default(),
        }
    }

    /// Takes one text; an empty one says nothing.
    pub(crate) fn put(&mut self, target: &Target, text: &str) -> Result<(), Reason> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(());
        }
        if text.contains('\0') {
            return Err("it has a NUL character in it");
        }
        match target {
            Target::Name => text.clone_into(&mut self.whole),
            Target::Given => append(&mut self.given, text),
            Target::Family => append(&mut self.family, text),
            Target::Email => self.draft.emails.push(text.to_owned()),
            Target::Phone => self.draft.phones.push(text.to_owned()),
            Target::External(system) => {
                let reference = ExternalRef::new(system.as_str(), text);
                reference
                    .validate()
                    .map_err(|_| "an id in another system has 1 to 255 bytes")?;
                self.draft.external_refs.push(reference);
            }
            Target::Street => self.address.lines.push(text.to_owned()),
            Target::City => text.clone_into(&mut self.address.city),
            Target::Region => text.clone_into(&mut self.address.region),
            Target::PostalCode => text.clone_into(&mut self.address.postal_code),
            Target::Country => {
                if !(text.len() == 2 && text.bytes().all(|b| b.is_ascii_alphabetic())) {
                    return Err("a country is an ISO 3166-1 alpha-2 code such as AU");
                }
                self.address.country = text.to_ascii_uppercase();
            }
            Target::Tag => self.draft.tags.push(text.to_owned()),
            Target::Tags => self.draft.tags.extend(labels(text)),
            Target::Attribute(name, kind) => {
                let value = self.attribute(*kind, text)?;
                self.draft
                    .attributes
                    .set(name, value)
                    .map_err(|_| "the attribute's name is not valid")?;
            }
            Target::OrderId => self.order.id = Some(text.to_owned()),
            Target::OrderDate => self.order.at = Some(self.time(text)?.0),
            Target::OrderAmount => {
                let amount = if self.reading.decimal_comma {
                    text.replacen(',', ".", 1)
                } else {
                    text.to_owned()
                };
                self.order.amount = Some(amount);
            }
            Target::OrderCurrency => self.order.currency = Some(text.to_owned()),
            Target::OrderItems => {
                self.order.items = Some(
                    text.parse()
                        .ok()
                        .filter(|n| *n >= 0)
                        .ok_or("not a whole number of items, 0 or more")?,
                );
            }
        }
        Ok(())
    }

    fn attribute(&self, kind: AttributeType, text: &str) -> Result<serde_json::Value, Reason> {
        Ok(match kind {
            AttributeType::Text => text.into(),
            AttributeType::Int => text.parse::<i64>().map_err(|_| "not a whole number")?.into(),
            AttributeType::Float => {
                let number: f64 = text.parse().map_err(|_| "not a number; write it as 3.5")?;
                if !number.is_finite() {
                    return Err("not a finite number");
                }
                number.into()
            }
            AttributeType::Bool => match text.to_ascii_lowercase().as_str() {
                "true" | "yes" | "y" | "1" => true.into(),
                "false" | "no" | "n" | "0" => false.into(),
                _ => return Err("not a yes or no; write it as true or false"),
            },
            AttributeType::Json => serde_json::from_str(text).map_err(|_| "not a JSON document")?,
            AttributeType::Date => self
                .reading
                .day_or_time(text)
                .ok_or("not a day or time in any of the date formats")?
                .into(),
        })
    }

    fn time(&self, text: &str) -> Result<(Timestamp, bool), Reason> {
        self.reading
            .time(text)
            .ok_or("not a day or time in any of the date formats")
    }

    /// The draft. The error names what is wrong with the whole and the target it is about.
    pub(crate) fn finish(mut self) -> Result<Draft, (Option<Target>, Reason)> {
        if !self.whole.is_empty() && self.given.is_empty() && self.family.is_empty() {
            self.draft.name = Some(PersonName::whole(&self.whole));
        } else if !(self.whole.is_empty() && self.given.is_empty() && self.family.is_empty()) {
            let mut name = PersonName::new(&self.given, &self.family);
            if !self.whole.is_empty() {
                name.display = PersonName::whole(&self.whole).display;
            }
            self.draft.name = Some(name);
        }
        if !self.address.is_empty() {
            self.draft.addresses.push(self.address);
        }
        let order = self.order;
        let any = order.id.is_some() || order.at.is_some() || order.amount.is_some() || order.items.is_some();
        if any {
            let id = order
                .id
                .ok_or((Some(Target::OrderId), "an order needs an id at its source"))?;
            let at = order
                .at
                .ok_or((Some(Target::OrderDate), "an order needs a date"))?;
            let amount = order
                .amount
                .ok_or((Some(Target::OrderAmount), "an order needs an amount"))?;
            let currency = order
                .currency
                .or_else(|| self.reading.currency.clone())
                .ok_or((Some(Target::OrderCurrency), "an order needs a currency"))?;
            Money::new(0, &currency).map_err(|_| {
                (
                    Some(Target::OrderCurrency),
                    "a currency is three capital letters (ISO 4217)",
                )
            })?;
            let total = Money::parse(&amount, &currency).map_err(|_| {
                (
                    Some(Target::OrderAmount),
                    "not an amount with at most two decimals",
                )
            })?;
            self.draft.orders.push(OrderDraft {
                event_id: id,
                at,
                total,
                items: order.items.unwrap_or(1),
            });
        }
        if !self.draft.is_identified() {
            return Err((
                None,
                "nothing to recognise the person by: no e-mail address, phone number or external id",
            ));
        }
        Ok(self.draft)
    }
}

/// Labels of one text: `;` between them, `\` before a `;` or `\` that belongs to one.
fn labels(text: &str) -> Vec<String> {
    let (mut labels, mut label, mut escaped) = (Vec::new(), String::new(), false);
    for c in text.chars() {
        match c {
            '\\' if !escaped => {
                escaped = true;
                continue;
            }
            ';' if !escaped => labels.push(std::mem::take(&mut label)),
            c => {
                if escaped && !matches!(c, ';' | '\\') {
                    label.push('\\');
                }
                label.push(c);
            }
        }
        escaped = false;
    }
    if escaped {
        label.push('\\');
    }
    labels.push(label);
    labels.retain(|label| !label.trim().is_empty());
    labels
}

fn append(to: &mut String, text: &str) {
    if !to.is_empty() {
        to.push(' ');
    }
    to.push_str(text);
}
