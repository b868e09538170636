//! The words before numbers and addresses that say what they are.

use std::sync::LazyLock;

use regex::Regex;

use super::text::regex;

/// The longest line that is nothing but a label.
const MAX_LABEL: usize = 40;

/// What stands before a number that is one.
static PHONE: LazyLock<Option<Regex>> = LazyLock::new(|| {
    regex(concat!(
        r"(?i)(?:\b(?:tel|tele?phone|phone|ph|mobile|mob|cell|call|hotline|whatsapp|viber|signal|fon|telefon|telefonnummer|telefoon",
        r"|telefono|telefone|celular|movil|mobil|mobiltelefon|handy|ruf|rufnummer|festnetz|zentrale|durchwahl|puh|puhelin|tlf|tfn|tfno|gsm",
        r"|тел|телефон|телефоны|моб|мобильный|телефакс|сот|τηλ|τηλέφωνο|κινητό|telefonas|telefons|telefón|sími|sdt|sđt)",
        r"|tél(?:éphone)?|teléfono|móvil|telemóvel|điện thoại|電話(?:番号)?|携帯|电话|手机|手機|熱線|热线|전화(?:번호)?|هاتف|تلفن|טלפון|טל|फ़ोन|โทร",
        r"|\u{260e}|\u{2706}|\u{1f4de}|\u{1f4f1}|\u{1f4f2})[\s.:)/\u{a0}\u{fe0f}\u{ff1a}-]*",
        r"(?:no|nr|number|nummer|us|at|on|us at|us on|today|now)?[\s.:()\u{a0}\u{ff1a}]*$",
    ))
});

static FAX: LazyLock<Option<Regex>> = LazyLock::new(|| {
    regex(concat!(
        r"(?i)(?:fax|faks|t[eé]l[eé]copi\w*|факс|τηλεομοιοτυπία|φαξ|ファ[ック]?クス|传真|傳真|팩스|فاكس|פקס|\u{1f4e0})",
        r"[\s.:()\u{a0}\u{ff1a}a-z-]{0,10}$",
    ))
});

/// Networks whose names for people look like addresses of e-mail.
static MESSENGER: LazyLock<Option<Regex>> = LazyLock::new(|| {
    regex(
        r"(?i)\b(?:msn|jabber|xmpp|icq|aim|skype|sip|voip|matrix|gtalk|google talk|mastodon|fediverse|bluesky|ssh|git)[\s.:()\u{a0}]*$",
    )
});

fn says(regex: &Option<Regex>, before: &str) -> bool {
    regex.as_ref().is_some_and(|regex| regex.is_match(before))
}

/// The line before a number; where the number begins its line, the line above when it is but a label, as in tables, lists of
/// definitions, and headings.
pub(super) fn before(text: &str) -> Option<&str> {
    let mut lines = text.rsplit('\n');
    let own = lines.next()?;
    if !own.trim().is_empty() {
        return Some(own);
    }
    let above = lines.next().unwrap_or_default();
    let label = above.len() <= MAX_LABEL && (is_phone(above) || is_fax(above));
    Some(if label { above } else { own })
}

/// Whether what stands before a number says that it is one.
pub(super) fn is_phone(before: &str) -> bool {
    says(&PHONE, before)
}

/// Whether what stands before a number says that it is a fax.
pub(super) fn is_fax(before: &str) -> bool {
    says(&FAX, before)
}

/// Whether what stands before an address says that it is one of another network.
pub(super) fn is_messenger(before: &str) -> bool {
    says(&MESSENGER, before)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_patterns_are_patterns() {
        for pattern in [&PHONE, &FAX, &MESSENGER] {
            assert!(pattern.is_some());
        }
    }

    #[test]
    fn labels() {
        for (before, phone, fax) in [
            ("Tel. ", true, false),
            ("Call us on ", true, false),
            ("Телефон: ", true, false),
            ("Факс: ", false, true),
            ("電話番号：", true, false),
            ("Fax: ", false, true),
            ("Télécopie : ", false, true),
            ("Hotel ", false, false),
            ("in ", false, false),
        ] {
            assert_eq!((is_phone(before), is_fax(before)), (phone, fax), "{before}");
        }
        assert!(is_messenger("msn: ") && is_messenger("Jabber: ") && !is_messenger("mail: "));
    }

    #[test]
    fn a_label_may_have_a_line_of_its_own() {
        assert_eq!(before("Phone:\n"), Some("Phone:"));
        assert_eq!(before("Fax\n"), Some("Fax"));
        assert_eq!(before("We have a phone\n"), Some("We have a phone"));
        assert_eq!(before("Opening hours\n"), Some(""));
        assert_eq!(before("Fax\nTel. "), Some("Tel. "));
    }
}
