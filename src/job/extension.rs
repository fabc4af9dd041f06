//! More attempts for a job under way: what its owner signs, beside the manifest, before it deals
//! them (docs/protocols.md, 16, rule 28).
//!
//! It says how many there are in all, no more: what is dealt for each follows from the manifest's
//! nonce, and each segment is signed for its attempt.

use serde::{Deserialize, Serialize};

use super::{CheckedManifest, MAX_ATTEMPTS, PROTOCOL};
use crate::keys::{SecretKey, Signature, hex};

const SIGNED: &str = "extension";

/// What the owner signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Extension {
    /// [`PROTOCOL`]; always the first field
    protocol: u16,
    /// the manifest's digest
    manifest: [u8; 32],
    /// dealt copies of the material in all, those of the manifest among them
    attempts: u32,
}

/// An extension with its owner's signature, as it travels; not yet checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedExtension {
    extension: Extension,
    signature: Signature,
}

/// Why an extension was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExtensionError {
    /// Bytes that are no extension in its one encoding.
    #[error("{found} bytes are no signed statement of more attempts: use the same release everywhere")]
    Malformed {
        /// bytes found
        found: usize,
    },
    /// Another protocol version.
    #[error(
        "the statement of more attempts is of protocol version {found}, this program speaks {PROTOCOL}: use the same release everywhere"
    )]
    Version {
        /// version found
        found: u16,
    },
    /// Another key has signed, or would.
    #[error("the statement of more attempts is not signed by the job's owner {owner}: refuse it")]
    Signature {
        /// short form of the owner's key
        owner: String,
    },
    /// It is about another job.
    #[error("the statement of more attempts is for job {found}…, this is job {expected}…: give the job's own ticket")]
    Job {
        /// start of the manifest's digest in it
        found: String,
        /// start of this manifest's
        expected: String,
    },
    /// A job that nodes keep nothing of, since it has one attempt.
    #[error(
        "the job has one attempt, so its nodes keep nothing that it could go on from: submit it with --attempts 2 or more"
    )]
    One,
    /// Too few, or too many.
    #[error("{found} attempts in all are to be dealt, expected more than {signed}, and at most {MAX_ATTEMPTS}")]
    Attempts {
        /// how many
        found: u32,
        /// how many the manifest names
        signed: u32,
    },
}

impl SignedExtension {
    /// Signs that so many attempts are dealt in all, after the checks that nodes will make of it.
    pub fn sign(owner: &SecretKey, manifest: &CheckedManifest, attempts: u32) -> Result<Self, ExtensionError> {
        if owner.public() != manifest.manifest().owner {
            return Err(ExtensionError::Signature { owner: manifest.manifest().owner.short() });
        }
        let extension = Extension { protocol: PROTOCOL, manifest: manifest.digest(), attempts };
        extension.check(manifest)?;
        Ok(Self { extension, signature: owner.sign(SIGNED, &extension.to_bytes()) })
    }

    /// The wire and file form.
    pub fn to_bytes(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("plain integers and bytes always encode")
    }

    /// Reads the wire form, and says how many attempts of this job are dealt in all.
    pub fn verify(bytes: &[u8], manifest: &CheckedManifest) -> Result<u32, ExtensionError> {
        let malformed = ExtensionError::Malformed { found: bytes.len() };
        // The version stands first, so that another release is told apart from garbage.
        match postcard::take_from_bytes::<u16>(bytes) {
            Ok((PROTOCOL, _)) => {}
            Ok((found, _)) => return Err(ExtensionError::Version { found }),
            Err(_) => return Err(malformed),
        }
        let Ok((signed, [])) = postcard::take_from_bytes::<Self>(bytes) else { return Err(malformed) };
        if signed.to_bytes() != bytes {
            return Err(malformed);
        }
        let (Self { extension, signature }, owner) = (signed, &manifest.manifest().owner);
        if owner.verify(SIGNED, &extension.to_bytes(), &signature).is_err() {
            return Err(ExtensionError::Signature { owner: owner.short() });
        }
        extension.check(manifest)?;
        Ok(extension.attempts)
    }
}

impl Extension {
    fn to_bytes(self) -> Vec<u8> {
        postcard::to_stdvec(&self).expect("plain integers and bytes always encode")
    }

    fn check(&self, manifest: &CheckedManifest) -> Result<(), ExtensionError> {
        if self.manifest != manifest.digest() {
            let short = |digest: &[u8; 32]| hex(&digest[..8]);
            return Err(ExtensionError::Job { found: short(&self.manifest), expected: short(&manifest.digest()) });
        }
        if !manifest.has_attempts() {
            return Err(ExtensionError::One);
        }
        let (found, signed) = (self.attempts, manifest.manifest().attempts);
        if found <= signed || found > MAX_ATTEMPTS {
            return Err(ExtensionError::Attempts { found, signed });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::manifest::tests::{checked, checked_spdz, node, owner};

    /// Signs whatever an attacker with a key likes, unchecked.
    fn forged(key: &SecretKey, extension: Extension) -> Vec<u8> {
        SignedExtension { extension, signature: key.sign(SIGNED, &extension.to_bytes()) }.to_bytes()
    }

    fn extension(manifest: &CheckedManifest) -> Extension {
        Extension { protocol: PROTOCOL, manifest: manifest.digest(), attempts: 5 }
    }

    #[test]
    fn its_form_is_frozen() {
        let manifest = checked_spdz("");
        let signed = SignedExtension::sign(&owner(), &manifest, 5).unwrap();
        assert_eq!(SignedExtension::verify(&signed.to_bytes(), &manifest), Ok(5));
        let form = Extension { protocol: 1, manifest: [7; 32], attempts: 300 };
        insta::assert_snapshot!(hex(&forged(&owner(), form)), @"010707070707070707070707070707070707070707070707070707070707070707ac026c10c10ad692e0e0bd656598c2bc189f533981d85af3d5009e681357a84e600ac37ded0cb0b5716a9127affe1d8eaae6e9b2d40b50b3e6f882d5a63702f6bb0c");
    }

    #[test]
    fn another_jobs_another_signers_and_other_numbers_are_refused() {
        let manifest = checked_spdz("");
        let refused = |bytes: &[u8]| SignedExtension::verify(bytes, &manifest).unwrap_err();
        let good = extension(&manifest);
        assert_eq!(SignedExtension::verify(&forged(&owner(), good), &manifest), Ok(5));
        assert!(matches!(refused(&forged(&node(1), good)), ExtensionError::Signature { .. }));
        let other = forged(&owner(), extension(&checked_spdz("another")));
        assert!(matches!(refused(&other), ExtensionError::Job { .. }));
        // A replayed statement, or one that takes attempts back, or too many.
        for attempts in [0, 1, 3, MAX_ATTEMPTS + 1, u32::MAX] {
            let bytes = forged(&owner(), Extension { attempts, ..good });
            assert_eq!(refused(&bytes), ExtensionError::Attempts { found: attempts, signed: 3 });
            assert!(SignedExtension::sign(&owner(), &manifest, attempts).is_err());
        }
        let newer = forged(&owner(), Extension { protocol: PROTOCOL + 1, ..good });
        assert_eq!(refused(&newer), ExtensionError::Version { found: PROTOCOL + 1 });
        assert!(matches!(SignedExtension::sign(&node(1), &manifest, 5), Err(ExtensionError::Signature { .. })));
        // A Shamir job, of whatever number of attempts.
        let shamir = checked();
        let bytes = forged(&owner(), extension(&shamir));
        assert_eq!(SignedExtension::verify(&bytes, &shamir), Err(ExtensionError::One));
    }

    #[test]
    fn each_byte_counts() {
        let manifest = checked_spdz("");
        let bytes = forged(&owner(), extension(&manifest));
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(SignedExtension::verify(&changed, &manifest).is_err(), "byte {at}");
            assert!(SignedExtension::verify(&bytes[..at], &manifest).is_err(), "{at} bytes");
        }
        assert!(SignedExtension::verify(&[&bytes[..], &[0]].concat(), &manifest).is_err());
        // The same number in two bytes.
        let longer = [&bytes[..33], &[0x85, 0x00], &bytes[34..]].concat();
        assert!(matches!(SignedExtension::verify(&longer, &manifest), Err(ExtensionError::Malformed { .. })));
    }
}
