//! Logistic regression by gradient descent on the mean cross-entropy.

use super::{Descent, Fit, descend};
use crate::program::Tensor;

/// Logistic regression: P(y = 1) ≈ σ(x·w).
///
/// Ranges: logits are declared within ±`logit_bound`; beyond ±8 the sigmoid is
/// clamped anyway, so the bound only has to be honest. With features within
/// ±B, n·B must stay below 2^26 at 16 fractional bits, which the builder checks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogisticRegression {
    /// the training
    pub descent: Descent,
    /// logits are declared to stay within ±this
    pub logit_bound: f64,
}

impl Default for LogisticRegression {
    /// [`Descent::default`], logits within ±128.
    fn default() -> Self {
        Self { descent: Descent::default(), logit_bound: 128.0 }
    }
}

impl LogisticRegression {
    /// Descends along Xᵀ(σ(x·w) − y)/n + l2·w, from zero.
    ///
    /// `x` is `[n, d]` fixed point, `y` is `[n]` of integers 0 or 1. Each epoch
    /// costs two matrix products with a vector, n sigmoids and one scaling of
    /// d words. The sigmoid's error of at most 5.9e-3 changes a weight by at
    /// most epochs · learning_rate · 5.9e-3 · (mean of |feature|) to first order.
    pub fn train(&self, x: &Tensor, y: &Tensor) -> Fit {
        descend(x, &self.descent, |w| self.logits(x, w).sigmoid() - y)
    }

    /// The probabilities σ(x·w): `[n, d] × [d]` to `[n]`.
    pub fn predict_proba(&self, x: &Tensor, weights: &Tensor) -> Tensor {
        self.logits(x, weights).sigmoid()
    }

    /// The labels \[x·w ≥ 0\], integers 0 or 1: `[n, d] × [d]` to `[n]`.
    pub fn predict(&self, x: &Tensor, weights: &Tensor) -> Tensor {
        self.logits(x, weights).ge0()
    }

    fn logits(&self, x: &Tensor, weights: &Tensor) -> Tensor {
        x.matmul(weights).declare("logits", -self.logit_bound..=self.logit_bound)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{data, emulate, sigmoid, train_in_f64};
    use super::super::with_intercept;
    use super::*;
    use crate::program::{Builder, Type};
    use std::collections::BTreeMap;

    const ROWS: usize = 455;
    const FEATURES: usize = 30;

    fn program(model: &LogisticRegression) -> crate::program::Program {
        let b = Builder::new();
        let x = b.input("x", "alice", Type::fixed(-5.0..=5.0), [ROWS, FEATURES]);
        let y = b.input("y", "alice", Type::bit(), [ROWS]);
        let x = with_intercept(&x);
        let fit = model.train(&x, &y);
        b.output("weights", "alice", &fit.weights);
        b.output("history", "alice", &fit.history);
        b.output("labels", "alice", &model.predict(&x, &fit.weights));
        b.output("probabilities", "alice", &model.predict_proba(&x, &fit.weights));
        b.finish().unwrap()
    }

    /// The setting of the breast-cancer example in shape, steps and scale:
    /// correlated columns, weights of some tenths, the 16-piece sigmoid.
    #[test]
    fn fixed_point_training_follows_real_training() {
        let (x, y) = data(ROWS, FEATURES);
        let model = LogisticRegression::default();
        let program = program(&model);
        let found = emulate(&program, &[("x", &x), ("y", &y)]);
        let ones = x.chunks(FEATURES).flat_map(|row| row.iter().copied().chain([1.0])).collect::<Vec<_>>();
        let exact = train_in_f64(&ones, &y, FEATURES + 1, &model.descent, sigmoid);
        let largest = exact.iter().fold(0.0f64, |a, w| a.max(w.abs()));
        assert!((0.1..2.0).contains(&largest), "the data should train weights of some tenths, not {largest}");
        for (i, w) in exact.iter().enumerate() {
            assert!((found["weights"][i] - w).abs() < 1e-2, "weight {i}: {} for {w}", found["weights"][i]);
        }
        let d = FEATURES + 1;
        assert_eq!(found["history"][19 * d..], found["weights"]);
        let logit = |row: &[f64]| row.iter().zip(&exact).map(|(x, w)| x * w).sum::<f64>();
        for (i, row) in ones.chunks(d).enumerate() {
            let logit = logit(row);
            assert!((found["probabilities"][i] - sigmoid(logit)).abs() < 0.05);
            assert!(logit.abs() < 0.2 || found["labels"][i] == f64::from(logit >= 0.0));
        }
    }

    #[test]
    fn the_dry_run_is_real_training() {
        let (x, y) = data(ROWS, FEATURES);
        let model = LogisticRegression { descent: Descent { l2: 0.1, ..Descent::default() }, ..Default::default() };
        let inputs = BTreeMap::from([("x".to_string(), x.clone()), ("y".to_string(), y.clone())]);
        let run = program(&model).dry_run(&inputs).unwrap();
        assert!(run.holds(), "{:?}", run.declarations);
        let ones = x.chunks(FEATURES).flat_map(|row| row.iter().copied().chain([1.0])).collect::<Vec<_>>();
        let exact = train_in_f64(&ones, &y, FEATURES + 1, &model.descent, sigmoid);
        for (w, found) in exact.iter().zip(&run.outputs["weights"]) {
            assert!((w - found).abs() < 1e-6);
        }
    }

    #[test]
    fn shapes_that_do_not_fit_are_an_error_not_a_panic() {
        let b = Builder::new();
        let x = b.input("x", "alice", Type::fixed(-5.0..=5.0), [3]);
        let fit = LogisticRegression::default().train(&x, &x);
        b.output("weights", "alice", &fit.weights);
        assert!(b.finish().unwrap_err().to_string().contains("two axes"));
    }
}
