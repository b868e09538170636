//! The conformance suite of [`RecordStore`].
//!
//! Each function proves one property on a store that is empty or used by nobody else meanwhile; they keep apart by
//! using tenants of their own. [`store_suite!`](crate::store_suite) makes a test of each.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! use std::sync::Arc;
//! use crm_core::memory::MemoryStore;
//! use crm_core::testkit::store;
//!
//! // 3 sequences of 20 random units of work: the same answers, errors and contents as the model.
//! store::agrees_with_memory(Arc::new(MemoryStore::new("under test")), 42, 3, 20).await;
//! # });
//! ```

mod claims;
mod filters;
mod grouping;
mod migration;
mod model;
mod pages;
mod races;
mod tenants;
mod writes;

use std::sync::Arc;

pub use claims::{claims_are_never_shared, claims_mark_in_order, wrong_claims_are_refused};
pub use filters::{
    arrays_have_items, filters_mean_the_same, json_paths_are_typed, numbers_compare_exactly,
    related_records_are_counted, text_is_taken_literally, wrong_questions_are_refused,
};
pub use grouping::{
    aggregates_match_a_count_by_hand, an_aggregate_over_nothing, buckets_begin_where_they_are_told,
    months_are_calendar_months,
};
pub use migration::{migration_adds_what_is_new, migration_is_repeatable, migration_refuses_a_changed_field};
pub use model::{agrees_with_memory, random_operations_agree_with_memory};
pub use pages::{
    a_scan_stops_at_an_error, pages_follow_the_order, pages_hold_while_records_come, scan_is_find_in_columns,
};
pub use races::{racing_inserts_keep_one_each, racing_updates_lose_nothing};
pub use tenants::{tenants_never_meet, unique_keys_are_per_tenant};
pub use writes::{
    a_large_unit_of_work, a_unit_of_work_is_whole, conflicts_name_the_index, deletes_are_fenced,
    every_type_comes_back, get_answers_in_order, nulls_never_collide, put_adds_or_replaces,
    skip_leaves_one_write_out, stale_updates_are_refused, updates_tell_what_they_are_based_on,
    what_does_not_fit_is_refused,
};

use super::fixtures;
use crate::capability::RecordStore;
use crate::query::{FieldRef, Filter, Order, Query, Relation, Scan};
use crate::record::{Field, FieldType, Index, Outcome, Record, Schema, Stored, Value, Write};
use crate::{Context, Error, Table, Uuid};

/// A record with a field of every type, two unique indexes and a plain one: what the suite stores.
pub static SAMPLE: Schema = Schema {
    name: "kit_sample",
    fields: &[
        Field::new("label", FieldType::Text),
        Field::new("flag", FieldType::Bool).nullable(),
        Field::new("n", FieldType::Int).nullable(),
        Field::new("x", FieldType::Float).nullable(),
        Field::new("t", FieldType::Text).nullable(),
        Field::new("b", FieldType::Bytes).nullable(),
        Field::new("at", FieldType::Timestamp).nullable(),
        Field::new("u", FieldType::Uuid).nullable(),
        Field::new("j", FieldType::Json).nullable(),
        Field::new("group_key", FieldType::Text).nullable(),
        Field::new("group_no", FieldType::Int).nullable(),
        Field::new("code", FieldType::Text).nullable(),
    ],
    indexes: &[
        Index::unique("kit_sample_group", &["group_key", "group_no"]),
        Index::unique("kit_sample_code", &["code"]),
        Index::new("kit_sample_n", &["n"]),
    ],
};

/// A record that belongs to a [`SAMPLE`], or to nobody: what conditions on related records ask about.
pub static LINK: Schema = Schema {
    name: "kit_link",
    fields: &[
        Field::new("sample_id", FieldType::Uuid).nullable(),
        Field::new("kind", FieldType::Text),
        Field::new("n", FieldType::Int).nullable(),
        Field::new("x", FieldType::Float).nullable(),
        Field::new("at", FieldType::Timestamp),
    ],
    indexes: &[Index::new("kit_link_sample", &["sample_id", "at"])],
};

/// The records of [`LINK`] that belong to a [`SAMPLE`].
pub const LINKS: Relation = Relation::new(&LINK, "sample_id");

/// A job in a queue: what the suite claims.
pub static JOB: Schema = Schema {
    name: "kit_job",
    fields: &[
        Field::new("state", FieldType::Text),
        Field::new("run_at", FieldType::Timestamp),
        Field::new("attempt", FieldType::Int),
        Field::new("holder", FieldType::Uuid).nullable(),
        Field::new("seat", FieldType::Text).nullable(),
    ],
    indexes: &[
        Index::new("kit_job_due", &["state", "run_at"]),
        Index::unique("kit_job_seat", &["seat"]),
    ],
};

/// What a suite's expression may answer: the store, alone or with something that must live as long as the test (a
/// temporary directory, a server).
pub trait Under {
    /// The store under test.
    fn store(&self) -> Arc<dyn RecordStore>;
}

impl Under for Arc<dyn RecordStore> {
    fn store(&self) -> Arc<dyn RecordStore> {
        self.clone()
    }
}

impl<G> Under for (Arc<dyn RecordStore>, G) {
    fn store(&self) -> Arc<dyn RecordStore> {
        self.0.clone()
    }
}

/// Makes a module with one `#[tokio::test]` for every property of [`testkit::store`](crate::testkit::store).
///
/// The expression is evaluated anew in each test; awaited, it gives an empty `Arc<dyn RecordStore>`, or such a store
/// and a guard that lives as long as the test. The invoking crate needs `tokio` with `macros` and `rt-multi-thread`.
#[macro_export]
macro_rules! store_suite {
    ($name:ident, $store:expr) => {
        $crate::__store_suite! {
            $name, $store;
            migration_is_repeatable,
            migration_adds_what_is_new,
            migration_refuses_a_changed_field,
            every_type_comes_back,
            what_does_not_fit_is_refused,
            conflicts_name_the_index,
            skip_leaves_one_write_out,
            nulls_never_collide,
            unique_keys_are_per_tenant,
            stale_updates_are_refused,
            updates_tell_what_they_are_based_on,
            a_unit_of_work_is_whole,
            a_large_unit_of_work,
            put_adds_or_replaces,
            deletes_are_fenced,
            get_answers_in_order,
            filters_mean_the_same,
            numbers_compare_exactly,
            text_is_taken_literally,
            json_paths_are_typed,
            arrays_have_items,
            related_records_are_counted,
            wrong_questions_are_refused,
            pages_follow_the_order,
            pages_hold_while_records_come,
            scan_is_find_in_columns,
            a_scan_stops_at_an_error,
            aggregates_match_a_count_by_hand,
            an_aggregate_over_nothing,
            months_are_calendar_months,
            buckets_begin_where_they_are_told,
            tenants_never_meet,
            claims_are_never_shared,
            claims_mark_in_order,
            wrong_claims_are_refused,
            racing_inserts_keep_one_each,
            racing_updates_lose_nothing,
            random_operations_agree_with_memory,
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __store_suite {
    ($name:ident, $store:expr; $($case:ident),* $(,)?) => {
        mod $name {
            #[allow(unused_imports)]
            use super::*;
            $(
                #[::tokio::test(flavor = "multi_thread", worker_threads = 4)]
                async fn $case() {
                    let under = { $store }.await;
                    $crate::testkit::store::$case($crate::testkit::store::Under::store(&under)).await;
                }
            )*
        }
    };
}

/// A store with room for the suite's records, and a tenant of its own.
struct Desk {
    store: Arc<dyn RecordStore>,
    ctx: Context,
}

impl Desk {
    async fn open(store: Arc<dyn RecordStore>) -> Self {
        store
            .migrate(&[&SAMPLE, &JOB, &LINK])
            .await
            .expect("migrate makes room");
        Self {
            store,
            ctx: fixtures::context(),
        }
    }

    async fn apply(&self, writes: &[Write]) -> Vec<Outcome> {
        self.store.apply(&self.ctx, writes).await.expect("apply")
    }

    async fn refused(&self, writes: &[Write], why: &str) -> Error {
        match self.store.apply(&self.ctx, writes).await {
            Ok(outcomes) => panic!("{why}: it was accepted, {outcomes:?}"),
            Err(error) => error,
        }
    }

    async fn add(&self, record: Record) -> Uuid {
        let id = fixtures::id();
        assert_eq!(
            self.apply(&[Write::insert(id, record)]).await,
            [Outcome::Written(1)]
        );
        id
    }

    async fn one(&self, id: Uuid) -> Option<Stored> {
        let mut found = self.store.get(&self.ctx, &SAMPLE, &[id]).await.expect("get");
        assert_eq!(found.len(), 1, "one answer an id");
        found.remove(0)
    }

    async fn ids(&self, filter: &Filter) -> Vec<Uuid> {
        self.all(&SAMPLE, Query::new(filter.clone()).limit(10_000))
            .await
            .iter()
            .map(|stored| stored.id)
            .collect()
    }

    async fn count(&self, filter: &Filter) -> u64 {
        self.store.count(&self.ctx, &SAMPLE, filter).await.expect("count")
    }

    /// Columns of all records.
    async fn columns<C: Into<FieldRef>>(
        &self,
        schema: &'static Schema,
        columns: impl IntoIterator<Item = C>,
    ) -> Table {
        let scan = Scan::new(Filter::All, columns);
        let mut table = Table::new(
            scan.columns
                .iter()
                .map(|c| scan.column(schema, c).unwrap())
                .collect(),
        )
        .unwrap();
        self.store
            .scan(&self.ctx, schema, &scan, &mut |chunk| table.append(chunk))
            .await
            .expect("scan");
        table
    }

    /// All pages of a query.
    async fn all(&self, schema: &'static Schema, query: Query) -> Vec<Stored> {
        let mut all = Vec::new();
        let mut query = query;
        loop {
            let page = self.store.find(&self.ctx, schema, &query).await.expect("find");
            assert!(
                page.items.len() <= query.limit as usize,
                "a page is not longer than asked"
            );
            assert!(
                page.next.is_none() || page.items.len() == query.limit as usize,
                "only the last page is short"
            );
            all.extend(page.items);
            match page.next {
                // Through text and back, as an API would carry it.
                Some(next) => query.after = Some(next.to_string().parse().expect("a cursor is text")),
                None => return all,
            }
        }
    }
}

fn sample(label: &str) -> Record {
    Record::new(&SAMPLE).with("label", label).unwrap()
}

fn order(field: &str, descending: bool) -> Order {
    Order {
        field: field.to_owned(),
        descending,
    }
}

/// `a` before `b` as the contract sorts: keys in order, absent first when ascending, ties by id.
fn sorted(a: &Stored, b: &Stored, order: &[Order]) -> std::cmp::Ordering {
    let value = |stored: &Stored, field: &str| match field {
        "id" => Value::Uuid(stored.id),
        field => stored.record.get(field).unwrap().clone(),
    };
    for order in order {
        let found = crate::query::total_order(&value(a, &order.field), &value(b, &order.field));
        let found = if order.descending { found.reverse() } else { found };
        if found.is_ne() {
            return found;
        }
    }
    a.id.cmp(&b.id)
}
