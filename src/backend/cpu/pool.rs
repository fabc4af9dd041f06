//! Vectors that are wiped when they are dropped, and used again.
//!
//! A wiped vector is a zeroed one, so a result needs neither fresh pages nor
//! another pass of zeros, which cost an elementwise kernel on a large tensor as
//! much as its arithmetic. Nothing but zeros ever lies in the pool.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};
use zeroize::{DefaultIsZeroes, Zeroize};

use crate::field::{Fp61, zeros};

/// Shorter vectors are left to the allocator.
const LEAST: usize = 1 << 14;
/// Words that a pool may hold while nothing is in use: 16 MiB. Otherwise it may
/// hold as much as is in use, so that a job of large tensors finds their pages
/// again, and a job that has ended leaves little.
const IDLE: usize = 1 << 21;

/// Vectors that wait, and what they have to be measured by.
pub struct Pool<W> {
    /// wiped, each as long as its capacity; the latest last
    waiting: Vec<Vec<W>>,
    /// the sum of their lengths
    words: usize,
    /// words of the long vectors in use
    used: usize,
}

impl<W> Pool<W> {
    const EMPTY: Self = Self { waiting: Vec::new(), words: 0, used: 0 };

    /// A waiting vector that wastes at most a quarter of itself, cut to n
    /// words; the latest, because it may still be in a cache.
    fn take(&mut self, n: usize) -> Option<Vec<W>> {
        let at = self.waiting.iter().rposition(|words| (n..=n + n / 3).contains(&words.len()))?;
        let mut words = self.waiting.remove(at);
        self.words -= words.len();
        words.truncate(n);
        Some(words)
    }
    /// Keeps a wiped vector, and gives back those that are too many.
    fn keep(&mut self, words: Vec<W>) -> Vec<Vec<W>> {
        self.words += words.len();
        self.waiting.push(words);
        let mut leave = 0;
        while self.words > self.used.max(IDLE) {
            self.words -= self.waiting[leave].len();
            leave += 1;
        }
        self.waiting.drain(..leave).collect()
    }
}

/// Words that are wiped by zeros, and have a pool.
pub trait Word: DefaultIsZeroes + 'static {
    /// `n` zeros, on pages that the system hands out already zeroed.
    fn zeros(n: usize) -> Vec<Self>;
    /// The pool.
    fn pool() -> &'static Mutex<Pool<Self>>;
}

/// Field elements.
impl Word for Fp61 {
    fn zeros(n: usize) -> Vec<Self> {
        zeros(n)
    }
    fn pool() -> &'static Mutex<Pool<Self>> {
        static POOL: Mutex<Pool<Fp61>> = Mutex::new(Pool::EMPTY);
        &POOL
    }
}
/// Operands as packed for a kernel.
impl Word for u64 {
    fn zeros(n: usize) -> Vec<Self> {
        vec![0; n]
    }
    fn pool() -> &'static Mutex<Pool<Self>> {
        static POOL: Mutex<Pool<u64>> = Mutex::new(Pool::EMPTY);
        &POOL
    }
}

/// A vector of words that is wiped on drop.
pub struct Wiped<W: Word = Fp61>(Vec<W>);

impl<W: Word> Wiped<W> {
    /// `n` zeros.
    pub fn zeros(n: usize) -> Self {
        if n < LEAST {
            return Self(W::zeros(n));
        }
        let mut pool = lock::<W>();
        pool.used += n;
        let waiting = pool.take(n);
        drop(pool);
        Self(waiting.unwrap_or_else(|| W::zeros(n)))
    }
    /// A copy, to be written over.
    pub fn copy(words: &[W]) -> Self {
        let mut copy = Self::zeros(words.len());
        copy.copy_from_slice(words);
        copy
    }
}

impl Wiped {
    /// The words, for whoever wipes them.
    pub fn into_vec(mut self) -> Vec<Fp61> {
        let words = std::mem::take(&mut self.0);
        if words.len() >= LEAST {
            lock::<Fp61>().used -= words.len();
        }
        words
    }
}

impl From<Vec<Fp61>> for Wiped {
    fn from(words: Vec<Fp61>) -> Self {
        if words.len() >= LEAST {
            lock::<Fp61>().used += words.len();
        }
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
        let used = words.len();
        // A vector that was cut short may still hold words past its end.
        words.resize(words.capacity(), W::default());
        words.as_mut_slice().zeroize();
        if used >= LEAST {
            let mut pool = lock::<W>();
            pool.used -= used;
            // What leaves is freed after the lock.
            let leaving = pool.keep(words);
            drop(pool);
            drop(leaving);
        }
    }
}

fn lock<W: Word>() -> MutexGuard<'static, Pool<W>> {
    W::pool().lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_holds_what_is_used_and_little_more_when_nothing_is() {
        let mut pool = Pool::EMPTY;
        pool.used = 3 * IDLE;
        for kept in 1..=3 {
            assert_eq!(pool.keep(vec![0u64; IDLE]).len(), 0);
            assert_eq!(pool.words, kept * IDLE);
        }
        assert_eq!(pool.keep(vec![0; IDLE]).len(), 1);
        pool.used = 0;
        assert_eq!(pool.keep(vec![0; LEAST]).len(), 3);
        assert_eq!((pool.words, pool.waiting.len()), (LEAST, 1));
        assert_eq!(pool.take(LEAST - 1).map(|words| words.len()), Some(LEAST - 1));
        assert_eq!((pool.words, pool.waiting.len()), (0, 0));
    }

    #[test]
    fn a_vector_taken_again_is_zero() {
        for n in [LEAST, LEAST + 1000, LEAST + 3, 3 * LEAST] {
            for _ in 0..3 {
                let mut words = Wiped::<Fp61>::zeros(n);
                assert!(words.len() == n && words.iter().all(|w| *w == Fp61::ZERO));
                words.fill(Fp61::ONE);
            }
        }
        assert!(Wiped::<Fp61>::copy(&[Fp61::ONE; 2 * LEAST]).into_vec().iter().all(|w| *w == Fp61::ONE));
        let mut short = vec![Fp61::ONE; 2 * LEAST];
        short.truncate(5);
        drop(Wiped::from(short));
        assert!(Wiped::<Fp61>::zeros(2 * LEAST).iter().all(|w| *w == Fp61::ZERO));
    }
}
