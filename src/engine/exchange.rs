//! The exchanges: an own frame for each peer, and on once enough have spoken and nobody is
//! waited for.

use std::mem::take;
use std::sync::Arc;

use super::frame::{Body, Frame, Kind};
use super::{AGREE_STEP, Action, Engine, EngineError, Exchange, Own, Record, State, Step, Verify};
use crate::roster::Slot;
use crate::sharing::DecodeError;

impl<S: Verify> Engine<S> {
    /// The next exchange is the current one.
    pub(super) fn next_step(&mut self) -> Vec<Option<Frame>> {
        self.step += 1;
        self.ahead.clear();
        let nothing = self.roster().slots().map(|_| None).collect();
        std::mem::replace(&mut self.early, nothing)
    }

    pub(super) fn exchange(
        &mut self,
        kind: Kind,
        body: Body,
        own: Own<S>,
        record: Option<Record>,
        out: &mut Vec<Action>,
    ) -> Step<()> {
        let early = self.next_step();
        self.said = [take(&mut self.said[1]), take(&mut self.said[2]), Vec::new()];
        let received: Vec<Option<Body>> = self.roster().slots().map(|_| None).collect();
        self.state = State::Persisting(Exchange { kind, body, own, received, mismatch: None });
        for frame in early.into_iter().flatten() {
            self.receive(frame.header.from, frame, out)?;
        }
        if take(&mut self.skipped) {
            // What was sent for this exchange before it was reached here is lost.
            out.push(Action::Behind);
        }
        match record {
            Some(record) => out.push(Action::Persist { token: self.step, record }),
            None => self.persisted(out)?,
        }
        Ok(())
    }

    /// What must be on disk is: the exchange's own frames leave.
    pub(super) fn persisted(&mut self, out: &mut Vec<Action>) -> Step<()> {
        let State::Persisting(exchange) = std::mem::replace(&mut self.state, State::Over) else {
            unreachable!("called where an exchange waits for the disk")
        };
        let own = self.slot();
        for to in self.roster().slots().filter(|to| *to != own) {
            let header = self.header(exchange.kind, self.step, self.slot(), to);
            let body = match (&exchange.body, &exchange.own) {
                (Body::Words(words), Own::Shares(_, Some(layer))) => {
                    Body::Packed(Arc::clone(words), layer.tell(self.slot(), to))
                }
                (_, Own::King(king)) if exchange.kind == Kind::Gather => king.given(to),
                (body, _) => body.clone(),
            };
            self.said[2].push(Frame { header, body });
        }
        out.extend(self.said[2].iter().map(|frame| Action::Send { to: frame.header.to, frame: frame.clone() }));
        out.push(Action::Arm { token: self.step });
        self.state = State::Exchanging(exchange);
        self.complete(out)
    }

    /// Goes on if everybody who is waited for has spoken, and enough have.
    pub(super) fn complete(&mut self, out: &mut Vec<Action>) -> Step<()> {
        match &self.state {
            State::Segments => return self.begin_round(out),
            State::Exchanging(_) => {}
            _ => return Ok(()),
        }
        let own = self.slot();
        let State::Exchanging(exchange) = &self.state else { unreachable!("matched above") };
        let spoken: Vec<Slot> = self.roster().slots().filter(|s| exchange.received[s.index()].is_some()).collect();
        let awaited = |slot: &Slot| self.attendance.awaited(*slot) && !spoken.contains(slot);
        let tried = exchange.mismatch.as_ref().map_or(0, |(tried, _)| *tried);
        let count = spoken.len() + 1;
        if count < self.needed || count <= tried || self.roster().slots().filter(|s| *s != own).any(|s| awaited(&s)) {
            return Ok(());
        }
        if let Kind::Agree | Kind::Finish = exchange.kind {
            let differs = |slot: &&Slot| exchange.received[slot.index()].as_ref() != Some(&exchange.body);
            if let Some(from) = spoken.iter().find(differs).copied() {
                let what = exchange.kind;
                return self.fault(from, EngineError::Disagree { from, what }, out);
            }
        }
        // Shares that may name nobody are kept until others come.
        let outstanding = |slot: &Slot| *slot != own && self.attendance.heard(*slot) && !spoken.contains(slot);
        let again = match &exchange.own {
            Own::Shares(shares, None) if self.roster().slots().any(|slot| outstanding(&slot)) => {
                Some((exchange.body.clone(), shares.clone(), exchange.received.clone()))
            }
            _ => None,
        };
        let State::Exchanging(exchange) = std::mem::replace(&mut self.state, State::Over) else {
            unreachable!("matched above")
        };
        let kind = exchange.kind;
        let bodies: Vec<(Slot, Body)> =
            self.roster().slots().zip(exchange.received).filter_map(|(slot, body)| Some((slot, body?))).collect();
        match exchange.kind {
            Kind::Agree => self.begin_round(out),
            Kind::Opening | Kind::Packed => {
                let Own::Shares(shares, layer) = exchange.own else { unreachable!("set by begin_round") };
                // Before anything else is looked at: a wrong layer ends the job in one way.
                let told = layer.map_or(Ok(Vec::new()), |layer| self.told(*layer, &bodies))?;
                match (self.decode(shares, bodies), again) {
                    (
                        Err(mismatch @ EngineError::Decode(DecodeError::Inconsistent { .. })),
                        Some((body, shares, received)),
                    ) => {
                        let mismatch = Some((count, mismatch));
                        let own = Own::Shares(shares, None);
                        self.state = State::Exchanging(Exchange { kind, body, own, received, mismatch });
                        Ok(())
                    }
                    (opened, _) => {
                        spoken.iter().for_each(|slot| self.attendance.in_time(*slot));
                        self.end_round(opened?, told, out)
                    }
                }
            }
            Kind::Gather | Kind::Spread | Kind::Agreed | Kind::Combined => {
                self.crowned((exchange.kind, exchange.own, &exchange.body), bodies, out)
            }
            Kind::Freeze
            | Kind::CoinCommit
            | Kind::CoinOpen
            | Kind::CoinAgree
            | Kind::SigmaCommit
            | Kind::SigmaOpen
            | Kind::Passed => self.checked((exchange.kind, exchange.own, &exchange.body), &bodies, out),
            Kind::Finish => self.done(out),
            Kind::Segment => unreachable!("not an exchange"),
        }
    }

    /// The deadline is over: the job goes on without the silent, if it can. At
    /// the last, whoever is still needed ends it.
    pub(super) fn deadline(&mut self, token: u32, last: bool, out: &mut Vec<Action>) -> Step<()> {
        if token != self.step {
            return Ok(());
        }
        let own = self.slot();
        match &self.state {
            State::Segments => {
                let until = self.plan.rounds[self.round].stream_until;
                let index = self.stream.missing(until).unwrap_or_default();
                if last && self.stream.lacks(index) {
                    return Err(EngineError::OwnerSilent { index });
                }
                if last {
                    let missing = self.stream.silent(index);
                    return Err(EngineError::Silent { missing, kind: Kind::Segment });
                }
                // Reports of peers may be lost.
                out.push(Action::Behind);
            }
            State::Exchanging(e) => {
                let silent = |slot: &Slot| *slot != own && e.received[slot.index()].is_none();
                let missing: Vec<Slot> = self.roster().slots().filter(silent).collect();
                let silent = EngineError::Silent { missing: missing.clone(), kind: e.kind };
                let silent = e.mismatch.clone().map_or(silent, |(_, mismatch)| mismatch);
                missing.into_iter().for_each(|slot| self.attendance.miss(slot));
                // They may be ahead, or their frames lost.
                out.push(Action::Behind);
                self.complete(out)?;
                if last && token == self.step && matches!(self.state, State::Exchanging(_)) {
                    return Err(silent);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Says again what a peer may have lost. One that was killed with all it knew lacks
    /// the manifest's digest too, whatever this node has gone through since.
    pub(super) fn resend(&self, to: Slot, out: &mut Vec<Action>) {
        let said = || self.said.iter().flatten();
        if self.step > AGREE_STEP && !said().any(|frame| frame.header.kind == Kind::Agree) {
            let header = self.header(Kind::Agree, AGREE_STEP, self.slot(), to);
            out.push(Action::Send { to, frame: Frame { header, body: Body::Digest(self.agreed) } });
        }
        let said = said().filter(|frame| frame.header.to == to);
        out.extend(said.map(|frame| Action::Send { to, frame: frame.clone() }));
        self.report(to, self.stream.reports(), out);
    }
}
