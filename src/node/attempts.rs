//! In which attempt of an SPDZ job a node may speak next, and where all nodes go on
//! together (docs/protocols.md, 16, rules 22 to 24). What is durable, and what is
//! sent, is the session's affair.

use std::collections::BTreeMap;

use super::wire::Offer;
use crate::roster::Slot;

/// A job's attempts at one node.
pub(super) struct Attempts {
    /// how many are dealt; 1 if a job cannot go on in another
    dealt: u32,
    /// no party runs: this node waits for the next one
    waits: bool,
    /// what this node offers, or has offered for the attempt in which it is
    own: Offer,
    /// the newest offer of each peer, by its present link
    heard: BTreeMap<Slot, Offer>,
}

/// What an offer asks of the one who hears it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asks {
    Nothing,
    /// its sender is not in this node's attempt any more: the party must go
    Stop,
    /// its sender waits for what this node has offered before
    Answer,
    /// its sender may have spoken in attempts up to this one, so this node does not speak in them
    Raise(u32),
}

impl Attempts {
    pub(super) fn new(dealt: u32) -> Self {
        Self { dealt, waits: false, own: Offer::default(), heard: BTreeMap::new() }
    }

    pub(super) fn dealt(&self) -> u32 {
        self.dealt
    }

    pub(super) fn wait(&self) -> bool {
        self.waits
    }

    pub(super) fn own(&self) -> &Offer {
        &self.own
    }

    /// No attempt up to this level is spoken in any more; the node can go on from these checkpoints.
    pub(super) fn stop(&mut self, level: u32, checkpoints: Vec<(u32, [u8; 32])>) {
        self.waits = true;
        self.own = Offer { level, checkpoints };
    }

    /// The level is durable.
    pub(super) fn raise(&mut self, level: u32) {
        self.own.level = level;
    }

    /// The link by which it came is gone, and who comes by the next may know nothing of it.
    pub(super) fn forget(&mut self, peer: Slot) {
        self.heard.remove(&peer);
    }

    /// Takes an offer of a peer, where this node runs an attempt or has run one.
    ///
    /// # Errors
    /// A level that no honest node has.
    pub(super) fn hear(&mut self, from: Slot, peer_waits: bool, offer: Offer, running: u32) -> Result<Asks, String> {
        let (level, dealt) = (offer.level, self.dealt);
        if level >= dealt {
            return Err(format!("{from} claims to have spoken in attempt {level}, of {dealt} that are dealt: it lies"));
        }
        if !self.waits {
            return Ok(match peer_waits {
                // It is the answer to what this node has asked before.
                false => Asks::Nothing,
                true if level < running => Asks::Answer,
                true => {
                    self.heard.insert(from, offer);
                    Asks::Stop
                }
            });
        }
        self.heard.insert(from, offer);
        Ok(if level > self.own.level { Asks::Raise(level) } else { Asks::Nothing })
    }

    /// The highest level that was heard of.
    pub(super) fn highest(&self) -> u32 {
        self.heard.values().map(|offer| offer.level).max().unwrap_or(0).max(self.own.level)
    }

    /// Those that have not offered anything at this node's level.
    pub(super) fn missing<'a>(&'a self, peers: impl Iterator<Item = Slot> + 'a) -> impl Iterator<Item = Slot> + 'a {
        peers.filter(|peer| self.heard.get(peer).is_none_or(|offer| offer.level != self.own.level))
    }

    /// The newest checkpoint that all hold alike; `None` for the beginning. Called once none is missing.
    pub(super) fn common(&self) -> Option<(u32, [u8; 32])> {
        let all = |held: &&(u32, [u8; 32])| self.heard.values().all(|offer| offer.checkpoints.contains(held));
        self.own.checkpoints.iter().filter(all).max_by_key(|held| held.0).copied()
    }

    /// The attempt after this node's level begins, and its number.
    pub(super) fn begin(&mut self) -> u32 {
        self.waits = false;
        self.own.level + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEERS: [Slot; 2] = [Slot(2), Slot(3)];

    fn offer(level: u32, checkpoints: &[(u32, u8)]) -> Offer {
        Offer { level, checkpoints: checkpoints.iter().map(|(round, byte)| (*round, [*byte; 32])).collect() }
    }

    fn waiting(level: u32, checkpoints: &[(u32, u8)]) -> Attempts {
        let mut attempts = Attempts::new(4);
        attempts.stop(level, offer(level, checkpoints).checkpoints);
        attempts
    }

    fn missing(attempts: &Attempts) -> Vec<Slot> {
        attempts.missing(PEERS.into_iter()).collect()
    }

    #[test]
    fn it_begins_where_all_can_and_no_later() {
        let mut attempts = waiting(1, &[(3, 3), (7, 7)]);
        assert_eq!(missing(&attempts), PEERS);
        attempts.hear(Slot(2), true, offer(1, &[(3, 3), (7, 7)]), 1).unwrap();
        assert_eq!(missing(&attempts), [Slot(3)]);
        // It has another one before round 7: of another attempt.
        attempts.hear(Slot(3), true, offer(1, &[(7, 9), (3, 3)]), 1).unwrap();
        assert!(missing(&attempts).is_empty());
        assert_eq!(attempts.common(), Some((3, [3; 32])));
        attempts.hear(Slot(3), true, offer(1, &[(3, 3), (7, 7)]), 1).unwrap();
        assert_eq!(attempts.common(), Some((7, [7; 32])));
        // One that claims what nobody else has, or hides what it has, gets nobody to begin there.
        attempts.hear(Slot(3), true, offer(1, &[(9, 9)]), 1).unwrap();
        assert_eq!(attempts.common(), None);
        assert_eq!(attempts.begin(), 2);
        assert!(!attempts.wait());
    }

    #[test]
    fn all_must_be_at_one_level() {
        let mut attempts = waiting(0, &[]);
        attempts.hear(Slot(2), true, offer(0, &[]), 0).unwrap();
        assert_eq!(attempts.hear(Slot(3), true, offer(1, &[]), 0), Ok(Asks::Raise(1)));
        assert_eq!(missing(&attempts), [Slot(3)]);
        assert_eq!(attempts.highest(), 1);
        attempts.raise(1);
        // What the other said at the level before counts no more.
        assert_eq!(missing(&attempts), [Slot(2)]);
        assert_eq!(attempts.hear(Slot(2), false, offer(1, &[]), 1), Ok(Asks::Nothing));
        assert!(missing(&attempts).is_empty());
        attempts.forget(Slot(3));
        assert_eq!(missing(&attempts), [Slot(3)]);
    }

    #[test]
    fn who_runs_stops_for_those_that_cannot_be_in_its_attempt() {
        let mut attempts = Attempts::new(4);
        assert_eq!(attempts.hear(Slot(2), true, offer(0, &[]), 0), Ok(Asks::Stop));
        let mut attempts = waiting(1, &[]);
        attempts.begin();
        assert_eq!(attempts.hear(Slot(2), true, offer(1, &[]), 2), Ok(Asks::Answer));
        // Two that run do not answer each other for ever.
        assert_eq!(attempts.hear(Slot(2), false, offer(1, &[]), 2), Ok(Asks::Nothing));
        assert_eq!(attempts.hear(Slot(2), true, offer(2, &[]), 2), Ok(Asks::Stop));
        assert_eq!(attempts.hear(Slot(2), true, offer(3, &[]), 2), Ok(Asks::Stop));
        assert_eq!(attempts.highest(), 3);
        let lie = attempts.hear(Slot(2), true, offer(4, &[]), 2).unwrap_err();
        assert!(lie.contains("of 4 that are dealt"), "{lie}");
    }
}
