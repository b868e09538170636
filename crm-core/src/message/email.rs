//! E-mail: one message for one person.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{MessageId, no_control};
use crate::customer::EmailAddress;
use crate::{Error, Result};

/// What all attachments of a message may weigh together, before encoding.
const MAX_ATTACHED: usize = 18 * 1024 * 1024;

/// A mailbox: address and name. `Debug` shows neither.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mailbox {
    /// The address.
    pub address: EmailAddress,
    /// The name shown; empty for none.
    #[serde(default)]
    pub name: String,
}

impl Mailbox {
    /// An address with a name.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] when the name has control characters (they could forge headers).
    pub fn new(address: EmailAddress, name: &str) -> Result<Self> {
        no_control("name", name)?;
        Ok(Self {
            address,
            name: name.trim().to_owned(),
        })
    }
}

impl fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mailbox(..)")
    }
}

/// One e-mail for one recipient. `Debug` shows no content.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Email {
    /// Names the message; the `Message-ID` header is made of it and stays the same when it is sent again.
    pub id: MessageId,
    /// Who it is from.
    pub from: Mailbox,
    /// Who gets it: one person, so that nobody sees others' addresses.
    pub to: Mailbox,
    /// Where answers go, if not to `from`.
    #[serde(default)]
    pub reply_to: Option<Mailbox>,
    /// The subject, one line.
    pub subject: String,
    /// The text part.
    pub text: String,
    /// The HTML part.
    #[serde(default)]
    pub html: Option<String>,
    /// More headers, such as `List-Unsubscribe`.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Files that go with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attachments: Vec<Attachment>,
    /// Where the servers on the way report that it cannot be delivered (the envelope's sender, RFC 5321, 4.4), if not to
    /// `from`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bounces_to: Option<EmailAddress>,
}

/// A file that goes with an e-mail. `Debug` shows its size only.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// The name it is shown under.
    pub file_name: String,
    /// What it is, as `type/subtype` (RFC 2045, 5.1).
    pub content_type: String,
    /// A name by which the HTML part shows it: `<img src="cid:logo">`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_id: Option<String>,
    /// Its bytes; as JSON in Base64.
    #[serde(with = "base64_bytes")]
    pub content: Vec<u8>,
}

impl Attachment {
    /// A file to be saved by the reader.
    pub fn new(file_name: impl Into<String>, content_type: impl Into<String>, content: Vec<u8>) -> Self {
        Self {
            file_name: file_name.into(),
            content_type: content_type.into(),
            content_id: None,
            content,
        }
    }

    fn validate(&self) -> Result<()> {
        let wrong = |message: &'static str| Err(Error::invalid(message).with("field", "attachments"));
        let token = |text: &str| {
            !text.is_empty()
                && text
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b))
        };
        if self.file_name.trim().is_empty() || self.file_name.contains(['/', '\\']) {
            return wrong("an attachment has a file name, without folders");
        }
        no_control("attachments", &self.file_name)?;
        match self.content_type.split_once('/') {
            Some((kind, subtype)) if token(kind) && token(subtype) => {}
            _ => return wrong("an attachment's content type is written type/subtype"),
        }
        match &self.content_id {
            Some(id) if !token(id) => wrong("a content id is made of letters, digits and . _ - +"),
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Attachment({} bytes)", self.content.len())
    }
}

mod base64_bytes {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&STANDARD.encode(bytes))
    }
    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
        STANDARD
            .decode(String::deserialize(d)?)
            .map_err(|_| D::Error::custom("an attachment's content is no Base64"))
    }
}

impl Email {
    /// A plain message.
    pub fn new(id: MessageId, from: Mailbox, to: Mailbox, subject: &str, text: &str) -> Self {
        Self {
            id,
            from,
            to,
            reply_to: None,
            subject: subject.to_owned(),
            text: text.to_owned(),
            html: None,
            headers: BTreeMap::new(),
            attachments: Vec::new(),
            bounces_to: None,
        }
    }

    /// The `Message-ID` header's value: the id at the sender's domain.
    pub fn message_id(&self) -> String {
        format!("<{}@{}>", self.id, self.from.address.domain())
    }

    /// Checks that nothing in it can forge a header: no control character in names, subject, header names and values;
    /// header names of letters, digits and `-`; no header that the message itself sets.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] naming the field.
    pub fn validate(&self) -> Result<()> {
        no_control("subject", &self.subject)?;
        no_control("from", &self.from.name)?;
        no_control("to", &self.to.name)?;
        if let Some(mailbox) = &self.reply_to {
            no_control("reply_to", &mailbox.name)?;
        }
        const OWN: [&str; 15] = [
            "from",
            "to",
            "cc",
            "bcc",
            "subject",
            "date",
            "message-id",
            "reply-to",
            "mime-version",
            "content-type",
            "content-transfer-encoding",
            "content-disposition",
            "return-path",
            "received",
            "dkim-signature",
        ];
        for (name, value) in &self.headers {
            let plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
            if !plain || OWN.contains(&name.to_ascii_lowercase().as_str()) {
                return Err(Error::invalid("not a header that can be added").with("field", "headers"));
            }
            no_control("headers", value)?;
        }
        if self.text.contains('\0') || self.html.as_ref().is_some_and(|html| html.contains('\0')) {
            return Err(Error::invalid("a NUL character cannot be sent").with("field", "text"));
        }
        self.attachments.iter().try_for_each(Attachment::validate)?;
        let attached: usize = self.attachments.iter().map(|a| a.content.len()).sum();
        if attached > MAX_ATTACHED {
            return Err(
                Error::invalid("the attachments are larger than mail servers take")
                    .with("field", "attachments")
                    .with("bytes", attached)
                    .with("most", MAX_ATTACHED),
            );
        }
        Ok(())
    }
}

impl fmt::Debug for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Email({}, ..)", self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Uuid;

    fn mail() -> Email {
        let to = |a: &str| Mailbox::new(EmailAddress::parse(a).unwrap(), "N").unwrap();
        Email::new(
            Uuid::nil().into(),
            to("a@example.com"),
            to("b@example.org"),
            "hi",
            "text",
        )
    }

    #[test]
    fn headers_cannot_be_forged() {
        assert!(mail().validate().is_ok());
        let mut forged = mail();
        forged.subject = "hi\r\nBcc: x@example.com".into();
        assert_eq!(forged.validate().unwrap_err().context("field"), Some("subject"));
        for (name, value) in [
            ("X\r\nBcc", "v"),
            ("X-A", "v\nBcc: x"),
            ("Bcc", "x@example.com"),
            ("", "v"),
        ] {
            let mut forged = mail();
            forged.headers.insert(name.into(), value.into());
            assert!(forged.validate().is_err(), "{name:?}");
        }
        assert!(Mailbox::new(EmailAddress::parse("a@example.com").unwrap(), "x\ny").is_err());
    }

    #[test]
    fn debug_shows_no_content() {
        let text = format!("{:?}", mail());
        assert!(!text.contains("example") && !text.contains("hi"));
    }

    #[test]
    fn attachments_are_data_and_checked() {
        let mut with = mail();
        with.attachments = vec![Attachment::new("bill.pdf", "application/pdf", vec![0, 255, 10])];
        assert!(with.validate().is_ok());
        let json = serde_json::to_string(&with).unwrap();
        assert_eq!(serde_json::from_str::<Email>(&json).unwrap(), with);
        for (name, kind) in [
            ("", "a/b"),
            ("a/b.pdf", "a/b"),
            ("x\r\ny", "a/b"),
            ("x", "pdf"),
            ("x", "a/b\r\nBcc: c"),
        ] {
            let mut wrong = mail();
            wrong.attachments = vec![Attachment::new(name, kind, Vec::new())];
            assert_eq!(
                wrong.validate().unwrap_err().context("field"),
                Some("attachments"),
                "{name:?} {kind:?}"
            );
        }
        with.attachments[0].content = vec![0; MAX_ATTACHED + 1];
        assert!(with.validate().is_err());
    }
}
