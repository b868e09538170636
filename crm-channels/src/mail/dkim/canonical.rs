//! Mails in the forms that are signed (RFC 6376, 3.4 and 3.7).

use memchr::memchr;

/// A header field, its folded lines with it.
pub(super) struct HeaderField<'a> {
    name: &'a [u8],
    value: &'a [u8],
}

impl HeaderField<'_> {
    pub(super) fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }
}

pub(super) fn divided(message: &[u8]) -> (&[u8], &[u8]) {
    match memchr::memmem::find(message, b"\r\n\r\n") {
        Some(at) => (
            message.get(..at + 2).unwrap_or_default(),
            message.get(at + 4..).unwrap_or_default(),
        ),
        None => (message, &[]),
    }
}

/// The header fields, folded lines with them.
pub(super) fn fields(head: &[u8]) -> Vec<HeaderField<'_>> {
    let mut fields = Vec::with_capacity(16);
    let mut rest = head;
    while !rest.is_empty() {
        let mut end = 0;
        loop {
            let line = rest.get(end..).unwrap_or_default();
            end += memchr(b'\n', line).map_or(line.len(), |at| at + 1);
            if !matches!(rest.get(end), Some(b' ' | b'\t')) {
                break;
            }
        }
        let (field, later) = rest.split_at_checked(end).unwrap_or((rest, &[]));
        rest = later;
        if let Some(colon) = memchr(b':', field) {
            let name = field.get(..colon).unwrap_or_default();
            fields.push(HeaderField {
                name: name.trim_ascii_end(),
                value: field.get(colon + 1..).unwrap_or_default(),
            });
        }
    }
    fields
}

/// A header field in the relaxed form (RFC 6376, 3.4.2), without the line end.
pub(super) fn relaxed_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend(name.iter().map(u8::to_ascii_lowercase));
    out.push(b':');
    let mut blank = false;
    for b in value.trim_ascii() {
        match b {
            b' ' | b'\t' => blank = true,
            b'\r' | b'\n' => {}
            b => {
                if blank {
                    out.push(b' ');
                    blank = false;
                }
                out.push(*b);
            }
        }
    }
}

/// What is signed (RFC 6376, 3.7): the named fields, each name taking the next field from the bottom, then the signature's
/// own field with nothing behind `b=`.
pub(super) fn to_sign(fields: &[HeaderField<'_>], names: &[&str], header: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(2048);
    let mut used = vec![false; fields.len()];
    for name in names {
        let found = fields
            .iter()
            .zip(used.iter_mut())
            .rev()
            .find(|(field, used)| !**used && field.is(name));
        // A name without a field stands for its absence.
        if let Some((field, used)) = found {
            *used = true;
            relaxed_field(&mut out, field.name, field.value);
            out.extend_from_slice(b"\r\n");
        }
    }
    let (name, value) = header.split_once(':').unwrap_or((header, ""));
    relaxed_field(&mut out, name.as_bytes(), value.as_bytes());
    out
}

/// The body in the relaxed form (RFC 6376, 3.4.4): blanks run together, none at the end of a line, no empty lines at the
/// end of the body.
pub(super) fn relaxed_body(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + 2);
    let mut empty = 0;
    let mut rest = body;
    while !rest.is_empty() {
        let end = memchr(b'\n', rest).map_or(rest.len(), |at| at + 1);
        let (line, later) = rest.split_at_checked(end).unwrap_or((rest, &[]));
        rest = later;
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let length = line
            .iter()
            .rposition(|b| !matches!(b, b' ' | b'\t'))
            .map_or(0, |at| at + 1);
        let line = line.get(..length).unwrap_or_default();
        if line.is_empty() {
            empty += 1;
            continue;
        }
        for _ in 0..empty {
            out.extend_from_slice(b"\r\n");
        }
        empty = 0;
        if line.contains(&b'\t') || memchr::memmem::find(line, b"  ").is_some() {
            let mut blank = false;
            for b in line {
                if matches!(b, b' ' | b'\t') {
                    blank = true;
                } else {
                    if blank {
                        out.push(b' ');
                        blank = false;
                    }
                    out.push(*b);
                }
            }
        } else {
            out.extend_from_slice(line);
        }
        out.extend_from_slice(b"\r\n");
    }
    out
}
