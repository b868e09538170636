//! Whose an address is, by what stands around it; and whether a name is that of a person.

use super::dom::Dom;
use super::{Find, Syntax};

/// A name by its place.
const PLACE: f64 = 0.5;
/// A name written before the address in brackets, as in the head of a mail.
const WRITTEN: f64 = 0.7;

/// Words of headings and buttons.
const HEADINGS: &[&str] = &[
    "contact",
    "us",
    "about",
    "our",
    "team",
    "office",
    "address",
    "phone",
    "email",
    "e-mail",
    "mail",
    "press",
    "sales",
    "support",
    "service",
    "customer",
    "kontakt",
    "adresse",
    "impressum",
    "home",
    "more",
    "read",
    "send",
    "write",
    "get",
    "in",
    "touch",
    "the",
    "head",
    "media",
    "general",
    "inquiries",
    "enquiries",
    "opening",
    "hours",
    "new",
    "business",
    "department",
    "tel",
    "fax",
    "follow",
    "privacy",
    "policy",
    "terms",
    "legal",
    "notice",
    "download",
    "sign",
    "up",
    "log",
    "kundenservice",
    "vertrieb",
    "presse",
];

/// Last words of what firms, offices and clubs are called.
const ORGANIZATIONS: &[&str] = &[
    "ab",
    "ag",
    "as",
    "a/s",
    "aps",
    "asa",
    "bv",
    "b.v",
    "co",
    "corp",
    "corporation",
    "e.v",
    "ev",
    "eg",
    "gbr",
    "gmbh",
    "inc",
    "kft",
    "kg",
    "kk",
    "limited",
    "llc",
    "llp",
    "lp",
    "ltd",
    "ltda",
    "mbh",
    "nv",
    "n.v",
    "oy",
    "oyj",
    "ohg",
    "plc",
    "pty",
    "sa",
    "s.a",
    "sarl",
    "sas",
    "sl",
    "s.l",
    "spa",
    "s.p.a",
    "srl",
    "s.r.l",
    "sro",
    "s.r.o",
    "ug",
    "zrt",
    "academy",
    "agency",
    "associates",
    "association",
    "bakery",
    "bank",
    "center",
    "centre",
    "charity",
    "church",
    "clinic",
    "club",
    "college",
    "committee",
    "company",
    "consulting",
    "council",
    "department",
    "enterprises",
    "faculty",
    "federation",
    "foundation",
    "garage",
    "group",
    "holding",
    "holdings",
    "hospital",
    "hostel",
    "hotel",
    "industries",
    "institute",
    "institution",
    "international",
    "laboratories",
    "laboratory",
    "library",
    "ministry",
    "museum",
    "network",
    "office",
    "organisation",
    "organization",
    "partners",
    "partnership",
    "pharmacy",
    "pizzeria",
    "press",
    "restaurant",
    "salon",
    "school",
    "services",
    "shop",
    "society",
    "software",
    "solutions",
    "store",
    "studio",
    "studios",
    "systems",
    "team",
    "technologies",
    "theatre",
    "trust",
    "union",
    "university",
    "verband",
    "verein",
    "universität",
    "hochschule",
    "schule",
    "bibliothek",
    "institut",
    "stiftung",
    "praxis",
    "apotheke",
    "université",
    "universidad",
    "università",
    "ооо",
    "зао",
];

/// Whether a name is that of a firm: nobody's family is called so.
pub(super) fn is_organization(name: &str) -> bool {
    let last = name.split_whitespace().next_back().unwrap_or_default();
    let last = last.trim_matches(['.', ',', '(', ')', '"']).to_lowercase();
    name.split_whitespace().count() > 1 && ORGANIZATIONS.contains(&last.as_str())
}

/// The name right before an address in brackets: `Ana Kask <ana@shop.example>`, `thanks to Ana Kask (ana@shop.example)`.
pub(super) fn before(line: &str) -> Option<String> {
    let line = line.strip_suffix(['<', '(', '\u{2039}', '\u{27e8}'])?.trim_end();
    let line = line.trim_end_matches(['"', '\u{201d}', ',']);
    let mut words: Vec<&str> = line
        .rsplit([' ', '\n', '"', '\u{201c}'])
        .take_while(|word| is_word(word) && !word.ends_with(','))
        .take(4)
        .collect();
    words.reverse();
    // A particle begins no name: `thanks to the`.
    while words
        .first()
        .is_some_and(|word| !word.starts_with(char::is_uppercase))
    {
        words.remove(0);
    }
    (words.len() >= 2).then(|| words.join(" "))
}

/// As it was written before the address.
pub(super) fn written(dom: Dom<'_>, node: u32, name: String) -> Find<String> {
    Find {
        value: name,
        confidence: WRITTEN,
        syntax: Syntax::Text,
        place: dom.path(node),
    }
}

fn placed(dom: Dom<'_>, node: u32, name: String) -> Find<String> {
    Find {
        value: name,
        confidence: PLACE,
        syntax: Syntax::Text,
        place: dom.path(node),
    }
}

/// A link's own text, when it is a name.
pub(super) fn of_link(dom: Dom<'_>, node: u32) -> Option<Find<String>> {
    if dom.name(node) != "a" {
        return None;
    }
    let text = dom.text(node, 128);
    is_name(&text).then(|| placed(dom, node, text))
}

/// Whether an element's class says that it holds a name.
fn is_called(dom: Dom<'_>, node: u32) -> bool {
    let class = dom.attr(node, "class").unwrap_or_default().to_ascii_lowercase();
    class
        .split_ascii_whitespace()
        .any(|class| class == "name" || class.ends_with("-name") || class.ends_with("__name"))
}

/// A person's name by its place: a heading, something bold or something of class `name`, the first that looks like one. Else
/// that of a link to another page.
pub(super) fn in_area(dom: Dom<'_>, area: u32) -> Option<Find<String>> {
    let mut links = None;
    for node in area..dom.end(area) {
        let name = dom.name(node);
        if name == "a" && links.is_none() {
            links = of_link(dom, node);
        }
        let heads = matches!(
            name,
            "h1" | "h2" | "h3" | "h4" | "h5" | "h6" | "strong" | "b" | "dt" | "th" | "figcaption"
        );
        if heads || is_called(dom, node) {
            let text = dom.text(node, 128);
            if is_name(&text) {
                return Some(placed(dom, node, text));
            }
        }
    }
    links
}

/// The name that a page with one address holds, when a class says which and there is no other.
pub(super) fn only_called(dom: Dom<'_>) -> Option<Find<String>> {
    let mut only: Option<Find<String>> = None;
    for (node, _) in dom.elements().filter(|(node, _)| is_called(dom, *node)) {
        let text = dom.text(node, 128);
        if !is_name(&text) {
            continue;
        }
        match &only {
            Some(known) if known.value != text => return None,
            _ => only = Some(placed(dom, node, text)),
        }
    }
    only
}

/// Two to four words that begin in upper case, without digits, and none that heads a section.
fn is_name(text: &str) -> bool {
    let words: Vec<&str> = text.split_whitespace().collect();
    (2..=4).contains(&words.len())
        && words.iter().all(|word| is_word(word))
        && !text.ends_with([':', '!', '?'])
}

/// A word of a name.
fn is_word(word: &str) -> bool {
    let plain = word.trim_end_matches(['.', ',']);
    let letters = plain
        .chars()
        .all(|c| c.is_alphabetic() || matches!(c, '-' | '\'' | '\u{2019}' | '.'));
    let particle = matches!(
        plain,
        "van"
            | "von"
            | "der"
            | "den"
            | "de"
            | "da"
            | "di"
            | "del"
            | "la"
            | "le"
            | "el"
            | "bin"
            | "zu"
            | "af"
            | "av"
            | "y"
    );
    letters
        && (particle || plain.starts_with(char::is_uppercase))
        && !HEADINGS.contains(&plain.to_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for name in [
            "Ana Kask",
            "Jean-Luc Picard",
            "Conan O'Brien",
            "Ludwig van Beethoven",
            "Dr. Ana M. Kask",
        ] {
            assert!(is_name(name), "{name}");
        }
        for no in [
            "Ana",
            "Contact Us",
            "Our Team",
            "write to us",
            "Ana Kask:",
            "Room 5 West",
            "A B C D E",
            "Press Office",
            "",
        ] {
            assert!(!is_name(no), "{no}");
        }
    }

    #[test]
    fn names_before_addresses() {
        for (line, wanted) in [
            ("Ana Kask <", Some("Ana Kask")),
            ("Authors: Ana Kask <", Some("Ana Kask")),
            ("we thank Ana M. Kask (", Some("Ana M. Kask")),
            ("\"Ana Kask\" <", Some("Ana Kask")),
            ("Ludwig van Beethoven <", Some("Ludwig van Beethoven")),
            ("write to the <", None),
            ("Press Office <", None),
            ("Ana <", None),
            ("Ana Kask ", None),
            ("Ana Kask, Ben Smith <", Some("Ben Smith")),
            ("", None),
        ] {
            assert_eq!(before(line).as_deref(), wanted, "{line}");
        }
    }

    #[test]
    fn firms_and_people() {
        for firm in [
            "Ana Books Ltd.",
            "Backhaus Sommer GmbH",
            "City Library",
            "Musikverein Nord e.V.",
        ] {
            assert!(is_organization(firm), "{firm}");
        }
        for person in ["Ana Kask", "Library", "Ana Maria Center-Smith", ""] {
            assert!(!is_organization(person), "{person}");
        }
    }
}
