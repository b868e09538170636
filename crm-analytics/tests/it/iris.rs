//! Fisher's Iris data.

use crm_core::Matrix;

/// The 150 rows and their species.
pub(crate) fn iris() -> (Matrix, Vec<usize>) {
    let mut values = Vec::new();
    let mut species = Vec::new();
    for line in include_str!("../iris.csv")
        .lines()
        .filter(|line| !line.starts_with('#'))
    {
        let numbers: Vec<f64> = line.split(',').map(|n| n.parse().unwrap()).collect();
        values.extend_from_slice(&numbers[..4]);
        species.push(numbers[4] as usize);
    }
    let columns = ["sepal_length", "sepal_width", "petal_length", "petal_width"]
        .map(String::from)
        .to_vec();
    (Matrix::new(columns, values).unwrap(), species)
}

/// Each column with mean 0 and standard deviation 1 (divided by n).
pub(crate) fn standardised(x: &Matrix) -> Matrix {
    let mut values = x.as_slice().to_vec();
    for col in 0..x.cols() {
        let n = x.rows() as f64;
        let mean = x.iter_col(col).sum::<f64>() / n;
        let deviation = (x.iter_col(col).map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt();
        values
            .iter_mut()
            .skip(col)
            .step_by(x.cols())
            .for_each(|v| *v = (*v - mean) / deviation);
    }
    Matrix::new(x.columns().to_vec(), values).unwrap()
}
