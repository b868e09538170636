//! Just enough of MIME (RFC 2045, 2046, 5322) to find a report in a mail: a walk over borrowed bytes that is bounded in
//! every direction. Anybody can send us anything: nothing here panics, recurses or grows without a limit.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// The largest mail that is looked at.
pub(super) const MAX_BYTES: usize = 10 * 1024 * 1024;
/// The most header fields that are read of one part, and the longest value of one.
const MAX_HEADERS: usize = 500;
const MAX_VALUE: usize = 16 * 1024;
/// How deep multiparts may lie in each other, and how many parts there are in all.
const MAX_DEPTH: usize = 8;
const MAX_PARTS: usize = 64;
/// The longest boundary (RFC 2046, 5.1.1).
const MAX_BOUNDARY: usize = 70;

/// Padding or not, stray bits or not: what can be read is read.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// One part: its header fields, and its body as it was sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part<'a> {
    head: &'a [u8],
    body: &'a [u8],
}

impl<'a> Part<'a> {
    /// Divides at the first empty line.
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        let mut at = 0;
        for line in bytes.split_inclusive(|b| *b == b'\n') {
            if trim_end(line).is_empty() {
                let (head, rest) = bytes.split_at(at);
                return Self {
                    head,
                    body: rest.get(line.len()..).unwrap_or_default(),
                };
            }
            at += line.len();
        }
        Self {
            head: bytes,
            body: &[],
        }
    }

    /// What follows the empty line, as it is.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.body
    }

    /// The header fields, unfolded, names in small letters.
    pub(super) fn headers(&self) -> Headers<'a> {
        Headers {
            rest: self.head,
            left: MAX_HEADERS,
        }
    }

    /// The first field of this name.
    pub(super) fn header(&self, name: &str) -> Option<String> {
        self.headers().find(|(n, _)| n == name).map(|(_, value)| value)
    }

    /// All fields of this name.
    pub(super) fn all(&self, name: &str) -> Vec<String> {
        self.headers()
            .filter(|(n, _)| n == name)
            .map(|(_, v)| v)
            .collect()
    }

    pub(super) fn content_type(&self) -> ContentType {
        ContentType::read(&self.header("content-type").unwrap_or_default())
    }

    /// The body with its transfer encoding taken away (RFC 2045, 6).
    pub(super) fn decoded(&self) -> Vec<u8> {
        let encoding = self.header("content-transfer-encoding").unwrap_or_default();
        match encoding.trim().to_ascii_lowercase().as_str() {
            "base64" => {
                let letters: Vec<u8> = self
                    .body
                    .iter()
                    .copied()
                    .filter(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/'))
                    .collect();
                // What is left over after whole groups of four is a damaged end.
                let whole = letters.len() - usize::from(letters.len() % 4 == 1);
                BASE64
                    .decode(letters.get(..whole).unwrap_or_default())
                    .unwrap_or_default()
            }
            "quoted-printable" => quoted_printable(self.body),
            _ => self.body.to_vec(),
        }
    }

    /// All parts that are no multiparts, in order; a mail without parts is one.
    pub(super) fn leaves(self) -> Vec<Part<'a>> {
        let mut leaves = Vec::new();
        let mut open = vec![(self, 0)];
        let mut seen = 0;
        while let Some((part, depth)) = open.pop() {
            seen += 1;
            if seen > MAX_PARTS {
                break;
            }
            let kind = part.content_type();
            match kind
                .boundary
                .filter(|_| kind.kind == "multipart" && depth < MAX_DEPTH)
            {
                Some(boundary) => {
                    // The last one first, so that the first one is taken next.
                    open.extend(
                        divide(part.body, boundary.as_bytes())
                            .into_iter()
                            .rev()
                            .map(|p| (p, depth + 1)),
                    );
                }
                None => leaves.push(part),
            }
        }
        leaves
    }
}

/// The parts between lines of `--boundary`; one that never ends goes to the end.
fn divide<'a>(body: &'a [u8], boundary: &[u8]) -> Vec<Part<'a>> {
    let mut parts = Vec::new();
    let (mut begun, mut at) = (None, 0);
    for line in body.split_inclusive(|b| *b == b'\n') {
        let mark = line
            .strip_prefix(b"--")
            .and_then(|rest| rest.strip_prefix(boundary))
            .map(trim_end)
            .filter(|rest| rest.is_empty() || *rest == b"--");
        if let Some(mark) = mark {
            if let Some(from) = begun {
                parts.push(Part::new(trim_line(body.get(from..at).unwrap_or_default())));
            }
            begun = Some(at + line.len());
            if mark == b"--" || parts.len() >= MAX_PARTS {
                return parts;
            }
        }
        at += line.len();
    }
    if let Some(from) = begun {
        parts.push(Part::new(body.get(from..).unwrap_or_default()));
    }
    parts
}

/// Header fields one by one.
#[derive(Debug, Clone)]
pub(super) struct Headers<'a> {
    rest: &'a [u8],
    left: usize,
}

impl Headers<'_> {
    fn line(&mut self) -> Option<&[u8]> {
        if self.rest.is_empty() {
            return None;
        }
        let end = self
            .rest
            .iter()
            .position(|b| *b == b'\n')
            .map_or(self.rest.len(), |at| at + 1);
        let (line, rest) = self.rest.split_at_checked(end)?;
        self.rest = rest;
        Some(trim_end(line))
    }
}

impl Iterator for Headers<'_> {
    type Item = (String, String);

    fn next(&mut self) -> Option<(String, String)> {
        loop {
            self.left = self.left.checked_sub(1)?;
            let line = self.line()?;
            let mut parts = line.splitn(2, |b| *b == b':');
            let name = parts.next().unwrap_or_default().trim_ascii();
            let plain = !name.is_empty() && name.iter().all(|b| b.is_ascii_graphic());
            let found = plain.then_some(()).and(parts.next()).map(|value| {
                let mut all = value.trim_ascii().to_vec();
                all.truncate(MAX_VALUE);
                (String::from_utf8_lossy(name).to_ascii_lowercase(), all)
            });
            let mut found = found;
            while matches!(self.rest.first(), Some(b' ' | b'\t')) {
                let Some(more) = self.line() else { break };
                if let Some((_, value)) = &mut found
                    && value.len() < MAX_VALUE
                {
                    value.push(b' ');
                    let room = MAX_VALUE - value.len();
                    let more = more.trim_ascii();
                    value.extend_from_slice(more.get(..room.min(more.len())).unwrap_or_default());
                }
            }
            if let Some((name, value)) = found {
                return Some((name, String::from_utf8_lossy(&value).into_owned()));
            }
        }
    }
}

/// What a part is: `kind/subtype` in small letters, and the two parameters that matter here.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ContentType {
    pub(super) kind: String,
    pub(super) subtype: String,
    pub(super) boundary: Option<String>,
    pub(super) report: Option<String>,
}

impl ContentType {
    /// Reads the field's value; without one it is text (RFC 2045, 5.2).
    fn read(value: &str) -> Self {
        let mut parts = parameters(value).into_iter();
        let first = parts.next().map(|(name, _)| name).unwrap_or_default();
        let (kind, subtype) = first.split_once('/').unwrap_or(("text", "plain"));
        let mut out = Self {
            kind: kind.trim().to_ascii_lowercase(),
            subtype: subtype.trim().to_ascii_lowercase(),
            ..Self::default()
        };
        for (name, value) in parts {
            match name.trim().to_ascii_lowercase().as_str() {
                "boundary" if !value.is_empty() && value.len() <= MAX_BOUNDARY && out.boundary.is_none() => {
                    out.boundary = Some(value);
                }
                "report-type" => out.report = Some(value.to_ascii_lowercase()),
                _ => {}
            }
        }
        out
    }
}

/// `a; b=c; d="e;f"`: names and values, quotes and backslashes taken away, comments in brackets left out.
fn parameters(text: &str) -> Vec<(String, String)> {
    let mut all = Vec::new();
    let (mut name, mut value, mut after) = (String::new(), String::new(), false);
    let (mut quoted, mut escaped, mut depth) = (false, false, 0_usize);
    for c in text.chars().chain([';']) {
        if escaped {
            escaped = false;
            value.push(c);
        } else if quoted {
            match c {
                '\\' => escaped = true,
                '"' => quoted = false,
                c => value.push(c),
            }
        } else if depth > 0 {
            match c {
                '(' => depth += 1,
                ')' => depth -= 1,
                _ => {}
            }
        } else {
            match c {
                '(' => depth = 1,
                '"' if after => quoted = true,
                '=' if !after => after = true,
                ';' => {
                    let value = std::mem::take(&mut value).trim().to_owned();
                    all.push((std::mem::take(&mut name).trim().to_owned(), value));
                    after = false;
                    if all.len() > 32 {
                        return all;
                    }
                }
                c if after => value.push(c),
                c => name.push(c),
            }
        }
    }
    // A quote that never ends still says something.
    if !name.trim().is_empty() {
        all.push((
            name.trim().to_owned(),
            value.trim_end_matches(';').trim().to_owned(),
        ));
    }
    all
}

fn quoted_printable(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len());
    let mut rest = body;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte != b'=' {
            out.push(*byte);
            continue;
        }
        match after {
            [b'\r', b'\n', more @ ..] | [b'\n', more @ ..] => rest = more,
            [a, b, more @ ..] => match (digit(*a), digit(*b)) {
                (Some(a), Some(b)) => {
                    out.push(a << 4 | b);
                    rest = more;
                }
                _ => out.push(b'='),
            },
            _ => out.push(b'='),
        }
    }
    out
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok())
}

/// Without blanks and line ends behind.
fn trim_end(line: &[u8]) -> &[u8] {
    line.trim_ascii_end()
}

/// Without the one line end that belongs to the boundary behind (RFC 2046, 5.1.1).
fn trim_line(bytes: &[u8]) -> &[u8] {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    bytes.strip_suffix(b"\r").unwrap_or(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kinds(mail: &[u8]) -> Vec<String> {
        Part::new(mail)
            .leaves()
            .iter()
            .map(|p| format!("{}/{}", p.content_type().kind, p.content_type().subtype))
            .collect()
    }

    #[test]
    fn parts_of_parts() {
        let mail = b"Content-Type: multipart/mixed;\r\n\tboundary=\"a b\"\r\n\r\npreamble\r\n--a b\r\n\r\nhi\r\n\
            --a b  \r\nContent-Type: multipart/alternative; boundary=c (x)\r\n\r\n--c\r\nContent-Type: TEXT/html\r\n\r\n<p>\r\n--c--\r\n\
            --a b\r\nContent-Type: image/png\r\n\r\n\r\n--a b--\r\n--a b\r\nContent-Type: never/read\r\n\r\n";
        assert_eq!(kinds(mail), ["text/plain", "text/html", "image/png"]);
        assert_eq!(Part::new(mail).leaves()[0].body, b"hi");
        let open = b"Content-Type: multipart/mixed; boundary=x\n\n--x\n\none\n--x\nContent-Type: a/b\n\ntwo";
        assert_eq!(
            kinds(open),
            ["text/plain", "a/b"],
            "no end, and lines that end as on Unix"
        );
    }

    #[test]
    fn encodings() {
        let body = |encoding: &str, body: &str| {
            let mail = format!("Content-Transfer-Encoding: {encoding}\r\n\r\n{body}");
            String::from_utf8(Part::new(mail.as_bytes()).decoded()).unwrap()
        };
        assert_eq!(body("base64", "QWN0\r\naW9u"), "Action");
        assert_eq!(body("BASE64", "QWN0aW8="), "Actio");
        assert_eq!(body("base64", "QWN0aW9uX"), "Action");
        assert_eq!(body("quoted-printable", "a=3Db=\r\nc=zz="), "a=bc=zz=");
        assert_eq!(body("7bit", "a=3D"), "a=3D");
    }

    #[test]
    fn folded_odd_and_endless_headers() {
        let part = Part::new(b"A: 1\r\n 2\r\n\t3\r\nno colon here\r\n: x\r\nB : 4\r\na:5\r\n\r\nbody");
        assert_eq!(part.all("a"), ["1 2 3", "5"]);
        assert_eq!(part.header("b").as_deref(), Some("4"));
        let long = format!("A: {}\r\n {}\r\n", "x".repeat(100_000), "y".repeat(100_000));
        assert_eq!(Part::new(long.as_bytes()).header("a").unwrap().len(), MAX_VALUE);
        assert_eq!(
            Part::new("A: 1\n".repeat(9999).as_bytes()).headers().count(),
            MAX_HEADERS
        );
    }

    #[test]
    fn depth_and_number_are_bounded() {
        let mut deep = Vec::new();
        for i in 0..1000 {
            deep.extend(format!("Content-Type: multipart/mixed; boundary=b{i}\r\n\r\n--b{i}\r\n").bytes());
        }
        assert_eq!(kinds(&deep), ["multipart/mixed"]);
        let wide = format!(
            "Content-Type: multipart/mixed; boundary=b\r\n\r\n{}",
            "--b\r\n\r\n".repeat(100_000)
        );
        assert!(kinds(wide.as_bytes()).len() <= MAX_PARTS);
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            for part in Part::new(&bytes).leaves() {
                part.decoded();
            }
        }

        #[test]
        fn nothing_that_looks_like_mail_panics(text in "(Content-Type: |multipart/|boundary=|--|b|\"|;|\r\n|\n| |=|:|base64|Content-Transfer-Encoding|\\(|\\)|é|\\\\){0,80}") {
            for part in Part::new(text.as_bytes()).leaves() {
                part.headers().count();
                part.decoded();
            }
        }
    }
}
