//! Shapes as pixels, and pixels as PNG.

mod cover;

use crm_core::{Error, Result};

use cover::{Cover, bounds};

use super::font::Face;
use super::scene::{Anchor, Ink, PALETTE, Shape};

pub(super) fn png(shapes: &[Shape], face: &Face<'_>, (width, height): (u32, u32)) -> Result<Vec<u8>> {
    let mut page = Page::new(width as usize, height as usize);
    shapes.iter().for_each(|shape| page.draw(shape, face));
    let mut file = Vec::with_capacity(page.pixels.len() / 16);
    let mut encoder = png::Encoder::new(&mut file, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Fast);
    encoder.set_filter(png::FilterType::Up);
    encoder.set_adaptive_filter(png::AdaptiveFilterType::NonAdaptive);
    let failed = |e: png::EncodingError| {
        Error::unexpected("the picture could not be written as PNG")
            .operation("plot.draw")
            .source(e)
    };
    let mut writer = encoder.write_header().map_err(failed)?;
    writer.write_image_data(&page.pixels).map_err(failed)?;
    writer.finish().map_err(failed)?;
    Ok(file)
}

/// Pixels, and how much of each the current shape covers.
struct Page {
    width: usize,
    height: usize,
    pixels: Vec<u8>,
    cover: Cover,
}

/// Both outlines turn the same way, so that what lies in two of them is not taken away again.
fn same_turn(mut outline: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    let twice: f64 = outline
        .iter()
        .zip(outline.iter().cycle().skip(1))
        .map(|((x0, y0), (x1, y1))| x0 * y1 - x1 * y0)
        .sum();
    if twice < 0.0 {
        outline.reverse();
    }
    outline
}

/// How much of a pixel takes an ink's colour, of 256.
fn share(ink: Ink, cover: f32) -> i32 {
    (cover.clamp(0.0, 1.0) * f32::from(ink.3) * (256.0 / 255.0)).round() as i32
}

/// `part` is of 256.
fn mix(pixel: &mut [u8], ink: Ink, part: i32) {
    for (channel, full) in pixel.iter_mut().zip([ink.0, ink.1, ink.2]) {
        let old = i32::from(*channel);
        *channel = (old + (((i32::from(full) - old) * part + 128) >> 8)) as u8;
    }
}

fn blend(pixel: &mut [u8], ink: Ink, cover: f32) {
    mix(pixel, ink, share(ink, cover));
}

impl Page {
    fn new(width: usize, height: usize) -> Self {
        Self {
            width,
            height,
            pixels: vec![255; width * height * 3],
            cover: Cover::default(),
        }
    }

    fn pixel(&mut self, x: i64, y: i64) -> Option<&mut [u8]> {
        let (x, y) = (usize::try_from(x).ok()?, usize::try_from(y).ok()?);
        if x >= self.width || y >= self.height {
            return None;
        }
        let at = (y * self.width + x) * 3;
        self.pixels.get_mut(at..at + 3)
    }

    /// Paints what is covered.
    fn paint(&mut self, ink: Ink) {
        let cover = &self.cover;
        if cover.width == 0 {
            return;
        }
        for (row, line) in cover.sums.chunks_exact(cover.width + 2).enumerate() {
            let start = ((cover.top + row) * self.width + cover.left) * 3;
            let Some(pixels) = self.pixels.get_mut(start..start + cover.width * 3) else {
                continue;
            };
            let mut sum = 0.0_f32;
            for (change, pixel) in line.iter().zip(pixels.chunks_exact_mut(3)) {
                sum += change;
                if sum.abs() > 0.002 {
                    blend(pixel, ink, sum.abs());
                }
            }
        }
    }

    fn fill(&mut self, outline: &[(f64, f64)], ink: Ink) {
        let (low, high) = bounds(outline, 0.0);
        self.cover.begin(low, high, (self.width, self.height));
        self.cover.closed(outline);
        self.paint(ink);
    }

    fn draw(&mut self, shape: &Shape, face: &Face<'_>) {
        match shape {
            Shape::Fill { outline, ink } => self.fill(outline, *ink),
            Shape::Rect {
                x,
                y,
                width,
                height,
                ink,
            } => {
                let (right, bottom) = (x + width, y + height);
                self.fill(&[(*x, *y), (right, *y), (right, bottom), (*x, bottom)], *ink);
            }
            Shape::Line {
                points,
                width,
                ink,
                dash,
            } => match dash {
                None => self.stroke(std::slice::from_ref(points), *width, *ink),
                Some(dash) => self.stroke(&dashes(points, *dash), *width, *ink),
            },
            Shape::Marks { at, size, cover } => self.marks(at, *size, *cover),
            Shape::Text {
                x,
                y,
                text,
                size,
                ink,
                anchor,
                up,
            } => self.text(face, text, (*x, *y), *size, *ink, *anchor, *up),
        }
    }

    fn stroke(&mut self, parts: &[Vec<(f64, f64)>], width: f64, ink: Ink) {
        // Even and upright thin lines lie on whole pixels, so that they are not blurred.
        let snap = |v: f64| if width < 1.6 { v.floor() + 0.5 } else { v };
        let half = (if width < 1.6 { width.max(1.0) } else { width }) / 2.0;
        let all: Vec<(f64, f64)> = parts.iter().flatten().copied().collect();
        let (low, high) = bounds(&all, half + 1.0);
        self.cover.begin(low, high, (self.width, self.height));
        for part in parts {
            for pair in part.windows(2) {
                let [a, b] = pair else { continue };
                let (mut a, mut b) = (*a, *b);
                if (a.1 - b.1).abs() < 1e-6 {
                    (a.1, b.1) = (snap(a.1), snap(b.1));
                }
                if (a.0 - b.0).abs() < 1e-6 {
                    (a.0, b.0) = (snap(a.0), snap(b.0));
                }
                let (dx, dy) = (b.0 - a.0, b.1 - a.1);
                let length = dx.hypot(dy);
                if length < 1e-9 {
                    continue;
                }
                let (nx, ny) = (-dy / length * half, dx / length * half);
                let quad = vec![
                    (a.0 + nx, a.1 + ny),
                    (b.0 + nx, b.1 + ny),
                    (b.0 - nx, b.1 - ny),
                    (a.0 - nx, a.1 - ny),
                ];
                self.cover.closed(&same_turn(quad));
            }
            // Round joints; thin lines need none.
            if half > 0.9 {
                for (x, y) in part.iter().skip(1).take(part.len().saturating_sub(2)) {
                    let joint: Vec<(f64, f64)> = (0..12)
                        .map(|i| {
                            let (s, c) = (std::f64::consts::TAU * f64::from(i) / 12.0).sin_cos();
                            (x + half * c, y + half * s)
                        })
                        .collect();
                    self.cover.closed(&same_turn(joint));
                }
            }
        }
        self.paint(ink);
    }

    /// Each mark is a stamp: its form drawn once at each of 16 places within a pixel.
    fn marks(&mut self, at: &[(f32, f32, u16)], size: f64, cover: f64) {
        let nobody = Ink::NOBODY.part(cover);
        // Marks of all groups cover the same.
        let stamps: Vec<Vec<Stamp>> = (0..3).map(|form| Stamp::all(form, size, nobody)).collect();
        let inks: Vec<Ink> = PALETTE.iter().map(|ink| ink.part(cover)).collect();
        for (x, y, group) in at {
            let (form, ink) = if *group == u16::MAX {
                (0, nobody)
            } else {
                let group = usize::from(*group);
                (group / 8 % 3, inks.get(group % 8).copied().unwrap_or(nobody))
            };
            let (px, py) = (x.floor(), y.floor());
            let phase = ((y - py) * 4.0) as usize % 4 * 4 + ((x - px) * 4.0) as usize % 4;
            if let Some(stamp) = stamps.get(form).and_then(|all| all.get(phase)) {
                stamp.press(self, px as i64, py as i64, ink);
            }
        }
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of a text")]
    fn text(
        &mut self,
        face: &Face<'_>,
        text: &str,
        at: (f64, f64),
        size: f64,
        ink: Ink,
        anchor: Anchor,
        up: bool,
    ) {
        let (letters, width) = face.set(text, size);
        let start = match anchor {
            Anchor::Start => 0.0,
            Anchor::Middle => -width / 2.0,
            Anchor::End => -width,
        };
        for letter in letters {
            let along = start + letter.at;
            if up {
                // Drawn around the corner of the page, then turned.
                let (x0, y0) = (at.0.round() as i64, at.1.round() as i64);
                face.draw(&letter, size, (along as f32, 0.0), &mut |x, y, cover| {
                    if let Some(pixel) = self.pixel(x0 + y, y0 - x) {
                        blend(pixel, ink, cover);
                    }
                });
            } else {
                // Baselines lie on whole pixels: crisper.
                let origin = ((at.0 + along) as f32, at.1.round() as f32);
                face.draw(&letter, size, origin, &mut |x, y, cover| {
                    if let Some(pixel) = self.pixel(x, y) {
                        blend(pixel, ink, cover);
                    }
                });
            }
        }
    }
}

/// The dashes of a line.
fn dashes(points: &[(f64, f64)], dash: f64) -> Vec<Vec<(f64, f64)>> {
    let mut out = Vec::new();
    let dash = dash.max(1.0);
    let (mut left, mut on) = (dash, true);
    let mut current: Vec<(f64, f64)> = points.first().copied().into_iter().collect();
    for pair in points.windows(2) {
        let [a, b] = pair else { continue };
        let length = (b.0 - a.0).hypot(b.1 - a.1);
        let mut gone = 0.0;
        while length - gone > left {
            gone += left;
            let part = gone / length;
            let point = (a.0 + (b.0 - a.0) * part, a.1 + (b.1 - a.1) * part);
            current.push(point);
            if on {
                out.push(std::mem::take(&mut current));
            }
            current = vec![point];
            (left, on) = (dash, !on);
        }
        left -= length - gone;
        current.push(*b);
    }
    if on && current.len() > 1 {
        out.push(current);
    }
    out
}

/// What a mark covers around its pixel.
struct Stamp {
    reach: i64,
    /// Each line's first pixel, and the parts of 256 that it and those after it take.
    lines: Vec<(usize, Vec<i32>)>,
}

impl Stamp {
    fn all(form: usize, size: f64, ink: Ink) -> Vec<Self> {
        let reach = (size * 1.25).ceil() as i64 + 1;
        let side = (reach * 2 + 1) as usize;
        let mut cover = Cover::default();
        (0..16)
            .map(|phase| {
                let x = reach as f64 + f64::from(phase % 4) / 4.0 + 0.125;
                let y = reach as f64 + f64::from(phase / 4) / 4.0 + 0.125;
                let outline = match form {
                    0 => super::scene::Scene::round(x, y, (size, size), 0.0),
                    1 => vec![
                        (x, y - size * 1.2),
                        (x + size * 1.2, y + size),
                        (x - size * 1.2, y + size),
                    ],
                    _ => vec![
                        (x - size, y - size),
                        (x + size, y - size),
                        (x + size, y + size),
                        (x - size, y + size),
                    ],
                };
                cover.begin((0.0, 0.0), (side as f64, side as f64), (side, side));
                cover.closed(&outline);
                let lines = cover.sums.chunks_exact(side + 2).map(|line| {
                    let mut sum = 0.0_f32;
                    let mut parts: Vec<i32> = line
                        .iter()
                        .take(side)
                        .map(|change| {
                            sum += change;
                            share(ink, sum.abs())
                        })
                        .collect();
                    let first = parts.iter().take_while(|part| **part == 0).count();
                    parts.drain(..first);
                    let kept = parts.len() - parts.iter().rev().take_while(|part| **part == 0).count();
                    parts.truncate(kept);
                    (first, parts)
                });
                Self {
                    reach,
                    lines: lines.collect(),
                }
            })
            .collect()
    }

    fn press(&self, page: &mut Page, x: i64, y: i64, ink: Ink) {
        let side = self.reach * 2 + 1;
        let (left, top) = (x - self.reach, y - self.reach);
        let inside =
            left >= 0 && top >= 0 && left + side <= page.width as i64 && top + side <= page.height as i64;
        for (row, (first, parts)) in self.lines.iter().enumerate() {
            if inside {
                let start = ((top as usize + row) * page.width + left as usize + first) * 3;
                if let Some(pixels) = page.pixels.get_mut(start..start + parts.len() * 3) {
                    for (part, pixel) in parts.iter().zip(pixels.chunks_exact_mut(3)) {
                        mix(pixel, ink, *part);
                    }
                }
                continue;
            }
            for (col, part) in parts.iter().enumerate() {
                if let Some(pixel) = page.pixel(left + (first + col) as i64, top + row as i64) {
                    mix(pixel, ink, *part);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a white page of 20 by 20 looks like, as covered parts.
    fn page(shape: &Shape) -> Vec<f64> {
        let mut page = Page::new(20, 20);
        page.draw(shape, &Face::new(None).unwrap());
        page.pixels
            .chunks_exact(3)
            .map(|p| 1.0 - f64::from(p[0]) / 255.0)
            .collect()
    }

    const BLACK: Ink = Ink(0, 0, 0, 255);

    #[test]
    fn covered_areas_are_right() {
        let square = page(&Shape::Rect {
            x: 2.5,
            y: 3.25,
            width: 4.0,
            height: 5.5,
            ink: BLACK,
        });
        assert!(
            (square.iter().sum::<f64>() - 22.0).abs() < 0.1,
            "{}",
            square.iter().sum::<f64>()
        );
        assert!((square[5 * 20 + 2] - 0.5).abs() < 0.01 && (square[5 * 20 + 4] - 1.0).abs() < 0.01);
        let triangle = page(&Shape::Fill {
            outline: vec![(1.0, 1.0), (17.3, 4.0), (6.0, 18.5)],
            ink: BLACK,
        });
        let area = 0.5 * ((17.3_f64 - 1.0) * (18.5 - 1.0) - (6.0 - 1.0) * (4.0 - 1.0)).abs();
        assert!(
            (triangle.iter().sum::<f64>() - area).abs() < 0.7,
            "{} {area}",
            triangle.iter().sum::<f64>()
        );
        // The other way around is the same.
        let turned = page(&Shape::Fill {
            outline: vec![(6.0, 18.5), (17.3, 4.0), (1.0, 1.0)],
            ink: BLACK,
        });
        assert_eq!(triangle, turned);
        let disc = page(&Shape::Marks {
            at: vec![(10.0, 10.0, 7)],
            size: 5.0,
            cover: 1.0,
        });
        let expected = std::f64::consts::PI * 25.0 * (1.0 - f64::from(0x33) / 255.0);
        assert!(
            (disc.iter().sum::<f64>() - expected).abs() < 1.5,
            "{} {expected}",
            disc.iter().sum::<f64>()
        );
    }

    #[test]
    fn what_lies_outside_is_clipped() {
        let beyond = page(&Shape::Rect {
            x: -1e9,
            y: -1e9,
            width: 2e9,
            height: 2e9,
            ink: BLACK,
        });
        assert!(beyond.iter().all(|cover| *cover > 0.99));
        let away = page(&Shape::Rect {
            x: 30.0,
            y: -40.0,
            width: 5.0,
            height: 5.0,
            ink: BLACK,
        });
        assert!(away.iter().all(|cover| *cover == 0.0));
        let half = page(&Shape::Rect {
            x: -5.0,
            y: 0.0,
            width: 15.0,
            height: 20.0,
            ink: BLACK,
        });
        assert!((half.iter().sum::<f64>() - 200.0).abs() < 0.1);
        page(&Shape::Marks {
            at: vec![(-3.0, 19.9, 0), (500.0, 500.0, 9)],
            size: 4.0,
            cover: 0.5,
        });
    }

    #[test]
    fn dashes_leave_gaps() {
        let parts = dashes(&[(0.0, 0.0), (10.0, 0.0), (10.0, 10.0)], 4.0);
        assert_eq!(parts.len(), 3);
        assert_eq!(parts[1], [(8.0, 0.0), (10.0, 0.0), (10.0, 2.0)]);
        assert_eq!(parts[2].last(), Some(&(10.0, 10.0)));
    }
}
