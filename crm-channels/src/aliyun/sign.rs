//! Signature version 3 of Alibaba Cloud's interfaces, `ACS3-HMAC-SHA256`
//! (alibabacloud.com/help/en/sdk/product-overview/v3-request-structure-and-signature).

use ring::{digest, hmac};

use crate::exchange::percent;

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

/// The query as it is signed, and as it goes out: sorted by name, all but the unreserved characters percent-encoded.
pub(super) fn query(parameters: &[(&str, String)]) -> String {
    let mut parameters: Vec<_> = parameters
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    parameters.sort_unstable();
    let pairs: Vec<String> = parameters
        .into_iter()
        .map(|(name, value)| format!("{}={}", percent(name), percent(value)))
        .collect();
    pairs.join("&")
}

/// The value of `Authorization` for a `POST` to `/`. `headers` are all that are signed; their names in small letters.
pub(super) fn authorization(
    key: &str,
    secret: &str,
    query: &str,
    headers: &[(&str, String)],
    body: &[u8],
) -> String {
    let mut headers: Vec<_> = headers
        .iter()
        .map(|(name, value)| (*name, value.trim()))
        .collect();
    headers.sort_unstable();
    let canonical: String = headers
        .iter()
        .map(|(name, value)| format!("{name}:{value}\n"))
        .collect();
    let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
    let names = names.join(";");
    let request = format!("POST\n/\n{query}\n{canonical}\n{names}\n{}", sha256(body));
    let text = format!("ACS3-HMAC-SHA256\n{}", sha256(request.as_bytes()));
    let signing = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let signature = hex(hmac::sign(&signing, text.as_bytes()).as_ref());
    format!("ACS3-HMAC-SHA256 Credential={key},SignedHeaders={names},Signature={signature}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every recording of the vendor's own client: the same headers, query and body give the same signature.
    #[test]
    fn recorded_signatures_come_out_again() {
        let folder = std::path::Path::new("tests/data/aliyun");
        let mut seen = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let bytes = std::fs::read(&path).unwrap();
            let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
            let head = std::str::from_utf8(&bytes[..end]).unwrap();
            let mut lines = head.split("\r\n");
            let target = lines.next().unwrap().split(' ').nth(1).unwrap();
            let wire = target.split_once('?').map_or("", |(_, query)| query);
            let parameters: Vec<(String, String)> = url::form_urlencoded::parse(wire.as_bytes())
                .into_owned()
                .collect();
            let parameters: Vec<(&str, String)> = parameters
                .iter()
                .map(|(name, value)| (name.as_str(), value.clone()))
                .collect();
            let all: Vec<(String, String)> = lines
                .map(|line| line.split_once(": ").unwrap())
                .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
                .collect();
            let theirs = &all.iter().find(|(name, _)| name == "authorization").unwrap().1;
            let names = theirs
                .split("SignedHeaders=")
                .nth(1)
                .unwrap()
                .split(',')
                .next()
                .unwrap();
            let headers: Vec<(&str, String)> = names
                .split(';')
                .map(|name| (name, all.iter().find(|(key, _)| key == name).unwrap().1.clone()))
                .collect();
            let ours = authorization(
                "LTAI5tFAKEFAKEFAKEFAKE01",
                "fakeSecretfakeSecretfakeSecret",
                &query(&parameters),
                &headers,
                &bytes[end + 4..],
            );
            assert_eq!(&ours, theirs, "{}", path.display());
            seen += 1;
        }
        assert!(seen >= 8, "only {seen} recordings");
    }
}
