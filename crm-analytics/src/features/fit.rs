//! From columns to numbers a model takes: what is learned.

use std::collections::{BTreeMap, BTreeSet};

use crm_core::record::FieldType;
use crm_core::{Column, Error, Matrix, Result, Table};
use rand_xoshiro::rand_core::RngCore;
use serde::{Deserialize, Serialize};

use super::encode::{Coder, Encoded, FittedColumn, FittedEncoding, Given, given};
use crate::clean::Unknown;
use crate::sample::generator;

/// The most categories that get a column of their own.
const MOST_CATEGORIES: usize = 1_000;

/// What a missing number becomes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Impute {
    /// The mean of those it was fitted on.
    Mean,
    /// The median of those it was fitted on.
    Median,
    /// This number.
    Constant(f64),
    /// An error that names the row.
    Refuse,
}

/// How numbers are put on one scale. What does not vary becomes 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    /// Not at all.
    None,
    /// Less the mean, divided by the standard deviation (of a sample).
    Standard,
    /// Less the median, divided by the distance of the quartiles: outliers do not move it.
    Robust,
    /// 0 for the least and 1 for the most of what it was fitted on.
    MinMax,
}

/// How one column becomes numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Encoding {
    /// As a number (integers, floats, bools as 0 and 1).
    Number {
        /// What a missing one becomes.
        impute: Impute,
        /// Takes `ln(1 + |x|)`, with the sign of x, before it is scaled.
        #[serde(default)]
        log1p: bool,
        /// The scale.
        scale: Scale,
        /// Adds `x#missing`: 1 where there was no value, else 0.
        #[serde(default)]
        missing: bool,
    },
    /// One column of 0 and 1 a category (text, bools, integers). A missing value is 0 in all, unless it has its own.
    OneHot {
        /// Only the most frequent categories; the others share `x=other`.
        #[serde(default)]
        max_categories: Option<usize>,
        /// Categories rarer than this share `x=other`; 0 for no such limit.
        #[serde(default)]
        min_count: usize,
        /// What a category never seen becomes: counted, and 1 in `x=other` if there is one; or an error.
        #[serde(default)]
        unknown: Unknown,
        /// Adds `x#missing`.
        #[serde(default)]
        missing: bool,
    },
    /// 0, 1, 2, ... in this order; missing and unknown ones are -1.
    Ordinal {
        /// The categories, the lowest first.
        levels: Vec<String>,
    },
    /// The share of the rows it was fitted on that have the category; unknown ones are 0, missing ones have a share of
    /// their own.
    Frequency,
    /// The mean outcome of the category, drawn towards the mean of all by `smoothing` rows of it; unknown ones are the mean
    /// of all, missing ones a category of their own.
    ///
    /// What the model learns from is cross-fitted: each row's value comes from the rows of the other folds, so that no row
    /// sees its own outcome.
    Target {
        /// So many rows of the mean of all are added to each category; 0 or more.
        smoothing: f64,
    },
}

impl Encoding {
    /// One column a category, all as usual: every category of its own, those never seen are none of them.
    pub fn one_hot() -> Self {
        Self::OneHot {
            max_categories: None,
            min_count: 0,
            unknown: Unknown::Accept,
            missing: false,
        }
    }
    /// A number in standard deviations from the mean; missing ones become the mean.
    pub fn number() -> Self {
        Self::Number {
            impute: Impute::Mean,
            log1p: false,
            scale: Scale::Standard,
            missing: false,
        }
    }
}

/// One column and its encoding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FeatureDef {
    /// The column.
    pub source: String,
    /// How it becomes numbers.
    pub encoding: Encoding,
}

/// Which columns become numbers, and how. Plain data.
///
/// ```
/// use crm_analytics::features::{Encoding, EncodingPlan, Impute, Scale};
/// use crm_core::{Column, Table, record::Value};
///
/// let mut plan = Column::text("plan");
/// ["free", "pro", "free"].iter().for_each(|p| plan.push_text(Some(p)));
/// let table = Table::new(vec![plan, Column::floats("age", vec![20.0, 40.0, 60.0])]).unwrap();
/// let encoding = EncodingPlan::new(7)
///     .feature("age", Encoding::Number { impute: Impute::Median, log1p: false, scale: Scale::MinMax, missing: false })
///     .feature("plan", Encoding::OneHot { max_categories: None, min_count: 0, unknown: Default::default(), missing: false });
/// let encoded = encoding.fit(&table, None).unwrap();
/// assert_eq!(encoded.matrix.columns(), ["age", "plan=free", "plan=pro"]);
/// assert_eq!(encoded.matrix.row(1), [0.5, 0.0, 1.0]);
///
/// // One customer, without a table: the same numbers.
/// let mut row = [0.0; 3];
/// let unknown = encoded.fitted.encode_row(&[Value::Null, "gold".into()], &mut row).unwrap();
/// assert_eq!((row, unknown.unknown, unknown.imputed), ([0.5, 0.0, 0.0], 1, 1));
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncodingPlan {
    /// The columns, in order.
    pub features: Vec<FeatureDef>,
    /// Columns that are only known with or after the outcome (the outcome itself, the reason of a cancellation): none of
    /// them may be a feature.
    #[serde(default)]
    pub outcomes: BTreeSet<String>,
    /// The folds of [`Encoding::Target`]; 5 unless said otherwise.
    pub folds: usize,
    /// The seed of the folds.
    pub seed: u64,
}

impl EncodingPlan {
    /// Without columns.
    pub fn new(seed: u64) -> Self {
        Self {
            features: Vec::new(),
            outcomes: BTreeSet::new(),
            folds: 5,
            seed,
        }
    }
    /// Adds a column.
    #[must_use]
    pub fn feature(mut self, source: impl Into<String>, encoding: Encoding) -> Self {
        self.features.push(FeatureDef {
            source: source.into(),
            encoding,
        });
        self
    }
    /// Says that a column is only known with or after the outcome.
    #[must_use]
    pub fn outcome(mut self, column: impl Into<String>) -> Self {
        self.outcomes.insert(column.into());
        self
    }

    /// Learns from a table and encodes it; `outcome` is the column that [`Encoding::Target`] looks at (numbers, or bools).
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Invalid`] naming the column: one that is not there, has an unfitting type, is an outcome, has
    /// nothing to learn from or too many categories; a column of the outcome with a missing value.
    pub fn fit(&self, table: &Table, outcome: Option<&str>) -> Result<Encoded> {
        self.learn(table, outcome)
            .map_err(|error| error.operation("encoding.fit"))
    }

    fn learn(&self, table: &Table, outcome: Option<&str>) -> Result<Encoded> {
        if self.features.is_empty() {
            return Err(Error::invalid("there is no feature to encode").with("setting", "features"));
        }
        if table.rows() == 0 {
            return Err(Error::invalid("there are no rows to learn from"));
        }
        let truth = outcome.map(|name| outcomes(table, name)).transpose()?;
        let mut columns = Vec::with_capacity(self.features.len());
        for feature in &self.features {
            if self.outcomes.contains(&feature.source) || outcome == Some(&feature.source) {
                return Err(Error::invalid(
                    "the column is only known with the outcome: a model that learns from it predicts nothing",
                )
                .with("column", &feature.source));
            }
            let column = table.column(&feature.source)?;
            let coder = coder(feature, column, truth.as_deref())?;
            columns.push(FittedColumn {
                source: feature.source.clone(),
                ty: column.ty(),
                coder,
            });
        }
        let fitted = FittedEncoding::new(columns)?;
        let (mut matrix, report) = fitted.apply(table)?;
        if let Some(truth) = &truth {
            matrix = self.cross_fit(table, truth, &fitted, matrix)?;
        }
        Ok(Encoded {
            fitted,
            matrix,
            report,
        })
    }

    /// Puts the values of the other folds in the place of those of target encodings.
    fn cross_fit(
        &self,
        table: &Table,
        truth: &[f64],
        fitted: &FittedEncoding,
        matrix: Matrix,
    ) -> Result<Matrix> {
        let targets: Vec<(&FeatureDef, f64, usize)> = self
            .features
            .iter()
            .zip(fitted.offsets())
            .filter_map(|(feature, at)| match feature.encoding {
                Encoding::Target { smoothing } => Some((feature, smoothing, at)),
                _ => None,
            })
            .collect();
        if targets.is_empty() {
            return Ok(matrix);
        }
        let rows = table.rows();
        if self.folds < 2 || self.folds > rows {
            return Err(
                Error::invalid("there must be 2 folds or more, and a row for each")
                    .with("setting", "folds")
                    .with("rows", rows),
            );
        }
        let fold = folds(rows, self.folds, self.seed);
        let width = matrix.cols();
        let (names, mut values) = matrix.into_parts();
        for (feature, smoothing, at) in targets {
            let column = table.column(&feature.source)?;
            for own in 0..self.folds {
                let others: Vec<bool> = fold.iter().map(|fold| *fold != own).collect();
                let coder = target(column, truth, &others, smoothing);
                for row in (0..rows).filter(|row| fold.get(*row) == Some(&own)) {
                    if let Some(slot) = values.get_mut(row * width + at) {
                        let mut scratch = String::new();
                        *slot = coder.mean_of(given(column, row, &mut scratch));
                    }
                }
            }
        }
        Matrix::new(names, values)
    }
}

/// The fold of each row: as many rows in each as in any other, give or take one, in an order drawn by the seed.
fn folds(rows: usize, folds: usize, seed: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..rows).collect();
    let mut random = generator(seed, 0xf01d);
    for at in (1..rows).rev() {
        // The upper bits of a product: no modulo, and a bias below 2^-32 for any table that fits into memory.
        let drawn = ((u128::from(random.next_u64()) * (at as u128 + 1)) >> 64) as usize;
        order.swap(at, drawn);
    }
    let mut fold = vec![0; rows];
    for (position, row) in order.into_iter().enumerate() {
        if let Some(slot) = fold.get_mut(row) {
            *slot = position % folds;
        }
    }
    fold
}

fn outcomes(table: &Table, name: &str) -> Result<Vec<f64>> {
    let column = table.column(name)?;
    (0..column.len())
        .map(|row| {
            column
                .f64_at(row)
                .filter(|value| value.is_finite())
                .ok_or_else(|| {
                    Error::invalid("an outcome is a finite number, or true or false, in every row")
                        .with("column", name)
                        .with("row", row)
                })
        })
        .collect()
}

fn fitting(column: &Column, fits: &[FieldType]) -> Result<()> {
    if fits.contains(&column.ty()) {
        return Ok(());
    }
    Err(Error::invalid(
        "this encoding cannot work on a column of this type; cast it first or choose another one",
    )
    .with("column", column.name())
    .with("type", crate::clean::type_name(column.ty())))
}

const CATEGORIES: &[FieldType] = &[FieldType::Text, FieldType::Bool, FieldType::Int];

fn coder(feature: &FeatureDef, column: &Column, truth: Option<&[f64]>) -> Result<Coder> {
    let wrong = |message: &'static str, setting: &'static str| {
        Err(Error::invalid(message)
            .with("column", column.name())
            .with("setting", setting))
    };
    match &feature.encoding {
        Encoding::Number {
            impute,
            log1p,
            scale,
            missing,
        } => {
            fitting(column, &[FieldType::Int, FieldType::Float, FieldType::Bool])?;
            number(column, *impute, *log1p, *scale, *missing)
        }
        Encoding::OneHot {
            max_categories,
            min_count,
            unknown,
            missing,
        } => {
            fitting(column, CATEGORIES)?;
            if *max_categories == Some(0) {
                return wrong("at least one category must get a column", "max_categories");
            }
            let mut ranked: Vec<(String, usize)> = counts(column)
                .0
                .into_iter()
                .filter(|(_, count)| count >= min_count)
                .collect();
            ranked.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
            ranked.truncate(max_categories.unwrap_or(usize::MAX));
            if ranked.len() > MOST_CATEGORIES {
                return wrong(
                    "the column has too many categories; set max_categories",
                    "max_categories",
                );
            }
            let mut levels: Vec<String> = ranked.into_iter().map(|(text, _)| text).collect();
            levels.sort_unstable();
            Ok(Coder::OneHot {
                levels,
                other: max_categories.is_some() || *min_count > 1,
                refuse: *unknown == Unknown::Refuse,
                missing: *missing,
            })
        }
        Encoding::Ordinal { levels } => {
            fitting(column, CATEGORIES)?;
            let distinct: BTreeSet<&String> = levels.iter().collect();
            if levels.is_empty() || distinct.len() != levels.len() {
                return wrong("levels are named once each, and there is at least one", "levels");
            }
            let mut ranks: Vec<(String, f64)> = levels.iter().cloned().zip((0..).map(f64::from)).collect();
            ranks.sort_by(|a, b| a.0.cmp(&b.0));
            Ok(Coder::Levels {
                values: ranks,
                missing: -1.0,
                unknown: -1.0,
            })
        }
        Encoding::Frequency => {
            fitting(column, CATEGORIES)?;
            let rows = column.len() as f64;
            let (counts, absent) = counts(column);
            Ok(Coder::Levels {
                values: counts
                    .into_iter()
                    .map(|(text, count)| (text, count as f64 / rows))
                    .collect(),
                missing: absent as f64 / rows,
                unknown: 0.0,
            })
        }
        Encoding::Target { smoothing } => {
            fitting(column, CATEGORIES)?;
            if !(smoothing.is_finite() && *smoothing >= 0.0) {
                return wrong("smoothing is a number of rows, 0 or more", "smoothing");
            }
            let Some(truth) = truth else {
                return wrong("a target encoding needs the column of the outcome", "outcome");
            };
            Ok(target(column, truth, &vec![true; column.len()], *smoothing))
        }
    }
}

/// How often each category stands there, and how often there is none.
fn counts(column: &Column) -> (BTreeMap<String, usize>, usize) {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut absent = 0;
    let mut scratch = String::new();
    for row in 0..column.len() {
        match given(column, row, &mut scratch) {
            Given::Text(text) => match counts.get_mut(text) {
                Some(count) => *count += 1,
                None => {
                    counts.insert(text.to_owned(), 1);
                }
            },
            _ => absent += 1,
        }
    }
    (counts, absent)
}

/// `(sum + smoothing mean) / (count + smoothing)` of each category, from the rows that are true.
fn target(column: &Column, truth: &[f64], rows: &[bool], smoothing: f64) -> Coder {
    let mut sums: BTreeMap<String, (f64, f64)> = BTreeMap::new();
    let (mut absent, mut all) = ((0.0, 0.0), (0.0, 0.0));
    let mut scratch = String::new();
    for (row, (truth, _)) in truth.iter().zip(rows).enumerate().filter(|(_, (_, used))| **used) {
        let sum = match given(column, row, &mut scratch) {
            Given::Text(text) => match sums.get_mut(text) {
                Some(sum) => sum,
                None => sums.entry(text.to_owned()).or_default(),
            },
            _ => &mut absent,
        };
        sum.0 += truth;
        sum.1 += 1.0;
        all.0 += truth;
        all.1 += 1.0;
    }
    let mean = all.0 / f64::max(all.1, 1.0);
    let drawn = |(sum, count): (f64, f64)| {
        let weight = count + smoothing;
        if weight > 0.0 {
            (sum + smoothing * mean) / weight
        } else {
            mean
        }
    };
    Coder::Levels {
        values: sums.into_iter().map(|(text, sum)| (text, drawn(sum))).collect(),
        missing: drawn(absent),
        unknown: mean,
    }
}

fn number(column: &Column, impute: Impute, log1p: bool, scale: Scale, missing: bool) -> Result<Coder> {
    let mut values = Vec::with_capacity(column.len());
    for row in 0..column.len() {
        match column.f64_at(row) {
            Some(value) if value.is_nan() => {}
            Some(value) if !value.is_finite() => {
                return Err(Error::invalid("a number is infinite; blank or clip it first")
                    .with("column", column.name())
                    .with("row", row));
            }
            Some(value) => values.push(value),
            None => {}
        }
    }
    let nothing = || {
        Error::invalid("every value of the column is missing: there is nothing to learn from")
            .with("column", column.name())
    };
    let mean = |values: &[f64]| {
        let n = values.len() as f64;
        if values.is_empty() {
            None
        } else {
            Some(values.iter().map(|value| value / n).sum::<f64>())
        }
    };
    let sorted = |values: &[f64]| {
        let mut sorted = values.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        sorted
    };
    let fill = match impute {
        Impute::Mean => Some(mean(&values).ok_or_else(nothing)?),
        Impute::Median if values.is_empty() => return Err(nothing()),
        Impute::Median => Some(crate::profile::quantile(&sorted(&values), 0.5)),
        Impute::Constant(value) if value.is_finite() => Some(value),
        Impute::Constant(_) => {
            return Err(
                Error::invalid("missing values are filled with finite numbers only")
                    .with("column", column.name()),
            );
        }
        Impute::Refuse => None,
    };
    // The scale is that of the values as the model sees them: bent, and with what is filled in.
    let bend = |value: f64| {
        if log1p {
            value.abs().ln_1p().copysign(value)
        } else {
            value
        }
    };
    let gaps = column.len() - values.len();
    let seen: Vec<f64> = values
        .iter()
        .copied()
        .chain(fill.into_iter().flat_map(|fill| std::iter::repeat_n(fill, gaps)))
        .map(bend)
        .collect();
    let (center, spread) = match scale {
        Scale::None => (0.0, 1.0),
        _ if seen.is_empty() => return Err(nothing()),
        Scale::Standard => {
            let center = mean(&seen).unwrap_or_default();
            let squares: f64 = seen.iter().map(|value| (value - center).powi(2)).sum();
            (center, (squares / (seen.len() as f64 - 1.0).max(1.0)).sqrt())
        }
        Scale::Robust => {
            let sorted = sorted(&seen);
            let at = |q| crate::profile::quantile(&sorted, q);
            (at(0.5), at(0.75) - at(0.25))
        }
        Scale::MinMax => {
            let sorted = sorted(&seen);
            let (low, high) = (sorted.first().copied(), sorted.last().copied());
            let low = low.unwrap_or_default();
            (low, high.unwrap_or_default() - low)
        }
    };
    if !center.is_finite() || !spread.is_finite() {
        return Err(Error::invalid(
            "the numbers of the column are too far apart to be scaled; clip it or take log1p",
        )
        .with("column", column.name()));
    }
    Ok(Coder::Number {
        fill,
        log1p,
        center,
        // What varies by rounding alone does not vary.
        spread: if spread <= 1e-12 * center.abs() {
            0.0
        } else {
            spread
        },
        missing,
    })
}
