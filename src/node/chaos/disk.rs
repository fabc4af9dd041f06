//! Nodes that are killed, and whose disk somebody changes before they come back.

use super::*;
use crate::field::Fp61;
use crate::field::slice::decode_words;
use crate::node::checkpoints::{Checkpoints, KEPT};
use crate::transcript::Transcript;

/// What happens to the disk of the node that is killed, and that of another node.
type Attack = fn(&Case, &Keep, &Keep);

/// Kills a node once it has two checkpoints, or some time later, and changes its disk before it comes
/// back; whether it began at a checkpoint then. In any case it ends with the right result.
fn attacked(case: &mut Case, seed: u64, attack: Attack) -> bool {
    let mut world = World::new(case, seed, Chaos { every: 1, ..Chaos::default() });
    let mut wait = Some(2 * (seed - 1));
    while world.goes_on() {
        let Some(left) = wait.filter(|_| world.keep(VICTIM).checkpoint(KEPT - 1).unwrap().is_some()) else {
            continue;
        };
        wait = left.checked_sub(1);
        if wait.is_none() {
            assert!(world.nodes[VICTIM.index()].session.is_some(), "it was done before");
            // Nothing that it wrote is lost.
            world.nodes[VICTIM.index()].store.sync(world.case.nonce()).unwrap();
            world.kill(VICTIM, None);
            world.changed = Some(VICTIM);
            attack(world.case, &world.keep(VICTIM), &world.keep(Slot(3)));
            world.at(1 + 100 * (seed % 5), Happening::Restart(VICTIM));
        }
    }
    assert_eq!(wait, None, "it was not killed");
    world.judge(true);
    world.tally.restored > 0
}

fn of(case: &Case, keep: &Keep, slot: Slot) -> Checkpoints {
    let key = &case.keys[slot.index()];
    Checkpoints::new(keep.clone(), key, case.job.manifest().digest(), slot)
}

fn rounds(case: &Case, keep: &Keep) -> Vec<usize> {
    let good = of(case, keep, VICTIM).open(case.job.plan()).unwrap();
    good.iter().map(|checkpoint| checkpoint.round()).collect()
}

/// The place of the newest one.
fn newest(case: &Case, keep: &Keep) -> Option<u64> {
    assert!(rounds(case, keep).len() <= KEPT as usize);
    places(keep).last().map(|(place, _)| *place)
}

/// All checkpoints with their places, the oldest first.
pub(super) fn places(keep: &Keep) -> Vec<(u64, Vec<u8>)> {
    let mut held: Vec<_> = (0..KEPT).filter_map(|place| Some((place, keep.checkpoint(place).unwrap()?))).collect();
    held.sort_by_key(|(_, bytes)| u32::from_le_bytes(bytes[1..5].try_into().unwrap()));
    held
}

/// Runs the attack at several moments: at how many, and at how many of them the node began at
/// a checkpoint in spite of it.
fn outlived(attack: Attack) -> (usize, usize) {
    let mut case = case("(5, 1), long", Roster::shamir(5, 1).unwrap(), 0, 8, 0);
    let runs = 1..=12;
    (12, runs.filter(|seed| attacked(&mut case, *seed, attack)).count())
}

#[test]
fn a_killed_node_begins_at_its_checkpoint() {
    let (runs, restored) = outlived(|_, _, _| {});
    assert!(restored > runs / 2, "{restored} of {runs}");
}

/// The newest one does not open: the earlier one does.
#[test]
fn a_changed_checkpoint_is_passed_over() {
    let (runs, restored) = outlived(|case, own, _| {
        let Some(place) = newest(case, own) else { return };
        let before = rounds(case, own);
        let mut bytes = own.checkpoint(place).unwrap().unwrap();
        let last = bytes.len() - 20;
        bytes[last] ^= 1;
        own.put_checkpoint(place, &bytes).unwrap();
        assert_eq!(rounds(case, own), before[..before.len() - 1]);
    });
    assert!(restored > runs / 2, "{restored} of {runs}");
}

/// Of another slot, and this node's own under another round: neither opens, and peers tell the rest.
#[test]
fn without_a_good_checkpoint_it_begins_at_the_beginning() {
    let (_, restored) = outlived(|case, own, other| {
        let Some(place) = newest(case, own) else { return };
        let mut renamed = own.checkpoint(place).unwrap().unwrap();
        renamed[1] += 1;
        let theirs = newest(case, other).map_or_else(Vec::new, |place| other.checkpoint(place).unwrap().unwrap());
        own.put_checkpoint(0, &renamed).unwrap();
        own.put_checkpoint(1, &theirs).unwrap();
        assert!(rounds(case, own).is_empty());
    });
    assert_eq!(restored, 0);
}

/// An old one in the place of both is one of this node's own: it only takes longer.
#[test]
fn an_old_checkpoint_costs_time_alone() {
    let (runs, restored) = outlived(|case, own, _| {
        let Some(place) = newest(case, own) else { return };
        let Some(older) = own.checkpoint(1 - place).unwrap() else { return };
        own.put_checkpoint(place, &older).unwrap();
    });
    assert!(restored > runs / 2, "{restored} of {runs}");
}

/// Then it is the checkpoint that others confirm.
#[test]
fn a_changed_log_does_not_cost_the_checkpoint() {
    let changed: Attack = |case, own, _| {
        let end = own.log_end(case.job.plan().opening_rounds()).unwrap();
        for round in end.saturating_sub(3)..end {
            let (mut transcript, bytes) = own.words(round).unwrap().unwrap();
            transcript[0] ^= 1;
            own.put_words(round, &transcript, &decode_words(&bytes).unwrap()).unwrap();
        }
    };
    let (runs, restored) = outlived(changed);
    assert!(restored > runs / 3, "{restored} of {runs}");
}

/// One word of the log, in the middle.
fn change_a_word(keep: &Keep, plan: &Plan) -> bool {
    let end = keep.log_end(plan.opening_rounds()).unwrap();
    let Some(round) = (end / 2).checked_sub(1) else { return false };
    let (transcript, mut words) = keep.words(round).unwrap().unwrap();
    words[0] ^= 1;
    keep.put_words(round, &transcript, &decode_words(&words).unwrap()).unwrap();
    true
}

/// A word that is none, or none at all.
fn spoil_a_word(keep: &Keep, plan: &Plan) -> bool {
    let end = keep.log_end(plan.opening_rounds()).unwrap();
    let Some(round) = (end / 2).checked_sub(1) else { return false };
    let (transcript, mut words) = keep.words(round).unwrap().unwrap();
    match end % 2 {
        0 => words[7] |= 0xe0,
        _ => words.clear(),
    }
    keep.put_spoilt(round, &transcript, &words);
    true
}

/// One word of the log, and all transcripts from there on, so that they fit.
fn forge(keep: &Keep, plan: &Plan) -> bool {
    let end = keep.log_end(plan.opening_rounds()).unwrap();
    let from = end.saturating_sub(4);
    if from == 0 {
        return false;
    }
    let mut transcript = Transcript::resumed(keep.words(from - 1).unwrap().unwrap().0);
    for round in from..end {
        let (before, words) = keep.words(round).unwrap().unwrap();
        let mut words = decode_words(&words).unwrap();
        let absorb = |mut transcript: Transcript, words: &[Fp61]| {
            let mut rest = words;
            let batch = plan.openings(round).map(|(prim, degree, len)| {
                let first = rest.split_off(..len).unwrap();
                (prim, 0, degree, first)
            });
            transcript.absorb_batch(round as u32, batch);
            transcript
        };
        if round == from {
            assert_eq!(absorb(transcript.clone(), &words).digest(), before, "this is how a log is made");
            words[0] += Fp61::ONE;
        }
        transcript = absorb(transcript, &words);
        keep.put_words(round, &transcript.digest(), &words).unwrap();
    }
    true
}

/// What a node says is in the ledgers, so that a share of other words would be noticed.
#[test]
fn a_log_that_was_changed_on_disk_is_not_spoken_from() {
    let mut case = case("(5, 1), long", Roster::shamir(5, 1).unwrap(), 0, 8, 0);
    for damage in [change_a_word as Damage, spoil_a_word, forge] {
        let mut sum = Tally::default();
        for seed in 1..40 {
            let kills = vec![(1000 + 50 * seed, Slot(1 + (seed % 5) as u8), Some(3000))];
            let mut world = World::new(&mut case, seed, Chaos { kills, ..Chaos::default() });
            world.damage = Some(damage);
            world.run();
            world.judge(true);
            sum = sum + world.tally;
        }
        assert!(sum.damaged > 10, "{sum:?}");
    }
}
