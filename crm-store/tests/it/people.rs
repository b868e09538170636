//! Customers in full: organisations, declared attributes, the state of contact points, who said what. The same on every
//! store.

use crm_core::customer::{ContactState, Deliverability, ExternalRef, PersonName};
use crm_core::query::{Filter, Query};
use crm_core::testkit::fixtures;
use crm_core::{Actor, ErrorKind};
use crm_store::customers::{
    ATTRIBUTE, Affiliation, FieldDef, FieldKind, ImportOptions, MergeRules, Mode, Op, Strategy,
};
use serde_json::json;

use crate::customers::{Desk, at, draft, keys};
use crate::stores::on_every_store;

on_every_store!(
    contact_points_keep_their_state,
    each_field_knows_who_said_it,
    organisations_have_no_rings,
    affiliations_have_their_time,
    declared_attributes_are_checked_everywhere,
    indexes_follow_the_profile,
    an_index_answers_as_without_one,
);

async fn contact_points_keep_their_state(desk: Desk) {
    let id = desk
        .customers
        .upsert(&desk.ctx, keys("1", "ana@example.com", ""))
        .await
        .unwrap()
        .id;
    let mut ana = desk.customers.get(&desk.ctx, id).await.unwrap().unwrap();
    let point = &mut ana.contact_points[0];
    point.label = Some("work".into());
    point.state = ContactState::Verified;
    point.verified_at = Some(at(77));
    point.deliverability = Deliverability::Deferred;
    let stored = desk.customers.update(&desk.ctx, &ana).await.unwrap();
    assert_eq!(stored.contact_points, ana.contact_points);
    // A draft that only knows the address takes nothing away.
    desk.customers
        .upsert(&desk.ctx, keys("2", "ana@example.com", ""))
        .await
        .unwrap();
    let known = desk.customers.get(&desk.ctx, id).await.unwrap().unwrap();
    assert_eq!(known.contact_points, ana.contact_points);
    assert_eq!(known.external_refs.len(), 2);
}

async fn each_field_knows_who_said_it(desk: Desk) {
    let told = |source: &str, seen: i64, key: &str| {
        let mut d = draft(source, seen);
        d.external_refs.push(ExternalRef::new("shop", "1"));
        d.attributes.set(key, source).unwrap();
        d
    };
    let mut first = told("shop", 10, "plan");
    first.provenance = first.provenance.confidence(90);
    first.name = Some(PersonName::new("Ana", "Kask"));
    let id = desk.customers.upsert(&desk.ctx, first).await.unwrap().id;
    let ana = desk.customers.get(&desk.ctx, id).await.unwrap().unwrap();
    assert!(ana.known_from.is_empty(), "one source said everything");
    assert_eq!(ana.source_of("name").unwrap().confidence, Some(90));
    desk.customers
        .upsert(&desk.ctx, told("erp", 20, "size"))
        .await
        .unwrap();
    desk.customers
        .upsert(&desk.ctx, told("late", 5, "plan"))
        .await
        .unwrap();
    let mut ana = desk.customers.get(&desk.ctx, id).await.unwrap().unwrap();
    let source =
        |ana: &crm_core::customer::Customer, field: &str| ana.source_of(field).unwrap().source.clone();
    assert_eq!(source(&ana, "name"), "shop");
    assert_eq!(
        source(&ana, "attributes.plan"),
        "shop",
        "an older word changes nothing"
    );
    assert_eq!(source(&ana, "attributes.size"), "erp");
    assert_eq!(ana.source_of("attributes.size").unwrap().observed_at, at(20));
    ana.attributes.set("plan", "gold").unwrap();
    let by_hand = desk.ctx.clone().actor(Actor::user("u7"));
    let ana = desk.customers.update(&by_hand, &ana).await.unwrap();
    assert_eq!(source(&ana, "attributes.plan"), "user:u7");
    assert_eq!(source(&ana, "name"), "shop");
}

async fn organisations_have_no_rings(desk: Desk) {
    let organisations = desk.customers.organisations();
    let save = |one| organisations.save(&desk.ctx, one);
    let mut top = organisations.named("Acme");
    top.domains = vec![" Acme.Example ".into()];
    let top = save(top).await.unwrap();
    let below = |parent: &crm_store::customers::Organisation, name: &str| {
        let mut one = organisations.named(name);
        one.parent = Some(parent.id);
        one
    };
    let lab = save(below(&top, "Lab")).await.unwrap();
    let cell = save(below(&lab, "Cell")).await.unwrap();
    let found = organisations
        .find(&desk.ctx, &Query::new(has("domains", "acme.example")))
        .await
        .unwrap();
    assert_eq!(found.items.len(), 1);
    let mut ring = organisations.get(&desk.ctx, top.id).await.unwrap().unwrap();
    for parent in [top.id, lab.id, cell.id] {
        ring.parent = Some(parent);
        let error = save(ring.clone()).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.context("field")),
            (ErrorKind::Invalid, Some("parent"))
        );
    }
    ring.parent = Some(fixtures::id().into());
    assert_eq!(save(ring.clone()).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(
        save(organisations.named(" ")).await.unwrap_err().context("field"),
        Some("name")
    );
    assert_eq!(
        save(top.clone()).await.unwrap_err().kind(),
        ErrorKind::Conflict,
        "it was read before"
    );
    let error = organisations.delete(&desk.ctx, lab.id).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.context("index")),
        (ErrorKind::Conflict, Some("parent"))
    );
    // Two move each other below themselves at the same moment: one of them loses.
    let (a, b) = (
        save(organisations.named("A")).await.unwrap(),
        save(organisations.named("B")).await.unwrap(),
    );
    let mut tasks = tokio::task::JoinSet::new();
    for (one, other) in [(a.clone(), b.id), (b, a.id)] {
        let (customers, ctx) = (desk.customers.clone(), desk.ctx.clone());
        tasks.spawn(async move {
            let mut one = one;
            one.parent = Some(other);
            customers.organisations().save(&ctx, one).await.is_ok()
        });
    }
    let done: Vec<bool> = tasks.join_all().await;
    assert!(done.iter().filter(|moved| **moved).count() <= 1, "no ring");
    let deep = (0..40).map(|n| format!("L{n}"));
    let mut last = save(organisations.named("L")).await.unwrap();
    let mut refused = None;
    for name in deep {
        match save(below(&last, &name)).await {
            Ok(saved) => last = saved,
            Err(error) => {
                refused = Some(error);
                break;
            }
        }
    }
    assert_eq!(refused.unwrap().context("field"), Some("parent"));
    organisations.delete(&desk.ctx, cell.id).await.unwrap();
    assert!(organisations.get(&desk.ctx, cell.id).await.unwrap().is_none());
}

async fn affiliations_have_their_time(desk: Desk) {
    let organisations = desk.customers.organisations();
    let acme = organisations
        .save(&desk.ctx, organisations.named("Acme"))
        .await
        .unwrap()
        .id;
    let other = organisations
        .save(&desk.ctx, organisations.named("Other"))
        .await
        .unwrap()
        .id;
    let ana = desk
        .customers
        .upsert(&desk.ctx, keys("1", "ana@example.com", ""))
        .await
        .unwrap()
        .id;
    let bea = desk
        .customers
        .upsert(&desk.ctx, keys("2", "bea@example.com", ""))
        .await
        .unwrap()
        .id;
    let with = |who, there, primary, from: Option<i64>, to: Option<i64>| {
        let times = (from.map(at), to.map(at));
        organisations.affiliate(&desk.ctx, who, there, "buyer", primary, times)
    };
    let first = with(ana, acme, true, Some(10), Some(20)).await.unwrap();
    assert_eq!(
        with(ana, acme, true, Some(10), Some(20)).await.unwrap(),
        first,
        "said twice, there once"
    );
    with(ana, other, true, Some(20), None).await.unwrap();
    let open = with(bea, acme, false, None, None).await.unwrap();
    let of_ana = organisations.of(&desk.ctx, ana, None).await.unwrap();
    assert_eq!(of_ana.iter().filter(|one| one.primary).count(), 1);
    assert_eq!(
        organisations.of(&desk.ctx, ana, Some(at(20))).await.unwrap()[0].organisation,
        other
    );
    let error = with(ana, acme, false, Some(30), Some(30)).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.context("field")),
        (ErrorKind::Invalid, Some("valid_to"))
    );
    let was = |from, to| {
        let query = Query::new(Affiliation::during(acme, at(from), at(to)));
        let (customers, ctx) = (desk.customers.clone(), desk.ctx.clone());
        async move {
            let found = customers.find(&ctx, &query).await.unwrap().items;
            found.into_iter().map(|customer| customer.id).collect::<Vec<_>>()
        }
    };
    assert_eq!(was(12, 15).await, [ana, bea]);
    assert_eq!(was(5, 10).await, [bea], "the end does not count");
    assert_eq!(was(20, 30).await, [bea]);
    organisations.end(&desk.ctx, open.id, at(25)).await.unwrap();
    assert_eq!(was(25, 30).await, []);
    let members = organisations
        .members(&desk.ctx, acme, Some(at(15)), 10, None)
        .await
        .unwrap()
        .items;
    assert_eq!(members.len(), 2);
    // A merge takes them along, each once, and back.
    with(bea, other, true, Some(20), None).await.unwrap();
    let plan = desk
        .customers
        .merge()
        .plan(&desk.ctx, ana, &[bea], MergeRules::default())
        .await
        .unwrap();
    let moves = plan.records["crm_affiliation"];
    assert_eq!((moves.moved, moves.dropped), (1, 1));
    let merge = desk.customers.merge().apply(&desk.ctx, &plan).await.unwrap();
    assert_eq!(organisations.of(&desk.ctx, bea, None).await.unwrap().len(), 3);
    desk.customers.merge().undo(&desk.ctx, merge.id).await.unwrap();
    assert_eq!(organisations.of(&desk.ctx, bea, None).await.unwrap().len(), 2);
    organisations.delete(&desk.ctx, other).await.unwrap();
    assert_eq!(organisations.of(&desk.ctx, ana, None).await.unwrap().len(), 1);
}

fn has(field: &str, text: &str) -> Filter {
    Filter::Has {
        field: field.into(),
        text: text.into(),
    }
}

async fn declared_attributes_are_checked_everywhere(desk: Desk) {
    let fields = desk.customers.fields();
    let choices = || vec!["s".to_owned(), "m".to_owned()];
    for def in [
        FieldDef::new("age", FieldKind::Int),
        FieldDef::new("score", FieldKind::Float),
        FieldDef::new("vip", FieldKind::Bool),
        FieldDef::new("since", FieldKind::Timestamp),
        FieldDef::new("size", FieldKind::Choice(choices())),
        FieldDef::new("likes", FieldKind::Choices(choices())),
        FieldDef::new("nick", FieldKind::Text).required(),
    ] {
        fields.declare(&desk.ctx, def).await.unwrap();
    }
    assert_eq!(fields.list(&desk.ctx).await.unwrap().len(), 7);
    for def in [
        FieldDef::new("Upper", FieldKind::Text),
        FieldDef::new("*", FieldKind::Text),
        FieldDef::new("size", FieldKind::Choice(vec![])),
        FieldDef::new("size", FieldKind::Choices(vec!["a".into(), "a".into()])),
    ] {
        assert_eq!(
            fields.declare(&desk.ctx, def).await.unwrap_err().kind(),
            ErrorKind::Invalid
        );
    }
    let told = |n: usize, key: &str, value: serde_json::Value| {
        let mut d = keys(&n.to_string(), "", "");
        d.attributes.set("nick", "x").unwrap();
        d.attributes.set(key, value).unwrap();
        d
    };
    let good = [
        ("age", json!(7)),
        ("score", json!(7)),
        ("score", json!(0.5)),
        ("vip", json!(false)),
        ("since", json!("2026-03-01T09:00:00Z")),
        ("size", json!("m")),
        ("likes", json!(["m", "s"])),
        ("free", json!({ "any": 1 })),
    ];
    let bad = [
        ("age", json!(7.5)),
        ("age", json!("7")),
        ("score", json!("x")),
        ("vip", json!(1)),
        ("since", json!("yesterday")),
        ("size", json!("xl")),
        ("likes", json!(["m", "m"])),
        ("likes", json!("m")),
    ];
    let mut n = 0;
    for (key, value) in good {
        n += 1;
        desk.customers
            .create(&desk.ctx, told(n, key, value))
            .await
            .unwrap();
    }
    let known = desk
        .customers
        .by_external(&desk.ctx, &ExternalRef::new("shop", "1"))
        .await
        .unwrap()
        .unwrap();
    for (key, value) in bad {
        n += 1;
        let field = format!("attributes.{key}");
        let named = |error: crm_core::Error| {
            assert_eq!(
                (error.kind(), error.context("field")),
                (ErrorKind::Invalid, Some(field.as_str())),
                "{value}"
            );
        };
        named(
            desk.customers
                .create(&desk.ctx, told(n, key, value.clone()))
                .await
                .unwrap_err(),
        );
        let mut changed = known.clone();
        changed.attributes.set(key, value.clone()).unwrap();
        named(desk.customers.update(&desk.ctx, &changed).await.unwrap_err());
        named(
            desk.customers
                .batch(&desk.ctx, vec![Op::Update(Box::new(changed))], Mode::AllOrNothing)
                .await
                .unwrap_err(),
        );
        // Who collects is told, and the rest is kept.
        let done = desk
            .customers
            .upsert(&desk.ctx, told(n, key, value.clone()))
            .await
            .unwrap();
        assert_eq!(done.rejects[0].field.as_deref(), Some(field.as_str()));
        let ops = vec![Op::Upsert(told(n, key, value.clone()))];
        desk.customers
            .batch(&desk.ctx, ops, Mode::AllOrNothing)
            .await
            .unwrap();
        let job = format!("job{n}");
        let report = desk
            .customers
            .import(
                &desk.ctx,
                &job,
                vec![told(n, key, value.clone())],
                ImportOptions::default(),
            )
            .await
            .unwrap();
        assert_eq!(report.fields_rejected, 1);
        let stored = desk.customers.get(&desk.ctx, done.id).await.unwrap().unwrap();
        assert!(stored.attributes.get(key).is_none() && stored.attributes.get("nick").is_some());
    }
    let error = desk
        .customers
        .create(&desk.ctx, keys("99", "", ""))
        .await
        .unwrap_err();
    assert_eq!(error.context("field"), Some("attributes.nick"));
    let mut without = known.clone();
    without.attributes.set("nick", serde_json::Value::Null).unwrap();
    let error = desk.customers.update(&desk.ctx, &without).await.unwrap_err();
    assert_eq!(error.context("field"), Some("attributes.nick"));
    fields.strict(&desk.ctx, true).await.unwrap();
    let error = desk
        .customers
        .create(&desk.ctx, told(100, "free", json!(1)))
        .await
        .unwrap_err();
    assert_eq!(error.context("field"), Some("attributes.free"));
    fields.strict(&desk.ctx, false).await.unwrap();
    desk.customers
        .create(&desk.ctx, told(101, "free", json!(1)))
        .await
        .unwrap();
    assert!(fields.forget(&desk.ctx, "nick").await.unwrap());
    assert!(!fields.forget(&desk.ctx, "nick").await.unwrap());
    desk.customers
        .create(&desk.ctx, keys("102", "", ""))
        .await
        .unwrap();
}

async fn indexes_follow_the_profile(desk: Desk) {
    let told = |n: &str, card: &str, points: i64| {
        let mut d = keys(n, &format!("p{n}@example.com"), "");
        d.attributes.set("card", card).unwrap();
        d.attributes.set("points", points).unwrap();
        d
    };
    let entries = || {
        let (store, ctx) = (desk.customers.store_ref().clone(), desk.ctx.clone());
        async move { store.count(&ctx, &ATTRIBUTE, &Filter::All).await.unwrap() }
    };
    let ana = desk
        .customers
        .upsert(&desk.ctx, told("1", "C-1", 3))
        .await
        .unwrap()
        .id;
    let fields = desk.customers.fields();
    let card = FieldDef::new("card", FieldKind::Text).unique();
    let points = FieldDef::new("points", FieldKind::Int)
        .indexed()
        .merging(Strategy::Sum);
    fields.declare(&desk.ctx, card.clone()).await.unwrap();
    fields.declare(&desk.ctx, points).await.unwrap();
    assert_eq!(entries().await, 2, "what was there is indexed");
    let bea = desk
        .customers
        .create(&desk.ctx, told("2", "C-2", 4))
        .await
        .unwrap()
        .id;
    assert_eq!(entries().await, 4);
    let by_card = |card: &'static str| {
        let (customers, ctx) = (desk.customers.clone(), desk.ctx.clone());
        async move {
            let found = customers
                .find(&ctx, &Query::new(Filter::eq("attributes.card", card)))
                .await
                .unwrap();
            found.items.into_iter().map(|one| one.id).collect::<Vec<_>>()
        }
    };
    assert_eq!(by_card("C-2").await, [bea]);
    let error = desk
        .customers
        .create(&desk.ctx, told("3", "C-2", 1))
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.context("index")),
        (ErrorKind::Conflict, Some("crm_attribute_unique"))
    );
    let mut known = desk.customers.get(&desk.ctx, bea).await.unwrap().unwrap();
    known.attributes.set("card", "C-1").unwrap();
    assert_eq!(
        desk.customers.update(&desk.ctx, &known).await.unwrap_err().kind(),
        ErrorKind::Conflict
    );
    known.attributes.set("card", "C-9").unwrap();
    desk.customers.update(&desk.ctx, &known).await.unwrap();
    assert_eq!((by_card("C-2").await, by_card("C-9").await), (vec![], vec![bea]));
    // Through a merge, which adds the points up as declared, and back.
    let plan = desk
        .customers
        .merge()
        .plan(&desk.ctx, ana, &[bea], MergeRules::default())
        .await
        .unwrap();
    let merge = desk.customers.merge().apply(&desk.ctx, &plan).await.unwrap();
    let now = desk.customers.get(&desk.ctx, bea).await.unwrap().unwrap();
    assert_eq!((now.id, now.attributes.get("points").unwrap()), (ana, &json!(7)));
    assert_eq!(entries().await, 2);
    desk.customers.merge().undo(&desk.ctx, merge.id).await.unwrap();
    assert_eq!((entries().await, by_card("C-9").await), (4, vec![bea]));
    desk.customers.delete(&desk.ctx, bea).await.unwrap();
    assert_eq!(entries().await, 2);
    assert!(fields.forget(&desk.ctx, "card").await.unwrap());
    assert_eq!(entries().await, 1);
    // Two with the same value: it cannot become unique, and is not declared then.
    desk.customers
        .upsert(&desk.ctx, told("4", "C-1", 1))
        .await
        .unwrap();
    let error = fields.declare(&desk.ctx, card).await.unwrap_err();
    assert_eq!(error.context("index"), Some("crm_attribute_unique"));
    assert!(fields.get(&desk.ctx, "card").await.unwrap().is_none());
}

/// The same questions before and after the index is there.
async fn an_index_answers_as_without_one(desk: Desk) {
    let long = "x".repeat(130);
    let values = [
        json!("a"),
        json!("A"),
        json!("é"),
        json!(format!("{long}1")),
        json!(format!("{long}2")),
        json!(1),
        json!(1.5),
        json!(9_007_199_254_740_993_i64),
        json!(9_007_199_254_740_992_i64),
        json!(true),
        json!(["a"]),
        json!({ "a": 1 }),
    ];
    for (n, value) in values.iter().enumerate() {
        let mut d = keys(&n.to_string(), "", "");
        d.attributes.set("mixed", value.clone()).unwrap();
        desk.customers.upsert(&desk.ctx, d).await.unwrap();
    }
    let field = "attributes.mixed";
    let questions = [
        Filter::eq(field, "a"),
        Filter::eq(field, format!("{long}1")),
        Filter::eq(field, 1_i64),
        Filter::eq(field, 9_007_199_254_740_993_i64),
        Filter::eq(field, true),
        Filter::gt(field, 1_i64),
        Filter::lt(field, 9_007_199_254_740_993_i64),
        Filter::ge(field, 1.5),
        Filter::ne(field, "a"),
        Filter::prefix(field, "x"),
        Filter::prefix(field, format!("{long}2")),
        Filter::gt(field, "a"),
        Filter::one_of(field, ["a", "é"]),
        Filter::eq(field, "a").and(Filter::eq(field, "A")),
        Filter::eq(field, "a").or(Filter::eq(field, 1_i64)),
        Filter::Not(Box::new(Filter::eq(field, "a"))),
        has(field, "a"),
    ];
    let mut plain = Vec::new();
    for question in &questions {
        let page = desk
            .customers
            .find(&desk.ctx, &Query::new(question.clone()))
            .await
            .unwrap();
        plain.push(page.items.into_iter().map(|one| one.id).collect::<Vec<_>>());
    }
    assert!(plain.iter().any(|found| found.len() == 1));
    let mixed = FieldDef::new("mixed", FieldKind::Text).indexed();
    desk.customers.fields().declare(&desk.ctx, mixed).await.unwrap();
    for (question, expected) in questions.iter().zip(&plain) {
        let page = desk
            .customers
            .find(&desk.ctx, &Query::new(question.clone()))
            .await
            .unwrap();
        let found: Vec<_> = page.items.into_iter().map(|one| one.id).collect();
        assert_eq!(&found, expected, "{question:?}");
        let count = desk.customers.count(&desk.ctx, question).await.unwrap();
        assert_eq!(count, expected.len() as u64);
    }
}
