//! Columns, part by part: the same mapping as for files of text.

use std::sync::Arc;

use crm_core::capability::{Collector, Outline, TableSource};
use crm_core::table::{Column, ColumnData, Table};
use crm_core::{Error, ErrorKind, Result, Timestamp};
use crm_crawl::file::{Mapping, TableCollector, TableConfig};

use crate::run;

/// Parts of seven rows; every ninth address is none, every eighth row names nobody.
#[derive(Debug)]
struct Parts(usize, &'static str);

impl TableSource for Parts {
    fn outline(&self) -> Result<Outline> {
        Ok(Outline {
            place: "people.parquet".into(),
            columns: ["email", "visits", "joined", "order_id", "order_amount"]
                .map(str::to_owned)
                .to_vec(),
            rows: self.0 as u64,
            chunks: self.0.div_ceil(7),
            fingerprint: self.1.into(),
        })
    }

    fn chunk(&self, index: usize) -> Result<Table> {
        let rows = (index * 7)..((index + 1) * 7).min(self.0);
        if rows.is_empty() {
            return Err(Error::new(ErrorKind::NotFound, "no such part"));
        }
        let mut email = Column::text("email");
        for n in rows.clone() {
            let address = format!("p{n}@example.com");
            email.push_text((n % 8 != 7).then_some(address.as_str()));
        }
        let times = rows.clone().map(|n| n as i64 * 1_000_000).collect();
        let mut ids = Column::text("order_id");
        rows.clone()
            .for_each(|n| ids.push_text((n % 5 == 0).then_some(format!("o{n}").as_str())));
        let amounts: Vec<bool> = rows.clone().map(|n| n % 5 == 0).collect();
        let values = rows.clone().map(|n| n as f64 + 0.5).collect();
        Table::new(vec![
            email,
            Column::ints("visits", rows.map(|n| n as i64).collect()),
            Column::new("joined", ColumnData::Timestamp(times)),
            ids,
            Column::with_validity("order_amount", ColumnData::Float(values), amounts)?,
        ])
    }
}

fn config() -> TableConfig {
    let mut config = TableConfig::new("lake");
    let mut mapping = Mapping::new();
    for (column, target) in [
        ("email", "email"),
        ("visits", "attribute:visits:int"),
        ("joined", "attribute:joined:date"),
        ("order_id", "order.id"),
        ("order_amount", "order.amount"),
    ] {
        mapping = mapping.column(column, target.parse().unwrap());
    }
    mapping = mapping.column("joined", "order.date".parse().unwrap());
    config.mapping = Some(mapping);
    config.reading.currency = Some("EUR".into());
    config.batch = 3;
    config
}

#[tokio::test]
async fn values_of_every_type_are_read() {
    let mut plain = config();
    plain.mapping = Some(
        Mapping::new()
            .column("email", "email".parse().unwrap())
            .column("visits", "attribute:visits:int".parse().unwrap())
            .column("joined", "attribute:joined:date".parse().unwrap()),
    );
    let collector = TableCollector::new(Arc::new(Parts(20, "a")), plain).unwrap();
    let (kept, progress) = run(&collector, None).await;
    let progress = progress.unwrap();
    assert_eq!((progress.done, progress.drafts, progress.rejects), (20, 18, 2));
    let drafts = kept.drafts();
    assert_eq!(drafts[3].attributes.get("visits"), Some(&serde_json::json!(3)));
    let joined = Timestamp::from_micros(3_000_000).to_string();
    assert_eq!(
        drafts[3].attributes.get("joined"),
        Some(&serde_json::json!(joined))
    );
    assert_eq!(drafts[3].provenance.line, Some(4), "rows count from 1");
    assert_eq!(kept.rejects()[0].line, Some(8));
}

#[tokio::test]
async fn a_changed_file_is_not_gone_on_with() {
    let (kept, _) = run(
        &TableCollector::new(Arc::new(Parts(20, "a")), config()).unwrap(),
        None,
    )
    .await;
    let checkpoint = kept.0[0].checkpoint.clone().unwrap();
    let changed = TableCollector::new(Arc::new(Parts(20, "b")), config()).unwrap();
    let (_, error) = run(&changed, Some(&checkpoint)).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Conflict);
    let mut wrong = config();
    wrong.mapping = Some(Mapping::new().column("mail", "email".parse().unwrap()));
    let (_, error) = run(
        &TableCollector::new(Arc::new(Parts(20, "a")), wrong).unwrap(),
        None,
    )
    .await;
    assert_eq!(error.unwrap_err().context("column"), Some("mail"));
}

async fn suite() -> Arc<dyn Collector> {
    let mut config = config();
    config.mapping = None;
    Arc::new(TableCollector::new(Arc::new(Narrow(Parts(50, "a"))), config).unwrap())
}

/// Without the columns of orders.
#[derive(Debug)]
struct Narrow(Parts);

impl TableSource for Narrow {
    fn outline(&self) -> Result<Outline> {
        let mut outline = self.0.outline()?;
        outline.columns.truncate(3);
        Ok(outline)
    }
    fn chunk(&self, index: usize) -> Result<Table> {
        let table = self.0.chunk(index)?;
        Table::new(table.columns()[..3].to_vec())
    }
}

crm_core::collector_suite!(contract, suite());
