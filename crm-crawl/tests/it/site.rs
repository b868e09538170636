//! A web site on loopback. Its log, written by the server, is the oracle: what was asked, when, how many at once.

use std::collections::HashMap;
use std::future::IntoFuture;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use crm_crawl::spider::{SpiderSpec, WebCollector};
use tokio::time::Instant;

/// One answer.
#[derive(Clone)]
pub(crate) struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    delay: Duration,
}

impl Answer {
    pub(crate) fn status(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Vec::new(),
            delay: Duration::ZERO,
        }
    }
    pub(crate) fn html(body: impl Into<String>) -> Self {
        Self::status(200)
            .header("content-type", "text/html; charset=utf-8")
            .body(body.into())
    }
    pub(crate) fn text(body: impl Into<Vec<u8>>) -> Self {
        Self::status(200).header("content-type", "text/plain").body(body)
    }
    pub(crate) fn xml(body: impl Into<Vec<u8>>) -> Self {
        Self::status(200)
            .header("content-type", "application/xml")
            .body(body)
    }
    /// The same page without its links.
    pub(crate) fn cut_links(&mut self) {
        let text = String::from_utf8(std::mem::take(&mut self.body)).unwrap();
        self.body = text.split("<a class=\"next\"").next().unwrap().into();
    }
    pub(crate) fn redirect(to: impl Into<String>) -> Self {
        Self::status(302).header("location", to)
    }
    /// A redirect to what may be no URL at all; what cannot stand in a header is left out.
    pub(crate) fn redirect_raw(to: &str) -> Self {
        Self::redirect(to.chars().filter(|c| c.is_ascii_graphic()).collect::<String>())
    }
    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }
    pub(crate) fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }
}

type Script = dyn Fn(&Hit, usize) -> Answer + Send + Sync;

struct Shared {
    script: Box<Script>,
    log: Mutex<Vec<Hit>>,
    counts: Mutex<HashMap<String, usize>>,
    now: Mutex<(usize, usize)>,
    sent: Mutex<HashMap<String, u64>>,
}

#[derive(Clone, Debug)]
pub(crate) struct Hit {
    pub(crate) path: String,
    pub(crate) at: Instant,
    pub(crate) user_agent: String,
    headers: HeaderMap,
}

impl Hit {
    /// A header of the request; empty when there was none.
    pub(crate) fn header(&self, name: &str) -> String {
        let value = self.headers.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    }
}

/// The running site; it stops with the test's runtime.
pub(crate) struct Site {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

impl Site {
    /// `script` answers a path with its query; the number says how often the path was asked for before.
    pub(crate) async fn start(script: impl Fn(&str, usize) -> Answer + Send + Sync + 'static) -> Self {
        Self::start_with(move |hit, before| script(&hit.path, before)).await
    }

    /// `script` answers a request.
    pub(crate) async fn start_with(script: impl Fn(&Hit, usize) -> Answer + Send + Sync + 'static) -> Self {
        let shared = Arc::new(Shared {
            script: Box::new(script),
            log: Mutex::default(),
            counts: Mutex::default(),
            now: Mutex::default(),
            sent: Mutex::default(),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = Router::new().fallback(answer).with_state(shared.clone());
        tokio::spawn(axum::serve(listener, app).into_future());
        Self { address, shared }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn log(&self) -> Vec<Hit> {
        self.shared.log.lock().unwrap().clone()
    }

    /// How often a path was asked for.
    pub(crate) fn hits(&self, path: &str) -> usize {
        self.shared.counts.lock().unwrap().get(path).copied().unwrap_or(0)
    }

    /// Bytes of bodies that were sent, but for this path.
    pub(crate) fn bytes_sent(&self, without: &str) -> u64 {
        let sent = self.shared.sent.lock().unwrap();
        sent.iter()
            .filter(|(path, _)| *path != without)
            .map(|(_, bytes)| bytes)
            .sum()
    }

    /// Requests for anything but robots.txt.
    pub(crate) fn page_hits(&self) -> usize {
        self.log().iter().filter(|hit| hit.path != "/robots.txt").count()
    }

    /// The most requests that were open at the same time.
    pub(crate) fn most_at_once(&self) -> usize {
        self.shared.now.lock().unwrap().1
    }

    /// A spec for the seed case: `div.customer > h2` is the name, `p > a` the e-mail link. Own site: no delay.
    pub(crate) fn spec(&self, start: &str) -> SpiderSpec {
        let mut spec: SpiderSpec = serde_json::from_str(
            r#"{"name": "site", "start": ["http://x.example/"], "follow": ["a.next"], "item": "div.customer",
                "fields": [{"selector": "h2", "target": "name"}, {"selector": "p > a", "target": "email"}]}"#,
        )
        .unwrap();
        spec.start = vec![self.url(start).parse().unwrap()];
        spec.crawl.delay = 0.0;
        spec.crawl.backoff = 0.02;
        spec.crawl.http.user_agent = "test-bot/1.0 (+https://shop.example/bot)".into();
        spec.crawl.http.allow = vec![format!("127.0.0.1/32:{}", self.address.port()).parse().unwrap()];
        spec
    }

    pub(crate) fn collector(&self, start: &str) -> WebCollector {
        WebCollector::from_spec(&self.spec(start)).unwrap()
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response<Body> {
    let path = request
        .uri()
        .path_and_query()
        .map(|p| p.to_string())
        .unwrap_or_default();
    let agent = request
        .headers()
        .get("user-agent")
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default()
        .to_owned();
    {
        let mut now = shared.now.lock().unwrap();
        now.0 += 1;
        now.1 = now.1.max(now.0);
    }
    let hit = Hit {
        path: path.clone(),
        at: Instant::now(),
        user_agent: agent,
        headers: request.headers().clone(),
    };
    shared.log.lock().unwrap().push(hit.clone());
    let before = {
        let mut counts = shared.counts.lock().unwrap();
        let count = counts.entry(path.clone()).or_default();
        *count += 1;
        *count - 1
    };
    let answer = (shared.script)(&hit, before);
    *shared.sent.lock().unwrap().entry(path).or_default() += answer.body.len() as u64;
    tokio::time::sleep(answer.delay).await;
    shared.now.lock().unwrap().0 -= 1;
    let mut response = Response::new(Body::from(answer.body));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap();
    for (name, value) in answer.headers {
        response.headers_mut().insert(
            HeaderName::from_static(name),
            HeaderValue::from_str(&value).unwrap(),
        );
    }
    response
}

/// A person as the seed case has them.
pub(crate) fn person(name: &str) -> String {
    format!(
        "<div class=\"customer\"><h2>{name}</h2><p><a href=\"mailto:{}@example.com\">write</a></p></div>",
        name.to_lowercase()
    )
}

pub(crate) fn next(href: &str) -> String {
    format!("<a class=\"next\" href=\"{href}\">more</a>")
}

/// List pages `/p/0` to `/p/{last}`, two persons each, chained.
pub(crate) fn list(path: &str, last: usize) -> Option<Answer> {
    let page: usize = path
        .strip_prefix("/p/")?
        .parse()
        .ok()
        .filter(|page| *page <= last)?;
    let mut html = person(&format!("a{page}")) + &person(&format!("b{page}"));
    if page < last {
        html.push_str(&next(&format!("/p/{}", page + 1)));
    }
    Some(Answer::html(html))
}
