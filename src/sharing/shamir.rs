//! Shamir's secret sharing (CACM 1979) over pseudorandom shares: honest
//! majority, no MACs, redundancy is the check.
//!
//! Node i holds q(i) of a polynomial of degree t with q(0) = x. At most t
//! nodes may be corrupt; their shares are independent of x. What wrong shares
//! lead to when words are opened stands in `decode`.
//!
//! [`Shamir`] is one node's end, [`ShamirDealer`] the owner's.

use std::collections::BTreeMap;

use zeroize::Zeroizing;

use super::dealer::{Dealer, KeyHash, OutputError, SlotKeys, Verified};
use super::decode::{self, Code};
use super::packed::Replicated;
use super::prss::{self, Prss};
use super::{DecodeError, Decoded, Delta, Raw, Sharing, SharingError};
use crate::backend::{Backend, cpu::Cpu};
use crate::field::Fp61;
use crate::prg::{Address, Domain, PrgKey};
use crate::roster::{Degree, Roster, Scheme, Slot, Subset};
use crate::tensor::{Dims, View};

/// One node of a Shamir roster.
pub struct Shamir<B: Backend> {
    roster: Roster,
    slot: Slot,
    backend: B,
    prss: Prss,
    degree_t: Code,
    degree_2t: Code,
    packed: Option<Replicated>,
}

/// A share of degree t of a tensor.
#[derive(Clone)]
pub struct Share<W>(W);

/// A share of degree 2t: the local product of two shares. It can only become
/// the words of an opening, under a mask and a zero sharing.
///
/// It is computed only then, together with what masks it.
pub struct Product<W> {
    dims: Dims,
    x: W,
    y: W,
}

impl<B: Backend> Shamir<B> {
    /// A node at a slot, with exactly the keys of the subsets that contain it.
    pub fn new(roster: Roster, slot: Slot, keys: BTreeMap<Subset, PrgKey>, backend: B) -> Result<Self, SharingError> {
        check_keys(roster, slot, keys.keys().copied())?;
        let code = |degree| Code::new(roster.slots().collect(), roster.degree(degree));
        Ok(Self {
            roster,
            slot,
            backend,
            packed: Replicated::new(roster, slot, &keys),
            prss: Prss::new(roster, slot, keys),
            degree_t: code(Degree::T),
            degree_2t: code(Degree::TwoT),
        })
    }
}

/// Whether these are exactly the subsets that contain the slot.
pub(super) fn check_keys(roster: Roster, slot: Slot, found: impl Iterator<Item = Subset>) -> Result<(), SharingError> {
    if roster.scheme() != Scheme::Shamir {
        return Err(SharingError::Scheme { found: Scheme::Shamir, roster });
    }
    if !roster.has(slot) {
        return Err(SharingError::Slot { slot, roster });
    }
    let mut missing: Vec<Subset> = roster.subsets().into_iter().filter(|s| s.contains(slot)).collect();
    for subset in found {
        match missing.iter().position(|expected| *expected == subset) {
            Some(at) => drop(missing.remove(at)),
            None => return Err(SharingError::ForeignKey { slot, subset, roster }),
        }
    }
    match missing.first() {
        Some(&subset) => Err(SharingError::MissingKey { slot, subset, roster }),
        None => Ok(()),
    }
}

impl<B: Backend> Sharing for Shamir<B> {
    type Backend = B;
    type Secret = Share<B::Words>;
    type Product = Product<B::Words>;

    fn roster(&self) -> Roster {
        self.roster
    }
    fn slot(&self) -> Slot {
        self.slot
    }
    fn backend(&self) -> &B {
        &self.backend
    }
    fn packed(&self) -> Option<&Replicated> {
        self.packed.as_ref()
    }
    fn len(&self, x: &Self::Secret) -> usize {
        self.backend.len(&x.0)
    }

    fn linear(
        &self,
        n: usize,
        secret: &[(Fp61, &Self::Secret)],
        public: &[(Fp61, &B::Words)],
        constant: Fp61,
    ) -> Self::Secret {
        // A public word is the constant polynomial: the same share at every node.
        let mut terms: Vec<_> = secret.iter().map(|(k, x)| (*k, &x.0)).collect();
        terms.extend_from_slice(public);
        Share(self.backend.linear(n, &terms, constant))
    }
    fn view(&self, view: &View, inputs: &[&Self::Secret]) -> Self::Secret {
        let words: Vec<_> = inputs.iter().map(|x| &x.0).collect();
        Share(self.backend.view(view, &words))
    }
    fn times_public(&self, dims: Dims, x: &Self::Secret, p: &B::Words) -> Self::Secret {
        Share(self.backend.product(dims, &x.0, p, None))
    }
    fn public_times(&self, dims: Dims, p: &B::Words, x: &Self::Secret) -> Self::Secret {
        Share(self.backend.product(dims, p, &x.0, None))
    }
    fn shift(
        &self,
        c: &B::Words,
        thresholds: &[i64],
        by: u8,
        high: &Self::Secret,
        msb: &Self::Secret,
        constant: Fp61,
    ) -> Self::Secret {
        Share(self.backend.shift(c, thresholds, by, &high.0, &msb.0, Fp61::ONE, constant))
    }
    fn leaf(
        &self,
        c: &B::Words,
        thresholds: &[i64],
        from: u8,
        bits: u8,
        one_hot: &Self::Secret,
        carry: Option<&Self::Secret>,
    ) -> (Self::Secret, Self::Secret) {
        let (g, p) = self.backend.leaf(c, thresholds, from, bits, &one_hot.0, carry.map(|x| &x.0));
        (Share(g), Share(p))
    }
    fn beaver(
        &self,
        dims: Dims,
        c: &Self::Secret,
        d: &B::Words,
        e: &B::Words,
        a: &Self::Secret,
        b: &Self::Secret,
    ) -> Self::Secret {
        Share(self.backend.beaver(dims, &c.0, d, e, &a.0, &b.0, Fp61::ONE))
    }

    fn raw(&self, address: Address, n: usize) -> Raw<B> {
        Raw::new(Domain::Value, n, [self.prss.random(address)])
    }
    fn correct(&self, raw: Raw<B>, dealt: bool, delta: Delta<'_>) -> Self::Secret {
        assert_eq!(delta.len(), Self::delta_words(self.roster, raw.len(), dealt), "Δ is as long as the plan states");
        let [words] = raw.corrected(&self.backend, Domain::Value, [dealt.then_some(delta)]);
        Share(words)
    }
    fn delta_words(_roster: Roster, n: usize, dealt: bool) -> usize {
        if dealt { n } else { 0 }
    }

    fn product(&self, dims: Dims, x: &Self::Secret, y: &Self::Secret) -> Self::Product {
        Product { dims, x: x.0.clone(), y: y.0.clone() }
    }
    fn zeros(&self, address: Address, n: usize) -> Raw<B> {
        Raw::new(Domain::Zero, n, [self.prss.zero(address)])
    }
    fn masked_product(&self, product: Self::Product, mask: &Self::Secret, zeros: Raw<B>) -> B::Words {
        let Product { dims, x, y } = product;
        let [mask] = zeros.plus(&self.backend, Domain::Zero, [Some(&mask.0)]);
        self.backend.product(dims, &x, &y, Some(&mask))
    }
    fn masked_beaver(
        &self,
        dims: Dims,
        c: &Self::Secret,
        d: &B::Words,
        e: &B::Words,
        a: &Self::Secret,
        b: &Self::Secret,
        mask: &Self::Secret,
    ) -> B::Words {
        let masked = self.linear(dims.lens().2, &[(Fp61::ONE, c), (Fp61::ONE, mask)], &[], Fp61::ZERO);
        self.beaver(dims, &masked, d, e, a, b).0
    }

    fn opening(&self, x: &Self::Secret) -> B::Words {
        x.0.clone()
    }
    fn decode(&self, degree: Degree, from: &[Slot], shares: &[B::Words]) -> Result<Decoded<B::Words>, DecodeError> {
        let own = from.iter().position(|slot| *slot == self.slot).expect("the own share is among them");
        decode::check_lengths(&self.backend, from.iter().copied().zip(shares), self.backend.len(&shares[own]))?;
        let shares: Vec<_> = shares.iter().collect();
        let of_all = match degree {
            Degree::T => &self.degree_t,
            Degree::TwoT => &self.degree_2t,
        };
        if from.len() == usize::from(self.roster.nodes()) {
            return of_all.decode(&self.backend, self.roster, &shares);
        }
        Code::new(from.to_vec(), self.roster.degree(degree)).decode(&self.backend, self.roster, &shares)
    }
    fn interpolate(&self, degree: Degree, shares: &[(Slot, B::Words)]) -> Result<B::Words, DecodeError> {
        let (slots, words): (Vec<Slot>, Vec<&B::Words>) = shares.iter().map(|(slot, words)| (*slot, words)).unzip();
        let len = words.first().map_or(0, |words| self.backend.len(words));
        decode::check_lengths(&self.backend, slots.iter().copied().zip(words.iter().copied()), len)?;
        let code = Code::new(slots, self.roster.degree(degree));
        code.interpolate(&self.backend, len, &words)
    }
    fn output(&self, x: &Self::Secret) -> Vec<B::Words> {
        vec![x.0.clone()]
    }
    fn held(&self, output: Vec<B::Words>) -> Self::Secret {
        let [words] = <[_; 1]>::try_from(output).ok().expect("a share is one vector");
        Share(words)
    }
}

/// The owner of a Shamir job: it holds the keys of all subsets.
pub struct ShamirDealer {
    roster: Roster,
    keys: BTreeMap<Subset, PrgKey>,
}

impl ShamirDealer {
    /// Derives one key per subset from the job's key.
    pub(super) fn new(roster: Roster, job: &PrgKey) -> Self {
        let key = |subset: Subset| (subset, job.derive("beaverdam v1 subset key", &subset.0.to_le_bytes()));
        Self { roster, keys: roster.subsets().into_iter().map(key).collect() }
    }
}

impl Dealer for ShamirDealer {
    fn roster(&self) -> Roster {
        self.roster
    }
    fn uniform_range(&self, address: Address, first: u64, out: &mut [Fp61]) {
        let address = Address { domain: Domain::Value, ..address };
        prss::values(self.keys.values(), address, first, out);
    }
    fn uniform_bits_range(&self, address: Address, first: u64, out: &mut [u64]) {
        let address = Address { domain: Domain::Bits, ..address };
        let mut component = Zeroizing::new(vec![0; out.len()]);
        for key in self.keys.values() {
            key.stream(address).fill_raw(first, &mut component);
            out.iter_mut().zip(component.iter()).for_each(|(out, c)| *out ^= c);
        }
    }
    fn mac_corrections_range(&self, _: Address, _: u64, _: &[Fp61]) -> Option<Vec<Fp61>> {
        None
    }
    fn slot_keys(&self, slot: Slot) -> SlotKeys {
        let held = self.keys.iter().filter(|(subset, _)| subset.contains(slot));
        SlotKeys::Shamir(held.map(|(subset, key)| (*subset, key.clone())).collect())
    }
    fn key_hashes(&self) -> Vec<KeyHash> {
        self.keys.values().map(KeyHash::of).collect()
    }

    /// Degree t; with k ≥ 3t + 1 shares up to t wrong ones are corrected and
    /// named, with fewer any mismatch is an error; k ≥ 2t + 1 are needed.
    fn verify_output(&self, n: usize, shares: &[(Slot, Vec<Fp61>)]) -> Result<Verified, OutputError> {
        let shares = super::dealer::by_slot(self.roster, n, shares)?;
        let needed = 2 * usize::from(self.roster.threshold()) + 1;
        if shares.len() < needed {
            return Err(OutputError::TooFew { found: shares.len(), needed, roster: self.roster });
        }
        let cpu = Cpu;
        let code = Code::new(shares.keys().copied().collect(), self.roster.degree(Degree::T));
        let words: Vec<_> = shares.values().map(|words| cpu.load(words.to_vec())).collect();
        let decoded = code.decode(&cpu, self.roster, &words.iter().collect::<Vec<_>>())?;
        let words = Zeroizing::new(cpu.read(&decoded.words).map_err(DecodeError::from)?.to_vec());
        Ok(Verified { words, blamed: decoded.blamed })
    }
}
