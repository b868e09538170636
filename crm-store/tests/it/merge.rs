//! Merge and undo: nothing is lost, nothing is left, and what was is again. The same on every store.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crm_core::activity::Money;
use crm_core::capability::RecordStore;
use crm_core::consent::{AddressKey, ConsentAction, ConsentState, Evidence, Gate, Purpose, Recipient};
use crm_core::customer::{
    ContactKind, ContactState, Customer, Draft, ExternalRef, InteractionDraft, OrderDraft, PersonName,
    Provenance,
};
use crm_core::query::{Filter, Query};
use crm_core::record::{Field, FieldType, Index, Record, Schema, Write};
use crm_core::segment::SEGMENT_MEMBER;
use crm_core::testkit::fixtures::{self, Dice};
use crm_core::{CustomerId, ErrorKind, ManualClock, Secret, Uuid};
use crm_store::customers::{
    Customers, Events, MERGE, MERGE_IMAGE, MergeId, MergeRules, Reference, References, Rule, SCHEMAS,
    Strategy,
};

use crate::customers::{Desk, at, desk, draft, keys};
use crate::stores::on_every_store;

/// A host's own record: a ticket of a customer, about one of their addresses, perhaps in work.
static TICKET: Schema = Schema {
    name: "crm_people_ticket",
    fields: &[
        Field::new("customer_id", FieldType::Uuid).pseudonym(),
        Field::new("contact_point_id", FieldType::Uuid)
            .nullable()
            .pseudonym(),
        Field::new("state", FieldType::Text),
    ],
    indexes: &[Index::new("crm_people_ticket_customer", &["customer_id"])],
};

/// Another one, of which the merge is not told.
static NOTE: Schema = Schema {
    name: "crm_people_note",
    fields: &[
        Field::new("about", FieldType::Uuid).pseudonym(),
        Field::new("text", FieldType::Text),
    ],
    indexes: &[],
};

fn references() -> References {
    References::core()
        .with(
            Reference::customer(&TICKET, "customer_id", Rule::Move)
                .busy_while(Filter::eq("state", "in work")),
        )
        .unwrap()
        .with(Reference::contact_point(&TICKET, "contact_point_id"))
        .unwrap()
}

fn with_tickets(desk: Desk) -> Desk {
    Desk {
        customers: desk.customers.with_references(references()),
        ..desk
    }
}

/// Everything the tenant has, but for the journal of merges: by schema and id, without versions.
async fn dump(desk: &Desk) -> BTreeMap<(&'static str, Uuid), Record> {
    let mut all = BTreeMap::new();
    desk.customers.store_ref().migrate(&[&TICKET]).await.unwrap();
    for schema in SCHEMAS.into_iter().chain([&TICKET]) {
        if [MERGE.name, MERGE_IMAGE.name].contains(&schema.name) {
            continue;
        }
        let mut query = Query::new(Filter::All).limit(10_000);
        loop {
            let page = desk
                .customers
                .store_ref()
                .find(&desk.ctx, schema, &query)
                .await
                .unwrap();
            all.extend(
                page.items
                    .into_iter()
                    .map(|one| ((schema.name, one.id), one.record)),
            );
            match page.next {
                None => break,
                next => query.after = next,
            }
        }
    }
    all
}

fn order(n: usize) -> OrderDraft {
    OrderDraft {
        event_id: format!("o{n}"),
        at: at(n as i64),
        total: Money::new(100 + n as i64, "EUR").unwrap(),
        items: 1,
    }
}

fn visit(n: usize) -> InteractionDraft {
    InteractionDraft {
        event_id: format!("v{n}"),
        at: at(n as i64),
        kind: "visit".into(),
        data: Default::default(),
    }
}

impl Desk {
    async fn known(&self, draft: Draft) -> CustomerId {
        self.customers.upsert(&self.ctx, draft).await.unwrap().id
    }
    async fn now(&self, id: CustomerId) -> Customer {
        self.customers.get(&self.ctx, id).await.unwrap().unwrap()
    }
    async fn merged(&self, winner: CustomerId, losers: &[CustomerId]) -> MergeId {
        let rules = MergeRules::default();
        let plan = self
            .customers
            .merge()
            .plan(&self.ctx, winner, losers, rules)
            .await
            .unwrap();
        self.customers.merge().apply(&self.ctx, &plan).await.unwrap().id
    }
    async fn refused(&self, winner: CustomerId, losers: &[CustomerId], rules: MergeRules) -> crm_core::Error {
        self.customers
            .merge()
            .plan(&self.ctx, winner, losers, rules)
            .await
            .unwrap_err()
    }
    async fn ticket(&self, owner: CustomerId, point: Option<Uuid>, state: &str) -> Uuid {
        let id = fixtures::id();
        let record = Record::from_values(&TICKET, vec![owner.into(), point.into(), state.into()]).unwrap();
        let store = self.customers.store_ref();
        store.migrate(&[&TICKET]).await.unwrap();
        store
            .apply(&self.ctx, &[Write::insert(id, record)])
            .await
            .unwrap();
        id
    }
}

on_every_store!(
    a_merge_takes_everything_along_and_back,
    fields_survive_by_their_strategy,
    a_changed_customer_refuses_the_plan,
    what_is_not_declared_refuses,
    different_people_are_never_merged,
    clusters_have_a_size_and_chains_resolve,
    later_changes_are_kept_or_named,
    a_failing_apply_leaves_nothing,
    withdrawals_win_and_proof_stays,
    events_told_late_follow,
    two_merges_of_one_customer_at_once,
    removed_for_good,
    random_merges_lose_nothing_and_unwind,
);

async fn a_merge_takes_everything_along_and_back(desk: Desk) {
    let desk = with_tickets(desk);
    let phone = "+61 491 570 156";
    let ana = desk.known(keys("1", "ana@example.com", "")).await;
    let old = desk.known(keys("2", "ana.old@example.com", phone)).await;
    let third = desk.known(keys("3", "a.third@example.com", phone)).await;
    let orders: Events = vec![order(1), order(2)].into();
    desk.customers
        .append(&desk.ctx, old, "shop", orders)
        .await
        .unwrap();
    desk.customers
        .append(&desk.ctx, old, "web", visit(1))
        .await
        .unwrap();
    desk.customers
        .append(&desk.ctx, ana, "web", visit(2))
        .await
        .unwrap();
    let shared = desk.now(third).await.phone().unwrap().id.uuid();
    let kept = desk.now(old).await.phone().unwrap().id.uuid();
    let ticket = desk.ticket(third, Some(shared), "open").await;
    let (one, both) = (fixtures::id(), fixtures::id());
    let member = |segment: Uuid, who: CustomerId| {
        let record = Record::from_values(&SEGMENT_MEMBER, vec![segment.into(), who.into(), at(5).into()]);
        Write::insert(fixtures::id(), record.unwrap())
    };
    let members = [member(one, old), member(both, old), member(both, ana)];
    let store = desk.customers.store_ref().clone();
    store.apply(&desk.ctx, &members).await.unwrap();
    let before = dump(&desk).await;

    let plan = desk
        .customers
        .merge()
        .plan(&desk.ctx, ana, &[old, third], MergeRules::default())
        .await
        .unwrap();
    assert_eq!(dump(&desk).await, before, "a plan changes nothing");
    let counts = |name: &str| {
        let moves = plan.records.get(name).copied().unwrap_or_default();
        (moves.moved, moves.dropped, moves.kept)
    };
    assert_eq!(counts("crm_order"), (2, 0, 0));
    assert_eq!(counts("crm_interaction"), (1, 0, 0));
    assert_eq!(counts("crm_segment_member"), (1, 1, 0));
    assert_eq!(counts("crm_external_ref"), (2, 0, 0));
    assert_eq!(counts("crm_people_ticket"), (1, 0, 0));
    let same: Vec<_> = plan
        .contact_points
        .iter()
        .filter_map(|point| point.same_as)
        .collect();
    assert_eq!(same, [kept.into()], "one address, one contact point");
    assert!(!format!("{plan:?}").contains("example.com"));
    // A plan can be stored and applied by somebody else later.
    let plan = serde_json::from_str(&serde_json::to_string(&plan).unwrap()).unwrap();
    let merge = desk.customers.merge().apply(&desk.ctx, &plan).await.unwrap();

    let now = desk.now(ana).await;
    assert_eq!(now.external_refs.len(), 3);
    assert_eq!(now.contact_points.len(), 4);
    let primaries = now.contact_points.iter().filter(|point| point.primary);
    assert_eq!(primaries.count(), 2, "one a kind");
    for id in [old, third] {
        assert_eq!(desk.now(id).await, now, "old ids resolve");
    }
    let found = desk
        .customers
        .resolve(&desk.ctx, &[ana, old, fixtures::id().into()])
        .await
        .unwrap();
    assert_eq!(found[0].unwrap().moved_from, None);
    assert_eq!(
        (found[1].unwrap().id, found[1].unwrap().moved_from),
        (ana, Some(old))
    );
    assert_eq!(found[2], None);
    let by = desk
        .customers
        .by_external(&desk.ctx, &ExternalRef::new("shop", "2"))
        .await
        .unwrap();
    assert_eq!(by.unwrap().id, ana);
    let by = desk
        .customers
        .by_contact(&desk.ctx, ContactKind::Phone, phone)
        .await
        .unwrap();
    assert_eq!(by.unwrap().id, ana);
    assert_eq!(desk.customers.count(&desk.ctx, &Filter::All).await.unwrap(), 1);
    for id in [ana, old] {
        assert_eq!(
            desk.customers
                .timeline(&desk.ctx, id, 10, None)
                .await
                .unwrap()
                .items
                .len(),
            2
        );
        assert_eq!(
            desk.customers
                .orders(&desk.ctx, id, 10, None)
                .await
                .unwrap()
                .items
                .len(),
            2
        );
    }
    let row = store
        .get(&desk.ctx, &TICKET, &[ticket])
        .await
        .unwrap()
        .remove(0)
        .unwrap()
        .record;
    assert_eq!(
        (
            row.uuid("customer_id").unwrap(),
            row.uuid("contact_point_id").unwrap()
        ),
        (ana.uuid(), kept)
    );
    assert_eq!(
        store
            .count(&desk.ctx, &SEGMENT_MEMBER, &Filter::eq("customer_id", ana))
            .await
            .unwrap(),
        2
    );
    // Old copies can no longer be stored, and say where to go.
    let mut stale = desk.now(ana).await;
    stale.id = old;
    for error in [
        desk.customers.update(&desk.ctx, &stale).await.unwrap_err(),
        desk.customers.delete(&desk.ctx, old).await.unwrap_err(),
    ] {
        let ana = ana.to_string();
        assert_eq!(
            (error.kind(), error.context("index"), error.context("customer_id")),
            (ErrorKind::Conflict, Some("merged"), Some(ana.as_str()))
        );
    }
    let history = desk
        .customers
        .merge()
        .history(&desk.ctx, ana, 10, None)
        .await
        .unwrap()
        .items;
    assert_eq!(history.as_slice(), std::slice::from_ref(&merge));

    let undone = desk.customers.merge().undo(&desk.ctx, merge.id).await.unwrap();
    assert_eq!(undone.restored, [old, third]);
    assert_eq!(undone.moved_back["crm_order"], 2);
    assert!(undone.gone.is_empty());
    assert_eq!(dump(&desk).await, before);
    let left = store.count(&desk.ctx, &MERGE_IMAGE, &Filter::All).await.unwrap();
    assert_eq!(left, 0, "no personal data stays in the journal");
    let error = desk
        .customers
        .merge()
        .undo(&desk.ctx, merge.id)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    let error = desk
        .customers
        .merge()
        .undo(&desk.ctx, fixtures::id().into())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

async fn fields_survive_by_their_strategy(desk: Desk) {
    let told = |id: &str, source: &str, seen: i64, given: &str, plan: &str, visits: i64| {
        let mut d = draft(source, seen);
        d.external_refs.push(ExternalRef::new("shop", id));
        d.name = (!given.is_empty()).then(|| PersonName::new(given, "Kask"));
        d.attributes.set("plan", plan).unwrap();
        d.attributes.set("visits", visits).unwrap();
        d.attributes
            .set("likes", serde_json::json!([source, "tea"]))
            .unwrap();
        d.tags = vec!["known".into(), source.into()];
        d
    };
    let ana = desk.known(told("1", "shop", 10, "", "free", 3)).await;
    desk.known(told("1", "list", 5, "Anne", "", 3)).await;
    let old = desk.known(told("2", "crawler", 30, "Anna", "pro", 5)).await;
    let older = desk.known(told("3", "erp", 20, "Ann", "basic", 7)).await;
    let who = desk.now(ana).await;
    assert_eq!(
        who.source_of("name").unwrap().source,
        "list",
        "each field knows its source"
    );
    assert_eq!(who.source_of("attributes.plan").unwrap().source, "shop");

    let survivor = |rules: MergeRules, field: &'static str| {
        let (customers, ctx) = (desk.customers.clone(), desk.ctx.clone());
        async move {
            let plan = customers
                .merge()
                .plan(&ctx, ana, &[old, older], rules)
                .await
                .unwrap();
            plan.fields.into_iter().find(|one| one.field == field).unwrap()
        }
    };
    let rules = MergeRules::default;
    let plan = "attributes.plan";
    for (strategy, expected) in [
        (Strategy::Winner, "free"),
        (Strategy::NonEmpty, "free"),
        (Strategy::MostRecent, "pro"),
        (Strategy::Oldest, "free"),
    ] {
        let found = survivor(rules().field(plan, strategy), plan).await;
        assert_eq!(found.survivor, expected, "{strategy:?}");
        assert!(found.conflict && found.candidates.len() == 3 && found.from.len() == 1);
    }
    let trusting = rules()
        .field("attributes", Strategy::MostTrusted)
        .trusting(["erp", "shop"]);
    assert_eq!(survivor(trusting.clone(), plan).await.survivor, "basic");
    let name = survivor(rules().field("name", Strategy::Oldest), "name").await;
    assert_eq!(
        name.survivor["given"], "Anne",
        "by the field's own source, not the customer's"
    );
    assert_eq!(survivor(rules(), "name").await.survivor["given"], "Anna");
    let visits = "attributes.visits";
    for (strategy, expected) in [(Strategy::Sum, 15), (Strategy::Max, 7), (Strategy::Min, 3)] {
        assert_eq!(
            survivor(rules().field(visits, strategy), visits).await.survivor,
            expected
        );
    }
    let likes = survivor(
        rules().field("attributes.likes", Strategy::Union),
        "attributes.likes",
    )
    .await;
    assert_eq!(
        likes.survivor,
        serde_json::json!(["shop", "tea", "crawler", "erp"])
    );
    assert_eq!(
        survivor(rules(), "tags").await.survivor,
        serde_json::json!(["known", "shop", "list", "crawler", "erp"])
    );
    for (rules, field) in [
        (rules().field(plan, Strategy::Sum), plan),
        (rules().field(plan, Strategy::Union), plan),
        (rules().field("name", Strategy::Union), "name"),
        (rules().field("height", Strategy::Max), "height"),
    ] {
        let error = desk.refused(ana, &[old], rules).await;
        assert_eq!(
            (error.kind(), error.context("field")),
            (ErrorKind::Invalid, Some(field))
        );
    }
    let planned = desk
        .customers
        .merge()
        .plan(&desk.ctx, ana, &[old, older], trusting)
        .await
        .unwrap();
    desk.customers.merge().apply(&desk.ctx, &planned).await.unwrap();
    let now = desk.now(ana).await;
    assert_eq!(now.attributes.get("plan").unwrap(), "basic");
    assert_eq!(now.source_of("attributes.plan").unwrap().source, "erp");
    assert_eq!(now.provenance.len(), 4);
}

async fn a_changed_customer_refuses_the_plan(desk: Desk) {
    let ana = desk.known(keys("1", "ana@example.com", "")).await;
    let old = desk.known(keys("2", "old@example.com", "")).await;
    for changed in [ana, old] {
        let merge = desk.customers.merge();
        let plan = merge
            .plan(&desk.ctx, ana, &[old], MergeRules::default())
            .await
            .unwrap();
        let mut other = desk.now(changed).await;
        other.tags.push(format!("t{}", other.version));
        desk.customers.update(&desk.ctx, &other).await.unwrap();
        let before = dump(&desk).await;
        let error = merge.apply(&desk.ctx, &plan).await.unwrap_err();
        let changed = changed.to_string();
        assert_eq!(
            (error.kind(), error.context("customer_id")),
            (ErrorKind::Conflict, Some(changed.as_str()))
        );
        assert_eq!(dump(&desk).await, before);
    }
    // A plan that was tampered with, and one of somebody else.
    let merge = desk.customers.merge();
    let plan = merge
        .plan(&desk.ctx, ana, &[old], MergeRules::default())
        .await
        .unwrap();
    let mut other = plan.clone();
    other.fields[0].survivor = serde_json::json!(["made up"]);
    let error = merge.apply(&desk.ctx, &other).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.context("index")),
        (ErrorKind::Conflict, Some("plan"))
    );
    assert_eq!(
        merge.apply(&fixtures::context(), &plan).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
    merge.apply(&desk.ctx, &plan).await.unwrap();
    let error = merge.apply(&desk.ctx, &plan).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "once only: {error}");
}

async fn what_is_not_declared_refuses(desk: Desk) {
    let desk = with_tickets(desk);
    let ana = desk.known(keys("1", "ana@example.com", "")).await;
    let old = desk.known(keys("2", "old@example.com", "")).await;
    let store = desk.customers.store_ref().clone();
    store.migrate(&[&NOTE]).await.unwrap();
    let note = |about: CustomerId| Record::from_values(&NOTE, vec![about.into(), "x".into()]).unwrap();
    let id = fixtures::id();
    store
        .apply(
            &desk.ctx,
            &[
                Write::insert(fixtures::id(), note(ana)),
                Write::insert(id, note(old)),
            ],
        )
        .await
        .unwrap();
    let error = desk.refused(ana, &[old], MergeRules::default()).await;
    assert_eq!(
        (error.kind(), error.context("schema"), error.context("field")),
        (ErrorKind::Config, Some(NOTE.name), Some("about"))
    );
    // Between plan and apply too.
    store
        .apply(&desk.ctx, &[Write::delete(&NOTE, id, None)])
        .await
        .unwrap();
    let merge = desk.customers.merge();
    let plan = merge
        .plan(&desk.ctx, ana, &[old], MergeRules::default())
        .await
        .unwrap();
    store
        .apply(&desk.ctx, &[Write::insert(id, note(old))])
        .await
        .unwrap();
    assert_eq!(
        merge.apply(&desk.ctx, &plan).await.unwrap_err().kind(),
        ErrorKind::Config
    );
    store
        .apply(&desk.ctx, &[Write::delete(&NOTE, id, None)])
        .await
        .unwrap();
    // Somebody is at work.
    let ticket = desk.ticket(old, None, "in work").await;
    let error = merge.apply(&desk.ctx, &plan).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.context("index")),
        (ErrorKind::Conflict, Some("busy"))
    );
    assert!(error.is_retryable());
    store
        .apply(&desk.ctx, &[Write::delete(&TICKET, ticket, None)])
        .await
        .unwrap();
    merge.apply(&desk.ctx, &plan).await.unwrap();
}

async fn different_people_are_never_merged(desk: Desk) {
    let mut who = Vec::new();
    for n in 0..4 {
        who.push(
            desk.known(keys(&n.to_string(), &format!("p{n}@example.com"), ""))
                .await,
        );
    }
    let merge = desk.customers.merge();
    merge.distinct(&desk.ctx, who[0], who[2]).await.unwrap();
    merge.distinct(&desk.ctx, who[2], who[0]).await.unwrap();
    let refused = |error: crm_core::Error| {
        assert_eq!(
            (error.kind(), error.context("index")),
            (ErrorKind::Conflict, Some("distinct"))
        );
    };
    refused(desk.refused(who[0], &[who[2]], MergeRules::default()).await);
    refused(
        desk.refused(who[1], &[who[0], who[2]], MergeRules::default())
            .await,
    );
    // What holds for one holds for who it is part of.
    let plan = merge
        .plan(&desk.ctx, who[1], &[who[3]], MergeRules::default())
        .await
        .unwrap();
    desk.merged(who[1], &[who[0]]).await;
    refused(desk.refused(who[1], &[who[2]], MergeRules::default()).await);
    refused(desk.refused(who[2], &[who[1]], MergeRules::default()).await);
    assert_eq!(
        merge.apply(&desk.ctx, &plan).await.unwrap_err().kind(),
        ErrorKind::Conflict,
        "it changed"
    );
    let plan = merge
        .plan(&desk.ctx, who[1], &[who[3]], MergeRules::default())
        .await
        .unwrap();
    merge.distinct(&desk.ctx, who[0], who[3]).await.unwrap();
    refused(merge.apply(&desk.ctx, &plan).await.unwrap_err());
    let same = merge.distinct(&desk.ctx, who[1], who[0]).await.unwrap_err();
    assert_eq!(same.kind(), ErrorKind::Invalid);
    let nobody = merge
        .distinct(&desk.ctx, who[1], fixtures::id().into())
        .await
        .unwrap_err();
    assert_eq!(nobody.kind(), ErrorKind::NotFound);
    assert!(merge.allow(&desk.ctx, who[2], who[0]).await.unwrap());
    assert!(!merge.allow(&desk.ctx, who[2], who[0]).await.unwrap());
    desk.merged(who[1], &[who[2]]).await;
}

async fn clusters_have_a_size_and_chains_resolve(desk: Desk) {
    let mut who = Vec::new();
    for n in 0..6 {
        who.push(
            desk.known(keys(&n.to_string(), &format!("p{n}@example.com"), ""))
                .await,
        );
    }
    for (field, losers) in [
        ("losers", vec![]),
        ("losers", vec![who[0]]),
        ("losers", vec![who[1], who[1]]),
    ] {
        let error = desk.refused(who[0], &losers, MergeRules::default()).await;
        assert_eq!(
            (error.kind(), error.context("field")),
            (ErrorKind::Invalid, Some(field))
        );
    }
    let nobody = desk
        .refused(who[0], &[fixtures::id().into()], MergeRules::default())
        .await;
    assert_eq!(nobody.kind(), ErrorKind::NotFound);
    // 0 into 1, 1 into 2, ... : each old id resolves in one step.
    let mut merges = Vec::new();
    for pair in who.windows(2) {
        merges.push(desk.merged(pair[1], &[pair[0]]).await);
    }
    for id in &who {
        assert_eq!(desk.now(*id).await.id, who[5]);
    }
    let error = desk.refused(who[5], &[who[0]], MergeRules::default()).await;
    assert_eq!(error.kind(), ErrorKind::Invalid, "no cycles: {error}");
    let seventh = desk.known(keys("7", "p7@example.com", "")).await;
    let small = MergeRules {
        max_cluster: 6,
        ..MergeRules::default()
    };
    let error = desk.refused(seventh, &[who[2]], small).await;
    assert_eq!(
        (error.kind(), error.context("field")),
        (ErrorKind::Invalid, Some("max_cluster"))
    );
    let planned = desk
        .customers
        .merge()
        .plan(&desk.ctx, who[0], &[seventh], MergeRules::default())
        .await
        .unwrap();
    assert_eq!(planned.winner, who[5], "an old id stands for who it is now");
    // Only the last one can be taken back.
    let error = desk
        .customers
        .merge()
        .undo(&desk.ctx, merges[1])
        .await
        .unwrap_err();
    let next = merges[2].to_string();
    assert_eq!(
        (error.kind(), error.context("merge_id")),
        (ErrorKind::Conflict, Some(next.as_str()))
    );
    for (n, merge) in merges.into_iter().enumerate().rev() {
        desk.customers.merge().undo(&desk.ctx, merge).await.unwrap();
        assert_eq!(desk.now(who[n]).await.id, who[n]);
        if n > 0 {
            assert_eq!(desk.now(who[0]).await.id, who[n]);
        }
    }
}

async fn later_changes_are_kept_or_named(desk: Desk) {
    let ana = desk.known(keys("1", "ana@example.com", "")).await;
    let mut told = keys("2", "old@example.com", "");
    told.name = Some(PersonName::new("Anna", "Kask"));
    told.attributes.set("plan", "pro").unwrap();
    told.tags.push("vip".into());
    let old = desk.known(told).await;
    desk.customers
        .append(&desk.ctx, old, "shop", vec![order(1), order(2)])
        .await
        .unwrap();
    let before = desk.now(old).await;
    let merge = desk.merged(ana, &[old]).await;
    let mut now = desk.now(ana).await;
    now.tags.push("later".into());
    now.attributes.set("size", "m").unwrap();
    now.name = PersonName::new("Somebody", "Else");
    let now = desk.customers.update(&desk.ctx, &now).await.unwrap();
    desk.customers
        .append(&desk.ctx, ana, "shop", order(3))
        .await
        .unwrap();
    let all = dump(&desk).await;
    let error = desk.customers.merge().undo(&desk.ctx, merge).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.context("index")),
        (ErrorKind::Conflict, Some("fields"))
    );
    let fields = error.context("fields").unwrap();
    assert!(
        fields.contains("crm_customer.given_name") && !fields.contains("tags"),
        "{fields}"
    );
    assert_eq!(dump(&desk).await, all);
    // The name is put back as the merge had left it; the rest is kept.
    let mut now = now;
    now.name = PersonName::new("Anna", "Kask");
    now.known_from.remove("name");
    desk.customers.update(&desk.ctx, &now).await.unwrap();
    desk.customers.merge().undo(&desk.ctx, merge).await.unwrap();
    let (winner, loser) = (desk.now(ana).await, desk.now(old).await);
    assert_eq!(winner.tags, ["later"]);
    assert_eq!(winner.attributes.get("size").unwrap(), "m");
    assert!(winner.attributes.get("plan").is_none() && winner.name.is_empty());
    assert_eq!(
        Customer {
            version: before.version,
            ..loser
        },
        before
    );
    let orders = |who| desk.customers.orders(&desk.ctx, who, 10, None);
    assert_eq!(orders(old).await.unwrap().items.len(), 2);
    assert_eq!(
        orders(ana).await.unwrap().items.len(),
        1,
        "what came after the merge stays"
    );
}

async fn a_failing_apply_leaves_nothing(desk: Desk) {
    let ana = desk.known(keys("1", "ana@example.com", "")).await;
    let old = desk.known(keys("2", "old@example.com", "+61 491 570 156")).await;
    desk.customers
        .append(&desk.ctx, old, "web", visit(1))
        .await
        .unwrap();
    let store = desk.customers.store_ref().clone();
    // Somebody holds the id the journal would get: the last write of the unit of work fails.
    let clock = Arc::new(ManualClock::at("2026-03-01T09:00:00Z".parse().unwrap()));
    let ids = Arc::new(Fixed(fixtures::id()));
    let taken = Write::insert(ids.0, Record::from_values(&MERGE, merge_row(ana)).unwrap());
    store.apply(&desk.ctx, &[taken]).await.unwrap();
    let before = dump(&desk).await;
    let failing = Customers::new(store.clone(), clock, ids);
    let plan = failing
        .merge()
        .plan(&desk.ctx, ana, &[old], MergeRules::default())
        .await
        .unwrap();
    let error = failing.merge().apply(&desk.ctx, &plan).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_eq!(dump(&desk).await, before);
    assert_eq!(
        store.count(&desk.ctx, &MERGE_IMAGE, &Filter::All).await.unwrap(),
        0
    );
    // Negative control: with ids of its own the same plan goes through.
    desk.customers.merge().apply(&desk.ctx, &plan).await.unwrap();
    assert_ne!(dump(&desk).await, before);
}

fn merge_row(winner: CustomerId) -> Vec<crm_core::record::Value> {
    use crm_core::record::Value;
    use serde_json::json;
    vec![
        winner.into(),
        Value::Json(json!([])),
        "applied".into(),
        Value::Json(json!({ "system": "test" })),
        Value::Json(json!({})),
        at(0).into(),
        Value::Null,
    ]
}

/// Always the same id.
#[derive(Debug)]
struct Fixed(Uuid);
impl crm_core::IdSource for Fixed {
    fn fresh(&self) -> Uuid {
        self.0
    }
}

async fn withdrawals_win_and_proof_stays(desk: Desk) {
    let store = desk.customers.store_ref().clone();
    let key = AddressKey::new(&Secret::new("a long random text kept outside the store")).unwrap();
    let gate = Gate::new(store.clone(), desk.clock.clone(), key);
    store.migrate(&Gate::schemas()).await.unwrap();
    let news = Purpose::marketing("newsletter").unwrap();
    let evidence = || Evidence::new("form", "Yes, news please").unwrap();
    let phone = "+61 491 570 156";
    let ana = desk.known(keys("1", "ana@example.com", phone)).await;
    let old = desk.known(keys("2", "old@example.com", phone)).await;
    let mail = desk.now(old).await.email().unwrap().address.clone();
    let shared = desk.now(ana).await.phone().unwrap().address.clone();
    gate.grant(&desk.ctx, old, &mail, &news, evidence(), None)
        .await
        .unwrap();
    gate.withdraw(&desk.ctx, ana, &shared, &news, evidence())
        .await
        .unwrap();
    desk.clock.advance(Duration::from_secs(60));
    gate.grant(&desk.ctx, old, &shared, &news, evidence(), None)
        .await
        .unwrap();
    let state = |who, address| {
        let (gate, ctx, news) = (gate.clone(), desk.ctx.clone(), news.clone());
        async move {
            gate.explain(&ctx, &Recipient::new(who, &address), &news)
                .await
                .unwrap()
                .allowed
        }
    };
    assert!(state(old, mail.clone()).await && state(old, shared.clone()).await);
    desk.clock.advance(Duration::from_secs(60));
    let merge = desk.merged(ana, &[old]).await;
    assert!(
        state(ana, mail.clone()).await,
        "her own proof counts under the new id"
    );
    assert!(!state(ana, shared.clone()).await, "she had taken it back");
    let stored = gate
        .consent(&desk.ctx, &Recipient::new(ana, &shared), &news)
        .await
        .unwrap();
    assert!(matches!(stored, ConsentState::Withdrawn { .. }));
    let of_old = Filter::eq("customer_id", old).and(Filter::eq("action", ConsentAction::Granted.as_str()));
    let proof = store
        .count(&desk.ctx, &crm_core::consent::CONSENT_EVENT, &of_old)
        .await
        .unwrap();
    assert_eq!(proof, 2, "proof keeps its subject");
    desk.clock.advance(Duration::from_secs(60));
    gate.grant(&desk.ctx, ana, &shared, &news, evidence(), None)
        .await
        .unwrap();
    assert!(state(ana, shared.clone()).await, "she agreed again");
    desk.customers.merge().undo(&desk.ctx, merge).await.unwrap();
    assert!(state(old, mail).await);
}

async fn events_told_late_follow(desk: Desk) {
    let ana = desk.known(keys("1", "ana@example.com", "")).await;
    let old = desk.known(keys("2", "old@example.com", "")).await;
    desk.customers
        .append(&desk.ctx, old, "shop", order(5))
        .await
        .unwrap();
    let merge = desk.merged(ana, &[old]).await;
    // By the old id, late, out of order, and twice.
    let done = desk
        .customers
        .append(&desk.ctx, old, "shop", vec![order(3), order(5)])
        .await
        .unwrap();
    assert_eq!((done.orders, done.known), (1, 1));
    // By a draft that knows the old reference.
    let mut told = keys("2", "", "");
    told.orders.push(order(4));
    desk.known(told).await;
    // Written behind the back of the merge.
    let store = desk.customers.store_ref().clone();
    let mut stray = store
        .find(
            &desk.ctx,
            &crm_core::activity::ORDER,
            &Query::new(Filter::eq("event_id", "o4")),
        )
        .await
        .unwrap();
    let mut record = stray.items.remove(0).record;
    record.set("customer_id", old).unwrap();
    record.set("event_id", "stray").unwrap();
    let stray = fixtures::id();
    store
        .apply(&desk.ctx, &[Write::insert(stray, record)])
        .await
        .unwrap();
    assert_eq!(desk.customers.merge().settle(&desk.ctx, old).await.unwrap(), 1);
    assert_eq!(desk.customers.merge().settle(&desk.ctx, old).await.unwrap(), 0);
    let page = desk
        .customers
        .orders(&desk.ctx, ana, 10, None)
        .await
        .unwrap()
        .items;
    let ids: Vec<&str> = page.iter().map(|order| order.event_id.as_str()).collect();
    assert_eq!(ids[0], "o5", "by the time they happened");
    assert_eq!(
        BTreeSet::from_iter(ids),
        BTreeSet::from(["o3", "o4", "o5", "stray"])
    );
    desk.customers.merge().undo(&desk.ctx, merge).await.unwrap();
    let back = desk
        .customers
        .orders(&desk.ctx, old, 10, None)
        .await
        .unwrap()
        .items;
    let back: BTreeSet<String> = back.into_iter().map(|order| order.event_id).collect();
    assert_eq!(
        back,
        BTreeSet::from(["o5".to_owned(), "stray".to_owned()]),
        "what was told of the old one"
    );
}

/// Merges, updates and appends of the same people at once: each person is somewhere, once, and no event is lost.
async fn two_merges_of_one_customer_at_once(desk: Desk) {
    let mut who = Vec::new();
    for n in 0..5 {
        who.push(
            desk.known(keys(&n.to_string(), &format!("p{n}@example.com"), ""))
                .await,
        );
    }
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..5_usize {
        let (customers, ctx, who) = (desk.customers.clone(), desk.ctx.clone(), who.clone());
        tasks.spawn(async move {
            for turn in 0..8 {
                let (winner, loser) = (who[n], who[(n + 1 + turn) % 5]);
                if let Ok(plan) = customers
                    .merge()
                    .plan(&ctx, winner, &[loser], MergeRules::default())
                    .await
                {
                    let _ = customers.merge().apply(&ctx, &plan).await;
                }
                let event = order(n * 100 + turn);
                customers.append(&ctx, who[n], "shop", event).await.unwrap();
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let page = desk
        .customers
        .find(&desk.ctx, &Query::new(Filter::All))
        .await
        .unwrap()
        .items;
    let (mut events, mut refs) = (0, 0);
    for customer in &page {
        events += desk
            .customers
            .orders(&desk.ctx, customer.id, 1000, None)
            .await
            .unwrap()
            .items
            .len();
        refs += customer.external_refs.len();
    }
    assert_eq!((events, refs), (40, 5));
    for id in who {
        let now = desk.now(id).await.id;
        assert!(page.iter().any(|one| one.id == now));
    }
}

async fn removed_for_good(desk: Desk) {
    let ana = desk.known(keys("1", "ana@example.com", "+61 491 570 156")).await;
    let old = desk.known(keys("2", "old@example.com", "")).await;
    let older = desk.known(keys("3", "older@example.com", "")).await;
    let other = desk.known(keys("4", "other@example.com", "")).await;
    desk.customers
        .merge()
        .distinct(&desk.ctx, ana, other)
        .await
        .unwrap();
    desk.customers
        .append(&desk.ctx, older, "web", visit(1))
        .await
        .unwrap();
    desk.merged(old, &[older]).await;
    desk.merged(ana, &[old]).await;
    desk.customers.delete(&desk.ctx, ana).await.unwrap();
    desk.customers.delete(&desk.ctx, other).await.unwrap();
    for id in [ana, old, older] {
        assert!(desk.customers.get(&desk.ctx, id).await.unwrap().is_none());
    }
    for schema in SCHEMAS {
        let left = desk
            .customers
            .store_ref()
            .count(&desk.ctx, schema, &Filter::All)
            .await
            .unwrap();
        assert_eq!(left, 0, "{}", schema.name);
    }
}

/// Rounds of random people, merges and undos.
const ROUNDS: u64 = 4;

async fn random_merges_lose_nothing_and_unwind(desk: Desk) {
    for seed in 0..ROUNDS {
        let desk = with_tickets(Desk {
            ctx: fixtures::context(),
            customers: desk.customers.clone(),
            clock: desk.clock.clone(),
        });
        random_round(&desk, seed).await;
    }
}

async fn random_round(desk: &Desk, seed: u64) {
    let mut dice = Dice::new(seed);
    let store = desk.customers.store_ref().clone();
    let mut people: Vec<CustomerId> = Vec::new();
    let mut events: BTreeMap<CustomerId, BTreeSet<String>> = BTreeMap::new();
    let segments = [fixtures::id(), fixtures::id()];
    for n in 0..12_usize {
        let mut d = Draft::new(Provenance::new(
            *dice.pick(&["shop", "list", "crawler"]),
            at(dice.below(1000) as i64),
        ));
        d.external_refs.push(ExternalRef::new("shop", n.to_string()));
        d.emails.push(format!("p{n}@example.com"));
        if dice.one_in(2) {
            d.phones.push(format!("+61 491 570 15{}", dice.below(3) + 6));
        }
        if !dice.one_in(3) {
            d.name = Some(PersonName::new(dice.pick::<&str>(&["Ana", "Bea", "Zoë"]), "Kask"));
        }
        for _ in 0..dice.below(4) {
            d.tags.push(format!("t{}", dice.below(6)));
        }
        for _ in 0..dice.below(4) {
            let name = format!("a{}", dice.below(4));
            let value = match dice.below(3) {
                0 => serde_json::json!(dice.below(100)),
                1 => serde_json::json!({ "deep": [0.1, null, "é\u{1F600}"] }),
                _ => serde_json::json!("text"),
            };
            d.attributes.set(&name, value).unwrap();
        }
        let id = desk.known(d).await;
        let told: Vec<InteractionDraft> = (0..dice.below(8)).map(|k| visit(n * 100 + k)).collect();
        events.insert(id, told.iter().map(|event| event.event_id.clone()).collect());
        let told = Events {
            orders: (0..dice.below(3)).map(|k| order(n * 100 + k)).collect(),
            interactions: told,
        };
        desk.customers.append(&desk.ctx, id, "web", told).await.unwrap();
        let point = desk.now(id).await.phone().map(|point| point.id.uuid());
        desk.ticket(id, point, "open").await;
        for segment in segments {
            if dice.one_in(2) {
                let record =
                    Record::from_values(&SEGMENT_MEMBER, vec![segment.into(), id.into(), at(1).into()]);
                store
                    .apply(&desk.ctx, &[Write::insert(fixtures::id(), record.unwrap())])
                    .await
                    .unwrap();
            }
        }
        if dice.one_in(3) {
            let mut known = desk.now(id).await;
            for point in &mut known.contact_points {
                point.state = *dice.pick(&[ContactState::Verified, ContactState::Invalid]);
                point.label = Some("work".into());
                point.verified_at = Some(at(dice.below(99) as i64));
            }
            desk.customers.update(&desk.ctx, &known).await.unwrap();
        }
        people.push(id);
    }
    let everyone = people.clone();
    let mut now: BTreeMap<CustomerId, CustomerId> = people.iter().map(|id| (*id, *id)).collect();
    let mut steps = Vec::new();
    while people.len() > 2 {
        desk.clock.advance(Duration::from_millis(dice.below(3) as u64));
        let winner = people.remove(dice.below(people.len()));
        let count = 1 + dice.below(people.len().min(3));
        let losers: Vec<CustomerId> = (0..count)
            .map(|_| people.remove(dice.below(people.len())))
            .collect();
        people.push(winner);
        let before = dump(desk).await;
        let values: BTreeSet<String> = everyone_of(desk, winner, &losers).await;
        let merge = desk.merged(winner, &losers).await;
        for at in now.values_mut() {
            if losers.contains(at) {
                *at = winner;
            }
        }
        let after = desk.now(winner).await;
        assert_eq!(values_of(&after), values, "no address and no reference is lost");
        steps.push((merge, before));
    }
    // Everything is reachable from who they are now.
    assert_eq!(
        desk.customers.count(&desk.ctx, &Filter::All).await.unwrap(),
        people.len() as u64
    );
    for id in &everyone {
        let who = desk.now(*id).await;
        assert_eq!(who.id, now[id]);
        let seen = desk
            .customers
            .timeline(&desk.ctx, *id, 1000, None)
            .await
            .unwrap()
            .items;
        let seen: BTreeSet<String> = seen.into_iter().map(|event| event.event_id).collect();
        assert!(events[id].is_subset(&seen));
    }
    let tickets = Filter::one_of("customer_id", people.iter().copied());
    assert_eq!(
        store.count(&desk.ctx, &TICKET, &tickets).await.unwrap(),
        everyone.len() as u64
    );
    for (merge, before) in steps.into_iter().rev() {
        desk.customers.merge().undo(&desk.ctx, merge).await.unwrap();
        let back = dump(desk).await;
        for (key, record) in &before {
            assert_eq!(
                back.get(key).map(Record::values),
                Some(record.values()),
                "seed {seed}, {key:?}"
            );
        }
        assert_eq!(back.len(), before.len());
    }
}

fn values_of(customer: &Customer) -> BTreeSet<String> {
    let points = customer
        .contact_points
        .iter()
        .map(|point| point.value().to_owned());
    points
        .chain(
            customer
                .external_refs
                .iter()
                .map(|reference| reference.id.clone()),
        )
        .collect()
}

async fn everyone_of(desk: &Desk, winner: CustomerId, losers: &[CustomerId]) -> BTreeSet<String> {
    let mut all = values_of(&desk.now(winner).await);
    for loser in losers {
        all.extend(values_of(&desk.now(*loser).await));
    }
    all
}

/// A timeline of 100,000 events in one unit of work, there and back.
async fn large(store: Arc<dyn RecordStore>) {
    const EVENTS: usize = 100_000;
    let desk = desk(store);
    let ana = desk.known(keys("1", "ana@example.com", "")).await;
    let old = desk.known(keys("2", "old@example.com", "")).await;
    for start in (0..EVENTS).step_by(10_000) {
        let events = Events {
            orders: Vec::new(),
            interactions: (start..start + 10_000).map(visit).collect(),
        };
        desk.customers
            .append(&desk.ctx, old, "web", events)
            .await
            .unwrap();
    }
    let small = MergeRules {
        max_moved: 99_999,
        ..MergeRules::default()
    };
    let error = desk.refused(ana, &[old], small).await;
    assert_eq!(
        (error.kind(), error.context("field")),
        (ErrorKind::Invalid, Some("max_moved"))
    );
    let merge = desk.merged(ana, &[old]).await;
    let count = |who: CustomerId| {
        let (store, ctx) = (desk.customers.store_ref().clone(), desk.ctx.clone());
        async move {
            let filter = Filter::eq("customer_id", who);
            store
                .count(&ctx, &crm_core::activity::INTERACTION, &filter)
                .await
                .unwrap()
        }
    };
    assert_eq!((count(ana).await, count(old).await), (EVENTS as u64, 0));
    let undone = desk.customers.merge().undo(&desk.ctx, merge).await.unwrap();
    assert_eq!(undone.moved_back["crm_interaction"], EVENTS as u64);
    assert_eq!((count(ana).await, count(old).await), (0, EVENTS as u64));
}

#[tokio::test]
async fn a_timeline_of_100_000_events_moves_at_once() {
    let (store, _folder) = crate::conformance::on_file().await;
    large(store).await;
}
