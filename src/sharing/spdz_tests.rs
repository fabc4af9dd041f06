//! Attacks on SPDZ openings: whatever one node changes, the check's summands
//! no longer add up to 0, and the owner refuses the output.

use proptest::prelude::*;

use super::battery::{Shares, Triple, Words, World, add, product, spdz};
use super::{DecodeError, MaskedMatrix, OutputError, Sharing, SharingError, SlotKeys, Spdz, job_keys};
use crate::backend::{Backend, cpu::Cpu};
use crate::field::Fp61;
use crate::prg::{Address, Domain, PrgKey, Stream};
use crate::roster::{Degree, Roster, Scheme, Slot};
use crate::tensor::Dims;

const SEED: [u8; 32] = [5; 32];

fn rho() -> Stream {
    let address = Address { domain: Domain::Value, input: false, op: 1, part: 0, attempt: 0 };
    PrgKey([9; 32]).stream(address)
}

/// Σ σ_i over openings given as (opened words, sharing).
fn check(world: &World<Spdz<Cpu>>, openings: &[(&Words, &Shares<Spdz<Cpu>>)]) -> Fp61 {
    let sigma = |i: usize, node: &Spdz<Cpu>| {
        let openings: Vec<_> = openings.iter().map(|(opened, x)| (*opened, node.mac(&x[i]))).collect();
        node.sigma(&rho(), &openings).unwrap()
    };
    world.each(sigma).into_iter().sum()
}

/// Opens words of which one node's value share is off by δ.
fn open_with(world: &World<Spdz<Cpu>>, x: &Shares<Spdz<Cpu>>, delta: &[Fp61]) -> Words {
    let mut shares = world.each(|i, node| node.opening(&x[i]));
    let last = shares.len() - 1;
    shares[last] = world.cpu.load(add(&world.cpu.read(&shares[last]).unwrap(), delta));
    world.cpu.load(world.decode(Degree::T, &shares))
}

fn rosters() -> impl Strategy<Value = Roster> {
    (2u8..=5).prop_map(|n| Roster::spdz(n).unwrap())
}

/// A change of three words, not all 0.
fn change() -> impl Strategy<Value = [Fp61; 3]> {
    any::<[u64; 3]>()
        .prop_map(|words| words.map(Fp61::reduce))
        .prop_filter("a change", |words| *words != [Fp61::ZERO; 3])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_changed_opening_fails_the_check(roster in rosters(), seed: [u8; 32], delta in change()) {
        let mut world = spdz(roster, seed);
        let (x, y) = (world.words(3), world.words(2));
        let (x, y) = (world.deal(&x), world.deal(&y));
        let (right, wrong) = (open_with(&world, &x, &[Fp61::ZERO; 3]), open_with(&world, &x, &delta));
        let other = open_with(&world, &y, &[Fp61::ZERO; 2]);
        prop_assert_eq!(check(&world, &[(&right, &x), (&other, &y)]), Fp61::ZERO);
        // First, last, or only opening before the check.
        prop_assert_ne!(check(&world, &[(&wrong, &x), (&other, &y)]), Fp61::ZERO);
        prop_assert_ne!(check(&world, &[(&other, &y), (&wrong, &x)]), Fp61::ZERO);
        prop_assert_ne!(check(&world, &[(&wrong, &x)]), Fp61::ZERO);
        prop_assert_eq!(check(&world, &[]), Fp61::ZERO);
    }

    /// MAC shares are only seen inside σ; a node that changes its own shifts
    /// the sum by ρ·δ, alone or along with its value share.
    #[test]
    fn a_changed_mac_share_fails_the_check(roster in rosters(), seed: [u8; 32], delta in change(), both: bool) {
        let mut world = spdz(roster, seed);
        let x = world.words(3);
        let x = world.deal(&x);
        let opened = open_with(&world, &x, if both { &delta } else { &[Fp61::ZERO; 3] });
        let sigma = |i: usize, node: &Spdz<Cpu>| {
            let mut mac = world.cpu.read(node.mac(&x[i])).unwrap().to_vec();
            if i == 0 {
                mac = add(&mac, &delta);
            }
            node.sigma(&rho(), &[(&opened, &world.cpu.load(mac))]).unwrap()
        };
        prop_assert_ne!(world.each(sigma).into_iter().sum::<Fp61>(), Fp61::ZERO);
    }

    /// Changed Beaver openings give a wrong product with a valid MAC: only the
    /// check of d and e themselves notices.
    #[test]
    fn a_changed_beaver_opening_fails_the_check_though_the_output_verifies(seed: [u8; 32], delta in change(), d_too: bool) {
        let mut world = spdz(Roster::spdz(3).unwrap(), seed);
        let (x, y) = (world.words(3), world.words(3));
        let (sx, sy) = (world.deal(&x), world.deal(&y));
        let ((a, sa), (b, sb)) = (world.uniform(3), world.uniform(3));
        let sc = world.deal(&product(Dims::Elementwise(3), &a, &b));
        let masked = |x: &Shares<Spdz<Cpu>>, a: &Shares<Spdz<Cpu>>| {
            world.each(|i, node| node.linear(3, &[(Fp61::ONE, &x[i]), (-Fp61::ONE, &a[i])], &[], Fp61::ZERO))
        };
        let (sd, se) = (masked(&sx, &sa), masked(&sy, &sb));
        let d = open_with(&world, &sd, if d_too { &delta } else { &[Fp61::ZERO; 3] });
        let e = open_with(&world, &se, &delta);
        let z = world.each(|i, node| node.beaver(Dims::Elementwise(3), &sc[i], &d, &e, &sa[i], &sb[i]));
        let output = world.dealer.verify_output(3, &world.outputs(&z)).unwrap();
        prop_assert_ne!(output.words.to_vec(), product(Dims::Elementwise(3), &x, &y));
        prop_assert_ne!(check(&world, &[(&d, &sd), (&e, &se)]), Fp61::ZERO);
    }

    /// The lazy MACs of a matrix product: right words pass, one changed word does not.
    #[test]
    fn a_changed_matrix_opening_fails_the_lazy_check(
        roster in rosters(), seed: [u8; 32], m in 1usize..4, k in 1usize..4, n in 1usize..4, at: prop::sample::Index, delta in change(),
    ) {
        let mut world = spdz(roster, seed);
        let dims = Dims::Matmul { m, k, n };
        let (x, y) = (world.words(m * k), world.words(k * n));
        let (x, y) = (world.deal(&x), world.deal(&y));
        let Triple { a, b, c, d, e } = Triple::open(&mut world, dims, &x, &y);
        // The mask holds its public offset, as the engine adds it.
        let (_, mask) = world.uniform(m * n);
        let offset = Fp61::reduce(1 << 59);
        let mask = world.each(|i, node| node.linear(m * n, &[(Fp61::ONE, &mask[i])], &[], offset));
        let shares = world.each(|i, node| node.masked_beaver(dims, &c[i], &d, &e, &a[i], &b[i], &mask[i]));
        let right = world.decode(Degree::T, &shares);
        let mut wrong = right.clone();
        wrong[at.index(m * n)] += delta.into_iter().find(|word| *word != Fp61::ZERO).unwrap();

        let (u, v) = (world.words(m), world.words(n));
        let (u, v) = (world.cpu.load(u), world.cpu.load(v));
        let sum = |opened: Vec<Fp61>| {
            let opened = world.cpu.load(opened);
            let sigma = |i: usize, node: &Spdz<Cpu>| {
                let (c, a, b, mask) = (&c[i], &a[i], &b[i], &mask[i]);
                let product = MaskedMatrix { m, k, n, c, d: &d, e: &e, a, b, mask, opened: &opened };
                node.sigma_matrix(&product, &u, &v).unwrap()
            };
            world.each(sigma).into_iter().sum::<Fp61>()
        };
        prop_assert_eq!(sum(right), Fp61::ZERO);
        prop_assert_ne!(sum(wrong), Fp61::ZERO);
    }

    #[test]
    fn the_owner_refuses_changed_outputs(
        roster in rosters(), seed: [u8; 32], value in change(), mac in change(), which in 0..3, who: prop::sample::Index,
    ) {
        let mut world = spdz(roster, seed);
        let words = world.words(3);
        let secret = world.deal(&words);
        let mut shares = world.outputs(&secret);
        let share = &mut shares[who.index(usize::from(roster.nodes()))].1;
        let nothing = [Fp61::ZERO; 3];
        let change = [if which != 1 { value } else { nothing }, if which != 0 { mac } else { nothing }].concat();
        *share = add(share, &change);
        let refused = matches!(world.dealer.verify_output(3, &shares), Err(OutputError::Mac { .. }));
        prop_assert!(refused);
    }
}

/// Every node is needed, once.
#[test]
fn the_owner_needs_the_shares_of_all_nodes() {
    let roster = Roster::spdz(3).unwrap();
    let mut world = spdz(roster, SEED);
    let secret = world.deal(&[Fp61::ONE]);
    let shares = world.outputs(&secret);
    let verify = |shares: &[_]| world.dealer.verify_output(1, shares).err();
    assert_eq!(verify(&shares), None);
    assert_eq!(verify(&shares[1..]), Some(OutputError::TooFew { found: 2, needed: 3, roster }));
    let twice = [shares[0].clone(), shares[0].clone(), shares[2].clone()];
    assert_eq!(verify(&twice), Some(OutputError::Sender { slot: Slot(1), roster }));
    let mut no_mac = shares.clone();
    no_mac[1].1.pop();
    let refused = DecodeError::Length { from: Slot(2), found: 1, expected: 2 };
    assert_eq!(verify(&no_mac), Some(refused.into()));
}

#[test]
fn a_wrong_length_names_its_sender() {
    let world = spdz(Roster::spdz(2).unwrap(), SEED);
    let shares = [world.cpu.load(vec![Fp61::ONE; 3]), world.cpu.load(vec![Fp61::ONE; 2])];
    let refused = world.nodes[0].decode(Degree::T, &world.nodes[0].roster().slots().collect::<Vec<_>>(), &shares).err();
    assert_eq!(refused, Some(DecodeError::Length { from: Slot(2), found: 2, expected: 3 }));
}

/// What a check of one job tells of α is of no use in another.
#[test]
fn every_job_has_its_own_mac_key() {
    let roster = Roster::spdz(2).unwrap();
    // The MAC of 1 is α itself.
    let alpha = |nonce: [u8; 32]| {
        let dealer = job_keys(&PrgKey(SEED), &nonce, roster);
        let share = |slot| {
            let SlotKeys::Spdz(key) = dealer.slot_keys(slot) else { panic!("an SPDZ roster") };
            let node = Spdz::new(roster, slot, key, Cpu).unwrap();
            Cpu.read(node.mac(&node.linear(1, &[], &[], Fp61::ONE))).unwrap()[0]
        };
        roster.slots().map(share).sum::<Fp61>()
    };
    assert_eq!(alpha([0; 32]), alpha([0; 32]));
    assert_ne!(alpha([0; 32]), alpha([1; 32]));
}

#[test]
fn keys_that_do_not_fit_are_refused() {
    let roster = Roster::spdz(3).unwrap();
    let dealer = job_keys(&PrgKey(SEED), &[0; 32], roster);
    let hashes = dealer.key_hashes();
    let check = |keys: SlotKeys, slot| keys.check(&hashes, roster, slot);
    assert_eq!(check(dealer.slot_keys(Slot(1)), Slot(1)), Ok(()));
    assert_eq!(check(dealer.slot_keys(Slot(1)), Slot(2)), Err(SharingError::WrongKey { slot: Slot(2), of: None }));
    assert_eq!(check(dealer.slot_keys(Slot(1)), Slot(4)), Err(SharingError::Slot { slot: Slot(4), roster }));
    let slot = Slot(0);
    assert_eq!(Spdz::new(roster, slot, PrgKey(SEED), Cpu).err(), Some(SharingError::Slot { slot, roster }));
    let roster = Roster::shamir(3, 1).unwrap();
    let scheme = SharingError::Scheme { found: Scheme::Spdz, roster };
    assert_eq!(Spdz::new(roster, Slot(1), PrgKey(SEED), Cpu).err(), Some(scheme.clone()));
    let hashes = job_keys(&PrgKey(SEED), &[0; 32], roster).key_hashes();
    assert_eq!(SlotKeys::Spdz(PrgKey(SEED)).check(&hashes, roster, Slot(1)), Err(scheme));
}
