//! Bodies: which transfer encoding a text takes, and the encoding itself (RFC 2045, 6). Only ASCII, only CRLF, and no line
//! longer than 998 octets comes out.

use memchr::{memchr_iter, memchr2};

use super::header;

/// Lines up to here go out as they are.
const LONGEST_LINE: usize = 990;
/// Encoded lines (RFC 2045, 6.7 and 6.8).
const ENCODED_LINE: usize = 76;

/// How a body is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    SevenBit,
    QuotedPrintable,
    Base64,
}

impl Coding {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::SevenBit => "7bit",
            Self::QuotedPrintable => "quoted-printable",
            Self::Base64 => "base64",
        }
    }

    /// The plainest one that carries the text; `within` when it stands between boundaries.
    pub(super) fn of(text: &str, within: bool) -> Self {
        let bytes = text.as_bytes();
        let odd = bytes
            .iter()
            .filter(|b| **b >= 0x7f || (**b < 0x20 && !matches!(**b, b'\t' | b'\r' | b'\n')))
            .count();
        if odd == 0 {
            // Both encodings turn every `=` into something else, so that no line of a text passes for a boundary.
            if long_line(bytes) || (within && text.contains("--=_")) {
                return Self::QuotedPrintable;
            }
            return Self::SevenBit;
        }
        // Quoted, an odd byte takes three; in Base64, three bytes take four.
        if odd > bytes.len() / 6 {
            Self::Base64
        } else {
            Self::QuotedPrintable
        }
    }
}

fn long_line(bytes: &[u8]) -> bool {
    let mut start = 0;
    for end in memchr_iter(b'\n', bytes) {
        if end - start > LONGEST_LINE {
            return true;
        }
        start = end + 1;
    }
    bytes.len() - start > LONGEST_LINE
}

/// The text's lines without their ends; CRLF, CR and LF all end one. After the last end comes an empty line.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let now = rest?;
        let Some(end) = memchr2(b'\r', b'\n', now) else {
            rest = None;
            return Some(now);
        };
        let (line, later) = now.split_at_checked(end)?;
        rest = Some(
            later
                .strip_prefix(b"\r\n")
                .or_else(|| later.get(1..))
                .unwrap_or_default(),
        );
        Some(line)
    })
}

/// Appends the text with CRLF as its line ends.
fn crlf(out: &mut Vec<u8>, text: &[u8]) {
    let mut first = true;
    for line in lines(text) {
        if !first {
            out.extend_from_slice(b"\r\n");
        }
        first = false;
        out.extend_from_slice(line);
    }
}

/// Appends the text, encoded.
pub(super) fn text(out: &mut Vec<u8>, text: &str, coding: Coding) {
    match coding {
        Coding::SevenBit => crlf(out, text.as_bytes()),
        Coding::QuotedPrintable => quoted_printable(out, text.as_bytes()),
        Coding::Base64 => {
            let mut plain = Vec::with_capacity(text.len() + text.len() / 16);
            crlf(&mut plain, text.as_bytes());
            base64(out, &plain);
        }
    }
}

/// Appends the bytes in Base64, in lines.
pub(super) fn base64(out: &mut Vec<u8>, bytes: &[u8]) {
    out.reserve(bytes.len() / 3 * 4 + bytes.len() / 57 * 2 + 8);
    let mut first = true;
    for piece in bytes.chunks(ENCODED_LINE / 4 * 3) {
        if !first {
            out.extend_from_slice(b"\r\n");
        }
        first = false;
        header::base64(out, piece);
    }
}

/// Whether it stands for itself in quoted-printable, blanks included.
fn literal(b: u8) -> bool {
    matches!(b, 0x20..=0x7e | b'\t') && b != b'='
}

fn quoted_printable(out: &mut Vec<u8>, text: &[u8]) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let hex = |n: u8| HEX.get(usize::from(n)).copied().unwrap_or(b'0');
    // One place of each line is kept for the `=` of a soft line end.
    const ROOM: usize = ENCODED_LINE - 1;
    let mut first = true;
    for line in lines(text) {
        if !first {
            out.extend_from_slice(b"\r\n");
        }
        first = false;
        // A blank at the end of a line would be lost on the way.
        let (line, blank) = match line.split_last() {
            Some((blank @ (b' ' | b'\t'), line)) => (line, Some(*blank)),
            _ => (line, None),
        };
        let (mut rest, mut column) = (line, 0);
        loop {
            let most = rest.len().min(ROOM - column);
            let run = rest.iter().take(most).position(|b| !literal(*b)).unwrap_or(most);
            let Some((plain, later)) = rest.split_at_checked(run) else {
                break;
            };
            out.extend_from_slice(plain);
            column += run;
            rest = later;
            let Some((b, later)) = rest.split_first() else {
                break;
            };
            let width = if literal(*b) { 1 } else { 3 };
            if column + width > ROOM {
                out.extend_from_slice(b"=\r\n");
                column = 0;
            } else if width == 3 {
                out.extend_from_slice(&[b'=', hex(b >> 4), hex(b & 15)]);
                column += 3;
                rest = later;
            }
        }
        if let Some(blank) = blank {
            if column + 3 > ROOM {
                out.extend_from_slice(b"=\r\n");
            }
            out.extend_from_slice(&[b'=', hex(blank >> 4), hex(blank & 15)]);
        }
    }
}

/// Doubles every dot that begins a line (RFC 5321, 4.5.2) and ends with the line that ends the message. The message ends
/// with CRLF.
pub(crate) fn stuffed(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len() + 64);
    let mut start = 0;
    if message.first() == Some(&b'.') {
        out.push(b'.');
    }
    for dot in memchr::memmem::find_iter(message, b"\r\n.") {
        let end = dot + 3;
        out.extend_from_slice(message.get(start..end).unwrap_or_default());
        out.push(b'.');
        start = end;
    }
    out.extend_from_slice(message.get(start..).unwrap_or_default());
    out.extend_from_slice(b".\r\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quoted(text: &str) -> String {
        let mut out = Vec::new();
        quoted_printable(&mut out, text.as_bytes());
        String::from_utf8(out).unwrap()
    }

    /// The reader's side, written from RFC 2045, 6.7 on its own.
    fn unquoted(text: &str) -> Vec<u8> {
        let joined = text.replace("=\r\n", "");
        let mut out = Vec::new();
        let mut bytes = joined.bytes();
        while let Some(b) = bytes.next() {
            if b == b'=' {
                let digits = [bytes.next().unwrap(), bytes.next().unwrap()];
                out.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
            } else {
                out.push(b);
            }
        }
        out
    }

    #[test]
    fn quoted_printable_by_hand() {
        assert_eq!(quoted("a=b"), "a=3Db");
        assert_eq!(quoted("trailing \nblank\t"), "trailing=20\r\nblank=09");
        assert_eq!(quoted("é"), "=C3=A9");
        assert_eq!(
            quoted(&"x".repeat(80)),
            format!("{}=\r\n{}", "x".repeat(75), "x".repeat(5))
        );
        assert_eq!(quoted(&"x".repeat(75)), "x".repeat(75));
    }

    #[test]
    fn stuffing_by_hand() {
        for (message, wire) in [
            ("a\r\n", "a\r\n.\r\n"),
            (".\r\n", "..\r\n.\r\n"),
            ("a\r\n.\r\n.b\r\n..\r\n", "a\r\n..\r\n..b\r\n...\r\n.\r\n"),
        ] {
            assert_eq!(stuffed(message.as_bytes()), wire.as_bytes());
        }
    }

    #[test]
    fn the_plainest_encoding_is_chosen() {
        for (text, coding) in [
            ("plain\ntext\t\n", Coding::SevenBit),
            (
                "Grüße aus Tartu, der Stadt an der Embach",
                Coding::QuotedPrintable,
            ),
            ("你好，世界", Coding::Base64),
            ("bell \u{7}", Coding::QuotedPrintable),
        ] {
            assert_eq!(Coding::of(text, true), coding, "{text}");
        }
        assert_eq!(Coding::of(&"x".repeat(1000), false), Coding::QuotedPrintable);
        assert_eq!(Coding::of("--=_a1", true), Coding::QuotedPrintable);
    }

    proptest::proptest! {
        #[test]
        fn any_text_comes_back(text in "(?s).{0,300}|[ =.\r\n\tab\u{e9}]{0,400}") {
            let mut plain = Vec::new();
            crlf(&mut plain, text.as_bytes());
            let wire = quoted(&text);
            proptest::prop_assert!(wire.is_ascii() && wire.split("\r\n").all(|line| line.len() <= 76 && !line.contains(['\r', '\n'])));
            proptest::prop_assert!(!wire.split("\r\n").any(|line| line.ends_with([' ', '\t'])));
            proptest::prop_assert_eq!(unquoted(&wire), plain);
        }
    }
}
