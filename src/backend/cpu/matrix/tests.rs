//! Every kernel that this machine has, against sums of integers.

use super::*;
use crate::field::P;
use proptest::prelude::*;

/// x·y by remainders of integers, and added to itself by each kernel.
fn check(m: usize, k: usize, n: usize, x: &[Fp61], y: &[Fp61]) {
    let wide = |w: &Fp61| u128::from(w.word());
    let mut expected = vec![Fp61::ZERO; m * n];
    for (r, out) in expected.chunks_mut(n).enumerate() {
        for (c, out) in out.iter_mut().enumerate() {
            let sum = (0..k).fold(0, |sum, i| (sum + wide(&x[r * k + i]) * wide(&y[i * n + c])) % u128::from(P));
            *out = Fp61::new(sum as u64).unwrap();
        }
    }
    for machine in Machine::all() {
        let mut out = expected.clone();
        add_product(machine, &mut out, k, n, x, y);
        if let Some(i) = (0..m * n).find(|i| out[*i] != expected[*i] + expected[*i]) {
            panic!("{machine:?}, {m} x {k} x {n}: word {i} is {:?}, expected twice {:?}", out[i], expected[i]);
        }
    }
}

fn word(w: u64) -> Fp61 {
    Fp61::new(w).unwrap()
}

/// Words that differ everywhere, without a generator.
fn spread(n: usize, seed: u64) -> Vec<Fp61> {
    (0..n as u64).map(|i| Fp61::reduce((i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15 ^ seed).rotate_left(17))).collect()
}

/// The border of everything that a limb or a fold may be: 0, ±1, the ends of
/// the centred range, and limbs of ±2^30, ±2^29 and their neighbours.
fn borders() -> Vec<Fp61> {
    let centred = |high: i64, low: i64| Fp61::from_i64((high << 31) + low);
    let mut words: Vec<_> = [0, 1, 2, P - 2, P - 1, P / 2 - 1, P / 2, P / 2 + 1, P / 2 + 2].map(word).into();
    let low = [-(1 << 30), 1 - (1 << 30), -1, 0, 1, (1 << 30) - 1];
    for high in [1 - (1 << 29), -1, 0, 1, (1 << 29) - 1] {
        words.extend(low.map(|low| centred(high, low)));
    }
    words.extend([
        centred(1 << 29, -(1 << 30)),
        centred(1 << 29, -1),
        centred(-(1 << 29), 1),
        centred(-(1 << 29), (1 << 30) - 1),
    ]);
    words
}

#[test]
fn every_small_shape() {
    for (m, k, n) in (0..729).map(|i| (i / 81 + 1, i / 9 % 9 + 1, i % 9 + 1)) {
        check(m, k, n, &spread(m * k, 1), &spread(k * n, 2));
    }
}

#[test]
fn depths_around_folds_and_panels() {
    for k in [4, 5, 6, 7, 8, 10, 11, 63, 64, 65, 251, 252, 253, 254, 255, 256, 257, 260, 504, 509, 510, 511, 512, 513] {
        for (m, n) in [(1, 4), (4, 4), (5, 9), (9, 2), (8, 16)] {
            check(m, k, n, &spread(m * k, 3), &spread(k * n, 4));
        }
    }
}

/// The worst that accumulators can see: all terms alike and as large as they get.
#[test]
fn operands_filled_with_one_border() {
    for x in borders() {
        for y in borders() {
            for k in [5, 7, 255, 513] {
                check(4, k, 4, &vec![x; 4 * k], &vec![y; k * 4]);
            }
        }
    }
    for x in borders() {
        check(9, 511, 17, &vec![x; 9 * 511], &vec![x; 511 * 17]);
    }
}

#[test]
fn blocks_and_split_sums() {
    for (m, k, n) in
        [(3, 40_000, 600), (520, 70, 259), (2, 700_000, 3), (1, 3000, 1000), (1000, 300, 10), (9000, 300, 1)]
    {
        check(m, k, n, &spread(m * k, 5), &spread(k * n, 6));
    }
}

proptest! {
    #[test]
    fn any_mixture_of_borders(
        (m, k, n) in (1usize..10, 1usize..600, 2usize..20),
        picks in proptest::collection::vec(any::<u16>(), 64),
        seed: u64,
    ) {
        let borders = borders();
        let fill = |n: usize, offset: usize| -> Vec<Fp61> {
            let random = spread(n, seed);
            (0..n).map(|i| {
                let pick = usize::from(picks[(i * 7 + i / 64 + offset) % 64]);
                if pick % 3 == 0 { random[i] } else { borders[pick % borders.len()] }
            }).collect()
        };
        check(m, k, n, &fill(m * k, 0), &fill(k * n, 31));
    }
}
