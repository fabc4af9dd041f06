//! The two networks in the clear, in `f32`, written down by hand and not through
//! the crate: what private inference is compared with.

use std::collections::BTreeMap;

use crate::data::{CLASSES, PIXELS, SIDE};

/// Weights by name.
pub struct Weights(BTreeMap<String, Vec<f32>>);

impl Weights {
    /// From what a model has.
    pub fn new(weights: &BTreeMap<String, Vec<f64>>) -> Self {
        Self(weights.iter().map(|(name, v)| (name.clone(), v.iter().map(|v| *v as f32).collect())).collect())
    }

    fn get(&self, name: &str) -> &[f32] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    /// The logits of one image by `cnn.onnx`.
    pub fn cnn(&self, image: &[f64]) -> Vec<f32> {
        let x = image.iter().map(|v| *v as f32).collect::<Vec<_>>();
        let x = relu(pool(&self.conv("conv0", &x, SIDE), SIDE));
        let x = relu(pool(&self.conv("conv3", &x, SIDE / 2), SIDE / 2));
        self.dense("gemm7", &x)
    }

    /// The logits of one image by `mlp.onnx`.
    pub fn mlp(&self, image: &[f64]) -> Vec<f32> {
        let x = image.iter().map(|v| *v as f32).collect::<Vec<_>>();
        self.dense("gemm3", &relu(self.dense("gemm1", &x)))
    }

    fn dense(&self, layer: &str, x: &[f32]) -> Vec<f32> {
        let (w, bias) = (self.get(&format!("{layer}.weight")), self.get(&format!("{layer}.bias")));
        let mut y = bias.to_vec();
        for (v, row) in x.iter().zip(w.chunks(bias.len().max(1))) {
            y.iter_mut().zip(row).for_each(|(y, w)| *y += v * w);
        }
        y
    }

    /// 3 × 3, one zero all around.
    fn conv(&self, layer: &str, x: &[f32], side: usize) -> Vec<f32> {
        let (w, bias) = (self.get(&format!("{layer}.weight")), self.get(&format!("{layer}.bias")));
        let channels = x.len() / (side * side);
        let mut y = Vec::with_capacity(bias.len() * side * side);
        for (kernel, bias) in w.chunks(channels * 9).zip(bias) {
            for place in 0..side * side {
                let mut sum = *bias;
                for (i, w) in kernel.iter().enumerate() {
                    // One less than where it lies, for the zero before.
                    let (r, c) = (place / side + i % 9 / 3, place % side + i % 3);
                    if (1..=side).contains(&r) && (1..=side).contains(&c) {
                        sum += w * x[i / 9 * side * side + (r - 1) * side + c - 1];
                    }
                }
                y.push(sum);
            }
        }
        y
    }
}

/// The greatest of 2 × 2.
fn pool(x: &[f32], side: usize) -> Vec<f32> {
    let half = side / 2;
    let at = |i: usize| {
        let (plane, r, c) = (i / (half * half), i / half % half, i % half);
        let corner = plane * side * side + 2 * r * side + 2 * c;
        x[corner].max(x[corner + 1]).max(x[corner + side]).max(x[corner + side + 1])
    };
    (0..x.len() / 4).map(at).collect()
}

fn relu(mut x: Vec<f32>) -> Vec<f32> {
    x.iter_mut().for_each(|v| *v = v.max(0.0));
    x
}

/// The class of the greatest logit, the first of several.
pub fn predicted(logits: &[f64]) -> usize {
    (0..logits.len()).rev().max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap_or(0)
}

/// The logits of all images, one after another.
pub fn logits(pixels: &[f64], of: impl Fn(&[f64]) -> Vec<f32>) -> Vec<f64> {
    let all = pixels.chunks(PIXELS).flat_map(|image| of(image).into_iter().map(f64::from));
    let all: Vec<f64> = all.collect();
    debug_assert_eq!(all.len() * PIXELS, pixels.len() * CLASSES);
    all
}
