//! Models on secret data, written against [`program`](crate::program) alone:
//! they know no scheme, no node and no material.
//!
//! Features are vectors of d columns in a stated range (standardise and clip
//! them before encoding); labels are one per row. Training is full-batch
//! gradient descent in a `repeat`, from zero weights. The intercept is the
//! last weight: [`with_intercept`] appends a column of ones.

#[cfg(feature = "import")]
pub mod import;
pub mod layers;
mod linear;
mod logistic;
mod mlp;

pub use linear::LinearRegression;
pub use logistic::LogisticRegression;
pub use mlp::{Mlp, MlpFit, Sgd};

use crate::program::{Tensor, Type};

/// What training gives back.
pub struct Fit {
    /// the last weights, `[d]`
    pub weights: Tensor,
    /// the weights after each epoch, `[epochs, d]`: the learning curve
    pub history: Tensor,
}

/// How long and how fast to descend, and how large weights may become.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Descent {
    /// passes over the whole batch, at least 1
    pub epochs: u32,
    /// step length
    pub learning_rate: f64,
    /// weight of the penalty ½·l2·|w|², 0 for none; the intercept is penalised like the rest
    pub l2: f64,
    /// weights are declared to stay within ±this
    pub weight_bound: f64,
}

impl Default for Descent {
    /// 20 epochs at 0.1 without penalty, weights within ±8.
    fn default() -> Self {
        Self { epochs: 20, learning_rate: 0.1, l2: 0.0, weight_bound: 8.0 }
    }
}

/// `x` of `[n, d]` with a last column of ones: `[n, d + 1]`.
pub fn with_intercept(x: &Tensor) -> Tensor {
    let b = x.builder();
    let rows = x.shape().dims().first().copied().unwrap_or(1);
    let ones = b.constant(&[1.0], Type::int(1..=1), [rows, 1]);
    b.concat(&[x, &ones], 1)
}

/// Descends from zero along Xᵀ·`residual`(w) / n. The step is scaled once,
/// after the sum over all rows, so that its rounding error is one unit in the
/// last place per epoch however many rows there are.
fn descend(x: &Tensor, descent: &Descent, residual: impl Fn(&Tensor) -> Tensor) -> Fit {
    let b = x.builder();
    let [n, d] = *x.shape().dims() else {
        // the matrix product says what is wrong with a shape that has no rows
        let refused = x.matmul(&x.t());
        return Fit { weights: refused.clone(), history: refused };
    };
    let bound = descent.weight_bound;
    let start = b.constant(&[0.0], Type::fixed_bits(x.ty().frac, -bound..=bound), [d]);
    let (mut ends, mut curve) = b.repeat(descent.epochs, &[start], |_, states| {
        let w = &states[0];
        let step = residual(w).matmul(x) * (descent.learning_rate / n as f64);
        let kept = if descent.l2 == 0.0 { w.clone() } else { w * (1.0 - descent.learning_rate * descent.l2) };
        let next = (kept - step).declare("weights", -bound..=bound);
        (vec![next.clone()], vec![next])
    });
    Fit { weights: ends.remove(0), history: curve.remove(0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::Program;
    use crate::program::ideal::{Rules, ideal};
    use crate::program::random::Choices;
    use std::collections::BTreeMap;

    pub fn sigmoid(z: f64) -> f64 {
        1.0 / (1.0 + (-z).exp())
    }

    /// Rows of correlated, roughly standardised features within ±5, and labels
    /// that follow a noisy logit of them.
    pub fn data(rows: usize, features: usize) -> (Vec<f64>, Vec<f64>) {
        let mut choices = Choices(2024);
        let mut normal = || (0..12).map(|_| (choices.word() >> 11) as f64 / (1u64 << 53) as f64).sum::<f64>() - 6.0;
        let (mut x, mut y) = (Vec::new(), Vec::new());
        for _ in 0..rows {
            let common = [normal(), normal()];
            for j in 0..features {
                x.push((0.8 * common[j % 2] + 0.6 * normal()).clamp(-5.0, 5.0));
            }
            y.push(f64::from(2.0 * common[0] - common[1] + 0.5 * normal() + 0.3 >= 0.0));
        }
        (x, y)
    }

    /// What the models promise to follow.
    pub fn train_in_f64(x: &[f64], y: &[f64], d: usize, descent: &Descent, link: fn(f64) -> f64) -> Vec<f64> {
        let mut w = vec![0.0; d];
        for _ in 0..descent.epochs {
            let mut gradient = w.iter().map(|w| descent.l2 * w).collect::<Vec<_>>();
            for (row, label) in x.chunks(d).zip(y) {
                let residual = link(row.iter().zip(&w).map(|(x, w)| x * w).sum()) - label;
                for (g, x) in gradient.iter_mut().zip(row) {
                    *g += residual * x / y.len() as f64;
                }
            }
            for (w, g) in w.iter_mut().zip(gradient) {
                *w -= descent.learning_rate * g;
            }
        }
        w
    }

    /// Stochastic rounding by coins.
    struct Emulated(Choices);

    impl Rules for Emulated {
        fn truncate(&mut self, x: i64, bits: u8) -> i64 {
            let carry = (self.0.word() >> (64 - bits)) as i64 + (x & ((1 << bits) - 1)) >= 1 << bits;
            (x >> bits) + i64::from(carry)
        }
        fn random(&mut self, ty: Type) -> i64 {
            self.0.any(ty)
        }
    }

    /// Runs a program as nodes would, and fails if a value leaves its range.
    pub fn emulate(program: &Program, inputs: &[(&str, &[f64])]) -> BTreeMap<String, Vec<f64>> {
        let mut scaled = BTreeMap::new();
        for (name, _, signature) in program.inputs() {
            let values = inputs.iter().find(|(known, _)| *known == name).expect("an input for each name").1;
            let words = values.iter().map(|v| signature.ty.scaled(*v).expect("in range"));
            scaled.insert(name.to_string(), words.collect());
        }
        let answer = ideal(program, &scaled, &mut Emulated(Choices(1)));
        assert_eq!(answer.outside, Vec::<String>::new());
        let frac = |name: &str| if name == "labels" { 1.0 } else { 65536.0 };
        let real = |(name, words): (String, Vec<i64>)| {
            let scale = frac(&name);
            (name, words.into_iter().map(|w| w as f64 / scale).collect())
        };
        answer.outputs.into_iter().map(real).collect()
    }
}
