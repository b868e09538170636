use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crm_core::capability::{MailCapability, Mailer};
use crm_core::message::{Email, Mailbox, Permitted, Receipt};
use crm_core::{Context, Error, Result};
use serde_json::{Value, json};

use super::Line;
use super::config::HttpVendorConfig;
use super::fill::Values;

/// What vendors take at most, encoding included; the vendor's own limit is told by its answer.
const MAX_BYTES: u64 = 25 * 1024 * 1024;

/// Sends e-mail as a description says: its parts one by one (`{{subject}}`, `{{text}}`, `{{html}}`, `{{headers}}`,
/// `{{attachments}}` and their like), or the whole message as `{{raw}}` (feature `smtp`).
///
/// What a message has and the description has no place for is refused, never dropped: a vendor that is told no headers
/// would send marketing without the way to unsubscribe. Two things are the vendor's own business: where bounces go, and the
/// text beside an HTML part.
///
/// ```
/// use crm_channels::http::{HttpMailer, HttpVendorConfig};
/// use crm_core::capability::Mailer;
///
/// let config: HttpVendorConfig = serde_json::from_str(r#"{
///     "scheme": "acme",
///     "auth": {"bearer": {"token": "s3cret"}},
///     "mail": {
///         "request": {
///             "url": "https://mail.acme.example/v1/mails",
///             "headers": {"Idempotency-Key": "{{id}}"},
///             "body": {"json": {
///                 "from": "{{from_mailbox}}", "to": ["{{to_mailbox}}"], "subject": "{{subject}}",
///                 "text": "{{text?}}", "html": "{{html?}}", "headers": "{{headers?}}"
///             }}
///         },
///         "answer": {"reference": {"json": "/id"}}
///     }
/// }"#).unwrap();
/// let mailer = HttpMailer::build("acme", config).unwrap(); // connects with the first message
/// assert!(mailer.capability().live);
/// ```
pub struct HttpMailer(pub(super) Line);

impl HttpMailer {
    /// A mailer of this name. Checks the description; connects with the first message.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Config`] naming the setting.
    pub fn build(name: &str, config: HttpVendorConfig) -> Result<Self> {
        let line = Line::new(name, "mail", config)?;
        if line.needs("raw").is_some() && !cfg!(feature = "smtp") {
            return Err(Error::config(
                "a whole message ({{raw}}) is made by the feature smtp; compile it in, or send the parts",
            )
            .with("setting", "mail")
            .with("feature", "smtp"));
        }
        Ok(Self(line))
    }

    fn values(&self, mail: &Email) -> Result<Values> {
        let mut values = self.0.common(&mail.id.to_string());
        values.set("message_id", mail.message_id());
        values.set("subject", mail.subject.as_str());
        for (place, mailbox) in [
            ("from", Some(&mail.from)),
            ("to", Some(&mail.to)),
            ("reply_to", mail.reply_to.as_ref()),
        ] {
            if let Some(mailbox) = mailbox {
                values.set(place, mailbox.address.as_str());
                values.set(format!("{place}_mailbox"), written(mailbox));
                if !mailbox.name.is_empty() {
                    values.set(format!("{place}_name"), mailbox.name.as_str());
                }
            }
        }
        if let Some(address) = &mail.bounces_to {
            values.set("bounces_to", address.as_str());
        }
        if !mail.text.is_empty() {
            values.set("text", mail.text.as_str());
        }
        if let Some(html) = mail.html.as_deref().filter(|html| !html.is_empty()) {
            values.set("html", html);
        }
        if !mail.headers.is_empty() {
            let all = mail.headers.iter();
            let all = all.map(|(name, value)| (name.clone(), Value::from(value.as_str())));
            values.set("headers", Value::Object(all.collect()));
        }
        for (name, value) in &mail.headers {
            values.set(format!("header.{}", name.to_ascii_lowercase()), value.as_str());
        }
        if !mail.attachments.is_empty() {
            let all = mail.attachments.iter().map(|file| {
                let mut one = json!({
                    "file_name": file.file_name,
                    "content_type": file.content_type,
                    "content": STANDARD.encode(&file.content),
                });
                if let (Some(id), Some(one)) = (&file.content_id, one.as_object_mut()) {
                    one.insert("content_id".to_owned(), Value::from(id.as_str()));
                }
                one
            });
            values.set("attachments", Value::Array(all.collect()));
        }
        Ok(values)
    }

    /// Whether the description has a place for all that the message has.
    fn carries(&self, mail: &Email) -> Result<()> {
        let places = self.0.send.places();
        let has = |place: &str| places.iter().any(|(name, _)| name == place);
        if has("raw") {
            return Ok(());
        }
        let html = mail.html.as_deref().is_some_and(|html| !html.is_empty());
        let headers = mail
            .headers
            .keys()
            .all(|name| has("headers") || has(&format!("header.{}", name.to_ascii_lowercase())));
        for (field, carried) in [
            ("html", !html || has("html")),
            (
                "text",
                mail.text.is_empty() || has("text") || (html && has("html")),
            ),
            ("headers", headers),
            (
                "reply_to",
                mail.reply_to.is_none() || has("reply_to") || has("reply_to_mailbox"),
            ),
            ("attachments", mail.attachments.is_empty() || has("attachments")),
        ] {
            if !carried {
                return Err(Error::invalid(
                    "the message has something that the vendor's description has no place for",
                )
                .with("field", field));
            }
        }
        Ok(())
    }
}

/// A mailbox as RFC 5322 writes it, without encoding: JSON and forms carry every letter.
fn written(mailbox: &Mailbox) -> String {
    if mailbox.name.is_empty() {
        return mailbox.address.as_str().to_owned();
    }
    let name = mailbox.name.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{name}\" <{}>", mailbox.address.as_str())
}

#[async_trait]
impl Mailer for HttpMailer {
    fn capability(&self) -> MailCapability {
        MailCapability::new(MAX_BYTES, false, true)
    }

    async fn send(&self, ctx: &Context, mail: &Permitted<Email>) -> Result<Receipt> {
        let sent = async {
            let mail = mail.message();
            ctx.check(&*self.0.clock)?;
            mail.validate()?;
            self.carries(mail)?;
            #[allow(unused_mut)]
            let mut values = self.values(mail)?;
            #[cfg(feature = "smtp")]
            if self.0.needs("raw").is_some() {
                let whole = crate::mail::mime::build(mail, self.0.clock.now(), &[])?;
                values.set("raw", STANDARD.encode(whole.bytes));
            }
            self.0.send(&values).await
        };
        sent.await
            .map_err(|e| e.operation("mail.send").with("provider", &self.0.info.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_inside_their_quotes() {
        let mailbox = |name: &str| Mailbox::new("a@b.example".parse().unwrap(), name).unwrap();
        assert_eq!(written(&mailbox("")), "a@b.example");
        assert_eq!(
            written(&mailbox("Ana \"K\" \\ <x@y.example>, 张")),
            "\"Ana \\\"K\\\" \\\\ <x@y.example>, 张\" <a@b.example>"
        );
    }
}
