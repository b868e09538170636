//! What one member of an audience gets.

use std::collections::BTreeMap;

use crm_core::customer::{EmailAddress, PhoneNumber};
use crm_core::message::{Channel, Mailbox, Message};
use crm_core::record::{Record, Stored, Value};
use crm_core::{Context, Error, Result, Uuid};
use sha2::{Digest, Sha256};

use super::plan::{CampaignPlan, TemplateChoice};
use crate::Outreach;
use crate::template::{Escape, Part, Template, Variables, check_variables};

/// A plan with its templates at hand.
pub(super) struct Ready<'p> {
    pub(super) plan: &'p CampaignPlan,
    /// Name, weight, and what is said.
    variants: Vec<(&'p str, u64, Template)>,
    headers: BTreeMap<&'p str, Part>,
}

/// A place where somebody can be reached.
#[derive(Debug, Clone)]
pub(super) enum Place {
    Email(EmailAddress),
    Phone(PhoneNumber),
}

impl<'p> Ready<'p> {
    pub(super) async fn of(outreach: &Outreach, ctx: &Context, plan: &'p CampaignPlan) -> Result<Self> {
        plan.validate()?;
        let mut variants = Vec::with_capacity(plan.variants.len());
        for variant in &plan.variants {
            let template = match &variant.template {
                TemplateChoice::Inline(source) => Template::compile(source)?,
                TemplateChoice::Stored { name, version } => {
                    outreach.templates().get(ctx, name, *version).await?
                }
            };
            let said = template.channels();
            if !plan.channels.iter().any(|channel| said.contains(channel)) {
                return Err(
                    Error::invalid("the template says nothing by any of the campaign's channels")
                        .with("field", "variants")
                        .with("variant", &variant.name),
                );
            }
            variants.push((variant.name.as_str(), u64::from(variant.weight), template));
        }
        let header = |(name, value): (&'p String, &'p String)| {
            let part = Part::compile("headers", "", Escape::Header, value)?;
            check_variables(&part, &[])?;
            Ok((name.as_str(), part))
        };
        Ok(Self {
            plan,
            variants,
            headers: plan.headers.iter().map(header).collect::<Result<_>>()?,
        })
    }

    /// Whether a customer is held out, and which variant they get otherwise: the same for the same campaign, customer and
    /// seed, wherever and however often it is asked. Holding out more or fewer gives nobody another variant.
    pub(super) fn draw(&self, customer: Uuid) -> (bool, usize) {
        if self.plan.hold_out == 0.0 && self.variants.len() < 2 {
            return (false, 0);
        }
        let mut hash = Sha256::new();
        hash.update(self.plan.seed.to_be_bytes());
        hash.update(customer.as_bytes());
        hash.update(self.plan.name.as_bytes());
        let hash = hash.finalize();
        let number = |bytes: &[u8]| bytes.iter().fold(0_u64, |n, byte| (n << 8) | u64::from(*byte));
        let (held, variant) = hash.split_at(16);
        let held = number(held.get(..8).unwrap_or_default()) >> 11; // 53 bits, as many as a float has
        let held_out = (held as f64) < self.plan.hold_out * (1_u64 << 53) as f64;
        let total: u64 = self.variants.iter().map(|(_, weight, _)| weight).sum();
        let drawn = u128::from(number(variant.get(..8).unwrap_or_default())) * u128::from(total);
        let mut place = u64::try_from(drawn >> 64).unwrap_or(0);
        for (at, (_, weight, _)) in self.variants.iter().enumerate() {
            match place.checked_sub(*weight) {
                Some(rest) => place = rest,
                None => return (held_out, at),
            }
        }
        (held_out, 0)
    }

    pub(super) fn variant(&self, at: usize) -> &'p str {
        self.variants.get(at).map_or("", |(name, ..)| name)
    }

    /// Whether a variant says something by this channel.
    pub(super) fn says(&self, at: usize, channel: Channel) -> bool {
        self.variants
            .get(at)
            .is_some_and(|(_, _, template)| template.channels().contains(&channel))
    }

    /// The message of a variant for one customer at one place, or the variable that has no value.
    pub(super) fn compose(
        &self,
        id: Uuid,
        at: usize,
        channel: Channel,
        customer: &Stored,
        place: &Place,
    ) -> Result<Result<Message, String>> {
        let Some((_, _, template)) = self.variants.get(at) else {
            return Err(Error::unexpected("a variant that is not there"));
        };
        let r = &customer.record;
        let name = full_name(r);
        let vars = variables(customer, &name, place);
        let locale = language(r);
        let made = || -> Result<Message> {
            let message = match (channel, place) {
                (Channel::Email, Place::Email(address)) => {
                    let from =
                        self.plan.from.clone().ok_or_else(|| {
                            Error::invalid("an e-mail is from somebody").with("field", "from")
                        })?;
                    let to = Mailbox {
                        address: address.clone(),
                        name: name.clone(),
                    };
                    let mut mail = template.email(locale, &vars)?.into_email(id.into(), from, to);
                    mail.reply_to.clone_from(&self.plan.reply_to);
                    for (name, part) in &self.headers {
                        mail.headers.insert((*name).to_owned(), part.render(&vars)?);
                    }
                    Message::Email(mail)
                }
                (Channel::Sms, Place::Phone(number)) => {
                    let mut sms = template.sms(locale, &vars)?.into_sms(id.into(), number.clone());
                    sms.from.clone_from(&self.plan.caller);
                    Message::Sms(sms)
                }
                (Channel::Voice, Place::Phone(number)) => {
                    let mut call = template
                        .voice(locale, &vars)?
                        .into_call(id.into(), number.clone());
                    call.from.clone_from(&self.plan.caller);
                    Message::Voice(call)
                }
                _ => {
                    return Err(Error::unexpected(
                        "a channel that does not reach this kind of address",
                    ));
                }
            };
            message.validate()?;
            Ok(message)
        };
        match made() {
            Ok(message) => Ok(Ok(message)),
            Err(error) => match error.context("variable") {
                Some(variable) => Ok(Err(variable.to_owned())),
                None => Err(error.with("customer", customer.id)),
            },
        }
    }
}

pub(super) fn text<'r>(r: &'r Record, field: &str) -> Option<&'r str> {
    r.get(field)
        .and_then(Value::as_str)
        .filter(|text| !text.trim().is_empty())
}

/// An attribute of a customer that is a text.
pub(super) fn attribute<'r>(r: &'r Record, name: &str) -> Option<&'r str> {
    r.get("attributes").and_then(Value::as_json)?.get(name)?.as_str()
}

fn full_name(r: &Record) -> String {
    match text(r, "display_name") {
        Some(name) => name.to_owned(),
        None => ["given_name", "family_name"]
            .into_iter()
            .filter_map(|field| text(r, field))
            .collect::<Vec<_>>()
            .join(" "),
    }
}

/// The language the customer is written to in: the attribute `locale`, or `language`.
fn language(r: &Record) -> &str {
    ["locale", "language"]
        .into_iter()
        .find_map(|name| attribute(r, name))
        .unwrap_or_default()
}

/// What a template may name, for one customer.
fn variables<'a>(customer: &'a Stored, name: &'a str, place: &'a Place) -> Variables<'a> {
    static NONE: serde_json::Value = serde_json::Value::Null;
    let r = &customer.record;
    let mut vars = Variables::new()
        .text("customer_id", customer.id.to_string())
        .text("name", name)
        .json(
            "attributes",
            r.get("attributes").and_then(Value::as_json).unwrap_or(&NONE),
        );
    if let Place::Email(address) = place {
        vars = vars.text("email", address.as_str());
    }
    for field in ["given_name", "family_name", "city", "region", "country"] {
        if let Some(text) = text(r, field) {
            vars = vars.text(field, text);
        }
    }
    vars
}
