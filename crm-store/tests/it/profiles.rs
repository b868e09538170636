//! Edits of profiles: the suite on every store, and what only the real thing knows: declared attributes, merges, imports.

use std::sync::Arc;

use crm_core::ErrorKind;
use crm_core::capability::{EditRun, Edited, ProfileEdit, ProfileField, ProfileWriter};
use crm_core::customer::{CUSTOMER, CustomerId, Provenance};
use crm_core::query::{Filter, Query};
use crm_core::testkit::profile;
use crm_store::changes::{ChangeLog, Entity, Op};
use crm_store::customers::{FieldDef, FieldKind, IMPORT_ROW, ImportOptions, MergeRules};
use sqlx::Row;

use crate::conformance::on_file;
use crate::customers::{Desk, at, desk, keys};
use crate::sqlite::raw;
use crate::stores::on_every_store;

macro_rules! the_suite {
    ($($case:ident),* $(,)?) => {
        $(async fn $case(desk: Desk) {
            desk.customers.prepare().await.unwrap();
            let store = desk.customers.store_ref().clone();
            profile::$case(Arc::new(desk.customers), store).await;
        })*
        on_every_store!(
            $($case,)*
            declared_attributes_are_checked_and_found,
            merged_and_removed_customers_are_told,
        );
    };
}

the_suite!(
    an_edit_changes_what_it_says_and_nothing_else,
    an_address_follows_its_parts,
    who_was_changed_meanwhile_is_left_alone,
    a_customer_is_edited_whole_or_not_at_all,
    one_that_cannot_be_edited_does_not_keep_the_others,
    nothing_is_written_dry,
    a_repeated_call_writes_once,
    undo_gives_back_what_was,
    who_was_changed_since_is_not_undone,
    tenants_do_not_meet,
    a_run_without_a_name_is_refused,
    many_are_edited_in_order,
);

fn field(name: &str) -> ProfileField {
    name.parse().unwrap()
}

fn run(name: &str) -> EditRun {
    EditRun::new(name, Provenance::new("cleaning", at(9)))
}

async fn person(desk: &Desk, name: &str) -> CustomerId {
    let mut draft = keys(name, &format!("{name}@example.com"), "");
    draft.attributes.set("card", name).unwrap();
    draft.attributes.set("visits", 3).unwrap();
    desk.customers.create(&desk.ctx, draft).await.unwrap().id
}

async fn declared_attributes_are_checked_and_found(desk: Desk) {
    let (c, ctx) = (&desk.customers, &desk.ctx);
    for def in [
        FieldDef::new("card", FieldKind::Text).unique().required(),
        FieldDef::new("visits", FieldKind::Int).indexed(),
    ] {
        c.fields().declare(ctx, def).await.unwrap();
    }
    let (ana, bea, cyd) = (
        person(&desk, "ana").await,
        person(&desk, "bea").await,
        person(&desk, "cyd").await,
    );
    let edits = [
        ProfileEdit::new(ana, 1)
            .set(field("attributes.visits"), 700)
            .set(field("attributes.card"), "ANA"),
        ProfileEdit::new(bea, 1).set(field("attributes.visits"), "many"),
        ProfileEdit::new(cyd, 1).set(field("attributes.card"), serde_json::Value::Null),
    ];
    let done = c.edit_profiles(ctx, &run("clean"), &edits).await.unwrap();
    assert_eq!(done[0], Edited::Written(2));
    for (at, name) in [(1, "attributes.visits"), (2, "attributes.card")] {
        let Edited::Refused { field, .. } = &done[at] else {
            panic!("{:?}", done[at])
        };
        assert_eq!(field.as_deref(), Some(name));
    }
    // The index followed: it is what these questions are answered from.
    for (filter, wanted) in [
        (Filter::gt("attributes.visits", 600), vec![ana]),
        (Filter::eq("attributes.card", "ANA"), vec![ana]),
        (Filter::eq("attributes.card", "ana"), vec![]),
    ] {
        let found = c.find(ctx, &Query::new(filter)).await.unwrap().items;
        assert_eq!(found.iter().map(|one| one.id).collect::<Vec<_>>(), wanted);
    }
    // A value that another customer has keeps only the one who wants it.
    let edits = [
        ProfileEdit::new(bea, 1).set(field("attributes.card"), "ANA"),
        ProfileEdit::new(cyd, 1).set(field("attributes.visits"), 5),
    ];
    let done = c.edit_profiles(ctx, &run("clean"), &edits).await.unwrap();
    assert!(
        matches!(done.as_slice(), [Edited::Refused { .. }, Edited::Written(2)]),
        "{done:?}"
    );
    let job = c.job(ctx, "clean").await.unwrap().unwrap();
    assert_eq!(job.report.updated, 2);
    // Undone, the index is as it was too.
    assert_eq!(c.undo(ctx, "clean").await.unwrap().restored, 2);
    for (card, wanted) in [("ANA", 0), ("ana", 1), ("bea", 1)] {
        assert_eq!(
            c.count(ctx, &Filter::eq("attributes.card", card)).await.unwrap(),
            wanted,
            "{card}"
        );
    }
}

async fn merged_and_removed_customers_are_told(desk: Desk) {
    let (c, ctx) = (&desk.customers, &desk.ctx);
    let (ana, bea, cyd) = (
        person(&desk, "ana").await,
        person(&desk, "bea").await,
        person(&desk, "cyd").await,
    );
    let plan = c
        .merge()
        .plan(ctx, ana, &[bea], MergeRules::default())
        .await
        .unwrap();
    c.merge().apply(ctx, &plan).await.unwrap();
    c.delete(ctx, cyd).await.unwrap();
    let edits = [bea, cyd].map(|id| ProfileEdit::new(id, 1).set(field("given_name"), "X"));
    let done = c.edit_profiles(ctx, &run("clean"), &edits).await.unwrap();
    assert_eq!(done, [Edited::Merged(ana), Edited::Gone]);
    let kept = c.store_ref().count(ctx, &IMPORT_ROW, &Filter::All).await.unwrap();
    assert_eq!(kept, 0, "nothing about the removed one is kept");
}

#[tokio::test]
async fn imports_and_edits_do_not_share_a_name() {
    let (store, _folder) = on_file().await;
    let desk = desk(store);
    let (c, ctx) = (&desk.customers, &desk.ctx);
    let drafts = || vec![keys("ana", "ana@example.com", "")];
    c.import(ctx, "list", drafts(), ImportOptions::default())
        .await
        .unwrap();
    let ana = c
        .find(ctx, &Query::new(Filter::All))
        .await
        .unwrap()
        .items
        .remove(0);
    let edit = [ProfileEdit::new(ana.id, ana.version).set(field("given_name"), "Ana")];
    let error = c.edit_profiles(ctx, &run("list"), &edit).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.context("run")),
        (ErrorKind::Conflict, Some("list"))
    );
    assert_eq!(c.undo(ctx, "list").await.unwrap_err().kind(), ErrorKind::NotFound);
    c.edit_profiles(ctx, &run("names"), &edit).await.unwrap();
    let error = c
        .import(ctx, "names", drafts(), ImportOptions::default())
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.context("job")),
        (ErrorKind::Conflict, Some("names"))
    );
    assert_eq!(c.undo(ctx, "names").await.unwrap().restored, 1);
}

/// What the file itself says of the profiles, read without the store: name, version, who said it.
async fn rows(path: &std::path::Path) -> Vec<(String, i64, String)> {
    let sql = "SELECT given_name, version, coalesce(json_extract(known_from, '$.name.source'), '') FROM crm_customer ORDER BY given_name";
    let rows = sqlx::query(sql).fetch_all(&mut raw(path).await).await.unwrap();
    rows.iter()
        .map(|row| (row.get(0), row.get(1), row.get(2)))
        .collect()
}

/// Broken off anywhere and called again: every customer is written once, as the file itself says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_broken_off_goes_on() {
    let mut broken = 0;
    for patience in [1_u32, 3, 10, 40, 150, 600] {
        let (store, folder) = on_file().await;
        let desk = desk(store);
        let (c, ctx) = (&desk.customers, &desk.ctx);
        let drafts = (0..1_200).map(|n| keys(&format!("p{n:04}"), &format!("p{n}@example.com"), ""));
        let done = c
            .import(ctx, "list", drafts, ImportOptions::default())
            .await
            .unwrap();
        assert_eq!(done.created, 1_200);
        let query = Query::new(Filter::All).limit(10_000);
        let people = c.store_ref().find(ctx, &CUSTOMER, &query).await.unwrap().items;
        let edits: Vec<ProfileEdit> = people
            .iter()
            .map(|one| ProfileEdit::new(one.id.into(), one.version).set(field("given_name"), "Clean"))
            .collect();
        let named = run("clean");
        let waited = async {
            for _ in 0..patience {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            done = c.edit_profiles(ctx, &named, &edits) => { done.unwrap(); }
            () = waited => broken += 1,
        }
        let done = loop {
            match c.edit_profiles(ctx, &named, &edits).await {
                Ok(done) => break done,
                // The dropped call's last unit of work may still be on its way.
                Err(error) if error.kind() == ErrorKind::Conflict => tokio::task::yield_now().await,
                Err(error) => panic!("{error:?}"),
            }
        };
        let new = |one: &Edited| matches!(one, Edited::Written(2) | Edited::Repeated);
        assert!(
            done.iter().all(new),
            "after {patience}: {:?}",
            done.iter().find(|one| !new(one))
        );
        let path = folder.path().join("crm.db");
        let wanted = ("Clean".to_owned(), 2, "cleaning".to_owned());
        assert!(rows(&path).await.iter().all(|row| *row == wanted));
        assert_eq!(c.undo(ctx, "clean").await.unwrap().restored, 1_200);
        let back = rows(&path).await;
        // Negative control: the same look finds the old names again.
        assert!(
            back.iter()
                .all(|(name, version, _)| name != "Clean" && *version == 3),
            "{:?}",
            back.first()
        );
    }
    assert!(broken > 0, "no call was broken off");
}

/// The change feed announces every edited customer, with who did it.
#[tokio::test]
async fn edits_are_announced() {
    let (store, _folder) = on_file().await;
    let plain = desk(store.clone());
    let ids = Arc::new(crm_core::RandomIds::new(plain.clock.clone()));
    let desk = desk(Arc::new(ChangeLog::new(store, plain.clock.clone(), ids)));
    let (c, ctx) = (&desk.customers, &desk.ctx);
    let ana = person(&desk, "ana").await;
    let before = c.changes_since(ctx, None, 100).await.unwrap().next;
    let edit = [ProfileEdit::new(ana, 1).set(field("given_name"), "Ana")];
    c.edit_profiles(ctx, &run("clean"), &edit).await.unwrap();
    let told = c.changes_since(ctx, Some(&before), 100).await.unwrap().items;
    let told: Vec<_> = told
        .iter()
        .map(|one| (&one.entity, &one.op, one.version))
        .collect();
    assert_eq!(told, [(&Entity::Customer(ana), &Op::Updated, Some(2))]);
}
