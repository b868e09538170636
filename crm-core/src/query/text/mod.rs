//! Filters as people write them: in the address of a request, a saved search, a configuration file.
//!
//! ```
//! use crm_core::customer::CUSTOMER;
//! use crm_core::query::{Filter, Span};
//!
//! let filter = Filter::parse("city = 'Tartu' and updated_at > 90 days ago and count(order) >= 2", &CUSTOMER)?;
//! assert_eq!(filter.to_text(), "city = 'Tartu' and updated_at > 90 days ago and count(order) >= 2");
//!
//! let error = Filter::parse("city = 'Tartu' and age > 5", &CUSTOMER).unwrap_err();
//! assert_eq!(error.context("field"), Some("age"));
//! assert_eq!(error.context("position"), Some("20"));
//! # Ok::<(), crm_core::Error>(())
//! ```
//!
//! | text | meaning |
//! |---|---|
//! | `city = 'Tartu'`, `!=` `<` `<=` `>` `>=` | [`Filter::Is`]; text in single quotes, `''` within stands for one |
//! | `attributes.plan = 'pro'`, `attributes."Zip code" = '10115'` | a path below a JSON field; keys that are not plain in double quotes |
//! | `visits > 3`, `share <= 0.5`, `vip = true`, `hash = x'00ff'` | integers, floats (with a point or an exponent), flags, bytes |
//! | `created_at >= '2026-01-31'`, `... = '2026-01-31T09:00:00Z'` | an instant, where the field is one; UUIDs alike |
//! | `city in ('Tartu', 'Narva')` | [`Filter::In`] |
//! | `given_name starts with 'An'`, `given_name contains 'na'` | [`Filter::Prefix`], [`Filter::Contains`] |
//! | `tags has 'vip'` | [`Filter::Has`] |
//! | `region is absent`, `region is present` | [`Filter::Null`] and its opposite |
//! | `created_at > 90 days ago`, `due_at < 2 weeks ahead` | [`Filter::Ago`]; minutes, hours, days, weeks, months, years |
//! | `segment '018f...'` | [`Filter::InSegment`] |
//! | `count(order) >= 2`, `sum(order.total_minor where currency = 'EUR') > 5`, `min`, `max`, `distinct` | [`Filter::Related`]: what belongs to the record |
//! | `not`, `and`, `or`, `( )`, `all`, `none` | `not` binds closest, then `and`, then `or` |
//!
//! Words may be written in capitals. A field that is called like a word stands in double quotes.

mod lex;
mod parse;
mod print;

use super::{Filter, Relation};
use crate::record::Schema;
use crate::{Error, Result, Timestamp};

/// The longest text that is read, in bytes.
pub const MAX_FILTER_BYTES: usize = 64 << 10;

impl Filter {
    /// Reads a filter over records of `schema`; its fields and types are checked. Empty text is [`Filter::All`].
    /// The table of what can be written stands in the source of this module and in `docs/segments.md`.
    ///
    /// ```
    /// use crm_core::customer::CUSTOMER;
    /// use crm_core::query::Filter;
    ///
    /// let filter = Filter::parse("city in ('Tartu', 'Narva') and not tags has 'test'", &CUSTOMER)?;
    /// assert_eq!(filter, Filter::one_of("city", ["Tartu", "Narva"]).and(!Filter::has("tags", "test")));
    /// # Ok::<(), crm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] that says what was expected and at which `position` (characters from 1); it never repeats a
    /// value.
    pub fn parse(text: &str, schema: &Schema) -> Result<Self> {
        if text.len() > MAX_FILTER_BYTES {
            return Err(
                Error::invalid("the filter is too long; split it into several questions")
                    .with("bytes", text.len())
                    .with("limit", MAX_FILTER_BYTES),
            );
        }
        let filter = parse::parse(text, schema)?;
        // What stores do not know is put into words they do, so that the rest can be checked as they do.
        filter
            .at(Timestamp::EPOCH)
            .expand(&mut |_| Ok(Self::All))?
            .validate(schema)?;
        Ok(filter)
    }

    /// The filter as text that [`Filter::parse`] reads back with the same meaning, in the fewest brackets. It shows the values compared
    /// with: not for logs.
    pub fn to_text(&self) -> String {
        print::text(self)
    }
}

/// The name of what belongs to a record, without the prefix of this workspace's tables: `order`.
fn short(relation: &Relation) -> &'static str {
    let name = relation.schema().name;
    name.strip_prefix("crm_").unwrap_or(name)
}

#[cfg(test)]
mod tests;
