//! What is on disk of the party's way, and from when on it counts: nothing that an earlier process
//! has kept is used, nor said that depends on it, before others have confirmed it
//! (docs/protocols.md, 16).

use std::time::Duration;

use super::{Failed, Session, Step, Timer};
use crate::engine;
use crate::job::{Duty, Limits};
use crate::node::catch_up::Claims;
use crate::node::resume::{Resume, Start};

/// How long what was opened may stay where the end of the process undoes it. What
/// it forgets, others tell it again; making it durable stops the computing for some milliseconds.
const DURABLE: Duration = Duration::from_secs(1);

/// What an earlier process has kept of the job.
pub(super) enum Log {
    /// nothing is taken from it, nor said that depends on it, before others have confirmed it
    Unconfirmed(Resume),
    /// what was opened below this round is taken from it
    Until(usize),
}

impl Log {
    pub(super) fn end(&self) -> usize {
        match self {
            Self::Unconfirmed(_) => 0,
            Self::Until(end) => *end,
        }
    }
}

impl Session {
    /// What an earlier process has kept, if others can confirm any of it.
    pub(super) fn on_disk(&mut self) -> Step<Option<Resume>> {
        if !self.keeps {
            return Err(Failed("what it said before cannot be said again alike".to_owned()));
        }
        let logged = self.keep.log_end(self.plan.opening_rounds()).map_err(Failed)?;
        Ok(Resume::new(logged, self.checkpoints.open(&self.plan).map_err(Failed)?))
    }

    /// Makes the party from what is on disk. A checkpoint and the log lead it to where it was
    /// once others have confirmed them.
    pub(super) fn go_on(&mut self, from: Option<Resume>) -> Step {
        let inputs = self.keep.inputs(&self.manifest).map_err(Failed)?;
        self.store.resume(self.nonce)?;
        self.make_party(inputs)?;
        for index in 0..self.segments() {
            let header = self.keep.header(index).map_err(Failed)?;
            self.feed(engine::Event::Header(Box::new(header)))?;
        }
        self.log = from.map_or(Log::Until(0), Log::Unconfirmed);
        self.get_ready();
        self.start_if_ready()
    }

    /// Makes the party a second time in this process: only where what it says again is what it
    /// has said.
    pub(super) fn make_again(&mut self, from: Option<Resume>) -> Step {
        debug_assert!(self.keeps);
        self.party = None;
        self.arm(Timer::StartPatience, self.patience);
        let kept = self.keep.setup(&self.key, self.manifest.digest(), &Limits::unlimited()).map_err(Failed)?;
        let Duty::Node(assigned) = kept.0 else {
            return Err(Failed("its setup is that of a spare that has no slot".to_owned()));
        };
        self.assigned = Some(assigned);
        (self.again, self.started, self.expanding) = (true, false, false);
        (self.headers, self.round, self.fed, self.asked) = (0, None, None, None);
        self.wanted.clear();
        self.came.clear();
        self.unwritten = None;
        self.claims = Claims::new(self.plan.roster.threshold());
        self.forget_asks();
        self.go_on(from)
    }

    /// Compares what an earlier process has kept with what more than t others say.
    /// The disk is a cache and no witness: a share that is computed from one
    /// wrong word would give a secret away, so nothing is sent before.
    pub(super) fn confirm_log(&mut self) -> Step {
        let Log::Unconfirmed(resume) = &self.log else { return Ok(()) };
        let Some(told) = self.claims.agreed(resume.check()) else { return Ok(()) };
        let same = resume.agrees(&self.keep, &told).map_err(Failed)?;
        let Log::Unconfirmed(resume) = std::mem::replace(&mut self.log, Log::Until(0)) else {
            unreachable!("matched above")
        };
        if same {
            let Start { until, checkpoint } = resume.confirmed(&self.keep).map_err(Failed)?;
            self.log = Log::Until(until);
            if let (Some(checkpoint), Some(party)) = (checkpoint, &mut self.party) {
                tracing::info!(round = checkpoint.round(), "the job goes on from a checkpoint");
                party.restore(&checkpoint)?;
                #[cfg(test)]
                (self.restored = true);
            }
        } else {
            tracing::warn!("what the disk holds of a job is not what was opened: the rest is asked for anew");
            self.tells = 0;
            if let Some(resume) = resume.without() {
                self.log = Log::Unconfirmed(resume);
                self.ask_again();
                return Ok(());
            }
        }
        self.start()?;
        self.ask_again();
        Ok(())
    }

    /// Nobody has confirmed what is on disk: others may have lost more of theirs.
    pub(super) fn confirm_less(&mut self) -> Step {
        if let Log::Unconfirmed(_) = self.log
            && let Log::Unconfirmed(resume) = std::mem::replace(&mut self.log, Log::Until(0))
        {
            self.log = resume.less().map_or(Log::Until(0), Log::Unconfirmed);
            // Nobody has contradicted it either.
            self.tells = self.plan.opening_rounds();
            self.ask_again();
        }
        self.start_if_ready()
    }

    /// What the disk holds leads elsewhere than to the transcript that others have
    /// confirmed. Nothing was said of it: everything comes from them.
    pub(super) fn drop_log(&mut self, why: &dyn std::fmt::Display) -> Step {
        tracing::warn!(%why, "what the disk holds of a job was changed: the rest is asked for anew");
        self.tells = 0;
        let from = self.on_disk()?.and_then(Resume::without_log);
        self.make_again(from)
    }

    /// What was opened in a round, taken from where it is kept.
    pub(super) fn known(&mut self, round: usize) -> Step<Option<([u8; 32], Vec<u8>)>> {
        if round >= self.log.end() {
            return Ok(self.claims.agreed(round));
        }
        self.keep.words(round).map_err(Failed)
    }

    pub(super) fn is_known(&self, round: usize) -> bool {
        round < self.log.end() || self.claims.is_agreed(round)
    }

    /// What was opened below this round is in the store, if the plan lets it be kept.
    pub(super) fn held(&self) -> usize {
        // What the disk says of the rounds before may be told while it is unconfirmed:
        // words are public, and nobody takes them from one node.
        match self.log {
            Log::Unconfirmed(_) => self.plan.opening_rounds(),
            Log::Until(end) => self.now().max(end).max(self.tells),
        }
    }

    /// What was written is made durable with what else is until then.
    pub(super) fn durable_soon(&mut self) {
        if !std::mem::replace(&mut self.loose, true) {
            self.arm(Timer::Durable, DURABLE);
        }
    }
}
