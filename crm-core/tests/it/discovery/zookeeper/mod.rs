//! ZooKeeper: the conformance suite on a real server, sessions that break and end, and hostile servers. What is true is
//! asked of ZooKeeper itself, with its four-letter commands and its own command line client.

mod ensemble;
mod hostile;

use std::sync::Arc;
use std::time::Duration;

use crm_core::registry::discovery::zookeeper::{ZooKeeperConfig, ZooKeeperDiscovery};
use crm_core::registry::discovery::{Discovery, Instance, InstanceStatus};
use crm_core::testkit::discovery::{Bench, fresh_service, instance};
use crm_core::testkit::fixtures;
use crm_core::{ErrorKind, Health, ManualClock, Provider, Secret, SystemClock};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// The settings for the server of the tests, under a root of their own; without one the test steps aside.
fn settings() -> Option<ZooKeeperConfig> {
    let Ok(url) = std::env::var("OPEN_CRM_TEST_ZOOKEEPER_URL") else {
        assert!(
            std::env::var_os("OPEN_CRM_REQUIRE_BACKENDS").is_none(),
            "OPEN_CRM_TEST_ZOOKEEPER_URL is not set; scripts/services up zookeeper starts one"
        );
        eprintln!("SKIPPED: OPEN_CRM_TEST_ZOOKEEPER_URL is not set, nothing ran on ZooKeeper");
        return None;
    };
    let mut config = ZooKeeperConfig::from_url(&url).unwrap();
    config.root = format!("/open-crm-test/{}", fixtures::id());
    config.session_timeout = 6;
    Some(config)
}

fn open(config: &ZooKeeperConfig) -> ZooKeeperDiscovery {
    ZooKeeperDiscovery::new("zookeeper", config.clone(), SystemClock::shared()).unwrap()
}

/// A four-letter command.
async fn four(server: &str, word: &str) -> String {
    let talk = async {
        let mut stream = TcpStream::connect(server).await?;
        stream.write_all(word.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    match tokio::time::timeout(Duration::from_secs(5), talk).await {
        Ok(Ok(answer)) => answer,
        _ => String::new(),
    }
}

/// Which session a path belongs to, as the server says: `dump` lists sessions, and their ephemeral nodes after them.
async fn owner(server: &str, path: &str) -> Option<String> {
    let mut session = None;
    for line in four(server, "dump").await.lines() {
        if line.starts_with("0x") {
            session = Some(line.trim_end_matches(':').to_owned());
        } else if line.trim() == path {
            return session;
        }
    }
    None
}

async fn moment() {
    tokio::time::sleep(Duration::from_millis(50)).await;
}

crm_core::discovery_suite!(zookeeper_register, async {
    settings().map(|config| {
        Bench::new(Arc::new(open(&config)), Arc::new(open(&config)), || {
            Box::pin(moment())
        })
    })
});

/// REG-2: a session that expired is followed by a new one, in which everything is announced and watched again.
#[tokio::test]
async fn after_expiry_everything_is_announced_and_watched_again() {
    let Some(mut config) = settings() else { return };
    let server = config.servers[0].clone();
    config.session_timeout = 3;
    let lazy = open(&config);
    let (service, seen) = (fresh_service(), fresh_service());
    let path = format!("{}/{}/{}/me", config.root, service.capability(), service.name());
    lazy.register(&instance(&service, "me")).await.unwrap();
    let mut watch = lazy.watch(&seen).await.unwrap();
    watch.next().await.unwrap();
    let first = owner(&server, &path).await.expect("ZooKeeper has the node");
    // It is not driven, so it gives no sign of life.
    for _ in 0..200 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        if owner(&server, &path).await.is_none() {
            break;
        }
    }
    assert_eq!(
        owner(&server, &path).await,
        None,
        "the session expired, the node is gone"
    );
    let other = open(&ZooKeeperConfig {
        session_timeout: 6,
        ..config.clone()
    });
    other.register(&instance(&seen, "new")).await.unwrap();
    lazy.tick().await.unwrap();
    let second = owner(&server, &path).await.expect("announced again");
    assert_ne!(first, second);
    assert_eq!(watch.next().await.unwrap().instances.len(), 1, "read again");
    // And the watch of the new session is armed.
    other.deregister(&seen, "new").await.unwrap();
    for _ in 0..200 {
        lazy.tick().await.unwrap();
        if watch.newest().instances.is_empty() {
            break;
        }
        moment().await;
    }
    assert!(watch.newest().instances.is_empty());
    // Closing takes away at once what is ours.
    lazy.close().await.unwrap();
    assert_eq!(owner(&server, &path).await, None);
}

/// A connection in between that can be cut.
struct Cable {
    address: String,
    cut: tokio::sync::watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Cable {
    async fn to(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (cut, is_cut) = tokio::sync::watch::channel(false);
        let task = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                let (server, mut is_cut) = (server.clone(), is_cut.clone());
                if *is_cut.borrow() {
                    continue;
                }
                open.spawn(async move {
                    let mut far = TcpStream::connect(server).await.unwrap();
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        _ = is_cut.wait_for(|cut| *cut) => {}
                    }
                });
            }
        });
        Self { address, cut, task }
    }
}

/// REG-2: disconnected is not gone: what was known stays, marked stale; the session goes on, and what changed meanwhile is
/// seen.
#[tokio::test]
async fn a_cut_cable_changes_nothing_but_freshness() {
    let Some(config) = settings() else { return };
    let server = config.servers[0].clone();
    let cable = Cable::to(server.clone()).await;
    let near = open(&ZooKeeperConfig {
        servers: vec![cable.address.clone()],
        ..config.clone()
    });
    let far = open(&config);
    let service = fresh_service();
    let path = format!("{}/{}/{}/a", config.root, service.capability(), service.name());
    near.register(&instance(&service, "a")).await.unwrap();
    let mut watch = near.watch(&service).await.unwrap();
    assert_eq!(watch.next().await.unwrap().instances.len(), 1);
    let before = owner(&server, &path).await.unwrap();

    cable.cut.send(true).unwrap();
    let mut error = None;
    for _ in 0..100 {
        error = near.tick().await.err();
        if error.is_some() {
            break;
        }
        moment().await;
    }
    assert_eq!(error.unwrap().kind(), ErrorKind::Unavailable);
    let known = near.list(&service).await.unwrap();
    assert_eq!((known.instances.len(), known.stale), (1, true));
    assert!(watch.next().await.unwrap().stale);
    assert!(near.check().await.is_err());
    assert!(
        near.register(&instance(&service, "c"))
            .await
            .unwrap_err()
            .is_retryable()
    );
    // The far side still sees it: its session lives.
    far.register(&instance(&service, "b")).await.unwrap();
    assert_eq!(far.list(&service).await.unwrap().instances.len(), 2);

    cable.cut.send(false).unwrap();
    near.tick().await.unwrap();
    let next = watch.next().await.unwrap();
    assert_eq!((next.instances.len(), next.stale), (2, false));
    assert_eq!(owner(&server, &path).await.unwrap(), before, "the same session");
    near.renew(&service, "a").await.unwrap();
    assert_eq!(near.check().await.unwrap(), Health::Ready);
}

/// Who is restarted takes over its entry while the old session still lives, and keeps it when that one expires.
#[tokio::test]
async fn a_restarted_process_takes_over_its_entry() {
    let Some(mut config) = settings() else { return };
    config.session_timeout = 3;
    let server = config.servers[0].clone();
    let service = fresh_service();
    let path = format!("{}/{}/{}/me", config.root, service.capability(), service.name());
    let old = open(&config);
    old.register(&instance(&service, "me").with("life", "1"))
        .await
        .unwrap();
    let first = owner(&server, &path).await.unwrap();
    drop(old);
    let new = open(&ZooKeeperConfig {
        session_timeout: 6,
        ..config
    });
    new.register(&instance(&service, "me").with("life", "2"))
        .await
        .unwrap();
    assert_ne!(owner(&server, &path).await.unwrap(), first);
    // Until the old session is gone.
    for _ in 0..200 {
        new.tick().await.unwrap();
        if !four(&server, "dump").await.contains(&first) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(
        !four(&server, "dump").await.contains(&first),
        "the old session expired"
    );
    let seen = new.list(&service).await.unwrap();
    assert_eq!(seen.get("me").unwrap().metadata["life"], "2");
}

/// Somebody removes our node by hand: the renewal finds out, and registering again puts it back.
#[tokio::test]
async fn a_removed_node_is_missed_at_the_renewal() {
    let Some(config) = settings() else { return };
    let (near, other) = (open(&config), open(&config));
    let service = fresh_service();
    near.register(&instance(&service, "me")).await.unwrap();
    near.renew(&service, "me").await.unwrap();
    other.deregister(&service, "me").await.unwrap();
    assert_eq!(
        near.renew(&service, "me").await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
    near.register(&instance(&service, "me")).await.unwrap();
    assert_eq!(other.list(&service).await.unwrap().instances.len(), 1);
}

/// What a user protected, others cannot change, and cannot read unless allowed.
#[tokio::test]
async fn nodes_belong_to_their_user() {
    let Some(config) = settings() else { return };
    for public_read in [false, true] {
        let user = |name: &str, root: &str| {
            open(&ZooKeeperConfig {
                user: Some(name.into()),
                password: Some(Secret::new(format!("s3cret-{name}"))),
                public_read,
                root: root.into(),
                ..config.clone()
            })
        };
        let root = format!("{}-{public_read}", config.root);
        let service = fresh_service();
        let (ana, ana_too, bob) = (user("ana", &root), user("ana", &root), user("bob", &root));
        let nobody = open(&ZooKeeperConfig {
            root: root.clone(),
            ..config.clone()
        });
        ana.register(&instance(&service, "a")).await.unwrap();
        assert_eq!(ana_too.list(&service).await.unwrap().instances.len(), 1);
        for stranger in [&bob, &nobody] {
            let error = stranger.register(&instance(&service, "b")).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
            let error = stranger.deregister(&service, "a").await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
            match stranger.list(&service).await {
                Ok(seen) if public_read => assert_eq!(seen.instances.len(), 1),
                Err(error) if !public_read => assert_eq!(error.kind(), ErrorKind::PermissionDenied),
                other => panic!("public_read {public_read}: {other:?}"),
            }
            let shown = format!("{stranger:?} {error:?}");
            assert!(!shown.contains("s3cret"), "{shown}");
        }
    }
}

/// What ZooKeeper's own client sees, and what it writes that is none of ours.
#[tokio::test]
async fn its_own_client_reads_what_we_write() {
    let Some(config) = settings() else { return };
    let near = open(&config);
    let service = fresh_service();
    let me = instance(&service, "me")
        .zone("eu-1")
        .with("k", "v")
        .status(InstanceStatus::Starting);
    near.register(&me).await.unwrap();
    let folder = format!("{}/{}/{}", config.root, service.capability(), service.name());
    let server = config.servers[0].clone();
    let cli = |arguments: Vec<String>| {
        let server = server.clone();
        async move {
            let output = tokio::process::Command::new("java")
                .args([
                    "-Xmx64m",
                    "-XX:TieredStopAtLevel=1",
                    "-cp",
                    ensemble::JAR,
                    "org.apache.zookeeper.ZooKeeperMain",
                    "-server",
                    &server,
                ])
                .args(&arguments)
                .output()
                .await
                .unwrap();
            String::from_utf8_lossy(&output.stdout).into_owned()
        }
    };
    // Such a client takes seconds to start: the session is kept alive meanwhile.
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let driven = crm_core::registry::discovery::run(&near, async {
        let _ = stopped.await;
    });
    let looking = async {
        let got = cli(vec!["get".into(), format!("{folder}/me")]).await;
        let line = got
            .lines()
            .find(|line| line.starts_with('{'))
            .expect("it prints the data");
        assert_eq!(serde_json::from_str::<Instance>(line).unwrap(), me);
        // Foreign entries: no JSON, and an instance that says it is another one.
        for (id, data) in [
            ("junk", "nonsense".to_owned()),
            ("other", serde_json::to_string(&me).unwrap()),
        ] {
            cli(vec!["create".into(), format!("{folder}/{id}"), data]).await;
        }
        let children = cli(vec!["ls".into(), folder]).await;
        assert!(
            children.contains("junk") && children.contains("other"),
            "{children}"
        );
        stop.send(()).unwrap();
    };
    tokio::join!(driven, looking);
    near.tick().await.unwrap();
    let seen = near.list(&service).await.unwrap();
    assert_eq!(
        &*seen.instances,
        std::slice::from_ref(&me),
        "what is unsound is left out"
    );
}
