//! A picture as shapes: what charts are drawn on, and what SVG and PNG are written from.

use super::font::Face;

/// A colour and how much it covers, 255 being all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ink(pub(super) u8, pub(super) u8, pub(super) u8, pub(super) u8);

impl Ink {
    pub(super) const WHITE: Self = Self(255, 255, 255, 255);
    pub(super) const TEXT: Self = Self(0x22, 0x22, 0x22, 255);
    pub(super) const FAINT: Self = Self(0x59, 0x59, 0x59, 255);
    pub(super) const LINE: Self = Self(0xdd, 0xdd, 0xdd, 255);
    pub(super) const AXIS: Self = Self(0x88, 0x88, 0x88, 255);
    /// Those in no group.
    pub(super) const NOBODY: Self = Self(0xaa, 0xaa, 0xaa, 255);

    /// The colour of a group; they repeat after eight.
    pub(super) fn of(group: Option<usize>) -> Self {
        group
            .and_then(|group| PALETTE.get(group % PALETTE.len()))
            .copied()
            .unwrap_or(Self::NOBODY)
    }
    /// The same colour, covering a part, 0 to 1.
    pub(super) fn part(self, part: f64) -> Self {
        Self(
            self.0,
            self.1,
            self.2,
            (part.clamp(0.0, 1.0) * 255.0).round() as u8,
        )
    }
    /// Between this colour and another, 0 to 1.
    pub(super) fn towards(self, other: Self, part: f64) -> Self {
        let part = part.clamp(0.0, 1.0);
        let mix = |a: u8, b: u8| (f64::from(a) + (f64::from(b) - f64::from(a)) * part).round() as u8;
        Self(
            mix(self.0, other.0),
            mix(self.1, other.1),
            mix(self.2, other.2),
            255,
        )
    }
    /// Relative luminance (WCAG 2.2), 0 to 1.
    pub(super) fn luminance(self) -> f64 {
        let linear = |c: u8| {
            let c = f64::from(c) / 255.0;
            if c <= 0.040_45 {
                c / 12.92
            } else {
                ((c + 0.055) / 1.055).powf(2.4)
            }
        };
        0.2126 * linear(self.0) + 0.7152 * linear(self.1) + 0.0722 * linear(self.2)
    }
    /// The colour of text on this one: whichever of dark and white stands out more (WCAG's contrast ratio).
    pub(super) fn on(self) -> Self {
        let contrast = |text: Self| {
            let (a, b) = (text.luminance() + 0.05, self.luminance() + 0.05);
            a.max(b) / a.min(b)
        };
        if contrast(Self::WHITE) > contrast(Self::TEXT) {
            Self::WHITE
        } else {
            Self::TEXT
        }
    }
}

/// Okabe and Ito's colours (2008), the yellow darkened to be seen on white.
pub(super) const PALETTE: [Ink; 8] = [
    Ink(0x00, 0x72, 0xb2, 255),
    Ink(0xe6, 0x9f, 0x00, 255),
    Ink(0x00, 0x9e, 0x73, 255),
    Ink(0xd5, 0x5e, 0x00, 255),
    Ink(0xcc, 0x79, 0xa7, 255),
    Ink(0x56, 0xb4, 0xe9, 255),
    Ink(0xb8, 0xa9, 0x00, 255),
    Ink(0x33, 0x33, 0x33, 255),
];

/// Where a text's place lies in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// One thing drawn; later ones lie above. Places in units from the upper left corner.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Shape {
    /// A filled polygon.
    Fill { outline: Vec<(f64, f64)>, ink: Ink },
    /// A filled rectangle.
    Rect {
        x: f64,
        y: f64,
        width: f64,
        height: f64,
        ink: Ink,
    },
    /// A line through points; with a dash, so long are its dashes and gaps.
    Line {
        points: Vec<(f64, f64)>,
        width: f64,
        ink: Ink,
        dash: Option<f64>,
    },
    /// Many points of groups: place, and group (`u16::MAX`: none).
    Marks {
        at: Vec<(f32, f32, u16)>,
        size: f64,
        cover: f64,
    },
    /// Text on a baseline; `up` when it is read from the bottom.
    Text {
        x: f64,
        y: f64,
        text: String,
        size: f64,
        ink: Ink,
        anchor: Anchor,
        up: bool,
    },
}

/// A part of the page.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Area {
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) width: f64,
    pub(super) height: f64,
}

impl Area {
    pub(super) fn right(&self) -> f64 {
        self.x + self.width
    }
    pub(super) fn bottom(&self) -> f64 {
        self.y + self.height
    }
    /// With so much taken away on the left, above, on the right, below.
    pub(super) fn within(&self, left: f64, top: f64, right: f64, bottom: f64) -> Self {
        Self {
            x: self.x + left,
            y: self.y + top,
            width: (self.width - left - right).max(0.0),
            height: (self.height - top - bottom).max(0.0),
        }
    }
}

/// The page while it is drawn on.
pub(super) struct Scene<'f> {
    pub(super) shapes: Vec<Shape>,
    pub(super) face: Face<'f>,
    /// More points than this are drawn as density.
    pub(super) most_marks: usize,
    /// The size of ordinary text.
    pub(super) letter: f64,
}

impl Scene<'_> {
    /// The height of a line of ordinary text.
    pub(super) fn line(&self) -> f64 {
        self.letter * 1.35
    }
    pub(super) fn rect(&mut self, area: Area, ink: Ink) {
        let Area { x, y, width, height } = area;
        self.shapes.push(Shape::Rect {
            x,
            y,
            width,
            height,
            ink,
        });
    }
    pub(super) fn fill(&mut self, outline: Vec<(f64, f64)>, ink: Ink) {
        self.shapes.push(Shape::Fill { outline, ink });
    }
    pub(super) fn path(&mut self, points: Vec<(f64, f64)>, width: f64, ink: Ink) {
        self.line_of(points, width, ink, None);
    }
    pub(super) fn dashes(&mut self, points: Vec<(f64, f64)>, width: f64, ink: Ink, dash: f64) {
        self.line_of(points, width, ink, Some(dash));
    }
    /// A line of no point or of one is none.
    fn line_of(&mut self, points: Vec<(f64, f64)>, width: f64, ink: Ink, dash: Option<f64>) {
        if points.len() > 1 {
            self.shapes.push(Shape::Line {
                points,
                width,
                ink,
                dash,
            });
        }
    }
    /// An outlined rectangle.
    pub(super) fn frame(&mut self, area: Area, width: f64, ink: Ink) {
        let (right, bottom) = (area.right(), area.bottom());
        let corners = vec![
            (area.x, area.y),
            (right, area.y),
            (right, bottom),
            (area.x, bottom),
            (area.x, area.y),
        ];
        self.path(corners, width, ink);
    }
    /// One point of a group.
    pub(super) fn mark(&mut self, x: f64, y: f64, size: f64, group: Option<usize>) {
        let group = group.map_or(u16::MAX, |group| (group % 24) as u16);
        self.shapes.push(Shape::Marks {
            at: vec![(x as f32, y as f32, group)],
            size,
            cover: 1.0,
        });
    }
    /// Text whose middle height is `y`, cut to `most` units.
    pub(super) fn text(
        &mut self,
        text: &str,
        at: (f64, f64),
        size: f64,
        ink: Ink,
        anchor: Anchor,
        most: f64,
    ) {
        let text = self.face.cut(text, size, most);
        if !text.is_empty() {
            let (x, y) = (at.0, at.1 + size * 0.36);
            self.shapes.push(Shape::Text {
                x,
                y,
                text,
                size,
                ink,
                anchor,
                up: false,
            });
        }
    }
    /// Text read from the bottom, whose middle is at `at`.
    pub(super) fn text_up(&mut self, text: &str, at: (f64, f64), size: f64, ink: Ink, most: f64) {
        let text = self.face.cut(text, size, most);
        if !text.is_empty() {
            let (x, y) = (at.0 + size * 0.36, at.1);
            self.shapes.push(Shape::Text {
                x,
                y,
                text,
                size,
                ink,
                anchor: Anchor::Middle,
                up: true,
            });
        }
    }
    /// Lines of text around a middle height.
    pub(super) fn lines(&mut self, lines: &[String], at: (f64, f64), size: f64, ink: Ink, anchor: Anchor) {
        let step = size * 1.25;
        let first = at.1 - step * (lines.len() as f64 - 1.0) / 2.0;
        for (i, line) in lines.iter().enumerate() {
            self.text(
                line,
                (at.0, first + step * i as f64),
                size,
                ink,
                anchor,
                f64::INFINITY,
            );
        }
    }
    /// An ellipse as a polygon of 48 corners.
    pub(super) fn round(x: f64, y: f64, (a, b): (f64, f64), angle: f64) -> Vec<(f64, f64)> {
        let (sin, cos) = angle.sin_cos();
        (0..48)
            .map(|i| {
                let (s, c) = (std::f64::consts::TAU * f64::from(i) / 48.0).sin_cos();
                (x + a * c * cos - b * s * sin, y + a * c * sin + b * s * cos)
            })
            .collect()
    }
}
