use std::fmt;

use crm_core::capability::{WebhookReply, WebhookRequest, WebhookSource};
use crm_core::message::{DeliveryEvent, DeliveryState, InboundEvent, MessageId, Sendable as _};
use crm_core::registry::Pool;
use crm_core::{Context, Error, ErrorKind, Health, Registry, Result, Secret, Uuid};
use sha2::{Digest as _, Sha256};

use super::ingest::IngestReport;
use super::page;
use super::report::{Action, MailReport, RecipientReport, ReturnedMail};
use crate::Outreach;
use crate::outbox::{OUTBOX, message};

/// The name under which what mail servers tell is kept.
const MAIL: &str = "mail";

/// How much is taken in at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Caps {
    /// The largest body of a webhook, in bytes; anything larger is refused before it is even looked at.
    pub webhook: usize,
    /// The largest mail, in bytes, at most 10 MiB.
    pub mail: usize,
}

impl Default for Caps {
    fn default() -> Self {
        Self {
            webhook: 1024 * 1024,
            mail: super::mime::MAX_BYTES,
        }
    }
}

/// What a mail that came back did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum MailOutcome {
    /// It was news about a message of ours.
    News(MessageId, IngestReport),
    /// It is about a message of ours that is still on its way.
    Delayed(MessageId),
    /// Its subject is a link to unsubscribe, and that was done.
    Unsubscribed(MessageId),
    /// A machine's answer: nothing was done.
    AutoReply,
    /// Nothing that concerns deliveries: for a person to read.
    Other,
}

/// The front desk: takes what comes in from outside, as bytes, and answers. Knows no web framework; with the feature
/// `api` it also is an axum router.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use std::sync::Arc;
/// use crm_channels::Outreach;
/// use crm_channels::inbound::{Inbound, LinkKey, Unsubscribe};
/// use crm_channels::mail::RecordMailer;
/// use crm_core::capability::{Mailer, RecordStore, WebhookRequest};
/// use crm_core::consent::AddressKey;
/// use crm_core::memory::MemoryStore;
/// use crm_core::{Consumer, Registry, Secret};
///
/// let registry = Registry::builder()
///     .provide::<dyn RecordStore>(0, Arc::new(MemoryStore::new("records")))
///     .provide::<dyn Mailer>(0, Arc::new(RecordMailer::new("record")))
///     .build()
///     .unwrap();
/// let links = LinkKey::new(&Secret::new("32 random bytes kept in a vault")).unwrap();
/// let outreach = Outreach::bind(&registry).unwrap()
///     .address_key(AddressKey::new(&Secret::new("another secret of many bytes")).unwrap())
///     .with_unsubscribe(Unsubscribe::new(links, "https://mail.example.com".parse().unwrap()).unwrap());
/// let desk = Inbound::new(&registry, outreach);
/// let request = WebhookRequest::post("https://mail.example.com/u/forged".parse().unwrap(), "List-Unsubscribe=One-Click");
/// assert_eq!(desk.unsubscribe("forged", &request).await.status, 403);
/// # });
/// ```
#[derive(Clone)]
pub struct Inbound {
    pub(super) outreach: Outreach,
    sources: Option<Pool<dyn WebhookSource>>,
    pub(super) caps: Caps,
    mail_secret: Option<[u8; 32]>,
}

impl Inbound {
    /// A desk for this consumer, with every webhook source of the registry.
    pub fn new(registry: &Registry, outreach: Outreach) -> Self {
        Self {
            outreach,
            sources: registry.pool::<dyn WebhookSource>().ok(),
            caps: Caps::default(),
            mail_secret: None,
        }
    }

    /// Takes in this much at once.
    #[must_use]
    pub fn caps(mut self, caps: Caps) -> Self {
        self.caps = Caps {
            mail: caps.mail.min(super::mime::MAX_BYTES),
            ..caps
        };
        self
    }

    /// Whoever hands in mail over HTTP must say this secret (`Authorization: Bearer ...`). Bounces prove themselves by
    /// their return path; this keeps strangers from keeping us busy.
    #[must_use]
    pub fn mail_secret(mut self, secret: &Secret) -> Self {
        self.mail_secret = Some(Sha256::digest(secret.expose().as_bytes()).into());
        self
    }

    /// Whether this header lets somebody hand in mail.
    pub fn may_hand_in_mail(&self, authorization: Option<&str>) -> bool {
        let Some(wanted) = self.mail_secret else {
            return true;
        };
        let said = authorization
            .and_then(|a| a.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim());
        // Compared as hashes: how long it takes says nothing about the secret.
        said.is_some_and(|token| <[u8; 32]>::from(Sha256::digest(token.as_bytes())) == wanted)
    }

    /// Takes a vendor's call: size, then signature, then content, then the store; only when that has committed it answers
    /// what makes the vendor content. Anything but a status of 2xx changed nothing that a repetition would double.
    ///
    /// `request.url` must be the URL as the vendor called it.
    pub async fn webhook(&self, ctx: &Context, provider: &str, request: &WebhookRequest) -> WebhookReply {
        let reply = |status, text: &'static str| WebhookReply::new(status, "text/plain; charset=utf-8", text);
        if request.body.len() > self.caps.webhook {
            return reply(413, "too large");
        }
        let source = self.sources.as_ref().and_then(|pool| {
            let named = |entry: &&std::sync::Arc<crm_core::registry::Entry<dyn WebhookSource>>| {
                entry.provider().info().name == provider
            };
            pool.entries()
                .iter()
                .find(named)
                .map(|entry| entry.provider().clone())
        });
        let Some(source) = source else {
            return reply(404, "no such provider");
        };
        let events = match source.receive(request).await {
            Ok(events) => events,
            Err(error) => {
                tracing::warn!(provider, %error, "a webhook was refused");
                return match error.kind() {
                    ErrorKind::Unauthenticated | ErrorKind::PermissionDenied => {
                        reply(403, "not proven to come from the vendor")
                    }
                    ErrorKind::Invalid => reply(400, "cannot be read"),
                    ErrorKind::NotFound | ErrorKind::Unsupported => reply(404, "not here"),
                    _ => reply(503, "try again").header("retry-after", "30"),
                };
            }
        };
        match self.outreach.ingest(ctx, events).await {
            Ok(report) => {
                tracing::debug!(provider, ?report, "a webhook was taken in");
                source.accepted()
            }
            Err(error) => {
                tracing::error!(provider, %error, "a webhook could not be stored; the vendor will call again");
                reply(503, "try again").header("retry-after", "30")
            }
        }
    }

    /// Answers at a link to unsubscribe. `POST` unsubscribes, from a mailbox provider's button (RFC 8058) or from our own
    /// page; `GET` shows that page and `HEAD` nothing: link scanners follow links. No cookie is set or asked for, and
    /// nothing redirects.
    pub async fn unsubscribe(&self, token: &str, request: &WebhookRequest) -> WebhookReply {
        let texts = self.texts(request);
        let subject = match self.outreach.unsubscriber().and_then(|u| u.read(token)) {
            Ok(subject) => subject,
            Err(error) => {
                tracing::debug!(%error, "a link was refused");
                return page::invalid(&texts);
            }
        };
        let title = self.outreach.inbound.title(&subject.purpose, &texts.language);
        match request.method.as_str() {
            "GET" => page::ask(&texts, &title),
            "HEAD" => page::ask(&texts, &title).without_body(),
            "POST" => match self.outreach.unsubscribe(token).await {
                Ok(_) => page::done(&texts, &title),
                Err(error) => {
                    tracing::error!(%error, "an opt-out could not be stored");
                    page::busy(&texts)
                }
            },
            _ => not_allowed(),
        }
    }

    pub(super) fn texts(&self, request: &WebhookRequest) -> page::PageTexts {
        let accept = request.headers.get("accept-language").map(String::as_str);
        self.outreach.inbound.languages.fitting(accept)
    }

    /// Takes a mail that came to an address of ours: a bounce (RFC 3464), a complaint (RFC 5965), a mail to unsubscribe.
    /// What it says counts only when a return path or a link of ours in it is authentic; `envelope_to` is the address that
    /// it came to, where the mail server tells (RFC 5321's `RCPT TO`).
    ///
    /// # Errors
    /// [`ErrorKind::Unauthenticated`] for a bounce or complaint that proves nothing: nothing was changed;
    /// [`ErrorKind::Invalid`] when it is too large; those of the store.
    pub async fn mail(&self, ctx: &Context, mail: &[u8], envelope_to: Option<&str>) -> Result<MailOutcome> {
        if mail.len() > self.caps.mail {
            return Err(Error::invalid("the mail is too large")
                .operation("inbound.mail")
                .with("bytes", mail.len())
                .with("most", self.caps.mail));
        }
        let mail = ReturnedMail::read(mail)?;
        let path = self.outreach.inbound.return_path.as_ref();
        let ours = path.and_then(|path| {
            let addresses = envelope_to
                .into_iter()
                .chain(mail.addresses.iter().map(String::as_str));
            addresses
                .into_iter()
                .find_map(|address| path.read(ctx.tenant(), address))
        });
        let unsubscribe = self.outreach.inbound.unsubscribe.as_ref();
        let link = || {
            unsubscribe
                .and_then(|u| u.find(&mail.links))
                .filter(|subject| subject.tenant == *ctx.tenant())
        };
        match &mail.report {
            MailReport::AutoReply => Ok(MailOutcome::AutoReply),
            MailReport::Other => match link() {
                Some(subject) => {
                    let notice = "a mail to the address in List-Unsubscribe (RFC 2369)";
                    self.outreach
                        .unsubscribe_subject(&subject, "unsubscribe by mail", notice)
                        .await?;
                    Ok(MailOutcome::Unsubscribed(subject.message))
                }
                None => Ok(MailOutcome::Other),
            },
            // A reader who takes "spam" back.
            MailReport::Complaint(feedback) if feedback == "not-spam" => Ok(MailOutcome::Other),
            MailReport::Complaint(feedback) => {
                let id = ours
                    .or_else(|| link().map(|subject| subject.message))
                    .ok_or_else(forged)?;
                let code: String = feedback
                    .chars()
                    .filter(char::is_ascii_alphanumeric)
                    .take(20)
                    .collect();
                let event = self.event(
                    id,
                    &format!("complaint:{code}"),
                    DeliveryState::Complained,
                    Some(code),
                );
                self.take(ctx, id, vec![event]).await
            }
            MailReport::Delivery(recipients) => {
                let id = ours.ok_or_else(forged)?;
                // A report that names its envelope is about that one. Names that are not of our making say nothing.
                let named = mail.envelope_id.as_deref();
                let named = named.and_then(|name| Uuid::try_parse(name).ok());
                if named.is_some_and(|named| named != id.uuid()) {
                    return Ok(MailOutcome::Other);
                }
                let Some(concerned) = self.concerned(ctx, id, recipients).await? else {
                    return Ok(MailOutcome::Other);
                };
                let events: Vec<DeliveryEvent> =
                    concerned.iter().filter_map(|r| self.event_of(id, r)).collect();
                if events.is_empty() {
                    return Ok(MailOutcome::Delayed(id));
                }
                self.take(ctx, id, events).await
            }
        }
    }

    async fn take(&self, ctx: &Context, id: MessageId, events: Vec<DeliveryEvent>) -> Result<MailOutcome> {
        let events = events.into_iter().map(InboundEvent::Delivery).collect();
        let report = self.outreach.ingest(ctx, events).await?;
        Ok(MailOutcome::News(id, report))
    }

    /// The lines of a report that are about the message's one recipient. Behind an alias the address may be another one:
    /// then all lines together say what became of it, and one that arrived outweighs one that did not.
    async fn concerned(
        &self,
        ctx: &Context,
        id: MessageId,
        recipients: &[RecipientReport],
    ) -> Result<Option<Vec<RecipientReport>>> {
        let found = self.outreach.store.get(ctx, &OUTBOX, &[id.uuid()]).await?;
        let Some(row) = found.into_iter().next().flatten() else {
            return Ok(None); // authentic, but of a message that is no longer kept
        };
        let message = message(&row.record)?;
        let own = recipients.iter().filter(|r| r.is_for(message.recipient()));
        let own: Vec<RecipientReport> = own.cloned().collect();
        if !own.is_empty() {
            return Ok(Some(own));
        }
        let went_on = |r: &&RecipientReport| r.action != Action::Failed;
        Ok(Some(match recipients.iter().find(went_on) {
            Some(one) => vec![one.clone()],
            None => recipients.iter().take(1).cloned().collect(),
        }))
    }

    fn event_of(&self, id: MessageId, recipient: &RecipientReport) -> Option<DeliveryEvent> {
        let state = match recipient.action {
            Action::Failed => DeliveryState::Failed,
            Action::Delivered => DeliveryState::Delivered,
            // It went on to where nobody reports: taken, and no more.
            Action::Relayed | Action::Expanded => DeliveryState::Accepted,
            Action::Delayed | Action::Other => return None,
        };
        let code = recipient.status.map(|status| status.to_string());
        let name = format!(
            "{}:{}",
            recipient.action.as_str(),
            code.as_deref().unwrap_or_default()
        );
        let mut event = self.event(id, &name, state, code);
        event.reason = recipient.said.clone();
        event.blame = recipient.blame();
        Some(event)
    }

    /// What a message's return path tells: once for every state and code, however many reports say it.
    fn event(&self, id: MessageId, name: &str, state: DeliveryState, code: Option<String>) -> DeliveryEvent {
        DeliveryEvent {
            provider: MAIL.to_owned(),
            event_id: format!("{id}:{name}"),
            message_id: Some(id),
            provider_ref: None,
            recipient: None,
            state,
            at: self.outreach.clock.now(),
            code,
            reason: None,
            blame: crm_core::message::Blame::Nobody,
        }
    }
}

fn forged() -> Error {
    Error::new(
        ErrorKind::Unauthenticated,
        "neither the return path nor a link in this mail is one of ours; nothing was changed",
    )
    .operation("inbound.mail")
}

pub(super) fn not_allowed() -> WebhookReply {
    WebhookReply::new(405, "text/plain; charset=utf-8", "GET, HEAD or POST")
        .header("allow", "GET, HEAD, POST")
}

/// The same answer without its body, for `HEAD`.
pub(super) trait WithoutBody {
    fn without_body(self) -> Self;
}

impl WithoutBody for WebhookReply {
    fn without_body(mut self) -> Self {
        self.body.clear();
        self
    }
}

impl fmt::Debug for Inbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sources: Vec<(String, Health)> = self
            .sources
            .iter()
            .flat_map(|pool| pool.entries())
            .map(|entry| (entry.provider().info().name.clone(), entry.health()))
            .collect();
        f.debug_struct("Inbound")
            .field("sources", &sources)
            .field("caps", &self.caps)
            .finish_non_exhaustive()
    }
}
