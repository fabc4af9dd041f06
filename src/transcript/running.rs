//! The running hash of everything that all nodes of a job must have seen alike.
//!
//! A chain: state' = BLAKE3-derive-key(context, state ‖ record). Every record
//! starts with a tag of its kind, and every part of variable length is
//! preceded by its length, so that two different histories never feed the hash
//! the same bytes. The state is 32 bytes: it can be stored after every record,
//! and a replayed log must reproduce it.

use super::Coin;
use super::segment::CheckedHeader;
use crate::field::slice::{as_bytes, encode_words};
use crate::field::{Fp61, Parts};
use crate::roster::Degree;

const CONTEXT: &str = "beaverdam 2026-01 transcript v1";

/// The kinds of record; a kind's number never changes its meaning.
#[repr(u8)]
enum Tag {
    Job = 1,
    Batch = 2,
    Segment = 3,
    Coin = 4,
    Check = 5,
    Attempt = 6,
}

/// The running hash of one job at one node. Plain public data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transcript {
    state: [u8; 32],
}

impl Transcript {
    /// Starts with the manifest's digest (which binds program, inputs, roster
    /// and outputs), the epoch and the view.
    pub fn new(manifest: &[u8; 32], epoch: u32, view: u32) -> Self {
        let mut start = Self { state: [0; 32] };
        start.absorb(Tag::Job, |record| {
            record.update(manifest).update(&epoch.to_le_bytes()).update(&view.to_le_bytes());
        });
        start
    }

    /// Goes on from the hash of everything absorbed before.
    pub fn resumed(digest: [u8; 32]) -> Self {
        Self { state: digest }
    }

    /// Absorbs that a later attempt begins here, before a round. The first one is not absorbed.
    pub fn absorb_attempt(&mut self, attempt: u32, round: u32) {
        self.absorb(Tag::Attempt, |record| {
            record.update(&attempt.to_le_bytes()).update(&round.to_le_bytes());
        });
    }

    /// The hash of everything absorbed so far.
    pub fn digest(&self) -> [u8; 32] {
        self.state
    }

    /// Absorbs the opened words of one round: for each opening the index of its
    /// primitive in the plan (which fixes kind, iteration and shape), the
    /// attempt of its material, its degree and its canonical words.
    ///
    /// Cost: one BLAKE3 pass over 8 bytes a word.
    pub fn absorb_batch<'a, W: Into<Parts<'a>>>(
        &mut self,
        round: u32,
        ops: impl IntoIterator<Item = (u32, u32, Degree, W)>,
    ) {
        self.absorb(Tag::Batch, |record| {
            record.update(&round.to_le_bytes());
            let mut count = 0u64;
            for (prim, attempt, degree, words) in ops {
                let words: Parts<'_> = words.into();
                // 1: another opening follows; 0: the end, with their number.
                record.update(&[1]).update(&prim.to_le_bytes()).update(&attempt.to_le_bytes());
                record.update(&[degree_number(degree)]).update(&(words.len() as u64).to_le_bytes());
                words.iter().for_each(|part| update_words(record, part));
                count += 1;
            }
            record.update(&[0]).update(&count.to_le_bytes());
        });
    }

    /// Absorbs a verified segment header: before the first message that depends
    /// on the segment's words.
    pub fn absorb_segment(&mut self, header: &CheckedHeader) {
        let digest = header.header().digest();
        self.absorb(Tag::Segment, |record| {
            record.update(&digest);
        });
    }

    /// Absorbs the coin of a check.
    pub fn absorb_coins(&mut self, check: u32, coin: &Coin) {
        self.absorb(Tag::Coin, |record| {
            record.update(&check.to_le_bytes()).update(&coin.digest());
        });
    }

    /// Absorbs the result of a check.
    pub fn absorb_check(&mut self, check: u32, passed: bool) {
        self.absorb(Tag::Check, |record| {
            record.update(&check.to_le_bytes()).update(&[u8::from(passed)]);
        });
    }

    fn absorb(&mut self, tag: Tag, write: impl FnOnce(&mut blake3::Hasher)) {
        let mut record = blake3::Hasher::new_derive_key(CONTEXT);
        record.update(&self.state).update(&[tag as u8]);
        write(&mut record);
        self.state = record.finalize().into();
    }
}

fn degree_number(degree: Degree) -> u8 {
    match degree {
        Degree::T => 1,
        Degree::TwoT => 2,
    }
}

/// Hashes canonical words, little-endian. BLAKE3 is several times as fast on long pieces
/// as on short ones.
pub(super) fn update_words(hasher: &mut blake3::Hasher, words: &[Fp61]) {
    match as_bytes(words) {
        Some(bytes) => drop(hasher.update(bytes)),
        None => drop(hasher.update(&encode_words(words))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words(values: &[u64]) -> Vec<Fp61> {
        values.iter().map(|v| Fp61::reduce(*v)).collect()
    }

    fn start() -> Transcript {
        Transcript::new(&[7; 32], 0, 0)
    }

    #[test]
    fn every_field_of_every_record_counts() {
        let (a, b) = (words(&[1, 2]), words(&[3]));
        let batch = |round, prim, attempt, degree, w: &[Fp61]| {
            let mut t = start();
            t.absorb_batch(round, [(prim, attempt, degree, w)]);
            t.digest()
        };
        let check = |k, passed| {
            let mut t = start();
            t.absorb_check(k, passed);
            t.digest()
        };
        let attempt = |attempt, round| {
            let mut t = start();
            t.absorb_attempt(attempt, round);
            t.digest()
        };
        let all = [
            start().digest(),
            Transcript::new(&[8; 32], 0, 0).digest(),
            Transcript::new(&[7; 32], 1, 0).digest(),
            Transcript::new(&[7; 32], 0, 1).digest(),
            batch(0, 0, 0, Degree::T, &a),
            batch(1, 0, 0, Degree::T, &a),
            batch(0, 1, 0, Degree::T, &a),
            batch(0, 0, 1, Degree::T, &a),
            batch(0, 0, 0, Degree::TwoT, &a),
            batch(0, 0, 0, Degree::T, &b),
            batch(0, 0, 0, Degree::T, &[]),
            check(0, true),
            check(0, false),
            check(1, true),
            attempt(1, 0),
            attempt(2, 0),
            attempt(1, 1),
        ];
        let distinct: std::collections::HashSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
    }

    #[test]
    fn the_hash_is_frozen() {
        let mut t = start();
        t.absorb_batch(3, [(5, 0, Degree::T, &words(&[1, 2])[..]), (6, 1, Degree::TwoT, &[])]);
        t.absorb_check(1, true);
        insta::assert_snapshot!(crate::keys::hex(&t.digest()), @"3dbcd8a8309e8a9b1d9aa752cae1568133bd27d48e75864e40b57d2747ff2b7a");
    }

    proptest! {
        /// Moving the border between openings, or between batches, changes the hash.
        #[test]
        fn borders_count(values in proptest::collection::vec(any::<u64>(), 0..40), cut in 0usize..40, other in 0usize..40) {
            let all = words(&values);
            let (cut, other) = (cut.min(all.len()), other.min(all.len()));
            let split = |at: usize| {
                let mut t = start();
                t.absorb_batch(0, [(1, 0, Degree::T, &all[..at]), (1, 0, Degree::T, &all[at..])]);
                t.digest()
            };
            let rounds = |at: usize| {
                let mut t = start();
                t.absorb_batch(0, [(1, 0, Degree::T, &all[..at])]);
                t.absorb_batch(0, [(1, 0, Degree::T, &all[at..])]);
                t.digest()
            };
            prop_assert_eq!(split(cut) == split(other), cut == other);
            prop_assert_ne!(split(cut), rounds(cut));
        }
    }
}
