//! Asking: let the store behind answer what it can, decrypt what comes, and decide the rest here.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::ops::ControlFlow;

use crm_core::query::{Aggregate, Answered, Claim, Cursor, Filter, Order, Page, Query, Scan};
use crm_core::record::{FieldType, Schema, Stored, Value, Write};
use crm_core::{Column, Context, Error, ErrorKind, Result, Table};

use super::plan::Plan;
use super::push::Pushed;
use super::{SealedStore, assigned};

/// How many records are fetched at once when they have to be decided here.
const PAGE: u32 = 1_000;

/// What to do with each page of records that match.
type Take<'a> = &'a mut (dyn FnMut(Vec<Stored>) -> Result<ControlFlow<()>> + Send);

/// A question over records, page by page.
struct Sift<'a> {
    filter: &'a Filter,
    order: &'a [Order],
    after: Option<Cursor>,
    page: u32,
    /// Whether the number of records is bounded.
    bounded: bool,
}

fn value(stored: &Stored, field: &str) -> Value {
    match field {
        "id" => Value::Uuid(stored.id),
        field => stored.record.get(field).cloned().unwrap_or(Value::Null),
    }
}

fn sort_keys(stored: &Stored, order: &[Order]) -> Vec<Value> {
    order.iter().map(|order| value(stored, &order.field)).collect()
}

/// The order of a query, ties by id.
fn compare(order: &[Order], a: &Cursor, b: &Cursor) -> Ordering {
    let keys = order
        .iter()
        .zip(a.keys.iter().zip(&b.keys))
        .map(|(order, (a, b))| {
            let found = a.sorts(b);
            if order.descending { found.reverse() } else { found }
        });
    keys.fold(Ordering::Equal, Ordering::then)
        .then_with(|| a.id.cmp(&b.id))
}

/// A match and its place in the order.
struct Ranked {
    place: Cursor,
    stored: Stored,
}

impl SealedStore {
    /// The answers to a filter's conditions on related records.
    async fn answered<'f>(&self, ctx: &Context, filter: &'f Filter) -> Result<Answered<'f>> {
        let mut tables = Vec::new();
        for related in filter.related_conditions() {
            let grouped = related.aggregate();
            tables.push(
                self.aggregate_opened(ctx, related.relation.schema(), &grouped)
                    .await?,
            );
        }
        filter.answered(&tables)
    }

    /// Hands out the decrypted records that match, page by page, until `take` has enough.
    async fn sift(&self, ctx: &Context, plan: &Plan, sift: Sift<'_>, take: Take<'_>) -> Result<()> {
        let Pushed { filter, exact } = self.pushed(ctx, plan, sift.filter).await?;
        let answered = match exact {
            true => None,
            // A condition on related records may need another question first, and so on: not on this stack.
            false => Some(Box::pin(self.answered(ctx, sift.filter)).await?),
        };
        let most = u32::try_from(self.config.max_opened).unwrap_or(u32::MAX);
        let mut query = Query {
            filter,
            order: sift.order.to_vec(),
            limit: sift.page.clamp(1, 10_000).min(most),
            after: sift.after,
        };
        let mut seen = 0;
        loop {
            let page = self.inner.find(ctx, plan.physical, &query).await?;
            seen += page.items.len();
            let opened = self.open(ctx, plan, page.items).await?;
            let matching = opened
                .into_iter()
                .flatten()
                .filter(|stored| answered.as_ref().is_none_or(|answered| answered.matches(stored)))
                .collect();
            if take(matching)?.is_break() || page.next.is_none() {
                return Ok(());
            }
            if sift.bounded && seen >= self.config.max_opened {
                return Err(Error::invalid(
                    "the question asks for something that only shows after decryption, of too many records; add a condition \
                     the database can answer (an id, equality on an indexed field, a field that is not encrypted), make the \
                     field searchable or leave it open, or raise the limit",
                )
                .with("schema", plan.logical.name)
                .with("setting", "max_opened")
                .with("limit", self.config.max_opened));
            }
            query.after = page.next;
        }
    }

    pub(super) async fn find_opened(
        &self,
        ctx: &Context,
        schema: &'static Schema,
        query: &Query,
    ) -> Result<Page<Stored>> {
        let plan = self.plan(schema)?;
        let sealed_order = query.order.iter().any(|order| plan.is_sealed(&order.field));
        let mut query = query.clone();
        if sealed_order && let Some(cursor) = query.after.take() {
            // The rest of the question is checked first: a cursor of a wrong one does not matter.
            query.validate(schema)?;
            query.after = Some(self.open_cursor(ctx, &plan, &query.order, cursor).await?);
        }
        query.validate(schema)?;
        if sealed_order {
            return self.find_sorted(ctx, &plan, query).await;
        }
        let Pushed { filter, exact } = self.pushed(ctx, &plan, &query.filter).await?;
        if exact {
            let page = self
                .inner
                .find(ctx, plan.physical, &Query { filter, ..query })
                .await?;
            let items = self.open(ctx, &plan, page.items).await?;
            return Ok(Page {
                items: items.into_iter().flatten().collect(),
                next: page.next,
            });
        }
        let limit = query.limit as usize;
        let mut items: Vec<Stored> = Vec::new();
        let sift = Sift {
            filter: &query.filter,
            order: &query.order,
            after: query.after,
            page: query.limit.saturating_add(1).max(PAGE),
            bounded: true,
        };
        let mut take = |page: Vec<Stored>| {
            items.extend(page);
            Ok(if items.len() > limit {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            })
        };
        self.sift(ctx, &plan, sift, &mut take).await?;
        let more = items.len() > limit;
        items.truncate(limit);
        let next = items.last().filter(|_| more).map(|last| Cursor {
            keys: sort_keys(last, &query.order),
            id: last.id,
        });
        Ok(Page { items, next })
    }

    /// Sorts here: only the next page is kept, but everything that matches is decrypted.
    async fn find_sorted(&self, ctx: &Context, plan: &Plan, query: Query) -> Result<Page<Stored>> {
        let wanted = query.limit as usize + 1;
        let room = wanted.saturating_mul(2).max(PAGE as usize);
        let mut best: Vec<Ranked> = Vec::new();
        let by_place = |a: &Ranked, b: &Ranked| compare(&query.order, &a.place, &b.place);
        let sift = Sift {
            filter: &query.filter,
            order: &[],
            after: None,
            page: PAGE,
            bounded: true,
        };
        let mut take = |page: Vec<Stored>| {
            best.extend(page.into_iter().filter_map(|stored| {
                let place = Cursor {
                    keys: sort_keys(&stored, &query.order),
                    id: stored.id,
                };
                let behind = |after: &Cursor| compare(&query.order, &place, after).is_gt();
                query
                    .after
                    .as_ref()
                    .is_none_or(behind)
                    .then_some(Ranked { place, stored })
            }));
            if best.len() > room {
                best.sort_by(by_place);
                best.truncate(wanted);
            }
            Ok(ControlFlow::Continue(()))
        };
        self.sift(ctx, plan, sift, &mut take).await?;
        best.sort_by(by_place);
        let more = best.len() >= wanted;
        best.truncate(query.limit as usize);
        let next = match best.last().filter(|_| more) {
            Some(last) => Some(
                self.seal_cursor(ctx, plan, &query.order, last.place.clone())
                    .await?,
            ),
            None => None,
        };
        Ok(Page {
            items: best.into_iter().map(|ranked| ranked.stored).collect(),
            next,
        })
    }

    pub(super) async fn count_opened(
        &self,
        ctx: &Context,
        schema: &'static Schema,
        filter: &Filter,
    ) -> Result<u64> {
        filter.validate(schema)?;
        let plan = self.plan(schema)?;
        let pushed = self.pushed(ctx, &plan, filter).await?;
        if pushed.exact {
            return self.inner.count(ctx, plan.physical, &pushed.filter).await;
        }
        let mut count = 0;
        let sift = Sift {
            filter,
            order: &[],
            after: None,
            page: PAGE,
            bounded: true,
        };
        let mut take = |page: Vec<Stored>| {
            count += page.len() as u64;
            Ok(ControlFlow::Continue(()))
        };
        self.sift(ctx, &plan, sift, &mut take).await?;
        Ok(count)
    }

    pub(super) async fn scan_opened(
        &self,
        ctx: &Context,
        schema: &'static Schema,
        scan: &Scan,
        take: &mut (dyn FnMut(Table) -> Result<()> + Send),
    ) -> Result<()> {
        let named = |error: Error| error.operation("store.scan");
        scan.validate(schema).map_err(named)?;
        let plan = self.plan(schema).map_err(named)?;
        let open = !scan.columns.iter().any(|column| plan.is_sealed(&column.field));
        let pushed = self.pushed(ctx, &plan, &scan.filter).await.map_err(named)?;
        if open && pushed.exact {
            let scan = Scan {
                filter: pushed.filter,
                ..scan.clone()
            };
            return self.inner.scan(ctx, plan.physical, &scan, take).await;
        }
        let mut waiting: Vec<Stored> = Vec::new();
        let sift = Sift {
            filter: &scan.filter,
            order: &[],
            after: None,
            page: u32::try_from(scan.chunk_rows).unwrap_or(PAGE).min(PAGE),
            bounded: false,
        };
        // The taker's error is its own and goes out as it is.
        let mut each = |page: Vec<Stored>| {
            waiting.extend(page);
            while waiting.len() >= scan.chunk_rows {
                let rest = waiting.split_off(scan.chunk_rows);
                take(scan.columns_of(schema, &waiting).map_err(named)?)?;
                waiting = rest;
            }
            Ok(ControlFlow::Continue(()))
        };
        self.sift(ctx, &plan, sift, &mut each).await?;
        if waiting.is_empty() {
            return Ok(());
        }
        take(scan.columns_of(schema, &waiting).map_err(named)?)
    }

    pub(super) async fn aggregate_opened(
        &self,
        ctx: &Context,
        schema: &'static Schema,
        aggregate: &Aggregate,
    ) -> Result<Table> {
        aggregate.validate(schema)?;
        let plan = self.plan(schema)?;
        let fields: BTreeSet<&str> = aggregate
            .by
            .iter()
            .map(|by| by.field())
            .chain(
                aggregate
                    .measures
                    .iter()
                    .filter_map(|(_, measure)| measure.field()),
            )
            .collect();
        let pushed = self.pushed(ctx, &plan, &aggregate.filter).await?;
        if pushed.exact && !fields.iter().any(|field| plan.is_sealed(field)) {
            let aggregate = Aggregate {
                filter: pushed.filter,
                ..aggregate.clone()
            };
            return self.inner.aggregate(ctx, plan.physical, &aggregate).await;
        }
        // The id is there so that rows are counted where no field is asked for.
        let mut columns = vec![Column::empty("id", FieldType::Uuid)?];
        for name in fields.iter().filter(|name| **name != "id") {
            if let Some((_, field)) = schema.field(name) {
                columns.push(Column::empty(*name, field.ty)?);
            }
        }
        let sift = Sift {
            filter: &aggregate.filter,
            order: &[],
            after: None,
            page: PAGE,
            bounded: true,
        };
        let mut take = |page: Vec<Stored>| {
            for stored in &page {
                for column in &mut columns {
                    let cell = value(stored, column.name());
                    column.push(cell)?;
                }
            }
            Ok(ControlFlow::Continue(()))
        };
        self.sift(ctx, &plan, sift, &mut take).await?;
        let all = Aggregate {
            filter: Filter::All,
            ..aggregate.clone()
        };
        all.over(&Table::new(columns)?)
    }

    pub(super) async fn claim_opened(
        &self,
        ctx: &Context,
        schema: &'static Schema,
        claim: &Claim,
    ) -> Result<Vec<Stored>> {
        claim.validate(schema)?;
        let plan = self.plan(schema)?;
        let Pushed { filter, exact } = self.pushed(ctx, &plan, &claim.due).await?;
        let changes_key = |field: &str| {
            plan.is_sealed(field)
                || plan.subject
                    == super::plan::SubjectAt::Field(
                        plan.logical.field(field).map_or("", |(_, field)| field.name),
                    )
        };
        let open = !claim.order.iter().any(|order| plan.is_sealed(&order.field))
            && !claim.assign.iter().any(|assign| changes_key(assign.field()));
        if exact && open {
            let claim = Claim {
                due: filter,
                ..claim.clone()
            };
            let taken = self.inner.claim(ctx, plan.physical, &claim).await?;
            return Ok(self
                .open(ctx, &plan, taken)
                .await?
                .into_iter()
                .flatten()
                .collect());
        }
        // Read, decide, and write with the versions that were read: whoever was faster made one of them stale.
        let _turn = self.claims.lock().await;
        let query = Query {
            filter: claim.due.clone(),
            order: claim.order.clone(),
            limit: claim.limit,
            after: None,
        };
        loop {
            let mut due = self.find_opened(ctx, schema, &query).await?.items;
            if due.is_empty() {
                return Ok(due);
            }
            let mut writes = Vec::with_capacity(due.len());
            for stored in &mut due {
                claim
                    .assign
                    .iter()
                    .try_for_each(|assign| assigned(&mut stored.record, assign))?;
                writes.push(Write::update(stored.id, stored.version, stored.record.clone()));
                stored.version += 1;
            }
            match self.seal_and_apply(ctx, &writes).await {
                Ok(_) => return Ok(due),
                Err(error)
                    if error.kind() == ErrorKind::Conflict && error.context("index") == Some("version") => {}
                Err(error) => return Err(error),
            }
        }
    }
}
