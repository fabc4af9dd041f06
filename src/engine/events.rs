//! How a party is spoken to: what happens to it, what it wants done, what it
//! must know, and what it holds in the end.

use std::collections::BTreeSet;
use std::sync::Arc;

use zeroize::Zeroize;

use super::check::Passed;
use super::checkpoint::Checkpoint;
use super::error::EngineError;
use super::frame::Frame;
use crate::field::Fp61;
use crate::keys::PublicKey;
use crate::program::plan::Plan;
use crate::roster::Slot;
use crate::transcript::{CheckedSegment, SignedHeader};

/// What happens to a party.
pub enum Event {
    /// Begin.
    Start,
    /// A peer's frame arrived over the link that is `from`'s by its key.
    Frame {
        /// whose link
        from: Slot,
        /// what
        frame: Frame,
    },
    /// The owner's signed header of a segment arrived (and its bytes are at hand).
    Header(Box<SignedHeader>),
    /// The bytes of a segment that [`Action::NeedSegment`] asked for.
    Segment {
        /// which
        index: u32,
        /// 8 bytes a word
        bytes: Vec<u8>,
    },
    /// The same, when somebody has accepted the words already.
    Checked(CheckedSegment),
    /// The record of [`Action::Persist`] is on disk.
    Persisted {
        /// the number given with it
        token: u32,
    },
    /// A time of [`Action::Arm`] is over.
    Deadline {
        /// the number given with it
        token: u32,
        /// the second, longer time: whoever is still needed is not waited for any more
        last: bool,
    },
    /// The link with a peer broke, or the peer has ended the job: it is not
    /// waited for until it speaks again.
    Gone {
        /// who
        peer: Slot,
    },
    /// A peer has lost frames: those of this exchange and of the one before are
    /// repeated to it, with the digests of all segments.
    Resend {
        /// to whom
        to: Slot,
    },
    /// What was opened in the round in which this party is
    /// ([`Party::progress`]), from its own log, or from t + 1 peers who say the same.
    Words {
        /// which round
        round: usize,
        /// the transcript after it, which this party must reach too
        transcript: [u8; 32],
        /// all openings of the round, one after another
        words: Vec<Fp61>,
    },
}

/// What a party wants done, in this order.
pub enum Action {
    /// Send a frame to a peer.
    Send {
        /// to whom
        to: Slot,
        /// what
        frame: Frame,
    },
    /// Write a record, then report [`Event::Persisted`]. What depends on it is
    /// sent only after that.
    Persist {
        /// names the record
        token: u32,
        /// what
        record: Record,
    },
    /// Give the bytes of a segment whose header was accepted, once they are there.
    NeedSegment(u32),
    /// Segments below this one are not needed any more.
    DropSegments {
        /// the first one still needed
        below: u32,
    },
    /// Report [`Event::Deadline`] each time that the deadline is over again, and
    /// as the last once the patience is, unless another `Arm` comes first.
    Arm {
        /// names the deadline
        token: u32,
    },
    /// Keep what was opened in a round, for a restart and for peers that are
    /// behind; only if the plan allows that ([`Plan::replays`]).
    Log {
        /// which round; they come one after another
        round: usize,
        /// the transcript after it
        transcript: [u8; 32],
        /// all openings of the round, one after another
        words: Vec<Fp61>,
    },
    /// Keep the state of this party, of which others learn nothing, for a restart
    /// ([`Party::checkpoint_before`]). It follows the [`Action::Log`] of the round before it. Under
    /// SPDZ it precedes [`Record::CheckPassed`], and must be on disk before [`Event::Persisted`] of that.
    Checkpoint(Box<Checkpoint>),
    /// Peers may be further, or their frames lost: ask them for [`Event::Words`]
    /// from the round on in which this party is, and for their frames.
    Behind,
    /// The job is done.
    Done(Box<Outcome>),
}

/// What must be on disk before the next message leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// the material of this round is used up
    Cursor {
        /// which round
        round: u32,
    },
    /// σ of this check is about to be opened
    CheckOpened {
        /// which check
        check: u32,
    },
    /// the openings of this check are right here, which is said next
    CheckPassed {
        /// which check
        check: u32,
    },
}

/// What a finished party holds; shares are for sealing to their readers alone.
pub struct Outcome {
    /// the proof that all checks passed
    pub passed: Passed,
    /// this node's share of each output, in the plan's order
    /// ([`Sharing::output`](crate::sharing::Sharing::output))
    pub outputs: Vec<OutputShare>,
    /// slots whose wrong shares were corrected
    pub blamed: BTreeSet<Slot>,
}

/// One node's share of an output. Wiped on drop, never printed.
pub struct OutputShare(pub(super) Vec<Fp61>);

impl Drop for OutputShare {
    fn drop(&mut self) {
        // As a slice, which is several times as fast as a vector word by word.
        self.0.resize(self.0.capacity(), Fp61::ZERO);
        self.0.as_mut_slice().zeroize();
    }
}

impl OutputShare {
    /// The words to seal.
    pub fn words(&self) -> &[Fp61] {
        &self.0
    }
}

/// What a party must know of its job.
pub struct Job {
    /// the plan of the signed program for the signed roster
    pub plan: Arc<Plan>,
    /// digest of the signed manifest
    pub manifest: [u8; 32],
    /// who signed it and signs the stream
    pub owner: PublicKey,
    /// dealt copies of the stream
    pub attempts: u32,
    /// which of them is used
    pub attempt: u32,
    /// Δ of each input, verified against the manifest's roots
    pub inputs: Vec<Vec<Fp61>>,
}

/// A running party, whatever its scheme and backend.
pub trait Party: Send {
    /// Takes one event. An error ends the job at this node: nothing was or
    /// will be revealed by it, and the caller tells the others.
    fn step(&mut self, event: Event) -> Result<Vec<Action>, EngineError>;
    /// Expands one more piece of what later rounds draw, some milliseconds of
    /// work, for when nothing has happened that could be fed; false when
    /// nothing is left to be done or it would be too much at once
    /// ([`AHEAD_WORDS`](crate::program::plan::AHEAD_WORDS)). Whether and when
    /// this is called changes no word of what the party says.
    fn ahead(&mut self) -> bool;
    /// Asks for [`Action::Checkpoint`] before these rounds, if the plan has any
    /// ([`Plan::replays`]; under SPDZ those of [`Plan::checkpoints`]).
    fn checkpoint_before(&mut self, rounds: &[usize]);
    /// Lets a party that has not started, and has heard of headers alone, begin where
    /// another one of the same node and job was; under SPDZ in an earlier attempt. On [`Event::Start`] it asks
    /// for the segments that it needs and goes on with the checkpoint's round.
    ///
    /// # Errors
    /// [`EngineError::Checkpoint`] where the plan has none, or the checkpoint does not fit it.
    fn restore(&mut self, checkpoint: &Checkpoint) -> Result<(), EngineError>;
    /// Whether it has found this peer lying. Others need not have.
    fn blames(&self, peer: Slot) -> bool;
    /// Once the job is done: drops what it computed with. What it has said last it still says again.
    fn rest(&mut self);
    /// Rounds of openings finished, and how many there are.
    fn progress(&self) -> (usize, usize);
    /// The greatest frame that a peer may send now, in bytes.
    fn largest_frame(&self) -> usize;
}
