//! From data and program to a signed job.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Dealing, OwnerError, Ticket};
use crate::entropy::Entropy;
use crate::field::Fp61;
use crate::field::slice::encode_words;
use crate::job::{
    Assignment, CheckedManifest, Continues, InputEntry, Limits, Manifest, OutputEntry, PROTOCOL, SignedManifest,
};
use crate::keys::{PublicKey, SecretKey};
use crate::material::{SegmentStream, input_corrections};
use crate::program::plan::Plan;
use crate::program::{Planning, Program};
use crate::roster::{Roster, Scheme, Slot};
#[cfg(test)]
use crate::sharing::Dealer;
use crate::sharing::{SlotKeys, job_keys};
use crate::transcript::{SignedHeader, root};

/// When seeded jobs expire: at a fixed time, so that their manifest is reproducible.
const SEEDED_EXPIRY: u64 = 4_102_444_800; // 2100-01-01

/// What the owner wants computed.
pub struct Request<'a> {
    /// what
    pub program: &'a Program,
    /// scheme, n and t
    pub roster: Roster,
    /// for what network and by what ways it is planned
    pub planning: Planning,
    /// the nodes' keys in slot order
    pub nodes: &'a [PublicKey],
    /// the keys of agents that may take over the slots of crashed nodes, at most
    /// [`MAX_SPARES`](crate::job::MAX_SPARES), under Shamir with n ≥ 3t + 1, on plans that open
    /// all to all without packed bits. **They are to be trusted like nodes:** an adversary who
    /// controls the network can have an honest node's slot given to one of them
    pub spares: &'a [PublicKey],
    /// values by the inputs' names, row-major, in real units
    pub inputs: &'a BTreeMap<String, Vec<f64>>,
    /// keys by the names of readers; whoever owns an input under that name is
    /// the owner itself
    pub readers: &'a BTreeMap<String, PublicKey>,
    /// dealt copies of the material, at least 1: how often an SPDZ job may begin, since a process that is killed
    /// ends an attempt. Others take 1
    pub attempts: u32,
    /// when the job must be over, in unix seconds
    pub expires: u64,
    /// for people, at most 280 bytes
    pub note: &'a str,
}

/// A signed job with everything that the nodes must be sent. Made once and
/// not cloned: its nonce, and so its material, belongs to this data alone.
pub struct Prepared {
    dealing: Dealing,
    signed: Vec<u8>,
    program: Vec<u8>,
    inputs: Vec<Vec<u8>>,
}

/// Prepares a job: plans the program, draws a nonce, masks the inputs and
/// signs the manifest. Costs one expansion of the inputs' masks per key.
pub fn prepare(owner: &Arc<SecretKey>, request: &Request<'_>, entropy: Entropy) -> Result<Prepared, OwnerError> {
    let words = request.program.encode_inputs(request.inputs)?;
    prepare_words(owner, request, &words, (0, None), entropy)
}

/// The same for inputs that are words already, in the program's order, whatever the request says of them, and for a
/// job of this epoch, which goes on from another one.
pub(super) fn prepare_words(
    owner: &Arc<SecretKey>,
    request: &Request<'_>,
    words: &[impl AsRef<[Fp61]>],
    (epoch, continues): (u32, Option<Continues>),
    entropy: Entropy,
) -> Result<Prepared, OwnerError> {
    let Request { program, roster, planning, nodes, spares, inputs: _, readers, attempts, expires, note } = *request;
    must_use_attempts(roster, attempts)?;
    let plan = Arc::new(program.plan_with(roster, planning)?);
    let mut nonce = [0; 32];
    entropy.generator(&[b"job nonce", &program.digest()])?.fill_bytes(&mut nonce);
    let dealer = job_keys(&owner.dealing(), &nonce, roster);

    let mut corrections = Vec::with_capacity(words.len());
    let mut entries = Vec::with_capacity(words.len());
    for (number, (words, input)) in (0..).zip(words.iter().zip(&plan.inputs)) {
        let delta = input_corrections(&*dealer, &plan, number, words.as_ref())?;
        entries.push(InputEntry {
            name: input.name.clone(),
            owner: owner.public(),
            words: delta.len() as u64,
            root: root(&delta),
        });
        corrections.push(encode_words(&delta));
    }
    let outputs = plan.outputs.iter().map(|output| {
        let own = plan.inputs.iter().any(|input| input.owner == output.reader);
        let reader = readers.get(&output.reader).copied().or_else(|| own.then(|| owner.public()));
        let missing = || OwnerError::Reader { output: output.name.clone(), reader: output.reader.clone() };
        Ok(OutputEntry { name: output.name.clone(), reader: reader.ok_or_else(missing)? })
    });
    let seeded = entropy.insecure_seed().is_some();
    let manifest = Manifest {
        protocol: PROTOCOL,
        nonce,
        owner: owner.public(),
        roster,
        nodes: nodes.to_vec(),
        spares: spares.to_vec(),
        epoch,
        continues,
        planning,
        program: program.digest(),
        plan: crate::job::plan_digest(&plan),
        inputs: entries,
        keys: dealer.key_hashes(),
        stream_words: plan.stream_words,
        attempts,
        outputs: outputs.collect::<Result<_, OwnerError>>()?,
        expires: if seeded { SEEDED_EXPIRY } else { expires },
        insecure_seeded: seeded,
        note: note.to_owned(),
    };
    let signed = manifest.sign(owner)?.to_bytes();
    let manifest = SignedManifest::verify(&signed, 0, &Limits::unlimited())?;
    // Spares may be more than the plan can make use of.
    manifest.check_spares(&plan)?;
    let program = program.to_bytes();
    Ok(Prepared { dealing: Dealing::new(owner, manifest, plan), signed, program, inputs: corrections })
}

/// Only SPDZ jobs go on with other material.
pub(crate) fn must_use_attempts(roster: Roster, attempts: u32) -> Result<(), OwnerError> {
    match roster.scheme() {
        Scheme::Shamir if attempts > 1 => Err(OwnerError::Attempts { roster, attempts }),
        _ => Ok(()),
    }
}

impl Prepared {
    /// The signed manifest.
    pub fn manifest(&self) -> &CheckedManifest {
        self.dealing.manifest()
    }
    /// The plan that all parties compute.
    pub fn plan(&self) -> &Arc<Plan> {
        self.dealing.plan()
    }
    /// What the node at a slot is sent first, over a link pinned to its key.
    pub fn assignment(&self, slot: Slot) -> Assignment {
        let keys = self.dealing.dealer().slot_keys(slot);
        Assignment { manifest: self.signed.clone(), program: self.program.clone(), keys }
    }
    /// What each spare is sent first: the same without keys.
    pub fn spare_assignment(&self) -> Assignment {
        let keys = SlotKeys::Shamir(BTreeMap::new());
        Assignment { manifest: self.signed.clone(), program: self.program.clone(), keys }
    }
    /// The Δ of each input, in the plan's order; the same for all nodes.
    pub fn inputs(&self) -> &[Vec<u8>] {
        &self.inputs
    }
    /// The material stream of each attempt, one after another, dealt as it is walked.
    pub fn stream(&self) -> Result<impl Iterator<Item = (SignedHeader, Vec<u8>)> + Send + use<>, OwnerError> {
        let streams = (0..self.manifest().manifest().attempts).map(|attempt| self.stream_of(attempt));
        Ok(streams.collect::<Result<Vec<_>, _>>()?.into_iter().flatten())
    }
    /// The material stream of one attempt.
    pub fn stream_of(&self, attempt: u32) -> Result<SegmentStream, OwnerError> {
        self.dealing.stream_of(attempt)
    }
    /// What deals its material.
    pub fn dealing(&self) -> &Dealing {
        &self.dealing
    }
    /// The keys of the whole job: whoever holds them reads every secret of it.
    #[cfg(test)]
    pub(crate) fn dealer(&self) -> &dyn Dealer {
        &**self.dealing.dealer()
    }
    /// What is needed to read the result later, beside the key: nothing secret.
    pub fn ticket(&self) -> Ticket {
        Ticket { manifest: self.signed.clone(), program: self.program.clone() }
    }
}
