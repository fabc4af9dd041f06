//! One party running one plan: a state machine without sockets, clocks, files
//! or an async runtime.
//!
//! The job is a sequence of exchanges. In each, every node sends one frame to
//! every other and waits for theirs: first the manifest's digest, then one
//! batch of openings a round, in between and at the end the checks. A node is
//! never more than one exchange ahead of another, so two inboxes are enough.
//! Whoever drives an [`Engine`] feeds it [`Event`]s and carries out its
//! [`Action`]s in order; the tests do so with an adversary in between.
//!
//! Who may be corrupt: at most t nodes under Shamir, all but one under SPDZ.
//! Every honest node holds the same opened words before it sends anything that
//! depends on them: by the redundancy of the shares where [`Roster`] says so,
//! at the check for SPDZ (all its openings are freshly masked).

mod check;
mod error;
mod events;
mod execute;
pub mod frame;
mod layer;
mod stream;

pub use check::{Owed, Passed, Verify};
pub use error::EngineError;
pub use events::{Action, Event, Job, Outcome, OutputShare, Party, Record};

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use rand_core::CryptoRng;

use self::execute::Machine;
use self::frame::{Body, Frame, Header, Kind};
use self::layer::Layer;
use self::stream::Stream;
use crate::backend::Backend;
use crate::field::Fp61;
use crate::program::plan::Plan;
use crate::roster::{Degree, Roster, Slot};
use crate::sharing::Words;
use crate::transcript::{CheckPoint, Coin, Commitment, Opening, Purpose, StreamPlace, Transcript};

/// One party on one sharing.
pub struct Engine<S: Verify> {
    plan: Arc<Plan>,
    manifest: [u8; 32],
    machine: Machine<S>,
    stream: Stream,
    transcript: Transcript,
    rng: Box<dyn CryptoRng + Send>,
    round: usize,
    checks: u32,
    owed: Vec<Owed<S>>,
    blamed: BTreeSet<Slot>,
    /// all rounds are done; the next passed check is the last
    ending: bool,
    step: u32,
    state: State<S>,
    /// frames of peers that are one exchange ahead
    early: Vec<Option<Frame>>,
}

enum State<S: Verify> {
    New,
    /// the round waits for the dealer's stream
    Segments,
    /// the exchange's own frames wait for a record on disk
    Persisting(Exchange<S>),
    Exchanging(Exchange<S>),
    Over,
}

struct Exchange<S: Verify> {
    kind: Kind,
    body: Body,
    /// what this node alone keeps until the exchange is complete
    own: Own<S>,
    received: Vec<Option<Body>>,
}

enum Own<S: Verify> {
    Nothing,
    Shares(Vec<Words<S>>, Option<Box<Layer>>),
    Commit { point: CheckPoint, opening: Opening },
    Opened { point: CheckPoint, commitments: Vec<Commitment> },
    Tossed { point: CheckPoint, coin: Coin },
}

type Step<T> = Result<T, EngineError>;

impl<S: Verify> Engine<S> {
    /// A party at its start. `rng` draws the nonces of commitments; it must be
    /// the operating system's, except in jobs marked insecure.
    pub fn new(job: Job, sharing: S, rng: Box<dyn CryptoRng + Send>) -> Step<Self> {
        let attempt = 0;
        let place =
            StreamPlace { manifest: job.manifest, stream: 0, attempts: job.attempts, words: job.plan.stream_words };
        let roster = sharing.roster();
        Ok(Self {
            manifest: job.manifest,
            stream: Stream::new(job.owner, place, attempt, sharing.slot(), roster),
            transcript: Transcript::new(&job.manifest, EPOCH, VIEW),
            machine: Machine::new(sharing, &job.plan, attempt, job.inputs)?,
            rng,
            round: 0,
            checks: 0,
            owed: Vec::new(),
            blamed: BTreeSet::new(),
            ending: false,
            step: 0,
            state: State::New,
            early: roster.slots().map(|_| None).collect(),
            plan: job.plan,
        })
    }

    fn roster(&self) -> Roster {
        self.machine.sharing.roster()
    }

    fn slot(&self) -> Slot {
        self.machine.sharing.slot()
    }

    // --- rounds ------------------------------------------------------------

    /// Begins the current round, or waits for its segments.
    fn begin_round(&mut self, out: &mut Vec<Action>) -> Step<()> {
        let until = self.plan.rounds[self.round].stream_until;
        // Those of the next round load while this one is under way.
        let ahead = self.plan.rounds.get(self.round + 1).map_or(until, |r| r.stream_until);
        out.extend(self.stream.ask(ahead).map(Action::NeedSegment));
        if self.stream.missing(until).is_some() {
            // Armed once: whatever arrives meanwhile, the owner's time runs on.
            if !matches!(self.state, State::Segments) {
                self.state = State::Segments;
                out.push(Action::Arm { token: self.step });
            }
            return Ok(());
        }
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
        let opened: Vec<_> = plan.openings(self.round).collect();
        let shares: Vec<_> = opened.iter().map(|(i, ..)| self.machine.share(&plan.prims[*i as usize])).collect();
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

    /// All shares of a round are there.
    fn end_round(
        &mut self,
        shares: Vec<Words<S>>,
        layer: Option<Box<Layer>>,
        bodies: Vec<(Slot, Body)>,
        out: &mut Vec<Action>,
    ) -> Step<()> {
        let plan = Arc::clone(&self.plan);
        // Before anything else is looked at: a wrong layer ends the job in one way.
        let told = match layer {
            Some(layer) => {
                let heard = |slot: Slot| match bodies.iter().find(|(from, _)| *from == slot) {
                    Some((_, Body::Packed(_, told))) => told.clone(),
                    _ => unreachable!("decoded by kind"),
                };
                layer.told(&self.manifest, self.round, self.slot(), heard)?
            }
            None => Vec::new(),
        };
        let openings: Vec<_> = plan.openings(self.round).collect();
        let lens: Vec<_> = openings.iter().map(|o| o.2).collect();
        let mut received = Vec::with_capacity(bodies.len());
        for (from, body) in bodies {
            let (Body::Words(words) | Body::Packed(words, _)) = body else { unreachable!("decoded by kind") };
            received.push((from, Arc::try_unwrap(words).unwrap_or_else(|shared| shared.to_vec())));
        }
        let sharing = &self.machine.sharing;
        let mut opened = Vec::with_capacity(openings.len());
        for ((_, degree, _), shares) in openings.iter().zip(execute::cut(sharing, &lens, &shares, &mut received)) {
            let decoded = sharing.decode(*degree, &shares)?;
            self.blamed.extend(decoded.blamed);
            opened.push(decoded.words);
        }
        if self.blamed.len() > usize::from(sharing.roster().threshold()) {
            return Err(EngineError::TooManyLiars { blamed: self.blamed.iter().copied().collect() });
        }
        let mut host = Vec::with_capacity(opened.len());
        for words in &opened {
            host.push(sharing.backend().read(words)?);
        }
        let bits: Vec<_> = told
            .into_iter()
            .filter_map(|(prim, waiting, words)| {
                let opened = self.machine.told(&plan.prims[prim as usize], waiting, &words)?;
                Some((prim, opened))
            })
            .collect();
        let batch = openings.iter().zip(&host).map(|((prim, degree, _), words)| (*prim, 0, *degree, &words[..]));
        let bits = bits.iter().map(|(prim, words)| (*prim, 0, Degree::T, &words[..]));
        self.transcript.absorb_batch(self.round as u32, batch.chain(bits));
        drop(host);
        for ((prim, ..), words) in openings.iter().zip(opened) {
            self.owed.extend(self.machine.opened(&plan.prims[*prim as usize], words));
        }
        let round = &plan.rounds[self.round];
        self.machine.free(round);
        if let Some(below) = self.stream.drop_below(round.stream_from) {
            out.push(Action::DropSegments { below });
        }
        self.round += 1;
        if round.check { self.begin_check(out) } else { self.begin_round(out) }
    }

    /// The last round is computed: everything opened must be verified before
    /// a share of an output leaves the engine.
    fn finish(&mut self, out: &mut Vec<Action>) -> Step<()> {
        self.ending = true;
        if S::OWES {
            return self.begin_check(out);
        }
        let body = Body::Digest(self.transcript.digest());
        self.exchange(Kind::Finish, body, Own::Nothing, None, out)
    }

    fn done(&mut self, out: &mut Vec<Action>) -> Step<()> {
        let passed = Passed { transcript: self.transcript.digest(), checks: self.checks };
        let mut outputs = Vec::with_capacity(self.plan.outputs.len());
        for output in &self.plan.outputs {
            let parts = self.machine.sharing.output(self.machine.secret(output.value));
            outputs.push(OutputShare(self.machine.sharing.backend().read_all(&parts)?));
        }
        self.state = State::Over;
        let blamed = std::mem::take(&mut self.blamed);
        out.push(Action::Done(Box::new(Outcome { passed, outputs, blamed })));
        Ok(())
    }

    // --- the SPDZ check (eprint 2012/642, section 3: commit, then open) ------

    fn begin_check(&mut self, out: &mut Vec<Action>) -> Step<()> {
        let body = Body::Digest(self.transcript.digest());
        self.exchange(Kind::Freeze, body, Own::Nothing, None, out)
    }

    fn commit(
        &mut self,
        kind: Kind,
        point: CheckPoint,
        purpose: Purpose,
        payload: &[u8],
        out: &mut Vec<Action>,
    ) -> Step<()> {
        let mut nonce = [0; 32];
        self.rng.fill_bytes(&mut nonce);
        let (commitment, opening) = Commitment::commit(&point, purpose, self.slot(), nonce, payload);
        self.exchange(kind, Body::Digest(commitment.to_bytes()), Own::Commit { point, opening }, None, out)
    }

    /// All commitments are held: only now is the own one opened.
    fn open_commitment(
        &mut self,
        kind: Kind,
        own: Own<S>,
        own_commitment: &Body,
        bodies: &[(Slot, Body)],
        record: Option<Record>,
        out: &mut Vec<Action>,
    ) -> Step<()> {
        let Own::Commit { point, opening } = own else { unreachable!("set by commit") };
        let mut commitments = Vec::with_capacity(bodies.len() + 1);
        for slot in self.roster().slots() {
            let body = bodies.iter().find(|(from, _)| *from == slot).map_or(own_commitment, |(_, body)| body);
            commitments.push(Commitment::from_bytes(*digest(body)));
        }
        self.exchange(kind, Body::Opening(opening), Own::Opened { point, commitments }, record, out)
    }

    /// Every opening must fit its sender's commitment.
    fn verify_openings(
        &self,
        purpose: Purpose,
        point: &CheckPoint,
        commitments: &[Commitment],
        own: &Body,
        bodies: &[(Slot, Body)],
    ) -> Step<Vec<crate::transcript::Opened>> {
        let mut opened = Vec::with_capacity(commitments.len());
        for (slot, commitment) in self.roster().slots().zip(commitments) {
            let body = bodies.iter().find(|(from, _)| *from == slot).map_or(own, |(_, body)| body);
            let Body::Opening(opening) = body else { unreachable!("decoded by kind") };
            opened.push(commitment.verify(point, purpose, slot, opening)?);
        }
        Ok(opened)
    }

    // --- exchanges ----------------------------------------------------------

    fn exchange(
        &mut self,
        kind: Kind,
        body: Body,
        own: Own<S>,
        record: Option<Record>,
        out: &mut Vec<Action>,
    ) -> Step<()> {
        self.step += 1;
        let mut received: Vec<Option<Body>> = self.roster().slots().map(|_| None).collect();
        for (slot, early) in self.roster().slots().zip(std::mem::take(&mut self.early)) {
            if let Some(frame) = early {
                self.expect(slot, &frame, kind)?;
                received[slot.index()] = Some(frame.body);
            }
        }
        self.early = self.roster().slots().map(|_| None).collect();
        let exchange = Exchange { kind, body, own, received };
        if let Some(record) = record {
            out.push(Action::Persist { token: self.step, record });
            self.state = State::Persisting(exchange);
            return Ok(());
        }
        self.send(exchange, out)
    }

    fn send(&mut self, exchange: Exchange<S>, out: &mut Vec<Action>) -> Step<()> {
        match (&exchange.body, &exchange.own) {
            (Body::Words(words), Own::Shares(_, Some(layer))) => {
                for to in self.roster().slots().filter(|to| *to != self.slot()) {
                    let header = self.header(exchange.kind, self.step, self.slot(), to);
                    let body = Body::Packed(Arc::clone(words), layer.tell(self.slot(), to));
                    out.push(Action::Send { to, frame: Frame { header, body } });
                }
            }
            (body, _) => self.broadcast(exchange.kind, self.step, body, out),
        }
        out.push(Action::Arm { token: self.step });
        self.state = State::Exchanging(exchange);
        self.complete(out)
    }

    fn broadcast(&self, kind: Kind, step: u32, body: &Body, out: &mut Vec<Action>) {
        for to in self.roster().slots().filter(|to| *to != self.slot()) {
            out.push(Action::Send {
                to,
                frame: Frame { header: self.header(kind, step, self.slot(), to), body: body.clone() },
            });
        }
    }

    fn header(&self, kind: Kind, step: u32, from: Slot, to: Slot) -> Header {
        Header { manifest: self.manifest, epoch: EPOCH, view: VIEW, attempt: 0, step, kind, from, to }
    }

    /// A frame must be exactly where the exchange expects it.
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
            None => self.fits(from, frame),
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
        let expected = self.plan.openings(self.round).map(|o| o.2).sum();
        if words.len() != expected {
            return Err(EngineError::Words { from, round: self.round, found: words.len(), expected });
        }
        Ok(())
    }

    fn receive(&mut self, from: Slot, frame: Frame, out: &mut Vec<Action>) -> Step<()> {
        if !self.roster().has(from) || from == self.slot() {
            return Err(EngineError::Unasked("a frame from outside its roster"));
        }
        if frame.header.kind == Kind::Segment {
            self.expect(from, &frame, Kind::Segment)?;
            self.stream.report(frame.header.step, from, *digest(&frame.body))?;
            return if matches!(self.state, State::Segments) { self.begin_round(out) } else { Ok(()) };
        }
        let (kind, step) = (frame.header.kind, frame.header.step);
        let current = match &mut self.state {
            State::Persisting(exchange) | State::Exchanging(exchange) if step == self.step => Some(exchange.kind),
            _ => None,
        };
        if let Some(expected) = current {
            self.expect(from, &frame, expected)?;
            if let State::Persisting(exchange) | State::Exchanging(exchange) = &mut self.state
                && exchange.received[from.index()].replace(frame.body).is_some()
            {
                return Err(EngineError::Twice { from, kind, step });
            }
            return self.complete(out);
        }
        if step != self.step + 1 || matches!(self.state, State::Over) {
            let (found, expected) = (step.to_string(), format!("{} or {}", self.step, self.step + 1));
            return Err(EngineError::Misplaced { from, kind, field: "step", found, expected });
        }
        // What it must be is known when the exchange begins.
        if self.early[from.index()].replace(frame).is_some() {
            return Err(EngineError::Twice { from, kind, step });
        }
        Ok(())
    }

    /// Goes on if everybody has spoken.
    fn complete(&mut self, out: &mut Vec<Action>) -> Step<()> {
        let own = self.slot();
        let ready = matches!(&self.state, State::Exchanging(e)
            if e.received.iter().enumerate().all(|(i, r)| r.is_some() || i == own.index()));
        if !ready {
            return Ok(());
        }
        let State::Exchanging(exchange) = std::mem::replace(&mut self.state, State::Over) else {
            unreachable!("matched above")
        };
        let bodies: Vec<(Slot, Body)> =
            self.roster().slots().zip(exchange.received).filter_map(|(slot, body)| Some((slot, body?))).collect();
        match exchange.kind {
            Kind::Agree => {
                all_equal(exchange.kind, &exchange.body, &bodies)?;
                self.begin_round(out)
            }
            Kind::Opening | Kind::Packed => {
                let Own::Shares(shares, layer) = exchange.own else { unreachable!("set by begin_round") };
                self.end_round(shares, layer, bodies, out)
            }
            Kind::Freeze => {
                all_equal(exchange.kind, &exchange.body, &bodies)?;
                let point = CheckPoint {
                    manifest: self.manifest,
                    epoch: EPOCH,
                    view: VIEW,
                    check: self.checks,
                    transcript: self.transcript.digest(),
                };
                self.commit(Kind::CoinCommit, point, Purpose::Coin, &[], out)
            }
            Kind::CoinCommit => self.open_commitment(Kind::CoinOpen, exchange.own, &exchange.body, &bodies, None, out),
            Kind::CoinOpen => {
                let Own::Opened { point, commitments } = exchange.own else { unreachable!("set by open_commitment") };
                let opened = self.verify_openings(Purpose::Coin, &point, &commitments, &exchange.body, &bodies)?;
                let coin = Coin::toss(&point, self.roster().nodes(), &opened)?;
                let body = Body::Digest(coin.digest());
                self.exchange(Kind::CoinAgree, body, Own::Tossed { point, coin }, None, out)
            }
            Kind::CoinAgree => {
                all_equal(exchange.kind, &exchange.body, &bodies)?;
                let Own::Tossed { point, coin } = exchange.own else { unreachable!("set with the coin") };
                self.transcript.absorb_coins(self.checks, &coin);
                let sigma = self.machine.sharing.sigma_of(&std::mem::take(&mut self.owed), &coin)?;
                self.commit(Kind::SigmaCommit, point, Purpose::Sigma, &sigma.word().to_le_bytes(), out)
            }
            Kind::SigmaCommit => {
                let record = Record::CheckOpened { check: self.checks };
                self.open_commitment(Kind::SigmaOpen, exchange.own, &exchange.body, &bodies, Some(record), out)
            }
            Kind::SigmaOpen => {
                let Own::Opened { point, commitments } = exchange.own else { unreachable!("set by open_commitment") };
                let opened = self.verify_openings(Purpose::Sigma, &point, &commitments, &exchange.body, &bodies)?;
                let mut sum = Fp61::ZERO;
                for o in &opened {
                    let words = crate::field::slice::decode_words(o.payload())
                        .map_err(|source| EngineError::Frame { from: o.sender(), source: source.into() })?;
                    sum += words.into_iter().sum();
                }
                // Both are public by now; nothing secret decides.
                if sum != Fp61::ZERO {
                    return Err(EngineError::CheckFailed { check: self.checks });
                }
                self.transcript.absorb_check(self.checks, true);
                let body = Body::Digest(self.transcript.digest());
                self.exchange(Kind::Passed, body, Own::Nothing, None, out)
            }
            Kind::Passed => {
                all_equal(exchange.kind, &exchange.body, &bodies)?;
                out.push(Action::Persist { token: self.step, record: Record::CheckPassed { check: self.checks } });
                self.checks += 1;
                if self.ending { self.done(out) } else { self.begin_round(out) }
            }
            Kind::Finish => {
                all_equal(exchange.kind, &exchange.body, &bodies)?;
                self.done(out)
            }
            Kind::Segment => unreachable!("not an exchange"),
        }
    }

    fn deadline(&self, token: u32) -> Step<()> {
        if token != self.step {
            return Ok(());
        }
        match &self.state {
            State::Segments => {
                let until = self.plan.rounds[self.round].stream_until;
                Err(EngineError::OwnerSilent { index: self.stream.missing(until).unwrap_or_default() })
            }
            State::Exchanging(e) => {
                let silent = |slot: &Slot| *slot != self.slot() && e.received[slot.index()].is_none();
                Err(EngineError::Silent { missing: self.roster().slots().filter(silent).collect(), kind: e.kind })
            }
            _ => Ok(()),
        }
    }
}

impl<S: Verify> Engine<S> {
    fn take(&mut self, event: Event) -> Step<Vec<Action>> {
        let mut out = Vec::new();
        match event {
            Event::Start => {
                if !matches!(self.state, State::New) {
                    return Err(EngineError::Unasked("a second start"));
                }
                let body = Body::Digest(self.manifest);
                self.exchange(Kind::Agree, body, Own::Nothing, None, &mut out)?;
            }
            Event::Frame { from, frame } => self.receive(from, frame, &mut out)?,
            Event::Header(signed) => {
                if let Some((index, digest)) = self.stream.header(&signed)? {
                    self.broadcast(Kind::Segment, index, &Body::Digest(digest), &mut out);
                }
                if matches!(self.state, State::Segments) {
                    self.begin_round(&mut out)?;
                }
            }
            Event::Segment { index, bytes } => {
                self.stream.load(index, &bytes)?;
                if matches!(self.state, State::Segments) {
                    self.begin_round(&mut out)?;
                }
            }
            Event::Persisted { token } => match std::mem::replace(&mut self.state, State::Over) {
                State::Persisting(exchange) if token == self.step => self.send(exchange, &mut out)?,
                other => self.state = other,
            },
            Event::Deadline { token } => self.deadline(token)?,
        }
        Ok(out)
    }
}

impl<S: Verify> Party for Engine<S> {
    fn step(&mut self, event: Event) -> Result<Vec<Action>, EngineError> {
        if matches!(self.state, State::Over) {
            return Err(EngineError::Unasked("an event after the end of the job"));
        }
        let actions = self.take(event);
        if actions.is_err() {
            // Nothing that comes later may make this party speak again.
            self.state = State::Over;
        }
        actions
    }

    fn progress(&self) -> (usize, usize) {
        (self.round, self.plan.rounds.len() - 1)
    }

    fn largest_frame(&self) -> usize {
        largest_frame(&self.plan)
    }
}

/// The greatest frame of a job with this plan, in bytes.
pub fn largest_frame(plan: &Plan) -> usize {
    let words = |r| plan.openings(r).map(|o| o.2).sum::<usize>() + plan.layer_words(r);
    let words = (0..plan.rounds.len()).map(words).max().unwrap_or(0);
    frame::HEADER_BYTES + (8 * words + 33).max(64)
}

/// Jobs begin and, in this version, end in their first epoch and view.
const EPOCH: u32 = 0;
const VIEW: u32 = 0;

fn digest(body: &Body) -> &[u8; 32] {
    let Body::Digest(digest) = body else { unreachable!("decoded by kind") };
    digest
}

fn all_equal(what: Kind, own: &Body, bodies: &[(Slot, Body)]) -> Step<()> {
    match bodies.iter().find(|(_, body)| digest(body) != digest(own)) {
        Some((from, _)) => Err(EngineError::Disagree { from: *from, what }),
        None => Ok(()),
    }
}
