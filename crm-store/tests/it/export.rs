//! Exports: everything comes back equal, on any store, and nothing that is exported can run.

use std::sync::Arc;

use crm_core::capability::RecordStore;
use crm_core::consent::{
    AddressKey, Evidence, Gate, Purpose, Recipient, SUPPRESSION, SuppressionReason, SuppressionScope,
};
use crm_core::customer::{
    Address, ContactState, Draft, ExternalRef, InteractionDraft, PersonName, PostalAddress,
};
use crm_core::memory::MemoryStore;
use crm_core::query::{Filter, Query};
use crm_core::record::{Entity, Write};
use crm_core::segment::{SEGMENT_MEMBER, Segment, SegmentKind};
use crm_core::{ErrorKind, Secret, Uuid};
use crm_store::copy::fingerprint;
use crm_store::customers::{ArchiveOptions, ExportOptions, Format, ImportOptions, OnExisting, SCHEMAS};

use crate::conformance::{in_memory, on_file};
use crate::customers::{Desk, at, desk, draft};
use crate::stores::{Opened, servers};

pub(crate) fn key() -> AddressKey {
    AddressKey::new(&Secret::new("a long random text kept elsewhere")).unwrap()
}

pub(crate) fn gate(desk: &Desk) -> Gate {
    Gate::new(desk.customers.store_ref().clone(), desk.clock.clone(), key())
}

pub(crate) fn person(n: usize) -> Draft {
    let mut d = draft("shop", 10 + n as i64);
    d.name = Some(PersonName {
        given: format!("Ana {n}"),
        family: ["Kask", "O'Neil", "Größe", "=cmd|' /C calc'!A0"][n % 4].into(),
        display: if n.is_multiple_of(5) {
            "Dr. Ana".into()
        } else {
            String::new()
        },
    });
    d.emails = vec![format!("p{n}@example.com"), format!("second{n}@example.org")];
    d.phones = vec![format!("+61 491 570 {:03}", 100 + n)];
    d.external_refs = vec![
        ExternalRef::new("shop", format!("00{n}")),
        ExternalRef::new("shop", format!("+{n}")),
        ExternalRef::new("erp; old", format!("E\"{n},\n")),
    ];
    d.addresses = vec![PostalAddress {
        lines: vec![format!("{n} High, Street"), "Flat; 2".into()],
        city: "Tartu".into(),
        region: String::new(),
        postal_code: "00123".into(),
        country: "EE".into(),
    }];
    d.tags = vec!["vip".into(), "a;b".into(), "c\\".into(), "@sum".into()];
    for (name, value) in [
        (
            "note",
            serde_json::json!("=HYPERLINK(\"x\")\n+second line\n'third"),
        ),
        ("visits", serde_json::json!(9_007_199_254_740_993_i64)),
        ("rate", serde_json::json!(0.1)),
        ("vip", serde_json::json!(n.is_multiple_of(2))),
        ("deep", serde_json::json!({"a": [1, 1.5, null, "x"]})),
        (
            "mixed",
            if n.is_multiple_of(2) {
                serde_json::json!("1")
            } else {
                serde_json::json!(1)
            },
        ),
        ("padded", serde_json::json!("  two blanks ")),
    ] {
        d.attributes.set(name, value).unwrap();
    }
    d
}

/// People with everything that is kept about people.
pub(crate) async fn filled(store: Arc<dyn RecordStore>, people: usize) -> Desk {
    let desk = desk(store);
    let drafts: Vec<Draft> = (0..people)
        .map(|n| {
            let mut d = person(n);
            d.interactions.push(InteractionDraft {
                event_id: format!("i{n}"),
                at: at(1_700_000_000_000_001 + n as i64),
                kind: "visit".into(),
                data: Default::default(),
            });
            d
        })
        .collect();
    let options = ImportOptions::default().batch(7);
    desk.customers
        .import(&desk.ctx, "people", drafts, options)
        .await
        .unwrap();
    let gate = gate(&desk);
    let page = desk
        .customers
        .find(&desk.ctx, &Query::new(Filter::All).limit(1000))
        .await
        .unwrap();
    let segment = Segment {
        id: Uuid::from_u128(77).into(),
        version: 1,
        name: "regulars".into(),
        description: "chosen".into(),
        kind: SegmentKind::Manual,
        size: 1,
        created_at: at(5),
    };
    let mut writes = vec![Write::insert(segment.id, segment.to_record().unwrap())];
    for (n, customer) in page.items.iter().enumerate() {
        let address = customer.email().unwrap().address.clone();
        let news = Purpose::marketing("newsletter").unwrap();
        let evidence = Evidence::new("form", "Yes, please").unwrap();
        gate.grant(&desk.ctx, customer.id, &address, &news, evidence, None)
            .await
            .unwrap();
        if n.is_multiple_of(3) {
            let evidence = Evidence::new("link", "unsubscribed").unwrap();
            gate.withdraw(&desk.ctx, customer.id, &address, &news, evidence)
                .await
                .unwrap();
        }
        if n.is_multiple_of(4) {
            gate.suppress(
                &desk.ctx,
                &address,
                SuppressionScope::Marketing,
                SuppressionReason::Complaint,
            )
            .await
            .unwrap();
        }
        let mut changed = customer.clone();
        changed.contact_points[0].state = ContactState::Verified;
        desk.customers.update(&desk.ctx, &changed).await.unwrap();
        if n.is_multiple_of(2) {
            let member = crm_core::record::Record::from_values(
                &SEGMENT_MEMBER,
                vec![segment.id.into(), customer.id.into(), at(6).into()],
            )
            .unwrap();
            writes.push(Write::insert(Uuid::from_u128(1000 + n as u128), member));
        }
    }
    desk.customers
        .store_ref()
        .apply(&desk.ctx, &writes)
        .await
        .unwrap();
    desk
}

/// A desk of the same tenant on another store.
pub(crate) fn beside(here: &Desk, store: Arc<dyn RecordStore>) -> Desk {
    Desk {
        ctx: here.ctx.clone(),
        ..desk(store)
    }
}

/// Everything a store holds, imports apart: by schema how many and a hash.
pub(crate) async fn everything(desk: &Desk) -> Vec<(&'static str, u64, String)> {
    let mut all = Vec::new();
    desk.customers.prepare().await.unwrap();
    for schema in SCHEMAS {
        if schema.name.starts_with("crm_import") {
            continue;
        }
        let (count, hash) = fingerprint(&desk.ctx, &**desk.customers.store_ref(), schema, 500)
            .await
            .unwrap();
        all.push((schema.name, count, hash));
    }
    all
}

pub(crate) async fn archive(desk: &Desk, filter: &Filter) -> Vec<u8> {
    let mut file = Vec::new();
    let options = ExportOptions::default().page(13);
    let report = desk
        .customers
        .export(&desk.ctx, filter, Format::Jsonl, &mut file, options)
        .await
        .unwrap();
    assert_eq!(report.bytes, file.len() as u64);
    file
}

/// Out of one store and into another: equal, consent and suppression included.
async fn goes_and_comes(from: Arc<dyn RecordStore>, to: Arc<dyn RecordStore>) {
    let here = filled(from, 30).await;
    let there = beside(&here, to);
    let file = archive(&here, &Filter::All).await;

    let dry = ArchiveOptions::default().dry_run();
    let told = there
        .customers
        .import_archive(&there.ctx, &mut file.as_slice(), dry)
        .await
        .unwrap();
    assert_eq!(
        there.customers.count(&there.ctx, &Filter::All).await.unwrap(),
        0,
        "dry"
    );
    let report = there
        .customers
        .import_archive(&there.ctx, &mut file.as_slice(), ArchiveOptions::default())
        .await
        .unwrap();
    assert_eq!(report.added, told.added, "a dry run tells what will be");
    assert_eq!(
        (report.added["crm_customer"], report.added["crm_suppression"]),
        (30, 8)
    );
    assert_eq!(everything(&there).await, everything(&here).await);

    // Seen through the gate: the same people may and may not be written to.
    let news = Purpose::marketing("newsletter").unwrap();
    let page = here
        .customers
        .find(&here.ctx, &Query::new(Filter::All).limit(1000))
        .await
        .unwrap();
    let mut allowed = 0;
    for customer in &page.items {
        let address: Address = customer.email().unwrap().address.clone();
        let recipient = Recipient::new(customer.id, &address);
        let here = gate(&here).explain(&here.ctx, &recipient, &news).await.unwrap();
        let there = gate(&there).explain(&there.ctx, &recipient, &news).await.unwrap();
        assert_eq!(here, there);
        allowed += u64::from(here.allowed);
    }
    assert_eq!(allowed, 15, "30 less every third less every fourth");

    // Again: nothing is added, nothing is touched.
    let again = there
        .customers
        .import_archive(&there.ctx, &mut file.as_slice(), ArchiveOptions::default())
        .await
        .unwrap();
    assert!(
        again.added.is_empty() && again.unchanged == report.seen(),
        "{again:?}"
    );
    assert_eq!(everything(&there).await, everything(&here).await);
    // And out of there again: the same records, line by line.
    let back = archive(&there, &Filter::All).await;
    let lines = |file: &[u8]| -> Vec<(String, serde_json::Value)> {
        String::from_utf8(file.to_vec())
            .unwrap()
            .lines()
            .filter_map(|line| {
                let json: serde_json::Value = serde_json::from_str(line).unwrap();
                Some((json.get("id")?.to_string(), json.get("values")?.clone()))
            })
            .collect()
    };
    assert_eq!(lines(&back), lines(&file));
}

#[tokio::test]
async fn from_memory_to_sqlite() {
    let (file, _folder) = on_file().await;
    goes_and_comes(Arc::new(MemoryStore::new("m")), file).await;
}

#[tokio::test]
async fn from_sqlite_to_memory() {
    goes_and_comes(in_memory().await, Arc::new(MemoryStore::new("m"))).await;
}

#[tokio::test]
async fn from_sqlite_to_every_server_and_on() {
    let mut last = in_memory().await;
    for Opened { store, name, .. } in servers().await {
        eprintln!("to {name}");
        goes_and_comes(Arc::new(MemoryStore::new("m")), store.clone()).await;
        // What a server gives out, the next store takes.
        let to = in_memory().await;
        let here = filled(store, 9).await;
        let there = beside(&here, to.clone());
        let file = archive(&here, &Filter::All).await;
        there
            .customers
            .import_archive(&there.ctx, &mut file.as_slice(), ArchiveOptions::default())
            .await
            .unwrap();
        assert_eq!(everything(&there).await, everything(&here).await, "{name}");
        last = to;
    }
    drop(last);
}

#[tokio::test]
async fn the_comparison_sees_one_changed_value() {
    // Negative control of `everything`: one tag more, one suppression less.
    let here = filled(in_memory().await, 6).await;
    let before = everything(&here).await;
    let mut one = here
        .customers
        .find(&here.ctx, &Query::new(Filter::All).limit(1))
        .await
        .unwrap()
        .items
        .remove(0);
    one.tags.push("x".into());
    here.customers.update(&here.ctx, &one).await.unwrap();
    let after = everything(&here).await;
    assert_ne!(before, after);
    let gone = here
        .customers
        .store_ref()
        .find(&here.ctx, &SUPPRESSION, &Query::new(Filter::All))
        .await
        .unwrap();
    let gone = Write::delete(&SUPPRESSION, gone.items[0].id, None);
    here.customers
        .store_ref()
        .apply(&here.ctx, &[gone])
        .await
        .unwrap();
    assert_ne!(after, everything(&here).await);
}

#[tokio::test]
async fn some_customers_with_all_that_is_theirs() {
    let here = filled(in_memory().await, 20).await;
    let file = archive(&here, &Filter::eq("family_name", "Kask")).await;
    let there = beside(&here, in_memory().await);
    let report = there
        .customers
        .import_archive(&there.ctx, &mut file.as_slice(), ArchiveOptions::default())
        .await
        .unwrap();
    assert_eq!(report.added["crm_customer"], 5);
    assert_eq!(report.added["crm_contact_point"], 15);
    assert_eq!(report.added["crm_interaction"], 5);
    assert!(
        report.added["crm_suppression"] == 5,
        "suppressions go along whole"
    );
    let text = String::from_utf8(file).unwrap();
    assert!(!text.contains("p1@example.com"), "nothing of the others");
}

#[tokio::test]
async fn damaged_and_foreign_archives_are_told() {
    let here = filled(in_memory().await, 5).await;
    let file = archive(&here, &Filter::All).await;
    let text = String::from_utf8(file.clone()).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let join = |lines: &[&str]| lines.join("\n") + "\n";
    let cut = join(&lines[..lines.len() - 1]);
    let mut gone = lines.clone();
    gone.remove(3);
    let missing = join(&gone);
    let changed = text.replacen("Tartu", "Narva", 1);
    let newer = text.replacen("\"version\":1", "\"version\":2", 1);
    let foreign = text.replacen(
        &format!("\"tenant\":\"{}\"", here.ctx.tenant()),
        "\"tenant\":\"other\"",
        1,
    );
    let unknown = text.replacen("\"given_name\"", "\"givenname\"", 1);
    for (file, kind, word) in [
        (cut, ErrorKind::Corrupt, "ends early"),
        (missing, ErrorKind::Corrupt, "not as it was written"),
        (changed, ErrorKind::Corrupt, "not as it was written"),
        (newer, ErrorKind::Invalid, "newer version"),
        (foreign, ErrorKind::Invalid, "another tenant"),
        (unknown, ErrorKind::Invalid, "line="),
        (String::new(), ErrorKind::Invalid, "not an archive"),
        ("name,email\n".into(), ErrorKind::Invalid, "not an archive"),
    ] {
        let there = beside(&here, in_memory().await);
        let error = there
            .customers
            .import_archive(&there.ctx, &mut file.as_bytes(), ArchiveOptions::default())
            .await
            .unwrap_err();
        assert!(
            error.kind() == kind && error.to_string().contains(word),
            "{error}"
        );
    }
}

#[tokio::test]
async fn what_is_there_with_other_values_is_not_lost_unasked() {
    let here = filled(in_memory().await, 5).await;
    let file = archive(&here, &Filter::All).await;
    let mut one = here
        .customers
        .find(&here.ctx, &Query::new(Filter::All).limit(1))
        .await
        .unwrap()
        .items
        .remove(0);
    one.tags = vec!["edited".into()];
    here.customers.update(&here.ctx, &one).await.unwrap();
    let before = everything(&here).await;
    let read = |existing| {
        let (file, here) = (file.clone(), &here);
        async move {
            let options = ArchiveOptions::default().existing(existing);
            here.customers
                .import_archive(&here.ctx, &mut file.as_slice(), options)
                .await
        }
    };
    let error = read(OnExisting::Refuse).await.unwrap_err();
    assert!(
        error.kind() == ErrorKind::Conflict && error.context("line").is_some(),
        "{error}"
    );
    assert_eq!(read(OnExisting::Keep).await.unwrap().kept, 1);
    assert_eq!(everything(&here).await, before);
    assert_eq!(read(OnExisting::Replace).await.unwrap().replaced, 1);
    let back = here.customers.get(&here.ctx, one.id).await.unwrap().unwrap();
    assert_eq!(back.tags.len(), 4);
    // Another customer has the address: told by line, with the index.
    let there = beside(&here, in_memory().await);
    let mut taken = draft("shop", 1);
    taken.emails.push("p0@example.com".into());
    there.customers.upsert(&there.ctx, taken).await.unwrap();
    let error = there
        .customers
        .import_archive(&there.ctx, &mut file.as_slice(), ArchiveOptions::default())
        .await
        .unwrap_err();
    assert_eq!(error.context("index"), Some("crm_contact_point_match"), "{error}");
    assert!(error.context("line").is_some(), "{error}");
}

#[tokio::test]
async fn no_cell_begins_a_formula() {
    let here = filled(in_memory().await, 12).await;
    let mut file = Vec::new();
    let options = ExportOptions::default().with_bom();
    let report = here
        .customers
        .export(&here.ctx, &Filter::All, Format::Csv, &mut file, options)
        .await
        .unwrap();
    assert_eq!(report.customers, 12);
    let text = String::from_utf8(file).unwrap();
    let text = text.strip_prefix('\u{feff}').expect("the mark");
    let mut cells = 0;
    // Read by a parser of this test's own.
    let mut quoted = false;
    let mut cell = String::new();
    for c in text.chars() {
        match c {
            '"' => quoted = !quoted,
            ',' | '\n' if !quoted => {
                for line in cell.lines() {
                    let start = line.trim();
                    let number = start.parse::<f64>().is_ok() && !start.starts_with('+');
                    assert!(number || !start.starts_with(['=', '+', '-', '@']), "{cell:?}");
                }
                cells += 1;
                cell.clear();
            }
            c => cell.push(c),
        }
    }
    assert!(cells > 12 * 20);
    assert!(text.contains("'=cmd|' /C calc'!A0") && text.contains("'+61491570100"));
    assert!(text.contains(",00123,"), "leading zeros are kept");
}

#[tokio::test]
async fn wrong_settings_are_named() {
    let here = desk(in_memory().await);
    for (options, field) in [
        (ExportOptions::default().page(0), "page"),
        (ExportOptions::default().delimiter('x'), "delimiter"),
        (ExportOptions::default().delimiter('→'), "delimiter"),
    ] {
        let error = here
            .customers
            .export(&here.ctx, &Filter::All, Format::Csv, &mut Vec::new(), options)
            .await
            .unwrap_err();
        assert_eq!(
            (error.kind(), error.context("field")),
            (ErrorKind::Invalid, Some(field))
        );
    }
    struct Full;
    impl std::io::Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    for format in [Format::Csv, Format::Jsonl, Format::Vcard] {
        let here = filled(in_memory().await, 1).await;
        let error = here
            .customers
            .export(
                &here.ctx,
                &Filter::All,
                format,
                &mut Full,
                ExportOptions::default(),
            )
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    }
}
