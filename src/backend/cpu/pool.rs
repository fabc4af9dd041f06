//! Vectors that are wiped when they are dropped, and used again.
//!
//! A wiped vector is a zeroed one, so a result needs neither fresh pages nor
//! another pass of zeros, which cost an elementwise kernel on a large tensor as
//! much as its arithmetic. Nothing but zeros ever lies in the pool.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};
use zeroize::{DefaultIsZeroes, Zeroize};

use crate::field::{Fp61, zeros};

/// Shorter vectors are left to the allocator.
const LEAST: usize = 1 << 14;
/// Words that a pool holds at most: 32 MiB.
const MOST: usize = 1 << 22;

/// Wiped vectors, each as long as its capacity, and the sum of their lengths.
pub type Pool<W> = Mutex<(Vec<Vec<W>>, usize)>;

/// Words that are wiped by zeros, and have a pool.
pub trait Word: DefaultIsZeroes + 'static {
    /// `n` zeros, on pages that the system hands out already zeroed.
    fn zeros(n: usize) -> Vec<Self>;
    /// The pool.
    fn pool() -> &'static Pool<Self>;
}

/// Field elements.
impl Word for Fp61 {
    fn zeros(n: usize) -> Vec<Self> {
        zeros(n)
    }
    fn pool() -> &'static Pool<Self> {
        static POOL: Pool<Fp61> = Mutex::new((Vec::new(), 0));
        &POOL
    }
}
/// Operands as packed for a kernel.
impl Word for u64 {
    fn zeros(n: usize) -> Vec<Self> {
        vec![0; n]
    }
    fn pool() -> &'static Pool<Self> {
        static POOL: Pool<u64> = Mutex::new((Vec::new(), 0));
        &POOL
    }
}

/// A vector of words that is wiped on drop.
pub struct Wiped<W: Word = Fp61>(Vec<W>);

impl<W: Word> Wiped<W> {
    /// `n` zeros.
    pub fn zeros(n: usize) -> Self {
        Self(if n < LEAST { W::zeros(n) } else { taken(n).unwrap_or_else(|| W::zeros(n)) })
    }
    /// A copy, to be written over.
    pub fn copy(words: &[W]) -> Self {
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
impl<W: Word> Deref for Wiped<W> {
    type Target = [W];
    fn deref(&self) -> &[W] {
        &self.0
    }
}
impl<W: Word> DerefMut for Wiped<W> {
    fn deref_mut(&mut self) -> &mut [W] {
        &mut self.0
    }
}
impl<W: Word> Drop for Wiped<W> {
    fn drop(&mut self) {
        let mut words = std::mem::take(&mut self.0);
        // A vector that was cut short may still hold words past its end.
        words.resize(words.capacity(), W::default());
        words.as_mut_slice().zeroize();
        if words.len() >= LEAST {
            let mut pool = W::pool().lock().unwrap_or_else(PoisonError::into_inner);
            if pool.1 + words.len() <= MOST {
                pool.1 += words.len();
                pool.0.push(words);
            }
        }
    }
}

/// A pooled vector that wastes at most a quarter of itself; the latest first,
/// because it may still be in a cache.
fn taken<W: Word>(n: usize) -> Option<Vec<W>> {
    let mut pool = W::pool().lock().unwrap_or_else(PoisonError::into_inner);
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
                let mut words = Wiped::<Fp61>::zeros(n);
                assert!(words.len() == n && words.iter().all(|w| *w == Fp61::ZERO));
                words.fill(Fp61::ONE);
            }
        }
        let mut short = vec![Fp61::ONE; 2 * LEAST];
        short.truncate(5);
        drop(Wiped::from(short));
        assert!(Wiped::<Fp61>::zeros(2 * LEAST).iter().all(|w| *w == Fp61::ZERO));
    }
}
