use crm_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::assemble::Reading;
use crate::target::Target;

/// Where one column goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ColumnMapping {
    /// The column's name in the header; blanks around it do not count, nor does case when only one column fits.
    pub column: String,
    /// What it says.
    pub target: Target,
}

/// Which column (of JSON: which path) says what. A column may go to several targets; columns that are not named are not
/// read. In JSON Lines a path has dots between its keys (`address.city`), `\.` for a dot within a key, a number for an
/// item of a list (`emails.0`); a list without a number stands for each of its items.
///
/// ```
/// use crm_crawl::Target;
/// use crm_crawl::file::Mapping;
///
/// let mapping = Mapping::new().column("Mail", Target::Email);
/// let json = r#"[{"column": "Mail", "target": "email"}]"#;
/// assert_eq!(serde_json::from_str::<Mapping>(json).unwrap(), mapping);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Mapping {
    columns: Vec<ColumnMapping>,
}

/// Usual names of columns, in lower case with every run of other characters as one `_`.
const USUAL: &[(&str, Target)] = &[
    ("name", Target::Name),
    ("full_name", Target::Name),
    ("fullname", Target::Name),
    ("customer_name", Target::Name),
    ("display_name", Target::Name),
    ("given", Target::Given),
    ("given_name", Target::Given),
    ("givenname", Target::Given),
    ("first_name", Target::Given),
    ("firstname", Target::Given),
    ("forename", Target::Given),
    ("family", Target::Family),
    ("family_name", Target::Family),
    ("familyname", Target::Family),
    ("last_name", Target::Family),
    ("lastname", Target::Family),
    ("surname", Target::Family),
    ("email", Target::Email),
    ("e_mail", Target::Email),
    ("mail", Target::Email),
    ("email_address", Target::Email),
    ("e_mail_address", Target::Email),
    ("phone", Target::Phone),
    ("phone_number", Target::Phone),
    ("telephone", Target::Phone),
    ("tel", Target::Phone),
    ("mobile", Target::Phone),
    ("mobile_phone", Target::Phone),
    ("cell", Target::Phone),
    ("street", Target::Street),
    ("street_address", Target::Street),
    ("address", Target::Street),
    ("address_1", Target::Street),
    ("address1", Target::Street),
    ("address_line_1", Target::Street),
    ("line1", Target::Street),
    ("address_2", Target::Street),
    ("address2", Target::Street),
    ("address_line_2", Target::Street),
    ("line2", Target::Street),
    ("city", Target::City),
    ("town", Target::City),
    ("suburb", Target::City),
    ("region", Target::Region),
    ("state", Target::Region),
    ("province", Target::Region),
    ("postal_code", Target::PostalCode),
    ("postcode", Target::PostalCode),
    ("zip", Target::PostalCode),
    ("zip_code", Target::PostalCode),
    ("country", Target::Country),
    ("country_code", Target::Country),
    ("tag", Target::Tag),
    ("tags", Target::Tags),
    ("labels", Target::Tags),
    ("emails", Target::Email),
    ("phones", Target::Phone),
    ("phone_numbers", Target::Phone),
    ("mobile_number", Target::Phone),
    ("order_id", Target::OrderId),
    ("order_date", Target::OrderDate),
    ("order_amount", Target::OrderAmount),
    ("order_currency", Target::OrderCurrency),
    ("order_items", Target::OrderItems),
];

/// Usual names of columns that hold the person's id in the system the file comes from.
const USUAL_IDS: &[&str] = &[
    "id",
    "external_id",
    "customer_id",
    "customer_no",
    "customer_number",
    "rec_id",
];

impl Mapping {
    /// No column yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a column.
    #[must_use]
    pub fn column(mut self, column: impl Into<String>, target: Target) -> Self {
        self.columns.push(ColumnMapping {
            column: column.into(),
            target,
        });
        self
    }

    /// The columns.
    pub fn columns(&self) -> &[ColumnMapping] {
        &self.columns
    }

    /// Recognises usual English column names: `email`, `E-Mail`, `First name`, `postcode`, `order_id`, `email (2)`, and
    /// the names targets are written with: `external:shop`, `attribute:visits:int`. A column `id`, `external_id` or
    /// `customer_id` becomes the external id in the system `source`. Other columns are left out.
    ///
    /// ```
    /// use crm_crawl::file::Mapping;
    /// let mapping = Mapping::recognise(&["E-Mail", "First Name", "Shoe size"], "shop");
    /// assert_eq!(mapping.columns().len(), 2);
    /// ```
    pub fn recognise<S: AsRef<str>>(header: &[S], source: &str) -> Self {
        let mut mapping = Self::new();
        for column in header {
            if let Some(target) = recognise(column.as_ref(), source) {
                mapping = mapping.column(column.as_ref(), target);
            }
        }
        mapping
    }

    /// Checks what can be checked without the file.
    pub(crate) fn validate(&self, reading: &Reading) -> Result<()> {
        for mapped in &self.columns {
            mapped
                .target
                .validate()
                .map_err(|error| error.with("column", &mapped.column))?;
        }
        let has = |wanted: &Target| self.columns.iter().any(|mapped| mapped.target == *wanted);
        if !self.columns.iter().any(|mapped| mapped.target.identifies()) {
            return Err(Error::config(
                "no column says who the person is; map one to email, phone or external:<system>",
            )
            .with("setting", "mapping"));
        }
        if self.columns.iter().any(|mapped| mapped.target.is_order()) {
            for needed in [Target::OrderId, Target::OrderDate, Target::OrderAmount] {
                if !has(&needed) {
                    return Err(Error::config(
                        "orders need a column each for order.id, order.date and order.amount",
                    )
                    .with("setting", "mapping")
                    .with("missing", needed));
                }
            }
            if reading.currency.is_none() && !has(&Target::OrderCurrency) {
                return Err(Error::config(
                    "amounts have no currency; map a column to order.currency or set currency",
                )
                .with("setting", "currency"));
            }
        }
        Ok(())
    }

    /// The position of every mapped column in the header.
    pub(crate) fn locate(&self, header: &[String]) -> Result<Vec<(usize, Target)>> {
        let mut located = Vec::with_capacity(self.columns.len());
        for mapped in &self.columns {
            let wanted = mapped.column.trim();
            let at = |fits: &dyn Fn(&str) -> bool| -> Vec<usize> {
                header
                    .iter()
                    .enumerate()
                    .filter(|(_, name)| fits(name))
                    .map(|(i, _)| i)
                    .collect()
            };
            let mut found = at(&|name| name == wanted);
            if found.is_empty() {
                found = at(&|name| name.to_lowercase() == wanted.to_lowercase());
            }
            let wrong = |message: &'static str| {
                Error::config(message)
                    .with("setting", "mapping")
                    .with("column", wanted)
                    .with("columns", header.join(", "))
            };
            match found.as_slice() {
                [one] => located.push((*one, mapped.target.clone())),
                [] => return Err(wrong("the file has no such column")),
                _ => return Err(wrong("the file has several columns of this name; rename them")),
            }
        }
        Ok(located)
    }
}

/// What a column of this name usually says; the id in the system `source` for the usual names of ids.
pub(crate) fn recognise(column: &str, source: &str) -> Option<Target> {
    let column = column.trim();
    // `email (2)`: the second of its kind.
    let column = match column.strip_suffix(')').and_then(|rest| rest.rsplit_once(" (")) {
        Some((name, number)) if !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => column,
    };
    if column.contains(':')
        && let Ok(target) = column.parse()
    {
        return Some(target);
    }
    let words: Vec<String> = column
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect();
    let key = words.join("_");
    if USUAL_IDS.contains(&key.as_str()) {
        return Some(Target::External(source.to_owned()));
    }
    USUAL
        .iter()
        .find(|(name, _)| *name == key)
        .map(|(_, target)| target.clone())
}
