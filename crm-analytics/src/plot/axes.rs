//! Axes: ranges, ticks, and the plane between them.

use super::data::{Guide, Scale, Unit};
use super::scene::{Anchor, Area, Ink, Scene};

/// From the least to the greatest number along a picture.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Axis {
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) logarithmic: bool,
    pub(super) unit: Unit,
    step: f64,
}

impl Axis {
    /// Over values, with a little room on both sides where no border is said; never empty.
    pub(super) fn over(values: impl Iterator<Item = f64>, scale: &Scale) -> Self {
        let (mut low, mut high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| {
            (l.min(v), h.max(v))
        });
        if low > high {
            (low, high) = match (scale.from, scale.to) {
                (Some(from), Some(to)) => (from.min(to), from.max(to)),
                (Some(end), None) | (None, Some(end)) => (end, end),
                (None, None) => (0.0, 1.0),
            };
        }
        let (first, last) = (low, high);
        low = scale.from.map_or(low, |from| from.min(low));
        high = scale.to.map_or(high, |to| to.max(high));
        // No room is needed where a border was said and nothing lies beyond.
        let (firm_low, firm_high) = (
            scale.from.is_some_and(|from| from <= first),
            scale.to.is_some_and(|to| to >= last),
        );
        if high > low {
            let room = (high - low) * 0.04;
            low -= if firm_low { 0.0 } else { room };
            high += if firm_high { 0.0 } else { room };
        } else {
            // Numbers of 1e300 have no other number within a unit.
            let room = low.abs().max(1.0) * 0.1;
            low -= if firm_low { 0.0 } else { room };
            high += room;
        }
        Self {
            low,
            high,
            logarithmic: false,
            unit: scale.unit,
            step: 1.0,
        }
    }

    /// Between two borders exactly, the first above 0.
    pub(super) fn logarithmic(low: f64, high: f64) -> Self {
        let high = if high > low { high } else { low * 10.0 };
        Self {
            low,
            high,
            logarithmic: true,
            unit: Unit::Plain,
            step: 1.0,
        }
    }

    /// Where a number lies, 0 at the beginning and 1 at the end.
    pub(super) fn part(&self, value: f64) -> f64 {
        let part = if self.logarithmic {
            (value.ln() - self.low.ln()) / (self.high.ln() - self.low.ln())
        } else {
            // Halves, so that the distance of the largest numbers is still a number.
            (value / 2.0 - self.low / 2.0) / (self.high / 2.0 - self.low / 2.0)
        };
        if part.is_finite() {
            part.clamp(-1.0, 2.0)
        } else {
            0.0
        }
    }

    /// A round distance that parts the axis about so often.
    pub(super) fn round_step(&self, about: usize) -> f64 {
        let about = about.max(1) as f64;
        let raw = (self.high / about - self.low / about).abs();
        let ten = 10_f64.powf(raw.log10().floor());
        let fits = |m: &&f64| ten * **m >= raw * 0.999;
        // Whole numbers are not parted in halves.
        let steps: &[f64] = if self.unit == Unit::Whole {
            &[1.0, 2.0, 5.0, 10.0]
        } else {
            &[1.0, 2.0, 2.5, 5.0, 10.0]
        };
        ten * steps.iter().find(fits).unwrap_or(&10.0)
    }

    /// About so many round numbers within the borders.
    pub(super) fn ticks(&mut self, about: usize) -> Vec<f64> {
        if self.logarithmic {
            return self.decades(about);
        }
        let mut step = self.round_step(about.clamp(2, 12));
        if self.unit == Unit::Whole {
            step = step.ceil().max(1.0);
        }
        if !(step.is_finite() && step > 0.0) {
            return Vec::new();
        }
        self.step = step;
        let first = (self.low / step - 1e-9).ceil();
        let mut ticks: Vec<f64> = (0..40)
            .map(|i| (first + f64::from(i)) * step)
            .take_while(|v| *v <= self.high + step * 1e-9)
            .filter(|v| v.is_finite())
            .map(|v| if v.abs() < step * 1e-9 { 0.0 } else { v })
            .collect();
        // Numbers so large that steps vanish.
        ticks.dedup();
        ticks
    }

    /// Powers of ten; with 2 and 5 between when there are few.
    fn decades(&mut self, about: usize) -> Vec<f64> {
        let (first, last) = (self.low.log10().floor() as i32, self.high.log10().ceil() as i32);
        let every = ((last - first) / about.max(2) as i32).max(1);
        let between: &[f64] = if last - first <= 2 {
            &[1.0, 2.0, 5.0]
        } else {
            &[1.0]
        };
        (first..=last)
            .step_by(every as usize)
            .flat_map(|power| between.iter().map(move |m| m * 10_f64.powi(power)))
            .filter(|v| *v >= self.low * 0.999 && *v <= self.high * 1.001)
            .collect()
    }

    /// A tick in letters: as many places as the steps need.
    pub(super) fn label(&self, value: f64) -> String {
        let (value, step, sign) = match self.unit {
            Unit::Percent => (value * 100.0, self.step * 100.0, " %"),
            _ => (value, self.step, ""),
        };
        if self.logarithmic {
            return crate::plot::figure(value);
        }
        let size = self.low.abs().max(self.high.abs()) * if self.unit == Unit::Percent { 100.0 } else { 1.0 };
        if size >= 1e9 || step < 1e-5 {
            if value == 0.0 {
                return format!("0{sign}");
            }
            let ten = |v: f64| (v.log10() + 1e-9).floor();
            // 2.5 needs one place more.
            let half = f64::from(u8::from((step / 10_f64.powf(ten(step)) - 2.5).abs() < 0.01));
            let places = (ten(size) - ten(step) + half).clamp(0.0, 8.0) as usize;
            return format!("{value:.places$e}{sign}").replace('-', "−");
        }
        // 2.5 needs one place more than its size says.
        let whole = |places: i32| {
            let scaled = step * 10_f64.powi(places);
            (scaled - scaled.round()).abs() < 1e-6
        };
        let places = (0..8).find(|places| whole(*places)).unwrap_or(8) as usize;
        format!("{}{sign}", grouped(&format!("{value:.places$}")))
    }
}

/// Thousands apart, with a real minus.
fn grouped(number: &str) -> String {
    let (sign, digits) = number
        .strip_prefix('-')
        .map_or(("", number), |digits| ("−", digits));
    let (whole, rest) = digits.find('.').map_or((digits, ""), |at| digits.split_at(at));
    let mut out = sign.to_owned();
    for (i, c) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out + rest
}

/// The plane between two axes.
pub(super) struct Plane {
    pub(super) area: Area,
    pub(super) x: Axis,
    pub(super) y: Axis,
}

impl Plane {
    pub(super) fn px(&self, x: f64) -> f64 {
        self.area.x + self.area.width * self.x.part(x)
    }
    pub(super) fn py(&self, y: f64) -> f64 {
        self.area.bottom() - self.area.height * self.y.part(y)
    }

    /// Draws axes with titles and numbers into an area; what is left is the plane.
    pub(super) fn draw(
        scene: &mut Scene<'_>,
        area: Area,
        mut x: Axis,
        mut y: Axis,
        names: (&str, &str),
    ) -> Self {
        let (letter, line) = (scene.letter, scene.line());
        let size = letter * 0.85;
        let rows = y.ticks((area.height / (line * 2.6)) as usize);
        let labels: Vec<String> = rows.iter().map(|v| y.label(*v)).collect();
        let widest = labels
            .iter()
            .map(|label| scene.face.width(label, size))
            .fold(0.0, f64::max);
        let left = widest + letter * 0.7 + if names.1.is_empty() { 0.0 } else { line * 1.1 };
        let below = line * if names.0.is_empty() { 1.3 } else { 2.5 };
        let inner = area.within(left, letter * 0.5, letter * 0.9, below);
        let plane = {
            // Whole numbers are short.
            let letters = if x.unit == Unit::Whole { 2.6 } else { 4.6 };
            let about = (inner.width / (size * letters)) as usize;
            let mut columns = x.ticks(about);
            let mut labels: Vec<String> = columns.iter().map(|v| x.label(*v)).collect();
            // Long numbers need more room: every second one goes until they fit.
            while labels.len() > 2
                && labels
                    .iter()
                    .map(|l| scene.face.width(l, size) + letter)
                    .sum::<f64>()
                    > inner.width
            {
                let mut at = 0;
                columns.retain(|_| {
                    at += 1;
                    at % 2 == 1
                });
                labels = columns.iter().map(|v| x.label(*v)).collect();
            }
            let plane = Self { area: inner, x, y };
            for (value, label) in columns.iter().zip(&labels) {
                let at = plane.px(*value);
                scene.path(vec![(at, inner.y), (at, inner.bottom())], 1.0, Ink::LINE);
                scene.text(
                    label,
                    (at, inner.bottom() + line * 0.65),
                    size,
                    Ink::FAINT,
                    Anchor::Middle,
                    area.width,
                );
            }
            plane
        };
        for (value, label) in rows.iter().zip(&labels) {
            let at = plane.py(*value);
            scene.path(vec![(inner.x, at), (inner.right(), at)], 1.0, Ink::LINE);
            scene.text(
                label,
                (inner.x - letter * 0.4, at),
                size,
                Ink::FAINT,
                Anchor::End,
                left,
            );
        }
        scene.path(
            vec![
                (inner.x, inner.y),
                (inner.x, inner.bottom()),
                (inner.right(), inner.bottom()),
            ],
            1.0,
            Ink::AXIS,
        );
        let middle = (inner.x + inner.width / 2.0, inner.bottom() + line * 1.85);
        scene.text(
            names.0,
            middle,
            letter * 0.92,
            Ink::TEXT,
            Anchor::Middle,
            inner.width,
        );
        let beside = (area.x + line * 0.45, inner.y + inner.height / 2.0);
        scene.text_up(names.1, beside, letter * 0.92, Ink::TEXT, inner.height);
        plane
    }

    /// Upright dashed lines with a name at the top.
    pub(super) fn guides(&self, scene: &mut Scene<'_>, guides: &[Guide]) {
        let size = scene.letter * 0.85;
        for (i, guide) in guides.iter().enumerate() {
            let part = self.x.part(guide.at);
            if !(0.0..=1.0).contains(&part) {
                continue;
            }
            let at = self.px(guide.at);
            scene.dashes(
                vec![(at, self.area.y), (at, self.area.bottom())],
                1.4,
                Ink::FAINT,
                scene.letter * 0.4,
            );
            let (anchor, dx, room) = if part > 0.6 {
                (Anchor::End, -size * 0.4, part * self.area.width)
            } else {
                (Anchor::Start, size * 0.4, (1.0 - part) * self.area.width)
            };
            let y = self.area.y + size * (0.8 + 1.3 * (i % 3) as f64);
            scene.text(&guide.name, (at + dx, y), size, Ink::TEXT, anchor, room);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks(low: f64, high: f64, about: usize) -> Vec<String> {
        let scale = Scale {
            from: Some(low),
            to: Some(high),
            ..Scale::default()
        };
        let mut axis = Axis::over(std::iter::empty(), &scale);
        axis.ticks(about).into_iter().map(|v| axis.label(v)).collect()
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!(ticks(0.0, 1.0, 5), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(ticks(-3.0, 12_345.0, 4), ["0", "5,000", "10,000"]);
        assert_eq!(ticks(0.0, 9.0, 4), ["0.0", "2.5", "5.0", "7.5"]);
        assert_eq!(ticks(-1.0, 1.0, 4), ["−1.0", "−0.5", "0.0", "0.5", "1.0"]);
        assert_eq!(ticks(0.0, 2e300, 2), ["0", "1e300", "2e300"]);
        assert_eq!(ticks(1e-9, 3e-9, 2), ["1e−9", "2e−9", "3e−9"]);
    }

    #[test]
    fn axes_are_never_empty() {
        for values in [
            vec![],
            vec![5.0],
            vec![1e300, 1e300],
            vec![-1e300, 1e300],
            vec![0.0, 0.0],
            vec![1e-300],
        ] {
            let mut axis = Axis::over(values.iter().copied(), &Scale::default());
            assert!(axis.low < axis.high, "{values:?}");
            let ticks = axis.ticks(6);
            assert!((1..=14).contains(&ticks.len()), "{values:?} {ticks:?}");
            assert!(
                ticks
                    .iter()
                    .all(|v| v.is_finite() && (0.0..=1.0).contains(&axis.part(*v))),
                "{values:?} {ticks:?}"
            );
            assert!(values.iter().all(|v| (0.0..=1.0).contains(&axis.part(*v))));
        }
        let mut log = Axis::logarithmic(0.5, 2_000.0);
        assert_eq!(log.ticks(6), [1.0, 10.0, 100.0, 1000.0]);
        assert_eq!(log.part(0.5), 0.0);
        assert_eq!(log.part(2_000.0), 1.0);
    }
}
