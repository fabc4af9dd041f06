//! Walks a program and computes it in the clear, in whichever arithmetic is
//! given: real numbers for the [dry run](super::dry_run), scaled integers for
//! the [ideal functionality](super::ideal).

use std::rc::Rc;

use super::graph::{Block, Node, Op, Signature, Type, ValueId};
use super::serial::Program;
use super::table::{Function, Table};
use crate::tensor::{Patches, Shape, Window};

/// What a walk computes with, element by element.
pub(super) trait Arithmetic {
    /// One element.
    type Word: Copy;
    fn constant(&mut self, scaled: i64, ty: Type) -> Self::Word;
    /// A value of the type, another one each time.
    fn random(&mut self, ty: Type) -> Self::Word;
    fn add(&mut self, a: Self::Word, b: Self::Word) -> Self::Word;
    fn neg(&mut self, a: Self::Word) -> Self::Word;
    /// Σ a·b, truncated by `shift`.
    fn dot(&mut self, pairs: impl Iterator<Item = (Self::Word, Self::Word)>, shift: u8) -> Self::Word;
    /// x·mantissa / 2^shift.
    fn scale(&mut self, x: Self::Word, mantissa: i64, shift: u8) -> Self::Word;
    fn rescale(&mut self, x: Self::Word, from: u8, to: u8) -> Self::Word;
    /// \[x ≥ threshold\], scaled like x with `frac` fractional bits.
    fn at_least(&mut self, x: Self::Word, threshold: i64, frac: u8) -> Self::Word;
    fn clamp(&mut self, x: Self::Word, lo: i64, hi: i64, frac: u8) -> Self::Word;
    fn select(&mut self, c: Self::Word, a: Self::Word, b: Self::Word) -> Self::Word;
    fn approximate(&mut self, x: Self::Word, function: Function, table: &Table, ty: Type) -> Self::Word;
    /// Sees every value once it is computed, in each iteration again.
    fn defined(&mut self, node: &Node, value: &[Self::Word]);
}

/// The outputs in order, given the inputs in order with one word per element.
pub(super) fn evaluate<A: Arithmetic>(
    program: &Program,
    inputs: Vec<Vec<A::Word>>,
    arithmetic: &mut A,
) -> Vec<Vec<A::Word>> {
    let mut signatures = Vec::new();
    list(program.nodes(), &mut signatures);
    let values = vec![None; signatures.len()];
    let mut walk = Walk { signatures, values, inputs: inputs.into_iter(), arithmetic };
    walk.run(program.nodes());
    program.outputs().iter().map(|output| walk.words(output.value).to_vec()).collect()
}

/// All signatures by value number: a body's parameters and values come before
/// the values of its repeat.
fn list<'a>(nodes: &'a [Node], signatures: &mut Vec<&'a Signature>) {
    for node in nodes {
        if let Op::Repeat { body, .. } = &node.op {
            signatures.extend(&body.params);
            list(&body.nodes, signatures);
        }
        signatures.extend(&node.defines);
    }
}

struct Walk<'a, A: Arithmetic> {
    signatures: Vec<&'a Signature>,
    values: Vec<Option<Rc<Vec<A::Word>>>>,
    inputs: std::vec::IntoIter<Vec<A::Word>>,
    arithmetic: &'a mut A,
}

impl<A: Arithmetic> Walk<'_, A> {
    fn run(&mut self, nodes: &[Node]) {
        for node in nodes {
            if let Op::Repeat { count, init, body } = &node.op {
                self.repeat(node.first, *count, init, body);
            } else {
                let words = self.apply(node);
                self.arithmetic.defined(node, &words);
                self.set(node.first, Rc::new(words));
            }
        }
    }

    fn repeat(&mut self, first: ValueId, count: u32, init: &[ValueId], body: &Block) {
        let mut states = init.iter().map(|id| self.words(*id)).collect::<Vec<_>>();
        let mut collected = vec![Vec::new(); body.collect.len()];
        for _ in 0..count {
            for (i, state) in states.drain(..).enumerate() {
                self.set(ValueId(body.first_param.0 + i as u32), state);
            }
            self.run(&body.nodes);
            states.extend(body.results.iter().map(|id| self.words(*id)));
            for (stack, id) in collected.iter_mut().zip(&body.collect) {
                stack.extend_from_slice(&self.words(*id));
            }
        }
        states.extend(collected.into_iter().map(Rc::new));
        for (i, value) in states.into_iter().enumerate() {
            self.set(ValueId(first.0 + i as u32), value);
        }
    }

    fn apply(&mut self, node: &Node) -> Vec<A::Word> {
        let result = &node.defines[0];
        let shape = &result.shape;
        match &node.op {
            Op::Input { .. } => self.inputs.next().expect("one per input, checked by the caller"),
            Op::Constant { values } => {
                let words = (0..shape.len()).map(|i| values[i % values.len()]);
                words.map(|v| self.arithmetic.constant(v, result.ty)).collect()
            }
            Op::Random => (0..shape.len()).map(|_| self.arithmetic.random(result.ty)).collect(),
            Op::Patches { x, window } => {
                let patches = patches(&self.signatures[x.0 as usize].shape, *window);
                let zero = self.arithmetic.constant(0, result.ty);
                let x = self.words(*x);
                (0..shape.len()).map(|i| patches.source(i).map_or(zero, |at| x[at])).collect()
            }
            Op::Add(a, b) => self.zip(*a, *b, |arithmetic, a, b| arithmetic.add(a, b)),
            Op::Sub(a, b) => self.zip(*a, *b, |arithmetic, a, b| {
                let b = arithmetic.neg(b);
                arithmetic.add(a, b)
            }),
            Op::Neg(a) => self.map(*a, |arithmetic, a| arithmetic.neg(a)),
            Op::Mul(a, b) => {
                let shift = self.product_shift(*a, *b);
                self.zip(*a, *b, |arithmetic, a, b| arithmetic.dot(std::iter::once((a, b)), shift))
            }
            Op::MatMul(a, b) => {
                let shift = self.product_shift(*a, *b);
                let (k, n) = (self.signatures[a.0 as usize].shape.dims()[1], shape.dims()[1]);
                let (a, b) = (self.words(*a), self.words(*b));
                let cell = |i: usize| {
                    (0..k).map({
                        let (a, b) = (&a, &b);
                        move |j| (a[i / n * k + j], b[j * n + i % n])
                    })
                };
                (0..shape.len()).map(|i| self.arithmetic.dot(cell(i), shift)).collect()
            }
            Op::ScaleBy { x, mantissa, shift } => self.map(*x, |arithmetic, x| arithmetic.scale(x, *mantissa, *shift)),
            Op::Rescale { x, frac } => {
                let from = self.signatures[x.0 as usize].ty.frac;
                self.map(*x, |arithmetic, x| arithmetic.rescale(x, from, *frac))
            }
            Op::Transpose(x) => {
                let [.., cols, rows] = *shape.dims() else { unreachable!("transposed tensors have two axes") };
                let x = self.words(*x);
                let at = |i: usize| i / (rows * cols) * (rows * cols) + i % rows * cols + i / rows % cols;
                (0..x.len()).map(|i| x[at(i)]).collect()
            }
            Op::Reshape(x) | Op::Declare { x, .. } | Op::Claim { x, .. } => self.words(*x).to_vec(),
            Op::Slice { x, axis, start, end } => {
                let (_, length, inner) = self.nest(*x, *axis);
                let blocks = self.words(*x);
                blocks.chunks(length * inner).flat_map(|block| block[start * inner..end * inner].to_vec()).collect()
            }
            Op::Concat { parts, axis } => {
                let parts = parts.iter().map(|part| (self.nest(*part, *axis), self.words(*part))).collect::<Vec<_>>();
                let outer = parts[0].0.0;
                let rows = (0..outer).flat_map(|i| parts.iter().map(move |part| (i, part)));
                rows.flat_map(|(i, ((_, length, inner), words))| words[i * length * inner..][..length * inner].to_vec())
                    .collect()
            }
            Op::Broadcast(x) => {
                let from = self.signatures[x.0 as usize].shape.dims();
                let x = self.words(*x);
                (0..shape.len()).map(|i| x[broadcast_index(i, shape.dims(), from)]).collect()
            }
            Op::Sum { x, axis } => {
                let (_, length, inner) = self.nest(*x, *axis);
                let x = self.words(*x);
                let at = |i: usize, j: usize| x[i / inner * length * inner + j * inner + i % inner];
                let sums =
                    (0..shape.len()).map(|i| (1..length).fold(at(i, 0), |sum, j| self.arithmetic.add(sum, at(i, j))));
                sums.collect()
            }
            Op::AtLeast { x, thresholds } => {
                let frac = self.signatures[x.0 as usize].ty.frac;
                let bits = thresholds.iter().map(|t| self.map(*x, |arithmetic, x| arithmetic.at_least(x, *t, frac)));
                bits.flatten().collect()
            }
            Op::Between { x, thresholds } => {
                let frac = self.signatures[x.0 as usize].ty.frac;
                let words = self.words(*x);
                let mut rows = Vec::with_capacity(shape.len());
                for row in 0..=thresholds.len() {
                    for x in words.iter() {
                        // Past its lower end and not past its upper one.
                        let [low, high] = [row.checked_sub(1), Some(row)].map(|at| {
                            let threshold = at.map(|at| thresholds.get(at));
                            match threshold {
                                None => self.arithmetic.constant(1, Type::bit()),
                                Some(None) => self.arithmetic.constant(0, Type::bit()),
                                Some(Some(t)) => self.arithmetic.at_least(*x, *t, frac),
                            }
                        });
                        let high = self.arithmetic.neg(high);
                        rows.push(self.arithmetic.add(low, high));
                    }
                }
                rows
            }
            Op::Clamp { x, lo, hi } => self.map(*x, |arithmetic, x| arithmetic.clamp(x, *lo, *hi, result.ty.frac)),
            Op::Select { c, a, b } => {
                let (c, a, b) = (self.words(*c), self.words(*a), self.words(*b));
                (0..c.len()).map(|i| self.arithmetic.select(c[i], a[i], b[i])).collect()
            }
            Op::Approximate { x, function, table } => {
                let ty = self.signatures[x.0 as usize].ty;
                self.map(*x, |arithmetic, x| arithmetic.approximate(x, *function, table, ty))
            }
            Op::Repeat { .. } => unreachable!("repeats are walked"),
        }
    }

    fn words(&self, id: ValueId) -> Rc<Vec<A::Word>> {
        self.values[id.0 as usize].clone().expect("a checked program defines values before it uses them")
    }
    fn set(&mut self, id: ValueId, words: Rc<Vec<A::Word>>) {
        self.values[id.0 as usize] = Some(words);
    }
    fn map(&mut self, x: ValueId, mut f: impl FnMut(&mut A, A::Word) -> A::Word) -> Vec<A::Word> {
        self.words(x).iter().map(|x| f(self.arithmetic, *x)).collect()
    }
    fn zip(&mut self, a: ValueId, b: ValueId, mut f: impl FnMut(&mut A, A::Word, A::Word) -> A::Word) -> Vec<A::Word> {
        self.words(a).iter().zip(self.words(b).iter()).map(|(a, b)| f(self.arithmetic, *a, *b)).collect()
    }
    /// fixed × fixed is truncated by the right operand's fractional bits.
    fn product_shift(&self, a: ValueId, b: ValueId) -> u8 {
        let [a, b] = [a, b].map(|id| self.signatures[id.0 as usize].ty);
        if a.fixed && b.fixed { b.frac } else { 0 }
    }
    /// A value as `[outer, axis, inner]`.
    fn nest(&self, x: ValueId, axis: usize) -> (usize, usize, usize) {
        let dims = self.signatures[x.0 as usize].shape.dims();
        (dims[..axis].iter().product(), dims[axis], dims[axis + 1..].iter().product())
    }
}

/// A window on images of a checked shape.
pub(super) fn patches(images: &Shape, window: Window) -> Patches {
    let [batch, channels, rows, columns] = *images.dims() else { unreachable!("images have four axes") };
    Patches { batch, channels, rows, columns, window }
}

/// Where element `i` of a tensor of dimensions `to` comes from.
fn broadcast_index(mut i: usize, to: &[usize], from: &[usize]) -> usize {
    let (mut index, mut stride) = (0, 1);
    for (axis, length) in to.iter().enumerate().rev() {
        let at = i % length;
        i /= length;
        if let Some(axis) = (axis + from.len()).checked_sub(to.len()) {
            index += if from[axis] == 1 { 0 } else { at * stride };
            stride *= from[axis];
        }
    }
    index
}
