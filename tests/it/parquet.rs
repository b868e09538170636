//! Customers that go out as Parquet and come in from it: the same on every store, and corrected where they were wrong.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::sync::Arc;

use crm_core::testkit::fixtures;
use open_crm::analytics::parquet::{ParquetFile, ParquetWriter};
use open_crm::crawl::file::{CsvCollector, CsvConfig, TableCollector, TableConfig};
use open_crm::prelude::*;
use open_crm::store::customers::{ExportOptions, ImportOptions, ImportReport};
use open_crm::table::{Column, Table};

use crate::files::{all_of, crm, people};

const SERVERS: [&str; 3] = [
    "OPEN_CRM_TEST_MYSQL_URL",
    "OPEN_CRM_TEST_POSTGRES_URL",
    "OPEN_CRM_TEST_MONGODB_URL",
];

async fn written(crm: &Crm, ctx: &Context, path: &Path) -> u64 {
    let file = BufWriter::new(File::create(path).unwrap());
    let options = ExportOptions::default().page(7);
    let report = crm
        .export_parquet(ctx, &Filter::All, file, options)
        .await
        .unwrap();
    assert_eq!(report.bytes, std::fs::metadata(path).unwrap().len());
    report.customers
}

/// What a collector finds, through an import with these options.
async fn through(
    crm: &Crm,
    ctx: &Context,
    collector: &dyn Collector,
    options: ImportOptions,
) -> ImportReport {
    let mut sink = crm.customers().sink(ctx, "people", options).await.unwrap();
    let resume = sink.checkpoint().cloned();
    collector.collect(ctx, resume.as_ref(), &mut sink).await.unwrap();
    sink.finish().await.unwrap()
}

fn parquet(path: &Path) -> TableCollector {
    let file = Arc::new(ParquetFile::open(path).unwrap());
    TableCollector::new(file, TableConfig::new("people")).unwrap()
}

/// Stores to read a file into: memory, a SQLite file, and the servers that are there.
async fn stores(folder: &Path) -> Vec<Crm> {
    let mut stores = vec![crm(None).await, Crm::open(&crate::sqlite(folder)).await.unwrap()];
    for variable in SERVERS {
        match std::env::var(variable) {
            Ok(url) => stores.push(Crm::open(&url).await.unwrap()),
            Err(_) => {
                let message = format!("SKIPPED: {variable}: not set; scripts/services starts the servers");
                assert!(
                    std::env::var_os("OPEN_CRM_REQUIRE_BACKENDS").is_none(),
                    "{message}"
                );
                let _ = writeln!(std::io::stderr(), "{message}");
            }
        }
    }
    stores
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn customers_come_back_from_parquet_on_every_store() {
    let (here, ctx) = (crm(None).await, fixtures::context());
    here.customers()
        .import(&ctx, "people", people(), ImportOptions::default())
        .await
        .unwrap();
    let before = all_of(&here, &ctx).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("people.parquet");
    assert_eq!(written(&here, &ctx, &path).await, 60);
    let file = ParquetFile::open(&path).unwrap();
    assert_eq!((file.rows(), file.groups()), (60, 9), "a row group a page");
    let visits = file.read(0).unwrap();
    let visits = visits.column("attribute:visits:int").unwrap();
    assert_eq!(
        visits.ty(),
        open_crm::record::FieldType::Int,
        "numbers are numbers"
    );

    for there in stores(folder.path()).await {
        // A tenant of its own: the servers are shared.
        let ctx = fixtures::context();
        let collector = parquet(&path);
        let dry = through(&there, &ctx, &collector, ImportOptions::default().dry_run()).await;
        assert_eq!((dry.created, dry.rejected, dry.fields_rejected), (60, 0, 0));
        assert_eq!(all_of(&there, &ctx).await, Vec::<String>::new(), "only tried");
        let report = through(&there, &ctx, &collector, ImportOptions::default().batch(16)).await;
        assert_eq!(report, dry, "as the trial said");
        assert_eq!(all_of(&there, &ctx).await, before);
        let again = through(&there, &ctx, &collector, ImportOptions::default()).await;
        assert_eq!(
            (again.repeated, again.seen()),
            (60, 60),
            "the same again is a no-op"
        );
        assert_eq!(all_of(&there, &ctx).await, before);
        // And out of this store again: the same file, but for the ids.
        let back = folder.path().join("back.parquet");
        assert_eq!(written(&there, &ctx, &back).await, 60);
        let last = (crm(None).await, fixtures::context());
        through(&last.0, &last.1, &parquet(&back), ImportOptions::default()).await;
        assert_eq!(all_of(&last.0, &last.1).await, before);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_parquet_that_are_wrong_are_put_aside_mended_and_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.parquet");
    let texts = |name: &str, values: &[Option<&str>]| {
        let mut column = Column::text(name);
        values.iter().for_each(|value| column.push_text(*value));
        column
    };
    let rows = |mail: &str, visits: &str| {
        Table::new(vec![
            texts("external:shop", &[Some("1"), Some("2"), Some("3"), None]),
            texts("email", &[Some("ana@example.com"), Some(mail), None, None]),
            texts(
                "attribute:visits:int",
                &[Some("1"), None, Some(visits), Some("4")],
            ),
        ])
        .unwrap()
    };
    let write = |table: &Table| {
        let mut writer = ParquetWriter::new(File::create(&path).unwrap());
        writer.write(table).unwrap();
        writer.finish().unwrap();
    };
    write(&rows("nobody", "many"));
    let (crm, ctx) = (
        Crm::open(&crate::sqlite(folder.path())).await.unwrap(),
        fixtures::context(),
    );
    let dry = through(&crm, &ctx, &parquet(&path), ImportOptions::default().dry_run()).await;
    let report = through(&crm, &ctx, &parquet(&path), ImportOptions::default()).await;
    assert_eq!(report, dry);
    // Row 2 comes in without its address; row 3 has a number that is none; row 4 is nobody.
    assert_eq!(
        (report.created, report.fields_rejected, report.rejected),
        (2, 1, 2)
    );
    let rejects = crm.customers().rejects(&ctx, "people", 10, None).await.unwrap();
    let mut told: Vec<_> = rejects
        .items
        .iter()
        .map(|reject| (reject.line, reject.field.clone()))
        .collect();
    told.sort();
    let field = |name: &str| Some(name.to_owned());
    assert_eq!(
        told,
        [
            (Some(2), field("email")),
            (Some(3), field("attribute:visits:int")),
            (Some(4), None)
        ]
    );
    // The rows as they stood, to be mended by hand and read as CSV under the same name.
    let mut out = Vec::new();
    let written = crm
        .customers()
        .write_rejects(&ctx, "people", &mut out)
        .await
        .unwrap();
    assert_eq!((written.rows, written.without_row), (3, 0));
    let text = String::from_utf8(out).unwrap();
    assert!(text.contains("nobody") && text.contains("many"), "{text}");
    let mended = folder.path().join("mended.csv");
    std::fs::write(
        &mended,
        text.replace("nobody", "bo@example.com")
            .replace(",many,", ",7,")
            .replace("\r\n,,4,", "\r\n4,,4,"),
    )
    .unwrap();
    let csv = CsvCollector::new(CsvConfig::new(mended, "people")).unwrap();
    let report = through(&crm, &ctx, &csv, ImportOptions::default()).await;
    assert_eq!(
        (
            report.created,
            report.updated,
            report.rejected,
            report.fields_rejected
        ),
        (2, 1, 0, 0),
        "{text}"
    );
    // What was right all along, as the whole file mended at its source says it: nothing is new.
    write(&rows("bo@example.com", "7"));
    let report = through(&crm, &ctx, &parquet(&path), ImportOptions::default()).await;
    assert_eq!((report.created, report.updated), (0, 0));
    assert_eq!(all_of(&crm, &ctx).await.len(), 4);
    let found = crm
        .customers()
        .find(&ctx, &Query::new(Filter::eq("attributes.visits", 7_i64)))
        .await
        .unwrap();
    assert_eq!(found.items[0].external_refs, [ExternalRef::new("shop", "3")]);
}
