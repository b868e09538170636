use crm_core::ErrorKind;
use crm_core::capability::Collector;
use crm_core::registry::Catalog;

use crate::run;

fn catalog() -> Catalog {
    let mut catalog = Catalog::new();
    crm_crawl::catalog::register(&mut catalog);
    catalog
}

#[tokio::test]
async fn a_file_by_url() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("my people & co.csv");
    std::fs::write(
        &path,
        "who;mail;day;sum;no\nAna;a@example.com;31.12.2025;9.90;1\n",
    )
    .unwrap();
    let path = path.to_str().unwrap().replace(' ', "%20");
    let url = format!(
        "csv:{path}?name=shop&delimiter=%3B&currency=EUR&date_format=%25d.%25m.%25Y&map.who=name&map.mail=email\
         &map.day=order.date&map.sum=order.amount&map.no=order.id"
    );
    let collector = catalog().open::<dyn Collector>(&url).await.unwrap();
    assert_eq!(collector.info().name, "shop");
    let (kept, result) = run(collector.as_ref(), None).await;
    result.unwrap();
    assert_eq!(kept.drafts()[0].orders[0].total.to_string(), "9.90 EUR");
}

#[tokio::test]
async fn a_file_by_its_configuration() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("p.csv"), "email\na@example.com\n").unwrap();
    let config = folder.path().join("p.json");
    std::fs::write(&config, r#"{"path": "p.csv", "name": "people"}"#).unwrap();
    let collector = catalog()
        .open::<dyn Collector>(&format!("csv:{}", config.display()))
        .await
        .unwrap();
    let (kept, result) = run(collector.as_ref(), None).await;
    result.unwrap();
    assert_eq!(kept.emails(), ["a@example.com"]);

    std::fs::write(&config, r#"{"path": "p.csv", "name": "people", "bach": 3}"#).unwrap();
    let error = catalog()
        .open::<dyn Collector>(&format!("csv:{}", config.display()))
        .await
        .unwrap_err();
    assert!(error.context("reason").unwrap().contains("bach"), "{error}");
}

#[tokio::test]
async fn mail_by_url() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sales.mbox");
    let text = "From x Thu Jan  1 09:00:00 2026\nFrom: a@x.example\nTo: me@shop.example, b@home.example\n\n";
    std::fs::write(&path, text).unwrap();
    let url = format!(
        "mbox:{}?name=mail&own=%40shop.example&own=b@home.example",
        path.display()
    );
    let (kept, result) = run(
        catalog().open::<dyn Collector>(&url).await.unwrap().as_ref(),
        None,
    )
    .await;
    result.unwrap();
    assert_eq!(kept.emails(), ["a@x.example"]);
    std::fs::create_dir(folder.path().join("cur")).unwrap();
    std::fs::write(folder.path().join("cur/1.a:2,"), "From: c@x.example\n\n").unwrap();
    let config = folder.path().join("m.json");
    std::fs::write(&config, r#"{"path": ".", "name": "mail"}"#).unwrap();
    let url = format!("maildir:{}", config.display());
    let (kept, result) = run(
        catalog().open::<dyn Collector>(&url).await.unwrap().as_ref(),
        None,
    )
    .await;
    result.unwrap();
    assert_eq!(kept.emails(), ["c@x.example"]);
}

#[cfg(feature = "crawl")]
#[tokio::test]
async fn an_interface_by_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("api.json");
    std::fs::write(&path, r#"{"name": "api", "url": "https://api.example/x"}"#).unwrap();
    let url = format!("rest:{}", path.display());
    let collector = catalog().open::<dyn Collector>(&url).await.unwrap();
    assert_eq!(collector.info().name, "api");
    std::fs::write(
        &path,
        r#"{"name": "api", "url": "https://api.example/x", "since": {"param": "s"}}"#,
    )
    .unwrap();
    let error = catalog().open::<dyn Collector>(&url).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.context("setting")),
        (ErrorKind::Config, Some("since"))
    );
}

#[tokio::test]
async fn wrong_urls_say_what_is_wrong() {
    for (url, setting) in [
        ("csv:", "path"),
        ("csv:p.csv?deli=x", "deli"),
        ("csv:p.csv?delimiter=xy", "delimiter"),
        ("csv:p.csv?region=Australia", "phone_region"),
        ("csv:gone.json", "path"),
        ("mbox:x.mbox?owner=x", "owner"),
        ("maildir:x?own=x", "own"),
    ] {
        let error = catalog().open::<dyn Collector>(url).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.context("setting")),
            (ErrorKind::Config, Some(setting)),
            "{url}: {error}"
        );
    }
    let error = catalog()
        .open::<dyn Collector>("csv:p.csv?map.mail=e-mail")
        .await
        .unwrap_err();
    assert_eq!(error.context("target"), Some("e-mail"));
}

#[cfg(feature = "crawl")]
#[tokio::test]
async fn a_spider_by_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("site.json");
    let spec = r#"{"name": "site", "start": ["https://shop.example/"], "item": "div", "fields": [{"target": "email"}]}"#;
    std::fs::write(&path, spec).unwrap();
    let url = format!("spider:{}", path.display());
    assert_eq!(
        catalog().open::<dyn Collector>(&url).await.unwrap().info().name,
        "site"
    );
    std::fs::write(&path, spec.replace("\"div\"", "\"div[\"")).unwrap();
    let error = catalog().open::<dyn Collector>(&url).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.context("setting")),
        (ErrorKind::Config, Some("item")),
        "{error}"
    );
}

#[cfg(feature = "crawl")]
#[tokio::test]
async fn a_spider_and_an_interface_as_yaml() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("site.yaml");
    let spec =
        "# who is there\nname: site\nstart: [https://shop.example/]\nitem: div\nfields:\n  - target: email\n";
    std::fs::write(&path, spec).unwrap();
    let url = format!("spider:{}", path.display());
    assert_eq!(
        catalog().open::<dyn Collector>(&url).await.unwrap().info().name,
        "site"
    );
    std::fs::write(&path, spec.replace("item:", "itme:")).unwrap();
    let error = catalog().open::<dyn Collector>(&url).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(
        error.to_string().contains("itme") || format!("{error:?}").contains("itme"),
        "{error:?}"
    );
    let path = folder.path().join("api.yml");
    std::fs::write(
        &path,
        "name: api\nurl: https://api.example/x\npages: {type: link}\n",
    )
    .unwrap();
    let url = format!("rest:{}", path.display());
    assert_eq!(
        catalog().open::<dyn Collector>(&url).await.unwrap().info().name,
        "api"
    );
}

#[cfg(not(feature = "crawl"))]
#[tokio::test]
async fn a_spider_left_out_names_its_feature() {
    let error = catalog()
        .open::<dyn Collector>("spider:site.json")
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.context("feature")),
        (ErrorKind::Unsupported, Some("crawl"))
    );
}
