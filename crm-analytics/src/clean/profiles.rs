//! Profiles of the store as rows to clean, each with the version that was looked at.

use std::collections::HashMap;
use std::fmt;

use crm_core::capability::{ProfileField, RecordStore};
use crm_core::customer::CUSTOMER;
use crm_core::query::{Filter, Query};
use crm_core::record::{FieldType, Value, Version};
use crm_core::segment;
use crm_core::{Column, Context, CustomerId, Error, Result, Table, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::type_name;
use crate::privacy::{Audience, AudienceReport};

/// Records of one page.
const PAGE: u32 = 1_000;

/// A field of the profile, and as what it is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProfileColumn {
    /// The field.
    pub field: ProfileField,
    /// The column's type: text for names and parts of the address; text, float, int or bool for attributes. Read as text, an
    /// attribute that is a number or a flag is written out.
    #[serde(rename = "type")]
    pub ty: FieldType,
}

/// Which fields of whose profiles are cleaned. Plain data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProfilePlan {
    /// The columns, named after their fields.
    pub columns: Vec<ProfileColumn>,
    /// Whose.
    pub customers: Filter,
}

impl ProfilePlan {
    /// These fields of everybody, all as text: `given_name`, `city`, `attributes.plan`.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Invalid`] naming a field that cannot be changed in bulk.
    pub fn text<'a>(fields: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let mut plan = Self {
            columns: Vec::new(),
            customers: Filter::All,
        };
        for field in fields {
            plan = plan.column(field, FieldType::Text)?;
        }
        Ok(plan)
    }

    /// Adds a field read as another type.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Invalid`] naming a field that cannot be changed in bulk, or not be read so.
    pub fn column(mut self, field: &str, ty: FieldType) -> Result<Self> {
        let field: ProfileField = field.parse()?;
        let fits = match field {
            ProfileField::Attribute(_) => {
                matches!(
                    ty,
                    FieldType::Text | FieldType::Float | FieldType::Int | FieldType::Bool
                )
            }
            _ => ty == FieldType::Text,
        };
        if !fits {
            return Err(Error::invalid("the field cannot be read as this type")
                .with("field", field)
                .with("type", type_name(ty)));
        }
        self.columns.push(ProfileColumn { field, ty });
        Ok(self)
    }

    /// Only these customers.
    #[must_use]
    pub fn customers(mut self, filter: Filter) -> Self {
        self.customers = filter;
        self
    }

    /// Reads the profiles into memory: about 100 bytes a customer and as much as the values take. Time gone by in the
    /// filter is counted back from `now`; with an audience, those who may not be looked at are left out and counted.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Invalid`] naming customer and field when an attribute is not of the type it is read as (read
    /// it as text and cast it); those of [`segment::resolve`] and of the store.
    pub async fn read(
        &self,
        ctx: &Context,
        store: &dyn RecordStore,
        now: Timestamp,
        audience: Option<&Audience>,
    ) -> Result<Profiles> {
        self.rows(ctx, store, now, audience)
            .await
            .map_err(|error| error.operation("profiles.read"))
    }

    async fn rows(
        &self,
        ctx: &Context,
        store: &dyn RecordStore,
        now: Timestamp,
        audience: Option<&Audience>,
    ) -> Result<Profiles> {
        let mut columns = self
            .columns
            .iter()
            .map(|column| Column::empty(column.field.to_string(), column.ty))
            .collect::<Result<Vec<_>>>()?;
        let mut profiles = Profiles {
            fields: self.columns.iter().map(|column| column.field.clone()).collect(),
            ids: Vec::new(),
            versions: Vec::new(),
            table: Table::default(),
            audience: audience.map(Audience::report),
            written_out: HashMap::new(),
        };
        let filter = segment::resolve(store, ctx, now, &self.customers).await?;
        let mut query = Query::new(filter).limit(PAGE);
        loop {
            let page = store.find(ctx, &CUSTOMER, &query).await?;
            for stored in page.items {
                let customer: CustomerId = stored.id.into();
                if let (Some(audience), Some(report)) = (audience, &mut profiles.audience)
                    && !audience.judge(customer, report)
                {
                    continue;
                }
                for (at, (wanted, column)) in self.columns.iter().zip(&mut columns).enumerate() {
                    let json = wanted.field.read(&stored.record)?;
                    if wanted.ty == FieldType::Text && !matches!(json, Json::Null | Json::String(_)) {
                        profiles
                            .written_out
                            .insert((profiles.ids.len(), at), json.clone());
                    }
                    let value = typed(json, wanted.ty).ok_or_else(|| {
                        Error::invalid(
                            "an attribute has a value of another type; read it as text and cast it",
                        )
                        .with("field", &wanted.field)
                        .with("type", type_name(wanted.ty))
                        .with("customer_id", customer)
                    })?;
                    column.push(value)?;
                }
                profiles.ids.push(customer);
                profiles.versions.push(stored.version);
            }
            match page.next {
                Some(next) => query.after = Some(next),
                None => break,
            }
        }
        profiles.table = Table::new(columns)?;
        Ok(profiles)
    }
}

/// A JSON value as a value of a column; `None` when it is of another type.
fn typed(json: Json, ty: FieldType) -> Option<Value> {
    Some(match (ty, json) {
        (_, Json::Null) => Value::Null,
        (FieldType::Text, Json::String(text)) => Value::Text(text),
        (FieldType::Text, shown @ (Json::Number(_) | Json::Bool(_))) => Value::Text(shown.to_string()),
        (FieldType::Float, Json::Number(number)) => Value::Float(number.as_f64()?),
        (FieldType::Int, Json::Number(number)) => Value::Int(number.as_i64()?),
        (FieldType::Bool, Json::Bool(flag)) => Value::Bool(flag),
        _ => return None,
    })
}

/// Profiles that were read. `Debug` shows no values.
#[derive(Clone, PartialEq)]
pub struct Profiles {
    pub(super) fields: Vec<ProfileField>,
    pub(super) ids: Vec<CustomerId>,
    pub(super) versions: Vec<Version>,
    pub(super) table: Table,
    pub(super) audience: Option<AudienceReport>,
    /// What was written out as text, by row and column: a number that is read as a number again is no change.
    pub(super) written_out: HashMap<(usize, usize), Json>,
}

impl Profiles {
    /// The rows: what a plan is fitted on.
    pub fn table(&self) -> &Table {
        &self.table
    }
    /// Whose rows they are.
    pub fn ids(&self) -> &[CustomerId] {
        &self.ids
    }
    /// Who was let in and who was not, when it was asked for.
    pub fn audience(&self) -> Option<&AudienceReport> {
        self.audience.as_ref()
    }
}

impl fmt::Debug for Profiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Profiles")
            .field("fields", &self.fields)
            .field("rows", &self.ids.len())
            .finish_non_exhaustive()
    }
}
