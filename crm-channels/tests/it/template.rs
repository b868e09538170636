use crm_channels::{TEMPLATE, TemplateSource, Variables};
use crm_core::query::Filter;
use crm_core::{Context, ErrorKind, TenantId};
use serde_json::json;

use crate::common::World;

fn source(text: &str) -> TemplateSource {
    serde_json::from_value(json!({
        "name": "shipped", "default_locale": "en", "variables": ["order"],
        "sms": {"en": {"text": text}},
    }))
    .unwrap()
}

#[tokio::test]
async fn templates_are_kept_in_versions_each_tenant_its_own() {
    let w = World::new().await;
    let o = w.outreach();
    let templates = o.templates();
    let save = async |text: &str| templates.save(&w.ctx, &source(text)).await;
    assert_eq!(save("one {{ order }}").await.unwrap().version(), Some(1));
    assert_eq!(
        save("one {{ order }}").await.unwrap().version(),
        Some(1),
        "nothing new"
    );
    assert_eq!(save("two {{ order }}").await.unwrap().version(), Some(2));
    assert_eq!(w.store.count(&w.ctx, &TEMPLATE, &Filter::All).await.unwrap(), 2);
    // A broken one never becomes a version.
    let error = save("{{ ordre }}").await.unwrap_err();
    assert_eq!(
        (error.context("template"), error.context("variable")),
        (Some("shipped"), Some("ordre"))
    );
    let vars = Variables::new().text("order", "4711");
    for _ in 0..2 {
        for (version, expected) in [(None, "two 4711"), (Some(1), "one 4711"), (Some(2), "two 4711")] {
            let template = templates.get(&w.ctx, "shipped", version).await.unwrap();
            assert_eq!(template.sms("de", &vars).unwrap().text, expected);
        }
    }
    // Somebody else saves a third: the newest is the newest, also for whoever has the second at hand.
    let third = w
        .outreach()
        .templates()
        .save(&w.ctx, &source("three"))
        .await
        .unwrap();
    assert_eq!(templates.get(&w.ctx, "shipped", None).await.unwrap(), third);
    let other = Context::new(TenantId::new("other").unwrap());
    let error = templates.get(&other, "shipped", Some(1)).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.context("template")),
        (ErrorKind::NotFound, Some("shipped"))
    );
    assert_eq!(
        templates.save(&other, &source("own")).await.unwrap().version(),
        Some(1)
    );
    let mut unnamed = source("x");
    unnamed.name = " ".into();
    assert_eq!(
        templates
            .save(&w.ctx, &unnamed)
            .await
            .unwrap_err()
            .context("field"),
        Some("name")
    );
}
