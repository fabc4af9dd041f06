//! One job's engine on a thread of its own: it computes and waits for the
//! disk, so it must never run on the threads that serve sockets.
//!
//! Everything that must be on disk is written here, between the action that
//! asks for it and the event that reports it.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use super::wire::Peer;
use crate::backend::{Device, Devices, Opened};
use crate::engine::frame::{Frame, Kind};
use crate::engine::{Action, EngineError, Event, Outcome, Party, Record};
use crate::entropy::Entropy;
use crate::job::replay::{Log, Survivor};
use crate::job::{Assigned, Conclusion};
use crate::net::Message;
use crate::roster::Slot;
use crate::store::{Nonce, Store};

/// To the engine's thread.
pub(super) enum Letter {
    /// the Δ of all inputs, as they came
    Inputs(Vec<Vec<u8>>),
    /// an engine's frame from a peer's link, and its room among those that wait
    Frame { from: Slot, bytes: Bytes, _room: OwnedSemaphorePermit },
    /// a start, a header whose segment is stored, or a deadline
    Event(Event),
}

/// From the engine's thread.
pub(super) enum Word {
    /// the inputs are verified
    Verified,
    /// what the first rounds draw is expanded, as far as it may be ahead
    Ready,
    Send {
        to: Slot,
        frame: Message,
    },
    Arm {
        token: u32,
    },
    Round {
        round: u32,
        of: u32,
    },
    /// the engine is done; nothing follows
    Outcome(Box<Outcome>, Box<Conclusion>),
    /// the job has to end; nothing follows
    Failed(String),
}

/// What the thread needs beside its letters.
pub(super) struct Job {
    pub(super) assigned: Assigned,
    pub(super) nonce: Nonce,
    pub(super) store: Arc<dyn Store>,
    pub(super) entropy: Entropy,
    /// where the job is computed
    pub(super) devices: Arc<Devices>,
    /// microseconds spent in checks, over all jobs
    pub(super) checking: Arc<AtomicU64>,
}

/// Runs until the engine is done, has failed, or nobody listens any more.
pub(super) fn run(job: Job, mut letters: UnboundedReceiver<Letter>, words: &UnboundedSender<Word>) {
    if let Err(Ended::Failed(reason)) = drive(job, &mut letters, words) {
        // Nobody hears it if the session has ended already.
        let _ = words.send(Word::Failed(reason));
    }
}

/// Why the thread ends before the engine is done.
enum Ended {
    /// the session is gone
    Alone,
    Failed(String),
}

impl<E: std::error::Error> From<E> for Ended {
    fn from(error: E) -> Self {
        Self::Failed(error.to_string())
    }
}

fn drive(job: Job, letters: &mut UnboundedReceiver<Letter>, words: &UnboundedSender<Word>) -> Result<(), Ended> {
    let Job { assigned, nonce, store, entropy, devices, checking } = job;
    // Frames of peers that were quicker; their room bounds their number.
    let mut early = VecDeque::new();
    let inputs = loop {
        match letters.blocking_recv().ok_or(Ended::Alone)? {
            Letter::Inputs(inputs) => break inputs,
            other => early.push_back(other),
        }
    };
    let mut rng = entropy.generator(&[b"engine", &assigned.manifest().digest(), &[assigned.slot().0]])?;
    let conclusion = assigned.conclusion();
    // It may have been lost since the last job.
    let Opened { device, fell_back } = devices.open()?;
    if let Some(why) = fell_back {
        tracing::debug!("this job has no GPU: {why}");
    }
    let Settled(device) = &Settled(device);
    let log = Box::new(Kept { store: Arc::clone(&store), nonce });
    let mut party: Box<dyn Party> = Box::new(Survivor::new(assigned, inputs, device, &mut *rng, log)?);
    say(words, Word::Verified)?;
    while party.ahead() {
        if words.is_closed() {
            return Err(Ended::Alone);
        }
    }
    say(words, Word::Ready)?;
    let mut engine = Engine {
        party,
        nonce,
        store,
        words,
        round: None,
        headers: 0,
        wanted: BTreeSet::new(),
        events: VecDeque::new(),
        check: None,
        checking,
    };
    loop {
        let letter = match early.pop_front() {
            Some(letter) => letter,
            None => next_letter(letters, &mut *engine.party)?,
        };
        let event = match letter {
            Letter::Inputs(_) => return Err(Ended::Failed("the inputs came twice".to_owned())),
            Letter::Event(event) => event,
            Letter::Frame { from, bytes, .. } => match Peer::decode(&bytes) {
                Some(Peer::Frame(bytes)) => {
                    let frame = Frame::decode(bytes).map_err(|source| EngineError::Frame { from, source })?;
                    Event::Frame { from, frame }
                }
                _ => return Err(Ended::Failed(format!("{from} sent no frame of the engine"))),
            },
        };
        engine.events.push_back(event);
        if let Some(outcome) = engine.settle()? {
            return say(words, Word::Outcome(outcome, Box::new(conclusion)));
        }
    }
}

/// The next letter; while there is none, the party works ahead.
fn next_letter(letters: &mut UnboundedReceiver<Letter>, party: &mut dyn Party) -> Result<Letter, Ended> {
    loop {
        match letters.try_recv() {
            Ok(letter) => return Ok(letter),
            Err(TryRecvError::Disconnected) => return Err(Ended::Alone),
            Err(TryRecvError::Empty) if party.ahead() => {}
            Err(TryRecvError::Empty) => return letters.blocking_recv().ok_or(Ended::Alone),
        }
    }
}

/// A device on which nothing of the job is left when the thread ends, however
/// it ends: it may have nothing else to do for a long time.
struct Settled(Device);

impl Drop for Settled {
    fn drop(&mut self) {
        self.0.settle();
    }
}

/// A job's log in the node's store.
struct Kept {
    store: Arc<dyn Store>,
    nonce: Nonce,
}

impl Log for Kept {
    fn append(&mut self, index: u32, entry: &[u8]) -> Result<(), String> {
        self.store.append_log(self.nonce, index, entry).map_err(|e| e.to_string())
    }
    fn entry(&self, index: u32) -> Result<Vec<u8>, String> {
        let entry = self.store.log_entry(self.nonce, index).map_err(|e| e.to_string())?;
        entry.ok_or_else(|| format!("event {index} is not in this node's store any more"))
    }
    fn segment(&self, index: u32) -> Result<Vec<u8>, String> {
        let segment = self.store.segment(self.nonce, index).map_err(|e| e.to_string())?;
        segment.ok_or_else(|| format!("segment {index} is not in this node's store any more"))
    }
}

fn say(words: &UnboundedSender<Word>, word: Word) -> Result<(), Ended> {
    words.send(word).map_err(|_| Ended::Alone)
}

struct Engine<'a> {
    party: Box<dyn Party>,
    nonce: Nonce,
    store: Arc<dyn Store>,
    words: &'a UnboundedSender<Word>,
    round: Option<usize>,
    /// segments below this are stored and their headers known to the party
    headers: u32,
    /// segments that the party has asked for and that are not there yet
    wanted: BTreeSet<u32>,
    events: VecDeque<Event>,
    /// when the check under way began
    check: Option<Instant>,
    /// microseconds spent in checks
    checking: Arc<AtomicU64>,
}

impl Engine<'_> {
    /// Feeds the party until it waits for something from outside. Nothing is
    /// fed to it after it is done.
    fn settle(&mut self) -> Result<Option<Box<Outcome>>, Ended> {
        loop {
            let Some(event) = self.events.pop_front() else {
                let Some(index) = self.wanted.first().copied().filter(|index| *index < self.headers) else {
                    return Ok(None);
                };
                self.wanted.remove(&index);
                let lost =
                    || Ended::Failed(format!("segment {index} is not in this node's store any more: free its disk"));
                let bytes = self.store.segment(self.nonce, index)?.ok_or_else(lost)?;
                self.events.push_back(Event::Segment { index, bytes });
                continue;
            };
            self.headers += u32::from(matches!(event, Event::Header(_)));
            for action in self.party.step(event)? {
                if let Some(outcome) = self.carry_out(action)? {
                    return Ok(Some(outcome));
                }
            }
            let (round, of) = self.party.progress();
            if self.round.replace(round) != Some(round) {
                say(self.words, Word::Round { round: round as u32, of: of as u32 })?;
            }
        }
    }

    fn carry_out(&mut self, action: Action) -> Result<Option<Box<Outcome>>, Ended> {
        match action {
            Action::Send { to, frame } => {
                if frame.header.kind == Kind::Freeze {
                    self.check.get_or_insert_with(Instant::now);
                }
                say(self.words, Word::Send { to, frame: Peer::encode_frame(&frame) })?;
            }
            Action::Persist { token, record } => {
                match record {
                    Record::Cursor { round } => self.store.advance(self.nonce, round)?,
                    Record::CheckOpened { check } => self.store.check_opened(self.nonce, check)?,
                    Record::CheckPassed { check } => {
                        let took = self.check.take().map_or(0, |begun| begun.elapsed().as_micros() as u64);
                        self.checking.fetch_add(took, Ordering::Relaxed);
                        self.store.check_passed(self.nonce, check)?;
                    }
                }
                self.events.push_back(Event::Persisted { token });
            }
            Action::NeedSegment(index) => {
                self.wanted.insert(index);
            }
            Action::DropSegments { below } => self.store.drop_segments_below(self.nonce, below)?,
            Action::Arm { token } => say(self.words, Word::Arm { token })?,
            Action::Log { .. } | Action::Behind => {}
            Action::Done(outcome) => return Ok(Some(outcome)),
        }
        Ok(None)
    }
}
