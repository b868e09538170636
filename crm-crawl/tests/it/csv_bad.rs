use crm_core::ErrorKind;
use crm_crawl::Target;
use crm_crawl::file::{CsvCollector, CsvConfig, CsvMapping};

use crate::csv::{Folder, read, read_as};
use crate::run;

async fn fails(
    content: impl AsRef<[u8]>,
    change: impl FnOnce(&mut CsvConfig),
) -> (crate::Kept, crm_core::Error) {
    let folder = Folder::new();
    let mut config = CsvConfig::new(folder.file(content), "people");
    change(&mut config);
    let (kept, result) = run(&CsvCollector::new(config).unwrap(), None).await;
    (kept, result.unwrap_err())
}

#[tokio::test]
async fn a_missing_column_is_named_with_those_there_are_before_anything_is_delivered() {
    let mapping = CsvMapping::new().column("Mail", Target::Email);
    let (kept, error) = fails("name, E-Mail\nA,a@example.com\n", |c| c.mapping = Some(mapping)).await;
    assert!(kept.0.is_empty());
    assert_eq!(error.kind(), ErrorKind::Config);
    assert_eq!(
        (error.context("column"), error.context("columns")),
        (Some("Mail"), Some("name, E-Mail"))
    );
}

#[tokio::test]
async fn the_same_column_twice_is_not_guessed() {
    let (kept, error) = fails("email,name,email\na@example.com,A,b@example.com\n", |_| {}).await;
    assert!(kept.0.is_empty());
    assert_eq!(
        (error.kind(), error.context("column")),
        (ErrorKind::Config, Some("email"))
    );
    // A column that nobody reads may be there twice.
    assert_eq!(read("email,x,x\na@example.com,1,2\n").await.drafts().len(), 1);
}

#[tokio::test]
async fn nobody_to_recognise_is_said_at_once() {
    let (_, error) = fails("colour,size\nred,7\n", |_| {}).await;
    assert_eq!(
        (error.kind(), error.context("columns")),
        (ErrorKind::Config, Some("colour, size"))
    );
}

#[tokio::test]
async fn empty_files_are_said_to_be_empty() {
    for content in ["", "\u{feff}", "\n\n", "\r\n"] {
        let (kept, error) = fails(content, |_| {}).await;
        assert!(kept.0.is_empty());
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.message().contains("empty"), "{error}");
    }
}

#[tokio::test]
async fn a_bad_row_is_rejected_and_the_rest_goes_on() {
    let kept = read_as(
        "name,email,born,age,member\n\
         A,a@example.com,1990-01-01,30,yes\n\
         B,b@example.com,31.12.1990,30,yes\n\
         C,c@example.com,1990-01-01,thirty,yes\n\
         D,d@example.com,1990-01-01,30,maybe\n\
         E,e@example.com\n\
         F,f@example.com,1990-01-01,30,yes,extra\n\
         G,,1990-01-01,30,yes\n\
         H,h\0@example.com,,,\n\
         I,i@example.com,,,\n",
        |config| {
            config.mapping = Some(
                CsvMapping::new()
                    .column("name", Target::Name)
                    .column("email", Target::Email)
                    .column("born", "attribute:born:date".parse().unwrap())
                    .column("age", "attribute:age:int".parse().unwrap())
                    .column("member", "attribute:member:bool".parse().unwrap()),
            );
        },
    )
    .await;
    assert_eq!(kept.emails(), ["a@example.com", "i@example.com"]);
    let rejects = kept.rejects();
    let found: Vec<_> = rejects
        .iter()
        .map(|r| (r.line.unwrap(), r.field.as_deref()))
        .collect();
    let wanted = [
        (3, Some("born")),
        (4, Some("age")),
        (5, Some("member")),
        (6, None),
        (7, None),
        (8, None),
        (9, Some("email")),
    ];
    assert_eq!(found, wanted);
    assert!(
        rejects[3].reason.contains("2 columns, the header has 5"),
        "{}",
        rejects[3].reason
    );
    // The reason never repeats the value.
    for value in ["31.12.1990", "thirty", "maybe", "extra"] {
        assert!(rejects.iter().all(|r| !r.reason.contains(value)), "{value}");
    }
}

#[tokio::test]
async fn bytes_of_another_encoding_are_never_stored_garbled() {
    let latin1 = b"name,email\nM\xfcller,m@example.com\nAna,a@example.com\n";
    let kept = read(latin1).await;
    assert_eq!(kept.emails(), ["a@example.com"]);
    let reject = &kept.rejects()[0];
    assert_eq!((reject.line, reject.field.as_deref()), (Some(2), Some("name")));
    assert!(
        reject.reason.contains("UTF-8") && reject.reason.contains("encoding"),
        "{}",
        reject.reason
    );

    let kept = read_as("name,email\nMüller,m@example.com\nAna,a@example.com\n", |c| {
        c.encoding = "windows-1252".into()
    })
    .await;
    assert_eq!(kept.emails(), ["a@example.com"]);
    assert!(
        kept.rejects()[0].reason.contains("UTF-8"),
        "{}",
        kept.rejects()[0].reason
    );

    let (_, error) = fails("\u{feff}name,email\n", |c| c.encoding = "windows-1252".into()).await;
    assert_eq!(
        (error.context("declared"), error.context("found")),
        (Some("windows-1252"), Some("UTF-8"))
    );
    let (_, error) = fails(b"n\xe4me,email\n", |_| {}).await;
    assert_eq!(error.context("encoding"), Some("UTF-8"));
}

#[tokio::test]
async fn a_quote_that_is_never_closed_is_found_where_it_was_opened() {
    for tail in ["", "\n"] {
        let mut text = String::from("name,email\nA,a@example.com\nB,\"b@example.com\n");
        for i in 0..50 {
            text.push_str(&format!("P{i},p{i}@example.com\n"));
        }
        let (kept, error) = fails(format!("{}{tail}", text.trim_end()), |_| {}).await;
        assert_eq!(kept.emails(), ["a@example.com"], "what stands before it is kept");
        assert_eq!(
            (error.kind(), error.context("line")),
            (ErrorKind::Invalid, Some("3")),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_row_without_end_does_not_eat_the_memory() {
    let text = format!("name,email\nA,a@example.com\nB,\"{}", "x,y\n".repeat(1_000_000));
    let (kept, error) = fails(text, |_| {}).await;
    assert_eq!(kept.emails(), ["a@example.com"]);
    assert_eq!(
        (error.kind(), error.context("line")),
        (ErrorKind::Invalid, Some("3")),
        "{error}"
    );
}

#[tokio::test]
async fn many_columns_and_odd_quotes() {
    let header: Vec<String> = (0..10_000).map(|i| format!("c{i}")).collect();
    let values = vec!["v"; 10_000].join(",");
    let kept = read(format!("email,{}\na@example.com,{values}\n", header.join(","))).await;
    assert_eq!(kept.drafts().len(), 1);
    let kept = read("name,email\n5\" pipe,a@example.com\n\"say \"\"hi\"\"\",b@example.com\n").await;
    let names: Vec<_> = kept
        .drafts()
        .iter()
        .map(|d| d.name.as_ref().unwrap().full())
        .collect();
    assert_eq!(names, ["5\" pipe", "say \"hi\""]);
}

#[test]
fn settings_are_checked_by_name() {
    type Change = fn(&mut CsvConfig);
    let cases: [(&str, Change); 9] = [
        ("name", |c| c.name.clear()),
        ("batch", |c| c.batch = 0),
        ("delimiter", |c| c.delimiter = Some(b'"')),
        ("encoding", |c| c.encoding = "utf-9".into()),
        ("phone_region", |c| {
            c.reading.phone_region = Some("Australia".into())
        }),
        ("currency", |c| c.reading.currency = Some("usd".into())),
        ("date_formats", |c| c.reading.date_formats = vec!["%Q".into()]),
        ("date_formats", |c| {
            c.reading.date_formats = vec!["%d/%m/%Y".into(), "%m/%d/%Y".into()]
        }),
        ("mapping", |c| {
            c.mapping = Some(CsvMapping::new().column("n", Target::Name))
        }),
    ];
    for (setting, change) in cases {
        let mut config = CsvConfig::new("people.csv", "people");
        change(&mut config);
        let error = CsvCollector::new(config).unwrap_err();
        assert_eq!(
            (error.kind(), error.context("setting")),
            (ErrorKind::Config, Some(setting)),
            "{error}"
        );
    }
    let orders = CsvMapping::new()
        .column("id", Target::External("x".into()))
        .column("o", Target::OrderId);
    let mut config = CsvConfig::new("people.csv", "people");
    config.mapping = Some(orders.clone());
    assert_eq!(
        CsvCollector::new(config.clone()).unwrap_err().context("missing"),
        Some("order.date")
    );
    config.mapping = Some(
        orders
            .column("d", Target::OrderDate)
            .column("a", Target::OrderAmount),
    );
    assert_eq!(
        CsvCollector::new(config).unwrap_err().context("setting"),
        Some("currency")
    );
}

#[tokio::test]
async fn paths_that_cannot_be_read_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    for path in [folder.path().join("gone.csv"), folder.path().to_owned()] {
        let collector = CsvCollector::new(CsvConfig::new(&path, "people")).unwrap();
        let error = run(&collector, None).await.1.unwrap_err();
        assert_eq!(
            (error.kind(), error.context("setting")),
            (ErrorKind::Config, Some("path")),
            "{error}"
        );
    }
}
