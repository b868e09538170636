use crate::{Error, Result};

/// A piece of the text.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    /// A bare word: a field, a key or one of the language's words.
    Word(String),
    /// A name in double quotes: never one of the language's words.
    Name(String),
    /// Text in single quotes.
    Text(String),
    /// `x'00ff'`.
    Bytes(Vec<u8>),
    /// Digits with sign, point and exponent.
    Number(String),
    /// `( ) , . = != < <= > >=`
    Sign(&'static str),
    /// Behind the last.
    End,
}

/// A piece and where it begins, in characters from 1.
#[derive(Debug, Clone)]
pub(super) struct Placed {
    pub(super) token: Token,
    pub(super) position: usize,
}

/// An error at a place of the text.
pub(super) fn wrong(position: usize, message: &'static str) -> Error {
    Error::invalid(message).with("position", position)
}

const SIGNS: [&str; 11] = ["!=", "<>", "<=", ">=", "=", "<", ">", "(", ")", ",", "."];

pub(super) fn tokens(text: &str) -> Result<Vec<Placed>> {
    let mut found = Vec::new();
    let mut lexer = Lexer {
        rest: text,
        position: 1,
    };
    loop {
        lexer.take_while(char::is_whitespace);
        let position = lexer.position;
        let token = lexer.next()?;
        let end = token == Token::End;
        found.push(Placed { token, position });
        if end {
            return Ok(found);
        }
    }
}

struct Lexer<'a> {
    rest: &'a str,
    position: usize,
}

impl<'a> Lexer<'a> {
    fn take_while(&mut self, belongs: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|c| !belongs(c)).unwrap_or(self.rest.len());
        self.take(end)
    }

    fn take(&mut self, bytes: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at_checked(bytes).unwrap_or((self.rest, ""));
        self.position += taken.chars().count();
        self.rest = rest;
        taken
    }

    fn next(&mut self) -> Result<Token> {
        let Some(first) = self.rest.chars().next() else {
            return Ok(Token::End);
        };
        let begins_number = |text: &str| {
            let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
            digits.starts_with(|c: char| c.is_ascii_digit())
        };
        if first == '\'' {
            return self.quoted('\'').map(Token::Text);
        }
        if first == '"' {
            return self.quoted('"').map(Token::Name);
        }
        if self.rest.starts_with("x'") || self.rest.starts_with("X'") {
            let position = self.position;
            self.take(1);
            return hex(&self.quoted('\'')?).map(Token::Bytes).ok_or_else(|| {
                wrong(
                    position,
                    "bytes are written as pairs of hexadecimal digits, x'00ff'",
                )
            });
        }
        if begins_number(self.rest) {
            return Ok(Token::Number(self.number()));
        }
        if first.is_alphabetic() || first == '_' {
            let word = self.take_while(|c| c.is_alphanumeric() || c == '_');
            return Ok(Token::Word(word.to_owned()));
        }
        match SIGNS.into_iter().find(|sign| self.rest.starts_with(sign)) {
            Some(sign) => {
                self.take(sign.len());
                Ok(Token::Sign(if sign == "<>" { "!=" } else { sign }))
            }
            None => Err(wrong(
                self.position,
                "this character does not belong here; text stands in single quotes",
            )),
        }
    }

    /// Digits, and a point or exponent where digits follow: `attributes.5` never comes here, because words take theirs.
    fn number(&mut self) -> String {
        let mut number = self
            .take(usize::from(self.rest.starts_with(['-', '+'])))
            .to_owned();
        let digits = |lexer: &mut Self| lexer.take_while(|c| c.is_ascii_digit());
        number.push_str(digits(self));
        let follows = |text: &str, signs: &[char]| {
            let mut chars = text.chars();
            chars.next().is_some_and(|c| signs.contains(&c))
                && match chars.next() {
                    Some('-' | '+') => chars.next().is_some_and(|c| c.is_ascii_digit()),
                    Some(c) => c.is_ascii_digit(),
                    None => false,
                }
        };
        if self.rest.starts_with('.') && follows(self.rest, &['.']) {
            number.push_str(self.take(1));
            number.push_str(digits(self));
        }
        if follows(self.rest, &['e', 'E']) {
            number.push_str(self.take(2));
            number.push_str(digits(self));
        }
        number
    }

    /// What stands between two quotes; two of them in a row stand for one.
    fn quoted(&mut self, quote: char) -> Result<String> {
        let begin = self.position;
        self.take(1);
        let mut text = String::new();
        loop {
            text.push_str(self.take_while(|c| c != quote));
            if self.take(1).is_empty() {
                return Err(wrong(begin, "the quote that begins here is not closed"));
            }
            if !self.rest.starts_with(quote) {
                return Ok(text);
            }
            text.push_str(self.take(1));
        }
    }
}

fn hex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) {
        return None;
    }
    let digit = |byte: &u8| {
        (*byte as char)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    text.as_bytes()
        .chunks_exact(2)
        .map(|pair| Some(digit(pair.first()?)? << 4 | digit(pair.last()?)?))
        .collect()
}
