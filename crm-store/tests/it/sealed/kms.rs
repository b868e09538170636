//! A key management service over HTTP, played by a server of the test's own that speaks as the documentation of Vault's
//! transit engine says (`/v1/transit/encrypt/:name` and so on, with batches and associated data).

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crm_core::capability::{DataKey, KeyProvider, RecordStore as _, ToUnwrap, ToWrap, WrappedKey};
use crm_core::http::{AllowEntry, HttpClient, HttpConfig};
use crm_core::memory::MemoryStore;
use crm_core::record::Write;
use crm_core::testkit::fixtures;
use crm_core::{ErrorKind, SystemClock, TenantId};
use crm_store::sealed::{HttpKms, HttpKmsConfig};
use serde_json::{Value as Json, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::{GUEST, STAY, guest, opened_with};

const TOKEN: &str = "s.test-token";

/// What the service knows: which text it gave for which key, version and association.
#[derive(Default)]
struct Transit {
    version: AtomicU64,
    /// A status to answer instead, when it is not 0.
    fails: AtomicU16,
    calls: AtomicU64,
    given: Mutex<HashMap<String, (String, String, String)>>,
}

impl Transit {
    fn answer(&self, method: &str, path: &str, token: Option<&str>, body: &Json) -> (u16, Json) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let wrong = |status: u16| (status, json!({"errors": ["refused"]}));
        match self.fails.load(Ordering::Relaxed) {
            0 => {}
            status => return wrong(status),
        }
        if token != Some(TOKEN) {
            return wrong(403);
        }
        let Some((action, key)) = path
            .strip_prefix("/v1/transit/")
            .and_then(|rest| rest.split_once('/'))
        else {
            return wrong(404);
        };
        if !key.starts_with("crm-") {
            return wrong(404);
        }
        let version = self.version.load(Ordering::Relaxed);
        let items = body
            .pointer("/batch_input")
            .and_then(Json::as_array)
            .cloned()
            .unwrap_or_default();
        let text = |item: &Json, field: &str| item[field].as_str().unwrap_or_default().to_owned();
        let mut given = self.given.lock().unwrap();
        let mut failed = false;
        let results: Vec<Json> = match (method, action) {
            ("GET", "keys") => {
                return (
                    200,
                    json!({"data": {"latest_version": version, "type": "aes256-gcm96"}}),
                );
            }
            ("POST", "encrypt") => items
                .iter()
                .map(|item| {
                    let ciphertext = format!("vault:v{version}:{}", given.len());
                    let known = (
                        key.to_owned(),
                        text(item, "associated_data"),
                        text(item, "plaintext"),
                    );
                    given.insert(ciphertext.clone(), known);
                    json!({"ciphertext": ciphertext, "key_version": version})
                })
                .collect(),
            ("POST", "decrypt") => items
                .iter()
                .map(|item| match given.get(&text(item, "ciphertext")) {
                    Some((of, bound, plain)) if of == key && *bound == text(item, "associated_data") => {
                        json!({"plaintext": plain})
                    }
                    _ => {
                        failed = true;
                        json!({"error": "cipher: message authentication failed"})
                    }
                })
                .collect(),
            _ => return wrong(405),
        };
        (
            if failed { 400 } else { 200 },
            json!({"data": {"batch_results": results}}),
        )
    }

    async fn serve(self: Arc<Self>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(self.clone().talk(stream));
            }
        });
        address
    }

    async fn talk(self: Arc<Self>, mut stream: TcpStream) {
        let mut read = Vec::new();
        let head = loop {
            let mut piece = [0; 4096];
            let Ok(n @ 1..) = stream.read(&mut piece).await else {
                return;
            };
            read.extend_from_slice(&piece[..n]);
            if let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") {
                break end;
            }
        };
        let text = String::from_utf8_lossy(&read[..head]).into_owned();
        let header = |name: &str| {
            text.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
            })
        };
        let length: usize = header("content-length").map_or(0, |length| length.parse().unwrap());
        while read.len() < head + 4 + length {
            let mut piece = [0; 4096];
            let Ok(n @ 1..) = stream.read(&mut piece).await else {
                return;
            };
            read.extend_from_slice(&piece[..n]);
        }
        let body = serde_json::from_slice(&read[head + 4..]).unwrap_or(Json::Null);
        let mut first = text.lines().next().unwrap_or_default().split(' ');
        let (method, path) = (first.next().unwrap_or_default(), first.next().unwrap_or_default());
        let (status, answer) = self.answer(method, path, header("x-vault-token").as_deref(), &body);
        let answer = answer.to_string();
        let out = format!(
            "HTTP/1.1 {status} Status\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{answer}",
            answer.len()
        );
        let _ = stream.write_all(out.as_bytes()).await;
    }
}

crm_core::key_suite!(suite, async {
    Arc::new(service().await.1) as Arc<dyn KeyProvider>
});

async fn service() -> (Arc<Transit>, HttpKms) {
    let transit = Arc::new(Transit::default());
    transit.version.store(1, Ordering::Relaxed);
    let address = transit.clone().serve().await;
    (transit, kms(address, TOKEN))
}

fn kms(address: SocketAddr, token: &str) -> HttpKms {
    let config: HttpKmsConfig = serde_json::from_value(json!({
        "name": "vault",
        "base": format!("http://{address}/v1/transit/"),
        "key": "crm-{tenant}",
        "token": token,
    }))
    .unwrap();
    let http = HttpConfig {
        allow: vec![AllowEntry::address(address)],
        ..HttpConfig::default()
    };
    HttpKms::new(config, HttpClient::new(http).unwrap()).unwrap()
}

#[tokio::test]
async fn keys_go_out_and_come_back_only_for_what_they_are_bound_to() {
    let (transit, kms) = service().await;
    let (shop, other) = (TenantId::new("shop").unwrap(), TenantId::new("other").unwrap());
    let keys: Vec<DataKey> = (0..3).map(|n| DataKey::new([n; 32])).collect();
    let asked: Vec<ToWrap<'_>> = keys.iter().map(|key| ToWrap { key, bound_to: b"a" }).collect();
    let wrapped = kms.wrap(&shop, &asked).await.unwrap();
    assert_eq!(
        (wrapped.len(), transit.calls.load(Ordering::Relaxed)),
        (3, 1),
        "one call"
    );
    assert!(wrapped.iter().all(|wrapped| wrapped.key_id == "crm-shop:1"));
    assert_eq!(kms.current(&shop).await.unwrap(), "crm-shop:1");
    let unwrap = async |tenant: &TenantId, wrapped: &WrappedKey, bound_to: &[u8]| {
        kms.unwrap(tenant, &[ToUnwrap { wrapped, bound_to }]).await
    };
    for (wrapped, key) in wrapped.iter().zip(&keys) {
        assert_eq!(
            unwrap(&shop, wrapped, b"a").await.unwrap()[0].expose(),
            key.expose()
        );
    }
    assert_eq!(
        unwrap(&shop, &wrapped[0], b"b").await.unwrap_err().kind(),
        ErrorKind::Corrupt
    );
    assert_eq!(
        unwrap(&other, &wrapped[0], b"a").await.unwrap_err().kind(),
        ErrorKind::Config
    );
    let forged = WrappedKey {
        key_id: "crm-other:1".into(),
        ..wrapped[0].clone()
    };
    assert_eq!(
        unwrap(&other, &forged, b"a").await.unwrap_err().kind(),
        ErrorKind::Corrupt
    );
}

#[tokio::test]
async fn what_the_service_answers_is_told() {
    let (transit, kms_ok) = service().await;
    let shop = TenantId::new("shop").unwrap();
    let key = DataKey::new([1; 32]);
    let wrap = async |kms: &HttpKms| {
        kms.wrap(
            &shop,
            &[ToWrap {
                key: &key,
                bound_to: b"a",
            }],
        )
        .await
    };
    for (status, kind) in [
        (401, ErrorKind::Unauthenticated),
        (403, ErrorKind::PermissionDenied),
        (404, ErrorKind::Config),
        (429, ErrorKind::RateLimited),
        (500, ErrorKind::Unavailable),
        (503, ErrorKind::Unavailable),
        (302, ErrorKind::Unexpected),
    ] {
        transit.fails.store(status, Ordering::Relaxed);
        let error = wrap(&kms_ok).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.effect()),
            (kind, crm_core::Effect::None),
            "{status}: {error}"
        );
        assert!(!format!("{error:?}").contains(TOKEN));
    }
    transit.fails.store(0, Ordering::Relaxed);
    assert!(wrap(&kms_ok).await.is_ok(), "the control");
    let address = transit.clone().serve().await;
    assert_eq!(
        wrap(&kms(address, "s.wrong")).await.unwrap_err().kind(),
        ErrorKind::PermissionDenied
    );
    let nobody: SocketAddr = "127.0.0.1:9".parse().unwrap();
    let error = wrap(&kms(nobody, TOKEN)).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.effect()),
        (ErrorKind::Unavailable, crm_core::Effect::None),
        "{error}"
    );
}

#[tokio::test]
async fn a_store_under_the_service_rotates_with_it() {
    let (transit, kms) = service().await;
    let store = opened_with(
        Arc::new(MemoryStore::new("plain")),
        Arc::new(kms),
        SystemClock::shared(),
    );
    store.migrate(&[&GUEST, &STAY]).await.unwrap();
    let ctx = fixtures::context();
    let ids: Vec<_> = (0..30).map(|_| fixtures::id()).collect();
    let writes: Vec<Write> = ids
        .iter()
        .enumerate()
        .map(|(n, id)| Write::insert(*id, guest(&format!("g{n}@example.org"), "Ana")))
        .collect();
    store.apply(&ctx, &writes).await.unwrap();
    assert!(
        transit.calls.load(Ordering::Relaxed) <= 2,
        "31 keys in at most two calls"
    );
    transit.version.store(2, Ordering::Relaxed);
    assert_eq!(store.rotate(&ctx).await.unwrap().rewrapped, 31);
    let read = store.get(&ctx, &GUEST, &ids).await.unwrap();
    assert!(read.iter().all(Option::is_some));
}

#[test]
fn settings_are_checked_by_name() {
    for (change, setting) in [
        (json!({"base": "http://vault.example/v1/"}), "base"),
        (json!({"base": "https://vault.example/v1"}), "base"),
        (json!({"key": ""}), "key"),
        (json!({"key": "a/b"}), "key"),
        (json!({"token": ""}), "token"),
        (json!({"token_header": "no header"}), "token_header"),
        (json!({"wrap_path": "encrypt"}), "wrap_path"),
        (json!({"unwrap_path": "../{key}"}), "unwrap_path"),
        (json!({"current_path": "/keys/{key}"}), "current_path"),
    ] {
        let mut all =
            json!({"name": "v", "base": "https://vault.example/v1/", "key": "crm-{tenant}", "token": "t"});
        let good: HttpKmsConfig = serde_json::from_value(all.clone()).unwrap();
        assert!(good.validate().is_ok());
        for (field, value) in change.as_object().unwrap() {
            all[field] = value.clone();
        }
        let wrong: HttpKmsConfig = serde_json::from_value(all).unwrap();
        assert_eq!(wrong.validate().unwrap_err().context("setting"), Some(setting));
    }
}
