//! Customers and segments over HTTP, on any database, with a small page to look at them.
//!
//! ```sh
//! cargo run --features api --example server
//! ```
//!
//! The first start makes an API key and prints it, once. Then:
//!
//! ```sh
//! curl -H "Authorization: Bearer $KEY" -H 'Content-Type: application/json' \
//!      -d '{"name": "Ana Kask", "email": "ana@example.com"}' http://127.0.0.1:8080/customers
//! ```
//!
//! `http://127.0.0.1:8080/` is the page, `/docs` the interface to read, `/openapi.json` for machines. `--check` starts it, asks it
//! once as a client would, and stops.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for people, not the library"
)]

use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use axum::Router;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use clap::Parser;
use open_crm::access::{ApiKeys, NewKey};
use open_crm::capability::RecordStore;
use open_crm::store::api::RestApi;
use open_crm::{Context, Crm, RandomIds, Secret, SystemClock, TenantId};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Customers and segments over HTTP.
#[derive(Debug, Parser)]
struct Options {
    /// Where customers are kept, as a URL: sqlite:crm.db, postgres://..., mysql://..., mongodb://...
    #[arg(long, value_name = "URL", default_value = "sqlite:crm.db")]
    database: String,
    /// Where to listen. TLS is the business of the proxy in front.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    listen: String,
    /// Whose customers they are.
    #[arg(long, default_value = "shop")]
    tenant: String,
    /// Makes another API key.
    #[arg(long)]
    new_key: bool,
    /// Starts, asks for one customer as a client would, and stops.
    #[arg(long)]
    check: bool,
}

/// Used when `OPEN_CRM_PEPPER` is not set. A real one is long, random, and kept outside program and database.
const DEMO_PEPPER: &str = "a demonstration pepper, good for nothing else";

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    let pepper = match std::env::var("OPEN_CRM_PEPPER") {
        Ok(pepper) => Secret::new(pepper),
        Err(_) => {
            eprintln!(
                "OPEN_CRM_PEPPER is not set: keys are kept under a demonstration pepper. Make one with `openssl rand -base64 32`."
            );
            Secret::new(DEMO_PEPPER)
        }
    };
    let crm = Crm::open(&options.database)
        .await
        .with_context(|| "the database cannot be opened; name another one with --database")?;
    let store = crm.registry().get::<dyn RecordStore>()?;
    let keys = ApiKeys::new(store, SystemClock::shared(), RandomIds::shared(), &pepper)?;
    let ctx = Context::new(TenantId::new(options.tenant.as_str())?);
    let mut token = None;
    if options.new_key || options.check || keys.list(&ctx, 1, None).await?.items.is_empty() {
        let new = NewKey::new("example server", ["customers.*", "segments.*"])?;
        let issued = keys.issue(&ctx, new).await?;
        if !options.check {
            println!(
                "API key, shown once: {}\nIt allows everything with the customers and segments of `{}`.",
                issued.token.expose(),
                options.tenant
            );
        }
        token = Some(issued.token);
    }

    let app = Router::new()
        .route(
            "/",
            get(|| async { file("text/html; charset=utf-8", include_str!("page.html")) }),
        )
        .route(
            "/page.js",
            get(|| async { file("text/javascript; charset=utf-8", include_str!("page.js")) }),
        )
        .route(
            "/page.css",
            get(|| async { file("text/css; charset=utf-8", include_str!("page.css")) }),
        )
        .merge(RestApi::new(crm.customers().clone(), Arc::new(keys)).router());
    let listen = if options.check {
        "127.0.0.1:0"
    } else {
        options.listen.as_str()
    };
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("cannot listen on {listen}; name another address with --listen"))?;
    let address = listener.local_addr()?;
    println!("http://{address}/  the page;  http://{address}/docs  the interface");
    if options.check {
        let Some(token) = token else {
            bail!("there is no key to check with")
        };
        tokio::spawn(async move { axum::serve(listener, app).await });
        return check(address, &token).await;
    }
    axum::serve(listener, app)
        .with_graceful_shutdown(async { drop(tokio::signal::ctrl_c().await) })
        .await?;
    println!("stopped");
    Ok(())
}

/// A file of the page. Scripts and styles come from here only, and nobody frames it.
fn file(kind: &'static str, text: &'static str) -> Response {
    let policy = "default-src 'self'; base-uri 'none'; frame-ancestors 'none'; form-action 'none'";
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy)),
        (
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        ),
    ];
    (headers, text).into_response()
}

/// Makes a customer and looks it up, over a socket.
async fn check(address: std::net::SocketAddr, token: &Secret) -> Result<()> {
    let ask = async |request: &str, body: &str| -> Result<String> {
        let mut stream = TcpStream::connect(address).await?;
        let head = format!(
            "{request} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            token.expose(),
            body.len()
        );
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    };
    let email = "ana@example.com";
    let made = ask(
        "POST /customers/upsert",
        &format!(r#"{{"name": "Ana Kask", "email": "{email}"}}"#),
    )
    .await?;
    let found = ask(&format!("GET /customers?email={email}"), "").await?;
    let page = ask("GET /", "").await?;
    for (what, answer, holds) in [
        (
            "making a customer",
            &made,
            made.starts_with("HTTP/1.1 20") && made.contains(email),
        ),
        (
            "looking it up",
            &found,
            found.starts_with("HTTP/1.1 200") && found.contains("Kask"),
        ),
        (
            "the page",
            &page,
            page.starts_with("HTTP/1.1 200") && page.contains("page.js"),
        ),
    ] {
        if !holds {
            bail!("{what} went wrong: {}", answer.lines().next().unwrap_or_default());
        }
        println!("{what}: {}", answer.lines().next().unwrap_or_default());
    }
    Ok(())
}
