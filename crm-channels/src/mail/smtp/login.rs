//! From a connected socket to a server that takes mail: greeting, `EHLO`, TLS, log-in.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crm_core::{Error, ErrorKind, Result};
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::commands::{self, Ehlo, Starttls};
use lettre::transport::smtp::extension::ClientId;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use super::config::{Auth, SmtpConfig, Times, Tls};
use super::error::{Phase, broken, classify, handshake};
use super::link::{Abilities, Link};
use super::reply::Reply;

/// What a connection needs to be made.
pub(super) struct Door<'a> {
    pub(super) config: &'a SmtpConfig,
    pub(super) times: &'a Times,
    pub(super) tls: Option<&'a Arc<ClientConfig>>,
    pub(super) hello: &'a str,
    /// User and password, or token.
    pub(super) login: Option<(&'a str, crm_core::Secret)>,
}

impl Door<'_> {
    /// A fresh connection: greeted, protected, logged in.
    pub(super) async fn enter(&self) -> Result<Link> {
        let config = self.config;
        let opening = Link::open(&config.host, config.port());
        let mut link = match tokio::time::timeout(self.times.connect, opening).await {
            Err(_) => return Err(broken(Phase::Connect, super::link::Broken::Late)),
            Ok(link) => link.map_err(|error| broken(Phase::Connect, error.into()))?,
        };
        if config.tls == Tls::Implicit {
            link = self.secure(link, Phase::Connect).await?;
        }
        let greeting = link
            .reply(self.times.greeting)
            .await
            .map_err(|cause| broken(Phase::Connect, cause))?;
        if greeting.code != 220 {
            return Err(classify(Phase::Connect, greeting.code, &greeting.text, ""));
        }
        self.hello(&mut link).await?;
        if config.tls == Tls::Starttls {
            if !link.abilities.starttls {
                return Err(Error::config(
                    "the server offers no STARTTLS; the connection is not used without it",
                )
                .operation("mail.send")
                .with("setting", "tls"));
            }
            let reply = self.ask(&mut link, Phase::Tls, &Starttls.to_string()).await?;
            if reply.code != 220 {
                return Err(classify(Phase::Tls, reply.code, &reply.text, ""));
            }
            link = self.secure(link, Phase::Tls).await?;
            self.hello(&mut link).await?;
        }
        self.log_in(&mut link).await?;
        Ok(link)
    }

    async fn secure(&self, link: Link, phase: Phase) -> Result<Link> {
        let Some(tls) = self.tls else {
            return Err(Error::config("TLS is not set up").with("setting", "tls"));
        };
        let name = ServerName::try_from(self.config.host.clone())
            .map_err(|_| Error::config("not a name that a certificate can carry").with("setting", "host"))?;
        match tokio::time::timeout(self.times.connect, link.secure(tls.clone(), name)).await {
            Err(_) => Err(broken(phase, super::link::Broken::Late)),
            Ok(link) => link.map_err(|error| handshake(phase, error)),
        }
    }

    async fn ask(&self, link: &mut Link, phase: Phase, command: &str) -> Result<Reply> {
        let mut written = 0;
        link.say(command.as_bytes(), self.times.command, &mut written)
            .await
            .map_err(|cause| broken(phase, cause))?;
        link.reply(self.times.command)
            .await
            .map_err(|cause| broken(phase, cause))
    }

    async fn hello(&self, link: &mut Link) -> Result<()> {
        let reply = self
            .ask(
                link,
                Phase::Connect,
                &Ehlo::new(ClientId::Domain(self.hello.to_owned())).to_string(),
            )
            .await?;
        if reply.code == 250 {
            link.abilities = Abilities::of(&reply);
            return Ok(());
        }
        // A server from before 1995 knows nothing but SMTP (RFC 5321, 4.1.4).
        if matches!(reply.code, 500 | 502 | 504) && self.config.tls == Tls::DangerousPlaintext {
            let reply = self
                .ask(link, Phase::Connect, &format!("HELO {}\r\n", self.hello))
                .await?;
            if reply.code == 250 {
                return Ok(());
            }
        }
        Err(classify(Phase::Connect, reply.code, &reply.text, ""))
    }

    async fn log_in(&self, link: &mut Link) -> Result<()> {
        let Some((user, password)) = &self.login else {
            return Ok(());
        };
        let offered = |name: &str| link.abilities.auth.iter().any(|auth| auth == name);
        let auth = match self.config.auth {
            Auth::Auto => [Auth::Plain, Auth::Login, Auth::CramMd5]
                .into_iter()
                .find(|auth| offered(auth.as_str())),
            // Told what to do, it is tried: the server says no if it does not know it.
            named => Some(named),
        };
        let Some(auth) = auth else {
            return Err(
                Error::config("the server offers none of PLAIN, LOGIN and CRAM-MD5 to log in with")
                    .operation("mail.send")
                    .with("setting", "user"),
            );
        };
        let secret = password.expose();
        let credentials = Credentials::new((*user).to_owned(), secret.to_owned());
        let mechanism = match auth {
            Auth::Auto | Auth::Plain => Some(Mechanism::Plain),
            Auth::Xoauth2 => Some(Mechanism::Xoauth2),
            Auth::Login => Some(Mechanism::Login),
            // Not one of lettre's.
            Auth::CramMd5 => None,
        };
        let start = match mechanism {
            Some(mechanism) => commands::Auth::new(mechanism, credentials, None)
                .map_err(|e| {
                    Error::config("cannot log in so")
                        .with("setting", "auth")
                        .source(e)
                })?
                .to_string(),
            None => format!("AUTH {}\r\n", auth.as_str()),
        };
        let mut reply = self.ask(link, Phase::Login, &start).await?;
        if reply.code == 334 {
            let words = match auth {
                Auth::Login => vec![STANDARD.encode(user), STANDARD.encode(secret)],
                Auth::CramMd5 => {
                    let challenge = STANDARD.decode(reply.text.trim()).map_err(|_| {
                        Error::new(ErrorKind::Unexpected, "the server's challenge is no Base64")
                            .operation("mail.send")
                            .with("phase", "auth")
                    })?;
                    let proof = hmac_md5(secret.as_bytes(), &challenge);
                    let hex: String = proof.iter().map(|b| format!("{b:02x}")).collect();
                    vec![STANDARD.encode(format!("{user} {hex}"))]
                }
                // The server explains its no and waits for an empty line before it says it.
                Auth::Xoauth2 => vec![String::new()],
                Auth::Auto | Auth::Plain => vec![STANDARD.encode(format!("\0{user}\0{secret}"))],
            };
            for word in words {
                if reply.code != 334 {
                    break;
                }
                reply = self.ask(link, Phase::Login, &format!("{word}\r\n")).await?;
            }
        }
        if reply.code == 235 {
            Ok(())
        } else {
            Err(classify(Phase::Login, reply.code, &reply.text, user))
        }
    }
}

/// RFC 2104 over MD5, which CRAM-MD5 (RFC 2195) asks for and nothing else here.
fn hmac_md5(key: &[u8], text: &[u8]) -> [u8; 16] {
    use md5::{Digest, Md5};
    let mut block = [0_u8; 64];
    if key.len() > 64 {
        let short = Md5::digest(key);
        block.iter_mut().zip(short).for_each(|(to, from)| *to = from);
    } else {
        block.iter_mut().zip(key).for_each(|(to, from)| *to = *from);
    }
    let inner = Md5::new()
        .chain_update(block.map(|b| b ^ 0x36))
        .chain_update(text)
        .finalize();
    Md5::new()
        .chain_update(block.map(|b| b ^ 0x5c))
        .chain_update(inner)
        .finalize()
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hmac_md5_as_in_rfc_2202_and_2195() {
        let hex = |bytes: [u8; 16]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        assert_eq!(
            hex(hmac_md5(&[0x0b; 16], b"Hi There")),
            "9294727a3638bb1c13f48ef8158bfc9d"
        );
        assert_eq!(
            hex(hmac_md5(
                &[0xaa; 80],
                b"Test Using Larger Than Block-Size Key - Hash Key First"
            )),
            "6b1ab7fe4bd7bf8f0b62e6ce61b9d0cd"
        );
        assert_eq!(
            hex(hmac_md5(
                b"tanstaaftanstaaf",
                b"<1896.697170952@postoffice.reston.mci.net>"
            )),
            "b913a602c7eda7a495b4e6e7334d3890"
        );
    }
}
