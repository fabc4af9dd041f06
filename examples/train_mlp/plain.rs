//! The same training in the clear, in `f64` with exact functions. The private
//! result is compared with it.

use beaverdam::ml::Mlp;

use crate::data::{CLASSES, Data, PIXELS, Samples};

/// How good weights are.
#[derive(Clone, Copy)]
pub struct Score {
    /// mean cross-entropy on the training samples
    pub loss: f64,
    /// share of test samples that are classified right
    pub accuracy: f64,
}

/// One matrix `[in + 1, out]` for each layer, the biases in the last row.
pub type Weights = Vec<Vec<f64>>;

/// The weights after each epoch.
pub fn train(model: &Mlp, samples: &Samples) -> Vec<Weights> {
    let mut weights = model.initial();
    let mut velocities: Weights = weights.iter().map(|w| vec![0.0; w.len()]).collect();
    let batch = model.sgd.batch;
    let epoch = |_| {
        for (images, labels) in samples.images.chunks(batch * PIXELS).zip(samples.labels.chunks(batch)) {
            let rate = model.sgd.learning_rate / labels.len() as f64;
            velocities.iter_mut().flatten().for_each(|v| *v *= model.sgd.momentum);
            for (image, label) in images.chunks(PIXELS).zip(labels) {
                learn(image, *label, &weights, &mut velocities, rate);
            }
            for (w, v) in weights.iter_mut().flatten().zip(velocities.iter().flatten()) {
                *w -= v;
            }
        }
        weights.clone()
    };
    (0..model.sgd.epochs).map(epoch).collect()
}

/// Adds one sample's gradient, times the rate.
fn learn(image: &[f64], label: usize, weights: &Weights, velocities: &mut Weights, rate: f64) {
    let (inputs, logits) = forward(image, weights);
    let mut delta = softmax(&logits);
    delta[label] -= 1.0;
    for (i, input) in inputs.iter().enumerate().rev() {
        let out = delta.len();
        for (row, x) in velocities[i].chunks_mut(out).zip(input) {
            row.iter_mut().zip(&delta).for_each(|(v, d)| *v += rate * x * d);
        }
        let back = |row: &[f64]| row.iter().zip(&delta).map(|(w, d)| w * d).sum::<f64>();
        // The last row of the weights is the biases', and nothing lies before them.
        let rows = weights[i].chunks(out).zip(input).take(input.len() - 1);
        delta = rows.map(|(row, x)| if *x > 0.0 { back(row) } else { 0.0 }).collect();
    }
}

/// What goes into each layer, with a one at its end, and the sums of the last.
fn forward(image: &[f64], weights: &Weights) -> (Vec<Vec<f64>>, Vec<f64>) {
    let (mut inputs, mut sums) = (Vec::with_capacity(weights.len()), image.to_vec());
    for w in weights {
        // Pixels are not negative.
        let input: Vec<f64> = sums.iter().map(|s| s.max(0.0)).chain([1.0]).collect();
        let out = w.len() / input.len();
        sums = (0..out).map(|j| w.chunks(out).zip(&input).map(|(row, x)| row[j] * x).sum()).collect();
        inputs.push(input);
    }
    (inputs, sums)
}

fn softmax(logits: &[f64]) -> Vec<f64> {
    let greatest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = logits.iter().map(|z| (z - greatest).exp()).collect();
    let total: f64 = powers.iter().sum();
    powers.into_iter().map(|p| p / total).collect()
}

/// The likeliest digit of each image.
pub fn predict(samples: &Samples, weights: &Weights) -> Vec<usize> {
    let likeliest = |image| {
        let logits = forward(image, weights).1;
        (0..CLASSES).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap_or(0)
    };
    samples.images.chunks(PIXELS).map(likeliest).collect()
}

/// The score of weights, which come from either training.
pub fn score(data: &Data, weights: &Weights) -> Score {
    let images = data.train.images.chunks(PIXELS).zip(&data.train.labels);
    let loss: f64 = images.map(|(image, label)| -softmax(&forward(image, weights).1)[*label].max(1e-300).ln()).sum();
    let right = predict(&data.test, weights).iter().zip(&data.test.labels).filter(|(p, y)| p == y).count();
    Score { loss: loss / data.train.labels.len() as f64, accuracy: right as f64 / data.test.labels.len() as f64 }
}
