//! Elementwise kernels on one task's strips, in the widest vectors that the
//! machine has.
//!
//! Each is one loop, compiled three times: plainly, with products of 128 bits,
//! and for AVX2 and AVX-512 with products of 32-bit halves. All slices of one
//! call have one length. Words may be secret and are never looked at, except
//! that `c` of [`shift`] is public.

use super::machine::Machine;
use crate::field::{Fp61, P};

/// How a loop multiplies.
trait Multiply {
    /// x·y
    fn mul(x: Fp61, y: Fp61) -> Fp61;
    /// x·y + c
    fn mul_add(x: Fp61, y: Fp61, c: Fp61) -> Fp61;
    /// u·v + x·y + c
    fn mul_twice_add(u: Fp61, v: Fp61, x: Fp61, y: Fp61, c: Fp61) -> Fp61;
}

/// By the multiplier for whole words.
enum Whole {}

impl Multiply for Whole {
    #[inline(always)]
    fn mul(x: Fp61, y: Fp61) -> Fp61 {
        x * y
    }
    #[inline(always)]
    fn mul_add(x: Fp61, y: Fp61, c: Fp61) -> Fp61 {
        x.mul_add(y, c)
    }
    #[inline(always)]
    fn mul_twice_add(u: Fp61, v: Fp61, x: Fp61, y: Fp61, c: Fp61) -> Fp61 {
        // Two products and one word: far below the bound of `Fp61::LAZY`.
        Fp61::reduce_wide(u.wide_mul(v) + x.wide_mul(y) + u128::from(c.word()))
    }
}

/// By the multipliers of a vector unit.
#[cfg(target_arch = "x86_64")]
enum Halves {}

#[cfg(target_arch = "x86_64")]
impl Multiply for Halves {
    #[inline(always)]
    fn mul(x: Fp61, y: Fp61) -> Fp61 {
        x.mul_halves(y)
    }
    #[inline(always)]
    fn mul_add(x: Fp61, y: Fp61, c: Fp61) -> Fp61 {
        x.mul_add_halves(y, c)
    }
    #[inline(always)]
    fn mul_twice_add(u: Fp61, v: Fp61, x: Fp61, y: Fp61, c: Fp61) -> Fp61 {
        u.mul_twice_add_halves(v, x, y, c)
    }
}

/// Methods of [`Machine`], each compiled for what the machine may have.
macro_rules! kernels {
    ($($(#[$doc:meta])* fn $name:ident<$by:ident>($($arg:ident: $type:ty),* $(,)?) $body:block)*) => {
        impl Machine {
            $($(#[$doc])*
            #[allow(clippy::too_many_arguments)] // the letters of one formula
            pub fn $name(self, $($arg: $type),*) {
                #[inline(always)]
                #[allow(clippy::too_many_arguments)]
                fn kernel<$by: Multiply>($($arg: $type),*) $body
                match self {
                    Machine::Plain => kernel::<Whole>($($arg),*),
                    #[cfg(target_arch = "x86_64")]
                    Machine::Avx2(avx2) => avx2.run(|| kernel::<Halves>($($arg),*)),
                    #[cfg(target_arch = "x86_64")]
                    Machine::Avx512(avx512) => avx512.run(|| kernel::<Halves>($($arg),*)),
                }
            })*
        }
    };
}

kernels! {
    /// out ·= k
    fn scale<By>(out: &mut [Fp61], k: Fp61) {
        match Coefficient::of(k) {
            Coefficient::One => {}
            Coefficient::MinusOne => out.iter_mut().for_each(|o| *o = -*o),
            Coefficient::Other(k) => out.iter_mut().for_each(|o| *o = By::mul(*o, k)),
        }
    }
    /// out += k·x: one term of a linear combination.
    fn add_scaled<By>(out: &mut [Fp61], k: Fp61, x: &[Fp61]) {
        assert_eq!(out.len(), x.len());
        let words = out.iter_mut().zip(x);
        match Coefficient::of(k) {
            Coefficient::One => words.for_each(|(o, x)| *o += *x),
            Coefficient::MinusOne => words.for_each(|(o, x)| *o -= *x),
            Coefficient::Other(k) => words.for_each(|(o, x)| *o = By::mul_add(*x, k, *o)),
        }
    }
    /// out += k·x, where k is as secret as x: unlike [`Machine::add_scaled`] it never looks at it.
    fn add_multiple<By>(out: &mut [Fp61], k: Fp61, x: &[Fp61]) {
        assert_eq!(out.len(), x.len());
        out.iter_mut().zip(x).for_each(|(o, x)| *o = By::mul_add(*x, k, *o));
    }
    /// out = x·y
    fn multiply<By>(out: &mut [Fp61], x: &[Fp61], y: &[Fp61]) {
        assert!(out.len() == x.len() && out.len() == y.len());
        out.iter_mut().zip(x.iter().zip(y)).for_each(|(o, (x, y))| *o = By::mul(*x, *y));
    }
    /// out = x·y + add
    fn multiply_add<By>(out: &mut [Fp61], x: &[Fp61], y: &[Fp61], add: &[Fp61]) {
        assert!(out.len() == x.len() && out.len() == y.len() && out.len() == add.len());
        let words = x.iter().zip(y).zip(add);
        out.iter_mut().zip(words).for_each(|(o, ((x, y), add))| *o = By::mul_add(*x, *y, *add));
    }
    /// out = c + d·b + (a + k·d)·e
    fn beaver<By>(out: &mut [Fp61], c: &[Fp61], d: &[Fp61], e: &[Fp61], a: &[Fp61], b: &[Fp61], k: Fp61) {
        let n = out.len();
        // One length for all, so that the loop needs no checks.
        let (c, d, e, a, b) = (&c[..n], &d[..n], &e[..n], &a[..n], &b[..n]);
        for i in 0..n {
            out[i] = By::mul_twice_add(d[i], b[i], By::mul_add(d[i], k, a[i]), e[i], c[i]);
        }
    }
    /// out = public·((c − threshold) >> by) + wrap·(1 − msb c)·msb + constant − high,
    /// c − threshold over the integers; by ≤ 61.
    fn shift<By>(
        out: &mut [Fp61],
        c: &[Fp61],
        threshold: i64,
        by: u8,
        high: &[Fp61],
        msb: &[Fp61],
        public: Fp61,
        wrap: Fp61,
        constant: Fp61,
    ) {
        assert!(by <= 61);
        let n = out.len();
        let (c, high, msb) = (&c[..n], &high[..n], &msb[..n]);
        for i in 0..n {
            // c < 2^61 and |T| ≤ 2^60: nothing overflows.
            let quotient = Fp61::from_i64((c[i].word() as i64 - threshold) >> by);
            // A choice without a branch: c is public, but no processor foresees it.
            let kept = msb[i].kept_if(c[i].word() >> 60 == 0);
            out[i] = By::mul_twice_add(quotient, public, kept, wrap, constant - high[i]);
        }
    }
}

impl Machine {
    /// out = Σ k·x + constant, for terms of equal lengths.
    ///
    /// The first term is written and not added; whether there is a constant is
    /// public, whatever it is.
    pub fn combine<'a>(self, out: &mut [Fp61], terms: impl Iterator<Item = (Fp61, &'a [Fp61])>, constant: Fp61) {
        let mut terms = terms.peekable();
        match terms.next_if(|_| constant == Fp61::ZERO) {
            Some((k, x)) => {
                out.copy_from_slice(x);
                self.scale(out, k);
            }
            None => out.fill(constant),
        }
        terms.for_each(|(k, x)| self.add_scaled(out, k, x));
    }
}

/// A coefficient by how it is applied.
///
/// Telling ±1 apart is a branch. Coefficients are public, or they are a MAC
/// key: uniform, so the branch shows only that the key is neither of two
/// values out of p, which anyone would have guessed.
enum Coefficient {
    One,
    MinusOne,
    Other(Fp61),
}

impl Coefficient {
    #[inline(always)]
    fn of(k: Fp61) -> Self {
        match k.word() {
            1 => Self::One,
            w if w == P - 1 => Self::MinusOne,
            _ => Self::Other(k),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn element() -> impl Strategy<Value = Fp61> {
        prop_oneof![4 => 0..P, 1 => Just(0), 1 => Just(1), 1 => Just(P / 2), 1 => Just(P - 1)]
            .prop_map(|w| Fp61::new(w).unwrap())
    }

    proptest! {
        #[test]
        fn every_machine_computes_the_formulas(
            words in vec([element(), element(), element(), element(), element()], 0..200),
            [k, public, wrap] in [element(), element(), element()],
            threshold in -(1i64 << 60)..=1 << 60,
            by in 0u8..=61,
        ) {
            let column = |i: usize| words.iter().map(|row| row[i]).collect::<Vec<_>>();
            let [a, b, c, d, e] = [0, 1, 2, 3, 4].map(column);
            for machine in Machine::all() {
                let run = |step: &dyn Fn(&mut [Fp61])| { let mut out = a.clone(); step(&mut out); out };
                let naive = |f: &dyn Fn([Fp61; 5]) -> Fp61| words.iter().map(|row| f(*row)).collect::<Vec<_>>();
                prop_assert_eq!(run(&|o| machine.scale(o, k)), naive(&|[a, ..]| a * k));
                for k in [k, Fp61::ONE, -Fp61::ONE, Fp61::ZERO] {
                    prop_assert_eq!(run(&|o| machine.add_scaled(o, k, &b)), naive(&|[a, b, ..]| a + k * b));
                    prop_assert_eq!(run(&|o| machine.add_multiple(o, k, &b)), naive(&|[a, b, ..]| a + k * b));
                    for constant in [Fp61::ZERO, public] {
                        let terms = || [(k, &*b), (wrap, &*c)].into_iter();
                        prop_assert_eq!(
                            run(&|o| machine.combine(o, terms(), constant)),
                            naive(&|[_, b, c, ..]| k * b + wrap * c + constant)
                        );
                        prop_assert_eq!(run(&|o| machine.combine(o, [].into_iter(), constant)), naive(&|_| constant));
                    }
                    prop_assert_eq!(
                        run(&|o| machine.beaver(o, &c, &d, &e, &a, &b, k)),
                        naive(&|[a, b, c, d, e]| c + d * b + a * e + k * d * e)
                    );
                }
                prop_assert_eq!(run(&|o| machine.multiply(o, &b, &c)), naive(&|[_, b, c, ..]| b * c));
                prop_assert_eq!(run(&|o| machine.multiply_add(o, &b, &c, &d)), naive(&|[_, b, c, d, _]| b * c + d));
                let shifted = |[_, b, c, d, _]: [Fp61; 5]| {
                    let quotient = Fp61::from_i64((c.word() as i64 - threshold) >> by);
                    let kept = if c.word() >> 60 == 0 { d } else { Fp61::ZERO };
                    quotient * public + kept * wrap + k - b
                };
                prop_assert_eq!(
                    run(&|o| machine.shift(o, &c, threshold, by, &b, &d, public, wrap, k)),
                    naive(&shifted)
                );
            }
        }
    }
}
