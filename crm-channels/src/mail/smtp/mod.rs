//! E-mail over SMTP (RFC 5321), protected by TLS that is checked and never silently given up.
//!
//! One message has one recipient, so every recipient has a fate of their own and nobody sees others' addresses. The
//! conversation is led command by command: when a connection is lost, it is known whether the final dot had gone out,
//! and so whether the message may have been taken ([`crm_core::Effect::Unknown`]) or certainly not.
//!
//! ```
//! use crm_channels::mail::{SmtpConfig, SmtpMailer};
//!
//! let config = SmtpConfig::from_url("smtp://crm:s3cret@mail.example:587").unwrap();
//! let mailer = SmtpMailer::build("main", config).unwrap(); // connects with the first message
//! assert!(!format!("{mailer:?}").contains("s3cret"));
//! ```

mod config;
mod error;

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use crm_core::capability::{MailCapability, Mailer};
use crm_core::message::{Email, Permitted, Receipt};
use crm_core::{
    Clock, Context, Error, ErrorKind, Health, Provider, ProviderInfo, Result, SystemClock, Timestamp,
};
use lettre::transport::smtp::Error as SmtpError;
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{
    AsyncSmtpConnection, Certificate, CertificateStore, TlsParameters, TlsParametersBuilder,
};
use lettre::transport::smtp::commands::{Data, Mail, Noop, Rcpt, Rset};
use lettre::transport::smtp::extension::{ClientId, Extension, MailBodyParameter, MailParameter};
use lettre::transport::smtp::response::Response;
use tokio::sync::Semaphore;

pub use config::{SmtpConfig, Tls};

use super::mime;
use error::{Phase, classify, lost, scrub, translate};

/// A connection that was idle longer is not trusted any more; servers close after some minutes (RFC 5321, 4.5.3.2.7).
const IDLE: Duration = Duration::from_secs(60);
/// Messages over one connection; many servers allow 100.
const PER_CONNECTION: u32 = 100;
/// What large providers take, encoding included.
const MAX_BYTES: u64 = 25 * 1024 * 1024;
/// The content goes out in pieces, so that it is known how far it came.
const PIECE: usize = 16 * 1024;

struct Open {
    connection: AsyncSmtpConnection,
    used: u32,
    last: Timestamp,
}

/// Sends e-mail through one SMTP server over a few kept connections.
pub struct SmtpMailer {
    info: ProviderInfo,
    config: SmtpConfig,
    tls: Option<TlsParameters>,
    hello: ClientId,
    clock: Arc<dyn Clock>,
    slots: Semaphore,
    idle: Mutex<Vec<Open>>,
}

impl SmtpMailer {
    /// A mailer of this name. Checks the settings and reads the authorities; connects with the first message.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] naming the setting.
    pub fn build(name: &str, config: SmtpConfig) -> Result<Self> {
        config.validate()?;
        let tls = match config.tls {
            Tls::DangerousPlaintext => None,
            Tls::Starttls | Tls::Implicit => Some(authorities(&config)?),
        };
        let scheme = if config.tls == Tls::Implicit {
            "smtps"
        } else {
            "smtp"
        };
        Ok(Self {
            info: ProviderInfo::new(scheme, name),
            tls,
            hello: config
                .hello_name
                .clone()
                .map_or_else(ClientId::default, ClientId::Domain),
            clock: SystemClock::shared(),
            slots: Semaphore::new(config.pool),
            idle: Mutex::default(),
            config,
        })
    }

    /// Takes the time of receipts and `Date` headers from `clock`.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    fn kept(&self) -> Option<Open> {
        let now = self.clock.now();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|open| now.since(open.last) < IDLE);
        idle.pop()
    }

    fn keep(&self, mut open: Open) {
        if open.used < PER_CONNECTION && !open.connection.has_broken() {
            open.last = self.clock.now();
            self.idle
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(open);
        }
    }

    /// A fresh connection: greeted, protected, logged in.
    async fn connect(&self) -> Result<Open> {
        let limit = self.config.connecting();
        let server = (self.config.host.as_str(), self.config.port());
        let implicit = self.tls.clone().filter(|_| self.config.tls == Tls::Implicit);
        let connecting =
            AsyncSmtpConnection::connect_tokio1(server, Some(limit), &self.hello, implicit, None);
        let mut connection = answered(Phase::Connect, limit, connecting, "").await?;
        if let (Tls::Starttls, Some(tls)) = (self.config.tls, &self.tls) {
            answered(
                Phase::Tls,
                limit,
                connection.starttls(tls.clone(), &self.hello),
                "",
            )
            .await?;
        }
        if let (Some(user), Some(password)) = (&self.config.user, &self.config.password) {
            let credentials = Credentials::new(user.clone(), password.expose().to_owned());
            let mechanisms = [Mechanism::Plain, Mechanism::Login];
            let login = connection.auth(&mechanisms, &credentials);
            let reply = answered(Phase::Login, self.config.commanding(), login, "").await?;
            expect(Phase::Login, &reply, &[235])?;
        }
        Ok(Open {
            connection,
            used: 0,
            last: self.clock.now(),
        })
    }

    /// The whole conversation about one message. Every answer must carry its own code: text that somebody slipped in
    /// before TLS stood would shift the answers, and must not pass for a yes.
    async fn converse(&self, open: &mut Open, mail: &Email, bytes: &[u8]) -> Result<Response> {
        let recipient = mail.to.address.as_str();
        let (from, to) = (mime::address(&mail.from, "from")?, mime::address(&mail.to, "to")?);
        let command = self.config.commanding();
        let info = open.connection.server_info();
        let mut parameters = Vec::new();
        if !(from.as_ref() as &str).is_ascii() || !(to.as_ref() as &str).is_ascii() {
            if !info.supports_feature(Extension::SmtpUtfEight) {
                return Err(Error::invalid(
                    "this server takes no letters beyond ASCII before the @ (RFC 6531)",
                )
                .operation("mail.send")
                .with("field", "to"));
            }
            parameters.push(MailParameter::SmtpUtfEight);
        }
        if !bytes.is_ascii() && info.supports_feature(Extension::EightBitMime) {
            parameters.push(MailParameter::Body(MailBodyParameter::EightBitMime));
        }
        open.used += 1;
        let connection = &mut open.connection;
        let reply = answered(
            Phase::From,
            command,
            connection.command(Mail::new(Some(from), parameters)),
            recipient,
        )
        .await?;
        expect(Phase::From, &reply, &[250])?;
        let reply = answered(
            Phase::Recipient,
            command,
            connection.command(Rcpt::new(to, Vec::new())),
            recipient,
        )
        .await?;
        expect(Phase::Recipient, &reply, &[250, 251, 252])?;
        let reply = answered(Phase::Data, command, connection.command(Data), recipient).await?;
        expect(Phase::Data, &reply, &[354])?;

        // The library writes piece after piece and asks for the next one when the last is out; asked beyond the end, it
        // goes on to the final dot.
        let mut dot = false;
        let mut pieces = bytes.chunks(PIECE);
        let pieces = std::iter::from_fn(|| {
            let piece = pieces.next();
            dot |= piece.is_none();
            piece
        });
        let handed = tokio::time::timeout(self.config.handing(), connection.message_iter(pieces)).await;
        let phase = if dot { Phase::End } else { Phase::Data };
        let reply = match handed {
            Err(_) => return Err(lost(phase, ErrorKind::Timeout, "no answer in time")),
            Ok(Err(error)) => return Err(translate(phase, &error, recipient)),
            Ok(Ok(reply)) => reply,
        };
        expect(Phase::End, &reply, &[250])?;
        Ok(reply)
    }

    async fn deliver(&self, mail: &Email, bytes: &[u8]) -> Result<Response> {
        let slot = self.slots.acquire().await;
        let _slot = slot.map_err(|_| Error::new(ErrorKind::Cancelled, "the mailer is closed"))?;
        loop {
            let kept = self.kept();
            let reused = kept.is_some();
            let mut open = match kept {
                Some(open) => open,
                None => self.connect().await?,
            };
            match self.converse(&mut open, mail, bytes).await {
                Ok(reply) => {
                    self.keep(open);
                    return Ok(reply);
                }
                Err(error)
                    if error.context("reply").is_some() && error.context("blame") != Some("protocol") =>
                {
                    // A refusal in good order: the connection is fit for the next message.
                    if !error
                        .context("reply")
                        .is_some_and(|reply| reply.starts_with("421"))
                    {
                        let reset = open.connection.command(Rset);
                        if let Ok(Ok(_)) = tokio::time::timeout(self.config.commanding(), reset).await {
                            self.keep(open);
                        }
                    }
                    return Err(error);
                }
                // The server closed a kept connection meanwhile, which shows at the first command: nothing was said yet.
                Err(error) if reused && error.context("phase") == Some("mail from") => continue,
                Err(error) => return Err(error),
            }
        }
    }
}

/// Trusts the public authorities, or only those of the file. The key exchange is rustls' ring; nothing is installed
/// for the process.
fn authorities(config: &SmtpConfig) -> Result<TlsParameters> {
    let mut builder: TlsParametersBuilder = TlsParameters::builder(config.host.clone());
    let wrong = |message: &'static str| Error::config(message).with("setting", "ca_file");
    match &config.ca_file {
        None => builder = builder.certificate_store(CertificateStore::WebpkiRoots),
        Some(path) => {
            let pem = std::fs::read(path).map_err(|e| {
                wrong("the file of authorities cannot be read")
                    .with("path", path.display())
                    .source(e)
            })?;
            if !pem.windows(27).any(|w| w == b"-----BEGIN CERTIFICATE-----") {
                return Err(wrong("the file holds no certificate in PEM").with("path", path.display()));
            }
            let certificate = Certificate::from_pem(&pem).map_err(|e| {
                wrong("the file holds a damaged certificate")
                    .with("path", path.display())
                    .source(e)
            })?;
            builder = builder
                .certificate_store(CertificateStore::None)
                .add_root_certificate(certificate);
        }
    }
    builder.build_rustls().map_err(|e| {
        Error::config("TLS cannot be set up")
            .with("setting", "tls")
            .source(e)
    })
}

async fn answered<T>(
    phase: Phase,
    limit: Duration,
    asked: impl Future<Output = Result<T, SmtpError>>,
    recipient: &str,
) -> Result<T> {
    match tokio::time::timeout(limit, asked).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(translate(phase, &error, recipient)),
        Err(_) => Err(lost(phase, ErrorKind::Timeout, "no answer in time")),
    }
}

fn expect(phase: Phase, reply: &Response, codes: &[u16]) -> Result<()> {
    let code = u16::from(reply.code());
    if codes.contains(&code) {
        Ok(())
    } else {
        Err(classify(phase, code, "", ""))
    }
}

impl fmt::Debug for SmtpMailer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SmtpMailer")
            .field("name", &self.info.name)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Provider for SmtpMailer {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }

    async fn check(&self) -> Result<Health> {
        let limit = self.config.commanding();
        // A kept connection that the server closed meanwhile says nothing about the server.
        if let Some(mut open) = self.kept()
            && let Ok(Ok(_)) = tokio::time::timeout(limit, open.connection.command(Noop)).await
        {
            self.keep(open);
            return Ok(Health::Ready);
        }
        let open = self.connect().await?;
        self.keep(open);
        Ok(Health::Ready)
    }
}

#[async_trait]
impl Mailer for SmtpMailer {
    fn capability(&self) -> MailCapability {
        MailCapability::new(MAX_BYTES, false, true)
    }

    async fn send(&self, _ctx: &Context, mail: &Permitted<Email>) -> Result<Receipt> {
        let mail = mail.message();
        let bytes = mime::bytes(mail, self.clock.now())?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(Error::invalid("the message is larger than mail servers take")
                .operation("mail.send")
                .with("bytes", bytes.len())
                .with("most", MAX_BYTES));
        }
        let reply = self.deliver(mail, &bytes).await?;
        let said = reply.message().collect::<Vec<_>>().join(" ");
        let queued = said.rsplit_once("queued as ").map(|(_, id)| id.trim());
        Ok(Receipt::new(
            self.info.name.clone(),
            queued.map_or_else(|| mail.message_id(), str::to_owned),
            self.clock.now(),
        )
        .detail(scrub(&said, mail.to.address.as_str())))
    }
}
