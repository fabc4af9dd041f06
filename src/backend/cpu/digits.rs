//! Kernels of the exact shift and of comparison, on masked openings.
//!
//! The opened words c, the thresholds and therefore every digit are public and
//! may index; the rows that they pick from are secret and are only copied and
//! added.

use rayon::prelude::*;

use super::machine::Machine;
use super::pool::Wiped;
use super::{STRIP, TASK, Words, build};
use crate::field::{Fp61, slice};

/// See [`Backend::shift`](crate::backend::Backend::shift).
pub fn shift(
    c: &[Fp61],
    thresholds: &[i64],
    by: u8,
    high: &[Fp61],
    msb: &[Fp61],
    public: Fp61,
    constant: Fp61,
) -> Words {
    assert!(by <= 61, "a shift by {by} leaves nothing of 61 bits");
    // 2^61 ≡ 1 if by = 0.
    let wrap = Fp61::reduce(1 << (61 - by));
    let (n, machine) = (c.len(), Machine::best());
    build(thresholds.len() * n, 1, |mut first, mut out| {
        while !out.is_empty() {
            let (threshold, at) = (thresholds[first / n], first % n);
            let (head, rest) = out.split_at_mut(out.len().min(n - at));
            let range = at..at + head.len();
            let [c, high, msb] = [c, high, msb].map(|words| &words[range.clone()]);
            machine.shift(head, c, threshold, by, high, msb, public, wrap, constant);
            (first, out) = (first + head.len(), rest);
        }
    })
}

/// See [`Backend::leaf`](crate::backend::Backend::leaf).
pub fn leaf(
    c: &[Fp61],
    thresholds: &[i64],
    from: u8,
    bits: u8,
    one_hot: &[Fp61],
    carry: Option<&[Fp61]>,
) -> (Words, Words) {
    let n = c.len();
    let (mut greater, mut equal) = (Wiped::zeros(thresholds.len() * n), Wiped::zeros(thresholds.len() * n));
    // A task owns one range of words, of every threshold: the sums over v > u
    // are made once and serve all of them.
    let mut tasks: Vec<Vec<(&mut [Fp61], &mut [Fp61])>> = Vec::new();
    if n > 0 {
        for (greater, equal) in greater.chunks_exact_mut(n).zip(equal.chunks_exact_mut(n)) {
            for (i, pair) in greater.chunks_mut(STRIP).zip(equal.chunks_mut(STRIP)).enumerate() {
                if tasks.len() == i {
                    tasks.push(Vec::with_capacity(thresholds.len()));
                }
                tasks[i].push(pair);
            }
        }
    }
    #[allow(clippy::type_complexity)] // a task is its pairs of output strips
    let run = |(i, task): (usize, Vec<(&mut [Fp61], &mut [Fp61])>)| {
        let at = i * STRIP;
        let len = STRIP.min(n - at);
        let above = above(one_hot, n, at, len, 1 << bits);
        for ((greater, equal), threshold) in task.into_iter().zip(thresholds) {
            for i in 0..len {
                let c = c[at + i];
                let u = (below(c, *threshold) >> from) as usize & ((1 << bits) - 1);
                greater[i] = above[u * len + i];
                equal[i] = one_hot[u * n + at + i];
                if let (Some(carry), false) = (carry, top(c)) {
                    greater[i] += carry[u * n + at + i];
                }
            }
        }
    };
    if n * thresholds.len() <= TASK {
        tasks.into_iter().enumerate().for_each(run);
    } else {
        tasks.into_par_iter().enumerate().for_each(run);
    }
    (greater.into(), equal.into())
}

/// Row u holds Σ_{v > u} one_hot\[v\], for `len` words from `at` on.
fn above(one_hot: &[Fp61], n: usize, at: usize, len: usize, rows: usize) -> Wiped {
    let mut above = Wiped::zeros(rows * len);
    for u in (0..rows - 1).rev() {
        let (low, high) = above.split_at_mut((u + 1) * len);
        let row = &mut low[u * len..];
        row.copy_from_slice(&high[..len]);
        slice::add(row, &one_hot[(u + 1) * n + at..][..len]);
    }
    above
}

/// c − T over the integers: c < 2^61 and |T| ≤ 2^60, so nothing overflows.
fn below(c: Fp61, threshold: i64) -> i64 {
    c.word() as i64 - threshold
}

/// Bit 60, the highest of a canonical word.
fn top(c: Fp61) -> bool {
    c.word() >> 60 == 1
}
