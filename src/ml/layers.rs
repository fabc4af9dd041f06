//! Layers of neural networks, on tensors whose first axis is the batch.

use crate::program::Tensor;

/// Where a window of a convolution or a pool may lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// rows and columns of the window
    pub size: [usize; 2],
    /// how far windows are apart
    pub stride: [usize; 2],
    /// zeros around the image: above, left, below, right
    pub padding: [usize; 4],
}

impl Window {
    /// A square window that moves by its own size, as pools do.
    pub fn tiles(size: usize) -> Self {
        Self { size: [size; 2], stride: [size; 2], padding: [0; 4] }
    }
    /// A square window that moves by one, with as many zeros all around as given.
    pub fn sliding(size: usize, padding: usize) -> Self {
        Self { size: [size; 2], stride: [1; 2], padding: [padding; 4] }
    }

    /// How many places it has on an image, by rows and columns.
    pub fn places(&self, rows: usize, columns: usize) -> [usize; 2] {
        let [top, left, bottom, right] = self.padding;
        let along = |length: usize, i: usize| (length.saturating_sub(self.size[i])) / self.stride[i].max(1) + 1;
        [along(rows + top + bottom, 0), along(columns + left + right, 1)]
    }

    /// All words under the window at each place: `[batch, channels, size, places]`.
    fn patches(&self, x: &Tensor) -> (Tensor, [usize; 2]) {
        let [batch, channels, rows, columns] = image(x);
        let [down, across] = self.places(rows, columns);
        let [sy, sx] = self.stride;
        // Room for the whole strides of the last place.
        let [top, left, bottom, right] = self.padding;
        let need = |places: usize, stride: usize, size: usize, have: usize| {
            (size.saturating_sub(1) + places * stride).saturating_sub(have)
        };
        let more =
            [need(down, sy, self.size[0], rows + top + bottom), need(across, sx, self.size[1], columns + left + right)];
        let x = surround(x, [top, left, bottom + more[0], right + more[1]]);
        let mut parts = Vec::with_capacity(self.size[0] * self.size[1]);
        for dy in 0..self.size[0] {
            for dx in 0..self.size[1] {
                let part = x.slice(2, dy..dy + down * sy).slice(3, dx..dx + across * sx);
                // Every stride-th row, then column.
                let part = part.reshape([batch * channels, down, sy, across * sx]).slice(2, 0..1);
                let part = part.reshape([batch * channels, down * across, sx]).slice(2, 0..1);
                parts.push(part.reshape([batch, channels, 1, down * across]));
            }
        }
        (x.builder().concat(&parts.iter().collect::<Vec<_>>(), 2), [down, across])
    }
}

/// The dimensions of `[batch, channels, rows, columns]`; others are refused
/// where they are used.
fn image(x: &Tensor) -> [usize; 4] {
    <[usize; 4]>::try_from(x.shape().dims()).unwrap_or([1; 4])
}

/// Zeros above, left, below and right of the last two axes.
fn surround(x: &Tensor, [top, left, bottom, right]: [usize; 4]) -> Tensor {
    let mut x = x.clone();
    for (axis, before, after) in [(2, top, bottom), (3, left, right)] {
        let zeros = |count: usize| {
            let mut dims = x.shape().dims().to_vec();
            if let Some(d) = dims.get_mut(axis) {
                *d = count;
            }
            x.zeros(dims)
        };
        let mut parts = Vec::new();
        if before > 0 {
            parts.push(zeros(before));
        }
        parts.push(x.clone());
        if after > 0 {
            parts.push(zeros(after));
        }
        if parts.len() > 1 {
            x = x.builder().concat(&parts.iter().collect::<Vec<_>>(), axis);
        }
    }
    x
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
    let [batch, ..] = image(x);
    let [out, channels, ..] = image(w);
    let (patches, [down, across]) = window.patches(x);
    let inner = channels * window.size[0] * window.size[1];
    let columns = patches.reshape([batch, inner, down * across]).t().reshape([batch * down * across, inner]);
    let product = columns.matmul(&w.reshape([out, inner]).t());
    product.reshape([batch, down * across, out]).t().reshape([batch, out, down, across])
}

/// The greatest word under each place of a window: a tournament over the
/// window's words. Padding counts as 0.
pub fn max_pool(x: &Tensor, window: Window) -> Tensor {
    let [batch, channels, ..] = image(x);
    let (patches, [down, across]) = window.patches(x);
    patches.max_along(2).reshape([batch, channels, down, across])
}

/// The mean under each place of a window, padding counted as 0: one truncation
/// for each word of the result.
pub fn average_pool(x: &Tensor, window: Window) -> Tensor {
    let [batch, channels, ..] = image(x);
    let (patches, [down, across]) = window.patches(x);
    patches.mean(2).reshape([batch, channels, down, across])
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
