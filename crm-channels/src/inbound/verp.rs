use crm_core::customer::EmailAddress;
use crm_core::message::MessageId;
use crm_core::{Error, Result, TenantId, Uuid};

use super::key::LinkKey;

const LABEL: &str = "open-crm return path";
/// Bytes of the MAC in a return path: 80 bits, guessed one by one through a mail server.
const MAC: usize = 10;
/// RFC 4648, 6, in small letters: mail servers change case.
const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// The addresses that bounces come back to, one for every message (variable envelope return path):
/// `bounce+<message id>.<mac>@domain`. A bounce that comes to another address, or with a MAC we did not make, changes
/// nothing: anybody can write a bounce.
///
/// ```
/// use crm_channels::inbound::{LinkKey, ReturnPath};
/// use crm_core::{Secret, TenantId, Uuid};
///
/// let path = ReturnPath::new(LinkKey::new(&Secret::new("32 random bytes in a vault")).unwrap(), "bounces.example.com").unwrap();
/// let (shop, id) = (TenantId::new("shop").unwrap(), Uuid::from_u128(7).into());
/// let address = path.address(&shop, id).unwrap(); // goes into `Email::bounces_to`
/// assert!(address.as_str().starts_with("bounce+00000000000000000000000000000007."));
/// assert_eq!(path.read(&shop, address.as_str()), Some(id));
/// assert_eq!(path.read(&TenantId::new("other").unwrap(), address.as_str()), None);
/// ```
#[derive(Debug, Clone)]
pub struct ReturnPath {
    key: LinkKey,
    local: String,
    domain: String,
}

impl ReturnPath {
    /// Return paths at a domain whose mail comes to us.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Config`] when it is no domain.
    pub fn new(key: LinkKey, domain: &str) -> Result<Self> {
        let address = EmailAddress::parse(&format!("bounce@{domain}")).map_err(|error| {
            Error::config("bounces need a domain whose mail comes to us")
                .with("setting", "bounce_domain")
                .source(error)
        })?;
        Ok(Self {
            key,
            local: "bounce".to_owned(),
            domain: address.domain().to_owned(),
        })
    }

    /// With another word before the `+`, at most 6 letters and digits.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Config`] when it is longer or has other characters: the local part of an address ends at 64.
    pub fn local(mut self, local: &str) -> Result<Self> {
        let plain = local
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if !plain || !(1..=6).contains(&local.len()) {
            return Err(Error::config("the word before the + has 1 to 6 of a-z and 0-9")
                .with("setting", "bounce_local"));
        }
        self.local = local.to_owned();
        Ok(self)
    }

    /// The domain.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    fn mac(&self, tenant: &TenantId, id: MessageId) -> [u8; 32] {
        self.key
            .sign(LABEL, &[tenant.as_str().as_bytes(), id.uuid().as_bytes()])
    }

    /// Where bounces of this message go.
    ///
    /// # Errors
    /// Never in practice: the parts are checked before.
    pub fn address(&self, tenant: &TenantId, id: MessageId) -> Result<EmailAddress> {
        let mac = self.mac(tenant, id);
        let mac = base32(mac.get(..MAC).unwrap_or_default());
        EmailAddress::parse(&format!(
            "{}+{}.{mac}@{}",
            self.local,
            id.uuid().simple(),
            self.domain
        ))
    }

    /// The message whose return path this is: `None` when it is not ours, not of this tenant, or forged.
    pub fn read(&self, tenant: &TenantId, address: &str) -> Option<MessageId> {
        if address.len() > 320 {
            return None;
        }
        let address = address.trim().trim_start_matches('<').trim_end_matches('>');
        let (local, domain) = address.rsplit_once('@')?;
        let (word, rest) = local.split_once('+')?;
        let (id, mac) = rest.split_once('.')?;
        if !domain.eq_ignore_ascii_case(&self.domain)
            || !word.eq_ignore_ascii_case(&self.local)
            || id.len() != 32
        {
            return None;
        }
        let id: MessageId = Uuid::try_parse(id).ok()?.into();
        let mac = unbase32(mac)?;
        self.key
            .verify(LABEL, &[tenant.as_str().as_bytes(), id.uuid().as_bytes()], &mac)
            .then_some(id)
    }
}

fn base32(bytes: &[u8]) -> String {
    let (mut out, mut bits, mut have) = (String::new(), 0_u32, 0_u32);
    for byte in bytes {
        bits = (bits << 8) | u32::from(*byte);
        have += 8;
        while have >= 5 {
            have -= 5;
            let index = usize::try_from((bits >> have) & 31).unwrap_or(0);
            out.push(char::from(BASE32.get(index).copied().unwrap_or(b'a')));
        }
        bits &= (1 << have) - 1;
    }
    out
}

/// Exactly the MAC's length: 80 bits are 16 letters without a rest.
fn unbase32(text: &str) -> Option<Vec<u8>> {
    if text.len() != MAC * 8 / 5 {
        return None;
    }
    let (mut out, mut bits, mut have) = (Vec::with_capacity(MAC), 0_u32, 0_u32);
    for letter in text.bytes() {
        let letter = letter.to_ascii_lowercase();
        let value = BASE32.iter().position(|b| *b == letter)?;
        bits = (bits << 5) | u32::try_from(value).ok()?;
        have += 5;
        if have >= 8 {
            have -= 8;
            out.push(u8::try_from((bits >> have) & 0xff).ok()?);
        }
        bits &= (1 << have) - 1;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crm_core::Secret;

    fn path() -> ReturnPath {
        let key = LinkKey::new(&Secret::new("0123456789abcdef")).unwrap();
        ReturnPath::new(key, "Bounces.Example.com").unwrap()
    }

    #[test]
    fn base32_as_published() {
        // RFC 4648, 10.
        assert_eq!(base32(b"fooba"), "mzxw6ytb");
        assert_eq!(unbase32("mzxw6ytbmzxw6ytb").unwrap(), b"foobafooba");
    }

    #[test]
    fn only_what_we_made_is_read() {
        let (path, shop) = (path(), TenantId::new("shop").unwrap());
        let id: MessageId = Uuid::from_u128(0x0192_aaaa_bbbb_7ccc_8ddd_eeee_ffff_0001).into();
        let address = path.address(&shop, id).unwrap();
        assert!(address.local().len() <= 64, "RFC 5321, 4.5.3.1.1");
        let text = address.as_str();
        assert_eq!(path.read(&shop, text), Some(id));
        assert_eq!(path.read(&shop, &format!("<{}>", text.to_uppercase())), Some(id));
        for at in 0..text.find('@').unwrap() {
            let mut forged: Vec<u8> = text.bytes().collect();
            forged[at] = if forged[at] == b'a' { b'b' } else { b'a' };
            let forged = String::from_utf8(forged).unwrap();
            assert_eq!(path.read(&shop, &forged), None, "{forged}");
        }
        for wrong in [
            "",
            "@",
            "bounce+@bounces.example.com",
            "bounce+.@bounces.example.com",
            "bounce+x.y@bounces.example.com",
            &text.replace("bounces.example.com", "example.com"),
            &text.replace('.', ""),
            &format!("{text}{text}"),
        ] {
            assert_eq!(path.read(&shop, wrong), None, "{wrong}");
        }
        assert!(
            ReturnPath::new(
                LinkKey::new(&Secret::new("0123456789abcdef")).unwrap(),
                "no domain"
            )
            .is_err()
        );
        assert!(path.local("much-too-long").is_err());
    }
}
