//! Openings under Shamir that lie.

use std::cell::Cell;
use std::rc::Rc;

use super::{bump, shamir};
use crate::engine::EngineError;
use crate::engine::frame::{Body, Frame, Kind};
use crate::engine::tests::world::{Verdict, World};
use crate::roster::Slot;
use crate::sharing::DecodeError;

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
