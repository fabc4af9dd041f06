//! A session of an SPDZ job that has several attempts: it stops when a process was lost, and
//! goes on with other masks where all nodes can (docs/protocols.md, 16, attempts).

use super::{Action, Failed, Phase, Session, Step, Timer, engine};
use crate::engine::Checkpoint;
use crate::job::{Duty, Limits};
use crate::node::attempts::Asks;
use crate::node::wire::{Offer, Peer};
use crate::roster::Slot;

impl Session {
    /// Whether the job goes on in another attempt.
    pub(super) fn has_attempts(&self) -> bool {
        self.attempts.are_several()
    }

    /// Segments of the streams before that of this node's attempt.
    pub(super) fn first_segment(&self) -> u32 {
        self.attempt * self.segments()
    }

    /// Whether all is here that the owner sends when it submits the job.
    pub(super) fn is_loaded(&self) -> bool {
        self.attempts.own().held >= self.manifest.manifest().attempts
    }

    /// An earlier process may have spoken in all attempts up to its level.
    pub(super) fn wait_again(&mut self) -> Step {
        self.attempt = self.store.attempt(self.nonce)?;
        self.attempts.hold(self.keep.held(&self.manifest).map_err(Failed)?);
        self.out.push(Action::Ready);
        self.stop_attempt()
    }

    /// What a peer offers.
    pub(super) fn offered(&mut self, from: Slot, waits: bool, offer: Offer) -> Step {
        if self.phase != Phase::Running {
            return Ok(());
        }
        if !self.has_attempts() {
            let kept = "this node keeps nothing that the job could go on from (--no-recovery), or it has one attempt";
            return Err(Failed(format!("{from} was started again, and {kept}")));
        }
        match self.attempts.hear(from, waits, offer, self.attempt) {
            Err(lie) => return self.liar(from, lie),
            Ok(Asks::Nothing) => {}
            Ok(Asks::Answer) => {
                let offer = self.attempts.own().clone();
                self.send(from, &Peer::Offer { waits: false, offer });
                return Ok(());
            }
            Ok(Asks::Stop) => self.stop_attempt()?,
        }
        self.begin_attempt()
    }

    /// The party goes, with all that it was about to say.
    fn stop_attempt(&mut self) -> Step {
        tracing::warn!(attempt = self.attempt, "a process was lost: the job stops, to go on in another attempt");
        self.party = None;
        (self.started, self.expanding, self.checking) = (false, false, false);
        (self.headers, self.round, self.fed, self.asked, self.unwritten) = (0, None, None, None, None);
        // No time that was armed for the party concerns another one.
        self.token = u32::MAX;
        self.wanted.clear();
        if self.store.open_check(self.nonce)?.is_some() {
            let why = "its part of a check was sent and the end not seen, after which its MAC key may be known";
            return Err(Failed(format!(
                "a process was lost in the middle of a check, and this node cannot go on: {why}; submit the job again"
            )));
        }
        let held = self.checkpoints.open(&self.plan).map_err(Failed)?;
        let held = held.iter().map(|held| (held.round() as u32, held.transcript())).collect();
        self.attempts.stop(self.attempt, held);
        self.say_offer();
        self.arm(Timer::Start, self.deadline);
        self.begin_attempt()
    }

    /// Another node may have spoken in this attempt: this one will not.
    fn raise(&mut self, level: u32) -> Step {
        self.store.begin_attempt(self.nonce, level)?;
        self.attempt = level;
        self.attempts.raise(level);
        // Streams below it are of no use; else a corrupt node could have all that is dealt pile up on the disk.
        self.store.drop_segments_below(self.nonce, self.first_segment())?;
        self.say_offer();
        Ok(())
    }

    /// So many attempts are held here, of those that the owner has dealt with the job or since.
    pub(super) fn holds(&mut self, held: u32) -> Step {
        let news = self.attempts.hold(held.max(self.attempts.own().held));
        if news && self.attempts.wait() && self.phase == Phase::Running {
            self.say_offer();
        }
        self.begin_attempt()
    }

    /// The time up to which the owner is waited for is over.
    pub(super) fn expire(&mut self) -> Step {
        self.expired = true;
        self.begin_attempt()
    }

    /// Says to all where this node can go on.
    fn say_offer(&mut self) {
        let offer = self.attempts.own().clone();
        let of = offer.held.max(self.manifest.manifest().attempts);
        self.out.push(Action::Attempt { attempt: offer.level + 2, of, begun: false });
        self.tell(&Peer::Offer { waits: true, offer });
    }

    /// Begins the next attempt once all nodes have offered to at the same level, and hold it.
    fn begin_attempt(&mut self) -> Step {
        if !self.attempts.wait() || self.phase != Phase::Running {
            return Ok(());
        }
        if let Some(level) = self.attempts.higher() {
            self.raise(level)?;
        }
        if self.attempts.lacks() {
            return if self.expired && self.is_loaded() { Err(self.nobody_deals()) } else { Ok(()) };
        }
        if self.attempts.missing(self.others.keys().copied()).next().is_some() {
            return Ok(());
        }
        let common = self.attempts.common();
        let attempt = self.attempts.begin();
        // From here on no process speaks in it but this one.
        self.store.begin_attempt(self.nonce, attempt)?;
        self.attempt = attempt;
        let checkpoint = match common {
            Some((round, transcript)) => Some(self.checkpoint_of(round, transcript)?),
            None => None,
        };
        let round = checkpoint.as_ref().map_or(0, Checkpoint::round);
        tracing::info!(attempt, round, "the job goes on in another attempt");
        self.out.push(Action::Attempt { attempt: attempt + 1, of: self.attempts.own().held, begun: true });
        // Nobody begins at those before any more.
        self.store.drop_segments_below(self.nonce, self.first_segment())?;
        let kept = self.keep.setup(&self.key, self.manifest.digest(), &Limits::unlimited()).map_err(Failed)?;
        let Duty::Node(assigned) = kept.0 else {
            return Err(Failed("its setup is that of a spare, of which this job has none".to_owned()));
        };
        self.assigned = Some(assigned.in_attempt(attempt));
        let inputs = self.keep.inputs(&self.manifest).map_err(Failed)?;
        self.make_party(inputs)?;
        if let (Some(checkpoint), Some(party)) = (&checkpoint, &mut self.party) {
            party.restore(checkpoint)?;
            #[cfg(test)]
            (self.restored = true);
        }
        for index in 0..self.segments() {
            let header = self.keep.header(self.first_segment() + index).map_err(Failed)?;
            self.feed(engine::Event::Header(Box::new(header)))?;
        }
        self.start()?;
        self.ask_again();
        Ok(())
    }

    fn checkpoint_of(&mut self, round: u32, transcript: [u8; 32]) -> Step<Checkpoint> {
        let kept = self.checkpoints.begin_at(&self.plan, round as usize, transcript).map_err(Failed)?;
        kept.ok_or_else(|| Failed(format!("the checkpoint before round {round} is not on disk any more")))
    }

    /// Makes the state behind a check durable, before this node says that it has passed. Only after the record that
    /// it has: what is in between is time in which a crash ends the job.
    pub(super) fn put_behind_check(&mut self) -> Step {
        if self.has_attempts()
            && let Some(checkpoint) = self.unwritten.take()
        {
            self.checkpoints.put(&checkpoint).map_err(Failed)?;
            self.store.sync(self.nonce)?;
        }
        Ok(())
    }

    /// Whether a frame is of the attempt that this node is in. Others come from nodes that have not heard of
    /// it yet, or will be heard of.
    pub(super) fn is_of_attempt(&self, attempt: u32) -> bool {
        attempt == self.attempt || attempt >= self.attempts.most()
    }

    /// A deadline has passed while this node waits for the next attempt. Patience is for peers; the owner has time until the job expires.
    pub(super) fn offer_again(&mut self) -> Step {
        let deadlines = self.patience.as_nanos().div_ceil(self.deadline.as_nanos().max(1));
        let deadlines = u32::try_from(deadlines).unwrap_or(u32::MAX);
        // Inputs may take as long as their owner takes to send them.
        if self.is_loaded()
            && let overdue @ [_, ..] = &self.attempts.overdue(self.others.keys().copied(), deadlines)[..]
        {
            let missing = overdue.iter().map(Slot::to_string).collect::<Vec<_>>().join(", ");
            let patience = self.patience.as_secs_f32();
            return Err(Failed(format!(
                "{missing} did not say within {patience} s from where to go on: see whether they run"
            )));
        }
        self.say_offer();
        self.arm(Timer::Start, self.deadline);
        Ok(())
    }

    fn nobody_deals(&self) -> Failed {
        let Offer { level, held, .. } = self.attempts.own();
        let (last, who) = (level + 1, if *held <= level + 1 { "this node" } else { "another node" });
        Failed(format!(
            "a process was lost in attempt {last}, {who} holds no later one, and the owner dealt none before the job expired: submit it again, with more --attempts or a later --expires"
        ))
    }

    /// Takes a segment that the owner sends when it submits the job, of any attempt, whose bytes are stored.
    pub(super) fn segment_of(&mut self, header: Box<crate::transcript::SignedHeader>) -> Step {
        self.stored += 1;
        if self.party.is_some() && header.claimed().attempt == self.attempt {
            self.feed(engine::Event::Header(header))?;
            self.catch_up()?;
        }
        self.holds_stored()
    }

    /// Counts attempts of which all is here.
    pub(super) fn holds_stored(&mut self) -> Step {
        match self.keep_inputs_done {
            true => self.holds(self.stored.checked_div(self.segments()).unwrap_or(self.manifest.manifest().attempts)),
            false => Ok(()),
        }
    }

    /// A peer that is done has released its shares, and does not go back.
    pub(super) fn too_late(&self, peer: Slot) -> Step {
        match self.attempts.wait() {
            false => Ok(()),
            true => Err(Failed(format!(
                "{peer} has finished the job, for which the last message of a process that was lost is missing here: submit it again"
            ))),
        }
    }
}
