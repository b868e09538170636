//! The server's rules beyond the recordings, and what hostile requests do to it: nothing.

use crm_core::ErrorKind;
use crm_core::testkit::fixtures::Dice;

use super::*;

fn crm(change: impl Fn(&mut serde_json::Value)) -> String {
    let mut value: serde_json::Value = serde_json::from_str(CRM_1).unwrap();
    change(&mut value["instance"]);
    value.to_string()
}

fn status_of(server: &EurekaServer) -> String {
    let body = text(&ask(
        server,
        "GET",
        "/eureka/v2/apps/CRM/crm-1",
        Some("application/json"),
    ));
    serde_json::from_str::<serde_json::Value>(&body).unwrap()["instance"]["status"]
        .as_str()
        .unwrap()
        .to_owned()
}

fn register(server: &EurekaServer, body: &str) -> u16 {
    post(server, "/eureka/v2/apps/CRM", "application/json", body)
        .status()
        .as_u16()
}

/// What a registration lacks is said, in the order in which it is looked for.
#[test]
fn what_is_missing_is_named() {
    let server = server(&clock());
    type Change = fn(&mut serde_json::Value);
    let cases: [(Change, &str); 7] = [
        (
            |i| {
                i["instanceId"] = "".into();
                i["hostName"] = "".into();
            },
            "Missing instanceId",
        ),
        (|i| i["hostName"] = " ".into(), "Missing hostname"),
        (|i| i["ipAddr"] = "".into(), "Missing ip address"),
        (
            |i| {
                i.as_object_mut().unwrap().remove("app");
            },
            "Missing appName",
        ),
        (
            |i| i["app"] = "other".into(),
            "Mismatched appName, expecting CRM but was OTHER",
        ),
        (
            |i| {
                i.as_object_mut().unwrap().remove("dataCenterInfo");
            },
            "Missing dataCenterInfo",
        ),
        (
            |i| {
                i["dataCenterInfo"].as_object_mut().unwrap().remove("name");
            },
            "Missing dataCenterInfo Name",
        ),
    ];
    for (change, said) in cases {
        let answer = post(&server, "/eureka/v2/apps/CRM", "application/json", &crm(change));
        assert_eq!((answer.status().as_u16(), text(&answer).as_str()), (400, said));
    }
    // Without an id it goes by its host's name.
    assert_eq!(
        register(
            &server,
            &crm(|i| {
                i.as_object_mut().unwrap().remove("instanceId");
            })
        ),
        204
    );
    assert_eq!(
        ask(&server, "GET", "/eureka/v2/apps/crm/127.0.0.1", None).status(),
        200
    );
}

#[test]
fn names_are_folded_and_defaults_filled_in() {
    let server = server(&clock());
    let lower = crm(|i| {
        i["app"] = "crm".into();
        for field in [
            "port",
            "securePort",
            "leaseInfo",
            "metadata",
            "countryId",
            "status",
        ] {
            i.as_object_mut().unwrap().remove(field);
        }
    });
    assert_eq!(
        post(
            &server,
            "/eureka/v2/apps/crm",
            "application/json; charset=utf-8",
            &lower
        )
        .status(),
        204
    );
    let body = text(&ask(
        &server,
        "GET",
        "/eureka/v2/apps/Crm/crm-1",
        Some("application/json"),
    ));
    for part in [
        r#""app":"CRM""#,
        r#""status":"UP""#,
        r#""port":{"$":7001,"@enabled":"true"},"securePort":{"$":7002,"@enabled":"false"},"countryId":1"#,
        r#""renewalIntervalInSecs":30,"durationInSecs":90"#,
        r#""metadata":{"@class":"java.util.Collections$EmptyMap"}"#,
    ] {
        assert!(body.contains(part), "{part} in {body}");
    }
}

/// Who wins about the status: what cannot serve, then an operator, then what it was.
#[test]
fn statuses_follow_the_rules() {
    let server = server(&clock());
    register(&server, CRM_1);
    // Out of service is not believed of an instance that is up; down is.
    register(&server, &crm(|i| i["status"] = "OUT_OF_SERVICE".into()));
    assert_eq!(status_of(&server), "UP");
    register(&server, &crm(|i| i["status"] = "DOWN".into()));
    assert_eq!(status_of(&server), "DOWN");
    register(&server, CRM_1);
    assert_eq!(status_of(&server), "UP");
    // An override survives registering again and renewing.
    assert_eq!(
        ask(
            &server,
            "PUT",
            "/eureka/v2/apps/CRM/crm-1/status?value=OUT_OF_SERVICE",
            None
        )
        .status(),
        200
    );
    register(&server, CRM_1);
    ask(&server, "PUT", "/eureka/v2/apps/CRM/crm-1?status=UP", None);
    assert_eq!(status_of(&server), "OUT_OF_SERVICE");
    // Taken away without saying what holds: the next heartbeat asks to register.
    assert_eq!(
        ask(&server, "DELETE", "/eureka/v2/apps/CRM/crm-1/status", None).status(),
        200
    );
    assert_eq!(status_of(&server), "UNKNOWN");
    assert_eq!(
        ask(&server, "PUT", "/eureka/v2/apps/CRM/crm-1", None).status(),
        404
    );
    register(&server, CRM_1);
    assert_eq!(status_of(&server), "UP");
    // A registration may bring its override along.
    let out = crm(|i| {
        i["status"] = "OUT_OF_SERVICE".into();
        i["overriddenstatus"] = "OUT_OF_SERVICE".into();
    });
    register(&server, &out);
    assert_eq!(status_of(&server), "OUT_OF_SERVICE");
    for wrong in ["value=NONSENSE", "value=up", ""] {
        let path = format!("/eureka/v2/apps/CRM/crm-1/status?{wrong}");
        assert_eq!(ask(&server, "PUT", &path, None).status(), 500, "{wrong}");
    }
    assert_eq!(
        ask(&server, "PUT", "/eureka/v2/apps/CRM/nope/status?value=UP", None).status(),
        404
    );
}

/// A client that knows something newer is asked to register; one that knows something older is not believed.
#[test]
fn the_newer_version_wins() {
    let server = server(&clock());
    let version = |dirty: i64, weight: &str| {
        crm(|i| {
            i["lastDirtyTimestamp"] = dirty.to_string().into();
            i["metadata"] = serde_json::json!({"weight": weight});
        })
    };
    register(&server, &version(1000, "first"));
    let beat = |dirty: &str| {
        ask(
            &server,
            "PUT",
            &format!("/eureka/v2/apps/CRM/crm-1?status=UP&lastDirtyTimestamp={dirty}"),
            None,
        )
        .status()
        .as_u16()
    };
    assert_eq!(
        (beat("999"), beat("1000"), beat("1001"), beat("x")),
        (200, 200, 404, 400)
    );
    register(&server, &version(1001, "second"));
    register(&server, &version(1000, "late"));
    let body = text(&ask(
        &server,
        "GET",
        "/eureka/v2/apps/CRM",
        Some("application/json"),
    ));
    assert!(body.contains("second") && !body.contains("late"), "{body}");
}

#[test]
fn addresses_hash_and_order() {
    let server = server(&clock());
    for (id, status, vip) in [("b", "UP", "one,two"), ("a", "DOWN", "two"), ("c", "UP", "three")] {
        let body = crm(|i| {
            i["instanceId"] = id.into();
            i["status"] = status.into();
            i["vipAddress"] = vip.into();
        });
        assert_eq!(register(&server, &body), 204);
    }
    let of = |path: &str| -> (String, usize) {
        let body = text(&ask(&server, "GET", path, Some("application/json")));
        let value: serde_json::Value = serde_json::from_str(&body).unwrap();
        let apps = &value["applications"];
        let count = apps["application"]
            .as_array()
            .unwrap()
            .iter()
            .map(|app| app["instance"].as_array().unwrap().len())
            .sum();
        (apps["apps__hashcode"].as_str().unwrap().to_owned(), count)
    };
    assert_eq!(of("/eureka/apps/"), ("DOWN_1_UP_2_".into(), 3));
    assert_eq!(of("/eureka/v2/vips/two"), ("DOWN_1_UP_1_".into(), 2));
    assert_eq!(of("/eureka/v2/vips/one"), ("UP_1_".into(), 1));
    assert_eq!(of("/eureka/v2/vips/nobody"), (String::new(), 0));
    assert_eq!(of("/eureka/v2/svips/crm"), ("DOWN_1_UP_2_".into(), 3));
}

#[test]
fn formats_are_negotiated() {
    let server = server(&clock());
    register(&server, CRM_1);
    for (accept, media_type) in [
        (None, "application/xml"),
        (Some("*/*"), "application/xml"),
        (Some("application/json"), "application/json"),
        (
            Some("application/xml;q=0.5, application/json"),
            "application/json",
        ),
        (
            Some("text/html, application/xml;q=0.9, */*;q=0.1"),
            "application/xml",
        ),
    ] {
        let answer = ask(&server, "GET", "/eureka/v2/apps/CRM/crm-1", accept);
        assert_eq!(answer.headers()["content-type"], media_type, "{accept:?}");
    }
    assert_eq!(
        ask(&server, "GET", "/eureka/v2/apps", Some("text/html")).status(),
        406
    );
    for (method, path, status) in [
        ("GET", "/elsewhere", 404),
        ("GET", "/eureka/v2", 404),
        ("GET", "/eureka/v2x/apps", 404),
        ("POST", "/eureka/v2/apps", 405),
        ("DELETE", "/eureka/v2/apps/CRM", 405),
        ("PATCH", "/eureka/v2/apps/CRM/crm-1", 405),
        ("HEAD", "/eureka/v2/apps", 200),
    ] {
        let answer = ask(&server, method, path, None);
        assert_eq!(answer.status(), status, "{method} {path}");
        assert!(method != "HEAD" || answer.body().is_empty());
    }
}

#[test]
fn what_a_delta_forgets() {
    let clock = clock();
    let server = server(&clock);
    register(&server, &crm(|i| i["leaseInfo"]["durationInSecs"] = 3000.into()));
    let count = || {
        text(&ask(&server, "GET", "/eureka/v2/apps/delta", None))
            .matches("<instance>")
            .count()
    };
    assert_eq!(count(), 1);
    clock.advance(seconds(179));
    assert_eq!(count(), 1);
    clock.advance(seconds(2));
    assert_eq!(count(), 0, "after three minutes");
    assert_eq!(ask(&server, "GET", "/eureka/v2/apps/CRM", None).status(), 200);
}

/// At most 15 % are evicted at once, so that a register that was cut off does not forget everybody.
#[test]
fn not_everybody_is_evicted_at_once() {
    let clock = clock();
    let server = server(&clock);
    for n in 0..100 {
        register(&server, &crm(|i| i["instanceId"] = format!("i{n}").into()));
    }
    let left = || {
        text(&ask(&server, "GET", "/eureka/v2/apps", None))
            .matches("<instance>")
            .count()
    };
    let mut seen = vec![left()];
    for _ in 0..6 {
        clock.advance(seconds(2));
        seen.push(left());
    }
    assert_eq!(seen[..4], [100, 100, 100, 100]);
    assert_eq!(seen[4..], [85, 72, 61], "15 % of what is there, rounded up");
}

#[test]
fn self_preservation_keeps_all_when_few_renew() {
    let clock = clock();
    let config = EurekaServerConfig {
        evict_every: 2,
        self_preservation: true,
        ..EurekaServerConfig::default()
    };
    let server = EurekaServer::new(config, clock.clone()).unwrap();
    register(&server, CRM_1);
    for _ in 0..100 {
        clock.advance(seconds(2));
        server.tick();
    }
    assert_eq!(ask(&server, "GET", "/eureka/v2/apps/CRM", None).status(), 200);
}

#[test]
fn it_is_bounded() {
    let clock = clock();
    let config = EurekaServerConfig {
        max_instances: 3,
        max_body: 2048,
        ..EurekaServerConfig::default()
    };
    let server = EurekaServer::new(config, clock).unwrap();
    for n in 0..3 {
        assert_eq!(
            register(&server, &crm(|i| i["instanceId"] = format!("i{n}").into())),
            204
        );
    }
    assert_eq!(register(&server, &crm(|i| i["instanceId"] = "i4".into())), 503);
    assert_eq!(
        register(&server, &crm(|i| i["instanceId"] = "i1".into())),
        204,
        "who is there may register again"
    );
    assert_eq!(register(&server, &" ".repeat(3000)), 413);
    // A bomb of 10 MB in 10 kB.
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::Write::write_all(&mut writer, &vec![b' '; 1_000_000]).unwrap();
    let bomb = writer.finish().unwrap();
    assert!(bomb.len() < 2048);
    let request = Request::post("/eureka/v2/apps/CRM")
        .header("content-type", "application/json")
        .header("content-encoding", "gzip")
        .body(Bytes::from(bomb))
        .unwrap();
    assert_eq!(server.handle(&request).status(), 413);
    // And an honest compressed body.
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::Write::write_all(&mut writer, crm(|i| i["instanceId"] = "i1".into()).as_bytes()).unwrap();
    let request = Request::post("/eureka/v2/apps/CRM")
        .header("content-type", "application/json")
        .header("content-encoding", "gzip")
        .body(Bytes::from(writer.finish().unwrap()))
        .unwrap();
    assert_eq!(server.handle(&request).status(), 204);
    for wrong in [
        EurekaServerConfig {
            max_body: 1,
            ..EurekaServerConfig::default()
        },
        EurekaServerConfig {
            max_instances: 0,
            ..EurekaServerConfig::default()
        },
        EurekaServerConfig {
            evict_every: 0,
            ..EurekaServerConfig::default()
        },
        EurekaServerConfig {
            base_paths: vec!["x/".into()],
            ..EurekaServerConfig::default()
        },
        EurekaServerConfig {
            base_paths: vec![],
            ..EurekaServerConfig::default()
        },
    ] {
        assert_eq!(wrong.validate().unwrap_err().kind(), ErrorKind::Config);
    }
}

/// XML in, JSON out and the other way round, with names and texts that need care.
#[test]
fn what_comes_in_one_format_goes_out_in_the_other() {
    let server = server(&clock());
    let odd = "a&b<c>\"d'é木🙂";
    let json = crm(|i| i["metadata"] = serde_json::json!({"user_name": odd, "a$b": "1", "x y": "2"}));
    register(&server, &json);
    let xml = text(&ask(&server, "GET", "/eureka/v2/apps/CRM/crm-1", None));
    for part in [
        "<user__name>a&amp;b&lt;c&gt;&quot;d&apos;é木🙂</user__name>",
        "<a_-b>1</a_-b>",
        "<x_.0020y>2</x_.0020y>",
    ] {
        assert!(xml.contains(part), "{part} in {xml}");
    }
    let again = post(&server, "/eureka/v2/apps/CRM", "application/xml", &xml);
    assert_eq!(again.status(), 204);
    let body = text(&ask(
        &server,
        "GET",
        "/eureka/v2/apps/CRM/crm-1",
        Some("application/json"),
    ));
    let value: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        value["instance"]["metadata"],
        serde_json::json!({"user_name": odd, "a$b": "1", "x y": "2"})
    );
}

/// Whatever comes: an answer, never a panic, and no server error but the one of a wrong status.
#[test]
fn garbage_is_answered_in_good_order() {
    let server = server(&clock());
    let mut dice = Dice::new(20_260_701);
    let xml = "<instance><instanceId>x</instanceId><hostName>h</hostName><app>CRM</app><ipAddr>1</ipAddr><port enabled=\"true\">80</port><metadata><k>v</k></metadata></instance>";
    let methods = ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS"];
    let parts = [
        "apps",
        "CRM",
        "crm-1",
        "status",
        "metadata",
        "delta",
        "vips",
        "%41",
        "%zz",
        "..",
        "",
        "instances",
        "%F0%9F",
    ];
    for round in 0..3000 {
        let (kind, base) = if round % 2 == 0 {
            ("application/json", CRM_1)
        } else {
            ("application/xml", xml)
        };
        let mut body = base.as_bytes().to_vec();
        for _ in 0..dice.below(6) {
            let at = dice.below(body.len());
            match dice.below(3) {
                0 => body[at] = dice.below(256) as u8,
                1 => body.truncate(at + 1),
                _ => body.insert(at, b"<>{}[]\"&;"[dice.below(9)]),
            }
        }
        let mut path = "/eureka/v2".to_owned();
        for _ in 0..dice.below(5) {
            path.push('/');
            let part: &&str = dice.pick(&parts);
            path.push_str(part);
        }
        if dice.one_in(3) {
            let query: &&str = dice.pick(&[
                "?value=UP",
                "?lastDirtyTimestamp=99999999999999999999",
                "?%=&&a",
                "?value=%",
            ]);
            path.push_str(query);
        }
        if dice.one_in(2) {
            path = "/eureka/v2/apps/CRM".into();
        }
        let method = *dice.pick(&methods);
        let Ok(request) = Request::builder()
            .method(method)
            .uri(&path)
            .header("content-type", kind)
            .body(Bytes::from(body))
        else {
            continue;
        };
        let answer = server.handle(&request);
        assert!(
            answer.status().as_u16() < 500 || path.contains("/status"),
            "{method} {path} {}",
            answer.status()
        );
    }
    // JSON as deep as one likes.
    let deep = format!("{}{}", "{\"instance\":".repeat(5000), "}".repeat(5000));
    assert_eq!(register(&server, &deep), 400);
}
