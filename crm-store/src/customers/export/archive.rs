//! The archive: a first line that says what it is, a line a record, a last line that says how much there was.

use std::collections::BTreeSet;

use crm_core::customer::CUSTOMER;
use crm_core::query::{Filter, Query};
use crm_core::record::{Privacy, Schema, Stored};
use crm_core::{Context, Error, Result, Uuid};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use sha2::{Digest, Sha256};

use super::super::{Customers, IMPORT_JOB, IMPORT_REJECT, IMPORT_ROW, SCHEMAS, plain};
use super::{Counted, ExportOptions, ExportReport};

/// The version of the format; a reader refuses a newer one.
pub(super) const VERSION: u32 = 1;
/// What the first line says the file is.
pub(super) const WHAT: &str = "archive";
/// Customers whose records are asked for at once.
const OWNERS: usize = 500;

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) open_crm: String,
    pub(super) version: u32,
    pub(super) tenant: String,
    pub(super) made_at: String,
    /// Every record of the tenant, or those of some customers.
    pub(super) whole: bool,
    pub(super) schemas: Vec<String>,
}

/// One record.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Line {
    pub(super) schema: String,
    pub(super) id: Uuid,
    pub(super) version: i64,
    pub(super) values: Json,
}

/// The last line. `sha256` is over every byte before it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct End {
    pub(super) end: bool,
    pub(super) records: u64,
    pub(super) sha256: String,
}

/// The kinds of records an archive holds: all but imports, which belong to the store they ran on.
pub(super) fn kinds(also: &[&'static Schema]) -> Vec<&'static Schema> {
    let left_out = [IMPORT_JOB.name, IMPORT_REJECT.name, IMPORT_ROW.name];
    let mut names = BTreeSet::new();
    SCHEMAS
        .iter()
        .chain(also)
        .copied()
        .filter(|schema| !left_out.contains(&schema.name) && names.insert(schema.name))
        .collect()
}

struct Writing<'a, 'b> {
    out: &'a mut Counted<'b>,
    hash: Sha256,
    buffer: Vec<u8>,
    report: ExportReport,
    records: u64,
    options: &'a mut ExportOptions,
}

impl Writing<'_, '_> {
    fn json<T: Serialize>(&mut self, line: &T) -> Result<()> {
        serde_json::to_writer(&mut self.buffer, line)
            .map_err(|e| Error::unexpected("a record as JSON").source(e))?;
        self.buffer.push(b'\n');
        Ok(())
    }

    fn records(&mut self, schema: &'static Schema, page: &[Stored]) -> Result<()> {
        for stored in page {
            self.json(&Line {
                schema: schema.name.to_owned(),
                id: stored.id,
                version: stored.version,
                values: plain::values(&stored.record)?,
            })?;
        }
        *self.report.records.entry(schema.name.to_owned()).or_default() += page.len() as u64;
        self.records += page.len() as u64;
        if schema.name == CUSTOMER.name {
            self.report.customers += page.len() as u64;
        }
        self.write()?;
        self.options.tell(self.records);
        Ok(())
    }

    fn write(&mut self) -> Result<()> {
        self.hash.update(&self.buffer);
        self.out.take(&mut self.buffer)
    }
}

impl Customers {
    pub(super) async fn export_archive(
        &self,
        ctx: &Context,
        filter: &Filter,
        out: &mut Counted<'_>,
        options: &mut ExportOptions,
    ) -> Result<ExportReport> {
        let kinds = kinds(&options.also);
        self.store.migrate(&kinds).await?;
        let whole = *filter == Filter::All;
        let page = options.page;
        let mut writing = Writing {
            out,
            hash: Sha256::new(),
            buffer: Vec::new(),
            report: ExportReport::default(),
            records: 0,
            options,
        };
        writing.json(&Head {
            open_crm: WHAT.to_owned(),
            version: VERSION,
            tenant: ctx.tenant().to_string(),
            made_at: self.clock.now().to_string(),
            whole,
            schemas: kinds.iter().map(|schema| schema.name.to_owned()).collect(),
        })?;
        if whole {
            for schema in kinds {
                self.copy_out(ctx, schema, Filter::All, page, &mut writing)
                    .await?;
            }
        } else {
            self.copy_some(ctx, filter, &kinds, page, &mut writing).await?;
        }
        let end = End {
            end: true,
            records: writing.records,
            sha256: plain::hex(&writing.hash.clone().finalize()),
        };
        writing.json(&end)?;
        writing.write()?;
        Ok(writing.report)
    }

    /// Customers that match and what belongs to them, some at a time. What belongs to nobody in particular (segments,
    /// suppressions) is written whole, unless it says something about people.
    async fn copy_some(
        &self,
        ctx: &Context,
        filter: &Filter,
        kinds: &[&'static Schema],
        page: u32,
        writing: &mut Writing<'_, '_>,
    ) -> Result<()> {
        let owned = |schema: &Schema| schema.field("customer_id").is_some();
        let personal = |schema: &Schema| {
            schema
                .fields
                .iter()
                .any(|field| field.privacy == Privacy::Personal)
        };
        for schema in kinds {
            if !owned(schema) && !personal(schema) {
                self.copy_out(ctx, schema, Filter::All, page, writing).await?;
            }
        }
        let mut query = Query::new(filter.clone()).limit(page);
        loop {
            let found = self.store.find(ctx, &CUSTOMER, &query).await?;
            writing.records(&CUSTOMER, &found.items)?;
            for some in found.items.chunks(OWNERS) {
                let ids: Vec<Uuid> = some.iter().map(|stored| stored.id).collect();
                for schema in kinds.iter().filter(|schema| owned(schema)) {
                    let theirs = Filter::one_of("customer_id", ids.iter().copied());
                    self.copy_out(ctx, schema, theirs, page, writing).await?;
                }
            }
            match found.next {
                None => return Ok(()),
                next => query.after = next,
            }
        }
    }

    async fn copy_out(
        &self,
        ctx: &Context,
        schema: &'static Schema,
        filter: Filter,
        page: u32,
        writing: &mut Writing<'_, '_>,
    ) -> Result<()> {
        let mut query = Query::new(filter).limit(page);
        loop {
            ctx.check(&*self.clock)?;
            let found = self.store.find(ctx, schema, &query).await?;
            writing.records(schema, &found.items)?;
            match found.next {
                None => return Ok(()),
                next => query.after = next,
            }
        }
    }
}
