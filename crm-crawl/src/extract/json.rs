//! JSON as it stands in pages: in comments and CDATA, with trailing commas, raw line breaks in strings, and two documents in a
//! row. Read as it is first; mended only when that fails.

use serde_json::Value;

/// The most bytes of one script.
const MAX_BYTES: usize = 1 << 20;

/// The documents in a script; `None` when it is no JSON.
pub(super) fn read(text: &str) -> Option<Vec<Value>> {
    if text.len() > MAX_BYTES {
        return None;
    }
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}' || c == ';');
    if text.is_empty() {
        return Some(Vec::new());
    }
    if let Ok(value) = serde_json::from_str(text) {
        return Some(vec![value]);
    }
    several(&mended(text)).or_else(|| {
        let plain = text
            .replace("&quot;", "\"")
            .replace("&#34;", "\"")
            .replace("&amp;", "&");
        several(&mended(&plain)).filter(|_| plain != text)
    })
}

fn several(text: &str) -> Option<Vec<Value>> {
    let mut values = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == ';' || c == ',');
        // One bracket too many at the end is forgiven.
        if rest.is_empty()
            || rest
                .chars()
                .all(|c| matches!(c, '}' | ']' | ')') || c.is_whitespace())
        {
            return (!values.is_empty()).then_some(values);
        }
        let mut stream = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
        match stream.next() {
            Some(Ok(value)) => values.push(value),
            _ => return if values.is_empty() { None } else { Some(values) },
        }
        rest = rest.get(stream.byte_offset()..)?;
    }
}

/// Without comments and CDATA marks, commas before a closing bracket, control characters and escapes that JSON does not know.
fn mended(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut quoted = false;
    while let Some(c) = rest.chars().next() {
        let mut used = c.len_utf8();
        if quoted {
            match c {
                '"' => {
                    quoted = false;
                    out.push('"');
                }
                '\\' => match rest.chars().nth(1) {
                    Some(next) if "\"\\/bfnrt".contains(next) || (next == 'u' && is_code(rest)) => {
                        out.push('\\');
                        out.push(next);
                        used = 2;
                    }
                    // The character itself is meant: `\'`.
                    Some('\'') => {
                        out.push('\'');
                        used = 2;
                    }
                    _ => out.push_str("\\\\"),
                },
                '\n' => out.push_str("\\n"),
                '\r' => {}
                '\t' => out.push_str("\\t"),
                c if c.is_control() => out.push(' '),
                c => out.push(c),
            }
        } else if let Some(after) = skipped(rest) {
            used = rest.len() - after.len();
        } else {
            match c {
                '"' => {
                    quoted = true;
                    out.push('"');
                }
                '}' | ']' => {
                    let kept = out.trim_end().trim_end_matches(',').len();
                    out.truncate(kept);
                    out.push(c);
                }
                c if c.is_control() && !c.is_whitespace() => {}
                c => out.push(c),
            }
        }
        rest = rest.get(used..).unwrap_or_default();
    }
    out
}

fn is_code(rest: &str) -> bool {
    rest.get(2..6)
        .is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// What follows a comment or a mark of one, if one is here.
fn skipped(rest: &str) -> Option<&str> {
    for mark in ["<!--", "-->", "<![CDATA[", "]]>"] {
        if let Some(after) = rest.strip_prefix(mark) {
            return Some(after);
        }
    }
    if let Some(comment) = rest.strip_prefix("/*") {
        return Some(comment.split_once("*/").map_or("", |(_, after)| after));
    }
    let comment = rest.strip_prefix("//")?;
    Some(match comment.find(['\n', '\r']) {
        Some(end) => comment.get(end..).unwrap_or_default(),
        None => "",
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn json_as_it_stands_in_pages() {
        let ana = json!({"name": "Ana", "n": 1});
        for text in [
            r#"{"name": "Ana", "n": 1}"#,
            "\u{feff} {\"name\": \"Ana\", \"n\": 1};",
            r#"{"name": "Ana", "n": 1,}"#,
            "{\"name\": \"Ana\", \"n\": 1 , \n }",
            "<!-- {\"name\": \"Ana\", \"n\": 1} -->",
            "//<![CDATA[\n{\"name\": \"Ana\", \"n\": 1}\n//]]>",
            "/*<![CDATA[*/{\"name\": \"Ana\", \"n\": 1}/*]]>*/",
            "{\"name\": \"Ana\", // her name\n \"n\": 1 /* one */}",
            "{&quot;name&quot;: &quot;Ana&quot;, &quot;n&quot;: 1}",
            r#"{"name": "Ana", "n": 1}}"#,
        ] {
            assert_eq!(read(text).unwrap(), std::slice::from_ref(&ana), "{text}");
        }
        for (text, wanted) in [
            ("{\"a\": \"x\ny\"}", json!({"a": "x\ny"})),
            (r#"{"a": "it\'s",}"#, json!({"a": "it's"})),
            (r#"{"a": "C:\path",}"#, json!({"a": "C:\\path"})),
            (
                r#"{"a": "http://x/ /* no comment */",}"#,
                json!({"a": "http://x/ /* no comment */"}),
            ),
            (r#"{"a": "\u00e9\"",}"#, json!({"a": "é\""})),
            ("{\"a\": \"\u{1}b\",}", json!({"a": " b"})),
        ] {
            assert_eq!(read(text).unwrap(), [wanted], "{text}");
        }
        assert_eq!(read("{\"a\":1}\n{\"b\":2}").unwrap().len(), 2);
        assert_eq!(read("  ").unwrap().len(), 0);
        for none in ["var x = 1", "{\"a\": ", "<p>", "\u{0}", &"[".repeat(100_000)] {
            assert_eq!(read(none), None);
        }
    }
}
