//! Looking into what nobody knows, now and then: news that came too early, and outcomes that vendors can be asked about.

use std::time::Duration;

use crm_core::query::Filter;
use crm_core::{Context, Result, Timestamp};

use super::Dispatcher;
use crate::inbound::Intake;

/// Vendors need so long to file what they took.
const FILED: Duration = Duration::from_secs(4 * 60);
/// What nobody knows after that long nobody will know by itself.
const HORIZON: Duration = Duration::from_secs(3 * 24 * 3600);

/// What came of it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Upkept {
    pub(super) adopted: u64,
    pub(super) reconciled: u64,
}

impl Dispatcher {
    /// Looks at those whose turn it is since `last`.
    pub(super) async fn upkeep(
        &self,
        ctx: &Context,
        last: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<Upkept> {
        let first = self.settings.upkeep;
        let turn = |field, first| {
            let stretches = stretches(last, now, first).into_iter();
            stretches
                .map(|(from, to)| Filter::gt(field, from).and(Filter::le(field, to)))
                .reduce(Filter::or)
        };
        let mut done = Upkept::default();
        if let Some(received) = turn("received_at", first) {
            let intake = Intake {
                store: &*self.store,
                time: &self.time,
                ids: &*self.ids,
                gate: &self.gate,
            };
            done.adopted = intake.adopt(ctx, received).await?;
        }
        if let Some(ended) = turn("finished_at", first.max(FILED)) {
            let report = self.reconcile_of(ctx, ended).await?;
            done.reconciled = report.sent + report.failed;
        }
        Ok(done)
    }
}

/// The times of those things whose turn it is: each is looked at when it is `first` old, twice as old, four times as old
/// and so on, whenever that was since `last`; all that are old enough when nothing was looked at before.
fn stretches(last: Option<Timestamp>, now: Timestamp, first: Duration) -> Vec<(Timestamp, Timestamp)> {
    let Some(last) = last else {
        return vec![(now.minus(HORIZON), now.minus(first))];
    };
    let mut stretches = Vec::new();
    let mut age = first;
    while age <= HORIZON {
        stretches.push((last.minus(age), now.minus(age)));
        age = age.saturating_mul(2);
    }
    stretches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_looked_at_at_every_doubling_of_its_age_whenever_the_rounds_are() {
        let at = |seconds: u64| Timestamp::EPOCH.plus(Duration::from_secs(seconds));
        let first = Duration::from_secs(60);
        // Something of the second 1,000,030; rounds a little irregular, the first one long before.
        let (start, thing) = (1_000_000, at(1_000_030));
        let (mut last, mut ages) = (Some(at(start)), Vec::new());
        for round in 1..7_000_u64 {
            let now = start + round * 61 + round % 7;
            let turn = stretches(last, at(now), first);
            let hits = turn
                .iter()
                .filter(|(from, to)| thing > *from && thing <= *to)
                .count();
            assert!(hits <= 1);
            if hits == 1 {
                ages.push(now - 1_000_030);
            }
            last = Some(at(now));
        }
        let mut wanted = 60;
        for age in &ages {
            assert!((wanted..wanted + 70).contains(age), "{ages:?}");
            wanted *= 2;
        }
        assert_eq!(ages.len(), 13, "until three days are over: {ages:?}");
        // After a start everything is looked at that is old enough.
        let all = stretches(None, at(start + 100), first);
        assert!(all.iter().any(|(from, to)| thing > *from && thing <= *to));
        assert!(
            !stretches(None, at(start + 89), first)
                .iter()
                .any(|(_, to)| thing <= *to)
        );
    }
}
