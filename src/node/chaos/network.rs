//! Links, and what becomes of messages on them: late, doubled, dropped, or changed by a corrupt sender.

use super::{DEADLINE, Happening, Link, World};
use crate::engine::frame::{Frame, Kind};
use crate::node::session::Event;
use crate::node::wire::Peer;
use crate::roster::Slot;

impl World<'_> {
    pub(super) fn link(&mut self, a: Slot, b: Slot) -> &mut Link {
        self.links.entry((a.min(b), a.max(b))).or_default()
    }

    pub(super) fn send(&mut self, from: Slot, to: Slot, bytes: &[u8]) {
        self.tally.messages += 1;
        let frame = frame(bytes);
        if frame.as_ref().is_some_and(|frame| frame.header.kind == Kind::Finish) {
            self.finishing.extend(self.nodes[from.index()].slot);
        }
        let corrupt = self.chaos.corrupt.contains(&from);
        // From a changed disk wrong words may be told, which nobody takes from one node: it is
        // as if a corrupt one told them. What is computed must not depend on them.
        let damaged = self.damage.is_some() || self.changed == Some(from);
        let told = damaged && matches!(Peer::decode(bytes), Some(Peer::Words { .. }));
        // What a spare says, it says as its slot.
        let slot = self.nodes[from.index()].slot.filter(|_| !corrupt && !told);
        if let Some(slot) = slot {
            self.ledger.hear(slot, bytes, false);
            if let Some(frame) = frame.filter(|_| self.case.job.manifest().has_attempts()) {
                let (attempt, life) = (frame.header.attempt, self.nodes[from.index()].life);
                let spoke = *self.spoke.entry((slot, attempt)).or_insert(life);
                assert_eq!(
                    spoke, life,
                    "a process of {slot} speaks in attempt {attempt}, in which another one has spoken"
                );
                self.tally.attempts = self.tally.attempts.max(u64::from(attempt));
                self.tally.extended |= u64::from(attempt >= self.case.job.manifest().manifest().attempts);
            }
            self.case.ledger.hear(slot, bytes, true);
        }
        let Some(epoch) = self.link(from, to).up else { return };
        if self.one_in(self.chaos.dropped) {
            return;
        }
        let mut delay = 1 + self.pick(60);
        if self.one_in(self.chaos.late) {
            delay += self.pick(2 * DEADLINE);
        }
        let mut bytes = bytes.to_vec();
        let now = self.now;
        if let Some(hook) = &mut self.hook
            && !hook(now, from, to, &mut bytes)
        {
            return;
        }
        if corrupt {
            self.corrupt(&mut bytes);
        }
        let (now, way) = (self.now, usize::from(from > to));
        let busy = &mut self.link(from, to).busy[way];
        // In order.
        *busy = (now + delay).max(*busy);
        let delay = *busy - now;
        if self.one_in(self.chaos.doubled) {
            let again = delay + self.pick(DEADLINE);
            self.at(again, Happening::Arrive { from, to, epoch, bytes: bytes.clone() });
        }
        self.at(delay, Happening::Arrive { from, to, epoch, bytes });
    }

    /// What a corrupt node may send in the place of what it should.
    fn corrupt(&mut self, bytes: &mut Vec<u8>) {
        match self.pick(12) {
            0 => {
                let at = self.pick(bytes.len() as u64) as usize;
                bytes[at] ^= 1 + self.pick(255) as u8;
            }
            1 if bytes.len() > 8 => {
                // A wrong share, or a wrong digest.
                let at = bytes.len() - 8;
                bytes[at] ^= 1;
            }
            2 => bytes.truncate(1 + self.pick(bytes.len() as u64) as usize),
            3 => *bytes = Peer::Behind { round: self.pick(20) as u32 }.encode(),
            4 => {
                let (round, words) = (self.pick(5) as u32, vec![0; 8 * self.pick(20) as usize]);
                *bytes = Peer::Words { round, transcript: [7; 32], words: &words }.encode();
            }
            _ => {}
        }
    }

    fn apart(&self, a: Slot, b: Slot) -> bool {
        self.parted.contains(&a) != self.parted.contains(&b)
    }

    /// The lower slot dials while its job lasts.
    pub(super) fn dial(&mut self, a: Slot, b: Slot) {
        if self.nodes[a.index()].session.is_none() || self.link(a, b).up.is_some() {
            return;
        }
        let (count, now) = (self.count, self.now);
        if self.nodes[b.index()].session.is_some() && !self.apart(a, b) {
            *self.link(a, b) = Link { up: Some(count), busy: [now; 2] };
            self.tally.links += 1;
            self.step(a, Event::Linked(b));
            self.step(b, Event::Linked(a));
            return;
        }
        if self.nodes[b.index()].ended.is_some() && !self.apart(a, b) {
            self.step(a, Event::Linked(b));
            let over = Peer::Abort("this job is over here".to_owned()).encode();
            self.step(a, Event::Message { from: b, bytes: over.into() });
            self.step(a, Event::Lost { peer: b, reason: "closed".to_owned() });
        }
        let pause = 500 + self.pick(4500);
        self.at(pause, Happening::Dial(a, b));
    }

    pub(super) fn cut(&mut self, a: Slot, b: Slot) {
        let Some(epoch) = self.link(a, b).up.take() else { return };
        for (slot, peer) in [(a, b), (b, a)] {
            let life = self.nodes[slot.index()].life;
            let noticed = if self.one_in(4) { self.pick(DEADLINE) } else { self.pick(50) };
            self.at(noticed, Happening::Lost { slot, life, peer, epoch });
        }
        let pause = 50 + self.pick(5000);
        self.at(pause, Happening::Dial(a.min(b), a.max(b)));
    }

    pub(super) fn part(&mut self, slots: &[Slot], apart: bool) {
        for slot in slots {
            if apart {
                self.parted.insert(*slot)
            } else {
                self.parted.remove(slot)
            };
        }
        let all = self.case.agents();
        for (a, b) in all.iter().flat_map(|a| all.iter().map(move |b| (*a, *b))).filter(|(a, b)| a < b) {
            if self.apart(a, b) {
                self.cut(a, b);
            }
        }
    }
}

pub(super) fn frame(bytes: &[u8]) -> Option<Frame> {
    match Peer::decode(bytes) {
        Some(Peer::Frame(frame)) => Some(Frame::decode(frame).unwrap()),
        _ => None,
    }
}
