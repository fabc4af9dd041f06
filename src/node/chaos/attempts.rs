//! SPDZ jobs with several attempts, whose processes die, under attack: what one node offers to
//! whom, what lies on a disk, and what is sent again.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use super::case::case_of;
use super::disk::places;
use super::network::frame;
use super::*;
use crate::engine::frame::Kind;
use crate::node::wire::{Offer, Peer};
use crate::program::eager;

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

/// It says that it has spoken in attempts that were not begun: each costs one of those that are dealt, no more. What is not
/// dealt here may be dealt at another node, so it is waited for.
#[test]
fn a_node_that_burns_attempts_ends_the_job_and_no_more() {
    eager(|| {
        let mut case = three_nodes();
        let late = "before the job expired";
        let tired = "node 3 says: no job digest";
        for (level, what) in [(3, late), (4, tired), (254, tired), (255, "it lies"), (u32::MAX, "it lies")] {
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
    in_turn(world, &mut [(when, what)]) == 1
}

type Step<'s> = (&'s dyn Fn() -> bool, &'s mut dyn FnMut(&mut World<'_>));

/// The same of several things, one after another; how many were done.
fn in_turn(world: &mut World<'_>, steps: &mut [Step<'_>]) -> usize {
    let mut done = 0;
    while world.goes_on() {
        if let Some((when, what)) = steps.get_mut(done)
            && when()
        {
            done += 1;
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

fn two_attempts() -> Case {
    case_of(("SPDZ, two attempts", Roster::spdz(3).unwrap()), 0, 10, 0, 2)
}

/// All that one node is sent when the owner deals one attempt more.
fn messages(case: &Case) -> usize {
    1 + case.job.manifest().stream().segments() as usize
}

/// A process is killed in the first attempt, and the owner comes back at these times, up to so many whole nodes.
fn with_an_owner(case: &Case, resumes: &[(u64, usize)]) -> Chaos {
    let resumes = resumes.iter().map(|(at, nodes)| (*at, nodes * messages(case))).collect();
    Chaos { resumes, ..with_a_crash(2500) }
}

/// Kills another process in the second attempt, which is the last. Gives the time of the first word in each attempt.
fn run_out<'a>(world: &mut World<'a>, mut hook: impl FnMut(u64, Slot, &mut Vec<u8>) + 'a) -> BTreeMap<u32, u64> {
    let times = Rc::new(RefCell::new(BTreeMap::new()));
    let seen = Rc::clone(&times);
    world.hook = Some(Box::new(move |now, from, _, bytes| {
        if let Some(frame) = frame(bytes).filter(|frame| frame.header.kind == Kind::Opening) {
            seen.borrow_mut().entry(frame.header.attempt).or_insert(now);
        }
        hook(now, from, bytes);
        true
    }));
    assert!(once(world, &|| times.borrow().contains_key(&1), &mut |world| world.kill(Slot(1), Some(500))));
    times.take()
}

fn all_done(world: &mut World<'_>) {
    assert!(world.nodes.iter().all(|node| node.ended == Some(Ok(()))), "{:?}", world.state());
    world.judge(true);
}

#[test]
fn a_job_without_attempts_left_waits_for_its_owner_longer_than_for_any_peer() {
    eager(|| {
        let (mut case, at) = (two_attempts(), 8 * PATIENCE);
        let chaos = with_an_owner(&case, &[(at, 3)]);
        let mut world = World::new(&mut case, 1, chaos);
        let times = run_out(&mut world, |_, _, _| {});
        assert!(times[&2] >= at, "{times:?}");
        all_done(&mut world);
    });
}

#[test]
fn an_owner_that_does_not_come_back_is_waited_for_until_the_job_expires() {
    eager(|| {
        let mut case = two_attempts();
        let chaos = with_an_owner(&case, &[]);
        let mut world = World::new(&mut case, 1, chaos);
        run_out(&mut world, |_, _, _| {});
        let told = reasons(&world, &[1, 2, 3]);
        assert!(told.iter().all(|reason| reason.contains("before the job expired")), "{told:?}");
        assert!(world.over >= EXPIRES && world.over < EXPIRES + PATIENCE, "{}", world.over);
        world.judge(false);
    });
}

/// Who is killed while the owner is waited for waits on; who stays away is a peer, for which there is patience.
#[test]
fn processes_that_are_killed_while_the_owner_is_waited_for_wait_again() {
    eager(|| {
        let mut case = two_attempts();
        let mut chaos = with_an_owner(&case, &[(6 * PATIENCE, 3)]);
        for (i, slot) in [(1, 1), (2, 2), (3, 3), (4, 1), (5, 2)] {
            chaos.kills.push((i * PATIENCE, Slot(slot), Some(PATIENCE / 2)));
        }
        let mut world = World::new(&mut case, 1, chaos.clone());
        run_out(&mut world, |_, _, _| {});
        all_done(&mut world);
        drop(world);
        chaos.kills.push((5 * PATIENCE, Slot(3), None));
        let mut world = World::new(&mut case, 1, chaos);
        run_out(&mut world, |_, _, _| {});
        assert!(world.over > 6 * PATIENCE && world.over < 7 * PATIENCE, "{}", world.over);
        let told = reasons(&world, &[1, 2]);
        assert!(told.iter().any(|reason| reason.contains("node 3 did not say within")), "{told:?}");
    });
}

/// A run that is killed on its way leaves the attempt at some nodes. They wait for the others, which say what they lack; nobody
/// speaks in it before another run has dealt it to all.
#[test]
fn an_attempt_that_is_dealt_to_some_nodes_only_does_not_begin() {
    eager(|| {
        let mut case = two_attempts();
        let (first, second) = (2 * PATIENCE, 4 * PATIENCE);
        let each = messages(&case);
        for cut in [1, each - 1, each, each + 1, 2 * each, 3 * each - 1] {
            for again in [true, false] {
                let mut chaos = with_an_owner(&case, &[]);
                chaos.resumes.push((first, cut));
                if again {
                    chaos.resumes.push((second, 3 * each));
                }
                // What came of a stream is lost with a process, or is not.
                chaos.kills.push((3 * PATIENCE, Slot(1), Some(500)));
                let mut world = World::new(&mut case, 1, chaos);
                let begun = run_out(&mut world, |_, _, _| {}).get(&2).copied();
                match again {
                    true => {
                        assert!(begun >= Some(second), "{cut} messages: {begun:?}");
                        all_done(&mut world);
                    }
                    false => {
                        assert_eq!(begun, None, "{cut} messages");
                        let told = reasons(&world, &[1, 2, 3]);
                        assert!(told.iter().all(|reason| reason.contains("before the job expired")), "{told:?}");
                    }
                }
            }
        }
    });
}

/// What a node says of the attempts that it holds: one that it lacks begins and times out, one that it hides does not begin. Nothing
/// that depends on a share is said, and the job ends.
#[test]
fn a_node_that_lies_about_what_it_holds_ends_the_job_and_no_more() {
    eager(|| {
        let mut case = two_attempts();
        for (lie, what) in [(u32::MAX, "within the deadline"), (3, "within the deadline"), (0, "node 3 says")] {
            let hides = lie == 0;
            let chaos = with_an_owner(&case, &[(2 * PATIENCE, if hides { 3 } else { 2 })]);
            let mut world = World::new(&mut case, 1, chaos);
            let kinds = Rc::new(RefCell::new(Vec::new()));
            let said = Rc::clone(&kinds);
            run_out(&mut world, move |now, from, bytes| {
                if let Some((waits, mut offer)) = offer(bytes)
                    && from == LIAR
                    && now >= 2 * PATIENCE
                {
                    offer.held = lie;
                    *bytes = Peer::Offer { waits, offer }.encode();
                }
                if let Some(frame) = frame(bytes).filter(|frame| frame.header.attempt == 2 && from != LIAR) {
                    said.borrow_mut().push(frame.header.kind);
                }
            });
            assert!(kinds.borrow().iter().all(|kind| is_bare(*kind)), "{:?}", kinds.borrow());
            assert_eq!(kinds.borrow().is_empty(), hides);
            let told = reasons(&world, &[1, 2]);
            assert!(told.iter().any(|reason| reason.contains(what)), "{told:?}");
        }
    });
}

/// The disk of the node that was killed says that the owner has dealt more than it has.
#[test]
fn a_statement_of_more_attempts_that_was_changed_on_disk_ends_the_job_clearly() {
    eager(|| {
        let mut case = two_attempts();
        let mut chaos = with_an_owner(&case, &[(2 * PATIENCE, 1)]);
        chaos.kills.push((3 * PATIENCE, Slot(1), Some(500)));
        let mut world = World::new(&mut case, 1, chaos);
        world.damage = Some(|keep, _| {
            let Some(mut statement) = keep.extension().unwrap() else { return false };
            // The number, before 64 bytes of signature.
            let at = statement.len() - 65;
            statement[at] += 1;
            keep.put_extension(&statement).unwrap();
            true
        });
        run_out(&mut world, |_, _, _| {});
        assert_eq!(world.tally.damaged, 1);
        let told = reasons(&world, &[1]);
        assert!(told[0].contains("not signed by the job's owner"), "{told:?}");
    });
}

/// The streams of attempts that are over take no room.
#[test]
fn segments_of_attempts_that_are_over_are_dropped() {
    eager(|| {
        let mut case = two_attempts();
        let chaos = with_an_owner(&case, &[(2 * PATIENCE, 3); 3]);
        let (nonce, each) = (case.nonce(), case.job.manifest().stream().segments());
        let mut world = World::new(&mut case, 1, chaos);
        let attempts = Rc::new(RefCell::new(BTreeSet::new()));
        let seen = Rc::clone(&attempts);
        world.hook = Some(Box::new(move |_, _, _, bytes| {
            if let Some(frame) = frame(bytes).filter(|frame| frame.header.kind == Kind::Opening) {
                seen.borrow_mut().insert(frame.header.attempt);
            }
            true
        }));
        let mut held = Vec::new();
        let begun = |attempt: u32| attempts.borrow().contains(&attempt);
        let steps: &mut [Step<'_>] = &mut [
            (&|| begun(1), &mut |world| world.kill(Slot(1), Some(500))),
            (&|| begun(2), &mut |world| {
                held = world.nodes.iter().map(|node| node.store.segments(nonce).unwrap().count).collect();
            }),
        ];
        assert_eq!(in_turn(&mut world, steps), 2);
        // Of five attempts the third is under way.
        assert_eq!(held, [3 * each; 3]);
        all_done(&mut world);
    });
}
