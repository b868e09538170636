//! Headers of mail, from mbox files of every dialect and from maildirs.

use std::sync::Arc;

use crm_core::ManualClock;
use crm_core::capability::Collector;
use crm_core::customer::Draft;
use crm_crawl::file::{MailReading, MailRole, MboxCollector, MboxConfig};
use proptest::prelude::*;
use tempfile::TempDir;

use crate::{Kept, run};

pub(crate) fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::at("2026-06-01T00:00:00Z".parse().unwrap()))
}

fn mbox(content: impl AsRef<[u8]>) -> (TempDir, MboxConfig) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f.mbox");
    std::fs::write(&path, content).unwrap();
    (folder, MboxConfig::new(path, "mail"))
}

async fn read(content: impl AsRef<[u8]>, change: impl FnOnce(&mut MailReading)) -> Kept {
    let (_folder, mut config) = mbox(content);
    change(&mut config.mail);
    let collector = MboxCollector::new(config).unwrap().with_clock(clock());
    let (kept, end) = run(&collector, None).await;
    end.unwrap();
    kept
}

/// `name <address> role time direction`, in order.
pub(crate) fn told(kept: &Kept) -> Vec<String> {
    let tell = |draft: &Draft| {
        let name = draft
            .name
            .as_ref()
            .map(|name| name.display.clone() + " ")
            .unwrap_or_default();
        let event = draft.interactions.first().map(|event| {
            let word = |key: &str| {
                event
                    .data
                    .get(key)
                    .and_then(|v| v.as_str())
                    .unwrap_or("-")
                    .to_owned()
            };
            format!(
                " {} {} {}",
                word("role"),
                &event.at.to_string()[..16],
                word("direction")
            )
        });
        format!("{name}<{}>{}", draft.emails[0], event.unwrap_or_default())
    };
    kept.drafts().iter().map(tell).collect()
}

fn reasons(kept: &Kept) -> Vec<String> {
    let tell = |r: &crm_core::capability::Reject| {
        format!("{:?} {} {}", r.line, r.field.as_deref().unwrap_or("-"), r.reason)
    };
    kept.rejects().iter().map(tell).collect()
}

const LINE: &str = "From x@y.example Thu Jan  1 09:00:00 2026\n";

fn message(fields: &str, body: &str) -> String {
    format!("{LINE}{fields}\n{body}\n")
}

#[tokio::test]
async fn people_of_a_message() {
    let text = message(
        "From: =?utf-8?q?J=C3=BCrgen?= Kask <j@x.example>\n\
         Reply-To: home@x.example\n\
         To: me@shop.example, Team: bo@y.example (Bo Ek), \"Zed, A.\" <z@y.example>;\n\
         Cc: =?utf-8?B?5bGx55Sw?= <yamada@z.example>,\n\t<J@X.EXAMPLE>\n\
         Bcc: secret@z.example\n\
         Date: Fri, 2 Jan 2026 10:00:00 +0200\nMessage-ID: <1@x.example>\nSubject: private\n",
        "To: body@z.example",
    );
    let kept = read(&text, |mail| mail.own = vec!["@shop.example".into()]).await;
    assert_eq!(
        told(&kept),
        [
            "Jürgen Kask <j@x.example> from 2026-01-02T08:00 inbound",
            "<home@x.example> reply_to 2026-01-02T08:00 inbound",
            "Bo Ek <bo@y.example> to 2026-01-02T08:00 inbound",
            "Zed, A. <z@y.example> to 2026-01-02T08:00 inbound",
            "山田 <yamada@z.example> cc 2026-01-02T08:00 inbound",
        ]
    );
    assert!(kept.rejects().is_empty());
    let first = &kept.drafts()[0];
    assert_eq!(
        (first.provenance.line, first.interactions[0].kind.as_str()),
        (Some(1), "email")
    );
    assert!(!serde_json::to_string(first).unwrap().contains("private"));
    // Sent by oneself: the other way round, and the subject when it is wanted.
    let text = message(
        "From: Ana <ana@eu.shop.example>\nTo: j@x.example\nDate: 2 Jan 2026 10:00 GMT\nSubject: =?utf-8?q?Caf=C3=A9?=\n",
        "",
    );
    let kept = read(&text, |mail| {
        mail.own = vec!["@shop.example".into()];
        mail.subject = true;
    })
    .await;
    assert_eq!(told(&kept), ["<j@x.example> to 2026-01-02T10:00 outbound"]);
    assert_eq!(
        kept.drafts()[0].interactions[0]
            .data
            .get("subject")
            .and_then(|v| v.as_str()),
        Some("Café")
    );
    // A domain that only ends alike is not one's own.
    let text = message("From: a@myshop.example\nDate: 2 Jan 2026 10:00 GMT\n", "");
    assert_eq!(
        read(&text, |m| m.own = vec!["@shop.example".into()])
            .await
            .emails(),
        ["a@myshop.example"]
    );
}

#[tokio::test]
async fn the_same_message_is_the_same_event_wherever_it_lies() {
    let fields = "From: a@x.example\nTo: b@x.example\nDate: Fri, 2 Jan 2026 10:00:00 +0200\nMessage-ID: <1@x.example>\n";
    let once = read(message(fields, "one"), |_| {}).await;
    let again = read(message("Received: x\n", "") + &message(fields, "two"), |_| {}).await;
    let ids = |kept: &Kept| -> Vec<String> {
        kept.drafts()
            .iter()
            .flat_map(|d| d.interactions.iter().map(|i| i.event_id.clone()))
            .collect()
    };
    assert_eq!(ids(&once), ids(&again));
    assert_ne!(ids(&once)[0], ids(&once)[1], "each person has their own");
    assert!(ids(&once).iter().all(|id| id.len() == 32 && !id.contains('@')));
}

#[tokio::test]
async fn who_is_left_out_unless_wanted() {
    let text = message(
        "From: news@x.example\nList-Unsubscribe: <mailto:u@x.example>\nDate: 2 Jan 2026 10:00 GMT\n",
        "",
    ) + &message(
        "From: l@x.example\nPrecedence: Bulk\nDate: 2 Jan 2026 10:00 GMT\n",
        "",
    ) + &message(
        "From: away@x.example\nAuto-Submitted: auto-replied (vacation)\nDate: 2 Jan 2026 10:00 GMT\n",
        "",
    ) + &message(
        "From: person@x.example\nAuto-Submitted: no\nDate: 2 Jan 2026 10:00 GMT\n",
        "",
    ) + &message(
        "From: MAILER-DAEMON@x.example\nReturn-Path: <>\nDate: 2 Jan 2026 10:00 GMT\n",
        "",
    ) + &message(
        "From: Shop <no-reply+77@x.example>\nReply-To: real@x.example\nDate: 2 Jan 2026 10:00 GMT\n",
        "",
    );
    let kept = read(&text, |_| {}).await;
    assert_eq!(kept.emails(), ["person@x.example", "real@x.example"]);
    assert!(kept.rejects().is_empty(), "left out is not wrong");
    let all = read(&text, |mail| {
        (mail.lists, mail.automatic, mail.no_reply) = (true, true, true)
    })
    .await;
    assert_eq!(all.emails().len(), 7);
    let only = read(&text, |mail| mail.roles = vec![MailRole::ReplyTo]).await;
    assert_eq!(only.emails(), ["real@x.example"]);
}

#[tokio::test]
async fn dialects_of_mbox() {
    let good = "From: a@x.example\nDate: 2 Jan 2026 10:00 GMT\n";
    let two = |body: &str, more: &str| {
        message(&format!("{good}{more}"), body) + "\n" + &message("From: b@x.example\n", "")
    };
    for (what, text) in [
        ("mboxo", two("text\n\n>From here on\n", "")),
        ("mboxrd", two("text\n\n>>From me\n>From you\n", "")),
        (
            "not escaped",
            two("text\n\nFrom here on it goes\nNote: well\n", ""),
        ),
        (
            "not escaped, with a date",
            two("text\n\nFrom me Thu Jan  1 09:00:00 2026 it was\nwell.\n", ""),
        ),
        (
            "no blank line before",
            message(good, "text") + &message("From: b@x.example\n", ""),
        ),
        ("CR LF", two("text\n", "").replace('\n', "\r\n")),
        ("thunderbird", two("", "").replace("From x@y.example", "From -")),
        (
            "gmail",
            two("", "").replace("Thu Jan  1 09:00:00 2026", "Thu Jan 01 09:00:00 +0000 2026"),
        ),
        (
            "uucp",
            two("", "").replace("2026\n", "2026 remote from y\n>From z Thu Jan  1 09:00:00 2026\n"),
        ),
        ("headers alone", format!("{LINE}{good}{LINE}From: b@x.example\n")),
        ("no line end", two("", "").trim_end().to_owned()),
        ("blank lines before", format!("\n\n{}", two("", ""))),
        (
            "sender alone",
            message(good, "") + "\nFrom MAILER\nFrom: b@x.example\n\n",
        ),
    ] {
        let kept = read(&text, |_| {}).await;
        assert_eq!(kept.emails(), ["a@x.example", "b@x.example"], "{what}");
        assert!(kept.rejects().is_empty(), "{what}: {:?}", reasons(&kept));
    }
}

#[tokio::test]
async fn content_length_counts_when_it_is_true() {
    // A whole mailbox within the text, as mboxcl2 allows it: only the length says that it is text.
    let inner = message("From: inner@x.example\nDate: 2 Jan 2026 10:00 GMT\n", "x");
    let text = format!(
        "{LINE}From: a@x.example\nContent-Length: {}\nDate: 2 Jan 2026 10:00 GMT\n\n{inner}\n{LINE}From: b@x.example\nDate: 2 Jan 2026 10:00 GMT\n\n",
        inner.len()
    );
    assert_eq!(read(&text, |_| {}).await.emails(), ["a@x.example", "b@x.example"]);
    // Without it, there is no telling.
    let plain = text.replace("Content-Length", "X-Length");
    assert_eq!(
        read(&plain, |_| {}).await.emails(),
        ["a@x.example", "b@x.example", "inner@x.example"]
    );
    for lie in ["0", "3", "999999", "18446744073709551615", "-1", "x"] {
        let text = format!(
            "{LINE}From: a@x.example\nContent-Length: {lie}\n\nsome text\n\n{LINE}From: b@x.example\n\n"
        );
        assert_eq!(
            read(&text, |_| {}).await.emails(),
            ["a@x.example", "b@x.example"],
            "{lie}"
        );
    }
    // Of the last message: to the end of the file.
    let text = format!(
        "{LINE}From: a@x.example\nContent-Length: {}\n\n{inner}",
        inner.len()
    );
    assert_eq!(read(&text, |_| {}).await.emails(), ["a@x.example"]);
}

#[tokio::test]
async fn what_cannot_be_read_is_told_with_its_line() {
    let text = message(
        "From: nobody here\nTo: a@x.example, b@[192.0.2.1], \"x y\"@z.example\nDate: someday\n",
        "",
    ) + &message(
        "Subject: no sender\nTo: c@x.example\nDate: Fri, 2 Jan 2126 10:00:00 +0200\n",
        "",
    ) + &message("", "")
        + &message("From: d@x.example\n", "");
    let kept = read(&text, |_| {}).await;
    // The line in front of a message has a time too.
    assert_eq!(
        told(&kept),
        [
            "<a@x.example> to 2026-01-01T09:00 -",
            "<c@x.example> to 2026-01-01T09:00 -",
            "<d@x.example> from 2026-01-01T09:00 -"
        ]
    );
    assert_eq!(
        reasons(&kept),
        [
            "Some(1) Date not a date (RFC 5322, 3.3), or one before e-mail or after today",
            "Some(1) From an address in it cannot be read",
            "Some(1) To 2 addresses in it cannot be read",
            "Some(7) Date not a date (RFC 5322, 3.3), or one before e-mail or after today",
            "Some(7) From the message does not say who wrote it",
            "Some(13) - no header field: this is no message",
        ]
    );
    // Not an mbox at all, and one behind some text.
    let kept = read("hello\nworld\n", |_| {}).await;
    assert_eq!((kept.drafts().len(), kept.rejects().len()), (0, 1));
    let kept = read(format!("hello\n\n{}", message("From: a@x.example\n", "")), |_| {}).await;
    assert_eq!((kept.drafts().len(), kept.rejects()[0].line), (1, Some(1)));
    assert_eq!(read("", |_| {}).await.0.len(), 1, "an empty file was read too");
}

#[tokio::test]
async fn hostile_headers_and_bodies_are_bounded() {
    let many = format!(
        "From: a@x.example\nTo: {}z@x.example\n",
        "p@x.example,\n ".repeat(3000)
    );
    let long = format!("From: {}\n", "x".repeat(300_000));
    let lines = "X: y\n".repeat(100_000);
    let words = format!("From: {} <w@x.example>\n", "=?utf-8?q?".repeat(20_000));
    let deep = format!("From: {} <c@x.example>\n", "(".repeat(100_000));
    let text = message(&many, "")
        + &message(&long, "")
        + &message(&lines, "")
        + &message(&words, &"y".repeat(3_000_000))
        + &message(&deep, "")
        + &message("From: last@x.example\n", "");
    let kept = read(&text, |_| {}).await;
    assert_eq!(
        kept.emails(),
        [
            "a@x.example",
            "c@x.example",
            "last@x.example",
            "p@x.example",
            "w@x.example",
            "z@x.example"
        ]
    );
    let long: Vec<String> = reasons(&kept);
    assert_eq!(long.len(), 2, "{long:?}");
    assert!(long.iter().all(|reason| reason.contains("longer than 256 KiB")));
    // Control characters, hidden ones and line ends in names and addresses.
    let text = message(
        "From: \"=?utf-8?q?a=0D=0ABcc:_v=00?=\" <ok@x.example>\nTo: a\0b@x.example, \u{2028}c <d@x.example>\n",
        "",
    );
    let kept = read(&text, |_| {}).await;
    assert_eq!(kept.drafts()[0].name.as_ref().unwrap().display, "a Bcc: v");
    assert!(
        kept.drafts()
            .iter()
            .all(|d| !serde_json::to_string(d).unwrap().contains("\\u0000"))
    );
}

#[tokio::test]
async fn settings_are_checked() {
    let wrong = |json: &str| {
        let config: MboxConfig = serde_json::from_str(json).unwrap();
        MboxCollector::new(config)
            .unwrap_err()
            .context("setting")
            .map(str::to_owned)
    };
    assert_eq!(wrong(r#"{"path": "x", "name": ""}"#).as_deref(), Some("name"));
    assert_eq!(
        wrong(r#"{"path": "x", "name": "m", "mail": {"own": ["shop"]}}"#).as_deref(),
        Some("own")
    );
    assert_eq!(
        wrong(r#"{"path": "x", "name": "m", "mail": {"roles": []}}"#).as_deref(),
        Some("roles")
    );
    assert!(serde_json::from_str::<MboxConfig>(r#"{"path": "x", "name": "m", "mial": {}}"#).is_err());
    let (_, error) = run(
        &MboxCollector::new(MboxConfig::new("/nowhere/x.mbox", "m")).unwrap(),
        None,
    )
    .await;
    assert_eq!(error.unwrap_err().context("setting"), Some("path"));
}

async fn suite_mbox() -> Arc<dyn Collector> {
    let text: String = (0..57)
        .map(|n| match n % 9 {
            4 => message("From: broken\n", "x"),
            7 => message(&format!("From: p{n}@x.example\nDate: soon\n"), "\nFrom within\n"),
            _ => message(
                &format!("From: P {n} <p{n}@x.example>\nTo: q{n}@x.example\n"),
                "x\n\n",
            ),
        })
        .collect();
    let (folder, mut config) = mbox(text);
    config.batch = 5;
    // Lives as long as the test.
    std::mem::forget(folder);
    Arc::new(MboxCollector::new(config).unwrap())
}

crm_core::collector_suite!(mbox_contract, suite_mbox());

/// Python writes a mailbox, with names in many scripts and texts full of lines that begin with `From `, and says who is in
/// it: another implementation's opinion.
const WRITER: &str = r#"
import email.utils, mailbox, random, sys
from email.header import Header
from email.message import EmailMessage, Message
chance = random.Random(7)
names = ["Ana Kask", "Jürgen Müller", "山田 太郎", "Kask, Ana", 'Joe "Q" Public', "Пётр Иванов", "O'Hara", "(odd) name", "a\\b", ""]
box = mailbox.mbox(sys.argv[1], create=True)
for n in range(200):
    people = [(chance.choice(names), f"p{n}-{k}@{chance.choice(['x.example', 'y.example'])}") for k in range(3)]
    if n % 2:
        message = EmailMessage()
        message["From"] = email.utils.formataddr(people[0], "utf-8")
    else:
        message = Message()
        message["From"] = f"{Header(people[0][0], 'iso-8859-1' if people[0][0].isascii() else 'utf-8').encode()} <{people[0][1]}>" if people[0][0].isascii() is False or people[0][0].replace(" ", "").isalpha() else email.utils.formataddr(people[0])
    message["To"] = ", ".join(email.utils.formataddr(p, "utf-8") for p in people[1:])
    message["Date"] = email.utils.formatdate(1767225600 + n)
    message["Message-ID"] = f"<{n}@x.example>"
    text = "Hello\n\nFrom me to you\n>From them\n\nFrom x@y.example Thu Jan  1 09:00:00 2026\nSubject: no\n" * chance.randrange(3)
    message.set_payload(text, "utf-8") if isinstance(message, EmailMessage) is False else message.set_content(text or "x")
    box.add(message)
    for name, address in people:
        print(f"{name}\t{address}")
box.close()
"#;

#[tokio::test]
async fn another_implementation_writes_what_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("python.mbox");
    let written = std::process::Command::new("python3")
        .arg("-c")
        .arg(WRITER)
        .arg(&path)
        .output();
    let output = match written {
        Ok(output) => output,
        Err(error) => {
            eprintln!("SKIPPED: no mailbox written by python3: {error}");
            assert!(
                std::env::var_os("OPEN_CRM_REQUIRE_BACKENDS").is_none(),
                "python3 is needed"
            );
            return;
        }
    };
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let mut wanted: Vec<String> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect();
    let (kept, end) = run(&MboxCollector::new(MboxConfig::new(&path, "mail")).unwrap(), None).await;
    end.unwrap();
    assert!(kept.rejects().is_empty(), "{:?}", reasons(&kept));
    let mut found: Vec<String> = kept
        .drafts()
        .iter()
        .map(|d| {
            format!(
                "{}\t{}",
                d.name.as_ref().map_or("", |name| &name.display),
                d.emails[0]
            )
        })
        .collect();
    wanted.sort();
    found.sort();
    assert_eq!(found, wanted);
    assert_eq!(wanted.len(), 600);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_bytes_make_it_panic_and_the_next_message_is_not_lost(junk in proptest::collection::vec(any::<u8>(), 0..300)) {
        let good = message("From: good@x.example\nDate: 2 Jan 2026 10:00 GMT\n", "");
        let mut text = good.clone().into_bytes();
        text.extend(&junk);
        text.extend(b"\n\n");
        text.extend(good.as_bytes());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let kept = runtime.block_on(read(&text, |_| {}));
        prop_assert_eq!(kept.emails().iter().filter(|e| *e == "good@x.example").count(), 2);
    }
}
