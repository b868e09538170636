use crm_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::sample::{generator, shuffle};

/// How rows are parted into those to learn from and those to judge on.
#[derive(Debug, Clone, Copy)]
pub enum Split<'a> {
    /// By chance.
    Random,
    /// By chance, each class in its share on either side. One class a row.
    Stratified(&'a [usize]),
    /// Rows of one group (a customer) stay together. One group a row.
    Groups(&'a [u64]),
    /// What comes later judges: one point in time a row, in any unit. This is the one for events. Rows of one time stay
    /// together.
    Time(&'a [i64]),
}

/// Rows to learn from and rows to judge on; neither is empty and no row is in both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fold {
    /// To learn from, ascending.
    pub train: Vec<usize>,
    /// To judge on, ascending.
    pub test: Vec<usize>,
}

impl Split<'_> {
    /// Rows in the order in which they are given out, in bundles that stay together.
    fn bundles(&self, rows: usize, seed: u64) -> Result<Vec<Vec<usize>>> {
        let given = match self {
            Self::Random => rows,
            Self::Stratified(classes) => classes.len(),
            Self::Groups(groups) => groups.len(),
            Self::Time(times) => times.len(),
        };
        if given != rows {
            return Err(
                Error::invalid("what rows are parted by is not given for each row")
                    .operation("judge.split")
                    .with("rows", rows)
                    .with("given", given),
            );
        }
        let mut random = generator(seed, 0x5917);
        let mut order: Vec<usize> = (0..rows).collect();
        shuffle(&mut order, &mut random);
        let together = |mut order: Vec<usize>, same: &dyn Fn(usize, usize) -> std::cmp::Ordering| {
            order.sort_by(|a, b| same(*a, *b).then(a.cmp(b)));
            let mut bundles: Vec<Vec<usize>> = Vec::new();
            for row in order {
                match bundles.last_mut() {
                    Some(bundle) if bundle.last().is_some_and(|last| same(*last, row).is_eq()) => {
                        bundle.push(row)
                    }
                    _ => bundles.push(vec![row]),
                }
            }
            bundles
        };
        Ok(match self {
            Self::Random => order.into_iter().map(|row| vec![row]).collect(),
            Self::Stratified(classes) => {
                let class = |row: &usize| classes.get(*row).copied();
                // Stable: within a class the order stays by chance. Dealt out in turn, every class is spread evenly.
                order.sort_by_key(class);
                order.into_iter().map(|row| vec![row]).collect()
            }
            Self::Groups(groups) => {
                let mut bundles = together(order, &|a, b| groups.get(a).cmp(&groups.get(b)));
                shuffle(&mut bundles, &mut random);
                bundles
            }
            Self::Time(times) => together(order, &|a, b| times.get(a).cmp(&times.get(b))),
        })
    }
}

fn fold(rows: usize, test: &[usize], train: Option<&[usize]>) -> Result<Fold> {
    let mut is_test = vec![false; rows];
    for row in test {
        if let Some(flag) = is_test.get_mut(*row) {
            *flag = true;
        }
    }
    let mut test: Vec<usize> = test.to_vec();
    test.sort_unstable();
    let mut train: Vec<usize> = match train {
        Some(train) => train.to_vec(),
        None => (0..rows)
            .filter(|row| is_test.get(*row) == Some(&false))
            .collect(),
    };
    train.sort_unstable();
    if train.is_empty() || test.is_empty() {
        return Err(
            Error::invalid("too few rows, groups or points in time to part them so")
                .operation("judge.split")
                .with("rows", rows),
        );
    }
    Ok(Fold { train, test })
}

/// Parts rows once, `share` of them (about) to judge on.
///
/// # Errors
/// [`crm_core::ErrorKind::Invalid`] when the share is not between 0 and 1, lengths differ, or a side would be empty.
pub fn train_test(rows: usize, share: f64, split: &Split<'_>, seed: u64) -> Result<Fold> {
    if !(share > 0.0 && share < 1.0) {
        return Err(Error::invalid("the share to judge on is between 0 and 1").operation("judge.split"));
    }
    let bundles = split.bundles(rows, seed)?;
    let wanted = rows as f64 * share;
    let mut test = Vec::new();
    match split {
        Split::Stratified(_) => {
            // Every time a further share of a row has come together, the next row of the class order is taken.
            let mut owed = 0.5;
            for bundle in bundles {
                owed += share;
                if owed >= 1.0 {
                    owed -= 1.0;
                    test.extend(bundle);
                }
            }
        }
        Split::Time(_) => {
            for bundle in bundles.into_iter().rev() {
                if test.len() as f64 + bundle.len() as f64 / 2.0 > wanted && !test.is_empty() {
                    break;
                }
                test.extend(bundle);
            }
        }
        Split::Random | Split::Groups(_) => {
            for bundle in bundles {
                if test.len() as f64 + bundle.len() as f64 / 2.0 > wanted && !test.is_empty() {
                    break;
                }
                test.extend(bundle);
            }
        }
    }
    fold(rows, &test, None)
}

/// Parts rows `count` times, each row being judged on once. By time, every fold learns from what came before it, so that
/// the first stretch of time is only learned from.
///
/// # Errors
/// [`crm_core::ErrorKind::Invalid`] with fewer than 2 folds, when lengths differ, or a fold would be empty.
pub fn folds(rows: usize, count: usize, split: &Split<'_>, seed: u64) -> Result<Vec<Fold>> {
    let invalid = |message: &'static str| {
        Err(Error::invalid(message)
            .operation("judge.split")
            .with("rows", rows)
            .with("folds", count))
    };
    if count < 2 || count > rows {
        return invalid("there are at least 2 folds, and a row for each");
    }
    let bundles = split.bundles(rows, seed)?;
    if let Split::Time(_) = split {
        // One stretch more than folds.
        let mut stretches: Vec<Vec<usize>> = vec![Vec::new(); count + 1];
        let mut passed = 0;
        for bundle in bundles {
            let middle = passed as f64 + bundle.len() as f64 / 2.0;
            let at = (middle / rows as f64 * (count + 1) as f64) as usize;
            passed += bundle.len();
            if let Some(stretch) = stretches.get_mut(at.min(count)) {
                stretch.extend(bundle);
            }
        }
        let mut before: Vec<usize> = Vec::new();
        let mut found = Vec::new();
        for stretch in stretches {
            if !before.is_empty() {
                if stretch.is_empty() {
                    return invalid("too few points in time for so many folds");
                }
                found.push(fold(rows, &stretch, Some(&before))?);
            }
            before.extend(stretch);
        }
        if found.len() < count {
            return invalid("too few points in time for so many folds");
        }
        return Ok(found);
    }
    let mut tests: Vec<Vec<usize>> = vec![Vec::new(); count];
    if let Split::Groups(_) = split {
        // The next group goes where the fewest rows are, large groups first.
        let mut bundles = bundles;
        bundles.sort_by_key(|bundle| std::cmp::Reverse(bundle.len()));
        for bundle in bundles {
            if let Some(test) = tests.iter_mut().min_by_key(|test| test.len()) {
                test.extend(bundle);
            }
        }
    } else {
        for (at, bundle) in bundles.into_iter().enumerate() {
            if let Some(test) = tests.get_mut(at % count) {
                test.extend(bundle);
            }
        }
    }
    tests.iter().map(|test| fold(rows, test, None)).collect()
}
