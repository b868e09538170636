use crm_core::{Error, Result};

/// The variables a template may name besides `attributes.<name>`.
pub(crate) const VARIABLES: [&str; 8] = [
    "given_name",
    "family_name",
    "name",
    "city",
    "region",
    "country",
    "email",
    "customer_id",
];

/// Subject, text and HTML with variables: `{{given_name}}`, `{{attributes.plan}}`, and with a default for those of whom
/// it is not known `{{given_name|there}}`. Values are escaped in HTML. There are no conditions and no loops.
///
/// ```
/// use crm_channels::Template;
///
/// let template = Template::new("Hello {{given_name|there}}", "Your city: {{city}}").unwrap();
/// assert_eq!(template.variables(), ["city", "given_name"]);
/// assert!(Template::new("Hello {{given_nmae}}", "").unwrap_err().to_string().contains("variable=given_nmae"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    subject: Text,
    text: Text,
    html: Option<Text>,
}

impl Template {
    /// A template with a text part.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Invalid`] naming the part and the variable that is not known or not closed.
    pub fn new(subject: &str, text: &str) -> Result<Self> {
        Ok(Self {
            subject: Text::parse("subject", subject)?,
            text: Text::parse("text", text)?,
            html: None,
        })
    }

    /// Adds an HTML part.
    ///
    /// # Errors
    /// As [`Template::new`].
    pub fn html(mut self, html: &str) -> Result<Self> {
        self.html = Some(Text::parse("html", html)?);
        Ok(self)
    }

    /// The variables it names, sorted.
    pub fn variables(&self) -> Vec<&str> {
        let mut all: Vec<&str> = [Some(&self.subject), Some(&self.text), self.html.as_ref()]
            .into_iter()
            .flatten()
            .flat_map(Text::variables)
            .collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Subject, text and HTML for one person.
    pub(crate) fn render(&self, value: &dyn Fn(&str) -> Option<String>) -> Rendered {
        Ok((
            self.subject.render(value, false)?,
            self.text.render(value, false)?,
            self.html
                .as_ref()
                .map(|html| html.render(value, true))
                .transpose()?,
        ))
    }
}

/// Subject, text and HTML; or the name of the variable that has no value.
pub(crate) type Rendered = Result<(String, String, Option<String>), String>;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    Variable { name: String, default: Option<String> },
}

/// A text with variables, taken apart once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Text(Vec<Part>);

impl Text {
    pub(crate) fn parse(field: &'static str, text: &str) -> Result<Self> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            if !before.is_empty() {
                parts.push(Part::Literal(before.to_owned()));
            }
            let Some((inside, after)) = after.split_once("}}") else {
                return Err(
                    Error::invalid("a variable is opened with {{ and never closed with }}")
                        .with("field", field),
                );
            };
            let (name, default) = match inside.split_once('|') {
                Some((name, default)) => (name.trim(), Some(default.trim().to_owned())),
                None => (inside.trim(), None),
            };
            let attribute = name.strip_prefix("attributes.").is_some_and(|attribute| {
                !attribute.is_empty()
                    && attribute
                        .bytes()
                        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
            });
            if !attribute && !VARIABLES.contains(&name) {
                return Err(Error::invalid("a template names a variable that is not known")
                    .with("field", field)
                    .with("variable", name)
                    .with("known", format!("{}, attributes.<name>", VARIABLES.join(", "))));
            }
            parts.push(Part::Variable {
                name: name.to_owned(),
                default,
            });
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Literal(rest.to_owned()));
        }
        Ok(Self(parts))
    }

    fn variables(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Variable { name, .. } => Some(name.as_str()),
            Part::Literal(_) => None,
        })
    }

    pub(crate) fn render(
        &self,
        value: &dyn Fn(&str) -> Option<String>,
        html: bool,
    ) -> Result<String, String> {
        let mut out = String::new();
        for part in &self.0 {
            match part {
                Part::Literal(text) => out.push_str(text),
                Part::Variable { name, default } => {
                    let found = value(name)
                        .filter(|v| !v.trim().is_empty())
                        .or_else(|| default.clone());
                    let found = found.ok_or_else(|| name.clone())?;
                    if html {
                        escape(&found, &mut out)
                    } else {
                        out.push_str(&found)
                    }
                }
            }
        }
        Ok(out)
    }
}

fn escape(text: &str, out: &mut String) {
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(name: &str) -> Option<String> {
        match name {
            "given_name" => Some("<Ana> & \"Co\"".into()),
            "attributes.plan" => Some("{{city}}".into()),
            "city" => Some(" ".into()),
            _ => None,
        }
    }

    #[test]
    fn values_are_put_in_once_and_escaped_in_html() {
        let template = Template::new("a {{ given_name }}", "{{attributes.plan}}")
            .unwrap()
            .html("<p>{{given_name}}</p>")
            .unwrap();
        let (subject, text, html) = template.render(&value).unwrap();
        assert_eq!(subject, "a <Ana> & \"Co\"");
        assert_eq!(text, "{{city}}", "what a value holds is not a template");
        assert_eq!(html.unwrap(), "<p>&lt;Ana&gt; &amp; &quot;Co&quot;</p>");
    }

    #[test]
    fn what_is_not_known_is_named() {
        assert_eq!(
            Template::new("{{city}}", "").unwrap().render(&value).unwrap_err(),
            "city",
            "blank is missing"
        );
        assert_eq!(
            Template::new("{{city|home}}", "")
                .unwrap()
                .render(&value)
                .unwrap()
                .0,
            "home"
        );
        for wrong in [
            "{{",
            "{{given_name",
            "{{}}",
            "{{Given}}",
            "{{attributes.}}",
            "{{attributes.A b}}",
        ] {
            assert_eq!(
                Template::new("", wrong).unwrap_err().context("field"),
                Some("text"),
                "{wrong}"
            );
        }
    }
}
