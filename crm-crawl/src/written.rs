//! Settings that people write: JSON, and with feature `crawl` YAML.

use crm_core::{Error, Result};
use serde::de::DeserializeOwned;

/// Reads settings. What begins with `{` is JSON, everything else is YAML.
pub(crate) fn read<T: DeserializeOwned>(text: &str) -> Result<T> {
    let text = text.trim_start_matches('\u{feff}');
    if text.trim_start().starts_with('{') {
        serde_json::from_str(text).map_err(|error| wrong(&error.to_string()))
    } else {
        yaml(text)
    }
}

#[cfg(feature = "crawl")]
fn yaml<T: DeserializeOwned>(text: &str) -> Result<T> {
    // No piece of the file in the error: it may hold a key. Anchors and nesting are bounded by the parser's own budget.
    let options = serde_saphyr::options! { with_snippet: false };
    serde_saphyr::from_str_with_options(text, options)
        .map_err(|error| wrong(&error.without_snippet().to_string()))
}

#[cfg(not(feature = "crawl"))]
fn yaml<T: DeserializeOwned>(_: &str) -> Result<T> {
    Err(Error::config(
        "the settings are not JSON: they begin with `{` (YAML is read with feature `crawl`)",
    ))
}

fn wrong(reason: &str) -> Error {
    // Of a value of another type only what was wanted: the value may be a key.
    let reason = match (reason.find("invalid "), reason.find("expected ")) {
        (Some(_), Some(expected)) => reason.get(expected..).unwrap_or_default(),
        _ => reason,
    };
    Error::config("the settings are not what they should be").with("reason", reason)
}

#[cfg(all(test, feature = "crawl"))]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Settings {
        name: String,
        #[serde(default)]
        count: u32,
        #[serde(default)]
        list: Vec<String>,
    }

    #[test]
    fn json_and_yaml_say_the_same() {
        let wanted = Settings {
            name: "no".into(),
            count: 3,
            list: vec!["a: b".into(), r"\d+".into()],
        };
        for text in [
            r#"{"name": "no", "count": 3, "list": ["a: b", "\\d+"]}"#,
            "\u{feff}{\"name\": \"no\", \"count\": 3, \"list\": [\"a: b\", \"\\\\d+\"]}",
            "# a comment\nname: no\ncount: 3\nlist:\n  - 'a: b'\n  - \\d+\n",
            "---\nname: \"no\"\ncount: 3\nlist: ['a: b', '\\d+']\n",
        ] {
            assert_eq!(read::<Settings>(text).unwrap(), wanted, "{text}");
        }
    }

    #[test]
    fn wrong_settings_say_what_is_wrong_and_no_value() {
        for (text, said) in [
            ("{\"name\": 12345678}", "a string"),
            ("name: [12345678]", "string"),
            ("name: x\ncount: tok-12345678", ""),
            ("{\"name\": \"x\", \"speed\": 1}", "speed"),
            ("name: x\nspeed: 1", "speed"),
            ("count: 1", "name"),
            ("", ""),
            ("name: x\n  count: : 1", ""),
        ] {
            let error = read::<Settings>(text).unwrap_err();
            assert_eq!(error.kind(), crm_core::ErrorKind::Config, "{text}");
            let shown = format!("{error:?} {error}");
            assert!(shown.contains(said), "{text}: {shown}");
            assert!(!shown.contains("12345678"), "{text}: {shown}");
        }
    }

    /// An anchor that is used a hundred times in one that is used a hundred times: refused, not unfolded.
    #[test]
    fn anchors_do_not_multiply() {
        let mut text = String::from("name: x\nlist:\n");
        text.push_str("  - &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for level in 1..9 {
            let inner = vec![format!("*a{}", level - 1); 10].join(",");
            text.push_str(&format!("  - &a{level} [{inner}]\n"));
        }
        assert!(read::<serde_json::Value>(&text).is_err());
    }
}
