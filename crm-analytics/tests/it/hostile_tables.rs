//! Any table at all: what looks at tables answers with figures that hold together, or with an error that says what is wrong.

use std::collections::BTreeMap;

use crm_analytics::clean::Unknown;
use crm_analytics::expect::{Check, ExpectationReport, Expectations, Severity};
use crm_analytics::features::{Encoding, EncodingPlan, FittedEncoding, Impute, Scale};
use crm_analytics::privacy::{Epsilon, EpsilonLedger, quasi_identifiers, suppress_small};
use crm_analytics::profile::{Looks, ProfilePlan, TableProfile};
use crm_core::record::{FieldType, Value};
use crm_core::table::{ColumnData, TextData};
use crm_core::{Column, ErrorKind, Table, Timestamp, Uuid};
use proptest::prelude::*;

const NAMES: [&str; 5] = ["a", "b", "naïve = #1", "", "no such column"];

fn a_float() -> impl Strategy<Value = f64> {
    prop_oneof![
        4 => -9.0..9.0_f64,
        3 => (0..4_i32).prop_map(f64::from),
        2 => prop_oneof![Just(f64::NAN), Just(f64::INFINITY), Just(f64::NEG_INFINITY), Just(-0.0)],
        2 => prop_oneof![Just(f64::MAX), Just(-f64::MAX), Just(5e-324), Just(1e300), Just(-1e160)],
    ]
}

fn an_int() -> impl Strategy<Value = i64> {
    prop_oneof![4 => 0..7_i64, 1 => any::<i64>(), 1 => Just(i64::MAX), 1 => Just(i64::MIN)]
}

/// Instants of four-digit years: others cannot be written (RFC 3339).
fn an_instant() -> impl Strategy<Value = i64> {
    prop_oneof![3 => 0..7_i64, 2 => -60_000_000_000_000_000..250_000_000_000_000_000_i64]
}

fn a_text() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => "[a-c]{0,2}",
        1 => ".{0,9}",
        1 => prop_oneof![Just("ana@example.com"), Just("@"), Just("+372 5555 5555"), Just("2026-02-30"), Just("1e999")]
            .prop_map(str::to_owned),
    ]
}

/// Values, and which of them are there.
fn a_column(rows: usize) -> impl Strategy<Value = (Column, Vec<bool>)> {
    let many = move || prop::collection::vec(an_int(), rows);
    let of = |data: ColumnData| Column::new("x", data);
    let column = prop_oneof![
        prop::collection::vec(any::<bool>(), rows).prop_map(move |flags| of(ColumnData::Bool(flags))),
        many().prop_map(move |ints| of(ColumnData::Int(ints))),
        prop::collection::vec(a_float(), rows).prop_map(move |floats| of(ColumnData::Float(floats))),
        prop::collection::vec(a_text(), rows).prop_map(move |texts| {
            let mut data = TextData::default();
            texts.iter().for_each(|text| data.push(text));
            of(ColumnData::Text(data))
        }),
        prop::collection::vec(an_instant(), rows)
            .prop_map(move |instants| of(ColumnData::Timestamp(instants))),
        many().prop_map(move |ids| {
            let ids = ids.into_iter().map(|id| Uuid::from_u128(id as u128));
            of(ColumnData::Uuid(ids.collect()))
        }),
    ];
    let valid = prop_oneof![Just(1.0), Just(0.0), Just(0.7)]
        .prop_flat_map(move |share| prop::collection::vec(prop::bool::weighted(share), rows));
    (column, valid)
}

/// Up to four columns of any types, from no row to 24.
fn any_table() -> impl Strategy<Value = Table> {
    (0..5_usize, 0..25_usize).prop_flat_map(|(cols, rows)| {
        prop::collection::vec(a_column(rows), cols).prop_map(|columns| {
            let named = columns.into_iter().zip(NAMES);
            let columns = named.map(|((column, valid), name)| {
                Column::with_validity(name, column.into_parts().1, valid).unwrap()
            });
            Table::new(columns.collect()).unwrap()
        })
    })
}

fn a_name() -> impl Strategy<Value = String> {
    (0..NAMES.len()).prop_map(|at| NAMES[at].to_owned())
}

fn a_check() -> impl Strategy<Value = Check> {
    let ty = prop_oneof![
        Just(FieldType::Int),
        Just(FieldType::Text),
        Just(FieldType::Json),
        Just(FieldType::Float)
    ];
    let some = || prop::option::of(a_float());
    let sizes = || (0..9_usize, prop::option::of(0..9_usize));
    let pattern = prop_oneof![
        Just("[a-c]*"),
        Just("("),
        Just("a{1,100000}{1,1000}"),
        Just("(?s).*"),
        Just(""),
        Just("^a$|b")
    ];
    let instant = || an_instant().prop_map(Timestamp::from_micros);
    prop_oneof![
        (a_name(), ty).prop_map(|(column, ty)| Check::Column { column, ty }),
        sizes().prop_map(|(min, max)| Check::Rows { min, max }),
        a_name().prop_map(|column| Check::Present { column }),
        (a_name(), some(), some()).prop_map(|(column, min, max)| Check::Range { column, min, max }),
        (a_name(), sizes()).prop_map(|(column, (min, max))| Check::Length { column, min, max }),
        prop::collection::vec(a_name(), 0..3).prop_map(|columns| Check::Unique { columns }),
        (a_name(), pattern).prop_map(|(column, pattern)| Check::Matches {
            column,
            pattern: pattern.into()
        }),
        (a_name(), prop::collection::btree_set(a_text(), 0..4))
            .prop_map(|(column, values)| Check::OneOf { column, values }),
        a_name().prop_map(|column| Check::Email { column }),
        (
            a_name(),
            prop::option::of(prop_oneof![Just("EE"), Just("Atlantis")])
        )
            .prop_map(|(column, region)| Check::Phone {
                column,
                region: region.map(str::to_owned)
            }),
        (a_name(), instant()).prop_map(|(column, as_of)| Check::Past { column, as_of }),
        (a_name(), instant(), a_float()).prop_map(|(column, as_of, days)| Check::Fresh {
            column,
            as_of,
            days
        }),
        (a_name(), a_name(), a_name()).prop_map(|(column, table, of)| Check::References {
            column,
            table,
            of
        }),
    ]
}

fn an_encoding() -> impl Strategy<Value = Encoding> {
    let impute = prop_oneof![
        Just(Impute::Mean),
        Just(Impute::Median),
        a_float().prop_map(Impute::Constant),
        Just(Impute::Refuse)
    ];
    let scale = prop_oneof![
        Just(Scale::None),
        Just(Scale::Standard),
        Just(Scale::Robust),
        Just(Scale::MinMax)
    ];
    let unknown = prop_oneof![Just(Unknown::Accept), Just(Unknown::Refuse)];
    prop_oneof![
        4 => (impute, any::<bool>(), scale, any::<bool>())
            .prop_map(|(impute, log1p, scale, missing)| Encoding::Number { impute, log1p, scale, missing }),
        3 => (prop::option::of(0..4_usize), 0..4_usize, unknown, any::<bool>()).prop_map(
            |(max_categories, min_count, unknown, missing)| Encoding::OneHot { max_categories, min_count, unknown, missing }
        ),
        1 => prop::collection::vec(a_text(), 0..4).prop_map(|levels| Encoding::Ordinal { levels }),
        1 => Just(Encoding::Frequency),
        2 => a_float().prop_map(|smoothing| Encoding::Target { smoothing }),
    ]
}

/// A value as people compare them: NaN is none, and -0 is 0.
fn spelled(value: Value) -> String {
    match value {
        Value::Float(number) if number.is_nan() => "-".to_owned(),
        Value::Float(number) => format!("{}", number + 0.0),
        Value::Bool(flag) => flag.to_string(),
        Value::Int(whole) => whole.to_string(),
        // `Debug` of a value does not show it.
        Value::Text(text) => format!("\"{text}"),
        Value::Timestamp(at) => at.as_micros().to_string(),
        Value::Uuid(id) => id.to_string(),
        _ => "-".to_owned(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_table_is_checked(
        table in any_table(),
        checks in prop::collection::vec((a_check(), any::<bool>(), prop_oneof![3 => Just(0.0), 2 => 0.0..1.0_f64, 1 => a_float()]), 0..5),
    ) {
        let mut suite = Expectations::new();
        for (check, strict, tolerance) in checks {
            let severity = if strict { Severity::Error } else { Severity::Warning };
            suite = suite.with(check, severity, tolerance);
        }
        match suite.check_with(&table, &[("a", &table)]) {
            Ok(report) => {
                prop_assert_eq!(report.results.len(), suite.all.len());
                for result in &report.results {
                    prop_assert!(result.failing <= result.looked_at && result.looked_at <= table.rows());
                    prop_assert_eq!(result.rows.len(), result.failing.min(1_000));
                    prop_assert!(result.rows.windows(2).all(|pair| pair[0] < pair[1]));
                    prop_assert!(result.rows.iter().all(|row| *row < table.rows()));
                    prop_assert!(result.holds || result.failing > 0 || result.reason.is_some());
                }
                let strict = report.results.iter().filter(|one| one.expectation.severity == Severity::Error);
                prop_assert_eq!(report.passed, strict.into_iter().all(|one| one.holds));
                let text = serde_json::to_string(&report);
                prop_assert!(text.is_ok(), "{:?}", text);
                // What JSON cannot say (an infinite bound) is not read back as something else.
                if let Ok(read) = serde_json::from_str::<ExpectationReport>(&text.unwrap()) {
                    prop_assert_eq!(read.passed, report.passed);
                }
            }
            Err(error) => prop_assert!(error.kind() == ErrorKind::Invalid && error.context("position").is_some(), "{error}"),
        }
    }

    #[test]
    fn any_table_is_looked_at(
        table in any_table(),
        key in prop::option::of(a_name()),
        target in prop::option::of(a_name()),
        meant in prop::option::of((a_name(), prop_oneof![Just(Looks::Phone), Just(Looks::Date), Just(Looks::Number), Just(Looks::Flag)])),
        quantiles in prop_oneof![3 => Just(vec![0.0, 0.5, 1.0]), 1 => prop::collection::vec(a_float(), 0..3)],
        (top, exact_distinct, association) in (0..4_usize, 0..30_usize, prop_oneof![3 => 0.0..1.0_f64, 1 => a_float()]),
        as_of in prop::option::of(an_instant().prop_map(Timestamp::from_micros)),
    ) {
        let plan = ProfilePlan {
            key: key.into_iter().collect(),
            target,
            meant: meant.into_iter().collect(),
            as_of,
            quantiles,
            top,
            exact_distinct,
            association,
            ..ProfilePlan::new()
        };
        match plan.run(&table) {
            Ok(profile) => {
                for (column, told) in table.columns().iter().zip(&profile.columns) {
                    prop_assert_eq!(column.name(), &told.name);
                    if let Some(n) = &told.numbers {
                        prop_assert!(n.min <= n.mean && n.mean <= n.max && n.min <= n.median && n.median <= n.max, "{:?}", n);
                    }
                }
                let read: TableProfile = serde_json::from_str(&serde_json::to_string(&profile).unwrap()).unwrap();
                prop_assert_eq!(read, profile);
            }
            Err(error) => prop_assert_eq!(error.kind(), ErrorKind::Invalid, "{}", error),
        }
    }

    #[test]
    fn nobody_stands_out_of_any_table(table in any_table(), columns in prop::collection::vec(a_name(), 0..3), k in 0..6_usize) {
        let names: Vec<&str> = columns.iter().map(String::as_str).collect();
        match quasi_identifiers(&table, &names, k) {
            Ok(report) => {
                // The oracle: groups counted by hand.
                let mut groups: BTreeMap<Vec<String>, usize> = BTreeMap::new();
                for row in 0..table.rows() {
                    let key = names.iter().map(|name| spelled(table.column(name).unwrap().value(row)));
                    *groups.entry(key.collect()).or_default() += 1;
                }
                let below: usize = groups.values().filter(|size| **size < k).sum();
                prop_assert_eq!(report.classes, groups.len());
                prop_assert_eq!((report.rows_below, report.below.len()), (below, below));
                prop_assert_eq!(report.smallest, groups.values().copied().min().unwrap_or(0));
                prop_assert_eq!(report.holds(), below == 0);
            }
            Err(error) => prop_assert_eq!(error.kind(), ErrorKind::Invalid, "{}", error),
        }
    }

    #[test]
    fn small_counts_of_any_table_are_hidden(
        table in any_table(),
        count in a_name(),
        within in prop::collection::vec(a_name(), 0..2),
        k in -1..9_i64,
    ) {
        let names: Vec<&str> = within.iter().map(String::as_str).collect();
        match suppress_small(&table, &count, &names, k) {
            Ok(hidden) => {
                let before = table.column(&count).unwrap();
                let after = hidden.table.column(&count).unwrap();
                let mut totals: BTreeMap<Vec<String>, (usize, i128, usize)> = BTreeMap::new();
                for row in 0..table.rows() {
                    let size = before.value(row).as_int().unwrap();
                    prop_assert!(!(1..k).contains(&size) || after.value(row).is_null(), "{} shows", size);
                    let key = names.iter().map(|name| spelled(table.column(name).unwrap().value(row)));
                    let total = totals.entry(key.collect()).or_default();
                    if after.value(row).is_null() {
                        *total = (total.0 + 1, total.1 + i128::from(size), total.2);
                    } else {
                        prop_assert_eq!(after.value(row), before.value(row));
                        // What shows and could have been hidden behind.
                        total.2 += usize::from(size >= k);
                    }
                }
                for (gone, sum, open) in totals.into_values() {
                    prop_assert!(gone == 0 || open == 0 || (gone >= 2 && sum >= i128::from(k)), "{gone} {sum} {open}");
                }
            }
            Err(error) => prop_assert_eq!(error.kind(), ErrorKind::Invalid, "{}", error),
        }
    }

    #[test]
    fn noise_is_paid_for(
        budget in any::<u32>(),
        asked in prop::collection::vec((any::<i64>(), prop_oneof![3 => 1..9_u32, 1 => any::<u32>()], prop_oneof![1..900_u32, any::<u32>()], any::<u64>()), 1..6),
    ) {
        let Ok(budget) = Epsilon::thousandths(budget % 4_000) else { return Ok(()) };
        let mut ledger = EpsilonLedger::new(budget);
        let mut left = budget.as_thousandths();
        for (count, sensitivity, epsilon, seed) in asked {
            let Ok(epsilon) = Epsilon::thousandths(epsilon) else { continue };
            match ledger.count("people", count, sensitivity, epsilon, seed) {
                Ok(_) => left -= epsilon.as_thousandths(),
                Err(error) if error.kind() == ErrorKind::Refused => prop_assert!(epsilon.as_thousandths() > left),
                Err(error) => prop_assert!(error.kind() == ErrorKind::Invalid && !(1..=1_000_000).contains(&sensitivity), "{error}"),
            }
            prop_assert_eq!(ledger.left(), left);
        }
    }

    #[test]
    fn any_table_is_encoded_or_refused(
        table in any_table(),
        other in any_table(),
        features in prop::collection::vec((a_name(), an_encoding()), 0..4),
        outcome in prop::option::of(a_name()),
        folds in 0..6_usize,
    ) {
        let mut plan = EncodingPlan { folds, ..EncodingPlan::new(1) };
        for (name, encoding) in features {
            plan = plan.feature(name, encoding);
        }
        let fine = |error: &crm_core::Error| error.kind() == ErrorKind::Invalid;
        match plan.fit(&table, outcome.as_deref()) {
            Ok(encoded) => {
                prop_assert!(encoded.matrix.as_slice().iter().all(|value| value.is_finite()));
                prop_assert_eq!(encoded.matrix.rows(), table.rows());
                let fitted: FittedEncoding = serde_json::from_str(&serde_json::to_string(&encoded.fitted).unwrap()).unwrap();
                prop_assert_eq!(&fitted, &encoded.fitted);
                for table in [&table, &other] {
                    match fitted.apply(table) {
                        Ok((matrix, _)) => prop_assert!(matrix.as_slice().iter().all(|value| value.is_finite())),
                        Err(error) => prop_assert!(fine(&error), "{error}"),
                    }
                }
            }
            Err(error) => prop_assert!(fine(&error), "{error}"),
        }
    }
}
