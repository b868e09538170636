//! The whole way round with a real server: a mail that is taken, refused at the far end, and comes back.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crm_channels::inbound::{Inbound, MailOutcome, ReturnPath};
use crm_channels::mail::{SmtpConfig, SmtpMailer};
use crm_channels::{Mode, OutboxState, Outgoing, Outreach};
use crm_core::capability::{Mailer, RecordStore};
use crm_core::consent::SuppressionReason;
use crm_core::message::DeliveryState;
use crm_core::{Consumer as _, ErrorKind, RandomIds, Registry};

use super::link_key;
use crate::common::{World, email, key, receipt};

const TEST: &str = "a_real_bounce_finds_its_message";

fn server() -> Option<(SmtpConfig, PathBuf)> {
    let get = |name: &str| std::env::var(format!("OPEN_CRM_TEST_SMTP{name}")).ok();
    let (Some(url), Some(ca), Some(maildir)) = (get("_URL"), get("_CA"), get("_MAILDIR")) else {
        assert!(
            std::env::var_os("OPEN_CRM_REQUIRE_BACKENDS").is_none(),
            "{TEST}: OPEN_CRM_REQUIRE_BACKENDS is set, but OPEN_CRM_TEST_SMTP_URL and its neighbours are not"
        );
        let words = format!(
            "SKIPPED: {TEST}: set OPEN_CRM_TEST_SMTP_URL and its neighbours (scripts/services up postfix)\n"
        );
        let _ = std::io::Write::write_all(&mut std::io::stderr(), words.as_bytes());
        return None;
    };
    let mut config = SmtpConfig::from_url(&url).unwrap();
    config.ca_file = Some(ca.into());
    Some((config, maildir.into()))
}

#[tokio::test]
async fn a_real_bounce_finds_its_message() {
    let Some((config, maildir)) = server() else { return };
    let w = World::new().await;
    let registry = Registry::builder()
        .provide::<dyn RecordStore>(0, w.store.clone())
        .provide::<dyn Mailer>(0, Arc::new(SmtpMailer::build("postfix", config).unwrap()))
        .build()
        .unwrap();
    let outreach = Outreach::bind(&registry)
        .unwrap()
        .with_clock(w.clock.clone())
        .address_key(key())
        .with_return_path(ReturnPath::new(link_key(), "test.example").unwrap())
        .mode(Mode::Live);
    // The far end of this domain knows nobody.
    let to = "nobody@bounce.example";
    let ana = w.customer("Ana", to).await;
    let mut mail = w.mail(to);
    // An id of this run: the Maildir is not emptied.
    mail.id = RandomIds::shared().fresh().into();
    mail.from = crate::common::mailbox("shop@test.example", "Shop");
    outreach.stamp(&w.ctx, &mut mail, ana, &receipt()).unwrap();
    let path = mail.bounces_to.clone().unwrap();
    let outgoing = Outgoing::email(mail, ana, receipt());
    let id = outreach.enqueue(&w.ctx, outgoing, vec![]).await.unwrap();
    let report = outreach.dispatcher().unwrap().drain(&w.ctx).await.unwrap();
    assert_eq!(report.sent, 1, "our own server takes it: {report:?}");

    let mut bounce = None;
    for _ in 0..200 {
        let files = std::fs::read_dir(maildir.join("new")).unwrap();
        bounce = files
            .filter_map(|file| std::fs::read(file.ok()?.path()).ok())
            .find(|mail| {
                String::from_utf8_lossy(mail)
                    .contains(&format!("X-Original-To: {path}", path = path.as_str()))
            });
        if bounce.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let bounce = bounce.expect("Postfix reports to the return path within 20 seconds");
    let desk = Inbound::new(&registry, outreach.clone());
    // The negative control: the same report, to an address that is not ours.
    let forged = String::from_utf8_lossy(&bounce).replace(path.as_str(), "shop@test.example");
    let refused = desk.mail(&w.ctx, forged.as_bytes(), None).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unauthenticated);
    let outcome = desk.mail(&w.ctx, &bounce, None).await.unwrap();
    assert!(
        matches!(outcome, MailOutcome::News(of, _) if of == id),
        "{outcome:?}"
    );
    let entry = outreach.message(&w.ctx, id).await.unwrap();
    assert_eq!(
        (entry.state, entry.delivery),
        (OutboxState::Sent, Some(DeliveryState::Failed))
    );
    assert!(entry.last_error.unwrap().starts_with("5.1.1"));
    assert_eq!(w.contact_state(ana).await, "invalid");
    let suppressions = outreach
        .gate()
        .unwrap()
        .suppressions(&w.ctx, &email(to))
        .await
        .unwrap();
    assert_eq!(suppressions.len(), 1);
    assert_eq!(suppressions[0].reason, SuppressionReason::Undeliverable);
}
