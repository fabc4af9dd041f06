//! One element of the field.
//!
//! Everything here runs in constant time: no branch and no index depends on a
//! value. Two exceptions look at words that are public: [`Fp61::new`] refuses
//! received ones, and [`Fp61::pow`] walks along its exponent.

use serde::{Deserialize, Serialize};
use std::ops::{Add, AddAssign, Mul, MulAssign, Neg, Sub, SubAssign};

/// The modulus, a Mersenne prime with p ≡ 3 mod 4.
pub const P: u64 = (1 << 61) - 1;

/// An element of the field of order 2^61 − 1, always canonical: in [0, p).
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, bytemuck::NoUninit)]
#[serde(try_from = "u64", into = "u64")]
#[repr(transparent)]
pub struct Fp61(u64);

/// A word that is no canonical field element.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("word {0:#x} is not a canonical field element: expected a value below 2^61 - 1")]
pub struct NotCanonical(pub u64);

impl Fp61 {
    /// 0
    pub const ZERO: Self = Self(0);
    /// 1
    pub const ONE: Self = Self(1);

    /// The element, or `None` for a word ≥ p.
    pub const fn new(word: u64) -> Option<Self> {
        if word < P { Some(Self(word)) } else { None }
    }
    /// A word that the caller knows to be below p, or will not use.
    pub(super) const fn low(word: u64) -> Self {
        Self(word & P)
    }
    /// Any word modulo p. For local values; a received word goes through
    /// [`Fp61::new`], because a peer may not choose between two names of one element.
    pub const fn reduce(word: u64) -> Self {
        // 2^61 ≡ 1. At most p + 7.
        Self::fold((word & P) + (word >> 61))
    }
    /// Any 128-bit value modulo p: a sum of up to 64 products and one word
    /// (see [`Fp61::LAZY`]) is reduced once.
    pub const fn reduce_wide(v: u128) -> Self {
        // Digits to the base 2^61: two of at most p, one of at most 63.
        let s = (v as u64 & P) + ((v >> 61) as u64 & P) + (v >> 122) as u64;
        // s ≤ 2p + 63 = 2^62 + 61, so this is at most max(p + 1, 61 + 2) = p + 1.
        Self::fold((s & P) + (s >> 61))
    }
    /// v mod p for a signed integer.
    pub const fn from_i64(v: i64) -> Self {
        // As a word, a negative v reads v + 2^64, and 2^64 ≡ 8.
        let negative = (v as u64) >> 63;
        // At most (p − 1) + p.
        Self::fold(Self::reduce(v as u64).0 + (P - 8 * negative))
    }
    /// The representative in [−(p−1)/2, (p−1)/2].
    pub const fn to_i64(self) -> i64 {
        // The difference borrows exactly when the word is past (p − 1)/2.
        let upper = ((P / 2).wrapping_sub(self.0) >> 63) as i64;
        self.0 as i64 - upper * P as i64
    }
    /// The canonical word in [0, p).
    pub const fn word(self) -> u64 {
        self.0
    }
    /// How many products of two elements a `u128` holds beside one more
    /// element: 64·(p − 1)² + (p − 1) = 2^128 − 2^69 + 2^61 + 254 < 2^128.
    pub const LAZY: usize = 64;
    /// The product as an integer, at most (p − 1)² < 2^122.
    pub const fn wide_mul(self, o: Self) -> u128 {
        self.0 as u128 * o.0 as u128
    }
    /// self·k + c with one reduction.
    pub const fn mul_add(self, k: Self, c: Self) -> Self {
        // At most (p − 1)² + (p − 1) = p(p − 1) < 2^61·(p − 1).
        Self::fold_product(self.wide_mul(k) + c.0 as u128)
    }
    /// self^e, constant time in self (the exponent is public).
    pub const fn pow(self, mut e: u64) -> Self {
        let (mut base, mut acc) = (self, Self::ONE);
        while e > 0 {
            if e & 1 == 1 {
                acc = acc.mul_add(base, Self::ZERO);
            }
            base = base.mul_add(base, Self::ZERO);
            e >>= 1;
        }
        acc
    }
    /// The inverse by Fermat's theorem; 0 has none and gives 0.
    pub const fn invert(self) -> Self {
        self.pow(P - 2)
    }

    /// The element or 0, without a branch.
    pub(crate) const fn kept_if(self, kept: bool) -> Self {
        Self(self.0 & (kept as u64).wrapping_neg())
    }
    /// A value below 2^61·(p − 1) to canonical: its high digit is at most
    /// p − 2 and its low digit at most p, so their sum is below 2p.
    const fn fold_product(v: u128) -> Self {
        Self::fold((v as u64 & P) + (v >> 61) as u64)
    }
    /// A word below 2p to canonical: subtract p, add it back under a mask if
    /// that borrowed. (2p itself would give p, which is not canonical.)
    pub(super) const fn fold(s: u64) -> Self {
        let t = s.wrapping_sub(P);
        let borrow = (t as i64 >> 63) as u64;
        Self(t.wrapping_add(P & borrow))
    }
}

/// `n` zeros, on pages that the system hands out already zeroed.
pub fn zeros(n: usize) -> Vec<Fp61> {
    // Collected in place: the allocation made by `vec!` (calloc) is kept.
    vec![0u64; n].into_iter().map(Fp61).collect()
}

// The all-zero word is 0, so a slice is wiped word by word (not byte by byte).
impl zeroize::DefaultIsZeroes for Fp61 {}

impl Add for Fp61 {
    type Output = Self;
    fn add(self, o: Self) -> Self {
        // At most 2(p − 1).
        Self::fold(self.0 + o.0)
    }
}
impl Sub for Fp61 {
    type Output = Self;
    fn sub(self, o: Self) -> Self {
        // At most (p − 1) + p.
        Self::fold(self.0 + (P - o.0))
    }
}
impl Neg for Fp61 {
    type Output = Self;
    fn neg(self) -> Self {
        // At most p, which folds to 0.
        Self::fold(P - self.0)
    }
}
impl Mul for Fp61 {
    type Output = Self;
    fn mul(self, o: Self) -> Self {
        // At most (p − 1)² < 2^61·(p − 1).
        Self::fold_product(self.wide_mul(o))
    }
}
impl AddAssign for Fp61 {
    fn add_assign(&mut self, o: Self) {
        *self = *self + o;
    }
}
impl SubAssign for Fp61 {
    fn sub_assign(&mut self, o: Self) {
        *self = *self - o;
    }
}
impl MulAssign for Fp61 {
    fn mul_assign(&mut self, o: Self) {
        *self = *self * o;
    }
}
impl std::iter::Sum for Fp61 {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::ZERO, Add::add)
    }
}
impl TryFrom<u64> for Fp61 {
    type Error = NotCanonical;
    fn try_from(word: u64) -> Result<Self, NotCanonical> {
        Self::new(word).ok_or(NotCanonical(word))
    }
}
impl From<Fp61> for u64 {
    fn from(x: Fp61) -> u64 {
        x.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::laws;
    use proptest::prelude::*;

    const EDGES: [u64; 10] = [0, 1, 2, 3, P / 2 - 1, P / 2, P / 2 + 1, P - 3, P - 2, P - 1];

    fn edges() -> Vec<Fp61> {
        EDGES.iter().map(|w| Fp61::new(*w).unwrap()).collect()
    }

    #[test]
    fn is_a_field() {
        laws::field(&edges(), (0..P).prop_map(Fp61));
    }

    #[test]
    fn agrees_with_integers() {
        laws::agrees_with_integers(&edges(), (0..P).prop_map(Fp61), |x| u128::from(x.word()), u128::from(P));
    }

    #[test]
    fn reduces_every_edge_of_the_integers() {
        let wide = u128::from(P);
        let powers = (0..128).flat_map(|b| [(1u128 << b).wrapping_sub(1), 1 << b, (1 << b) | 1]);
        let multiples = (0..70).flat_map(|k| [k * wide, k * wide + 1, (wide * wide).wrapping_mul(k).wrapping_sub(1)]);
        let largest = 64 * (wide - 1) * (wide - 1) + (wide - 1);
        for v in powers.chain(multiples).chain([largest, largest + 1, u128::MAX, u128::MAX - 1]) {
            assert_eq!(u128::from(Fp61::reduce_wide(v).word()), v % wide, "{v:#x}");
            assert_eq!(Fp61::reduce(v as u64).word(), v as u64 % P, "{v:#x}");
        }
    }

    #[test]
    fn signed_integers_go_round() {
        let half = (P / 2) as i64;
        for v in [0, 1, -1, half, -half, 1 << 59, -(1 << 59)] {
            assert_eq!(Fp61::from_i64(v).to_i64(), v);
        }
        let far = [i64::MIN, i64::MIN + 1, i64::MIN + 3, i64::MIN + 4, i64::MAX, half + 1, -half - 1, P as i64];
        for v in far {
            let expected = i128::from(v).rem_euclid(i128::from(P));
            assert_eq!(i128::from(Fp61::from_i64(v).word()), expected, "{v}");
        }
    }

    #[test]
    fn refuses_words_that_are_not_canonical() {
        for word in [P, P + 1, 1 << 61, u64::MAX] {
            assert_eq!(Fp61::new(word), None);
            assert_eq!(Fp61::try_from(word), Err(NotCanonical(word)));
            assert!(postcard::from_bytes::<Fp61>(&postcard::to_stdvec(&word).unwrap()).is_err());
            assert!(serde_json::from_str::<Fp61>(&word.to_string()).is_err());
        }
        assert_eq!(Fp61::new(P - 1).map(Fp61::word), Some(P - 1));
    }

    proptest! {
        #[test]
        fn reduces_any_integer(hi: u64, lo: u64, v: i64) {
            let wide = u128::from(hi) << 64 | u128::from(lo);
            prop_assert_eq!(u128::from(Fp61::reduce_wide(wide).word()), wide % u128::from(P));
            prop_assert_eq!(Fp61::reduce(lo).word(), lo % P);
            let expected = i128::from(v).rem_euclid(i128::from(P));
            prop_assert_eq!(i128::from(Fp61::from_i64(v).word()), expected);
        }
    }
}
