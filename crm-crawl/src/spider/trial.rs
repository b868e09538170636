use std::collections::BTreeSet;

use crm_core::capability::Reject;
use crm_core::customer::Draft;
use crm_core::{Context, Error, ErrorKind, Result};
use url::Url;

use super::canonical::{authority, canonical, trap};
use super::engine::WebCollector;
use super::fetch::Fetched;
use super::frontier::Kind;
use super::robots::{self, Decision};

/// What one page yields, and where a crawl would go on from it. Nothing of it is stored.
#[derive(Debug)]
#[non_exhaustive]
pub struct Trial {
    /// The page that was read.
    pub url: Url,
    /// What robots.txt says about it: `allowed by robots.txt` or `no robots.txt`.
    pub robots: &'static str,
    /// Where it redirects to, when it does; then nothing else is known.
    pub redirect: Option<Url>,
    /// The people.
    pub drafts: Vec<Draft>,
    /// What should be people and is none, and why.
    pub rejects: Vec<Reject>,
    /// The links that a crawl would follow, each once, in canonical form. What their sites' robots.txt say is known for those
    /// on the page's own site only.
    pub follow: Vec<Url>,
    /// The links that it would not follow, and why.
    pub passed: Vec<(Url, String)>,
}

impl WebCollector {
    /// Fetches one page and shows what a crawl would make of it: a dry run to write a spider with. It keeps robots.txt as a
    /// crawl does, fetches this page only, and stores nothing.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::PermissionDenied`] when robots.txt or the spider's domains forbid the page; otherwise why it could not be
    /// fetched or parsed.
    pub async fn try_url(&self, ctx: &Context, url: &Url) -> Result<Trial> {
        ctx.check(self.clock.as_ref())?;
        if !self.spider.allows(url) {
            return Err(Error::new(
                ErrorKind::PermissionDenied,
                "the spider may not visit this page: see its domains and deny",
            )
            .operation("crawl.try_url")
            .with("site", authority(url)));
        }
        let url = canonical(url, self.config.sort_query);
        let token = self.config.product_token();
        let rules = robots::fetch(&self.robots, &url, token, self.clock.now()).await?;
        let robots = match rules.decide(&url) {
            Decision::Allowed(robots) => robots,
            Decision::Forbidden => return Err(robots::forbidden(&url)),
        };
        ctx.check(self.clock.as_ref())?;
        let mut trial = Trial {
            url: url.clone(),
            robots,
            redirect: None,
            drafts: Vec::new(),
            rejects: Vec::new(),
            follow: Vec::new(),
            passed: Vec::new(),
        };
        let visit = self.visitor(ctx).visit(url.clone(), Kind::Page, self.clock.now());
        let output = match visit.await.fetched {
            Fetched::Parsed(output, _) => output,
            Fetched::Redirect(next) => {
                trial.redirect = Some(next);
                return Ok(trial);
            }
            Fetched::Again { error, .. } | Fetched::Failed(error) => return Err(error),
            Fetched::Listed(_) => return Ok(trial),
        };
        trial.passed = output.passed().to_vec();
        let (drafts, rejects, links) = output.into_parts();
        (trial.drafts, trial.rejects) = (drafts, rejects);
        let mut seen = BTreeSet::from([url.clone()]);
        for link in links {
            let link = canonical(&link, self.config.sort_query);
            if !seen.insert(link.clone()) {
                continue;
            }
            let own_site = authority(&link) == authority(&url);
            let objection = if !matches!(link.scheme(), "http" | "https") {
                Some("not an http or https URL".to_owned())
            } else if !self.spider.allows(&link) {
                Some("outside the spider's domains, or denied by it".to_owned())
            } else if let Some(reason) = trap(&link) {
                Some(reason.to_owned())
            } else if own_site && matches!(rules.decide(&link), Decision::Forbidden) {
                Some("robots.txt forbids it".to_owned())
            } else {
                None
            };
            match objection {
                None => trial.follow.push(link),
                Some(reason) => trial.passed.push((link, reason)),
            }
        }
        Ok(trial)
    }
}
