//! Customers and segments as a REST interface, to be mounted into a host's axum application.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! use std::sync::Arc;
//! use crm_core::access::{ApiKeys, NewKey};
//! use crm_core::memory::MemoryStore;
//! use crm_core::{Context, RandomIds, Secret, SystemClock, TenantId};
//! use crm_store::Customers;
//! use crm_store::api::RestApi;
//!
//! let store = Arc::new(MemoryStore::new("records"));
//! let customers = Customers::new(store.clone(), SystemClock::shared(), RandomIds::shared());
//! let pepper = Secret::new("thirty-two or more characters, kept apart from the data");
//! let keys = ApiKeys::new(store, SystemClock::shared(), RandomIds::shared(), &pepper)?;
//! let ctx = Context::new(TenantId::new("shop")?);
//! let _shown_once = keys.issue(&ctx, NewKey::new("web shop", ["customers.*"])?).await?.token;
//!
//! let app: axum::Router = RestApi::new(customers, Arc::new(keys)).router();
//! # let _ = app;
//! # Ok::<(), crm_core::Error>(())
//! # }).unwrap();
//! ```
//!
//! Who asks is found out by the [`Authenticator`] from the header `Authorization`; the tenant is the one of the credentials, never one
//! that the request names. Each route needs a scope; who does not have it gets 403, who is nobody 401.
//!
//! | route | scope | |
//! |---|---|---|
//! | `POST /customers` | `customers.write` | 201; 409 when the person is known; `Idempotency-Key` |
//! | `POST /customers/upsert` | `customers.write` | finds or makes |
//! | `GET /customers?filter=&order=&limit=&cursor=` | `customers.read` | a page; the filter as text ([`crm_core::query::Filter::parse`]); `?email=`, `?phone=` |
//! | `GET`, `PATCH`, `DELETE /customers/{id}` | `customers.read`, `.write`, `.delete` | `ETag`, `If-Match`, `If-None-Match`; JSON merge patch (RFC 7396) |
//! | `GET /customers/{id}/timeline`, `/orders` | `customers.read` | the latest first |
//! | `POST /customers/{id}/events` | `customers.write` | each event once |
//! | `POST /customers/batch` | `customers.write` | up to 1,000 changes, each for itself or all or nothing |
//! | `GET`, `POST /segments` | `segments.read`, `.write` | a rule as text |
//! | `GET`, `DELETE /segments/{id}` | `segments.read`, `.write` | |
//! | `GET`, `POST /segments/{id}/members` | `segments.read`, `.write` | ids, page by page; those added and removed by hand |
//! | `GET /openapi.json`, `GET /docs` | none | this interface as OpenAPI 3.1, and as a page to read |
//!
//! A host whose own middleware has found out who asks puts the [`Principal`](crm_core::capability::Principal) into the request's
//! extensions: then it counts, and `Authorization` is not looked at.
//!
//! Errors are problem details (RFC 9457) with `kind`, `retry` and `effect`, and the field, parameter or header they are about. A
//! parameter that is not known is refused: a misspelt filter never answers with everything.

mod customers;
mod openapi;
mod problem;
mod request;
mod segments;

use std::fmt;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use axum::routing::{get, post};
use crm_core::capability::Authenticator;
use crm_core::{Error, ErrorKind};

pub use openapi::openapi;

use crate::Customers;

/// What the handlers share.
#[derive(Clone)]
struct Shared {
    customers: Customers,
    access: Arc<dyn Authenticator>,
}

/// The interface, to be made a router.
#[derive(Clone)]
pub struct RestApi {
    shared: Shared,
}

impl fmt::Debug for RestApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RestApi")
            .field("access", self.shared.access.info())
            .finish_non_exhaustive()
    }
}

impl RestApi {
    /// The interface to these customers, for those whom `access` knows.
    pub fn new(customers: Customers, access: Arc<dyn Authenticator>) -> Self {
        Self {
            shared: Shared { customers, access },
        }
    }

    /// The routes, to be served or nested.
    pub fn router(self) -> Router {
        Router::new()
            .route("/customers", get(customers::list).post(customers::create))
            .route("/customers/upsert", post(customers::upsert))
            .route("/customers/batch", post(customers::batch))
            .route(
                "/customers/{id}",
                get(customers::get)
                    .patch(customers::patch)
                    .delete(customers::delete),
            )
            .route("/customers/{id}/timeline", get(customers::timeline))
            .route("/customers/{id}/orders", get(customers::orders))
            .route("/customers/{id}/events", post(customers::append))
            .route("/segments", get(segments::list).post(segments::create))
            .route("/segments/{id}", get(segments::get).delete(segments::delete))
            .route(
                "/segments/{id}/members",
                get(segments::members).post(segments::change),
            )
            .route("/openapi.json", get(described))
            .route("/docs", get(page))
            .method_not_allowed_fallback(wrong_method)
            .fallback(nothing_here)
            .with_state(self.shared)
    }
}

async fn described() -> Response {
    request::respond(request::json(StatusCode::OK, openapi()))
}

/// The description as a page: it reads `openapi.json` beside it, and nothing from elsewhere.
async fn page() -> Response {
    let mut response = Response::new(Body::from(include_str!("page.html")));
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; connect-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'",
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

async fn nothing_here() -> Response {
    problem::problem(&Error::new(ErrorKind::NotFound, "there is nothing at this path"))
}

async fn wrong_method(request: Request) -> Response {
    let error = Error::invalid("this method does not go with this path").with("method", request.method());
    problem::problem_as(&error, StatusCode::METHOD_NOT_ALLOWED)
}
