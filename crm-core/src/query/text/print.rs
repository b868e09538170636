use std::fmt::Write as _;

use super::short;
use crate::query::{Compare, FieldRef, Filter, Measure, Related, Span, Unit};
use crate::record::Value;

/// How closely a filter's outermost word binds.
#[derive(PartialEq, PartialOrd)]
enum Bind {
    Or,
    And,
    Not,
}

pub(super) fn text(filter: &Filter) -> String {
    let mut out = String::new();
    write(&mut out, filter, &Bind::Or);
    out
}

/// Writes a filter where something that binds as `within` stands around it.
fn write(out: &mut String, filter: &Filter, within: &Bind) {
    match filter {
        Filter::All => out.push_str("all"),
        Filter::And(all) => several(out, all, "all", " and ", Bind::And, within),
        Filter::Or(any) => several(out, any, "none", " or ", Bind::Or, within),
        Filter::Not(inner) => match alone(inner) {
            Filter::Null { field } => {
                name(out, field);
                out.push_str(" is present");
            }
            inner => {
                out.push_str("not ");
                write(out, inner, &Bind::Not);
            }
        },
        Filter::Is { field, op, value: v } => {
            name(out, field);
            compare(out, *op);
            value(out, v);
        }
        Filter::In { field, values } => {
            name(out, field);
            out.push_str(" in (");
            for (i, one) in values.iter().enumerate() {
                out.push_str(if i == 0 { "" } else { ", " });
                value(out, one);
            }
            out.push(')');
        }
        Filter::Prefix { field, text } => word(out, field, "starts with", text),
        Filter::Contains { field, text } => word(out, field, "contains", text),
        Filter::Has { field, text } => word(out, field, "has", text),
        Filter::Null { field } => {
            name(out, field);
            out.push_str(" is absent");
        }
        Filter::Related(related) => self::related(out, related),
        Filter::Ago { field, op, span: s } => {
            name(out, field);
            compare(out, *op);
            span(out, *s);
        }
        Filter::InSegment(segment) => quoted(out, '\'', "segment ", &segment.to_string()),
    }
}

/// What stands alone in an `and` or `or`: read back, it is without them.
fn alone(filter: &Filter) -> &Filter {
    match filter {
        Filter::And(all) | Filter::Or(all) => match all.as_slice() {
            [one] => alone(one),
            _ => filter,
        },
        other => other,
    }
}

fn several(out: &mut String, filters: &[Filter], empty: &str, between: &str, bind: Bind, within: &Bind) {
    match filters {
        [] => out.push_str(empty),
        [one] => write(out, one, within),
        all => {
            // The same word within itself keeps its brackets: read back, it is nested as it was.
            let brackets = bind < *within || *within == Bind::And && bind == Bind::And;
            out.push_str(if brackets { "(" } else { "" });
            for (i, one) in all.iter().enumerate() {
                out.push_str(if i == 0 { "" } else { between });
                match (&bind, one) {
                    (Bind::Or, Filter::Or(inner)) if inner.len() > 1 => {
                        out.push('(');
                        write(out, one, &Bind::Or);
                        out.push(')');
                    }
                    _ => write(out, one, &bind),
                }
            }
            out.push_str(if brackets { ")" } else { "" });
        }
    }
}

fn related(out: &mut String, related: &Related) {
    let (measure, field) = match &related.measure {
        Measure::Count => ("count", None),
        Measure::Sum(field) => ("sum", Some(field)),
        Measure::Min(field) => ("min", Some(field)),
        Measure::Max(field) => ("max", Some(field)),
        Measure::Distinct(field) => ("distinct", Some(field)),
    };
    out.push_str(measure);
    out.push('(');
    key(out, short(&related.relation));
    if let Some(field) = field {
        out.push('.');
        key(out, field);
    }
    if *related.filter != Filter::All {
        out.push_str(" where ");
        write(out, &related.filter, &Bind::Or);
    }
    out.push(')');
    compare(out, related.op);
    value(out, &related.value);
}

fn word(out: &mut String, field: &FieldRef, word: &str, text: &str) {
    name(out, field);
    out.push(' ');
    out.push_str(word);
    quoted(out, '\'', " ", text);
}

fn name(out: &mut String, field: &FieldRef) {
    key(out, &field.field);
    for one in &field.path {
        out.push('.');
        key(out, one);
    }
}

/// The words that mean something where a field's name could stand.
const WORDS: [&str; 7] = ["all", "none", "not", "segment", "and", "or", "where"];

fn key(out: &mut String, name: &str) {
    let mut chars = name.chars();
    let plain = chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
        && !WORDS.iter().any(|word| word.eq_ignore_ascii_case(name));
    if plain {
        out.push_str(name);
    } else {
        quoted(out, '"', "", name);
    }
}

fn compare(out: &mut String, op: Compare) {
    out.push_str(match op {
        Compare::Eq => " = ",
        Compare::Ne => " != ",
        Compare::Lt => " < ",
        Compare::Le => " <= ",
        Compare::Gt => " > ",
        Compare::Ge => " >= ",
    });
}

fn span(out: &mut String, span: Span) {
    let unit = match span.unit {
        Unit::Minutes => "minute",
        Unit::Hours => "hour",
        Unit::Days => "day",
        Unit::Weeks => "week",
        Unit::Months => "month",
        Unit::Years => "year",
    };
    let count = i64::from(span.count);
    let (many, side) = (count.abs() != 1, if count < 0 { "ahead" } else { "ago" });
    // Writing to a string does not fail.
    let _ = write!(
        out,
        "{} {unit}{} {side}",
        count.abs(),
        if many { "s" } else { "" }
    );
}

fn quoted(out: &mut String, quote: char, before: &str, text: &str) {
    out.push_str(before);
    out.push(quote);
    for c in text.chars() {
        out.push(c);
        if c == quote {
            out.push(c);
        }
    }
    out.push(quote);
}

fn value(out: &mut String, value: &Value) {
    // Writing to a string does not fail.
    let _ = match value {
        Value::Text(text) => {
            quoted(out, '\'', "", text);
            Ok(())
        }
        Value::Bool(flag) => write!(out, "{flag}"),
        Value::Int(int) => write!(out, "{int}"),
        // Infinite ones overflow on the way back, to what they were.
        Value::Float(float) if float.is_infinite() => {
            write!(out, "{}1e999", if *float < 0.0 { "-" } else { "" })
        }
        Value::Float(float) => write!(out, "{float:?}"),
        Value::Bytes(bytes) => {
            out.push_str("x'");
            let written = bytes.iter().try_for_each(|byte| write!(out, "{byte:02x}"));
            out.push('\'');
            written
        }
        Value::Timestamp(time) if time.to_string().starts_with(|c: char| c.is_ascii_digit()) => {
            write!(out, "'{time}'")
        }
        Value::Timestamp(time) => write!(out, "'@{}'", time.as_micros()),
        Value::Uuid(uuid) => write!(out, "'{uuid}'"),
        // Neither compares with anything; filters with them are refused.
        Value::Null | Value::Json(_) => write!(out, "absent"),
    };
}
