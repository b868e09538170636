//! Members by hand.

use std::collections::{BTreeSet, HashMap, HashSet};

use crm_core::customer::CUSTOMER;
use crm_core::query::Filter;
use crm_core::record::{Record, Stored, Write};
use crm_core::segment::{SEGMENT_OVERRIDE, SegmentId, SegmentKind};
use crm_core::{Context, CustomerId, Error, ErrorKind, Result, Uuid};

use super::account::{self, Cause, Round, State};
use super::{Segments, all};
use crate::changes::acting;

/// Customers of one unit of work.
const SOME: usize = 500;

/// What is wanted by hand.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Hand {
    In,
    Out,
    /// As the rule says.
    Off,
}

impl Segments {
    /// Makes customers members: of a manual segment, or as exceptions to the rule of a dynamic one. Safe to repeat.
    /// At most 500 customers are one unit of work.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] naming the segment or the customer; [`ErrorKind::Invalid`] for a snapshot.
    pub async fn add(&self, ctx: &Context, id: SegmentId, customers: &[CustomerId]) -> Result<()> {
        self.by_hand(ctx, id, customers, Hand::In)
            .await
            .map_err(|error| error.operation("segments.add"))
    }

    /// Makes customers no members: of a manual segment, or as exceptions to the rule of a dynamic one. Safe to repeat.
    ///
    /// # Errors
    /// As [`Segments::add`].
    pub async fn remove(&self, ctx: &Context, id: SegmentId, customers: &[CustomerId]) -> Result<()> {
        self.by_hand(ctx, id, customers, Hand::Out)
            .await
            .map_err(|error| error.operation("segments.remove"))
    }

    /// Takes back what was said by hand: the rule of the dynamic segment counts again. Stored members follow with the next
    /// [`Segments::refresh`].
    ///
    /// # Errors
    /// As [`Segments::add`]; [`ErrorKind::Invalid`] when the segment has no rule.
    pub async fn release(&self, ctx: &Context, id: SegmentId, customers: &[CustomerId]) -> Result<()> {
        self.by_hand(ctx, id, customers, Hand::Off)
            .await
            .map_err(|error| error.operation("segments.release"))
    }

    async fn by_hand(
        &self,
        ctx: &Context,
        id: SegmentId,
        customers: &[CustomerId],
        hand: Hand,
    ) -> Result<()> {
        let customers: BTreeSet<Uuid> = customers.iter().map(|customer| customer.uuid()).collect();
        let customers: Vec<Uuid> = customers.into_iter().collect();
        let segment = self.there(ctx, id).await?;
        match (&segment.kind, hand) {
            (SegmentKind::Snapshot { .. }, _) => {
                return Err(Error::invalid("a snapshot stays as it was taken").with("segment", id));
            }
            (SegmentKind::Manual, Hand::Off) => {
                return Err(Error::invalid("a manual segment has no rule").with("segment", id));
            }
            _ => {}
        }
        let has_rule = matches!(segment.kind, SegmentKind::Dynamic { .. });
        for some in customers.chunks(SOME) {
            if hand == Hand::In {
                let there = self.store().get(ctx, &CUSTOMER, some).await?;
                if let Some((missing, _)) = some.iter().zip(there).find(|(_, there)| there.is_none()) {
                    return Err(
                        Error::new(ErrorKind::NotFound, "no such customer").with("customer_id", missing)
                    );
                }
            }
            loop {
                match self.some_by_hand(ctx, id, some, hand, has_rule).await {
                    Ok(()) => break,
                    Err(error) if is_race(&error) => tokio::task::yield_now().await,
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    async fn some_by_hand(
        &self,
        ctx: &Context,
        id: SegmentId,
        customers: &[Uuid],
        hand: Hand,
        has_rule: bool,
    ) -> Result<()> {
        let state = State::read(self.store(), ctx, id.uuid()).await?;
        let mut writes = Vec::new();
        if has_rule {
            self.exceptions(ctx, id, customers, hand, &mut writes).await?;
        }
        if !has_rule || (state.stored && state.ready && hand != Hand::Off) {
            let round = Round {
                segment: id,
                number: state.round(),
                cause: Cause::Hand,
                at: self.customers.clock.now(),
                ids: &*self.customers.ids,
            };
            let all: BTreeSet<Uuid> = customers.iter().copied().collect();
            let members: HashSet<Uuid> = if hand == Hand::In {
                all.iter().copied().collect()
            } else {
                HashSet::new()
            };
            writes.extend(round.entries(self.store(), ctx, &all, &members).await?.writes);
        }
        if writes.is_empty() {
            return Ok(());
        }
        writes.insert(0, state.write(id.uuid())?);
        self.store().apply(ctx, &writes).await.map(|_| ())
    }

    async fn exceptions(
        &self,
        ctx: &Context,
        id: SegmentId,
        customers: &[Uuid],
        hand: Hand,
        writes: &mut Vec<Write>,
    ) -> Result<()> {
        let filter =
            Filter::eq("segment_id", id).and(Filter::one_of("customer_id", customers.iter().copied()));
        let mut known: HashMap<Uuid, Stored> = HashMap::new();
        for stored in all(self.store(), ctx, &SEGMENT_OVERRIDE, filter).await? {
            known.insert(stored.record.uuid("customer_id")?, stored);
        }
        let actor = acting(ctx);
        for customer in customers {
            let known = known.get(customer);
            if hand == Hand::Off {
                writes.extend(known.map(|k| Write::delete(&SEGMENT_OVERRIDE, k.id, Some(k.version))));
                continue;
            }
            let included = hand == Hand::In;
            let record = Record::from_values(
                &SEGMENT_OVERRIDE,
                vec![
                    id.into(),
                    (*customer).into(),
                    included.into(),
                    actor.as_str().into(),
                    self.customers.clock.now().into(),
                ],
            )?;
            match known {
                None => writes.push(Write::insert(self.customers.ids.fresh(), record)),
                Some(known) if known.record.bool("included")? != included => {
                    writes.push(Write::update(known.id, known.version, record));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }
}

fn is_race(error: &Error) -> bool {
    account::is_race(error)
        || (error.kind() == ErrorKind::Conflict && error.context("schema") == Some(SEGMENT_OVERRIDE.name))
}
