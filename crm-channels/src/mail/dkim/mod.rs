//! Signatures by which a receiver knows that a mail comes from us and is whole (DKIM, RFC 6376; Ed25519, RFC 8463).
//!
//! ```
//! use crm_channels::mail::{DkimConfig, DkimSigner};
//! use crm_core::Secret;
//!
//! # let pem = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n-----END PRIVATE KEY-----\n";
//! // Made by `openssl genpkey -algorithm ed25519`, or `-algorithm rsa -pkeyopt rsa_keygen_bits:2048`.
//! let signer = DkimSigner::new(&DkimConfig::new("shop.example", "2026", Secret::new(pem))).unwrap();
//! // To be published as TXT record before the first mail goes out.
//! assert_eq!(signer.record_name(), "2026._domainkey.shop.example");
//! assert!(signer.record().starts_with("v=DKIM1; k=ed25519; p="));
//! ```

mod canonical;

use std::fmt;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crm_core::{Error, ErrorKind, Result, Secret, Timestamp};
use ring::digest::{SHA256, digest};
use ring::rand::SystemRandom;
use ring::rsa;
use ring::signature::{Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use serde::Deserialize;

use crate::settings::wrong;
use canonical::{divided, fields, relaxed_body, to_sign};

/// What is signed, where the message has it. `From` is signed twice over, so that nobody adds another one.
const SIGNED: [&str; 16] = [
    "from",
    "reply-to",
    "to",
    "subject",
    "date",
    "message-id",
    "mime-version",
    "content-type",
    "content-transfer-encoding",
    "list-unsubscribe",
    "list-unsubscribe-post",
    "list-id",
    "sender",
    "in-reply-to",
    "references",
    "feedback-id",
];

/// A key to sign with, and where its public half is published. Unknown settings are refused.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DkimConfig {
    /// Who signs: the domain of the senders' addresses, or one above it (else the signature counts for nothing in DMARC).
    pub domain: String,
    /// Which of the domain's keys it is.
    pub selector: String,
    /// The private key in PEM: RSA of at least 2048 bits (PKCS#8 or PKCS#1) or Ed25519 (PKCS#8).
    #[serde(default)]
    pub key: Option<Secret>,
    /// A file with the private key, instead of `key`.
    #[serde(default)]
    pub key_file: Option<PathBuf>,
}

impl DkimConfig {
    /// A key given as PEM.
    pub fn new(domain: impl Into<String>, selector: impl Into<String>, key: Secret) -> Self {
        Self {
            domain: domain.into(),
            selector: selector.into(),
            key: Some(key),
            key_file: None,
        }
    }

    /// A key in a file.
    pub fn from_file(
        domain: impl Into<String>,
        selector: impl Into<String>,
        file: impl Into<PathBuf>,
    ) -> Self {
        Self {
            domain: domain.into(),
            selector: selector.into(),
            key: None,
            key_file: Some(file.into()),
        }
    }

    /// Checks every setting but the key itself, which [`DkimSigner::new`] reads.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] naming the setting.
    pub fn validate(&self) -> Result<()> {
        let name = |text: &str| {
            (1..=253).contains(&text.len())
                && text.split('.').all(|label| {
                    (1..=63).contains(&label.len())
                        && label
                            .bytes()
                            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
                })
        };
        if !name(&self.domain) || !self.domain.contains('.') {
            return Err(wrong(
                "dkim.domain",
                "not a domain to sign for, such as shop.example",
            ));
        }
        if !name(&self.selector) {
            return Err(wrong(
                "dkim.selector",
                "a selector is made of letters, digits, - and dots",
            ));
        }
        if self.key.is_some() == self.key_file.is_some() {
            return Err(wrong(
                "dkim.key",
                "a DKIM key is given as key or as key_file, one of them",
            ));
        }
        Ok(())
    }
}

enum Key {
    Rsa(Box<rsa::KeyPair>),
    Ed25519(Ed25519KeyPair),
}

/// Signs mails with one key. Does not show the key.
pub struct DkimSigner {
    domain: String,
    selector: String,
    key: Key,
}

impl fmt::Debug for DkimSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DkimSigner")
            .field("domain", &self.domain)
            .field("selector", &self.selector)
            .finish_non_exhaustive()
    }
}

impl DkimSigner {
    /// Reads the key.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] naming the setting, and what is wrong with the key.
    pub fn new(config: &DkimConfig) -> Result<Self> {
        config.validate()?;
        let pem = match (&config.key, &config.key_file) {
            (Some(key), _) => key.clone(),
            (None, file) => {
                let file = file.clone().unwrap_or_default();
                Secret::new(std::fs::read_to_string(&file).map_err(|e| {
                    wrong("dkim.key_file", "the file of the DKIM key cannot be read")
                        .with("path", file.display())
                        .source(e)
                })?)
            }
        };
        let unfit = |e: ring::error::KeyRejected| {
            wrong(
                "dkim.key",
                "the DKIM key is refused; it takes RSA of 2048 to 8192 bits or Ed25519",
            )
            .with("cause", e)
        };
        let der = PrivateKeyDer::from_pem_slice(pem.expose().as_bytes()).map_err(|_| {
            wrong(
                "dkim.key",
                "the DKIM key is no private key in PEM (BEGIN PRIVATE KEY, unencrypted)",
            )
        })?;
        let key = match &der {
            PrivateKeyDer::Pkcs1(der) => Key::Rsa(Box::new(
                rsa::KeyPair::from_der(der.secret_pkcs1_der()).map_err(unfit)?,
            )),
            // Keys of OpenSSL hold no public half, which is worked out from the private one.
            PrivateKeyDer::Pkcs8(der) => {
                let der = der.secret_pkcs8_der();
                match Ed25519KeyPair::from_pkcs8_maybe_unchecked(der) {
                    Ok(key) => Key::Ed25519(key),
                    Err(_) => Key::Rsa(Box::new(rsa::KeyPair::from_pkcs8(der).map_err(unfit)?)),
                }
            }
            _ => return Err(wrong("dkim.key", "a DKIM key is RSA or Ed25519")),
        };
        Ok(Self {
            domain: config.domain.to_ascii_lowercase(),
            selector: config.selector.clone(),
            key,
        })
    }

    /// The domain it signs for.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Where the public key is published.
    pub fn record_name(&self) -> String {
        format!("{}._domainkey.{}", self.selector, self.domain)
    }

    /// What is published there, as one TXT record (RFC 6376, 3.6.1). Name servers want it in pieces of 255 characters.
    pub fn record(&self) -> String {
        match &self.key {
            Key::Rsa(key) => format!(
                "v=DKIM1; k=rsa; p={}",
                STANDARD.encode(public_key_info(key.public().as_ref()))
            ),
            Key::Ed25519(key) => format!(
                "v=DKIM1; k=ed25519; p={}",
                STANDARD.encode(key.public_key().as_ref())
            ),
        }
    }

    /// Whether a signature of this domain vouches for a sender at `domain` (DMARC, RFC 7489, 3.1.1, relaxed: the same
    /// domain or one below).
    pub fn vouches_for(&self, domain: &str) -> bool {
        let domain = domain.to_ascii_lowercase();
        domain == self.domain
            || domain
                .strip_suffix(self.domain.as_str())
                .is_some_and(|below| below.ends_with('.'))
    }

    /// The `DKIM-Signature` header of a whole message with CRLF line ends, its own line end included; it goes on top.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when the message has no `From`; [`ErrorKind::Unexpected`] when the key does not sign.
    pub fn signature(&self, message: &[u8], at: Timestamp) -> Result<String> {
        let (head, body) = divided(message);
        let fields = fields(head);
        let mut names = vec!["from"];
        names.extend(
            SIGNED
                .into_iter()
                .filter(|name| fields.iter().any(|field| field.is(name))),
        );
        if names.len() < 2 || !fields.iter().any(|field| field.is("from")) {
            return Err(Error::invalid("a message without From cannot be signed").with("field", "from"));
        }
        let algorithm = match &self.key {
            Key::Rsa(_) => "rsa-sha256",
            Key::Ed25519(_) => "ed25519-sha256",
        };
        let hash = STANDARD.encode(digest(&SHA256, &relaxed_body(body)).as_ref());
        let header = format!(
            "DKIM-Signature: v=1; a={algorithm}; c=relaxed/relaxed;\r\n d={}; s={};\r\n t={}; h={};\r\n bh={hash};\r\n b=",
            self.domain,
            self.selector,
            at.as_micros().div_euclid(1_000_000).max(0),
            folded(&names)
        );
        let signature = STANDARD.encode(self.sign(&to_sign(&fields, &names, &header))?);
        let mut out = header;
        let mut rest = signature.as_str();
        // The first line has ` b=` on it.
        let mut room = 70;
        while let Some((now, later)) = rest.split_at_checked(room.min(rest.len())) {
            out.push_str(now);
            if later.is_empty() {
                break;
            }
            out.push_str("\r\n ");
            (rest, room) = (later, 76);
        }
        out.push_str("\r\n");
        Ok(out)
    }

    fn sign(&self, bytes: &[u8]) -> Result<Vec<u8>> {
        // RFC 8463, 3: Ed25519 signs the hash, not the text.
        match &self.key {
            Key::Ed25519(key) => Ok(key.sign(digest(&SHA256, bytes).as_ref()).as_ref().to_vec()),
            Key::Rsa(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), bytes, &mut signature)
                    .map_err(|_| {
                        Error::new(ErrorKind::Unexpected, "the DKIM key does not sign").operation("mail.sign")
                    })?;
                Ok(signature)
            }
        }
    }
}

/// `SubjectPublicKeyInfo` around an RSA public key: the form that records hold in practice (RFC 6376, erratum 3017).
fn public_key_info(key: &[u8]) -> Vec<u8> {
    fn wrap(tag: u8, content: &[u8]) -> Vec<u8> {
        let mut out = vec![tag];
        match u8::try_from(content.len()) {
            Ok(length @ 0..0x80) => out.push(length),
            _ => {
                let length = content.len().to_be_bytes();
                let length = length
                    .iter()
                    .position(|b| *b != 0)
                    .map_or(&[][..], |at| length.get(at..).unwrap_or_default());
                out.push(0x80 | length.len() as u8);
                out.extend_from_slice(length);
            }
        }
        out.extend_from_slice(content);
        out
    }
    // rsaEncryption (1.2.840.113549.1.1.1), no parameters.
    const ALGORITHM: [u8; 15] = [
        0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00,
    ];
    let mut bits = vec![0];
    bits.extend_from_slice(key);
    let mut info = ALGORITHM.to_vec();
    info.extend(wrap(0x03, &bits));
    wrap(0x30, &info)
}

/// The names with colons, at most 70 characters a line.
fn folded(names: &[&str]) -> String {
    let (mut out, mut column) = (String::new(), 16);
    for (n, name) in names.iter().enumerate() {
        if n > 0 {
            out.push(':');
        }
        if column + name.len() > 70 {
            out.push_str("\r\n  ");
            column = 2;
        }
        out.push_str(name);
        column += name.len() + 1;
    }
    out
}

#[cfg(test)]
mod tests;
