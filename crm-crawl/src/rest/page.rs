//! What an answer says: its items, and where the next page is. Pure, so that it can be tried on anything.

use crm_core::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use sha2::{Digest, Sha256};
use url::Url;

use super::spec::Pagination;
use crate::file::document::{follow, keys};

/// Where a page is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum At {
    First,
    /// A cursor, or the id of the last item.
    Cursor(String),
    /// The number of a page, or the place of its first item.
    Number(u64),
    Url(String),
}

/// What a page holds.
pub(crate) struct Read {
    pub(crate) items: Vec<Json>,
    /// Where the next one is; `None` behind the last.
    pub(crate) next: Option<At>,
    /// By what the same page would be known again; `None` for an empty one.
    pub(crate) digest: Option<String>,
}

/// Reads the pages of one interface.
pub(crate) struct Reader {
    pages: Pagination,
    items: Option<Vec<String>>,
    base: Url,
}

impl Reader {
    pub(crate) fn new(pages: &Pagination, items: &str, base: &Url) -> Self {
        Self {
            pages: pages.clone(),
            items: (!items.is_empty()).then(|| keys(items)),
            base: base.clone(),
        }
    }

    /// Adds to the first page's URL what leads to the one at `at`.
    pub(crate) fn url(&self, first: &Url, at: &At) -> Result<Url> {
        let with = |param: &str, value: &str| {
            let mut url = first.clone();
            set(&mut url, param, value);
            url
        };
        Ok(match (at, &self.pages) {
            (At::Url(url), _) => self.next_url(first, url)?,
            (At::Cursor(cursor), Pagination::Cursor { param, .. } | Pagination::LastId { param, .. }) => {
                with(param, cursor)
            }
            (At::Number(number), Pagination::Page { param, .. } | Pagination::Offset { param, .. }) => {
                with(param, &number.to_string())
            }
            (
                At::First,
                Pagination::Page {
                    param, first: number, ..
                },
            ) => with(param, &number.to_string()),
            (At::First, Pagination::Offset { param, .. }) => with(param, "0"),
            (At::First, _) => first.clone(),
            _ => {
                return Err(Error::conflict(
                    "the pagination changed since the checkpoint; start anew without it",
                )
                .operation("rest.resume"));
            }
        })
    }

    /// Reads an answer; `links` are its `Link` headers, `place` is the URL that answered.
    pub(crate) fn read<'l>(
        &self,
        body: &[u8],
        links: impl IntoIterator<Item = &'l str>,
        at: &At,
        place: &Url,
    ) -> Result<Read> {
        let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
        let mut json: Json = serde_json::from_slice(body).map_err(|error| {
            let why = match error.classify() {
                serde_json::error::Category::Eof => "it ends in the middle",
                _ if error.to_string().starts_with("recursion limit") => "it is nested too deep",
                _ => "it is not well-formed",
            };
            Error::invalid("the answer is not JSON")
                .with("why", why)
                .with("line", error.line())
                .with("column", error.column())
        })?;
        let found = match &self.items {
            None => Some(&json),
            Some(keys) => keys.iter().try_fold(&json, |at, key| match at {
                Json::Object(map) => map.get(key),
                Json::Array(items) => items.get(key.parse::<usize>().ok()?),
                _ => None,
            }),
        };
        match found {
            Some(Json::Array(_) | Json::Null) => {}
            Some(_) => return Err(self.no_list("what stands there is no list")),
            None => return Err(self.no_list("the answer has nothing there")),
        }
        let items = taken(&mut json, self.items.as_deref().unwrap_or_default());
        let next = self.next(&json, &items, links, at, place)?;
        Ok(Read {
            digest: digest(&items),
            items,
            next,
        })
    }

    fn no_list(&self, why: &'static str) -> Error {
        let path = self
            .items
            .as_ref()
            .map_or_else(String::new, |keys| keys.join("."));
        Error::invalid("the items are not where `items` says")
            .with("setting", "items")
            .with("path", path)
            .with("why", why)
    }

    fn next<'l>(
        &self,
        json: &Json,
        items: &[Json],
        links: impl IntoIterator<Item = &'l str>,
        at: &At,
        place: &Url,
    ) -> Result<Option<At>> {
        let at_path = |path: &str| {
            let mut found = None;
            follow(json, &keys(path), true, &mut |value| {
                found = found.or(Some(value))
            });
            found
        };
        let more = |path: &Option<String>| match path.as_deref().map(|path| (path, at_path(path))) {
            None => Ok(None),
            Some((_, Some(Json::Bool(more)))) => Ok(Some(*more)),
            Some((_, None | Some(Json::Null))) => Ok(Some(false)),
            Some((path, Some(_))) => Err(Error::invalid(
                "the flag that says whether there is more is no flag",
            )
            .with("setting", "pages.more")
            .with("path", path)),
        };
        let behind = |count: u64, total: &Option<String>| {
            let total = total.as_deref().and_then(at_path).and_then(number);
            !items.is_empty() && total.is_none_or(|total| count < total)
        };
        match &self.pages {
            Pagination::None => Ok(None),
            Pagination::Cursor {
                cursor, more: flag, ..
            } => {
                let more = more(flag)?;
                let found = at_path(cursor).and_then(text);
                match (found, more) {
                    (_, Some(false)) | (None, None) => Ok(None),
                    (Some(cursor), _) => Ok(Some(At::Cursor(cursor))),
                    (None, Some(true)) => {
                        Err(Error::invalid("there is more, but no cursor that leads to it")
                            .with("setting", "pages.cursor")
                            .with("path", cursor))
                    }
                }
            }
            Pagination::LastId { id, more: flag, .. } => {
                if more(flag)? == Some(false) {
                    return Ok(None);
                }
                let Some(last) = items.last() else {
                    return Ok(None);
                };
                let mut found = None;
                follow(last, &keys(id), true, &mut |value| {
                    found = found.take().or_else(|| text(value))
                });
                match found {
                    Some(id) => Ok(Some(At::Cursor(id))),
                    None => Err(
                        Error::invalid("the last item has no id for the next page to begin at")
                            .with("setting", "pages.id")
                            .with("path", id),
                    ),
                }
            }
            Pagination::Page { first, total, .. } => {
                let now = match at {
                    At::Number(number) => *number,
                    _ => *first,
                };
                let done = now.saturating_sub(*first).saturating_add(1);
                Ok(behind(done, total).then(|| At::Number(now.saturating_add(1))))
            }
            Pagination::Offset { total, .. } => {
                let now = match at {
                    At::Number(number) => *number,
                    _ => 0,
                };
                let then = now.saturating_add(items.len() as u64);
                Ok(behind(then, total).then_some(At::Number(then)))
            }
            Pagination::Link { rel } => links
                .into_iter()
                .find_map(|header| link(header, rel))
                .map(|target| self.next_url(place, &target).map(|url| At::Url(url.into())))
                .transpose(),
            Pagination::NextUrl { path } => match at_path(path) {
                None | Some(Json::Null | Json::Bool(false)) => Ok(None),
                Some(Json::String(url)) if url.trim().is_empty() => Ok(None),
                Some(Json::String(url)) => Ok(Some(At::Url(self.next_url(place, url.trim())?.into()))),
                Some(_) => Err(Error::invalid("the next page's URL is no text")
                    .with("setting", "pages.path")
                    .with("path", path)),
            },
        }
    }

    /// A URL an answer gives: of the same origin, because the credentials go along.
    fn next_url(&self, place: &Url, target: &str) -> Result<Url> {
        let mut url = place
            .join(target)
            .map_err(|_| Error::invalid("the next page is no URL").with("setting", "pages"))?;
        // Behind a proxy that does the TLS, interfaces often believe themselves to be at http.
        if self.base.scheme() == "https"
            && url.scheme() == "http"
            && url.host() == self.base.host()
            && url.port().is_none()
            && self.base.port().is_none()
        {
            // Both are special schemes, between which changing is allowed.
            let _ = url.set_scheme("https");
        }
        if url.origin() != self.base.origin() || !url.username().is_empty() || url.password().is_some() {
            return Err(Error::new(
                crm_core::ErrorKind::PermissionDenied,
                "the next page is at another origin; the credentials do not go there",
            )
            .with("setting", "pages")
            .with("host", url.host_str().unwrap_or_default()));
        }
        url.set_fragment(None);
        Ok(url)
    }
}

/// Sets a parameter; one of the same name goes.
pub(crate) fn set(url: &mut Url, param: &str, value: &str) {
    let others: Vec<(String, String)> = url
        .query_pairs()
        .filter(|(name, _)| name != param)
        .map(|(name, value)| (name.into_owned(), value.into_owned()))
        .collect();
    url.query_pairs_mut()
        .clear()
        .extend_pairs(others)
        .append_pair(param, value);
}

/// Takes a parameter out.
pub(crate) fn unset(url: &mut Url, param: &str) {
    let all: Vec<(String, String)> = url
        .query_pairs()
        .map(|(name, value)| (name.into_owned(), value.into_owned()))
        .collect();
    let others: Vec<&(String, String)> = all.iter().filter(|(name, _)| name != param).collect();
    if others.len() == all.len() {
        return;
    }
    if others.is_empty() {
        url.set_query(None);
    } else {
        let pairs = others.iter().map(|(name, value)| (name, value));
        url.query_pairs_mut().clear().extend_pairs(pairs);
    }
}

/// Takes the list out of the document.
fn taken(json: &mut Json, path: &[String]) -> Vec<Json> {
    let mut at = Some(json);
    for key in path {
        at = match at {
            Some(Json::Object(map)) => map.get_mut(key),
            Some(Json::Array(items)) => key.parse::<usize>().ok().and_then(|index| items.get_mut(index)),
            _ => None,
        };
    }
    match at {
        Some(Json::Array(items)) => std::mem::take(items),
        _ => Vec::new(),
    }
}

/// A cursor or id as text; an empty one is none.
fn text(value: &Json) -> Option<String> {
    match value {
        Json::String(text) if !text.is_empty() && text.len() <= 4096 => Some(text.clone()),
        Json::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn number(value: &Json) -> Option<u64> {
    match value {
        Json::Number(number) => number.as_u64(),
        Json::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

fn digest(items: &[Json]) -> Option<String> {
    if items.is_empty() {
        return None;
    }
    let mut hash = Sha256::new();
    for item in items {
        hash.update(item.to_string());
        hash.update([0]);
    }
    Some(
        hash.finalize()
            .iter()
            .take(12)
            .map(|byte| format!("{byte:02x}"))
            .collect(),
    )
}

/// The target of the first link of this relation in a `Link` header (RFC 8288, 3): several links, several relations in one,
/// quotes, commas and semicolons within the target or within quotes.
fn link(header: &str, wanted: &str) -> Option<String> {
    let mut rest = header;
    loop {
        // To the target; what stands before it is a comma, blanks, or nothing we know.
        let (_, behind) = rest.split_once('<')?;
        let (target, behind) = behind.split_once('>')?;
        let (mut parameters, mut end, mut quoted, mut escaped) = (Vec::new(), behind.len(), false, false);
        let mut begin = 0;
        for (at, c) in behind.char_indices() {
            match c {
                _ if escaped => escaped = false,
                '\\' if quoted => escaped = true,
                '"' => quoted = !quoted,
                ';' if !quoted => {
                    parameters.push(behind.get(begin..at).unwrap_or_default());
                    begin = at + 1;
                }
                ',' if !quoted => {
                    end = at;
                    break;
                }
                _ => {}
            }
        }
        parameters.push(behind.get(begin..end).unwrap_or_default());
        // Only the first `rel` of a link counts (RFC 8288, 3.3).
        let rel = parameters.iter().find_map(|parameter| {
            let (name, value) = parameter.split_once('=')?;
            name.trim()
                .eq_ignore_ascii_case("rel")
                .then(|| value.trim().trim_matches('"'))
        });
        if rel.is_some_and(|rel| rel.split_whitespace().any(|one| one.eq_ignore_ascii_case(wanted))) {
            return Some(target.trim().to_owned());
        }
        rest = behind.get(end..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_of_a_header() {
        for (header, target) in [
            (
                r#"<https://a.example/2>; rel="next""#,
                Some("https://a.example/2"),
            ),
            (
                r#"<https://a.example/1>; rel="previous", <https://a.example/3?x=1,2;3>; rel="next""#,
                Some("https://a.example/3?x=1,2;3"),
            ),
            (
                "</p?page=2>; rel=next; title=\"a, b; rel=\\\"no\\\"\"",
                Some("/p?page=2"),
            ),
            (r#"<x>; title="<y>; rel=next", <z>; REL="last Next""#, Some("z")),
            (r#"<x>; rel="prev"; rel="next""#, None),
            (r#"<x>; rel="nextpage""#, None),
            ("<x>", None),
            ("<x", None),
            ("", None),
        ] {
            assert_eq!(link(header, "next").as_deref(), target, "{header}");
        }
    }

    #[test]
    fn parameters_are_set_once() {
        let mut url: Url = "https://a.example/?after=1&limit=2&after=3".parse().unwrap();
        set(&mut url, "after", "a b&c");
        assert_eq!(url.as_str(), "https://a.example/?limit=2&after=a+b%26c");
        unset(&mut url, "after");
        unset(&mut url, "limit");
        assert_eq!(url.as_str(), "https://a.example/");
    }
}
