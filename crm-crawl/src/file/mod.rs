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

mod card;
mod csv;
mod decode;
pub(crate) mod document;
mod jsonl;
mod lines;
mod mail;
mod mapping;
mod rows;
mod stream;
mod table;
mod vcard;
mod watched;

pub use csv::{CsvCollector, CsvConfig};
pub use jsonl::{JsonlCollector, JsonlConfig};
pub use mail::{MailReading, MailRole, MaildirCollector, MaildirConfig, MboxCollector, MboxConfig};
pub use mapping::{ColumnMapping, Mapping};
pub use table::{TableCollector, TableConfig};
pub use vcard::{VcardCollector, VcardConfig};
pub use watched::{FOLDER_FILE, FileFormat, FolderCollector, FolderConfig, FolderRule};

/// The mapping of a CSV file: a [`Mapping`] by the names of columns.
pub type CsvMapping = Mapping;
