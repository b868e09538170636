//! The static file.

use std::path::PathBuf;

use crm_core::registry::discovery::{Discovery, FileDiscovery, InstanceStatus, Service};
use crm_core::testkit::fixtures;
use crm_core::{ErrorKind, Health, Provider};

struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("open-crm-discovery-{}", fixtures::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
    fn write(&self, text: impl AsRef<[u8]>) -> PathBuf {
        let (new, file) = (self.0.join("new"), self.0.join("instances.json"));
        std::fs::write(&new, text).unwrap();
        std::fs::rename(&new, &file).unwrap();
        file
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn mailer() -> Service {
    "mailer/out".parse().unwrap()
}

const TWO: &str = r#"{"instances":[
  {"service":"mailer/out","id":"b","address":"https://b.example/","status":"OUT_OF_SERVICE"},
  {"service":"mailer/out","id":"a","address":"https://a.example/","zone":"eu-1","metadata":{"weight":"3"}},
  {"service":"sms-sender/out","id":"a","address":"https://s.example/"}]}"#;

#[tokio::test]
async fn it_lists_and_follows_its_file() {
    let folder = Folder::new();
    let path = folder.write(TWO);
    let discovery = FileDiscovery::open("static", &path).unwrap();
    let mut watch = discovery.watch(&mailer()).await.unwrap();
    let first = watch.next().await.unwrap();
    let said: Vec<_> = first
        .instances
        .iter()
        .map(|i| (i.id.as_str(), i.status))
        .collect();
    assert_eq!(
        said,
        [("a", InstanceStatus::Up), ("b", InstanceStatus::OutOfService)]
    );
    assert_eq!(first.get("a").unwrap().zone.as_deref(), Some("eu-1"));

    discovery.tick().await.unwrap();
    assert_eq!(
        discovery.list(&mailer()).await.unwrap().generation,
        first.generation,
        "nothing changed"
    );

    folder.write(TWO.replace("b.example", "c.example"));
    discovery.tick().await.unwrap();
    let next = watch.next().await.unwrap();
    assert_eq!(next.get("b").unwrap().address.as_str(), "https://c.example/");
    assert!(next.generation > first.generation);

    // A service that left the file is told to its watch.
    folder.write(r#"{"instances":[]}"#);
    discovery.tick().await.unwrap();
    assert!(watch.next().await.unwrap().instances.is_empty());
}

/// A mistake changes nothing, is named, and shows as stale until it is corrected.
#[tokio::test]
async fn a_mistake_keeps_what_was_known() {
    let folder = Folder::new();
    let path = folder.write(TWO);
    let discovery = FileDiscovery::open("static", &path).unwrap();
    for (text, context, value) in [
        ("{", "line", "1"),
        (
            r#"{"instances":[{"service":"mailer/out","id":"a","address":"nonsense"}]}"#,
            "entry",
            "1",
        ),
        (
            r#"{"instances":[{"service":"Mailer","id":"a","address":"http://a/"}]}"#,
            "entry",
            "1",
        ),
        (
            r#"{"instances":[{"service":"mailer/out","id":"a/b","address":"http://a/"}]}"#,
            "field",
            "id",
        ),
        (
            r#"{"instances":[{"service":"m/o","id":"a","address":"http://a/"},{"service":"m/o","id":"a","address":"http://b/"}]}"#,
            "entry",
            "2",
        ),
        (r#"{"instances":[],"instance":1}"#, "line", "1"),
    ] {
        folder.write(text);
        let error = discovery.tick().await.unwrap_err();
        assert_eq!(
            (error.kind(), error.context(context)),
            (ErrorKind::Config, Some(value)),
            "{error}"
        );
        let known = discovery.list(&mailer()).await.unwrap();
        assert_eq!((known.instances.len(), known.stale), (2, true), "{text}");
        assert_eq!(discovery.check().await.unwrap(), Health::Degraded);
    }
    std::fs::remove_file(&path).unwrap();
    discovery.tick().await.unwrap_err();
    assert_eq!(discovery.list(&mailer()).await.unwrap().instances.len(), 2);
    folder.write(TWO);
    discovery.tick().await.unwrap();
    let known = discovery.list(&mailer()).await.unwrap();
    assert_eq!((known.instances.len(), known.stale), (2, false));
}

#[tokio::test]
async fn it_is_read_only_and_bounded() {
    let folder = Folder::new();
    let path = folder.write(TWO);
    let discovery = FileDiscovery::open("static", &path).unwrap();
    let one = discovery.list(&mailer()).await.unwrap().instances[0].clone();
    for error in [
        discovery.register(&one).await.unwrap_err(),
        discovery.renew(&mailer(), "a").await.unwrap_err(),
        discovery.deregister(&mailer(), "a").await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }
    folder.write(vec![b' '; 5 * 1024 * 1024]);
    let error = FileDiscovery::open("static", &path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("most="), "{error}");
    assert!(FileDiscovery::open("static", folder.0.join("absent")).is_err());
}
