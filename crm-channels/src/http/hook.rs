use std::collections::BTreeMap;

use crm_core::{Error, Result, Secret};
use serde::Deserialize;

use super::config::StateSpec;

/// What the vendor tells us.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookSpec {
    /// How it proves who it is.
    pub proof: Proof,
    /// Whether it comes as a form instead of JSON.
    #[serde(default)]
    pub form: bool,
    /// Where in the JSON the list of news stands (RFC 6901); without it the whole body is one, or a list of them.
    #[serde(default)]
    pub items: Option<String>,
    /// News about messages of ours.
    #[serde(default)]
    pub news: Option<NewsSpec>,
    /// Messages to us.
    #[serde(default)]
    pub message: Option<MessageSpec>,
    /// What the vendor wants to hear.
    #[serde(default)]
    pub reply: ReplySpec,
}

/// How a call of our URL is proven.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Proof {
    /// The last part of the path is this secret, of at least 16 characters.
    Path(Secret),
    /// A header has this value.
    Header {
        /// Its name.
        name: String,
        /// The secret.
        value: Secret,
    },
    /// A header has a keyed hash of the body.
    Hmac {
        /// Its name.
        header: String,
        /// The key.
        secret: Secret,
        /// The hash.
        #[serde(default)]
        algorithm: HmacKind,
        /// What stands before it, such as `sha256=`.
        #[serde(default)]
        prefix: String,
    },
}

/// A keyed hash and how it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HmacKind {
    /// HMAC-SHA256 in hexadecimal digits.
    #[default]
    Sha256Hex,
    /// HMAC-SHA256 in Base64.
    Sha256Base64,
    /// HMAC-SHA1 in hexadecimal digits.
    Sha1Hex,
    /// HMAC-SHA1 in Base64.
    Sha1Base64,
}

/// Where news stand in each item: JSON pointers (RFC 6901), or the names of a form's fields.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewsSpec {
    /// The vendor's reference.
    pub reference: String,
    /// Our own id.
    #[serde(default)]
    pub id: Option<String>,
    /// The recipient's number or e-mail address.
    #[serde(default)]
    pub to: Option<String>,
    /// The vendor's word for the state.
    pub state: String,
    /// The vendor's code.
    #[serde(default)]
    pub code: Option<String>,
    /// When: RFC 3339, or seconds or milliseconds since 1970.
    #[serde(default)]
    pub at: Option<String>,
    /// What the words mean; what is not among them says that the vendor has the message.
    pub states: BTreeMap<String, StateSpec>,
}

/// Where messages to us stand in each item, as in [`NewsSpec`]. An item with a text is one.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MessageSpec {
    /// The vendor's reference.
    pub reference: String,
    /// Who wrote.
    pub from: String,
    /// Our number.
    pub to: String,
    /// What they wrote.
    pub text: String,
}

/// What the vendor wants to hear once everything is stored.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplySpec {
    /// The status, 2xx.
    pub status: u16,
    /// The body.
    #[serde(default)]
    pub body: String,
}

impl Default for ReplySpec {
    fn default() -> Self {
        Self {
            status: 204,
            body: String::new(),
        }
    }
}

impl WebhookSpec {
    pub(super) fn validate(&self) -> Result<()> {
        let wrong = |message: &'static str| Err(Error::config(message).with("setting", "webhook"));
        match &self.proof {
            Proof::Path(secret) if secret.expose().len() < 16 => {
                wrong("a secret part of a path has at least 16 characters")
            }
            Proof::Header { value, .. } | Proof::Hmac { secret: value, .. } if value.expose().len() < 8 => {
                wrong("a secret that proves who calls has at least 8 characters")
            }
            _ if self.news.is_none() && self.message.is_none() => {
                wrong("nothing is read: neither news nor message is described")
            }
            _ if !(200..300).contains(&self.reply.status) => {
                wrong("what is stored is confirmed with a 2xx status")
            }
            _ => Ok(()),
        }
    }
}
