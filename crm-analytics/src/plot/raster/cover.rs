//! How much of each pixel a shape covers.

/// Signed areas of edges by the pixel they begin in: their sum along a line of pixels is how much is covered (Levien 2016).
#[derive(Default)]
pub(super) struct Cover {
    pub(super) left: usize,
    pub(super) top: usize,
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) sums: Vec<f32>,
}

impl Cover {
    /// Begins anew over the pixels that points lie in.
    pub(super) fn begin(
        &mut self,
        (low_x, low_y): (f64, f64),
        (high_x, high_y): (f64, f64),
        page: (usize, usize),
    ) {
        let clip = |v: f64, most: usize| v.max(0.0).min(most as f64) as usize;
        self.left = clip(low_x.floor(), page.0);
        self.top = clip(low_y.floor(), page.1);
        self.width = clip(high_x.ceil(), page.0).saturating_sub(self.left);
        self.height = clip(high_y.ceil(), page.1).saturating_sub(self.top);
        self.sums.clear();
        // One more a row, for what lies to the right of the last pixel.
        self.sums.resize((self.width + 2) * self.height, 0.0);
    }

    fn edge(&mut self, from: (f64, f64), to: (f64, f64)) {
        let (x0, y0) = (from.0 - self.left as f64, from.1 - self.top as f64);
        let (x1, y1) = (to.0 - self.left as f64, to.1 - self.top as f64);
        if (y0 - y1).abs() < 1e-9 {
            return;
        }
        let (sign, x0, y0, x1, y1) = if y0 < y1 {
            (1.0, x0, y0, x1, y1)
        } else {
            (-1.0, x1, y1, x0, y0)
        };
        let slope = (x1 - x0) / (y1 - y0);
        let (first, last) = (y0.max(0.0), y1.min(self.height as f64));
        if first >= last {
            return;
        }
        let right = self.width as f64;
        for row in first as usize..(last.ceil() as usize).min(self.height) {
            let (above, below) = (first.max(row as f64), last.min(row as f64 + 1.0));
            let height = (below - above) * sign;
            let a = (x0 + (above - y0) * slope).clamp(0.0, right);
            let b = (x0 + (below - y0) * slope).clamp(0.0, right);
            let (a, b) = if a < b { (a, b) } else { (b, a) };
            let Some(line) = self
                .sums
                .get_mut(row * (self.width + 2)..(row + 1) * (self.width + 2))
            else {
                return;
            };
            let (from, to) = (a as usize, (b.ceil() as usize).max(a as usize + 1));
            if to == from + 1 {
                // Within one pixel: a trapezoid, the rest to its right.
                let part = 1.0 - ((a + b) / 2.0 - from as f64);
                add(line, from, height * part);
                add(line, from + 1, height * (1.0 - part));
                continue;
            }
            let per = height / (b - a);
            // What lies to the left of x, grown over the row, as its integral.
            let mut before = 0.0;
            let mut covered = 0.0;
            for pixel in from..to {
                let (l, r) = ((pixel as f64).max(a), (pixel as f64 + 1.0).min(b));
                let gone = (r - l) * per;
                let here = before + gone * ((pixel as f64 + 1.0) - (l + r) / 2.0);
                add(line, pixel, here - covered);
                covered = here;
                before += gone;
            }
            add(line, to, height - covered);
        }
    }

    pub(super) fn closed(&mut self, outline: &[(f64, f64)]) {
        for pair in outline.windows(2) {
            if let [a, b] = pair {
                self.edge(*a, *b);
            }
        }
        if let (Some(first), Some(last)) = (outline.first(), outline.last()) {
            self.edge(*last, *first);
        }
    }
}

fn add(line: &mut [f32], at: usize, value: f64) {
    if let Some(sum) = line.get_mut(at) {
        *sum += value as f32;
    }
}

pub(super) fn bounds(points: &[(f64, f64)], room: f64) -> ((f64, f64), (f64, f64)) {
    let (mut low, mut high) = (
        (f64::INFINITY, f64::INFINITY),
        (f64::NEG_INFINITY, f64::NEG_INFINITY),
    );
    for (x, y) in points {
        low = (low.0.min(*x), low.1.min(*y));
        high = (high.0.max(*x), high.1.max(*y));
    }
    ((low.0 - room, low.1 - room), (high.0 + room, high.1 + room))
}
