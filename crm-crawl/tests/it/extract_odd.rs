//! Markup as it is found: variants of the ways to write a contact, each with what a reader would take from it.

use crm_core::Timestamp;
use crm_crawl::extract::{self, Hints};
use crm_crawl::spider::Page;

/// Every contact as `name|address,address|number,number`, sorted.
fn found(url: &str, html: &str) -> Vec<String> {
    let page = Page::new(url.parse().unwrap(), "site", html, Timestamp::EPOCH).unwrap();
    let mut told: Vec<String> = extract::contacts(&page, &Hints::default())
        .contacts
        .iter()
        .map(|contact| {
            let name = contact
                .name
                .as_ref()
                .map(|name| name.value.clone())
                .unwrap_or_default();
            let all = |finds: &[extract::Find<String>]| {
                let mut values: Vec<&str> = finds.iter().map(|find| find.value.as_str()).collect();
                values.sort_unstable();
                values.join(",")
            };
            format!("{name}|{}|{}", all(&contact.emails), all(&contact.phones))
        })
        .collect();
    told.sort();
    told
}

const DE: &str = "https://shop.de/team";

/// Says every case that differs, not only the first.
fn all(cases: &[(&str, &str, &str, &[&str])]) {
    let mut wrong = Vec::new();
    for (what, url, html, wanted) in cases {
        let found = found(url, html);
        if found != *wanted {
            wrong.push(format!("{what}: found {found:?}, not {wanted:?}"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

fn ld(json: &str) -> String {
    format!("<html lang=de><script type='application/ld+json'>{json}</script></html>")
}

#[test]
fn json_ld() {
    let cases = [
        (
            "references across blocks",
            format!(
                "{}{}",
                ld(
                    r##"{"@context":"https://schema.org","@type":"Organization","@id":"#o","name":"Firma","contactPoint":{"@id":"#c"}}"##
                ),
                ld(
                    r##"{"@context":"https://schema.org","@id":"#c","@type":"ContactPoint","telephone":"+49 30 901820","email":"info@firma.de"}"##
                )
            ),
            vec!["Firma|info@firma.de|+4930901820"],
        ),
        (
            "graph in graph",
            ld(
                r#"{"@context":"http://schema.org/","@graph":[{"@graph":[{"@type":["Thing","Person"],"name":"Ana","email":"mailto:ana@firma.de"}]}]}"#,
            ),
            vec!["Ana|ana@firma.de|"],
        ),
        (
            "types as URLs, context as list",
            ld(
                r#"[{"@context":["https://schema.org",{"@language":"de"}],"@type":"http://schema.org/Person","http://schema.org/name":"Ana","http://schema.org/email":"ana@firma.de"}]"#,
            ),
            vec!["Ana|ana@firma.de|"],
        ),
        (
            "context with vocab",
            ld(
                r#"{"@context":{"@vocab":"https://schema.org/"},"@type":"Person","name":"Ana","email":["ana@firma.de","a@firma.de"]}"#,
            ),
            vec!["Ana|a@firma.de,ana@firma.de|"],
        ),
        (
            "entities in strings",
            ld(
                r#"{"@context":"https://schema.org","@type":"Organization","name":"M&uuml;ller &amp; Co","email":"info&#64;firma.de"}"#,
            ),
            vec!["Müller & Co|info@firma.de|"],
        ),
        (
            "escapes",
            ld(
                r#"{"@context":"https:\/\/schema.org","@type":"Person","name":"J\u00fcrgen","email":"j\u0040firma.de"}"#,
            ),
            vec!["Jürgen|j@firma.de|"],
        ),
        (
            "trailing commas, comments, CDATA",
            ld(
                "/*<![CDATA[*/ {\"@context\":\"https://schema.org\",\"@type\":\"Person\", // who\n\"name\":\"Ana\",\"email\":\"ana@firma.de\",} /*]]>*/",
            ),
            vec!["Ana|ana@firma.de|"],
        ),
        (
            "line break in a string",
            ld(
                "{\"@context\":\"https://schema.org\",\"@type\":\"Person\",\"name\":\"Ana\nKask\",\"email\":\"ana@firma.de\"}",
            ),
            vec!["Ana Kask|ana@firma.de|"],
        ),
        (
            "employees and founders",
            ld(
                r#"{"@context":"https://schema.org","@type":"Corporation","name":"Firma","email":"info@firma.de","employee":[{"@type":"Person","name":"Ana","email":"ana@firma.de"}],"founder":{"@type":"Person","name":"Bo","email":"bo@firma.de"}}"#,
            ),
            vec!["Ana|ana@firma.de|", "Bo|bo@firma.de|", "Firma|info@firma.de|"],
        ),
        (
            "in a property nobody thinks of",
            ld(
                r#"{"@context":"https://schema.org","@type":"WebPage","mainEntity":{"@type":"ProfilePage","mainEntity":{"@type":"Person","name":"Ana","email":"ana@firma.de"}}}"#,
            ),
            vec!["Ana|ana@firma.de|"],
        ),
        (
            "reverse",
            ld(
                r#"{"@context":"https://schema.org","@type":"Organization","name":"Firma","email":"info@firma.de","@reverse":{"worksFor":{"@type":"Person","name":"Ana","email":"ana@firma.de"}}}"#,
            ),
            vec!["Ana|ana@firma.de|", "Firma|info@firma.de|"],
        ),
        (
            "values as objects and lists",
            ld(
                r#"{"@context":"https://schema.org","@type":"Person","name":{"@value":"Ana","@language":"de"},"email":{"@list":["ana@firma.de"]},"telephone":{"@value":"030 901820"}}"#,
            ),
            vec!["Ana|ana@firma.de|+4930901820"],
        ),
        (
            "subtypes",
            ld(
                r#"{"@context":"https://schema.org","@type":"Dentist","name":"Dr. Zahn","telephone":"030/90 18 20"}"#,
            ),
            vec!["Dr. Zahn||+4930901820"],
        ),
        (
            "tel and extension",
            ld(
                r#"{"@context":"https://schema.org","@type":"Person","name":"Ana","telephone":"tel:+49-30-901820"}"#,
            ),
            vec!["Ana||+4930901820"],
        ),
        (
            "a type with another case",
            format!(
                "<script type=\" Application/LD+JSON; charset=utf-8\">{}</script>",
                r#"{"@context":"https://schema.org","@type":"Person","name":"Ana","email":"ana@firma.de"}"#
            ),
            vec!["Ana|ana@firma.de|"],
        ),
        (
            "a circle",
            ld(
                r##"{"@context":"https://schema.org","@graph":[{"@id":"#a","@type":"Person","name":"Ana","email":"ana@firma.de","worksFor":{"@id":"#f"}},{"@id":"#f","@type":"Organization","name":"Firma","employee":{"@id":"#a"}}]}"##,
            ),
            vec!["Ana|ana@firma.de|"],
        ),
        (
            "several addresses in one text",
            ld(
                r#"{"@context":"https://schema.org","@type":"Person","name":"Ana","email":"ana@firma.de, a@firma.de","telephone":"030 901820 / 030 901821"}"#,
            ),
            vec!["Ana|a@firma.de,ana@firma.de|+4930901820,+4930901821"],
        ),
    ];
    let cases: Vec<(&str, &str, &str, &[&str])> = cases
        .iter()
        .map(|(what, html, wanted)| (*what, DE, html.as_str(), wanted.as_slice()))
        .collect();
    all(&cases);
}

#[test]
fn microdata_rdfa_and_cards() {
    all(&[
        (
            "itemref over the page",
            DE,
            r#"<html lang=de><div itemscope itemtype="https://schema.org/Person" itemref="a b"><b itemprop=name>Ana</b></div><p id=a><a itemprop=email href="mailto:ana@firma.de?subject=x">x</a></p><p id=b><span itemprop=telephone content="+4930901820">call</span></p>"#,
            &["Ana|ana@firma.de|+4930901820"],
        ),
        (
            "itemref in a circle",
            DE,
            r#"<div id=x itemscope itemtype="http://schema.org/Person" itemref="x y"><b itemprop=name>Ana</b></div><div id=y><i itemprop=email>ana@firma.de</i></div>"#,
            &["Ana|ana@firma.de|"],
        ),
        (
            "several types and properties",
            DE,
            r#"<div itemscope itemtype="https://schema.org/LocalBusiness https://schema.org/Store"><span itemprop="name legalName">Laden</span><span itemprop="telephone">(030) 90 18 20</span></div>"#,
            &["Laden||+4930901820"],
        ),
        (
            "data and meter",
            DE,
            r#"<div itemscope itemtype="https://schema.org/Person"><meta itemprop=name content="Ana"><link itemprop=email href="mailto:ana%40firma.de"><data itemprop=telephone value="+4930901820">x</data></div>"#,
            &["Ana|ana@firma.de|+4930901820"],
        ),
        (
            "rdfa prefix",
            DE,
            r#"<div prefix="s: https://schema.org/" typeof="s:Person"><span property="s:name">Ana</span> <a property="s:email" href="mailto:ana@firma.de">m</a></div>"#,
            &["Ana|ana@firma.de|"],
        ),
        (
            "rdfa vocab inside vocab",
            DE,
            r#"<div vocab="http://xmlns.com/foaf/0.1/" typeof="Document"><div vocab="https://schema.org/" typeof="Person"><span property="name">Ana</span><span property="email" content="ana@firma.de">x</span></div></div>"#,
            &["Ana|ana@firma.de|"],
        ),
        (
            "rdfa with schema as the usual prefix",
            DE,
            r#"<div typeof="schema:Organization"><span property="schema:name">Firma</span><span property="schema:email">info@firma.de</span></div>"#,
            &["Firma|info@firma.de|"],
        ),
        (
            "h-card",
            DE,
            r#"<div class="h-card"><a class="p-name u-url" href="/ana">Ana Kask</a> <a class="u-email" href="mailto:ana@firma.de">m</a> <data class="p-tel" value="+4930901820">t</data></div>"#,
            &["Ana Kask|ana@firma.de|+4930901820"],
        ),
        (
            "h-card with the address in words",
            DE,
            r#"<div class="h-card"><span class="p-name">Ana</span> <span class="u-email">ana (at) firma.de</span></div>"#,
            &["Ana|ana@firma.de|"],
        ),
        (
            "hCard with types and values",
            DE,
            r#"<div class="vcard"><span class="fn n"><span class="given-name">Ana</span> <span class="family-name">Kask</span></span><div class="tel"><span class="type">work</span> <span class="value">+49 30</span> <span class="value">901820</span></div><a class="email" href="mailto:ana@firma.de">m</a></div>"#,
            &["Ana Kask|ana@firma.de|+4930901820"],
        ),
        (
            "hCard fax",
            DE,
            r#"<div class="vcard"><span class="fn org">Firma</span><span class="tel"><span class="type">fax</span><span class="value">+49 30 901821</span></span><span class="tel">+49 30 901820</span></div>"#,
            &["Firma||+4930901820"],
        ),
        (
            "abbr with the value",
            DE,
            r#"<div class="vcard"><b class="fn">Ana</b> <abbr class="tel" title="+4930901820">call</abbr></div>"#,
            &["Ana||+4930901820"],
        ),
    ]);
}

#[test]
fn links_and_hidden_addresses() {
    all(&[
        (
            "upper case and blanks",
            DE,
            "<a href=' MAILTO:Ana@Firma.DE '>x</a>",
            &["|ana@firma.de|"],
        ),
        (
            "percent and entities",
            DE,
            "<a href='&#109;&#97;ilto&#58;ana%40firma%2Ede'>x</a>",
            &["|ana@firma.de|"],
        ),
        (
            "to in the query",
            DE,
            "<a href='mailto:?to=ana@firma.de&subject=a@b.example'>x</a>",
            &["|ana@firma.de|"],
        ),
        ("only a body", DE, "<a href='mailto:?body=x'>share</a>", &[]),
        (
            "two, and a name",
            DE,
            "<a href='mailto:ana@firma.de,%20bo@firma.de?cc=c@firma.de'>x</a>",
            &["|ana@firma.de|", "|bo@firma.de|"],
        ),
        (
            "with a name in brackets",
            DE,
            "<a href='mailto:Ana%20%3Cana@firma.de%3E'>x</a>",
            &["|ana@firma.de|"],
        ),
        (
            "slashes",
            DE,
            "<a href='mailto://ana@firma.de'>x</a>",
            &["|ana@firma.de|"],
        ),
        (
            "at and dot in brackets",
            DE,
            "<p>ana [AT] firma [DOT] de</p>",
            &["|ana@firma.de|"],
        ),
        (
            "without blanks",
            DE,
            "<p>ana(at)firma(dot)de</p>",
            &["|ana@firma.de|"],
        ),
        (
            "curly, mixed",
            DE,
            "<p>ana.kask {at} firma.de</p>",
            &["|ana.kask@firma.de|"],
        ),
        (
            "at sign in brackets",
            DE,
            "<p>ana (@) firma.de</p>",
            &["|ana@firma.de|"],
        ),
        ("underscores", DE, "<p>ana_at_firma_dot_de</p>", &[]),
        (
            "an image for the sign",
            DE,
            "<p>ana<img src=at.gif alt='@'>firma.de</p>",
            &["|ana@firma.de|"],
        ),
        ("full-width sign", DE, "<p>ana＠firma.de</p>", &["|ana@firma.de|"]),
        (
            "zero width space",
            DE,
            "<p>ana\u{200b}@\u{200b}firma\u{200b}.de</p>",
            &["|ana@firma.de|"],
        ),
        (
            "soft hyphen",
            DE,
            "<p>ana@fir\u{ad}ma.de</p>",
            &["|ana@firma.de|"],
        ),
        (
            "comment between",
            DE,
            "<p>ana<!-- x -->@<!-- y -->firma.de</p>",
            &["|ana@firma.de|"],
        ),
        (
            "hidden element between",
            DE,
            "<p>ana@<span style='display:none'>nospam</span>firma.de</p>",
            &["|ana@firma.de|"],
        ),
        (
            "cloudflare link",
            DE,
            "<a href='/cdn-cgi/l/email-protection#1d7c737c5d7b746f707c337978'>x</a>",
            &["|ana@firma.de|"],
        ),
        (
            "data attributes",
            DE,
            "<a data-user='ana' data-domain='firma.de' href='#'>x</a>",
            &["|ana@firma.de|"],
        ),
        (
            "data-email",
            DE,
            "<span data-email='ana@firma.de'>x</span>",
            &["|ana@firma.de|"],
        ),
    ]);
}

#[test]
fn numbers() {
    let japan = "https://example.jp/";
    all(&[
        (
            "arabic digits",
            DE,
            "<a href='tel:+٤٩٣٠٩٠١٨٢٠'>x</a>",
            &["||+4930901820"],
        ),
        (
            "full-width digits",
            japan,
            "<p>電話：０３−３２１０−１１１１</p>",
            &["||+81332101111"],
        ),
        (
            "extension",
            DE,
            "<a href='tel:+4930901820;ext=12'>x</a>",
            &["||+4930901820"],
        ),
        (
            "extension in words",
            DE,
            "<a href='tel:+4930901820,,12'>x</a>",
            &["||+4930901820"],
        ),
        (
            "context",
            DE,
            "<a href='tel:901820;phone-context=+4930'>x</a>",
            &["||+4930901820"],
        ),
        (
            "percent",
            DE,
            "<a href='tel:%2B49%2030%20901820'>x</a>",
            &["||+4930901820"],
        ),
        (
            "double zero",
            DE,
            "<a href='tel:004930901820'>x</a>",
            &["||+4930901820"],
        ),
        (
            "zero in brackets",
            DE,
            "<a href='tel:+49(0)30901820'>x</a>",
            &["||+4930901820"],
        ),
        (
            "slashes",
            DE,
            "<a href='tel://+4930901820'>x</a>",
            &["||+4930901820"],
        ),
        (
            "by the domain",
            "https://firma.at/",
            "<a href='tel:01 53115'>x</a>",
            &["||+43153115"],
        ),
        (
            "by the language",
            "https://firma.example/",
            "<html lang='fr-CH'><a href='tel:044 668 18 00'>x</a>",
            &["||+41446681800"],
        ),
        (
            "whatsapp",
            DE,
            "<a href='https://wa.me/491701234567'>x</a>",
            &["||+491701234567"],
        ),
        (
            "whatsapp api",
            DE,
            "<a href='https://api.whatsapp.com/send?phone=491701234567&text=x'>x</a>",
            &["||+491701234567"],
        ),
        (
            "not a number",
            DE,
            "<a href='tel:+1;DROP'>x</a><a href='tel:'>y</a><a href='tel:123'>z</a>",
            &[],
        ),
        (
            "forty digits",
            DE,
            &format!("<a href='tel:+{}'>x</a>", "1".repeat(40)),
            &[],
        ),
    ]);
}
