use crm_core::consent::{Purpose, PurposeClass};
use crm_core::message::Email;
use crm_core::{Error, Result};

/// What a mail to many must have before the first one goes out: what the large mailbox providers ask of bulk senders
/// (one-click unsubscribe, RFC 8058; a signature aligned with the sender, RFC 7489, 3.1) and what the law asks (a
/// physical address, 15 U.S.C. 7704(a)(5)).
///
/// ```
/// use crm_channels::inbound::BulkReadiness;
/// use crm_core::consent::Purpose;
/// use crm_core::customer::EmailAddress;
/// use crm_core::message::{Email, Mailbox};
/// use crm_core::Uuid;
///
/// let ready = BulkReadiness::new("example.com", "Shop Ltd, 1 Main Street, Springfield").unwrap();
/// let mailbox = |a: &str| Mailbox::new(EmailAddress::parse(a).unwrap(), "").unwrap();
/// let mut mail = Email::new(Uuid::nil().into(), mailbox("news@mail.example.com"), mailbox("ana@example.org"), "News",
///     "Hello!\n\nShop Ltd\n1 Main Street\nSpringfield");
/// let news = Purpose::marketing("news").unwrap();
/// assert_eq!(ready.check(&mail, &news).unwrap_err().context("missing"), Some("list-unsubscribe, list-unsubscribe-post"));
/// mail.headers.insert("List-Unsubscribe".into(), "<https://mail.example.com/u/token>".into());
/// mail.headers.insert("List-Unsubscribe-Post".into(), "List-Unsubscribe=One-Click".into());
/// ready.check(&mail, &news).unwrap();
/// ```
#[derive(Debug, Clone)]
pub struct BulkReadiness {
    dkim_domain: String,
    postal_address: String,
}

/// One thing that is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Gap {
    /// No `List-Unsubscribe` with an https link.
    Link,
    /// No `List-Unsubscribe-Post: List-Unsubscribe=One-Click`.
    OneClick,
    /// The physical address is not in the text, or not in the HTML.
    PostalAddress,
    /// The domain that signs is not the sender's.
    Alignment,
}

impl Gap {
    /// Its name in errors.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Link => "list-unsubscribe",
            Self::OneClick => "list-unsubscribe-post",
            Self::PostalAddress => "postal-address",
            Self::Alignment => "dkim-alignment",
        }
    }
}

impl BulkReadiness {
    /// Mail signed by this domain (DKIM's `d=`) for a sender at this address.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Config`] when one of them is empty.
    pub fn new(dkim_domain: &str, postal_address: &str) -> Result<Self> {
        let dkim_domain = dkim_domain.trim().trim_end_matches('.').to_ascii_lowercase();
        let wrong = |setting: &'static str, message: &'static str| {
            Err(Error::config(message).with("setting", setting))
        };
        if !dkim_domain.contains('.') {
            return wrong(
                "dkim_domain",
                "marketing mail is signed; name the domain of the signature",
            );
        }
        let postal_address = letters(postal_address);
        if postal_address.is_empty() {
            return wrong(
                "postal_address",
                "marketing mail names a physical address; give it",
            );
        }
        Ok(Self {
            dkim_domain,
            postal_address,
        })
    }

    /// What is missing from a mail for a purpose; nothing for transactional mail.
    pub fn gaps(&self, email: &Email, purpose: &Purpose) -> Vec<Gap> {
        if purpose.class != PurposeClass::Marketing {
            return Vec::new();
        }
        let header = |name: &str| {
            let found = email.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.trim()).unwrap_or_default()
        };
        let links = header("list-unsubscribe");
        let https = |link: &str| {
            let link = link.trim().strip_prefix('<').and_then(|l| l.strip_suffix('>'));
            link.and_then(|l| url::Url::parse(l).ok())
                .is_some_and(|url| url.scheme() == "https" && url.has_host())
        };
        let one_click = header("list-unsubscribe-post").eq_ignore_ascii_case("List-Unsubscribe=One-Click");
        let in_text = letters(&email.text).contains(&self.postal_address);
        let in_html = email
            .html
            .as_deref()
            .is_none_or(|html| letters(&without_tags(html)).contains(&self.postal_address));
        // An empty text part is made of the HTML.
        let in_text = in_text || (email.text.trim().is_empty() && email.html.is_some());
        [
            (links.split(',').any(https), Gap::Link),
            (one_click, Gap::OneClick),
            (in_text && in_html, Gap::PostalAddress),
            (
                aligned(email.from.address.domain(), &self.dkim_domain),
                Gap::Alignment,
            ),
        ]
        .into_iter()
        .filter_map(|(there, gap)| (!there).then_some(gap))
        .collect()
    }

    /// Refuses a mail that is not ready to go to many.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Invalid`] naming all that is missing.
    pub fn check(&self, email: &Email, purpose: &Purpose) -> Result<()> {
        let gaps = self.gaps(email, purpose);
        if gaps.is_empty() {
            return Ok(());
        }
        let names: Vec<&str> = gaps.into_iter().map(Gap::as_str).collect();
        Err(Error::invalid(
            "this mail is not ready to go to many: mailbox providers or the law would refuse it; add what is missing",
        )
        .operation("campaign.check")
        .with("purpose", &purpose.name)
        .with("missing", names.join(", ")))
    }
}

/// Relaxed alignment (RFC 7489, 3.1.1) where one of the domains is the other's own or parent.
fn aligned(from: &str, signer: &str) -> bool {
    let below = |child: &str, parent: &str| {
        child
            .strip_suffix(parent)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    below(from, signer) || (signer.contains('.') && from.contains('.') && below(signer, from))
}

/// Letters and digits alone, small: an address is the same however its lines are broken.
fn letters(text: &str) -> String {
    text.chars()
        .filter(|c| c.is_alphanumeric())
        .flat_map(char::to_lowercase)
        .collect()
}

/// What a reader sees of HTML, near enough to find an address in it.
fn without_tags(html: &str) -> String {
    let mut text = String::with_capacity(html.len());
    let mut inside = false;
    for c in html.chars() {
        match c {
            '<' => inside = true,
            '>' if inside => {
                inside = false;
                text.push(' ');
            }
            c if !inside => text.push(c),
            _ => {}
        }
    }
    for (entity, plain) in [("&nbsp;", " "), ("&amp;", "&"), ("&#39;", "'"), ("&quot;", "\"")] {
        text = text.replace(entity, plain);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crm_core::Uuid;
    use crm_core::customer::EmailAddress;
    use crm_core::message::Mailbox;

    fn mail(from: &str) -> Email {
        let mailbox = |a: &str| Mailbox::new(EmailAddress::parse(a).unwrap(), "").unwrap();
        let mut mail = Email::new(
            Uuid::nil().into(),
            mailbox(from),
            mailbox("b@example.org"),
            "s",
            "Shop, 1 Main St.",
        );
        mail.html = Some("<p>Shop,<br>1&nbsp;Main <b>St.</b></p>".to_owned());
        mail.headers.insert(
            "list-unsubscribe".into(),
            "<mailto:a@b.c>, <https://example.com/u/x>".into(),
        );
        mail.headers.insert(
            "List-Unsubscribe-Post".into(),
            "List-Unsubscribe=One-Click".into(),
        );
        mail
    }

    #[test]
    fn every_gap_is_found_alone() {
        let ready = BulkReadiness::new("Example.com.", "Shop\n1 Main St").unwrap();
        let news = Purpose::marketing("news").unwrap();
        let gaps = |mail: &Email| ready.gaps(mail, &news);
        assert_eq!(gaps(&mail("a@example.com")), []);
        assert_eq!(gaps(&mail("a@news.example.com")), []);
        for other in ["a@example.org", "a@badexample.com", "a@com.example"] {
            assert_eq!(gaps(&mail(other)), [Gap::Alignment], "{other}");
        }
        for links in [
            "",
            "<http://example.com/u/x>",
            "https://example.com/u",
            "<mailto:a@b.c>",
            "<https://>",
        ] {
            let mut wrong = mail("a@example.com");
            wrong.headers.insert("list-unsubscribe".into(), links.into());
            assert_eq!(gaps(&wrong), [Gap::Link], "{links}");
        }
        let mut wrong = mail("a@example.com");
        wrong.headers.remove("List-Unsubscribe-Post");
        assert_eq!(gaps(&wrong), [Gap::OneClick]);
        for (text, html) in [("no address", "<p>Shop 1 Main St"), ("Shop 1 Main St", "<p>none")] {
            let mut wrong = mail("a@example.com");
            (wrong.text, wrong.html) = (text.into(), Some(html.into()));
            assert_eq!(gaps(&wrong), [Gap::PostalAddress], "{text}");
        }
        let bare = Email {
            headers: Default::default(),
            text: String::new(),
            html: None,
            ..mail("a@example.org")
        };
        assert_eq!(gaps(&bare).len(), 4);
        assert_eq!(ready.gaps(&bare, &Purpose::transactional("receipt").unwrap()), []);
        assert!(BulkReadiness::new("", "x").is_err() && BulkReadiness::new("a.b", " ").is_err());
    }
}
