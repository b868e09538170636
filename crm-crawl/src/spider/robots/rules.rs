//! The rules of a robots.txt (RFC 9309, 2.2): read once, matched in time that grows with the text, whatever is in it.

use url::Url;

/// Sitemaps that are remembered.
const MAX_SITEMAPS: usize = 100;

/// What a robots.txt says to one crawler.
#[derive(Debug, Clone, PartialEq, Default)]
pub(in crate::spider) struct Rules {
    rules: Vec<Rule>,
    /// `Crawl-delay` in seconds: not of the RFC, but asked for by many.
    pub(in crate::spider) delay: Option<f64>,
    /// `Sitemap` lines (RFC 9309, 2.2.4: other records).
    pub(in crate::spider) sitemaps: Vec<Url>,
}

#[derive(Debug, Clone, PartialEq)]
struct Rule {
    allow: bool,
    /// The pieces between the stars; the first begins the path.
    pieces: Vec<String>,
    /// The last piece ends the path.
    to_the_end: bool,
    /// Octets of the pattern: the longest that matches counts.
    length: usize,
}

/// What counts for us so far, of the group of our own name and of the one for everybody.
#[derive(Default)]
struct Group {
    seen: bool,
    rules: Vec<Rule>,
    delay: Option<f64>,
}

impl Rules {
    /// Reads the text for the crawler with this product token. Never fails: what is no rule is passed over.
    pub(in crate::spider) fn parse(text: &[u8], token: &str) -> Self {
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        let (mut own, mut general) = (Group::default(), Group::default());
        let mut sitemaps = Vec::new();
        // Whether the current group is for us or for everybody, and whether its rules have begun: the next user agent
        // then begins another group.
        let (mut for_us, mut for_all, mut begun) = (false, false, false);
        for line in text.split(|b| matches!(b, b'\n' | b'\r')) {
            let Some((name, value)) = pair(line) else {
                continue;
            };
            match name.as_str() {
                "user-agent" | "useragent" | "user agent" => {
                    if begun {
                        (for_us, for_all, begun) = (false, false, false);
                    }
                    if is_everybody(&value) {
                        (for_all, general.seen) = (true, true);
                    } else if own_name(&value).eq_ignore_ascii_case(token) {
                        (for_us, own.seen) = (true, true);
                    }
                }
                "allow" | "disallow" | "dissallow" | "dissalow" | "disalow" | "diasllow" | "disallaw" => {
                    begun = true;
                    let allow = name == "allow";
                    for (group, counts) in [(&mut own, for_us), (&mut general, for_all)] {
                        if counts && let Some(rule) = Rule::new(allow, &value) {
                            group.rules.push(rule);
                        }
                    }
                }
                "crawl-delay" | "crawldelay" => {
                    let seconds = value.parse::<f64>().ok().filter(|s| s.is_finite() && *s >= 0.0);
                    for (group, counts) in [(&mut own, for_us), (&mut general, for_all)] {
                        if counts && let Some(seconds) = seconds {
                            group.delay = Some(group.delay.map_or(seconds, |other| other.max(seconds)));
                        }
                    }
                }
                "sitemap" | "site-map" if sitemaps.len() < MAX_SITEMAPS => {
                    sitemaps.extend(
                        Url::parse(&value)
                            .ok()
                            .filter(|url| matches!(url.scheme(), "http" | "https")),
                    );
                }
                _ => {}
            }
        }
        let group = if own.seen { own } else { general };
        Self {
            rules: group.rules,
            delay: group.delay,
            sitemaps,
        }
    }

    /// Whether the URL may be fetched. Of all rules that match the longest counts, of two of one length the one that
    /// allows (2.2.2); robots.txt itself may always be fetched.
    pub(in crate::spider) fn allows(&self, url: &Url) -> bool {
        if url.path() == "/robots.txt" {
            return true;
        }
        let mut path = plain(url.path(), false);
        if let Some(query) = url.query() {
            path.push('?');
            path.push_str(&plain(query, false));
        }
        let mut best: Option<(usize, bool)> = None;
        for rule in &self.rules {
            let stronger = best.is_none_or(|best| (rule.length, rule.allow) > best);
            if stronger && rule.matches(&path) {
                best = Some((rule.length, rule.allow));
            }
        }
        best.is_none_or(|(_, allow)| allow)
    }
}

impl Rule {
    /// `None` for an empty pattern, which says nothing.
    fn new(allow: bool, pattern: &str) -> Option<Self> {
        if pattern.is_empty() {
            return None;
        }
        let (pattern, to_the_end) = match pattern.strip_suffix('$') {
            Some(pattern) => (pattern, true),
            None => (pattern, false),
        };
        let pattern = plain(pattern, true);
        let length = pattern.len() + usize::from(to_the_end);
        // Several stars in a row mean the same as one.
        let mut pieces: Vec<String> = Vec::new();
        for (i, piece) in pattern.split('*').enumerate() {
            if i == 0 || !piece.is_empty() {
                pieces.push(piece.to_owned());
            }
        }
        // A star at the end: nothing has to end the path.
        let to_the_end = to_the_end && !pattern.ends_with('*');
        Some(Self {
            allow,
            pieces,
            to_the_end,
            length,
        })
    }

    /// Each piece is looked for once, to the right of the one before it: the leftmost place leaves the most room for the
    /// rest, so there is nothing to go back for.
    fn matches(&self, path: &str) -> bool {
        let mut pieces = self.pieces.iter();
        let Some(mut rest) = pieces.next().and_then(|first| path.strip_prefix(first.as_str())) else {
            return false;
        };
        let mut pieces = pieces.peekable();
        if pieces.peek().is_none() {
            return !self.to_the_end || rest.is_empty();
        }
        while let Some(piece) = pieces.next() {
            if self.to_the_end && pieces.peek().is_none() {
                return rest.ends_with(piece.as_str());
            }
            match rest.find(piece.as_str()) {
                Some(at) => rest = rest.get(at + piece.len()..).unwrap_or_default(),
                None => return false,
            }
        }
        true
    }
}

/// Name and value of a line, without its comment; the name in lower case. A colon is between them, or, as it is often
/// forgotten, a blank when there are two words.
fn pair(line: &[u8]) -> Option<(String, String)> {
    let line = line.split(|b| *b == b'#').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let line = line.trim_matches([' ', '\t']);
    let (name, value) = match line.split_once(':') {
        Some(pair) => pair,
        None => {
            let mut words = line.split([' ', '\t']).filter(|word| !word.is_empty());
            match (words.next(), words.next(), words.next()) {
                (Some(name), Some(value), None) => (name, value),
                _ => return None,
            }
        }
    };
    let name = name.trim_matches([' ', '\t']);
    if name.is_empty() || name.len() > 64 {
        return None;
    }
    Some((
        name.to_ascii_lowercase(),
        value.trim_matches([' ', '\t']).to_owned(),
    ))
}

fn is_everybody(value: &str) -> bool {
    value
        .strip_prefix('*')
        .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t']))
}

/// A name up to the first character that no product token has (2.2.1).
fn own_name(value: &str) -> &str {
    let end = value
        .find(|c: char| !(c.is_ascii_alphabetic() || c == '-' || c == '_'))
        .unwrap_or(value.len());
    value.get(..end).unwrap_or(value)
}

/// One form for paths and patterns (2.2.2): escapes of unreserved characters undone, others in upper case, everything
/// that is escaped by some and not by others escaped. In a pattern the star stays.
fn plain(text: &str, pattern: bool) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        at += 1;
        let mut escape = |byte: u8| {
            let _ = write!(out, "%{byte:02X}");
        };
        match byte {
            b'%' => match bytes.get(at..at + 2).and_then(code) {
                Some(code) => {
                    at += 2;
                    if code.is_ascii_alphanumeric() || b"-._~".contains(&code) {
                        out.push(char::from(code));
                    } else {
                        escape(code);
                    }
                }
                None => out.push('%'),
            },
            b'*' if pattern => out.push('*'),
            b'*' | b'$' | b'"' | b'\'' | b'<' | b'>' | b'`' | b'{' | b'}' | b'\\' | b'^' | b'|' | b'#' => {
                escape(*byte)
            }
            byte if byte.is_ascii_graphic() => out.push(char::from(*byte)),
            byte => escape(*byte),
        }
    }
    out
}

fn code(hex: &[u8]) -> Option<u8> {
    let [high, low] = hex else {
        return None;
    };
    let digit = |byte: &u8| {
        char::from(*byte)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    Some(digit(high)? << 4 | digit(low)?)
}

#[cfg(test)]
mod tests;
