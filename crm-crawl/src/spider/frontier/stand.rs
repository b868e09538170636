//! The frontier as a checkpoint.

use std::collections::{BTreeMap, BTreeSet};

use crm_core::capability::Checkpoint;
use crm_core::record::MAX_VALUE_BYTES;
use crm_core::{Error, Result};
use serde::{Deserialize, Serialize};

use super::{Frontier, Waiting};

const KIND: &str = "crawl/2";
/// Of a digest.
const DIGITS: usize = 16;

/// Adds a digest.
pub(super) fn write_key(to: &mut String, key: u64) {
    for nibble in key.to_be_bytes().iter().flat_map(|byte| [byte >> 4, byte & 0xf]) {
        to.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
    }
}

/// A checkpoint. Long lists are texts: a tree of values would cost more than the crawl.
#[derive(Serialize, Deserialize)]
pub(in crate::spider) struct Stand {
    kind: String,
    spider: String,
    /// A line each.
    waiting: String,
    /// Digests of what is done, 16 hexadecimal digits each.
    done: String,
    variants: Vec<(u64, u32)>,
    told: BTreeSet<String>,
    /// Pages read.
    pub(in crate::spider) read: u64,
    pub(in crate::spider) drafts: u64,
    pub(in crate::spider) rejects: u64,
}

impl Frontier {
    /// Whether a checkpoint would be longer than a store takes.
    pub(in crate::spider) fn is_too_large(&self) -> bool {
        let rest = 40 * self.variants.len() + 200 * self.told.len() + 200 * self.in_flight.len() + 1024;
        self.waiting_bytes + self.done.len() + rest > MAX_VALUE_BYTES
    }

    /// Writes it down; what is in flight waits again.
    pub(in crate::spider) fn checkpoint(
        &self,
        spider: &str,
        read: u64,
        drafts: u64,
        rejects: u64,
    ) -> Result<Checkpoint> {
        let mut in_flight: Vec<&Waiting> = self.in_flight.values().collect();
        in_flight.sort_by_key(|waiting| &waiting.url);
        let mut waiting = String::with_capacity(self.waiting_bytes);
        for one in in_flight.into_iter().chain(self.queues.values().flatten()) {
            one.write(&mut waiting);
        }
        let stand = Stand {
            kind: KIND.to_owned(),
            spider: spider.to_owned(),
            // The long ones are moved in below, not copied.
            waiting: String::new(),
            done: String::new(),
            variants: self
                .variants
                .iter()
                .map(|(key, count)| (*key, *count))
                .collect::<BTreeMap<_, _>>()
                .into_iter()
                .collect(),
            told: self.told.clone(),
            read,
            drafts,
            rejects,
        };
        let mut value = serde_json::to_value(&stand)
            .map_err(|error| Error::unexpected("a checkpoint cannot be written").source(error))?;
        if let Some(object) = value.as_object_mut() {
            object.insert("waiting".to_owned(), waiting.into());
            object.insert("done".to_owned(), self.done.clone().into());
        }
        Ok(Checkpoint(value))
    }

    /// Reads it back.
    pub(in crate::spider) fn resume(checkpoint: &Checkpoint, spider: &str) -> Result<(Self, Stand)> {
        let wrong = || {
            Error::invalid("the checkpoint is not one of this spider; start anew without it")
                .operation("crawl.resume")
                .with("spider", spider)
        };
        let mut stand: Stand = serde_json::from_value(checkpoint.0.clone()).map_err(|_| wrong())?;
        if stand.kind != KIND || stand.spider != spider || !stand.done.len().is_multiple_of(DIGITS) {
            return Err(wrong());
        }
        let mut frontier = Self::default();
        for hex in stand.done.as_bytes().chunks(DIGITS) {
            let key = std::str::from_utf8(hex)
                .ok()
                .and_then(|hex| u64::from_str_radix(hex, 16).ok())
                .ok_or_else(wrong)?;
            frontier.seen.insert(key);
        }
        frontier.done_count = (stand.done.len() / DIGITS) as u64;
        frontier.done = std::mem::take(&mut stand.done);
        for line in std::mem::take(&mut stand.waiting).lines() {
            let waiting = Waiting::read(line).ok_or_else(wrong)?;
            if frontier.seen.insert(waiting.key) {
                frontier.push(waiting, false);
            }
        }
        frontier.variants = std::mem::take(&mut stand.variants).into_iter().collect();
        frontier.told = std::mem::take(&mut stand.told);
        Ok((frontier, stand))
    }
}
