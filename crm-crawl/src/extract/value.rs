//! E-mail addresses and phone numbers out of what people write.

use crm_core::customer::{EmailAddress, PhoneNumber};

use super::region;
use crate::escape::unescape;

/// Where addresses in prose never end: pictures (`logo@2x.png`), scripts, documents.
const FILES: &[&str] = &[
    "png", "jpg", "jpeg", "gif", "webp", "svg", "avif", "ico", "css", "js", "mjs", "json", "html", "htm",
    "php", "pdf", "zip", "mp4", "woff", "woff2",
];

/// The canonical address: of `mailto:` links, of texts with brackets around it, with `(at)` and `[dot]` in it.
pub(super) fn email(text: &str) -> Option<String> {
    let text = text
        .trim()
        .trim_matches(['<', '>', '"', '\'', '.', ',', ';', ':']);
    let text = match text.get(..7) {
        Some(scheme) if scheme.eq_ignore_ascii_case("mailto:") => {
            let address = text
                .get(7..)?
                .trim_start_matches('/')
                .split(['?', ',', '#'])
                .next()?;
            let address = unescape(address);
            // `mailto:Ana <ana@shop.example>` is not allowed, and found.
            let address = match address.rsplit_once('<') {
                Some((_, inside)) => inside.trim_end_matches(['>', ' ']).to_owned(),
                None => address,
            };
            // `mailto:ana at shop.example`: the link says that it is an address.
            match address.split_once(" at ") {
                Some((local, domain)) if !address.contains('@') => {
                    format!("{}@{}", local.trim(), domain.trim())
                }
                _ => address,
            }
        }
        _ => text.to_owned(),
    };
    let plain = EmailAddress::parse(&text).ok();
    let address = plain.or_else(|| EmailAddress::parse(&super::text::plain_address(&text)?).ok())?;
    let (local, domain) = address.as_str().split_once('@')?;
    let last = domain.rsplit('.').next()?;
    (!FILES.contains(&last) && !is_placeholder(local, domain)).then(|| address.as_str().to_owned())
}

/// What forms and templates show as an example of an address.
fn is_placeholder(local: &str, domain: &str) -> bool {
    // What templates come with, and nobody filled in.
    if matches!(
        domain,
        "example.com" | "example.org" | "example.net" | "domain.com" | "yourdomain.com"
    ) && matches!(
        local,
        "info"
            | "contact"
            | "hello"
            | "mail"
            | "email"
            | "admin"
            | "support"
            | "test"
            | "demo"
            | "office"
            | "sales"
    ) {
        return true;
    }
    let domain = domain.split('.').next().unwrap_or_default();
    matches!(
        local,
        "you"
            | "your"
            | "yourname"
            | "your.name"
            | "your-name"
            | "name"
            | "username"
            | "user"
            | "youremail"
            | "your-email"
    ) && matches!(
        domain,
        "example"
            | "domain"
            | "yourdomain"
            | "your-domain"
            | "email"
            | "company"
            | "yourcompany"
            | "website"
            | "mail"
            | "site"
    )
}

/// The number in E.164, without its extension; `None` when it is none of its region's plan.
pub(super) fn phone(text: &str, region: Option<&str>) -> Option<String> {
    let text = text.trim();
    let text = match text.split_once(':') {
        Some((scheme, number))
            if matches!(scheme.to_ascii_lowercase().as_str(), "tel" | "callto" | "sms") =>
        {
            let number = number.trim_start_matches("//");
            let local = unescape(number.split(['?', '#', ';']).next()?);
            // A local number and where it is dialled (RFC 3966, 5.1.5).
            let context = number
                .split(';')
                .skip(1)
                .find_map(|p| p.strip_prefix("phone-context="));
            match context.map(unescape) {
                Some(context) if context.starts_with('+') && !local.trim().starts_with('+') => {
                    format!("{context}{local}")
                }
                _ => local,
            }
        }
        _ => text.to_owned(),
    };
    let text: String = text.chars().filter_map(super::text::folded).collect();
    let lower = text.to_lowercase();
    let mut end = text.len();
    for mark in ["ext", "x", ";", "#", "durchwahl", ","] {
        // `x` in a word of letters before the number is not an extension: only what stands after digits counts.
        if let Some(at) = lower.find(mark).filter(|at| {
            lower
                .get(..*at)
                .is_some_and(|b| b.bytes().filter(u8::is_ascii_digit).count() > 5)
        }) {
            end = end.min(at);
        }
    }
    let text = text.get(..end)?;
    let start = text.find(|c: char| c.is_ascii_digit() || c == '+' || c == '(')?;
    // `+49 (0)30`: the zero is dialled from inside only.
    let mut number: String = text
        .get(start..)?
        .trim()
        .trim_end_matches(['.', ',', '-', '('])
        .to_owned();
    if number.starts_with('+') || number.starts_with("00") || number.starts_with("(+") {
        number = number.replacen("(0)", "", 1);
    }
    if let Some(rest) = number.strip_prefix("(+") {
        number = format!("+{}", rest.replacen(')', "", 1));
    }
    if let Some(rest) = number.strip_prefix("00")
        && region.is_none()
    {
        // The prefix for other countries in most of the world.
        number = format!("+{rest}");
    }
    let number = number.trim();
    PhoneNumber::parse(number, region)
        .ok()
        .or_else(|| with_code(number, region?))
        .map(|number| number.as_str().to_owned())
}

/// `( 33 1) 42 68 53 00`, `49 30 901820`: the country code of the region without a sign before it. Only what is no number of the
/// region otherwise, and one with it.
fn with_code(number: &str, region: &str) -> Option<PhoneNumber> {
    let digits: String = number.chars().filter(char::is_ascii_digit).collect();
    let number = PhoneNumber::parse(&format!("+{digits}"), None).ok()?;
    number.country()?.eq_ignore_ascii_case(region).then_some(number)
}

/// The country's code, when the text names one.
pub(super) fn country(text: &str) -> Option<String> {
    region::country(text)
        .map(str::to_owned)
        .or_else(|| region::code(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, wanted) in [
            ("Ana@Example.com", Some("ana@example.com")),
            ("<ana@example.com>", Some("ana@example.com")),
            ("mailto:ana%2Bx@example.com?subject=Hi", Some("ana+x@example.com")),
            ("MAILTO:ana@example.com,ben@example.com", Some("ana@example.com")),
            ("ana(at)example.com", Some("ana@example.com")),
            ("ana [at] example [dot] com", Some("ana@example.com")),
            ("mailto:ana at shop.example", Some("ana@shop.example")),
            ("ana[dot]kask[at]shop[dot]example", Some("ana.kask@shop.example")),
            ("info@example.com", None),
            ("logo@2x.png", None),
            ("you@example.com", None),
            ("name@yourdomain.com", None),
            ("name@shop.example", Some("name@shop.example")),
            ("write to us", None),
            ("mailto:?subject=Look", None),
            ("", None),
        ] {
            assert_eq!(email(text).as_deref(), wanted, "{text}");
        }
    }

    #[test]
    fn numbers() {
        for (text, region, wanted) in [
            ("+49 (0)30 901820", None, Some("+4930901820")),
            ("(+49) 30 901820", None, Some("+4930901820")),
            ("0049 30 901820", None, Some("+4930901820")),
            ("0049 30 901820", Some("DE"), Some("+4930901820")),
            ("030 / 901820", Some("DE"), Some("+4930901820")),
            ("030 901820", None, None),
            ("tel:+49-30-901820;ext=5", None, Some("+4930901820")),
            ("tel:%2B4930901820", None, Some("+4930901820")),
            ("(425) 555-0123 ext. 7", Some("US"), Some("+14255550123")),
            ("(425) 555-0199 ext. 7", Some("US"), Some("+14255550199")),
            ("Phone: (425) 555-0199", Some("US"), Some("+14255550199")),
            ("425-555-0199x12", Some("US"), Some("+14255550199")),
            ("( 33 1) 42 68 53 00", Some("FR"), Some("+33142685300")),
            ("49 30 901820", Some("DE"), Some("+4930901820")),
            ("49 30 901820", Some("FR"), None),
            ("49 30 901820", None, None),
            ("call us", Some("US"), None),
            ("", None, None),
        ] {
            assert_eq!(phone(text, region).as_deref(), wanted, "{text}");
        }
    }
}
