//! Profile: what is in a table, before anything is done with it.
//!
//! Types, missing and distinct values, quantiles, outliers, what text looks like and which values do not, duplicate rows
//! and keys, columns that say the same, and columns that know the answer they are to predict.
//!
//! ```
//! use crm_analytics::profile::{Looks, ProfilePlan};
//! use crm_core::{Column, Table};
//!
//! let mut mail = Column::text("mail");
//! ["ana@example.com", "bo@example.com", "nobody"].iter().for_each(|m| mail.push_text(Some(m)));
//! let table = Table::new(vec![mail, Column::floats("spend", vec![1.0, 2.0, 900.0])]).unwrap();
//!
//! let profile = ProfilePlan::new().run(&table).unwrap();
//! let mail = profile.column("mail").unwrap();
//! assert_eq!((mail.looks_like, mail.unlike), (Some(Looks::Email), 1));
//! assert_eq!(profile.column("spend").unwrap().numbers.as_ref().unwrap().median, 2.0);
//! ```

mod columns;
mod distinct;
mod pairs;

use std::collections::BTreeMap;
use std::fmt;

use crm_core::record::FieldType;
use crm_core::{Error, Result, Table, Timestamp};
use serde::{Deserialize, Serialize};

pub(crate) use columns::quantile;

/// What text can be read as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Looks {
    /// E-mail addresses.
    Email,
    /// Phone numbers.
    Phone,
    /// Dates or instants.
    Date,
    /// Numbers, with a decimal point or comma.
    Number,
    /// Words of yes and no.
    Flag,
}

/// What is looked at. Plain data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProfilePlan {
    /// The columns no two rows should agree in.
    pub key: Vec<String>,
    /// The outcome a model is to predict (bools, or integers 0 and 1): columns that know it are leakage suspects.
    pub target: Option<String>,
    /// What columns of text are meant to be; guessed from the values for the others.
    pub meant: BTreeMap<String, Looks>,
    /// The country of phone numbers without a prefix, ISO 3166-1 alpha-2.
    pub region: Option<String>,
    /// Instants after this one are counted as impossible; none when absent.
    pub as_of: Option<Timestamp>,
    /// Which quantiles, 0 to 1.
    pub quantiles: Vec<f64>,
    /// How many of the most frequent values are named; those that stand only once never are.
    pub top: usize,
    /// Up to so many distinct values of a column are counted exactly; beyond, the number is an estimate
    /// (HyperLogLog, standard error 0.8 %). 1,000,000 unless said otherwise.
    pub exact_distinct: usize,
    /// Pairs of columns whose association is at least this are named (0 to 1).
    pub association: f64,
}

impl Default for ProfilePlan {
    fn default() -> Self {
        Self {
            key: Vec::new(),
            target: None,
            meant: BTreeMap::new(),
            region: None,
            as_of: None,
            quantiles: vec![0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99],
            top: 10,
            exact_distinct: 1_000_000,
            association: 0.9,
        }
    }
}

impl ProfilePlan {
    /// Everything that needs no word from the host.
    pub fn new() -> Self {
        Self::default()
    }
    /// Says which columns no two rows should agree in.
    #[must_use]
    pub fn key<const N: usize>(mut self, columns: [&str; N]) -> Self {
        self.key = columns.map(str::to_owned).to_vec();
        self
    }
    /// Names the outcome that a model is to predict.
    #[must_use]
    pub fn target(mut self, column: impl Into<String>) -> Self {
        self.target = Some(column.into());
        self
    }
    /// Says what a column of text is meant to be.
    #[must_use]
    pub fn meant(mut self, column: impl Into<String>, looks: Looks) -> Self {
        self.meant.insert(column.into(), looks);
        self
    }

    /// Looks at a table.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Invalid`] naming the setting: a column that is not there, a target that is not true or
    /// false, a quantile or association outside 0 to 1.
    pub fn run(&self, table: &Table) -> Result<TableProfile> {
        self.check(table)
            .map_err(|error| error.operation("profile.run"))?;
        let columns = table
            .columns()
            .iter()
            .map(|column| columns::profile(self, column))
            .collect::<Result<Vec<_>>>()?;
        let all: Vec<&str> = table.columns().iter().map(|column| column.name()).collect();
        let key: Vec<&str> = self.key.iter().map(String::as_str).collect();
        let pairs = pairs::associations(self, table, &columns);
        Ok(TableProfile {
            rows: table.rows(),
            duplicate_rows: distinct::duplicates(table, &all)?,
            duplicate_keys: if key.is_empty() {
                None
            } else {
                Some(distinct::duplicates(table, &key)?)
            },
            associations: pairs,
            leakage: match &self.target {
                Some(target) => pairs::leakage(table, target, &columns)?,
                None => Vec::new(),
            },
            columns,
        })
    }

    fn check(&self, table: &Table) -> Result<()> {
        for name in self.key.iter().chain(&self.target).chain(self.meant.keys()) {
            table.column(name)?;
        }
        let share = |value: f64| (0.0..=1.0).contains(&value);
        if !self.quantiles.iter().copied().all(share) {
            return Err(Error::invalid("quantiles are between 0 and 1").with("setting", "quantiles"));
        }
        if !share(self.association) {
            return Err(Error::invalid("an association is between 0 and 1").with("setting", "association"));
        }
        Ok(())
    }
}

/// How many distinct values there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Distinct {
    /// So many.
    pub count: usize,
    /// Whether it was counted, not estimated.
    pub exact: bool,
}

/// A frequent value. `Debug` shows the count only: the value may be personal.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopValue {
    /// The value, as text.
    pub value: String,
    /// How often it stands there.
    pub count: usize,
}

impl fmt::Debug for TopValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TopValue(.. x {})", self.count)
    }
}

/// What is known of a column of numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NumberProfile {
    /// The least.
    pub min: f64,
    /// The most.
    pub max: f64,
    /// The mean.
    pub mean: f64,
    /// The standard deviation (of a sample); 0 for a single value.
    pub deviation: f64,
    /// The median.
    pub median: f64,
    /// The median distance from the median.
    pub mad: f64,
    /// Values more than 3.5 times 1.4826 `mad` from the median; 0 when most values agree.
    pub outliers: usize,
    /// Values that are 0.
    pub zeros: usize,
    /// Values below 0.
    pub negative: usize,
    /// Infinite values; they are in no other figure.
    pub infinite: usize,
    /// Each quantile that was asked for and its value (linear between values).
    pub quantiles: Vec<(f64, f64)>,
}

/// What is known of a column of text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextProfile {
    /// The characters of the shortest.
    pub shortest: usize,
    /// The characters of the longest.
    pub longest: usize,
    /// Texts of nothing but blanks.
    pub blank: usize,
    /// Texts with blanks at an end.
    pub untrimmed: usize,
}

/// What is known of a column of instants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeProfile {
    /// The earliest.
    pub first: Timestamp,
    /// The latest.
    pub last: Timestamp,
    /// Instants after [`ProfilePlan::as_of`].
    pub future: usize,
    /// Instants before 1900.
    pub ancient: usize,
}

/// What is known of one column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ColumnProfile {
    /// Its name.
    pub name: String,
    /// Its type.
    pub ty: FieldType,
    /// Rows without a value (NaN counts as none).
    pub missing: usize,
    /// Distinct values among the others.
    pub distinct: Distinct,
    /// The most frequent values, as far as distinct ones were counted.
    pub top: Vec<TopValue>,
    /// One value stands in more than 99 of 100 rows that have one: the column says next to nothing.
    pub near_constant: bool,
    /// What most of the text can be read as, if it is text.
    pub looks_like: Option<Looks>,
    /// Texts that cannot be read so: invalid addresses, impossible dates, another type.
    pub unlike: usize,
    /// The first rows of these, at most 100.
    pub unlike_rows: Vec<usize>,
    /// Of integers and floats.
    pub numbers: Option<NumberProfile>,
    /// Of text.
    pub text: Option<TextProfile>,
    /// Of instants.
    pub times: Option<TimeProfile>,
}

/// Two columns that say nearly the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Association {
    /// One.
    pub a: String,
    /// The other.
    pub b: String,
    /// How it was measured.
    pub measure: AssociationMeasure,
    /// From -1 to 1 (correlation) or 0 to 1 (Cramer's V).
    pub value: f64,
}

/// How the association of two columns is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AssociationMeasure {
    /// Pearson's correlation of two columns of numbers.
    Correlation,
    /// Cramer's V of two columns of at most 50 categories.
    CramersV,
}

/// A column that tells the outcome by itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LeakageSuspect {
    /// The column.
    pub column: String,
    /// How well it alone tells true from false: the area under its ROC curve, at least 0.95.
    pub auc: f64,
    /// Not its values tell, but whether there is one.
    pub by_missing: bool,
}

/// What is in a table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TableProfile {
    /// The rows.
    pub rows: usize,
    /// The columns, in order.
    pub columns: Vec<ColumnProfile>,
    /// Rows that are equal to one before them in everything.
    pub duplicate_rows: usize,
    /// Rows that agree with one before them in the key, if one was named; rows without any part of it do not count.
    pub duplicate_keys: Option<usize>,
    /// Columns that say nearly the same, the strongest first.
    pub associations: Vec<Association>,
    /// Columns that know the target, the strongest first.
    pub leakage: Vec<LeakageSuspect>,
}

impl TableProfile {
    /// What is known of a column.
    pub fn column(&self, name: &str) -> Option<&ColumnProfile> {
        self.columns.iter().find(|column| column.name == name)
    }
}
