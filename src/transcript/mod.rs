//! What all nodes must agree on, as plain data: the running hash of a job, the
//! signed headers of the dealer's stream, commitments and coins.
//!
//! Nothing here talks, waits or keeps a secret share. The engine decides when
//! something is absorbed, sent or compared; this room says how it is hashed and
//! what makes it acceptable.

mod coin;
mod running;
mod segment;

pub use coin::{CheckPoint, Coin, Commitment, Opened, Opening, Purpose};
pub use running::Transcript;
pub use segment::{
    CheckedHeader, CheckedSegment, Headers, SEGMENT_WORDS, SegmentHeader, SignedHeader, StreamPlace, decode_words, root,
};

use crate::field::NotCanonical;
use crate::keys::hex;
use crate::roster::Slot;

/// Something that all nodes must agree on was refused. None of these can come
/// from an honest sender.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TranscriptError {
    /// Bytes that are no signed segment header.
    #[error("found {found} bytes that are no signed segment header: fetch the stream from the job's owner again")]
    HeaderBytes {
        /// bytes found
        found: usize,
    },
    /// The owner's key did not sign this header.
    #[error("the header of segment {index} is not signed by the job's owner: ask the owner for the stream again")]
    HeaderSignature {
        /// the segment
        index: u32,
    },
    /// The header belongs to another job.
    #[error("the header of segment {index} names job {}, expected {}: it was signed for another job", hex(.found), hex(.expected))]
    HeaderJob {
        /// the segment
        index: u32,
        /// manifest digest found
        found: [u8; 32],
        /// manifest digest expected
        expected: [u8; 32],
    },
    /// The header names a stream, attempt, index or length that the plan does not have.
    #[error("the owner signed {field} {found} for segment {index}, expected {expected}: its plan is not this job's")]
    HeaderGeometry {
        /// the segment
        index: u32,
        /// which field
        field: &'static str,
        /// what it says
        found: u64,
        /// what the plan says
        expected: u64,
    },
    /// The owner signed two headers for one place.
    #[error(
        "the owner signed two different headers for segment {index} of stream {stream}, attempt {attempt}: the job ends, keep both as evidence"
    )]
    TwoHeaders {
        /// stream number
        stream: u32,
        /// attempt
        attempt: u32,
        /// the segment
        index: u32,
    },
    /// A chunk has the wrong number of bytes.
    #[error("{what} has {found} bytes, expected {expected}: fetch it again")]
    Length {
        /// which chunk
        what: String,
        /// bytes found
        found: u64,
        /// bytes expected
        expected: u64,
    },
    /// A chunk is not the one that was signed.
    #[error("{what} has root {}, the owner signed {}: fetch it again, from the owner if this repeats", hex(.found), hex(.expected))]
    Root {
        /// which chunk
        what: String,
        /// root found
        found: [u8; 32],
        /// root expected
        expected: [u8; 32],
    },
    /// A word is no canonical field element, although its root was signed.
    #[error("word {index} of {what}, signed by the owner: {source}")]
    Word {
        /// which chunk
        what: String,
        /// the word
        index: usize,
        /// why
        source: NotCanonical,
    },
    /// An opening does not fit its commitment.
    #[error("{from} opened another {purpose} than it committed to in check {check}: the job ends, nothing is revealed")]
    Commitment {
        /// whose
        from: Slot,
        /// of what
        purpose: Purpose,
        /// in which check
        check: u32,
    },
    /// An opened payload has the wrong length.
    #[error("{from} opened {found} bytes as {purpose} in check {check}, expected {expected}: the job ends")]
    Payload {
        /// whose
        from: Slot,
        /// of what
        purpose: Purpose,
        /// in which check
        check: u32,
        /// bytes found
        found: usize,
        /// bytes expected
        expected: usize,
    },
    /// A coin needs one nonce of each node, in slot order, of one check.
    #[error("the coin of check {check} needs the opened nonces of nodes 1 to {expected} in order, found {found}")]
    CoinParts {
        /// in which check
        check: u32,
        /// what was found
        found: String,
        /// nodes expected
        expected: u8,
    },
}
