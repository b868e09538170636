//! A maildir: a folder that lives.

use std::sync::Arc;

use crm_core::capability::Collector;
use crm_core::{ErrorKind, Provider};
use crm_crawl::file::{MaildirCollector, MaildirConfig};
use tempfile::TempDir;

use crate::mail::{clock, told};
use crate::run;

fn maildir(messages: &[(&str, &str)]) -> (TempDir, MaildirConfig) {
    let folder = tempfile::tempdir().unwrap();
    for part in ["cur", "new", "tmp", ".Sent/cur", ".Sent/new", ".Sent/tmp"] {
        std::fs::create_dir_all(folder.path().join(part)).unwrap();
    }
    for (path, text) in messages {
        std::fs::write(folder.path().join(path), text).unwrap();
    }
    let config = MaildirConfig::new(folder.path(), "mail");
    (folder, config)
}

fn from(who: &str) -> String {
    format!("From: {who}@x.example\r\nDate: Fri, 2 Jan 2026 10:00:00 +0200\r\n\r\nTo: body@x.example\r\n")
}

#[tokio::test]
async fn a_maildir_with_its_folders() {
    let (folder, mut config) = maildir(&[
        ("new/1767225601.M1.host", &from("new")),
        ("cur/1767225602.M1.host:2,S", &from("seen")),
        ("cur/1767225603.M1.host:2,ST", &from("trashed")),
        ("cur/1767225604.M1.host:2,D", &from("draft")),
        (".Sent/cur/1767225605.M1.host:2,", &from("sent")),
        ("tmp/1767225606.M1.host", &from("unfinished")),
        ("cur/1767225607.M1.host:2,", "From: nodate@x.example\n\nbody"),
        ("cur/1767225608.M1.host:2,", "no header\n"),
        ("cur/.hidden", &from("hidden")),
    ]);
    #[cfg(unix)]
    std::os::unix::fs::symlink("/etc/passwd", folder.path().join("cur/1767225609.M1.host:2,")).unwrap();
    let collector = MaildirCollector::new(config.clone()).unwrap().with_clock(clock());
    let (kept, end) = run(&collector, None).await;
    assert_eq!(
        told(&kept),
        [
            "<new@x.example> from 2026-01-02T08:00 -",
            "<seen@x.example> from 2026-01-02T08:00 -",
            "<nodate@x.example> from 2026-01-01T00:00 -",
            "<sent@x.example> from 2026-01-02T08:00 -",
        ]
    );
    assert_eq!(kept.rejects().len(), 1);
    assert!(
        kept.rejects()[0].place.ends_with("1767225608.M1.host:2,"),
        "{:?}",
        kept.rejects()
    );
    let end = end.unwrap();
    assert_eq!((end.drafts, end.rejects, end.total), (4, 1, Some(end.done)));
    (config.folders, config.trashed) = (false, true);
    let (kept, _) = run(&MaildirCollector::new(config).unwrap(), None).await;
    assert_eq!(
        kept.emails(),
        [
            "new@x.example",
            "nodate@x.example",
            "seen@x.example",
            "trashed@x.example"
        ]
    );
    let nothing = MaildirCollector::new(MaildirConfig::new(folder.path().join("cur"), "mail")).unwrap();
    let error = nothing.check().await.unwrap_err();
    assert_eq!(
        (error.kind(), error.context("setting")),
        (ErrorKind::Config, Some("path"))
    );
}

#[tokio::test]
async fn a_maildir_that_lives() {
    let names: Vec<(String, String)> = (0..40)
        .map(|n| (format!("new/17672256{n:02}.M1.host"), from(&format!("p{n:02}"))))
        .collect();
    let files: Vec<(&str, &str)> = names.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    let (folder, mut config) = maildir(&files);
    config.batch = 10;
    let collector = MaildirCollector::new(config).unwrap();
    let (kept, _) = run(&collector, None).await;
    assert_eq!(kept.emails().len(), 40);
    let checkpoint = kept.0[1].checkpoint.clone();
    // Meanwhile somebody reads and deletes mail, and more comes in.
    for (n, (path, _)) in names.iter().enumerate() {
        let at = folder.path().join(path);
        match n % 3 {
            0 => std::fs::rename(&at, folder.path().join(format!("cur/17672256{n:02}.M1.host:2,S"))).unwrap(),
            1 => std::fs::remove_file(&at).unwrap(),
            _ => {}
        }
    }
    std::fs::write(folder.path().join("new/1767225699.M1.host"), from("late")).unwrap();
    let (rest, end) = run(&collector, checkpoint.as_ref()).await;
    let wanted: Vec<String> = (20..40)
        .filter(|n| n % 3 != 1)
        .map(|n| format!("p{n:02}@x.example"))
        .collect();
    let mut found = rest.emails();
    assert_eq!(found.remove(0), "late@x.example");
    assert_eq!(found, wanted);
    assert_eq!(end.unwrap().drafts, 20 + 15);
}

async fn suite_maildir() -> Arc<dyn Collector> {
    let names: Vec<(String, String)> = (0..40)
        .map(|n| {
            let part = ["cur", "new", ".Sent/cur"][n % 3];
            (
                format!("{part}/17672256{n:02}.M1.host"),
                if n % 9 == 4 {
                    "x\n".into()
                } else {
                    from(&format!("p{n}"))
                },
            )
        })
        .collect();
    let files: Vec<(&str, &str)> = names.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    let (folder, mut config) = maildir(&files);
    config.batch = 7;
    std::mem::forget(folder);
    Arc::new(MaildirCollector::new(config).unwrap())
}

crm_core::collector_suite!(maildir_contract, suite_maildir());
