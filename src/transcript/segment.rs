//! The dealer's stream of corrections Δ in signed segments.
//!
//! A stream of W words is cut into segments of [`SEGMENT_WORDS`], the last one
//! shorter; segment i has exactly one place and one length. Its header carries
//! the root of its bytes (BLAKE3, itself a tree) and the owner's signature. A
//! share computed from an unverified or unagreed Δ must never be sent: one
//! changed word handed to one honest node recovers a secret. So words exist
//! only behind [`SignedHeader::verify`] and [`CheckedHeader::accept`], and all
//! nodes absorb the header into the transcript before they depend on it.
//!
//! Everything here is public: Δ is pseudorandom, its authenticity is what counts.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::TranscriptError;
use super::running::update_words;
use crate::field::slice::{self, WordsError};
use crate::field::{Fp61, NotCanonical};
use crate::keys::{PublicKey, SecretKey, Signature};

/// The words of every segment but the last: 512 KiB.
pub const SEGMENT_WORDS: u32 = 65_536;

const SIGNED: &str = "segment header";
const DIGEST: &str = "beaverdam 2026-01 segment header v1";
/// A postcard header is at most 32 + 5 + 5 + 5 + 10 + 5 + 32 bytes, its signature 64.
const MAX_BYTES: usize = 160;

/// Where a segment belongs and what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentHeader {
    /// digest of the job's manifest
    pub manifest: [u8; 32],
    /// which stream of the job: 0 is the material
    pub stream: u32,
    /// which dealt copy
    pub attempt: u32,
    /// position among the segments
    pub index: u32,
    /// the first word, counted over the stream
    pub first_word: u64,
    /// how many words
    pub words: u32,
    /// BLAKE3 of the words' bytes, 8 a word, little-endian
    pub root: [u8; 32],
}

/// One stream of one job, as manifest and plan fix it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamPlace {
    /// digest of the job's manifest
    pub manifest: [u8; 32],
    /// which stream
    pub stream: u32,
    /// dealt copies: attempts 0 to this, exclusive
    pub attempts: u32,
    /// words of the whole stream
    pub words: u64,
}

impl StreamPlace {
    /// The number of segments; none for an empty stream.
    pub fn segments(&self) -> u64 {
        self.words.div_ceil(u64::from(SEGMENT_WORDS))
    }

    /// First word and length of a segment, if the stream has it.
    pub fn segment(&self, index: u32) -> Option<(u64, u32)> {
        let first = u64::from(index) * u64::from(SEGMENT_WORDS);
        let left = self.words.checked_sub(first).filter(|left| *left > 0)?;
        Some((first, left.min(u64::from(SEGMENT_WORDS)) as u32))
    }

    /// The header of a segment with these bytes, signed by the owner; `None`
    /// if the stream has no such segment or the number of bytes is not its own.
    pub fn sign(&self, owner: &SecretKey, attempt: u32, index: u32, bytes: &[u8]) -> Option<SignedHeader> {
        let (first_word, words) = self.segment(index)?;
        if attempt >= self.attempts || bytes.len() != words as usize * 8 {
            return None;
        }
        let root = blake3::hash(bytes).into();
        let (manifest, stream) = (self.manifest, self.stream);
        let header = SegmentHeader { manifest, stream, attempt, index, first_word, words, root };
        Some(SignedHeader { header, signature: owner.sign(SIGNED, &header.to_bytes()) })
    }
}

impl SegmentHeader {
    /// The header's digest, which the transcript absorbs.
    pub fn digest(&self) -> [u8; 32] {
        blake3::derive_key(DIGEST, &self.to_bytes())
    }

    fn to_bytes(self) -> Vec<u8> {
        postcard::to_stdvec(&self).expect("plain integers and bytes always encode")
    }

    /// The chunk's name in errors.
    fn name(&self) -> String {
        format!("segment {} of stream {}, attempt {}", self.index, self.stream, self.attempt)
    }
}

/// A header with its owner's signature, as it travels; not yet checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedHeader {
    header: SegmentHeader,
    signature: Signature,
}

impl SignedHeader {
    /// The wire form.
    pub fn to_bytes(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("plain integers and bytes always encode")
    }

    /// Reads the wire form; refuses bytes left over.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, TranscriptError> {
        let refused = TranscriptError::HeaderBytes { found: bytes.len() };
        if bytes.len() > MAX_BYTES {
            return Err(refused);
        }
        match postcard::take_from_bytes::<Self>(bytes) {
            Ok((header, [])) => Ok(header),
            _ => Err(refused),
        }
    }

    /// What the header claims: for logs and for asking for a segment, not to be
    /// relied on.
    pub fn claimed(&self) -> &SegmentHeader {
        &self.header
    }

    /// Checks the owner's signature, the job, and that the geometry is exactly
    /// that of the plan's stream.
    pub fn verify(&self, owner: &PublicKey, place: &StreamPlace) -> Result<CheckedHeader, TranscriptError> {
        let header = self.header;
        let index = header.index;
        owner
            .verify(SIGNED, &header.to_bytes(), &self.signature)
            .map_err(|_| TranscriptError::HeaderSignature { index })?;
        if header.manifest != place.manifest {
            return Err(TranscriptError::HeaderJob { index, found: header.manifest, expected: place.manifest });
        }
        let geometry = |field, found: u64, expected: u64| {
            if found == expected {
                Ok(())
            } else {
                Err(TranscriptError::HeaderGeometry { index, field, found, expected })
            }
        };
        geometry("stream", header.stream.into(), place.stream.into())?;
        if header.attempt >= place.attempts {
            geometry("attempt", header.attempt.into(), place.attempts.saturating_sub(1).into())?;
        }
        let Some((first_word, words)) = place.segment(index) else {
            return Err(TranscriptError::HeaderGeometry {
                index,
                field: "index",
                found: index.into(),
                expected: place.segments().saturating_sub(1),
            });
        };
        geometry("first word", header.first_word, first_word)?;
        geometry("words", header.words.into(), words.into())?;
        Ok(CheckedHeader { header })
    }
}

/// A header that the owner signed for exactly this place of this job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckedHeader {
    header: SegmentHeader,
}

impl CheckedHeader {
    /// The header.
    pub fn header(&self) -> &SegmentHeader {
        &self.header
    }

    /// Accepts the segment's bytes: exact length, the signed root, canonical words.
    pub fn accept(&self, bytes: &[u8]) -> Result<Vec<Fp61>, TranscriptError> {
        decode_words(bytes, u64::from(self.header.words), &self.header.root, || self.header.name())
    }

    /// The same, for somebody else who has the header too.
    pub fn segment(self, bytes: &[u8]) -> Result<CheckedSegment, TranscriptError> {
        Ok(CheckedSegment { words: self.accept(bytes)?, header: self })
    }
}

/// The words of a segment, accepted under its header.
pub struct CheckedSegment {
    header: CheckedHeader,
    words: Vec<Fp61>,
}

impl CheckedSegment {
    /// Position among the segments.
    pub fn index(&self) -> u32 {
        self.header.header.index
    }

    /// The words, if they were accepted under this header and no other.
    pub fn words(self, header: &CheckedHeader) -> Option<Vec<Fp61>> {
        (self.header == *header).then_some(self.words)
    }
}

/// The headers accepted in one job: one for each place, for ever.
#[derive(Clone, Debug, Default)]
pub struct Headers {
    accepted: BTreeMap<(u32, u32, u32), [u8; 32]>,
}

impl Headers {
    /// Remembers a header; true if its place was free, false if the identical
    /// header was there. A different one is an error that ends the job.
    pub fn accept(&mut self, checked: &CheckedHeader) -> Result<bool, TranscriptError> {
        let SegmentHeader { stream, attempt, index, .. } = checked.header;
        match self.accepted.entry((stream, attempt, index)) {
            std::collections::btree_map::Entry::Vacant(place) => {
                place.insert(checked.header.digest());
                Ok(true)
            }
            std::collections::btree_map::Entry::Occupied(place) if *place.get() == checked.header.digest() => Ok(false),
            std::collections::btree_map::Entry::Occupied(_) => {
                Err(TranscriptError::TwoHeaders { stream, attempt, index })
            }
        }
    }
}

/// The root of words: BLAKE3 of their bytes. The length is bound beside it.
pub fn root(words: &[Fp61]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    update_words(&mut hasher, words);
    hasher.finalize().into()
}

/// Accepts bytes as `expected` words with a signed root; every word must be
/// canonical. `what` names the chunk in errors.
pub fn decode_words(
    bytes: &[u8],
    expected: u64,
    root: &[u8; 32],
    what: impl Fn() -> String,
) -> Result<Vec<Fp61>, TranscriptError> {
    if Some(bytes.len() as u64) != expected.checked_mul(8) {
        let expected = expected.saturating_mul(8);
        return Err(TranscriptError::Length { what: what(), found: bytes.len() as u64, expected });
    }
    let found: [u8; 32] = blake3::hash(bytes).into();
    if found != *root {
        return Err(TranscriptError::Root { what: what(), found, expected: *root });
    }
    slice::decode_words(bytes).map_err(|e| match e {
        WordsError::NotCanonical { index, word } => {
            TranscriptError::Word { what: what(), index, source: NotCanonical(word) }
        }
        WordsError::Length { found } => {
            TranscriptError::Length { what: what(), found: found as u64, expected: expected.saturating_mul(8) }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::P;
    use proptest::prelude::*;

    const TOTAL: u64 = 2 * SEGMENT_WORDS as u64 + 5;

    fn owner() -> SecretKey {
        SecretKey::insecure_from_seed(1, "owner")
    }
    fn place() -> StreamPlace {
        StreamPlace { manifest: [1; 32], stream: 0, attempts: 2, words: TOTAL }
    }
    fn last_words() -> Vec<u8> {
        slice::encode_words(&[0, 1, 2, 3, P - 1].map(Fp61::reduce))
    }
    fn last() -> SignedHeader {
        place().sign(&owner(), 0, 2, &last_words()).unwrap()
    }
    /// Signs whatever the attacker (who holds the owner's key) likes.
    fn signed(change: impl FnOnce(&mut SegmentHeader)) -> SignedHeader {
        let mut header = last().header;
        change(&mut header);
        SignedHeader { header, signature: owner().sign(SIGNED, &header.to_bytes()) }
    }

    #[test]
    fn segments_cover_the_stream_exactly() {
        assert_eq!(place().segments(), 3);
        assert_eq!(place().segment(0), Some((0, SEGMENT_WORDS)));
        assert_eq!(place().segment(2), Some((2 * u64::from(SEGMENT_WORDS), 5)));
        assert_eq!(place().segment(3), None);
        let even = StreamPlace { words: 2 * u64::from(SEGMENT_WORDS), ..place() };
        assert_eq!((even.segments(), even.segment(2)), (2, None));
        let empty = StreamPlace { words: 0, ..place() };
        assert_eq!((empty.segments(), empty.segment(0)), (0, None));
    }

    #[test]
    fn a_signed_segment_arrives() {
        let wire = last().to_bytes();
        let header = SignedHeader::from_bytes(&wire).unwrap().verify(&owner().public(), &place()).unwrap();
        assert_eq!(header.accept(&last_words()).unwrap(), [0, 1, 2, 3, P - 1].map(Fp61::reduce));
        assert_eq!(header.header().root, root(&[0, 1, 2, 3, P - 1].map(Fp61::reduce)));
        let segment = || header.segment(&last_words()).unwrap();
        assert_eq!(segment().index(), 2);
        assert_eq!(segment().words(&header).unwrap().len(), 5);
        let other = signed(|h| h.attempt = 1).verify(&owner().public(), &place()).unwrap();
        assert!(segment().words(&other).is_none());
        assert!(header.segment(&last_words()[8..]).is_err());
    }

    #[test]
    fn a_header_of_another_place_is_refused() {
        let verify = |h: SignedHeader| h.verify(&owner().public(), &place()).unwrap_err();
        assert!(matches!(verify(signed(|h| h.manifest = [2; 32])), TranscriptError::HeaderJob { .. }));
        let field = |h| match verify(h) {
            TranscriptError::HeaderGeometry { field, .. } => field,
            other => panic!("{other}"),
        };
        assert_eq!(field(signed(|h| h.stream = 1)), "stream");
        assert_eq!(field(signed(|h| h.attempt = 2)), "attempt");
        assert_eq!(field(signed(|h| h.index = 3)), "index");
        assert_eq!(field(signed(|h| h.index = u32::MAX)), "index");
        assert_eq!(field(signed(|h| h.index = 1)), "first word");
        assert_eq!(field(signed(|h| h.words = 6)), "words");
        assert_eq!(field(signed(|h| h.words = SEGMENT_WORDS)), "words");
    }

    #[test]
    fn a_header_that_the_owner_did_not_sign_is_refused() {
        let stranger = SecretKey::insecure_from_seed(2, "stranger");
        let forged = place().sign(&stranger, 0, 2, &last_words()).unwrap();
        assert_eq!(forged.header, last().header);
        let refused = forged.verify(&owner().public(), &place()).unwrap_err();
        assert_eq!(refused, TranscriptError::HeaderSignature { index: 2 });
        // ... and so is an honest signature under a changed header.
        let mut changed = last();
        changed.header.root[0] ^= 1;
        assert!(changed.verify(&owner().public(), &place()).is_err());
    }

    #[test]
    fn a_changed_chunk_is_refused() {
        let header = last().verify(&owner().public(), &place()).unwrap();
        let good = last_words();
        for at in [0, 7, 8, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(matches!(header.accept(&bad), Err(TranscriptError::Root { .. })));
        }
        let mut swapped = good.clone();
        swapped.rotate_left(8);
        assert!(matches!(header.accept(&swapped), Err(TranscriptError::Root { .. })));
        assert!(matches!(header.accept(&good[..32]), Err(TranscriptError::Length { found: 32, expected: 40, .. })));
        assert!(matches!(header.accept(&[&good[..], &[0; 8]].concat()), Err(TranscriptError::Length { .. })));
        assert!(matches!(header.accept(&[]), Err(TranscriptError::Length { .. })));
    }

    #[test]
    fn words_that_are_no_field_elements_are_refused_even_if_signed() {
        for word in [P, P + 1, u64::MAX] {
            let mut bytes = last_words();
            bytes[16..24].copy_from_slice(&word.to_le_bytes());
            let header = place().sign(&owner(), 0, 2, &bytes).unwrap().verify(&owner().public(), &place()).unwrap();
            let refused = header.accept(&bytes).unwrap_err();
            assert!(matches!(refused, TranscriptError::Word { index: 2, source: NotCanonical(w), .. } if w == word));
        }
    }

    #[test]
    fn a_second_header_for_one_place_ends_the_job() {
        let checked = |h: SignedHeader| h.verify(&owner().public(), &place()).unwrap();
        let mut seen = Headers::default();
        assert!(seen.accept(&checked(last())).unwrap());
        assert!(!seen.accept(&checked(last())).unwrap());
        assert!(seen.accept(&checked(signed(|h| h.attempt = 1))).unwrap());
        let second = checked(signed(|h| h.root[5] ^= 1));
        let refused = seen.accept(&second).unwrap_err();
        assert_eq!(refused, TranscriptError::TwoHeaders { stream: 0, attempt: 0, index: 2 });
    }

    #[test]
    fn the_wire_form_is_frozen() {
        insta::assert_snapshot!(crate::keys::hex(&last().to_bytes()), @"010101010101010101010101010101010101010101010101010101010101010100000280800805437af091e4addeaa2849281263d0fa5ff426a253d098cb6c3ef55dbc50305f337d2cd98481dfbba9b86dc68235037a26dde84dd9aba7f2abca89d7d590872f730f19f3e7b7ac9c0234a86bd1944186ca8c010da729f1b4b3f7cd1fa6dff8f002");
        insta::assert_snapshot!(crate::keys::hex(&last().header.digest()), @"4eeb0f716ad09ef3c701339af4c3bd5de5f2e29d6ee06bcd6d4e80cabf9d5d0a");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(header) = SignedHeader::from_bytes(&bytes) {
                prop_assert!(header.verify(&owner().public(), &place()).is_err());
            }
        }

        #[test]
        fn cut_or_lengthened_headers_are_refused(cut in 0usize..140, extra in 1usize..8) {
            let wire = last().to_bytes();
            prop_assert!(SignedHeader::from_bytes(&wire[..cut.min(wire.len() - 1)]).is_err());
            prop_assert!(SignedHeader::from_bytes(&[&wire[..], &vec![0; extra]].concat()).is_err());
        }
    }
}
