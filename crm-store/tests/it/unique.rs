//! Values that one customer only may have: a row that wants another one's is told, and nothing else suffers. The same on
//! every store.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use crm_core::ErrorKind;
use crm_core::capability::{Reject, RejectKind};
use crm_core::customer::{Draft, ExternalRef};
use crm_core::query::Filter;
use crm_core::record::{Record, Write};
use crm_store::customers::{
    ATTRIBUTE, Change, FieldDef, FieldKind, IMPORT_REJECT, ImportOptions, Mode, Op, OpDone,
};

use crate::customers::{Desk, draft};
use crate::stores::on_every_store;

on_every_store!(
    a_row_that_wants_anothers_value_is_put_aside_alone,
    a_value_goes_from_one_to_another_within_a_unit,
    batches_say_which_change_it_was,
    of_many_callers_one_gets_the_value,
);

/// Fields that were left out, and why.
type Told = Vec<(Option<String>, RejectKind)>;

async fn declared(desk: &Desk) {
    let card = FieldDef::new("card", FieldKind::Text).unique();
    desk.customers.fields().declare(&desk.ctx, card).await.unwrap();
}

/// A row of a list: who, which card, at which line, seen when.
fn row(id: &str, card: &str, line: u64, seen: i64) -> Draft {
    let mut draft = draft("list", seen);
    draft.provenance.line = Some(line);
    draft.external_refs.push(ExternalRef::new("list", id));
    draft.tags.push(format!("row-{id}"));
    draft.attributes.set("card", card).unwrap();
    draft
}

/// Who has which card: as the profiles say, which must be what the index says.
async fn cards(desk: &Desk) -> BTreeMap<String, String> {
    let all = crm_core::query::Query::new(Filter::All).limit(1000);
    let mut cards = BTreeMap::new();
    for one in desk.customers.find(&desk.ctx, &all).await.unwrap().items {
        if let Some(card) = one.attributes.get("card") {
            cards.insert(one.external_refs[0].id.clone(), card.as_str().unwrap().to_owned());
        }
    }
    let index = desk
        .customers
        .store_ref()
        .find(&desk.ctx, &ATTRIBUTE, &all)
        .await
        .unwrap();
    let mut indexed: Vec<String> = index
        .items
        .iter()
        .map(|entry| entry.record.text("text_value").unwrap().to_owned())
        .collect();
    indexed.sort();
    let mut said: Vec<String> = cards.values().cloned().collect();
    said.sort();
    assert_eq!(indexed, said, "the index says what the profiles say");
    assert!(
        index
            .items
            .iter()
            .all(|entry| entry.record.text("unique_value").is_ok()),
        "every value is guarded"
    );
    cards
}

fn of(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(id, card)| ((*id).to_owned(), (*card).to_owned()))
        .collect()
}

async fn a_row_that_wants_anothers_value_is_put_aside_alone(desk: Desk) {
    declared(&desk).await;
    desk.customers
        .upsert(&desk.ctx, row("0", "C-0", 1, 1))
        .await
        .unwrap();
    // Line 4 wants the card of line 2, line 5 that of somebody who was there before.
    let list = |fourth: &str| {
        vec![
            row("1", "C-1", 2, 5),
            row("2", "C-2", 3, 5),
            row("3", fourth, 4, 5),
            row("4", "C-0", 5, 5),
            row("5", "C-5", 6, 5),
        ]
    };
    for batch in [2, 100] {
        let told = Arc::new(Mutex::new(Vec::<Reject>::new()));
        let hear = told.clone();
        let options = ImportOptions::default()
            .batch(batch)
            .dry_run()
            .on_reject(move |reject| hear.lock().unwrap().push(reject.clone()));
        let dry = desk
            .customers
            .import(&desk.ctx, "list", list("C-1"), options)
            .await
            .unwrap();
        assert_eq!(
            (dry.created, dry.conflicts, dry.fields_rejected),
            (5, 2, 2),
            "by {batch}"
        );
        let lines: Vec<_> = told.lock().unwrap().iter().map(|reject| reject.line).collect();
        assert_eq!(lines, [Some(4), Some(5)]);
    }
    assert_eq!(
        cards(&desk).await,
        of(&[("0", "C-0")]),
        "a dry run stores nothing"
    );

    let report = desk
        .customers
        .import(&desk.ctx, "list", list("C-1"), ImportOptions::default())
        .await
        .unwrap();
    assert_eq!(
        (
            report.created,
            report.rejected,
            report.conflicts,
            report.fields_rejected
        ),
        (5, 0, 2, 2)
    );
    let kept = of(&[("0", "C-0"), ("1", "C-1"), ("2", "C-2"), ("5", "C-5")]);
    assert_eq!(cards(&desk).await, kept);
    let third = Filter::has("tags", "row-3");
    assert_eq!(
        desk.customers.count(&desk.ctx, &third).await.unwrap(),
        1,
        "the rest of the row is in"
    );
    let rejects = desk
        .customers
        .rejects(&desk.ctx, "list", 10, None)
        .await
        .unwrap()
        .items;
    let mut said: Vec<_> = rejects
        .iter()
        .map(|reject| (reject.line, reject.field.as_deref(), reject.kind))
        .collect();
    said.sort_by_key(|said| said.0);
    let card = Some("attributes.card");
    assert_eq!(
        said,
        [
            (Some(4), card, RejectKind::Conflict),
            (Some(5), card, RejectKind::Conflict)
        ]
    );
    assert!(
        rejects.iter().all(|reject| !reject.reason.contains("C-")),
        "no values in reasons"
    );

    // The row is mended in the list and the list comes again: that row is news, the others are not.
    let again = || {
        desk.customers
            .import(&desk.ctx, "list", list("C-3"), ImportOptions::default())
    };
    let report = again().await.unwrap();
    assert_eq!((report.updated, report.repeated, report.conflicts), (1, 4, 0));
    let mut kept = kept;
    kept.insert("3".into(), "C-3".into());
    assert_eq!(cards(&desk).await, kept);
    let report = again().await.unwrap();
    assert_eq!((report.repeated, report.seen()), (5, 5), "and then it is a no-op");
    assert_eq!(cards(&desk).await, kept);

    // The control: without the declaration both rows would have been taken as they are.
    desk.customers.fields().forget(&desk.ctx, "card").await.unwrap();
    let report = desk
        .customers
        .import(&desk.ctx, "other", list("C-1"), ImportOptions::default())
        .await
        .unwrap();
    assert_eq!(report.conflicts, 0);
    let rejects = desk
        .customers
        .store_ref()
        .count(&desk.ctx, &IMPORT_REJECT, &Filter::eq("job", "other"))
        .await
        .unwrap();
    assert_eq!(rejects, 0);
}

async fn a_value_goes_from_one_to_another_within_a_unit(desk: Desk) {
    declared(&desk).await;
    let first = vec![row("1", "A", 2, 1), row("2", "B", 3, 1), row("3", "C", 4, 1)];
    let import = |drafts: Vec<Draft>| {
        desk.customers
            .import(&desk.ctx, "list", drafts, ImportOptions::default())
    };
    import(first).await.unwrap();
    // 1 gives A up, 2 and 4 want it: whoever comes first gets it.
    let report = import(vec![
        row("1", "D", 2, 2),
        row("2", "A", 3, 2),
        row("4", "A", 4, 2),
        row("5", "B", 5, 2),
    ])
    .await
    .unwrap();
    assert_eq!((report.updated, report.created, report.conflicts), (2, 2, 1));
    let now = of(&[("1", "D"), ("2", "A"), ("3", "C"), ("5", "B")]);
    assert_eq!(cards(&desk).await, now);
    // A ring: 1 steps aside, the others move on, and 1 takes what became free.
    let report = import(vec![
        row("1", "X", 2, 3),
        row("2", "D", 3, 3),
        row("3", "A", 4, 3),
        row("1", "C", 5, 4),
    ])
    .await
    .unwrap();
    assert_eq!(report.conflicts, 0);
    let now = of(&[("1", "C"), ("2", "D"), ("3", "A"), ("5", "B")]);
    assert_eq!(cards(&desk).await, now);
    // What is asked for too early belongs to another one still, whatever comes later.
    let report = import(vec![row("5", "A", 2, 5), row("3", "Y", 3, 5)])
        .await
        .unwrap();
    assert_eq!((report.conflicts, report.updated), (1, 1));
    let now = of(&[("1", "C"), ("2", "D"), ("3", "Y"), ("5", "B")]);
    assert_eq!(cards(&desk).await, now);
    // An older observation does not ask for anything: no conflict, nothing new.
    let report = import(vec![row("5", "C", 2, 1)]).await.unwrap();
    assert_eq!((report.conflicts, report.updated, report.unchanged), (0, 0, 1));
}

async fn batches_say_which_change_it_was(desk: Desk) {
    declared(&desk).await;
    let owner = desk
        .customers
        .upsert(&desk.ctx, row("0", "C-0", 1, 1))
        .await
        .unwrap()
        .id;
    let upserts = || {
        vec![
            Op::Upsert(row("1", "C-1", 2, 5)),
            Op::Upsert(row("2", "C-0", 3, 5)),
            Op::Upsert(row("3", "C-1", 4, 5)),
        ]
    };
    let told = |done: &[crm_core::Result<OpDone>]| -> Vec<(Change, Told)> {
        done.iter()
            .map(|done| match done {
                Ok(OpDone::Upserted(upserted)) => (
                    upserted.change,
                    upserted
                        .rejects
                        .iter()
                        .map(|reject| (reject.field.clone(), reject.kind))
                        .collect(),
                ),
                other => panic!("{other:?}"),
            })
            .collect()
    };
    let conflict = || vec![(Some("attributes.card".to_owned()), RejectKind::Conflict)];
    let done = desk
        .customers
        .batch(&desk.ctx, upserts(), Mode::AllOrNothing)
        .await
        .unwrap();
    assert_eq!(
        told(&done),
        [
            (Change::Created, vec![]),
            (Change::Created, conflict()),
            (Change::Created, conflict())
        ]
    );
    let done = desk
        .customers
        .batch(&desk.ctx, upserts(), Mode::PerItem)
        .await
        .unwrap();
    assert_eq!(
        told(&done).into_iter().map(|told| told.1).collect::<Vec<_>>(),
        [vec![], conflict(), conflict()],
        "told again, each by its own change"
    );
    assert_eq!(cards(&desk).await, of(&[("0", "C-0"), ("1", "C-1")]));

    // What is meant to be stored as given is not stored without: the change that cannot be is named.
    let creates = || {
        vec![
            Op::Create(row("7", "C-7", 1, 5)),
            Op::Create(row("8", "C-0", 2, 5)),
            Op::Create(row("9", "C-9", 3, 5)),
        ]
    };
    let error = desk
        .customers
        .batch(&desk.ctx, creates(), Mode::AllOrNothing)
        .await
        .unwrap_err();
    let owner = owner.to_string();
    let said = |error: &crm_core::Error| {
        let of = |key: &str| error.context(key).map(str::to_owned);
        (error.kind(), of("item"), of("field"), of("customer_id"))
    };
    let card = || Some("attributes.card".to_owned());
    assert_eq!(
        said(&error),
        (ErrorKind::Conflict, Some("1".into()), card(), Some(owner.clone()))
    );
    assert_eq!(cards(&desk).await.len(), 2, "nothing of it is stored");
    let done = desk
        .customers
        .batch(&desk.ctx, creates(), Mode::PerItem)
        .await
        .unwrap();
    assert!(done[0].is_ok() && done[2].is_ok());
    assert_eq!(
        said(done[1].as_ref().unwrap_err()),
        (ErrorKind::Conflict, None, card(), Some(owner))
    );
    // Two of one batch: the later one is named, and nobody who is stored has the value.
    let twice = vec![
        Op::Create(row("a", "C-a", 1, 5)),
        Op::Create(row("b", "C-a", 2, 5)),
    ];
    let error = desk
        .customers
        .batch(&desk.ctx, twice, Mode::AllOrNothing)
        .await
        .unwrap_err();
    assert_eq!(
        said(&error),
        (ErrorKind::Conflict, Some("1".into()), card(), None)
    );
    // An update likewise; and one that takes what another change of the batch gives up is fine.
    let by = |id: &'static str| {
        let (customers, ctx) = (desk.customers.clone(), desk.ctx.clone());
        async move {
            let found = customers.by_external(&ctx, &ExternalRef::new("list", id)).await;
            found.unwrap().unwrap()
        }
    };
    let (mut seven, mut nine) = (by("7").await, by("9").await);
    seven.attributes.set("card", "C-0").unwrap();
    let error = desk
        .customers
        .batch(
            &desk.ctx,
            vec![Op::Update(Box::new(seven.clone()))],
            Mode::AllOrNothing,
        )
        .await
        .unwrap_err();
    assert_eq!((said(&error).1, said(&error).2), (Some("0".into()), card()));
    seven.attributes.set("card", "C-9").unwrap();
    nine.attributes.set("card", "C-7").unwrap();
    let swap = vec![Op::Update(Box::new(seven)), Op::Update(Box::new(nine))];
    desk.customers
        .batch(&desk.ctx, swap, Mode::AllOrNothing)
        .await
        .unwrap();
    let now = cards(&desk).await;
    assert_eq!((now["7"].as_str(), now["9"].as_str()), ("C-9", "C-7"), "swapped");
}

async fn of_many_callers_one_gets_the_value(desk: Desk) {
    declared(&desk).await;
    let callers: Vec<_> = (0..8)
        .map(|n| {
            let (customers, ctx) = (desk.customers.clone(), desk.ctx.clone());
            tokio::spawn(async move {
                let drafts = vec![
                    row(&format!("{n}"), "the one", 1, 5),
                    row(&format!("{n}x"), &format!("{n}"), 2, 5),
                ];
                let options = ImportOptions::default();
                customers.import(&ctx, &format!("job {n}"), drafts, options).await
            })
        })
        .collect();
    let (mut created, mut conflicts) = (0, 0);
    for caller in callers {
        let report = caller.await.unwrap().unwrap();
        created += report.created;
        conflicts += report.conflicts;
    }
    assert_eq!((created, conflicts), (16, 7));
    let cards = cards(&desk).await;
    assert_eq!(cards.values().filter(|card| *card == "the one").count(), 1);
    assert_eq!(cards.len(), 9);
    // The control: the store itself refuses a second owner, so a planner that overlooked one would have failed above.
    let forged = Record::from_values(
        &ATTRIBUTE,
        vec![
            crm_core::testkit::fixtures::id().into(),
            "card".into(),
            "the one".into(),
            None::<f64>.into(),
            unique_value(&desk).await.into(),
        ],
    )
    .unwrap();
    let error = desk
        .customers
        .store_ref()
        .apply(
            &desk.ctx,
            &[Write::insert(crm_core::testkit::fixtures::id(), forged)],
        )
        .await
        .unwrap_err();
    assert_eq!(error.context("index"), Some("crm_attribute_unique"));
}

async fn unique_value(desk: &Desk) -> String {
    let query = crm_core::query::Query::new(Filter::eq("text_value", "the one"));
    let found = desk
        .customers
        .store_ref()
        .find(&desk.ctx, &ATTRIBUTE, &query)
        .await
        .unwrap();
    found.items[0].record.text("unique_value").unwrap().to_owned()
}
