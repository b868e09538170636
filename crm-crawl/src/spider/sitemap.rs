//! Sitemaps (sitemaps.org, 0.9): lists of pages, and lists of such lists. Text lists are read, too.
//!
//! No XML library: of the format only `loc` elements count, nothing is expanded but the five entities of XML itself and
//! numbers, and a document type, where others can be declared, is refused.

use std::io::Read as _;

use crm_core::{Error, Result};
use url::Url;

/// The most entries of one list (sitemaps.org).
const MAX_ENTRIES: usize = 50_000;
/// The longest address.
const MAX_LOCATION: usize = 2048;

/// What a sitemap lists.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Listing {
    /// Pages.
    pub(super) pages: Vec<Url>,
    /// Further sitemaps.
    pub(super) parts: Vec<Url>,
    /// There were more than the limit.
    pub(super) cut: bool,
}

/// Reads a sitemap of at most `max` bytes; a compressed one is decompressed first, and cut there.
pub(super) fn read(body: &[u8], max: usize) -> Result<Listing> {
    let mut cut = false;
    let mut text = Vec::new();
    if body.starts_with(&[0x1f, 0x8b]) {
        let limit = u64::try_from(max).unwrap_or(u64::MAX);
        flate2::read::MultiGzDecoder::new(body)
            .take(limit.saturating_add(1))
            .read_to_end(&mut text)
            .map_err(|error| wrong("the sitemap's compression is damaged").source(error))?;
        cut = text.len() > max;
        text.truncate(max);
    }
    let text = if text.is_empty() { body } else { &text };
    let text = String::from_utf8_lossy(text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text));
    let mut listing = if text.trim_start().starts_with('<') {
        xml(&text)?
    } else {
        lines(&text)?
    };
    listing.cut |= cut;
    Ok(listing)
}

fn wrong(message: &'static str) -> Error {
    Error::invalid(message).operation("crawl.sitemap")
}

fn lines(text: &str) -> Result<Listing> {
    let mut listing = Listing::default();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if listing.pages.len() >= MAX_ENTRIES {
            listing.cut = true;
            break;
        }
        listing.pages.extend(location(line));
    }
    if listing.pages.is_empty() && !text.trim().is_empty() {
        return Err(wrong("the sitemap is neither XML nor a list of addresses"));
    }
    Ok(listing)
}

fn xml(text: &str) -> Result<Listing> {
    let mut listing = Listing::default();
    let mut known = false;
    // Whether `loc` now stands for a page or for a part.
    let mut part = false;
    let mut rest = text;
    while let Some(at) = rest.find('<') {
        let tag = rest.get(at + 1..).unwrap_or_default();
        if let Some(comment) = tag.strip_prefix("!--") {
            rest = comment
                .find("-->")
                .and_then(|end| comment.get(end + 3..))
                .unwrap_or_default();
            continue;
        }
        if tag
            .get(..8)
            .is_some_and(|start| start.eq_ignore_ascii_case("!DOCTYPE"))
        {
            return Err(wrong("the sitemap declares a document type; none is read"));
        }
        let Some(end) = tag.find('>') else {
            break;
        };
        let name = local_name(tag.get(..end).unwrap_or_default());
        rest = tag.get(end + 1..).unwrap_or_default();
        match name {
            "urlset" | "sitemapindex" => known = true,
            "url" => part = false,
            "sitemap" => part = true,
            "loc" => {
                let value = rest.split_once("</").map_or("", |(value, _)| value);
                if listing.pages.len() + listing.parts.len() >= MAX_ENTRIES {
                    listing.cut = true;
                    break;
                }
                if let Some(url) = content(value).and_then(|value| location(&value)) {
                    if part {
                        listing.parts.push(url)
                    } else {
                        listing.pages.push(url)
                    }
                }
            }
            _ => {}
        }
    }
    if known {
        Ok(listing)
    } else {
        Err(wrong("this is no sitemap"))
    }
}

/// The name of a start tag without its prefix; empty for everything else.
fn local_name(tag: &str) -> &str {
    if tag.starts_with(['/', '?', '!']) {
        return "";
    }
    let name = tag
        .split(|c: char| c.is_ascii_whitespace() || c == '/')
        .next()
        .unwrap_or_default();
    match name.split_once(':') {
        // What is on the page, not pages.
        Some(("image" | "video" | "news" | "xhtml", _)) => "",
        Some((_, name)) => name,
        None => name,
    }
}

/// The text of an element: CDATA as it stands, entities of XML and numbers resolved; `None` with any other entity.
fn content(text: &str) -> Option<String> {
    let text = text.trim();
    if text.len() > 4 * MAX_LOCATION {
        return None;
    }
    if let Some(text) = text.strip_prefix("<![CDATA[") {
        return text.split_once("]]>").map(|(text, _)| text.trim().to_owned());
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('&') {
        out.push_str(before);
        let (entity, after) = after.split_once(';')?;
        let code = match entity {
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            "quot" => '"',
            "apos" => '\'',
            other => {
                let number = other.strip_prefix('#')?;
                let code = match number.strip_prefix(['x', 'X']) {
                    Some(hex) => u32::from_str_radix(hex, 16).ok()?,
                    None => number.parse().ok()?,
                };
                char::from_u32(code)?
            }
        };
        out.push(code);
        rest = after;
    }
    out.push_str(rest);
    Some(out)
}

fn location(text: &str) -> Option<Url> {
    if text.len() > MAX_LOCATION {
        return None;
    }
    Url::parse(text)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https"))
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::io::Write as _;

    use proptest::prelude::*;

    use super::*;

    const MAX: usize = 10 * 1024 * 1024;

    fn pages(body: &[u8]) -> Vec<String> {
        read(body, MAX)
            .unwrap()
            .pages
            .iter()
            .map(Url::to_string)
            .collect()
    }

    fn gz(body: &[u8]) -> Vec<u8> {
        let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        writer.write_all(body).unwrap();
        writer.finish().unwrap()
    }

    const PLAIN: &str = "<?xml version='1.0' encoding='UTF-8'?>\n<urlset xmlns='http://www.sitemaps.org/schemas/sitemap/0.9'>\n\
        <!-- <url><loc>http://s.example/not</loc></url> -->\n<url>\n <loc> http://s.example/a?x=1&amp;y=&#50; </loc>\
        <lastmod>2026-01-01</lastmod></url><url><loc><![CDATA[http://s.example/b?x=1&y=2]]></loc>\
        <image:image><image:loc>http://s.example/i.png</image:loc></image:image></url></urlset>";

    #[test]
    fn lists_are_read() {
        let wanted = ["http://s.example/a?x=1&y=2", "http://s.example/b?x=1&y=2"];
        assert_eq!(pages(PLAIN.as_bytes()), wanted);
        assert_eq!(pages(&gz(PLAIN.as_bytes())), wanted);
        assert_eq!(
            pages(
                PLAIN
                    .replace("<url", "<s:url")
                    .replace("<loc", "<s:loc")
                    .as_bytes()
            ),
            wanted
        );
        assert_eq!(
            pages(b"\xef\xbb\xbfhttp://s.example/a\r\nnothing\nhttps://s.example/b\n").len(),
            2
        );
        let index = b"<sitemapindex><sitemap><loc>http://s.example/1.xml.gz</loc></sitemap></sitemapindex>";
        let listing = read(index, MAX).unwrap();
        assert_eq!((listing.pages.len(), listing.parts[0].path()), (0, "/1.xml.gz"));
    }

    /// Bad input 21.
    #[test]
    fn hostile_lists() {
        let laughs = "<!DOCTYPE lolz [<!ENTITY lol 'lol'><!ENTITY lol2 '&lol;&lol;'>]><urlset><url><loc>http://s.example/&lol2;</loc></url></urlset>";
        let outside = "<!doctype x [<!ENTITY e SYSTEM 'file:///etc/passwd'>]><urlset><url><loc>&e;</loc></url></urlset>";
        for text in [laughs, outside] {
            assert!(
                read(text.as_bytes(), MAX)
                    .unwrap_err()
                    .message()
                    .contains("document type")
            );
        }
        let undeclared = "<urlset><url><loc>http://s.example/&lol;</loc></url><url><loc>file:///etc/passwd</loc></url></urlset>";
        assert_eq!(pages(undeclared.as_bytes()).len(), 0);
        let many = (0..50_001).fold("<urlset>".to_owned(), |mut text, i| {
            let _ = write!(text, "<url><loc>http://s.example/{i}</loc></url>");
            text
        });
        let listing = read(many.as_bytes(), MAX).unwrap();
        assert_eq!((listing.pages.len(), listing.cut), (50_000, true));
        // 100 MiB in 100 KiB: what is over the limit is never there.
        let bomb = gz(&vec![b' '; 100 << 20]);
        assert!(bomb.len() < 200_000);
        assert!(read(&bomb, 1 << 20).unwrap().cut);
        assert!(read(&gz(PLAIN.as_bytes())[..40], MAX).is_err());
        assert!(read(b"<html><body>no</body></html>", MAX).is_err());
        assert!(read(b"just words", MAX).is_err());
        assert_eq!(
            read(b"<urlset><url><loc>http://s.example/never-ends", MAX)
                .unwrap()
                .pages
                .len(),
            0
        );
    }

    proptest! {
        #[test]
        fn anything_is_read(text in "(<(/?(url|loc|sitemap|urlset)|!--|!\\[CDATA\\[|!DOCTYPE)>?|&[a-z#0-9]{0,4};?|http://s.example/|[ -~]){0,30}",
                            bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = read(text.as_bytes(), MAX);
            let _ = read(&bytes, MAX);
            let _ = read(&[&[0x1f, 0x8b][..], &bytes].concat(), 1000);
        }
    }
}
