//! What a campaign would do, or did, to whom, and why not to others.

use std::collections::{BTreeMap, BTreeSet};

use crm_core::consent::Decision;
use crm_core::customer::CustomerId;
use crm_core::message::Channel;
use serde::{Deserialize, Serialize};

/// A variable of a template that some have no value for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingVariable {
    /// How many.
    pub customers: u64,
    /// One of them.
    pub first: CustomerId,
}

/// What a campaign would do now, or what was found when it was queued. `members` is the sum of `will_go` and of those who
/// get nothing: [`CampaignPreview::left_out`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct CampaignPreview {
    /// Members of the audience.
    pub members: u64,
    /// Those who would get a message.
    pub will_go: u64,
    /// Those who cannot be reached by any of the channels: no address that works, or nothing to say by that channel.
    pub no_address: u64,
    /// Those without a consent in force.
    pub no_consent: u64,
    /// Those whose address is suppressed.
    pub suppressed: u64,
    /// Those whom the gate refuses for another reason.
    pub refused: u64,
    /// Those who have it in the outbox already, or had it.
    pub already_queued: u64,
    /// Those who are no customers any more.
    pub gone: u64,
    /// Members of a segment that is excluded.
    pub excluded: u64,
    /// Those who are held out.
    pub held_out: u64,
    /// Those of whom a variable is not known.
    pub incomplete: u64,
    /// Those for whom it is too late.
    pub too_late: u64,
    /// Of those who would get one: how many have to wait for the end of quiet hours.
    pub quiet: u64,
    /// Of those who would get one: how many have to wait because they got enough for now.
    pub capped: u64,
    /// Those who would get one, by channel.
    pub channels: BTreeMap<Channel, u64>,
    /// Those who would get one, by variant.
    pub variants: BTreeMap<String, u64>,
    /// Parts of all SMS together.
    pub sms_parts: u64,
    /// What the SMS cost, in millionths, by currency ([`super::Campaigns::prices`]).
    pub sms_cost: BTreeMap<String, i64>,
    /// SMS of which the price is not known.
    pub sms_unpriced: u64,
    /// The variables that have no value for some.
    pub missing: BTreeMap<String, MissingVariable>,
    /// What its e-mails lack to go to many ([`super::Campaigns::readiness`]).
    pub not_ready: BTreeSet<String>,
}

impl CampaignPreview {
    /// Those who get nothing, by reason.
    pub fn left_out(&self) -> [(&'static str, u64); 10] {
        [
            ("no address", self.no_address),
            ("no consent", self.no_consent),
            ("suppressed", self.suppressed),
            ("refused", self.refused),
            ("already queued", self.already_queued),
            ("no customer any more", self.gone),
            ("excluded", self.excluded),
            ("held out", self.held_out),
            ("a variable is missing", self.incomplete),
            ("too late", self.too_late),
        ]
    }

    pub(super) fn add(&mut self, other: Self) {
        self.members += other.members;
        self.will_go += other.will_go;
        self.no_address += other.no_address;
        self.no_consent += other.no_consent;
        self.suppressed += other.suppressed;
        self.refused += other.refused;
        self.already_queued += other.already_queued;
        self.gone += other.gone;
        self.excluded += other.excluded;
        self.held_out += other.held_out;
        self.incomplete += other.incomplete;
        self.too_late += other.too_late;
        self.quiet += other.quiet;
        self.capped += other.capped;
        self.sms_parts += other.sms_parts;
        self.sms_unpriced += other.sms_unpriced;
        self.not_ready.extend(other.not_ready);
        for (channel, count) in other.channels {
            *self.channels.entry(channel).or_default() += count;
        }
        for (variant, count) in other.variants {
            *self.variants.entry(variant).or_default() += count;
        }
        for (currency, cost) in other.sms_cost {
            *self.sms_cost.entry(currency).or_default() += cost;
        }
        for (variable, missing) in other.missing {
            let known = self.missing.entry(variable).or_insert(MissingVariable {
                customers: 0,
                first: missing.first,
            });
            known.customers += missing.customers;
        }
    }

    pub(super) fn refuse(&mut self, decision: &Decision) {
        match decision.rule() {
            "consent" => self.no_consent += 1,
            "suppression" => self.suppressed += 1,
            "contact" => self.no_address += 1,
            _ => self.refused += 1,
        }
    }

    pub(super) fn lacks(&mut self, variable: &str, customer: CustomerId) {
        self.incomplete += 1;
        let missing = self
            .missing
            .entry(variable.to_owned())
            .or_insert(MissingVariable {
                customers: 0,
                first: customer,
            });
        missing.customers += 1;
    }
}

/// What a launch did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CampaignReport {
    /// What was found.
    pub preview: CampaignPreview,
    /// Messages put into the outbox by this call.
    pub queued: u64,
}

/// How far a launch is: every member is looked at twice, checked first and queued then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LaunchProgress {
    /// Members checked.
    pub checked: u64,
    /// Members of a frozen audience written down.
    pub written: u64,
    /// Members gone through for queueing.
    pub done: u64,
    /// Messages queued.
    pub queued: u64,
}
