use crate::customer::{EmailAddress, PhoneNumber};
use crate::{Context, Result};

use super::{Ask, Gate, Verdict};

impl Gate {
    /// [`Gate::permit_all`] for a staging system: decides about those the messages are meant for, and lets them out to the
    /// given addresses instead. A message of a kind without such an address stays as it is.
    ///
    /// # Errors
    /// As [`Gate::permit_all`].
    pub async fn permit_elsewhere(
        &self,
        ctx: &Context,
        asks: Vec<Ask>,
        email: Option<&EmailAddress>,
        phone: Option<&PhoneNumber>,
    ) -> Result<Vec<Verdict>> {
        let verdicts = self.permit_all(ctx, asks).await?;
        Ok(verdicts
            .into_iter()
            .map(|verdict| match verdict {
                Verdict::Go { permitted, writes } => Verdict::Go {
                    permitted: permitted.readdressed(email, phone),
                    writes,
                },
                other => other,
            })
            .collect())
    }
}
