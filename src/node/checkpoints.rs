//! Checkpoints on a node's disk: encrypted, since they hold shares, and authenticated, since
//! nobody but this node could tell a changed one (docs/protocols.md, 16, checkpoints).
//!
//! XChaCha20-Poly1305 under a key that the node's seed gives for this alone, with 24 random
//! bytes from the system as the nonce: 2^40 checkpoints in a node's life repeat one with
//! a probability of about 2^-113. What a checkpoint belongs to is associated data.
//!
//! ```text
//! 1 byte       version
//! 4 bytes      the round that comes next
//! 32 bytes     transcript after the round before
//! 24 bytes     nonce
//! the rest     Checkpoint::encode, sealed; its last 16 bytes are the tag
//! ```

use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305};
use zeroize::Zeroizing;

use super::setup::Keep;
use crate::engine::Checkpoint;
use crate::keys::SecretKey;
use crate::program::plan::Plan;
use crate::roster::Slot;

const VERSION: u8 = 1;
/// Version, round and transcript.
const HEAD: usize = 1 + 4 + 32;
const NONCE: usize = 24;

/// How many are kept: a crash in the middle of writing one leaves the other.
pub(crate) const KEPT: u64 = 2;

/// Round, transcript and [`Checkpoint::encode`].
pub(super) type Opened = (u32, [u8; 32], Zeroizing<Vec<u8>>);

/// The checkpoints of one job at one node.
pub(super) struct Checkpoints {
    keep: Keep,
    cipher: XChaCha20Poly1305,
    manifest: [u8; 32],
    slot: Slot,
    /// the place of the older one, which the next is written over
    next: u64,
}

impl Checkpoints {
    pub(super) fn new(keep: Keep, key: &SecretKey, manifest: [u8; 32], slot: Slot) -> Self {
        let cipher = XChaCha20Poly1305::new(&key.keeping().0.into());
        Self { keep, cipher, manifest, slot, next: 0 }
    }

    /// Writes one in the older one's place.
    pub(super) fn put(&mut self, checkpoint: &Checkpoint) -> Result<(), String> {
        let mut nonce = [0; NONCE];
        getrandom::fill(&mut nonce)
            .map_err(|e| format!("a checkpoint cannot be sealed: the system's random generator failed ({e})"))?;
        let bytes = self.seal(checkpoint, nonce)?;
        self.keep.put_checkpoint(self.next, &bytes)?;
        self.next = (self.next + 1) % KEPT;
        Ok(())
    }

    /// Those that are good, the newest last. What is refused is named in the node's log:
    /// the job goes on without it.
    pub(super) fn open(&mut self, plan: &Plan) -> Result<Vec<Checkpoint>, String> {
        let mut good = Vec::new();
        for place in 0..KEPT {
            let Some(bytes) = self.keep.checkpoint(place)? else { continue };
            match self.unseal(plan, &bytes) {
                Ok(checkpoint) => good.push((checkpoint, place)),
                Err(why) => {
                    tracing::warn!(why, "a checkpoint on disk is not used: the job goes on from an earlier state")
                }
            }
        }
        good.sort_by_key(|(checkpoint, _)| checkpoint.round());
        // The place of one that is missing or refused, or else of the older one.
        let free = (0..KEPT).find(|place| good.iter().all(|(_, held)| held != place));
        self.next = free.or(good.first().map(|(_, place)| *place)).unwrap_or(0);
        Ok(good.into_iter().map(|(checkpoint, _)| checkpoint).collect())
    }

    /// The one with this transcript, from which another attempt begins: what comes next is not written
    /// over it. `None` if it is not there.
    pub(super) fn begin_at(
        &mut self,
        plan: &Plan,
        round: usize,
        transcript: [u8; 32],
    ) -> Result<Option<Checkpoint>, String> {
        for place in 0..KEPT {
            let Some(bytes) = self.keep.checkpoint(place)? else { continue };
            match self.unseal(plan, &bytes) {
                Ok(held) if held.round() == round && held.transcript() == transcript => {
                    self.next = (place + 1) % KEPT;
                    return Ok(Some(held));
                }
                _ => {}
            }
        }
        Ok(None)
    }

    fn seal(&self, checkpoint: &Checkpoint, nonce: [u8; NONCE]) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::with_capacity(HEAD + NONCE);
        bytes.push(VERSION);
        bytes.extend((checkpoint.round() as u32).to_le_bytes());
        bytes.extend(checkpoint.transcript());
        let (plain, belongs) = (checkpoint.encode(), self.belongs(&bytes));
        let sealed = self.cipher.encrypt(&nonce.into(), Payload { msg: &plain, aad: &belongs });
        let sealed = sealed.map_err(|_| format!("a checkpoint of {} bytes is too long to be sealed", plain.len()))?;
        bytes.extend(nonce);
        bytes.extend(sealed);
        Ok(bytes)
    }

    /// What this node holds, for the job's owner: round, transcript and [`Checkpoint::encode`] of each that opens.
    pub(super) fn held(&self) -> Result<Vec<Opened>, String> {
        let places = (0..KEPT).map(|place| self.keep.checkpoint(place));
        let bytes = places.collect::<Result<Vec<_>, _>>()?;
        Ok(bytes.into_iter().flatten().filter_map(|bytes| self.open_sealed(&bytes).ok()).collect())
    }

    fn unseal(&self, plan: &Plan, bytes: &[u8]) -> Result<Checkpoint, String> {
        let (round, transcript, plain) = self.open_sealed(bytes)?;
        Checkpoint::decode(plan, round as usize, transcript, &plain).map_err(|error| error.to_string())
    }

    fn open_sealed(&self, bytes: &[u8]) -> Result<Opened, String> {
        let short = || format!("found {} bytes, expected more than {}", bytes.len(), HEAD + NONCE);
        let (head, rest) = bytes.split_first_chunk::<HEAD>().ok_or_else(short)?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE>().ok_or_else(short)?;
        let [version, r0, r1, r2, r3, transcript @ ..] = *head;
        if version != VERSION {
            return Err(format!("its form is {version}, this release reads {VERSION}"));
        }
        let (round, belongs) = (u32::from_le_bytes([r0, r1, r2, r3]), self.belongs(head));
        let plain = self.cipher.decrypt(&(*nonce).into(), Payload { msg: sealed, aad: &belongs });
        let plain = plain.map(Zeroizing::new).map_err(|_| {
            format!(
                "the one before round {round} does not open: it was changed, or is of another job, slot, round or node"
            )
        })?;
        Ok((round, transcript, plain))
    }

    /// What a sealed checkpoint is tied to: job, slot, and what stands in front of it.
    fn belongs(&self, head: &[u8]) -> Vec<u8> {
        [&self.manifest[..], &[self.slot.0], head].concat()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::program::{Builder, Type};
    use crate::roster::Roster;
    use crate::store::{MemoryStore, Store};

    const JOB: [u8; 32] = [3; 32];

    fn plan() -> Plan {
        let b = Builder::new();
        let x = b.input("x", "alice", Type::int(-9..=9), [2]);
        b.output("y", "alice", &(&(&(&x * &x) * &x) * &x));
        b.finish().unwrap().plan(Roster::shamir(5, 1).unwrap()).unwrap()
    }

    fn checkpoint(plan: &Plan, round: usize) -> Checkpoint {
        let words = plan.live(round).words();
        let bytes: Vec<u8> = [1, 0].into_iter().chain((0..words).flat_map(|i| (0x0203 + i).to_le_bytes())).collect();
        Checkpoint::decode(plan, round, [round as u8; 32], &bytes).unwrap()
    }

    struct Disk {
        plan: Plan,
        keep: Keep,
    }

    impl Disk {
        fn new() -> Self {
            let store = Arc::new(MemoryStore::new());
            store.begin([1; 32], JOB).unwrap();
            Self { plan: plan(), keep: Keep::new(store, [1; 32]) }
        }
        fn of(&self, key: &str, manifest: [u8; 32], slot: u8) -> Checkpoints {
            let key = SecretKey::insecure_from_seed(1, key);
            Checkpoints::new(self.keep.clone(), &key, manifest, Slot(slot))
        }
        /// What this job's node finds.
        fn rounds(&self) -> Vec<usize> {
            let found = self.of("node", JOB, 1).open(&self.plan).unwrap();
            found.iter().map(Checkpoint::round).collect()
        }
        fn put(&self, round: usize, by: &mut Checkpoints) {
            by.put(&checkpoint(&self.plan, round)).unwrap();
        }
    }

    #[test]
    fn the_form_on_disk_is_frozen() {
        let disk = Disk::new();
        let sealed = disk.of("node", JOB, 1).seal(&checkpoint(&disk.plan, 2), [9; NONCE]).unwrap();
        insta::assert_snapshot!(crate::keys::hex(&sealed), @"01020000000202020202020202020202020202020202020202020202020202020202020202090909090909090909090909090909090909090909090909fe8a5cd16928ce0827e4864fd5e1447aa1a7e1b7ecac26954f19d92610d46300b54f3a00709b4781b299c7b7674fa4e1a60ad269d262a68f9f5d843cfaa28eb4828d");
    }

    #[test]
    fn the_two_newest_are_kept() {
        let (disk, mut rounds) = (Disk::new(), vec![]);
        let mut node = disk.of("node", JOB, 1);
        for round in 1..=3 {
            disk.put(round, &mut node);
            rounds.push(round);
            assert_eq!(disk.rounds(), rounds[rounds.len().saturating_sub(2)..]);
            // So does a process that comes after.
            node = disk.of("node", JOB, 1);
            node.open(&disk.plan).unwrap();
        }
        let newest = node.open(&disk.plan).unwrap().pop().unwrap();
        assert_eq!(*newest.encode(), *checkpoint(&disk.plan, 3).encode());
    }

    /// Whoever writes to the disk without the node's key has nothing but what the node wrote.
    #[test]
    fn a_checkpoint_of_another_job_slot_or_node_is_refused() {
        for (key, manifest, slot) in [("node", [4; 32], 1), ("node", JOB, 2), ("another", JOB, 1)] {
            let disk = Disk::new();
            let mut node = disk.of("node", JOB, 1);
            disk.put(1, &mut node);
            let mut other = disk.of(key, manifest, slot);
            other.next = 1;
            disk.put(2, &mut other);
            assert_eq!(other.open(&disk.plan).unwrap().len(), 1);
            assert_eq!(disk.rounds(), [1]);
            // It is what is written over next.
            node.open(&disk.plan).unwrap();
            disk.put(3, &mut node);
            assert_eq!(disk.rounds(), [1, 3]);
        }
    }

    #[test]
    fn an_older_one_under_a_newer_name_is_refused() {
        let disk = Disk::new();
        let mut node = disk.of("node", JOB, 1);
        disk.put(1, &mut node);
        disk.put(2, &mut node);
        let (older, newer) = (disk.keep.checkpoint(0).unwrap().unwrap(), disk.keep.checkpoint(1).unwrap().unwrap());
        // The round alone, round and transcript, and all of it: which is an honest old one.
        for (from, to, expected) in [(1, 5, vec![1]), (1, HEAD, vec![1]), (HEAD, newer.len(), vec![1])] {
            let mut forged = older.clone();
            forged.resize(newer.len().max(older.len()), 0);
            forged[from..to].copy_from_slice(&newer[from..to]);
            disk.keep.put_checkpoint(1, &forged).unwrap();
            assert_eq!(disk.rounds(), expected, "{from}..{to}");
        }
        disk.keep.put_checkpoint(1, &older).unwrap();
        assert_eq!(disk.rounds(), [1, 1]);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let disk = Disk::new();
        let mut node = disk.of("node", JOB, 1);
        disk.put(1, &mut node);
        disk.put(2, &mut node);
        let right = disk.keep.checkpoint(1).unwrap().unwrap();
        for bit in 0..8 * right.len() {
            let mut wrong = right.clone();
            wrong[bit / 8] ^= 1 << (bit % 8);
            disk.keep.put_checkpoint(1, &wrong).unwrap();
            assert_eq!(disk.rounds(), [1], "bit {bit}");
        }
        for end in 0..right.len() {
            disk.keep.put_checkpoint(1, &right[..end]).unwrap();
            assert_eq!(disk.rounds(), [1], "cut at {end}");
        }
    }

    /// Others may not have the newer one, and would lack both.
    #[test]
    fn what_an_attempt_begins_at_is_not_written_over_next() {
        for (begins, left) in [(1, [1, 3]), (2, [2, 3])] {
            let disk = Disk::new();
            let mut node = disk.of("node", JOB, 1);
            disk.put(1, &mut node);
            disk.put(2, &mut node);
            let mut node = disk.of("node", JOB, 1);
            assert!(node.begin_at(&disk.plan, begins, [9; 32]).unwrap().is_none());
            let held = node.begin_at(&disk.plan, begins, [begins as u8; 32]).unwrap().unwrap();
            assert_eq!(held.round(), begins);
            disk.put(3, &mut node);
            assert_eq!(disk.rounds(), left);
        }
    }

    #[test]
    fn no_nonce_serves_twice_and_no_share_is_in_the_clear() {
        let disk = Disk::new();
        let mut node = disk.of("node", JOB, 1);
        disk.put(1, &mut node);
        disk.put(1, &mut node);
        let [a, b] = [0, 1].map(|place| disk.keep.checkpoint(place).unwrap().unwrap());
        assert_ne!(a[HEAD..HEAD + NONCE], b[HEAD..HEAD + NONCE]);
        assert_ne!(a[HEAD + NONCE..], b[HEAD + NONCE..]);
        let share = 0x0203u64.to_le_bytes();
        assert!(![a, b].iter().any(|bytes| bytes.windows(8).any(|window| window == share)));
    }
}
