//! Bits shared over GF(2) among four nodes, 64 to a word, with at most one of
//! the nodes corrupt.
//!
//! Replicated sharing as in Dalskov, Escudero and Keller, "Fantastic Four"
//! (USENIX Security 2021, eprint 2020/1330), section 3: x = x₁ ⊕ x₂ ⊕ x₃ ⊕ x₄,
//! where component j is what node j lacks and the three others hold. A uniform
//! sharing costs nothing (each component is a stream of the key that node j
//! lacks), sums are local, and of a product
//!
//! ```text
//! x·y = Σ x_i·y_i ⊕ Σ_{i<j} (x_i·y_j ⊕ x_j·y_i)
//! ```
//!
//! the diagonal is local while the cross term of a pair {i, j} is known to the
//! two nodes outside of the pair. They mask it with a word r of the key that j
//! lacks; r becomes part of component j, and the masked term, which is uniform
//! to j, part of component i: one of the two sends it to j and the other
//! *vouches* for it by a hash in the same round. Node j compares before it uses
//! the layer or sends anything that depends on it. As one of the two is honest,
//! a wrong term that passes is a collision of BLAKE3; and whatever is wrong
//! with a layer, the job ends with the same words, so that ending tells nothing.
//!
//! Who sends what, with slots modulo 4: the pairs {j − 1, j} whole, the pairs
//! {j, j + 2} by halves of each row (the first half to the lower of the two),
//! and an opening's component j: **node j + 1 sends them to node j**, node
//! j + 2 vouches for the first and last kind, node j − 1 for the halves. So each
//! node sends words to one other, three for two of the product, and a hash to
//! each of the two others.

mod kernels;

use std::collections::BTreeMap;
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::field::Fp61;
use crate::prg::{Address, Domain, PrgKey};
use crate::roster::{Roster, Slot, Subset};

/// A leaf of a comparison: one bit of the mask or two neighbours, the lower
/// first. Bit [`MSB`] stands for the wrap that is carried in.
pub type BitLeaf = (u8, Option<u8>);
/// The highest bit of a field element.
pub const MSB: u8 = 60;

/// Words of a packed row of n bits: even, so that its halves are whole words.
pub fn lane(n: usize) -> usize {
    2 * n.div_ceil(128)
}

/// Words of the dealer's stream that carry so many packed words: 60 bits each,
/// so that every stream word is a field element.
pub fn stream_words(packed: usize) -> usize {
    (packed * 64).div_ceil(60)
}

/// Stream words `first..first + out.len()` of a run of packed words, which are
/// given from the one that holds bit 60·first on ([`packed_range`]).
pub fn to_stream(first: usize, packed: &[u64], out: &mut [Fp61]) {
    let base = first * 60 / 64;
    for (i, out) in out.iter_mut().enumerate() {
        let bit = (first + i) * 60;
        let (word, shift) = (bit / 64 - base, bit % 64);
        let next = packed.get(word + 1).copied().unwrap_or(0);
        let both = u128::from(packed[word]) | u128::from(next) << 64;
        *out = Fp61::reduce((both >> shift) as u64 & ((1 << 60) - 1));
    }
}

/// The packed words behind stream words `first..first + count`, of `total` in all.
pub fn packed_range(first: usize, count: usize, total: usize) -> std::ops::Range<usize> {
    first * 60 / 64..((first + count) * 60).div_ceil(64).min(total)
}

/// The packed words that a run of the stream carries; bits above the 60th of a
/// word, which only its maker can have set, are lost.
pub fn from_stream(stream: &[Fp61], packed: usize) -> Vec<u64> {
    let mut out = vec![0u64; packed];
    for (i, word) in stream.iter().enumerate() {
        let bit = i * 60;
        let both = u128::from(word.word() & ((1 << 60) - 1)) << (bit % 64);
        for (at, half) in [(bit / 64, both as u64), (bit / 64 + 1, (both >> 64) as u64)] {
            if let Some(out) = out.get_mut(at) {
                *out |= half;
            }
        }
    }
    out
}

/// The packed rows that a comparison takes of masks r: those of its leaves, then
/// that of bit `sign`.
pub fn rows(r: &[Fp61], leaves: &[BitLeaf], sign: u8) -> Zeroizing<Vec<u64>> {
    let lane = lane(r.len());
    let planes = kernels::Planes::of(r, 0, lane);
    let count: usize = leaves.iter().map(|(_, high)| if high.is_some() { 3 } else { 1 }).sum();
    // In one piece: what grows leaves copies behind.
    let mut rows = Zeroizing::new(Vec::with_capacity((count + 1) * lane));
    for (low, high) in leaves.iter().copied().chain([(sign, None)]) {
        let start = rows.len();
        rows.extend(planes.complement(low).map(|word| !word));
        if let Some(high) = high {
            rows.extend(planes.complement(high).map(|word| !word));
            for i in start..start + lane {
                let product = rows[i] & rows[i + lane];
                rows.push(product);
            }
        }
    }
    rows
}

/// Three of four components, those that the slots after this one lack, in that
/// order. Wiped with the last clone; cannot be printed or compared.
#[derive(Clone)]
pub struct Bits(Arc<[Zeroizing<Vec<u64>>; 3]>);

impl Bits {
    fn new(components: [Vec<u64>; 3]) -> Self {
        Self(Arc::new(components.map(Zeroizing::new)))
    }
    /// Packed words of each component.
    #[allow(clippy::len_without_is_empty)] // a register's length, nothing else
    pub fn len(&self) -> usize {
        self.0[0].len()
    }
    fn row(&self, row: usize, lane: usize) -> [&[u64]; 3] {
        [0, 1, 2].map(|d| &self.0[d][row * lane..][..lane])
    }
}

/// What a node says in one layer of products or openings.
#[derive(Default)]
pub struct Said {
    /// the words for the slot before this one
    pub words: Vec<u64>,
    /// what the opposite slot is sent by another: whole pairs, components
    pub opposite: Vec<u64>,
    /// what the next slot is sent by another: half pairs
    pub next: Vec<u64>,
}

/// A layer of products that waits for its words.
pub struct Merging {
    g: Bits,
    p: Bits,
    leaves: usize,
    lowest: bool,
    below: bool,
    lane: usize,
    /// products, row after row, as far as this node knows them
    products: [Zeroizing<Vec<u64>>; 3],
}

/// One node's end.
pub struct Replicated {
    slot: Slot,
    /// the keys that the slots after this one lack, in that order
    keys: [PrgKey; 3],
}

impl Replicated {
    /// The end of a node that holds these keys, if the roster has packed bits
    /// ([`Roster::packs_bits`]).
    pub(super) fn new(roster: Roster, slot: Slot, keys: &BTreeMap<Subset, PrgKey>) -> Option<Self> {
        let lacking = |slot: Slot| keys.iter().find(|(subset, _)| !subset.contains(slot)).map(|(_, key)| key.clone());
        let keys = [1, 2, 3].map(|d| lacking(after(slot, d)));
        match keys {
            [Some(a), Some(b), Some(c)] if roster.packs_bits() => Some(Self { slot, keys: [a, b, c] }),
            _ => None,
        }
    }

    /// Whether this node holds the component that carries constants and
    /// corrections: that of slot 1; as an index.
    fn first_component(&self) -> Option<usize> {
        // The slot d after this one is slot 1.
        (0..3).find(|d| after(self.slot, *d as u8 + 1) == Slot(1))
    }

    /// Draws packed words at an address, corrected by the dealer's if given.
    pub fn draw(&self, address: Address, words: usize, corrections: Option<&[u64]>) -> Bits {
        let address = Address { domain: Domain::Bits, ..address };
        let mut components = [0, 1, 2].map(|d| {
            let mut out = vec![0; words];
            self.keys[d].stream(address).fill_raw(0, &mut out);
            out
        });
        if let (Some(corrections), Some(d)) = (corrections, self.first_component()) {
            components[d].iter_mut().zip(corrections).for_each(|(x, c)| *x ^= c);
        }
        Bits::new(components)
    }

    /// Leaves of a comparison of an opening c with the mask whose packed bits
    /// are `rows`: (G, P), a row for each leaf and in it a lane for each threshold.
    pub fn leaves(
        &self,
        c: &[Fp61],
        thresholds: &[i64],
        leaves: &[BitLeaf],
        lowest: bool,
        rows: &Bits,
        first_row: usize,
    ) -> (Bits, Bits) {
        let lane = lane(c.len());
        let width = thresholds.len() * lane;
        let without = usize::from(!lowest);
        let mut g = [0, 1, 2].map(|_| vec![0; leaves.len() * width]);
        let mut p = [0, 1, 2].map(|_| vec![0; (leaves.len() - without) * width]);
        for (t, threshold) in thresholds.iter().enumerate() {
            let planes = kernels::Planes::of(c, *threshold, lane);
            let mut row = first_row;
            for (i, (low, high)) in leaves.iter().enumerate() {
                let at = i * width + t * lane;
                let plane = |bit| planes.complement(bit).collect::<Vec<u64>>();
                let (b, a) = (plane(*low), high.map(plane));
                for d in 0..3 {
                    let one = if self.first_component() == Some(d) { u64::MAX } else { 0 };
                    let row = |j: usize| &rows.0[d][(row + j) * lane..][..lane];
                    let g = &mut g[d][at..][..lane];
                    let p = i.checked_sub(without).map(|i| &mut p[d][i * width + t * lane..][..lane]);
                    match &a {
                        None => kernels::single(&b, row(0), one, g, p),
                        Some(a) => kernels::pair(a, &b, [row(0), row(1), row(2)], one, g, p),
                    }
                }
                row += if high.is_some() { 3 } else { 1 };
            }
        }
        (Bits::new(g), Bits::new(p))
    }

    /// Joins neighbouring leaves, lowest first (or one leaf with what lies
    /// below it): this node's part of the products, and what it says.
    /// The masks' address must never serve another layer.
    pub fn merge(
        &self,
        (g, p): (&Bits, &Bits),
        leaves: usize,
        lowest: bool,
        below: Option<&Bits>,
        masks: Address,
    ) -> (Merging, Said) {
        let lane = g.len() / leaves;
        let factors = factors(leaves, lowest, below.is_some());
        let total = factors.len() * lane;
        let mask = |key: &PrgKey, part, words| {
            let mut out = Zeroizing::new(vec![0u64; words]);
            key.stream(Address { domain: Domain::Bits, part, ..masks }).fill_raw(0, &mut out);
            out
        };
        let whole = self.keys.each_ref().map(|key| mask(key, 0, total));
        let halves = self.keys.each_ref().map(|key| mask(key, 1, total / 2));
        let mut products = [0, 1, 2].map(|_| Zeroizing::new(vec![0u64; total]));
        let mut said = Said { words: vec![0; total + total / 2], opposite: vec![0; total], next: vec![0; total / 2] };
        let repeated = below.map(|below| repeat(below, lane));
        for (row, (high, low)) in factors.iter().enumerate() {
            let x = p.row(*high, lane);
            let y = match low {
                Low::G(i) => g.row(*i, lane),
                Low::P(i) => p.row(*i, lane),
                Low::Below => repeated.as_ref().expect("a factor of what lies below").row(0, lane),
            };
            let at = row * lane..(row + 1) * lane;
            let half_at = row * lane / 2..(row + 1) * lane / 2;
            let mut z = products.each_mut().map(|z| &mut z[at.clone()]);
            let (to_before, half_to_before) = said.words.split_at_mut(total);
            let masks = whole.each_ref().map(|mask| &mask[at.clone()]);
            kernels::product(x, y, masks, &mut z, &mut to_before[at.clone()], &mut said.opposite[at]);
            // The pair of the next slot and the one before: by halves to each of
            // them, vouched for to the next, sent to the one before.
            for (d, out) in [(0, &mut said.next[..]), (2, half_to_before)] {
                let out = &mut out[half_at.clone()];
                let (half, mask) = (half_of(after(self.slot, d as u8 + 1), lane), &halves[d][half_at.clone()]);
                let (x, y) = ([x[0], x[2]].map(|v| &v[half.clone()]), [y[0], y[2]].map(|v| &v[half.clone()]));
                kernels::crossed(x, y, mask, out);
                kernels::add(&mut z[d][half.clone()], mask);
                kernels::add(&mut z[2 - d][half], out);
            }
            // The pair of this slot and the opposite one: the mask, where that
            // one receives; this slot's own half comes with `merged`.
            kernels::add(&mut z[1][half_of(after(self.slot, 2), lane)], &halves[1][half_at]);
        }
        let below = below.is_some();
        let merging = Merging { g: g.clone(), p: p.clone(), leaves, lowest, below, lane, products };
        (merging, said)
    }

    /// The joined leaves (G, P), with the words from the next slot, which must
    /// have been vouched for.
    pub fn merged(&self, merging: Merging, words: &[u64]) -> (Bits, Bits) {
        let Merging { g, p, leaves, lowest, below, lane, mut products } = merging;
        let factors = factors(leaves, lowest, below);
        let (whole, halves) = words.split_at(factors.len() * lane);
        kernels::add(&mut products[2], whole);
        for row in 0..factors.len() {
            let half = half_of(self.slot, lane);
            kernels::add(&mut products[1][row * lane..][half], &halves[row * lane / 2..][..lane / 2]);
        }
        let pairs = if below { 1 } else { leaves / 2 };
        let odd = !below && leaves % 2 == 1;
        let joined = |d: usize| {
            let mut out = Vec::with_capacity((pairs + 1) * lane);
            for i in 0..pairs {
                let high = if below { 0 } else { 2 * i + 1 };
                let g = &g.0[d][high * lane..][..lane];
                out.extend(g.iter().zip(&products[d][i * lane..]).map(|(g, z)| g ^ z));
            }
            if odd {
                out.extend_from_slice(&g.0[d][(leaves - 1) * lane..]);
            }
            out
        };
        let passed = |d: usize| {
            let own = &products[d][pairs * lane..];
            // In one piece: what grows leaves copies behind.
            let mut out = Vec::with_capacity(own.len() + lane);
            out.extend_from_slice(own);
            if odd && p.len() > 0 {
                out.extend_from_slice(&p.0[d][p.len() - lane..]);
            }
            out
        };
        (Bits::new([0, 1, 2].map(joined)), Bits::new([0, 1, 2].map(passed)))
    }

    /// Bit `at` of c − T ⊕ a row of the mask ⊕ borrow ⊕ flip ⊕ mask, a lane
    /// for each threshold.
    #[allow(clippy::too_many_arguments)] // the letters of one formula
    pub fn sign(
        &self,
        c: &[Fp61],
        thresholds: &[i64],
        at: u8,
        flip: bool,
        rows: &Bits,
        row: usize,
        borrow: &Bits,
        mask: &Bits,
    ) -> Bits {
        let lane = lane(c.len());
        let mut out = [0, 1, 2].map(|d| {
            let mut out = borrow.0[d].to_vec();
            kernels::add(&mut out, &mask.0[d]);
            out.chunks_exact_mut(lane).for_each(|lane_of| kernels::add(lane_of, rows.row(row, lane)[d]));
            out
        });
        if let Some(d) = self.first_component() {
            for (threshold, out) in thresholds.iter().zip(out[d].chunks_exact_mut(lane)) {
                kernels::add_bit(out, c, *threshold, at, flip);
            }
        }
        Bits::new(out)
    }

    /// What a node says to open bits.
    pub fn opening(&self, x: &Bits) -> Said {
        Said { words: x.0[2].to_vec(), opposite: x.0[1].to_vec(), next: Vec::new() }
    }

    /// The opened bits, with the component from the next slot, which must have
    /// been vouched for: `rows` rows of n words that are 0 or 1.
    pub fn opened(&self, x: &Bits, component: &[u64], rows: usize, n: usize) -> Vec<Fp61> {
        let mut all = component.to_vec();
        x.0.iter().for_each(|own| kernels::add(&mut all, own));
        let bit = |row: &[u64], i: usize| Fp61::reduce(row[i / 64] >> (i % 64) & 1);
        let lane = lane(n);
        (0..rows).flat_map(|r| (0..n).map(move |i| (r, i))).map(|(r, i)| bit(&all[r * lane..], i)).collect()
    }
}

/// The slot so many places on, of four.
pub fn after(slot: Slot, places: u8) -> Slot {
    Slot((slot.0 - 1 + places) % 4 + 1)
}

/// The half of a row in which a slot receives from the pair of it and the opposite one.
fn half_of(slot: Slot, lane: usize) -> std::ops::Range<usize> {
    if slot.0 <= 2 { 0..lane / 2 } else { lane / 2..lane }
}

/// The second factor of a product of a layer.
enum Low {
    G(usize),
    P(usize),
    Below,
}

/// The products of a layer: rows of P, each with its second factor.
fn factors(leaves: usize, lowest: bool, below: bool) -> Vec<(usize, Low)> {
    let without = usize::from(!lowest);
    if below {
        return vec![(0, Low::Below)];
    }
    let pairs = leaves / 2;
    let high = |i: usize| 2 * i + 1 - without;
    let g = (0..pairs).map(|i| (high(i), Low::G(2 * i)));
    g.chain((without..pairs).map(|i| (high(i), Low::P(2 * i - without)))).collect()
}

/// How many packed words of products a layer has.
pub fn layer_words(leaves: usize, lowest: bool, below: bool, lane: usize) -> usize {
    factors(leaves, lowest, below).len() * lane
}

/// One lane repeated to a whole row.
fn repeat(x: &Bits, lane: usize) -> Bits {
    Bits::new([0, 1, 2].map(|d| x.0[d].repeat(lane / x.len())))
}

#[cfg(test)]
mod tests;
