//! The same training in the clear: full-batch gradient descent in `f64` with
//! the exact sigmoid. The private result is compared with it.

use crate::data::{Data, Samples};

/// How good weights are.
#[derive(Clone, Copy)]
pub struct Score {
    /// mean cross-entropy on the training samples
    pub loss: f64,
    /// share of test samples that are classified right
    pub accuracy: f64,
}

/// The weights after each epoch, from zero; the intercept comes last.
pub fn train(samples: &Samples, features: usize, epochs: u32, rate: f64) -> Vec<Vec<f64>> {
    let mut weights = vec![0.0; features + 1];
    let step = rate / samples.labels.len() as f64;
    let epoch = |_| {
        let mut gradient = vec![0.0; features + 1];
        for (row, label) in samples.features.chunks(features).zip(&samples.labels) {
            let error = sigmoid(logit(row, &weights)) - label;
            let row = row.iter().chain([&1.0]);
            gradient.iter_mut().zip(row).for_each(|(g, x)| *g += error * x);
        }
        weights.iter_mut().zip(gradient).for_each(|(w, g)| *w -= step * g);
        weights.clone()
    };
    (0..epochs).map(epoch).collect()
}

/// The score of weights, which come from either training.
pub fn score(data: &Data, weights: &[f64]) -> Score {
    let logits = |samples: &Samples| -> Vec<f64> {
        samples.features.chunks(data.features).map(|row| logit(row, weights)).collect()
    };
    // ln(1 + e^z) − y·z, without overflow
    let entropy = |(z, y): (&f64, &f64)| z.max(0.0) + (-z.abs()).exp().ln_1p() - y * z;
    let loss = logits(&data.train).iter().zip(&data.train.labels).map(entropy).sum::<f64>();
    let right = logits(&data.test).iter().zip(&data.test.labels).filter(|(z, y)| (**z >= 0.0) == (**y == 1.0)).count();
    Score { loss: loss / data.train.labels.len() as f64, accuracy: right as f64 / data.test.labels.len() as f64 }
}

fn logit(row: &[f64], weights: &[f64]) -> f64 {
    row.iter().chain([&1.0]).zip(weights).map(|(x, w)| x * w).sum()
}

fn sigmoid(z: f64) -> f64 {
    1.0 / (1.0 + (-z).exp())
}
