//! Many messages over few connections: groups of commands, envelopes behind the dot, and what happens to them when
//! something breaks in between.

use std::collections::BTreeSet;
use std::time::Duration;

use crm_channels::testkit::{SmtpFault, SmtpSink, SmtpStep};
use crm_core::Effect;
use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::{mail_to, mailer, send};

async fn burst(
    smtp: &std::sync::Arc<crm_channels::mail::SmtpMailer>,
    count: usize,
) -> Vec<crm_core::Result<()>> {
    let sends = (0..count).map(|n| {
        let smtp = smtp.clone();
        async move {
            send(&smtp, mail_to(&format!("p{n}@example.org")))
                .await
                .map(|_| ())
        }
    });
    join_all(sends).await
}

fn reached(sink: &SmtpSink) -> Vec<String> {
    let mut all: Vec<String> = sink.mails().into_iter().flat_map(|mail| mail.to).collect();
    all.sort();
    all
}

#[tokio::test]
async fn the_next_envelope_goes_right_behind_the_dot() {
    for (pool, connections) in [(1, 1), (4, 4)] {
        let sink = SmtpSink::start().await.unwrap();
        let smtp = mailer(&sink, &format!("&pool={pool}"));
        assert!(burst(&smtp, 200).await.iter().all(Result::is_ok));
        let reached = reached(&sink);
        assert_eq!(reached.len(), 200);
        assert_eq!(reached.iter().collect::<BTreeSet<_>>().len(), 200, "each once");
        let said = String::from_utf8(sink.said()).unwrap();
        assert_eq!(
            sink.connections(),
            connections + usize::from(pool == 1),
            "100 messages a connection"
        );
        let behind = said.matches("\r\n.\r\nMAIL FROM:").count();
        assert!(behind >= 200 - connections - 1, "{behind} envelopes behind a dot");
    }
}

/// A server of the old kind: what was said before it answered is thrown away.
#[tokio::test]
async fn without_pipelining_each_answer_is_waited_for() {
    for (announced, works) in [
        ("250 old.example", true),
        ("250-old.example\r\n250 PIPELINING", false),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut heard = [0; 8192];
            let _ = stream.write_all(b"220 old.example\r\n").await;
            let mut content = false;
            while let Ok(length @ 1..) = stream.read(&mut heard).await {
                let text = String::from_utf8_lossy(&heard[..length]).into_owned();
                // Only the first line counts.
                let answer = match text.get(..4).unwrap_or_default() {
                    _ if content && !text.ends_with("\r\n.\r\n") => continue,
                    _ if content => {
                        content = false;
                        "250 taken"
                    }
                    "EHLO" => announced,
                    "DATA" => {
                        content = true;
                        "354 go on"
                    }
                    _ => "250 ok",
                };
                let _ = stream.write_all(format!("{answer}\r\n").as_bytes()).await;
            }
        });
        let url = format!("smtp://127.0.0.1:{port}?tls=dangerous-plaintext&pool=1&command_timeout=1");
        let config = crm_channels::mail::SmtpConfig::from_url(&url).unwrap();
        let smtp = std::sync::Arc::new(crm_channels::mail::SmtpMailer::build("old", config).unwrap());
        // With groups such a server answers too little: it shows that the test can fail.
        let answers = tokio::time::timeout(Duration::from_secs(30), burst(&smtp, 5))
            .await
            .unwrap();
        assert_eq!(
            answers.iter().filter(|answer| answer.is_ok()).count(),
            if works { 5 } else { 0 }
        );
    }
}

#[tokio::test]
async fn who_shares_a_connection_shares_no_fate() {
    let sink = SmtpSink::start().await.unwrap();
    let smtp = mailer(&sink, "&pool=1");
    // Three messages are taken and never acknowledged; the envelopes behind them were said already.
    sink.fault_times(SmtpStep::End, 3, SmtpFault::Close);
    let answers = burst(&smtp, 50).await;
    let unknown: Vec<_> = answers
        .iter()
        .filter_map(|answer| answer.as_ref().err())
        .collect();
    assert_eq!(unknown.len(), 3, "{unknown:?}");
    assert!(unknown.iter().all(|error| error.effect() == Effect::Unknown));
    let reached = reached(&sink);
    assert_eq!(reached.len(), 50, "nobody twice");
    assert_eq!(
        reached.iter().collect::<BTreeSet<_>>().len(),
        50,
        "nobody is left out"
    );
    // Had unknown been taken for failed and sent again, the sink would have it twice.
    for (n, answer) in answers.iter().enumerate() {
        if answer.is_err() {
            send(&smtp, mail_to(&format!("p{n}@example.org"))).await.unwrap();
        }
    }
    assert_eq!(sink.taken(), 53);
}

#[tokio::test]
async fn a_refusal_in_a_group_leaves_the_connection_in_order() {
    let sink = SmtpSink::start().await.unwrap();
    for n in (0..60).step_by(3) {
        sink.refuse(&format!("p{n}@example.org"), "550 5.1.1 no such user");
    }
    sink.fault_times(SmtpStep::Mail, 5, SmtpFault::reply("451 4.3.0 not now"));
    let smtp = mailer(&sink, "&pool=2");
    let answers = burst(&smtp, 60).await;
    let sent = answers.iter().filter(|answer| answer.is_ok()).count();
    assert_eq!(sent, sink.taken());
    assert!((35..=40).contains(&sent), "{sent}");
    assert_eq!(sink.connections(), 2);
    assert!(
        sink.mails().iter().all(|mail| mail.to.len() == 1),
        "no recipient of another message"
    );
    for mail in sink.mails() {
        assert_eq!(mail.header("To").unwrap(), mail.to[0], "each got its own");
    }
}

/// A server that asks for the content although it took no recipient gets an empty one (RFC 2920, 3.1).
#[tokio::test]
async fn a_content_nobody_gets_is_empty() {
    let sink = SmtpSink::start().await.unwrap();
    sink.refuse("p0@example.org", "550 5.1.1 no such user");
    sink.fault_times(SmtpStep::Data, 1, SmtpFault::reply("354 go on all the same"));
    let smtp = mailer(&sink, "&pool=1");
    let error = send(&smtp, mail_to("p0@example.org")).await.unwrap_err();
    assert_eq!(error.blamed().as_str(), "recipient");
    send(&smtp, mail_to("p1@example.org")).await.unwrap();
    let said = String::from_utf8(sink.said()).unwrap();
    assert!(said.contains("DATA\r\n.\r\nMAIL FROM"), "{said}");
    assert_eq!(
        (sink.connections(), reached(&sink)),
        (1, vec!["p1@example.org".to_owned()])
    );
}

#[tokio::test]
async fn callers_that_go_away_take_nobody_with_them() {
    let sink = SmtpSink::start().await.unwrap();
    let smtp = mailer(&sink, "&pool=2");
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..300 {
        let smtp = smtp.clone();
        tasks.spawn(async move {
            let sending = send(&smtp, mail_to(&format!("p{n}@example.org")));
            // A third of them have no time: some wait, some are in the middle.
            let budget = if n % 3 == 0 {
                Duration::from_micros(n * 37 % 9_000)
            } else {
                Duration::from_secs(60)
            };
            (
                n % 3 == 0,
                tokio::time::timeout(budget, sending)
                    .await
                    .map(|answer| answer.is_ok()),
            )
        });
    }
    let mut kept = 0;
    while let Some(done) = tasks.join_next().await {
        let (hurried, answer) = done.unwrap();
        if !hurried {
            assert_eq!(answer, Ok(true));
            kept += 1;
        }
    }
    assert_eq!(kept, 200);
    let reached = reached(&sink);
    assert_eq!(
        reached.iter().collect::<BTreeSet<_>>().len(),
        reached.len(),
        "nobody twice"
    );
    // And it still works.
    assert!(burst(&smtp, 20).await.iter().all(Result::is_ok));
}
