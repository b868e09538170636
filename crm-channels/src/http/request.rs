//! Requests, from their descriptions and the values of a message.

use std::collections::BTreeSet;

use ::http::Method;
use crm_core::{Error, Result};
use serde_json::Value;
use url::Url;

use super::config::{Auth, BodySpec, Escape, HttpVendorConfig, RequestSpec, header};
use super::fill::{Pattern, Shape, Values};
use crate::exchange::{basic, endpoint, form, percent, xml};

/// A request whose places were found, once.
#[derive(Debug)]
pub(super) struct Request {
    method: Method,
    url: Pattern,
    headers: Vec<(String, Pattern)>,
    body: Body,
}

#[derive(Debug)]
enum Body {
    None,
    Json(Shape),
    Form(Vec<(String, Pattern, Shape)>),
    Text {
        content_type: String,
        pattern: Pattern,
        escape: Escape,
    },
}

impl Request {
    pub(super) fn parse(
        setting: &'static str,
        spec: &RequestSpec,
        config: &HttpVendorConfig,
    ) -> Result<Self> {
        let wrong = |message: &'static str| Error::config(message).with("setting", setting);
        let method = match spec.method.as_str() {
            "GET" => Method::GET,
            "POST" => Method::POST,
            "PUT" => Method::PUT,
            _ => return Err(wrong("a method is GET, POST or PUT")),
        };
        let url = Pattern::parse(setting, &spec.url)?;
        // A message must not choose where it goes: the places stand behind the host.
        let origin = spec.url.split("{{").next().unwrap_or_default();
        let behind = origin
            .split_once("://")
            .is_some_and(|(_, rest)| rest.contains('/'));
        if !behind && spec.url.contains("{{") {
            return Err(wrong("places of a URL stand behind its host"));
        }
        endpoint(setting, &Url::parse(origin).map_err(|_| wrong("not a URL"))?)?;
        let body = match &spec.body {
            BodySpec::None => Body::None,
            BodySpec::Json(value) => Body::Json(Shape::parse(setting, value)?),
            BodySpec::Form(pairs) => Body::Form(
                pairs
                    .iter()
                    .map(|(name, text)| {
                        let shape = Shape::parse(setting, &Value::String(text.clone()))?;
                        Ok((name.clone(), Pattern::parse(setting, text)?, shape))
                    })
                    .collect::<Result<_>>()?,
            ),
            BodySpec::Text {
                content_type,
                text,
                escape,
            } => {
                header(setting, "content-type", content_type)?;
                Body::Text {
                    content_type: content_type.clone(),
                    pattern: Pattern::parse(setting, text)?,
                    escape: *escape,
                }
            }
        };
        if method == Method::GET && !matches!(body, Body::None) {
            return Err(wrong("a GET has no body"));
        }
        let mut headers = Vec::new();
        for (name, text) in &spec.headers {
            header(setting, name, "")?;
            headers.push((name.to_ascii_lowercase(), Pattern::parse(setting, text)?));
        }
        let request = Self {
            method,
            url,
            headers,
            body,
        };
        for (name, optional) in request.places() {
            let known = match name.split_once('.') {
                Some(("secret", name)) => config.secrets.contains_key(name),
                Some(("setting", name)) => config.settings.contains_key(name),
                _ => true,
            };
            if !known && !optional {
                return Err(wrong("a secret or setting that a place names is not given").with("place", name));
            }
        }
        Ok(request)
    }

    /// The places of all parts, and whether each may stay empty.
    pub(super) fn places(&self) -> BTreeSet<(String, bool)> {
        let mut all = BTreeSet::new();
        let mut add = |pattern: &Pattern| {
            all.extend(
                pattern
                    .places()
                    .map(|(name, optional)| (name.to_owned(), optional)),
            );
        };
        add(&self.url);
        self.headers.iter().for_each(|(_, pattern)| add(pattern));
        match &self.body {
            Body::None => {}
            Body::Json(shape) => shape.places(&mut all),
            Body::Form(pairs) => pairs.iter().for_each(|(_, pattern, _)| add(pattern)),
            Body::Text { pattern, .. } => add(pattern),
        }
        all
    }

    /// The request for these values.
    pub(super) fn fill(&self, values: &Values, auth: &Auth) -> Result<Filled> {
        let url = self
            .url
            .fill(values, |text| Ok(percent(text)))?
            .unwrap_or_default();
        let url = Url::parse(&url)
            .map_err(|_| Error::invalid("the URL that came out is none").with("field", "url"))?;
        let mut headers = Vec::new();
        for (name, pattern) in &self.headers {
            if let Some(value) = pattern.fill(values, |text| Ok(text.to_owned()))? {
                headers.push((name.clone(), value));
            }
        }
        match auth {
            Auth::None => {}
            Auth::Basic { user, password } => {
                headers.push(("authorization".to_owned(), basic(user, password.expose())))
            }
            Auth::Bearer { token } => {
                headers.push(("authorization".to_owned(), format!("Bearer {}", token.expose())))
            }
            Auth::Header { name, value } => {
                headers.push((name.to_ascii_lowercase(), value.expose().to_owned()))
            }
        }
        let mut kind = |kind: &str| {
            if !headers.iter().any(|(name, _)| name == "content-type") {
                headers.push(("content-type".to_owned(), kind.to_owned()));
            }
        };
        let body = match &self.body {
            Body::None => String::new(),
            Body::Json(shape) => {
                kind("application/json");
                shape.fill(values)?.unwrap_or(Value::Null).to_string()
            }
            Body::Form(pairs) => {
                kind("application/x-www-form-urlencoded");
                let mut fields = Vec::new();
                for (name, pattern, shape) in pairs {
                    if let Some(Value::Array(all)) = shape.fill(values)? {
                        let text = |one: Value| match one {
                            Value::String(text) => text,
                            other => other.to_string(),
                        };
                        fields.extend(all.into_iter().map(|one| (name.as_str(), text(one))));
                    } else if let Some(value) = pattern.fill(values, |text| Ok(text.to_owned()))? {
                        fields.push((name.as_str(), value));
                    }
                }
                form(fields.iter().map(|(name, value)| (*name, value.as_str())))
            }
            Body::Text {
                content_type,
                pattern,
                escape,
            } => {
                kind(content_type);
                let escape = match escape {
                    Escape::Xml => |text: &str| xml(text, "text"),
                    Escape::Json => json,
                    Escape::Url => |text: &str| Ok(percent(text)),
                };
                pattern.fill(values, escape)?.unwrap_or_default()
            }
        };
        Ok(Filled {
            method: self.method.clone(),
            url,
            headers,
            body,
        })
    }
}

/// A request that can go out.
pub(super) struct Filled {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: String,
}

fn json(text: &str) -> Result<String> {
    let quoted = Value::String(text.to_owned()).to_string();
    Ok(quoted
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
        .unwrap_or_default()
        .to_owned())
}
