//! What is alive between two rounds of a plan, and before which rounds a node does well to
//! keep it on disk (docs/protocols.md, 16, checkpoints).
//!
//! Under Shamir, where to is each node's own affair: nothing here enters the plan's digest or a
//! message. Under SPDZ a checkpoint stands behind a check, which is part of the plan. Like all of a plan's costs this is counted, not measured; the rates of writing and
//! of making rounds again are estimates, which nothing has been fitted to yet.

use std::collections::BTreeSet;

use super::cost::{MATRIX_MULTIPLY_ADDS_PER_SECOND, MULTIPLY_ADDS_PER_SECOND, WORDS_PER_SECOND};
use super::plan::{Plan, Prim, Pub, Round, Sec};
use super::planning::Planning;
use crate::roster::Scheme;

/// Seconds of a checkpoint that holds nothing: a record on disk, made durable.
const SECONDS: f64 = 1e-2;
/// Bytes of a checkpoint that are read from registers, sealed and written, per second.
const BYTES_PER_SECOND: f64 = 1.5e8;
/// Seconds of a round that is made again, whatever it computes: its words are read, hashed and loaded.
const SECONDS_PER_ROUND: f64 = 1e-4;
/// The most that checkpoints may take of the computing that they save.
const SHARE: f64 = 0.03;
/// Computing that is not worth a checkpoint, in seconds.
const LEAST: f64 = 1.0;
/// Exchanges of an SPDZ check.
const CHECK_EXCHANGES: f64 = 7.0;

/// The registers that are alive between two rounds, each with its length, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Live {
    /// shared words
    pub secrets: Vec<(Sec, u64)>,
    /// opened words and what was made of them
    pub publics: Vec<(Pub, u64)>,
    /// constants of the program, which everybody has
    pub constants: BTreeSet<Pub>,
    words_per_share: u64,
}

impl Live {
    /// Words of shares and of opened words.
    pub fn words(&self) -> u64 {
        let shares = self.secrets.iter().map(|x| x.1).sum::<u64>() * self.words_per_share;
        shares + self.publics.iter().map(|p| p.1).sum::<u64>()
    }
}

impl Plan {
    /// What is alive before a round. Registers of packed bits are none of it; under SPDZ what
    /// [`Plan::begun`] draws is.
    pub fn live(&self, round: usize) -> Live {
        let (mut secret, mut public) = (vec![false; self.sec_lens.len()], vec![false; self.pub_lens.len()]);
        let mut constants = BTreeSet::new();
        for round in &self.rounds[..round] {
            for prim in self.steps(round) {
                prim.written_sec().for_each(|x| secret[x.0 as usize] = true);
                match (prim, prim.written_pub()) {
                    (Prim::Constant { .. }, Some(out)) => drop(constants.insert(out)),
                    (_, out) => out.into_iter().for_each(|p| public[p.0 as usize] = true),
                }
            }
            round.free_sec.iter().for_each(|x| secret[x.0 as usize] = false);
            for p in &round.free_pub {
                public[p.0 as usize] = false;
                constants.remove(p);
            }
        }
        if self.roster.scheme() == Scheme::Spdz {
            let begun = self.begun(round).into_iter().flat_map(|i| self.prims[i as usize].written_sec());
            begun.for_each(|x| secret[x.0 as usize] = true);
        }
        let registers = |lens: &[usize], alive: Vec<bool>| -> Vec<(u32, u64)> {
            let all = (0..).zip(lens).zip(alive);
            all.filter(|(_, alive)| *alive).map(|((number, len), _)| (number, *len as u64)).collect()
        };
        Live {
            secrets: registers(&self.sec_lens, secret).into_iter().map(|(x, len)| (Sec(x), len)).collect(),
            publics: registers(&self.pub_lens, public).into_iter().map(|(p, len)| (Pub(p), len)).collect(),
            constants,
            words_per_share: self.words_per_share(),
        }
    }

    /// The rounds before which a node does well to keep what it computes, ascending; none where a
    /// party cannot be made again ([`Plan::replays`]) or that takes no time. Under SPDZ all of them
    /// stand behind checks that the plan has, at [clean cuts](Plan::clean_cuts).
    ///
    /// A checkpoint takes at most 3 % of the computing since the one before it. Once that
    /// holds somewhere, the place is the one where least is alive within as much computing again.
    pub fn checkpoints(&self) -> Vec<usize> {
        match self.roster.scheme() {
            Scheme::Shamir if self.replays() => self.propose(|_| true, 0.0),
            Scheme::Shamir => Vec::new(),
            Scheme::Spdz => {
                let clean = self.clean_cuts();
                self.propose(|round| clean[round] && self.rounds[round - 1].check, 0.0)
            }
        }
    }

    /// Where an SPDZ plan is to have checks for the sake of checkpoints behind them.
    pub(super) fn checks_for_checkpoints(&self, planning: Planning) -> Vec<usize> {
        let clean = self.clean_cuts();
        self.propose(|round| clean[round], CHECK_EXCHANGES * f64::from(planning.latency_us) / 1e6)
    }

    /// The best of the rounds that may have a checkpoint, each with so many seconds of its own.
    fn propose(&self, may: impl Fn(usize) -> bool, seconds: f64) -> Vec<usize> {
        #[cfg(test)]
        if tests::EAGER.get() {
            return (1..self.opening_rounds()).filter(|round| may(*round)).collect();
        }
        let (words, before) = (self.words_between(), self.work_before());
        let end = before[self.opening_rounds()];
        let (mut rounds, mut last) = (Vec::new(), 0);
        let least = |round: usize| ((checkpoint_seconds(words[round]) + seconds) / SHARE).max(LEAST);
        let due = |last: usize, round: usize| may(round) && before[round] - before[last] >= least(round);
        while let Some(first) = (last + 1..self.opening_rounds()).find(|round| due(last, *round)) {
            let until = 2.0 * before[first] - before[last];
            let near =
                (first..self.opening_rounds()).take_while(|round| before[*round] <= until).filter(|round| may(*round));
            last = near.min_by_key(|round| words[*round]).unwrap_or(first);
            // What comes after it is made again as fast.
            if end - before[last] >= LEAST {
                rounds.push(last);
            }
        }
        rounds
    }

    /// Words alive before each round.
    fn words_between(&self) -> Vec<u64> {
        let shares = self.words_per_share();
        let secret = |x: &Sec| self.sec_lens[x.0 as usize] as u64 * shares;
        let mut constants = BTreeSet::new();
        let spdz = self.roster.scheme() == Scheme::Spdz;
        let begun = if spdz { self.begun_words() } else { vec![0; self.rounds.len()] };
        let (mut live, mut words) = (0u64, Vec::with_capacity(self.rounds.len()));
        for (round, begun) in self.rounds.iter().zip(begun) {
            words.push(live + begun);
            for prim in self.steps(round) {
                live += prim.written_sec().map(|x| secret(&x)).sum::<u64>();
                match (prim, prim.written_pub()) {
                    (Prim::Constant { .. }, Some(out)) => drop(constants.insert(out)),
                    (_, out) => live += out.map_or(0, |p| self.pub_lens[p.0 as usize] as u64),
                }
            }
            live -= round.free_sec.iter().map(secret).sum::<u64>();
            let opened = round.free_pub.iter().filter(|p| !constants.contains(p));
            live -= opened.map(|p| self.pub_lens[p.0 as usize] as u64).sum::<u64>();
        }
        words
    }

    /// Seconds of computing before each round.
    fn work_before(&self) -> Vec<f64> {
        let work = |round: &Round| {
            let of = |prim: &Prim| {
                let (elementwise, products) = self.work(prim);
                self.expansion(prim) as f64 / WORDS_PER_SECOND
                    + elementwise as f64 / MULTIPLY_ADDS_PER_SECOND
                    + products as f64 / MATRIX_MULTIPLY_ADDS_PER_SECOND
            };
            SECONDS_PER_ROUND + self.steps(round).map(of).sum::<f64>()
        };
        let mut sum = 0.0;
        let mut before = |round| {
            let next = sum + work(round);
            std::mem::replace(&mut sum, next)
        };
        self.rounds.iter().map(&mut before).collect()
    }
}

fn checkpoint_seconds(words: u64) -> f64 {
    SECONDS + 8.0 * words as f64 / BYTES_PER_SECOND
}

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::program::{Builder, Comparisons, LONG_JOB, Openings, Planning, Program, Tensor, Type, random};
    use crate::roster::Roster;

    thread_local! {
        /// every round that may have a checkpoint has one
        pub(crate) static EAGER: Cell<bool> = const { Cell::new(false) };
    }

    /// Plans with a check and a checkpoint wherever there may be one, however short the job is.
    pub(crate) fn eager<T>(plan: impl FnOnce() -> T) -> T {
        EAGER.set(true);
        let planned = plan();
        EAGER.set(false);
        planned
    }

    fn planning() -> Planning {
        Planning { comparisons: Comparisons::Digits, openings: Openings::AllToAll, ..Planning::default() }
    }

    /// Products of a matrix with itself, each of which dies in the next iteration, beside some words.
    fn training(n: usize, iterations: u32) -> Program {
        let b = Builder::new();
        let x = b.input("x", "alice", Type::fixed(-1.0..=1.0), [n, n]);
        let w = b.input("w", "alice", Type::fixed(-1.0..=1.0), [n, n]);
        let (ends, _) = b.repeat(iterations, std::slice::from_ref(&w), |_, state| {
            let forward = x.matmul(&state[0]);
            let back = x.matmul(&forward.declare("forward", -1.0..=1.0).relu());
            (vec![back.declare("state", -1.0..=1.0)], vec![])
        });
        b.output("w", "alice", &ends[0]);
        b.finish().unwrap()
    }

    #[test]
    fn what_is_alive_is_counted_alike_in_both_ways() {
        for (seed, spdz) in (0..20).flat_map(|seed| [(seed, false), (seed, true)]) {
            let roster = if spdz { Roster::spdz(3) } else { Roster::shamir(5, 1) }.unwrap();
            let plan = random::program(seed, 12).plan_with(roster, planning()).unwrap();
            let words = plan.words_between();
            for (round, words) in words.iter().enumerate() {
                assert_eq!(plan.live(round).words(), *words, "seed {seed}, round {round}");
            }
        }
    }

    #[test]
    fn checkpoints_take_their_share_at_most_and_lie_where_little_is_alive() {
        // The state of one takes a second of computing to be worth it, that of the other more.
        for (n, iterations) in [(100, 600), (500, 40)] {
            let plan = training(n, iterations).plan_with(Roster::shamir(5, 1).unwrap(), planning()).unwrap();
            let (words, before, rounds) = (plan.words_between(), plan.work_before(), plan.checkpoints());
            assert!(rounds.len() > 1, "{rounds:?}");
            // In the middle of the training: between two iterations nothing of a comparison is alive.
            let least = words[10..words.len() - 10].iter().min().unwrap();
            assert!(words[10..words.len() - 10].iter().any(|words| words > least));
            for (from, to) in [0].iter().chain(&rounds).zip(&rounds) {
                let seconds = before[*to] - before[*from];
                assert!(checkpoint_seconds(words[*to]) <= SHARE * seconds && seconds >= LEAST);
                assert_eq!(words[*to], *least, "before round {to}");
            }
        }
    }

    #[test]
    fn short_jobs_and_those_that_cannot_go_on_have_none() {
        assert!(training(10, 3).plan_with(Roster::shamir(5, 1).unwrap(), planning()).unwrap().checkpoints().is_empty());
        let long = training(100, 600);
        let king = Planning { openings: Openings::King, ..planning() };
        assert!(long.plan_with(Roster::shamir(4, 1).unwrap(), king).unwrap().checkpoints().is_empty());
    }

    #[test]
    fn long_jobs_are_planned_so_that_killed_processes_come_back() {
        let roster = Roster::shamir(4, 1).unwrap();
        // Kings and packed bits pay where the uplink is thin.
        let thin = Planning { latency_us: 1_000, bandwidth_kbit: 1_000, ..Planning::default() };
        let planned = |iterations, planning| {
            let b = Builder::new();
            let w = b.input("w", "alice", Type::fixed(-1.0..=1.0), [100, 100]);
            let product = |state: &Tensor| (vec![w.matmul(state).declare("state", -1.0..=1.0)], vec![]);
            let (ends, _) = b.repeat(iterations, std::slice::from_ref(&w), |_, states| product(&states[0]));
            b.output("w", "alice", &ends[0]);
            let plan = b.finish().unwrap().plan_with(roster, planning).unwrap();
            let seconds = plan.cost().seconds(thin.latency(), thin.bandwidth());
            (plan.replays(), seconds > LONG_JOB.as_secs_f64())
        };
        assert_eq!(planned(2, thin), (false, false));
        assert_eq!(planned(400, thin), (true, true));
        assert_eq!(planned(400, Planning { openings: Openings::King, ..thin }), (false, true), "as it was asked for");
        // Material by digits would take longer to send than the job to begin again.
        let b = Builder::new();
        let x = b.input("x", "alice", Type::int(-(1 << 30)..=(1 << 30)), [400_000]);
        b.output("larger", "alice", &x.ge0());
        let plan = b.finish().unwrap().plan_with(roster, thin).unwrap();
        assert!(!plan.replays() && plan.cost().seconds(thin.latency(), thin.bandwidth()) > LONG_JOB.as_secs_f64());
    }

    #[test]
    fn checks_of_long_spdz_jobs_stand_where_checkpoints_pay() {
        let roster = Roster::spdz(3).unwrap();
        let plan = training(100, 600).plan_with(roster, planning()).unwrap();
        let (rounds, clean, before) = (plan.checkpoints(), plan.clean_cuts(), plan.work_before());
        assert!(rounds.len() > 1, "{rounds:?}");
        assert!(rounds.iter().all(|round| clean[*round] && plan.rounds[round - 1].check));
        for (from, to) in [0].iter().chain(&rounds).zip(&rounds) {
            assert!(before[*to] - before[*from] >= LEAST, "before round {to}");
        }
        // The check is counted with those that would not be there without.
        let waits = CHECK_EXCHANGES * f64::from(planning().latency_us) / 1e6;
        let added = plan.checks_for_checkpoints(planning());
        for (from, to) in [0].iter().chain(&added).zip(&added) {
            assert!(before[*to] - before[*from] >= waits / SHARE, "before round {to}");
        }
        let short = training(10, 3).plan_with(roster, planning()).unwrap();
        assert!(short.checkpoints().is_empty() && short.rounds.iter().all(|round| !round.check));
        // The farther the nodes, the fewer.
        let far = Planning { latency_us: 100_000, ..planning() };
        assert!(plan.checks_for_checkpoints(far).len() < added.len());
    }
}
