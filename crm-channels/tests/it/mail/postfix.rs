//! Against a real Postfix (`scripts/services up postfix`): TLS, log-in, refusals; the Maildir is the oracle.

use std::path::PathBuf;
use std::sync::Arc;

use crm_channels::mail::{SmtpConfig, SmtpMailer};
use crm_channels::{Audience, CampaignPlan, OutboxState, Template};
use crm_core::capability::Mailer;
use crm_core::message::Attachment;
use crm_core::testkit::fixtures;
use crm_core::{ErrorKind, Health, Provider, Secret};

use super::skipped;
use crate::common::{World, mailbox, news};

pub struct Postfix {
    pub url: String,
    smtps: String,
    ca: PathBuf,
    maildir: PathBuf,
}

impl Postfix {
    /// The server of the environment; without one the test says loudly that it did not run, and fails where servers are
    /// required.
    pub fn find(test: &str) -> Option<Self> {
        let get = |name: &str| std::env::var(format!("OPEN_CRM_TEST_SMTP{name}")).ok();
        let found = (|| {
            Some(Self {
                url: get("_URL")?,
                smtps: get("S_URL")?,
                ca: get("_CA")?.into(),
                maildir: get("_MAILDIR")?.into(),
            })
        })();
        if found.is_none() {
            skipped(test, "OPEN_CRM_TEST_SMTP_URL and its neighbours are not set");
        }
        found
    }

    pub fn config(&self, url: &str) -> SmtpConfig {
        let mut config = SmtpConfig::from_url(url).unwrap();
        config.ca_file = Some(self.ca.clone());
        config
    }

    fn mailer(&self) -> Arc<dyn Mailer> {
        Arc::new(SmtpMailer::build("postfix", self.config(&self.url)).unwrap())
    }

    /// How many mails with this text have arrived; waits for `wanted` of them, for delivery takes a moment.
    pub async fn arrived(&self, text: &str, wanted: usize) -> Vec<String> {
        let mut found = Vec::new();
        for _ in 0..100 {
            found = std::fs::read_dir(self.maildir.join("new"))
                .unwrap()
                .filter_map(|file| std::fs::read(file.ok()?.path()).ok())
                .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
                .filter(|mail| mail.contains(text))
                .collect();
            if found.len() >= wanted {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        found
    }
}

/// A word that no other run of these tests uses.
fn mark() -> String {
    format!("mark-{}", crm_core::RandomIds::shared().fresh().simple())
}

#[tokio::test]
async fn mail_arrives_over_starttls_and_over_tls_from_the_start() {
    let Some(postfix) = Postfix::find("mail_arrives_over_starttls_and_over_tls_from_the_start") else {
        return;
    };
    let w = World::new().await;
    for url in [&postfix.url, &postfix.smtps] {
        let mailer = SmtpMailer::build("postfix", postfix.config(url)).unwrap();
        assert_eq!(mailer.check().await.unwrap(), Health::Ready);
        let (mark, to) = (mark(), format!("{}@test.example", mark()));
        let mut mail = w.mail(&to);
        mail.text = format!("{mark}\n.\nGrüße aus Tartu\n");
        // An id of this run: the world's are the same every time, and the Maildir is not emptied.
        mail.id = crm_core::RandomIds::shared().fresh().into();
        let id = mail.message_id();
        let receipt = mailer.send(&w.ctx, &fixtures::permitted(mail)).await.unwrap();
        assert!(!receipt.provider_ref.is_empty() && !receipt.detail.unwrap().contains('@'));
        // The text is encoded on the way; the Message-ID is what is looked for.
        let arrived = postfix.arrived(&id, 1).await;
        assert_eq!(arrived.len(), 1);
        assert!(
            arrived[0].contains(&format!("X-Original-To: {to}")),
            "{}",
            arrived[0]
        );
    }
}

#[tokio::test]
async fn a_certificate_of_another_name_or_authority_is_refused() {
    let Some(postfix) = Postfix::find("a_certificate_of_another_name_or_authority_is_refused") else {
        return;
    };
    let w = World::new().await;
    let permitted = fixtures::permitted(w.mail("ana@test.example"));
    for url in [&postfix.url, &postfix.smtps] {
        // The right authority and server, under a name the certificate does not carry.
        let mut other_name = postfix.config(url);
        other_name.port = Some(forward(other_name.port.unwrap()).await);
        other_name.host = "127.0.0.2".into();
        // The right name, the public authorities instead of the private one.
        let mut other_authority = postfix.config(url);
        other_authority.ca_file = None;
        for (config, cause) in [(other_name, "name"), (other_authority, "UnknownIssuer")] {
            let error = SmtpMailer::build("x", config)
                .unwrap()
                .send(&w.ctx, &permitted)
                .await
                .unwrap_err();
            assert_eq!(
                (error.kind(), error.context("setting")),
                (ErrorKind::Config, Some("host")),
                "{error:?}"
            );
            assert!(error.context("cause").unwrap().contains(cause), "{error:?}");
        }
    }
}

/// Makes the server reachable as 127.0.0.2 too.
async fn forward(port: u16) -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.2:0").await.unwrap();
    let here = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let mut far = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut near, &mut far).await });
        }
    });
    here
}

#[tokio::test]
async fn a_wrong_password_is_our_own_trouble() {
    let Some(postfix) = Postfix::find("a_wrong_password_is_our_own_trouble") else {
        return;
    };
    let w = World::new().await;
    let mut config = postfix.config(&postfix.url);
    config.password = Some(Secret::new("hunter22"));
    let mailer: Arc<dyn Mailer> = Arc::new(SmtpMailer::build("postfix", config).unwrap());
    let error = mailer
        .send(&w.ctx, &fixtures::permitted(w.mail("ana@test.example")))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error:?}");
    assert!(!format!("{error:?}").contains("hunter22"));
    let bo = w.subscriber("Bo", "bo@test.example").await;
    let id = w.enqueue(bo, "bo@test.example", news()).await;
    let report = w
        .outreach_with(vec![mailer])
        .dispatcher()
        .unwrap()
        .drain(&w.ctx)
        .await
        .unwrap();
    assert_eq!(
        (report.paused, report.failed),
        (Some(ErrorKind::Unauthenticated), 0)
    );
    assert_eq!(w.state(id).await, OutboxState::Queued);
}

#[tokio::test]
async fn one_refused_recipient_among_ten_keeps_nobody_back() {
    let Some(postfix) = Postfix::find("one_refused_recipient_among_ten_keeps_nobody_back") else {
        return;
    };
    let w = World::new().await;
    let mark = mark();
    let mut members = Vec::new();
    for i in 0..9 {
        members.push(w.subscriber("Ana", &format!("{mark}.{i}@test.example")).await);
    }
    let refused = w.subscriber("Bo", "refused@test.example").await;
    members.insert(3, refused);
    let template = Template::new(&format!("Spring {mark}"), "Hello {{given_name}}").unwrap();
    let from = mailbox("shop@example.com", "Shop");
    let plan = CampaignPlan::new(&mark, Audience::frozen(members), news(), template, from);
    let outreach = w.outreach_with(vec![postfix.mailer()]);
    assert_eq!(outreach.launch(&w.ctx, &plan, |_| {}).await.unwrap().queued, 10);
    let report = outreach.dispatcher().unwrap().drain(&w.ctx).await.unwrap();
    assert_eq!((report.sent, report.failed), (9, 1));
    let arrived = postfix.arrived(&format!("Spring {mark}"), 9).await;
    assert_eq!(arrived.len(), 9, "nine files in the Maildir");
    for i in 0..9 {
        let to = format!("X-Original-To: {mark}.{i}@test.example");
        assert_eq!(
            arrived.iter().filter(|mail| mail.contains(&to)).count(),
            1,
            "{to}"
        );
    }
    assert_eq!(w.contact_state(refused).await, "invalid");
    let status = outreach.status(&w.ctx, &mark).await.unwrap();
    assert_eq!(
        (status.count(OutboxState::Sent), status.count(OutboxState::Failed)),
        (9, 1)
    );
    // Launched again, nobody gets it twice.
    assert_eq!(outreach.launch(&w.ctx, &plan, |_| {}).await.unwrap().queued, 0);
    assert_eq!(
        outreach
            .dispatcher()
            .unwrap()
            .drain(&w.ctx)
            .await
            .unwrap()
            .claimed,
        0
    );
}

#[tokio::test]
async fn other_refusals_of_a_real_server_are_read_right() {
    let Some(postfix) = Postfix::find("other_refusals_of_a_real_server_are_read_right") else {
        return;
    };
    let w = World::new().await;
    let mailer = postfix.mailer();
    for (to, kind, blame) in [
        ("deferred@test.example", ErrorKind::Unavailable, "nobody"),
        ("full@test.example", ErrorKind::Invalid, "recipient_for_now"),
        ("policy@test.example", ErrorKind::PermissionDenied, "sender"),
    ] {
        let error = mailer
            .send(&w.ctx, &fixtures::permitted(w.mail(to)))
            .await
            .unwrap_err();
        assert_eq!(
            (error.kind(), error.context("blame")),
            (kind, Some(blame)),
            "{error}"
        );
        assert_eq!(error.context("suppress"), None);
    }
}

/// What Python's own library reads in a mail: headers decoded, parts with their names and contents.
fn read_by_python(mail: &str) -> serde_json::Value {
    let script = "import sys, json, hashlib, email, email.policy\n\
        m = email.message_from_bytes(sys.stdin.buffer.read(), policy=email.policy.default)\n\
        parts = [{'type': p.get_content_type(), 'name': p.get_filename(), 'id': p['content-id'], \
        'how': p.get_content_disposition(), \
        'text': p.get_content() if p.get_content_maintype() == 'text' and not p.get_filename() else None, \
        'hash': hashlib.sha256(p.get_payload(decode=True)).hexdigest()} for p in m.walk() if not p.is_multipart()]\n\
        print(json.dumps({'subject': m['subject'], 'from': m['from'], 'to': m['to'], 'defects': \
        sum(len(p.defects) for p in m.walk()), 'parts': parts}))";
    let mut python = std::process::Command::new("python3")
        .args(["-c", script])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut python.stdin.take().unwrap(), mail.as_bytes()).unwrap();
    let done = python.wait_with_output().unwrap();
    serde_json::from_slice(&done.stdout).unwrap()
}

#[tokio::test]
async fn what_arrives_is_what_was_written() {
    let Some(postfix) = Postfix::find("what_arrives_is_what_was_written") else {
        return;
    };
    let mailer = SmtpMailer::build("postfix", postfix.config(&postfix.url)).unwrap();
    let bytes: Vec<u8> = (0..70_000_u32).map(|n| (n.wrapping_mul(n) / 7) as u8).collect();
    for (subject, text) in [
        ("Plain", "Hello\n.\n..\nlast line without an end"),
        (
            "Grüße aus Tartu: \u{201e}Käse & Söhne\u{201c}, und noch viel mehr als das, was in eine Zeile passt",
            "Grüße\ntrailing \n",
        ),
        ("你好，世界 \u{1f600}", "你好，世界\n\u{1f600}\n"),
        ("=?utf-8?q?not_encoded?=", "=?utf-8?q?not_encoded?=\n=3D\n"),
        ("x", "From here on\n\ttabs\n"),
    ] {
        let mut mail = super::mail_to("ana@test.example");
        mail.from.name = "Käse, \"Söhne\" & Co".into();
        mail.to.name = "Zoë O'Neill, Dr.".into();
        mail.subject = subject.into();
        mail.text = text.into();
        mail.html = Some(format!("<p>{text}</p><img src=\"cid:logo\">"));
        let mut logo = Attachment::new("logo.png", "image/png", bytes[..999].to_vec());
        logo.content_id = Some("logo".into());
        let bill = Attachment::new("Rechnung für März 文件.pdf", "application/pdf", bytes.clone());
        mail.attachments = vec![logo, bill];
        let id = mail.message_id();
        super::send(&mailer, mail).await.unwrap();
        let arrived = postfix.arrived(&id, 1).await.remove(0);
        let read = read_by_python(&arrived);
        let lines = |text: &str| text.replace("\r\n", "\n").trim_end().to_owned();
        assert_eq!(
            (read["subject"].as_str().unwrap(), read["defects"].as_u64()),
            (subject, Some(0)),
            "{read}"
        );
        assert_eq!(read["from"], "\"Käse, \\\"Söhne\\\" & Co\" <crm@example.com>");
        assert_eq!(read["to"], "\"Zoë O'Neill, Dr.\" <ana@test.example>");
        let parts = read["parts"].as_array().unwrap();
        let kinds: Vec<&str> = parts.iter().map(|part| part["type"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["text/plain", "text/html", "image/png", "application/pdf"]);
        // The blank at a line's end is kept by the encoding, the end of the text is a line end.
        assert_eq!(lines(parts[0]["text"].as_str().unwrap()), lines(text));
        let html = lines(parts[1]["text"].as_str().unwrap());
        assert!(html.starts_with(&format!("<p>{text}</p>")), "{read}");
        assert_eq!(
            (&parts[2]["how"], &parts[2]["id"]),
            (&"inline".into(), &"<logo>".into())
        );
        assert_eq!(parts[3]["name"], "Rechnung für März 文件.pdf");
        for (part, content) in [(2, &bytes[..999]), (3, &bytes[..])] {
            use sha2::Digest;
            let hash: String = sha2::Sha256::digest(content)
                .iter()
                .map(|b| format!("{b:02x}"))
                .collect();
            assert_eq!(parts[part]["hash"], hash.as_str());
        }
    }
}

#[tokio::test]
async fn a_mailbox_with_letters_beyond_ascii_gets_its_mail() {
    let Some(postfix) = Postfix::find("a_mailbox_with_letters_beyond_ascii_gets_its_mail") else {
        return;
    };
    let mailer = SmtpMailer::build("postfix", postfix.config(&postfix.smtps)).unwrap();
    let mail = super::mail_to("jürgen.käsk@test.example");
    let id = mail.message_id();
    super::send(&mailer, mail).await.unwrap();
    let arrived = postfix.arrived(&id, 1).await.remove(0);
    assert!(
        arrived.contains("X-Original-To: jürgen.käsk@test.example"),
        "{arrived}"
    );
    assert!(arrived.contains("\nTo: jürgen.käsk@test.example\n"), "{arrived}");
}

#[tokio::test]
async fn many_messages_share_protected_connections() {
    let Some(postfix) = Postfix::find("many_messages_share_protected_connections") else {
        return;
    };
    let mut config = postfix.config(&postfix.url);
    config.pool = 2;
    let mailer = Arc::new(SmtpMailer::build("postfix", config).unwrap());
    let mark = mark();
    let sends = (0..60).map(|n| {
        let mut mail = super::mail_to(&format!("{mark}.{n}@test.example"));
        mail.subject = mark.clone();
        let mailer = mailer.clone();
        async move { super::send(&mailer, mail).await }
    });
    let answers = futures_util::future::join_all(sends).await;
    assert!(answers.iter().all(Result::is_ok));
    // Each has the number under which Postfix put it into its queue.
    let ids: std::collections::BTreeSet<_> = answers
        .into_iter()
        .map(|answer| answer.unwrap().provider_ref)
        .collect();
    assert_eq!(ids.len(), 60);
    let arrived = postfix.arrived(&mark, 60).await;
    assert_eq!(arrived.len(), 60);
    for n in 0..60 {
        let to = format!("X-Original-To: {mark}.{n}@test.example\n");
        assert_eq!(
            arrived.iter().filter(|mail| mail.contains(&to)).count(),
            1,
            "{to}"
        );
    }
}
