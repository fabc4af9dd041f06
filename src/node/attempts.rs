//! In which attempt of an SPDZ job a node may speak next, and where all nodes go on
//! together (docs/protocols.md, 16, rules 22 to 24). What is durable, and what is
//! sent, is the session's affair.

use std::collections::BTreeMap;

use super::wire::Offer;
use crate::job::MAX_ATTEMPTS;
use crate::roster::Slot;

/// A job's attempts at one node.
pub(super) struct Attempts {
    /// the job goes on in another one
    several: bool,
    /// no party runs: this node waits for the next one
    waits: bool,
    /// what this node offers, or has offered for the attempt in which it is
    own: Offer,
    /// the newest offer of each peer, by its present link
    heard: BTreeMap<Slot, Offer>,
    /// for how many deadlines in a row peers have offered nothing that helps
    silent: BTreeMap<Slot, u32>,
}

/// What an offer asks of the one who hears it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asks {
    Nothing,
    /// its sender is not in this node's attempt any more: the party must go
    Stop,
    /// its sender waits for what this node has offered before
    Answer,
}

impl Attempts {
    pub(super) fn new(several: bool) -> Self {
        let (heard, silent) = (BTreeMap::new(), BTreeMap::new());
        Self { several, waits: false, own: Offer::default(), heard, silent }
    }

    pub(super) fn are_several(&self) -> bool {
        self.several
    }

    /// No job has as many; what is said of this one or later ones is no honest node's word.
    pub(super) fn most(&self) -> u32 {
        if self.several { MAX_ATTEMPTS } else { 1 }
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
        self.own = Offer { level, checkpoints, ..self.own };
        self.silent.clear();
    }

    /// The level is durable.
    pub(super) fn raise(&mut self, level: u32) {
        self.own.level = level;
    }

    /// The streams of so many attempts are whole and durable; whether that is news.
    pub(super) fn hold(&mut self, held: u32) -> bool {
        std::mem::replace(&mut self.own.held, held) != held
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
        let (level, most) = (offer.level, self.most());
        if level >= most {
            return Err(format!(
                "{from} claims to have spoken in attempt {level}, where a job has {most} at most: it lies"
            ));
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
        Ok(Asks::Nothing)
    }

    /// The level to which this node must go: the highest that was heard of, of an attempt that it holds. The others
    /// wait for what it lacks.
    pub(super) fn higher(&self) -> Option<u32> {
        let levels = self.heard.values().map(|offer| offer.level).filter(|level| *level < self.own.held);
        levels.max().filter(|level| *level > self.own.level)
    }

    /// Those that have not offered anything at this node's level.
    pub(super) fn missing<'a>(&'a self, peers: impl Iterator<Item = Slot> + 'a) -> impl Iterator<Item = Slot> + 'a {
        peers.filter(|peer| self.heard.get(peer).is_none_or(|offer| offer.level != self.own.level))
    }

    /// Whether the owner must deal more before the next attempt can begin, as far as is known.
    pub(super) fn lacks(&self) -> bool {
        let next = self.own.level + 1;
        self.own.held <= next || self.heard.values().any(|offer| offer.held <= next || self.is_ahead(offer))
    }

    /// It may have spoken in an attempt that this node does not hold.
    fn is_ahead(&self, offer: &Offer) -> bool {
        offer.level >= self.own.held && offer.level > self.own.level
    }

    /// A deadline has passed: those that have offered nothing that helps for longer than so many. Whoever is ahead of what
    /// this node holds has said enough, and so has who lacks what comes next here.
    pub(super) fn overdue(&mut self, peers: impl Iterator<Item = Slot>, deadlines: u32) -> Vec<Slot> {
        let missing: Vec<Slot> = self.missing(peers).collect();
        let next = self.own.level + 1;
        let said = |peer: &Slot| self.heard.get(peer).is_some_and(|offer| offer.held <= next || self.is_ahead(offer));
        let silent = missing.into_iter().filter(|peer| !said(peer));
        self.silent = silent.map(|peer| (peer, self.silent.get(&peer).map_or(1, |count| count + 1))).collect();
        self.silent.iter().filter(|(_, count)| **count > deadlines).map(|(peer, _)| *peer).collect()
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
        let checkpoints = checkpoints.iter().map(|(round, byte)| (*round, [*byte; 32])).collect();
        Offer { level, held: 4, checkpoints }
    }

    fn holding(held: u32, level: u32) -> Offer {
        Offer { held, ..offer(level, &[]) }
    }

    fn waiting(level: u32, checkpoints: &[(u32, u8)]) -> Attempts {
        let mut attempts = Attempts::new(true);
        attempts.hold(4);
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

    /// A run of the owner that was cut short, and a liar who offers one node a level that the other does not hold.
    #[test]
    fn whoever_lacks_what_comes_next_is_not_overdue() {
        let mut attempts = waiting(3, &[]);
        attempts.hold(6);
        attempts.hear(Slot(2), true, holding(4, 3), 3).unwrap();
        attempts.hear(Slot(3), true, holding(6, 5), 3).unwrap();
        assert_eq!(attempts.higher(), Some(5));
        attempts.raise(5);
        assert!(attempts.lacks());
        (0..9).for_each(|_| assert!(attempts.overdue(PEERS.into_iter(), 3).is_empty()));
        // One that could come, and does not, is.
        attempts.hold(8);
        attempts.hear(Slot(2), true, holding(8, 3), 5).unwrap();
        assert!((0..9).any(|_| attempts.overdue(PEERS.into_iter(), 3) == [Slot(2)]));
    }

    #[test]
    fn all_must_be_at_one_level() {
        let mut attempts = waiting(0, &[]);
        attempts.hear(Slot(2), true, offer(0, &[]), 0).unwrap();
        assert_eq!(attempts.higher(), None);
        attempts.hear(Slot(3), true, offer(1, &[]), 0).unwrap();
        assert_eq!(missing(&attempts), [Slot(3)]);
        assert_eq!(attempts.higher(), Some(1));
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
        let mut attempts = Attempts::new(true);
        assert_eq!(attempts.hear(Slot(2), true, offer(0, &[]), 0), Ok(Asks::Stop));
        let mut attempts = waiting(1, &[]);
        attempts.begin();
        assert_eq!(attempts.hear(Slot(2), true, offer(1, &[]), 2), Ok(Asks::Answer));
        // Two that run do not answer each other for ever.
        assert_eq!(attempts.hear(Slot(2), false, offer(1, &[]), 2), Ok(Asks::Nothing));
        assert_eq!(attempts.hear(Slot(2), true, offer(2, &[]), 2), Ok(Asks::Stop));
        assert_eq!(attempts.hear(Slot(2), true, offer(3, &[]), 2), Ok(Asks::Stop));
        assert_eq!(attempts.higher(), Some(3));
        for level in [MAX_ATTEMPTS, u32::MAX] {
            let lie = attempts.hear(Slot(2), true, offer(level, &[]), 2).unwrap_err();
            assert!(lie.contains("255 at most"), "{lie}");
        }
    }

    #[test]
    fn who_lacks_the_next_attempt_waits_and_is_waited_for() {
        let mut attempts = waiting(2, &[]);
        for peer in PEERS {
            attempts.hear(peer, true, holding(4, 2), 2).unwrap();
        }
        assert!(!attempts.lacks());
        // A run of the owner has reached the others and not this one, or this one and not the others.
        attempts.hear(Slot(3), true, holding(3, 2), 2).unwrap();
        assert!(attempts.lacks());
        attempts.raise(3);
        for peer in PEERS {
            attempts.hear(peer, true, holding(5, 3), 3).unwrap();
        }
        assert!(missing(&attempts).is_empty() && attempts.lacks());
        assert!(attempts.hold(5) && !attempts.hold(5));
        assert!(!attempts.lacks());
        // One that may have spoken where this one holds nothing is no liar, and nobody follows it there.
        attempts.hear(Slot(2), true, holding(7, 5), 3).unwrap();
        assert_eq!((attempts.higher(), attempts.lacks()), (None, true));
        assert!(attempts.hold(6));
        assert_eq!(attempts.higher(), Some(5));
    }

    #[test]
    fn patience_is_counted_for_each_peer_by_itself() {
        let mut attempts = waiting(3, &[]);
        let overdue = |attempts: &mut Attempts| attempts.overdue(PEERS.into_iter(), 2);
        attempts.hear(Slot(2), true, holding(4, 3), 3).unwrap();
        assert!(overdue(&mut attempts).is_empty() && overdue(&mut attempts).is_empty());
        // The second leaves when the third has been away for long.
        attempts.hear(Slot(3), true, holding(4, 3), 3).unwrap();
        attempts.forget(Slot(2));
        assert!(overdue(&mut attempts).is_empty() && overdue(&mut attempts).is_empty());
        assert_eq!(overdue(&mut attempts), [Slot(2)]);
        // Who is ahead waits for the owner, as this one does.
        attempts.hear(Slot(2), true, holding(6, 4), 3).unwrap();
        for _ in 0..5 {
            assert!(overdue(&mut attempts).is_empty());
        }
    }
}
