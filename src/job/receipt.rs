//! Receipts: what each node says about a finished job, signed.
//!
//! A set of equal receipts is a **threshold attestation, not a proof**: it says
//! that the result is correct if at least one signer (SPDZ), or all but t of
//! them (Shamir), were honest, and if the ranges that the program declares
//! hold. Nodes that all cheat together can sign anything. The owner therefore
//! also verifies the outputs themselves
//! ([`Dealer::verify_output`](crate::sharing::Dealer::verify_output)); a valid
//! MAC or decoding alone would not be enough either, since a tampered Beaver
//! opening gives a wrong value with a valid MAC.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::manifest::{CheckedManifest, PROTOCOL};
use crate::keys::{SecretKey, Signature, hex};
use crate::roster::{MAX_NODES, Slot};

const SIGNED: &str = "receipt";
const SEALED: &str = "beaverdam 2026-01 sealed output v1";
/// 256 outputs of 32 bytes, 32 blamed slots and the fixed fields fit well.
const MAX_BYTES: usize = 16 * 1024;

/// How a job ended at a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Outcome {
    /// every check passed and the outputs were sealed to their readers
    Released,
    /// it ended before the outputs were released
    Stopped,
}

/// What one node says about one job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// [`PROTOCOL`]; always the first field
    pub protocol: u16,
    /// digest of the job's manifest
    pub manifest: [u8; 32],
    /// who says it
    pub slot: Slot,
    /// the running hash after the last check
    pub transcript: [u8; 32],
    /// checks passed
    pub checks: u32,
    /// how it ended
    pub outcome: Outcome,
    /// slots whose shares this node found wrong and corrected, ascending
    pub blamed: Vec<Slot>,
    /// rounds of openings
    pub rounds: u32,
    /// bytes sent to other nodes
    pub sent: u64,
    /// bytes received from other nodes
    pub received: u64,
    /// [`sealed_hash`] of this node's sealed share of each output, in order
    pub outputs: Vec<[u8; 32]>,
    /// whether correctness is conditional on ranges that the program declares
    pub conditional: bool,
}

/// A receipt with its node's signature, as it travels; not yet checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedReceipt {
    receipt: Receipt,
    signature: Signature,
}

/// Why receipts were refused. Nothing that the nodes sealed may then be relied on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptError {
    /// Bytes that are no receipt in its one encoding.
    #[error("{found} bytes are no signed receipt of protocol version {PROTOCOL}: fetch it from the node again")]
    Malformed {
        /// bytes found
        found: usize,
    },
    /// A receipt from a slot that the roster does not have.
    #[error("a receipt claims to come from {slot}, which is not on the job's roster: discard it")]
    Stranger {
        /// the slot
        slot: Slot,
    },
    /// The node's key did not sign it.
    #[error("the receipt of {slot} is not signed by the key that the manifest names: fetch it from that node itself")]
    Signature {
        /// the slot
        slot: Slot,
    },
    /// A receipt of another job.
    #[error("the receipt of {slot} is for job {}, expected {}: fetch the one of this job", hex(.found), hex(.expected))]
    Job {
        /// the slot
        slot: Slot,
        /// manifest digest found
        found: [u8; 32],
        /// manifest digest expected
        expected: [u8; 32],
    },
    /// Two receipts of one slot.
    #[error("{slot} gave two different receipts, expected one: keep both as evidence")]
    Twice {
        /// the slot
        slot: Slot,
    },
    /// The receipt does not fit the manifest.
    #[error("the receipt of {slot} names {found} {what}, expected {expected}: do not rely on this job")]
    Content {
        /// the slot
        slot: Slot,
        /// of what
        what: &'static str,
        /// what it says
        found: String,
        /// what was expected
        expected: String,
    },
    /// Not all nodes gave one.
    #[error(
        "receipts of {missing} are missing, {needed} that agree are needed: fetch them before relying on the result"
    )]
    Missing {
        /// whose, in words
        missing: String,
        /// how many must agree
        needed: usize,
    },
    /// Too few nodes say the same.
    #[error("the nodes disagree on {what} ({said}): at least one lies, do not rely on any output")]
    Disagree {
        /// on what
        what: &'static str,
        /// who said what
        said: String,
    },
    /// All nodes say that the job was not finished.
    #[error("all nodes say that the job stopped before its outputs were released: run it again with a new nonce")]
    Stopped,
}

/// The hash of a sealed output, which the node's receipt names: it ties what
/// the reader fetches to what the node signed.
pub fn sealed_hash(sealed: &[u8]) -> [u8; 32] {
    blake3::derive_key(SEALED, sealed)
}

impl Receipt {
    /// Signs it with the node's key.
    pub fn sign(self, node: &SecretKey) -> SignedReceipt {
        let signature = node.sign(SIGNED, &self.to_bytes());
        SignedReceipt { receipt: self, signature }
    }

    fn to_bytes(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("a receipt is plain data and always encodes")
    }
}

impl SignedReceipt {
    /// The wire and file form.
    pub fn to_bytes(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("a receipt is plain data and always encodes")
    }

    /// Reads the wire form; refuses bytes left over and other versions.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ReceiptError> {
        let malformed = ReceiptError::Malformed { found: bytes.len() };
        if bytes.len() > MAX_BYTES {
            return Err(malformed);
        }
        match postcard::take_from_bytes::<Self>(bytes) {
            Ok((signed, [])) if signed.receipt.protocol == PROTOCOL && signed.to_bytes() == bytes => Ok(signed),
            _ => Err(malformed),
        }
    }

    /// What the receipt claims: not to be relied on before [`compare`].
    pub fn claimed(&self) -> &Receipt {
        &self.receipt
    }

    /// Whether it is this job's, signed by the slot's key, and fits the manifest.
    fn check(&self, manifest: &CheckedManifest) -> Result<(), ReceiptError> {
        let Receipt { slot, manifest: found, .. } = self.receipt;
        let key = manifest.node(slot).ok_or(ReceiptError::Stranger { slot })?;
        key.verify(SIGNED, &self.receipt.to_bytes(), &self.signature).map_err(|_| ReceiptError::Signature { slot })?;
        let expected = manifest.digest();
        if found != expected {
            return Err(ReceiptError::Job { slot, found, expected });
        }
        let roster = manifest.manifest().roster;
        let blamed = &self.receipt.blamed;
        if !blamed.iter().all(|b| roster.has(*b)) || !blamed.is_sorted_by(|a, b| a < b) {
            let found = format!("{:?}", blamed.iter().take(usize::from(MAX_NODES)).map(|b| b.0).collect::<Vec<_>>());
            let expected = format!("ascending slots of {roster}");
            return Err(ReceiptError::Content { slot, what: "as blamed slots", found, expected });
        }
        let outputs = match self.receipt.outcome {
            Outcome::Released => manifest.manifest().outputs.len(),
            Outcome::Stopped => 0,
        };
        if self.receipt.outputs.len() != outputs {
            let (found, expected) = (self.receipt.outputs.len().to_string(), outputs.to_string());
            return Err(ReceiptError::Content { slot, what: "sealed outputs", found, expected });
        }
        Ok(())
    }
}

/// Receipts of enough nodes, which say the same: a threshold attestation (see
/// the module), not a proof.
#[derive(Clone, Debug)]
pub struct Agreed {
    receipts: Vec<Receipt>,
    left_out: Vec<(Slot, ReceiptError)>,
    threshold: u8,
}

impl Agreed {
    /// The receipts in slot order.
    pub fn receipts(&self) -> &[Receipt] {
        &self.receipts
    }
    /// Nodes whose receipts are not among these, and why. One that is missing
    /// is no sign of a lie, one that is refused of a wrong node or carrier.
    pub fn left_out(&self) -> &[(Slot, ReceiptError)] {
        &self.left_out
    }
    /// The transcript hash that all of them signed.
    pub fn transcript(&self) -> [u8; 32] {
        self.receipts[0].transcript
    }
    /// The number of passed checks, which all of them signed.
    pub fn checks(&self) -> u32 {
        self.receipts[0].checks
    }
    /// The number of rounds, which all of them signed.
    pub fn rounds(&self) -> u32 {
        self.receipts[0].rounds
    }
    /// Whether correctness is conditional on ranges that the program declares.
    pub fn conditional(&self) -> bool {
        self.receipts[0].conditional
    }
    /// Slots that more than t nodes found wrong, ascending: at least one of
    /// them is honest. One receipt alone proves nothing, since its signer may lie.
    pub fn blamed(&self) -> Vec<Slot> {
        let accusers = |slot: &Slot| self.accusations().filter(|(_, accused)| accused == slot).count();
        let slots: std::collections::BTreeSet<_> = self.accusations().map(|(_, accused)| accused).collect();
        slots.into_iter().filter(|slot| accusers(slot) > usize::from(self.threshold)).collect()
    }
    /// Who says of whom that it sent wrong shares, as (accuser, accused).
    pub fn accusations(&self) -> impl Iterator<Item = (Slot, Slot)> + '_ {
        self.receipts.iter().flat_map(|r| r.blamed.iter().map(|accused| (r.slot, *accused)))
    }
    /// Whether these sealed bytes are the ones that the slot signed as its
    /// share of the output with this number.
    pub fn sealed_by(&self, slot: Slot, output: u32, sealed: &[u8]) -> bool {
        let receipt = self.receipts.iter().find(|r| r.slot == slot);
        receipt.and_then(|r| r.outputs.get(output as usize)).is_some_and(|hash| *hash == sealed_hash(sealed))
    }
}

/// What a receipt says of the job as a whole; honest nodes say the same.
/// (Blamed slots may differ: a cheater can send a wrong share to one node alone.)
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Said {
    outcome: Outcome,
    transcript: [u8; 32],
    checks: u32,
    rounds: u32,
    conditional: bool,
}

/// One part of what a receipt says, in words.
type Word = fn(&Said) -> String;

impl Said {
    fn by(receipt: &Receipt) -> Self {
        let Receipt { outcome, transcript, checks, rounds, conditional, .. } = *receipt;
        Self { outcome, transcript, checks, rounds, conditional }
    }

    /// The first thing in which two differ, and each one's word on it.
    fn difference(&self, other: &Self) -> (&'static str, Word) {
        let parts: [(&str, Word); 5] = [
            ("the outcome", |s| format!("{:?}", s.outcome).to_lowercase()),
            ("the transcript", |s| hex(&s.transcript)),
            ("the checks passed", |s| s.checks.to_string()),
            ("the rounds", |s| s.rounds.to_string()),
            ("whether declared ranges are relied on", |s| s.conditional.to_string()),
        ];
        *parts.iter().find(|(_, of)| of(self) != of(other)).unwrap_or(&parts[0])
    }
}

/// Accepts a job's receipts if enough nodes signed one that says the same:
/// transcript, checks passed, rounds, outcome, condition. Of the others nothing
/// is used, so that with n ≥ 3t + 1 no t nodes can keep a result from its reader.
pub fn compare(receipts: &[SignedReceipt], manifest: &CheckedManifest) -> Result<Agreed, ReceiptError> {
    let roster = manifest.manifest().roster;
    let (mut by_slot, mut left_out) = (BTreeMap::new(), BTreeMap::new());
    for signed in receipts {
        let slot = signed.receipt.slot;
        match signed.check(manifest) {
            Ok(()) => {
                if by_slot.insert(slot, signed.receipt.clone()).is_some_and(|held| held != signed.receipt) {
                    left_out.insert(slot, ReceiptError::Twice { slot });
                }
            }
            // What others carried in its name is not the node's fault.
            Err(refused) => drop(left_out.entry(slot).or_insert(refused)),
        }
    }
    by_slot.retain(|slot, _| !matches!(left_out.get(slot), Some(ReceiptError::Twice { .. })));
    left_out.retain(|slot, _| !by_slot.contains_key(slot));
    let mut groups: BTreeMap<Said, usize> = BTreeMap::new();
    by_slot.values().for_each(|receipt| *groups.entry(Said::by(receipt)).or_default() += 1);
    let missing = roster.slots().filter(|slot| !by_slot.contains_key(slot) && !left_out.contains_key(slot));
    let missing = missing.map(|slot| slot.to_string()).collect::<Vec<_>>().join(", ");
    let needed = roster.to_read();
    let Some((said, _)) = groups.iter().find(|(_, count)| **count >= needed) else {
        // The gravest first.
        let mut different = groups.keys();
        if let (Some(one), Some(other)) = (different.next(), different.next()) {
            let (what, of) = one.difference(other);
            let said = by_slot.values().map(|r| format!("{}: {}", r.slot, of(&Said::by(r))));
            return Err(ReceiptError::Disagree { what, said: said.collect::<Vec<_>>().join(", ") });
        }
        let refused = left_out.into_values().next();
        return Err(refused.unwrap_or(ReceiptError::Missing { missing, needed }));
    };
    if said.outcome == Outcome::Stopped {
        return Err(ReceiptError::Stopped);
    }
    let said = said.clone();
    let (mut agreeing, mut accused) = (Vec::new(), left_out);
    for (slot, receipt) in by_slot {
        let other = Said::by(&receipt);
        if other == said {
            agreeing.push(receipt);
        } else {
            let (what, of) = said.difference(&other);
            let said = format!("{slot}: {}, most others: {}", of(&other), of(&said));
            accused.insert(slot, ReceiptError::Disagree { what, said });
        }
    }
    for slot in roster.slots().filter(|slot| !agreeing.iter().any(|r| r.slot == *slot)) {
        accused.entry(slot).or_insert(ReceiptError::Missing { missing: slot.to_string(), needed });
    }
    // Slots that the roster does not have are nobody's.
    let left_out = accused.into_iter().filter(|(slot, _)| roster.has(*slot)).collect();
    Ok(Agreed { receipts: agreeing, left_out, threshold: roster.threshold() })
}

#[cfg(test)]
mod tests {
    use super::super::manifest::tests::{checked, node};
    use super::*;
    use proptest::prelude::*;

    fn receipt(slot: u8) -> Receipt {
        Receipt {
            protocol: PROTOCOL,
            manifest: checked().digest(),
            slot: Slot(slot),
            transcript: [5; 32],
            checks: 3,
            outcome: Outcome::Released,
            blamed: vec![Slot(2)],
            rounds: 40,
            sent: 1000 + u64::from(slot),
            received: 2000,
            outputs: vec![sealed_hash(&[slot]), sealed_hash(&[slot, slot])],
            conditional: true,
        }
    }
    /// All four receipts, the one of `slot` changed and signed by `slot` again.
    fn with(slot: u8, change: impl Fn(&mut Receipt)) -> Vec<SignedReceipt> {
        let one = |i| {
            let mut r = receipt(i);
            if i == slot {
                change(&mut r);
            }
            r.sign(&node(i))
        };
        (1..=4).map(one).collect()
    }
    #[test]
    fn one_node_alone_cannot_frame_another() {
        let mut receipts: Vec<_> = (1..=4).map(receipt).collect();
        receipts.iter_mut().for_each(|r| r.blamed.clear());
        receipts[0].blamed = vec![Slot(3)];
        let signed = |rs: &[Receipt]| rs.iter().map(|r| r.clone().sign(&node(r.slot.0))).collect::<Vec<_>>();
        let agreed = compare(&signed(&receipts), &checked()).unwrap();
        assert_eq!(agreed.accusations().collect::<Vec<_>>(), [(Slot(1), Slot(3))]);
        assert!(agreed.blamed().is_empty());
        // At t = 1 a second accuser makes it certain.
        receipts[1].blamed = vec![Slot(3)];
        assert_eq!(compare(&signed(&receipts), &checked()).unwrap().blamed(), [Slot(3)]);
    }

    #[test]
    fn equal_receipts_agree() {
        let mut all = with(0, |_| {});
        all.reverse();
        let agreed = compare(&all, &checked()).unwrap();
        assert_eq!((agreed.transcript(), agreed.checks(), agreed.rounds()), ([5; 32], 3, 40));
        assert!(agreed.conditional());
        assert_eq!(agreed.blamed(), [Slot(2)]);
        assert_eq!(agreed.receipts().iter().map(|r| r.slot.0).collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert!(agreed.sealed_by(Slot(3), 1, &[3, 3]));
        // Swapped between slots or outputs, changed, or of no output.
        assert!(!agreed.sealed_by(Slot(3), 1, &[2, 2]));
        assert!(!agreed.sealed_by(Slot(3), 0, &[3, 3]));
        assert!(!agreed.sealed_by(Slot(3), 2, &[3, 3]));
        assert!(!agreed.sealed_by(Slot(9), 0, &[3]));
    }

    /// A receipt that differs, is refused or is missing is left out; a second
    /// one, and too few agree.
    fn left_out(slot: u8, change: impl Fn(&mut Receipt)) -> ReceiptError {
        let one = with(slot, &change);
        let agreed = compare(&one, &checked()).unwrap();
        assert_eq!(agreed.receipts().len(), 3);
        let [(left_out, why)] = agreed.left_out() else { panic!("{:?}", agreed.left_out()) };
        assert_eq!(*left_out, Slot(slot));
        let mut two = with(slot % 4 + 1, &change);
        two[usize::from(slot) - 1] = one[usize::from(slot) - 1].clone();
        assert!(compare(&two, &checked()).is_err());
        why.clone()
    }

    #[test]
    fn a_node_that_saw_another_transcript_is_told_apart() {
        let ReceiptError::Disagree { what, said } = left_out(3, |r| r.transcript[0] = 6) else { panic!() };
        assert_eq!(what, "the transcript");
        assert!(said.starts_with("node 3: 0605") && said.contains("others: 0505"), "{said}");
        for (what, change) in [
            ("the checks passed", (|r| r.checks = 2) as fn(&mut Receipt)),
            ("the rounds", |r| r.rounds += 1),
            ("whether declared ranges are relied on", |r| r.conditional = false),
            ("the outcome", |r| {
                r.outcome = Outcome::Stopped;
                r.outputs.clear();
            }),
        ] {
            assert!(matches!(left_out(4, change), ReceiptError::Disagree { what: w, .. } if w == what));
        }
        // Two against two: nobody is believed.
        let mut split = with(1, |r| r.transcript[0] = 6);
        split[1] = with(2, |r| r.transcript[0] = 6)[1].clone();
        let ReceiptError::Disagree { what: "the transcript", said } = compare(&split, &checked()).unwrap_err() else {
            panic!()
        };
        assert!(said.contains("node 2: 0605") && said.contains("node 3: 0505"), "{said}");
    }

    #[test]
    fn a_missing_doubled_or_foreign_receipt_is_left_out_and_missed() {
        let all = with(0, |_| {});
        let agreed = compare(&all[1..], &checked()).unwrap();
        assert!(matches!(agreed.left_out(), [(Slot(1), ReceiptError::Missing { .. })]));
        let refused_of = |set: &[SignedReceipt]| compare(set, &checked()).unwrap_err();
        assert_eq!(refused_of(&all[..2]), ReceiptError::Missing { missing: "node 3, node 4".into(), needed: 3 });
        assert_eq!(refused_of(&[]).to_string().matches("node").count(), 4);
        assert!(compare(&[&all[..], &all[..1]].concat(), &checked()).unwrap().left_out().is_empty());
        let other = &with(1, |r| r.sent += 1)[..1];
        let doubled = compare(&[&all[..], other].concat(), &checked()).unwrap();
        assert_eq!(doubled.left_out(), [(Slot(1), ReceiptError::Twice { slot: Slot(1) })]);
        assert_eq!(refused_of(&[&all[..3], other].concat()), ReceiptError::Twice { slot: Slot(1) });
        for slot in [0, 5, 255] {
            let strange = with(1, |r| r.slot = Slot(slot));
            assert!(matches!(
                compare(&strange, &checked()).unwrap().left_out(),
                [(Slot(1), ReceiptError::Missing { .. })]
            ));
            assert_eq!(refused_of(&strange[..3]), ReceiptError::Stranger { slot: Slot(slot) });
        }
        // Node 1 speaks for node 2: its own is missing, node 2's stands.
        let forged = compare(&with(1, |r| r.slot = Slot(2)), &checked()).unwrap();
        assert_eq!(forged.receipts().iter().map(|r| r.slot.0).collect::<Vec<_>>(), [2, 3, 4]);
        assert!(matches!(left_out(1, |r| r.manifest[0] ^= 1), ReceiptError::Job { slot: Slot(1), .. }));
    }

    #[test]
    fn content_must_fit_the_manifest() {
        for change in [
            (|r| r.blamed = vec![Slot(5)]) as fn(&mut Receipt),
            |r| r.blamed = vec![Slot(0)],
            |r| r.blamed = vec![Slot(2), Slot(1)],
            |r| r.blamed = vec![Slot(2), Slot(2)],
            |r| r.outputs.truncate(1),
            |r| r.outputs.push([0; 32]),
        ] {
            assert!(matches!(left_out(2, change), ReceiptError::Content { slot: Slot(2), .. }));
        }
    }

    #[test]
    fn a_changed_receipt_is_left_out() {
        let mut all = with(0, |_| {});
        all[1].receipt.sent += 1;
        let agreed = compare(&all, &checked()).unwrap();
        assert_eq!(agreed.left_out(), [(Slot(2), ReceiptError::Signature { slot: Slot(2) })]);
    }

    #[test]
    fn stopped_jobs_release_nothing() {
        let stopped = |slot| {
            let mut r = receipt(slot);
            (r.outcome, r.outputs) = (Outcome::Stopped, Vec::new());
            r.sign(&node(slot))
        };
        let all: Vec<_> = (1..=4).map(stopped).collect();
        assert_eq!(compare(&all, &checked()).unwrap_err(), ReceiptError::Stopped);
    }

    #[test]
    fn the_wire_form_is_frozen() {
        let fixed = Receipt { manifest: [1; 32], ..receipt(1) };
        insta::assert_snapshot!(hex(&fixed.sign(&node(1)).to_bytes()), @"0501010101010101010101010101010101010101010101010101010101010101010105050505050505050505050505050505050505050505050505050505050505050300010228e907d00f028187f9d72e7bfdfb0b7d80cd120985a98352c4b8ba9f9c15b5d806e084c7b70e485568c85f985e189f6dabaca513201132c348f3dd7700a4059364a1def002a8015caaa9244a0d75595d1a7a69dd54588ab451e4b5345d445b4eea7ac570bd63df4ae403be68c3822af8eaa48bb13eedd2be96ea0f39323bf56c03dacf46ea9105");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            if let Ok(receipt) = SignedReceipt::from_bytes(&bytes) {
                let refused = compare(&[receipt], &checked()).unwrap_err();
                prop_assert!(!matches!(refused, ReceiptError::Missing { .. }), "{refused}");
            }
        }

        #[test]
        fn every_changed_byte_is_noticed(at in 0usize..10_000, bit in 0u32..8) {
            let mut wire = receipt(1).sign(&node(1)).to_bytes();
            let at = at % wire.len();
            wire[at] ^= 1 << bit;
            if let Ok(changed) = SignedReceipt::from_bytes(&wire) {
                let refused = compare(&[changed], &checked()).unwrap_err();
                prop_assert!(!matches!(refused, ReceiptError::Missing { .. }), "{refused}");
            }
        }
    }
}
