//! A text part made of an HTML part, for readers that show no HTML.

/// Elements whose content nobody reads.
const HIDDEN: [&str; 5] = ["script", "style", "head", "title", "template"];
/// Elements that begin and end a line.
const BLOCKS: [&str; 21] = [
    "p",
    "div",
    "section",
    "article",
    "header",
    "footer",
    "table",
    "tr",
    "ul",
    "ol",
    "li",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "blockquote",
    "pre",
    "hr",
    "form",
];

/// The words of the page, blocks as lines, links with their address behind them.
pub(crate) fn text_of(html: &str) -> String {
    let mut page = Page::default();
    let mut rest = html;
    while let Some(at) = rest.find('<') {
        let (words, tag) = rest.split_at_checked(at).unwrap_or((rest, ""));
        page.words(words);
        if let Some(comment) = tag.strip_prefix("<!--") {
            rest = comment.split_once("-->").map_or("", |(_, later)| later);
            continue;
        }
        // A bracket that begins no tag is a sign like any other.
        if !tag
            .get(1..2)
            .is_some_and(|next| next.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/' || c == '!'))
        {
            page.words("<");
            rest = tag.get(1..).unwrap_or_default();
            continue;
        }
        let end = tag_end(tag);
        let (inside, later) = tag.split_at_checked(end).unwrap_or((tag, ""));
        rest = later.strip_prefix('>').unwrap_or(later);
        let inside = inside.get(1..).unwrap_or_default();
        let name: String = inside
            .trim_start_matches('/')
            .chars()
            .take_while(char::is_ascii_alphanumeric)
            .collect::<String>()
            .to_ascii_lowercase();
        let closes = inside.starts_with('/');
        if HIDDEN.contains(&name.as_str()) && !closes {
            rest = after_closing(rest, &name);
        } else {
            page.tag(&name, closes, inside);
        }
    }
    page.words(rest);
    page.finish()
}

/// Where a tag ends: at the `>` that stands in no quotes.
fn tag_end(tag: &str) -> usize {
    let mut quote = None;
    for (at, c) in tag.char_indices() {
        match (quote, c) {
            (None, '>') => return at,
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), c) if open == c => quote = None,
            _ => {}
        }
    }
    tag.len()
}

fn after_closing<'a>(rest: &'a str, name: &str) -> &'a str {
    let mut from = rest;
    while let Some(at) = from.find("</") {
        let tag = from.get(at + 2..).unwrap_or_default();
        if tag
            .get(..name.len())
            .is_some_and(|found| found.eq_ignore_ascii_case(name))
        {
            return tag.split_once('>').map_or("", |(_, later)| later);
        }
        from = tag;
    }
    ""
}

#[derive(Default)]
struct Page {
    out: String,
    /// A blank is due before the next word.
    blank: bool,
    /// How many line ends are due before the next word.
    lines: usize,
    link: Option<(String, usize)>,
}

impl Page {
    fn begin(&mut self) {
        if !self.out.is_empty() {
            if self.lines > 0 {
                self.out.extend(std::iter::repeat_n('\n', self.lines.min(2)));
            } else if self.blank {
                self.out.push(' ');
            }
        }
        (self.blank, self.lines) = (false, 0);
    }

    fn words(&mut self, text: &str) {
        let text = unescaped(text);
        let mut first = true;
        for word in text.split([' ', '\t', '\r', '\n']) {
            self.blank |= !first;
            first = false;
            if !word.is_empty() {
                self.begin();
                self.out.push_str(word);
            }
        }
    }

    fn tag(&mut self, name: &str, closes: bool, inside: &str) {
        match name {
            "br" => self.lines += 1,
            "td" | "th" => self.blank = true,
            "a" if !closes => {
                let href = attribute(inside, "href").map(|href| unescaped(href).into_owned());
                self.link = href
                    .filter(|href| href.starts_with("http") || href.starts_with("mailto:"))
                    .map(|href| (href, self.out.len()));
            }
            "a" => {
                if let Some((href, start)) = self.link.take() {
                    let shown = self.out.get(start..).unwrap_or_default().trim();
                    let same = shown == href || href.strip_prefix("mailto:") == Some(shown);
                    if !same {
                        self.blank |= !self.out.is_empty();
                        self.begin();
                        self.out.push_str(&format!("<{href}>"));
                    }
                }
            }
            "img" => {
                if let Some(shown) = attribute(inside, "alt") {
                    self.words(shown);
                }
            }
            _ if BLOCKS.contains(&name) => {
                let apart = !matches!(name, "li" | "tr" | "div");
                self.lines = self.lines.max(if apart { 2 } else { 1 });
                if name == "li" && !closes {
                    self.begin();
                    self.out.push_str("- ");
                }
            }
            _ => {}
        }
    }

    fn finish(mut self) -> String {
        let length = self.out.trim_end().len();
        self.out.truncate(length);
        if !self.out.is_empty() {
            self.out.push('\n');
        }
        self.out
    }
}

/// The value of an attribute within a tag.
fn attribute<'a>(inside: &'a str, name: &str) -> Option<&'a str> {
    let mut rest = inside;
    while let Some(at) = rest.find(|c: char| c.is_ascii_whitespace()) {
        rest = rest.get(at..)?.trim_start();
        let value = rest
            .get(..name.len())
            .filter(|found| found.eq_ignore_ascii_case(name))
            .and_then(|_| rest.get(name.len()..)?.trim_start().strip_prefix('='));
        if let Some(value) = value {
            let value = value.trim_start();
            return match value.chars().next() {
                Some(quote @ ('"' | '\'')) => value.get(1..)?.split(quote).next(),
                _ => value.split([' ', '\t', '\r', '\n', '>']).next(),
            };
        }
    }
    None
}

/// Character references that occur in mail.
fn unescaped(text: &str) -> std::borrow::Cow<'_, str> {
    if !text.contains('&') {
        return text.into();
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('&') {
        out.push_str(before);
        let reference = after
            .split_once(';')
            .filter(|(name, _)| name.len() <= 10)
            .and_then(|(name, later)| Some((referred(name)?, later)));
        match reference {
            Some((c, later)) => {
                out.push(c);
                rest = later;
            }
            None => {
                out.push('&');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out.into()
}

fn referred(name: &str) -> Option<char> {
    if let Some(number) = name.strip_prefix('#') {
        let code = match number.strip_prefix(['x', 'X']) {
            Some(hex) => u32::from_str_radix(hex, 16).ok()?,
            None => number.parse().ok()?,
        };
        return char::from_u32(code).filter(|c| !c.is_control() || *c == '\n');
    }
    Some(match name {
        "amp" => '&',
        "lt" => '<',
        "gt" => '>',
        "quot" => '"',
        "apos" => '\'',
        "nbsp" => '\u{a0}',
        "shy" => '\u{ad}',
        "euro" => '€',
        "pound" => '£',
        "copy" => '©',
        "reg" => '®',
        "trade" => '™',
        "hellip" => '…',
        "ndash" => '–',
        "mdash" => '—',
        "bull" => '•',
        "middot" => '·',
        "laquo" => '«',
        "raquo" => '»',
        "lsquo" => '‘',
        "rsquo" => '’',
        "ldquo" => '“',
        "rdquo" => '”',
        "times" => '×',
        "auml" => 'ä',
        "ouml" => 'ö',
        "uuml" => 'ü',
        "Auml" => 'Ä',
        "Ouml" => 'Ö',
        "Uuml" => 'Ü',
        "szlig" => 'ß',
        "eacute" => 'é',
        "egrave" => 'è',
        "agrave" => 'à',
        "ccedil" => 'ç',
        "ntilde" => 'ñ',
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_reader_sees() {
        let html = "<!doctype html><html><head><title>x</title><style>p{}</style></head><body><!-- no -->\
            <h1>Spring &amp; sun</h1>\n<p>Hello&nbsp;Ana,<br>see <a href=\"https://shop.example/a?b=1&amp;c=2\">our shop</a>\n\
            or <a href='https://shop.example'>https://shop.example</a>.</p><ul><li>one<li>two</ul>\
            <script>if (a < b) {}</script><p>5 < 6 &#8364; <img alt='logo' src=x></body>";
        assert_eq!(
            text_of(html),
            "Spring & sun\n\nHello\u{a0}Ana,\nsee our shop <https://shop.example/a?b=1&c=2> or https://shop.example.\n\n\
             - one\n- two\n\n5 < 6 € logo\n"
        );
    }

    #[test]
    fn broken_html_ends() {
        for html in [
            "",
            "<",
            "<a",
            "<a href=",
            "<!--",
            "<script>",
            "</",
            "&",
            "&#;",
            "a<b>c<",
            "<p title=\"a>b",
        ] {
            let _ = text_of(html);
        }
        assert_eq!(text_of("<p title=\"a>b\">c</p>"), "c\n");
        let deep = "<div>".repeat(200_000);
        assert_eq!(text_of(&deep), "");
    }

    proptest::proptest! {
        #[test]
        fn no_text_is_too_odd(html in "(?s).{0,200}|[<>/a!\\-\"'= &;#]{0,200}") {
            let text = text_of(&html);
            proptest::prop_assert!(text.is_empty() || text.ends_with('\n'));
        }
    }
}
