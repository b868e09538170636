//! What a store needs that decides filters on records in its own process: because it keeps them encrypted, or because
//! they come from somewhere that cannot be asked.

use super::eval::Whole;
use super::{Answers, Filter, Related, Scan, decide, text_below};
use crate::record::{Schema, Stored, Value};
use crate::{Result, Table};

/// A filter with the answers to its conditions on related records, ready to be decided on one record after another.
#[derive(Debug)]
pub struct Answered<'f> {
    filter: &'f Filter,
    answers: Answers<'f>,
}

impl Answered<'_> {
    /// Whether a record matches.
    pub fn matches(&self, stored: &Stored) -> bool {
        decide(self.filter, &Whole::new(stored), &self.answers)
    }
}

impl Filter {
    /// The conditions on related records in it, in the order in which [`Filter::answered`] wants their answers.
    pub fn related_conditions(&self) -> Vec<&Related> {
        let mut found = Vec::new();
        let all = self.each_related(&mut |related| {
            found.push(related);
            Ok(())
        });
        debug_assert!(all.is_ok(), "nothing in it can fail");
        found
    }

    /// The filter with the answers to its [`Filter::related_conditions`]: what their [`Related::aggregate`] gave, in the
    /// same order. Without an answer, a condition is decided as for a record that has no related ones.
    ///
    /// ```
    /// use crm_core::Uuid;
    /// use crm_core::query::{Filter, Relation};
    /// use crm_core::record::{Field, FieldType, Record, Schema, Stored};
    /// use crm_core::table::{Column, Table};
    ///
    /// static PERSON: Schema = Schema { name: "person", fields: &[Field::new("n", FieldType::Int)], indexes: &[] };
    /// let record = |id| Stored { id, version: 1, record: Record::new(&PERSON).with("n", 1_i64).unwrap() };
    ///
    /// let twice = Filter::at_least(2, Relation::ORDERS, Filter::All);
    /// let orders = Table::new(vec![
    ///     Column::uuids("customer_id", vec![Uuid::from_u128(1), Uuid::from_u128(2)]),
    ///     Column::ints("measured", vec![1, 5]),
    /// ]).unwrap();
    /// let answered = twice.answered(&[orders]).unwrap();
    /// assert!(!answered.matches(&record(Uuid::from_u128(1))) && answered.matches(&record(Uuid::from_u128(2))));
    /// ```
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] when a table is not the answer to its condition.
    pub fn answered(&self, tables: &[Table]) -> Result<Answered<'_>> {
        let mut tables = tables.iter();
        let mut found = Vec::new();
        self.each_related(&mut |related| {
            if let Some(table) = tables.next() {
                found.push((related, related.answer(table)?));
            }
            Ok(())
        })?;
        Ok(Answered {
            filter: self,
            answers: Answers::given(found),
        })
    }
}

impl Scan {
    /// The columns of these records as [`crate::capability::RecordStore::scan`] hands them out.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] when the schema has no such field; [`crate::ErrorKind::Unsupported`] for bytes.
    pub fn columns_of(&self, schema: &Schema, rows: &[Stored]) -> Result<Table> {
        let mut table = Table::default();
        for field in &self.columns {
            let mut column = self.column(schema, field)?;
            for stored in rows {
                let id;
                let value = if field.field == "id" {
                    id = Value::Uuid(stored.id);
                    &id
                } else {
                    stored.record.get(&field.field).unwrap_or(&Value::Null)
                };
                match (field.path.is_empty(), value) {
                    (true, Value::Json(json)) => {
                        column.push_text((!json.is_null()).then(|| json.to_string()).as_deref());
                    }
                    (true, value) => column.push(value.clone())?,
                    (false, value) => column.push_text(text_below(value, &field.path).as_deref()),
                }
            }
            table.push(column)?;
        }
        Ok(table)
    }
}
