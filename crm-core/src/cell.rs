//! Cells of files that people open in spreadsheets: what would be taken for a formula is guarded on the way out, and the
//! guard is taken off on the way in.
//!
//! A spreadsheet computes a cell that begins with `=`, `+`, `-` or `@`, whatever the file's author meant
//! (OWASP, "CSV Injection"; CWE-1236). The usual guard is an apostrophe in front. [`guard`] puts it before every line of
//! a cell that needs it, also when blanks or no-break blanks stand first, and [`unguard`] is its exact inverse, so that
//! nothing is changed by going out and coming back.
//!
//! ```
//! use crm_core::cell::{guard, unguard};
//!
//! assert_eq!(guard("=HYPERLINK(\"http://evil.example\")"), "'=HYPERLINK(\"http://evil.example\")");
//! assert_eq!(guard("+61491570156"), "'+61491570156"); // and keeps its plus
//! assert_eq!(guard("-12.50"), "-12.50"); // a plain number stays one
//! assert_eq!(guard("O'Neil"), "O'Neil");
//! assert_eq!(unguard(&guard("'=1+1")), "'=1+1");
//! ```

use std::borrow::Cow;

/// `text` with an apostrophe before each line that a spreadsheet would take for a formula.
pub fn guard(text: &str) -> Cow<'_, str> {
    if is_plain_number(text) || !lines(text).any(|(line, _)| is_risky(line)) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 4);
    for (line, end) in lines(text) {
        if is_risky(line) {
            out.push('\'');
        }
        out.push_str(line);
        out.push_str(end);
    }
    Cow::Owned(out)
}

/// What [`guard`] was given; text that was never guarded stays as it is.
pub fn unguard(text: &str) -> Cow<'_, str> {
    let guarded = |line: &str| line.strip_prefix('\'').is_some_and(is_risky);
    if !lines(text).any(|(line, _)| guarded(line)) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    for (line, end) in lines(text) {
        out.push_str(if guarded(line) {
            line.get(1..).unwrap_or_default()
        } else {
            line
        });
        out.push_str(end);
    }
    Cow::Owned(out)
}

/// Lines with their ends; a lone CR ends one too.
fn lines(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.split_inclusive(['\n', '\r']).map(|line| {
        let body = line.trim_end_matches(['\n', '\r']);
        (body, line.get(body.len()..).unwrap_or_default())
    })
}

/// After any apostrophes and blanks, a character that begins a formula: in ASCII, in full width, or a control character
/// that moves into another cell.
fn is_risky(line: &str) -> bool {
    let rest = line.trim_start_matches('\'');
    // A tab at the very start splits the cell in some programs.
    if rest.starts_with(['\t', '\0']) {
        return true;
    }
    rest.trim_start_matches(|c: char| {
        c.is_whitespace()
            || c.is_control()
            || matches!(c, '\'' | '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}')
    })
    .starts_with([
        '=', '+', '-', '@', '\u{ff1d}', '\u{ff0b}', '\u{ff0d}', '\u{ff20}', '\u{2212}',
    ])
}

/// `-12`, `-3.5`: a number, not a formula. With a plus it would lose the plus, so that one is guarded.
fn is_plain_number(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let (whole, part) = digits.split_once('.').unwrap_or((digits, "0"));
    let plain = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
    plain(whole) && plain(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_begins_a_formula_is_guarded() {
        for risky in [
            "=1+1",
            "+1",
            "-cmd|' /C calc'!A0",
            "@SUM(A1)",
            "\t=1",
            "\r=1",
            " =1",
            "\u{a0}=1",
            "\u{3000}=1",
            "\u{feff}=1",
            "\u{ff1d}1",
            "\u{ff0b}1",
            "\u{ff0d}1",
            "\u{ff20}x",
            "first\n=second",
            "first\r\n@second",
            "-1-1",
            "--1",
            "'=1",
        ] {
            let safe = guard(risky);
            assert_ne!(safe, risky, "{risky:?}");
            for line in safe.split(['\n', '\r']) {
                let start = line.trim_start();
                assert!(
                    start.is_empty() || !start.starts_with(['=', '+', '-', '@']),
                    "{line:?} of {risky:?}"
                );
            }
            assert_eq!(unguard(&safe), risky);
        }
        for plain in [
            "", "Ana", "a=b", "-5", "-0.25", "007", "O'Neil", "'t Hooft", "1-2", "\n", "'",
        ] {
            assert_eq!(guard(plain), plain);
            assert_eq!(unguard(plain), plain);
        }
    }

    #[test]
    fn any_text_comes_back() {
        // Every text of up to six of the characters that matter.
        let letters = ['=', '\'', '-', '1', ' ', '\n', '\r', '\t', 'a', '.'];
        for n in 0..10_u32.pow(6) {
            let mut text = String::new();
            let mut left = n;
            while left > 0 {
                text.push(letters[(left % 10) as usize]);
                left /= 10;
            }
            assert_eq!(unguard(&guard(&text)), text, "{text:?}");
        }
    }
}
