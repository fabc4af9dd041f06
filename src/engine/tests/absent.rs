//! Nodes that vanish, lag, come back and lie: docs/protocols.md, section 16.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::world::{Verdict, World, device, party, planned_job, small_program};
use crate::engine::frame::{Body, Frame, Kind};
use crate::engine::{EngineError, Event};
use crate::field::Fp61;
use crate::program::random::Choices;
use crate::program::{Builder, PlanError, Planning, Type};
use crate::roster::{Roster, Slot};

const SEED: u64 = 61;

/// A world of the small program on a roster that is planned to bear so many losses.
fn world(n: u8, t: u8, losses: u8) -> World<'static> {
    let (program, inputs) = small_program();
    let planning = Planning { losses, ..Planning::default() };
    World::planned(&device(), &program, (Roster::shamir(n, t).unwrap(), planning), &inputs, SEED)
}

/// Rosters that bear a loss, and the losses that their plans are made for.
const BEARING: [(u8, u8, u8); 5] = [(5, 1, 0), (6, 1, 0), (4, 1, 1), (7, 2, 2), (10, 2, 0)];

impl World<'_> {
    /// The node is killed: what is under way to it or from it is lost.
    fn kill(&mut self, slot: Slot) {
        self.down.insert(slot);
        self.queue.retain(|(to, event)| *to != slot && !matches!(event, Event::Frame { from, .. } if *from == slot));
        for peer in self.up() {
            self.step(peer, Event::Gone { peer: slot });
        }
    }

    /// The node is started again, with nothing but what is on its disk, of which the
    /// log's end is lost.
    fn restart(&mut self, slot: Slot, kept: usize) {
        self.down.remove(&slot);
        self.outcomes.remove(&slot);
        let (_, _, nodes) =
            planned_job(&small_program().0, (self.job.plan().roster, Planning::default()), &small_program().1, SEED);
        self.parties[slot.index()] = party(&device(), &self.job, slot, &nodes[slot.index()], SEED);
        self.step(slot, Event::Start);
        for (header, _) in &self.segments.clone() {
            self.step(slot, Event::Header(Box::new(*header)));
        }
        // Only what is the node's own: its segments, not what peers may be sending.
        self.own(slot);
        let log = self.logs.get(&slot).cloned().unwrap_or_default();
        for (round, transcript, words) in log.into_iter().take(kept) {
            self.step(slot, Event::Words { round, transcript, words });
            self.own(slot);
        }
        self.behind.insert(slot);
    }

    /// Feeds a node what comes from its own disk.
    fn own(&mut self, slot: Slot) {
        while let Some(at) = self
            .queue
            .iter()
            .position(|(to, event)| *to == slot && matches!(event, Event::Segment { .. } | Event::Persisted { .. }))
        {
            let (_, event) = self.queue.remove(at).unwrap();
            self.step(slot, event);
        }
    }

    fn up(&self) -> Vec<Slot> {
        self.slots().into_iter().filter(|slot| !self.down.contains(slot)).collect()
    }

    /// What a session does for a node that is behind.
    fn catch_up(&mut self, slot: Slot) {
        let enough = usize::from(self.job.plan().roster.threshold()) + 1;
        loop {
            let round = self.parties[slot.index()].progress().0;
            let held = |peer: &Slot| self.logs.get(peer).and_then(|log| log.get(round)).cloned();
            let claims: Vec<_> = self.up().into_iter().filter(|peer| *peer != slot).filter_map(|p| held(&p)).collect();
            let alike = claims.iter().find(|claim| claims.iter().filter(|other| other == claim).count() >= enough);
            let Some((round, transcript, words)) = alike.cloned() else { break };
            self.step(slot, Event::Words { round, transcript, words });
            self.own(slot);
            if self.parties[slot.index()].progress().0 == round {
                break;
            }
        }
        for peer in self.up().into_iter().filter(|peer| *peer != slot) {
            self.step(peer, Event::Resend { to: slot });
        }
    }

    /// Runs until everybody who is up is done, or nothing helps any more.
    fn settle(&mut self) {
        for _ in 0..40 {
            self.drain();
            for slot in std::mem::take(&mut self.behind) {
                self.catch_up(slot);
            }
            if self.queue.is_empty() {
                for slot in self.up() {
                    let token = self.armed.get(&slot).copied().unwrap_or_default();
                    self.step(slot, Event::Deadline { token, last: false });
                }
            }
            if self.behind.is_empty() && self.queue.is_empty() {
                return;
            }
        }
    }

    /// Takes so many steps of the world.
    fn run_for(&mut self, steps: usize) {
        for _ in 0..steps {
            let Some((to, event)) = self.queue.pop_front() else { return };
            self.step(to, event);
        }
    }

    /// The outputs of those who are done, who must be these.
    fn outputs_of(&mut self, done: &[Slot]) -> Vec<Vec<Fp61>> {
        for slot in done {
            match &self.outcomes.get(slot) {
                Some(Ok(_)) => {}
                Some(Err(error)) => panic!("{slot}: {error}"),
                None => panic!("{slot} is not done"),
            }
        }
        self.outcomes.retain(|slot, _| done.contains(slot));
        self.outputs()
    }

    fn blamed(&self) -> BTreeSet<Slot> {
        self.outcomes.values().filter_map(|o| o.as_ref().ok()).flat_map(|o| o.blamed.iter().copied()).collect()
    }
}

/// No node ever says two things in one place of the job.
fn assert_one_message(world: &World<'_>, honest: impl Fn(Slot) -> bool) {
    let mut said: BTreeMap<_, &Frame> = BTreeMap::new();
    for frame in world.sent.iter().filter(|f| honest(f.header.from)) {
        let h = &frame.header;
        let place = (h.from, h.to, h.kind as u8, h.step);
        assert!(said.insert(place, frame).is_none_or(|before| before == frame), "two messages for {place:?}");
    }
}

#[test]
fn the_others_go_on_without_a_node_that_vanishes() {
    for (n, t, losses) in BEARING {
        let expected = {
            let mut world = world(n, t, losses);
            assert!(world.job.plan().spare() >= 1, "({n}, {t})");
            world.run();
            world.outputs()
        };
        for steps in (0..400).step_by(37) {
            let mut world = world(n, t, losses);
            world.start();
            world.run_for(steps);
            let gone = Slot(1 + (steps % usize::from(n)) as u8);
            world.kill(gone);
            world.settle();
            let done: Vec<_> = world.up();
            assert_eq!(world.outputs_of(&done), expected, "({n}, {t}), after {steps} steps");
            assert!(world.blamed().is_empty());
            assert_one_message(&world, |_| true);
        }
    }
}

#[test]
fn a_job_that_needs_all_nodes_waits_for_one_that_is_started_again() {
    for (n, t) in [(4, 1), (3, 1), (5, 2)] {
        let mut undisturbed = world(n, t, 0);
        assert_eq!(undisturbed.job.plan().spare(), 0);
        undisturbed.run();
        for steps in (5..200).step_by(29) {
            let mut world = world(n, t, 0);
            world.start();
            world.run_for(steps);
            let gone = Slot(1 + (steps % usize::from(n)) as u8);
            world.kill(gone);
            world.settle();
            let last = |world: &mut World<'_>, slot: Slot| {
                let token = world.armed.get(&slot).copied().unwrap_or_default();
                world.step(slot, Event::Deadline { token, last: true });
            };
            if steps == 5 {
                for slot in world.up() {
                    last(&mut world, slot);
                    let error = world.error(slot.0);
                    assert!(matches!(error, EngineError::Silent { missing, .. } if *missing == [gone]), "{error}");
                }
                continue;
            }
            let kept = world.logs.get(&gone).map_or(0, Vec::len);
            world.restart(gone, kept);
            world.settle();
            let all = world.slots();
            assert_eq!(world.outputs_of(&all), undisturbed.outputs(), "({n}, {t}), after {steps} steps");
            assert_one_message(&world, |_| true);
        }
    }
}

/// Kills and restarts at random moments, the log's end lost or all of it, links that lose
/// frames: always the same words, never a second message, always an end.
#[test]
fn who_comes_and_goes_changes_nothing() {
    for (n, t, losses) in BEARING {
        let mut undisturbed = world(n, t, losses);
        undisturbed.run();
        let expected = undisturbed.outputs();
        for seed in 0..60 {
            let mut random = Choices(seed);
            let mut world = world(n, t, losses);
            let spare = world.job.plan().spare();
            world.start();
            for _ in 0..6 {
                world.run_for(random.below(60));
                if random.below(3) > 0 && world.down.len() < spare {
                    let up = world.up();
                    world.kill(up[random.below(up.len())]);
                }
                if random.below(2) == 0
                    && let Some(slot) = world.down.first().copied()
                {
                    let held = world.logs.get(&slot).map_or(0, Vec::len);
                    world.restart(slot, random.below(held + 1));
                }
                if random.below(3) == 0 && !world.queue.is_empty() {
                    let at = random.below(world.queue.len());
                    if let Event::Frame { .. } = world.queue[at].1 {
                        world.queue.remove(at);
                    }
                }
            }
            world.settle();
            let done = world.up();
            for slot in &done {
                let at = world.parties[slot.index()].progress();
                assert!(
                    world.outcomes.contains_key(slot),
                    "({n}, {t}), seed {seed}: {slot} is at {at:?}, {:?} are down",
                    world.down
                );
            }
            assert_eq!(world.outputs_of(&done), expected, "({n}, {t}), seed {seed}");
            assert!(world.blamed().is_empty());
            assert_one_message(&world, |_| true);
        }
    }
}

/// n − t = d + t + 1 + 1: one node is missing and one lies, to one node in each round.
#[test]
fn a_liar_beside_a_missing_node_is_found_wherever_enough_shares_agree() {
    let mut undisturbed = world(7, 2, 2);
    undisturbed.run();
    let mut world = world(7, 2, 2);
    let lied = std::rc::Rc::new(Cell::new(0));
    let count = std::rc::Rc::clone(&lied);
    world.adversary = Box::new(move |frame| {
        let h = frame.header;
        if let (Slot(2), Body::Words(words)) = (h.from, &mut frame.body)
            && u32::from(h.to.0) == 3 + h.step % 5
        {
            Arc::make_mut(words)[0] += Fp61::ONE;
            count.set(count.get() + 1);
        }
        Verdict::Deliver
    });
    world.start();
    world.run_for(30);
    world.kill(Slot(1));
    world.settle();
    assert!(lied.get() > 2);
    let honest: Vec<_> = (3..=7).map(Slot).collect();
    assert_eq!(world.outputs_of(&honest), undisturbed.outputs());
    assert_eq!(world.blamed(), BTreeSet::from([Slot(2)]));
}

/// With one node missing at (5, 1) a lie names nobody; with its shares it does.
#[test]
fn a_mismatch_waits_for_the_shares_of_the_absent() {
    [false, true].into_iter().for_each(mismatch);
}

fn mismatch(twice: bool) {
    let mut undisturbed = world(5, 1, 0);
    undisturbed.run();
    let mut world = world(5, 1, 0);
    let lied = std::rc::Rc::new(Cell::new(false));
    let once = std::rc::Rc::clone(&lied);
    world.adversary = Box::new(move |frame| {
        let h = frame.header;
        if let (Slot(2), Slot(3), Kind::Opening, Body::Words(words)) = (h.from, h.to, h.kind, &mut frame.body)
            && h.step == 3
        {
            Arc::make_mut(words)[0] += Fp61::ONE;
            once.set(true);
        }
        Verdict::Deliver
    });
    world.start();
    world.run_for(20);
    world.kill(Slot(1));
    world.drain();
    for slot in world.up() {
        let token = world.armed[&slot];
        world.step(slot, Event::Deadline { token, last: false });
    }
    world.drain();
    assert!(lied.get());
    assert!(!world.outcomes.contains_key(&Slot(3)), "node 3 has four shares and one is wrong: it cannot know which");
    if twice {
        // The liar gives itself away: of the shares that are left none has been tried.
        let lie = world.sent.iter().find(|f| (f.header.from, f.header.to, f.header.step) == (Slot(2), Slot(3), 3));
        let mut other = lie.unwrap().clone();
        let Body::Words(words) = &mut other.body else { panic!() };
        Arc::make_mut(words)[0] += Fp61::reduce(7);
        world.step(Slot(3), Event::Frame { from: Slot(2), frame: other });
    }
    world.restart(Slot(1), 0);
    world.settle();
    let honest = [1, 3, 4, 5].map(Slot);
    assert_eq!(world.outputs_of(&honest), undisturbed.outputs());
}

/// What no honest node sends leaves the others as they are, in every phase.
#[test]
fn the_job_goes_on_without_a_node_that_sends_what_no_honest_node_sends() {
    let mut undisturbed = world(5, 1, 0);
    undisturbed.run();
    let expected = undisturbed.outputs();
    type Change = fn(&mut Frame);
    let changes: [(&str, Change); 7] = [
        ("job", |f| f.header.manifest[0] ^= 1),
        ("view", |f| f.header.view = 1),
        ("sender", |f| f.header.from = Slot(3)),
        ("kind", |f| f.header.kind = if f.header.kind == Kind::Finish { Kind::Agree } else { Kind::Finish }),
        ("digest", |f| {
            if let Body::Digest(digest) = &mut f.body {
                digest[3] ^= 1;
            }
        }),
        ("length", |f| {
            if let Body::Words(words) = &mut f.body {
                Arc::make_mut(words).pop();
            }
        }),
        ("share", |f| {
            if let Body::Words(words) = &mut f.body {
                Arc::make_mut(words)[0] += Fp61::ONE;
            }
        }),
    ];
    for (what, change) in changes {
        for kind in [Kind::Agree, Kind::Opening, Kind::Segment, Kind::Finish] {
            let mut world = world(5, 1, 0);
            let changed = std::rc::Rc::new(Cell::new(false));
            let noted = std::rc::Rc::clone(&changed);
            world.adversary = Box::new(move |frame| {
                if (frame.header.from, frame.header.kind) == (Slot(2), kind) {
                    let before = frame.clone();
                    change(frame);
                    noted.set(noted.get() || *frame != before);
                }
                Verdict::Deliver
            });
            world.start();
            world.settle();
            let honest = [1, 3, 4, 5].map(Slot);
            assert_eq!(world.outputs_of(&honest), expected, "{what} of {kind}");
            // As an old frame of another kind it would be ignored.
            // And of two digests of one segment the owner may have signed both.
            let past = kind == Kind::Segment && ["kind", "digest"].contains(&what);
            let blamed = if changed.get() && !past { BTreeSet::from([Slot(2)]) } else { BTreeSet::new() };
            assert_eq!(world.blamed(), blamed, "{what} of {kind}");
            assert_one_message(&world, |slot| slot != Slot(2));
        }
    }
}

/// t crashed and t corrupt: at worst nobody gets anything.
#[test]
fn too_many_faults_stop_the_job_and_never_change_a_word() {
    for seed in 0..20 {
        let mut random = Choices(seed);
        let mut world = world(5, 1, 0);
        let mut undisturbed = self::world(5, 1, 0);
        undisturbed.run();
        let (delta, victim) = (Fp61::reduce(1 + random.below(1000) as u64), Slot(3 + random.below(3) as u8));
        world.adversary = Box::new(move |frame| {
            if let (Slot(2), Body::Words(words)) = (frame.header.from, &mut frame.body)
                && (frame.header.to == victim || delta.word() % 2 == 0)
            {
                let at = delta.word() as usize % words.len();
                Arc::make_mut(words)[at] += delta;
            }
            Verdict::Deliver
        });
        world.start();
        world.run_for(random.below(120));
        world.kill(Slot(1));
        world.settle();
        for slot in [3, 4, 5].map(Slot) {
            let (honest, held) = (&undisturbed.logs[&slot], world.logs.get(&slot).cloned().unwrap_or_default());
            assert!(honest.starts_with(&held), "{slot} opened another word");
        }
    }
}

/// Two halves of which neither has m nodes wait, and go on once they are joined.
#[test]
fn a_split_committee_waits_and_goes_on_when_it_is_joined() {
    let mut undisturbed = world(6, 1, 0);
    undisturbed.run();
    let mut world = world(6, 1, 0);
    let joined = std::rc::Rc::new(Cell::new(false));
    let together = std::rc::Rc::clone(&joined);
    world.adversary = Box::new(move |frame| {
        let apart = (frame.header.from.0 <= 3) != (frame.header.to.0 <= 3);
        if apart && frame.header.step > 2 && !together.get() { Verdict::Swallow } else { Verdict::Deliver }
    });
    world.start();
    world.drain();
    for slot in world.slots() {
        let token = world.armed[&slot];
        world.step(slot, Event::Deadline { token, last: false });
    }
    world.drain();
    assert!(world.outcomes.is_empty());
    joined.set(true);
    world.settle();
    let all = world.slots();
    assert_eq!(world.outputs_of(&all), undisturbed.outputs());
}

#[test]
fn words_with_another_transcript_stop_the_node() {
    let mut donor = world(5, 1, 0);
    donor.run();
    for change in [
        (|words: &mut Vec<Fp61>, _: &mut [u8; 32]| words[0] += Fp61::ONE) as fn(&mut Vec<Fp61>, &mut [u8; 32]),
        |_, transcript| transcript[0] ^= 1,
    ] {
        let mut world = world(5, 1, 0);
        world.step(Slot(1), Event::Start);
        for (header, _) in &world.segments.clone() {
            world.step(Slot(1), Event::Header(Box::new(*header)));
            for peer in [2, 3, 4, 5].map(Slot) {
                world.step(peer, Event::Start);
                world.step(peer, Event::Header(Box::new(*header)));
            }
        }
        let (round, mut transcript, mut words) = donor.logs[&Slot(2)][0].clone();
        change(&mut words, &mut transcript);
        world.step(Slot(1), Event::Words { round, transcript, words });
        world.drain();
        assert!(matches!(world.error(1), EngineError::Told { .. }), "{}", world.error(1));
        assert!(!world.sent.iter().any(|f| f.header.from == Slot(1) && f.header.kind == Kind::Opening));
    }
}

#[test]
fn plans_say_how_many_losses_they_bear() {
    let (program, _) = small_program();
    let spare = |n, t, losses| {
        let planning = Planning { losses, ..Planning::default() };
        program.plan_with(Roster::shamir(n, t).unwrap(), planning).map(|plan| plan.spare())
    };
    for ((n, t, losses), expected) in [
        ((4, 1, 0), 0),
        ((4, 1, 1), 1),
        ((5, 1, 0), 1),
        ((6, 1, 0), 2),
        ((7, 2, 0), 0),
        ((7, 2, 2), 2),
        ((3, 1, 0), 0),
        ((5, 2, 0), 0),
    ] {
        assert_eq!(spare(n, t, losses).unwrap(), expected, "({n}, {t}) planned for {losses}");
    }
    for (n, t, losses) in [(4, 1, 2), (5, 2, 1), (3, 1, 1), (7, 3, 1)] {
        assert!(matches!(spare(n, t, losses), Err(PlanError::Losses { .. })));
    }
    assert!(matches!(
        program.plan_with(Roster::spdz(3).unwrap(), Planning { losses: 1, ..Planning::default() }),
        Err(PlanError::Losses { most: 0, .. })
    ));
    // A program without openings still opens its outputs to their reader.
    let b = Builder::new();
    let x = b.input("x", "alice", Type::int(-9..=9), [3]);
    b.output("y", "alice", &(&x + &x));
    let linear = b.finish().unwrap();
    assert_eq!(linear.plan(Roster::shamir(5, 2).unwrap()).unwrap().spare(), 0);
    assert_eq!(linear.plan(Roster::shamir(5, 1).unwrap()).unwrap().spare(), 1);
}
