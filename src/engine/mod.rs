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
mod exchange;
mod execute;
pub mod frame;
mod king;
mod layer;
mod receive;
mod rounds;
mod stream;

pub use check::{Owed, Passed, Verify};
pub use checkpoint::Checkpoint;
pub use depart::depart;
pub use error::EngineError;
pub use events::{Action, Event, Job, Outcome, OutputShare, Party, Record};

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use rand_core::CryptoRng;

use self::attendance::Attendance;
use self::execute::Machine;
use self::frame::{Body, Frame, Kind};
use self::king::{Held, King};
use self::layer::Layer;
use self::stream::Stream;
use crate::field::Fp61;
use crate::program::plan::Plan;
use crate::roster::{Roster, Slot};
use crate::sharing::Words;
use crate::transcript::{CheckPoint, Coin, Commitment, Opening, StreamPlace, Transcript};

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
