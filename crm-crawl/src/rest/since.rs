//! What a run leaves for the next one: since when to ask, and by which tag.

use std::sync::Arc;
use std::time::Duration;

use crm_core::capability::RecordStore;
use crm_core::record::{Field, FieldType, Record, Schema, Value, Write};
use crm_core::{Context, Error, Result, Timestamp, Uuid};
use serde::Deserialize;
use serde_json::Value as Json;
use sha2::{Digest, Sha256};

use crate::file::document;

/// Asks only for what changed since the last run that came to its end.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Since {
    /// The parameter that takes the time.
    pub param: String,
    /// What is handed over, with `{}` in the place of the time: `updated_at>={}`. `{}`.
    #[serde(default = "whole")]
    pub value: String,
    /// How the time is written. RFC 3339.
    #[serde(default)]
    pub format: TimeFormat,
    /// The path in an item of the time it was changed: the newest of a run is where the next one begins. Without it, the time
    /// the run began is, by the interface's own clock (its `Date` header).
    #[serde(default)]
    pub field: Option<String>,
    /// How much earlier than that is asked for, in seconds, because changes can become visible late. 60.
    #[serde(default = "minute")]
    pub overlap: f64,
}

fn whole() -> String {
    "{}".to_owned()
}

fn minute() -> f64 {
    60.0
}

/// How a time is written in a URL and in an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TimeFormat {
    /// `2026-03-01T09:00:00Z`.
    #[default]
    Rfc3339,
    /// `2026-03-01`.
    Day,
    /// Seconds since 1970.
    Unix,
    /// Milliseconds since 1970.
    UnixMs,
}

impl TimeFormat {
    pub(super) fn write(self, time: Timestamp) -> String {
        let text = time.to_string();
        match self {
            // No fraction: some interfaces do not read one. Rounded down, so that nothing is missed.
            Self::Rfc3339 => format!("{}Z", text.get(..19).unwrap_or(&text)),
            Self::Day => text.get(..10).unwrap_or(&text).to_owned(),
            Self::Unix => time.as_micros().div_euclid(1_000_000).to_string(),
            Self::UnixMs => time.as_micros().div_euclid(1000).to_string(),
        }
    }

    fn read(self, value: &Json) -> Option<Timestamp> {
        let number = || match value {
            Json::Number(number) => number.as_i64(),
            Json::String(text) => text.trim().parse().ok(),
            _ => None,
        };
        match self {
            Self::Rfc3339 | Self::Day => value.as_str()?.trim().parse().ok(),
            Self::Unix => Some(Timestamp::from_micros(number()?.checked_mul(1_000_000)?)),
            Self::UnixMs => Some(Timestamp::from_micros(number()?.checked_mul(1000)?)),
        }
    }
}

impl Since {
    pub(super) fn validate(&self) -> Result<()> {
        let wrong = |setting: &'static str, message: &'static str| {
            Err(Error::config(message).with("setting", setting))
        };
        if self.param.is_empty() {
            return wrong("since.param", "the parameter has no name");
        }
        if !self.value.contains("{}") {
            return wrong("since.value", "the value has `{}` in the place of the time");
        }
        if !(0.0..=31_536_000.0).contains(&self.overlap) {
            return wrong("since.overlap", "an overlap is 0 s to a year");
        }
        Ok(())
    }

    /// The parameter's value for a run after one that stood at `time`.
    pub(super) fn parameter(&self, time: Timestamp) -> String {
        let from = time.minus(Duration::try_from_secs_f64(self.overlap).unwrap_or_default());
        self.value.replace("{}", &self.format.write(from))
    }

    /// The newest change among items.
    pub(super) fn newest(&self, items: &[Json]) -> Option<Timestamp> {
        let keys = document::keys(self.field.as_deref()?);
        let mut newest = None;
        for item in items {
            document::follow(item, &keys, false, &mut |value| {
                newest = newest.max(self.format.read(value));
            });
        }
        newest
    }
}

/// What the last run of a collector left; one record a collector and tenant.
pub static REST_STATE: Schema = Schema {
    name: "crm_rest_state",
    fields: &[
        Field::new("name", FieldType::Text),
        Field::new("since", FieldType::Timestamp).nullable(),
        Field::new("etag", FieldType::Text).nullable(),
        Field::new("updated_at", FieldType::Timestamp),
    ],
    indexes: &[],
};

/// What one run leaves for the next.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Left {
    pub(super) since: Option<Timestamp>,
    pub(super) etag: Option<String>,
}

fn id(ctx: &Context, name: &str) -> Uuid {
    let mut bytes = [0; 16];
    let hash = Sha256::new()
        .chain_update(ctx.tenant().as_str())
        .chain_update([0]);
    for (to, from) in bytes.iter_mut().zip(hash.chain_update(name).finalize()) {
        *to = from;
    }
    // Version 8 (RFC 9562, 5.8): made of a hash.
    Uuid::from_u128(u128::from_be_bytes(bytes) & !(0xf << 76 | 0x3 << 62) | 0x8 << 76 | 0x2 << 62)
}

pub(super) async fn load(store: &Arc<dyn RecordStore>, ctx: &Context, name: &str) -> Result<Left> {
    store.migrate(&[&REST_STATE]).await?;
    let found = store.get(ctx, &REST_STATE, &[id(ctx, name)]).await?;
    let Some(stored) = found.into_iter().next().flatten() else {
        return Ok(Left::default());
    };
    Ok(Left {
        since: stored.record.get("since").and_then(Value::as_timestamp),
        etag: stored
            .record
            .get("etag")
            .and_then(Value::as_str)
            .map(str::to_owned),
    })
}

pub(super) async fn save(
    store: &Arc<dyn RecordStore>,
    ctx: &Context,
    name: &str,
    left: &Left,
    now: Timestamp,
) -> Result<()> {
    store.migrate(&[&REST_STATE]).await?;
    let mut record = Record::new(&REST_STATE);
    record.set("name", name)?;
    record.set("since", left.since)?;
    record.set("etag", left.etag.as_deref())?;
    record.set("updated_at", now)?;
    store.apply(ctx, &[Write::put(id(ctx, name), record)]).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_and_read_in_every_format() {
        let time: Timestamp = "2026-03-01T09:00:00.999Z".parse().unwrap();
        for (format, text) in [
            (TimeFormat::Rfc3339, "2026-03-01T09:00:00Z"),
            (TimeFormat::Day, "2026-03-01"),
            (TimeFormat::Unix, "1772355600"),
            (TimeFormat::UnixMs, "1772355600999"),
        ] {
            assert_eq!(format.write(time), text);
            let read = format.read(&Json::String(text.into())).unwrap();
            assert!(read <= time && format.write(read) == text);
        }
        assert_eq!(TimeFormat::Unix.read(&serde_json::json!(i64::MAX)), None);
        assert_eq!(TimeFormat::Unix.read(&serde_json::json!({})), None);
    }

    #[test]
    fn the_newest_counts() {
        let since: Since = serde_json::from_str(r#"{"param": "s", "field": "meta.at"}"#).unwrap();
        let items: Vec<Json> = serde_json::from_str(
            r#"[{"meta": {"at": "2026-01-02T00:00:00Z"}}, {"meta": {"at": "2026-01-03T00:00:00+01:00"}}, {"meta": {"at": 7}}, {}]"#,
        )
        .unwrap();
        assert_eq!(since.newest(&items), "2026-01-02T23:00:00Z".parse().ok());
        assert_eq!(since.newest(&[]), None);
        assert_eq!(
            since.parameter("2026-01-02T23:00:00Z".parse().unwrap()),
            "2026-01-02T22:59:00Z"
        );
    }
}
