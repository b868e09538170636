//! Doors for the fuzz targets to parsers that are not public. Only there when fuzzed or tested.

use crm_core::Timestamp;
use crm_core::customer::Provenance;
use url::Url;

use crate::assemble::Reading;
use crate::file::document::Documents;
use crate::rest::{At, Pagination, Reader};
use crate::spider::doors;

/// Whether a robots.txt allows the crawler of this product token a URL.
pub fn robots(text: &[u8], token: &str, url: &Url) -> bool {
    doors::robots(text, token, url)
}

/// The canonical form of a URL.
pub fn canonical(url: &Url, sort: bool) -> Url {
    doors::canonical(url, sort)
}

/// Pages and further sitemaps of a sitemap, of at most so many bytes once decompressed.
pub fn sitemap(body: &[u8], max: usize) -> Option<(Vec<Url>, Vec<Url>)> {
    doors::sitemap(body, max)
}

/// The text of a page with this content type.
pub fn decode(content_type: &[u8], body: &[u8]) -> Option<String> {
    doors::decode(content_type, body)
}

/// An answer of an interface that is read as a page: the next page stays at its origin.
///
/// # Panics
/// When it does not.
pub fn rest_page(kind: usize, body: &[u8], link: &str) {
    const KINDS: [&str; 7] = [
        r#"{"type": "none"}"#,
        r#"{"type": "cursor", "param": "after", "cursor": "paging.next.after", "more": "more"}"#,
        r#"{"type": "last_id", "param": "after", "id": "id", "more": "more"}"#,
        r#"{"type": "page", "param": "page", "total": "pages"}"#,
        r#"{"type": "offset", "param": "offset", "total": "total"}"#,
        r#"{"type": "link"}"#,
        r#"{"type": "next_url", "path": "next"}"#,
    ];
    let text = KINDS.get(kind % KINDS.len()).copied().unwrap_or_default();
    let (Ok(pages), Ok(base)) = (
        serde_json::from_str::<Pagination>(text),
        Url::parse("https://api.example/v1/customers?limit=2"),
    ) else {
        return;
    };
    let items = if kind & 0x40 == 0 { "items" } else { "" };
    let reader = Reader::new(&pages, items, &base);
    let Ok(read) = reader.read(body, [link], &At::First, &base) else {
        return;
    };
    if let Some(next) = &read.next
        && let Ok(url) = reader.url(&base, next)
    {
        assert_eq!(url.origin(), base.origin());
    }
    let mut documents = Documents::new(None, &Reading::default(), "fuzz");
    for item in &read.items {
        let provenance = Provenance::new("fuzz", Timestamp::EPOCH).at("x");
        let _ = documents.draft(item, provenance);
    }
}
