//! Labels of customers, added and removed without losing anybody else's.

use crm_core::record::Write;
use crm_core::{Context, CustomerId, Error, ErrorKind, Result, Retry};

use super::{Customers, shape};

/// How often it is tried again after somebody else changed the customer. Each time somebody else got on.
const TRIES: usize = 500;

impl Customers {
    /// Adds and removes tags, keeping what others add and remove at the same time. Answers the tags there are then.
    /// Blanks around a tag do not count; one that is both added and removed is removed.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::Invalid`] on `field=tags` for an empty one.
    pub async fn tag(
        &self,
        ctx: &Context,
        customer: CustomerId,
        add: &[&str],
        remove: &[&str],
    ) -> Result<Vec<String>> {
        let named = |error: Error| error.operation("customers.tag");
        self.prepare().await.map_err(named)?;
        for _ in 0..TRIES {
            let (tags, writes) = self.tag_writes(ctx, customer, add, remove).await.map_err(named)?;
            if writes.is_empty() {
                return Ok(tags);
            }
            match self.commit(ctx, &writes).await {
                Ok(_) => return Ok(tags),
                Err(error) if error.kind() == ErrorKind::Conflict => tokio::task::yield_now().await,
                Err(error) => return Err(named(error)),
            }
        }
        Err(named(
            Error::conflict("others kept changing the customer; try again later")
                .with("tries", TRIES)
                .with_retry(Retry::Exhausted),
        ))
    }

    pub(super) async fn tag_writes<S: AsRef<str> + Sync>(
        &self,
        ctx: &Context,
        customer: CustomerId,
        add: &[S],
        remove: &[S],
    ) -> Result<(Vec<String>, Vec<Write>)> {
        if add.iter().any(|tag| tag.as_ref().trim().is_empty()) {
            return Err(Error::invalid("a tag is not empty").with("field", "tags"));
        }
        let customer = self.current(ctx, customer).await?;
        let mut known = self.there(ctx, customer).await?.customer;
        let before = known.tags.clone();
        for tag in add.iter().map(|tag| tag.as_ref().trim()) {
            if !known.tags.iter().any(|known| known == tag) {
                known.tags.push(tag.to_owned());
            }
        }
        known
            .tags
            .retain(|tag| !remove.iter().any(|gone| gone.as_ref().trim() == tag));
        if known.tags == before {
            return Ok((before, Vec::new()));
        }
        known.updated_at = self.clock.now();
        let write = Write::update(known.id, known.version, shape::profile(&known)?);
        Ok((known.tags, vec![write]))
    }

    /// Who an id is now.
    pub(super) async fn current(&self, ctx: &Context, customer: CustomerId) -> Result<CustomerId> {
        match self.resolve(ctx, &[customer]).await?.into_iter().flatten().next() {
            Some(found) => Ok(found.id),
            None => Err(Error::new(ErrorKind::NotFound, "no such customer").with("customer_id", customer)),
        }
    }
}
