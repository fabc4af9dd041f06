//! Where fresh randomness comes from: the operating system, or, for tests that
//! must be reproducible, a seed that anybody may know.

use chacha20::ChaCha20Rng;
use rand_core::{CryptoRng, SeedableRng};
use zeroize::Zeroizing;

/// The source of every fresh random choice of one party (nonces, commitments,
/// ephemeral keys).
#[derive(Clone, Copy)]
pub struct Entropy {
    seed: Option<u64>,
}

/// The operating system gave no randomness.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the operating system's random generator failed ({0}): nothing secret can be done on this machine")]
pub struct NoEntropy(getrandom::Error);

impl Entropy {
    /// The operating system's generator. Right for everything but tests.
    pub fn system() -> Self {
        Self { seed: None }
    }

    /// **Insecure**: every choice follows from the seed, so whoever knows it
    /// reads all secrets. Jobs made with it are marked in their manifest and
    /// refused by ordinary nodes.
    pub fn insecure_from_seed(seed: u64) -> Self {
        Self { seed: Some(seed) }
    }

    /// The seed, if this is the insecure source.
    pub fn insecure_seed(&self) -> Option<u64> {
        self.seed
    }

    /// A generator for one purpose. From a seed, the same label gives the same
    /// generator, so each purpose and each job needs a label of its own.
    pub fn generator(&self, label: &[&[u8]]) -> Result<Box<dyn CryptoRng + Send>, NoEntropy> {
        let mut key = Zeroizing::new([0; 32]);
        match self.seed {
            None => getrandom::fill(&mut *key).map_err(NoEntropy)?,
            Some(seed) => {
                let mut hasher = blake3::Hasher::new_derive_key("beaverdam v1 INSECURE generator");
                hasher.update(&seed.to_le_bytes());
                for part in label {
                    hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
                }
                *key = hasher.finalize().into();
            }
        }
        Ok(Box::new(ChaCha20Rng::from_seed(*key)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(entropy: Entropy, label: &[&[u8]]) -> u64 {
        entropy.generator(label).unwrap().next_u64()
    }

    #[test]
    fn a_seed_reproduces_and_labels_separate() {
        let seeded = Entropy::insecure_from_seed(7);
        assert_eq!(draw(seeded, &[b"a", b"b"]), draw(seeded, &[b"a", b"b"]));
        assert_ne!(draw(seeded, &[b"a", b"b"]), draw(seeded, &[b"ab"]));
        assert_ne!(draw(seeded, &[b"a"]), draw(Entropy::insecure_from_seed(8), &[b"a"]));
    }

    #[test]
    fn the_system_never_repeats() {
        assert_ne!(draw(Entropy::system(), &[b"a"]), draw(Entropy::system(), &[b"a"]));
    }
}
