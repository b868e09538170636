use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use crm_core::capability::RecordStore;
use crm_core::query::{Filter, Query};
use crm_core::record::{Field, FieldType, Index, Record, Schema, Stored, Write};
use crm_core::{Clock, Context, Error, ErrorKind, IdSource, Result, TenantId};
use serde::Deserialize as _;

use super::{Template, TemplateSource};

/// How a version of a template is stored. None is ever changed.
pub static TEMPLATE: Schema = Schema {
    name: "crm_template",
    fields: &[
        Field::new("name", FieldType::Text),
        Field::new("template_version", FieldType::Int),
        Field::new("source", FieldType::Json),
        Field::new("created_at", FieldType::Timestamp),
    ],
    indexes: &[Index::unique("crm_template_name", &["name", "template_version"])],
};

/// How many compiled templates are kept at hand.
const KEPT: usize = 256;

/// Templates kept in a store, in versions. Compiled ones are kept at hand; `clone` shares them.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use std::sync::Arc;
/// use crm_channels::{TEMPLATE, TemplateSource, Templates, Variables};
/// use crm_core::capability::RecordStore;
/// use crm_core::memory::MemoryStore;
/// use crm_core::{Context, RandomIds, SystemClock, TenantId};
///
/// let store: Arc<dyn RecordStore> = Arc::new(MemoryStore::new("records"));
/// store.migrate(&[&TEMPLATE]).await.unwrap();
/// let templates = Templates::new(store, SystemClock::shared(), RandomIds::shared());
/// let ctx = Context::new(TenantId::new("shop").unwrap());
/// let source: TemplateSource = serde_json::from_str(
///     r#"{"name": "shipped", "default_locale": "en", "variables": ["order"],
///         "sms": {"en": {"text": "Order {{ order }} is on its way."},
///                 "de": {"text": "Bestellung {{ order }} ist unterwegs."}}}"#,
/// ).unwrap();
/// templates.save(&ctx, &source).await.unwrap();
/// let shipped = templates.get(&ctx, "shipped", None).await.unwrap();
/// let text = shipped.sms("de-AT", &Variables::new().text("order", "4711")).unwrap();
/// assert_eq!((text.text.as_str(), text.segments().parts), ("Bestellung 4711 ist unterwegs.", 1));
/// # });
/// ```
#[derive(Clone)]
pub struct Templates {
    store: Arc<dyn RecordStore>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdSource>,
    compiled: Arc<Mutex<HashMap<Key, Template>>>,
}

/// Tenant, name and version.
type Key = (TenantId, String, i64);

impl Templates {
    /// The templates in `store`.
    pub fn new(store: Arc<dyn RecordStore>, clock: Arc<dyn Clock>, ids: Arc<dyn IdSource>) -> Self {
        Self {
            store,
            clock,
            ids,
            compiled: Arc::default(),
        }
    }

    /// Keeps a template: the first version of its name or the next one; the same source again is no new version.
    ///
    /// # Errors
    /// As [`Template::compile`]; [`ErrorKind::Invalid`] without a name; [`ErrorKind::Conflict`] when somebody saves it at
    /// the same moment; those of the store.
    pub async fn save(&self, ctx: &Context, source: &TemplateSource) -> Result<Template> {
        if source.name.trim().is_empty()
            || source.name.len() > 100
            || source.name.chars().any(char::is_control)
        {
            return Err(Error::invalid(
                "a template is named with 1 to 100 characters, none a control character",
            )
            .with("field", "name"));
        }
        Template::compile(source)?;
        let newest = self.newest(ctx, &source.name).await?;
        let version = match &newest {
            None => 1,
            Some(stored) => {
                let (version, known) = read(stored)?;
                if known == *source {
                    return Template::of_version(source, Some(version));
                }
                version + 1
            }
        };
        let json = serde_json::to_value(source)
            .map_err(|e| Error::unexpected("a template cannot be written as JSON").source(e))?;
        let record = Record::from_values(
            &TEMPLATE,
            vec![
                source.name.as_str().into(),
                version.into(),
                json.into(),
                self.clock.now().into(),
            ],
        )?;
        self.store
            .apply(ctx, &[Write::insert(self.ids.fresh(), record)])
            .await?;
        Template::of_version(source, Some(version))
    }

    /// A template, in this version or in the newest.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] naming the template; those of the store.
    pub async fn get(&self, ctx: &Context, name: &str, version: Option<i64>) -> Result<Template> {
        if let Some(version) = version
            && let Some(kept) = self.kept(ctx, name, version)
        {
            return Ok(kept);
        }
        let stored = match version {
            None => self.newest(ctx, name).await?,
            Some(version) => {
                let filter = Filter::eq("name", name).and(Filter::eq("template_version", version));
                self.first(ctx, Query::new(filter)).await?
            }
        };
        let stored = stored
            .ok_or_else(|| Error::new(ErrorKind::NotFound, "no such template").with("template", name))?;
        let (version, source) = read(&stored)?;
        if let Some(kept) = self.kept(ctx, name, version) {
            return Ok(kept);
        }
        let template = Template::of_version(&source, Some(version))?;
        let mut compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        if compiled.len() >= KEPT {
            compiled.clear();
        }
        compiled.insert((ctx.tenant().clone(), name.to_owned(), version), template.clone());
        Ok(template)
    }

    fn kept(&self, ctx: &Context, name: &str, version: i64) -> Option<Template> {
        let compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        compiled
            .get(&(ctx.tenant().clone(), name.to_owned(), version))
            .cloned()
    }

    async fn newest(&self, ctx: &Context, name: &str) -> Result<Option<Stored>> {
        let query = Query::new(Filter::eq("name", name)).descending("template_version");
        self.first(ctx, query).await
    }

    async fn first(&self, ctx: &Context, query: Query) -> Result<Option<Stored>> {
        let page = self.store.find(ctx, &TEMPLATE, &query.limit(1)).await?;
        Ok(page.items.into_iter().next())
    }
}

fn read(stored: &Stored) -> Result<(i64, TemplateSource)> {
    let r = &stored.record;
    let json = r
        .get("source")
        .and_then(|v| v.as_json())
        .ok_or_else(|| r.damaged("source"))?;
    let source = TemplateSource::deserialize(json).map_err(|_| r.damaged("source"))?;
    Ok((r.int("template_version")?, source))
}

impl fmt::Debug for Templates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Templates")
            .field("store", &self.store.info().name)
            .finish_non_exhaustive()
    }
}
