//! The graph of a program as plain data: typed values, operations, blocks.
//!
//! Built by [`Builder`](super::Builder), stored by
//! [`Program::save`](super::Program::save), walked by the dry run and the
//! lowering. Every value has one number, counted in the order of definition
//! over the whole program, nested bodies included.

use std::cell::Cell;

use serde::{Deserialize, Deserializer, Serialize};

use super::table::{Function, Table};
use crate::tensor::{Shape, Window};

/// The deepest nesting of [`Op::Repeat`]. Decoding stops there, so that no
/// bytes can exhaust the stack.
pub const MAX_DEPTH: usize = 8;

/// The number of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ValueId(pub u32);

/// How numbers stand in the field: an integer v is v mod p, a fixed-point
/// number x with f fractional bits is round(x·2^f) mod p. `lo..=hi` bounds the
/// scaled integer, inclusive, within [−2^59, 2^59).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Type {
    /// fractional bits; 0 for integers
    pub frac: u8,
    /// whether the user sees a fixed-point number (true) or an integer
    pub fixed: bool,
    /// least scaled value
    pub lo: i64,
    /// greatest scaled value
    pub hi: i64,
}

/// A value's type and shape.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Signature {
    /// how its words are to be read
    pub ty: Type,
    /// its dimensions
    pub shape: Shape,
}

/// One operation. Operands have shapes that fit exactly: the builder inserts
/// `Broadcast` where it allows them to differ.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Op {
    /// A named secret input and the name of its owner.
    Input {
        /// unique among inputs
        name: String,
        /// who gives it
        owner: String,
    },
    /// A public constant, in scaled integers, row-major.
    Constant {
        /// one per element, or one for all
        values: Vec<i64>,
    },
    /// a + b (equal shapes, equal fractional bits).
    Add(ValueId, ValueId),
    /// a − b.
    Sub(ValueId, ValueId),
    /// −a.
    Neg(ValueId),
    /// a·b element by element; fixed × fixed is truncated by the fractional bits of b.
    Mul(ValueId, ValueId),
    /// `[m, k] × [k, n]`; fixed × fixed is truncated as in `Mul`.
    MatMul(ValueId, ValueId),
    /// a·mantissa / 2^shift: by a public real number, truncated by `shift` (0: exact).
    ScaleBy {
        /// the tensor
        x: ValueId,
        /// odd or small: chosen by the builder so that the relative error is below 2^−16
        mantissa: i64,
        /// fractional bits of the mantissa
        shift: u8,
    },
    /// Reads a fixed-point value with another number of fractional bits, or an
    /// integer as fixed point: exact to more bits, truncated to fewer.
    Rescale {
        /// the tensor
        x: ValueId,
        /// fractional bits of the result
        frac: u8,
    },
    /// Swaps the last two axes.
    Transpose(ValueId),
    /// Same words, other dimensions.
    Reshape(ValueId),
    /// Indices start..end of an axis.
    Slice {
        /// the tensor
        x: ValueId,
        /// which axis
        axis: usize,
        /// first index kept
        start: usize,
        /// first index not kept
        end: usize,
    },
    /// Joins along an axis.
    Concat {
        /// at least one tensor, of one type's fractional bits
        parts: Vec<ValueId>,
        /// which axis
        axis: usize,
    },
    /// Repeats along axes of length 1 or missing in front, as NumPy does.
    Broadcast(ValueId),
    /// Sums over an axis and removes it.
    Sum {
        /// the tensor
        x: ValueId,
        /// which axis
        axis: usize,
    },
    /// \[x ≥ T\] as integers 0 or 1 for public thresholds T, which share one
    /// masked opening: of x's shape for one, stacked along a new first axis
    /// for several.
    AtLeast {
        /// the tensor
        x: ValueId,
        /// scaled like x, ascending
        thresholds: Vec<i64>,
    },
    /// Which of the intervals between thresholds x lies in, one-hot along a new
    /// first axis: below the first, from the first on, …, from the last on.
    Between {
        /// the tensor
        x: ValueId,
        /// scaled like x, ascending
        thresholds: Vec<i64>,
    },
    /// The nearest value within lo..=hi.
    Clamp {
        /// the tensor
        x: ValueId,
        /// least result, scaled like x
        lo: i64,
        /// greatest result, scaled like x
        hi: i64,
    },
    /// c·(a − b) + b: a where c is 1, b where c is 0.
    Select {
        /// integers 0 or 1
        c: ValueId,
        /// where 1
        a: ValueId,
        /// where 0
        b: ValueId,
    },
    /// A function of one variable by polynomials on pieces.
    Approximate {
        /// the tensor
        x: ValueId,
        /// what it is, for the dry run
        function: Function,
        /// what is computed
        table: Table,
    },
    /// Asserts that the value lies in the range of its declared type. Part of
    /// the digest; correctness is conditional on it.
    Declare {
        /// the tensor
        x: ValueId,
        /// shown by the plan and the dry run
        name: String,
    },
    /// Runs the body `count` times. Parameters of the body are first the
    /// initial states, then the results of the iteration before. The op
    /// defines one value per state (after the last iteration), then one per
    /// collected value, stacked along a new first axis of length `count`.
    Repeat {
        /// how often, ≥ 1
        count: u32,
        /// initial states
        init: Vec<ValueId>,
        /// what runs
        body: Block,
    },
    /// Uniform values of the whole range of the claimed type, others each time
    /// it is passed. No node knows them; the dealer can compute them.
    Random,
    /// The words under a window at each place on images `[batch, channels, rows,
    /// columns]`, zeros beyond them: `[batch, places, channels · words of the window]`.
    Patches {
        /// the images
        x: ValueId,
        /// where it lies
        window: Window,
    },
    /// Claims that x is a function of another value, whatever it was made of:
    /// of use for error bounds alone, as a table's own claim.
    Claim {
        /// the result, passed on
        x: ValueId,
        /// what it is a function of, of the same shape
        of: ValueId,
        /// the distance from the function, times 2^40
        error: u64,
        /// the function's greatest slope, times 2^20
        slope: u64,
    },
}

/// The operands of an operation, by reference or to be changed; those of a body are its own.
macro_rules! operands {
    ($op:expr, $iter:ident, $each:expr) => {{
        let mut each = $each;
        match $op {
            Op::Input { .. } | Op::Constant { .. } | Op::Random => {}
            Op::Add(a, b) | Op::Sub(a, b) | Op::Mul(a, b) | Op::MatMul(a, b) => {
                each(a);
                each(b);
            }
            Op::Neg(x) | Op::Transpose(x) | Op::Reshape(x) | Op::Broadcast(x) => each(x),
            Op::AtLeast { x, .. } | Op::Between { x, .. } | Op::Clamp { x, .. } | Op::Approximate { x, .. } => each(x),
            Op::ScaleBy { x, .. } | Op::Rescale { x, .. } | Op::Slice { x, .. } | Op::Patches { x, .. } => each(x),
            Op::Sum { x, .. } | Op::Declare { x, .. } => each(x),
            Op::Claim { x, of, .. } => {
                each(x);
                each(of);
            }
            Op::Concat { parts, .. } => parts.$iter().for_each(each),
            Op::Select { c, a, b } => {
                each(c);
                each(a);
                each(b);
            }
            Op::Repeat { init, .. } => init.$iter().for_each(each),
        }
    }};
}

impl Op {
    /// Calls back for every operand; of a `Repeat` for its initial states, not for what its body uses.
    pub fn operands(&self, each: impl FnMut(&ValueId)) {
        operands!(self, iter, each);
    }

    /// The same, to give them other numbers.
    pub fn operands_mut(&mut self, each: impl FnMut(&mut ValueId)) {
        operands!(self, iter_mut, each);
    }
}

/// Calls back for every use of a value in nodes and their bodies, results and what is collected included.
pub(super) fn uses(nodes: &[Node], each: &mut impl FnMut(ValueId)) {
    for node in nodes {
        node.op.operands(|id| each(*id));
        if let Op::Repeat { body, .. } = &node.op {
            body.uses(each);
        }
    }
}

/// A definition: an operation and the signatures of the values it defines
/// (one, except for `Repeat`), numbered from `first`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// the first value defined
    pub first: ValueId,
    /// the values' types and shapes
    pub defines: Vec<Signature>,
    /// what
    pub op: Op,
}

/// The body of a `Repeat`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Block {
    /// number of the first parameter; parameters are consecutive
    pub first_param: ValueId,
    /// the parameters' signatures; each result fits the range of its parameter
    pub params: Vec<Signature>,
    /// in order of definition; may use values of enclosing blocks
    #[serde(deserialize_with = "nested")]
    pub nodes: Vec<Node>,
    /// next states, one per parameter
    pub results: Vec<ValueId>,
    /// values collected from each iteration
    pub collect: Vec<ValueId>,
}

impl Block {
    /// Calls back for every use of a value in the body.
    pub(super) fn uses(&self, each: &mut impl FnMut(ValueId)) {
        uses(&self.nodes, each);
        self.results.iter().chain(&self.collect).for_each(|id| each(*id));
    }
}

/// A named output and the name of who may read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// unique among outputs
    pub name: String,
    /// who may read it
    pub reader: String,
    /// what
    pub value: ValueId,
}

/// Decodes the nodes of a body, at most [`MAX_DEPTH`] bodies deep.
fn nested<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Node>, D::Error> {
    thread_local!(static DEPTH: Cell<usize> = const { Cell::new(0) });
    struct Entered;
    impl Drop for Entered {
        fn drop(&mut self) {
            DEPTH.set(DEPTH.get() - 1);
        }
    }
    DEPTH.set(DEPTH.get() + 1);
    let _entered = Entered;
    if DEPTH.get() > MAX_DEPTH {
        return Err(serde::de::Error::custom(format_args!("repeats nested deeper than {MAX_DEPTH}")));
    }
    Vec::deserialize(deserializer)
}
