use std::sync::Arc;

use crm_core::capability::{
    Classifier, ClassifierModel, ClusterModel, Clusterer, ReduceModel, Reducer, Regressor, RegressorModel,
};
use crm_core::{Error, ErrorKind, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{
    BoostedModel, BoostedRegressorModel, CartRegressor, CartTree, Dbscan, DbscanModel, ForestModel,
    ForestRegressorModel, GaussianMixture, GradientBoosting, GradientBoostingRegressor, Hierarchical,
    HierarchicalModel, KMeans, KMeansModel, LinfaDbscan, LinfaDecisionTree, LinfaGaussianMixture,
    LinfaKMeans, LinfaPca, LogisticModel, LogisticRegression, MiniBatchKMeans, MixtureModel, Pca, PcaModel,
    RandomForest, RandomForestRegressor, RidgeModel, RidgeRegression, TreeModel, TreeRegressorModel,
};

/// A model by its name and parameters, as it stands in a plan or a configuration file.
///
/// ```
/// use crm_analytics::model::{ModelSpec, read_clusters};
/// use crm_core::Matrix;
///
/// let spec: ModelSpec = serde_json::from_str(r#"{"kind": "kmeans", "params": {"clusters": 2}}"#).unwrap();
/// let x = Matrix::new(vec!["spend".into()], vec![1.0, 2.0, 90.0, 91.0, 92.0]).unwrap();
/// let model = spec.clusterer(1).unwrap().fit(&x, 7).unwrap();
/// // Any stored model is read back by its kind.
/// let again = read_clusters(model.to_json().unwrap()).unwrap();
/// assert_eq!(again.predict(&x).unwrap(), model.predict(&x).unwrap());
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSpec {
    /// The provider's name; [`ModelSpec::CLUSTERERS`] and the others list them.
    pub kind: String,
    /// Its settings by name; those left out are as usual.
    #[serde(default)]
    pub params: serde_json::Map<String, serde_json::Value>,
}

/// Makes a provider with so many threads.
type Make<T> = fn(&ModelSpec, usize) -> Result<Arc<T>>;

/// A provider from a spec: its configuration is read and checked, threads are given to those that take them.
macro_rules! make {
    ($provider:ident as $capability:ident, threads) => {
        (|spec, threads| Ok(Arc::new($provider::new(spec.config()?)?.threads(threads))))
            as Make<dyn $capability>
    };
    ($provider:ident as $capability:ident) => {
        (|spec, _| Ok(Arc::new($provider::new(spec.config()?)?))) as Make<dyn $capability>
    };
}

impl ModelSpec {
    /// The names of ways to groups.
    pub const CLUSTERERS: &'static [&'static str] = &[
        "kmeans",
        "mini-batch-kmeans",
        "dbscan",
        "gaussian-mixture",
        "hierarchical",
        "linfa-kmeans",
        "linfa-dbscan",
        "linfa-gaussian-mixture",
    ];
    /// The names of ways to directions.
    pub const REDUCERS: &'static [&'static str] = &["pca", "linfa-pca"];
    /// The names of ways to tell classes apart.
    pub const CLASSIFIERS: &'static [&'static str] = &[
        "cart",
        "random-forest",
        "gradient-boosting",
        "logistic",
        "linfa-tree",
    ];
    /// The names of ways to foretell a number.
    pub const REGRESSORS: &'static [&'static str] = &[
        "cart-regressor",
        "random-forest-regressor",
        "gradient-boosting-regressor",
        "ridge",
    ];

    /// A name with everything as usual.
    pub fn new(kind: impl Into<String>) -> Self {
        Self {
            kind: kind.into(),
            params: serde_json::Map::new(),
        }
    }

    /// Sets a parameter.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<serde_json::Value>) -> Self {
        self.params.insert(name.into(), value.into());
        self
    }

    /// The way to groups of this name, with so many threads.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] naming what is known when there is none of this name, or the setting that is wrong.
    pub fn clusterer(&self, threads: usize) -> Result<Arc<dyn Clusterer>> {
        let make = match self.kind.as_str() {
            "kmeans" => make!(KMeans as Clusterer, threads),
            "mini-batch-kmeans" => make!(MiniBatchKMeans as Clusterer),
            "dbscan" => make!(Dbscan as Clusterer, threads),
            "gaussian-mixture" => make!(GaussianMixture as Clusterer, threads),
            "hierarchical" => make!(Hierarchical as Clusterer),
            "linfa-kmeans" => make!(LinfaKMeans as Clusterer),
            "linfa-dbscan" => make!(LinfaDbscan as Clusterer),
            "linfa-gaussian-mixture" => make!(LinfaGaussianMixture as Clusterer),
            _ => return Err(self.unknown("a way to groups", Self::CLUSTERERS)),
        };
        make(self, threads)
    }

    /// The way to directions of this name, with so many threads.
    ///
    /// # Errors
    /// As [`ModelSpec::clusterer`].
    pub fn reducer(&self, threads: usize) -> Result<Arc<dyn Reducer>> {
        let make = match self.kind.as_str() {
            "pca" => make!(Pca as Reducer, threads),
            "linfa-pca" => make!(LinfaPca as Reducer),
            _ => return Err(self.unknown("a way to directions", Self::REDUCERS)),
        };
        make(self, threads)
    }

    /// The way to tell classes apart of this name, with so many threads.
    ///
    /// # Errors
    /// As [`ModelSpec::clusterer`].
    pub fn classifier(&self, threads: usize) -> Result<Arc<dyn Classifier>> {
        let make = match self.kind.as_str() {
            "cart" => make!(CartTree as Classifier, threads),
            "random-forest" => make!(RandomForest as Classifier, threads),
            "gradient-boosting" => make!(GradientBoosting as Classifier, threads),
            "logistic" => make!(LogisticRegression as Classifier),
            "linfa-tree" => make!(LinfaDecisionTree as Classifier),
            _ => return Err(self.unknown("a way to tell classes apart", Self::CLASSIFIERS)),
        };
        make(self, threads)
    }

    /// The way to foretell a number of this name, with so many threads.
    ///
    /// # Errors
    /// As [`ModelSpec::clusterer`].
    pub fn regressor(&self, threads: usize) -> Result<Arc<dyn Regressor>> {
        let make = match self.kind.as_str() {
            "cart-regressor" => make!(CartRegressor as Regressor, threads),
            "random-forest-regressor" => make!(RandomForestRegressor as Regressor, threads),
            "gradient-boosting-regressor" => make!(GradientBoostingRegressor as Regressor, threads),
            "ridge" => make!(RidgeRegression as Regressor),
            _ => return Err(self.unknown("a way to foretell a number", Self::REGRESSORS)),
        };
        make(self, threads)
    }

    fn config<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_value(serde_json::Value::Object(self.params.clone())).map_err(|e| {
            Error::config("a model's settings cannot be read")
                .operation("model.spec")
                .with("kind", &self.kind)
                .with("reason", &e)
        })
    }

    fn unknown(&self, what: &str, known: &[&str]) -> Error {
        Error::config(format!("there is no such model as {what}"))
            .operation("model.spec")
            .with("kind", &self.kind)
            .with("known", known.join(" "))
    }
}

/// The kind a stored model says it is.
fn kind_of(json: &serde_json::Value) -> Result<&str> {
    json.get("kind")
        .and_then(serde_json::Value::as_str)
        .ok_or_else(|| {
            Error::new(ErrorKind::Corrupt, "not a model; expected kind, format and model")
                .operation("model.read")
        })
}

fn no_reader(found: &str, expected: &str) -> Error {
    Error::new(ErrorKind::Corrupt, "a model of another kind")
        .operation("model.read")
        .with("found", found)
        .with("expected", expected)
}

/// Reads any stored model that makes groups.
///
/// # Errors
/// [`ErrorKind::Corrupt`] when it is none, or its parts do not fit.
pub fn read_clusters(json: serde_json::Value) -> Result<Box<dyn ClusterModel>> {
    Ok(match kind_of(&json)? {
        KMeansModel::KIND => Box::new(KMeansModel::from_json(json)?),
        DbscanModel::KIND => Box::new(DbscanModel::from_json(json)?),
        MixtureModel::KIND => Box::new(MixtureModel::from_json(json)?),
        HierarchicalModel::KIND => Box::new(HierarchicalModel::from_json(json)?),
        other => return Err(no_reader(other, "groups")),
    })
}

/// Reads any stored model that finds directions.
///
/// # Errors
/// As [`read_clusters`].
pub fn read_reduction(json: serde_json::Value) -> Result<Box<dyn ReduceModel>> {
    Ok(match kind_of(&json)? {
        PcaModel::KIND => Box::new(PcaModel::from_json(json)?),
        other => return Err(no_reader(other, "directions")),
    })
}

/// Reads any stored model that tells classes apart.
///
/// # Errors
/// As [`read_clusters`].
pub fn read_classifier(json: serde_json::Value) -> Result<Box<dyn ClassifierModel>> {
    Ok(match kind_of(&json)? {
        TreeModel::KIND => Box::new(TreeModel::from_json(json)?),
        ForestModel::KIND => Box::new(ForestModel::from_json(json)?),
        BoostedModel::KIND => Box::new(BoostedModel::from_json(json)?),
        LogisticModel::KIND => Box::new(LogisticModel::from_json(json)?),
        other => return Err(no_reader(other, "classes")),
    })
}

/// Reads any stored model that foretells a number.
///
/// # Errors
/// As [`read_clusters`].
pub fn read_regressor(json: serde_json::Value) -> Result<Box<dyn RegressorModel>> {
    Ok(match kind_of(&json)? {
        TreeRegressorModel::KIND => Box::new(TreeRegressorModel::from_json(json)?),
        ForestRegressorModel::KIND => Box::new(ForestRegressorModel::from_json(json)?),
        BoostedRegressorModel::KIND => Box::new(BoostedRegressorModel::from_json(json)?),
        RidgeModel::KIND => Box::new(RidgeModel::from_json(json)?),
        other => return Err(no_reader(other, "a number")),
    })
}
