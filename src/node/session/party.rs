//! The running party: it is made, told what has happened, and what it wants done is carried out.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{Action, Failed, Phase, Session, Step, Timer};
use crate::backend::{Device, Opened};
use crate::engine::frame::Kind;
use crate::engine::{self, EngineError, Party, Record, first_segments};
use crate::job::replay::{self, Survivor};
use crate::node::wire::Peer;
use crate::roster::Slot;
use crate::store::{Nonce, Store};

impl Session {
    pub(super) fn make_party(&mut self, inputs: Vec<Vec<u8>>) -> Step {
        let assigned = self.assigned.take().ok_or_else(|| Failed("the inputs came twice".to_owned()))?;
        let (digest, attempt) = (self.manifest.digest(), self.attempt.to_le_bytes());
        let label = [&b"engine"[..], &digest, &[self.slot.0], &attempt];
        let mut rng = self.entropy.generator(&label[..if self.attempt == 0 { 3 } else { 4 }])?;
        // It may have been lost since the last job.
        let Opened { device, fell_back } = self.devices.open()?;
        if let Some(why) = fell_back {
            tracing::debug!("this job has no GPU: {why}");
        }
        let first = self.first_segment();
        let device = &self.device.insert(Settled(device)).0;
        let log = Box::new(Events { store: Arc::clone(&self.store), nonce: self.nonce, first });
        let mut party = Survivor::new(assigned, inputs, device, &mut *rng, log)?;
        if self.keeps || self.has_attempts() {
            party.checkpoint_before(&self.checkpoint_before);
        }
        self.party = Some(Box::new(party));
        self.take_until(first_segments(&self.plan));
        Ok(())
    }

    /// The party has asked for segments below this one, or will when it begins. They are its own
    /// from the moment that they come, so that memory holds no more than it asks for.
    fn take_until(&mut self, below: u32) {
        // Another attempt may begin with others, and reads them from the store.
        if below > self.takes && !self.has_attempts() {
            self.takes = below;
            // A device that is lost, or this process, begins with the first segment again.
            let again = self.keeps || self.device.as_ref().is_none_or(|device| device.0.can_be_lost());
            self.out.push(Action::Takes { below, alone: !again });
        }
    }

    /// The round in which the party is; that after the last once it is done.
    pub(super) fn now(&self) -> usize {
        match (&self.party, self.phase) {
            (_, Phase::Done) => self.plan.opening_rounds(),
            (Some(party), _) => party.progress().0,
            (None, _) => 0,
        }
    }

    /// Feeds the party until it waits for something from outside.
    pub(super) fn feed(&mut self, event: engine::Event) -> Step {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let Some(party) = &mut self.party else { return Ok(()) };
            self.headers += u32::from(matches!(event, engine::Event::Header(_)));
            let actions = match party.step(event) {
                Err(error @ EngineError::Told { .. }) if self.now() < self.log.end() => return self.drop_log(&error),
                stepped => stepped.map_err(|error| Failed(self.explain(&error)))?,
            };
            for action in actions {
                self.carry_out(action, &mut events)?;
            }
            if events.is_empty()
                && let Some(index) = self.wanted.first().copied().filter(|index| *index < self.headers)
            {
                self.wanted.remove(&index);
                events.push_back(match self.came.remove(&index) {
                    Some(segment) => engine::Event::Checked(segment),
                    None => engine::Event::Segment { index, bytes: self.stored(self.first_segment() + index)? },
                });
            }
        }
        if let Some(last) = self.wanted.last() {
            self.take_until(last + 1);
        }
        self.went_on();
        Ok(())
    }

    fn stored(&self, index: u32) -> Step<Vec<u8>> {
        let lost = || Failed(format!("segment {index} is not in this node's store any more: free its disk"));
        self.store.segment(self.nonce, index)?.ok_or_else(lost)
    }

    /// Why the party has failed, and what is known of those that are not there.
    fn explain(&self, error: &EngineError) -> String {
        let missing: Vec<Slot> = match error {
            EngineError::Silent { missing, .. } => missing.clone(),
            // The segment may be here, and the reports of others be missing.
            EngineError::OwnerSilent { .. } => self.others.keys().copied().collect(),
            _ => return error.to_string(),
        };
        let why = missing.iter().filter_map(|slot| Some((slot, self.others.get(slot)?.lost.as_ref()?)));
        why.fold(error.to_string(), |text, (slot, lost)| format!("{text}; the link with {slot} ended: {lost}"))
    }

    fn carry_out(&mut self, action: engine::Action, events: &mut VecDeque<engine::Event>) -> Step {
        match action {
            // Before the party is where the confirmed transcript is, nothing of a round leaves:
            // words before that are the disk's alone.
            engine::Action::Send { frame, .. }
                if self.now() < self.log.end() && !matches!(frame.header.kind, Kind::Segment | Kind::Agree) => {}
            engine::Action::Send { to, frame } => {
                if self.others.get(&to).is_some_and(|other| other.linked && other.over.is_none()) {
                    if frame.header.kind == Kind::Freeze && !std::mem::replace(&mut self.checking, true) {
                        self.out.push(Action::Check { passed: false });
                    }
                    self.send_message(to, Peer::encode_frame(&frame));
                }
            }
            engine::Action::Persist { token, record } => {
                match record {
                    Record::Cursor { round } => self.store.advance(self.nonce, round)?,
                    Record::CheckOpened { check } => self.store.check_opened(self.nonce, check)?,
                    Record::CheckPassed { check } => {
                        self.checking = false;
                        self.out.push(Action::Check { passed: true });
                        self.store.check_passed(self.nonce, check)?;
                        if self.has_attempts() {
                            // A check that is open on disk would end the job, whatever comes next.
                            self.store.sync(self.nonce)?;
                        }
                        self.put_behind_check()?;
                    }
                }
                events.push_back(engine::Event::Persisted { token });
            }
            engine::Action::NeedSegment(index) => drop(self.wanted.insert(index)),
            // A process that comes after this one begins with the first.
            engine::Action::DropSegments { .. } if self.keeps || self.has_attempts() => {}
            engine::Action::DropSegments { below } => self.store.drop_segments_below(self.nonce, below)?,
            engine::Action::Arm { token } => {
                self.token = token;
                self.forget_asks();
                self.arm(Timer::Exchange, self.deadline);
                self.arm(Timer::Patience, self.patience);
            }
            engine::Action::Log { round, transcript, words } => {
                if self.keeps && round >= self.log.end() {
                    self.keep.put_words(round, &transcript, &words).map_err(Failed)?;
                    self.durable_soon();
                }
            }
            // One that comes from the disk alone is not sealed.
            engine::Action::Checkpoint(checkpoint) => {
                if checkpoint.round() >= self.log.end() {
                    self.unwritten = Some(checkpoint);
                }
            }
            engine::Action::Behind => self.ask(),
            engine::Action::Done(outcome) => self.done(*outcome)?,
        }
        Ok(())
    }

    /// Notes a new round.
    fn went_on(&mut self) {
        let Some(party) = &self.party else { return };
        let (round, of) = party.progress();
        if self.round.replace(round) != Some(round) {
            self.out.push(Action::Round { round: round as u32, of: of as u32 });
            self.claims.drop_below(round);
            // Whoever is behind may have got no further than this by itself.
            self.others.values_mut().for_each(|other| other.allowance = other.allowance.max(1));
        }
    }
}

/// A device on which nothing of the job is left when the session ends, however
/// it ends: it may have nothing else to do for a long time.
pub(super) struct Settled(Device);

impl Drop for Settled {
    fn drop(&mut self) {
        self.0.settle();
    }
}

/// The log of a party that may lose its device, in the node's store.
struct Events {
    store: Arc<dyn Store>,
    nonce: Nonce,
    /// the number of the first segment of the party's stream
    first: u32,
}

impl replay::Log for Events {
    fn append(&mut self, index: u32, entry: &[u8]) -> Result<(), String> {
        self.store.append_log(self.nonce, index, entry).map_err(|e| e.to_string())
    }
    fn entry(&self, index: u32) -> Result<Vec<u8>, String> {
        let entry = self.store.log_entry(self.nonce, index).map_err(|e| e.to_string())?;
        entry.ok_or_else(|| format!("event {index} is not in this node's store any more"))
    }
    fn segment(&self, index: u32) -> Result<Vec<u8>, String> {
        let segment = self.store.segment(self.nonce, self.first + index).map_err(|e| e.to_string())?;
        segment.ok_or_else(|| format!("segment {index} is not in this node's store any more"))
    }
}
