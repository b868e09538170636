//! Every provider, ours and linfa's, under the same suites.

use std::sync::Arc;

use crm_analytics::model::{ModelSpec, read_classifier, read_clusters, read_reduction, read_regressor};
use crm_core::capability::{Classifier, Clusterer, Reducer, Regressor};
use crm_core::{classifier_suite, clusterer_suite, reducer_suite, regressor_suite};

fn clusterer(kind: &str) -> Arc<dyn Clusterer> {
    let spec = ModelSpec::new(kind);
    let spec = if kind.ends_with("dbscan") {
        spec.with("radius", 0.6)
    } else {
        spec.with("clusters", 3)
    };
    spec.clusterer(2).unwrap()
}

fn linkage(name: &str) -> Arc<dyn Clusterer> {
    ModelSpec::new("hierarchical")
        .with("clusters", 3)
        .with("linkage", name)
        .clusterer(1)
        .unwrap()
}

fn diagonal() -> Arc<dyn Clusterer> {
    let spec = ModelSpec::new("gaussian-mixture")
        .with("clusters", 3)
        .with("covariance", "diagonal");
    spec.clusterer(2).unwrap()
}

fn reducer(kind: &str) -> Arc<dyn Reducer> {
    ModelSpec::new(kind).reducer(2).unwrap()
}

fn classifier(spec: ModelSpec) -> Arc<dyn Classifier> {
    spec.classifier(2).unwrap()
}

fn regressor(spec: ModelSpec) -> Arc<dyn Regressor> {
    spec.regressor(2).unwrap()
}

clusterer_suite!(kmeans, clusterer("kmeans"), read_clusters);
clusterer_suite!(mini_batch, clusterer("mini-batch-kmeans"), read_clusters);
clusterer_suite!(dbscan, clusterer("dbscan"), read_clusters);
clusterer_suite!(gaussian_mixture, clusterer("gaussian-mixture"), read_clusters);
clusterer_suite!(gaussian_mixture_diagonal, diagonal(), read_clusters);
clusterer_suite!(hierarchical_ward, linkage("ward"), read_clusters);
clusterer_suite!(hierarchical_complete, linkage("complete"), read_clusters);
clusterer_suite!(hierarchical_average, linkage("average"), read_clusters);
clusterer_suite!(hierarchical_single, linkage("single"), read_clusters);
clusterer_suite!(linfa_kmeans, clusterer("linfa-kmeans"), read_clusters);
clusterer_suite!(linfa_dbscan, clusterer("linfa-dbscan"), read_clusters);

reducer_suite!(pca, reducer("pca"), read_reduction);
reducer_suite!(linfa_pca, reducer("linfa-pca"), read_reduction);

classifier_suite!(cart, classifier(ModelSpec::new("cart")), read_classifier);
classifier_suite!(
    cart_entropy_in_bins,
    classifier(
        ModelSpec::new("cart")
            .with("criterion", "entropy")
            .with("exact_rows", 0)
            .with("max_leaves", 6)
    ),
    read_classifier
);
classifier_suite!(
    random_forest,
    classifier(ModelSpec::new("random-forest").with("trees", 30)),
    read_classifier
);
classifier_suite!(
    gradient_boosting,
    classifier(ModelSpec::new("gradient-boosting").with("rounds", 40)),
    read_classifier
);
classifier_suite!(
    gradient_boosting_of_samples,
    classifier(
        ModelSpec::new("gradient-boosting")
            .with("rounds", 60)
            .with("rows", 0.7)
            .with("min_leaf_rows", 5)
    ),
    read_classifier
);
classifier_suite!(logistic, classifier(ModelSpec::new("logistic")), read_classifier);
classifier_suite!(
    logistic_in_units,
    classifier(
        ModelSpec::new("logistic")
            .with("standardise", false)
            .with("l2", 1e-3)
    ),
    read_classifier
);

regressor_suite!(
    cart_regressor,
    regressor(ModelSpec::new("cart-regressor")),
    read_regressor
);
regressor_suite!(
    forest_regressor,
    regressor(
        ModelSpec::new("random-forest-regressor")
            .with("trees", 30)
            .with("columns", 2)
    ),
    read_regressor
);
regressor_suite!(
    boosting_regressor,
    regressor(ModelSpec::new("gradient-boosting-regressor").with("rounds", 60)),
    read_regressor
);
regressor_suite!(ridge, regressor(ModelSpec::new("ridge")), read_regressor);

// linfa's mixture and tree break some promises; those they keep are kept here, and those they break are told in `model`.
mod linfa_tree {
    use super::*;
    use crm_core::testkit::models::classifier as suite;

    #[test]
    fn keeps_what_it_can() {
        let tree = classifier(ModelSpec::new("linfa-tree"));
        suite::classes_far_apart_are_told(&*tree, &read_classifier);
        suite::probabilities_are_such(&*tree, &read_classifier);
        suite::neither_order_nor_names_nor_units_matter(&*tree, &read_classifier);
        suite::a_constant_column_does_not_matter(&*tree, &read_classifier);
        suite::what_cannot_be_learned_is_refused(&*tree, &read_classifier);
        suite::rows_that_do_not_fit_are_refused(&*tree, &read_classifier);
        suite::one_row_is_scored_as_many(&*tree, &read_classifier);
        suite::it_reads_back_to_the_last_bit(&*tree, &read_classifier);
        suite::weights_count_or_are_refused(&*tree, &read_classifier);
        suite::contributions_sum_to_the_margin(&*tree, &read_classifier);
        suite::hostile_rows_are_learned_or_refused(&*tree, &read_classifier);
    }
}

mod linfa_gaussian_mixture {
    use super::*;
    use crm_core::testkit::models::clusterer as suite;

    #[test]
    fn keeps_what_it_can() {
        let mixture = clusterer("linfa-gaussian-mixture");
        suite::same_rows_and_seed_same_groups(&*mixture, &read_clusters);
        suite::what_cannot_be_grouped_is_refused(&*mixture, &read_clusters);
        suite::rows_that_do_not_fit_are_refused(&*mixture, &read_clusters);
        suite::one_row_is_grouped_as_many(&*mixture, &read_clusters);
        suite::it_reads_back_to_the_last_bit(&*mixture, &read_clusters);
        suite::weights_count_or_are_refused(&*mixture, &read_clusters);
        suite::hostile_rows_are_grouped_or_refused(&*mixture, &read_clusters);
    }
}
