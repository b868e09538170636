//! Shapes as SVG.

use std::fmt::Write as _;

use super::font::plain;
use super::scene::{Anchor, Ink, Shape};

/// Text within HTML and SVG.
pub(crate) fn escape(text: &str) -> String {
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

/// A length or place: tenths of a unit, no more letters than needed.
struct Units(f64);

impl std::fmt::Display for Units {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let tenths = (self.0 * 10.0).round() as i64;
        match tenths % 10 {
            0 => write!(f, "{}", tenths / 10),
            rest => write!(
                f,
                "{}{}.{}",
                if tenths < 0 { "-" } else { "" },
                (tenths / 10).abs(),
                rest.abs()
            ),
        }
    }
}

/// The attributes of a colour, for `fill` or `stroke`.
struct Paint(&'static str, Ink);

impl std::fmt::Display for Paint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self(what, Ink(r, g, b, a)) = self;
        write!(f, "{what}=\"#{r:02x}{g:02x}{b:02x}\"")?;
        if *a < 255 {
            write!(f, " {what}-opacity=\"{:.2}\"", f64::from(*a) / 255.0)?;
        }
        Ok(())
    }
}

fn track(out: &mut String, points: &[(f64, f64)]) {
    for (i, (x, y)) in points.iter().enumerate() {
        let _ = write!(
            out,
            "{}{},{}",
            if i == 0 { "" } else { " " },
            Units(*x),
            Units(*y)
        );
    }
}

pub(super) fn write(shapes: &[Shape], (width, height): (u32, u32), title: &str, told: &str) -> String {
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         role=\"img\" font-family=\"sans-serif\"><title>{}</title><desc>{}</desc>\n",
        escape(&plain(title)),
        escape(&plain(told)),
    );
    for shape in shapes {
        one(&mut out, shape);
        out.push('\n');
    }
    out.push_str("</svg>\n");
    out
}

fn one(out: &mut String, shape: &Shape) {
    // Writing into a string does not fail.
    let _ = match shape {
        Shape::Rect {
            x,
            y,
            width,
            height,
            ink,
        } => write!(
            out,
            "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" {}/>",
            Units(*x),
            Units(*y),
            Units(*width),
            Units(*height),
            Paint("fill", *ink)
        ),
        Shape::Fill { outline, ink } => {
            out.push_str("<polygon points=\"");
            track(out, outline);
            write!(out, "\" {}/>", Paint("fill", *ink))
        }
        Shape::Line {
            points,
            width,
            ink,
            dash,
        } => {
            out.push_str("<polyline points=\"");
            track(out, points);
            let _ = write!(
                out,
                "\" fill=\"none\" {} stroke-width=\"{}\" stroke-linejoin=\"round\"",
                Paint("stroke", *ink),
                Units(*width)
            );
            if let Some(dash) = dash {
                let _ = write!(out, " stroke-dasharray=\"{}\"", Units(*dash));
            }
            write!(out, "/>")
        }
        Shape::Marks { at, size, cover } => {
            let _ = write!(out, "<g fill-opacity=\"{cover:.2}\">");
            let mut sorted: Vec<&(f32, f32, u16)> = at.iter().collect();
            sorted.sort_by_key(|(_, _, group)| *group);
            for group in sorted.chunk_by(|a, b| a.2 == b.2) {
                let number = group
                    .first()
                    .map(|mark| usize::from(mark.2))
                    .filter(|n| *n < usize::from(u16::MAX));
                let _ = write!(out, "<g {}>", Paint("fill", Ink::of(number)));
                for (x, y, _) in group {
                    mark(out, f64::from(*x), f64::from(*y), *size, number);
                }
                out.push_str("</g>");
            }
            write!(out, "</g>")
        }
        Shape::Text {
            x,
            y,
            text,
            size,
            ink,
            anchor,
            up,
        } => {
            let anchor = match anchor {
                Anchor::Start => "",
                Anchor::Middle => " text-anchor=\"middle\"",
                Anchor::End => " text-anchor=\"end\"",
            };
            let turn = if *up {
                format!(" transform=\"rotate(-90 {} {})\"", Units(*x), Units(*y))
            } else {
                String::new()
            };
            write!(
                out,
                "<text x=\"{}\" y=\"{}\" font-size=\"{}\"{anchor}{turn} {}>{}</text>",
                Units(*x),
                Units(*y),
                Units(*size),
                Paint("fill", *ink),
                escape(text)
            )
        }
    };
}

/// Colours repeat after eight groups; the form changes then.
fn mark(out: &mut String, x: f64, y: f64, size: f64, group: Option<usize>) {
    let (px, py, ps) = (Units(x), Units(y), Units(size));
    let _ = match group.map_or(0, |group| group / 8) % 3 {
        0 => write!(out, "<circle cx=\"{px}\" cy=\"{py}\" r=\"{ps}\"/>"),
        1 => write!(
            out,
            "<path d=\"M{} {}L{} {}L{} {}z\"/>",
            px,
            Units(y - size * 1.2),
            Units(x + size * 1.2),
            Units(y + size),
            Units(x - size * 1.2),
            Units(y + size)
        ),
        _ => write!(
            out,
            "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\"/>",
            Units(x - size),
            Units(y - size),
            Units(size * 2.0),
            Units(size * 2.0)
        ),
    };
}
