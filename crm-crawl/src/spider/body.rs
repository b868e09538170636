//! What a body is: whether it is a page at all, and in which encoding.

use crm_core::http::{Response, redacted};
use crm_core::{Error, Result};
use encoding_rs::{Encoding, UTF_8, WINDOWS_1252};
use url::Url;

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
/// (HTML Standard, 13.2.3.2, shortened).
pub(super) fn decode(answer: &Response) -> String {
    let body = &answer.body;
    let declared = || {
        let (_, label) = answer
            .header("content-type")?
            .to_ascii_lowercase()
            .split_once("charset=")
            .map(own)?;
        Encoding::for_label(label.trim_matches([' ', '"', '\'']).split(';').next()?.as_bytes())
    };
    let own_word = || {
        let start = String::from_utf8_lossy(body.get(..1024).unwrap_or(body)).to_ascii_lowercase();
        let (_, label) = start.split_once("charset=").map(own)?;
        let label: String = label
            .trim_start_matches(['"', '\''])
            .chars()
            .take_while(|c| !" \"'/>;".contains(*c))
            .collect();
        // The page could be read so far, so it is not in UTF-16 whatever it says.
        Encoding::for_label(label.as_bytes()).map(|e| if e.is_ascii_compatible() { e } else { UTF_8 })
    };
    let guess = || {
        if std::str::from_utf8(body).is_ok() {
            UTF_8
        } else {
            WINDOWS_1252
        }
    };
    let encoding = declared().or_else(own_word).unwrap_or_else(guess);
    // Looks for a byte order mark first.
    encoding.decode(body).0.into_owned()
}

fn own((a, b): (&str, &str)) -> (String, String) {
    (a.to_owned(), b.to_owned())
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
            ("text/html", b"\xff\xfe<\0p\0>\0K\0\xf6\0r\0t\0"),
        ] {
            let text = decode(&answer(&[("content-type", content_type)], body));
            assert!(text.ends_with("<p>Kört"), "{content_type}: {text}");
        }
    }

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
