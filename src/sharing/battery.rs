//! One battery of tests for every sharing scheme: all nodes of a roster in
//! memory, compared with the same operations on plain words.
//!
//! Every result is opened twice, by the nodes' decoding and by the owner's
//! verification of sealed outputs, so SPDZ's MACs are checked throughout.

use proptest::prelude::*;

use super::{Dealer, Decoded, Shamir, Sharing, SlotKeys, Spdz, job_keys};
use crate::backend::{Backend, cpu::Cpu};
use crate::field::Fp61;
use crate::prg::{Address, Domain, PrgKey};
use crate::roster::{Degree, Roster, Slot};
use crate::tensor::{Dims, Patches, View, Window};

pub(super) type Words = <Cpu as Backend>::Words;
pub(super) type Shares<S> = Vec<<S as Sharing>::Secret>;

/// The owner and all nodes of one job.
pub(super) struct World<S> {
    pub(super) cpu: Cpu,
    pub(super) dealer: Box<dyn Dealer>,
    pub(super) nodes: Vec<S>,
    seed: PrgKey,
    drawn: u32,
}

pub(super) fn shamir(roster: Roster, seed: [u8; 32]) -> World<Shamir<Cpu>> {
    World::new(roster, seed, |slot, keys| match keys {
        SlotKeys::Shamir(keys) => Shamir::new(roster, slot, keys, Cpu).unwrap(),
        SlotKeys::Spdz(_) => panic!("the dealer has a Shamir roster"),
    })
}

pub(super) fn spdz(roster: Roster, seed: [u8; 32]) -> World<Spdz<Cpu>> {
    World::new(roster, seed, |slot, keys| match keys {
        SlotKeys::Spdz(key) => Spdz::new(roster, slot, key, Cpu).unwrap(),
        SlotKeys::Shamir(_) => panic!("the dealer has an SPDZ roster"),
    })
}

impl<S: Sharing<Backend = Cpu>> World<S> {
    fn new(roster: Roster, seed: [u8; 32], node: impl Fn(Slot, SlotKeys) -> S) -> Self {
        let dealer = job_keys(&PrgKey(seed), &[7; 32], roster);
        let hashes = dealer.key_hashes();
        let node = |slot| {
            let keys = dealer.slot_keys(slot);
            keys.check(&hashes, roster, slot).unwrap();
            node(slot, keys)
        };
        let nodes = roster.slots().map(node).collect();
        Self { cpu: Cpu, dealer, nodes, seed: PrgKey(seed), drawn: 0 }
    }

    /// An address that nothing else uses.
    pub(super) fn address(&mut self) -> Address {
        self.drawn += 1;
        Address { domain: Domain::Value, input: false, op: self.drawn, part: 0, attempt: 0 }
    }
    /// Test words, from the seed.
    pub(super) fn words(&mut self, n: usize) -> Vec<Fp61> {
        let mut words = vec![Fp61::ZERO; n];
        let address = self.address();
        self.seed.derive("test words", &[]).stream(address).fill(0, &mut words);
        words
    }
    /// Sharings of chosen words.
    pub(super) fn deal(&mut self, values: &[Fp61]) -> Shares<S> {
        let address = self.address();
        let delta = self.dealer.corrections(address, values.len(), Some(values));
        self.nodes.iter().map(|node| node.draw(address, values.len(), true, &delta)).collect()
    }
    /// Sharings of uniform words, with the words.
    pub(super) fn uniform(&mut self, n: usize) -> (Vec<Fp61>, Shares<S>) {
        let address = self.address();
        let delta = self.dealer.corrections(address, n, None);
        let shares = self.nodes.iter().map(|node| node.draw(address, n, false, &delta)).collect();
        (self.dealer.uniform(address, n).to_vec(), shares)
    }
    /// One local step at every node.
    pub(super) fn each<T>(&self, step: impl Fn(usize, &S) -> T) -> Vec<T> {
        self.nodes.iter().enumerate().map(|(i, node)| step(i, node)).collect()
    }
    /// The opening's words, which all nodes decode alike and blame nobody for.
    pub(super) fn decode(&self, degree: Degree, shares: &[Words]) -> Vec<Fp61> {
        let opened = self.each(|_, node| {
            let Decoded { words, blamed } =
                node.decode(degree, &node.roster().slots().collect::<Vec<_>>(), shares).unwrap();
            assert!(blamed.is_empty());
            self.cpu.read(&words).unwrap().to_vec()
        });
        assert!(opened.iter().all(|words| *words == opened[0]));
        opened[0].to_vec()
    }
    /// What the nodes seal for the owner.
    pub(super) fn outputs(&self, x: &Shares<S>) -> Vec<(Slot, Vec<Fp61>)> {
        let output = |i: usize, node: &S| {
            let words = node.output(&x[i]).iter().flat_map(|words| self.cpu.read(words).unwrap().to_vec()).collect();
            (node.slot(), words)
        };
        self.each(output)
    }
    /// Opens and verifies.
    pub(super) fn open(&self, x: &Shares<S>) -> Vec<Fp61> {
        let opened = self.decode(Degree::T, &self.each(|i, node| node.opening(&x[i])));
        let verified = self.dealer.verify_output(opened.len(), &self.outputs(x)).unwrap();
        assert_eq!(*verified.words, opened);
        assert!(verified.blamed.is_empty());
        opened
    }
}

pub(super) fn product(dims: Dims, x: &[Fp61], y: &[Fp61]) -> Vec<Fp61> {
    match dims {
        Dims::Elementwise(_) => x.iter().zip(y).map(|(x, y)| *x * *y).collect(),
        Dims::Matmul { m, k, n } => {
            (0..m * n).map(|i| (0..k).map(|j| x[i / n * k + j] * y[j * n + i % n]).sum()).collect()
        }
    }
}

pub(super) fn add(x: &[Fp61], y: &[Fp61]) -> Vec<Fp61> {
    x.iter().zip(y).map(|(x, y)| *x + *y).collect()
}

const DIMS: [Dims; 2] = [Dims::Elementwise(7), Dims::Matmul { m: 2, k: 3, n: 4 }];

fn battery<S: Sharing<Backend = Cpu>>(mut world: World<S>) {
    draws(&mut world);
    linear(&mut world);
    views(&mut world);
    public_products(&mut world);
    leaves(&mut world);
    beaver(&mut world);
    interpolations(&mut world);
    combinations(&mut world);
}

fn draws<S: Sharing<Backend = Cpu>>(world: &mut World<S>) {
    // Long enough for several windows of the dealer.
    for n in [1, 20_000] {
        let values = world.words(n);
        let dealt = world.deal(&values);
        assert_eq!(world.open(&dealt), values);
        // Kept, and held again.
        let again = world.each(|i, node| node.held(node.output(&dealt[i])));
        assert_eq!(world.open(&again), values);
        let (values, uniform) = world.uniform(n);
        assert_eq!(world.open(&uniform), values);
        assert!(world.nodes.iter().zip(&uniform).all(|(node, x)| node.len(x) == n));

        let address = world.address();
        let mut window = vec![Fp61::ZERO; n / 2];
        world.dealer.uniform_range(address, (n - n / 2) as u64, &mut window);
        assert_eq!(window, world.dealer.uniform(address, n)[n - n / 2..]);
        for dealt in [false, true] {
            let delta = world.dealer.corrections(address, n, dealt.then_some(&values));
            assert_eq!(delta.len(), S::delta_words(world.dealer.roster(), n, dealt));
        }
    }
}

fn linear<S: Sharing<Backend = Cpu>>(world: &mut World<S>) {
    let (x, y, p, k) = (world.words(5), world.words(5), world.words(5), world.words(4));
    let (sx, sy, wp) = (world.deal(&x), world.deal(&y), world.cpu.load(p.clone()));
    let z = world.each(|i, node| node.linear(5, &[(k[0], &sx[i]), (k[1], &sy[i])], &[(k[2], &wp)], k[3]));
    let expected: Vec<_> = (0..5).map(|i| k[0] * x[i] + k[1] * y[i] + k[2] * p[i] + k[3]).collect();
    assert_eq!(world.open(&z), expected);
    // Public words and constants alone are sharings too.
    let z = world.each(|_, node| node.linear(5, &[], &[(Fp61::ONE, &wp)], Fp61::ZERO));
    assert_eq!(world.open(&z), p);
    let z = world.each(|_, node| node.linear(2, &[], &[], k[0]));
    assert_eq!(world.open(&z), [k[0], k[0]]);
}

fn views<S: Sharing<Backend = Cpu>>(world: &mut World<S>) {
    let views = [
        View::Transpose { outer: 2, rows: 2, cols: 3 },
        View::Slice { outer: 2, axis: 3, inner: 2, start: 1, end: 3 },
        View::Repeat { outer: 3, times: 2, inner: 4 },
        View::Sum { outer: 2, axis: 3, inner: 2 },
        View::Concat { outer: 2, axes: vec![1, 2], inner: 3 },
        View::Patches(Patches { batch: 2, channels: 2, rows: 3, columns: 2, window: Window::sliding(2, 1) }),
    ];
    for view in views {
        let inputs: Vec<_> = view.input_lens().into_iter().map(|n| world.words(n)).collect();
        let shares: Vec<_> = inputs.iter().map(|x| world.deal(x)).collect();
        let viewed = world.each(|i, node| node.view(&view, &shares.iter().map(|x| &x[i]).collect::<Vec<_>>()));
        let plain: Vec<_> = inputs.into_iter().map(|x| world.cpu.load(x)).collect();
        let plain = world.cpu.view(&view, &plain.iter().collect::<Vec<_>>());
        assert_eq!(world.open(&viewed), world.cpu.read(&plain).unwrap().to_vec());
    }
}

fn public_products<S: Sharing<Backend = Cpu>>(world: &mut World<S>) {
    for dims in DIMS {
        let (left, right, _) = dims.lens();
        let (x, y) = (world.words(left), world.words(right));
        let (sx, sy) = (world.deal(&x), world.deal(&y));
        let (px, py) = (world.cpu.load(x.clone()), world.cpu.load(y.clone()));
        let times_public = world.each(|i, node| node.times_public(dims, &sx[i], &py));
        let public_times = world.each(|i, node| node.public_times(dims, &px, &sy[i]));
        assert_eq!(world.open(&times_public), product(dims, &x, &y));
        assert_eq!(world.open(&public_times), product(dims, &x, &y));
    }
}

fn leaves<S: Sharing<Backend = Cpu>>(world: &mut World<S>) {
    let (n, bits, from) = (3, 2, 4);
    // Any words do: the leaves are linear in the rows.
    let (rows, carry, c) = (world.words(n << bits), world.words(n << bits), world.words(n));
    let thresholds = [-(5i64 << from), 1 << 40];
    let (s_rows, s_carry) = (world.deal(&rows), world.deal(&carry));
    let (p_rows, p_carry) = (world.cpu.load(rows), world.cpu.load(carry));
    let c = world.cpu.load(c);
    for with_carry in [false, true] {
        let shares =
            world.each(|i, node| node.leaf(&c, &thresholds, from, bits, &s_rows[i], with_carry.then_some(&s_carry[i])));
        let (g, p) = shares.into_iter().unzip();
        let (pg, pp) = world.cpu.leaf(&c, &thresholds, from, bits, &p_rows, with_carry.then_some(&p_carry));
        assert_eq!(world.open(&g), world.cpu.read(&pg).unwrap().to_vec());
        assert_eq!(world.open(&p), world.cpu.read(&pp).unwrap().to_vec());
    }
}

fn beaver<S: Sharing<Backend = Cpu>>(world: &mut World<S>) {
    for dims in DIMS {
        let (left, right, out) = dims.lens();
        let (x, y) = (world.words(left), world.words(right));
        let (sx, sy) = (world.deal(&x), world.deal(&y));
        let triple = Triple::open(world, dims, &sx, &sy);
        let z = world.each(|i, node| node.beaver(dims, &triple.c[i], &triple.d, &triple.e, &triple.a[i], &triple.b[i]));
        assert_eq!(world.open(&z), product(dims, &x, &y));

        let (r, mask) = world.uniform(out);
        let masked = world.each(|i, node| {
            let Triple { a, b, c, d, e } = &triple;
            node.masked_beaver(dims, &c[i], d, e, &a[i], &b[i], &mask[i])
        });
        assert_eq!(world.decode(Degree::T, &masked), add(&product(dims, &x, &y), &r));
    }
}

/// From any degree + 1 nodes the words are those that all nodes decode; a wrong
/// share goes unnoticed and moves them.
fn interpolations<S: Sharing<Backend = Cpu>>(world: &mut World<S>) {
    let (x, roster) = (world.words(5), world.dealer.roster());
    let shares = world.deal(&x);
    let sent = world.each(|i, node| (node.slot(), node.opening(&shares[i])));
    let needed = roster.degree(Degree::T) + 1;
    for first in 0..sent.len() {
        let mut chosen: Vec<_> = sent.iter().cycle().skip(first).take(needed).cloned().collect();
        chosen.sort_by_key(|(slot, _)| *slot);
        let opened = world.nodes[0].interpolate(Degree::T, &chosen).unwrap();
        assert_eq!(world.cpu.read(&opened).unwrap().to_vec(), x);
        let mut moved = world.cpu.read(&chosen[0].1).unwrap().to_vec();
        moved[2] += Fp61::ONE;
        chosen[0].1 = world.cpu.load(moved);
        let opened = world.nodes[0].interpolate(Degree::T, &chosen).unwrap();
        let opened = world.cpu.read(&opened).unwrap().to_vec();
        assert!(opened[2] != x[2] && opened[..2] == x[..2]);
    }
}

/// The combination of shares is the share of the combination, whatever the
/// lengths; every word counts, each with a coefficient of its own.
fn combinations<S: Sharing<Backend = Cpu>>(world: &mut World<S>) {
    use super::{COMBINED_AT_ONCE, combination};
    let key = PrgKey([9; 32]);
    let parts = [vec![], world.words(5), world.words(1), world.words(COMBINED_AT_ONCE + 3)];
    let combined = |world: &World<S>, parts: &[Vec<Fp61>]| {
        let parts: Vec<_> = parts.iter().map(|x| world.cpu.load(x.clone())).collect();
        let [combined, again] = combination(&world.cpu, &key, [&parts, &parts]).unwrap();
        assert_eq!(combined, again, "both have the same coefficients");
        combined
    };
    let right = combined(world, &parts);
    let shares: Vec<_> = parts.iter().map(|x| world.deal(x)).collect();
    let own = world.each(|i, node| {
        let parts: Vec<_> = shares.iter().map(|x| node.opening(&x[i])).collect();
        world.cpu.load(combination(&world.cpu, &key, [&parts]).unwrap().to_vec())
    });
    assert_eq!(world.decode(Degree::T, &own), [right]);
    // The coefficients: what each word adds to nothing.
    let mut seen = std::collections::BTreeSet::new();
    for (part, word) in [(1, 0), (1, 4), (2, 0), (3, 0), (3, COMBINED_AT_ONCE), (3, COMBINED_AT_ONCE + 2)] {
        let mut unit: Vec<_> = parts.iter().map(|x| vec![Fp61::ZERO; x.len()]).collect();
        unit[part][word] = Fp61::ONE;
        let rho = combined(world, &unit);
        assert!(
            rho != Fp61::ZERO && seen.insert(rho.word()),
            "word {word} of part {part} has no coefficient of its own"
        );
    }
    assert_eq!(combined(world, &[]), Fp61::ZERO);
}

/// A triple and the masked operands that it was used for.
pub(super) struct Triple<S: Sharing> {
    pub(super) a: Shares<S>,
    pub(super) b: Shares<S>,
    pub(super) c: Shares<S>,
    pub(super) d: Words,
    pub(super) e: Words,
}

impl<S: Sharing<Backend = Cpu>> Triple<S> {
    pub(super) fn open(world: &mut World<S>, dims: Dims, x: &Shares<S>, y: &Shares<S>) -> Self {
        let (left, right, _) = dims.lens();
        let ((a, sa), (b, sb)) = (world.uniform(left), world.uniform(right));
        let c = world.deal(&product(dims, &a, &b));
        let difference = |n, x: &Shares<S>, a: &Shares<S>| {
            let d = world.each(|i, node| node.linear(n, &[(Fp61::ONE, &x[i]), (-Fp61::ONE, &a[i])], &[], Fp61::ZERO));
            world.cpu.load(world.open(&d))
        };
        let (d, e) = (difference(left, x, &sa), difference(right, y, &sb));
        Self { a: sa, b: sb, c, d, e }
    }
}

fn rosters() -> impl Strategy<Value = Roster> {
    let shamir = vec![(3, 1), (4, 1), (5, 1), (5, 2), (6, 2), (7, 2), (7, 3), (9, 4)];
    let shamir = proptest::sample::select(shamir).prop_map(|(n, t)| Roster::shamir(n, t).unwrap());
    prop_oneof![shamir, (2u8..=6).prop_map(|n| Roster::spdz(n).unwrap())]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_scheme_computes_what_plain_words_give(roster in rosters(), seed: [u8; 32]) {
        match roster.scheme() {
            crate::roster::Scheme::Shamir => battery(shamir(roster, seed)),
            crate::roster::Scheme::Spdz => battery(spdz(roster, seed)),
        }
    }
}
