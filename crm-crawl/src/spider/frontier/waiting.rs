//! A URL that waits, and how it is written down.

use crm_core::record::Version;
use crm_core::{Timestamp, Uuid};
use url::Url;

use crate::spider::canonical::digest;
use crate::spider::link::Link;

/// What is expected at a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::spider) enum Kind {
    #[default]
    Page,
    Sitemap,
    /// A sitemap that an index listed; it may not be an index itself.
    Part,
}

impl Kind {
    pub(in crate::spider) fn code(self) -> u8 {
        match self {
            Self::Page => 0,
            Self::Sitemap => 1,
            Self::Part => 2,
        }
    }

    pub(in crate::spider) fn of(code: u64) -> Option<Self> {
        Some(match code {
            0 => Self::Page,
            1 => Self::Sitemap,
            2 => Self::Part,
            _ => return None,
        })
    }
}

/// The record of a URL in a stored frontier, as it was claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::spider) struct Lease {
    pub(in crate::spider) id: Uuid,
    pub(in crate::spider) version: Version,
    pub(in crate::spider) until: Timestamp,
    /// Where it stands in the queue.
    pub(in crate::spider) position: i64,
}

/// A URL that waits to be fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::spider) struct Waiting {
    pub(in crate::spider) url: Url,
    /// The URL's digest.
    pub(in crate::spider) key: u64,
    /// Links from a seed.
    pub(in crate::spider) depth: u32,
    /// Attempts made.
    pub(in crate::spider) attempt: u32,
    pub(in crate::spider) kind: Kind,
    /// The redirects that led here, by digest.
    pub(in crate::spider) chain: Vec<u64>,
    /// With a stored frontier: what holds it.
    pub(in crate::spider) lease: Option<Lease>,
}

impl Waiting {
    pub(in crate::spider) fn new(link: Link, depth: u32, kind: Kind) -> Self {
        Self {
            url: link.url,
            key: link.key,
            depth,
            attempt: 0,
            kind,
            chain: Vec::new(),
            lease: None,
        }
    }

    /// One that was written down in its canonical form.
    pub(in crate::spider) fn known(url: Url, depth: u32, kind: Kind) -> Self {
        let key = digest(&url);
        Self::new(Link { url, key, trap: None }, depth, kind)
    }

    /// One line; the attempts are not kept.
    pub(super) fn write(&self, out: &mut String) {
        use std::fmt::Write as _;
        let _ = write!(out, "{} {} ", self.depth, self.kind.code());
        for (i, hop) in self.chain.iter().enumerate() {
            let _ = write!(out, "{}{hop:x}", if i == 0 { "" } else { "," });
        }
        let _ = writeln!(out, " {}", self.url);
    }

    pub(super) fn read(line: &str) -> Option<Self> {
        let mut words = line.splitn(4, ' ');
        let (depth, kind, chain, url) = (words.next()?, words.next()?, words.next()?, words.next()?);
        let chain: Option<Vec<u64>> = chain
            .split(',')
            .filter(|hop| !hop.is_empty())
            .map(|hop| u64::from_str_radix(hop, 16).ok())
            .collect();
        let mut waiting = Self::known(
            Url::parse(url).ok()?,
            depth.parse().ok()?,
            Kind::of(kind.parse().ok()?)?,
        );
        waiting.chain = chain?;
        Some(waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_as_it_was_written() {
        let url = Url::parse("http://s.example/a?b=c#d").unwrap();
        let mut waiting = Waiting::known(url, 7, Kind::Part);
        waiting.chain = vec![1, u64::MAX];
        let mut text = String::new();
        waiting.write(&mut text);
        assert_eq!(Waiting::read(text.trim_end()), Some(waiting));
        assert_eq!(Waiting::read("0 9  http://s.example/"), None);
    }
}
