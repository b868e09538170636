//! XPath against libxml2: `data/xpath.json` holds what it finds (made by `data/xpath.py`).

use crm_core::ErrorKind;
use crm_crawl::spider::{Document, Match, Query, XPath};
use serde_json::Value;

fn known() -> Value {
    serde_json::from_str(include_str!("../data/xpath.json")).unwrap()
}

fn found(page: &Document, expression: &str) -> Vec<String> {
    let query = Query::from(XPath::parse(expression).unwrap_or_else(|error| panic!("{error}")));
    let found = page.find(&query).unwrap();
    found
        .iter()
        .map(|found| match found {
            Match::Element(element) => format!("{}: {}", element.name(), element.text()),
            Match::Text(_) => found.text(),
        })
        .collect()
}

/// The same number may be written in another way.
fn same(ours: &[String], theirs: &[String]) -> bool {
    let number = |texts: &[String]| match texts {
        [one] => one.parse::<f64>().ok(),
        _ => None,
    };
    ours == theirs
        || match (number(ours), number(theirs)) {
            (Some(a), Some(b)) => a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() < 1e-4,
            _ => false,
        }
}

#[test]
fn expressions_find_what_libxml2_finds() {
    let known = known();
    let cases = known["cases"].as_array().unwrap();
    assert!(cases.len() > 900);
    let mut different = Vec::new();
    let mut something = 0;
    for (name, page) in known["pages"].as_object().unwrap() {
        let page = Document::parse(page.as_str().unwrap()).unwrap();
        for case in cases.iter().filter(|case| case[0] == name.as_str()) {
            let expression = case[1].as_str().unwrap();
            let theirs: Vec<String> = serde_json::from_value(case[2].clone()).unwrap();
            let ours = found(&page, expression);
            something += usize::from(!theirs.is_empty());
            if !same(&ours, &theirs) {
                different.push(format!(
                    "{name}: {expression}\n  ours   {ours:?}\n  theirs {theirs:?}"
                ));
            }
        }
    }
    assert!(something > 700, "only {something} cases find something");
    assert!(
        different.is_empty(),
        "{} differ:\n{}",
        different.len(),
        different.join("\n")
    );
}

#[test]
fn what_users_of_scrapy_write() {
    let page = Document::parse(
        r#"<div class="card vip"><h2> Ana
            Kask </h2><a class="mail" HREF="mailto:ana@example.com">write</a><svg viewBox="0 0 1 1"><foreignObject/></svg></div>
        <table><tr><td>no tbody was written</td></tr></table>
        <div class="cardboard"><a href="/x">x</a></div><i lang="en-GB"><b id="main">English</b></i>"#,
    )
    .unwrap();
    for (expression, wanted) in [
        ("normalize-space(//h2)", &["Ana Kask"] as &[&str]),
        ("//DIV//A/@HREF", &["mailto:ana@example.com", "/x"]),
        ("//div[has-class('card')]/a/@href", &["mailto:ana@example.com"]),
        (
            "//div[has-class('card', 'vip')]/a/@href",
            &["mailto:ana@example.com"],
        ),
        ("//div[has-class('card', 'new')]/a/@href", &[]),
        (
            "//div[contains(concat(' ', normalize-space(@class), ' '), ' card ')]/a/text()",
            &["write"],
        ),
        (r"//a[re:test(@href, '^MAILTO:\S+@', 'i')]/text()", &["write"]),
        (r"//a[re:test(@href, '^MAILTO:')]/text()", &[]),
        (
            "//a[@class='mail']/@href | //a[@href='/x']/text()",
            &["mailto:ana@example.com", "x"],
        ),
        ("//table/tbody/tr/td/text()", &["no tbody was written"]),
        ("//table/tr", &[]),
        ("name(//foreignObject)", &["foreignObject"]),
        ("count(//div | //a | //div)", &["4"]),
        ("id('main other')/text()", &["English"]),
        ("//b[lang('en')]/text()", &["English"]),
        ("//b[lang('EN-gb')]/text()", &["English"]),
        ("//b[lang('e')]/text()", &[]),
        ("/..", &[]),
        ("/", &[]),
    ] {
        assert_eq!(found(&page, expression), wanted, "{expression}");
    }
    let card = Query::parse("//div[@class='card vip']").unwrap();
    let Match::Element(card) = page.find(&card).unwrap()[0].clone() else {
        panic!("an element")
    };
    for (selector, wanted) in [
        (".//a/@href", 1),
        ("//a/@href", 2),
        ("./h2", 1),
        ("h2", 1),
        ("a.mail::attr(href)", 1),
        ("h2::text", 1),
        ("xpath:h2", 1),
        ("../table", 1),
        ("following-sibling::table", 1),
        (".", 1),
    ] {
        let selector = if selector.starts_with("following") {
            format!("xpath:{selector}")
        } else {
            selector.to_owned()
        };
        assert_eq!(
            card.find(&Query::parse(&selector).unwrap()).unwrap().len(),
            wanted,
            "{selector}"
        );
    }
}

#[test]
fn wrong_expressions_say_what_is_wrong_and_where() {
    for (expression, reason, at) in [
        ("//div[", "a step is missing", 6),
        ("//div]", "bracket is too many", 5),
        ("//div[@class='x]", "the quote is not closed", 13),
        ("//div[contains(@class)]", "another number of arguments", 6),
        ("//div[foo(1)]", "no such function", 6),
        ("//foo::div", "no such axis", 2),
        ("//div[$x]", "no variables", 6),
        ("count('x')", "argument is a path", 0),
        ("'x' | //a", "no set of nodes", 4),
        ("//a[re:test(@href, '(')]", "not a regular expression", 4),
        ("//a[re:test(@href, @class)]", "a pattern in quotes", 4),
        ("", "a step is missing", 0),
        ("//", "a step is missing", 2),
        ("//a/#", "cannot stand here", 4),
        ("//svg:*", "no namespaces", 2),
    ] {
        let error = XPath::parse(expression).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{expression}");
        let text = error.to_string();
        assert!(text.contains(reason), "{expression}: {text}");
        assert!(text.contains(&format!("at={at}")), "{expression}: {text}");
    }
    let deep = format!("{}a{}", "(".repeat(5000), ")".repeat(5000));
    assert!(XPath::parse(&deep).is_err());
    let nested = format!("//a{}1{}", "[a".repeat(60), "]".repeat(60));
    assert!(
        XPath::parse(&nested)
            .unwrap_err()
            .to_string()
            .contains("nested deeper")
    );
    assert!(XPath::parse(&"-".repeat(4000)).is_err());
    let chain = |n: usize| format!("1{}", "+1".repeat(n));
    let page = Document::parse("<a/>").unwrap();
    assert_eq!(found(&page, &chain(128)), ["129"]);
    assert!(
        XPath::parse(&chain(129))
            .unwrap_err()
            .to_string()
            .contains("128 operators")
    );
    let either = format!("//a[@b{}]", " or @b".repeat(600));
    assert!(found(&page, &either).is_empty());
    let nested = format!("//a{}{}", "[self::*".repeat(46), "]".repeat(46));
    assert_eq!(found(&page, &nested).len(), 1);
    let nested = format!("{}1{}", "-(1+".repeat(46), ")".repeat(46));
    assert_eq!(found(&page, &nested), ["1"]);
}

/// Without a bound these take minutes (the work grows with the square or cube of the page).
#[test]
fn expressions_cannot_run_away_with_a_page() {
    let flat = format!("<body>{}", "<p>x</p>".repeat(20_000));
    let deep = format!("<body>{}{}", "<div>".repeat(400), "<p>x</p>".repeat(2_000));
    for (page, expression) in [
        (&flat, "//p[preceding::p[preceding::p = 'y']]"),
        (
            &deep,
            "//div[contains(string(.), 'y')]//div[contains(string(.), 'y')]//div[contains(., 'y')] | //*[//*[//*[. = 'y']]]",
        ),
    ] {
        let page = Document::parse(page).unwrap();
        let error = page.find(&Query::parse(expression).unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains("make them narrower"), "{error}");
        assert!(error.to_string().contains(expression), "{error}");
    }
    let page = Document::parse(&flat).unwrap();
    assert_eq!(found(&page, "count(//p)"), ["20000"]);
    assert_eq!(found(&page, "//p[20000]/text()"), ["x"]);
}
