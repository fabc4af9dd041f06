//! Pseudorandom words before they are drawn: what keys and address fix, and no
//! correction or peer has touched.
//!
//! They can be expanded piece by piece at any time before they are drawn, and
//! are the same words whenever that happens.

use crate::backend::Backend;
use crate::field::{Fp61, Parts};
use crate::prg::{Domain, Stream};

/// This node's pseudorandom words of one address, as far as they are expanded.
/// Move-only: drawing takes them. Wiped on drop.
pub struct Raw<B: Backend> {
    /// one for Shamir; for SPDZ the values, then the MACs
    vectors: Vec<Vector<B>>,
    domain: Domain,
    n: usize,
}

struct Vector<B: Backend> {
    streams: Vec<(Fp61, Stream)>,
    /// what is made, and how many words of it
    made: Option<(B::Words, usize)>,
}

impl<B: Backend> Raw<B> {
    /// Nothing expanded yet: n words of each sum of streams.
    pub(super) fn new(domain: Domain, n: usize, vectors: impl IntoIterator<Item = Vec<(Fp61, Stream)>>) -> Self {
        let vectors = vectors.into_iter().map(|streams| Vector { streams, made: None }).collect();
        Self { vectors, domain, n }
    }

    /// Expands one more piece, as much as takes a few milliseconds; false if
    /// nothing was left.
    pub fn more(&mut self, backend: &B) -> bool {
        let n = self.n;
        let done = |vector: &Vector<B>| vector.made.as_ref().is_some_and(|(_, done)| *done == n);
        match self.vectors.iter_mut().find(|vector| !done(vector)) {
            Some(vector) => {
                vector.made = Some(backend.expand_more(n, &vector.streams, vector.made.take()));
                true
            }
            None => false,
        }
    }

    /// How many words.
    pub(super) fn len(&self) -> usize {
        self.n
    }

    /// The words of each vector plus its summand, if it has one. They are those
    /// of this domain, or a bug panics: masks are no zero sharings.
    pub(super) fn plus<const K: usize>(
        self,
        backend: &B,
        domain: Domain,
        summands: [Option<&B::Words>; K],
    ) -> [B::Words; K] {
        let n = self.n;
        self.each(domain, summands, |vector, summand| vector.plus(backend, n, summand))
    }

    /// The same with public summands that lie on the host.
    pub(super) fn corrected<const K: usize>(
        self,
        backend: &B,
        domain: Domain,
        summands: [Option<Parts<'_>>; K],
    ) -> [B::Words; K] {
        let n = self.n;
        self.each(domain, summands, |vector, summand| {
            let words = vector.plus(backend, n, None);
            match summand {
                Some(summand) => backend.add_parts(words, &summand),
                None => words,
            }
        })
    }

    fn each<T, const K: usize>(
        self,
        domain: Domain,
        summands: [T; K],
        sum: impl Fn(Vector<B>, T) -> B::Words,
    ) -> [B::Words; K] {
        assert!(self.domain == domain, "words of {:?} were drawn as {domain:?}", self.domain);
        let mut vectors = self.vectors.into_iter();
        summands.map(|summand| sum(vectors.next().expect("a summand for each vector"), summand))
    }
}

impl<B: Backend> Vector<B> {
    fn plus(self, backend: &B, n: usize, summand: Option<&B::Words>) -> B::Words {
        let Self { streams, made } = self;
        // Summed while it is expanded, if nothing was made ahead.
        let Some(mut made) = made else { return backend.expand(n, &streams, summand) };
        while made.1 < n {
            made = backend.expand_more(n, &streams, Some(made));
        }
        match summand {
            Some(summand) => backend.add(made.0, summand),
            None => made.0,
        }
    }
}
