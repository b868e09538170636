//! Another system's interface: a real server on loopback, that keeps to the rules or does not. Its log is the oracle.

use std::sync::Arc;

use crm_core::capability::{Checkpoint, Collector};
use crm_core::{ErrorKind, Retry};
use crm_crawl::rest::{RestCollector, RestSpec};
use serde_json::{Value as Json, json};

use crate::api::{Answer, Api, all, page, people, person, status, ten};
use crate::run;

#[tokio::test]
async fn a_cursor_leads_to_the_end() {
    let api = Api::start(|asked, _| {
        let from = ten(asked, "after");
        let next = (from < 40).then(|| json!({"after": format!("{}", from + 10)}));
        page(json!({"items": people(from..from + 10), "paging": {"next": next}}))
    })
    .await;
    let pages = json!({"type": "cursor", "param": "after", "cursor": "paging.next.after"});
    let (kept, end) = api
        .read(
            json!({"pages": pages, "query": {"limit": "10"}, "auth": {"type": "bearer", "token": "s3cret"}}),
        )
        .await;
    let end = end.unwrap();
    assert_eq!((end.drafts, end.done, end.total), (50, 5, Some(5)));
    assert_eq!(kept.emails(), all(50));
    assert_eq!(api.asked("after"), ["", "10", "20", "30", "40"]);
    assert!(api.log().iter().all(|asked| {
        asked.query["limit"] == "10"
            && asked.headers["authorization"] == "Bearer s3cret"
            && asked.path == "/v1/people"
    }));
    let first = &kept.drafts()[0];
    assert_eq!(first.external_refs[0].system, "api");
    assert_eq!(
        first.provenance.location.as_deref(),
        Some(format!("http://{}/v1/people", api.address).as_str())
    );
    assert_eq!(kept.drafts()[12].provenance.line, Some(13));
}

#[tokio::test]
async fn every_other_kind_of_pages() {
    let api = Api::start(|asked, _| match asked.path.as_str() {
        "/v1/people" if asked.query.contains_key("page") => {
            let n = ten(asked, "page") - 1;
            page(json!({"items": people(n * 10..(n * 10 + 10).min(35).max(n * 10))}))
        }
        "/v1/people" if asked.query.contains_key("offset") => {
            // Gives fewer than asked for, as interfaces with a limit of their own do.
            let n = ten(asked, "offset");
            page(json!({"items": people(n..(n + 7).min(35)), "total": "35"}))
        }
        "/v1/people" if asked.query.contains_key("starting_after") || asked.query.contains_key("stripe") => {
            let n = asked
                .query
                .get("starting_after")
                .map_or(0, |id| id.parse::<usize>().unwrap() + 1);
            page(json!({"items": people(n..(n + 10).min(35)), "has_more": n + 10 < 35}))
        }
        "/v1/people" => page(json!({"items": people(0..20), "links": {"next": "more?x=1"}}))
            .with("link", "<http://elsewhere.example/>; rel=\"prev\"")
            .with("link", "</v1/more?x=1>; rel=\"next\""),
        "/v1/more" => page(json!({"items": people(20..35), "links": {"next": null}})),
        _ => status(404),
    })
    .await;
    for (pages, requests) in [
        (json!({"type": "page", "param": "page"}), 5),
        (json!({"type": "offset", "param": "offset"}), 6),
        (json!({"type": "offset", "param": "offset", "total": "total"}), 5),
        (json!({"type": "link"}), 2),
        (json!({"type": "next_url", "path": "links.next"}), 2),
    ] {
        let before = api.log().len();
        let (kept, end) = api.read(json!({"pages": pages})).await;
        end.unwrap();
        assert_eq!(kept.emails(), all(35), "{pages}");
        assert_eq!(api.log().len() - before, requests, "{pages}");
    }
    let pages = json!({"type": "last_id", "param": "starting_after", "id": "id", "more": "has_more"});
    let (kept, end) = api.read(json!({"pages": pages, "query": {"stripe": "1"}})).await;
    end.unwrap();
    assert_eq!(kept.emails(), all(35));
}

#[tokio::test]
async fn each_way_to_say_who_asks_and_none_of_them_told() {
    let api = Api::start(|_, n| {
        if n % 2 == 0 {
            page(json!({"items": people(0..1)}))
        } else {
            status(401)
        }
    })
    .await;
    for (auth, seen) in [
        (json!({"type": "bearer", "token": "s3cret"}), "Bearer s3cret"),
        (
            json!({"type": "basic", "user": "Aladdin", "password": "open sesame"}),
            "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==",
        ),
        (
            json!({"type": "header", "name": "X-Key", "value": "s3cret"}),
            "s3cret",
        ),
        (
            json!({"type": "query", "name": "key", "value": "s3cret"}),
            "s3cret",
        ),
    ] {
        let spec = api.spec(json!({"auth": auth, "query": {"a": "b"}}));
        let debug = format!("{spec:?}");
        let collector = RestCollector::new(spec).unwrap();
        let (kept, end) = run(&collector, None).await;
        end.unwrap();
        let asked = api.log().last().unwrap().clone();
        let header = |name: &str| asked.headers.get(name).map(|v| v.to_str().unwrap().to_owned());
        let told = header("authorization")
            .or(header("x-key"))
            .or(asked.query.get("key").cloned());
        assert_eq!(told.as_deref(), Some(seen));
        let (_, end) = run(&collector, None).await;
        let error = end.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthenticated);
        for text in [
            debug,
            format!("{collector:?}"),
            format!("{error:?}"),
            format!("{:?}", kept.0),
            serde_json::to_string(&kept.checkpoint()).unwrap(),
        ] {
            assert!(!text.contains("s3cret") && !text.contains("sesame"), "{text}");
            assert!(!text.contains("customer data"), "no body in errors: {text}");
        }
    }
}

#[tokio::test]
async fn it_waits_and_asks_again() {
    let api = Api::start(|_, n| match n {
        0 => status(429).with("retry-after", "0"),
        1 => status(503),
        2 => status(500).with("retry-after", "Thu, 01 Jan 1970 00:00:00 GMT"),
        3 => status(403)
            .with("x-ratelimit-remaining", "0")
            .with("x-ratelimit-reset", "0"),
        _ => page(json!({"items": people(0..3)})),
    })
    .await;
    let (kept, end) = api.read(json!({})).await;
    end.unwrap();
    assert_eq!((kept.emails().len(), api.log().len()), (3, 5));
    // Not forever, and not as long as it likes.
    let api = Api::start(|_, _| status(502)).await;
    let error = api.fails(json!({"retries": 3})).await;
    assert_eq!(
        (error.kind(), error.retry(), api.log().len()),
        (ErrorKind::Unavailable, Retry::Exhausted, 4)
    );
    let api = Api::start(|_, _| status(429).with("retry-after", "3600")).await;
    let error = api.fails(json!({"max_wait": 60})).await;
    assert_eq!((error.kind(), api.log().len()), (ErrorKind::RateLimited, 1));
    assert_eq!(
        error.retry(),
        Retry::Allowed {
            after: Some(std::time::Duration::from_secs(3600))
        }
    );
    for (code, kind) in [
        (401, ErrorKind::Unauthenticated),
        (403, ErrorKind::PermissionDenied),
        (404, ErrorKind::NotFound),
        (400, ErrorKind::Invalid),
        (204, ErrorKind::Invalid),
        (304, ErrorKind::Invalid),
        (501, ErrorKind::Invalid),
    ] {
        let api = Api::start(move |_, _| status(code)).await;
        let error = api.fails(json!({})).await;
        assert_eq!((error.kind(), api.log().len()), (kind, 1), "{code}");
        assert_eq!(error.context("status"), Some(code.to_string().as_str()));
    }
}

#[tokio::test]
async fn circles_and_lists_without_an_end_are_errors() {
    // Ignores the parameter and gives the same page for ever.
    let api = Api::start(|_, _| page(json!({"items": people(0..10)}))).await;
    for pages in [
        json!({"type": "page", "param": "page"}),
        json!({"type": "offset", "param": "from"}),
    ] {
        let before = api.log().len();
        let error = api.fails(json!({"pages": pages})).await;
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert_eq!(api.log().len() - before, 2, "seen at the second page");
    }
    // A cursor that leads back, over other pages each time.
    let api = Api::start(|asked, n| {
        let next = if asked.query.get("c").is_some_and(|c| c == "b") {
            "a"
        } else {
            "b"
        };
        page(json!({"items": people(n * 10..n * 10 + 2), "next": next}))
    })
    .await;
    let error = api
        .fails(json!({"pages": {"type": "cursor", "param": "c", "cursor": "next"}}))
        .await;
    assert_eq!(
        (error.kind(), error.context("setting")),
        (ErrorKind::Corrupt, Some("pages"))
    );
    assert!(api.log().len() <= 4);
    // New ones without an end.
    let api = Api::start(|_, n| page(json!({"items": people(n * 2..n * 2 + 2), "next": n}))).await;
    let error = api
        .fails(json!({"pages": {"type": "cursor", "param": "c", "cursor": "next"}, "max_pages": 7}))
        .await;
    assert_eq!(
        (error.context("setting"), api.log().len()),
        (Some("max_pages"), 7)
    );
    // As many as are wanted is no error.
    let (kept, end) = api
        .read(json!({"pages": {"type": "cursor", "param": "c", "cursor": "next"}, "max_items": 5}))
        .await;
    assert_eq!((kept.drafts().len(), end.unwrap().done), (5, 3));
    // Empty pages on the way are no end, where a cursor says that there is more.
    let api = Api::start(|_, n| match n {
        0 => page(json!({"items": people(0..2), "next": "a"})),
        1 => page(json!({"items": [], "next": "b"})),
        2 => page(json!({"items": null, "next": "c"})),
        _ => page(json!({"items": people(2..4), "next": ""})),
    })
    .await;
    let (kept, end) = api
        .read(json!({"pages": {"type": "cursor", "param": "c", "cursor": "next"}}))
        .await;
    end.unwrap();
    assert_eq!((kept.emails(), api.log().len()), (all(4), 4));
}

#[tokio::test]
async fn credentials_stay_at_their_origin() {
    let other = Api::start(|_, _| page(json!({"items": people(5..6)}))).await;
    let place = format!("http://{}/v1/people", other.address);
    for how in ["link", "next_url", "user", "redirect"] {
        let place = place.clone();
        let api = Api::start(move |asked, _| match (how, asked.path.as_str()) {
            ("link", _) => page(json!({"items": people(0..1)})).with("link", format!("<{place}>; rel=next")),
            ("next_url", _) => page(json!({"items": people(0..1), "next": place})),
            ("user", _) => page(json!({"items": people(0..1), "next": format!("http://u:p@{}/x", asked.headers["host"].to_str().unwrap())})),
            _ => status(302).with("location", place.clone()),
        })
        .await;
        let mut spec = api.spec(json!({"auth": {"type": "header", "name": "X-Key", "value": "s3cret"},
            "pages": if how == "link" { json!({"type": "link"}) } else { json!({"type": "next_url", "path": "next"}) }}));
        spec.http
            .allow
            .push(format!("127.0.0.1/32:{}", other.address.port()).parse().unwrap());
        let (_, end) = run(&RestCollector::new(spec).unwrap(), None).await;
        if how == "redirect" {
            // The client follows, without the key.
            end.unwrap();
            assert!(!other.log()[0].headers.contains_key("x-key"));
        } else {
            assert_eq!(end.unwrap_err().kind(), ErrorKind::PermissionDenied, "{how}");
            assert!(other.log().is_empty(), "{how}");
        }
    }
}

#[tokio::test]
async fn answers_that_are_no_pages_are_never_the_end_of_the_list() {
    let deep = format!("{{\"items\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
    let cut = r#"{"items": [{"email": "a@x.example"}, {"em"#;
    for (body, kind, word) in [
        ("<html>Sign in</html>".to_owned(), "text/html", "not well-formed"),
        (String::new(), "application/json", "ends in the middle"),
        (cut.to_owned(), "application/json", "ends in the middle"),
        (deep, "application/json", "nested too deep"),
        (
            r#"{"items": [{"n": 1e400}]}"#.to_owned(),
            "application/json",
            "not well-formed",
        ),
        (
            r#"{"items": NaN}"#.to_owned(),
            "application/json",
            "not well-formed",
        ),
        ("\u{0}".to_owned(), "application/json", "not well-formed"),
    ] {
        let answer = body.clone();
        let api =
            Api::start(move |_, _| Answer(200, vec![("content-type", kind.into())], answer.clone().into()))
                .await;
        let error = api.fails(json!({})).await;
        assert_eq!(
            (error.kind(), error.context("page")),
            (ErrorKind::Invalid, Some("1")),
            "{error}"
        );
        assert!(error.context("why").unwrap().contains(word), "{error}");
    }
    for (json, path) in [
        (json!({"data": []}), "items"),
        (json!({"items": {"a": 1}}), "items"),
        (json!([]), "items"),
        (json!({"error": "no"}), "items"),
    ] {
        let api = Api::start(move |_, _| page(json.clone())).await;
        let error = api.fails(json!({})).await;
        assert_eq!(
            (error.kind(), error.context("path")),
            (ErrorKind::Invalid, Some(path))
        );
    }
    let api = Api::start(|_, _| page(json!({"items": people(0..2), "more": true}))).await;
    let error = api
        .fails(json!({"pages": {"type": "cursor", "param": "c", "cursor": "next", "more": "more"}}))
        .await;
    assert_eq!(error.context("setting"), Some("pages.cursor"));
    let api = Api::start(|_, _| page(json!({"items": people(0..500)}))).await;
    let mut spec = api.spec(json!({}));
    spec.http.max_body = 1000;
    let (kept, end) = run(&RestCollector::new(spec).unwrap(), None).await;
    assert_eq!(end.unwrap_err().context("setting"), Some("http.max_body"));
    assert!(kept.0.is_empty());
}

#[tokio::test]
async fn items_that_cannot_be_read_are_told_and_the_others_go_on() {
    let api = Api::start(|_, _| {
        page(json!({"items": [person(0), 7, null, {"name": "nobody"}, {"email": {"x": 1}}, person(1),
            {"__proto__": {"a": 1}, "email": "proto@x.example", "unknown": [1]}, {"id": 9_223_372_036_854_775_808_u64}]}))
    })
    .await;
    let mapping = json!([{"column": "email", "target": "email"}, {"column": "id", "target": "external:api"}]);
    let (kept, end) = api.read(json!({"mapping": mapping})).await;
    end.unwrap();
    assert_eq!(kept.emails(), ["p0@x.example", "p1@x.example", "proto@x.example"]);
    assert_eq!(kept.drafts()[3].external_refs[0].id, "9223372036854775808");
    let told: Vec<(Option<u64>, Option<String>)> =
        kept.rejects().into_iter().map(|r| (r.line, r.field)).collect();
    assert_eq!(
        told,
        [
            (Some(2), None),
            (Some(3), None),
            (Some(4), None),
            (Some(5), Some("email".into()))
        ]
    );
    // As it stood, to be mended.
    assert_eq!(kept.0[0].originals.rows[&4], [r#"{"name":"nobody"}"#]);
}

#[tokio::test]
async fn checkpoints_of_others_are_refused() {
    let api = Api::start(|_, _| page(json!({"items": people(0..1)}))).await;
    let (kept, _) = api.read(json!({})).await;
    let other = RestCollector::new(api.spec(json!({"query": {"a": "b"}}))).unwrap();
    let (_, end) = run(&other, kept.checkpoint().as_ref()).await;
    assert_eq!(end.unwrap_err().kind(), ErrorKind::Conflict);
    let (_, end) = run(&other, Some(&Checkpoint(json!({"kind": "csv/1"})))).await;
    assert_eq!(end.unwrap_err().kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn addresses_that_are_not_public_are_not_asked() {
    let api = Api::start(|_, _| page(json!({"items": []}))).await;
    let mut spec = api.spec(json!({"retries": 0}));
    spec.http.allow.clear();
    let error = run(&RestCollector::new(spec).unwrap(), None).await.1.unwrap_err();
    assert_eq!((error.kind(), api.log().len()), (ErrorKind::PermissionDenied, 0));
}

#[test]
fn settings_are_checked() {
    let wrong = |more: Json| {
        let mut json = json!({"name": "api", "url": "https://api.example/x"});
        json.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let spec: RestSpec = serde_json::from_value(json).unwrap();
        spec.validate()
            .unwrap_err()
            .context("setting")
            .unwrap()
            .to_owned()
    };
    for (more, setting) in [
        (json!({"name": " "}), "name"),
        (json!({"url": "ftp://x.example/"}), "url"),
        (json!({"url": "https://u:p@x.example/"}), "url"),
        (json!({"headers": {"Authorization": "x"}}), "headers"),
        (json!({"headers": {"a b": "x"}}), "headers"),
        (json!({"auth": {"type": "bearer", "token": "a\nb"}}), "auth.token"),
        (
            json!({"auth": {"type": "header", "name": "", "value": "x"}}),
            "auth.name",
        ),
        (
            json!({"pages": {"type": "cursor", "param": "", "cursor": "x"}}),
            "pages",
        ),
        (json!({"delay": -1}), "delay"),
        (json!({"retries": 21}), "retries"),
        (json!({"max_pages": 0}), "max_pages"),
        (json!({"since": {"param": "s", "value": "x"}}), "since.value"),
        (json!({"mapping": [{"column": "x", "target": "name"}]}), "mapping"),
    ] {
        assert_eq!(wrong(more.clone()), setting, "{more}");
    }
    assert!(
        serde_json::from_str::<RestSpec>(r#"{"name": "a", "url": "https://x.example", "itmes": ""}"#)
            .is_err()
    );
}

async fn suite() -> Arc<dyn Collector> {
    // Lives on in a thread of its own: the suite's collectors outlive this call.
    let api = Api::start(|asked, _| {
        let n = ten(asked, "page");
        let items: Vec<Json> = (n * 5..n * 5 + 5)
            .filter(|n| *n < 33)
            .map(|n| if n % 9 == 4 { json!({"id": [n]}) } else { person(n) })
            .collect();
        page(json!({"items": items}))
    })
    .await;
    let spec = api.spec(json!({"pages": {"type": "page", "param": "page"},
        "mapping": [{"column": "id", "target": "external:api"}, {"column": "id.0", "target": "attribute:x:bool"}]}));
    Arc::new(RestCollector::new(spec).unwrap())
}

crm_core::collector_suite!(contract, suite());
