//! The statements of the ledger of schemas.

use crm_core::record::{FieldType, Value};

use super::super::driver::Dialect;
use super::{Question, Sql};

/// Its name, before any prefix.
pub(crate) const TABLE: &str = "crm_ledger";

/// Makes the ledger unless it is there.
pub(crate) fn create<D: Dialect>() -> Sql {
    let mut sql = Sql::new::<D>();
    sql.push("CREATE TABLE IF NOT EXISTS ").table(TABLE).push(" (");
    sql.name("name")
        .push(" ")
        .push(D::column_type(FieldType::Text, true))
        .push(" NOT NULL PRIMARY KEY, ");
    sql.name("shape")
        .push(" ")
        .push(D::column_type(FieldType::Text, false))
        .push(" NOT NULL, ");
    sql.name("hash")
        .push(" ")
        .push(D::column_type(FieldType::Text, false))
        .push(" NOT NULL)")
        .push(D::TABLE_OPTIONS);
    sql
}
/// All entries: name, shape, hash.
pub(crate) fn read<D: Dialect>() -> Question {
    let mut sql = Sql::new::<D>();
    sql.push("SELECT ")
        .name("name")
        .push(", ")
        .name("shape")
        .push(", ")
        .name("hash")
        .push(" FROM ")
        .table(TABLE);
    (sql, vec![FieldType::Text; 3])
}
/// Adds an entry.
pub(crate) fn add<D: Dialect>(name: &str, shape: &str, hash: &str) -> Sql {
    let mut sql = Sql::new::<D>();
    sql.push("INSERT INTO ")
        .table(TABLE)
        .push(" (")
        .name("name")
        .push(", ")
        .name("shape")
        .push(", ");
    sql.name("hash")
        .push(") VALUES (")
        .list(", ", [name, shape, hash], |sql, text| {
            sql.bind(Value::from(text));
        });
    sql.push(")");
    sql
}
/// Removes an entry.
pub(crate) fn remove<D: Dialect>(name: &str) -> Sql {
    let mut sql = Sql::new::<D>();
    sql.push("DELETE FROM ")
        .table(TABLE)
        .push(" WHERE ")
        .name("name")
        .push(" = ")
        .bind(name.into());
    sql
}
/// Changes an entry.
pub(crate) fn change<D: Dialect>(name: &str, shape: &str, hash: &str) -> Sql {
    let mut sql = Sql::new::<D>();
    sql.push("UPDATE ")
        .table(TABLE)
        .push(" SET ")
        .name("shape")
        .push(" = ")
        .bind(shape.into())
        .push(", ");
    sql.name("hash")
        .push(" = ")
        .bind(hash.into())
        .push(" WHERE ")
        .name("name")
        .push(" = ")
        .bind(name.into());
    sql
}
