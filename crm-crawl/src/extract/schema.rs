//! schema.org's things to contacts.

use crm_core::customer::PostalAddress;

use super::item::{Item, Property, Text};
use super::{Contact, ContactKind, Find, Problem, Syntax, value};

const MAX_NESTING: usize = 24;
/// Contacts of one page and syntax.
const MAX_CONTACTS: usize = 2_000;
/// A name, a title, a street: what is longer is prose.
const MAX_TEXT: usize = 256;

const PERSON: &[&str] = &["Person", "Patient"];
/// Parts of somebody else's thing.
const PARTS: &[&str] = &[
    "PostalAddress",
    "ContactPoint",
    "GeoCoordinates",
    "Country",
    "OpeningHoursSpecification",
];
const ORGANIZATION: &[&str] = &["worksFor", "affiliation", "memberOf", "brand"];

/// What a reader of one syntax needs to know.
pub(super) struct Reader<'a> {
    pub(super) syntax: Syntax,
    pub(super) confidence: f64,
    pub(super) region: Option<&'a str>,
    pub(super) contacts: Vec<Contact>,
    pub(super) problems: &'a mut Vec<Problem>,
}

impl Reader<'_> {
    /// Takes a thing and all that is in it: an organisation's people are contacts of their own.
    pub(super) fn take(&mut self, item: &Item) {
        self.walk(item, None, 0);
    }

    fn walk(&mut self, item: &Item, inside: Option<&str>, depth: usize) {
        if depth > MAX_NESTING || self.contacts.len() >= MAX_CONTACTS {
            return;
        }
        let own_name = self.name(item).map(|name| name.value);
        let reaches = item
            .all(&["email", "telephone", "contactPoint", "contactPoints"])
            .next()
            .is_some();
        let person = item.is_a(PERSON);
        let organization = item.is_a(&["Organization", "Corporation", "LocalBusiness", "NGO"]);
        // An address that has a name and a number is somebody, when it is not a part of somebody.
        let part = item.is_a(PARTS) && (depth > 0 || own_name.is_none());
        if !part && !item.types.is_empty() && (person || organization || reaches) {
            let kind = if person {
                ContactKind::Person
            } else {
                ContactKind::Organization
            };
            let mut contact = self.contact(item, kind);
            if contact.kind == ContactKind::Person && contact.organization.is_none() {
                contact.organization = inside.map(|name| self.find(name, &item.place));
            }
            self.contacts.push(contact);
        }
        for (name, property) in &item.properties {
            let Property::Item(part) = property else { continue };
            // Whoever works somewhere does not speak for the place: its own addresses are its own contact.
            let staff = matches!(
                name.as_str(),
                "employee" | "employees" | "founder" | "founders" | "member" | "members" | "alumni"
            );
            let inside = own_name.as_deref().filter(|_| staff && !person);
            self.walk(part, inside, depth + 1);
        }
    }

    fn contact(&mut self, item: &Item, kind: ContactKind) -> Contact {
        let mut contact = Contact::new(kind);
        contact.name = self.name(item);
        contact.given = self.plain(item, &["givenName"]);
        contact.family = self.plain(item, &["familyName"]);
        contact.job_title = self.plain(item, &["jobTitle"]);
        contact.organization = self.organization(item);
        for text in item.texts(&["url", "sameAs"]) {
            let url = text.link.as_deref().unwrap_or(&text.text).trim();
            if url.len() <= 2048 && !contact.urls.iter().any(|known| known.value == url) && !is_address(url) {
                contact.urls.push(self.find(url, &text.place));
            }
        }
        self.addresses(item, &mut contact);
        let region = contact
            .addresses
            .iter()
            .map(|a| a.value.country.clone())
            .find(|code| !code.is_empty());
        self.reach(item, region.as_deref(), &mut contact);
        contact
    }

    /// How to reach it: by its own properties, and those of its contact points.
    fn reach(&mut self, item: &Item, region: Option<&str>, contact: &mut Contact) {
        let parts = item.items(&["contactPoint", "contactPoints", "address"]);
        for part in std::iter::once(item).chain(parts) {
            for text in part.texts(&["email"]) {
                let link = text.link.as_deref().filter(|link| is_address(link));
                let address = link.and_then(value::email).or_else(|| value::email(&text.text));
                let several: Vec<String> = match address {
                    Some(address) => vec![address],
                    None => text
                        .text
                        .split([',', ';', '\n', ' '])
                        .filter_map(value::email)
                        .collect(),
                };
                for address in &several {
                    contact.add_email(self.find(address, &text.place));
                }
                match several.first() {
                    Some(_) => {}
                    None if !text.text.trim().is_empty() => {
                        self.problem(text, "an e-mail address that is none")
                    }
                    None => {}
                }
            }
            for text in part.texts(&["telephone", "phone"]) {
                let number = text.link.iter().chain([&text.text]).find_map(|written| {
                    // The address's country first, then the page's; a number with its own code minds neither.
                    let here = region.and_then(|region| value::phone(written, Some(region)));
                    here.or_else(|| value::phone(written, self.region))
                });
                let several: Vec<String> = match number {
                    Some(number) => vec![number],
                    None => {
                        let pieces = text
                            .text
                            .split([',', ';', '\n'])
                            .flat_map(|piece| piece.split(" / "));
                        pieces
                            .filter_map(|piece| value::phone(piece, region.or(self.region)))
                            .collect()
                    }
                };
                for number in &several {
                    contact.add_phone(self.find(number, &text.place));
                }
                match several.first() {
                    Some(_) => {}
                    None if !text.text.trim().is_empty() => self.problem(
                        text,
                        "a phone number that is none, or has no country code: set reading.phone_region",
                    ),
                    None => {}
                }
            }
        }
    }

    fn addresses(&self, item: &Item, contact: &mut Contact) {
        let of_place = item
            .items(&["location"])
            .flat_map(|place| place.items(&["address"]));
        let locations = item
            .items(&["location"])
            .filter(|place| place.is_a(&["PostalAddress"]));
        let own = item
            .text(&["streetAddress", "addressLocality", "postalCode"])
            .map(|_| item);
        let parts = own
            .into_iter()
            .chain(item.items(&["address"]))
            .chain(of_place)
            .chain(locations);
        for part in parts {
            let lines = part
                .texts(&["streetAddress"])
                .flat_map(|text| text.text.lines())
                .map(squeezed)
                .chain(
                    part.texts(&["postOfficeBoxNumber"])
                        .map(|text| squeezed(&text.text)),
                )
                .filter(|line| !line.is_empty() && line.len() <= MAX_TEXT)
                .take(8);
            let one = |names: &[&str]| self.plain(part, names).map(|find| find.value).unwrap_or_default();
            let country = part.text(&["addressCountry"]).map(|text| text.text.clone());
            let country = country.or_else(|| {
                part.items(&["addressCountry"])
                    .find_map(|c| c.text(&["name", "identifier"]).map(|t| t.text.clone()))
            });
            let address = PostalAddress {
                lines: lines.collect(),
                city: one(&["addressLocality"]),
                region: one(&["addressRegion"]),
                postal_code: one(&["postalCode"]),
                country: country.and_then(|text| value::country(&text)).unwrap_or_default(),
            };
            if !address.is_empty() && !contact.addresses.iter().any(|known| known.value == address) {
                contact.addresses.push(Find {
                    value: address,
                    confidence: self.confidence,
                    syntax: self.syntax,
                    place: part.place.clone(),
                });
            }
        }
        for text in item.texts(&["address"]) {
            // An address in one piece is a line; only its country may be read for sure, when nothing else is in it.
            let line = squeezed(&text.text);
            if line.len() <= MAX_TEXT && line.len() > 4 && text.link.is_none() {
                let address = PostalAddress {
                    lines: vec![line],
                    ..PostalAddress::default()
                };
                contact.addresses.push(Find {
                    value: address,
                    confidence: self.confidence * 0.8,
                    syntax: self.syntax,
                    place: text.place.clone(),
                });
            }
        }
    }

    fn name(&self, item: &Item) -> Option<Find<String>> {
        self.plain(item, &["name"])
            .or_else(|| self.plain(item, &["legalName"]))
            .or_else(|| {
                let parts = [
                    self.plain(item, &["givenName"]),
                    self.plain(item, &["additionalName"]),
                    self.plain(item, &["familyName"]),
                ];
                let whole: Vec<String> = parts.into_iter().flatten().map(|find| find.value).collect();
                (!whole.is_empty()).then(|| self.find(&whole.join(" "), &item.place))
            })
            .or_else(|| self.plain(item, &["alternateName"]))
    }

    fn organization(&self, item: &Item) -> Option<Find<String>> {
        let named = item.items(ORGANIZATION).find_map(|org| self.name(org));
        named.or_else(|| {
            self.plain(item, ORGANIZATION)
                .filter(|find| !find.value.contains("://"))
        })
    }

    fn plain(&self, item: &Item, names: &[&str]) -> Option<Find<String>> {
        let text = item
            .texts(names)
            .find(|text| (1..=MAX_TEXT).contains(&squeezed(&text.text).len()))?;
        Some(self.find(&squeezed(&text.text), &text.place))
    }

    fn find(&self, value: &str, place: &str) -> Find<String> {
        Find {
            value: value.to_owned(),
            confidence: self.confidence,
            syntax: self.syntax,
            place: place.to_owned(),
        }
    }

    fn problem(&mut self, text: &Text, reason: &'static str) {
        if self.problems.len() < 100 {
            self.problems.push(Problem {
                place: text.place.clone(),
                reason,
            });
        }
    }
}

fn is_address(link: &str) -> bool {
    link.trim()
        .get(..7)
        .is_some_and(|scheme| scheme.eq_ignore_ascii_case("mailto:"))
}

fn squeezed(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
