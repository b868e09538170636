use crm_core::{Error, Matrix, Result};

use super::{same_length, square_distance};

/// Centres, sizes and the labels of rows in a group; only groups with rows.
struct Groups {
    centers: Vec<Vec<f64>>,
    sizes: Vec<f64>,
    /// The group of each row.
    of: Vec<Option<usize>>,
}

fn groups(operation: &'static str, x: &Matrix, labels: &[Option<usize>]) -> Result<Groups> {
    same_length(x, labels.len())?;
    let mut names: Vec<usize> = labels.iter().flatten().copied().collect();
    names.sort_unstable();
    names.dedup();
    let of: Vec<Option<usize>> = labels
        .iter()
        .map(|label| label.map(|label| names.partition_point(|name| *name < label)))
        .collect();
    let mut sizes = vec![0.0; names.len()];
    let mut centers = vec![vec![0.0; x.cols()]; names.len()];
    for (row, group) in x.iter_rows().zip(&of) {
        let Some((center, size)) = group.and_then(|g| Some((centers.get_mut(g)?, sizes.get_mut(g)?))) else {
            continue;
        };
        *size += 1.0;
        center.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
    }
    for (center, size) in centers.iter_mut().zip(&sizes) {
        center.iter_mut().for_each(|value| *value /= size);
    }
    let rows = of.iter().flatten().count();
    if names.len() < 2 || names.len() >= rows {
        return Err(
            Error::invalid("there are at least 2 groups and fewer than rows in them")
                .operation(operation)
                .with("groups", names.len())
                .with("rows", rows),
        );
    }
    Ok(Groups { centers, sizes, of })
}

fn finite(operation: &'static str, value: f64) -> Result<f64> {
    if value.is_finite() {
        return Ok(value);
    }
    Err(
        Error::invalid("the values are too large to be squared, or the rows of each group are all equal")
            .operation(operation),
    )
}

/// The variance ratio of Calinski and Harabasz (1974): spread between groups over spread within, each by its degrees of
/// freedom; larger is better. Rows in no group are left out.
///
/// # Errors
/// [`crm_core::ErrorKind::Invalid`] when lengths differ, fewer than two groups have rows, every row is its own group, or
/// nothing varies within the groups.
pub fn calinski_harabasz(x: &Matrix, labels: &[Option<usize>]) -> Result<f64> {
    let operation = "metrics.calinski_harabasz";
    let found = groups(operation, x, labels)?;
    let rows: f64 = found.sizes.iter().sum();
    let mut whole = vec![0.0; x.cols()];
    for (center, size) in found.centers.iter().zip(&found.sizes) {
        whole
            .iter_mut()
            .zip(center)
            .for_each(|(sum, value)| *sum += value * size / rows);
    }
    let between: f64 = found
        .centers
        .iter()
        .zip(&found.sizes)
        .map(|(center, size)| size * square_distance(center, &whole))
        .sum();
    let within: f64 = x
        .iter_rows()
        .zip(&found.of)
        .filter_map(|(row, group)| Some(square_distance(row, found.centers.get((*group)?)?)))
        .sum();
    let k = found.sizes.len() as f64;
    finite(operation, between / (k - 1.0) / (within / (rows - k)))
}

/// The index of Davies and Bouldin (1979): for each group the worst ratio of two groups' mean distances to their centres
/// over the distance of the centres, on average; smaller is better. Rows in no group are left out.
///
/// # Errors
/// As [`calinski_harabasz`]; also when two centres are equal.
pub fn davies_bouldin(x: &Matrix, labels: &[Option<usize>]) -> Result<f64> {
    let operation = "metrics.davies_bouldin";
    let found = groups(operation, x, labels)?;
    let mut spreads = vec![0.0; found.sizes.len()];
    for (row, group) in x.iter_rows().zip(&found.of) {
        if let Some((spread, center)) = group.and_then(|g| Some((spreads.get_mut(g)?, found.centers.get(g)?)))
        {
            *spread += square_distance(row, center).sqrt();
        }
    }
    spreads
        .iter_mut()
        .zip(&found.sizes)
        .for_each(|(spread, size)| *spread /= size);
    let mut sum = 0.0;
    for (i, (center, spread)) in found.centers.iter().zip(&spreads).enumerate() {
        let others = found
            .centers
            .iter()
            .zip(&spreads)
            .enumerate()
            .filter(|(j, _)| *j != i);
        let worst = others
            .map(|(_, (other, more))| {
                let apart = square_distance(center, other).sqrt();
                if spread + more == 0.0 {
                    0.0
                } else {
                    (spread + more) / apart
                }
            })
            .fold(0.0, f64::max);
        sum += worst;
    }
    finite(operation, sum / spreads.len() as f64)
}

/// How far two groupings agree (Hubert and Arabie 1985): 1 when they are the same up to names, 0 as by chance. Rows in no
/// group count as a group of their own.
///
/// # Errors
/// [`crm_core::ErrorKind::Invalid`] when the lengths differ.
pub fn adjusted_rand(a: &[Option<usize>], b: &[Option<usize>]) -> Result<f64> {
    if a.len() != b.len() {
        return Err(Error::invalid("the two groupings differ in length").operation("metrics.adjusted_rand"));
    }
    let mut pairs: Vec<(Option<usize>, Option<usize>)> = a.iter().copied().zip(b.iter().copied()).collect();
    pairs.sort_unstable();
    let two = |count: usize| count as f64 * (count as f64 - 1.0) / 2.0;
    let runs = |keys: &mut dyn Iterator<Item = (Option<usize>, Option<usize>)>| {
        let (mut sum, mut run, mut last) = (0.0, 0_usize, None);
        for key in keys {
            if last == Some(key) {
                run += 1;
            } else {
                sum += two(run);
                (run, last) = (1, Some(key));
            }
        }
        sum + two(run)
    };
    let both = runs(&mut pairs.iter().copied());
    let of_a = runs(&mut pairs.iter().map(|(a, _)| (*a, None)));
    let mut second: Vec<Option<usize>> = b.to_vec();
    second.sort_unstable();
    let of_b = runs(&mut second.into_iter().map(|b| (b, None)));
    let all = two(a.len());
    if all == 0.0 {
        return Ok(1.0);
    }
    let expected = of_a * of_b / all;
    let most = f64::midpoint(of_a, of_b);
    Ok(if most == expected {
        1.0
    } else {
        (both - expected) / (most - expected)
    })
}
