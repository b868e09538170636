//! The records of one schema: rows by id and ordered indexes, with an undo for every change.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use crate::query::{Compare, FieldRef, Filter, Key, Look, View, has_item_at};
use crate::record::{Field, Index, Record, Schema, Stored, Value, Version};
use crate::{Error, Result, TenantId, Uuid};

/// One stored record, its values in the shelf's order of columns.
#[derive(Clone)]
pub(super) struct Row {
    pub(super) version: Version,
    pub(super) values: Vec<Value>,
}

impl Row {
    fn key(&self, columns: &[usize]) -> Vec<Key> {
        columns
            .iter()
            .map(|i| Key(self.values.get(*i).cloned().unwrap_or(Value::Null)))
            .collect()
    }
}

/// The rows of one tenant.
#[derive(Default)]
pub(super) struct Rows {
    pub(super) by_id: BTreeMap<Uuid, Row>,
    /// One set an index of the shelf, in the same order.
    indexes: Vec<BTreeSet<(Vec<Key>, Uuid)>>,
}

struct OrderedIndex {
    declared: Index,
    columns: Vec<usize>,
}

/// The records of one schema, tenant by tenant.
#[derive(Default)]
pub(super) struct Shelf {
    /// The schema room was last made for.
    pub(super) schema: Option<&'static Schema>,
    columns: Vec<Field>,
    indexes: Vec<OrderedIndex>,
    tenants: BTreeMap<TenantId, Rows>,
}

/// What a change replaced: put back when the unit of work fails.
pub(super) struct Undo {
    pub(super) schema: &'static str,
    pub(super) tenant: TenantId,
    pub(super) id: Uuid,
    pub(super) before: Option<Row>,
}

/// How a schema's fields lie in a shelf: position in the schema to position in the row.
pub(super) struct Layout {
    schema: &'static Schema,
    places: Vec<usize>,
}

/// A row with what is needed to look at it.
pub(super) struct Place<'a> {
    layout: &'a Layout,
    id: Value,
    row: &'a Row,
}

impl Look for Place<'_> {
    fn field(&self, field: &FieldRef) -> View<'_> {
        View::at(self.layout.value(&self.id, self.row, &field.field), &field.path)
    }
    fn has(&self, field: &FieldRef, text: &str) -> bool {
        has_item_at(
            self.layout.value(&self.id, self.row, &field.field),
            &field.path,
            text,
        )
    }
    fn id(&self) -> Option<Uuid> {
        self.id.as_uuid()
    }
}

impl Layout {
    pub(super) fn stored(&self, id: Uuid, row: &Row) -> Stored {
        let value = |place: &usize| row.values.get(*place).cloned().unwrap_or(Value::Null);
        let record = Record::trusted(self.schema, self.places.iter().map(value).collect());
        Stored {
            id,
            version: row.version,
            record,
        }
    }

    pub(super) fn schema(&self) -> &'static Schema {
        self.schema
    }

    /// A row for a filter to look at.
    pub(super) fn place<'a>(&'a self, id: Uuid, row: &'a Row) -> Place<'a> {
        Place {
            layout: self,
            id: Value::Uuid(id),
            row,
        }
    }

    pub(super) fn value<'a>(&self, id: &'a Value, row: &'a Row, field: &str) -> &'a Value {
        if field == "id" {
            return id;
        }
        self.schema
            .field(field)
            .and_then(|(i, _)| self.places.get(i))
            .and_then(|place| row.values.get(*place))
            .unwrap_or(&Value::Null)
    }
}

impl Shelf {
    /// Makes room for what `schema` has and the shelf has not.
    pub(super) fn grow(&mut self, schema: &'static Schema) -> Result<()> {
        let wrong = |message: &'static str, what: &'static str, name: &str| {
            Err(Error::config(message)
                .with("schema", schema.name)
                .with(what, name))
        };
        let fresh = self.columns.is_empty();
        for column in &self.columns {
            if schema.field(column.name).is_none() {
                return wrong(
                    "a stored field is not in the schema; fields are never dropped",
                    "field",
                    column.name,
                );
            }
        }
        let mut added = Vec::new();
        for field in schema.fields {
            match self.columns.iter().find(|column| column.name == field.name) {
                Some(column) if column.ty != field.ty || column.nullable != field.nullable => {
                    return wrong(
                        "a field is stored with another type or nullability",
                        "field",
                        field.name,
                    );
                }
                Some(_) => {}
                None if fresh || field.nullable => added.push(*field),
                None => {
                    return wrong(
                        "only a nullable field can be added to stored records",
                        "field",
                        field.name,
                    );
                }
            }
        }
        for index in schema.indexes {
            if let Some(known) = self
                .indexes
                .iter()
                .find(|known| known.declared.name == index.name)
                && (known.declared.fields != index.fields || known.declared.unique != index.unique)
            {
                return wrong("an index is stored with other fields", "index", index.name);
            }
        }
        for rows in self.tenants.values_mut() {
            for row in rows.by_id.values_mut() {
                row.values.resize(self.columns.len() + added.len(), Value::Null);
            }
        }
        self.columns.extend(added);
        for index in schema.indexes {
            if !self.indexes.iter().any(|known| known.declared.name == index.name) {
                self.add_index(schema, *index)?;
            }
        }
        self.schema = Some(schema);
        Ok(())
    }

    fn add_index(&mut self, schema: &'static Schema, index: Index) -> Result<()> {
        let place = |name: &str| self.columns.iter().position(|column| column.name == name);
        let columns: Vec<usize> = index.fields.iter().filter_map(|name| place(name)).collect();
        let mut sets = Vec::new();
        for rows in self.tenants.values() {
            let set: BTreeSet<_> = rows
                .by_id
                .iter()
                .map(|(id, row)| (row.key(&columns), *id))
                .collect();
            let twice = set
                .iter()
                .zip(set.iter().skip(1))
                .any(|(a, b)| a.0 == b.0 && present(&a.0));
            if index.unique && twice {
                return Err(Error::config(
                    "stored records are not unique in the fields of a new unique index",
                )
                .with("schema", schema.name)
                .with("index", index.name));
            }
            sets.push(set);
        }
        for (rows, set) in self.tenants.values_mut().zip(sets) {
            rows.indexes.push(set);
        }
        self.indexes.push(OrderedIndex {
            declared: index,
            columns,
        });
        Ok(())
    }

    /// Where the schema's fields lie here.
    pub(super) fn layout(&self, schema: &'static Schema) -> Result<Layout> {
        let place = |field: &Field| {
            let found = self
                .columns
                .iter()
                .position(|c| c.name == field.name && c.ty == field.ty);
            found.ok_or_else(|| not_migrated(schema).with("field", field.name))
        };
        Ok(Layout {
            schema,
            places: schema.fields.iter().map(place).collect::<Result<_>>()?,
        })
    }

    pub(super) fn rows(&self, tenant: &TenantId) -> Option<&Rows> {
        self.tenants.get(tenant)
    }

    /// The row as `record` would leave it, on top of what the schema does not name.
    pub(super) fn row(
        &self,
        layout: &Layout,
        before: Option<&Row>,
        version: Version,
        record: &Record,
    ) -> Row {
        let mut values =
            before.map_or_else(|| vec![Value::Null; self.columns.len()], |row| row.values.clone());
        for (place, value) in layout.places.iter().zip(record.values()) {
            if let Some(slot) = values.get_mut(*place) {
                slot.clone_from(value);
            }
        }
        Row { version, values }
    }

    /// The unique index that `row` would break.
    pub(super) fn collision(&self, tenant: &TenantId, id: Uuid, row: &Row) -> Option<&'static str> {
        let rows = self.tenants.get(tenant)?;
        self.indexes.iter().zip(&rows.indexes).find_map(|(index, set)| {
            if !index.declared.unique {
                return None;
            }
            let key = row.key(&index.columns);
            let taken = present(&key)
                && set
                    .range((key.clone(), Uuid::nil())..=(key, Uuid::max()))
                    .any(|(_, other)| *other != id);
            taken.then_some(index.declared.name)
        })
    }

    /// Sets or removes a row and keeps the indexes right; answers what was there.
    pub(super) fn set(&mut self, tenant: &TenantId, id: Uuid, row: Option<Row>) -> Option<Row> {
        let rows = self.tenants.entry(tenant.clone()).or_default();
        rows.indexes.resize_with(self.indexes.len(), BTreeSet::new);
        let before = rows.by_id.get(&id);
        for (index, set) in self.indexes.iter().zip(&mut rows.indexes) {
            let old = before.map(|row| row.key(&index.columns));
            let new = row.as_ref().map(|row| row.key(&index.columns));
            if old == new {
                continue;
            }
            if let Some(key) = old {
                set.remove(&(key, id));
            }
            if let Some(key) = new {
                set.insert((key, id));
            }
        }
        match row {
            Some(row) => rows.by_id.insert(id, row),
            None => rows.by_id.remove(&id),
        }
    }

    /// Ids among which all records that match must be, in order and without repeats, when the filter pins the id or
    /// the first field of an index; `None` when every record has to be looked at.
    pub(super) fn candidates(&self, tenant: &TenantId, filter: &Filter) -> Option<BTreeSet<Uuid>> {
        let rows = self.tenants.get(tenant)?;
        let conjuncts = match filter {
            Filter::And(all) => all.as_slice(),
            one => std::slice::from_ref(one),
        };
        conjuncts
            .iter()
            .filter_map(|one| self.pinned(rows, one))
            .min_by_key(BTreeSet::len)
    }

    fn pinned(&self, rows: &Rows, filter: &Filter) -> Option<BTreeSet<Uuid>> {
        let (field, values) = match filter {
            Filter::Is {
                field,
                op: Compare::Eq,
                value,
            } => (field, std::slice::from_ref(value)),
            Filter::In { field, values } => (field, values.as_slice()),
            _ => return None,
        };
        if !field.path.is_empty() {
            return None;
        }
        if field.field == "id" {
            return Some(values.iter().filter_map(Value::as_uuid).collect());
        }
        let position = self
            .indexes
            .iter()
            .position(|i| i.declared.fields.first() == Some(&field.field.as_str()))?;
        let set = rows.indexes.get(position)?;
        let mut found = BTreeSet::new();
        for value in values {
            let key = Key(value.clone());
            let from = Bound::Included((vec![key.clone()], Uuid::nil()));
            let alike = set
                .range((from, Bound::Unbounded))
                .take_while(|(keys, _)| keys.first() == Some(&key));
            found.extend(alike.map(|(_, id)| *id));
        }
        Some(found)
    }
}

fn present(key: &[Key]) -> bool {
    key.iter().all(|part| !part.0.is_null())
}

pub(super) fn not_migrated(schema: &'static Schema) -> Error {
    Error::config("the store has no room for this schema yet; call migrate with it first")
        .with("schema", schema.name)
}
