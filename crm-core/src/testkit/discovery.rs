//! The conformance suite of [`Discovery`].
//!
//! Each function takes a [`Bench`]: the same register as two processes see it, and the means to let time pass.
//! [`discovery_suite!`](crate::discovery_suite) makes a test of each.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
//! use std::sync::Arc;
//! use std::time::Duration;
//! use crm_core::ManualClock;
//! use crm_core::registry::discovery::MemoryDiscovery;
//! use crm_core::testkit::discovery::{self, Bench};
//!
//! let clock = Arc::new(ManualClock::default());
//! let register = Arc::new(MemoryDiscovery::new("memory", clock.clone()));
//! let bench = Bench::new(register.clone(), register, move || {
//!     clock.advance(Duration::from_secs(3));
//!     Box::pin(async {})
//! });
//! discovery::whoever_dies_is_gone(bench).await;
//! # });
//! ```

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::fixtures;
use crate::registry::discovery::{Discovery, Instance, InstanceStatus, Service, Snapshot};
use crate::{Effect, ErrorKind, Health};

/// A future in a box.
pub type Boxed = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What a register is tried with.
pub struct Bench {
    /// The process that announces itself. When the bench drops it, it is as if the process was killed.
    pub near: Arc<dyn Discovery>,
    /// The process that looks.
    pub far: Arc<dyn Discovery>,
    /// Lets a moment pass for the register, but less than half a lease: moves its clock, sleeps a little.
    pub moment: Box<dyn Fn() -> Boxed + Send + Sync>,
}

impl std::fmt::Debug for Bench {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bench")
            .field("near", &self.near.info())
            .finish_non_exhaustive()
    }
}

impl Bench {
    /// A bench.
    pub fn new(
        near: Arc<dyn Discovery>,
        far: Arc<dyn Discovery>,
        moment: impl Fn() -> Boxed + Send + Sync + 'static,
    ) -> Self {
        Self {
            near,
            far,
            moment: Box::new(moment),
        }
    }

    /// A moment in which both processes drive their register.
    async fn settle(&self) {
        (self.moment)().await;
        let _ = self.near.tick().await;
        let _ = self.far.tick().await;
    }

    /// What the far process sees as soon as `as_wanted` holds; the near one keeps its instance alive meanwhile.
    async fn until(
        &self,
        service: &Service,
        ids: &[&str],
        what: &str,
        as_wanted: impl Fn(&Snapshot) -> bool,
    ) -> Snapshot {
        let mut last = None;
        for _ in 0..400 {
            match self.far.list(service).await {
                Ok(snapshot) if as_wanted(&snapshot) => return snapshot,
                other => last = Some(other),
            }
            for id in ids {
                let _ = self.near.renew(service, id).await;
            }
            self.settle().await;
        }
        panic!("{what}: it did not come to pass, seen last: {last:?}");
    }
}

/// Makes a module with one `#[tokio::test]` for every property of [`testkit::discovery`](crate::testkit::discovery).
///
/// The expression, awaited, gives a [`Bench`](crate::testkit::discovery::Bench) whose leases of 6 s lapse when a few
/// moments have passed. Or `None::<Bench>` to step aside when a server is missing. The invoking crate needs `tokio` with
/// `macros` and `rt-multi-thread`.
#[macro_export]
macro_rules! discovery_suite {
    ($name:ident, $bench:expr) => {
        $crate::__discovery_suite! {
            $name, $bench;
            it_says_who_it_is,
            nothing_is_listed_of_a_service_nobody_offers,
            what_is_registered_is_listed_as_it_is,
            registering_again_replaces,
            services_do_not_mix,
            deregistering_takes_out_and_twice_does_no_harm,
            renewing_what_is_not_there_says_so,
            every_status_is_listed_and_only_the_ready_are_up,
            a_watch_begins_with_what_is_there_and_sees_each_change,
            a_storm_is_coalesced_and_its_end_is_seen,
            many_instances_come_in_order,
            a_renewed_lease_lives_on,
            whoever_dies_is_gone,
            what_is_wrong_is_refused_before_it_is_sent,
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __discovery_suite {
    ($name:ident, $bench:expr; $($case:ident),* $(,)?) => {
        mod $name {
            #[allow(unused_imports)]
            use super::*;
            $(
                #[::tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    let bench: ::core::option::Option<$crate::testkit::discovery::Bench> = { $bench }.await.into();
                    if let Some(bench) = bench {
                        $crate::testkit::discovery::$case(bench).await;
                    }
                }
            )*
        }
    };
}

/// A service that no other test uses.
pub fn fresh_service() -> Service {
    Service::new("mailer", format!("s{}", fixtures::id().simple())).expect("a service")
}

/// An instance of it, with a lease of 6 s.
pub fn instance(service: &Service, id: &str) -> Instance {
    Instance::new(
        service.clone(),
        id,
        "http://10.0.0.7:8080/".parse().expect("a URL"),
    )
    .lease(Duration::from_secs(6))
}

fn ids(snapshot: &Snapshot) -> Vec<&str> {
    snapshot
        .instances
        .iter()
        .map(|instance| instance.id.as_str())
        .collect()
}

/// It has a scheme and a name that never change, and is ready.
pub async fn it_says_who_it_is(bench: Bench) {
    let info = bench.near.info().clone();
    assert!(
        !info.scheme.is_empty() && !info.name.is_empty(),
        "a provider has a scheme and a name"
    );
    assert_eq!(bench.near.check().await.expect("check"), Health::Ready);
    assert_eq!(bench.near.info(), &info, "its identity never changes");
}

/// A service that nobody offers has no instances; that is no error.
pub async fn nothing_is_listed_of_a_service_nobody_offers(bench: Bench) {
    let service = fresh_service();
    let snapshot = bench.far.list(&service).await.expect("an empty list");
    assert!(snapshot.instances.is_empty() && !snapshot.stale, "{snapshot:?}");
    assert_eq!(snapshot.service, service);
}

/// What is registered is listed to the other process with all it said of itself.
pub async fn what_is_registered_is_listed_as_it_is(bench: Bench) {
    let service = fresh_service();
    let mut said = instance(&service, "host-1.example:8080!(a)")
        .zone("eu-1")
        .with("weight", "3")
        .with("note_$1.x", "Größe <b>&\"'</b> \\ 木 🙂");
    said.address = "https://mail.example:8443/base/path?x=1".parse().expect("a URL");
    bench.near.register(&said).await.expect("register");
    let seen = bench
        .until(&service, &[&said.id], "listed", |snapshot| {
            !snapshot.instances.is_empty()
        })
        .await;
    assert_eq!(&*seen.instances, std::slice::from_ref(&said));
    assert!(!seen.stale && seen.generation > 0, "{seen:?}");
}

/// The same id again replaces what was said before.
pub async fn registering_again_replaces(bench: Bench) {
    let service = fresh_service();
    let first = instance(&service, "one").with("version", "1");
    bench.near.register(&first).await.expect("register");
    bench
        .until(&service, &["one"], "the first", |snapshot| {
            snapshot.instances.len() == 1
        })
        .await;
    let mut second = instance(&service, "one").with("version", "2");
    second.address = "http://10.0.0.8:9090/".parse().expect("a URL");
    bench.near.register(&second).await.expect("register again");
    let seen = bench
        .until(&service, &["one"], "the second", |snapshot| {
            snapshot
                .get("one")
                .is_some_and(|one| one.metadata.get("version").is_some_and(|v| v == "2"))
        })
        .await;
    assert_eq!(&*seen.instances, std::slice::from_ref(&second));
}

/// The same id under two services is two instances.
pub async fn services_do_not_mix(bench: Bench) {
    let (one, two) = (fresh_service(), fresh_service());
    bench
        .near
        .register(&instance(&one, "a").with("of", "one"))
        .await
        .expect("register");
    bench
        .near
        .register(&instance(&two, "a").with("of", "two"))
        .await
        .expect("register");
    for (service, other, of) in [(&one, &two, "one"), (&two, &one, "two")] {
        let seen = bench
            .until(service, &["a"], of, |snapshot| {
                snapshot
                    .get("a")
                    .is_some_and(|a| a.metadata.get("of").is_some_and(|v| v == of))
            })
            .await;
        assert_eq!(ids(&seen), ["a"]);
        let _ = bench.near.renew(other, "a").await;
    }
    bench.near.deregister(&one, "a").await.expect("deregister");
    bench
        .until(&one, &[], "one is gone", |snapshot| snapshot.instances.is_empty())
        .await;
    let left = bench
        .until(&two, &["a"], "the other stays", |snapshot| {
            !snapshot.instances.is_empty()
        })
        .await;
    assert_eq!(ids(&left), ["a"]);
}

/// Who deregisters is gone; who does it twice, or was never there, has nothing to fear.
pub async fn deregistering_takes_out_and_twice_does_no_harm(bench: Bench) {
    let service = fresh_service();
    for id in ["a", "b"] {
        bench
            .near
            .register(&instance(&service, id))
            .await
            .expect("register");
    }
    bench
        .until(&service, &["a", "b"], "both", |snapshot| {
            snapshot.instances.len() == 2
        })
        .await;
    bench.near.deregister(&service, "a").await.expect("deregister");
    let seen = bench
        .until(&service, &["b"], "one left", |snapshot| ids(snapshot) == ["b"])
        .await;
    assert_eq!(ids(&seen), ["b"]);
    bench.near.deregister(&service, "a").await.expect("a second time");
    bench
        .near
        .deregister(&service, "never-there")
        .await
        .expect("who was never there");
}

/// A renewal of what is not registered answers [`ErrorKind::NotFound`], so that one registers again.
pub async fn renewing_what_is_not_there_says_so(bench: Bench) {
    let error = bench
        .near
        .renew(&fresh_service(), "nobody")
        .await
        .expect_err("not there");
    assert_eq!(
        (error.kind(), error.effect()),
        (ErrorKind::NotFound, Effect::None),
        "{error}"
    );
}

/// All are listed whatever they say of themselves; [`Snapshot::up`] gives those that may be called.
pub async fn every_status_is_listed_and_only_the_ready_are_up(bench: Bench) {
    let service = fresh_service();
    let all = [
        ("a", InstanceStatus::Up),
        ("b", InstanceStatus::Starting),
        ("c", InstanceStatus::Down),
        ("d", InstanceStatus::OutOfService),
        ("e", InstanceStatus::Up),
    ];
    for (id, status) in all {
        bench
            .near
            .register(&instance(&service, id).status(status))
            .await
            .expect("register");
    }
    let seen = bench
        .until(&service, &["a", "b", "c", "d", "e"], "all five", |snapshot| {
            snapshot.instances.len() == 5
        })
        .await;
    let said: Vec<(&str, InstanceStatus)> =
        seen.instances.iter().map(|i| (i.id.as_str(), i.status)).collect();
    assert_eq!(said, all);
    assert_eq!(seen.up().map(|i| i.id.as_str()).collect::<Vec<_>>(), ["a", "e"]);
    // And a change of mind is seen, there and back.
    for status in [
        InstanceStatus::OutOfService,
        InstanceStatus::Up,
        InstanceStatus::Down,
        InstanceStatus::Up,
    ] {
        bench
            .near
            .register(&instance(&service, "a").status(status))
            .await
            .expect("register");
        bench
            .until(
                &service,
                &["a", "b", "c", "d", "e"],
                status.as_str(),
                |snapshot| snapshot.get("a").is_some_and(|a| a.status == status),
            )
            .await;
    }
}

/// The first item of a watch is what is there; every later one is newer and differs.
pub async fn a_watch_begins_with_what_is_there_and_sees_each_change(bench: Bench) {
    let service = fresh_service();
    let mut watch = bench.far.watch(&service).await.expect("watch");
    let first = watch.next().await.expect("what is there");
    assert!(first.instances.is_empty(), "{first:?}");
    let mut generation = first.generation;
    for (step, wanted) in [vec!["a"], vec!["a", "b"], vec!["b"]].into_iter().enumerate() {
        match step {
            0 => bench
                .near
                .register(&instance(&service, "a"))
                .await
                .expect("register"),
            1 => bench
                .near
                .register(&instance(&service, "b"))
                .await
                .expect("register"),
            _ => bench.near.deregister(&service, "a").await.expect("deregister"),
        }
        let mut tries = 0;
        loop {
            tries += 1;
            assert!(
                tries < 400,
                "the watch never saw {wanted:?}, last {:?}",
                watch.newest()
            );
            tokio::select! {
                biased;
                next = watch.next() => {
                    let next = next.expect("the register is still there");
                    assert!(next.generation > generation, "generations grow");
                    generation = next.generation;
                    if ids(&next) == wanted { break; }
                }
                () = std::future::ready(()) => {
                    for id in ["a", "b"] { let _ = bench.near.renew(&service, id).await; }
                    bench.settle().await;
                }
            }
        }
    }
}

/// REG-8: hundreds of changes while nobody looks are few items for who watches, and the last one is right.
pub async fn a_storm_is_coalesced_and_its_end_is_seen(bench: Bench) {
    let service = fresh_service();
    let mut watch = bench.far.watch(&service).await.expect("watch");
    watch.next().await.expect("what is there");
    for round in 0..200 {
        bench
            .near
            .register(&instance(&service, "a").with("round", round.to_string()))
            .await
            .expect("register");
    }
    let last = |snapshot: &Snapshot| {
        snapshot
            .get("a")
            .is_some_and(|a| a.metadata.get("round").is_some_and(|round| round == "199"))
    };
    bench.until(&service, &["a"], "the last one", last).await;
    let next = tokio::time::timeout(Duration::from_secs(30), watch.next())
        .await
        .expect("the storm woke the watch")
        .expect("the register is still there");
    assert!(last(&next), "one item holds the end: {next:?}");
}

/// 120 instances, in the order of their ids.
pub async fn many_instances_come_in_order(bench: Bench) {
    let service = fresh_service();
    let names: Vec<String> = (0..120).map(|n| format!("i{}", (n * 37) % 120 + 100)).collect();
    for id in &names {
        bench
            .near
            .register(&instance(&service, id))
            .await
            .expect("register");
    }
    let seen = bench
        .until(&service, &[], "all", |snapshot| snapshot.instances.len() == 120)
        .await;
    let mut sorted: Vec<&str> = names.iter().map(String::as_str).collect();
    sorted.sort_unstable();
    assert_eq!(ids(&seen), sorted);
}

/// Who renews stays, however long.
pub async fn a_renewed_lease_lives_on(bench: Bench) {
    let service = fresh_service();
    bench
        .near
        .register(&instance(&service, "alive"))
        .await
        .expect("register");
    bench
        .until(&service, &["alive"], "listed", |snapshot| {
            !snapshot.instances.is_empty()
        })
        .await;
    for _ in 0..20 {
        bench.settle().await;
        bench
            .near
            .renew(&service, "alive")
            .await
            .expect("a renewal in time");
        let seen = bench.far.list(&service).await.expect("list");
        assert_eq!(ids(&seen), ["alive"]);
    }
}

/// Who is killed, and so neither renews nor deregisters, is gone when the lease is over; others stay.
pub async fn whoever_dies_is_gone(bench: Bench) {
    let service = fresh_service();
    bench
        .near
        .register(&instance(&service, "dies"))
        .await
        .expect("register");
    bench
        .far
        .register(&instance(&service, "lives"))
        .await
        .expect("register");
    bench
        .until(&service, &["dies"], "both", |snapshot| {
            snapshot.instances.len() == 2
        })
        .await;
    let Bench { near, far, moment } = bench;
    drop(near);
    let mut seen = Vec::new();
    for _ in 0..400 {
        moment().await;
        let _ = far.tick().await;
        far.renew(&service, "lives").await.expect("the living renews");
        if let Ok(snapshot) = far.list(&service).await {
            assert!(snapshot.get("lives").is_some(), "the living stays");
            seen = snapshot.instances.iter().map(|i| i.id.clone()).collect();
            if seen == ["lives"] {
                return;
            }
        }
    }
    panic!("the dead is still listed: {seen:?}");
}

/// REG-9: what could not be listed is refused, with the field named, and nothing is sent.
pub async fn what_is_wrong_is_refused_before_it_is_sent(bench: Bench) {
    let service = fresh_service();
    let mut locked = instance(&service, "a");
    locked.address = "http://user:s3cret@10.0.0.1/".parse().expect("a URL");
    for (wrong, field) in [
        (instance(&service, "a/b"), "id"),
        (instance(&service, ""), "id"),
        (instance(&service, "a").with("k", "x".repeat(5000)), "metadata"),
        (
            instance(&service, "a").lease(Duration::from_secs(100_000)),
            "lease",
        ),
        (locked, "address"),
    ] {
        let error = bench.near.register(&wrong).await.expect_err("it is wrong");
        assert_eq!(
            (error.kind(), error.effect()),
            (ErrorKind::Invalid, Effect::None),
            "{error}"
        );
        assert_eq!(error.context("field"), Some(field), "{error}");
        assert!(!format!("{error:?}").contains("s3cret"), "no secret in an error");
    }
    let seen = bench.far.list(&service).await.expect("list");
    assert!(seen.instances.is_empty(), "{seen:?}");
}
