//! Servers that are busy, slow, gone, or talk nonsense.

use std::time::Duration;

use crm_channels::testkit::{SmtpFault, SmtpSink, SmtpStep};
use crm_core::testkit::fixtures;
use crm_core::{Effect, ErrorKind, Retry, SystemClock};
use futures_util::future::join_all;

use super::{blame, mail_to, mailer, send};

const TIMES: &str =
    "&connect_timeout=1&greeting_timeout=1&command_timeout=1&data_timeout=1&block_timeout=1&end_timeout=1";

#[tokio::test]
async fn answers_are_read_as_what_they_are() {
    for (step, reply, kind, blamed, phase) in [
        (
            SmtpStep::Greeting,
            "554 no service",
            ErrorKind::Unavailable,
            "sender",
            "connect",
        ),
        (
            SmtpStep::Hello,
            "550 5.7.1 go away",
            ErrorKind::Unavailable,
            "sender",
            "connect",
        ),
        (
            SmtpStep::Mail,
            "553 5.7.1 not yours",
            ErrorKind::PermissionDenied,
            "sender",
            "mail from",
        ),
        (
            SmtpStep::Recipient,
            "550-5.1.1 <ana.kask@example.org>\r\n550 5.1.1 unknown",
            ErrorKind::Invalid,
            "recipient",
            "rcpt to",
        ),
        (
            SmtpStep::Recipient,
            "451 4.7.1 greylisted",
            ErrorKind::Unavailable,
            "nobody",
            "rcpt to",
        ),
        (
            SmtpStep::Recipient,
            "554 5.7.1 blocked",
            ErrorKind::PermissionDenied,
            "sender",
            "rcpt to",
        ),
        (
            SmtpStep::Data,
            "451 4.3.0 no room",
            ErrorKind::Unavailable,
            "nobody",
            "data",
        ),
        (
            SmtpStep::End,
            "552 5.3.4 too big",
            ErrorKind::Invalid,
            "content",
            "end of data",
        ),
        (
            SmtpStep::End,
            "550 5.7.26 no DMARC",
            ErrorKind::PermissionDenied,
            "sender",
            "end of data",
        ),
    ] {
        for pipelining in [true, false] {
            let sink = SmtpSink::start().await.unwrap();
            if !pipelining {
                sink.announce(&["8BITMIME"]);
            }
            sink.fault_times(step, 1, SmtpFault::reply(reply));
            let smtp = mailer(&sink, "");
            let error = send(&smtp, mail_to("ana.kask@example.org")).await.unwrap_err();
            assert_eq!((error.kind(), blame(&error)), (kind, (blamed, phase)), "{error}");
            assert_eq!(error.effect(), Effect::None);
            assert!(!format!("{error:?}").contains("ana.kask"), "{error:?}");
            // The next message goes its way.
            send(&smtp, mail_to("bo@example.org")).await.unwrap();
            assert_eq!(sink.mails().len(), 1, "{reply}");
            let kept = !matches!(step, SmtpStep::Greeting | SmtpStep::Hello);
            assert_eq!(sink.connections(), if kept { 1 } else { 2 }, "{reply}");
        }
    }
}

#[tokio::test]
async fn no_answer_is_waited_for_longer_than_allowed() {
    let stalled = [
        (SmtpStep::Greeting, "connect"),
        (SmtpStep::Hello, "connect"),
        (SmtpStep::Mail, "mail from"),
        (SmtpStep::Recipient, "rcpt to"),
        (SmtpStep::Data, "data"),
        (SmtpStep::End, "end of data"),
    ];
    join_all(stalled.map(|(step, phase)| async move {
        let sink = SmtpSink::start().await.unwrap();
        sink.fault_times(step, 1, SmtpFault::Hang);
        let smtp = mailer(&sink, TIMES);
        // A budget far above the time-out: what counts is that it ends.
        let answer = tokio::time::timeout(Duration::from_secs(20), send(&smtp, mail_to("a@example.org")));
        let error = answer.await.expect("it ends by itself").unwrap_err();
        let effect = if step == SmtpStep::End {
            Effect::Unknown
        } else {
            Effect::None
        };
        assert_eq!(
            (error.kind(), error.context("phase")),
            (ErrorKind::Timeout, Some(phase)),
            "{error}"
        );
        assert_eq!(error.effect(), effect);
        send(&smtp, mail_to("b@example.org")).await.unwrap();
    }))
    .await;
}

#[tokio::test]
async fn a_connection_lost_after_the_dot_is_unknown_and_before_it_is_not() {
    for step in [
        SmtpStep::Mail,
        SmtpStep::Recipient,
        SmtpStep::Data,
        SmtpStep::Content,
        SmtpStep::End,
    ] {
        let sink = SmtpSink::start().await.unwrap();
        sink.fault_times(step, 1, SmtpFault::Close);
        let mut mail = mail_to("a@example.org");
        if step == SmtpStep::Content {
            // Larger than what the network holds back: it cannot have been said to its end.
            mail.text = "many words\n".repeat(1_800_000);
        }
        let error = send(&mailer(&sink, ""), mail).await.unwrap_err();
        let unknown = step == SmtpStep::End;
        assert_eq!(error.effect() == Effect::Unknown, unknown, "{step:?}: {error:?}");
        assert_eq!(error.is_retryable(), !unknown, "{step:?}: {error:?}");
        assert_eq!(sink.taken(), usize::from(unknown), "the sink tells who is right");
    }
}

#[tokio::test]
async fn a_server_that_hangs_up_in_the_middle_is_heard() {
    let sink = SmtpSink::start().await.unwrap();
    sink.fault_times(
        SmtpStep::Content,
        1,
        SmtpFault::ReplyThenClose("552 5.3.4 Message too big for system".into()),
    );
    let mut mail = mail_to("a@example.org");
    mail.text = "many words\n".repeat(1_800_000);
    let error = send(&mailer(&sink, ""), mail).await.unwrap_err();
    assert_eq!(error.effect(), Effect::None, "{error:?}");
    // The reply may be lost with the connection, which only costs another try.
    if error.context("reply").is_some() {
        assert_eq!(
            (error.kind(), blame(&error)),
            (ErrorKind::Invalid, ("content", "data"))
        );
    } else {
        assert!(error.is_retryable());
    }
}

#[tokio::test]
async fn nonsense_is_no_answer_and_ends() {
    let long = format!("250 {}", "x".repeat(1 << 20));
    let endless = "250-x\r\n".repeat(20_000);
    for nonsense in [
        "999 hi",
        "hello there",
        "250-a\r\n550 b",
        "25",
        "\u{fffd}\u{fffd}",
        long.as_str(),
        endless.as_str(),
    ] {
        for step in [SmtpStep::Greeting, SmtpStep::Mail, SmtpStep::End] {
            let sink = SmtpSink::start().await.unwrap();
            sink.fault_times(step, 1, SmtpFault::reply(nonsense));
            let smtp = mailer(&sink, TIMES);
            let error = send(&smtp, mail_to("a@example.org")).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
            assert_eq!(
                error.effect() == Effect::Unknown,
                step == SmtpStep::End,
                "{error}"
            );
            assert!(format!("{error:?}").len() < 2000, "an error is no dump");
            send(&smtp, mail_to("b@example.org")).await.unwrap();
            assert_eq!(sink.connections(), 2, "such a connection is not used again");
        }
    }
}

#[tokio::test]
async fn answers_that_are_shifted_never_pass_for_a_yes() {
    for pipelining in [true, false] {
        // One answer too many: "354" would stand where the message is acknowledged.
        let sink = SmtpSink::start().await.unwrap();
        if !pipelining {
            sink.announce(&[]);
        }
        sink.fault_times(
            SmtpStep::Recipient,
            1,
            SmtpFault::reply("250 ok\r\n250 slipped in"),
        );
        let smtp = mailer(&sink, TIMES);
        let error = send(&smtp, mail_to("a@example.org")).await.unwrap_err();
        assert_eq!(
            (error.context("phase"), error.effect()),
            (Some("data"), Effect::None),
            "{error}"
        );
        let said = String::from_utf8(sink.said()).unwrap();
        assert!(!said.contains("Subject"), "the message was not said");
        send(&smtp, mail_to("b@example.org")).await.unwrap();
        assert_eq!(sink.connections(), 2, "such a connection is not used again");
    }
    // A yes to the end of the message before its beginning.
    let sink = SmtpSink::start().await.unwrap();
    sink.fault(
        SmtpStep::Data,
        SmtpFault::reply("354 go on\r\n250 2.0.0 Ok: queued as NEVER"),
    );
    let early = send(&mailer(&sink, ""), mail_to("a@example.org"))
        .await
        .unwrap_err();
    assert_eq!(
        (early.context("phase"), early.effect()),
        (Some("data"), Effect::None),
        "{early}"
    );
    assert!(!String::from_utf8(sink.said()).unwrap().contains("Subject"));
    let sink = SmtpSink::start().await.unwrap();
    sink.fault(SmtpStep::End, SmtpFault::reply("354 what else"));
    let odd = send(&mailer(&sink, ""), mail_to("a@example.org"))
        .await
        .unwrap_err();
    assert_eq!(odd.effect(), Effect::Unknown);
}

#[tokio::test]
async fn a_server_that_says_goodbye_is_asked_again_once() {
    // A kept connection: the goodbye has nothing to do with the message.
    let sink = SmtpSink::start().await.unwrap();
    let smtp = mailer(&sink, "");
    send(&smtp, mail_to("a@example.org")).await.unwrap();
    sink.fault_times(
        SmtpStep::Mail,
        1,
        SmtpFault::ReplyThenClose("421 4.3.2 too many messages".into()),
    );
    send(&smtp, mail_to("b@example.org")).await.unwrap();
    assert_eq!((sink.connections(), sink.taken()), (2, 2));
    // A fresh one: the server is busy, and asks for a wait.
    sink.fault(
        SmtpStep::Greeting,
        SmtpFault::ReplyThenClose("421 4.7.0 try again in 90 seconds".into()),
    );
    sink.fault_times(
        SmtpStep::Mail,
        1,
        SmtpFault::ReplyThenClose("421 4.3.2 bye".into()),
    );
    let error = send(&smtp, mail_to("c@example.org")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RateLimited, "{error}");
    assert_eq!(
        error.retry(),
        Retry::Allowed {
            after: Some(Duration::from_secs(90))
        }
    );
    assert_eq!(sink.connections(), 3, "asked once, not in a storm");
}

#[tokio::test]
async fn a_closed_connection_is_replaced_and_full_ones_are_left() {
    for (more, faults, connections) in [("", 0, 1), ("", 1, 6), ("&per_connection=2", 0, 3)] {
        let sink = SmtpSink::start().await.unwrap();
        if faults > 0 {
            // Takes each message and closes after it.
            sink.fault(
                SmtpStep::End,
                SmtpFault::ReplyThenClose("250 2.0.0 Ok: queued as X".into()),
            );
        }
        let smtp = mailer(&sink, more);
        for n in 0..6 {
            send(&smtp, mail_to(&format!("p{n}@example.org"))).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!((sink.connections(), sink.taken()), (connections, 6), "{more}");
    }
}

#[tokio::test]
async fn nobody_waits_for_a_connection_beyond_the_deadline() {
    let sink = SmtpSink::start().await.unwrap();
    sink.fault(SmtpStep::Data, SmtpFault::Hang);
    let smtp = mailer(&sink, "&pool=1");
    let slow = {
        let smtp = smtp.clone();
        tokio::spawn(async move { send(&smtp, mail_to("a@example.org")).await })
    };
    while sink.connections() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let until = SystemClock::shared().now().plus(Duration::from_millis(100));
    let ctx = fixtures::context().deadline(until);
    let mail = fixtures::permitted(mail_to("b@example.org"));
    let error = crm_core::capability::Mailer::send(&*smtp, &ctx, &mail)
        .await
        .unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Timeout, Effect::None));
    slow.abort();
}
