//! One text of a template: checked once, split once, filled often.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use crm_core::{Error, Result};
use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, ErrorKind as Engine, UndefinedBehavior, filters, tests};
use serde_json::Value as Json;

use super::scan::{Piece, scan};
use super::variables::{Found, Missing, Variables, value};

/// The longest source and the longest result of one text.
pub(super) const MOST_BYTES: usize = 1 << 20;
/// How many steps the engine takes for one text.
const FUEL: u64 = 200_000;

/// How values are put in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Escape {
    /// As they are.
    Text,
    /// As they are, but without line ends or other control characters.
    Header,
    /// Escaped for HTML.
    Html,
}

/// One text of a template.
#[derive(Clone)]
pub(crate) struct Part {
    /// What it is, for errors: `subject`, `text`.
    field: &'static str,
    /// The language it is for, for errors.
    locale: String,
    escape: Escape,
    source: Arc<str>,
    /// When it has nothing but plain holes.
    pieces: Option<Arc<[Piece]>>,
    engine: Arc<Environment<'static>>,
    variables: Arc<BTreeSet<String>>,
}

impl Part {
    /// Checks and splits a text.
    pub(crate) fn compile(field: &'static str, locale: &str, escape: Escape, source: &str) -> Result<Self> {
        let wrong = |message: String| {
            let error = Error::invalid(message).with("field", field);
            if locale.is_empty() {
                error
            } else {
                error.with("locale", locale)
            }
        };
        if source.len() > MOST_BYTES {
            return Err(wrong("a template is at most 1 MiB long".to_owned()).with("bytes", source.len()));
        }
        let pieces = scan(source).map_err(|(what, line)| wrong(what).with("line", line))?;
        let mut engine = environment(escape);
        let name = file(escape);
        engine
            .add_template_owned(name, source.to_owned())
            .map_err(|e| wrong(explain(&e)).with("line", e.line().unwrap_or(1)))?;
        let variables = engine
            .get_template(name)
            .map(|template| template.undeclared_variables(true))
            .map_err(|e| wrong(explain(&e)))?;
        Ok(Self {
            field,
            locale: locale.to_owned(),
            escape,
            source: source.into(),
            pieces: pieces.map(Into::into),
            engine: Arc::new(engine),
            variables: Arc::new(variables.into_iter().collect()),
        })
    }

    pub(crate) fn field(&self) -> &'static str {
        self.field
    }

    /// The variables it names: `city`, `attributes.plan`.
    pub(crate) fn variables(&self) -> impl Iterator<Item = &str> + Clone {
        self.variables.iter().map(String::as_str)
    }

    /// The text for one person.
    pub(crate) fn render(&self, vars: &Variables<'_>) -> Result<String> {
        let filled = match &self.pieces {
            Some(pieces) => self.fill(pieces, vars)?,
            None => None,
        };
        let text = match filled {
            Some(text) => text,
            None => self.run(vars)?,
        };
        if self.escape == Escape::Header
            && let Some(c) = text
                .chars()
                .find(|c| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}'))
        {
            return Err(self
                .wrong("a value brings a line end or another control character into a header")
                .with("character", format!("U+{:04X}", u32::from(c))));
        }
        Ok(text)
    }

    #[cfg(test)]
    pub(super) fn by_engine(&self, vars: &Variables<'_>) -> Result<String> {
        self.run(vars)
    }

    /// Fills plain holes; `None` when a value is there that only the engine knows how to write.
    fn fill(&self, pieces: &[Piece], vars: &Variables<'_>) -> Result<Option<String>> {
        let mut out = String::with_capacity(self.source.len() + self.source.len() / 4);
        for piece in pieces {
            let (path, default) = match piece {
                Piece::Text(text) => {
                    out.push_str(text);
                    continue;
                }
                Piece::Hole { path, default } => (path, default),
            };
            match (vars.find(path), default) {
                (Ok(Found::Text(text)), _) => self.put(text, &mut out),
                (Ok(Found::Json(Json::String(text))), _) => self.put(text, &mut out),
                (Ok(Found::Json(Json::Array(_) | Json::Object(_))), _) => return Ok(None),
                (Ok(Found::Json(other)), _) => out.push_str(&value(other).to_string()),
                (Err(Missing::Last), Some(default)) => self.put(default, &mut out),
                (Err(_), _) => return Err(self.missing(&path.join("."))),
            }
            if out.len() > MOST_BYTES {
                return Err(self.too_long());
            }
        }
        if out.len() > MOST_BYTES {
            return Err(self.too_long());
        }
        Ok(Some(out))
    }

    fn put(&self, text: &str, out: &mut String) {
        if self.escape != Escape::Html {
            out.push_str(text);
            return;
        }
        // As the engine does it.
        let mut rest = text;
        while let Some(at) = rest.find(['<', '>', '&', '"', '\'', '/']) {
            let (before, after) = rest.split_at(at);
            out.push_str(before);
            let mut chars = after.chars();
            out.push_str(match chars.next() {
                Some('<') => "&lt;",
                Some('>') => "&gt;",
                Some('&') => "&amp;",
                Some('"') => "&quot;",
                Some('\'') => "&#x27;",
                _ => "&#x2f;",
            });
            rest = chars.as_str();
        }
        out.push_str(rest);
    }

    /// Lets the engine write it.
    fn run(&self, vars: &Variables<'_>) -> Result<String> {
        let template = self
            .engine
            .get_template(file(self.escape))
            .map_err(|e| self.wrong(explain(&e)))?;
        let roots: BTreeSet<&str> = self
            .variables()
            .filter_map(|name| name.split('.').next())
            .collect();
        let context = vars.context(roots);
        let mut out = Bounded(Vec::with_capacity(self.source.len()));
        let error = match template.render_captured_to(context, &mut out) {
            Ok(_) => {
                return String::from_utf8(out.0)
                    .map_err(|e| Error::unexpected("a template wrote something that is no text").source(e));
            }
            Err(error) => error,
        };
        match error.kind() {
            Engine::UndefinedError => {
                let named = self.blamed(error.range(), vars);
                Err(self.missing(named.as_deref().unwrap_or("unknown")))
            }
            Engine::WriteFailure => Err(self.too_long()),
            Engine::OutOfFuel => Err(self.wrong("a template takes too many steps; its loops are too long")),
            _ => Err(self
                .wrong(explain(&error))
                .with("line", error.line().unwrap_or(1))),
        }
    }

    /// The variable that was missing in the tag at this place of the source.
    fn blamed(&self, range: Option<std::ops::Range<usize>>, vars: &Variables<'_>) -> Option<String> {
        let mut missing = self.variables().filter(|name| {
            let path: Vec<String> = name.split('.').map(str::to_owned).collect();
            vars.find(&path).is_err()
        });
        let tag = range.as_ref().and_then(|range| {
            let from = self.source.get(..range.start)?.rfind('{').unwrap_or(0);
            self.source.get(from..range.end)
        });
        let there = |name: &&str| {
            tag.is_some_and(|tag| {
                tag.split(|c: char| !c.is_alphanumeric() && !"_.".contains(c))
                    .any(|word| word == *name)
            })
        };
        if let Some(name) = missing.clone().find(there) {
            return Some(name.to_owned());
        }
        // A part of what a loop goes over has a name of the loop's own.
        let path = range.and_then(|range| self.source.get(range)).filter(|text| {
            text.contains('.')
                && text
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"_.".contains(&b))
        });
        path.or_else(|| missing.next()).map(str::to_owned)
    }

    fn missing(&self, variable: &str) -> Error {
        self.wrong(
            "a variable of the template has no value; give one, or write {{ name | default(\"text\") }}",
        )
        .with("variable", variable)
    }

    fn too_long(&self) -> Error {
        self.wrong("a text made from the template would be longer than 1 MiB")
    }

    fn wrong(&self, message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
        let error = Error::invalid(message).with("field", self.field);
        if self.locale.is_empty() {
            return error;
        }
        error.with("locale", &self.locale)
    }
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Part({}, {} bytes)", self.field, self.source.len())
    }
}

/// The engine's words without the source around them.
fn explain(error: &minijinja::Error) -> String {
    error
        .detail()
        .map_or_else(|| error.kind().to_string(), str::to_owned)
}

fn file(escape: Escape) -> &'static str {
    match escape {
        Escape::Html => "part.html",
        Escape::Text | Escape::Header => "part.txt",
    }
}

/// Takes at most [`MOST_BYTES`].
struct Bounded(Vec<u8>);

impl std::io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + bytes.len() > MOST_BYTES {
            return Err(std::io::Error::other("too long"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// An engine that knows nothing but its one template: no files, no includes, no functions.
fn environment(escape: Escape) -> Environment<'static> {
    let mut engine = Environment::empty();
    engine.set_undefined_behavior(UndefinedBehavior::SemiStrict);
    if let Ok(syntax) = SyntaxConfig::builder().keep_trailing_newline(true).build() {
        engine.set_syntax(syntax);
    }
    engine.set_fuel(Some(FUEL));
    engine.set_debug(true); // errors say where
    engine.set_recursion_limit(50);
    let html = escape == Escape::Html;
    engine.set_auto_escape_callback(move |_| if html { AutoEscape::Html } else { AutoEscape::None });
    engine.add_filter("default", filters::default);
    engine.add_filter("d", filters::default);
    engine.add_filter("upper", filters::upper);
    engine.add_filter("lower", filters::lower);
    engine.add_filter("title", filters::title);
    engine.add_filter("capitalize", filters::capitalize);
    engine.add_filter("trim", filters::trim);
    engine.add_filter("length", filters::length);
    engine.add_filter("first", filters::first);
    engine.add_filter("last", filters::last);
    engine.add_filter("round", filters::round);
    engine.add_filter("int", filters::int);
    engine.add_filter("reverse", filters::reverse);
    engine.add_filter("sort", filters::sort);
    engine.add_test("defined", tests::is_defined);
    engine.add_test("undefined", tests::is_undefined);
    engine
}
