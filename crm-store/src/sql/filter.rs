//! Filters as SQL conditions. Every condition written here is true or false, never null, so that `NOT` is the exact
//! opposite, as `crm_core::query` promises.

use crm_core::query::{Compare, FieldRef, Filter, Related};
use crm_core::record::{FieldType, Schema, Value};
use crm_core::{Error, Result, TenantId};

use super::compile::{Sql, measure, padded, sign, tenant_is};
use super::driver::{Dialect, JsonType};

/// Adds ` AND <condition>`, or nothing for a filter that is always true.
pub(crate) fn condition<D: Dialect>(
    sql: &mut Sql,
    schema: &'static Schema,
    tenant: &TenantId,
    filter: &Filter,
) -> Result<()> {
    if *filter == Filter::All {
        return Ok(());
    }
    sql.push(" AND ");
    write::<D>(sql, Of { schema, tenant }, filter)
}

/// Whose records a condition is about.
#[derive(Clone, Copy)]
struct Of<'a> {
    schema: &'static Schema,
    tenant: &'a TenantId,
}

fn write<D: Dialect>(sql: &mut Sql, of: Of<'_>, filter: &Filter) -> Result<()> {
    let schema = of.schema;
    match filter {
        Filter::All => truth(sql, true),
        Filter::And(all) => return joined::<D>(sql, of, all, true),
        Filter::Or(any) => return joined::<D>(sql, of, any, false),
        Filter::Not(filter) => {
            sql.push("NOT (");
            write::<D>(sql, of, filter)?;
            sql.push(")");
        }
        Filter::Is { field, op, value } => match field.resolve(schema)? {
            Some(ty) => is::<D>(sql, schema, field, ty, *op, value),
            None => {
                let ty = json_type(schema, field, value)?;
                json_is::<D>(sql, field, ty, *op, value);
            }
        },
        Filter::In { field, values } => match field.resolve(schema)? {
            Some(ty) => one_of(sql, schema, field, ty, values),
            None => json_one_of::<D>(sql, schema, field, values)?,
        },
        Filter::Prefix { field, text } => {
            text_condition::<D>(sql, schema, field, &mut |sql, value| {
                value(sql);
                sql.push(" >= ").bind(text.as_str().into());
                // All texts that begin so lie before the first text that does not: an index can be used.
                if let Some(end) = behind(text) {
                    sql.push(" AND ");
                    value(sql);
                    sql.push(" < ").bind(end.into());
                }
            })?;
        }
        Filter::Contains { field, text } => {
            text_condition::<D>(sql, schema, field, &mut |sql, value| {
                D::contains(sql, value, text)
            })?;
        }
        Filter::Null { field } => match field.resolve(schema)? {
            Some(_) => {
                sql.name(&field.field).push(" IS NULL");
            }
            None => D::json_absent(sql, &field.field, &field.path),
        },
        Filter::Has { field, text } => D::json_has(sql, &field.field, &field.path, text),
        Filter::Related(related) => self::related::<D>(sql, of.tenant, related)?,
        Filter::Ago { .. } | Filter::InSegment(_) => return filter.validate(schema),
    }
    Ok(())
}

/// `id IN (SELECT key FROM .. GROUP BY key HAVING ..)`: no correlation, so the related records are read once. What holds
/// for records without related ones is written as the opposite of what does not.
fn related<D: Dialect>(sql: &mut Sql, tenant: &TenantId, related: &Related) -> Result<()> {
    let (schema, key) = (related.relation.schema(), related.relation.key());
    let none = related.holds_for_none();
    sql.push(if none { "NOT (" } else { "(" });
    sql.name("id").push(" IN (SELECT ").name(key);
    sql.push(" FROM ").table(schema.name);
    tenant_is(sql, tenant);
    if nullable(schema, &key.into()) {
        sql.push(" AND ").name(key).push(" IS NOT NULL");
    }
    condition::<D>(sql, schema, tenant, &related.filter)?;
    sql.push(" GROUP BY ").name(key).push(" HAVING ");
    if none {
        sql.push("NOT (");
    }
    let ty = related.aggregate().measure_type(schema, &related.measure)?;
    match exact(ty, related.op, &related.value) {
        Exact::Never => truth(sql, false),
        // Not null: some value was there.
        Exact::Always => {
            measure::<D>(sql, schema, &related.measure);
            sql.push(" IS NOT NULL");
        }
        Exact::Is(op, value) => {
            measure::<D>(sql, schema, &related.measure);
            sql.push(sign(op)).bind(value);
        }
    }
    if none {
        sql.push(")");
    }
    sql.push("))");
    Ok(())
}

fn truth(sql: &mut Sql, truth: bool) {
    sql.push(if truth { "1 = 1" } else { "1 = 0" });
}

/// Joins conditions as a balanced tree: databases limit how deep an expression may be, and a filter may have thousands.
fn joined<D: Dialect>(sql: &mut Sql, of: Of<'_>, filters: &[Filter], all: bool) -> Result<()> {
    match filters {
        [] => truth(sql, all),
        [one] => write::<D>(sql, of, one)?,
        _ => {
            let (left, right) = filters.split_at(filters.len() / 2);
            sql.push("(");
            joined::<D>(sql, of, left, all)?;
            sql.push(if all { " AND " } else { " OR " });
            joined::<D>(sql, of, right, all)?;
            sql.push(")");
        }
    }
    Ok(())
}

fn nullable(schema: &'static Schema, field: &FieldRef) -> bool {
    schema
        .field(&field.field)
        .is_some_and(|(_, field)| field.nullable)
}

fn present(sql: &mut Sql, schema: &'static Schema, field: &FieldRef) {
    if nullable(schema, field) {
        sql.name(&field.field).push(" IS NOT NULL");
    } else {
        truth(sql, true);
    }
}

/// `(field is there AND ..)`; without the first half for a required field.
fn guarded(sql: &mut Sql, schema: &'static Schema, field: &FieldRef, rest: impl FnOnce(&mut Sql)) {
    let guard = nullable(schema, field);
    if guard {
        sql.push("(").name(&field.field).push(" IS NOT NULL AND ");
    }
    rest(sql);
    if guard {
        sql.push(")");
    }
}

fn is<D: Dialect>(
    sql: &mut Sql,
    schema: &'static Schema,
    field: &FieldRef,
    ty: FieldType,
    op: Compare,
    value: &Value,
) {
    match exact(ty, op, value) {
        Exact::Never => truth(sql, false),
        Exact::Always => present(sql, schema, field),
        Exact::Is(op, value) => guarded(sql, schema, field, |sql| {
            sql.name(&field.field).push(sign(op)).bind(value);
        }),
    }
}

/// A comparison in the field's own type.
#[derive(Debug, PartialEq)]
enum Exact {
    /// No value of the field compares so.
    Never,
    /// Every value of the field compares so.
    Always,
    /// This one.
    Is(Compare, Value),
}

/// Turns a comparison of an integer field with a float, or the other way round, into one within the field's type that is
/// true for exactly the same values: databases convert one side, which is not exact beyond 2^53.
fn exact(ty: FieldType, op: Compare, value: &Value) -> Exact {
    use Compare::{Eq, Ge, Gt, Le, Lt, Ne};
    const TWO_63: f64 = 9_223_372_036_854_775_808.0;
    match (ty, value) {
        (FieldType::Int, Value::Float(float)) => {
            if float.is_nan() {
                return Exact::Never;
            }
            if *float >= TWO_63 || *float < -TWO_63 {
                let below = *float > 0.0;
                return match op {
                    Ne => Exact::Always,
                    Lt | Le if below => Exact::Always,
                    Gt | Ge if !below => Exact::Always,
                    _ => Exact::Never,
                };
            }
            let floor = float.floor() as i64;
            if float.fract() == 0.0 {
                return Exact::Is(op, Value::Int(floor));
            }
            match op {
                Eq => Exact::Never,
                Ne => Exact::Always,
                Lt | Le => Exact::Is(Le, Value::Int(floor)),
                Gt | Ge => Exact::Is(Gt, Value::Int(floor)),
            }
        }
        (FieldType::Float, Value::Int(int)) => {
            let float = *int as f64;
            match (float as i128).cmp(&i128::from(*int)) {
                std::cmp::Ordering::Equal => Exact::Is(op, Value::Float(float)),
                nearest => match op {
                    Eq => Exact::Never,
                    Ne => Exact::Always,
                    // The nearest float lies above or below; no float lies between.
                    Lt | Le if nearest.is_gt() => Exact::Is(Lt, Value::Float(float)),
                    Lt | Le => Exact::Is(Le, Value::Float(float)),
                    Gt | Ge if nearest.is_gt() => Exact::Is(Ge, Value::Float(float)),
                    Gt | Ge => Exact::Is(Gt, Value::Float(float)),
                },
            }
        }
        _ => Exact::Is(op, value.clone()),
    }
}

fn one_of(sql: &mut Sql, schema: &'static Schema, field: &FieldRef, ty: FieldType, values: &[Value]) {
    let values: Vec<Value> = values
        .iter()
        .filter_map(|value| match exact(ty, Compare::Eq, value) {
            Exact::Is(_, value) => Some(value),
            Exact::Always | Exact::Never => None,
        })
        .collect();
    if values.is_empty() {
        return truth(sql, false);
    }
    guarded(sql, schema, field, |sql| {
        sql.name(&field.field).push(" IN ");
        padded(sql, &values);
    });
}

fn json_type(schema: &'static Schema, field: &FieldRef, value: &Value) -> Result<JsonType> {
    match value {
        Value::Text(_) => Ok(JsonType::Text),
        Value::Int(_) | Value::Float(_) => Ok(JsonType::Number),
        Value::Bool(_) => Ok(JsonType::Bool),
        _ => Err(
            Error::invalid("below a JSON field, only texts, numbers and bools can be compared")
                .with("schema", schema.name)
                .with("field", field),
        ),
    }
}

fn json_is<D: Dialect>(sql: &mut Sql, field: &FieldRef, ty: JsonType, op: Compare, value: &Value) {
    if ty != JsonType::Number || D::EXACT_JSON {
        return D::json_compares(sql, &field.field, &field.path, ty, op, value.clone());
    }
    // An integer is compared as an integer, a float as a float; each with what comes to the same on that side. CASE, not
    // AND: only there a database may not turn the order round and read a text as a number.
    let side = |sql: &mut Sql, whole: bool| {
        let ty = if whole { FieldType::Int } else { FieldType::Float };
        match exact(ty, op, value) {
            Exact::Never => truth(sql, false),
            Exact::Always => truth(sql, true),
            Exact::Is(op, value) => {
                D::json_number(sql, &field.field, &field.path, whole);
                sql.push(sign(op)).bind(value);
                sql.push(if whole { D::JSON_WHOLE } else { "" });
            }
        }
    };
    sql.push("(CASE WHEN ");
    D::json_whole(sql, &field.field, &field.path);
    sql.push(" THEN ");
    side(sql, true);
    sql.push(" WHEN ");
    D::json_is(sql, &field.field, &field.path, JsonType::Number);
    sql.push(" THEN ");
    side(sql, false);
    sql.push(" ELSE 1 = 0 END)");
}

fn json_one_of<D: Dialect>(
    sql: &mut Sql,
    schema: &'static Schema,
    field: &FieldRef,
    values: &[Value],
) -> Result<()> {
    let mut groups: [(JsonType, Vec<Value>); 3] = [
        (JsonType::Text, Vec::new()),
        (JsonType::Number, Vec::new()),
        (JsonType::Bool, Vec::new()),
    ];
    for value in values {
        let ty = json_type(schema, field, value)?;
        if let Some((_, group)) = groups.iter_mut().find(|(of, _)| *of == ty) {
            group.push(value.clone());
        }
    }
    let groups: Vec<_> = groups
        .into_iter()
        .filter(|(_, values)| !values.is_empty())
        .collect();
    if groups.is_empty() {
        truth(sql, false);
        return Ok(());
    }
    sql.push("(").list(" OR ", groups, |sql, (ty, values)| {
        if ty == JsonType::Number && !D::EXACT_JSON {
            let padded = values.len().next_power_of_two();
            let all = values.iter().chain(values.last().into_iter().cycle());
            sql.list(" OR ", all.take(padded), |sql, value| {
                json_is::<D>(sql, field, ty, Compare::Eq, value);
            });
            return;
        }
        sql.push("(");
        D::json_is(sql, &field.field, &field.path, ty);
        sql.push(" AND ");
        D::json_value(sql, &field.field, &field.path, ty);
        sql.push(" IN ");
        padded(sql, &values);
        sql.push(")");
    });
    sql.push(")");
    Ok(())
}

type WriteValue<'a> = &'a mut dyn FnMut(&mut Sql);

fn text_condition<D: Dialect>(
    sql: &mut Sql,
    schema: &'static Schema,
    field: &FieldRef,
    rest: &mut dyn FnMut(&mut Sql, WriteValue<'_>),
) -> Result<()> {
    if field.resolve(schema)?.is_some() {
        sql.push("(");
        guarded(sql, schema, field, |sql| {
            rest(sql, &mut |sql| {
                sql.name(&field.field);
            });
        });
    } else {
        sql.push("(");
        D::json_is(sql, &field.field, &field.path, JsonType::Text);
        sql.push(" AND ");
        rest(sql, &mut |sql| {
            D::json_value(sql, &field.field, &field.path, JsonType::Text)
        });
    }
    sql.push(")");
    Ok(())
}

/// The smallest text that lies behind all texts beginning with `prefix`, in the order of bytes; `None` when there is
/// none.
fn behind(prefix: &str) -> Option<String> {
    let mut chars: Vec<char> = prefix.chars().collect();
    while let Some(last) = chars.pop() {
        // Skips the gap of the surrogates, which no text has.
        let next = if last == '\u{d7ff}' {
            Some('\u{e000}')
        } else {
            char::from_u32(u32::from(last) + 1)
        };
        if let Some(next) = next {
            chars.push(next);
            return Some(chars.into_iter().collect());
        }
    }
    None
}

#[cfg(feature = "sqlite")]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::driver::Sqlite;
    use crm_core::query::Relation;
    use crm_core::record::Field;

    static THING: Schema = Schema {
        name: "thing",
        fields: &[
            Field::new("name", FieldType::Text),
            Field::new("nick", FieldType::Text).nullable(),
            Field::new("n", FieldType::Int),
            Field::new("x", FieldType::Float).nullable(),
            Field::new("extra", FieldType::Json),
        ],
        indexes: &[],
    };

    static OWNED_SCHEMA: Schema = Schema {
        name: "owned",
        fields: &[
            Field::new("owner", FieldType::Uuid),
            Field::new("name", FieldType::Text),
        ],
        indexes: &[],
    };
    const OWNED: Relation = Relation::new(&OWNED_SCHEMA, "owner");

    fn text(filter: Filter) -> String {
        filter.validate(&THING).unwrap();
        let mut sql = Sql::new::<Sqlite>();
        condition::<Sqlite>(&mut sql, &THING, &TenantId::new("t").unwrap(), &filter).unwrap();
        sql.text().to_owned()
    }

    #[test]
    fn golden() {
        for (filter, wanted) in [
            (Filter::All, ""),
            (Filter::And(vec![]), r#" AND 1 = 1"#),
            (Filter::Or(vec![]), r#" AND 1 = 0"#),
            (Filter::eq("name", "x"), r#" AND "name" = ?"#),
            (
                !Filter::ne("nick", "x"),
                r#" AND NOT (("nick" IS NOT NULL AND "nick" <> ?))"#,
            ),
            (Filter::null("nick"), r#" AND "nick" IS NULL"#),
            (
                Filter::prefix("name", "a%"),
                r#" AND ("name" >= ? AND "name" < ?)"#,
            ),
            (
                Filter::contains("nick", "_"),
                r#" AND (("nick" IS NOT NULL AND instr("nick", ?) > 0))"#,
            ),
            (
                Filter::one_of("name", ["a", "b", "c"]),
                r#" AND "name" IN (?, ?, ?, ?)"#,
            ),
            (Filter::one_of("name", Vec::<&str>::new()), r#" AND 1 = 0"#),
            (Filter::eq("n", 1.5), r#" AND 1 = 0"#),
            (Filter::ne("x", i64::MAX), r#" AND "x" IS NOT NULL"#),
            (
                Filter::ge("extra.a", 5_i64),
                r#" AND (ifnull(json_type("extra", ?), '') IN ('integer', 'real') AND json_extract("extra", ?) >= ?)"#,
            ),
            (
                Filter::null("extra.a"),
                r#" AND ifnull(json_type("extra", ?), 'null') = 'null'"#,
            ),
            (
                Filter::has("extra.list", "x"),
                r#" AND EXISTS (SELECT 1 FROM json_each("extra", ?) WHERE json_each.type = 'text' AND json_each.value = ? AND json_type("extra", ?) = 'array')"#,
            ),
            (
                Filter::at_least(2, OWNED, Filter::eq("name", "x")),
                r#" AND ("id" IN (SELECT "owner" FROM "owned" WHERE "tenant" = ? AND "name" = ? GROUP BY "owner" HAVING count(*) >= ?))"#,
            ),
            (
                Filter::none_of(OWNED, Filter::All),
                r#" AND NOT ("id" IN (SELECT "owner" FROM "owned" WHERE "tenant" = ? GROUP BY "owner" HAVING NOT (count(*) = ?)))"#,
            ),
            (
                Filter::eq("n", 1_i64)
                    .and(Filter::eq("n", 2_i64))
                    .and(Filter::eq("n", 3_i64)),
                r#" AND ("n" = ? AND ("n" = ? AND "n" = ?))"#,
            ),
        ] {
            assert_eq!(text(filter.clone()), wanted, "{filter:?}");
        }
    }

    /// Every kind of question about these names and texts, in a dialect's words.
    fn questions<D: Dialect>(key: &str, value: &str) -> Vec<String> {
        let below = || FieldRef {
            field: "extra".into(),
            path: vec![key.into()],
        };
        let tenant = TenantId::new("t").unwrap();
        let filters = [
            Filter::eq("name", value),
            !Filter::ne("nick", value),
            Filter::prefix("name", format!("{value}a")),
            Filter::contains("nick", value),
            Filter::one_of("name", [value, value, value]),
            Filter::eq(below(), value),
            Filter::prefix(below(), format!("{value}a")),
            Filter::contains(below(), value),
            Filter::one_of(below(), [value]),
            Filter::has(below(), value),
            Filter::null(below()),
            Filter::at_least(2, OWNED, Filter::eq("name", value)),
        ];
        filters
            .iter()
            .map(|filter| {
                let query = crm_core::query::Query::new(filter.clone())
                    .ascending("nick")
                    .limit(7);
                let (sql, _) = super::super::compile::find::<D>(&THING, &tenant, &query).unwrap();
                sql.text().to_owned()
            })
            .collect()
    }

    /// 10,000 hostile keys and values make no other statements than harmless ones; hostile fields make none.
    #[test]
    fn hostile_questions_make_no_new_statements() {
        fn same<D: Dialect>() {
            let parts = [
                "'",
                "\"",
                "`",
                ";",
                "--",
                "/*",
                "*/",
                "\\",
                "%",
                "_",
                "$1",
                "?",
                ")",
                "(",
                " OR 1=1",
                "DROP TABLE thing",
                "{}",
                "::text",
                "\n",
                "日",
                "x'00'",
                "#>>",
                "\u{1}",
                "sleep(9)",
                " UNION SELECT ",
            ];
            let harmless = questions::<D>("key", "value");
            let mut seed = 20_261_122_u64;
            let mut next = |below: usize| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (seed >> 33) as usize % below
            };
            for _ in 0..10_000 / harmless.len() + 1 {
                let mut hostile = || {
                    let length = 1 + next(6);
                    (0..length).map(|_| parts[next(parts.len())]).collect::<String>()
                };
                assert_eq!(questions::<D>(&hostile(), &hostile()), harmless);
            }
        }
        same::<Sqlite>();
        #[cfg(feature = "mysql")]
        same::<crate::sql::driver::Mysql>();
        #[cfg(feature = "postgres")]
        same::<crate::sql::driver::Postgres>();
        let query = crm_core::query::Query::new(Filter::All).ascending("name\" DESC; DROP TABLE thing; --");
        assert!(query.validate(&THING).is_err());
    }

    #[test]
    fn values_and_keys_never_reach_the_text() {
        let evil = "'\"; DROP TABLE thing; --";
        let field = FieldRef {
            field: "extra".into(),
            path: vec![evil.into()],
        };
        for filter in [
            Filter::eq("name", evil),
            Filter::prefix("name", evil),
            Filter::contains(field.clone(), evil),
            Filter::one_of(field.clone(), [evil]),
            Filter::null(field),
        ] {
            assert!(!text(filter).contains("DROP"));
        }
    }

    #[test]
    fn comparisons_between_integers_and_floats_are_exact() {
        let floats = [
            -1e300,
            -9.3e18,
            -1.5,
            -1.0,
            -0.5,
            0.0,
            0.5,
            1.0,
            9_007_199_254_740_992.0,
            9.3e18,
            f64::INFINITY,
        ];
        let ints = [
            i64::MIN,
            -2,
            -1,
            0,
            1,
            2,
            (1 << 53) - 1,
            1 << 53,
            (1 << 53) + 1,
            i64::MAX - 1,
            i64::MAX,
        ];
        let ops = [
            Compare::Eq,
            Compare::Ne,
            Compare::Lt,
            Compare::Le,
            Compare::Gt,
            Compare::Ge,
        ];
        let holds = |op: Compare, order: std::cmp::Ordering| match op {
            Compare::Eq => order.is_eq(),
            Compare::Ne => order.is_ne(),
            Compare::Lt => order.is_lt(),
            Compare::Le => order.is_le(),
            Compare::Gt => order.is_gt(),
            Compare::Ge => order.is_ge(),
        };
        // Compares exactly by way of 128-bit integers scaled by two: all fractions above are halves.
        let twice = |x: f64| {
            if x.abs() < 1e19 {
                (x * 2.0) as i128
            } else {
                (x.signum() as i128) << 120
            }
        };
        for op in ops {
            for float in floats {
                for int in ints {
                    let int_first = holds(op, (i128::from(int) * 2).cmp(&twice(float)));
                    let got = match exact(FieldType::Int, op, &Value::Float(float)) {
                        Exact::Never => false,
                        Exact::Always => true,
                        Exact::Is(op, Value::Int(bound)) => holds(op, int.cmp(&bound)),
                        other => panic!("{other:?}"),
                    };
                    assert_eq!(got, int_first, "{int} {op:?} {float}");
                    let float_first = holds(op, twice(float).cmp(&(i128::from(int) * 2)));
                    let got = match exact(FieldType::Float, op, &Value::Int(int)) {
                        Exact::Never => false,
                        Exact::Always => true,
                        Exact::Is(op, Value::Float(bound)) => holds(op, float.partial_cmp(&bound).unwrap()),
                        other => panic!("{other:?}"),
                    };
                    assert_eq!(got, float_first, "{float} {op:?} {int}");
                }
            }
        }
    }

    #[test]
    fn the_end_of_a_prefix() {
        assert_eq!(behind("ab").as_deref(), Some("ac"));
        assert_eq!(behind("a\u{10ffff}").as_deref(), Some("b"));
        assert_eq!(behind("\u{d7ff}").as_deref(), Some("\u{e000}"));
        assert_eq!(behind("\u{10ffff}"), None);
        assert_eq!(behind(""), None);
    }
}
