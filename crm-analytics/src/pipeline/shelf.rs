use std::str::FromStr;
use std::sync::Arc;

use crm_core::capability::RecordStore;
use crm_core::query::{Filter, Query};
use crm_core::record::{Field, FieldType, Index, Record, Schema, Stored, Value, Version, Write};
use crm_core::{Clock, Context, Error, ErrorKind, IdSource, Result, Timestamp, Uuid};
use serde::{Deserialize, Serialize};

use super::sealed::sha256;

/// Bytes of one part: below what every store takes in one value.
const PART: usize = 1 << 19;
/// The largest model that is stored, in bytes: it is written in one unit of work.
const LARGEST: usize = 64 << 20;
/// How often a write is tried anew when somebody else writes under the same name.
const TRIES: usize = 10;

/// One version of a model.
pub static MODEL: Schema = Schema {
    name: "crm_model",
    fields: &[
        Field::new("name", FieldType::Text),
        Field::new("number", FieldType::Int),
        Field::new("stage", FieldType::Text),
        Field::new("bytes", FieldType::Int),
        Field::new("sha256", FieldType::Text),
        Field::new("created_at", FieldType::Timestamp),
    ],
    indexes: &[
        Index::unique("crm_model_number", &["name", "number"]),
        Index::new("crm_model_stage", &["name", "stage"]),
    ],
};

/// The bytes of a model, in parts.
pub static MODEL_PART: Schema = Schema {
    name: "crm_model_part",
    fields: &[
        Field::new("model_id", FieldType::Uuid),
        Field::new("part", FieldType::Int),
        Field::new("payload", FieldType::Bytes),
    ],
    indexes: &[Index::unique("crm_model_part_key", &["model_id", "part"])],
};

/// What a version of a model is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Not yet.
    Candidate,
    /// It is the one in use: one version of a name at most.
    Live,
    /// No more.
    Retired,
}

impl Stage {
    /// The stage as it is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Candidate => "candidate",
            Self::Live => "live",
            Self::Retired => "retired",
        }
    }
}

impl FromStr for Stage {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        [Self::Candidate, Self::Live, Self::Retired]
            .into_iter()
            .find(|stage| stage.as_str() == text)
            .ok_or_else(|| Error::invalid("a stage is candidate, live or retired").with("field", "stage"))
    }
}

/// Which version of a model is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The one in use.
    Live,
    /// The newest, whatever its stage.
    Newest,
    /// This one.
    Number(i64),
}

/// What is known of a stored version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelRecord {
    /// Its id.
    pub id: Uuid,
    /// The name.
    pub name: String,
    /// The version's number, 1 for the first of a name.
    pub number: i64,
    /// What it is used for.
    pub stage: Stage,
    /// Its size.
    pub bytes: u64,
    /// When it was stored.
    pub created_at: Timestamp,
    sha256: String,
    version: Version,
}

impl ModelRecord {
    fn read(stored: &Stored) -> Result<Self> {
        let r = &stored.record;
        Ok(Self {
            id: stored.id,
            name: r.text("name")?.to_owned(),
            number: r.int("number")?,
            stage: r.text("stage")?.parse().map_err(|_| r.damaged("stage"))?,
            bytes: u64::try_from(r.int("bytes")?).map_err(|_| r.damaged("bytes"))?,
            created_at: r.timestamp("created_at")?,
            sha256: r.text("sha256")?.to_owned(),
            version: stored.version,
        })
    }

    fn record(&self, stage: Stage) -> Result<Record> {
        Record::from_values(
            &MODEL,
            vec![
                self.name.as_str().into(),
                self.number.into(),
                stage.as_str().into(),
                i64::try_from(self.bytes).unwrap_or(i64::MAX).into(),
                self.sha256.as_str().into(),
                self.created_at.into(),
            ],
        )
    }
}

/// Models in the store of records: any bytes, such as [`super::seal`] makes them, by name, version and stage. A version
/// never changes; which one is in use does.
#[derive(Debug, Clone)]
pub struct StoredModels {
    store: Arc<dyn RecordStore>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdSource>,
}

impl StoredModels {
    /// The models in `store`; its schemas are to be migrated first ([`StoredModels::schemas`]).
    pub fn new(store: Arc<dyn RecordStore>, clock: Arc<dyn Clock>, ids: Arc<dyn IdSource>) -> Self {
        Self { store, clock, ids }
    }

    /// What it stores; to be passed to [`RecordStore::migrate`].
    pub fn schemas() -> [&'static Schema; 2] {
        [&MODEL, &MODEL_PART]
    }

    /// Stores a new version, as a candidate. It is there whole or not at all.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a name that is not 1 to 64 of `a-z`, `0-9`, `-`, `_`, for no bytes or more than 64 MiB;
    /// [`ErrorKind::Conflict`] when others store under the same name all the time; those of the store.
    pub async fn publish(&self, ctx: &Context, name: &str, model: &[u8]) -> Result<ModelRecord> {
        self.add(ctx, name, model)
            .await
            .map_err(|error| error.operation("models.publish"))
    }

    async fn add(&self, ctx: &Context, name: &str, model: &[u8]) -> Result<ModelRecord> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
        if !(1..=64).contains(&name.len()) || !name.bytes().all(plain) {
            return Err(
                Error::invalid("a model is named with 1 to 64 of a-z, 0-9, '-' and '_'")
                    .with("field", "name"),
            );
        }
        if model.is_empty() || model.len() > LARGEST {
            return Err(Error::invalid("a model has 1 byte to 64 MiB")
                .with("bytes", model.len())
                .with("most", LARGEST));
        }
        let mut last = None;
        for _ in 0..TRIES {
            let newest = self.found(ctx, name, Which::Newest).await?;
            let fresh = ModelRecord {
                id: self.ids.fresh(),
                name: name.to_owned(),
                number: newest.map_or(0, |newest| newest.number) + 1,
                stage: Stage::Candidate,
                bytes: model.len() as u64,
                created_at: self.clock.now(),
                sha256: sha256(model),
                version: 1,
            };
            let mut writes = vec![Write::insert(fresh.id, fresh.record(fresh.stage)?)];
            for (part, payload) in (0_i64..).zip(model.chunks(PART)) {
                let record = Record::from_values(
                    &MODEL_PART,
                    vec![fresh.id.into(), part.into(), payload.to_vec().into()],
                )?;
                writes.push(Write::insert(self.ids.fresh(), record));
            }
            ctx.check(&*self.clock)?;
            match self.store.apply(ctx, &writes).await {
                Ok(_) => return Ok(fresh),
                // Somebody took the number.
                Err(error) if error.kind() == ErrorKind::Conflict => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| Error::conflict("others store models under this name")))
    }

    async fn found(&self, ctx: &Context, name: &str, which: Which) -> Result<Option<ModelRecord>> {
        let named = Filter::eq("name", name);
        let filter = match which {
            Which::Newest => named,
            Which::Live => named.and(Filter::eq("stage", Stage::Live.as_str())),
            Which::Number(number) => named.and(Filter::eq("number", number)),
        };
        let query = Query::new(filter).descending("number").limit(1);
        let page = self.store.find(ctx, &MODEL, &query).await?;
        page.items.first().map(ModelRecord::read).transpose()
    }

    async fn first(&self, ctx: &Context, name: &str) -> Result<Option<ModelRecord>> {
        let query = Query::new(Filter::eq("name", name)).ascending("number").limit(1);
        let page = self.store.find(ctx, &MODEL, &query).await?;
        page.items.first().map(ModelRecord::read).transpose()
    }

    /// Looks a version up.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] naming the model when there is none; those of the store.
    pub async fn find(&self, ctx: &Context, name: &str, which: Which) -> Result<ModelRecord> {
        self.found(ctx, name, which)
            .await
            .and_then(|found| found.ok_or_else(|| none(name, which)))
            .map_err(|error| error.operation("models.find"))
    }

    /// Loads a version.
    ///
    /// # Errors
    /// As [`StoredModels::find`]; [`ErrorKind::Corrupt`] when a part is missing or the bytes are not those that were
    /// stored.
    pub async fn load(&self, ctx: &Context, name: &str, which: Which) -> Result<(ModelRecord, Vec<u8>)> {
        self.loaded(ctx, name, which)
            .await
            .map_err(|error| error.operation("models.load"))
    }

    async fn loaded(&self, ctx: &Context, name: &str, which: Which) -> Result<(ModelRecord, Vec<u8>)> {
        let found = self
            .found(ctx, name, which)
            .await?
            .ok_or_else(|| none(name, which))?;
        let mut query = Query::new(Filter::eq("model_id", found.id))
            .ascending("part")
            .limit(8);
        let mut model = Vec::new();
        loop {
            let page = self.store.find(ctx, &MODEL_PART, &query).await?;
            for stored in &page.items {
                match stored.record.get("payload") {
                    Some(Value::Bytes(payload)) => model.extend_from_slice(payload),
                    _ => return Err(stored.record.damaged("payload")),
                }
            }
            match page.next {
                Some(next) => query.after = Some(next),
                None => break,
            }
        }
        if model.len() as u64 != found.bytes || sha256(&model) != found.sha256 {
            return Err(Error::new(
                ErrorKind::Corrupt,
                "the stored model is not the one that was stored; publish it again",
            )
            .with("model", name)
            .with("number", found.number));
        }
        Ok((found, model))
    }

    /// Says what a version is used for. Making one live retires the one that was, in the same unit of work.
    ///
    /// # Errors
    /// As [`StoredModels::find`]; [`ErrorKind::Conflict`] when others change the same all the time.
    pub async fn stage(&self, ctx: &Context, name: &str, number: i64, stage: Stage) -> Result<ModelRecord> {
        self.staged(ctx, name, number, stage)
            .await
            .map_err(|error| error.operation("models.stage"))
    }

    async fn staged(&self, ctx: &Context, name: &str, number: i64, stage: Stage) -> Result<ModelRecord> {
        let which = Which::Number(number);
        let mut last = None;
        for _ in 0..TRIES {
            let mut one = self
                .found(ctx, name, which)
                .await?
                .ok_or_else(|| none(name, which))?;
            if one.stage == stage {
                return Ok(one);
            }
            let mut writes = Vec::new();
            if stage == Stage::Live {
                // The name's first version, which never goes, is written anew as well, and was read before anything else: of
                // two that are made live at the same time, one meets the other's write and tries again.
                let first = self.first(ctx, name).await?;
                let before = self.found(ctx, name, Which::Live).await?;
                if let Some(before) = &before {
                    writes.push(Write::update(
                        before.id,
                        before.version,
                        before.record(Stage::Retired)?,
                    ));
                }
                let touched =
                    |id: Uuid| id == one.id || before.as_ref().is_some_and(|before| before.id == id);
                if let Some(first) = first.filter(|first| !touched(first.id)) {
                    writes.push(Write::update(first.id, first.version, first.record(first.stage)?));
                }
            }
            writes.push(Write::update(one.id, one.version, one.record(stage)?));
            ctx.check(&*self.clock)?;
            match self.store.apply(ctx, &writes).await {
                Ok(_) => {
                    one.version += 1;
                    one.stage = stage;
                    return Ok(one);
                }
                Err(error) if error.kind() == ErrorKind::Conflict => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| Error::conflict("others change what the model is used for")))
    }
}

fn none(name: &str, which: Which) -> Error {
    let which = match which {
        Which::Live => "live".to_owned(),
        Which::Newest => "newest".to_owned(),
        Which::Number(number) => number.to_string(),
    };
    Error::new(
        ErrorKind::NotFound,
        "there is no such model; publish one, or make a version live",
    )
    .with("model", name)
    .with("version", which)
}
