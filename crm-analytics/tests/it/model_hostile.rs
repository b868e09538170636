//! What our own models promise beyond the suites: threads change nothing, linfa's defects are not theirs, missing values,
//! explanations by brute force, and any input at all.

use crm_analytics::model::{
    BoostConfig, CartTree, GradientBoosting, KMeans, KMeansConfig, LogisticConfig, LogisticRegression,
    ModelSpec, Pca, PcaConfig, TreeConfig, read_classifier, read_clusters, read_regressor,
};
use crm_core::capability::{ClassifierModel, ReduceModel};
use crm_core::{ErrorKind, Matrix};
use proptest::prelude::*;

use crate::iris::iris;

fn matrix(cols: usize, values: Vec<f64>) -> Matrix {
    Matrix::new((0..cols).map(|i| format!("x{i}")).collect(), values).unwrap()
}

/// 30,000 rows in five overlapping groups: many stretches of rows, and more than the exact trees look at.
fn many_rows() -> (Matrix, Vec<usize>) {
    let mut state = 1_u64;
    let mut unit = move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1_u64 << 53) as f64
    };
    let (mut values, mut classes) = (Vec::new(), Vec::new());
    for row in 0..30_000 {
        let group = row % 5;
        for col in 0..4 {
            let center = ((group * 7 + col * 3) % 11) as f64;
            values.push(center + 2.0 * (unit() + unit() + unit() - 1.5));
        }
        classes.push(if unit() < 0.1 { (group + 1) % 5 } else { group });
    }
    (matrix(4, values), classes)
}

#[test]
fn threads_change_no_bit() {
    let (x, classes) = many_rows();
    let two: Vec<usize> = classes.iter().map(|class| class % 2).collect();
    let small = matrix(4, x.as_slice()[..4 * 6000].to_vec());
    for (kind, x) in [("kmeans", &x), ("dbscan", &small), ("gaussian-mixture", &small)] {
        let spec = if kind == "dbscan" {
            ModelSpec::new(kind).with("radius", 0.4)
        } else {
            ModelSpec::new(kind).with("clusters", 5)
        };
        let of = |threads: usize| {
            spec.clusterer(threads)
                .unwrap()
                .fit(x, 3)
                .unwrap()
                .to_json()
                .unwrap()
                .to_string()
        };
        assert!(of(1) == of(2) && of(1) == of(5), "{kind}");
    }
    let pca = |threads: usize| {
        Pca::new(PcaConfig::new(4))
            .unwrap()
            .threads(threads)
            .learn(&x)
            .unwrap()
    };
    assert!(pca(1) == pca(2) && pca(1) == pca(5));
    for spec in [
        ModelSpec::new("cart").with("max_depth", 8),
        ModelSpec::new("random-forest")
            .with("trees", 5)
            .with("max_depth", 6),
        ModelSpec::new("gradient-boosting").with("rounds", 5),
    ] {
        let of = |threads: usize| {
            spec.classifier(threads)
                .unwrap()
                .fit(&x, &two, 3)
                .unwrap()
                .to_json()
                .unwrap()
                .to_string()
        };
        assert!(of(1) == of(2) && of(1) == of(5), "{}", spec.kind);
    }
}

#[test]
fn a_sample_of_starts_loses_next_to_nothing() {
    let (x, _) = many_rows();
    for k in [3, 5, 8] {
        let sampled = KMeans::new(KMeansConfig {
            start_rows: 5000,
            ..KMeansConfig::new(k)
        })
        .unwrap();
        let whole = KMeans::new(KMeansConfig {
            start_rows: 30_000,
            ..KMeansConfig::new(k)
        })
        .unwrap();
        let (sampled, whole) = (
            sampled.learn(&x, None, 1).unwrap(),
            whole.learn(&x, None, 1).unwrap(),
        );
        assert!(
            sampled.inertia() <= whole.inertia() * 1.005,
            "k={k}: {} {}",
            sampled.inertia(),
            whole.inertia()
        );
    }
}

#[test]
fn bins_lose_next_to_nothing() {
    let (x, classes) = many_rows();
    let part = matrix(4, x.as_slice()[..4 * 20_000].to_vec());
    let of = |config: TreeConfig| {
        let model = CartTree::new(config)
            .unwrap()
            .threads(2)
            .learn(&part, &classes[..20_000], None)
            .unwrap();
        let told = model.predict(&x).unwrap();
        told[20_000..]
            .iter()
            .zip(&classes[20_000..])
            .filter(|(a, b)| a == b)
            .count() as f64
            / 10_000.0
    };
    let exact = of(TreeConfig {
        exact_rows: 20_000,
        min_leaf_rows: 20,
        ..TreeConfig::new(8)
    });
    let binned = of(TreeConfig {
        exact_rows: 0,
        min_leaf_rows: 20,
        ..TreeConfig::new(8)
    });
    assert!((exact - binned).abs() < 0.01, "exact {exact}, in bins {binned}");
    assert!(exact > 0.8);
}

#[test]
fn a_hundred_matrices_are_taken_apart_right() {
    // linfa-reduction 0.8.1 answers wrong directions for a third of such.
    let mut state = 9_u64;
    let mut unit = move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1_u64 << 53) as f64 - 0.5
    };
    for run in 0..100 {
        let (rows, cols) = (50 + run * 3, 2 + run % 9);
        let factors = 1 + run % 3;
        let loads: Vec<f64> = (0..factors * cols).map(|_| unit()).collect();
        let mut values = Vec::new();
        for _ in 0..rows {
            let hidden: Vec<f64> = (0..factors).map(|_| unit() * 4.0).collect();
            values.extend((0..cols).map(|col| {
                if col == cols - 1 && run % 4 == 0 {
                    3.0
                } else {
                    hidden
                        .iter()
                        .enumerate()
                        .map(|(f, h)| h * loads[f * cols + col])
                        .sum::<f64>()
                        + unit() * 0.2
                }
            }));
        }
        let x = matrix(cols, values);
        let model = Pca::new(PcaConfig::new(cols)).unwrap().learn(&x).unwrap();
        let means: Vec<f64> = (0..cols)
            .map(|c| x.iter_col(c).sum::<f64>() / rows as f64)
            .collect();
        for (direction, variance) in model.components().iter_rows().zip(model.variances()) {
            // The covariance times the direction is the variance times the direction.
            for i in 0..cols {
                let image: f64 = (0..cols)
                    .map(|j| {
                        let sum: f64 = x
                            .iter_rows()
                            .map(|row| (row[i] - means[i]) * (row[j] - means[j]))
                            .sum();
                        sum / (rows - 1) as f64 * direction[j]
                    })
                    .sum();
                assert!((image - variance * direction[i]).abs() < 1e-9, "run {run}");
            }
        }
        assert!((model.explained_ratio().iter().sum::<f64>() - 1.0).abs() < 1e-9);
    }
}

#[test]
fn classes_keep_their_names_whatever_their_size() {
    // linfa-logistic 0.8.1 answers the probability of the larger class.
    let x = matrix(1, (0..100).map(f64::from).collect());
    for flipped in [false, true] {
        let classes: Vec<usize> = (0..100)
            .map(|i| usize::from((i >= 80 || i == 11) != flipped))
            .collect();
        for kind in ModelSpec::CLASSIFIERS {
            let model = ModelSpec::new(*kind)
                .classifier(1)
                .unwrap()
                .fit(&x, &classes, 1)
                .unwrap();
            let mut out = [0.0; 2];
            model.score_row(&[99.0], &mut out).unwrap();
            assert!((out[1] > 0.5) != flipped, "{kind}: {out:?}");
        }
    }
}

#[test]
fn coefficients_without_bounds_are_errors() {
    let free = LogisticRegression::new(LogisticConfig {
        l2: 0.0,
        ..LogisticConfig::default()
    })
    .unwrap();
    let x = matrix(
        2,
        (0..40)
            .flat_map(|i| [f64::from(i), f64::from(i * 7 % 11)])
            .collect(),
    );
    let apart: Vec<usize> = (0..40).map(|i| usize::from(i >= 20)).collect();
    let error = free.learn(&x, &apart, None).unwrap_err();
    assert!(
        error.kind() == ErrorKind::Invalid && error.context("columns") == Some("x0"),
        "{error}"
    );
    // Only one class where a column is 1: told apart in part.
    let flags = matrix(
        2,
        (0..60)
            .flat_map(|i| [f64::from(u8::from(i < 10)), f64::from(i * 7 % 11)])
            .collect(),
    );
    let part: Vec<usize> = (0..60).map(|i| usize::from(i < 10 || i % 2 == 0)).collect();
    let error = free.learn(&flags, &part, None).unwrap_err();
    assert!(
        error
            .context("columns")
            .is_some_and(|columns| columns.contains("x0")),
        "{error}"
    );
    let noisy: Vec<usize> = (0..40).map(|i| usize::from(i * 13 % 40 >= 20)).collect();
    let twins = matrix(
        2,
        (0..40)
            .flat_map(|i| [f64::from(i), 3.0 * f64::from(i) + 1.0])
            .collect(),
    );
    let error = free.learn(&twins, &noisy, None).unwrap_err();
    assert_eq!(error.context("column"), Some("x1"), "{error}");
    let with_penalty = LogisticRegression::new(LogisticConfig::default()).unwrap();
    for (x, classes) in [(&x, &apart), (&flags, &part), (&twins, &noisy)] {
        with_penalty.learn(x, classes, None).unwrap();
    }
}

#[test]
fn standard_errors_are_those_of_the_second_derivatives() {
    // One column of zeros and ones: the log odds ratio has the known error sqrt(1/a + 1/b + 1/c + 1/d).
    let (mut values, mut classes) = (Vec::new(), Vec::new());
    for (value, class, count) in [(0.0, 0, 30), (0.0, 1, 10), (1.0, 0, 15), (1.0, 1, 45)] {
        for _ in 0..count {
            values.push(value);
            classes.push(class);
        }
    }
    let free = LogisticRegression::new(LogisticConfig {
        l2: 0.0,
        ..LogisticConfig::default()
    })
    .unwrap();
    let model = free.learn(&matrix(1, values), &classes, None).unwrap();
    assert!((model.coefficients().row(0)[0] - (45.0_f64 / 15.0 / (10.0 / 30.0)).ln()).abs() < 1e-6);
    let expected = (1.0_f64 / 30.0 + 0.1 + 1.0 / 15.0 + 1.0 / 45.0).sqrt();
    assert!(
        (model.standard_errors()[0] - expected).abs() < 1e-5,
        "{:?}",
        model.standard_errors()
    );
}

#[test]
fn missing_values_go_where_they_fit() {
    // The value says the class; where it is missing the class is 1.
    let values: Vec<f64> = (0..200)
        .map(|i| if i % 4 == 0 { -999.0 } else { f64::from(i) })
        .collect();
    let classes: Vec<usize> = (0..200).map(|i| usize::from(i % 4 == 0 || i >= 100)).collect();
    let x = matrix(1, values);
    for exact_rows in [0, 1000] {
        let told = |missing: Option<f64>, depth: usize| {
            let tree = CartTree::new(TreeConfig {
                missing,
                exact_rows,
                ..TreeConfig::new(depth)
            })
            .unwrap();
            let model = tree.learn(&x, &classes, None).unwrap();
            let read = read_classifier(model.to_json().unwrap()).unwrap();
            assert_eq!(read.probabilities(&x).unwrap(), model.probabilities(&x).unwrap());
            model.predict(&x).unwrap() == classes
        };
        assert!(
            told(Some(-999.0), 1),
            "one fork is enough when missing values may go high"
        );
        assert!(!told(None, 1), "and is not when -999 is a small number");
    }
    let boosting = GradientBoosting::new(BoostConfig {
        missing: Some(-999.0),
        max_leaves: 2,
        ..BoostConfig::default()
    })
    .unwrap();
    assert_eq!(
        boosting
            .learn(&x, &classes, None, 0)
            .unwrap()
            .predict(&x)
            .unwrap(),
        classes
    );
}

#[test]
fn boosting_ends_when_later_rows_say_so() {
    let (x, _) = many_rows();
    let x = matrix(4, x.as_slice()[..4 * 2000].to_vec());
    let chance: Vec<usize> = (0..2000).map(|i| usize::from(i * 7919 % 1009 < 500)).collect();
    let config = BoostConfig {
        rounds: 500,
        watch: 0.3,
        patience: 10,
        ..BoostConfig::default()
    };
    let model = GradientBoosting::new(config)
        .unwrap()
        .learn(&x, &chance, None, 1)
        .unwrap();
    assert!(
        model.rounds() < 100 && model.watched().len() == model.rounds() + 10,
        "{} rounds",
        model.rounds()
    );
    let best = model.watched().iter().copied().fold(f64::INFINITY, f64::min);
    assert_eq!(
        model.watched()[model.rounds() - 1],
        best,
        "the best round is the last kept"
    );
}

/// Shapley's value by its definition: all orders in which columns become known, rows of the tree weighted.
fn brute_force(
    model: &dyn ClassifierModel,
    nodes: &serde_json::Value,
    row: &[f64],
    class: usize,
) -> Vec<f64> {
    let nodes = nodes["model"]["nodes"].as_array().unwrap();
    let value = |known: u32| {
        fn walk(nodes: &[serde_json::Value], at: usize, row: &[f64], known: u32, class: usize) -> f64 {
            let node = &nodes[at];
            let Some(fork) = node["fork"].as_object() else {
                let values: Vec<f64> = serde_json::from_value(node["values"].clone()).unwrap();
                return values[class] / values.iter().sum::<f64>();
            };
            let of = |name: &str| fork[name].as_u64().unwrap() as usize;
            let (low, high) = (of("low"), of("high"));
            if known >> of("column") & 1 == 1 {
                let next = if row[of("column")] <= fork["threshold"].as_f64().unwrap() {
                    low
                } else {
                    high
                };
                return walk(nodes, next, row, known, class);
            }
            let rows = |child: usize| nodes[child]["rows"].as_f64().unwrap();
            let all = rows(low) + rows(high);
            rows(low) / all * walk(nodes, low, row, known, class)
                + rows(high) / all * walk(nodes, high, row, known, class)
        }
        walk(nodes, 0, row, known, class)
    };
    let cols = model.columns().len() as u32;
    let factorial = |n: u32| (1..=n).map(f64::from).product::<f64>();
    (0..cols)
        .map(|col| {
            (0..1_u32 << cols)
                .filter(|known| known >> col & 1 == 0)
                .map(|known| {
                    let size = known.count_ones();
                    let weight = factorial(size) * factorial(cols - size - 1) / factorial(cols);
                    weight * (value(known | 1 << col) - value(known))
                })
                .sum()
        })
        .collect()
}

#[test]
fn contributions_are_shapleys() {
    let (x, species) = iris();
    for depth in [1, 2, 4, 8] {
        let model = CartTree::new(TreeConfig::new(depth))
            .unwrap()
            .learn(&x, &species, None)
            .unwrap();
        let json = model.to_json().unwrap();
        for row in x.iter_rows().step_by(17) {
            for class in 0..3 {
                let found = model.explain_row(row, class).unwrap().unwrap();
                let expected = brute_force(&model, &json, row, class);
                assert!(
                    found
                        .parts
                        .iter()
                        .zip(&expected)
                        .all(|(a, b)| (a - b).abs() < 1e-12),
                    "{found:?} {expected:?}"
                );
            }
        }
    }
}

#[test]
fn specs_say_what_is_wrong() {
    let unknown = ModelSpec::new("k-means").clusterer(1).unwrap_err();
    assert!(
        unknown.kind() == ErrorKind::Config && unknown.context("known").unwrap().contains("kmeans"),
        "{unknown}"
    );
    let misspelt = ModelSpec::new("kmeans")
        .with("cluster", 3)
        .clusterer(1)
        .unwrap_err();
    assert!(misspelt.to_string().contains("cluster"), "{misspelt}");
    let off = ModelSpec::new("cart")
        .with("max_depth", 0)
        .classifier(1)
        .unwrap_err();
    assert_eq!(off.context("setting"), Some("max_depth"));
    assert_eq!(
        read_clusters(serde_json::json!([])).unwrap_err().kind(),
        ErrorKind::Corrupt
    );
    let (x, species) = iris();
    let tree = ModelSpec::new("cart")
        .classifier(1)
        .unwrap()
        .fit(&x, &species, 0)
        .unwrap()
        .to_json()
        .unwrap();
    assert_eq!(read_clusters(tree).unwrap_err().kind(), ErrorKind::Corrupt);
    let all = [
        ModelSpec::CLUSTERERS,
        ModelSpec::REDUCERS,
        ModelSpec::CLASSIFIERS,
        ModelSpec::REGRESSORS,
    ]
    .concat();
    for kind in all {
        let spec = ModelSpec::new(kind);
        let made = [
            spec.clusterer(1).is_ok(),
            spec.reducer(1).is_ok(),
            spec.classifier(1).is_ok(),
            spec.regressor(1).is_ok(),
        ];
        assert_eq!(
            made.iter().filter(|made| **made).count(),
            1,
            "{kind} is one thing with everything as usual"
        );
        let text = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<ModelSpec>(&text).unwrap(), spec);
    }
}

/// Twice the weights mean the same, so do 2^480 times, though their products with values are more than a number holds.
#[test]
fn weights_have_no_unit() {
    let huge = 2.0_f64.powi(480);
    let rows = 0..90_u32;
    let row = |i: u32| [1e100 * f64::from(i), f64::from(i * 7 % 11)];
    let x = matrix(2, rows.clone().flat_map(row).collect());
    let classes: Vec<usize> = rows.clone().map(|i| (i * 13 % 90 >= 45) as usize).collect();
    let values: Vec<f64> = rows.clone().map(|i| f64::from(i * 5 % 17)).collect();
    let weights: Vec<f64> = rows.map(|i| 0.25 + f64::from(i % 4)).collect();
    let large: Vec<f64> = weights.iter().map(|weight| weight * huge).collect();
    for spec in [
        ModelSpec::new("logistic").with("l2", 0.0),
        ModelSpec::new("cart").with("max_depth", 6),
        ModelSpec::new("random-forest").with("trees", 5),
        ModelSpec::new("gradient-boosting"),
    ] {
        let told = |weights: &[f64]| {
            let model = spec
                .classifier(1)
                .unwrap()
                .fit_weighted(&x, &classes, weights, 1)
                .unwrap();
            let again = read_classifier(model.to_json().unwrap()).unwrap();
            again.probabilities(&x).unwrap()
        };
        assert_eq!(told(&weights), told(&large), "{}", spec.kind);
    }
    for spec in [
        ModelSpec::new("ridge"),
        ModelSpec::new("cart-regressor").with("max_depth", 6),
        ModelSpec::new("random-forest-regressor").with("trees", 5),
        ModelSpec::new("gradient-boosting-regressor"),
    ] {
        let told = |weights: &[f64]| {
            let model = spec
                .regressor(1)
                .unwrap()
                .fit_weighted(&x, &values, weights, 1)
                .unwrap();
            let again = read_regressor(model.to_json().unwrap()).unwrap();
            again.predict(&x).unwrap()
        };
        assert_eq!(told(&weights), told(&large), "{}", spec.kind);
    }
    // Beyond what can be squared they are refused.
    let beyond: Vec<f64> = weights.iter().map(|weight| weight * 1e200).collect();
    let tree = ModelSpec::new("cart").classifier(1).unwrap();
    let error = tree.fit_weighted(&x, &classes, &beyond, 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

fn any_matrix() -> impl Strategy<Value = Matrix> {
    let value = prop_oneof![
        4 => -5.0..5.0_f64,
        3 => prop_oneof![Just(0.0), Just(1.0), Just(-0.0), Just(1.0 + f64::EPSILON)],
        1 => prop_oneof![Just(1e150), Just(-1e150), Just(1e-300), Just(1e9), Just(f64::MAX), Just(5e-324), Just(-1e100)],
    ];
    (1..5_usize, 0..40_usize).prop_flat_map(move |(cols, rows)| {
        prop::collection::vec(value.clone(), cols * rows).prop_map(move |v| matrix(cols, v))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn any_rows_are_grouped_or_refused(x in any_matrix(), k in 1..6_usize, seed in any::<u64>(), radius in 1e-3..1e3_f64) {
        for kind in ModelSpec::CLUSTERERS {
            let spec = if kind.ends_with("dbscan") { ModelSpec::new(*kind).with("radius", radius) } else { ModelSpec::new(*kind).with("clusters", k) };
            match spec.clusterer(2).unwrap().fit(&x, seed) {
                Ok(model) => {
                    let labels = model.predict(&x).unwrap();
                    prop_assert!(labels.iter().flatten().all(|label| *label < model.clusters()));
                    let again = read_clusters(model.to_json().unwrap()).unwrap();
                    prop_assert_eq!(again.predict(&x).unwrap(), labels, "{}", kind);
                }
                Err(error) => prop_assert!(error.kind() == ErrorKind::Invalid, "{}: {}", kind, error),
            }
        }
    }

    #[test]
    fn any_rows_are_learned_or_refused(
        x in any_matrix(),
        classes in prop::collection::vec(0..3_usize, 40),
        values in prop::collection::vec(prop_oneof![-9.0..9.0_f64, Just(1e139), Just(1e-300), Just(f64::NAN)], 40),
        weights in prop::collection::vec(prop_oneof![4 => 0.0..3.0_f64, 4 => Just(0.0), 3 => Just(1e150), 1 => Just(1e300), 1 => Just(-1.0)], 40),
    ) {
        let (classes, values, weights) = (&classes[..x.rows()], &values[..x.rows()], &weights[..x.rows()]);
        for kind in ModelSpec::CLASSIFIERS {
            let spec = if kind.contains("forest") { ModelSpec::new(*kind).with("trees", 5) } else { ModelSpec::new(*kind) };
            let provider = spec.classifier(2).unwrap();
            for fitted in [provider.fit(&x, classes, 1), provider.fit_weighted(&x, classes, weights, 1)] {
                match fitted {
                    Ok(model) => {
                        let probabilities = model.probabilities(&x).unwrap();
                        prop_assert!(probabilities.iter_rows().all(|row| (row.iter().sum::<f64>() - 1.0).abs() < 1e-9), "{}", kind);
                        let again = read_classifier(model.to_json().unwrap());
                        prop_assert!(again.is_ok(), "{}: {:?}", kind, again.err());
                        prop_assert_eq!(again.unwrap().probabilities(&x).unwrap(), probabilities);
                        model.explain_row(x.row(0), 0).unwrap();
                        model.rules();
                    }
                    Err(error) => prop_assert!(matches!(error.kind(), ErrorKind::Invalid | ErrorKind::Unsupported), "{}: {}", kind, error),
                }
            }
        }
        for kind in ModelSpec::REGRESSORS {
            let spec = if kind.contains("forest") { ModelSpec::new(*kind).with("trees", 5) } else { ModelSpec::new(*kind) };
            let provider = spec.regressor(2).unwrap();
            for fitted in [provider.fit(&x, values, 1), provider.fit_weighted(&x, values, weights, 1)] {
                match fitted {
                    Ok(model) => {
                        let again = read_regressor(model.to_json().unwrap());
                        prop_assert!(again.is_ok(), "{}: {:?}", kind, again.err());
                        match model.predict(&x) {
                            Ok(found) => {
                                prop_assert!(found.iter().all(|value| value.is_finite()), "{}", kind);
                                prop_assert_eq!(again.unwrap().predict(&x).unwrap(), found, "{}", kind);
                            }
                            Err(error) => prop_assert_eq!(error.kind(), ErrorKind::Invalid, "{}", kind),
                        }
                    }
                    Err(error) => prop_assert!(error.kind() == ErrorKind::Invalid, "{}: {}", kind, error),
                }
            }
        }
    }
}
