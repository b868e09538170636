use crm_core::ErrorKind;
use crm_core::consent::{Purpose, SuppressionReason, SuppressionScope};

use crate::common::{World, email, evidence, news, receipt};

#[tokio::test]
async fn marketing_is_denied_until_it_is_granted_and_again_when_withdrawn() {
    let w = World::new().await;
    let o = w.outreach();
    let gate = o.gate().unwrap();
    let ana = w.customer("Ana", "ana@example.org").await;
    let address = email("ana@example.org");
    let ask = || async { gate.permit(&w.ctx, w.mail("ana@example.org"), &news(), ana).await };

    let refused = ask().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Refused);
    assert!(
        refused.to_string().contains("consent: none on record for news"),
        "{refused}"
    );
    assert!(!refused.to_string().contains("ana@"), "no address in an error");
    // A receipt needs no consent.
    assert!(
        gate.permit(&w.ctx, w.mail("ana@example.org"), &receipt(), ana)
            .await
            .is_ok()
    );

    o.grant(&w.ctx, ana, &address, &news(), evidence(), None)
        .await
        .unwrap();
    let permitted = ask().await.unwrap();
    assert_eq!(permitted.decision().trace.len(), 4);
    // For this purpose only.
    let other = Purpose::marketing("offers").unwrap();
    assert!(
        gate.permit(&w.ctx, w.mail("ana@example.org"), &other, ana)
            .await
            .is_err()
    );

    w.pass(1);
    o.withdraw(&w.ctx, ana, &address, &news(), evidence())
        .await
        .unwrap();
    assert!(
        ask()
            .await
            .unwrap_err()
            .message()
            .starts_with("consent: withdrawn")
    );
    w.pass(1);
    let until = crm_core::Clock::now(&*w.clock).plus(std::time::Duration::from_secs(60));
    o.grant(&w.ctx, ana, &address, &news(), evidence(), Some(until))
        .await
        .unwrap();
    assert!(ask().await.is_ok());
    w.pass(60);
    assert!(ask().await.unwrap_err().message().starts_with("consent: expired"));
}

#[tokio::test]
async fn suppressions_cover_their_scope_and_outlive_the_customer() {
    let w = World::new().await;
    let o = w.outreach();
    let address = email("ana@example.org");
    let ana = w.subscriber("Ana", "ana@example.org").await;
    let rule = |customer, purpose: Purpose| {
        let (o, w, address) = (&o, &w, &address);
        async move { o.explain(&w.ctx, customer, address, &purpose).await.unwrap() }
    };
    assert!(rule(ana, news()).await.allowed);
    o.suppress(
        &w.ctx,
        &address,
        SuppressionScope::Marketing,
        SuppressionReason::Unsubscribed,
    )
    .await
    .unwrap();
    o.suppress(
        &w.ctx,
        &address,
        SuppressionScope::Marketing,
        SuppressionReason::Complaint,
    )
    .await
    .unwrap();
    assert_eq!(rule(ana, news()).await.rule(), "suppression");
    assert!(
        rule(ana, news()).await.last().contains("unsubscribed"),
        "the first reason stays"
    );
    assert!(rule(ana, receipt()).await.allowed);
    o.suppress(&w.ctx, &address, SuppressionScope::All, SuppressionReason::Erased)
        .await
        .unwrap();
    assert!(!rule(ana, receipt()).await.allowed);

    // Erased and imported again as somebody new: the address still is kept back.
    for schema in [&crm_core::customer::CONTACT_POINT, &crm_core::customer::CUSTOMER] {
        let all = w
            .store
            .find(
                &w.ctx,
                schema,
                &crm_core::query::Query::new(crm_core::query::Filter::All),
            )
            .await
            .unwrap();
        for stored in all.items {
            w.store
                .apply(
                    &w.ctx,
                    &[crm_core::record::Write::delete(schema, stored.id, None)],
                )
                .await
                .unwrap();
        }
    }
    let again = w.customer("Ana", "ana@example.org").await;
    assert_eq!(rule(again, receipt()).await.rule(), "suppression");
    assert!(
        o.unsuppress(&w.ctx, &address, &SuppressionScope::All)
            .await
            .unwrap()
    );
    assert!(
        !o.unsuppress(&w.ctx, &address, &SuppressionScope::All)
            .await
            .unwrap()
    );
    assert!(rule(again, receipt()).await.allowed);
    assert!(!rule(again, news()).await.allowed, "the other scope stays");
}

#[tokio::test]
async fn the_address_must_be_the_customers_own_and_alive() {
    let w = World::new().await;
    let o = w.outreach();
    let ana = w.subscriber("Ana", "ana@example.org").await;
    let bo = w.subscriber("Bo", "bo@example.org").await;
    let decision = o
        .explain(&w.ctx, bo, &email("ana@example.org"), &receipt())
        .await
        .unwrap();
    assert_eq!(
        decision.last(),
        "contact: the address is no contact point of this customer"
    );
    assert!(
        o.explain(&w.ctx, ana, &email("ana@example.org"), &news())
            .await
            .unwrap()
            .allowed
    );
    // Another tenant knows nothing of all this.
    let elsewhere = crm_core::Context::new(crm_core::TenantId::new("other").unwrap());
    assert!(
        !o.explain(&elsewhere, ana, &email("ana@example.org"), &receipt())
            .await
            .unwrap()
            .allowed
    );
}

#[tokio::test]
async fn without_a_key_nothing_works_and_the_error_says_what_to_do() {
    use crm_core::Consumer as _;
    let w = World::new().await;
    let registry = crm_core::Registry::builder()
        .provide::<dyn crm_core::capability::RecordStore>(0, w.store.clone())
        .provide::<dyn crm_core::capability::Mailer>(0, w.mailer.clone())
        .build()
        .unwrap();
    let o = crm_channels::Outreach::bind(&registry).unwrap();
    let error = o.dispatcher().unwrap_err();
    assert_eq!(
        (error.kind(), error.context("setting")),
        (ErrorKind::Config, Some("address_key"))
    );
    let nothing = crm_core::Registry::builder().build().unwrap();
    let error = crm_channels::Outreach::bind(&nothing).unwrap_err();
    assert!(error.to_string().contains("RecordStore, Mailer"), "{error}");
}

#[tokio::test]
async fn the_catalogue_opens_mailers_by_url() {
    use crm_core::capability::Mailer;
    let mut catalog = crm_core::registry::Catalog::new();
    crm_channels::register(&mut catalog);
    assert!(
        !catalog
            .open::<dyn Mailer>("memory:")
            .await
            .unwrap()
            .capability()
            .live
    );
    assert!(
        !catalog
            .open::<dyn Mailer>("record:")
            .await
            .unwrap()
            .capability()
            .live
    );
    let url = "smtp://crm:hunter22@mail.example";
    let opened = catalog.open::<dyn Mailer>(url).await;
    if cfg!(feature = "smtp") {
        let mailer = opened.unwrap();
        assert!(mailer.capability().live && !format!("{mailer:?}").contains("hunter22"));
        let error = catalog
            .open::<dyn Mailer>("smtp://crm:hunter22@mail.example?nope=1")
            .await
            .unwrap_err();
        assert!(error.context("setting") == Some("nope") && !format!("{error:?}").contains("hunter22"));
    } else {
        assert_eq!(opened.unwrap_err().context("feature"), Some("smtp"));
    }
}
