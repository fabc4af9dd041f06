//! Where the local half of the protocol runs: batch kernels over vectors of
//! field elements that stay resident on a device.
//!
//! A [`Backend`] knows the field, the tensor views and the generator; it knows
//! nothing of sharings, rounds or programs. [`cpu`] is the portable truth that
//! every other backend must equal bit for bit.

#[cfg(test)]
pub(crate) mod battery;
pub mod cpu;

use std::borrow::Cow;

use crate::field::Fp61;
use crate::prg::Stream;
use crate::tensor::{Dims, View};

/// A device failed. The caller falls back or ends the job; a result is never
/// partial.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the {backend} backend failed: {reason}")]
pub struct BackendError {
    /// which backend
    pub backend: &'static str,
    /// what happened
    pub reason: String,
}

/// Batch kernels over resident vectors.
///
/// Operations are infallible where they only enqueue work; a device that
/// failed reports it from [`Backend::read`], and then every later read fails
/// too. Lengths are the caller's duty: they come from a checked plan, and a
/// mismatch is a bug that panics.
pub trait Backend: Clone + Send + Sync + 'static {
    /// A resident, immutable vector of field elements. Cloning is cheap
    /// (shared); the memory is wiped when the last clone is dropped.
    type Words: Clone + Send + Sync;

    /// The name for errors and logs.
    fn name(&self) -> &'static str;
    /// Makes words resident.
    fn load(&self, words: Vec<Fp61>) -> Self::Words;
    /// The words on the host; a backend in the host's memory lends them.
    fn read<'a>(&self, words: &'a Self::Words) -> Result<Cow<'a, [Fp61]>, BackendError>;
    /// How many words.
    fn len(&self, words: &Self::Words) -> usize;

    /// Σ k·x over the terms, plus a constant on each of the n words.
    fn linear(&self, n: usize, terms: &[(Fp61, &Self::Words)], constant: Fp61) -> Self::Words;
    /// x·y: elementwise or matrix product.
    fn product(&self, dims: Dims, x: &Self::Words, y: &Self::Words) -> Self::Words;
    /// Applies an index map; most views take one input, `Concat` several.
    fn view(&self, view: &View, inputs: &[&Self::Words]) -> Self::Words;
    /// Σ k·stream\[0..n\]: pseudorandom words, combined while they are expanded.
    fn expand(&self, n: usize, streams: &[(Fp61, Stream)]) -> Self::Words;
    /// c + D·b + a·E + k·D·E, elementwise or as matrices (Beaver's combination).
    #[allow(clippy::too_many_arguments)]
    fn beaver(
        &self,
        dims: Dims,
        c: &Self::Words,
        d: &Self::Words,
        e: &Self::Words,
        a: &Self::Words,
        b: &Self::Words,
        k: Fp61,
    ) -> Self::Words;
    /// Public words for the exact shift of a masked opening c (docs/protocols.md,
    /// truncation and comparison): for each threshold T, |T| ≤ 2^60, and each
    /// word, `((c − T) >> by, (1 − msb c)·2^(61 − by))`, each of
    /// `thresholds.len() · len(c)` words, threshold-major. c − T is taken over
    /// the integers and shifted arithmetically: whether x + r wrapped modulo p
    /// is decided by c alone, so one wrap bit and the bits of r below those of
    /// T serve every threshold.
    fn shift_public(&self, c: &Self::Words, thresholds: &[i64], by: u8) -> (Self::Words, Self::Words);
    /// Comparison leaves of one digit (docs/protocols.md, comparison). `one_hot`
    /// has 2^bits rows of len(c) words, row v the share of \[digit of r = v\];
    /// with u = the digit of c − T (as above) that starts at bit `from`:
    /// G = Σ_{v > u} one_hot\[v\] (+ (1 − msb c)·carry\[u\] if given), P = one_hot\[u\],
    /// each of `thresholds.len() · len(c)` words, threshold-major.
    fn leaf(
        &self,
        c: &Self::Words,
        thresholds: &[i64],
        from: u8,
        bits: u8,
        one_hot: &Self::Words,
        carry: Option<&Self::Words>,
    ) -> (Self::Words, Self::Words);
    /// Whether every word is 0 (public words only: parity checks).
    fn is_zero(&self, words: &Self::Words) -> Result<bool, BackendError>;
}
