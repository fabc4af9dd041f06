//! Linear regression by gradient descent on the mean squared error.

use super::{Descent, Fit, descend};
use crate::program::Tensor;

/// Linear regression: `y ≈ x·w`.
///
/// Ranges: with features within ±B and targets within ±Y, predictions are
/// declared within ±`output_bound`; n·B·(`output_bound` + Y) must stay below
/// 2^27 at 16 fractional bits, which the builder checks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinearRegression {
    /// the training
    pub descent: Descent,
    /// predictions while training are declared to stay within ±this
    pub output_bound: f64,
}

impl Default for LinearRegression {
    /// [`Descent::default`], predictions within ±64.
    fn default() -> Self {
        Self { descent: Descent::default(), output_bound: 64.0 }
    }
}

impl LinearRegression {
    /// Minimises ½·|x·w − y|²/n + ½·l2·|w|² over w.
    ///
    /// `x` is `[n, d]` fixed point, `y` is `[n]`, fixed point with the same
    /// fractional bits or integers. Each epoch costs two matrix products with
    /// a vector and one scaling of d words, all truncated: three rounds of
    /// n + 2·d openings with local products.
    pub fn train(&self, x: &Tensor, y: &Tensor) -> Fit {
        let bound = self.output_bound;
        descend(x, &self.descent, |w| x.matmul(w).declare("predictions", -bound..=bound) - y)
    }

    /// The predictions x·w: `[n, d] × [d]` to `[n]`.
    pub fn predict(&self, x: &Tensor, weights: &Tensor) -> Tensor {
        x.matmul(weights)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{data, emulate, train_in_f64};
    use super::*;
    use crate::program::{Builder, Type};

    #[test]
    fn fixed_point_training_follows_real_training() {
        let (x, _) = data(200, 8);
        let y = x.chunks(8).map(|row| row[0] - 0.5 * row[3] + 0.25).collect::<Vec<_>>();
        let model = LinearRegression { descent: Descent { l2: 0.01, ..Descent::default() }, ..Default::default() };
        let b = Builder::new();
        let xs = b.input("x", "alice", Type::fixed(-5.0..=5.0), [200, 8]);
        let ys = b.input("y", "alice", Type::fixed(-10.0..=10.0), [200]);
        let fit = model.train(&xs, &ys);
        b.output("weights", "alice", &fit.weights);
        b.output("predictions", "alice", &model.predict(&xs, &fit.weights));
        let program = b.finish().unwrap();
        let exact = train_in_f64(&x, &y, 8, &model.descent, |z| z);
        let found = emulate(&program, &[("x", &x), ("y", &y)]);
        for (i, w) in exact.iter().enumerate() {
            assert!((found["weights"][i] - w).abs() < 1e-3, "weight {i}: {} for {w}", found["weights"][i]);
        }
        let first = x[..8].iter().zip(&exact).map(|(x, w)| x * w).sum::<f64>();
        assert!((found["predictions"][0] - first).abs() < 1e-2);
    }
}
