//! What a body is: whether it is a page at all, and in which encoding.

use std::borrow::Cow;

use crm_core::http::{Response, redacted};
use crm_core::{Error, Result};
use encoding_rs::{Encoding, UTF_8, WINDOWS_1252};
use url::Url;

/// Where a page's own word about its encoding has to stand (HTML Standard, 4.2.5.4).
const PRESCAN: usize = 1024;

/// How files begin that are no pages, whatever the site says they are.
const BINARY: &[&[u8]] = &[
    b"%PDF-",
    b"\x89PNG",
    b"GIF8",
    b"\xff\xd8\xff",
    b"PK\x03\x04",
    b"\x1f\x8b",
    b"\x7fELF",
    b"RIFF",
    b"MZ\x90",
    b"Rar!",
    b"7z\xbc\xaf",
];

/// Only HTML is parsed: by what the site says it is, and by what it looks like.
pub(super) fn content_type(answer: &Response, url: &Url) -> Result<()> {
    let declared = answer.header("content-type").unwrap_or("text/html");
    let essence = declared
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    let wrong = |message: &'static str| {
        Err(Error::invalid(message)
            .operation("crawl.fetch")
            .with("url", redacted(url))
            .with("content_type", &essence))
    };
    if !matches!(essence.as_str(), "text/html" | "application/xhtml+xml") {
        return wrong("the page is not HTML");
    }
    let start = answer.body.get(..1024).unwrap_or(&answer.body);
    if BINARY.iter().any(|magic| start.starts_with(magic)) {
        return wrong("the page says it is HTML, but is a file of another kind");
    }
    let marked = Encoding::for_bom(&answer.body).is_some();
    if start.contains(&0) && !marked && !declared.to_ascii_lowercase().contains("utf-16") {
        return wrong("the page says it is HTML, but is binary");
    }
    Ok(())
}

/// The text: by byte order mark, `Content-Type`, the page's own `meta`, else UTF-8 if it is valid and windows-1252 if not
/// (HTML Standard, 13.2.3.2).
pub(super) fn decode(answer: &Response) -> Cow<'_, str> {
    let body = &answer.body;
    let declared = || {
        let label = charset(answer.header("content-type")?.as_bytes())?;
        Encoding::for_label(label)
    };
    let guess = || {
        if std::str::from_utf8(body).is_ok() {
            UTF_8
        } else {
            WINDOWS_1252
        }
    };
    let encoding = declared()
        .or_else(|| prescan(body.get(..PRESCAN).unwrap_or(body)))
        .unwrap_or_else(guess);
    // Looks for a byte order mark first.
    encoding.decode(body).0
}

/// What a page says of its own encoding in its first bytes (13.2.3.2, "prescan a byte stream").
fn prescan(start: &[u8]) -> Option<&'static Encoding> {
    let mut rest = start;
    loop {
        rest = rest.get(memchr::memchr(b'<', rest)?..)?;
        if rest.starts_with(b"<!--") {
            // The dashes that begin a comment may end it: `<!-->`.
            let inside = rest.get(2..)?;
            rest = inside.get(memchr::memmem::find(inside, b"-->")? + 3..)?;
            continue;
        }
        let name_end = rest
            .iter()
            .skip(1)
            .position(|b| b.is_ascii_whitespace() || matches!(b, b'/' | b'>'))
            .map(|at| at + 1)?;
        let (tag, after) = rest.split_at(name_end);
        let is_tag = tag.get(1).is_some_and(|b| b.is_ascii_alphabetic() || *b == b'/');
        if !is_tag {
            // `<!doctype`, `<?xml`, a lone `<`.
            rest = rest.get(1..)?;
            continue;
        }
        let mut meta = Meta::default();
        let mut attributes = after;
        while let Some((name, value, next)) = attribute(attributes)? {
            meta.take(&name, &value);
            attributes = next;
        }
        rest = attributes;
        if tag.eq_ignore_ascii_case(b"<meta")
            && let Some(found) = meta.encoding()
        {
            return Some(found);
        }
    }
}

/// What a `meta` element says.
#[derive(Default)]
struct Meta {
    is_content_type: bool,
    charset: Option<Vec<u8>>,
    content: Option<Vec<u8>>,
}

impl Meta {
    fn take(&mut self, name: &[u8], value: &[u8]) {
        match name {
            b"http-equiv" => self.is_content_type = value.eq_ignore_ascii_case(b"content-type"),
            b"charset" if self.charset.is_none() => self.charset = Some(value.to_vec()),
            b"content" if self.content.is_none() => self.content = charset(value).map(<[u8]>::to_vec),
            _ => {}
        }
    }

    fn encoding(self) -> Option<&'static Encoding> {
        let label = self.charset.or(self.content.filter(|_| self.is_content_type))?;
        // The page could be read so far, so it is not in UTF-16 whatever it says.
        Encoding::for_label(&label).map(|found| if found.is_ascii_compatible() { found } else { UTF_8 })
    }
}

type Attribute<'a> = (Vec<u8>, Vec<u8>, &'a [u8]);

/// The next attribute of a tag in lower case, and what follows it; `Some(None)` at the tag's end, `None` when the bytes
/// end before.
fn attribute(bytes: &[u8]) -> Option<Option<Attribute<'_>>> {
    let blank = |b: &u8| b.is_ascii_whitespace() || *b == b'/';
    let skip = |bytes: &[u8], over: &dyn Fn(&u8) -> bool| bytes.iter().position(|b| !over(b));
    let bytes = bytes.get(skip(bytes, &blank)?..)?;
    if bytes.starts_with(b">") {
        return Some(None);
    }
    // A name may begin with `=`.
    let end = 1 + bytes
        .iter()
        .skip(1)
        .position(|b| blank(b) || matches!(b, b'>' | b'='))?;
    let name = bytes.get(..end)?.to_ascii_lowercase();
    let rest = bytes.get(end..)?;
    let rest = rest.get(skip(rest, &u8::is_ascii_whitespace)?..)?;
    let Some(value) = rest.strip_prefix(b"=") else {
        return Some(Some((name, Vec::new(), rest)));
    };
    let value = value.get(skip(value, &u8::is_ascii_whitespace)?..)?;
    let (value, rest) = match value.first()? {
        quote @ (b'"' | b'\'') => {
            let inside = value.get(1..)?;
            let end = memchr::memchr(*quote, inside)?;
            (inside.get(..end)?, inside.get(end + 1..)?)
        }
        _ => {
            let end = value.iter().position(|b| b.is_ascii_whitespace() || *b == b'>')?;
            value.split_at(end)
        }
    };
    Some(Some((name, value.to_ascii_lowercase(), rest)))
}

/// The label in `text/html; charset=utf-8`, as the HTML Standard finds it (2.5.2).
fn charset(text: &[u8]) -> Option<&[u8]> {
    let lower = text.to_ascii_lowercase();
    let mut from = 0;
    loop {
        from += memchr::memmem::find(lower.get(from..)?, b"charset")? + b"charset".len();
        let rest = text.get(from..)?.trim_ascii_start();
        let Some(value) = rest.strip_prefix(b"=") else {
            continue;
        };
        let value = value.trim_ascii_start();
        return match value.first()? {
            quote @ (b'"' | b'\'') => {
                let inside = value.get(1..)?;
                inside.get(..memchr::memchr(*quote, inside)?)
            }
            _ => value
                .split(|b| b.is_ascii_whitespace() || matches!(b, b';' | b','))
                .next(),
        };
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use std::time::Duration;

    use http::{HeaderValue, header};

    use super::*;

    fn answer(headers: &[(&'static str, &'static str)], body: &'static [u8]) -> Response {
        let headers = headers
            .iter()
            .map(|(name, value)| {
                (
                    header::HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect();
        Response {
            status: http::StatusCode::OK,
            final_url: Url::parse("http://site.example/").unwrap(),
            headers,
            body: Bytes::from_static(body),
            truncated: false,
            elapsed: Duration::ZERO,
        }
    }

    #[test]
    fn characters_are_what_the_page_means() {
        for (content_type, body) in [
            ("text/html; charset=utf-8", "<p>Kört".as_bytes()),
            ("text/html", "<p>Kört".as_bytes()),
            ("text/html", b"<p>K\xf6rt"),
            ("text/html; charset=ISO-8859-1", b"<p>K\xf6rt"),
            ("text/html", b"<meta charset='windows-1252'><p>K\xf6rt"),
            (
                "text/html",
                b"<meta http-equiv=\"Content-Type\" content=\"text/html; charset=iso-8859-15\"><p>K\xf6rt",
            ),
            ("text/html; charset=windows-1252", b"\xef\xbb\xbf<p>K\xc3\xb6rt"),
            ("text/html; Charset = \"ISO-8859-1\"", b"<p>K\xf6rt"),
            ("text/html; charset=no-such", b"<META CHARSET=latin1><p>K\xf6rt"),
            // Not what the page says: in a comment, in a script, of another element, after the first 1,024 bytes.
            ("text/html", b"<!-- <meta charset=utf-8> --><p>K\xf6rt"),
            ("text/html", b"<!--><meta charset=latin1><p>K\xf6rt"),
            (
                "text/html",
                b"<a title=\"<meta charset=utf-8>\"><meta charset=latin1><p>K\xf6rt",
            ),
            (
                "text/html",
                b"<metadata charset=utf-16><meta charset=latin1><p>K\xf6rt",
            ),
            (
                "text/html",
                b"<meta content='text/html; charset=koi8-r'><p>K\xf6rt",
            ),
            (
                "text/html",
                b"<meta name=x content=charset=koi8-r charset = 'latin1' ><p>K\xf6rt",
            ),
            (
                "text/html",
                b"<?xml encoding='koi8-r'?><!doctype html><meta charset=latin1/><p>K\xf6rt",
            ),
            // Said to be in UTF-16, but readable: it is not.
            ("text/html", b"<meta charset=utf-16le><p>K\xc3\xb6rt"),
            ("text/html", b"\xff\xfe<\0p\0>\0K\0\xf6\0r\0t\0"),
        ] {
            let answer = answer(&[("content-type", content_type)], body);
            let text = decode(&answer);
            assert!(text.ends_with("<p>Kört"), "{content_type}: {text}");
        }
    }

    /// CRW-11.
    #[test]
    fn only_pages_are_read() {
        let url = Url::parse("http://site.example/").unwrap();
        let ok = |content_type, body| content_type_of(&url, content_type, body).is_ok();
        assert!(ok("text/html; charset=utf-8", b"<p>"));
        assert!(ok("Text/HTML", b"<p>"));
        assert!(ok("application/xhtml+xml", b"<p>"));
        for content_type in [
            "application/pdf",
            "image/png",
            "text/plain",
            "application/json",
            "text/htmlx",
        ] {
            assert!(!ok(content_type, b"<p>"), "{content_type}");
        }
        for start in [
            &b"\x7fELF\x02\x01\x01\0\0\0"[..],
            b"%PDF-1.7 <p>",
            b"\x89PNG\r\n",
            b"GIF89a",
            b"PK\x03\x04",
            b"a\0b",
        ] {
            assert!(!ok("text/html", start), "{start:?}");
        }
    }

    fn content_type_of(url: &Url, declared: &'static str, body: &'static [u8]) -> Result<()> {
        content_type(&answer(&[("content-type", declared)], body), url)
    }
}
