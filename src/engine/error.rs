//! Why a job ended at this node.

use super::frame::{FrameError, Kind};
use crate::backend::BackendError;
use crate::roster::Slot;
use crate::sharing::DecodeError;
use crate::transcript::TranscriptError;

/// A job ended without a result. Nothing was revealed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// Bytes from a peer that are no frame.
    #[error("{from} sent no valid message: {source}")]
    Frame {
        /// who
        from: Slot,
        /// why
        source: FrameError,
    },
    /// A frame that does not belong here: replayed, reflected, misaddressed.
    #[error(
        "{from} sent a {kind} with {field} {found}, expected {expected}: it was replayed, reflected or made for another job"
    )]
    Misplaced {
        /// who
        from: Slot,
        /// what
        kind: Kind,
        /// which field of the header
        field: &'static str,
        /// found
        found: String,
        /// expected
        expected: String,
    },
    /// A second frame for one step.
    #[error("{from} sent a second {kind} for step {step}: each may be sent once")]
    Twice {
        /// who
        from: Slot,
        /// what
        kind: Kind,
        /// which step
        step: u32,
    },
    /// An opening of the wrong length.
    #[error("{from} sent {found} words for the openings of round {round}, expected {expected}")]
    Words {
        /// who
        from: Slot,
        /// which round
        round: usize,
        /// words found
        found: usize,
        /// words that the plan states
        expected: usize,
    },
    /// Words of a round by kings, or of their check, of the wrong length.
    #[error("{from} sent a {kind} of {found} words in round {round}, expected {expected}")]
    KingWords {
        /// who
        from: Slot,
        /// what
        kind: Kind,
        /// which round
        round: usize,
        /// words found
        found: usize,
        /// words that the plan states
        expected: usize,
    },
    /// A layer of packed bits is not what was vouched for.
    #[error(
        "{from} and {voucher} told this node different things about a layer of packed bits: one of the two cheats, the job ends with nothing revealed"
    )]
    Voucher {
        /// who sent the words
        from: Slot,
        /// who sent their hash
        voucher: Slot,
    },
    /// Something else than words or a hash of the layer that is due.
    #[error("{from} sent {found} for the layer of packed bits of round {round}, expected {expected}")]
    Layer {
        /// who
        from: Slot,
        /// which round
        round: usize,
        /// what it sent
        found: String,
        /// what the plan states
        expected: String,
    },
    /// Two nodes hold different values of what all must hold alike.
    #[error(
        "{from} holds another {what} than this node: someone told nodes different things, the job ends with nothing revealed"
    )]
    Disagree {
        /// who
        from: Slot,
        /// of what
        what: Kind,
    },
    /// This node's own share does not fit those of the others.
    #[error(
        "this node's own share is off the polynomial of the others: its device computes wrongly or its disk was changed, so it must leave the job"
    )]
    OwnShare,
    /// More nodes lied over the job than the threshold allows for.
    #[error("wrong shares came from {}, more nodes than the threshold: nothing can be relied on, the job ends", list(.blamed))]
    TooManyLiars {
        /// who
        blamed: Vec<Slot>,
    },
    /// The MAC check did not pass.
    #[error(
        "check {check} failed: a node opened wrong words; the job ends with nothing revealed and its keys are never used again"
    )]
    CheckFailed {
        /// which check
        check: u32,
    },
    /// What kings opened is not what the shares stand for.
    #[error(
        "check {check} failed: a king, or a node that gave it shares, opened wrong words; the job ends with nothing revealed"
    )]
    CombinationFailed {
        /// which check
        check: u32,
    },
    /// Peers did not answer in time.
    #[error("no {kind} from {} within the deadline: see whether they run and can be reached", list(.missing))]
    Silent {
        /// who
        missing: Vec<Slot>,
        /// what was awaited
        kind: Kind,
    },
    /// The owner did not deliver a segment in time.
    #[error(
        "segment {index} of the owner's material did not arrive within the deadline: is the owner still connected?"
    )]
    OwnerSilent {
        /// the first segment that is missing
        index: u32,
    },
    /// Something that all must agree on was refused.
    #[error(transparent)]
    Transcript(#[from] TranscriptError),
    /// Shares do not fit together.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The device failed.
    #[error("{0}")]
    Backend(String),
    /// The log that would make the party again cannot be written.
    #[error("this node cannot keep the log by which it would outlive its device: {0}")]
    Log(String),
    /// The device failed and the party could not be made again.
    #[error("the device failed and this node cannot go on without it: {0}")]
    Replay(String),
    /// Words of a round that is over do not lead where they led others.
    #[error(
        "words of round {round} that were told do not fit: {what}; this node's segments or its log are not those of the others"
    )]
    Told {
        /// the round
        round: usize,
        /// what was found
        what: String,
    },
    /// The party cannot be restored.
    #[error("this node cannot go on from its checkpoint: {0}")]
    Checkpoint(String),
    /// An input's words do not fit the plan.
    #[error("input {input} has {found} correction words, expected {expected}")]
    Input {
        /// its number
        input: usize,
        /// words found
        found: usize,
        /// words expected
        expected: u64,
    },
    /// An event after the end, or one that was never asked for.
    #[error("the engine got {0}, which it did not ask for")]
    Unasked(&'static str),
}

impl EngineError {
    /// Whether the fault is the device's, so that another device would not have it.
    pub fn is_of_device(&self) -> bool {
        matches!(self, Self::Backend(_) | Self::Decode(DecodeError::Backend(_)))
    }
}

impl From<BackendError> for EngineError {
    fn from(e: BackendError) -> Self {
        Self::Backend(e.to_string())
    }
}

fn list(slots: &[Slot]) -> String {
    slots.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
