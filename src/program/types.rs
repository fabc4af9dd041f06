//! Types with ranges: their constructors, and intervals of scaled integers.
//!
//! Knows nothing of operations; [`check`](super::check) applies the intervals.

use std::fmt;
use std::ops::RangeInclusive;

use super::error::ProgramError;
use super::graph::{Signature, Type};

/// Fractional bits of [`Type::fixed`].
pub const DEFAULT_FRAC: u8 = 16;
/// The most fractional bits of a type.
pub const MAX_FRAC: u8 = 40;
/// Every scaled value v of a program satisfies −BOUND ≤ v < BOUND, products
/// before their truncation included.
pub const BOUND: i64 = 1 << 59;

impl Type {
    /// Integers within a range.
    ///
    /// Constructors do not fail: a range that is empty or leaves
    /// [−2^59, 2^59) is refused by the builder where the type is first used.
    pub fn int(range: RangeInclusive<i64>) -> Self {
        Self { frac: 0, fixed: false, lo: *range.start(), hi: *range.end() }
    }
    /// Fixed-point numbers with 16 fractional bits within a range of real numbers.
    pub fn fixed(range: RangeInclusive<f64>) -> Self {
        Self::fixed_bits(DEFAULT_FRAC, range)
    }
    /// Fixed-point numbers with `frac` fractional bits (at most 40) within a
    /// range of real numbers, widened to the next multiples of 2^−frac.
    pub fn fixed_bits(frac: u8, range: RangeInclusive<f64>) -> Self {
        let scale = power_of_two(frac.into());
        let (lo, hi) = ((range.start() * scale).floor(), (range.end() * scale).ceil());
        if lo.is_nan() || hi.is_nan() {
            return Self { frac, fixed: true, lo: 1, hi: 0 };
        }
        Self { frac, fixed: true, lo: lo as i64, hi: hi as i64 }
    }
    /// The integers 0 and 1.
    pub fn bit() -> Self {
        Self::int(0..=1)
    }
    /// The value of one unit in the last place: 2^−frac.
    pub fn ulp(self) -> f64 {
        power_of_two(-i32::from(self.frac))
    }
    /// The range in real units.
    pub fn range(self) -> RangeInclusive<f64> {
        self.lo as f64 * self.ulp()..=self.hi as f64 * self.ulp()
    }
    /// Whether both read words alike: equal fractional bits, both integers or
    /// both fixed point.
    pub fn reads_like(self, other: Self) -> bool {
        self.frac == other.frac && self.fixed == other.fixed
    }
    /// Whether every value of this type is one of `other`.
    pub fn fits(self, other: Self) -> bool {
        self.reads_like(other) && other.lo <= self.lo && self.hi <= other.hi
    }
    /// The scaled integer nearest to a real number, or `None` if it is not
    /// finite, outside the type's range, or (for an integer type) not an integer.
    pub fn scaled(self, value: f64) -> Option<i64> {
        let scaled = (value / self.ulp()).round();
        let exact = self.fixed || scaled == value;
        // BOUND is a power of two, so the comparison in f64 is exact
        let near = scaled.abs() <= BOUND as f64;
        (near && exact && (self.lo..=self.hi).contains(&(scaled as i64))).then_some(scaled as i64)
    }
    /// The type with the range of an interval.
    pub(super) fn with(self, interval: Interval) -> Option<Self> {
        let (lo, hi) = interval.bounded()?;
        Some(Self { lo, hi, ..self })
    }
    /// Refuses types with an empty or too wide range or too many fractional bits.
    pub(super) fn check(self, op: &'static str) -> Result<(), ProgramError> {
        let expected = if self.frac > MAX_FRAC || (!self.fixed && self.frac > 0) {
            "at most 40 fractional bits, 0 for integers"
        } else if self.lo > self.hi {
            "a range that is not empty"
        } else if Interval::of(self).bounded().is_none() {
            "a range within −2^59..2^59 after scaling by 2^(fractional bits)"
        } else {
            return Ok(());
        };
        Err(ProgramError::Type { op, found: self.to_string(), expected })
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.fixed {
            let range = self.range();
            write!(f, "fixed{} in {}..={}", self.frac, range.start(), range.end())
        } else {
            write!(f, "int in {}..={}", self.lo, self.hi)
        }
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.shape, self.ty)
    }
}

/// 2^e for |e| ≤ 255, exact on every machine.
fn power_of_two(e: i32) -> f64 {
    f64::from_bits(((1023 + e) as u64) << 52)
}

/// All scaled integers that a value may take. Arithmetic is exact while bounds
/// stay below 2^127 and saturates there, which [`Interval::bounded`] refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Interval {
    pub lo: i128,
    pub hi: i128,
}

impl Interval {
    pub fn of(ty: Type) -> Self {
        Self { lo: ty.lo.into(), hi: ty.hi.into() }
    }
    pub fn point(v: i64) -> Self {
        Self { lo: v.into(), hi: v.into() }
    }
    /// The bounds, if all values lie in [−2^59, 2^59).
    pub fn bounded(self) -> Option<(i64, i64)> {
        let bound = i128::from(BOUND);
        (-bound <= self.lo && self.lo <= self.hi && self.hi < bound).then_some((self.lo as i64, self.hi as i64))
    }
    pub fn add(self, b: Self) -> Self {
        Self { lo: self.lo.saturating_add(b.lo), hi: self.hi.saturating_add(b.hi) }
    }
    pub fn sub(self, b: Self) -> Self {
        Self { lo: self.lo.saturating_sub(b.hi), hi: self.hi.saturating_sub(b.lo) }
    }
    pub fn mul(self, b: Self) -> Self {
        let corners = [
            self.lo.saturating_mul(b.lo),
            self.lo.saturating_mul(b.hi),
            self.hi.saturating_mul(b.lo),
            self.hi.saturating_mul(b.hi),
        ];
        Self { lo: *corners.iter().min().expect("four corners"), hi: *corners.iter().max().expect("four corners") }
    }
    /// A value times itself: never negative.
    pub fn square(self) -> Self {
        let hi = self.lo.saturating_mul(self.lo).max(self.hi.saturating_mul(self.hi));
        let least = if self.lo > 0 { self.lo } else { self.hi.min(0) };
        Self { lo: least.saturating_mul(least), hi }
    }
    /// The sum of `k` ≥ 1 independent values of the interval.
    pub fn times(self, k: usize) -> Self {
        let k = k as i128;
        Self { lo: self.lo.saturating_mul(k), hi: self.hi.saturating_mul(k) }
    }
    pub fn hull(self, b: Self) -> Self {
        Self { lo: self.lo.min(b.lo), hi: self.hi.max(b.hi) }
    }
    /// More fractional bits: exact.
    pub fn up(self, bits: u8) -> Self {
        self.mul(Self { lo: 1 << bits, hi: 1 << bits })
    }
    /// Truncation by `bits` as the protocol rounds: floor(x / 2^bits), or one
    /// more. By 0 bits nothing happens.
    pub fn truncated(self, bits: u8) -> Self {
        if bits == 0 {
            return self;
        }
        Self { lo: self.lo >> bits, hi: (self.hi >> bits) + 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn constructors_say_what_they_scale() {
        assert_eq!(Type::fixed(-8.0..=8.0), Type { frac: 16, fixed: true, lo: -8 << 16, hi: 8 << 16 });
        assert_eq!(Type::fixed_bits(1, 0.3..=0.7), Type { frac: 1, fixed: true, lo: 0, hi: 2 });
        assert_eq!(Type::bit(), Type::int(0..=1));
        assert_eq!(Type::fixed(-8.0..=8.0).to_string(), "fixed16 in -8..=8");
    }

    #[test]
    fn unusable_types_are_refused() {
        for (ty, word) in [
            (Type::fixed(f64::NAN..=1.0), "empty"),
            (Type::fixed(0.0..=f64::INFINITY), "2^59"),
            (Type { lo: 2, ..Type::bit() }, "empty"),
            (Type::int(0..=BOUND), "2^59"),
            (Type::int(-BOUND - 1..=0), "2^59"),
            (Type::fixed_bits(41, 0.0..=0.0), "40"),
            (Type { frac: 3, fixed: false, lo: 0, hi: 0 }, "40"),
        ] {
            let message = ty.check("input").unwrap_err().to_string();
            assert!(message.contains(word), "{message}");
        }
        Type::int(-BOUND..=BOUND - 1).check("input").unwrap();
    }

    #[test]
    fn scaling_refuses_what_does_not_fit() {
        assert_eq!(Type::fixed(-1.0..=1.0).scaled(0.5), Some(1 << 15));
        assert_eq!(Type::fixed(-1.0..=1.0).scaled(1.1), None);
        assert_eq!(Type::fixed(-1.0..=1.0).scaled(f64::NAN), None);
        assert_eq!(Type::fixed(-1.0..=1.0).scaled(f64::INFINITY), None);
        assert_eq!(Type::int(0..=9).scaled(3.0), Some(3));
        assert_eq!(Type::int(0..=9).scaled(3.5), None);
    }

    fn interval() -> impl Strategy<Value = (Interval, i64)> {
        (-100i64..100, 0i64..50, 0i64..50)
            .prop_map(|(mid, below, above)| (Interval { lo: (mid - below).into(), hi: (mid + above).into() }, mid))
    }

    proptest! {
        #[test]
        fn intervals_hold_every_result((a, x) in interval(), (b, y) in interval(), bits in 1u8..6, up in any::<bool>()) {
            let holds = |i: Interval, v: i64| i.lo <= v.into() && i128::from(v) <= i.hi;
            prop_assert!(holds(a.add(b), x + y));
            prop_assert!(holds(a.sub(b), x - y));
            prop_assert!(holds(a.mul(b), x * y));
            prop_assert!(holds(a.square(), x * x));
            prop_assert!(holds(a.hull(b), x) && holds(a.hull(b), y));
            prop_assert!(holds(a.truncated(bits), (x >> bits) + i64::from(up)));
            prop_assert!(a.square().lo >= 0);
        }
    }
}
