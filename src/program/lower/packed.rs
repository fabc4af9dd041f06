//! Comparisons on packed bits over GF(2), for the roster that has them.
//!
//! Source: the circuit of `docs/protocols.md`, section 8, on the sharing of
//! [`packed`](crate::sharing::packed). Given the masked opening c of X + r, the
//! sought bit is one bit of the integer X = c − r (− w + w·2^61):
//! the bits of c and r there, and the borrow from below, which a tree of (G, P)
//! pairs over pairs of bits computes. The dealer gives the bits of r and the
//! products of neighbours, so that leaves of two bits are linear.

use super::compare::digit_widths;
use super::{Lowering, Value};
use crate::field::Fp61;
use crate::program::plan::{Bit, BitLeaf, MSB, Material, MaterialId, Part, Prim, Pub, Sec};
use crate::program::planning::Comparisons;
use crate::sharing::packed;
use crate::tensor::Dims;

/// A comparison's bits of the mask.
pub(super) struct PackedMask {
    pub(super) material: MaterialId,
    /// bits below the lowest that any threshold has: compared once for all
    low: Vec<BitLeaf>,
    high: Vec<BitLeaf>,
    sign: u8,
}

impl PackedMask {
    fn rows(leaves: &[BitLeaf]) -> usize {
        leaves.iter().map(|(_, high)| if high.is_some() { 3 } else { 1 }).sum()
    }
}

/// Bits lowest first, two to a leaf.
fn leaves(bits: impl IntoIterator<Item = u8>) -> Vec<BitLeaf> {
    let bits: Vec<u8> = bits.into_iter().collect();
    bits.chunks(2).map(|pair| (pair[0], pair.get(1).copied())).collect()
}

impl Lowering {
    /// Whether a comparison of n values with so many thresholds, m bits of
    /// which `low` are common to all, runs on packed bits.
    pub(super) fn packs(&self, n: usize, thresholds: usize, m: u8, low: u8) -> bool {
        match self.planning.comparisons {
            Comparisons::Digits => false,
            Comparisons::Packed => true,
            Comparisons::Auto if !self.roster.packs_bits() || self.planning.losses > 0 => false,
            Comparisons::Auto => {
                let depth = |leaves: usize| u64::from(leaves.next_power_of_two().trailing_zeros());
                let both = |low: usize, high: usize| match (low, high) {
                    (0, only) | (only, 0) => depth(only),
                    (low, high) => depth(low).max(depth(high)) + 1,
                };
                // Digits: a product for each inner pair, bytes to each of three peers; one-hot
                // rows of material, which a node receives as it receives bytes of peers.
                let (low_digits, high_digits) = (digit_widths(low).count(), digit_widths(m - low).count());
                let products = (2 * low_digits).saturating_sub(1) + (2 * high_digits).saturating_sub(1) * thresholds;
                let rows: u64 = digit_widths(low).chain(digit_widths(m - low)).map(|width| 1 << width).sum();
                let bytes = (24 * products as u64 + 8 * (rows + 2)) * n as u64;
                let digits = (both(low_digits, high_digits), bytes);
                // Packed bits: a bit and a half for each product, three rows for each leaf, and
                // a word for each bit that leaves.
                let (low_leaves, high_leaves) = (low.div_ceil(2).into(), usize::from(m - low).div_ceil(2));
                let products = (2 * low_leaves) + 2 * high_leaves * thresholds;
                let layers = both(low_leaves, high_leaves) + 1;
                let rows = 3 * (low_leaves + high_leaves) as u64 + 1;
                let lanes = (12 * products as u64 + 9 * rows) * packed::lane(n) as u64;
                let packed = (layers, lanes + 8 * (n * thresholds) as u64 + 64 * layers);
                self.planning.pays(packed.0.saturating_sub(digits.0), digits.1.saturating_sub(packed.1))
            }
        }
    }

    /// The bits of a mask of n words that a comparison of m bits from bit
    /// `from` on takes; with the wrap carried in, or with what the truncation
    /// by `from` bits takes.
    pub(super) fn packed_mask(&mut self, n: usize, from: u8, m: u8, low: u8, truncates: bool) -> PackedMask {
        let carry = (!truncates).then_some(MSB);
        let (low, high) = if low > 0 {
            (leaves(carry.into_iter().chain(from..from + low)), leaves(from + low..from + m))
        } else {
            (Vec::new(), leaves(carry.into_iter().chain(from..from + m)))
        };
        let sign = from + m;
        let all = low.iter().chain(&high).copied().collect();
        let quotient = truncates.then_some(from);
        let material = self.add_material(Material::Packed { n, quotient, leaves: all, sign });
        PackedMask { material, low, high, sign }
    }

    /// Bit `sign` of c − T − (r + w), for each threshold T, as words.
    pub(super) fn packed_sign(&mut self, c: Pub, thresholds: &[i64], mask: PackedMask, flip: bool) -> Sec {
        let n = self.pub_lens[c.0 as usize];
        let (lane, all) = (packed::lane(n), thresholds.len());
        let rows = self.draw_bits(mask.material);
        let high_row = PackedMask::rows(&mask.low);
        let sign_row = (high_row + PackedMask::rows(&mask.high)) as u32;

        let below = (!mask.low.is_empty()).then(|| {
            let (g, p) = self.bit_leaves(c, &[0], &mask.low, false, rows, 0, lane);
            self.merge_leaves(g, p, mask.low.len(), false, lane).0
        });
        let borrow = match below {
            Some(below) => {
                let (g, p) = self.bit_leaves(c, thresholds, &mask.high, true, rows, high_row as u32, lane);
                let (g, p) = self.merge_leaves(g, p, mask.high.len(), true, lane * all);
                self.bit_merge(g, p, 1, true, Some(below), lane * all).0
            }
            None => {
                let (g, p) = self.bit_leaves(c, thresholds, &mask.high, false, rows, 0, lane);
                self.merge_leaves(g, p, mask.high.len(), false, lane * all).0
            }
        };

        // The bit leaves GF(2) under one that is known in both worlds.
        let known = self.add_material(Material::Bit { rows: all, n });
        let hidden = self.draw_bits(known);
        let masked = self.bits(lane * all);
        let thresholds = thresholds.to_vec();
        let at = mask.sign;
        let sign = Prim::BitSign { c, thresholds, at, flip, rows, row: sign_row, borrow, mask: hidden, out: masked };
        self.prims.push(sign);
        let opened = self.public(all * n);
        self.prims.push(Prim::OpenBits { x: masked, rows: all as u32, n, out: opened });
        let hidden = self.draw(known, Part::Value);
        // c ⊕ ρ = c + ρ − 2cρ.
        let both = self.scale(Dims::Elementwise(all * n), hidden, opened, false);
        let two = Fp61::reduce(2);
        let terms =
            [(Fp61::ONE, Value::Public(opened)), (Fp61::ONE, Value::Secret(hidden)), (-two, Value::Secret(both))];
        self.linear(all * n, &terms, Fp61::ZERO)
    }

    fn draw_bits(&mut self, material: MaterialId) -> Bit {
        let out = self.bits(self.material[material.0 as usize].packed_words());
        self.prims.push(Prim::DrawBits { material, out });
        out
    }

    #[allow(clippy::too_many_arguments)] // an opening and its leaves
    fn bit_leaves(
        &mut self,
        c: Pub,
        thresholds: &[i64],
        leaves: &[BitLeaf],
        lowest: bool,
        rows: Bit,
        row: u32,
        lane: usize,
    ) -> (Bit, Bit) {
        let width = lane * thresholds.len();
        let g = self.bits(leaves.len() * width);
        let p = self.bits((leaves.len() - usize::from(!lowest)) * width);
        let (thresholds, leaves) = (thresholds.to_vec(), leaves.to_vec());
        self.prims.push(Prim::BitLeaves { c, thresholds, leaves, lowest, rows, row, g, p });
        (g, p)
    }

    /// Joins leaves until one is left.
    fn merge_leaves(&mut self, mut g: Bit, mut p: Bit, mut leaves: usize, lowest: bool, width: usize) -> (Bit, Bit) {
        while leaves > 1 {
            (g, p) = self.bit_merge(g, p, leaves, lowest, None, width);
            leaves = leaves.div_ceil(2);
        }
        (g, p)
    }

    fn bit_merge(
        &mut self,
        g: Bit,
        p: Bit,
        leaves: usize,
        lowest: bool,
        below: Option<Bit>,
        width: usize,
    ) -> (Bit, Bit) {
        let words = packed::layer_words(leaves, lowest, below.is_some(), width);
        let masks = self.add_material(Material::Layer { words });
        let out_g = self.bits(leaves.div_ceil(2) * width);
        let out_p = if below.is_some() { 0 } else { leaves.div_ceil(2) - usize::from(!lowest) };
        let out_p = self.bits(out_p * width);
        let leaves = leaves as u32;
        self.prims.push(Prim::BitMerge { g, p, leaves, lowest, below, masks, out_g, out_p });
        (out_g, out_p)
    }
}
