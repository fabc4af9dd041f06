//! Shapes, and the index maps between them.
//!
//! A tensor's words lie dense in row-major order, whichever
//! [`Backend`](crate::backend::Backend) holds them. A [`View`] only moves or
//! sums words, so it is linear: it applies to shares, to masks and to opened
//! words alike.

use serde::{Deserialize, Serialize};

/// The most elements a tensor may have; a product of dimensions past it is an error.
pub const MAX_ELEMENTS: usize = 1 << 30;
/// The most dimensions of a tensor.
pub const MAX_RANK: usize = 6;

/// The dimensions of a dense row-major tensor; `[]` is a scalar.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<usize>", into = "Vec<usize>")]
pub struct Shape(Vec<usize>);

/// A shape was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "shape {found:?} is not usable: expected at most {MAX_RANK} dimensions, none 0, at most {MAX_ELEMENTS} elements"
)]
pub struct ShapeError {
    /// the dimensions found
    pub found: Vec<usize>,
}

impl Shape {
    /// Checks rank, zero dimensions and the number of elements.
    pub fn new(dims: impl Into<Vec<usize>>) -> Result<Self, ShapeError> {
        let dims = dims.into();
        let elements = dims.iter().try_fold(1usize, |acc, d| acc.checked_mul(*d));
        match elements {
            Some(1..=MAX_ELEMENTS) if dims.len() <= MAX_RANK => Ok(Self(dims)),
            _ => Err(ShapeError { found: dims }),
        }
    }
    /// The scalar shape.
    pub fn scalar() -> Self {
        Self(Vec::new())
    }
    /// The dimensions.
    pub fn dims(&self) -> &[usize] {
        &self.0
    }
    /// The number of elements, at least 1.
    #[allow(clippy::len_without_is_empty)] // no shape is empty
    pub fn len(&self) -> usize {
        self.0.iter().product()
    }
}

impl TryFrom<Vec<usize>> for Shape {
    type Error = ShapeError;
    fn try_from(dims: Vec<usize>) -> Result<Self, ShapeError> {
        Self::new(dims)
    }
}
impl From<Shape> for Vec<usize> {
    fn from(shape: Shape) -> Self {
        shape.0
    }
}
impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// Where a window of a convolution or a pool may lie on an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
        let along = |length: usize, around: usize, i: usize| {
            let spare = length.saturating_add(around).saturating_sub(self.size[i]);
            (spare / self.stride[i].max(1)).saturating_add(1)
        };
        [along(rows, top.saturating_add(bottom), 0), along(columns, left.saturating_add(right), 1)]
    }

    /// Whether it has words, moves, and fits on an image whose words and zeros
    /// a shape can hold.
    pub fn fits(&self, rows: usize, columns: usize) -> bool {
        let [top, left, bottom, right] = self.padding;
        let along = |length: usize, before: usize, after: usize, i: usize| {
            let all = length.checked_add(before).and_then(|v| v.checked_add(after));
            let within = all.is_some_and(|all| self.size[i] <= all && all <= MAX_ELEMENTS);
            within && self.size[i] > 0 && (1..=MAX_ELEMENTS).contains(&self.stride[i])
        };
        along(rows, top, bottom, 0) && along(columns, left, right, 1)
    }
}

/// A window at all its places on a batch of images `[batch, channels, rows,
/// columns]`; it must [fit](Window::fits).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Patches {
    /// how many images
    pub batch: usize,
    /// planes of each
    pub channels: usize,
    /// rows of a plane
    pub rows: usize,
    /// columns of a plane
    pub columns: usize,
    /// what lies on them
    pub window: Window,
}

impl Patches {
    /// The dimensions of the result: `[batch, places, channels · words of the window]`.
    pub fn dims(&self) -> [usize; 3] {
        let [down, across] = self.window.places(self.rows, self.columns);
        [self.batch, down * across, self.channels * self.window.size[0] * self.window.size[1]]
    }
    /// Which word of the images is number `i` of the result; none for a zero around them.
    pub fn source(&self, i: usize) -> Option<usize> {
        let Self { channels, rows, columns, window: Window { size, stride, padding }, .. } = *self;
        let [down, across] = self.window.places(rows, columns);
        let (dx, i) = (i % size[1], i / size[1]);
        let (dy, i) = (i % size[0], i / size[0]);
        let (channel, i) = (i % channels, i / channels);
        let (column, i) = (i % across, i / across);
        let (row, image) = (i % down, i / down);
        let y = (row * stride[0] + dy).checked_sub(padding[0]).filter(|y| *y < rows)?;
        let x = (column * stride[1] + dx).checked_sub(padding[1]).filter(|x| *x < columns)?;
        Some(((image * channels + channel) * rows + y) * columns + x)
    }
}

/// A linear index map from one or several dense tensors to one.
///
/// Every view sees its input as a three-level nest and is described by plain
/// counts, so that a kernel needs no shapes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum View {
    /// Swaps the two inner axes: `[outer, rows, cols]` to `[outer, cols, rows]`.
    Transpose {
        /// leading batch
        outer: usize,
        /// rows of the input
        rows: usize,
        /// columns of the input
        cols: usize,
    },
    /// `[outer, axis, inner]` to `[outer, end − start, inner]`.
    Slice {
        /// leading batch
        outer: usize,
        /// length of the sliced axis
        axis: usize,
        /// words per step of the axis
        inner: usize,
        /// first index kept
        start: usize,
        /// first index not kept
        end: usize,
    },
    /// `[outer, inner]` to `[outer, times, inner]`, each block repeated.
    Repeat {
        /// leading batch
        outer: usize,
        /// how often
        times: usize,
        /// words per block
        inner: usize,
    },
    /// `[outer, axis, inner]` to `[outer, inner]`, summed over the axis.
    Sum {
        /// leading batch
        outer: usize,
        /// length of the summed axis
        axis: usize,
        /// words per step of the axis
        inner: usize,
    },
    /// Several inputs `[outer, axis_i, inner]` joined along the axis.
    Concat {
        /// leading batch
        outer: usize,
        /// the axis length of each input
        axes: Vec<usize>,
        /// words per step of the axis
        inner: usize,
    },
    /// The words under a window at each of its places, place by place, each
    /// channel by channel; zeros where it reaches beyond the image.
    Patches(Patches),
}

impl View {
    /// The number of inputs and the number of words each must have.
    pub fn input_lens(&self) -> Vec<usize> {
        match self {
            View::Transpose { outer, rows, cols } => vec![outer * rows * cols],
            View::Slice { outer, axis, inner, .. } | View::Sum { outer, axis, inner } => vec![outer * axis * inner],
            View::Repeat { outer, inner, .. } => vec![outer * inner],
            View::Concat { outer, axes, inner } => axes.iter().map(|a| outer * a * inner).collect(),
            View::Patches(p) => vec![p.batch * p.channels * p.rows * p.columns],
        }
    }
    /// Whether the result is its only input as it stands.
    pub fn moves_nothing(&self) -> bool {
        match *self {
            View::Transpose { rows, cols, .. } => rows == 1 || cols == 1,
            View::Slice { axis, start, end, .. } => start == 0 && end == axis,
            View::Repeat { times, .. } => times == 1,
            View::Sum { axis, .. } => axis == 1,
            View::Concat { ref axes, .. } => axes.len() == 1,
            View::Patches(Patches { channels, rows, columns, window, .. }) => {
                let (word, whole) = (channels == 1 && window.size == [1, 1], window.size == [rows, columns]);
                window.padding == [0; 4] && (word && window.stride == [1, 1] || whole)
            }
        }
    }
    /// The number of words of the result.
    pub fn output_len(&self) -> usize {
        match self {
            View::Transpose { outer, rows, cols } => outer * rows * cols,
            View::Slice { outer, inner, start, end, .. } => outer * (end - start) * inner,
            View::Repeat { outer, times, inner } => outer * times * inner,
            View::Sum { outer, inner, .. } => outer * inner,
            View::Concat { outer, axes, inner } => outer * axes.iter().sum::<usize>() * inner,
            View::Patches(p) => p.dims().iter().product(),
        }
    }
}

/// The dimensions of a product: elementwise of n words, or a matrix product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Dims {
    /// n products word by word
    Elementwise(usize),
    /// `[m, k] × [k, n]`
    Matmul {
        /// rows of the left operand
        m: usize,
        /// the inner dimension
        k: usize,
        /// columns of the right operand
        n: usize,
    },
}

impl Dims {
    /// Words of the left operand, of the right operand, and of the result.
    pub fn lens(self) -> (usize, usize, usize) {
        match self {
            Dims::Elementwise(n) => (n, n, n),
            Dims::Matmul { m, k, n } => (m * k, k * n, m * n),
        }
    }
    /// Field multiplications of one product.
    pub fn multiplications(self) -> u64 {
        match self {
            Dims::Elementwise(n) => n as u64,
            Dims::Matmul { m, k, n } => m as u64 * k as u64 * n as u64,
        }
    }
}
