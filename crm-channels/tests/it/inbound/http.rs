//! The router, over real connections.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use crm_channels::inbound::{Inbound, Tenants};
use crm_core::capability::{WebhookReply, WebhookRequest, WebhookSource};
use crm_core::memory::MemoryStore;
use crm_core::message::{Blame, DeliveryState, InboundEvent, MessageId};
use crm_core::query::Filter;
use crm_core::{Clock as _, Error, ErrorKind, Health, Provider, ProviderInfo, Registry, Result, TenantId};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::{Office, told};
use crate::common::{World, news};

/// A vendor whose signature is a header, and which says what a test tells it to.
#[derive(Debug)]
struct Scripted {
    info: ProviderInfo,
    events: Mutex<Vec<InboundEvent>>,
    seen: Mutex<Vec<WebhookRequest>>,
}

#[async_trait]
impl Provider for Scripted {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }
    async fn check(&self) -> Result<Health> {
        Ok(Health::Ready)
    }
}

#[async_trait]
impl WebhookSource for Scripted {
    async fn receive(&self, request: &WebhookRequest) -> Result<Vec<InboundEvent>> {
        self.seen.lock().unwrap().push(request.clone());
        if request.headers.get("x-signature").map(String::as_str) != Some("right") {
            return Err(Error::new(
                ErrorKind::Unauthenticated,
                "the signature is not the vendor's",
            ));
        }
        if request.body == b"garbage" {
            return Err(Error::invalid("cannot be read"));
        }
        Ok(self.events.lock().unwrap().clone())
    }
    fn accepted(&self) -> WebhookReply {
        WebhookReply::new(200, "application/json", "{\"code\":0}").header("x-vendor", "yes")
    }
}

struct Site {
    o: Office,
    vendor: Arc<Scripted>,
    address: SocketAddr,
}

async fn site(tenants: Tenants) -> Site {
    let vendor = Arc::new(Scripted {
        info: ProviderInfo::new("scripted", "vendor"),
        events: Mutex::default(),
        seen: Mutex::default(),
    });
    let o = Office::with(
        World::new().await,
        Registry::builder().provide::<dyn WebhookSource>(0, vendor.clone()),
    );
    let desk = o.desk().mail_secret(&crm_core::Secret::new("pipe"));
    let address = serve(desk, tenants).await;
    Site { o, vendor, address }
}

fn shop() -> Tenants {
    Tenants::One(TenantId::new("shop").unwrap())
}

impl Site {
    async fn call(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> (u16, String, String) {
        call(self.address, method, path, headers, body).await
    }

    async fn sent(&self) -> MessageId {
        let ana = self.o.w.subscriber("Ana", "ana@example.org").await;
        let id = self.o.w.enqueue(ana, "ana@example.org", news()).await;
        self.o
            .outreach
            .dispatcher()
            .unwrap()
            .drain(&self.o.w.ctx)
            .await
            .unwrap();
        id
    }

    async fn delivery(&self, id: MessageId) -> Option<DeliveryState> {
        self.o.outreach.message(&self.o.w.ctx, id).await.unwrap().delivery
    }
}

/// One request over a connection of its own; the status, the head and the body of the answer.
pub async fn call(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> (u16, String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += &format!("content-length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).await.unwrap();
    // A server that refuses may stop reading.
    let _ = stream.write_all(body).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    (status, head.to_lowercase(), body.to_owned())
}

/// The desk as a server of its own, until the test ends.
pub async fn serve(desk: Inbound, tenants: Tenants) -> SocketAddr {
    let router = desk
        .router("https://mail.example.com/crm".parse().unwrap(), tenants)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    address
}

const RIGHT: (&str, &str) = ("x-signature", "right");

#[tokio::test]
async fn a_vendors_call_is_checked_then_stored_then_answered() {
    let s = site(shop()).await;
    let id = s.sent().await;
    let event = told(id, "e1", DeliveryState::Delivered, s.o.w.clock.now());
    s.vendor
        .events
        .lock()
        .unwrap()
        .push(InboundEvent::Delivery(event));
    for (path, headers, body, status) in [
        ("/webhooks/vendor", vec![], &b"x"[..], 403),
        ("/webhooks/vendor", vec![("x-signature", "wrong")], b"x", 403),
        ("/webhooks/nobody", vec![RIGHT], b"x", 404),
        ("/webhooks/vendor", vec![RIGHT], b"garbage", 400),
        ("/webhooks/nobody/vendor", vec![RIGHT], b"x", 404),
        ("/shop/webhooks/vendor", vec![RIGHT], b"x", 404),
    ] {
        let (code, ..) = s.call("POST", path, &headers, body).await;
        assert_eq!(code, status, "{path} {headers:?}");
        assert_eq!(s.delivery(id).await, Some(DeliveryState::Accepted));
    }
    let (status, head, body) = s.call("POST", "/webhooks/vendor", &[RIGHT], b"x").await;
    assert_eq!((status, body.as_str()), (200, "{\"code\":0}"));
    assert!(
        head.contains("content-type: application/json") && head.contains("x-vendor: yes"),
        "{head}"
    );
    assert_eq!(s.delivery(id).await, Some(DeliveryState::Delivered));
}

/// What is signed is the URL that the vendor called: from the settings, not from what a header claims.
#[tokio::test]
async fn the_url_is_the_outer_one_whatever_headers_say() {
    let s = site(shop()).await;
    let lies = [
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "evil.example"),
        ("x-forwarded-port", "81"),
        ("forwarded", "host=evil.example;proto=http"),
        RIGHT,
        ("x-twice", "a"),
        ("x-twice", "b"),
    ];
    s.call("POST", "/webhooks/vendor?b=2&a=%C3%A9+x&empty=", &lies, b"k=v&k=")
        .await;
    s.call("POST", "//evil.example/webhooks/vendor", &[RIGHT], b"")
        .await;
    let seen = s.vendor.seen.lock().unwrap();
    assert_eq!(seen.len(), 1);
    assert_eq!(
        seen[0].url.as_str(),
        "https://mail.example.com/crm/webhooks/vendor?b=2&a=%C3%A9+x&empty="
    );
    assert_eq!(
        (seen[0].method.as_str(), seen[0].body.as_slice()),
        ("POST", &b"k=v&k="[..])
    );
    assert_eq!(seen[0].headers["x-twice"], "a, b");
}

/// Bad input 10: the cap comes before the signature.
#[tokio::test]
async fn what_is_too_large_is_not_even_looked_at() {
    let s = site(shop()).await;
    let five = vec![b'x'; 5 * 1024 * 1024];
    let (status, ..) = s.call("POST", "/webhooks/vendor", &[RIGHT], &five).await;
    assert!(status == 413 || status == 0, "{status}");
    // Length not told: counted while it comes.
    let mut chunked = Vec::new();
    for _ in 0..40 {
        chunked.extend(format!("{:x}\r\n{}\r\n", 65_536, "x".repeat(65_536)).bytes());
    }
    chunked.extend(b"0\r\n\r\n");
    let headers = [RIGHT, ("transfer-encoding", "chunked"), ("content-length", "")];
    let headers: Vec<_> = headers
        .into_iter()
        .filter(|(name, _)| *name != "content-length")
        .collect();
    let mut stream = TcpStream::connect(s.address).await.unwrap();
    let mut head = "POST /webhooks/vendor HTTP/1.1\r\nhost: x\r\nconnection: close\r\n".to_owned();
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).await.unwrap();
    let _ = stream.write_all(&chunked).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer);
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 413"),
        "{answer}"
    );
    assert!(s.vendor.seen.lock().unwrap().is_empty());
    let (status, ..) = s.call("POST", "/u/x", &[], &vec![b'x'; 100_000]).await;
    assert!(status == 413 || status == 0, "{status}");
}

/// 2xx only after the commit: a store that fails makes the vendor call again.
#[tokio::test]
async fn a_store_that_fails_is_told_to_the_vendor() {
    let vendor = Arc::new(Scripted {
        info: ProviderInfo::new("scripted", "vendor"),
        events: Mutex::default(),
        seen: Mutex::default(),
    });
    let w = World::new().await;
    // A store without room for what is stored: every write fails.
    let broken = World {
        store: Arc::new(MemoryStore::new("broken")),
        ..World::new().await
    };
    let o = Office::with(
        broken,
        Registry::builder().provide::<dyn WebhookSource>(0, vendor.clone()),
    );
    let event = told(
        w.ids.fresh().into(),
        "e1",
        DeliveryState::Delivered,
        w.clock.now(),
    );
    vendor.events.lock().unwrap().push(InboundEvent::Delivery(event));
    let request = WebhookRequest::post("https://mail.example.com/webhooks/vendor".parse().unwrap(), "x")
        .header("X-Signature", "right");
    let reply = o.desk().webhook(&o.w.ctx, "vendor", &request).await;
    assert_eq!(reply.status, 503);
    assert!(reply.headers.contains_key("retry-after"));
}

#[tokio::test]
async fn each_tenant_has_routes_of_its_own() {
    let s = site(Tenants::ByPath(Arc::new(|tenant| {
        ["shop", "other"].contains(&tenant.as_str())
    })))
    .await;
    let id = s.sent().await;
    let mut event = told(id, "e1", DeliveryState::Failed, s.o.w.clock.now());
    event.blame = Blame::Recipient;
    s.vendor
        .events
        .lock()
        .unwrap()
        .push(InboundEvent::Delivery(event));
    for (path, status) in [
        ("/webhooks/vendor", 404),
        ("/nobody/webhooks/vendor", 404),
        ("/SHOP/webhooks/vendor", 404),
        ("/other/webhooks/vendor", 200),
    ] {
        assert_eq!(s.call("POST", path, &[RIGHT], b"x").await.0, status, "{path}");
        assert_eq!(s.delivery(id).await, Some(DeliveryState::Accepted), "{path}");
    }
    assert_eq!(
        s.call("POST", "/shop/webhooks/vendor", &[RIGHT], b"x").await.0,
        200
    );
    assert_eq!(s.delivery(id).await, Some(DeliveryState::Failed));
}

#[tokio::test]
async fn links_work_over_http() {
    let s = site(shop()).await;
    let ana = s.o.w.subscriber("Ana", "ana@example.org").await;
    let mut mail = s.o.w.mail("ana@example.org");
    s.o.outreach.stamp(&s.o.w.ctx, &mut mail, ana, &news()).unwrap();
    let token = mail.headers["List-Unsubscribe"]
        .trim_end_matches('>')
        .rsplit('/')
        .next()
        .unwrap()
        .to_owned();
    let path = format!("/u/{token}");
    let count = || {
        s.o.w
            .store
            .count(&s.o.w.ctx, &crm_core::consent::SUPPRESSION, &Filter::All)
    };
    let (status, head, body) = s.call("GET", &path, &[], b"").await;
    assert_eq!(status, 200);
    assert!(
        body.contains("<form")
            && head.contains("content-security-policy")
            && head.contains("referrer-policy: no-referrer")
    );
    assert!(!head.contains("set-cookie"));
    let (status, _, body) = s.call("HEAD", &path, &[], b"").await;
    assert_eq!((status, body.as_str()), (200, ""));
    assert_eq!(s.call("PUT", &path, &[], b"").await.0, 405);
    assert_eq!(count().await.unwrap(), 0);
    let form = ("content-type", "application/x-www-form-urlencoded");
    let (status, head, _) = s
        .call("POST", &path, &[form], b"List-Unsubscribe=One-Click")
        .await;
    assert_eq!(status, 200);
    assert!(
        !head.contains("location:") && !head.contains("set-cookie"),
        "{head}"
    );
    assert_eq!(count().await.unwrap(), 1);
    assert_eq!(
        s.call("POST", "/u/forged", &[form], b"List-Unsubscribe=One-Click")
            .await
            .0,
        403
    );
    assert_eq!(s.call("GET", "/preferences/forged", &[], b"").await.0, 403);
}

#[tokio::test]
async fn mail_is_taken_from_who_knows_the_secret() {
    let s = site(shop()).await;
    let id = s.sent().await;
    let path = super::return_path().address(s.o.w.ctx.tenant(), id).unwrap();
    let mail = include_str!("../../data/dsn/postfix-dsn-2.eml");
    let ours = mail.replace("me@test.example", path.as_str());
    let right = ("authorization", "Bearer pipe");
    for (headers, to, body, status) in [
        (vec![], "", ours.as_str(), 401),
        (vec![("authorization", "Bearer pipes")], "", &ours, 401),
        (vec![("authorization", "Basic pipe")], "", &ours, 401),
        (vec![right], "", mail, 403),
        (vec![right], "?to=somebody@bounces.example.com", mail, 403),
        (vec![right], "", "Subject: hi\r\n\r\nhello\r\n", 202),
    ] {
        assert_eq!(
            s.call("POST", &format!("/bounces{to}"), &headers, body.as_bytes())
                .await
                .0,
            status,
            "{headers:?} {to}"
        );
        assert_eq!(s.delivery(id).await, Some(DeliveryState::Accepted));
    }
    let to = path.as_str().replace('+', "%2B");
    assert_eq!(
        s.call("POST", &format!("/bounces?to={to}"), &[right], mail.as_bytes())
            .await
            .0,
        204
    );
    assert_eq!(s.delivery(id).await, Some(DeliveryState::Failed));
    assert_eq!(s.call("POST", "/bounces", &[right], ours.as_bytes()).await.0, 204);
}
