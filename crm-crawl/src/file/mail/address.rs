//! Lists of addresses in header fields: RFC 5322, 3.4, its obsolete forms (4.4), and what mailers make of them.

use super::words;

/// One address of a list. `Debug` is not derived: it would show who it is.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Mailbox {
    /// The name in front of it or in a comment behind it, decoded.
    pub(super) name: Option<String>,
    /// The address as it stands, without blanks and comments.
    pub(super) address: String,
}

/// What a list is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Atom,
    Quoted,
    Comment,
    Literal,
    Special(char),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Token {
    kind: Kind,
    text: String,
    /// Blanks or a comment stand before it.
    apart: bool,
}

/// The addresses of a list, and how many of its elements are none. Groups are opened, empty ones hold nobody.
pub(super) fn list(value: &str) -> (Vec<Mailbox>, usize) {
    let tokens = tokens(value);
    let (mut found, mut wrong) = (Vec::new(), 0);
    // A name with a comma and without quotes: it waits for the address behind it.
    let mut waiting = String::new();
    let mut element: Vec<Token> = Vec::new();
    let mut angle = false;
    let mut route = false;
    for token in tokens.into_iter().chain([Token {
        kind: Kind::Special(','),
        text: String::new(),
        apart: false,
    }]) {
        match token.kind {
            Kind::Special('<') => {
                (angle, route) = (true, false);
                element.push(token);
            }
            Kind::Special('>') => {
                angle = false;
                element.push(token);
            }
            Kind::Special('@') if angle && element.last().is_some_and(|t| t.kind == Kind::Special('<')) => {
                route = true;
                element.push(token);
            }
            // `<@a.example,@b.example:ana@c.example>`: the way there is history.
            Kind::Special(',') if angle && route && !token.text.is_empty() => element.push(token),
            Kind::Special(':') if angle => {
                route = false;
                while element.last().is_some_and(|t| t.kind != Kind::Special('<')) {
                    element.pop();
                }
            }
            // `Team: ana@shop.example, bo@shop.example;` - the group's name is nobody's.
            Kind::Special(':') if !element.iter().any(|t| t.kind == Kind::Special('@')) => {
                element.clear();
                waiting.clear();
            }
            Kind::Special(',' | ';') => {
                angle = false;
                let end = token.kind == Kind::Special(';') || token.text.is_empty();
                match mailbox(&element) {
                    Some(mut mailbox) => {
                        if !waiting.is_empty()
                            && let Some(name) = &mailbox.name
                            && element.iter().any(|t| t.kind == Kind::Special('<'))
                        {
                            mailbox.name = Some(format!("{waiting}, {name}"));
                        } else if !waiting.is_empty() {
                            wrong += 1;
                        }
                        waiting.clear();
                        found.push(mailbox);
                    }
                    None => {
                        let words = phrase(&element);
                        let only_words = !words.is_empty()
                            && element
                                .iter()
                                .all(|t| matches!(t.kind, Kind::Atom | Kind::Quoted | Kind::Comment));
                        if !waiting.is_empty() {
                            wrong += 1;
                            waiting.clear();
                        }
                        if only_words && !end {
                            waiting = words;
                        } else if !element.iter().all(|t| t.kind == Kind::Comment) {
                            wrong += 1;
                        }
                    }
                }
                element.clear();
            }
            _ => element.push(token),
        }
    }
    (found, wrong + usize::from(!waiting.is_empty()))
}

/// One element of a list.
fn mailbox(element: &[Token]) -> Option<Mailbox> {
    let begin = element.iter().rposition(|t| t.kind == Kind::Special('<'));
    let (address, name) = match begin {
        Some(begin) => {
            let inside: Vec<Token> = element
                .iter()
                .skip(begin + 1)
                .take_while(|t| t.kind != Kind::Special('>'))
                .filter(|t| t.kind != Kind::Comment)
                .cloned()
                .collect();
            let before = element.get(..begin).unwrap_or_default();
            let mut name = phrase(before);
            if name.is_empty() {
                // `<ana@shop.example> (Ana Kask)`, `<ana@shop.example> Ana`.
                let after: Vec<Token> = element
                    .iter()
                    .skip(begin)
                    .skip_while(|t| t.kind != Kind::Special('>'))
                    .skip(1)
                    .cloned()
                    .collect();
                name = match phrase(&after) {
                    words if words.is_empty() => comment(element),
                    words => words,
                };
            }
            (address(&inside)?, name)
        }
        None => {
            let plain: Vec<Token> = element
                .iter()
                .filter(|t| t.kind != Kind::Comment)
                .cloned()
                .collect();
            // `Ana Kask ana@shop.example`: words, then an address without brackets.
            let at = plain.iter().rposition(|t| t.kind == Kind::Special('@'))?;
            let mut first = at.checked_sub(1)?;
            while let Some(before) = first.checked_sub(1) {
                if !joins(plain.get(before)?, plain.get(first)?) {
                    break;
                }
                first = before;
            }
            let words = phrase(plain.get(..first)?);
            let name = if words.is_empty() { comment(element) } else { words };
            (address(plain.get(first..)?)?, name)
        }
    };
    let name = named(&name, &address);
    Some(Mailbox { name, address })
}

/// Whether two tokens are one address in spite of what may stand between them (obsolete syntax: blanks around dots).
fn joins(left: &Token, right: &Token) -> bool {
    !right.apart
        || left.kind == Kind::Special('@')
        || right.kind == Kind::Special('@')
        || left.text.ends_with('.')
        || right.text.starts_with('.')
}

/// `local@domain` of its tokens.
fn address(tokens: &[Token]) -> Option<String> {
    let at = tokens.iter().rposition(|t| t.kind == Kind::Special('@'))?;
    let (local, domain) = (tokens.get(..at)?, tokens.get(at + 1..)?);
    let whole = |part: &[Token]| part.windows(2).all(|pair| matches!(pair, [a, b] if joins(a, b)));
    if local.is_empty() || domain.is_empty() || !whole(local) || !whole(domain) {
        return None;
    }
    let local: Option<String> = match local {
        // Quotes around what needs none are no part of the address.
        [only] if only.kind == Kind::Quoted => Some(only.text.clone()),
        _ => local
            .iter()
            .map(|t| matches!(t.kind, Kind::Atom).then_some(t.text.as_str()))
            .collect(),
    };
    let domain: Option<String> = domain
        .iter()
        .map(|t| matches!(t.kind, Kind::Atom | Kind::Literal).then_some(t.text.as_str()))
        .collect();
    Some(format!("{}@{}", local?, domain?))
}

/// The words of a display name, as they stand and decoded.
fn phrase(tokens: &[Token]) -> String {
    let mut words = String::new();
    for token in tokens.iter().filter(|t| t.kind != Kind::Comment) {
        if token.apart && !words.is_empty() {
            words.push(' ');
        }
        match token.kind {
            Kind::Special('<' | '>') => {}
            Kind::Special(c) => words.push(c),
            _ => words.push_str(&token.text),
        }
    }
    words::decoded(&words)
}

/// The last comment: the name in `ana@shop.example (Ana Kask)`.
fn comment(tokens: &[Token]) -> String {
    let last = tokens.iter().rev().find(|t| t.kind == Kind::Comment);
    last.map(|t| words::decoded(&t.text)).unwrap_or_default()
}

/// A name that says more than the address does.
fn named(name: &str, address: &str) -> Option<String> {
    let mut name = name.trim();
    // Outlook puts quotes into the quotes.
    for (open, close) in [('\'', '\''), ('"', '"'), ('‘', '’'), ('“', '”')] {
        if let Some(inner) = name.strip_prefix(open).and_then(|rest| rest.strip_suffix(close)) {
            name = inner.trim();
        }
    }
    let same = |other: &str| name.eq_ignore_ascii_case(other);
    let nothing = name.is_empty()
        || same(address)
        || address.rsplit_once('@').is_some_and(|(local, _)| name == local)
        || name.contains('@') && !name.contains(' ')
        || name.contains('\u{fffd}')
        || !name.chars().any(char::is_alphanumeric);
    (!nothing).then(|| name.to_owned())
}

/// Cuts a list into tokens. A quote, bracket or comment that is never closed is an ordinary character.
fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let (mut at, mut apart) = (0, false);
    // Found once not to be closed, not looked for again: the text is read once.
    let (mut quotes, mut comments, mut literals) = (true, true, true);
    while let Some(c) = chars.get(at) {
        let enclosed = match c {
            '"' if quotes => {
                let end = until(&chars, at, '"', None);
                quotes = end.is_some();
                end.map(|end| (Kind::Quoted, end))
            }
            '(' if comments => {
                let end = until(&chars, at, ')', Some('('));
                comments = end.is_some();
                end.map(|end| (Kind::Comment, end))
            }
            '[' if literals => {
                let end = until(&chars, at, ']', None);
                literals = end.is_some();
                end.map(|end| (Kind::Literal, end))
            }
            _ => None,
        };
        if let Some((kind, end)) = enclosed {
            let inside = chars.get(at + 1..end).unwrap_or_default();
            let text = match kind {
                Kind::Literal => format!("[{}]", inside.iter().collect::<String>()),
                _ => unescaped(inside),
            };
            let comment = kind == Kind::Comment;
            tokens.push(Token { kind, text, apart });
            apart = comment;
            at = end + 1;
            continue;
        }
        at += 1;
        if c.is_whitespace() || c.is_control() || matches!(c, '"' | '(' | ')') {
            apart = true;
            continue;
        }
        if matches!(c, '<' | '>' | '@' | ',' | ';' | ':') {
            tokens.push(Token {
                kind: Kind::Special(*c),
                text: c.to_string(),
                apart,
            });
            apart = false;
            continue;
        }
        match tokens.last_mut() {
            Some(Token {
                kind: Kind::Atom,
                text,
                ..
            }) if !apart => text.push(*c),
            _ => tokens.push(Token {
                kind: Kind::Atom,
                text: c.to_string(),
                apart,
            }),
        }
        apart = false;
    }
    tokens
}

/// Where what was opened at `at` is closed; `nested` opens another level.
fn until(chars: &[char], at: usize, close: char, nested: Option<char>) -> Option<usize> {
    let (mut depth, mut escaped) = (1_usize, false);
    for (i, c) in chars.iter().enumerate().skip(at + 1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if *c == close => {
                depth -= 1;
                if depth == 0 {
                    return Some(i);
                }
            }
            c if Some(*c) == nested => depth += 1,
            _ => {}
        }
    }
    None
}

fn unescaped(chars: &[char]) -> String {
    let (mut out, mut escaped) = (String::with_capacity(chars.len()), false);
    for c in chars {
        if *c == '\\' && !escaped {
            escaped = true;
        } else {
            out.push(*c);
            escaped = false;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(value: &str) -> String {
        let (found, wrong) = list(value);
        let mut told: Vec<String> = found
            .into_iter()
            .map(|m| {
                format!(
                    "{}<{}>",
                    m.name.map(|name| name + " ").unwrap_or_default(),
                    m.address
                )
            })
            .collect();
        if wrong > 0 {
            told.push(format!("{wrong} wrong"));
        }
        told.join(" | ")
    }

    #[test]
    fn lists_of_addresses() {
        for (written, meant) in [
            // RFC 5322, A.1.2, A.1.3, A.5, A.6.
            (
                r#""Joe Q. Public" <john.q.public@example.com>"#,
                "Joe Q. Public <john.q.public@example.com>",
            ),
            (
                r#"Mary Smith <mary@x.test>, jdoe@example.org, Who? <one@y.test>"#,
                "Mary Smith <mary@x.test> | <jdoe@example.org> | Who? <one@y.test>",
            ),
            (
                r#"<boss@nil.test>, "Giant; \"Big\" Box" <sysservices@example.net>"#,
                r#"<boss@nil.test> | Giant; "Big" Box <sysservices@example.net>"#,
            ),
            (
                "A Group:Ed Jones <c@a.test>,joe@where.test,John <jdoe@one.test>;",
                "Ed Jones <c@a.test> | <joe@where.test> | John <jdoe@one.test>",
            ),
            ("Undisclosed recipients:;", ""),
            (
                r"Pete(A nice \) chap) <pete(his account)@silly.test(his host)>",
                "Pete <pete@silly.test>",
            ),
            (
                "A Group(Some people):Chris Jones <c@(Chris's host.)public.example>, joe@example.org, John <jdoe@one.test> (my dear friend); (the end of the group)",
                "Chris Jones <c@public.example> | <joe@example.org> | John <jdoe@one.test>",
            ),
            (
                "(Empty list)(start)Hidden recipients  :(nobody(that I know))  ;",
                "",
            ),
            (
                "Mary Smith <@node.test:mary@example.net>, , jdoe@test  . example",
                "Mary Smith <mary@example.net> | <jdoe@test.example>",
            ),
            ("<@a.test,@b.test:c@d.test>, e@f.test", "<c@d.test> | <e@f.test>"),
            (
                "John Doe <jdoe@machine(comment).  example>",
                "John Doe <jdoe@machine.example>",
            ),
            // What mailers make of it.
            ("ana@shop.example (Ana Kask)", "Ana Kask <ana@shop.example>"),
            ("Kask, Ana <ana@shop.example>", "Kask, Ana <ana@shop.example>"),
            ("Ana Kask ana@shop.example", "Ana Kask <ana@shop.example>"),
            ("'Ana Kask' <ana@shop.example>", "Ana Kask <ana@shop.example>"),
            (r#""'ana@shop.example'" <ana@shop.example>"#, "<ana@shop.example>"),
            ("ana@shop.example <ana@shop.example>", "<ana@shop.example>"),
            ("a@x.example; b@x.example", "<a@x.example> | <b@x.example>"),
            ("<mailto:ana@shop.example>", "<ana@shop.example>"),
            ("<<ana@shop.example>>", "<ana@shop.example>"),
            (
                "<ana@shop.example, bo@shop.example",
                "<ana@shop.example> | <bo@shop.example>",
            ),
            (
                r#""Ana <ana@shop.example>, b@x.example"#,
                "Ana <ana@shop.example> | <b@x.example>",
            ),
            (
                "=?utf-8?q?Kask=2C_=22Ana=22?= <ana@shop.example>",
                r#"Kask, "Ana" <ana@shop.example>"#,
            ),
            (
                "=?utf-8?q?evil=40x=2Etest=3E=2C?= <ana@shop.example>",
                "<ana@shop.example>",
            ),
            (
                r#""=?utf-8?B?w4TDpA==?=" <ana@shop.example>"#,
                "Ää <ana@shop.example>",
            ),
            (
                "Jürgen Müller <jürgen@müller.example>",
                "Jürgen Müller <jürgen@müller.example>",
            ),
            (r#""ana.kask"@shop.example"#, "<ana.kask@shop.example>"),
            ("ana@[192.0.2.1]", "<ana@[192.0.2.1]>"),
            ("Ana", "1 wrong"),
            ("Ana <>", "1 wrong"),
            ("@shop.example", "1 wrong"),
            ("ana@", "1 wrong"),
            ("Ana <ana kask@shop.example>", "1 wrong"),
            ("", ""),
        ] {
            assert_eq!(told(written), meant, "{written}");
        }
    }

    #[test]
    fn nothing_takes_more_than_one_look() {
        // Each of these would be looked at again and again by a reader that goes back.
        for one in ["(", "\"", "[", "(\\", "<", "<@", "a:", "a,", "=?utf-8?q?"] {
            let (found, _) = list(&one.repeat(20_000));
            assert!(found.is_empty());
        }
    }
}
