//! Inputs made to break: what of them costs only itself, and what is an error that says where. The parser's own bounds
//! (nesting, tags, attributes) are tried beside it, `hostile_markup_ends` tries the extractors, `csv_bad` the tables.

use std::time::Duration;

use crm_core::ErrorKind;
use crm_crawl::file::{CsvCollector, CsvConfig, JsonlCollector, JsonlConfig};

use crate::api::{Answer as Json, Api};
use crate::run;
use crate::site::{Answer, Site, next, person};

/// Each is one page of a site; the page behind it is read all the same, and nothing is asked for that is not of the web.
#[tokio::test]
async fn pages_made_to_break_cost_only_themselves() {
    const ODD: [&str; 9] = [
        "/lists",
        "/divs",
        "/attribute",
        "/attributes",
        "/comment",
        "/base",
        "/charset",
        "/links",
        "/tags",
    ];
    let site = Site::start(|path, _| match path {
        "/" => Answer::html(ODD.map(next).concat() + &next("/last")),
        "/lists" => Answer::html("<ul><li>".repeat(64_000)),
        "/divs" => Answer::html("<div>".repeat(200_000)),
        "/attribute" => Answer::html(format!("<p a='{}'>", "x".repeat(4_000_000)) + &person("attribute")),
        "/attributes" => Answer::html(format!("<p {}>", "a ".repeat(1_000_000))),
        "/comment" => Answer::html(person("comment") + "<!-- " + &"x -".repeat(300_000)),
        "/base" => Answer::html(format!(
            "<base href='file:///'>{}{}{}",
            next("etc/passwd"),
            next("/root"),
            person("base")
        )),
        // Says UTF-8, and is not.
        "/charset" => Answer::html("").body(
            [
                b"M\xfcller \x80 \xff\xfe ".as_slice(),
                person("charset").as_bytes(),
            ]
            .concat(),
        ),
        "/links" => Answer::html(
            (0..100_000)
                .map(|n| format!("<a href='javascript:{n}'>x</a>"))
                .collect::<String>()
                + &person("links"),
        ),
        "/tags" => Answer::html("<b><i>x</b>".repeat(3_000) + &person("tags")),
        "/last" => Answer::html(person("last")),
        _ => Answer::status(404),
    })
    .await;
    let collector = site.collector("/");
    let limit = Duration::from_secs(60);
    let (kept, result) = tokio::time::timeout(limit, run(&collector, None)).await.unwrap();
    result.unwrap();
    let emails = kept.emails();
    for name in ["attribute", "comment", "base", "charset", "last"] {
        assert!(
            emails.contains(&format!("{name}@example.com")),
            "{name}: {emails:?}"
        );
    }
    // What is refused says why.
    for (path, reason) in [
        ("/lists", "deeper than 512"),
        ("/divs", "deeper than 512"),
        ("/attributes", "256 attributes"),
    ] {
        let rejects = kept.rejects();
        let reject = rejects.iter().find(|reject| reject.place.ends_with(path));
        assert!(
            reject.is_some_and(|reject| reject.reason.contains(reason)),
            "{path}: {rejects:?}"
        );
    }
    // A base that is no web address is none: its links are the site's own.
    for path in site.log().into_iter().map(|hit| hit.path) {
        let known = ODD.contains(&path.as_str())
            || ["/", "/last", "/robots.txt", "/etc/passwd", "/root"].contains(&path.as_str());
        assert!(known, "{path} was asked for");
    }
}

/// Documents that other readers trip over, from an interface and from a file.
#[tokio::test]
async fn json_made_to_break() {
    let deep = "[".repeat(10_000) + &"]".repeat(10_000);
    let people = |person: &str| format!("{{\"items\": [{person}]}}");
    for (what, body, good) in [
        ("deep", deep.clone(), false),
        (
            "deep inside",
            people(&format!("{{\"email\": \"a@example.com\", \"x\": {deep}}}")),
            false,
        ),
        (
            "a number without end",
            people("{\"email\": \"a@example.com\", \"x\": 1e400}"),
            false,
        ),
        (
            "not a number",
            people("{\"email\": \"a@example.com\", \"x\": NaN}"),
            false,
        ),
        ("half", "{\"items\": [{\"email\": \"a@exam".to_owned(), false),
        (
            "odd numbers and names",
            people(
                "{\"email\": \"a@example.com\", \"id\": -0, \"n\": 9223372036854775808, \"name\": \"NaN\", \"__proto__\": {\"admin\": true}}",
            ),
            true,
        ),
        (
            "a key twice",
            people("{\"email\": \"x\", \"email\": \"a@example.com\"}"),
            true,
        ),
    ] {
        let sent = body.clone();
        let api = Api::start(move |_, _| {
            Json(
                200,
                vec![("content-type", "application/json".into())],
                sent.clone().into_bytes(),
            )
        })
        .await;
        let (kept, result) = api.read(serde_json::json!({"items": "items"})).await;
        if good {
            result.unwrap();
            assert_eq!(kept.emails(), ["a@example.com"], "{what}");
        } else {
            let error = result.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{what}: {error}");
            assert!(kept.drafts().is_empty(), "{what}");
            assert!(!format!("{error:?}").contains("a@exam"), "{what}: {error:?}");
        }
        // The same as a line of a file: one reject, and the line behind it is read.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.jsonl");
        let line = body.replace("{\"items\": [", "").replace("]}", "");
        std::fs::write(&path, format!("{line}\n{{\"email\": \"z@example.com\"}}\n")).unwrap();
        let collector = JsonlCollector::new(JsonlConfig::new(&path, "x")).unwrap();
        let (kept, result) = run(&collector, None).await;
        result.unwrap();
        assert!(kept.emails().contains(&"z@example.com".to_owned()), "{what}");
    }
}

#[tokio::test]
async fn tables_made_to_break() {
    let read = async |text: String| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("people.csv");
        std::fs::write(&path, text).unwrap();
        let collector = CsvCollector::new(CsvConfig::new(&path, "people")).unwrap();
        run(&collector, None).await
    };
    // All ways to end a line in one file, and a cell that a spreadsheet would carry out: here it is text.
    let text =
        "email;name\r\na@example.com;=1+1\nb@example.com;@SUM(A1)\r\nc@example.com;-2\rd@example.com;+3";
    let (kept, result) = read(text.to_owned()).await;
    result.unwrap();
    let names: Vec<String> = kept
        .drafts()
        .iter()
        .map(|draft| draft.name.as_ref().unwrap().full())
        .collect();
    assert_eq!(names, ["=1+1", "@SUM(A1)", "-2", "+3"]);
    // A cell of 10 MiB, closed and not: what stands before it is kept, and the error says where it begins.
    for end in ["\"\nz@example.com,z\n", ""] {
        let text = format!(
            "email,name\na@example.com,a\nb@example.com,\"{}{end}",
            "x".repeat(10 << 20)
        );
        let (kept, result) = read(text).await;
        let error = result.unwrap_err();
        assert_eq!(
            (error.kind(), error.context("line")),
            (ErrorKind::Invalid, Some("3")),
            "{error}"
        );
        assert_eq!(kept.emails(), ["a@example.com"]);
    }
}
