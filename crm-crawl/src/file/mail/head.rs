//! The header section of a message (RFC 5322, 2.2, with the obsolete forms of 4.5).

use chrono::{DateTime, NaiveDate, NaiveDateTime};
use crm_core::Timestamp;

use super::words;

/// The fields of a header section, unfolded: names in lower case, values as the bytes they are.
pub(super) struct Head(Vec<(String, Vec<u8>)>);

impl Head {
    /// Reads the lines before the blank one. What is no field is passed over.
    pub(super) fn parse(bytes: &[u8]) -> Self {
        let mut fields: Vec<(String, Vec<u8>)> = Vec::new();
        // Whether the last line was a field, so that a folded line belongs to it.
        let mut open = false;
        for line in bytes.split(|b| *b == b'\n') {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            match line.first() {
                None => break,
                Some(b' ' | b'\t') => {
                    if let Some((_, value)) = fields.last_mut().filter(|_| open) {
                        value.extend_from_slice(line);
                    }
                }
                Some(_) => {
                    open = false;
                    if let Some((name, value)) = field(line) {
                        fields.push((name, value.to_vec()));
                        open = true;
                    }
                }
            }
        }
        Self(fields)
    }

    /// The value of a field as text, encoded words not decoded; the first one when it stands there several times.
    pub(super) fn get(&self, name: &str) -> Option<String> {
        self.all(name).next()
    }

    /// The values of every field of this name.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = String> + 'a {
        let of_name = self.0.iter().filter(move |(known, _)| known == name);
        of_name.map(|(_, value)| words::text(value).trim().to_owned())
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(known, _)| known == name)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The name in lower case and the value of a line that begins a field.
fn field(line: &[u8]) -> Option<(String, &[u8])> {
    let colon = line.iter().position(|b| *b == b':')?;
    let name = line.get(..colon)?.trim_ascii_end();
    let named = !name.is_empty() && name.len() <= 100 && name.iter().all(|b| (33..=126).contains(b));
    let name = std::str::from_utf8(name).ok().filter(|_| named)?;
    Some((name.to_ascii_lowercase(), line.get(colon + 1..)?))
}

/// Whether a line looks like a header field.
pub(super) fn is_field(line: &[u8]) -> bool {
    field(line).is_some()
}

/// The time of a `Date` field: RFC 5322, 3.3 and 4.3, and what mailers write: no zone, a wrong day of the week, a time as C
/// writes it, ISO 8601.
pub(super) fn date(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    if text.len() > 200 {
        return None;
    }
    let micros = |time: DateTime<chrono::FixedOffset>| Some(Timestamp::from_micros(time.timestamp_micros()));
    if let Ok(time) = DateTime::parse_from_rfc2822(text) {
        return micros(time);
    }
    // Without comments, without blanks in the time, and without the day of the week, which may be wrong or in another
    // language.
    let plain = without_comments(text);
    let bare = match plain.split_once(',') {
        Some((_, rest)) => rest.trim(),
        None => plain.trim(),
    };
    if let Ok(time) = DateTime::parse_from_rfc2822(bare) {
        return micros(time);
    }
    if let Ok(time) = DateTime::parse_from_str(bare, "%d %b %Y %H:%M:%S%.f %z") {
        return micros(time);
    }
    for format in ["%d %b %Y %H:%M:%S", "%d %b %Y %H:%M", "%d-%b-%Y %H:%M:%S"] {
        if let Ok((time, rest)) = NaiveDateTime::parse_and_remainder(bare, format)
            && !rest.starts_with(|c: char| c.is_ascii_digit())
        {
            return Some(Timestamp::from_micros(time.and_utc().timestamp_micros()));
        }
    }
    c_time(&bare.split_whitespace().collect::<Vec<_>>()).or_else(|| text.parse().ok())
}

fn without_comments(text: &str) -> String {
    let mut depth = 0_u32;
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            c if depth == 0 => plain.push(c),
            _ => {}
        }
    }
    let words: Vec<&str> = plain.split_whitespace().collect();
    words.join(" ").replace(" :", ":").replace(": ", ":")
}

const MONTHS: [&str; 12] = [
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// `Thu Nov 24 18:22:48 1994` somewhere in these words, as C's `asctime` writes it and the first line of an mbox message
/// ends; a zone may stand before or after the year.
pub(super) fn c_time(words: &[&str]) -> Option<Timestamp> {
    let begin = words.windows(2).position(|pair| {
        matches!(pair, [day, month]
            if DAYS.iter().any(|d| day.eq_ignore_ascii_case(d)) && MONTHS.iter().any(|m| month.eq_ignore_ascii_case(m)))
    })?;
    let mut words = words.iter().skip(begin + 1);
    let month = words.next()?.to_ascii_lowercase();
    let month = MONTHS.iter().position(|m| *m == month)? as u32 + 1;
    let day: u32 = words.next()?.parse().ok()?;
    let mut clock = words.next()?.split(':');
    let hour: u32 = clock.next()?.parse().ok()?;
    let minute: u32 = clock.next()?.parse().ok()?;
    let second: u32 = clock.next().map_or(Ok(0), str::parse).ok()?;
    let (mut year, mut zone) = (None, 0);
    for word in words.take(3) {
        match word.as_bytes() {
            [a, b, c, d] if [a, b, c, d].iter().all(|b| b.is_ascii_digit()) => {
                year = year.or_else(|| word.parse::<i32>().ok());
            }
            [sign @ (b'+' | b'-'), digits @ ..] if digits.len() == 4 => {
                let number: i64 = word.get(1..)?.parse().ok()?;
                let seconds = number / 100 * 3600 + number % 100 * 60;
                zone = if *sign == b'-' { -seconds } else { seconds };
            }
            _ => {}
        }
    }
    let time = NaiveDate::from_ymd_opt(year?, month, day)?.and_hms_opt(hour, minute, second.min(59))?;
    Some(Timestamp::from_micros(
        (time.and_utc().timestamp() - zone).checked_mul(1_000_000)?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_as_mailers_write_them() {
        for (written, meant) in [
            ("Fri, 21 Nov 1997 09:55:06 -0600", "1997-11-21T15:55:06.000000Z"),
            ("21 Nov 97 09:55:06 GMT", "1997-11-21T09:55:06.000000Z"),
            ("Fri, 21 Nov 1997 09:55 +0100", "1997-11-21T08:55:00.000000Z"),
            (
                "Fri, 21 Nov 1997 09(comment):   55  :  06 -0600",
                "1997-11-21T15:55:06.000000Z",
            ),
            ("Mon, 21 Nov 1997 09:55:06 +0000", "1997-11-21T09:55:06.000000Z"),
            (
                "Fr, 21 Nov 1997 09:55:06 +0000 (GMT)",
                "1997-11-21T09:55:06.000000Z",
            ),
            ("Fri, 21 Nov 1997 09:55:06", "1997-11-21T09:55:06.000000Z"),
            ("Fri Nov 21 09:55:06 1997", "1997-11-21T09:55:06.000000Z"),
            ("Fri Nov 21 09:55:06 +0100 1997", "1997-11-21T08:55:06.000000Z"),
            ("1997-11-21T09:55:06+01:00", "1997-11-21T08:55:06.000000Z"),
        ] {
            assert_eq!(
                date(written).map(|time| time.to_string()).as_deref(),
                Some(meant),
                "{written}"
            );
        }
        for none in [
            "",
            "yesterday",
            "32 Nov 1997 09:55:06 +0000",
            "Fri Nov 21 25:00:00 1997",
        ] {
            assert_eq!(date(none), None, "{none}");
        }
    }

    #[test]
    fn fields_are_unfolded() {
        let head = Head::parse(b"From : a@x.example\r\nTo: b@x.example,\r\n\tc@x.example\r\nno field\r\n folded\r\nTO: d@x.example\r\n\r\nCc: body");
        assert_eq!(head.get("from").as_deref(), Some("a@x.example"));
        let to: Vec<String> = head.all("to").collect();
        assert_eq!(to, ["b@x.example,\tc@x.example", "d@x.example"]);
        assert!(!head.has("cc"));
    }
}
