//! A server's replies: read from bytes that may be anything, never more of them than a reply may have.

use memchr::memchr;

/// No reply is longer; RFC 5321 (4.5.3.1.5) has 512 octets a line.
const LONGEST: usize = 64 * 1024;

/// Bytes that are no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Garbage(pub(super) &'static str);

/// One reply: the code, and what was said with it, line by line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) code: u16,
    pub(super) text: String,
}

impl Reply {
    pub(super) fn lines(&self) -> impl Iterator<Item = &str> {
        self.text.split('\n')
    }

    pub(super) fn is_positive(&self) -> bool {
        (200..300).contains(&self.code)
    }
}

/// The reply at the beginning of `bytes` and its length, if it is there whole.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Reply, usize)>, Garbage> {
    let (mut rest, mut length, mut text) = (bytes, 0, String::new());
    let mut first = None;
    while let Some(at) = memchr(b'\n', rest) {
        let (line, later) = rest.split_at_checked(at + 1).unwrap_or((rest, &[]));
        length += line.len();
        if length > LONGEST {
            break;
        }
        rest = later;
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let code = code(line).ok_or(Garbage("a line that begins with no reply code"))?;
        if *first.get_or_insert(code) != code {
            return Err(Garbage("the lines of one reply have different codes"));
        }
        let (more, said) = match line.get(3..).unwrap_or_default() {
            [b'-', said @ ..] => (true, said),
            [b' ' | b'\t', said @ ..] | said @ [] => (false, said),
            _ => return Err(Garbage("neither a blank nor - behind a reply code")),
        };
        text.push_str(&String::from_utf8_lossy(said));
        if !more {
            return Ok(Some((Reply { code, text }, length)));
        }
        text.push('\n');
    }
    if bytes.len() > LONGEST {
        return Err(Garbage("a reply that does not end"));
    }
    Ok(None)
}

fn code(line: &[u8]) -> Option<u16> {
    let digits = std::str::from_utf8(line.get(..3)?).ok()?;
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok().filter(|code| (200..600).contains(code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_of_every_form() {
        for (bytes, code, text, length) in [
            ("250 ok\r\n", 250, "ok", 8),
            ("250\r\n", 250, "", 5),
            ("550 \r\n", 550, "", 6),
            ("250-a\r\n250-SIZE 10\r\n250 c\r\nrest", 250, "a\nSIZE 10\nc", 27),
            ("250 bare\n", 250, "bare", 9),
            (
                "550 said 4.2.2 twice\r\n250 next\r\n",
                550,
                "said 4.2.2 twice",
                22,
            ),
        ] {
            let (reply, used) = parse(bytes.as_bytes()).unwrap().unwrap();
            assert_eq!(
                (reply.code, reply.text.as_str(), used),
                (code, text, length),
                "{bytes:?}"
            );
        }
        let (reply, _) = parse(b"550 \xff\xfe\x80\r\n").unwrap().unwrap();
        assert_eq!(reply.code, 550);
        for unfinished in ["", "2", "250 ok", "250-a\r\n", "250-a\r\n250"] {
            assert_eq!(parse(unfinished.as_bytes()), Ok(None), "{unfinished:?}");
        }
    }

    #[test]
    fn what_is_no_reply_is_refused_and_bounded() {
        for bytes in [
            "999 hi\r\n",
            "hello\r\n",
            "\r\n",
            "25 ok\r\n",
            "250ok\r\n",
            "250-a\r\n550 b\r\n",
            "+50 ok\r\n",
            "199 ok\r\n",
        ] {
            assert!(parse(bytes.as_bytes()).is_err(), "{bytes:?}");
        }
        let long = [b"250 ".as_slice(), &vec![b'x'; 1 << 20]].concat();
        assert!(parse(&long).is_err());
        let many = b"250-x\r\n".repeat(1 << 16);
        assert!(parse(&many).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_are_too_odd(bytes: Vec<u8>) {
            if let Ok(Some((reply, used))) = parse(&bytes) {
                proptest::prop_assert!((200..600).contains(&reply.code) && used <= bytes.len());
            }
        }
    }
}
