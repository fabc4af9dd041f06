//! SPDZ in attempts: parties that begin where a check has passed, with other material
//! (docs/protocols.md, 16, attempts).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::cheat::Cheat;
use super::ideal::ideal_of;
use super::world::{Verdict, World, device, job_of_attempts, small_program};
use crate::backend::cpu::Cpu;
use crate::engine::frame::{Body, Frame, Kind};
use crate::engine::{Checkpoint, EngineError, Event, Record};
use crate::field::Fp61;
use crate::program::plan::{MaterialId, Plan, Prim};
use crate::program::{Builder, Planning, Program, Type, eager, random, with_a_bias};
use crate::roster::{Roster, Slot};
use crate::sharing::{SlotKeys, Spdz};

const ATTEMPTS: u32 = 3;

/// A job on three or two nodes that has a checkpoint wherever there may be one, and several attempts.
fn world(program: &Program, inputs: &BTreeMap<String, Vec<f64>>, seed: u64) -> World<'static> {
    let roster = Roster::spdz(2 + (seed % 2) as u8).unwrap();
    eager(|| {
        let job = job_of_attempts(program, (roster, Planning::default()), inputs, seed, ATTEMPTS);
        let mut world = World::with(&device(), job, seed);
        let rounds = world.job.plan().checkpoints();
        world.parties.iter_mut().for_each(|party| party.checkpoint_before(&rounds));
        world
    })
}

fn begin_attempt(world: &mut World<'_>, attempt: u32, at: &BTreeMap<Slot, Checkpoint>) {
    eager(|| world.begin_attempt(attempt, at));
}

/// What all nodes keep behind one check.
fn before(world: &World<'_>, round: usize) -> BTreeMap<Slot, Checkpoint> {
    let of = |slot: Slot| world.checkpoints[&slot].iter().rfind(|c| c.round() == round).unwrap().clone();
    let kept: BTreeMap<_, _> = world.slots().into_iter().map(|slot| (slot, through_bytes(world, &of(slot)))).collect();
    assert!(kept.values().all(|c| c.transcript() == kept[&Slot(1)].transcript()));
    kept
}

fn through_bytes(world: &World<'_>, checkpoint: &Checkpoint) -> Checkpoint {
    let bytes = checkpoint.encode();
    Checkpoint::decode(world.job.plan(), checkpoint.round(), checkpoint.transcript(), &bytes).unwrap()
}

fn rounds(world: &World<'_>) -> Vec<usize> {
    world.checkpoints.get(&Slot(1)).into_iter().flatten().map(Checkpoint::round).collect()
}

/// Of which attempt each material op is, where attempts have begun before these rounds.
fn drawn_in(plan: &Plan, begun: &[(usize, u32)]) -> Vec<u32> {
    let (fixed, first) = (plan.fixed_masks(), plan.first_drawn());
    let attempt = |first: &usize| begun.iter().rfind(|(round, _)| round <= first).map_or(0, |(_, attempt)| *attempt);
    first.iter().zip(fixed).map(|(first, fixed)| if fixed { 0 } else { attempt(first) }).collect()
}

fn equals_the_ideal(world: &World<'_>, program: &Program, inputs: &BTreeMap<String, Vec<f64>>, begun: &[(usize, u32)]) {
    let plan = world.job.plan();
    let words: Vec<_> = program.encode_inputs(inputs).unwrap().iter().map(|w| w.to_vec()).collect();
    let (expected, _) = ideal_of(plan, world.job.dealer(), &words, &drawn_in(plan, begun));
    assert!(world.outputs() == expected, "{begun:?}: the engine and the ideal differ");
}

#[test]
fn random_programs_go_on_from_every_checkpoint_as_the_ideal_does() {
    let (mut restored, mut twice) = (0, 0);
    for seed in 0..40 {
        let program = random::program(seed, 12);
        let inputs = random::inputs(&program, seed ^ 0x5eed);
        let mut world = world(&program, &inputs, seed);
        world.run();
        equals_the_ideal(&world, &program, &inputs, &[]);
        let all = rounds(&world);
        let first = world.checkpoints.clone();
        // From the beginning, and from each place.
        begin_attempt(&mut world, 1, &BTreeMap::new());
        world.run();
        equals_the_ideal(&world, &program, &inputs, &[(0, 1)]);
        for (i, round) in all.iter().enumerate() {
            world.checkpoints = first.clone();
            let at = before(&world, *round);
            begin_attempt(&mut world, 1, &at);
            world.run();
            equals_the_ideal(&world, &program, &inputs, &[(*round, 1)]);
            restored += 1;
            // And from a later one of that attempt.
            if let Some(later) = all.get(i + 1 + (seed as usize % 3)) {
                let at = before(&world, *later);
                begin_attempt(&mut world, 2, &at);
                world.run();
                equals_the_ideal(&world, &program, &inputs, &[(*round, 1), (*later, 2)]);
                twice += 1;
            }
        }
    }
    assert!(restored > 60 && twice > 12, "{restored} {twice}");
}

/// Data that each iteration multiplies, and weights that each makes anew.
fn training() -> (Program, BTreeMap<String, Vec<f64>>) {
    let b = Builder::new();
    let x = b.input("x", "alice", Type::fixed(-1.0..=1.0), [4, 3]);
    let w = b.input("w", "alice", Type::fixed(-1.0..=1.0), [3, 1]);
    let (ends, _) = b.repeat(3, &[w], |_, state| {
        let error = x.matmul(&state[0]).declare("error", -1.0..=1.0);
        let step = x.t().matmul(&error).relu().declare("step", -1.0..=1.0);
        (vec![(&state[0] - &(step * 0.5)).declare("w", -1.0..=1.0)], vec![])
    });
    b.output("w", "alice", &ends[0]);
    let x = [0.5, -0.25, 0.125, -0.5, 0.25, 0.375, 0.0, 0.25, -0.125, 0.25, 0.0, -0.25];
    let inputs = [("x", x.to_vec()), ("w", vec![0.5, -0.25, 0.25])];
    (b.finish().unwrap(), inputs.into_iter().map(|(name, values)| (name.to_owned(), values)).collect())
}

#[test]
fn a_training_goes_on_between_its_iterations() {
    let (program, inputs) = training();
    let mut world = world(&program, &inputs, 1);
    world.run();
    let (all, first) = (rounds(&world), world.checkpoints.clone());
    assert!(all.len() > 3, "{all:?}");
    for round in all {
        world.checkpoints = first.clone();
        let at = before(&world, round);
        begin_attempt(&mut world, 1, &at);
        world.run();
        equals_the_ideal(&world, &program, &inputs, &[(round, 1)]);
    }
}

/// The words that the first node sent, by exchange of its attempt.
fn words(world: &World<'_>) -> Vec<Vec<Fp61>> {
    let said = |frame: &Frame| match &frame.body {
        Body::Words(words) if frame.header.from == Slot(1) && frame.header.to == Slot(2) => Some(words.to_vec()),
        _ => None,
    };
    world.sent.iter().filter_map(said).collect()
}

/// The same share under a fixed mask, and under other masks another one in each attempt.
#[test]
fn in_another_attempt_a_node_says_other_words_but_under_fixed_masks() {
    let (program, inputs) = training();
    let mut world = world(&program, &inputs, 1);
    world.run();
    let first = words(&world);
    begin_attempt(&mut world, 1, &BTreeMap::new());
    world.run();
    let second = words(&world);
    // The data and the first weights are opened in the first round, alone.
    assert_eq!(first[0], second[0]);
    assert!(first.len() > 5 && first.len() == second.len());
    for (first, second) in first[1..].iter().zip(&second[1..]) {
        assert!(first.iter().zip(second).all(|(a, b)| a != b));
    }
}

/// The words of all openings that a node said of a round, summed over all nodes.
fn opened(world: &World<'_>) -> Vec<Vec<Fp61>> {
    let said = |from: Slot| {
        let to = if from == Slot(1) { Slot(2) } else { Slot(1) };
        let words = move |frame: &Frame| match &frame.body {
            Body::Words(words) if frame.header.from == from && frame.header.to == to => Some(words.to_vec()),
            _ => None,
        };
        world.sent.iter().filter_map(words).collect::<Vec<_>>()
    };
    let all: Vec<_> = world.slots().into_iter().map(said).collect();
    let sum = |round: usize| {
        let words = all[0][round].len();
        (0..words).map(|i| all.iter().map(|of| of[round][i]).sum()).collect()
    };
    (0..all[0].len()).map(sum).collect()
}

/// Which words of a round are opened under a mask that is the same in all attempts.
fn under_fixed_masks(plan: &Plan, round: usize) -> Vec<bool> {
    let fixed = plan.fixed_masks();
    let held_by: BTreeMap<u32, MaterialId> = plan.prims.iter().filter_map(draws).collect();
    let covers = |prim: &Prim| {
        let Prim::Open { x, .. } = prim else { return false };
        let made = plan.prims.iter().find(|p| p.written_sec().any(|out| out == *x));
        let Some(Prim::Linear { secret, .. }) = made else { return false };
        secret.iter().filter_map(|(_, x)| held_by.get(&x.0)).any(|material| fixed[material.0 as usize])
    };
    plan.openings(round).flat_map(|(prim, _, len)| vec![covers(&plan.prims[prim as usize]); len]).collect()
}

fn draws(prim: &Prim) -> Option<(u32, MaterialId)> {
    match prim {
        Prim::Draw { material, out, .. } => Some((out.0, *material)),
        _ => None,
    }
}

/// That two words of two attempts are not of one mask: their difference is then one of small numbers.
fn differ(first: &[Vec<Fp61>], second: &[Vec<Fp61>], plan: &Plan, round: usize) -> usize {
    let mut compared = 0;
    for (at, (a, b)) in (round..).zip(first[round..].iter().zip(second)) {
        for ((a, b), fixed) in a.iter().zip(b).zip(under_fixed_masks(plan, at)) {
            let far = (*a - *b).to_i64().unsigned_abs() > 1 << 24;
            assert!(fixed || far, "from round {round}: {} lies between two words of round {at}", (*a - *b).to_i64());
            compared += 1;
        }
    }
    compared
}

fn biased() -> (Program, BTreeMap<String, Vec<f64>>) {
    let x = (0..12).map(|i| f64::from(i - 6) / 16.0).collect();
    let inputs = [("x", x), ("w", vec![0.5, -0.25, 0.25]), ("bias", vec![0.125])];
    (with_a_bias(), inputs.into_iter().map(|(name, values)| (name.to_owned(), values)).collect())
}

#[test]
fn no_word_is_opened_under_a_mask_of_an_earlier_attempt() {
    let random = (0..30).map(|seed| {
        let program = random::program(seed, 12);
        let inputs = random::inputs(&program, seed ^ 0x5eed);
        (program, inputs)
    });
    let mut compared = 0;
    for (seed, (program, inputs)) in (0..).zip([biased()].into_iter().chain(random)) {
        let mut world = world(&program, &inputs, seed);
        world.run();
        let (first, all) = (opened(&world), rounds(&world));
        let plan = Arc::clone(world.job.plan());
        assert!(seed > 0 || all.len() > 3, "{all:?}");
        let kept = world.checkpoints.clone();
        for round in all {
            world.checkpoints = kept.clone();
            let at = before(&world, round);
            begin_attempt(&mut world, 1, &at);
            world.run();
            compared += differ(&first, &opened(&world), &plan, round);
        }
    }
    assert!(compared > 1000, "{compared}");
}

/// A node lies by 1 in an opening, sees what the others open next, and crashes before the check. Under one mask
/// the next attempt would show it the operand that was multiplied with its lie.
#[test]
fn a_lie_in_one_attempt_and_none_in_the_next_show_no_operand() {
    let (program, inputs) = biased();
    let (mut compared, mut lies) = (0, 0);
    for at in 0.. {
        let mut world = world(&program, &inputs, 1);
        let plan = Arc::clone(world.job.plan());
        let openings = Arc::new(AtomicUsize::new(0));
        let SlotKeys::Spdz(key) = world.job.dealer().slot_keys(Slot(3)) else { panic!() };
        let honest = Spdz::new(plan.roster, Slot(3), key, Cpu).unwrap();
        world.parties[2] =
            world.engine_of(ATTEMPTS, Cheat { honest, at, openings: Arc::clone(&openings) }, world.job_inputs());
        let rounds = eager(|| plan.checkpoints());
        world.parties[2].checkpoint_before(&rounds);
        world.run();
        if openings.load(Ordering::Relaxed) <= at {
            break;
        }
        assert!(matches!(world.error(1), EngineError::CheckFailed { .. }));
        lies += 1;
        let first = opened(&world);
        let Some(round) = world.checkpoints.get(&Slot(1)).and_then(|all| all.last()).map(Checkpoint::round) else {
            continue;
        };
        let begins = before(&world, round);
        begin_attempt(&mut world, 1, &begins);
        world.run();
        compared += differ(&first, &opened(&world), &plan, round);
    }
    assert!(lies > 12 && compared > 50, "{lies} {compared}");
}

// --- attacks ---------------------------------------------------------------------

/// A finished first attempt of the small program, and its checkpoints' rounds.
fn finished() -> (World<'static>, Vec<usize>) {
    let (program, inputs) = small_program();
    let mut world = world(&program, &inputs, 1);
    world.run();
    let all = rounds(&world);
    assert!(all.len() > 2, "{all:?}");
    (world, all)
}

#[test]
fn nodes_that_begin_at_different_checkpoints_say_nothing_of_shares() {
    let (mut world, all) = finished();
    for other in [Some(all[1]), None] {
        let mut at = before(&world, all[0]);
        match other {
            Some(round) => drop(at.insert(Slot(2), before(&world, round)[&Slot(2)].clone())),
            None => drop(at.remove(&Slot(2))),
        }
        begin_attempt(&mut world, 1, &at);
        world.run();
        world.assert_nothing_released(&[]);
        assert!(matches!(world.error(1), EngineError::Disagree { what: Kind::Agree, .. }), "{}", world.error(1));
        assert!(world.sent.iter().all(|frame| matches!(frame.header.kind, Kind::Agree | Kind::Segment)));
    }
}

/// Node 3 tells each of the others what it expects; so they go on, and end before any part of a check is opened.
#[test]
fn a_node_that_hides_where_the_others_begin_is_caught_by_what_they_freeze() {
    let (mut world, all) = finished();
    let mut at = before(&world, all[0]);
    at.insert(Slot(2), before(&world, all[1])[&Slot(2)].clone());
    begin_attempt(&mut world, 1, &at);
    let agreed: Arc<std::sync::Mutex<BTreeMap<Slot, Body>>> = Arc::default();
    let held = Arc::clone(&agreed);
    // The network is the adversary's too: what the honest say to each other is changed alike.
    world.adversary = Box::new(move |frame| {
        let mut held = held.lock().unwrap();
        if frame.header.kind == Kind::Agree {
            held.entry(frame.header.from).or_insert_with(|| frame.body.clone());
            if let Some(own) = held.get(&frame.header.to) {
                frame.body = own.clone();
            } else {
                return Verdict::Swallow;
            }
        }
        Verdict::Deliver
    });
    world.run();
    // Those that came too early to be changed are said again.
    for slot in world.slots() {
        for to in world.slots().into_iter().filter(|to| *to != slot) {
            world.queue.push_back((slot, Event::Resend { to }));
        }
    }
    world.drain();
    world.assert_nothing_released(&[]);
    assert!(world.outcomes.len() >= 2);
    assert!(world.sent.iter().any(|frame| frame.header.kind == Kind::Opening));
    assert!(world.sent.iter().all(|frame| frame.header.kind != Kind::CoinOpen && frame.header.kind != Kind::SigmaOpen));
}

/// Frames of the first attempt, whose words were of other masks.
#[test]
fn frames_of_an_earlier_attempt_are_refused() {
    let (mut world, _) = finished();
    let old: Vec<Frame> = world.sent.clone();
    begin_attempt(&mut world, 1, &BTreeMap::new());
    world.start();
    let replayed = old.into_iter().find(|f| f.header.kind == Kind::Agree && f.header.to == Slot(1)).unwrap();
    let from = replayed.header.from;
    world.step(Slot(1), Event::Start);
    world.step(Slot(1), Event::Frame { from, frame: replayed });
    assert!(matches!(world.error(1), EngineError::Misplaced { field: "attempt", .. }), "{}", world.error(1));
}

/// A wrong word, then a crash before the check: the next attempt is right, and a failed check stays one.
#[test]
fn a_lie_before_a_crash_is_forgotten_with_the_attempt() {
    let (program, inputs) = training();
    let mut world = world(&program, &inputs, 1);
    let (roster, at) = (world.job.plan().roster, 12);
    let openings = Arc::new(AtomicUsize::new(0));
    let SlotKeys::Spdz(key) = world.job.dealer().slot_keys(Slot(3)) else { panic!() };
    let honest = Spdz::new(roster, Slot(3), key, Cpu).unwrap();
    let cheat = Cheat { honest, at, openings: Arc::clone(&openings) };
    world.parties[2] = world.engine_of(ATTEMPTS, cheat, world.job_inputs());
    let rounds = eager(|| world.job.plan().checkpoints());
    world.parties[2].checkpoint_before(&rounds);
    let told = Arc::clone(&openings);
    world.adversary = Box::new(move |frame| {
        // It crashes once the coin is open.
        let lied = told.load(Ordering::Relaxed) > at;
        match frame.header.kind {
            Kind::SigmaCommit if lied && frame.header.from == Slot(3) => Verdict::Swallow,
            _ => Verdict::Deliver,
        }
    });
    world.run();
    assert!(openings.load(Ordering::Relaxed) > at && world.outcomes.is_empty());
    assert!(world.sent.iter().any(|frame| frame.header.kind == Kind::CoinAgree));
    let opened = |world: &World<'_>| {
        let of = |record: &&Record| matches!(record, Record::CheckOpened { .. });
        world.records[&Slot(1)].iter().filter(of).count()
    };
    let checkpoints = world.checkpoints[&Slot(1)].len();
    assert!(checkpoints > 0 && opened(&world) == checkpoints, "each opened check has passed");
    let round = world.checkpoints[&Slot(1)].last().unwrap().round();
    world.adversary = Box::new(|_| Verdict::Deliver);
    let at = before(&world, round);
    begin_attempt(&mut world, 1, &at);
    world.run();
    equals_the_ideal(&world, &program, &inputs, &[(round, 1)]);
}

/// One share of the state that a node begins with is another: as from a disk whose seal somebody could break.
#[test]
fn a_changed_checkpoint_fails_the_next_check() {
    let (mut world, all) = finished();
    let plan = Arc::clone(world.job.plan());
    for round in all {
        let right = before(&world, round);
        let live = plan.live(round);
        // Shares alone: what is public is in the transcript, and wrong words of it are the node's own.
        let shares = live.secrets.iter().map(|x| x.1 as usize * 2).sum::<usize>();
        for at in [0, shares / 2, shares - 1] {
            let mut begins = right.clone();
            let mut bytes = right[&Slot(2)].encode().to_vec();
            let place = 2 + 8 * at;
            let word = u64::from_le_bytes(bytes[place..place + 8].try_into().unwrap());
            bytes[place..place + 8].copy_from_slice(&(Fp61::reduce(word) + Fp61::ONE).word().to_le_bytes());
            let changed = Checkpoint::decode(&plan, round, right[&Slot(2)].transcript(), &bytes).unwrap();
            begins.insert(Slot(2), changed);
            begin_attempt(&mut world, 1, &begins);
            world.run();
            // A share of what is opened or read by nothing but the owner, who finds it out from the MAC.
            if world.outcomes.values().all(Result::is_ok) {
                let owner = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.outputs()));
                assert!(owner.is_err(), "before round {round}, word {at}");
            }
        }
    }
}

#[test]
fn only_clean_cuts_behind_checks_have_checkpoints() {
    let (mut world, all) = finished();
    let plan = Arc::clone(world.job.plan());
    let clean = plan.clean_cuts();
    let dirty = (1..=plan.opening_rounds()).find(|round| !clean[*round]).expect("a mask waits for its product");
    assert!(!all.contains(&dirty));
    // Asked for, it is not given.
    begin_attempt(&mut world, 1, &BTreeMap::new());
    world.checkpoints.clear();
    world.parties.iter_mut().for_each(|party| party.checkpoint_before(&[dirty]));
    world.run();
    assert!(world.checkpoints.is_empty());
    // Given, it is not taken.
    let words = plan.live(dirty).words() as usize;
    let forged = Checkpoint::decode(&plan, dirty, [7; 32], &[&[1, 0][..], &vec![0; 8 * words]].concat()).unwrap();
    begin_attempt(&mut world, 2, &BTreeMap::new());
    let refused = world.parties[0].restore(&forged).unwrap_err();
    assert!(matches!(&refused, EngineError::Checkpoint(what) if what.contains("has none before")), "{refused}");
}

/// An attempt draws what the one before has drawn if it has its number.
#[test]
fn the_first_attempt_begins_at_no_checkpoint() {
    let (mut world, all) = finished();
    let at = before(&world, all[0]);
    begin_attempt(&mut world, 0, &BTreeMap::new());
    let refused = world.parties[0].restore(&at[&Slot(1)]).unwrap_err();
    assert!(matches!(&refused, EngineError::Checkpoint(what) if what.contains("not the first")), "{refused}");
}

/// The checkpoint, and that the check has passed, are there to be written before the node says so.
#[test]
fn passed_is_said_once_checkpoint_and_record_are_on_disk() {
    let (program, inputs) = small_program();
    let mut world = world(&program, &inputs, 1);
    world.start();
    let (mut passed, mut held) = (0, None);
    while let Some((to, event)) = world.queue.pop_front() {
        let records = world.records.get(&to).map_or(0, Vec::len);
        let checkpoints = world.checkpoints.get(&to).map_or(0, Vec::len);
        // The world persists by an event of its own: what waits for it must not be said in the same step.
        let persisting = matches!(event, Event::Persisted { .. });
        let sent = world.sent.len();
        world.step(to, event);
        let record = world.records.get(&to).and_then(|all| all.get(records));
        if let Some(Record::CheckPassed { .. }) = record {
            assert!(world.sent[sent..].iter().all(|frame| frame.header.kind != Kind::Passed));
            held = Some(checkpoints < world.checkpoints.get(&to).map_or(0, Vec::len));
            passed += 1;
        }
        if world.sent[sent..].iter().any(|frame| frame.header.kind == Kind::Passed) {
            assert!(persisting);
        }
    }
    assert!(passed > 3 && held.is_some());
}
