use serde::{Deserialize, Serialize};
use url::Url;

use super::{Document, Page};
use crate::assemble::{Reading, Reason};

/// One step of cleaning a field's text. Blanks at its ends go in any case.
///
/// ```
/// use crm_crawl::spider::Clean;
///
/// let steps: Vec<Clean> = serde_json::from_str(r#"["strip_tags", "collapse", "lower"]"#).unwrap();
/// assert_eq!(steps, [Clean::StripTags, Clean::Collapse, Clean::Lower]);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Clean {
    /// Blanks at the ends are taken away (before the steps that follow).
    Trim,
    /// Every run of blanks, no-break ones too, becomes one blank.
    Collapse,
    /// Lower case.
    Lower,
    /// Upper case.
    Upper,
    /// Markup becomes its text: `<b>A&amp;B</b>` is `A&B`.
    StripTags,
    /// A link becomes an absolute http or https URL, by the page's address and base.
    AbsoluteUrl,
    /// The first number in it, with a point and without separators between thousands: `1.234,50 EUR` is `1234.50` where
    /// `reading.decimal_comma` is set.
    Number,
    /// A day or time in one of `reading.date_formats`, as `YYYY-MM-DD` or RFC 3339 in UTC.
    Date,
}

impl Clean {
    pub(super) fn apply(self, text: &str, reading: &Reading, page: &Page) -> Result<String, Reason> {
        let squeezed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        Ok(match self {
            Self::Trim => text.trim().to_owned(),
            Self::Collapse => squeezed(text),
            Self::Lower => text.to_lowercase(),
            Self::Upper => text.to_uppercase(),
            Self::StripTags => Document::parse(text)
                .map_err(|_| "markup that is nested too deep")?
                .root()
                .text(),
            Self::AbsoluteUrl => page
                .link(text)
                .map(|url: Url| url.to_string())
                .ok_or("not a link to an http or https URL")?,
            Self::Number => number(text, reading.decimal_comma).ok_or("there is no number in it")?,
            Self::Date => reading
                .day_or_time(text.trim())
                .ok_or("not a day or time in any of the date formats")?,
        })
    }
}

/// The first number of a text.
fn number(text: &str, decimal_comma: bool) -> Option<String> {
    let (point, comma) = if decimal_comma { (',', '.') } else { ('.', ',') };
    let start = text.find(|c: char| c.is_ascii_digit())?;
    let before = text.get(..start)?.trim_end_matches([' ', '\u{a0}']);
    let fraction_only = before.ends_with(point)
        && !before
            .trim_end_matches(point)
            .ends_with(|c: char| c.is_alphanumeric());
    let sign = before.trim_end_matches(point).ends_with(['-', '\u{2212}']);
    let mut out = String::from(if sign { "-" } else { "" });
    if fraction_only {
        out.push_str("0.");
    }
    let mut seen_point = fraction_only;
    let mut rest = text.get(start..)?.chars().peekable();
    while let Some(c) = rest.next() {
        let digit_follows = rest.peek().is_some_and(char::is_ascii_digit);
        if c.is_ascii_digit() {
            out.push(c);
        } else if c == point && digit_follows && !seen_point {
            seen_point = true;
            out.push('.');
        } else if !seen_point
            && digit_follows
            && (c == comma || matches!(c, '\'' | '\u{2019}' | ' ' | '\u{a0}' | '\u{202f}' | '\u{2009}'))
        {
            // A separator has three digits after it; anything else ends the number.
            let three = rest.clone().take(3).filter(char::is_ascii_digit).count() == 3
                && !rest.clone().nth(3).is_some_and(|c| c.is_ascii_digit());
            if !three {
                break;
            }
        } else {
            break;
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_texts() {
        for (text, comma, wanted) in [
            ("42", false, Some("42")),
            ("EUR 1,234.50", false, Some("1234.50")),
            ("1.234,50 €", true, Some("1234.50")),
            ("1'234.50", false, Some("1234.50")),
            ("1 234 567,8", true, Some("1234567.8")),
            ("1\u{a0}234 km", false, Some("1234")),
            ("-3.5 °C", false, Some("-3.5")),
            ("\u{2212}12", false, Some("-12")),
            (".5", false, Some("0.5")),
            ("no. 5", false, Some("5")),
            ("3.2.1", false, Some("3.2")),
            ("10 20", false, Some("10")),
            ("2 rooms, 1,5 baths", true, Some("2")),
            ("call 12345", false, Some("12345")),
            ("1,23", false, Some("1")),
            ("none", false, None),
            ("", false, None),
        ] {
            assert_eq!(number(text, comma).as_deref(), wanted, "{text} {comma}");
        }
    }
}
