//! The hand-over: to the best provider, or the next one where that cannot double the message.

use std::future::Future;
use std::sync::Arc;

use crm_core::capability::SmsSender;
use crm_core::message::{Permitted, PermittedMessage, Receipt, Sms};
use crm_core::registry::{Entry, may_fail_over};
use crm_core::{Context, Effect, Error, ErrorKind, Provider, Result, Uuid};

use crate::routing::Route;

/// A message and the way it goes.
pub(super) struct Parcel {
    pub(super) id: Uuid,
    pub(super) permitted: PermittedMessage,
    pub(super) route: Route,
}

/// What came of a hand-over: who was asked last, and what they said; with the receipt, whether they are live.
pub(super) struct Handed {
    pub(super) id: Uuid,
    pub(super) provider: Option<String>,
    pub(super) answer: Result<(Receipt, bool)>,
}

/// Parcels that go to the vendor in one call.
pub(super) struct Bundle(Vec<(Uuid, Permitted<Sms>, Senders)>);

type Senders = Vec<Arc<Entry<dyn SmsSender>>>;

/// Puts those together that one vendor takes in one call.
pub(super) fn bundled(parcels: Vec<Parcel>) -> (Vec<Bundle>, Vec<Parcel>) {
    let (mut bundles, mut single): (Vec<Bundle>, Vec<Parcel>) = (Vec::new(), Vec::new());
    for parcel in parcels {
        match (parcel.permitted, parcel.route) {
            (PermittedMessage::Sms(sms), Route::Sms(entries)) if most(&entries) > 1 => {
                let name = |entries: &[Arc<Entry<dyn SmsSender>>]| {
                    entries.first().map(|e| e.provider().info().name.clone())
                };
                let fits = |bundle: &&mut Bundle| {
                    bundle.0.len() < most(&entries)
                        && bundle
                            .0
                            .first()
                            .is_some_and(|(_, _, others)| name(others) == name(&entries))
                };
                match bundles.iter_mut().find(fits) {
                    Some(bundle) => bundle.0.push((parcel.id, sms, entries)),
                    None => bundles.push(Bundle(vec![(parcel.id, sms, entries)])),
                }
            }
            (permitted, route) => single.push(Parcel {
                id: parcel.id,
                permitted,
                route,
            }),
        }
    }
    (bundles, single)
}

fn most(entries: &[Arc<Entry<dyn SmsSender>>]) -> usize {
    entries
        .first()
        .map_or(1, |entry| entry.provider().capability().batch)
}

impl Parcel {
    pub(super) async fn hand_over(self, ctx: &Context) -> Handed {
        let (provider, answer) = match (&self.permitted, &self.route) {
            (PermittedMessage::Email(mail), Route::Mail(entries)) => {
                in_turn(entries, None, |mailer| async move {
                    let live = mailer.capability().live;
                    mailer.send(ctx, mail).await.map(|receipt| (receipt, live))
                })
                .await
            }
            (PermittedMessage::Sms(sms), Route::Sms(entries)) => text(ctx, sms, entries, None).await,
            (PermittedMessage::Voice(call), Route::Voice(entries)) => {
                in_turn(entries, None, |caller| async move {
                    let live = caller.capability().live;
                    caller.call(ctx, call).await.map(|receipt| (receipt, live))
                })
                .await
            }
            _ => (
                None,
                Err(Error::unexpected("a message was routed to another channel")),
            ),
        };
        Handed {
            id: self.id,
            provider,
            answer,
        }
    }
}

async fn text(
    ctx: &Context,
    sms: &Permitted<Sms>,
    entries: &[Arc<Entry<dyn SmsSender>>],
    last: Option<(String, Error)>,
) -> (Option<String>, Result<(Receipt, bool)>) {
    in_turn(entries, last, |sender| async move {
        let live = sender.capability().live;
        sender.send(ctx, sms).await.map(|receipt| (receipt, live))
    })
    .await
}

/// Asks one after the other until one has it, or one must not be failed over.
async fn in_turn<T, F, Fut>(
    entries: &[Arc<Entry<T>>],
    last: Option<(String, Error)>,
    call: F,
) -> (Option<String>, Result<(Receipt, bool)>)
where
    T: ?Sized + Provider,
    F: Fn(Arc<T>) -> Fut,
    Fut: Future<Output = Result<(Receipt, bool)>>,
{
    let mut last = last;
    for entry in entries {
        let name = entry.provider().info().name.clone();
        match call(entry.provider().clone()).await {
            Ok(answer) => return (Some(name), Ok(answer)),
            Err(error) if may_fail_over(&error) => {
                tracing::debug!(provider = name, kind = %error.kind(), "failing over");
                last = Some((name, error));
            }
            Err(error) => return (Some(name), Err(error)),
        }
    }
    match last {
        Some((name, error)) => (Some(name), Err(error)),
        None => (
            None,
            Err(Error::new(
                ErrorKind::Unavailable,
                "no provider takes this message now",
            )),
        ),
    }
}

impl Bundle {
    pub(super) fn ids(&self) -> impl Iterator<Item = Uuid> {
        self.0.iter().map(|(id, ..)| *id)
    }

    /// One call for all of them; those the first vendor certainly did nothing about go to the next one, each alone.
    pub(super) async fn hand_over(self, ctx: &Context) -> Vec<Handed> {
        let Some(sender) = self.0.first().and_then(|(_, _, entries)| entries.first()) else {
            return Vec::new();
        };
        let (sender, name) = (sender.provider().clone(), sender.provider().info().name.clone());
        let live = sender.capability().live;
        let all: Vec<Permitted<Sms>> = self.0.iter().map(|(_, sms, _)| sms.clone()).collect();
        let mut answers = match sender.send_many(ctx, &all).await {
            Ok(answers) => answers,
            Err(error) => all.iter().map(|_| Err(same(&error))).collect(),
        };
        // One answer too few is an answer that was lost.
        answers.resize_with(all.len(), || {
            Err(
                Error::unexpected("the provider gave fewer answers than it was given messages")
                    .effect_unknown(),
            )
        });
        let mut handed = Vec::with_capacity(all.len());
        for ((id, sms, entries), answer) in self.0.into_iter().zip(answers) {
            let (provider, answer) = match answer {
                Err(error) if entries.len() > 1 && may_fail_over(&error) => {
                    let rest = entries.get(1..).unwrap_or_default();
                    text(ctx, &sms, rest, Some((name.clone(), error))).await
                }
                answer => (Some(name.clone()), answer.map(|receipt| (receipt, live))),
            };
            handed.push(Handed { id, provider, answer });
        }
        handed
    }
}

/// The error of a call as the error of each message in it.
fn same(error: &Error) -> Error {
    let mut each = Error::new(error.kind(), error.message().to_owned()).blame(error.blamed());
    if let Some(operation) = error.operation_name() {
        each = each.operation(operation);
    }
    let retry = error.retry();
    if error.effect() == Effect::Unknown {
        each = each.effect_unknown();
    }
    each.with_retry(retry)
}
