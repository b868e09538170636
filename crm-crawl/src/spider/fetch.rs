//! One page: fetched, judged by its status, decoded, parsed.

use std::sync::Arc;
use std::time::Duration;

use chrono::DateTime;
use crm_core::http::{HttpClient, Response, redacted};
use crm_core::{Error, ErrorKind, Result, Retry, Timestamp};
use encoding_rs::{Encoding, UTF_8, WINDOWS_1252};
use http::{HeaderMap, HeaderValue, header};
use url::Url;

use super::{Output, Page, Spider};

/// What became of a page.
pub(super) enum Fetched {
    Parsed(Output),
    Redirect(Url),
    /// It may work later; not before `after` if the site said so.
    Again {
        error: Error,
        after: Option<Duration>,
    },
    Failed(Error),
}

pub(super) async fn page(client: &HttpClient, spider: Arc<dyn Spider>, url: Url, now: Timestamp) -> Fetched {
    let mut headers = HeaderMap::new();
    headers.insert(
        header::ACCEPT,
        HeaderValue::from_static("text/html,application/xhtml+xml;q=0.9"),
    );
    let answer = match client.get(&url, &headers).await {
        Ok(answer) => answer,
        Err(error) => {
            return match error.retry() {
                Retry::Allowed { after } => Fetched::Again { error, after },
                _ => Fetched::Failed(error),
            };
        }
    };
    let status = answer.status.as_u16();
    let refused = |kind: ErrorKind, message: &'static str| {
        Error::new(kind, message)
            .operation("crawl.fetch")
            .with("url", redacted(&url))
            .with("status", status)
    };
    match status {
        200..=299 => {}
        301 | 302 | 303 | 307 | 308 => {
            let next = answer
                .headers
                .get(header::LOCATION)
                .and_then(|to| std::str::from_utf8(to.as_bytes()).ok());
            return match next.and_then(|to| url.join(to).ok()) {
                Some(next) => Fetched::Redirect(next),
                None => Fetched::Failed(refused(ErrorKind::Invalid, "a redirect that leads nowhere")),
            };
        }
        429 | 503 => {
            let kind = if status == 429 {
                ErrorKind::RateLimited
            } else {
                ErrorKind::Unavailable
            };
            let after = retry_after(&answer, now);
            return Fetched::Again {
                error: refused(kind, "the site asks to come back later"),
                after,
            };
        }
        408 | 500..=599 => {
            return Fetched::Again {
                error: refused(ErrorKind::Unavailable, "the site cannot serve the page"),
                after: None,
            };
        }
        401 | 403 => {
            return Fetched::Failed(refused(
                ErrorKind::PermissionDenied,
                "the site does not show this page",
            ));
        }
        404 | 410 => return Fetched::Failed(refused(ErrorKind::NotFound, "there is no such page")),
        _ => return Fetched::Failed(refused(ErrorKind::Invalid, "an answer that is no page")),
    }
    if answer.truncated {
        return Fetched::Failed(
            refused(ErrorKind::Invalid, "the page is larger than the limit").with("setting", "http.max_body"),
        );
    }
    if let Err(error) = content_type(&answer, &url) {
        return Fetched::Failed(error);
    }
    // Building the tree and picking it apart costs CPU; a spider that panics costs its page only.
    let read = tokio::task::spawn_blocking(move || {
        let html = decode(&answer);
        let place = url.clone();
        let page = Page::new(url, spider.name(), &html, now).map_err(|e| e.with("url", redacted(&place)))?;
        let mut output = Output::new();
        spider.parse(&page, &mut output);
        Ok::<_, Error>(output)
    })
    .await;
    match read {
        Ok(Ok(output)) => Fetched::Parsed(output),
        Ok(Err(error)) => Fetched::Failed(error),
        Err(error) => Fetched::Failed(
            Error::unexpected("the spider panicked on this page")
                .operation("crawl.parse")
                .source(error),
        ),
    }
}

/// Only HTML is parsed: by what the site says it is, and by what it looks like.
fn content_type(answer: &Response, url: &Url) -> Result<()> {
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
    let marked = Encoding::for_bom(&answer.body).is_some();
    if start.contains(&0) && !marked && !declared.to_ascii_lowercase().contains("utf-16") {
        return wrong("the page says it is HTML, but is binary");
    }
    Ok(())
}

/// The text: by byte order mark, `Content-Type`, the page's own `meta`, else UTF-8 if it is valid and windows-1252 if not
/// (HTML Standard, 13.2.3.2, shortened).
fn decode(answer: &Response) -> String {
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

/// `Retry-After` in seconds or as a date (RFC 9110, 10.2.3).
pub(super) fn retry_after(answer: &Response, now: Timestamp) -> Option<Duration> {
    let text = answer.header("retry-after")?.trim();
    if let Ok(seconds) = text.parse::<u32>() {
        return Some(Duration::from_secs(seconds.into()));
    }
    let at = DateTime::parse_from_rfc2822(text).ok()?;
    Some(Timestamp::from_micros(at.timestamp_micros()).since(now))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

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
        assert!(!ok("text/html", b"\x7fELF\x02\x01\x01\0\0\0"));
    }

    fn content_type_of(url: &Url, declared: &'static str, body: &'static [u8]) -> Result<()> {
        content_type(&answer(&[("content-type", declared)], body), url)
    }

    #[test]
    fn waits_that_sites_ask_for() {
        let now: Timestamp = "2026-03-01T09:00:00Z".parse().unwrap();
        let after = |text| retry_after(&answer(&[("retry-after", text)], b""), now);
        assert_eq!(after("120"), Some(Duration::from_secs(120)));
        assert_eq!(
            after("Sun, 01 Mar 2026 09:00:30 GMT"),
            Some(Duration::from_secs(30))
        );
        assert_eq!(after("Sun, 01 Mar 2026 08:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(after("soon"), None);
    }
}
