use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use ::http::{HeaderMap, HeaderName, Method, Request, header};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use url::{Host, Url};

use super::dns::{Filtered, Resolver, SystemResolver};
use super::error::{Failure, classify, host, shown, too_slow};
use super::guard::{Guard, refused};
use super::{HttpConfig, Response};
use crate::{Error, ErrorKind, Result};

/// Headers that may follow a redirect to another origin: none of them can carry a credential.
const HARMLESS: [HeaderName; 3] = [header::ACCEPT, header::ACCEPT_LANGUAGE, header::USER_AGENT];

/// The guarded client. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct HttpClient {
    config: Arc<HttpConfig>,
    guard: Arc<Guard>,
    /// One a port, because only then the resolver knows the whole address it decides on.
    by_port: Arc<BTreeMap<u16, reqwest::Client>>,
}

impl fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpClient")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl HttpClient {
    /// A client that asks the operating system for addresses.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] naming the setting that is wrong.
    pub fn new(config: HttpConfig) -> Result<Self> {
        Self::with_resolver(config, Arc::new(SystemResolver))
    }

    /// A client that asks `resolver` for addresses; the guard filters what it answers.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] naming the setting that is wrong.
    pub fn with_resolver(config: HttpConfig, resolver: Arc<dyn Resolver>) -> Result<Self> {
        config.validate()?;
        let guard = Arc::new(Guard::new(config.allow.clone()));
        let tls = tls(config.ca_file.as_deref())?;
        let mut by_port = BTreeMap::new();
        for port in guard.ports() {
            let filtered = Filtered {
                resolver: resolver.clone(),
                guard: guard.clone(),
                port,
            };
            let client = reqwest::Client::builder()
                .tls_backend_preconfigured(tls.clone())
                .dns_resolver(Arc::new(filtered))
                .redirect(reqwest::redirect::Policy::none())
                .retry(reqwest::retry::never())
                .referer(false)
                .no_proxy()
                .user_agent(&config.user_agent)
                .connect_timeout(config.connect_timeout)
                .build()
                .map_err(|error| {
                    Error::config("the HTTP client cannot be set up").source(error.without_url())
                })?;
            by_port.insert(port, client);
        }
        Ok(Self {
            config: Arc::new(config),
            guard,
            by_port: Arc::new(by_port),
        })
    }

    /// The settings.
    pub fn config(&self) -> &HttpConfig {
        &self.config
    }

    /// Fetches `url`, following redirects.
    ///
    /// # Errors
    /// As [`HttpClient::send`].
    pub async fn get(&self, url: &Url, headers: &HeaderMap) -> Result<Response> {
        self.run(Method::GET, url.clone(), headers.clone(), Bytes::new())
            .await
    }

    /// Sends a request. Redirects of GET and HEAD are followed up to [`HttpConfig::max_redirects`]; to another origin
    /// only `Accept`, `Accept-Language` and `User-Agent` go along. Any other method gets the redirect as its answer:
    /// sending it again elsewhere is the caller's decision.
    ///
    /// # Errors
    /// [`ErrorKind::PermissionDenied`] when the guard forbids the address; [`ErrorKind::Invalid`] for a scheme other than
    /// http and https, credentials in the URL, too many redirects or an unknown content encoding;
    /// [`ErrorKind::Unavailable`] and [`ErrorKind::Timeout`] from the network, with [`crate::Effect::Unknown`] when
    /// the method is not safe and the request may have been heard. A status is never an error.
    pub async fn send(&self, request: Request<Bytes>) -> Result<Response> {
        let (parts, body) = request.into_parts();
        let url = Url::parse(&parts.uri.to_string()).map_err(|_| {
            Error::invalid("the request needs an absolute http or https URL").operation("http.send")
        })?;
        self.run(parts.method, url, parts.headers, body).await
    }

    async fn run(&self, method: Method, url: Url, headers: HeaderMap, body: Bytes) -> Result<Response> {
        if !url.username().is_empty() || url.password().is_some() {
            return Err(
                Error::invalid("credentials do not belong into a URL; send them in a header")
                    .operation("http.send")
                    .with("url", shown(&url)),
            );
        }
        let safe = method.is_safe();
        let limit = self.config.total_timeout;
        match tokio::time::timeout(limit, self.hops(method, url.clone(), headers, body)).await {
            Ok(answer) => answer,
            Err(_) => Err(too_slow(limit, safe, &url)),
        }
    }

    async fn hops(
        &self,
        method: Method,
        mut url: Url,
        mut headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response> {
        let start = tokio::time::Instant::now();
        let safe = method.is_safe();
        let follows = matches!(method, Method::GET | Method::HEAD) && self.config.max_redirects > 0;
        let mut hop = 0;
        loop {
            let answer = self
                .client(&url)?
                .request(method.clone(), url.clone())
                .headers(headers.clone())
                .body(body.clone())
                .send()
                .await
                .map_err(|error| failed(error, safe, &url))?;
            if follows && let Some(next) = redirect(&answer, &url)? {
                if hop == self.config.max_redirects {
                    return Err(Error::invalid("too many redirects")
                        .operation("http.send")
                        .with("url", shown(&url))
                        .with("setting", "max_redirects")
                        .with("limit", hop));
                }
                hop += 1;
                if next.origin() != url.origin() {
                    headers = headers
                        .iter()
                        .filter(|(name, _)| HARMLESS.contains(name))
                        .map(|(name, value)| (name.clone(), value.clone()))
                        .collect();
                }
                url = next;
                continue;
            }
            return self.read(answer, url, safe, start).await;
        }
    }

    async fn read(
        &self,
        answer: reqwest::Response,
        url: Url,
        safe: bool,
        start: tokio::time::Instant,
    ) -> Result<Response> {
        let status = answer.status();
        let headers = answer.headers().clone();
        // The transport takes the header away when it decompresses; what is left is what it does not know, or several
        // codings on top of each other, which nobody needs but those who send bombs.
        if headers
            .get(header::CONTENT_ENCODING)
            .is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"))
        {
            return Err(
                Error::invalid("the answer's content encoding is not one of gzip, deflate and br")
                    .operation("http.send")
                    .with("url", shown(&url)),
            );
        }
        let mut body = BytesMut::new();
        let mut truncated = false;
        let mut chunks = answer.bytes_stream();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|error| failed(error, safe, &url))?;
            let room = self.config.max_body - body.len();
            body.extend_from_slice(chunk.get(..room).unwrap_or(&chunk));
            if chunk.len() > room {
                truncated = true;
                break;
            }
        }
        Ok(Response {
            status,
            final_url: url,
            headers,
            body: body.freeze(),
            truncated,
            elapsed: start.elapsed(),
        })
    }

    /// The client for this URL, after the check of what needs no look-up: scheme, port and literal addresses, for which
    /// the transport does not ask the resolver.
    fn client(&self, url: &Url) -> Result<&reqwest::Client> {
        let (Some(target), "http" | "https", Some(port)) =
            (url.host(), url.scheme(), url.port_or_known_default())
        else {
            return Err(Error::invalid("only http and https URLs can be fetched")
                .operation("http.send")
                .with("scheme", url.scheme()));
        };
        let permitted = match target {
            Host::Ipv4(ip) => self.guard.permits(SocketAddr::new(ip.into(), port)),
            Host::Ipv6(ip) => self.guard.permits(SocketAddr::new(ip.into(), port)),
            Host::Domain(_) => self.guard.knows_port(port),
        };
        match self.by_port.get(&port) {
            Some(client) if permitted => Ok(client),
            _ => Err(refused(&host(url), port)),
        }
    }
}

fn failed(error: reqwest::Error, safe: bool, url: &Url) -> Error {
    let failure = Failure::of(&error);
    let classified = classify(failure, safe, url);
    // The cause may name the URL: it is taken out.
    if failure == Failure::Blocked {
        classified
    } else {
        classified.source(error.without_url())
    }
}

/// Where a redirect leads; `None` when the answer is none.
fn redirect(answer: &reqwest::Response, url: &Url) -> Result<Option<Url>> {
    if !matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let Some(location) = answer.headers().get(header::LOCATION) else {
        return Ok(None);
    };
    let next = std::str::from_utf8(location.as_bytes())
        .ok()
        .and_then(|text| url.join(text).ok());
    let Some(mut next) = next else {
        return Err(
            Error::new(ErrorKind::Invalid, "a redirect leads to what is no URL")
                .operation("http.send")
                .with("url", shown(url)),
        );
    };
    // Whoever redirects does not choose our credentials.
    let _ = next.set_username("");
    let _ = next.set_password(None);
    next.set_fragment(None);
    Ok(Some(next))
}

fn tls(ca_file: Option<&Path>) -> Result<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    match ca_file {
        None => roots.roots.extend_from_slice(webpki_roots::TLS_SERVER_ROOTS),
        Some(file) => {
            let wrong = |message: &'static str| Error::config(message).with("setting", "ca_file");
            let certificates = CertificateDer::pem_file_iter(file)
                .map_err(|error| wrong("the certificates cannot be read").source(error))?;
            for certificate in certificates {
                let certificate =
                    certificate.map_err(|error| wrong("this is no certificate in PEM").source(error))?;
                roots
                    .add(certificate)
                    .map_err(|error| wrong("this is no certificate of an authority").source(error))?;
            }
            if roots.is_empty() {
                return Err(wrong("there is no certificate in the file"));
            }
        }
    }
    let mut tls =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::unexpected("no TLS version is left").source(error))?
            .with_root_certificates(roots)
            .with_no_client_auth();
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(tls)
}
