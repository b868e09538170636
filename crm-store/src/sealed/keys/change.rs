//! What becomes of a data key: destroyed with its person, or wrapped anew.

use crm_core::capability::DataKey;
use crm_core::query::{Filter, Query};
use crm_core::record::{Record, Value, Write};
use crm_core::{Context, Error, ErrorKind, Result, Timestamp, Uuid};

use super::{BATCH, Keys, Owner, Row, SUBJECT_KEY};

impl Keys {
    /// Destroys a person's key; answers when it was destroyed, which may be long ago.
    pub(in super::super) async fn destroy(&self, ctx: &Context, subject: Uuid) -> Result<Timestamp> {
        let owner = Owner::Subject(subject);
        let now = self.clock.now();
        loop {
            self.forget(ctx.tenant(), owner);
            let row = self
                .store
                .get(ctx, &SUBJECT_KEY, &[owner.row()])
                .await?
                .into_iter()
                .next()
                .flatten();
            let write = match row.map(Row::read).transpose()? {
                // Also for whom there is no key: nobody makes one later, from a restored backup.
                None => {
                    let record = Record::new(&SUBJECT_KEY)
                        .with("kind", owner.kind())?
                        .with("subject", subject)?
                        .with("generation", 1_i64)?
                        .with("created_at", now)?
                        .with("destroyed_at", now)?;
                    Write::insert(owner.row(), record)
                }
                Some(row) => {
                    if let (None, Some(Value::Timestamp(at))) = (&row.wrapped, row.record.get("destroyed_at"))
                    {
                        return Ok(*at);
                    }
                    let record = row
                        .record
                        .with("kek", Value::Null)?
                        .with("wrapped", Value::Null)?
                        .with("destroyed_at", now)?;
                    Write::update(owner.row(), row.version, record)
                }
            };
            match self.store.apply(ctx, &[write]).await {
                Ok(_) => {
                    self.forget(ctx.tenant(), owner);
                    return Ok(now);
                }
                // Made, changed or destroyed meanwhile: look again.
                Err(error) if error.kind() == ErrorKind::Conflict => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Notes that an erased person's records are gone.
    pub(in super::super) async fn swept(&self, ctx: &Context, subject: Uuid) -> Result<()> {
        let id = Owner::Subject(subject).row();
        loop {
            let row = self
                .store
                .get(ctx, &SUBJECT_KEY, &[id])
                .await?
                .into_iter()
                .next()
                .flatten();
            let Some(row) = row else {
                return Err(Error::unexpected("an erasure is not in the ledger").with("subject", subject));
            };
            let record = row.record.with("swept_at", self.clock.now())?;
            match self
                .store
                .apply(ctx, &[Write::update(id, row.version, record)])
                .await
            {
                Err(error) if error.kind() == ErrorKind::Conflict => {}
                other => return other.map(|_| ()),
            }
        }
    }

    /// Wraps the next keys that are not under the current one anew. Answers how many, and how many somebody else changed
    /// meanwhile; none of both when there are none left.
    pub(in super::super) async fn rewrap(&self, ctx: &Context) -> Result<(u64, u64)> {
        let current = self.provider.current(ctx.tenant()).await?;
        let query = Query::new(Filter::ne("kek", current.as_str())).limit(BATCH as u32);
        let page = self.store.find(ctx, &SUBJECT_KEY, &query).await?;
        let rows = page
            .items
            .into_iter()
            .map(Row::read)
            .collect::<Result<Vec<_>>>()?;
        let (mut wrapped, mut places) = (Vec::new(), Vec::new());
        for mut row in rows {
            if let Some(key) = row.wrapped.take() {
                wrapped.push((row.owner, row.generation, key));
                places.push((row.version, row.record));
            }
        }
        let keys = self.unwrap(ctx, &wrapped).await?;
        let keys: Vec<(Owner, u32, DataKey)> = wrapped
            .into_iter()
            .zip(keys)
            .map(|((owner, generation, _), key)| (owner, generation, key))
            .collect();
        if keys.is_empty() {
            return Ok((0, 0));
        }
        let anew = self.wrap(ctx, &keys).await?;
        let mut writes = Vec::with_capacity(keys.len());
        for (((owner, _, _), wrapped), (version, record)) in keys.iter().zip(anew).zip(places) {
            if wrapped.key_id != current {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    "the key provider wraps with another key than it says is current; rotate again when it has settled",
                )
                .with("key_id", &wrapped.key_id));
            }
            let record = record
                .with("kek", wrapped.key_id)?
                .with("wrapped", wrapped.bytes)?;
            writes.push(Write::update(owner.row(), version, record));
        }
        match self.store.apply(ctx, &writes).await {
            Ok(_) => return Ok((writes.len() as u64, 0)),
            Err(error) if error.kind() == ErrorKind::Conflict => {}
            Err(error) => return Err(error),
        }
        // One of them was erased or wrapped by somebody else: the others do not wait for it.
        let (mut done, mut passed) = (0, 0);
        for write in writes {
            match self.store.apply(ctx, &[write]).await {
                Ok(_) => done += 1,
                Err(error) if error.kind() == ErrorKind::Conflict => passed += 1,
                Err(error) => return Err(error),
            }
        }
        Ok((done, passed))
    }
}
