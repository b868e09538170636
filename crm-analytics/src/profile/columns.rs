//! One column.

use crm_core::record::FieldType;
use crm_core::table::ColumnData;
use crm_core::{Column, Result, Timestamp};

use super::{ColumnProfile, Looks, NumberProfile, ProfilePlan, TextProfile, TimeProfile, distinct};
use crate::clean::read::{instant, number};
use crate::clean::text::{email, flag, phone};
use crate::clean::{DateOrder, Decimal};

/// So many values are looked at to guess what a text is.
const GUESSED: usize = 500;
/// Rows that are named.
const NAMED: usize = 100;

pub(super) fn profile(plan: &ProfilePlan, column: &Column) -> Result<ColumnProfile> {
    let nan = match column.data() {
        ColumnData::Float(data) => data
            .iter()
            .enumerate()
            .filter(|(row, value)| value.is_nan() && column.is_valid(*row))
            .count(),
        _ => 0,
    };
    let missing = column.missing() + nan;
    let present = column.len() - missing;
    let counted = distinct::count(column, plan.exact_distinct, plan.top);
    let mut out = ColumnProfile {
        name: column.name().to_owned(),
        ty: column.ty(),
        missing,
        distinct: counted.distinct,
        near_constant: present > 0 && (counted.distinct.count == 1 || counted.most * 100 > present * 99),
        top: counted.top,
        looks_like: None,
        unlike: 0,
        unlike_rows: Vec::new(),
        numbers: None,
        text: None,
        times: None,
    };
    match column.ty() {
        FieldType::Int | FieldType::Float => {
            let values: Vec<f64> = (0..column.len())
                .filter_map(|row| column.f64_at(row))
                .filter(|value| !value.is_nan())
                .collect();
            out.numbers = numbers(values, &plan.quantiles);
        }
        FieldType::Text => {
            out.text = text(column);
            let meant = plan.meant.get(column.name()).copied();
            out.looks_like = meant.or_else(|| guess(plan, column));
            if let Some(looks) = out.looks_like {
                for row in 0..column.len() {
                    let Some(text) = column.text_at(row) else { continue };
                    if !reads(plan, text, looks) {
                        out.unlike += 1;
                        if out.unlike_rows.len() < NAMED {
                            out.unlike_rows.push(row);
                        }
                    }
                }
            }
        }
        FieldType::Timestamp => out.times = times(column, plan.as_of),
        _ => {}
    }
    Ok(out)
}

/// The value at a quantile of sorted values, linear between them.
pub(crate) fn quantile(sorted: &[f64], q: f64) -> f64 {
    let at = q * (sorted.len().max(1) - 1) as f64;
    let value = |index: usize| {
        sorted
            .get(index.min(sorted.len().max(1) - 1))
            .copied()
            .unwrap_or_default()
    };
    let (low, high) = (value(at.floor() as usize), value(at.ceil() as usize));
    // Not low + (high - low) * part: the difference of huge values overflows. Rounding does not carry it outside.
    let part = at.fract();
    (low * (1.0 - part) + high * part).clamp(low, high)
}

fn numbers(mut values: Vec<f64>, quantiles: &[f64]) -> Option<NumberProfile> {
    let before = values.len();
    values.retain(|value| value.is_finite());
    let infinite = before - values.len();
    values.sort_unstable_by(f64::total_cmp);
    let (min, max) = (*values.first()?, *values.last()?);
    let n = values.len() as f64;
    // Divided first: the sum of huge values overflows. Rounding does not carry the mean out of the range.
    let mean = values.iter().map(|value| value / n).sum::<f64>().clamp(min, max);
    // A quarter of everything: the squares of what is left by the scale are at most 4, whatever the range.
    let quarter = |value: f64| value / 4.0;
    let scale = (quarter(max) - quarter(mean)).max(quarter(mean) - quarter(min));
    let deviation = if scale > 0.0 && values.len() > 1 {
        let away = |value: &f64| (quarter(*value) - quarter(mean)) / scale;
        let squares: f64 = values.iter().map(|value| away(value).powi(2)).sum();
        ((squares / (n - 1.0)).sqrt() * scale * 4.0).min(f64::MAX)
    } else {
        0.0
    };
    let median = quantile(&values, 0.5);
    let mut distances: Vec<f64> = values
        .iter()
        .map(|value| (value - median).abs().min(f64::MAX))
        .collect();
    distances.sort_unstable_by(f64::total_cmp);
    let mad = quantile(&distances, 0.5);
    let fence = 3.5 * 1.4826 * mad;
    Some(NumberProfile {
        min,
        max,
        mean,
        deviation,
        median,
        mad,
        outliers: if mad > 0.0 {
            distances.iter().filter(|distance| **distance > fence).count()
        } else {
            0
        },
        zeros: values.iter().filter(|value| **value == 0.0).count(),
        negative: values.iter().filter(|value| **value < 0.0).count(),
        infinite,
        quantiles: quantiles.iter().map(|q| (*q, quantile(&values, *q))).collect(),
    })
}

fn text(column: &Column) -> Option<TextProfile> {
    let mut out: Option<TextProfile> = None;
    for row in 0..column.len() {
        let Some(text) = column.text_at(row) else { continue };
        let length = text.chars().count();
        let out = out.get_or_insert(TextProfile {
            shortest: length,
            longest: length,
            blank: 0,
            untrimmed: 0,
        });
        out.shortest = out.shortest.min(length);
        out.longest = out.longest.max(length);
        let trimmed = text.trim();
        out.blank += usize::from(trimmed.is_empty());
        out.untrimmed += usize::from(trimmed.len() != text.len());
    }
    out
}

fn times(column: &Column, as_of: Option<Timestamp>) -> Option<TimeProfile> {
    let ancient = Timestamp::from_ymd(1900, 1, 1)?;
    let mut out: Option<TimeProfile> = None;
    for at in (0..column.len()).filter_map(|row| column.timestamp_at(row)) {
        let out = out.get_or_insert(TimeProfile {
            first: at,
            last: at,
            future: 0,
            ancient: 0,
        });
        out.first = out.first.min(at);
        out.last = out.last.max(at);
        out.future += usize::from(as_of.is_some_and(|as_of| at > as_of));
        out.ancient += usize::from(at < ancient);
    }
    out
}

fn reads(plan: &ProfilePlan, text: &str, looks: Looks) -> bool {
    match looks {
        Looks::Email => email(text).is_some(),
        Looks::Phone => phone(text, plan.region.as_deref()).is_some(),
        Looks::Date => {
            instant(text, DateOrder::DayFirst).is_some() || instant(text, DateOrder::MonthFirst).is_some()
        }
        Looks::Number => number(text, Decimal::Point).is_some() || number(text, Decimal::Comma).is_some(),
        Looks::Flag => flag(text).is_some(),
    }
}

/// What at least 6 of 10 values read as, looked at evenly over the column. What fewer texts can be comes first: `1` is a
/// word of yes before it is a number; digits alone are a number, unless they begin as only phone numbers do.
fn guess(plan: &ProfilePlan, column: &Column) -> Option<Looks> {
    let step = (column.len() / GUESSED).max(1);
    let looked: Vec<&str> = (0..column.len())
        .step_by(step)
        .filter_map(|row| column.text_at(row))
        .filter(|text| !text.trim().is_empty())
        .collect();
    let as_phone = |text: &str| text.trim_start().starts_with(['+', '0', '(']);
    let mostly = |looks: Looks| {
        let is = |text: &&&str| (looks != Looks::Phone || as_phone(text)) && reads(plan, text, looks);
        let count = looked.iter().filter(is).count();
        !looked.is_empty() && count * 10 >= looked.len() * 6
    };
    [
        Looks::Email,
        Looks::Flag,
        Looks::Date,
        Looks::Phone,
        Looks::Number,
    ]
    .into_iter()
    .find(|looks| mostly(*looks))
}
