//! Who somebody is: one secret key per owner or node, and its public half.
//!
//! Everything a party needs comes from one 32-byte seed, by BLAKE3's
//! `derive_key` with a context string for each purpose, so that no two
//! purposes ever share bytes:
//!
//! - **identity**: an Ed25519 key (RFC 8032) that signs manifests, segments and
//!   receipts and authenticates the party in TLS;
//! - **sealing**: an X25519 key to which outputs are sealed ([`seal`](crate::seal));
//! - **dealing**: the key from which an owner's correlated randomness is expanded;
//! - **keeping**: the key under which a node seals the state of its jobs on its disk.
//!
//! There is one type for owners and nodes. This room knows nothing of jobs,
//! sockets or shares; what a signature means is said by its domain.
//!
//! # A lost key
//!
//! The seed exists in the key file and nowhere else. Whoever loses it loses
//! every result that was sealed to it and all material dealt from it: nodes
//! hold shares and sealed bytes only, and nobody can recover either. Whoever
//! *finds* it is the owner in every respect. Keep an offline copy of the file.

mod file;
mod public;
#[cfg(test)]
mod tests;

use ed25519_dalek::{Signer, SigningKey};
use hpke::{Kem, Serializable, kem::X25519HkdfSha256};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

#[cfg(feature = "net")]
pub(crate) use self::file::sync_parent;
pub use self::public::{PublicKey, Signature, identity_from_spki};
use crate::prg::PrgKey;

/// An owner's or a node's secret key. Wiped on drop; it cannot be printed,
/// compared or cloned (share it in an `Arc`).
pub struct SecretKey {
    seed: Zeroizing<[u8; 32]>,
    /// expanded once, because every frame of a job may be signed
    identity: SigningKey,
    public: PublicKey,
}

impl ZeroizeOnDrop for SecretKey {}

/// Why a key, its text form or its file was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The operating system gave no randomness.
    #[error("the operating system's random generator failed ({0}): no key can be made on this machine")]
    NoRandomness(getrandom::Error),
    /// The text is not a public key.
    #[error("not a public key: {0}; expected bd1 and 136 lowercase hex digits, as `beaverdam keygen` prints them")]
    Text(&'static str),
    /// The 64 bytes are not a usable pair of curve points.
    #[error("not a usable public key: {0}")]
    Point(&'static str),
    /// A signature does not verify.
    #[error("the signature of {signer} over this {domain} is wrong: the bytes were changed or another key signed them")]
    Signature {
        /// short form of the key that should have signed
        signer: String,
        /// what was signed
        domain: &'static str,
    },
    /// A file could not be read or written.
    #[error("cannot {action} key file {path}: {source}")]
    Io {
        /// what was tried
        action: &'static str,
        /// the file
        path: String,
        /// the cause
        source: std::io::Error,
    },
    /// [`SecretKey::save`] never overwrites.
    #[error("{path} exists already and keys are never overwritten: choose another path or move the file away")]
    Exists {
        /// the file
        path: String,
    },
    /// Group or others may read the file.
    #[error("{path} has mode {mode:04o}, so other users could read this key: run `chmod 600 {path}`")]
    Exposed {
        /// the file
        path: String,
        /// its permission bits
        mode: u32,
    },
    /// The first line names no version that this release knows.
    #[error("{path} is not a key file of this release: its first line should be `{}`", file::HEADER)]
    Version {
        /// the file
        path: String,
    },
    /// The file is cut off or changed.
    #[error("key file {path} is damaged: {what}; restore it from a copy")]
    Damaged {
        /// the file
        path: String,
        /// what is wrong
        what: &'static str,
    },
    /// The file is encrypted and no passphrase was given.
    #[error("key file {path} is protected: give its passphrase")]
    PassphraseNeeded {
        /// the file
        path: String,
    },
    /// A passphrase was given for a file that is not encrypted.
    #[error("key file {path} is not protected by a passphrase, but one was given: is this the right file?")]
    NotProtected {
        /// the file
        path: String,
    },
    /// Decryption failed.
    #[error("wrong passphrase for key file {path} (or its protected part was changed)")]
    WrongPassphrase {
        /// the file
        path: String,
    },
    /// An empty passphrase protects nothing.
    #[error("the passphrase is empty: give one, or none to rely on the file's mode alone")]
    EmptyPassphrase,
}

impl SecretKey {
    /// A fresh key from the operating system's generator.
    ///
    /// # Errors
    /// [`KeyError::NoRandomness`] if the system has none to give.
    pub fn generate() -> Result<Self, KeyError> {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *seed).map_err(KeyError::NoRandomness)?;
        Ok(Self::from_seed(*seed))
    }

    /// The key of a seed of 32 uniform secret bytes, such as another key store
    /// keeps. Wipe your own copy.
    pub fn from_seed(mut bytes: [u8; 32]) -> Self {
        let seed = Zeroizing::new(bytes);
        bytes.zeroize();
        let identity = SigningKey::from_bytes(&derive(&seed, "beaverdam v1 identity: Ed25519 seed"));
        let (_, sealing) = X25519HkdfSha256::derive_keypair(&*derive(&seed, SEALING));
        let public = PublicKey::derived(identity.verifying_key().to_bytes(), sealing.to_bytes().into());
        Self { seed, identity, public }
    }

    /// A reproducible key **for tests only**: whoever knows the number and the
    /// label holds the key. Equal arguments give equal keys; a label names the
    /// party ("owner", "node 3").
    pub fn insecure_from_seed(seed: u64, label: &str) -> Self {
        let mut hash = blake3::Hasher::new_derive_key("beaverdam v1 INSECURE reproducible test key");
        hash.update(&seed.to_le_bytes()).update(label.as_bytes());
        Self::from_seed(*hash.finalize().as_bytes())
    }

    /// The public half, which names this party everywhere.
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// The key from which an owner's PRSS keys, SPDZ streams and MAC keys are
    /// derived, per job nonce. Independent of identity and sealing.
    pub fn dealing(&self) -> PrgKey {
        PrgKey(*derive(&self.seed, "beaverdam v1 dealing: correlated randomness"))
    }

    /// The key under which a node keeps on disk what it alone may make and read. Independent
    /// of the others.
    #[cfg(any(feature = "net", test))]
    pub(crate) fn keeping(&self) -> PrgKey {
        PrgKey(*derive(&self.seed, "beaverdam v1 keeping: a node's own checkpoints"))
    }

    /// Signs a message as one of a kind: the signature is Ed25519 over
    /// BLAKE3(domain's length, domain, message), so it never verifies as
    /// another kind. The domain is a constant of the program ("manifest").
    /// Constant time in the key; 64 bytes.
    pub fn sign(&self, domain: &'static str, message: &[u8]) -> Signature {
        Signature(self.identity.sign(&public::digest(domain, message)).to_bytes())
    }

    /// The identity as PKCS #8 v2 DER (RFC 5958 and 8410), which TLS libraries
    /// take. It holds the secret: 83 bytes, wiped on drop.
    pub fn identity_pkcs8(&self) -> Zeroizing<Vec<u8>> {
        // version 1, OID 1.3.101.112, OCTET STRING in OCTET STRING, [1] BIT STRING
        const BEFORE_SEED: [u8; 16] = [0x30, 0x51, 2, 1, 1, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
        const BEFORE_PUBLIC: [u8; 3] = [0x81, 0x21, 0];
        let mut der = Zeroizing::new(Vec::with_capacity(83));
        der.extend_from_slice(&BEFORE_SEED);
        der.extend_from_slice(self.identity.as_bytes());
        der.extend_from_slice(&BEFORE_PUBLIC);
        der.extend_from_slice(self.public.identity());
        der
    }

    /// The HPKE private key of this party (RFC 9180, 7.1.3 `DeriveKeyPair`).
    pub(crate) fn sealing(&self) -> <X25519HkdfSha256 as Kem>::PrivateKey {
        X25519HkdfSha256::derive_keypair(&*derive(&self.seed, SEALING)).0
    }
}

const SEALING: &str = "beaverdam v1 sealing: HPKE X25519 key material";

fn derive(seed: &[u8; 32], context: &'static str) -> Zeroizing<[u8; 32]> {
    Zeroizing::new(blake3::derive_key(context, seed))
}

/// Lowercase hex of public bytes.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Exactly N bytes of lowercase hex; `None` for anything else. Not constant
/// time in *where* a bad digit stands, which is no secret of a good file.
pub(crate) fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    let text = text.as_bytes();
    if text.len() != 2 * N {
        return None;
    }
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(out)
}
