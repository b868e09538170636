//! Suppressing addresses and lifting that.

use crate::customer::{Address, ContactKind};
use crate::query::Filter;
use crate::record::Write;
use crate::{Context, ErrorKind, Result};

use super::{Gate, SUPPRESSION, Suppression, SuppressionReason, SuppressionScope};

impl Gate {
    /// The write that suppresses an address, to go into a unit of work of the caller's.
    ///
    /// # Errors
    /// When the record cannot be made.
    pub fn suppression(
        &self,
        kind: ContactKind,
        canonical: &str,
        scope: SuppressionScope,
        reason: SuppressionReason,
    ) -> Result<Write> {
        Suppression::new(
            kind,
            self.key.of(kind, canonical),
            scope,
            reason,
            self.clock.now(),
        )
        .write()
    }

    /// A suppression of an address, to be narrowed down ([`Suppression::by`], [`Suppression::until`]) and written
    /// ([`Suppression::write`]) with what caused it.
    pub fn suppression_of(
        &self,
        address: &Address,
        scope: SuppressionScope,
        reason: SuppressionReason,
    ) -> Suppression {
        let kind = match address {
            Address::Email(_) => ContactKind::Email,
            Address::Phone(_) => ContactKind::Phone,
        };
        Suppression::new(
            kind,
            self.key.of_address(address),
            scope,
            reason,
            self.clock.now(),
        )
    }

    /// Suppresses an address on every channel that reaches it. Doing it again changes nothing; another reason is
    /// remembered beside the first.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn suppress(
        &self,
        ctx: &Context,
        address: &Address,
        scope: SuppressionScope,
        reason: SuppressionReason,
    ) -> Result<()> {
        let write = self.suppression_of(address, scope, reason).write()?;
        self.store.apply(ctx, &[write]).await.map(drop)
    }

    /// The suppressions of an address, those that are over included, the oldest first.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn suppressions(&self, ctx: &Context, address: &Address) -> Result<Vec<Suppression>> {
        let filter = Filter::eq("address_key", self.key.of_address(address));
        let mut all: Vec<Suppression> = self.all(ctx, filter).await?;
        all.sort_by_key(|suppression| (suppression.created_at, suppression.id));
        Ok(all)
    }

    /// Lifts the suppressions of exactly this scope, whatever their channel and reason; answers whether there was one.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn unsuppress(
        &self,
        ctx: &Context,
        address: &Address,
        scope: &SuppressionScope,
    ) -> Result<bool> {
        self.lift(ctx, address, |suppression| suppression.scope == *scope)
            .await
    }

    /// Lifts those suppressions of an address that `which` picks; answers whether there was one. Who writes START wants
    /// SMS again: that lifts what was unsubscribed by SMS, not what was complained about.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn lift(
        &self,
        ctx: &Context,
        address: &Address,
        which: impl Fn(&Suppression) -> bool,
    ) -> Result<bool> {
        let mut lifted = false;
        for suppression in self.suppressions(ctx, address).await?.iter().filter(|s| which(s)) {
            let write = Write::delete(&SUPPRESSION, suppression.id, None);
            match self.store.apply(ctx, &[write]).await {
                Ok(_) => lifted = true,
                // Somebody else lifted it at the same time.
                Err(error) if error.kind() == ErrorKind::Conflict => {}
                Err(error) => return Err(error),
            }
        }
        Ok(lifted)
    }
}
