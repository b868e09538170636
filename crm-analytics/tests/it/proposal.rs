//! Cleaning profiles of the store: proposed with before and after, carried out as one run, undone.

use std::sync::Arc;

use crm_analytics::clean::{
    Blanks, Case, CastTo, CleaningPlan, Columns, Expr, Keep, ProfilePlan, ProposalOptions,
};
use crm_core::capability::{EditRun, Edited, ProfileWriter, RecordStore};
use crm_core::customer::{CUSTOMER, CustomerId, Provenance};
use crm_core::memory::{MemoryProfiles, MemoryStore};
use crm_core::query::Filter;
use crm_core::record::{FieldType, Record, Value, Write};
use crm_core::testkit::fixtures;
use crm_core::{Context, ErrorKind, ManualClock, Timestamp};
use serde_json::{Value as Json, json};

/// Of whom, and which field was what and becomes what.
type Told = (CustomerId, Vec<(String, Json, Json)>);

fn now() -> Timestamp {
    Timestamp::from_ymd(2026, 3, 1).unwrap()
}

fn person(given: &str, attributes: Json) -> Record {
    let text = |text: &str| Value::from(text);
    Record::from_values(
        &CUSTOMER,
        vec![
            text(given),
            text("Kask"),
            text(""),
            Value::Null,
            Value::Null,
            Value::Null,
            Value::Json(json!([])),
            Value::Json(json!([])),
            Value::Json(attributes),
            Value::Json(json!([])),
            now().into(),
            now().into(),
            Value::Null,
        ],
    )
    .unwrap()
}

struct Desk {
    store: Arc<MemoryStore>,
    writer: MemoryProfiles,
    ctx: Context,
    ids: Vec<CustomerId>,
}

async fn desk(people: Vec<Record>) -> Desk {
    let store = Arc::new(MemoryStore::new("records"));
    store.migrate(&[&CUSTOMER]).await.unwrap();
    let ctx = fixtures::context();
    let ids: Vec<CustomerId> = people.iter().map(|_| fixtures::id().into()).collect();
    let writes: Vec<Write> = ids
        .iter()
        .zip(people)
        .map(|(id, record)| Write::insert(*id, record))
        .collect();
    store.apply(&ctx, &writes).await.unwrap();
    Desk {
        writer: MemoryProfiles::new(store.clone(), Arc::new(ManualClock::at(now()))),
        store,
        ctx,
        ids,
    }
}

impl Desk {
    async fn record(&self, at: usize) -> Record {
        let found = self
            .store
            .get(&self.ctx, &CUSTOMER, &[self.ids[at].uuid()])
            .await
            .unwrap();
        found.into_iter().flatten().next().unwrap().record
    }
}

#[tokio::test]
async fn a_cleaning_is_proposed_carried_out_and_undone() {
    let desk = desk(vec![
        person(
            "  ANA  maria",
            json!({"plan": "Pro ", "visits": "12", "age": 41, "note": "kept"}),
        ),
        person("Bea", json!({"plan": "pro", "visits": 7, "age": 30.0})),
        person("cyd", json!({"plan": "?", "visits": "many", "age": null})),
        person("dan", json!({"plan": "free", "visits": 3})),
    ])
    .await;
    let plan = ProfilePlan::text(["given_name", "attributes.plan", "attributes.visits"]).unwrap();
    let plan = plan.column("attributes.age", FieldType::Float).unwrap();
    let profiles = plan.read(&desk.ctx, &*desk.store, now(), None).await.unwrap();
    let cleaning = CleaningPlan::new()
        .squeeze(Columns::All)
        .case("given_name", Case::Title)
        .case("attributes.plan", Case::Lower)
        .cast("attributes.visits", CastTo::Int)
        .derive(
            "attributes.often",
            Expr::column("attributes.visits").above(10_i64),
        );
    let fitted = cleaning.fit(profiles.table()).unwrap().fitted;

    let proposal = fitted.propose(&profiles, &ProposalOptions::default()).unwrap();
    let told: Vec<Told> = proposal
        .edits
        .iter()
        .map(|edit| {
            let fields = edit.fields.iter();
            let fields = fields.map(|f| (f.field.to_string(), f.before.clone(), f.after.clone()));
            (edit.customer, fields.collect())
        })
        .collect();
    let name = |before: &str, after: &str| ("given_name".to_owned(), json!(before), json!(after));
    let visits = |before: &str, after: i64| ("attributes.visits".to_owned(), json!(before), json!(after));
    let mut wanted = vec![
        (
            desk.ids[0],
            vec![
                name("  ANA  maria", "Ana Maria"),
                ("attributes.plan".to_owned(), json!("Pro "), json!("pro")),
                visits("12", 12),
            ],
        ),
        (desk.ids[2], vec![name("cyd", "Cyd")]),
        (desk.ids[3], vec![name("dan", "Dan")]),
    ];
    wanted.sort_by_key(|(id, _)| profiles.ids().iter().position(|other| other == id));
    assert_eq!(told, wanted);
    let kept: Vec<usize> = proposal.fields.iter().map(|count| count.kept).collect();
    assert_eq!(kept, [0, 0, 1, 0], "what could not be read stays: `many`");
    assert!(!format!("{proposal:?}").contains("Ana"), "no values in Debug");
    assert_eq!((proposal.customers, proposal.left_out), (4, 0));

    let run = EditRun::new("names", Provenance::new("cleaning", now()));
    let dry = proposal
        .apply(&desk.ctx, &desk.writer, &run.clone().dry())
        .await
        .unwrap();
    assert_eq!(
        desk.record(0).await,
        person(
            "  ANA  maria",
            json!({"plan": "Pro ", "visits": "12", "age": 41, "note": "kept"})
        )
    );
    // Somebody changes one meanwhile.
    let newer = person("Daniel", json!({}));
    desk.store
        .apply(&desk.ctx, &[Write::update(desk.ids[3], 1, newer.clone())])
        .await
        .unwrap();
    let done = proposal.apply(&desk.ctx, &desk.writer, &run).await.unwrap();
    assert_eq!((dry.written, done.written, done.changed_since), (3, 2, 1));
    assert_eq!(done.not_written, [(desk.ids[3], Edited::ChangedSince(2))]);
    let ana = desk.record(0).await;
    assert_eq!(ana.text("given_name").unwrap(), "Ana Maria");
    let attributes: Json = ana.json("attributes").unwrap();
    assert_eq!(
        attributes,
        json!({"plan": "pro", "visits": 12, "age": 41, "note": "kept"})
    );
    let said: std::collections::BTreeMap<String, Provenance> = ana.json("known_from").unwrap();
    assert!(
        said.contains_key("name")
            && said.contains_key("attributes.plan")
            && !said.contains_key("attributes.age")
    );
    assert_eq!(desk.record(3).await, newer);
    // Again: nothing is written twice.
    let again = proposal.apply(&desk.ctx, &desk.writer, &run).await.unwrap();
    assert_eq!((again.written, again.repeated, again.changed_since), (0, 2, 1));
    assert_eq!(desk.writer.undo(&desk.ctx, "names").await.unwrap().restored, 2);
    assert_eq!(
        desk.record(2).await,
        person("cyd", json!({"plan": "?", "visits": "many", "age": null}))
    );
}

#[tokio::test]
async fn new_columns_and_blanks_are_written_when_asked_for() {
    let desk = desk(vec![
        person("Ana", json!({"visits": "12"})),
        person("Bea", json!({"visits": "many"})),
    ])
    .await;
    let plan = ProfilePlan::text(["attributes.visits"]).unwrap();
    let profiles = plan.read(&desk.ctx, &*desk.store, now(), None).await.unwrap();
    let cleaning = CleaningPlan::new().cast("attributes.visits", CastTo::Int).derive(
        "attributes.often",
        Expr::column("attributes.visits").above(10_i64),
    );
    let fitted = cleaning.fit(profiles.table()).unwrap().fitted;
    let fields = |names: &[&str]| Some(names.iter().map(|name| name.parse().unwrap()).collect());
    let options = ProposalOptions {
        fields: fields(&["attributes.visits", "attributes.often"]),
        blanks: Blanks::Write,
    };
    let proposal = fitted.propose(&profiles, &options).unwrap();
    let run = EditRun::new("often", Provenance::new("cleaning", now()));
    assert_eq!(
        proposal
            .apply(&desk.ctx, &desk.writer, &run)
            .await
            .unwrap()
            .written,
        2
    );
    let attributes = |record: Record| record.json::<Json>("attributes").unwrap();
    assert_eq!(
        attributes(desk.record(0).await),
        json!({"visits": 12, "often": true})
    );
    assert_eq!(attributes(desk.record(1).await), json!({}));
    // A column that is not there.
    let options = ProposalOptions {
        fields: fields(&["city"]),
        ..ProposalOptions::default()
    };
    let error = fitted.propose(&profiles, &options).unwrap_err();
    assert_eq!(
        (error.kind(), error.context("column")),
        (ErrorKind::Invalid, Some("city"))
    );
}

#[tokio::test]
async fn rows_left_out_are_nobodys_edit_and_types_are_told() {
    let desk = desk(vec![
        person("ana", json!({"visits": 1})),
        person("ana", json!({"visits": 2})),
        person("bea", json!({"visits": "x"})),
    ])
    .await;
    let names = ProfilePlan::text(["given_name"]).unwrap();
    let profiles = names.read(&desk.ctx, &*desk.store, now(), None).await.unwrap();
    let cleaning = CleaningPlan::new()
        .deduplicate("given_name", Keep::First)
        .case("given_name", Case::Title);
    let proposal = cleaning
        .fit(profiles.table())
        .unwrap()
        .fitted
        .propose(&profiles, &ProposalOptions::default())
        .unwrap();
    assert_eq!(
        (proposal.customers, proposal.left_out, proposal.edits.len()),
        (3, 1, 2)
    );
    for edit in &proposal.edits {
        let [field] = edit.fields.as_slice() else {
            panic!("{edit:?}")
        };
        let at = desk.ids.iter().position(|id| *id == edit.customer).unwrap();
        assert_eq!(
            field.before,
            json!(desk.record(at).await.text("given_name").unwrap()),
            "the edit is of its own row"
        );
    }
    let visits = ProfilePlan::text([])
        .unwrap()
        .column("attributes.visits", FieldType::Int)
        .unwrap();
    let error = visits
        .read(&desk.ctx, &*desk.store, now(), None)
        .await
        .unwrap_err();
    assert_eq!(error.context("field"), Some("attributes.visits"));
    assert_eq!(
        error.context("customer_id"),
        Some(desk.ids[2].to_string().as_str())
    );
    let some = visits.customers(Filter::eq("given_name", "ana"));
    assert_eq!(
        some.read(&desk.ctx, &*desk.store, now(), None)
            .await
            .unwrap()
            .ids()
            .len(),
        2
    );
    assert_eq!(
        ProfilePlan::text(["email"]).unwrap_err().kind(),
        ErrorKind::Invalid
    );
    let error = ProfilePlan::text([])
        .unwrap()
        .column("city", FieldType::Int)
        .unwrap_err();
    assert_eq!(error.context("type"), Some("int"));
}
