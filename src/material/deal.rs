//! The owner deals: from the job's keys it derives what the nodes' shares
//! stand for, computes the values that each material op asks for, and writes
//! the public corrections Δ as signed segments, on all cores, one window of
//! the stream at a time.
//!
//! Any word of Δ is a function of its position, so a window is cut into pieces
//! that are computed apart. Only products under views and matrix products are
//! computed whole; they and their masks live while the stream passes them.
//! r is the canonical word that the keys give, which is never p.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use rayon::prelude::*;
use zeroize::Zeroizing;

use super::{MaterialError, address, delta_words, input_address};
use crate::backend::Backend;
use crate::backend::cpu::{Cpu, Words};
use crate::field::{Fp61, P};
use crate::keys::SecretKey;
use crate::prg::Address;
use crate::program::Drawing;
use crate::program::plan::{MaskRef, Material, MaterialId, Part, Plan};
use crate::roster::Scheme;
use crate::sharing::{Dealer, packed};
use crate::tensor::{Dims, View};
use crate::transcript::{SEGMENT_WORDS, SignedHeader, StreamPlace};

/// Segments that are made at once: 16 MiB.
const WINDOW_SEGMENTS: u64 = 32;
/// Words that one core makes at a time.
const PIECE: usize = 1 << 13;
/// Words of masks kept for later products (a data set's mask serves every epoch).
const MASK_CACHE: usize = 1 << 23;

/// The public corrections that carry an owner's input to the nodes, in the
/// layout of [`Sharing::draw`](crate::sharing::Sharing::draw): n words for
/// Shamir, 2n for SPDZ. Their [`root`](crate::transcript::root) goes into the manifest.
///
/// The same nonce must never carry two different values: their difference would show.
pub fn input_corrections(
    dealer: &dyn Dealer,
    plan: &Plan,
    number: u32,
    values: &[Fp61],
) -> Result<Vec<Fp61>, MaterialError> {
    let input = plan.inputs.get(number as usize).ok_or(MaterialError::NoInput { number, inputs: plan.inputs.len() })?;
    if dealer.roster() != plan.roster {
        return Err(MaterialError::Roster { found: dealer.roster(), expected: plan.roster });
    }
    let (found, expected) = (values.len(), input.shape.len());
    if found != expected {
        return Err(MaterialError::Input { name: input.name.clone(), found, expected });
    }
    Ok(dealer.corrections(input_address(number), found, Some(values)))
}

/// Δ words of the first attempt's stream, from an offset on, dealt anew: what [`SegmentStream`] has there.
/// Costs what these words cost, and the products whole that they lie in.
pub(crate) fn dealt(
    plan: &Arc<Plan>,
    dealer: &Arc<dyn Dealer>,
    offset: u64,
    words: u64,
) -> Result<Vec<Fp61>, MaterialError> {
    check(plan)?;
    let bytes = Deal::new(Arc::clone(plan), Arc::clone(dealer), 0).window(offset, words as usize);
    Ok(crate::field::slice::decode_words(&bytes).expect("the dealer's own words"))
}

/// The dealer's stream of one attempt, segment after segment, as signed header
/// and bytes. It can be walked once; memory stays at a few windows, plus the
/// largest product of the plan.
pub struct SegmentStream {
    deal: Deal,
    owner: Arc<SecretKey>,
    place: StreamPlace,
    next: u64,
    ready: VecDeque<(SignedHeader, Vec<u8>)>,
}

impl SegmentStream {
    /// Deals the material of a plan. `place` is that of the signed manifest,
    /// `dealer` holds the keys of the manifest's nonce.
    pub fn new(
        plan: Arc<Plan>,
        dealer: Arc<dyn Dealer>,
        owner: Arc<SecretKey>,
        place: StreamPlace,
        attempt: u32,
    ) -> Result<Self, MaterialError> {
        if dealer.roster() != plan.roster {
            return Err(MaterialError::Roster { found: dealer.roster(), expected: plan.roster });
        }
        if place.words != plan.stream_words || attempt >= place.attempts {
            let (found, attempts, expected) = (place.words, place.attempts, plan.stream_words);
            return Err(MaterialError::Stream { found, attempts, expected, attempt });
        }
        check(&plan)?;
        Ok(Self { deal: Deal::new(plan, dealer, attempt), owner, place, next: 0, ready: VecDeque::new() })
    }

    /// Makes, roots and signs the next window.
    fn refill(&mut self) {
        let first = self.next * u64::from(SEGMENT_WORDS);
        let end = self.place.words.min((self.next + WINDOW_SEGMENTS) * u64::from(SEGMENT_WORDS));
        let bytes = self.deal.window(first, (end - first) as usize);
        let (place, owner, attempt) = (&self.place, &self.owner, self.deal.attempt);
        let sign = |(i, chunk): (usize, &[u8])| {
            let header = place.sign(owner, attempt, (self.next as usize + i) as u32, chunk);
            (header.expect("a window is cut at the borders of segments"), chunk.to_vec())
        };
        self.ready = bytes.par_chunks(SEGMENT_WORDS as usize * 8).enumerate().map(sign).collect();
        self.next += self.ready.len() as u64;
    }
}

impl Iterator for SegmentStream {
    type Item = (SignedHeader, Vec<u8>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.ready.is_empty() && self.next < self.place.segments() {
            self.refill();
        }
        self.ready.pop_front()
    }
}

/// What makes the words of a stream.
struct Deal {
    plan: Arc<Plan>,
    dealer: Arc<dyn Dealer>,
    attempt: u32,
    drawing: Drawing,
    /// the first op that the stream has not passed
    op: usize,
    /// whole masks of recent products
    masks: BTreeMap<MaterialId, Words>,
    /// products that cannot be computed in pieces, while the stream passes them
    products: BTreeMap<usize, Words>,
    /// corrections of packed rows, likewise: they are public
    rows: BTreeMap<usize, Vec<u64>>,
}

/// One kind of correction of one part: consecutive words of the stream.
#[derive(Clone, Copy)]
struct Run {
    op: usize,
    part: Part,
    mac: bool,
}

impl Deal {
    fn new(plan: Arc<Plan>, dealer: Arc<dyn Dealer>, attempt: u32) -> Self {
        let (masks, products, rows) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { drawing: Drawing::new(&plan, attempt), plan, dealer, attempt, op: 0, masks, products, rows }
    }

    /// Where a part is drawn by the nodes.
    fn at(&self, material: MaterialId, part: Part) -> Address {
        address(material, part, self.drawing.of(material))
    }

    /// The bytes of the words `first..first + len`; windows come in order.
    fn window(&mut self, first: u64, len: usize) -> Vec<u8> {
        let plan = Arc::clone(&self.plan);
        let end = first + len as u64;
        while plan.material.get(self.op).is_some_and(|d| d.offset + d.words <= first) {
            self.op += 1;
        }
        self.products = std::mem::take(&mut self.products).split_off(&self.op);
        self.rows = std::mem::take(&mut self.rows).split_off(&self.op);
        let mut bytes = vec![0u8; len * 8];
        let (mut rest, mut pieces) = (&mut bytes[..], Vec::new());
        for (op, demand) in plan.material.iter().enumerate().skip(self.op).take_while(|(_, d)| d.offset < end) {
            if demand.words > 0 {
                self.prepare(op, &demand.material);
            }
            let mut start = demand.offset;
            for (run, n) in runs(&plan, op) {
                let stop = start + n as u64;
                // The part of this run that lies in the window, in pieces.
                let (mut at, to) = (start.max(first), stop.min(end));
                while at < to {
                    let words = (to - at).min(PIECE as u64) as usize;
                    let (piece, left) = std::mem::take(&mut rest).split_at_mut(words * 8);
                    pieces.push((run, (at - start) as usize, piece));
                    rest = left;
                    at += words as u64;
                }
                start = stop;
            }
        }
        let deal = &*self;
        pieces.into_par_iter().for_each(|(run, index, piece)| {
            let delta = deal.delta(run, index, piece.len() / 8);
            for (bytes, word) in piece.chunks_exact_mut(8).zip(delta) {
                bytes.copy_from_slice(&word.word().to_le_bytes());
            }
        });
        bytes
    }

    /// Computes a product whole, where its words are not functions of few others.
    fn prepare(&mut self, op: usize, material: &Material) {
        if let Material::Packed { n, leaves, sign, .. } = material
            && !self.rows.contains_key(&op)
        {
            let id = MaterialId(op as u32);
            let r = self.dealer.uniform(self.at(id, Part::Value), *n);
            let mut rows = packed::rows(&r, leaves, *sign);
            // What is added to the uniform sharing to make it one of these rows.
            let at = self.at(id, Part::Rows);
            let add = |(i, chunk): (usize, &mut [u64])| self.dealer.uniform_bits_range(at, (i * PIECE) as u64, chunk);
            rows.par_chunks_mut(PIECE).enumerate().for_each(add);
            self.rows.insert(op, std::mem::take(&mut *rows));
        }
        let Material::Triple { dims, a, b } = material else { return };
        if by_word(*dims, a, b) || self.products.contains_key(&op) {
            return;
        }
        let (a, b) = (self.mask(a), self.mask(b));
        self.products.insert(op, Cpu.product(*dims, &a, &b, None));
    }

    /// A whole mask under its views.
    fn mask(&mut self, reference: &MaskRef) -> Words {
        let id = reference.mask;
        if !self.masks.contains_key(&id) {
            let Material::Mask { n } = self.plan.material[id.0 as usize].material else {
                unreachable!("checked when the stream was made")
            };
            let mut words = self.dealer.uniform(self.at(id, Part::Value), n);
            let kept: usize = self.masks.values().map(|m| Cpu.len(m)).sum();
            if kept + n > MASK_CACHE {
                self.masks.clear();
            }
            self.masks.insert(id, Cpu.load(std::mem::take(&mut *words)));
        }
        let mask = self.masks[&id].clone();
        reference.views.iter().fold(mask, |words, view| Cpu.view(view, &[&words]))
    }

    /// n words of Δ of a run, from an index on.
    fn delta(&self, run: Run, first: usize, n: usize) -> Vec<Fp61> {
        if run.part == Part::Rows {
            let rows = &self.rows[&run.op];
            let mut words = vec![Fp61::ZERO; n];
            packed::to_stream(first, &rows[packed::packed_range(first, n, rows.len())], &mut words);
            return words;
        }
        let mut values = Zeroizing::new(vec![Fp61::ZERO; n]);
        self.values(run, first, &mut values);
        let at = self.at(MaterialId(run.op as u32), run.part);
        if run.mac {
            let macs = self.dealer.mac_corrections_range(at, first as u64, &values);
            macs.expect("only a scheme with MACs has such runs")
        } else {
            self.dealer.value_corrections_range(at, first as u64, &values)
        }
    }

    /// The secret values that a part shares, from an index on.
    fn values(&self, run: Run, first: usize, out: &mut [Fp61]) {
        match &self.plan.material[run.op].material {
            Material::Mask { .. } | Material::Zero { .. } => self.uniform(run.op, first, out),
            Material::Triple { a, b, .. } => match self.products.get(&run.op) {
                Some(product) => out.copy_from_slice(&product.as_ref()[first..first + out.len()]),
                None => {
                    let mut right = Zeroizing::new(vec![Fp61::ZERO; out.len()]);
                    self.uniform(a.mask.0 as usize, first, out);
                    self.uniform(b.mask.0 as usize, first, &mut right);
                    out.iter_mut().zip(right.iter()).for_each(|(x, y)| *x *= *y);
                }
            },
            Material::Bits { n, from, shift, digits } => self.bits(run, *n, (*from, *shift), digits, first, out),
            Material::Packed { n, quotient, .. } => {
                self.bits(run, *n, (0, quotient.unwrap_or_default()), &[], first, out);
            }
            Material::Bit { n, .. } => self.known_bits(run.op, *n, first, out),
            Material::Layer { .. } => unreachable!("masks of a layer take no correction"),
            Material::Uniform { size, .. } => {
                // Two words for each, of the stream that no node draws.
                let mut pairs = Zeroizing::new(vec![Fp61::ZERO; 2 * out.len()]);
                self.uniform(run.op, 2 * first, &mut pairs);
                for (x, pair) in out.iter_mut().zip(pairs.chunks_exact(2)) {
                    *x = Fp61::reduce(below(*size, pair[0].word(), pair[1].word()));
                }
            }
        }
    }

    /// The parts of a tuple (r, r >> shift, msb r, one-hot digits of r).
    fn bits(
        &self,
        run: Run,
        n: usize,
        (lowest, shift): (u8, u8),
        digits: &[u8],
        mut first: usize,
        mut out: &mut [Fp61],
    ) {
        let digit = if let Part::Digit(i) = run.part { usize::from(i) } else { 0 };
        let from = lowest + digits.iter().take(digit).sum::<u8>();
        let width = digits.get(digit).copied().unwrap_or(0);
        // The rows of a part repeat the same r: a short one is drawn once for all.
        let short = (n <= PIECE).then(|| {
            let mut r = Zeroizing::new(vec![Fp61::ZERO; n]);
            self.uniform(run.op, 0, &mut r);
            r
        });
        while !out.is_empty() {
            let (row, column) = (first / n, first % n);
            let len = (n - column).min(out.len());
            let (now, later) = std::mem::take(&mut out).split_at_mut(len);
            match &short {
                Some(r) => now.copy_from_slice(&r[column..column + len]),
                None => self.uniform(run.op, column, now),
            }
            // 1 if the digit of r is this row, without a branch: both are far below 2^63.
            let is_row = |r: u64| ((r >> from & ((1 << width) - 1)) ^ row as u64).wrapping_sub(1) >> 63;
            let word = |r: u64| match run.part {
                Part::Value => r,
                Part::High => r >> shift,
                Part::Msb => r >> 60,
                Part::Digit(_) => is_row(r),
                Part::Carry => is_row(r) & r >> 60,
                Part::Rows => unreachable!("packed rows are made whole"),
            };
            now.iter_mut().for_each(|x| *x = Fp61::reduce(word(x.word())));
            first += len;
            out = later;
        }
    }

    /// Random bits as words, as they lie packed: rows of n, a lane each.
    fn known_bits(&self, op: usize, n: usize, mut first: usize, mut out: &mut [Fp61]) {
        let at = self.at(MaterialId(op as u32), Part::Rows);
        while !out.is_empty() {
            let (row, column) = (first / n, first % n);
            let len = (n - column).min(out.len());
            let (now, later) = std::mem::take(&mut out).split_at_mut(len);
            let mut packed = Zeroizing::new(vec![0u64; (column + len).div_ceil(64) - column / 64]);
            let from = row * packed::lane(n) + column / 64;
            self.dealer.uniform_bits_range(at, from as u64, &mut packed);
            for (i, out) in (column % 64..).zip(now) {
                *out = Fp61::reduce(packed[i / 64] >> (i % 64) & 1);
            }
            first += len;
            out = later;
        }
    }

    /// The canonical words that the nodes' uniform shares of an op stand for.
    fn uniform(&self, op: usize, first: usize, out: &mut [Fp61]) {
        self.dealer.uniform_range(self.at(MaterialId(op as u32), Part::Value), first as u64, out);
    }
}

/// ⌊size·u⌋ for u = (r + s/p)/p, where r and s are uniform in [0, p) and the size
/// is at most 2^60. Of the p² pairs each integer has the same number, give or take
/// one: the distance from uniform is below 2^−63. Without a branch.
fn below(size: u64, r: u64, s: u64) -> u64 {
    // ⌊x/p⌋ for x < 2^121: x = a·2^61 + b = a·p + (a + b), and a + b < 2p.
    let over_p = |x: u128| {
        let (a, b) = ((x >> 61) as u64, x as u64 & P);
        a + ((a + b + 1) >> 61)
    };
    let product = |x: u64| u128::from(size) * u128::from(x);
    over_p(product(r) + u128::from(over_p(product(s))))
}

/// The runs of an op in stream order, with their words.
fn runs(plan: &Plan, op: usize) -> impl Iterator<Item = (Run, usize)> {
    let macs = plan.roster.scheme() == Scheme::Spdz;
    plan.material[op].material.parts().into_iter().flat_map(move |(part, n, dealt)| {
        let value = dealt.then_some((Run { op, part, mac: false }, n));
        let mac = macs.then_some((Run { op, part, mac: true }, n));
        value.into_iter().chain(mac)
    })
}

/// Whether each word of a product is the product of two uniform words of the same index.
fn by_word(dims: Dims, a: &MaskRef, b: &MaskRef) -> bool {
    matches!(dims, Dims::Elementwise(_)) && a.views.is_empty() && b.views.is_empty()
}

/// What this room relies on: ops lie one after the other, with the words their
/// parts take; products are of masks, whose views fit; digits lie within r.
fn check(plan: &Plan) -> Result<(), MaterialError> {
    let mut offset = 0u64;
    for (op, demand) in plan.material.iter().enumerate() {
        let fault = |reason: String| MaterialError::Plan { op, reason };
        let words: u64 = demand.material.parts().iter().map(|(_, n, dealt)| delta_words(plan.roster, *n, *dealt)).sum();
        if demand.offset != offset || demand.words != words {
            let (found, at) = (demand.words, demand.offset);
            return Err(fault(format!("it has {found} words at {at}, expected {words} at {offset}")));
        }
        match &demand.material {
            Material::Triple { dims, a, b } => {
                let (left, right, _) = dims.lens();
                check_mask(plan, a, left).map_err(fault)?;
                check_mask(plan, b, right).map_err(fault)?;
            }
            Material::Bits { shift, digits, .. } => {
                let bits: u32 = digits.iter().map(|b| u32::from(*b)).sum();
                if *shift > 60 || bits > 61 || digits.contains(&0) {
                    return Err(fault(format!("shift {shift} or digits {digits:?} lie outside of 61 bits")));
                }
            }
            Material::Packed { quotient, leaves, sign, .. } => {
                let bits = leaves.iter().flat_map(|(low, high)| high.iter().chain([low]));
                if bits.chain([sign]).chain(quotient).any(|bit| *bit > 60) {
                    return Err(fault(format!("leaves {leaves:?}, bit {sign} or {quotient:?} lie outside of 61 bits")));
                }
            }
            Material::Uniform { size, .. } if !(1..=1 << 60).contains(size) => {
                return Err(fault(format!("its integers below {size} are none, or not below 2^60")));
            }
            Material::Mask { .. }
            | Material::Zero { .. }
            | Material::Uniform { .. }
            | Material::Bit { .. }
            | Material::Layer { .. } => {}
        }
        let packed = demand.material.packed_words() > 0;
        if packed && !plan.roster.packs_bits() {
            return Err(fault(format!("{} has no packed bits", plan.roster)));
        }
        offset += words;
    }
    if offset != plan.stream_words {
        let reason = format!("the ops end at {offset}, the stream at {}", plan.stream_words);
        return Err(MaterialError::Plan { op: plan.material.len(), reason });
    }
    Ok(())
}

fn check_mask(plan: &Plan, reference: &MaskRef, expected: usize) -> Result<(), String> {
    let demand = plan.material.get(reference.mask.0 as usize);
    let Some(Material::Mask { n }) = demand.map(|d| &d.material) else {
        return Err(format!("op {} is no mask", reference.mask.0));
    };
    let mut len = *n;
    for view in &reference.views {
        // Patches show words several times and zeros: what is opened is the mask they are taken of.
        let permutes = view.output_len() == len && !matches!(view, View::Sum { .. });
        if view.input_lens() != [len] || !(permutes || matches!(view, View::Patches(_))) {
            return Err(format!("the view {view:?} of a mask of {len} words does not permute them"));
        }
        len = view.output_len();
    }
    if len != expected { Err(format!("a mask has {len} words, its product expects {expected}")) } else { Ok(()) }
}

#[cfg(test)]
#[path = "deal_tests.rs"]
mod tests;
