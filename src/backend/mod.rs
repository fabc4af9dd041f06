//! Where the local half of the protocol runs: batch kernels over vectors of
//! field elements that stay resident on a device.
//!
//! A [`Backend`] knows the field, the tensor views and the generator; it knows
//! nothing of sharings, rounds or programs. [`cpu`] is the portable truth that
//! every other backend must equal bit for bit.

#[cfg(test)]
pub(crate) mod battery;
pub mod cpu;
mod device;
#[cfg(feature = "gpu")]
pub mod gpu;
pub mod trial;

pub use self::device::{Choice, Device, Devices, NoChoice, Opened};

use std::ops::{Deref, Range};

use zeroize::Zeroizing;

use crate::field::{Fp61, Parts};
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

/// Words on the host: lent by a backend whose memory that is, or copied from a
/// device; a copy is wiped on drop.
pub enum Host<'a> {
    /// the backend's own
    Lent(&'a [Fp61]),
    /// brought over the bus
    Copied(Zeroizing<Vec<Fp61>>),
}

impl Deref for Host<'_> {
    type Target = [Fp61];
    fn deref(&self) -> &[Fp61] {
        match self {
            Host::Lent(words) => words,
            Host::Copied(words) => words,
        }
    }
}

/// Batch kernels over resident vectors.
///
/// Operations are infallible where they only enqueue work; a device that
/// failed reports it from [`Backend::read`], and then every later read fails
/// too. Lengths are the caller's duty: they come from a checked plan, and a
/// mismatch is a bug that panics.
pub trait Backend: Clone + Send + Sync + 'static {
    /// A resident, immutable vector of field elements. Cloning is cheap
    /// (shared); after the last clone is dropped the memory is wiped before
    /// anything else may have it, on a device at the end of the batch at hand.
    type Words: Clone + Send + Sync;

    /// The name for errors and logs.
    fn name(&self) -> &'static str;
    /// Makes words resident.
    fn load(&self, words: Vec<Fp61>) -> Self::Words;
    /// The same of words that lie elsewhere and are copied.
    fn load_parts(&self, parts: &Parts<'_>) -> Self::Words {
        self.load(parts.to_vec())
    }
    /// The words on the host.
    fn read<'a>(&self, words: &'a Self::Words) -> Result<Host<'a>, BackendError>;
    /// Several vectors one after the other, for a message: one trip over the
    /// bus for all of them. The caller owns the copy and wipes it if it must.
    fn read_all(&self, parts: &[Self::Words]) -> Result<Vec<Fp61>, BackendError>;
    /// The same of vectors that are not needed any more.
    fn take_all(&self, parts: Vec<Self::Words>) -> Result<Vec<Fp61>, BackendError> {
        self.read_all(&parts)
    }
    /// How many words.
    fn len(&self, words: &Self::Words) -> usize;

    /// Σ k·x over the terms, plus a constant on each of the n words.
    fn linear(&self, n: usize, terms: &[(Fp61, &Self::Words)], constant: Fp61) -> Self::Words;
    /// x·y (+ add): elementwise or matrix product.
    fn product(&self, dims: Dims, x: &Self::Words, y: &Self::Words, add: Option<&Self::Words>) -> Self::Words;
    /// Applies an index map; most views take one input, `Concat` several.
    fn view(&self, view: &View, inputs: &[&Self::Words]) -> Self::Words;
    /// Some of the words. They may share the memory of all, which then lasts as long as they
    /// do: for what does not outlive the whole by much.
    fn part(&self, words: &Self::Words, range: Range<usize>) -> Self::Words {
        let Range { start, end } = range;
        self.view(&View::Slice { outer: 1, axis: self.len(words), inner: 1, start, end }, &[words])
    }
    /// Σ k·stream\[0..n\] (+ add): pseudorandom words, combined while they are expanded.
    fn expand(&self, n: usize, streams: &[(Fp61, Stream)], add: Option<&Self::Words>) -> Self::Words;
    /// The same expansion in pieces, for when it is not yet waited for: from
    /// what an earlier call gave (nothing at first, and nobody else's) to the
    /// vector and how many of its n words are there; those after have no
    /// meaning. A piece takes the calling thread some milliseconds; a device
    /// that works by itself makes all at once, as here.
    fn expand_more(
        &self,
        n: usize,
        streams: &[(Fp61, Stream)],
        so_far: Option<(Self::Words, usize)>,
    ) -> (Self::Words, usize) {
        so_far.filter(|(_, done)| *done == n).unwrap_or_else(|| (self.expand(n, streams, None), n))
    }
    /// words + add, which uses the words up: in their place where nobody else has them.
    fn add(&self, words: Self::Words, add: &Self::Words) -> Self::Words {
        self.linear(self.len(&words), &[(Fp61::ONE, &words), (Fp61::ONE, add)], Fp61::ZERO)
    }
    /// The same with public words of the host, which are read where they lie.
    fn add_parts(&self, words: Self::Words, add: &Parts<'_>) -> Self::Words {
        self.add(words, &self.load_parts(add))
    }
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
    /// The exact shift of a masked opening c (docs/protocols.md, truncation and
    /// comparison): for each threshold T, |T| ≤ 2^60, and each word,
    /// public·((c − T) >> by) − high + (1 − msb c)·2^(61 − by)·msb + constant,
    /// `thresholds.len() · len(c)` words, threshold-major. c − T is taken over
    /// the integers and shifted arithmetically: whether x + r wrapped modulo p
    /// is decided by c alone, so one wrap bit and the bits of r below those of
    /// T serve every threshold. `public` is this node's share of 1.
    #[allow(clippy::too_many_arguments)] // the letters of one formula
    fn shift(
        &self,
        c: &Self::Words,
        thresholds: &[i64],
        by: u8,
        high: &Self::Words,
        msb: &Self::Words,
        public: Fp61,
        constant: Fp61,
    ) -> Self::Words;
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
    /// Decodes a batch of opened words from shares of equal lengths: Σ at_zero·share
    /// over the first shares, and for each row of `parity` whether the share
    /// after those is Σ row·share. Gives the opened words and the first word
    /// that fails, if one does. Public words: a branch on them tells nothing.
    fn decode(
        &self,
        at_zero: &[Fp61],
        parity: &[Vec<Fp61>],
        shares: &[&Self::Words],
    ) -> Result<(Self::Words, Option<usize>), BackendError>;
}
