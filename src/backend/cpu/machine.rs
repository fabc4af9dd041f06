//! Which instructions the kernels may use here.

#[cfg(target_arch = "x86_64")]
use super::simd::{Avx2, Avx512};

/// What the machine has.
#[derive(Clone, Copy, Debug)]
pub enum Machine {
    /// what every machine has
    Plain,
    /// AVX2
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    /// AVX-512
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
}

impl Machine {
    /// The most that this one has; what was detected once is remembered.
    pub fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        if let Some(avx512) = Avx512::detect() {
            return Self::Avx512(avx512);
        } else if let Some(avx2) = Avx2::detect() {
            return Self::Avx2(avx2);
        }
        Self::Plain
    }

    /// All that this one can be, for tests of parity.
    #[cfg(test)]
    pub fn all() -> Vec<Self> {
        let mut all = vec![Self::Plain];
        #[cfg(target_arch = "x86_64")]
        {
            all.extend(Avx2::detect().map(Self::Avx2));
            all.extend(Avx512::detect().map(Self::Avx512));
        }
        all
    }
}
