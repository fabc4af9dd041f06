//! What peers send: where it belongs, and what becomes of who sent what no honest node sends.

use super::frame::{Body, Frame, Header, Kind};
use super::{Action, EPOCH, Engine, EngineError, State, Step, VIEW, Verify, digest, king, layer};
use crate::roster::Slot;

impl<S: Verify> Engine<S> {
    /// Digests of segments for one peer.
    pub(super) fn report(&self, to: Slot, segments: impl IntoIterator<Item = (u32, [u8; 32])>, out: &mut Vec<Action>) {
        out.extend(segments.into_iter().map(|(index, digest)| Action::Send {
            to,
            frame: Frame { header: self.header(Kind::Segment, index, self.slot(), to), body: Body::Digest(digest) },
        }));
    }

    pub(super) fn header(&self, kind: Kind, step: u32, from: Slot, to: Slot) -> Header {
        Header { manifest: self.manifest, epoch: EPOCH, view: VIEW, attempt: self.attempt, step, kind, from, to }
    }

    /// A frame must be of this job, this epoch and view, and of the peer whose link it came by.
    fn expect(&self, from: Slot, frame: &Frame, kind: Kind) -> Step<()> {
        let (found, right) = (&frame.header, self.header(kind, frame.header.step, from, self.slot()));
        let hex = |bytes: &[u8; 32]| crate::keys::hex(&bytes[..8]);
        let fields = [
            ("job", hex(&found.manifest), hex(&right.manifest)),
            ("epoch", found.epoch.to_string(), right.epoch.to_string()),
            ("view", found.view.to_string(), right.view.to_string()),
            ("attempt", found.attempt.to_string(), right.attempt.to_string()),
            ("sender", found.from.to_string(), right.from.to_string()),
            ("receiver", found.to.to_string(), right.to.to_string()),
            ("kind", found.kind.to_string(), right.kind.to_string()),
        ];
        match fields.into_iter().find(|(_, found, expected)| found != expected) {
            Some((field, found, expected)) => {
                Err(EngineError::Misplaced { from, kind: frame.header.kind, field, found, expected })
            }
            None => Ok(()),
        }
    }

    /// An opening's length is exact, and what is told of a layer.
    fn fits(&self, from: Slot, frame: &Frame) -> Step<()> {
        let words = match &frame.body {
            Body::Words(words) => words,
            Body::Packed(words, told) => {
                layer::fits(told, from, self.slot(), self.round, self.plan.layer_words(self.round))?;
                words
            }
            Body::Digest(_) | Body::Opening(_) => return Ok(()),
        };
        let kind = frame.header.kind;
        if let Some(expected) = king::expected(&self.plan, self.round, kind, from, self.slot()) {
            return match words.len() {
                found if found == expected => Ok(()),
                found => Err(EngineError::KingWords { from, kind, round: self.round, found, expected }),
            };
        }
        let expected = self.plan.openings(self.round).map(|o| o.2).sum();
        if words.len() != expected {
            return Err(EngineError::Words { from, round: self.round, found: words.len(), expected });
        }
        Ok(())
    }

    /// Takes a frame: goes on if it was the last that was waited for, and
    /// without its sender if no honest node could have sent it.
    pub(super) fn receive(&mut self, from: Slot, frame: Frame, out: &mut Vec<Action>) -> Step<()> {
        if !self.roster().has(from) || from == self.slot() {
            return Err(EngineError::Unasked("a frame from outside its roster"));
        }
        if !self.attendance.heard(from) {
            return Ok(());
        }
        match self.place(from, frame, out) {
            Ok(()) => self.complete(out),
            Err(fault) => self.fault(from, fault, out),
        }
    }

    /// Puts a frame where it belongs.
    fn place(&mut self, from: Slot, frame: Frame, out: &mut Vec<Action>) -> Step<()> {
        let (kind, step) = (frame.header.kind, frame.header.step);
        if kind == Kind::Segment {
            self.expect(from, &frame, kind)?;
            return self.stream.report(step, from, *digest(&frame.body));
        }
        let (State::Persisting(exchange) | State::Exchanging(exchange)) = &self.state else {
            return self.keep(from, frame, out);
        };
        if step != self.step {
            return self.keep(from, frame, out);
        }
        self.expect(from, &frame, exchange.kind)?;
        self.fits(from, &frame)?;
        let (State::Persisting(exchange) | State::Exchanging(exchange)) = &mut self.state else {
            unreachable!("matched above")
        };
        match &exchange.received[from.index()] {
            // A link that was made again brings what may have come before.
            Some(held) if *held != frame.body => Err(EngineError::Twice { from, kind, step }),
            _ => {
                exchange.received[from.index()] = Some(frame.body);
                Ok(())
            }
        }
    }

    /// Keeps a frame for the next exchange; notes who is further ahead. What is
    /// past comes from a peer that is behind, or was sent again.
    fn keep(&mut self, from: Slot, frame: Frame, out: &mut Vec<Action>) -> Step<()> {
        let (kind, step) = (frame.header.kind, frame.header.step);
        // What kind it must be is known when the exchange begins.
        self.expect(from, &frame, kind)?;
        if step == self.step + 1 {
            let early = &mut self.early[from.index()];
            if early.as_ref().is_some_and(|held| *held != frame) {
                return Err(EngineError::Twice { from, kind, step });
            }
            *early = Some(frame);
        } else if step > self.step
            && self.ahead.insert(from)
            && self.ahead.len() == usize::from(self.roster().threshold()) + 1
        {
            out.push(Action::Behind);
        }
        Ok(())
    }

    /// No honest node would have done that: the job goes on without the peer if
    /// it can, and ends otherwise.
    pub(super) fn fault(&mut self, from: Slot, fault: EngineError, out: &mut Vec<Action>) -> Step<()> {
        // That an owner signed two headers for one place is not its nodes' fault.
        if !matches!(fault, EngineError::Disagree { what: Kind::Segment, .. }) {
            self.blame(from).map_err(|_| fault.clone())?;
        }
        if self.heard_without(from) < self.needed {
            return Err(fault);
        }
        self.attendance.dismiss(from);
        self.early[from.index()] = None;
        if let State::Persisting(exchange) | State::Exchanging(exchange) = &mut self.state {
            exchange.received[from.index()] = None;
            // Of those that are left so many have not been tried.
            if let Some((tried, _)) = &mut exchange.mismatch {
                *tried = 0;
            }
        }
        tracing::warn!(%from, %fault, "the job goes on without a node that cheats");
        self.complete(out)
    }

    /// Names a peer, and listens to it no more if enough others are left.
    pub(super) fn blame(&mut self, slot: Slot) -> Step<()> {
        self.blamed.insert(slot);
        if self.blamed.len() > usize::from(self.roster().threshold()) {
            return Err(EngineError::TooManyLiars { blamed: self.blamed.iter().copied().collect() });
        }
        if self.heard_without(slot) >= self.needed {
            self.attendance.dismiss(slot);
        }
        Ok(())
    }

    /// How many nodes, this one among them, are left without a peer that is listened to no more.
    fn heard_without(&self, slot: Slot) -> usize {
        self.roster().slots().filter(|other| *other != slot && self.attendance.heard(*other)).count()
    }
}
