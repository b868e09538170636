//! What a request asks for: its formats, path and parameters.

use bytes::Bytes;
use http::header::ACCEPT;
use http::{HeaderMap, HeaderValue, Request};

/// What an answer is written in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Xml,
    Json,
}

impl Format {
    pub(super) fn media_type(self) -> &'static str {
        match self {
            Self::Xml => "application/xml",
            Self::Json => "application/json",
        }
    }
}

pub(super) fn contains(value: &HeaderValue, what: &str) -> bool {
    value.to_str().is_ok_and(|text| text.contains(what))
}

/// Lists are in JSON as soon as the word stands anywhere in the header.
pub(super) fn loose(request: &Request<Bytes>, format: Format) -> Format {
    match request.headers().get(ACCEPT) {
        Some(value) if contains(value, "json") => Format::Json,
        Some(_) => Format::Xml,
        None => format,
    }
}

/// What the client accepts (RFC 9110, 12.5.1); XML when it does not care. `None` when it accepts neither.
pub(super) fn negotiated(headers: &HeaderMap) -> Option<Format> {
    let mut ranges: Vec<(i32, i32, Option<Format>)> = Vec::new();
    let mut seen = false;
    for value in headers.get_all(ACCEPT) {
        for range in value.to_str().unwrap_or_default().split(',') {
            seen = true;
            let mut parts = range.split(';').map(str::trim);
            let quality = parts.clone().skip(1).find_map(|part| part.strip_prefix("q="));
            let quality = quality.map_or(1.0, |q| q.parse::<f32>().unwrap_or(0.0));
            let quality = (quality.clamp(0.0, 1.0) * 1000.0) as i32;
            let (format, exact) = match parts.next().unwrap_or_default().to_ascii_lowercase().as_str() {
                "application/json" => (Some(Format::Json), 2),
                "application/xml" => (Some(Format::Xml), 2),
                "application/*" => (None, 1),
                "*/*" | "*" => (None, 0),
                _ => continue,
            };
            if quality > 0 {
                ranges.push((quality, exact, format));
            }
        }
    }
    if !seen {
        return Some(Format::Xml);
    }
    // The best quality first, then who says it most exactly, then who says it first.
    ranges.sort_by_key(|(quality, exact, _)| (-quality, -exact));
    ranges.first().map(|(_, _, format)| format.unwrap_or(Format::Xml))
}

/// `%41` is `A`; in a query `+` is a space.
pub(super) fn percent_decoded(text: &str, query: bool) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let hex = tail
            .get(..2)
            .filter(|digits| byte == b'%' && digits.iter().all(u8::is_ascii_hexdigit))
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        rest = match hex {
            Some(decoded) => {
                out.push(decoded);
                tail.get(2..).unwrap_or_default()
            }
            None => {
                out.push(if query && byte == b'+' { b' ' } else { byte });
                tail
            }
        };
    }
    String::from_utf8_lossy(&out).into_owned()
}

pub(super) fn parameters(request: &Request<Bytes>) -> Vec<(String, String)> {
    request
        .uri()
        .query()
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (percent_decoded(key, true), percent_decoded(value, true))
        })
        .collect()
}

pub(super) fn parameter(request: &Request<Bytes>, name: &str) -> Option<String> {
    parameters(request)
        .into_iter()
        .find(|(key, _)| key == name)
        .map(|(_, value)| value)
}

pub(super) fn timestamp(
    request: &Request<Bytes>,
) -> std::result::Result<Option<i64>, std::num::ParseIntError> {
    parameter(request, "lastDirtyTimestamp")
        .map(|text| text.parse())
        .transpose()
}
