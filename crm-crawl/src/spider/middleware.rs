use std::fmt;

use crm_core::Result;
use crm_core::customer::Draft;
use crm_core::http::Response;
use http::HeaderMap;
use url::Url;

/// Looks at what goes out and what comes in: before a request, after an answer, on each person found. Hand it to
/// [`super::WebCollector::with_middleware`]; several are asked in the order they were given.
///
/// ```
/// use crm_core::customer::Draft;
/// use crm_crawl::spider::Middleware;
/// use http::{HeaderMap, HeaderValue};
/// use url::Url;
///
/// /// Asks for the German pages, and leaves out everybody without a name.
/// #[derive(Debug)]
/// struct German;
///
/// impl Middleware for German {
///     fn before_request(&self, _: &Url, headers: &mut HeaderMap) -> crm_core::Result<()> {
///         headers.insert("accept-language", HeaderValue::from_static("de"));
///         Ok(())
///     }
///     fn on_item(&self, _: &Url, draft: Draft) -> Option<Draft> {
///         draft.name.is_some().then_some(draft)
///     }
/// }
/// ```
pub trait Middleware: fmt::Debug + Send + Sync + 'static {
    /// Before a page is asked for: may add or change headers. Not asked for robots.txt. Runs on an async worker: be
    /// quick.
    ///
    /// # Errors
    /// The page is left out, and the error is its reason.
    fn before_request(&self, url: &Url, headers: &mut HeaderMap) -> Result<()> {
        let _ = (url, headers);
        Ok(())
    }

    /// After a page came, before it is parsed: may change it. Runs where pages are parsed, off the async workers.
    ///
    /// # Errors
    /// The page is left out, and the error is its reason.
    fn after_response(&self, url: &Url, response: &mut Response) -> Result<()> {
        let _ = (url, response);
        Ok(())
    }

    /// A person was found on the page: may be changed, or left out with `None`. Runs where pages are parsed.
    fn on_item(&self, url: &Url, draft: Draft) -> Option<Draft> {
        let _ = url;
        Some(draft)
    }
}
