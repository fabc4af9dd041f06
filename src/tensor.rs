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
}

impl View {
    /// The number of inputs and the number of words each must have.
    pub fn input_lens(&self) -> Vec<usize> {
        match self {
            View::Transpose { outer, rows, cols } => vec![outer * rows * cols],
            View::Slice { outer, axis, inner, .. } | View::Sum { outer, axis, inner } => vec![outer * axis * inner],
            View::Repeat { outer, inner, .. } => vec![outer * inner],
            View::Concat { outer, axes, inner } => axes.iter().map(|a| outer * a * inner).collect(),
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
