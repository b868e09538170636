//! Customers that go out into files and come back in: equal, and corrected where they were wrong.

use std::sync::Arc;

use open_crm::crawl::file::{
    CsvCollector, CsvConfig, JsonlCollector, JsonlConfig, VcardCollector, VcardConfig,
};
use open_crm::customer::{Customer, Draft, ExternalRef, PersonName, PostalAddress, Provenance};
use open_crm::prelude::*;
use open_crm::store::customers::{ExportOptions, Format, ImportOptions};

fn ctx() -> Context {
    Context::new(TenantId::new("shop").unwrap())
}

pub(crate) async fn crm(collector: Option<Arc<dyn Collector>>) -> Crm {
    let mut builder = Crm::builder().store("memory:");
    if let Some(collector) = collector {
        builder = builder.collector(collector);
    }
    builder.build().await.unwrap()
}

/// People with everything that a file can garble.
pub(crate) fn people() -> Vec<Draft> {
    (0..60)
        .map(|n: usize| {
            let mut d = Draft::new(Provenance::new("shop", Timestamp::EPOCH));
            let family = [
                "Kask",
                "O'Neil",
                "=cmd|' /C calc'!A0",
                "Größe 客户",
                "a,b;c\"d\"",
                "'=quoted",
                "@at",
            ][n % 7];
            d.name = Some(PersonName::new(&format!("Ana{n}"), family));
            d.emails = (0..=n % 3).map(|i| format!("p{n}.{i}@example.com")).collect();
            if n.is_multiple_of(2) {
                d.phones = vec![format!("+61491570{:03}", 100 + n)];
            }
            d.external_refs = vec![ExternalRef::new("shop", format!("00{n}"))];
            if n.is_multiple_of(4) {
                d.external_refs.push(ExternalRef::new("shop", format!("+{n}")));
                d.external_refs
                    .push(ExternalRef::new("erp: \"old\"", format!("-{n}-")));
            }
            if !n.is_multiple_of(5) {
                d.addresses.push(PostalAddress {
                    lines: (0..n % 5).map(|i| format!("-{i}, line; \\{n}")).collect(),
                    city: "Tartu".into(),
                    region: String::new(),
                    postal_code: "00123".into(),
                    country: "EE".into(),
                });
            }
            d.tags = ["vip", "a;b", "c\\", "+plus", "x,y"]
                .iter()
                .take(n % 6)
                .map(|t| (*t).to_owned())
                .collect();
            for (i, (name, value)) in [
                (
                    "note",
                    serde_json::json!("=HYPERLINK(\"x\")\n+second\n'third\n  fourth"),
                ),
                ("visits", serde_json::json!(-9_007_199_254_740_993_i64)),
                ("rate", serde_json::json!(-0.1)),
                ("vip", serde_json::json!(n.is_multiple_of(2))),
                ("deep", serde_json::json!({"a": [1, 1.5, null, "x"]})),
                (
                    "mixed",
                    if n.is_multiple_of(2) {
                        serde_json::json!("1")
                    } else {
                        serde_json::json!(1)
                    },
                ),
                ("padded", serde_json::json!("  two blanks ")),
                ("code", serde_json::json!("007")),
            ]
            .into_iter()
            .enumerate()
            {
                if !(n + i).is_multiple_of(3) {
                    d.attributes.set(name, value).unwrap();
                }
            }
            d
        })
        .collect()
}

/// What a file holds of a customer, without ids and provenance.
fn told(customer: &Customer) -> String {
    let mut points: Vec<(String, bool)> = customer
        .contact_points
        .iter()
        .map(|p| (p.value().to_owned(), p.primary))
        .collect();
    points.sort();
    let mut refs = customer.external_refs.clone();
    refs.sort();
    serde_json::to_string(&(
        &customer.name,
        points,
        &customer.addresses,
        refs,
        &customer.tags,
        &customer.attributes,
    ))
    .unwrap()
}

async fn all(crm: &Crm) -> Vec<String> {
    all_of(crm, &ctx()).await
}

/// What a file holds of all customers of a tenant.
pub(crate) async fn all_of(crm: &Crm, ctx: &Context) -> Vec<String> {
    let page = crm
        .customers()
        .find(ctx, &Query::new(Filter::All).limit(1000))
        .await
        .unwrap();
    let mut all: Vec<String> = page.items.iter().map(told).collect();
    all.sort();
    all
}

async fn exported(crm: &Crm, format: Format, options: ExportOptions) -> Vec<u8> {
    let mut file = Vec::new();
    crm.customers()
        .export(&ctx(), &Filter::All, format, &mut file, options)
        .await
        .unwrap();
    file
}

#[tokio::test]
async fn csv_and_vcards_come_back_as_they_went() {
    let here = crm(None).await;
    here.customers()
        .import(&ctx(), "people", people(), ImportOptions::default())
        .await
        .unwrap();
    let before = all(&here).await;
    let folder = tempfile::tempdir().unwrap();
    for (name, format, options) in [
        ("a.csv", Format::Csv, ExportOptions::default().page(7)),
        (
            "b.csv",
            Format::Csv,
            ExportOptions::default().with_bom().delimiter(';'),
        ),
        ("c.vcf", Format::Vcard, ExportOptions::default()),
    ] {
        let path = folder.path().join(name);
        std::fs::write(&path, exported(&here, format, options).await).unwrap();
        let collector: Arc<dyn Collector> = if name.ends_with("csv") {
            Arc::new(CsvCollector::new(CsvConfig::new(&path, "back")).unwrap())
        } else {
            let mut config = VcardConfig::new(&path, "back");
            config.uid = false;
            Arc::new(VcardCollector::new(config).unwrap())
        };
        let there = crm(Some(collector)).await;
        let report = there.collect(&ctx(), "back", &mut |_, _| ()).await.unwrap();
        assert_eq!(
            (report.created, report.rejected, report.fields_rejected),
            (60, 0, 0),
            "{name}"
        );
        assert_eq!(all(&there).await, before, "{name}");
    }
    // Negative control: one cell changed is seen.
    let csv = String::from_utf8(exported(&here, Format::Csv, ExportOptions::default()).await).unwrap();
    let path = folder.path().join("changed.csv");
    std::fs::write(&path, csv.replacen("Tartu", "Narva", 1)).unwrap();
    let there = crm(Some(Arc::new(
        CsvCollector::new(CsvConfig::new(&path, "back")).unwrap(),
    )))
    .await;
    there.collect(&ctx(), "back", &mut |_, _| ()).await.unwrap();
    assert_ne!(all(&there).await, before);
}

#[tokio::test]
async fn rejected_rows_are_corrected_and_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("list.csv"), "id;email;note;attribute:n:int\n1;a@example.com;fine;1\n2;nobody;=bad;2\n3;c@example.com;x;many\n4;d@example.com\n").unwrap();
    std::fs::write(
        path("list.jsonl"),
        "{\"id\": 5, \"email\": \"e@example.com\"}\n{\"id\": 6, \"email\": \"nobody\"}\n{broken\n",
    )
    .unwrap();
    std::fs::write(path("list.vcf"), "BEGIN:VCARD\nVERSION:4.0\nFN:Seven\nUID:7\nEMAIL:nobody\nEND:VCARD\nBEGIN:VCARD\nFN:Eight\nEND:VCARD\n").unwrap();
    let open = |name: &str| -> Arc<dyn Collector> {
        match name.rsplit('.').next() {
            Some("csv") => Arc::new(CsvCollector::new(CsvConfig::new(path(name), "shop")).unwrap()),
            Some("jsonl") => Arc::new(JsonlCollector::new(JsonlConfig::new(path(name), "shop")).unwrap()),
            _ => Arc::new(VcardCollector::new(VcardConfig::new(path(name), "shop")).unwrap()),
        }
    };
    for (name, rows, fixed, people) in [
        (
            "list.csv",
            3,
            vec![
                ("nobody", "b@example.com"),
                ("many", "3"),
                ("4,d@example.com,,", "4,d@example.com,x,4"),
            ],
            4,
        ),
        ("list.jsonl", 2, vec![("nobody", "f@example.com")], 2),
        (
            "list.vcf",
            2,
            vec![
                ("EMAIL:nobody", "EMAIL:g@example.com"),
                ("FN:Eight", "FN:Eight\r\nEMAIL:h@example.com"),
            ],
            2,
        ),
    ] {
        let store = "memory:";
        let crm = Crm::builder()
            .store(store)
            .collector(open(name))
            .build()
            .await
            .unwrap();
        crm.collect(&ctx(), "shop", &mut |_, _| ()).await.unwrap();
        let mut file = Vec::new();
        let written = crm
            .customers()
            .write_rejects(&ctx(), "shop", &mut file)
            .await
            .unwrap();
        assert_eq!((written.rows, written.without_row), (rows, 0), "{name}");
        let mut text = String::from_utf8(file).unwrap();
        assert!(
            text.contains("crm_error") || text.contains("X-CRM-ERROR"),
            "{text}"
        );
        for (wrong, right) in fixed {
            assert!(text.contains(wrong), "{wrong} in {text}");
            text = text.replacen(wrong, right, 1);
        }
        let again = format!("again.{name}");
        std::fs::write(path(&again), text).unwrap();
        // The corrected file into the same store.
        let mut sink = crm
            .customers()
            .sink(&ctx(), "again", ImportOptions::default())
            .await
            .unwrap();
        open(&again).collect(&ctx(), None, &mut sink).await.unwrap();
        let report = sink.finish().await.unwrap();
        let left = u64::from(name == "list.jsonl");
        assert_eq!(
            (report.rejected, report.fields_rejected),
            (left, 0),
            "{name}: {report:?}"
        );
        assert_eq!(
            crm.customers().count(&ctx(), &Filter::All).await.unwrap(),
            people,
            "{name}"
        );
        let page = crm
            .customers()
            .find(&ctx(), &Query::new(Filter::All))
            .await
            .unwrap();
        assert!(
            page.items.iter().all(|one| one.email().is_some()),
            "{name}: every address was corrected"
        );
    }
}
