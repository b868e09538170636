//! Collectors of files.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! use crm_core::Provider;
//! use crm_crawl::file::{CsvCollector, CsvConfig, CsvMapping};
//! use crm_crawl::Target;
//!
//! let folder = tempfile::tempdir().unwrap();
//! let path = folder.path().join("export.csv");
//! std::fs::write(&path, "Kunde;Mail\n7;ana@example.com\n").unwrap();
//! let mut config = CsvConfig::new(&path, "erp");
//! config.mapping = Some(CsvMapping::new().column("Kunde", Target::External("erp".into())).column("Mail", Target::Email));
//! let collector = CsvCollector::new(config).unwrap();
//! assert!(collector.check().await.is_ok());
//! # });
//! ```

mod csv;
mod decode;
mod mapping;
mod rows;

pub use csv::{CsvCollector, CsvConfig};
pub use mapping::{ColumnMapping, CsvMapping};
