//! The same block in the clear, in `f64` with exact functions.

use beaverdam::program::random::Choices;

use crate::{Dense, HEADS, Model, Norm, VARIANCE, WIDTH};

/// Row-major numbers.
#[derive(Clone)]
pub struct Matrix {
    pub rows: usize,
    pub columns: usize,
    pub values: Vec<f64>,
}

impl Matrix {
    /// About normally distributed, within ±4 standard deviations.
    pub fn random(rows: usize, columns: usize, deviation: f64, choices: &mut Choices) -> Self {
        let mut uniform = || (choices.word() >> 11) as f64 / (1u64 << 53) as f64;
        // The sum of twelve has a variance of one.
        let mut normal = || ((0..12).map(|_| uniform()).sum::<f64>() - 6.0).clamp(-4.0, 4.0) * deviation;
        Self { rows, columns, values: (0..rows * columns).map(|_| normal()).collect() }
    }

    fn row(&self, i: usize) -> &[f64] {
        &self.values[i * self.columns..(i + 1) * self.columns]
    }

    fn plus(&self, other: &Self) -> Self {
        let values = self.values.iter().zip(&other.values).map(|(a, b)| a + b).collect();
        Self { values, ..*self }
    }

    fn map_rows(&self, f: impl Fn(&[f64]) -> Vec<f64>) -> Self {
        Self { values: (0..self.rows).flat_map(|i| f(self.row(i))).collect(), ..*self }
    }
}

fn dense(layer: &Dense, x: &Matrix) -> Matrix {
    let columns = layer.bias.columns;
    let cell = |i: usize, j: usize| {
        let column = layer.weights.values.iter().skip(j).step_by(columns);
        x.row(i).iter().zip(column).map(|(a, b)| a * b).sum::<f64>() + layer.bias.values[j]
    };
    let values = (0..x.rows).flat_map(|i| (0..columns).map(move |j| (i, j))).map(|(i, j)| cell(i, j)).collect();
    Matrix { rows: x.rows, columns, values }
}

fn norm(layer: &Norm, x: &Matrix) -> Matrix {
    x.map_rows(|row| {
        let n = row.len() as f64;
        let mean = row.iter().sum::<f64>() / n;
        let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
        let root = variance.clamp(*VARIANCE.start(), *VARIANCE.end()).sqrt();
        let scaled = row.iter().zip(&layer.gain.values).map(|(v, gain)| (v - mean) / root * gain);
        scaled.zip(&layer.bias.values).map(|(v, bias)| v + bias).collect()
    })
}

/// Rows of weights that each sum to one, times the values.
fn attend(model: &Model, x: &Matrix) -> Matrix {
    let [queries, keys, values] = [&model.query, &model.key, &model.value].map(|layer| dense(layer, x));
    let depth = WIDTH / HEADS;
    let mut mixed = Matrix { rows: x.rows, columns: WIDTH, values: vec![0.0; x.rows * WIDTH] };
    for head in 0..HEADS {
        let part = head * depth..(head + 1) * depth;
        for i in 0..x.rows {
            let query = &queries.row(i)[part.clone()];
            let score = |j: usize| -> f64 {
                query.iter().zip(&keys.row(j)[part.clone()]).map(|(a, b)| a * b).sum::<f64>() / (depth as f64).sqrt()
            };
            let powers: Vec<f64> = (0..x.rows).map(|j| score(j).exp()).collect();
            let total: f64 = powers.iter().sum();
            for (j, power) in powers.iter().enumerate() {
                for k in part.clone() {
                    mixed.values[i * WIDTH + k] += power / total * values.row(j)[k];
                }
            }
        }
    }
    mixed
}

/// x·Φ(x), Φ by integrating the normal density from 0 with Simpson's rule.
fn gelu(x: f64) -> f64 {
    const STEPS: usize = 2000;
    let width = x / STEPS as f64;
    let density = |i: usize| (-(i as f64 * width).powi(2) / 2.0).exp();
    let weight = |i: usize| match i {
        0 | STEPS => 1.0,
        i if i % 2 == 1 => 4.0,
        _ => 2.0,
    };
    let area: f64 = (0..=STEPS).map(|i| weight(i) * density(i)).sum::<f64>() * width / 3.0;
    x * (0.5 + area / (2.0 * std::f64::consts::PI).sqrt())
}

/// The block: attention and a feed-forward layer, each added to what it was
/// given and normed.
pub fn block(model: &Model, x: &Matrix) -> Matrix {
    let x = norm(&model.after_attention, &x.plus(&dense(&model.out, &attend(model, x))));
    let mut inner = dense(&model.widen, &x);
    inner.values.iter_mut().for_each(|v| *v = gelu(*v));
    norm(&model.after_feed_forward, &x.plus(&dense(&model.narrow, &inner)))
}
