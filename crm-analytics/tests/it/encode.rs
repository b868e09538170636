//! Encodings: published formulas, what is unknown or missing, leakage, one row as many.

use crm_analytics::clean::Unknown;
use crm_analytics::features::{Encoding, EncodingPlan, FittedEncoding, Impute, Scale};
use crm_core::record::{FieldType, Value};
use crm_core::{Column, ErrorKind, Table};
use proptest::prelude::*;

fn texts(name: &str, values: &[Option<&str>]) -> Column {
    let mut column = Column::text(name);
    values.iter().for_each(|value| column.push_text(*value));
    column
}

fn number(impute: Impute, log1p: bool, scale: Scale) -> Encoding {
    Encoding::Number {
        impute,
        log1p,
        scale,
        missing: false,
    }
}

fn one_hot(unknown: Unknown) -> Encoding {
    Encoding::OneHot {
        max_categories: None,
        min_count: 0,
        unknown,
        missing: true,
    }
}

#[test]
fn scales_are_what_their_names_say() {
    let table = Table::new(vec![Column::floats("x", vec![1.0, 2.0, 3.0, 4.0, 10.0])]).unwrap();
    let fit = |encoding| {
        let encoded = EncodingPlan::new(0)
            .feature("x", encoding)
            .fit(&table, None)
            .unwrap();
        encoded.matrix.as_slice().to_vec()
    };
    assert_eq!(
        fit(number(Impute::Refuse, false, Scale::None)),
        [1.0, 2.0, 3.0, 4.0, 10.0]
    );
    // scikit-learn's RobustScaler: (x - 3) / (4 - 2).
    assert_eq!(
        fit(number(Impute::Refuse, false, Scale::Robust)),
        [-1.0, -0.5, 0.0, 0.5, 3.5]
    );
    assert_eq!(
        fit(number(Impute::Refuse, false, Scale::MinMax)),
        [0.0, 1.0 / 9.0, 2.0 / 9.0, 3.0 / 9.0, 1.0]
    );
    let standard = fit(number(Impute::Refuse, false, Scale::Standard));
    let deviation = 12.5_f64.sqrt();
    for (found, x) in standard.iter().zip([1.0, 2.0, 3.0, 4.0, 10.0]) {
        assert!((found - (x - 4.0) / deviation).abs() < 1e-12);
    }
    assert_eq!(
        fit(number(Impute::Refuse, true, Scale::None))[4],
        10.0_f64.ln_1p()
    );
    let flat = Table::new(vec![Column::floats("x", vec![0.1; 9])]).unwrap();
    for scale in [Scale::Standard, Scale::Robust, Scale::MinMax] {
        let plan = EncodingPlan::new(0).feature("x", number(Impute::Refuse, false, scale));
        assert!(
            plan.fit(&flat, None)
                .unwrap()
                .matrix
                .as_slice()
                .iter()
                .all(|v| *v == 0.0),
            "{scale:?}"
        );
    }
}

#[test]
fn target_means_are_smoothed_and_cross_fitted() {
    // sklearn.preprocessing.TargetEncoder(smooth=2): (sum + 2 * mean of all) / (count + 2).
    let city = texts(
        "city",
        &[Some("a"), Some("a"), Some("a"), Some("b"), Some("b"), None],
    );
    let table = Table::new(vec![city, Column::ints("y", vec![1, 1, 0, 0, 0, 1])]).unwrap();
    let plan = EncodingPlan {
        folds: 3,
        ..EncodingPlan::new(1).feature("city", Encoding::Target { smoothing: 2.0 })
    };
    let encoded = plan.fit(&table, Some("y")).unwrap();
    let (all, report) = encoded.fitted.apply(&table).unwrap();
    let [a, b, missing] = [(2.0 + 1.0) / 5.0, 1.0 / 4.0, (1.0 + 1.0) / 3.0];
    assert_eq!(all.as_slice(), [a, a, a, b, b, missing]);
    assert_eq!((report.imputed, report.unknown), (1, 0));
    let mut out = [0.0];
    let report = encoded.fitted.encode_row(&["Rom".into()], &mut out).unwrap();
    assert_eq!((out[0], report.unknown), (0.5, 1));
    // No row sees its own outcome: the only row without a city gets the mean of the other folds.
    let own = encoded.matrix.row(5)[0];
    assert!(own != missing, "{own}");
    assert_eq!(
        encoded.matrix,
        plan.fit(&table, Some("y")).unwrap().matrix,
        "same seed, same folds"
    );

    // An id encoded by its outcome would predict everything in training; cross-fitted it predicts nothing.
    let n = 200;
    let mut id = Column::text("id");
    (0..n).for_each(|i| id.push_text(Some(&i.to_string())));
    let table = Table::new(vec![id, Column::ints("y", (0..n).map(|i| i % 2).collect())]).unwrap();
    let plan = EncodingPlan::new(3).feature("id", Encoding::Target { smoothing: 0.0 });
    let encoded = plan.fit(&table, Some("y")).unwrap();
    let gap = |m: &crm_core::Matrix| {
        let of = |odd: usize| {
            (0..200)
                .filter(|i| i % 2 == odd)
                .map(|i| m.row(i)[0])
                .sum::<f64>()
                / 100.0
        };
        of(1) - of(0)
    };
    assert_eq!(gap(&encoded.fitted.apply(&table).unwrap().0), 1.0);
    assert!(gap(&encoded.matrix) < 0.01, "{}", gap(&encoded.matrix));
}

#[test]
fn ordinal_frequency_and_what_was_never_seen() {
    let plan = texts("plan", &[Some("low"), Some("high"), Some("low"), None]);
    let table = Table::new(vec![plan.clone(), plan.renamed("again")]).unwrap();
    let encoding = EncodingPlan::new(0)
        .feature(
            "plan",
            Encoding::Ordinal {
                levels: vec!["low".into(), "mid".into(), "high".into()],
            },
        )
        .feature("again", Encoding::Frequency);
    let encoded = encoding.fit(&table, None).unwrap();
    assert_eq!(
        encoded.matrix.as_slice(),
        [0.0, 0.5, 2.0, 0.25, 0.0, 0.5, -1.0, 0.25]
    );
    let mut out = [9.0; 2];
    let report = encoded
        .fitted
        .encode_row(&["x".into(), "x".into()], &mut out)
        .unwrap();
    assert_eq!((out, report.unknown), ([-1.0, 0.0], 2));
    let strict = EncodingPlan::new(0)
        .feature("plan", one_hot(Unknown::Refuse))
        .fit(&table, None)
        .unwrap();
    assert_eq!(strict.fitted.names(), ["plan=high", "plan=low", "plan#missing"]);
    let error = strict
        .fitted
        .encode_row(&["secret".into()], &mut [0.0; 3])
        .unwrap_err();
    assert_eq!(error.context("column"), Some("plan"));
    assert!(!error.to_string().contains("secret"));
}

#[test]
fn wrong_plans_rows_and_leaks_are_refused() {
    let table = Table::new(vec![
        texts("plan", &[Some("a"), Some("b")]),
        Column::ints("y", vec![0, 1]),
        Column::floats("x", vec![1.0, f64::INFINITY]),
        texts("empty", &[None, None]),
    ])
    .unwrap();
    let plan = || EncodingPlan::new(0);
    let raw = || number(Impute::Mean, false, Scale::None);
    for (wrong, outcome, what, named) in [
        (plan(), None, "setting", "features"),
        (plan().feature("y", raw()), Some("y"), "column", "y"),
        (plan().feature("y", raw()).outcome("y"), None, "column", "y"),
        (plan().feature("x", raw()), None, "row", "1"),
        (plan().feature("plan", raw()), None, "column", "plan"),
        (plan().feature("nobody", raw()), None, "column", "nobody"),
        (
            plan().feature("plan", Encoding::Target { smoothing: 1.0 }),
            None,
            "setting",
            "outcome",
        ),
        (
            plan().feature("plan", Encoding::Target { smoothing: -1.0 }),
            Some("y"),
            "setting",
            "smoothing",
        ),
        (
            plan().feature("plan", Encoding::Target { smoothing: 1.0 }),
            Some("y"),
            "setting",
            "folds",
        ),
        (
            plan().feature("plan", Encoding::Target { smoothing: 1.0 }),
            Some("x"),
            "column",
            "x",
        ),
        (
            plan().feature("y", raw()).feature("y", raw()),
            None,
            "feature",
            "y",
        ),
        (
            plan().feature("plan", Encoding::Ordinal { levels: vec![] }),
            None,
            "setting",
            "levels",
        ),
    ] {
        let error = wrong.fit(&table, outcome).unwrap_err();
        assert_eq!(
            (error.kind(), error.context(what)),
            (ErrorKind::Invalid, Some(named)),
            "{wrong:?}: {error}"
        );
    }
    let fitted = plan()
        .feature("plan", Encoding::Frequency)
        .fit(&table, None)
        .unwrap()
        .fitted;
    assert!(fitted.encode_row(&[], &mut [0.0]).is_err());
    assert!(fitted.encode_row(&["a".into()], &mut []).is_err());
    assert!(
        fitted.encode_row(&[1_i64.into()], &mut [0.0]).is_err(),
        "another type"
    );
    let empty = plan()
        .feature("empty", one_hot(Unknown::Accept))
        .fit(&table, None)
        .unwrap();
    assert_eq!(empty.matrix.as_slice(), [1.0, 1.0]);
    // Not as it was written: refused when it is read.
    let damaged = r#"[{"source":"p","ty":"text","coder":{"coder":"one_hot","levels":["b","a"],"other":false,"refuse":false,"missing":false}}]"#;
    assert!(serde_json::from_str::<FittedEncoding>(damaged).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn one_row_is_encoded_as_a_million(
        rows in prop::collection::vec(
            (prop::option::of(-1e6..1e6_f64), prop::option::of("[a-e]{1,2}"), prop::option::of(0..4_i64), any::<bool>()),
            6..40,
        ),
    ) {
        let mut x = Column::float("x");
        let mut w = Column::text("w");
        let mut i = Column::empty("i", FieldType::Int).unwrap();
        let mut b = Column::empty("b", FieldType::Bool).unwrap();
        for (number, word, int, flag) in &rows {
            x.push((*number).into()).unwrap();
            w.push_text(word.as_deref());
            i.push((*int).into()).unwrap();
            b.push((*flag).into()).unwrap();
        }
        let table = Table::new(vec![x, w, i, b]).unwrap();
        let plan = EncodingPlan::new(5)
            .feature("x", Encoding::Number { impute: Impute::Constant(3.0), log1p: true, scale: Scale::Standard, missing: true })
            .feature("w", Encoding::OneHot { max_categories: Some(3), min_count: 2, unknown: Unknown::Accept, missing: true })
            .feature("i", Encoding::Target { smoothing: 1.5 });
        let plan = EncodingPlan { folds: 3, ..plan };
        let fitted = plan.fit(&table, Some("b")).unwrap().fitted;
        let stored = serde_json::to_string(&fitted).unwrap();
        let fitted: FittedEncoding = serde_json::from_str(&stored).unwrap();
        prop_assert_eq!(fitted.schema_hash().len(), 64);
        let (all, report) = fitted.apply(&table).unwrap();
        let mut counted = crm_analytics::features::EncodingReport::default();
        let mut out = vec![0.0; fitted.names().len()];
        for (row, (number, word, int, _)) in rows.iter().enumerate() {
            let values: [Value; 3] = [(*number).into(), word.clone().into(), (*int).into()];
            let one = fitted.encode_row(&values, &mut out).unwrap();
            counted.unknown += one.unknown;
            counted.imputed += one.imputed;
            let bits = |v: &[f64]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            prop_assert_eq!(bits(&out), bits(all.row(row)));
        }
        prop_assert_eq!(counted, report);
    }
}
