//! What stands in a page's text: addresses, addresses written so that no program should read them, and phone numbers.

use std::sync::LazyLock;

use regex::Regex;

use super::dom::{Dom, is_block};
use super::{label, name, value};

/// Finds in one page's text; a page with more is a list of spam, or a trap.
const MAX_FINDS: usize = 2_000;

/// A regular expression of this file; what is wrong with one, a test says.
pub(super) fn regex(pattern: &str) -> Option<Regex> {
    Regex::new(pattern).ok()
}

static ADDRESS: LazyLock<Option<Regex>> =
    LazyLock::new(|| regex(r"[\w.!#$%&'*+/=?^`{|}~-]+@(?:[\w-]+\.)+[\w-]+"));

/// `name [at] example [dot] com`, `name (at) example.com`, `name {at} example punkt de`.
static BRACKETS: LazyLock<Option<Regex>> = LazyLock::new(|| {
    regex(concat!(
        r"(?i)([a-z0-9_.+-]+(?:[ \n]*[\[({<][ \n]*(?:dot|punkt|punto|point|\.)[ \n]*[\])}>][ \n]*[a-z0-9_.+-]+)*)",
        r"[ \n]*[\[({<][ \n]*(?:at|ät|arroba|@|a t)[ \n]*[\])}>][ \n]*",
        r"([a-z0-9-]+(?:(?:[ \n]*[\[({<][ \n]*(?:dot|punkt|punto|point|\.)[ \n]*[\])}>][ \n]*|[ \n]+(?:dot|punkt)[ \n]+|\.)[a-z0-9-]+)+)",
    ))
});

/// `name at example dot com`: words alone, and only with a `dot` among them.
static WORDS: LazyLock<Option<Regex>> =
    LazyLock::new(|| regex(r"(?i)([a-z0-9_.+-]+)[ \n]+at[ \n]+([a-z0-9-]+(?:[ \n]+dot[ \n]+[a-z0-9-]+)+)"));

/// `<name at example.com>`, as archives of mailing lists and lists of authors have it.
static ANGLE: LazyLock<Option<Regex>> =
    LazyLock::new(|| regex(r"(?i)<[ \n]*([a-z0-9_.+-]+)[ \n]+at[ \n]+((?:[a-z0-9-]+\.)+[a-z]{2,})[ \n]*>"));

static DOT: LazyLock<Option<Regex>> = LazyLock::new(|| {
    regex(r"(?i)[ \n]*[\[({<][ \n]*(?:dot|punkt|punto|point|\.)[ \n]*[\])}>][ \n]*|[ \n]+(?:dot|punkt)[ \n]+")
});

static PHONE: LazyLock<Option<Regex>> =
    LazyLock::new(|| regex(r"(?:\(?\+|00)?\(?[0-9][0-9 ().\-/\u{a0}\u{2011}\u{2013}]{4,24}[0-9]"));

/// The address in `name (at) example [dot] com`, in plain writing.
pub(super) fn plain_address(text: &str) -> Option<String> {
    // Most of what is asked about is no address at all: no expression is needed to see that.
    let lower = text.to_lowercase();
    if text.len() > 512
        || !["at", "ät", "arroba", "@", "a t"]
            .iter()
            .any(|mark| lower.contains(mark))
    {
        return None;
    }
    let found = [&*BRACKETS, &*WORDS]
        .into_iter()
        .flatten()
        .find_map(|regex| regex.captures(text))?;
    let dotted = |part: usize| Some(DOT.as_ref()?.replace_all(found.get(part)?.as_str(), "."));
    Some(format!("{}@{}", dotted(1)?, dotted(2)?))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Email,
    /// With brackets, or words, in the place of `@`.
    Hidden {
        words: bool,
    },
    Phone {
        labelled: bool,
        international: bool,
    },
}

/// A find: what, its value in canonical form, and the text node it begins in.
#[derive(Debug)]
pub(super) struct Spotted {
    pub(super) kind: Kind,
    pub(super) value: String,
    pub(super) node: u32,
    /// The name before an address in brackets.
    pub(super) name: Option<String>,
}

/// All that stands in the text of the body.
pub(super) fn spot(dom: Dom<'_>, region: Option<&str>) -> Vec<Spotted> {
    let Lines { text, nodes } = lines(dom);
    let node_at = |offset: usize| {
        let after = nodes.partition_point(|(start, _)| *start <= offset);
        after
            .checked_sub(1)
            .and_then(|at| nodes.get(at))
            .map_or(0, |(_, node)| *node)
    };
    let mut found = Vec::new();
    if text.contains('@') {
        for spotted in ADDRESS
            .iter()
            .flat_map(|regex| regex.find_iter(&text))
            .take(MAX_FINDS)
        {
            let before = tail(&text, spotted.start());
            let token = before.rsplit([' ', '\n']).next().unwrap_or_default();
            let after = text.get(spotted.end()..).unwrap_or_default();
            // `https://user:password@host`, `https://social.example/@name`, `git@host:path`: addresses of another kind.
            let url = token.contains("://") || token.ends_with(['/', '@']);
            let path = after.starts_with(':')
                && !after.get(1..).unwrap_or_default().starts_with([' ', '\n'])
                && after.len() > 1;
            if url || path || label::is_messenger(before) {
                continue;
            }
            let (start, end) = within_node(&text, &nodes, spotted.start(), spotted.end());
            let written = text.get(start..end).unwrap_or_default();
            let written = written.trim_matches(['.', '\'', '*', '-', '/', '=', '?', '`', '|', '{', '}']);
            if let Some(value) = value::email(written) {
                found.push(Spotted {
                    kind: Kind::Email,
                    value,
                    node: node_at(start),
                    name: name::before(last_line(tail(&text, start))),
                });
            }
        }
    }
    for (start, end) in marks(&text).into_iter().take(MAX_FINDS) {
        let window = text.get(start..end).unwrap_or_default();
        for spotted in BRACKETS.iter().flat_map(|regex| regex.find_iter(window)) {
            if let Some(value) = plain_address(spotted.as_str()).and_then(|plain| value::email(&plain)) {
                let kind = Kind::Hidden { words: false };
                found.push(Spotted {
                    kind,
                    value,
                    node: node_at(start + spotted.start()),
                    name: None,
                });
            }
        }
    }
    if text.contains('<') {
        for parts in ANGLE
            .iter()
            .flat_map(|regex| regex.captures_iter(&text))
            .take(MAX_FINDS)
        {
            let (Some(local), Some(domain)) = (parts.get(1), parts.get(2)) else {
                continue;
            };
            if let Some(value) = value::email(&format!("{}@{}", local.as_str(), domain.as_str())) {
                found.push(Spotted {
                    kind: Kind::Hidden { words: false },
                    value,
                    node: node_at(local.start()),
                    name: name::before(last_line(tail(&text, local.start()))),
                });
            }
        }
    }
    if text.to_ascii_lowercase().contains(" dot ") {
        for spotted in WORDS
            .iter()
            .flat_map(|regex| regex.find_iter(&text))
            .take(MAX_FINDS)
        {
            if let Some(value) = plain_address(spotted.as_str()).and_then(|plain| value::email(&plain)) {
                let kind = Kind::Hidden { words: true };
                found.push(Spotted {
                    kind,
                    value,
                    node: node_at(spotted.start()),
                    name: None,
                });
            }
        }
    }
    for spotted in PHONE
        .iter()
        .flat_map(|regex| regex.find_iter(&text))
        .take(MAX_FINDS)
    {
        found.extend(
            phone(&text, spotted.start(), spotted.as_str(), region).map(|(kind, value)| Spotted {
                kind,
                value,
                node: node_at(spotted.start()),
                name: None,
            }),
        );
    }
    found
}

/// What stands before, as far as it matters.
fn tail(text: &str, end: usize) -> &str {
    let mut start = end.saturating_sub(64);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    text.get(start..end).unwrap_or_default()
}

/// The line that ends there.
fn last_line(text: &str) -> &str {
    text.rsplit('\n').next().unwrap_or_default()
}

/// Where a bracketed `at` stands, with what is around it.
fn marks(text: &str) -> Vec<(usize, usize)> {
    const WORDS: [&str; 5] = ["at", "ät", "arroba", "@", "a t"];
    let boundary = |mut at: usize| {
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        at
    };
    let mut marks: Vec<(usize, usize)> = Vec::new();
    for (open, _) in text.match_indices(['[', '(', '{', '<']) {
        let inside = text
            .get(open + 1..boundary((open + 16).min(text.len())))
            .unwrap_or_default();
        let Some(close) = inside.find([']', ')', '}', '>']) else {
            continue;
        };
        let word = inside.get(..close).unwrap_or_default().trim().to_lowercase();
        // Not over what the window before has: an address is found once.
        let covered = marks.last().map_or(0, |(_, end)| *end);
        if WORDS.contains(&word.as_str()) && open >= covered {
            let start = covered.max(boundary(open.saturating_sub(80)));
            marks.push((start, boundary((open + 600).min(text.len()))));
        }
    }
    marks
}

/// Words of neighbouring elements stand together in the text when there is no blank between them: of `Co` and `x@shop.example`
/// only the second is the address, if its element has all of it.
fn within_node(text: &str, nodes: &[(usize, u32)], start: usize, end: usize) -> (usize, usize) {
    let Some(at) = text
        .get(start..end)
        .and_then(|found| found.find('@'))
        .map(|at| start + at)
    else {
        return (start, end);
    };
    let after = nodes.partition_point(|(begin, _)| *begin <= at);
    let node_start = after
        .checked_sub(1)
        .and_then(|i| nodes.get(i))
        .map_or(0, |(begin, _)| *begin);
    let node_end = nodes.get(after).map_or(text.len(), |(begin, _)| *begin);
    let start = if node_start > start && node_start < at {
        node_start
    } else {
        start
    };
    let domain = text.get(at..node_end).unwrap_or_default();
    let tail = text.get(node_end..end).unwrap_or_default();
    let whole = domain.contains('.') && !domain.ends_with('.') && !tail.starts_with(['.', '-']);
    (start, if node_end < end && whole { node_end } else { end })
}

fn phone(text: &str, start: usize, written: &str, region: Option<&str>) -> Option<(Kind, String)> {
    // A line ends a number: only its first line is one.
    let written = written.lines().next()?.trim();
    let before = label::before(tail(text, start))?;
    if label::is_fax(before)
        || before.ends_with(|c: char| c.is_alphanumeric() || matches!(c, '#' | '$' | '€' | '£' | '@' | '_'))
    {
        return None;
    }
    let international = written.trim_start_matches('(').starts_with('+') || written.starts_with("00");
    let labelled = label::is_phone(before);
    // Years, prices, dates and the like are far more frequent than numbers without a word before them.
    let after = text.get(start + written.len()..).unwrap_or_default();
    if !international && !labelled && (region.is_none() || after.starts_with(|c: char| c.is_alphabetic())) {
        return None;
    }
    let value = value::phone(written, region)?;
    Some((
        Kind::Phone {
            labelled,
            international,
        },
        value,
    ))
}

struct Lines {
    text: String,
    /// Where a text node's text begins, and the node.
    nodes: Vec<(usize, u32)>,
}

/// The text of the body as a reader sees it: a line per block, blanks squeezed, without scripts, styles and forms' suggestions.
fn lines(dom: Dom<'_>) -> Lines {
    let mut lines = Lines {
        text: String::new(),
        nodes: Vec::new(),
    };
    let mut blocks: Vec<u32> = Vec::new();
    let mut at = 0;
    while at < dom.len() {
        while blocks.last().is_some_and(|end| *end <= at) {
            blocks.pop();
            new_line(&mut lines.text);
        }
        let name = dom.name(at);
        if matches!(
            name,
            "head" | "script" | "style" | "noscript" | "template" | "textarea" | "select" | "svg" | "iframe"
        ) || matches!(name, "code" | "kbd" | "samp") && !is_written_out(dom, at)
        {
            at = dom.end(at);
            continue;
        }
        if is_block(name) {
            new_line(&mut lines.text);
            blocks.push(dom.end(at));
        } else if is_hidden(dom, at) {
            // `ana@<span style="display:none">nospam</span>shop.example`: meant to be overlooked. Whole blocks that are hidden
            // until a visitor opens them are read.
            at = dom.end(at);
            continue;
        } else if name == "img"
            && let Some(sign) = dom.attr(at, "alt").and_then(sign)
        {
            lines.nodes.push((lines.text.len(), at));
            lines.text.push(sign);
        } else if name == "br" {
            new_line(&mut lines.text);
        } else if let Some(piece) = dom.text_node(at) {
            lines.nodes.push((lines.text.len(), at));
            for c in piece.chars().filter_map(folded) {
                if !c.is_whitespace() {
                    lines.text.push(c);
                } else if !lines.text.ends_with([' ', '\n']) {
                    lines.text.push(' ');
                }
            }
        }
        at += 1;
    }
    lines
}

/// An address in type of its own (`<code>ana@shop.example</code>`, as manuals have it) and nothing else: in more than that, it
/// is what a program is given.
fn is_written_out(dom: Dom<'_>, at: u32) -> bool {
    let inside = std::iter::successors(dom.parent(at), |at| dom.parent(*at)).take(8);
    let mut inside = inside.map(|at| dom.name(at));
    let text = dom.text(at, 256);
    let text = text.trim_matches(['<', '>', '.', ' ']);
    !inside.any(|name| name == "pre")
        && text.len() < 256
        && match text.split_once(" at ") {
            Some((local, domain)) => !local.contains(' ') && !domain.contains(' ') && domain.contains('.'),
            None => !text.contains([' ', '/', ':']) && value::email(text).is_some(),
        }
}

/// An inline element that is not shown.
fn is_hidden(dom: Dom<'_>, at: u32) -> bool {
    if !matches!(
        dom.name(at),
        "span" | "b" | "i" | "em" | "strong" | "small" | "u" | "s" | "font"
    ) {
        return false;
    }
    let style = dom.attr(at, "style").unwrap_or_default();
    let plain: String = style.chars().filter(|c| !c.is_whitespace()).collect();
    dom.attr(at, "hidden").is_some() || plain.to_ascii_lowercase().contains("display:none")
}

/// What a picture in the place of a sign stands for.
fn sign(alt: &str) -> Option<char> {
    match alt
        .trim()
        .trim_matches(['(', ')', '[', ']'])
        .to_ascii_lowercase()
        .as_str()
    {
        "@" | "at" => Some('@'),
        "." | "dot" => Some('.'),
        _ => None,
    }
}

/// A character as it is meant: full-width forms and the digits of other scripts as ASCII, hyphens as `-`; nothing for what
/// takes no room.
pub(super) fn folded(c: char) -> Option<char> {
    Some(match c {
        '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}' => return None,
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(u32::from(c) - 0xfee0)?,
        '\u{2010}' | '\u{2212}' => '-',
        // Arabic, Persian, Devanagari, Bengali, Thai.
        c => match [0x660, 0x6f0, 0x966, 0x9e6, 0xe50]
            .iter()
            .find_map(|zero| u32::from(c).checked_sub(*zero).filter(|digit| *digit < 10))
        {
            Some(digit) => char::from_digit(digit, 10)?,
            None => c,
        },
    })
}

fn new_line(text: &mut String) {
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spider::Document;

    fn spotted(html: &str, region: Option<&str>) -> Vec<String> {
        let page = Document::parse(html).unwrap();
        spot(Dom::new(&page), region)
            .into_iter()
            .map(|found| found.value)
            .collect()
    }

    #[test]
    fn the_patterns_are_patterns() {
        for pattern in [&ADDRESS, &BRACKETS, &WORDS, &DOT, &PHONE, &ANGLE] {
            assert!(pattern.is_some());
        }
    }

    #[test]
    fn addresses_in_texts() {
        for (html, wanted) in [
            ("<p>Write to ana@shop.example.", &["ana@shop.example"] as &[&str]),
            (
                "<p>ana@shop.example, ben@shop.example;",
                &["ana@shop.example", "ben@shop.example"],
            ),
            ("<p>E-Mail:ana@shop.example</p>", &["ana@shop.example"]),
            ("<p>ana&#64;shop&#46;example</p>", &["ana@shop.example"]),
            (
                "<p>ana<span>@</span><b>shop.example</b></p>",
                &["ana@shop.example"],
            ),
            ("<p>ana</p><p>@shop.example</p>", &[]),
            ("<p>ana [at] shop [dot] example</p>", &["ana@shop.example"]),
            ("<p>ana (at) shop.example</p>", &["ana@shop.example"]),
            ("<p>ana(ät)shop(punkt)example</p>", &["ana@shop.example"]),
            (
                "<p>ana <span>[at]</span> shop <i>[dot]</i> example",
                &["ana@shop.example"],
            ),
            ("<p>Mail: ana at shop dot example</p>", &["ana@shop.example"]),
            ("<p>We meet at noon at shop.example</p>", &[]),
            ("<p>She is at work dot com</p>", &["is@work.com"]),
            ("<p>logo@2x.png and https://user:secret@shop.example/</p>", &[]),
            ("<p>https://social.example/@ana</p>", &[]),
            (
                "<script>var a = 'ana@shop.example'</script><style>a@b.example{}</style>",
                &[],
            ),
            (
                "<textarea>you@example.com</textarea><input placeholder='ana@shop.example'>",
                &[],
            ),
        ] {
            assert_eq!(spotted(html, None), wanted, "{html}");
        }
    }

    #[test]
    fn numbers_in_texts() {
        for (html, region, wanted) in [
            ("<p>Tel. +49 30 901820</p>", None, &["+4930901820"] as &[&str]),
            (
                "<p>+49 30 901820, +49 30 901821</p>",
                None,
                &["+4930901820", "+4930901821"],
            ),
            ("<p>Phone: (425) 555-0199</p>", Some("US"), &["+14255550199"]),
            ("<p>Phone: (425) 555-0199</p>", None, &[]),
            ("<p>Fax: +49 30 901820</p>", None, &[]),
            (
                "<p>Tel: 030 901820 Fax: 030 901821</p>",
                Some("DE"),
                &["+4930901820"],
            ),
            ("<p>Call us on 020 7946 0958!</p>", Some("GB"), &["+442079460958"]),
            ("<p>2026-03-01 12:30</p><p>Order 4930901820</p>", None, &[]),
            (
                "<p>Price: 1.299,00 EUR, ISBN 978-3-16-148410-0</p>",
                Some("DE"),
                &[],
            ),
            ("<p>Tel: +49 30 901820<br>2026</p>", None, &["+4930901820"]),
        ] {
            assert_eq!(spotted(html, region), wanted, "{html}");
        }
    }
}
