//! Which agent stands at which slot: how nodes find out that one of them has crashed, and
//! agree on the spare that takes its slot over (docs/protocols.md, Replacement).
//!
//! What is said and heard, counted; no links, no clock, no disk. An *agent* is numbered like
//! the addresses: nodes of the roster by their slots, spares after them. Only nodes of the roster have
//! a voice; a vote counts for the agent by whose link it came.

use std::collections::{BTreeMap, BTreeSet};

use super::wire::Move;
use crate::job::CheckedManifest;
use crate::roster::{Roster, Slot};

/// A slot is missed when it was away for so many whole times between ticks.
const QUIET: u8 = Replacement::TICKS;

/// What must be on disk before it is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Note {
    /// this node has voted
    Voted(Move),
    /// a spare has a slot
    Decided(Move),
}

impl Note {
    pub(super) fn to_bytes(self) -> [u8; 3] {
        let (kind, Move { slot, spare }) = match self {
            Self::Voted(vote) => (1, vote),
            Self::Decided(decided) => (2, decided),
        };
        [kind, slot.0, spare]
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        match *bytes {
            [1, slot, spare] => Some(Self::Voted(Move { slot: Slot(slot), spare })),
            [2, slot, spare] => Some(Self::Decided(Move { slot: Slot(slot), spare })),
            _ => None,
        }
    }
}

/// Slots as a bit mask.
pub(super) fn mask(slots: impl IntoIterator<Item = Slot>) -> u32 {
    slots.into_iter().fold(0, |mask, slot| mask | 1 << slot.index())
}

fn contains(mask: u32, slot: Slot) -> bool {
    mask >> slot.index() & 1 == 1
}

/// One agent's view of who stands where.
pub(super) struct Replacement {
    roster: Roster,
    spares: u8,
    me: Slot,
    /// slots that a spare holds, and that agent
    moved: BTreeMap<Slot, Slot>,
    linked: BTreeSet<Slot>,
    /// spares that hold all data
    loaded: BTreeSet<Slot>,
    /// for how many ticks in a row each slot was away
    quiet: BTreeMap<Slot, u8>,
    /// who was heard since the last tick
    heard: BTreeSet<Slot>,
    missed: BTreeMap<Slot, u32>,
    /// by voter, this node among them
    votes: BTreeMap<Slot, BTreeSet<Move>>,
    /// what others say is decided
    said: BTreeMap<Slot, BTreeSet<Move>>,
    /// how many notes are on disk
    pub(super) notes: u32,
}

impl Replacement {
    /// Ticks in the time after which a slot is missed.
    pub(super) const TICKS: u8 = 4;

    pub(super) fn new(manifest: &CheckedManifest, me: Slot) -> Self {
        let manifest = manifest.manifest();
        Self {
            roster: manifest.roster,
            spares: manifest.spares.len() as u8,
            me,
            moved: BTreeMap::new(),
            linked: BTreeSet::new(),
            loaded: BTreeSet::new(),
            quiet: BTreeMap::new(),
            heard: BTreeSet::new(),
            missed: BTreeMap::new(),
            votes: BTreeMap::new(),
            said: BTreeMap::new(),
            notes: 0,
        }
    }

    /// Takes up what an earlier process has written down; leaves out what it cannot have written.
    pub(super) fn restore(&mut self, notes: &[Note]) {
        self.notes = notes.len() as u32;
        for note in notes {
            let (Note::Voted(it) | Note::Decided(it)) = note;
            let there = self.roster.has(it.slot) && (1..=self.spares).contains(&it.spare);
            let taken = matches!(note, Note::Decided(_)) && self.moves().any(|moved| clash(&moved, it));
            if !there || taken {
                tracing::warn!(note = %it, "what the disk says of a spare cannot be: it is left out");
                continue;
            }
            match note {
                Note::Voted(vote) => drop(self.votes.entry(self.me).or_default().insert(*vote)),
                Note::Decided(decided) => self.decide(*decided),
            }
        }
    }

    /// Whether the job has spares at all.
    pub(super) fn has_spares(&self) -> bool {
        self.spares > 0
    }

    // --- agents and slots -----------------------------------------------------------

    /// A node of the roster, or a spare?
    pub(super) fn is_node(&self, agent: Slot) -> bool {
        self.roster.has(agent)
    }
    fn spare(&self, spare: u8) -> Slot {
        Slot(self.roster.nodes() + spare)
    }
    /// The agent that stands at a slot.
    pub(super) fn agent(&self, slot: Slot) -> Slot {
        self.moved.get(&slot).copied().unwrap_or(slot)
    }
    /// The slot at which an agent stands, if any.
    pub(super) fn slot(&self, agent: Slot) -> Option<Slot> {
        if self.is_node(agent) {
            return (!self.moved.contains_key(&agent)).then_some(agent);
        }
        self.moved.iter().find(|(_, holder)| **holder == agent).map(|(slot, _)| *slot)
    }
    pub(super) fn is_linked(&self, agent: Slot) -> bool {
        self.linked.contains(&agent)
    }
    /// All other agents that are linked.
    pub(super) fn linked(&self) -> impl Iterator<Item = Slot> + '_ {
        self.linked.iter().copied()
    }
    /// Slots that a spare holds, as they are said.
    pub(super) fn moves(&self) -> impl Iterator<Item = Move> + '_ {
        self.moved.iter().map(|(slot, agent)| Move { slot: *slot, spare: agent.0 - self.roster.nodes() })
    }

    pub(super) fn link(&mut self, agent: Slot) {
        self.linked.insert(agent);
        // It says so again on each link, if it still does.
        self.loaded.remove(&agent);
    }
    pub(super) fn unlink(&mut self, agent: Slot) {
        self.linked.remove(&agent);
        self.loaded.remove(&agent);
        // It was there until now.
        self.heard.insert(agent);
        self.missed.remove(&agent);
    }
    pub(super) fn hear(&mut self, agent: Slot) {
        self.heard.insert(agent);
    }
    /// A spare has given up.
    pub(super) fn unload(&mut self, agent: Slot) {
        self.loaded.remove(&agent);
    }
    /// A spare holds all data.
    pub(super) fn is_loaded(&mut self, agent: Slot) {
        self.loaded.insert(agent);
    }

    // --- who is missed --------------------------------------------------------------

    /// A part of the time is over after which a slot is missed.
    pub(super) fn tick(&mut self) {
        for slot in self.roster.slots() {
            let there = self.linked.contains(&slot) || self.heard.contains(&slot);
            let quiet = self.quiet.entry(slot).or_default();
            *quiet = if there { 0 } else { (*quiet + 1).min(QUIET) };
        }
        self.heard.clear();
    }

    /// The slots that this node misses, given those whose nodes have ended the job for
    /// themselves, and those whose nodes it has found lying.
    pub(super) fn missing(&self, over: u32, liars: u32) -> u32 {
        let away = |slot: &Slot| contains(over, *slot) || self.quiet.get(slot).is_some_and(|quiet| *quiet >= QUIET);
        let open = |slot: &Slot| *slot != self.me && !self.moved.contains_key(slot);
        mask(self.roster.slots().filter(open).filter(away)) & !liars
    }

    /// A node says which slots it misses.
    pub(super) fn miss(&mut self, from: Slot, slots: u32) {
        if self.is_node(from) {
            self.missed.insert(from, slots);
        }
    }

    // --- votes ----------------------------------------------------------------------

    /// The vote that this node may cast now, given the slots that it misses. It counts as cast
    /// with [`Replacement::vote`].
    pub(super) fn next_vote(&self, missing: u32) -> Option<Move> {
        let wanted = |slot: &Slot| {
            let others = self.missed.iter().filter(|(from, slots)| **from != self.me && contains(**slots, *slot));
            contains(missing, *slot) && 1 + others.count() >= self.roster.quorum()
        };
        let there = |spare: &u8| {
            let agent = self.spare(*spare);
            self.linked.contains(&agent) && self.loaded.contains(&agent)
        };
        let taken: Vec<Move> = self.cast().chain(self.moves()).collect();
        let mut best = None;
        for slot in self.roster.slots().filter(wanted) {
            for spare in (1..=self.spares).filter(there) {
                let vote = Move { slot, spare };
                let count = self.count(&vote);
                let free = !taken.iter().any(|taken| clash(taken, &vote));
                if free && best.is_none_or(|(most, _)| count > most) {
                    best = Some((count, vote));
                }
            }
        }
        best.map(|(_, vote)| vote)
    }

    fn count(&self, vote: &Move) -> usize {
        self.votes.values().filter(|votes| votes.contains(vote)).count()
    }

    /// Takes a vote. No honest node votes twice for one slot or for one spare, or for what there is not.
    pub(super) fn vote(&mut self, from: Slot, vote: Move) -> Result<(), String> {
        if !self.is_node(from) {
            return Ok(());
        }
        if !self.roster.has(vote.slot) || !(1..=self.spares).contains(&vote.spare) || vote.slot == from {
            return Err(format!("{from} votes for {vote}, which cannot be"));
        }
        let votes = self.votes.entry(from).or_default();
        if let Some(first) = votes.iter().find(|first| clash(first, &vote) && **first != vote) {
            return Err(format!("{from} votes for {first} and for {vote}: expected one vote for a slot and a spare"));
        }
        votes.insert(vote);
        Ok(())
    }

    /// This node's votes.
    pub(super) fn cast(&self) -> impl Iterator<Item = Move> + '_ {
        self.votes.get(&self.me).into_iter().flatten().copied()
    }

    /// A node says that this is decided.
    pub(super) fn say(&mut self, from: Slot, decided: Move) {
        if self.is_node(from) && self.roster.has(decided.slot) && (1..=self.spares).contains(&decided.spare) {
            self.said.entry(from).or_default().insert(decided);
        }
    }

    /// What is decided and not taken up yet, but for the slots of liars.
    pub(super) fn decided(&self, liars: u32) -> Option<Move> {
        let says = |decided: &Move| self.said.values().filter(|said| said.contains(decided)).count();
        let enough = |decided: &Move| {
            self.count(decided) >= self.roster.quorum() || says(decided) > usize::from(self.roster.threshold())
        };
        let moves: Vec<_> = self.moves().collect();
        let new = |decided: &Move| !contains(liars, decided.slot) && !moves.iter().any(|taken| clash(taken, decided));
        let all: BTreeSet<Move> = self.votes.values().chain(self.said.values()).flatten().copied().collect();
        all.into_iter().find(|decided| new(decided) && enough(decided))
    }

    /// The spare has the slot.
    pub(super) fn decide(&mut self, Move { slot, spare }: Move) {
        self.moved.insert(slot, self.spare(spare));
    }

    /// Whether spares may still take these slots over: enough of them are free, and enough nodes
    /// are left to vote.
    pub(super) fn may_fill(&self, slots: u32) -> bool {
        let gone = slots.count_ones() as usize;
        let free = usize::from(self.spares) - self.moved.len();
        let replaced = self.moved.len();
        // A slot is filled once.
        let again = self.moved.keys().any(|slot| contains(slots, *slot));
        !again && gone <= free && usize::from(self.roster.nodes()) - gone - replaced >= self.roster.quorum()
    }
}

/// Whether two are about one slot or one spare.
fn clash(one: &Move, other: &Move) -> bool {
    one.slot == other.slot || one.spare == other.spare
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entropy::Entropy;
    use crate::keys::SecretKey;
    use crate::owner::{Request, prepare};
    use crate::program::{Builder, Openings, Planning, Type};

    /// A node's view of a job at (5, 1) with two spares: four votes are needed.
    fn view(me: u8) -> Replacement {
        let key = |agent: u8| SecretKey::insecure_from_seed(u64::from(agent), "agent").public();
        let b = Builder::new();
        let x = b.input("x", "alice", Type::int(0..=1), [1]);
        b.output("y", "alice", &x);
        let request = Request {
            program: &b.finish().unwrap(),
            roster: Roster::shamir(5, 1).unwrap(),
            planning: Planning { openings: Openings::AllToAll, ..Planning::default() },
            nodes: &[1, 2, 3, 4, 5].map(key),
            spares: &[6, 7].map(key),
            inputs: &BTreeMap::from([("x".to_owned(), vec![1.0])]),
            readers: &BTreeMap::new(),
            attempts: 1,
            expires: u64::MAX,
            note: "",
        };
        let owner = std::sync::Arc::new(SecretKey::insecure_from_seed(1, "owner"));
        let job = prepare(&owner, &request, Entropy::insecure_from_seed(1)).unwrap();
        let mut view = Replacement::new(job.manifest(), Slot(me));
        for agent in [6, 7] {
            view.link(Slot(agent));
            view.is_loaded(Slot(agent));
        }
        view
    }

    const TWO: Move = Move { slot: Slot(2), spare: 1 };

    #[test]
    fn notes_that_no_process_has_written_are_left_out() {
        let mut view = view(1);
        let wrong = [(0, 1), (6, 1), (2, 0), (2, 3), (255, 255)].map(|(slot, spare)| Move { slot: Slot(slot), spare });
        let wrong = wrong.into_iter().flat_map(|it| [Note::Voted(it), Note::Decided(it)]);
        let right = [Note::Decided(TWO), Note::Decided(Move { slot: Slot(3), spare: 1 })];
        view.restore(&wrong.chain(right).collect::<Vec<_>>());
        assert_eq!(view.moves().collect::<Vec<_>>(), [TWO]);
        assert_eq!(view.cast().count(), 0);
        assert!(!view.may_fill(1 << 1), "a slot is filled once");
    }

    #[test]
    fn a_slot_is_missed_after_its_time_and_not_if_it_was_heard() {
        let mut view = view(1);
        (3..=5).for_each(|slot| view.link(Slot(slot)));
        (0..QUIET - 1).for_each(|_| view.tick());
        assert_eq!(view.missing(0, 0), 0);
        view.tick();
        assert_eq!(view.missing(0, 0), 1 << 1);
        view.hear(Slot(2));
        view.tick();
        assert_eq!(view.missing(0, 0), 0);
        // One that has given up is missed at once, a liar never.
        assert_eq!(view.missing(mask([Slot(3), Slot(4)]), mask([Slot(4)])), 1 << 2);
    }

    #[test]
    fn nobody_votes_before_enough_others_miss_the_slot_too() {
        let mut view = view(1);
        let missing = mask([Slot(2)]);
        for from in [3, 4] {
            view.miss(Slot(from), missing);
        }
        // A spare has no voice.
        view.miss(Slot(6), missing);
        assert_eq!(view.next_vote(missing), None);
        view.miss(Slot(5), missing);
        assert_eq!(view.next_vote(0), None, "it does not miss the slot itself");
        assert_eq!(view.next_vote(missing), Some(TWO));
        // Whoever's link is gone says nothing any more.
        view.unlink(Slot(5));
        assert_eq!(view.next_vote(missing), None);
    }

    #[test]
    fn a_vote_goes_where_most_votes_are_and_never_twice_to_one_slot_or_spare() {
        let mut view = view(1);
        let missing = mask([Slot(2), Slot(3)]);
        (4..=5).for_each(|from| view.miss(Slot(from), missing));
        view.miss(Slot(3), mask([Slot(2)]));
        view.miss(Slot(2), mask([Slot(3)]));
        view.vote(Slot(4), Move { slot: Slot(3), spare: 2 }).unwrap();
        let first = view.next_vote(missing).unwrap();
        assert_eq!(first, Move { slot: Slot(3), spare: 2 });
        view.vote(Slot(1), first).unwrap();
        assert_eq!(view.next_vote(missing), Some(TWO));
        view.vote(Slot(1), TWO).unwrap();
        assert_eq!(view.next_vote(missing), None);
        // Nor in its next life.
        let mut next = self::view(1);
        next.restore(&[Note::Voted(TWO)]);
        (3..=5).for_each(|from| next.miss(Slot(from), mask([Slot(2)])));
        assert_eq!(next.next_vote(mask([Slot(2)])), None);
    }

    #[test]
    fn only_enough_alike_votes_of_nodes_decide_each_by_its_own_link() {
        let mut view = view(1);
        for from in [1, 3, 4] {
            view.vote(Slot(from), TWO).unwrap();
            view.vote(Slot(from), TWO).unwrap();
        }
        view.vote(Slot(6), TWO).unwrap();
        view.vote(Slot(5), Move { spare: 2, ..TWO }).unwrap();
        assert_eq!(view.decided(0), None);
        let mut other = self::view(1);
        for from in [1, 3, 4, 5] {
            other.vote(Slot(from), TWO).unwrap();
        }
        assert_eq!(other.decided(mask([Slot(2)])), None, "the slot of a liar");
        assert_eq!(other.decided(0), Some(TWO));
        other.decide(TWO);
        assert_eq!(other.decided(0), None);
        assert_eq!((other.agent(Slot(2)), other.slot(Slot(2)), other.slot(Slot(6))), (Slot(6), None, Some(Slot(2))));
    }

    #[test]
    fn that_it_is_decided_more_than_t_nodes_must_say() {
        let mut view = view(1);
        view.say(Slot(3), TWO);
        view.say(Slot(3), TWO);
        view.say(Slot(6), TWO);
        assert_eq!(view.decided(0), None);
        view.say(Slot(4), TWO);
        assert_eq!(view.decided(0), Some(TWO));
    }

    #[test]
    fn whoever_votes_for_two_slots_or_two_spares_is_a_liar() {
        for second in [Move { slot: Slot(3), spare: 1 }, Move { slot: Slot(2), spare: 2 }] {
            let mut view = view(1);
            view.vote(Slot(4), TWO).unwrap();
            let reason = view.vote(Slot(4), second).unwrap_err();
            assert!(reason.starts_with("node 4 votes for spare 1 for node 2 and for"), "{reason}");
        }
        for wrong in
            [Move { slot: Slot(6), spare: 1 }, Move { slot: Slot(2), spare: 3 }, Move { slot: Slot(4), spare: 1 }]
        {
            assert!(view(1).vote(Slot(4), wrong).unwrap_err().contains("cannot be"));
        }
    }

    #[test]
    fn notes_are_frozen() {
        let notes = [Note::Voted(TWO), Note::Decided(TWO)];
        assert_eq!(notes.map(Note::to_bytes), [[1, 2, 1], [2, 2, 1]]);
        for note in notes {
            assert_eq!(Note::from_bytes(&note.to_bytes()), Some(note));
        }
        assert_eq!(Note::from_bytes(&[3, 2, 1]), None);
        assert_eq!(Note::from_bytes(&[1, 2]), None);
    }
}
