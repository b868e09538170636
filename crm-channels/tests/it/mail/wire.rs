//! What goes over the wire, byte for byte.

use std::sync::Arc;

use crm_channels::OutboxState;
use crm_channels::mail::{Auth, FileMailer, SmtpConfig, SmtpMailer};
use crm_channels::testkit::{SmtpFault, SmtpSink, SmtpStep};
use crm_core::capability::Mailer;
use crm_core::message::{Attachment, Mailbox};
use crm_core::testkit::fixtures;
use crm_core::{Effect, ErrorKind, Health, Provider, Secret};

use super::{blame, faults_of, mail_to, mailer, send};
use crate::common::{World, news};

crm_core::mailer_suite!(the_suite, async {
    let sink = Box::leak(Box::new(SmtpSink::start().await.unwrap()));
    mailer(sink, "") as Arc<dyn Mailer>
});

#[tokio::test]
async fn only_crlf_goes_out_and_dots_are_stuffed() {
    let sink = SmtpSink::start().await.unwrap();
    let mut mail = mail_to("ana.kask@example.org");
    mail.text = "one\ntwo\r.\r\n.three\n.\nRCPT TO:<x@example.org>\nend".to_owned();
    let from = mail.from.address.as_str().to_owned();
    let receipt = send(&mailer(&sink, ""), mail).await.unwrap();
    assert_eq!(
        (receipt.provider_ref.as_str(), receipt.provider.as_str()),
        ("SINK1", "wire")
    );
    let said = String::from_utf8(sink.said()).unwrap();
    assert_eq!(faults_of(said.as_bytes()), Vec::<String>::new());
    assert!(
        said.contains("one\r\ntwo\r\n..\r\n..three\r\n..\r\nRCPT TO:<x@example.org>\r\nend"),
        "{said}"
    );
    assert_eq!(said.matches("\r\n.\r\n").count(), 1, "one end of one message");
    let bytes = sink.mails()[0].content.len();
    assert!(
        said.starts_with(&format!(
            "EHLO crm.example\r\nMAIL FROM:<{from}> SIZE={bytes}\r\nRCPT TO:<ana.kask@example.org>\r\nDATA\r\n"
        )),
        "{said}"
    );
}

#[test]
fn the_check_of_bytes_finds_what_it_looks_for() {
    for wrong in [
        "a\nb\r\n",
        "a\rb\r\n",
        "a\0\r\n",
        &format!("{}\r\n", "x".repeat(999)),
    ] {
        assert_eq!(faults_of(wrong.as_bytes()).len(), 1, "{wrong:?}");
    }
    assert!(faults_of(format!("{}\r\n", "x".repeat(998)).as_bytes()).is_empty());
}

/// Bad inputs: refused by name before anything is said, or one message with the usual headers.
#[tokio::test]
async fn nothing_in_a_message_becomes_a_command_or_a_header() {
    let sink = SmtpSink::start().await.unwrap();
    let mailer = mailer(&sink, "");
    let mut sent = 0;
    let usual = |text: &str| {
        let head = text.split("\r\n\r\n").next().unwrap().to_owned();
        let mut names: Vec<String> = head
            .split("\r\n")
            .filter(|line| !line.starts_with([' ', '\t']))
            .filter_map(|line| Some(line.split_once(':')?.0.to_owned()))
            .collect();
        names.sort();
        names
    };
    for text in [
        "Hi\r\nBcc: victim@example.net",
        "Hi\nBcc: victim@example.net",
        "Hi\rBcc: victim@example.net",
        "Hi\0",
        "Hi\u{2028}Bcc: victim@example.net",
        "=?utf-8?q?Hi=0D=0ABcc:_victim@example.net?=",
        "Hi\u{85}x",
        "Hi \u{202e}\u{1f600} there",
        "x",
    ] {
        for place in ["subject", "from", "to", "header"] {
            let mut mail = mail_to("ana@example.org");
            mail.headers.insert("X-Note".into(), "plain".into());
            match place {
                "subject" => mail.subject = text.into(),
                "from" => mail.from.name = text.into(),
                "to" => mail.to.name = text.into(),
                _ => {
                    mail.headers.insert("X-Note".into(), text.into());
                }
            }
            let before = sink.said().len();
            match send(&mailer, mail).await {
                Ok(_) => sent += 1,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
                    assert!(error.context("field").is_some(), "{error}");
                    assert!(!format!("{error:?}").contains("victim"), "{error:?}");
                    assert_eq!(sink.said().len(), before, "nothing was said");
                    assert!(text.contains(char::is_control), "{text:?} in {place}");
                }
            }
        }
    }
    for text in [
        "\n.\nMAIL FROM:<x>\n",
        "\r\n\r\n.\r\nRSET\r\n",
        "\r.\r",
        ".",
        "..",
        "",
        "\n",
        &"x".repeat(100_000),
        &"é".repeat(40_000),
        "\u{1b}[2J\u{7}",
    ] {
        let mut mail = mail_to("ana@example.org");
        mail.headers.insert("X-Note".into(), "plain".into());
        mail.text = text.into();
        mail.html = Some(format!("<p>{text}</p>"));
        mail.attachments = vec![Attachment::new("a.txt", "text/plain", text.as_bytes().to_vec())];
        send(&mailer, mail).await.unwrap();
        sent += 1;
    }
    let mails = sink.mails();
    assert_eq!(mails.len(), sent, "as many messages as were sent");
    for mail in &mails {
        assert_eq!(
            usual(&mail.text())
                .iter()
                .map(String::as_str)
                .filter(|name| !name.starts_with("Content-"))
                .collect::<Vec<_>>(),
            [
                "Date",
                "From",
                "MIME-Version",
                "Message-ID",
                "Subject",
                "To",
                "X-Note"
            ]
        );
        assert_eq!(mail.to, ["ana@example.org"]);
    }
    let said = sink.said();
    assert_eq!(faults_of(&said), Vec::<String>::new());
    assert!(said.is_ascii());
    let commands = String::from_utf8(said).unwrap();
    assert_eq!(commands.matches("\r\n.\r\n").count(), sent);
}

#[tokio::test]
async fn addresses_that_smtp_cannot_carry_are_refused() {
    let sink = SmtpSink::start().await.unwrap();
    for wrong in [
        "\"a b\"@example.test",
        "a@example.test>\r\nRCPT TO:<b@example.test",
        "a@[127.0.0.1]",
        &format!("{}@example.test", "a".repeat(65)),
        "a@xn--",
        "a b@example.test",
        "a@example.test\n",
    ] {
        let parsed = wrong.parse::<crm_core::customer::EmailAddress>();
        if let Ok(address) = parsed {
            // Trimmed to something harmless.
            assert!(
                !address.as_str().contains(['\r', '\n', ' ', '>', '"']),
                "{wrong:?}"
            );
        }
    }
    // Odd, but an address all the same: exactly that one is named, as one word.
    for odd in ["-oq/tmp@example.test", "o'neill+a=b@example.test"] {
        send(&mailer(&sink, ""), mail_to(odd)).await.unwrap();
        assert_eq!(sink.mails().last().unwrap().to, [odd]);
    }
}

#[tokio::test]
async fn letters_beyond_ascii_go_out_where_the_server_takes_them() {
    let sink = SmtpSink::start().await.unwrap();
    let smtp = mailer(&sink, "");
    // A Cyrillic а, which is not the Latin one: exactly this mailbox.
    let to = "\u{430}dmin@example.org";
    send(&smtp, mail_to(to)).await.unwrap();
    let mail = sink.mails().remove(0);
    assert_eq!(mail.to, [to]);
    assert!(
        mail.parameters.ends_with("BODY=8BITMIME SMTPUTF8"),
        "{}",
        mail.parameters
    );
    assert_eq!(mail.header("To").unwrap(), to);
    // A domain goes out as A-labels, and needs nothing of the server.
    send(&smtp, mail_to("ana@bücher.example")).await.unwrap();
    let mail = sink.mails().remove(1);
    assert_eq!(mail.to, ["ana@xn--bcher-kva.example"]);
    assert!(!mail.parameters.contains("UTF8"));
    let plain = SmtpSink::start().await.unwrap();
    plain.announce(&["PIPELINING", "8BITMIME"]);
    let error = send(&mailer(&plain, ""), mail_to(to)).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.context("field")),
        (ErrorKind::Invalid, Some("to"))
    );
    assert!(!String::from_utf8(plain.said()).unwrap().contains("MAIL"));
}

#[tokio::test]
async fn the_size_a_server_takes_is_kept_to() {
    let sink = SmtpSink::start().await.unwrap();
    sink.announce(&["SIZE 5000"]);
    let smtp = mailer(&sink, "");
    let mut large = mail_to("ana@example.org");
    large.text = "many words\n".repeat(1000);
    let error = send(&smtp, large).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.blamed().as_str()),
        (ErrorKind::Invalid, "content")
    );
    assert!(!String::from_utf8(sink.said()).unwrap().contains("MAIL"));
    send(&smtp, mail_to("ana@example.org")).await.unwrap();
    assert_eq!(
        sink.connections(),
        1,
        "the connection was fit for the next message"
    );
}

#[tokio::test]
async fn bounces_go_where_the_message_says() {
    let sink = SmtpSink::start().await.unwrap();
    let mut mail = mail_to("ana@example.org");
    mail.bounces_to = Some("b+0123456789abcdef@bounces.example.com".parse().unwrap());
    mail.reply_to = Some(Mailbox::new("help@example.com".parse().unwrap(), "Help, please").unwrap());
    send(&mailer(&sink, ""), mail).await.unwrap();
    let mail = sink.mails().remove(0);
    assert_eq!(mail.from, "b+0123456789abcdef@bounces.example.com");
    assert_eq!(mail.header("From").unwrap(), "CRM <crm@example.com>");
    assert_eq!(
        mail.header("Reply-To").unwrap(),
        "\"Help, please\" <help@example.com>"
    );
}

#[tokio::test]
async fn every_way_to_log_in() {
    for (offered, auth, said) in [
        ("PLAIN LOGIN", Auth::Auto, "AUTH PLAIN AGFuYQBzM2NyZXQ=\r\n"),
        ("LOGIN CRAM-MD5", Auth::Auto, "AUTH LOGIN\r\nYW5h\r\nczNjcmV0\r\n"),
        (
            "CRAM-MD5",
            Auth::Auto,
            "AUTH CRAM-MD5\r\nYW5hIGU2YzI0ZGVlYzFhYWQyOWM0YzUyM2MxMDNjMDI3YzU2\r\n",
        ),
        (
            "PLAIN XOAUTH2",
            Auth::Xoauth2,
            "AUTH XOAUTH2 dXNlcj1hbmEBYXV0aD1CZWFyZXIgczNjcmV0AQE=\r\n",
        ),
    ] {
        let sink = SmtpSink::start().await.unwrap();
        sink.announce(&["PIPELINING", &format!("AUTH {offered}")]);
        let mut config = SmtpConfig::from_url(&sink.url()).unwrap();
        config.user = Some("ana".into());
        config.password = Some(Secret::new("s3cret"));
        config.auth = auth;
        let smtp = SmtpMailer::build("login", config).unwrap();
        send(&smtp, mail_to("bo@example.org")).await.unwrap();
        let all = String::from_utf8(sink.said()).unwrap();
        assert!(all.contains(said), "{all}");
        // A renewed password is for connections to come.
        smtp.renew_password(Secret::new("other"));
        sink.fault(SmtpStep::Login, SmtpFault::reply("535 5.7.8 no"));
        sink.fault_times(
            SmtpStep::Mail,
            1,
            SmtpFault::ReplyThenClose("421 4.3.2 restart".into()),
        );
        let error = send(&smtp, mail_to("bo@example.org")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error}");
        assert!(!format!("{error:?}{smtp:?}").contains("other"));
        let all = String::from_utf8(sink.said()).unwrap();
        assert_eq!(all.matches("AUTH ").count(), 2, "no log-in is hammered");
    }
    let sink = SmtpSink::start().await.unwrap();
    sink.announce(&["AUTH GSSAPI"]);
    let mut config = SmtpConfig::from_url(&sink.url()).unwrap();
    (config.user, config.password) = (Some("ana".into()), Some(Secret::new("s3cret")));
    let error = send(&SmtpMailer::build("x", config).unwrap(), mail_to("b@example.org"))
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.context("setting")),
        (ErrorKind::Config, Some("user"))
    );
}

#[tokio::test]
async fn an_unknown_outcome_ends_as_unknown_in_the_outbox() {
    let w = World::new().await;
    let sink = SmtpSink::start().await.unwrap();
    sink.fault(SmtpStep::End, SmtpFault::Close);
    let ana = w.subscriber("Ana", "ana@example.org").await;
    let id = w.enqueue(ana, "ana@example.org", news()).await;
    let smtp: Arc<dyn Mailer> = mailer(&sink, "");
    let dispatcher = w
        .outreach_with(vec![smtp, w.mailer.clone()])
        .dispatcher()
        .unwrap();
    assert_eq!(dispatcher.drain(&w.ctx).await.unwrap().unknown, vec![id]);
    assert_eq!(w.state(id).await, OutboxState::Unknown);
    assert_eq!(w.mailer.sent().len(), 0, "no other mailer is asked");
    w.pass(24 * 3600);
    assert_eq!(dispatcher.drain(&w.ctx).await.unwrap().claimed, 0);
    assert_eq!(sink.taken(), 1);
}

#[tokio::test]
async fn one_recipient_among_ten_keeps_nobody_back() {
    let sink = SmtpSink::start().await.unwrap();
    sink.refuse("p3@example.org", "550 5.1.1 <p3@example.org> no such user");
    sink.refuse("p7@example.org", "451 4.3.0 not now");
    let smtp = mailer(&sink, "&pool=1");
    let sends = (0..10).map(|n| {
        let smtp = smtp.clone();
        async move { send(&smtp, mail_to(&format!("p{n}@example.org"))).await }
    });
    let answers = futures_util::future::join_all(sends).await;
    for (n, answer) in answers.iter().enumerate() {
        match (n, answer) {
            (3, Err(error)) => {
                assert_eq!(
                    (error.kind(), blame(error)),
                    (ErrorKind::Invalid, ("recipient", "rcpt to"))
                );
                assert_eq!((error.effect(), error.is_retryable()), (Effect::None, false));
                assert!(!format!("{error:?}").contains("p3@"), "{error:?}");
            }
            (7, Err(error)) => assert!(error.is_retryable() && error.blamed().as_str() == "nobody"),
            (_, Ok(_)) => {}
            (n, Err(error)) => panic!("{n}: {error:?}"),
        }
    }
    let mut reached: Vec<String> = sink.mails().into_iter().flat_map(|mail| mail.to).collect();
    reached.sort();
    let wanted: Vec<String> = [0, 1, 2, 4, 5, 6, 8, 9]
        .iter()
        .map(|n| format!("p{n}@example.org"))
        .collect();
    assert_eq!(reached, wanted);
    assert_eq!(sink.connections(), 1, "refusals in good order end no connection");
}

#[tokio::test]
async fn a_mailer_that_is_asked_says_how_it_is() {
    let sink = SmtpSink::start().await.unwrap();
    let smtp = mailer(&sink, "");
    assert_eq!(smtp.check().await.unwrap(), Health::Ready);
    assert_eq!(smtp.check().await.unwrap(), Health::Ready);
    assert_eq!(sink.connections(), 1);
    assert!(String::from_utf8(sink.said()).unwrap().contains("NOOP\r\n"));
    drop(sink);
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    assert_eq!(smtp.check().await.unwrap_err().kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn files_hold_the_same_bytes_and_replace_themselves() {
    let w = World::new().await;
    let folder = tempfile::tempdir().unwrap();
    let files = FileMailer::open("file", folder.path().join("mails"))
        .unwrap()
        .with_clock(w.clock.clone());
    assert!(!files.capability().live, "it only records");
    let mut mail = w.mail("ana@example.org");
    mail.html = Some("<p>Grüße</p>".into());
    let (id, permitted) = (mail.id, fixtures::permitted(mail));
    for _ in 0..2 {
        files.send(&w.ctx, &permitted).await.unwrap();
    }
    let names: Vec<_> = std::fs::read_dir(files.folder())
        .unwrap()
        .map(|f| f.unwrap().file_name())
        .collect();
    assert_eq!(names, [format!("{id}.eml").as_str()]);
    let text = super::read(&files.folder().join(&names[0]));
    assert!(
        text.contains(&format!("Message-ID: <{id}@example.com>\r\n"))
            && text.contains("multipart/alternative")
    );
    assert!(text.contains("Date: Sun, 01 Mar 2026 09:00:00 +0000"), "{text}");
}
