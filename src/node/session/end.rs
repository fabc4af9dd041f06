//! The end: the result is sealed, signed and stored, or the failure noted; the session listens on while
//! others need it. Or the node is shut down, and its next process goes on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Action, Failed, LINGER, Other, Phase, Session, Step, Timer};
use crate::engine::Outcome;
use crate::job::Concluded;
use crate::node::wire::{Peer, one_line};
use crate::node::{Kept, Parties};

/// How long the disk is left alone once readers have been told of a result: they take it meanwhile.
const READ_WITHIN: Duration = Duration::from_millis(100);

impl Session {
    /// Seals and signs.
    ///
    /// A result that a later process could make again, with another seal, is stored before
    /// anybody has it: a node signs one receipt. Otherwise readers who wait have it first, and the processors
    /// while they take it: a process that dies meanwhile leaves a job that failed here.
    pub(super) fn done(&mut self, mut outcome: Outcome) -> Step {
        outcome.blamed.extend(&self.liars);
        let public = self.key.public();
        let mut rng = self.entropy.generator(&[b"seal", &self.manifest.digest(), public.identity()])?;
        let traffic = (self.sent, self.received);
        let concluded = Arc::new(self.conclusion.conclude(outcome, &self.key, traffic, &mut *rng)?);
        (self.fresh, self.tired) = (true, true);
        if self.keeps || self.has_attempts() {
            self.store_result(concluded)?;
        } else {
            self.out.push(Action::Concluded(Arc::clone(&concluded)));
            self.unstored = Some(concluded);
        }
        self.arm(Timer::Read, READ_WITHIN);
        Ok(())
    }

    /// Lets go what others cannot need. It may wait long for them.
    pub(super) fn rest(&mut self) {
        if let Some(party) = &mut self.party {
            party.rest();
        }
    }

    /// From here on readers can fetch, whatever becomes of this process.
    pub(super) fn store_result(&mut self, concluded: Arc<Concluded>) -> Step {
        let record = Kept::parts(&Parties::of(&self.manifest), &concluded);
        self.store.finish(self.nonce, &record.iter().map(|part| &part[..]).collect::<Vec<_>>())?;
        drop(record);
        self.phase = Phase::Done;
        self.out.push(Action::Ended(Ok(Some(concluded))));
        self.tell(&Peer::Done);
        self.tell_waiting(&Peer::Done);
        self.arm(Timer::Linger, self.patience);
        Ok(())
    }

    /// Leaves the job to the node's next process. To the others this one is absent.
    pub(super) fn leave(&mut self) -> Step {
        if let Some(concluded) = self.unstored.take() {
            return self.store_result(concluded);
        }
        let left = match self.has_attempts() {
            true => self.is_loaded(),
            false => self.keeps && self.party.is_some() && self.headers >= self.segments(),
        };
        if !left {
            return Err(Failed("this node was shut down".to_owned()));
        }
        self.keep.sync().map_err(Failed)?;
        self.phase = Phase::Closed;
        (self.party, self.came) = (None, BTreeMap::new());
        self.out.push(Action::Closed);
        Ok(())
    }

    pub(super) fn fail(&mut self, reason: &str) {
        if let Some(concluded) = self.unstored.take() {
            // Readers have it. What went wrong since is no matter of this job's.
            match self.store_result(concluded) {
                Ok(()) => return tracing::warn!(reason, "after the end of a job"),
                Err(Failed(reason)) => return self.fail(&reason),
            }
        }
        if self.phase != Phase::Running {
            // The result stands; whoever still needs this node will do without.
            tracing::warn!(reason, "after the end of a job");
            return self.close();
        }
        self.phase = Phase::Failed;
        if let Err(error) = self.store.fail(self.nonce, reason).and_then(|()| self.store.forget(self.nonce)) {
            tracing::error!(%error, "the failure of a job could not be noted in the store");
        }
        (self.party, self.came) = (None, BTreeMap::new());
        self.out.push(Action::Ended(Err(reason.to_owned())));
        self.failure = one_line(reason);
        self.tell(&Peer::Abort(self.failure.clone()));
        self.tell_waiting(&Peer::Abort(self.failure.clone()));
        self.arm(Timer::Linger, LINGER);
    }

    /// Nobody is left that needs a word of this node.
    pub(super) fn close_if_alone(&mut self) {
        let heard = |other: &Other| other.done || other.over.is_some();
        let alone = match self.phase {
            Phase::Done => !self.fresh && self.others.values().all(heard),
            Phase::Failed => self.others.values().all(|other| heard(other) || !other.linked),
            Phase::Running | Phase::Closed => false,
        };
        if alone {
            self.close();
        }
    }

    pub(super) fn close(&mut self) {
        // What others might have asked for; a job that failed left nothing.
        if self.phase == Phase::Done
            && let Err(error) = self.store.forget(self.nonce)
        {
            tracing::warn!(%error, "what is left of a job could not be dropped from the store");
        }
        self.phase = Phase::Closed;
        (self.party, self.came) = (None, BTreeMap::new());
        self.out.push(Action::Closed);
    }
}
