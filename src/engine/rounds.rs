//! The rounds: what is computed in each, what it opens, and what follows from the words, whether
//! they come of an exchange or are known without one.

use std::collections::BTreeSet;
use std::mem::take;
use std::sync::Arc;

use super::frame::{Body, Kind};
use super::layer::{self, Layer};
use super::{
    Action, Engine, EngineError, Known, Outcome, OutputShare, Own, Passed, Record, State, Step, Verify, ahead_until,
    execute,
};
use crate::backend::Backend;
use crate::field::Fp61;
use crate::roster::{Degree, Slot};
use crate::sharing::Words;

impl<S: Verify> Engine<S> {
    /// Begins the current round, or waits for its segments.
    pub(super) fn begin_round(&mut self, out: &mut Vec<Action>) -> Step<()> {
        let until = self.plan.rounds[self.round].stream_until;
        let ahead = ahead_until(&self.plan, self.round);
        out.extend(self.stream.ask(ahead).map(Action::NeedSegment));
        if self.stream.missing(until).is_some() {
            // Armed once: whatever arrives meanwhile, the owner's time runs on.
            if !matches!(self.state, State::Segments) {
                self.state = State::Segments;
                out.push(Action::Arm { token: self.step });
            }
            return Ok(());
        }
        // Armed anew for the next round that waits.
        self.state = State::Over;
        self.stream.absorb(until, &mut self.transcript);
        let plan = Arc::clone(&self.plan);
        let round = &plan.rounds[self.round];
        let stream = &self.stream;
        let delta = |offset, words| stream.words(offset, words);
        for prim in &round.local {
            self.machine.local(&plan, &plan.prims[*prim as usize], &delta)?;
        }
        if round.open.is_empty() {
            return self.finish(out);
        }
        if let Some(known) = self.known.take() {
            // Nothing is sent for such a round, and nobody waits for it.
            self.next_step();
            return self.skip_round(known, out);
        }
        let opened: Vec<_> = plan.openings(self.round).collect();
        let shares: Vec<_> = opened.iter().map(|(i, ..)| self.machine.share(&plan, &plan.prims[*i as usize])).collect();
        // The shares are made, and no check asks for their operands.
        if !S::OWES {
            self.machine.free_secrets(round);
        }
        if round.king {
            return self.gather(shares, out);
        }
        let body = Body::Words(Arc::new(self.machine.sharing.backend().read_all(&shares)?));
        let packed = round.open.iter().filter(|i| plan.prims[**i as usize].packed());
        let mut layer = None;
        for &prim in packed {
            let (waiting, said) = self.machine.say(&plan.prims[prim as usize]);
            let layer = layer.get_or_insert_with(|| Box::new(Layer::new(&self.manifest, self.round, self.slot())));
            layer.say(prim, waiting, said);
        }
        let kind = if layer.is_some() { Kind::Packed } else { Kind::Opening };
        let record = Record::Cursor { round: self.round as u32 };
        self.exchange(kind, body, Own::Shares(shares, layer), Some(record), out)
    }

    /// One more segment is there.
    pub(super) fn loaded(&mut self, out: &mut Vec<Action>) -> Step<()> {
        if matches!(self.state, State::Segments) { self.begin_round(out) } else { Ok(()) }
    }

    /// What a layer of packed bits told this node, as it was vouched for.
    pub(super) fn told(&self, layer: Layer, bodies: &[(Slot, Body)]) -> Step<Vec<layer::ToldStep>> {
        let heard = |slot: Slot| match bodies.iter().find(|(from, _)| *from == slot) {
            Some((_, Body::Packed(_, told))) => told.clone(),
            _ => unreachable!("decoded by kind"),
        };
        layer.told(&self.manifest, self.round, self.slot(), heard)
    }

    /// The words of a round are there, from the shares of all nodes or of enough.
    pub(super) fn end_round(
        &mut self,
        opened: Vec<Words<S>>,
        told: Vec<layer::ToldStep>,
        out: &mut Vec<Action>,
    ) -> Step<()> {
        let plan = Arc::clone(&self.plan);
        let bits: Vec<_> = told
            .into_iter()
            .filter_map(|(prim, waiting, words)| {
                let opened = self.machine.told(&plan.prims[prim as usize], waiting, &words)?;
                Some((prim, opened))
            })
            .collect();
        self.opened(opened, &bits, out)?;
        self.next_round(out)
    }

    /// The words of a round's openings. Whoever sent wrong shares is named.
    pub(super) fn decode(&mut self, shares: Vec<Words<S>>, bodies: Vec<(Slot, Body)>) -> Step<Vec<Words<S>>> {
        let plan = Arc::clone(&self.plan);
        let openings = || plan.openings(self.round);
        let lens: Vec<_> = openings().map(|o| o.2).collect();
        let mut received = Vec::with_capacity(bodies.len());
        for (from, body) in bodies {
            let (Body::Words(words) | Body::Packed(words, _)) = body else { unreachable!("decoded by kind") };
            received.push((from, Arc::try_unwrap(words).unwrap_or_else(|shared| shared.to_vec())));
        }
        let mut from: Vec<Slot> = received.iter().map(|(slot, _)| *slot).chain([self.slot()]).collect();
        from.sort_unstable();
        let sharing = &self.machine.sharing;
        let (mut opened, mut wrong) = (Vec::with_capacity(lens.len()), BTreeSet::new());
        for ((_, degree, _), shares) in openings().zip(execute::cut(sharing, &lens, &shares, &mut received)) {
            let decoded = sharing.decode(degree, &from, &shares)?;
            wrong.extend(decoded.blamed);
            opened.push(decoded.words);
        }
        if wrong.contains(&self.slot()) {
            return Err(EngineError::OwnShare);
        }
        wrong.into_iter().try_for_each(|slot| self.blame(slot))?;
        Ok(opened)
    }

    /// The words of a round are known without an exchange.
    fn skip_round(&mut self, known: Known, out: &mut Vec<Action>) -> Step<()> {
        let plan = Arc::clone(&self.plan);
        let (mut words, mut opened) = (&known.words[..], Vec::new());
        for (_, _, len) in plan.openings(self.round) {
            let (first, rest) = words.split_at(len);
            opened.push(self.machine.sharing.backend().load(first.to_vec()));
            words = rest;
        }
        self.machine.skip(&plan, &plan.rounds[self.round]);
        self.opened(opened, &[], out)?;
        if self.transcript.digest() != known.transcript {
            let what = "this node's transcript after it is another".to_owned();
            return Err(EngineError::Told { round: self.round, what });
        }
        self.skipped = true;
        self.next_round(out)
    }

    /// What was opened in the current round is known from elsewhere.
    pub(super) fn words(&mut self, known: Known, out: &mut Vec<Action>) -> Step<()> {
        match std::mem::replace(&mut self.state, State::Over) {
            // Whoever knows what was opened has agreed on the job.
            State::Persisting(e) | State::Exchanging(e) if e.kind == Kind::Agree => {
                self.known = Some(known);
                self.begin_round(out)
            }
            State::Persisting(e) | State::Exchanging(e) if e.kind == Kind::Opening => self.skip_round(known, out),
            State::Segments => {
                self.known = Some(known);
                self.state = State::Segments;
                self.begin_round(out)
            }
            state => {
                self.state = state;
                Ok(())
            }
        }
    }

    /// Takes a round's opened words.
    fn opened(&mut self, opened: Vec<Words<S>>, bits: &[(u32, Vec<Fp61>)], out: &mut Vec<Action>) -> Step<()> {
        let plan = Arc::clone(&self.plan);
        let openings: Vec<_> = plan.openings(self.round).collect();
        let mut host = Vec::with_capacity(opened.len());
        for words in &opened {
            host.push(self.machine.sharing.backend().read(words)?);
        }
        let batch =
            openings.iter().zip(&host).map(|((prim, degree, _), words)| (*prim, self.attempt, *degree, &words[..]));
        let bits = bits.iter().map(|(prim, words)| (*prim, self.attempt, Degree::T, &words[..]));
        self.transcript.absorb_batch(self.round as u32, batch.chain(bits));
        if self.replays {
            let words = host.iter().map(|words| &words[..]).collect::<Vec<_>>().concat();
            out.push(Action::Log { round: self.round, transcript: self.transcript.digest(), words });
        }
        drop(host);
        for ((prim, ..), words) in openings.iter().zip(opened) {
            self.owed.extend(self.machine.opened(&plan.prims[*prim as usize], words));
        }
        Ok(())
    }

    /// The round's words are there: on to the next.
    pub(super) fn next_round(&mut self, out: &mut Vec<Action>) -> Step<()> {
        let plan = Arc::clone(&self.plan);
        let round = &plan.rounds[self.round];
        self.machine.free(round);
        out.extend(self.stream.drop_below(round.stream_from).map(|below| Action::DropSegments { below }));
        self.round += 1;
        self.checkpoint(out)?;
        if round.check { self.begin_check(out) } else { self.begin_round(out) }
    }

    /// The last round is computed: everything opened must be verified before
    /// a share of an output leaves the engine.
    fn finish(&mut self, out: &mut Vec<Action>) -> Step<()> {
        self.ending = true;
        if S::OWES || self.plan.has_kings() {
            return self.begin_check(out);
        }
        let body = Body::Digest(self.transcript.digest());
        self.exchange(Kind::Finish, body, Own::Nothing, None, out)
    }

    pub(super) fn done(&mut self, out: &mut Vec<Action>) -> Step<()> {
        let passed = Passed { transcript: self.transcript.digest(), checks: self.checks };
        let mut outputs = Vec::with_capacity(self.plan.outputs.len());
        for (index, output) in self.plan.outputs.iter().enumerate() {
            let again = self.plan.outputs[index + 1..].iter().any(|later| later.value == output.value);
            let parts = self.machine.output(output.value, again);
            outputs.push(OutputShare(self.machine.sharing.backend().take_all(parts)?));
        }
        self.state = State::Over;
        self.done = true;
        let blamed = take(&mut self.blamed);
        out.push(Action::Done(Box::new(Outcome { passed, outputs, blamed })));
        Ok(())
    }
}
