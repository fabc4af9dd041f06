//! Lies about packed bits, in every layer and position: the receiver notices
//! before it uses the layer, and whatever was changed, the job ends in the same
//! way with nothing released.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use super::world::{Verdict, World, device};
use crate::engine::frame::{Body, Frame, Kind, Told};
use crate::engine::layer::forged;
use crate::engine::{EngineError, Record};
use crate::field::Fp61;
use crate::program::plan::{MSB, Material, Prim};
use crate::program::{Builder, Comparisons, Planning, Type};
use crate::roster::{Roster, Slot};
use crate::sharing::{DecodeError, packed::after};

const VALUES: [f64; 4] = [1.5, -2.0, 0.0, -0.25];

/// A ReLU behind a product, thresholds that share their low bits, and products
/// beside their layers.
fn world() -> World<'static> {
    let b = Builder::new();
    let x = b.input("x", "alice", Type::fixed(-4.0..=4.0), [VALUES.len()]);
    b.output("relu", "alice", &(&x * &x - 2.0).relu());
    b.output("cube", "alice", &(&(&x * &x) * &x));
    b.output("steps", "alice", &x.at_least(&[-1.0, 0.5, 2.0]));
    let inputs = BTreeMap::from([("x".to_owned(), VALUES.to_vec())]);
    let planning = Planning { comparisons: Comparisons::Packed, ..Planning::default() };
    World::planned(&device(), &b.finish().unwrap(), (Roster::shamir(4, 1).unwrap(), planning), &inputs, 3)
}

/// The steps in which layers are sent, each with the number of its words.
fn layers() -> Vec<(u32, usize)> {
    let mut world = world();
    world.run();
    let outputs = world.outputs();
    let relu: Vec<f64> = outputs[0].iter().map(|w| w.to_i64() as f64 / 65536.0).collect();
    for (found, x) in relu.iter().zip(VALUES) {
        assert!((found - (x * x - 2.0).max(0.0)).abs() < 1e-4, "{found}");
    }
    let steps: Vec<_> = outputs[2].iter().map(|w| w.word()).collect();
    assert_eq!(steps, [1, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0]);
    let sent = world.sent.iter().filter(|f| f.header.from == Slot(1) && f.header.to == Slot(4));
    let layers: Vec<_> = sent
        .filter_map(|f| match &f.body {
            Body::Packed(_, Told::Words(words)) => Some((f.header.step, words.len())),
            _ => None,
        })
        .collect();
    assert!(layers.len() >= 5, "layers of both comparisons and their openings: {layers:?}");
    layers
}

/// Runs a world in which `change` may change the frames of one node; how many
/// it changed, and what the others ended with.
fn lie(liar: Slot, change: impl Fn(&mut Frame) -> bool + 'static) -> (usize, BTreeMap<Slot, EngineError>) {
    let mut world = world();
    let hits = Rc::new(Cell::new(0));
    let counted = hits.clone();
    world.adversary = Box::new(move |frame| {
        if frame.header.from == liar && change(frame) {
            counted.set(counted.get() + 1);
        }
        Verdict::Deliver
    });
    world.run();
    world.assert_nothing_released(&[liar.0]);
    let errors = world.outcomes.iter().filter_map(|(slot, o)| Some((*slot, o.as_ref().err()?.clone())));
    let errors: BTreeMap<_, _> = errors.filter(|(slot, _)| *slot != liar).collect();
    // Whoever noticed said nothing more.
    for (slot, error) in &errors {
        if let EngineError::Voucher { .. } = error {
            let last = world.sent.iter().filter(|f| f.header.from == *slot).map(|f| f.header.step).max();
            let told = world.sent.iter().filter(|f| f.header.from == liar).map(|f| f.header.step).max();
            assert!(last <= told, "{slot} went on");
        }
    }
    (hits.get(), errors)
}

fn words_of(frame: &mut Frame) -> Option<&mut Vec<u64>> {
    match &mut frame.body {
        Body::Packed(_, Told::Words(words)) => Some(Arc::make_mut(words)),
        _ => None,
    }
}

fn voucher_of(frame: &mut Frame) -> Option<&mut [u8; 32]> {
    match &mut frame.body {
        Body::Packed(_, Told::Voucher(hash)) => Some(hash),
        _ => None,
    }
}

#[test]
fn a_flipped_word_is_noticed_in_every_layer_and_position() {
    for (step, words) in layers() {
        for liar in (1..=4).map(Slot) {
            // Every word of one liar, the ends of the others'.
            let positions: Vec<usize> = if liar == Slot(2) { (0..words).collect() } else { vec![0, words - 1] };
            for position in positions {
                let flip = move |frame: &mut Frame| match words_of(frame) {
                    Some(words) => {
                        words[position] ^= 1 << (position % 64);
                        true
                    }
                    _ => false,
                };
                let (hits, errors) = lie(liar, move |frame| frame.header.step == step && flip(frame));
                assert_eq!(hits, 1);
                let receiver = after(liar, 3);
                // By whom the word was vouched for depends on what it is; the rest does not.
                let EngineError::Voucher { from, voucher } = &errors[&receiver] else {
                    panic!("{receiver}: {}", errors[&receiver])
                };
                assert_eq!(*from, liar);
                assert!([after(receiver, 2), after(receiver, 3)].contains(voucher));
            }
        }
    }
}

#[test]
fn a_wrong_voucher_for_right_words_ends_the_job_alike() {
    for (step, _) in layers() {
        for liar in (1..=4).map(Slot) {
            for to in [after(liar, 1), after(liar, 2)] {
                let (hits, errors) = lie(liar, move |frame| {
                    let aimed = frame.header.step == step && frame.header.to == to;
                    let hash = voucher_of(frame).filter(|_| aimed);
                    hash.map(|hash| hash[31] ^= 0x80).is_some()
                });
                assert_eq!(hits, 1);
                assert_eq!(errors[&to], EngineError::Voucher { from: after(to, 1), voucher: liar });
            }
        }
    }
}

#[test]
fn words_and_vouchers_wrong_at_once_are_noticed_by_every_receiver() {
    for (step, _) in layers() {
        let liar = Slot(3);
        let (hits, errors) = lie(liar, move |frame| {
            if frame.header.step != step {
                return false;
            }
            if let Some(words) = words_of(frame) {
                words[0] ^= 1;
                return true;
            }
            voucher_of(frame).map(|hash| hash[0] ^= 1).is_some()
        });
        assert_eq!(hits, 3);
        for slot in [1, 2, 4].map(Slot) {
            assert!(matches!(errors[&slot], EngineError::Voucher { .. }), "{slot}: {}", errors[&slot]);
        }
    }
}

/// A layer said again in a later round of the same width does not fit there.
#[test]
fn a_layer_of_another_round_is_refused() {
    let layers = layers();
    let again = layers.iter().enumerate().find_map(|(i, (step, words))| {
        layers[i + 1..].iter().find(|later| later.1 == *words).map(|later| (*step, later.0))
    });
    // Vouchers always have one length.
    let (first, second) = again.unwrap_or((layers[0].0, layers[1].0));
    let kept = std::cell::RefCell::new(None);
    let (hits, errors) = lie(Slot(1), move |frame| {
        let (step, to) = (frame.header.step, frame.header.to);
        if to != Slot(3) {
            return false;
        }
        let Some(hash) = voucher_of(frame) else { return false };
        if step == first {
            *kept.borrow_mut() = Some(*hash);
        }
        if step == second {
            *hash = kept.borrow().unwrap();
        }
        step == second
    });
    assert_eq!(hits, 1);
    assert_eq!(errors[&Slot(3)], EngineError::Voucher { from: Slot(4), voucher: Slot(1) });
}

#[test]
fn what_is_no_layer_is_refused_by_name() {
    let (step, words) = layers()[0];
    let change = |what: u8| {
        move |frame: &mut Frame| {
            let Body::Packed(shares, told) = &mut frame.body else { return false };
            if frame.header.step != step {
                return false;
            }
            match (what, &told) {
                (0, Told::Words(found)) => *told = Told::Words(Arc::new(found[1..].to_vec())),
                (1, Told::Words(_)) => *told = Told::Voucher([0; 32]),
                (2, Told::Voucher(_)) if frame.header.to == Slot(2) => *told = Told::Words(Arc::new(vec![0; words])),
                (3, Told::Words(_)) => *shares = Arc::new(vec![Fp61::ZERO; shares.len() + 1]),
                (4, Told::Words(_)) => {
                    (frame.header.kind, frame.body) = (Kind::Opening, Body::Words(shares.clone()));
                }
                _ => return false,
            }
            true
        }
    };
    let said = |what, to: u8| {
        let (hits, errors) = lie(Slot(1), change(what));
        assert_eq!(hits, 1);
        errors[&Slot(to)].to_string()
    };
    let missing = format!("node 1 sent {} words for the layer of packed bits", words - 1);
    assert!(said(0, 4).starts_with(&missing), "{}", said(0, 4));
    assert!(said(1, 4).contains("sent a hash for the layer"));
    assert!(said(2, 2).contains("expected a hash"));
    assert!(said(3, 4).contains("words for the openings"));
    assert!(said(4, 4).contains("expected layer of packed bits"), "{}", said(4, 4));
}

/// Shares of products lie beside layers: a wrong one is noticed as in every other
/// round, but a wrong layer comes first, so that the job ends as it always does.
#[test]
fn shares_beside_a_layer_keep_their_redundancy_and_come_second() {
    for layer_too in [false, true] {
        let (hits, errors) = lie(Slot(2), move |frame| {
            let to = frame.header.to;
            let Body::Packed(shares, told) = &mut frame.body else { return false };
            let Told::Words(words) = told else { return false };
            if shares.is_empty() || to != Slot(1) {
                return false;
            }
            Arc::make_mut(shares)[0] += Fp61::ONE;
            if layer_too {
                Arc::make_mut(words)[0] ^= 1;
            }
            true
        });
        assert_eq!(hits, 1, "the job ends with the first");
        match &errors[&Slot(1)] {
            EngineError::Decode(DecodeError::Inconsistent { .. }) => assert!(!layer_too),
            EngineError::Voucher { from: Slot(2), .. } => assert!(layer_too),
            other => panic!("{other}"),
        }
    }
}

fn packed_world(b: Builder, values: Vec<f64>) -> World<'static> {
    let inputs = BTreeMap::from([("x".to_owned(), values)]);
    let planning = Planning { comparisons: Comparisons::Packed, ..Planning::default() };
    World::planned(&device(), &b.finish().unwrap(), (Roster::shamir(4, 1).unwrap(), planning), &inputs, 3)
}

/// Products of shares are unbalanced (3 of 8 are 1), and so is the sum of two of them
/// (15 of 32): what a node is told is not, within a layer, between its whole pairs and its
/// halves, or between two layers. A mask that is left out or used again is seen here.
#[test]
fn all_that_is_told_of_products_is_balanced() {
    let b = Builder::new();
    let x = b.input("x", "alice", Type::fixed(-4.0..=4.0), [1 << 14]);
    b.output("relu", "alice", &x.relu());
    let mut world = packed_world(b, vec![0.5; 1 << 14]);
    world.run();
    let balanced = |a: &[u64], b: &[u64], what: &str| {
        let bits = 64.0 * a.len().min(b.len()) as f64;
        let ones: u32 = a.iter().zip(b).map(|(a, b)| (a ^ b).count_ones()).sum();
        // Six standard deviations, of 1/(2√bits), are less than 1/32.
        assert!(bits < (1 << 14) as f64 || (f64::from(ones) / bits - 0.5).abs() < 3.0 / bits.sqrt(), "{what}");
    };
    for slot in (1..=4).map(Slot) {
        let told = |f: &Frame| match &f.body {
            Body::Packed(_, Told::Words(words)) if f.header.from == slot => Some(Arc::clone(words)),
            _ => None,
        };
        let layers: Vec<_> = world.sent.iter().filter_map(told).collect();
        assert!(layers.len() >= 5);
        for (i, words) in layers.iter().enumerate() {
            let (whole, halves) = words.split_at(words.len() * 2 / 3);
            balanced(words, &vec![0; words.len()], "a mask is missing");
            balanced(whole, halves, "both kinds have one mask");
            for other in &layers[..i] {
                balanced(words, other, "two layers have one mask");
            }
        }
    }
}

/// Masks of products and the bits under which results are opened serve once, also
/// where two comparisons have one shape; and a comparison on an opening of its own
/// begins with the wrap, without which it is wrong too rarely for any random test.
#[test]
fn what_masks_packed_bits_is_drawn_once_and_the_wrap_is_carried_in() {
    let b = Builder::new();
    let x = b.input("x", "alice", Type::fixed(-4.0..=4.0), [4]);
    b.output("relu", "alice", &x.relu());
    b.output("over", "alice", &x.at_least(&[1.0]));
    b.output("steps", "alice", &x.at_least(&[-1.0, 0.5, 2.0]));
    let world = packed_world(b, VALUES.to_vec());
    let plan = world.job.plan();
    let mut seen = std::collections::HashSet::new();
    for prim in &plan.prims {
        if let Prim::DrawBits { material, .. } | Prim::BitMerge { masks: material, .. } = prim {
            assert!(seen.insert(*material), "{material:?} is drawn twice");
        }
    }
    let mut compared = 0;
    for demand in &plan.material {
        if let Material::Packed { quotient: None, leaves, .. } = &demand.material {
            assert_eq!(leaves[0].0, MSB);
            compared += 1;
        }
    }
    assert!(compared >= 3 && seen.len() > 3 * compared);
}

/// A test on the opening of a truncation that reaches up to bit 59, where the
/// offset falls away.
#[test]
fn a_test_that_takes_all_bits_of_its_opening_is_right() {
    let b = Builder::new();
    let x = b.input("x", "alice", Type::fixed(-11_000.0..=11_000.0), [5]);
    let y = b.input("y", "alice", Type::fixed(-11_000.0..=11_000.0), [5]);
    b.output("sign", "alice", &(&x * &y).ge0());
    let inputs = BTreeMap::from([
        ("x".to_owned(), vec![11_000.0, -11_000.0, 1.0, -1.0, 0.0]),
        ("y".to_owned(), vec![11_000.0, 11_000.0, 1.0, 0.5, 3.0]),
    ]);
    let planning = Planning { comparisons: Comparisons::Packed, ..Planning::default() };
    let mut world =
        World::planned(&device(), &b.finish().unwrap(), (Roster::shamir(4, 1).unwrap(), planning), &inputs, 3);
    let top = |p: &Prim| matches!(p, Prim::BitSign { at: 59, flip: false, .. });
    assert!(world.job.plan().prims.iter().any(top), "the test reaches bit 59");
    world.run();
    let sign: Vec<_> = world.outputs()[0].iter().map(|w| w.word()).collect();
    assert_eq!(sign, [1, 0, 1, 0, 1]);
}

/// As in every round: the material is on record as used before the layer leaves, and no
/// frame is longer than what the links are told to expect.
#[test]
fn layers_are_on_record_and_within_the_longest_frame() {
    let mut world = world();
    world.run();
    let rounds = world.job.plan().opening_rounds() as u32;
    for slot in world.slots() {
        let cursors = world.records[&slot].iter().filter_map(|record| match record {
            Record::Cursor { round } => Some(*round),
            _ => None,
        });
        assert_eq!(cursors.collect::<Vec<_>>(), (0..rounds).collect::<Vec<_>>(), "{slot}");
    }
    let most = world.parties[0].largest_frame();
    let longest = world.sent.iter().filter(|f| f.header.kind == Kind::Packed).map(|f| f.encode().len()).max();
    assert!(longest.unwrap() <= most, "{longest:?}, {most}");

    // A layer that is longer than all shares of its round.
    let b = Builder::new();
    b.output("steps", "alice", &b.input("x", "alice", Type::fixed(-4.0..=4.0), [1]).at_least(&[-1.0, 0.5, 1.7]));
    let mut world = packed_world(b, vec![1.0]);
    world.run();
    let most = world.parties[0].largest_frame();
    assert!(world.sent.iter().all(|f| f.encode().len() <= most));
    assert!(world.sent.iter().any(|f| f.encode().len() > crate::engine::frame::HEADER_BYTES + 64));
}

/// More liars than the threshold can make one node open other bits: what it signs then
/// differs, because the transcript holds opened bits too.
#[test]
fn opened_bits_are_part_of_the_transcript() {
    let sign = || {
        let b = Builder::new();
        b.output("sign", "alice", &b.input("x", "alice", Type::fixed(-4.0..=4.0), [2]).ge0());
        packed_world(b, vec![1.0, -1.0])
    };
    let (mut honest, mut world) = (sign(), sign());
    let (manifest, last) = (world.job.manifest().digest(), world.job.plan().opening_rounds() - 1);
    assert!(matches!(world.job.plan().layer(last).collect::<Vec<_>>()[..], [Prim::OpenBits { .. }]));
    // Exchange 1 is the manifest's; node 2 sends node 1 its words, node 3 vouches for them.
    let step = last as u32 + 2;
    honest.run();
    let of_last = |f: &&Frame| (f.header.step, f.header.from, f.header.to) == (step, Slot(2), Slot(1));
    let Body::Packed(_, Told::Words(right)) = &honest.sent.iter().find(of_last).unwrap().body else { panic!() };
    let mut words = right.to_vec();
    words[0] ^= 1;
    world.adversary = Box::new(move |frame| {
        if frame.header.step == step && frame.header.to == Slot(1) && frame.header.kind == Kind::Packed {
            match frame.header.from {
                Slot(2) => words_of(frame).unwrap().clone_from(&words),
                Slot(3) => *voucher_of(frame).unwrap() = forged(&manifest, last, Slot(1), &words),
                _ => {}
            }
        }
        Verdict::Deliver
    });
    world.run();
    for slot in world.slots() {
        let expected = matches!(world.error(slot.0), EngineError::Disagree { what: Kind::Finish, .. });
        assert!(expected, "{slot}: {}", world.error(slot.0));
    }
}
