//! What a node keeps of a job on its disk beside the segments: what the job's
//! party is made again from after a restart, and what was opened, for itself and
//! for nodes that are behind.
//!
//! The assignment holds the node's material keys, so it is sealed to the node's
//! own key. Sealing does not authenticate, and need not: whoever can write to the store
//! could put another assignment there, but only one that the owner signed, with
//! the digest under which the store knows the job, and with keys that have the signed hashes.
//! Inputs and segments are checked against signed roots each time that they are
//! read, and opened words against the transcript that they lead to.

use std::borrow::Cow;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::replace::Note;
use crate::field::Fp61;
use crate::field::slice::{as_bytes, decode_words, encode_words};
use crate::job::{Assignment, CheckedManifest, Duty, Limits, SignedExtension, SignedManifest};
use crate::keys::SecretKey;
use crate::program::plan::Plan;
use crate::roster::Slot;
use crate::seal::{SealInfo, Sealed, open, seal};
use crate::sharing::SlotKeys;
use crate::store::{Nonce, Store};
use crate::transcript::SignedHeader;

/// Bytes of an input in one part.
const INPUT_PART: usize = 16 << 20;
/// No output of a program has this number: what is sealed under it is a setup.
const SETUP_OUTPUT: u32 = u32::MAX;

/// The parts of a job in the store, by kind; the number of each stands below.
const SETUP: u64 = 0;
const INPUTS: u64 = 1 << 32;
const HEADERS: u64 = 2 << 32;
const WORDS: u64 = 3 << 32;
const CHECKPOINTS: u64 = 4 << 32;
/// who takes over whose slot
const NOTES: u64 = 16 << 32;
/// how many attempts the owner has dealt since
const EXTENSION: u64 = 17 << 32;
/// how many of all are whole and durable here, once more than at first are
const HELD: u64 = 18 << 32;

/// What a node was told when the job began.
#[derive(Serialize, Deserialize)]
pub(super) struct Setup {
    /// [`Assignment::to_bytes`]
    #[serde(with = "serde_bytes")]
    assignment: Vec<u8>,
    /// where the nodes can be dialled, in slot order
    addresses: Vec<String>,
    /// when the job was accepted, in unix seconds: it is not too old because it lasts
    accepted: u64,
}

impl Drop for Setup {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.assignment);
    }
}

/// The words that were opened in a round, from 8 bytes each. Checked for their number, which
/// the plan fixes, and to be canonical.
pub(super) fn opened_words(plan: &Plan, round: usize, bytes: &[u8]) -> Result<Vec<Fp61>, String> {
    if round >= plan.opening_rounds() {
        return Err(format!("words of round {round}, of {}", plan.opening_rounds()));
    }
    let expected = plan.openings(round).map(|opening| opening.2).sum::<usize>();
    if bytes.len() != 8 * expected {
        return Err(format!("{} bytes of words of round {round}, expected {}", bytes.len(), 8 * expected));
    }
    decode_words(bytes).map_err(|error| format!("words of round {round}: {error}"))
}

/// A transcript, and the words that led to it, 8 bytes each, not checked.
pub(super) type Told = ([u8; 32], Vec<u8>);

/// One job's part of the store.
#[derive(Clone)]
pub(super) struct Keep {
    store: Arc<dyn Store>,
    nonce: Nonce,
}

impl Keep {
    pub(super) fn new(store: Arc<dyn Store>, nonce: Nonce) -> Self {
        Self { store, nonce }
    }

    fn put(&self, part: u64, bytes: &[u8]) -> Result<(), String> {
        self.put_all(part, &[bytes])
    }
    fn put_all(&self, part: u64, bytes: &[&[u8]]) -> Result<(), String> {
        self.store.put_part(self.nonce, part, bytes).map_err(|e| e.to_string())
    }
    fn get(&self, part: u64) -> Result<Option<Vec<u8>>, String> {
        self.store.part(self.nonce, part).map_err(|e| e.to_string())
    }

    /// Keeps what the owner and the agents of the job are. `slot` is the agent's, and for a
    /// spare that has none its number.
    pub(super) fn put_setup(
        &self,
        key: &SecretKey,
        manifest: &CheckedManifest,
        slot: Slot,
        (assignment, addresses): (&[u8], &[String]),
        accepted: u64,
    ) -> Result<(), String> {
        let setup = Setup { assignment: assignment.to_vec(), addresses: addresses.to_vec(), accepted };
        let plain = Zeroizing::new(postcard::to_stdvec(&setup).expect("plain data always encodes"));
        let sealed = seal(&seal_info(key, manifest.digest(), slot), &plain).map_err(|e| e.to_string())?;
        // The slot is found before anything can be opened.
        let bytes = postcard::to_stdvec(&(slot.0, sealed)).expect("bytes always encode");
        self.put(SETUP, &bytes)
    }

    /// The slot under which the setup is kept.
    pub(super) fn slot(&self) -> Result<Option<Slot>, String> {
        let Some(bytes) = self.get(SETUP)? else { return Ok(None) };
        let (slot, _): (u8, Sealed) = postcard::from_bytes(&bytes).map_err(|_| "its setup is damaged on disk")?;
        Ok(Some(Slot(slot)))
    }

    /// What [`Keep::put_setup`] kept, checked as if the owner sent it now.
    pub(super) fn setup(
        &self,
        key: &SecretKey,
        digest: [u8; 32],
        limits: &Limits,
    ) -> Result<(Duty, Vec<String>, u64), String> {
        let bytes = self.get(SETUP)?.ok_or("nothing is kept to take it up by: it was killed before it had all inputs, or is of a kind that is not taken up (only Shamir jobs without packed bits and kings, and SPDZ jobs with several attempts, are, by nodes that run without --no-recovery)")?;
        let (slot, sealed): (u8, Sealed) = postcard::from_bytes(&bytes).map_err(|_| "its setup is damaged on disk")?;
        let slot = Slot(slot);
        let plain = open(key, &seal_info(key, digest, slot), &sealed)
            .map_err(|_| "its setup does not open with this node's key, or is damaged on disk")?;
        let setup: Setup = postcard::from_bytes(&plain).map_err(|_| "its setup is of another release")?;
        let mut assignment = Assignment::from_bytes(&setup.assignment).map_err(|e| e.to_string())?;
        let manifest =
            SignedManifest::verify(&assignment.manifest, setup.accepted, limits).map_err(|e| e.to_string())?;
        if manifest.digest() != digest || manifest.manifest().nonce != self.nonce {
            return Err("its setup is that of another job".to_owned());
        }
        // A spare that was called has the slot's keys from other nodes.
        let own = manifest.slot_of(&key.public()).is_some();
        let called = !own && manifest.manifest().roster.has(slot);
        let none = SlotKeys::Shamir(Default::default());
        let keys = if called { Some(std::mem::replace(&mut assignment.keys, none)) } else { None };
        let duty = Duty::check(assignment, &key.public(), setup.accepted, limits).map_err(|e| e.to_string())?;
        if setup.addresses.len() != usize::from(manifest.agents()) {
            return Err("its setup has not one address for each node and spare".to_owned());
        }
        let duty = match (duty, keys) {
            (Duty::Spare(reserve), Some(keys)) => Duty::Node(reserve.call(slot, keys).map_err(|e| e.to_string())?.0),
            (duty, _) => duty,
        };
        Ok((duty, setup.addresses.clone(), setup.accepted))
    }

    /// Keeps a note, with everything before it, so that it may be said.
    pub(super) fn put_note(&self, number: u32, note: Note) -> Result<(), String> {
        self.put(NOTES + u64::from(number), &note.to_bytes())?;
        self.store.sync(self.nonce).map_err(|e| e.to_string())
    }

    /// All notes, in order.
    pub(super) fn notes(&self) -> Result<Vec<Note>, String> {
        let mut notes = Vec::new();
        while let Some(bytes) = self.get(NOTES + notes.len() as u64)? {
            notes.push(Note::from_bytes(&bytes).ok_or("a note of who takes over a slot is damaged on disk")?);
        }
        Ok(notes)
    }

    /// Keeps all inputs.
    pub(super) fn put_inputs(&self, inputs: &[Vec<u8>]) -> Result<(), String> {
        let parts = inputs.iter().flat_map(|input| input.chunks(INPUT_PART));
        (INPUTS..).zip(parts).try_for_each(|(part, bytes)| self.put(part, bytes))
    }

    /// All inputs; their roots are for the party to check.
    pub(super) fn inputs(&self, manifest: &CheckedManifest) -> Result<Vec<Vec<u8>>, String> {
        (0..manifest.manifest().inputs.len()).map(|number| self.input(manifest, number)).collect()
    }

    /// One of them.
    pub(super) fn input(&self, manifest: &CheckedManifest, number: usize) -> Result<Vec<u8>, String> {
        let len = |words: u64| usize::try_from(words.saturating_mul(8)).map_err(|e| e.to_string());
        let entries = &manifest.manifest().inputs;
        let mut part = INPUTS;
        for before in &entries[..number] {
            part += len(before.words)?.div_ceil(INPUT_PART) as u64;
        }
        let len = len(entries[number].words)?;
        let mut input = Vec::new();
        while input.len() < len {
            let bytes = self.get(part)?.filter(|bytes| !bytes.is_empty());
            input.extend(bytes.ok_or("its inputs are not all on disk")?);
            part += 1;
        }
        Ok(input)
    }

    /// Keeps a segment whose bytes fit its header, under its number in the streams of all attempts; with the header, if
    /// the job may be made again.
    pub(super) fn put_segment(
        &self,
        number: u32,
        header: &SignedHeader,
        bytes: &[u8],
        kept: bool,
    ) -> Result<(), String> {
        // First: other bytes in its place are refused, with their header.
        self.store.put_segment(self.nonce, number, bytes).map_err(|e| e.to_string())?;
        if kept {
            self.put(HEADERS + u64::from(number), &header.to_bytes())?;
        }
        Ok(())
    }

    /// All of it is on disk when this returns, the segments too. They are last: where they are whole, so are their headers.
    pub(super) fn sync(&self) -> Result<(), String> {
        self.store.sync(self.nonce).and_then(|()| self.store.sync_segments(self.nonce)).map_err(|e| e.to_string())
    }

    /// All segments of so many attempts are on disk when this returns, and count as [held](Keep::held).
    pub(super) fn hold(&self, attempts: u32) -> Result<(), String> {
        self.sync()?;
        self.put(HELD, &attempts.to_le_bytes())?;
        self.store.sync(self.nonce).map_err(|e| e.to_string())
    }

    /// Keeps a statement of more attempts, in place of an earlier one, so that their segments may be taken.
    pub(super) fn put_extension(&self, statement: &[u8]) -> Result<(), String> {
        self.put(EXTENSION, statement)?;
        self.store.sync(self.nonce).map_err(|e| e.to_string())
    }

    /// What [`Keep::put_extension`] kept.
    pub(super) fn extension(&self) -> Result<Option<Vec<u8>>, String> {
        self.get(EXTENSION)
    }

    /// How many attempts have their streams whole on disk: as many as [`Keep::hold`] has noted, or those that were dealt with the
    /// job. Of these the last segment and its header tell: both come in order, and what a crash undoes before the owner was told
    /// that all is stored only ends the job.
    pub(super) fn held(&self, manifest: &CheckedManifest) -> Result<u32, String> {
        let (mut held, each) = (manifest.manifest().attempts, manifest.stream().segments());
        let dealt = self.extension()?.map(|statement| SignedExtension::verify(&statement, manifest)).transpose();
        let dealt = dealt.map_err(|e| e.to_string())?.unwrap_or(held);
        if each == 0 {
            return Ok(dealt);
        }
        if let Some(bytes) = self.get(HELD)? {
            let noted: Result<[u8; 4], _> = bytes.try_into();
            let noted = noted.map_err(|_| "the number of attempts held is damaged on disk")?;
            return Ok(u32::from_le_bytes(noted).min(dealt));
        }
        while held > 0 {
            let last = u32::try_from(u64::from(held) * each - 1).map_err(|e| e.to_string())?;
            let segment = self.store.segment(self.nonce, last).map_err(|e| e.to_string())?;
            if segment.is_some() && self.get(HEADERS + u64::from(last))?.is_some() {
                break;
            }
            held -= 1;
        }
        Ok(held)
    }

    /// The header of a segment.
    pub(super) fn header(&self, index: u32) -> Result<SignedHeader, String> {
        let bytes = self.get(HEADERS + u64::from(index))?;
        let bytes = bytes.ok_or_else(|| format!("the header of segment {index} is not on disk"))?;
        SignedHeader::from_bytes(&bytes).map_err(|error| error.to_string())
    }

    /// Keeps what was opened in a round.
    pub(super) fn put_words(&self, round: usize, transcript: &[u8; 32], words: &[Fp61]) -> Result<(), String> {
        let words = as_bytes(words).map_or_else(|| Cow::Owned(encode_words(words)), Cow::Borrowed);
        self.put_all(WORDS + round as u64, &[transcript, &words])
    }

    /// The same of bytes that may be no words: for whoever spoils a log.
    #[cfg(test)]
    pub(super) fn put_spoilt(&self, round: usize, transcript: &[u8; 32], bytes: &[u8]) {
        self.put_all(WORDS + round as u64, &[transcript, bytes]).unwrap();
    }

    /// Keeps a sealed checkpoint in a place, in place of what was there.
    pub(super) fn put_checkpoint(&self, place: u64, bytes: &[u8]) -> Result<(), String> {
        self.put(CHECKPOINTS + place, bytes)
    }

    /// What is in a place for checkpoints.
    pub(super) fn checkpoint(&self, place: u64) -> Result<Option<Vec<u8>>, String> {
        self.get(CHECKPOINTS + place)
    }

    /// Where the log ends, of so many rounds. It has no gaps: they are written one
    /// after another, and what a crash undoes is the end.
    pub(super) fn log_end(&self, rounds: usize) -> Result<usize, String> {
        let (mut known, mut unknown) = (0, rounds);
        while known < unknown {
            let middle = known + (unknown - known) / 2;
            match self.get(WORDS + middle as u64)? {
                Some(_) => known = middle + 1,
                None => unknown = middle,
            }
        }
        Ok(known)
    }

    /// The transcript after a round and the words opened in it, as they were kept.
    pub(super) fn words(&self, round: usize) -> Result<Option<Told>, String> {
        let Some(mut bytes) = self.get(WORDS + round as u64)? else { return Ok(None) };
        // A cut one is as good as none.
        let Some(transcript) = bytes.first_chunk().copied() else { return Ok(None) };
        bytes.drain(..32);
        Ok(Some((transcript, bytes)))
    }
}

fn seal_info(key: &SecretKey, manifest: [u8; 32], sender: Slot) -> SealInfo {
    SealInfo { manifest, output: SETUP_OUTPUT, sender, reader: key.public() }
}
