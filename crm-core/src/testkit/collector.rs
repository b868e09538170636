//! The conformance suite of [`Collector`].
//!
//! Each function takes a collector whose source stands still while the suite runs and yields at least one draft.
//! [`collector_suite!`](crate::collector_suite) makes a test of each.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! use std::sync::Arc;
//! use crm_core::memory::MemoryCollector;
//! use crm_core::testkit::{collector, fixtures};
//!
//! let list = MemoryCollector::new("list", fixtures::drafts(10)).per_delivery(3);
//! collector::it_resumes_without_a_gap(Arc::new(list)).await;
//! # });
//! ```

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;

use super::fixtures;
use crate::capability::{Checkpoint, Collector, Delivery, DraftSink, Progress};
use crate::customer::Draft;
use crate::{Error, ErrorKind, Result, Timestamp};

/// Makes a module with one `#[tokio::test]` for every property of [`testkit::collector`](crate::testkit::collector).
///
/// The expression is evaluated anew in each test; awaited, it gives an `Arc<dyn Collector>`. The invoking crate needs
/// `tokio` with `macros` and `rt-multi-thread`.
#[macro_export]
macro_rules! collector_suite {
    ($name:ident, $collector:expr) => {
        $crate::__collector_suite! {
            $name, $collector;
            drafts_have_provenance,
            progress_adds_up,
            it_resumes_without_a_gap,
            it_stops_when_the_sink_fails,
            rejects_say_where_and_why,
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __collector_suite {
    ($name:ident, $collector:expr; $($case:ident),* $(,)?) => {
        mod $name {
            #[allow(unused_imports)]
            use super::*;
            $(
                #[::tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    $crate::testkit::collector::$case({ $collector }.await).await;
                }
            )*
        }
    };
}

/// A sink that keeps every delivery, and fails after `room` of them when told so.
#[derive(Debug, Default)]
pub struct Basket {
    /// What was delivered, in order.
    pub deliveries: Vec<Delivery>,
    /// After how many deliveries it fails; never when `None`.
    pub room: Option<usize>,
}

#[async_trait]
impl DraftSink for Basket {
    async fn deliver(&mut self, delivery: Delivery) -> Result<()> {
        if self.room == Some(self.deliveries.len()) {
            return Err(Error::new(ErrorKind::Unavailable, "the basket is full"));
        }
        self.deliveries.push(delivery);
        Ok(())
    }
}

impl Basket {
    /// Every draft, in order.
    pub fn drafts(&self) -> impl Iterator<Item = &Draft> {
        self.deliveries.iter().flat_map(|delivery| &delivery.drafts)
    }
}

async fn collect(collector: &Arc<dyn Collector>, resume: Option<&Checkpoint>) -> (Progress, Basket) {
    let mut basket = Basket::default();
    let progress = collector
        .collect(&fixtures::context(), resume, &mut basket)
        .await
        .expect("it runs to the end");
    (progress, basket)
}

/// Drafts as text, without the time of the observation, to be compared between runs.
fn told<'a>(drafts: impl Iterator<Item = &'a Draft>) -> BTreeSet<String> {
    let tell = |draft: &Draft| {
        let mut draft = draft.clone();
        draft.provenance.observed_at = Timestamp::EPOCH;
        serde_json::to_string(&draft).expect("a draft is data")
    };
    drafts.map(tell).collect()
}

/// Every draft says where it is from: source, place, and a time; and there is someone to recognise in it.
pub async fn drafts_have_provenance(collector: Arc<dyn Collector>) {
    assert!(!collector.info().scheme.is_empty() && !collector.info().name.is_empty());
    collector.check().await.expect("check");
    let (_, basket) = collect(&collector, None).await;
    assert!(
        basket.drafts().count() > 0,
        "the suite needs a source with drafts"
    );
    for draft in basket.drafts() {
        assert!(!draft.provenance.source.is_empty(), "a draft names its source");
        let place = draft.provenance.location.as_deref().unwrap_or_default();
        assert!(
            !place.is_empty(),
            "a draft names the page or file it was found in"
        );
        assert!(draft.is_identified(), "a draft that names nobody is a reject");
    }
}

/// Progress only grows, counts what was delivered, and ends where the answer says; a sized collector ends at its total.
pub async fn progress_adds_up(collector: Arc<dyn Collector>) {
    let (end, basket) = collect(&collector, None).await;
    let mut last = Progress::default();
    let (mut drafts, mut rejects) = (0, 0);
    for delivery in &basket.deliveries {
        drafts += delivery.drafts.len() as u64;
        rejects += delivery.rejects.len() as u64;
        let now = delivery.progress;
        assert!(now.done >= last.done, "progress never goes back");
        assert_eq!(
            (now.drafts, now.rejects),
            (drafts, rejects),
            "progress counts what was delivered so far"
        );
        last = now;
    }
    assert_eq!((end.drafts, end.rejects), (drafts, rejects));
    if collector.capability().sized {
        assert_eq!(end.total, Some(end.done), "a sized collector ends at its total");
    }
}

/// From every checkpoint on, the rest is delivered: together with what came before it is the whole, without a gap. A
/// collector that cannot resume gives no checkpoints.
pub async fn it_resumes_without_a_gap(collector: Arc<dyn Collector>) {
    let (_, whole) = collect(&collector, None).await;
    let all = told(whole.drafts());
    let checkpoints = whole
        .deliveries
        .iter()
        .filter(|delivery| delivery.checkpoint.is_some())
        .count();
    if !collector.capability().resumable {
        assert_eq!(checkpoints, 0, "a checkpoint nobody can go on from");
        return;
    }
    assert!(checkpoints > 0, "a resumable collector gives checkpoints");
    for (i, delivery) in whole.deliveries.iter().enumerate() {
        let Some(checkpoint) = &delivery.checkpoint else {
            continue;
        };
        // Through text and back, as it is stored.
        let text = serde_json::to_string(checkpoint).expect("a checkpoint is data");
        let checkpoint = serde_json::from_str(&text).expect("a checkpoint is data");
        let (_, rest) = collect(&collector, Some(&checkpoint)).await;
        let before = whole.deliveries[..=i]
            .iter()
            .flat_map(|delivery| &delivery.drafts);
        let mut together = told(before);
        let after = told(rest.drafts());
        assert!(
            i == 0 || after.len() < all.len(),
            "from delivery {i} it began anew"
        );
        together.extend(after);
        assert_eq!(
            together.len(),
            all.len(),
            "resumed after delivery {i}: drafts missing or new ones invented"
        );
        assert!(
            together == all,
            "resumed after delivery {i}: other drafts than the first time"
        );
    }
}

/// When the sink fails, the collector stops and passes the error on as it is.
pub async fn it_stops_when_the_sink_fails(collector: Arc<dyn Collector>) {
    let mut full = Basket {
        room: Some(0),
        ..Basket::default()
    };
    let error = collector
        .collect(&fixtures::context(), None, &mut full)
        .await
        .expect_err("the sink's error");
    assert_eq!(
        (error.kind(), error.message()),
        (ErrorKind::Unavailable, "the basket is full"),
        "{error}"
    );
    assert!(full.deliveries.is_empty());
}

/// A reject names its place and a reason, and holds nothing of the value.
pub async fn rejects_say_where_and_why(collector: Arc<dyn Collector>) {
    let (_, basket) = collect(&collector, None).await;
    for reject in basket.deliveries.iter().flat_map(|delivery| &delivery.rejects) {
        assert!(
            !reject.place.is_empty() && !reject.reason.is_empty(),
            "{reject:?}"
        );
        let address = |word: &str| crate::customer::EmailAddress::parse(word).is_ok();
        assert!(
            !reject.reason.split_whitespace().any(address),
            "a reason holds no address"
        );
    }
}
