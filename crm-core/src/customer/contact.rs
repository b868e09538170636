use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, Id, Result, Timestamp};

/// The id of a contact point.
pub type ContactPointId = Id<ContactPoint>;

/// An e-mail address in canonical form. `Debug` shows no letter of it.
///
/// Canonical: blanks around it removed, Unicode in NFC, domain in lower case and A-labels (IDNA), local part in lower
/// case. RFC 5321 would let a server tell `Ana@` from `ana@`; none in use does, and treating them as two people is the
/// worse mistake.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EmailAddress(String);

impl EmailAddress {
    /// Checks the syntax (RFC 5321 and 5322, without comments, quoted local parts and address literals) and makes the
    /// canonical form.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] on `field=email`; the address itself is not in the error.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |message: &'static str| Err(Error::invalid(message).with("field", "email"));
        let text = text.trim();
        let text = text.strip_prefix("mailto:").unwrap_or(text);
        let Some((local, domain)) = text.rsplit_once('@') else {
            return wrong("not an e-mail address: there is no @");
        };
        if local.is_empty() || domain.is_empty() {
            return wrong("not an e-mail address: nothing before or after the @");
        }
        if text
            .chars()
            .any(|c| c.is_control() || c.is_whitespace() || matches!(c, '"' | '<' | '>' | ',' | ';'))
        {
            return wrong(
                "not an e-mail address: it has blanks, quotes, brackets or control characters in it",
            );
        }
        let domain = match url::Host::parse(domain.trim_end_matches('.')) {
            Ok(url::Host::Domain(domain)) => domain,
            _ => return wrong("not an e-mail address: what follows the @ is not a domain"),
        };
        let canonical = format!("{}@{domain}", local.to_lowercase());
        let options = email_address::Options::default()
            .with_required_tld()
            .without_domain_literal();
        match email_address::EmailAddress::parse_with_options(&canonical, options) {
            Ok(_) => Ok(Self(canonical)),
            Err(_) => wrong("not an e-mail address of the form name@domain.tld"),
        }
    }

    /// The canonical address.
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// What stands before the @.
    pub fn local(&self) -> &str {
        self.0.rsplit_once('@').map_or("", |(local, _)| local)
    }
    /// What follows the @.
    pub fn domain(&self) -> &str {
        self.0.rsplit_once('@').map_or("", |(_, domain)| domain)
    }
}

impl fmt::Debug for EmailAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EmailAddress(..)")
    }
}
impl FromStr for EmailAddress {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}
impl TryFrom<String> for EmailAddress {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        Self::parse(&text)
    }
}
impl From<EmailAddress> for String {
    fn from(address: EmailAddress) -> Self {
        address.0
    }
}

/// A phone number in E.164: `+` and up to 15 digits. `Debug` shows no digit of it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PhoneNumber(String);

impl PhoneNumber {
    /// Reads a number as people write it. Without a country code, `region` (ISO 3166-1 alpha-2) says where it is dialled.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] on `field=phone` when it is no number of its region's plan, or has no country code
    /// and no region is given. The number itself is not in the error.
    pub fn parse(text: &str, region: Option<&str>) -> Result<Self> {
        let wrong = |message: &'static str| Error::invalid(message).with("field", "phone");
        let text = text.trim();
        let text = text.strip_prefix("tel:").unwrap_or(text);
        let digits = text.chars().filter(char::is_ascii_digit).count();
        let foreign =
            |c: char| !c.is_ascii_digit() && !" \u{a0}+-()./\u{2010}\u{2011}\u{2012}\u{2013}".contains(c);
        if digits < 4 || text.chars().any(foreign) {
            return Err(wrong(
                "not a phone number: digits, blanks and + - ( ) . / are understood, extensions are not",
            ));
        }
        let region = match region {
            None => None,
            Some(code) => Some(
                code.to_ascii_uppercase()
                    .parse::<phonenumber::country::Id>()
                    .map_err(|_| wrong("the region is not an ISO 3166-1 alpha-2 code"))?,
            ),
        };
        if region.is_none() && !text.starts_with('+') {
            return Err(wrong("a number without a country code needs a region"));
        }
        let number = phonenumber::parse(region, text).map_err(|_| wrong("not a phone number"))?;
        if !phonenumber::is_valid(&number) {
            return Err(wrong("no number of its country's plan"));
        }
        Ok(Self(number.format().mode(phonenumber::Mode::E164).to_string()))
    }

    /// The number in E.164.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The country it belongs to (ISO 3166-1 alpha-2), where its plan says so: `+1` alone is more than twenty countries,
    /// told apart by the digits after it. Not where its owner is.
    pub fn country(&self) -> Option<String> {
        let number = phonenumber::parse(None, &self.0).ok()?;
        number.country().id().map(|id| id.as_ref().to_owned())
    }
}

impl fmt::Debug for PhoneNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PhoneNumber(..)")
    }
}
impl FromStr for PhoneNumber {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text, None)
    }
}
impl TryFrom<String> for PhoneNumber {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        Self::parse(&text, None)
    }
}
impl From<PhoneNumber> for String {
    fn from(number: PhoneNumber) -> Self {
        number.0
    }
}

/// The kind of a contact point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContactKind {
    /// An e-mail address.
    Email,
    /// A phone number.
    Phone,
}

impl ContactKind {
    /// The kind as it is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Email => "email",
            Self::Phone => "phone",
        }
    }
}

impl FromStr for ContactKind {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "email" => Ok(Self::Email),
            "phone" => Ok(Self::Phone),
            _ => Err(Error::invalid("a contact point is an email or a phone").with("field", "kind")),
        }
    }
}

/// What is known about whether a contact point works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum ContactState {
    /// Nothing yet.
    #[default]
    Unverified,
    /// The person proved that it is theirs.
    Verified,
    /// It is known not to work.
    Invalid,
}

impl ContactState {
    /// The state as it is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unverified => "unverified",
            Self::Verified => "verified",
            Self::Invalid => "invalid",
        }
    }
}

impl FromStr for ContactState {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "unverified" => Ok(Self::Unverified),
            "verified" => Ok(Self::Verified),
            "invalid" => Ok(Self::Invalid),
            _ => Err(
                Error::invalid("a contact point is unverified, verified or invalid").with("field", "state"),
            ),
        }
    }
}

/// How deliveries to a contact point went, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Deliverability {
    /// Nothing was sent yet, or nothing came back.
    #[default]
    Unknown,
    /// The last message arrived.
    Delivered,
    /// The last message was refused for the time being (mailbox full, phone off).
    Deferred,
    /// The address does not exist or takes nothing.
    Bounced,
    /// The person called a message spam.
    Complained,
}

impl Deliverability {
    /// As it is stored; unknown is absent.
    pub fn as_str(self) -> Option<&'static str> {
        match self {
            Self::Unknown => None,
            Self::Delivered => Some("delivered"),
            Self::Deferred => Some("deferred"),
            Self::Bounced => Some("bounced"),
            Self::Complained => Some("complained"),
        }
    }
}

impl FromStr for Deliverability {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "delivered" => Ok(Self::Delivered),
            "deferred" => Ok(Self::Deferred),
            "bounced" => Ok(Self::Bounced),
            "complained" => Ok(Self::Complained),
            _ => Err(
                Error::invalid("deliverability is delivered, deferred, bounced or complained")
                    .with("field", "deliverability"),
            ),
        }
    }
}

/// The canonical address of a contact point.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Address {
    /// An e-mail address.
    Email(EmailAddress),
    /// A phone number.
    Phone(PhoneNumber),
}

/// One e-mail address or phone number of a customer, with its own state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContactPoint {
    /// Its id.
    pub id: ContactPointId,
    /// The address.
    pub address: Address,
    /// The one to use first among its kind.
    pub primary: bool,
    /// Whether it works.
    pub state: ContactState,
    /// What the person calls it: `work`, `home`.
    pub label: Option<String>,
    /// When the person proved that it is theirs.
    pub verified_at: Option<Timestamp>,
    /// How the last deliveries went.
    pub deliverability: Deliverability,
}

impl ContactPoint {
    /// A contact point of which nothing is known but the address.
    pub fn new(id: impl Into<ContactPointId>, address: Address) -> Self {
        Self {
            id: id.into(),
            address,
            primary: false,
            state: ContactState::default(),
            label: None,
            verified_at: None,
            deliverability: Deliverability::default(),
        }
    }

    /// Its kind.
    pub fn kind(&self) -> ContactKind {
        match self.address {
            Address::Email(_) => ContactKind::Email,
            Address::Phone(_) => ContactKind::Phone,
        }
    }

    /// The canonical address as text.
    pub fn value(&self) -> &str {
        match &self.address {
            Address::Email(address) => address.as_str(),
            Address::Phone(number) => number.as_str(),
        }
    }

    /// The e-mail address, if it is one.
    pub fn email(&self) -> Option<&EmailAddress> {
        match &self.address {
            Address::Email(address) => Some(address),
            Address::Phone(_) => None,
        }
    }

    /// The phone number, if it is one.
    pub fn phone(&self) -> Option<&PhoneNumber> {
        match &self.address {
            Address::Phone(number) => Some(number),
            Address::Email(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_mailbox_are_equal() {
        for text in [
            "Ana@EXAMPLE.com",
            "  ana@example.com ",
            "mailto:ana@example.com",
            "ana@example.com.",
        ] {
            assert_eq!(
                EmailAddress::parse(text).unwrap().as_str(),
                "ana@example.com",
                "{text}"
            );
        }
        assert_eq!(
            EmailAddress::parse("j@bücher.example").unwrap().domain(),
            "xn--bcher-kva.example"
        );
    }

    #[test]
    fn what_is_no_address_is_refused_without_showing_it() {
        for text in [
            "",
            "@",
            "a@",
            "@b.com",
            "a b@c.com",
            "a@b@",
            "a@localhost",
            "a@[127.0.0.1]",
            "a\r\nBcc:x@y.com",
            "<a@b.com>",
            "a@b..com",
            ".a@b.com",
            "a@1.2.3.4",
        ] {
            let error = EmailAddress::parse(text).unwrap_err();
            assert_eq!(error.context("field"), Some("email"));
            assert!(text.len() < 4 || !error.to_string().contains(text), "{text}");
        }
    }

    #[test]
    fn numbers_as_people_write_them() {
        for (text, region, e164) in [
            ("0491 570 156", Some("AU"), "+61491570156"),
            ("+61 491 570 156", None, "+61491570156"),
            ("tel:+61-491-570-156", None, "+61491570156"),
            ("(030) 901820", Some("de"), "+4930901820"),
            ("+44 (0)20 7946 0000", None, "+442079460000"),
        ] {
            assert_eq!(PhoneNumber::parse(text, region).unwrap().as_str(), e164, "{text}");
        }
        for (text, region) in [
            ("0491570156", None),
            ("12", Some("AU")),
            ("call me", Some("AU")),
            ("+61 491 570 156 ext 7", None),
            ("+999123456789", None),
            ("0491570156", Some("ZZZ")),
            ("+6149157015☎", None),
        ] {
            assert!(PhoneNumber::parse(text, region).is_err(), "{text}");
        }
    }
}
