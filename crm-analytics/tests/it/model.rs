//! Models against values published by scikit-learn's users and computed by scikit-learn 1.9, and against hostile input.

use crm_analytics::metrics::{accuracy, silhouette};
use crm_analytics::model::{
    CartTree, KMeansConfig, KMeansModel, LinfaDecisionTree, LinfaKMeans, LinfaPca, PcaConfig, PcaModel,
    TreeConfig, TreeModel, choose_clusters,
};
use crm_core::capability::{ClassifierModel, ClusterModel, Clusterer, ReduceModel};
use crm_core::{ErrorKind, Matrix};
use linfa::prelude::*;
use proptest::prelude::*;

use crate::iris::{iris, standardised};

fn kmeans(clusters: usize) -> LinfaKMeans {
    LinfaKMeans::new(KMeansConfig::new(clusters)).unwrap()
}

fn matrix(cols: usize, values: Vec<f64>) -> Matrix {
    Matrix::new((0..cols).map(|i| format!("x{i}")).collect(), values).unwrap()
}

#[test]
fn kmeans_reaches_the_published_optimum_of_iris() {
    let (x, _) = iris();
    // k, inertia, silhouette, sizes.
    let published: [(usize, f64, f64, &[usize]); 3] = [
        (2, 152.347_951_760_4, 0.681_046_169_2, &[97, 53]),
        (3, 78.851_441_426_1, 0.552_819_012_4, &[62, 50, 38]),
        (4, 57.228_473_214_3, 0.498_050_505_0, &[50, 40, 32, 28]),
    ];
    let mut missed = 0;
    for (k, inertia, score, sizes) in published {
        for seed in 0..20 {
            let model = kmeans(k).learn(&x, seed).unwrap();
            assert!(model.converged());
            if k == 4 && model.inertia() > inertia + 1e-6 {
                // Ten starts miss the optimum of four groups now and then, by less than a thousandth.
                assert!(
                    model.inertia() < inertia * 1.001,
                    "seed={seed}: {}",
                    model.inertia()
                );
                missed += 1;
                continue;
            }
            assert!(
                (model.inertia() - inertia).abs() < 1e-6,
                "k={k} seed={seed}: {}",
                model.inertia()
            );
            assert_eq!(model.sizes(), sizes, "k={k} seed={seed}");
            let labels = model.predict(&x).unwrap();
            assert_eq!(crm_analytics::metrics::sizes(&labels, k), sizes);
            let recomputed = crm_analytics::metrics::inertia(&x, &labels, model.centers().unwrap()).unwrap();
            assert!((recomputed - inertia).abs() < 1e-6);
            assert!((silhouette(&x, &labels, 5000, 0).unwrap().mean - score).abs() < 1e-6);
        }
    }
    assert!(
        missed <= 4,
        "{missed} of 20 seeds missed the optimum of four groups"
    );
}

#[test]
fn kmeans_is_deterministic_and_reads_back_equal() {
    let (x, _) = iris();
    let a = kmeans(5).learn(&x, 42).unwrap();
    let b = kmeans(5).learn(&x, 42).unwrap();
    assert_eq!(a, b);
    let text = a.to_json().unwrap().to_string();
    let again = KMeansModel::from_json(serde_json::from_str(&text).unwrap()).unwrap();
    assert_eq!(again, a, "equal to the last bit");
    assert_eq!(again.predict(&x).unwrap(), a.predict(&x).unwrap());
    for damaged in [
        "{}",
        r#"{"kind":"pca","format":1,"model":{}}"#,
        r#"{"kind":"kmeans","format":2,"model":{}}"#,
    ] {
        let error = KMeansModel::from_json(serde_json::from_str(damaged).unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }
}

#[test]
fn kmeans_started_on_a_sample_is_refined_on_all_rows() {
    // Three far groups of 2,000, 600 and 400 rows; the starts see 200 rows.
    let mut values = Vec::new();
    for (center, n) in [(0.0, 2000), (50.0, 600), (100.0, 400)] {
        for i in 0..n {
            values.extend([center + f64::from(i % 7) * 0.1, -center + f64::from(i % 11) * 0.1]);
        }
    }
    let x = matrix(2, values);
    let config = KMeansConfig {
        start_rows: 200,
        ..KMeansConfig::new(3)
    };
    let model = LinfaKMeans::new(config).unwrap().learn(&x, 3).unwrap();
    assert_eq!(model.sizes(), [2000, 600, 400]);
    let full = kmeans(3).learn(&x, 3).unwrap();
    assert!((model.inertia() - full.inertia()).abs() < 1e-6 * full.inertia());
}

#[test]
fn kmeans_refuses_what_cannot_be_grouped() {
    let equal = matrix(1, vec![3.0; 10]);
    let error = kmeans(2).learn(&equal, 0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("clusters=2"), "{error}");
    assert!(kmeans(3).learn(&matrix(1, vec![1.0, 2.0]), 0).is_err());
    assert!(kmeans(1).learn(&matrix(1, vec![]), 0).is_err());
    assert!(
        LinfaKMeans::new(KMeansConfig::new(0))
            .unwrap_err()
            .to_string()
            .contains("setting=clusters")
    );
    let model = kmeans(2).learn(&matrix(1, vec![1.0, 2.0]), 0).unwrap();
    let other = Matrix::new(vec!["y".into()], vec![1.0]).unwrap();
    assert_eq!(model.predict(&other).unwrap_err().kind(), ErrorKind::Invalid);
}

#[test]
fn the_number_of_groups_is_chosen_by_silhouette() {
    let (x, _) = iris();
    let choice = choose_clusters(&kmeans(7), &x, 2..=6, 5000, 1).unwrap();
    assert_eq!(choice.best, 2);
    let inertias: Vec<f64> = choice.scores.iter().map(|score| score.inertia.unwrap()).collect();
    assert!(inertias.windows(2).all(|w| w[0] > w[1]), "{inertias:?}");
    assert!(choose_clusters(&kmeans(7), &x, 1..=6, 5000, 1).is_err());
    #[allow(clippy::reversed_empty_ranges)]
    let backwards = choose_clusters(&kmeans(7), &x, 6..=2, 5000, 1);
    assert!(backwards.is_err());
}

#[test]
fn pca_has_the_published_shares_of_iris() {
    let (x, _) = iris();
    let near =
        |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-8) && a.len() == b.len();
    let model = LinfaPca::new(PcaConfig::new(4)).unwrap().learn(&x).unwrap();
    let shares = [0.924_618_723_2, 0.053_066_483_1, 0.017_102_609_8, 0.005_212_183_9];
    assert!(
        near(model.explained_ratio(), &shares),
        "{:?}",
        model.explained_ratio()
    );
    assert!(near(&model.variances()[..2], &[4.228_241_706, 0.242_670_747_9]));
    let first = [
        0.361_386_591_8,
        -0.084_522_514_1,
        0.856_670_605_9,
        0.358_289_197_2,
    ];
    assert!(
        near(model.components().row(0), &first),
        "{:?}",
        model.components().row(0)
    );
    // Two of them: the same shares of the total, not of what is kept.
    let two = LinfaPca::new(PcaConfig::default()).unwrap().learn(&x).unwrap();
    assert!(near(two.explained_ratio(), &shares[..2]));
    let points = two.transform(&x).unwrap();
    assert_eq!((points.rows(), points.cols()), (150, 2));
    let variance = points.iter_col(0).map(|v| v * v).sum::<f64>() / 149.0;
    assert!(
        (variance - 4.228_241_706).abs() < 1e-8,
        "projected values have the variance of the direction"
    );
    let scaled = LinfaPca::new(PcaConfig::new(9))
        .unwrap()
        .learn(&standardised(&x))
        .unwrap();
    let shares = [0.729_624_454_1, 0.228_507_617_9, 0.036_689_218_9, 0.005_178_709_1];
    assert!(near(scaled.explained_ratio(), &shares));
    let text = two.to_json().unwrap().to_string();
    assert_eq!(
        PcaModel::from_json(serde_json::from_str(&text).unwrap()).unwrap(),
        two
    );
}

#[test]
fn pca_agrees_with_linfas_own_at_full_size() {
    let (x, _) = iris();
    let array = ndarray::Array2::from_shape_vec((150, 4), x.as_slice().to_vec()).unwrap();
    let theirs = linfa_reduction::Pca::params(4)
        .fit(&linfa::DatasetBase::from(array))
        .unwrap();
    let ours = LinfaPca::new(PcaConfig::new(4)).unwrap().learn(&x).unwrap();
    for (sigma, variance) in theirs.singular_values().iter().zip(ours.variances()) {
        assert!((sigma * sigma / 149.0 - variance).abs() < 1e-9);
    }
}

#[test]
fn pca_bears_dependent_and_constant_columns() {
    // A complete one-hot block and a constant: rank 2 of 4.
    let values = (0..30).flat_map(|i| (0..3).map(move |c| f64::from(u8::from(i % 3 == c))).chain([7.0]));
    let model = LinfaPca::new(PcaConfig::new(4))
        .unwrap()
        .learn(&matrix(4, values.collect()))
        .unwrap();
    let shares = model.explained_ratio();
    assert!((shares[0] - 0.5).abs() < 1e-9 && (shares[1] - 0.5).abs() < 1e-9 && shares[2].abs() < 1e-9);
    let pca = LinfaPca::new(PcaConfig::default()).unwrap();
    assert_eq!(
        pca.learn(&matrix(1, vec![1.0])).unwrap_err().kind(),
        ErrorKind::Invalid
    );
    assert_eq!(
        pca.learn(&matrix(2, vec![1.0; 8])).unwrap_err().kind(),
        ErrorKind::Invalid
    );
    assert_eq!(
        pca.learn(&matrix(1, vec![1e300, -1e300])).unwrap_err().kind(),
        ErrorKind::Invalid
    );
}

#[test]
fn trees_of_depth_two_tell_96_percent_of_iris() {
    let (x, species) = iris();
    let config = TreeConfig::new(2);
    for model in [
        CartTree::new(config.clone())
            .unwrap()
            .learn(&x, &species, None)
            .unwrap(),
        LinfaDecisionTree::new(config)
            .unwrap()
            .learn(&x, &species)
            .unwrap(),
    ] {
        assert_eq!(accuracy(&species, &model.predict(&x).unwrap()).unwrap(), 0.96);
        assert_eq!((model.leaves(), model.depth()), (3, 2));
        assert!((model.importances().iter().sum::<f64>() - 1.0).abs() < 1e-12);
        let rules = model.rules();
        assert_eq!(rules.iter().map(|rule| rule.rows).sum::<usize>(), 150);
        let setosa = rules.iter().find(|rule| rule.class == 0).unwrap();
        assert_eq!((setosa.rows, setosa.purity), (50, 1.0));
        let mut others: Vec<(usize, f64)> = rules
            .iter()
            .filter(|r| r.class != 0)
            .map(|r| (r.rows, r.purity))
            .collect();
        others.sort_by_key(|(rows, _)| *rows);
        assert_eq!(others, [(46, 45.0 / 46.0), (54, 49.0 / 54.0)]);
        let text = model.to_json().unwrap().to_string();
        assert_eq!(
            TreeModel::from_json(serde_json::from_str(&text).unwrap()).unwrap(),
            model
        );
    }
}

#[test]
fn a_whole_tree_of_iris_has_nine_leaves() {
    let (x, species) = iris();
    let model = CartTree::new(TreeConfig::new(32))
        .unwrap()
        .learn(&x, &species, None)
        .unwrap();
    assert_eq!(accuracy(&species, &model.predict(&x).unwrap()).unwrap(), 1.0);
    assert!(
        model.leaves() <= 9 && model.depth() <= 6,
        "{} leaves, depth {}",
        model.leaves(),
        model.depth()
    );
}

#[test]
fn the_exact_tree_sees_a_column_of_zeros_and_ones_everywhere() {
    // linfa 0.8.1 overlooks the second split when the last 0 of the whole column lies in the other branch.
    let mut values = Vec::new();
    let mut classes = Vec::new();
    for i in 0..100_usize {
        let (branch, flag) = (usize::from(i % 2 == 0), usize::from((i / 2) % 2 == 0));
        values.extend([branch as f64, flag as f64]);
        classes.push(if branch == 1 { 2 } else { flag });
    }
    let x = matrix(2, values);
    let model = CartTree::new(TreeConfig::new(2))
        .unwrap()
        .learn(&x, &classes, None)
        .unwrap();
    assert_eq!(model.predict(&x).unwrap(), classes);
    assert_eq!(model.leaves(), 3);
}

#[test]
fn damaged_trees_and_wrong_classes_are_refused() {
    let (x, species) = iris();
    let tree = CartTree::new(TreeConfig::default()).unwrap();
    assert!(tree.learn(&x, &species[..149], None).is_err());
    assert!(
        tree.learn(&x, &[1; 150], None)
            .unwrap_err()
            .to_string()
            .contains("one class")
    );
    assert!(tree.learn(&matrix(1, vec![]), &[], None).is_err());
    assert!(CartTree::new(TreeConfig::new(0)).is_err());
    let mut json = tree.learn(&x, &species, None).unwrap().to_json().unwrap();
    json["model"]["nodes"][0]["fork"]["low"] = 0.into();
    assert_eq!(
        TreeModel::from_json(json).unwrap_err().kind(),
        ErrorKind::Corrupt,
        "a fork back would never end"
    );
}

fn any_matrix() -> impl Strategy<Value = Matrix> {
    let value = prop_oneof![
        4 => -5.0..5.0_f64,
        2 => prop_oneof![Just(0.0), Just(1.0), Just(-0.0)],
        1 => prop_oneof![Just(1e150), Just(-1e150), Just(1e-300), Just(1e9)],
    ];
    (1..5_usize, 0..40_usize).prop_flat_map(move |(cols, rows)| {
        prop::collection::vec(value.clone(), cols * rows).prop_map(move |v| matrix(cols, v))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// No input panics or answers nonsense: an answer is consistent, or an error says why.
    #[test]
    fn any_matrix_is_grouped_or_refused(x in any_matrix(), k in 1..6_usize, seed in any::<u64>()) {
        match kmeans(k).learn(&x, seed) {
            Ok(model) => {
                let labels = model.predict(&x).unwrap();
                prop_assert_eq!(labels.len(), x.rows());
                prop_assert!(labels.iter().all(|label| label.unwrap() < k));
                prop_assert_eq!(model.sizes().iter().sum::<usize>(), x.rows());
                prop_assert!(model.sizes().windows(2).all(|w| w[0] >= w[1]));
            }
            Err(error) => prop_assert!(error.kind() == ErrorKind::Invalid, "{}", error),
        }
    }

    #[test]
    fn any_matrix_is_reduced_or_refused(x in any_matrix(), components in 1..4_usize) {
        match LinfaPca::new(PcaConfig::new(components)).unwrap().learn(&x) {
            Ok(model) => {
                let shares = model.explained_ratio();
                prop_assert!(shares.windows(2).all(|w| w[0] >= w[1]));
                prop_assert!(shares.iter().sum::<f64>() <= 1.0 + 1e-9);
                prop_assert_eq!(model.transform(&x).unwrap().rows(), x.rows());
            }
            Err(error) => prop_assert!(error.kind() == ErrorKind::Invalid, "{}", error),
        }
    }

    #[test]
    fn any_matrix_is_told_apart_or_refused(x in any_matrix(), classes in prop::collection::vec(0..3_usize, 40)) {
        let classes = &classes[..x.rows()];
        for learned in [
            CartTree::new(TreeConfig::default()).unwrap().learn(&x, classes, None),
            LinfaDecisionTree::new(TreeConfig::default()).unwrap().learn(&x, classes),
        ] {
            match learned {
                Ok(model) => {
                    let rows: usize = model.rules().iter().map(|rule| rule.rows).sum();
                    prop_assert_eq!(rows, x.rows());
                    prop_assert!(model.rules().len() <= model.leaves());
                    prop_assert!(model.depth() <= 3);
                }
                Err(error) => prop_assert!(error.kind() == ErrorKind::Invalid, "{}", error),
            }
        }
    }
}

#[test]
fn a_provider_can_be_asked_for_another_number_of_groups() {
    let (x, _) = iris();
    let model = kmeans(3).with_clusters(2).unwrap().fit(&x, 0).unwrap();
    assert_eq!(model.clusters(), 2);
    assert!(kmeans(3).with_clusters(0).is_none());
}
