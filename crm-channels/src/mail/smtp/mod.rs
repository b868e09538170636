//! E-mail over SMTP (RFC 5321), protected by TLS that is checked and never silently given up.
//!
//! One message has one recipient, so every recipient has a fate of their own and nobody sees others' addresses. The
//! conversation is our own: when a connection is lost, it is known whether the final dot had gone out, and so whether the
//! message may have been taken ([`crm_core::Effect::Unknown`]) or certainly not. Commands go in groups where the server
//! knows PIPELINING (RFC 2920), and where several messages wait, the next one's envelope goes right behind the last one's
//! final dot: one way there and back a message.
//!
//! What became of a refused message stands in the error: `phase`, `reply`, and [`crm_core::Error::blamed`].
//!
//! ```
//! use crm_channels::mail::{SmtpConfig, SmtpMailer};
//!
//! let config = SmtpConfig::from_url("smtp://crm:s3cret@mail.example:587").unwrap();
//! let mailer = SmtpMailer::build("main", config).unwrap(); // connects with the first message
//! assert!(!format!("{mailer:?}").contains("s3cret"));
//! ```

mod config;
mod converse;
mod dsn;
mod error;
mod link;
mod login;
mod pool;
mod reply;

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use crm_core::capability::{MailCapability, Mailer};
use crm_core::message::{Blame, Email, Permitted, Receipt};
use crm_core::{
    Clock, Context, Error, ErrorKind, Health, Provider, ProviderInfo, Result, Secret, SystemClock,
};
use lettre::transport::smtp::commands::Noop;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

pub use config::{Auth, SmtpConfig, Tls};
pub use dsn::{DsnConfig, DsnNotify, DsnReturn};

use super::dkim::DkimSigner;
use super::mime;
use config::Times;
use converse::{Envelope, Letter, Talk};
use error::scrub;
use link::Link;
use login::Door;
use pool::{Pool, Slot, Turn};
use reply::Reply;

/// A connection that was idle longer is not trusted any more; servers close after some minutes (RFC 5321, 4.5.3.2.7).
const IDLE: Duration = Duration::from_secs(60);
/// What large providers take, encoding included.
const MAX_BYTES: u64 = 25 * 1024 * 1024;

/// Sends e-mail through one SMTP server over a few kept connections.
pub struct SmtpMailer {
    info: ProviderInfo,
    config: SmtpConfig,
    times: Times,
    tls: Option<Arc<ClientConfig>>,
    hello: String,
    signers: Vec<DkimSigner>,
    password: RwLock<Option<Secret>>,
    clock: Arc<dyn Clock>,
    pool: Arc<Pool>,
}

impl SmtpMailer {
    /// A mailer of this name. Checks the settings, reads authorities and keys; connects with the first message.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] naming the setting.
    pub fn build(name: &str, config: SmtpConfig) -> Result<Self> {
        config.validate()?;
        let tls = match config.tls {
            Tls::DangerousPlaintext => None,
            Tls::Starttls | Tls::Implicit => Some(Arc::new(client(&config)?)),
        };
        let scheme = if config.tls == Tls::Implicit {
            "smtps"
        } else {
            "smtp"
        };
        Ok(Self {
            info: ProviderInfo::new(scheme, name),
            tls,
            hello: config.hello_name.clone().unwrap_or_else(own_name),
            signers: config.dkim.iter().map(DkimSigner::new).collect::<Result<_>>()?,
            password: RwLock::new(config.password.clone()),
            clock: SystemClock::shared(),
            pool: Arc::default(),
            times: config.times(),
            config,
        })
    }

    /// Takes the time of receipts and `Date` headers from `clock`.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Logs in with this password or token from now on. Connections that stand are not asked again.
    pub fn renew_password(&self, password: Secret) {
        *self.password.write().unwrap_or_else(PoisonError::into_inner) = Some(password);
    }

    async fn connect(&self) -> Result<Link> {
        let password = self
            .password
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let door = Door {
            config: &self.config,
            times: &self.times,
            tls: self.tls.as_ref(),
            hello: &self.hello,
            login: self.config.user.as_deref().zip(password),
        };
        door.enter().await
    }

    async fn turn(&self, ctx: Option<&Context>, envelope: Option<Envelope>) -> Result<Turn> {
        let now = self.clock.now();
        let turn = self.pool.turn(envelope, self.config.pool, now, IDLE);
        match ctx.and_then(Context::until) {
            None => Ok(turn.await),
            Some(until) => tokio::time::timeout(until.since(now), turn).await.map_err(|_| {
                Error::new(ErrorKind::Timeout, "no connection was free before the deadline")
                    .operation("mail.send")
            }),
        }
    }

    async fn deliver(&self, ctx: &Context, letter: &Letter) -> Result<Reply> {
        let turn = self.turn(Some(ctx), Some(letter.envelope.clone())).await?;
        let Turn {
            mut slot,
            link,
            opened,
        } = turn;
        let reused = link.is_some();
        let mut link = match link {
            Some(link) => link,
            None => self.connect().await?,
        };
        let mut answer = self.talk(&mut link, &mut slot).deliver(letter, opened).await;
        if let Err(failed) = &answer
            && failed.stale
            && reused
        {
            // The server closed a kept connection meanwhile, which shows at the first command: a fresh one tells more.
            tracing::debug!(error = %failed.error, "a kept connection was gone");
            link = self.connect().await?;
            answer = self.talk(&mut link, &mut slot).deliver(letter, false).await;
        }
        if answer.as_ref().err().is_some_and(|failed| !failed.fit) {
            drop(link);
        } else if link.used >= self.config.per_connection {
            link.farewell();
        } else {
            link.last = self.clock.now();
            slot.pass(link);
        }
        answer.map_err(|failed| failed.error)
    }

    fn talk<'a>(&'a self, link: &'a mut Link, slot: &'a mut Slot) -> Talk<'a> {
        Talk {
            link,
            slot,
            times: &self.times,
            per_connection: self.config.per_connection,
        }
    }

    /// The signers that vouch for the sender.
    fn vouching(&self, mail: &Email) -> Result<Vec<&DkimSigner>> {
        let domain = mail.from.address.domain();
        let signers: Vec<_> = self
            .signers
            .iter()
            .filter(|signer| signer.vouches_for(domain))
            .collect();
        if signers.is_empty() && !self.signers.is_empty() {
            return Err(Error::invalid(
                "no DKIM key of this mailer vouches for the sender's domain; add one, or send from a domain that has one",
            )
            .operation("mail.send")
            .with("field", "from")
            .with("domain", domain)
            .blame(Blame::Sender));
        }
        Ok(signers)
    }
}

/// The machine's own name, or where it has none that can be said, the form that stands for none (RFC 5321, 4.1.3).
fn own_name() -> String {
    hostname::get()
        .ok()
        .and_then(|name| name.into_string().ok())
        .filter(|name| {
            (1..=253).contains(&name.len())
                && name
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.')
        })
        .unwrap_or_else(|| "[127.0.0.1]".to_owned())
}

/// Trusts the public authorities, or only those of the file. The cryptography is ring's; nothing is installed for the
/// process.
fn client(config: &SmtpConfig) -> Result<ClientConfig> {
    let wrong = |message: &'static str| Error::config(message).with("setting", "ca_file");
    let mut roots = RootCertStore::empty();
    match &config.ca_file {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(path) => {
            let pem = std::fs::read(path).map_err(|e| {
                wrong("the file of authorities cannot be read")
                    .with("path", path.display())
                    .source(e)
            })?;
            for certificate in CertificateDer::pem_slice_iter(&pem) {
                let added = match certificate {
                    Ok(certificate) => roots.add(certificate).map_err(|e| e.to_string()),
                    Err(e) => Err(e.to_string()),
                };
                added.map_err(|cause| {
                    wrong("the file holds a damaged certificate")
                        .with("path", path.display())
                        .with("cause", cause)
                })?;
            }
            if roots.is_empty() {
                return Err(wrong("the file holds no certificate in PEM").with("path", path.display()));
            }
        }
    }
    Ok(
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|e| {
                Error::config("TLS cannot be set up")
                    .with("setting", "tls")
                    .source(e)
            })?
            .with_root_certificates(roots)
            .with_no_client_auth(),
    )
}

/// What the server calls the message: `Ok: queued as 4bXyZ` (Postfix), `OK id=1abc` (Exim).
fn queue_id(said: &str) -> Option<&str> {
    let (_, after) = said
        .rsplit_once("queued as ")
        .or_else(|| said.rsplit_once(" id="))?;
    let id = after.split_ascii_whitespace().next()?;
    (!id.contains('@') && id.len() <= 100).then_some(id)
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
        let Turn { slot, link, .. } = self.turn(None, None).await?;
        // A kept connection that the server closed meanwhile says nothing about the server.
        if let Some(mut link) = link {
            let mut written = 0;
            let asked = link
                .say(Noop.to_string().as_bytes(), self.times.command, &mut written)
                .await;
            if asked.is_ok()
                && link
                    .reply(self.times.command)
                    .await
                    .is_ok_and(|r| r.is_positive())
            {
                link.last = self.clock.now();
                slot.pass(link);
                return Ok(Health::Ready);
            }
        }
        let mut link = self.connect().await?;
        link.last = self.clock.now();
        slot.pass(link);
        Ok(Health::Ready)
    }
}

#[async_trait]
impl Mailer for SmtpMailer {
    fn capability(&self) -> MailCapability {
        MailCapability::new(MAX_BYTES, false, true)
    }

    async fn send(&self, ctx: &Context, mail: &Permitted<Email>) -> Result<Receipt> {
        ctx.check(&*self.clock)?;
        let mail = mail.message();
        let built = mime::build(mail, self.clock.now(), &self.vouching(mail)?)
            .map_err(|error| error.operation("mail.send"))?;
        if built.bytes.len() as u64 > MAX_BYTES {
            return Err(Error::invalid("the message is larger than mail servers take")
                .operation("mail.send")
                .with("bytes", built.bytes.len())
                .with("most", MAX_BYTES));
        }
        let letter = Letter {
            envelope: Envelope::of(mail, &built.bytes, built.utf8, &self.config.dsn)
                .map_err(|error| error.operation("mail.send"))?,
            content: mime::stuffed(&built.bytes),
        };
        let reply = self.deliver(ctx, &letter).await?;
        let said = scrub(&reply.text, mail.to.address.as_str());
        Ok(Receipt::new(
            self.info.name.clone(),
            queue_id(&said).map_or_else(|| mail.message_id(), str::to_owned),
            self.clock.now(),
        )
        .detail(said))
    }
}
