//! What scikit-learn answers on data sets it ships or makes; written by benches/peers/analytics/fixtures.py.

use crm_core::Matrix;
use serde_json::Value;

/// A data set and the answers.
pub(crate) struct Reference {
    pub(crate) x: Matrix,
    pub(crate) target: Vec<f64>,
    pub(crate) answers: Value,
}

/// The data sets, by name.
pub(crate) const NAMES: [&str; 10] = [
    "iris",
    "wine",
    "breast_cancer",
    "digits",
    "diabetes",
    "linnerud",
    "blobs",
    "moons",
    "classification",
    "friedman",
];

/// Those whose target is a number, not a class.
pub(crate) const NUMBERS: [&str; 3] = ["diabetes", "linnerud", "friedman"];

pub(crate) fn reference(name: &str) -> Reference {
    let text = match name {
        "iris" => include_str!("../fixtures/iris.json"),
        "wine" => include_str!("../fixtures/wine.json"),
        "breast_cancer" => include_str!("../fixtures/breast_cancer.json"),
        "digits" => include_str!("../fixtures/digits.json"),
        "diabetes" => include_str!("../fixtures/diabetes.json"),
        "linnerud" => include_str!("../fixtures/linnerud.json"),
        "blobs" => include_str!("../fixtures/blobs.json"),
        "moons" => include_str!("../fixtures/moons.json"),
        "classification" => include_str!("../fixtures/classification.json"),
        _ => include_str!("../fixtures/friedman.json"),
    };
    let mut read: Value = serde_json::from_str(text).unwrap();
    let rows: Vec<Vec<f64>> = serde_json::from_value(read["rows"].take()).unwrap();
    let columns = (0..rows[0].len()).map(|i| format!("x{i}")).collect();
    Reference {
        x: Matrix::from_rows(columns, &rows).unwrap(),
        target: serde_json::from_value(read["target"].take()).unwrap(),
        answers: read["answers"].take(),
    }
}

impl Reference {
    /// Columns with mean 0 and deviation 1 (divided by n); constant ones stay 0.
    pub(crate) fn standardised(&self) -> Matrix {
        let x = &self.x;
        let n = x.rows() as f64;
        let mut values = x.as_slice().to_vec();
        for col in 0..x.cols() {
            let mean = x.iter_col(col).sum::<f64>() / n;
            let deviation = (x.iter_col(col).map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt();
            let scale = if deviation > 0.0 { deviation } else { 1.0 };
            values
                .iter_mut()
                .skip(col)
                .step_by(x.cols())
                .for_each(|v| *v = (*v - mean) / scale);
        }
        Matrix::new(x.columns().to_vec(), values).unwrap()
    }

    pub(crate) fn classes(&self) -> Vec<usize> {
        self.target.iter().map(|class| *class as usize).collect()
    }
}

/// A number of the answers.
pub(crate) fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("not a number: {value}"))
}

/// A list of numbers of the answers.
pub(crate) fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(number).collect()
}

/// Fails unless the numbers agree to `share` of the larger one (or of 1).
pub(crate) fn agree(what: &str, found: f64, expected: f64, share: f64) {
    let apart = (found - expected).abs();
    assert!(
        apart <= share * (1.0 + expected.abs()),
        "{what}: {found}, scikit-learn says {expected}"
    );
}
