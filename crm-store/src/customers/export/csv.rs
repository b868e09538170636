//! Customers as rows, under headings that are read back as they were written: `email`, `email (2)`, `external:shop`,
//! `attribute:visits:int`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, Write};

use crm_core::customer::{ContactKind, Customer};
use crm_core::record::FieldType;
use crm_core::{Column, Result, Table, cell};
use serde_json::Value as Json;

/// Writes one line of delimited text (RFC 4180).
pub(in super::super) fn line<'a>(
    into: &mut (dyn Write + '_),
    cells: impl IntoIterator<Item = &'a str>,
    delimiter: u8,
) -> io::Result<()> {
    let special = |byte: u8| byte == delimiter || matches!(byte, b'"' | b'\r' | b'\n');
    for (i, text) in cells.into_iter().enumerate() {
        if i > 0 {
            into.write_all(&[delimiter])?;
        }
        // Blanks at the ends are kept by quotes in every reader.
        if text.bytes().any(special) || text.starts_with([' ', '\t']) || text.ends_with([' ', '\t']) {
            into.write_all(b"\"")?;
            into.write_all(text.replace('"', "\"\"").as_bytes())?;
            into.write_all(b"\"")?;
        } else {
            into.write_all(text.as_bytes())?;
        }
    }
    into.write_all(b"\r\n")
}

/// How an attribute is written, so that its type comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Int,
    Float,
    Bool,
    Json,
}

impl Kind {
    fn of(value: &Json) -> Self {
        match value {
            Json::Bool(_) => Self::Bool,
            Json::Number(n) if n.is_i64() => Self::Int,
            Json::Number(n) if n.is_f64() => Self::Float,
            // What reading would trim, or take for nothing, or make another line end of.
            Json::String(text) if text.trim() == text && !text.is_empty() && !text.contains('\r') => {
                Self::Text
            }
            _ => Self::Json,
        }
    }

    fn suffix(self) -> &'static str {
        match self {
            Self::Text => "",
            Self::Int => ":int",
            Self::Float => ":float",
            Self::Bool => ":bool",
            Self::Json => ":json",
        }
    }
}

/// Which columns there are, learnt from the customers.
#[derive(Debug, Default)]
pub(super) struct Columns {
    emails: usize,
    phones: usize,
    streets: usize,
    /// How many references in a system one customer has at most.
    systems: BTreeMap<String, usize>,
    attributes: BTreeMap<String, Kind>,
}

const FIRST: [&str; 4] = ["crm_id", "given", "family", "name"];
const PLACE: [&str; 4] = ["city", "region", "postal_code", "country"];

impl Columns {
    pub(super) fn learn(&mut self, customer: &Customer) {
        let of = |kind| {
            customer
                .contact_points
                .iter()
                .filter(|point| point.kind() == kind)
                .count()
        };
        self.emails = self.emails.max(of(ContactKind::Email));
        self.phones = self.phones.max(of(ContactKind::Phone));
        let lines = customer.addresses.first().map_or(0, |home| home.lines.len());
        self.streets = self.streets.max(lines);
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for reference in &customer.external_refs {
            *counts.entry(&reference.system).or_default() += 1;
        }
        for (system, count) in counts {
            let most = self.systems.entry(system.to_owned()).or_default();
            *most = count.max(*most);
        }
        for (name, value) in customer.attributes.iter() {
            let kind = Kind::of(value);
            self.attributes
                .entry(name.to_owned())
                .and_modify(|known| {
                    if *known != kind {
                        *known = Kind::Json;
                    }
                })
                .or_insert(kind);
        }
    }

    pub(super) fn head(&self, into: &mut Vec<u8>, delimiter: u8) -> io::Result<()> {
        let names = self.names();
        line(into, names.iter().map(String::as_str), delimiter)
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = FIRST.map(str::to_owned).to_vec();
        let mut several = |name: &str, count: usize| {
            for i in 1..=count {
                names.push(if i == 1 {
                    name.to_owned()
                } else {
                    format!("{name} ({i})")
                });
            }
        };
        several("email", self.emails.max(1));
        several("phone", self.phones.max(1));
        several("street", self.streets.max(1));
        PLACE.into_iter().for_each(|name| several(name, 1));
        several("tags", 1);
        for (system, count) in &self.systems {
            several(&format!("external:{system}"), *count);
        }
        for (name, kind) in &self.attributes {
            several(&format!("attribute:{name}{}", kind.suffix()), 1);
        }
        names
    }

    pub(super) fn row(&self, into: &mut Vec<u8>, customer: &Customer, delimiter: u8) -> io::Result<()> {
        let cells = self.cells(customer);
        let guarded: Vec<Cow<'_, str>> = cells.iter().map(|text| cell::guard(text)).collect();
        line(into, guarded.iter().map(AsRef::as_ref), delimiter)
    }

    /// The rows of some customers as columns: text, but for attributes that are whole numbers, numbers or true and false
    /// wherever they are there. Nothing is guarded: a table is no spreadsheet. What is empty is absent.
    pub(super) fn table(&self, customers: &[Customer]) -> Result<Table> {
        let names = self.names();
        let attributes = names.len() - self.attributes.len();
        let mut table = Table::default();
        let rows: Vec<Vec<Cow<'_, str>>> = customers.iter().map(|customer| self.cells(customer)).collect();
        for (at, name) in names.iter().take(attributes).enumerate() {
            let mut column = Column::text(name.as_str());
            for row in &rows {
                column.push_text(row.get(at).map(AsRef::as_ref).filter(|text| !text.is_empty()));
            }
            table.push(column)?;
        }
        for ((at, name), (key, kind)) in names.iter().enumerate().skip(attributes).zip(&self.attributes) {
            let ty = match kind {
                Kind::Int => FieldType::Int,
                Kind::Float => FieldType::Float,
                Kind::Bool => FieldType::Bool,
                Kind::Text | Kind::Json => FieldType::Text,
            };
            let mut column = Column::empty(name.as_str(), ty)?;
            for (customer, row) in customers.iter().zip(&rows) {
                let json = customer.attributes.get(key);
                let value = match kind {
                    Kind::Int => json.and_then(Json::as_i64).into(),
                    Kind::Float => json.and_then(Json::as_f64).into(),
                    Kind::Bool => json.and_then(Json::as_bool).into(),
                    Kind::Text | Kind::Json => {
                        let text = row.get(at).map(AsRef::as_ref);
                        text.filter(|text: &&str| !text.is_empty())
                            .map(str::to_owned)
                            .into()
                    }
                };
                column.push(value)?;
            }
            table.push(column)?;
        }
        Ok(table)
    }

    fn cells<'c>(&self, customer: &'c Customer) -> Vec<Cow<'c, str>> {
        let mut cells: Vec<Cow<'c, str>> = vec![
            customer.id.to_string().into(),
            customer.name.given.as_str().into(),
            customer.name.family.as_str().into(),
            customer.name.display.as_str().into(),
        ];
        for (kind, count) in [
            (ContactKind::Email, self.emails),
            (ContactKind::Phone, self.phones),
        ] {
            let mut points: Vec<_> = customer
                .contact_points
                .iter()
                .filter(|point| point.kind() == kind)
                .collect();
            // The primary one comes first, and is the primary one again when read back.
            points.sort_by_key(|point| !point.primary);
            several(&mut cells, points.iter().map(|point| point.value()), count.max(1));
        }
        let home = customer.addresses.first();
        let streets = home.map_or(&[][..], |home| &home.lines);
        several(
            &mut cells,
            streets.iter().map(String::as_str),
            self.streets.max(1),
        );
        for part in [
            home.map(|home| home.city.as_str()),
            home.map(|home| home.region.as_str()),
            home.map(|home| home.postal_code.as_str()),
            home.map(|home| home.country.as_str()),
        ] {
            cells.push(part.unwrap_or_default().into());
        }
        cells.push(tags(&customer.tags).into());
        for (system, count) in &self.systems {
            let ids = customer
                .external_refs
                .iter()
                .filter(|reference| reference.system == *system);
            several(&mut cells, ids.map(|reference| reference.id.as_str()), *count);
        }
        for (name, kind) in &self.attributes {
            cells.push(match (customer.attributes.get(name), kind) {
                (None, _) => "".into(),
                (Some(Json::String(text)), Kind::Text) => text.as_str().into(),
                (Some(value), _) => value.to_string().into(),
            });
        }
        cells
    }
}

/// As many cells as there are columns.
fn several<'a>(cells: &mut Vec<Cow<'a, str>>, values: impl Iterator<Item = &'a str>, columns: usize) {
    let end = cells.len() + columns;
    cells.extend(values.take(columns).map(Cow::Borrowed));
    cells.resize(end, Cow::Borrowed(""));
}

/// Labels in one cell, with `;` between them; `\` before a `;` or `\` that belongs to a label.
fn tags(tags: &[String]) -> String {
    let escaped: Vec<String> = tags
        .iter()
        .map(|tag| tag.replace('\\', "\\\\").replace(';', "\\;"))
        .collect();
    escaped.join(";")
}
