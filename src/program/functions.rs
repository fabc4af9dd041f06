//! Operations that are made of others: comparisons, logic, minima and maxima,
//! functions of one variable, order.
//!
//! Each says its range, its cost and its error. *Comparison* means one masked
//! opening and a tree of products over the digits of the operand's range (11
//! products in 3 rounds at 31 bits); *product*, one opening on rosters with local
//! products. Costs are for each element.

use std::ops::RangeInclusive;

use super::builder::Tensor;
use super::error::ProgramError;
use super::graph::{Op, Type};
use super::octaves::Octaves;
use super::table::{self, Function, NoTable};
use super::types::BOUND;

/// Which of two is kept.
#[derive(Clone, Copy)]
enum Keep {
    Greater,
    Less,
}

impl Tensor {
    // --- comparisons and logic ----------------------------------------------

    /// \[self ≥ T\] as integers 0 or 1 for ascending public thresholds T in real
    /// units, stacked along a new first axis if there are several. They share
    /// one masked opening, and the digits below those that differ.
    pub fn at_least(&self, thresholds: &[f64]) -> Tensor {
        match self.scaled("at_least", thresholds) {
            Some(thresholds) => self.one(|x| Op::AtLeast { x, thresholds }),
            None => self.builder().poisoned(),
        }
    }
    /// Which of the intervals between ascending public thresholds the value lies
    /// in: one-hot integers along a new first axis, one longer than the
    /// thresholds. Costs the same as [`Tensor::at_least`].
    pub fn between(&self, thresholds: &[f64]) -> Tensor {
        match self.scaled("between", thresholds) {
            Some(thresholds) => self.one(|x| Op::Between { x, thresholds }),
            None => self.builder().poisoned(),
        }
    }
    /// \[self = other\] as an integer 0 or 1: of fixed-point numbers, whether
    /// all their bits are equal. Costs one opening and two comparisons' trees.
    pub fn eq(&self, other: &Tensor) -> Tensor {
        let difference = self - other;
        let dims = difference.shape().dims().to_vec();
        difference.one(|x| Op::Between { x, thresholds: vec![0, 1] }).slice(0, 1..2).reshape(dims)
    }
    /// \[self ≠ other\]. As [`Tensor::eq`].
    pub fn ne(&self, other: &Tensor) -> Tensor {
        self.eq(other).not()
    }
    /// 1 − self, for integers 0 or 1. Local.
    pub fn not(&self) -> Tensor {
        1.0 - self
    }
    /// Logical and of integers 0 or 1. One product.
    pub fn and(&self, other: &Tensor) -> Tensor {
        self * other
    }
    /// Logical or of integers 0 or 1. One product.
    pub fn or(&self, other: &Tensor) -> Tensor {
        (self.not() * other.not()).not()
    }
    /// Exclusive or of integers 0 or 1. One product.
    pub fn xor(&self, other: &Tensor) -> Tensor {
        self.select(&other.not(), other)
    }

    // --- ranges, minima and maxima --------------------------------------------

    /// The nearest value within a range, in real units. One opening, a
    /// comparison's tree for each end that the operand's range passes, and as
    /// many products in one round. The result's range is known.
    pub fn clamp(&self, range: RangeInclusive<f64>) -> Tensor {
        match self.scaled("clamp", &[*range.start(), *range.end()]).as_deref() {
            Some(&[lo, hi]) => self.one(|x| Op::Clamp { x, lo, hi }),
            _ => self.builder().poisoned(),
        }
    }
    /// max(self, 0). One comparison and one product.
    pub fn relu(&self) -> Tensor {
        let hi = self.ty().hi.max(0);
        self.one(|x| Op::Clamp { x, lo: 0, hi })
    }
    /// |self|: one comparison and one product. The result's range is known only
    /// as ± the greatest magnitude.
    pub fn abs(&self) -> Tensor {
        self.ge0().select(self, &-self)
    }
    /// The greater of two. One comparison and one product.
    pub fn max(&self, other: &Tensor) -> Tensor {
        self.ge(other).select(self, other)
    }
    /// The lesser of two. One comparison and one product.
    pub fn min(&self, other: &Tensor) -> Tensor {
        self.ge(other).select(other, self)
    }
    /// The greatest along an axis, which is removed: a tournament of
    /// ceil(log2 k) levels, k − 1 comparisons and products.
    pub fn max_along(&self, axis: usize) -> Tensor {
        self.tournament(axis, Keep::Greater, None).0
    }
    /// The least along an axis, which is removed. As [`Tensor::max_along`].
    pub fn min_along(&self, axis: usize) -> Tensor {
        self.tournament(axis, Keep::Less, None).0
    }
    /// The index of the greatest along an axis, which is removed; the first of
    /// several. As [`Tensor::max_along`], with a product more.
    pub fn argmax(&self, axis: usize) -> Tensor {
        let Some(&k) = self.shape().dims().get(axis) else { return self.sum(axis) };
        let mut dims = vec![1; self.shape().dims().len()];
        dims[axis] = k;
        let (indices, last) = ((0..k as i64).collect::<Vec<_>>(), k as i64 - 1);
        let indices = self.builder().integers(&indices, Type::int(0..=last), dims);
        let indices = indices.broadcast(self.shape().dims());
        self.tournament(axis, Keep::Greater, Some(indices)).1.unwrap_or_else(|| self.builder().poisoned())
    }

    /// Winners along an axis, and what they carry.
    fn tournament(&self, axis: usize, keep: Keep, carried: Option<Tensor>) -> (Tensor, Option<Tensor>) {
        let (mut values, mut carried) = (self.clone(), carried);
        let Some(&length) = self.shape().dims().get(axis) else { return (self.sum(axis), None) };
        let mut length = length;
        while length > 1 {
            let half = length / 2;
            let halves = |x: &Tensor| (x.slice(axis, 0..half), x.slice(axis, half..2 * half));
            let (left, right) = halves(&values);
            // The left one stays if they are equal: the first index wins.
            let stays = match keep {
                Keep::Greater => left.ge(&right),
                Keep::Less => left.le(&right),
            };
            let joined = |x: &Tensor, won: Tensor| match length % 2 {
                0 => won,
                _ => x.builder().concat(&[&won, &x.slice(axis, length - 1..length)], axis),
            };
            carried = carried.map(|x| {
                let (left, right) = halves(&x);
                joined(&x, stays.select(&left, &right))
            });
            values = joined(&values, stays.select(&left, &right));
            length = half + length % 2;
        }
        (values.sum(axis), carried.map(|x| x.sum(axis)))
    }

    /// The elements along the last axis in ascending order: a bitonic network
    /// (Batcher, AFIPS 1968) of log2 k·(log2 k + 1)/2 levels for k, rounded up to
    /// a power of two; a comparison and two products for half of the elements in
    /// each level.
    pub fn sort(&self) -> Tensor {
        let Some((&k, outer)) = self.shape().dims().split_last() else { return self.clone() };
        let outer: usize = outer.iter().product();
        let width = k.next_power_of_two();
        let mut rows = self.reshape([outer, k]);
        if width > k {
            // The greatest of its type: it stays at the end.
            let fill = self.filled(self.ty().hi, vec![outer, width - k]);
            rows = self.builder().concat(&[&rows, &fill], 1);
        }
        let mut block = 2;
        while block <= width {
            let mut step = block / 2;
            while step > 0 {
                rows = exchange(&rows, outer, width, block, step);
                step /= 2;
            }
            block *= 2;
        }
        rows.slice(1, 0..k).reshape(self.shape().dims())
    }
    /// The `count` greatest along the last axis, the greatest first.
    pub fn top_k(&self, count: usize) -> Tensor {
        let Some(&k) = self.shape().dims().last() else { return self.clone() };
        let axis = self.shape().dims().len() - 1;
        let sorted = self.sort();
        let picked: Vec<_> = (0..count.min(k)).map(|i| sorted.slice(axis, k - 1 - i..k - i)).collect();
        self.builder().concat(&picked.iter().collect::<Vec<_>>(), axis)
    }

    /// Public zeros in another shape, read like this tensor.
    pub fn zeros(&self, shape: impl Into<Vec<usize>>) -> Tensor {
        self.filled(0, shape.into())
    }

    // --- arithmetic -------------------------------------------------------------

    /// The variance along an axis, which is removed: the mean of the squared
    /// distances from the mean. Fixed point only.
    pub fn var(&self, axis: usize) -> Tensor {
        let mut dims = self.shape().dims().to_vec();
        if axis >= dims.len() {
            return self.sum(axis);
        }
        dims[axis] = 1;
        let centred = self - self.mean(axis).reshape(dims);
        centred.square().mean(axis)
    }
    /// The integer quotient, rounded down, by a public integer d ≥ 1: exact.
    /// Comparisons with up to 64 thresholds for each factor of 64 that the range
    /// has over d.
    pub fn floor_div(&self, d: i64) -> Tensor {
        if self.ty().fixed || d < 1 {
            let expected = "an integer tensor and a divisor of at least 1".into();
            return self.builder().fail(ProgramError::Public { op: "floor_div", value: d as f64, expected });
        }
        let (first, last) = (self.ty().lo.div_euclid(d), self.ty().hi.div_euclid(d));
        if last - first < FAN_OUT {
            return self.digit(first, last, d);
        }
        match d.checked_mul(FAN_OUT) {
            Some(wide) if wide < BOUND => {
                // self = 64·d·q + rest, 0 ≤ rest < 64·d.
                let q = self.floor_div(wide);
                let rest = self - &q * wide as f64;
                &q * FAN_OUT as f64 + rest.digit(0, FAN_OUT - 1, d)
            }
            _ => self.digit(first, last, d),
        }
    }
    /// self − d·⌊self/d⌋ for a public integer d ≥ 1: exact, in 0..d. Costs a
    /// comparison more than [`Tensor::floor_div`], to show its range.
    pub fn modulo(&self, d: i64) -> Tensor {
        (self - self.floor_div(d) * d as f64).clamp(0.0..=(d - 1) as f64)
    }

    /// ⌊self/d⌋, known to lie in first..=last.
    fn digit(&self, first: i64, last: i64, d: i64) -> Tensor {
        let thresholds: Vec<i64> = (first + 1..=last).map(|q| q * d).collect();
        if thresholds.is_empty() {
            return self * 0.0 + first as f64;
        }
        let several = thresholds.len() > 1;
        let passed = self.one(|x| Op::AtLeast { x, thresholds });
        (if several { passed.sum(0) } else { passed }) + first as f64
    }

    /// self / other, fixed point: [`Tensor::reciprocal`] and a product.
    pub fn div(&self, other: &Tensor) -> Tensor {
        self * other.reciprocal()
    }

    // --- functions of one variable ------------------------------------------------

    /// 1 / (1 + e^−x) by 16 linear pieces on \[−8, 8\], clamped outside: at most
    /// 5.9e-3 off, with one product. Fixed point of at most 37 fractional bits.
    pub fn sigmoid(&self) -> Tensor {
        let ty = self.ty();
        if !ty.fixed || ty.frac > table::SIGMOID_MAX_FRAC {
            return self.no_table(Function::Sigmoid, "fixed point of at most 37 fractional bits");
        }
        let (function, table) = (Function::Sigmoid, table::linear_sigmoid(ty));
        self.one(|x| Op::Approximate { x, function, table })
    }
    /// A function of one variable by cubic polynomials on at most 32 pieces of
    /// the operand's *range*: declare or clamp it as narrow as it is. The error
    /// is that of the table made (its claim is part of the plan's bound, and
    /// docs/accuracy.md lists the worst for usual ranges) and a few units in
    /// the last place. One opening, a comparison's tree for each breakpoint
    /// (the digits below them are shared) and three products in three rounds.
    ///
    /// On ranges of many octaves above 0, log, reciprocal, square root and its
    /// inverse are brought to one octave first, where a table would err by more
    /// than 16 units in the last place: a comparison's tree for each power of
    /// two in the range and two products more (for the log one). With 16
    /// fractional bits that serves 2^−13 to 2^13; wider ranges are refused.
    pub fn apply(&self, function: Function) -> Tensor {
        let fitted = table::fit(function, self.ty());
        let coarse = match &fitted {
            Ok(table) => table.claimed_error() > COARSE * self.ty().ulp(),
            Err(NoTable::Coarse(_)) => true,
            Err(NoTable::Undefined) => false,
        };
        if coarse
            && let Some(octaves) = Octaves::of(function, self.ty())
            && fitted.as_ref().map_or(true, |table| octaves.error() < table.claimed_error())
        {
            return octaves.apply(self);
        }
        match fitted {
            Ok(table) => self.one(|x| Op::Approximate { x, function, table }),
            Err(NoTable::Undefined) => self.no_table(
                function,
                match function {
                    Function::Sqrt => "fixed point, its range not below 0: clamp or declare it",
                    Function::Log | Function::Reciprocal | Function::Rsqrt => {
                        "fixed point, its range above 0: clamp or declare it"
                    }
                    _ => "fixed point",
                },
            ),
            Err(NoTable::Coarse(error)) => self
                .no_table(function, &format!("a narrower range (32 pieces err by {error:.1e}): clamp or declare it")),
        }
    }
    /// tanh x. As [`Tensor::apply`].
    pub fn tanh(&self) -> Tensor {
        self.apply(Function::Tanh)
    }
    /// x·Φ(x). As [`Tensor::apply`].
    pub fn gelu(&self) -> Tensor {
        self.apply(Function::Gelu)
    }
    /// x / (1 + e^−x). As [`Tensor::apply`].
    pub fn silu(&self) -> Tensor {
        self.apply(Function::Silu)
    }
    /// e^x. As [`Tensor::apply`].
    pub fn exp(&self) -> Tensor {
        self.apply(Function::Exp)
    }
    /// ln x, for ranges above 0. As [`Tensor::apply`].
    pub fn log(&self) -> Tensor {
        self.apply(Function::Log)
    }
    /// 1/x, for ranges above 0. As [`Tensor::apply`].
    pub fn reciprocal(&self) -> Tensor {
        self.apply(Function::Reciprocal)
    }
    /// √x, for ranges from 0 on. As [`Tensor::apply`].
    pub fn sqrt(&self) -> Tensor {
        self.apply(Function::Sqrt)
    }
    /// 1/√x, for ranges above 0. As [`Tensor::apply`].
    pub fn rsqrt(&self) -> Tensor {
        self.apply(Function::Rsqrt)
    }

    fn no_table(&self, function: Function, expected: &str) -> Tensor {
        let (operands, expected) = (self.described(), expected.to_owned());
        self.builder().fail(ProgramError::Operands { op: function.name(), operands, expected })
    }

    /// Public numbers scaled like this tensor.
    fn scaled(&self, op: &'static str, values: &[f64]) -> Option<Vec<i64>> {
        let everything = Type { lo: -BOUND, hi: BOUND - 1, ..self.ty() };
        let mut scaled = Vec::with_capacity(values.len());
        for &value in values {
            match everything.scaled(value) {
                Some(v) => scaled.push(v),
                None => {
                    let expected = format!("numbers that {everything} can hold");
                    self.builder().fail(ProgramError::Public { op, value, expected });
                    return None;
                }
            }
        }
        Some(scaled)
    }
}

/// Units in the last place from which on a table gives way to octaves.
const COARSE: f64 = 16.0;
/// Quotients that one comparison tells apart.
const FAN_OUT: i64 = 64;

/// One level of a bitonic network on `[outer, width]`: elements `step` apart are
/// put in order, ascending in every other block.
fn exchange(rows: &Tensor, outer: usize, width: usize, block: usize, step: usize) -> Tensor {
    let b = rows.builder();
    let pairs = width / (2 * step);
    let nest = rows.reshape([outer, pairs, 2, step]);
    let side = |i: usize| nest.slice(2, i..i + 1).reshape([outer, pairs, step]);
    let (left, right) = (side(0), side(1));
    // Ascending where the block's number is even.
    let ascending: Vec<i64> = (0..pairs).map(|pair| i64::from((pair * 2 * step / block).is_multiple_of(2))).collect();
    let up = b.integers(&ascending, Type::bit(), [1, pairs, 1]).broadcast([outer, pairs, step]);
    // swap = [left > right] xor descending
    let greater = left.gt(&right);
    let swap = up.select(&greater, &greater.not());
    // Two selections, not one and a difference: so the range stays known.
    let [first, second] = [swap.select(&right, &left), swap.select(&left, &right)];
    let [first, second] = [first, second].map(|x| x.reshape([outer, pairs, 1, step]));
    b.concat(&[&first, &second], 2).reshape([outer, width])
}
