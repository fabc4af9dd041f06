//! Which peers this node waits for, and which it listens to. Of no consequence
//! for what is computed (docs/protocols.md, nodes that come and go): two nodes
//! may judge differently and still open the same words.

use crate::roster::{Roster, Slot};

pub(super) struct Attendance {
    peers: Vec<Peer>,
}

/// A peer, or this node itself, of which nothing is ever noted.
#[derive(Clone, Default)]
struct Peer {
    absent: bool,
    /// how often it was counted as absent
    absences: u32,
    /// exchanges in a row in which it spoke in time since
    in_time: u64,
    dismissed: bool,
}

/// A peer that was absent so often is as good as gone: 2^16 exchanges of good
/// conduct are more than most jobs have.
const MOST_ABSENCES: u32 = 16;

impl Attendance {
    pub(super) fn new(roster: Roster) -> Self {
        Self { peers: vec![Peer::default(); roster.nodes().into()] }
    }

    /// Whether an exchange waits for this peer's frame until the deadline.
    pub(super) fn awaited(&self, slot: Slot) -> bool {
        let peer = &self.peers[slot.index()];
        !peer.absent && !peer.dismissed
    }

    /// Whether what this peer sends is looked at.
    pub(super) fn heard(&self, slot: Slot) -> bool {
        !self.peers[slot.index()].dismissed
    }

    /// The peer did not speak in time, or its link broke.
    pub(super) fn miss(&mut self, slot: Slot) {
        let peer = &mut self.peers[slot.index()];
        peer.in_time = 0;
        if !peer.absent {
            peer.absent = true;
            peer.absences = (peer.absences + 1).min(MOST_ABSENCES);
        }
    }

    /// The peer spoke before an exchange was complete. After an absence it
    /// must do so twice as often as after the last one before it is waited for.
    pub(super) fn in_time(&mut self, slot: Slot) {
        let peer = &mut self.peers[slot.index()];
        if peer.absent {
            peer.in_time += 1;
            peer.absent = peer.in_time < 1 << peer.absences;
        }
    }

    /// The peer is a liar that the job can go on without.
    pub(super) fn dismiss(&mut self, slot: Slot) {
        self.peers[slot.index()].dismissed = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Exchanges in time until a peer is waited for again.
    fn probation(attendance: &mut Attendance, slot: Slot) -> u32 {
        let mut exchanges = 0;
        while !attendance.awaited(slot) {
            attendance.in_time(slot);
            exchanges += 1;
        }
        exchanges
    }

    #[test]
    fn who_comes_and_goes_is_waited_for_ever_more_rarely() {
        let (mut attendance, slot) = (Attendance::new(Roster::shamir(5, 1).unwrap()), Slot(2));
        assert!(attendance.awaited(slot));
        for expected in [2, 4, 8] {
            attendance.miss(slot);
            // Once absent, a further silence is the same absence and begins the count anew.
            attendance.in_time(slot);
            attendance.miss(slot);
            assert_eq!(probation(&mut attendance, slot), expected);
        }
        assert!(attendance.awaited(Slot(3)));
        (0..100).for_each(|_| {
            attendance.miss(slot);
            probation(&mut attendance, slot);
        });
    }

    #[test]
    fn who_is_dismissed_is_neither_heard_nor_awaited() {
        let mut attendance = Attendance::new(Roster::shamir(5, 1).unwrap());
        attendance.dismiss(Slot(5));
        attendance.in_time(Slot(5));
        assert!(!attendance.awaited(Slot(5)) && !attendance.heard(Slot(5)));
    }
}
