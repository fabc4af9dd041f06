//! What peers say was opened in rounds in which this node was not there. More
//! than t of them must say the same: one of those is honest.

use std::collections::BTreeMap;

use crate::roster::Slot;

/// Bytes of opened words in the answer to one request; one longer round passes alone.
pub(super) const SERVE_BYTES: usize = 4 << 20;

/// What a claim takes beside its words.
pub(super) const CLAIM_BYTES: usize = 128;

/// The round to which a node that is in round `now` must go back, for nodes that have forgotten
/// more than it still says; `asks` are the rounds from which its peers ask, of whom t may lie.
///
/// More than t ask from there or from before, so that liars do not make it run in circles beside
/// nodes that only wait; and more than t from there or from later, who can tell what was opened
/// before, so that one node that has forgotten all does not cost the others what they know.
pub(super) fn go_back_to(mut asks: Vec<usize>, threshold: u8, now: usize) -> Option<usize> {
    let t = usize::from(threshold);
    asks.sort_unstable();
    let behind = *asks.get(t)?;
    let known = asks[asks.len() - 1 - t];
    Some(behind.max(known)).filter(|to| *to < now)
}

/// Claims that are not agreed yet. No peer takes more memory than the answer
/// to one request has.
pub(super) struct Claims {
    threshold: u8,
    of: BTreeMap<Slot, BTreeMap<usize, Claim>>,
    /// bytes that the claims of each peer take
    held: BTreeMap<Slot, usize>,
}

struct Claim {
    digest: blake3::Hash,
    transcript: [u8; 32],
    words: Vec<u8>,
}

impl Claims {
    pub(super) fn new(threshold: u8) -> Self {
        Self { threshold, of: BTreeMap::new(), held: BTreeMap::new() }
    }

    /// Takes a peer's claim, in the place of an earlier one. Those of the latest rounds
    /// make room for it: the earliest is needed first, and what comes after can be asked for again.
    pub(super) fn add(&mut self, from: Slot, round: usize, transcript: [u8; 32], words: &[u8]) {
        let Self { of, held, .. } = self;
        let (claims, held) = (of.entry(from).or_default(), held.entry(from).or_default());
        let size = |words: &[u8]| words.len() + CLAIM_BYTES;
        if let Some(before) = claims.remove(&round) {
            *held -= size(&before.words);
        }
        while *held + size(words) > SERVE_BYTES
            && let Some(last) = claims.last_entry()
        {
            if *last.key() < round {
                return;
            }
            *held -= size(&last.remove().words);
        }
        *held += size(words);
        let digest = blake3::Hasher::new().update(&transcript).update(words).finalize();
        claims.insert(round, Claim { digest, transcript, words: words.to_vec() });
    }

    fn digest(&self, round: usize) -> Option<blake3::Hash> {
        let of_round = || self.of.values().filter_map(|claims| claims.get(&round));
        let says = |digest| of_round().filter(|claim| claim.digest == digest).count();
        of_round().map(|claim| claim.digest).find(|digest| says(*digest) > usize::from(self.threshold))
    }

    /// Whether more than t peers make one claim about a round.
    pub(super) fn is_agreed(&self, round: usize) -> bool {
        self.digest(round).is_some()
    }

    /// The claim about a round that more than t peers make; it is taken out.
    pub(super) fn agreed(&mut self, round: usize) -> Option<([u8; 32], Vec<u8>)> {
        let digest = self.digest(round)?;
        let mut agreed = None;
        for (peer, claims) in &mut self.of {
            let Some(claim) = claims.remove(&round) else { continue };
            *self.held.entry(*peer).or_default() -= claim.words.len() + CLAIM_BYTES;
            if claim.digest == digest {
                agreed = Some((claim.transcript, claim.words));
            }
        }
        agreed
    }

    /// Forgets what is not needed any more.
    pub(super) fn drop_below(&mut self, round: usize) {
        for (peer, claims) in &mut self.of {
            let kept = claims.split_off(&round);
            let dropped = std::mem::replace(claims, kept);
            let bytes = dropped.values().map(|claim| claim.words.len() + CLAIM_BYTES).sum::<usize>();
            *self.held.entry(*peer).or_default() -= bytes;
        }
    }

    /// Forgets what a peer said.
    pub(super) fn drop_of(&mut self, peer: Slot) {
        self.of.remove(&peer);
        self.held.remove(&peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_honest_peer_at_least_says_is_taken() {
        let mut claims = Claims::new(1);
        claims.add(Slot(1), 3, [1; 32], &[1; 8]);
        claims.add(Slot(1), 3, [1; 32], &[1; 8]);
        assert!(claims.agreed(3).is_none(), "one peer twice");
        claims.add(Slot(2), 3, [1; 32], &[2; 8]);
        claims.add(Slot(3), 3, [2; 32], &[1; 8]);
        assert!(claims.agreed(3).is_none(), "other words, another transcript");
        claims.add(Slot(4), 3, [2; 32], &[1; 8]);
        assert_eq!(claims.agreed(3), Some(([2; 32], vec![1; 8])));
        assert_eq!(claims.agreed(3), None);
    }

    #[test]
    fn a_node_goes_back_for_more_than_t_and_to_where_more_than_t_are() {
        let to = |asks: &[usize], now| go_back_to(asks.to_vec(), 1, now);
        // All others are behind, whatever a liar says.
        for liar in [0, 3, 7, 9] {
            assert_eq!(to(&[5, 5, 5, liar], 9), Some(5));
        }
        // Nobody but a liar is, or too few are heard.
        assert_eq!(to(&[0, 9], 9), None);
        assert_eq!(to(&[9, 9, 9, 0], 9), None);
        assert_eq!(to(&[0], 9), None);
        assert_eq!(to(&[], 9), None);
        // Others can tell the hindmost.
        assert_eq!(to(&[9, 9, 5, 0], 9), None);
        assert_eq!(to(&[7, 7, 5, 0], 9), Some(7));
    }

    #[test]
    fn a_peer_takes_no_more_memory_than_an_answer_has() {
        let mut claims = Claims::new(0);
        let words = vec![0; SERVE_BYTES / 2];
        for round in 0..100 {
            claims.add(Slot(1), round, [0; 32], &words);
        }
        let held = claims.of.values().flat_map(BTreeMap::values).map(|claim| claim.words.len()).sum::<usize>();
        assert!(held <= SERVE_BYTES, "{held}");
        assert!(claims.agreed(0).is_some() && claims.agreed(1).is_none());
        // What is needed first has room, whatever was claimed before.
        for round in (10..20).rev() {
            claims.add(Slot(2), round, [0; 32], &words);
        }
        assert!(claims.agreed(10).is_some() && claims.agreed(19).is_none());
        // One round may be longer than an answer.
        claims.add(Slot(1), 7, [0; 32], &vec![0; 2 * SERVE_BYTES]);
        assert!(claims.agreed(7).is_some());
        claims.add(Slot(1), 8, [0; 32], &[]);
        claims.drop_below(9);
        assert!(claims.agreed(8).is_none());
    }
}
