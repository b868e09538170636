//! Systems of equations with a symmetric positive matrix (Cholesky; Golub and Van Loan, Matrix Computations, 4.2).
#![allow(
    clippy::indexing_slicing,
    clippy::needless_range_loop,
    reason = "indices run below the size of the square matrix"
)]

/// The lower factor of a matrix given row after row.
pub(super) struct Factor {
    lower: Vec<f64>,
    size: usize,
}

impl Factor {
    /// The row where the matrix is not positive (to rounding): it depends on those before it.
    pub(super) fn new(matrix: &[f64], size: usize) -> Result<Self, usize> {
        let mut lower = matrix.to_vec();
        for i in 0..size {
            for j in 0..=i {
                let (row_i, row_j) = (i * size, j * size);
                let mut sum = lower[row_i + j];
                for k in 0..j {
                    sum -= lower[row_i + k] * lower[row_j + k];
                }
                if i == j {
                    // Also when it is not a number.
                    if sum.is_nan() || sum <= 1e-13 * matrix[row_i + i] {
                        return Err(i);
                    }
                    lower[row_i + i] = sum.sqrt();
                } else {
                    lower[row_i + j] = sum / lower[row_j + j];
                }
            }
        }
        Ok(Self { lower, size })
    }

    /// The solution for a right side, in its place.
    pub(super) fn solve(&self, right: &mut [f64]) {
        let n = self.size;
        for i in 0..n {
            let mut sum = right[i];
            for k in 0..i {
                sum -= self.lower[i * n + k] * right[k];
            }
            right[i] = sum / self.lower[i * n + i];
        }
        for i in (0..n).rev() {
            let mut sum = right[i];
            for k in i + 1..n {
                sum -= self.lower[k * n + i] * right[k];
            }
            right[i] = sum / self.lower[i * n + i];
        }
    }

    /// The inverse, row after row.
    pub(super) fn inverse(&self) -> Vec<f64> {
        let n = self.size;
        let mut inverse = vec![0.0; n * n];
        for column in 0..n {
            let mut right = vec![0.0; n];
            right[column] = 1.0;
            self.solve(&mut right);
            for (row, value) in right.iter().enumerate() {
                inverse[row * n + column] = *value;
            }
        }
        inverse
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn solves_and_says_what_depends() {
        let matrix = [4.0, 2.0, 0.6, 2.0, 3.0, 0.4, 0.6, 0.4, 2.0];
        let factor = Factor::new(&matrix, 3).unwrap();
        let mut x = vec![1.0, 2.0, 3.0];
        factor.solve(&mut x);
        for (row, right) in matrix.chunks(3).zip([1.0, 2.0, 3.0]) {
            assert!((row.iter().zip(&x).map(|(a, b)| a * b).sum::<f64>() - right).abs() < 1e-12);
        }
        let inverse = factor.inverse();
        let one: f64 = (0..3).map(|k| matrix[3 + k] * inverse[k * 3 + 1]).sum();
        assert!((one - 1.0).abs() < 1e-12);
        assert_eq!(Factor::new(&[1.0, 1.0, 1.0, 1.0], 2).err(), Some(1));
        assert_eq!(Factor::new(&[f64::NAN], 1).err(), Some(0));
    }
}
