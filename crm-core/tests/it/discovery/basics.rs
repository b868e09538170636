//! The register in memory, the announcer and the resolver.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use crm_core::registry::Catalog;
use crm_core::registry::discovery::{
    Announcer, Discovery, Instance, InstanceStatus, MemoryDiscovery, Resolver, Service, Snapshot,
};
use crm_core::testkit::discovery::{Bench, fresh_service, instance};
use crm_core::{Clock, Error, ErrorKind, Health, ManualClock, Provider, ProviderInfo, Result};

fn memory() -> (MemoryDiscovery, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::default());
    (MemoryDiscovery::new("memory", clock.clone()), clock)
}

crm_core::discovery_suite!(memory_register, async {
    let (register, clock) = memory();
    Bench::new(Arc::new(register.clone()), Arc::new(register), move || {
        clock.advance(Duration::from_secs(2));
        Box::pin(async {})
    })
});

/// An announcer registers, renews three times a lease, registers again when it was forgotten, and leaves.
#[tokio::test]
async fn an_announcer_keeps_its_instance() {
    let (register, clock) = memory();
    let service = fresh_service();
    let announcer = Announcer::new(
        Arc::new(register.clone()),
        instance(&service, "me"),
        clock.clone(),
    )
    .unwrap();
    assert_eq!(announcer.tick().await.unwrap(), Duration::from_secs(2));
    for _ in 0..10 {
        clock.advance(Duration::from_secs(5));
        announcer.tick().await.unwrap();
        assert_eq!(register.list(&service).await.unwrap().instances.len(), 1);
    }
    // Forgotten: the renewal finds nothing, and the instance is announced again at once.
    register.deregister(&service, "me").await.unwrap();
    clock.advance(Duration::from_secs(2));
    announcer.tick().await.unwrap();
    assert_eq!(register.list(&service).await.unwrap().instances.len(), 1);
    announcer.set_status(InstanceStatus::OutOfService).await.unwrap();
    assert_eq!(register.list(&service).await.unwrap().up().count(), 0);
    announcer.leave().await.unwrap();
    assert!(register.list(&service).await.unwrap().instances.is_empty());
    clock.advance(Duration::from_secs(60));
    announcer.tick().await.unwrap();
    assert!(
        register.list(&service).await.unwrap().instances.is_empty(),
        "who left stays away"
    );
}

/// Negative control of the above: without ticks the lease lapses.
#[tokio::test]
async fn without_renewals_the_lease_lapses() {
    let (register, clock) = memory();
    let service = fresh_service();
    let announcer = Announcer::new(
        Arc::new(register.clone()),
        instance(&service, "me"),
        clock.clone(),
    )
    .unwrap();
    announcer.tick().await.unwrap();
    clock.advance(Duration::from_secs(6));
    assert!(register.list(&service).await.unwrap().instances.is_empty());
}

/// [`Announcer::run`] announces, and takes out when the host shuts down.
#[tokio::test]
async fn running_until_shutdown_leaves_nothing_behind() {
    let (register, clock) = memory();
    let service = fresh_service();
    let announcer = Announcer::new(Arc::new(register.clone()), instance(&service, "me"), clock).unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let mut watch = register.watch(&service).await.unwrap();
    assert!(watch.next().await.unwrap().instances.is_empty());
    let (ran, ()) = tokio::join!(
        announcer.run(async {
            let _ = stopped.await;
        }),
        async {
            assert_eq!(watch.next().await.unwrap().instances.len(), 1);
            stop.send(()).unwrap();
        }
    );
    ran.unwrap();
    assert!(register.list(&service).await.unwrap().instances.is_empty());
}

/// A watch ends when its register does.
#[tokio::test]
async fn a_watch_ends_with_its_register() {
    let (register, _) = memory();
    let mut watch = register.watch(&fresh_service()).await.unwrap();
    watch.next().await.unwrap();
    drop(register);
    assert!(watch.next().await.is_none());
}

trait Greeter: Provider {}

/// A provider "at" an address; whether it answers is decided by who tests.
#[derive(Debug)]
struct At {
    info: ProviderInfo,
    dead: Arc<Mutex<BTreeSet<String>>>,
}

#[async_trait]
impl Provider for At {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }
    async fn check(&self) -> Result<Health> {
        if self.dead.lock().unwrap().contains(&self.info.name) {
            Err(Error::new(ErrorKind::Unavailable, "no connection"))
        } else {
            Ok(Health::Ready)
        }
    }
}
impl Greeter for At {}

struct Town {
    register: MemoryDiscovery,
    dead: Arc<Mutex<BTreeSet<String>>>,
    resolver: Resolver<dyn Greeter>,
    service: Service,
}

fn town() -> Town {
    let (register, _) = memory();
    let dead: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    let mut catalog = Catalog::new();
    let shared = dead.clone();
    catalog.register::<dyn Greeter, _, _>("http", move |url| {
        let dead = shared.clone();
        async move {
            Ok(Arc::new(At {
                info: ProviderInfo::new("http", url),
                dead,
            }) as Arc<dyn Greeter>)
        }
    });
    let service = fresh_service();
    let resolver = Resolver::new(Arc::new(register.clone()), service.clone(), Arc::new(catalog)).zone("eu-1");
    Town {
        register,
        dead,
        resolver,
        service,
    }
}

impl Town {
    fn at(&self, n: u8) -> Instance {
        let mut one = instance(&self.service, &format!("i{n}"));
        one.address = format!("http://10.0.0.{n}/").parse().unwrap();
        one
    }
    async fn names(&self) -> Vec<String> {
        let pool = self.resolver.pool().await;
        pool.entries()
            .iter()
            .map(|entry| entry.provider().info().name.clone())
            .collect()
    }
}

#[tokio::test]
async fn a_resolver_follows_the_register() {
    let town = town();
    town.register.register(&town.at(1).zone("us-1")).await.unwrap();
    town.register.register(&town.at(2).zone("eu-1")).await.unwrap();
    town.register
        .register(&town.at(3).status(InstanceStatus::Starting))
        .await
        .unwrap();
    let done = town.resolver.refresh().await.unwrap();
    assert_eq!((done.opened, done.usable, done.failed), (2, 2, 0));
    // Its own zone comes first.
    assert_eq!(town.names().await, ["http://10.0.0.2/", "http://10.0.0.1/"]);

    town.register.register(&town.at(3)).await.unwrap();
    town.register.deregister(&town.service, "i1").await.unwrap();
    let done = town.resolver.refresh().await.unwrap();
    assert_eq!((done.opened, done.dropped, done.usable), (1, 1, 2));
    assert_eq!(town.names().await, ["http://10.0.0.2/", "http://10.0.0.3/"]);

    // Nothing changed, nothing is opened again.
    let done = town.resolver.refresh().await.unwrap();
    assert_eq!((done.opened, done.dropped, done.usable), (0, 0, 2));

    // A new address is a new provider; who goes out of service is let go.
    let mut moved = town.at(3);
    moved.address = "http://10.0.0.33/".parse().unwrap();
    town.register.register(&moved).await.unwrap();
    town.register
        .register(&town.at(2).zone("eu-1").status(InstanceStatus::OutOfService))
        .await
        .unwrap();
    town.resolver.refresh().await.unwrap();
    assert_eq!(town.names().await, ["http://10.0.0.33/"]);

    // A scheme that nobody knows is counted, not fatal.
    let mut odd = town.at(4);
    odd.address = "gopher://10.0.0.4/".parse().unwrap();
    town.register.register(&odd).await.unwrap();
    assert_eq!(town.resolver.refresh().await.unwrap().failed, 1);
    assert_eq!(town.names().await, ["http://10.0.0.33/"]);
}

/// REG-5: an empty or suddenly tiny list does not wipe out those that still answer.
#[tokio::test]
async fn an_empty_answer_does_not_wipe_out_the_living() {
    let town = town();
    for n in 1..=4 {
        town.register.register(&town.at(n)).await.unwrap();
    }
    town.resolver.refresh().await.unwrap();
    // Two of four go: that happens. They are let go although they would answer.
    for id in ["i3", "i4"] {
        town.register.deregister(&town.service, id).await.unwrap();
    }
    let done = town.resolver.refresh().await.unwrap();
    assert_eq!((done.dropped, done.doubted, done.usable), (2, 0, 2));

    // All the rest at once: the register is doubted, and the instances are asked themselves. One of them is dead.
    town.dead.lock().unwrap().insert("http://10.0.0.2/".into());
    let done = town.resolver.follow(&Snapshot::empty(town.service.clone())).await;
    assert_eq!((done.dropped, done.doubted, done.usable), (1, 1, 1));
    let pool = town.resolver.pool().await;
    assert_eq!(pool.entries()[0].health(), Health::Degraded);
    assert_eq!(pool.best().unwrap().info().name, "http://10.0.0.1/");

    // Still not listed, and now it does not answer either.
    town.dead.lock().unwrap().insert("http://10.0.0.1/".into());
    let done = town.resolver.follow(&Snapshot::empty(town.service.clone())).await;
    assert_eq!((done.dropped, done.usable), (1, 0));

    // Listed again: it is bound again.
    town.dead.lock().unwrap().clear();
    let done = town.resolver.refresh().await.unwrap();
    assert_eq!((done.opened, done.usable), (2, 2));
}

/// A doubted instance that is listed again is as good as before.
#[tokio::test]
async fn doubt_ends_when_it_is_listed_again() {
    let town = town();
    town.register.register(&town.at(1)).await.unwrap();
    town.resolver.refresh().await.unwrap();
    town.resolver.follow(&Snapshot::empty(town.service.clone())).await;
    assert_eq!(town.resolver.pool().await.entries()[0].health(), Health::Degraded);
    let done = town.resolver.refresh().await.unwrap();
    assert_eq!((done.opened, done.doubted), (0, 0));
    assert_eq!(town.resolver.pool().await.entries()[0].health(), Health::Ready);
}

/// Whose status nobody knows is asked itself.
#[tokio::test]
async fn an_unknown_status_is_asked_of_the_instance() {
    let town = town();
    for n in 1..=2 {
        town.register
            .register(&town.at(n).status(InstanceStatus::Unknown))
            .await
            .unwrap();
    }
    town.dead.lock().unwrap().insert("http://10.0.0.2/".into());
    let done = town.resolver.refresh().await.unwrap();
    assert_eq!((done.usable, done.failed), (1, 1));
    assert_eq!(town.names().await, ["http://10.0.0.1/"]);
    town.dead.lock().unwrap().insert("http://10.0.0.1/".into());
    town.resolver.refresh().await.unwrap();
    assert_eq!(
        town.resolver.pool().await.best().unwrap_err().kind(),
        ErrorKind::Unavailable
    );
}

/// A register that fails, to see what those around it do.
#[derive(Debug)]
struct Failing {
    inner: MemoryDiscovery,
    fails: AtomicBool,
}

#[async_trait]
impl Provider for Failing {
    fn info(&self) -> &ProviderInfo {
        self.inner.info()
    }
    async fn check(&self) -> Result<Health> {
        Ok(Health::Ready)
    }
}

#[async_trait]
impl Discovery for Failing {
    async fn register(&self, instance: &Instance) -> Result<()> {
        self.fail()?;
        self.inner.register(instance).await
    }
    async fn renew(&self, service: &Service, id: &str) -> Result<()> {
        self.fail()?;
        self.inner.renew(service, id).await
    }
    async fn deregister(&self, service: &Service, id: &str) -> Result<()> {
        self.fail()?;
        self.inner.deregister(service, id).await
    }
    async fn list(&self, service: &Service) -> Result<Snapshot> {
        self.fail()?;
        self.inner.list(service).await
    }
    async fn watch(&self, service: &Service) -> Result<crm_core::registry::discovery::Watch> {
        self.inner.watch(service).await
    }
    async fn tick(&self) -> Result<Duration> {
        self.inner.tick().await
    }
}

impl Failing {
    fn fail(&self) -> Result<()> {
        if self.fails.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Unavailable, "the register is down"));
        }
        Ok(())
    }
}

/// A failed registration or renewal stays due: the next tick does it.
#[tokio::test]
async fn what_failed_is_done_at_the_next_tick() {
    let (inner, clock) = memory();
    let failing = Arc::new(Failing {
        inner,
        fails: AtomicBool::new(true),
    });
    let service = fresh_service();
    let announcer = Announcer::new(failing.clone(), instance(&service, "me"), clock.clone()).unwrap();
    assert_eq!(announcer.tick().await.unwrap_err().kind(), ErrorKind::Unavailable);
    failing.fails.store(false, Ordering::SeqCst);
    announcer.tick().await.unwrap();
    assert_eq!(failing.list(&service).await.unwrap().instances.len(), 1);
    clock.advance(Duration::from_secs(4));
    failing.fails.store(true, Ordering::SeqCst);
    announcer.tick().await.unwrap_err();
    failing.fails.store(false, Ordering::SeqCst);
    announcer.tick().await.unwrap();
    clock.advance(Duration::from_secs(4));
    assert_eq!(
        failing.list(&service).await.unwrap().instances.len(),
        1,
        "renewed at {}",
        clock.now()
    );
}
