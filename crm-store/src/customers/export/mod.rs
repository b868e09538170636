//! What is stored, written out: CSV for spreadsheets, vCards for address books, and an archive that holds everything.

mod archive;
pub(super) mod csv;
mod restore;
pub(super) mod vcard;

use std::collections::BTreeMap;
use std::io;

use crm_core::customer::Customer;
use crm_core::query::{Filter, Query};
use crm_core::record::Schema;
use crm_core::{Context, Error, ErrorKind, Result, Table};

pub use restore::{ArchiveOptions, ArchiveReport, OnExisting};

use super::Customers;

/// How customers are written out.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A row a customer (RFC 4180): name, contact points, main postal address, references, tags and attributes, under
    /// headings that `CsvCollector` of crm-crawl reads back. Formulas are guarded ([`crm_core::cell`]).
    Csv,
    /// The archive: every record there is about the customers, a line each, with consent and suppressions.
    /// [`Customers::import_archive`] reads it back without loss. Described in `docs/export.md`.
    Jsonl,
    /// A vCard 4.0 a customer (RFC 6350): what CSV holds, and all postal addresses.
    Vcard,
}

type OnProgress = Box<dyn FnMut(u64) + Send>;

/// Settings of an export.
pub struct ExportOptions {
    bom: bool,
    delimiter: u8,
    page: u32,
    also: Vec<&'static Schema>,
    progress: Option<OnProgress>,
}

impl Default for ExportOptions {
    fn default() -> Self {
        Self {
            bom: false,
            delimiter: b',',
            page: 1000,
            also: Vec::new(),
            progress: None,
        }
    }
}

impl ExportOptions {
    /// Begins CSV with a UTF-8 byte order mark, by which spreadsheets recognise the encoding.
    #[must_use]
    pub fn with_bom(mut self) -> Self {
        self.bom = true;
        self
    }
    /// What stands between the columns of CSV: `,` (unless set), `;`, tab or `|`.
    #[must_use]
    pub fn delimiter(mut self, delimiter: char) -> Self {
        self.delimiter = u8::try_from(delimiter).unwrap_or(0);
        self
    }
    /// How many customers or records are held in memory at once (1 to 10,000); 1,000 unless set.
    #[must_use]
    pub fn page(mut self, records: u32) -> Self {
        self.page = records;
        self
    }
    /// Puts records of these kinds into an archive too: those of other crates and of the host.
    #[must_use]
    pub fn also(mut self, schemas: &[&'static Schema]) -> Self {
        self.also.extend(schemas);
        self
    }
    /// Called after each page with the number of customers (in an archive: records) written so far.
    #[must_use]
    pub fn on_progress(mut self, progress: impl FnMut(u64) + Send + 'static) -> Self {
        self.progress = Some(Box::new(progress));
        self
    }

    fn tell(&mut self, written: u64) {
        if let Some(progress) = &mut self.progress {
            progress(written);
        }
    }

    fn validate(&self) -> Result<()> {
        if !(1..=10_000).contains(&self.page) {
            return Err(Error::invalid("a page has 1 to 10,000 records").with("field", "page"));
        }
        if !b",;\t|".contains(&self.delimiter) {
            return Err(
                Error::invalid("the delimiter is a comma, a semicolon, a tab or a bar")
                    .with("field", "delimiter"),
            );
        }
        Ok(())
    }
}

impl std::fmt::Debug for ExportOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExportOptions")
            .field("bom", &self.bom)
            .field("page", &self.page)
            .finish_non_exhaustive()
    }
}

/// What was written.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExportReport {
    /// Customers written.
    pub customers: u64,
    /// Records of each kind written, by schema; archives only.
    pub records: BTreeMap<String, u64>,
    /// Postal addresses beyond the main one, for which CSV has no place.
    pub addresses_left_out: u64,
    /// Bytes written.
    pub bytes: u64,
}

impl Customers {
    /// Writes the customers that match, by id, a page at a time. CSV and vCard hold profiles; the archive
    /// ([`Format::Jsonl`]) holds every record about them, and without a filter every record of the tenant (imports and
    /// their journals apart). CSV reads the customers twice, first to learn which columns there are. What is changed
    /// meanwhile is written in one state or the other.
    ///
    /// `into` is written from within the call, a page at a time: hand in a file or a pipe that does not block for long.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// use std::sync::Arc;
    /// use crm_core::customer::{Draft, Provenance};
    /// use crm_core::memory::MemoryStore;
    /// use crm_core::query::Filter;
    /// use crm_core::{Context, RandomIds, SystemClock, TenantId, Timestamp};
    /// use crm_store::customers::{Customers, ExportOptions, Format};
    ///
    /// let desk = || Customers::new(Arc::new(MemoryStore::new("m")), SystemClock::shared(), RandomIds::shared());
    /// let (here, there) = (desk(), desk());
    /// let ctx = Context::new(TenantId::new("shop").unwrap());
    /// let mut ana = Draft::new(Provenance::new("shop", Timestamp::EPOCH));
    /// ana.emails.push("ana@example.com".into());
    /// here.upsert(&ctx, ana).await.unwrap();
    ///
    /// let mut file = Vec::new();
    /// let report = here.export(&ctx, &Filter::All, Format::Jsonl, &mut file, ExportOptions::default()).await.unwrap();
    /// assert_eq!((report.customers, report.records["crm_contact_point"]), (1, 1));
    /// there.import_archive(&ctx, &mut file.as_slice(), Default::default()).await.unwrap();
    /// assert_eq!(there.count(&ctx, &Filter::All).await.unwrap(), 1);
    /// # });
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] naming a wrong setting or field of the filter; [`ErrorKind::Unavailable`] when `into`
    /// cannot be written; the store's.
    pub async fn export(
        &self,
        ctx: &Context,
        filter: &Filter,
        format: Format,
        into: &mut (dyn io::Write + Send),
        mut options: ExportOptions,
    ) -> Result<ExportReport> {
        let named = |error: Error| error.operation("customers.export");
        options.validate().map_err(named)?;
        self.prepare().await.map_err(named)?;
        // Once: the whole export is as of one moment, and of one set of segments.
        let filter = &self.resolve_filter(ctx, filter).await.map_err(named)?;
        let mut out = Counted { into, bytes: 0 };
        let done = match format {
            Format::Csv => self.export_csv(ctx, filter, &mut out, &mut options).await,
            Format::Jsonl => self.export_archive(ctx, filter, &mut out, &mut options).await,
            Format::Vcard => self.export_vcards(ctx, filter, &mut out, &mut options).await,
        };
        let mut report = done.map_err(named)?;
        io::Write::flush(&mut out).map_err(|error| named(unwritten(error)))?;
        report.bytes = out.bytes;
        Ok(report)
    }

    /// The customers that match as tables, a page each, all with the columns of [`Format::Csv`]: for files of columns such
    /// as Parquet, which `TableCollector` of crm-crawl reads back. Attributes that are whole numbers, numbers or true and
    /// false are columns of that type; everything else is text, and what is empty is absent. `take` is called at least
    /// once, with no rows when nobody matches. Reads the customers twice, first to learn which columns there are.
    ///
    /// # Errors
    /// As [`Customers::export`]; those of `take`.
    pub async fn export_tables(
        &self,
        ctx: &Context,
        filter: &Filter,
        mut options: ExportOptions,
        take: &mut (dyn FnMut(Table) -> Result<()> + Send),
    ) -> Result<ExportReport> {
        let named = |error: Error| error.operation("customers.export_tables");
        options.validate().map_err(named)?;
        self.prepare().await.map_err(named)?;
        let filter = &self.resolve_filter(ctx, filter).await.map_err(named)?;
        let columns = self.columns(ctx, filter, &options).await.map_err(named)?;
        let mut report = ExportReport::default();
        self.pages(ctx, filter, options.page, &mut |some| {
            take(columns.table(some)?)?;
            for customer in some {
                report.addresses_left_out += customer.addresses.len().saturating_sub(1) as u64;
            }
            report.customers += some.len() as u64;
            options.tell(report.customers);
            Ok(())
        })
        .await
        .map_err(named)?;
        Ok(report)
    }

    /// Which columns the customers that match need.
    async fn columns(&self, ctx: &Context, filter: &Filter, options: &ExportOptions) -> Result<csv::Columns> {
        let mut columns = csv::Columns::default();
        self.pages(ctx, filter, options.page, &mut |some| {
            some.iter().for_each(|customer| columns.learn(customer));
            Ok(())
        })
        .await?;
        Ok(columns)
    }

    /// Customers that match, a page at a time, by id.
    async fn pages(
        &self,
        ctx: &Context,
        filter: &Filter,
        page: u32,
        take: &mut (dyn FnMut(&[Customer]) -> Result<()> + Send),
    ) -> Result<()> {
        let mut query = Query::new(filter.clone()).limit(page);
        loop {
            ctx.check(&*self.clock)?;
            let found = self.find(ctx, &query).await?;
            take(&found.items)?;
            match found.next {
                None => return Ok(()),
                next => query.after = next,
            }
        }
    }

    async fn export_csv(
        &self,
        ctx: &Context,
        filter: &Filter,
        out: &mut Counted<'_>,
        options: &mut ExportOptions,
    ) -> Result<ExportReport> {
        let columns = self.columns(ctx, filter, options).await?;
        let mut report = ExportReport::default();
        let mut buffer = Vec::new();
        if options.bom {
            buffer.extend_from_slice("\u{feff}".as_bytes());
        }
        columns.head(&mut buffer, options.delimiter).map_err(unwritten)?;
        self.pages(ctx, filter, options.page, &mut |some| {
            for customer in some {
                columns
                    .row(&mut buffer, customer, options.delimiter)
                    .map_err(unwritten)?;
                report.addresses_left_out += customer.addresses.len().saturating_sub(1) as u64;
            }
            out.take(&mut buffer)?;
            report.customers += some.len() as u64;
            options.tell(report.customers);
            Ok(())
        })
        .await?;
        Ok(report)
    }

    async fn export_vcards(
        &self,
        ctx: &Context,
        filter: &Filter,
        out: &mut Counted<'_>,
        options: &mut ExportOptions,
    ) -> Result<ExportReport> {
        let mut report = ExportReport::default();
        let mut buffer = Vec::new();
        self.pages(ctx, filter, options.page, &mut |some| {
            for customer in some {
                vcard::card(&mut buffer, customer).map_err(unwritten)?;
            }
            out.take(&mut buffer)?;
            report.customers += some.len() as u64;
            options.tell(report.customers);
            Ok(())
        })
        .await?;
        Ok(report)
    }
}

fn unwritten(error: io::Error) -> Error {
    Error::new(ErrorKind::Unavailable, "the output cannot be written").source(error)
}

/// Counts what is written.
struct Counted<'a> {
    into: &'a mut (dyn io::Write + Send),
    bytes: u64,
}

impl Counted<'_> {
    /// Writes the buffer and empties it.
    fn take(&mut self, buffer: &mut Vec<u8>) -> Result<()> {
        io::Write::write_all(self, buffer).map_err(unwritten)?;
        buffer.clear();
        Ok(())
    }
}

impl io::Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.into.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.into.flush()
    }
}
