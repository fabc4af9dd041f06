//! Attacks on Shamir openings and on the pseudorandom sharing under them.

use std::collections::{BTreeSet, HashSet};

use proptest::prelude::*;

use super::battery::{World, add, product, shamir};
use super::{Dealer, DecodeError, Decoded, OutputError, Shamir, Sharing, SharingError, SlotKeys, job_keys};
use crate::backend::{Backend, cpu::Cpu};
use crate::field::Fp61;
use crate::prg::{Address, PrgKey};
use crate::roster::{Degree, Redundancy, Roster, Scheme, Slot};
use crate::tensor::Dims;

const SEED: [u8; 32] = [3; 32];

/// A word's shares at all points.
fn evaluate(roster: Roster, coefficients: &[Fp61]) -> Vec<Fp61> {
    let at = |slot: Slot| coefficients.iter().rev().fold(Fp61::ZERO, |acc, c| acc * slot.point() + *c);
    roster.slots().map(at).collect()
}

/// The leading coefficient of the polynomial of degree `shares.len() − 1`.
fn leading(roster: Roster, shares: &[Fp61]) -> Fp61 {
    let points: Vec<_> = roster.slots().map(Slot::point).take(shares.len()).collect();
    let under = |i: Fp61| points.iter().filter(|j| **j != i).fold(Fp61::ONE, |acc, j| acc * (i - *j));
    points.iter().zip(shares).map(|(i, share)| *share * under(*i).invert()).sum()
}

/// A polynomial that agrees with another at 0..d other points: what d honest
/// shares and the cheaters' own make of a chosen wrong word.
fn through(roster: Roster, points: &[(Slot, Fp61)]) -> Vec<Fp61> {
    let at = |x: Slot| {
        let term = |(i, value): &(Slot, Fp61)| {
            let others = points.iter().filter(|(j, _)| j != i).map(|(j, _)| j.point());
            others.fold(*value, |acc, j| acc * (x.point() - j) * (i.point() - j).invert())
        };
        points.iter().map(term).sum()
    };
    roster.slots().map(at).collect()
}

fn all(world: &World<Shamir<Cpu>>) -> Vec<Slot> {
    world.nodes[0].roster().slots().collect()
}

/// The first node's decoding of word-major shares.
fn decode(world: &World<Shamir<Cpu>>, degree: Degree, words: &[Vec<Fp61>]) -> Result<Decoded<Vec<Fp61>>, DecodeError> {
    let of = |i: usize| world.cpu.load(words.iter().map(|word| word[i]).collect());
    let shares: Vec<_> = (0..world.nodes.len()).map(of).collect();
    let decoded = world.nodes[0].decode(degree, &all(world), &shares)?;
    Ok(Decoded { words: world.cpu.read(&decoded.words).unwrap().to_vec(), blamed: decoded.blamed })
}

fn rosters() -> impl Strategy<Value = Roster> {
    let rosters = vec![(3, 1), (4, 1), (5, 1), (5, 2), (7, 2), (7, 3), (9, 2)];
    proptest::sample::select(rosters).prop_map(|(n, t)| Roster::shamir(n, t).unwrap())
}

/// A roster, a degree at which its openings have redundancy, and cheaters.
fn openings(over: usize) -> impl Strategy<Value = (Roster, Degree, Vec<Slot>)> {
    let degree = prop_oneof![Just(Degree::T), Just(Degree::TwoT)];
    (rosters(), degree)
        .prop_filter("has redundancy", |(roster, degree)| roster.redundancy(*degree) != Redundancy::None)
        .prop_flat_map(move |(roster, degree)| {
            let cheaters = usize::from(roster.threshold()) + over;
            let slots = proptest::sample::subsequence(roster.slots().collect::<Vec<_>>(), cheaters);
            (Just(roster), Just(degree), slots)
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// t cheaters: noticed or corrected as the table says, whoever they are.
    #[test]
    fn t_random_cheaters_never_get_another_word_through((roster, degree, cheaters) in openings(0), seed: [u8; 32]) {
        let mut world = shamir(roster, seed);
        let polynomials: Vec<_> = (0..6).map(|_| world.words(roster.degree(degree) + 1)).collect();
        let mut shares: Vec<_> = polynomials.iter().map(|q| evaluate(roster, q)).collect();
        for word in [1, 4] {
            for slot in &cheaters {
                shares[word][slot.index()] = world.words(1)[0];
            }
        }
        match decode(&world, degree, &shares) {
            Ok(decoded) => {
                prop_assert_eq!(roster.redundancy(degree), Redundancy::Correct);
                prop_assert_eq!(decoded.words, polynomials.iter().map(|q| q[0]).collect::<Vec<_>>());
                prop_assert_eq!(decoded.blamed, cheaters);
            }
            Err(refused) => {
                prop_assert_eq!(roster.redundancy(degree), Redundancy::Detect);
                prop_assert_eq!(refused, DecodeError::Inconsistent { word: 1, degree: roster.degree(degree) });
            }
        }
    }

    /// t cheaters that agree on another polynomial through d honest shares: a
    /// decoder at its natural radius answers with theirs at (5, 2) and (7, 3).
    #[test]
    fn t_consistent_cheaters_never_get_another_word_through((roster, degree, cheaters) in openings(0), seed: [u8; 32]) {
        let mut world = shamir(roster, seed);
        let q = world.words(roster.degree(degree) + 1);
        let mut shares = evaluate(roster, &q);
        let honest = roster.slots().filter(|slot| !cheaters.contains(slot)).take(roster.degree(degree));
        let mut points: Vec<_> = honest.map(|slot| (slot, shares[slot.index()])).collect();
        points.push((cheaters[0], world.words(1)[0]));
        let wrong = through(roster, &points);
        for slot in &cheaters {
            shares[slot.index()] = wrong[slot.index()];
        }
        match decode(&world, degree, &[shares]) {
            Ok(decoded) => {
                prop_assert_eq!(roster.redundancy(degree), Redundancy::Correct);
                prop_assert_eq!((decoded.words, decoded.blamed), (vec![q[0]], cheaters));
            }
            Err(refused) => {
                prop_assert_eq!(roster.redundancy(degree), Redundancy::Detect);
                prop_assert_eq!(refused, DecodeError::Inconsistent { word: 0, degree: roster.degree(degree) });
            }
        }
    }

    /// More cheaters than the table allows end the job.
    #[test]
    fn more_than_t_random_cheaters_end_the_job((roster, degree, cheaters) in openings(1), seed: [u8; 32]) {
        // Past n − d − 1 errors nothing can be noticed.
        prop_assume!(usize::from(roster.nodes()) > roster.degree(degree) + cheaters.len());
        let mut world = shamir(roster, seed);
        let mut shares = evaluate(roster, &world.words(roster.degree(degree) + 1));
        for slot in &cheaters {
            shares[slot.index()] = world.words(1)[0];
        }
        let refused = DecodeError::Inconsistent { word: 0, degree: roster.degree(degree) };
        prop_assert_eq!(decode(&world, degree, &[shares]).err(), Some(refused));
    }

    #[test]
    fn a_degree_too_high_ends_the_job((roster, degree, _) in openings(0), seed: [u8; 32]) {
        let mut world = shamir(roster, seed);
        let shares = evaluate(roster, &world.words(roster.degree(degree) + 2));
        let refused = DecodeError::Inconsistent { word: 0, degree: roster.degree(degree) };
        prop_assert_eq!(decode(&world, degree, &[shares]).err(), Some(refused));
    }

    /// A leading coefficient of 0 is as good as any other.
    #[test]
    fn a_lower_degree_is_accepted(roster in rosters(), words: [u64; 3]) {
        let world = shamir(roster, SEED);
        for coefficients in 1..=2 {
            let q: Vec<_> = words[..coefficients].iter().map(|word| Fp61::reduce(*word)).collect();
            let opened = decode(&world, Degree::T, &[evaluate(roster, &q)]).unwrap();
            prop_assert_eq!((opened.words, opened.blamed), (vec![q[0]], vec![]));
        }
    }

    #[test]
    fn masked_products_open_at_degree_2t(seed: [u8; 32], n in 4u8..=7, matrix: bool) {
        let mut world = shamir(Roster::shamir(n, if n == 7 { 2 } else { 1 }).unwrap(), seed);
        let dims = if matrix { Dims::Matmul { m: 3, k: 5, n: 2 } } else { Dims::Elementwise(6) };
        let (left, right, out) = dims.lens();
        let (x, y) = (world.words(left), world.words(right));
        let (sx, sy) = (world.deal(&x), world.deal(&y));
        let (r, mask) = world.uniform(out);
        let zero = world.address();
        let opening = world.each(|i, node| {
            node.masked_product(node.product(dims, &sx[i], &sy[i]), &mask[i], node.zeros(zero, out))
        });
        prop_assert_eq!(world.decode(Degree::TwoT, &opening), add(&product(dims, &x, &y), &r));
    }
}

/// Cheaters that each stay below the table's bound word by word, but are more
/// than t together.
#[test]
fn more_than_t_named_slots_in_one_batch_end_the_job() {
    let roster = Roster::shamir(5, 1).unwrap();
    let mut world = shamir(roster, SEED);
    let mut shares: Vec<_> = (0..3).map(|_| evaluate(roster, &world.words(2))).collect();
    shares[0][1] += Fp61::ONE;
    assert_eq!(decode(&world, Degree::T, &shares).unwrap().blamed, [Slot(2)]);
    shares[2][3] += Fp61::ONE;
    let refused = decode(&world, Degree::T, &shares).err();
    assert_eq!(refused, Some(DecodeError::Inconsistent { word: 2, degree: 1 }));
}

#[test]
fn a_wrong_length_names_its_sender() {
    let world = shamir(Roster::shamir(4, 1).unwrap(), SEED);
    let mut shares: Vec<_> = (0..4).map(|_| world.cpu.load(vec![Fp61::ONE; 3])).collect();
    shares[2] = world.cpu.load(vec![Fp61::ONE; 4]);
    let refused = world.nodes[0].decode(Degree::T, &all(&world), &shares).err();
    assert_eq!(refused, Some(DecodeError::Length { from: Slot(3), found: 4, expected: 3 }));
}

/// Without the zero sharing the polynomial that is opened is q_x·q_y + q_r,
/// whose leading coefficient is a product of the shares' randomness.
#[test]
fn the_zero_sharing_hides_the_product_polynomial() {
    let roster = Roster::shamir(4, 1).unwrap();
    let mut world = shamir(roster, SEED);
    let (x, y) = (world.words(1), world.words(1));
    let (sx, sy) = (world.deal(&x), world.deal(&y));
    let (r, mask) = world.uniform(1);
    let open = |world: &World<Shamir<Cpu>>, zero: Address| {
        let dims = Dims::Elementwise(1);
        let shares = world
            .each(|i, node| node.masked_product(node.product(dims, &sx[i], &sy[i]), &mask[i], node.zeros(zero, 1)));
        assert_eq!(world.decode(Degree::TwoT, &shares), [x[0] * y[0] + r[0]]);
        shares.iter().map(|share| world.cpu.read(share).unwrap()[0]).collect::<Vec<_>>()
    };
    let (first, second) = (world.address(), world.address());
    let (first, second) = (open(&world, first), open(&world, second));
    // The same word by other shares, at every node.
    assert!(first.iter().zip(&second).all(|(a, b)| a != b));
    let share = |s: &[_]| world.each(|i, node| world.cpu.read(&node.opening(&s[i])).unwrap()[0]);
    let leaked = leading(roster, &share(&sx)[..2]) * leading(roster, &share(&sy)[..2]);
    assert_ne!(leading(roster, &first[..3]), leaked);
    assert_ne!(leading(roster, &second[..3]), leaked);
}

/// Chi-square on the leading coefficients of drawn sharings (degree t) and of
/// zero sharings (degree 2t), in 16 classes: uniform, 0 included.
#[test]
fn leading_coefficients_are_uniform() {
    const SAMPLES: usize = 16_000;
    let roster = Roster::shamir(5, 2).unwrap();
    let mut world = shamir(roster, SEED);
    let (_, drawn) = world.uniform(SAMPLES);
    // All shares 0, so that the zero sharing is all that is opened.
    let nothing = world.each(|_, node| node.linear(SAMPLES, &[], &[], Fp61::ZERO));
    let zero = world.address();
    let products = world.each(|i, node| {
        let product = node.product(Dims::Elementwise(SAMPLES), &nothing[i], &nothing[i]);
        node.masked_product(product, &nothing[i], node.zeros(zero, SAMPLES))
    });
    let drawn = world.each(|i, node| node.opening(&drawn[i]));
    for (shares, degree) in [(drawn, Degree::T), (products, Degree::TwoT)] {
        let shares: Vec<_> = shares.iter().map(|share| world.cpu.read(share).unwrap()).collect();
        let mut classes = [0usize; 16];
        for word in 0..SAMPLES {
            let of_word: Vec<_> = shares[..=roster.degree(degree)].iter().map(|share| share[word]).collect();
            classes[(leading(roster, &of_word).word() % 16) as usize] += 1;
        }
        let expected = SAMPLES as f64 / 16.0;
        let chi_square: f64 = classes.iter().map(|count| (*count as f64 - expected).powi(2) / expected).sum();
        // 15 degrees of freedom: above 44.3 with probability 1e-4; the seed is fixed.
        assert!(chi_square < 44.3, "chi-square {chi_square} at {degree:?}");
    }
}

#[test]
fn any_t_nodes_lack_a_key() {
    for (n, t) in [(3, 1), (4, 1), (5, 1), (5, 2), (7, 3)] {
        let roster = Roster::shamir(n, t).unwrap();
        let dealer = job_keys(&PrgKey(SEED), &[0; 32], roster);
        let all = roster.subsets().len();
        for honest in roster.subsets() {
            let corrupt = roster.slots().filter(|slot| !honest.contains(*slot));
            let known: BTreeSet<_> = corrupt.flat_map(|slot| subsets_of(dealer.as_ref(), slot)).collect();
            assert!(known.len() < all && !known.contains(&honest));
        }
    }
}

fn subsets_of(dealer: &dyn Dealer, slot: Slot) -> Vec<crate::roster::Subset> {
    match dealer.slot_keys(slot) {
        SlotKeys::Shamir(keys) => keys.keys().copied().collect(),
        SlotKeys::Spdz(_) => panic!("the dealer has a Shamir roster"),
    }
}

#[test]
fn keys_that_do_not_fit_are_refused() {
    let roster = Roster::shamir(4, 1).unwrap();
    let dealer = job_keys(&PrgKey(SEED), &[0; 32], roster);
    let hashes = dealer.key_hashes();
    let SlotKeys::Shamir(keys) = dealer.slot_keys(Slot(2)) else { panic!("a Shamir roster") };
    let check = |keys: &_| SlotKeys::Shamir(Clone::clone(keys)).check(&hashes, roster, Slot(2));
    assert_eq!(check(&keys), Ok(()));
    assert!(Shamir::new(roster, Slot(2), keys.clone(), Cpu).is_ok());

    let mut fewer = keys.clone();
    let (subset, key) = fewer.pop_first().unwrap();
    let missing = SharingError::MissingKey { slot: Slot(2), subset, roster };
    assert_eq!(check(&fewer), Err(missing.clone()));
    assert_eq!(Shamir::new(roster, Slot(2), fewer, Cpu).err(), Some(missing));

    let mut more = keys.clone();
    let subset = *roster.subsets().iter().find(|subset| !subset.contains(Slot(2))).unwrap();
    more.insert(subset, key);
    let foreign = SharingError::ForeignKey { slot: Slot(2), subset, roster };
    assert_eq!(check(&more), Err(foreign.clone()));
    assert_eq!(Shamir::new(roster, Slot(2), more, Cpu).err(), Some(foreign));

    let mut other = keys.clone();
    let (&subset, key) = other.iter_mut().next().unwrap();
    key.0[0] ^= 1;
    assert_eq!(check(&other), Err(SharingError::WrongKey { slot: Slot(2), of: Some(subset) }));

    assert_eq!(
        SlotKeys::Shamir(keys.clone()).check(&hashes[1..], roster, Slot(2)),
        Err(SharingError::Hashes { found: 3, expected: 4, roster })
    );
    let slot = Slot(5);
    assert_eq!(Shamir::new(roster, slot, keys.clone(), Cpu).err(), Some(SharingError::Slot { slot, roster }));
    let roster = Roster::spdz(4).unwrap();
    let scheme = SharingError::Scheme { found: Scheme::Shamir, roster };
    assert_eq!(Shamir::new(roster, Slot(2), keys, Cpu).err(), Some(scheme));
}

#[test]
fn a_nonce_and_a_roster_have_their_own_keys() {
    let hashes = |nonce, roster| job_keys(&PrgKey(SEED), &nonce, roster).key_hashes();
    let (four, five) = (Roster::shamir(4, 1).unwrap(), Roster::shamir(5, 2).unwrap());
    let all = [hashes([0; 32], four), hashes([1; 32], four), hashes([0; 32], five)].concat();
    assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());
    assert_eq!(hashes([0; 32], four), hashes([0; 32], four));
}

/// The owner corrects t wrong shares out of n ≥ 3t + 1, refuses them below
/// that, and needs 2t + 1 shares.
#[test]
fn the_owner_decodes_outputs_as_the_table_says() {
    let roster = Roster::shamir(5, 1).unwrap();
    let mut world = shamir(roster, SEED);
    let words = world.words(3);
    let secret = world.deal(&words);
    let right = world.outputs(&secret);
    let mut wrong = right.clone();
    wrong[0].1[2] += Fp61::ONE;
    let verify =
        |shares: &[_]| world.dealer.verify_output(3, shares).map(|verified| (verified.words.to_vec(), verified.blamed));

    assert_eq!(verify(&right), Ok((words.clone(), vec![])));
    assert_eq!(verify(&wrong), Ok((words.clone(), vec![Slot(1)])));
    assert_eq!(verify(&wrong[..4]), Ok((words.clone(), vec![Slot(1)])));
    assert_eq!(verify(&wrong[..3]), Err(DecodeError::Inconsistent { word: 2, degree: 1 }.into()));
    assert_eq!(verify(&right[2..]), Ok((words, vec![])));
    assert_eq!(verify(&right[3..]), Err(OutputError::TooFew { found: 2, needed: 3, roster }));

    let twice = [right.clone(), right[4..].to_vec()].concat();
    assert_eq!(verify(&twice), Err(OutputError::Sender { slot: Slot(5), roster }));
    let mut stranger = right.clone();
    stranger[1].0 = Slot(0);
    assert_eq!(verify(&stranger), Err(OutputError::Sender { slot: Slot(0), roster }));
    let mut short = right.clone();
    short[1].1.pop();
    assert_eq!(verify(&short), Err(DecodeError::Length { from: Slot(2), found: 2, expected: 3 }.into()));
}
