//! The state of a party between two rounds, from which another one of the same node goes on
//! (docs/protocols.md, 16).
//!
//! It has the shares of the live registers, so it never leaves the node, and only sealed the process.

use std::collections::BTreeSet;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::error::EngineError;
use super::{Action, Engine, State, Step, Verify};
use crate::field::Fp61;
use crate::field::slice::{append_words, decode_words};
use crate::program::plan::Plan;
use crate::roster::Slot;
use crate::transcript::{SEGMENT_WORDS, Transcript};

/// The first byte of the encoded form.
const VERSION: u8 = 1;

/// The state of a party before a round, checked against its plan. Never printed; wiped on drop.
#[derive(Clone)]
pub struct Checkpoint {
    round: usize,
    transcript: [u8; 32],
    blamed: BTreeSet<Slot>,
    /// of the secret registers, then of the public ones ([`Plan::live`])
    words: Zeroizing<Vec<Fp61>>,
}

impl Checkpoint {
    /// The round that comes next.
    pub fn round(&self) -> usize {
        self.round
    }

    /// The transcript after the round before.
    pub fn transcript(&self) -> [u8; 32] {
        self.transcript
    }

    /// What the live registers hold: the secret ones, then the public ones.
    pub(crate) fn words(&self) -> &[Fp61] {
        &self.words
    }

    /// Everything but round and transcript, which stand beside it: version, the number
    /// of slots that were blamed and these, ascending, then 8 bytes a word.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        // Nothing is left behind by growing.
        let mut bytes = Zeroizing::new(Vec::with_capacity(2 + self.blamed.len() + 8 * self.words.len()));
        bytes.extend([VERSION, self.blamed.len() as u8]);
        bytes.extend(self.blamed.iter().map(|slot| slot.0));
        append_words(&mut bytes, &self.words);
        bytes
    }

    /// Reads the encoded form of a checkpoint of this plan, before this round.
    ///
    /// # Errors
    /// [`EngineError::Checkpoint`] for another version, another length than the plan's
    /// registers have, slots that are not on its roster, words that are not canonical.
    pub fn decode(plan: &Plan, round: usize, transcript: [u8; 32], bytes: &[u8]) -> Result<Self, EngineError> {
        let refused = |what: String| EngineError::Checkpoint(what);
        if !(1..=plan.opening_rounds()).contains(&round) {
            let last = plan.opening_rounds();
            return Err(refused(format!("it stands before round {round}, expected one from 1 to {last}")));
        }
        let Some((&[version, blamed], rest)) = bytes.split_first_chunk() else {
            return Err(refused(format!("found {} bytes, expected at least 2", bytes.len())));
        };
        if version != VERSION {
            return Err(refused(format!("its form is {version}, this release reads {VERSION}")));
        }
        let (live, blamed) = (plan.live(round).words() as usize, usize::from(blamed));
        if rest.len() != blamed + 8 * live {
            let (found, expected) = (rest.len(), blamed + 8 * live);
            return Err(refused(format!("found {found} bytes, expected {expected} before round {round}")));
        }
        let (slots, words) = rest.split_at(blamed);
        if let Some(slot) = slots.iter().find(|slot| !plan.roster.has(Slot(**slot))) {
            return Err(refused(format!("it blames node {slot}, which {} does not have", plan.roster)));
        }
        let words = decode_words(words).map_err(|error| refused(error.to_string()))?;
        let blamed = slots.iter().map(|slot| Slot(*slot)).collect();
        Ok(Self { round, transcript, blamed, words: Zeroizing::new(words) })
    }
}

impl<S: Verify> Engine<S> {
    /// Gives out the state before the round that is about to begin, if it was asked for.
    pub(super) fn checkpoint(&self, out: &mut Vec<Action>) -> Step<()> {
        if self.replays && self.checkpoints.contains(&self.round) {
            let words = Zeroizing::new(self.machine.words(&self.plan.live(self.round))?);
            let (round, transcript, blamed) = (self.round, self.transcript.digest(), self.blamed.clone());
            out.push(Action::Checkpoint(Box::new(Checkpoint { round, transcript, blamed, words })));
        }
        Ok(())
    }

    /// Gives out the state behind a check of MACs, if it was asked for: what further parts of ops
    /// that have begun are drawn with it, since another attempt would draw those of others.
    pub(super) fn checkpoint_behind_check(&mut self, out: &mut Vec<Action>) -> Step<()> {
        if !S::OWES || self.ending || !self.checkpoints.contains(&self.round) {
            return Ok(());
        }
        let plan = Arc::clone(&self.plan);
        let stream = &self.stream;
        let delta = |offset, words| stream.words(offset, words);
        for prim in plan.begun(self.round) {
            self.machine.local(&plan, &plan.prims[prim as usize], &delta)?;
        }
        let words = Zeroizing::new(self.machine.words(&plan.live(self.round))?);
        let (round, transcript, blamed) = (self.round, self.transcript.digest(), BTreeSet::new());
        out.push(Action::Checkpoint(Box::new(Checkpoint { round, transcript, blamed, words })));
        Ok(())
    }

    /// See [`Party::restore`](super::Party::restore).
    pub(super) fn begin_at(&mut self, checkpoint: &Checkpoint) -> Step<()> {
        let Checkpoint { round, transcript, blamed, words } = checkpoint;
        if !self.replays && !S::OWES {
            let what =
                "only jobs on SPDZ, and on Shamir that open all words all to all, none of them packed bits, have any";
            return Err(EngineError::Checkpoint(what.to_owned()));
        }
        if S::OWES && self.attempt == 0 {
            let what = "under SPDZ it serves a later attempt, not the first";
            return Err(EngineError::Checkpoint(what.to_owned()));
        }
        let checked = |round: usize| self.plan.rounds.get(round).is_some_and(|round| round.check);
        if S::OWES && !(checked(round - 1) && self.plan.clean_cuts().get(*round) == Some(&true)) {
            let what = format!("the plan has none before round {round}, where a product would be of two attempts");
            return Err(EngineError::Checkpoint(what));
        }
        if !matches!(self.state, State::New) || self.round > 0 {
            return Err(EngineError::Unasked("a checkpoint after the start"));
        }
        let live = (*round <= self.plan.opening_rounds()).then(|| self.plan.live(*round));
        let Some(live) = live.filter(|live| live.words() == words.len() as u64) else {
            return Err(EngineError::Checkpoint(format!("it is of another plan, before round {round}")));
        };
        self.machine.begin_at(&self.plan, *round, &live, words)?;
        if let Some(before) = round.checked_sub(1).map(|before| &self.plan.rounds[before]) {
            // Of the stream of another attempt nothing has been absorbed.
            let segment = u64::from(SEGMENT_WORDS);
            let absorbed = if S::OWES { before.stream_from / segment * segment } else { before.stream_until };
            self.stream.begin_at(absorbed, before.stream_from);
        }
        self.transcript = Transcript::resumed(*transcript);
        self.round = *round;
        if S::OWES {
            self.transcript.absorb_attempt(self.attempt, *round as u32);
            self.agreed = self.transcript.digest();
            self.checks = self.plan.rounds[..*round].iter().filter(|round| round.check).count() as u32;
            return Ok(());
        }
        // Frames that came before were kept for the start.
        self.next_step();
        // The start, and one exchange for each round: nothing else comes before the end of such a plan.
        self.step = *round as u32 + u32::from(*round > 0);
        blamed.iter().try_for_each(|slot| self.blame(*slot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::{Builder, Type};
    use crate::roster::Roster;

    /// Two rounds; before the second the products are alive.
    fn plan() -> Plan {
        let b = Builder::new();
        let x = b.input("x", "alice", Type::int(-9..=9), [2]);
        b.output("y", "alice", &(&(&x * &x) * &x));
        b.finish().unwrap().plan(Roster::shamir(5, 1).unwrap()).unwrap()
    }

    fn checkpoint(words: u64) -> Checkpoint {
        let words = Zeroizing::new((0..words).map(|i| Fp61::reduce(0x0102 + i)).collect());
        Checkpoint { round: 1, transcript: [7; 32], blamed: BTreeSet::from([Slot(2), Slot(5)]), words }
    }

    #[test]
    fn the_encoded_form_is_frozen() {
        insta::assert_snapshot!(crate::keys::hex(&checkpoint(2).encode()), @"0102020502010000000000000301000000000000");
    }

    #[test]
    fn what_does_not_fit_the_plan_is_refused() {
        let plan = plan();
        let live = plan.live(1).words();
        assert!(live > 0);
        let (right, transcript) = (checkpoint(live).encode(), [7; 32]);
        let decode = |round, bytes: &[u8]| Checkpoint::decode(&plan, round, transcript, bytes);
        assert_eq!(*decode(1, &right).unwrap().encode(), *right);
        let changed = |at: usize, to: u8| {
            let mut bytes = right.to_vec();
            bytes[at] = to;
            bytes
        };
        let (end, longer) = (right.len(), [&right[..], &[0]].concat());
        for (round, bytes, what) in [
            (0, right.to_vec(), "before round 0"),
            (plan.opening_rounds() + 1, right.to_vec(), "expected one from 1 to"),
            (1, vec![1], "at least 2"),
            (1, changed(0, 2), "its form is 2"),
            (1, changed(1, 1), "bytes, expected"),
            (1, changed(2, 6), "it blames node 6"),
            (1, changed(end - 1, 0xff), "canonical"),
            (1, right[..end - 1].to_vec(), "bytes, expected"),
            (1, longer, "bytes, expected"),
        ] {
            let refused = decode(round, &bytes).err().expect(what).to_string();
            assert!(refused.contains(what) && !refused.contains('\n'), "{refused}");
        }
    }
}
