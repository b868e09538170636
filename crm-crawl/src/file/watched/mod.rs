//! A folder where files arrive.

mod collector;
mod found;
mod ledger;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crm_core::capability::Collector;
use crm_core::{Clock, Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use super::{
    CsvCollector, CsvConfig, JsonlCollector, JsonlConfig, MboxCollector, MboxConfig, VcardCollector,
    VcardConfig,
};

pub use collector::FolderCollector;
pub use ledger::FOLDER_FILE;

/// How a file is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FileFormat {
    /// [`CsvConfig`].
    Csv,
    /// [`JsonlConfig`].
    Jsonl,
    /// [`VcardConfig`].
    Vcard,
    /// [`MboxConfig`].
    Mbox,
}

/// Which files of a folder are read how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FolderRule {
    /// Names of files: `*` stands for anything, `?` for one character; case of ASCII letters does not count.
    pub pattern: String,
    /// How they are read.
    pub format: FileFormat,
    /// The settings of the format, as its configuration has them, without `path` and `name`.
    #[serde(default)]
    pub settings: Map<String, Json>,
}

/// Which folder, and how the files in it are read.
///
/// ```
/// use crm_crawl::file::FolderConfig;
///
/// let config: FolderConfig = serde_json::from_str(
///     r#"{"path": "inbox", "name": "erp", "settle": 30,
///         "files": [{"pattern": "orders-*.csv", "format": "csv",
///                    "settings": {"delimiter": ";", "mapping": [{"column": "Mail", "target": "email"}]}},
///                   {"pattern": "*.vcf", "format": "vcard"}]}"#,
/// )
/// .unwrap();
/// assert!(config.validate().is_ok());
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FolderConfig {
    /// The folder. Whoever may write into it decides what is imported.
    pub path: PathBuf,
    /// The collector's name and the source in the drafts' provenance.
    pub name: String,
    /// What is read how; the first rule that fits a name counts. Other files stay where they are.
    pub files: Vec<FolderRule>,
    /// A file counts when its size and time have not changed for this many seconds. 10.
    #[serde(default = "ten")]
    pub settle: f64,
    /// A file counts only when one of its name with this ending stands beside it, written when it was complete: `.done`
    /// for `orders.csv.done`. It goes with the file.
    #[serde(default)]
    pub marker: Option<String>,
    /// Where files go that were read; on the same file system. `done` in the folder.
    #[serde(default)]
    pub done: Option<PathBuf>,
    /// Where files go that could not be read. `failed` in the folder.
    #[serde(default)]
    pub failed: Option<PathBuf>,
}

fn ten() -> f64 {
    10.0
}

impl FolderConfig {
    /// The folder at `path`, its source named `name`; says how files are read with [`FolderConfig::rule`].
    pub fn new(path: impl Into<PathBuf>, name: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            name: name.into(),
            files: Vec::new(),
            settle: ten(),
            marker: None,
            done: None,
            failed: None,
        }
    }

    /// Reads files of these names in this format, with its own defaults.
    #[must_use]
    pub fn rule(mut self, pattern: impl Into<String>, format: FileFormat) -> Self {
        self.files.push(FolderRule {
            pattern: pattern.into(),
            format,
            settings: Map::new(),
        });
        self
    }

    /// Checks every setting, those of the formats too.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Config`] naming the setting.
    pub fn validate(&self) -> Result<()> {
        let wrong = |setting: &'static str, message: &'static str| {
            Err(Error::config(message).with("setting", setting))
        };
        if self.name.trim().is_empty() {
            return wrong("name", "a collector has a name");
        }
        if self.files.is_empty() {
            return wrong("files", "at least one rule says which files are read");
        }
        if !(0.0..=86_400.0).contains(&self.settle) {
            return wrong("settle", "a file settles in 0 to 86,400 seconds");
        }
        if self
            .marker
            .as_ref()
            .is_some_and(|marker| marker.is_empty() || marker.contains('/'))
        {
            return wrong("marker", "a marker is an ending of a file's name such as .done");
        }
        for rule in &self.files {
            if rule.pattern.is_empty() || rule.pattern.contains('/') {
                return wrong(
                    "pattern",
                    "a pattern is a file's name with * and ?, without folders",
                );
            }
            self.collector(rule, Path::new("file"), None)
                .map_err(|error| error.with("pattern", &rule.pattern))?;
        }
        Ok(())
    }

    fn rule_of(&self, name: &str) -> Option<&FolderRule> {
        self.files.iter().find(|rule| fits(&rule.pattern, name))
    }

    /// A collector of one file.
    fn collector(
        &self,
        rule: &FolderRule,
        path: &Path,
        clock: Option<&Arc<dyn Clock>>,
    ) -> Result<Arc<dyn Collector>> {
        for taken in ["path", "name"] {
            if rule.settings.contains_key(taken) {
                return Err(
                    Error::config("the folder says this; leave it out of the settings of a format")
                        .with("setting", taken),
                );
            }
        }
        let mut settings = rule.settings.clone();
        settings.insert("path".into(), path.to_string_lossy().into());
        settings.insert("name".into(), self.name.as_str().into());
        let settings = Json::Object(settings);
        let read = |error: serde_json::Error| {
            Error::config("the settings of a format are not what they should be")
                .with("setting", "settings")
                .with("reason", error)
        };
        Ok(match rule.format {
            FileFormat::Csv => {
                let mut config: CsvConfig = serde_json::from_value(settings).map_err(read)?;
                path.clone_into(&mut config.path);
                let collector = CsvCollector::new(config)?;
                match clock {
                    Some(clock) => Arc::new(collector.with_clock(clock.clone())),
                    None => Arc::new(collector),
                }
            }
            FileFormat::Jsonl => {
                let mut config: JsonlConfig = serde_json::from_value(settings).map_err(read)?;
                path.clone_into(&mut config.path);
                let collector = JsonlCollector::new(config)?;
                match clock {
                    Some(clock) => Arc::new(collector.with_clock(clock.clone())),
                    None => Arc::new(collector),
                }
            }
            FileFormat::Vcard => {
                let mut config: VcardConfig = serde_json::from_value(settings).map_err(read)?;
                path.clone_into(&mut config.path);
                let collector = VcardCollector::new(config)?;
                match clock {
                    Some(clock) => Arc::new(collector.with_clock(clock.clone())),
                    None => Arc::new(collector),
                }
            }
            FileFormat::Mbox => {
                let mut config: MboxConfig = serde_json::from_value(settings).map_err(read)?;
                path.clone_into(&mut config.path);
                let collector = MboxCollector::new(config)?;
                match clock {
                    Some(clock) => Arc::new(collector.with_clock(clock.clone())),
                    None => Arc::new(collector),
                }
            }
        })
    }
}

/// Whether a name fits a pattern of `*` and `?`; in time that grows with the product of both at most.
fn fits(pattern: &str, name: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while let Some(c) = name.get(n) {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some('?') => (p, n) = (p + 1, n + 1),
            Some(wanted) if wanted.eq_ignore_ascii_case(c) => (p, n) = (p + 1, n + 1),
            // The last star takes one more.
            _ => match star {
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    (p, n) = (at + 1, taken + 1);
                }
                None => return false,
            },
        }
    }
    pattern.iter().skip(p).all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, name, yes) in [
            ("*.csv", "a.csv", true),
            ("*.csv", "A.CSV", true),
            ("*.csv", "a.csv.part", false),
            ("orders-??.csv", "orders-01.csv", true),
            ("orders-??.csv", "orders-1.csv", false),
            ("*a*b*", "xaxxbx", true),
            ("*a*b*", "xbxa", false),
            ("", "", true),
            ("*", "", true),
        ] {
            assert_eq!(fits(pattern, name), yes, "{pattern} {name}");
        }
        assert!(!fits(&"*a".repeat(50), &"a".repeat(49)));
    }
}
