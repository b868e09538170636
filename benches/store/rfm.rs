//! Recency, frequency and monetary value of every customer, computed where the orders are.
//!
//! The orders are a formula of their number, so that the answer is known without reading them, and so that
//! `benches/peers/rfm.py` can make the same ones with the database's own tools: 10,000,000 through `apply` take minutes.

use anyhow::{Result, ensure};
use open_crm::query::{Aggregate, Filter, Measure};
use open_crm::record::{Field, FieldType, Record, Schema, Write};
use open_crm::{Context, TenantId, Timestamp, Uuid};

use super::{BATCH, Bench, memory, timed};

pub(super) static ORDERS: Schema = Schema {
    name: "bench_order",
    fields: &[
        Field::new("customer_id", FieldType::Uuid),
        Field::new("at", FieldType::Timestamp),
        Field::new("total_minor", FieldType::Int),
    ],
    indexes: &[],
};

/// Whose orders they are, in `rfm.py` too.
const TENANT: &str = "rfm";
const SPACE: u128 = 0x0190_0000_0000_7000_8000_0000_0000_0000;

fn at(n: u64) -> Timestamp {
    Timestamp::from_micros((1_700_000_000 + (n * 7_919 % 31_536_000) as i64) * 1_000_000)
}

fn total(n: u64) -> i64 {
    100 + (n * 104_729 % 50_000) as i64
}

fn order(n: u64, customers: u64) -> Write {
    let customer = Uuid::from_u128(SPACE + u128::from(n * 48_271 % customers));
    let values = vec![customer.into(), at(n).into(), total(n).into()];
    let record = Record::from_values(&ORDERS, values).unwrap();
    Write::insert(Uuid::from_u128(SPACE + (1 << 62) + u128::from(n)), record)
}

impl Bench {
    pub(super) async fn rfm(&self, orders: u64, customers: u64) -> Result<()> {
        let ctx = Context::new(TenantId::new(TENANT)?);
        let there = self.store.count(&ctx, &ORDERS, &Filter::All).await?;
        ensure!(
            there == 0 || there == orders,
            "{there} orders are there, and --orders says {orders}"
        );
        if there == 0 {
            let fill = async {
                for start in (0..orders).step_by(BATCH as usize) {
                    let some = start..orders.min(start + BATCH);
                    let writes: Vec<Write> = some.map(|n| order(n, customers)).collect();
                    self.store.apply(&ctx, &writes).await?;
                }
                anyhow::Ok(())
            };
            timed("insert of the orders", orders, fill).await?;
        }
        let question = Aggregate::new(Filter::All)
            .by("customer_id")
            .measure("last", Measure::Max("at".into()))
            .measure("orders", Measure::Count)
            .measure("spent", Measure::Sum("total_minor".into()));
        let before = memory("VmRSS");
        std::fs::write("/proc/self/clear_refs", "5").ok();
        let answer = self.store.aggregate(&ctx, &ORDERS, &question);
        let table = timed("RFM of all customers, an order", orders, answer).await?;
        let peak = memory("VmHWM").saturating_sub(before);
        println!(
            "{:<44} {} customers, peak above before {:.1} MB",
            "  memory of it",
            table.rows(),
            peak as f64 / 1e3
        );
        // What the orders add up to by the formula.
        let sum = |column: &str| -> Result<f64> {
            let column = table.column(column)?;
            Ok((0..table.rows()).filter_map(|row| column.f64_at(row)).sum())
        };
        ensure!(table.rows() as u64 == customers.min(orders));
        ensure!(sum("orders")? == orders as f64);
        ensure!(sum("spent")? == (0..orders).map(|n| total(n) as f64).sum::<f64>());
        let last = (0..orders).map(at).max();
        let found = (0..table.rows()).filter_map(|row| table.column("last").ok()?.value(row).as_timestamp());
        ensure!(found.max() == last);
        Ok(())
    }
}
