//! Where a page of an order by encrypted fields ended: cursors travel in URLs and logs, so what they say is encrypted too.

use std::collections::{BTreeMap, BTreeSet};

use crm_core::query::{Cursor, Order};
use crm_core::record::Value;
use crm_core::{Context, Error, Result};

use super::SealedStore;
use super::code::{decode, encode};
use super::envelope::{Place, RecordKey, random};
use super::keys::{Found, Owner};
use super::plan::Plan;

/// Envelopes of cursors never open as fields of records, nor the other way round.
fn field(order: &Order) -> String {
    format!("cursor.{}", order.field)
}

fn foreign() -> Error {
    Error::invalid("the cursor belongs to another query; start again without it").with("field", "after")
}

impl SealedStore {
    pub(super) async fn seal_cursor(
        &self,
        ctx: &Context,
        plan: &Plan,
        order: &[Order],
        mut cursor: Cursor,
    ) -> Result<Cursor> {
        let owner = Owner::Tenant;
        let mut keys = self.keys.ensure(ctx, &BTreeMap::from([(owner, false)])).await?;
        let Some(held) = keys.remove(&owner) else {
            return Err(Error::unexpected("the tenant has no data key"));
        };
        let name = plan.logical.name;
        let key = RecordKey::new(&held.key, owner.algorithm(), held.generation, name, cursor.id)?;
        for (order, value) in order.iter().zip(&mut cursor.keys) {
            if !plan.is_sealed(&order.field) {
                continue;
            }
            if let Some(plain) = encode(value) {
                let place = Place {
                    tenant: ctx.tenant().as_str(),
                    schema: name,
                    field: &field(order),
                    record: cursor.id,
                };
                *value = Value::Bytes(key.seal(&place, random()?, plain)?);
            }
        }
        Ok(cursor)
    }

    pub(super) async fn open_cursor(
        &self,
        ctx: &Context,
        plan: &Plan,
        order: &[Order],
        mut cursor: Cursor,
    ) -> Result<Cursor> {
        if cursor.keys.len() != order.len() {
            return Err(foreign());
        }
        let owner = Owner::Tenant;
        let found = self
            .keys
            .load(ctx, &BTreeSet::from([owner]))
            .await?
            .remove(&owner);
        let Some(Found::Key(held)) = found else {
            return Err(foreign());
        };
        let name = plan.logical.name;
        let key = RecordKey::new(&held.key, owner.algorithm(), held.generation, name, cursor.id)?;
        for (order, value) in order.iter().zip(&mut cursor.keys) {
            if !plan.is_sealed(&order.field) || value.is_null() {
                continue;
            }
            let place = Place {
                tenant: ctx.tenant().as_str(),
                schema: name,
                field: &field(order),
                record: cursor.id,
            };
            let Value::Bytes(envelope) = value else {
                return Err(foreign());
            };
            let plain = key.open(&place, envelope).map_err(|_| foreign())?;
            *value = decode(&plain).ok_or_else(foreign)?;
        }
        Ok(cursor)
    }
}
