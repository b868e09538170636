//! Wrong inputs are answered clearly, and nothing is lost.

use std::path::Path;
use std::sync::Arc;

use open_crm::capability::RecordStore;
use open_crm::channels::{Audience, CampaignPlan, Mode, OutboxState, Template};
use open_crm::consent::Evidence;
use open_crm::crawl::file::{CsvCollector, CsvConfig};
use open_crm::message::Mailbox;
use open_crm::prelude::*;

use super::demo::smtp_sink::SmtpSink;
use super::{context, key, spider};

async fn with_file(path: &Path, bytes: &[u8]) -> Crm {
    std::fs::write(path, bytes).unwrap();
    let collector = CsvCollector::new(CsvConfig::new(path, "people")).unwrap();
    Crm::builder()
        .store("memory:")
        .collector(Arc::new(collector))
        .build()
        .await
        .unwrap()
}

#[tokio::test]
async fn a_broken_line_is_named_and_the_others_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let text = "email,given name,city\na@example.com,Ana,Oslo\nb@example.com,Bo\nno address,Chen,Graz\nd@example.com,Dora,Lyon\n";
    let crm = with_file(&folder.path().join("p.csv"), text.as_bytes()).await;
    let ctx = context();
    let report = crm.collect(&ctx, "people", &mut |_, _| ()).await.unwrap();
    assert_eq!((report.created, report.rejected), (2, 2), "{report:?}");
    let rejects = crm
        .customers()
        .rejects(&ctx, "people", 10, None)
        .await
        .unwrap()
        .items;
    let lines: Vec<_> = rejects
        .iter()
        .map(|reject| (reject.line, reject.field.as_deref()))
        .collect();
    assert!(lines.iter().any(|(line, _)| *line == Some(3)), "{rejects:?}");
    assert!(lines.contains(&(Some(4), Some("email"))), "{rejects:?}");
    assert!(
        rejects.iter().all(|reject| !reject.reason.contains("no address")),
        "no values in reasons: {rejects:?}"
    );
}

#[tokio::test]
async fn a_wrong_encoding_is_named_and_nothing_garbled_is_stored() {
    let folder = tempfile::tempdir().unwrap();
    // "José" in Windows-1252 is not UTF-8.
    let crm = with_file(
        &folder.path().join("p.csv"),
        b"email,given name\na@example.com,Jos\xe9\nb@example.com,Bo\n",
    )
    .await;
    let ctx = context();
    let report = crm.collect(&ctx, "people", &mut |_, _| ()).await.unwrap();
    assert_eq!((report.created, report.rejected), (1, 1), "{report:?}");
    let rejects = crm
        .customers()
        .rejects(&ctx, "people", 10, None)
        .await
        .unwrap()
        .items;
    assert_eq!(rejects[0].line, Some(2), "{rejects:?}");
    assert!(
        rejects[0].reason.contains("UTF-8") && rejects[0].reason.contains("encoding"),
        "{rejects:?}"
    );
    let page = crm
        .customers()
        .find(&ctx, &Query::new(Filter::All))
        .await
        .unwrap();
    let names: Vec<_> = page.items.iter().map(|customer| customer.name.full()).collect();
    assert_eq!(
        names,
        ["Bo"],
        "the other row is kept, the garbled one is not stored"
    );
}

#[tokio::test]
async fn a_missing_column_is_named_with_those_there_are() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.csv");
    std::fs::write(&path, "Vorname,Nachname\nAna,Kask\n").unwrap();
    let mut config = CsvConfig::new(&path, "people");
    config.mapping =
        Some(open_crm::crawl::file::CsvMapping::new().column("E-Mail", "email".parse().unwrap()));
    let collector = CsvCollector::new(config).unwrap();
    let crm = Crm::builder()
        .store("memory:")
        .collector(Arc::new(collector))
        .build()
        .await
        .unwrap();
    let error = crm
        .collect(&context(), "people", &mut |_, _| ())
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("E-Mail") && error.contains("Vorname"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_that_forbids_is_left_alone_and_named() {
    let hits = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = hits.clone();
    let router = axum::Router::new()
        .route(
            "/robots.txt",
            axum::routing::get(|| async { "User-agent: *\nDisallow: /\n" }),
        )
        .fallback(move || {
            counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            async { "<div class=customer><h2>Ana</h2><p><a href='mailto:a@example.com'>x</a></p></div>" }
        });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move { axum::serve(listener, router).await });
    let crm = Crm::builder()
        .store("memory:")
        .collector(spider(&format!("http://{address}/people"), address))
        .build()
        .await
        .unwrap();
    let error = crm.collect(&context(), "web", &mut |_, _| ()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    assert!(error.to_string().contains("robots.txt"), "{error}");
    assert_eq!(hits.load(std::sync::atomic::Ordering::SeqCst), 0);
    server.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_refused_recipient_of_ten_does_not_keep_the_others_from_it() {
    let folder = tempfile::tempdir().unwrap();
    let sink = SmtpSink::start(folder.path().join("mails"), 0).await.unwrap();
    let crm = Crm::builder()
        .store("memory:")
        .mailer(0, format!("smtp://{}?tls=dangerous-plaintext", sink.address()))
        .mode(Mode::Live)
        .address_key(key())
        .build()
        .await
        .unwrap();
    let ctx = context();
    let news = Purpose::marketing("news").unwrap();
    let mut ids = Vec::new();
    for n in 0..10 {
        let mut draft = Draft::new(Provenance::new("test", Timestamp::EPOCH));
        draft.emails.push(if n == 3 {
            "refused@example.org".into()
        } else {
            format!("p{n}@example.org")
        });
        let id = crm.customers().upsert(&ctx, draft).await.unwrap().id;
        let address = crm
            .customers()
            .get(&ctx, id)
            .await
            .unwrap()
            .unwrap()
            .email()
            .unwrap()
            .address
            .clone();
        let evidence = Evidence::new("test", "Yes, write to me.").unwrap();
        crm.outreach()
            .grant(&ctx, id, &address, &news, evidence, None)
            .await
            .unwrap();
        ids.push(id);
    }
    let from = Mailbox::new(EmailAddress::parse("shop@example.com").unwrap(), "Shop").unwrap();
    let template = Template::new("News", "There is news.").unwrap();
    let plan = CampaignPlan::new(
        "spring",
        Audience::frozen(ids.clone()),
        news.clone(),
        template,
        from,
    );
    crm.outreach().launch(&ctx, &plan, &mut |_| ()).await.unwrap();
    crm.outreach().dispatcher().unwrap().drain(&ctx).await.unwrap();
    let status = crm.outreach().status(&ctx, "spring").await.unwrap();
    assert_eq!(
        (status.count(OutboxState::Sent), status.count(OutboxState::Failed)),
        (9, 1),
        "{status:?}"
    );
    let mailbox = sink.mailbox().unwrap();
    assert_eq!((mailbox.mails, mailbox.distinct, sink.refused()), (9, 9, 1));
    // The address is remembered as dead: nobody tries it again.
    let refused = crm.customers().get(&ctx, ids[3]).await.unwrap().unwrap();
    let address = refused.contact_points[0].address.clone();
    assert!(
        !crm.outreach()
            .explain(&ctx, ids[3], &address, &news)
            .await
            .unwrap()
            .allowed
    );
}

#[tokio::test]
async fn a_database_that_cannot_be_written_is_named() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), "not a folder").unwrap();
    for path in [
        folder.path().join("file/crm.db"),
        folder.path().join("no/such/folder/crm.db"),
        folder.path().to_path_buf(),
    ] {
        let error = Crm::open(&format!("sqlite:{}", path.display()))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{error}");
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    }
    // A file that is no database is not overwritten.
    let path = folder.path().join("letter.txt");
    std::fs::write(&path, "Dear Ana, this is a letter and no database. ".repeat(100)).unwrap();
    let error = Crm::open(&format!("sqlite:{}", path.display()))
        .await
        .unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::Config | ErrorKind::Corrupt),
        "{error}"
    );
    assert!(std::fs::read_to_string(&path).unwrap().starts_with("Dear Ana"));
}

#[tokio::test]
async fn a_store_that_cannot_be_meant_is_refused() {
    // These tests run with every feature, so a provider that was left out is played: its feature is named.
    let mut catalog = open_crm::catalog();
    catalog.absent::<dyn RecordStore>("oracle", "oracle");
    let error = catalog
        .open::<dyn RecordStore>("oracle://host/crm")
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.context("feature")),
        (ErrorKind::Unsupported, Some("oracle"))
    );
    let error = catalog
        .open::<dyn RecordStore>("redis://host/crm")
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let known = error.context("known").unwrap();
    for scheme in [
        "memory",
        "sqlite",
        "mysql",
        "mariadb",
        "postgres",
        "postgresql",
        "mongodb",
    ] {
        assert!(
            known.contains(scheme),
            "{scheme} is among the known ones: {known}"
        );
    }
    for url in ["mysql://host/crm", "postgres://host/crm"] {
        let error = catalog.open::<dyn RecordStore>(url).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.context("setting")),
            (ErrorKind::Config, Some("url")),
            "{url} names no user"
        );
    }
    let error = Crm::builder().build().await.unwrap_err();
    assert_eq!(
        (error.kind(), error.context("setting")),
        (ErrorKind::Config, Some("store"))
    );
}
