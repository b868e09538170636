//! Tables and indexes.

use crm_core::record::{Field, FieldType, Index, Schema};

use super::super::driver::{Dialect, Names, Part};
use super::{Question, Sql};

/// Makes a table.
pub(crate) fn create_table<D: Dialect>(schema: &'static Schema) -> Sql {
    let mut sql = Sql::new::<D>();
    sql.push("CREATE TABLE ").table(schema.name).push(" (");
    sql.name("tenant")
        .push(" ")
        .push(D::tenant_type())
        .push(" NOT NULL, ");
    let own = [
        Field::new("id", FieldType::Uuid),
        Field::new("version", FieldType::Int),
    ];
    for field in own.iter().chain(schema.fields) {
        column::<D>(&mut sql, field, schema.is_key(field.name));
        sql.push(", ");
    }
    sql.push("PRIMARY KEY (")
        .name("tenant")
        .push(", ")
        .name("id")
        .push("))")
        .push(D::TABLE_OPTIONS);
    sql
}

fn column<D: Dialect>(sql: &mut Sql, field: &Field, key: bool) {
    sql.name(field.name).push(" ").push(D::column_type(field.ty, key));
    if !field.nullable {
        sql.push(" NOT NULL");
    }
}

/// Adds a column to a table.
pub(crate) fn add_column<D: Dialect>(schema: &'static Schema, field: &'static Field) -> Sql {
    let mut sql = Sql::new::<D>();
    sql.push("ALTER TABLE ").table(schema.name).push(" ADD COLUMN ");
    column::<D>(&mut sql, field, schema.is_key(field.name));
    sql
}

/// Makes an index, within tenants.
pub(crate) fn create_index<D: Dialect>(schema: &'static Schema, index: &Index) -> Sql {
    let mut sql = Sql::new::<D>();
    sql.push(if index.unique {
        "CREATE UNIQUE INDEX "
    } else {
        "CREATE INDEX "
    });
    sql.index(index.name)
        .push(" ON ")
        .table(schema.name)
        .push(" (")
        .name("tenant")
        .push(D::INDEX_SORT);
    for field in index.fields {
        sql.push(", ").name(field).push(D::INDEX_SORT);
    }
    if !index.unique && !D::INDEX_HAS_ID {
        sql.push(", ").name("id");
    }
    sql.push(")");
    sql
}

/// Removes an index that only speeds up.
pub(crate) fn drop_index<D: Dialect>(schema: &'static Schema, name: &str) -> Sql {
    let mut sql = Sql::new::<D>();
    sql.push("DROP INDEX ");
    if D::DROP_INDEX_ON {
        sql.index(name).push(" ON ").table(schema.name);
    } else {
        // An index lies in the schema of its table.
        sql.table(name);
    }
    sql
}

/// Gives a column the type it has within an index, or outside all of them.
pub(crate) fn retype<D: Dialect>(schema: &'static Schema, field: &'static Field) -> Sql {
    let mut sql = Sql::new::<D>();
    sql.push("ALTER TABLE ")
        .table(schema.name)
        .push(" MODIFY COLUMN ");
    column::<D>(&mut sql, field, schema.is_key(field.name));
    sql
}

/// Whether a part of a table is there.
pub(crate) fn part<D: Dialect>(table: &'static str, part: Part<'_>, names: &Names) -> Question {
    let mut sql = Sql::new::<D>();
    D::part(&mut sql, table, part, names);
    (sql, vec![FieldType::Int])
}
