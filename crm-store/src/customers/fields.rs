//! What a tenant's attributes are: their types, which must be there, which are found fast.

mod def;
mod index;

use std::collections::{BTreeMap, BTreeSet};

use crm_core::customer::{Attributes, CUSTOMER, Customer};
use crm_core::query::{Filter, Query};
use crm_core::record::{Field, FieldType, Index, Record, Schema, Stored, Value, Write};
use crm_core::{Context, Error, ErrorKind, Result, Uuid};
use serde::Deserialize;
use serde_json::Value as Json;

use super::merge::Strategy;
use super::{Customers, shape, unique};

pub use def::{FieldDef, FieldKind};
pub use index::ATTRIBUTE;
use index::entry_id;
pub(super) use index::unique_hash;

/// How declarations of attributes are kept.
pub static FIELD_DEF: Schema = Schema {
    name: "crm_field_def",
    fields: &[
        Field::new("key", FieldType::Text),
        Field::new("definition", FieldType::Json),
        Field::new("created_at", FieldType::Timestamp),
    ],
    indexes: &[Index::unique("crm_field_def_key", &["key"])],
};

/// The record of [`FIELD_DEF`] that says whether undeclared attributes are refused; no attribute is named so.
const STRICT: &str = "*";
/// Customers of one step of indexing.
const STEP: u32 = 500;

/// The declarations of one tenant.
#[derive(Debug, Clone, Default)]
pub(super) struct Declared {
    defs: BTreeMap<String, FieldDef>,
    strict: bool,
}

impl Declared {
    pub(super) fn is_empty(&self) -> bool {
        self.defs.is_empty() && !self.strict
    }

    /// The attributes of which no two customers may have the same value.
    pub(super) fn unique_keys(&self) -> impl Iterator<Item = &str> {
        self.defs
            .values()
            .filter(|def| def.unique)
            .map(|def| def.key.as_str())
    }

    pub(super) fn strategies(&self) -> impl Iterator<Item = (String, Strategy)> {
        self.defs
            .values()
            .filter_map(|def| Some((format!("attributes.{}", def.key), def.merge?)))
    }

    /// Checks one attribute.
    pub(super) fn check(&self, key: &str, value: &Json) -> Result<(), &'static str> {
        match self.defs.get(key) {
            Some(def) => def.kind.check(value),
            None if self.strict => {
                Err("the attribute is not declared, and this tenant allows only declared ones")
            }
            None => Ok(()),
        }
    }

    /// Checks a customer as the host gives it: what is new in it, and that nothing required is missing.
    pub(super) fn check_all(&self, now: &Attributes, before: Option<&Attributes>) -> Result<()> {
        let wrong = |message: &'static str, key: &str| {
            Err(Error::invalid(message).with("field", format!("attributes.{key}")))
        };
        for (key, value) in now.iter() {
            if before.and_then(|before| before.get(key)) != Some(value)
                && let Err(message) = self.check(key, value)
            {
                return wrong(message, key);
            }
        }
        for def in self.defs.values().filter(|def| def.required) {
            let had = before.is_none_or(|before| before.get(&def.key).is_some());
            if had && now.get(&def.key).is_none() {
                return wrong("a required attribute is missing", &def.key);
            }
        }
        Ok(())
    }
}

/// Declarations of attributes; see [`Customers::fields`].
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a> {
    customers: &'a Customers,
}

impl Customers {
    /// Declarations of attributes. What is declared is checked wherever a customer is created, changed or imported
    /// (collectors: what does not fit is put aside and told); an attribute that is not declared is free, unless
    /// [`Fields::strict`] says otherwise.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// # use std::sync::Arc;
    /// # use crm_core::memory::MemoryStore;
    /// # use crm_core::{Context, RandomIds, SystemClock, TenantId, Timestamp};
    /// use crm_core::customer::{Draft, Provenance};
    /// use crm_core::query::{Filter, Query};
    /// use crm_store::customers::{Customers, FieldDef, FieldKind};
    ///
    /// # let store = Arc::new(MemoryStore::new("records"));
    /// # let customers = Customers::new(store, SystemClock::shared(), RandomIds::shared());
    /// # let ctx = Context::new(TenantId::new("shop").unwrap());
    /// customers.fields().declare(&ctx, FieldDef::new("card", FieldKind::Text).unique()).await.unwrap();
    /// let mut draft = Draft::new(Provenance::new("till", Timestamp::EPOCH));
    /// draft.attributes.set("card", "C-77").unwrap();
    /// let ana = customers.create(&ctx, draft.clone()).await.unwrap();
    /// let by_card = Query::new(Filter::eq("attributes.card", "C-77"));
    /// assert_eq!(customers.find(&ctx, &by_card).await.unwrap().items[0].id, ana.id);
    /// assert!(customers.create(&ctx, draft).await.is_err(), "one customer a card");
    /// # });
    /// ```
    pub fn fields(&self) -> Fields<'_> {
        Fields { customers: self }
    }

    pub(super) async fn declared(&self, ctx: &Context) -> Result<Declared> {
        let mut declared = Declared::default();
        for stored in shape::all(&*self.store, ctx, &FIELD_DEF, Filter::All).await? {
            let r = &stored.record;
            if r.text("key")? == STRICT {
                declared.strict = r
                    .get("definition")
                    .and_then(Value::as_json)
                    .is_some_and(|json| json == &Json::Bool(true));
                continue;
            }
            let def = read(&stored)?;
            declared.defs.insert(def.key.clone(), def);
        }
        Ok(declared)
    }
}

fn read(stored: &Stored) -> Result<FieldDef> {
    let r = &stored.record;
    r.get("definition")
        .and_then(Value::as_json)
        .and_then(|json| FieldDef::deserialize(json).ok())
        .ok_or_else(|| r.damaged("definition"))
}

impl Fields<'_> {
    /// Declares an attribute, or declares it anew. Values that are stored already are not changed; an index is made for
    /// them before the call answers (stopped halfway, call again). New values are checked from the next call on.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] naming the field; [`ErrorKind::Conflict`] with `index=crm_attribute_unique` when two
    /// customers have the same value of an attribute that shall be unique: it is not declared then.
    pub async fn declare(&self, ctx: &Context, def: FieldDef) -> Result<()> {
        let named = |error: Error| error.operation("fields.declare");
        Attributes::default().set(&def.key, true).map_err(named)?;
        if let FieldKind::Choice(choices) | FieldKind::Choices(choices) = &def.kind {
            let once: BTreeSet<&String> = choices.iter().collect();
            if choices.is_empty() || once.len() != choices.len() || choices.iter().any(String::is_empty) {
                return Err(named(
                    Error::invalid("choices are one text or more, none empty, each once")
                        .with("field", "kind"),
                ));
            }
        }
        self.customers.prepare().await.map_err(named)?;
        let json = serde_json::to_value(&def)
            .map_err(|error| named(Error::unexpected("a declaration as JSON").source(error)))?;
        let before = self.get(ctx, &def.key).await.map_err(named)?;
        if before.as_ref().is_some_and(FieldDef::is_indexed)
            && before.as_ref().map(|before| before.unique) != Some(def.unique)
        {
            self.unindex(ctx, &def.key).await.map_err(named)?;
        }
        self.put(ctx, &def.key, json).await.map_err(named)?;
        if def.is_indexed()
            && let Err(error) = self.index(ctx, &def).await
        {
            if unique::is_taken(&error) {
                self.forget(ctx, &def.key).await.map_err(named)?;
            }
            return Err(named(error));
        }
        Ok(())
    }

    /// What is declared, by name.
    ///
    /// # Errors
    /// The store's.
    pub async fn list(&self, ctx: &Context) -> Result<Vec<FieldDef>> {
        self.customers.prepare().await?;
        Ok(self.customers.declared(ctx).await?.defs.into_values().collect())
    }

    /// One declaration.
    ///
    /// # Errors
    /// The store's.
    pub async fn get(&self, ctx: &Context, key: &str) -> Result<Option<FieldDef>> {
        Ok(self.list(ctx).await?.into_iter().find(|def| def.key == key))
    }

    /// Takes a declaration back; values stay. Answers whether there was one.
    ///
    /// # Errors
    /// The store's.
    pub async fn forget(&self, ctx: &Context, key: &str) -> Result<bool> {
        self.customers.prepare().await?;
        let store = &self.customers.store;
        let found = store
            .find(ctx, &FIELD_DEF, &Query::new(Filter::eq("key", key)).limit(1))
            .await?;
        let Some(stored) = found.items.first().filter(|_| key != STRICT) else {
            return Ok(false);
        };
        let gone = store
            .apply(ctx, &[Write::delete(&FIELD_DEF, stored.id, None)])
            .await;
        match gone {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Conflict => return Ok(false),
            Err(error) => return Err(error.operation("fields.forget")),
        }
        self.unindex(ctx, key).await?;
        Ok(true)
    }

    /// Whether attributes that are not declared are refused from now on.
    ///
    /// # Errors
    /// The store's.
    pub async fn strict(&self, ctx: &Context, strict: bool) -> Result<()> {
        self.customers.prepare().await?;
        self.put(ctx, STRICT, Json::Bool(strict)).await
    }

    async fn put(&self, ctx: &Context, key: &str, definition: Json) -> Result<()> {
        let values = vec![
            key.into(),
            Value::Json(definition),
            self.customers.clock.now().into(),
        ];
        let record = Record::from_values(&FIELD_DEF, values)?;
        let id = entry_id(Uuid::nil(), key);
        self.customers
            .store
            .apply(ctx, &[Write::put(id, record)])
            .await
            .map(drop)
    }

    async fn unindex(&self, ctx: &Context, key: &str) -> Result<()> {
        self.customers
            .sweep(ctx, &ATTRIBUTE, Filter::eq("key", key))
            .await
    }

    /// Makes the index for what is stored already; what is written meanwhile indexes itself.
    async fn index(&self, ctx: &Context, def: &FieldDef) -> Result<()> {
        let store = &self.customers.store;
        let there = Filter::Not(Box::new(Filter::null(format!("attributes.{}", def.key).as_str())));
        let mut query = Query::new(there).limit(STEP);
        loop {
            let page = store.find(ctx, &CUSTOMER, &query).await?;
            let ids: Vec<Uuid> = page
                .items
                .iter()
                .map(|stored| entry_id(stored.id, &def.key))
                .collect();
            let known = store.get(ctx, &ATTRIBUTE, &ids).await?;
            let mut writes = Vec::new();
            for ((stored, id), known) in page.items.iter().zip(&ids).zip(&known) {
                let value = stored
                    .record
                    .get("attributes")
                    .and_then(Value::as_json)
                    .and_then(|json| json.get(&def.key))
                    .unwrap_or(&Json::Null);
                if known.is_none()
                    && let Some(entry) = def.entry(stored.id, value)?
                {
                    writes.push(Write::insert(*id, entry));
                }
            }
            match store.apply(ctx, &writes).await {
                Ok(_) => {}
                // Somebody wrote one of them meanwhile: look again.
                Err(error) if error.context("index") == Some("id") => {
                    tokio::task::yield_now().await;
                    continue;
                }
                Err(error) => return Err(error),
            }
            match page.next {
                None => return Ok(()),
                next => query.after = next,
            }
        }
    }
}

/// Takes out of a draft's attributes what does not fit its declaration; answers what was wrong.
pub(super) fn fitting(declared: &Declared, attributes: &mut Attributes) -> Vec<(String, &'static str)> {
    let wrong: Vec<(String, &'static str)> = attributes
        .iter()
        .filter_map(|(key, value)| Some((key.to_owned(), declared.check(key, value).err()?)))
        .collect();
    for (key, _) in &wrong {
        // Null removes.
        let _ = attributes.set(key, Json::Null);
    }
    wrong
}

/// Checks a customer as the host gives it.
pub(super) async fn check(
    customers: &Customers,
    ctx: &Context,
    now: &Attributes,
    before: Option<&Customer>,
) -> Result<()> {
    let declared = customers.declared(ctx).await?;
    declared.check_all(now, before.map(|before| &before.attributes))
}
