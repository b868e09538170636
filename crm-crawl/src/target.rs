//! What a column or a piece of a page says about a person.

use std::fmt;
use std::str::FromStr;

use crm_core::customer::Attributes;
use crm_core::{Error, Result};
use serde::{Deserialize, Serialize};

/// How an attribute's text is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AttributeType {
    /// As it stands.
    Text,
    /// A whole number.
    Int,
    /// A number with a decimal point.
    Float,
    /// `true`, `yes`, `y`, `1` or `false`, `no`, `n`, `0`.
    Bool,
    /// A day or a time in one of the date formats; kept as RFC 3339 in UTC, a day alone as `YYYY-MM-DD`.
    Date,
    /// A JSON document: lists, objects, or text whose blanks at the ends count.
    Json,
}

impl AttributeType {
    fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Int => "int",
            Self::Float => "float",
            Self::Bool => "bool",
            Self::Date => "date",
            Self::Json => "json",
        }
    }
}

/// What a column of a file, or a piece of a page, says about a person. Written as text:
/// `name`, `given`, `family`, `email`, `phone`, `external:<system>`, `street`, `city`, `region`, `postal_code`,
/// `country`, `tag`, `tags`, `attribute:<name>`, `attribute:<name>:<text|int|float|bool|date|json>`, `order.id`, `order.date`,
/// `order.amount`, `order.currency`, `order.items`.
///
/// ```
/// use crm_crawl::Target;
///
/// assert_eq!("external:shop".parse::<Target>().unwrap(), Target::External("shop".into()));
/// assert_eq!("attribute:born:date".parse::<Target>().unwrap().to_string(), "attribute:born:date");
/// assert!("e-mail".parse::<Target>().unwrap_err().to_string().contains("known=name, given"));
/// ```
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Target {
    /// The whole name.
    Name,
    /// Given name(s).
    Given,
    /// Family name(s).
    Family,
    /// An e-mail address.
    Email,
    /// A phone number.
    Phone,
    /// The id in another system.
    External(String),
    /// A street line; several make several lines.
    Street,
    /// The city.
    City,
    /// The state, province or region.
    Region,
    /// The postal code.
    PostalCode,
    /// The country, ISO 3166-1 alpha-2.
    Country,
    /// A label.
    Tag,
    /// Labels with `;` between them; `\;` is a `;` within a label, `\\` a `\`.
    Tags,
    /// Anything else.
    Attribute(String, AttributeType),
    /// An order's id at the source.
    OrderId,
    /// When it was made.
    OrderDate,
    /// What was paid.
    OrderAmount,
    /// In which currency, ISO 4217.
    OrderCurrency,
    /// How many things were bought.
    OrderItems,
}

const PLAIN: [(&str, Target); 17] = [
    ("name", Target::Name),
    ("given", Target::Given),
    ("family", Target::Family),
    ("email", Target::Email),
    ("phone", Target::Phone),
    ("street", Target::Street),
    ("city", Target::City),
    ("region", Target::Region),
    ("postal_code", Target::PostalCode),
    ("country", Target::Country),
    ("tag", Target::Tag),
    ("tags", Target::Tags),
    ("order.id", Target::OrderId),
    ("order.date", Target::OrderDate),
    ("order.amount", Target::OrderAmount),
    ("order.currency", Target::OrderCurrency),
    ("order.items", Target::OrderItems),
];

impl Target {
    /// An attribute kept as text.
    pub fn attribute(name: impl Into<String>) -> Self {
        Self::Attribute(name.into(), AttributeType::Text)
    }

    pub(crate) fn is_order(&self) -> bool {
        matches!(
            self,
            Self::OrderId | Self::OrderDate | Self::OrderAmount | Self::OrderCurrency | Self::OrderItems
        )
    }

    /// Whether a person can be recognised by it.
    pub(crate) fn identifies(&self) -> bool {
        matches!(self, Self::Email | Self::Phone | Self::External(_))
    }

    pub(crate) fn validate(&self) -> Result<()> {
        match self {
            Self::External(system) if system.trim().is_empty() || system.len() > 255 => Err(Error::config(
                "external:<system> names the other system with 1 to 255 characters",
            )
            .with("target", self)),
            Self::Attribute(name, _) => Attributes::default().set(name, true).map_err(|error| {
                Error::config("an attribute is named with 1 to 64 of a-z, 0-9 and _, a letter first")
                    .with("target", self)
                    .source(error)
            }),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::External(system) => write!(f, "external:{system}"),
            Self::Attribute(name, AttributeType::Text) => write!(f, "attribute:{name}"),
            Self::Attribute(name, kind) => write!(f, "attribute:{name}:{}", kind.as_str()),
            plain => f.write_str(
                PLAIN
                    .iter()
                    .find(|(_, target)| target == plain)
                    .map_or("", |(name, _)| name),
            ),
        }
    }
}

impl FromStr for Target {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if let Some((_, target)) = PLAIN.iter().find(|(name, _)| *name == text) {
            return Ok(target.clone());
        }
        let unknown = || {
            let names: Vec<&str> = PLAIN.iter().map(|(name, _)| *name).collect();
            Error::config("a column or field cannot go there")
                .with("target", text)
                .with(
                    "known",
                    format!("{}, external:<system>, attribute:<name>:<type>", names.join(", ")),
                )
        };
        let target = match text.split_once(':') {
            Some(("external", system)) => Self::External(system.to_owned()),
            Some(("attribute", rest)) => match rest.split_once(':') {
                None => Self::attribute(rest),
                Some((name, kind)) => {
                    let kinds = [
                        AttributeType::Text,
                        AttributeType::Int,
                        AttributeType::Float,
                        AttributeType::Bool,
                        AttributeType::Date,
                        AttributeType::Json,
                    ];
                    let kind = kinds
                        .into_iter()
                        .find(|k| k.as_str() == kind)
                        .ok_or_else(unknown)?;
                    Self::Attribute(name.to_owned(), kind)
                }
            },
            _ => return Err(unknown()),
        };
        target.validate()?;
        Ok(target)
    }
}

impl TryFrom<String> for Target {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Target> for String {
    fn from(target: Target) -> Self {
        target.to_string()
    }
}
