//! The conformance suites of the models: [`Clusterer`], [`Reducer`], [`Classifier`] and [`Regressor`].
//!
//! Each function takes a provider and a function that reads its stored models back, and panics with the property's name
//! when it does not hold. [`clusterer_suite!`](crate::clusterer_suite) and the others make a test of each.
//!
//! ```
//! use crm_core::testkit::models;
//!
//! // What a clusterer under test is configured for: three groups of this size, 10 apart, each within half a unit.
//! let (x, groups) = models::three_groups();
//! assert_eq!((x.rows(), groups.iter().filter(|group| **group == 2).count()), (190, 40));
//! ```

use std::fmt::Debug;

use crate::capability::{
    Classifier, ClassifierModel, ClusterModel, Clusterer, ReduceModel, Reducer, Regressor, RegressorModel,
};
use crate::{Error, ErrorKind, Matrix, Result};

/// Reads a stored model back.
pub type Read<T> = dyn Fn(serde_json::Value) -> Result<Box<T>>;

macro_rules! suite {
    ($outer:ident, $inner:ident, $module:ident, $what:literal, [$($case:ident),* $(,)?]) => {
        #[doc = concat!("Makes a module with one `#[test]` for every property of [`testkit::models::", stringify!($module), "`](crate::testkit::models::", stringify!($module), ").")]
        ///
        #[doc = concat!("The expressions give ", $what, " and a function that reads its stored models.")]
        #[macro_export]
        macro_rules! $outer {
            ($name:ident, $provider:expr, $read:expr) => {
                $crate::__model_suite! { $name, $module, $provider, $read; $($case),* }
            };
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __model_suite {
    ($name:ident, $module:ident, $provider:expr, $read:expr; $($case:ident),* $(,)?) => {
        mod $name {
            #[allow(unused_imports)]
            use super::*;
            $(
                #[test]
                fn $case() {
                    let provider = $provider;
                    $crate::testkit::models::$module::$case(&*provider, &$read);
                }
            )*
        }
    };
}

suite!(
    clusterer_suite,
    __clusterer_suite,
    clusterer,
    "an `Arc<dyn Clusterer>` configured for [`three_groups`](crate::testkit::models::three_groups)",
    [
        three_groups_far_apart_are_found,
        same_rows_and_seed_same_groups,
        neither_order_nor_names_nor_place_matter,
        a_constant_column_changes_nothing,
        equal_rows_are_in_one_group,
        what_cannot_be_grouped_is_refused,
        rows_that_do_not_fit_are_refused,
        one_row_is_grouped_as_many,
        it_reads_back_to_the_last_bit,
        weights_count_or_are_refused,
        hostile_rows_are_grouped_or_refused,
    ]
);
suite!(
    reducer_suite,
    __reducer_suite,
    reducer,
    "an `Arc<dyn Reducer>` for two directions",
    [
        directions_are_unit_and_upright,
        shares_are_of_the_total,
        neither_order_nor_names_matter,
        a_constant_column_changes_nothing,
        what_does_not_vary_is_refused,
        rows_that_do_not_fit_are_refused,
        one_row_is_projected_as_many,
        it_reads_back_to_the_last_bit,
        hostile_rows_are_reduced_or_refused,
    ]
);
suite!(
    classifier_suite,
    __classifier_suite,
    classifier,
    "an `Arc<dyn Classifier>`",
    [
        classes_far_apart_are_told,
        probabilities_are_such,
        same_rows_and_seed_same_model,
        neither_order_nor_names_nor_units_matter,
        a_constant_column_does_not_matter,
        what_cannot_be_learned_is_refused,
        rows_that_do_not_fit_are_refused,
        one_row_is_scored_as_many,
        it_reads_back_to_the_last_bit,
        weights_count_or_are_refused,
        contributions_sum_to_the_margin,
        hostile_rows_are_learned_or_refused,
    ]
);
suite!(
    regressor_suite,
    __regressor_suite,
    regressor,
    "an `Arc<dyn Regressor>`",
    [
        steps_are_foretold,
        same_rows_and_seed_same_model,
        a_constant_column_does_not_matter,
        what_cannot_be_learned_is_refused,
        rows_that_do_not_fit_are_refused,
        one_row_is_scored_as_many,
        it_reads_back_to_the_last_bit,
        weights_count_or_are_refused,
        contributions_sum_to_the_value,
        hostile_rows_are_learned_or_refused,
    ]
);

/// A number from 0 to 1 of a seeded sequence.
struct Sequence(u64);

impl Sequence {
    fn next(&mut self) -> f64 {
        // SplitMix64 (Steele, Lea and Flood 2014).
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

fn named(names: &[&str], values: Vec<f64>) -> Matrix {
    Matrix::new(names.iter().map(|name| (*name).to_owned()).collect(), values)
        .expect("the fixture is a matrix")
}

/// Three groups of 90, 60 and 40 rows in two columns: their centres are 10 apart, their rows within half a unit.
pub fn three_groups() -> (Matrix, Vec<usize>) {
    let mut sequence = Sequence(7);
    let (mut values, mut groups) = (Vec::new(), Vec::new());
    for (group, (rows, across, up)) in [(90, 0.0, 0.0), (60, 10.0, 0.0), (40, 5.0, 9.0)]
        .into_iter()
        .enumerate()
    {
        for _ in 0..rows {
            values.extend([
                across + sequence.next() * 0.7 - 0.35,
                up + sequence.next() * 0.7 - 0.35,
            ]);
            groups.push(group);
        }
    }
    (named(&["across", "up"], values), groups)
}

/// The same rows in another order, the order, and its names changed.
fn shuffled(x: &Matrix) -> (Matrix, Vec<usize>) {
    let mut sequence = Sequence(11);
    let mut order: Vec<usize> = (0..x.rows()).collect();
    for last in (1..order.len()).rev() {
        order.swap(last, (sequence.next() * (last + 1) as f64) as usize);
    }
    let values = order.iter().flat_map(|row| x.row(*row).to_vec()).collect();
    (
        Matrix::new(x.columns().to_vec(), values).expect("rows stay finite"),
        order,
    )
}

fn renamed(x: &Matrix) -> Matrix {
    Matrix::new(
        x.columns().iter().map(|name| format!("new {name}")).collect(),
        x.as_slice().to_vec(),
    )
    .expect("values stay finite")
}

fn moved(x: &Matrix, by: f64) -> Matrix {
    Matrix::new(
        x.columns().to_vec(),
        x.as_slice().iter().map(|v| v + by).collect(),
    )
    .expect("values stay finite")
}

/// Each column in another unit: times a power of two, which loses no bit.
fn rescaled(x: &Matrix) -> Matrix {
    let cols = x.cols();
    let values = x
        .as_slice()
        .iter()
        .enumerate()
        .map(|(at, v)| v * [1024.0, 0.125, 8.0][at % cols % 3]);
    Matrix::new(x.columns().to_vec(), values.collect()).expect("values stay finite")
}

fn with_constant(x: &Matrix, constant: f64) -> Matrix {
    let mut columns = x.columns().to_vec();
    columns.push("constant".to_owned());
    let values = x
        .iter_rows()
        .flat_map(|row| row.iter().copied().chain([constant]))
        .collect();
    Matrix::new(columns, values).expect("values stay finite")
}

/// Rows such as no data set should have, and some that every one has.
fn hostile() -> Vec<(&'static str, Matrix)> {
    let mut sequence = Sequence(3);
    let mut random = |n: usize, scale: f64| {
        (0..n)
            .map(|_| (sequence.next() - 0.5) * scale)
            .collect::<Vec<f64>>()
    };
    vec![
        ("one row", named(&["a", "b"], vec![1.0, 2.0])),
        ("two rows", named(&["a", "b"], vec![1.0, 2.0, 3.0, -4.0])),
        ("equal rows", named(&["a", "b"], vec![3.0; 24])),
        ("signs of nothing", named(&["a"], [0.0, -0.0].repeat(6))),
        ("huge", named(&["a", "b"], random(40, 1e308))),
        ("the largest", named(&["a"], [f64::MAX, -f64::MAX].repeat(8))),
        ("tiny", named(&["a", "b"], random(40, 1e-300))),
        ("subnormal", named(&["a"], [5e-324, 0.0, 1e-323].repeat(6))),
        (
            "neighbours",
            named(&["a"], [1.0, 1.0_f64.next_up(), 1.0_f64.next_down()].repeat(6)),
        ),
        (
            "far off",
            named(
                &["a", "b"],
                random(40, 1.0).into_iter().map(|v| v + 1e15).collect(),
            ),
        ),
        (
            "one far",
            named(&["a"], random(30, 1.0).into_iter().chain([1e120]).collect()),
        ),
        (
            "mixed units",
            named(
                &["a", "b"],
                random(30, 1.0)
                    .into_iter()
                    .enumerate()
                    .map(|(i, v)| if i % 2 == 0 { v * 1e9 } else { v * 1e-9 })
                    .collect(),
            ),
        ),
        (
            "one hot",
            named(
                &["a", "b", "c"],
                (0..30)
                    .flat_map(|i| (0..3).map(move |c| f64::from(u8::from(i % 3 == c))))
                    .collect(),
            ),
        ),
        (
            "copies of a column",
            named(
                &["a", "b"],
                random(20, 4.0).into_iter().flat_map(|v| [v, v]).collect(),
            ),
        ),
        (
            "more columns than rows",
            named(&["a", "b", "c", "d", "e", "f"], random(18, 2.0)),
        ),
    ]
}

fn is_invalid<T: Debug>(what: &str, answer: Result<T>) {
    match answer {
        Err(error) => assert_eq!(error.kind(), ErrorKind::Invalid, "{what}: {error}"),
        Ok(answer) => panic!("{what}: refused as invalid input, but answered {answer:?}"),
    }
}

/// Fails unless an error says that the input is wrong.
fn must_be_invalid(what: &str, error: &Error) {
    assert_eq!(error.kind(), ErrorKind::Invalid, "{what}: {error}");
}

fn stored(json: Result<serde_json::Value>) -> serde_json::Value {
    // As text and back: numbers must survive it.
    let text = json.expect("a model can be written").to_string();
    serde_json::from_str(&text).expect("what was written is JSON")
}

/// Whether two groupings are the same up to names.
fn same_partition(a: &[Option<usize>], b: &[Option<usize>]) -> bool {
    let mut names = std::collections::BTreeMap::new();
    let mut back = std::collections::BTreeMap::new();
    a.len() == b.len()
        && a.iter()
            .zip(b)
            .all(|(a, b)| names.entry(*a).or_insert(*b) == b && back.entry(*b).or_insert(*a) == a)
}

mod groups;
mod predictors;
pub use groups::{clusterer, reducer};
pub use predictors::{classifier, regressor};
