//! The pages people see: plain HTML that loads nothing from anywhere.

use std::collections::BTreeMap;
use std::fmt::Write;

use crm_core::capability::WebhookReply;
use serde::{Deserialize, Serialize};

/// The words on the pages, in one language. `{purpose}` stands for the purpose's title.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PageTexts {
    /// The language (BCP 47).
    pub language: String,
    /// Heading of the page to unsubscribe.
    pub unsubscribe_title: String,
    /// What the button on it will do.
    pub unsubscribe_question: String,
    /// The button.
    pub unsubscribe_button: String,
    /// Said when it is done.
    pub unsubscribe_done: String,
    /// Heading of the preference page.
    pub preferences_title: String,
    /// What the page is for.
    pub preferences_question: String,
    /// The button that stores the choice.
    pub preferences_button: String,
    /// Said when it is stored.
    pub preferences_done: String,
    /// The column of e-mail.
    pub email: String,
    /// The column of text messages.
    pub sms: String,
    /// The column of calls.
    pub voice: String,
    /// Heading when the link is not one of ours.
    pub invalid_title: String,
    /// What to do then.
    pub invalid_text: String,
    /// Heading when it cannot be done now.
    pub busy_title: String,
    /// What to do then.
    pub busy_text: String,
}

impl Default for PageTexts {
    fn default() -> Self {
        let own = str::to_owned;
        Self {
            language: own("en"),
            unsubscribe_title: own("Unsubscribe"),
            unsubscribe_question: own(
                "Do you no longer want to get messages of the kind \u{201c}{purpose}\u{201d}?",
            ),
            unsubscribe_button: own("Unsubscribe"),
            unsubscribe_done: own(
                "Done. You will get no more messages of the kind \u{201c}{purpose}\u{201d}.",
            ),
            preferences_title: own("Your messages"),
            preferences_question: own("Choose what you want to get, and how."),
            preferences_button: own("Save"),
            preferences_done: own("Saved."),
            email: own("E-mail"),
            sms: own("Text message"),
            voice: own("Call"),
            invalid_title: own("This link does not work"),
            invalid_text: own(
                "It may be incomplete. Please open the link from the message again, or answer the message.",
            ),
            busy_title: own("Please try again"),
            busy_text: own("Your choice could not be stored just now. Please try again in a minute."),
        }
    }
}

/// Texts by language; the first one is used when no other fits.
#[derive(Debug, Clone)]
pub(crate) struct Languages(Vec<PageTexts>);

impl Default for Languages {
    fn default() -> Self {
        Self(vec![PageTexts::default()])
    }
}

impl Languages {
    pub(crate) fn new(texts: Vec<PageTexts>) -> Self {
        if texts.is_empty() {
            Self::default()
        } else {
            Self(texts)
        }
    }

    /// The texts that fit best to what a browser asks for (RFC 9110, 12.5.4).
    pub(super) fn fitting(&self, accept: Option<&str>) -> PageTexts {
        let mut wanted: Vec<(u32, &str)> = accept
            .unwrap_or_default()
            .split(',')
            .take(20)
            .filter_map(|one| {
                let (tag, rest) = one.split_once(';').unwrap_or((one, ""));
                let weight = rest
                    .trim()
                    .strip_prefix("q=")
                    .map_or(Some(1.0), |q| q.trim().parse::<f32>().ok())?;
                ((0.0..=1.0).contains(&weight) && weight > 0.0)
                    .then_some(((weight * 1000.0) as u32, tag.trim()))
            })
            .collect();
        wanted.sort_by_key(|(weight, _)| std::cmp::Reverse(*weight));
        let primary = |tag: &str| tag.split('-').next().unwrap_or_default().to_ascii_lowercase();
        for (_, tag) in wanted {
            let exact = self.0.iter().find(|t| t.language.eq_ignore_ascii_case(tag));
            let near = || self.0.iter().find(|t| primary(&t.language) == primary(tag));
            if let Some(texts) = exact.or_else(near) {
                return texts.clone();
            }
        }
        self.0.first().cloned().unwrap_or_default()
    }
}

/// Text as it may stand anywhere in HTML, in quotes too.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:36rem;margin:3rem auto;padding:0 1rem;color:#222;\
background:#fff}h1{font-size:1.4rem}button{font:inherit;padding:.5rem 1rem}table{border-collapse:collapse;margin:1rem 0}\
th,td{text-align:left;padding:.4rem 1rem .4rem 0;border-bottom:1px solid #ddd}td small{color:#666;display:block}\
@media(prefers-color-scheme:dark){body{background:#161616;color:#eee}td small{color:#aaa}}";

/// A page around a body that is escaped already.
fn page(status: u16, texts: &PageTexts, title: &str, body: &str) -> WebhookReply {
    let html = format!(
        "<!doctype html>\n<html lang=\"{}\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\"><meta name=\"robots\" content=\"noindex\"><title>{title}</title>\
         <style>{STYLE}</style></head>\n<body><main><h1>{title}</h1>\n{body}\n</main></body></html>\n",
        escape(&texts.language),
        title = escape(title),
    );
    WebhookReply::new(status, "text/html; charset=utf-8", html)
        // The address of the page is a secret of the reader's: it must not travel on, and nothing may be loaded.
        .header("referrer-policy", "no-referrer")
        .header("cache-control", "no-store")
        .header("x-content-type-options", "nosniff")
        .header(
            "content-security-policy",
            "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
        )
}

fn paragraph(text: &str, purpose: &str) -> String {
    format!("<p>{}</p>", escape(&text.replace("{purpose}", purpose)))
}

/// Asks, with a button. Nothing happens before it is pressed.
pub(super) fn ask(texts: &PageTexts, purpose: &str) -> WebhookReply {
    let body = format!(
        "{}\n<form method=\"post\" action=\"\"><button name=\"List-Unsubscribe\" value=\"One-Click\">{}</button></form>",
        paragraph(&texts.unsubscribe_question, purpose),
        escape(&texts.unsubscribe_button)
    );
    page(200, texts, &texts.unsubscribe_title, &body)
}

pub(super) fn done(texts: &PageTexts, purpose: &str) -> WebhookReply {
    page(
        200,
        texts,
        &texts.unsubscribe_title,
        &paragraph(&texts.unsubscribe_done, purpose),
    )
}

pub(super) fn invalid(texts: &PageTexts) -> WebhookReply {
    page(
        403,
        texts,
        &texts.invalid_title,
        &paragraph(&texts.invalid_text, ""),
    )
}

pub(super) fn busy(texts: &PageTexts) -> WebhookReply {
    page(503, texts, &texts.busy_title, &paragraph(&texts.busy_text, "")).header("retry-after", "60")
}

/// One line of the preference page.
pub(super) struct Line {
    /// The purpose's name: what the form sends back.
    pub(super) name: String,
    pub(super) title: String,
    pub(super) description: String,
    /// By the column's key: whether it is chosen. Absent where it cannot be chosen.
    pub(super) cells: BTreeMap<&'static str, bool>,
}

pub(super) fn choose(
    texts: &PageTexts,
    columns: &[&'static str],
    lines: &[Line],
    saved: bool,
) -> WebhookReply {
    let mut body = String::new();
    if saved {
        body.push_str("<p role=\"status\"><strong>");
        body.push_str(&escape(&texts.preferences_done));
        body.push_str("</strong></p>");
    }
    body.push_str(&paragraph(&texts.preferences_question, ""));
    body.push_str("<form method=\"post\" action=\"\"><table><tr><td></td>");
    for column in columns {
        let title = match *column {
            "email" => &texts.email,
            "sms" => &texts.sms,
            _ => &texts.voice,
        };
        let _ = write!(body, "<th scope=\"col\">{}</th>", escape(title));
    }
    body.push_str("</tr>");
    for line in lines {
        let _ = write!(body, "<tr><th scope=\"row\">{}", escape(&line.title));
        if !line.description.is_empty() {
            let _ = write!(body, "<br><small>{}</small>", escape(&line.description));
        }
        body.push_str("</th>");
        for column in columns {
            match line.cells.get(column) {
                Some(chosen) => {
                    let _ = write!(
                        body,
                        "<td><input type=\"checkbox\" name=\"{}:{column}\" aria-label=\"{} ({column})\"{}></td>",
                        escape(&line.name),
                        escape(&line.title),
                        if *chosen { " checked" } else { "" }
                    );
                }
                None => body.push_str("<td></td>"),
            }
        }
        body.push_str("</tr>");
    }
    // Tells a choice of nothing from a form that did not arrive.
    let _ = write!(
        body,
        "</table><button name=\"save\" value=\"1\">{}</button></form>",
        escape(&texts.preferences_button)
    );
    page(200, texts, &texts.preferences_title, &body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_breaks_out_and_nothing_is_loaded() {
        let nasty = "</title><script>alert(1)</script>\"' &";
        let texts = PageTexts {
            language: "\"x".into(),
            unsubscribe_title: nasty.into(),
            ..PageTexts::default()
        };
        let line = Line {
            name: "news".into(),
            title: nasty.into(),
            description: nasty.into(),
            cells: BTreeMap::from([("email", true)]),
        };
        for reply in [
            ask(&texts, nasty),
            done(&texts, nasty),
            choose(&texts, &["email", "sms"], &[line], true),
        ] {
            assert!(
                !reply.body.contains("<script") && !reply.body.contains("alert(1)</"),
                "{}",
                reply.body
            );
            for loads in ["src=", "href=", "url(", "@import", "http:", "https:"] {
                assert!(!reply.body.contains(loads), "{loads}");
            }
            assert!(reply.headers["content-security-policy"].starts_with("default-src 'none'"));
        }
    }

    #[test]
    fn the_language_asked_for() {
        let german = PageTexts {
            language: "de".into(),
            ..PageTexts::default()
        };
        let swiss = PageTexts {
            language: "de-CH".into(),
            ..PageTexts::default()
        };
        let all = Languages::new(vec![PageTexts::default(), german, swiss]);
        for (accept, language) in [
            (None, "en"),
            (Some("fr"), "en"),
            (Some("de-AT, en;q=0.5"), "de"),
            (Some("en;q=0.5, de-ch"), "de-CH"),
            (Some("de;q=0, en"), "en"),
            (Some(";;;q=x,,*"), "en"),
        ] {
            assert_eq!(all.fitting(accept).language, language, "{accept:?}");
        }
    }
}
