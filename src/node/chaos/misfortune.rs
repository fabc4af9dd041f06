//! What befalls a run, drawn from its seed.

use std::collections::BTreeSet;

use super::{Case, Chaos};
use crate::program::random::Choices;
use crate::roster::Slot;

/// A run's misfortunes, and whether the job must get over them.
pub(super) fn misfortune(case: &Case, seed: u64) -> (Chaos, bool) {
    let choices = &mut Choices(seed);
    let plan = case.job.plan();
    let (n, t) = (usize::from(plan.roster.nodes()), usize::from(plan.roster.threshold()));
    let (all, spares) = (case.keys.len(), case.keys.len() - n);
    let mut chaos = Chaos::default();
    let slot = |choices: &mut Choices| Slot(1 + choices.below(all) as u8);
    let rarely = |choices: &mut Choices| if choices.below(3) == 0 { 20 + choices.below(100) as u64 } else { 0 };
    (chaos.late, chaos.doubled, chaos.dropped) = (rarely(choices), rarely(choices), rarely(choices));
    for _ in 0..choices.below(6) {
        let (a, b) = (slot(choices), slot(choices));
        if a != b {
            chaos.cuts.push((choices.below(4000) as u64, a, b));
        }
    }
    if choices.below(4) == 0 {
        let (from, parted) =
            (choices.below(4000) as u64, (0..1 + choices.below(n - 1)).map(|_| slot(choices)).collect());
        chaos.parted.push((from, from + 1 + choices.below(60_000) as u64, parted));
    }
    let (mut lost, mut early) = (BTreeSet::new(), false);
    for _ in 0..choices.below(5) {
        // In the course of it, seldom before the owner has sent everything; where there are
        // spares also while one of them takes over.
        let at = match choices.below(10) {
            0 => choices.below(1000),
            1..=4 if spares > 0 => 20_000 + choices.below(60_000),
            _ => 1000 + choices.below(6000),
        };
        let victim = slot(choices);
        let back = (choices.below(if spares > 0 { 3 } else { 6 }) > 0).then(|| 1 + choices.below(40_000) as u64);
        early |= at < 1000;
        if back.is_none() {
            lost.insert(victim);
        }
        chaos.kills.push((at as u64, victim, back));
    }
    if n > 4 * t && choices.below(3) == 0 {
        chaos.corrupt.push(slot(choices));
    }
    // A liar may have to be corrected, for which all others are needed.
    let spare = if chaos.corrupt.is_empty() { plan.spare() } else { 0 };
    let killed: BTreeSet<Slot> = chaos.kills.iter().map(|(_, slot, _)| *slot).collect();
    let parted: BTreeSet<Slot> = chaos.parted.iter().flat_map(|(_, _, slots)| slots.iter().copied()).collect();
    let node = |slot: &&Slot| plan.roster.has(**slot);
    // A node that is away for long may be replaced, and what it knew is lost.
    let away = &killed | &parted;
    let know = n - chaos.corrupt.iter().chain(&away).filter(node).collect::<BTreeSet<_>>().len();
    // Else, whatever they have forgotten: those who know more go back for them.
    let known = spares == 0 || know > t;
    // One node that is lost alone is replaced; votes on more may be split.
    let replaced = chaos.corrupt.is_empty() && spares > 0 && away.len() == 1 && away.iter().all(|slot| node(&slot));
    let must = plan.replays() && !early && (lost.len() <= spare || replaced) && known;
    // Drawn last, so that what befalls the jobs of a seed stays what it was.
    chaos.every = choices.below(4);
    if case.job.manifest().has_attempts() {
        with_attempts(case, seed, &mut chaos);
    }
    (chaos, must)
}

/// What befalls jobs with several attempts besides.
fn with_attempts(case: &Case, seed: u64, chaos: &mut Chaos) {
    // Each is written; the engine makes those that the plan has.
    chaos.every = 1;
    let choices = &mut Choices(seed ^ 0x7265_7375_6d65);
    for _ in 0..choices.below(6) {
        let whole = case.agents().len() * (case.segments.len() + 1);
        let messages = if choices.below(3) == 0 { choices.below(whole) } else { whole };
        chaos.resumes.push((2000 + choices.below(400_000) as u64, messages));
    }
    // Where few are dealt, more processes are killed, late ones too, and all come back.
    let few = case.job.manifest().manifest().attempts == 2;
    chaos.kills.iter_mut().filter(|_| few).for_each(|kill| kill.2 = kill.2.or(Some(20_000)));
    for _ in 0..if few { choices.below(5) } else { 0 } {
        let late = choices.below(2) == 0;
        let at = 3000 + choices.below(if late { 400_000 } else { 9_000 });
        let victim = Slot(1 + choices.below(case.agents().len()) as u8);
        chaos.kills.push((at as u64, victim, Some(1 + choices.below(40_000) as u64)));
    }
}
