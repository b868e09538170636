use std::collections::BTreeSet;

use crm_core::message::Keyword;
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

/// No keyword is longer; a longer text is only looked through for words that ask for a person's eye.
const MAX_CHARS: usize = 1600;
/// A sentence of more words is not taken for a command.
const MAX_WORDS: usize = 10;

/// One word that ends messages, wherever it stands alone.
const STOP: [&str; 44] = [
    "STOP",
    "STOPALL",
    "STOPP",
    "UNSUBSCRIBE",
    "UNSUB",
    "CANCEL",
    "END",
    "QUIT",
    "REVOKE",
    "OPTOUT",
    "REMOVE",
    "ARRET",
    "ARRETER",
    "TD",
    // German, Spanish, Portuguese, Italian, Dutch, Nordic, Polish, Russian, Turkish.
    "ABMELDEN",
    "BAJA",
    "ALTO",
    "DETENER",
    "PARAR",
    "SAIR",
    "CANCELAR",
    "BASTA",
    "CANCELLA",
    "AFMELDEN",
    "STOPPA",
    "AVSLUTA",
    "STOPPEN",
    "REZYGNUJE",
    "СТОП",
    "ОТПИСАТЬСЯ",
    "IPTAL",
    // Chinese, simplified and traditional; Japanese; Korean.
    "退订",
    "退訂",
    "退定",
    "取消订阅",
    "取消訂閱",
    "拒收",
    "停止",
    "停止发送",
    "不再接收",
    "配信停止",
    "解除",
    "수신거부",
    "구독취소",
];
/// Words that are a command in China only; elsewhere one letter may mean anything.
const STOP_CHINA: [&str; 3] = ["T", "R", "退"];
/// The words whose meaning does not change inside a short sentence of [`FILLERS`].
const STRONG: [&str; 5] = ["STOP", "STOPALL", "UNSUBSCRIBE", "OPTOUT", "UNSUB"];
/// Words that add nothing to a command. Any other word beside it, a "not" above all, makes it a case for a person.
const FILLERS: [&str; 63] = [
    "PLEASE",
    "PLS",
    "PLZ",
    "KINDLY",
    "THANKS",
    "THANK",
    "YOU",
    "THX",
    "HI",
    "HELLO",
    "OK",
    "NOW",
    "JUST",
    "IMMEDIATELY",
    "ASAP",
    "TEXTING",
    "MESSAGING",
    "SENDING",
    "CONTACTING",
    "CALLING",
    "SPAMMING",
    "EMAILING",
    "ME",
    "US",
    "I",
    "WANT",
    "WOULD",
    "LIKE",
    "WISH",
    "NEED",
    "TO",
    "MESSAGES",
    "MESSAGE",
    "TEXTS",
    "TEXT",
    "SMS",
    "SPAM",
    "ADS",
    "MARKETING",
    "PROMOTIONS",
    "OFFERS",
    "ALL",
    "ANY",
    "THESE",
    "THIS",
    "THOSE",
    "IT",
    "MY",
    "NUMBER",
    "PHONE",
    "FROM",
    "OF",
    "YOUR",
    "THE",
    "LIST",
    "LISTS",
    "MORE",
    "ANYMORE",
    "FURTHER",
    "EVER",
    "AGAIN",
    "SO",
    "MUCH",
];
/// Sentences that ask for the end without one of the words above.
const SENTENCES: [&str; 27] = [
    "NO MORE TEXTS",
    "NO MORE MESSAGES",
    "NO MORE SMS",
    "NO MORE",
    "DONT TEXT ME",
    "DO NOT TEXT ME",
    "DONT MESSAGE ME",
    "DO NOT MESSAGE ME",
    "DONT CONTACT ME",
    "DO NOT CONTACT ME",
    "DONT SEND ME MESSAGES",
    "DO NOT SEND ME MESSAGES",
    "DONT SEND ME TEXTS",
    "LEAVE ME ALONE",
    "TAKE ME OFF",
    "TAKE ME OFF LIST",
    "REMOVE ME",
    "REMOVE ME LIST",
    "REMOVE NUMBER",
    "REMOVE FROM LIST",
    "DELETE ME",
    "DELETE MY NUMBER",
    "CANCEL SUBSCRIPTION",
    "CANCEL MY SUBSCRIPTION",
    "END SUBSCRIPTION",
    "STOP SUBSCRIPTION",
    "CANCEL ALL",
];
/// Words that may leave a sentence before it is compared with [`SENTENCES`].
const POLITE: [&str; 17] = [
    "PLEASE", "PLS", "PLZ", "KINDLY", "THANKS", "THANK", "YOU", "THX", "HI", "HELLO", "NOW", "AGAIN",
    "ANYMORE", "FROM", "YOUR", "THE", "THIS",
];
const START: [&str; 2] = ["START", "UNSTOP"];
const HELP: [&str; 8] = [
    "HELP",
    "INFO",
    "AIDE",
    "HILFE",
    "AYUDA",
    "AJUDA",
    "帮助",
    "ヘルプ",
];
/// Hints that a person should read the text although it is no command.
const HINTS: [&str; 14] = [
    "UNSUBSCRIB",
    "OPT OUT",
    "OPTOUT",
    "WRONG NUMBER",
    "NOT INTERESTED",
    "REMOVE",
    "SPAM",
    "LAWYER",
    "REPORT",
    "退订",
    "退訂",
    "拒收",
    "取消",
    "投诉",
];

/// What a text that somebody sent means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reading {
    /// A command; it is carried out.
    Command(Keyword),
    /// It may be meant as one: nothing is done, and a person should read it.
    Review,
    /// Anything else.
    Text,
}

/// The words people end, begin and ask with, in the spellings they use: case, marks, full width, punctuation, blanks and
/// accents make no difference, and neither do polite words around them. The list is fixed and public law and carriers
/// made it (47 CFR 64.1200(a)(10), CTIA's principles, the vendors' own lists); hosts add what their customers say.
///
/// ```
/// use crm_channels::inbound::{Reading, Words};
/// use crm_core::message::Keyword;
///
/// let words = Words::default();
/// for text in ["STOP", " stop. ", "ＳＴＯＰ", "opt-out", "退订", "please stop texting me"] {
///     assert_eq!(words.read(text, "+15005550006"), Reading::Command(Keyword::Stop), "{text}");
/// }
/// assert_eq!(words.read("DON'T STOP", "+15005550006"), Reading::Review);
/// assert_eq!(words.read("See you at the bus", "+15005550006"), Reading::Text);
/// // One letter is a command only where the carriers say so.
/// assert_eq!(words.read("T", "+8613800138000"), Reading::Command(Keyword::Stop));
/// assert_eq!(words.read("T", "+15005550006"), Reading::Text);
/// ```
#[derive(Debug, Clone, Default)]
pub struct Words {
    stop: BTreeSet<String>,
    start: BTreeSet<String>,
    help: BTreeSet<String>,
}

impl Words {
    /// One more word or short phrase that means this, compared as the others are.
    #[must_use]
    pub fn also(mut self, keyword: Keyword, text: &str) -> Self {
        let text = fold(text).join(" ");
        if !text.is_empty() {
            match keyword {
                Keyword::Stop => self.stop.insert(text),
                Keyword::Start => self.start.insert(text),
                Keyword::Help => self.help.insert(text),
            };
        }
        self
    }

    /// Reads a text from this sender (E.164, or an address). Never longer than a glance: what is longer than an SMS can be
    /// is only looked through.
    pub fn read(&self, text: &str, from: &str) -> Reading {
        let short = text.chars().nth(MAX_CHARS).is_none();
        let words = fold(text.get(..floor(text, 4 * MAX_CHARS)).unwrap_or_default());
        if words.is_empty() {
            return Reading::Text;
        }
        let whole = words.join(" ");
        let joined = words.concat();
        if short {
            let one = |list: &[&str]| list.contains(&whole.as_str()) || list.contains(&joined.as_str());
            if self.stop.contains(&whole)
                || one(&STOP)
                || (from.starts_with("+86") && (one(&STOP_CHINA) || chinese(&joined)))
                || self.is_stop_sentence(&words)
                || is_sentence(&words)
            {
                return Reading::Command(Keyword::Stop);
            }
            if self.start.contains(&whole) || one(&START) {
                return Reading::Command(Keyword::Start);
            }
            if self.help.contains(&whole) || one(&HELP) {
                return Reading::Command(Keyword::Help);
            }
        }
        if words
            .iter()
            .any(|w| STOP.contains(&w.as_str()) || looks_like_stop(w))
            || HINTS.iter().any(|hint| whole.contains(hint))
        {
            return Reading::Review;
        }
        Reading::Text
    }

    /// A stop word among words that add nothing: "please stop texting me".
    fn is_stop_sentence(&self, words: &[String]) -> bool {
        let stops = |w: &str| STRONG.contains(&w) || self.stop.contains(w);
        let adds_nothing = |w: &str| FILLERS.contains(&w) || ["OPT", "OUT"].contains(&w);
        let opt_out = words
            .windows(2)
            .any(|two| matches!(two, [a, b] if a == "OPT" && b == "OUT"));
        words.len() <= MAX_WORDS
            && (opt_out || words.iter().any(|w| stops(w)))
            && words.iter().all(|w| stops(w) || adds_nothing(w))
            || (words.len() <= 3
                && words.iter().any(|w| STOP.contains(&w.as_str()))
                && words.iter().all(|w| {
                    STOP.contains(&w.as_str()) || ["PLEASE", "PLS", "ALL", "THANKS"].contains(&w.as_str())
                }))
    }
}

fn is_sentence(words: &[String]) -> bool {
    if words.len() > MAX_WORDS {
        return false;
    }
    let bare: Vec<&str> = words
        .iter()
        .map(String::as_str)
        .filter(|w| !POLITE.contains(w))
        .collect();
    SENTENCES.contains(&bare.join(" ").as_str())
}

/// A Chinese reply that says the word with a please or as it was asked for: `请退订`, `回复TD`, `TD退订`.
fn chinese(joined: &str) -> bool {
    let bare = joined
        .trim_start_matches("我要")
        .trim_start_matches("请")
        .trim_start_matches("回复")
        .trim_start_matches("回")
        .trim_end_matches("谢谢");
    bare != joined && (STOP.contains(&bare) || STOP_CHINA.contains(&bare))
        || ["TD退订", "T退订", "退订TD", "R拒收", "拒收R", "退订T"].contains(&joined)
}

/// Digits in place of letters, repeated letters: `st0p`, `stoppp`, `5top`.
fn looks_like_stop(word: &str) -> bool {
    let mut letters = String::new();
    for c in word.chars() {
        let c = match c {
            '0' => 'O',
            '5' | '$' => 'S',
            '1' => 'I',
            other => other,
        };
        if !letters.ends_with(c) {
            letters.push(c);
        }
    }
    matches!(
        letters.as_str(),
        "STOP" | "STP" | "STOPING" | "UNSUBSCRIBE" | "STOPED" | "STOPS"
    )
}

/// The words of a text: compatibility forms made plain (full width, ligatures), marks on letters dropped, in capitals;
/// apostrophes join, everything else that is no letter or digit divides.
fn fold(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    for c in text.nfkd().filter(|c| !is_combining_mark(*c)) {
        if c.is_alphanumeric() {
            word.extend(c.to_uppercase());
        } else if matches!(
            c,
            '\'' | '\u{2018}' | '\u{2019}' | '`' | '\u{b4}' | '\u{200b}'
                ..='\u{200f}' | '\u{2060}' | '\u{feff}' | '\u{ad}'
        ) {
            // Joins: don't, and characters without width.
        } else if !word.is_empty() {
            words.push(std::mem::take(&mut word));
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    // What is spelt out letter by letter is one word: S T O P, s.t.o.p.
    if words.len() > 1 && words.iter().all(|w| w.chars().count() == 1 && w.is_ascii()) {
        return vec![words.concat()];
    }
    // Hangul comes apart above; the lists are composed.
    words.into_iter().map(|w| w.nfc().collect()).collect()
}

/// The largest boundary of a character at or below `at`.
fn floor(text: &str, at: usize) -> usize {
    (0..=at.min(text.len()))
        .rev()
        .find(|i| text.is_char_boundary(*i))
        .unwrap_or(0)
}
