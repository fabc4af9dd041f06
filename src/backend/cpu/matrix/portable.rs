//! The kernel in plain integers, and the truth for the others: 4 × 4 sums of
//! 128 bits in registers, each reduced once in 64 products.

use super::Kernel;
use crate::field::Fp61;

/// Runs everywhere.
#[derive(Clone, Copy)]
pub struct Portable;

impl Kernel for Portable {
    const ROWS: usize = 4;
    const COLS: usize = 4;
    const DEPTH: usize = 4 * Fp61::LAZY;

    fn pack(word: Fp61) -> u64 {
        word.word()
    }
    fn enabled(self, run: impl FnOnce()) {
        run();
    }

    fn tile(self, x: &[u64], y: &[u64], rows: usize, cols: usize, emit: impl FnMut(usize, &[Fp61])) {
        match rows {
            1 => row_of::<1>(x, y, cols, emit),
            2 => row_of::<2>(x, y, cols, emit),
            3 => row_of::<3>(x, y, cols, emit),
            _ => row_of::<4>(x, y, cols, emit),
        }
    }
}

fn row_of<const M: usize>(x: &[u64], y: &[u64], cols: usize, emit: impl FnMut(usize, &[Fp61])) {
    match cols {
        1 => tile::<M, 1>(x, y, emit),
        2 => tile::<M, 2>(x, y, emit),
        3 => tile::<M, 3>(x, y, emit),
        _ => tile::<M, 4>(x, y, emit),
    }
}

fn tile<const M: usize, const N: usize>(x: &[u64], y: &[u64], mut emit: impl FnMut(usize, &[Fp61])) {
    let ((x, _), (y, _)) = (x.as_chunks::<{ Portable::ROWS }>(), y.as_chunks::<{ Portable::COLS }>());
    let mut results = [[Fp61::ZERO; N]; M];
    for (x, y) in x.chunks(Fp61::LAZY).zip(y.chunks(Fp61::LAZY)) {
        // One canonical word and at most 64 products: below 2^128 (`Fp61::LAZY`).
        let mut sums = results.map(|row| row.map(|word| u128::from(word.word())));
        for (x, y) in x.iter().zip(y) {
            for r in 0..M {
                for c in 0..N {
                    sums[r][c] += u128::from(x[r]) * u128::from(y[c]);
                }
            }
        }
        results = sums.map(|row| row.map(Fp61::reduce_wide));
    }
    results.iter().enumerate().for_each(|(r, row)| emit(r, row));
}
