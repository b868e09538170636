//! Eigenvalues and vectors of symmetric matrices, checked.

use crm_core::{Error, Result};
use linfa_linalg::eigh::{EigSort, Eigh};
use ndarray::{Array1, Array2};

use super::{classify, guarded};

/// Values, the largest first, and vectors as columns.
pub(super) type Eigen = (Array1<f64>, Array2<f64>);

/// By linfa's linear algebra; by rotations where its answer fails the check: it gives up, or answers nonsense, on some
/// matrices whose entries differ by many orders of magnitude.
pub(super) fn by_linfa(shares: &Array2<f64>) -> Result<Eigen> {
    let found = guarded("pca.fit", || Ok(shares.eigh().map_err(classify)?.sort_eig_desc()));
    match found {
        Ok(found) if verify(shares, &found).is_ok() => Ok(found),
        _ => by_rotations(shares),
    }
}

/// By Jacobi's rotations.
pub(super) fn by_rotations(shares: &Array2<f64>) -> Result<Eigen> {
    let found = jacobi(shares);
    verify(shares, &found)?;
    Ok(found)
}

/// `C v = value v` and unit length for every pair, and the values sum to the trace, which is 1.
fn verify(shares: &Array2<f64>, (values, vectors): &Eigen) -> Result<()> {
    let near = |a: f64, b: f64| (a - b).abs() <= 1e-8;
    let mut right = values.len() == shares.nrows() && near(values.sum(), 1.0);
    for (value, vector) in values.iter().zip(vectors.columns()) {
        let image = shares.dot(&vector);
        right &= near(vector.dot(&vector), 1.0);
        right &= image.iter().zip(vector).all(|(a, b)| near(*a, value * b));
    }
    if right {
        return Ok(());
    }
    Err(Error::unexpected("the eigen decomposition failed its check; please report it").operation("pca.fit"))
}

/// Eigenvalues, the largest first, and vectors of a symmetric matrix by rotations (Jacobi 1846; Golub and Van Loan,
/// Matrix Computations, 8.5): slower, but at home with any spread of entries.
#[allow(
    clippy::indexing_slicing,
    reason = "every index runs below the size of the square matrix"
)]
fn jacobi(matrix: &Array2<f64>) -> Eigen {
    let n = matrix.nrows();
    let mut a = matrix.clone();
    let mut vectors = Array2::eye(n);
    for _sweep in 0..60 {
        let off: f64 = a
            .indexed_iter()
            .filter(|((i, j), _)| i != j)
            .map(|(_, v)| v.abs())
            .sum();
        if off <= 1e-16 {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                if a[[p, q]] == 0.0 {
                    continue;
                }
                let theta = (a[[q, q]] - a[[p, p]]) / (2.0 * a[[p, q]]);
                let tangent = theta.signum() / (theta.abs() + theta.hypot(1.0));
                let cosine = 1.0 / tangent.hypot(1.0);
                let sine = tangent * cosine;
                for k in 0..n {
                    let (x, y) = (a[[k, p]], a[[k, q]]);
                    (a[[k, p]], a[[k, q]]) = (cosine * x - sine * y, sine * x + cosine * y);
                }
                for k in 0..n {
                    let (x, y) = (a[[p, k]], a[[q, k]]);
                    (a[[p, k]], a[[q, k]]) = (cosine * x - sine * y, sine * x + cosine * y);
                }
                for k in 0..n {
                    let (x, y) = (vectors[[k, p]], vectors[[k, q]]);
                    (vectors[[k, p]], vectors[[k, q]]) = (cosine * x - sine * y, sine * x + cosine * y);
                }
            }
        }
    }
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|i, j| a[[*j, *j]].total_cmp(&a[[*i, *i]]));
    (
        order.iter().map(|i| a[[*i, *i]]).collect(),
        vectors.select(ndarray::Axis(1), &order),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotations_agree_with_linfa_and_hold_where_it_does_not() {
        let plain = ndarray::array![[0.5, 0.2, 0.1], [0.2, 0.3, -0.1], [0.1, -0.1, 0.2]];
        let ours = jacobi(&plain);
        verify(&plain, &ours).unwrap();
        let theirs = plain.eigh().unwrap().sort_eig_desc();
        assert!(ours.0.iter().zip(&theirs.0).all(|(a, b)| (a - b).abs() < 1e-12));
        let spread = ndarray::array![
            [1.0, 1e-140, 1e-75],
            [1e-140, 1e-280, 1e-220],
            [1e-75, 1e-220, 1e-150]
        ];
        verify(&spread, &jacobi(&spread)).unwrap();
        let wrong = (theirs.0, ndarray::Array2::eye(3));
        assert!(verify(&plain, &wrong).is_err(), "the check can fail");
    }
}
