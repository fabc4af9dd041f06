//! A party that outlives its device.
//!
//! A party is a function of its job, of the seed of its commitments' nonces and
//! of the events that it was fed (masks are addressed by the plan, not drawn), so
//! one whose device is lost can be made again on the CPU: it is fed the same
//! events and says the same. [`Survivor`] logs every event before the party
//! sees it. On a loss it replays the log, checks that the frames of the new
//! party are byte for byte those that have left (a fresh mask under an old
//! address would give the difference of two values away), and goes on with
//! the event in which the device failed.
//!
//! The other nodes notice a pause. If the replay takes longer than their
//! deadline, they end the job.
//!
//! One that began at a checkpoint begins there again; checkpoints that it makes itself
//! do not shorten its log, whose events before them would have to be told from those after.
//!
//! The log holds what this node has received (shares of masked words, coins, σ)
//! and nothing secret of its own. Segments stand in it by number, so they must
//! be kept: actions that would drop them are held back.

use chacha20::ChaCha20Rng;
use rand_core::{CryptoRng, SeedableRng};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{Assigned, JobError};
use crate::backend::Device;
use crate::engine::frame::Frame;
use crate::engine::{Action, Checkpoint, EngineError, Event, Party};
use crate::field::slice::{decode_words, encode_words};
use crate::roster::Slot;
use crate::transcript::SignedHeader;

/// Where the events of one job are kept, in order, and where its segments are.
/// It serves the process that wrote it and no later one.
pub trait Log: Send {
    /// Adds an entry.
    fn append(&mut self, index: u32, entry: &[u8]) -> Result<(), String>;
    /// An entry, as it was added.
    fn entry(&self, index: u32) -> Result<Vec<u8>, String>;
    /// The bytes of a segment that was fed before.
    fn segment(&self, index: u32) -> Result<Vec<u8>, String>;
}

/// An event in the log.
#[derive(Serialize, Deserialize)]
enum Entry {
    Start,
    Frame { from: u8, frame: Vec<u8> },
    Header(SignedHeader),
    Segment(u32),
    Persisted(u32),
    Deadline(u32, bool),
    Gone(u8),
    Resend(u8),
    Words { round: u32, transcript: [u8; 32], words: Vec<u8> },
}

impl Entry {
    fn of(event: &Event) -> Self {
        match event {
            Event::Start => Self::Start,
            Event::Frame { from, frame } => Self::Frame { from: from.0, frame: frame.encode() },
            Event::Header(header) => Self::Header(**header),
            Event::Segment { index, .. } => Self::Segment(*index),
            Event::Checked(segment) => Self::Segment(segment.index()),
            Event::Persisted { token } => Self::Persisted(*token),
            Event::Deadline { token, last } => Self::Deadline(*token, *last),
            Event::Gone { peer } => Self::Gone(peer.0),
            Event::Resend { to } => Self::Resend(to.0),
            Event::Words { round, transcript, words } => {
                Self::Words { round: *round as u32, transcript: *transcript, words: encode_words(words) }
            }
        }
    }

    fn event(self, log: &dyn Log) -> Result<Event, String> {
        Ok(match self {
            Self::Start => Event::Start,
            Self::Frame { from, frame } => {
                Event::Frame { from: Slot(from), frame: Frame::decode(&frame).map_err(|e| e.to_string())? }
            }
            Self::Header(header) => Event::Header(Box::new(header)),
            Self::Segment(index) => Event::Segment { index, bytes: log.segment(index)? },
            Self::Persisted(token) => Event::Persisted { token },
            Self::Deadline(token, last) => Event::Deadline { token, last },
            Self::Gone(peer) => Event::Gone { peer: Slot(peer) },
            Self::Resend(to) => Event::Resend { to: Slot(to) },
            Self::Words { round, transcript, words } => {
                let words = decode_words(&words).map_err(|e| e.to_string())?;
                Event::Words { round: round as usize, transcript, words }
            }
        })
    }
}

/// A party on a device that may be lost, and what makes it again.
pub struct Survivor {
    assigned: Assigned,
    inputs: Vec<Vec<u8>>,
    seed: Zeroizing<[u8; 32]>,
    party: Box<dyn Party>,
    log: Box<dyn Log>,
    /// hashes of the log's entries: a party fed with other words would go on,
    /// and mask other values
    heard: Vec<blake3::Hash>,
    /// hash of all frames that have left, in order
    said: blake3::Hasher,
    /// where the party was made to begin, and after how many events
    restored: Option<(usize, Checkpoint)>,
    checkpoints: Vec<usize>,
    /// the party is on the CPU, which is not lost
    safe: bool,
    /// it has failed: what is left of it may be half made again
    failed: bool,
}

impl Survivor {
    /// A party of this job on a device. `rng` gives the seed from which the
    /// party draws its commitments' nonces, each time that it is made.
    pub fn new(
        assigned: Assigned,
        inputs: Vec<Vec<u8>>,
        device: &Device,
        rng: &mut dyn CryptoRng,
        log: Box<dyn Log>,
    ) -> Result<Self, JobError> {
        let mut seed = Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut *seed);
        let party = assigned.party(&inputs, device, Box::new(ChaCha20Rng::from_seed(*seed)))?;
        let safe = !device.can_be_lost();
        let inputs = if safe { Vec::new() } else { inputs };
        Ok(Self {
            assigned,
            inputs,
            seed,
            party,
            log,
            heard: Vec::new(),
            said: blake3::Hasher::new(),
            restored: None,
            checkpoints: Vec::new(),
            safe,
            failed: false,
        })
    }

    /// Whether the device was lost and the party made again.
    pub fn is_rebuilt(&self) -> bool {
        self.safe && !self.heard.is_empty()
    }

    /// A new party on the CPU, where the log has led it; what the last event
    /// made it do.
    fn replay(&mut self) -> Result<Vec<Action>, String> {
        let rng = Box::new(ChaCha20Rng::from_seed(*self.seed));
        self.party = self.assigned.party(&self.inputs, &Device::Cpu, rng).map_err(|e| e.to_string())?;
        // One may be made by the very event in which the device was lost.
        self.party.checkpoint_before(&self.checkpoints);
        let (mut said, mut actions) = (blake3::Hasher::new(), Vec::new());
        for (index, heard) in (0..).zip(&self.heard) {
            if let Some((at, checkpoint)) = &self.restored
                && *at == index as usize
            {
                self.party.restore(checkpoint).map_err(|e| e.to_string())?;
            }
            hear(&mut said, &actions);
            let entry = self.log.entry(index)?;
            if blake3::hash(&entry) != *heard {
                return Err("the log of the job is not what was written to it".to_owned());
            }
            let entry = postcard::from_bytes::<Entry>(&entry).map_err(|e| e.to_string())?;
            actions = self.party.step(entry.event(&*self.log)?).map_err(|e| e.to_string())?;
        }
        // All but what the last event leads to has left.
        if said.finalize() != self.said.finalize() {
            return Err("made again, this node would have said something else than it has said".to_owned());
        }
        self.safe = true;
        (self.inputs, self.restored) = (Vec::new(), None);
        Ok(actions)
    }

    /// Logs an event and feeds it to the party on the device.
    fn risk(&mut self, event: Event) -> Result<Vec<Action>, EngineError> {
        let entry = postcard::to_stdvec(&Entry::of(&event)).expect("plain data always encodes");
        self.log.append(self.heard.len() as u32, &entry).map_err(EngineError::Log)?;
        self.heard.push(blake3::hash(&entry));
        let mut actions = match self.party.step(event) {
            Err(lost) if lost.is_of_device() => {
                let events = self.heard.len();
                tracing::warn!(reason = %lost, "the job goes on on the CPU, from the log of {events} events");
                return self.replay().map_err(|reason| EngineError::Replay(format!("{reason}; first, {lost}")));
            }
            done => done?,
        };
        hear(&mut self.said, &actions);
        actions.retain(|action| !matches!(action, Action::DropSegments { .. }));
        Ok(actions)
    }
}

/// Adds the frames among some actions to a hash.
fn hear(said: &mut blake3::Hasher, actions: &[Action]) {
    for action in actions {
        if let Action::Send { frame, .. } = action {
            said.update(&frame.encode());
        }
    }
}

impl Party for Survivor {
    fn step(&mut self, event: Event) -> Result<Vec<Action>, EngineError> {
        if self.safe {
            return self.party.step(event);
        }
        if self.failed {
            return Err(EngineError::Unasked("an event after the end of the job"));
        }
        let actions = self.risk(event);
        self.failed = actions.is_err();
        actions
    }

    fn ahead(&mut self) -> bool {
        !self.failed && self.party.ahead()
    }

    fn checkpoint_before(&mut self, rounds: &[usize]) {
        self.checkpoints = rounds.to_vec();
        self.party.checkpoint_before(rounds);
    }

    fn restore(&mut self, checkpoint: &Checkpoint) -> Result<(), EngineError> {
        self.party.restore(checkpoint)?;
        if !self.safe {
            self.restored = Some((self.heard.len(), checkpoint.clone()));
        }
        Ok(())
    }

    fn blames(&self, peer: Slot) -> bool {
        self.party.blames(peer)
    }

    fn rest(&mut self) {
        self.party.rest();
    }

    fn progress(&self) -> (usize, usize) {
        self.party.progress()
    }

    fn largest_frame(&self) -> usize {
        self.party.largest_frame()
    }
}
