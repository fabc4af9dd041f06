//! A session and the agents behind its slots: what is sent and heard when one of them has
//! crashed (docs/protocols.md, Replacement). Who stands where is `replace`'s to say; past this
//! file a session knows slots alone.

use bytes::Bytes;

use super::{Event, Failed, Other, Phase, Session, Step, Timer};
use crate::keys::hex;
use crate::net::Message;
use crate::node::replace::{Note, Replacement, mask};
use crate::node::wire::{Move, Peer, SubsetKeys};
use crate::roster::Slot;

impl Session {
    /// Begins to count the time for which slots are away.
    pub(super) fn begin_replacing(&mut self) -> Step {
        if self.replacement.has_spares() {
            let notes = self.keep.notes().map_err(Failed)?;
            self.replacement.restore(&notes);
            self.arm(Timer::Replace, self.replace_after / u32::from(Replacement::TICKS));
        }
        Ok(())
    }

    /// Takes what an agent did as what its slot did.
    pub(super) fn of_agent(&mut self, event: Event) -> Step {
        match event {
            Event::Linked(agent) => self.agent_linked(agent),
            Event::Lost { peer: agent, reason } => {
                self.replacement.unlink(agent);
                self.replacement.slot(agent).map_or(Ok(()), |peer| self.lost(peer, reason))
            }
            Event::Unreachable { peer: agent, reason } => match self.replacement.slot(agent) {
                Some(peer) => self.unreachable(peer, reason),
                None => {
                    tracing::warn!(agent = agent.0, reason, "no link with a spare");
                    Ok(())
                }
            },
            Event::Message { from: agent, mut bytes } => {
                let done = self.agent_said(agent, &mut bytes);
                if let Some(9) = bytes.first() {
                    crate::node::upload::wipe(bytes);
                }
                done
            }
            _ => unreachable!("only what concerns an agent is given here"),
        }
    }

    fn agent_linked(&mut self, agent: Slot) -> Step {
        self.replacement.link(agent);
        for decided in self.replacement.moves().collect::<Vec<_>>() {
            self.post(agent, &Peer::Replaced(decided));
        }
        if self.has_voice() && self.replacement.is_node(agent) {
            self.post(agent, &Peer::Missing { slots: self.missing() });
            for vote in self.replacement.cast().collect::<Vec<_>>() {
                self.post(agent, &Peer::Vote(vote));
            }
        }
        let waits = !self.replacement.is_node(agent);
        match (self.replacement.slot(agent), self.phase) {
            (Some(slot), _) => {
                self.hand_over(slot);
                return self.linked(slot);
            }
            (None, Phase::Done) if waits => self.post(agent, &Peer::Done),
            (None, Phase::Failed) if waits => self.post(agent, &Peer::Abort(self.failure.clone())),
            (None, _) if waits => {}
            (None, _) => self.turn_away(agent),
        }
        Ok(())
    }

    fn agent_said(&mut self, agent: Slot, bytes: &mut Bytes) -> Step {
        self.replacement.hear(agent);
        let slot = self.replacement.slot(agent);
        // A peer that is dismissed has no voice here either.
        if slot.is_some_and(|slot| self.others.get(&slot).is_none_or(|other| other.over.is_some())) {
            return Ok(());
        }
        match Peer::decode(bytes) {
            Some(Peer::Missing { slots }) => self.replacement.miss(agent, slots),
            Some(Peer::Replaced(decided)) => self.replacement.say(agent, decided),
            Some(Peer::Vote(vote)) => match (self.replacement.vote(agent, vote), slot) {
                (Err(reason), Some(slot)) => return self.liar(slot, reason),
                (Err(reason), None) => tracing::warn!(reason, "from a node whose slot a spare has"),
                (Ok(()), _) => {}
            },
            // It comes again from those who have listened only since then.
            Some(Peer::Keys { .. }) => {
                let Some(slot) = slot.filter(|_| self.party.is_some()) else { return Ok(()) };
                self.send(slot, &Peer::Ready);
                let round = self.unknown() as u32;
                self.send(slot, &Peer::Behind { round });
                return Ok(());
            }
            Some(Peer::Ready) if slot.is_none() => self.replacement.is_loaded(agent),
            Some(Peer::Abort(_)) if slot.is_none() => self.replacement.unload(agent),
            _ => return slot.map_or(Ok(()), |slot| self.message(slot, bytes)),
        }
        self.consider()
    }

    /// A part of the time is over after which a slot is missed.
    pub(super) fn tick(&mut self) -> Step {
        self.arm(Timer::Replace, self.replace_after / u32::from(Replacement::TICKS));
        self.replacement.tick();
        if self.has_voice() {
            // Again each time: messages may have been dropped.
            let slots = self.missing();
            self.post_nodes(&Peer::Missing { slots });
            for vote in self.replacement.cast().collect::<Vec<_>>() {
                self.post_nodes(&Peer::Vote(vote));
            }
        }
        for decided in self.replacement.moves().collect::<Vec<_>>() {
            let slot = decided.slot;
            for to in self.replacement.linked().collect::<Vec<_>>() {
                self.post(to, &Peer::Replaced(decided));
            }
            if self.others.get(&slot).is_some_and(|other| !other.begun) {
                self.hand_over(slot);
            }
        }
        self.consider()
    }

    /// Votes, and goes by what is decided.
    fn consider(&mut self) -> Step {
        while matches!(self.phase, Phase::Running | Phase::Done) {
            if let Some(decided) = self.replacement.decided(self.lying()) {
                self.replaced(decided)?;
                continue;
            }
            let may = self.phase == Phase::Running && self.has_voice();
            let Some(vote) = self.replacement.next_vote(self.missing()).filter(|_| may) else { break };
            tracing::warn!(job = self.name(), %vote, "votes that a spare takes over");
            // A second vote by a process that does not know of this one could give one spare two slots.
            self.note(Note::Voted(vote))?;
            self.replacement.vote(self.agent, vote).map_err(Failed)?;
            self.post_nodes(&Peer::Vote(vote));
        }
        Ok(())
    }

    fn note(&mut self, note: Note) -> Step {
        if self.phase == Phase::Running {
            self.keep.put_note(self.replacement.notes, note).map_err(Failed)?;
            self.replacement.notes += 1;
        }
        Ok(())
    }

    /// A spare has a slot, from here on for this node too.
    fn replaced(&mut self, decided: Move) -> Step {
        if decided.slot == self.slot {
            let reason = format!(
                "this node was away for too long: spare {} has taken its slot over, so the job goes on without it",
                decided.spare
            );
            if self.phase == Phase::Done {
                tracing::warn!(reason, "after the end of a job");
                self.close();
                return Ok(());
            }
            return Err(Failed(reason));
        }
        self.note(Note::Decided(decided))?;
        let old = self.replacement.agent(decided.slot);
        self.replacement.decide(decided);
        let agent = self.replacement.agent(decided.slot);
        tracing::warn!(job = self.name(), slot = %decided.slot, spare = decided.spare, "a spare has taken over");
        for to in self.replacement.linked().collect::<Vec<_>>() {
            self.post(to, &Peer::Replaced(decided));
        }
        self.turn_away(old);
        self.others.insert(decided.slot, Other::default());
        self.gone(decided.slot)?;
        if self.phase == Phase::Running {
            // The spare computes everything first.
            self.arm(Timer::Patience, self.patience);
            self.arm(Timer::StartPatience, self.patience);
        }
        if self.replacement.is_linked(agent) {
            self.hand_over(decided.slot);
            self.linked(decided.slot)?;
        }
        Ok(())
    }

    /// Gives a spare this node's keys of the slot that it has taken.
    fn hand_over(&mut self, slot: Slot) {
        let agent = self.replacement.agent(slot);
        if self.replacement.is_node(agent) || !self.replacement.is_linked(agent) || self.phase == Phase::Failed {
            return;
        }
        let Some(keys) = &self.keys else { return };
        let message = Peer::encode_keys(slot, SubsetKeys::shared_with(keys, slot));
        self.post_bytes(agent, message);
    }

    /// Tells the old holder of a slot that it is not listened to any more.
    fn turn_away(&mut self, agent: Slot) {
        let reason = "a spare has taken over the slot of this node, which was away for too long".to_owned();
        self.post(agent, &Peer::Abort(reason));
    }

    // --- what the others of this file need ---------------------------------------------

    /// Whether this node's votes count.
    fn has_voice(&self) -> bool {
        self.replacement.has_spares() && self.replacement.is_node(self.agent)
    }

    fn missing(&self) -> u32 {
        let over = self.others.iter().filter(|(_, other)| other.over.is_some());
        self.replacement.missing(mask(over.map(|(slot, _)| *slot)), self.lying())
    }

    /// Slots whose holders this node has found lying, itself or by its party.
    fn lying(&self) -> u32 {
        let blamed = |slot: &Slot| self.party.as_ref().is_some_and(|party| party.blames(*slot));
        mask(self.others.keys().copied().filter(|slot| self.liars.contains(slot) || blamed(slot)))
    }

    /// Whether the job may get as many nodes again as it needs, though these have given up.
    pub(super) fn may_be_replaced(&self) -> bool {
        let over = mask(self.others.iter().filter(|(_, other)| other.over.is_some()).map(|(slot, _)| *slot));
        over & self.lying() == 0 && self.replacement.has_spares() && self.replacement.may_fill(over)
    }

    fn post_bytes(&mut self, agent: Slot, message: Message) {
        if self.replacement.is_linked(agent) {
            self.out.push(super::Action::Send { to: agent, message });
        }
    }

    fn post(&mut self, agent: Slot, message: &Peer<'_>) {
        self.post_bytes(agent, message.encode().into());
    }

    fn post_nodes(&mut self, message: &Peer<'_>) {
        let nodes: Vec<Slot> = self.replacement.linked().filter(|agent| self.replacement.is_node(*agent)).collect();
        nodes.into_iter().for_each(|agent| self.post(agent, message));
    }

    /// Tells spares that wait how the job has ended.
    pub(super) fn tell_waiting(&mut self, message: &Peer<'_>) {
        let waits = |agent: &Slot| !self.replacement.is_node(*agent) && self.replacement.slot(*agent).is_none();
        let waiting: Vec<Slot> = self.replacement.linked().filter(waits).collect();
        waiting.into_iter().for_each(|agent| self.post(agent, message));
    }

    /// How the job is called in logs.
    fn name(&self) -> String {
        hex(&self.manifest.digest()[..8])
    }

    /// Where the agent at a slot is dialled.
    pub(super) fn address(&self, slot: Slot) -> &str {
        self.addresses.get(self.replacement.agent(slot).index()).map_or("", String::as_str)
    }
}
