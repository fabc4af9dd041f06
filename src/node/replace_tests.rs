//! Spares under attack: whole agents in virtual time, as in `chaos`, with one thing
//! done on purpose.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

use super::Kept;
use super::chaos::{Case, Chaos, World, case};
use super::session::Event;
use super::wire::{Move, Peer, SubsetKeys};
use crate::engine::frame::{Frame, Header, Kind};
use crate::job::Concluded;
use crate::roster::{Roster, Slot};
use crate::store::Store;

const FRAME: u8 = 0;
const KEYS: u8 = 9;
const VOTE: u8 = 7;
/// The spare of a job with four nodes.
const SPARE: Slot = Slot(5);

fn four(spares: u8) -> Case {
    case("(4, 1) with spares", Roster::shamir(4, 1).unwrap(), 0, 0, spares)
}

fn five(spares: u8) -> Case {
    case("(5, 1) with spares", Roster::shamir(5, 1).unwrap(), 0, 0, spares)
}

/// Nodes are killed at these times, and come back after some more.
fn kills(kills: &[(u64, u8, Option<u64>)]) -> Chaos {
    Chaos { kills: kills.iter().map(|(at, slot, back)| (*at, Slot(*slot), *back)).collect(), ..Chaos::default() }
}

/// Without its frames nobody is done before it is killed.
fn mute(from: Slot, bytes: &[u8]) -> bool {
    from == Slot(2) && bytes[0] == FRAME
}

fn has_all_results(world: &World<'_>, agents: &[u8]) {
    for agent in agents.iter().map(|agent| Slot(*agent)) {
        assert!(world.is_right(agent), "{agent}: {:?}", world.nodes[agent.index()].ended);
    }
}

#[test]
fn a_spare_takes_the_slot_of_a_node_that_is_lost_and_all_needed_finish() {
    let mut case = four(1);
    let mut world = World::new(&mut case, 1, kills(&[(3000, 2, None)]));
    world.hook = Some(Box::new(|_, from, _, bytes| !mute(from, bytes)));
    world.run();
    assert_eq!(world.nodes[SPARE.index()].slot, Some(Slot(2)));
    has_all_results(&world, &[1, 3, 4, 5]);
}

#[test]
fn a_spare_that_asks_without_votes_is_told_nothing() {
    let told = RefCell::new(BTreeSet::new());
    let mut asked = 0;
    let mut case = four(1);
    let mut world = World::new(&mut case, 1, Chaos::default());
    world.hook = Some(Box::new(|_, from, to, bytes| {
        if from == SPARE {
            asked += 1;
            *bytes = match asked % 4 {
                0 => Peer::Behind { round: 0 }.encode(),
                1 => Peer::Vote(Move { slot: Slot(2), spare: 1 }).encode(),
                2 => Peer::Replaced(Move { slot: Slot(2), spare: 1 }).encode(),
                _ => Peer::Missing { slots: 2 }.encode(),
            };
        }
        if to == SPARE {
            told.borrow_mut().insert(bytes[0]);
        }
        true
    }));
    world.run();
    has_all_results(&world, &[1, 2, 3, 4]);
    drop(world);
    assert!(asked >= 4, "{asked}");
    let done = Peer::Done.encode()[0];
    assert_eq!(*told.borrow(), BTreeSet::from([done]), "a spare that waits hears of the end alone");
}

#[test]
fn with_fewer_votes_than_are_needed_nobody_takes_over() {
    let (mut dropped, handed) = (0, RefCell::new(BTreeSet::new()));
    let mut case = four(1);
    let mut world = World::new(&mut case, 1, kills(&[(3000, 2, None)]));
    world.hook = Some(Box::new(|_, from, _, bytes| {
        if bytes[0] == KEYS {
            handed.borrow_mut().insert(from);
        }
        let lost = from == Slot(3) && bytes[0] == VOTE;
        dropped += u32::from(lost);
        !lost && !mute(from, bytes)
    }));
    world.run();
    assert_eq!(world.nodes[SPARE.index()].slot, None);
    for agent in [1, 3, 4, 5] {
        assert!(matches!(&world.nodes[agent - 1].ended, Some(Err(_))), "{agent}");
    }
    drop(world);
    assert!(dropped > 0);
    // It has all votes; its keys alone are of no use.
    assert_eq!(*handed.borrow(), BTreeSet::from([Slot(3)]));
}

#[test]
fn a_key_that_is_not_the_signed_one_is_refused_and_the_next_holders_is_taken() {
    for liar in [1, 3, 4].map(Slot) {
        let mut changed = 0;
        let mut case = four(1);
        let mut world = World::new(&mut case, 1, kills(&[(3000, 2, None)]));
        world.hook = Some(Box::new(|_, from, _, bytes| {
            if from == liar && bytes[0] == KEYS {
                let at = bytes.len() - 1;
                bytes[at] ^= 1;
                bytes[6] ^= 1;
                changed += 1;
            }
            !mute(from, bytes)
        }));
        world.run();
        has_all_results(&world, &[1, 3, 4, 5]);
        drop(world);
        assert!(changed > 0);
    }
}

/// All keys of a corrupt slot are known to the corrupt nodes. A spare that took it would be
/// lost for the honest slot that is decided for it later.
#[test]
fn t_corrupt_nodes_do_not_call_a_spare_to_a_slot_of_their_own() {
    let mut case = case("(7, 2) with a spare", Roster::shamir(7, 2).unwrap(), 0, 0, 1);
    let spare = Slot(8);
    let keys = SubsetKeys::shared_with(&case.job.assignment(Slot(1)).keys, Slot(1));
    let keys = Peer::encode_keys(Slot(1), keys).joined();
    let mut world = World::new(&mut case, 1, Chaos::default());
    world.step(spare, Event::Linked(Slot(2)));
    world.step(spare, Event::Message { from: Slot(2), bytes: keys.to_vec().into() });
    world.run();
    assert_eq!(world.nodes[spare.index()].slot, None);
    has_all_results(&world, &[1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn a_node_that_votes_twice_is_named_as_a_liar() {
    let mut case = five(2);
    let mut world = World::new(&mut case, 1, Chaos::default());
    for slot in [2, 3] {
        let vote = Peer::Vote(Move { slot: Slot(slot), spare: 1 }).encode();
        world.step(Slot(4), Event::Linked(Slot(1)));
        world.step(Slot(4), Event::Message { from: Slot(1), bytes: vote.into() });
    }
    world.run();
    has_all_results(&world, &[1, 2, 3, 4, 5]);
    assert_eq!(world.blamed(Slot(4)), [Slot(1)]);
    assert_eq!(world.blamed(Slot(3)), []);
}

#[test]
fn the_slot_of_a_liar_is_never_given_to_a_spare() {
    for garbage in [true, false] {
        let mut lied = None;
        let mut case = five(1);
        let mut world = World::new(&mut case, 1, kills(&[(3000, 2, None)]));
        world.hook = Some(Box::new(|_, from, _, bytes| {
            let Some(Peer::Frame(frame)) = Peer::decode(bytes) else { return true };
            let Header { kind, step, .. } = Frame::decode(frame).unwrap().header;
            if kind != Kind::Opening {
                return true;
            }
            // What no node sends, or a wrong share, which the party finds. Nobody goes past
            // that exchange, or all would be done before the slot was missed.
            if from == Slot(2) {
                let at = if garbage { 0 } else { bytes.len() - 8 };
                bytes[at] ^= 0x55;
                lied.get_or_insert(step);
            }
            lied.is_none_or(|lied| step <= lied)
        }));
        world.run();
        assert_eq!(world.tally.called, 0);
        drop(world);
        assert!(lied.is_some());
    }
}

#[test]
fn the_old_holder_is_turned_away_when_it_comes_back() {
    let mut case = four(1);
    let mut world = World::new(&mut case, 1, kills(&[(3000, 2, Some(57_000))]));
    // The spare is heard only when the old holder is back, which says what no node says.
    world.hook = Some(Box::new(|now, from, _, bytes| {
        if from == Slot(2) && now > 60_000 {
            *bytes = vec![99];
        }
        !mute(from, bytes) && (from != SPARE || bytes[0] != FRAME || now > 100_000)
    }));
    world.run();
    has_all_results(&world, &[1, 3, 4, 5]);
    let Some(Err(reason)) = &world.nodes[1].ended else { panic!("{:?}", world.nodes[1].ended) };
    assert!(reason.contains("spare 1 has taken its slot over"), "{reason}");
    // Nobody listens to it as to the slot's holder, or the slot would be a liar's.
    for agent in [1, 3, 4].map(Slot) {
        assert_eq!(world.blamed(agent), []);
    }
}

#[test]
fn a_spare_that_is_killed_while_it_takes_over_goes_on() {
    let mut called = 0;
    for at in (30_000..48_000).step_by(500) {
        let mut case = four(1);
        let mut world = World::new(&mut case, at, kills(&[(3000, 2, None), (at, 5, Some(2000))]));
        world.hook = Some(Box::new(|_, from, _, bytes| !mute(from, bytes)));
        world.run();
        called += world.tally.called;
        // Whoever is killed when the others are done stays without a result.
        has_all_results(&world, &[1, 3, 4]);
    }
    assert!(called > 0);
}

#[test]
fn a_node_that_is_killed_after_its_vote_does_not_vote_otherwise() {
    let before = Cell::new(false);
    for at in (34_000..46_000).step_by(1000) {
        let votes: RefCell<BTreeMap<Slot, BTreeSet<Move>>> = RefCell::default();
        let mut case = four(2);
        // The first spare goes for good, so that only another vote could succeed.
        let mut world = World::new(&mut case, at, kills(&[(3000, 2, None), (at, 1, Some(1000)), (47_000, 5, None)]));
        world.hook = Some(Box::new(|now, from, _, bytes| {
            if let Some(Peer::Vote(vote)) = Peer::decode(bytes) {
                before.set(before.get() | (from == Slot(1) && now < at));
                votes.borrow_mut().entry(from).or_default().insert(vote);
                // They are cast, and nothing comes of them.
                return false;
            }
            !mute(from, bytes)
        }));
        world.run();
        assert_eq!(world.tally.called, 0);
        drop(world);
        let votes = votes.into_inner();
        for (voter, votes) in votes {
            assert_eq!(votes.len(), 1, "{voter} voted for {votes:?}");
        }
    }
    assert!(before.get(), "it is never killed after its vote");
}

impl World<'_> {
    /// Whether an agent is done, with what it says when nothing happens.
    fn is_right(&self, agent: Slot) -> bool {
        let slot = self.nodes[agent.index()].slot;
        slot.is_some_and(|slot| self.result(agent).as_ref() == self.case.right.get(&slot))
    }

    /// Whom a node that is done names as liars.
    fn blamed(&self, agent: Slot) -> Vec<Slot> {
        let nonce = self.case.job.manifest().manifest().nonce;
        let record = self.nodes[agent.index()].store.record(nonce).unwrap().unwrap();
        let Kept { concluded, .. } = postcard::from_bytes(&record).unwrap();
        Concluded::from_bytes(&concluded).unwrap().receipt.claimed().blamed.clone()
    }
}
