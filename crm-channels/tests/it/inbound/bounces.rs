//! Mail that came back: only what proves itself counts.

use crm_channels::OutboxState;
use crm_channels::inbound::{Action, MailOutcome, MailReport, ReturnedMail};
use crm_core::ErrorKind;
use crm_core::consent::{SuppressionReason, SuppressionScope};
use crm_core::message::{Blame, DeliveryState, MessageId};
use proptest::prelude::*;

use super::{Office, other_tenant, return_path};
use crate::common::news;

/// Reports written by Postfix 3.7.11, to a sender of its own.
const POSTFIX: [(&str, &str); 4] = [
    ("delivered", include_str!("../../data/dsn/postfix-dsn-1.eml")),
    ("unknown", include_str!("../../data/dsn/postfix-dsn-2.eml")),
    ("full", include_str!("../../data/dsn/postfix-dsn-3.eml")),
    ("spam", include_str!("../../data/dsn/postfix-dsn-4.eml")),
];

/// The shape of what Exchange Online sends: an HTML part first, the machine part in the middle, a comment in the status.
fn exchange(to: &str, recipient: &str, action: &str, status: &str, said: &str) -> String {
    format!(
        "From: \"postmaster@example.org\" <postmaster@example.org>\r\nTo: <{to}>\r\nMIME-Version: 1.0\r\n\
         Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary=\"_8f2c_\"\r\n\
         X-MS-Exchange-Message-Is-Ndr:\r\nContent-Language: en-US\r\nSubject: Undeliverable: News\r\n\
         Auto-Submitted: auto-replied\r\n\r\n--_8f2c_\r\nContent-Type: multipart/alternative; differences=Content-Type;\r\n\t\
         boundary=\"_alt_\"\r\n\r\n--_alt_\r\nContent-Type: text/plain; charset=\"us-ascii\"\r\n\r\nDelivery has failed.\r\n\
         --_alt_\r\nContent-Type: text/html\r\n\r\n<p>Delivery has failed</p>\r\n--_alt_--\r\n--_8f2c_\r\n\
         Content-Type: message/delivery-status\r\n\r\nReporting-MTA: dns;AM0PR01.prod.outlook.example\r\n\
         Received-From-MTA: dns;AM0PR02.prod.outlook.example\r\nArrival-Date: Sun, 1 Mar 2026 09:00:00 +0000\r\n\r\n\
         Final-Recipient: rfc822;{recipient}\r\nAction: {action}\r\nStatus: {status}\r\n\
         Diagnostic-Code: smtp;{said}\r\nX-Display-Name: Ana\r\n\r\n\r\n--_8f2c_\r\nContent-Type: message/rfc822\r\n\r\n\
         From: shop@example.com\r\nSubject: News\r\n\r\nHello\r\n--_8f2c_--\r\n"
    )
}

/// As RFC 5965 shows it.
fn complaint(from: &str, original_headers: &str, kind: &str) -> String {
    format!(
        "From: <abusedesk@example.org>\r\nTo: <abuse@example.com>\r\nSubject: FW: News\r\nMIME-Version: 1.0\r\n\
         Content-Type: multipart/report; report-type=feedback-report;\r\n     boundary=\"part1\"\r\n\r\n--part1\r\n\
         Content-Type: text/plain; charset=\"US-ASCII\"\r\n\r\nThis is an email abuse report.\r\n\r\n--part1\r\n\
         Content-Type: message/feedback-report\r\n\r\nFeedback-Type: {kind}\r\nUser-Agent: SomeGenerator/1.0\r\nVersion: 1\r\n\
         Original-Mail-From: <{from}>\r\n\r\n--part1\r\nContent-Type: message/rfc822\r\nContent-Disposition: inline\r\n\r\n\
         {original_headers}From: <shop@example.com>\r\nSubject: News\r\n\r\nHello\r\n\r\n--part1--\r\n"
    )
}

struct Sent {
    o: Office,
    id: MessageId,
    path: String,
}

/// A mail that our own server took.
async fn sent(address: &str) -> Sent {
    let o = Office::new().await;
    let ana = o.w.subscriber("Ana", address).await;
    let id = o.w.enqueue(ana, address, news()).await;
    o.outreach.dispatcher().unwrap().drain(&o.w.ctx).await.unwrap();
    let path = return_path()
        .address(o.w.ctx.tenant(), id)
        .unwrap()
        .as_str()
        .to_owned();
    Sent { o, id, path }
}

impl Sent {
    async fn take(&self, mail: &str) -> Result<MailOutcome, ErrorKind> {
        let taken = self.o.desk().mail(&self.o.w.ctx, mail.as_bytes(), None).await;
        taken.map_err(|e| e.kind())
    }
    async fn delivery(&self) -> Option<DeliveryState> {
        self.o
            .outreach
            .message(&self.o.w.ctx, self.id)
            .await
            .unwrap()
            .delivery
    }
    async fn untouched(&self) -> bool {
        let accepted = self.delivery().await == Some(DeliveryState::Accepted);
        accepted
            && self.o.suppressions(&self.o.w.ctx).await.is_empty()
            && self.o.kinds().await == ["mail.accepted"]
    }
}

/// EML-10, with reports of a real server: each part as it was written, the sender's address in place of ours.
#[tokio::test]
async fn reports_of_postfix() {
    for (name, mail) in POSTFIX {
        let recipient = match name {
            "delivered" => "bob@test.example",
            "unknown" => "unknown@sink.example",
            "full" => "full@sink.example",
            _ => "spam@sink.example",
        };
        for line_ends in ["\n", "\r\n"] {
            let s = sent(recipient).await;
            let mail = mail
                .replace("\r\n", "\n")
                .replace("me@test.example", &s.path)
                .replace('\n', line_ends);
            let outcome = s.take(&mail).await.unwrap();
            let MailOutcome::News(id, report) = outcome else {
                panic!("{name}: {outcome:?}")
            };
            assert_eq!((id, report.applied), (s.id, 1));
            let end = if name == "delivered" {
                DeliveryState::Delivered
            } else {
                DeliveryState::Failed
            };
            assert_eq!(s.delivery().await, Some(end), "{name}");
            let entry = s.o.outreach.message(&s.o.w.ctx, s.id).await.unwrap();
            assert_eq!(
                entry.state,
                OutboxState::Sent,
                "that it was handed over stays true"
            );
            let suppressions = s.o.suppressions(&s.o.w.ctx).await;
            assert_eq!(suppressions.len(), usize::from(name == "unknown"), "{name}");
            if name == "unknown" {
                assert_eq!(suppressions[0].reason, SuppressionReason::Undeliverable);
                assert_eq!(suppressions[0].scope, SuppressionScope::All);
                assert_eq!(
                    entry.last_error.as_deref(),
                    Some("5.1.1: 550 5.1.1 No such user here")
                );
            }
            // Once more changes nothing.
            let MailOutcome::News(_, again) = s.take(&mail).await.unwrap() else {
                panic!()
            };
            assert_eq!((again.applied, again.repeated), (0, 1));
        }
    }
}

/// What a report calls the envelope is read as servers write it; one that is about another message of ours says nothing.
#[tokio::test]
async fn a_report_is_about_the_envelope_that_it_names() {
    let named = |mail: &str| ReturnedMail::read(mail.as_bytes()).unwrap().envelope_id;
    let names: Vec<Option<String>> = POSTFIX.iter().map(|(_, mail)| named(mail)).collect();
    let wanted = ["camp4", "env0", "env1", "env2"].map(|name| Some(name.to_owned()));
    assert_eq!(names, wanted);
    let s = sent("ana@example.org").await;
    let plain = exchange(&s.path, "ana@example.org", "failed", "5.1.1", "550 5.1.1 no");
    assert_eq!(named(&plain), None);
    let with = |id: String| {
        let line = "Reporting-MTA: dns;";
        plain.replace(line, &format!("Original-Envelope-Id: {id}\r\n{line}"))
    };
    let other = with(s.o.w.ids.fresh().to_string());
    assert!(matches!(s.take(&other).await, Ok(MailOutcome::Other)));
    assert!(s.untouched().await);
    let ours = with(s.id.to_string());
    assert!(matches!(s.take(&ours).await, Ok(MailOutcome::News(id, _)) if id == s.id));
    assert_eq!(s.delivery().await, Some(DeliveryState::Failed));
}

/// EML-9, and bad input 6.
#[tokio::test]
async fn a_report_without_our_return_path_changes_nothing() {
    let s = sent("unknown@sink.example").await;
    let (_, mail) = POSTFIX[1];
    let forged_mac = s.path.replace(&s.path[40..44], "aaaa");
    let another = return_path().address(other_tenant().tenant(), s.id).unwrap();
    let elsewhere = s.path.replace("bounces.example.com", "bounces.example.org");
    let bare = format!("bounce+{}@bounces.example.com", s.id.uuid().simple());
    for to in [
        "me@test.example",
        &forged_mac,
        another.as_str(),
        &elsewhere,
        &bare,
        "",
    ] {
        let mail = mail.replace("me@test.example", to);
        assert_eq!(s.take(&mail).await, Err(ErrorKind::Unauthenticated), "{to}");
        assert!(s.untouched().await, "{to}");
        let abuse = complaint(to, "", "abuse");
        assert_eq!(s.take(&abuse).await, Err(ErrorKind::Unauthenticated), "{to}");
        assert!(s.untouched().await, "{to}");
    }
    // The address the server got it at is as good as one in the mail; and with it, the negative control.
    let desk = s.o.desk();
    let mail = mail.replace("me@test.example", "list@test.example");
    assert!(
        desk.mail(&other_tenant(), mail.as_bytes(), Some(&s.path))
            .await
            .is_err()
    );
    assert!(s.untouched().await);
    desk.mail(&s.o.w.ctx, mail.as_bytes(), Some(&s.path))
        .await
        .unwrap();
    assert!(!s.untouched().await);
}

#[tokio::test]
async fn reports_as_exchange_writes_them() {
    for (action, status, said, blame, end) in [
        (
            "failed",
            "5.1.10",
            "550 5.1.10 RESOLVER.ADR.RecipientNotFound; not found",
            Blame::Recipient,
            Some(DeliveryState::Failed),
        ),
        (
            "failed",
            "5.2.2",
            "554 5.2.2 mailbox full; STOREDRV.Deliver",
            Blame::RecipientForNow,
            Some(DeliveryState::Failed),
        ),
        (
            "failed",
            "5.7.1 (delivery not authorized)",
            "550 5.7.1 blocked",
            Blame::Sender,
            Some(DeliveryState::Failed),
        ),
        (
            "failed",
            "5.0.0",
            "550 5.1.1 no such user",
            Blame::Recipient,
            Some(DeliveryState::Failed),
        ),
        (
            "failed",
            "5.0.0",
            "550 4.1.1 other class",
            Blame::Nobody,
            Some(DeliveryState::Failed),
        ),
        (
            "failed",
            "4.4.7",
            "550 4.4.7 QUEUE.Expired; message expired",
            Blame::Nobody,
            Some(DeliveryState::Failed),
        ),
        (
            "failed (relay)",
            "5.4.1",
            "550 5.4.1 Recipient address rejected: Access denied",
            Blame::Nobody,
            Some(DeliveryState::Failed),
        ),
        ("delayed", "4.4.7", "421 4.4.7 delayed", Blame::Nobody, None),
        (
            "relayed",
            "2.0.0",
            "",
            Blame::Nobody,
            Some(DeliveryState::Accepted),
        ),
        (
            "expanded",
            "2.0.0",
            "",
            Blame::Nobody,
            Some(DeliveryState::Accepted),
        ),
        ("exploded", "5.1.1", "550 5.1.1 what", Blame::Nobody, None),
    ] {
        let s = sent("ana@example.org").await;
        let mail = exchange(&s.path, "Ana@Example.org", action, status, said);
        let read = ReturnedMail::read(mail.as_bytes()).unwrap();
        let MailReport::Delivery(recipients) = &read.report else {
            panic!("{action}: {:?}", read.report)
        };
        assert_eq!(recipients.len(), 1);
        assert_eq!(recipients[0].blame(), blame, "{action} {status} {said}");
        match (s.take(&mail).await.unwrap(), end) {
            (MailOutcome::Delayed(id), None) => {
                assert_eq!(id, s.id);
                assert!(s.untouched().await, "{action} is no bounce");
            }
            (MailOutcome::News(..), Some(end)) => {
                assert_eq!(s.delivery().await, Some(end), "{action} {status}")
            }
            (other, _) => panic!("{action} {status}: {other:?}"),
        }
    }
}

/// Two recipients in one report: only our own counts, and behind an alias what arrived counts more.
#[tokio::test]
async fn only_the_recipient_of_the_message_is_blamed() {
    let block = |recipient: &str, action: &str, status: &str| {
        format!("\r\nFinal-Recipient: rfc822; {recipient}\r\nAction: {action}\r\nStatus: {status}\r\n")
    };
    let report = |to: &str, blocks: &str| {
        format!(
            "To: {to}\r\nContent-Type: multipart/report; boundary=b; report-type=delivery-status\r\n\r\n--b\r\n\
             Content-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; x\r\n{blocks}\r\n--b--\r\n"
        )
    };
    for (blocks, end) in [
        (
            [
                block("bob@example.org", "failed", "5.1.1"),
                block("ana@example.org", "delivered", "2.0.0"),
            ],
            DeliveryState::Delivered,
        ),
        (
            [
                block("ana@example.org", "failed", "5.1.1"),
                block("bob@example.org", "delivered", "2.0.0"),
            ],
            DeliveryState::Failed,
        ),
        (
            [
                block("x@in.example", "failed", "5.1.1"),
                block("y@in.example", "delivered", "2.0.0"),
            ],
            DeliveryState::Delivered,
        ),
        (
            [
                block("x@in.example", "failed", "5.1.1"),
                block("y@in.example", "failed", "5.2.2"),
            ],
            DeliveryState::Failed,
        ),
    ] {
        let s = sent("ana@example.org").await;
        s.take(&report(&s.path, &blocks.concat())).await.unwrap();
        assert_eq!(s.delivery().await, Some(end), "{blocks:?}");
        for suppression in s.o.suppressions(&s.o.w.ctx).await {
            let ana = crate::common::key().of_address(&crate::common::email("ana@example.org"));
            assert_eq!(
                suppression.address_key, ana,
                "never an address that only the report names"
            );
        }
    }
}

/// RFC 3834: neither a bounce nor an answer.
#[tokio::test]
async fn machines_that_answer_change_nothing() {
    let s = sent("ana@example.org").await;
    for headers in [
        "Auto-Submitted: auto-replied",
        "Auto-Submitted: auto-generated; owner-email=\"x@y.z\"",
        "Precedence: bulk",
        "X-Autoreply: yes",
        "Content-Type: multipart/report; report-type=disposition-notification; boundary=x",
    ] {
        let mail = format!(
            "To: {}\r\n{headers}\r\nSubject: Out of office\r\n\r\n550 5.1.1 I am away\r\n",
            s.path
        );
        assert_eq!(s.take(&mail).await, Ok(MailOutcome::AutoReply), "{headers}");
    }
    let answer = format!(
        "To: {}\r\nAuto-Submitted: no\r\nSubject: Re: News\r\n\r\nAction: failed\r\n",
        s.path
    );
    assert_eq!(s.take(&answer).await, Ok(MailOutcome::Other));
    assert!(s.untouched().await);
}

#[tokio::test]
async fn complaints_suppress_at_once_and_everything() {
    // By the return path, and where that is redacted, by the link in the original's headers.
    for by_link in [false, true] {
        let s = sent("ana@example.org").await;
        let sent_mail = s.o.w.mail("ana@example.org");
        let mut mail = crm_core::message::Email {
            id: s.id,
            ..sent_mail
        };
        let customer = s.o.outreach.message(&s.o.w.ctx, s.id).await.unwrap().customer_id;
        s.o.outreach
            .stamp(&s.o.w.ctx, &mut mail, customer, &news())
            .unwrap();
        let link = format!("List-Unsubscribe: {}\r\n", mail.headers["List-Unsubscribe"]);
        let report = if by_link {
            complaint("redacted@example.com", &link, "Abuse")
        } else {
            complaint(&s.path, "", "abuse")
        };
        let outcome = s.take(&report).await.unwrap();
        assert!(
            matches!(outcome, MailOutcome::News(id, _) if id == s.id),
            "{outcome:?}"
        );
        assert_eq!(s.delivery().await, Some(DeliveryState::Complained));
        let suppressions = s.o.suppressions(&s.o.w.ctx).await;
        assert_eq!(suppressions.len(), 1);
        assert_eq!(
            (&suppressions[0].scope, suppressions[0].reason),
            (&SuppressionScope::All, SuppressionReason::Complaint)
        );
        assert_eq!(s.o.kinds().await, ["mail.accepted", "mail.complained"]);
    }
    let s = sent("ana@example.org").await;
    assert_eq!(
        s.take(&complaint(&s.path, "", "not-spam")).await,
        Ok(MailOutcome::Other)
    );
    assert!(s.untouched().await);
}

/// Who would rather write a mail than click.
#[tokio::test]
async fn a_mail_whose_subject_is_our_token_unsubscribes() {
    let s = sent("ana@example.org").await;
    let mut mail = crm_core::message::Email {
        id: s.id,
        ..s.o.w.mail("ana@example.org")
    };
    let customer = s.o.outreach.message(&s.o.w.ctx, s.id).await.unwrap().customer_id;
    s.o.outreach
        .stamp(&s.o.w.ctx, &mut mail, customer, &news())
        .unwrap();
    let link = &mail.headers["List-Unsubscribe"];
    let token = link.trim_end_matches('>').rsplit('/').next().unwrap();
    let forged = token.replace(&token[50..54], "AAAA");
    let wrong = format!("To: unsubscribe@example.com\r\nSubject: {forged}\r\n\r\n");
    assert_eq!(s.take(&wrong).await, Ok(MailOutcome::Other));
    assert!(s.untouched().await);
    let right = format!("To: unsubscribe@example.com\r\nSubject: {token}\r\n\r\n");
    assert_eq!(s.take(&right).await, Ok(MailOutcome::Unsubscribed(s.id)));
    assert_eq!(s.o.suppressions(&s.o.w.ctx).await.len(), 1);
}

/// Bad input 6: what is too large, too deep, never ends, or is no mail at all.
#[tokio::test]
async fn hostile_mail_is_bounded() {
    let s = sent("ana@example.org").await;
    let huge = vec![b'x'; 10 * 1024 * 1024 + 1];
    assert_eq!(
        s.o.desk()
            .mail(&s.o.w.ctx, &huge, Some(&s.path))
            .await
            .unwrap_err()
            .kind(),
        ErrorKind::Invalid
    );
    let mut deep = format!("To: {}\r\n", s.path);
    for i in 0..1000 {
        deep += &format!(
            "Content-Type: multipart/report; report-type=delivery-status; boundary=b{i}\r\n\r\n--b{i}\r\n"
        );
    }
    deep += "Content-Type: message/delivery-status\r\n\r\nX: y\r\n\r\nFinal-Recipient: rfc822; ana@example.org\r\nAction: failed\r\n";
    assert_eq!(
        s.take(&deep).await,
        Ok(MailOutcome::Other),
        "deeper than anybody nests"
    );
    let many = format!(
        "To: {}\r\nContent-Type: multipart/report; boundary=b\r\n\r\n--b\r\nContent-Type: message/delivery-status\r\n\r\nX: y\r\n{}",
        s.path,
        "\r\nFinal-Recipient: rfc822; bob@example.org\r\nAction: delayed\r\n".repeat(100_000)
    );
    let read = ReturnedMail::read(many.as_bytes()).unwrap();
    assert!(matches!(&read.report, MailReport::Delivery(r) if r.len() == 100));
    for mail in [
        String::new(),
        "\r\n".repeat(100_000),
        "To: ".to_owned() + &"x@y.z,".repeat(100_000),
        format!(
            "To: {}\r\nContent-Type: multipart/report; boundary=\"\"\r\n\r\n--\r\n--\r\n",
            s.path
        ),
        format!("To: {}\r\nContent-Type: message/delivery-status\r\n\r\n", s.path),
        "Content-Type: multipart/report; boundary=b\r\n\r\n".to_owned() + &"--b\r\n\r\n".repeat(100_000),
    ] {
        let _ = s.take(&mail).await;
    }
    assert!(s.untouched().await);
    // No end of the last part, and only one line end short of everything: still read.
    let cut = exchange(&s.path, "ana@example.org", "failed", "5.1.1", "550 5.1.1 x");
    let cut = &cut[..cut.find("X-Display-Name").unwrap() - 2];
    assert!(matches!(s.take(cut).await, Ok(MailOutcome::News(..))));
}

#[test]
fn nothing_of_a_report_that_names_people_is_kept() {
    let mail = exchange(
        "x@y.z",
        "ana.kask@example.org",
        "failed",
        "5.1.1",
        "550 5.1.1 <ana.kask@example.org>: ANA.KASK unknown here",
    );
    let MailReport::Delivery(recipients) = ReturnedMail::read(mail.as_bytes()).unwrap().report else {
        panic!()
    };
    assert_eq!(
        recipients[0].said.as_deref(),
        Some("550 5.1.1 <address> <address> unknown here")
    );
    assert!(!format!("{recipients:?}").contains("kask"));
    assert_eq!(recipients[0].action, Action::Failed);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// A real report with pieces cut out, doubled and changed: read or not, never a panic.
    #[test]
    fn damaged_reports_never_panic(
        which in 0usize..4,
        edits in proptest::collection::vec((any::<proptest::sample::Index>(), 0u8..4, any::<u8>(), 0usize..200), 1..20),
    ) {
        let mut mail = POSTFIX[which].1.as_bytes().to_vec();
        for (at, how, byte, length) in edits {
            let at = at.index(mail.len().max(1)).min(mail.len());
            let end = (at + length).min(mail.len());
            match how {
                0 => { mail.drain(at..end); }
                1 => { let piece = mail[at..end].to_vec(); mail.splice(at..at, piece); }
                2 => mail.insert(at, byte),
                _ => if let Some(b) = mail.get_mut(at) { *b = byte; },
            }
        }
        let _ = ReturnedMail::read(&mail).unwrap();
    }
}
