//! One party running one plan: a state machine without sockets, clocks, files
//! or an async runtime.
//!
//! The job is a sequence of exchanges. In each, every node sends one frame to
//! every other and waits for theirs: first the manifest's digest, then one
//! batch of openings a round, in between and at the end the checks. A node
//! keeps the frames of the exchange that it is in and of the next. Where the
//! plan bears losses ([`Plan::spare`]) an exchange goes on without those that
//! are absent, and who is further behind than that is told the opened words
//! ([`Event::Words`]). Whoever drives an [`Engine`] feeds it [`Event`]s and
//! carries out its [`Action`]s in order; the tests do so with an adversary in
//! between.
//!
//! Who may be corrupt: at most t nodes under Shamir, all but one under SPDZ.
//! Every honest node holds the same opened words before it sends anything that
//! depends on them: by the redundancy of the shares where [`Roster`] says so, by
//! comparing where kings opened, at the check for SPDZ (all its
//! openings are freshly masked).

mod ahead;
mod attendance;
mod check;
mod checkpoint;
mod depart;
mod error;
mod events;
mod execute;
pub mod frame;
mod king;
mod layer;
mod stream;

pub use check::{Owed, Passed, Verify};
pub use checkpoint::Checkpoint;
pub use depart::depart;
pub use error::EngineError;
pub use events::{Action, Event, Job, Outcome, OutputShare, Party, Record};

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::mem::take;
use std::sync::Arc;

use rand_core::CryptoRng;

use self::attendance::Attendance;
use self::execute::Machine;
use self::frame::{Body, Frame, Header, Kind};
use self::king::{Held, King};
use self::layer::Layer;
use self::stream::Stream;
use crate::backend::Backend;
use crate::field::Fp61;
use crate::program::plan::Plan;
use crate::roster::{Degree, Roster, Slot};
use crate::sharing::{DecodeError, Words};
use crate::transcript::{CheckPoint, Coin, Commitment, Opening, Purpose, StreamPlace, Transcript};

/// One party on one sharing.
pub struct Engine<S: Verify> {
    plan: Arc<Plan>,
    manifest: [u8; 32],
    attempt: u32,
    /// what all must hold alike before the first word of the attempt
    agreed: [u8; 32],
    machine: Machine<S>,
    stream: Stream,
    transcript: Transcript,
    rng: Box<dyn CryptoRng + Send>,
    round: usize,
    checks: u32,
    owed: Vec<Owed<S>>,
    held: Held<S>,
    /// slots whose wrong shares were corrected, or who sent what no honest node sends
    blamed: BTreeSet<Slot>,
    attendance: Attendance,
    /// how many nodes, this one among them, an exchange takes
    needed: usize,
    /// [`Plan::replays`]
    replays: bool,
    /// all rounds are done; the next passed check is the last
    ending: bool,
    step: u32,
    state: State<S>,
    /// frames of peers that are one exchange ahead
    early: Vec<Option<Frame>>,
    /// peers that are further ahead
    ahead: BTreeSet<Slot>,
    /// what was opened in the round that is about to begin, if that is known
    known: Option<Known>,
    /// the frames of the two exchanges before this one, and of this one. A link that
    /// breaks may lose the last two. A peer that was killed may even be two exchanges behind,
    /// because it does not know any more what it had opened in the one between
    said: [Vec<Frame>; 3],
    /// the last round was taken from [`Known`] words
    skipped: bool,
    /// before these rounds the state is given out
    checkpoints: BTreeSet<usize>,
    /// the job ended well
    done: bool,
}

/// What was opened in a round, as others say.
struct Known {
    words: Vec<Fp61>,
    /// the transcript after it
    transcript: [u8; 32],
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
    /// shares of so many nodes lie on no polynomial, and name nobody yet
    mismatch: Option<(usize, EngineError)>,
}

enum Own<S: Verify> {
    Nothing,
    Shares(Vec<Words<S>>, Option<Box<Layer>>),
    King(Box<King<S>>),
    Commit { point: CheckPoint, opening: Opening },
    Opened { point: CheckPoint, commitments: Vec<Commitment> },
    Tossed { point: CheckPoint, coin: Coin },
}

type Step<T> = Result<T, EngineError>;

impl<S: Verify> Engine<S> {
    /// A party at its start. `rng` draws the nonces of commitments; it must be
    /// the operating system's, except in jobs marked insecure.
    pub fn new(job: Job, sharing: S, rng: Box<dyn CryptoRng + Send>) -> Step<Self> {
        let attempt = job.attempt;
        let place =
            StreamPlace { manifest: job.manifest, stream: 0, attempts: job.attempts, words: job.plan.stream_words };
        let roster = sharing.roster();
        let (agreed, transcript) = begun(&job.manifest, attempt);
        Ok(Self {
            manifest: job.manifest,
            attempt,
            agreed,
            stream: Stream::new(job.owner, place, attempt, sharing.slot(), roster, job.plan.needed()),
            transcript,
            machine: Machine::new(sharing, &job.plan, attempt, job.inputs)?,
            rng,
            round: 0,
            checks: 0,
            owed: Vec::new(),
            held: Held::default(),
            blamed: BTreeSet::new(),
            attendance: Attendance::new(roster),
            needed: job.plan.needed(),
            replays: job.plan.replays(),
            ending: false,
            step: 0,
            state: State::New,
            early: roster.slots().map(|_| None).collect(),
            ahead: BTreeSet::new(),
            known: None,
            said: [const { Vec::new() }; 3],
            skipped: false,
            checkpoints: BTreeSet::new(),
            done: false,
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

    /// What a layer of packed bits told this node, as it was vouched for.
    fn told(&self, layer: Layer, bodies: &[(Slot, Body)]) -> Step<Vec<layer::ToldStep>> {
        let heard = |slot: Slot| match bodies.iter().find(|(from, _)| *from == slot) {
            Some((_, Body::Packed(_, told))) => told.clone(),
            _ => unreachable!("decoded by kind"),
        };
        layer.told(&self.manifest, self.round, self.slot(), heard)
    }

    /// The words of a round are there, from the shares of all nodes or of enough.
    fn end_round(&mut self, opened: Vec<Words<S>>, told: Vec<layer::ToldStep>, out: &mut Vec<Action>) -> Step<()> {
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
    fn decode(&mut self, shares: Vec<Words<S>>, bodies: Vec<(Slot, Body)>) -> Step<Vec<Words<S>>> {
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
    fn next_round(&mut self, out: &mut Vec<Action>) -> Step<()> {
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

    fn done(&mut self, out: &mut Vec<Action>) -> Step<()> {
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

    // --- the check: of MACs in SPDZ (eprint 2012/642, section 3: commit, then
    // open), of what kings opened in Shamir -----------------------------------

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

    /// The check passed here; it counts once all nodes say so. What was sent for it is without
    /// danger from now on, and whoever says so can go on from here: both are on disk first.
    fn check_passed(&mut self, out: &mut Vec<Action>) -> Step<()> {
        self.transcript.absorb_check(self.checks, true);
        self.checkpoint_behind_check(out)?;
        let body = Body::Digest(self.transcript.digest());
        let record = Record::CheckPassed { check: self.checks };
        self.exchange(Kind::Passed, body, Own::Nothing, Some(record), out)
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

    /// The next exchange is the current one.
    fn next_step(&mut self) -> Vec<Option<Frame>> {
        self.step += 1;
        self.ahead.clear();
        let nothing = self.roster().slots().map(|_| None).collect();
        std::mem::replace(&mut self.early, nothing)
    }

    fn exchange(
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
    fn persisted(&mut self, out: &mut Vec<Action>) -> Step<()> {
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

    /// Digests of segments for one peer.
    fn report(&self, to: Slot, segments: impl IntoIterator<Item = (u32, [u8; 32])>, out: &mut Vec<Action>) {
        out.extend(segments.into_iter().map(|(index, digest)| Action::Send {
            to,
            frame: Frame { header: self.header(Kind::Segment, index, self.slot(), to), body: Body::Digest(digest) },
        }));
    }

    fn header(&self, kind: Kind, step: u32, from: Slot, to: Slot) -> Header {
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
    fn receive(&mut self, from: Slot, frame: Frame, out: &mut Vec<Action>) -> Step<()> {
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
    fn fault(&mut self, from: Slot, fault: EngineError, out: &mut Vec<Action>) -> Step<()> {
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
    fn blame(&mut self, slot: Slot) -> Step<()> {
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

    /// Goes on if everybody who is waited for has spoken, and enough have.
    fn complete(&mut self, out: &mut Vec<Action>) -> Step<()> {
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
                if !S::OWES {
                    return self.combine(&coin, out);
                }
                let sigma = self.machine.sharing.sigma_of(&take(&mut self.owed), &coin)?;
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
                self.check_passed(out)
            }
            Kind::Passed => {
                all_equal(exchange.kind, &exchange.body, &bodies)?;
                self.checks += 1;
                if self.ending { self.done(out) } else { self.begin_round(out) }
            }
            Kind::Finish => self.done(out),
            Kind::Segment => unreachable!("not an exchange"),
        }
    }

    /// The deadline is over: the job goes on without the silent, if it can. At
    /// the last, whoever is still needed ends it.
    fn deadline(&mut self, token: u32, last: bool, out: &mut Vec<Action>) -> Step<()> {
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

    /// What was opened in the current round is known from elsewhere.
    fn words(&mut self, known: Known, out: &mut Vec<Action>) -> Step<()> {
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
}

impl<S: Verify> Engine<S> {
    fn take(&mut self, event: Event) -> Step<Vec<Action>> {
        let mut out = Vec::new();
        match event {
            Event::Start => {
                if !matches!(self.state, State::New) {
                    return Err(EngineError::Unasked("a second start"));
                }
                if self.round > 0 && !S::OWES {
                    // It has agreed on the job before.
                    self.begin_round(&mut out)?;
                    return Ok(out);
                }
                let body = Body::Digest(self.agreed);
                self.exchange(Kind::Agree, body, Own::Nothing, None, &mut out)?;
            }
            Event::Frame { from, frame } => self.receive(from, frame, &mut out)?,
            Event::Header(signed) => {
                if let Some(report) = self.stream.header(&signed)? {
                    self.roster()
                        .slots()
                        .filter(|to| *to != self.slot())
                        .for_each(|to| self.report(to, [report], &mut out));
                    for (from, differs) in self.stream.differing(report.0) {
                        self.fault(from, differs, &mut out)?;
                    }
                }
                self.complete(&mut out)?;
            }
            Event::Segment { index, bytes } => {
                self.stream.load(index, &bytes)?;
                self.loaded(&mut out)?;
            }
            Event::Checked(segment) => {
                self.stream.take(segment)?;
                self.loaded(&mut out)?;
            }
            Event::Persisted { token } => {
                if token == self.step && matches!(self.state, State::Persisting(_)) {
                    self.persisted(&mut out)?;
                }
            }
            Event::Deadline { token, last } => self.deadline(token, last, &mut out)?,
            Event::Gone { peer } => {
                if self.roster().has(peer) && peer != self.slot() {
                    self.attendance.miss(peer);
                    self.complete(&mut out)?;
                }
            }
            Event::Resend { to } => self.resend(to, &mut out),
            Event::Words { round, transcript, words } => {
                if !self.replays || round >= self.plan.opening_rounds() {
                    return Err(EngineError::Unasked("opened words"));
                }
                let expected: usize = self.plan.openings(round).map(|o| o.2).sum();
                if words.len() != expected {
                    let what = format!("found {} words, expected {expected}", words.len());
                    return Err(EngineError::Told { round, what });
                }
                if round == self.round && self.known.is_none() {
                    self.words(Known { words, transcript }, &mut out)?;
                }
            }
        }
        Ok(out)
    }

    /// One more segment is there.
    fn loaded(&mut self, out: &mut Vec<Action>) -> Step<()> {
        if matches!(self.state, State::Segments) { self.begin_round(out) } else { Ok(()) }
    }

    /// Says again what a peer may have lost. One that was killed with all it knew lacks
    /// the manifest's digest too, whatever this node has gone through since.
    fn resend(&self, to: Slot, out: &mut Vec<Action>) {
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

impl<S: Verify> Party for Engine<S> {
    fn step(&mut self, event: Event) -> Result<Vec<Action>, EngineError> {
        if self.done {
            // Those that are behind may still need what was said last.
            let mut out = Vec::new();
            if let Event::Resend { to } = event {
                self.resend(to, &mut out);
            }
            return Ok(out);
        }
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

    fn ahead(&mut self) -> bool {
        self.work_ahead()
    }

    fn checkpoint_before(&mut self, rounds: &[usize]) {
        let clean = if S::OWES { self.plan.clean_cuts() } else { Vec::new() };
        self.checkpoints = rounds.iter().copied().filter(|round| !S::OWES || clean[*round]).collect();
    }

    fn restore(&mut self, checkpoint: &Checkpoint) -> Result<(), EngineError> {
        self.begin_at(checkpoint)
    }

    fn blames(&self, peer: Slot) -> bool {
        self.blamed.contains(&peer)
    }

    fn rest(&mut self) {
        if self.done {
            self.machine.clear();
            self.stream.clear();
        }
    }

    fn progress(&self) -> (usize, usize) {
        (self.round, self.plan.rounds.len() - 1)
    }

    fn largest_frame(&self) -> usize {
        largest_frame(&self.plan)
    }
}

/// How far the stream is loaded in a round: that of the next one comes while it is under way.
fn ahead_until(plan: &Plan, round: usize) -> u64 {
    plan.rounds.get(round + 1).or(plan.rounds.get(round)).map_or(0, |round| round.stream_until)
}

/// How many segments a party asks for when it begins.
pub fn first_segments(plan: &Plan) -> u32 {
    stream::segments_below(ahead_until(plan, 0))
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
/// The first exchange, of the manifest's digest.
const AGREE_STEP: u32 = 1;

/// What is compared first, and what is absorbed before that, where an attempt begins at the beginning.
fn begun(manifest: &[u8; 32], attempt: u32) -> ([u8; 32], Transcript) {
    let mut transcript = Transcript::new(manifest, EPOCH, VIEW);
    if attempt == 0 {
        return (*manifest, transcript);
    }
    transcript.absorb_attempt(attempt, 0);
    (transcript.digest(), transcript)
}

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
