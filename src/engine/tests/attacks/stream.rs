//! The dealer's stream, changed, forged or reported wrongly.

use std::sync::Arc;

use super::{shamir, spdz};
use crate::backend::cpu::Cpu;
use crate::engine::frame::{Body, Kind};
use crate::engine::tests::world::{Verdict, World, job_of, small_program};
use crate::engine::{Action, EngineError, Event};
use crate::material::SegmentStream;
use crate::roster::Slot;
use crate::sharing::{Shamir, SlotKeys, job_keys};
use crate::transcript::{StreamPlace, TranscriptError};

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
