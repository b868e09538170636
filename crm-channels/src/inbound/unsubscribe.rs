use crm_core::consent::{ConsentAction, Evidence, Purpose, PurposeClass, SuppressionScope};
use crm_core::customer::{Address, CustomerId, EmailAddress};
use crm_core::message::{Email, MessageId};
use crm_core::{Actor, Context, Error, Result, TenantId, Timestamp};
use url::Url;

use super::key::{LinkKey, LinkSubject, Use};
use super::permission::{Who, Word};
use crate::Outreach;

/// The header that makes the link work with one click (RFC 8058, 3.1).
const POST: &str = "List-Unsubscribe-Post";
const ONE_CLICK: &str = "List-Unsubscribe=One-Click";

/// Makes the links by which people unsubscribe, and the two headers of RFC 2369 and RFC 8058. A link says whom and what
/// for in a signed token: no table of tokens is kept, it works for as long as the key does, also after an erasure, and
/// nobody can make one for somebody else.
///
/// ```
/// use crm_channels::inbound::{LinkKey, LinkSubject, Unsubscribe};
/// use crm_core::consent::AddressKey;
/// use crm_core::customer::{Address, EmailAddress};
/// use crm_core::message::{Email, Mailbox};
/// use crm_core::{Secret, TenantId, Uuid};
///
/// let key = LinkKey::new(&Secret::new("32 random bytes kept in a vault")).unwrap();
/// let unsubscribe = Unsubscribe::new(key, "https://mail.example.com/".parse().unwrap()).unwrap();
///
/// let mailbox = |a: &str| Mailbox::new(EmailAddress::parse(a).unwrap(), "").unwrap();
/// let mut mail = Email::new(Uuid::from_u128(7).into(), mailbox("news@example.com"), mailbox("ana@example.org"), "News", "...");
/// let addresses = AddressKey::new(&Secret::new("another secret of many bytes")).unwrap();
/// let ana = Address::Email(mail.to.address.clone());
/// let subject = LinkSubject::new(&TenantId::new("shop").unwrap(), &addresses, &ana, Uuid::nil().into(), mail.id, "news");
/// unsubscribe.add_to(&mut mail, &subject).unwrap();
/// assert!(mail.headers["List-Unsubscribe"].starts_with("<https://mail.example.com/u/"));
/// assert_eq!(mail.headers["List-Unsubscribe-Post"], "List-Unsubscribe=One-Click");
/// ```
#[derive(Debug, Clone)]
pub struct Unsubscribe {
    key: LinkKey,
    base: Url,
    mailto: Option<EmailAddress>,
}

impl Unsubscribe {
    /// Links below `base`, where the router of this crate (or the host's own) answers.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Config`] when it is no plain https URL: RFC 8058 asks for one.
    pub fn new(key: LinkKey, mut base: Url) -> Result<Self> {
        let plain = base.query().is_none() && base.fragment().is_none() && base.username().is_empty();
        if base.scheme() != "https" || base.host_str().is_none() || !plain {
            return Err(Error::config(
                "links to unsubscribe begin with an https URL without query (RFC 8058, 3.1)",
            )
            .with("setting", "public_base"));
        }
        if !base.path().ends_with('/') {
            let path = format!("{}/", base.path());
            base.set_path(&path);
        }
        Ok(Self {
            key,
            base,
            mailto: None,
        })
    }

    /// Also offers an address for programs that rather write a mail; the token is its subject. Its mail must come to
    /// [`super::Inbound::mail`].
    #[must_use]
    pub fn mailto(mut self, address: EmailAddress) -> Self {
        self.mailto = Some(address);
        self
    }

    /// The link that takes one purpose back.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Invalid`] naming the part of the subject that does not fit.
    pub fn link(&self, subject: &LinkSubject) -> Result<Url> {
        self.at("u", &subject.token(&self.key, Use::Unsubscribe)?)
    }

    /// The link to the page where everything can be chosen.
    ///
    /// # Errors
    /// As [`Unsubscribe::link`].
    pub fn preferences(&self, subject: &LinkSubject) -> Result<Url> {
        let subject = LinkSubject {
            purpose: String::new(),
            ..subject.clone()
        };
        self.at("preferences", &subject.token(&self.key, Use::Preferences)?)
    }

    fn at(&self, folder: &str, token: &str) -> Result<Url> {
        self.base
            .join(&format!("{folder}/{token}"))
            .map_err(|e| Error::unexpected("a link cannot be made").source(e))
    }

    /// Puts both headers into a mail.
    ///
    /// # Errors
    /// As [`Unsubscribe::link`].
    pub fn add_to(&self, email: &mut Email, subject: &LinkSubject) -> Result<()> {
        let token = subject.token(&self.key, Use::Unsubscribe)?;
        let mut value = format!("<{}>", self.at("u", &token)?);
        if let Some(address) = &self.mailto {
            value.push_str(&format!(", <mailto:{}?subject={token}>", address.as_str()));
        }
        email.headers.insert("List-Unsubscribe".to_owned(), value);
        email.headers.insert(POST.to_owned(), ONE_CLICK.to_owned());
        Ok(())
    }

    /// Whom a link stands for.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Unauthenticated`] when we did not make it.
    pub fn read(&self, token: &str) -> Result<LinkSubject> {
        LinkSubject::of_token(token, &self.key, Use::Unsubscribe)
    }

    /// Whom a link to the preference page stands for.
    ///
    /// # Errors
    /// As [`Unsubscribe::read`].
    pub fn read_preferences(&self, token: &str) -> Result<LinkSubject> {
        LinkSubject::of_token(token, &self.key, Use::Preferences)
    }

    /// The first of these links that is one of ours: of a complaint's original, or the subject of a mail to us.
    pub(super) fn find(&self, links: &[String]) -> Option<LinkSubject> {
        links
            .iter()
            .flat_map(|link| link.split([',', '<', '>', '/', '=', ' ']))
            .filter(|token| token.len() > 100)
            .find_map(|token| self.read(token).ok())
    }
}

impl Outreach {
    /// Dresses a mail for its way: where bounces go ([`super::ReturnPath`]), and for marketing the headers to unsubscribe
    /// by, as far as this consumer was given them.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Config`] without an address key.
    pub fn stamp(
        &self,
        ctx: &Context,
        email: &mut Email,
        customer: CustomerId,
        purpose: &Purpose,
    ) -> Result<()> {
        if let Some(path) = &self.inbound.return_path {
            email.bounces_to = Some(path.address(ctx.tenant(), email.id)?);
        }
        if purpose.class == PurposeClass::Marketing
            && let Some(unsubscribe) = &self.inbound.unsubscribe
        {
            let subject = self.link_subject(ctx.tenant(), email, customer, &purpose.name)?;
            unsubscribe.add_to(email, &subject)?;
        }
        Ok(())
    }

    /// Whom the links in a mail stand for.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Config`] without an address key.
    pub fn link_subject(
        &self,
        tenant: &TenantId,
        email: &Email,
        customer: CustomerId,
        purpose: &str,
    ) -> Result<LinkSubject> {
        let address = Address::Email(email.to.address.clone());
        Ok(LinkSubject::new(
            tenant,
            self.key()?,
            &address,
            customer,
            email.id,
            purpose,
        ))
    }

    /// Takes back the purpose that a link stands for: the withdrawal with what proves it, and a suppression, in one unit
    /// of work. In force with the next message. Doing it again changes nothing; after a new consent it counts again.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Unauthenticated`] when the token is not ours; [`crm_core::ErrorKind::Config`] when no
    /// [`Unsubscribe`] was given; those of the store.
    pub async fn unsubscribe(&self, token: &str) -> Result<LinkSubject> {
        let subject = self.unsubscriber()?.read(token)?;
        self.unsubscribe_subject(
            &subject,
            "one-click unsubscribe",
            "List-Unsubscribe=One-Click (RFC 8058)",
        )
        .await?;
        Ok(subject)
    }

    pub(super) fn unsubscriber(&self) -> Result<&Unsubscribe> {
        self.inbound.unsubscribe.as_ref().ok_or_else(|| {
            Error::config(
                "links to unsubscribe need a key and an address; give them with Outreach::with_unsubscribe",
            )
            .with("setting", "unsubscribe")
        })
    }

    pub(super) async fn unsubscribe_subject(
        &self,
        subject: &LinkSubject,
        source: &str,
        notice: &str,
    ) -> Result<bool> {
        let ctx = Context::new(subject.tenant.clone()).actor(Actor::system("unsubscribe"));
        let standing = self.standing(&ctx, &subject.address_key).await?;
        let who = Who {
            customer: subject.customer,
            kind: subject.kind,
            address_key: &subject.address_key,
        };
        let mut writes = Vec::new();
        if !standing.is_withdrawn(&subject.purpose) {
            let evidence = evidence(source, notice, subject.message)?;
            // Later than any consent that this clock does not know of yet.
            let now = standing
                .events
                .iter()
                .map(|event| event.at)
                .fold(self.clock.now(), Timestamp::max);
            writes.push(self.said(
                &ctx,
                who,
                Word {
                    purpose: &subject.purpose,
                    channel: None,
                    action: ConsentAction::Withdrawn,
                    evidence,
                    at: now,
                },
            )?);
        }
        let scope = SuppressionScope::Purpose(subject.purpose.clone());
        let suppression = self.unsubscribed(who, scope, None);
        if !standing
            .suppressions
            .iter()
            .any(|known| known.id == suppression.id)
        {
            writes.push(suppression.write()?);
        }
        if !writes.is_empty() {
            self.store.apply(&ctx, &writes).await?;
        }
        Ok(!writes.is_empty())
    }
}

/// What proves a choice made by a link: where, with which words, and in which message.
pub(super) fn evidence(source: &str, notice: &str, message: MessageId) -> Result<Evidence> {
    Ok(Evidence::new(source, notice)?.detail(serde_json::json!({ "message_id": message.to_string() })))
}
