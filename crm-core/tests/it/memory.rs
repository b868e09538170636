//! The in-memory providers keep the contracts.

use std::sync::Arc;

use crm_core::capability::{
    Collector, Mailer, ProfileWriter, RecordStore, Reject, RejectKind, SmsSender, VoiceCaller,
};
use crm_core::customer::CUSTOMER;
use crm_core::memory::{MemoryCollector, MemoryMailer, MemoryProfiles, MemorySms, MemoryStore, MemoryVoice};
use crm_core::query::{Filter, Query};
use crm_core::testkit::{fixtures, store};
use crm_core::{Effect, Error, ErrorKind, ManualClock, SystemClock, Timestamp};

crm_core::store_suite!(suite, async {
    Arc::new(MemoryStore::new("memory")) as Arc<dyn RecordStore>
});
crm_core::mailer_suite!(mailer, async {
    Arc::new(MemoryMailer::new("memory")) as Arc<dyn Mailer>
});
crm_core::sms_suite!(sms, async {
    Arc::new(MemorySms::new("memory")) as Arc<dyn SmsSender>
});
crm_core::profile_suite!(profiles, async {
    let store: Arc<dyn RecordStore> = Arc::new(MemoryStore::new("memory"));
    store.migrate(&[&CUSTOMER]).await.unwrap();
    let writer = MemoryProfiles::new(store.clone(), SystemClock::shared());
    (Arc::new(writer) as Arc<dyn ProfileWriter>, store)
});
crm_core::voice_suite!(voice, async {
    Arc::new(MemoryVoice::new("memory")) as Arc<dyn VoiceCaller>
});
crm_core::collector_suite!(collector, async {
    let reject = Reject {
        kind: RejectKind::Invalid,
        place: "list.csv".into(),
        line: Some(7),
        field: Some("email".into()),
        reason: "no @".into(),
    };
    let list = MemoryCollector::new("list", fixtures::drafts(23))
        .per_delivery(5)
        .with_rejects(vec![reject]);
    Arc::new(list) as Arc<dyn Collector>
});

#[tokio::test]
async fn a_schema_must_be_migrated_first() {
    let store = MemoryStore::new("memory");
    let error = store
        .find(&fixtures::context(), &store::SAMPLE, &Query::new(Filter::All))
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.context("schema")),
        (ErrorKind::Config, Some("kit_sample"))
    );
}

#[tokio::test]
async fn messages_follow_the_script() {
    let clock = Arc::new(ManualClock::at(Timestamp::from_micros(5)));
    let ctx = fixtures::context();
    let mailer = MemoryMailer::new("memory").with_clock(clock);
    let send = async |n| mailer.send(&ctx, &fixtures::permitted(fixtures::email(n))).await;
    mailer.fail_next(Error::new(ErrorKind::Unavailable, "busy"));
    mailer.lose_next_answer();
    mailer.refuse("person9@example.org", || Error::invalid("no such user"));
    assert_eq!(send(9).await.unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(send(1).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(send(2).await.unwrap_err().effect(), Effect::Unknown);
    let receipt = send(3).await.unwrap();
    assert_eq!(
        (receipt.accepted_at, receipt.provider.as_str()),
        (Timestamp::from_micros(5), "memory")
    );
    assert_eq!(send(9).await.unwrap_err().operation_name(), Some("mail.send"));
    let to: Vec<String> = mailer
        .sent()
        .iter()
        .map(|m| m.message().to.address.as_str().to_owned())
        .collect();
    assert_eq!(
        to,
        ["person2@example.org", "person3@example.org"],
        "a lost answer is a sent message"
    );
    assert_eq!(
        (
            mailer.sent_for(ctx.tenant()).len(),
            mailer.sent_for(fixtures::context().tenant()).len()
        ),
        (2, 0)
    );

    let sms = MemorySms::new("sms");
    sms.send(&ctx, &fixtures::permitted(fixtures::sms(1)))
        .await
        .unwrap();
    assert_eq!(sms.sent()[0].message().to.as_str(), "+493010000001");
    let voice = MemoryVoice::new("voice");
    voice
        .call(&ctx, &fixtures::permitted(fixtures::call(1)))
        .await
        .unwrap();
    assert_eq!(voice.called().len(), 1);
}

#[tokio::test]
async fn a_foreign_checkpoint_is_refused() {
    let list: Arc<dyn Collector> = Arc::new(MemoryCollector::new("list", fixtures::drafts(2)));
    for json in [
        serde_json::json!({"next": 3}),
        serde_json::json!("x"),
        serde_json::json!({"next": -1}),
    ] {
        let mut basket = crm_core::testkit::collector::Basket::default();
        let checkpoint = crm_core::capability::Checkpoint(json);
        let error = list
            .collect(&fixtures::context(), Some(&checkpoint), &mut basket)
            .await
            .unwrap_err();
        assert_eq!(
            (error.kind(), error.context("field")),
            (ErrorKind::Invalid, Some("resume"))
        );
    }
}
