use std::sync::Arc;

use serde_json::json;

use super::{Desk, LINK, LINKS, SAMPLE, order, sample};
use crate::capability::RecordStore;
use crate::memory::MemoryStore;
use crate::query::{Compare, FieldRef, Filter, Measure, Order, Query};
use crate::record::{OnConflict, Outcome, Record, Stored, Value, Write};
use crate::testkit::fixtures::{self, Dice};
use crate::{Context, Error, Result, Timestamp, Uuid};

/// [`agrees_with_memory`] with 20 sequences of 40 units of work.
pub async fn random_operations_agree_with_memory(store: Arc<dyn RecordStore>) {
    agrees_with_memory(store, 20_260_101, 20, 40).await;
}

/// Carries out random units of work on the store and on a [`MemoryStore`], and demands the same outcomes, the same
/// kinds of errors, the same contents, and the same ids for random filters, on the store and on scanned columns.
///
/// Same seed, same operations: a failure names the seed, the sequence and the operation.
pub async fn agrees_with_memory(store: Arc<dyn RecordStore>, seed: u64, sequences: usize, operations: usize) {
    let mut dice = Dice::new(seed);
    for sequence in 0..sequences {
        let place = format!("seed {seed}, sequence {sequence}");
        let mut world = World::new(store.clone(), &mut dice).await;
        for operation in 0..operations {
            world
                .step(&mut dice, &format!("{place}, operation {operation}"))
                .await;
            if operation % 10 == 9 {
                world.compare_contents(&place).await;
            }
        }
        world.compare_contents(&place).await;
        for question in 0..8 {
            world
                .ask(&mut dice, &format!("{place}, question {question}"))
                .await;
        }
    }
}

/// The store under test beside the model: two tenants, and few ids and keys so that they meet.
struct World {
    real: Desk,
    model: Desk,
    tenants: [Context; 2],
    ids: Vec<Uuid>,
}

impl World {
    async fn new(store: Arc<dyn RecordStore>, dice: &mut Dice) -> Self {
        Self {
            real: Desk::open(store).await,
            model: Desk::open(Arc::new(MemoryStore::new("model"))).await,
            tenants: [fixtures::context(), fixtures::context()],
            ids: (0..12).map(|_| dice.uuid()).collect(),
        }
    }

    async fn step(&mut self, dice: &mut Dice, place: &str) {
        let tenant = dice.pick(&self.tenants).clone();
        (self.real.ctx, self.model.ctx) = (tenant.clone(), tenant);
        let mut writes = Vec::new();
        for _ in 0..=dice.below(4) {
            writes.push(self.write(dice).await);
        }
        // Alone in its unit, so that what it is based on is what is there.
        if let [Write::Update { id, expected, .. }] = writes.as_slice()
            && let Some(read) = self.model.one(*id).await
            && read.version == *expected
        {
            let based = |write: Write| write.based_on(read.record.clone());
            writes = writes.into_iter().map(based).collect();
        }
        if dice.one_in(2) {
            writes.push(Write::insert(dice.uuid(), link(dice, &self.ids)));
        }
        let real = self.real.store.apply(&self.real.ctx, &writes).await;
        let model = self.model.store.apply(&self.model.ctx, &writes).await;
        same_outcome(&real, &model, place);
    }

    async fn write(&self, dice: &mut Dice) -> Write {
        let id = *dice.pick(&self.ids);
        // Mostly the version it has, so that updates succeed; now and then a stale one.
        let version = self.model.one(id).await.map_or(1, |stored| stored.version);
        let version = if dice.one_in(5) {
            version + 1 - dice.below(3) as i64
        } else {
            version
        };
        match dice.below(10) {
            0..=3 => {
                let on_conflict = if dice.one_in(2) {
                    OnConflict::Skip
                } else {
                    OnConflict::Fail
                };
                Write::Insert {
                    id,
                    record: record(dice),
                    on_conflict,
                }
            }
            4..=6 => Write::update(id, version, record(dice)),
            7..=8 => Write::put(id, record(dice)),
            _ => Write::delete(&SAMPLE, id, (!dice.one_in(3)).then_some(version)),
        }
    }

    async fn compare_contents(&mut self, place: &str) {
        for tenant in self.tenants.clone() {
            (self.real.ctx, self.model.ctx) = (tenant.clone(), tenant);
            let real = self.real.all(&SAMPLE, Query::new(Filter::All).limit(5)).await;
            let model = self.model.all(&SAMPLE, Query::new(Filter::All).limit(1000)).await;
            let list = |all: &[Stored]| all.iter().map(|s| (s.id, s.version)).collect::<Vec<_>>();
            assert_eq!(list(&real), list(&model), "{place}: ids and versions");
            for (real, model) in real.iter().zip(&model) {
                for field in SAMPLE.fields {
                    let (a, b) = (real.record.get(field.name), model.record.get(field.name));
                    assert!(
                        a == b,
                        "{place}: field {} of {}: {a:?}, not {b:?}",
                        field.name,
                        real.id
                    );
                }
            }
        }
    }

    async fn ask(&mut self, dice: &mut Dice, place: &str) {
        let filter = filter(dice, &self.ids, 3);
        let query = Query {
            order: some_order(dice),
            ..Query::new(filter.clone()).limit(1 + dice.below(5) as u32)
        };
        let place = format!("{place}, {query:?}");
        let ids = |all: Vec<Stored>| all.into_iter().map(|stored| stored.id).collect::<Vec<_>>();
        let expected = ids(self.model.all(&SAMPLE, query.clone()).await);
        assert_eq!(
            ids(self.real.all(&SAMPLE, query).await),
            expected,
            "{place}: find"
        );
        assert_eq!(
            self.real.count(&filter).await as usize,
            expected.len(),
            "{place}: count"
        );
        if compares_json(&filter) {
            return; // a column of a JSON path is text and no longer says what it was
        }
        let columns = [
            "id",
            "label",
            "flag",
            "n",
            "x",
            "t",
            "at",
            "u",
            "j.plan",
            "j.address.zip",
            "j.list",
            "code",
        ];
        let table = self.real.columns(&SAMPLE, columns).await;
        if table.rows() == 0 {
            return;
        }
        let links = self
            .real
            .columns(&LINK, ["sample_id", "kind", "n", "x", "at"])
            .await;
        let chosen = filter
            .select_related(&table, &[(LINK.name, &links)])
            .expect("the filter fits the columns");
        let id = table.column("id").unwrap();
        let mut selected: Vec<Uuid> = chosen
            .iter()
            .enumerate()
            .filter(|(_, yes)| **yes)
            .filter_map(|(row, _)| id.uuid_at(row))
            .collect();
        let mut expected = expected;
        selected.sort_unstable();
        expected.sort_unstable();
        assert_eq!(selected, expected, "{place}: columns");
    }
}

fn compares_json(filter: &Filter) -> bool {
    match filter {
        // A column of an array keeps its items.
        Filter::All | Filter::Null { .. } | Filter::Has { .. } | Filter::Related(_) => false,
        Filter::Ago { .. } | Filter::InSegment(_) => unreachable!("no store is asked so"),
        Filter::And(all) | Filter::Or(all) => all.iter().any(compares_json),
        Filter::Not(filter) => compares_json(filter),
        Filter::Is { field, .. }
        | Filter::In { field, .. }
        | Filter::Prefix { field, .. }
        | Filter::Contains { field, .. } => !field.path.is_empty(),
    }
}

fn same_outcome(real: &Result<Vec<Outcome>>, model: &Result<Vec<Outcome>>, place: &str) {
    match (real, model) {
        (Ok(real), Ok(model)) => assert_eq!(real, model, "{place}"),
        (Err(real), Err(model)) => {
            let say = |error: &Error| {
                // With an id and a unique key both taken, a store may name either.
                let index = error
                    .context("index")
                    .map(|index| if index == "version" { "version" } else { "taken" });
                let of = |key: &str| error.context(key).map(str::to_owned);
                (error.kind(), of("schema"), of("write"), index, error.effect())
            };
            assert_eq!(say(real), say(model), "{place}: {real} / {model}");
        }
        (real, model) => panic!("{place}: the store says {real:?}, the model {model:?}"),
    }
}

const INTS: [i64; 8] = [0, 1, -1, 2, 1 << 53, (1 << 53) + 1, i64::MIN, i64::MAX];
const FLOATS: [f64; 8] = [
    0.0,
    0.5,
    -1.5,
    1.0,
    9_007_199_254_740_992.0,
    1e300,
    0.1 + 0.2,
    -1e-9,
];
const TEXTS: [&str; 14] = [
    "", "a", "A", "ab", "a%", "a_", "a\\", "ä", "Ä", "zoë", "日本", "😀", "a ", " a'",
];
const TIMES: [i64; 4] = [0, -1, 1_767_323_045_123_456, 1_767_323_045_123_457];
const CODES: [&str; 5] = ["A", "B", "a", "ä", ""];

fn record(dice: &mut Dice) -> Record {
    let mut record = sample(dice.pick::<&str>(&TEXTS));
    let mut set = |field: &str, value: Value| record.set(field, value).unwrap();
    let id = Uuid::from_u128(dice.below(3) as u128);
    if dice.one_in(2) {
        set("flag", dice.one_in(2).into());
    }
    if !dice.one_in(3) {
        set("n", (*dice.pick(&INTS)).into());
    }
    if !dice.one_in(3) {
        set("x", (*dice.pick(&FLOATS)).into());
    }
    if !dice.one_in(3) {
        set("t", (*dice.pick(&TEXTS)).into());
    }
    if dice.one_in(3) {
        set(
            "b",
            dice.pick(&[vec![], vec![0], vec![0, 255], vec![1]])
                .clone()
                .into(),
        );
    }
    if !dice.one_in(3) {
        set("at", Timestamp::from_micros(*dice.pick(&TIMES)).into());
    }
    if dice.one_in(2) {
        set("u", id.into());
    }
    if !dice.one_in(3) {
        set("j", document(dice).into());
    }
    if dice.one_in(2) {
        set("group_key", (*dice.pick(&["g", "h"])).into());
    }
    if dice.one_in(2) {
        set("group_no", (dice.below(4) as i64).into());
    }
    if dice.one_in(3) {
        set("code", (*dice.pick(&CODES)).into());
    }
    record
}

/// A record that belongs to one of `ids`, now and then to nobody.
fn link(dice: &mut Dice, ids: &[Uuid]) -> Record {
    let mut link = Record::new(&LINK);
    let mut set = |field: &str, value: Value| link.set(field, value).unwrap();
    if !dice.one_in(6) {
        set("sample_id", (*dice.pick(ids)).into());
    }
    set("kind", (*dice.pick(&["order", "visit"])).into());
    if !dice.one_in(4) {
        set("n", (dice.below(9) as i64 - 4).into());
    }
    if !dice.one_in(4) {
        set("x", (dice.below(16) as f64 / 4.0).into()); // quarters add up exactly in any order
    }
    set("at", Timestamp::from_micros(*dice.pick(&TIMES)).into());
    link
}

/// A condition on the records of [`LINK`] that belong to one.
fn related(dice: &mut Dice) -> Filter {
    use Compare::{Eq, Ge, Gt, Le, Lt, Ne};
    let inner = match dice.below(4) {
        0 => Filter::All,
        1 => Filter::eq("kind", "order"),
        2 => Filter::ge("at", Timestamp::EPOCH).and(!Filter::null("n")),
        _ => Filter::ne("kind", "visit").or(Filter::lt("x", 1_i64)),
    };
    let op = *dice.pick(&[Eq, Ne, Lt, Le, Gt, Ge]);
    let (measure, value) = match dice.below(7) {
        0 | 1 => (Measure::Count, Value::Int(dice.below(4) as i64)),
        2 => (Measure::Distinct("kind".into()), Value::Int(dice.below(3) as i64)),
        3 => (
            Measure::Sum("n".into()),
            (dice.below(9) as f64 / 2.0 - 2.0).into(),
        ),
        4 => (Measure::Sum("x".into()), (dice.below(9) as f64 / 2.0).into()),
        5 => (
            Measure::Max("at".into()),
            Timestamp::from_micros(*dice.pick(&TIMES)).into(),
        ),
        _ => (Measure::Min("n".into()), Value::Int(dice.below(5) as i64 - 2)),
    };
    Filter::related(LINKS, inner, measure, op, value)
}

fn document(dice: &mut Dice) -> serde_json::Value {
    let plans = [
        json!("pro"),
        json!("free"),
        json!("Pro"),
        json!(5),
        json!(5.0),
        json!(1.5),
        json!(true),
        json!(null),
    ];
    let plan = dice.pick(&plans);
    match dice.below(4) {
        0 => json!({}),
        1 => json!({ "plan": plan }),
        2 => json!({ "plan": plan, "address": { "zip": dice.pick(&[json!("0150"), json!(150)]) } }),
        _ => json!({ "address": { "city": "Oslo" }, "list": [1, "x", null] }),
    }
}

fn some_order(dice: &mut Dice) -> Vec<Order> {
    let fields = ["n", "x", "t", "label", "at", "u", "flag", "code", "id", "b"];
    let mut chosen: Vec<Order> = Vec::new();
    for _ in 0..dice.below(3) {
        let field = *dice.pick(&fields);
        if !chosen.iter().any(|order| order.field == field) {
            chosen.push(order(field, dice.one_in(2)));
        }
    }
    chosen
}

fn filter(dice: &mut Dice, ids: &[Uuid], depth: usize) -> Filter {
    if depth > 0 && dice.one_in(2) {
        let some = |dice: &mut Dice| {
            (0..=dice.below(3))
                .map(|_| filter(dice, ids, depth - 1))
                .collect::<Vec<_>>()
        };
        return match dice.below(3) {
            0 => Filter::And(some(dice)),
            1 => Filter::Or(some(dice)),
            _ => !filter(dice, ids, depth - 1),
        };
    }
    match dice.below(10) {
        0 => return related(dice),
        1 => {
            return Filter::has(
                *dice.pick(&["j.list", "j.plan"]),
                *dice.pick(&["x", "X", "1", "pro"]),
            );
        }
        _ => {}
    }
    let field = *dice.pick(&[
        "n",
        "x",
        "t",
        "label",
        "flag",
        "at",
        "u",
        "id",
        "code",
        "j.plan",
        "j.address.zip",
    ]);
    let field_ref = FieldRef::from(field);
    let text = matches!(field, "t" | "label" | "code" | "j.plan" | "j.address.zip");
    match dice.below(8) {
        0 => Filter::null(field),
        1 if text => Filter::prefix(field, *dice.pick(&["a", "", "ä", "pr", "a%", "日"])),
        2 if text => Filter::contains(field, *dice.pick(&["a", "%", "_", "\\", "ë", "ro", "'"])),
        3 => Filter::In {
            field: field_ref,
            values: (0..dice.below(4)).map(|_| operand(dice, ids, field)).collect(),
        },
        _ => {
            use Compare::{Eq, Ge, Gt, Le, Lt, Ne};
            Filter::Is {
                field: field_ref,
                op: *dice.pick(&[Eq, Ne, Lt, Le, Gt, Ge]),
                value: operand(dice, ids, field),
            }
        }
    }
}

fn operand(dice: &mut Dice, ids: &[Uuid], field: &str) -> Value {
    match field {
        "n" | "x" if dice.one_in(2) => (*dice.pick(&INTS)).into(),
        "n" | "x" => (*dice.pick(&FLOATS)).into(),
        "flag" => dice.one_in(2).into(),
        "at" => Timestamp::from_micros(*dice.pick(&TIMES)).into(),
        "u" => Uuid::from_u128(dice.below(3) as u128).into(),
        "id" => (*dice.pick(ids)).into(),
        "code" => (*dice.pick(&CODES)).into(),
        "j.plan" => dice
            .pick(&[
                "pro".into(),
                "free".into(),
                Value::Int(5),
                Value::Float(1.5),
                Value::Bool(true),
            ])
            .clone(),
        "j.address.zip" => dice.pick(&["0150".into(), Value::Int(150)]).clone(),
        _ => (*dice.pick(&TEXTS)).into(),
    }
}
