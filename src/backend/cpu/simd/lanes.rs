//! Vectors of 64-bit lanes, as far as the kernels need them.

use std::arch::x86_64::*;

/// N lanes of 64 bits.
///
/// # Safety
/// Every method needs a machine that has the instructions of the
/// implementation. All are inlined into a function that enables them.
pub trait Lanes<const N: usize>: Copy {
    unsafe fn load(words: &[u64; N]) -> Self;
    unsafe fn store(self, words: &mut [u64; N]);
    /// The word in every lane.
    unsafe fn splat(word: i64) -> Self;
    /// The word in the low half of every lane (and somehow in the high half).
    unsafe fn splat_low(word: i32) -> Self;
    unsafe fn add(self, o: Self) -> Self;
    unsafe fn and(self, o: Self) -> Self;
    /// A shift that brings in zeros.
    unsafe fn shift_right<const S: u32>(self) -> Self;
    /// A shift that brings in zeros.
    unsafe fn shift_left<const S: u32>(self) -> Self;
    /// The products of the low halves, which are signed, as 64-bit integers.
    unsafe fn mul_low(self, o: Self) -> Self;
}

macro_rules! lanes {
    ($vector:ty, $n:literal: $load:ident, $store:ident, $splat:ident, $splat_low:ident, $add:ident, $and:ident,
     $shift_right:ident, $shift_left:ident, $mul_low:ident) => {
        // SAFETY, for all of them: the caller's machine has the instructions;
        // loads and stores are unaligned and stay inside the array.
        impl Lanes<$n> for $vector {
            #[inline(always)]
            unsafe fn load(words: &[u64; $n]) -> Self {
                unsafe { $load(words.as_ptr().cast()) }
            }
            #[inline(always)]
            unsafe fn store(self, words: &mut [u64; $n]) {
                unsafe { $store(words.as_mut_ptr().cast(), self) }
            }
            #[inline(always)]
            unsafe fn splat(word: i64) -> Self {
                unsafe { $splat(word) }
            }
            #[inline(always)]
            unsafe fn splat_low(word: i32) -> Self {
                unsafe { $splat_low(word) }
            }
            #[inline(always)]
            unsafe fn add(self, o: Self) -> Self {
                unsafe { $add(self, o) }
            }
            #[inline(always)]
            unsafe fn and(self, o: Self) -> Self {
                unsafe { $and(self, o) }
            }
            #[inline(always)]
            unsafe fn shift_right<const S: u32>(self) -> Self {
                unsafe { $shift_right(self, _mm_cvtsi32_si128(S as i32)) }
            }
            #[inline(always)]
            unsafe fn shift_left<const S: u32>(self) -> Self {
                unsafe { $shift_left(self, _mm_cvtsi32_si128(S as i32)) }
            }
            #[inline(always)]
            unsafe fn mul_low(self, o: Self) -> Self {
                unsafe { $mul_low(self, o) }
            }
        }
    };
}

lanes!(__m256i, 4: _mm256_loadu_si256, _mm256_storeu_si256, _mm256_set1_epi64x, _mm256_set1_epi32,
    _mm256_add_epi64, _mm256_and_si256, _mm256_srl_epi64, _mm256_sll_epi64, _mm256_mul_epi32);
lanes!(__m512i, 8: _mm512_loadu_si512, _mm512_storeu_si512, _mm512_set1_epi64, _mm512_set1_epi32,
    _mm512_add_epi64, _mm512_and_si512, _mm512_srl_epi64, _mm512_sll_epi64, _mm512_mul_epi32);
