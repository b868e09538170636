//! Extraction without selectors on pages with known answers (`data/pages`, their origin in `ORIGIN.md`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;

use crm_core::Timestamp;
use crm_crawl::extract::{self, Hints};
use crm_crawl::spider::Page;
use serde::Deserialize;

use crate::known::{Answer, Measured, drafts, said};

fn folder() -> PathBuf {
    PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("tests/data/pages")
}

fn answers() -> BTreeMap<String, Answer> {
    let text = std::fs::read_to_string(folder().join("answers.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn page(name: &str, url: &str) -> Page {
    let html = std::fs::read_to_string(folder().join(format!("{name}.html"))).unwrap();
    Page::new(url.parse().unwrap(), "site", &html, Timestamp::EPOCH).unwrap()
}

#[test]
#[allow(clippy::print_stdout)]
fn people_are_found_on_pages_with_known_answers() {
    let answers = answers();
    assert!(answers.len() >= 60);
    let mut measured = Measured::default();
    for (name, answer) in &answers {
        let page = page(name, &answer.url);
        let found = extract::contacts(&page, &Hints::default());
        measured.count(name, &answer.facts(), &said(&drafts(&found, &page)));
    }
    print!("{}{}", measured.table(), measured.differences);
    measured.at_least(&[
        ("email", 0.98, 0.98),
        ("phone", 0.98, 0.95),
        ("name", 0.98, 0.95),
        ("organization", 0.95, 0.95),
        ("job title", 0.95, 0.95),
        ("address", 0.95, 0.95),
        ("kind", 0.95, 0.95),
    ]);
}

/// Somebody else's opinion: what extruct finds in JSON-LD, microdata, RDFa and cards (`data/structured.py`).
#[test]
fn what_extruct_finds_in_structured_data_is_found() {
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Theirs {
        emails: Vec<String>,
        phones: Vec<String>,
    }
    /// Page, syntax, and why ours is another answer.
    const OTHERWISE: [(&str, &str, &str); 2] = [
        ("30-hcard1-full", "microformat", "it takes the fax for a phone"),
        (
            "32-hcard1-value-title",
            "microformat",
            "it resolves the address against the page",
        ),
    ];
    let text = include_str!("../data/structured.json");
    let theirs: BTreeMap<String, BTreeMap<String, Theirs>> = serde_json::from_str(text).unwrap();
    let answers = answers();
    assert_eq!(theirs.len(), answers.len());
    let (mut compared, mut missing) = (0, String::new());
    for (name, syntaxes) in &theirs {
        let page = page(name, &answers[name].url);
        let found = extract::contacts(&page, &Hints::default());
        let digits = |text: &str| text.chars().filter(char::is_ascii_digit).collect::<String>();
        for (syntax, theirs) in syntaxes {
            if OTHERWISE
                .iter()
                .any(|(page, other, _)| page == name && other == syntax)
            {
                continue;
            }
            for email in &theirs.emails {
                compared += 1;
                if !found
                    .contacts
                    .iter()
                    .any(|contact| contact.emails.iter().any(|find| find.value == *email))
                {
                    writeln!(missing, "{name} {syntax}: {email}").unwrap();
                }
            }
            for phone in &theirs.phones {
                compared += 1;
                let ours = |contact: &extract::Contact| {
                    contact
                        .phones
                        .iter()
                        .any(|find| digits(&find.value).ends_with(phone))
                };
                if !found.contacts.iter().any(ours) {
                    writeln!(missing, "{name} {syntax}: {phone}").unwrap();
                }
            }
        }
    }
    assert!(compared > 60, "only {compared} values to compare");
    assert!(missing.is_empty(), "of {compared}:\n{missing}");
}

#[test]
fn a_page_s_vcards_problems_and_proofs() {
    let answers = answers();
    let found = |name: &str| extract::contacts(&page(name, &answers[name].url), &Hints::default());
    let cards = found("51-vcard-link");
    assert_eq!(cards.vcards[0].as_str(), "https://cards.example.com/noa.vcf");
    let broken = found("06-jsonld-broken");
    assert_eq!(broken.problems.len(), 1);
    assert_eq!(broken.problems[0].place, "/html/head/script");
    // The way there may lead through a reference.
    let graph = found("03-jsonld-graph");
    assert_eq!(
        graph.contacts[0].emails[0].place,
        "/html/head/script#.@graph[0].publisher.email"
    );
    // Confirmed by another syntax, it is surer; and never quite sure.
    let triple = found("49-three-syntaxes-one-firm");
    assert_eq!(triple.contacts.len(), 1);
    assert!(triple.contacts[0].emails[0].confidence > 0.98 && triple.contacts[0].emails[0].confidence < 1.0);
    let words = found("62-bare-words");
    assert_eq!(words.contacts[0].emails[0].value, "lee@words.example.com");
    assert!(words.contacts[0].emails[0].confidence < 0.5);
    // A find's debug text shows nobody's address.
    assert!(
        !format!("{triple:?}").contains("triple.example.com\""),
        "{triple:?}"
    );
}

/// Tags may have names that no expression can say.
#[test]
fn places_lead_through_tags_with_odd_names() {
    let html = "<o:p>x</o:p><a<b>y</a<b><a\"c><i>ana@shop.example</i></a\"c>";
    let page = Page::new(
        "https://a.example/".parse().unwrap(),
        "site",
        html,
        Timestamp::EPOCH,
    )
    .unwrap();
    let found = extract::contacts(&page, &Hints::default());
    let place = &found.contacts[0].emails[0].place;
    let query = crm_crawl::spider::Query::parse(place).unwrap();
    let places = page.document().find(&query).unwrap();
    assert_eq!(places.len(), 1, "{place}");
    assert_eq!(places[0].text(), "ana@shop.example", "{place}");
}

/// The region that a host names goes before the page's language.
#[test]
fn a_host_s_region_goes_first() {
    let html = r#"<html lang="de"><p>Tel. 020 7946 0958</p></html>"#;
    let page = Page::new(
        "https://a.example/".parse().unwrap(),
        "site",
        html,
        Timestamp::EPOCH,
    )
    .unwrap();
    let hints = Hints {
        region: Some("GB".to_owned()),
    };
    let found = extract::contacts(&page, &hints);
    assert_eq!(found.contacts[0].phones[0].value, "+442079460958");
}

/// Markup made to cost: none of it may take long or end the process. (The test's own time limit is the oracle: without the
/// bounds each of these takes minutes or the stack.)
#[test]
fn hostile_markup_ends() {
    let repeat = |text: &str, times: usize| text.repeat(times);
    let many_ids: String = (0..400).map(|n| format!("<div id=r{n} itemprop=knows itemscope itemtype='https://schema.org/Person' itemref='r{} r{}'></div>", (n + 1) % 400, (n + 7) % 400)).collect();
    let references: Vec<String> = (0..300).map(|n| format!(r#"{{"@id":"{n}","@type":"Person","knows":[{{"@id":"{}"}},{{"@id":"{}"}}],"email":"a{n}@x.example"}}"#, (n + 1) % 300, (n + 2) % 300)).collect();
    for (what, html) in [
        (
            "things in things",
            repeat(
                "<div itemscope itemtype='https://schema.org/Person' itemprop=knows>",
                400,
            ),
        ),
        (
            "references in rings",
            format!("<div itemscope itemtype='https://schema.org/Person' itemref=r0>{many_ids}</div>"),
        ),
        (
            "a graph of rings",
            format!(
                "<script type='application/ld+json'>{{\"@context\":\"https://schema.org\",\"@graph\":[{}]}}</script>",
                references.join(",")
            ),
        ),
        (
            "brackets in JSON",
            format!(
                "<script type='application/ld+json'>{}</script>",
                repeat("[", 500_000)
            ),
        ),
        ("cards in cards", repeat("<div class='vcard h-card'>", 400)),
        (
            "RDFa in RDFa",
            format!(
                "<body vocab='https://schema.org/'>{}",
                repeat("<div property=knows typeof=Person>", 400)
            ),
        ),
        ("at signs", repeat("a@", 200_000)),
        (
            "addresses without end",
            format!("<p>{}", repeat("a.", 200_000) + "@b"),
        ),
        ("brackets", repeat("(at)", 100_000)),
        (
            "a long address",
            format!("<p>{}@{}", repeat("a", 100_000), repeat("b.", 100_000)),
        ),
        ("digits", repeat("+1 ", 200_000)),
        ("labels", repeat("Tel ", 100_000)),
        (
            "many addresses",
            (0..5_000).map(|n| format!("<p>a{n}@x.example")).collect(),
        ),
        (
            "many links",
            (0..5_000)
                .map(|n| format!("<a href='mailto:a{n}@x.example'>x</a>"))
                .collect(),
        ),
    ] {
        let url: url::Url = "https://a.example/".parse().unwrap();
        let Ok(page) = Page::new(url, "site", &html, Timestamp::EPOCH) else {
            continue;
        };
        let found = extract::contacts(&page, &Hints::default());
        assert!(found.contacts.len() <= 5_000, "{what}");
    }
}

mod random {
    use proptest::prelude::*;

    use super::*;

    /// Pieces that mean something to some reader, in any order.
    fn soup() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            Just("<div itemscope itemtype='https://schema.org/Person'>".to_owned()),
            Just("<span itemprop='email telephone name'>".to_owned()),
            Just("<p class='h-card vcard'>".to_owned()),
            Just("<b class='p-tel tel u-email email p-adr adr'>".to_owned()),
            Just("<i vocab='http://schema.org/' typeof='Person' property='knows'>".to_owned()),
            Just("<script type='application/ld+json'>{\"@context\":\"https://schema.org\",\"@type\":\"Person\",\"email\":".to_owned()),
            Just("\"a@b.example\"}</script>".to_owned()),
            Just("<a href='mailto:".to_owned()),
            Just("<a data-cfemail='".to_owned()),
            Just("</div></p></span></a></b></i>".to_owned()),
            Just("'>".to_owned()),
            Just("ana [at] shop (dot) example ".to_owned()),
            Just("Tel. +49 30 23125 100 Fax ".to_owned()),
            "[ -~äß@.\u{a0}\u{2013}]{0,12}",
            any::<String>().prop_map(|text| text.chars().take(8).collect()),
        ];
        proptest::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn no_markup_panics_and_every_find_is_one(html in soup()) {
            let url: url::Url = "https://a.example/".parse().unwrap();
            let page = Page::new(url, "site", &html, Timestamp::EPOCH).unwrap();
            let found = extract::contacts(&page, &Hints::default());
            for contact in &found.contacts {
                for find in contact.emails.iter().chain(&contact.phones) {
                    prop_assert!((0.0..1.0).contains(&find.confidence));
                    prop_assert!(find.place.starts_with("/html"), "{}", find.place);
                }
                for email in &contact.emails {
                    prop_assert!(crm_core::customer::EmailAddress::parse(&email.value).is_ok());
                }
                for phone in &contact.phones {
                    prop_assert!(crm_core::customer::PhoneNumber::parse(&phone.value, None).is_ok());
                }
                let values: BTreeSet<&str> = contact.emails.iter().map(|find| find.value.as_str()).collect();
                prop_assert_eq!(values.len(), contact.emails.len());
            }
        }

        #[test]
        fn a_find_s_place_leads_to_it(html in soup()) {
            let url: url::Url = "https://a.example/".parse().unwrap();
            let page = Page::new(url, "site", &html, Timestamp::EPOCH).unwrap();
            for contact in extract::contacts(&page, &Hints::default()).contacts {
                for find in contact.emails.iter().chain(&contact.phones) {
                    let path = find.place.split('#').next().unwrap();
                    let query = crm_crawl::spider::Query::parse(path).unwrap();
                    prop_assert_eq!(page.document().find(&query).unwrap().len(), 1, "{}", find.place);
                }
            }
        }

        #[test]
        fn no_expression_panics(text in "[a-z/@.*\\[\\]()|=<>'\"+ :0-9-]{0,40}") {
            if let Ok(query) = crm_crawl::spider::Query::parse(&text) {
                let page = crm_crawl::spider::Document::parse("<div class=a><p>b<p>c</div>").unwrap();
                let _ = page.find(&query);
            }
        }
    }
}
