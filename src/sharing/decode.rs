//! From shares to opened words: interpolation from fixed nodes, a parity check
//! by the others, and what follows from a mismatch.
//!
//! Of shares of a word of degree d at most t are wrong (docs/protocols.md, 2).
//! A polynomial on which d + t + 1 of them lie has d + 1 honest ones on it, so
//! it is the only one, and whoever is off it is named. With k shares
//!
//! | k | a mismatch |
//! |---|---|
//! | ≥ d + 2t + 1 | is corrected always |
//! | ≥ d + t + 1 | is noticed; corrected if all but k − d − t − 1 are right |
//! | less | may go unnoticed: such a word is not used |
//!
//! A decoder at its natural radius, who is content with fewer on one
//! polynomial, would answer with *another* word.
//!
//! Everything here is about words that are public once decoded, so branches
//! are free. The room knows no key and no secret.

use super::{DecodeError, Decoded};
use crate::backend::{Backend, BackendError};
use crate::field::Fp61;
use crate::roster::{Roster, Slot, Subset};
use crate::tensor::View;

/// The Reed–Solomon code that the shares of a word form, for one set of
/// senders and one degree: interpolation at 0 from the first d + 1 senders,
/// and one parity row for each other sender.
pub(super) struct Code {
    degree: usize,
    /// the senders, ascending
    slots: Vec<Slot>,
    /// λ_i(0) for the first d + 1 senders
    at_zero: Vec<Fp61>,
    /// λ_i(x_j) for the first d + 1 senders i, for each later sender j
    parity: Vec<Vec<Fp61>>,
}

impl Code {
    /// At least degree + 1 senders.
    pub(super) fn new(slots: Vec<Slot>, degree: usize) -> Self {
        let (base, rest) = slots.split_at(degree + 1);
        let at_zero = lagrange(base, Fp61::ZERO);
        let parity = rest.iter().map(|slot| lagrange(base, slot.point())).collect();
        Self { degree, slots, at_zero, parity }
    }

    /// Decodes shares that come from exactly this code's senders, in the same
    /// order and of equal lengths. Costs d + 1 multiplications a word, and as
    /// many for each parity row.
    pub(super) fn decode<B: Backend>(
        &self,
        backend: &B,
        roster: Roster,
        shares: &[&B::Words],
    ) -> Result<Decoded<B::Words>, DecodeError> {
        assert_eq!(shares.len(), self.slots.len(), "one share per sender");
        let (words, wrong) = backend.decode(&self.at_zero, &self.parity, shares)?;
        let Some(word) = wrong else { return Ok(Decoded { words, blamed: Vec::new() }) };
        self.correct(backend, roster, shares, word)
    }

    /// Interpolates from exactly degree + 1 senders, which leaves nothing to check.
    pub(super) fn interpolate<B: Backend>(
        &self,
        backend: &B,
        len: usize,
        shares: &[&B::Words],
    ) -> Result<B::Words, DecodeError> {
        assert_eq!(shares.len(), self.at_zero.len(), "one share for each coefficient");
        let terms: Vec<_> = self.at_zero.iter().copied().zip(shares.iter().copied()).collect();
        Ok(backend.linear(len, &terms, Fp61::ZERO))
    }

    /// Locates the wrong shares of the first word that fails, leaves their
    /// senders out of the whole batch, and goes on until no word fails. Ends
    /// after at most t rounds; a batch in which more than t senders are wrong
    /// somewhere is refused even if each single word could be decoded.
    fn correct<B: Backend>(
        &self,
        backend: &B,
        roster: Roster,
        shares: &[&B::Words],
        mut word: usize,
    ) -> Result<Decoded<B::Words>, DecodeError> {
        let mut blamed: Vec<Slot> = Vec::new();
        loop {
            let refused = DecodeError::Inconsistent { word, degree: self.degree };
            blamed.extend(self.wrong_at(backend, roster, shares, word)?.ok_or_else(|| refused.clone())?);
            blamed.sort_unstable();
            blamed.dedup();
            let few = self.slots.len() - blamed.len() < self.decisive(roster);
            if few || blamed.len() > usize::from(roster.threshold()) {
                return Err(refused);
            }
            let trusted = |slot: &Slot| !blamed.contains(slot);
            let code = Code::new(self.slots.iter().copied().filter(trusted).collect(), self.degree);
            let rest: Vec<_> = self.slots.iter().zip(shares).filter(|(s, _)| trusted(s)).map(|(_, w)| *w).collect();
            match backend.decode(&code.at_zero, &code.parity, &rest)? {
                (words, None) => return Ok(Decoded { words, blamed }),
                (_, Some(next)) => word = next,
            }
        }
    }

    /// So many shares on one polynomial are those of d + 1 honest nodes at least.
    fn decisive(&self, roster: Roster) -> usize {
        self.degree + usize::from(roster.threshold()) + 1
    }

    /// Which senders are wrong in one word: those off the only polynomial of
    /// the degree on which d + t + 1 senders lie. Tries the subsets of the
    /// roster one by one (one of them has all honest nodes and no liar); their
    /// number is capped ([`crate::roster::MAX_SUBSETS`]).
    fn wrong_at<B: Backend>(
        &self,
        backend: &B,
        roster: Roster,
        shares: &[&B::Words],
        word: usize,
    ) -> Result<Option<Vec<Slot>>, BackendError> {
        let mut points = Vec::with_capacity(shares.len());
        for (slot, share) in self.slots.iter().zip(shares) {
            let one = View::Slice { outer: 1, axis: backend.len(share), inner: 1, start: word, end: word + 1 };
            points.push((*slot, backend.read(&backend.view(&one, &[share]))?[0]));
        }
        let decides = |off: &Vec<Slot>| points.len() - off.len() >= self.decisive(roster);
        let subsets = roster.subsets().into_iter();
        Ok(subsets.filter_map(|subset| self.off_polynomial_of(subset, &points)).find(decides))
    }

    /// The senders off the polynomial of a subset, if the subset's points lie
    /// on one of the degree.
    fn off_polynomial_of(&self, subset: Subset, points: &[(Slot, Fp61)]) -> Option<Vec<Slot>> {
        let (base, values): (Vec<Slot>, Vec<Fp61>) =
            points.iter().filter(|(slot, _)| subset.contains(*slot)).take(self.degree + 1).copied().unzip();
        if base.len() <= self.degree {
            return None;
        }
        let fits = |slot: Slot, value: Fp61| dot(&lagrange(&base, slot.point()), &values) == value;
        let off: Vec<Slot> = points.iter().filter(|(s, v)| !fits(*s, *v)).map(|(s, _)| *s).collect();
        off.iter().all(|slot| !subset.contains(*slot)).then_some(off)
    }
}

/// Refuses share vectors that do not have the expected length.
pub(super) fn check_lengths<'a, B: Backend>(
    backend: &B,
    shares: impl Iterator<Item = (Slot, &'a B::Words)>,
    expected: usize,
) -> Result<(), DecodeError> {
    for (from, share) in shares {
        let found = backend.len(share);
        if found != expected {
            return Err(DecodeError::Length { from, found, expected });
        }
    }
    Ok(())
}

impl From<BackendError> for DecodeError {
    fn from(error: BackendError) -> Self {
        DecodeError::Backend(error.into())
    }
}

/// λ_i(x) for the points of the base: q(x) = Σ λ_i(x)·q(i) for every
/// polynomial q of degree below their number.
fn lagrange(base: &[Slot], x: Fp61) -> Vec<Fp61> {
    base.iter()
        .map(|i| {
            let others = base.iter().filter(|j| *j != i).map(|j| j.point());
            let (over, under) = others.fold((Fp61::ONE, Fp61::ONE), |(o, u), j| (o * (x - j), u * (i.point() - j)));
            over * under.invert()
        })
        .collect()
}

fn dot(a: &[Fp61], b: &[Fp61]) -> Fp61 {
    a.iter().zip(b).map(|(a, b)| *a * *b).sum()
}
