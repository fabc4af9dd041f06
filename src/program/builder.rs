//! Writing programs: tensor handles with operators.
//!
//! Operators cannot return errors, so the builder keeps the first one and
//! [`Builder::finish`] reports it; handles made after it are still usable and
//! mean nothing.
//!
//! ```
//! use beaverdam::program::{Builder, Type};
//!
//! # fn main() -> Result<(), beaverdam::program::ProgramError> {
//! let b = Builder::new();
//! let x = b.input("x", "alice", Type::fixed(-8.0..=8.0), [2, 3]);
//! let w = b.input("w", "bob", Type::fixed(-1.0..=1.0), [3]);
//! let risk = (x.matmul(&w) * 0.5 + 1.0).sigmoid();
//! b.output("risk", "alice", &risk);
//! let program = b.finish()?;
//! # assert_eq!(program.outputs().len(), 1);
//! # Ok(())
//! # }
//! ```

use std::cell::RefCell;
use std::ops::{Add, Div, Mul, Neg, Range, RangeInclusive, Sub};
use std::rc::Rc;

use super::check::{Checker, MAX_SHIFT, broadcast};
use super::error::ProgramError;
use super::graph::{Op, Signature, Type, ValueId};
use super::serial::Program;
use super::types::BOUND;
use crate::tensor::{Shape, Window};

/// Records a program. Clones record into the same program.
#[derive(Clone)]
pub struct Builder {
    state: Rc<RefCell<State>>,
}

struct State {
    checker: Checker,
    error: Option<ProgramError>,
}

/// A handle on a secret or constant tensor of a program; cheap to clone.
///
/// Shapes of operands broadcast as in NumPy. An integer that meets a
/// fixed-point number in `+`, `-`, a comparison, `select` or `concat` is read
/// as fixed point, exactly; two fixed-point numbers must have equal fractional
/// bits there. Costs are given in openings, as the planner counts them: what is
/// not mentioned is local.
#[derive(Clone)]
pub struct Tensor {
    builder: Builder,
    /// none after an error
    id: Option<ValueId>,
    signature: Rc<Signature>,
}

impl Builder {
    /// An empty program.
    #[allow(clippy::new_without_default)] // an empty program is not a default one
    pub fn new() -> Self {
        Self { state: Rc::new(RefCell::new(State { checker: Checker::new(), error: None })) }
    }

    /// A secret input, unique by name, given by `owner`. Not inside a `repeat`.
    pub fn input(&self, name: &str, owner: &str, ty: Type, shape: impl Into<Vec<usize>>) -> Tensor {
        let op = Op::Input { name: name.into(), owner: owner.into() };
        self.shaped("input", ty, shape.into(), op)
    }

    /// A public constant, row-major: one value per element, or one for all.
    /// Values are rounded to the type's fractional bits and must lie in its
    /// range; the range may be wider than the values, as an initial state of a
    /// `repeat` wants it.
    pub fn constant(&self, values: &[f64], ty: Type, shape: impl Into<Vec<usize>>) -> Tensor {
        let mut scaled = Vec::with_capacity(values.len());
        for &value in values {
            match ty.scaled(value) {
                Some(v) => scaled.push(v),
                None => return self.fail(ProgramError::Public { op: "constant", value, expected: ty.to_string() }),
            }
        }
        self.shaped("constant", ty, shape.into(), Op::Constant { values: scaled })
    }

    /// A public constant of integers, exact over their whole range.
    pub fn integers(&self, values: &[i64], ty: Type, shape: impl Into<Vec<usize>>) -> Tensor {
        if ty.fixed {
            return self.fail(ProgramError::Type {
                op: "integers",
                found: ty.to_string(),
                expected: "an integer type",
            });
        }
        self.shaped("constant", ty, shape.into(), Op::Constant { values: values.to_vec() })
    }

    /// Secret random values, uniform over the whole range of a type, ends
    /// included: bits with [`Type::bit`], a die with `Type::int(1..=6)`, multiples of
    /// 2^−16 with [`Type::fixed`].
    ///
    /// No node knows them, nor do as many as the roster lets be corrupt together.
    /// **The owner who deals can compute them**, like every mask of its job: they
    /// hide things from readers and nodes, not from the owner. They are drawn anew
    /// in each job and in each iteration of a `repeat`; a value that is used twice
    /// is one value. Their distribution is less than 2^−63 away from uniform,
    /// whatever the size of the range. No rounds and no openings: 8 bytes of
    /// correction from the owner to each node for each value (16 with SPDZ).
    pub fn random(&self, ty: Type, shape: impl Into<Vec<usize>>) -> Tensor {
        self.shaped("random", ty, shape.into(), Op::Random)
    }

    /// The tensors, at least one, joined along an axis.
    pub fn concat(&self, parts: &[&Tensor], axis: usize) -> Tensor {
        let fixed = parts.iter().find(|part| part.ty().fixed);
        let parts = parts.iter().map(|&part| fixed.map_or_else(|| part.clone(), |like| part.reading_like(like)));
        let parts = parts.collect::<Vec<_>>();
        match self.ids("concat", &parts.iter().collect::<Vec<_>>()) {
            Some(parts) => self.emit(Op::Concat { parts, axis }, Signature { ty: Type::bit(), shape: Shape::scalar() }),
            None => self.poisoned(),
        }
    }

    /// Runs a body `count` times, carrying states along.
    ///
    /// The body gets one parameter per initial state, of the same shape, type
    /// and *range*, and gives back the next states and values to collect. Each
    /// next state must be within the range of its initial one, by the derived
    /// range or by [`Tensor::declare`]. Returns the states after the last
    /// iteration, and the collected values stacked along a new first axis of
    /// length `count`. Values of the body do not exist outside it. Bodies nest
    /// up to 8 deep.
    pub fn repeat<F>(&self, count: u32, init: &[Tensor], body: F) -> (Vec<Tensor>, Vec<Tensor>)
    where
        F: FnOnce(&Builder, &[Tensor]) -> (Vec<Tensor>, Vec<Tensor>),
    {
        let ids = self.ids("repeat", &init.iter().collect::<Vec<_>>());
        let entered = ids.and_then(|ids| {
            let first = self.attempt(|checker| checker.enter(count, &ids))?;
            Some((ids, first))
        });
        let parameter = |(i, state): (usize, &Tensor)| match &entered {
            Some((_, first)) => self.handle(ValueId(first.0 + i as u32), state.signature.clone()),
            None => self.poisoned(),
        };
        let parameters = init.iter().enumerate().map(parameter).collect::<Vec<_>>();
        let (next, collect) = body(self, &parameters);
        let defined = entered.and_then(|(init, _)| {
            let ends = self.ids("repeat", &next.iter().collect::<Vec<_>>());
            let stacks = self.ids("collect", &collect.iter().collect::<Vec<_>>());
            match (ends, stacks) {
                (Some(ends), Some(stacks)) => self.attempt(|checker| checker.leave(count, init, ends, stacks)),
                _ => {
                    self.state.borrow_mut().checker.abandon();
                    None
                }
            }
        });
        let value = |i: usize| match defined {
            Some(first) => self.visible(ValueId(first.0 + i as u32)),
            None => self.poisoned(),
        };
        let finals = (0..init.len()).map(value).collect();
        (finals, (init.len()..init.len() + collect.len()).map(value).collect())
    }

    /// Names a value as an output that only `reader` may open. Not inside a `repeat`.
    pub fn output(&self, name: &str, reader: &str, value: &Tensor) {
        if let Some(ids) = self.ids("output", &[value]) {
            self.attempt(|checker| checker.output(name.into(), reader.into(), ids[0]));
        }
    }

    /// The program, or the first thing that was wrong with it. The builder and
    /// its handles are of no use afterwards.
    pub fn finish(&self) -> Result<Program, ProgramError> {
        let mut state = self.state.borrow_mut();
        match state.error.take() {
            Some(error) => Err(error),
            None => {
                let (nodes, outputs) = state.checker.finish()?;
                Program::finished(nodes, outputs)
            }
        }
    }

    /// What is wrong so far, for whoever can say where.
    #[cfg(feature = "import")]
    pub(crate) fn fault(&self) -> Option<String> {
        self.state.borrow().error.as_ref().map(ProgramError::to_string)
    }

    fn shaped(&self, op: &'static str, ty: Type, dims: Vec<usize>, node: Op) -> Tensor {
        match Shape::new(dims) {
            Ok(shape) => self.emit(node, Signature { ty, shape }),
            Err(error) => {
                self.fail(ProgramError::Operands { op, operands: ty.to_string(), expected: error.to_string() })
            }
        }
    }

    /// Defines an operation. Nothing happens after the first error.
    fn emit(&self, op: Op, claimed: Signature) -> Tensor {
        match self.attempt(|checker| checker.define(op, &claimed)) {
            Some(id) => self.visible(id),
            None => self.poisoned(),
        }
    }

    fn attempt<T>(&self, step: impl FnOnce(&mut Checker) -> Result<T, ProgramError>) -> Option<T> {
        let mut state = self.state.borrow_mut();
        if state.error.is_some() {
            return None;
        }
        step(&mut state.checker).map_err(|error| state.error = Some(error)).ok()
    }

    /// The operands' numbers, unless one is unusable; operands of another
    /// builder are an error here and there.
    fn ids(&self, op: &'static str, operands: &[&Tensor]) -> Option<Vec<ValueId>> {
        for operand in operands {
            if !Rc::ptr_eq(&self.state, &operand.builder.state) {
                operand.builder.fail(ProgramError::Foreign { op });
                self.fail(ProgramError::Foreign { op });
                return None;
            }
        }
        operands.iter().map(|operand| operand.id).collect()
    }

    pub(super) fn fail(&self, error: ProgramError) -> Tensor {
        self.state.borrow_mut().error.get_or_insert(error);
        self.poisoned()
    }

    fn visible(&self, id: ValueId) -> Tensor {
        let signature = self.state.borrow().checker.signature(id, "handle").expect("just defined").clone();
        self.handle(id, signature)
    }

    fn handle(&self, id: ValueId, signature: Rc<Signature>) -> Tensor {
        Tensor { builder: self.clone(), id: Some(id), signature }
    }

    pub(super) fn poisoned(&self) -> Tensor {
        let signature = Rc::new(Signature { ty: Type::bit(), shape: Shape::scalar() });
        Tensor { builder: self.clone(), id: None, signature }
    }
}

impl Tensor {
    /// Its type with its derived or declared range. After an error: `int in 0..=1`.
    pub fn ty(&self) -> Type {
        self.signature.ty
    }
    /// The builder that records it.
    pub fn builder(&self) -> &Builder {
        &self.builder
    }
    /// Its shape. After an error: the scalar shape.
    pub fn shape(&self) -> &Shape {
        &self.signature.shape
    }

    /// The matrix product `[m, k] × [k, n]`. A vector on the left is a row, on
    /// the right a column, and its axis is dropped from the result. Costs m·n
    /// openings with local products, m·k + k·n (each operand once) with triples.
    pub fn matmul(&self, other: &Tensor) -> Tensor {
        let (left, right) = (self.shape().dims().len(), other.shape().dims().len());
        let (left, right) = (left == 1, right == 1);
        let a = if left { self.reshape([1, self.shape().len()]) } else { self.clone() };
        let b = if right { other.reshape([other.shape().len(), 1]) } else { other.clone() };
        let product = a.both("matmul", &b, Op::MatMul);
        match *product.shape().dims() {
            [m, n] if left || right => {
                let kept = [(m, left), (n, right)].into_iter().filter(|(_, dropped)| !dropped);
                product.reshape(kept.map(|(d, _)| d).collect::<Vec<_>>())
            }
            _ => product,
        }
    }
    /// The transpose: the last two axes swapped.
    pub fn t(&self) -> Tensor {
        self.one(Op::Transpose)
    }
    /// The same elements in row-major order under other dimensions.
    pub fn reshape(&self, shape: impl Into<Vec<usize>>) -> Tensor {
        self.reshaped("reshape", shape.into(), Op::Reshape)
    }
    /// The tensor repeated to a larger shape, as NumPy broadcasts.
    pub fn broadcast(&self, shape: impl Into<Vec<usize>>) -> Tensor {
        self.reshaped("broadcast", shape.into(), Op::Broadcast)
    }
    /// The indices of a range along an axis.
    pub fn slice(&self, axis: usize, range: Range<usize>) -> Tensor {
        self.one(|x| Op::Slice { x, axis, start: range.start, end: range.end })
    }
    /// The words under a window at each of its places on images `[batch,
    /// channels, rows, columns]`, zeros beyond them: `[batch, places, channels ·
    /// words of the window]`, as convolutions and pools take them. Local.
    pub fn patches(&self, window: Window) -> Tensor {
        self.one(|x| Op::Patches { x, window })
    }
    /// The sum over an axis, which is removed.
    pub fn sum(&self, axis: usize) -> Tensor {
        self.one(|x| Op::Sum { x, axis })
    }
    /// The sum over all elements, a scalar.
    pub fn sum_all(&self) -> Tensor {
        self.reshape([self.shape().len()]).sum(0)
    }
    /// The mean over an axis, which is removed; fixed point only. One
    /// truncation per element of the result.
    pub fn mean(&self, axis: usize) -> Tensor {
        let length = self.shape().dims().get(axis).copied().unwrap_or(1);
        self.sum(axis) * (1.0 / length as f64)
    }
    /// The elementwise square. Its range is known not to be negative.
    pub fn square(&self) -> Tensor {
        self * self
    }
    /// \[self ≥ 0\] as an integer 0 or 1. One comparison per element.
    pub fn ge0(&self) -> Tensor {
        self.one(|x| Op::AtLeast { x, thresholds: vec![0] })
    }
    /// \[self ≥ other\] as an integer 0 or 1. One comparison per element.
    pub fn ge(&self, other: &Tensor) -> Tensor {
        (self - other).ge0()
    }
    /// \[self ≤ other\]. One comparison per element.
    pub fn le(&self, other: &Tensor) -> Tensor {
        other.ge(self)
    }
    /// \[self < other\]. One comparison per element.
    pub fn lt(&self, other: &Tensor) -> Tensor {
        1.0 - self.ge(other)
    }
    /// \[self > other\]. One comparison per element.
    pub fn gt(&self, other: &Tensor) -> Tensor {
        1.0 - other.ge(self)
    }
    /// `a` where this tensor of integers 0 or 1 is 1, `b` where it is 0. One
    /// product per element.
    pub fn select(&self, a: &Tensor, b: &Tensor) -> Tensor {
        let (a, b) = (a.reading_like(b), b.reading_like(a));
        let shape = broadcast(a.shape(), b.shape()).and_then(|shape| broadcast(&shape, self.shape()));
        let shape = shape.unwrap_or_else(|| self.shape().clone());
        let operands = [self, &a, &b].map(|x| x.stretched(&shape));
        match self.builder.ids("select", &[&operands[0], &operands[1], &operands[2]]) {
            Some(ids) => self.emit(Op::Select { c: ids[0], a: ids[1], b: ids[2] }),
            None => self.builder.poisoned(),
        }
    }
    /// Asserts a range, in real units, that interval analysis cannot show.
    ///
    /// The assertion is part of the digest, plans print it, and **the result is
    /// correct only if it holds**: values outside go undetected. A dry run
    /// reports the largest value seen at each declaration.
    pub fn declare(&self, name: &str, range: RangeInclusive<f64>) -> Tensor {
        let ty = self.ty();
        let declared = if ty.fixed {
            Type::fixed_bits(ty.frac, range)
        } else {
            if let Some(value) = [*range.start(), *range.end()].into_iter().find(|v| v.fract() != 0.0) {
                let expected = "integer bounds for an integer tensor".into();
                return self.builder.fail(ProgramError::Public { op: "declare", value, expected });
            }
            Type::int(*range.start() as i64..=*range.end() as i64)
        };
        let claimed = Signature { ty: declared, shape: self.shape().clone() };
        match self.builder.ids("declare", &[self]) {
            Some(ids) => self.builder.emit(Op::Declare { x: ids[0], name: name.into() }, claimed),
            None => self.builder.poisoned(),
        }
    }
    /// The value as fixed point with `frac` fractional bits: exact to more
    /// bits, one truncation per element to fewer.
    pub fn rescale(&self, frac: u8) -> Tensor {
        if self.ty().fixed && self.ty().frac == frac { self.clone() } else { self.one(|x| Op::Rescale { x, frac }) }
    }

    pub(super) fn one(&self, op: impl FnOnce(ValueId) -> Op) -> Tensor {
        match self.builder.ids("operation", &[self]) {
            Some(ids) => self.emit(op(ids[0])),
            None => self.builder.poisoned(),
        }
    }

    pub(super) fn both(&self, name: &'static str, other: &Tensor, op: impl FnOnce(ValueId, ValueId) -> Op) -> Tensor {
        match self.builder.ids(name, &[self, other]) {
            Some(ids) => self.emit(op(ids[0], ids[1])),
            None => self.builder.poisoned(),
        }
    }

    fn elementwise(&self, name: &'static str, other: &Tensor, op: impl FnOnce(ValueId, ValueId) -> Op) -> Tensor {
        match broadcast(self.shape(), other.shape()) {
            Some(shape) => self.stretched(&shape).both(name, &other.stretched(&shape), op),
            // the checker says what does not fit
            None => self.both(name, other, op),
        }
    }

    /// Emits an operation whose signature is derived from its operands alone.
    fn emit(&self, op: Op) -> Tensor {
        self.builder.emit(op, Signature::clone(&self.signature))
    }

    fn reshaped(&self, name: &'static str, dims: Vec<usize>, op: fn(ValueId) -> Op) -> Tensor {
        match (self.id, Shape::new(dims)) {
            (None, _) => self.builder.poisoned(),
            (Some(id), Ok(shape)) => self.builder.emit(op(id), Signature { ty: self.ty(), shape }),
            (_, Err(error)) => {
                let (operands, expected) = (self.signature.to_string(), error.to_string());
                self.builder.fail(ProgramError::Operands { op: name, operands, expected })
            }
        }
    }

    fn stretched(&self, shape: &Shape) -> Tensor {
        if self.shape() == shape { self.clone() } else { self.broadcast(shape.dims()) }
    }

    /// An integer beside a fixed-point number becomes one.
    fn reading_like(&self, other: &Tensor) -> Tensor {
        if other.ty().fixed && !self.ty().fixed { self.rescale(other.ty().frac) } else { self.clone() }
    }

    /// What it is, for messages.
    pub(super) fn described(&self) -> String {
        self.signature.to_string()
    }

    /// A public scaled value, read like this tensor, in another shape.
    pub(super) fn filled(&self, value: i64, dims: Vec<usize>) -> Tensor {
        match (self.id, Shape::new(dims)) {
            (None, _) => self.builder.poisoned(),
            (Some(_), Ok(shape)) => {
                let ty = Type { lo: value, hi: value, ..self.ty() };
                self.builder.emit(Op::Constant { values: vec![value] }, Signature { ty, shape })
            }
            (_, Err(error)) => {
                let (operands, expected) = (self.signature.to_string(), error.to_string());
                self.builder.fail(ProgramError::Operands { op: "constant", operands, expected })
            }
        }
    }

    /// A public number in this tensor's shape and fractional bits.
    fn public(&self, op: &'static str, value: f64) -> Tensor {
        if self.id.is_none() {
            return self.builder.poisoned();
        }
        let everything = Type { lo: -BOUND, hi: BOUND - 1, ..self.ty() };
        match everything.scaled(value) {
            Some(v) => {
                let ty = Type { lo: v, hi: v, ..everything };
                let claimed = Signature { ty, shape: self.shape().clone() };
                self.builder.emit(Op::Constant { values: vec![v] }, claimed)
            }
            None => {
                let expected = format!("a number that {everything} can hold: rescale integers to fixed point first");
                self.builder.fail(ProgramError::Public { op, value, expected })
            }
        }
    }

    fn scale(&self, factor: f64) -> Tensor {
        if self.id.is_none() {
            return self.builder.poisoned();
        }
        match scale_factor(factor, self.ty()) {
            Some((mantissa, shift)) => self.one(|x| Op::ScaleBy { x, mantissa, shift }),
            None => {
                let expected = format!(
                    "a finite number whose product with {} stays below 2^59 scaled, an integer if that is one",
                    self.signature
                );
                self.builder.fail(ProgramError::Public { op: "scale", value: factor, expected })
            }
        }
    }
}

/// Most significant bits kept of a public factor that is not exact.
const FACTOR_BITS: u32 = 24;
/// Fewest bits of a factor that is not exact: its relative error stays at most 2^−17.
const FACTOR_BITS_LEAST: u32 = 17;

/// `value` as mantissa / 2^shift, in integer arithmetic so that it is the same
/// everywhere. Exact with the least shift if the mantissa has at most 24 bits;
/// otherwise rounded to 24 bits, fewer where the product with `ty` would not
/// fit, never below 17: a relative error of at most 2^−17, or less than one
/// unit in the last place of the product where the shift is at its cap.
fn scale_factor(value: f64, ty: Type) -> Option<(i64, u8)> {
    if !value.is_finite() {
        return None;
    }
    if value == 0.0 {
        return Some((0, 0));
    }
    let bits = value.to_bits();
    let (exponent, fraction) = ((bits >> 52 & 0x7ff) as i32, bits & ((1 << 52) - 1));
    let (mut mantissa, mut exponent) =
        if exponent == 0 { (fraction, -1074) } else { (fraction | 1 << 52, exponent - 1075) };
    exponent += mantissa.trailing_zeros() as i32;
    mantissa >>= mantissa.trailing_zeros();
    let signed = |m: u64, shift: u32| {
        let largest = u128::from(ty.lo.unsigned_abs().max(ty.hi.unsigned_abs()));
        let fits = u128::from(m) * largest < BOUND as u128 && m < BOUND as u64;
        let m = if value < 0.0 { -(m as i64) } else { m as i64 };
        fits.then_some((m, shift as u8))
    };
    if exponent >= 0 {
        let room = mantissa.leading_zeros() as i32;
        return if exponent < room { signed(mantissa << exponent, 0) } else { None };
    }
    if !ty.fixed {
        return None;
    }
    let (length, shift) = (u64::BITS - mantissa.leading_zeros(), exponent.unsigned_abs());
    let least_drop = shift.saturating_sub(MAX_SHIFT.into());
    (FACTOR_BITS_LEAST..=FACTOR_BITS).rev().find_map(|kept| {
        let drop = length.saturating_sub(kept).max(least_drop).min(shift);
        match drop {
            0 => signed(mantissa, shift),
            1..=63 if mantissa >> (drop - 1) > 0 => signed((mantissa + (1 << (drop - 1))) >> drop, shift - drop),
            _ => Some((0, 0)),
        }
    })
}

impl Neg for &Tensor {
    type Output = Tensor;
    fn neg(self) -> Tensor {
        self.one(Op::Neg)
    }
}
impl Neg for Tensor {
    type Output = Tensor;
    fn neg(self) -> Tensor {
        -&self
    }
}

impl Tensor {
    fn plus(&self, other: &Tensor) -> Tensor {
        self.reading_like(other).elementwise("add", &other.reading_like(self), Op::Add)
    }
    fn minus(&self, other: &Tensor) -> Tensor {
        self.reading_like(other).elementwise("sub", &other.reading_like(self), Op::Sub)
    }
    fn times(&self, other: &Tensor) -> Tensor {
        self.elementwise("mul", other, Op::Mul)
    }
}

/// `+`, `-`, `*` between handles, owned or borrowed.
macro_rules! between_tensors {
    ($($trait:ident $method:ident $inner:ident)*) => {$(
        between_tensors!(@ $trait $method $inner, Tensor, Tensor);
        between_tensors!(@ $trait $method $inner, Tensor, &Tensor);
        between_tensors!(@ $trait $method $inner, &Tensor, Tensor);
        between_tensors!(@ $trait $method $inner, &Tensor, &Tensor);
    )*};
    (@ $trait:ident $method:ident $inner:ident, $a:ty, $b:ty) => {
        impl $trait<$b> for $a {
            type Output = Tensor;
            fn $method(self, other: $b) -> Tensor {
                self.$inner(&other)
            }
        }
    };
}
between_tensors!(Add add plus  Sub sub minus  Mul mul times);

/// Operators with a public number on either side.
macro_rules! with_numbers {
    ($($a:ty)*) => {$(
        impl Add<f64> for $a {
            type Output = Tensor;
            fn add(self, value: f64) -> Tensor {
                self.plus(&self.public("add", value))
            }
        }
        impl Sub<f64> for $a {
            type Output = Tensor;
            fn sub(self, value: f64) -> Tensor {
                self.minus(&self.public("sub", value))
            }
        }
        impl Mul<f64> for $a {
            type Output = Tensor;
            fn mul(self, value: f64) -> Tensor {
                self.scale(value)
            }
        }
        /// By a public number: the product with its reciprocal.
        impl Div<f64> for $a {
            type Output = Tensor;
            fn div(self, value: f64) -> Tensor {
                self.scale(1.0 / value)
            }
        }
        impl Add<$a> for f64 {
            type Output = Tensor;
            fn add(self, tensor: $a) -> Tensor {
                tensor + self
            }
        }
        impl Sub<$a> for f64 {
            type Output = Tensor;
            fn sub(self, tensor: $a) -> Tensor {
                tensor.public("sub", self).minus(&tensor)
            }
        }
        impl Mul<$a> for f64 {
            type Output = Tensor;
            fn mul(self, tensor: $a) -> Tensor {
                tensor * self
            }
        }
    )*};
}
with_numbers!(Tensor & Tensor);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fixed(b: &Builder, name: &str, shape: &[usize]) -> Tensor {
        b.input(name, "alice", Type::fixed(-8.0..=8.0), shape)
    }

    fn refused(f: impl FnOnce(&Builder) -> Tensor) -> String {
        let b = Builder::new();
        let x = f(&b);
        b.output("x", "alice", &(x * 2.0));
        b.finish().unwrap_err().to_string()
    }

    #[test]
    fn operators_broadcast_and_derive_ranges() {
        let b = Builder::new();
        let x = fixed(&b, "x", &[2, 3]);
        let y = fixed(&b, "y", &[3]);
        let sum = &x + &y;
        assert_eq!((sum.shape().dims(), sum.ty()), (&[2, 3][..], Type::fixed(-16.0..=16.0)));
        let product = &x * &y;
        assert_eq!(product.ty(), Type { lo: -64 << 16, hi: (64 << 16) + 1, ..x.ty() });
        assert_eq!(x.square().ty().lo, 0);
        assert_eq!(x.matmul(&y).shape().dims(), [2]);
        assert_eq!(y.matmul(&y).shape().dims(), [] as [usize; 0]);
        assert_eq!(y.matmul(&x.t()).shape().dims(), [2]);
        assert_eq!(x.t().matmul(&x).shape().dims(), [3, 3]);
        assert_eq!(x.sum(0).ty(), Type::fixed(-16.0..=16.0));
        assert_eq!(x.sum_all().shape().dims(), [] as [usize; 0]);
        assert_eq!(x.lt(&y).ty(), Type::bit());
        assert_eq!((1.0 - &x).ty(), Type::fixed(-7.0..=9.0));
        let integer = b.integers(&[3], Type::int(0..=5), [3]);
        assert_eq!((&y + &integer).ty(), Type::fixed(-8.0..=13.0));
        assert_eq!((&y * &integer).ty(), Type::fixed(-40.0..=40.0));
        assert_eq!(b.concat(&[&integer, &y], 0).shape().dims(), [6]);
        assert_eq!(x.ge0().select(&x, &integer).ty(), Type::fixed(-8.0..=8.0));
        b.output("product", "alice", &product);
        b.finish().unwrap();
    }

    #[test]
    fn misuse_is_one_clear_line() {
        for (message, words) in [
            (refused(|b| fixed(b, "x", &[2]) + fixed(b, "y", &[3])), "add of [2] of fixed16 in -8..=8 and [3]"),
            (refused(|b| fixed(b, "x", &[2, 3]).matmul(&fixed(b, "y", &[2, 3]))), "[m, k] × [k, n]"),
            (refused(|b| b.input("x", "a", Type::fixed(-1e6..=1e6), [2]).square()), "declare a smaller range"),
            (refused(|b| b.input("x", "a", Type::fixed(-1e20..=1e6), [2])), "2^59"),
            (refused(|b| fixed(b, "x", &[2]) + fixed(b, "x", &[2])), "each input once"),
            (refused(|b| fixed(b, "", &[2])), "1 to 256 bytes"),
            (refused(|b| fixed(b, "x", &[0])), "none 0"),
            (refused(|b| b.integers(&[1], Type::int(0..=9), [2]) * 0.5), "an integer if that is one"),
            (refused(|b| fixed(b, "x", &[2]) * f64::NAN), "finite"),
            (refused(|b| fixed(b, "x", &[2]) + 1e300), "a number that fixed16"),
            (refused(|b| b.constant(&[2.0], Type::fixed(-1.0..=1.0), [2])), "public number 2 "),
            (refused(|b| b.constant(&[1.0, 1.0], Type::fixed(-1.0..=1.0), [3])), "one per element"),
            (refused(|b| fixed(b, "x", &[2]).select(&fixed(b, "y", &[2]), &fixed(b, "z", &[2]))), "integers 0 or 1"),
            (refused(|b| fixed(b, "x", &[2]).slice(0, 1..3)), "within axis 0"),
            (refused(|b| fixed(b, "x", &[2]).rescale(8) + fixed(b, "y", &[2])), "rescale one of them"),
            (refused(|b| b.concat(&[], 0)), "at least one tensor"),
            (refused(|b| fixed(b, "x", &[2, 3]).patches(Window::tiles(1))), "[batch, channels, rows, columns]"),
            (refused(|b| fixed(b, "x", &[1, 1, 2, 2]).patches(Window::tiles(0))), "a window with words"),
            (refused(|b| fixed(b, "x", &[1, 1, 2, 2]).patches(Window::tiles(3))), "that moves and fits"),
            (refused(|b| fixed(b, "x", &[1, 1, 2, 2]).patches(Window::sliding(1, usize::MAX))), "that moves and fits"),
            (refused(|b| fixed(b, "x", &[1, 1, 2, 2]).patches(Window::sliding(1, 1 << 28))), "a usable result"),
            (refused(|b| b.random(Type { lo: 2, ..Type::bit() }, [1])), "a range that is not empty"),
            (refused(|b| b.random(Type::bit(), [0])), "none 0"),
            (refused(|_| fixed(&Builder::new(), "y", &[2])), "different builders"),
        ] {
            assert!(message.contains(words), "{message}");
            assert!(!message.contains('\n'));
        }
        let empty = Builder::new();
        fixed(&empty, "x", &[1]);
        assert!(matches!(empty.finish(), Err(ProgramError::NoOutputs)));
    }

    #[test]
    fn carried_states_stay_in_their_range_or_are_declared() {
        let train = |declared: bool| {
            let b = Builder::new();
            let x = fixed(&b, "x", &[3]);
            let start = b.constant(&[0.0], Type::fixed(-4.0..=4.0), [3]);
            let (ends, curve) = b.repeat(5, &[start], |_, states| {
                let next = &states[0] + &x * 0.01;
                let next = if declared { next.declare("w", -4.0..=4.0) } else { next };
                (vec![next.clone()], vec![next])
            });
            assert_eq!(ends.len() + curve.len(), 2);
            b.output("w", "alice", &ends[0]);
            b.output("curve", "alice", &curve[0]);
            b.finish()
        };
        let program = train(true).unwrap();
        assert_eq!(program.nodes().last().unwrap().defines[1].shape.dims(), [5, 3]);
        let message = train(false).unwrap_err().to_string();
        assert!(message.contains("state 0") && message.contains("declare"), "{message}");
    }

    #[test]
    fn a_body_keeps_its_values() {
        let message = refused(|b| {
            let x = fixed(b, "x", &[2]);
            let mut leaked = None;
            b.repeat(2, std::slice::from_ref(&x), |_, states| {
                leaked = Some(-&states[0]);
                (vec![states[0].clone()], vec![])
            });
            leaked.unwrap() + x
        });
        assert!(message.contains("collect it"), "{message}");
        let message = refused(|b| {
            b.repeat(2, &[], |b, _| (vec![], vec![fixed(b, "x", &[2])]));
            fixed(b, "y", &[2])
        });
        assert!(message.contains("outside every repeat"), "{message}");
        let message = refused(|b| {
            b.repeat(2, &[], |b, _| {
                b.output("early", "alice", &b.integers(&[1], Type::bit(), []));
                (vec![], vec![])
            });
            fixed(b, "y", &[2])
        });
        assert!(message.contains("collect the value"), "{message}");
        let message = refused(|b| {
            let x = fixed(b, "x", &[2]);
            b.repeat(2, std::slice::from_ref(&x), |_, _| (vec![], vec![]));
            x
        });
        assert!(message.contains("1 results, one per state"), "{message}");
        assert!(
            refused(|b| b.repeat(0, &[fixed(b, "x", &[2])], |_, s| (s.to_vec(), vec![])).0.remove(0))
                .contains("0 iterations")
        );
    }

    #[test]
    fn repeats_nest_up_to_the_cap() {
        fn nest(b: &Builder, x: &Tensor, depth: usize) -> Tensor {
            if depth == 0 {
                return x.clone();
            }
            b.repeat(2, std::slice::from_ref(x), |b, states| (vec![nest(b, &states[0], depth - 1)], vec![])).0.remove(0)
        }
        for depth in [8, 9] {
            let b = Builder::new();
            b.output("x", "alice", &nest(&b, &fixed(&b, "x", &[2]), depth));
            assert_eq!(b.finish().is_ok(), depth == 8);
        }
    }

    #[test]
    fn factors_are_exact_where_they_can_be() {
        let ty = Type::fixed(-8.0..=8.0);
        assert_eq!(scale_factor(0.0, ty), Some((0, 0)));
        assert_eq!(scale_factor(3.0, ty), Some((3, 0)));
        assert_eq!(scale_factor(-0.375, ty), Some((-3, 3)));
        assert_eq!(scale_factor(1e-300, ty), Some((0, 0)));
        assert_eq!(scale_factor(f64::MIN_POSITIVE / 4.0, ty), Some((0, 0)));
        assert_eq!(scale_factor(1e30, ty), None);
        assert_eq!(scale_factor(0.1, Type::fixed(-1e12..=1e12)), None);
        assert_eq!(scale_factor(0.5, Type::bit()), None);
        assert_eq!(scale_factor(5.0, Type::bit()), Some((5, 0)));
    }

    proptest! {
        #[test]
        fn factors_are_close_and_fit(value in prop_oneof![-1e6f64..1e6, -1.0..1.0, -1e-9..1e-9], bits in 0u32..40) {
            let largest = 1i64 << bits;
            let ty = Type { frac: 16, fixed: true, lo: -largest, hi: largest };
            if let Some((mantissa, shift)) = scale_factor(value, ty) {
                prop_assert!(i128::from(mantissa).abs() * i128::from(largest) < i128::from(BOUND));
                let found = mantissa as f64 / (1u64 << shift) as f64;
                let close = (found - value).abs() < value.abs() / 65536.0;
                let below_an_ulp = (found - value).abs() * (largest as f64) < 1.0;
                prop_assert!(close || below_an_ulp, "{value} became {mantissa} / 2^{shift}");
            } else {
                prop_assert!(value.abs() * largest as f64 > (BOUND >> 20) as f64);
            }
        }
    }
}
