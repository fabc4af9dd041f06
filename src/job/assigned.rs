//! A node's part in a job, from what the owner sends to what the node signs,
//! without sockets, disk or clock.

use std::borrow::Cow;
use std::sync::Arc;

use rand_core::CryptoRng;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use zeroize::Zeroizing;

use super::{
    CheckedManifest, Limits, ManifestError, Outcome, PROTOCOL, Receipt, SignedManifest, SignedReceipt, sealed_hash,
};
use crate::backend::cpu::Cpu;
use crate::backend::{Backend, Device};
use crate::engine::{self, Engine, EngineError, Party};
use crate::field::slice::{as_bytes, encode_words};
use crate::keys::{PublicKey, SecretKey};
use crate::program::plan::Plan;
use crate::program::{PlanError, Program, ProgramError};
use crate::roster::Slot;
use crate::seal::{SealError, SealInfo, seal_to_bytes};
use crate::sharing::{Shamir, SharingError, SlotKeys, Spdz};
use crate::transcript::TranscriptError;

/// What the owner sends to one node to begin a job; the inputs' Δ and the
/// material stream follow. The keys are this node's own, so it travels only
/// over the link that is pinned to the node's key.
#[derive(Serialize, Deserialize)]
pub struct Assignment {
    /// [`SignedManifest::to_bytes`]
    pub manifest: Vec<u8>,
    /// [`Program::to_bytes`]
    pub program: Vec<u8>,
    /// the material keys of the node's slot
    pub keys: SlotKeys,
}

/// Why a node refuses a job, or cannot conclude it.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// Not an assignment.
    #[error("found {found} bytes that are no assignment: the owner runs another version or sends garbage")]
    Malformed {
        /// bytes found
        found: usize,
    },
    /// The manifest was refused.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The program was refused.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The program has no plan for the roster.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// This node is not on the roster.
    #[error("this node ({key}) is not on the job's roster: check the roster file of the owner")]
    NotOnRoster {
        /// its short key
        key: String,
    },
    /// A spare was given keys.
    #[error("the owner sent keys to this spare ({key}), which must hold none before it is called: refuse the job")]
    SpareWithKeys {
        /// its short key
        key: String,
    },
    /// The material keys are not those that the manifest names.
    #[error(transparent)]
    Keys(#[from] SharingError),
    /// An input's Δ was refused.
    #[error(transparent)]
    Input(#[from] TranscriptError),
    /// The engine refused the job.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// An output could not be sealed.
    #[error(transparent)]
    Seal(#[from] SealError),
}

impl Assignment {
    /// The wire form. Wiped by the caller's `Zeroizing` when dropped.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(postcard::to_stdvec(self).expect("an assignment is plain data and always encodes"))
    }

    /// Reads the wire form; refuses bytes left over.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, JobError> {
        match postcard::take_from_bytes(bytes) {
            Ok((assignment, [])) => Ok(assignment),
            _ => Err(JobError::Malformed { found: bytes.len() }),
        }
    }
}

/// A job that this node has checked: manifest, program, plan and keys fit.
pub struct Assigned {
    manifest: CheckedManifest,
    plan: Arc<Plan>,
    slot: Slot,
    /// the slot, or the number of the spare that has taken it over
    #[cfg(feature = "net")]
    agent: Slot,
    keys: SlotKeys,
    /// which dealt copy of the material is used
    attempt: u32,
}

impl Assigned {
    /// Checks everything that the owner sent. `now` is in unix seconds.
    /// Whether this owner is served at all is the caller's to decide.
    pub fn check(assignment: Assignment, node: &PublicKey, now: u64, limits: &Limits) -> Result<Self, JobError> {
        let manifest = SignedManifest::verify(&assignment.manifest, now, limits)?;
        let slot = manifest.slot_of(node).ok_or_else(|| JobError::NotOnRoster { key: node.short() })?;
        let plan = Self::plan_of(&assignment, &manifest, limits)?;
        let signed = manifest.manifest();
        assignment.keys.check(&signed.keys, signed.roster, slot)?;
        Ok(Self {
            manifest,
            plan,
            slot,
            #[cfg(feature = "net")]
            agent: slot,
            keys: assignment.keys,
            attempt: 0,
        })
    }

    /// The plan of the program that came, if it is the signed one.
    pub(super) fn plan_of(
        assignment: &Assignment,
        manifest: &CheckedManifest,
        limits: &Limits,
    ) -> Result<Arc<Plan>, JobError> {
        let program = Program::from_bytes(&assignment.program)?;
        let signed = manifest.manifest();
        // Planning costs time: only for the program that was signed.
        manifest.check_program(&program.digest())?;
        let plan = program.plan_with(signed.roster, signed.planning)?;
        manifest.check_plan(&program.digest(), &plan)?;
        limits.check_memory(&plan)?;
        Ok(Arc::new(plan))
    }

    /// A spare's job once it has a slot, whose keys are checked.
    #[cfg(feature = "net")]
    pub(super) fn called(
        manifest: CheckedManifest,
        plan: Arc<Plan>,
        (agent, slot): (Slot, Slot),
        keys: SlotKeys,
    ) -> Self {
        Self { manifest, plan, slot, agent, keys, attempt: 0 }
    }

    /// The same in another attempt, for whose material [`Assigned::party`] makes parties.
    #[must_use]
    pub fn in_attempt(self, attempt: u32) -> Self {
        Self { attempt, ..self }
    }

    /// The signed manifest.
    pub fn manifest(&self) -> &CheckedManifest {
        &self.manifest
    }
    /// The plan that all parties compute.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }
    /// This node's slot.
    pub fn slot(&self) -> Slot {
        self.slot
    }
    /// The number of the agent that holds the slot.
    #[cfg(feature = "net")]
    pub(crate) fn agent(&self) -> Slot {
        self.agent
    }
    /// The keys of the slot, which others may need once this node holds them alone.
    #[cfg(feature = "net")]
    pub(crate) fn keys(&self) -> &SlotKeys {
        &self.keys
    }

    /// Accepts the inputs' Δ, in the plan's order, and makes the party that
    /// runs the plan. `rng` draws its commitments' nonces. On every device, and
    /// as often as it is made, a party says the same in answer to the same
    /// events if `rng` draws the same.
    pub fn party(
        &self,
        inputs: &[Vec<u8>],
        device: &Device,
        rng: Box<dyn CryptoRng + Send>,
    ) -> Result<Box<dyn Party>, JobError> {
        match device {
            Device::Cpu => self.party_on(inputs, Cpu, rng),
            #[cfg(feature = "gpu")]
            Device::Gpu(gpu) => self.party_on(inputs, gpu.clone(), rng),
        }
    }

    fn party_on<B: Backend>(
        &self,
        inputs: &[Vec<u8>],
        backend: B,
        rng: Box<dyn CryptoRng + Send>,
    ) -> Result<Box<dyn Party>, JobError> {
        let Self { manifest, plan, slot, keys, .. } = self;
        let slot = *slot;
        let signed = manifest.manifest();
        let accepted: Result<Vec<_>, _> =
            (0..).zip(inputs).filter_map(|(i, bytes)| manifest.accept_input(i, bytes)).collect();
        let job = engine::Job {
            plan: Arc::clone(plan),
            manifest: manifest.digest(),
            owner: signed.owner,
            // It may have been dealt later than the manifest.
            attempts: signed.attempts.max(self.attempt + 1),
            attempt: self.attempt,
            inputs: accepted?,
        };
        Ok(match keys {
            SlotKeys::Shamir(keys) => {
                Box::new(Engine::new(job, Shamir::new(signed.roster, slot, keys.clone(), backend)?, rng)?)
            }
            SlotKeys::Spdz(key) => {
                Box::new(Engine::new(job, Spdz::new(signed.roster, slot, key.clone(), backend)?, rng)?)
            }
        })
    }

    /// What remains to be done when the engine is done.
    pub fn conclusion(&self) -> Conclusion {
        Conclusion { manifest: self.manifest.clone(), plan: Arc::clone(&self.plan), slot: self.slot }
    }
}

/// What remains to be done when the engine is done: seal and sign.
pub struct Conclusion {
    manifest: CheckedManifest,
    plan: Arc<Plan>,
    slot: Slot,
}

/// What a node holds for the readers of a finished job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Concluded {
    /// the node's receipt
    pub receipt: SignedReceipt,
    /// its sealed share of each output, in the plan's order
    /// ([`Sealed`](crate::seal::Sealed) in postcard)
    pub sealed: Vec<ByteBuf>,
}

impl Conclusion {
    /// Seals each output share to the reader that the signed manifest names,
    /// and signs the receipt. The outcome exists only after a passed check.
    pub fn conclude(
        &self,
        outcome: engine::Outcome,
        node: &SecretKey,
        (sent, received): (u64, u64),
        rng: &mut (dyn CryptoRng + Send),
    ) -> Result<Concluded, JobError> {
        let signed = self.manifest.manifest();
        let mut sealed = Vec::with_capacity(outcome.outputs.len());
        for (output, (share, entry)) in (0..).zip(outcome.outputs.into_iter().zip(&signed.outputs)) {
            let info = SealInfo { manifest: self.manifest.digest(), output, sender: self.slot, reader: entry.reader };
            let copy: Zeroizing<Vec<u8>>;
            let plain = match as_bytes(share.words()) {
                Some(bytes) => bytes,
                None => {
                    copy = Zeroizing::new(encode_words(share.words()));
                    &copy
                }
            };
            sealed.push(ByteBuf::from(seal_to_bytes(&info, plain, &mut &mut *rng)?));
            drop(share);
        }
        let receipt = Receipt {
            protocol: PROTOCOL,
            manifest: self.manifest.digest(),
            slot: self.slot,
            transcript: outcome.passed.transcript(),
            checks: outcome.passed.checks(),
            outcome: Outcome::Released,
            blamed: outcome.blamed.into_iter().collect(),
            rounds: self.plan.opening_rounds() as u32,
            sent,
            received,
            outputs: sealed.iter().map(|s| sealed_hash(s)).collect(),
            conditional: !self.plan.declarations.is_empty(),
        };
        Ok(Concluded { receipt: receipt.sign(node), sealed })
    }
}

impl Concluded {
    /// The wire and file form.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.parts().concat()
    }

    /// The wire form in parts, of which the sealed shares are not copied.
    pub(crate) fn parts(&self) -> Vec<Cow<'_, [u8]>> {
        let number = |n: usize| postcard::to_stdvec(&n).expect("a number always encodes");
        let mut head = postcard::to_stdvec(&self.receipt).expect("plain data always encodes");
        head.extend(number(self.sealed.len()));
        let mut parts = vec![Cow::Owned(head)];
        for sealed in &self.sealed {
            parts.push(Cow::Owned(number(sealed.len())));
            parts.push(Cow::Borrowed(&sealed[..]));
        }
        parts
    }

    /// Reads the wire form; refuses bytes left over. Nothing in it is relied
    /// on before [`compare`](super::compare).
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, JobError> {
        Self::from_message(bytes.to_vec(), 0)
    }

    /// The same behind the first bytes of a message, which may be long: it becomes the sealed
    /// share of most jobs, which have one.
    pub(crate) fn from_message(mut message: Vec<u8>, start: usize) -> Result<Self, JobError> {
        let lying = match postcard::take_from_bytes::<Lying<'_>>(&message[start..]) {
            Ok((lying, [])) => lying,
            _ => return Err(JobError::Malformed { found: message.len() - start }),
        };
        let Lying { receipt, sealed } = lying;
        let sealed = match sealed[..] {
            [share] => {
                let head = message.len() - share.len();
                message.drain(..head);
                vec![ByteBuf::from(message)]
            }
            _ => sealed.into_iter().map(|share| ByteBuf::from(share.to_vec())).collect(),
        };
        Ok(Self { receipt, sealed })
    }
}

/// [`Concluded`] as it lies in a message.
#[derive(Deserialize)]
struct Lying<'a> {
    receipt: SignedReceipt,
    #[serde(borrow)]
    sealed: Vec<&'a serde_bytes::Bytes>,
}
