//! A folder where files arrive. What lies where afterwards, and how often each person was delivered, is the oracle.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crm_core::capability::{Checkpoint, Collector, Delivery, DraftSink, RecordStore};
use crm_core::memory::MemoryStore;
use crm_core::{Clock, Error, ErrorKind, ManualClock, Result};
use crm_crawl::file::{FileFormat, FolderCollector, FolderConfig};
use tempfile::TempDir;

use crate::{Kept, ctx, run};

struct Inbox {
    folder: TempDir,
    store: Arc<dyn RecordStore>,
    clock: Arc<ManualClock>,
}

impl Inbox {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            store: Arc::new(MemoryStore::new("memory")),
            clock: Arc::new(ManualClock::at("2026-03-01T09:00:00Z".parse().unwrap())),
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("inbox")
    }

    /// Puts a file there that was written `age` seconds ago.
    fn put(&self, name: &str, content: &str, age: f64) {
        std::fs::create_dir_all(self.path()).unwrap();
        let path = self.path().join(name);
        std::fs::write(&path, content).unwrap();
        let now = Duration::from_micros(self.clock.now().as_micros() as u64);
        let time = SystemTime::UNIX_EPOCH + now;
        let time = if age < 0.0 {
            time + Duration::from_secs_f64(-age)
        } else {
            time - Duration::from_secs_f64(age)
        };
        std::fs::File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_modified(time)
            .unwrap();
    }

    fn config(&self) -> FolderConfig {
        let mut config = FolderConfig::new(self.path(), "erp")
            .rule("*.csv", FileFormat::Csv)
            .rule("*.vcf", FileFormat::Vcard)
            .rule("*.jsonl", FileFormat::Jsonl)
            .rule("*.mbox", FileFormat::Mbox);
        config.files[0].settings.insert("batch".into(), 2.into());
        config
    }

    fn collector(&self, change: impl FnOnce(&mut FolderConfig)) -> FolderCollector {
        let mut config = self.config();
        change(&mut config);
        FolderCollector::new(config, self.store.clone())
            .unwrap()
            .with_clock(self.clock.clone())
    }

    /// Everything below the folder that is a file.
    fn files(&self) -> Vec<String> {
        fn walk(root: &Path, at: &Path, found: &mut Vec<String>) {
            for entry in std::fs::read_dir(at).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    walk(root, &path, found);
                } else {
                    found.push(path.strip_prefix(root).unwrap().display().to_string());
                }
            }
        }
        let mut found = Vec::new();
        walk(&self.path(), &self.path(), &mut found);
        found.sort();
        found
    }
}

fn csv(range: std::ops::Range<usize>) -> String {
    let rows: String = range.map(|n| format!("p{n}@x.example,P {n}\n")).collect();
    format!("email,name\n{rows}")
}

const CARD: &str = "BEGIN:VCARD\nVERSION:3.0\nFN:Ana\nEMAIL:ana@x.example\nEND:VCARD\n";

#[tokio::test]
async fn each_file_once_by_its_content() {
    let inbox = Inbox::new();
    inbox.put("a.csv", &csv(0..5), 60.0);
    inbox.put("b.VCF", CARD, 60.0);
    inbox.put("c.jsonl", "{\"email\": \"j@x.example\"}\n", 60.0);
    inbox.put(
        "d.mbox",
        "From x Thu Jan  1 09:00:00 2026\nFrom: m@x.example\n\n",
        60.0,
    );
    inbox.put("readme.txt", "stays", 60.0);
    let collector = inbox.collector(|_| {});
    let (kept, end) = run(&collector, None).await;
    let end = end.unwrap();
    assert_eq!((end.done, end.drafts, end.rejects), (4, 8, 0));
    assert_eq!(kept.emails().len(), 8);
    assert!(kept.drafts().iter().all(|d| d.provenance.source == "erp"));
    assert_eq!(
        inbox.files(),
        [
            "done/a.csv",
            "done/b.VCF",
            "done/c.jsonl",
            "done/d.mbox",
            "readme.txt"
        ]
    );
    // The same content under another name, and another content under the same name.
    inbox.put("again.csv", &csv(0..5), 60.0);
    inbox.put("a.csv", &csv(5..7), 60.0);
    let (kept, _) = run(&collector, None).await;
    assert_eq!(kept.emails(), ["p5@x.example", "p6@x.example"]);
    let files = inbox.files();
    assert!(files.contains(&"done/again.csv".into()));
    assert!(
        files
            .iter()
            .any(|f| f.starts_with("done/a-") && f.ends_with(".csv")),
        "{files:?}"
    );
    // What is in the store, not in the process: another one knows it too.
    inbox.put("third.csv", &csv(0..5), 60.0);
    let (kept, end) = run(&inbox.collector(|_| {}), None).await;
    assert_eq!((kept.drafts().len(), end.unwrap().done), (0, 1));
}

#[tokio::test]
async fn a_file_counts_when_it_has_settled() {
    let inbox = Inbox::new();
    inbox.put("a.csv", &csv(0..1), 4.0);
    inbox.put("future.csv", &csv(1..2), -3600.0);
    for name in ["x.csv.part", ".x.csv", "x.csv~", "x.tmp"] {
        inbox.put(name, &csv(9..10), 900.0);
    }
    let collector = inbox.collector(|config| config.files[0].pattern = "*".into());
    assert_eq!(collector.ready().await.unwrap(), 0);
    inbox.clock.advance(Duration::from_secs(5));
    assert_eq!(collector.ready().await.unwrap(), 0, "9 s");
    inbox.clock.advance(Duration::from_secs(1));
    assert_eq!(collector.ready().await.unwrap(), 1);
    // Written again: the wait begins anew, also when its time says otherwise (copied with its old one).
    inbox.put("a.csv", &csv(0..3), 3600.0);
    assert_eq!(collector.ready().await.unwrap(), 0);
    inbox.clock.advance(Duration::from_secs(4));
    assert_eq!(
        collector.ready().await.unwrap(),
        1,
        "the one whose time is in the future, seen for 10 s"
    );
    inbox.clock.advance(Duration::from_secs(6));
    assert_eq!(collector.ready().await.unwrap(), 2);
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("/etc/passwd", inbox.path().join("link.csv")).unwrap();
        std::fs::create_dir(inbox.path().join("folder.csv")).unwrap();
        assert_eq!(collector.ready().await.unwrap(), 2);
    }
    // A marker says it outright.
    let marked = inbox.collector(|config| (config.settle, config.marker) = (0.0, Some(".ok".into())));
    assert_eq!(marked.ready().await.unwrap(), 0);
    std::fs::write(inbox.path().join("a.csv.ok"), "").unwrap();
    let (kept, _) = run(&marked, None).await;
    assert_eq!(kept.drafts().len(), 3);
    assert!(
        !inbox.files().iter().any(|f| f.ends_with(".ok")),
        "{:?}",
        inbox.files()
    );
}

#[tokio::test]
async fn it_waits_until_something_is_there_or_the_deadline() {
    let inbox = Inbox::new();
    inbox.put("readme.txt", "", 60.0);
    let collector = inbox.collector(|_| {});
    let soon = ctx().deadline(inbox.clock.now());
    let error = collector.wait(&soon, Duration::from_millis(5)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    let (waited, ()) = tokio::join!(
        async { collector.wait(&ctx(), Duration::from_millis(5)).await },
        async {
            tokio::time::sleep(Duration::from_millis(30)).await;
            inbox.put("a.csv", &csv(0..1), 60.0);
        }
    );
    waited.unwrap();
}

#[tokio::test]
async fn what_cannot_be_read_is_put_aside_and_the_others_go_on() {
    let inbox = Inbox::new();
    inbox.put("1-bad.csv", "name,age\nAna,7\n", 60.0);
    inbox.put(
        "2-rows.csv",
        "email,name\ngood@x.example,A\n,B\nalso@x.example,C,D,E\nfine@x.example,F\n",
        60.0,
    );
    inbox.put("3-utf16.csv", "\u{feff}email\nx", 60.0);
    std::fs::write(
        inbox.path().join("3-utf16.csv"),
        b"\xff\xfee\0m\0a\0i\0l\0\n\0a\0@\0x\0.\0e\0e\0\n\0",
    )
    .unwrap();
    inbox.put("4-empty.csv", "", 60.0);
    let collector = inbox.collector(|config| {
        config.settle = 0.0;
        config.files[0].settings.insert("encoding".into(), "utf-8".into());
    });
    inbox.clock.set("2100-01-01T00:00:00Z".parse().unwrap());
    let (kept, end) = run(&collector, None).await;
    let end = end.unwrap();
    assert_eq!(kept.emails(), ["fine@x.example", "good@x.example"]);
    assert_eq!(end.done, 4);
    let files = inbox.files();
    for name in [
        "failed/1-bad.csv",
        "failed/1-bad.csv.rejects.jsonl",
        "failed/3-utf16.csv",
        "done/2-rows.csv",
        "done/2-rows.csv.rejects.jsonl",
    ] {
        assert!(files.contains(&name.into()), "{name}: {files:?}");
    }
    assert!(
        !files.iter().any(|f| f.starts_with('.')),
        "nothing is left over: {files:?}"
    );
    let text = std::fs::read_to_string(inbox.path().join("done/2-rows.csv.rejects.jsonl")).unwrap();
    let lines: Vec<u64> = text
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["line"]
                .as_u64()
                .unwrap()
        })
        .collect();
    assert_eq!(lines, [3, 4]);
    let bad = kept
        .rejects()
        .into_iter()
        .find(|r| r.place.ends_with("1-bad.csv"))
        .unwrap();
    assert!(bad.line.is_none() && bad.reason.contains("email"), "{bad:?}");
    // A failed one is tried again when it comes again, mended settings or not.
    std::fs::rename(
        inbox.path().join("failed/1-bad.csv"),
        inbox.path().join("1-bad.csv"),
    )
    .unwrap();
    let (kept, _) = run(&collector, None).await;
    assert_eq!(kept.rejects().len(), 1);
    // The folder's own trouble is an error.
    let gone = inbox.collector(|config| config.path = "/nowhere".into());
    let error = run(&gone, None).await.1.unwrap_err();
    assert_eq!(
        (error.kind(), error.context("setting")),
        (ErrorKind::Config, Some("path"))
    );
}

/// A sink like the store's: what it took is kept with its checkpoint, whole. It dies before or after the `n`-th delivery.
struct Dying {
    kept: Kept,
    left: usize,
    before: bool,
}

#[async_trait::async_trait]
impl DraftSink for Dying {
    async fn deliver(&mut self, delivery: Delivery) -> Result<()> {
        if self.left == 0 && self.before {
            return Err(Error::new(ErrorKind::Unavailable, "killed"));
        }
        self.kept.0.push(delivery);
        if self.left == 0 {
            return Err(Error::new(ErrorKind::Unavailable, "killed"));
        }
        self.left -= 1;
        Ok(())
    }
}

/// Whom the deliveries hold, how often, and how many rejects.
fn counted(deliveries: &[Delivery]) -> (BTreeMap<String, usize>, usize) {
    let mut people = BTreeMap::new();
    for draft in deliveries.iter().flat_map(|d| &d.drafts) {
        *people.entry(draft.emails[0].clone()).or_default() += 1;
    }
    (people, deliveries.iter().map(|d| d.rejects.len()).sum())
}

fn fill(inbox: &Inbox) {
    inbox.put("a.csv", &csv(0..5), 60.0);
    inbox.put(
        "b.csv",
        "email,name\nb1@x.example,B\n,nobody\nb2@x.example,B\n,no\nb3@x.example,B\n",
        60.0,
    );
    inbox.put("c.csv", "no,columns\n1,2\n", 60.0);
    inbox.put("d.csv", &csv(5..9), 60.0);
}

#[tokio::test]
async fn stopped_anywhere_it_goes_on_without_a_gap_and_nobody_twice() {
    let plain = Inbox::new();
    fill(&plain);
    let (whole, end) = run(&plain.collector(|_| {}), None).await;
    end.unwrap();
    let (wanted, files) = (counted(&whole.0), plain.files());
    assert!(
        wanted.0.len() == 12 && wanted.0.values().all(|n| *n == 1) && wanted.1 == 3,
        "{wanted:?}"
    );
    let rejects = std::fs::read_to_string(plain.path().join("done/b.csv.rejects.jsonl")).unwrap();
    for left in 0..whole.0.len() {
        for before in [true, false] {
            let inbox = Inbox::new();
            fill(&inbox);
            let mut sink = Dying {
                kept: Kept::default(),
                left,
                before,
            };
            let error = inbox
                .collector(|_| {})
                .collect(&ctx(), None, &mut sink)
                .await
                .unwrap_err();
            assert_eq!(error.message(), "killed");
            let checkpoint: Option<Checkpoint> = sink.kept.checkpoint();
            // Another process, after the first died.
            let (rest, end) = run(&inbox.collector(|_| {}), checkpoint.as_ref()).await;
            end.unwrap();
            let all: Vec<Delivery> = sink.kept.0.iter().chain(&rest.0).cloned().collect();
            assert_eq!(
                counted(&all),
                wanted,
                "killed {} delivery {left}",
                if before { "before" } else { "after" }
            );
            assert_eq!(inbox.files(), files);
            let told = std::fs::read_to_string(inbox.path().join("done/b.csv.rejects.jsonl")).unwrap();
            assert_eq!(told.lines().count(), rejects.lines().count());
        }
    }
    // The control: without the checkpoint, people come twice.
    let inbox = Inbox::new();
    fill(&inbox);
    let mut sink = Dying {
        kept: Kept::default(),
        left: 1,
        before: false,
    };
    inbox
        .collector(|_| {})
        .collect(&ctx(), None, &mut sink)
        .await
        .unwrap_err();
    let (rest, _) = run(&inbox.collector(|_| {}), None).await;
    let all: Vec<Delivery> = sink.kept.0.iter().chain(&rest.0).cloned().collect();
    assert!(counted(&all).0.values().any(|n| *n == 2));
}

#[tokio::test]
async fn what_happens_to_a_file_while_it_is_read() {
    for change in ["gone", "other"] {
        let inbox = Inbox::new();
        inbox.put("a.csv", &csv(0..6), 60.0);
        let mut sink = Dying {
            kept: Kept::default(),
            left: 0,
            before: false,
        };
        inbox
            .collector(|_| {})
            .collect(&ctx(), None, &mut sink)
            .await
            .unwrap_err();
        std::fs::remove_file(inbox.path().join("a.csv")).unwrap();
        if change == "other" {
            inbox.put("a.csv", &csv(20..22), 60.0);
        }
        let (rest, end) = run(&inbox.collector(|_| {}), sink.kept.checkpoint().as_ref()).await;
        end.unwrap();
        assert_eq!(rest.rejects().len(), 1, "{change}");
        assert_eq!(rest.emails().len(), if change == "other" { 2 } else { 0 });
    }
    // Another file took the name of one that was put away just before the process died.
    let inbox = Inbox::new();
    inbox.put("a.csv", &csv(0..2), 60.0);
    let (kept, _) = run(&inbox.collector(|_| {}), None).await;
    inbox.put("a.csv", &csv(7..8), 60.0);
    let (rest, end) = run(&inbox.collector(|_| {}), kept.checkpoint().as_ref()).await;
    end.unwrap();
    assert_eq!(rest.emails(), ["p7@x.example"], "it is read, not put away unread");
}

#[test]
fn settings_are_checked() {
    let store: Arc<dyn RecordStore> = Arc::new(MemoryStore::new("memory"));
    let wrong = |json: &str| {
        let config: FolderConfig = serde_json::from_str(json).unwrap();
        let error = FolderCollector::new(config, store.clone()).unwrap_err();
        error.context("setting").unwrap().to_owned()
    };
    assert_eq!(wrong(r#"{"path": "x", "name": "", "files": []}"#), "name");
    assert_eq!(wrong(r#"{"path": "x", "name": "n", "files": []}"#), "files");
    for (rule, setting) in [
        (r#"{"pattern": "a/*", "format": "csv"}"#, "pattern"),
        (
            r#"{"pattern": "*", "format": "csv", "settings": {"name": "x"}}"#,
            "name",
        ),
        (
            r#"{"pattern": "*", "format": "csv", "settings": {"delimeter": ";"}}"#,
            "settings",
        ),
        (
            r#"{"pattern": "*", "format": "csv", "settings": {"encoding": "utf-9"}}"#,
            "encoding",
        ),
        (
            r#"{"pattern": "*", "format": "mbox", "settings": {"mail": {"own": ["x"]}}}"#,
            "own",
        ),
    ] {
        assert_eq!(
            wrong(&format!(r#"{{"path": "x", "name": "n", "files": [{rule}]}}"#)),
            setting
        );
    }
    let plain = r#"{"pattern": "*", "format": "csv"}"#;
    assert_eq!(
        wrong(&format!(
            r#"{{"path": "x", "name": "n", "files": [{plain}], "marker": "/x"}}"#
        )),
        "marker"
    );
    assert_eq!(
        wrong(&format!(
            r#"{{"path": "x", "name": "n", "files": [{plain}], "settle": -1}}"#
        )),
        "settle"
    );
}
