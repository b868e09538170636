//! Policies, on a clock that tests drive: tokio's, paused.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use crm_core::capability::{Collector, Mailer, RecordStore};
use crm_core::memory::{MemoryCollector, MemoryMailer, MemoryStore};
use crm_core::policy::{Breaker, Call, Concurrency, Next, Op, Policy, Rate, Retry, Stack, Timeout, Trace};
use crm_core::query::{Filter, Scan};
use crm_core::record::Write;
use crm_core::testkit::{fixtures, store};
use crm_core::{Clock, Effect, Error, ErrorKind, Layered, ProviderInfo, Result, SystemClock, Timestamp};
use tokio::time::{Instant, sleep};

/// Shows the runtime's time, so that sleeping moves it.
#[derive(Debug)]
struct TokioClock(Instant);

impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        Timestamp::EPOCH.plus(self.0.elapsed())
    }
}

fn clock() -> Arc<dyn Clock> {
    Arc::new(TokioClock(Instant::now()))
}

const SEND: Op = Op::new("mail.send");
const READ: Op = Op::new("store.get").idempotent();

fn provider() -> &'static ProviderInfo {
    static INFO: std::sync::OnceLock<ProviderInfo> = std::sync::OnceLock::new();
    INFO.get_or_init(|| ProviderInfo::new("test", "test-1"))
}

fn down() -> Error {
    Error::new(ErrorKind::Unavailable, "down")
}

/// Makes a call whose attempts fail as `fail` says (attempt 1 first), and answers the result and the attempts made.
async fn run(stack: &Stack, op: Op, fail: impl Fn(u32) -> Option<Error> + Send + Sync) -> (Result<u32>, u32) {
    let attempts = AtomicU32::new(0);
    let result = stack
        .call(op, provider(), || async {
            let attempt = attempts.fetch_add(1, Ordering::SeqCst) + 1;
            fail(attempt).map_or(Ok(attempt), Err)
        })
        .await;
    (result, attempts.into_inner())
}

fn retry(attempts: u32) -> Stack {
    Stack::new().with(Retry::new(attempts, 7).backoff(Duration::from_millis(100), Duration::from_secs(60)))
}

#[tokio::test(start_paused = true)]
async fn a_retry_tries_again_until_it_works_or_gives_up() {
    let (result, attempts) = run(&retry(3), SEND, |n| (n < 3).then(down)).await;
    assert_eq!((result.unwrap(), attempts), (3, 3));
    let (result, attempts) = run(&retry(3), SEND, |_| Some(down())).await;
    let error = result.unwrap_err();
    assert_eq!(
        (attempts, error.retry(), error.kind()),
        (3, crm_core::Retry::Exhausted, ErrorKind::Unavailable)
    );
    assert_eq!(error.context("attempts"), Some("3"));
    // What is exhausted is not multiplied by a retry further out.
    let twice = retry(4).with(Retry::new(3, 8).backoff(Duration::ZERO, Duration::ZERO));
    assert_eq!(run(&twice, SEND, |_| Some(down())).await.1, 3);
}

#[tokio::test(start_paused = true)]
async fn a_retry_never_repeats_what_may_have_happened() {
    let unknown = || down().effect_unknown();
    let allowed = || unknown().with_retry(crm_core::Retry::Allowed { after: None });
    assert_eq!(run(&retry(3), SEND, |_| Some(unknown())).await.1, 1);
    assert_eq!(
        run(&retry(3), SEND, |_| Some(allowed())).await.1,
        1,
        "not idempotent"
    );
    assert_eq!(run(&retry(3), READ, |_| Some(allowed())).await.1, 3, "idempotent");
    for kind in [
        ErrorKind::Invalid,
        ErrorKind::Conflict,
        ErrorKind::Refused,
        ErrorKind::Unauthenticated,
    ] {
        assert_eq!(
            run(&retry(3), READ, |_| Some(Error::new(kind, "x"))).await.1,
            1,
            "{kind}"
        );
    }
    assert_eq!(
        run(&retry(3), READ.streams(), |_| Some(down())).await.1,
        1,
        "what was handed over stays so"
    );
}

#[tokio::test(start_paused = true)]
async fn waits_grow_with_full_jitter_and_are_seeded() {
    let waits = async |seed| {
        let stack =
            Stack::new().with(Retry::new(6, seed).backoff(Duration::from_secs(1), Duration::from_secs(4)));
        let (mut last, waits) = (Instant::now(), std::sync::Mutex::new(Vec::new()));
        let times = std::sync::Mutex::new(Vec::new());
        run(&stack, SEND, |_| {
            times.lock().unwrap().push(Instant::now());
            Some(down())
        })
        .await
        .0
        .unwrap_err();
        for time in times.into_inner().unwrap() {
            waits.lock().unwrap().push((time - last).as_secs_f64());
            last = time;
        }
        waits.into_inner().unwrap()
    };
    let first = waits(1).await;
    for (wait, most) in first.iter().zip([0.0, 1.0, 2.0, 4.0, 4.0, 4.0]) {
        assert!(*wait <= most + 0.002, "{first:?}");
    }
    assert!(first.iter().sum::<f64>() > 0.5, "{first:?}");
    assert_eq!(first, waits(1).await, "same seed, same waits");
    assert_ne!(first, waits(2).await);
    let mut thirds = Vec::new();
    for seed in 0..1000 {
        thirds.push(waits(seed).await[3]);
    }
    for second in 0..4 {
        let share = thirds.iter().filter(|w| w.floor() as i32 == second).count();
        assert!(
            (180..320).contains(&share),
            "full jitter spreads evenly: {share} of 1,000 in second {second}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_other_side_asks_for_is_waited_for() {
    let slow = |after| {
        move || {
            let retry = crm_core::Retry::Allowed {
                after: Some(Duration::from_secs(after)),
            };
            Error::new(ErrorKind::RateLimited, "slow down").with_retry(retry)
        }
    };
    let began = Instant::now();
    let make = slow(30);
    assert_eq!(run(&retry(2), SEND, |n| (n == 1).then(&make)).await.0.unwrap(), 2);
    assert!(
        (30.0..30.2).contains(&began.elapsed().as_secs_f64()),
        "{:?}",
        began.elapsed()
    );
    // Longer than the longest wait: the caller's queue waits, not the call.
    let began = Instant::now();
    let make = slow(120);
    let (result, attempts) = run(&retry(2), SEND, |_| Some(make())).await;
    assert!(result.unwrap_err().is_retryable());
    assert_eq!((attempts, began.elapsed()), (1, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_budget_keeps_retries_from_multiplying_an_outage() {
    let stack = Stack::new().with(
        Retry::new(10, 7)
            .backoff(Duration::ZERO, Duration::ZERO)
            .budget(5),
    );
    let mut attempts = 0;
    for _ in 0..100 {
        attempts += run(&stack, SEND, |_| Some(down())).await.1;
    }
    assert_eq!(
        attempts,
        100 + 5 + 19,
        "what was saved up, then one retry in five calls (the first deposit was full)"
    );
    let error = run(&stack, SEND, |_| Some(down())).await.0.unwrap_err();
    assert_eq!(
        (error.retry(), error.context("retry_budget")),
        (crm_core::Retry::Exhausted, Some("empty"))
    );
}

#[tokio::test(start_paused = true)]
async fn a_timeout_is_per_attempt_and_says_what_is_known() {
    let stack = |n| retry(n).with(Timeout::new(Duration::from_secs(5)));
    let slow = async |stack: Stack, op: Op| {
        let attempts = AtomicU32::new(0);
        let call = stack.call(op, provider(), || async {
            if attempts.fetch_add(1, Ordering::SeqCst) == 0 {
                sleep(Duration::from_secs(6)).await;
            }
            Ok(())
        });
        let result = call.await;
        (result, attempts.into_inner())
    };
    let (result, attempts) = slow(stack(2), READ).await;
    assert!(result.is_ok() && attempts == 2, "each attempt has its own time");
    let (result, attempts) = slow(stack(2), SEND).await;
    let error = result.unwrap_err();
    assert_eq!(
        (error.kind(), error.effect(), attempts),
        (ErrorKind::Timeout, Effect::Unknown, 1)
    );
    assert_eq!(
        (error.operation_name(), error.context("limit_ms")),
        (Some("mail.send"), Some("5000"))
    );
    assert!(
        slow(stack(1), SEND.streams()).await.0.is_ok(),
        "a stream lasts as long as its taker wants"
    );
}

#[tokio::test(start_paused = true)]
async fn only_so_many_run_at_once_and_the_others_wait_in_line() {
    let stack = Stack::new().with(Concurrency::new(3));
    let (now, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let mut calls = tokio::task::JoinSet::new();
    let began = Instant::now();
    for i in 0..10 {
        let (stack, now, most) = (stack.clone(), now.clone(), most.clone());
        calls.spawn(async move {
            let call = stack.call(SEND, provider(), || async {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                sleep(Duration::from_secs(1)).await;
                now.fetch_sub(1, Ordering::SeqCst);
                Ok(())
            });
            if i == 4 {
                // Gives up waiting: takes no place.
                let _ = tokio::time::timeout(Duration::from_millis(10), call).await;
            } else {
                call.await.unwrap();
            }
        });
    }
    while let Some(done) = calls.join_next().await {
        done.unwrap();
    }
    assert_eq!((most.load(Ordering::SeqCst), began.elapsed().as_secs()), (3, 3));
}

#[tokio::test(start_paused = true)]
async fn calls_begin_at_the_rate_allowed() {
    let stack = Stack::new().with(Rate::new(clock(), 10, Duration::from_secs(1)).burst(5));
    let began = Instant::now();
    let mut calls = tokio::task::JoinSet::new();
    for i in 0..25 {
        let stack = stack.clone();
        calls.spawn(async move {
            let call = run(&stack, SEND, |_| None);
            if i % 5 == 4 {
                let waited = tokio::time::timeout(Duration::from_millis(1), call).await;
                assert!(i == 4 || waited.is_err());
            } else {
                call.await.0.unwrap();
            }
        });
    }
    while let Some(done) = calls.join_next().await {
        done.unwrap();
    }
    // 5 at once, then 16 more, one every 100 ms; the 4 that gave up used nothing.
    assert!(
        (1600..1650).contains(&began.elapsed().as_millis()),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_breaker_opens_probes_with_one_call_and_closes() {
    let breaker = Breaker::new(clock(), 7)
        .after(3)
        .wait(Duration::from_secs(5), Duration::from_secs(60));
    let stack = Stack::new().with(breaker);
    for _ in 0..3 {
        assert_eq!(run(&stack, SEND, |_| Some(down())).await.1, 1);
    }
    let (result, attempts) = run(&stack, SEND, |_| None).await;
    let error = result.unwrap_err();
    assert_eq!(
        (attempts, error.kind(), error.effect()),
        (0, ErrorKind::Unavailable, Effect::None)
    );
    assert_eq!(
        (error.retry(), error.context("provider")),
        (crm_core::Retry::Exhausted, Some("test-1"))
    );
    sleep(Duration::from_millis(6001)).await;
    // A probe that hangs and is dropped does not wedge it; meanwhile nobody else is let through.
    let hanging = stack.call(SEND, provider(), || async {
        sleep(Duration::from_secs(3600)).await;
        Ok(())
    });
    let mut hanging = Box::pin(hanging);
    assert!(
        tokio::time::timeout(Duration::from_secs(1), &mut hanging)
            .await
            .is_err()
    );
    assert_eq!(run(&stack, SEND, |_| None).await.1, 0, "one probe at a time");
    drop(hanging);
    assert!(
        run(&stack, SEND, |_| None).await.0.is_ok(),
        "the next call is the probe"
    );
    assert!(
        run(&stack, SEND, |_| None).await.0.is_ok(),
        "and all are let through again"
    );
}

/// Answers without asking, or asks twice: what no policy may do with every call.
#[derive(Debug)]
enum Wrong {
    Answers,
    Repeats,
}

#[async_trait]
impl Policy for Wrong {
    async fn around<'a>(&'a self, _call: Call<'a>, next: Next<'a>) -> Result<()> {
        match self {
            Self::Answers => Ok(()),
            Self::Repeats => {
                next.run().await?;
                next.run().await
            }
        }
    }
}

#[tokio::test]
async fn a_wrong_policy_is_an_error_and_not_a_wrong_answer() {
    let (result, attempts) = run(&Stack::new().with(Wrong::Answers), SEND, |_| None).await;
    assert_eq!((result.unwrap_err().kind(), attempts), (ErrorKind::Unexpected, 0));
    let stack = Stack::new().with(Wrong::Repeats);
    let once = stack.once(SEND, provider(), async { Ok(5) }).await;
    assert_eq!(once.unwrap_err().kind(), ErrorKind::Unexpected);
    assert_eq!(
        Stack::new()
            .once(SEND, provider(), async { Ok(5) })
            .await
            .unwrap(),
        5
    );
    assert_eq!(run(&Stack::new(), SEND, |_| None).await.0.unwrap(), 1);
}

fn layered() -> Arc<dyn RecordStore> {
    let inner: Arc<dyn RecordStore> = Arc::new(MemoryStore::new("memory"));
    Arc::new(Layered::new(inner, Stack::recommended(SystemClock::shared(), 7)))
}

crm_core::store_suite!(suite, async { layered() });
crm_core::mailer_suite!(mailer, async {
    let inner: Arc<dyn Mailer> = Arc::new(MemoryMailer::new("memory"));
    Arc::new(Layered::new(inner, Stack::recommended(SystemClock::shared(), 7))) as Arc<dyn Mailer>
});
crm_core::collector_suite!(collector, async {
    let inner: Arc<dyn Collector> =
        Arc::new(MemoryCollector::new("list", fixtures::drafts(23)).per_delivery(5));
    Arc::new(Layered::new(inner, Stack::recommended(SystemClock::shared(), 7))) as Arc<dyn Collector>
});

#[tokio::test(start_paused = true)]
async fn a_mail_whose_answer_was_lost_is_sent_once() {
    let mailer = Arc::new(MemoryMailer::new("memory"));
    mailer.fail_next(down());
    mailer.lose_next_answer();
    let layered = Layered::new(mailer.clone(), Stack::recommended(clock(), 7));
    let error = layered
        .send(&fixtures::context(), &fixtures::permitted(fixtures::email(1)))
        .await
        .unwrap_err();
    assert_eq!(
        (error.effect(), mailer.sent().len()),
        (Effect::Unknown, 1),
        "tried again after the first, not after that"
    );
}

#[tokio::test(start_paused = true)]
async fn a_scan_is_never_repeated_by_a_policy() {
    let store = layered();
    store.migrate(&[&store::SAMPLE]).await.unwrap();
    let ctx = fixtures::context();
    let record = crm_core::record::Record::new(&store::SAMPLE)
        .with("label", "x")
        .unwrap();
    store
        .apply(&ctx, &[Write::insert(fixtures::id(), record)])
        .await
        .unwrap();
    let mut chunks = 0;
    let mut take = |_| {
        chunks += 1;
        Err(down())
    };
    let scan = Scan::new(Filter::All, ["label"]);
    let error = store
        .scan(&ctx, &store::SAMPLE, &scan, &mut take)
        .await
        .unwrap_err();
    assert_eq!(
        (chunks, error.is_retryable()),
        (1, true),
        "the taker's error comes out as it is"
    );
}

#[test]
fn a_stack_shares_its_state_with_its_clones() {
    let stack = Stack::new().with(Trace::new(SystemClock::shared()));
    let clone = stack.clone().with(Concurrency::new(2));
    assert!(Arc::ptr_eq(&stack.policies()[0], &clone.policies()[0]));
    assert_eq!(
        (stack.policies().len(), clone.policies().len()),
        (1, 2),
        "a stack is a value"
    );
}
