//! Doors for the fuzz targets to what is not public here. Only there when fuzzed or tested.

use std::time::Duration;

use bytes::Bytes;
use crm_core::http::Response;
use http::{HeaderMap, HeaderValue, StatusCode};
use url::Url;

use super::robots::rules::Rules;

/// Whether a robots.txt allows a URL.
pub(crate) fn robots(text: &[u8], token: &str, url: &Url) -> bool {
    Rules::parse(text, token).allows(url)
}

pub(crate) fn canonical(url: &Url, sort: bool) -> Url {
    super::canonical::canonical(url, sort)
}

/// Pages and further sitemaps of a sitemap.
pub(crate) fn sitemap(body: &[u8], max: usize) -> Option<(Vec<Url>, Vec<Url>)> {
    let listing = super::sitemap::read(body, max).ok()?;
    Some((listing.pages, listing.parts))
}

/// The text of a page.
pub(crate) fn decode(content_type: &[u8], body: &[u8]) -> Option<String> {
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_bytes(content_type) {
        headers.insert(http::header::CONTENT_TYPE, value);
    }
    let url = Url::parse("https://shop.example/").ok()?;
    let answer = Response {
        status: StatusCode::OK,
        final_url: url.clone(),
        headers,
        body: Bytes::copy_from_slice(body),
        truncated: false,
        elapsed: Duration::ZERO,
    };
    super::body::content_type(&answer, &url).ok()?;
    Some(super::body::decode(&answer).into())
}
