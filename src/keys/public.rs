//! The public half of a key, signatures, and their text and wire forms.

use std::{fmt, str::FromStr};

use curve25519_dalek::{MontgomeryPoint, traits::IsIdentity};
use ed25519_dalek::VerifyingKey;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::{KeyError, hex, unhex};

/// A party's name: the Ed25519 key that it signs with and the X25519 key that
/// results are sealed to. Only usable keys exist: both halves are canonical
/// encodings, the first of a point that is not weak, the second of one that is
/// not of low order.
///
/// Its text is `bd1`, the 64 bytes in lowercase hex, and 8 hex digits of a
/// checksum, 139 characters; a typo is noticed but for one chance in 2^32.
/// `serde` writes that text in human-readable formats, 64 bytes otherwise.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey {
    identity: [u8; 32],
    sealing: [u8; 32],
}

/// An Ed25519 signature over a message of one domain; 64 bytes, or their hex in
/// human-readable formats. It is checked by [`PublicKey::verify`], not before.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Signature(pub [u8; 64]);

/// SubjectPublicKeyInfo of an Ed25519 key up to the key itself (RFC 8410, 4).
const SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0];
const PREFIX: &str = "bd1";

impl PublicKey {
    /// Two halves that somebody sent, checked.
    ///
    /// # Errors
    /// [`KeyError::Point`], saying which half cannot be used.
    pub fn new(identity: [u8; 32], sealing: [u8; 32]) -> Result<Self, KeyError> {
        let point = VerifyingKey::from_bytes(&identity)
            .map_err(|_| KeyError::Point("its identity is no point of the Ed25519 curve"))?;
        if point.to_edwards().compress().to_bytes() != identity {
            return Err(KeyError::Point("its identity is not encoded canonically"));
        }
        // A weak key verifies signatures that nobody made.
        if point.is_weak() {
            return Err(KeyError::Point("its identity is a weak Ed25519 point"));
        }
        if !canonical_u(&sealing) {
            return Err(KeyError::Point("its sealing key is not encoded canonically"));
        }
        // With a low-order point everybody knows the "shared" secret (RFC 7748, 6.1):
        // any clamped scalar is a multiple of the cofactor and takes it to zero.
        if MontgomeryPoint(sealing).mul_clamped([0; 32]).is_identity() {
            return Err(KeyError::Point("its sealing key is a low-order X25519 point"));
        }
        Ok(Self { identity, sealing })
    }

    /// Halves that were computed from a secret key, so they are sound.
    pub(super) fn derived(identity: [u8; 32], sealing: [u8; 32]) -> Self {
        Self { identity, sealing }
    }

    /// The Ed25519 key, as TLS sees it.
    pub fn identity(&self) -> &[u8; 32] {
        &self.identity
    }

    /// The X25519 key that results are sealed to.
    pub fn sealing(&self) -> &[u8; 32] {
        &self.sealing
    }

    /// Identity, then sealing key.
    pub fn to_bytes(&self) -> [u8; 64] {
        let mut out = [0; 64];
        out[..32].copy_from_slice(&self.identity);
        out[32..].copy_from_slice(&self.sealing);
        out
    }

    /// The first 8 hex digits of the identity, for logs. Not unique against
    /// somebody who searches: compare whole keys.
    pub fn short(&self) -> String {
        hex(&self.identity[..4])
    }

    /// Whether this party signed the message as one of this domain. Strict
    /// (RFC 8032 with canonical R and S and no low-order points), so one
    /// message has one verdict everywhere and a signature cannot be varied.
    ///
    /// # Errors
    /// [`KeyError::Signature`], naming the key and the domain.
    pub fn verify(&self, domain: &'static str, message: &[u8], signature: &Signature) -> Result<(), KeyError> {
        VerifyingKey::from_bytes(&self.identity)
            .and_then(|key| {
                key.verify_strict(&digest(domain, message), &ed25519_dalek::Signature::from_bytes(&signature.0))
            })
            .map_err(|_| KeyError::Signature { signer: self.short(), domain })
    }

    /// The identity as SubjectPublicKeyInfo DER, 44 bytes: what a peer presents
    /// as its raw public key in TLS (RFC 7250).
    pub fn identity_spki(&self) -> Vec<u8> {
        [&SPKI[..], &self.identity].concat()
    }
}

/// The Ed25519 key in a SubjectPublicKeyInfo that a peer presented; `None` for
/// anything that is not exactly that. Compare it with [`PublicKey::identity`].
pub fn identity_from_spki(der: &[u8]) -> Option<[u8; 32]> {
    der.strip_prefix(&SPKI)?.try_into().ok()
}

/// What is signed: the domain's length stands before it, so that no two pairs
/// of domain and message run together.
pub(super) fn digest(domain: &str, message: &[u8]) -> [u8; 32] {
    let mut hash = blake3::Hasher::new_derive_key("beaverdam v1 signature");
    hash.update(&(domain.len() as u64).to_le_bytes()).update(domain.as_bytes()).update(message);
    *hash.finalize().as_bytes()
}

/// Whether a little-endian u-coordinate is below 2^255 − 19.
fn canonical_u(u: &[u8; 32]) -> bool {
    u[31] < 0x7f || u[31] == 0x7f && (u[1..31].iter().any(|&b| b != 0xff) || u[0] < 0xed)
}

fn checksum(bytes: &[u8; 64]) -> [u8; 4] {
    let hash = blake3::derive_key("beaverdam v1 public key checksum", bytes);
    [hash[0], hash[1], hash[2], hash[3]]
}

fn halves(bytes: [u8; 64]) -> ([u8; 32], [u8; 32]) {
    let (mut a, mut b) = ([0; 32], [0; 32]);
    a.copy_from_slice(&bytes[..32]);
    b.copy_from_slice(&bytes[32..]);
    (a, b)
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.to_bytes();
        write!(f, "{PREFIX}{}{}", hex(&bytes), hex(&checksum(&bytes)))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({})", hex(&self.0))
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;
    fn from_str(text: &str) -> Result<Self, KeyError> {
        let body = text.strip_prefix(PREFIX).ok_or(KeyError::Text("it does not begin with bd1"))?;
        if body.len() != 136 {
            return Err(KeyError::Text("it is too short or too long"));
        }
        let all: [u8; 68] = unhex(body).ok_or(KeyError::Text("it has a character that is no lowercase hex digit"))?;
        let mut bytes = [0; 64];
        bytes.copy_from_slice(&all[..64]);
        if checksum(&bytes) != all[64..] {
            return Err(KeyError::Text("its checksum is wrong, so a character was mistyped"));
        }
        let (identity, sealing) = halves(bytes);
        Self::new(identity, sealing)
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() { s.collect_str(self) } else { (self.identity, self.sealing).serialize(s) }
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        if d.is_human_readable() {
            String::deserialize(d)?.parse().map_err(D::Error::custom)
        } else {
            let (identity, sealing) = Deserialize::deserialize(d)?;
            Self::new(identity, sealing).map_err(D::Error::custom)
        }
    }
}

impl Serialize for Signature {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() { s.serialize_str(&hex(&self.0)) } else { halves(self.0).serialize(s) }
    }
}

impl<'de> Deserialize<'de> for Signature {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        if d.is_human_readable() {
            let text = String::deserialize(d)?;
            unhex(&text).map(Self).ok_or_else(|| D::Error::custom("a signature is 128 lowercase hex digits"))
        } else {
            let (r, s): ([u8; 32], [u8; 32]) = Deserialize::deserialize(d)?;
            let mut bytes = [0; 64];
            bytes[..32].copy_from_slice(&r);
            bytes[32..].copy_from_slice(&s);
            Ok(Self(bytes))
        }
    }
}
