//! SPDZ jobs with several attempts, whose processes die, under attack: what one node offers to
//! whom, what lies on a disk, and what is sent again.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::*;
use crate::node::checkpoints::KEPT;
use crate::node::wire::Offer;
use crate::program::eager;

const VICTIM: Slot = Slot(2);
const LIAR: Slot = Slot(3);

fn three_nodes() -> Case {
    case_of(("SPDZ, three nodes", Roster::spdz(3).unwrap()), 0, 10, 0, 4)
}

/// Node 2 is killed in the middle of the first attempt, and comes back.
fn with_a_crash(at: u64) -> Chaos {
    Chaos { every: 1, kills: vec![(at, VICTIM, Some(500))], ..Chaos::default() }
}

/// All frames of a kind of which no mask depends.
fn is_bare(kind: Kind) -> bool {
    matches!(kind, Kind::Agree | Kind::Segment)
}

fn frame(bytes: &[u8]) -> Option<Frame> {
    match Peer::decode(bytes) {
        Some(Peer::Frame(frame)) => Some(Frame::decode(frame).unwrap()),
        _ => None,
    }
}

fn offer(bytes: &[u8]) -> Option<(bool, Offer)> {
    match Peer::decode(bytes) {
        Some(Peer::Offer { waits, offer }) => Some((waits, offer)),
        _ => None,
    }
}

fn reasons(world: &World<'_>, slots: &[u8]) -> Vec<String> {
    let reason = |slot: &u8| match &world.nodes[Slot(*slot).index()].ended {
        Some(Err(reason)) => reason.clone(),
        other => panic!("node {slot} ended with {other:?}"),
    };
    slots.iter().map(reason).collect()
}

/// The liar offers its checkpoints to one node and hides them from the other, which so begins at the beginning.
#[test]
fn a_node_that_offers_checkpoints_to_one_node_alone_learns_nothing_of_shares() {
    eager(|| {
        let mut case = three_nodes();
        let mut attacked = 0;
        for at in (1500..5500).step_by(250) {
            let (later, hidden) = (Rc::new(RefCell::new(Vec::new())), Rc::new(Cell::new(false)));
            let (kinds, hides) = (Rc::clone(&later), Rc::clone(&hidden));
            let mut world = World::new(&mut case, at, with_a_crash(at));
            world.hook = Some(Box::new(move |_, from, to, bytes| {
                if let Some((waits, mut offer)) = offer(bytes)
                    && (from, to) == (LIAR, Slot(1))
                    && !offer.checkpoints.is_empty()
                {
                    offer.checkpoints.clear();
                    *bytes = Peer::Offer { waits, offer }.encode();
                    hides.set(true);
                }
                if let Some(frame) = frame(bytes).filter(|frame| frame.header.attempt > 0 && from != LIAR) {
                    kinds.borrow_mut().push(frame.header.kind);
                }
                true
            }));
            world.run();
            if !hidden.get() || later.borrow().is_empty() {
                continue;
            }
            attacked += 1;
            assert!(later.borrow().iter().all(|kind| is_bare(*kind)), "{:?}", later.borrow());
            assert!(world.nodes.iter().all(|node| matches!(node.ended, Some(Err(_)))));
        }
        assert!(attacked > 4, "{attacked}");
    });
}

/// A job on Shamir has no attempts: who offers one is left out, and the others go on.
#[test]
fn an_offer_ends_no_job_on_shamir() {
    let mut case = case("(5, 1)", Roster::shamir(5, 1).unwrap(), 0, 8, 0);
    for waits in [true, false] {
        let mut world = World::new(&mut case, 1, Chaos::default());
        let (told, count) = (Rc::new(Cell::new(0)), 4);
        let tells = Rc::clone(&told);
        world.hook = Some(Box::new(move |_, from, _, bytes| {
            if from == LIAR
                && frame(bytes).is_some_and(|frame| frame.header.kind == Kind::Opening)
                && tells.get() < count
            {
                *bytes = Peer::Offer { waits, offer: Offer::default() }.encode();
                tells.set(tells.get() + 1);
            }
            true
        }));
        world.run();
        assert_eq!(told.get(), count);
        for slot in [1, 2, 4, 5].map(Slot) {
            assert_eq!(world.nodes[slot.index()].ended, Some(Ok(())), "{:?}", world.state());
        }
    }
}

/// It says that it has spoken in attempts that were not begun: each costs one of those that are dealt, no more.
#[test]
fn a_node_that_burns_attempts_ends_the_job_and_no_more() {
    eager(|| {
        let mut case = three_nodes();
        for (level, what) in [(3, "in the last of 4 attempts"), (4, "it lies"), (u32::MAX, "it lies")] {
            let mut world = World::new(&mut case, 1, with_a_crash(2500));
            world.hook = Some(Box::new(move |_, from, _, bytes| {
                if let Some((waits, mut offer)) = offer(bytes)
                    && from == LIAR
                {
                    offer.level = level;
                    *bytes = Peer::Offer { waits, offer }.encode();
                }
                true
            }));
            world.run();
            assert!(reasons(&world, &[1, 2]).iter().any(|reason| reason.contains(what)), "{:?}", world.state());
        }
    });
}

/// Frames of the first attempt in the place of those of the second: they are left alone, and what was lost is said again.
#[test]
fn frames_of_an_earlier_attempt_are_left_alone() {
    eager(|| {
        let mut case = three_nodes();
        let mut replayed = 0;
        for at in (1500..5500).step_by(500) {
            let mut world = World::new(&mut case, at, with_a_crash(at));
            let (mut old, count) = (None, Rc::new(Cell::new(0)));
            let replays = Rc::clone(&count);
            world.hook = Some(Box::new(move |_, from, to, bytes| {
                let Some(frame) = frame(bytes).filter(|_| (from, to) == (LIAR, Slot(1))) else { return true };
                match frame.header.attempt {
                    0 if frame.header.kind == Kind::Opening => old = Some(bytes.clone()),
                    1 if frame.header.kind == Kind::Opening && replays.get() < 3 => {
                        if let Some(old) = &old {
                            bytes.clone_from(old);
                            replays.set(replays.get() + 1);
                        }
                    }
                    _ => {}
                }
                true
            }));
            world.run();
            if count.get() > 0 {
                replayed += 1;
                assert!(world.nodes.iter().all(|node| node.ended == Some(Ok(()))), "{:?}", world.state());
                world.judge(true);
            }
        }
        assert!(replayed > 2, "{replayed}");
    });
}

/// What is done to the disk of a node that was killed; the job ends with the right result all the same.
fn outlived(damage: Damage) -> Tally {
    eager(|| {
        let (mut case, mut sum) = (three_nodes(), Tally::default());
        for at in (1500..5500).step_by(200) {
            let mut world = World::new(&mut case, at, with_a_crash(at));
            world.damage = Some(damage);
            world.run();
            world.judge(true);
            sum = sum + world.tally;
        }
        assert!(sum.done > 12 && sum.damaged > 8, "{sum:?}");
        sum
    })
}

fn places(keep: &Keep) -> Vec<(u64, Vec<u8>)> {
    let mut held: Vec<_> = (0..KEPT).filter_map(|place| Some((place, keep.checkpoint(place).unwrap()?))).collect();
    held.sort_by_key(|(_, bytes)| u32::from_le_bytes(bytes[1..5].try_into().unwrap()));
    held
}

#[test]
fn a_checkpoint_that_was_changed_on_disk_is_not_offered() {
    let flip: Damage = |keep, _| {
        let held = places(keep);
        for (place, mut bytes) in held.clone() {
            let last = bytes.len() - 20;
            bytes[last] ^= 1;
            keep.put_checkpoint(place, &bytes).unwrap();
        }
        !held.is_empty()
    };
    // Nobody begins at one that the killed node does not have.
    assert_eq!(outlived(flip).restored, 0);
}

/// An old one in the newest one's place, and the newest under an older round: all go back as far as it needs.
#[test]
fn an_old_checkpoint_or_a_renamed_one_costs_time_alone() {
    let old: Damage = |keep, _| {
        let held = places(keep);
        let [(_, older), (place, _)] = &held[..] else { return false };
        keep.put_checkpoint(*place, older).unwrap();
        true
    };
    assert!(outlived(old).restored > 8);
    let renamed: Damage = |keep, _| {
        let held = places(keep);
        let Some((place, newest)) = held.last() else { return false };
        let mut bytes = newest.clone();
        bytes[1] += 1;
        keep.put_checkpoint(*place, &bytes).unwrap();
        true
    };
    outlived(renamed);
}

/// Runs a world; does something once, after the event at which `when` has become true.
fn once(world: &mut World<'_>, when: &dyn Fn() -> bool, what: &mut dyn FnMut(&mut World<'_>)) -> bool {
    let mut done = false;
    while let Some(((at, _), happening)) = world.queue.pop_first() {
        assert!(at < FOREVER, "the job hangs: {:?}", world.state());
        world.now = at;
        world.happen(happening);
        if !done && when() {
            done = true;
            what(world);
        }
    }
    done
}

/// Every process dies in the second attempt. Nobody is left who remembers it, but for the disks.
#[test]
fn when_all_processes_die_the_attempt_is_not_begun_a_second_time() {
    eager(|| {
        let mut case = three_nodes();
        let mut died = 0;
        for at in (1500..5500).step_by(500) {
            let mut world = World::new(&mut case, at, with_a_crash(at));
            let second = Rc::new(Cell::new(false));
            let begun = Rc::clone(&second);
            world.hook = Some(Box::new(move |_, _, _, bytes| {
                if frame(bytes).is_some_and(|f| f.header.attempt == 1 && f.header.kind == Kind::Opening) {
                    begun.set(true);
                }
                true
            }));
            let all = world.case.agents();
            died += u64::from(once(&mut world, &|| second.get(), &mut |world| {
                all.iter().for_each(|slot| world.kill(*slot, Some(300)));
            }));
            // The ledger has seen that no process speaks where another has.
            world.judge(true);
            if second.get() {
                assert!(world.spoke.keys().any(|(_, attempt)| *attempt >= 2), "{:?}", world.state());
            }
        }
        assert!(died > 3, "{died}");
    });
}

/// Whoever withholds its part of a check, having seen the others', may know the MAC key: no attempt follows.
#[test]
fn a_node_that_dies_with_the_others_parts_of_a_check_ends_the_job_for_good() {
    eager(|| {
        let mut case = three_nodes();
        for of in [0, 2] {
            let mut world = World::new(&mut case, 1, Chaos { every: 1, ..Chaos::default() });
            let seen = Rc::new(RefCell::new(BTreeSet::new()));
            let opened = Rc::clone(&seen);
            let later = Rc::new(Cell::new(false));
            let goes_on = Rc::clone(&later);
            let mut checks = BTreeSet::new();
            world.hook = Some(Box::new(move |_, from, to, bytes| {
                let Some(frame) = frame(bytes) else { return true };
                goes_on.set(goes_on.get() || frame.header.attempt > 0 && !is_bare(frame.header.kind));
                match frame.header.kind {
                    // It hears nothing, and so has no open check of its own when it comes back.
                    Kind::SigmaCommit if to == LIAR => {
                        checks.insert(frame.header.step);
                        checks.len() <= of
                    }
                    Kind::SigmaOpen if to == LIAR && checks.len() > of => {
                        opened.borrow_mut().insert(from);
                        true
                    }
                    _ => true,
                }
            }));
            let both = || seen.borrow().len() == 2;
            assert!(once(&mut world, &both, &mut |world| world.kill(LIAR, Some(1000))));
            let told = reasons(&world, &[1, 2]);
            assert!(told.iter().any(|reason| reason.contains("in the middle of a check")), "{told:?}");
            assert!(!later.get());
        }
    });
}
