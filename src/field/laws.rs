//! The laws of a field, as tests that any element type runs.

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use std::fmt::Debug;

use super::Fp61;

/// What the laws speak about.
pub trait Field: Copy + Debug + PartialEq {
    const ZERO: Self;
    const ONE: Self;
    fn add(self, o: Self) -> Self;
    fn sub(self, o: Self) -> Self;
    fn neg(self) -> Self;
    fn mul(self, o: Self) -> Self;
    fn mul_add(self, k: Self, c: Self) -> Self;
    fn invert(self) -> Self;
    fn pow(self, e: u64) -> Self;
    fn order() -> u64;
}

impl Field for Fp61 {
    const ZERO: Self = Fp61::ZERO;
    const ONE: Self = Fp61::ONE;
    fn add(self, o: Self) -> Self {
        self + o
    }
    fn sub(self, o: Self) -> Self {
        self - o
    }
    fn neg(self) -> Self {
        -self
    }
    fn mul(self, o: Self) -> Self {
        self * o
    }
    fn mul_add(self, k: Self, c: Self) -> Self {
        Fp61::mul_add(self, k, c)
    }
    fn invert(self) -> Self {
        Fp61::invert(self)
    }
    fn pow(self, e: u64) -> Self {
        Fp61::pow(self, e)
    }
    fn order() -> u64 {
        super::P
    }
}

/// Runs every law on all triples of `edges` and on random triples.
pub fn field<F: Field>(edges: &[F], any: impl Strategy<Value = F> + Clone) {
    assert_ne!(F::ZERO, F::ONE);
    on_triples(edges, any, |a, b, c| {
        group(a, b, c, F::ZERO, F::add, F::neg)?;
        prop_assert_eq!(a.sub(b), a.add(b.neg()));

        prop_assert_eq!(a.mul(b), b.mul(a));
        prop_assert_eq!(a.mul(b).mul(c), a.mul(b.mul(c)));
        prop_assert_eq!(a.mul(F::ONE), a);
        prop_assert_eq!(a.mul(F::ZERO), F::ZERO);
        prop_assert_eq!(a.mul(b.add(c)), a.mul(b).add(a.mul(c)));
        prop_assert_eq!(a.mul_add(b, c), a.mul(b).add(c));

        if a == F::ZERO {
            prop_assert_eq!(a.invert(), F::ZERO);
        } else {
            prop_assert_eq!(a.mul(a.invert()), F::ONE);
            prop_assert_eq!(a.invert().invert(), a);
            prop_assert_eq!(a.pow(F::order() - 1), F::ONE);
            if b != F::ZERO {
                prop_assert_ne!(a.mul(b), F::ZERO);
            }
        }
        powers(a)
    });
}

/// Sums, differences and products equal those of the integers modulo the order.
pub fn agrees_with_integers<F: Field>(
    edges: &[F],
    any: impl Strategy<Value = F> + Clone,
    integer: impl Fn(F) -> u128,
    order: u128,
) {
    on_triples(edges, any, |a, b, c| {
        let (x, y, z) = (integer(a), integer(b), integer(c));
        prop_assert!(x < order && y < order && z < order);
        prop_assert_eq!(integer(a.add(b)), (x + y) % order);
        prop_assert_eq!(integer(a.sub(b)), (x + order - y) % order);
        prop_assert_eq!(integer(a.neg()), (order - x) % order);
        prop_assert_eq!(integer(a.mul(b)), x * y % order);
        prop_assert_eq!(integer(a.mul_add(b, c)), (x * y + z) % order);
        Ok(())
    });
}

fn group<F: Field>(a: F, b: F, c: F, neutral: F, op: fn(F, F) -> F, inverse: fn(F) -> F) -> Result<(), TestCaseError> {
    prop_assert_eq!(op(a, b), op(b, a));
    prop_assert_eq!(op(op(a, b), c), op(a, op(b, c)));
    prop_assert_eq!(op(a, neutral), a);
    prop_assert_eq!(op(a, inverse(a)), neutral);
    prop_assert_eq!(inverse(inverse(a)), a);
    Ok(())
}

fn powers<F: Field>(a: F) -> Result<(), TestCaseError> {
    prop_assert_eq!(a.pow(0), F::ONE);
    let mut expected = F::ONE;
    for e in 1..9 {
        expected = expected.mul(a);
        prop_assert_eq!(a.pow(e), expected);
    }
    prop_assert_eq!(a.pow(1 << 20).mul(a.pow(12345)), a.pow((1 << 20) + 12345));
    prop_assert_eq!(a.pow(1009).pow(17), a.pow(1009 * 17));
    Ok(())
}

fn on_triples<F: Field>(
    edges: &[F],
    any: impl Strategy<Value = F> + Clone,
    law: impl Fn(F, F, F) -> Result<(), TestCaseError>,
) {
    for a in edges {
        for b in edges {
            for c in edges {
                law(*a, *b, *c).unwrap_or_else(|e| panic!("{e} at {a:?}, {b:?}, {c:?}"));
            }
        }
    }
    TestRunner::default()
        .run(&(any.clone(), any.clone(), any), |(a, b, c)| law(a, b, c))
        .unwrap_or_else(|e| panic!("{e}"));
}
