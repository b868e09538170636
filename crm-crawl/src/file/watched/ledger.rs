//! Which files were read: by their content, in the store.

use std::sync::Arc;

use crm_core::capability::RecordStore;
use crm_core::record::{Field, FieldType, Record, Schema, Write};
use crm_core::{Context, Result, Timestamp, Uuid};
use sha2::{Digest, Sha256};

/// A file that was read, or could not be; one record a collector, tenant and content.
pub static FOLDER_FILE: Schema = Schema {
    name: "crm_folder_file",
    fields: &[
        Field::new("name", FieldType::Text),
        Field::new("content", FieldType::Text),
        Field::new("file", FieldType::Text).personal(),
        Field::new("state", FieldType::Text),
        Field::new("drafts", FieldType::Int),
        Field::new("rejects", FieldType::Int),
        Field::new("finished_at", FieldType::Timestamp),
    ],
    indexes: &[],
};

/// What is known of a content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Done,
    Failed,
}

impl State {
    fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }
}

/// The records of one collector.
pub(super) struct Ledger {
    pub(super) store: Arc<dyn RecordStore>,
    pub(super) name: String,
}

impl Ledger {
    fn id(&self, ctx: &Context, content: &str) -> Uuid {
        let mut bytes = [0; 16];
        let hash = Sha256::new()
            .chain_update(ctx.tenant().as_str())
            .chain_update([0])
            .chain_update(&self.name)
            .chain_update([0])
            .chain_update(content)
            .finalize();
        for (to, from) in bytes.iter_mut().zip(hash) {
            *to = from;
        }
        // Version 8 (RFC 9562, 5.8): made of a hash.
        Uuid::from_u128(u128::from_be_bytes(bytes) & !(0xf << 76 | 0x3 << 62) | 0x8 << 76 | 0x2 << 62)
    }

    pub(super) async fn prepare(&self) -> Result<()> {
        self.store.migrate(&[&FOLDER_FILE]).await
    }

    pub(super) async fn state(&self, ctx: &Context, content: &str) -> Result<Option<State>> {
        let found = self
            .store
            .get(ctx, &FOLDER_FILE, &[self.id(ctx, content)])
            .await?;
        let Some(stored) = found.into_iter().next().flatten() else {
            return Ok(None);
        };
        Ok(Some(match stored.record.text("state")? {
            "done" => State::Done,
            _ => State::Failed,
        }))
    }

    pub(super) async fn note(
        &self,
        ctx: &Context,
        (file, content): (&str, &str),
        state: State,
        (drafts, rejects): (u64, u64),
        now: Timestamp,
    ) -> Result<()> {
        let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let mut record = Record::new(&FOLDER_FILE);
        record.set("name", self.name.as_str())?;
        record.set("content", content)?;
        record.set("file", file)?;
        record.set("state", state.as_str())?;
        record.set("drafts", count(drafts))?;
        record.set("rejects", count(rejects))?;
        record.set("finished_at", now)?;
        let write = Write::put(self.id(ctx, content), record);
        self.store.apply(ctx, &[write]).await?;
        Ok(())
    }
}
