//! What imports, merges and requests with keys leave behind goes when it is told to, and nothing else. The same on every
//! store.

use std::collections::BTreeSet;
use std::time::Duration;

use crm_core::ErrorKind;
use crm_core::capability::{Delivery, DraftSink, OriginalKind, Originals, Reject, RejectKind};
use crm_core::customer::{Draft, ExternalRef, PersonName};
use crm_core::query::{Filter, Query};
use crm_core::record::Value;
use crm_store::customers::{
    Change, ImportOptions, KEPT, KeptReason, Leftovers, MergeRules, Retention, SCHEMAS,
};

use crate::customers::{Desk, draft};
use crate::stores::on_every_store;

on_every_store!(
    rejects_go_by_age_and_by_import,
    what_imports_overwrote_goes,
    what_merges_overwrote_goes,
    answers_go,
);

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// In which kinds of records a text stands, whatever their fields.
async fn holding(desk: &Desk, text: &str) -> BTreeSet<&'static str> {
    let mut found = BTreeSet::new();
    for schema in SCHEMAS {
        let all = Query::new(Filter::All).limit(10_000);
        let page = desk
            .customers
            .store_ref()
            .find(&desk.ctx, schema, &all)
            .await
            .unwrap();
        assert!(page.next.is_none());
        let holds = |value: &Value| match value {
            Value::Text(own) => own.contains(text),
            Value::Json(json) => json.to_string().contains(text),
            _ => false,
        };
        if page.items.iter().any(|one| one.record.values().iter().any(holds)) {
            found.insert(schema.name);
        }
    }
    found
}

fn person(id: &str, family: &str, seen: i64) -> Draft {
    let mut draft = draft("list", seen);
    draft.external_refs.push(ExternalRef::new("list", id));
    draft.name = Some(PersonName::new("", family));
    draft
}

/// An import that takes nobody in and puts one row aside.
async fn bad_row(desk: &Desk, job: &str, secret: &str) {
    let mut sink = desk
        .customers
        .sink(&desk.ctx, job, ImportOptions::default())
        .await
        .unwrap();
    sink.deliver(Delivery {
        rejects: vec![Reject {
            kind: RejectKind::Invalid,
            place: "list.csv".into(),
            line: Some(2),
            field: Some("email".into()),
            reason: "not an address".into(),
        }],
        originals: Originals {
            kind: OriginalKind::Cells,
            columns: vec!["name".into()],
            rows: [(2, vec![secret.to_owned()])].into(),
        },
        ..Delivery::default()
    })
    .await
    .unwrap();
    sink.finish().await.unwrap();
}

fn some(rejects: u64, imports: u64, merges: u64, answers: u64) -> Leftovers {
    let mut some = Leftovers::default();
    (some.rejects, some.imports, some.merges, some.answers) = (rejects, imports, merges, answers);
    some
}

async fn rejects_go_by_age_and_by_import(desk: Desk) {
    let (customers, ctx) = (&desk.customers, &desk.ctx);
    bad_row(&desk, "old", "Secret-Old").await;
    desk.clock.advance(10 * DAY);
    bad_row(&desk, "new", "Secret-New").await;
    bad_row(&desk, "other", "Secret-Other").await;
    assert_eq!(customers.leftovers(ctx, None).await.unwrap(), some(3, 0, 0, 0));
    assert_eq!(holding(&desk, "Secret-Old").await, ["crm_import_reject"].into());

    // The control: as long as nothing is old enough, nothing goes; and what has no time stays for ever.
    let keep = Retention::older_than(11 * DAY);
    assert_eq!(customers.purge(ctx, &keep).await.unwrap(), some(0, 0, 0, 0));
    assert_eq!(
        customers.purge(ctx, &Retention::default()).await.unwrap(),
        some(0, 0, 0, 0)
    );
    assert_eq!(customers.leftovers(ctx, None).await.unwrap(), some(3, 0, 0, 0));

    let keep = Retention::older_than(10 * DAY);
    assert_eq!(customers.purge(ctx, &keep).await.unwrap(), some(1, 0, 0, 0));
    assert_eq!(customers.leftovers(ctx, None).await.unwrap(), some(2, 0, 0, 0));
    assert_eq!(
        customers.leftovers(ctx, Some("old")).await.unwrap(),
        some(0, 0, 0, 0)
    );
    assert_eq!(holding(&desk, "Secret-Old").await, BTreeSet::new());
    let job = customers.job(ctx, "old").await.unwrap().unwrap();
    assert_eq!(job.report.rejected, 1, "that there was one is still known");
    let mut out = Vec::new();
    let written = customers.write_rejects(ctx, "old", &mut out).await.unwrap();
    assert_eq!((written.rows, written.without_row, out.len()), (0, 0, 0));

    // By import, whatever its age; another tenant's and another import's stay.
    assert_eq!(
        customers.purge_import(ctx, "new").await.unwrap(),
        some(1, 0, 0, 0)
    );
    assert_eq!(
        customers.purge_import(ctx, "new").await.unwrap(),
        some(0, 0, 0, 0)
    );
    assert_eq!(holding(&desk, "Secret-Other").await, ["crm_import_reject"].into());
    let nobody = customers.purge_import(ctx, "never ran").await.unwrap_err();
    assert_eq!(
        (nobody.kind(), nobody.context("job")),
        (ErrorKind::NotFound, Some("never ran"))
    );
}

async fn what_imports_overwrote_goes(desk: Desk) {
    let (customers, ctx) = (&desk.customers, &desk.ctx);
    customers
        .upsert(ctx, person("1", "Secret-Name", 1))
        .await
        .unwrap();
    let list = || vec![person("1", "Kask", 5), person("2", "Tamm", 5)];
    let import = || customers.import(ctx, "list", list(), ImportOptions::default());
    import().await.unwrap();
    let kept = BTreeSet::from(["crm_import_row"]);
    assert_eq!(holding(&desk, "Secret-Name").await, kept, "what it was before");
    assert_eq!(
        customers.leftovers(ctx, Some("list")).await.unwrap(),
        some(0, 1, 0, 0)
    );
    let keep = Retention::older_than(DAY);
    assert_eq!(customers.purge(ctx, &keep).await.unwrap(), some(0, 0, 0, 0));
    assert_eq!(holding(&desk, "Secret-Name").await, kept);

    assert_eq!(
        customers.purge_import(ctx, "list").await.unwrap(),
        some(0, 1, 0, 0)
    );
    assert_eq!(holding(&desk, "Secret-Name").await, BTreeSet::new());
    assert_eq!(customers.leftovers(ctx, None).await.unwrap(), some(0, 0, 0, 0));
    desk.clock.advance(2 * DAY);
    assert_eq!(
        customers.purge(ctx, &keep).await.unwrap(),
        some(0, 0, 0, 0),
        "once is enough"
    );
    // The rows are still recognised, and who came in with the import still goes with it; who was changed is named.
    let again = import().await.unwrap();
    assert_eq!((again.repeated, again.seen()), (2, 2));
}

async fn what_merges_overwrote_goes(desk: Desk) {
    let (customers, ctx) = (&desk.customers, &desk.ctx);
    // Undo after a purge, first of an import.
    customers.upsert(ctx, person("1", "Before", 1)).await.unwrap();
    let list = vec![person("1", "Kask", 5), person("2", "Tamm", 5)];
    customers
        .import(ctx, "list", list, ImportOptions::default())
        .await
        .unwrap();
    desk.clock.advance(2 * DAY);
    let gone = customers.purge(ctx, &Retention::older_than(DAY)).await.unwrap();
    assert_eq!(gone, some(0, 1, 0, 0));
    let undone = customers.undo_import(ctx, "list", &mut |_| ()).await.unwrap();
    assert_eq!((undone.removed, undone.restored, undone.kept), (1, 0, 1));
    assert_eq!(undone.kept_customers[0].reason, KeptReason::Purged);
    let first = customers
        .by_external(ctx, &ExternalRef::new("list", "1"))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(first.name.family, "Kask", "left as it is");

    // Then of merges: one that is old, one that is not.
    let mut ids = Vec::new();
    for (n, family) in ["Stays", "Secret-Loser", "Stays-Too", "Late-Loser"]
        .into_iter()
        .enumerate()
    {
        let done = customers
            .upsert(ctx, person(&format!("m{n}"), family, 1))
            .await
            .unwrap();
        assert_eq!(done.change, Change::Created);
        ids.push(done.id);
    }
    let merge = customers.merge();
    let plan = merge
        .plan(ctx, ids[0], &[ids[1]], MergeRules::default())
        .await
        .unwrap();
    let old = merge.apply(ctx, &plan).await.unwrap();
    desk.clock.advance(2 * DAY);
    let plan = merge
        .plan(ctx, ids[2], &[ids[3]], MergeRules::default())
        .await
        .unwrap();
    let late = merge.apply(ctx, &plan).await.unwrap();
    assert_eq!(customers.leftovers(ctx, None).await.unwrap(), some(0, 0, 2, 0));
    assert!(holding(&desk, "Secret-Loser").await.contains("crm_merge_image"));
    let gone = customers.purge(ctx, &Retention::older_than(DAY)).await.unwrap();
    assert_eq!(gone, some(0, 0, 1, 0));
    let gone = customers.purge(ctx, &Retention::older_than(DAY)).await.unwrap();
    assert_eq!(gone, some(0, 0, 0, 0));
    assert!(!holding(&desk, "Secret-Loser").await.contains("crm_merge_image"));
    let error = merge.undo(ctx, old.id).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(
        customers.get(ctx, ids[1]).await.unwrap().unwrap().id,
        ids[0],
        "old ids resolve"
    );
    // The other one is as it was, and can be taken back.
    assert!(holding(&desk, "Late-Loser").await.contains("crm_merge_image"));
    assert_eq!(merge.undo(ctx, late.id).await.unwrap().restored, [ids[3]]);
    assert_eq!(customers.leftovers(ctx, None).await.unwrap(), some(0, 0, 0, 0));
}

async fn answers_go(desk: Desk) {
    let (customers, ctx) = (&desk.customers, &desk.ctx);
    let ask = |key: &'static str| {
        customers.once_as(ctx, "host.ask", key, &1, || async {
            Ok((Vec::new(), "Secret-Answer".to_owned()))
        })
    };
    ask("a").await.unwrap();
    desk.clock.advance(KEPT / 2);
    ask("b").await.unwrap();
    assert_eq!(
        holding(&desk, "Secret-Answer").await,
        ["crm_idempotency_key"].into()
    );
    assert_eq!(customers.leftovers(ctx, None).await.unwrap(), some(0, 0, 0, 2));
    let keep = Retention::older_than(KEPT);
    assert_eq!(customers.purge(ctx, &keep).await.unwrap(), some(0, 0, 0, 0));
    assert!(ask("a").await.unwrap().replayed);
    assert_eq!(
        customers
            .purge(ctx, &Retention::older_than(KEPT / 2))
            .await
            .unwrap(),
        some(0, 0, 0, 1)
    );
    assert!(ask("b").await.unwrap().replayed);
    desk.clock.advance(KEPT);
    assert_eq!(customers.purge(ctx, &keep).await.unwrap(), some(0, 0, 0, 1));
    assert_eq!(holding(&desk, "Secret-Answer").await, BTreeSet::new());
}
