//! Makes collectors from URLs.
//!
//! | URL | what |
//! |---|---|
//! | `csv:people.csv?name=shop&region=AU` | a delimited file; usual column names are recognised. Parameters: `name`, `region`, `currency`, `encoding`, `delimiter`, `date_format` (may be repeated), `map.<column>=<target>` (may be repeated) |
//! | `csv:config.json` | the same, as a written-down `CsvConfig` |
//! | `spider:site.json` | a web spider, as a written-down `SpiderSpec` (feature `crawl`) |
//!
//! Paths are relative to the working directory, or absolute; a path in a configuration file counts from that file's
//! folder. Special characters are percent-encoded.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! use crm_core::capability::Collector;
//! use crm_core::registry::Catalog;
//!
//! let mut catalog = Catalog::new();
//! crm_crawl::catalog::register(&mut catalog);
//! let people = catalog.open::<dyn Collector>("csv:data/people.csv?name=shop&region=AU").await.unwrap();
//! assert_eq!(people.info().name, "shop");
//! let error = catalog.open::<dyn Collector>("csv:people.csv?regoin=AU").await.unwrap_err();
//! assert_eq!(error.context("setting"), Some("regoin"));
//! # });
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crm_core::capability::Collector;
use crm_core::registry::Catalog;
use crm_core::{Error, Result};
use serde::de::DeserializeOwned;

use crate::escape::unescape;
use crate::file::{CsvCollector, CsvConfig, CsvMapping};

/// Adds the collectors of this crate; one that was left out when compiling is noted with its feature.
pub fn register(catalog: &mut Catalog) {
    catalog.register::<dyn Collector, _, _>("csv", |url| async move {
        Ok(Arc::new(CsvCollector::new(csv(&url).await?)?) as Arc<dyn Collector>)
    });
    #[cfg(feature = "crawl")]
    catalog.register::<dyn Collector, _, _>("spider", |url| async move {
        let (path, settings) = split(&url, "spider:")?;
        if let Some((setting, _)) = settings.first() {
            return Err(Error::config("a spider takes its settings from its file").with("setting", setting));
        }
        let spec: crate::spider::SpiderSpec = read(&path).await?;
        Ok(Arc::new(crate::spider::WebCollector::from_spec(&spec)?) as Arc<dyn Collector>)
    });
    catalog.absent::<dyn Collector>("spider", "crawl");
}

async fn csv(url: &str) -> Result<CsvConfig> {
    let (path, settings) = split(url, "csv:")?;
    if path
        .extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("json"))
    {
        if let Some((setting, _)) = settings.first() {
            return Err(
                Error::config("a configuration file holds all settings; none may stand in the URL")
                    .with("setting", setting),
            );
        }
        let mut config: CsvConfig = read(&path).await?;
        if let (true, Some(folder)) = (config.path.is_relative(), path.parent()) {
            config.path = folder.join(&config.path);
        }
        return Ok(config);
    }
    let name = path
        .file_stem()
        .map(|stem| stem.to_string_lossy().into_owned())
        .unwrap_or_default();
    let mut config = CsvConfig::new(path, name);
    let mut mapping = CsvMapping::new();
    let mut formats = Vec::new();
    for (setting, value) in settings {
        match setting.as_str() {
            "name" => config.name = value,
            "region" => config.reading.phone_region = Some(value),
            "currency" => config.reading.currency = Some(value),
            "encoding" => config.encoding = value,
            "date_format" => formats.push(value),
            "delimiter" => match *value.as_bytes() {
                [one] => config.delimiter = Some(one),
                _ if value == "tab" => config.delimiter = Some(b'\t'),
                _ => {
                    return Err(
                        Error::config("the delimiter is one ASCII character, or the word tab")
                            .with("setting", "delimiter"),
                    );
                }
            },
            other => match other.strip_prefix("map.") {
                Some(column) => mapping = mapping.column(column, value.parse()?),
                None => {
                    return Err(Error::config("no setting of csv: has this name")
                        .with("setting", other)
                        .with(
                            "known",
                            "name, region, currency, encoding, delimiter, date_format, map.<column>",
                        ));
                }
            },
        }
    }
    if !formats.is_empty() {
        config.reading.date_formats = formats;
    }
    if !mapping.columns().is_empty() {
        config.mapping = Some(mapping);
    }
    Ok(config)
}

/// The path and the parameters of `scheme:path?a=b`.
fn split(url: &str, scheme: &'static str) -> Result<(PathBuf, Vec<(String, String)>)> {
    let rest = url.strip_prefix(scheme).unwrap_or(url);
    let rest = rest.strip_prefix("//").unwrap_or(rest);
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let path = unescape(path);
    if path.is_empty() {
        return Err(
            Error::config("the URL names no file; write it as csv:people.csv").with("setting", "path")
        );
    }
    let settings = url::form_urlencoded::parse(query.as_bytes());
    Ok((
        PathBuf::from(path),
        settings
            .map(|(name, value)| (name.into_owned(), value.into_owned()))
            .collect(),
    ))
}

async fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let wrong = |message: &'static str| {
        Error::config(message)
            .with("setting", "path")
            .with("path", path.display())
    };
    let text = tokio::fs::read(path)
        .await
        .map_err(|error| wrong("the configuration file cannot be read").source(error))?;
    serde_json::from_slice(&text)
        .map_err(|error| wrong("the configuration file is not what it should be").with("reason", &error))
}
