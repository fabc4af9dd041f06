//! One thing said to one node and another to the next.

use std::cell::Cell;
use std::rc::Rc;

use super::{bump, falsify, shamir, spdz};
use crate::engine::EngineError;
use crate::engine::frame::{Body, Kind};
use crate::engine::tests::world::{Verdict, World, device, job_of, party, small_program};
use crate::roster::Slot;
use crate::transcript::TranscriptError;

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
