//! JSON Lines: nested documents, lists, bad lines, every encoding.

use std::sync::Arc;

use crm_core::ErrorKind;
use crm_core::capability::{Collector, OriginalKind};
use crm_crawl::file::{JsonlCollector, JsonlConfig, Mapping};
use proptest::prelude::*;
use tempfile::TempDir;

use crate::run;

fn file(content: impl AsRef<[u8]>) -> (TempDir, JsonlConfig) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("people.jsonl");
    std::fs::write(&path, content).unwrap();
    (folder, JsonlConfig::new(path, "app"))
}

fn mapping() -> Mapping {
    let mut mapping = Mapping::new();
    for (path, target) in [
        ("id", "external:app"),
        ("who.first", "given"),
        ("who.last", "family"),
        ("contact.mails", "email"),
        ("contact.numbers.value", "phone"),
        ("labels", "tag"),
        (r"a\.b", "attribute:dotted"),
        ("visits", "attribute:visits:int"),
        ("prefs", "attribute:prefs:json"),
        ("vip", "attribute:vip:bool"),
        ("order.id", "order.id"),
        ("order.at", "order.date"),
        ("order.paid", "order.amount"),
        ("order.cur", "order.currency"),
    ] {
        mapping = mapping.column(path, target.parse().unwrap());
    }
    mapping
}

const GOOD: &str = r#"{"id": 7, "who": {"first": "Ana", "last": "Kask"}, "contact": {"mails": ["a@example.com", "b@example.com"], "numbers": [{"value": "+61 491 570 156"}]}, "labels": ["x", "y"], "a.b": "dot", "visits": 12, "prefs": {"news": [1, 2]}, "vip": true, "order": {"id": "o1", "at": "2026-03-01T09:00:00Z", "paid": 12.5, "cur": "EUR"}, "extra": null}"#;

#[tokio::test]
async fn nested_documents_go_where_the_mapping_says() {
    let (_folder, mut config) = file(GOOD);
    config.mapping = Some(mapping());
    let (kept, progress) = run(&JsonlCollector::new(config).unwrap(), None).await;
    let progress = progress.unwrap();
    assert_eq!(
        (progress.drafts, progress.rejects, progress.total),
        (1, 0, Some(progress.done))
    );
    let draft = &kept.drafts()[0];
    assert_eq!(draft.name.as_ref().unwrap().full(), "Ana Kask");
    assert_eq!(draft.emails, ["a@example.com", "b@example.com"]);
    assert_eq!(draft.phones, ["+61 491 570 156"]);
    assert_eq!(draft.external_refs[0].id, "7");
    assert_eq!(draft.tags, ["x", "y"]);
    let attributes = serde_json::to_value(&draft.attributes).unwrap();
    assert_eq!(
        attributes,
        serde_json::json!({"dotted": "dot", "visits": 12, "prefs": {"news": [1, 2]}, "vip": true})
    );
    assert_eq!(draft.orders[0].total.minor, 1250);
    assert_eq!(draft.provenance.line, Some(1));
}

#[tokio::test]
async fn one_bad_line_is_one_reject() {
    let long = format!(r#"{{"id": "{}"}}"#, "x".repeat(2 << 20));
    let lines = [
        GOOD,
        "",
        "{not json",
        "[1, 2]",
        r#"{"who": {"first": "nobody"}}"#,
        r#"{"id": "9", "visits": "many"}"#,
        r#"{"id": {"a": 1}}"#,
        &long,
        r#"{"id": "10", "order": {"id": "o2"}}"#,
        r#"{"id": "11"}"#,
    ];
    let (_folder, mut config) = file(lines.join("\r\n"));
    config.mapping = Some(mapping());
    config.batch = 3;
    let (kept, progress) = run(&JsonlCollector::new(config).unwrap(), None).await;
    progress.unwrap();
    assert_eq!(kept.drafts().len(), 2, "the good ones");
    let rejects: Vec<(Option<u64>, Option<String>, String)> = kept
        .rejects()
        .into_iter()
        .map(|r| (r.line, r.field, r.reason))
        .collect();
    let words = [
        (3, None, "not JSON at column"),
        (4, None, "not a JSON object"),
        (5, None, "nothing to recognise"),
        (6, Some("visits"), "not a whole number"),
        (7, Some("id"), "a list or object"),
        (8, None, "longer than 1 MiB"),
        (9, None, "needs a date"),
    ];
    assert_eq!(rejects.len(), words.len(), "{rejects:?}");
    for ((line, field, reason), (at, path, word)) in rejects.iter().zip(words) {
        assert_eq!((*line, field.as_deref()), (Some(at), path), "{reason}");
        assert!(reason.contains(word), "{reason}");
    }
    // The line stands beside its reject, to be corrected.
    let originals = kept.0.iter().find(|d| d.originals.rows.contains_key(&6)).unwrap();
    assert_eq!(originals.originals.kind, OriginalKind::Json);
    assert!(originals.originals.rows[&6][0].contains("many"));
}

#[tokio::test]
async fn usual_names_are_recognised() {
    let (_folder, config) = file(
        r#"{"customer_id": "5", "First Name": "Ana", "emails": ["a@example.com"], "address": {"city": "Tartu", "zip": "00123", "country": "EE"}, "tags": ["a;b", "c"], "external:erp": "E5", "shoe": 38}"#,
    );
    let (kept, progress) = run(&JsonlCollector::new(config).unwrap(), None).await;
    progress.unwrap();
    let draft = &kept.drafts()[0];
    let mut refs: Vec<String> = draft
        .external_refs
        .iter()
        .map(|r| format!("{}:{}", r.system, r.id))
        .collect();
    refs.sort();
    assert_eq!(refs, ["app:5", "erp:E5"]);
    assert_eq!(draft.tags, ["a;b", "c"]);
    assert_eq!(draft.addresses[0].postal_code, "00123");
    assert_eq!(draft.emails, ["a@example.com"]);
}

#[tokio::test]
async fn every_encoding_that_is_said_or_marked() {
    let text = "{\"email\": \"a@example.com\", \"name\": \"Größe 客户\"}\n";
    let utf16 = |mark: &[u8], bytes: fn(u16) -> [u8; 2]| {
        let mut out = mark.to_vec();
        out.extend(text.encode_utf16().flat_map(bytes));
        out
    };
    let (gb, _, _) = encoding_rs::GB18030.encode(text);
    for (bytes, encoding) in [
        (text.as_bytes().to_vec(), "auto"),
        ([b"\xef\xbb\xbf", text.as_bytes()].concat(), "auto"),
        (utf16(b"\xff\xfe", u16::to_le_bytes), "auto"),
        (utf16(b"", u16::to_le_bytes), "auto"),
        (utf16(b"\xfe\xff", u16::to_be_bytes), "auto"),
        (gb.to_vec(), "gb18030"),
    ] {
        let (_folder, mut config) = file(bytes);
        config.encoding = encoding.into();
        let (kept, progress) = run(&JsonlCollector::new(config).unwrap(), None).await;
        progress.unwrap();
        assert_eq!(
            kept.drafts()[0].name.as_ref().unwrap().full(),
            "Größe 客户",
            "{encoding}"
        );
    }
    // Not said: refused, not garbled.
    let (_folder, config) = file(&gb);
    let (kept, _) = run(&JsonlCollector::new(config).unwrap(), None).await;
    assert!(kept.drafts().is_empty() && kept.rejects()[0].reason.contains("encoding"));
}

#[tokio::test]
async fn a_changed_file_and_a_foreign_checkpoint_are_refused() {
    let (folder, mut config) = file("{\"email\": \"a@example.com\"}\n{\"email\": \"b@example.com\"}\n");
    config.batch = 1;
    let collector = JsonlCollector::new(config.clone()).unwrap();
    let (kept, _) = run(&collector, None).await;
    let checkpoint = kept.0[0].checkpoint.clone().unwrap();
    let (rest, _) = run(&collector, Some(&checkpoint)).await;
    assert_eq!(rest.emails(), ["b@example.com"]);
    std::fs::write(
        folder.path().join("people.jsonl"),
        "{\"email\": \"c@example.com\"}\n",
    )
    .unwrap();
    let (_, error) = run(&collector, Some(&checkpoint)).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Conflict);
    let foreign = crm_core::capability::Checkpoint(serde_json::json!({"kind": "csv/1"}));
    let (_, error) = run(&collector, Some(&foreign)).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Invalid);
}

async fn suite() -> Arc<dyn Collector> {
    let lines: Vec<String> = (0..57)
        .map(|n| match n % 9 {
            4 => "{broken".to_owned(),
            7 => String::new(),
            _ => format!("{{\"id\": {n}, \"email\": \"p{n}@example.com\", \"name\": \"größe {n}\"}}"),
        })
        .collect();
    let (folder, mut config) = file(lines.join("\n"));
    config.batch = 5;
    // Lives as long as the test.
    std::mem::forget(folder);
    Arc::new(JsonlCollector::new(config).unwrap())
}

crm_core::collector_suite!(contract, suite());

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_bytes_make_it_panic_and_a_good_line_is_never_lost(junk in proptest::collection::vec(any::<u8>(), 0..300), at in 0..3_usize) {
        let good = b"{\"email\": \"good@example.com\"}".as_slice();
        let mut lines: Vec<&[u8]> = vec![good; 3];
        lines.insert(at, &junk);
        let (_folder, config) = file(lines.join(b"\n".as_slice()));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (kept, result) = runtime.block_on(async { run(&JsonlCollector::new(config).unwrap(), None).await });
        // Junk at the beginning can look like another encoding, and then nothing is what it was.
        let misleading = at == 0 && (junk.starts_with(b"\xff\xfe") || junk.starts_with(b"\xfe\xff") || junk.iter().take(2).any(|b| *b == 0));
        if !misleading {
            prop_assert!(result.is_ok());
            prop_assert_eq!(kept.emails().iter().filter(|e| *e == "good@example.com").count(), 3);
        }
    }
}
