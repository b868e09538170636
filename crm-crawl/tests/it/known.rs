//! What is known about a page, what was said about it, and how well the two agree.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crm_core::customer::Draft;
use crm_crawl::extract::Contacts;
use crm_crawl::spider::Page;
use serde::Deserialize;

/// Who is on a page.
#[derive(Deserialize)]
pub(crate) struct Answer {
    pub(crate) url: String,
    /// What the host knows of the site: where its numbers are dialled.
    #[serde(default)]
    pub(crate) region: Option<String>,
    contacts: Vec<Known>,
}

#[derive(Deserialize)]
struct Known {
    /// Not set where the page does not say it.
    kind: Option<String>,
    name: Option<String>,
    emails: Vec<String>,
    phones: Vec<String>,
    organization: Option<String>,
    job_title: Option<String>,
    /// City, postal code, country.
    address: Option<Vec<String>>,
}

/// What is said, each with who it is said about: what belongs to nobody, or to the wrong one, is wrong.
pub(crate) type Facts = BTreeMap<&'static str, BTreeSet<String>>;

const FIELDS: [&str; 7] = [
    "kind",
    "email",
    "phone",
    "name",
    "organization",
    "job title",
    "address",
];

/// One contact's facts. It is known by its first address, or number.
fn facts(
    facts: &mut Facts,
    kind: Option<&str>,
    (emails, phones): (&[String], &[String]),
    texts: [(&'static str, Option<String>); 3],
    address: Option<String>,
) {
    // Whether letters are large or small makes no other address.
    let emails: Vec<String> = emails.iter().map(|email| email.to_lowercase()).collect();
    let who = emails
        .iter()
        .min()
        .or_else(|| phones.iter().min())
        .cloned()
        .unwrap_or_default();
    let mut say = |field, value: &str| {
        facts.entry(field).or_default().insert(format!("{who}: {value}"));
    };
    if let Some(kind) = kind {
        say("kind", kind);
    }
    emails.iter().for_each(|email| say("email", email));
    phones.iter().for_each(|phone| say("phone", phone));
    for (field, text) in texts {
        if let Some(text) = text {
            say(field, &text);
        }
    }
    if let Some(address) = address.filter(|address| address != ",,") {
        say("address", &address);
    }
}

impl Answer {
    pub(crate) fn facts(&self) -> Facts {
        let mut all = Facts::new();
        for contact in &self.contacts {
            let texts = [
                ("name", contact.name.clone()),
                ("organization", contact.organization.clone()),
                ("job title", contact.job_title.clone()),
            ];
            let address = contact.address.as_ref().map(|parts| parts.join(","));
            facts(
                &mut all,
                contact.kind.as_deref(),
                (&contact.emails, &contact.phones),
                texts,
                address,
            );
        }
        all
    }
}

/// What the drafts of a page say.
pub(crate) fn said(drafts: &[Draft]) -> Facts {
    let mut all = Facts::new();
    for draft in drafts {
        let attribute = |name: &str| {
            draft
                .attributes
                .get(name)
                .and_then(|value| value.as_str())
                .map(str::to_owned)
        };
        let texts = [
            ("name", draft.name.as_ref().map(|name| name.full())),
            ("organization", attribute("organization")),
            ("job title", attribute("job_title")),
        ];
        let address = draft
            .addresses
            .first()
            .map(|a| format!("{},{},{}", a.city, a.postal_code, a.country));
        facts(
            &mut all,
            attribute("crawl_kind").as_deref(),
            (&draft.emails, &draft.phones),
            texts,
            address,
        );
    }
    all
}

/// What a spec with the default threshold keeps of a page.
pub(crate) fn drafts(found: &Contacts, page: &Page) -> Vec<Draft> {
    let contacts = found.contacts.iter().zip(1..);
    contacts
        .filter_map(|(contact, number)| contact.to_draft(page.provenance(number), 0.5))
        .collect()
}

#[derive(Default)]
pub(crate) struct Score {
    pub(crate) right: usize,
    pub(crate) wrong: usize,
    pub(crate) missing: usize,
}

impl Score {
    pub(crate) fn precision(&self) -> f64 {
        self.right as f64 / (self.right + self.wrong).max(1) as f64
    }
    pub(crate) fn recall(&self) -> f64 {
        self.right as f64 / (self.right + self.missing).max(1) as f64
    }
}

/// The agreement over many pages.
#[derive(Default)]
pub(crate) struct Measured {
    pub(crate) scores: BTreeMap<&'static str, Score>,
    /// One line each.
    pub(crate) differences: String,
}

impl Measured {
    /// Counts one page. Whether somebody is a person is only asked where the page says it of all that it names.
    pub(crate) fn count(&mut self, page: &str, known: &Facts, said: &Facts) {
        let nothing = BTreeSet::new();
        for field in FIELDS {
            if field == "kind" && !known.contains_key(field) && !known.is_empty() {
                continue;
            }
            let (known, said) = (
                known.get(field).unwrap_or(&nothing),
                said.get(field).unwrap_or(&nothing),
            );
            let score = self.scores.entry(field).or_default();
            score.right += known.intersection(said).count();
            for wrong in said.difference(known) {
                score.wrong += 1;
                writeln!(self.differences, "{page}: {field} wrong: {wrong}").unwrap();
            }
            for missing in known.difference(said) {
                score.missing += 1;
                writeln!(self.differences, "{page}: {field} missing: {missing}").unwrap();
            }
        }
    }

    pub(crate) fn table(&self) -> String {
        let mut table = format!(
            "{:14} {:>9} {:>7} {:>6} {:>6} {:>8}\n",
            "field", "precision", "recall", "right", "wrong", "missing"
        );
        for (field, score) in &self.scores {
            writeln!(
                table,
                "{field:14} {:>9.3} {:>7.3} {:>6} {:>6} {:>8}",
                score.precision(),
                score.recall(),
                score.right,
                score.wrong,
                score.missing
            )
            .unwrap();
        }
        table
    }

    /// Fails where a field (its precision, its recall) is worse.
    pub(crate) fn at_least(&self, floors: &[(&'static str, f64, f64)]) {
        for (field, precision, recall) in floors {
            let score = &self.scores[field];
            assert!(score.right > 5, "{field}: the pages hold too few");
            assert!(
                score.precision() >= *precision,
                "{field}: precision {:.3}\n{}",
                score.precision(),
                self.differences
            );
            assert!(
                score.recall() >= *recall,
                "{field}: recall {:.3}\n{}",
                score.recall(),
                self.differences
            );
        }
    }
}
