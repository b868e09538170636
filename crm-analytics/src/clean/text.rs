//! Text changed value by value: the same functions for a column and for a single value.

use std::borrow::Cow;

use crm_core::Timestamp;
use crm_core::customer::{EmailAddress, PhoneNumber};
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick, is_nfkc_quick};

use super::{Case, UnicodeForm};

/// Without blanks at both ends; `None` when nothing is left.
pub(super) fn trim(text: &str) -> Option<Cow<'_, str>> {
    let trimmed = text.trim();
    (!trimmed.is_empty()).then_some(Cow::Borrowed(trimmed))
}

/// In another case.
pub(super) fn case(text: &str, to: Case) -> Cow<'_, str> {
    let plain = |is: fn(u8) -> bool| text.bytes().all(|b| b.is_ascii() && !is(b));
    match to {
        Case::Lower if plain(|b| b.is_ascii_uppercase()) => Cow::Borrowed(text),
        Case::Upper if plain(|b| b.is_ascii_lowercase()) => Cow::Borrowed(text),
        Case::Lower => Cow::Owned(text.to_lowercase()),
        Case::Upper => Cow::Owned(text.to_uppercase()),
        Case::Title => Cow::Owned(title(text)),
    }
}

/// A finite number.
pub(super) fn float(text: &str) -> Option<f64> {
    text.trim().parse().ok().filter(|number: &f64| number.is_finite())
}

/// A whole number.
pub(super) fn int(text: &str) -> Option<i64> {
    text.trim().parse().ok()
}

/// An instant, in microseconds.
pub(super) fn time(text: &str) -> Option<i64> {
    text.trim().parse::<Timestamp>().ok().map(Timestamp::as_micros)
}

/// A float as an integer, if it is one.
pub(super) fn whole(number: f64) -> Option<i64> {
    // 2 to the 63rd, the first that is none.
    const END: f64 = 9_223_372_036_854_775_808.0;
    (number.fract() == 0.0 && (-END..END).contains(&number)).then_some(number as i64)
}

/// A number as text: `1.0`, `0.1`, `1e20`.
pub(super) fn number(number: f64) -> String {
    format!("{number:?}")
}

/// One blank for every run of blanks, none at the ends; `None` when nothing is left.
pub(super) fn squeeze(text: &str) -> Option<Cow<'_, str>> {
    let trimmed = text.trim();
    if trimmed.is_empty() {
        return None;
    }
    let mut blank = false;
    let squeezed = trimmed.chars().all(|c| {
        let fine = !c.is_whitespace() || (c == ' ' && !blank);
        blank = c.is_whitespace();
        fine
    });
    if squeezed {
        return Some(Cow::Borrowed(trimmed));
    }
    let mut out = String::with_capacity(trimmed.len());
    for word in trimmed.split_whitespace() {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(word);
    }
    Some(Cow::Owned(out))
}

/// The normal form of a text.
pub(super) fn normal(text: &str, form: UnicodeForm) -> Cow<'_, str> {
    if text.is_ascii() {
        return Cow::Borrowed(text);
    }
    match form {
        UnicodeForm::Nfc if is_nfc_quick(text.chars()) == IsNormalized::Yes => Cow::Borrowed(text),
        UnicodeForm::Nfkc if is_nfkc_quick(text.chars()) == IsNormalized::Yes => Cow::Borrowed(text),
        UnicodeForm::Nfc => Cow::Owned(text.nfc().collect()),
        UnicodeForm::Nfkc => Cow::Owned(text.nfkc().collect()),
    }
}

/// The canonical e-mail address.
pub(crate) fn email(text: &str) -> Option<String> {
    Some(EmailAddress::parse(text).ok()?.into())
}

/// The canonical phone number.
pub(crate) fn phone(text: &str, region: Option<&str>) -> Option<String> {
    Some(PhoneNumber::parse(text, region).ok()?.into())
}

/// A word as true or false.
pub(crate) fn flag(text: &str) -> Option<bool> {
    let is = |words: &[&str]| words.iter().any(|word| text.trim().eq_ignore_ascii_case(word));
    if is(&["true", "yes", "y", "t", "on", "1"]) {
        Some(true)
    } else if is(&["false", "no", "n", "f", "off", "0"]) {
        Some(false)
    } else {
        None
    }
}

/// The first letter of each word in upper case, the others in lower case.
pub(super) fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for c in text.chars() {
        if inside {
            out.extend(c.to_lowercase())
        } else {
            out.extend(c.to_uppercase())
        }
        inside = c.is_alphanumeric() || (inside && (c == '\'' || c == '’'));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles() {
        for (text, wanted) in [
            ("ana o'neill-kask", "Ana O'neill-Kask"),
            ("ÅSA", "Åsa"),
            ("straße 5b", "Straße 5b"),
            ("", ""),
        ] {
            assert_eq!(title(text), wanted);
        }
    }

    #[test]
    fn blanks_are_squeezed_as_the_core_squeezes_names() {
        for (text, wanted) in [
            ("Ana Kask", Some("Ana Kask")),
            ("  Ana\u{a0}\t Kask\n", Some("Ana Kask")),
            ("Ana\tKask", Some("Ana Kask")),
            (" \u{3000} ", None),
            ("", None),
        ] {
            assert_eq!(squeeze(text).as_deref(), wanted, "{text:?}");
        }
    }

    #[test]
    fn what_looks_the_same_becomes_the_same() {
        assert_eq!(normal("Zoe\u{308}", UnicodeForm::Nfc), "Zo\u{eb}");
        assert_eq!(normal("ﬁ Ｆ²", UnicodeForm::Nfc), "ﬁ Ｆ²");
        assert_eq!(normal("ﬁ Ｆ²", UnicodeForm::Nfkc), "fi F2");
        assert!(matches!(normal("Zo\u{eb}", UnicodeForm::Nfc), Cow::Borrowed(_)));
    }

    #[test]
    fn words_of_yes_and_no() {
        for (word, wanted) in [
            (" YES ", Some(true)),
            ("0", Some(false)),
            ("f", Some(false)),
            ("2", None),
            ("", None),
        ] {
            assert_eq!(flag(word), wanted, "{word:?}");
        }
    }
}
