//! Pseudorandom field elements, addressed by what they are for.
//!
//! A 32-byte key, shared by the holders of a PRSS subset (or owned by one SPDZ
//! slot), and an [`Address`] give a [`Stream`]; word i of a stream is a fixed
//! function of both. Owner and nodes therefore derive the same material
//! without talking, in any order, on any backend. Nothing is ever drawn twice:
//! an address names one use, and material is addressed by the plan.
//!
//! Word i is the low 61 bits of the little-endian u64 at byte 8·i of the
//! ChaCha20 key stream (RFC 8439, zero nonce, counter from 0). The one value
//! that is no field element, p itself (probability 2^−61), is replaced by the
//! word at the same index of a second stream, and so on.

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// A 32-byte key from which streams are derived. Wiped on drop, never printed.
#[derive(Clone, Zeroize, ZeroizeOnDrop, Serialize, Deserialize)]
pub struct PrgKey(pub [u8; 32]);

/// What a stream is for; each kind is a domain of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum Domain {
    /// value shares of material and inputs (PRSS words, SPDZ value shares)
    Value = 1,
    /// SPDZ MAC shares
    Mac = 2,
    /// PRSS zero sharings of degree 2t
    Zero = 3,
}

/// One use of pseudorandom words inside one job (the job's nonce is in the key).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Address {
    /// what for
    pub domain: Domain,
    /// inputs and material ops are numbered apart
    pub input: bool,
    /// number of the material op in the plan (it includes the iteration), or of the input
    pub op: u32,
    /// part of the material op
    pub part: u8,
    /// which dealt copy
    pub attempt: u32,
}

/// The ChaCha20 key of one address: words are drawn from it by index.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Stream {
    key: [u8; 32],
}
