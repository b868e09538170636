//! One vCard's properties to a draft.

use crm_core::Timestamp;
use crm_core::customer::{Draft, ExternalRef, PersonName, PostalAddress, Provenance};
use encoding_rs::Encoding;

use super::VcardConfig;

/// What a property said.
pub(super) enum Found {
    Taken,
    /// Its name, and what is wrong with it.
    Wrong(Option<String>, String),
}

/// A card in the making.
pub(super) struct Card {
    draft: Draft,
    uid_system: Option<String>,
    now: Timestamp,
    names: Vec<(u32, String)>,
    parts: Option<(String, String)>,
    emails: Vec<(u32, String)>,
    phones: Vec<(u32, String)>,
}

/// The least preferred (RFC 6350, 5.3: 1 is the most preferred, 100 the least).
const LEAST: u32 = 101;

impl Card {
    pub(super) fn new(config: &VcardConfig, place: &str, line: u64, now: Timestamp) -> Self {
        let mut draft = Draft::new(Provenance::new(config.name.as_str(), now).at(place).line(line));
        draft.phone_region.clone_from(&config.reading.phone_region);
        Self {
            draft,
            uid_system: config.uid.then(|| config.name.clone()),
            now,
            names: Vec::new(),
            parts: None,
            emails: Vec::new(),
            phones: Vec::new(),
        }
    }

    /// Takes one unfolded line.
    pub(super) fn take(&mut self, line: &str) -> Found {
        let Some(property) = Property::read(line) else {
            return Found::Wrong(
                None,
                "a line without a colon, or with a parameter that never ends".to_owned(),
            );
        };
        let name = property.name.clone();
        match self.put(property) {
            Ok(()) => Found::Taken,
            Err(reason) => Found::Wrong(Some(name), reason.to_owned()),
        }
    }

    fn put(&mut self, property: Property) -> Result<(), &'static str> {
        let value = property.decoded()?;
        if value.contains('\0') {
            return Err("it has a NUL character in it");
        }
        if value.trim().is_empty() {
            return Ok(());
        }
        match property.name.as_str() {
            "FN" => self.names.push((property.preference(), unescape(&value))),
            "N" if self.parts.is_none() => {
                let mut parts = split(&value, ';').into_iter().map(|part| {
                    let words: Vec<String> = split(&part, ',').iter().map(|word| unescape(word)).collect();
                    words.join(" ")
                });
                let family = parts.next().unwrap_or_default();
                let given = parts.next().unwrap_or_default();
                let more = parts.next().unwrap_or_default();
                self.parts = Some((format!("{given} {more}"), family));
            }
            "EMAIL" => self.emails.push((property.preference(), unescape(&value))),
            "TEL" => {
                if property.is_type("FAX") || property.is_type("PAGER") {
                    return Ok(());
                }
                // A tel: URI may have parameters (RFC 3966); what dials within a house is not part of the number.
                let text = unescape(&value);
                let number = text.split(';').next().unwrap_or_default().to_owned();
                self.phones.push((property.preference(), number));
            }
            "ADR" => self.address(&value),
            "CATEGORIES" => {
                let tags = split(&value, ',').into_iter().map(|tag| unescape(&tag));
                self.draft.tags.extend(tags.filter(|tag| !tag.trim().is_empty()));
            }
            "UID" => {
                if let Some(system) = &self.uid_system {
                    let id = ExternalRef::new(system.as_str(), unescape(value.trim()));
                    id.validate().map_err(|_| "an id has 1 to 255 bytes")?;
                    self.draft.external_refs.push(id);
                }
            }
            "X-CRM-REF" => {
                let parts: Vec<String> = split(&value, ';').iter().map(|part| unescape(part)).collect();
                let [system, id] = parts.as_slice() else {
                    return Err("a reference is written as system;id");
                };
                let reference = ExternalRef::new(system.as_str(), id.as_str());
                reference
                    .validate()
                    .map_err(|_| "a reference has a system and an id of 1 to 255 bytes")?;
                self.draft.external_refs.push(reference);
            }
            "X-CRM-ATTRIBUTE" => {
                let parts = split(&value, ';');
                let [name, json] = parts.as_slice() else {
                    return Err("an attribute is written as name;json");
                };
                let json: serde_json::Value =
                    serde_json::from_str(&unescape(json)).map_err(|_| "the attribute's value is no JSON")?;
                self.attribute(name, json)?;
            }
            "ORG" => {
                let units: Vec<String> = split(&value, ';').iter().map(|unit| unescape(unit)).collect();
                let units: Vec<&str> = units
                    .iter()
                    .map(|unit| unit.trim())
                    .filter(|unit| !unit.is_empty())
                    .collect();
                self.attribute("organisation", units.join(", ").into())?;
            }
            "TITLE" => self.attribute("title", unescape(&value).into())?,
            "NOTE" => self.attribute("note", unescape(&value).into())?,
            "BDAY" => self.attribute("birthday", day(value.trim()).into())?,
            "REV" => {
                if let Some(changed) = instant(value.trim()).filter(|changed| *changed <= self.now) {
                    self.draft.provenance.observed_at = changed;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn attribute(&mut self, name: &str, value: serde_json::Value) -> Result<(), &'static str> {
        self.draft
            .attributes
            .set(name, value)
            .map_err(|_| "an attribute is named with 1 to 64 of a-z, 0-9 and _, a letter first")
    }

    fn address(&mut self, value: &str) {
        let parts = split(value, ';');
        let part = |at: usize| {
            parts
                .get(at)
                .map(|text| unescape(text).trim().to_owned())
                .unwrap_or_default()
        };
        let mut address = PostalAddress {
            city: part(3),
            region: part(4),
            postal_code: part(5),
            ..PostalAddress::default()
        };
        // Street, then what is written beside it (RFC 6350, 6.3.1: post box and extension should be empty).
        for at in [2, 1, 0] {
            let lines = parts.get(at).map(|text| split(text, ',')).unwrap_or_default();
            let lines = lines.iter().flat_map(|line| {
                let line = unescape(line);
                line.lines()
                    .map(|line| line.trim().to_owned())
                    .collect::<Vec<_>>()
            });
            address.lines.extend(lines.filter(|line| !line.is_empty()));
        }
        let country = part(6);
        if country.len() == 2 && country.bytes().all(|b| b.is_ascii_alphabetic()) {
            address.country = country.to_ascii_uppercase();
        } else if !country.is_empty() {
            address.lines.push(country);
        }
        if !address.is_empty() {
            self.draft.addresses.push(address);
        }
    }

    pub(super) fn finish(mut self) -> Result<Draft, &'static str> {
        let preferred = |mut values: Vec<(u32, String)>| {
            values.sort_by_key(|(preference, _)| *preference);
            values
                .into_iter()
                .map(|(_, value)| value)
                .collect::<Vec<String>>()
        };
        let whole = preferred(self.names).into_iter().next().unwrap_or_default();
        let whole = PersonName::whole(&whole);
        self.draft.name = match self.parts {
            Some((given, family)) => {
                let mut name = PersonName::new(&given, &family);
                if name.is_empty() || name.full() != whole.display {
                    name.display.clone_from(&whole.display);
                }
                // A name in one part only is better taken as the whole one.
                if name.given.is_empty() && name.family.is_empty() {
                    Some(whole)
                } else {
                    Some(name)
                }
            }
            None => Some(whole),
        }
        .filter(|name| !name.is_empty());
        self.draft.emails = preferred(self.emails);
        self.draft.phones = preferred(self.phones);
        if self.draft.is_identified() {
            Ok(self.draft)
        } else {
            Err("nothing to recognise the person by: no e-mail address, phone number or UID")
        }
    }
}

/// `[group.]NAME[;PARAM=VALUE...]:value`.
struct Property {
    name: String,
    /// Names in capitals; 2.1 leaves the name out.
    params: Vec<(String, String)>,
    value: String,
}

impl Property {
    fn read(line: &str) -> Option<Self> {
        let mut quoted = false;
        let colon = line.char_indices().find_map(|(at, c)| {
            if c == '"' {
                quoted = !quoted;
            }
            (c == ':' && !quoted).then_some(at)
        })?;
        let (head, value) = (line.get(..colon)?, line.get(colon + 1..)?);
        let mut parts = outside_quotes(head, ';').into_iter();
        let name = parts.next()?;
        let name = name
            .rsplit('.')
            .next()
            .unwrap_or_default()
            .trim()
            .to_ascii_uppercase();
        if name.is_empty() {
            return None;
        }
        let params = parts
            .map(|param| match param.split_once('=') {
                Some((name, value)) => (name.trim().to_ascii_uppercase(), value.replace('"', "")),
                None => (String::new(), param.trim().to_owned()),
            })
            .collect();
        Some(Self {
            name,
            params,
            value: value.to_owned(),
        })
    }

    fn is_type(&self, wanted: &str) -> bool {
        self.params
            .iter()
            .filter(|(name, _)| name.is_empty() || name == "TYPE")
            .flat_map(|(_, values)| values.split(','))
            .any(|value| value.trim().eq_ignore_ascii_case(wanted))
    }

    fn param(&self, wanted: &str) -> Option<&str> {
        let named = self.params.iter().find(|(name, _)| name == wanted);
        named.map(|(_, value)| value.as_str())
    }

    fn preference(&self) -> u32 {
        match self.param("PREF").and_then(|text| text.trim().parse().ok()) {
            Some(preference) => preference,
            None if self.is_type("PREF") => 1,
            None => LEAST,
        }
    }

    /// The value with the encoding of 2.1 undone.
    fn decoded(&self) -> Result<String, &'static str> {
        let encoding = self
            .params
            .iter()
            .filter(|(name, _)| name.is_empty() || name == "ENCODING")
            .map(|(_, value)| value.to_ascii_uppercase())
            .find(|value| ["QUOTED-PRINTABLE", "BASE64", "B"].contains(&value.as_str()));
        match encoding.as_deref() {
            None => Ok(self.value.clone()),
            Some("QUOTED-PRINTABLE") => {
                let bytes = quoted_printable(&self.value);
                let charset = self.param("CHARSET").unwrap_or("UTF-8");
                let charset = Encoding::for_label(charset.as_bytes()).ok_or("its CHARSET is not known")?;
                let (text, _, bad) = charset.decode(&bytes);
                if bad {
                    return Err("its bytes are not of its CHARSET");
                }
                Ok(text.into_owned())
            }
            Some(_) => Err("binary data where text is wanted"),
        }
    }
}

/// Pieces between separators that stand outside of double quotes.
fn outside_quotes(text: &str, separator: char) -> Vec<String> {
    let (mut parts, mut part, mut quoted) = (Vec::new(), String::new(), false);
    for c in text.chars() {
        match c {
            '"' => {
                quoted = !quoted;
                part.push(c);
            }
            c if c == separator && !quoted => parts.push(std::mem::take(&mut part)),
            c => part.push(c),
        }
    }
    parts.push(part);
    parts
}

/// Pieces between separators that are not escaped; the escapes stay.
fn split(text: &str, separator: char) -> Vec<String> {
    let (mut parts, mut part, mut escaped) = (Vec::new(), String::new(), false);
    for c in text.chars() {
        if c == separator && !escaped {
            parts.push(std::mem::take(&mut part));
        } else {
            part.push(c);
        }
        escaped = c == '\\' && !escaped;
    }
    parts.push(part);
    parts
}

/// Escapes of text undone (RFC 6350, 3.4); 3.0 and 2.1 escape less, which reads the same.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('n' | 'N') => out.push('\n'),
                Some(other @ ('\\' | ',' | ';' | ':')) => out.push(other),
                Some(other) => {
                    out.push('\\');
                    out.push(other);
                }
                None => out.push('\\'),
            },
            c => out.push(c),
        }
    }
    out
}

/// Quoted-printable (RFC 2045, 6.7); what is no escape stays as it is.
fn quoted_printable(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let code = bytes
            .get(at + 1..at + 3)
            .filter(|_| *byte == b'=')
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match code {
            Some(decoded) => {
                out.push(decoded);
                at += 3;
            }
            None => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    out
}

/// A day without separators (`19850412`) as `1985-04-12`; other forms (`--0412`, text) as they are.
fn day(text: &str) -> String {
    let digits = text
        .get(..8)
        .filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
    match digits.and_then(|d| Some((d.get(..4)?, d.get(4..6)?, d.get(6..8)?))) {
        Some((year, month, day)) => format!("{year}-{month}-{day}"),
        None => text.to_owned(),
    }
}

/// `20260301T090000Z` or with separators; a time without a zone is UTC.
fn instant(text: &str) -> Option<Timestamp> {
    if let Ok(time) = text.parse() {
        return Some(time);
    }
    let (date, time) = text.split_once('T').unwrap_or((text, "000000"));
    let date = day(&date.replace('-', ""));
    let zone = time.find(['Z', '+', '-']).unwrap_or(time.len());
    let (clock, zone) = (time.get(..zone)?, time.get(zone..)?);
    let clock = clock.replace(':', "");
    let (hour, minute) = (clock.get(..2)?, clock.get(2..4)?);
    let second = clock.get(4..6).unwrap_or("00");
    let zone = match zone {
        "" | "Z" => "Z".to_owned(),
        zone if zone.contains(':') => zone.to_owned(),
        zone => format!("{}:{}", zone.get(..3)?, zone.get(3..5).unwrap_or("00")),
    };
    format!("{date}T{hour}:{minute}:{second}{zone}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_are_taken_apart() {
        let p = Property::read("item1.TEL;TYPE=\"cell,voice\";PREF=2;X-A=\"a:b;c\":tel:+61-491").unwrap();
        assert_eq!(
            (p.name.as_str(), p.value.as_str(), p.preference()),
            ("TEL", "tel:+61-491", 2)
        );
        assert!(p.is_type("CELL") && p.is_type("voice") && !p.is_type("fax"));
        assert!(Property::read("no colon").is_none() && Property::read(":x").is_none());
        let p = Property::read("N;CHARSET=ISO-8859-1;QUOTED-PRINTABLE:M=FCller;J=F6rg").unwrap();
        assert_eq!(p.decoded().unwrap(), "Müller;Jörg");
    }

    #[test]
    fn times_in_every_form() {
        let at = |text: &str| instant(text).map(|time| time.to_string());
        for text in [
            "20260301T090000Z",
            "2026-03-01T09:00:00Z",
            "20260301T100000+0100",
            "2026-03-01T09:00:00",
        ] {
            assert_eq!(at(text).as_deref(), Some("2026-03-01T09:00:00.000000Z"), "{text}");
        }
        assert_eq!(at("20260301").as_deref(), Some("2026-03-01T00:00:00.000000Z"));
        for text in ["", "soon", "2026", "T", "20260301Txx"] {
            assert_eq!(at(text), None, "{text}");
        }
    }

    #[test]
    fn escapes_are_undone() {
        assert_eq!(split(r"a\;b;c\\;d", ';'), [r"a\;b", r"c\\", "d"]);
        assert_eq!(unescape(r"a\;b\, c\\n\Nd\x"), "a;b, c\\n\nd\\x");
    }
}
