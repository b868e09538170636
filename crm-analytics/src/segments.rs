//! Rules of a tree as conditions on customers: from groups that a method found to dynamic segments that anybody can read,
//! and that a store keeps up to date without the method.
//!
//! A tree speaks of columns (`recency_days <= 31.5`), a store of fields and related records (an order within the last
//! 31.5 days). A [`Vocabulary`] says which is which; what it makes of rules is an ordinary
//! [`Filter`], and says how surely it finds the group.
//!
//! ```
//! use crm_analytics::features::FeaturePlan;
//! use crm_analytics::segments::Vocabulary;
//! use crm_core::Timestamp;
//! use crm_core::segment::SegmentKind;
//!
//! let plan = FeaturePlan::rfm(Timestamp::from_ymd(2026, 3, 1).unwrap()).profile("attributes.visits");
//! let words = Vocabulary::of(&plan).rolling();
//! // Who ordered more than 5 times, and within the last 30 days.
//! let loyal = [("frequency".to_owned(), false, 5.0), ("recency_days".to_owned(), true, 30.0)];
//! let segment = SegmentKind::Dynamic { filter: words.filter([&loyal[..]]).unwrap() };
//! assert_eq!(segment.name(), "dynamic");
//! // A column that nobody explained is an error, not a segment of the wrong people.
//! let unknown = [("score".to_owned(), true, 1.0)];
//! assert!(words.filter([&unknown[..]]).unwrap_err().to_string().contains("score"));
//! ```

use std::collections::BTreeMap;

use crm_core::customer::CUSTOMER;
use crm_core::query::{Compare, FieldRef, Filter, Measure, Relation, Span, Unit};
use crm_core::record::{FieldType, Value};
use crm_core::segment::SegmentKind;
use crm_core::{Error, ErrorKind, Result, Timestamp};
use serde::{Deserialize, Serialize};

use crate::features::{FeaturePlan, Monetary, RFM, WithoutOrders};
use crate::insights::Segmentation;

/// What a column is made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Meaning {
    /// Days since the last order.
    Recency,
    /// The number of orders.
    Frequency,
    /// All that was paid, in whole units of the currency.
    Monetary,
    /// Days since the first order.
    Tenure,
    /// The number of orders within the last days.
    OrdersWithin {
        /// How many days.
        days: u32,
    },
    /// What was paid within the last days, in whole units of the currency.
    SpendWithin {
        /// How many days.
        days: u32,
    },
    /// The mean time from one order to the next. No condition can say it.
    BetweenOrders,
    /// A number of the profile; a flag is 0 or 1.
    Number {
        /// Where it stands.
        field: FieldRef,
        /// What the cleaning put where none was; customers without one are in no rule when it put nothing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        filled: Option<f64>,
    },
    /// 1 when the profile says this, otherwise (also when it says nothing) 0: a column of one-hot encoding.
    OneHot {
        /// Where it stands.
        field: FieldRef,
        /// What it says.
        text: String,
    },
}

/// A group in conditions, and how surely they find it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Described {
    /// The position of the segment.
    pub segment: usize,
    /// The conditions on a customer.
    pub filter: Filter,
    /// Of the customers learned from who fulfil them: how many.
    pub rows: usize,
    /// The share of these that are in the segment, 0 to 1.
    pub precision: f64,
    /// The share of the segment's customers who fulfil them, 0 to 1.
    pub recall: f64,
}

impl Described {
    /// As a segment's definition: the store finds its members anew whenever it is asked.
    pub fn kind(&self) -> SegmentKind {
        SegmentKind::Dynamic {
            filter: self.filter.clone(),
        }
    }
}

/// What the columns of a model mean in a store.
///
/// It holds for columns in their own units, as [`crate::Insights`] learns its rules from: not for scaled ones, nor
/// for columns that a cleaning cut off or took logarithms of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Vocabulary {
    columns: BTreeMap<String, Meaning>,
    customers: Filter,
    currency: Option<String>,
    without_orders: WithoutOrders,
    as_of: Timestamp,
    rolling: bool,
    monetary: Monetary,
    min_purity: f64,
}

impl Vocabulary {
    /// The words of a plan: recency, frequency, monetary value and tenure, orders and payments within its windows, and
    /// fields of the profile as numbers. Times are counted back from the plan's instant, so that the conditions find whom
    /// the plan read.
    pub fn of(plan: &FeaturePlan) -> Self {
        let orders = [
            Meaning::Recency,
            Meaning::Frequency,
            Meaning::Monetary,
            Meaning::Tenure,
        ];
        let rfm = RFM.iter().map(|name| (*name).to_owned()).zip(orders);
        let profile = plan.profile.iter().map(|field| {
            let meaning = Meaning::Number {
                field: field.clone(),
                filled: None,
            };
            (field.to_string(), meaning)
        });
        let windows = plan.windows.iter().flat_map(|days| {
            let days = *days;
            [
                (format!("orders_{days}d"), Meaning::OrdersWithin { days }),
                (format!("spend_{days}d"), Meaning::SpendWithin { days }),
            ]
        });
        let between = plan
            .interpurchase
            .then(|| ("days_between_orders".to_owned(), Meaning::BetweenOrders));
        Self {
            columns: rfm.chain(windows).chain(between).chain(profile).collect(),
            customers: plan.customers.clone(),
            currency: plan.currency.clone(),
            without_orders: plan.without_orders,
            as_of: plan.as_of.instant(),
            rolling: false,
            monetary: plan.monetary,
            min_purity: 0.0,
        }
    }

    /// Says what a column means, also in place of what was known of it.
    #[must_use]
    pub fn column(mut self, name: impl Into<String>, meaning: Meaning) -> Self {
        self.columns.insert(name.into(), meaning);
        self
    }

    /// Counts times back from the moment a store is asked (to the minute), so that the segment goes on living: "ordered
    /// within the last 31 days" instead of "ordered since 3 March".
    #[must_use]
    pub fn rolling(mut self) -> Self {
        self.rolling = true;
        self
    }

    /// Only rules of at least this purity (0 to 1) become conditions in [`Vocabulary::describe`]: fewer of the segment are
    /// found, more surely.
    #[must_use]
    pub fn min_purity(mut self, purity: f64) -> Self {
        self.min_purity = purity;
        self
    }

    /// The conditions of all rules that lead to one class: somebody who follows any of the `ways`. A condition is the
    /// column, true for `<=` and false for `>`, and the threshold, as in [`crm_core::capability::Rule`].
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] naming a column whose meaning is not known or not of numbers;
    /// [`ErrorKind::Unsupported`] for what no condition can say: the mean paid per order, the mean time between orders.
    pub fn filter<'a>(&self, ways: impl IntoIterator<Item = &'a [(String, bool, f64)]>) -> Result<Filter> {
        let ways = ways
            .into_iter()
            .map(|way| self.way(way))
            .collect::<Result<Vec<_>>>()
            .map_err(|e| e.operation("segments.filter"))?;
        let mut all = vec![either(ways)];
        let ordered = Filter::at_least(1, Relation::ORDERS, self.orders(Filter::All));
        match self.without_orders {
            WithoutOrders::Exclude => all.insert(0, ordered),
            // Who was stored later was not there yet; asked about now, everybody is.
            WithoutOrders::Include if !self.rolling => {
                all.insert(0, either(vec![ordered, Filter::lt("created_at", self.as_of)]));
            }
            WithoutOrders::Include => {}
        }
        if self.customers != Filter::All {
            all.insert(0, self.customers.clone());
        }
        let filter = both(all);
        // Times and segments become conditions that stores know only when they are asked.
        filter
            .at(self.as_of)
            .expand(&mut |_| Ok(Filter::All))
            .and_then(|now| now.validate(&CUSTOMER))
            .map_err(|e| e.operation("segments.filter"))?;
        Ok(filter)
    }

    /// Each segment in conditions, with what the rules were worth on the customers they were learned from. Segments to
    /// which no rule leads are left out.
    ///
    /// # Errors
    /// As [`Vocabulary::filter`].
    pub fn describe(&self, found: &Segmentation) -> Result<Vec<Described>> {
        let mut described = Vec::new();
        for segment in 0..found.segments.len() {
            let rules: Vec<_> = found
                .rules
                .iter()
                .filter(|rule| rule.segment == segment && rule.purity >= self.min_purity)
                .collect();
            let rows: usize = rules.iter().map(|rule| rule.rows).sum();
            if rows == 0 {
                continue;
            }
            let hits: f64 = rules.iter().map(|rule| rule.rows as f64 * rule.purity).sum();
            described.push(Described {
                segment,
                filter: self.filter(rules.iter().map(|rule| rule.conditions.as_slice()))?,
                rows,
                precision: hits / rows as f64,
                recall: rules.iter().map(|rule| rule.coverage).sum::<f64>().min(1.0),
            });
        }
        Ok(described)
    }

    /// One way through the tree: of several conditions on a column only the tightest matter.
    fn way(&self, conditions: &[(String, bool, f64)]) -> Result<Filter> {
        let mut bounds: BTreeMap<(&str, bool), f64> = BTreeMap::new();
        for (column, at_most, limit) in conditions {
            if !limit.is_finite() {
                return Err(Error::invalid("a threshold is not a finite number").with("column", column));
            }
            let bound = bounds.entry((column, *at_most)).or_insert(*limit);
            *bound = if *at_most {
                bound.min(*limit)
            } else {
                bound.max(*limit)
            };
        }
        let parts = bounds.into_iter().map(|((column, at_most), limit)| {
            let within = self.at_most(column, limit)?;
            Ok(if at_most {
                within
            } else {
                self.more_than(column, limit, within)?
            })
        });
        Ok(both(parts.collect::<Result<Vec<_>>>()?))
    }

    /// `column <= limit`.
    fn at_most(&self, column: &str, limit: f64) -> Result<Filter> {
        let meaning = self.columns.get(column).ok_or_else(|| {
            Error::invalid("what this column means in the store is not known; say it with Vocabulary::column")
                .with("column", column)
        })?;
        let ordered = || Filter::at_least(1, Relation::ORDERS, self.orders(Filter::All));
        // Who never ordered: recency and tenure count from when they were stored, the others are 0.
        let or_new = |known: Filter, new: Filter| match self.without_orders {
            WithoutOrders::Exclude => known,
            WithoutOrders::Include => either(vec![both(vec![ordered(), known]), both(vec![!ordered(), new])]),
        };
        let or_none = |known: Filter| or_new(known, if limit >= 0.0 { Filter::All } else { never() });
        Ok(match meaning {
            Meaning::Recency | Meaning::Tenure if limit < 0.0 => never(),
            Meaning::Recency => or_new(
                Filter::at_least(1, Relation::ORDERS, self.orders(self.since("at", limit))),
                self.stored_since(limit),
            ),
            Meaning::Tenure => or_new(
                Filter::none_of(Relation::ORDERS, self.orders(!self.since("at", limit))),
                self.stored_since(limit),
            ),
            Meaning::Frequency => or_none(self.measured(Filter::All, Measure::Count, limit, 1.0)),
            Meaning::Monetary if self.monetary == Monetary::Mean => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    "a condition can speak of what was paid in all, not of the mean per order; take Monetary::Total",
                )
                .with("column", column));
            }
            Meaning::Monetary => {
                or_none(self.measured(Filter::All, Measure::Sum("total_minor".into()), limit, 100.0))
            }
            Meaning::OrdersWithin { days } => self.within(*days, Measure::Count, limit, 1.0),
            Meaning::SpendWithin { days } => {
                self.within(*days, Measure::Sum("total_minor".into()), limit, 100.0)
            }
            Meaning::BetweenOrders => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    "a condition cannot speak of the mean time between orders; take recency, or orders within a window",
                )
                .with("column", column));
            }
            Meaning::OneHot { field, text } => {
                let says = Filter::eq(field.clone(), text.as_str());
                when(says, limit >= 1.0, limit >= 0.0)
            }
            Meaning::Number { field, filled } => {
                let known = match field.resolve(&CUSTOMER).map_err(|e| e.with("column", column))? {
                    Some(FieldType::Bool) => {
                        let said = |flag: bool| Filter::eq(field.clone(), flag);
                        either(vec![
                            both(vec![said(true), constant(limit >= 1.0)]),
                            both(vec![said(false), constant(limit >= 0.0)]),
                        ])
                    }
                    None | Some(FieldType::Int | FieldType::Float) => Filter::le(field.clone(), limit),
                    Some(_) => {
                        return Err(Error::invalid(
                            "this field holds no numbers; say what the column is made of",
                        )
                        .with("column", column)
                        .with("field", field));
                    }
                };
                if filled.is_some_and(|filled| filled <= limit) {
                    known.or(Filter::null(field.clone()))
                } else {
                    known
                }
            }
        })
    }

    /// `column > limit`: for those who have a value the opposite of `<=`.
    fn more_than(&self, column: &str, limit: f64, within: Filter) -> Result<Filter> {
        let Some(Meaning::Number { field, filled }) = self.columns.get(column) else {
            return Ok(!within);
        };
        let known = match field.resolve(&CUSTOMER)? {
            Some(FieldType::Bool) => both(vec![!within, !Filter::null(field.clone())]),
            _ => Filter::gt(field.clone(), limit),
        };
        Ok(match filled {
            Some(filled) if *filled > limit => known.or(Filter::null(field.clone())),
            _ => known,
        })
    }

    /// Orders that the plan counts, of which `filter` holds.
    fn orders(&self, filter: Filter) -> Filter {
        let mut all = vec![match self.rolling {
            true => Filter::before("at", span(0)),
            false => Filter::lt("at", self.as_of),
        }];
        if let Some(currency) = &self.currency {
            all.push(Filter::eq("currency", currency.as_str()));
        }
        if filter != Filter::All {
            all.push(filter);
        }
        both(all)
    }

    /// The timestamp lies no more than so many days back.
    fn since(&self, field: &str, days: f64) -> Filter {
        let micros = largest(days, DAY);
        if self.rolling {
            Filter::ago(field, span(micros))
        } else {
            let begin = self.as_of.as_micros().saturating_sub(micros);
            Filter::ge(field, Timestamp::from_micros(begin))
        }
    }

    fn stored_since(&self, days: f64) -> Filter {
        self.since("created_at", days)
    }

    /// A measure over the orders of the last days is at most `limit`; of nobody who has none there it is 0.
    fn within(&self, days: u32, measure: Measure, limit: f64, unit: f64) -> Filter {
        let recent = self.since("at", f64::from(days));
        let any = Filter::at_least(1, Relation::ORDERS, self.orders(recent.clone()));
        let known = both(vec![any.clone(), self.measured(recent, measure, limit, unit)]);
        if limit >= 0.0 {
            either(vec![known, !any])
        } else {
            known
        }
    }

    /// A measure over these orders is at most `limit`, which is counted in `unit`s.
    fn measured(&self, which: Filter, measure: Measure, limit: f64, unit: f64) -> Filter {
        let orders = self.orders(which);
        Filter::related(
            Relation::ORDERS,
            orders,
            measure,
            Compare::Le,
            Value::Int(largest(limit, unit)),
        )
    }
}

const DAY: f64 = 86_400e6;

/// The largest whole number that, divided by `unit` as the features are, is not above `limit`: so that nobody changes sides by
/// rounding.
fn largest(limit: f64, unit: f64) -> i64 {
    let guess = (limit * unit).floor();
    let mut number = guess as i64;
    // Beyond 2^53 neighbours are the same number.
    if guess.abs() < 9e15 {
        while number as f64 / unit > limit {
            number -= 1;
        }
        while (number + 1) as f64 / unit <= limit {
            number += 1;
        }
    }
    number
}

fn span(micros: i64) -> Span {
    let minutes = (micros as f64 / 60e6).round();
    Span {
        count: minutes as i32,
        unit: Unit::Minutes,
    }
}

/// What holds for nobody.
fn never() -> Filter {
    Filter::Or(Vec::new())
}

fn constant(holds: bool) -> Filter {
    if holds { Filter::All } else { never() }
}

/// Holds as told for those of whom `says` holds, and for the others.
fn when(says: Filter, if_so: bool, otherwise: bool) -> Filter {
    match (if_so, otherwise) {
        (true, false) => says,
        (false, true) => !says,
        (both, _) => constant(both),
    }
}

/// All of them, without what always holds.
fn both(mut all: Vec<Filter>) -> Filter {
    if all.contains(&never()) {
        return never();
    }
    all.retain(|filter| *filter != Filter::All);
    match all.len() {
        0 => Filter::All,
        1 => all.swap_remove(0),
        _ => Filter::And(all),
    }
}

/// Any of them, without what never holds.
fn either(mut any: Vec<Filter>) -> Filter {
    if any.contains(&Filter::All) {
        return Filter::All;
    }
    any.retain(|filter| *filter != never());
    match any.len() {
        1 => any.swap_remove(0),
        _ => Filter::Or(any),
    }
}
