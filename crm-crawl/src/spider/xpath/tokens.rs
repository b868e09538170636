//! The words of an expression (XPath 1.0, section 3.7).

/// What is wrong with an expression, and after how many characters.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) reason: String,
    pub(super) at: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    Punctuation(&'static str),
    /// A name in the place of an operator.
    Operator(&'static str),
    Name(String),
    Literal(String),
    Number(f64),
    End,
}

const PUNCTUATION: [&str; 22] = [
    "::", "//", "..", "!=", "<=", ">=", "(", ")", "[", "]", ".", "@", ",", "/", "|", "+", "-", "=", "<", ">",
    "$", "*",
];

pub(super) fn tokens(text: &str) -> Result<Vec<(Token, usize)>, Wrong> {
    let mut tokens: Vec<(Token, usize)> = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start();
        let at = text.len() - rest.len();
        let Some(first) = rest.chars().next() else {
            tokens.push((Token::End, at));
            return Ok(tokens);
        };
        let wrong = |reason: &str| {
            Err(Wrong {
                reason: reason.to_owned(),
                at,
            })
        };
        let digit_after_dot = first == '.' && rest.chars().nth(1).is_some_and(|c| c.is_ascii_digit());
        let (token, length) = if first == '"' || first == '\'' {
            let body = rest.get(1..).unwrap_or_default();
            let Some(length) = body.find(first) else {
                return wrong("the quote is not closed");
            };
            (
                Token::Literal(body.get(..length).unwrap_or_default().to_owned()),
                length + 2,
            )
        } else if first.is_ascii_digit() || digit_after_dot {
            let whole = rest.bytes().take_while(u8::is_ascii_digit).count();
            let mut length = whole;
            if rest.as_bytes().get(whole) == Some(&b'.') {
                length += 1 + rest
                    .bytes()
                    .skip(whole + 1)
                    .take_while(u8::is_ascii_digit)
                    .count();
            }
            let number = rest.get(..length).unwrap_or_default();
            match number.parse() {
                Ok(number) => (Token::Number(number), length),
                Err(_) => return wrong("not a number"),
            }
        } else if first.is_alphabetic() || first == '_' {
            let length = name_length(rest);
            let name = rest.get(..length).unwrap_or_default();
            let operator = ["and", "or", "mod", "div"].into_iter().find(|o| *o == name);
            match operator {
                Some(operator) if ends_operand(&tokens) => (Token::Operator(operator), length),
                _ => (Token::Name(name.to_owned()), length),
            }
        } else if let Some(mark) = PUNCTUATION.into_iter().find(|mark| rest.starts_with(mark)) {
            if mark == "*" && ends_operand(&tokens) {
                (Token::Operator("*"), 1)
            } else {
                (Token::Punctuation(mark), mark.len())
            }
        } else {
            return wrong("this character cannot stand here");
        };
        tokens.push((token, at));
        rest = rest.get(length..).unwrap_or_default();
    }
}

/// Whether a `*` or a name that follows is an operator (3.7).
fn ends_operand(tokens: &[(Token, usize)]) -> bool {
    match tokens.last() {
        None => false,
        Some((Token::Punctuation(mark), _)) => matches!(*mark, ")" | "]" | "." | ".." | "*"),
        Some((Token::Operator(_), _)) => false,
        Some(_) => true,
    }
}

/// A name, with a prefix (`re:test`) or a wildcard after one (`svg:*`) if there is one.
fn name_length(text: &str) -> usize {
    let part = |text: &str| {
        let letters = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '\u{b7}');
        text.find(|c| !letters(c)).unwrap_or(text.len())
    };
    let length = part(text);
    let Some(after) = text.get(length..).and_then(|rest| rest.strip_prefix(':')) else {
        return length;
    };
    if after.starts_with('*') {
        length + 2
    } else if after.starts_with(|c: char| c.is_alphabetic() || c == '_') {
        length + 1 + part(after)
    } else {
        length
    }
}
