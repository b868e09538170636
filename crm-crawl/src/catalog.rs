//! Makes collectors from URLs.
//!
//! | URL | what |
//! |---|---|
//! | `csv:people.csv?name=shop&region=AU` | a delimited file; usual column names are recognised. Parameters: `name`, `region`, `currency`, `encoding`, `delimiter`, `date_format` (may be repeated), `map.<column>=<target>` (may be repeated) |
//! | `csv:config.json` | the same, as a written-down `CsvConfig` |
//! | `jsonl:people.jsonl?name=app` | JSON Lines. Parameters: `name`, `region`, `currency`, `encoding`, `date_format`, `map.<path>=<target>` |
//! | `vcard:contacts.vcf?name=phone` | vCards. Parameters: `name`, `region`, `encoding` |
//! | `mbox:sales.mbox?name=sales&own=@shop.example` | the headers of a mailbox. Parameters: `name`, `own` (may be repeated) |
//! | `maildir:Maildir?name=sales` | the headers of a maildir. Parameters as of `mbox:` |
//! | `jsonl:config.json`, `vcard:config.json`, `mbox:config.json`, `maildir:config.json` | the same, as a written-down `JsonlConfig`, `VcardConfig`, `MboxConfig` or `MaildirConfig` |
//! | `rest:api.json` | another system's interface, as a written-down `RestSpec` that needs no store (feature `crawl`) |
//! | `spider:site.yaml`, `spider:site.json` | a web spider, as a written-down `SpiderSpec` (feature `crawl`) |
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
use crate::file::{
    CsvCollector, CsvConfig, JsonlCollector, JsonlConfig, MailReading, MaildirCollector, MaildirConfig,
    Mapping, MboxCollector, MboxConfig, VcardCollector, VcardConfig,
};

/// Adds the collectors of this crate; one that was left out when compiling is noted with its feature.
pub fn register(catalog: &mut Catalog) {
    catalog.register::<dyn Collector, _, _>("csv", |url| async move {
        Ok(Arc::new(CsvCollector::new(csv(&url).await?)?) as Arc<dyn Collector>)
    });
    catalog.register::<dyn Collector, _, _>("jsonl", |url| async move {
        Ok(Arc::new(JsonlCollector::new(jsonl(&url).await?)?) as Arc<dyn Collector>)
    });
    catalog.register::<dyn Collector, _, _>("vcard", |url| async move {
        Ok(Arc::new(VcardCollector::new(vcard(&url).await?)?) as Arc<dyn Collector>)
    });
    catalog.register::<dyn Collector, _, _>("mbox", |url| async move {
        Ok(Arc::new(MboxCollector::new(mbox(&url).await?)?) as Arc<dyn Collector>)
    });
    catalog.register::<dyn Collector, _, _>("maildir", |url| async move {
        Ok(Arc::new(MaildirCollector::new(maildir(&url).await?)?) as Arc<dyn Collector>)
    });
    #[cfg(feature = "crawl")]
    catalog.register::<dyn Collector, _, _>("rest", |url| async move {
        let (path, settings) = split(&url, "rest:")?;
        if let Some((setting, _)) = settings.first() {
            return Err(
                Error::config("an interface takes its settings from its file").with("setting", setting)
            );
        }
        let spec: crate::rest::RestSpec = read(&path).await?;
        Ok(Arc::new(crate::rest::RestCollector::new(spec)?) as Arc<dyn Collector>)
    });
    catalog.absent::<dyn Collector>("rest", "crawl");
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

/// What a URL says: a written-down configuration, or a path with settings.
enum Said<T> {
    Whole(T),
    Parts(PathBuf, String, Vec<(String, String)>),
}

async fn said<T: DeserializeOwned>(
    url: &str,
    scheme: &'static str,
    place: fn(&mut T) -> &mut PathBuf,
) -> Result<Said<T>> {
    let (path, settings) = split(url, scheme)?;
    if path
        .extension()
        .and_then(|extension| extension.to_str())
        .is_some_and(|extension| {
            ["json", "yaml", "yml"]
                .iter()
                .any(|known| extension.eq_ignore_ascii_case(known))
        })
    {
        if let Some((setting, _)) = settings.first() {
            return Err(
                Error::config("a configuration file holds all settings; none may stand in the URL")
                    .with("setting", setting),
            );
        }
        let mut config: T = read(&path).await?;
        let file = place(&mut config);
        if let (true, Some(folder)) = (file.is_relative(), path.parent()) {
            *file = folder.join(&*file);
        }
        return Ok(Said::Whole(config));
    }
    let name = path
        .file_stem()
        .map(|stem| stem.to_string_lossy().into_owned())
        .unwrap_or_default();
    Ok(Said::Parts(path, name, settings))
}

fn unknown(scheme: &str, setting: &str, known: &str) -> Error {
    Error::config(format!("no setting of {scheme} has this name"))
        .with("setting", setting)
        .with("known", known)
}

async fn csv(url: &str) -> Result<CsvConfig> {
    let (path, name, settings) = match said(url, "csv:", |config: &mut CsvConfig| &mut config.path).await? {
        Said::Whole(config) => return Ok(config),
        Said::Parts(path, name, settings) => (path, name, settings),
    };
    let mut config = CsvConfig::new(path, name);
    let mut mapping = Mapping::new();
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
                    let known = "name, region, currency, encoding, delimiter, date_format, map.<column>";
                    return Err(unknown("csv:", other, known));
                }
            },
        }
    }
    if !formats.is_empty() {
        config.reading.date_formats = formats;
    }
    config.mapping = (!mapping.columns().is_empty()).then_some(mapping);
    Ok(config)
}

async fn jsonl(url: &str) -> Result<JsonlConfig> {
    let (path, name, settings) =
        match said(url, "jsonl:", |config: &mut JsonlConfig| &mut config.path).await? {
            Said::Whole(config) => return Ok(config),
            Said::Parts(path, name, settings) => (path, name, settings),
        };
    let mut config = JsonlConfig::new(path, name);
    let mut mapping = Mapping::new();
    let mut formats = Vec::new();
    for (setting, value) in settings {
        match setting.as_str() {
            "name" => config.name = value,
            "region" => config.reading.phone_region = Some(value),
            "currency" => config.reading.currency = Some(value),
            "encoding" => config.encoding = value,
            "date_format" => formats.push(value),
            other => match other.strip_prefix("map.") {
                Some(path) => mapping = mapping.column(path, value.parse()?),
                None => {
                    let known = "name, region, currency, encoding, date_format, map.<path>";
                    return Err(unknown("jsonl:", other, known));
                }
            },
        }
    }
    if !formats.is_empty() {
        config.reading.date_formats = formats;
    }
    config.mapping = (!mapping.columns().is_empty()).then_some(mapping);
    Ok(config)
}

async fn vcard(url: &str) -> Result<VcardConfig> {
    let (path, name, settings) =
        match said(url, "vcard:", |config: &mut VcardConfig| &mut config.path).await? {
            Said::Whole(config) => return Ok(config),
            Said::Parts(path, name, settings) => (path, name, settings),
        };
    let mut config = VcardConfig::new(path, name);
    for (setting, value) in settings {
        match setting.as_str() {
            "name" => config.name = value,
            "region" => config.reading.phone_region = Some(value),
            "encoding" => config.encoding = value,
            other => return Err(unknown("vcard:", other, "name, region, encoding")),
        }
    }
    Ok(config)
}

async fn mbox(url: &str) -> Result<MboxConfig> {
    let (path, name, settings) = match said(url, "mbox:", |config: &mut MboxConfig| &mut config.path).await? {
        Said::Whole(config) => return Ok(config),
        Said::Parts(path, name, settings) => (path, name, settings),
    };
    let mut config = MboxConfig::new(path, name);
    mail("mbox:", settings, &mut config.name, &mut config.mail)?;
    Ok(config)
}

async fn maildir(url: &str) -> Result<MaildirConfig> {
    let (path, name, settings) =
        match said(url, "maildir:", |config: &mut MaildirConfig| &mut config.path).await? {
            Said::Whole(config) => return Ok(config),
            Said::Parts(path, name, settings) => (path, name, settings),
        };
    let mut config = MaildirConfig::new(path, name);
    mail("maildir:", settings, &mut config.name, &mut config.mail)?;
    Ok(config)
}

fn mail(
    scheme: &str,
    settings: Vec<(String, String)>,
    name: &mut String,
    reading: &mut MailReading,
) -> Result<()> {
    for (setting, value) in settings {
        match setting.as_str() {
            "name" => *name = value,
            "own" => reading.own.push(value),
            other => return Err(unknown(scheme, other, "name, own")),
        }
    }
    Ok(())
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
    let text = std::str::from_utf8(&text)
        .map_err(|error| wrong("the configuration file is not UTF-8").source(error))?;
    crate::written::read(text).map_err(|error| error.with("setting", "path").with("path", path.display()))
}
