//! Tiles of matrix products by signed products of 32-bit halves.
//!
//! A word is centred to c in [−(p−1)/2, (p−1)/2] and split into balanced limbs:
//! c = c₀ + 2^31·c₁ with c₀ in [−2^30, 2^30) and |c₁| ≤ 2^29. For a product
//!
//! ```text
//! a·b = a₀b₀ + 2^31·(a₀b₁ + a₁b₀) + 2^62·a₁b₁
//! ```
//!
//! and 2^62 ≡ 2, so two sums of signed 64-bit integers make a result: one of
//! a₀b₀ + a₁·2b₁, which a term changes by at most 2^60 + 2^59, and one of
//! a₀b₁ + a₁b₀, by at most 2·2^59 = 2^60. After [`TERMS`] terms at the latest
//! their high halves are [folded](Sums::fold) away. (Three sums, with a₁b₁ apart,
//! would be folded every seven terms, but AVX2 has not the registers for them.)

use super::super::matrix::Kernel;
use super::lanes::Lanes;
use super::{Avx2, Avx512};
use crate::field::{Fp61, P};
use std::arch::x86_64::{__m256i, __m512i};

/// Terms between two folds: 5·(2^60 + 2^59) = 7.5·2^60 and what a fold leaves
/// stay below 2^63, and six terms would not.
const TERMS: usize = 5;
/// Terms of a tile: panels of 8 columns take 16 KB.
const DEPTH: usize = 51 * TERMS;

impl Kernel for Avx2 {
    const ROWS: usize = 4;
    const COLS: usize = 4;
    const DEPTH: usize = DEPTH;

    fn pack(word: Fp61) -> u64 {
        limbs(word)
    }
    fn enabled(self, run: impl FnOnce()) {
        self.run(run);
    }
    fn tile(self, x: &[u64], y: &[u64], rows: usize, _: usize, mut emit: impl FnMut(usize, &[Fp61])) {
        let ((x, _), (y, _)) = (x.as_chunks(), y.as_chunks());
        let mut out = [[0; 4]; 4];
        // SAFETY: `self` proves that the machine has AVX2.
        unsafe {
            match rows {
                1 => avx2::<1>(x, y, &mut out),
                2 => avx2::<2>(x, y, &mut out),
                3 => avx2::<3>(x, y, &mut out),
                _ => avx2::<4>(x, y, &mut out),
            }
        }
        out[..rows].iter().enumerate().for_each(|(r, row)| emit(r, &row.map(Fp61::reduce)));
    }
}

impl Kernel for Avx512 {
    const ROWS: usize = 8;
    const COLS: usize = 8;
    const DEPTH: usize = DEPTH;

    fn pack(word: Fp61) -> u64 {
        limbs(word)
    }
    fn enabled(self, run: impl FnOnce()) {
        self.run(run);
    }
    fn tile(self, x: &[u64], y: &[u64], rows: usize, _: usize, mut emit: impl FnMut(usize, &[Fp61])) {
        let ((x, _), (y, _)) = (x.as_chunks(), y.as_chunks());
        let mut out = [[0; 8]; 8];
        // SAFETY: `self` proves that the machine has AVX-512.
        unsafe {
            match rows {
                1 => avx512::<1>(x, y, &mut out),
                2 => avx512::<2>(x, y, &mut out),
                3 | 4 => avx512::<4>(x, y, &mut out),
                _ => avx512::<8>(x, y, &mut out),
            }
        }
        out[..rows].iter().enumerate().for_each(|(r, row)| emit(r, &row.map(Fp61::reduce)));
    }
}

#[target_feature(enable = "avx2")]
fn avx2<const R: usize>(x: &[[u64; 4]], y: &[[u64; 4]], out: &mut [[u64; 4]; 4]) {
    // SAFETY: AVX2 is enabled here.
    unsafe { tile::<__m256i, 4, 4, R>(x, y, out) }
}

#[target_feature(enable = "avx512f")]
fn avx512<const R: usize>(x: &[[u64; 8]], y: &[[u64; 8]], out: &mut [[u64; 8]; 8]) {
    // SAFETY: AVX-512 is enabled here.
    unsafe { tile::<__m512i, 8, 8, R>(x, y, out) }
}

/// The limbs as two signed halves: c₀ low, c₁ high.
fn limbs(word: Fp61) -> u64 {
    let w = word.word();
    // 1 exactly if the word is past (p − 1)/2, and then c = w − p = w − 2^61 + 1.
    let upper = (P / 2).wrapping_sub(w) >> 63;
    // c + 2^30 as a signed word: its low 31 bits are c₀ + 2^30 and the rest,
    // −2^29 to 2^29, is c₁, because |c| < 2^60.
    let raised = w.wrapping_sub(upper << 61).wrapping_add(upper + (1 << 30));
    let low = ((raised & ((1 << 31) - 1)) as u32).wrapping_sub(1 << 30);
    (raised << 1) & !0xffff_ffff | u64::from(low)
}

/// The rows, written out: as a loop of eight they would be kept in memory.
macro_rules! each {
    ($r:ident < $rows:ident, $body:block) => {
        each!($r < $rows, $body, 0 1 2 3 4 5 6 7)
    };
    ($r:ident < $rows:ident, $body:block, $($index:literal)*) => {
        $(if $index < $rows {
            let $r = $index;
            $body
        })*
    };
}

/// R rows of results, by the weight of what is summed: 1 and 2^31.
struct Sums<V, const R: usize> {
    low: [V; R],
    high: [V; R],
}

/// The first R rows of x, as packed by [`limbs`], times the panel of y; the
/// results are words congruent to the sums, below 2^63.
#[inline(always)]
unsafe fn tile<V: Lanes<N>, const N: usize, const ROWS: usize, const R: usize>(
    x: &[[u64; ROWS]],
    y: &[[u64; N]],
    out: &mut [[u64; N]; ROWS],
) {
    // SAFETY: the caller's machine has the instructions.
    unsafe {
        let zero = [V::splat(0); R];
        let mut sums = Sums { low: zero, high: zero };
        for (x, y) in x.chunks(TERMS).zip(y.chunks(TERMS)) {
            for (x, y) in x.iter().zip(y) {
                sums.add_term(x, V::load(y));
            }
            sums.fold();
        }
        sums.finish(out);
    }
}

impl<V, const R: usize> Sums<V, R> {
    #[inline(always)]
    unsafe fn add_term<const N: usize, const ROWS: usize>(&mut self, x: &[u64; ROWS], y: V)
    where
        V: Lanes<N>,
    {
        // SAFETY: the caller's machine has the instructions; both halves of
        // each of the R ≤ ROWS words of x are inside the array, and 32-bit
        // reads are what makes each a single load into all lanes.
        unsafe {
            let y1 = y.shift_right::<32>();
            // |2b₁| ≤ 2^30 fits a signed half; above it lie only zeros.
            let y2 = y1.add(y1);
            let halves = x.as_ptr().cast::<i32>();
            each!(r < R, {
                let (x0, x1) = (V::splat_low(*halves.add(2 * r)), V::splat_low(*halves.add(2 * r + 1)));
                self.low[r] = self.low[r].add(x0.mul_low(y)).add(x1.mul_low(y2));
                self.high[r] = self.high[r].add(x0.mul_low(y1)).add(x1.mul_low(y));
            });
        }
    }

    /// Leaves the low 32 bits of each sum and carries the high half h, which is
    /// signed, to where it weighs as much:
    ///
    /// ```text
    /// low:   h·2^32       = 2h·2^31      high += 2h
    /// high:  h·2^32·2^31  ≡ 4h           low  += 4h       (2^61 ≡ 1)
    /// ```
    ///
    /// Every h is below 2^31 in absolute value. After a fold, high is therefore
    /// in [0, 2^32) and low in [−2^33, 2^33 + 2^32]. Before the next one, |low|
    /// is at most 7.5·2^60 + 2^34 and |high|, with the carry of low, at most
    /// 5·2^60 + 2^32 + 2^32: both below 2^63.
    #[inline(always)]
    unsafe fn fold<const N: usize>(&mut self)
    where
        V: Lanes<N>,
    {
        // SAFETY: the caller's machine has the instructions.
        unsafe {
            let (two, four, half) = (V::splat(2), V::splat(4), V::splat(0xffff_ffff));
            each!(r < R, {
                let high = self.high[r].add(self.low[r].shift_right::<32>().mul_low(two));
                self.low[r] = self.low[r].and(half).add(high.shift_right::<32>().mul_low(four));
                self.high[r] = high.and(half);
            });
        }
    }

    /// After a fold, low + 2^31·high as one word below 2^63.
    #[inline(always)]
    unsafe fn finish<const N: usize, const ROWS: usize>(&self, out: &mut [[u64; N]; ROWS])
    where
        V: Lanes<N>,
    {
        // SAFETY: the caller's machine has the instructions.
        unsafe {
            let (modulus, rest) = (V::splat(P as i64), V::splat((1 << 30) - 1));
            each!(r < R, {
                // 2^31·(2^30·u + v) ≡ u + 2^31·v, with u < 4 and 2^31·v < 2^61; and
                // low + p is positive: the whole is below 2^62 + 2^34.
                let turned = self.high[r].and(rest).shift_left::<31>().add(self.high[r].shift_right::<30>());
                turned.add(self.low[r]).add(modulus).store(&mut out[r]);
            });
        }
    }
}
