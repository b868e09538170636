//! RFC 9309 case by case, and against a matcher that is not ours.

use std::fmt::Write as _;

use proptest::prelude::*;
use robotstxt::DefaultMatcher;

use super::*;

fn allows(text: &str, token: &str, url: &str) -> bool {
    Rules::parse(text.as_bytes(), token).allows(&Url::parse(url).unwrap())
}

/// CRW-1. What each rule of the RFC means: the situations of the reference implementation's own test, and of the RFC's text.
#[test]
fn the_rules_case_by_case() {
    const GROUPS: &str = "allow: /before/any/\n\nuser-agent: Ana\ndisallow: /\nallow: /one/\nuser-agent: Bea\ndisallow: /\n\
        allow: /two/\n\n\nallow: /three/\nuser-agent: Cid\n\nuser-agent: Ana\nallow: /four/\ndisallow: /\n";
    let one = "user-agent: Ana\n";
    let table: Vec<(&str, String, &str, &str, bool)> = [
        // Lines (2.2).
        ("a rule", "user-agent: Ana\ndisallow: /\n", "Ana", "/x/y", false),
        ("no rule", "foo: Ana\nbar: /\n", "Ana", "/x/y", true),
        ("no colon", "user-agent Ana\ndisallow /\n", "Ana", "/x/y", false),
        (
            "upper case",
            "USER-AGENT: Ana\nALLOW: /x/\nDISALLOW: /\n",
            "Ana",
            "/x/y",
            true,
        ),
        (
            "upper case",
            "USER-AGENT: Ana\nALLOW: /x/\nDISALLOW: /\n",
            "Ana",
            "/a/b",
            false,
        ),
        (
            "mixed case",
            "uSeR-aGeNt: Ana\nAlLoW: /x/\ndIsAlLoW: /\n",
            "Ana",
            "/x/y",
            true,
        ),
        (
            "mixed case",
            "uSeR-aGeNt: Ana\nAlLoW: /x/\ndIsAlLoW: /\n",
            "Ana",
            "/a/b",
            false,
        ),
        ("CR LF", "user-agent: Ana\r\ndisallow: /x\r\n", "Ana", "/x", false),
        ("CR alone", "user-agent: Ana\rdisallow: /x\r", "Ana", "/x", false),
        (
            "no last line end",
            "user-agent: Ana\ndisallow: /x",
            "Ana",
            "/x",
            false,
        ),
        (
            "mixed line ends",
            "user-agent: Ana\n\r\n\rdisallow: /x\r\n",
            "Ana",
            "/x",
            false,
        ),
        (
            "byte order mark",
            "\u{feff}user-agent: Ana\ndisallow: /x\n",
            "Ana",
            "/x",
            false,
        ),
        (
            "blanks and tabs",
            "  user-agent \t:\t Ana \ndisallow :\t/x \t# why\n",
            "Ana",
            "/x",
            false,
        ),
        (
            "a mark in the middle is no mark",
            "user-agent: Ana\n\u{feff}disallow: /x\n",
            "Ana",
            "/x",
            true,
        ),
        // Groups (2.2, 2.2.1).
        ("both groups of a name", GROUPS, "Ana", "/one/b", true),
        ("both groups of a name", GROUPS, "Ana", "/four/d", true),
        ("not another's", GROUPS, "Ana", "/two/c", false),
        ("blank lines end nothing", GROUPS, "Bea", "/two/c", true),
        ("blank lines end nothing", GROUPS, "Bea", "/three/a", true),
        ("not another's", GROUPS, "Bea", "/four/d", false),
        ("two names in a row", GROUPS, "Cid", "/four/d", true),
        ("outside of groups", GROUPS, "Ana", "/before/any/", false),
        ("outside of groups", GROUPS, "Bea", "/before/any/", false),
        ("outside of groups", GROUPS, "Cid", "/before/any/", false),
        (
            "other records end no group",
            "user-agent: Ana\nfoo: bar\nuser-agent: Bea\ndisallow: /\n",
            "Ana",
            "/x",
            false,
        ),
        (
            "nor do sitemaps",
            "user-agent: Ana\nsitemap: http://s.example/s\nuser-agent: Bea\ndisallow: /\n",
            "Ana",
            "/x",
            false,
        ),
        (
            "nor crawl delays",
            "user-agent: Ana\ncrawl-delay: 1\nuser-agent: Bea\ndisallow: /\n",
            "Ana",
            "/x",
            false,
        ),
        (
            "an empty rule does",
            "user-agent: Ana\ndisallow:\nuser-agent: Bea\ndisallow: /\n",
            "Ana",
            "/x",
            true,
        ),
        // Names (2.2.1).
        (
            "name in upper case",
            "User-Agent: FOO BAR\nAllow: /x/\nDisallow: /\n",
            "Foo",
            "/x/y",
            true,
        ),
        (
            "name in upper case",
            "User-Agent: FOO BAR\nAllow: /x/\nDisallow: /\n",
            "foo",
            "/a/b",
            false,
        ),
        (
            "name in lower case",
            "User-Agent: foo bar\nAllow: /x/\nDisallow: /\n",
            "Foo",
            "/a/b",
            false,
        ),
        (
            "name in mixed case",
            "User-Agent: FoO bAr\nAllow: /x/\nDisallow: /\n",
            "foo",
            "/x/y",
            true,
        ),
        (
            "name with a version",
            "User-Agent: Ana/2.1\nDisallow: /\n",
            "Ana",
            "/x",
            false,
        ),
        (
            "a longer name is another's",
            "User-Agent: AnaBot\nDisallow: /\n",
            "Ana",
            "/x",
            true,
        ),
        (
            "a shorter name is another's",
            "User-Agent: An\nDisallow: /\n",
            "Ana",
            "/x",
            true,
        ),
        (
            "hyphen and underscore",
            "User-Agent: a_b-c\nDisallow: /\n",
            "A_B-C",
            "/x",
            false,
        ),
        // Everybody (2.2.1).
        ("no rules at all", "", "Ana", "/x/y", true),
        (
            "an own group comes before everybody's",
            "user-agent: *\nallow: /\nuser-agent: Ana\ndisallow: /\n",
            "Ana",
            "/x/y",
            false,
        ),
        (
            "everybody else",
            "user-agent: *\nallow: /\nuser-agent: Ana\ndisallow: /\n",
            "Bea",
            "/x/y",
            true,
        ),
        (
            "nobody's business",
            "user-agent: Ana\nallow: /\nuser-agent: Bea\ndisallow: /\n",
            "Quy",
            "/x/y",
            true,
        ),
        (
            "an own group without rules",
            "user-agent: *\ndisallow: /\nuser-agent: Ana\n",
            "Ana",
            "/x",
            true,
        ),
        (
            "star and more",
            "user-agent: * Ana\ndisallow: /\n",
            "Ana",
            "/x",
            false,
        ),
        (
            "star glued to more",
            "user-agent: *Ana\ndisallow: /\n",
            "Ana",
            "/x",
            true,
        ),
        (
            "rules of both groups are not mixed",
            "user-agent: *\ndisallow: /x/\nuser-agent: Ana\ndisallow: /y/\n",
            "Ana",
            "/x/p",
            true,
        ),
        (
            "rules of both groups are not mixed",
            "user-agent: *\ndisallow: /x/\nuser-agent: Ana\ndisallow: /y/\n",
            "Ana",
            "/y/p",
            false,
        ),
    ]
    .into_iter()
    .map(|(what, text, token, path, answer)| (what, text.to_owned(), token, path, answer))
    .chain(
        [
            // Allow and disallow (2.2.2).
            ("case of paths", "disallow: /x/", "/x/y", false),
            ("case of paths", "disallow: /X/", "/x/y", true),
            (
                "the longest match",
                "disallow: /x/page.html\nallow: /x/",
                "/x/page.html",
                false,
            ),
            (
                "the longest match",
                "allow: /x/page.html\ndisallow: /x/",
                "/x/page.html",
                true,
            ),
            (
                "the longest match",
                "allow: /x/page.html\ndisallow: /x/",
                "/x/",
                false,
            ),
            ("empty rules", "disallow: \nallow: ", "/x/page.html", true),
            (
                "one length: allowed",
                "disallow: /\nallow: /",
                "/x/page.html",
                true,
            ),
            ("longer by a slash", "disallow: /x\nallow: /x/", "/x", false),
            ("longer by a slash", "disallow: /x\nallow: /x/", "/x/", true),
            (
                "one length: allowed",
                "disallow: /x/page.html\nallow: /x/page.html",
                "/x/page.html",
                true,
            ),
            (
                "longer by a star",
                "allow: /page\ndisallow: /*.html",
                "/page.html",
                false,
            ),
            (
                "longer by a star",
                "allow: /page\ndisallow: /*.html",
                "/page",
                true,
            ),
            (
                "longer than with a star",
                "allow: /x/page.\ndisallow: /*.html",
                "/x/page.html",
                true,
            ),
            (
                "longer than with a star",
                "allow: /x/page.\ndisallow: /*.html",
                "/x/y.html",
                false,
            ),
            ("robots.txt itself", "disallow: /", "/robots.txt", true),
            ("a rule without slash", "disallow: x", "/x", true),
            // Escapes (2.2.2).
            (
                "a URL in a URL",
                "disallow: /\nallow: /foo/bar?qux=taz&baz=http://foo.bar?tar&par",
                "/foo/bar?qux=taz&baz=http://foo.bar?tar&par",
                true,
            ),
            (
                "three bytes",
                "disallow: /\nallow: /foo/bar/ツ",
                "/foo/bar/%E3%83%84",
                true,
            ),
            (
                "three bytes",
                "disallow: /\nallow: /foo/bar/ツ",
                "/foo/bar/ツ",
                true,
            ),
            (
                "three escapes",
                "disallow: /\nallow: /foo/bar/%E3%83%84",
                "/foo/bar/ツ",
                true,
            ),
            (
                "escapes in lower case",
                "disallow: /\nallow: /foo/bar/%e3%83%84",
                "/foo/bar/ツ",
                true,
            ),
            (
                "escapes without need",
                "disallow: /\nallow: /foo/bar/%62%61%7A",
                "/foo/bar/baz",
                true,
            ),
            (
                "escapes without need",
                "disallow: /\nallow: /foo/bar/baz",
                "/foo/bar/%62%61%7A",
                true,
            ),
            ("a slash that is none", "disallow: /a%2Fb", "/a/b", true),
            ("a slash that is none", "disallow: /a%2Fb", "/a%2fb", false),
            ("no escape", "disallow: /100%", "/100%/x", false),
            // Special characters (2.2.3).
            (
                "a star",
                "disallow: /foo/bar/quz\nallow: /foo/*/qux",
                "/foo/bar/quz",
                false,
            ),
            (
                "a star",
                "disallow: /foo/bar/quz\nallow: /foo/*/qux",
                "/foo/quz",
                true,
            ),
            (
                "a star",
                "disallow: /foo/bar/quz\nallow: /foo/*/qux",
                "/foo//quz",
                true,
            ),
            (
                "a star",
                "disallow: /foo/bar/quz\nallow: /foo/*/qux",
                "/foo/bax/quz",
                true,
            ),
            (
                "the end",
                "disallow: /foo/bar$\nallow: /foo/bar/qux",
                "/foo/bar",
                false,
            ),
            (
                "the end",
                "disallow: /foo/bar$\nallow: /foo/bar/qux",
                "/foo/bar/qux",
                true,
            ),
            (
                "the end",
                "disallow: /foo/bar$\nallow: /foo/bar/qux",
                "/foo/bar/",
                true,
            ),
            (
                "the end",
                "disallow: /foo/bar$\nallow: /foo/bar/qux",
                "/foo/bar/baz",
                true,
            ),
            (
                "a comment",
                "# disallow: /\ndisallow: /foo/quz#qux\nallow: /",
                "/foo/bar",
                true,
            ),
            (
                "a comment",
                "# disallow: /\ndisallow: /foo/quz#qux\nallow: /",
                "/foo/quz",
                false,
            ),
            (
                "a star that is one",
                "disallow: /file-with-a-%2A.html",
                "/file-with-a-*.html",
                false,
            ),
            (
                "a star that is one",
                "disallow: /file-with-a-%2A.html",
                "/file-with-a-b.html",
                true,
            ),
            ("a dollar that is one", "disallow: /foo-%24", "/foo-$", false),
            ("a dollar in the middle", "disallow: /a$b", "/a$b", false),
            ("stars in a row", "disallow: /a***b", "/axxb", false),
            ("a star at the end", "disallow: /a*", "/a", false),
            ("a star before the end", "disallow: /a*$", "/abc", false),
            ("the last of two", "disallow: /*.php$", "/a.php.php", false),
            ("only the root", "allow: /$\ndisallow: /", "/", true),
            ("only the root", "allow: /$\ndisallow: /", "/page.html", false),
            ("query and star", "disallow: /*?", "/a?b", false),
            ("query and star", "disallow: /*?", "/a", true),
            ("overlap", "disallow: /ab*ba$", "/aba", true),
            ("overlap", "disallow: /ab*ba$", "/abba", false),
        ]
        .into_iter()
        .map(|(what, rules, path, answer)| (what, format!("{one}{rules}\n"), "Ana", path, answer)),
    )
    .collect();
    assert!(table.len() >= 90);
    let mut wrong = String::new();
    for (what, text, token, path, answer) in &table {
        if allows(text, token, &format!("http://foo.bar{path}")) != *answer {
            let _ = writeln!(wrong, "{what}: {token} {path} is not {answer} by {text:?}");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn sitemaps_and_delays_are_read() {
    let text = "Sitemap: http://s.example/a.xml\nuser-agent: *\ncrawl-delay: 7\nuser-agent: Ana\ncrawl-delay: 2.5\n\
        crawl-delay: x\ncrawl-delay: -1\nsitemap: /relative\nSITEMAP:https://s.example/b.xml # two\nsitemap: file:///etc/passwd\n";
    let rules = Rules::parse(text.as_bytes(), "ana");
    assert_eq!(rules.delay, Some(2.5));
    let found: Vec<&str> = rules.sitemaps.iter().map(Url::as_str).collect();
    assert_eq!(found, ["http://s.example/a.xml", "https://s.example/b.xml"]);
    // Both stand in one group until a rule comes, so the longer wait counts for either.
    assert_eq!(Rules::parse(text.as_bytes(), "bea").delay, Some(7.0));
}

/// CRW-1, bad input 13. Texts that are made to stop a parser: the answer is the RFC's, and the work grows with the text only.
#[test]
fn hostile_texts() {
    let url = Url::parse(&format!("http://s.example/{}", "a".repeat(2000))).unwrap();
    let wild = |pattern: String| format!("user-agent: *\ndisallow: {pattern}\n");
    let utf16: Vec<u8> = "user-agent: *\ndisallow: /\n"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let groups: String = (0..100_000).fold(String::new(), |mut text, i| {
        let _ = writeln!(text, "user-agent: bot{}\ndisallow: /{i}", "x".repeat(i % 7));
        text
    });
    for (what, text, allowed) in [
        (
            "stars and dollars",
            wild("/".to_owned() + &"*$".repeat(5000)).into_bytes(),
            true,
        ),
        (
            "stars and letters",
            wild("/".to_owned() + &"*a".repeat(1900) + "b").into_bytes(),
            true,
        ),
        (
            "stars and letters that match",
            wild("/".to_owned() + &"*a".repeat(1900)).into_bytes(),
            false,
        ),
        (
            "many stars",
            wild("/".to_owned() + &"*".repeat(500_000) + "z").into_bytes(),
            true,
        ),
        (
            "many rules with stars",
            format!("user-agent: *\n{}", "disallow: /*a*b*c\n".repeat(25_000)).into_bytes(),
            true,
        ),
        (
            "one line",
            wild("/".to_owned() + &"x".repeat(600 * 1024)).into_bytes(),
            true,
        ),
        (
            "one line without colon",
            "x".repeat(600 * 1024).into_bytes(),
            true,
        ),
        ("zero bytes", b"\0user-agent: *\0\ndisallow: /\0\n".to_vec(), true),
        (
            "a zero byte in a rule",
            b"user-agent: *\ndisallow: /\0\ndisallow: /a\n".to_vec(),
            false,
        ),
        ("100,000 groups", groups.into_bytes(), true),
        ("two bytes a character", utf16, true),
        (
            "a page",
            b"<!doctype html><html><body>Disallow: /</body></html>".to_vec(),
            true,
        ),
        (
            "a name after its rules",
            b"disallow: /\nuser-agent: *\n".to_vec(),
            true,
        ),
        ("no text", b"\xff\xfe\xfd\x80".to_vec(), true),
    ] {
        assert_eq!(Rules::parse(&text, "ana").allows(&url), allowed, "{what}");
    }
    // The time is bounded by a thread that does not answer, not by a clock: a matcher that goes back would take years.
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let rules = format!(
            "user-agent: *\n{}",
            format!("disallow: /{}b\n", "*a".repeat(200)).repeat(1000)
        );
        sender
            .send(Rules::parse(rules.as_bytes(), "ana").allows(&url))
            .unwrap();
    });
    assert!(receiver.recv_timeout(std::time::Duration::from_secs(25)).unwrap());
}

fn rule() -> impl Strategy<Value = String> {
    (any::<bool>(), "/[ab/]{0,6}[*$]?")
        .prop_map(|(allow, pattern)| format!("{}: {pattern}\n", if allow { "allow" } else { "disallow" }))
}

fn agent() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["Ana", "Bea", "*", "AnaBot"]).prop_map(|name| format!("user-agent: {name}\n"))
}

fn text() -> impl Strategy<Value = String> {
    let line = prop_oneof![
        6 => rule(),
        3 => agent(),
        1 => Just("\n".to_owned()),
        1 => Just("# a word\n".to_owned()),
    ];
    prop::collection::vec(line, 0..14).prop_map(|lines| lines.concat())
}

/// RFC 9309, 2.2.3, word by word: `*` is any number of octets, `$` the end, and a pattern begins where the path begins.
fn tries_everything(pattern: &[u8], path: &[u8]) -> bool {
    match (pattern, path) {
        ([], _) => true,
        ([b'$'], rest) => rest.is_empty(),
        ([b'*', pattern @ ..], path) => (0..=path.len()).any(|from| tries_everything(pattern, &path[from..])),
        ([wanted, pattern @ ..], [found, path @ ..]) if wanted == found => tries_everything(pattern, path),
        _ => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    /// CRW-1. The oracle for groups is a port of the reference implementation. Its own liberty, index.html for a folder, does not
    /// occur; nor do stars in the middle, for which the port forgets places (`/*b$` and `/bb`), nor sitemaps, which end a
    /// group there and must not (RFC 9309, 2.2.4).
    #[test]
    fn as_another_matcher_says(text in text(), path in "/[ab/]{0,6}([?][ab]{0,3})?") {
        let url = format!("http://s.example{path}");
        let theirs = DefaultMatcher::default().one_agent_allowed_by_robots(&text, "Ana", &url);
        prop_assert_eq!(allows(&text, "Ana", &url), theirs, "{}", url);
    }

    /// CRW-1. The oracle for patterns is a matcher that tries every way there is; of the patterns that match the longest counts.
    #[test]
    fn as_a_matcher_that_tries_everything_says(
        rules in prop::collection::vec((any::<bool>(), "/[ab/*]{0,8}[$]?"), 1..5),
        path in "/[ab/]{0,8}",
    ) {
        let mut text = "user-agent: *\n".to_owned();
        let mut best: Option<(usize, bool)> = None;
        for (allow, pattern) in &rules {
            let _ = writeln!(text, "{}: {pattern}", if *allow { "allow" } else { "disallow" });
            if tries_everything(pattern.as_bytes(), path.as_bytes()) {
                best = best.max(Some((pattern.len(), *allow)));
            }
        }
        let expected = best.is_none_or(|(_, allow)| allow);
        prop_assert_eq!(allows(&text, "Ana", &format!("http://s.example{path}")), expected, "{}", text);
    }

    #[test]
    fn anything_is_read(text in prop::collection::vec(any::<u8>(), 0..300), path in "[ -~]{0,40}") {
        if let Ok(url) = Url::parse(&format!("http://s.example/{path}")) {
            let _ = Rules::parse(&text, "ana").allows(&url);
        }
    }

    #[test]
    fn what_is_plain_stays_plain(text in "[ -~\u{e4}\u{4e00}]{0,40}") {
        let once = plain(&text, true);
        prop_assert_eq!(plain(&once, true), once);
    }
}
