//! Matrix products: tiles of at most 4 × 4 results in registers, products
//! summed as 128-bit integers and reduced once in 64.

use rayon::prelude::*;

use super::pool::Wiped;
use crate::field::Fp61;

/// Rows and columns of a full tile.
const TILE: usize = 4;
/// Multiply-adds that one task does at least.
const TASK: usize = 1 << 16;

/// out += x·y for `x` of `[m, k]`, `y` of `[k, n]`, `out` of `[m, n]`.
///
/// The columns of y are packed into panels of [`TILE`], once, unless too few
/// rows would use them. Tasks are blocks of rows.
pub fn add_product(out: &mut [Fp61], k: usize, n: usize, x: &[Fp61], y: &[Fp61]) {
    if out.is_empty() || k == 0 {
        return;
    }
    let m = out.len() / n;
    let packed = (m > TILE && n > 1).then(|| pack(k, n, y));
    let y = match &packed {
        Some(panels) => Right { words: panels, packed: true, k, n },
        None => Right { words: y, packed: false, k, n },
    };
    let rows = (TASK / (k * n)).clamp(1, m).next_multiple_of(TILE);
    if rows >= m {
        rows_of_tiles(out, x, &y);
    } else {
        out.par_chunks_mut(rows * n).zip(x.par_chunks(rows * k)).for_each(|(out, x)| rows_of_tiles(out, x, &y));
    }
}

/// The right operand, as it lies or in panels of [`TILE`] columns, each row-major.
struct Right<'a> {
    words: &'a [Fp61],
    packed: bool,
    k: usize,
    n: usize,
}

impl Right<'_> {
    /// The words from column `j` on, and how far apart its rows lie.
    fn panel(&self, j: usize, width: usize) -> (&[Fp61], usize) {
        if self.packed { (&self.words[j * self.k..][..width * self.k], width) } else { (&self.words[j..], self.n) }
    }
}

fn pack(k: usize, n: usize, y: &[Fp61]) -> Wiped {
    let mut panels = Wiped::zeros(k * n);
    for (panel, out) in panels.chunks_mut(TILE * k).enumerate() {
        let width = out.len() / k;
        for (out, row) in out.chunks_exact_mut(width).zip(y.chunks_exact(n)) {
            out.copy_from_slice(&row[panel * TILE..][..width]);
        }
    }
    panels
}

fn rows_of_tiles(out: &mut [Fp61], x: &[Fp61], y: &Right) {
    let strips = out.chunks_mut(TILE * y.n).zip(x.chunks(TILE * y.k));
    for (out, x) in strips {
        match out.len() / y.n {
            1 => row_of_tiles::<1>(out, x, y),
            2 => row_of_tiles::<2>(out, x, y),
            3 => row_of_tiles::<3>(out, x, y),
            _ => row_of_tiles::<4>(out, x, y),
        }
    }
}

fn row_of_tiles<const M: usize>(out: &mut [Fp61], x: &[Fp61], y: &Right) {
    for j in (0..y.n).step_by(TILE) {
        match y.n - j {
            1 => tile::<M, 1>(out, j, x, y),
            2 => tile::<M, 2>(out, j, x, y),
            3 => tile::<M, 3>(out, j, x, y),
            _ => tile::<M, 4>(out, j, x, y),
        }
    }
}

/// Adds M × N results, at column j of M rows.
fn tile<const M: usize, const N: usize>(out: &mut [Fp61], j: usize, x: &[Fp61], y: &Right) {
    let (panel, stride) = y.panel(j, N);
    let mut results: [[Fp61; N]; M] = std::array::from_fn(|r| std::array::from_fn(|c| out[r * y.n + j + c]));
    for from in (0..y.k).step_by(Fp61::LAZY) {
        let len = Fp61::LAZY.min(y.k - from);
        let rows: [&[Fp61]; M] = std::array::from_fn(|r| &x[r * y.k + from..][..len]);
        // One canonical word and at most 64 products: below 2^128 (`Fp61::LAZY`).
        let mut sums = results.map(|row| row.map(|word| u128::from(word.word())));
        for i in 0..len {
            let y: &[Fp61; N] = panel[(from + i) * stride..][..N].try_into().expect("N words");
            for r in 0..M {
                for c in 0..N {
                    sums[r][c] += rows[r][i].wide_mul(y[c]);
                }
            }
        }
        results = sums.map(|row| row.map(Fp61::reduce_wide));
    }
    for (r, row) in results.iter().enumerate() {
        out[r * y.n + j..][..N].copy_from_slice(row);
    }
}
