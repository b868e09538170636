//! What the servers on the way are asked to report (DSN, RFC 3461).

use crm_core::Result;
use crm_core::message::MessageId;
use lettre::transport::smtp::extension::{MailParameter, RcptParameter};
use serde::Deserialize;

use crate::settings::wrong;

/// When servers report (`NOTIFY`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DsnNotify {
    /// Never, whatever happens; by itself only.
    Never,
    /// When the message is in the mailbox.
    Success,
    /// When it cannot be delivered.
    Failure,
    /// When it takes long.
    Delay,
}

impl DsnNotify {
    fn as_str(self) -> &'static str {
        match self {
            Self::Never => "NEVER",
            Self::Success => "SUCCESS",
            Self::Failure => "FAILURE",
            Self::Delay => "DELAY",
        }
    }
}

/// How much of the message comes back with a failure (`RET`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DsnReturn {
    /// Its headers: enough to know it by.
    #[default]
    Headers,
    /// All of it.
    Full,
}

/// What is said to servers that offer to report (RFC 3461); to others, nothing. Reports then name the message
/// (`Original-Envelope-Id` is its id) and the address it was sent to, also where that was forwarded since
/// (`Original-Recipient`).
///
/// ```
/// use crm_channels::mail::smtp::{DsnNotify, DsnReturn};
/// use crm_channels::mail::SmtpConfig;
///
/// let config = SmtpConfig::from_url("smtp://mail.example?dsn_notify=failure,delay&dsn_return=full").unwrap();
/// assert_eq!(config.dsn.notify, [DsnNotify::Failure, DsnNotify::Delay]);
/// assert_eq!(config.dsn.returned, DsnReturn::Full);
/// assert!(!SmtpConfig::from_url("smtp://mail.example?dsn=off").unwrap().dsn.enabled);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DsnConfig {
    /// Whether anything is said at all.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// When to report; empty for what servers do by themselves, which is failures.
    #[serde(default)]
    pub notify: Vec<DsnNotify>,
    /// How much comes back.
    #[serde(default)]
    pub returned: DsnReturn,
}

const fn yes() -> bool {
    true
}

impl Default for DsnConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            notify: Vec::new(),
            returned: DsnReturn::Headers,
        }
    }
}

impl DsnConfig {
    pub(super) fn validate(&self) -> Result<()> {
        if self.notify.contains(&DsnNotify::Never) && self.notify.len() > 1 {
            return Err(wrong("dsn_notify", "never stands by itself"));
        }
        let twice = self
            .notify
            .iter()
            .enumerate()
            .any(|(place, one)| self.notify.iter().take(place).any(|before| before == one));
        if twice {
            return Err(wrong("dsn_notify", "each occasion is named once"));
        }
        Ok(())
    }

    /// The setting of a URL: `on` or `off`.
    pub(super) fn read_enabled(&mut self, text: &str) -> Result<()> {
        self.enabled = match text {
            "on" => true,
            "off" => false,
            _ => return Err(wrong("dsn", "reports are asked for: on or off")),
        };
        Ok(())
    }

    /// The setting of a URL: `success,failure,delay`, or `never`.
    pub(super) fn read_notify(&mut self, text: &str) -> Result<()> {
        self.notify = text
            .split(',')
            .map(|word| match word.trim() {
                "never" => Ok(DsnNotify::Never),
                "success" => Ok(DsnNotify::Success),
                "failure" => Ok(DsnNotify::Failure),
                "delay" => Ok(DsnNotify::Delay),
                _ => Err(wrong(
                    "dsn_notify",
                    "servers report success, failure and delay, or never",
                )),
            })
            .collect::<Result<_>>()?;
        Ok(())
    }

    /// The setting of a URL: `headers` or `full`.
    pub(super) fn read_returned(&mut self, text: &str) -> Result<()> {
        self.returned = match text {
            "headers" => DsnReturn::Headers,
            "full" => DsnReturn::Full,
            _ => return Err(wrong("dsn_return", "headers or full come back")),
        };
        Ok(())
    }
}

/// What is said of one message.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    id: MessageId,
    config: DsnConfig,
}

impl Asked {
    /// Nothing where it is turned off.
    pub(super) fn of(config: &DsnConfig, id: MessageId) -> Option<Self> {
        config.enabled.then(|| Self {
            id,
            config: config.clone(),
        })
    }

    pub(super) fn mail(&self) -> [MailParameter; 2] {
        let said = |keyword: &str, value: String| MailParameter::Other {
            keyword: keyword.to_owned(),
            value: Some(value),
        };
        let returned = match self.config.returned {
            DsnReturn::Headers => "HDRS",
            DsnReturn::Full => "FULL",
        };
        [
            said("RET", returned.to_owned()),
            said("ENVID", self.id.to_string()),
        ]
    }

    pub(super) fn recipient(&self, to: &str) -> Vec<RcptParameter> {
        let said = |keyword: &str, value: String| RcptParameter::Other {
            keyword: keyword.to_owned(),
            value: Some(value),
        };
        let mut parameters = Vec::new();
        if !self.config.notify.is_empty() {
            let words: Vec<&str> = self.config.notify.iter().map(|one| one.as_str()).collect();
            parameters.push(said("NOTIFY", words.join(",")));
        }
        parameters.push(said("ORCPT", original(to)));
        parameters
    }
}

/// The address with its type (RFC 3461, 4.2), and with letters beyond ASCII in the form that every server takes (RFC 6533,
/// 3). lettre writes what stands here as xtext (RFC 3461, 4).
fn original(address: &str) -> String {
    if address.is_ascii() {
        return format!("rfc822;{address}");
    }
    let mut out = String::from("utf-8;");
    for c in address.chars() {
        if c.is_ascii_graphic() && !matches!(c, '+' | '=' | '\\') {
            out.push(c);
        } else {
            out.push_str(&format!("\\x{{{:X}}}", u32::from(c)));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_so_that_every_server_takes_them() {
        assert_eq!(original("ana@test.example"), "rfc822;ana@test.example");
        // The plus and the equals sign become xtext on the way out, so nothing is done to them here.
        assert_eq!(original("a+b=c@test.example"), "rfc822;a+b=c@test.example");
        let said = RcptParameter::Other {
            keyword: "ORCPT".into(),
            value: Some(original("a+b=c@test.example")),
        };
        assert_eq!(said.to_string(), "ORCPT=rfc822;a+2Bb+3Dc@test.example");
        // The example of RFC 6533 has the same form.
        assert_eq!(
            original("jos\u{e9}+1@bücher.example"),
            "utf-8;jos\\x{E9}\\x{2B}1@b\\x{FC}cher.example"
        );
    }

    #[test]
    fn settings_are_checked() {
        let mut config = DsnConfig::default();
        assert!(config.read_notify("success,failure").is_ok() && config.validate().is_ok());
        for bad in ["never,failure", "delay,delay"] {
            config.read_notify(bad).unwrap();
            assert_eq!(
                config.validate().unwrap_err().context("setting"),
                Some("dsn_notify")
            );
        }
        for (error, setting) in [
            (config.read_notify("always"), "dsn_notify"),
            (config.read_returned("some"), "dsn_return"),
            (config.read_enabled("maybe"), "dsn"),
        ] {
            assert_eq!(error.unwrap_err().context("setting"), Some(setting));
        }
        let read: DsnConfig = serde_json::from_str(r#"{"notify": ["failure"], "returned": "full"}"#).unwrap();
        assert!(read.enabled && read.returned == DsnReturn::Full);
    }
}
