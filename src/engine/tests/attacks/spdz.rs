//! Openings under SPDZ that lie, and the check that follows.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{falsify, spdz};
use crate::backend::cpu::Cpu;
use crate::engine::frame::{Body, Frame, FrameError, Kind};
use crate::engine::tests::cheat::Cheat;
use crate::engine::tests::world::{Verdict, World, job_of, small_program};
use crate::engine::{EngineError, Event, Record};
use crate::field::{Fp61, P};
use crate::roster::Slot;
use crate::sharing::{SlotKeys, Spdz};
use crate::transcript::{CheckPoint, Commitment, Purpose, TranscriptError};

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
