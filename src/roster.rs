//! Who computes: the scheme, the number of nodes, the threshold, and what an
//! opening among them can detect or correct.
//!
//! A roster here is pure arithmetic. Keys and addresses belong to
//! [`job`](crate::job); sockets to [`net`](crate::net).

use serde::{Deserialize, Serialize};

use crate::field::Fp61;

/// The most subset keys a roster may need; the planner refuses more, because
/// every random word costs each node one expansion per key that it holds.
pub const MAX_SUBSETS: usize = 512;
/// The most nodes a roster may have.
pub const MAX_NODES: u8 = 32;

/// A secret-sharing scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// Shamir's polynomials of degree t: honest majority, redundancy is the check.
    Shamir,
    /// Additive shares with information-theoretic MACs: all but one may be corrupt.
    Spdz,
}

/// A node's place in the roster, counted from 1. Slot i evaluates polynomials at i.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Slot(pub u8);

impl Slot {
    /// The position in arrays that hold one item per node, counted from 0.
    pub fn index(self) -> usize {
        usize::from(self.0) - 1
    }
    /// The point at which this slot's share evaluates the polynomial.
    pub fn point(self) -> Fp61 {
        Fp61::new(u64::from(self.0)).expect("a slot is far below p")
    }
}

impl std::fmt::Display for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "node {}", self.0)
    }
}

/// Scheme, number of nodes and threshold; only valid combinations exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "UncheckedRoster", into = "UncheckedRoster")]
pub struct Roster {
    scheme: Scheme,
    n: u8,
    t: u8,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
struct UncheckedRoster {
    scheme: Scheme,
    n: u8,
    t: u8,
}

/// Why a roster was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RosterError {
    /// Shamir needs n ≥ 2t + 1 and t ≥ 1.
    #[error("Shamir with {n} nodes cannot stand {t} corrupt ones: choose 1 ≤ t and n ≥ 2t + 1 (at least {})", 2 * u16::from(*.t) + 1)]
    Threshold {
        /// nodes asked for
        n: u8,
        /// threshold asked for
        t: u8,
    },
    /// SPDZ needs at least two nodes.
    #[error("SPDZ needs at least 2 nodes, found {n}")]
    TooFew {
        /// nodes asked for
        n: u8,
    },
    /// More nodes than [`MAX_NODES`].
    #[error("{n} nodes are more than the {MAX_NODES} that a roster may have")]
    TooMany {
        /// nodes asked for
        n: u8,
    },
    /// More subset keys than [`MAX_SUBSETS`].
    #[error("Shamir ({n}, {t}) needs {subsets} subset keys, more than the cap of {MAX_SUBSETS}: lower t or n")]
    TooManySubsets {
        /// nodes asked for
        n: u8,
        /// threshold asked for
        t: u8,
        /// binomial(n, t)
        subsets: usize,
    },
}

/// What the shares of an opening allow beyond interpolation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redundancy {
    /// Wrong shares go unnoticed: needs verification afterwards.
    None,
    /// Up to t wrong shares are noticed; any mismatch aborts.
    Detect,
    /// Up to t wrong shares are corrected and their senders named.
    Correct,
}

/// The degree of a shared word's polynomial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Degree {
    /// degree t: an ordinary sharing
    T,
    /// degree 2t: the local product of two sharings
    TwoT,
}

/// A set of slots as a bit mask: bit i stands for slot i + 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Subset(pub u32);

impl Subset {
    /// Whether the slot is a member.
    pub fn contains(self, slot: Slot) -> bool {
        self.0 >> slot.index() & 1 == 1
    }
    /// The members in ascending order, out of n nodes.
    pub fn members(self, n: u8) -> impl Iterator<Item = Slot> {
        (1..=n).map(Slot).filter(move |s| self.contains(*s))
    }
}

impl Roster {
    /// Shamir among `n` nodes of which `t` may be corrupt; n ≥ 2t + 1, t ≥ 1.
    pub fn shamir(n: u8, t: u8) -> Result<Self, RosterError> {
        if n > MAX_NODES {
            return Err(RosterError::TooMany { n });
        }
        if t == 0 || u16::from(n) < 2 * u16::from(t) + 1 {
            return Err(RosterError::Threshold { n, t });
        }
        let subsets = binomial(n, t);
        if subsets > MAX_SUBSETS {
            return Err(RosterError::TooManySubsets { n, t, subsets });
        }
        Ok(Self { scheme: Scheme::Shamir, n, t })
    }

    /// SPDZ among `n` nodes, all but one of which may be corrupt; n ≥ 2.
    pub fn spdz(n: u8) -> Result<Self, RosterError> {
        match n {
            0 | 1 => Err(RosterError::TooFew { n }),
            _ if n > MAX_NODES => Err(RosterError::TooMany { n }),
            _ => Ok(Self { scheme: Scheme::Spdz, n, t: n - 1 }),
        }
    }

    /// The scheme.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }
    /// The number of nodes n.
    pub fn nodes(&self) -> u8 {
        self.n
    }
    /// How many nodes may be corrupt: t for Shamir, n − 1 for SPDZ.
    pub fn threshold(&self) -> u8 {
        self.t
    }
    /// All slots, 1..=n.
    pub fn slots(&self) -> impl Iterator<Item = Slot> + Clone + use<> {
        (1..=self.n).map(Slot)
    }
    /// Whether the slot belongs to this roster.
    pub fn has(&self, slot: Slot) -> bool {
        (1..=self.n).contains(&slot.0)
    }
    /// Whether products are local: Shamir with n ≥ 3t + 1, so that an opening
    /// of degree 2t still detects t wrong shares. Otherwise Beaver triples.
    pub fn local_products(&self) -> bool {
        self.scheme == Scheme::Shamir && self.redundancy(Degree::TwoT) != Redundancy::None
    }
    /// Whether comparisons can run on packed bits ([`sharing::packed`](crate::sharing::packed)):
    /// replicated shares among four nodes of which one may be corrupt.
    pub fn packs_bits(&self) -> bool {
        (self.scheme, self.n, self.t) == (Scheme::Shamir, 4, 1)
    }
    /// How many nodes make a majority that no two sets of nodes can be without
    /// sharing an honest one: ⌊(n + t)/2⌋ + 1 for Shamir, all for SPDZ.
    pub fn quorum(&self) -> usize {
        match self.scheme {
            Scheme::Shamir => (usize::from(self.n) + usize::from(self.t)) / 2 + 1,
            Scheme::Spdz => usize::from(self.n),
        }
    }
    /// How many nodes' shares an opening of this degree needs so that wrong
    /// ones are noticed, and a quorum of nodes go on together
    /// (docs/protocols.md, nodes that come and go); all for SPDZ.
    pub fn needed(&self, degree: Degree) -> usize {
        match self.scheme {
            Scheme::Shamir => self.quorum().max(self.degree(degree) + usize::from(self.t) + 1),
            Scheme::Spdz => usize::from(self.n),
        }
    }
    /// How many nodes' receipts and output shares a reader needs: 2t + 1 that
    /// agree under Shamir, t + 1 honest ones among them; all in SPDZ.
    pub fn to_read(&self) -> usize {
        match self.scheme {
            Scheme::Shamir => 2 * usize::from(self.t) + 1,
            Scheme::Spdz => usize::from(self.n),
        }
    }
    /// The number that a degree stands for here.
    pub fn degree(&self, degree: Degree) -> usize {
        usize::from(self.t) * if degree == Degree::T { 1 } else { 2 }
    }
    /// What an opening of this degree with all n shares detects or corrects
    /// (protocols.md section 2; for SPDZ the MAC check decides later).
    pub fn redundancy(&self, degree: Degree) -> Redundancy {
        if self.scheme == Scheme::Spdz {
            return Redundancy::None;
        }
        let (n, t, d) = (usize::from(self.n), usize::from(self.t), self.degree(degree));
        if n > d + 2 * t {
            Redundancy::Correct
        } else if n > d + t {
            Redundancy::Detect
        } else {
            Redundancy::None
        }
    }
    /// The degree whose openings may go by kings: the one that all n shares detect
    /// and do not correct. Where they correct, a king would cost the correction;
    /// where they detect nothing, his words could not be verified afterwards. At
    /// most one degree: t at n ≤ 3t, 2t at 3t < n ≤ 4t. None for SPDZ.
    pub fn king_degree(&self) -> Option<Degree> {
        [Degree::T, Degree::TwoT].into_iter().find(|d| self.redundancy(*d) == Redundancy::Detect)
    }
    /// The (n − t)-subsets that hold a common PRSS key, in ascending order of
    /// their masks; none for SPDZ.
    pub fn subsets(&self) -> Vec<Subset> {
        if self.scheme == Scheme::Spdz {
            return Vec::new();
        }
        let size = u32::from(self.n - self.t);
        // Gosper's hack walks the masks of one population count in order.
        let mut out = Vec::with_capacity(binomial(self.n, self.t));
        let (mut mask, end) = ((1u64 << size) - 1, 1u64 << self.n);
        while mask < end {
            out.push(Subset(mask as u32));
            let low = mask & mask.wrapping_neg();
            let ripple = mask + low;
            mask = (((ripple ^ mask) >> 2) / low) | ripple;
        }
        out
    }
}

fn binomial(n: u8, k: u8) -> usize {
    let k = usize::from(k.min(n - k));
    (0..k).fold(1usize, |acc, i| acc.saturating_mul(usize::from(n) - i) / (i + 1))
}

impl TryFrom<UncheckedRoster> for Roster {
    type Error = RosterError;
    fn try_from(raw: UncheckedRoster) -> Result<Self, RosterError> {
        match raw.scheme {
            Scheme::Shamir => Self::shamir(raw.n, raw.t),
            Scheme::Spdz => match Self::spdz(raw.n)? {
                ok if ok.t == raw.t => Ok(ok),
                _ => Err(RosterError::Threshold { n: raw.n, t: raw.t }),
            },
        }
    }
}

impl From<Roster> for UncheckedRoster {
    fn from(r: Roster) -> Self {
        Self { scheme: r.scheme, n: r.n, t: r.t }
    }
}

impl std::fmt::Display for Roster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.scheme {
            Scheme::Shamir => write!(f, "Shamir ({}, {})", self.n, self.t),
            Scheme::Spdz => write!(f, "SPDZ ({})", self.n),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redundancy_is_the_table_of_the_design() {
        let of = |n, t, d| Roster::shamir(n, t).unwrap().redundancy(d);
        assert_eq!(of(4, 1, Degree::TwoT), Redundancy::Detect);
        assert_eq!(of(4, 1, Degree::T), Redundancy::Correct);
        assert_eq!(of(5, 1, Degree::TwoT), Redundancy::Correct);
        for (n, t) in [(3, 1), (5, 2), (7, 3)] {
            assert_eq!(of(n, t, Degree::TwoT), Redundancy::None);
            assert_eq!(of(n, t, Degree::T), Redundancy::Detect);
            assert!(!Roster::shamir(n, t).unwrap().local_products());
        }
    }

    #[test]
    fn kings_open_the_one_degree_that_is_detected() {
        let of = |n, t| Roster::shamir(n, t).unwrap().king_degree();
        for (n, t) in [(4, 1), (7, 2), (10, 3)] {
            assert_eq!(of(n, t), Some(Degree::TwoT));
        }
        for (n, t) in [(3, 1), (5, 2), (6, 2), (7, 3)] {
            assert_eq!(of(n, t), Some(Degree::T));
        }
        assert_eq!(of(5, 1), None);
        assert_eq!(Roster::spdz(3).unwrap().king_degree(), None);
        // Never both: one combination of one degree covers a check.
        for roster in (3..=12).flat_map(|n| (1..=n).filter_map(move |t| Roster::shamir(n, t).ok())) {
            let detected = [Degree::T, Degree::TwoT].map(|d| roster.redundancy(d) == Redundancy::Detect);
            assert_ne!(detected, [true, true], "{roster}");
        }
    }

    #[test]
    fn subsets_are_all_of_size_n_minus_t() {
        for (n, t, keys) in [(3, 1, 3), (4, 1, 4), (5, 2, 10), (7, 3, 35)] {
            let subsets = Roster::shamir(n, t).unwrap().subsets();
            assert_eq!(subsets.len(), keys);
            assert!(subsets.windows(2).all(|w| w[0] < w[1]));
            assert!(subsets.iter().all(|s| s.members(n).count() == usize::from(n - t)));
        }
    }

    #[test]
    fn impossible_rosters_are_refused() {
        assert!(matches!(Roster::shamir(2, 1), Err(RosterError::Threshold { .. })));
        assert!(matches!(Roster::shamir(4, 0), Err(RosterError::Threshold { .. })));
        assert!(matches!(Roster::spdz(1), Err(RosterError::TooFew { .. })));
        assert!(matches!(Roster::shamir(32, 10), Err(RosterError::TooManySubsets { .. })));
    }
}
