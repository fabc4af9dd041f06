//! Local steps on packed words. The opened words c and the thresholds are
//! public; rows and shares are secret and are only combined.

use rayon::prelude::*;
use zeroize::Zeroizing;

use super::MSB;
use crate::field::Fp61;

/// Blocks of 64 words that one task transposes at least.
const TASK: usize = 64;

/// The complements of the bits of c − T, packed. Wiped on drop: the dealer makes
/// them of masks.
pub struct Planes {
    lane: usize,
    /// of each 64 words, 64 planes
    blocks: Zeroizing<Vec<[u64; 64]>>,
    /// bit 60 of c itself, whatever T is
    msb: Zeroizing<Vec<u64>>,
}

impl Planes {
    /// c − T is taken over the integers, in two's complement.
    pub fn of(c: &[Fp61], threshold: i64, lane: usize) -> Self {
        let block = |words: &[Fp61]| {
            let mut block = [u64::MAX; 64];
            for (out, c) in block.iter_mut().zip(words) {
                *out = !below(*c, threshold);
            }
            transpose(&mut block);
            block
        };
        let mut msb = Zeroizing::new(vec![0; lane]);
        add_bit(&mut msb, c, 0, MSB, true);
        let blocks = c.par_chunks(64).with_min_len(TASK).map(block).collect();
        Self { lane, blocks: Zeroizing::new(blocks), msb }
    }

    /// The complement of one bit, packed; of the last one for a carry, which
    /// counts where c did not wrap.
    pub fn complement(&self, bit: u8) -> impl Iterator<Item = u64> + '_ {
        (0..self.lane).map(move |i| match self.blocks.get(i) {
            _ if bit == MSB => self.msb[i],
            Some(block) => block[usize::from(bit)],
            None => u64::MAX,
        })
    }
}

fn below(c: Fp61, threshold: i64) -> u64 {
    (c.word() as i64 - threshold) as u64
}

/// Bit j of word i becomes bit i of word j (Warren, Hacker's Delight, 7-3).
fn transpose(block: &mut [u64; 64]) {
    let (mut j, mut mask) = (32, 0x0000_0000_ffff_ffffu64);
    while j != 0 {
        let mut k = 0;
        while k < 64 {
            let swap = (block[k] >> j ^ block[k + j]) & mask;
            block[k] ^= swap << j;
            block[k + j] ^= swap;
            k = (k + j + 1) & !j;
        }
        j >>= 1;
        mask ^= mask << j;
    }
}

/// out ⊕= bit `at` of c − T (⊕ 1 if `flip`).
pub fn add_bit(out: &mut [u64], c: &[Fp61], threshold: i64, at: u8, flip: bool) {
    for (out, words) in out.iter_mut().zip(c.chunks(64)) {
        let bits = words.iter().enumerate();
        *out ^= bits.fold(0, |bits, (i, c)| bits | (below(*c, threshold) >> at & 1) << i);
    }
    if flip {
        out.iter_mut().for_each(|out| *out ^= u64::MAX);
    }
}

/// out ⊕= x
pub fn add(out: &mut [u64], x: &[u64]) {
    out.iter_mut().zip(x).for_each(|(out, x)| *out ^= x);
}

/// The leaf of one bit l of the mask, b being the complement of that of c:
/// G = b·l, P = b ⊕ l. `one` is all ones for the component that carries constants.
pub fn single(b: &[u64], l: &[u64], one: u64, g: &mut [u64], p: Option<&mut [u64]>) {
    g.iter_mut().zip(b.iter().zip(l)).for_each(|(g, (b, l))| *g = b & l);
    if let Some(p) = p {
        p.iter_mut().zip(b.iter().zip(l)).for_each(|(p, (b, l))| *p = b & one ^ l);
    }
}

/// The leaf of two bits l, h with their product q, a and b being the
/// complements of those of c: with G and P of each as in [`single`],
/// G = a·h ⊕ (a ⊕ h)·b·l and P = (a ⊕ h)·(b ⊕ l), which are linear in l, h and q.
pub fn pair(a: &[u64], b: &[u64], [l, h, q]: [&[u64]; 3], one: u64, g: &mut [u64], p: Option<&mut [u64]>) {
    for (i, g) in g.iter_mut().enumerate() {
        *g = a[i] & h[i] ^ b[i] & (a[i] & l[i] ^ q[i]);
    }
    for (i, p) in p.into_iter().flatten().enumerate() {
        *p = a[i] & (b[i] & one ^ l[i]) ^ b[i] & h[i] ^ q[i];
    }
}

/// The local part of a product of components, the masks of whole pairs, and
/// the masked cross terms that go to the slot before and (vouched for) to the
/// opposite one.
pub fn product(
    [x1, x2, x3]: [&[u64]; 3],
    [y1, y2, y3]: [&[u64]; 3],
    [r1, r2, r3]: [&[u64]; 3],
    [z1, z2, z3]: &mut [&mut [u64]; 3],
    before: &mut [u64],
    opposite: &mut [u64],
) {
    for i in 0..z1.len() {
        opposite[i] = x1[i] & y2[i] ^ x2[i] & y1[i] ^ r2[i];
        before[i] = x2[i] & y3[i] ^ x3[i] & y2[i] ^ r3[i];
        // The mask of a pair belongs to the upper slot, the masked term to the lower.
        z1[i] = x1[i] & y1[i] ^ r1[i] ^ opposite[i];
        z2[i] = x2[i] & y2[i] ^ r2[i] ^ before[i];
        z3[i] = x3[i] & y3[i] ^ r3[i];
    }
}

/// The masked cross term of two components.
pub fn crossed([x, u]: [&[u64]; 2], [y, v]: [&[u64]; 2], mask: &[u64], out: &mut [u64]) {
    for (i, out) in out.iter_mut().enumerate() {
        *out = x[i] & v[i] ^ u[i] & y[i] ^ mask[i];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transpose_moves_every_bit() {
        let mut block = std::array::from_fn(|i| (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let before = block;
        transpose(&mut block);
        for (i, row) in before.iter().enumerate() {
            for (j, column) in block.iter().enumerate() {
                assert_eq!(row >> j & 1, column >> i & 1, "bit {j} of word {i}");
            }
        }
    }

    #[test]
    fn planes_are_complements_of_bits_over_the_integers() {
        let c: Vec<Fp61> = (0..150u64).map(|i| Fp61::reduce(i * 0x0123_4567_89ab_cdef)).collect();
        for threshold in [0i64, 5, -7, 1 << 59, -(1 << 59)] {
            let planes = Planes::of(&c, threshold, 4);
            for bit in (0..60).chain([MSB]) {
                let plane: Vec<u64> = planes.complement(bit).collect();
                for (i, c) in c.iter().enumerate() {
                    let threshold = if bit == MSB { 0 } else { threshold };
                    let expected = (c.word() as i64 - threshold) >> bit & 1 == 0;
                    assert_eq!(plane[i / 64] >> (i % 64) & 1 == 1, expected, "{i}, bit {bit}, {threshold}");
                }
            }
        }
    }

    /// G and P of one and of two bits, for all bits of c and of the mask.
    #[test]
    fn leaves_compare() {
        for v in 0..16u64 {
            let [c0, c1, r0, r1] = [v & 1, v >> 1 & 1, v >> 2 & 1, v >> 3];
            let (mut g, mut p) = ([0], [0]);
            single(&[1 - c0], &[r0], 1, &mut g, Some(&mut p));
            assert_eq!((g[0], p[0]), (u64::from(c0 < r0), u64::from(c0 == r0)));
            pair(&[1 - c1], &[1 - c0], [&[r0], &[r1], &[r0 * r1]], 1, &mut g, Some(&mut p));
            let (c, r) = (2 * c1 + c0, 2 * r1 + r0);
            assert_eq!((g[0], p[0]), (u64::from(c < r), u64::from(c == r)));
        }
    }
}
