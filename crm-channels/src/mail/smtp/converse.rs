//! The conversation about one message, in as few turns as the server allows (PIPELINING, RFC 2920).

use std::fmt::Write as _;

use crm_core::customer::EmailAddress;
use crm_core::message::Email;
use crm_core::{Error, Result};
use lettre::Address;
use lettre::transport::smtp::commands::{Data, Mail, Rcpt, Rset};
use lettre::transport::smtp::extension::{MailBodyParameter, MailParameter};

use super::config::Times;
use super::dsn::{Asked, DsnConfig};
use super::error::{Phase, broken, classify, odd};
use super::link::{Abilities, Broken, Link};
use super::pool::Slot;
use super::reply::Reply;

/// Who it is from and to whom, as the server is told.
#[derive(Debug, Clone)]
pub(super) struct Envelope {
    from: Address,
    to: Address,
    bytes: usize,
    /// Needs SMTPUTF8 (RFC 6531).
    utf8: bool,
    /// What servers that offer it are asked to report.
    dsn: Option<Asked>,
}

impl Envelope {
    /// # Errors
    /// [`crm_core::ErrorKind::Invalid`] when an address has characters that no command may have.
    pub(super) fn of(mail: &Email, bytes: &[u8], utf8: bool, dsn: &DsnConfig) -> Result<Self> {
        let address = |email: &EmailAddress, field: &'static str| {
            let forbidden = |c: char| c.is_control() || c.is_whitespace() || matches!(c, '<' | '>');
            let address = Address::new(email.local(), email.domain()).ok();
            address
                .filter(|_| !email.as_str().contains(forbidden))
                .ok_or_else(|| Error::invalid("an address that SMTP cannot carry").with("field", field))
        };
        let from = mail.bounces_to.as_ref().unwrap_or(&mail.from.address);
        let to = &mail.to.address;
        Ok(Self {
            utf8: utf8 || !from.as_str().is_ascii() || !to.as_str().is_ascii(),
            from: address(from, "from")?,
            to: address(to, "to")?,
            bytes: bytes.len(),
            dsn: Asked::of(dsn, mail.id),
        })
    }

    /// Whether a server with these abilities can take it.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Invalid`] naming what it lacks.
    pub(super) fn fits(&self, abilities: &Abilities) -> Result<()> {
        if self.utf8 && !abilities.utf8 {
            return Err(
                Error::invalid("this server takes no letters beyond ASCII before the @ (RFC 6531)")
                    .with("field", "to"),
            );
        }
        match abilities.size {
            Some(most) if most > 0 && self.bytes as u64 > most => {
                Err(Error::invalid("the message is larger than this server takes")
                    .with("bytes", self.bytes)
                    .with("most", most)
                    .blame(crm_core::message::Blame::Content))
            }
            _ => Ok(()),
        }
    }

    fn mail(&self, out: &mut String, abilities: &Abilities) {
        let mut parameters = Vec::new();
        if abilities.size.is_some() {
            parameters.push(MailParameter::Size(self.bytes));
        }
        if self.utf8 {
            // What has such headers is 8-bit (RFC 6531, 3.4).
            if abilities.eight_bit {
                parameters.push(MailParameter::Body(MailBodyParameter::EightBitMime));
            }
            parameters.push(MailParameter::SmtpUtfEight);
        }
        if let Some(asked) = self.dsn.as_ref().filter(|_| abilities.dsn) {
            parameters.extend(asked.mail());
        }
        let _ = write!(out, "{}", Mail::new(Some(self.from.clone()), parameters));
    }

    fn recipient(&self, out: &mut String, abilities: &Abilities) {
        let asked = self.dsn.as_ref().filter(|_| abilities.dsn);
        let parameters = asked.map_or_else(Vec::new, |asked| asked.recipient(self.to.as_ref()));
        let _ = write!(out, "{}", Rcpt::new(self.to.clone(), parameters));
    }

    /// Everything before the content, as one group.
    fn opening(&self, link: &Link) -> String {
        let mut out = String::with_capacity(192);
        if link.unclean {
            let _ = write!(out, "{Rset}");
        }
        self.mail(&mut out, &link.abilities);
        self.recipient(&mut out, &link.abilities);
        let _ = write!(out, "{Data}");
        out
    }
}

/// A message with its dots doubled and its last line, ready for the wire.
pub(super) struct Letter {
    pub(super) envelope: Envelope,
    pub(super) content: Vec<u8>,
}

/// How a conversation failed.
pub(super) struct Failed {
    pub(super) error: Error,
    /// The connection is in order: the next message may go over it.
    pub(super) fit: bool,
    /// The server had gone away before it heard of the message.
    pub(super) stale: bool,
}

impl Failed {
    fn unfit(error: Error) -> Self {
        Self {
            error,
            fit: false,
            stale: false,
        }
    }
}

/// A refusal is an answer in good order unless the server goes away with it or answers another question.
fn refused(phase: Phase, reply: &Reply, recipient: &str) -> Failed {
    let error = classify(phase, reply.code, &reply.text, recipient);
    let fit = reply.code != 421 && (400..600).contains(&reply.code);
    Failed {
        error,
        fit,
        stale: false,
    }
}

/// Leads one conversation over one connection.
pub(super) struct Talk<'a> {
    pub(super) link: &'a mut Link,
    pub(super) slot: &'a mut Slot,
    pub(super) times: &'a Times,
    /// After so many messages a connection is given up.
    pub(super) per_connection: u32,
}

impl Talk<'_> {
    /// Hands the message over. `opened`: its envelope was said before, by whoever had the connection.
    pub(super) async fn deliver(&mut self, letter: &Letter, opened: bool) -> Result<Reply, Failed> {
        letter
            .envelope
            .fits(&self.link.abilities)
            .map_err(|error| Failed {
                error: error.operation("mail.send"),
                fit: !opened,
                stale: false,
            })?;
        // What comes unasked is a goodbye, or an answer that would pass for one to us.
        if !opened && !self.link.is_quiet() {
            return Err(Failed {
                stale: true,
                ..Failed::unfit(broken(Phase::From, Broken::Closed))
            });
        }
        self.open(&letter.envelope, opened).await?;
        self.link.used += 1;
        self.hand_over(letter).await
    }

    /// `MAIL`, `RCPT` and `DATA`, until the server asks for the content.
    async fn open(&mut self, envelope: &Envelope, opened: bool) -> Result<(), Failed> {
        let grouped = self.link.abilities.pipelining;
        let reset = self.link.unclean;
        if grouped && !opened {
            let opening = envelope.opening(self.link);
            self.say(Phase::From, &opening).await?;
        }
        self.link.unclean = false;
        if reset {
            if !grouped {
                self.say(Phase::From, &Rset.to_string()).await?;
            }
            let reply = self.first().await?;
            if !reply.is_positive() {
                return Err(Failed {
                    fit: false,
                    stale: true,
                    ..refused(Phase::From, &reply, envelope.to.as_ref())
                });
            }
        }
        let mut command = String::new();
        if !grouped {
            envelope.mail(&mut command, &self.link.abilities);
            self.say(Phase::From, &command).await?;
        }
        let mail = self.first().await?;
        if mail.code == 421 {
            return Err(Failed {
                stale: true,
                ..refused(Phase::From, &mail, envelope.to.as_ref())
            });
        }
        if mail.code != 250 && !grouped {
            return Err(refused(Phase::From, &mail, envelope.to.as_ref()));
        }
        if !grouped {
            command.clear();
            envelope.recipient(&mut command, &self.link.abilities);
            self.say(Phase::Recipient, &command).await?;
        }
        let recipient = match self.reply(Phase::Recipient).await {
            Ok(reply) => reply,
            // What it said before it went away counts.
            Err(_) if mail.code != 250 => {
                return Err(Failed {
                    fit: false,
                    ..refused(Phase::From, &mail, envelope.to.as_ref())
                });
            }
            Err(failed) => return Err(failed),
        };
        let taken = matches!(recipient.code, 250..=252);
        if mail.code == 250 && (recipient.code == 421 || (!taken && !grouped)) {
            self.link.unclean = true;
            return Err(refused(Phase::Recipient, &recipient, envelope.to.as_ref()));
        }
        if !grouped {
            self.say(Phase::Data, &Data.to_string()).await?;
        }
        let data = self.link.reply(self.times.data).await;
        let failed = if mail.code != 250 {
            Some(refused(Phase::From, &mail, envelope.to.as_ref()))
        } else if !taken {
            Some(refused(Phase::Recipient, &recipient, envelope.to.as_ref()))
        } else {
            None
        };
        let (failed, data) = match (failed, data) {
            (None, Ok(data)) if data.code == 354 => return Ok(()),
            (None, Ok(data)) => (refused(Phase::Data, &data, envelope.to.as_ref()), data),
            (None, Err(cause)) => return Err(Failed::unfit(broken(Phase::Data, cause))),
            (Some(failed), Ok(data)) => (failed, data),
            (Some(failed), Err(_)) => return Err(Failed { fit: false, ..failed }),
        };
        if data.code != 354 {
            self.link.unclean = mail.code == 250;
            return Err(failed);
        }
        // It asks for a content that it has no recipient for: it gets an empty one (RFC 2920, 3.1).
        let ended =
            self.say(Phase::Data, ".\r\n").await.is_ok() && self.link.reply(self.times.end).await.is_ok();
        Err(Failed {
            fit: failed.fit && ended,
            ..failed
        })
    }

    /// The content, and behind it the envelope of the next message where there is one.
    async fn hand_over(&mut self, letter: &Letter) -> Result<Reply, Failed> {
        let recipient = letter.envelope.to.as_ref();
        // An answer before the question would acknowledge what was never said.
        if !self.link.is_quiet() {
            return Err(Failed::unfit(broken(
                Phase::Data,
                Broken::Garbage("it spoke out of turn"),
            )));
        }
        let abilities = &self.link.abilities;
        if abilities.pipelining && self.link.used < self.per_connection {
            self.slot.invite(|envelope| envelope.fits(abilities).is_ok());
        }
        let mut written = 0;
        let said = match self.slot.invited() {
            Some(next) => {
                let opening = next.opening(self.link);
                let together = [letter.content.as_slice(), opening.as_bytes()].concat();
                self.link.say(&together, self.times.block, &mut written).await
            }
            None => {
                self.link
                    .say(&letter.content, self.times.block, &mut written)
                    .await
            }
        };
        if let Err(cause) = said {
            if written >= letter.content.len() {
                return Err(Failed::unfit(broken(Phase::End, cause)));
            }
            // The dot never went out. A server that hangs up often said why.
            return Err(match self.link.reply(self.times.parting).await {
                Ok(reply) if reply.code >= 400 => Failed {
                    fit: false,
                    ..refused(Phase::Data, &reply, recipient)
                },
                _ => Failed::unfit(broken(Phase::Data, cause)),
            });
        }
        let reply = self
            .link
            .reply(self.times.end)
            .await
            .map_err(|cause| Failed::unfit(broken(Phase::End, cause)))?;
        match reply.code {
            250 => Ok(reply),
            400..600 => Err(refused(Phase::End, &reply, recipient)),
            _ => Err(Failed::unfit(odd(Phase::End, &reply))),
        }
    }

    async fn say(&mut self, phase: Phase, commands: &str) -> Result<(), Failed> {
        let mut written = 0;
        self.link
            .say(commands.as_bytes(), self.times.command, &mut written)
            .await
            .map_err(|cause| Failed {
                stale: phase == Phase::From && matches!(cause, Broken::Closed),
                ..Failed::unfit(broken(phase, cause))
            })
    }

    /// The reply to the first command: without one, the server has heard of nothing.
    async fn first(&mut self) -> Result<Reply, Failed> {
        self.link.reply(self.times.command).await.map_err(|cause| Failed {
            stale: matches!(cause, Broken::Closed),
            ..Failed::unfit(broken(Phase::From, cause))
        })
    }

    async fn reply(&mut self, phase: Phase) -> Result<Reply, Failed> {
        self.link
            .reply(self.times.command)
            .await
            .map_err(|cause| Failed::unfit(broken(phase, cause)))
    }
}
