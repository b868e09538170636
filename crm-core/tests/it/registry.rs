//! Registry, pools and catalogue.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use crm_core::capability::{Mailer, RecordStore, SmsSender};
use crm_core::memory::{MemoryMailer, MemorySms, MemoryStore};
use crm_core::registry::{Capability, Catalog, Pool};
use crm_core::{Effect, Error, ErrorKind, Health, Needs, Provider, ProviderInfo, Registry, Result};

/// A capability of this test's own: any trait can be one.
trait Greeter: Provider {
    fn languages(&self) -> &[&'static str];
}

#[derive(Debug)]
struct Fake {
    info: ProviderInfo,
    languages: Vec<&'static str>,
    health: Mutex<Result<Health, ErrorKind>>,
    checks: AtomicU32,
}

impl Fake {
    fn new(name: &str, languages: &[&'static str]) -> Arc<Self> {
        Arc::new(Self {
            info: ProviderInfo::new("fake", name)
                .tag("region", if name.starts_with("eu") { "eu" } else { "us" }),
            languages: languages.to_vec(),
            health: Mutex::new(Ok(Health::Ready)),
            checks: AtomicU32::new(0),
        })
    }
}

#[async_trait]
impl Provider for Fake {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }
    async fn check(&self) -> Result<Health> {
        self.checks.fetch_add(1, Ordering::SeqCst);
        let health = *self.health.lock().unwrap();
        health.map_err(|kind| Error::new(kind, "cannot be reached"))
    }
}

impl Greeter for Fake {
    fn languages(&self) -> &[&'static str] {
        &self.languages
    }
}

fn registry(fakes: &[(i32, &Arc<Fake>)]) -> Registry {
    let builder = fakes
        .iter()
        .fold(Registry::builder(), |builder, (priority, fake)| {
            builder.provide::<dyn Greeter>(*priority, (*fake).clone())
        });
    builder.build().unwrap()
}

fn names(pool: &Pool<dyn Greeter>) -> Vec<&str> {
    pool.entries()
        .iter()
        .map(|entry| entry.provider().info().name.as_str())
        .collect()
}

#[test]
fn the_highest_priority_is_asked_first_and_the_first_added_among_equals() {
    let fakes = ["us-1", "eu-1", "eu-2"].map(|name| Fake::new(name, &["en"]));
    let registry = registry(&[(0, &fakes[0]), (5, &fakes[1]), (5, &fakes[2])]);
    let pool = registry.pool::<dyn Greeter>().unwrap();
    assert_eq!(names(&pool), ["eu-1", "eu-2", "us-1"]);
    assert_eq!(pool.best().unwrap().info().name, "eu-1");
    assert_eq!(registry.get::<dyn Greeter>().unwrap().info().name, "eu-1");
}

#[test]
fn tags_and_abilities_select() {
    let fakes = [
        Fake::new("us-1", &["en", "es"]),
        Fake::new("eu-1", &["et"]),
        Fake::new("eu-2", &["en"]),
    ];
    let registry = registry(&[(9, &fakes[0]), (1, &fakes[1]), (0, &fakes[2])]);
    let pool = registry.pool::<dyn Greeter>().unwrap();
    assert_eq!(names(&pool.tagged("region", "eu")), ["eu-1", "eu-2"]);
    let english = pool.filter(|greeter| greeter.languages().contains(&"en"));
    assert_eq!(names(&english.tagged("region", "eu")), ["eu-2"]);
    assert_eq!(pool.len(), 3, "the pool itself is as it was");
    let error = pool.tagged("region", "mars").best().err().unwrap();
    assert_eq!(
        (error.kind(), error.context("capability")),
        (ErrorKind::Unavailable, Some("Greeter"))
    );
}

#[tokio::test]
async fn health_goes_before_priority_and_the_down_are_left_out() {
    let fakes = ["a", "b", "c"].map(|name| Fake::new(name, &[]));
    let registry = registry(&[(3, &fakes[0]), (2, &fakes[1]), (1, &fakes[2])]);
    let best = || {
        registry
            .get::<dyn Greeter>()
            .map(|greeter| greeter.info().name.clone())
    };
    assert_eq!(best().unwrap(), "a");
    *fakes[0].health.lock().unwrap() = Ok(Health::Degraded);
    assert_eq!(best().unwrap(), "a", "nobody has asked yet");
    let report = registry.refresh().await;
    assert_eq!(report[0], ("Greeter", "a".to_owned(), Health::Degraded));
    assert_eq!(report.len(), 3);
    assert_eq!(best().unwrap(), "b", "ready goes before degraded");
    *fakes[1].health.lock().unwrap() = Err(ErrorKind::Unavailable);
    *fakes[2].health.lock().unwrap() = Ok(Health::Down);
    registry.refresh().await;
    assert_eq!(best().unwrap(), "a", "an error counts as down");
    *fakes[0].health.lock().unwrap() = Ok(Health::Down);
    registry.refresh().await;
    let error = best().unwrap_err();
    assert_eq!(
        (error.kind(), error.context("providers")),
        (ErrorKind::Unavailable, Some("3"))
    );
    let asked = registry
        .pool::<dyn Greeter>()
        .unwrap()
        .run(|_| async { Ok(()) })
        .await;
    assert_eq!(
        asked.unwrap_err().kind(),
        ErrorKind::Unavailable,
        "nobody is asked who is down"
    );
    registry.pool::<dyn Greeter>().unwrap().entries()[2].set_health(Health::Ready);
    assert_eq!(best().unwrap(), "c", "the host may know better");
    assert_eq!(fakes[0].checks.load(Ordering::SeqCst), 3, "asked only by refresh");
}

/// Calls the pool; the first provider fails as given. Answers who was asked, and the result.
async fn failing(first: impl Fn() -> Error) -> (Vec<String>, Result<String>) {
    let fakes = ["first", "second"].map(|name| Fake::new(name, &[]));
    let pool = registry(&[(1, &fakes[0]), (0, &fakes[1])])
        .pool::<dyn Greeter>()
        .unwrap();
    let asked = Mutex::new(Vec::new());
    let result = pool
        .run(|greeter| {
            let name = greeter.info().name.clone();
            asked.lock().unwrap().push(name.clone());
            let error = (name == "first").then(&first);
            async move { error.map_or(Ok(name), Err) }
        })
        .await;
    (asked.into_inner().unwrap(), result)
}

#[tokio::test]
async fn a_call_fails_over_only_when_nothing_happened_and_another_may_do_better() {
    use ErrorKind as K;
    for kind in [
        K::Unavailable,
        K::RateLimited,
        K::Timeout,
        K::Unauthenticated,
        K::Unsupported,
        K::Config,
    ] {
        let (asked, result) = failing(|| Error::new(kind, "x")).await;
        assert_eq!((asked.len(), result.unwrap().as_str()), (2, "second"), "{kind}");
        let (asked, result) = failing(|| Error::new(kind, "x").effect_unknown()).await;
        let error = result.unwrap_err();
        assert_eq!(
            (asked.len(), error.effect()),
            (1, Effect::Unknown),
            "{kind} with an unknown effect"
        );
        assert_eq!(error.context("provider"), Some("first"));
    }
    for kind in [
        K::Invalid,
        K::NotFound,
        K::Conflict,
        K::Refused,
        K::PermissionDenied,
        K::Cancelled,
        K::Corrupt,
        K::Unexpected,
    ] {
        let (asked, result) = failing(|| Error::new(kind, "x")).await;
        assert_eq!((asked.len(), result.unwrap_err().kind()), (1, kind), "{kind}");
    }
}

#[tokio::test]
async fn when_all_fail_the_last_error_comes_out() {
    let fakes = ["first", "second"].map(|name| Fake::new(name, &[]));
    let pool = registry(&[(1, &fakes[0]), (0, &fakes[1])])
        .pool::<dyn Greeter>()
        .unwrap();
    let error = pool
        .run(|_| async { Err::<(), _>(Error::new(ErrorKind::Unavailable, "x")) })
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.context("provider")),
        (ErrorKind::Unavailable, Some("second"))
    );
}

#[test]
fn two_of_one_name_are_refused_but_capabilities_do_not_mix() {
    let twice = Registry::builder()
        .provide::<dyn RecordStore>(0, Arc::new(MemoryStore::new("main")))
        .provide::<dyn RecordStore>(1, Arc::new(MemoryStore::new("main")));
    let error = twice.build().unwrap_err();
    assert_eq!(
        (error.kind(), error.context("capability")),
        (ErrorKind::Config, Some("RecordStore"))
    );
    assert_eq!(error.context("provider"), Some("main"));
    let registry = Registry::builder()
        .provide::<dyn RecordStore>(0, Arc::new(MemoryStore::new("main")))
        .provide::<dyn Mailer>(0, Arc::new(MemoryMailer::new("main")))
        .build()
        .unwrap();
    let names: Vec<&str> = registry.capabilities().iter().map(Capability::name).collect();
    assert_eq!(names, ["Mailer", "RecordStore"]);
    assert!(
        registry.has(&Capability::of::<dyn Mailer>()) && !registry.has(&Capability::of::<dyn SmsSender>())
    );
    assert!(
        format!("{registry:?}").contains("\"Mailer\": [(0, \"main\", Ready)]"),
        "{registry:?}"
    );
}

#[test]
fn what_is_missing_is_named_together_with_what_is_there() {
    let registry = Registry::builder()
        .provide::<dyn SmsSender>(0, Arc::new(MemorySms::new("sms")))
        .build()
        .unwrap();
    let error = registry.get::<dyn Mailer>().err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(
        (error.context("capability"), error.context("registered")),
        (Some("Mailer"), Some("SmsSender"))
    );
    let needs = Needs::new("Outreach")
        .requires::<dyn Mailer>()
        .requires::<dyn SmsSender>()
        .requires::<dyn RecordStore>();
    assert_eq!(
        needs.check(&registry).unwrap_err().context("missing"),
        Some("Mailer, RecordStore")
    );
}

#[tokio::test]
async fn a_catalogue_knows_what_was_left_out_and_never_shows_a_url() {
    let mut catalog = Catalog::new();
    catalog.absent::<dyn Mailer>("smtp", "smtp");
    let error = catalog
        .open::<dyn Mailer>("smtp://user:hunter2@host")
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.context("feature")),
        (ErrorKind::Unsupported, Some("smtp"))
    );
    assert!(!format!("{error:?}").contains("hunter2"));
    catalog.register::<dyn Mailer, _, _>("smtp", |url| async move {
        assert_eq!(url, "smtp://user:hunter2@host");
        Ok(Arc::new(MemoryMailer::new("one")) as Arc<dyn Mailer>)
    });
    catalog.absent::<dyn Mailer>("smtp", "smtp");
    let mailer = catalog
        .open::<dyn Mailer>("smtp://user:hunter2@host")
        .await
        .unwrap();
    assert_eq!(mailer.info().name, "one", "what is there is never hidden");
    let error = catalog
        .open::<dyn RecordStore>("smtp://user:hunter2@host")
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.context("known")),
        (ErrorKind::Unsupported, Some(""))
    );
    for no_scheme in ["", "hunter2"] {
        let error = catalog.open::<dyn Mailer>(no_scheme).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.context("known")),
            (ErrorKind::Config, Some("smtp"))
        );
        assert!(!format!("{error:?}").contains("hunter2"));
    }
}
