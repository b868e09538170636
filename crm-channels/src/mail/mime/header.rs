//! Header fields: folded at 78 columns, encoded where they are not plain (RFC 2047, RFC 2231), never longer than SMTP
//! takes (998 octets). What stands in them was checked for control characters before ([`crm_core::message::Email::validate`]).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crm_core::message::Mailbox;
use crm_core::{Error, Result, Timestamp};

/// Where a line should end (RFC 5322, 2.1.1).
const FOLD: usize = 78;
/// Where a line with an encoded word must end (RFC 2047, 2).
const ENCODED: usize = 76;
/// Words that cannot be folded are still carried up to here.
const LONGEST: usize = 900;

/// Appends in Base64, without line ends.
pub(super) fn base64(out: &mut Vec<u8>, bytes: &[u8]) {
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, b'=');
    if let Some(room) = out.get_mut(start..) {
        // The room is exactly what it takes.
        let _ = STANDARD.encode_slice(bytes, room);
    }
}

/// One header field under construction.
pub(super) struct Field<'a> {
    out: &'a mut Vec<u8>,
    column: usize,
}

impl<'a> Field<'a> {
    pub(super) fn new(out: &'a mut Vec<u8>, name: &str) -> Self {
        out.extend_from_slice(name.as_bytes());
        out.push(b':');
        Self {
            out,
            column: name.len() + 1,
        }
    }

    pub(super) fn end(self) {
        self.out.extend_from_slice(b"\r\n");
    }

    fn put(&mut self, text: &[u8]) {
        self.out.extend_from_slice(text);
        self.column += text.len();
    }

    fn fold(&mut self) {
        self.out.extend_from_slice(b"\r\n");
        self.column = 0;
    }

    /// A blank and a word that stays whole, on the next line when this one is full.
    pub(super) fn word(&mut self, word: &[u8]) {
        if self.column + word.len() >= FOLD && word.len() < FOLD {
            self.fold();
        }
        self.put(b" ");
        self.put(word);
    }

    /// ASCII text as it is, folded before blanks.
    fn plain(&mut self, text: &str) {
        self.put(b" ");
        if self.column + text.len() <= FOLD {
            return self.put(text.as_bytes());
        }
        let mut first = true;
        for run in runs(text) {
            if !first && self.column + run.len() > FOLD {
                self.fold();
            }
            first = false;
            self.put(run.as_bytes());
        }
    }

    /// Any text as encoded words, each of whole characters.
    fn encoded(&mut self, text: &str) {
        let mut rest = text;
        while !rest.is_empty() {
            let mut room = ENCODED.saturating_sub(self.column + 1 + 12) / 4 * 3;
            if room < 12 && self.column > 0 {
                self.fold();
                room = (ENCODED - 1 - 12) / 4 * 3;
            }
            let mut cut = rest.len().min(room.max(4));
            while !rest.is_char_boundary(cut) {
                cut -= 1;
            }
            let Some((now, later)) = rest.split_at_checked(cut) else {
                return;
            };
            let before = self.out.len();
            self.out.extend_from_slice(b" =?utf-8?b?");
            base64(self.out, now.as_bytes());
            self.out.extend_from_slice(b"?=");
            self.column += self.out.len() - before;
            rest = later;
        }
    }
}

/// The text in pieces, each with the blanks before it.
fn runs(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let word = rest.find(|c: char| c != ' ')?;
        let end = rest
            .get(word..)?
            .find(' ')
            .map_or(rest.len(), |length| word + length);
        let (run, later) = rest.split_at_checked(end)?;
        rest = later;
        Some(run)
    })
}

fn longest_run(text: &str) -> usize {
    if text.len() <= LONGEST {
        return text.len();
    }
    runs(text).map(str::len).max().unwrap_or(0)
}

/// Free text, such as a subject. What looks like an encoded word is encoded itself, so that it is read as it was written.
pub(super) fn text(out: &mut Vec<u8>, name: &str, value: &str) {
    let mut field = Field::new(out, name);
    let value = value.trim();
    if value.is_ascii() && !value.contains("=?") && longest_run(value) <= LONGEST {
        field.plain(value);
    } else {
        field.encoded(value);
    }
    field.end();
}

/// A header of the caller's. ASCII goes out as it is, because it may have a grammar of its own.
///
/// # Errors
/// [`crm_core::ErrorKind::Invalid`] when a word of it is longer than a line may be.
pub(super) fn custom(out: &mut Vec<u8>, name: &str, value: &str) -> Result<()> {
    let value = value.trim();
    if name.len() > FOLD - 2 {
        return Err(Error::invalid("the name of a header is too long").with("field", "headers"));
    }
    let mut field = Field::new(out, name);
    if !value.is_ascii() {
        field.encoded(value);
    } else if longest_run(value) <= LONGEST {
        field.plain(value);
    } else {
        return Err(
            Error::invalid("a header has a word longer than mail can carry; at most 900 characters")
                .with("field", "headers")
                .with("header", name),
        );
    }
    field.end();
    Ok(())
}

fn is_atom(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&b)
}

/// A mailbox. True when its address needs an internationalised message (RFC 6532).
pub(super) fn mailbox(out: &mut Vec<u8>, name: &str, mailbox: &Mailbox) -> bool {
    let mut field = Field::new(out, name);
    let shown = mailbox.name.trim();
    let address = mailbox.address.as_str();
    if shown.is_empty() {
        field.word(address.as_bytes());
    } else {
        if !shown.is_ascii() || shown.contains("=?") || shown.len() > 60 {
            field.encoded(shown);
        } else if shown.bytes().all(|b| is_atom(b) || b == b' ') && !shown.contains("  ") {
            field.plain(shown);
        } else {
            let mut quoted = Vec::with_capacity(shown.len() + 8);
            quoted.push(b'"');
            for b in shown.bytes() {
                if matches!(b, b'"' | b'\\') {
                    quoted.push(b'\\');
                }
                quoted.push(b);
            }
            quoted.push(b'"');
            field.word(&quoted);
        }
        let mut angle = Vec::with_capacity(address.len() + 2);
        angle.push(b'<');
        angle.extend_from_slice(address.as_bytes());
        angle.push(b'>');
        field.word(&angle);
    }
    field.end();
    !address.is_ascii()
}

/// A parameter of `Content-Type` or `Content-Disposition`: quoted when plain, else percent-encoded UTF-8 in numbered
/// pieces (RFC 2231).
pub(super) fn parameter(field: &mut Field<'_>, name: &str, value: &str) {
    field.put(b";");
    let plain = value.len() <= 60 && value.bytes().all(|b| matches!(b, 0x20..=0x7e));
    if plain {
        let escaped = value.replace('\\', "\\\\").replace('"', "\\\"");
        return field.word(format!("{name}=\"{escaped}\"").as_bytes());
    }
    let mut pieces = vec![String::from("utf-8''")];
    for b in value.bytes() {
        let literal = b.is_ascii_alphanumeric() || b"-._~".contains(&b);
        if let Some(piece) = pieces.last_mut() {
            if literal {
                piece.push(char::from(b));
            } else {
                piece.push_str(&format!("%{b:02X}"));
            }
            if piece.len() > 50 {
                pieces.push(String::new());
            }
        }
    }
    if pieces.last().is_some_and(String::is_empty) {
        pieces.pop();
    }
    if let [one] = pieces.as_slice() {
        return field.word(format!("{name}*={one}").as_bytes());
    }
    let last = pieces.len() - 1;
    for (n, piece) in pieces.iter().enumerate() {
        let end = if n == last { "" } else { ";" };
        field.word(format!("{name}*{n}*={piece}{end}").as_bytes());
    }
}

/// `Date`, in UTC (RFC 5322, 3.3).
pub(super) fn date(out: &mut Vec<u8>, at: Timestamp) {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    // From the epoch to the end of the year 9999, which is as far as four digits go.
    let seconds = at.as_micros().div_euclid(1_000_000).clamp(0, 253_402_300_799);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // The civil calendar from a count of days: years begin in March, eras have 400 of them.
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let march = (5 * day + 2) / 153;
    let (date, month) = (day - (153 * march + 2) / 5 + 1, (march + 2) % 12);
    let year = year + era * 400 + i64::from(month < 2);
    let name = |names: &[&'static str], n: i64| {
        usize::try_from(n)
            .ok()
            .and_then(|n| names.get(n))
            .copied()
            .unwrap_or_default()
    };
    let text = format!(
        "Date: {}, {date:02} {} {year:04} {:02}:{:02}:{:02} +0000\r\n",
        name(&DAYS, days % 7),
        name(&MONTHS, month),
        second / 3_600,
        second / 60 % 60,
        second % 60
    );
    out.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crm_core::customer::EmailAddress;

    fn made(make: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        make(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn dates() {
        for (at, text) in [
            ("1970-01-01T00:00:00Z", "Thu, 01 Jan 1970 00:00:00 +0000"),
            ("2000-02-29T23:59:59Z", "Tue, 29 Feb 2000 23:59:59 +0000"),
            ("2026-03-01T09:00:00Z", "Sun, 01 Mar 2026 09:00:00 +0000"),
            ("2100-12-31T12:34:56Z", "Fri, 31 Dec 2100 12:34:56 +0000"),
        ] {
            assert_eq!(
                made(|out| date(out, at.parse().unwrap())),
                format!("Date: {text}\r\n")
            );
        }
        // Every day of two centuries follows the day before it.
        let mut before = String::new();
        for day in 0..73_000 {
            let now = made(|out| date(out, Timestamp::from_micros(day * 86_400_000_000)));
            assert_ne!(before, now);
            before = now;
        }
        assert!(before.starts_with("Date: "), "{before}");
    }

    #[test]
    fn long_subjects_are_folded_and_read_back() {
        let subject =
            "A rather long subject about nothing in particular that goes on and on  and on until it ends";
        let folded = made(|out| text(out, "Subject", subject));
        assert!(
            folded.lines().count() > 1 && folded.lines().all(|line| line.len() <= 78),
            "{folded}"
        );
        assert_eq!(folded.replace("\r\n", ""), format!("Subject: {subject}"));
        // No place to fold: encoded, and so divided.
        let long = made(|out| text(out, "Subject", &"x".repeat(5000)));
        assert!(long.lines().all(|line| line.len() <= 76) && long.contains("=?utf-8?b?"));
        let encoded = made(|out| text(out, "Subject", "=?utf-8?q?=0D=0ABcc:_x@example.com?="));
        assert!(encoded.starts_with("Subject: =?utf-8?b?"), "{encoded}");
    }

    #[test]
    fn names_are_quoted_or_encoded() {
        for (name, header) in [
            ("", "From: a@example.com\r\n"),
            ("Ana Kask", "From: Ana Kask <a@example.com>\r\n"),
            ("Kask, Ana", "From: \"Kask, Ana\" <a@example.com>\r\n"),
            ("a\"b\\c", "From: \"a\\\"b\\\\c\" <a@example.com>\r\n"),
            ("Käse", "From: =?utf-8?b?S8Okc2U=?= <a@example.com>\r\n"),
        ] {
            let mailbox_ = Mailbox::new(EmailAddress::parse("a@example.com").unwrap(), name).unwrap();
            assert_eq!(
                made(|out| {
                    mailbox(out, "From", &mailbox_);
                }),
                header
            );
        }
        let mailbox_ = Mailbox::new(EmailAddress::parse("jürgen@example.com").unwrap(), "").unwrap();
        assert!(mailbox(&mut Vec::new(), "From", &mailbox_), "needs SMTPUTF8");
    }

    #[test]
    fn file_names_in_every_script() {
        let parameter = |value: &str| {
            made(|out| {
                let mut field = Field::new(out, "Content-Disposition");
                field.word(b"attachment");
                parameter(&mut field, "filename", value);
                field.end();
            })
        };
        assert_eq!(
            parameter("a \"b\".pdf"),
            "Content-Disposition: attachment; filename=\"a \\\"b\\\".pdf\"\r\n"
        );
        assert_eq!(
            parameter("ö.pdf"),
            "Content-Disposition: attachment; filename*=utf-8''%C3%B6.pdf\r\n"
        );
        let long = parameter(&format!("{}.pdf", "文件".repeat(100)));
        assert!(
            long.contains("filename*0*=utf-8''%E6") && long.contains("filename*1*=%"),
            "{long}"
        );
        assert!(long.lines().all(|line| line.len() <= 78), "{long}");
    }
}
