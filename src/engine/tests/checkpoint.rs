//! Parties that begin where another one was: docs/protocols.md, 16, checkpoints.

use std::collections::{BTreeMap, VecDeque};

use super::world::{World, device, party, planned_job, rosters, small_program};
use crate::backend::Device;
use crate::engine::frame::{Frame, Kind};
use crate::engine::{Action, Checkpoint, EngineError, Event, Party};
use crate::field::Fp61;
use crate::program::{Comparisons, Openings, Planning, Program, random};
use crate::roster::{Roster, Scheme, Slot};

const SLOT: Slot = Slot(1);

/// Planned so that parties can be made again.
pub fn replaying() -> Planning {
    Planning { comparisons: Comparisons::Digits, openings: Openings::AllToAll, ..Planning::default() }
}

/// A finished world whose first node has kept its state before each round.
pub fn kept(
    device: &Device,
    program: &Program,
    roster: Roster,
    inputs: &BTreeMap<String, Vec<f64>>,
    seed: u64,
) -> World<'static> {
    let mut world = World::planned(device, program, (roster, replaying()), inputs, seed);
    let rounds: Vec<usize> = (1..=world.job.plan().opening_rounds()).collect();
    world.parties[SLOT.index()].checkpoint_before(&rounds);
    world.run();
    assert_eq!(world.checkpoints.get(&SLOT).map_or(0, Vec::len), rounds.len());
    world
}

/// What a party says from its start on, and its shares of the outputs, when it hears what
/// the first node of a world heard from a round on.
pub fn goes_on(world: &World<'_>, party: &mut dyn Party, from: usize) -> (Vec<Vec<u8>>, Vec<Vec<Fp61>>) {
    let mut events = VecDeque::from([Event::Start]);
    let heard = |frame: &&Frame| {
        let header = frame.header;
        header.to == SLOT && (header.kind == Kind::Segment || header.step > from as u32 + 1)
    };
    let (reports, mut frames): (Vec<_>, Vec<_>) =
        world.sent.iter().filter(heard).cloned().partition(|frame| frame.header.kind == Kind::Segment);
    frames.sort_by_key(|frame| frame.header.step);
    let mut frames = VecDeque::from_iter(reports.into_iter().chain(frames));
    let (mut said, mut outputs) = (Vec::new(), Vec::new());
    loop {
        let Some(event) = events.pop_front().or_else(|| {
            let frame = frames.pop_front()?;
            Some(Event::Frame { from: frame.header.from, frame })
        }) else {
            return (said, outputs);
        };
        for action in party.step(event).unwrap() {
            match action {
                Action::Send { frame, .. } if frame.header.kind != Kind::Segment => said.push(frame.encode()),
                Action::Persist { token, .. } => events.push_back(Event::Persisted { token }),
                Action::NeedSegment(index) => {
                    let bytes = world.segments[index as usize].1.clone();
                    events.push_back(Event::Segment { index, bytes });
                }
                Action::Log { round, transcript, words } => {
                    assert_eq!(world.logs[&SLOT][round], (round, transcript, words));
                }
                Action::Done(outcome) => outputs = outcome.outputs.iter().map(|o| o.words().to_vec()).collect(),
                _ => {}
            }
        }
    }
}

/// What the first node of a world said from a round on, and its shares of the outputs.
pub fn went_on(world: &World<'_>, from: usize) -> (Vec<Vec<u8>>, Vec<Vec<Fp61>>) {
    let said = world.sent.iter().filter(|frame| {
        frame.header.from == SLOT && frame.header.kind != Kind::Segment && frame.header.step > from as u32 + 1
    });
    let outcome = world.outcomes[&SLOT].as_ref().unwrap();
    (said.map(Frame::encode).collect(), outcome.outputs.iter().map(|o| o.words().to_vec()).collect())
}

/// A party that has heard of all segments.
fn fresh(
    world: &World<'_>,
    program: &Program,
    inputs: &BTreeMap<String, Vec<f64>>,
    seed: u64,
    on: &Device,
) -> Box<dyn Party> {
    let (_, _, nodes) = planned_job(program, (world.job.plan().roster, replaying()), inputs, seed);
    let mut party = party(on, &world.job, SLOT, &nodes[SLOT.index()], seed);
    for (header, _) in &world.segments {
        party.step(Event::Header(Box::new(*header))).unwrap();
    }
    party
}

fn through_bytes(world: &World<'_>, checkpoint: &Checkpoint) -> Checkpoint {
    let bytes = checkpoint.encode();
    Checkpoint::decode(world.job.plan(), checkpoint.round(), checkpoint.transcript(), &bytes).unwrap()
}

/// At every border between two rounds of random programs.
fn restored_say_the_same(made: &Device, restored: &Device, rosters: &[Roster], programs: u64) {
    let mut borders = 0;
    for &roster in rosters {
        for seed in 0..programs {
            let program = random::program(seed, 12);
            let inputs = random::inputs(&program, seed ^ 0x5eed);
            let world = kept(made, &program, roster, &inputs, seed);
            for checkpoint in &world.checkpoints.get(&SLOT).cloned().unwrap_or_default() {
                let round = checkpoint.round();
                let mut party = fresh(&world, &program, &inputs, seed, restored);
                // Peers that are at the start too are not heard in a later exchange.
                let early = world.sent.iter().filter(|frame| frame.header.to == SLOT && frame.header.step == 1);
                for frame in early.filter(|frame| frame.header.kind == Kind::Agree).cloned() {
                    party.step(Event::Frame { from: frame.header.from, frame }).unwrap();
                }
                // What lies ready from the first rounds is of no use to a later one.
                if round % 2 == 0 {
                    while party.ahead() {}
                }
                party.restore(&through_bytes(&world, checkpoint)).unwrap();
                if round % 3 == 0 {
                    while party.ahead() {}
                }
                assert_eq!(party.progress().0, round);
                let found = goes_on(&world, &mut *party, round);
                assert!(found == went_on(&world, round), "{roster}, seed {seed}, before round {round}");
                borders += 1;
            }
        }
    }
    assert!(borders > 20, "only {borders}");
}

fn shamir() -> Vec<Roster> {
    rosters().into_iter().filter(|roster| roster.scheme() == Scheme::Shamir).collect()
}

#[test]
fn a_party_that_is_restored_says_byte_for_byte_the_same() {
    let device = device();
    restored_say_the_same(&device, &device, &shamir(), if device.can_be_lost() { 2 } else { 12 });
}

/// And on a GPU what it would have said on a CPU, and the other way round.
#[cfg(feature = "gpu")]
#[test]
fn a_checkpoint_serves_every_device() {
    if let Some(gpu) = crate::backend::gpu::test_device() {
        let (gpu, roster) = (Device::Gpu(gpu), [Roster::shamir(5, 1).unwrap()]);
        restored_say_the_same(&gpu, &Device::Cpu, &roster, 3);
        restored_say_the_same(&Device::Cpu, &gpu, &roster, 3);
    }
}

/// A stream of several segments: those that are needed again are asked for, and
/// used only once others have reported them too.
#[test]
fn a_restored_party_waits_for_the_reports_on_segments_that_it_had_used() {
    let (program, inputs) = long_program();
    let world = kept(&device(), &program, Roster::shamir(5, 1).unwrap(), &inputs, 3);
    assert!(world.segments.len() > 1);
    let (mut from_before, mut dropped) = (0, 0);
    for checkpoint in &world.checkpoints[&SLOT] {
        let round = checkpoint.round();
        let mut party = fresh(&world, &program, &inputs, 3, &device());
        party.restore(checkpoint).unwrap();
        let before = &world.job.plan().rounds[round - 1];
        let needs_old = before.stream_from < before.stream_until && !before.stream_until.is_multiple_of(65_536);
        let actions = party.step(Event::Start).unwrap();
        let first = actions.iter().find_map(|action| match action {
            Action::NeedSegment(index) => Some(*index),
            _ => None,
        });
        let said = |actions: &[Action]| {
            actions.iter().any(|action| matches!(action, Action::Send { .. } | Action::Persist { .. }))
        };
        assert!(first.is_none() || !said(&actions), "it went on without its segments");
        if let (true, Some(first)) = (needs_old, first) {
            from_before += 1;
            dropped += usize::from(first > 0);
            // The bytes alone are not enough.
            for index in first..world.segments.len() as u32 {
                let bytes = world.segments[index as usize].1.clone();
                if let Ok(actions) = party.step(Event::Segment { index, bytes }) {
                    assert!(!said(&actions), "it went on without the others' reports, before round {round}");
                }
            }
        }
        let mut party = fresh(&world, &program, &inputs, 3, &device());
        party.restore(checkpoint).unwrap();
        assert!(goes_on(&world, &mut *party, round) == went_on(&world, round), "before round {round}");
    }
    assert!(from_before > 2 && dropped > 0, "{from_before} {dropped}");
}

fn long_program() -> (Program, BTreeMap<String, Vec<f64>>) {
    let b = crate::program::Builder::new();
    let x = b.input("x", "alice", crate::program::Type::fixed(-1.0..=1.0), [500]);
    let (ends, _) = b.repeat(6, std::slice::from_ref(&x), |_, state| {
        let next = &state[0] * &x;
        (vec![next.ge0().select(&state[0], &next).declare("next", -1.0..=1.0)], vec![])
    });
    b.output("y", "alice", &ends[0]);
    let inputs = BTreeMap::from([("x".to_owned(), (0..500).map(|i| f64::from(i - 250) / 250.0).collect())]);
    (b.finish().unwrap(), inputs)
}

#[test]
fn who_was_blamed_stays_blamed() {
    let (program, inputs) = small_program();
    let mut world = World::planned(&device(), &program, (Roster::shamir(5, 1).unwrap(), replaying()), &inputs, 5);
    world.adversary = Box::new(|frame| {
        if let (Slot(3), crate::engine::frame::Body::Words(words)) = (frame.header.from, &mut frame.body) {
            std::sync::Arc::make_mut(words)[0] += Fp61::ONE;
        }
        super::world::Verdict::Deliver
    });
    world.parties[SLOT.index()].checkpoint_before(&[2]);
    world.run();
    let checkpoint = world.checkpoints[&SLOT][0].clone();
    let mut party = fresh(&world, &program, &inputs, 5, &device());
    party.restore(&through_bytes(&world, &checkpoint)).unwrap();
    assert_eq!(checkpoint.encode()[1..3], [1, 3]);
    let (said, outputs) = goes_on(&world, &mut *party, 2);
    assert!((said, outputs) == went_on(&world, 2));
}

#[test]
fn parties_that_cannot_be_made_again_are_not_restored() {
    let (program, inputs) = small_program();
    let shamir = Roster::shamir(4, 1).unwrap();
    let world = kept(&device(), &program, shamir, &inputs, 1);
    let checkpoint = world.checkpoints[&SLOT][0].clone();
    let king = Planning { openings: Openings::King, ..replaying() };
    let packed = Planning { comparisons: Comparisons::Packed, ..replaying() };
    for planned in [(shamir, king), (shamir, packed)] {
        let mut other = World::planned(&device(), &program, planned, &inputs, 1);
        other.parties[0].checkpoint_before(&[1, 2]);
        let refused = other.parties[0].restore(&checkpoint).unwrap_err();
        assert!(
            matches!(&refused, EngineError::Checkpoint(what) if what.starts_with("only jobs on SPDZ, and on Shamir that")),
            "{refused}"
        );
        other.run();
        assert!(other.checkpoints.is_empty());
    }
}

#[test]
fn a_checkpoint_comes_before_the_start_and_fits_its_plan() {
    let (program, inputs) = small_program();
    let roster = Roster::shamir(5, 1).unwrap();
    let world = kept(&device(), &program, roster, &inputs, 1);
    let checkpoint = world.checkpoints[&SLOT][1].clone();
    let mut party = fresh(&world, &program, &inputs, 1, &device());
    party.step(Event::Start).unwrap();
    assert!(matches!(party.restore(&checkpoint), Err(EngineError::Unasked(_))));
    let mut party = fresh(&world, &program, &inputs, 1, &device());
    party.restore(&checkpoint).unwrap();
    assert!(matches!(party.restore(&checkpoint), Err(EngineError::Unasked(_))));
    // Of another program.
    let (other, others) = long_program();
    let mut party = World::planned(&device(), &other, (roster, replaying()), &others, 1).parties.remove(0);
    assert!(matches!(party.restore(&checkpoint), Err(EngineError::Checkpoint(_))));
}
