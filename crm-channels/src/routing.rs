//! Which provider a message is handed to, and which ones help out.
//!
//! A provider says by its tags ([`ProviderInfo::tag`]) what it is for; the value of a tag may be a list with commas:
//!
//! | tag | meaning |
//! |---|---|
//! | `country` | only numbers of these countries (ISO 3166-1 alpha-2: `CN`, `DE,AT`) |
//! | `purpose` | only messages for these purposes |
//! | `class` | only `marketing` or only `transactional` messages |
//! | `tenant` | only messages of these tenants |
//! | `cost` | what a message costs, in millionths of whatever currency; `cost.CN` for numbers of one country |
//!
//! A message's own tags ([`Outgoing::tag`](crate::Outgoing::tag)) are demands: only a provider that has them is asked.
//! Providers that only take templates of their own get only messages with a template for their scheme.
//!
//! Of those that may take a message, the healthiest are asked first, among them the highest priority, among them the
//! cheapest. The next one is asked only when nothing was accepted: not after an unknown outcome, and not when the message
//! itself is wrong ([`crm_core::registry::may_fail_over`]).
//!
//! ```
//! use crm_channels::routing::Providers;
//! use crm_core::capability::Mailer;
//! use crm_core::memory::MemoryMailer;
//! use crm_core::Registry;
//! use std::sync::Arc;
//!
//! let registry = Registry::builder()
//!     .provide::<dyn Mailer>(0, Arc::new(MemoryMailer::new("one")))
//!     .build()
//!     .unwrap();
//! let providers = Providers::of(&registry);
//! assert_eq!((providers.mail.len(), providers.sms.len()), (1, 0));
//! ```

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use crm_core::capability::{Mailer, SmsSender, VoiceCaller};
use crm_core::consent::{Purpose, PurposeClass};
use crm_core::message::{Channel, Message, Sendable};
use crm_core::registry::{Entry, Pool};
use crm_core::{Health, Provider, ProviderInfo, Registry, TenantId, Timestamp};

use crate::limits::Sender;

/// The providers of every channel.
#[derive(Debug, Clone, Default)]
pub struct Providers {
    /// For e-mail.
    pub mail: Pool<dyn Mailer>,
    /// For text messages.
    pub sms: Pool<dyn SmsSender>,
    /// For phone calls.
    pub voice: Pool<dyn VoiceCaller>,
}

impl Providers {
    /// Those of a registry; a channel for which it has none stays empty.
    pub fn of(registry: &Registry) -> Self {
        Self {
            mail: registry.pool().unwrap_or_default(),
            sms: registry.pool().unwrap_or_default(),
            voice: registry.pool().unwrap_or_default(),
        }
    }

    /// True when there is nobody to hand anything to.
    pub fn is_empty(&self) -> bool {
        self.mail.is_empty() && self.sms.is_empty() && self.voice.is_empty()
    }

    fn filter(&self, live: bool) -> Self {
        Self {
            mail: self.mail.filter(|p| p.capability().live == live),
            sms: self.sms.filter(|p| p.capability().live == live),
            voice: self.voice.filter(|p| p.capability().live == live),
        }
    }
}

/// Who is asked for one message, in this order.
#[derive(Clone)]
pub(crate) enum Route {
    Mail(Vec<Arc<Entry<dyn Mailer>>>),
    Sms(Vec<Arc<Entry<dyn SmsSender>>>),
    Voice(Vec<Arc<Entry<dyn VoiceCaller>>>),
}

impl Route {
    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::Mail(all) => all.is_empty(),
            Self::Sms(all) => all.is_empty(),
            Self::Voice(all) => all.is_empty(),
        }
    }

    pub(crate) fn infos(&self) -> Vec<&ProviderInfo> {
        match self {
            Self::Mail(all) => all.iter().map(|e| e.provider().info()).collect(),
            Self::Sms(all) => all.iter().map(|e| e.provider().info()).collect(),
            Self::Voice(all) => all.iter().map(|e| e.provider().info()).collect(),
        }
    }

    /// Whom the recipient would see as the sender, by each of them.
    pub(crate) fn senders<'a>(&'a self, message: &Message) -> Vec<Sender<'a>> {
        match (self, message) {
            (Self::Sms(all), Message::Sms(sms)) => all
                .iter()
                .map(|e| Sender {
                    info: e.provider().info(),
                    name: e.provider().sender(sms),
                })
                .collect(),
            _ => {
                let name = match message {
                    Message::Email(email) => Some(email.from.address.as_str().to_owned()),
                    Message::Sms(sms) => sms.from.clone(),
                    Message::Voice(call) => call.from.clone(),
                };
                let named = |info| Sender {
                    info,
                    name: name.clone(),
                };
                self.infos().into_iter().map(named).collect()
            }
        }
    }

    /// Only those of these names.
    pub(crate) fn keep(&mut self, names: &[String]) {
        let kept = |info: &ProviderInfo| names.contains(&info.name);
        match self {
            Self::Mail(all) => all.retain(|e| kept(e.provider().info())),
            Self::Sms(all) => all.retain(|e| kept(e.provider().info())),
            Self::Voice(all) => all.retain(|e| kept(e.provider().info())),
        }
    }
}

/// What a message asks of its provider.
pub(crate) struct Wanted<'a> {
    pub(crate) tenant: &'a TenantId,
    pub(crate) message: &'a Message,
    pub(crate) purpose: &'a Purpose,
    pub(crate) tags: &'a BTreeMap<String, String>,
}

impl Wanted<'_> {
    fn country(&self) -> Option<String> {
        match self.message {
            Message::Email(_) => None,
            Message::Sms(sms) => sms.to.country(),
            Message::Voice(call) => call.to.country(),
        }
    }
}

/// Picks providers, and leaves those alone that cannot be used for a while.
#[derive(Debug)]
pub(crate) struct Router {
    live: Providers,
    tame: Providers,
    paused: Mutex<HashMap<(Channel, String), Timestamp>>,
}

impl Router {
    pub(crate) fn new(providers: &Providers) -> Self {
        let mut live = providers.filter(true);
        let tame = providers.filter(false);
        // A recorder beside a live provider is no replacement for it: failing over to it would lose the message. Where
        // there is nothing else, it is what the host chose.
        if live.mail.is_empty() {
            live.mail = tame.mail.clone();
        }
        if live.sms.is_empty() {
            live.sms = tame.sms.clone();
        }
        if live.voice.is_empty() {
            live.voice = tame.voice.clone();
        }
        Self {
            live,
            tame,
            paused: Mutex::default(),
        }
    }

    /// Who may take it, best first. Empty when nobody may, now or at all.
    pub(crate) fn route(&self, wanted: &Wanted<'_>, live: bool, now: Timestamp) -> Route {
        let providers = if live { &self.live } else { &self.tame };
        let country = wanted.country();
        let country = country.as_deref();
        match wanted.message {
            Message::Email(_) => Route::Mail(self.ranked(&providers.mail, wanted, country, now, |_| true)),
            Message::Sms(sms) => Route::Sms(self.ranked(&providers.sms, wanted, country, now, |p| {
                let free = p.capability().free_text && !(sms.text.is_empty() && sms.media.is_empty());
                free || sms.templates.contains_key(&p.info().scheme)
            })),
            Message::Voice(call) => Route::Voice(self.ranked(&providers.voice, wanted, country, now, |p| {
                let free = p.capability().free_text && !call.steps.is_empty();
                free || call.templates.contains_key(&p.info().scheme)
            })),
        }
    }

    fn ranked<T: ?Sized + Provider>(
        &self,
        pool: &Pool<T>,
        wanted: &Wanted<'_>,
        country: Option<&str>,
        now: Timestamp,
        able: impl Fn(&T) -> bool,
    ) -> Vec<Arc<Entry<T>>> {
        let channel = wanted.message.channel();
        let mut found: Vec<_> = pool
            .entries()
            .iter()
            .filter(|entry| entry.health() != Health::Down)
            .filter(|entry| {
                let info = entry.provider().info();
                serves(info, wanted, country) && !self.is_paused(channel, &info.name, now)
            })
            .filter(|entry| able(entry.provider()))
            .cloned()
            .collect();
        found.sort_by_key(|entry| {
            let cost = cost(entry.provider().info(), country);
            (Reverse(entry.health()), Reverse(entry.priority()), cost)
        });
        found
    }

    fn is_paused(&self, channel: Channel, provider: &str, now: Timestamp) -> bool {
        let paused = self.paused.lock().unwrap_or_else(PoisonError::into_inner);
        !paused.is_empty()
            && paused
                .get(&(channel, provider.to_owned()))
                .is_some_and(|until| *until > now)
    }

    /// Leaves a provider alone until then.
    pub(crate) fn pause(&self, channel: Channel, provider: &str, until: Timestamp) {
        let mut paused = self.paused.lock().unwrap_or_else(PoisonError::into_inner);
        paused.insert((channel, provider.to_owned()), until);
    }

    /// The live providers.
    pub(crate) fn live(&self) -> &Providers {
        &self.live
    }
}

fn lists(list: &str, value: &str) -> bool {
    list.split(',').any(|one| one.trim().eq_ignore_ascii_case(value))
}

/// Whether a provider is for such messages at all.
fn serves(info: &ProviderInfo, wanted: &Wanted<'_>, country: Option<&str>) -> bool {
    let class = match wanted.purpose.class {
        PurposeClass::Marketing => "marketing",
        PurposeClass::Transactional => "transactional",
    };
    let restricted = [
        ("country", country),
        ("purpose", Some(wanted.purpose.name.as_str())),
        ("class", Some(class)),
        ("tenant", Some(wanted.tenant.as_str())),
    ];
    let fits = restricted.iter().all(|(tag, value)| match info.tag_value(tag) {
        None => true,
        Some(list) => value.is_some_and(|value| lists(list, value)),
    });
    fits && wanted
        .tags
        .iter()
        .all(|(tag, value)| info.tag_value(tag).is_some_and(|list| lists(list, value)))
}

/// What a message costs there, as far as it says so: unknown costs come last.
fn cost(info: &ProviderInfo, country: Option<&str>) -> u64 {
    let of = |tag: &str| info.tag_value(tag).and_then(|cost| cost.trim().parse().ok());
    country
        .and_then(|country| of(&format!("cost.{country}")))
        .or_else(|| of("cost"))
        .unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crm_core::capability::SmsCapability;
    use crm_core::customer::PhoneNumber;
    use crm_core::message::{Permitted, Receipt, Sms, VendorTemplate};
    use crm_core::{Context, Error, Result, Uuid};

    #[derive(Debug)]
    struct Sender(ProviderInfo, SmsCapability);

    #[async_trait::async_trait]
    impl Provider for Sender {
        fn info(&self) -> &ProviderInfo {
            &self.0
        }
        async fn check(&self) -> Result<Health> {
            Ok(Health::Ready)
        }
    }
    #[async_trait::async_trait]
    impl SmsSender for Sender {
        fn capability(&self) -> SmsCapability {
            self.1
        }
        async fn send(&self, _ctx: &Context, _sms: &Permitted<Sms>) -> Result<Receipt> {
            Err(Error::unexpected("not asked for"))
        }
    }

    fn sender(scheme: &str, name: &str, free: bool, tags: &[(&str, &str)]) -> Arc<Sender> {
        let info = tags
            .iter()
            .fold(ProviderInfo::new(scheme, name), |info, (k, v)| info.tag(*k, *v));
        Arc::new(Sender(info, SmsCapability::new(free, true)))
    }

    fn asked(router: &Router, sms: Sms, purpose: &str, tags: &[(&str, &str)]) -> Vec<String> {
        let wanted = Wanted {
            tenant: &TenantId::new("shop").unwrap(),
            message: &Message::Sms(sms),
            purpose: &Purpose::transactional(purpose).unwrap(),
            tags: &tags
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
        };
        let route = router.route(&wanted, true, Timestamp::EPOCH);
        route.infos().iter().map(|info| info.name.clone()).collect()
    }

    #[test]
    fn providers_are_picked_by_what_they_are_for_then_by_what_they_cost() {
        let registry = Registry::builder()
            .provide::<dyn SmsSender>(5, sender("aliyun", "china", false, &[("country", "CN")]))
            .provide::<dyn SmsSender>(
                0,
                sender("t", "dear", true, &[("cost", "9000"), ("cost.FR", "7000")]),
            )
            .provide::<dyn SmsSender>(
                0,
                sender("t", "cheap", true, &[("cost", "8000"), ("brand", "acme")]),
            )
            .provide::<dyn SmsSender>(0, sender("t", "codes", true, &[("purpose", "code, reset")]))
            .provide::<dyn SmsSender>(9, sender("t", "theirs", true, &[("tenant", "other")]))
            .build()
            .unwrap();
        let router = Router::new(&Providers::of(&registry));
        let to = |number: &str| {
            let to = PhoneNumber::parse(number, None).unwrap();
            Sms::new(Uuid::nil().into(), to, "hi")
        };
        let (china, germany, france) = ("+8613800138000", "+4915123456789", "+33612345678");
        let nobody: [&str; 0] = [];
        assert_eq!(asked(&router, to(germany), "receipt", &[]), ["cheap", "dear"]);
        assert_eq!(asked(&router, to(france), "receipt", &[]), ["dear", "cheap"]);
        assert_eq!(
            asked(&router, to(germany), "code", &[]),
            ["cheap", "dear", "codes"]
        );
        assert_eq!(asked(&router, to(china), "receipt", &[]), ["cheap", "dear"]);
        let templated = to(china).template("aliyun", VendorTemplate::new("SMS_1"));
        assert_eq!(
            asked(&router, templated.clone(), "receipt", &[]),
            ["china", "cheap", "dear"]
        );
        let only = Sms {
            text: String::new(),
            ..templated
        };
        assert_eq!(asked(&router, only, "receipt", &[]), ["china"]);
        let acme = [("brand", "acme")];
        assert_eq!(asked(&router, to(germany), "receipt", &acme), ["cheap"]);
        assert_eq!(
            asked(&router, to(germany), "receipt", &[("brand", "none")]),
            nobody
        );
        router.pause(Channel::Sms, "cheap", Timestamp::from_micros(1));
        assert_eq!(asked(&router, to(germany), "receipt", &[]), ["dear"]);
        router.pause(Channel::Sms, "cheap", Timestamp::EPOCH);
        assert_eq!(asked(&router, to(germany), "receipt", &[]), ["cheap", "dear"]);
    }
}
