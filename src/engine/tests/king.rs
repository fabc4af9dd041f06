//! Openings by kings: the ideal, the exact cost, and attacks by kings and by
//! those who give them shares.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use super::ideal::equals_the_ideal;
use super::world::{Verdict, World, device};
use crate::backend::cpu::Cpu;
use crate::engine::frame::{Body, Frame, FrameError, Kind};
use crate::engine::{Engine, EngineError, Event, Job, Record};
use crate::entropy::Entropy;
use crate::field::{Fp61, P};
use crate::program::plan::Plan;
use crate::program::{Builder, Comparisons, Openings, Planning, Program, Type};
use crate::roster::{Degree, Roster, Slot};
use crate::sharing::{DecodeError, Shamir, SlotKeys};
use crate::transcript::{CheckPoint, Commitment, Purpose};

fn by_king() -> Planning {
    Planning { openings: Openings::King, ..Planning::default() }
}

fn shamir(n: u8, t: u8) -> Roster {
    Roster::shamir(n, t).unwrap()
}

/// Those with kings, by the degree that they open: 2t, then t.
fn rosters() -> [Roster; 5] {
    [(4, 1), (7, 2), (3, 1), (5, 2), (7, 3)].map(|(n, t)| shamir(n, t))
}

/// Products that wait for each other, truncated products and comparisons; in
/// the first round openings of both degrees. Long enough that every king has words.
fn program() -> (Program, BTreeMap<String, Vec<f64>>) {
    let b = Builder::new();
    let k = b.input("k", "alice", Type::int(-9..=9), [16]);
    let x = b.input("x", "alice", Type::fixed(-4.0..=4.0), [16]);
    b.output("k8", "alice", &(&(&k * &k) * &(&k * &k)));
    b.output("x3", "alice", &(&(&x * &x) * &x));
    b.output("sign", "alice", &k.ge0());
    let inputs =
        [("k", (0..16).map(|i| f64::from(i - 7)).collect()), ("x", (0..16).map(|i| f64::from(i) / 4.0).collect())];
    (b.finish().unwrap(), inputs.into_iter().map(|(n, v)| (n.to_owned(), v)).collect())
}

fn world(roster: Roster, seed: u64) -> World<'static> {
    let (program, inputs) = program();
    World::planned(&device(), &program, (roster, by_king()), &inputs, seed)
}

/// A world that has run undisturbed.
fn honest(roster: Roster, seed: u64) -> World<'static> {
    let mut world = world(roster, seed);
    world.run();
    world.outputs();
    world
}

/// The round of each step in which shares go to kings.
fn king_rounds(world: &World) -> BTreeMap<u32, usize> {
    let plan = world.job.plan();
    let mut steps: Vec<_> =
        world.sent.iter().filter(|f| f.header.kind == Kind::Gather).map(|f| f.header.step).collect();
    steps.sort_unstable();
    steps.dedup();
    let rounds: Vec<_> = (0..plan.opening_rounds()).filter(|round| plan.rounds[*round].king).collect();
    assert_eq!(steps.len(), rounds.len());
    assert!(steps.len() > 1);
    steps.into_iter().zip(rounds).collect()
}

fn words(frame: &mut Frame) -> &mut Vec<Fp61> {
    let Body::Words(words) = &mut frame.body else { panic!("{} has no words", frame.header.kind) };
    Arc::make_mut(words)
}

fn bodies(world: &World, kind: Kind, from: u8, step: u32) -> Vec<Vec<Fp61>> {
    let sent =
        world.sent.iter().filter(|f| f.header.kind == kind && f.header.from == Slot(from) && f.header.step == step);
    sent.cloned().map(|mut frame| words(&mut frame).clone()).collect()
}

/// Runs a world in which some frames are changed; how many were.
fn tamper(world: &mut World, pick: impl Fn(&Frame) -> bool + 'static, change: impl Fn(&mut Frame) + 'static) -> usize {
    let hits = Rc::new(Cell::new(0));
    let counted = hits.clone();
    world.adversary = Box::new(move |frame| {
        if pick(frame) {
            change(frame);
            counted.set(counted.get() + 1);
        }
        Verdict::Deliver
    });
    world.run();
    hits.get()
}

// --- what must come out ----------------------------------------------------------

#[test]
fn random_programs_by_king_equal_the_ideal() {
    let device = device();
    let few = device.can_be_lost();
    let rosters = rosters().map(|roster| (roster, by_king()));
    equals_the_ideal(&device, &rosters, if few { 3 } else { 30 }, if few { 1 } else { 50 });
    // Layers of packed bits go between the rounds of kings.
    let packed = Planning { comparisons: Comparisons::Packed, ..by_king() };
    equals_the_ideal(&device, &[(shamir(4, 1), packed)], if few { 3 } else { 40 }, 1);
    equals_the_ideal(&device, &[(shamir(10, 3), by_king())], 3, 0);
}

#[test]
fn kings_change_no_output_and_send_less() {
    for roster in rosters() {
        let king = honest(roster, 3);
        let (program, inputs) = program();
        let mut all = World::planned(&device(), &program, (roster, Planning::default()), &inputs, 3);
        all.run();
        let values = |world: &World| -> Vec<Vec<i64>> {
            world.outputs().iter().map(|words| words.iter().map(|w| w.to_i64()).collect()).collect()
        };
        // Truncation rounds by coins of its masks, and the nonce is the same.
        assert_eq!(values(&king), values(&all), "{roster}");
        let opened = |kind| move |f: &&Frame| f.header.kind == kind;
        assert!(
            king.sent.iter().any(|f| opened(Kind::Combined)(&f)) && !king.sent.iter().any(|f| opened(Kind::Finish)(&f))
        );
        assert!(
            all.sent.iter().any(|f| opened(Kind::Finish)(&f)) && !all.sent.iter().any(|f| opened(Kind::Gather)(&f))
        );
        let words = |world: &World| -> usize {
            let words = |f: &Frame| if let Body::Words(words) = &f.body { words.len() } else { 0 };
            world.sent.iter().map(words).sum()
        };
        assert!(words(&king) < words(&all), "{roster}: {} words by king, {} all to all", words(&king), words(&all));
    }
}

#[test]
fn the_wire_of_kings_is_what_the_plan_predicts() {
    let packed = Planning { comparisons: Comparisons::Packed, ..by_king() };
    let all = rosters().into_iter().map(|roster| (roster, by_king())).chain([(shamir(4, 1), packed)]);
    for (roster, planning) in all {
        for (program, inputs) in [program(), super::world::small_program()] {
            let mut world = World::planned(&device(), &program, (roster, planning), &inputs, 5);
            world.run();
            world.outputs();
            let (plan, peers) = (world.job.plan(), u64::from(roster.nodes()) - 1);
            let (cost, mut most) = (plan.cost(), 0);
            assert!(cost.king_words > 0 && cost.checks == 1);
            for slot in world.slots() {
                let own: Vec<_> = world.sent.iter().filter(|f| f.header.from == slot).collect();
                let sent = own.iter().map(|f| f.encode().len()).sum::<usize>() as u64;
                assert_eq!(sent, plan.sent_bytes(slot), "{roster}, {slot}");
                most = most.max(sent);
                let exchanges = own.iter().filter(|f| f.header.kind != Kind::Segment).count() as u64;
                // That a node is ready is not the engine's to say.
                assert_eq!(exchanges, (cost.exchanges - 1) * peers, "{roster}, {slot}");
            }
            assert_eq!(most, cost.sent_bytes, "{roster}");
        }
    }
}

/// Degree-t openings of (4, 1) are corrected, and stay all to all beside kings.
#[test]
fn what_is_corrected_goes_all_to_all_in_the_same_round() {
    let mut world = world(shamir(4, 1), 4);
    let plan = Arc::clone(world.job.plan());
    let degrees = |round| plan.openings(round).map(|o| o.1).collect::<Vec<_>>();
    let mixed = (0..plan.opening_rounds()).find(|r| plan.rounds[*r].king && degrees(*r).contains(&Degree::T)).unwrap();
    let step = 2 + 3 * mixed as u32;
    assert!((0..mixed).all(|round| plan.rounds[round].king));
    let lied = tamper(
        &mut world,
        move |f| f.header.kind == Kind::Gather && f.header.from == Slot(3) && f.header.step == step,
        |frame| words(frame)[0] += Fp61::ONE,
    );
    assert_eq!(lied, 3);
    world.outputs();
    for slot in [1, 2, 4] {
        let Ok(outcome) = &world.outcomes[&Slot(slot)] else { panic!() };
        assert_eq!(outcome.blamed.iter().copied().collect::<Vec<_>>(), [Slot(3)]);
    }
}

// --- kings and those who give them shares -----------------------------------------

/// Whoever is corrupt, the king, which changes what it heard, or node 2, which
/// gave it a wrong share: the king opens another word and tells all the same.
/// Nothing notices before the combination; with the check taken out, this fails.
#[test]
fn a_word_that_a_king_opens_wrong_for_all_is_caught_by_the_combination() {
    for roster in rosters() {
        let undisturbed = honest(roster, 11);
        let rounds = king_rounds(&undisturbed);
        let last = *rounds.last_key_value().unwrap().0;
        let mut lies = 0;
        for (step, round) in rounds {
            let kings = undisturbed.job.plan().kings(round).unwrap();
            let given = kings.given(Slot(1), Slot(2)).len();
            if given == 0 {
                continue;
            }
            let mut world = world(roster, 11);
            let hits = tamper(
                &mut world,
                move |f| {
                    f.header.kind == Kind::Gather
                        && f.header.from == Slot(2)
                        && f.header.to == Slot(1)
                        && f.header.step == step
                },
                |frame| *words(frame).last_mut().unwrap() += Fp61::ONE,
            );
            assert_eq!(hits, 1, "{roster}, step {step}");
            // The wrong word was spread to all, once, and the job went on with it.
            let (told, right) = [&world, &undisturbed].map(|w| bodies(w, Kind::Spread, 1, step + 1)).into();
            assert!(told.iter().all(|slice| *slice == told[0]) && told.len() == right.len());
            let differ: Vec<_> = (0..right[0].len()).filter(|i| told[0][*i] != right[0][*i]).collect();
            assert_eq!(differ, [given - 1], "{roster}, step {step}");
            let later = world.sent.iter().filter(|f| f.header.kind == Kind::Gather && f.header.step > step).count();
            assert!(later > 0 || step == last, "{roster}, step {step}: the job did not go on");
            for slot in world.slots() {
                assert_eq!(world.error(slot.0), &EngineError::CombinationFailed { check: 0 }, "{roster}, step {step}");
            }
            lies += 1;
        }
        assert!(lies > 1, "{roster}");
    }
}

/// Every place of a king's slice is covered, and every gatherer.
#[test]
fn every_gathered_share_counts() {
    let roster = shamir(4, 1);
    let undisturbed = honest(roster, 12);
    let (step, round) = king_rounds(&undisturbed).pop_first().unwrap();
    let kings = undisturbed.job.plan().kings(round).unwrap();
    let mut lies = 0;
    for (king, from) in (1..=4).flat_map(|king| (1..=4).map(move |from| (Slot(king), Slot(from)))) {
        for word in 1..=kings.given(king, from).len() {
            let mut world = world(roster, 12);
            let hits = tamper(
                &mut world,
                move |f| {
                    f.header.kind == Kind::Gather && (f.header.from, f.header.to, f.header.step) == (from, king, step)
                },
                move |frame| {
                    let at = words(frame).len() - word;
                    words(frame)[at] += Fp61::ONE;
                },
            );
            assert_eq!(hits, 1);
            assert_eq!(world.error(3), &EngineError::CombinationFailed { check: 0 }, "{from} to {king}, word {word}");
            world.assert_nothing_released(&[]);
            lies += 1;
        }
    }
    assert_eq!(lies, 2 * kings.words());
}

/// A king that tells one node another word: nothing that depends on it is ever
/// sent. With the comparison taken out, this fails.
#[test]
fn a_word_told_differently_to_one_node_ends_the_job_before_it_is_used() {
    for roster in rosters() {
        let undisturbed = honest(roster, 13);
        for (gather, round) in king_rounds(&undisturbed) {
            if undisturbed.job.plan().kings(round).unwrap().slice(Slot(1)).is_empty() {
                continue;
            }
            let step = gather + 1;
            let mut world = world(roster, 13);
            let hits = tamper(
                &mut world,
                move |f| {
                    f.header.kind == Kind::Spread
                        && f.header.from == Slot(1)
                        && f.header.to == Slot(2)
                        && f.header.step == step
                },
                |frame| words(frame)[0] += Fp61::ONE,
            );
            assert_eq!(hits, 1, "{roster}, step {step}");
            for slot in world.slots() {
                let error = world.error(slot.0);
                assert!(matches!(error, EngineError::Disagree { what: Kind::Agreed, .. }), "{roster}: {error}");
            }
            let after =
                world.sent.iter().filter(|f| f.header.kind != Kind::Segment && f.header.step > step + 1).count();
            assert_eq!(after, 0, "{roster}, step {step}: something was sent after the comparison failed");
        }
    }
}

/// The same, by a node that hides it: it tells each node the digest that this
/// node holds. The honest ones compare with each other.
#[test]
fn a_king_that_hides_what_it_told_whom_is_noticed_by_the_others() {
    let roster = shamir(4, 1);
    let step = king_rounds(&honest(roster, 14)).pop_first().unwrap().0 + 1;
    let mut world = world(roster, 14);
    let told = Rc::new(Cell::new(false));
    let (seen, digests) = (told.clone(), Rc::new(RefCell::new(BTreeMap::new())));
    let held = digests.clone();
    world.adversary = Box::new(move |frame| {
        let h = frame.header;
        if h.kind == Kind::Spread && h.from == Slot(1) && h.to == Slot(2) && h.step == step {
            words(frame)[0] += Fp61::ONE;
            seen.set(true);
        }
        if let (Kind::Agreed, Body::Digest(digest)) = (h.kind, &frame.body)
            && h.step == step + 1
        {
            held.borrow_mut().insert(h.from, *digest);
            // Held back until the receiver's own is known.
            if h.from == Slot(1) {
                return Verdict::Swallow;
            }
        }
        Verdict::Deliver
    });
    world.run();
    assert!(told.get());
    let digests = digests.borrow().clone();
    // Nodes 2, 3 and 4 have already compared among themselves.
    assert_ne!(digests[&Slot(2)], digests[&Slot(3)]);
    assert_eq!(digests[&Slot(3)], digests[&Slot(4)]);
    let frame = world.sent.iter().find(|f| f.header.kind == Kind::Agreed && f.header.from == Slot(1)).unwrap().clone();
    for to in [2, 3, 4] {
        let mut frame = frame.clone();
        frame.header.to = Slot(to);
        frame.body = Body::Digest(digests[&Slot(to)]);
        world.step(Slot(to), Event::Frame { from: Slot(1), frame });
    }
    for slot in [2, 3, 4] {
        assert!(matches!(world.error(slot), EngineError::Disagree { what: Kind::Agreed, .. }));
    }
    world.assert_nothing_released(&[1]);
    assert!(
        !world
            .sent
            .iter()
            .any(|f| f.header.from != Slot(1) && f.header.kind != Kind::Segment && f.header.step > step + 1)
    );
}

#[test]
fn a_node_that_lies_in_the_combination_is_noticed() {
    for roster in rosters() {
        for to in [None, Some(Slot(2))] {
            let mut world = world(roster, 15);
            let hits = tamper(
                &mut world,
                move |f| {
                    f.header.kind == Kind::Combined && f.header.from == Slot(1) && to.is_none_or(|to| f.header.to == to)
                },
                |frame| words(frame)[0] += Fp61::ONE,
            );
            assert_eq!(hits, if to.is_none() { usize::from(roster.nodes()) - 1 } else { 1 });
            let degree = roster.degree(roster.king_degree().unwrap());
            assert_eq!(world.error(2), &EngineError::Decode(DecodeError::Inconsistent { word: 0, degree }), "{roster}");
            world.assert_nothing_released(&[]);
        }
    }
}

/// A wrong word, and the share of the combination moved so that an interpolation
/// from it would hit: the other shares do not move with it.
#[test]
fn a_lie_cannot_be_made_up_for_in_the_combination() {
    let roster = shamir(4, 1);
    let step = king_rounds(&honest(roster, 16)).pop_first().unwrap().0;
    for moved in [1u64, 2, P - 1, 12345] {
        let mut world = world(roster, 16);
        let hits = tamper(
            &mut world,
            move |f| {
                let h = f.header;
                h.from == Slot(2)
                    && (h.kind == Kind::Combined || h.kind == Kind::Gather && h.to == Slot(1) && h.step == step)
            },
            move |frame| *words(frame).last_mut().unwrap() += Fp61::reduce(moved),
        );
        assert_eq!(hits, 1 + 3);
        for slot in [1, 3, 4] {
            assert!(matches!(world.error(slot), EngineError::Decode(DecodeError::Inconsistent { .. })));
        }
        world.assert_nothing_released(&[]);
    }
}

// --- the coin --------------------------------------------------------------------

#[test]
fn a_coin_told_differently_is_noticed_before_the_combination() {
    let mut world = world(shamir(4, 1), 17);
    let manifest = world.job.manifest().digest();
    let transcript = Cell::new([0; 32]);
    let hits = Rc::new(Cell::new(0));
    let counted = hits.clone();
    world.adversary = Box::new(move |frame| {
        if frame.header.from == Slot(1) {
            let point = CheckPoint { manifest, epoch: 0, view: 0, check: 0, transcript: transcript.get() };
            let (c, o) = Commitment::commit(&point, Purpose::Coin, Slot(1), [frame.header.to.0; 32], &[]);
            match (frame.header.kind, &frame.body) {
                (Kind::Freeze, Body::Digest(digest)) => transcript.set(*digest),
                (Kind::CoinCommit, _) => frame.body = Body::Digest(c.to_bytes()),
                (Kind::CoinOpen, _) => {
                    frame.body = Body::Opening(o);
                    counted.set(counted.get() + 1);
                }
                _ => {}
            }
        }
        Verdict::Deliver
    });
    world.run();
    assert_eq!(hits.get(), 3);
    for slot in [2, 3, 4] {
        assert!(matches!(world.error(slot), EngineError::Disagree { what: Kind::CoinAgree, .. }));
    }
    assert!(
        !world.sent.iter().any(|f| f.header.kind == Kind::Combined),
        "a combination left before the coin was agreed"
    );
    world.assert_nothing_released(&[]);
}

/// The batch is fixed before the coin is known, the coin agreed before a
/// combination leaves, and the record is on disk by then.
#[test]
fn nobody_combines_before_all_agree_on_the_coin() {
    for (held, kind) in [
        (Kind::Agreed, Kind::CoinOpen),
        (Kind::Freeze, Kind::CoinCommit),
        (Kind::CoinCommit, Kind::CoinOpen),
        (Kind::CoinAgree, Kind::Combined),
        (Kind::Combined, Kind::Passed),
    ] {
        let mut world = world(shamir(3, 1), 18);
        let hits = Rc::new(Cell::new(0));
        let counted = hits.clone();
        world.adversary = Box::new(move |frame| {
            if frame.header.from == Slot(1) && frame.header.kind == held {
                counted.set(counted.get() + 1);
                return Verdict::Swallow;
            }
            Verdict::Deliver
        });
        world.run();
        assert_eq!(hits.get(), 2);
        assert!(
            !world.sent.iter().any(|f| f.header.kind == kind && f.header.from != Slot(1)),
            "{kind} in spite of {held}"
        );
        let token = world.sent.iter().filter(|f| f.header.kind == held).map(|f| f.header.step).max().unwrap();
        world.step(Slot(2), Event::Deadline { token, last: true });
        assert_eq!(world.error(2), &EngineError::Silent { missing: vec![Slot(1)], kind: held });
        world.assert_nothing_released(&[]);
    }
    let world = honest(shamir(3, 1), 18);
    for slot in world.slots() {
        let records = &world.records[&slot];
        let at = |record| records.iter().position(|r| *r == record).unwrap();
        assert!(at(Record::CheckOpened { check: 0 }) < at(Record::CheckPassed { check: 0 }));
    }
}

/// A disk that never answers keeps shares and combinations inside.
#[test]
fn nothing_leaves_before_its_record_is_on_disk() {
    let is_cursor = |record: &Record| matches!(record, Record::Cursor { .. });
    for (cursor, kind, before) in [(true, Kind::Gather, Kind::Agree), (false, Kind::Combined, Kind::CoinAgree)] {
        let mut world = world(shamir(4, 1), 24);
        world.start();
        while let Some((to, event)) = world.queue.pop_front() {
            let last = world.records.get(&to).and_then(|records| records.last());
            if matches!(event, Event::Persisted { .. }) && last.is_some_and(|record| is_cursor(record) == cursor) {
                continue;
            }
            world.step(to, event);
        }
        assert!(world.sent.iter().any(|f| f.header.kind == before));
        assert!(!world.sent.iter().any(|f| f.header.kind == kind), "{kind} without its record");
    }
}

/// A silent king ends the job at the deadline, and is named.
#[test]
fn a_silent_king_is_named() {
    for kind in [Kind::Gather, Kind::Spread, Kind::Agreed] {
        let mut world = world(shamir(4, 1), 19);
        world.adversary = Box::new(move |frame| match frame.header {
            h if h.from == Slot(3) && h.kind == kind => Verdict::Swallow,
            _ => Verdict::Deliver,
        });
        world.run();
        let token = world.sent.iter().filter(|f| f.header.kind == kind).map(|f| f.header.step).max().unwrap();
        world.step(Slot(1), Event::Deadline { token, last: true });
        assert_eq!(world.error(1), &EngineError::Silent { missing: vec![Slot(3)], kind });
        world.assert_nothing_released(&[]);
    }
}

// --- checks in between --------------------------------------------------------------

/// A world whose plan checks after every round of kings.
fn often_checked(roster: Roster, seed: u64) -> World<'static> {
    let mut world = world(roster, seed);
    let mut plan = Plan::clone(world.job.plan());
    plan.rounds.iter_mut().for_each(|round| round.check = round.king);
    let plan = Arc::new(plan);
    for slot in world.slots() {
        let SlotKeys::Shamir(keys) = world.job.dealer().slot_keys(slot) else { panic!() };
        let (manifest, owner) = (world.job.manifest().digest(), world.owner.public());
        let job = Job { plan: Arc::clone(&plan), manifest, owner, attempts: 1, attempt: 0, inputs: world.job_inputs() };
        let rng = Entropy::insecure_from_seed(seed).generator(&[b"often", &[slot.0]]).unwrap();
        let sharing = Shamir::new(roster, slot, keys, Cpu).unwrap();
        world.parties[slot.index()] = Box::new(Engine::new(job, sharing, rng).unwrap());
    }
    world
}

#[test]
fn checks_in_between_cover_what_waits_and_nothing_twice() {
    for roster in rosters() {
        let (mut often, once) = (often_checked(roster, 20), honest(roster, 20));
        often.run();
        assert_eq!(often.outputs(), once.outputs(), "{roster}");
        let rounds = king_rounds(&once).len() as u32;
        let Ok(outcome) = &often.outcomes[&Slot(1)] else { panic!() };
        assert_eq!(outcome.passed.checks(), rounds + 1);
        // A lie of the first round is caught before the second begins.
        let step = king_rounds(&once).pop_first().unwrap().0;
        let mut often = often_checked(roster, 20);
        let hits = tamper(
            &mut often,
            move |f| {
                f.header.kind == Kind::Gather
                    && f.header.from == Slot(2)
                    && f.header.to == Slot(1)
                    && f.header.step == step
            },
            |frame| *words(frame).last_mut().unwrap() += Fp61::ONE,
        );
        assert_eq!(hits, 1);
        for slot in often.slots() {
            assert_eq!(often.error(slot.0), &EngineError::CombinationFailed { check: 0 }, "{roster}");
        }
        assert!(!often.sent.iter().any(|f| f.header.kind == Kind::Gather && f.header.step > step));
        // One of the last round by the last check but one, which comes with it.
        let often = || often_checked(roster, 20);
        let mut undisturbed = often();
        undisturbed.run();
        let step = king_rounds(&undisturbed).pop_last().unwrap().0 + 1;
        let mut world = often();
        let hits = tamper(
            &mut world,
            move |f| {
                f.header.kind == Kind::Spread
                    && f.header.from == Slot(1)
                    && f.header.to == Slot(2)
                    && f.header.step == step
            },
            |frame| words(frame)[0] += Fp61::ONE,
        );
        assert_eq!(hits, 1);
        world.assert_nothing_released(&[]);
    }
}

// --- frames ---------------------------------------------------------------------------

#[test]
fn words_of_another_length_name_their_sender() {
    for roster in [shamir(4, 1), shamir(3, 1)] {
        for kind in [Kind::Gather, Kind::Spread, Kind::Combined] {
            for grow in [false, true] {
                let mut world = world(roster, 21);
                let hits = tamper(
                    &mut world,
                    move |f| f.header.kind == kind && f.header.from == Slot(3) && f.header.to == Slot(2),
                    move |frame| {
                        let words = words(frame);
                        words.truncate(words.len() - usize::from(!grow));
                        words.extend(grow.then_some(Fp61::ZERO));
                    },
                );
                assert!(hits > 0);
                let error = world.error(2);
                let named = matches!(error, EngineError::KingWords { from: Slot(3), kind: k, .. } if *k == kind);
                assert!(named, "{roster}, {kind}: {error}");
                world.assert_nothing_released(&[]);
            }
        }
    }
}

#[test]
fn bytes_that_are_no_frames_of_kings_are_refused() {
    let world = honest(shamir(4, 1), 22);
    for kind in [Kind::Gather, Kind::Spread, Kind::Combined] {
        let holds_words = |f: &&Frame| f.header.kind == kind && matches!(&f.body, Body::Words(w) if !w.is_empty());
        let frame = world.sent.iter().find(holds_words).unwrap();
        for word in [P, P + 1, u64::MAX] {
            let mut bytes = frame.encode();
            let at = bytes.len() - 8;
            bytes[at..].copy_from_slice(&word.to_le_bytes());
            assert!(matches!(Frame::decode(&bytes), Err(FrameError::Word(_))), "{kind}, {word:#x}");
        }
        let bytes = frame.encode();
        assert!(Frame::decode(&bytes[..bytes.len() - 1]).is_err());
    }
    let frame = world.sent.iter().find(|f| f.header.kind == Kind::Agreed).unwrap();
    let mut bytes = frame.encode();
    bytes.push(0);
    assert!(matches!(Frame::decode(&bytes), Err(FrameError::Length { kind: Kind::Agreed, .. })));
    bytes[48] = 17;
    assert_eq!(Frame::decode(&bytes).err(), Some(FrameError::Kind { found: 17 }));
}

/// A frame of the round before, of another kind in its step, of another receiver.
#[test]
fn frames_of_kings_from_elsewhere_are_refused() {
    let undisturbed = honest(shamir(4, 1), 23);
    let steps: Vec<_> = king_rounds(&undisturbed).into_keys().collect();
    let sent = |kind, to, step| {
        let is = |f: &&Frame| {
            let h = f.header;
            (h.kind, h.from, h.to, h.step) == (kind, Slot(1), to, step)
        };
        undisturbed.sent.iter().find(is).unwrap().clone()
    };
    for (i, kind) in [Kind::Gather, Kind::Spread, Kind::Agreed].into_iter().enumerate() {
        let step = steps[1] + i as u32;
        let other_kind =
            Frame { header: sent(kind, Slot(2), step).header, ..sent(Kind::Spread, Slot(2), steps[1] + 1) };
        let as_opening =
            Frame { header: crate::engine::frame::Header { kind: Kind::Opening, ..other_kind.header }, ..other_kind };
        let replayed = sent(kind, Slot(2), steps[0] + i as u32);
        let of_another = sent(kind, Slot(3), step);
        for (field, wrong) in [("step", replayed), ("receiver", of_another), ("kind", as_opening)] {
            let mut world = world(shamir(4, 1), 23);
            let hits = tamper(
                &mut world,
                move |f| {
                    f.header.kind == kind && f.header.from == Slot(1) && f.header.to == Slot(2) && f.header.step == step
                },
                move |frame| *frame = wrong.clone(),
            );
            assert_eq!(hits, 1);
            world.assert_nothing_released(&[]);
            if field == "step" {
                // A frame of the past takes no place: node 2 waits, and the others for it.
                assert!(world.outcomes.is_empty());
                continue;
            }
            let error = world.error(2);
            let named = matches!(error, EngineError::Misplaced { from: Slot(1), field: f, .. } if *f == field);
            assert!(named, "{kind}, {field}: {error}");
        }
    }
}
