use crm_channels::inbound::{Reading, Words};
use crm_core::message::Keyword;

const US: &str = "+15005550006";
const CN: &str = "+8613800138000";

/// SMS-4: what must end messages, from 47 CFR 64.1200, the vendors' lists and what people write.
const STOP: [(&str, &str); 84] = [
    (US, "STOP"),
    (US, "stop"),
    (US, "Stop"),
    (US, "stop."),
    (US, "Stop!"),
    (US, "STOP!!!"),
    (US, " Stop "),
    (US, "\tSTOP\r\n"),
    (US, "\u{a0}stop\u{a0}"),
    (US, "ＳＴＯＰ"),
    (US, "ｓｔｏｐ。"),
    (US, "\"STOP\""),
    (US, "'stop'"),
    (US, "*STOP*"),
    (US, "(stop)"),
    (US, "STOP 🛑"),
    (US, "s.t.o.p."),
    (US, "S T O P"),
    (US, "st\u{200b}op"),
    (US, "STOPALL"),
    (US, "STOP ALL"),
    (US, "stop-all"),
    (US, "Stop, all"),
    (US, "STOP STOP STOP"),
    (US, "UNSUBSCRIBE"),
    (US, "unsubscribe."),
    (US, "Unsubscribe me"),
    (US, "unsubscribe please"),
    (US, "CANCEL"),
    (US, "cancel!"),
    (US, "END"),
    (US, "end"),
    (US, "QUIT"),
    (US, "Quit."),
    (US, "REVOKE"),
    (US, "revoke"),
    (US, "OPTOUT"),
    (US, "OPT-OUT"),
    (US, "OPT OUT"),
    (US, "opt out"),
    (US, "Opt‑out"),
    (US, "I want to opt out"),
    (US, "REMOVE"),
    (US, "Remove me"),
    (US, "remove me from your list"),
    (US, "ARRET"),
    (US, "arrêt"),
    (US, "ARRÊT"),
    (US, "TD"),
    (US, "td"),
    (US, "ＴＤ"),
    (US, "退订"),
    (US, "退訂"),
    (US, "退订。"),
    (US, " 退订 "),
    (US, "please stop"),
    (US, "Please stop texting me"),
    (US, "please stop texting me"),
    (US, "PLEASE STOP TEXTING ME!!"),
    (US, "stop texting me please"),
    (US, "Stop sending me messages"),
    (US, "stop messaging me"),
    (US, "pls stop"),
    (US, "stop it"),
    (US, "stop this now"),
    (US, "Stop all messages"),
    (US, "Stop spamming me"),
    (US, "no more texts"),
    (US, "Don't text me"),
    (US, "don’t contact me again"),
    (US, "do not text me anymore"),
    (US, "leave me alone"),
    (US, "take me off your list"),
    (US, "Cancel my subscription"),
    (US, "СТОП"),
    (US, "Abmelden"),
    (US, "BAJA"),
    (CN, "T"),
    (CN, "t"),
    (CN, "Ｔ"),
    (CN, "R"),
    (CN, "请退订"),
    (CN, "回复TD"),
    (CN, "TD退订"),
];

/// What may be meant as such: nothing is done, and a person reads it.
const REVIEW: [&str; 18] = [
    "DON'T STOP",
    "don’t stop",
    "Please don't stop texting me",
    "do not stop",
    "never stop",
    "I can't stop laughing",
    "st0p",
    "5top",
    "stoppp",
    "bus stop 14 at noon?",
    "Cancel my order 4711",
    "non-stop",
    "stop by the shop tomorrow",
    "wrong number",
    "Not interested",
    "how do I unsubscribe?",
    "When does the sale end? I want to stop by",
    "我想退订这个套餐可以吗",
];

const NOTHING: [&str; 13] = [
    "",
    "   ",
    "🛑",
    "🙂👍",
    "?!",
    "Thanks!",
    "T",
    "R",
    "yes",
    "YES",
    "stopover in Vienna",
    "the weekend",
    "请问几点开门",
];

#[test]
fn opt_out_words_in_every_spelling() {
    let words = Words::default();
    let missed: Vec<_> = STOP
        .iter()
        .filter(|(from, text)| words.read(text, from) != Reading::Command(Keyword::Stop))
        .collect();
    assert!(missed.is_empty(), "not understood: {missed:?}");
}

#[test]
fn what_only_looks_like_one_is_neither_done_nor_dropped() {
    let words = Words::default();
    let wrong: Vec<_> = REVIEW
        .iter()
        .filter(|t| words.read(t, US) != Reading::Review)
        .collect();
    assert!(wrong.is_empty(), "not for review: {wrong:?}");
    let wrong: Vec<_> = NOTHING
        .iter()
        .filter(|t| words.read(t, US) != Reading::Text)
        .collect();
    assert!(wrong.is_empty(), "more than text: {wrong:?}");
    // However long, it ends; what is no message any more is no command.
    let long = format!("STOP {}", "word ".repeat(2000));
    assert_eq!(words.read(&long, US), Reading::Review);
    assert_eq!(words.read(&"\u{301}".repeat(100_000), US), Reading::Text);
}

#[test]
fn begin_and_help() {
    let words = Words::default();
    for text in ["START", "start!", " Unstop ", "ＳＴＡＲＴ"] {
        assert_eq!(words.read(text, US), Reading::Command(Keyword::Start), "{text}");
    }
    for text in ["HELP", "help?", "Info", "帮助"] {
        assert_eq!(words.read(text, US), Reading::Command(Keyword::Help), "{text}");
    }
    for text in ["I need help", "start the car", "unstoppable"] {
        assert_eq!(words.read(text, US), Reading::Text, "{text}");
    }
}

#[test]
fn hosts_add_what_their_customers_say() {
    let words = Words::default()
        .also(Keyword::Stop, "Genug!")
        .also(Keyword::Start, "again please");
    assert_eq!(words.read("genug", US), Reading::Command(Keyword::Stop));
    assert_eq!(words.read("Again, please.", US), Reading::Command(Keyword::Start));
    assert_eq!(Words::default().read("genug", US), Reading::Text);
}
