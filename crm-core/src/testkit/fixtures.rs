//! Things to test with: contexts, messages, drafts and dice, the same for every suite.
//!
//! ```
//! use crm_core::testkit::fixtures;
//!
//! let mut dice = fixtures::Dice::new(7);
//! assert!(dice.below(6) < 6);
//! assert_ne!(fixtures::context().tenant(), fixtures::context().tenant());
//! assert_eq!(fixtures::email(1).to.address.as_str(), "person1@example.org");
//! ```

use crate::consent::Decision;
use crate::customer::{Draft, EmailAddress, ExternalRef, PersonName, PhoneNumber, Provenance};
use crate::id::split_mix;
use crate::message::{Email, Mailbox, Permitted, Sms, VoiceCall, VoiceStep};
use crate::{Context, IdSource, RandomIds, SystemClock, TenantId, Timestamp, Uuid};

/// A seeded source of chance: same seed, same throws.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// Dice of this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `sides`; 0 when there is none.
    pub fn below(&mut self, sides: usize) -> usize {
        if sides == 0 {
            0
        } else {
            (split_mix(&mut self.0) % sides as u64) as usize
        }
    }

    /// True once in `times`.
    pub fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// One of the items.
    ///
    /// # Panics
    /// Without items.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    /// An id.
    pub fn uuid(&mut self) -> Uuid {
        let (high, low) = (split_mix(&mut self.0), split_mix(&mut self.0));
        Uuid::from_u128(u128::from(high) << 64 | u128::from(low))
    }
}

/// A fresh id.
pub fn id() -> Uuid {
    static IDS: std::sync::OnceLock<RandomIds> = std::sync::OnceLock::new();
    IDS.get_or_init(|| RandomIds::new(SystemClock::shared())).fresh()
}

/// A context of a tenant that nobody has used before.
pub fn context() -> Context {
    Context::new(TenantId::new(&format!("t{}", id().simple())).unwrap())
}

/// A message as the consent gate would let it out. Only for tests: outside of them the gate decides.
pub fn permitted<M>(message: M) -> Permitted<M> {
    Permitted::new(message, Decision::new(true, vec!["testkit".to_owned()]))
}

/// The `n`th e-mail, with a fresh id, from `crm@example.com` to `person<n>@example.org`.
pub fn email(n: u64) -> Email {
    let mailbox =
        |address: &str, name: &str| Mailbox::new(EmailAddress::parse(address).unwrap(), name).unwrap();
    Email::new(
        id().into(),
        mailbox("crm@example.com", "CRM"),
        mailbox(&format!("person{n}@example.org"), "Zoë Ängström"),
        "Grüße, n° 1",
        "Hello.\n.\nA line of one dot stands above.\n",
    )
}

/// The `n`th SMS, with a fresh id.
pub fn sms(n: u64) -> Sms {
    Sms::new(id().into(), phone(n), "Hello").from("CRM")
}

/// The `n`th call, with a fresh id.
pub fn call(n: u64) -> VoiceCall {
    VoiceCall::new(id().into(), phone(n), vec![VoiceStep::say("Hello")]).from("+4930123456")
}

fn phone(n: u64) -> PhoneNumber {
    PhoneNumber::parse(&format!("+49301{:07}", n % 10_000_000), None).unwrap()
}

/// `n` drafts of different people, each with provenance, name, e-mail address and external reference.
pub fn drafts(n: u64) -> Vec<Draft> {
    let draft = |i: u64| {
        let mut draft = Draft::new(
            Provenance::new("testkit", Timestamp::EPOCH)
                .at("list.csv")
                .line(i + 2),
        );
        draft.name = Some(PersonName::new("Person", &format!("No{i}")));
        draft.emails.push(format!("person{i}@example.org"));
        draft
            .external_refs
            .push(ExternalRef::new("testkit", i.to_string()));
        draft
    };
    (0..n).map(draft).collect()
}
