//! Models made elsewhere: ONNX graphs, `safetensors` weights.
//!
//! Bytes become a checked [`Model`] once; [`Model::apply`] writes it into a
//! program, against [`program`](crate::program) and [`layers`](super::layers)
//! alone. The weights are public constants of the program, or inputs of their
//! owner, whose values no node sees; the graph itself, all shapes, and numbers
//! that are part of it (strides, bounds of a `Clip`, axes) are always public.
//!
//! ```no_run
//! use beaverdam::ml::import::{Model, Options, Weights};
//! use beaverdam::program::{Builder, Type};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let model = Model::load("model.onnx")?;
//! let b = Builder::new();
//! let x = b.input("x", "alice", Type::fixed(0.0..=1.0), [90, 1, 8, 8]);
//! let weights = Weights::Secret { owner: "bob".into() };
//! let logits = model.apply(&x, &weights, &Options::default())?;
//! b.output("logits", "alice", &logits);
//! let program = b.finish()?;
//! let mut inputs = model.weights(); // bob's; alice adds "x"
//! # Ok(())
//! # }
//! ```

mod apply;
mod onnx;
mod operator;
mod proto;
pub mod safetensors;

#[cfg(test)]
mod tests;

use std::ops::RangeInclusive;
use std::path::Path;

pub use onnx::Model;

/// The largest file that is read.
pub const MAX_BYTES: usize = 256 << 20;
/// The most nodes, names, attributes and tensors of a model, together.
pub const MAX_ENTRIES: usize = 1 << 18;
/// The most numbers in all tensors of a file together.
pub const MAX_NUMBERS: usize = 1 << 26;
/// The most bytes of a name, as programs have it.
pub const MAX_NAME: usize = crate::program::MAX_NAME;

/// A tensor from a file: finite numbers, as many as its shape says.
#[derive(Clone)]
pub struct Values {
    /// the dimensions, `[]` for a scalar
    pub shape: Vec<usize>,
    /// row-major
    pub values: Vec<f64>,
}

impl std::fmt::Debug for Values {
    /// The shape; weights may be secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Values").field("shape", &self.shape).finish_non_exhaustive()
    }
}

/// Whose the weights of a model are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Weights {
    /// Constants of the program, which all nodes see. A product with them opens
    /// nothing but its truncation.
    Public,
    /// Secret inputs, named as [`Model::weights`] names them.
    Secret {
        /// who gives them
        owner: String,
    },
}

/// How a model is written in fixed point.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// fractional bits of weights; those of the input should be equal
    pub frac: u8,
    /// where a node's result could leave ± this, it is declared not to, under
    /// the node's name. **The result is correct only if that holds**; a dry run
    /// reports the largest value seen at each declaration
    pub activation_bound: f64,
    /// secret weights are inputs within ± this; larger ones are refused
    pub weight_bound: f64,
    /// variances under a `LayerNormalization` are clamped to this range, whose
    /// ratio decides how well the root is approximated
    pub variance: RangeInclusive<f64>,
}

impl Default for Options {
    /// 16 fractional bits, results within ±128, secret weights within ±8,
    /// variances in 1/16..=64.
    fn default() -> Self {
        Self { frac: 16, activation_bound: 128.0, weight_bound: 8.0, variance: 0.0625..=64.0 }
    }
}

/// A model or its weights were refused.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A file could not be read.
    #[error("model file {path}: {source}: check the path and its permissions")]
    File {
        /// which file
        path: String,
        /// why
        source: std::io::Error,
    },
    /// A file holds nothing usable.
    #[error("model file {path}: {source}")]
    Content {
        /// which file
        path: String,
        /// why
        source: Box<ImportError>,
    },
    /// Bytes are not what they should be.
    #[error("these bytes are not {expected}: {found}: export the model again")]
    Bytes {
        /// what they should be
        expected: &'static str,
        /// what was found
        found: String,
    },
    /// There is more than anybody has to accept.
    #[error("the file has {found} {what}, expected at most {max}: export a smaller model")]
    Limit {
        /// what there is too much of
        what: &'static str,
        /// how much
        found: u64,
        /// the cap
        max: u64,
    },
    /// Something about the graph as a whole.
    #[error("the graph has {found}, expected {expected}")]
    Graph {
        /// what was found
        found: String,
        /// what would fit, and what to do
        expected: String,
    },
    /// Something about one tensor.
    #[error("tensor {name:?} has {found}, expected {expected}")]
    Tensor {
        /// its name
        name: String,
        /// what was found
        found: String,
        /// what would fit, and what to do
        expected: String,
    },
    /// Something about one node.
    #[error("node {node:?} ({op}) has {found}, expected {expected}")]
    Node {
        /// its name, or that of its result
        node: String,
        /// its operator
        op: String,
        /// what was found
        found: String,
        /// what would fit, and what to do
        expected: String,
    },
    /// The program takes a node, a weight or the input in no way.
    #[error("{at}: {reason}")]
    Program {
        /// which node or weight
        at: String,
        /// the program's own error
        reason: String,
    },
}

/// The bytes of a file, its size looked at first; and what `parse` makes of them.
fn read<T>(path: &Path, parse: impl FnOnce(&[u8]) -> Result<T, ImportError>) -> Result<T, ImportError> {
    let shown = path.display().to_string();
    let failed = |source| ImportError::File { path: shown.clone(), source };
    let content = |source| ImportError::Content { path: shown.clone(), source: Box::new(source) };
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    // One more than is accepted, whatever the size is said to be.
    std::io::Read::read_to_end(&mut std::io::Read::take(file, MAX_BYTES as u64 + 1), &mut bytes).map_err(failed)?;
    parse(&bytes).map_err(content)
}

fn refuse_large(bytes: &[u8]) -> Result<(), ImportError> {
    match bytes.len() {
        0..=MAX_BYTES => Ok(()),
        found => Err(ImportError::Limit { what: "bytes", found: found as u64, max: MAX_BYTES as u64 }),
    }
}

/// The number of elements of a shape that a file claims, if a tensor can have it.
fn elements(dims: impl IntoIterator<Item = u64>) -> Option<(Vec<usize>, usize)> {
    let (mut shape, mut count) = (Vec::new(), 1usize);
    for d in dims {
        if shape.len() == crate::tensor::MAX_RANK || d == 0 {
            return None;
        }
        let d = usize::try_from(d).ok()?;
        count = count.checked_mul(d).filter(|n| *n <= MAX_NUMBERS)?;
        shape.push(d);
    }
    Some((shape, count))
}

/// What a shape should have been.
const SHAPE: &str = "at most 6 dimensions, none 0, at most 67108864 elements";

/// binary16 as a number.
fn half(bits: u16) -> f64 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023));
    sign * match exponent {
        0 => fraction * 2f64.powi(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        e => (1024.0 + fraction) * 2f64.powi(e - 25),
    }
}

/// bfloat16 as a number: the upper half of an `f32`.
fn bfloat(bits: u16) -> f64 {
    f32::from_bits(u32::from(bits) << 16).into()
}
