//! What a tenant's attributes are: their types, which must be there, which are found fast.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crm_core::customer::{Attributes, CUSTOMER, Customer};
use crm_core::query::{Compare, FieldRef, Filter, Query};
use crm_core::record::{Field, FieldType, Index, Record, Schema, Stored, Value, Version, Write};
use crm_core::{Context, Error, ErrorKind, Result, Timestamp, Uuid};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use sha2::{Digest, Sha256};

use super::merge::Strategy;
use super::{Customers, shape, unique};

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

/// The index of declared attributes: one record a customer and attribute, written in the same unit of work as the
/// profile. It narrows a question down; the profile decides.
pub static ATTRIBUTE: Schema = Schema {
    name: "crm_attribute",
    fields: &[
        Field::new("customer_id", FieldType::Uuid).pseudonym(),
        Field::new("key", FieldType::Text),
        Field::new("text_value", FieldType::Text).nullable().personal(),
        Field::new("number_value", FieldType::Float).nullable().personal(),
        Field::new("unique_value", FieldType::Text).nullable().pseudonym(),
    ],
    indexes: &[
        Index::new("crm_attribute_customer", &["customer_id"]),
        Index::new("crm_attribute_text", &["key", "text_value"]),
        Index::new("crm_attribute_number", &["key", "number_value"]),
        Index::unique("crm_attribute_unique", &["key", "unique_value"]),
    ],
};

/// The record of [`FIELD_DEF`] that says whether undeclared attributes are refused; no attribute is named so.
const STRICT: &str = "*";
/// Characters of a text that the index keeps; longer ones are told apart by the profile.
const KEPT: usize = 120;
/// The most customers an index narrows a question to; beyond that it would not help.
const NARROW: u32 = 5000;
/// Customers of one step of indexing.
const STEP: u32 = 500;

/// The type of an attribute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FieldKind {
    /// Text.
    Text,
    /// A 64-bit integer.
    Int,
    /// A number.
    Float,
    /// True or false.
    Bool,
    /// An instant, as RFC 3339 text.
    Timestamp,
    /// One of these texts.
    Choice(Vec<String>),
    /// A list of these texts, each at most once.
    Choices(Vec<String>),
}

impl FieldKind {
    fn check(&self, value: &Json) -> Result<(), &'static str> {
        let among = |choices: &[String], value: &Json| {
            value
                .as_str()
                .is_some_and(|text| choices.iter().any(|choice| choice == text))
        };
        let (good, message) = match self {
            Self::Text => (value.is_string(), "the attribute is declared as text"),
            Self::Int => (
                value.as_i64().is_some(),
                "the attribute is declared as an integer",
            ),
            Self::Float => (value.is_number(), "the attribute is declared as a number"),
            Self::Bool => (value.is_boolean(), "the attribute is declared as true or false"),
            Self::Timestamp => (
                value
                    .as_str()
                    .is_some_and(|text| text.parse::<Timestamp>().is_ok()),
                "the attribute is declared as an instant, written as 2026-03-01T09:00:00Z",
            ),
            Self::Choice(choices) => (
                among(choices, value),
                "the attribute is declared as one of a list of choices",
            ),
            Self::Choices(choices) => (
                value.as_array().is_some_and(|items| {
                    let once: BTreeSet<&str> = items.iter().filter_map(Json::as_str).collect();
                    once.len() == items.len() && items.iter().all(|item| among(choices, item))
                }),
                "the attribute is declared as a list of choices, each at most once",
            ),
        };
        if good { Ok(()) } else { Err(message) }
    }
}

/// What an attribute is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldDef {
    /// Its name, as in `attributes.<key>`.
    pub key: String,
    /// Its type.
    pub kind: FieldKind,
    /// Whether [`Customers::create`] and [`Customers::update`] refuse a customer without it. Collectors, who know parts
    /// only, may leave it out.
    #[serde(default)]
    pub required: bool,
    /// Whether no two customers may have the same value. Enforced by the store, also between processes.
    #[serde(default)]
    pub unique: bool,
    /// Whether it says something about the person; true unless said otherwise.
    pub personal: bool,
    /// Whether customers are found by it fast.
    #[serde(default)]
    pub indexed: bool,
    /// How it survives a merge, unless the merge says otherwise.
    #[serde(default)]
    pub merge: Option<Strategy>,
}

impl FieldDef {
    /// An optional, personal attribute of this type.
    pub fn new(key: impl Into<String>, kind: FieldKind) -> Self {
        Self {
            key: key.into(),
            kind,
            required: false,
            unique: false,
            personal: true,
            indexed: false,
            merge: None,
        }
    }
    /// Found fast.
    #[must_use]
    pub fn indexed(mut self) -> Self {
        self.indexed = true;
        self
    }
    /// One customer a value. Also found fast.
    #[must_use]
    pub fn unique(mut self) -> Self {
        (self.unique, self.indexed) = (true, true);
        self
    }
    /// Must be there.
    #[must_use]
    pub fn required(mut self) -> Self {
        self.required = true;
        self
    }
    /// Says nothing about the person.
    #[must_use]
    pub fn impersonal(mut self) -> Self {
        self.personal = false;
        self
    }
    /// Survives a merge so.
    #[must_use]
    pub fn merging(mut self, strategy: Strategy) -> Self {
        self.merge = Some(strategy);
        self
    }

    fn is_indexed(&self) -> bool {
        self.indexed || self.unique
    }

    /// The index's record of a customer's value.
    fn entry(&self, customer: Uuid, value: &Json) -> Result<Option<Record>> {
        if value.is_null() || !self.is_indexed() {
            return Ok(None);
        }
        let (text, number) = indexed(value);
        let unique = self.unique.then(|| unique_hash(value));
        Record::from_values(
            &ATTRIBUTE,
            vec![
                customer.into(),
                self.key.as_str().into(),
                text.into(),
                number.into(),
                unique.into(),
            ],
        )
        .map(Some)
    }
}

fn indexed(value: &Json) -> (Option<String>, Option<f64>) {
    match value {
        Json::String(text) => (Some(cut(text)), None),
        Json::Bool(flag) => (Some(flag.to_string()), None),
        Json::Number(number) => (None, number.as_f64()),
        _ => (None, None),
    }
}

fn cut(text: &str) -> String {
    text.chars().take(KEPT).collect()
}

/// What the unique index knows a value by.
pub(super) fn unique_hash(value: &Json) -> String {
    hash(&[value.to_string().as_bytes()])
}

fn hash(parts: &[&[u8]]) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    digest
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The same customer and attribute have the same record, on every store and after every undo.
fn entry_id(customer: Uuid, key: &str) -> Uuid {
    let text = hash(&[customer.as_bytes(), key.as_bytes()]);
    let bits = text.get(..32).and_then(|hex| u128::from_str_radix(hex, 16).ok());
    crm_core::Uuid::from_u128(bits.unwrap_or_default())
}

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

    /// Carries out a unit of work; for every profile in it, the index of declared attributes follows.
    pub(super) async fn commit(&self, ctx: &Context, writes: &[Write]) -> Result<()> {
        let profile = |write: &&Write| write.schema().name == CUSTOMER.name;
        if !writes.iter().any(|write| profile(&write)) {
            return self.store.apply(ctx, writes).await.map(drop);
        }
        let declared = self.declared(ctx).await?;
        let defs: Vec<&FieldDef> = declared.defs.values().filter(|def| def.is_indexed()).collect();
        if defs.is_empty() {
            return self.store.apply(ctx, writes).await.map(drop);
        }
        let ids: Vec<Uuid> = writes.iter().filter(profile).map(Write::id).collect();
        let mut known: HashMap<Uuid, Stored> = HashMap::new();
        for ids in ids.chunks(STEP as usize) {
            let filter = Filter::one_of("customer_id", ids.iter().copied());
            for stored in shape::all(&*self.store, ctx, &ATTRIBUTE, filter).await? {
                known.insert(stored.id, stored);
            }
        }
        let (mut updates, mut inserts) = (Vec::new(), Vec::new());
        for write in writes.iter().filter(profile) {
            let (Write::Insert { id, record, .. }
            | Write::Update { id, record, .. }
            | Write::Put { id, record }) = write
            else {
                continue;
            };
            let Some(attributes) = record.get("attributes").and_then(Value::as_json) else {
                continue;
            };
            for def in &defs {
                let value = attributes.get(&def.key).unwrap_or(&Json::Null);
                let Some(entry) = def.entry(*id, value)? else {
                    continue;
                };
                let entry_id = entry_id(*id, &def.key);
                match known.remove(&entry_id) {
                    Some(stored) if stored.record == entry => {}
                    Some(stored) => updates.push((stored, entry)),
                    None => inserts.push(Write::insert(entry_id, entry)),
                }
            }
        }
        let gone = known
            .into_values()
            .map(|stored| Write::delete(&ATTRIBUTE, stored.id, Some(stored.version)));
        let mut all: Vec<Write> = writes.iter().cloned().chain(gone).collect();
        hand_over(&mut all, updates, &inserts)?;
        all.extend(inserts);
        match self.store.apply(ctx, &all).await {
            Ok(_) => Ok(()),
            Err(error) if unique::is_taken(&error) => Err(unique::told(&*self.store, ctx, &all, error).await),
            Err(error) => Err(error),
        }
    }

    /// Adds to a question what the index of declared attributes knows, so that the store need not look at everybody.
    pub(super) async fn narrowed(&self, ctx: &Context, filter: &Filter) -> Result<Filter> {
        let conditions: Vec<&Filter> = match filter {
            Filter::And(all) => all.iter().collect(),
            one => vec![one],
        };
        let mut declared: Option<Declared> = None;
        for condition in conditions {
            let Some((key, entries)) = entries(condition) else {
                continue;
            };
            if declared.is_none() {
                declared = Some(self.declared(ctx).await?);
            }
            let known = declared.as_ref().and_then(|declared| declared.defs.get(key));
            if !known.is_some_and(FieldDef::is_indexed) {
                continue;
            }
            let query = Query::new(Filter::eq("key", key).and(entries)).limit(NARROW);
            let page = self.store.find(ctx, &ATTRIBUTE, &query).await?;
            if page.next.is_none() {
                let ids = page.items.iter().map(|entry| entry.record.uuid("customer_id"));
                let ids = ids.collect::<Result<Vec<Uuid>>>()?;
                return Ok(Filter::one_of("id", ids).and_all(filter.clone()));
            }
        }
        Ok(filter.clone())
    }
}

/// Adds updates of the index. A value that goes from one customer to another within the unit of work is given up before
/// it is taken, whatever the order of the two.
fn hand_over(all: &mut Vec<Write>, updates: Vec<(Stored, Record)>, inserts: &[Write]) -> Result<()> {
    fn value(record: &Record) -> Option<(&str, &str)> {
        let text = |name| record.get(name).and_then(Value::as_str);
        Some((text("key")?, text("unique_value")?))
    }
    let taken = inserts.iter().filter_map(|write| match write {
        Write::Insert { record, .. } => Some(record),
        _ => None,
    });
    let wanted: HashSet<(&str, &str)> = updates
        .iter()
        .map(|(_, entry)| entry)
        .chain(taken)
        .filter_map(value)
        .collect();
    let mut versions = Vec::with_capacity(updates.len());
    for (stored, entry) in &updates {
        let (before, now) = (value(&stored.record), value(entry));
        let given_up = before != now && before.is_some_and(|before| wanted.contains(&before));
        if given_up {
            let free = stored.record.clone().with("unique_value", Value::Null)?;
            all.push(Write::update(stored.id, stored.version, free));
        }
        versions.push(stored.version + Version::from(given_up));
    }
    for ((stored, entry), version) in updates.into_iter().zip(versions) {
        all.push(Write::update(stored.id, version, entry));
    }
    Ok(())
}

/// Both, without flattening what was asked.
trait AndAll {
    fn and_all(self, other: Filter) -> Filter;
}
impl AndAll for Filter {
    fn and_all(self, other: Filter) -> Filter {
        Filter::And(vec![self, other])
    }
}

/// The attribute a condition is about, and a condition on the index that is true wherever this one is.
fn entries(condition: &Filter) -> Option<(&str, Filter)> {
    let key = |field: &'_ FieldRef| matches!((field.field.as_str(), field.path.len()), ("attributes", 1));
    let column = |value: &Value| match value {
        Value::Text(text) => Some(("text_value", Value::from(cut(text)))),
        Value::Bool(flag) => Some(("text_value", Value::from(flag.to_string()))),
        Value::Int(_) | Value::Float(_) => value.as_f64().map(|number| ("number_value", Value::from(number))),
        _ => None,
    };
    match condition {
        Filter::Is { field, op, value } if key(field) => {
            let (column, value) = column(value)?;
            // What was cut or rounded may be equal where the values are not.
            let op = match op {
                Compare::Lt => Compare::Le,
                Compare::Gt => Compare::Ge,
                Compare::Ne => return None,
                other => *other,
            };
            let filter = Filter::Is {
                field: column.into(),
                op,
                value,
            };
            Some((field.path.first()?, filter))
        }
        Filter::In { field, values } if key(field) => {
            let columns = values.iter().map(column).collect::<Option<Vec<_>>>()?;
            let any = columns
                .into_iter()
                .map(|(column, value)| Filter::eq(column, value))
                .collect();
            Some((field.path.first()?, Filter::Or(any)))
        }
        Filter::Prefix { field, text } if key(field) => {
            Some((field.path.first()?, Filter::prefix("text_value", cut(text))))
        }
        _ => None,
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
