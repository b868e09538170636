use std::borrow::Cow;
use std::fmt;

use minijinja::Value;
use serde_json::Value as Json;

/// The values that are put into a template, for one recipient. A text that is empty or blank counts as missing, as does a
/// JSON `null`: nobody wants to be greeted as "Dear ,". `Debug` shows names only.
///
/// ```
/// use crm_channels::{Template, Variables};
///
/// let order = serde_json::json!({"number": 4711, "items": ["jacket", "boots"]});
/// let vars = Variables::new().text("given_name", "Ana").json("order", &order);
/// let items = "{% for i in order.items %}- {{ i }}\n{% endfor %}";
/// let template = Template::with_variables(&["order"], "Order {{ order.number }}", items).unwrap();
/// assert_eq!(template.email("en", &vars).unwrap().text, "- jacket\n- boots\n");
/// ```
#[derive(Clone, Default)]
pub struct Variables<'a>(Vec<(Cow<'a, str>, Variable<'a>)>);

#[derive(Clone)]
enum Variable<'a> {
    Text(Cow<'a, str>),
    Json(Cow<'a, Json>),
}

/// What stands at a place.
pub(super) enum Found<'v> {
    Text(&'v str),
    Json(&'v Json),
}

/// What stands nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    /// The last step of the path: a default may take its place.
    Last,
    /// Something before it: nothing to look into.
    Before,
}

impl<'a> Variables<'a> {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// The entries of a JSON object.
    pub fn of(object: &'a Json) -> Self {
        object
            .as_object()
            .into_iter()
            .flatten()
            .fold(Self::new(), |vars, (name, value)| vars.json(name, value))
    }

    /// With a text; in place of one of the same name.
    #[must_use]
    pub fn text(self, name: impl Into<Cow<'a, str>>, text: impl Into<Cow<'a, str>>) -> Self {
        self.with(name.into(), Variable::Text(text.into()))
    }

    /// With a JSON value, into which the template may look by `name.key`; in place of one of the same name.
    #[must_use]
    pub fn json(self, name: impl Into<Cow<'a, str>>, value: &'a Json) -> Self {
        self.with(name.into(), Variable::Json(Cow::Borrowed(value)))
    }

    /// As [`Variables::json`], taking the value.
    #[must_use]
    pub fn owned(self, name: impl Into<Cow<'a, str>>, value: Json) -> Self {
        self.with(name.into(), Variable::Json(Cow::Owned(value)))
    }

    fn with(mut self, name: Cow<'a, str>, value: Variable<'a>) -> Self {
        self.0.retain(|(known, _)| *known != name);
        self.0.push((name, value));
        self
    }

    /// With the name itself in brackets where something is missing.
    pub(super) fn filled(self, path: &str) -> Self {
        let mut steps = path.split('.');
        let root = steps.next().unwrap_or_default().to_owned();
        let rest: Vec<&str> = steps.collect();
        let mut whole = match self.root(&root) {
            Some(Found::Json(json @ Json::Object(_))) => json.clone(),
            _ => Json::Null,
        };
        let mut place = &mut whole;
        for step in rest {
            if !place.is_object() {
                *place = Json::Object(serde_json::Map::new());
            }
            let Json::Object(object) = place else { return self };
            place = object.entry(step).or_insert(Json::Null);
        }
        *place = Json::String(format!("[{path}]"));
        self.owned(root, whole)
    }

    fn root(&self, name: &str) -> Option<Found<'_>> {
        let (_, value) = self.0.iter().find(|(known, _)| known == name)?;
        match value {
            Variable::Text(text) => (!text.trim().is_empty()).then_some(Found::Text(text)),
            Variable::Json(json) => present(json).then_some(Found::Json(json)),
        }
    }

    /// What stands at the path; `Err` says how far it got.
    pub(super) fn find(&self, path: &[String]) -> Result<Found<'_>, Missing> {
        let Some((first, rest)) = path.split_first() else {
            return Err(Missing::Before);
        };
        let missing = |left: &[String]| {
            if left.is_empty() {
                Missing::Last
            } else {
                Missing::Before
            }
        };
        let mut found = self.root(first).ok_or_else(|| missing(rest))?;
        for (i, step) in rest.iter().enumerate() {
            let inner = match found {
                Found::Json(Json::Object(object)) => object.get(step).filter(|inner| present(inner)),
                _ => None,
            };
            let left = rest.get(i + 1..).unwrap_or_default();
            found = Found::Json(inner.ok_or_else(|| missing(left))?);
        }
        Ok(found)
    }

    /// Those of these names, for the engine.
    pub(super) fn context<'n>(&self, names: impl IntoIterator<Item = &'n str>) -> Value {
        let values = names.into_iter().filter_map(|name| {
            let value = match self.root(name)? {
                Found::Text(text) => Value::from(text),
                Found::Json(json) => value(json),
            };
            Some((name.to_owned(), value))
        });
        values
            .collect::<std::collections::BTreeMap<String, Value>>()
            .into()
    }
}

fn present(json: &Json) -> bool {
    match json {
        Json::Null => false,
        Json::String(text) => !text.trim().is_empty(),
        _ => true,
    }
}

/// A JSON value for the engine. What counts as missing is left out of objects; lists keep their length.
pub(super) fn value(json: &Json) -> Value {
    match json {
        Json::Object(object) => {
            let entries = object
                .iter()
                .filter(|(_, inner)| present(inner))
                .map(|(key, inner)| (key.clone(), value(inner)));
            entries
                .collect::<std::collections::BTreeMap<String, Value>>()
                .into()
        }
        Json::Array(items) => items.iter().map(value).collect::<Vec<Value>>().into(),
        Json::Null => Value::from(()),
        Json::Bool(flag) => Value::from(*flag),
        Json::String(text) => Value::from(text.as_str()),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Value::from(number),
            (None, Some(number)) => Value::from(number),
            (None, None) => Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
    }
}

impl fmt::Debug for Variables<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.0.iter().map(|(name, _)| &**name).collect();
        write!(f, "Variables{names:?}")
    }
}
