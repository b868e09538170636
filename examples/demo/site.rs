//! A small community web site that shows half of the people, page by page, and has a part that robots must not enter.
//!
//! | path | what |
//! |---|---|
//! | `/` | the way in: a link to the first list page |
//! | `/robots.txt` | everything is allowed but `/private/` |
//! | `/customers?page=N` | list page N from 1: 40 times `div.customer`, then `a.next` to page N + 1; 404 behind the last |
//! | `/private/...` | what no polite robot fetches; each list page links to it |

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Query, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::listen;
use super::people::{People, Person};

/// Where the site is when nothing else is there.
pub(crate) const DEFAULT_SITE_PORT: u16 = 18_917;

/// Customers on one list page.
pub(crate) const PAGE_SIZE: usize = 40;

const ROBOTS: &str = "User-agent: *\nDisallow: /private/\nAllow: /\n";

/// Paths counted one by one; a client that invents more of them only adds to "(others)".
const COUNTED_PATHS: usize = 10_000;

/// The running site. It stops when this value is dropped.
pub(crate) struct DemoSite {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<std::io::Result<()>>,
}

struct Shared {
    home: Bytes,
    lists: Vec<Bytes>,
    hits: Mutex<BTreeMap<String, u64>>,
}

impl DemoSite {
    /// Shows those of `people` who live on the site, at `port` of 127.0.0.1; when that port is taken, at a free one.
    ///
    /// Must be called inside a tokio runtime. The error says why nothing can be listened on.
    pub(crate) async fn start(people: &People, port: u16) -> Result<Self> {
        let listener = listen(port)
            .await
            .with_context(|| format!("the demo site cannot listen at {port}"))?;
        let address = listener.local_addr().context("the demo site has no address")?;
        let persons: Vec<&Person> = people.on_site().collect();
        let pages: Vec<&[&Person]> = persons.chunks(PAGE_SIZE).collect();
        let shared = Arc::new(Shared {
            home: home(persons.len()).into(),
            lists: pages
                .iter()
                .zip(1..)
                .map(|(page, number)| list(page, number, pages.len()).into())
                .collect(),
            hits: Mutex::default(),
        });
        let app = Router::new()
            .route(
                "/",
                get(async |State(shared): State<Arc<Shared>>| Html(shared.home.clone())),
            )
            .route(
                "/robots.txt",
                get(async || ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], ROBOTS)),
            )
            .route("/customers", get(customers))
            .route(
                "/private/{*path}",
                get(async || Html(document("Staff only", "<p>No robot should read this.</p>"))),
            )
            .layer(middleware::from_fn_with_state(Arc::clone(&shared), count))
            .with_state(Arc::clone(&shared));
        let (stop, stopped) = oneshot::channel::<()>();
        let server = axum::serve(listener, app).with_graceful_shutdown(async {
            // An error means that the sender was dropped with the site: the same wish.
            let _ = stopped.await;
        });
        let task = tokio::spawn(server.into_future());
        Ok(Self {
            address,
            shared,
            stop: Some(stop),
            task,
        })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address of a path, which begins with `/`.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Where a spider starts: the first list page.
    pub(crate) fn start_url(&self) -> String {
        self.url("/customers?page=1")
    }

    /// Number of list pages.
    pub(crate) fn pages(&self) -> usize {
        self.shared.lists.len()
    }

    /// Requests so far for paths that begin with `prefix`, with or without an answer worth having.
    /// `hits("/private/")` is 0 as long as the robots rules are kept.
    pub(crate) fn hits(&self, prefix: &str) -> u64 {
        let hits = self.shared.hits.lock().unwrap_or_else(PoisonError::into_inner);
        hits.iter()
            .filter(|(path, _)| path.starts_with(prefix))
            .map(|(_, count)| count)
            .sum()
    }

    /// Requests so far per path and query.
    pub(crate) fn hits_by_path(&self) -> BTreeMap<String, u64> {
        self.shared
            .hits
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Answers what was asked already, then stops. Dropping the value asks for the same without waiting.
    pub(crate) async fn stop(mut self) -> Result<()> {
        drop(self.stop.take());
        (&mut self.task)
            .await
            .context("the demo site broke")?
            .context("the demo site could not go on")
    }
}

impl Drop for DemoSite {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // It fails only when the server has ended already.
            let _ = stop.send(());
        }
    }
}

async fn count(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let path = request
        .uri()
        .path_and_query()
        .map_or("/", |path| path.as_str())
        .to_owned();
    {
        let mut hits = shared.hits.lock().unwrap_or_else(PoisonError::into_inner);
        let known = hits.len() < COUNTED_PATHS || hits.contains_key(&path);
        *hits
            .entry(if known { path } else { String::from("(others)") })
            .or_default() += 1;
    }
    next.run(request).await
}

async fn customers(
    State(shared): State<Arc<Shared>>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Response {
    let Ok(page) = query.get("page").map_or(Ok(1), |page| page.parse::<usize>()) else {
        let body = document("What?", "<p>A page is a number.</p>");
        return (StatusCode::BAD_REQUEST, Html(body)).into_response();
    };
    match page.checked_sub(1).and_then(|index| shared.lists.get(index)) {
        Some(list) => Html(list.clone()).into_response(),
        None => (
            StatusCode::NOT_FOUND,
            Html(document("Not here", "<p>There is no such page.</p>")),
        )
            .into_response(),
    }
}

fn home(members: usize) -> String {
    document(
        "The record shop's friends",
        &format!("<p>{members} people who like music. <a href=\"/customers?page=1\">See them all.</a></p>"),
    )
}

fn list(persons: &[&Person], number: usize, pages: usize) -> String {
    let mut body = String::from("<main>\n");
    for person in persons {
        customer(&mut body, person);
    }
    body.push_str("</main>\n<nav>\n");
    if number > 1 {
        let _ = writeln!(
            body,
            "<a class=\"prev\" rel=\"prev\" href=\"/customers?page={}\">Back</a>",
            number - 1
        );
    }
    let _ = writeln!(body, "<span>Page {number} of {pages}</span>");
    if number < pages {
        let _ = writeln!(
            body,
            "<a class=\"next\" rel=\"next\" href=\"/customers?page={}\">More</a>",
            number + 1
        );
    }
    let _ = writeln!(
        body,
        "<a class=\"staff\" href=\"/private/notes/{number}\">Staff notes</a>\n</nav>"
    );
    document(&format!("Friends, page {number}"), &body)
}

/// One `div.customer`. What is not known is left out, as on real pages.
fn customer(body: &mut String, person: &Person) {
    let _ = writeln!(
        body,
        "<div class=\"customer\" data-id=\"{}\">",
        escape(&person.external_id)
    );
    let _ = writeln!(body, "<h2>{}</h2>", escape(&person.name()));
    let email = escape(&person.email);
    let _ = writeln!(
        body,
        "<p><a class=\"email\" href=\"mailto:{email}\">{email}</a></p>"
    );
    let digits: String = person.phone.chars().filter(|c| !c.is_whitespace()).collect();
    let phone = escape(&person.phone);
    let _ = writeln!(
        body,
        "<p><a class=\"phone\" href=\"tel:{}\">{phone}</a></p>",
        escape(&digits)
    );
    body.push_str("<address>");
    let parts = [
        ("street", &person.street),
        ("line2", &person.line2),
        ("suburb", &person.suburb),
        ("state", &person.state),
        ("postcode", &person.postcode),
    ];
    for (class, text) in parts.into_iter().filter(|(_, text)| !text.is_empty()) {
        let _ = write!(body, "<span class=\"{class}\">{}</span> ", escape(text));
    }
    body.push_str("<span class=\"country\">AU</span></address>\n");
    if !person.born.is_empty() {
        let born = escape(&person.born);
        let _ = writeln!(
            body,
            "<p>Born <time class=\"born\" datetime=\"{born}\">{born}</time></p>"
        );
    }
    body.push_str("</div>\n");
}

fn document(title: &str, body: &str) -> String {
    let title = escape(title);
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><title>{title}</title></head>\n<body>\n<h1>{title}</h1>\n{body}</body>\n</html>\n"
    )
}

/// Text as HTML text or inside double quotes.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}
