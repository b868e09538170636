//! nginx with TLS: HTTP/2 over one connection, compression, conditional requests. The oracle is its own log.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;

use open_crm::capability::Collector as _;
use open_crm::crawl::spider::{SpiderSpec, StoredCache, WebCollector};
use open_crm::prelude::*;
use serde_json::json;

use crate::{Counted, skipped, until};

const PAGES: usize = 12;

/// An authority, and a certificate of it for 127.0.0.1.
const CERTIFICATES: &str = r#"set -e
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj "/CN=test authority" -keyout ca.key -out ca.pem
openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=site" -keyout site.key -out site.csr
printf 'subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n' >extensions
openssl x509 -req -in site.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile extensions -out site.pem
"#;

struct Nginx(Child);

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Nginx {
    /// `None` when it is not installed.
    fn start(folder: &Path, address: SocketAddr) -> Option<Self> {
        let site = folder.join("site");
        std::fs::create_dir(&site).unwrap();
        for n in 0..PAGES {
            let links: String = (0..PAGES)
                .map(|to| format!("<a href=\"/{to}.html\">{to}</a>"))
                .collect();
            let filler = "<!-- what compresses well -->".repeat(200);
            let page = format!(
                "<div class=customer><h2>Person {n}</h2><p>p{n}@example.com</p></div>{links}{filler}"
            );
            std::fs::write(site.join(format!("{n}.html")), page).unwrap();
        }
        let here = folder.display();
        // One process that stays in front, so that killing it is enough.
        let configuration = format!(
            "daemon off; master_process off; pid {here}/pid; error_log {here}/error.log;
            events {{ worker_connections 256; }}
            http {{
              types {{ text/html html; }} etag on; gzip on; gzip_min_length 100;
              log_format seen '$connection $server_protocol $status $request_uri $sent_http_content_encoding';
              access_log {here}/access.log seen;
              client_body_temp_path {here}/a; proxy_temp_path {here}/b; fastcgi_temp_path {here}/c;
              uwsgi_temp_path {here}/d; scgi_temp_path {here}/e;
              server {{ listen {address} ssl http2; root {here}/site;
                ssl_certificate {here}/site.pem; ssl_certificate_key {here}/site.key; }}
            }}"
        );
        std::fs::write(folder.join("nginx.conf"), configuration).unwrap();
        let path = format!(
            "{}:/usr/local/sbin:/usr/sbin:/sbin",
            std::env::var("PATH").unwrap_or_default()
        );
        let child = Command::new("nginx")
            .env("PATH", path)
            .arg("-p")
            .arg(folder)
            .arg("-e")
            .arg(folder.join("error.log"))
            .arg("-c")
            .arg(folder.join("nginx.conf"))
            .spawn()
            .ok()?;
        let mut nginx = Self(child);
        until("nginx listens", || {
            assert!(
                nginx.0.try_wait().unwrap().is_none(),
                "{}",
                std::fs::read_to_string(folder.join("error.log")).unwrap()
            );
            TcpStream::connect(address).is_ok()
        });
        Some(nginx)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nginx_speaks_http2_compresses_and_says_what_did_not_change() {
    let folder = tempfile::tempdir().unwrap();
    let made = Command::new("sh")
        .args(["-c", CERTIFICATES])
        .current_dir(folder.path())
        .output();
    if !made.as_ref().is_ok_and(|made| made.status.success()) {
        return skipped("HTTP/2 (openssl is not installed)");
    }
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let Some(_nginx) = Nginx::start(folder.path(), address) else {
        return skipped("HTTP/2 (nginx is not installed: scripts/services up nginx)");
    };
    let mut spec: SpiderSpec = serde_json::from_value(json!({
        "name": "site", "start": [format!("https://{address}/0.html")], "follow": ["a"], "item": "div.customer",
        "fields": [{"selector": "h2", "target": "name"}, {"selector": "p", "target": "email"}],
    }))
    .unwrap();
    spec.crawl.delay = 0.0;
    spec.crawl.concurrency_per_host = 4;
    spec.crawl
        .http
        .allow
        .push(open_crm::http::AllowEntry::address(address));
    let ctx = Context::new(TenantId::new("shop").unwrap());
    // The public authorities do not know this one.
    let stranger = WebCollector::from_spec(&spec).unwrap();
    let refused = stranger.collect(&ctx, None, &mut Counted::default()).await;
    assert!(
        refused
            .unwrap_err()
            .message()
            .contains("robots.txt cannot be read")
    );

    spec.crawl.http.ca_file = Some(folder.path().join("ca.pem"));
    let store = Arc::new(open_crm::memory::MemoryStore::new("records"));
    let log = folder.path().join("access.log");
    let mut runs = Vec::new();
    for _ in 0..2 {
        let cache = StoredCache::open(store.clone()).await.unwrap();
        let collector = WebCollector::from_spec(&spec)
            .unwrap()
            .with_cache(Arc::new(cache));
        let mut found = Counted::default();
        collector.collect(&ctx, None, &mut found).await.unwrap();
        found.emails.sort();
        assert_eq!((found.emails.len(), found.rejects.len()), (PAGES, 0));
        // nginx writes a line when the answer is sent, which may be after it was read.
        let lines = || -> Vec<String> {
            let text = std::fs::read_to_string(&log).unwrap();
            text.lines()
                .filter(|line| line.contains(".html"))
                .map(str::to_owned)
                .collect()
        };
        until("nginx has written its log", || {
            lines().len() >= PAGES * (runs.len() + 1)
        });
        let all = lines();
        runs.push((found.emails, all[PAGES * runs.len()..].to_vec()));
    }
    for ((emails, lines), status, encoding) in [(&runs[0], "200", "gzip"), (&runs[1], "304", "-")] {
        assert_eq!(
            *emails, runs[0].0,
            "the same persons from the site and from the cache"
        );
        assert_eq!(lines.len(), PAGES, "{lines:?}");
        let connection = lines[0].split(' ').next().unwrap();
        for line in lines {
            let fields: Vec<&str> = line.split(' ').collect();
            assert_eq!(
                (fields[0], fields[1], fields[2], fields[4]),
                (connection, "HTTP/2.0", status, encoding),
                "{line}"
            );
        }
    }
}
