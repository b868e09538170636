use std::sync::Arc;

use serde_json::json;

use super::{Desk, SAMPLE, order, sample, sorted};
use crate::capability::RecordStore;
use crate::query::{Filter, Query, Scan};
use crate::record::{Stored, Value, Write};
use crate::testkit::fixtures::{self, Dice};
use crate::{Error, ErrorKind, Table, Timestamp, Uuid};

/// 60 records with many equal and absent values.
async fn crowd(desk: &Desk) {
    let mut dice = Dice::new(11);
    let writes: Vec<Write> = (0..60)
        .map(|i| {
            let mut record = sample(dice.pick::<&str>(&["a", "B", "ä", "", "a "]));
            if !dice.one_in(4) {
                record.set("n", dice.below(4) as i64 - 2).unwrap();
            }
            if !dice.one_in(3) {
                record
                    .set("x", *dice.pick(&[0.1 + 0.2, 0.3, -1e-9, 1e300]))
                    .unwrap();
            }
            if !dice.one_in(3) {
                record
                    .set(
                        "at",
                        Timestamp::from_micros(*dice.pick(&[-1, 0, 1_767_323_045_123_456])),
                    )
                    .unwrap();
            }
            if dice.one_in(2) {
                record.set("flag", dice.one_in(2)).unwrap();
            }
            record
                .set("u", Uuid::from_u128(u128::from(i % 7_u32) << 100))
                .unwrap();
            Write::insert(dice.uuid(), record)
        })
        .collect();
    desk.apply(&writes).await;
}

/// Pages of any size and order together are the sorted whole: nothing twice, nothing missing, ties by id.
pub async fn pages_follow_the_order(store: Arc<dyn RecordStore>) {
    let desk = Desk::open(store).await;
    crowd(&desk).await;
    let orders = [
        vec![],
        vec![order("n", false)],
        vec![order("n", true)],
        vec![order("label", false), order("x", true)],
        vec![order("x", false), order("at", true), order("n", false)],
        vec![order("at", false)],
        vec![order("flag", true), order("label", true)],
        vec![order("u", true)],
        vec![order("id", true)],
        vec![order("n", false), order("id", true)],
    ];
    for filter in [Filter::All, Filter::null("n"), Filter::ge("n", 0_i64)] {
        for order in &orders {
            let mut whole = desk.all(&SAMPLE, Query::new(filter.clone()).limit(10_000)).await;
            whole.sort_by(|a, b| sorted(a, b, order));
            for limit in [1, 7, 20, 60] {
                let query = Query {
                    order: order.clone(),
                    ..Query::new(filter.clone()).limit(limit)
                };
                let pages = desk.all(&SAMPLE, query).await;
                let ids = |all: &[Stored]| all.iter().map(|s| s.id).collect::<Vec<Uuid>>();
                assert_eq!(
                    ids(&pages),
                    ids(&whole),
                    "pages of {limit} in order {order:?} of {filter:?}"
                );
                assert!(pages == whole, "the records of pages are those that are stored");
            }
        }
    }
    let total = desk.count(&Filter::All).await as u32;
    let page = desk
        .store
        .find(&desk.ctx, &SAMPLE, &Query::new(Filter::All).limit(total))
        .await
        .expect("find");
    assert_eq!(
        (page.items.len(), page.next.is_none()),
        (60, true),
        "a page that holds the rest is the last"
    );
}

/// What was there from beginning to end is on exactly one page, whatever comes and goes meanwhile.
pub async fn pages_hold_while_records_come(store: Arc<dyn RecordStore>) {
    let desk = Desk::open(store).await;
    crowd(&desk).await;
    let lasting: Vec<Uuid> = desk.ids(&Filter::All).await;
    let mut dice = Dice::new(12);
    let mut seen = Vec::new();
    let mut comers = Vec::new();
    let mut query = Query::new(Filter::All).ascending("n").limit(4);
    loop {
        let page = desk.store.find(&desk.ctx, &SAMPLE, &query).await.expect("find");
        seen.extend(page.items.iter().map(|stored| stored.id));
        for _ in 0..3 {
            let id = dice.uuid();
            comers.push(id);
            let record = sample("comer").with(
                "n",
                if dice.one_in(3) {
                    Value::Null
                } else {
                    (dice.below(4) as i64 - 2).into()
                },
            );
            desk.apply(&[Write::insert(id, record.unwrap())]).await;
        }
        if dice.one_in(2) {
            let leaver = comers.swap_remove(dice.below(comers.len()));
            desk.apply(&[Write::delete(&SAMPLE, leaver, None)]).await;
        }
        match page.next {
            // Comers are only put behind the reader now and then, so this ends.
            Some(next) if seen.len() < 1000 => query = query.after(Some(next)),
            _ => break,
        }
    }
    let mut once = seen.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), seen.len(), "no record is on two pages");
    let missing = lasting.iter().filter(|id| !seen.contains(id)).count();
    assert_eq!(missing, 0, "no record that stayed is missed");
}

/// A scan's chunks together are the records that `find` finds, by id, in typed columns; JSON paths are text.
pub async fn scan_is_find_in_columns(store: Arc<dyn RecordStore>) {
    let desk = Desk::open(store).await;
    crowd(&desk).await;
    for (document, _) in plans() {
        desk.add(sample("json").with("j", document).unwrap()).await;
    }
    for (filter, chunk_rows) in [
        (Filter::All, 1),
        (Filter::All, 7),
        (Filter::ge("n", 0_i64), 5),
        (Filter::All, 8192),
    ] {
        let mut scan = Scan::new(
            filter.clone(),
            ["label", "id", "n", "x", "at", "flag", "u", "j.plan"],
        );
        scan.chunk_rows = chunk_rows;
        let mut whole = Table::default();
        let mut take = |chunk: Table| {
            assert!(
                (1..=chunk_rows).contains(&chunk.rows()),
                "a chunk is neither empty nor too long"
            );
            whole.append(chunk)
        };
        desk.store
            .scan(&desk.ctx, &SAMPLE, &scan, &mut take)
            .await
            .expect("scan");
        let names: Vec<&str> = whole.columns().iter().map(crate::Column::name).collect();
        assert_eq!(names, ["label", "id", "n", "x", "at", "flag", "u", "j.plan"]);
        let found = desk.all(&SAMPLE, Query::new(filter).limit(1000)).await;
        assert_eq!(whole.rows(), found.len());
        for (row, stored) in found.iter().enumerate() {
            for field in ["label", "n", "x", "at", "flag", "u"] {
                let cell = whole.column(field).unwrap().value(row);
                assert!(
                    &cell == stored.record.get(field).unwrap(),
                    "row {row} of column {field}"
                );
            }
            assert_eq!(
                whole.column("id").unwrap().uuid_at(row),
                Some(stored.id),
                "rows come by id"
            );
            let document = stored.record.get("j").unwrap();
            let plan = plans()
                .into_iter()
                .find(|(json, _)| Some(json) == document.as_json())
                .and_then(|(_, plan)| plan);
            assert_eq!(
                whole.column("j.plan").unwrap().text_at(row),
                plan,
                "a JSON path is read as text"
            );
        }
    }
    let nothing = Scan::new(Filter::eq("label", "nobody"), ["label"]);
    desk.store
        .scan(&desk.ctx, &SAMPLE, &nothing, &mut |_| {
            panic!("no chunk of no rows")
        })
        .await
        .expect("scan");
}

/// Documents, and what a scan of `j.plan` reads from each.
fn plans() -> Vec<(serde_json::Value, Option<&'static str>)> {
    vec![
        (json!({"plan": "pro"}), Some("pro")),
        (json!({"plan": ""}), Some("")),
        (json!({"plan": "\"q\" ä"}), Some("\"q\" ä")),
        (json!({"plan": 5}), Some("5")),
        (json!({"plan": 2.5}), Some("2.5")),
        (json!({"plan": true}), Some("true")),
        (json!({"plan": null}), None),
        (json!({"other": 1}), None),
        (json!({"plan": {"a": [1, "x"]}}), Some("{\"a\":[1,\"x\"]}")),
    ]
}

/// An error of the taker stops the scan and comes out as it is; the store can be used from within.
pub async fn a_scan_stops_at_an_error(store: Arc<dyn RecordStore>) {
    let desk = Desk::open(store).await;
    crowd(&desk).await;
    let mut scan = Scan::new(Filter::All, ["label"]);
    scan.chunk_rows = 10;
    let mut chunks = 0;
    let mut take = |_: Table| {
        chunks += 1;
        if chunks == 2 {
            Err(Error::new(ErrorKind::Cancelled, "enough").with("marker", fixtures::id()))
        } else {
            Ok(())
        }
    };
    let error = desk
        .store
        .scan(&desk.ctx, &SAMPLE, &scan, &mut take)
        .await
        .expect_err("the taker's error");
    assert_eq!(
        (error.kind(), error.message(), chunks),
        (ErrorKind::Cancelled, "enough", 2)
    );
    assert!(error.context("marker").is_some(), "it is the taker's own");
    assert_eq!(desk.count(&Filter::All).await, 60, "the store is as it was");
}
