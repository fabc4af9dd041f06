//! The portable backend: safe Rust on all cores, and the truth that every
//! other backend must equal bit for bit.
//!
//! It never branches on a word of a vector, except where the trait says that
//! the words are public.

mod digits;
mod elementwise;
mod machine;
mod matrix;
mod pool;
#[cfg(target_arch = "x86_64")]
mod simd;
mod views;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;
use zeroize::Zeroize;

use super::{Backend, BackendError, Host};
use crate::field::{Fp61, Parts};
use crate::prg::Stream;
use crate::tensor::{Dims, View};
use machine::Machine;
use pool::Wiped;

/// Words of a result that one task computes; smaller results stay on the
/// calling thread.
const TASK: usize = 1 << 14;
/// Words that a task takes through all terms of a combination before it goes
/// on, so that they stay in the first cache.
const STRIP: usize = 1 << 9;
/// Words, counted for each stream, that are expanded ahead in one piece: one to
/// four milliseconds of one thread.
const PIECE: usize = 1 << 19;

/// The CPU, through rayon's global pool.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu;

/// A vector on the host, or some of its words: shared by its clones and parts, and wiped with
/// the last of them.
#[derive(Clone)]
pub struct Words {
    whole: Arc<Wiped>,
    range: Range<usize>,
}

impl Words {
    /// The words, to be written over, if nobody else has them.
    fn own(&mut self) -> Option<&mut [Fp61]> {
        Some(&mut Arc::get_mut(&mut self.whole)?[self.range.clone()])
    }
}

impl AsRef<[Fp61]> for Words {
    fn as_ref(&self) -> &[Fp61] {
        &self.whole[self.range.clone()]
    }
}
impl From<Vec<Fp61>> for Words {
    fn from(words: Vec<Fp61>) -> Self {
        Wiped::from(words).into()
    }
}
impl From<Wiped> for Words {
    fn from(words: Wiped) -> Self {
        Self { range: 0..words.len(), whole: Arc::new(words) }
    }
}

impl Backend for Cpu {
    type Words = Words;

    fn name(&self) -> &'static str {
        "cpu"
    }
    fn load(&self, words: Vec<Fp61>) -> Words {
        words.into()
    }
    fn load_parts(&self, parts: &Parts<'_>) -> Words {
        let mut words = Wiped::zeros(parts.len());
        let mut rest = &mut words[..];
        for part in parts.iter() {
            let (place, after) = rest.split_at_mut(part.len());
            place.copy_from_slice(part);
            rest = after;
        }
        words.into()
    }
    fn read<'a>(&self, words: &'a Words) -> Result<Host<'a>, BackendError> {
        Ok(Host::Lent(words.as_ref()))
    }
    fn read_all(&self, parts: &[Words]) -> Result<Vec<Fp61>, BackendError> {
        let mut all = Vec::with_capacity(parts.iter().map(|part| self.len(part)).sum());
        parts.iter().for_each(|part| all.extend_from_slice(part.as_ref()));
        Ok(all)
    }
    fn take_all(&self, parts: Vec<Words>) -> Result<Vec<Fp61>, BackendError> {
        // One that nobody else has is not copied.
        match <[Words; 1]>::try_from(parts) {
            Ok([words]) if words.range == (0..words.whole.len()) => {
                Ok(Arc::try_unwrap(words.whole).map_or_else(|words| words.to_vec(), Wiped::into_vec))
            }
            Ok(parts) => self.read_all(&parts),
            Err(parts) => self.read_all(&parts),
        }
    }
    fn len(&self, words: &Words) -> usize {
        words.as_ref().len()
    }

    fn linear(&self, n: usize, terms: &[(Fp61, &Words)], constant: Fp61) -> Words {
        let machine = Machine::best();
        let terms: Vec<(Fp61, &[Fp61])> = terms.iter().map(|(k, x)| (*k, checked(x, n))).collect();
        build(n, 1, |first, out| {
            for (strip, out) in out.chunks_mut(STRIP).enumerate() {
                let from = first + strip * STRIP;
                let range = from..from + out.len();
                machine.combine(out, terms.iter().map(|(k, x)| (*k, &x[range.clone()])), constant);
            }
        })
    }
    fn product(&self, dims: Dims, x: &Words, y: &Words, add: Option<&Words>) -> Words {
        let (left, right, len) = dims.lens();
        let machine = Machine::best();
        let (x, y, add) = (checked(x, left), checked(y, right), add.map(|add| checked(add, len)));
        match dims {
            Dims::Elementwise(_) => build(len, 1, |first, out| {
                let range = first..first + out.len();
                let (x, y) = (&x[range.clone()], &y[range.clone()]);
                match add {
                    None => machine.multiply(out, x, y),
                    Some(add) => machine.multiply_add(out, x, y, &add[range]),
                }
            }),
            Dims::Matmul { k, n, .. } => {
                let mut out = add.map_or_else(|| Wiped::zeros(len), Wiped::copy);
                matrix::add_product(machine, &mut out, k, n, x, y);
                out.into()
            }
        }
    }
    fn view(&self, view: &View, inputs: &[&Words]) -> Words {
        views::apply(view, inputs)
    }
    fn part(&self, words: &Words, Range { start, end }: Range<usize>) -> Words {
        assert!(start <= end && end <= self.len(words), "a part reaches past the end of its vector");
        let first = words.range.start;
        Words { whole: Arc::clone(&words.whole), range: first + start..first + end }
    }
    fn expand(&self, n: usize, streams: &[(Fp61, Stream)], add: Option<&Words>) -> Words {
        let add = add.map(|add| checked(add, n));
        build(n, 1, |first, out| expand(first, out, streams, add))
    }
    fn expand_more(&self, n: usize, streams: &[(Fp61, Stream)], so_far: Option<(Words, usize)>) -> (Words, usize) {
        let (mut words, done) = so_far.unwrap_or_else(|| (Wiped::zeros(n).into(), 0));
        // Whole tasks: a stream that is entered within a block of its cipher stays half as fast.
        let piece = (PIECE / streams.len().max(1) / TASK).max(1) * TASK;
        let piece = piece.min(n - done);
        let made = words.own().expect("a vector in the making is nobody else's");
        fill(&mut made[done..done + piece], 1, |first, out| expand(done + first, out, streams, None));
        (words, done + piece)
    }
    fn add(&self, mut words: Words, add: &Words) -> Words {
        let machine = Machine::best();
        let n = self.len(&words);
        let Some(sum) = words.own() else {
            return self.linear(n, &[(Fp61::ONE, &words), (Fp61::ONE, add)], Fp61::ZERO);
        };
        let add = checked(add, n);
        fill(sum, 1, |first, out| machine.add_scaled(out, Fp61::ONE, &add[first..first + out.len()]));
        words
    }
    fn add_parts(&self, mut words: Words, add: &Parts<'_>) -> Words {
        let machine = Machine::best();
        assert_eq!(add.len(), self.len(&words), "a summand has another length than its plan says");
        let Some(sum) = words.own() else { return self.add(words, &self.load_parts(add)) };
        fill(sum, 1, |first, mut out| {
            for part in add.cut(first, out.len()).iter() {
                let (place, after) = out.split_at_mut(part.len());
                machine.add_scaled(place, Fp61::ONE, part);
                out = after;
            }
        });
        words
    }
    fn beaver(&self, dims: Dims, c: &Words, d: &Words, e: &Words, a: &Words, b: &Words, k: Fp61) -> Words {
        let (left, right, len) = dims.lens();
        let (d, a) = (checked(d, left), checked(a, left));
        let (e, b) = (checked(e, right), checked(b, right));
        let (c, machine) = (checked(c, len), Machine::best());
        match dims {
            Dims::Elementwise(_) => build(len, 1, |first, out| {
                let range = first..first + out.len();
                let [c, d, e, a, b] = [c, d, e, a, b].map(|words| &words[range.clone()]);
                machine.beaver(out, c, d, e, a, b, k);
            }),
            // c + D·b + (a + k·D)·E
            Dims::Matmul { k: inner, n, .. } => {
                let mut shifted = Wiped::copy(a);
                machine.add_scaled(&mut shifted, k, d);
                let mut out = Wiped::copy(c);
                matrix::add_product(machine, &mut out, inner, n, d, b);
                matrix::add_product(machine, &mut out, inner, n, &shifted, e);
                out.into()
            }
        }
    }
    fn shift(
        &self,
        c: &Words,
        thresholds: &[i64],
        by: u8,
        high: &Words,
        msb: &Words,
        public: Fp61,
        constant: Fp61,
    ) -> Words {
        let c = c.as_ref();
        digits::shift(c, thresholds, by, checked(high, c.len()), checked(msb, c.len()), public, constant)
    }
    fn leaf(
        &self,
        c: &Words,
        thresholds: &[i64],
        from: u8,
        bits: u8,
        one_hot: &Words,
        carry: Option<&Words>,
    ) -> (Words, Words) {
        let rows = c.as_ref().len() << bits;
        let carry = carry.map(|carry| checked(carry, rows));
        digits::leaf(c.as_ref(), thresholds, from, bits, checked(one_hot, rows), carry)
    }
    fn decode(
        &self,
        at_zero: &[Fp61],
        parity: &[Vec<Fp61>],
        shares: &[&Words],
    ) -> Result<(Words, Option<usize>), BackendError> {
        let n = self.len(shares[0]);
        let shares: Vec<_> = shares.iter().map(|share| checked(share, n)).collect();
        let machine = Machine::best();
        let combine = |out: &mut [Fp61], row: &[Fp61], from: usize| {
            let range = from..from + out.len();
            machine.combine(out, row.iter().zip(&shares).map(|(k, share)| (*k, &share[range.clone()])), Fp61::ZERO);
        };
        let wrong = AtomicUsize::new(usize::MAX);
        let opened = build(n, 1, |first, out| {
            let mut expected = [Fp61::ZERO; STRIP];
            for (strip, out) in out.chunks_mut(STRIP).enumerate() {
                let from = first + strip * STRIP;
                combine(out, at_zero, from);
                for (row, share) in parity.iter().zip(&shares[at_zero.len()..]) {
                    let expected = &mut expected[..out.len()];
                    combine(expected, row, from);
                    let found = &share[from..from + out.len()];
                    if let Some(at) = expected.iter().zip(found).position(|(expected, found)| expected != found) {
                        wrong.fetch_min(from + at, Ordering::Relaxed);
                    }
                }
            }
        });
        Ok((opened, Some(wrong.into_inner()).filter(|at| *at < n)))
    }
}

/// The words of an operand, which must have the length that the plan says.
fn checked(words: &Words, len: usize) -> &[Fp61] {
    let words = words.as_ref();
    assert_eq!(words.len(), len, "an operand has another length than its plan says");
    words
}

/// A vector of `n` words, computed in tasks of whole units: `task` gets the
/// index of its first word and its words, which are 0.
fn build(n: usize, unit: usize, task: impl Fn(usize, &mut [Fp61]) + Sync) -> Words {
    let mut out = Wiped::zeros(n);
    fill(&mut out, unit, task);
    out.into()
}

/// Computes on words in such tasks.
fn fill(out: &mut [Fp61], unit: usize, task: impl Fn(usize, &mut [Fp61]) + Sync) {
    let len = (TASK / unit).max(1) * unit;
    if out.len() <= len {
        task(0, out);
    } else {
        out.par_chunks_mut(len).enumerate().for_each(|(i, out)| task(i * len, out));
    }
}

/// out = Σ k·stream (+ add), from word `first` on.
fn expand(first: usize, out: &mut [Fp61], streams: &[(Fp61, Stream)], add: Option<&[Fp61]>) {
    let machine = Machine::best();
    let mut readers: Vec<_> = streams.iter().map(|(k, s)| (*k, s.reader(first as u64))).collect();
    let mut words = [Fp61::ZERO; STRIP];
    for (strip, out) in out.chunks_mut(STRIP).enumerate() {
        // Without a sum to start from, the first stream is not added but written.
        let (head, rest) = readers.split_at_mut(usize::from(add.is_none()).min(streams.len()));
        if let Some(add) = add {
            out.copy_from_slice(&add[first + strip * STRIP..][..out.len()]);
        }
        for (k, stream) in head {
            stream.fill(out);
            machine.scale(out, *k);
        }
        for (k, stream) in rest {
            let words = &mut words[..out.len()];
            stream.fill(words);
            machine.add_scaled(out, *k, words);
        }
    }
    words.as_mut_slice().zeroize();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_the_battery() {
        crate::backend::battery::run(Cpu);
    }

    #[test]
    #[should_panic(expected = "past the end of its vector")]
    fn a_part_ends_where_its_vector_ends_although_the_memory_goes_on() {
        let whole = Cpu.load(vec![Fp61::ONE; 3]);
        Cpu.part(&Cpu.part(&whole, 0..2), 1..3);
    }

    #[test]
    #[should_panic(expected = "another length")]
    fn a_summand_that_is_too_short_is_refused() {
        Cpu.add_parts(Cpu.load(vec![Fp61::ONE; 3]), &Parts::from(&[Fp61::ONE; 2][..]));
    }
}
