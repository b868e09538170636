//! Letters: how wide text is, and its outlines in PNG.

use std::sync::OnceLock;

use ab_glyph::{Font as _, FontRef, FontVec, GlyphId};
use crm_core::{Error, Result};

static SHIPPED: &[u8] = include_bytes!("../../assets/DejaVuSans-latin.ttf");
static READ: OnceLock<Option<FontRef<'static>>> = OnceLock::new();

/// A font of the host's, for letters that the shipped one lacks (such as Chinese, Arabic or Hebrew).
///
/// SVG needs none: there the viewer's own fonts are used.
pub struct Font(FontVec);

impl std::fmt::Debug for Font {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Font({} glyphs)", self.0.glyph_count())
    }
}

impl Font {
    /// Reads a TrueType or OpenType font; of a collection the first.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Invalid`] when the bytes are no font.
    pub fn read(bytes: Vec<u8>) -> Result<Self> {
        FontVec::try_from_vec_and_index(bytes, 0).map(Self).map_err(|e| {
            Error::invalid("these bytes are no TrueType or OpenType font")
                .operation("plot.font")
                .source(e)
        })
    }
}

/// The fonts of one picture.
#[derive(Clone, Copy)]
pub(super) struct Face<'f> {
    shipped: &'static FontRef<'static>,
    more: Option<&'f FontVec>,
}

/// One letter ready to be drawn: in which font, its place along the line.
pub(super) struct Letter {
    pub(super) of_host: bool,
    pub(super) id: GlyphId,
    pub(super) at: f64,
}

impl<'f> Face<'f> {
    pub(super) fn new(more: Option<&'f Font>) -> Result<Self> {
        let shipped = READ
            .get_or_init(|| FontRef::try_from_slice(SHIPPED).ok())
            .as_ref()
            .ok_or_else(|| {
                Error::unexpected("the font shipped along cannot be read; please report it")
                    .operation("plot.draw")
            })?;
        Ok(Self {
            shipped,
            more: more.map(|font| &font.0),
        })
    }

    /// The glyph of a letter and its width in ems. Letters of no font get a box in PNG; wide ones keep their width.
    fn glyph(&self, c: char) -> (bool, GlyphId, f64) {
        let id = self.shipped.glyph_id(c);
        let ems = |font: &dyn Fn() -> (f32, f32)| {
            let (advance, units) = font();
            f64::from(advance) / f64::from(units.max(1.0))
        };
        if id.0 != 0 {
            let measure = || {
                (
                    self.shipped.h_advance_unscaled(id),
                    self.shipped.units_per_em().unwrap_or(2048.0),
                )
            };
            return (false, id, ems(&measure));
        }
        if let Some(more) = self.more {
            let found = more.glyph_id(c);
            if found.0 != 0 {
                let measure = || {
                    (
                        more.h_advance_unscaled(found),
                        more.units_per_em().unwrap_or(1000.0),
                    )
                };
                return (true, found, ems(&measure));
            }
        }
        (
            false,
            id,
            f64::from(columns(c)) * 0.5 + 0.1 * f64::from(u8::from(columns(c) == 1)),
        )
    }

    pub(super) fn width(&self, text: &str, size: f64) -> f64 {
        text.chars().map(|c| self.glyph(c).2).sum::<f64>() * size
    }

    /// The letters of a line in the order they stand, left to right, and its width.
    pub(super) fn set(&self, text: &str, size: f64) -> (Vec<Letter>, f64) {
        let mut at = 0.0;
        let letters = in_sight(text)
            .chars()
            .map(|c| {
                let (of_host, id, ems) = self.glyph(c);
                let letter = Letter { of_host, id, at };
                at += ems * size;
                letter
            })
            .collect();
        (letters, at)
    }

    /// The coverage of a letter at a size, `draw(x, y, cover)` in pixels from `origin` on the baseline.
    pub(super) fn draw(
        &self,
        letter: &Letter,
        size: f64,
        origin: (f32, f32),
        draw: &mut dyn FnMut(i64, i64, f32),
    ) {
        let more = self.more.filter(|_| letter.of_host);
        let outlined = match more {
            Some(font) => outline(font, letter.id, size, origin),
            None => outline(self.shipped, letter.id, size, origin),
        };
        if let Some(outlined) = outlined {
            let corner = outlined.px_bounds().min;
            let (left, top) = (corner.x as i64, corner.y as i64);
            outlined.draw(|x, y, cover| draw(left + i64::from(x), top + i64::from(y), cover));
        }
    }

    /// Cut to a width, with an ellipsis; without control characters, which no SVG may hold.
    pub(super) fn cut(&self, text: &str, size: f64, most: f64) -> String {
        let text = plain(text);
        if self.width(&text, size) <= most {
            return text;
        }
        let mut room = most - self.width("…", size);
        let kept: String = text
            .chars()
            .take_while(|c| {
                room -= self.glyph(*c).2 * size;
                room >= 0.0
            })
            .collect();
        if kept.is_empty() && most < size * 0.6 {
            return String::new();
        }
        format!("{}…", kept.trim_end())
    }

    /// Broken into at most `lines` lines of a width, at blanks, underscores, dots and between wide letters.
    pub(super) fn wrap(&self, text: &str, size: f64, most: f64, lines: usize) -> Vec<String> {
        let text = plain(text);
        let mut broken: Vec<String> = Vec::new();
        let mut words: Vec<String> = vec![String::new()];
        for c in text.chars() {
            if let Some(word) = words.last_mut() {
                word.push(c);
            }
            if matches!(c, ' ' | '_' | '.') || columns(c) == 2 {
                words.push(String::new());
            }
        }
        for word in words.into_iter().filter(|word| !word.is_empty()) {
            match broken.last_mut() {
                Some(line) if self.width(&format!("{line}{}", word.trim_end()), size) <= most => {
                    line.push_str(&word)
                }
                _ => broken.push(word),
            }
        }
        let lines = lines.max(1);
        if broken.len() > lines {
            let rest = broken.split_off(lines - 1).concat();
            broken.push(rest);
        }
        broken
            .iter()
            .map(|line| self.cut(line.trim_end(), size, most))
            .collect()
    }
}

fn outline<F: ab_glyph::Font>(
    font: &F,
    id: GlyphId,
    size: f64,
    at: (f32, f32),
) -> Option<ab_glyph::OutlinedGlyph> {
    // This library measures sizes by the height of a line, everybody else by the em.
    let scale = size as f32 * font.height_unscaled() / font.units_per_em()?;
    font.outline_glyph(id.with_scale_and_position(scale, ab_glyph::point(at.0, at.1)))
}

/// Without what no XML may hold, line ends, and the invisible signs that turn the direction of text around.
pub(super) fn plain(text: &str) -> String {
    text.chars()
        .filter(|c| !matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'))
        .map(|c| {
            let odd = c.is_control()
                || ('\u{fffe}'..='\u{ffff}').contains(&c)
                || matches!(c, '\u{2028}' | '\u{2029}');
            if odd { ' ' } else { c }
        })
        .collect()
}

/// How many columns of a terminal a letter takes: 2 for East Asian wide ones, 0 for marks on letters.
pub(super) fn columns(c: char) -> u8 {
    match u32::from(c) {
        0x0300..=0x036f | 0x200b..=0x200d | 0xfe00..=0xfe0f | 0x0591..=0x05bd | 0x064b..=0x065f => 0,
        0x1100..=0x115f
        | 0x2e80..=0x303e
        | 0x3041..=0xa4cf
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f
        | 0xff00..=0xff60
        | 0xffe0..=0xffe6
        | 0x1f300..=0x1f64f
        | 0x1f900..=0x1f9ff
        | 0x2_0000..=0x3_fffd => 2,
        _ => 1,
    }
}

fn right_to_left(c: char) -> bool {
    matches!(u32::from(c), 0x0590..=0x08ff | 0xfb1d..=0xfdff | 0xfe70..=0xfeff | 0x1_0800..=0x1_0fff | 0x1_e800..=0x1_efff)
}

/// The letters as they stand on the page: runs of Hebrew, Arabic and the like are turned around, numbers in them are not.
/// Arabic letters are not joined; SVG leaves both to the viewer.
fn in_sight(text: &str) -> String {
    if !text.chars().any(right_to_left) {
        return text.to_owned();
    }
    let letters: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut run: Vec<char> = Vec::new();
    let mut at = 0;
    while let Some(c) = letters.get(at) {
        // A run goes on over what has no direction when more of the same follows.
        let more = letters.get(at..).unwrap_or_default();
        let neutral = |c: &&char| !c.is_alphabetic() || right_to_left(**c);
        let goes_on = right_to_left(*c)
            || (!run.is_empty()
                && !c.is_alphabetic()
                && more.iter().take_while(neutral).any(|c| right_to_left(*c)));
        if goes_on {
            run.push(*c);
        } else {
            out.extend(turned(&run));
            run.clear();
            out.push(*c);
        }
        at += 1;
    }
    out.extend(turned(&run));
    out
}

/// Backwards, but for numbers.
fn turned(run: &[char]) -> Vec<char> {
    let mut out: Vec<char> = Vec::with_capacity(run.len());
    for part in run
        .chunk_by(|a, b| a.is_ascii_digit() && b.is_ascii_digit())
        .rev()
    {
        out.extend(part);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_fits() {
        let face = Face::new(None).unwrap();
        let long = "a rather long name, made of many words, that fits nowhere";
        assert!(face.width(&face.cut(long, 20.0, 150.0), 20.0) <= 150.0);
        assert!(face.cut(long, 20.0, 150.0).ends_with('…'));
        let lines = face.wrap(long, 20.0, 150.0, 3);
        assert_eq!(lines.len(), 3);
        assert!(
            lines.iter().all(|line| face.width(line, 20.0) <= 150.0),
            "{lines:?}"
        );
        assert_eq!(face.wrap("short", 20.0, 150.0, 3), ["short"]);
        assert_eq!(
            face.wrap("客户按价值分组的长名称", 20.0, 110.0, 3).len(),
            3,
            "broken between wide letters"
        );
        assert_eq!(plain("a\u{0}b\nc\u{202e}d"), "a b cd");
        assert_eq!(face.cut("abc", 20.0, 1.0), "", "no room, no ellipsis");
    }

    #[test]
    fn lines_are_set_in_sight() {
        assert_eq!(in_sight("abc 12"), "abc 12");
        assert_eq!(in_sight("שלום"), "םולש");
        assert_eq!(in_sight("id שלום 42 עולם (5 %)"), "id םלוע 42 םולש (5 %)");
        let face = Face::new(None).unwrap();
        assert!((face.set("שלום", 10.0).1 - face.width("שלום", 10.0)).abs() < 1e-9);
    }
}
