//! Text of a certain width.

use std::sync::OnceLock;

use crm_core::{Error, Result};
use plotters::style::{Color, FontStyle, IntoFont, RGBColor, TextStyle, register_font};

/// The name the font is registered under: our own, so that a host's fonts stay as they are.
pub(super) const FAMILY: &str = "open-crm-sans";

static FONT: &[u8] = include_bytes!("../../assets/DejaVuSans-latin.ttf");
static REGISTERED: OnceLock<bool> = OnceLock::new();

/// Makes the font known to the drawing library, once.
pub(super) fn ready() -> Result<()> {
    if *REGISTERED.get_or_init(|| register_font(FAMILY, FontStyle::Normal, FONT).is_ok()) {
        return Ok(());
    }
    Err(Error::unexpected("the font shipped along cannot be read; please report it").operation("plot.draw"))
}

pub(super) fn style(size: f64, color: RGBColor) -> TextStyle<'static> {
    let mut style = TextStyle::from((FAMILY, size).into_font());
    style.color = color.to_backend_color();
    style
}

/// How wide a text is.
pub(super) fn width(text: &str, style: &TextStyle<'_>) -> i32 {
    style.font.box_size(text).map_or(0, |(width, _)| width as i32)
}

/// Without control characters, which no SVG may hold.
pub(super) fn plain(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_control() || ('\u{fffe}'..='\u{ffff}').contains(&c) {
                ' '
            } else {
                c
            }
        })
        .collect()
}

/// Cut to a width, with an ellipsis.
pub(super) fn cut(text: &str, style: &TextStyle<'_>, most: i32) -> String {
    let text = plain(text);
    if width(&text, style) <= most {
        return text;
    }
    let mut kept = String::new();
    for c in text.chars() {
        kept.push(c);
        if width(&format!("{kept}…"), style) > most {
            kept.pop();
            break;
        }
    }
    format!("{}…", kept.trim_end())
}

/// Broken into at most `lines` lines of a width, at blanks and underscores.
pub(super) fn wrap(text: &str, style: &TextStyle<'_>, most: i32, lines: usize) -> Vec<String> {
    let text = plain(text);
    let mut broken: Vec<String> = Vec::new();
    for word in text.split_inclusive([' ', '_', '.']) {
        match broken.last_mut() {
            Some(line) if width(&format!("{line}{}", word.trim_end()), style) <= most => line.push_str(word),
            _ => broken.push(word.to_owned()),
        }
    }
    if broken.len() > lines {
        let rest = broken.split_off(lines.saturating_sub(1)).concat();
        broken.push(rest);
    }
    broken
        .iter()
        .map(|line| cut(line.trim_end(), style, most))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_fits() {
        ready().unwrap();
        let style = style(20.0, RGBColor(0, 0, 0));
        let long = "a rather long name, made of many words, that fits nowhere";
        assert!(width(&cut(long, &style, 150), &style) <= 150);
        assert!(cut(long, &style, 150).ends_with('…'));
        let lines = wrap(long, &style, 150, 3);
        assert_eq!(lines.len(), 3);
        assert!(lines.iter().all(|line| width(line, &style) <= 150), "{lines:?}");
        assert_eq!(wrap("short", &style, 150, 3), ["short"]);
        assert_eq!(plain("a\u{0}b\nc"), "a b c");
    }
}
