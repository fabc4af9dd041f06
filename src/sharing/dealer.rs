//! The owner's half of a sharing: the keys of a job, what the nodes' drawn
//! shares add up to, the public corrections that turn them into sharings of
//! chosen values, and the verification of outputs.
//!
//! A dealer knows every secret of its job, so it must be the data's only
//! owner; who computes on the data of others must not deal for them. It
//! performs no round and knows no program.

use std::collections::BTreeMap;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::shamir::{self, ShamirDealer};
use super::spdz::{self, SpdzDealer};
use super::{DecodeError, SharingError};
use crate::field::Fp61;
use crate::prg::{Address, PrgKey};
use crate::roster::{Roster, Scheme, Slot, Subset};

/// Words that one core derives at a time.
const CHUNK: usize = 1 << 13;

/// The dealer of one job: derives all its keys from the owner's dealing key
/// and the job's nonce. A nonce must never serve two jobs: equal keys and
/// addresses give equal masks, and the difference of two masked inputs is the
/// difference of the inputs.
pub fn job_keys(dealing: &PrgKey, nonce: &[u8; 32], roster: Roster) -> Box<dyn Dealer> {
    let scheme = match roster.scheme() {
        Scheme::Shamir => 1,
        Scheme::Spdz => 2,
    };
    let context = [nonce.as_slice(), &[scheme, roster.nodes(), roster.threshold()]].concat();
    let job = dealing.derive("beaverdam v1 job key", &context);
    match roster.scheme() {
        Scheme::Shamir => Box::new(ShamirDealer::new(roster, &job)),
        Scheme::Spdz => Box::new(SpdzDealer::new(roster, &job)),
    }
}

/// The owner's half of a sharing scheme in one job.
pub trait Dealer: Send + Sync {
    /// Scheme, n and t.
    fn roster(&self) -> Roster;
    /// What a node at the slot is given.
    fn slot_keys(&self, slot: Slot) -> SlotKeys;
    /// The hashes of all keys for the manifest: Shamir, one per subset in the
    /// order of [`Roster::subsets`]; SPDZ, one per slot.
    fn key_hashes(&self) -> Vec<KeyHash>;

    /// The values that the nodes' pseudorandom shares at an address stand for,
    /// from word `first` on. Costs one expansion per key.
    fn uniform_range(&self, address: Address, first: u64, out: &mut [Fp61]);
    /// The packed bits that the nodes' uniform shares over GF(2) stand for, from
    /// packed word `first` on, are added to `out`; of [`Roster::packs_bits`] alone.
    fn uniform_bits_range(&self, address: Address, first: u64, out: &mut [u64]);
    /// The MAC corrections for values from word `first` on, if the scheme has
    /// MACs. Costs one expansion per key.
    fn mac_corrections_range(&self, address: Address, first: u64, values: &[Fp61]) -> Option<Vec<Fp61>>;
    /// Puts an output of n words together from what the nodes sealed
    /// ([`Sharing::output`](super::Sharing::output), one vector after the
    /// other), and refuses it unless it is certainly what they hold.
    fn verify_output(&self, n: usize, shares: &[(Slot, Vec<Fp61>)]) -> Result<Verified, OutputError>;

    /// n words of [`Dealer::uniform_range`] from the first on, on all cores.
    fn uniform(&self, address: Address, n: usize) -> Zeroizing<Vec<Fp61>> {
        let mut out = Zeroizing::new(vec![Fp61::ZERO; n]);
        out.par_chunks_mut(CHUNK)
            .enumerate()
            .for_each(|(i, chunk)| self.uniform_range(address, (i * CHUNK) as u64, chunk));
        out
    }
    /// The value corrections x − uniform for values from word `first` on.
    fn value_corrections_range(&self, address: Address, first: u64, values: &[Fp61]) -> Vec<Fp61> {
        let mut drawn = Zeroizing::new(vec![Fp61::ZERO; values.len()]);
        self.uniform_range(address, first, &mut drawn);
        values.iter().zip(drawn.iter()).map(|(x, drawn)| *x - *drawn).collect()
    }
    /// Δ for a draw of n words, in the layout of
    /// [`Sharing::draw`](super::Sharing::draw): with `values` they are dealt,
    /// without the value is uniform. Works on all cores.
    fn corrections(&self, address: Address, n: usize, values: Option<&[Fp61]>) -> Vec<Fp61> {
        let window = |(i, chunk): (usize, &[Fp61])| {
            let first = (i * CHUNK) as u64;
            let value = if values.is_some() { self.value_corrections_range(address, first, chunk) } else { Vec::new() };
            (value, self.mac_corrections_range(address, first, chunk).unwrap_or_default())
        };
        let uniform = if values.is_none() && self.roster().scheme() == Scheme::Spdz {
            self.uniform(address, n)
        } else {
            Zeroizing::default()
        };
        let values: &[Fp61] = values.unwrap_or(&uniform);
        let (mut delta, macs): (Vec<_>, Vec<_>) = values.par_chunks(CHUNK).enumerate().map(window).unzip();
        delta.extend(macs);
        delta.concat()
    }
}

/// What one node is given for one job. Wiped on drop; it is serialised only to
/// be sealed to the node.
#[derive(Clone, Serialize, Deserialize)]
pub enum SlotKeys {
    /// the keys of the subsets that contain the slot
    Shamir(BTreeMap<Subset, PrgKey>),
    /// the slot's own key
    Spdz(PrgKey),
}

impl SlotKeys {
    /// Whether these are exactly the keys of the slot that the manifest's
    /// hashes ([`Dealer::key_hashes`]) name: then all holders of a subset key
    /// hold the same one.
    pub fn check(&self, hashes: &[KeyHash], roster: Roster, slot: Slot) -> Result<(), SharingError> {
        let expected = match roster.scheme() {
            Scheme::Shamir => roster.subsets().len(),
            Scheme::Spdz => usize::from(roster.nodes()),
        };
        if hashes.len() != expected {
            return Err(SharingError::Hashes { found: hashes.len(), expected, roster });
        }
        match self {
            SlotKeys::Shamir(keys) => {
                shamir::check_keys(roster, slot, keys.keys().copied())?;
                let named: BTreeMap<Subset, &KeyHash> = roster.subsets().into_iter().zip(hashes).collect();
                match keys.iter().find(|(subset, key)| *named[subset] != KeyHash::of(key)) {
                    Some((subset, _)) => Err(SharingError::WrongKey { slot, of: Some(*subset) }),
                    None => Ok(()),
                }
            }
            SlotKeys::Spdz(key) => {
                spdz::check_slot(roster, slot)?;
                if hashes[slot.index()] != KeyHash::of(key) {
                    return Err(SharingError::WrongKey { slot, of: None });
                }
                Ok(())
            }
        }
    }
}

/// BLAKE3 of a key under a domain of its own. It hides the key, which has 256
/// bits of entropy, and binds its holders to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyHash(pub [u8; 32]);

impl KeyHash {
    /// The hash of a key.
    pub fn of(key: &PrgKey) -> Self {
        Self(blake3::derive_key("beaverdam v1 key hash", &key.0))
    }
}

/// A verified output: secret to its reader, wiped on drop.
pub struct Verified {
    /// the output's words
    pub words: Zeroizing<Vec<Fp61>>,
    /// slots whose shares were wrong and were corrected, ascending
    pub blamed: Vec<Slot>,
}

/// Shares of an output were refused; nothing of it is known to be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OutputError {
    /// Too few nodes gave shares.
    #[error("{found} nodes gave shares of an output, {roster} needs {needed}: fetch it from more nodes")]
    TooFew {
        /// nodes that gave shares
        found: usize,
        /// nodes needed
        needed: usize,
        /// under this roster
        roster: Roster,
    },
    /// A slot outside the roster, or one slot twice.
    #[error("shares of an output came twice from {slot}, or it is not in {roster}: expected each slot once")]
    Sender {
        /// the slot
        slot: Slot,
        /// the roster
        roster: Roster,
    },
    /// A MAC does not fit its word.
    #[error(
        "word {word} of an output does not fit its MAC: a node sent wrong shares, nobody can say which; discard the output"
    )]
    Mac {
        /// the first such word
        word: usize,
    },
    /// The shares have a wrong length or lie on no polynomial.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

/// The shares of an output by slot: each slot of the roster at most once, each
/// with the expected number of words.
pub(super) fn by_slot(
    roster: Roster,
    expected: usize,
    shares: &[(Slot, Vec<Fp61>)],
) -> Result<BTreeMap<Slot, &[Fp61]>, OutputError> {
    let mut sorted = BTreeMap::new();
    for (slot, words) in shares {
        if words.len() != expected {
            return Err(DecodeError::Length { from: *slot, found: words.len(), expected }.into());
        }
        if !roster.has(*slot) || sorted.insert(*slot, words.as_slice()).is_some() {
            return Err(OutputError::Sender { slot: *slot, roster });
        }
    }
    Ok(sorted)
}
