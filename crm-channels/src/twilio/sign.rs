//! How Twilio proves that a call of a URL comes from it (twilio.com/docs/usage/security#validating-requests): a keyed
//! hash over the URL and the sorted parameters of a form, or over the URL alone, which then holds the hash of the body.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crm_core::capability::WebhookRequest;
use ring::{digest, hmac};
use url::Url;

use crate::exchange::plus;

/// The parameter of the URL that holds the hash of a body that is no form.
const BODY_HASH: &str = "bodySHA256";

/// The fields of a form, as often as they come.
pub(super) fn fields(body: &[u8]) -> Vec<(String, String)> {
    url::form_urlencoded::parse(body).into_owned().collect()
}

pub(super) fn is_form(request: &WebhookRequest) -> bool {
    request.method == "POST"
        && request.headers.get("content-type").is_none_or(|kind| {
            kind.to_ascii_lowercase()
                .starts_with("application/x-www-form-urlencoded")
        })
}

/// Whether the signature is of one who knows `secret`.
pub(super) fn is_genuine(request: &WebhookRequest, secret: &[u8]) -> bool {
    let Some(signature) = request
        .headers
        .get("x-twilio-signature")
        .and_then(|text| STANDARD.decode(text.trim()).ok())
    else {
        return false;
    };
    // Which hash it is stands in a header; whoever changes it still has to know the secret.
    let algorithm = request
        .headers
        .get("x-twilio-webhooks-signature-settings")
        .and_then(|text| {
            text.split(',')
                .find_map(|part| part.trim().strip_prefix("algorithm="))
        });
    let algorithm = match algorithm {
        None | Some("") => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
        Some(name) if name.trim().eq_ignore_ascii_case("HMAC_SHA1") => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
        Some(name) if name.trim().eq_ignore_ascii_case("HMAC_SHA256") => hmac::HMAC_SHA256,
        Some(_) => return false,
    };
    let mut rest = String::new();
    if is_form(request) {
        // Each different value once, in order: as Twilio's own clients do.
        for (name, value) in fields(&request.body).into_iter().collect::<BTreeSet<_>>() {
            rest.push_str(&name);
            rest.push_str(&value);
        }
    } else if !request.body.is_empty() && !body_is_hashed(request) {
        return false;
    }
    let key = hmac::Key::new(algorithm, secret);
    spellings(&request.url)
        .iter()
        .any(|url| hmac::verify(&key, format!("{url}{rest}").as_bytes(), &signature).is_ok())
}

/// Whether the URL, which the signature covers, holds the hash of the body.
fn body_is_hashed(request: &WebhookRequest) -> bool {
    let said = request.url.query_pairs().find(|(name, _)| name == BODY_HASH);
    let Some((_, said)) = said else {
        return false;
    };
    let hash = digest::digest(&digest::SHA256, &request.body);
    let hash: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    // Neither of the two is secret.
    said.eq_ignore_ascii_case(&hash)
}

/// The ways in which Twilio may have written the URL before signing it: with and without the port, with the query as it
/// is or encoded once more by older machinery, and without the slash that a bare host gets.
fn spellings(url: &Url) -> Vec<String> {
    let host = url.host_str().unwrap_or_default();
    let path = url.path();
    let ports = [
        String::new(),
        format!(":{}", url.port_or_known_default().unwrap_or(443)),
    ];
    let mut queries = vec![url.query().map(|query| format!("?{query}")).unwrap_or_default()];
    if url.query().is_some() {
        let legacy: Vec<String> = url
            .query_pairs()
            .map(|(name, value)| format!("{}={}", legacy(&name), legacy(&value)))
            .collect();
        queries.push(format!("?{}", legacy.join("&")));
    }
    let mut out = Vec::new();
    for port in &ports {
        for query in &queries {
            out.push(format!("{}://{host}{port}{path}{query}", url.scheme()));
            if path == "/" {
                out.push(format!("{}://{host}{port}{query}", url.scheme()));
            }
        }
    }
    out.dedup();
    out
}

/// Encoded as JavaScript's `querystring` does: as a form, but with `%20`, and `!'()*` left alone.
fn legacy(text: &str) -> String {
    let mut out = plus(text).replace('+', "%20");
    for (code, plain) in [
        ("%21", "!"),
        ("%27", "'"),
        ("%28", "("),
        ("%29", ")"),
        ("%2A", "*"),
    ] {
        out = out.replace(code, plain);
    }
    out
}

/// Signs as Twilio does.
#[cfg(test)]
pub(super) fn signed(secret: &[u8], url: &str, fields: &[(&str, &str)]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret);
    let sorted: BTreeSet<_> = fields.iter().collect();
    let mut text = url.to_owned();
    for (name, value) in sorted {
        text.push_str(name);
        text.push_str(value);
    }
    STANDARD.encode(hmac::sign(&key, text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::form;

    const TOKEN: &[u8] = b"faketoken";

    fn posted(url: &str, fields: &[(&str, &str)], signature: &str) -> WebhookRequest {
        WebhookRequest::post(url.parse().unwrap(), form(fields.iter().copied()))
            .header("Content-Type", "application/x-www-form-urlencoded; charset=UTF-8")
            .header("X-Twilio-Signature", signature)
    }

    #[test]
    fn ports_queries_and_slashes_may_be_written_differently() {
        let fields = [
            ("A", "1"),
            ("a", "2"),
            ("Z", ""),
            ("M", "b"),
            ("M", "a"),
            ("M", "b"),
        ];
        for (signed_as, called_as) in [
            ("https://crm.example/cb", "https://crm.example/cb"),
            ("https://crm.example:443/cb", "https://crm.example/cb"),
            ("https://crm.example/cb", "https://crm.example:8443/cb"),
            ("https://crm.example:8443/cb", "https://crm.example:8443/cb"),
            ("http://crm.example:80/cb?x=1", "http://crm.example/cb?x=1"),
            ("https://crm.example", "https://crm.example/"),
            ("https://crm.example/cb?q=it's", "https://crm.example/cb?q=it%27s"),
        ] {
            let signature = signed(TOKEN, signed_as, &fields);
            let request = posted(called_as, &fields, &signature);
            assert!(is_genuine(&request, TOKEN), "{signed_as} {called_as}");
            assert!(!is_genuine(&request, b"other"), "{signed_as}");
        }
    }

    #[test]
    fn any_change_is_noticed() {
        let fields = [("MessageSid", "SM1"), ("MessageStatus", "delivered")];
        let url = "https://crm.example/cb?message=7";
        let signature = signed(TOKEN, url, &fields);
        assert!(is_genuine(&posted(url, &fields, &signature), TOKEN));
        let changed = [
            posted(
                url,
                &[("MessageSid", "SM1"), ("MessageStatus", "failed")],
                &signature,
            ),
            posted(url, &[("MessageSid", "SM1")], &signature),
            posted("https://crm.example/cb?message=8", &fields, &signature),
            posted("https://crm.example/cd?message=7", &fields, &signature),
            posted("http://crm.example/cb?message=7", &fields, &signature),
            posted("https://crm.exemple/cb?message=7", &fields, &signature),
            posted(url, &fields, ""),
            posted(url, &fields, "AAAA"),
            posted(url, &fields, "not base64!"),
            posted(url, &fields, &signature)
                .header("X-Twilio-Webhooks-Signature-Settings", "algorithm=HMAC_SHA256"),
            posted(url, &fields, &signature).header("X-Twilio-Webhooks-Signature-Settings", "algorithm=NONE"),
        ];
        for (place, request) in changed.iter().enumerate() {
            assert!(!is_genuine(request, TOKEN), "change {place}");
        }
        let mut unsigned = posted(url, &fields, &signature);
        unsigned.headers.remove("x-twilio-signature");
        assert!(!is_genuine(&unsigned, TOKEN));
    }

    #[test]
    fn a_body_that_is_no_form_is_covered_by_its_hash() {
        let body = r#"{"a":1}"#;
        let hash = "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862";
        let url = format!("https://crm.example/cb?bodySHA256={hash}");
        let signature = signed(TOKEN, &url, &[]);
        let json = |url: &str, body: &str| {
            WebhookRequest::post(url.parse().unwrap(), body)
                .header("Content-Type", "application/json")
                .header("X-Twilio-Signature", signature.clone())
        };
        assert!(is_genuine(&json(&url, body), TOKEN));
        assert!(!is_genuine(&json(&url, r#"{"a":2}"#), TOKEN));
        let bare = "https://crm.example/cb";
        let request = WebhookRequest::post(bare.parse().unwrap(), body)
            .header("Content-Type", "application/json")
            .header("X-Twilio-Signature", signed(TOKEN, bare, &[]));
        assert!(
            !is_genuine(&request, TOKEN),
            "a body without a hash is not covered"
        );
    }
}
