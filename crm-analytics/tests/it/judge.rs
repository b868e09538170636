//! Choosing and judging, against published values, formulas computed by hand, and chance.

use crm_analytics::judge::{
    Calibration, GroupCriteria, Method, Split, choose_groups, cross_validate, cross_validate_numbers, drift,
    folds, permutation_importance, permutation_importance_of_numbers, psi, stability, train_test,
};
use crm_analytics::metrics::{
    adjusted_rand, average_precision, brier, calinski_harabasz, confusion, davies_bouldin, lift_table,
    log_loss, reliability, roc, silhouette,
};
use crm_analytics::model::{KMeans, KMeansConfig, ModelSpec};
use crm_core::capability::ClusterModel;
use crm_core::{ErrorKind, Matrix};
use proptest::prelude::*;

use crate::iris::iris;

fn matrix(cols: usize, values: Vec<f64>) -> Matrix {
    Matrix::new((0..cols).map(|i| format!("x{i}")).collect(), values).unwrap()
}

fn kmeans(clusters: usize) -> KMeans {
    KMeans::new(KMeansConfig::new(clusters)).unwrap()
}

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-6 * (1.0 + b.abs())
}

#[test]
fn iris_groups_have_the_published_measures() {
    let (x, species) = iris();
    let species: Vec<Option<usize>> = species.into_iter().map(Some).collect();
    // k, inertia, silhouette, Calinski-Harabasz, Davies-Bouldin, agreement with the species.
    for (k, inertia, score, ratio, index, rand) in [
        (
            2,
            152.347_951_760_4,
            0.681_046_169_2,
            513.924_545_98,
            0.404_292_837_2,
            0.539_921_83,
        ),
        (
            3,
            78.851_441_426_1,
            0.552_819_012_4,
            561.627_756_63,
            0.661_971_546_5,
            0.730_238_27,
        ),
        (
            4,
            57.228_473_214_3,
            0.498_050_505_0,
            530.765_808_19,
            0.780_306_983_9,
            0.649_817_69,
        ),
        (
            5,
            46.446_182_051_3,
            0.488_748_887_1,
            495.541_487_68,
            0.805_965_212_0,
            0.607_896_47,
        ),
    ] {
        let config = KMeansConfig {
            starts: 50,
            ..KMeansConfig::new(k)
        };
        let model = KMeans::new(config).unwrap().learn(&x, None, 3).unwrap();
        let labels = model.predict(&x).unwrap();
        assert!(near(model.inertia(), inertia), "k={k}: {}", model.inertia());
        assert!(near(silhouette(&x, &labels, 5000, 0).unwrap().mean, score));
        assert!(near(calinski_harabasz(&x, &labels).unwrap(), ratio));
        assert!(near(davies_bouldin(&x, &labels).unwrap(), index));
        assert!(near(adjusted_rand(&labels, &species).unwrap(), rand));
    }
}

#[test]
fn a_number_of_groups_is_recommended_with_a_reason() {
    // Four clear groups: everybody agrees.
    let mut values = Vec::new();
    for (across, up) in [(0.0, 0.0), (10.0, 0.0), (0.0, 10.0), (10.0, 10.0)] {
        for i in 0..60 {
            values.extend([across + f64::from(i % 8) * 0.1, up + f64::from(i / 8) * 0.1]);
        }
    }
    let x = matrix(2, values);
    let choice = choose_groups(&kmeans(2), &x, &GroupCriteria::between(2..=7), 1).unwrap();
    assert_eq!(
        (choice.recommended, choice.by_gap, choice.elbow),
        (4, Some(4), Some(4)),
        "{choice:?}"
    );
    assert!(
        choice
            .reason
            .starts_with("4 groups: best by silhouette, Calinski-Harabasz, Davies-Bouldin, gap statistic")
    );
    // An even scatter: the gap statistic says so.
    let even = matrix(
        2,
        (0..400)
            .flat_map(|i| [f64::from(i % 20), f64::from(i / 20)])
            .collect(),
    );
    let choice = choose_groups(&kmeans(2), &even, &GroupCriteria::between(2..=5), 1).unwrap();
    assert_eq!(choice.by_gap, Some(1), "{choice:?}");
    assert!(choice.reason.contains("even scatter"), "{}", choice.reason);
    let same = choose_groups(&kmeans(2), &even, &GroupCriteria::between(2..=5), 1).unwrap();
    assert_eq!(same, choice);
    let text = serde_json::to_string(&choice).unwrap();
    assert_eq!(
        serde_json::from_str::<crm_analytics::judge::GroupChoice>(&text).unwrap(),
        choice
    );
    let wrong = choose_groups(
        &kmeans(2),
        &even,
        &GroupCriteria {
            from: 1,
            ..GroupCriteria::default()
        },
        1,
    )
    .unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::Invalid);
    let dbscan = ModelSpec::new("dbscan").clusterer(1).unwrap();
    let unsized_error = choose_groups(&*dbscan, &even, &GroupCriteria::default(), 1).unwrap_err();
    assert_eq!(unsized_error.kind(), ErrorKind::Unsupported);
}

#[test]
fn firm_groups_come_back_and_loose_ones_do_not() {
    let (x, _) = crm_core::testkit::models::three_groups();
    let firm = stability(&kmeans(3), &x, 10, 1).unwrap();
    assert_eq!((firm.mean, firm.agreements.len()), (1.0, 10));
    let even = matrix(
        2,
        (0..400)
            .flat_map(|i| [f64::from(i % 20), f64::from(i / 20)])
            .collect(),
    );
    let loose = stability(&kmeans(7), &even, 10, 1).unwrap();
    assert!(loose.mean < 0.9 && loose.least <= loose.mean, "{loose:?}");
    assert!(stability(&kmeans(3), &x, 0, 1).is_err());
}

#[test]
fn agreement_of_groupings_has_known_values() {
    let of = |labels: &[usize]| labels.iter().map(|l| Some(*l)).collect::<Vec<_>>();
    // The example of scikit-learn's documentation.
    assert!(near(
        adjusted_rand(&of(&[0, 0, 1, 2]), &of(&[0, 0, 1, 1])).unwrap(),
        0.571_428_571
    ));
    assert_eq!(
        adjusted_rand(&of(&[0, 0, 1, 1]), &of(&[5, 5, 2, 2])).unwrap(),
        1.0
    );
    assert!(near(
        adjusted_rand(&of(&[0, 0, 0, 0]), &of(&[0, 1, 2, 3])).unwrap(),
        0.0
    ));
    assert!(adjusted_rand(&of(&[0]), &of(&[])).is_err());
}

#[test]
fn a_curve_has_known_areas_and_errors() {
    // Hanley and McNeil's kind of example, by hand: 3 of 4 pairs right and a tie.
    let curve = roc(&[0.9, 0.5, 0.5, 0.1], &[true, true, false, false]).unwrap();
    assert_eq!(curve.auc, 0.875);
    // DeLong by its definition: the variances of the placements.
    let (scores, positive) = noisy(200);
    let curve = roc(&scores, &positive).unwrap();
    let of = |kind: bool| -> Vec<f64> {
        scores
            .iter()
            .zip(&positive)
            .filter(|(_, p)| **p == kind)
            .map(|(s, _)| *s)
            .collect()
    };
    let (hits, misses) = (of(true), of(false));
    let half = |a: f64, b: f64| {
        if a > b {
            1.0
        } else if a == b {
            0.5
        } else {
            0.0
        }
    };
    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
    let of_hits: Vec<f64> = hits
        .iter()
        .map(|h| mean(&misses.iter().map(|m| half(*h, *m)).collect::<Vec<_>>()))
        .collect();
    let of_misses: Vec<f64> = misses
        .iter()
        .map(|m| mean(&hits.iter().map(|h| half(*h, *m)).collect::<Vec<_>>()))
        .collect();
    let variance = |v: &[f64]| {
        v.iter().map(|x| (x - mean(v)).powi(2)).sum::<f64>() / (v.len() - 1) as f64 / v.len() as f64
    };
    assert!(near(curve.auc, mean(&of_hits)));
    assert!(near(
        curve.error.unwrap(),
        (variance(&of_hits) + variance(&of_misses)).sqrt()
    ));
    let (low, high) = curve.interval().unwrap();
    assert!(low < curve.auc && curve.auc < high && high <= 1.0);
    for (scores, positive) in [
        (vec![0.5], vec![true]),
        (vec![f64::NAN, 1.0], vec![true, false]),
        (vec![0.1], vec![true, false]),
    ] {
        assert_eq!(roc(&scores, &positive).unwrap_err().kind(), ErrorKind::Invalid);
    }
    // By steps: 1/2 * 1 + 1/2 * 2/3.
    assert!(near(
        average_precision(&[0.9, 0.8, 0.7], &[true, false, true]).unwrap(),
        5.0 / 6.0
    ));
}

/// Scores that say something, with ties.
fn noisy(rows: usize) -> (Vec<f64>, Vec<bool>) {
    (0..rows)
        .map(|i| {
            let score = (i * 37 % 101) as f64 / 101.0;
            let chance = (i * 61 % 89) as f64 / 89.0;
            ((score * 20.0).round() / 20.0, chance < score)
        })
        .unzip()
}

#[test]
fn lift_is_one_for_a_score_without_meaning() {
    let (_, positive) = noisy(97);
    let table = lift_table(&[0.3; 97], &positive, 10).unwrap();
    assert!(
        table
            .parts
            .iter()
            .all(|part| near(part.lift, 1.0) && near(part.cumulative_lift, 1.0)),
        "{table:?}"
    );
    let (scores, positive) = noisy(1000);
    let table = lift_table(&scores, &positive, 10).unwrap();
    let hits = positive.iter().filter(|p| **p).count() as f64;
    assert!(near(
        table.parts.iter().map(|part| part.positives).sum::<f64>(),
        hits
    ));
    assert!(near(
        table.parts.iter().map(|part| part.rows).sum::<f64>(),
        1000.0
    ));
    assert!(near(table.parts[9].gain, 1.0) && near(table.parts[9].cumulative_lift, 1.0));
    assert!(table.parts[0].lift > 1.5 && table.parts[9].lift < 0.5);
    assert!(
        table
            .parts
            .windows(2)
            .all(|w| w[0].min_score >= w[1].max_score || w[0].min_score == w[1].max_score)
    );
    // All positives first: the best there is.
    let perfect = lift_table(&[4.0, 3.0, 2.0, 1.0], &[true, false, false, false], 4).unwrap();
    assert_eq!(perfect.parts[0].lift, 4.0);
    assert!(lift_table(&[1.0, 2.0], &[true, false], 3).is_err());
}

#[test]
fn losses_and_tables_by_hand() {
    let p = matrix(2, vec![0.9, 0.1, 0.2, 0.8, 0.5, 0.5]);
    let expected = -(0.9_f64.ln() + 0.8_f64.ln() + 0.5_f64.ln()) / 3.0;
    assert!(near(log_loss(&p, &[0, 1, 1]).unwrap(), expected));
    assert!(near(brier(&p, &[0, 1, 1]).unwrap(), (0.01 + 0.04 + 0.25) / 3.0));
    let certain = matrix(2, vec![1.0, 0.0]);
    assert!(
        near(log_loss(&certain, &[1]).unwrap(), -f64::EPSILON.ln()),
        "never without end"
    );
    assert_eq!(
        log_loss(&matrix(2, vec![1.5, -0.5]), &[0]).unwrap_err().kind(),
        ErrorKind::Invalid
    );
    let table = confusion(&[0, 0, 1, 1, 2], &[0, 1, 1, 1, 0]).unwrap();
    assert_eq!(table.counts, [[1, 1, 0], [0, 2, 0], [1, 0, 0]]);
    assert_eq!(table.accuracy, 0.6);
    assert!(near(table.balanced_accuracy, 0.5));
    assert_eq!(
        (table.classes[1].precision, table.classes[1].recall),
        (Some(2.0 / 3.0), Some(1.0))
    );
    assert_eq!(
        (table.classes[2].precision, table.classes[2].recall),
        (None, Some(0.0))
    );
}

#[test]
fn probabilities_come_true_once_calibrated() {
    // True probability is the square of the score.
    let scores: Vec<f64> = (0..4000).map(|i| f64::from(i * 37 % 4001) / 4001.0).collect();
    let positive: Vec<bool> = scores
        .iter()
        .enumerate()
        .map(|(i, s)| (i * 7919 % 4001) as f64 / 4001.0 < s * s)
        .collect();
    let before = reliability(&scores, &positive, 10).unwrap();
    assert!(before.ece > 0.1, "{before:?}");
    for method in [Method::Platt, Method::Isotonic] {
        let calibration = Calibration::fit(method, &scores, &positive).unwrap();
        let after: Vec<f64> = scores.iter().map(|s| calibration.apply(*s)).collect();
        let judged = reliability(&after, &positive, 10).unwrap();
        assert!(
            judged.ece < 0.05 && judged.brier < before.brier,
            "{method:?}: {judged:?}"
        );
        let text = serde_json::to_string(&calibration).unwrap();
        let again: Calibration = serde_json::from_str(&text).unwrap();
        assert!(
            scores.iter().zip(&after).all(|(s, p)| again.apply(*s) == *p),
            "to the last bit"
        );
        let rising: Vec<f64> = (-10..=20)
            .map(|i| calibration.apply(f64::from(i) / 10.0))
            .collect();
        assert!(rising.windows(2).all(|w| w[0] <= w[1]) && rising.iter().all(|p| (0.0..=1.0).contains(p)));
    }
    // Murphy's parts sum to the Brier score of the bins.
    let binned: Vec<f64> = scores.iter().map(|s| (s * 10.0).floor() / 10.0).collect();
    let parts = reliability(&binned, &positive, 400).unwrap();
    assert!(
        near(
            parts.brier,
            parts.miscalibration - parts.resolution + parts.uncertainty
        ),
        "{parts:?}"
    );
    assert!(Calibration::fit(Method::Platt, &[1.0, 2.0], &[true, true]).is_err());
    // A score without spread gets the rate of all, and separated ones stay finite.
    let flat = Calibration::fit(
        Method::Platt,
        &[2.0; 10],
        &[true, false, false, false, false].repeat(2),
    )
    .unwrap();
    assert!((flat.apply(2.0) - 0.2).abs() < 0.1, "{flat:?}");
    let apart = Calibration::fit(Method::Platt, &[0.0, 0.1, 0.9, 1.0], &[false, false, true, true]).unwrap();
    assert!(apart.apply(1.0) < 1.0 && apart.apply(1.0) > 0.6, "{apart:?}");
}

#[test]
fn drift_has_its_known_value_and_sees_what_moved() {
    let (before, now) = ([0.1, 0.2, 0.4, 0.2, 0.1], [0.05, 0.15, 0.35, 0.25, 0.2]);
    assert!((psi(&before, &now).unwrap() - 0.136_189_93).abs() < 1e-8);
    assert_eq!(
        psi(&[0.5, 0.0], &[0.5, 0.5]).unwrap_err().kind(),
        ErrorKind::Invalid
    );
    let old = matrix(
        3,
        (0..2000)
            .flat_map(|i| [f64::from(i % 997), f64::from(i % 3), 5.0])
            .collect(),
    );
    let new = matrix(
        3,
        (0..997)
            .flat_map(|i| [f64::from(i * 7 % 997), f64::from(u8::from(i % 9 == 0)), 5.0])
            .collect(),
    );
    let found = drift(&old, &new, 10).unwrap();
    assert!(
        found.columns[0].psi < 0.02 && found.columns[0].p_value > 0.01,
        "{:?}",
        found.columns[0]
    );
    assert!(
        found.columns[1].psi > 0.25 && found.columns[1].p_value < 1e-9,
        "{:?}",
        found.columns[1]
    );
    assert_eq!(
        (found.columns[2].psi < 1e-3, found.columns[2].p_value),
        (true, 1.0),
        "nothing moved"
    );
    assert_eq!(found.most().unwrap().column, "x1");
    // What was constant and no longer is shows.
    let moved = matrix(
        3,
        (0..100)
            .flat_map(|i| [f64::from(i % 997), f64::from(i % 3), 6.0])
            .collect(),
    );
    assert!(drift(&old, &moved, 10).unwrap().columns[2].psi > 1.0);
    assert!(drift(&old, &matrix(2, vec![1.0, 2.0]), 10).is_err());
}

#[test]
fn parts_are_fair_and_nothing_leaks() {
    let classes: Vec<usize> = (0..203).map(|i| usize::from(i % 10 == 0)).collect();
    let groups: Vec<u64> = (0..203).map(|i| i % 40).collect();
    let times: Vec<i64> = (0..203).map(|i| i * 13 % 50).collect();
    for split in [
        Split::Random,
        Split::Stratified(&classes),
        Split::Groups(&groups),
        Split::Time(&times),
    ] {
        let once = train_test(203, 0.25, &split, 5).unwrap();
        assert!(
            (30..=70).contains(&once.test.len()),
            "{split:?}: {}",
            once.test.len()
        );
        assert_eq!(once.test.len() + once.train.len(), 203);
        assert_eq!(
            train_test(203, 0.25, &split, 5).unwrap(),
            once,
            "same seed, same parts"
        );
        let many = folds(203, 4, &split, 5).unwrap();
        assert_eq!(many.len(), 4);
        let mut judged: Vec<usize> = many.iter().flat_map(|fold| fold.test.clone()).collect();
        judged.sort_unstable();
        judged.dedup();
        assert_eq!(
            judged.len(),
            many.iter().map(|fold| fold.test.len()).sum::<usize>(),
            "a row is judged on once"
        );
        for fold in many.iter().chain([&once]) {
            assert!(
                fold.test.iter().all(|row| !fold.train.contains(row)),
                "no row on both sides"
            );
            match split {
                Split::Stratified(_) => {
                    let share = fold.test.iter().filter(|row| classes[**row] == 1).count() as f64
                        / fold.test.len() as f64;
                    assert!((0.06..=0.14).contains(&share), "{share}");
                }
                Split::Groups(_) => {
                    let of = |rows: &[usize]| {
                        rows.iter()
                            .map(|row| groups[*row])
                            .collect::<std::collections::BTreeSet<_>>()
                    };
                    assert!(
                        of(&fold.test).is_disjoint(&of(&fold.train)),
                        "a group on both sides"
                    );
                }
                Split::Time(_) => {
                    let last = fold.train.iter().map(|row| times[*row]).max().unwrap();
                    let first = fold.test.iter().map(|row| times[*row]).min().unwrap();
                    assert!(last < first, "the future judges");
                }
                Split::Random => {}
            }
        }
    }
    for wrong in [0.0, 1.0, f64::NAN] {
        assert_eq!(
            train_test(10, wrong, &Split::Random, 0).unwrap_err().kind(),
            ErrorKind::Invalid
        );
    }
    assert!(train_test(10, 0.5, &Split::Stratified(&[0; 3]), 0).is_err());
    assert!(
        folds(10, 2, &Split::Time(&[7; 10]), 0).is_err(),
        "one point in time cannot be parted"
    );
    assert!(folds(3, 4, &Split::Random, 0).is_err());
    assert!(train_test(0, 0.5, &Split::Random, 0).is_err());
}

#[test]
fn a_model_is_worth_less_on_rows_it_has_not_seen() {
    // Classes by chance: nothing can be learned, and cross-validation says so.
    let x = matrix(2, (0..400).map(|i| f64::from(i * 7919 % 1009)).collect());
    let mut state = 3_u64;
    let chance: Vec<usize> = (0..200)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 63) as usize
        })
        .collect();
    let deep = ModelSpec::new("cart")
        .with("max_depth", 64)
        .classifier(1)
        .unwrap();
    let seen = deep.fit(&x, &chance, 0).unwrap().predict(&x).unwrap();
    assert_eq!(seen, chance, "learned by heart");
    let found = cross_validate(&*deep, &x, &chance, &Split::Stratified(&chance), 5, 1).unwrap();
    assert!(found.accuracy < 0.65 && found.auc.unwrap() < 0.65, "{found:?}");
    assert_eq!((found.rows.len(), found.probabilities.len()), (200, 200));
    let (x, species) = iris();
    let tree = ModelSpec::new("cart").classifier(1).unwrap();
    let found = cross_validate(&*tree, &x, &species, &Split::Stratified(&species), 5, 1).unwrap();
    assert!(found.accuracy > 0.9 && found.auc.is_none(), "{found:?}");
    // The length of the petals from their width.
    let length: Vec<f64> = x.iter_col(2).collect();
    let width = matrix(1, x.iter_col(3).collect());
    let ridge = ModelSpec::new("ridge").regressor(1).unwrap();
    let found = cross_validate_numbers(&*ridge, &width, &length, &Split::Random, 5, 1).unwrap();
    assert!(found.scores.r2.unwrap() > 0.9, "{:?}", found.scores);
    assert!(cross_validate(&*tree, &x, &species[1..], &Split::Random, 5, 1).is_err());
}

#[test]
fn what_matters_is_missed_when_mixed_up() {
    let (x, groups) = crm_core::testkit::models::three_groups();
    let values = x
        .iter_rows()
        .enumerate()
        .flat_map(|(i, row)| [row[0], row[1], (i * 31 % 17) as f64])
        .collect();
    let x = matrix(3, values);
    let model = ModelSpec::new("random-forest")
        .classifier(1)
        .unwrap()
        .fit(&x, &groups, 1)
        .unwrap();
    let found = permutation_importance(&*model, &x, &groups, 3, 1).unwrap();
    assert!(
        found[0].loss > 0.2 && found[1].loss > 0.05 && found[2].loss.abs() < 0.05,
        "{found:?}"
    );
    assert_eq!(found, permutation_importance(&*model, &x, &groups, 3, 1).unwrap());
    let values: Vec<f64> = x.iter_col(0).map(|v| 3.0 * v).collect();
    let line = ModelSpec::new("ridge")
        .regressor(1)
        .unwrap()
        .fit(&x, &values, 1)
        .unwrap();
    let found = permutation_importance_of_numbers(&*line, &x, &values, 2, 1).unwrap();
    assert!(found[0].loss > 5.0 && found[2].loss.abs() < 1e-6, "{found:?}");
    assert!(permutation_importance(&*model, &x, &groups, 0, 1).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Any scores are judged soundly or refused.
    #[test]
    fn any_scores_are_judged_or_refused(
        rows in prop::collection::vec((prop_oneof![0.0..1.0_f64, Just(0.5), Just(f64::MAX), Just(-1e300)], any::<bool>()), 0..60),
        parts in 0..20_usize,
    ) {
        let (scores, positive): (Vec<f64>, Vec<bool>) = rows.into_iter().unzip();
        match roc(&scores, &positive) {
            Ok(curve) => {
                prop_assert!((0.0..=1.0).contains(&curve.auc) && (0.0..=1.0).contains(&curve.ks));
                prop_assert!(curve.points.windows(2).all(|w| w[0].true_positive_rate <= w[1].true_positive_rate));
                prop_assert!(curve.error.is_none_or(|error| (0.0..=0.6).contains(&error)));
            }
            Err(error) => prop_assert_eq!(error.kind(), ErrorKind::Invalid),
        }
        match lift_table(&scores, &positive, parts) {
            Ok(table) => {
                prop_assert_eq!(table.parts.len(), parts);
                prop_assert!(near(table.parts.last().unwrap().gain, 1.0));
                prop_assert!(table.parts.iter().all(|part| part.rate >= -1e-9 && part.rate <= 1.0 + 1e-9));
            }
            Err(error) => prop_assert_eq!(error.kind(), ErrorKind::Invalid),
        }
        for method in [Method::Platt, Method::Isotonic] {
            match Calibration::fit(method, &scores, &positive) {
                Ok(calibration) => {
                    for score in &scores {
                        prop_assert!((0.0..=1.0).contains(&calibration.apply(*score)), "{:?} at {}", calibration, score);
                    }
                }
                Err(error) => prop_assert_eq!(error.kind(), ErrorKind::Invalid),
            }
        }
        if let Err(error) = reliability(&scores, &positive, parts) {
            prop_assert_eq!(error.kind(), ErrorKind::Invalid);
        }
    }
}
