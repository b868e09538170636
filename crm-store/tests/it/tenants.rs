//! No method of customers shows, changes, counts or betrays what another tenant has: a row for every one of them.

use std::collections::BTreeSet;
use std::path::Path;

use crm_core::activity::Money;
use crm_core::capability::{EditRun, ProfileEdit, ProfileWriter};
use crm_core::customer::{ContactKind, Draft, ExternalRef, OrderDraft, Provenance};
use crm_core::query::{Filter, Query};
use crm_core::record::Write;
use crm_core::testkit::fixtures;
use crm_core::{Context, CustomerId, Uuid};
use crm_store::customers::{
    ArchiveOptions, ExportOptions, FieldDef, FieldKind, Format, ImportOptions, MergeRules, Mode, Op,
    Retention, SCHEMAS,
};

use crate::customers::{Desk, at, keys};
use crate::stores::on_every_store;

on_every_store!(
    no_method_reaches_another_tenant,
    the_same_ids_in_two_tenants_are_strangers
);

/// Every public async method, with what tells that the other tenant stayed unseen: see [`outcome`].
const MATRIX: [&str; 55] = [
    "Customers::batch",
    "Customers::create",
    "Customers::update",
    "Customers::delete",
    "Customers::export",
    "Customers::export_tables",
    "Customers::leftovers",
    "Customers::purge",
    "Customers::purge_import",
    "Customers::import_archive",
    "Fields::declare",
    "Fields::list",
    "Fields::get",
    "Fields::forget",
    "Fields::strict",
    "Customers::once",
    "Customers::once_as",
    "Customers::sweep_keys",
    "Customers::sink",
    "Customers::job",
    "Customers::import",
    "Customers::rejects",
    "Customers::write_rejects",
    "ImportSink::finish",
    "Merge::plan",
    "Merge::apply",
    "Merge::settle",
    "Merge::get",
    "Merge::history",
    "Merge::distinct",
    "Merge::allow",
    "Customers::resolve",
    "Merge::undo",
    "Customers::prepare",
    "Customers::upsert",
    "Customers::get",
    "Customers::get_many",
    "Customers::by_external",
    "Customers::by_contact",
    "Customers::find",
    "Customers::count",
    "Organisations::save",
    "Organisations::get",
    "Organisations::find",
    "Organisations::delete",
    "Organisations::affiliate",
    "Organisations::end",
    "Organisations::of",
    "Organisations::members",
    "Customers::tag",
    "Customers::append",
    "Customers::timeline",
    "Customers::orders",
    "Customers::undo_import",
    "Customers::edit_profiles",
];

/// Names of the public async methods of a folder of sources, by the type they belong to.
fn methods(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            methods(&path, found);
            continue;
        }
        let mut owner = String::new();
        for line in std::fs::read_to_string(&path).unwrap().lines() {
            if let Some(rest) = line.strip_prefix("impl") {
                let rest = rest.rsplit(" for ").next().unwrap().trim();
                owner = rest
                    .split(|c: char| !c.is_alphanumeric())
                    .find(|word| !word.is_empty())
                    .unwrap()
                    .to_owned();
            }
            if let Some(rest) = line.trim_start().strip_prefix("pub async fn ") {
                let name: String = rest
                    .chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .collect();
                found.insert(format!("{owner}::{name}"));
            }
        }
    }
}

#[test]
fn every_method_has_a_row() {
    let mut found = BTreeSet::new();
    methods(Path::new("src/customers"), &mut found); // tests run in their package's folder
    let rows: BTreeSet<String> = MATRIX.into_iter().map(str::to_owned).collect();
    let missing: Vec<_> = found.difference(&rows).collect();
    let stale: Vec<_> = rows.difference(&found).collect();
    assert!(
        missing.is_empty() && stale.is_empty(),
        "methods without a row in MATRIX: {missing:?}; rows without a method: {stale:?}"
    );
}

/// What somebody may know of a tenant.
#[derive(Debug, Clone)]
struct Known {
    one: CustomerId,
    two: CustomerId,
    merge: Uuid,
    organisation: Uuid,
    affiliation: Uuid,
    text: String,
}

impl Known {
    fn nothing() -> Self {
        Self {
            one: fixtures::id().into(),
            two: fixtures::id().into(),
            merge: fixtures::id(),
            organisation: fixtures::id(),
            affiliation: fixtures::id(),
            text: "nobody".into(),
        }
    }

    /// An answer without what was asked with.
    fn strip(&self, answer: String) -> String {
        let mut answer = answer;
        for id in [
            self.one.uuid(),
            self.two.uuid(),
            self.merge,
            self.organisation,
            self.affiliation,
        ] {
            answer = answer.replace(&id.to_string(), "ID");
        }
        answer.replace(&self.text, "TEXT")
    }
}

fn order() -> OrderDraft {
    OrderDraft {
        event_id: "o1".into(),
        at: at(5),
        total: Money::new(100, "EUR").unwrap(),
        items: 1,
    }
}

fn someone(text: &str) -> Draft {
    let mut draft = keys(text, &format!("{text}@example.com"), "");
    draft.orders.push(order());
    draft.attributes.set("card", text).unwrap();
    draft
}

/// A tenant that has something of everything.
async fn filled(desk: &Desk, ctx: &Context) -> Known {
    let customers = &desk.customers;
    let card = FieldDef::new("card", FieldKind::Text).unique();
    customers.fields().declare(ctx, card).await.unwrap();
    let one = customers.upsert(ctx, someone("secret")).await.unwrap().id;
    let two = customers
        .upsert(ctx, keys("two", "two@example.com", ""))
        .await
        .unwrap()
        .id;
    let old = customers
        .upsert(ctx, keys("old", "old@example.com", ""))
        .await
        .unwrap()
        .id;
    let plan = customers
        .merge()
        .plan(ctx, one, &[old], MergeRules::default())
        .await
        .unwrap();
    let merge = customers.merge().apply(ctx, &plan).await.unwrap().id.uuid();
    customers.merge().distinct(ctx, one, two).await.unwrap();
    let organisations = customers.organisations();
    let organisation = organisations
        .save(ctx, organisations.named("secret"))
        .await
        .unwrap()
        .id;
    let none = (None, None);
    let affiliation = organisations
        .affiliate(ctx, one, organisation, "buyer", true, none)
        .await
        .unwrap()
        .id
        .uuid();
    customers
        .once(ctx, "secret", vec![Op::Create(keys("", "", ""))])
        .await
        .unwrap();
    customers
        .import(
            ctx,
            "secret",
            vec![keys("", "no address", "")],
            ImportOptions::default(),
        )
        .await
        .unwrap();
    Known {
        one,
        two,
        merge,
        organisation: organisation.uuid(),
        affiliation,
        text: "secret".into(),
    }
}

/// Calls one method as somebody who knows these ids; what it answers, without what it was asked with.
async fn outcome(desk: &Desk, ctx: &Context, method: &str, known: &Known) -> String {
    let (c, text) = (&desk.customers, known.text.as_str());
    let (one, two) = (known.one, known.two);
    let organisations = c.organisations();
    let created = |result: crm_core::Result<()>| format!("{result:?}");
    let answer = match method {
        "Customers::batch" => {
            let ops = vec![
                Op::Delete(one),
                Op::Tag {
                    customer: one,
                    add: vec!["x".into()],
                    remove: vec![],
                },
                Op::Append {
                    customer: one,
                    source: "shop".into(),
                    events: order().into(),
                },
            ];
            let all = c.batch(ctx, ops.clone(), Mode::AllOrNothing).await;
            format!("{:?} {all:?}", c.batch(ctx, ops, Mode::PerItem).await)
        }
        "Customers::create" => created(c.create(ctx, someone(text)).await.map(drop)),
        "Customers::update" => {
            let mut mine = c.create(ctx, keys("mine", "", "")).await.unwrap();
            mine.id = one;
            format!("{:?}", c.update(ctx, &mine).await)
        }
        "Customers::delete" => format!("{:?}", c.delete(ctx, one).await),
        "Customers::export" => {
            let mut out = Vec::new();
            c.export(ctx, &Filter::All, Format::Csv, &mut out, ExportOptions::default())
                .await
                .unwrap();
            String::from_utf8(out).unwrap()
        }
        "Customers::export_tables" => {
            let mut tables = Vec::new();
            let mut take = |table| {
                tables.push(table);
                Ok(())
            };
            let done = c.export_tables(ctx, &Filter::All, ExportOptions::default(), &mut take);
            let done = done.await;
            format!("{done:?} {tables:?}")
        }
        "Customers::leftovers" => {
            let all = c.leftovers(ctx, None).await;
            format!("{all:?} {:?}", c.leftovers(ctx, Some(text)).await)
        }
        "Customers::purge" => {
            let keep = Retention::older_than(std::time::Duration::ZERO);
            format!("{:?}", c.purge(ctx, &keep).await)
        }
        "Customers::purge_import" => format!("{:?}", c.purge_import(ctx, text).await),
        "Customers::import_archive" => {
            let mut out = Vec::new();
            c.export(
                ctx,
                &Filter::All,
                Format::Jsonl,
                &mut out,
                ExportOptions::default(),
            )
            .await
            .unwrap();
            let done = c
                .import_archive(ctx, &mut out.as_slice(), ArchiveOptions::default())
                .await;
            created(done.map(drop))
        }
        "Fields::declare" => {
            let other = FieldDef::new("card", FieldKind::Int);
            format!("{:?}", c.fields().declare(ctx, other).await)
        }
        "Fields::list" => format!("{:?}", c.fields().list(ctx).await),
        "Fields::get" => format!("{:?}", c.fields().get(ctx, "card").await),
        "Fields::forget" => format!("{:?}", c.fields().forget(ctx, "card").await),
        "Fields::strict" => format!("{:?}", c.fields().strict(ctx, true).await),
        "Customers::once" => {
            let done = c.once(ctx, text, vec![Op::Create(someone(text))]).await;
            format!("{:?}", done.map(|done| done.replayed))
        }
        "Customers::once_as" => {
            let done = c
                .once_as(ctx, "customers.batch", text, &1, || async { Ok((vec![], 1)) })
                .await;
            format!("{done:?}")
        }
        "Customers::sweep_keys" => format!("{:?}", c.sweep_keys(ctx).await),
        "Customers::sink" | "ImportSink::finish" => {
            let sink = c.sink(ctx, text, ImportOptions::default()).await.unwrap();
            let before = (sink.checkpoint().cloned(), *sink.report());
            format!("{before:?} {:?}", sink.finish().await)
        }
        "Customers::job" => format!("{:?}", c.job(ctx, text).await),
        "Customers::import" => {
            format!(
                "{:?}",
                c.import(ctx, text, vec![someone(text)], ImportOptions::default())
                    .await
            )
        }
        "Customers::rejects" => format!("{:?}", c.rejects(ctx, text, 10, None).await),
        "Customers::write_rejects" => {
            let mut out = Vec::new();
            format!(
                "{:?} {out:?}",
                c.write_rejects(ctx, text, &mut out)
                    .await
                    .map_err(|e| e.kind())
                    .is_ok()
            )
        }
        "Merge::plan" => format!(
            "{:?}",
            c.merge().plan(ctx, one, &[two], MergeRules::default()).await
        ),
        "Merge::apply" => {
            let mine = c.create(ctx, keys("mine", "", "")).await.unwrap().id;
            let other = c.create(ctx, keys("other", "", "")).await.unwrap().id;
            let mut plan = c
                .merge()
                .plan(ctx, mine, &[other], MergeRules::default())
                .await
                .unwrap();
            plan.losers = vec![one];
            format!("{:?}", c.merge().apply(ctx, &plan).await)
        }
        "Merge::settle" => format!("{:?}", c.merge().settle(ctx, one).await),
        "Merge::get" => format!("{:?}", c.merge().get(ctx, known.merge.into()).await),
        "Merge::history" => format!("{:?}", c.merge().history(ctx, one, 10, None).await),
        "Merge::distinct" => format!("{:?}", c.merge().distinct(ctx, one, two).await),
        "Merge::allow" => format!("{:?}", c.merge().allow(ctx, one, two).await),
        "Customers::resolve" => format!("{:?}", c.resolve(ctx, &[one, two]).await),
        "Merge::undo" => format!("{:?}", c.merge().undo(ctx, known.merge.into()).await),
        "Customers::prepare" => format!("{:?}", c.prepare().await),
        "Customers::upsert" => format!("{:?}", c.upsert(ctx, someone(text)).await.map(|done| done.change)),
        "Customers::get" => format!("{:?}", c.get(ctx, one).await),
        "Customers::get_many" => format!("{:?}", c.get_many(ctx, &[one, two]).await),
        "Customers::by_external" => {
            format!("{:?}", c.by_external(ctx, &ExternalRef::new("shop", text)).await)
        }
        "Customers::by_contact" => {
            let address = format!("{text}@example.com");
            format!("{:?}", c.by_contact(ctx, ContactKind::Email, &address).await)
        }
        "Customers::find" => {
            let card = c
                .find(ctx, &Query::new(Filter::eq("attributes.card", text)))
                .await;
            format!("{card:?} {:?}", c.find(ctx, &Query::new(Filter::All)).await)
        }
        "Customers::count" => format!("{:?}", c.count(ctx, &Filter::All).await),
        "Organisations::save" => {
            let mut mine = organisations.named("mine");
            mine.parent = Some(known.organisation.into());
            let below = organisations.save(ctx, mine.clone()).await;
            (mine.id, mine.parent, mine.version) = (known.organisation.into(), None, 1);
            format!("{below:?} {:?}", organisations.save(ctx, mine).await)
        }
        "Organisations::get" => format!("{:?}", organisations.get(ctx, known.organisation.into()).await),
        "Organisations::find" => format!("{:?}", organisations.find(ctx, &Query::new(Filter::All)).await),
        "Organisations::delete" => {
            format!("{:?}", organisations.delete(ctx, known.organisation.into()).await)
        }
        "Organisations::affiliate" => {
            let mine = c.create(ctx, keys("mine", "", "")).await.unwrap().id;
            let (none, there) = ((None, None), known.organisation.into());
            let with_mine = organisations.affiliate(ctx, mine, there, "x", true, none).await;
            format!(
                "{with_mine:?} {:?}",
                organisations.affiliate(ctx, one, there, "x", true, none).await
            )
        }
        "Organisations::end" => format!(
            "{:?}",
            organisations.end(ctx, known.affiliation.into(), at(9)).await
        ),
        "Organisations::of" => format!("{:?}", organisations.of(ctx, one, None).await),
        "Organisations::members" => {
            format!(
                "{:?}",
                organisations
                    .members(ctx, known.organisation.into(), None, 10, None)
                    .await
            )
        }
        "Customers::tag" => format!("{:?}", c.tag(ctx, one, &["x"], &[]).await),
        "Customers::append" => format!("{:?}", c.append(ctx, one, "shop", order()).await),
        "Customers::timeline" => format!("{:?}", c.timeline(ctx, one, 10, None).await),
        "Customers::orders" => format!("{:?}", c.orders(ctx, one, 10, None).await),
        "Customers::undo_import" => format!("{:?}", c.undo_import(ctx, text, &mut |_| {}).await),
        "Customers::edit_profiles" => {
            let run = EditRun::new(text, Provenance::new("cleaning", at(9)));
            let edits: Vec<ProfileEdit> = [one, two]
                .iter()
                .flat_map(|id| (1..4).map(|version| ProfileEdit::new(*id, version)))
                .map(|edit| edit.set("given_name".parse().unwrap(), "Mine"))
                .collect();
            let done = c.edit_profiles(ctx, &run, &edits).await;
            format!("{done:?} {:?}", ProfileWriter::undo(c, ctx, text).await)
        }
        other => panic!("no call for {other}"),
    };
    known.strip(answer)
}

/// Everything a tenant has, versions and all.
async fn everything(desk: &Desk, ctx: &Context) -> Vec<(Uuid, i64, crm_core::record::Record)> {
    let mut all = Vec::new();
    for schema in SCHEMAS {
        let query = Query::new(Filter::All).limit(10_000);
        let page = desk
            .customers
            .store_ref()
            .find(ctx, schema, &query)
            .await
            .unwrap();
        all.extend(
            page.items
                .into_iter()
                .map(|one| (one.id, one.version, one.record)),
        );
    }
    all
}

async fn no_method_reaches_another_tenant(desk: Desk) {
    let known = filled(&desk, &desk.ctx).await;
    let before = everything(&desk, &desk.ctx).await;
    for method in MATRIX {
        // Two tenants who have nothing: one knows the other tenant's ids, one knows nothing.
        let seen = outcome(&desk, &fixtures::context(), method, &known).await;
        let blind = outcome(&desk, &fixtures::context(), method, &Known::nothing()).await;
        assert_eq!(seen, blind, "{method} tells a tenant of another one");
        assert!(!seen.contains("two@") && !seen.contains("old@"), "{method}");
        let after = everything(&desk, &desk.ctx).await;
        assert_eq!(after, before, "{method} changed another tenant's records");
    }
    // Negative control: within the tenant, the same calls do see and change.
    for method in [
        "Customers::get",
        "Merge::get",
        "Organisations::of",
        "Customers::job",
        "Customers::count",
    ] {
        let own = outcome(&desk, &desk.ctx, method, &known).await;
        let blind = outcome(&desk, &fixtures::context(), method, &Known::nothing()).await;
        assert_ne!(own, blind, "{method}");
    }
    outcome(&desk, &desk.ctx, "Customers::tag", &known).await;
    assert_ne!(everything(&desk, &desk.ctx).await, before);
}

async fn the_same_ids_in_two_tenants_are_strangers(desk: Desk) {
    let known = filled(&desk, &desk.ctx).await;
    let before = everything(&desk, &desk.ctx).await;
    for method in MATRIX {
        // A tenant whose every record has the id of one of the other's.
        let twin = fixtures::context();
        let copies: Vec<Write> = before
            .iter()
            .map(|(id, _, record)| Write::insert(*id, record.clone()))
            .collect();
        desk.customers.store_ref().apply(&twin, &copies).await.unwrap();
        let _ = outcome(&desk, &twin, method, &known).await;
        assert_eq!(everything(&desk, &desk.ctx).await, before, "{method}");
    }
}
