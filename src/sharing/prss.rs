//! Pseudorandom secret sharing among the holders of subset keys: random words
//! and zero sharings that cost no message (Cramer, Damgård, Ishai, TCC 2005,
//! sections 3 and 4).
//!
//! One key per (n − t)-subset A of the nodes, held by A's members. With
//!
//! ```text
//! f_A(X) = Π_{i ∉ A} (X − i)/(−i)          f_A(0) = 1, degree t, 0 outside A
//! ```
//!
//! a random word is Σ_A word_A with the polynomial Σ_A word_A·f_A, and a zero
//! sharing of degree 2t is Σ_A Σ_{j=1..t} word_{A,j}·X^j·f_A. Any t nodes miss
//! at least the key of their complement. Its word hides the value perfectly,
//! and its t words of the zero sharing are uniform over *all* polynomials of
//! degree 2t that vanish at 0 and at the t points, so that a masked product
//! shows nothing but its value. There is no zero sharing of degree t here.
//!
//! Both halves of each formula stand below: [`Prss`] is what one node computes,
//! [`values`] what the owner, who holds all keys, knows of it.

use std::collections::BTreeMap;

use zeroize::Zeroizing;

use crate::field::{Fp61, slice};
use crate::prg::{Address, Domain, PrgKey, Stream};
use crate::roster::{Roster, Slot, Subset};

/// One node's end: its keys, each with f_A at the node's point.
pub(super) struct Prss {
    keys: Vec<(Fp61, PrgKey)>,
    /// the point to the powers 1..=t
    powers: Vec<Fp61>,
}

impl Prss {
    /// The keys must be those of the subsets that contain the slot.
    pub(super) fn new(roster: Roster, slot: Slot, keys: BTreeMap<Subset, PrgKey>) -> Self {
        let point = slot.point();
        let powers = std::iter::successors(Some(point), |power| Some(*power * point));
        Self {
            keys: keys.into_iter().map(|(subset, key)| (basis(roster, subset, point), key)).collect(),
            powers: powers.take(usize::from(roster.threshold())).collect(),
        }
    }

    /// The streams of this node's share of pseudorandom words, degree t, each
    /// with its coefficient. Costs one word of expansion per key and word.
    pub(super) fn random(&self, address: Address) -> Vec<(Fp61, Stream)> {
        let address = Address { domain: Domain::Value, ..address };
        self.keys.iter().map(|(at, key)| (*at, key.stream(address))).collect()
    }

    /// The streams of this node's share of zeros, degree 2t. The t independent words per
    /// key are t parts of the address in the domain of zeros. Costs t words
    /// of expansion per key and word.
    pub(super) fn zero(&self, address: Address) -> Vec<(Fp61, Stream)> {
        let mut streams = Vec::with_capacity(self.keys.len() * self.powers.len());
        for (part, power) in (0..).zip(&self.powers) {
            let address = Address { domain: Domain::Zero, part, ..address };
            streams.extend(self.keys.iter().map(|(at, key)| (*at * *power, key.stream(address))));
        }
        streams
    }
}

/// The owner's half of [`Prss::random`]: the values at 0, Σ_A word_A, of the
/// words from index `first` on.
pub(super) fn values<'a>(keys: impl Iterator<Item = &'a PrgKey>, address: Address, first: u64, out: &mut [Fp61]) {
    out.fill(Fp61::ZERO);
    let mut words = Zeroizing::new(vec![Fp61::ZERO; out.len()]);
    for key in keys {
        key.stream(address).fill(first, &mut words);
        slice::add(out, &words);
    }
}

/// f_A(x).
fn basis(roster: Roster, subset: Subset, x: Fp61) -> Fp61 {
    let outside = roster.slots().filter(|slot| !subset.contains(*slot)).map(Slot::point);
    let (over, under) = outside.fold((Fp61::ONE, Fp61::ONE), |(o, u), i| (o * (x - i), u * -i));
    over * under.invert()
}
