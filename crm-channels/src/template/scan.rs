//! Looks over the source of a template before the engine does: which tags are in it, whether all of them are ones that
//! cannot run away, and whether nothing but plain holes is in it, so that it can be filled without the engine.

/// A piece of a template that has nothing but plain holes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    Text(String),
    Hole {
        path: Vec<String>,
        default: Option<String>,
    },
}

/// What may stand first in a `{% .. %}`.
const STATEMENTS: [&str; 8] = ["if", "elif", "else", "endif", "for", "endfor", "raw", "endraw"];

/// What is wrong with a tag, and on which line.
pub(super) type Wrong = (String, usize);

enum Tag<'a> {
    /// `{{ .. }}`; whether it has no sign that eats blanks.
    Hole(&'a str, bool),
    Statement(&'a str),
    Comment,
}

/// The pieces of a source that has only plain holes; `None` when it has more, all of it allowed.
pub(super) fn scan(source: &str) -> Result<Option<Vec<Piece>>, Wrong> {
    let mut pieces = Some(Vec::new());
    let mut rest = source;
    let line = |rest: &str| {
        1 + source
            .len()
            .checked_sub(rest.len())
            .map_or(0, |at| source.get(..at).unwrap_or_default().matches('\n').count())
    };
    while let Some((text, at)) = next(rest) {
        let inside = rest.get(at..).unwrap_or_default();
        let (tag, after) = tag(inside).ok_or_else(|| {
            let (open, close) = match inside.get(..2) {
                Some("{%") => ("{%", "%}"),
                Some("{#") => ("{#", "#}"),
                _ => ("{{", "}}"),
            };
            (
                format!("{open} is opened and never closed with {close}"),
                line(inside),
            )
        })?;
        let wrong = |what: String| (what, line(inside));
        match tag {
            Tag::Hole(expression, plain) => {
                allowed(expression).map_err(wrong)?;
                match hole(expression).filter(|_| plain) {
                    Some(hole) => {
                        if let Some(pieces) = &mut pieces {
                            if !text.is_empty() {
                                pieces.push(Piece::Text(text.to_owned()));
                            }
                            pieces.push(hole);
                        }
                    }
                    None => pieces = None,
                }
                rest = after;
            }
            Tag::Statement(expression) => {
                let word = expression
                    .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                    .next()
                    .unwrap_or_default();
                if !STATEMENTS.contains(&word) {
                    return Err(wrong(format!(
                        "{{% {word} %}} is not one of the statements a template may have: if, for, raw"
                    )));
                }
                allowed(expression).map_err(wrong)?;
                pieces = None;
                rest = match word {
                    "raw" => skip_raw(after).ok_or_else(|| wrong("{% raw %} is never ended".to_owned()))?,
                    _ => after,
                };
            }
            Tag::Comment => {
                pieces = None;
                rest = after;
            }
        }
    }
    if let (Some(pieces), false) = (&mut pieces, rest.is_empty()) {
        pieces.push(Piece::Text(rest.to_owned()));
    }
    Ok(pieces)
}

/// The text before the next tag, and where that begins.
fn next(rest: &str) -> Option<(&str, usize)> {
    let mut from = 0;
    loop {
        let at = from + rest.get(from..)?.find('{')?;
        if rest.get(at + 1..)?.starts_with(['{', '%', '#']) {
            return Some((rest.get(..at)?, at));
        }
        from = at + 1;
    }
}

/// The tag that the text begins with, and what follows it. Its end is looked for outside of quotes.
fn tag(text: &str) -> Option<(Tag<'_>, &str)> {
    let (open, body) = (text.get(..2)?, text.get(2..)?);
    if open == "{#" {
        return body.split_once("#}").map(|(_, after)| (Tag::Comment, after));
    }
    let close = if open == "{{" { "}}" } else { "%}" };
    let mut quote: Option<char> = None;
    let mut escaped = false;
    let mut depth = 0_i32;
    for (at, c) in body.char_indices() {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if c == '\\' => escaped = true,
            Some(q) if c == q => quote = None,
            Some(_) => {}
            None if depth <= 0 && body.get(at..).is_some_and(|rest| rest.starts_with(close)) => {
                let inside = body.get(..at)?;
                let after = body.get(at + 2..)?;
                let bare = inside.strip_prefix(['-', '+']).unwrap_or(inside);
                let bare = bare.strip_suffix(['-', '+']).unwrap_or(bare);
                let tag = match open {
                    "{{" => Tag::Hole(bare.trim(), bare.len() == inside.len()),
                    _ => Tag::Statement(bare.trim()),
                };
                return Some((tag, after));
            }
            None => match c {
                '"' | '\'' => quote = Some(c),
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            },
        }
    }
    None
}

fn skip_raw(text: &str) -> Option<&str> {
    let mut rest = text;
    loop {
        let at = rest.find("{%")?;
        let inside = rest.get(at + 2..)?;
        let (word, after) = inside.split_once("%}")?;
        if word.trim_matches(['-', '+']).trim() == "endraw" {
            return Some(after);
        }
        rest = inside;
    }
}

/// Filters that make nothing big out of something small.
pub(super) const FILTERS: [&str; 14] = [
    "default",
    "d",
    "upper",
    "lower",
    "title",
    "capitalize",
    "trim",
    "length",
    "first",
    "last",
    "round",
    "int",
    "reverse",
    "sort",
];
/// What may stand after `is` and `is not`.
const TESTS: [&str; 2] = ["defined", "undefined"];

/// Only what cannot make something big out of something small: no arithmetic, no joining of texts, no calls but those of
/// filters, which are few.
fn allowed(expression: &str) -> Result<(), String> {
    let mut quote: Option<char> = None;
    let mut escaped = false;
    // The expression with every quoted text left out.
    let mut bare = String::with_capacity(expression.len());
    for c in expression.chars() {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if c == '\\' => escaped = true,
            Some(q) if c == q => quote = None,
            Some(_) => {}
            None if c == '"' || c == '\'' => {
                quote = Some(c);
                bare.push(' ');
            }
            None if "~+*/%-{}:".contains(c) => {
                return Err(format!(
                    "{c} cannot be used in a template; compute the value before and give it as a variable"
                ));
            }
            None => bare.push(c),
        }
    }
    let word = |text: &str| -> String {
        text.trim_start()
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect()
    };
    for after in bare.split('|').skip(1) {
        let name = word(after);
        if !FILTERS.contains(&name.as_str()) {
            return Err(format!(
                "there is no filter {name:?}; a default is written {{{{ name | default(\"text\") }}}}, and the filters are {}",
                FILTERS.join(", ")
            ));
        }
    }
    let words: Vec<&str> = bare.split_whitespace().collect();
    for (at, _) in words.iter().enumerate().filter(|(_, word)| **word == "is") {
        let mut after = words.iter().skip(at + 1).skip_while(|word| **word == "not");
        let name = word(after.next().copied().unwrap_or_default());
        if !TESTS.contains(&name.as_str()) {
            return Err(format!(
                "there is no test {name:?}; the tests are {}",
                TESTS.join(", ")
            ));
        }
    }
    Ok(())
}

/// `a.b` and `a.b | default("text")`.
fn hole(expression: &str) -> Option<Piece> {
    let (path, default) = match expression.split_once('|') {
        None => (expression, None),
        Some((path, filter)) => {
            let filter = filter.trim();
            let call = filter
                .strip_prefix("default")
                .or_else(|| filter.strip_prefix('d'))?;
            let argument = call.trim_start().strip_prefix('(')?.strip_suffix(')')?.trim();
            let quote = argument.chars().next().filter(|c| matches!(c, '"' | '\''))?;
            let text = argument.strip_prefix(quote)?.strip_suffix(quote)?;
            if text.contains(quote) || text.contains('\\') {
                return None;
            }
            (path, Some(text.to_owned()))
        }
    };
    let path: Vec<String> = path.trim().split('.').map(str::to_owned).collect();
    let name = |step: &String| {
        step.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && step.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
    const WORDS: [&str; 16] = [
        "true", "false", "none", "True", "False", "None", "not", "and", "or", "in", "is", "if", "else",
        "loop", "self", "super",
    ];
    let plain = path.iter().all(name) && path.first().is_some_and(|root| !WORDS.contains(&root.as_str()));
    plain.then_some(Piece::Hole { path, default })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_holes_are_seen_and_everything_else_is_left_to_the_engine() {
        let plain = |source: &str| scan(source).unwrap();
        assert_eq!(
            plain("Hi {{ a.b | default('you') }}!"),
            Some(vec![
                Piece::Text("Hi ".into()),
                Piece::Hole {
                    path: vec!["a".into(), "b".into()],
                    default: Some("you".into())
                },
                Piece::Text("!".into()),
            ])
        );
        for engine in [
            "{% if a is not defined %}x{% endif %}",
            "{{ a | upper }}",
            "{{- a }}",
            "{# note #}",
            "{% if a %}x{% endif %}",
            "{{ 'text' }}",
            "{{ true }}",
            "{{ a['b'] }}",
            r#"{{ a | default("\n") }}"#,
            "{{ a | default(b) }}",
            "{% raw %}{{ no ~ tag }}{% endraw %}",
        ] {
            assert_eq!(plain(engine), None, "{engine}");
        }
        assert_eq!(plain("a } } { b"), Some(vec![Piece::Text("a } } { b".into())]));
    }

    #[test]
    fn what_may_run_away_is_refused_with_its_line() {
        for (source, line) in [
            ("{{", 1),
            ("a\n{{ b", 2),
            ("{{ '}}' ", 1),
            ("{% include '/etc/passwd' %}", 1),
            ("{% set x = 1 %}", 1),
            ("\n\n{% with a = b %}{% endwith %}", 3),
            ("{% macro m() %}{% endmacro %}", 1),
            ("{{ 'x' * 1000000000 }}", 1),
            ("{{ a ~ a }}", 1),
            ("{{ 7*7 }}", 1),
            ("{{ a | there }}", 1),
            ("{{ a | default('|') | pprint }}", 1),
            ("{% if a is odd %}{% endif %}", 1),
            ("{% raw %}", 1),
            ("{# open", 1),
        ] {
            assert_eq!(scan(source).unwrap_err().1, line, "{source}");
        }
    }
}
