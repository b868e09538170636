//! Imports that are tried first, repeated, and undone.

use std::path::Path;
use std::sync::{Arc, Mutex};

use crm_core::ErrorKind;
use crm_core::capability::{Delivery, DraftSink, OriginalKind, Originals, Reject, RejectKind};
use crm_core::consent::{Evidence, Purpose};
use crm_core::customer::{Draft, ExternalRef, PersonName};
use crm_core::query::{Filter, Query};
use crm_store::customers::{ImportOptions, ImportReport, ImportState, KeptReason};
use sqlx::Row;

use crate::conformance::{in_memory, on_file};
use crate::customers::{Desk, at, desk, draft};
use crate::export::{everything, gate, person};
use crate::sqlite::raw;

fn people(range: std::ops::Range<usize>) -> Vec<Draft> {
    range.map(person).collect()
}

async fn import(desk: &Desk, job: &str, drafts: Vec<Draft>, options: ImportOptions) -> ImportReport {
    desk.customers
        .import(&desk.ctx, job, drafts, options)
        .await
        .unwrap()
}

/// Every row of every table, read without the store.
async fn dump(path: &Path) -> Vec<String> {
    let mut raw = raw(path).await;
    let tables = sqlx::query("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
        .fetch_all(&mut raw)
        .await
        .unwrap();
    let mut rows = Vec::new();
    for table in tables {
        let table: String = table.get(0);
        let columns = sqlx::query(sqlx::AssertSqlSafe(format!(
            "SELECT name FROM pragma_table_info('{table}')"
        )))
        .fetch_all(&mut raw)
        .await
        .unwrap();
        let quoted: Vec<String> = columns
            .iter()
            .map(|column| format!("quote(\"{}\")", column.get::<String, _>(0)))
            .collect();
        let sql = format!(
            "SELECT {} FROM \"{table}\" ORDER BY 1",
            quoted.join(" || '|' || ")
        );
        let found = sqlx::query(sqlx::AssertSqlSafe(sql))
            .fetch_all(&mut raw)
            .await
            .unwrap();
        rows.extend(
            found
                .iter()
                .map(|row| format!("{table}: {}", row.get::<String, _>(0))),
        );
    }
    rows
}

/// Some known, some known in part, some new, some twice, two of nobody, one whose key is another's.
fn mixed() -> Vec<Draft> {
    let mut drafts = people(5..15);
    drafts.extend(people(12..15));
    drafts.push(draft("shop", 1));
    let mut wrong = draft("shop", 1);
    wrong.emails.push("nobody".into());
    drafts.push(wrong);
    let mut both = draft("shop", 900);
    both.external_refs.push(ExternalRef::new("shop", "005"));
    both.emails = vec!["p6@example.com".into(), "new5@example.com".into()];
    drafts.push(both);
    drafts
}

#[tokio::test]
async fn a_dry_run_tells_what_a_run_does_and_writes_nothing() {
    let (store, folder) = on_file().await;
    let path = folder.path().join("crm.db");
    let desk = desk(store);
    import(&desk, "before", people(0..10), ImportOptions::default()).await;
    let before = dump(&path).await;
    for batch in [1, 4, 1000] {
        let put_aside = Arc::new(Mutex::new(Vec::new()));
        let seen = put_aside.clone();
        let options = ImportOptions::default()
            .batch(batch)
            .dry_run()
            .on_reject(move |reject| seen.lock().unwrap().push(reject.clone()));
        let told = import(&desk, "list", mixed(), options).await;
        assert_eq!(dump(&path).await, before, "batch {batch}: nothing was written");
        assert!(desk.customers.job(&desk.ctx, "list").await.unwrap().is_none());
        assert_eq!(
            (
                told.created,
                told.updated,
                told.unchanged,
                told.rejected,
                told.conflicts
            ),
            (5, 1, 8, 2, 1),
            "batch {batch}: {told:?}"
        );
        assert_eq!(put_aside.lock().unwrap().len(), 3);
    }
    let told = import(
        &desk,
        "list",
        mixed(),
        ImportOptions::default().batch(4).dry_run(),
    )
    .await;
    let did = import(&desk, "list", mixed(), ImportOptions::default().batch(4)).await;
    assert_eq!(told, did, "the same code decides");
    // Negative control: a real run is seen by the oracle.
    assert_ne!(dump(&path).await, before);
}

#[tokio::test]
async fn the_same_rows_again_change_nothing_even_after_an_edit() {
    let desk = desk(in_memory().await);
    import(&desk, "list", people(0..10), ImportOptions::default()).await;
    let page = desk
        .customers
        .find(&desk.ctx, &Query::new(Filter::All))
        .await
        .unwrap();
    let mut edited = page.items[3].clone();
    edited.name = PersonName::new("Edited", "By Hand");
    edited.addresses[0].city = "Narva".into();
    let edited = desk.customers.update(&desk.ctx, &edited).await.unwrap();
    let before = everything(&desk).await;

    // Seen later, from another place in another file: still the same rows.
    let later: Vec<Draft> = people(0..10)
        .into_iter()
        .map(|mut d| {
            d.provenance.observed_at = at(9_000_000);
            d.provenance.line = Some(99);
            d
        })
        .collect();
    let again = import(&desk, "list", later.clone(), ImportOptions::default().batch(3)).await;
    assert_eq!((again.unchanged, again.repeated, again.updated), (10, 10, 0));
    assert_eq!(everything(&desk).await, before, "a re-run is a no-op");
    assert_eq!(
        desk.customers.get(&desk.ctx, edited.id).await.unwrap().unwrap(),
        edited
    );

    // Negative control: without the journal the newer observation wins.
    import(&desk, "other", later, ImportOptions::default().without_journal()).await;
    assert_ne!(everything(&desk).await, before);
}

#[tokio::test]
async fn what_changes_and_changes_back_is_taken_in_each_time() {
    let desk = desk(in_memory().await);
    let says = |city: &str, seen: i64| {
        let mut d = draft("erp", seen);
        d.emails.push("ana@example.com".into());
        d.attributes.set("city", city).unwrap();
        vec![d]
    };
    let city = async |desk: &Desk| {
        let page = desk
            .customers
            .find(&desk.ctx, &Query::new(Filter::All))
            .await
            .unwrap();
        page.items[0]
            .attributes
            .get("city")
            .unwrap()
            .as_str()
            .unwrap()
            .to_owned()
    };
    for (day, name) in ["Oslo", "Bergen", "Oslo", "Oslo", "Bergen", "Oslo"]
        .into_iter()
        .enumerate()
    {
        let report = import(
            &desk,
            "nightly",
            says(name, 100 + day as i64),
            ImportOptions::default(),
        )
        .await;
        assert_eq!(city(&desk).await, name, "day {day}: {report:?}");
        assert_eq!(report.repeated, u64::from(day == 3), "day {day}");
    }
}

#[tokio::test]
async fn an_undo_brings_back_what_was() {
    for batch in [1, 4, 1000] {
        let desk = desk(in_memory().await);
        import(
            &desk,
            "before",
            people(0..10),
            ImportOptions::default().without_journal(),
        )
        .await;
        let before = everything(&desk).await;
        // The known ones are told other things, twice within the run; new ones come, with events.
        let mut drafts: Vec<Draft> = Vec::new();
        for round in 0..2 {
            for mut d in people(5..15) {
                d.provenance.observed_at = at(1_000_000 + round);
                d.name = Some(PersonName::new("Other", &format!("Name{round}")));
                d.tags.push(format!("round{round}"));
                d.phones.push(format!("+61 491 570 {}", 300 + round));
                d.orders.push(crm_core::customer::OrderDraft {
                    event_id: format!("o{round}{}", d.emails[0]),
                    at: at(7),
                    total: crm_core::activity::Money::new(100, "EUR").unwrap(),
                    items: 1,
                });
                drafts.push(d);
            }
        }
        let options = || ImportOptions::default().batch(batch);
        let report = import(&desk, "list", drafts.clone(), options()).await;
        assert_eq!((report.created, report.orders), (5, 20), "{report:?}");
        assert_ne!(everything(&desk).await, before);
        let mut steps = 0;
        let undone = desk
            .customers
            .undo_import(&desk.ctx, "list", &mut |_| steps += 1)
            .await
            .unwrap();
        assert_eq!(
            (undone.removed, undone.restored, undone.kept),
            (5, 5, 0),
            "{undone:?}"
        );
        assert_eq!(undone.events_removed, 20);
        assert!(steps > 0);
        assert_eq!(everything(&desk).await, before, "batch {batch}");
        let job = desk.customers.job(&desk.ctx, "list").await.unwrap().unwrap();
        assert_eq!(job.state, ImportState::Undone);
        // Undone is undone; and the same file can be read again.
        let nothing = desk
            .customers
            .undo_import(&desk.ctx, "list", &mut |_| ())
            .await
            .unwrap();
        assert_eq!((nothing.removed, nothing.restored), (0, 0));
        let again = import(&desk, "list", drafts, options()).await;
        assert_eq!((again.created, again.repeated), (5, 0));
    }
}

#[tokio::test]
async fn what_was_changed_since_is_kept_and_named() {
    let desk = desk(in_memory().await);
    import(&desk, "before", people(0..2), ImportOptions::default()).await;
    let mut drafts = people(0..6);
    for d in &mut drafts {
        d.provenance.observed_at = at(1_000_000);
        d.tags.push("new".into());
    }
    import(&desk, "list", drafts, ImportOptions::default()).await;
    let by = async |n: usize| {
        let reference = ExternalRef::new("shop", format!("00{n}"));
        desk.customers.by_external(&desk.ctx, &reference).await.unwrap()
    };
    // 0: restored. 1: edited since. 2: removed. 3: edited since. 4: consent since. 5: deleted since.
    for n in [1, 3] {
        let mut one = by(n).await.unwrap();
        one.tags.push("by hand".into());
        desk.customers.update(&desk.ctx, &one).await.unwrap();
    }
    let four = by(4).await.unwrap();
    let evidence = Evidence::new("form", "yes").unwrap();
    let address = four.email().unwrap().address.clone();
    let news = Purpose::marketing("newsletter").unwrap();
    gate(&desk)
        .grant(&desk.ctx, four.id, &address, &news, evidence, None)
        .await
        .unwrap();
    desk.customers
        .delete(&desk.ctx, by(5).await.unwrap().id)
        .await
        .unwrap();

    let (one, three) = (by(1).await.unwrap(), by(3).await.unwrap());
    let undone = desk
        .customers
        .undo_import(&desk.ctx, "list", &mut |_| ())
        .await
        .unwrap();
    assert_eq!(
        (undone.removed, undone.restored, undone.kept),
        (1, 1, 3),
        "{undone:?}"
    );
    let mut kept: Vec<_> = undone
        .kept_customers
        .iter()
        .map(|k| (k.customer_id, k.reason))
        .collect();
    kept.sort_by_key(|(id, _)| *id);
    let mut expected = vec![
        (one.id, KeptReason::ChangedSince),
        (three.id, KeptReason::ChangedSince),
        (four.id, KeptReason::HasMore),
    ];
    expected.sort_by_key(|(id, _)| *id);
    assert_eq!(kept, expected);
    assert!(!by(0).await.unwrap().tags.contains(&"new".to_owned()));
    assert_eq!(by(1).await.unwrap(), one, "as it was left");
    assert!(by(2).await.is_none() && by(5).await.is_none());
}

#[tokio::test]
async fn an_undo_that_was_stopped_goes_on() {
    let (store, folder) = on_file().await;
    let desk = desk(store);
    import(&desk, "before", people(0..3), ImportOptions::default()).await;
    let before = everything(&desk).await;
    let path = folder.path().join("crm.db");
    let rows = dump(&path).await.len();
    let many: Vec<Draft> = (100..700)
        .map(|n| {
            let mut d = draft("shop", 5);
            d.emails.push(format!("n{n}@example.com"));
            d
        })
        .collect();
    import(&desk, "list", many, ImportOptions::default()).await;
    // Stopped in the middle: the future is dropped after the first unit of work.
    let (tell, told) = tokio::sync::oneshot::channel();
    let mut tell = Some(tell);
    let mut step = move |_: &crm_store::customers::UndoReport| {
        if let Some(tell) = tell.take() {
            let _ = tell.send(());
        }
    };
    tokio::select! {
        biased;
        _ = told => {}
        done = desk.customers.undo_import(&desk.ctx, "list", &mut step) => { done.unwrap(); }
    }
    let job = desk.customers.job(&desk.ctx, "list").await.unwrap().unwrap();
    assert_eq!(job.state, ImportState::Undoing);
    let left = desk.customers.count(&desk.ctx, &Filter::All).await.unwrap();
    assert!(left > 3 && left < 603, "{left}");
    // No import gets in between.
    let error = desk
        .customers
        .sink(&desk.ctx, "list", ImportOptions::default())
        .await
        .unwrap_err();
    assert!(
        error.kind() == ErrorKind::Conflict && error.to_string().contains("being undone"),
        "{error}"
    );
    desk.customers
        .undo_import(&desk.ctx, "list", &mut |_| ())
        .await
        .unwrap();
    assert_eq!(everything(&desk).await, before);
    assert_eq!(
        dump(&path).await.len(),
        rows + 1,
        "what remains is the job's own record"
    );
}

#[tokio::test]
async fn an_open_run_is_fenced_off_by_an_undo() {
    let desk = desk(in_memory().await);
    let mut sink = desk
        .customers
        .sink(&desk.ctx, "list", ImportOptions::default())
        .await
        .unwrap();
    let delivery = |n: usize| Delivery {
        drafts: people(n..n + 1),
        ..Default::default()
    };
    sink.deliver(delivery(0)).await.unwrap();
    let undone = desk
        .customers
        .undo_import(&desk.ctx, "list", &mut |_| ())
        .await
        .unwrap();
    assert_eq!(undone.removed, 1);
    let error = sink.deliver(delivery(1)).await.unwrap_err();
    assert!(error.to_string().contains("taken over"), "{error}");
    assert_eq!(desk.customers.count(&desk.ctx, &Filter::All).await.unwrap(), 0);
}

#[tokio::test]
async fn without_a_journal_there_is_no_undo() {
    let desk = desk(in_memory().await);
    import(
        &desk,
        "list",
        people(0..3),
        ImportOptions::default().without_journal(),
    )
    .await;
    let error = desk
        .customers
        .undo_import(&desk.ctx, "list", &mut |_| ())
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.context("job")),
        (ErrorKind::Unsupported, Some("list"))
    );
    let error = desk
        .customers
        .undo_import(&desk.ctx, "none", &mut |_| ())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn rejected_rows_are_written_out_with_what_is_wrong() {
    let desk = desk(in_memory().await);
    let mut sink = desk
        .customers
        .sink(&desk.ctx, "list", ImportOptions::default())
        .await
        .unwrap();
    let mut half = draft("list", 1);
    half.external_refs.push(ExternalRef::new("shop", "7"));
    half.emails.push("nobody".into());
    half.phones.push("12".into());
    half.provenance.line = Some(3);
    let originals = Originals {
        kind: OriginalKind::Cells,
        columns: vec!["id".into(), "mail".into(), "note".into()],
        rows: [
            (2, vec!["6".into(), "a@example.com".into()]),
            (3, vec!["7".into(), "nobody".into(), "=1+1".into()]),
        ]
        .into(),
    };
    sink.deliver(Delivery {
        drafts: vec![half],
        rejects: vec![Reject {
            kind: RejectKind::Invalid,
            place: "list.csv".into(),
            line: Some(2),
            field: None,
            reason: "the row has 2 columns, the header has 3".into(),
        }],
        originals,
        ..Default::default()
    })
    .await
    .unwrap();
    sink.finish().await.unwrap();
    let mut file = Vec::new();
    let written = desk
        .customers
        .write_rejects(&desk.ctx, "list", &mut file)
        .await
        .unwrap();
    assert_eq!((written.rows, written.without_row), (2, 0));
    let text = String::from_utf8(file).unwrap();
    let lines: Vec<&str> = text.split_terminator("\r\n").collect();
    assert_eq!(lines[0], "id,mail,note,crm_line,crm_field,crm_error");
    assert!(
        lines[1].starts_with("6,a@example.com,,2,,\"the row has 2")
            || lines[1].starts_with("6,a@example.com,,2,,the row has 2"),
        "{text}"
    );
    assert!(lines[2].starts_with("7,nobody,'=1+1,3,email; phone,"), "{text}");
    assert_eq!(lines.len(), 3);
}
