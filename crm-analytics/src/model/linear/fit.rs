//! The minimum of a penalised multinomial or logistic loss.
#![allow(
    clippy::indexing_slicing,
    reason = "parameters are outputs times (columns + 1), rows and classes are checked before"
)]

use super::solve::Factor;
use crate::model::trees::{logistic, softmax};

/// Parameters stand output after output: the intercept, then the coefficients.
pub(super) struct Problem<'a> {
    /// Row after row, without a column for the intercept.
    pub(super) data: &'a [f64],
    pub(super) cols: usize,
    pub(super) classes: &'a [usize],
    pub(super) weights: Option<&'a [f64]>,
    /// 1 for two classes, else one a class.
    pub(super) outputs: usize,
    /// The penalty on the square of each column's coefficient, halved.
    pub(super) penalties: &'a [f64],
}

/// What was found.
pub(super) struct Found {
    pub(super) parameters: Vec<f64>,
    pub(super) loss: f64,
    pub(super) gradient: f64,
    pub(super) iterations: usize,
    pub(super) converged: bool,
    /// The inverse of the second derivatives, when they were computed.
    pub(super) covariance: Option<Vec<f64>>,
}

/// Why nothing was found.
pub(super) enum Trouble {
    /// This column depends on others.
    Dependent(usize),
    /// All rows are on their side: larger coefficients are always better.
    Separated(Vec<f64>),
}

/// With more parameters, second derivatives take longer than more rounds without them.
const NEWTON: usize = 256;

impl Problem<'_> {
    fn size(&self) -> usize {
        self.outputs * (self.cols + 1)
    }

    fn rows(&self) -> usize {
        self.classes.len()
    }

    fn row(&self, row: usize) -> &[f64] {
        &self.data[row * self.cols..(row + 1) * self.cols]
    }

    fn weight(&self, row: usize) -> f64 {
        self.weights.map_or(1.0, |w| w[row])
    }

    /// The margins of a row.
    fn margins(&self, parameters: &[f64], row: usize, out: &mut [f64]) {
        let values = self.row(row);
        for (out, of) in out.iter_mut().zip(parameters.chunks_exact(self.cols + 1)) {
            *out = of[0] + of[1..].iter().zip(values).map(|(b, v)| b * v).sum::<f64>();
        }
    }

    /// Without a penalty, adding the same to all classes changes nothing: the sum over classes is held at 0.
    fn anchored(&self, column: usize) -> bool {
        self.outputs > 1 && (column == 0 || self.penalties[column - 1] <= 0.0)
    }

    /// Loss and gradient.
    fn value(&self, parameters: &[f64], gradient: &mut [f64]) -> f64 {
        gradient.fill(0.0);
        let mut loss = 0.0;
        let mut p = vec![0.0; self.outputs];
        let stride = self.cols + 1;
        for row in 0..self.rows() {
            self.margins(parameters, row, &mut p);
            let class = self.classes[row];
            let weight = self.weight(row);
            if self.outputs == 1 {
                let margin = p[0];
                let side = if class == 1 { margin } else { -margin };
                loss += weight * ((-side).max(0.0) + (-side.abs()).exp().ln_1p());
                p[0] = logistic(margin) - f64::from(u8::from(class == 1));
            } else {
                let largest = p.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = p.iter().map(|m| (m - largest).exp()).sum();
                loss += weight * (largest + sum.ln() - p[class]);
                softmax(&mut p);
                p[class] -= 1.0;
            }
            let values = self.row(row);
            for (of, p) in gradient.chunks_exact_mut(stride).zip(&p) {
                let slope = weight * p;
                of[0] += slope;
                of[1..].iter_mut().zip(values).for_each(|(g, v)| *g += slope * v);
            }
        }
        for (of, parameters) in gradient
            .chunks_exact_mut(stride)
            .zip(parameters.chunks_exact(stride))
        {
            for ((g, b), penalty) in of[1..].iter_mut().zip(&parameters[1..]).zip(self.penalties) {
                *g += penalty * b;
                loss += 0.5 * penalty * b * b;
            }
        }
        loss
    }

    /// The second derivatives.
    fn curvature(&self, parameters: &[f64]) -> Vec<f64> {
        let (size, stride) = (self.size(), self.cols + 1);
        let mut matrix = vec![0.0; size * size];
        let mut p = vec![0.0; self.outputs];
        let mut full = vec![1.0; stride];
        for row in 0..self.rows() {
            self.margins(parameters, row, &mut p);
            if self.outputs == 1 {
                p[0] = logistic(p[0]);
            } else {
                softmax(&mut p);
            }
            full[1..].copy_from_slice(self.row(row));
            let weight = self.weight(row);
            for a in 0..self.outputs {
                for b in 0..=a {
                    let of = weight * p[a] * (f64::from(u8::from(a == b)) - p[b]);
                    if of == 0.0 {
                        continue;
                    }
                    for (i, value) in full.iter().enumerate() {
                        let scaled = of * value;
                        let upto = if a == b { i + 1 } else { stride };
                        let from = (a * stride + i) * size + b * stride;
                        let line = &mut matrix[from..from + upto];
                        line.iter_mut().zip(&full).for_each(|(sum, v)| *sum += scaled * v);
                    }
                }
            }
        }
        for output in 0..self.outputs {
            for column in 1..stride {
                let at = output * stride + column;
                matrix[at * size + at] += self.penalties[column - 1];
            }
        }
        // Holding the sum over classes changes no solution, only which of the equal ones it is.
        let anchor = matrix.iter().step_by(size + 1).sum::<f64>() / size as f64;
        for column in (0..stride).filter(|column| self.anchored(*column)) {
            for a in 0..self.outputs {
                for b in 0..=a {
                    matrix[(a * stride + column) * size + b * stride + column] += anchor;
                }
            }
        }
        for i in 0..size {
            for j in i + 1..size {
                matrix[i * size + j] = matrix[j * size + i];
            }
        }
        matrix
    }

    /// Whether every row is on its class's side.
    fn separated(&self, parameters: &[f64]) -> bool {
        let mut margins = vec![0.0; self.outputs];
        (0..self.rows()).filter(|row| self.weight(*row) > 0.0).all(|row| {
            self.margins(parameters, row, &mut margins);
            let class = self.classes[row];
            if self.outputs == 1 {
                if class == 1 {
                    margins[0] > 0.0
                } else {
                    margins[0] < 0.0
                }
            } else {
                let others = margins.iter().enumerate().filter(|(at, _)| *at != class);
                others.map(|(_, m)| *m).fold(f64::NEG_INFINITY, f64::max) < margins[class]
            }
        })
    }

    /// The minimum: by Newton's steps, with many parameters by L-BFGS (Nocedal and Wright, Numerical Optimization, 7.2).
    pub(super) fn solve(&self, max_iterations: usize, tolerance: f64) -> Result<Found, Trouble> {
        let penalised = self.penalties.iter().all(|penalty| *penalty > 0.0);
        let size = self.size();
        let newton = size <= NEWTON;
        let total: f64 = (0..self.rows()).map(|row| self.weight(row)).sum();
        let enough = tolerance * total;
        let mut found = Found {
            parameters: vec![0.0; size],
            loss: 0.0,
            gradient: 0.0,
            iterations: 0,
            converged: false,
            covariance: None,
        };
        let mut gradient = vec![0.0; size];
        found.loss = self.value(&found.parameters, &mut gradient);
        let mut memory = Memory::default();
        // About what the second derivatives are: columns whose penalty is much larger take smaller steps.
        let share = 1.0 / self.outputs.max(2) as f64;
        let spread = total * share * (1.0 - share);
        let scales: Vec<f64> = (0..size)
            .map(|at| match (at % (self.cols + 1)).checked_sub(1) {
                Some(column) => 1.0 / (spread + self.penalties[column]),
                None => 1.0 / spread,
            })
            .collect();
        let mut next_gradient = vec![0.0; size];
        loop {
            // What is not a number is the largest: it never passes for a floor.
            found.gradient = gradient
                .iter()
                .map(|g| g.abs())
                .fold(0.0, |most: f64, g| if g > most || g.is_nan() { g } else { most });
            if !penalised && found.iterations > 0 && self.separated(&found.parameters) {
                return Err(Trouble::Separated(found.parameters));
            }
            found.converged = found.gradient <= enough;
            if found.converged || found.iterations >= max_iterations {
                break;
            }
            let mut step: Vec<f64> = gradient.iter().map(|g| -g).collect();
            if newton {
                let factor = Factor::new(&self.curvature(&found.parameters), size)
                    .map_err(|at| Trouble::Dependent(at % (self.cols + 1)))?;
                factor.solve(&mut step);
            } else {
                memory.direction(&mut step, &scales);
            }
            let slope: f64 = step.iter().zip(&gradient).map(|(s, g)| s * g).sum();
            let mut length = 1.0;
            let mut moved = false;
            for _ in 0..50 {
                let next: Vec<f64> = found
                    .parameters
                    .iter()
                    .zip(&step)
                    .map(|(b, s)| b + length * s)
                    .collect();
                let loss = self.value(&next, &mut next_gradient);
                // At the floor of rounding a step may neither gain nor lose.
                if loss <= found.loss + 1e-4 * length * slope + 1e-14 * found.loss.abs() {
                    memory.keep(&found.parameters, &next, &gradient, &next_gradient);
                    found.parameters = next;
                    found.loss = loss;
                    std::mem::swap(&mut gradient, &mut next_gradient);
                    moved = true;
                    break;
                }
                length *= 0.5;
            }
            found.iterations += 1;
            if !moved {
                // No step lowers the loss: as near as rounding lets it come.
                found.converged = found.gradient <= enough.max(1e-6 * total);
                break;
            }
        }
        if newton && found.converged {
            let factor = Factor::new(&self.curvature(&found.parameters), size)
                .map_err(|at| Trouble::Dependent(at % (self.cols + 1)))?;
            found.covariance = Some(factor.inverse());
        }
        Ok(found)
    }
}

/// The last steps and changes of the gradient.
#[derive(Default)]
struct Memory {
    pairs: Vec<(Vec<f64>, Vec<f64>, f64)>,
}

impl Memory {
    const PAIRS: usize = 20;

    fn keep(&mut self, before: &[f64], after: &[f64], gradient: &[f64], next: &[f64]) {
        let step: Vec<f64> = after.iter().zip(before).map(|(a, b)| a - b).collect();
        let change: Vec<f64> = next.iter().zip(gradient).map(|(a, b)| a - b).collect();
        let product = dot(&step, &change);
        if product > 1e-300 {
            if self.pairs.len() == Self::PAIRS {
                self.pairs.remove(0);
            }
            self.pairs.push((step, change, 1.0 / product));
        }
    }

    /// Turns the negative gradient into a direction.
    fn direction(&self, step: &mut [f64], scales: &[f64]) {
        let mut factors = Vec::with_capacity(self.pairs.len());
        for (s, y, rho) in self.pairs.iter().rev() {
            let factor = rho * dot(s, step);
            step.iter_mut().zip(y).for_each(|(d, y)| *d -= factor * y);
            factors.push(factor);
        }
        let scale = self.pairs.last().map_or(1.0, |(_, y, rho)| {
            1.0 / (rho * y.iter().zip(scales).map(|(y, scale)| y * y * scale).sum::<f64>())
        });
        step.iter_mut().zip(scales).for_each(|(d, own)| *d *= scale * own);
        for ((s, y, rho), factor) in self.pairs.iter().zip(factors.iter().rev()) {
            let back = rho * dot(y, step);
            step.iter_mut()
                .zip(s)
                .for_each(|(d, s)| *d += (factor - back) * s);
        }
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
