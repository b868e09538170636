//! The front desk as an axum router.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{OriginalUri, RawPathParams, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use axum::routing::{any, post};
use crm_core::capability::{WebhookReply, WebhookRequest};
use crm_core::{Actor, Context, Error, ErrorKind, Result, TenantId};
use url::Url;

use super::desk::{Inbound, MailOutcome};

/// The largest body of a form that a person or a mailbox provider sends.
const MAX_FORM: usize = 64 * 1024;

/// Whose calls come in where.
#[derive(Clone)]
pub enum Tenants {
    /// There is one tenant: `/webhooks/{provider}`, `/bounces`.
    One(TenantId),
    /// The path names the tenant, and the host says whether there is such a one: `/{tenant}/webhooks/{provider}`,
    /// `/{tenant}/bounces`.
    ByPath(Arc<dyn Fn(&TenantId) -> bool + Send + Sync>),
}

impl std::fmt::Debug for Tenants {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::One(tenant) => f.debug_tuple("One").field(tenant).finish(),
            Self::ByPath(_) => f.write_str("ByPath(..)"),
        }
    }
}

#[derive(Clone)]
struct Shared {
    desk: Inbound,
    base: Url,
    tenants: Tenants,
}

impl Inbound {
    /// Routes for everything that comes in:
    ///
    /// - `POST /webhooks/{provider}`: a vendor's calls, by the name its [`crm_core::capability::WebhookSource`] has in the
    ///   registry (`GET` too: some vendors report with it). What follows in the path is the provider's business: vendors
    ///   that sign nothing are told a secret there;
    /// - `POST /bounces`: a mail as the mail server got it, byte for byte; `?to=` names the address it came to;
    /// - `/u/{token}` and `/preferences/{token}`: the links in messages. Their tokens name the tenant themselves.
    ///
    /// `public_base` is the address by which the outside reaches these routes. Vendors sign the URL they call, so behind a
    /// proxy it must be the outer one. `X-Forwarded-*` headers are never asked: anybody can send them.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when `public_base` is no http or https URL.
    pub fn router(self, public_base: Url, tenants: Tenants) -> Result<Router> {
        if !matches!(public_base.scheme(), "https" | "http") || public_base.query().is_some() {
            return Err(Error::config(
                "the address by which the outside reaches the routes is an http(s) URL without query",
            )
            .with("setting", "public_base"));
        }
        let front = match &tenants {
            Tenants::One(_) => "",
            Tenants::ByPath(_) => "/{tenant}",
        };
        Ok(Router::new()
            .route(&format!("{front}/webhooks/{{provider}}"), any(webhook))
            .route(&format!("{front}/webhooks/{{provider}}/{{*rest}}"), any(webhook))
            .route(&format!("{front}/bounces"), post(bounces))
            .route("/u/{token}", any(unsubscribe))
            .route("/preferences/{token}", any(preferences))
            .with_state(Shared {
                desk: self,
                base: public_base,
                tenants,
            }))
    }
}

impl Shared {
    fn context(&self, params: &RawPathParams) -> Option<Context> {
        let tenant = match &self.tenants {
            Tenants::One(tenant) => tenant.clone(),
            Tenants::ByPath(is_one) => TenantId::new(param(params, "tenant")?)
                .ok()
                .filter(|tenant| is_one(tenant))?,
        };
        Some(Context::new(tenant).actor(Actor::system("inbound")))
    }

    /// The request as the outside made it, its body no larger than this.
    async fn read(
        &self,
        uri: &OriginalUri,
        request: Request,
        most: usize,
    ) -> Result<WebhookRequest, StatusCode> {
        let (parts, body) = request.into_parts();
        let declared = parts.headers.get(header::CONTENT_LENGTH);
        let declared = declared
            .and_then(|v| v.to_str().ok())
            .and_then(|v| v.parse::<usize>().ok());
        if declared.is_some_and(|length| length > most) {
            return Err(StatusCode::PAYLOAD_TOO_LARGE);
        }
        let mut url = self.base.clone();
        let prefix = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{prefix}{}", uri.path()));
        url.set_query(uri.query());
        let body = to_bytes(body, most)
            .await
            .map_err(|_| StatusCode::PAYLOAD_TOO_LARGE)?;
        Ok(WebhookRequest {
            method: parts.method.as_str().to_owned(),
            url,
            headers: names(&parts.headers),
            body: body.to_vec(),
        })
    }
}

fn names(headers: &HeaderMap) -> BTreeMap<String, String> {
    let mut all: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        all.entry(name.as_str().to_owned())
            .and_modify(|known| {
                known.push_str(", ");
                known.push_str(&value);
            })
            .or_insert_with(|| value.into_owned());
    }
    all
}

fn param<'a>(params: &'a RawPathParams, name: &str) -> Option<&'a str> {
    params
        .iter()
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value)
}

fn plain(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

fn respond(reply: WebhookReply) -> Response {
    let mut response = Response::new(Body::from(reply.body));
    *response.status_mut() = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    let content_type = ("content-type", reply.content_type.to_owned());
    for (name, value) in reply.headers.into_iter().chain([content_type]) {
        // A third party's reply may hold anything; what is no header is left out.
        if let (Ok(name), Ok(value)) = (
            HeaderName::from_bytes(name.as_bytes()),
            HeaderValue::from_str(&value),
        ) {
            headers.insert(name, value);
        }
    }
    response
}

async fn webhook(
    State(shared): State<Shared>,
    params: RawPathParams,
    uri: OriginalUri,
    request: Request,
) -> Response {
    let (Some(ctx), Some(provider)) = (shared.context(&params), param(&params, "provider")) else {
        return plain(StatusCode::NOT_FOUND);
    };
    let provider = provider.to_owned();
    match shared.read(&uri, request, shared.desk.caps.webhook).await {
        Ok(request) => respond(shared.desk.webhook(&ctx, &provider, &request).await),
        Err(status) => plain(status),
    }
}

async fn unsubscribe(
    State(shared): State<Shared>,
    params: RawPathParams,
    uri: OriginalUri,
    request: Request,
) -> Response {
    let token = param(&params, "token").unwrap_or_default().to_owned();
    match shared.read(&uri, request, MAX_FORM).await {
        Ok(request) => respond(shared.desk.unsubscribe(&token, &request).await),
        Err(status) => plain(status),
    }
}

async fn preferences(
    State(shared): State<Shared>,
    params: RawPathParams,
    uri: OriginalUri,
    request: Request,
) -> Response {
    let token = param(&params, "token").unwrap_or_default().to_owned();
    match shared.read(&uri, request, MAX_FORM).await {
        Ok(request) => respond(shared.desk.preferences(&token, &request).await),
        Err(status) => plain(status),
    }
}

async fn bounces(
    State(shared): State<Shared>,
    params: RawPathParams,
    uri: OriginalUri,
    request: Request,
) -> Response {
    let Some(ctx) = shared.context(&params) else {
        return plain(StatusCode::NOT_FOUND);
    };
    let authorization = request.headers().get(header::AUTHORIZATION);
    let authorization = authorization.and_then(|v| v.to_str().ok());
    if !shared.desk.may_hand_in_mail(authorization) {
        return plain(StatusCode::UNAUTHORIZED);
    }
    let request = match shared.read(&uri, request, shared.desk.caps.mail).await {
        Ok(request) => request,
        Err(status) => return plain(status),
    };
    let to = request
        .url
        .query_pairs()
        .find(|(name, _)| name == "to")
        .map(|(_, to)| to.into_owned());
    match shared.desk.mail(&ctx, &request.body, to.as_deref()).await {
        Ok(MailOutcome::AutoReply | MailOutcome::Other) => plain(StatusCode::ACCEPTED),
        Ok(_) => plain(StatusCode::NO_CONTENT),
        Err(error) if error.kind() == ErrorKind::Unauthenticated => {
            tracing::warn!(%error, "a bounce was refused");
            plain(StatusCode::FORBIDDEN)
        }
        Err(error) if error.kind() == ErrorKind::Invalid => plain(StatusCode::BAD_REQUEST),
        Err(error) => {
            tracing::error!(%error, "a bounce could not be stored; hand it in again");
            plain(StatusCode::SERVICE_UNAVAILABLE)
        }
    }
}
