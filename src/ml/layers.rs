//! Layers of neural networks, on tensors whose first axis is the batch.

use crate::program::Tensor;
pub use crate::tensor::Window;

/// The dimensions of `[batch, channels, rows, columns]`; others are refused
/// where they are used.
fn image(x: &Tensor) -> [usize; 4] {
    <[usize; 4]>::try_from(x.shape().dims()).unwrap_or([1; 4])
}

/// The words under a window at each place of each plane: `[planes, places, words]`.
fn under(x: &Tensor, window: Window) -> Tensor {
    match *x.shape().dims() {
        [batch, channels, rows, columns] => x.reshape([batch * channels, 1, rows, columns]).patches(window),
        _ => x.patches(window), // refused there
    }
}

/// x·w + bias for x of `[batch, in]`, w of `[in, out]`, bias of `[out]`.
pub fn dense(x: &Tensor, w: &Tensor, bias: &Tensor) -> Tensor {
    x.matmul(w) + bias
}

/// The convolution (as networks have it: a correlation) of `[batch, channels,
/// rows, columns]` with `[out, channels, size, size]`: one matrix product over
/// patches, one opened word for each word of the result on rosters with local
/// products. The result is `[batch, out, rows', columns']`.
pub fn conv2d(x: &Tensor, w: &Tensor, window: Window) -> Tensor {
    let [_, _, rows, columns] = image(x);
    let [out, ..] = image(w);
    let [down, across] = window.places(rows, columns);
    let patches = x.patches(window);
    // A refused one is a scalar.
    let [batch, places, inner] = <[usize; 3]>::try_from(patches.shape().dims()).unwrap_or([1; 3]);
    let product = patches.reshape([batch * places, inner]).matmul(&w.reshape([out, inner]).t());
    product.reshape([batch, places, out]).t().reshape([batch, out, down, across])
}

/// The greatest word under each place of a window: a tournament over the
/// window's words. Padding counts as 0.
pub fn max_pool(x: &Tensor, window: Window) -> Tensor {
    let [batch, channels, rows, columns] = image(x);
    let [down, across] = window.places(rows, columns);
    under(x, window).max_along(2).reshape([batch, channels, down, across])
}

/// The mean under each place of a window, padding counted as 0: one truncation
/// for each word of the result.
pub fn average_pool(x: &Tensor, window: Window) -> Tensor {
    let [batch, channels, rows, columns] = image(x);
    let [down, across] = window.places(rows, columns);
    under(x, window).mean(2).reshape([batch, channels, down, across])
}

/// e^x over the sum of all e^x along the last axis. The greatest is subtracted
/// first (a tournament); differences below −16 count as −16, which moves no
/// result by more than 1.2e-7 for each element.
pub fn softmax(x: &Tensor) -> Tensor {
    let Some((&k, outer)) = x.shape().dims().split_last() else { return x.clone() };
    let mut column = outer.to_vec();
    column.push(1);
    let axis = outer.len();
    let greatest = x.max_along(axis).reshape(column.clone());
    let powers = (x - greatest).clamp(-16.0..=0.0).exp();
    // One of the powers is 1, and none is more.
    let sum = powers.sum(axis).reshape(column).clamp(0.5..=k as f64 + 0.5);
    powers * sum.reciprocal()
}

/// (x − mean)/√(variance + ε)·gain + bias along the last axis. `variance` is the
/// range that the variance is known to have (it is clamped to it): its ratio
/// decides how well the root is approximated.
pub fn layer_norm(x: &Tensor, gain: &Tensor, bias: &Tensor, variance: std::ops::RangeInclusive<f64>) -> Tensor {
    let axis = x.shape().dims().len().saturating_sub(1);
    let mut column = x.shape().dims().to_vec();
    if let Some(d) = column.last_mut() {
        *d = 1;
    }
    let centred = x - x.mean(axis).reshape(column.clone());
    let spread = centred.square().mean(axis).reshape(column).clamp(variance);
    centred * spread.rsqrt() * gain + bias
}

/// Rows of a table `[k, d]` by secret integer indices in 0..k: `[…, d]`. The
/// indices become one-hot rows by one comparison with k − 1 thresholds.
pub fn embedding(indices: &Tensor, table: &Tensor) -> Tensor {
    let (Some(&k), Some(&d)) = (table.shape().dims().first(), table.shape().dims().get(1)) else {
        return table.t();
    };
    let n = indices.shape().len();
    let mut dims = indices.shape().dims().to_vec();
    dims.push(d);
    if k < 2 {
        return table.broadcast(vec![n, d]).reshape(dims);
    }
    let thresholds: Vec<f64> = (1..k).map(|i| i as f64).collect();
    let one_hot = indices.reshape([n]).between(&thresholds);
    one_hot.t().matmul(table).reshape(dims)
}
