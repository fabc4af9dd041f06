//! Jobs that go on on another roster, from what nodes hold at a checkpoint (docs/protocols.md, 16, moving). All on CPUs:
//! a checkpoint is the same from every device, as other tests show, and there are many worlds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::checkpoint::replaying;
use super::world::{World, planned_job};
use crate::backend::Device;
use crate::entropy::Entropy;
use crate::field::Fp61;
use crate::job::{Continues, Manifest};
use crate::keys::SecretKey;
use crate::ml::{Descent, LogisticRegression, Mlp, with_intercept};
use crate::owner::{Destination, Held, Moved, Moving, OwnerError, Ticket, check_continues};
use crate::program::{Border, Builder, Planning, Program, Type, random};
use crate::roster::{Roster, Slot};

const SEED: u64 = 7;

/// Exact whatever the rounding: a training of integers with curves, a public table, data that only what comes
/// behind the loop reads, and another loop.
fn exact() -> (Program, BTreeMap<String, Vec<f64>>) {
    let b = Builder::new();
    let x = b.input("x", "alice", Type::int(-9..=9), [3]);
    let late = b.input("late", "alice", Type::int(-99..=99), [3]);
    let table = b.constant(&[1.0, -1.0, 2.0], Type::int(-2..=2), [3]);
    let start = b.constant(&[1.0, 2.0, 3.0], Type::int(-9..=9), [3]);
    let (ends, curve) = b.repeat(4, &[start], |_, state| {
        let next = (&(&state[0] * &x) + &table).clamp(-9.0..=9.0);
        let next = next.ge0().select(&next, &(&next * &x)).declare("next", -81.0..=81.0).clamp(-9.0..=9.0);
        (vec![next.clone()], vec![next.square().sum_all()])
    });
    let (more, _) = b.repeat(2, &[&ends[0] + &late], |_, state| (vec![(&state[0] * &x).clamp(-108.0..=108.0)], vec![]));
    b.output("more", "bob", &more[0]);
    b.output("curve", "bob", &curve[0]);
    let inputs = [("x", vec![2.0, -3.0, 1.0]), ("late", vec![50.0, -7.0, 13.0])];
    (b.finish().unwrap(), inputs.into_iter().map(|(n, v)| (n.to_owned(), v)).collect())
}

/// A finished world all of whose nodes have kept their state before each round.
fn finished(program: &Program, roster: Roster, inputs: &BTreeMap<String, Vec<f64>>, seed: u64) -> World<'static> {
    let job = planned_job(program, (roster, replaying()), inputs, seed);
    let mut world = World::with(&Device::Cpu, job, seed);
    let rounds: Vec<usize> = (1..=world.job.plan().opening_rounds()).collect();
    world.parties.iter_mut().for_each(|party| party.checkpoint_before(&rounds));
    world.run();
    world
}

/// What some nodes give their owner of the state before a round.
fn held(world: &World<'_>, round: usize, slots: impl IntoIterator<Item = Slot>) -> Vec<Held> {
    let of = |slot: Slot| {
        let checkpoint = world.checkpoints[&slot].iter().find(|c| c.round() == round).unwrap();
        Held { slot, round: round as u32, transcript: checkpoint.transcript(), state: checkpoint.encode() }
    };
    slots.into_iter().map(of).collect()
}

fn find(world: &World<'_>, held: &[Held]) -> Result<Moving, OwnerError> {
    Moving::find(&world.owner, &world.job.ticket(), held)
}

fn deltas(world: &World<'_>) -> BTreeMap<u32, Vec<u8>> {
    (0..).zip(world.job.inputs().iter().cloned()).collect()
}

fn moved(world: &World<'_>, moving: &Moving, roster: Roster, seed: u64) -> (Moved, Vec<SecretKey>) {
    let nodes: Vec<_> =
        roster.slots().map(|s| SecretKey::insecure_from_seed(seed, &format!("new node {}", s.0))).collect();
    let public: Vec<_> = nodes.iter().map(SecretKey::public).collect();
    let to = Destination {
        roster,
        planning: Planning::default(),
        nodes: &public,
        spares: &[],
        attempts: 1,
        expires: 0,
        note: "",
    };
    let read: BTreeSet<u32> = moving.reads();
    let given = deltas(world).into_iter().filter(|(number, _)| read.contains(number)).collect();
    (moving.prepare(&given, &to, Entropy::insecure_from_seed(seed)).unwrap(), nodes)
}

fn readable() -> [Roster; 4] {
    [(5, 1), (4, 1), (3, 1), (7, 2)].map(|(n, t)| Roster::shamir(n, t).unwrap())
}

#[test]
fn the_result_is_the_same_from_every_checkpoint_on_every_roster() {
    let (program, inputs) = exact();
    let to = [Roster::shamir(3, 1).unwrap(), Roster::spdz(2).unwrap(), Roster::shamir(7, 2).unwrap()];
    let (mut borders, mut late) = (BTreeSet::new(), 0);
    for from in readable() {
        let world = finished(&program, from, &inputs, SEED);
        let expected = world.outputs();
        for round in 1..=world.job.plan().opening_rounds() {
            let Ok(moving) = find(&world, &held(&world, round, world.slots())) else { continue };
            borders.insert(moving.done());
            late += usize::from(!moving.reads().is_empty());
            let roster = to[round % to.len()];
            let (moved, nodes) = moved(&world, &moving, roster, SEED + round as u64);
            assert!(moved.blamed.is_empty());
            check_continues(&world.job.ticket(), &moved.prepared.ticket()).unwrap();
            assert_eq!(moved.prepared.manifest().manifest().epoch, 1);
            let mut later = World::with(&Device::Cpu, (moved.prepared, Arc::clone(&world.owner), nodes), SEED);
            later.run();
            assert_eq!(later.outputs(), expected, "{from} to {roster}, before round {round}");
        }
    }
    // Behind every iteration of both loops, also where not all data has been read.
    assert!(borders.len() >= 5 && late > 5, "{borders:?}, {late}");
}

/// A job may move again.
#[test]
fn what_has_moved_moves_again() {
    let (program, inputs) = exact();
    let world = finished(&program, Roster::shamir(5, 1).unwrap(), &inputs, SEED);
    let round = (1..).find(|round| find(&world, &held(&world, *round, world.slots())).is_ok()).unwrap();
    let moving = find(&world, &held(&world, round, world.slots())).unwrap();
    let (first, nodes) = moved(&world, &moving, Roster::shamir(7, 2).unwrap(), SEED);
    let mut second = World::with(&Device::Cpu, (first.prepared, Arc::clone(&world.owner), nodes), SEED);
    let rounds: Vec<usize> = (1..=second.job.plan().opening_rounds()).collect();
    second.parties.iter_mut().for_each(|party| party.checkpoint_before(&rounds));
    second.run();
    let mut moves = 0;
    for round in rounds {
        let Ok(moving) = find(&second, &held(&second, round, second.slots())) else { continue };
        let (moved, nodes) = moved(&second, &moving, Roster::shamir(4, 1).unwrap(), 2 * SEED);
        assert_eq!(moved.prepared.manifest().manifest().epoch, 2);
        let mut third = World::with(&Device::Cpu, (moved.prepared, Arc::clone(&world.owner), nodes), SEED);
        third.run();
        assert_eq!(third.outputs(), world.outputs());
        moves += 1;
    }
    assert!(moves > 2);
}

/// Fixed-point values, which are rounded at random, cross a border as they were computed: from whichever
/// checkpoint and whichever nodes' shares.
#[test]
fn random_programs_give_one_value_at_each_border() {
    let (mut seen, mut again) = (0, 0);
    for seed in 0..30 {
        let program = random::program(seed, 14);
        let inputs = random::inputs(&program, seed ^ 0x5eed);
        let roster = readable()[seed as usize % 4];
        let world = finished(&program, roster, &inputs, seed);
        let mut at: BTreeMap<_, Vec<Vec<Fp61>>> = BTreeMap::new();
        for round in 1..=world.job.plan().opening_rounds() {
            // The least that is enough: at one end of the roster, then at the other.
            let (all, needed) = (world.slots(), roster.to_read());
            let slots = if round % 2 == 0 { all[..needed].to_vec() } else { all[all.len() - needed..].to_vec() };
            let Ok(moving) = find(&world, &held(&world, round, slots)) else { continue };
            let values = moving.carried(&deltas(&world)).unwrap();
            let values: Vec<_> = values.iter().map(|words| words.to_vec()).collect();
            seen += 1;
            let known = at.entry((moving.border().repeat, moving.border().done)).or_insert_with(|| values.clone());
            again += usize::from(*known == values);
            assert_eq!(*known, values, "seed {seed}, {roster}, before round {round}");
        }
    }
    assert!(seen > 10 && again > 0, "{seen} {again}");
}

/// Wherever a node may have kept its state of a training, until the last iteration is over there is a border, at most one ahead.
#[test]
fn trainings_can_be_moved_wherever_they_are() {
    let data = |b: &Builder| b.input("x", "alice", Type::fixed(-5.0..=5.0), [20, 3]);
    let b = Builder::new();
    let descent = Descent { epochs: 5, ..Descent::default() };
    let model = LogisticRegression { descent, ..LogisticRegression::default() };
    let fit = model.train(&with_intercept(&data(&b)), &b.input("y", "alice", Type::bit(), [20]));
    b.output("weights", "alice", &fit.weights);
    b.output("history", "alice", &fit.history);
    let logistic = b.finish().unwrap();
    let b = Builder::new();
    let mut model = Mlp::new([3, 4, 2]);
    (model.sgd.epochs, model.sgd.batch) = (3, 10);
    let fit = model.train(&data(&b), &b.input("y", "alice", Type::bit(), [20, 2]));
    let outputs = fit.weights.iter().chain(&fit.history).enumerate();
    outputs.for_each(|(i, w)| b.output(&format!("w{i}"), "alice", w));
    let perceptron = b.finish().unwrap();
    for (program, epochs) in [(logistic, 5), (perceptron, 3)] {
        let roster = Roster::shamir(5, 1).unwrap();
        let plan = program.plan_with(roster, replaying()).unwrap();
        let rounds = plan.opening_rounds();
        let done = |round| program.departure(roster, replaying(), round).unwrap().map(|d| d.border.done);
        let done: Vec<Option<u32>> = (1..=rounds).map(done).collect();
        let last = done.iter().rposition(Option::is_some).unwrap();
        assert!(done[..=last].iter().all(Option::is_some), "{done:?}");
        assert!(done.is_sorted_by_key(|done| done.unwrap_or(epochs)) && done[last] == Some(epochs), "{done:?}");
        // Nothing much is left where there is none any more.
        assert!((last + 1) * 10 >= rounds * 9, "{done:?}");
    }
}

/// A round before which the job can be moved.
fn somewhere(world: &World<'_>) -> usize {
    (1..).find(|round| find(world, &held(world, *round, world.slots())).is_ok()).unwrap()
}

fn refusal<T>(found: Result<T, OwnerError>) -> String {
    let refused = found.err().expect("it was not refused").to_string();
    assert!(!refused.contains('\n'), "{refused}");
    refused
}

/// Whoever gives wrong shares is corrected and named where enough others are there, and ends the move where not.
#[test]
fn a_node_that_lies_about_its_state_changes_nothing() {
    let (program, inputs) = exact();
    for roster in readable() {
        let world = finished(&program, roster, &inputs, SEED);
        let round = somewhere(&world);
        let right = find(&world, &held(&world, round, world.slots())).unwrap().carried(&deltas(&world)).unwrap();
        let words = world.job.plan().live(round).words();
        let (mut ended, mut changed) = (0, 0);
        for word in 0..words as usize {
            let mut held = held(&world, round, world.slots());
            let lie = &mut held[0].state;
            let at = lie.len() - 8 * (words as usize - word);
            lie[at] ^= 1;
            match find(&world, &held) {
                Ok(moving) => {
                    assert!(
                        moving.carried(&deltas(&world)).unwrap() == right,
                        "{roster}: the lie has reached the value"
                    );
                    assert_eq!(moved(&world, &moving, roster, SEED).0.blamed, [Slot(1)]);
                    changed += 1;
                }
                Err(OwnerError::Output { .. }) => ended += 1,
                Err(other) => panic!("{other}"),
            }
        }
        let corrects = usize::from(roster.nodes()) > 3 * usize::from(roster.threshold());
        // What is public is known from any t + 1.
        assert!(changed > 0 && corrects == (ended == 0), "{roster}: {changed} {ended}");
    }
}

#[test]
fn too_few_checkpoints_and_those_of_other_transcripts_do_not_count() {
    let (program, inputs) = exact();
    let roster = Roster::shamir(5, 1).unwrap();
    let world = finished(&program, roster, &inputs, SEED);
    let round = somewhere(&world);
    let all = || held(&world, round, world.slots());
    // Three of five are enough, two are not.
    assert!(find(&world, &all()[2..]).is_ok());
    assert!(refusal(find(&world, &all()[3..])).contains("came from 2 nodes, expected one that 3 hold alike"));
    assert!(refusal(find(&world, &[])).contains("came from 0 nodes"));
    // One node twice is one node.
    let twice: Vec<Held> = all().into_iter().skip(3).chain(all().into_iter().skip(3)).collect();
    assert!(refusal(find(&world, &twice)).contains("came from 2 nodes"));
    // Another transcript or round.
    for change in [|held: &mut Held| held.transcript[0] ^= 1, |held: &mut Held| held.round = 1 << 20] {
        let mut some = all();
        some.truncate(3);
        change(&mut some[0]);
        assert!(refusal(find(&world, &some)).contains("expected one that 3 hold alike"));
    }
    // No checkpoint at all, and slots that are not there.
    let mut garbage = all();
    garbage.truncate(3);
    garbage[1].state.truncate(5);
    assert!(refusal(find(&world, &garbage)).contains("node 2"));
    let mut stranger = all();
    stranger.truncate(3);
    stranger[2].slot = Slot(6);
    assert!(refusal(find(&world, &stranger)).contains("came from 2 nodes"));
    // Liars may agree on a transcript; it is not taken without 2t + 1 of them.
    let mut two = all();
    two[0].transcript = [1; 32];
    two[1].transcript = [1; 32];
    let right = find(&world, &all()).unwrap().carried(&deltas(&world)).unwrap();
    assert!(find(&world, &two).unwrap().carried(&deltas(&world)).unwrap() == right);
}

/// Three nodes, one of them a liar, have a newer one, and can be told nothing of; all four have an older one, where
/// he is corrected.
#[test]
fn an_older_checkpoint_that_more_nodes_hold_serves_where_a_liar_has_spoilt_the_newest() {
    let (program, inputs) = exact();
    let world = finished(&program, Roster::shamir(4, 1).unwrap(), &inputs, SEED);
    let leads: Vec<usize> = (1..=world.job.plan().opening_rounds())
        .filter(|round| find(&world, &held(&world, *round, world.slots())).is_ok())
        .collect();
    let (early, late) = (leads[0], *leads.last().unwrap());
    let lies = |mut held: Vec<Held>| {
        let last = held[0].state.len() - 8 * world.job.plan().live(held[0].round as usize).words() as usize;
        held[0].state[last] ^= 1;
        held
    };
    let newest = || lies(held(&world, late, world.slots()[..3].to_vec()));
    assert!(matches!(find(&world, &newest()), Err(OwnerError::Output { .. })));
    let both: Vec<Held> = newest().into_iter().chain(lies(held(&world, early, world.slots()))).collect();
    let moving = find(&world, &both).unwrap();
    assert_eq!(moving.border(), find(&world, &held(&world, early, world.slots())).unwrap().border());
    assert_eq!(moved(&world, &moving, Roster::shamir(3, 1).unwrap(), SEED).0.blamed, [Slot(1)]);
}

/// Nobody gets two results that differ in their noise.
#[test]
fn a_rest_that_draws_random_values_is_not_moved() {
    let b = Builder::new();
    let x = b.input("x", "alice", Type::int(-9..=9), [1]);
    let (ends, _) = b.repeat(3, std::slice::from_ref(&x), |b, state| {
        let noise = b.repeat(1, &[b.random(Type::int(0..=3), [1])], |_, s| (vec![s[0].clone()], vec![])).0.remove(0);
        (vec![(&(&state[0] * &x) + &noise).clamp(-9.0..=9.0)], vec![])
    });
    b.output("y", "alice", &(&ends[0] * &ends[0]));
    let (program, inputs) = (b.finish().unwrap(), BTreeMap::from([("x".to_owned(), vec![2.0])]));
    let world = finished(&program, Roster::shamir(5, 1).unwrap(), &inputs, SEED);
    let (mut refused, mut moved) = (0, 0);
    for round in 1..=world.job.plan().opening_rounds() {
        match find(&world, &held(&world, round, world.slots())) {
            Ok(_) => moved += 1,
            Err(error) => refused += usize::from(error.to_string().contains("random values")),
        }
    }
    // Behind the last draw nothing is in the way.
    assert!(refused > 0 && moved > 0, "{refused} {moved}");
}

/// The newest one that enough hold and that leads somewhere.
#[test]
fn the_newest_common_checkpoint_is_taken() {
    let (program, inputs) = exact();
    let world = finished(&program, Roster::shamir(5, 1).unwrap(), &inputs, SEED);
    let leads: Vec<usize> = (1..=world.job.plan().opening_rounds())
        .filter(|round| find(&world, &held(&world, *round, world.slots())).is_ok())
        .collect();
    let (early, late) = (leads[0], *leads.last().unwrap());
    let done = |held: &[Held]| find(&world, held).unwrap().done();
    let older = done(&held(&world, early, world.slots()));
    let newer = done(&held(&world, late, world.slots()));
    assert_ne!(older, newer);
    let some = |slots: &[u8]| slots.iter().map(|s| Slot(*s)).collect::<Vec<_>>();
    // Two are further than the others.
    let split: Vec<Held> =
        held(&world, early, world.slots()).into_iter().chain(held(&world, late, some(&[1, 2]))).collect();
    assert_eq!(done(&split), older);
    let three: Vec<Held> = split.into_iter().chain(held(&world, late, some(&[4]))).collect();
    assert_eq!(done(&three), newer);
}

#[test]
fn data_that_is_not_the_signed_one_is_refused() {
    let (program, inputs) = exact();
    let world = finished(&program, Roster::shamir(4, 1).unwrap(), &inputs, SEED);
    let moving = (1..=world.job.plan().opening_rounds())
        .filter_map(|round| find(&world, &held(&world, round, world.slots())).ok())
        .find(|moving| !moving.reads().is_empty())
        .unwrap();
    let mut changed = deltas(&world);
    changed.get_mut(&1).unwrap()[0] ^= 1;
    assert!(refusal(moving.carried(&changed)).contains("not what the manifest names"));
    assert!(refusal(moving.carried(&BTreeMap::new())).contains("not what the manifest names"));
}

#[test]
fn only_its_owner_moves_a_job_and_only_one_that_keeps_checkpoints() {
    let (program, inputs) = exact();
    let world = finished(&program, Roster::shamir(5, 1).unwrap(), &inputs, SEED);
    let another = Arc::new(SecretKey::insecure_from_seed(1, "another"));
    let held = held(&world, somewhere(&world), world.slots());
    assert!(refusal(Moving::find(&another, &world.job.ticket(), &held)).contains("did not sign"));
    let (spdz, owner, _) = planned_job(&program, (Roster::spdz(3).unwrap(), Planning::default()), &inputs, SEED);
    assert!(refusal(Moving::find(&owner, &spdz.ticket(), &[])).contains("no checkpoints that can be taken elsewhere"));
    // No loop, no border.
    let b = Builder::new();
    let x = b.input("x", "alice", Type::int(-9..=9), [2]);
    b.output("y", "alice", &(&(&x * &x) * &x));
    let (flat, inputs) = (b.finish().unwrap(), BTreeMap::from([("x".to_owned(), vec![3.0, -2.0])]));
    let world = finished(&flat, Roster::shamir(5, 1).unwrap(), &inputs, SEED);
    let all = super::moving::held(&world, 1, world.slots());
    assert!(refusal(find(&world, &all)).contains("no iteration of a repeat"));
}

/// A value that the program declared to lie elsewhere does not cross as if it did not.
#[test]
fn a_declared_range_that_did_not_hold_ends_the_move() {
    let b = Builder::new();
    let x = b.input("x", "alice", Type::int(-9..=9), [1]);
    let (ends, _) =
        b.repeat(3, std::slice::from_ref(&x), |_, state| (vec![(&state[0] * &x).declare("x", -9.0..=9.0)], vec![]));
    b.output("y", "alice", &ends[0]);
    let (program, inputs) = (b.finish().unwrap(), BTreeMap::from([("x".to_owned(), vec![4.0])]));
    let world = finished(&program, Roster::shamir(5, 1).unwrap(), &inputs, SEED);
    let moving = find(&world, &held(&world, somewhere(&world), world.slots())).unwrap();
    assert!(refusal(moving.carried(&deltas(&world))).contains("did not hold"));
}

/// What a reader is told of where a job comes from is compared.
#[test]
fn a_job_that_is_not_the_rest_of_another_is_told_apart() {
    let (program, inputs) = exact();
    let world = finished(&program, Roster::shamir(5, 1).unwrap(), &inputs, SEED);
    let moving = find(&world, &held(&world, somewhere(&world), world.slots())).unwrap();
    let (moved, _) = moved(&world, &moving, Roster::shamir(4, 1).unwrap(), SEED);
    let (earlier, later) = (world.job.ticket(), moved.prepared.ticket());
    check_continues(&earlier, &later).unwrap();
    let mut others = inputs.clone();
    others.insert("x".to_owned(), vec![1.0, 1.0, 1.0]);
    let fresh = planned_job(&program, (Roster::shamir(5, 1).unwrap(), replaying()), &others, SEED).0;
    assert!(refusal(check_continues(&fresh.ticket(), &later)).contains("another one"));
    assert!(refusal(check_continues(&earlier, &fresh.ticket())).contains("continues none"));
    let another = planned_job(&program, (Roster::shamir(5, 1).unwrap(), replaying()), &inputs, 99).0;
    assert!(refusal(check_continues(&another.ticket(), &later)).contains("another one"));
    // Whatever its owner signs.
    let signed = |change: &dyn Fn(&mut Manifest)| {
        let mut manifest = moved.prepared.manifest().manifest().clone();
        change(&mut manifest);
        let parts: (Vec<u8>, Vec<u8>) = postcard::from_bytes(&later.to_bytes()).unwrap();
        let parts = (manifest.sign(&world.owner).unwrap().to_bytes(), parts.1);
        Ticket::from_bytes(&postcard::to_stdvec(&parts).unwrap()).unwrap()
    };
    assert!(check_continues(&earlier, &signed(&|_| {})).is_ok());
    let changed = |change: &dyn Fn(&mut Manifest)| refusal(check_continues(&earlier, &signed(change)));
    let of = |manifest: &mut Manifest| manifest.continues.unwrap();
    let further = changed(&|m| {
        let at = of(m);
        m.continues = Some(Continues { border: Border { done: at.border.done % 4 + 1, ..at.border }, ..at });
    });
    assert!(further.contains("not what is left"), "{further}");
    let nowhere = changed(&|m| m.continues = Some(Continues { border: Border { done: 77, ..of(m).border }, ..of(m) }));
    assert!(nowhere.contains("no border behind iteration 77"), "{nowhere}");
    assert!(changed(&|m| m.epoch = 2).contains("another epoch"));
    let bob = SecretKey::insecure_from_seed(1, "bob").public();
    assert!(changed(&|m| m.outputs.iter_mut().for_each(|output| output.reader = bob)).contains("other readers"));
}
