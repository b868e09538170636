//! Answers: where something stands in them, and what they mean.

use std::time::Duration;

use crm_core::{Error, ErrorKind, Result, Timestamp};
use regex::Regex;
use serde::Deserialize;
use serde_json::Value;

use super::config::{AnswerSpec, Expect, Means, Rule};
use crate::exchange::{Answer, by_code, shown};

/// Where something stands in an answer.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Read {
    /// In JSON, at this pointer (RFC 6901): `/message/id`.
    Json(String),
    /// In a header of this name.
    Header(String),
    /// In the body, as the first group of this regular expression.
    Regex(String),
}

impl Read {
    pub(super) fn validate(&self, setting: &'static str) -> Result<()> {
        let wrong = |message: &'static str| Err(Error::config(message).with("setting", setting));
        match self {
            Self::Json(pointer) if !pointer.is_empty() && !pointer.starts_with('/') => {
                wrong("a JSON pointer is empty or begins with /")
            }
            Self::Header(name) if ::http::HeaderName::from_bytes(name.as_bytes()).is_err() => {
                wrong("a header's name has characters that no header may have")
            }
            Self::Regex(pattern) => match Regex::new(pattern) {
                Ok(regex) if regex.captures_len() >= 2 => Ok(()),
                Ok(_) => wrong("a regular expression has a group, which is what is read"),
                Err(_) => wrong("not a regular expression"),
            },
            _ => Ok(()),
        }
    }

    /// What stands there, as text; nothing for what is empty or no text.
    pub(super) fn read(&self, answer: &Answer) -> Option<String> {
        let found = match self {
            Self::Json(pointer) => text(answer.json::<Value>()?.pointer(pointer)?)?,
            Self::Header(name) => answer.header(name)?.trim().to_owned(),
            Self::Regex(pattern) => {
                let body = String::from_utf8_lossy(answer.body()).into_owned();
                let regex = Regex::new(pattern).ok()?;
                regex.captures(&body)?.get(1)?.as_str().trim().to_owned()
            }
        };
        Some(found).filter(|found| !found.is_empty())
    }
}

impl Expect {
    /// Whether the answer has one of the values there.
    pub(super) fn met(&self, answer: &Answer) -> bool {
        self.at
            .read(answer)
            .is_some_and(|value| self.equals.contains(&value))
    }
}

pub(super) fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.trim().to_owned()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(yes) => Some(yes.to_string()),
        _ => None,
    }
}

/// The vendor's reference, or why there is none.
pub(super) fn reference(spec: &AnswerSpec, answer: &Answer, now: Timestamp) -> Result<String> {
    let yes = answer.is_success() && spec.success.as_ref().is_none_or(|success| success.met(answer));
    if yes {
        return match spec.reference.read(answer) {
            Some(reference) => Ok(reference.chars().filter(|c| !c.is_control()).take(128).collect()),
            // It was taken; which one it is, nobody knows.
            None => Err(answer.by_status(now)),
        };
    }
    let code = spec.code.as_ref().and_then(|code| code.read(answer));
    Err(classify(&spec.rules, code.as_deref(), answer, now))
}

fn classify(rules: &[Rule], code: Option<&str>, answer: &Answer, now: Timestamp) -> Error {
    let (status, wait) = (answer.status(), answer.retry_after(now));
    match meaning(rules, status, code) {
        Some(rule) => {
            let wait = wait.or(rule.wait.map(Duration::from_secs));
            let error = by_code(
                rule.means.kind(),
                rule.means.says(),
                rule.blame,
                &shown(code.unwrap_or("-")),
                wait,
            )
            .with("status", status);
            if rule.means == Means::Unknown {
                error.effect_unknown()
            } else {
                error
            }
        }
        // The vendor said no, in a word that nobody has described: dead and to be looked at, never a loop.
        None if answer.is_success() && code.is_some() => by_code(
            ErrorKind::Unexpected,
            "a code that the vendor's description has no rule for",
            crm_core::message::Blame::Nobody,
            &shown(code.unwrap_or_default()),
            None,
        )
        .with("status", status),
        None => match code {
            Some(code) => answer.by_status(now).with("code", shown(code)),
            None => answer.by_status(now),
        },
    }
}

fn meaning<'a>(rules: &'a [Rule], status: u16, code: Option<&str>) -> Option<&'a Rule> {
    let status = status.to_string();
    rules.iter().find(|rule| {
        let of_status = rule.status.is_empty()
            || rule.status.iter().any(|wanted| {
                *wanted == status || (wanted.ends_with("xx") && wanted.get(..1) == status.get(..1))
            });
        let of_code = rule.code.is_empty()
            || code.is_some_and(|code| {
                rule.code.iter().any(|wanted| match wanted.strip_suffix('*') {
                    Some(begin) => code.starts_with(begin),
                    None => code == wanted,
                })
            });
        of_status && of_code
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_first_rule_that_fits_counts() {
        let rules: Vec<Rule> = serde_json::from_value(json!([
            {"code": ["E1", "X*"], "means": "invalid", "blame": "recipient"},
            {"status": ["429", "5xx"], "means": "rate_limited", "wait": 5},
            {"status": ["4xx"], "code": ["E2"], "means": "unknown"}
        ]))
        .unwrap();
        let means = |status, code| meaning(&rules, status, code).map(|rule| rule.means);
        assert_eq!(means(400, Some("E1")), Some(Means::Invalid));
        assert_eq!(means(200, Some("X99")), Some(Means::Invalid));
        assert_eq!(means(429, Some("E1")), Some(Means::Invalid));
        assert_eq!(means(429, None), Some(Means::RateLimited));
        assert_eq!(means(503, Some("E3")), Some(Means::RateLimited));
        assert_eq!(means(400, Some("E2")), Some(Means::Unknown));
        assert_eq!(means(400, Some("E3")), None);
        assert_eq!(means(400, None), None);
    }

    #[test]
    fn places_to_read_from_are_checked() {
        for bad in [
            Read::Json("id".into()),
            Read::Header("x y".into()),
            Read::Regex("(".into()),
            Read::Regex("id=.*".into()),
        ] {
            assert_eq!(
                bad.validate("sms").unwrap_err().context("setting"),
                Some("sms"),
                "{bad:?}"
            );
        }
        for good in [
            Read::Json("/a/0".into()),
            Read::Header("X-Id".into()),
            Read::Regex("id=([0-9]+)".into()),
        ] {
            assert!(good.validate("sms").is_ok());
        }
    }
}
