//! An e-mail as the bytes that go on the wire (RFC 5322, MIME): CRLF only, lines of at most 998 octets, headers encoded
//! (RFC 2047), the same bytes for the same message and time.

use std::time::{Duration, UNIX_EPOCH};

use crm_core::message::{Email, Mailbox};
use crm_core::{Error, Result, Timestamp};
use lettre::Address;
use lettre::message::header::{HeaderName, HeaderValue};
use lettre::message::{Mailbox as Named, MultiPart, SinglePart};

/// The address as the SMTP client takes it.
pub(crate) fn address(mailbox: &Mailbox, field: &'static str) -> Result<Address> {
    Address::new(mailbox.address.local(), mailbox.address.domain())
        .map_err(|_| Error::invalid("an address that SMTP cannot carry").with("field", field))
}

fn mailbox(mailbox: &Mailbox, field: &'static str) -> Result<Named> {
    let name = (!mailbox.name.is_empty()).then(|| mailbox.name.clone());
    Ok(Named::new(name, address(mailbox, field)?))
}

/// Every line end becomes CRLF, lone CR and LF too. Done here in one pass: the encoder would insert each CR on its own,
/// which takes minutes for a long text.
fn lines(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 32);
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\r' => {
                rest.next_if_eq(&'\n');
                out.push_str("\r\n");
            }
            '\n' => out.push_str("\r\n"),
            c => out.push(c),
        }
    }
    out
}

/// The whole message, headers and body. `at` becomes its `Date`.
///
/// # Errors
/// What [`Email::validate`] says; [`crm_core::ErrorKind::Invalid`] naming the field that cannot be encoded.
pub(crate) fn bytes(mail: &Email, at: Timestamp) -> Result<Vec<u8>> {
    mail.validate()?;
    let since = Duration::from_micros(u64::try_from(at.as_micros()).unwrap_or(0));
    let mut builder = lettre::Message::builder()
        .from(mailbox(&mail.from, "from")?)
        .to(mailbox(&mail.to, "to")?)
        .subject(mail.subject.as_str())
        .date(UNIX_EPOCH + since)
        .message_id(Some(mail.message_id()));
    if let Some(reply_to) = &mail.reply_to {
        builder = builder.reply_to(mailbox(reply_to, "reply_to")?);
    }
    for (name, value) in &mail.headers {
        let name = HeaderName::new_from_ascii(name.clone())
            .map_err(|_| Error::invalid("not a header that can be added").with("field", "headers"))?;
        builder = builder.raw_header(HeaderValue::new(name, value.clone()));
    }
    let text = lines(&mail.text);
    let built = match &mail.html {
        None => builder.singlepart(SinglePart::plain(text)),
        // A boundary made of the id, not of chance: the same message is the same bytes when it is sent again.
        Some(html) => builder.multipart(
            MultiPart::alternative()
                .boundary(format!("=_{}", mail.id.uuid().simple()))
                .singlepart(SinglePart::plain(text))
                .singlepart(SinglePart::html(lines(html))),
        ),
    };
    let built = built.map_err(|e| {
        Error::invalid("the message cannot be encoded")
            .with("field", "message")
            .source(e)
    })?;
    Ok(built.formatted())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crm_core::Uuid;
    use crm_core::customer::EmailAddress;

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
