//! Taking messages out of the queue, and keeping them.

use crm_core::query::{Assign, Claim, Filter, Order};
use crm_core::record::{Stored, Value};
use crm_core::{Context, Result, Uuid};

use super::Dispatcher;
use crate::outbox::{OUTBOX, OutboxState, Priority};

/// Rescued this often before they were begun, messages are claimed one at a time.
const OFTEN: i64 = 3;

/// What a claim brought.
#[derive(Debug, Default)]
pub(super) struct Claimed {
    pub(super) stored: Vec<Stored>,
    /// How many of them another dispatcher died with.
    pub(super) rescued: u64,
}

impl Dispatcher {
    /// Takes up to `limit` messages: first what another dispatcher died with, then what is due, the most urgent first.
    ///
    /// Who died with a message in its hands is counted on the message: on those that were being handed over, which go out
    /// one at a time from then on; and, apart from that, on those that were not begun. Of the latter those that were rescued
    /// again and again are claimed one at a time. So in the end only the one that takes the process down is counted.
    pub(super) async fn claim(&self, ctx: &Context, rescue: bool, limit: u32) -> Result<Claimed> {
        self.time.fresh().await;
        let token = self.ids.fresh();
        let mut claimed = Claimed::default();
        let room =
            |claimed: &Claimed| limit.saturating_sub(u32::try_from(claimed.stored.len()).unwrap_or(u32::MAX));
        if rescue {
            let now = self.now();
            let gone = |filter: Filter| {
                Filter::eq("state", OutboxState::Leased.as_str())
                    .and(Filter::le("lease_until", now))
                    .and(filter)
            };
            let waiting = || Filter::null("send_started_at");
            let often = Filter::ge("rescues", OFTEN);
            for (which, most, count) in [
                (!waiting(), limit, "crash_count"),
                (waiting().and(!often.clone()), limit, "rescues"),
                (waiting().and(often), 1, "rescues"),
            ] {
                let most = most.min(room(&claimed));
                if most > 0 {
                    let mut more = vec![Assign::Add(count, 1)];
                    if count == "crash_count" {
                        // Nobody knows how far it came; from now on it is not begun again until it is.
                        more.push(Assign::Set("maybe_sent", true.into()));
                        more.push(Assign::Set("send_started_at", Value::Null));
                    }
                    let found = self
                        .take(ctx, token, gone(which), "lease_until", most, &more)
                        .await?;
                    claimed.stored.extend(found);
                }
            }
            claimed.rescued = claimed.stored.len() as u64;
        }
        for priority in Priority::TAKEN {
            let most = room(&claimed);
            if most == 0 {
                break;
            }
            let due = Filter::eq("state", OutboxState::Queued.as_str())
                .and(Filter::eq("priority", priority.level()))
                .and(Filter::le("run_at", self.now()));
            let found = self.take(ctx, token, due, "run_at", most, &[]).await?;
            claimed.stored.extend(found);
        }
        Ok(claimed)
    }

    async fn take(
        &self,
        ctx: &Context,
        token: Uuid,
        due: Filter,
        order: &str,
        limit: u32,
        more: &[Assign],
    ) -> Result<Vec<Stored>> {
        let mut assign = vec![
            Assign::Set("state", OutboxState::Leased.as_str().into()),
            Assign::Set("lease_token", token.into()),
            Assign::Set("lease_until", self.lease_end(self.now()).into()),
        ];
        assign.extend_from_slice(more);
        let order = vec![Order {
            field: order.to_owned(),
            descending: false,
        }];
        let claim = Claim {
            due,
            order,
            limit,
            assign,
        };
        self.store.claim(ctx, &OUTBOX, &claim).await
    }

    /// Renews the leases of these records, held under these tokens. Answers those that are still ours, as they are now.
    pub(super) async fn beat(&self, ctx: &Context, held: &[(Uuid, Uuid)]) -> Result<Vec<Stored>> {
        let ours = Filter::one_of("id", held.iter().map(|(id, _)| *id))
            .and(Filter::one_of(
                "lease_token",
                held.iter().map(|(_, token)| *token),
            ))
            .and(Filter::eq("state", OutboxState::Leased.as_str()));
        let claim = Claim {
            due: ours,
            order: Vec::new(),
            limit: u32::try_from(held.len()).unwrap_or(u32::MAX).clamp(1, 10_000),
            assign: vec![Assign::Set("lease_until", self.lease_end(self.now()).into())],
        };
        self.store.claim(ctx, &OUTBOX, &claim).await
    }
}
