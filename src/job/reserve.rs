//! What an agent is in a job: a node of its roster, or a spare that may take over
//! the slot of one that has crashed (docs/protocols.md, Replacement).

use std::sync::Arc;

use super::{Assigned, Assignment, CheckedManifest, JobError, Limits};
use crate::keys::PublicKey;
use crate::program::plan::Plan;
use crate::roster::Slot;
use crate::sharing::SlotKeys;

/// A job that an agent has checked, as what it is in it.
pub(crate) enum Duty {
    /// it computes for a slot
    Node(Assigned),
    /// it waits, and holds no keys
    Spare(Reserve),
}

/// A spare's job, checked like a node's but for the keys, which are nobody's yet.
pub(crate) struct Reserve {
    manifest: CheckedManifest,
    plan: Arc<Plan>,
    agent: Slot,
    /// what the owner sent
    assignment: Assignment,
}

impl Duty {
    /// Checks everything that the owner sent, to a node or to a spare.
    pub(crate) fn check(
        assignment: Assignment,
        agent: &PublicKey,
        now: u64,
        limits: &Limits,
    ) -> Result<Self, JobError> {
        let manifest = super::SignedManifest::verify(&assignment.manifest, now, limits)?;
        if !manifest.manifest().spares.contains(agent) {
            return Ok(Self::Node(Assigned::check(assignment, agent, now, limits)?));
        }
        let number = manifest.agent_of(agent.identity()).ok_or_else(|| JobError::NotOnRoster { key: agent.short() })?;
        if !matches!(&assignment.keys, SlotKeys::Shamir(keys) if keys.is_empty()) {
            return Err(JobError::SpareWithKeys { key: agent.short() });
        }
        let plan = Assigned::plan_of(&assignment, &manifest, limits)?;
        Ok(Self::Spare(Reserve { manifest, plan, agent: number, assignment }))
    }

    pub(crate) fn manifest(&self) -> &CheckedManifest {
        match self {
            Self::Node(assigned) => assigned.manifest(),
            Self::Spare(reserve) => &reserve.manifest,
        }
    }
    pub(crate) fn plan(&self) -> &Arc<Plan> {
        match self {
            Self::Node(assigned) => assigned.plan(),
            Self::Spare(reserve) => &reserve.plan,
        }
    }
    /// The agent's number: its slot, if it is a node of the roster.
    pub(crate) fn agent(&self) -> Slot {
        match self {
            Self::Node(assigned) => assigned.agent(),
            Self::Spare(reserve) => reserve.agent,
        }
    }
}

impl Reserve {
    pub(crate) fn manifest(&self) -> &CheckedManifest {
        &self.manifest
    }
    /// The agent's number, which follows the nodes' slots.
    pub(crate) fn agent(&self) -> Slot {
        self.agent
    }

    /// The job as that of a slot's holder, if these are exactly the slot's keys; and
    /// the assignment from which that is made again.
    pub(crate) fn call(&self, slot: Slot, keys: SlotKeys) -> Result<(Assigned, Assignment), JobError> {
        let Self { manifest, plan, agent, assignment } = self;
        let signed = manifest.manifest();
        keys.check(&signed.keys, signed.roster, slot)?;
        let Assignment { manifest: bytes, program, .. } = assignment;
        let whole = Assignment { manifest: bytes.clone(), program: program.clone(), keys: keys.clone() };
        Ok((Assigned::called(manifest.clone(), Arc::clone(plan), (*agent, slot), keys), whole))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::entropy::Entropy;
    use crate::keys::SecretKey;
    use crate::owner::{Prepared, Request, prepare};
    use crate::program::{Builder, Openings, Planning, Type};
    use crate::roster::Roster;
    use crate::sharing::SharingError;

    fn agent(number: u8) -> PublicKey {
        SecretKey::insecure_from_seed(u64::from(number), "agent").public()
    }

    fn job() -> Prepared {
        let b = Builder::new();
        let x = b.input("x", "alice", Type::int(0..=1), [1]);
        b.output("y", "alice", &x);
        let request = Request {
            program: &b.finish().unwrap(),
            roster: Roster::shamir(4, 1).unwrap(),
            planning: Planning { openings: Openings::AllToAll, ..Planning::default() },
            nodes: &[1, 2, 3, 4].map(agent),
            spares: &[agent(5)],
            inputs: &BTreeMap::from([("x".to_owned(), vec![1.0])]),
            readers: &BTreeMap::new(),
            attempts: 1,
            expires: u64::MAX,
            note: "",
        };
        let owner = Arc::new(SecretKey::insecure_from_seed(1, "owner"));
        prepare(&owner, &request, Entropy::insecure_from_seed(1)).unwrap()
    }

    fn check(assignment: Assignment, number: u8) -> Result<Duty, JobError> {
        Duty::check(assignment, &agent(number), 0, &Limits::unlimited())
    }

    #[test]
    fn a_spare_is_given_no_keys_and_takes_exactly_those_of_its_slot() {
        let job = job();
        assert!(matches!(check(job.assignment(Slot(2)), 2), Ok(Duty::Node(_))));
        assert!(matches!(check(job.assignment(Slot(2)), 5), Err(JobError::SpareWithKeys { .. })));
        assert!(matches!(check(job.spare_assignment(), 2), Err(JobError::Keys(SharingError::MissingKey { .. }))));
        assert!(matches!(check(job.spare_assignment(), 6), Err(JobError::NotOnRoster { .. })));
        let Ok(Duty::Spare(reserve)) = check(job.spare_assignment(), 5) else { panic!() };
        assert_eq!(reserve.agent(), Slot(5));
        let (called, whole) = reserve.call(Slot(3), job.assignment(Slot(3)).keys).unwrap();
        assert_eq!((called.slot(), called.agent()), (Slot(3), Slot(5)));
        assert_eq!(whole.to_bytes(), job.assignment(Slot(3)).to_bytes());
        // Those of another slot, and one that is not the signed one.
        assert!(reserve.call(Slot(3), job.assignment(Slot(2)).keys).is_err());
        let SlotKeys::Shamir(mut keys) = job.assignment(Slot(3)).keys else { panic!() };
        keys.values_mut().next().unwrap().0[0] ^= 1;
        let refused = reserve.call(Slot(3), SlotKeys::Shamir(keys)).map(drop);
        assert!(matches!(refused, Err(JobError::Keys(SharingError::WrongKey { .. }))));
    }
}
