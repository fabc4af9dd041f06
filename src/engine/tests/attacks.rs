//! Malicious behaviour, mounted on the wires of whole parties. Each test
//! asserts that the tampered message was really used, what every honest party
//! says, and that nothing was released.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::cheat::Cheat;
use super::world::{World, device, job_of, party, small_program};
use crate::backend::cpu::Cpu;
use crate::engine::frame::{Body, Frame, FrameError, Kind, Told};
use crate::engine::tests::world::Verdict;
use crate::engine::{Action, EngineError, Event, Record};
use crate::field::{Fp61, P};
use crate::material::SegmentStream;
use crate::roster::{Roster, Slot};
use crate::sharing::{DecodeError, Shamir, SlotKeys, Spdz, job_keys};
use crate::transcript::{CheckPoint, Commitment, Purpose, StreamPlace, TranscriptError};

fn spdz() -> Roster {
    Roster::spdz(3).unwrap()
}

fn shamir(n: u8, t: u8) -> Roster {
    Roster::shamir(n, t).unwrap()
}

/// Adds 1 to a word of an opening.
fn bump(frame: &mut Frame, word: usize) {
    let Body::Words(words) = &mut frame.body else { panic!("not an opening") };
    let words = Arc::make_mut(words);
    words[word] += Fp61::ONE;
}

/// Another body of the same form: a flipped bit, or a 1 added to a word.
fn falsify(frame: &mut Frame) {
    match &mut frame.body {
        Body::Digest(digest) => digest[0] ^= 1,
        Body::Opening(opening) => {
            let mut bytes = postcard::to_stdvec(opening).unwrap();
            bytes[5] ^= 1;
            *opening = postcard::from_bytes(&bytes).unwrap();
        }
        Body::Words(_) => bump(frame, 0),
        Body::Packed(_, Told::Words(words)) => Arc::make_mut(words)[0] ^= 1,
        Body::Packed(_, Told::Voucher(hash)) => hash[0] ^= 1,
    }
}

fn words(frame: &Frame) -> usize {
    if let Body::Words(words) = &frame.body { words.len() } else { 0 }
}

/// Runs a world in which node 1 changes some of its openings, the same for all
/// receivers; returns how many frames were changed.
fn tamper_openings(world: &mut World, pick: impl Fn(&Frame) -> Option<usize> + 'static) -> usize {
    let hits = Rc::new(Cell::new(0));
    let counted = hits.clone();
    world.adversary = Box::new(move |frame| {
        if frame.header.from == Slot(1)
            && frame.header.kind == Kind::Opening
            && let Some(word) = pick(frame)
        {
            bump(frame, word);
            counted.set(counted.get() + 1);
        }
        Verdict::Deliver
    });
    world.run();
    hits.get()
}

// --- SPDZ: tampered openings ---------------------------------------------------

/// A world in which node 1 lies in one opening and its engine believes itself.
fn world_with_a_liar(at: usize) -> (World<'static>, Arc<AtomicUsize>) {
    let mut world = World::small(spdz(), 1);
    let openings = Arc::new(AtomicUsize::new(0));
    let SlotKeys::Spdz(key) = world.job.dealer().slot_keys(Slot(1)) else { panic!() };
    let honest = Spdz::new(spdz(), Slot(1), key, Cpu).unwrap();
    let cheat = Cheat { honest, at, openings: openings.clone() };
    world.parties[0] = world.engine(cheat, world.job_inputs());
    (world, openings)
}

#[test]
fn spdz_a_wrong_share_in_any_opening_fails_the_check() {
    // Every opening in turn: masked operands, fused products, comparisons,
    // and the last one before the output.
    let (mut world, openings) = world_with_a_liar(usize::MAX);
    world.run();
    world.outputs();
    let all = openings.load(Ordering::Relaxed);
    assert!(all > 10, "{all} openings");
    for at in 0..all {
        let (mut world, openings) = world_with_a_liar(at);
        world.run();
        assert!(openings.load(Ordering::Relaxed) > at, "the lie was never told");
        for slot in [1, 2, 3] {
            assert_eq!(world.error(slot), &EngineError::CheckFailed { check: 0 }, "opening {at}");
        }
    }
}

#[test]
fn spdz_a_share_or_its_mac_moved_alone_or_together_fails_the_check() {
    // Node 1 holds x + δ, or the MAC of x + δ', or both by one δ (right only
    // for who knows α).
    let one = Fp61::ONE;
    for (value, mac) in [(one, Fp61::ZERO), (Fp61::ZERO, one), (one, one)] {
        for input in 0..3 {
            let mut world = World::small(spdz(), 2);
            let mut inputs = world.job_inputs();
            let n = inputs[input].len() / 2;
            inputs[input][0] += value;
            inputs[input][n] += mac;
            let SlotKeys::Spdz(key) = world.job.dealer().slot_keys(Slot(1)) else { panic!() };
            world.parties[0] = world.engine(Spdz::new(spdz(), Slot(1), key, Cpu).unwrap(), inputs);
            world.run();
            for slot in [1, 2, 3] {
                assert_eq!(world.error(slot), &EngineError::CheckFailed { check: 0 }, "input {input}");
            }
        }
    }
}

#[test]
fn spdz_alpha_is_another_in_every_job() {
    let (program, inputs) = small_program();
    let (one, ..) = job_of(&program, spdz(), &inputs, 1);
    let (other, ..) = job_of(&program, spdz(), &inputs, 2);
    for (a, b) in one.dealer().key_hashes().iter().zip(other.dealer().key_hashes()) {
        assert_ne!(*a, b);
    }
}

#[test]
fn spdz_nobody_opens_before_all_commitments_are_there() {
    for kind in [Kind::CoinCommit, Kind::SigmaCommit] {
        let mut world = World::small(spdz(), 3);
        let held = Rc::new(Cell::new(0));
        let counted = held.clone();
        world.adversary = Box::new(move |frame| {
            if frame.header.from == Slot(1) && frame.header.kind == kind {
                counted.set(counted.get() + 1);
                return Verdict::Swallow;
            }
            Verdict::Deliver
        });
        world.run();
        assert_eq!(held.get(), 2);
        let opened = if kind == Kind::CoinCommit { Kind::CoinOpen } else { Kind::SigmaOpen };
        let early = world.sent.iter().filter(|f| f.header.kind == opened && f.header.from != Slot(1)).count();
        assert_eq!(early, 0, "an honest node opened before it held every commitment");
        // When the deadline passes, the silent node is named.
        let token = world.sent.iter().filter(|f| f.header.kind == kind).map(|f| f.header.step).max().unwrap();
        world.step(Slot(2), Event::Deadline { token, last: true });
        assert_eq!(world.error(2), &EngineError::Silent { missing: vec![Slot(1)], kind });
    }
}

#[test]
fn spdz_a_node_that_vanishes_after_the_honest_sigmas_burns_the_check() {
    // It has seen the other σ and says nothing more: with a second check over
    // the same α it could compute α.
    for kind in [Kind::SigmaOpen, Kind::Passed] {
        let mut world = World::small(spdz(), 8);
        world.adversary = Box::new(move |frame| match frame.header {
            h if h.from == Slot(1) && h.kind == kind => Verdict::Swallow,
            _ => Verdict::Deliver,
        });
        world.run();
        let sigmas = |f: &&Frame| f.header.kind == Kind::SigmaOpen && f.header.to == Slot(1);
        assert_eq!(world.sent.iter().filter(sigmas).count(), 2, "no σ was there to be seen");
        let token = world.sent.iter().filter(|f| f.header.kind == kind).map(|f| f.header.step).max().unwrap();
        for honest in [2, 3] {
            world.step(Slot(honest), Event::Deadline { token, last: true });
            assert_eq!(world.error(honest), &EngineError::Silent { missing: vec![Slot(1)], kind });
            // What is on disk refuses α_i for ever, unless the sum was seen to be 0: then no σ tells anything of α.
            let records = &world.records[&Slot(honest)];
            assert!(records.contains(&Record::CheckOpened { check: 0 }));
            assert_eq!(records.contains(&Record::CheckPassed { check: 0 }), kind == Kind::Passed);
        }
        world.assert_nothing_released(&[1]);
    }
}

#[test]
fn spdz_a_sigma_that_is_not_canonical_ends_the_job() {
    // σ + p, committed and opened by the rules: reduced, the sum would be 0.
    let mut honest = World::small(spdz(), 26);
    honest.run();
    let is_sigma = |f: &&Frame| f.header.kind == Kind::SigmaOpen && f.header.from == Slot(1);
    let Body::Opening(opening) = &honest.sent.iter().find(is_sigma).unwrap().body else { panic!() };
    let bytes = postcard::to_stdvec(opening).unwrap();
    let sigma = u64::from_le_bytes(bytes[bytes.len() - 8..].try_into().unwrap()) + P;

    let mut world = World::small(spdz(), 26);
    let manifest = world.job.manifest().digest();
    let transcript = Cell::new([0; 32]);
    world.adversary = Box::new(move |frame| {
        if frame.header.from == Slot(1) {
            let point = CheckPoint { manifest, epoch: 0, view: 0, check: 0, transcript: transcript.get() };
            let (c, o) = Commitment::commit(&point, Purpose::Sigma, Slot(1), [1; 32], &sigma.to_le_bytes());
            match &frame.body {
                Body::Digest(digest) if frame.header.kind == Kind::Freeze => transcript.set(*digest),
                Body::Digest(_) if frame.header.kind == Kind::SigmaCommit => frame.body = Body::Digest(c.to_bytes()),
                Body::Opening(_) if frame.header.kind == Kind::SigmaOpen => frame.body = Body::Opening(o),
                _ => {}
            }
        }
        Verdict::Deliver
    });
    world.run();
    for slot in [2, 3] {
        let error = world.error(slot);
        assert!(matches!(error, EngineError::Frame { from: Slot(1), source: FrameError::Word(_) }), "{error}");
    }
    world.assert_nothing_released(&[1]);
}

#[test]
fn spdz_an_opening_that_does_not_fit_its_commitment_ends_the_job() {
    // The answer to our reveal: another σ than committed to.
    for kind in [Kind::CoinOpen, Kind::SigmaOpen] {
        let mut world = World::small(spdz(), 4);
        world.adversary = Box::new(move |frame| {
            if frame.header.from == Slot(1) && frame.header.kind == kind {
                falsify(frame);
            }
            Verdict::Deliver
        });
        world.run();
        for honest in [2, 3] {
            let error = world.error(honest);
            assert!(
                matches!(error, EngineError::Transcript(TranscriptError::Commitment { from: Slot(1), .. })),
                "{error}"
            );
        }
        world.assert_nothing_released(&[1]);
    }
}

#[test]
fn spdz_a_coin_told_differently_to_different_nodes_is_noticed_before_it_is_used() {
    // Commitment and opening differ by receiver: each fits by itself.
    let mut world = World::small(spdz(), 5);
    let manifest = world.job.manifest().digest();
    let transcript = Cell::new([0; 32]);
    world.adversary = Box::new(move |frame| {
        if frame.header.from == Slot(1) {
            let point = CheckPoint { manifest, epoch: 0, view: 0, check: 0, transcript: transcript.get() };
            let (c, o) = Commitment::commit(&point, Purpose::Coin, Slot(1), [frame.header.to.0; 32], &[]);
            match frame.header.kind {
                Kind::Freeze => {
                    let Body::Digest(digest) = frame.body else { panic!() };
                    transcript.set(digest);
                }
                Kind::CoinCommit => frame.body = Body::Digest(c.to_bytes()),
                Kind::CoinOpen => frame.body = Body::Opening(o),
                _ => {}
            }
        }
        Verdict::Deliver
    });
    world.run();
    for honest in [2, 3] {
        assert!(matches!(world.error(honest), EngineError::Disagree { what: Kind::CoinAgree, .. }));
    }
    let depends = world.sent.iter().filter(|f| f.header.kind == Kind::SigmaCommit && f.header.from != Slot(1)).count();
    assert_eq!(depends, 0, "a message that depends on the coin left before the coin was agreed");
}

#[test]
fn spdz_a_copied_commitment_cannot_be_opened() {
    // Node 1 repeats node 2's coin commitment, then node 2's opening.
    let mut world = World::small(spdz(), 6);
    let (mut commitment, mut opening) = (None, None);
    world.start();
    world.adversary = Box::new(move |frame| {
        match (frame.header.kind, frame.header.from) {
            (Kind::CoinCommit, Slot(2)) => commitment = Some(frame.body.clone()),
            (Kind::CoinOpen, Slot(2)) => opening = Some(frame.body.clone()),
            // Frames of node 1 are held until node 2 has spoken.
            (Kind::CoinCommit, Slot(1)) if commitment.is_some() => frame.body = commitment.clone().unwrap(),
            (Kind::CoinOpen, Slot(1)) if opening.is_some() => frame.body = opening.clone().unwrap(),
            _ => {}
        }
        Verdict::Deliver
    });
    world.drain();
    let error = world.error(3);
    assert!(matches!(error, EngineError::Transcript(TranscriptError::Commitment { from: Slot(1), .. })), "{error}");
    world.assert_nothing_released(&[1]);
}

#[test]
fn spdz_sigma_is_opened_only_after_the_record_is_on_disk() {
    let mut world = World::small(spdz(), 7);
    world.run();
    world.outputs();
    for slot in world.slots() {
        let records = &world.records[&slot];
        let opened = records.iter().position(|r| *r == Record::CheckOpened { check: 0 }).unwrap();
        let passed = records.iter().position(|r| *r == Record::CheckPassed { check: 0 }).unwrap();
        assert!(opened < passed);
    }
    // Without the record, the opening stays inside.
    let mut world = World::small(spdz(), 7);
    world.start();
    while let Some((to, event)) = world.queue.pop_front() {
        if let Event::Persisted { .. } = event
            && matches!(world.records[&to].last(), Some(Record::CheckOpened { .. }))
        {
            continue; // the disk never answers
        }
        world.step(to, event);
    }
    assert!(world.sent.iter().any(|f| f.header.kind == Kind::SigmaCommit));
    assert!(!world.sent.iter().any(|f| f.header.kind == Kind::SigmaOpen));
}

#[test]
fn a_party_says_nothing_after_a_failed_check() {
    let (mut world, _) = world_with_a_liar(0);
    world.run();
    assert_eq!(world.error(2), &EngineError::CheckFailed { check: 0 });
    let late = world.sent.last().unwrap().clone();
    let again = world.parties[1].step(Event::Frame { from: late.header.from, frame: late });
    assert!(matches!(again, Err(EngineError::Unasked(_))));
    assert!(matches!(world.parties[1].step(Event::Start), Err(EngineError::Unasked(_))));
}

// --- Shamir: tampered openings ---------------------------------------------------

#[test]
fn shamir_a_wrong_share_is_corrected_where_the_table_says_so() {
    let mut honest = World::small(shamir(5, 1), 9);
    honest.run();
    let mut world = World::small(shamir(5, 1), 9);
    assert!(tamper_openings(&mut world, |f| Some(words(f) / 2)) > 0);
    // Every honest node has the right words and names the liar.
    for slot in [2, 3, 4, 5] {
        let outcome = world.outcomes[&Slot(slot)].as_ref().unwrap();
        assert_eq!(outcome.blamed.iter().copied().collect::<Vec<_>>(), [Slot(1)]);
    }
    assert_eq!(world.outputs(), honest.outputs());
}

#[test]
fn shamir_a_wrong_share_of_a_product_ends_the_job_at_n_4() {
    for roster in [shamir(4, 1), shamir(3, 1)] {
        let mut world = World::small(roster, 10);
        assert!(tamper_openings(&mut world, |f| Some(words(f) - 1)) > 0);
        for slot in 2..=roster.nodes() {
            let error = world.error(slot);
            assert!(matches!(error, EngineError::Decode(DecodeError::Inconsistent { .. })), "{error}");
        }
        world.assert_nothing_released(&[1]);
    }
}

#[test]
fn shamir_two_liars_at_threshold_two_end_the_job_or_are_corrected_never_believed() {
    for roster in [shamir(5, 2), shamir(7, 2)] {
        let mut honest = World::small(roster, 11);
        honest.run();
        let mut world = World::small(roster, 11);
        world.adversary = Box::new(|frame| {
            if frame.header.from.0 <= 2 && frame.header.kind == Kind::Opening {
                bump(frame, 0);
            }
            Verdict::Deliver
        });
        world.run();
        for slot in 3..=roster.nodes() {
            match &world.outcomes[&Slot(slot)] {
                Err(e) => assert!(matches!(e, EngineError::Decode(DecodeError::Inconsistent { .. })), "{e}"),
                Ok(outcome) => {
                    let right = &honest.outcomes[&Slot(slot)].as_ref().unwrap().outputs;
                    let same = outcome.outputs.iter().zip(right).all(|(a, b)| a.words() == b.words());
                    assert!(same, "{roster}: {} believed the liars", Slot(slot));
                }
            }
        }
    }
}

#[test]
fn more_liars_over_the_job_than_the_threshold_end_it() {
    // One liar in each round, but not the same one: each opening could be
    // corrected, the assumption is broken all the same.
    let mut world = World::small(shamir(5, 1), 12);
    world.adversary = Box::new(|frame| {
        let liar = Slot(1 + (frame.header.step % 2) as u8);
        if frame.header.from == liar && frame.header.kind == Kind::Opening {
            bump(frame, 0);
        }
        Verdict::Deliver
    });
    world.run();
    for slot in 3..=5 {
        let error = world.error(slot);
        assert!(matches!(error, EngineError::TooManyLiars { .. }), "{error}");
    }
}

// --- equivocation ------------------------------------------------------------------

#[test]
fn openings_told_differently_to_different_nodes_reveal_nothing() {
    for roster in [shamir(4, 1), shamir(3, 1), spdz()] {
        let steps = World::small(roster, 13).job.plan().opening_rounds() as u32;
        for step in 2..steps + 2 {
            let mut world = World::small(roster, 13);
            let hit = Rc::new(Cell::new(false));
            let seen = hit.clone();
            world.adversary = Box::new(move |frame| {
                let h = frame.header;
                if h.from == Slot(1) && h.to == Slot(2) && h.kind == Kind::Opening && h.step == step {
                    bump(frame, 0);
                    seen.set(true);
                }
                Verdict::Deliver
            });
            world.run();
            assert!(hit.get());
            // At (4, 1) an opening of degree t is corrected; else it ends here.
            let corrected = world.outcomes.get(&Slot(2)).is_some_and(Result::is_ok);
            let names = |o: &crate::engine::Outcome| o.blamed.contains(&Slot(1));
            assert!(!corrected || world.outcomes[&Slot(2)].as_ref().is_ok_and(names), "{roster}, step {step}");
            if roster == spdz() {
                world.assert_nothing_released(&[1]);
                let frozen =
                    world.sent.iter().filter(|f| f.header.kind == Kind::CoinCommit && f.header.from != Slot(1));
                assert_eq!(frozen.count(), 0, "the transcripts differ, yet a check began");
            }
        }
    }
}

#[test]
fn nodes_with_different_manifests_open_nothing() {
    let (program, inputs) = small_program();
    for roster in [shamir(4, 1), spdz()] {
        let mut world = World::new(&program, roster, &inputs, 14);
        // Node 2 was given another job by an equivocating owner.
        let (other, _, nodes) = job_of(&program, roster, &inputs, 15);
        world.parties[1] = party(&device(), &other, Slot(2), &nodes[1], 15);
        world.segments.clear();
        world.run();
        assert!(!world.sent.iter().any(|f| f.header.kind == Kind::Opening));
        for slot in world.slots() {
            let error = world.error(slot.0);
            assert!(matches!(error, EngineError::Misplaced { field: "job", .. }), "{error}");
        }
    }
}

#[test]
fn a_different_final_transcript_is_not_released() {
    let mut world = World::small(shamir(4, 1), 16);
    world.adversary = Box::new(|frame| {
        if frame.header.from == Slot(1) && frame.header.kind == Kind::Finish {
            frame.body = Body::Digest([9; 32]);
        }
        Verdict::Deliver
    });
    world.run();
    for slot in [2, 3, 4] {
        assert_eq!(world.error(slot), &EngineError::Disagree { from: Slot(1), what: Kind::Finish });
    }
}

#[test]
fn what_one_node_is_told_differently_ends_the_job_there_in_every_phase() {
    let check = [
        Kind::Agree,
        Kind::Segment,
        Kind::Freeze,
        Kind::CoinCommit,
        Kind::CoinOpen,
        Kind::CoinAgree,
        Kind::SigmaCommit,
        Kind::SigmaOpen,
        Kind::Passed,
    ];
    for (roster, phases) in [(spdz(), &check[..]), (shamir(4, 1), &[Kind::Agree, Kind::Segment, Kind::Finish])] {
        for &kind in phases {
            let mut world = World::small(roster, 27);
            let hit = Rc::new(Cell::new(false));
            let seen = hit.clone();
            world.adversary = Box::new(move |frame| {
                let h = frame.header;
                if h.from == Slot(1) && h.to == Slot(2) && h.kind == kind {
                    falsify(frame);
                    seen.set(true);
                }
                Verdict::Deliver
            });
            world.run();
            assert!(hit.get(), "{roster} has no {kind}");
            let error = world.error(2);
            let commitment =
                matches!(error, EngineError::Transcript(TranscriptError::Commitment { from: Slot(1), .. }));
            let named = matches!(error, EngineError::Disagree { from: Slot(1), what } if *what == kind);
            assert!(named || commitment, "{roster}, {kind}: {error}");
            // In the last exchange the others have all that they wait for;
            // without node 2's receipt no reader takes what they release.
            if !matches!(kind, Kind::Passed | Kind::Finish) {
                world.assert_nothing_released(&[]);
            }
        }
    }
}

// --- the dealer's stream ---------------------------------------------------------------

#[test]
fn a_changed_segment_is_refused_before_anything_depends_on_it() {
    for (roster, to_all) in [(shamir(4, 1), false), (shamir(4, 1), true), (spdz(), false), (spdz(), true)] {
        for damage in 0..3 {
            let mut world = World::small(roster, 17);
            world.segment_for = Box::new(move |slot, _, bytes| {
                if to_all || slot == Slot(2) {
                    match damage {
                        0 => bytes[0] ^= 1,                    // Δ + δ
                        1 => bytes.truncate(bytes.len() - 8),  // too short
                        _ => bytes.extend_from_slice(&[0; 8]), // too long
                    }
                }
            });
            world.run();
            for slot in world.slots().into_iter().filter(|slot| to_all || *slot == Slot(2)) {
                let error = world.error(slot.0);
                let refused = matches!(
                    error,
                    EngineError::Transcript(TranscriptError::Root { .. } | TranscriptError::Length { .. })
                );
                assert!(refused, "{error}");
                let spoke = world.sent.iter().any(|f| f.header.from == slot && f.header.kind == Kind::Opening);
                assert!(!spoke, "a share that depends on an unverified segment was sent");
            }
        }
    }
}

#[test]
fn a_segment_signed_differently_for_one_node_ends_the_job_before_its_use() {
    // The owner itself equivocates: Δ + δ with a valid signature to node 2.
    for roster in [shamir(4, 1), spdz()] {
        let mut world = World::small(roster, 18);
        let (place, owner) = (world.job.manifest().stream(), Arc::clone(&world.owner));
        let mut bytes = world.segments[0].1.clone();
        bytes[0] ^= 1;
        let forged = place.sign(&owner, 0, 0, &bytes).unwrap();
        world.segment_for = Box::new(move |slot, _, out| {
            if slot == Slot(2) {
                out.clone_from(&bytes);
            }
        });
        world.start();
        for (to, event) in &mut world.queue {
            if let (Slot(2), Event::Header(_)) = (*to, &event) {
                *event = Event::Header(Box::new(forged));
            }
        }
        world.drain();
        assert!(!world.sent.iter().any(|f| f.header.kind == Kind::Opening), "an opening depends on Δ + δ");
        for slot in world.slots() {
            let error = world.error(slot.0);
            assert!(matches!(error, EngineError::Disagree { what: Kind::Segment, .. }), "{error}");
        }
    }
}

#[test]
fn words_accepted_under_another_header_are_not_taken() {
    for (roster, lies) in [(shamir(4, 1), false), (spdz(), false), (shamir(4, 1), true), (spdz(), true)] {
        let mut world = World::small(roster, 18);
        let (place, owner) = (world.job.manifest().stream(), Arc::clone(&world.owner));
        let headers: Vec<_> = world.segments.iter().map(|segment| segment.0).collect();
        let mut bytes = world.segments[0].1.clone();
        bytes[0] ^= 1;
        // Of the owner as well, and for the same place.
        let forged = place.sign(&owner, 0, 0, &bytes).unwrap();
        let other = move |slot, index| lies && slot == Slot(2) && index == 0;
        world.segment_for = Box::new(move |slot, index, out| {
            if other(slot, index) {
                out.clone_from(&bytes);
            }
        });
        world.accepted_for = Box::new(move |slot, index| match other(slot, index) {
            true => Some(forged),
            false => Some(headers[index as usize]),
        });
        world.run();
        if lies {
            assert_eq!(world.error(2), &EngineError::Unasked("a segment of another header"));
        } else {
            world.slots().iter().for_each(|slot| assert!(world.outcomes[slot].is_ok(), "{slot}"));
        }
    }
}

#[test]
fn a_second_header_for_one_place_ends_the_job() {
    let mut world = World::small(shamir(4, 1), 19);
    let (place, owner) = (world.job.manifest().stream(), Arc::clone(&world.owner));
    let mut bytes = world.segments[0].1.clone();
    bytes[8] ^= 1;
    let second = place.sign(&owner, 0, 0, &bytes).unwrap();
    world.start();
    world.queue.insert(8, (Slot(3), Event::Header(Box::new(second))));
    world.drain();
    let error = world.error(3);
    assert!(matches!(error, EngineError::Transcript(TranscriptError::TwoHeaders { .. })), "{error}");
}

#[test]
fn a_header_of_a_stranger_or_of_another_job_is_refused() {
    let (program, inputs) = small_program();
    let (other, ..) = job_of(&program, shamir(4, 1), &inputs, 21);
    let (header, _) = other.stream().unwrap().next().unwrap();
    let mut world = World::small(shamir(4, 1), 20);
    world.step(Slot(1), Event::Start);
    world.step(Slot(1), Event::Header(Box::new(header)));
    let error = world.error(1);
    assert!(matches!(error, EngineError::Transcript(TranscriptError::HeaderSignature { .. })), "{error}");

    let owner = Arc::clone(&world.owner);
    let mut place = world.job.manifest().stream();
    place.manifest = [1; 32];
    let header = place.sign(&owner, 0, 0, &world.segments[0].1).unwrap();
    world.step(Slot(2), Event::Header(Box::new(header)));
    let error = world.error(2);
    assert!(matches!(error, EngineError::Transcript(TranscriptError::HeaderJob { .. })), "{error}");
}

#[test]
fn segments_of_another_attempt_are_refused() {
    // The owner dealt two copies, and somebody hands the second to all nodes
    // of a job that uses the first: all agree on it, and it is all garbage.
    let roster = shamir(4, 1);
    let mut world = World::small(roster, 7);
    let nonce = world.job.manifest().manifest().nonce;
    let dealer = Arc::from(job_keys(&world.owner.dealing(), &nonce, roster));
    let place = StreamPlace { attempts: 2, ..world.job.manifest().stream() };
    let plan = Arc::clone(world.job.plan());
    world.segments = SegmentStream::new(plan, dealer, Arc::clone(&world.owner), place, 1).unwrap().collect();
    for slot in world.slots() {
        let SlotKeys::Shamir(keys) = world.job.assignment(slot).keys else { panic!() };
        world.parties[slot.index()] =
            world.engine_of(2, Shamir::new(roster, slot, keys, Cpu).unwrap(), world.job_inputs());
    }
    world.run();
    for slot in world.slots() {
        let error = world.error(slot.0);
        let refused =
            matches!(error, EngineError::Transcript(TranscriptError::HeaderGeometry { field: "attempt", .. }));
        assert!(refused, "{error}");
    }
}

#[test]
fn a_lie_about_a_segment_names_the_liar() {
    for seed in 0..10 {
        let mut world = World::small(shamir(4, 1), seed);
        world.adversary = Box::new(|frame| {
            if frame.header.kind == Kind::Segment && frame.header.from == Slot(4) {
                frame.body = Body::Digest([9; 32]);
            }
            Verdict::Deliver
        });
        world.run();
        for slot in 1..=3 {
            assert_eq!(world.error(slot), &EngineError::Disagree { from: Slot(4), what: Kind::Segment });
        }
    }
}

#[test]
fn the_deadline_for_segments_is_not_put_off_by_chatter() {
    let mut world = World::small(shamir(4, 1), 3);
    let header = world.segments[0].0;
    let mut frames = Vec::new();
    for slot in [2u8, 3, 4] {
        for action in world.parties[usize::from(slot) - 1].step(Event::Start).unwrap() {
            if let Action::Send { to: Slot(1), frame } = action {
                frames.push((Slot(slot), frame));
            }
        }
    }
    let node = &mut world.parties[0];
    node.step(Event::Start).unwrap();
    let mut arms = 0;
    let mut count = |actions: Vec<Action>| arms += actions.iter().filter(|a| matches!(a, Action::Arm { .. })).count();
    for (from, frame) in frames {
        count(node.step(Event::Frame { from, frame }).unwrap());
    }
    for _ in 0..100 {
        count(node.step(Event::Header(Box::new(header))).unwrap());
    }
    assert_eq!(arms, 1);
}

// --- replay, reflection, framing ------------------------------------------------------

/// Gives node 2 one changed copy of the first frame that node 1 sends it.
fn misplace(change: impl Fn(&mut Frame) + 'static) -> EngineError {
    let mut world = World::small(shamir(4, 1), 22);
    let done = Cell::new(false);
    world.adversary = Box::new(move |frame| {
        let h = frame.header;
        if h.from == Slot(1) && h.to == Slot(2) && h.kind == Kind::Opening && !done.replace(true) {
            change(frame);
        }
        Verdict::Deliver
    });
    world.run();
    world.error(2).clone()
}

#[test]
fn frames_from_elsewhere_are_refused() {
    type Change = fn(&mut Frame);
    let cases: [(&str, Change); 6] = [
        ("job", |f| f.header.manifest[0] ^= 1),
        ("epoch", |f| f.header.epoch = 1),
        ("view", |f| f.header.view = 1),
        ("attempt", |f| f.header.attempt = 1),
        ("sender", |f| f.header.from = Slot(3)),
        ("receiver", |f| f.header.to = Slot(4)),
    ];
    for (field, change) in cases {
        let error = misplace(change);
        assert!(matches!(&error, EngineError::Misplaced { field: found, .. } if *found == field), "{field}: {error}");
    }
    let error = misplace(|f| f.header.kind = Kind::Finish);
    assert!(matches!(error, EngineError::Misplaced { field: "kind", .. }), "{error}");
}

#[test]
fn a_frame_that_comes_again_changes_nothing() {
    let mut world = World::small(shamir(4, 1), 23);
    world.run();
    // Node 2 gets each frame of node 1 many times, early and late.
    let frames: Vec<_> = world.sent.iter().filter(|f| f.header.from == Slot(1) && f.header.to == Slot(2)).collect();
    let mut late = World::small(shamir(4, 1), 23);
    late.start();
    for frame in frames.iter().chain(&frames).map(|f| (*f).clone()) {
        late.queue.push_back((Slot(2), Event::Frame { from: Slot(1), frame }));
    }
    late.drain();
    assert_eq!(late.outputs(), world.outputs());
}

#[test]
fn a_frame_of_another_step_takes_no_place() {
    for by in [-1i32, 2, 7] {
        let mut world = World::small(shamir(4, 1), 22);
        let done = Cell::new(false);
        world.adversary = Box::new(move |frame| {
            let h = &mut frame.header;
            if (h.from, h.to, h.kind) == (Slot(1), Slot(2), Kind::Opening) && !done.replace(true) {
                h.step = h.step.wrapping_add_signed(by);
            }
            Verdict::Deliver
        });
        world.run();
        // Node 2 waits, and the others for it.
        assert!(world.outcomes.is_empty());
    }
}

#[test]
fn two_different_frames_for_one_exchange_end_the_job() {
    let mut world = World::small(shamir(4, 1), 22);
    world.run();
    let honest =
        |kind| world.sent.iter().find(|f| (f.header.from, f.header.to, f.header.kind) == (Slot(1), Slot(2), kind));
    let frame = honest(Kind::Opening).unwrap().clone();
    let mut other = frame.clone();
    let Body::Words(words) = &mut other.body else { panic!() };
    Arc::make_mut(words)[0] += Fp61::ONE;
    // For the next exchange, and for the one that node 2 is in.
    for kinds in [&[][..], &[Kind::Agree]] {
        let mut late = World::small(shamir(4, 1), 22);
        late.start();
        if !kinds.is_empty() {
            late.adversary = Box::new(|frame| match frame.header.kind {
                Kind::Opening => Verdict::Swallow,
                _ => Verdict::Deliver,
            });
            late.drain();
        } else {
            late.step(Slot(2), Event::Start);
        }
        for frame in [&frame, &frame, &other] {
            assert!(late.outcomes.is_empty());
            late.step(Slot(2), Event::Frame { from: Slot(1), frame: frame.clone() });
        }
        assert!(matches!(late.error(2), EngineError::Twice { from: Slot(1), kind: Kind::Opening, .. }));
    }
}

#[test]
fn our_own_frame_reflected_is_refused() {
    let mut world = World::small(shamir(4, 1), 24);
    world.run();
    let own = world.sent.iter().find(|f| f.header.from == Slot(2) && f.header.to == Slot(1)).unwrap().clone();
    let mut other = World::small(shamir(4, 1), 24);
    other.step(Slot(2), Event::Start);
    other.step(Slot(2), Event::Frame { from: Slot(1), frame: own.clone() });
    assert!(matches!(other.error(2), EngineError::Misplaced { field: "sender", .. }));
    let mut other = World::small(shamir(4, 1), 24);
    other.step(Slot(2), Event::Start);
    other.step(Slot(2), Event::Frame { from: Slot(2), frame: own });
    assert!(matches!(other.error(2), EngineError::Unasked(_)));
}

#[test]
fn an_opening_of_the_wrong_length_names_its_sender() {
    for grow in [false, true] {
        let error = misplace(move |frame| {
            let Body::Words(words) = &mut frame.body else { panic!() };
            let words = Arc::make_mut(words);
            if grow {
                words.push(Fp61::ZERO)
            } else {
                let _ = words.pop();
            }
        });
        assert!(matches!(error, EngineError::Words { from: Slot(1), .. }), "{error}");
    }
}

#[test]
fn words_that_are_not_canonical_never_become_frames() {
    let mut world = World::small(shamir(4, 1), 25);
    world.run();
    let frame = world.sent.iter().find(|f| f.header.kind == Kind::Opening).unwrap();
    for word in [crate::field::P, crate::field::P + 1, u64::MAX] {
        let mut bytes = frame.encode();
        let at = bytes.len() - 8;
        bytes[at..].copy_from_slice(&word.to_le_bytes());
        assert!(Frame::decode(&bytes).is_err(), "{word:#x}");
    }
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_the_frame_decoder_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
        if let Ok(frame) = Frame::decode(&bytes) {
            proptest::prop_assert_eq!(frame.encode(), bytes);
        }
    }
}

#[test]
fn the_wire_form_of_frames_is_frozen() {
    let header = crate::engine::frame::Header {
        manifest: [0xab; 32],
        epoch: 1,
        view: 2,
        attempt: 3,
        step: 4,
        kind: Kind::Opening,
        from: Slot(5),
        to: Slot(6),
    };
    let words = Body::Words(Arc::new(vec![Fp61::ONE, -Fp61::ONE]));
    let hex = crate::keys::hex(&Frame { header, body: words }.encode());
    let head = format!("{}01000000020000000300000004000000", "ab".repeat(32));
    assert_eq!(hex, format!("{head}0205060100000000000000feffffffffffff1f"));

    let point = CheckPoint { manifest: [1; 32], epoch: 0, view: 0, check: 0, transcript: [2; 32] };
    let (_, opening) = Commitment::commit(&point, Purpose::Sigma, Slot(5), [9; 32], &7u64.to_le_bytes());
    for (kind, number, body, bytes) in [
        (Kind::Agree, "01", Body::Digest([3; 32]), "03".repeat(32)),
        (Kind::SigmaOpen, "08", Body::Opening(opening), format!("{}080700000000000000", "09".repeat(32))),
        (Kind::Segment, "0b", Body::Digest([3; 32]), "03".repeat(32)),
        (Kind::Gather, "0d", Body::Words(Arc::new(vec![Fp61::ONE])), "0100000000000000".to_owned()),
        (Kind::Spread, "0e", Body::Words(Arc::default()), String::new()),
        (Kind::Agreed, "0f", Body::Digest([3; 32]), "03".repeat(32)),
        (Kind::Combined, "10", Body::Words(Arc::new(vec![Fp61::ONE])), "0100000000000000".to_owned()),
        (
            Kind::Packed,
            "0c",
            Body::Packed(Arc::new(vec![Fp61::ONE]), Told::Words(Arc::new(vec![u64::MAX]))),
            "0101000000ffffffffffffffff0100000000000000".to_owned(),
        ),
        (
            Kind::Packed,
            "0c",
            Body::Packed(Arc::new(vec![Fp61::ONE]), Told::Voucher([3; 32])),
            format!("00{}0100000000000000", "03".repeat(32)),
        ),
    ] {
        let hex = crate::keys::hex(&Frame { header: crate::engine::frame::Header { kind, ..header }, body }.encode());
        assert_eq!(hex, format!("{head}{number}0506{bytes}"));
    }
}
