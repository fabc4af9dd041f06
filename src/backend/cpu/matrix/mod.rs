//! Matrix products: the output is cut into blocks, one task each; a task packs
//! its part of both operands into panels that fit a cache, as words that its
//! kernel likes, and fills the block tile by tile.
//!
//! Which kernel runs is decided once, by the machine. All of them give the
//! same canonical words, because the result modulo p does not depend on the
//! order of the sum. Operands may be secret: packed copies are wiped, and
//! nothing branches on a word.

mod portable;

use std::ops::Range;

use rayon::prelude::*;

use self::portable::Portable;
use super::machine::Machine;
use super::pool::Wiped;
use crate::field::{Fp61, slice};

/// Computes tiles of a product from panels of packed words.
pub(super) trait Kernel: Copy + Send + Sync {
    /// Rows of a full tile: how many words of x lie side by side in a panel.
    const ROWS: usize;
    /// Columns of a full tile: how many words of y lie side by side in a panel.
    const COLS: usize;
    /// Terms that one call may sum, at most.
    const DEPTH: usize;

    /// A word of an operand as the kernel reads it.
    fn pack(word: Fp61) -> u64;
    /// Runs what is inlined into it with the kernel's instructions enabled.
    fn enabled(self, run: impl FnOnce());

    /// The product of a panel of x, `[k, ROWS]`, and a panel of y, `[k, COLS]`,
    /// k ≤ [`Kernel::DEPTH`]: `emit` gets each of the first `rows` rows, of
    /// which the first `cols` words count.
    fn tile(self, x: &[u64], y: &[u64], rows: usize, cols: usize, emit: impl FnMut(usize, &[Fp61]));
}

/// Columns of a block, at most. With 252 terms, panels of so many columns take
/// half a megabyte, which a second cache holds.
const WIDTH: usize = 256;
/// Columns of a row that one task does at least, if there are as many.
const STRIP: usize = 64;
/// Multiply-adds that one task does at least, if there are as many.
const TASK: usize = 1 << 21;

/// out += x·y for `x` of `[m, k]`, `y` of `[k, n]`, `out` of `[m, n]`.
pub fn add_product(machine: Machine, out: &mut [Fp61], k: usize, n: usize, x: &[Fp61], y: &[Fp61]) {
    if out.is_empty() || k == 0 {
        return;
    }
    let product = Product { k, n, x, y };
    if n == 1 {
        // A packed word would be used once.
        return product.add_vector(out);
    }
    if out.len() == n {
        return product.add_row(machine, out);
    }
    match machine {
        Machine::Plain => product.add(Portable, out),
        #[cfg(target_arch = "x86_64")]
        Machine::Avx2(kernel) => product.add(kernel, out),
        #[cfg(target_arch = "x86_64")]
        Machine::Avx512(kernel) => product.add(kernel, out),
    }
}

/// The operands, row-major.
#[derive(Clone, Copy)]
pub(super) struct Product<'a> {
    pub k: usize,
    pub n: usize,
    pub x: &'a [Fp61],
    pub y: &'a [Fp61],
}

/// A part of the output: segments of neighbouring rows.
struct Block<'a> {
    row: usize,
    col: usize,
    rows: Vec<&'a mut [Fp61]>,
}

impl Product<'_> {
    /// The product with a vector.
    fn add_vector(&self, out: &mut [Fp61]) {
        let rows = |out: &mut [Fp61], x: &[Fp61]| {
            out.iter_mut().zip(x.chunks_exact(self.k)).for_each(|(out, x)| *out += slice::dot(x, self.y));
        };
        // A dot product waits for memory sooner than for the multiplier.
        let len = (TASK / 16 / self.k).max(1);
        if len >= out.len() {
            rows(out, self.x);
        } else {
            out.par_chunks_mut(len).zip(self.x.par_chunks(len * self.k)).for_each(|(out, x)| rows(out, x));
        }
    }

    /// The product of one row: here, too, a packed word would be used once.
    fn add_row(&self, machine: Machine, out: &mut [Fp61]) {
        let cols = |first: usize, out: &mut [Fp61]| {
            for (x, y) in self.x.iter().zip(self.y.chunks_exact(self.n)) {
                machine.add_multiple(out, *x, &y[first..first + out.len()]);
            }
        };
        let len = (TASK / 16 / self.k).max(STRIP);
        if len >= out.len() {
            cols(0, out);
        } else {
            out.par_chunks_mut(len).enumerate().for_each(|(i, out)| cols(i * len, out));
        }
    }

    /// Adds the product to `out`, on all cores.
    pub(super) fn add<K: Kernel>(&self, kernel: K, out: &mut [Fp61]) {
        let m = out.len() / self.n;
        let width = self.n.min(WIDTH);
        // High blocks, because every one packs its columns of y; but some more
        // of them than threads, as long as each is worth a task.
        let across = self.n.div_ceil(width);
        let tasks = (m * width * self.k * across / TASK).clamp(1, 6 * rayon::current_num_threads());
        let height = (m * across / tasks).clamp(1, m).next_multiple_of(K::ROWS);
        let blocks = blocks(out, self.n, height, width);
        // Few outputs of very many terms: the terms are dealt out as well.
        let depth = (TASK / (m * width)).next_multiple_of(K::DEPTH);
        if blocks.len() == 1 && self.k >= 2 * depth {
            let tasks: Vec<_> = (0..self.k).step_by(depth).map(|from| from..(from + depth).min(self.k)).collect();
            let sum = |terms: Range<usize>| {
                let mut sum = Wiped::zeros(m * self.n);
                self.add_block(kernel, terms, whole(&mut sum, self.n));
                sum
            };
            let sums: Vec<Wiped> = tasks.into_par_iter().map(sum).collect();
            sums.iter().for_each(|sum| slice::add(out, sum));
        } else if blocks.len() == 1 {
            blocks.into_iter().for_each(|block| self.add_block(kernel, 0..self.k, block));
        } else {
            blocks.into_par_iter().for_each(|block| self.add_block(kernel, 0..self.k, block));
        }
    }

    /// Adds the sum over some of the k terms to one block.
    fn add_block<K: Kernel>(&self, kernel: K, terms: Range<usize>, mut block: Block) {
        let cols = block.rows[0].len();
        let depth = K::DEPTH.min(terms.len());
        let mut right = Wiped::<u64>::zeros(depth * cols.next_multiple_of(K::COLS));
        let mut left = Wiped::<u64>::zeros(depth * K::ROWS);
        for from in terms.clone().step_by(K::DEPTH) {
            let terms = from..(from + K::DEPTH).min(terms.end);
            let depth = terms.len();
            kernel.enabled(|| self.pack_right::<K>(terms.clone(), block.col..block.col + cols, &mut right));
            for (strip, out) in block.rows.chunks_mut(K::ROWS).enumerate() {
                let left = &mut left[..depth * K::ROWS];
                self.pack_left::<K>(terms.clone(), block.row + strip * K::ROWS, out.len(), left);
                for (panel, right) in right.chunks_exact(depth * K::COLS).take(cols.div_ceil(K::COLS)).enumerate() {
                    let at = panel * K::COLS;
                    let width = K::COLS.min(cols - at);
                    kernel.tile(left, right, out.len(), width, |r, sums| {
                        out[r][at..at + width].iter_mut().zip(sums).for_each(|(out, sum)| *out += *sum);
                    });
                }
            }
        }
    }

    /// Some columns in panels. Columns that the last panel lacks stay what they
    /// are, and so do the sums that come of them: nobody reads those.
    #[inline(always)]
    fn pack_right<K: Kernel>(&self, terms: Range<usize>, cols: Range<usize>, panels: &mut [u64]) {
        let panel = terms.len() * K::COLS;
        for (at, i) in terms.enumerate() {
            let row = &self.y[i * self.n..][cols.clone()];
            let mut panels = panels[at * K::COLS..].chunks_mut(panel);
            let whole = row.chunks_exact(K::COLS);
            let rest = whole.remainder();
            for (words, out) in whole.chain([rest]).zip(&mut panels) {
                out.iter_mut().zip(words).for_each(|(out, word)| *out = K::pack(*word));
            }
        }
    }

    /// `rows` rows from `row` on.
    fn pack_left<K: Kernel>(&self, terms: Range<usize>, row: usize, rows: usize, panel: &mut [u64]) {
        for r in 0..rows {
            let x = &self.x[(row + r) * self.k..][terms.clone()];
            panel[r..].iter_mut().step_by(K::ROWS).zip(x).for_each(|(out, word)| *out = K::pack(*word));
        }
    }
}

fn whole(out: &mut [Fp61], n: usize) -> Block<'_> {
    Block { row: 0, col: 0, rows: out.chunks_exact_mut(n).collect() }
}

/// Cuts rows of n words into blocks.
fn blocks(out: &mut [Fp61], n: usize, height: usize, width: usize) -> Vec<Block<'_>> {
    let mut blocks = Vec::new();
    for (i, strip) in out.chunks_mut(height * n).enumerate() {
        let first = blocks.len();
        let rows = strip.len() / n;
        let cols = (0..n).step_by(width);
        blocks.extend(cols.map(|col| Block { row: i * height, col, rows: Vec::with_capacity(rows) }));
        for row in strip.chunks_exact_mut(n) {
            for (block, part) in blocks[first..].iter_mut().zip(row.chunks_mut(width)) {
                block.rows.push(part);
            }
        }
    }
    blocks
}

#[cfg(test)]
mod tests;
