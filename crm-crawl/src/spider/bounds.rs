//! A look at the text before the tree is built: what would stop the tree builder is refused.

use crm_core::{Error, Result};

/// Browsers stop nesting at this depth, too.
const MAX_DEPTH: usize = 512;
/// For each tag the tree builder may look at every open element: the sum of the depths bounds its cost. A page of 10 MiB
/// with 300,000 tags nested 30 deep stays below.
const MAX_WORK: usize = 10_000_000;
const MAX_TAGS: usize = 300_000;
const MAX_ATTRIBUTES: usize = 256;

/// Elements without an end tag (HTML Standard, 13.1.2).
const VOID: &[&str] = &[
    "area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source", "track",
    "wbr",
];
/// Elements whose content is not markup.
const RAW: &[&str] = &[
    "script", "style", "textarea", "title", "xmp", "iframe", "noembed", "noframes",
];

/// Walks over the tags once, keeping the stack of open elements about as the tree builder would.
pub(super) fn check_bounds(html: &str) -> Result<()> {
    let bytes = html.as_bytes();
    let mut open: Vec<&str> = Vec::new();
    let mut tags = 0;
    let mut work = 0;
    let mut at = 0;
    let wrong = |message: &'static str| Err(Error::invalid(message).operation("html.parse"));
    while let Some(next) = find(bytes, at, b'<') {
        let rest = html.get(next + 1..).unwrap_or_default();
        if rest.starts_with("!--") {
            at = rest
                .get(3..)
                .and_then(|r| r.find("-->"))
                .map_or(bytes.len(), |end| next + 4 + end + 3);
            continue;
        }
        let end_tag = rest.starts_with('/');
        let name_start = next + 1 + usize::from(end_tag);
        let name_len = bytes
            .get(name_start..)
            .unwrap_or_default()
            .iter()
            .take_while(|b| !b.is_ascii_whitespace() && !matches!(b, b'>' | b'/' | b'<'))
            .count();
        let name = html.get(name_start..name_start + name_len).unwrap_or_default();
        if !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
            at = next + 1;
            continue;
        }
        let (after, attributes) = tag_end(bytes, name_start + name_len);
        at = after;
        tags += 1;
        work += open.len();
        if work > MAX_WORK {
            return wrong("the page has too many tags for how deep they are nested");
        }
        if tags > MAX_TAGS {
            return wrong("the page has more than 300,000 tags");
        }
        if attributes > MAX_ATTRIBUTES {
            return wrong("an element of the page has more than 256 attributes");
        }
        if end_tag {
            if let Some(place) = open.iter().rposition(|other| other.eq_ignore_ascii_case(name)) {
                open.truncate(place);
            }
            continue;
        }
        if is_one_of(name, VOID) {
            continue;
        }
        if is_one_of(name, RAW) {
            at = raw_end(bytes, after, name);
            continue;
        }
        while open.last().is_some_and(|last| closes(name, last)) {
            open.pop();
        }
        open.push(name);
        if open.len() > MAX_DEPTH {
            return wrong("the page nests elements deeper than 512");
        }
    }
    Ok(())
}

fn find(bytes: &[u8], from: usize, wanted: u8) -> Option<usize> {
    memchr::memchr(wanted, bytes.get(from..)?).map(|at| from + at)
}

fn is_one_of(name: &str, names: &[&str]) -> bool {
    names.iter().any(|other| other.eq_ignore_ascii_case(name))
}

/// Where the tag ends, and how many attributes it has about.
fn tag_end(bytes: &[u8], from: usize) -> (usize, usize) {
    let mut quote = None;
    let mut attributes = 0;
    let mut blank = false;
    let mut after_equals = false;
    for (i, byte) in bytes.iter().enumerate().skip(from) {
        match quote {
            Some(open) => {
                if *byte == open {
                    quote = None;
                    // `a="1"b="2"`: an attribute may follow without a blank.
                    blank = true;
                }
            }
            None => match byte {
                b'>' => return (i + 1, attributes),
                b'"' | b'\'' if after_equals => {
                    quote = Some(*byte);
                    after_equals = false;
                }
                b if b.is_ascii_whitespace() || *b == b'/' => blank = true,
                b'=' => after_equals = true,
                _ => {
                    if blank && !after_equals {
                        attributes += 1;
                    }
                    blank = false;
                    after_equals = false;
                }
            },
        }
    }
    (bytes.len(), attributes)
}

/// Where the end tag of an element without markup begins.
fn raw_end(bytes: &[u8], from: usize, name: &str) -> usize {
    let mut at = from;
    while let Some(next) = find(bytes, at, b'<') {
        let tail = bytes.get(next + 1..).unwrap_or_default();
        let is_end = tail.first() == Some(&b'/')
            && tail
                .get(1..=name.len())
                .is_some_and(|found| found.eq_ignore_ascii_case(name.as_bytes()));
        if is_end {
            return next;
        }
        at = next + 1;
    }
    bytes.len()
}

/// Whether a start tag ends the open element without its end tag (HTML Standard, 13.1.2.4).
fn closes(tag: &str, open: &str) -> bool {
    const CELL: &[&str] = &["td", "th"];
    const ROW: &[&str] = &["td", "th", "tr"];
    const GROUP: &[&str] = &["td", "th", "tr", "tbody", "thead", "tfoot", "caption", "colgroup"];
    let mut lower = [0; 10];
    let Some(lower) = lower.get_mut(..tag.len()) else {
        return false;
    };
    lower.copy_from_slice(tag.as_bytes());
    lower.make_ascii_lowercase();
    let ends: &[&str] = match std::str::from_utf8(lower).unwrap_or_default() {
        "li" => &["li", "p"],
        "dt" | "dd" => &["dt", "dd", "p"],
        "option" => &["option"],
        "optgroup" => &["option", "optgroup"],
        "td" | "th" => CELL,
        "tr" => ROW,
        "tbody" | "thead" | "tfoot" => GROUP,
        "p" | "div" | "ul" | "ol" | "dl" | "table" | "section" | "article" | "h1" | "h2" | "h3" | "h4"
        | "h5" | "h6" | "form" | "blockquote" | "pre" | "header" | "footer" | "nav" | "aside" | "main"
        | "address" => &["p"],
        _ => &[],
    };
    is_one_of(open, ends)
}

#[cfg(test)]
mod tests {
    use super::super::Document;
    use super::*;

    /// CRW-6, bad input 19.
    #[test]
    fn pages_made_to_stop_parsers_are_refused() {
        for (what, html) in [
            ("lists in lists", "<ul><li>".repeat(64 * 1024)),
            ("nested boxes", "<div>".repeat(200_000)),
            ("bold without end", "<p><b>x".repeat(1000)),
            ("tables in tables", "<table><tr><td>".repeat(1000)),
            ("quote in attribute", "<div a='>'>".repeat(600)),
            ("attributes", format!("<a {}>", "b=1 ".repeat(1_000_000))),
            (
                "attributes without blanks",
                format!("<a {}>", "b='1'".repeat(1000)),
            ),
            ("too many tags", "<br>".repeat(300_001)),
            ("upper case", "<DIV>".repeat(600)),
            (
                "many and deep",
                format!("{}{}", "<div>".repeat(500), "<p>x</p>".repeat(20_000)),
            ),
        ] {
            assert!(check_bounds(&html).is_err(), "{what}");
        }
    }

    #[test]
    fn pages_of_old_and_of_today_are_not() {
        for (what, html) in [
            (
                "items without end tags",
                format!("<ul>{}</ul>", "<li>a".repeat(20_000)),
            ),
            ("paragraphs without end tags", "<p>a".repeat(20_000)),
            (
                "cells without end tags",
                format!("<table>{}</table>", "<tr><td>a<td>b".repeat(20_000)),
            ),
            (
                "rows of today",
                format!(
                    "<table><tbody>{}</tbody></table>",
                    "<tr><td>a</td></tr>".repeat(20_000)
                ),
            ),
            (
                "markup in scripts",
                format!("<script>{}</script>", "'<div>'".repeat(2000)),
            ),
            ("markup in comments", format!("<!-- {} -->", "<div>".repeat(2000))),
            ("comment without end", format!("<!-- {}", "<div>".repeat(2000))),
            ("images", "<img src='a.png' alt=\"<div>\">".repeat(2000)),
            ("smaller than", "a < b <3 ".repeat(20_000)),
            (
                "a long attribute",
                format!("<p title='{}'>", "x ".repeat(1_000_000)),
            ),
            (
                "deep, but not too deep",
                format!("{}x{}", "<div>".repeat(500), "</div>".repeat(500)),
            ),
        ] {
            assert!(check_bounds(&html).is_ok(), "{what}");
        }
    }

    #[test]
    fn the_worst_that_is_let_in_is_parsed_in_time() {
        let deep = format!("{}{}", "<div>".repeat(510), "<p>text</p>".repeat(9_000));
        let broad = format!("<table>{}</table>", "<tr><td>text</td></tr>".repeat(70_000));
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for html in [deep, broad] {
                sender.send(Document::parse(&html).map(drop)).unwrap();
            }
        });
        // Generous: without optimisation, on a busy machine.
        for _ in 0..2 {
            receiver
                .recv_timeout(std::time::Duration::from_secs(25))
                .unwrap()
                .unwrap();
        }
    }
}
