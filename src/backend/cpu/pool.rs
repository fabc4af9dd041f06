//! Vectors that are wiped when they are dropped, and used again.
//!
//! A wiped vector is a zeroed one, so a result needs neither fresh pages nor
//! another pass of zeros, which cost an elementwise kernel on a large tensor as
//! much as its arithmetic. Nothing but zeros ever lies in the pool.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};
use zeroize::Zeroize;

use crate::field::{Fp61, zeros};

/// Shorter vectors are left to the allocator.
const LEAST: usize = 1 << 14;
/// Words that the pool holds at most: 32 MiB.
const MOST: usize = 1 << 22;

/// Wiped vectors, each as long as its capacity, and the sum of their lengths.
static POOL: Mutex<(Vec<Vec<Fp61>>, usize)> = Mutex::new((Vec::new(), 0));

/// A vector of words that is wiped on drop.
pub struct Wiped(Vec<Fp61>);

impl Wiped {
    /// `n` zeros.
    pub fn zeros(n: usize) -> Self {
        Self(if n < LEAST { zeros(n) } else { taken(n).unwrap_or_else(|| zeros(n)) })
    }
    /// A copy, to be written over.
    pub fn copy(words: &[Fp61]) -> Self {
        let mut copy = Self::zeros(words.len());
        copy.copy_from_slice(words);
        copy
    }
}

impl From<Vec<Fp61>> for Wiped {
    fn from(words: Vec<Fp61>) -> Self {
        Self(words)
    }
}
impl Deref for Wiped {
    type Target = [Fp61];
    fn deref(&self) -> &[Fp61] {
        &self.0
    }
}
impl DerefMut for Wiped {
    fn deref_mut(&mut self) -> &mut [Fp61] {
        &mut self.0
    }
}
impl Drop for Wiped {
    fn drop(&mut self) {
        let mut words = std::mem::take(&mut self.0);
        // A vector that was cut short may still hold words past its end.
        words.resize(words.capacity(), Fp61::ZERO);
        words.as_mut_slice().zeroize();
        if words.len() >= LEAST {
            let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
            if pool.1 + words.len() <= MOST {
                pool.1 += words.len();
                pool.0.push(words);
            }
        }
    }
}

/// A pooled vector that wastes at most a quarter of itself; the latest first,
/// because it may still be in a cache.
fn taken(n: usize) -> Option<Vec<Fp61>> {
    let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    let at = pool.0.iter().rposition(|words| (n..=n + n / 3).contains(&words.len()))?;
    let mut words = pool.0.remove(at);
    pool.1 -= words.len();
    words.truncate(n);
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_taken_again_is_zero() {
        for n in [LEAST, LEAST + 1000, LEAST + 3, 3 * LEAST] {
            for _ in 0..3 {
                let mut words = Wiped::zeros(n);
                assert!(words.len() == n && words.iter().all(|w| *w == Fp61::ZERO));
                words.fill(Fp61::ONE);
            }
        }
        let mut short = vec![Fp61::ONE; 2 * LEAST];
        short.truncate(5);
        drop(Wiped::from(short));
        assert!(Wiped::zeros(2 * LEAST).iter().all(|w| *w == Fp61::ZERO));
    }
}
