//! Outputs sealed to their reader: HPKE in base mode (RFC 9180) with
//! DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and ChaCha20Poly1305.
//!
//! Each node seals its share of an output to the reader that the manifest
//! names. [`SealInfo`] says what the bytes are and enters the key schedule, so
//! a sealed share that somebody moves to another output, reader, job or sender
//! does not open. Sealing hides and binds but does not *authenticate*: anybody
//! can seal to a public key. That a share comes from its node is said by the
//! node's signed receipt over the sealed bytes, and that it is right by the
//! redundancy of the shares.
//!
//! A reader whose secret key leaks loses all results ever sealed to it: there
//! is no forward secrecy on the reader's side. Lengths are not hidden.

use chacha20::cipher::inout::InOutBuf;
use chacha20::{ChaCha20Rng, rand_core::SeedableRng};
use hpke::{
    Deserializable, Kem, OpModeR, OpModeS, Serializable, aead::ChaCha20Poly1305, kdf::HkdfSha256, kem::X25519HkdfSha256,
};
use rand_core::CryptoRng;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{
    keys::{PublicKey, SecretKey},
    roster::Slot,
};

/// What a sealed share is: opens only where all four agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealInfo {
    /// digest of the job's signed manifest
    pub manifest: [u8; 32],
    /// number of the output in the program
    pub output: u32,
    /// the node whose share it is
    pub sender: Slot,
    /// who may read it
    pub reader: PublicKey,
}

/// A sealed share: 48 bytes longer than what it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// the sender's ephemeral X25519 key
    pub encapsulated: [u8; 32],
    /// ciphertext and its 16-byte tag
    #[serde(with = "serde_bytes")]
    pub ciphertext: Vec<u8>,
}

/// Why something could not be sealed or opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// The operating system gave no randomness.
    #[error("output {output} cannot be sealed: the operating system's random generator failed ({cause})")]
    NoRandomness {
        /// number of the output
        output: u32,
        /// what the system said
        cause: getrandom::Error,
    },
    /// The cipher refused, which happens past 256 GiB only.
    #[error("output {output} of {bytes} bytes is too long to be sealed at once")]
    TooLong {
        /// number of the output
        output: u32,
        /// its length
        bytes: usize,
    },
    /// The key at hand is not the reader's.
    #[error("output {output} is for the key {reader}, but the key at hand is {found}: fetch it with the reader's key")]
    NotTheReader {
        /// number of the output
        output: u32,
        /// short form of the reader's key
        reader: String,
        /// short form of the key at hand
        found: String,
    },
    /// Decryption failed.
    #[error(
        "the share of output {output} sealed by {sender} does not open: its bytes were changed, or it belongs to another job, output, sender or reader"
    )]
    Open {
        /// the node whose share it should be
        sender: Slot,
        /// number of the output
        output: u32,
    },
}

type Suite = X25519HkdfSha256;

/// Seals bytes to `info.reader` with an ephemeral key from the operating
/// system's generator. Two X25519 multiplications, then the cipher's speed.
///
/// # Errors
/// [`SealError::NoRandomness`] if the system has none to give.
pub fn seal(info: &SealInfo, plaintext: &[u8]) -> Result<Sealed, SealError> {
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *seed).map_err(|cause| SealError::NoRandomness { output: info.output, cause })?;
    seal_with(info, plaintext, &mut ChaCha20Rng::from_seed(*seed))
}

/// [`seal`] with the caller's generator, for jobs marked insecure that must be
/// reproducible. Whoever can predict the generator reads the plaintext, and one
/// state of it must not seal two plaintexts under the same `info`.
///
/// # Errors
/// [`SealError::TooLong`] at the cipher's limit.
pub fn seal_with(info: &SealInfo, plaintext: &[u8], rng: &mut impl CryptoRng) -> Result<Sealed, SealError> {
    let mut ciphertext = vec![0; plaintext.len() + TAG];
    let encapsulated = seal_into(info, plaintext, &mut ciphertext, rng)?;
    Ok(Sealed { encapsulated, ciphertext })
}

/// The wire form of what [`seal_with`] gives, written by the cipher itself: a long share is
/// not copied.
pub(crate) fn seal_to_bytes(info: &SealInfo, plaintext: &[u8], rng: &mut impl CryptoRng) -> Result<Vec<u8>, SealError> {
    let sealed = plaintext.len() + TAG;
    let len = postcard::to_stdvec(&sealed).expect("a number always encodes");
    let head = ENCAPSULATED + len.len();
    let mut out = vec![0; head + sealed];
    let encapsulated = seal_into(info, plaintext, &mut out[head..], rng)?;
    out[..ENCAPSULATED].copy_from_slice(&encapsulated);
    out[ENCAPSULATED..head].copy_from_slice(&len);
    Ok(out)
}

/// Bytes of an encapsulated key, and those that a ciphertext is longer than its plaintext.
const ENCAPSULATED: usize = 32;
const TAG: usize = 16;

/// Writes ciphertext and tag; the encapsulated key.
fn seal_into(
    info: &SealInfo,
    plaintext: &[u8],
    out: &mut [u8],
    rng: &mut impl CryptoRng,
) -> Result<[u8; ENCAPSULATED], SealError> {
    let bytes = plaintext.len();
    let too_long = SealError::TooLong { output: info.output, bytes };
    let sealed = <Suite as Kem>::PublicKey::from_bytes(info.reader.sealing()).and_then(|reader| {
        hpke::single_shot_seal_inout_detached_with_rng::<ChaCha20Poly1305, HkdfSha256, Suite>(
            &OpModeS::Base,
            &reader,
            &info.encode(),
            InOutBuf::new(plaintext, &mut out[..bytes]).expect("as long as what is written"),
            &[],
            rng,
        )
    });
    let Ok((encapsulated, tag)) = sealed else { return Err(too_long) };
    out[bytes..].copy_from_slice(&tag.to_bytes());
    Ok(encapsulated.to_bytes().into())
}

/// Opens what a node sealed; the plaintext is wiped on drop. Nothing is said of
/// *why* a share does not open, since every cause looks alike.
///
/// # Errors
/// [`SealError::NotTheReader`] before anything is tried, [`SealError::Open`]
/// naming sender and output if the bytes are not what `info` says.
pub fn open(secret: &SecretKey, info: &SealInfo, sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>, SealError> {
    if secret.public() != info.reader {
        return Err(SealError::NotTheReader {
            output: info.output,
            reader: info.reader.short(),
            found: secret.public().short(),
        });
    }
    let refused = |_| SealError::Open { sender: info.sender, output: info.output };
    let encapsulated = <Suite as Kem>::EncappedKey::from_bytes(&sealed.encapsulated).map_err(refused)?;
    hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, Suite>(
        &OpModeR::Base,
        &secret.sealing(),
        &encapsulated,
        &info.encode(),
        &sealed.ciphertext,
        &[],
    )
    .map(Zeroizing::new)
    .map_err(refused)
}

impl SealInfo {
    /// The `info` of HPKE: a label with the version, then every field at a
    /// fixed length, so that two infos never encode alike.
    fn encode(&self) -> Vec<u8> {
        let mut out = b"beaverdam v1 sealed output".to_vec();
        out.extend_from_slice(&self.manifest);
        out.extend_from_slice(&self.output.to_le_bytes());
        out.push(self.sender.0);
        out.extend_from_slice(&self.reader.to_bytes());
        out
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reader() -> SecretKey {
        SecretKey::insecure_from_seed(1, "reader")
    }

    fn info() -> SealInfo {
        SealInfo { manifest: [7; 32], output: 3, sender: Slot(2), reader: reader().public() }
    }

    fn does_not_open(info: &SealInfo, sealed: &Sealed) {
        let error = open(&reader(), info, sealed).expect_err("a moved or changed share must not open");
        assert!(matches!(error, SealError::Open { sender, output } if sender == info.sender && output == info.output));
    }

    #[test]
    fn a_sealed_share_opens_for_its_reader() {
        for bytes in [vec![], vec![1], vec![9; 100_000]] {
            let sealed = seal(&info(), &bytes).unwrap();
            assert_eq!(sealed.ciphertext.len(), bytes.len() + 16);
            assert_eq!(*open(&reader(), &info(), &sealed).unwrap(), bytes);
        }
        for bytes in [vec![], vec![1; 111], vec![2; 112], vec![3; 20_000]] {
            let rng = || ChaCha20Rng::from_seed([1; 32]);
            let wire = postcard::to_stdvec(&seal_with(&info(), &bytes, &mut rng()).unwrap()).unwrap();
            assert_eq!(seal_to_bytes(&info(), &bytes, &mut rng()).unwrap(), wire);
        }
        let wire = postcard::to_stdvec(&seal(&info(), b"share").unwrap()).unwrap();
        assert_eq!(*open(&reader(), &info(), &postcard::from_bytes(&wire).unwrap()).unwrap(), b"share");
    }

    #[test]
    fn a_sealed_share_cannot_be_moved() {
        let sealed = seal(&info(), b"share").unwrap();
        let mut manifest = info();
        manifest.manifest[31] ^= 1;
        does_not_open(&manifest, &sealed);
        does_not_open(&SealInfo { output: 4, ..info() }, &sealed);
        does_not_open(&SealInfo { sender: Slot(3), ..info() }, &sealed);
        // Sealed to somebody else and handed to this reader.
        let other = SecretKey::insecure_from_seed(1, "other");
        let theirs = seal(&SealInfo { reader: other.public(), ..info() }, b"share").unwrap();
        does_not_open(&info(), &theirs);
        // Same sealing key, other identity: still another reader.
        let twin = PublicKey::new(*other.public().identity(), *reader().public().sealing()).unwrap();
        does_not_open(&info(), &seal(&SealInfo { reader: twin, ..info() }, b"share").unwrap());
    }

    #[test]
    fn another_key_is_told_whose_share_it_is() {
        let sealed = seal(&info(), b"share").unwrap();
        let other = SecretKey::insecure_from_seed(1, "other");
        let error = open(&other, &info(), &sealed).err().unwrap();
        assert!(matches!(error, SealError::NotTheReader { output: 3, .. }));
        assert!(error.to_string().contains(&reader().public().short()));
        // And the key itself does not fit, whatever the info claims.
        let claimed = SealInfo { reader: other.public(), ..info() };
        assert!(matches!(open(&other, &claimed, &sealed), Err(SealError::Open { .. })));
    }

    #[test]
    fn a_swapped_or_low_order_encapsulated_key_is_refused() {
        let (mut sealed, second) = (seal(&info(), b"share").unwrap(), seal(&info(), b"share").unwrap());
        assert_ne!(sealed, second, "each sealing has a fresh ephemeral key");
        for encapsulated in [second.encapsulated, [0; 32], [0xff; 32]] {
            sealed.encapsulated = encapsulated;
            does_not_open(&info(), &sealed);
        }
    }

    #[test]
    fn one_seed_gives_one_sealing() {
        let with = |seed| seal_with(&info(), b"share", &mut ChaCha20Rng::from_seed([seed; 32])).unwrap();
        assert_eq!(with(1), with(1));
        assert_ne!(with(1).encapsulated, with(2).encapsulated);
        assert_eq!(*open(&reader(), &info(), &with(1)).unwrap(), b"share");
    }

    proptest! {
        #[test]
        fn no_cut_or_changed_byte_opens(plain in proptest::collection::vec(any::<u8>(), 0..64), at: prop::sample::Index, flip in 1u8..) {
            let sealed = seal(&info(), &plain).unwrap();
            let mut cut = sealed.clone();
            cut.ciphertext.truncate(at.index(sealed.ciphertext.len()));
            does_not_open(&info(), &cut);
            let mut changed = sealed.clone();
            *at.get_mut(&mut changed.ciphertext) ^= flip;
            does_not_open(&info(), &changed);
            let mut longer = sealed;
            longer.ciphertext.push(flip);
            does_not_open(&info(), &longer);
        }
    }
}
