//! The other nodes, by their slots: their links come and go, what they say is taken and they are
//! told, and whoever has given up or lies is listened to no more.

use bytes::Bytes;

use super::{Action, Failed, Phase, Session, Step};
use crate::engine::frame::{Frame, FrameError, Kind};
use crate::engine::{self, EngineError};
use crate::net::Message;
use crate::node::wire::Peer;
use crate::roster::{Scheme, Slot};

/// Answers to one peer that asks again from where it was, per link and per time
/// of [`Timer::Serve`](super::Timer).
const ALLOWANCE: u8 = 3;

impl Session {
    pub(super) fn linked(&mut self, peer: Slot) -> Step {
        let Some(other) = self.others.get_mut(&peer) else { return Ok(()) };
        (other.linked, other.was_linked, other.lost) = (true, true, None);
        (other.allowance, other.served) = (ALLOWANCE, None);
        match self.phase {
            Phase::Failed => {
                let last = Peer::Abort(self.failure.clone());
                self.send(peer, &last);
            }
            Phase::Done => {
                self.send(peer, &Peer::Ready);
                self.send(peer, &Peer::Done);
            }
            Phase::Running if self.attempts.wait() => {
                let offer = self.attempts.own().clone();
                self.send(peer, &Peer::Offer { waits: true, offer });
            }
            Phase::Running if self.party.is_some() => {
                self.send(peer, &Peer::Ready);
                self.send(peer, &Peer::Behind { round: self.unknown() as u32 });
            }
            Phase::Running | Phase::Closed => {}
        }
        Ok(())
    }

    pub(super) fn lost(&mut self, peer: Slot, reason: String) -> Step {
        self.attempts.forget(peer);
        let Some(other) = self.others.get_mut(&peer) else { return Ok(()) };
        if !std::mem::take(&mut other.linked) || other.over.is_some() {
            return Ok(());
        }
        tracing::info!(%peer, reason, "a link has ended");
        other.lost = Some(reason);
        self.gone(peer)
    }

    pub(super) fn unreachable(&mut self, peer: Slot, reason: String) -> Step {
        let Some(other) = self.others.get_mut(&peer) else { return Ok(()) };
        tracing::warn!(%peer, reason, "no link");
        other.lost = Some(reason.clone());
        if self.phase == Phase::Running && !other.was_linked && self.plan.spare() == 0 && !self.may_be_replaced() {
            return Err(Failed(format!("no link with {peer}: {reason}")));
        }
        Ok(())
    }

    /// The party waits for it no more until it speaks again.
    pub(super) fn gone(&mut self, peer: Slot) -> Step {
        if self.phase == Phase::Running && self.started {
            self.feed(engine::Event::Gone { peer })?;
        }
        Ok(())
    }

    /// A peer that will not come back. Fewer than are needed end the job.
    fn over(&mut self, peer: Slot, reason: String) -> Step {
        let Some(other) = self.others.get_mut(&peer) else { return Ok(()) };
        other.over.get_or_insert_with(|| reason.clone());
        self.claims.drop_of(peer);
        if self.phase != Phase::Running {
            return Ok(());
        }
        let left = 1 + self.others.values().filter(|other| other.over.is_none()).count();
        if left < self.plan.needed() && !self.may_be_replaced()
            || self.liars.len() > usize::from(self.plan.roster.threshold())
        {
            return Err(Failed(reason));
        }
        tracing::warn!(%peer, reason, "the job goes on without a node");
        self.gone(peer)
    }

    pub(super) fn message(&mut self, from: Slot, bytes: &mut Bytes) -> Step {
        let Some(other) = self.others.get_mut(&from).filter(|other| other.over.is_none()) else { return Ok(()) };
        self.received += bytes.len() as u64 + 4;
        match Peer::decode(bytes) {
            // What comes too early is asked for when the party is there.
            Some(Peer::Frame(_)) if self.phase != Phase::Running || self.party.is_none() => Ok(()),
            Some(Peer::Frame(frame)) => {
                let frame = Frame::decode(frame);
                // Shares may be long, and what they lead to needs room.
                *bytes = Bytes::new();
                self.frame(from, frame)
            }
            Some(Peer::Ready) => {
                other.ready = true;
                self.start_if_ready()
            }
            Some(Peer::Done) => {
                (other.ready, other.begun, other.done) = (true, true, true);
                self.too_late(from)?;
                self.start_if_ready()
            }
            Some(Peer::Abort(reason)) if self.phase == Phase::Done => {
                tracing::warn!(%from, reason, "a node failed after the job was over here");
                self.over(from, reason)
            }
            Some(Peer::Abort(reason)) => self.over(from, format!("{from} says: {reason}")),
            Some(Peer::Behind { round }) => self.serve(from, round as usize),
            Some(Peer::Words { round, transcript, words }) => self.claim(from, round as usize, transcript, words),
            Some(Peer::Offer { waits, offer }) if self.plan.roster.scheme() == Scheme::Spdz => {
                self.offered(from, waits, offer)
            }
            Some(Peer::Offer { .. }) => {
                self.liar(from, format!("{from} offers another attempt, of which a job on Shamir has none"))
            }
            // What concerns agents is taken before.
            Some(Peer::Missing { .. } | Peer::Vote(_) | Peer::Replaced(_) | Peer::Keys { .. }) => Ok(()),
            None => {
                let what = "something that does not belong here: it runs another version or sends garbage";
                self.liar(from, format!("{from} sent {what}"))
            }
        }
    }

    /// A peer that sent what no honest node sends.
    pub(super) fn liar(&mut self, peer: Slot, reason: String) -> Step {
        self.liars.insert(peer);
        self.over(peer, reason)
    }

    fn frame(&mut self, from: Slot, frame: Result<Frame, FrameError>) -> Step {
        let frame = match frame {
            Ok(frame) => frame,
            Err(source) => return self.liar(from, EngineError::Frame { from, source }.to_string()),
        };
        if !self.is_of_attempt(frame.header.attempt) {
            return Ok(());
        }
        if frame.header.kind != Kind::Segment
            && let Some(other) = self.others.get_mut(&from)
        {
            // It was ready then, whether or not that arrived.
            (other.ready, other.begun) = (true, true);
        }
        self.feed(engine::Event::Frame { from, frame })?;
        self.start_if_ready()?;
        self.catch_up()
    }

    pub(super) fn send_message(&mut self, to: Slot, message: Message) {
        self.sent += message.len() as u64 + 4;
        self.out.push(Action::Send { to: self.replacement.agent(to), message });
    }

    pub(super) fn send(&mut self, to: Slot, message: &Peer<'_>) {
        if self.others.get(&to).is_some_and(|other| other.linked && other.over.is_none()) {
            self.send_message(to, message.encode().into());
        }
    }

    pub(super) fn tell(&mut self, message: &Peer<'_>) {
        for to in self.others.keys().copied().collect::<Vec<_>>() {
            self.send(to, message);
        }
    }
}
