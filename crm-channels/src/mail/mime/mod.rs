//! An e-mail as the bytes that go on the wire (RFC 5322, MIME): CRLF only, lines of at most 998 octets, headers encoded
//! (RFC 2047), the same bytes for the same message and time.

mod body;
mod header;
mod plain;

use std::borrow::Cow;

use crm_core::message::{Attachment, Email};
use crm_core::{Result, Timestamp};

pub(crate) use body::stuffed;

use body::Coding;
use header::Field;

use super::dkim::DkimSigner;

/// A message ready to be sent.
pub(crate) struct Built {
    /// Headers and body; ends with CRLF.
    pub(crate) bytes: Vec<u8>,
    /// An address in a header has letters beyond ASCII: only servers with SMTPUTF8 take it (RFC 6531).
    pub(crate) utf8: bool,
}

/// The whole message, headers and body. `at` becomes its `Date`. Each signer puts its signature on top.
///
/// # Errors
/// What [`Email::validate`] says; [`crm_core::ErrorKind::Invalid`] naming the field that cannot be encoded.
pub(crate) fn build(mail: &Email, at: Timestamp, signers: &[&DkimSigner]) -> Result<Built> {
    mail.validate()?;
    let attached: usize = mail.attachments.iter().map(|a| a.content.len()).sum();
    let written = mail.text.len() + mail.html.as_ref().map_or(0, String::len);
    let mut out = Vec::with_capacity(1024 + written + written / 8 + attached / 2 * 3);
    let mut utf8 = header::mailbox(&mut out, "From", &mail.from);
    utf8 |= header::mailbox(&mut out, "To", &mail.to);
    if let Some(reply_to) = &mail.reply_to {
        utf8 |= header::mailbox(&mut out, "Reply-To", reply_to);
    }
    header::text(&mut out, "Subject", &mail.subject);
    header::date(&mut out, at);
    out.extend_from_slice(b"Message-ID: ");
    out.extend_from_slice(mail.message_id().as_bytes());
    out.extend_from_slice(b"\r\n");
    for (name, value) in &mail.headers {
        header::custom(&mut out, name, value)?;
    }
    out.extend_from_slice(b"MIME-Version: 1.0\r\n");
    Parts::of(mail).message(&mut out);
    if !out.ends_with(b"\r\n") {
        out.extend_from_slice(b"\r\n");
    }
    for signer in signers {
        let signature = signer.signature(&out, at)?;
        out.splice(0..0, signature.into_bytes());
    }
    Ok(Built { bytes: out, utf8 })
}

/// The parts of a message. Their nesting is the one that readers of every kind show right:
/// `mixed(alternative(text, related(html, what it shows)), files)`, without the levels that hold one part only.
struct Parts<'a> {
    text: Cow<'a, str>,
    html: Option<&'a str>,
    shown: Vec<&'a Attachment>,
    files: Vec<&'a Attachment>,
    /// Made of the id, not of chance: the same message is the same bytes when it is sent again.
    boundary: String,
}

impl<'a> Parts<'a> {
    fn of(mail: &'a Email) -> Self {
        let html = mail.html.as_deref().filter(|html| !html.is_empty());
        let text = match html {
            Some(html) if mail.text.trim().is_empty() => plain::text_of(html).into(),
            _ => mail.text.as_str().into(),
        };
        let (shown, files) = mail
            .attachments
            .iter()
            .partition(|file| html.is_some() && file.content_id.is_some());
        Self {
            text,
            html,
            shown,
            files,
            boundary: mail.id.uuid().simple().to_string(),
        }
    }

    fn message(&self, out: &mut Vec<u8>) {
        if self.files.is_empty() {
            return self.words(out);
        }
        let mixed = self.open(out, "mixed", 'm');
        next(out, &mixed);
        self.words(out);
        for file in &self.files {
            next(out, &mixed);
            attachment(out, file, "attachment");
        }
        last(out, &mixed);
    }

    fn words(&self, out: &mut Vec<u8>) {
        let Some(html) = self.html else {
            return text(out, "text/plain", &self.text, !self.files.is_empty());
        };
        let alternative = self.open(out, "alternative", 'a');
        next(out, &alternative);
        text(out, "text/plain", &self.text, true);
        next(out, &alternative);
        if self.shown.is_empty() {
            text(out, "text/html", html, true);
        } else {
            let related = self.open(out, "related", 'r');
            next(out, &related);
            text(out, "text/html", html, true);
            for file in &self.shown {
                next(out, &related);
                attachment(out, file, "inline");
            }
            last(out, &related);
        }
        last(out, &alternative);
    }

    /// Begins a multipart entity. `=_` occurs in no encoded body, and bodies with it are encoded (RFC 2045, 6.7).
    fn open(&self, out: &mut Vec<u8>, kind: &str, letter: char) -> String {
        let boundary = format!("=_{letter}{}", self.boundary);
        let head = format!("Content-Type: multipart/{kind};\r\n boundary=\"{boundary}\"\r\n");
        out.extend_from_slice(head.as_bytes());
        boundary
    }
}

fn next(out: &mut Vec<u8>, boundary: &str) {
    out.extend_from_slice(b"\r\n--");
    out.extend_from_slice(boundary.as_bytes());
    out.extend_from_slice(b"\r\n");
}

fn last(out: &mut Vec<u8>, boundary: &str) {
    out.extend_from_slice(b"\r\n--");
    out.extend_from_slice(boundary.as_bytes());
    out.extend_from_slice(b"--\r\n");
}

fn text(out: &mut Vec<u8>, kind: &str, text: &str, within: bool) {
    let coding = Coding::of(text, within);
    for piece in [
        "Content-Type: ",
        kind,
        "; charset=utf-8\r\nContent-Transfer-Encoding: ",
        coding.as_str(),
        "\r\n\r\n",
    ] {
        out.extend_from_slice(piece.as_bytes());
    }
    body::text(out, text, coding);
}

fn attachment(out: &mut Vec<u8>, file: &Attachment, disposition: &str) {
    // Messages and multiparts must not be in Base64 (RFC 2046, 5.1 and 5.2.1); as mere bytes they may.
    let kind = file.content_type.to_ascii_lowercase();
    let kind = if kind.starts_with("message/") || kind.starts_with("multipart/") {
        "application/octet-stream"
    } else {
        file.content_type.as_str()
    };
    let mut field = Field::new(out, "Content-Type");
    field.word(kind.as_bytes());
    field.end();
    let mut field = Field::new(out, "Content-Disposition");
    field.word(disposition.as_bytes());
    header::parameter(&mut field, "filename", &file.file_name);
    field.end();
    if let Some(id) = &file.content_id {
        let mut field = Field::new(out, "Content-ID");
        field.word(format!("<{id}>").as_bytes());
        field.end();
    }
    out.extend_from_slice(b"Content-Transfer-Encoding: base64\r\n\r\n");
    body::base64(out, &file.content);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crm_core::Uuid;
    use crm_core::customer::EmailAddress;
    use crm_core::message::Mailbox;

    fn bytes(mail: &Email, at: Timestamp) -> Result<Vec<u8>> {
        Ok(build(mail, at, &[])?.bytes)
    }

    fn mail(text: &str) -> Email {
        let to = |a: &str, n: &str| Mailbox::new(EmailAddress::parse(a).unwrap(), n).unwrap();
        Email::new(
            Uuid::nil().into(),
            to("shop@example.com", "Käse & Söhne"),
            to("ana@example.org", "Ana"),
            "Grüße",
            text,
        )
    }

    fn at() -> Timestamp {
        "2026-03-01T09:00:00Z".parse().unwrap()
    }

    #[test]
    fn only_crlf_short_lines_and_the_same_bytes_again() {
        for text in [
            "a\nb\rc\r\nd",
            &"long ".repeat(600),
            "ünïcödé \u{1f600}\n.\n..\n",
            "",
        ] {
            let mut mail = mail(text);
            mail.html = Some(format!("<p>{text}</p>"));
            let wire = bytes(&mail, at()).unwrap();
            assert_eq!(wire, bytes(&mail, at()).unwrap());
            assert!(wire.is_ascii());
            for (i, byte) in wire.iter().enumerate() {
                assert!(*byte != b'\n' || wire[i - 1] == b'\r', "bare LF at {i}");
                assert!(*byte != b'\r' || wire[i + 1] == b'\n', "bare CR at {i}");
            }
            assert!(
                wire.split(|b| *b == b'\n').all(|line| line.len() <= 999),
                "a line is too long"
            );
        }
    }

    #[test]
    fn headers_are_ours_and_nobody_elses() {
        let wire = String::from_utf8(bytes(&mail("hi"), at()).unwrap()).unwrap();
        assert!(
            wire.contains("Message-ID: <00000000-0000-0000-0000-000000000000@example.com>\r\n"),
            "{wire}"
        );
        assert!(
            wire.contains("Date: Sun, 01 Mar 2026 09:00:00 +0000\r\n"),
            "{wire}"
        );
        assert!(wire.contains("Subject: =?utf-8?b?"), "{wire}");
        let mut forged = mail("hi");
        forged
            .headers
            .insert("X-A".into(), "b\r\nBcc: x@example.com".into());
        assert_eq!(
            bytes(&forged, at()).unwrap_err().context("field"),
            Some("headers")
        );
        let mut more = mail("hi");
        more.headers
            .insert("List-Unsubscribe".into(), "<https://shop.example/u?t=1>".into());
        let wire = String::from_utf8(bytes(&more, at()).unwrap()).unwrap();
        assert!(
            wire.contains("List-Unsubscribe: <https://shop.example/u?t=1>\r\n"),
            "{wire}"
        );
    }

    #[test]
    fn parts_nest_as_readers_expect() {
        let mut mail = mail("");
        mail.html = Some("<p>Hello <img src=\"cid:logo\"></p>".into());
        let mut logo = Attachment::new("logo.png", "image/png", vec![1, 2, 3]);
        logo.content_id = Some("logo".into());
        let bill = Attachment::new("bill.pdf", "application/pdf", vec![b'x'; 100]);
        let forwarded = Attachment::new("old.eml", "message/rfc822", b"Subject: x\r\n\r\n".to_vec());
        mail.attachments = vec![logo, bill, forwarded];
        let wire = String::from_utf8(bytes(&mail, at()).unwrap()).unwrap();
        let kinds: Vec<&str> = wire
            .lines()
            .filter_map(|line| line.strip_prefix("Content-Type: "))
            .map(|kind| kind.trim_end_matches(';'))
            .collect();
        assert_eq!(
            kinds,
            [
                "multipart/mixed",
                "multipart/alternative",
                "text/plain; charset=utf-8",
                "multipart/related",
                "text/html; charset=utf-8",
                "image/png",
                "application/pdf",
                "application/octet-stream",
            ]
        );
        assert!(
            wire.contains("Content-ID: <logo>\r\n") && wire.contains("AQID\r\n"),
            "{wire}"
        );
        assert!(
            wire.contains("7bit\r\n\r\nHello\n") || wire.contains("7bit\r\n\r\nHello\r\n"),
            "the text was made: {wire}"
        );
        // A body that would close the parts by itself is encoded.
        let id = mail.id.uuid().simple();
        mail.text = format!("--=_a{id}--\r\n");
        let wire = String::from_utf8(bytes(&mail, at()).unwrap()).unwrap();
        assert_eq!(wire.matches(&format!("--=_a{id}--\r\n")).count(), 1, "{wire}");
    }

    proptest::proptest! {
        /// Whatever is put into names, subject, values and text: refused, or the same header lines as ever.
        #[test]
        fn nothing_forges_a_header(
            name in "\\PC{0,40}|[a-z\r\n:\0]{0,12}",
            subject in "\\PC{0,300}|[a-z\r\n: ]{0,40}",
            value in "\\PC{0,120}|[a-z\r\n: ]{0,20}",
            text in "(?s).{0,400}",
        ) {
            let mut mail = mail(&text);
            mail.to.name = name;
            mail.subject = subject;
            mail.headers.insert("X-Note".into(), value);
            if let Ok(wire) = bytes(&mail, at()) {
                let wire = String::from_utf8(wire).unwrap();
                let (head, _) = wire.split_once("\r\n\r\n").unwrap();
                let mut names: Vec<&str> =
                    head.split("\r\n").filter(|l| !l.starts_with([' ', '\t'])).filter_map(|l| l.split(':').next()).collect();
                names.sort_unstable();
                let usual = ["Content-Transfer-Encoding", "Content-Type", "Date", "From", "MIME-Version", "Message-ID",
                    "Subject", "To", "X-Note"];
                proptest::prop_assert_eq!(names, usual.to_vec());
                for line in wire.split("\r\n") {
                    proptest::prop_assert!(line.len() <= 998 && !line.contains(['\r', '\n']));
                }
            }
        }
    }
}
