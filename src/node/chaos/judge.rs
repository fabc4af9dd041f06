//! What must hold when a run is over.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::World;
use crate::field::slice::decode_words;
use crate::job::Concluded;
use crate::node::Kept;
use crate::roster::Slot;
use crate::seal::{SealInfo, Sealed, open};
use crate::store::{JobState, Store};

/// What ended jobs with several attempts: the first of these that applies.
pub(super) const CAUSES: [&str; 6] = [
    "a kill in an open check",
    "a kill between the first and the last end",
    "no attempt left, and no owner in time",
    "a node that stays away",
    "a kill while the owner sent the job",
    "a kill of a node that was done",
];

impl World<'_> {
    /// What a node that is done has sealed to the owner, and its transcript.
    pub(in crate::node) fn result(&self, agent: Slot) -> Option<(Vec<Vec<u8>>, [u8; 32])> {
        let slot = self.nodes[agent.index()].slot?;
        let (node, manifest) = (&self.nodes[agent.index()], self.case.job.manifest());
        let nonce = self.case.nonce();
        if node.store.state(nonce).unwrap() != Some(JobState::Finished) {
            return None;
        }
        let Kept { concluded, .. } = postcard::from_bytes(&node.store.record(nonce).unwrap().unwrap()).unwrap();
        let concluded = Concluded::from_bytes(&concluded).unwrap();
        let open = |(output, sealed): (u32, &serde_bytes::ByteBuf)| {
            let sealed: Sealed = postcard::from_bytes(sealed).unwrap();
            let reader = self.case.owner.public();
            let info = SealInfo { manifest: manifest.digest(), output, sender: slot, reader };
            open(&self.case.owner, &info, &sealed).unwrap().to_vec()
        };
        Some(((0..).zip(&concluded.sealed).map(open).collect(), concluded.receipt.claimed().transcript))
    }

    /// Every result is the right one; if `must`, all honest nodes have it but those
    /// that did not come back.
    pub(super) fn judge(&mut self, must: bool) {
        if self.case.job.manifest().has_attempts() {
            return self.judge_attempts();
        }
        // A node that is done does not go back for those that have forgotten everything.
        let steady = |slot: &Slot| {
            !self.chaos.corrupt.contains(slot) && self.chaos.kills.iter().all(|(_, killed, _)| killed != slot)
        };
        let roster = self.case.job.plan().roster;
        let known = roster.slots().filter(steady).count() > usize::from(roster.threshold());
        let must = must && (known || self.nodes.iter().all(|node| node.ended != Some(Ok(()))));
        let held: Vec<(usize, Slot)> =
            self.nodes.iter().enumerate().filter_map(|(i, node)| Some((i, node.slot?))).collect();
        for agent in self.case.agents().into_iter().filter(|agent| !self.chaos.corrupt.contains(agent)) {
            let lost = self.chaos.kills.iter().any(|(_, killed, back)| *killed == agent && back.is_none());
            let slot = self.nodes[agent.index()].slot;
            // Whoever comes back too late is not listened to any more.
            let twice = held.iter().any(|(other, held)| Some(*held) == slot && *other != agent.index());
            match self.result(agent) {
                Some(result) => {
                    assert!(self.case.right.get(&slot.unwrap()) == Some(&result), "{agent} has another result")
                }
                None => {
                    let may = !must || lost || twice || slot.is_none() || self.cut_short;
                    assert!(may, "{agent} has no result: {:?}", self.state());
                }
            }
            if let Some(Err(reason)) = &self.nodes[agent.index()].ended {
                assert!(!reason.is_empty() && !reason.contains('\n'), "{reason:?}");
            }
        }
        // A slot goes to one spare, a spare to one slot.
        let n = usize::from(self.case.job.plan().roster.nodes());
        let taken: Vec<Slot> = held.iter().filter(|(agent, _)| *agent >= n).map(|(_, slot)| *slot).collect();
        assert_eq!(taken.iter().collect::<BTreeSet<_>>().len(), taken.len(), "{taken:?}");
        if self.nodes.iter().any(|node| node.slot.is_some() && node.ended == Some(Ok(()))) {
            self.tally.done += 1;
        } else {
            self.tally.failed += 1;
        }
    }

    /// Where a job has several attempts, results of two runs differ in what rounding is free to choose. A
    /// job that fails says why, and for one of the reasons for which it may.
    fn judge_attempts(&mut self) {
        let (plan, slots) = (Arc::clone(self.case.job.plan()), self.case.agents());
        let results: Vec<_> = slots.iter().filter_map(|slot| Some((*slot, self.result(*slot)?))).collect();
        assert!(results.windows(2).all(|pair| pair[0].1.1 == pair[1].1.1), "two transcripts of one result");
        let reasons: Vec<&String> = self.nodes.iter().filter_map(|node| node.ended.as_ref()?.as_ref().err()).collect();
        assert!(reasons.iter().all(|reason| !reason.is_empty() && !reason.contains('\n')), "{reasons:?}");
        if results.len() < slots.len() {
            let early = self.chaos.kills.iter().any(|(at, ..)| *at < 3000);
            let lost = self.chaos.kills.iter().any(|(.., back)| back.is_none());
            let told = |what: &str| reasons.iter().any(|reason| reason.contains(what));
            let may = [
                told("in the middle of a check"),
                told("has finished the job"),
                told("before the job expired"),
                lost,
                early,
                self.cut_short,
            ];
            let cause = may.iter().position(|may| *may);
            self.tally.causes[cause.unwrap_or_else(|| panic!("{:?}", self.state()))] += 1;
            self.tally.failed += 1;
            return;
        }
        self.tally.done += 1;
        for (i, output) in plan.outputs.iter().enumerate() {
            let share = |(slot, (sealed, _)): &(Slot, (Vec<Vec<u8>>, _))| (*slot, decode_words(&sealed[i]).unwrap());
            let shares: Vec<_> = results.iter().map(share).collect();
            let words = self.case.job.dealer().verify_output(output.shape.len(), &shares).unwrap().words.to_vec();
            for (word, real) in words.iter().zip(&self.case.real[&output.name]) {
                let found = word.to_i64() as f64 * output.ty.ulp();
                assert!((found - real).abs() <= output.error + 1e-9, "{}: {found}, expected {real}", output.name);
            }
        }
    }
}
