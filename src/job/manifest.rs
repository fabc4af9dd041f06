//! The manifest: everything that owner and nodes agree on before a job, signed
//! by the owner.
//!
//! Its digest names the job in every message, segment header, commitment and
//! receipt, so two nodes that were shown different manifests never accept each
//! other's messages. In this version one party owns all inputs and deals the
//! material.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::field::Fp61;
use crate::keys::{PublicKey, SecretKey, Signature, hex};
use crate::program::plan::Plan;
use crate::program::{Border, Planning};
use crate::roster::{Roster, Scheme, Slot};
use crate::sharing::KeyHash;
use crate::transcript::{StreamPlace, TranscriptError, decode_words};

/// The version of manifest, messages and protocol that this crate speaks.
pub const PROTOCOL: u16 = 5;
/// The most bytes of a signed manifest.
pub const MAX_MANIFEST_BYTES: usize = 64 * 1024;

/// The most spares that a manifest names.
pub const MAX_SPARES: usize = 4;

/// The most attempts of a job, with those that are dealt to it later: a wrong word goes unnoticed with
/// probability at most (2·255 + 1)/p < 2^−52 in all (docs/protocols.md, 16).
pub const MAX_ATTEMPTS: u32 = 255;

const MAX_NAME: usize = 128;
const MAX_NOTE: usize = 280;
const MAX_ENTRIES: usize = 256;
const SIGNED: &str = "manifest";
const DIGEST: &str = "beaverdam 2026-01 manifest v1";
const PLAN_DIGEST: &str = "beaverdam 2026-01 plan v1";

/// What the owner signs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`PROTOCOL`]; always the first field
    pub protocol: u16,
    /// fresh and random for each job: all material is derived from it
    pub nonce: [u8; 32],
    /// who owns the inputs, deals the material and signs this
    pub owner: PublicKey,
    /// scheme, n and t
    pub roster: Roster,
    /// the nodes' keys, in slot order
    pub nodes: Vec<PublicKey>,
    /// the keys of agents that may take over the slots of crashed nodes; at most
    /// [`MAX_SPARES`]. They are to be trusted like nodes (docs/protocols.md, Replacement)
    pub spares: Vec<PublicKey>,
    /// how often keys and roster have changed since the first job: 0 but for one that [`Manifest::continues`]
    pub epoch: u32,
    /// the job that this one goes on from, on another roster
    pub continues: Option<Continues>,
    /// for what network and by what ways the program is planned
    pub planning: Planning,
    /// the program's digest
    pub program: [u8; 32],
    /// [`plan_digest`] of the plan that all parties compute from the program
    pub plan: [u8; 32],
    /// the inputs, in the plan's order
    pub inputs: Vec<InputEntry>,
    /// the hashes of the job's material keys: one per subset (Shamir) or slot (SPDZ)
    pub keys: Vec<KeyHash>,
    /// Δ words of the material stream
    pub stream_words: u64,
    /// dealt copies of the material, 1 to [`MAX_ATTEMPTS`]
    pub attempts: u32,
    /// the outputs, in the plan's order, and who may read each
    pub outputs: Vec<OutputEntry>,
    /// when the job must be over, in seconds since 1970 (UTC)
    pub expires: u64,
    /// whether all random choices come from a seed that others may know: a
    /// test, which ordinary nodes refuse
    pub insecure_seeded: bool,
    /// for people: at most 280 bytes on one line
    pub note: String,
}

/// Where a job goes on from (docs/protocols.md, 16, moving). The owner says so; the nodes of the
/// earlier job have signed nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Continues {
    /// digest of the earlier job's manifest
    pub manifest: [u8; 32],
    /// the place in its program behind which everything is left to this job
    pub border: Border,
    /// the transcript of its openings before the checkpoint from which the values at the border come
    pub transcript: [u8; 32],
}

/// An input: whose it is, and which corrections Δ carry it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputEntry {
    /// its name in the program
    pub name: String,
    /// who gives it
    pub owner: PublicKey,
    /// words of its Δ: n for Shamir, 2n for SPDZ
    pub words: u64,
    /// BLAKE3 of Δ's bytes
    pub root: [u8; 32],
}

/// An output and the one who may read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputEntry {
    /// its name in the program
    pub name: String,
    /// to whom it is sealed
    pub reader: PublicKey,
}

/// What a node is willing to do for one job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Δ words of all inputs together
    pub input_words: u64,
    /// Δ words of the material stream, of one attempt
    pub stream_words: u64,
    /// dealt copies, of attempts that may begin or go on
    pub attempts: u32,
    /// words of registers alive at once, of 8 bytes each (SPDZ holds two)
    pub live_words: u64,
    /// how far ahead a job may expire, in seconds
    pub lifetime: u64,
    /// whether jobs whose randomness comes from a known seed are served (tests only)
    pub insecure_seeded: bool,
}

impl Default for Limits {
    /// 2^30 words of input (8 GiB), 2^34 of material, 4 attempts, 2^30 words
    /// alive at once, 7 days, no insecure jobs.
    fn default() -> Self {
        Self {
            input_words: 1 << 30,
            stream_words: 1 << 34,
            attempts: 4,
            live_words: 1 << 30,
            lifetime: 7 * 86_400,
            insecure_seeded: false,
        }
    }
}

/// Why a manifest was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// A node of the roster is to read an output.
    #[error(
        "output {output:?} is for {reader}, a node of the roster: a node sees the masked words behind an output and must not read it; name another reader"
    )]
    NodeReads {
        /// the output
        output: String,
        /// the reader's short key
        reader: String,
    },
    /// More bytes than [`MAX_MANIFEST_BYTES`].
    #[error("the manifest has {found} bytes, at most {MAX_MANIFEST_BYTES} are read: name fewer inputs and outputs")]
    TooLarge {
        /// bytes found
        found: usize,
    },
    /// Bytes that are no manifest in its one encoding.
    #[error("{found} bytes are no signed manifest: send the file that `beaverdam submit` wrote")]
    Malformed {
        /// bytes found
        found: usize,
    },
    /// Another protocol version.
    #[error(
        "the manifest is of protocol version {found}, this program speaks {PROTOCOL}: use the same release everywhere"
    )]
    Version {
        /// version found
        found: u16,
    },
    /// The owner's signature is wrong, or another key would sign.
    #[error("the manifest is not signed by its owner {owner}: refuse it")]
    Signature {
        /// short form of the owner's key
        owner: String,
    },
    /// An epoch that does not fit what the job continues.
    #[error(
        "the manifest is of epoch {found} and names {} job that it continues: expected epoch 0 and none, or a later one and the job before",
        if *.continues { "a" } else { "no" }
    )]
    Epoch {
        /// epoch found
        found: u32,
        /// whether it names an earlier job
        continues: bool,
    },
    /// A list has the wrong length.
    #[error("the manifest has {found} {what}, expected {expected}")]
    Count {
        /// which list
        what: &'static str,
        /// entries found
        found: usize,
        /// entries expected
        expected: String,
    },
    /// Two slots with one key.
    #[error("{first} and {second} have the same key: one machine would hold two shares, give each node its own")]
    RepeatedNode {
        /// one slot
        first: Slot,
        /// the other
        second: Slot,
    },
    /// The owner is a node.
    #[error(
        "{slot} has the owner's key: a dealer that also sees openings learns everything, give the node its own key"
    )]
    OwnerIsNode {
        /// the slot
        slot: Slot,
    },
    /// A spare could not take over, or what it does could not be read.
    #[error("the manifest names spares, {reason}")]
    Spares {
        /// why they cannot be, and what to do
        reason: String,
    },
    /// A name or note that cannot be used.
    #[error("the {what} {text:?} cannot be used: expected 1 to {cap} bytes without control characters")]
    Text {
        /// which text
        what: &'static str,
        /// its beginning
        text: String,
        /// most bytes
        cap: usize,
    },
    /// A name that occurs twice.
    #[error("the manifest has two {what}s named {name:?}: every name stands for one")]
    RepeatedName {
        /// input or output
        what: &'static str,
        /// the name
        name: String,
    },
    /// An input of somebody else.
    #[error(
        "input {input:?} belongs to {found}, the manifest to {expected}: in this version the owner gives every input"
    )]
    OtherOwner {
        /// the input
        input: String,
        /// short form of its owner's key
        found: String,
        /// short form of the manifest's owner
        expected: String,
    },
    /// In SPDZ, MAC shares may only go to the dealer.
    #[error(
        "output {output:?} goes to {reader}, who did not deal: in SPDZ only the owner may read, its MAC shares would tell another reader the MAC key; use Shamir"
    )]
    SpdzReader {
        /// the output
        output: String,
        /// short form of the reader's key
        reader: String,
    },
    /// More than the node is willing to do.
    #[error("the job asks for {found} {what}, this node serves at most {cap}: raise its limit or split the job")]
    Limit {
        /// of what
        what: &'static str,
        /// how much
        found: u64,
        /// how much is allowed
        cap: u64,
    },
    /// Too late.
    #[error("the job expired at {expires} (unix seconds), it is {now}: submit it anew, or set this machine's clock")]
    Expired {
        /// when it had to be over
        expires: u64,
        /// the time
        now: u64,
    },
    /// Everybody may know the randomness.
    #[error("the job takes its randomness from a seed, so it protects nothing: nodes refuse it outside of tests")]
    Insecure,
    /// The program and plan are not those of the manifest.
    #[error("{what} is {found}, the manifest says {expected}: program, roster and release must be the same everywhere")]
    Plan {
        /// what differs
        what: String,
        /// what program or plan say
        found: String,
        /// what the manifest says
        expected: String,
    },
}

/// The digest of a plan: BLAKE3 of its postcard bytes.
pub fn plan_digest(plan: &Plan) -> [u8; 32] {
    blake3::derive_key(PLAN_DIGEST, &postcard::to_stdvec(plan).expect("a plan is plain data and always encodes"))
}

impl Manifest {
    /// Signs the manifest, after the checks that every node will make of it
    /// (but for the nodes' own limits and the time).
    pub fn sign(&self, owner: &SecretKey) -> Result<SignedManifest, ManifestError> {
        if owner.public() != self.owner {
            return Err(ManifestError::Signature { owner: self.owner.short() });
        }
        self.check()?;
        let bytes = self.to_bytes();
        let signature = owner.sign(SIGNED, &bytes);
        let signed = SignedManifest { bytes, signature };
        match signed.to_bytes().len() {
            found if found > MAX_MANIFEST_BYTES => Err(ManifestError::TooLarge { found }),
            _ => Ok(signed),
        }
    }

    fn to_bytes(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("a manifest is plain data and always encodes")
    }

    /// All that can be said without a clock and a node's limits.
    fn check(&self) -> Result<(), ManifestError> {
        if self.protocol != PROTOCOL {
            return Err(ManifestError::Version { found: self.protocol });
        }
        if (self.epoch > 0) != self.continues.is_some() {
            return Err(ManifestError::Epoch { found: self.epoch, continues: self.continues.is_some() });
        }
        self.check_nodes()?;
        if self.inputs.len() > MAX_ENTRIES {
            let expected = format!("at most {MAX_ENTRIES}");
            return Err(ManifestError::Count { what: "inputs", found: self.inputs.len(), expected });
        }
        if self.outputs.is_empty() || self.outputs.len() > MAX_ENTRIES {
            let expected = format!("1 to {MAX_ENTRIES}");
            return Err(ManifestError::Count { what: "outputs", found: self.outputs.len(), expected });
        }
        check_names("input", self.inputs.iter().map(|i| i.name.as_str()))?;
        check_names("output", self.outputs.iter().map(|o| o.name.as_str()))?;
        if !self.note.is_empty() {
            check_text("note", &self.note, MAX_NOTE)?;
        }
        if let Some(input) = self.inputs.iter().find(|i| i.owner != self.owner) {
            let (found, expected) = (input.owner.short(), self.owner.short());
            return Err(ManifestError::OtherOwner { input: input.name.clone(), found, expected });
        }
        // A node sees the masked openings of truncations; who also holds the
        // truncated value learns bits below its precision.
        let on_roster = |key: &PublicKey| self.agents().any(|node| node.identity() == key.identity());
        if let Some(output) = self.outputs.iter().find(|o| on_roster(&o.reader)) {
            return Err(ManifestError::NodeReads { output: output.name.clone(), reader: output.reader.short() });
        }
        if self.roster.scheme() == Scheme::Spdz
            && let Some(output) = self.outputs.iter().find(|o| o.reader != self.owner)
        {
            return Err(ManifestError::SpdzReader { output: output.name.clone(), reader: output.reader.short() });
        }
        match self.attempts {
            1..=MAX_ATTEMPTS => Ok(()),
            found => {
                let expected = format!("1 to {MAX_ATTEMPTS}");
                Err(ManifestError::Count { what: "attempts", found: found as usize, expected })
            }
        }
    }

    fn check_nodes(&self) -> Result<(), ManifestError> {
        let expected = usize::from(self.roster.nodes());
        if self.nodes.len() != expected {
            let expected = format!("{expected}, one for each slot of {}", self.roster);
            return Err(ManifestError::Count { what: "node keys", found: self.nodes.len(), expected });
        }
        // Compared by identity: the same signer under two sealing keys is one party.
        let mut seen = BTreeMap::new();
        // Spares are counted after the nodes.
        for (slot, key) in (1..).map(Slot).zip(self.agents()) {
            if key.identity() == self.owner.identity() {
                return Err(ManifestError::OwnerIsNode { slot });
            }
            if let Some(first) = seen.insert(key.identity(), slot) {
                return Err(ManifestError::RepeatedNode { first, second: slot });
            }
        }
        self.check_spares()?;
        let expected = match self.roster.scheme() {
            Scheme::Shamir => self.roster.subsets().len(),
            Scheme::Spdz => usize::from(self.roster.nodes()),
        };
        if self.keys.len() != expected {
            let expected = format!("{expected} for {}", self.roster);
            return Err(ManifestError::Count { what: "key hashes", found: self.keys.len(), expected });
        }
        Ok(())
    }
}

impl Manifest {
    /// All nodes in slot order, then the spares.
    fn agents(&self) -> impl Iterator<Item = &PublicKey> {
        self.nodes.iter().chain(&self.spares)
    }

    fn check_spares(&self) -> Result<(), ManifestError> {
        if self.spares.len() > MAX_SPARES {
            let expected = format!("at most {MAX_SPARES}");
            return Err(ManifestError::Count { what: "spares", found: self.spares.len(), expected });
        }
        // Else readers, who take 2t + 1 receipts of nodes, lack them once one is replaced even if all others are honest.
        if !self.spares.is_empty() && !self.roster.local_products() {
            let reason = format!("but {} leaves none over: use Shamir with at least 3t + 1 nodes", self.roster);
            return Err(ManifestError::Spares { reason });
        }
        Ok(())
    }
}

fn check_names<'a>(what: &'static str, names: impl Iterator<Item = &'a str>) -> Result<(), ManifestError> {
    let mut seen = BTreeSet::new();
    for name in names {
        check_text(what, name, MAX_NAME)?;
        if !seen.insert(name) {
            return Err(ManifestError::RepeatedName { what, name: name.to_owned() });
        }
    }
    Ok(())
}

fn check_text(what: &'static str, text: &str, cap: usize) -> Result<(), ManifestError> {
    if text.is_empty() || text.len() > cap || text.chars().any(char::is_control) {
        return Err(ManifestError::Text { what, text: text.chars().take(40).collect(), cap });
    }
    Ok(())
}

/// A manifest's exact bytes with the owner's signature; not yet checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedManifest {
    bytes: Vec<u8>,
    signature: Signature,
}

impl SignedManifest {
    /// The wire and file form.
    pub fn to_bytes(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("bytes always encode")
    }

    /// Reads the wire form and checks everything that needs no program: the
    /// version, the signature, who takes part, names, counts, this node's
    /// limits and the time (`now` in unix seconds).
    ///
    /// Whether the owner is one that this node serves is the caller's to ask.
    pub fn verify(bytes: &[u8], now: u64, limits: &Limits) -> Result<CheckedManifest, ManifestError> {
        let found = bytes.len();
        if found > MAX_MANIFEST_BYTES {
            return Err(ManifestError::TooLarge { found });
        }
        let malformed = ManifestError::Malformed { found };
        let Ok((signed, [])) = postcard::take_from_bytes::<Self>(bytes) else { return Err(malformed) };
        // The version stands first, so that another release is told apart from garbage.
        match postcard::take_from_bytes::<u16>(&signed.bytes) {
            Ok((PROTOCOL, _)) => {}
            Ok((found, _)) => return Err(ManifestError::Version { found }),
            Err(_) => return Err(malformed),
        }
        let Ok((manifest, [])) = postcard::take_from_bytes::<Manifest>(&signed.bytes) else { return Err(malformed) };
        if manifest.to_bytes() != signed.bytes {
            return Err(malformed);
        }
        if manifest.owner.verify(SIGNED, &signed.bytes, &signed.signature).is_err() {
            return Err(ManifestError::Signature { owner: manifest.owner.short() });
        }
        manifest.check()?;
        limits.check(&manifest, now)?;
        let digest = blake3::derive_key(DIGEST, &signed.bytes);
        Ok(CheckedManifest { manifest, digest })
    }
}

impl Limits {
    /// No limit at all: for what one has signed oneself.
    pub fn unlimited() -> Self {
        Self {
            input_words: u64::MAX,
            stream_words: u64::MAX,
            attempts: u32::MAX,
            live_words: u64::MAX,
            lifetime: u64::MAX,
            insecure_seeded: true,
        }
    }

    /// Whether a job's registers fit into this node's memory.
    pub fn check_memory(&self, plan: &Plan) -> Result<(), ManifestError> {
        let found = plan.live_words();
        if found <= self.live_words {
            return Ok(());
        }
        Err(ManifestError::Limit { what: "words of registers alive at once", found, cap: self.live_words })
    }

    fn check(&self, manifest: &Manifest, now: u64) -> Result<(), ManifestError> {
        let cap = |what, found: u64, cap: u64| {
            if found <= cap { Ok(()) } else { Err(ManifestError::Limit { what, found, cap }) }
        };
        if manifest.insecure_seeded && !self.insecure_seeded {
            return Err(ManifestError::Insecure);
        }
        if now >= manifest.expires {
            return Err(ManifestError::Expired { expires: manifest.expires, now });
        }
        cap("seconds until it expires", manifest.expires - now, self.lifetime)?;
        let input_words = manifest.inputs.iter().fold(0u64, |sum, input| sum.saturating_add(input.words));
        cap("words of input", input_words, self.input_words)?;
        cap("words of material", manifest.stream_words, self.stream_words)?;
        cap("attempts", manifest.attempts.into(), self.attempts.into())
    }
}

/// A manifest that its owner signed and that passed every check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedManifest {
    manifest: Manifest,
    digest: [u8; 32],
}

impl CheckedManifest {
    /// What was signed.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The job's name in every message: BLAKE3 of the manifest's bytes.
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// The slot of a node by its key, if it is on the roster.
    pub fn slot_of(&self, key: &PublicKey) -> Option<Slot> {
        self.manifest.roster.slots().zip(&self.manifest.nodes).find(|(_, node)| *node == key).map(|(slot, _)| slot)
    }

    /// A node's key; none outside of the roster.
    pub fn node(&self, slot: Slot) -> Option<&PublicKey> {
        usize::from(slot.0).checked_sub(1).and_then(|index| self.manifest.nodes.get(index))
    }

    /// An agent's key by its number, which is a node's slot or follows them: spare 1 of
    /// four nodes is number 5. Addresses are given in this order.
    #[cfg(feature = "net")]
    pub(crate) fn agent(&self, number: Slot) -> Option<&PublicKey> {
        self.manifest.agents().nth(usize::from(number.0).checked_sub(1)?)
    }

    /// The number of the agent whose links have this identity.
    #[cfg(feature = "net")]
    pub(crate) fn agent_of(&self, identity: &[u8; 32]) -> Option<Slot> {
        (1..).map(Slot).zip(self.manifest.agents()).find(|(_, key)| key.identity() == identity).map(|(slot, _)| slot)
    }

    /// How many agents the job has: nodes and spares.
    #[cfg(feature = "net")]
    pub(crate) fn agents(&self) -> u8 {
        self.manifest.roster.nodes() + self.manifest.spares.len() as u8
    }

    /// Whether the job goes on in another attempt when a process is lost (docs/protocols.md, 16, attempts).
    pub fn has_attempts(&self) -> bool {
        self.manifest.roster.scheme() == Scheme::Spdz && self.manifest.attempts > 1
    }

    /// Segments of the streams of all attempts.
    pub fn segments(&self) -> u64 {
        self.stream().segments().saturating_mul(self.manifest.attempts.into())
    }

    /// The place of the job's material stream.
    pub fn stream(&self) -> StreamPlace {
        self.stream_of(self.manifest.attempts)
    }

    /// The same once so many attempts are dealt, by [extensions](super::SignedExtension).
    pub fn stream_of(&self, attempts: u32) -> StreamPlace {
        StreamPlace { manifest: self.digest, stream: 0, attempts, words: self.manifest.stream_words }
    }

    /// Accepts the Δ of an input: exact length, the signed root, canonical
    /// words. None if the job has no such input.
    pub fn accept_input(&self, number: u32, bytes: &[u8]) -> Option<Result<Vec<Fp61>, TranscriptError>> {
        let entry = self.manifest.inputs.get(number as usize)?;
        Some(decode_words(bytes, entry.words, &entry.root, || format!("input {:?}", entry.name)))
    }

    /// Checks that a program is the one that the owner signed, by its digest.
    pub fn check_program(&self, program: &[u8; 32]) -> Result<(), ManifestError> {
        same(|| "the program's digest".into(), &hex(program), &hex(&self.manifest.program))
    }

    /// Whether spares that are named can take over in this plan.
    pub(crate) fn check_spares(&self, plan: &Plan) -> Result<(), ManifestError> {
        if self.manifest.spares.is_empty() || plan.replays() {
            return Ok(());
        }
        let reason = "but its words are opened by kings or on packed bits, where nobody can take over: \
            plan with --openings all-to-all --comparisons digits";
        Err(ManifestError::Spares { reason: reason.to_owned() })
    }

    /// Checks that a program and the plan computed from it are what the owner
    /// signed, and that the manifest's inputs and outputs are the plan's: same
    /// names, order and lengths, and one key for each name of a reader.
    pub fn check_plan(&self, program: &[u8; 32], plan: &Plan) -> Result<(), ManifestError> {
        let m = &self.manifest;
        self.check_program(program)?;
        same(|| "the roster".into(), &plan.roster, &m.roster)?;
        same(|| "the plan's digest".into(), &hex(&plan_digest(plan)), &hex(&m.plan))?;
        same(|| "the length of the material stream".into(), &plan.stream_words, &m.stream_words)?;
        self.check_spares(plan)?;
        same(|| "the number of inputs".into(), &plan.inputs.len(), &m.inputs.len())?;
        for (of_plan, entry) in plan.inputs.iter().zip(&m.inputs) {
            same(|| "the name of an input".into(), &of_plan.name, &entry.name)?;
            same(|| format!("the length of input {:?}", entry.name), &of_plan.words, &entry.words)?;
        }
        same(|| "the number of outputs".into(), &plan.outputs.len(), &m.outputs.len())?;
        let mut readers = BTreeMap::new();
        for (of_plan, entry) in plan.outputs.iter().zip(&m.outputs) {
            same(|| "the name of an output".into(), &of_plan.name, &entry.name)?;
            let first = readers.entry(&of_plan.reader).or_insert(entry.reader);
            same(|| format!("the key of reader {:?}", of_plan.reader), &entry.reader, first)?;
        }
        Ok(())
    }
}

fn same<T: PartialEq + std::fmt::Display>(
    what: impl Fn() -> String,
    found: &T,
    expected: &T,
) -> Result<(), ManifestError> {
    if found == expected {
        return Ok(());
    }
    Err(ManifestError::Plan { what: what(), found: found.to_string(), expected: expected.to_string() })
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
pub(super) mod tests;
