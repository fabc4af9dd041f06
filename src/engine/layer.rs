//! One round's layer of packed bits: what each peer is told, and the comparison
//! with the vouchers before anything of it is used.

use std::sync::Arc;

use super::error::EngineError;
use super::execute::Waiting;
use super::frame::Told;
use crate::roster::Slot;
use crate::sharing::packed::{Said, after};

const VOUCHER: &str = "beaverdam 2026-11 voucher for packed bits v1";

/// What this node says in a layer, and the steps that wait for their words.
pub(super) struct Layer {
    /// steps in the round's order, each with the words that it waits for
    waiting: Vec<(u32, Waiting, Expected)>,
    words: Arc<Vec<u64>>,
    opposite: Voucher,
    next: Voucher,
}

/// A step, what it waited for, and its vouched words.
pub(super) type ToldStep = (u32, Waiting, Vec<u64>);

/// How many words of one step come whole, and by halves.
struct Expected {
    whole: usize,
    halves: usize,
}

impl Layer {
    /// A layer of a round before its first step; vouchers name job, round and receiver.
    pub(super) fn new(manifest: &[u8; 32], round: usize, slot: Slot) -> Self {
        Self {
            waiting: Vec::new(),
            words: Arc::default(),
            opposite: Voucher::new(manifest, round, after(slot, 2), Kind::Whole),
            next: Voucher::new(manifest, round, after(slot, 1), Kind::Halves),
        }
    }

    /// Adds a step.
    pub(super) fn say(&mut self, prim: u32, waiting: Waiting, said: Said) {
        let Said { words, opposite, next } = said;
        self.opposite.add(&opposite);
        self.next.add(&next);
        let expected = Expected { whole: opposite.len(), halves: next.len() };
        self.waiting.push((prim, waiting, expected));
        // All steps of a round go out in one message.
        Arc::make_mut(&mut self.words).extend(words);
    }

    /// What a peer is told.
    pub(super) fn tell(&self, own: Slot, to: Slot) -> Told {
        if to == after(own, 3) {
            Told::Words(Arc::clone(&self.words))
        } else if to == after(own, 2) {
            Told::Voucher(self.opposite.hash())
        } else {
            Told::Voucher(self.next.hash())
        }
    }

    /// The steps with their words from the next slot, each vouched for by one of
    /// the others. Any difference ends the job in the same way.
    pub(super) fn told(
        self,
        manifest: &[u8; 32],
        round: usize,
        own: Slot,
        heard: impl Fn(Slot) -> Told,
    ) -> Result<Vec<ToldStep>, EngineError> {
        let Told::Words(words) = heard(after(own, 1)) else { unreachable!("checked when it came") };
        let (mut whole, mut halves) =
            (Voucher::new(manifest, round, own, Kind::Whole), Voucher::new(manifest, round, own, Kind::Halves));
        let (mut rest, mut out) = (&words[..], Vec::with_capacity(self.waiting.len()));
        for (prim, waiting, expected) in self.waiting {
            let (of_step, left) = rest.split_at(expected.whole + expected.halves);
            let (first, second) = of_step.split_at(expected.whole);
            whole.add(first);
            halves.add(second);
            out.push((prim, waiting, of_step.to_vec()));
            rest = left;
        }
        for (voucher, from) in [(whole, after(own, 2)), (halves, after(own, 3))] {
            let Told::Voucher(hash) = heard(from) else { unreachable!("checked when it came") };
            if hash != voucher.hash() {
                return Err(EngineError::Voucher { from: after(own, 1), voucher: from });
            }
        }
        Ok(out)
    }
}

/// Whether a peer tells what it must: its words exactly, or a hash.
pub(super) fn fits(told: &Told, from: Slot, own: Slot, round: usize, words: usize) -> Result<(), EngineError> {
    let sends = from == after(own, 1);
    let found = match told {
        Told::Words(found) if sends && found.len() == words => return Ok(()),
        Told::Voucher(_) if !sends => return Ok(()),
        Told::Words(found) => format!("{} words", found.len()),
        Told::Voucher(_) => "a hash".to_owned(),
    };
    let expected = if sends { format!("{words} words") } else { "a hash".to_owned() };
    Err(EngineError::Layer { from, round, found, expected })
}

#[derive(Clone, Copy)]
enum Kind {
    Whole = 1,
    Halves = 2,
}

/// The hash of the words that one node is sent in one round.
struct Voucher(blake3::Hasher);

impl Voucher {
    fn new(manifest: &[u8; 32], round: usize, to: Slot, kind: Kind) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(VOUCHER);
        hasher.update(manifest).update(&(round as u64).to_le_bytes()).update(&[to.0, kind as u8]);
        Self(hasher)
    }

    /// The words of one step, length first.
    fn add(&mut self, words: &[u64]) {
        self.0.update(&(words.len() as u64).to_le_bytes());
        let mut bytes = [0; 4096];
        for words in words.chunks(bytes.len() / 8) {
            let (chunks, _) = bytes.as_chunks_mut();
            chunks.iter_mut().zip(words).for_each(|(bytes, word)| *bytes = word.to_le_bytes());
            self.0.update(&bytes[..8 * words.len()]);
        }
    }

    fn hash(&self) -> [u8; 32] {
        *self.0.finalize().as_bytes()
    }
}

/// The voucher for one step whose words all come whole: what two nodes who lie
/// together would send.
#[cfg(test)]
pub(super) fn forged(manifest: &[u8; 32], round: usize, to: Slot, words: &[u64]) -> [u8; 32] {
    let mut voucher = Voucher::new(manifest, round, to, Kind::Whole);
    voucher.add(words);
    voucher.hash()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hash of the same words for another job, round, receiver or kind, or with
    /// other borders between the steps, is no voucher.
    #[test]
    fn a_voucher_names_what_it_is_for() {
        let of = |manifest: u8, round, to, kind, steps: &[&[u64]]| {
            let mut voucher = Voucher::new(&[manifest; 32], round, Slot(to), kind);
            steps.iter().for_each(|words| voucher.add(words));
            voucher.hash()
        };
        let right = of(1, 2, 3, Kind::Whole, &[&[4, 5], &[6]]);
        assert_eq!(of(1, 2, 3, Kind::Whole, &[&[4, 5], &[6]]), right);
        let others = [
            of(7, 2, 3, Kind::Whole, &[&[4, 5], &[6]]),
            of(1, 7, 3, Kind::Whole, &[&[4, 5], &[6]]),
            of(1, 2, 4, Kind::Whole, &[&[4, 5], &[6]]),
            of(1, 2, 3, Kind::Halves, &[&[4, 5], &[6]]),
            of(1, 2, 3, Kind::Whole, &[&[4], &[5, 6]]),
            of(1, 2, 3, Kind::Whole, &[&[4, 5], &[7]]),
        ];
        others.iter().for_each(|other| assert_ne!(*other, right));
    }
}
