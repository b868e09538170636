//! Features: what customers did, as numbers, read from the store in columns.
//!
//! Orders are summed up where the data lives, one row a customer, up to an instant that the caller names: nothing that
//! happened later can leak in.
//!
//! ```
//! use crm_analytics::features::{FeaturePlan, Monetary};
//! use crm_core::Timestamp;
//!
//! let plan = FeaturePlan::rfm(Timestamp::from_ymd(2026, 3, 1).unwrap()).monetary(Monetary::Mean).profile("attributes.visits");
//! assert_eq!(plan.columns(), ["recency_days", "frequency", "monetary", "tenure_days", "attributes.visits"]);
//! ```

mod as_of;
mod encode;
mod fit;
mod scaling;
mod timeline;

use std::collections::HashMap;

use crm_core::activity::ORDER;
use crm_core::capability::RecordStore;
use crm_core::customer::CUSTOMER;
use crm_core::query::{Aggregate, FieldRef, Filter, Measure, Scan};
use crm_core::segment;
use crm_core::table::ColumnData;
use crm_core::{Column, Context, CustomerId, Error, Matrix, Result, Table, Timestamp, Uuid};
use serde::{Deserialize, Serialize};

use crate::privacy::{Audience, AudienceReport};

pub use as_of::AsOf;
pub(crate) use encode::RowOf;
pub use encode::{Encoded, EncodingReport, FittedEncoding};
pub use fit::{Encoding, EncodingPlan, FeatureDef, Impute, Scale};
pub use scaling::Scaling;
pub use timeline::{ChannelMix, InteractionCounts, MixOf};

use timeline::Questions;

/// What `monetary` means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Monetary {
    /// All that was paid.
    Total,
    /// What was paid per order.
    Mean,
}

/// Customers who never ordered (before the instant looked at).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WithoutOrders {
    /// Are left out, and counted in the report.
    Exclude,
    /// Are in, with frequency and monetary 0, and the days since they were first stored as recency and tenure. Who was
    /// stored at the instant or later was not there yet, and is left out all the same.
    Include,
}

/// Which features are read. Recency, frequency, monetary value and tenure are always the first four.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeaturePlan {
    /// Only what happened before this instant counts.
    pub as_of: AsOf,
    /// Which customers. Time gone by ([`Filter::Ago`]) is counted back from `as_of`; of segments ([`Filter::InSegment`])
    /// the members are those of the moment of reading: nobody keeps who was in them before.
    pub customers: Filter,
    /// What `monetary` means.
    pub monetary: Monetary,
    /// Only orders in this currency (ISO 4217). Needed when there are several: amounts of different currencies are never
    /// added.
    pub currency: Option<String>,
    /// What becomes of customers without orders.
    pub without_orders: WithoutOrders,
    /// Fields of the profile that are read besides; paths such as `attributes.plan` are read as text.
    pub profile: Vec<FieldRef>,
    /// For each of these numbers of days, `orders_30d` and `spend_30d`: the orders within so many days before the instant,
    /// and what was paid for them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub windows: Vec<u32>,
    /// Adds `days_between_orders`: the mean time from one order to the next; missing with less than two.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub interpurchase: bool,
    /// Counts interactions by kind and window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interactions: Option<InteractionCounts>,
    /// Adds the shares of channels among orders or interactions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub channels: Vec<ChannelMix>,
}

/// Recency, frequency, monetary value and tenure, in the order of their columns.
pub const RFM: [&str; 4] = ["recency_days", "frequency", "monetary", "tenure_days"];

const DAY: f64 = 86_400e6;

impl FeaturePlan {
    /// Days since the last order, number of orders, total paid (in whole units of the currency) and days since the first
    /// order, of all customers who ordered before `as_of`.
    pub fn rfm(as_of: Timestamp) -> Self {
        Self {
            as_of: as_of.into(),
            customers: Filter::All,
            monetary: Monetary::Total,
            currency: None,
            without_orders: WithoutOrders::Exclude,
            profile: Vec::new(),
            windows: Vec::new(),
            interpurchase: false,
            interactions: None,
            channels: Vec::new(),
        }
    }
    /// Only these customers.
    #[must_use]
    pub fn customers(mut self, filter: Filter) -> Self {
        self.customers = filter;
        self
    }
    /// Says what `monetary` means.
    #[must_use]
    pub fn monetary(mut self, monetary: Monetary) -> Self {
        self.monetary = monetary;
        self
    }
    /// Only orders in this currency.
    #[must_use]
    pub fn currency(mut self, code: impl Into<String>) -> Self {
        self.currency = Some(code.into());
        self
    }
    /// Says what becomes of customers without orders.
    #[must_use]
    pub fn without_orders(mut self, choice: WithoutOrders) -> Self {
        self.without_orders = choice;
        self
    }
    /// Adds a field of the profile.
    #[must_use]
    pub fn profile(mut self, field: impl Into<FieldRef>) -> Self {
        self.profile.push(field.into());
        self
    }
    /// Adds the orders and payments within so many days before the instant.
    #[must_use]
    pub fn window(mut self, days: u32) -> Self {
        self.windows.push(days);
        self
    }
    /// Adds the mean time from one order to the next.
    #[must_use]
    pub fn interpurchase(mut self) -> Self {
        self.interpurchase = true;
        self
    }
    /// Counts interactions.
    #[must_use]
    pub fn interactions(mut self, counts: InteractionCounts) -> Self {
        self.interactions = Some(counts);
        self
    }
    /// Adds the shares of channels.
    #[must_use]
    pub fn channels(mut self, mix: ChannelMix) -> Self {
        self.channels.push(mix);
        self
    }
    fn questions(&self) -> Questions {
        Questions::of(self.interactions.as_ref(), &self.channels)
    }

    /// The columns made of orders besides recency, frequency, monetary value and tenure.
    fn more(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .windows
            .iter()
            .flat_map(|days| [format!("orders_{days}d"), format!("spend_{days}d")])
            .collect();
        if self.interpurchase {
            names.push("days_between_orders".to_owned());
        }
        names
    }

    /// The names of the columns, in order.
    pub fn columns(&self) -> Vec<String> {
        RFM.iter()
            .map(|name| (*name).to_owned())
            .chain(self.more())
            .chain(self.questions().names())
            .chain(self.profile.iter().map(FieldRef::to_string))
            .collect()
    }

    /// Reads the features; `progress` is told the customers read so far.
    ///
    /// Needs about 150 bytes a customer.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Invalid`] when orders are in several currencies and none was named, or a field of the
    /// profile is not there; those of [`segment::resolve`] for `customers`; those of the store.
    pub async fn read(
        &self,
        ctx: &Context,
        store: &dyn RecordStore,
        progress: &mut (dyn FnMut(usize) + Send),
    ) -> Result<Features> {
        self.read_rows(ctx, store, (None, None), progress).await
    }

    /// As [`FeaturePlan::read`], for a purpose: those who may not be looked at for it are left out and counted.
    ///
    /// # Errors
    /// As [`FeaturePlan::read`].
    pub async fn read_for(
        &self,
        ctx: &Context,
        store: &dyn RecordStore,
        audience: &Audience,
        progress: &mut (dyn FnMut(usize) + Send),
    ) -> Result<Features> {
        self.read_rows(ctx, store, (Some(audience), None), progress).await
    }

    /// As [`FeaturePlan::read`], of these customers only, as far as the plan means them.
    pub(crate) async fn read_some(
        &self,
        ctx: &Context,
        store: &dyn RecordStore,
        ids: &[CustomerId],
        audience: Option<&Audience>,
    ) -> Result<Features> {
        self.read_rows(ctx, store, (audience, Some(ids)), &mut |_| ())
            .await
    }

    /// The same plan as of another instant.
    #[must_use]
    pub fn at(mut self, as_of: impl Into<AsOf>) -> Self {
        self.as_of = as_of.into();
        self
    }

    async fn read_rows(
        &self,
        ctx: &Context,
        store: &dyn RecordStore,
        (audience, only): (Option<&Audience>, Option<&[CustomerId]>),
        progress: &mut (dyn FnMut(usize) + Send),
    ) -> Result<Features> {
        let only: Option<Vec<Uuid>> = only.map(|ids| ids.iter().map(|id| id.uuid()).collect());
        let place = |error: Error| error.operation("features.read");
        let questions = self.questions();
        let taken: Vec<String> = RFM
            .iter()
            .map(|name| (*name).to_owned())
            .chain(self.more())
            .collect();
        questions.check(&taken).map_err(place)?;
        let (currency, orders) = self.orders(ctx, store, only.as_deref()).await.map_err(place)?;
        let told = questions
            .ask(ctx, store, self.as_of, only.as_deref())
            .await
            .map_err(place)?;
        let mut report = FeatureReport {
            currency,
            audience: audience.map(Audience::report),
            ..FeatureReport::default()
        };
        let mut ids: Vec<CustomerId> = Vec::new();
        let mut values: [Vec<f64>; 4] = Default::default();
        let names = self.more().into_iter().chain(questions.names());
        let mut more: Vec<Column> = names.map(Column::float).collect();
        let mut profile = Table::default();
        let mut matched = 0;
        let fields = [FieldRef::from("id"), FieldRef::from("created_at")]
            .into_iter()
            .chain(self.profile.iter().cloned());
        let customers = segment::resolve(store, ctx, self.as_of.instant(), &self.customers)
            .await
            .map_err(|e| e.operation("features.read"))?;
        let customers = match &only {
            Some(ids) => customers.and(Filter::one_of("id", ids.iter().copied())),
            None => customers,
        };
        let scan = Scan::new(customers, fields);
        store
            .scan(ctx, &CUSTOMER, &scan, &mut |chunk: Table| {
                let mut columns = chunk.into_columns().into_iter();
                let (Some(id), Some(created)) = (columns.next(), columns.next()) else {
                    return Err(Error::unexpected(
                        "the store answered a scan without the columns asked for",
                    ));
                };
                let mut keep = Vec::with_capacity(id.len());
                for row in 0..id.len() {
                    let customer = id
                        .uuid_at(row)
                        .ok_or_else(|| Error::unexpected("a customer without an id"))?;
                    let created = created.timestamp_at(row);
                    let since_created = created.map_or(0.0, |at| self.days_before(at.as_micros()));
                    let found = orders.get(&customer);
                    report.customers += 1;
                    let numbers = match found {
                        Some(o) => {
                            matched += 1;
                            report.with_orders += 1;
                            report.orders += o.count as u64;
                            [
                                self.days_before(o.last),
                                o.count,
                                self.money(o),
                                self.days_before(o.first),
                            ]
                        }
                        None => [since_created, 0.0, 0.0, since_created],
                    };
                    let admitted = match (audience, &mut report.audience) {
                        (Some(audience), Some(counted)) => audience.judge(customer.into(), counted),
                        _ => true,
                    };
                    // Who is asked for by name is there now, whatever the clock of the machine that stored them said.
                    let was_there = only.is_some() || created.is_none_or(|at| self.as_of.knows(at));
                    let wanted =
                        found.is_some() || (was_there && self.without_orders == WithoutOrders::Include);
                    let kept = admitted && wanted;
                    keep.push(kept);
                    if kept {
                        ids.push(customer.into());
                        values
                            .iter_mut()
                            .zip(numbers)
                            .for_each(|(column, value)| column.push(value));
                        let mut values = self.more_of(found);
                        told.values(customer, &mut values);
                        for (column, value) in more.iter_mut().zip(values) {
                            column.push(value.into())?;
                        }
                    } else if !wanted {
                        report.left_out += 1;
                    }
                }
                let columns = columns
                    .map(|column| select(column, &keep))
                    .collect::<Result<Vec<_>>>()?;
                if !columns.is_empty() {
                    profile.append(Table::new(columns)?)?;
                }
                progress(report.customers);
                Ok(())
            })
            .await
            .map_err(|e| e.operation("features.read"))?;
        report.strangers = orders.len() - matched;
        let mut table = Table::default();
        for (name, values) in RFM.iter().zip(values) {
            table.push(Column::floats(*name, values))?;
        }
        for column in more {
            table.push(column)?;
        }
        let names = self.profile.iter().map(FieldRef::to_string);
        if ids.is_empty() {
            // No chunk, no types: empty columns of text stand for them.
            for name in names {
                table.push(Column::text(name))?;
            }
        } else {
            for (column, name) in profile.into_columns().into_iter().zip(names) {
                table.push(column.renamed(name))?;
            }
        }
        Ok(Features { ids, table, report })
    }

    async fn orders(
        &self,
        ctx: &Context,
        store: &dyn RecordStore,
        only: Option<&[Uuid]>,
    ) -> Result<(Option<String>, HashMap<Uuid, Orders>)> {
        let mut filter = self.as_of.before("at");
        let currency = match &self.currency {
            Some(code) => {
                filter = filter.and(Filter::eq("currency", code.as_str()));
                Some(code.clone())
            }
            None => {
                let found = store
                    .aggregate(ctx, &ORDER, &Aggregate::new(filter.clone()).by("currency"))
                    .await?;
                let codes = found.column("currency")?;
                let codes: Vec<&str> = (0..codes.len()).filter_map(|row| codes.text_at(row)).collect();
                if codes.len() > 1 {
                    return Err(Error::invalid(
                        "orders are in several currencies, and amounts of different ones are never added; name one",
                    )
                    .with("field", "currency")
                    .with("currencies", codes.join(" ")));
                }
                codes.first().map(|code| (*code).to_owned())
            }
        };
        if let Some(ids) = only {
            filter = filter.and(Filter::one_of("customer_id", ids.iter().copied()));
        }
        let sums = Aggregate::new(filter.clone())
            .by("customer_id")
            .measure("count", Measure::Count)
            .measure("sum", Measure::Sum("total_minor".into()))
            .measure("first", Measure::Min("at".into()))
            .measure("last", Measure::Max("at".into()));
        let table = store.aggregate(ctx, &ORDER, &sums).await?;
        let [id, count, sum, first, last] =
            ["customer_id", "count", "sum", "first", "last"].map(|name| table.column(name));
        let (id, count, sum, first, last) = (id?, count?, sum?, first?, last?);
        let mut orders = HashMap::with_capacity(table.rows());
        for row in 0..table.rows() {
            let one = (|| {
                let at = |c: &Column| c.timestamp_at(row).map(Timestamp::as_micros);
                let of = Orders {
                    count: count.f64_at(row)?,
                    sum: sum.f64_at(row)?,
                    first: at(first)?,
                    last: at(last)?,
                    windows: vec![(0.0, 0.0); self.windows.len()],
                };
                Some((id.uuid_at(row)?, of))
            })();
            let (id, of) =
                one.ok_or_else(|| Error::unexpected("the store answered a sum without a value"))?;
            orders.insert(id, of);
        }
        for (at, days) in self.windows.iter().enumerate() {
            let within = filter.clone().and(self.as_of.within("at", *days));
            let sums = Aggregate::new(within)
                .by("customer_id")
                .measure("count", Measure::Count)
                .measure("sum", Measure::Sum("total_minor".into()));
            let table = store.aggregate(ctx, &ORDER, &sums).await?;
            let [id, count, sum] = ["customer_id", "count", "sum"].map(|name| table.column(name));
            let (id, count, sum) = (id?, count?, sum?);
            for row in 0..table.rows() {
                let found = id.uuid_at(row).and_then(|id| orders.get_mut(&id));
                let slot = found.and_then(|orders| orders.windows.get_mut(at));
                if let (Some(slot), Some(count), Some(sum)) = (slot, count.f64_at(row), sum.f64_at(row)) {
                    *slot = (count, sum / 100.0);
                }
            }
        }
        Ok((currency, orders))
    }

    /// The values of [`FeaturePlan::more`].
    fn more_of(&self, orders: Option<&Orders>) -> Vec<Option<f64>> {
        let mut values: Vec<Option<f64>> = match orders {
            Some(orders) => orders
                .windows
                .iter()
                .flat_map(|(count, sum)| [Some(*count), Some(*sum)])
                .collect(),
            None => vec![Some(0.0); 2 * self.windows.len()],
        };
        if self.interpurchase {
            let several = orders.filter(|orders| orders.count >= 2.0);
            values.push(several.map(|o| o.last.saturating_sub(o.first) as f64 / DAY / (o.count - 1.0)));
        }
        values
    }

    fn days_before(&self, micros: i64) -> f64 {
        (self.as_of.instant().as_micros().saturating_sub(micros) as f64 / DAY).max(0.0)
    }

    fn money(&self, orders: &Orders) -> f64 {
        let total = orders.sum / 100.0;
        match self.monetary {
            Monetary::Total => total,
            Monetary::Mean => total / orders.count,
        }
    }
}

/// One customer's orders, summed up.
struct Orders {
    count: f64,
    sum: f64,
    first: i64,
    last: i64,
    /// Count and sum within each window.
    windows: Vec<(f64, f64)>,
}

fn select(column: Column, keep: &[bool]) -> Result<Column> {
    if !keep.contains(&false) {
        return Ok(column);
    }
    let mut kept = Column::empty(column.name(), column.ty())?;
    for (row, _) in keep.iter().enumerate().filter(|(_, keep)| **keep) {
        kept.push(column.value(row))?;
    }
    Ok(kept)
}

/// Customers and their features: row `i` of the table is customer `ids[i]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Features {
    /// Whose row it is.
    pub ids: Vec<CustomerId>,
    /// The features.
    pub table: Table,
    /// What was read.
    pub report: FeatureReport,
}

/// What was read, and what was left out.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FeatureReport {
    /// The customers that match the plan's filter.
    pub customers: usize,
    /// Those of them with orders before the instant.
    pub with_orders: usize,
    /// Those of them left out for want of orders.
    pub left_out: usize,
    /// The orders of these customers that were summed up.
    pub orders: u64,
    /// Customers with orders who do not match the filter or are not stored.
    pub strangers: usize,
    /// The currency of the amounts; `None` without orders.
    pub currency: Option<String>,
    /// Who was left out for the sake of a purpose, if one was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audience: Option<AudienceReport>,
}

/// The numbers of a table as a matrix: ints, floats and bools (as 0 and 1), in the order of the columns; UUID columns
/// are ids and left out.
///
/// # Errors
/// [`crm_core::ErrorKind::Invalid`] naming a column that is not of numbers, or has a missing or infinite value.
pub fn to_matrix(table: &Table) -> Result<Matrix> {
    let mut columns: Vec<&Column> = Vec::new();
    for column in table.columns() {
        match column.data() {
            ColumnData::Uuid(_) => continue,
            ColumnData::Text(_) | ColumnData::Timestamp(_) => {
                return Err(Error::invalid(
                    "a model needs numbers; cast the column, make dummies of it, or drop it",
                )
                .operation("features.matrix")
                .with("column", column.name()));
            }
            _ => columns.push(column),
        }
    }
    let mut values = Vec::with_capacity(table.rows() * columns.len());
    for row in 0..table.rows() {
        for column in &columns {
            values.push(column.f64_at(row).ok_or_else(|| {
                Error::invalid("a model needs every value; fill or drop the column")
                    .operation("features.matrix")
                    .with("column", column.name())
                    .with("row", row)
                    .with("missing", column.missing())
            })?);
        }
    }
    let names = columns.iter().map(|column| column.name().to_owned()).collect();
    Matrix::new(names, values).map_err(|e| e.operation("features.matrix"))
}
