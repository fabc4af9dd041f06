//! Commitments, and the coins that nodes toss with them.
//!
//! A commitment is BLAKE3 over everything that says where it belongs, a fresh
//! 32-byte nonce and the payload: binding if BLAKE3 is collision-resistant,
//! hiding while the nonce is unknown. Its sender and check are inside, so a
//! copied or replayed commitment cannot be opened (after Blum, CRYPTO '81
//! abstracts; SPDZ's use of it: eprint 2012/642, section 4).
//!
//! A coin is the hash of all nodes' opened nonces. Whoever opens last has
//! already committed, so one honest node makes it uniform; a node that refuses
//! to open can only end the job. The caller must hold **all** commitments of a
//! check before it opens its own, and must compare [`Coin::digest`] with all
//! nodes before it sends anything that depends on the coin.

use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::TranscriptError;
use crate::prg::PrgKey;
use crate::roster::Slot;

const COMMIT: &str = "beaverdam 2026-01 commitment v1";
const COIN: &str = "beaverdam 2026-01 coin v1";
const COIN_KEY: &str = "beaverdam 2026-01 coin key v1";

/// The one check that a commitment belongs to: the same at all honest nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckPoint {
    /// digest of the job's manifest
    pub manifest: [u8; 32],
    /// epoch of keys and roster
    pub epoch: u32,
    /// view of live members
    pub view: u32,
    /// number of the check, counted over the job, retries included
    pub check: u32,
    /// the transcript's digest, frozen and agreed before anyone commits
    pub transcript: [u8; 32],
}

/// What is committed to; two commitments of one check never stand for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum Purpose {
    /// a node's part of the coin: the nonce itself, no payload
    Coin = 1,
    /// a node's σ of the MAC check: 8 bytes
    Sigma = 2,
}

impl Purpose {
    /// The exact number of payload bytes.
    pub fn payload_len(self) -> usize {
        match self {
            Purpose::Coin => 0,
            Purpose::Sigma => 8,
        }
    }
}

impl std::fmt::Display for Purpose {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Purpose::Coin => "coin",
            Purpose::Sigma => "sigma",
        })
    }
}

/// A commitment: 32 bytes on the wire.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Commitment([u8; 32]);

/// What opens a commitment. Secret until sent; wiped on drop.
#[derive(Clone, Zeroize, ZeroizeOnDrop, Serialize, Deserialize)]
pub struct Opening {
    nonce: [u8; 32],
    payload: Vec<u8>,
}

/// An opening that was verified against its sender's commitment.
#[derive(Clone, Debug)]
pub struct Opened {
    point: CheckPoint,
    purpose: Purpose,
    sender: Slot,
    nonce: [u8; 32],
    payload: Vec<u8>,
}

impl Opened {
    /// Who opened it.
    pub fn sender(&self) -> Slot {
        self.sender
    }
    /// The payload, of [`Purpose::payload_len`] bytes.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }
}

impl Opening {
    /// Whether two openings that were sent say the same.
    pub(crate) fn same(&self, other: &Self) -> bool {
        (self.nonce, &self.payload) == (other.nonce, &other.payload)
    }
}

impl Commitment {
    /// A commitment as it came over the wire; any 32 bytes may claim to be one.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The wire form.
    pub fn to_bytes(self) -> [u8; 32] {
        self.0
    }

    /// Commits a sender to a payload. The nonce must be fresh from the
    /// operating system (or, in an insecure seeded test, from the seed) and
    /// used for nothing else.
    pub fn commit(
        point: &CheckPoint,
        purpose: Purpose,
        sender: Slot,
        nonce: [u8; 32],
        payload: &[u8],
    ) -> (Self, Opening) {
        let opening = Opening { nonce, payload: payload.to_vec() };
        (hash(point, purpose, sender, &opening), opening)
    }

    /// Accepts an opening if it is the one that `sender` committed to at this
    /// point. The comparison takes the same time wherever the bytes differ.
    pub fn verify(
        &self,
        point: &CheckPoint,
        purpose: Purpose,
        sender: Slot,
        opening: &Opening,
    ) -> Result<Opened, TranscriptError> {
        let (found, expected) = (opening.payload.len(), purpose.payload_len());
        if found != expected {
            return Err(TranscriptError::Payload { from: sender, purpose, check: point.check, found, expected });
        }
        let recomputed = hash(point, purpose, sender, opening);
        if !bool::from(recomputed.0.ct_eq(&self.0)) {
            return Err(TranscriptError::Commitment { from: sender, purpose, check: point.check });
        }
        Ok(Opened { point: *point, purpose, sender, nonce: opening.nonce, payload: opening.payload.clone() })
    }
}

fn hash(point: &CheckPoint, purpose: Purpose, sender: Slot, opening: &Opening) -> Commitment {
    let mut hasher = point_hasher(COMMIT, point);
    hasher.update(&[purpose as u8, sender.0]).update(&opening.nonce);
    hasher.update(&(opening.payload.len() as u64).to_le_bytes()).update(&opening.payload);
    Commitment(hasher.finalize().into())
}

fn point_hasher(context: &str, point: &CheckPoint) -> blake3::Hasher {
    let mut hasher = blake3::Hasher::new_derive_key(context);
    hasher.update(&point.manifest).update(&point.epoch.to_le_bytes()).update(&point.view.to_le_bytes());
    hasher.update(&point.check.to_le_bytes()).update(&point.transcript);
    hasher
}

/// A public coin that all nodes tossed together: the seed of a check's coefficients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coin {
    seed: [u8; 32],
}

impl Coin {
    /// Tosses from the opened nonces of all `n` nodes, in slot order, of one check.
    pub fn toss(point: &CheckPoint, n: u8, opened: &[Opened]) -> Result<Self, TranscriptError> {
        let fits = opened.len() == usize::from(n)
            && opened
                .iter()
                .zip(1u8..)
                .all(|(o, slot)| o.sender == Slot(slot) && o.purpose == Purpose::Coin && o.point == *point);
        if !fits {
            let found = opened.iter().map(|o| format!("{} of check {}", o.sender, o.point.check)).collect::<Vec<_>>();
            let found = if found.is_empty() { "none".to_owned() } else { found.join(", ") };
            return Err(TranscriptError::CoinParts { check: point.check, found, expected: n });
        }
        let mut hasher = point_hasher(COIN, point);
        hasher.update(&[n]);
        for o in opened {
            hasher.update(&o.nonce);
        }
        Ok(Self { seed: hasher.finalize().into() })
    }

    /// What all nodes compare before anything depends on the coin: a hash that
    /// fixes every opened nonce.
    pub fn digest(&self) -> [u8; 32] {
        self.seed
    }

    /// The key from whose streams the coefficients are drawn.
    pub fn key(&self) -> PrgKey {
        PrgKey(blake3::derive_key(COIN_KEY, &self.seed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point() -> CheckPoint {
        CheckPoint { manifest: [1; 32], epoch: 0, view: 0, check: 2, transcript: [3; 32] }
    }

    fn parts(point: &CheckPoint, n: u8) -> Vec<Opened> {
        (1..=n)
            .map(|i| {
                let (c, o) = Commitment::commit(point, Purpose::Coin, Slot(i), [i; 32], &[]);
                c.verify(point, Purpose::Coin, Slot(i), &o).unwrap()
            })
            .collect()
    }

    #[test]
    fn a_commitment_opens_to_its_payload_alone() {
        let sigma = 77u64.to_le_bytes();
        let (c, o) = Commitment::commit(&point(), Purpose::Sigma, Slot(1), [9; 32], &sigma);
        assert_eq!(c.verify(&point(), Purpose::Sigma, Slot(1), &o).unwrap().payload(), sigma);

        let mut other = o.clone();
        other.payload[0] ^= 1;
        assert_ne!(other.payload, o.payload);
        let refused = c.verify(&point(), Purpose::Sigma, Slot(1), &other).unwrap_err();
        assert_eq!(refused, TranscriptError::Commitment { from: Slot(1), purpose: Purpose::Sigma, check: 2 });
        let mut other = o.clone();
        other.nonce[31] ^= 1;
        assert!(c.verify(&point(), Purpose::Sigma, Slot(1), &other).is_err());
        let mut long = o.clone();
        long.payload.push(0);
        let refused = c.verify(&point(), Purpose::Sigma, Slot(1), &long).unwrap_err();
        assert!(matches!(refused, TranscriptError::Payload { found: 9, expected: 8, .. }));
    }

    #[test]
    fn a_copied_commitment_cannot_be_opened() {
        // Node 2 sends node 1's commitment as its own, waits for node 1 to
        // open, and repeats the opening: the reflection attack on coins.
        let (c, o) = Commitment::commit(&point(), Purpose::Coin, Slot(1), [9; 32], &[]);
        assert!(c.verify(&point(), Purpose::Coin, Slot(1), &o).is_ok());
        let refused = c.verify(&point(), Purpose::Coin, Slot(2), &o).unwrap_err();
        assert_eq!(refused, TranscriptError::Commitment { from: Slot(2), purpose: Purpose::Coin, check: 2 });
    }

    #[test]
    fn a_replayed_commitment_cannot_be_opened() {
        let (c, o) = Commitment::commit(&point(), Purpose::Coin, Slot(1), [9; 32], &[]);
        let elsewhere = [
            CheckPoint { manifest: [2; 32], ..point() },
            CheckPoint { epoch: 1, ..point() },
            CheckPoint { view: 1, ..point() },
            CheckPoint { check: 3, ..point() },
            CheckPoint { transcript: [4; 32], ..point() },
        ];
        for p in elsewhere {
            assert!(c.verify(&p, Purpose::Coin, Slot(1), &o).is_err(), "{p:?}");
        }
        // ... nor as the other commitment of the same check.
        let (c, o) = Commitment::commit(&point(), Purpose::Sigma, Slot(1), [9; 32], &[]);
        assert!(c.verify(&point(), Purpose::Coin, Slot(1), &o).is_err());
    }

    #[test]
    fn a_coin_takes_every_node_of_one_check_once_and_in_order() {
        let good = parts(&point(), 3);
        let coin = Coin::toss(&point(), 3, &good).unwrap();
        assert_eq!(Coin::toss(&point(), 3, &good).unwrap(), coin);

        let missing = &good[..2];
        let swapped = [good[1].clone(), good[0].clone(), good[2].clone()];
        let doubled = [good[0].clone(), good[0].clone(), good[2].clone()];
        let late = parts(&CheckPoint { check: 3, ..point() }, 3);
        let mixed = [good[0].clone(), good[1].clone(), late[2].clone()];
        for bad in [missing, &swapped[..], &doubled, &mixed] {
            assert!(matches!(Coin::toss(&point(), 3, bad), Err(TranscriptError::CoinParts { expected: 3, .. })));
        }
        assert!(Coin::toss(&point(), 3, &[]).unwrap_err().to_string().ends_with("found none"));
    }

    #[test]
    fn every_nonce_moves_the_coin() {
        let reference = Coin::toss(&point(), 3, &parts(&point(), 3)).unwrap();
        for i in 0..3 {
            let mut changed = parts(&point(), 3);
            changed[i].nonce[0] ^= 1;
            assert_ne!(Coin::toss(&point(), 3, &changed).unwrap(), reference);
        }
        assert_ne!(reference.key().0, reference.digest());
    }

    #[test]
    fn the_hashes_are_frozen() {
        let (c, _) = Commitment::commit(&point(), Purpose::Sigma, Slot(4), [9; 32], &7u64.to_le_bytes());
        insta::assert_snapshot!(crate::keys::hex(&c.0), @"c66be9ad6d5acf5f820bbe4124305e483b25873f4f42c89b9aa618970d860a2d");
        let coin = Coin::toss(&point(), 3, &parts(&point(), 3)).unwrap();
        insta::assert_snapshot!(crate::keys::hex(&coin.digest()), @"2e169bb5bce430cfd5ce7a66f07913ec49a479eb7f8633a1213176ac5ab49eb0");
    }
}
