//! Spiders as data: both selector languages, the way of a field's value, follow rules, and what is wrong with a spec.

use crm_core::ErrorKind;
use crm_crawl::spider::{FollowSpec, Output, SpiderSpec};
use serde_json::{Value, json};

const PAGE: &str = r#"<html><head><base href="/people/"></head><body>
<ul class="people">
  <li class="person" data-id="7"><h2> Ana
     Kask</h2><p>Tel <b>+372 5555 5555</b></p><dl><dt>Joined</dt><dd>01.02.2024</dd><dt>Spent</dt><dd>1.234,50 EUR</dd></dl>
     <a href="mailto:ANA@example.com">write</a> <a class="home" href="ana/index.html?x=1#top">home</a><div class="bio"><p>Likes <i>tea</i> &amp; rain</p></div></li>
  <li class="person" data-id="8"><h2>Ben Ito</h2><p>Tel <b>+81 3-1234-5678</b></p><dl><dt>Joined</dt><dd>03.04.2025</dd></dl>
     <a href="mailto:ben@example.com">write</a><div class="bio"></div></li>
</ul>
<ul class="pages"><li class="now">1</li><li><a href="?page=2">2</a></li><li><a href="?page=3">3</a></li><li><a href="/login">in</a></li></ul>
<nav><a href="/team/a">a</a><a href="/team/b?sort=up">b</a><a href="/shop/c">c</a><a href="mailto:x@example.com">x</a><a href="javascript:void(0)">y</a></nav>
<div data-next="/people/next">more</div></body></html>"#;

fn spec(more: Value) -> SpiderSpec {
    let mut spec = json!({"name": "people", "start": ["https://site.example/people/"]});
    spec.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    serde_json::from_value(spec).unwrap()
}

fn tried(more: Value) -> Output {
    let spider = spec(more).compile().unwrap_or_else(|error| panic!("{error}"));
    spider.try_on("https://site.example/people/", PAGE).unwrap()
}

fn wrong(more: Value) -> String {
    let error = spec(more).compile().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    error.to_string()
}

#[test]
fn css_and_xpath_say_the_same() {
    let css = tried(json!({
        "item": "li.person",
        "fields": [
            {"selector": "h2", "target": "name"},
            {"selector": "p b", "target": "phone"},
            {"selector": "a[href^='mailto:']", "target": "email"},
            {"selector": "a.home::attr(href)", "target": "attribute:home"},
            {"attr": "data-id", "target": "external:site"},
        ],
    }));
    let xpath = tried(json!({
        "item": "//li[@class='person']",
        "fields": [
            {"selector": "normalize-space(./h2)", "target": "name"},
            {"selector": ".//p[starts-with(., 'Tel')]/b/text()", "target": "phone"},
            {"selector": "./a[starts-with(@href, 'mailto:')]/@href", "target": "email"},
            {"selector": "./a[has-class('home')]/@href", "target": "attribute:home"},
            {"selector": "@data-id", "target": "external:site"},
        ],
    }));
    assert_eq!(css.drafts().len(), 2);
    assert_eq!(css.drafts(), xpath.drafts());
    let ana = &xpath.drafts()[0];
    assert_eq!(ana.name.as_ref().unwrap().full(), "Ana Kask");
    assert_eq!(ana.emails, ["ANA@example.com"]);
    assert_eq!(ana.phones, ["+372 5555 5555"]);
    assert_eq!(ana.external_refs[0].id, "7");
    assert_eq!(ana.attributes.get("home").unwrap(), "ana/index.html?x=1#top");
    assert!(xpath.rejects().is_empty());
}

#[test]
fn a_value_goes_through_expression_and_cleaning() {
    let output = tried(json!({
        "item": "li.person",
        "fields": [
            {"selector": "a[href^='mailto:']", "target": "email", "clean": ["lower"]},
            {"selector": "./dl/dt[.='Joined']/following-sibling::dd[1]", "target": "attribute:joined", "clean": ["date"]},
            {"selector": "./dl/dt[.='Spent']/following-sibling::dd[1]", "target": "attribute:spent:float", "clean": ["number"]},
            {"selector": "./dl/dt[.='Spent']/following-sibling::dd[1]", "target": "attribute:currency", "regex": "[\\d.,]+ ([A-Z]{3})|(no)"},
            {"selector": "a.home", "attr": "href", "target": "attribute:home", "clean": ["absolute_url"]},
            {"selector": "div.bio", "part": "html", "target": "attribute:bio", "clean": ["strip_tags", "collapse", "upper"]},
            {"selector": "div.bio", "part": "html", "target": "attribute:markup"},
            {"target": "attribute:row", "regex": "Tel \\+\\d+"},
        ],
        "reading": {"date_formats": ["%d.%m.%Y"], "decimal_comma": true},
    }));
    assert!(output.rejects().is_empty(), "{:?}", output.rejects());
    let [ana, ben] = output.drafts() else {
        panic!("two people")
    };
    let said = |name: &str| ana.attributes.get(name).cloned().unwrap_or_default();
    assert_eq!(ana.emails, ["ana@example.com"]);
    assert_eq!(said("joined"), "2024-02-01");
    assert_eq!(said("spent"), 1234.5);
    assert_eq!(said("currency"), "EUR");
    assert_eq!(said("home"), "https://site.example/people/ana/index.html?x=1#top");
    assert_eq!(said("bio"), "LIKES TEA & RAIN");
    assert_eq!(said("markup"), "<p>Likes <i>tea</i> &amp; rain</p>");
    assert_eq!(said("row"), "Tel +372");
    assert_eq!(ben.attributes.get("spent"), None);
    let rejected = tried(json!({
        "item": "li.person",
        "fields": [
            {"selector": "a", "target": "email"},
            {"selector": "h2", "target": "attribute:n:int", "clean": ["number"]},
        ],
    }));
    assert_eq!(rejected.drafts().len(), 0);
    assert_eq!(rejected.rejects().len(), 2);
    assert_eq!(rejected.rejects()[0].field.as_deref(), Some("attribute:n:int"));
    assert_eq!(rejected.rejects()[0].reason, "there is no number in it");
}

#[test]
fn links_are_followed_by_rules() {
    let links = |follow: Value| {
        let output = tried(
            json!({"item": "li.person", "fields": [{"selector": "a", "target": "email"}], "follow": follow}),
        );
        let path = |url: &url::Url| {
            format!(
                "{}{}",
                url.path(),
                url.query().map(|q| format!("?{q}")).unwrap_or_default()
            )
        };
        let passed: Vec<String> = output
            .passed()
            .iter()
            .map(|(url, reason)| format!("{} {reason}", path(url)))
            .collect();
        (output.links().iter().map(path).collect::<Vec<_>>(), passed)
    };
    let pages = ["/people/?page=2", "/people/?page=3"];
    for rule in [
        json!("ul.pages a[href*=page]"),
        json!("//ul[@class='pages']//a[contains(@href, 'page')]/@href"),
        json!("//li[@class='now']/following-sibling::li/a[re:test(@href, 'page=\\d+')]"),
        json!({"selector": "ul.pages", "allow": ["[?&]page=\\d+$"]}),
        json!({"selector": "ul.pages", "deny": ["/login"]}),
        json!({"selector": "ul.pages a::attr(href)", "deny": ["/login"]}),
    ] {
        assert_eq!(links(json!([rule])).0, pages, "{rule}");
    }
    let (team, passed) = links(json!([{"selector": "nav", "allow": ["/team/"], "deny": ["[?&]sort="]}]));
    assert_eq!(team, ["/team/a"]);
    assert_eq!(
        passed,
        [
            "/team/b?sort=up `deny` matches: [?&]sort=",
            "/shop/c none of the rule's `allow` matches"
        ]
    );
    assert_eq!(
        links(json!([{"selector": "div", "attr": "data-next"}])).0,
        ["/people/next"]
    );
    assert_eq!(links(json!([{}])).0.len(), 7);
    assert_eq!(links(json!([])).0.len(), 0);
    let written = serde_json::to_value([FollowSpec::new("a.next")]).unwrap();
    assert_eq!(written, json!(["a.next"]));
}

#[test]
fn numbered_pages_and_what_is_never_fetched() {
    use crm_crawl::spider::Spider as _;
    let fields = json!([{"selector": "a", "target": "email"}]);
    let spider = spec(json!({
        "start": [],
        "pages": [{"url": "https://site.example/list?page={}", "to": 3}, {"url": "https://site.example/o?from={}", "from": 0, "to": 50, "step": 25}],
        "item": "li", "fields": fields, "deny": ["/logout", "[?&]from=25$"],
    }));
    let spider = spider.compile().unwrap();
    let seeds: Vec<String> = spider.seeds().iter().map(ToString::to_string).collect();
    assert_eq!(seeds.len(), 6);
    assert_eq!(seeds[0], "https://site.example/list?page=1");
    assert_eq!(seeds[5], "https://site.example/o?from=50");
    let allows = |url: &str| spider.allows(&url.parse().unwrap());
    assert!(allows("https://site.example/x"));
    assert!(!allows("https://site.example/logout"));
    assert!(!allows("https://site.example/o?from=25"));
    assert!(!allows("https://other.example/x"));
    for (pages, reason) in [
        (json!([{"url": "https://site.example/", "to": 3}]), "{}"),
        (
            json!([{"url": "https://site.example/{}", "from": 4, "to": 3}]),
            "up to another",
        ),
        (
            json!([{"url": "https://site.example/{}", "to": 3, "step": 0}]),
            "by 1 at least",
        ),
        (
            json!([{"url": "https://site.example/{}", "to": 100_001}]),
            "at most 100,000",
        ),
        (json!([{"url": "/{}", "to": 3}]), "not an absolute URL"),
    ] {
        let text = wrong(json!({"pages": pages, "item": "li", "fields": fields}));
        assert!(text.contains(reason) && text.contains("setting=pages"), "{text}");
    }
}

#[test]
fn a_wrong_spec_says_which_field_and_which_expression() {
    let field =
        |field: Value| wrong(json!({"item": "li", "fields": [{"selector": "a", "target": "email"}, field]}));
    for (text, parts) in [
        (
            field(json!({"selector": "//a[", "target": "attribute:x"})),
            &["selector=//a[", "target=attribute:x", "setting=fields"] as &[&str],
        ),
        (
            field(json!({"selector": "a[[", "target": "phone"})),
            &["not a CSS selector", "target=phone", "setting=fields"],
        ),
        (
            field(json!({"selector": "div/a", "target": "phone"})),
            &["begin it with xpath:"],
        ),
        (
            field(json!({"selector": "a", "regex": "(", "target": "phone"})),
            &["not a regular expression", "regex=(", "target=phone"],
        ),
        (
            field(json!({"selector": ".//a/@href", "attr": "href", "target": "phone"})),
            &["yields text already", "attr=href"],
        ),
        (
            wrong(json!({"item": "//li/@class", "fields": [{"selector": "a", "target": "email"}]})),
            &["an item is an element", "setting=item"],
        ),
        (
            wrong(json!({"item": "", "fields": [{"selector": "a", "target": "email"}]})),
            &["setting=item"],
        ),
        (wrong(json!({"item": "li", "fields": []})), &["setting=fields"]),
        (wrong(json!({})), &["\"extract\": \"contacts\""]),
        (
            wrong(json!({"extract": "contacts", "min_confidence": 1.5})),
            &["setting=min_confidence"],
        ),
        (
            wrong(json!({"extract": "contacts", "follow": ["//a["]})),
            &["setting=follow", "selector=//a["],
        ),
        (
            wrong(json!({"extract": "contacts", "follow": [{"allow": ["("]}]})),
            &["setting=follow", "regex=("],
        ),
        (
            wrong(json!({"extract": "contacts", "deny": ["["]})),
            &["setting=deny", "regex=["],
        ),
    ] {
        for part in parts {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
    for unknown in [
        json!({"extract": "people"}),
        json!({"follow": [{"selektor": "a"}]}),
        json!({"fields": [{"target": "email", "clean": ["wash"]}]}),
    ] {
        let mut spec = json!({"name": "x", "start": ["https://site.example/"]});
        spec.as_object_mut()
            .unwrap()
            .extend(unknown.as_object().unwrap().clone());
        assert!(serde_json::from_value::<SpiderSpec>(spec).is_err());
    }
}

#[test]
fn what_costs_too_much_is_reported_and_the_page_goes_on() {
    let page = format!(
        "<body>{}",
        "<p><a href='mailto:a@example.com'>a</a></p>".repeat(12_000)
    );
    let spider = spec(json!({"item": "p", "fields": [{"selector": "a", "target": "email"}]}))
        .compile()
        .unwrap();
    let output = spider.try_on("https://site.example/", &page).unwrap();
    assert_eq!(output.drafts().len(), 10_000);
    assert!(output.rejects()[0].reason.contains("more than 10,000 items"));
    let spider =
        spec(json!({"item": "//p", "fields": [{"selector": "//a[preceding::a = 'b']", "target": "email"}]}))
            .compile()
            .unwrap();
    let output = spider.try_on("https://site.example/", &page).unwrap();
    assert!(
        output.rejects()[0].reason.contains("make them narrower"),
        "{:?}",
        output.rejects()[0]
    );
}

#[test]
fn people_without_selectors() {
    let page = r#"<html lang="de"><body><div itemscope itemtype="https://schema.org/Person"><b itemprop="name">Eva Lind</b>
        <a itemprop="email" href="mailto:eva@site.example">m</a><i itemprop="telephone">12</i></div>
        <p>lee at site dot example</p><a href="/team">team</a></body></html>"#;
    let more = json!({"extract": "contacts", "follow": ["a"], "reading": {"phone_region": "DE"}});
    let output = spec(more)
        .compile()
        .unwrap()
        .try_on("https://site.example/", page)
        .unwrap();
    let [eva] = output.drafts() else {
        panic!("{:?}", output.drafts())
    };
    assert_eq!(eva.name.as_ref().unwrap().full(), "Eva Lind");
    assert_eq!(eva.provenance.location.as_deref(), Some("https://site.example/"));
    assert_eq!(eva.provenance.confidence, Some(99));
    let finds = eva.attributes.get("crawl_finds").unwrap();
    assert_eq!(
        finds[0],
        json!({"field": "email", "syntax": "microdata", "place": "/html/body/div/a", "confidence": 99})
    );
    assert_eq!(eva.attributes.get("crawl_kind").unwrap(), "person");
    assert_eq!(output.links()[0].path(), "/team");
    assert_eq!(output.rejects().len(), 1);
    assert_eq!(output.rejects()[0].field.as_deref(), Some("/html/body/div/i"));
    assert!(output.rejects()[0].reason.contains("set reading.phone_region"));
    let less = json!({"extract": "contacts", "min_confidence": 0.2});
    let output = spec(less)
        .compile()
        .unwrap()
        .try_on("https://site.example/", page)
        .unwrap();
    assert_eq!(output.drafts().len(), 2);
    assert_eq!(output.drafts()[1].emails, ["lee@site.example"]);
    assert_eq!(output.drafts()[1].provenance.confidence, Some(30));
}
