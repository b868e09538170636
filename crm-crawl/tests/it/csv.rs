use std::path::PathBuf;

use crm_core::capability::Collector;
use crm_core::customer::Draft;
use crm_core::{ErrorKind, ManualClock, Provider, Timestamp};
use crm_crawl::Target;
use crm_crawl::file::{CsvCollector, CsvConfig, CsvMapping};

use crate::{Kept, ctx, run};

pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
    pub(crate) fn file(&self, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join("people.csv");
        std::fs::write(&path, content).unwrap();
        path
    }
}

pub(crate) async fn read(content: impl AsRef<[u8]>) -> Kept {
    read_as(content, |_| {}).await
}

pub(crate) async fn read_as(content: impl AsRef<[u8]>, change: impl FnOnce(&mut CsvConfig)) -> Kept {
    let folder = Folder::new();
    let mut config = CsvConfig::new(folder.file(content), "people");
    change(&mut config);
    let (kept, result) = run(&CsvCollector::new(config).unwrap(), None).await;
    let progress = result.unwrap();
    assert_eq!(progress.drafts, kept.drafts().len() as u64);
    assert_eq!(progress.rejects, kept.rejects().len() as u64);
    assert_eq!(Some(progress.done), progress.total);
    kept
}

#[tokio::test]
async fn a_row_becomes_a_draft_with_everything_in_it() {
    let folder = Folder::new();
    let path = folder.file(
        "Kundennr;Vorname;Name;Mail;Mail 2;Tel;Strasse;Zusatz;Ort;PLZ;Land;Geboren;Schuhe;Newsletter;Gruppe;Leer\n\
         7;Ana;Kask;Ana@Example.com;a2@example.com;0491 570 006;\"Pikk 1; Haus \"\"B\"\"\";c/o X;Tallinn;00100;ee;31.12.1990;38,5;ja;vip;\n",
    );
    let mut config = CsvConfig::new(&path, "erp");
    config.reading.phone_region = Some("AU".into());
    config.reading.date_formats = vec!["%d.%m.%Y".into()];
    let mapping = CsvMapping::new()
        .column("Kundennr", Target::External("erp".into()))
        .column("Kundennr", Target::attribute("number"))
        .column("Vorname", Target::Given)
        .column("name", Target::Family)
        .column("Mail", Target::Email)
        .column("Mail 2", Target::Email)
        .column("Tel", Target::Phone)
        .column("Strasse", Target::Street)
        .column("Zusatz", Target::Street)
        .column("Ort", Target::City)
        .column("PLZ", Target::PostalCode)
        .column("Land", Target::Country)
        .column("Geboren", "attribute:born:date".parse().unwrap())
        .column("Gruppe", Target::Tag)
        .column("Leer", Target::attribute("empty"));
    config.mapping = Some(mapping);
    let now: Timestamp = "2026-03-01T09:00:00Z".parse().unwrap();
    let collector = CsvCollector::new(config)
        .unwrap()
        .with_clock(std::sync::Arc::new(ManualClock::at(now)));
    let (kept, result) = run(&collector, None).await;
    result.unwrap();
    let drafts = kept.drafts();
    let draft: &Draft = &drafts[0];
    let name = draft.name.as_ref().unwrap();
    assert_eq!((name.given.as_str(), name.family.as_str()), ("Ana", "Kask"));
    assert_eq!(draft.emails, ["Ana@Example.com", "a2@example.com"]);
    assert_eq!(
        (draft.phones[0].as_str(), draft.phone_region.as_deref()),
        ("0491 570 006", Some("AU"))
    );
    let address = &draft.addresses[0];
    assert_eq!(address.lines, ["Pikk 1; Haus \"B\"", "c/o X"]);
    assert_eq!(
        (address.postal_code.as_str(), address.country.as_str()),
        ("00100", "EE")
    );
    assert_eq!(
        (
            draft.external_refs[0].system.as_str(),
            draft.external_refs[0].id.as_str()
        ),
        ("erp", "7")
    );
    assert_eq!(draft.attributes.get("born").unwrap(), "1990-12-31");
    assert_eq!(draft.attributes.get("number").unwrap(), "7");
    assert_eq!(draft.attributes.get("empty"), None);
    assert_eq!(draft.tags, ["vip"]);
    let provenance = &draft.provenance;
    assert_eq!(
        (
            provenance.source.as_str(),
            provenance.line,
            provenance.observed_at
        ),
        ("erp", Some(2), now)
    );
    assert_eq!(provenance.location.as_deref(), path.to_str());
}

#[tokio::test]
async fn orders_come_with_a_reference_alone() {
    let text = "order_id,external_id,date,cds,dollars\r\n1,demo:rec-1,1997-01-01,2,29.33\r\n\
                2,demo:rec-1,1997-01-18,3,0.00\r\n3,demo:rec-2,1997-13-01,1,5\r\n4,demo:rec-2,1997-02-01,1,5.555\r\n\
                5,demo:rec-2,1997-02-01,-1,5\r\n6,demo:rec-2,,1,5\r\n";
    let kept = read_as(text, |config| {
        config.reading.currency = Some("USD".into());
        config.mapping = Some(
            CsvMapping::new()
                .column("external_id", Target::External("demo".into()))
                .column("order_id", Target::OrderId)
                .column("date", Target::OrderDate)
                .column("cds", Target::OrderItems)
                .column("dollars", Target::OrderAmount),
        );
    })
    .await;
    let drafts = kept.drafts();
    assert_eq!(drafts.len(), 2);
    let order = &drafts[0].orders[0];
    assert_eq!(
        (
            order.event_id.as_str(),
            order.total.minor,
            order.total.currency(),
            order.items
        ),
        ("1", 2933, "USD", 2)
    );
    assert_eq!(order.at, Timestamp::from_ymd(1997, 1, 1).unwrap());
    let wrong: Vec<_> = kept
        .rejects()
        .into_iter()
        .map(|r| (r.line.unwrap(), r.field.unwrap()))
        .collect();
    let wanted = [(4, "date"), (5, "dollars"), (6, "cds"), (7, "date")];
    assert_eq!(wrong, wanted.map(|(line, field)| (line, field.to_owned())));
}

#[tokio::test]
async fn usual_column_names_are_recognised() {
    let kept =
        read("id\tFirst Name\tSurname\tE-Mail\tZIP\tShoe size\n1\tAna\tKask\ta@example.com\t0100\t38\n")
            .await;
    let drafts = kept.drafts();
    assert_eq!(
        (drafts[0].emails.len(), drafts[0].external_refs[0].system.as_str()),
        (1, "people")
    );
    assert_eq!(drafts[0].addresses[0].postal_code, "0100");
    assert!(drafts[0].attributes.is_empty());
}

#[tokio::test]
async fn lines_are_numbered_as_editors_do() {
    for end in ["\n", "\r\n", "\r"] {
        let text = [
            "name,email",
            "A,a@example.com",
            "",
            "\"B",
            "b\",b@example.com",
            "C",
            "D,d@example.com",
        ]
        .join(end);
        for tail in ["", end] {
            let kept = read(format!("{text}{tail}")).await;
            let lines: Vec<_> = kept.drafts().iter().map(|d| d.provenance.line.unwrap()).collect();
            assert_eq!(lines, [2, 4, 7], "{end:?}");
            assert_eq!(kept.rejects()[0].line, Some(6), "{end:?}");
            assert_eq!(kept.drafts()[1].name.as_ref().unwrap().full(), "B b");
        }
    }
}

#[tokio::test]
async fn encodings() {
    let text = "name,email\nZoë Õunapuu,zoe@example.com\n";
    let utf16 = |mark: &[u8], bytes: fn(u16) -> [u8; 2]| {
        mark.iter()
            .copied()
            .chain(text.encode_utf16().flat_map(bytes))
            .collect::<Vec<u8>>()
    };
    for (encoding, content) in [
        ("auto", text.as_bytes().to_vec()),
        ("auto", [b"\xef\xbb\xbf", text.as_bytes()].concat()),
        ("utf-8", [b"\xef\xbb\xbf", text.as_bytes()].concat()),
        ("auto", utf16(b"\xff\xfe", u16::to_le_bytes)),
        ("auto", utf16(b"\xfe\xff", u16::to_be_bytes)),
        ("auto", utf16(b"", u16::to_le_bytes)),
        ("utf-16", utf16(b"\xfe\xff", u16::to_be_bytes)),
        ("utf-16le", utf16(b"", u16::to_le_bytes)),
        (
            "windows-1252",
            b"name,email\nZo\xeb \xd5unapuu,zoe@example.com\n".to_vec(),
        ),
        (
            "iso-8859-15",
            b"name,email\nZo\xeb \xd5unapuu,zoe@example.com\n".to_vec(),
        ),
    ] {
        let kept = read_as(content, |config| config.encoding = encoding.into()).await;
        assert_eq!(
            kept.drafts()[0].name.as_ref().unwrap().full(),
            "Zoë Õunapuu",
            "{encoding}"
        );
    }
}

#[tokio::test]
async fn a_file_without_header() {
    let kept = read_as("7|a@example.com\n8|b@example.com\n", |config| {
        config.columns = Some(vec!["id".into(), "email".into()]);
    })
    .await;
    assert_eq!(kept.drafts().len(), 2);
    assert_eq!(kept.drafts()[0].provenance.line, Some(1));
}

#[tokio::test]
async fn a_header_alone_is_a_file_without_people() {
    for content in ["name,email", "name,email\r\n", "\u{feff}name,email\n\n\n"] {
        let kept = read(content).await;
        assert!(kept.drafts().is_empty() && kept.rejects().is_empty());
        assert_eq!(kept.0.len(), 1);
        assert!(kept.checkpoint().is_some());
    }
}

fn many(rows: usize) -> String {
    let mut text = String::from("name,email\r\n");
    for i in 0..rows {
        match i % 10 {
            3 => text.push_str("short\r\n"),
            5 => text.push_str(&format!("\"Pers\r\non ü {i}\",p{i}@example.com\r\n\r\n")),
            _ => text.push_str(&format!("Person {i},p{i}@example.com\r\n")),
        }
    }
    text
}

fn in_utf16(text: &str) -> Vec<u8> {
    [0xfeffu16]
        .into_iter()
        .chain(text.encode_utf16())
        .flat_map(u16::to_be_bytes)
        .collect()
}

#[tokio::test]
async fn goes_on_from_every_checkpoint_without_gap_or_repeat() {
    for content in [many(107).into_bytes(), in_utf16(&many(107))] {
        let folder = Folder::new();
        let mut config = CsvConfig::new(folder.file(&content), "people");
        config.batch = 9;
        let clock = std::sync::Arc::new(ManualClock::default());
        let collector = CsvCollector::new(config).unwrap().with_clock(clock);
        let (whole, result) = run(&collector, None).await;
        let end = result.unwrap();
        assert_eq!((whole.drafts().len(), whole.rejects().len()), (96, 11));
        assert!(whole.0.len() >= 12);
        for cut in 1..=whole.0.len() {
            let checkpoint = whole.0[cut - 1].checkpoint.as_ref().unwrap();
            let (rest, result) = run(&collector, Some(checkpoint)).await;
            assert_eq!(result.unwrap(), end);
            let drafts: Vec<Draft> = whole.0[..cut]
                .iter()
                .flat_map(|d| d.drafts.clone())
                .chain(rest.drafts())
                .collect();
            assert_eq!(drafts, whole.drafts(), "cut after {cut}");
            let rejects: Vec<_> = whole.0[..cut]
                .iter()
                .flat_map(|d| d.rejects.clone())
                .chain(rest.rejects())
                .collect();
            assert_eq!(rejects, whole.rejects(), "cut after {cut}");
        }
    }
}

#[tokio::test]
async fn a_changed_file_is_not_gone_on_with() {
    let folder = Folder::new();
    let text = many(50);
    let mut config = CsvConfig::new(folder.file(&text), "people");
    config.batch = 10;
    let collector = CsvCollector::new(config.clone()).unwrap();
    let (kept, _) = run(&collector, None).await;
    let checkpoint = kept.0[1].checkpoint.clone().unwrap();
    assert!(run(&collector, Some(&checkpoint)).await.1.is_ok());

    for changed in [
        text.replacen("Person 1,", "Person X,", 1),
        format!("{text}new,n@example.com\r\n"),
    ] {
        folder.file(changed);
        let error = run(&collector, Some(&checkpoint)).await.1.unwrap_err();
        assert_eq!(
            (error.kind(), error.operation_name()),
            (ErrorKind::Conflict, Some("csv.resume")),
            "{error}"
        );
    }
    folder.file(&text);
    config.encoding = "windows-1252".into();
    let error = run(&CsvCollector::new(config).unwrap(), Some(&checkpoint))
        .await
        .1
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    let foreign = crm_core::capability::Checkpoint(serde_json::json!({"page": 3}));
    assert_eq!(
        run(&collector, Some(&foreign)).await.1.unwrap_err().kind(),
        ErrorKind::Invalid
    );
}

/// Fails at one delivery, as a store does that is killed there.
struct Dies(Kept, usize);

#[async_trait::async_trait]
impl crm_core::capability::DraftSink for Dies {
    async fn deliver(&mut self, delivery: crm_core::capability::Delivery) -> crm_core::Result<()> {
        if self.0.0.len() == self.1 {
            return Err(crm_core::Error::new(ErrorKind::Unavailable, "the store is gone"));
        }
        self.0.deliver(delivery).await
    }
}

#[tokio::test]
async fn a_sink_that_fails_stops_the_run_with_its_error() {
    let folder = Folder::new();
    let mut config = CsvConfig::new(folder.file(many(50)), "people");
    config.batch = 10;
    let collector = CsvCollector::new(config).unwrap();
    let mut sink = Dies(Kept::default(), 2);
    let error = collector.collect(&ctx(), None, &mut sink).await.unwrap_err();
    assert_eq!((error.kind(), sink.0.0.len()), (ErrorKind::Unavailable, 2));
    let (rest, _) = run(&collector, sink.0.checkpoint().as_ref()).await;
    assert_eq!(sink.0.drafts().len() + rest.drafts().len(), 45);
}

#[tokio::test]
async fn check_says_whether_the_file_is_there() {
    let folder = Folder::new();
    let path = folder.file("email\na@example.com\n");
    let collector = CsvCollector::new(CsvConfig::new(&path, "people")).unwrap();
    assert!(collector.check().await.is_ok());
    std::fs::remove_file(&path).unwrap();
    let error = collector.check().await.unwrap_err();
    assert_eq!(
        (error.kind(), error.context("setting")),
        (ErrorKind::Config, Some("path"))
    );
}

crm_core::collector_suite!(conforms, async {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!(
        "crm-crawl-{}-{:?}.csv",
        std::process::id(),
        std::thread::current().id()
    ));
    std::fs::write(&path, many(40)).unwrap();
    let mut config = CsvConfig::new(path, "people");
    config.batch = 7;
    std::sync::Arc::new(CsvCollector::new(config).unwrap()) as std::sync::Arc<dyn Collector>
});
