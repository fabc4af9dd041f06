//! Where a job begins that an earlier process of this node had begun: at a
//! checkpoint or at the beginning, and how far the log leads from there.
//!
//! The disk is a cache and no witness. Nothing of it counts before more than t others
//! have sent the transcript to which it leads; this room says which one they are to be asked for
//! (docs/protocols.md, 16, rules 8 and 11).

use super::setup::{Keep, Told};
use crate::engine::Checkpoint;

/// What is on disk and not confirmed yet.
pub(super) struct Resume {
    /// the newest last; none lies behind the round that is asked for
    checkpoints: Vec<Checkpoint>,
    /// what was opened below this round is in the log
    logged: usize,
    check: usize,
    step: usize,
}

/// Where to begin.
pub(super) struct Start {
    /// what was opened below this round is as others say, and taken from the log
    pub(super) until: usize,
    /// the state to begin with, unless it is the first
    pub(super) checkpoint: Option<Checkpoint>,
}

impl Resume {
    /// `None` if there is nothing that others could confirm.
    pub(super) fn new(logged: usize, checkpoints: Vec<Checkpoint>) -> Option<Self> {
        Self { checkpoints, logged, check: 0, step: 1 }.aimed()
    }

    /// The round whose words others must say. Nothing is taken from the disk before.
    pub(super) fn check(&self) -> usize {
        self.check
    }

    /// The round before a checkpoint to which the log does not reach, or from which it does
    /// not lead on; else the log's last but one. All others may need this node to open the last;
    /// after the checkpoint of a process that was killed long ago they mostly do not.
    fn aimed(mut self) -> Option<Self> {
        self.step = 1;
        self.check = match self.checkpoints.last() {
            Some(newest) if newest.round() >= self.logged => newest.round() - 1,
            _ => self.logged.checked_sub(2)?,
        };
        Some(self)
    }

    /// Whether the newest checkpoint itself is to be confirmed.
    fn beyond_log(&self) -> bool {
        self.checkpoints.last().is_some_and(|newest| newest.round() >= self.logged)
    }

    /// Nobody has confirmed it: others may have lost more. Goes back, twice as far each time.
    pub(super) fn less(mut self) -> Option<Self> {
        if self.beyond_log() {
            self.checkpoints.pop();
            return self.aimed();
        }
        self.check = self.check.checked_sub(self.step)?;
        self.step *= 2;
        let check = self.check;
        self.checkpoints.retain(|checkpoint| checkpoint.round() <= check + 1);
        Some(self)
    }

    /// A node goes back for others: from this round on it says everything again.
    pub(super) fn back_to(mut self, round: usize) -> Option<Self> {
        self.checkpoints.retain(|checkpoint| checkpoint.round() <= round);
        self.logged = self.logged.min(round + 1);
        self.aimed()
    }

    /// The log was compared and leads elsewhere: each checkpoint is to be confirmed itself.
    pub(super) fn without_log(mut self) -> Option<Self> {
        self.logged = 0;
        self.aimed()
    }

    /// Others hold something else: without the log, or if that is gone without the newest checkpoint.
    pub(super) fn without(mut self) -> Option<Self> {
        if self.beyond_log() {
            self.checkpoints.pop();
        }
        self.without_log()
    }

    /// Whether what others say is what the disk holds.
    pub(super) fn agrees(&self, keep: &Keep, told: &Told) -> Result<bool, String> {
        match self.checkpoints.last().filter(|_| self.beyond_log()) {
            Some(newest) => Ok(newest.transcript() == told.0),
            None => Ok(keep.words(self.check)?.is_some_and(|logged| logged == *told)),
        }
    }

    /// What others have confirmed.
    pub(super) fn confirmed(mut self, keep: &Keep) -> Result<Start, String> {
        let until = self.check + 1;
        if self.beyond_log() {
            // It was compared itself, and the log was not.
            return Ok(Start { until, checkpoint: self.checkpoints.pop() });
        }
        while let Some(checkpoint) = self.checkpoints.pop() {
            let logged = keep.words(checkpoint.round() - 1)?;
            if logged.is_some_and(|(transcript, _)| transcript == checkpoint.transcript()) {
                return Ok(Start { until, checkpoint: Some(checkpoint) });
            }
            let round = checkpoint.round();
            tracing::warn!(
                round,
                "a checkpoint does not belong to the log of its job: the job goes on from an earlier state"
            );
        }
        Ok(Start { until, checkpoint: None })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::field::Fp61;
    use crate::program::plan::Plan;
    use crate::program::{Builder, Type};
    use crate::roster::Roster;
    use crate::store::{MemoryStore, Store};

    fn plan() -> Plan {
        let b = Builder::new();
        let x = b.input("x", "alice", Type::int(-1..=1), [1]);
        let y = (0..14).fold(x.clone(), |y, _| (&y * &x).declare("y", -1.0..=1.0));
        b.output("y", "alice", &y);
        b.finish().unwrap().plan(Roster::shamir(5, 1).unwrap()).unwrap()
    }

    fn checkpoint(plan: &Plan, round: usize, transcript: u8) -> Checkpoint {
        let bytes = [vec![1, 0], vec![0; 8 * plan.live(round).words() as usize]].concat();
        Checkpoint::decode(plan, round, [transcript; 32], &bytes).unwrap()
    }

    /// A log of so many rounds, whose transcript after round r is r everywhere.
    fn log(rounds: usize) -> Keep {
        let store = Arc::new(MemoryStore::new());
        store.begin([1; 32], [2; 32]).unwrap();
        let keep = Keep::new(store, [1; 32]);
        (0..rounds).for_each(|round| keep.put_words(round, &[round as u8; 32], &[Fp61::ONE]).unwrap());
        keep
    }

    fn told(round: usize) -> Told {
        ([round as u8; 32], crate::field::slice::encode_words(&[Fp61::ONE]))
    }

    fn with(logged: usize, rounds: &[usize]) -> Resume {
        let plan = plan();
        assert!(plan.opening_rounds() >= 12);
        let checkpoints = rounds.iter().map(|round| checkpoint(&plan, *round, *round as u8 - 1)).collect();
        Resume::new(logged, checkpoints).unwrap()
    }

    fn start(resume: Resume, logged: usize) -> (usize, Option<usize>) {
        let Start { until, checkpoint } = resume.confirmed(&log(logged)).unwrap();
        (until, checkpoint.map(|checkpoint| checkpoint.round()))
    }

    #[test]
    fn it_begins_at_the_newest_checkpoint_that_others_confirm() {
        // In the midst of the log: its last round is not asked for, and dropped.
        let resume = with(10, &[3, 7]);
        assert_eq!(resume.check(), 8);
        assert!(resume.agrees(&log(10), &told(8)).unwrap() && !resume.agrees(&log(10), &told(7)).unwrap());
        assert_eq!(start(resume, 10), (9, Some(7)));
        // At its end, and beyond it: the checkpoint itself is asked for.
        for logged in [7, 5, 0] {
            let resume = with(logged, &[3, 7]);
            assert_eq!(resume.check(), 6);
            assert!(resume.agrees(&log(logged), &told(6)).unwrap() && !resume.agrees(&log(logged), &told(5)).unwrap());
            assert_eq!(start(resume, logged), (7, Some(7)));
        }
        // A log that was not compared is not used.
        let changed = log(7);
        changed.put_words(6, &[99; 32], &[Fp61::ONE]).unwrap();
        assert_eq!(with(7, &[3, 7]).confirmed(&changed).unwrap().checkpoint.unwrap().round(), 7);
        // None, and nothing to ask for.
        assert_eq!(start(with(10, &[]), 10), (9, None));
        assert!(Resume::new(1, Vec::new()).is_none());
    }

    #[test]
    fn what_lies_behind_the_confirmed_round_is_dropped() {
        let resume = with(10, &[3, 8]).less().unwrap();
        assert_eq!(resume.check(), 7);
        assert_eq!(start(resume, 10), (8, Some(8)));
        let resume = with(10, &[3, 8]).less().unwrap().less().unwrap();
        assert_eq!(resume.check(), 5);
        assert_eq!(start(resume, 10), (6, Some(3)));
        let resume = with(10, &[3, 8]).less().and_then(Resume::less).and_then(Resume::less).unwrap();
        assert_eq!(start(resume, 10), (2, None));
        // The checkpoint at the log's end goes first, and the log is asked for as ever.
        let resume = with(8, &[3, 8]).less().unwrap();
        assert_eq!(resume.check(), 6);
        assert_eq!(start(resume, 8), (7, Some(3)));
        assert!(with(0, &[3]).less().is_none());
        assert!(with(2, &[]).less().is_none());
    }

    #[test]
    fn without_its_log_each_checkpoint_is_asked_for_itself() {
        let resume = with(10, &[3, 7]).without().unwrap();
        assert_eq!(resume.check(), 6);
        let resume = resume.without().unwrap();
        assert_eq!(resume.check(), 2);
        assert_eq!(start(with(10, &[3, 7]).without().unwrap(), 10), (7, Some(7)));
        assert!(resume.without().is_none());
    }

    /// As by a device that was wrong before: it would speak at once where the log ends.
    #[test]
    fn a_checkpoint_whose_transcript_is_not_the_logs_is_passed_over() {
        let plan = plan();
        for newest in [7, 9] {
            let checkpoints = vec![checkpoint(&plan, 3, 2), checkpoint(&plan, newest, 99)];
            let resume = Resume::new(10, checkpoints).unwrap();
            assert_eq!(start(resume, 10), (9, Some(3)));
        }
    }
}
