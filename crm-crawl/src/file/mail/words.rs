//! Encoded words (RFC 2047) and raw bytes of header fields (RFC 6532, and what was written before it).

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use encoding_rs::{Encoding, UTF_8, WINDOWS_1252};

/// The most characters of a decoded text.
const MAX_TEXT: usize = 1000;

/// The most bytes of an encoded word that are looked at; the RFC allows 75.
const MAX_WORD: usize = 4096;

/// Base64 as it is found: with and without padding, with bits left over.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// The bytes of a field as text: UTF-8 (RFC 6532), else windows-1252, as most mailers before it that wrote 8 bits.
pub(super) fn text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => WINDOWS_1252.decode_without_bom_handling(bytes).0.into_owned(),
    }
}

/// An encoded word, and where it ends.
struct Word {
    charset: &'static Encoding,
    bytes: Vec<u8>,
    end: usize,
}

/// Decodes the encoded words of a text and makes it one line: control characters become blanks, and runs of blanks one.
///
/// Words with only blanks between them belong together; those of one charset are decoded as one, because mailers cut within
/// a character. What is no valid encoded word stays as it is written.
pub(super) fn decoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut open: Option<(&'static Encoding, Vec<u8>)> = None;
    let mut at = 0;
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        if let Some(word) = word(rest) {
            open = match open.take() {
                Some((charset, mut bytes)) if charset == word.charset => {
                    bytes.extend(word.bytes);
                    Some((charset, bytes))
                }
                other => {
                    flush(other, &mut out);
                    Some((word.charset, word.bytes))
                }
            };
            at += word.end;
            // Blanks before another word are not part of the text.
            let blanks = text
                .get(at..)
                .map_or(0, |rest| rest.len() - rest.trim_start().len());
            if text.get(at + blanks..).and_then(self::word).is_some() {
                at += blanks;
            }
            continue;
        }
        flush(open.take(), &mut out);
        let next = rest.chars().next().unwrap_or_default();
        out.push(next);
        at += next.len_utf8();
    }
    flush(open, &mut out);
    one_line(&out)
}

fn flush(open: Option<(&'static Encoding, Vec<u8>)>, out: &mut String) {
    if let Some((charset, bytes)) = open {
        out.push_str(&charset.decode_without_bom_handling(&bytes).0);
    }
}

/// Control characters and blanks to one blank each run; nothing beyond a sensible length.
pub(super) fn one_line(text: &str) -> String {
    let plain: String = text
        .chars()
        .map(|c| {
            if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') {
                ' '
            } else {
                c
            }
        })
        .take(MAX_TEXT * 4)
        .collect();
    let words: Vec<&str> = plain.split_whitespace().collect();
    words.join(" ").chars().take(MAX_TEXT).collect()
}

/// The encoded word a text begins with: `=?charset*language?B?...?=`.
fn word(text: &str) -> Option<Word> {
    let inner = text.strip_prefix("=?")?;
    let (charset, rest) = inner.split_once('?')?;
    if charset.is_empty() || charset.len() > 75 || charset.contains(char::is_whitespace) {
        return None;
    }
    // A language may stand behind it (RFC 2231, 5).
    let label = charset.split('*').next().unwrap_or(charset);
    let charset = Encoding::for_label(label.as_bytes()).or_else(|| {
        // Not labels of the web, but of mail.
        match label.to_ascii_lowercase().as_str() {
            "utf8" | "utf-8-bom" | "us-ascii-8bit" => Some(UTF_8),
            "cp1252" | "unknown-8bit" | "iso-8859-1-windows-1252" => Some(WINDOWS_1252),
            _ => None,
        }
    })?;
    let (kind, rest) = rest.split_once('?')?;
    // The text ends with the next `?=`; a Q text may hold a `?` although it must not. No further than a word can be long,
    // so that a field full of beginnings is read once.
    let near = rest.as_bytes().get(..MAX_WORD).unwrap_or(rest.as_bytes());
    let end = near.windows(2).position(|pair| pair == b"?=")?;
    let encoded = rest.get(..end)?;
    let bytes = match kind {
        "B" | "b" => base64(encoded)?,
        "Q" | "q" => quoted(encoded),
        _ => return None,
    };
    Some(Word {
        charset,
        bytes,
        end: text.len() - rest.len() + end + 2,
    })
}

fn base64(text: &str) -> Option<Vec<u8>> {
    let letters: Vec<u8> = text
        .bytes()
        .filter(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/'))
        .collect();
    // One letter left over holds no byte.
    let whole = if letters.len() % 4 == 1 {
        letters.len() - 1
    } else {
        letters.len()
    };
    LENIENT.decode(letters.get(..whole)?).ok()
}

/// The Q encoding; what is no escape stays.
fn quoted(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let hex = (*byte == b'=')
            .then(|| bytes.get(at + 1..at + 3))
            .flatten()
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (byte, hex) {
            (_, Some(decoded)) => {
                out.push(decoded);
                at += 2;
            }
            (b'_', None) => out.push(b' '),
            (other, None) => out.push(*other),
        }
        at += 1;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_every_kind() {
        for (written, meant) in [
            // RFC 2047, 8: the examples.
            ("=?US-ASCII?Q?Keith_Moore?=", "Keith Moore"),
            ("=?ISO-8859-1?Q?Keld_J=F8rn_Simonsen?=", "Keld Jørn Simonsen"),
            ("=?ISO-8859-1?Q?Andr=E9?= Pirard", "André Pirard"),
            ("=?ISO-8859-1?Q?a?=", "a"),
            ("=?ISO-8859-1?Q?a?= b", "a b"),
            ("=?ISO-8859-1?Q?a?= =?ISO-8859-1?Q?b?=", "ab"),
            ("=?ISO-8859-1?Q?a?=  =?ISO-8859-1?Q?b?=", "ab"),
            ("=?ISO-8859-1?Q?a_b?=", "a b"),
            ("=?ISO-8859-1?Q?a?= =?ISO-8859-2?Q?_b?=", "a b"),
            // A character cut in two, as many mailers do.
            ("=?utf-8?B?w6TD?= =?utf-8?B?tg==?=", "äö"),
            ("=?UTF-8*de?q?M=C3=BCller?=", "Müller"),
            ("=?iso-2022-jp?B?GyRCOzNFREJATzobKEI=?=", "山田太郎"),
            ("=?gb2312?B?0e7D9w?=", "杨明"),
            ("=?utf-8?Q?Ana Kask?=", "Ana Kask"),
            ("=?utf-8?q?a=0D=0ABcc:_x?=", "a Bcc: x"),
            ("=?utf-8?q?=00=1b[2J?=", "[2J"),
            // Not encoded words.
            ("=?nonsense?Q?a?=", "=?nonsense?Q?a?="),
            ("=?utf-8?X?a?=", "=?utf-8?X?a?="),
            ("=?utf-8?Q?a", "=?utf-8?Q?a"),
            ("2 =?= 3", "2 =?= 3"),
            ("=?utf-8?Q?=C3?=", "\u{fffd}"),
        ] {
            assert_eq!(decoded(written), meant, "{written}");
        }
    }

    #[test]
    fn bytes_of_before_utf_8() {
        assert_eq!(text("Müller".as_bytes()), "Müller");
        assert_eq!(text(b"M\xfcller"), "Müller");
    }
}
