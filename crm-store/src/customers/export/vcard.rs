//! Customers as vCards (RFC 6350), with what the standard has no property for as `X-CRM-REF:system;id` and
//! `X-CRM-ATTRIBUTE:name;json`.

use std::io::{self, Write};

use crm_core::customer::{ContactKind, Customer};

/// The longest line in bytes, without its end (RFC 6350, 3.2).
const LINE: usize = 75;

pub(super) fn card(into: &mut Vec<u8>, customer: &Customer) -> io::Result<()> {
    let mut put = |line: &str| property(into, line);
    put("BEGIN:VCARD")?;
    put("VERSION:4.0")?;
    put(&format!("UID:urn:uuid:{}", customer.id))?;
    put(&format!("FN:{}", text(&customer.name.full())))?;
    put(&format!(
        "N:{};{};;;",
        text(&customer.name.family),
        text(&customer.name.given)
    ))?;
    let mut points: Vec<_> = customer.contact_points.iter().collect();
    points.sort_by_key(|point| !point.primary);
    for point in points {
        let pref = if point.primary { ";PREF=1" } else { "" };
        match point.kind() {
            ContactKind::Email => put(&format!("EMAIL{pref}:{}", text(point.value())))?,
            ContactKind::Phone => put(&format!("TEL;VALUE=uri{pref}:tel:{}", point.value()))?,
        }
    }
    for address in &customer.addresses {
        let streets: Vec<String> = address.lines.iter().map(|line| text(line)).collect();
        put(&format!(
            "ADR:;;{};{};{};{};{}",
            streets.join(","),
            text(&address.city),
            text(&address.region),
            text(&address.postal_code),
            text(&address.country)
        ))?;
    }
    if !customer.tags.is_empty() {
        let tags: Vec<String> = customer.tags.iter().map(|tag| text(tag)).collect();
        put(&format!("CATEGORIES:{}", tags.join(",")))?;
    }
    for reference in &customer.external_refs {
        put(&format!(
            "X-CRM-REF:{};{}",
            text(&reference.system),
            text(&reference.id)
        ))?;
    }
    for (name, value) in customer.attributes.iter() {
        put(&format!("X-CRM-ATTRIBUTE:{name};{}", text(&value.to_string())))?;
    }
    // RFC 6350, 4.3.5: the basic form, to the second.
    let changed: String = customer
        .updated_at
        .to_string()
        .chars()
        .filter(|c| !matches!(c, '-' | ':'))
        .take_while(|c| *c != '.')
        .collect();
    put(&format!("REV:{changed}Z"))?;
    put("END:VCARD")
}

/// A value of text: backslash, comma, semicolon and line ends escaped (RFC 6350, 3.4).
fn text(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for c in value.replace("\r\n", "\n").chars() {
        match c {
            '\\' | ',' | ';' => {
                out.push('\\');
                out.push(c);
            }
            '\n' | '\r' => out.push_str("\\n"),
            // Other control characters have no place in a card.
            c if c.is_control() && c != '\t' => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

/// Writes one property, folded between characters.
pub(in super::super) fn property(into: &mut (dyn Write + '_), line: &str) -> io::Result<()> {
    let mut room = LINE;
    for c in line.chars() {
        let mut bytes = [0; 4];
        let bytes = c.encode_utf8(&mut bytes).as_bytes();
        if bytes.len() > room {
            into.write_all(b"\r\n ")?;
            room = LINE - 1;
        }
        into.write_all(bytes)?;
        room -= bytes.len();
    }
    into.write_all(b"\r\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_folded_between_characters() {
        let mut out = Vec::new();
        property(&mut out, &format!("FN:{}", "ä€𝄞".repeat(60))).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.lines().all(|line| line.len() <= LINE));
        assert_eq!(
            text.replace("\r\n ", "").trim_end(),
            format!("FN:{}", "ä€𝄞".repeat(60))
        );
    }

    #[test]
    fn values_are_escaped() {
        assert_eq!(text("a,b;c\\d\r\ne\u{1}"), "a\\,b\\;c\\\\d\\ne ");
    }
}
