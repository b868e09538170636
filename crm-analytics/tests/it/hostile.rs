//! No call panics, whatever it is given: an answer that is sound, or an error of the caller's kind.

use crm_analytics::features::{Scaling, to_matrix};
use crm_analytics::judge::{
    GroupCriteria, Split, choose_groups, cross_validate, cross_validate_numbers, drift, folds,
    permutation_importance, psi, stability, train_test,
};
use crm_analytics::metrics::{
    accuracy, adjusted_rand, brier, calinski_harabasz, confusion, davies_bouldin, inertia, lift_table,
    log_loss, number_scores, reliability, roc, silhouette,
};
use crm_analytics::model::{ModelSpec, read_classifier, read_clusters, read_reduction, read_regressor};
use crm_core::{Column, ErrorKind, Matrix, Result, Table};
use proptest::prelude::*;

fn matrix(cols: usize, values: Vec<f64>) -> Matrix {
    Matrix::new((0..cols).map(|i| format!("x{i}")).collect(), values).unwrap()
}

/// Few columns and rows, or one, or none; values that repeat, that are all one, and that are as large as numbers get.
fn any_matrix() -> impl Strategy<Value = Matrix> {
    let value = prop_oneof![
        6 => -5.0..5.0_f64,
        3 => prop_oneof![Just(0.0), Just(-0.0), Just(1.0), Just(3.0)],
        1 => prop_oneof![Just(1e12), Just(-1e150), Just(f64::MAX), Just(f64::MIN_POSITIVE), Just(5e-324)],
    ];
    let shapes = prop_oneof![
        (1..4_usize, 0..25_usize),
        Just((1, 1)),
        Just((3, 1)),
        Just((1, 20))
    ];
    shapes.prop_flat_map(move |(cols, rows)| {
        let any = prop::collection::vec(value.clone(), cols * rows);
        let constant = value.clone().prop_map(move |v| vec![v; cols * rows]);
        // The same row again and again.
        let twins = prop::collection::vec(value.clone(), cols).prop_map(move |row| row.repeat(rows));
        prop_oneof![4 => any, 1 => constant, 1 => twins].prop_map(move |v| matrix(cols, v))
    })
}

/// Numbers of which some are none.
fn any_number() -> impl Strategy<Value = f64> {
    prop_oneof![
        4 => -2.0..2.0_f64,
        1 => prop_oneof![Just(f64::NAN), Just(f64::INFINITY), Just(f64::NEG_INFINITY), Just(1e308), Just(0.0)],
    ]
}

fn any_label() -> impl Strategy<Value = usize> {
    prop_oneof![8 => 0..4_usize, 1 => prop_oneof![Just(70_000), Just(usize::MAX), Just(usize::MAX - 1)]]
}

/// The error is the caller's, and says something.
fn refused<T>(what: &str, answer: Result<T>) -> std::result::Result<Option<T>, TestCaseError> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(error) => {
            let kinds = [ErrorKind::Invalid, ErrorKind::Unsupported, ErrorKind::Config];
            prop_assert!(kinds.contains(&error.kind()), "{}: {}", what, error);
            Ok(None)
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn measures_stand_anything(
        x in any_matrix(),
        labels in prop::collection::vec(prop::option::weighted(0.9, any_label()), 0..25),
        others in prop::collection::vec(any_label(), 0..25),
        numbers in prop::collection::vec(any_number(), 0..25),
        more in prop::collection::vec(any_number(), 0..25),
        size in prop_oneof![0..40_usize, Just(usize::MAX)],
    ) {
        if let Some(found) = refused("inertia", inertia(&x, &labels, &x))? {
            prop_assert!(found >= 0.0);
        }
        if let Some(found) = refused("silhouette", silhouette(&x, &labels, size, 1))? {
            prop_assert!(found.mean.is_nan() || (-1.0..=1.0).contains(&found.mean));
        }
        refused("variance ratio", calinski_harabasz(&x, &labels))?;
        refused("Davies-Bouldin", davies_bouldin(&x, &labels))?;
        let classes: Vec<usize> = labels.iter().flatten().copied().collect();
        refused("agreement", adjusted_rand(&labels, &others.iter().map(|l| Some(*l)).collect::<Vec<_>>()))?;
        refused("accuracy", accuracy(&classes, &others))?;
        refused("confusion", confusion(&classes, &others))?;
        refused("log loss", log_loss(&x, &others))?;
        refused("Brier", brier(&x, &others))?;
        refused("numbers", number_scores(&numbers, &more))?;
        let positive: Vec<bool> = others.iter().map(|label| label % 2 == 0).collect();
        refused("roc", roc(&numbers, &positive))?;
        refused("lift", lift_table(&numbers, &positive, size))?;
        refused("reliability", reliability(&numbers, &positive, size))?;
        refused("psi", psi(&numbers, &more))?;
        refused("drift", drift(&x, &x, size))?;
        let width = x.cols();
        let other = matrix(width, numbers.iter().map(|v| if v.is_finite() { *v } else { 7.0 }).take(numbers.len() / width * width).collect());
        if let Some(found) = refused("drift", drift(&x, &other, size))? {
            prop_assert!(found.columns.iter().all(|column| column.psi.is_finite() && column.psi >= -1e-12));
        }
    }

    #[test]
    fn rows_are_parted_or_refused(
        rows in 0..30_usize,
        share in any_number(),
        count in prop_oneof![0..40_usize, Just(usize::MAX)],
        classes in prop::collection::vec(any_label(), 0..30),
        times in prop::collection::vec(prop_oneof![-3..3_i64, Just(i64::MIN), Just(i64::MAX)], 0..30),
        seed in any::<u64>(),
    ) {
        let groups: Vec<u64> = classes.iter().map(|class| *class as u64).collect();
        for split in [Split::Random, Split::Stratified(&classes), Split::Groups(&groups), Split::Time(&times)] {
            if let Some(fold) = refused("once", train_test(rows, share, &split, seed))? {
                prop_assert!(!fold.train.is_empty() && !fold.test.is_empty());
                prop_assert!(fold.test.iter().all(|row| fold.train.binary_search(row).is_err()));
            }
            for fold in refused("folds", folds(rows, count, &split, seed))?.into_iter().flatten() {
                prop_assert!(fold.test.iter().all(|row| fold.train.binary_search(row).is_err()));
            }
        }
    }

    #[test]
    fn tables_become_matrices_or_an_error_names_the_column(
        numbers in prop::collection::vec(prop::option::of(any_number()), 0..20),
        logs in prop::collection::vec(prop_oneof![Just("a".to_owned()), Just("nowhere".to_owned())], 0..2),
    ) {
        let mut column = Column::float("a");
        for number in &numbers {
            column.push(number.map_or(crm_core::record::Value::Null, Into::into)).unwrap();
        }
        let whole = numbers.iter().all(|number| number.is_some_and(f64::is_finite));
        match to_matrix(&Table::new(vec![column]).unwrap()) {
            Ok(x) => {
                prop_assert!(whole);
                if let Some(scaling) = refused("scaling", Scaling::fit(&x, &logs))? {
                    refused("scaled", scaling.apply(&x))?;
                }
            }
            Err(error) => {
                prop_assert!(!whole);
                prop_assert!(error.to_string().contains("column=a"), "{}", error);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(25))]

    #[test]
    fn judges_stand_anything(
        x in any_matrix(),
        classes in prop::collection::vec(any_label(), 0..25),
        numbers in prop::collection::vec(any_number(), 0..25),
        (from, to) in (0..5_usize, 0..5_usize),
        seed in any::<u64>(),
    ) {
        let criteria = GroupCriteria { references: 2, ..GroupCriteria::between(from..=to) };
        let kmeans = ModelSpec::new("kmeans").with("clusters", 2).with("starts", 2).clusterer(1).unwrap();
        if let Some(choice) = refused("choice", choose_groups(&*kmeans, &x, &criteria, seed))? {
            prop_assert!((from..=to).contains(&choice.recommended));
        }
        refused("stability", stability(&*kmeans, &x, 2, seed))?;
        let tree = ModelSpec::new("cart").classifier(1).unwrap();
        let numbers_tree = ModelSpec::new("cart-regressor").regressor(1).unwrap();
        // Lengths that fit, and those that do not.
        for rows in [x.rows(), classes.len()] {
            let classes: Vec<usize> = classes.iter().copied().cycle().take(if classes.is_empty() { 0 } else { rows }).collect();
            let numbers: Vec<f64> = numbers.iter().copied().cycle().take(if numbers.is_empty() { 0 } else { rows }).collect();
            refused("classes", cross_validate(&*tree, &x, &classes, &Split::Random, 3, seed))?;
            refused("numbers", cross_validate_numbers(&*numbers_tree, &x, &numbers, &Split::Random, 3, seed))?;
            if let Some(model) = refused("tree", tree.fit(&x, &classes, seed))? {
                refused("importance", permutation_importance(&*model, &x, &classes, 2, seed))?;
            }
        }
    }

    /// A row to be scored comes from outside: another length, numbers that are none, values never seen.
    #[test]
    fn any_row_is_scored_or_refused(
        x in any_matrix(),
        row in prop::collection::vec(any_number(), 0..5),
        place in 0..4_usize,
        class in any_label(),
    ) {
        let fine = row.len() == x.cols() && row.iter().all(|value| value.is_finite());
        let classes: Vec<usize> = (0..x.rows()).map(|row| row % 3).collect();
        let values: Vec<f64> = (0..x.rows()).map(|row| row as f64).collect();
        let quick = |kind: &str| match kind {
            "random-forest" | "random-forest-regressor" => ModelSpec::new(kind).with("trees", 3),
            "gradient-boosting" | "gradient-boosting-regressor" => ModelSpec::new(kind).with("rounds", 3),
            "kmeans" | "mini-batch-kmeans" | "linfa-kmeans" | "hierarchical" | "gaussian-mixture" | "linfa-gaussian-mixture" => ModelSpec::new(kind).with("clusters", 2),
            _ => ModelSpec::new(kind),
        };
        for kind in ModelSpec::CLUSTERERS {
            let Some(model) = refused(kind, quick(kind).clusterer(1).unwrap().fit(&x, 1))? else { continue };
            match refused(kind, model.assign_row(&row))? {
                Some(group) => prop_assert!(fine && group.is_none_or(|group| group < model.clusters()), "{}", kind),
                None => prop_assert!(!fine, "{}", kind),
            }
            prop_assert!(read_clusters(model.to_json().unwrap()).is_ok());
        }
        for kind in ModelSpec::REDUCERS {
            for standardise in [false, true] {
                let spec = ModelSpec::new(*kind).with("components", 3).with("standardise", standardise);
                let Some(model) = refused(kind, spec.reducer(1).unwrap().fit(&x))? else { continue };
                prop_assert!(model.explained_ratio().iter().sum::<f64>() <= 1.0 + 1e-9, "{}", kind);
                let mut out = vec![0.0; place];
                if refused(kind, model.project_row(&row, &mut out))?.is_some() {
                    prop_assert!(fine && place == model.components().rows(), "{}", kind);
                }
                prop_assert!(read_reduction(model.to_json().unwrap()).is_ok());
            }
        }
        for kind in ModelSpec::CLASSIFIERS {
            let Some(model) = refused(kind, quick(kind).classifier(1).unwrap().fit(&x, &classes, 1))? else { continue };
            let mut out = vec![0.0; place];
            if refused(kind, model.score_row(&row, &mut out))?.is_some() {
                prop_assert!(fine && place == model.classes(), "{}", kind);
                prop_assert!((out.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{} {:?}", kind, out);
            }
            refused(kind, model.explain_row(&row, class))?;
            prop_assert!(read_classifier(model.to_json().unwrap()).is_ok());
        }
        for kind in ModelSpec::REGRESSORS {
            let Some(model) = refused(kind, quick(kind).regressor(1).unwrap().fit(&x, &values, 1))? else { continue };
            refused(kind, model.score_row(&row))?;
            refused(kind, model.explain_row(&row))?;
            prop_assert!(read_regressor(model.to_json().unwrap()).is_ok());
        }
    }
}
