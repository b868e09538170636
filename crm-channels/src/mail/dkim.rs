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

use std::fmt;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crm_core::{Error, ErrorKind, Result, Secret, Timestamp};
use memchr::memchr;
use ring::digest::{SHA256, digest};
use ring::rand::SystemRandom;
use ring::rsa;
use ring::signature::{Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use serde::Deserialize;

/// What is signed, where the message has it. `From` is signed twice over, so that nobody adds another one.
const SIGNED: [&str; 12] = [
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

fn wrong(setting: &'static str, message: &'static str) -> Error {
    Error::config(message).with("setting", setting)
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

struct HeaderField<'a> {
    name: &'a [u8],
    value: &'a [u8],
}

impl HeaderField<'_> {
    fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }
}

fn divided(message: &[u8]) -> (&[u8], &[u8]) {
    match memchr::memmem::find(message, b"\r\n\r\n") {
        Some(at) => (
            message.get(..at + 2).unwrap_or_default(),
            message.get(at + 4..).unwrap_or_default(),
        ),
        None => (message, &[]),
    }
}

/// The header fields, folded lines with them.
fn fields(head: &[u8]) -> Vec<HeaderField<'_>> {
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
fn relaxed_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
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
fn to_sign(fields: &[HeaderField<'_>], names: &[&str], header: &str) -> Vec<u8> {
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
fn relaxed_body(body: &[u8]) -> Vec<u8> {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8463, appendix A: the message, and the key as PKCS#8.
    const MESSAGE: &str = "From: Joe SixPack <joe@football.example.com>\r\n\
        To: Suzie Q <suzie@shopping.example.net>\r\n\
        Subject: Is dinner ready?\r\n\
        Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)\r\n\
        Message-ID: <20030712040037.46341.5F8J@football.example.com>\r\n\r\n\
        Hi.\r\n\r\nWe lost the game.  Are you hungry yet?\r\n\r\nJoe.\r\n";
    const ED25519: &str = "-----BEGIN PRIVATE KEY-----\n\
        MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n\
        -----END PRIVATE KEY-----\n";

    fn signer() -> DkimSigner {
        DkimSigner::new(&DkimConfig::new(
            "football.example.com",
            "brisbane",
            Secret::new(ED25519),
        ))
        .unwrap()
    }

    #[test]
    fn the_example_of_rfc_8463() {
        assert_eq!(
            signer().record(),
            "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
        );
        let (head, body) = divided(MESSAGE.as_bytes());
        let hash = STANDARD.encode(digest(&SHA256, &relaxed_body(body)).as_ref());
        assert_eq!(hash, "2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=");
        let header = "DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed;\r\n d=football.example.com; \
            i=@football.example.com;\r\n q=dns/txt; s=brisbane; t=1528637909; h=from : to :\r\n subject : date : \
            message-id : from : subject : date;\r\n bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;\r\n b=";
        let names = [
            "from",
            "to",
            "subject",
            "date",
            "message-id",
            "from",
            "subject",
            "date",
        ];
        let signed = signer().sign(&to_sign(&fields(head), &names, header)).unwrap();
        assert_eq!(
            STANDARD.encode(signed),
            "/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11BusFa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw=="
        );
    }

    #[test]
    fn bodies_in_the_relaxed_form() {
        // RFC 6376, 3.4.5 and 3.4.6, and their edges.
        for (body, canonical) in [
            (" C \r\nD \t E\r\n\r\n\r\n", " C\r\nD E\r\n"),
            ("", ""),
            ("\r\n\r\n", ""),
            (" \r\n\t\r\n", ""),
            ("a", "a\r\n"),
            ("a\r\n\r\nb\r\n", "a\r\n\r\nb\r\n"),
            ("\r\na\r\n", "\r\na\r\n"),
        ] {
            assert_eq!(relaxed_body(body.as_bytes()), canonical.as_bytes(), "{body:?}");
        }
        let mut field = Vec::new();
        relaxed_field(&mut field, b"SubJect", b" \t a \r\n\t  b  \r\n");
        assert_eq!(field, b"subject:a b");
    }

    #[test]
    fn from_is_signed_twice_over_and_what_is_missing_is_not_named() {
        let header = signer().signature(MESSAGE.as_bytes(), Timestamp::EPOCH).unwrap();
        let flat = header.replace("\r\n", "").replace(' ', "");
        assert!(
            flat.contains(";h=from:from:to:subject:date:message-id;bh="),
            "{header}"
        );
        assert!(!flat.contains(";l="), "{header}");
        assert!(
            header.ends_with("\r\n") && header.lines().all(|line| line.len() <= 78),
            "{header}"
        );
        assert_eq!(
            signer()
                .signature(b"To: a\r\n\r\nb", Timestamp::EPOCH)
                .unwrap_err()
                .context("field"),
            Some("from")
        );
    }

    #[test]
    fn settings_are_checked_and_the_key_is_not_shown() {
        for (domain, selector, key, setting) in [
            ("shop", "s", ED25519, "dkim.domain"),
            ("shop.example; x", "s", ED25519, "dkim.domain"),
            ("shop.example", "", ED25519, "dkim.selector"),
            ("shop.example", "a b", ED25519, "dkim.selector"),
            ("shop.example", "s", "hunter22", "dkim.key"),
            (
                "shop.example",
                "s",
                "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
                "dkim.key",
            ),
        ] {
            let error = DkimSigner::new(&DkimConfig::new(domain, selector, Secret::new(key))).unwrap_err();
            assert_eq!(
                (error.kind(), error.context("setting")),
                (ErrorKind::Config, Some(setting)),
                "{error}"
            );
            assert!(!format!("{error:?}").contains("hunter22"));
        }
        let missing = DkimConfig::from_file("shop.example", "s", "no-such-file.pem");
        assert_eq!(
            DkimSigner::new(&missing).unwrap_err().context("setting"),
            Some("dkim.key_file")
        );
        assert!(!format!("{:?}", signer()).contains("MC4C"));
    }

    #[test]
    fn whom_it_vouches_for() {
        for (domain, vouched) in [
            ("football.example.com", true),
            ("mail.Football.example.com", true),
            ("example.com", false),
            ("notfootball.example.com", false),
        ] {
            assert_eq!(signer().vouches_for(domain), vouched, "{domain}");
        }
    }
}
