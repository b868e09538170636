//! What JSON-LD, microdata and RDFa have in common: things with types and properties.

/// A thing.
#[derive(Debug, Default, Clone)]
pub(super) struct Item {
    /// Local names: `Person` for `https://schema.org/Person`.
    pub(super) types: Vec<String>,
    pub(super) properties: Vec<(String, Property)>,
    pub(super) place: String,
}

#[derive(Debug, Clone)]
pub(super) enum Property {
    Text(Text),
    Item(Item),
}

#[derive(Debug, Default, Clone)]
pub(super) struct Text {
    pub(super) text: String,
    /// Where it links to, when it is a link.
    pub(super) link: Option<String>,
    pub(super) place: String,
}

impl Item {
    pub(super) fn is_a(&self, names: &[&str]) -> bool {
        self.types.iter().any(|own| names.contains(&own.as_str()))
    }

    pub(super) fn all<'a>(&'a self, names: &'a [&str]) -> impl Iterator<Item = &'a Property> {
        self.properties
            .iter()
            .filter(move |(name, _)| names.contains(&name.as_str()))
            .map(|(_, property)| property)
    }

    pub(super) fn texts<'a>(&'a self, names: &'a [&str]) -> impl Iterator<Item = &'a Text> {
        self.all(names).filter_map(|property| match property {
            Property::Text(text) => Some(text),
            Property::Item(_) => None,
        })
    }

    /// The first text that says something.
    pub(super) fn text<'a>(&'a self, names: &'a [&str]) -> Option<&'a Text> {
        self.texts(names).find(|text| !text.text.trim().is_empty())
    }

    pub(super) fn items<'a>(&'a self, names: &'a [&str]) -> impl Iterator<Item = &'a Item> {
        self.all(names).filter_map(|property| match property {
            Property::Item(item) => Some(item),
            Property::Text(_) => None,
        })
    }
}

/// The local name of a schema.org term: `https://schema.org/Person`, `schema:Person`, `Person`. `None` when it is of another
/// vocabulary, unless `bare` says that names without a prefix are schema.org's.
pub(super) fn schema_name(term: &str, bare: bool) -> Option<&str> {
    let term = term.trim();
    if let Some((before, name)) = term.rsplit_once(['/', '#']) {
        let host = before.split_once("//").map_or(before, |(_, host)| host);
        let host = host.strip_prefix("www.").unwrap_or(host);
        return (host.eq_ignore_ascii_case("schema.org") && !name.is_empty()).then_some(name);
    }
    match term.split_once(':') {
        Some((prefix, name)) => matches!(prefix, "schema" | "s" | "sdo").then_some(name),
        None => (bare && !term.is_empty()).then_some(term),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_schema_org() {
        for (term, bare, name) in [
            ("https://schema.org/Person", false, Some("Person")),
            ("http://www.schema.org/Person", false, Some("Person")),
            ("http://schema.org#Person", false, Some("Person")),
            ("schema:email", false, Some("email")),
            ("email", true, Some("email")),
            ("email", false, None),
            ("foaf:name", true, None),
            ("http://xmlns.com/foaf/0.1/Person", true, None),
            ("https://schema.org/", true, None),
            ("http://schema.org.evil.example/Person", true, None),
        ] {
            assert_eq!(schema_name(term, bare), name, "{term}");
        }
    }
}
