//! The suites can fail: each property refuses a provider that is broken in just that way.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use crm_analytics::model::{ModelSpec, read_classifier, read_clusters, read_reduction, read_regressor};
use crm_core::capability::{
    Classifier, ClassifierModel, ClusterModel, Clusterer, Contributions, ReduceModel, Reducer, Regressor,
    RegressorModel,
};
use crm_core::testkit::models::{Read, classifier, clusterer, reducer, regressor};
use crm_core::{Error, Health, Matrix, Provider, ProviderInfo, Result};

/// How a provider is broken.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    /// Every answer counts up: no two fits are the same.
    Chance,
    /// One row is answered otherwise than among many.
    OneRow,
    /// Columns are not compared, numbers not checked.
    Careless,
    /// Groups are made where there are none; one class is learned.
    Eager,
    /// Any weights are taken and none is used.
    Weightless,
    /// The answer hangs on the place of a row in the matrix.
    Place,
    /// What is stored is not what was learned.
    Forgetful,
    /// Answers are out of bounds: labels, probabilities, shares.
    Bounds,
    /// Contributions lack a part.
    Part,
    /// A constant column matters.
    Constant,
    /// Fails, but as a bug, not as invalid input.
    Unexpected,
}

#[derive(Debug)]
struct Broken<T: ?Sized> {
    info: ProviderInfo,
    fault: Fault,
    fits: AtomicU64,
    inner: Arc<T>,
}

impl<T: ?Sized> Broken<T> {
    fn new(fault: Fault, inner: Arc<T>) -> Self {
        Self {
            info: ProviderInfo::new("broken", "broken"),
            fault,
            fits: AtomicU64::new(0),
            inner,
        }
    }
    fn fit(&self) -> Result<u64> {
        if self.fault == Fault::Unexpected {
            return Err(Error::unexpected("a bug"));
        }
        Ok(self.fits.fetch_add(1, Ordering::Relaxed))
    }
}

#[async_trait]
impl<T: ?Sized + Send + Sync + std::fmt::Debug + 'static> Provider for Broken<T> {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }
    async fn check(&self) -> Result<Health> {
        Ok(Health::Ready)
    }
}

#[derive(Debug)]
struct BrokenModel<T: ?Sized> {
    fault: Fault,
    number: u64,
    importances: Vec<f64>,
    /// What an eager one learned from.
    columns: Vec<String>,
    inner: Option<Box<T>>,
}

fn json(model: Result<serde_json::Value>, fault: Fault, number: u64) -> Result<serde_json::Value> {
    let mut json = model?;
    if fault == Fault::Chance {
        json["number"] = number.into();
    }
    Ok(json)
}

impl Clusterer for Broken<dyn Clusterer> {
    fn fit(&self, x: &Matrix, seed: u64) -> Result<Box<dyn ClusterModel>> {
        let number = self.fit()?;
        let found = self.inner.fit(x, seed);
        let inner = if self.fault == Fault::Eager {
            found.ok()
        } else {
            Some(found?)
        };
        Ok(Box::new(BrokenModel {
            fault: self.fault,
            number,
            importances: Vec::new(),
            columns: x.columns().to_vec(),
            inner,
        }))
    }
    fn fit_weighted(&self, x: &Matrix, weights: &[f64], seed: u64) -> Result<Box<dyn ClusterModel>> {
        match self.fault {
            Fault::Weightless => Clusterer::fit(self, x, seed),
            _ => self.inner.fit_weighted(x, weights, seed),
        }
    }
    fn with_clusters(&self, clusters: usize) -> Option<Box<dyn Clusterer>> {
        let inner: Arc<dyn Clusterer> = match self.inner.with_clusters(clusters) {
            Some(inner) => Arc::from(inner),
            None if self.fault == Fault::Eager => self.inner.clone(),
            None => return None,
        };
        Some(Box::new(Broken::new(self.fault, inner)))
    }
}

impl ClusterModel for BrokenModel<dyn ClusterModel> {
    fn columns(&self) -> &[String] {
        &self.columns
    }
    fn clusters(&self) -> usize {
        self.inner.as_ref().map_or(1, |inner| inner.clusters())
    }
    fn assign_row(&self, row: &[f64]) -> Result<Option<usize>> {
        let Some(inner) = &self.inner else {
            return Ok(Some(0));
        };
        match self.fault {
            Fault::OneRow => Ok(inner.assign_row(row)?.map(|label| (label + 1) % 3)),
            Fault::Careless => inner.assign_row(row).or(Ok(Some(0))),
            _ => inner.assign_row(row),
        }
    }
    fn predict(&self, x: &Matrix) -> Result<Vec<Option<usize>>> {
        let Some(inner) = &self.inner else {
            return Ok(vec![Some(0); x.rows()]);
        };
        let mut labels = match self.fault {
            Fault::Careless => inner.predict(x).or_else(|_| Ok(vec![Some(0); x.rows()]))?,
            _ => inner.predict(x)?,
        };
        match self.fault {
            Fault::Bounds => labels
                .iter_mut()
                .for_each(|label| *label = label.map(|label| label + 7)),
            Fault::Place => labels
                .iter_mut()
                .enumerate()
                .for_each(|(at, label)| *label = Some(at % 3)),
            Fault::Constant if x.cols() == 3 => labels.fill(Some(0)),
            _ => {}
        }
        Ok(labels)
    }
    fn centers(&self) -> Option<&Matrix> {
        self.inner.as_ref().and_then(|inner| inner.centers())
    }
    fn to_json(&self) -> Result<serde_json::Value> {
        let Some(inner) = &self.inner else {
            return Err(Error::unexpected("nothing was learned"));
        };
        let mut json = json(inner.to_json(), self.fault, self.number)?;
        if self.fault == Fault::Forgetful {
            json["model"]["centers"]["values"][0] = 1e6.into();
        }
        Ok(json)
    }
}

/// Whether the property refuses the provider.
fn refused(check: impl FnOnce()) -> bool {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let outcome = catch_unwind(AssertUnwindSafe(check)).is_err();
    std::panic::set_hook(hook);
    outcome
}

type Property<P, M> = fn(&P, &Read<M>);

#[test]
fn every_property_of_clusterers_can_fail() {
    type Clusters = Property<dyn Clusterer, dyn ClusterModel>;
    let cases: [(&str, Clusters, &[Fault]); 11] = [
        (
            "found",
            clusterer::three_groups_far_apart_are_found,
            &[Fault::Place, Fault::Bounds, Fault::Unexpected],
        ),
        (
            "same",
            clusterer::same_rows_and_seed_same_groups,
            &[Fault::Chance],
        ),
        (
            "order",
            clusterer::neither_order_nor_names_nor_place_matter,
            &[Fault::Place],
        ),
        (
            "constant",
            clusterer::a_constant_column_changes_nothing,
            &[Fault::Constant],
        ),
        ("equal", clusterer::equal_rows_are_in_one_group, &[Fault::Place]),
        (
            "cannot",
            clusterer::what_cannot_be_grouped_is_refused,
            &[Fault::Eager, Fault::Unexpected],
        ),
        (
            "fit",
            clusterer::rows_that_do_not_fit_are_refused,
            &[Fault::Careless],
        ),
        ("one", clusterer::one_row_is_grouped_as_many, &[Fault::OneRow]),
        (
            "back",
            clusterer::it_reads_back_to_the_last_bit,
            &[Fault::Forgetful, Fault::Chance],
        ),
        (
            "weights",
            clusterer::weights_count_or_are_refused,
            &[Fault::Weightless],
        ),
        (
            "hostile",
            clusterer::hostile_rows_are_grouped_or_refused,
            &[Fault::Bounds, Fault::Unexpected, Fault::Forgetful],
        ),
    ];
    let sound = ModelSpec::new("kmeans").with("clusters", 3).clusterer(1).unwrap();
    for (name, check, faults) in cases {
        check(&*sound, &read_clusters);
        for fault in faults {
            let broken = Broken::new(*fault, sound.clone());
            assert!(
                refused(|| check(&broken, &read_clusters)),
                "{name} lets {fault:?} pass"
            );
        }
    }
}

impl Reducer for Broken<dyn Reducer> {
    fn fit(&self, x: &Matrix) -> Result<Box<dyn ReduceModel>> {
        let number = self.fit()?;
        // A shuffled matrix would be needed to find what an eager one makes of equal rows: it says they vary.
        let x = if self.fault == Fault::Eager {
            let mut values = x.as_slice().to_vec();
            values.extend((0..x.cols() * 4).map(|i| (i * i % 7) as f64));
            Matrix::new(x.columns().to_vec(), values)?
        } else if self.fault == Fault::Place {
            let values = x
                .iter_rows()
                .enumerate()
                .flat_map(|(at, row)| row.iter().map(move |v| v * at as f64).collect::<Vec<_>>());
            Matrix::new(x.columns().to_vec(), values.collect())?
        } else if self.fault == Fault::Constant && x.cols() == 4 {
            let values = x
                .iter_rows()
                .enumerate()
                .flat_map(|(at, row)| [row[0], row[1], row[2], at as f64]);
            Matrix::new(x.columns().to_vec(), values.collect())?
        } else {
            x.clone()
        };
        let inner = self.inner.fit(&x)?;
        let mut shares = inner.explained_ratio().to_vec();
        if self.fault == Fault::Bounds {
            let kept: f64 = shares.iter().sum();
            shares
                .iter_mut()
                .for_each(|share| *share = (*share / kept).max(0.5));
        }
        let turned = Matrix::new(
            inner.components().columns().to_vec(),
            inner
                .components()
                .as_slice()
                .iter()
                .map(|v| if self.fault == Fault::Bounds { -v } else { *v })
                .collect(),
        )?;
        Ok(Box::new(BrokenReduction {
            model: BrokenModel {
                fault: self.fault,
                number,
                importances: shares,
                columns: Vec::new(),
                inner: Some(inner),
            },
            turned,
        }))
    }
}

#[derive(Debug)]
struct BrokenReduction {
    model: BrokenModel<dyn ReduceModel>,
    turned: Matrix,
}

impl BrokenReduction {
    fn inner(&self) -> &dyn ReduceModel {
        &**self.model.inner.as_ref().unwrap()
    }
}

impl ReduceModel for BrokenReduction {
    fn project_row(&self, row: &[f64], out: &mut [f64]) -> Result<()> {
        if self.model.fault == Fault::Careless {
            return self.inner().project_row(row, out).or(Ok(()));
        }
        self.inner().project_row(row, out)?;
        if self.model.fault == Fault::OneRow {
            out[0] += 1.0;
        }
        Ok(())
    }
    fn transform(&self, x: &Matrix) -> Result<Matrix> {
        self.inner().transform(x)
    }
    fn explained_ratio(&self) -> &[f64] {
        &self.model.importances
    }
    fn components(&self) -> &Matrix {
        &self.turned
    }
    fn to_json(&self) -> Result<serde_json::Value> {
        let mut json = json(self.inner().to_json(), self.model.fault, self.model.number)?;
        if self.model.fault == Fault::Forgetful {
            json["model"]["means"][0] = 1e6.into();
        }
        Ok(json)
    }
}

#[test]
fn every_property_of_reducers_can_fail() {
    type Reductions = Property<dyn Reducer, dyn ReduceModel>;
    let cases: [(&str, Reductions, &[Fault]); 9] = [
        (
            "upright",
            reducer::directions_are_unit_and_upright,
            &[Fault::Bounds, Fault::Unexpected],
        ),
        ("total", reducer::shares_are_of_the_total, &[Fault::Bounds]),
        ("order", reducer::neither_order_nor_names_matter, &[Fault::Place]),
        (
            "constant",
            reducer::a_constant_column_changes_nothing,
            &[Fault::Constant],
        ),
        (
            "vary",
            reducer::what_does_not_vary_is_refused,
            &[Fault::Eager, Fault::Unexpected],
        ),
        (
            "fit",
            reducer::rows_that_do_not_fit_are_refused,
            &[Fault::Careless],
        ),
        ("one", reducer::one_row_is_projected_as_many, &[Fault::OneRow]),
        (
            "back",
            reducer::it_reads_back_to_the_last_bit,
            &[Fault::Forgetful, Fault::Chance],
        ),
        (
            "hostile",
            reducer::hostile_rows_are_reduced_or_refused,
            &[Fault::Unexpected],
        ),
    ];
    let sound = ModelSpec::new("pca").reducer(1).unwrap();
    for (name, check, faults) in cases {
        check(&*sound, &read_reduction);
        for fault in faults {
            let broken = Broken::new(*fault, sound.clone());
            assert!(
                refused(|| check(&broken, &read_reduction)),
                "{name} lets {fault:?} pass"
            );
        }
    }
}

/// A matrix and answers that hang on the place of the rows.
fn displaced<T: Clone>(answers: &[T]) -> Vec<T> {
    let mut answers = answers.to_vec();
    let by = usize::from(answers.len() > 3) * 3;
    answers.rotate_right(by);
    answers
}

impl Classifier for Broken<dyn Classifier> {
    fn fit(&self, x: &Matrix, classes: &[usize], seed: u64) -> Result<Box<dyn ClassifierModel>> {
        let number = self.fit()?;
        let classes = if self.fault == Fault::Place {
            displaced(classes)
        } else {
            classes.to_vec()
        };
        let found = self.inner.fit(x, &classes, seed);
        let inner = match (self.fault, found) {
            (Fault::Eager, Err(_)) => {
                // Learned from something else.
                let (x, groups) = crm_core::testkit::models::three_groups();
                self.inner.fit(&x, &groups, seed)?
            }
            (_, found) => found?,
        };
        let mut importances = inner.importances().to_vec();
        if self.fault == Fault::Constant {
            importances.fill(1.0 / x.cols() as f64);
        }
        Ok(Box::new(BrokenModel {
            fault: self.fault,
            number,
            importances,
            columns: x.columns().to_vec(),
            inner: Some(inner),
        }))
    }
    fn fit_weighted(
        &self,
        x: &Matrix,
        classes: &[usize],
        weights: &[f64],
        seed: u64,
    ) -> Result<Box<dyn ClassifierModel>> {
        match self.fault {
            Fault::Weightless => Classifier::fit(self, x, classes, seed),
            _ => self.inner.fit_weighted(x, classes, weights, seed),
        }
    }
}

impl ClassifierModel for BrokenModel<dyn ClassifierModel> {
    fn columns(&self) -> &[String] {
        &self.columns
    }
    fn classes(&self) -> usize {
        self.inner.as_ref().unwrap().classes()
    }
    fn score_row(&self, row: &[f64], out: &mut [f64]) -> Result<()> {
        let found = self.inner.as_ref().unwrap().score_row(row, out);
        match self.fault {
            Fault::Careless => return Ok(()),
            Fault::OneRow => out.rotate_right(1),
            Fault::Bounds => out.iter_mut().for_each(|p| *p *= 1.5),
            _ => {}
        }
        found
    }
    fn probabilities(&self, x: &Matrix) -> Result<Matrix> {
        let mut values = Vec::new();
        let mut out = vec![0.0; self.classes()];
        for row in x.iter_rows() {
            let inner = self.inner.as_ref().unwrap();
            match self.fault {
                Fault::Careless => drop(inner.score_row(row, &mut out)),
                _ => inner.score_row(row, &mut out)?,
            }
            if self.fault == Fault::Bounds {
                out.iter_mut().for_each(|p| *p *= 1.5);
            }
            values.extend_from_slice(&out);
        }
        Matrix::new(
            (0..self.classes()).map(|i| format!("class_{i}")).collect(),
            values,
        )
    }
    fn predict(&self, x: &Matrix) -> Result<Vec<usize>> {
        self.inner.as_ref().unwrap().predict(x)
    }
    fn importances(&self) -> &[f64] {
        &self.importances
    }
    fn explain_row(&self, row: &[f64], class: usize) -> Result<Option<Contributions>> {
        let mut found = self.inner.as_ref().unwrap().explain_row(row, class)?;
        if self.fault == Fault::Part
            && let Some(found) = &mut found
        {
            found.parts[0] += 0.3;
        }
        Ok(found)
    }
    fn to_json(&self) -> Result<serde_json::Value> {
        let mut json = json(self.inner.as_ref().unwrap().to_json(), self.fault, self.number)?;
        if self.fault == Fault::Forgetful {
            json["model"]["smoothing"] = true.into();
        }
        Ok(json)
    }
}

#[test]
fn every_property_of_classifiers_can_fail() {
    type Classes = Property<dyn Classifier, dyn ClassifierModel>;
    let cases: [(&str, Classes, &[Fault]); 12] = [
        (
            "told",
            classifier::classes_far_apart_are_told,
            &[Fault::Place, Fault::Unexpected],
        ),
        (
            "probabilities",
            classifier::probabilities_are_such,
            &[Fault::Bounds],
        ),
        (
            "same",
            classifier::same_rows_and_seed_same_model,
            &[Fault::Chance],
        ),
        (
            "order",
            classifier::neither_order_nor_names_nor_units_matter,
            &[Fault::Place],
        ),
        (
            "constant",
            classifier::a_constant_column_does_not_matter,
            &[Fault::Constant],
        ),
        (
            "cannot",
            classifier::what_cannot_be_learned_is_refused,
            &[Fault::Eager, Fault::Unexpected],
        ),
        (
            "fit",
            classifier::rows_that_do_not_fit_are_refused,
            &[Fault::Careless],
        ),
        ("one", classifier::one_row_is_scored_as_many, &[Fault::OneRow]),
        (
            "back",
            classifier::it_reads_back_to_the_last_bit,
            &[Fault::Forgetful, Fault::Chance],
        ),
        (
            "weights",
            classifier::weights_count_or_are_refused,
            &[Fault::Weightless],
        ),
        (
            "parts",
            classifier::contributions_sum_to_the_margin,
            &[Fault::Part],
        ),
        (
            "hostile",
            classifier::hostile_rows_are_learned_or_refused,
            &[Fault::Bounds, Fault::Unexpected, Fault::Forgetful],
        ),
    ];
    let sound = ModelSpec::new("cart").classifier(1).unwrap();
    for (name, check, faults) in cases {
        check(&*sound, &read_classifier);
        for fault in faults {
            let broken = Broken::new(*fault, sound.clone());
            assert!(
                refused(|| check(&broken, &read_classifier)),
                "{name} lets {fault:?} pass"
            );
        }
    }
}

impl Regressor for Broken<dyn Regressor> {
    fn fit(&self, x: &Matrix, values: &[f64], seed: u64) -> Result<Box<dyn RegressorModel>> {
        let number = self.fit()?;
        let values = if self.fault == Fault::Place {
            displaced(values)
        } else {
            values.to_vec()
        };
        let inner = match (self.fault, self.inner.fit(x, &values, seed)) {
            (Fault::Eager, Err(_)) => {
                let x = Matrix::new(vec!["a".into()], vec![1.0, 2.0]).unwrap();
                self.inner.fit(&x, &[1.0, 2.0], seed)?
            }
            (_, found) => found?,
        };
        let mut importances = inner.importances().to_vec();
        if self.fault == Fault::Constant {
            importances.fill(1.0 / x.cols() as f64);
        }
        Ok(Box::new(BrokenModel {
            fault: self.fault,
            number,
            importances,
            columns: x.columns().to_vec(),
            inner: Some(inner),
        }))
    }
    fn fit_weighted(
        &self,
        x: &Matrix,
        values: &[f64],
        weights: &[f64],
        seed: u64,
    ) -> Result<Box<dyn RegressorModel>> {
        match self.fault {
            Fault::Weightless => Regressor::fit(self, x, values, seed),
            _ => self.inner.fit_weighted(x, values, weights, seed),
        }
    }
}

impl RegressorModel for BrokenModel<dyn RegressorModel> {
    fn columns(&self) -> &[String] {
        &self.columns
    }
    fn score_row(&self, row: &[f64]) -> Result<f64> {
        let found = self.inner.as_ref().unwrap().score_row(row);
        match self.fault {
            Fault::Careless => Ok(found.unwrap_or(0.0)),
            Fault::OneRow => Ok(found? + 1.0),
            _ => found,
        }
    }
    fn predict(&self, x: &Matrix) -> Result<Vec<f64>> {
        let found = self.inner.as_ref().unwrap().predict(x)?;
        // A file written as JSON could not hold these, and a report not show them.
        Ok(if self.fault == Fault::Bounds {
            vec![f64::INFINITY; found.len()]
        } else {
            found
        })
    }
    fn importances(&self) -> &[f64] {
        &self.importances
    }
    fn explain_row(&self, row: &[f64]) -> Result<Option<Contributions>> {
        let mut found = self.inner.as_ref().unwrap().explain_row(row)?;
        if self.fault == Fault::Part
            && let Some(found) = &mut found
        {
            found.parts[0] += 0.3;
        }
        Ok(found)
    }
    fn to_json(&self) -> Result<serde_json::Value> {
        let mut json = json(self.inner.as_ref().unwrap().to_json(), self.fault, self.number)?;
        if self.fault == Fault::Forgetful {
            json["model"]["importances"][0] = 0.125.into();
            for node in json["model"]["nodes"].as_array_mut().unwrap() {
                node["values"][0] = 0.125.into();
            }
        }
        Ok(json)
    }
}

#[test]
fn every_property_of_regressors_can_fail() {
    type Numbers = Property<dyn Regressor, dyn RegressorModel>;
    let cases: [(&str, Numbers, &[Fault]); 10] = [
        (
            "foretold",
            regressor::steps_are_foretold,
            &[Fault::Place, Fault::Unexpected],
        ),
        ("same", regressor::same_rows_and_seed_same_model, &[Fault::Chance]),
        (
            "constant",
            regressor::a_constant_column_does_not_matter,
            &[Fault::Constant],
        ),
        (
            "cannot",
            regressor::what_cannot_be_learned_is_refused,
            &[Fault::Eager, Fault::Unexpected],
        ),
        (
            "fit",
            regressor::rows_that_do_not_fit_are_refused,
            &[Fault::Careless],
        ),
        ("one", regressor::one_row_is_scored_as_many, &[Fault::OneRow]),
        (
            "back",
            regressor::it_reads_back_to_the_last_bit,
            &[Fault::Forgetful, Fault::Chance],
        ),
        (
            "weights",
            regressor::weights_count_or_are_refused,
            &[Fault::Weightless],
        ),
        ("parts", regressor::contributions_sum_to_the_value, &[Fault::Part]),
        (
            "hostile",
            regressor::hostile_rows_are_learned_or_refused,
            &[Fault::Unexpected, Fault::Bounds],
        ),
    ];
    let sound = ModelSpec::new("cart-regressor").regressor(1).unwrap();
    for (name, check, faults) in cases {
        check(&*sound, &read_regressor);
        for fault in faults {
            let broken = Broken::new(*fault, sound.clone());
            assert!(
                refused(|| check(&broken, &read_regressor)),
                "{name} lets {fault:?} pass"
            );
        }
    }
}
