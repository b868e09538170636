//! Our client: the conformance suite against our server, its requests as they are on the wire, and what it makes of
//! answers, recorded and hostile ones.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crm_core::registry::discovery::{Discovery, InstanceStatus, Service, Snapshot};
use crm_core::testkit::discovery::{Bench, fresh_service, instance};
use crm_core::{Effect, ErrorKind, Health, Provider, Secret};

use super::*;

crm_core::discovery_suite!(eureka_register, async {
    let clock = clock();
    let server = server(&clock);
    let served = Arc::new(served(&server).await);
    let near = client(&[&served], &clock);
    let far = client(&[&served], &clock);
    Bench::new(Arc::new(near), Arc::new(far), move || {
        let _kept = served.clone();
        clock.advance(seconds(2));
        Box::pin(async {})
    })
});

/// The service that the recordings call `CRM`.
fn crm() -> Service {
    "record-store/crm".parse().unwrap()
}

fn for_crm(served: &[&Served], clock: &Arc<ManualClock>) -> EurekaDiscovery {
    let mut config = config(served);
    config.apps.insert(crm(), "crm".into());
    EurekaDiscovery::new("eureka", config, http_to(served), clock.clone() as Arc<dyn Clock>).unwrap()
}

fn recorded(name: &str) -> Bytes {
    std::fs::read(format!("tests/data/eureka/{name}.response.body"))
        .unwrap()
        .into()
}

fn json(body: Bytes) -> Response<Bytes> {
    Response::builder()
        .header("content-type", "application/json")
        .body(body)
        .unwrap()
}

fn status(status: u16) -> Response<Bytes> {
    Response::builder().status(status).body(Bytes::new()).unwrap()
}

fn lines(requests: &[Request<Bytes>]) -> Vec<String> {
    requests
        .iter()
        .map(|request| format!("{} {}", request.method(), request.uri()))
        .collect()
}

/// Methods, paths, headers and bodies are those that the public server was recorded to take.
#[tokio::test]
async fn requests_are_as_recorded() {
    let clock = clock();
    let server = server(&clock);
    let served = served(&server).await;
    let client = for_crm(&[&served], &clock);
    let mut me = instance(&crm(), "crm-1")
        .zone("z1")
        .with("weight", "3")
        .lease(seconds(6));
    me.address = "http://127.0.0.1:8080/".parse().unwrap();
    client.register(&me).await.unwrap();
    client.renew(&crm(), "crm-1").await.unwrap();
    client
        .register(&me.clone().status(InstanceStatus::OutOfService))
        .await
        .unwrap();
    client.register(&me).await.unwrap();
    client.list(&crm()).await.unwrap();
    clock.advance(seconds(2));
    client.list(&crm()).await.unwrap();
    client.deregister(&crm(), "crm-1").await.unwrap();
    let heard = served.heard();
    let dirty = clock.now().as_micros() / 1000 - 2000;
    assert_eq!(
        lines(&heard),
        [
            "POST /eureka/v2/apps/CRM".to_owned(),
            format!("PUT /eureka/v2/apps/CRM/crm-1?status=UP&lastDirtyTimestamp={dirty}"),
            "POST /eureka/v2/apps/CRM".into(),
            "DELETE /eureka/v2/apps/CRM/crm-1/status?value=UP".into(),
            "POST /eureka/v2/apps/CRM".into(),
            "GET /eureka/v2/apps".into(),
            "GET /eureka/v2/apps/delta".into(),
            "DELETE /eureka/v2/apps/CRM/crm-1".into(),
        ]
    );
    for request in &heard {
        let header = |name: &str| request.headers().get(name).map(|value| value.to_str().unwrap());
        assert_eq!(header("accept"), Some("application/json"));
        assert!(header("accept-encoding").unwrap().contains("gzip"));
        let posts = request.method() == "POST";
        assert_eq!(header("content-type"), posts.then_some("application/json"));
    }
    // The body of the recorded registration, and what we say beyond it.
    let mut said: serde_json::Value = serde_json::from_slice(heard[0].body()).unwrap();
    let mut wanted: serde_json::Value = serde_json::from_str(CRM_1).unwrap();
    let fields = said["instance"].as_object_mut().unwrap();
    for field in ["lastUpdatedTimestamp", "lastDirtyTimestamp"] {
        assert_eq!(fields.remove(field).unwrap(), dirty.to_string());
    }
    assert_eq!(
        fields["metadata"]
            .as_object_mut()
            .unwrap()
            .remove("crm-address")
            .unwrap(),
        "http://127.0.0.1:8080/"
    );
    let fields = wanted["instance"].as_object_mut().unwrap();
    for ours_has_none in ["statusPageUrl", "healthCheckUrl"] {
        fields.remove(ours_has_none);
    }
    assert_eq!(said, wanted);
    // In the order in which the recorded one says it.
    let order = |text: &str| -> Vec<usize> {
        [
            "instanceId",
            "hostName",
            "app\"",
            "ipAddr",
            "status\"",
            "overriddenstatus",
            "port",
            "securePort",
            "countryId",
            "dataCenterInfo",
            "leaseInfo",
            "metadata",
            "homePageUrl",
            "vipAddress",
            "secureVipAddress",
        ]
        .iter()
        .map(|field| text.find(&format!("\"{field}")).unwrap())
        .collect()
    };
    assert!(order(std::str::from_utf8(heard[0].body()).unwrap()).is_sorted());
    assert!(order(CRM_1).is_sorted());
}

/// The recorded lists, applied one after the other.
#[tokio::test]
async fn recorded_answers_are_understood() {
    let clock = clock();
    let step = Arc::new(AtomicUsize::new(0));
    let at = step.clone();
    let served = Served::new(
        move |request| match (request.uri().path(), at.load(Ordering::SeqCst)) {
            ("/eureka/v2/apps", 0) => json(recorded("server-06-apps-json")),
            ("/eureka/v2/apps/delta", 1) => json(recorded("server-08-apps-delta-json")),
            ("/eureka/v2/apps/delta", 2) => json(recorded("server-26-delta-after-expiry")),
            (path, step) => panic!("{path} in step {step}"),
        },
    )
    .await;
    let client = for_crm(&[&served], &clock);
    let seen = client.list(&crm()).await.unwrap();
    let one = seen.get("crm-1").unwrap();
    assert_eq!(
        (one.address.as_str(), one.status, one.zone.as_deref(), one.lease),
        (
            "http://127.0.0.1:8080/",
            InstanceStatus::Up,
            Some("z1"),
            seconds(6)
        )
    );
    assert_eq!(
        one.metadata.iter().collect::<Vec<_>>(),
        [(&"weight".to_owned(), &"3".to_owned())]
    );
    for (now, count) in [(1, 1), (2, 0)] {
        step.store(now, Ordering::SeqCst);
        clock.advance(seconds(2));
        assert_eq!(
            client.list(&crm()).await.unwrap().instances.len(),
            count,
            "step {now}"
        );
    }
    assert_eq!(served.heard().len(), 3, "the deltas added up");
}

/// REG-4: a delta that does not add up leads to everything being fetched.
#[tokio::test]
async fn a_wrong_hash_leads_to_a_full_fetch() {
    let clock = clock();
    let served = Served::new(|request| match request.uri().path() {
        "/eureka/v2/apps" => json(recorded("server-06-apps-json")),
        // Says that one was deleted, and that one is left: something was missed.
        _ => {
            let text = String::from_utf8(recorded("server-26-delta-after-expiry").to_vec()).unwrap();
            json(
                text.replace(r#""apps__hashcode":"""#, r#""apps__hashcode":"UP_1_""#)
                    .into(),
            )
        }
    })
    .await;
    let client = for_crm(&[&served], &clock);
    assert_eq!(client.list(&crm()).await.unwrap().instances.len(), 1);
    served.heard();
    clock.advance(seconds(2));
    assert_eq!(client.list(&crm()).await.unwrap().instances.len(), 1);
    assert_eq!(
        lines(&served.heard()),
        ["GET /eureka/v2/apps/delta", "GET /eureka/v2/apps"]
    );
}

/// REG-4: a heartbeat that is not known registers again.
#[tokio::test]
async fn who_was_forgotten_registers_again() {
    let clock = clock();
    let server = server(&clock);
    let served = served(&server).await;
    let client = client(&[&served], &clock);
    let service = fresh_service();
    client.register(&instance(&service, "me")).await.unwrap();
    clock.advance(seconds(60));
    server.tick();
    server.tick();
    client.renew(&service, "me").await.unwrap();
    assert_eq!(client.list(&service).await.unwrap().instances.len(), 1);
    let methods: Vec<String> = served
        .heard()
        .iter()
        .map(|request| request.method().to_string())
        .collect();
    assert_eq!(methods, ["POST", "PUT", "POST", "GET"]);
}

/// The status that an operator sets is listed, and our own registration does not change it.
#[tokio::test]
async fn an_operator_has_its_way() {
    let clock = clock();
    let server = server(&clock);
    let served = served(&server).await;
    let client = for_crm(&[&served], &clock);
    client.register(&instance(&crm(), "crm-1")).await.unwrap();
    ask(
        &server,
        "PUT",
        "/eureka/v2/apps/CRM/crm-1/status?value=OUT_OF_SERVICE",
        None,
    );
    let status = |snapshot: Snapshot| snapshot.get("crm-1").unwrap().status;
    assert_eq!(
        status(client.list(&crm()).await.unwrap()),
        InstanceStatus::OutOfService
    );
    client.register(&instance(&crm(), "crm-1")).await.unwrap();
    client.renew(&crm(), "crm-1").await.unwrap();
    clock.advance(seconds(2));
    assert_eq!(
        status(client.list(&crm()).await.unwrap()),
        InstanceStatus::OutOfService
    );
    ask(
        &server,
        "DELETE",
        "/eureka/v2/apps/CRM/crm-1/status?value=UP",
        None,
    );
    clock.advance(seconds(2));
    assert_eq!(status(client.list(&crm()).await.unwrap()), InstanceStatus::Up);
}

/// A node that is gone or cannot serve is passed over; the one that answered is asked first from then on.
#[tokio::test]
async fn the_next_node_is_asked() {
    let clock = clock();
    let server = server(&clock);
    let gone = Served::new(|_| status(200)).await;
    let ill = Served::new(|_| status(503)).await;
    let well = served(&server).await;
    let client = client(&[&gone, &ill, &well], &clock);
    let address = gone.address;
    drop(gone);
    tokio::task::yield_now().await;
    let service = fresh_service();
    // The port is closed as soon as the task that held it has ended.
    for _ in 0..1000 {
        if tokio::net::TcpStream::connect(address).await.is_err() {
            break;
        }
        tokio::task::yield_now().await;
    }
    client.register(&instance(&service, "me")).await.unwrap();
    assert_eq!((ill.heard().len(), well.heard().len()), (1, 1));
    client.renew(&service, "me").await.unwrap();
    assert_eq!((ill.heard().len(), well.heard().len()), (0, 1));
    drop(well);
    tokio::time::sleep(Duration::from_millis(1)).await;
    let error = client.renew(&service, "me").await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Unavailable), "{error:?}");
    assert_eq!(error.context("peers_tried"), Some("3"));
}

/// REG-2, REG-5: while the register is away, what was known stays, marked stale; watches are told.
#[tokio::test]
async fn what_was_known_stays_while_the_register_is_away() {
    let clock = clock();
    let server = server(&clock);
    let away = Arc::new(AtomicBool::new(true));
    let (inner, flag) = (server.clone(), away.clone());
    let served = Served::new(move |request| {
        if flag.load(Ordering::SeqCst) {
            status(500)
        } else {
            inner.handle(request)
        }
    })
    .await;
    let client = for_crm(&[&served], &clock);
    let error = client.list(&crm()).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.effect()),
        (ErrorKind::Unavailable, Effect::None),
        "nothing is known yet"
    );
    assert!(client.check().await.is_err());
    away.store(false, Ordering::SeqCst);
    assert_eq!(client.check().await.unwrap(), Health::Ready);
    client.register(&instance(&crm(), "crm-1")).await.unwrap();
    clock.advance(seconds(2));
    let mut watch = client.watch(&crm()).await.unwrap();
    client.tick().await.unwrap();
    let seen = watch.next().await.unwrap();
    assert_eq!((seen.instances.len(), seen.stale), (1, false));
    away.store(true, Ordering::SeqCst);
    clock.advance(seconds(2));
    client.tick().await.unwrap_err();
    let seen = watch.next().await.unwrap();
    assert_eq!((seen.instances.len(), seen.stale), (1, true));
    let seen = client.list(&crm()).await.unwrap();
    assert_eq!((seen.instances.len(), seen.stale), (1, true));
    away.store(false, Ordering::SeqCst);
    clock.advance(seconds(2));
    client.tick().await.unwrap();
    let seen = watch.next().await.unwrap();
    assert_eq!((seen.instances.len(), seen.stale), (1, false));
}

/// A register in self-preservation lists the dead: who has been silent for long while others renew is to be asked itself.
#[tokio::test]
async fn self_preservation_is_not_believed() {
    let clock = clock();
    let config = EurekaServerConfig {
        self_preservation: true,
        evict_every: 2,
        ..EurekaServerConfig::default()
    };
    let server = EurekaServer::new(config, clock.clone()).unwrap();
    let served = served(&server).await;
    let client = for_crm(&[&served], &clock);
    for id in ["alive", "dead"] {
        client.register(&instance(&crm(), id)).await.unwrap();
    }
    for _ in 0..30 {
        client.renew(&crm(), "alive").await.unwrap();
        clock.advance(seconds(2));
        client.tick().await.unwrap();
    }
    let seen = client.list(&crm()).await.unwrap();
    assert_eq!(
        seen.get("dead").unwrap().status,
        InstanceStatus::Unknown,
        "the register lists it as UP"
    );
    assert_eq!(seen.get("alive").unwrap().status, InstanceStatus::Up);
    let listed = text(&ask(
        &server,
        "GET",
        "/eureka/v2/apps/CRM/dead",
        Some("application/json"),
    ));
    assert!(listed.contains(r#""status":"UP""#), "{listed}");
    // It comes back.
    client.renew(&crm(), "dead").await.unwrap();
    clock.advance(seconds(2));
    let seen = client.list(&crm()).await.unwrap();
    assert_eq!(seen.get("dead").unwrap().status, InstanceStatus::Up);
}

/// REG-9: hostile answers change nothing and cost little.
#[tokio::test]
async fn hostile_answers_change_nothing() {
    let clock = clock();
    let step = Arc::new(AtomicUsize::new(0));
    let at = step.clone();
    let one = |n: usize| format!(r#"{{"instanceId":"i{n}","hostName":"h","app":"CRM","ipAddr":"1"}}"#);
    let many: Vec<String> = (0..200).map(one).collect();
    let list = |instances: &str| {
        format!(
            r#"{{"applications":{{"versions__delta":"1","apps__hashcode":"x","application":[{{"name":"CRM","instance":[{instances}]}}]}}}}"#
        )
    };
    let answers: Vec<Bytes> = vec![
        recorded("server-06-apps-json"),
        "".into(),
        "{".into(),
        "[]".into(),
        "{}".into(),
        r#"{"applications":[]}"#.into(),
        r#"{"applications":{"application":[{"instance":[]}]}}"#.into(),
        r#"{"applications":{"application":7}}"#.into(),
        "<applications/>".into(),
        format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)).into(),
        list(&many.join(",")).into(),
        vec![b' '; 3 * 1024 * 1024].into(),
    ];
    let count = answers.len();
    let served = Served::new(move |request| {
        if request.uri().path().ends_with("delta") {
            return status(403);
        }
        json(answers[at.load(Ordering::SeqCst)].clone())
    })
    .await;
    let mut settings = config(&[&served]);
    settings.apps.insert(crm(), "CRM".into());
    settings.max_instances = 100;
    let mut http = HttpConfig {
        max_body: 2 * 1024 * 1024,
        ..HttpConfig::default()
    };
    http.allow
        .push(format!("127.0.0.1/32:{}", served.address.port()).parse().unwrap());
    let client = EurekaDiscovery::new(
        "eureka",
        settings,
        HttpClient::new(http).unwrap(),
        clock.clone() as Arc<dyn Clock>,
    )
    .unwrap();
    assert_eq!(client.list(&crm()).await.unwrap().instances.len(), 1);
    for n in 1..count {
        step.store(n, Ordering::SeqCst);
        clock.advance(seconds(2));
        let error = client.tick().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "answer {n}: {error}");
        let known = client.list(&crm()).await.unwrap();
        assert_eq!((known.instances.len(), known.stale), (1, true), "answer {n}");
    }
}

/// Entries that do not make a sound instance are left out, the others stay.
#[tokio::test]
async fn unsound_entries_are_left_out() {
    let clock = clock();
    let served = Served::new(|_| {
        json(
            r#"{"applications":{"versions__delta":"1","apps__hashcode":"x","application":{"name":"crm","instance":[
              {"instanceId":"../up","hostName":"h","app":"CRM","ipAddr":"1"},
              {"instanceId":"bad-home","hostName":"h","homePageUrl":"nonsense"},
              {"instanceId":"locked","hostName":"h","homePageUrl":"http://u:p@h/"},
              {"instanceId":"plain","hostName":"h.example","port":{"$":"81","@enabled":true}},
              {"instanceId":"safe","hostName":"h.example","securePort":{"$":8443,"@enabled":"true"},"status":"odd"},
              {"nothing":1}, 7, null
            ]}}}"#
                .into(),
        )
    })
    .await;
    let client = for_crm(&[&served], &clock);
    let seen = client.list(&crm()).await.unwrap();
    let found: Vec<_> = seen
        .instances
        .iter()
        .map(|i| (i.id.as_str(), i.address.as_str(), i.status))
        .collect();
    assert_eq!(
        found,
        [
            ("plain", "http://h.example:81/", InstanceStatus::Up),
            ("safe", "https://h.example:8443/", InstanceStatus::Unknown)
        ]
    );
}

/// User and password go into the header, and nowhere else.
#[tokio::test]
async fn credentials_are_sent_and_never_shown() {
    let clock = clock();
    let served = Served::new(|_| status(401)).await;
    let mut settings = config(&[&served]);
    settings.user = Some("crm".into());
    settings.password = Some(Secret::new("s3cret-word"));
    let client = EurekaDiscovery::new(
        "eureka",
        settings,
        http_to(&[&served]),
        clock.clone() as Arc<dyn Clock>,
    )
    .unwrap();
    let error = client
        .register(&instance(&fresh_service(), "me"))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated);
    let sent = served.heard();
    // RFC 7617: base64 of crm:s3cret-word.
    assert_eq!(sent[0].headers()["authorization"], "Basic Y3JtOnMzY3JldC13b3Jk");
    let shown = format!("{client:?} {error:?}");
    assert!(!shown.contains("s3cret") && !shown.contains("Y3Jt"), "{shown}");

    let peer = |text: &str| vec![text.parse().unwrap()];
    let with = |change: fn(&mut EurekaConfig)| {
        let mut config = EurekaConfig::new(peer("http://e/"));
        change(&mut config);
        config.validate()
    };
    assert!(EurekaConfig::new(peer("http://e/")).validate().is_ok());
    for (wrong, setting) in [
        (EurekaConfig::new(vec![]).validate(), "peers"),
        (EurekaConfig::new(peer("http://u:s3cret@e/")).validate(), "peers"),
        (EurekaConfig::new(peer("ftp://e/")).validate(), "peers"),
        (EurekaConfig::new(peer("http://e/?a=b")).validate(), "peers"),
        (with(|c| c.user = Some("u".into())), "user"),
        (with(|c| c.fetch_every = 0), "fetch_every"),
        (with(|c| c.full_every = 0), "full_every"),
        (with(|c| c.max_instances = 0), "max_instances"),
        (
            with(|c| {
                c.apps.insert("a/b".parse().unwrap(), "x/y".into());
            }),
            "apps",
        ),
    ] {
        let error = wrong.unwrap_err();
        assert_eq!(
            (error.kind(), error.context("setting")),
            (ErrorKind::Config, Some(setting))
        );
        assert!(!format!("{error:?}").contains("s3cret"));
    }
}
