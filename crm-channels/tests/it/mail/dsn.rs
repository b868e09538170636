//! What servers are asked to report (RFC 3461): said to those that offer it, to no others, and understood by a real one.

use crm_channels::mail::SmtpMailer;
use crm_channels::mail::smtp::{DsnNotify, DsnReturn};
use crm_channels::testkit::SmtpSink;
use crm_core::capability::Mailer;
use crm_core::message::Mailbox;
use crm_core::testkit::fixtures;

use super::postfix::Postfix;
use super::{mail_to, mailer, send};

/// The lines of the envelope that went out.
fn envelope(sink: &SmtpSink) -> Vec<String> {
    String::from_utf8_lossy(&sink.said())
        .lines()
        .filter(|line| line.starts_with("MAIL FROM") || line.starts_with("RCPT TO"))
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
async fn a_server_that_offers_reports_is_told_which() {
    for grouped in [true, false] {
        for (offered, more, from, to) in [
            // Nothing to one that does not offer it, whatever is set.
            (false, "&dsn_notify=failure", "", ""),
            (
                true,
                "",
                " RET=HDRS ENVID=@ID@",
                " ORCPT=rfc822;ana+2Bb@test.example",
            ),
            (
                true,
                "&dsn_notify=success,failure,delay&dsn_return=full",
                " RET=FULL ENVID=@ID@",
                " NOTIFY=SUCCESS,FAILURE,DELAY ORCPT=rfc822;ana+2Bb@test.example",
            ),
            (
                true,
                "&dsn_notify=never",
                " RET=HDRS ENVID=@ID@",
                " NOTIFY=NEVER ORCPT=rfc822;ana+2Bb@test.example",
            ),
            (true, "&dsn=off&dsn_notify=failure", "", ""),
        ] {
            let sink = SmtpSink::start().await.unwrap();
            let offers = [(grouped, "PIPELINING"), (offered, "DSN"), (true, "8BITMIME")];
            let offers: Vec<&str> = offers
                .into_iter()
                .filter(|(yes, _)| *yes)
                .map(|(_, word)| word)
                .collect();
            sink.announce(&offers);
            let mail = mail_to("ana+b@test.example");
            let (id, sender) = (mail.id.to_string(), mail.from.address.as_str().to_owned());
            send(&mailer(&sink, more), mail).await.unwrap();
            assert_eq!(
                envelope(&sink),
                [
                    format!("MAIL FROM:<{sender}>{}", from.replace("@ID@", &id)),
                    format!("RCPT TO:<ana+b@test.example>{to}"),
                ],
                "{offers:?} {more}"
            );
        }
    }
}

#[tokio::test]
async fn letters_beyond_ascii_are_reported_in_a_form_that_every_server_takes() {
    let sink = SmtpSink::start().await.unwrap();
    sink.announce(&["PIPELINING", "DSN", "8BITMIME", "SMTPUTF8"]);
    send(&mailer(&sink, ""), mail_to("jos\u{e9}@test.example"))
        .await
        .unwrap();
    let said = envelope(&sink);
    assert_eq!(
        said[1],
        "RCPT TO:<jos\u{e9}@test.example> ORCPT=utf-8;jos\\x{E9}@test.example"
    );
}

/// The oracle is Postfix: it reports the delivery under the id of the message and with the address it was sent to, when and
/// only when it was asked to.
#[tokio::test]
async fn a_real_server_reports_what_it_was_asked_to() {
    let Some(postfix) = Postfix::find("a_real_server_reports_what_it_was_asked_to") else {
        return;
    };
    let mut reports = Vec::new();
    for notify in [vec![DsnNotify::Failure], vec![DsnNotify::Success]] {
        let mut config = postfix.config(&postfix.url);
        config.dsn.notify = notify;
        config.dsn.returned = DsnReturn::Headers;
        let mut mail = fixtures::email(1);
        // An id of this run: the Maildir is not emptied.
        mail.id = crm_core::RandomIds::shared().fresh().into();
        mail.from = Mailbox::new("shop@test.example".parse().unwrap(), "").unwrap();
        let to = format!("ana+{}@test.example", mail.id.uuid().simple());
        mail.to = Mailbox::new(to.parse().unwrap(), "").unwrap();
        let id = mail.id.to_string();
        SmtpMailer::build("postfix", config)
            .unwrap()
            .send(&fixtures::context(), &fixtures::permitted(mail.clone()))
            .await
            .unwrap();
        assert_eq!(postfix.arrived(&format!("X-Original-To: {to}"), 1).await.len(), 1);
        reports.push((format!("Original-Envelope-Id: {id}"), to));
    }
    // The second one is reported; the first one, taken before it, was not by then.
    let (id, to) = &reports[1];
    let found = postfix.arrived(id, 1).await;
    let [report] = found.as_slice() else {
        panic!("{} reports", found.len());
    };
    assert!(report.contains("Action: delivered"), "{report}");
    assert!(
        report
            .to_lowercase()
            .contains(&format!("original-recipient: rfc822;{to}")),
        "{report}"
    );
    assert!(
        postfix.arrived(&reports[0].0, 0).await.is_empty(),
        "nobody asked for this one"
    );
}
