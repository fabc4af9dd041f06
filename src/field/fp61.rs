//! One element of the field.

use serde::{Deserialize, Serialize};
use std::ops::{Add, AddAssign, Mul, MulAssign, Neg, Sub, SubAssign};

/// The modulus, a Mersenne prime with p ≡ 3 mod 4.
pub const P: u64 = (1 << 61) - 1;

/// An element of the field of order 2^61 − 1, always canonical: in [0, p).
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, zeroize::Zeroize)]
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
    /// Reduces any word modulo p (for local values; never for received words).
    pub const fn reduce(word: u64) -> Self {
        Self::fold((word & P) + (word >> 61))
    }
    /// v mod p for a signed integer.
    pub const fn from_i64(v: i64) -> Self {
        // v ∈ [−2^63, 2^63) and 4p + v > 0 fits in 64 bits.
        Self::reduce((4 * P).wrapping_add(v as u64))
    }
    /// The representative in [−(p−1)/2, (p−1)/2].
    pub const fn to_i64(self) -> i64 {
        let high = ((P / 2).wrapping_sub(self.0) >> 63) as i64;
        self.0 as i64 - high * P as i64
    }
    /// The canonical word in [0, p).
    pub const fn word(self) -> u64 {
        self.0
    }
    /// `s` ≤ 2p to canonical, without a branch.
    const fn fold(s: u64) -> Self {
        let t = s.wrapping_sub(P);
        let borrow = (t as i64 >> 63) as u64;
        Self(t.wrapping_add(P & borrow))
    }
    /// Reduces a 128-bit value below 2^122 + 2^61.
    pub const fn reduce_wide(v: u128) -> Self {
        let s = (v as u64 & P) + ((v >> 61) as u64 & P) + (v >> 122) as u64;
        Self::fold((s & P) + (s >> 61))
    }
    /// self^e, constant time in self (the exponent is public).
    pub fn pow(self, mut e: u64) -> Self {
        let (mut base, mut acc) = (self, Self::ONE);
        while e > 0 {
            if e & 1 == 1 {
                acc *= base;
            }
            base *= base;
            e >>= 1;
        }
        acc
    }
    /// The inverse by Fermat's theorem; 0 has none and gives 0.
    pub fn invert(self) -> Self {
        self.pow(P - 2)
    }
}

impl Add for Fp61 {
    type Output = Self;
    fn add(self, o: Self) -> Self {
        Self::fold(self.0 + o.0)
    }
}
impl Sub for Fp61 {
    type Output = Self;
    fn sub(self, o: Self) -> Self {
        Self::fold(self.0 + (P - o.0))
    }
}
impl Neg for Fp61 {
    type Output = Self;
    fn neg(self) -> Self {
        Self::fold(P - self.0)
    }
}
impl Mul for Fp61 {
    type Output = Self;
    fn mul(self, o: Self) -> Self {
        let v = u128::from(self.0) * u128::from(o.0);
        Self::fold((v as u64 & P) + (v >> 61) as u64)
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
