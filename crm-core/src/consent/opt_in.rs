//! Double opt-in: a consent counts once it was confirmed from the address itself.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::customer::{Address, CustomerId};
use crate::message::Channel;
use crate::record::{Field, FieldType, Index, Record, Schema, Value, Write};
use crate::{Context, Error, ErrorKind, Result, Secret, Timestamp, Uuid};

use super::key::{named_id, optional, sha256};
use super::{ConsentAction, ConsentEvent, Evidence, Gate, Purpose, Recipient};

/// How long a token may be used.
const LIFETIME: Duration = Duration::from_secs(48 * 3600);

/// How a request for confirmation is stored. The token itself is not: only its hash.
pub static OPT_IN: Schema = Schema {
    name: "crm_opt_in",
    fields: &[
        Field::new("token_sha256", FieldType::Text),
        Field::new("purpose", FieldType::Text),
        Field::new("kind", FieldType::Text),
        Field::new("channel", FieldType::Text).nullable(),
        Field::new("address_key", FieldType::Text).pseudonym(),
        Field::new("customer_id", FieldType::Uuid).pseudonym(),
        Field::new("consent_until", FieldType::Timestamp)
            .nullable()
            .personal(),
        Field::new("created_at", FieldType::Timestamp).personal(),
        Field::new("expires_at", FieldType::Timestamp),
        Field::new("used_at", FieldType::Timestamp).nullable().personal(),
    ],
    indexes: &[
        Index::new("crm_opt_in_customer", &["customer_id"]),
        Index::new("crm_opt_in_expiry", &["expires_at"]),
    ],
};

/// A request that waits for the person to confirm. `Debug` does not show the token.
#[derive(Clone)]
pub struct OptInRequest {
    /// What goes into the link that is sent to the address: 43 letters, digits, `-` and `_` that nobody can guess.
    pub token: Secret,
    /// Until when it may be used.
    pub expires_at: Timestamp,
    /// What was recorded: the person agreed, and has yet to confirm.
    pub event: ConsentEvent,
}

impl fmt::Debug for OptInRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OptInRequest")
            .field("event", &self.event.id)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

fn id_of(hash: &str) -> Uuid {
    named_id(&["opt-in", hash])
}

impl Gate {
    /// Records that somebody agreed at an address that is not yet proven to be theirs, and makes the token that proves it:
    /// single use, for 48 hours, good for this address and purpose only. Send it there (a purpose of class
    /// transactional), and hand what comes back to [`Gate::confirm_opt_in`].
    ///
    /// # Errors
    /// As [`Gate::grant`].
    pub async fn request_opt_in(
        &self,
        ctx: &Context,
        recipient: &Recipient,
        purpose: &Purpose,
        evidence: Evidence,
        consent_until: Option<Timestamp>,
    ) -> Result<OptInRequest> {
        let purpose = self.purpose(ctx, purpose).await?;
        let mut event = self.event_at(recipient, &purpose, ConsentAction::Granted, evidence);
        event.expires_at = consent_until;
        // Under the key, so that whoever guesses the ids still knows nothing.
        let fresh = [self.ids.fresh(), self.ids.fresh(), self.ids.fresh()];
        let made = self.key.secret(
            "opt-in",
            &[
                fresh[0].as_bytes(),
                fresh[1].as_bytes(),
                fresh[2].as_bytes(),
                event.address_key.as_bytes(),
                purpose.name.as_bytes(),
                ctx.tenant().as_str().as_bytes(),
            ],
        );
        let token = URL_SAFE_NO_PAD.encode(made);
        let hash = sha256(token.as_bytes());
        let expires_at = event.at.plus(LIFETIME);
        let id = id_of(&hash);
        let record = Record::from_values(
            &OPT_IN,
            vec![
                hash.into(),
                purpose.name.as_str().into(),
                event.kind.as_str().into(),
                event.channel.map(Channel::as_str).into(),
                event.address_key.as_str().into(),
                event.customer_id.into(),
                consent_until.into(),
                event.at.into(),
                expires_at.into(),
                Value::Null,
            ],
        )?;
        self.record_with(ctx, vec![event.clone()], vec![Write::insert(id, record)])
            .await?;
        Ok(OptInRequest {
            token: Secret::new(token),
            expires_at,
            event,
        })
    }

    /// Takes a token back: the consent counts from now on. `address` is the one the person says it is about, when the
    /// host knows.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for a token that was never given out, or for another address; [`ErrorKind::Refused`] for
    /// one that is used up or too old, and for an address that was erased; those of the store.
    pub async fn confirm_opt_in(
        &self,
        ctx: &Context,
        token: &str,
        address: Option<&Address>,
        evidence: Evidence,
    ) -> Result<ConsentEvent> {
        let named = |error: Error| error.operation("gate.confirm_opt_in");
        let unknown = || named(Error::new(ErrorKind::NotFound, "this confirmation is not known"));
        let hash = sha256(token.trim().as_bytes());
        let found = self.store.get(ctx, &OPT_IN, &[id_of(&hash)]).await?;
        let stored = found.into_iter().next().flatten().ok_or_else(unknown)?;
        let mut record = stored.record;
        let key = record.text("address_key")?.to_owned();
        if record.text("token_sha256")? != hash || address.is_some_and(|a| self.key.of_address(a) != key) {
            return Err(unknown());
        }
        let refused = |message: &'static str| Err(named(Error::new(ErrorKind::Refused, message)));
        let now = self.clock.now();
        if record.get("used_at").is_some_and(|at| !at.is_null()) {
            return refused("this confirmation was used already");
        }
        if record.timestamp("expires_at")? <= now {
            return refused("this confirmation is too old; ask for a new one");
        }
        let event = ConsentEvent {
            id: self.ids.fresh().into(),
            purpose: record.text("purpose")?.to_owned(),
            kind: record.text("kind")?.parse().map_err(|_| record.damaged("kind"))?,
            channel: optional(&record, "channel", |text| text.parse().ok())?,
            address_key: key,
            customer_id: CustomerId::from(record.uuid("customer_id")?),
            action: ConsentAction::Confirmed,
            at: now,
            expires_at: record.get("consent_until").and_then(Value::as_timestamp),
            basis: None,
            evidence,
        };
        record.set("used_at", now)?;
        let used = Write::update(stored.id, stored.version, record);
        match self.record_with(ctx, vec![event.clone()], vec![used]).await {
            Ok(()) => Ok(event),
            Err(error) if error.kind() == ErrorKind::Conflict => {
                refused("this confirmation was used already")
            }
            Err(error) => Err(error),
        }
    }
}
