//! Links in messages: what only a person may do, and what nobody can forge.

use std::collections::BTreeSet;

use crm_channels::inbound::{LinkSubject, PageTexts};
use crm_core::capability::{WebhookReply, WebhookRequest};
use crm_core::consent::{
    CONSENT_EVENT, Purpose, Recipient, SUPPRESSION, SuppressionReason, SuppressionScope,
};
use crm_core::customer::{Address, CONTACT_POINT};
use crm_core::message::{Channel, Email};
use crm_core::query::{Filter, Query};
use crm_core::record::Write;
use crm_core::{CustomerId, ErrorKind};

use super::{Office, phone};
use crate::common::{email, evidence, news, receipt};

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

struct Linked {
    o: Office,
    ana: CustomerId,
    mail: Email,
    token: String,
    subject: LinkSubject,
}

async fn linked() -> Linked {
    let mut o = Office::new().await;
    o.outreach = o
        .outreach
        .clone()
        .with_purpose_text("news", "", "Our <news>", "Once a month");
    let ana = o.w.subscriber("Ana", "ana@example.org").await;
    let mut mail = o.w.mail("ana@example.org");
    o.outreach.stamp(&o.w.ctx, &mut mail, ana, &news()).unwrap();
    let link = &mail.headers["List-Unsubscribe"];
    let token = link.trim_end_matches('>').rsplit('/').next().unwrap().to_owned();
    let subject = o
        .outreach
        .link_subject(o.w.ctx.tenant(), &mail, ana, "news")
        .unwrap();
    o.w.pass(1);
    Linked {
        o,
        ana,
        mail,
        token,
        subject,
    }
}

impl Linked {
    async fn call(&self, method: &str, token: &str, body: &str) -> WebhookReply {
        let mut request = WebhookRequest::post("https://mail.example.com/u".parse().unwrap(), body);
        request.method = method.to_owned();
        self.o.desk().unsubscribe(token, &request).await
    }
    async fn gets_news(&self) -> bool {
        self.gets(&email("ana@example.org"), Channel::Email, &news())
            .await
    }
    async fn gets(&self, address: &Address, channel: Channel, purpose: &Purpose) -> bool {
        let recipient = Recipient::new(self.ana, address).by(channel);
        let gate = self.o.outreach.gate().unwrap();
        gate.explain(&self.o.w.ctx, &recipient, purpose)
            .await
            .unwrap()
            .allowed
    }
    /// Everything that an unsubscribing writes, as the store has it.
    async fn written(&self) -> (u64, u64) {
        let count = |schema| self.o.w.store.count(&self.o.w.ctx, schema, &Filter::All);
        (
            count(&CONSENT_EVENT).await.unwrap(),
            count(&SUPPRESSION).await.unwrap(),
        )
    }
}

#[tokio::test]
async fn marketing_carries_both_headers_and_its_own_return_path() {
    let l = linked().await;
    assert_eq!(
        l.mail.headers["List-Unsubscribe-Post"],
        "List-Unsubscribe=One-Click"
    );
    assert!(l.mail.headers["List-Unsubscribe"].starts_with("<https://mail.example.com/crm/u/"));
    assert!(
        l.mail
            .bounces_to
            .as_ref()
            .unwrap()
            .as_str()
            .ends_with("@bounces.example.com")
    );
    l.mail.validate().unwrap();
    let mut bill = l.o.w.mail("ana@example.org");
    l.o.outreach
        .stamp(&l.o.w.ctx, &mut bill, l.ana, &receipt())
        .unwrap();
    assert!(
        bill.headers.is_empty() && bill.bounces_to.is_some(),
        "a bill cannot be unsubscribed, but bounces"
    );
}

/// EML-8: nobody but a person who presses the button.
#[tokio::test]
async fn looking_at_a_link_does_nothing() {
    let l = linked().await;
    let before = l.written().await;
    for method in ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "get", ""] {
        let reply = l.call(method, &l.token, "List-Unsubscribe=One-Click").await;
        match method {
            "GET" => {
                assert_eq!(reply.status, 200);
                assert!(
                    reply.body.contains("<form method=\"post\" action=\"\">"),
                    "{}",
                    reply.body
                );
                assert!(reply.body.contains("Our &lt;news&gt;") && !reply.body.contains("<news>"));
            }
            "HEAD" => assert_eq!((reply.status, reply.body.as_str()), (200, "")),
            _ => assert_eq!(reply.status, 405, "{method}"),
        }
        assert!(!reply.headers.contains_key("set-cookie") && !reply.headers.contains_key("location"));
        assert_eq!(l.written().await, before, "{method}");
    }
    assert!(l.gets_news().await);
}

#[tokio::test]
async fn one_click_takes_the_purpose_back_and_keeps_the_proof() {
    for body in ["List-Unsubscribe=One-Click", ""] {
        let l = linked().await;
        let reply = l.call("POST", &l.token, body).await;
        assert_eq!(reply.status, 200);
        assert!(!reply.headers.contains_key("set-cookie") && !reply.headers.contains_key("location"));
        assert!(!l.gets_news().await);
        let mail = email("ana@example.org");
        assert!(
            l.gets(&mail, Channel::Email, &receipt()).await,
            "only what the mail was for"
        );
        let query = Query::new(Filter::eq("action", "withdrawn"));
        let events =
            l.o.w
                .store
                .find(&l.o.w.ctx, &CONSENT_EVENT, &query)
                .await
                .unwrap()
                .items;
        assert_eq!(events.len(), 1);
        let proof = events[0].record.get("evidence").unwrap().as_json().unwrap();
        assert_eq!(proof["source"], "one-click unsubscribe");
        assert_eq!(proof["detail"]["message_id"], l.mail.id.to_string());
        let after = l.written().await;
        for _ in 0..5 {
            assert_eq!(l.call("POST", &l.token, body).await.status, 200);
        }
        assert_eq!(l.written().await, after, "again changes nothing");
    }
}

/// Who agreed again and then uses the old link means it.
#[tokio::test]
async fn an_old_link_counts_again_after_a_new_consent() {
    let l = linked().await;
    l.call("POST", &l.token, "").await;
    l.o.w.pass(1);
    let mail = email("ana@example.org");
    let scope = SuppressionScope::Purpose("news".into());
    assert!(l.o.outreach.unsuppress(&l.o.w.ctx, &mail, &scope).await.unwrap());
    l.o.outreach
        .grant(&l.o.w.ctx, l.ana, &mail, &news(), evidence(), None)
        .await
        .unwrap();
    assert!(l.gets_news().await);
    assert_eq!(l.call("POST", &l.token, "").await.status, 200);
    assert!(!l.gets_news().await);
}

/// EML-8: 10,000 made up and 1,000 with one bit changed.
#[tokio::test]
async fn forged_links_are_refused_and_change_nothing() {
    let l = linked().await;
    let before = l.written().await;
    let (desk, request) = (
        l.o.desk(),
        WebhookRequest::post("https://mail.example.com/u".parse().unwrap(), ""),
    );
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut dice = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        usize::try_from(seed >> 33).unwrap()
    };
    for i in 0..10_000 {
        // Half as long as a real one, half of any length; some with a real beginning.
        let length = if i % 2 == 0 { l.token.len() } else { dice() % 300 };
        let mut token: String = (0..length).map(|_| char::from(ALPHABET[dice() % 64])).collect();
        if i % 4 == 0 {
            token.replace_range(..60, &l.token[..60]);
        }
        assert_eq!(desk.unsubscribe(&token, &request).await.status, 403, "{token}");
        assert_eq!(
            l.o.outreach.choices(&token).await.unwrap_err().kind(),
            ErrorKind::Unauthenticated
        );
    }
    for i in 0..1_000 {
        let mut token = l.token.clone().into_bytes();
        let at = i % token.len();
        let was = ALPHABET.iter().position(|b| *b == token[at]).unwrap();
        token[at] = ALPHABET[was ^ (1 << (dice() % 6))];
        let token = String::from_utf8(token).unwrap();
        assert_eq!(desk.unsubscribe(&token, &request).await.status, 403, "{token}");
    }
    for odd in [
        String::new(),
        "%00".into(),
        "🙂".into(),
        "A".repeat(1_000_000),
        format!("{}=", l.token),
        format!("{}%20", l.token),
    ] {
        assert_eq!(desk.unsubscribe(&odd, &request).await.status, 403);
    }
    assert_eq!(l.written().await, before);
    assert!(l.gets_news().await);
    // The negative control: the one that we made.
    assert_eq!(desk.unsubscribe(&l.token, &request).await.status, 200);
    assert!(!l.gets_news().await);
}

/// Bad input 5: the link of somebody else, of another purpose, of another tenant is another link.
#[tokio::test]
async fn a_link_works_for_nobody_and_nothing_else() {
    let l = linked().await;
    let bob = l.o.w.subscriber("Bob", "bob@example.org").await;
    l.o.w.pass(1);
    assert_eq!(l.call("POST", &l.token, "").await.status, 200);
    let gate = l.o.outreach.gate().unwrap();
    let to_bob = Recipient::new(bob, &email("bob@example.org"));
    assert!(gate.explain(&l.o.w.ctx, &to_bob, &news()).await.unwrap().allowed);
    let suppressions = l.o.suppressions(&super::other_tenant()).await;
    assert!(suppressions.is_empty());
}

#[tokio::test]
async fn links_work_after_an_erasure() {
    let l = linked().await;
    let query = Query::new(Filter::eq("customer_id", l.ana));
    let points =
        l.o.w
            .store
            .find(&l.o.w.ctx, &CONTACT_POINT, &query)
            .await
            .unwrap();
    let mut writes: Vec<Write> = points
        .items
        .iter()
        .map(|p| Write::delete(&CONTACT_POINT, p.id, None))
        .collect();
    writes.push(Write::delete(&crm_core::customer::CUSTOMER, l.ana, None));
    l.o.w.store.apply(&l.o.w.ctx, &writes).await.unwrap();
    l.o.outreach
        .suppress(
            &l.o.w.ctx,
            &email("ana@example.org"),
            SuppressionScope::All,
            SuppressionReason::Erased,
        )
        .await
        .unwrap();
    let before = l.written().await;
    assert_eq!(l.call("POST", &l.token, "").await.status, 200);
    assert_eq!(l.written().await, (before.0 + 1, before.1 + 1));
    // The page still opens; nothing can be turned on there.
    l.o.outreach
        .gate()
        .unwrap()
        .register_purpose(&l.o.w.ctx, &news(), "News")
        .await
        .unwrap();
    let token = preferences_token(&l);
    let choices = l.o.outreach.choices(&token).await.unwrap();
    assert!(!choices.is_empty() && choices.iter().all(|c| !c.on && !c.can_turn_on));
    let all: BTreeSet<_> = choices.iter().map(|c| (c.purpose.clone(), c.channel)).collect();
    l.o.outreach.choose(&token, &all, "page").await.unwrap();
    assert!(l.o.outreach.choices(&token).await.unwrap().iter().all(|c| !c.on));
}

fn preferences_token(l: &Linked) -> String {
    let unsubscribe = crm_channels::inbound::Unsubscribe::new(
        super::link_key(),
        "https://mail.example.com".parse().unwrap(),
    )
    .unwrap();
    let url = unsubscribe.preferences(&l.subject).unwrap();
    url.path().rsplit('/').next().unwrap().to_owned()
}

#[tokio::test]
async fn the_preference_page_shows_and_stores_choices() {
    let l = linked().await;
    let (desk, ctx) = (l.o.desk(), &l.o.w.ctx);
    let number = phone("+15005550006");
    l.o.reached_at(l.ana, "+15005550006").await;
    let gate = l.o.outreach.gate().unwrap();
    let offers = Purpose::marketing("offers").unwrap();
    for (purpose, words) in [
        (news(), "News"),
        (offers.clone(), "Offers"),
        (receipt(), "Receipts"),
    ] {
        gate.register_purpose(ctx, &purpose, words).await.unwrap();
    }
    let token = preferences_token(&l);
    let url = || "https://mail.example.com/preferences".parse().unwrap();
    let mut get = WebhookRequest::post(url(), "");
    get.method = "GET".to_owned();
    let before = l.written().await;
    let page = desk.preferences(&token, &get).await;
    assert_eq!(page.status, 200);
    let checked = |page: &WebhookReply, name: &str| {
        let input = page
            .body
            .split("<input ")
            .find(|i| i.contains(&format!("name=\"{name}\"")));
        input.map(|i| i.split('>').next().unwrap().contains(" checked"))
    };
    assert_eq!(checked(&page, "news:email"), Some(true));
    for off in [
        "news:sms",
        "news:voice",
        "offers:email",
        "offers:sms",
        "offers:voice",
    ] {
        assert_eq!(checked(&page, off), Some(false), "{off}");
    }
    assert_eq!(
        checked(&page, "receipt:email"),
        None,
        "a contract leaves no choice"
    );
    get.method = "HEAD".to_owned();
    assert_eq!(desk.preferences(&token, &get).await.body, "");
    assert_eq!(l.written().await, before, "looking changes nothing");
    // A POST that is not this form is no choice of nothing.
    let stray = desk
        .preferences(&token, &WebhookRequest::post(url(), "List-Unsubscribe=One-Click"))
        .await;
    assert_eq!(stray.status, 400);
    assert_eq!(l.written().await, before);

    // News by SMS instead of mail, offers by mail, and what nobody offered.
    let body = "news%3Asms=on&offers%3Aemail=on&receipt%3Aemail=on&evil%3Asms=on&x=y&save=1";
    let page = desk.preferences(&token, &WebhookRequest::post(url(), body)).await;
    assert_eq!(page.status, 200);
    assert_eq!(checked(&page, "news:email"), Some(false));
    assert_eq!(checked(&page, "news:sms"), Some(true));
    assert_eq!(checked(&page, "news:voice"), Some(false));
    assert_eq!(checked(&page, "offers:email"), Some(true));
    l.o.w.pass(1);
    let mail = email("ana@example.org");
    assert!(!l.gets_news().await);
    assert!(l.gets(&number, Channel::Sms, &news()).await);
    assert!(!l.gets(&number, Channel::Voice, &news()).await);
    assert!(l.gets(&mail, Channel::Email, &offers).await);
    // The same choice again writes nothing.
    let after = l.written().await;
    desk.preferences(&token, &WebhookRequest::post(url(), body)).await;
    assert_eq!(l.written().await, after);
    // And back: what the page turned off, the page turns on.
    desk.preferences(&token, &WebhookRequest::post(url(), "news%3Aemail=on&save=1"))
        .await;
    l.o.w.pass(1);
    assert!(l.gets_news().await);
    assert!(!l.gets(&number, Channel::Sms, &news()).await && !l.gets(&mail, Channel::Email, &offers).await);
    // One-click first, then the page.
    l.call("POST", &l.token, "").await;
    assert!(!l.gets_news().await);
    desk.preferences(&token, &WebhookRequest::post(url(), "news%3Aemail=on&save=1"))
        .await;
    l.o.w.pass(1);
    assert!(l.gets_news().await);
    // All of them, then no marketing by SMS at all, then one of two purposes and both of its channels again.
    let scope = SuppressionScope::Marketing;
    l.o.outreach
        .suppress(ctx, &number, scope.clone(), SuppressionReason::Unsubscribed)
        .await
        .unwrap();
    let both = "news%3Aemail=on&news%3Asms=on&news%3Avoice=on&save=1";
    let page = desk.preferences(&token, &WebhookRequest::post(url(), both)).await;
    for on in ["news:email", "news:sms", "news:voice"] {
        assert_eq!(checked(&page, on), Some(true), "{on}");
    }
    let kept = l.o.suppressions(ctx).await;
    assert!(!kept.iter().any(|s| s.scope == scope), "given back");
    let offers_kept = kept
        .iter()
        .filter(|s| s.scope == SuppressionScope::Purpose("offers".into()));
    assert!(offers_kept.count() >= 2, "but not for what nobody asked for");
    // What is not the person's own word stays.
    l.o.outreach
        .suppress(ctx, &mail, SuppressionScope::All, SuppressionReason::Complaint)
        .await
        .unwrap();
    let page = desk
        .preferences(&token, &WebhookRequest::post(url(), "news%3Aemail=on&save=1"))
        .await;
    assert_eq!(checked(&page, "news:email"), None);
    assert!(!l.gets_news().await);
    // A link to unsubscribe is none to this page.
    assert_eq!(desk.preferences(&l.token, &get).await.status, 403);
}

#[tokio::test]
async fn pages_speak_the_readers_language() {
    let mut l = linked().await;
    let german = PageTexts {
        language: "de".into(),
        unsubscribe_question: "Möchten Sie „{purpose}“ nicht mehr bekommen?".into(),
        ..PageTexts::default()
    };
    l.o.outreach =
        l.o.outreach
            .clone()
            .with_pages(vec![PageTexts::default(), german])
            .with_purpose_text("news", "de", "Neues & mehr", "");
    let mut request = WebhookRequest::post("https://mail.example.com/u".parse().unwrap(), "")
        .header("Accept-Language", "de-CH, en;q=0.5");
    request.method = "GET".to_owned();
    let page = l.o.desk().unsubscribe(&l.token, &request).await;
    assert!(page.body.contains("<html lang=\"de\">"));
    assert!(
        page.body
            .contains("Möchten Sie „Neues &amp; mehr“ nicht mehr bekommen?"),
        "{}",
        page.body
    );
}
