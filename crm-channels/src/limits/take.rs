//! Taking: one question and one unit of work for a whole group of messages.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crm_core::capability::RecordStore;
use crm_core::message::{Message, Sendable};
use crm_core::record::{Record, Stored, Write};
use crm_core::{Context, Effect, ErrorKind, ProviderInfo, Result, Timestamp, Uuid};
use sha2::{Digest, Sha256};

use super::log::Log;
use super::{RATE, RateRule, RateScope, RateWindow};
use crate::outbox::json;

/// How often it is tried when others are faster.
const TRIES: u64 = 8;
/// How long a handful may be used.
const FRESH: Duration = Duration::from_secs(1);
/// How many a handful has at most.
const HANDFUL: u32 = 200;

/// A message that wants to go, and who could take it, the best first.
pub(crate) struct Want<'a> {
    pub(crate) message: &'a Message,
    /// The keyed hash of its address.
    pub(crate) address: String,
    pub(crate) providers: Vec<Sender<'a>>,
}

/// A provider, and whom the recipient would see as the sender.
pub(crate) struct Sender<'a> {
    pub(crate) info: &'a ProviderInfo,
    pub(crate) name: Option<String>,
}

/// Whether it may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Through these providers.
    Now(Vec<String>),
    /// Not before then; the rule that keeps it back.
    Later(Timestamp, String),
}

/// The rules, and what this process still has of its handfuls.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    rules: Vec<RateRule>,
    local: Mutex<HashMap<(String, Uuid), Local>>,
}

#[derive(Debug, Clone, Copy)]
struct Local {
    left: u32,
    until: Timestamp,
    /// Until when those that were turned away are spread already.
    spread: Timestamp,
}

/// The counts of one rule for one key.
struct Row<'a> {
    rule: &'a RateRule,
    key: String,
    windows: Vec<RateWindow>,
    stored: Option<Stored>,
    log: Log,
    local: Local,
    changed: bool,
}

/// Counts that one message needs: the way through one provider, and the rows on it.
type Way = (String, Vec<Uuid>);

impl Limits {
    pub(crate) fn new(rules: Vec<RateRule>) -> Self {
        Self {
            rules,
            local: Mutex::default(),
        }
    }

    /// Counts those that may go, in the order given. Answers for each.
    pub(crate) async fn take(
        &self,
        store: &dyn RecordStore,
        ctx: &Context,
        now: impl Fn() -> Timestamp,
        wants: &[Want<'_>],
    ) -> Result<Vec<Answer>> {
        let mut rows: BTreeMap<Uuid, Row<'_>> = BTreeMap::new();
        let ways: Vec<Vec<Way>> = wants.iter().map(|want| self.ways(want, &mut rows)).collect();
        if rows.is_empty() {
            return Ok(ways
                .into_iter()
                .map(|ways| Answer::Now(ways.into_iter().map(|(name, _)| name).collect()))
                .collect());
        }
        for tries in 1..=TRIES {
            let time = now();
            self.read(store, ctx, time, &mut rows).await?;
            let answers: Vec<Answer> = ways.iter().map(|ways| decide(ways, &mut rows, time)).collect();
            let mut writes = Vec::new();
            for (id, row) in rows.iter().filter(|(_, row)| row.changed) {
                writes.push(row.write(*id, time)?);
            }
            let error = match writes.is_empty() {
                true => None,
                false => store.apply(ctx, &writes).await.err(),
            };
            match error {
                None => {
                    self.keep(ctx, &rows);
                    return Ok(answers);
                }
                // Somebody else counted meanwhile; or nobody knows whether we did, and counting twice does no harm.
                Some(error) if error.kind() == ErrorKind::Conflict || error.effect() == Effect::Unknown => {
                    tokio::time::sleep(Duration::from_millis(tries * tries)).await;
                }
                Some(error) => return Err(error),
            }
        }
        // Too much going on here: those without a limit go, the others a little later.
        let soon = now().plus(FRESH);
        Ok(ways
            .into_iter()
            .map(|ways| {
                let free = ways.iter().filter(|(_, rows)| rows.is_empty());
                let names: Vec<String> = free.map(|(name, _)| name.clone()).collect();
                match names.is_empty() {
                    true => Answer::Later(soon, "many processes count at the same time".to_owned()),
                    false => Answer::Now(names),
                }
            })
            .collect())
    }

    /// The ways a message could go, and the rows each of them needs.
    fn ways<'a>(&'a self, want: &Want<'_>, rows: &mut BTreeMap<Uuid, Row<'a>>) -> Vec<Way> {
        let channel = want.message.channel();
        let domain = want
            .message
            .recipient()
            .rsplit_once('@')
            .map(|(_, of)| of.to_lowercase());
        let mut ways = Vec::with_capacity(want.providers.len());
        for Sender { info, name } in &want.providers {
            let mut needed = Vec::new();
            for rule in &self.rules {
                let about = (rule.channels.is_empty() || rule.channels.contains(&channel))
                    && (rule.providers.is_empty()
                        || rule
                            .providers
                            .iter()
                            .any(|p| *p == info.name || *p == info.scheme));
                if !about {
                    continue;
                }
                let key = match rule.per {
                    RateScope::Provider => info.name.clone(),
                    RateScope::Recipient => want.address.clone(),
                    RateScope::RecipientAndSender => {
                        format!("{}:{}", want.address, name.as_ref().unwrap_or(&info.name))
                    }
                    RateScope::Domain => match &domain {
                        Some(domain)
                            if rule.domains.is_empty()
                                || rule.domains.iter().any(|d| d.eq_ignore_ascii_case(domain)) =>
                        {
                            domain.clone()
                        }
                        _ => continue,
                    },
                };
                let id = row_id(&rule.name, &key);
                needed.push(id);
                rows.entry(id).or_insert_with(|| Row::new(rule, key));
            }
            ways.push((info.name.clone(), needed));
        }
        ways
    }

    async fn read(
        &self,
        store: &dyn RecordStore,
        ctx: &Context,
        now: Timestamp,
        rows: &mut BTreeMap<Uuid, Row<'_>>,
    ) -> Result<()> {
        let ids: Vec<Uuid> = rows.keys().copied().collect();
        let found = store.get(ctx, &RATE, &ids).await?;
        let local = self.local.lock().unwrap_or_else(PoisonError::into_inner);
        for ((id, row), stored) in rows.iter_mut().zip(found) {
            row.log = match &stored {
                Some(stored) => stored.record.json("taken")?,
                None => Log::default(),
            };
            row.stored = stored;
            row.changed = false;
            row.windows = row.rule.windows_at(now);
            row.local = Local {
                left: 0,
                until: now,
                spread: now,
            };
            if let Some(local) = local.get(&(ctx.tenant().as_str().to_owned(), *id)) {
                row.local.spread = local.spread.max(now);
                if local.until > now {
                    row.local.left = local.left;
                    row.local.until = local.until;
                }
            }
        }
        Ok(())
    }

    fn keep(&self, ctx: &Context, rows: &BTreeMap<Uuid, Row<'_>>) {
        let mut local = self.local.lock().unwrap_or_else(PoisonError::into_inner);
        if local.len() > 10_000 {
            local.clear(); // only handfuls and spreads: lost, they cost a moment
        }
        for (id, row) in rows {
            let key = (ctx.tenant().as_str().to_owned(), *id);
            if row.rule.per.is_hot() {
                local.insert(key, row.local);
            }
        }
    }
}

fn row_id(rule: &str, key: &str) -> Uuid {
    let mut hash = Sha256::new();
    hash.update(u64::try_from(rule.len()).unwrap_or(u64::MAX).to_be_bytes());
    hash.update(rule.as_bytes());
    hash.update(key.as_bytes());
    let number = hash
        .finalize()
        .iter()
        .take(16)
        .fold(0_u128, |n, byte| (n << 8) | u128::from(*byte));
    Uuid::from_u128(number)
}

/// Takes what the best way needs of which every row has room; else says when there will be.
fn decide(ways: &[Way], rows: &mut BTreeMap<Uuid, Row<'_>>, now: Timestamp) -> Answer {
    let mut soonest: Option<(Timestamp, String, &Way)> = None;
    for way @ (name, needed) in ways {
        let full = needed
            .iter()
            .filter_map(|id| rows.get(id))
            .filter(|row| row.room(now) == 0)
            .map(|row| (row.log.free_at(&row.windows, now), row.rule.name.clone()))
            .max();
        match full {
            None => {
                for id in needed {
                    if let Some(row) = rows.get_mut(id) {
                        row.take(now);
                    }
                }
                // The others help out only where nothing would have to be counted.
                let unlimited = ways.iter().filter(|(_, needed)| needed.is_empty());
                let mut names = vec![name.clone()];
                names.extend(
                    unlimited
                        .map(|(other, _)| other.clone())
                        .filter(|other| other != name),
                );
                return Answer::Now(names);
            }
            Some((at, rule)) if soonest.as_ref().is_none_or(|(other, ..)| at < *other) => {
                soonest = Some((at, rule, way));
            }
            Some(_) => {}
        }
    }
    let Some((at, rule, (_, needed))) = soonest else {
        return Answer::Now(Vec::new());
    };
    // Those that are turned away together do not come back together.
    let mut later = at;
    for id in needed {
        if let Some(row) = rows.get_mut(id) {
            later = later.max(row.spread(at));
        }
    }
    Answer::Later(later, rule)
}

impl<'a> Row<'a> {
    fn new(rule: &'a RateRule, key: String) -> Self {
        let none = Local {
            left: 0,
            until: Timestamp::EPOCH,
            spread: Timestamp::EPOCH,
        };
        Self {
            rule,
            key,
            windows: Vec::new(),
            stored: None,
            log: Log::default(),
            local: none,
            changed: false,
        }
    }

    fn room(&self, now: Timestamp) -> u32 {
        match self.local.left {
            0 => self.log.room(&self.windows, now),
            left => left,
        }
    }

    fn take(&mut self, now: Timestamp) {
        if self.local.left > 0 {
            self.local.left -= 1;
            return;
        }
        self.changed = true;
        if !self.rule.per.is_hot() {
            self.log.take(1, now, &self.windows, now);
            return;
        }
        // Counted at the last moment at which it may be used, so that no window ever holds more than it may.
        let most = self.windows.iter().map(|w| w.most).min().unwrap_or(1);
        let shortest = self.windows.iter().map(|w| w.per).min().unwrap_or(FRESH);
        let n = self
            .log
            .room(&self.windows, now)
            .min((most / 20).clamp(1, HANDFUL));
        let until = match n {
            0 | 1 => now,
            _ => now.plus((shortest / 20).min(FRESH)),
        };
        self.log.take(n.max(1), until, &self.windows, now);
        self.local.left = n.saturating_sub(1);
        self.local.until = until;
    }

    /// When the next one that is turned away should come again.
    fn spread(&mut self, free: Timestamp) -> Timestamp {
        if !self.rule.per.is_hot() {
            return free;
        }
        let each = self
            .windows
            .iter()
            .map(|w| w.per / w.most.max(1))
            .max()
            .unwrap_or_default();
        let at = self.local.spread.max(free);
        self.local.spread = at.plus(each);
        at
    }

    fn write(&self, id: Uuid, now: Timestamp) -> Result<Write> {
        let record = Record::new(&RATE)
            .with("rule", self.rule.name.as_str())?
            .with("key", self.key.as_str())?
            .with("taken", json("taken", &self.log)?)?
            .with("updated_at", now)?;
        Ok(match &self.stored {
            Some(stored) => Write::update(stored.id, stored.version, record),
            None => Write::insert(id, record),
        })
    }
}
