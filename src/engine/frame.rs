//! What nodes say to each other inside one job, and its wire form.
//!
//! A frame is a fixed header (job, epoch, view, attempt, step, kind, sender,
//! receiver), so that nothing can be replayed or reflected elsewhere, and a
//! body whose exact length the kind and the plan fix. All integers are
//! little-endian. The form is frozen by a snapshot test; the version is
//! exchanged when a link opens.

use std::sync::Arc;

use crate::field::Fp61;
use crate::field::slice::{WordsError, append_words, decode_words};
use crate::roster::Slot;
use crate::transcript::Opening;

/// Bytes before the body.
pub const HEADER_BYTES: usize = 32 + 4 * 4 + 3;

/// Where a frame belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// digest of the job's manifest
    pub manifest: [u8; 32],
    /// epoch of keys and roster
    pub epoch: u32,
    /// view of live members
    pub view: u32,
    /// which dealt copy of material
    pub attempt: u32,
    /// number of the exchange, counted from 1; for `Segment`, the segment's index
    pub step: u32,
    /// what
    pub kind: Kind,
    /// whose
    pub from: Slot,
    /// for whom
    pub to: Slot,
}

/// What a frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// the start: the digest of the manifest (it names program, plan and roster)
    Agree = 1,
    /// shares of a round's openings
    Opening = 2,
    /// a check begins: the transcript, frozen
    Freeze = 3,
    /// commitment to a part of the coin
    CoinCommit = 4,
    /// opening of it
    CoinOpen = 5,
    /// hash of all opened parts
    CoinAgree = 6,
    /// commitment to σ
    SigmaCommit = 7,
    /// opening of it
    SigmaOpen = 8,
    /// the check passed here: the transcript after it
    Passed = 9,
    /// the end: the whole transcript
    Finish = 10,
    /// a header of the dealer's stream was verified here: its digest
    Segment = 11,
    /// shares of a round's openings, and this node's part of a layer of packed bits
    Packed = 12,
    /// shares of a round by kings: what all get, and what the receiver needs as a king
    Gather = 13,
    /// the slice of a round that the sender opened as its king
    Spread = 14,
    /// the transcript with the whole batch that kings opened
    Agreed = 15,
    /// share of the combination of what kings opened
    Combined = 16,
}

impl Kind {
    const ALL: [Kind; 16] = [
        Kind::Agree,
        Kind::Opening,
        Kind::Freeze,
        Kind::CoinCommit,
        Kind::CoinOpen,
        Kind::CoinAgree,
        Kind::SigmaCommit,
        Kind::SigmaOpen,
        Kind::Passed,
        Kind::Finish,
        Kind::Segment,
        Kind::Packed,
        Kind::Gather,
        Kind::Spread,
        Kind::Agreed,
        Kind::Combined,
    ];
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Kind::Agree => "job digest",
            Kind::Opening => "opening",
            Kind::Freeze => "frozen transcript",
            Kind::CoinCommit => "coin commitment",
            Kind::CoinOpen => "coin opening",
            Kind::CoinAgree => "coin hash",
            Kind::SigmaCommit => "sigma commitment",
            Kind::SigmaOpen => "sigma opening",
            Kind::Passed => "check report",
            Kind::Finish => "final transcript",
            Kind::Segment => "segment digest",
            Kind::Packed => "layer of packed bits",
            Kind::Gather => "share for a king",
            Kind::Spread => "slice opened by a king",
            Kind::Agreed => "batch opened by kings",
            Kind::Combined => "combination",
        })
    }
}

/// What a frame carries.
#[derive(Clone)]
pub enum Body {
    /// a digest or a commitment
    Digest([u8; 32]),
    /// what opens a commitment
    Opening(Opening),
    /// shares; read by all receivers from one place
    Words(Arc<Vec<Fp61>>),
    /// shares, and what the receiver is told of a layer of packed bits
    Packed(Arc<Vec<Fp61>>, Told),
}

/// Of what was sent, so all of it is known to whoever compares.
impl PartialEq for Body {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Digest(a), Self::Digest(b)) => a == b,
            (Self::Opening(a), Self::Opening(b)) => a.same(b),
            (Self::Words(a), Self::Words(b)) => a == b,
            (Self::Packed(a, told), Self::Packed(b, other)) => a == b && told == other,
            _ => false,
        }
    }
}

/// What one node tells another of a layer of packed bits.
#[derive(Clone, PartialEq, Eq)]
pub enum Told {
    /// the words, from the receiver's next slot
    Words(Arc<Vec<u64>>),
    /// the hash of words that another sends
    Voucher([u8; 32]),
}

/// A frame.
#[derive(Clone, PartialEq)]
pub struct Frame {
    /// where it belongs
    pub header: Header,
    /// what it carries
    pub body: Body,
}

/// Bytes that are no frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Too short for a header.
    #[error("found {found} bytes, expected at least the {HEADER_BYTES} of a header")]
    Short {
        /// bytes found
        found: usize,
    },
    /// A kind that this version does not know.
    #[error(
        "found a message of unknown kind {found}, expected 1 to 16: the peer runs another version or sends garbage"
    )]
    Kind {
        /// the kind's number
        found: u8,
    },
    /// A body of the wrong length for its kind.
    #[error("{kind}: found a body of {found} bytes, expected {expected}")]
    Length {
        /// which kind
        kind: Kind,
        /// bytes found
        found: usize,
        /// what would be right
        expected: &'static str,
    },
    /// A share that is no canonical field element.
    #[error("opening: {0}")]
    Word(#[from] WordsError),
}

impl Frame {
    /// The wire form.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.append_to(&mut out);
        out
    }

    /// The shares, last in the wire form and the same for all receivers.
    pub fn shares(&self) -> Option<&Arc<Vec<Fp61>>> {
        match &self.body {
            Body::Words(words) | Body::Packed(words, _) => Some(words),
            Body::Digest(_) | Body::Opening(_) => None,
        }
    }

    /// The wire form behind what is there: of millions of words there is one copy.
    fn append_to(&self, out: &mut Vec<u8>) {
        out.reserve(HEADER_BYTES + 48 + self.shares().map_or(0, |words| 8 * words.len()));
        self.append_head_to(out);
        if let Some(words) = self.shares() {
            append_words(out, words);
        }
    }

    /// The wire form up to the shares.
    pub fn append_head_to(&self, out: &mut Vec<u8>) {
        let h = &self.header;
        out.extend_from_slice(&h.manifest);
        for word in [h.epoch, h.view, h.attempt, h.step] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(&[h.kind as u8, h.from.0, h.to.0]);
        match &self.body {
            Body::Digest(digest) => out.extend_from_slice(digest),
            Body::Opening(opening) => {
                out.extend(postcard::to_stdvec(opening).expect("plain bytes always encode"));
            }
            Body::Words(_) => {}
            Body::Packed(_, Told::Voucher(hash)) => {
                out.push(0);
                out.extend_from_slice(hash);
            }
            Body::Packed(_, Told::Words(bits)) => {
                out.push(1);
                out.extend_from_slice(&(bits.len() as u32).to_le_bytes());
                let start = out.len();
                out.resize(start + 8 * bits.len(), 0);
                let (places, _) = out[start..].as_chunks_mut();
                places.iter_mut().zip(&**bits).for_each(|(place, word)| *place = word.to_le_bytes());
            }
        }
    }

    /// Reads the wire form. Every word must be canonical; the number of words
    /// is for the engine to judge.
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        let Some((header, body)) = bytes.split_at_checked(HEADER_BYTES) else {
            return Err(FrameError::Short { found: bytes.len() });
        };
        let number = |i: usize| u32::from_le_bytes(std::array::from_fn(|j| header[32 + 4 * i + j]));
        let kind =
            Kind::ALL.into_iter().find(|k| *k as u8 == header[48]).ok_or(FrameError::Kind { found: header[48] })?;
        let header = Header {
            manifest: std::array::from_fn(|i| header[i]),
            epoch: number(0),
            view: number(1),
            attempt: number(2),
            step: number(3),
            kind,
            from: Slot(header[49]),
            to: Slot(header[50]),
        };
        let wrong = |expected| FrameError::Length { kind, found: body.len(), expected };
        let body = match kind {
            Kind::Opening | Kind::Gather | Kind::Spread | Kind::Combined => Body::Words(Arc::new(decode_words(body)?)),
            Kind::Packed => {
                let (told, rest) = told(body).ok_or(wrong("a hash, or packed words with their number, and shares"))?;
                Body::Packed(Arc::new(decode_words(rest)?), told)
            }
            Kind::CoinOpen | Kind::SigmaOpen => match postcard::take_from_bytes(body) {
                Ok((opening, [])) if body.len() <= 48 => Body::Opening(opening),
                _ => return Err(wrong("a 32-byte nonce and at most 8 bytes more")),
            },
            _ => Body::Digest(body.try_into().map_err(|_| wrong("32"))?),
        };
        Ok(Self { header, body })
    }
}

/// What is told of a layer, and the bytes after it.
fn told(body: &[u8]) -> Option<(Told, &[u8])> {
    match body.split_first()? {
        (0, body) => body.split_first_chunk().map(|(hash, rest)| (Told::Voucher(*hash), rest)),
        (1, body) => {
            let (count, body) = body.split_first_chunk()?;
            let bytes = usize::try_from(u32::from_le_bytes(*count)).ok()?.checked_mul(8)?;
            let (words, rest) = body.split_at_checked(bytes)?;
            let words = words.as_chunks().0.iter().map(|w| u64::from_le_bytes(*w)).collect();
            Some((Told::Words(Arc::new(words)), rest))
        }
        _ => None,
    }
}
