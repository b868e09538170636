use std::path::PathBuf;
use std::time::Duration;

use crm_core::{Result, Secret};
use serde::Deserialize;
use url::Url;

use super::super::dkim::DkimConfig;
use super::dsn::DsnConfig;
use crate::settings::{decoded, number, wrong};

/// How the connection is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tls {
    /// STARTTLS must succeed before anything else is said (RFC 3207); port 587.
    #[default]
    Starttls,
    /// TLS from the first byte (RFC 8314); port 465.
    Implicit,
    /// No protection at all: password and mail are readable on the way. For servers on the same machine only.
    DangerousPlaintext,
}

/// How we say who we are (RFC 4954). The secret never goes out before TLS stands, unless TLS is turned off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Auth {
    /// The first of PLAIN, LOGIN and CRAM-MD5 that the server offers.
    #[default]
    Auto,
    /// RFC 4616.
    Plain,
    /// What came before PLAIN.
    Login,
    /// RFC 2195, for servers that know nothing else.
    CramMd5,
    /// An OAuth 2 access token in the password's place, as Google and Microsoft take it.
    Xoauth2,
}

impl Auth {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Auto | Self::Plain => "PLAIN",
            Self::Login => "LOGIN",
            Self::CramMd5 => "CRAM-MD5",
            Self::Xoauth2 => "XOAUTH2",
        }
    }
}

/// How to reach an SMTP server. Unknown settings are refused.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SmtpConfig {
    /// The server's name; its certificate must carry it.
    pub host: String,
    /// The port; 587, 465 or 25 by [`Tls`] when absent.
    #[serde(default)]
    pub port: Option<u16>,
    /// The user to log in as; with a password or not at all.
    #[serde(default)]
    pub user: Option<String>,
    /// The password.
    #[serde(default)]
    pub password: Option<Secret>,
    /// How user and password are said.
    #[serde(default)]
    pub auth: Auth,
    /// How the connection is protected.
    #[serde(default)]
    pub tls: Tls,
    /// A PEM file with the only authorities to trust, for private servers; the public ones when absent.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// The name we greet with; the machine's own when absent.
    #[serde(default)]
    pub hello_name: Option<String>,
    /// How many connections at most, 1 to 100.
    #[serde(default = "pool")]
    pub pool: usize,
    /// How many messages at most over one connection; many servers allow 100.
    #[serde(default = "per_connection")]
    pub per_connection: u32,
    /// Keys to sign with (DKIM). Each one that vouches for the sender's domain adds a signature; when none does, the
    /// message is refused rather than sent unsigned.
    #[serde(default)]
    pub dkim: Vec<DkimConfig>,
    /// What servers on the way are asked to report, where they offer it.
    #[serde(default)]
    pub dsn: DsnConfig,
    /// Seconds until a connection must stand, and as many for TLS.
    #[serde(default = "connect_timeout")]
    pub connect_timeout: u64,
    /// Seconds until the server must greet. This and the ones below are those of RFC 5321, 4.5.3.2.
    #[serde(default = "greeting_timeout")]
    pub greeting_timeout: u64,
    /// Seconds for the answer to one command.
    #[serde(default = "command_timeout")]
    pub command_timeout: u64,
    /// Seconds for the answer to `DATA`.
    #[serde(default = "data_timeout")]
    pub data_timeout: u64,
    /// Seconds until the server must take the next piece of a message.
    #[serde(default = "block_timeout")]
    pub block_timeout: u64,
    /// Seconds for the answer to the end of a message.
    #[serde(default = "end_timeout")]
    pub end_timeout: u64,
}

fn pool() -> usize {
    4
}
fn per_connection() -> u32 {
    100
}
fn connect_timeout() -> u64 {
    30
}
fn greeting_timeout() -> u64 {
    300
}
fn command_timeout() -> u64 {
    300
}
fn data_timeout() -> u64 {
    120
}
fn block_timeout() -> u64 {
    180
}
fn end_timeout() -> u64 {
    600
}

/// The settings in seconds, as durations.
#[derive(Debug, Clone)]
pub(super) struct Times {
    pub(super) connect: Duration,
    pub(super) greeting: Duration,
    pub(super) command: Duration,
    pub(super) data: Duration,
    pub(super) block: Duration,
    pub(super) end: Duration,
    /// For what a server says that hangs up: it has said it already.
    pub(super) parting: Duration,
}

impl SmtpConfig {
    /// The defaults for a server: STARTTLS on port 587, no log-in.
    pub fn new(host: impl Into<String>) -> Self {
        Self {
            host: host.into(),
            port: None,
            user: None,
            password: None,
            auth: Auth::Auto,
            tls: Tls::Starttls,
            ca_file: None,
            hello_name: None,
            pool: pool(),
            per_connection: per_connection(),
            dkim: Vec::new(),
            dsn: DsnConfig::default(),
            connect_timeout: connect_timeout(),
            greeting_timeout: greeting_timeout(),
            command_timeout: command_timeout(),
            data_timeout: data_timeout(),
            block_timeout: block_timeout(),
            end_timeout: end_timeout(),
        }
    }

    /// From `smtp://user:password@host:587` (STARTTLS), `smtps://...` (TLS from the start) or
    /// `smtp://127.0.0.1:2525?tls=dangerous-plaintext`. User and password are percent-encoded. Further keys: `ca`,
    /// `hello`, `pool`, `per_connection`, `auth` (`plain`, `login`, `cram-md5`, `xoauth2`), the time-outs by their names
    /// (`connect_timeout`, ..., `end_timeout`, in seconds), `dsn` (`on`, `off`), `dsn_notify` (`success,failure,delay` or
    /// `never`) and `dsn_return` (`headers`, `full`), and for one DKIM key `dkim_domain`, `dkim_selector` and
    /// `dkim_key_file`.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Config`] naming the part; never the URL, which holds the password.
    pub fn from_url(url: &str) -> Result<Self> {
        let url = Url::parse(url)
            .map_err(|e| wrong("url", "not a URL; write it as smtp://user:password@host:587").source(e))?;
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let mut config = Self::new(host);
        config.tls = match url.scheme() {
            "smtp" => Tls::Starttls,
            "smtps" => Tls::Implicit,
            _ => return Err(wrong("scheme", "the scheme of a mail server is smtp or smtps")),
        };
        config.port = url.port();
        if !matches!(url.path(), "" | "/") || url.fragment().is_some() {
            return Err(wrong("path", "a mail server's URL has no path and no fragment"));
        }
        if !url.username().is_empty() {
            config.user = Some(decoded(url.username()));
        }
        let mut dkim = DkimConfig::from_file("", "", "");
        config.password = url.password().map(|password| Secret::new(decoded(password)));
        for (key, value) in url.query_pairs() {
            match key.as_ref() {
                "tls" => match (url.scheme(), value.as_ref()) {
                    ("smtp", "starttls") | ("smtps", "implicit") => {}
                    ("smtp", "dangerous-plaintext") => config.tls = Tls::DangerousPlaintext,
                    _ => {
                        return Err(wrong(
                            "tls",
                            "smtp takes tls=starttls or tls=dangerous-plaintext, smtps tls=implicit",
                        ));
                    }
                },
                "ca" => config.ca_file = Some(PathBuf::from(value.as_ref())),
                "hello" => config.hello_name = Some(value.into_owned()),
                "pool" => config.pool = number("pool", &value)?,
                "per_connection" => config.per_connection = number("per_connection", &value)?,
                "connect_timeout" => config.connect_timeout = number("connect_timeout", &value)?,
                "greeting_timeout" => config.greeting_timeout = number("greeting_timeout", &value)?,
                "command_timeout" => config.command_timeout = number("command_timeout", &value)?,
                "data_timeout" => config.data_timeout = number("data_timeout", &value)?,
                "block_timeout" => config.block_timeout = number("block_timeout", &value)?,
                "end_timeout" => config.end_timeout = number("end_timeout", &value)?,
                "dsn" => config.dsn.read_enabled(&value)?,
                "dsn_notify" => config.dsn.read_notify(&value)?,
                "dsn_return" => config.dsn.read_returned(&value)?,
                "dkim_domain" => dkim.domain = value.into_owned(),
                "dkim_selector" => dkim.selector = value.into_owned(),
                "dkim_key_file" => dkim.key_file = Some(PathBuf::from(value.as_ref())),
                "auth" => {
                    config.auth = match value.as_ref() {
                        "auto" => Auth::Auto,
                        "plain" => Auth::Plain,
                        "login" => Auth::Login,
                        "cram-md5" => Auth::CramMd5,
                        "xoauth2" => Auth::Xoauth2,
                        _ => {
                            return Err(wrong(
                                "auth",
                                "the ways to log in are auto, plain, login, cram-md5 and xoauth2",
                            ));
                        }
                    };
                }
                other => {
                    return Err(wrong(
                        other,
                        "unknown setting; known are tls, ca, hello, pool, per_connection, auth, dkim_domain, \
                         dkim_selector, dkim_key_file, dsn, dsn_notify, dsn_return, and connect_, greeting_, command_, data_, block_, end_timeout",
                    ));
                }
            }
        }
        if query_names_dkim(&url) {
            config.dkim.push(dkim);
        }
        config.validate()?;
        Ok(config)
    }

    /// Checks every setting.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Config`] naming the setting.
    pub fn validate(&self) -> Result<()> {
        let plain = |text: &str| {
            !text.is_empty()
                && text.len() <= 253
                && text
                    .bytes()
                    .all(|b| b.is_ascii_graphic() && !b"<>@/".contains(&b))
        };
        if !plain(&self.host) {
            return Err(wrong(
                "host",
                "the server's name is missing or has characters no name has",
            ));
        }
        if self.port == Some(0) {
            return Err(wrong("port", "0 is no port to connect to"));
        }
        if self.user.is_some() != self.password.is_some() {
            return Err(wrong(
                "password",
                "user and password belong together; give both or none",
            ));
        }
        let said = [self.user.as_deref(), self.password.as_ref().map(Secret::expose)];
        if said.into_iter().flatten().any(|said| said.contains('\0')) {
            return Err(wrong("password", "user and password cannot have a NUL in them"));
        }
        if self.auth != Auth::Auto && self.user.is_none() {
            return Err(wrong("auth", "to log in takes a user and a password"));
        }
        if self.hello_name.as_deref().is_some_and(|name| !plain(name)) {
            return Err(wrong("hello_name", "not a name to greet with"));
        }
        if !(1..=100).contains(&self.pool) {
            return Err(wrong("pool", "a pool has 1 to 100 connections"));
        }
        if self.per_connection == 0 {
            return Err(wrong("per_connection", "a connection carries 1 message or more"));
        }
        self.dkim.iter().try_for_each(DkimConfig::validate)?;
        self.dsn.validate()?;
        for (setting, seconds) in [
            ("connect_timeout", self.connect_timeout),
            ("greeting_timeout", self.greeting_timeout),
            ("command_timeout", self.command_timeout),
            ("data_timeout", self.data_timeout),
            ("block_timeout", self.block_timeout),
            ("end_timeout", self.end_timeout),
        ] {
            if !(1..=3600).contains(&seconds) {
                return Err(wrong(setting, "a time-out is 1 to 3600 seconds"));
            }
        }
        if self.tls == Tls::DangerousPlaintext && self.ca_file.is_some() {
            return Err(wrong(
                "ca_file",
                "without TLS no authority is asked; remove it or turn TLS on",
            ));
        }
        Ok(())
    }

    pub(super) fn port(&self) -> u16 {
        self.port.unwrap_or(match self.tls {
            Tls::Starttls => 587,
            Tls::Implicit => 465,
            Tls::DangerousPlaintext => 25,
        })
    }

    pub(super) fn times(&self) -> Times {
        Times {
            connect: Duration::from_secs(self.connect_timeout),
            greeting: Duration::from_secs(self.greeting_timeout),
            command: Duration::from_secs(self.command_timeout),
            data: Duration::from_secs(self.data_timeout),
            block: Duration::from_secs(self.block_timeout),
            end: Duration::from_secs(self.end_timeout),
            parting: Duration::from_secs(2.min(self.command_timeout)),
        }
    }
}

fn query_names_dkim(url: &Url) -> bool {
    url.query_pairs().any(|(key, _)| key.starts_with("dkim_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let c =
            SmtpConfig::from_url("smtp://crm%40shop.example:s3%3Ac+ret@mail.example:2587?ca=/ca.pem&pool=2")
                .unwrap();
        assert_eq!(
            (c.host.as_str(), c.port(), c.tls),
            ("mail.example", 2587, Tls::Starttls)
        );
        assert_eq!(c.user.as_deref(), Some("crm@shop.example"));
        assert_eq!(c.password.as_ref().unwrap().expose(), "s3:c+ret");
        assert_eq!(
            (c.pool, c.ca_file.as_deref()),
            (2, Some(std::path::Path::new("/ca.pem")))
        );
        assert!(!format!("{c:?}").contains("s3:c"));
        assert_eq!(SmtpConfig::from_url("smtps://mail.example").unwrap().port(), 465);
        assert_eq!(SmtpConfig::from_url("smtp://mail.example").unwrap().port(), 587);
        let plain = SmtpConfig::from_url("smtp://127.0.0.1:2525?tls=dangerous-plaintext").unwrap();
        assert_eq!((plain.tls, plain.port()), (Tls::DangerousPlaintext, 2525));
        assert_eq!(SmtpConfig::from_url("smtp://[::1]:25").unwrap().host, "::1");
    }

    #[test]
    fn what_is_wrong_is_named_and_the_password_is_not() {
        for (url, setting) in [
            ("smtp://u:hunter22@host?tsl=none", "tsl"),
            ("smtp://u:hunter22@host?tls=none", "tls"),
            ("smtps://u:hunter22@host?tls=dangerous-plaintext", "tls"),
            ("smtp://u:hunter22@host?pool=0", "pool"),
            ("smtp://u:hunter22@host?pool=many", "pool"),
            ("smtp://u@host", "password"),
            ("smtp://u:hunter22@host/inbox", "path"),
            ("smtp://u:hunter22@host?data_timeout=0", "data_timeout"),
            ("smtp://u:hunter22@host?end_timeout=4000", "end_timeout"),
            ("smtp://u:hunter22@host?per_connection=0", "per_connection"),
            ("smtp://u:hunter22@host?auth=ntlm", "auth"),
            ("smtp://host?auth=plain", "auth"),
            ("smtp://u:hunter22%00@host", "password"),
            ("smtp://u:hunter22@host?dkim_domain=shop.example", "dkim.selector"),
            ("smtp://u:hunter22@host?dkim_key_file=a.pem", "dkim.domain"),
            ("smtp://u:hunter22@host?hello=a%0D%0Ab", "hello_name"),
            ("http://u:hunter22@host", "scheme"),
            ("smtp://u:hunter22@host:99999", "url"),
            ("smtp:", "host"),
        ] {
            let error = SmtpConfig::from_url(url).unwrap_err();
            assert_eq!(error.context("setting"), Some(setting), "{url}: {error}");
            assert!(!format!("{error:?}").contains("hunter22"), "{error:?}");
        }
        assert!(
            serde_json::from_str::<SmtpConfig>(r#"{"host": "a", "tls": "starttls", "prot": 25}"#).is_err()
        );
        assert!(serde_json::from_str::<SmtpConfig>(r#"{"host": "a", "tls": "dangerous-plaintext"}"#).is_ok());
    }
}
