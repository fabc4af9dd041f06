//! SPDZ: additive shares with information-theoretic MACs (Damgård, Pastro,
//! Smart, Zakarias, eprint 2011/535; Damgård et al., eprint 2012/642).
//!
//! Node i holds x_i and m_i with Σ x_i = x and Σ m_i = α·x, and a share α_i of
//! the job's MAC key α. Private against n − 1 colluding nodes; any one of them
//! can stop the job, and nobody can say who did. A wrong opening is noticed by
//! the check, in which [`Spdz::sigma`] and [`Spdz::sigma_matrix`] give this
//! node's summand of a word that must be 0; a cheater passes it with
//! probability at most 3/p.
//!
//! [`Spdz`] is one node's end, [`SpdzDealer`] the owner's.

use zeroize::Zeroizing;

use super::dealer::{Dealer, KeyHash, OutputError, SlotKeys, Verified, by_slot};
use super::{DecodeError, Decoded, Delta, Raw, Sharing, SharingError, decode};
use crate::backend::{Backend, BackendError};
use crate::field::{Fp61, slice};
use crate::prg::{Address, Domain, PrgKey, Stream};
use crate::roster::{Degree, Roster, Scheme, Slot};
use crate::tensor::{Dims, View};

/// One node of an SPDZ roster.
pub struct Spdz<B: Backend> {
    roster: Roster,
    slot: Slot,
    backend: B,
    key: PrgKey,
    /// α_i; public constants enter this node's MAC shares times it
    alpha: Zeroizing<Fp61>,
    /// 1 for the first slot, which alone adds public constants to its value share; else 0
    first: Fp61,
}

/// An additive share of a tensor with an additive share of its MAC.
#[derive(Clone)]
pub struct AuthShare<W> {
    value: W,
    mac: W,
}

/// SPDZ has no local product: no value of this type exists.
pub enum NoProduct {}

/// A matrix product that was opened at once under its mask, so that its MACs
/// are made only inside the check: the opened words are
/// c + D·b + a·E + D·E + mask with a, c, mask, b shared and D, E public.
pub struct MaskedMatrix<'a, S: Sharing> {
    /// rows of D and a
    pub m: usize,
    /// columns of D and a, rows of E and b
    pub k: usize,
    /// columns of E and b
    pub n: usize,
    /// the product a·b of the masks, `[m, n]`
    pub c: &'a S::Secret,
    /// the left operand minus a, `[m, k]`
    pub d: &'a super::Words<S>,
    /// the right operand minus b, `[k, n]`
    pub e: &'a super::Words<S>,
    /// the left operand's mask, `[m, k]`
    pub a: &'a S::Secret,
    /// the right operand's mask, `[k, n]`
    pub b: &'a S::Secret,
    /// the mask of the result, public offsets included, `[m, n]`
    pub mask: &'a S::Secret,
    /// what was opened, `[m, n]`
    pub opened: &'a super::Words<S>,
}

impl<B: Backend> Spdz<B> {
    /// A node at a slot with the slot's key of this job.
    pub fn new(roster: Roster, slot: Slot, key: PrgKey, backend: B) -> Result<Self, SharingError> {
        check_slot(roster, slot)?;
        let alpha = alpha(&key);
        let first = if slot.0 == 1 { Fp61::ONE } else { Fp61::ZERO };
        Ok(Self { roster, slot, backend, key, alpha, first })
    }

    /// The MAC share of a sharing, to be kept until the check of its opening.
    pub fn mac<'a>(&self, x: &'a AuthShare<B::Words>) -> &'a B::Words {
        &x.mac
    }

    /// This node's summand of the check over elementwise openings, each given
    /// as (opened words, own MAC share):
    /// Σ ρ_j·m_i(a_j) − α_i·Σ ρ_j·a_j, the coefficients being the stream's
    /// words in order over the whole list. Before it leaves the node it is
    /// committed to (docs/protocols.md, 6); over an honest run the summands
    /// of all nodes add up to 0.
    pub fn sigma(&self, rho: &Stream, openings: &[(&B::Words, &B::Words)]) -> Result<Fp61, BackendError> {
        let lens: Vec<usize> = openings.iter().map(|(opened, _)| self.backend.len(opened)).collect();
        let total: usize = lens.iter().sum();
        if total == 0 {
            return Ok(Fp61::ZERO);
        }
        let rho = self.backend.expand(total, &[(Fp61::ONE, rho.clone())], None);
        let (mut start, mut sums) = (0, Vec::with_capacity(openings.len()));
        for ((opened, mac), len) in openings.iter().zip(lens) {
            let slice = View::Slice { outer: 1, axis: total, inner: 1, start, end: start + len };
            let coefficients = self.backend.view(&slice, &[&rho]);
            let difference = self.backend.linear(len, &[(Fp61::ONE, mac), (-*self.alpha, opened)], Fp61::ZERO);
            sums.push(self.matmul(1, len, 1, &coefficients, &difference));
            start += len;
        }
        self.sum(&sums)
    }

    /// This node's summand of the check over one matrix product, for fresh
    /// public u of m words and v of n words:
    ///
    /// uᵀM(C)v + (uᵀD)(M(B)v) + (uᵀM(A))(Ev) + α_i(uᵀD)(Ev) + uᵀM(R)v − α_i·uᵀOv
    ///
    /// in O(mk + kn + mn). A wrong opening passes with probability at most
    /// 2/p: the difference from the right words is a nonzero bilinear form.
    pub fn sigma_matrix(
        &self,
        product: &MaskedMatrix<'_, Self>,
        u: &B::Words,
        v: &B::Words,
    ) -> Result<Fp61, BackendError> {
        let MaskedMatrix { m, k, n, c, d, e, a, b, mask, opened } = *product;
        let one = Fp61::ONE;
        let full = self.backend.linear(m * n, &[(one, &c.mac), (one, &mask.mac), (-*self.alpha, opened)], Fp61::ZERO);
        let u_full_v = self.matmul(1, n, 1, &self.matmul(1, m, n, u, &full), v);
        let u_d = self.matmul(1, m, k, u, d);
        let u_a = self.matmul(1, m, k, u, &a.mac);
        let e_v = self.matmul(k, n, 1, e, v);
        let b_v = self.matmul(k, n, 1, &b.mac, v);
        let right = self.backend.linear(k, &[(one, &b_v), (*self.alpha, &e_v)], Fp61::ZERO);
        self.sum(&[u_full_v, self.matmul(1, k, 1, &u_d, &right), self.matmul(1, k, 1, &u_a, &e_v)])
    }

    fn matmul(&self, m: usize, k: usize, n: usize, x: &B::Words, y: &B::Words) -> B::Words {
        self.backend.product(Dims::Matmul { m, k, n }, x, y, None)
    }

    fn sum(&self, scalars: &[B::Words]) -> Result<Fp61, BackendError> {
        let terms: Vec<_> = scalars.iter().map(|x| (Fp61::ONE, x)).collect();
        Ok(self.backend.read(&self.backend.linear(1, &terms, Fp61::ZERO))?[0])
    }

    fn stream(&self, domain: Domain, address: Address) -> Stream {
        self.key.stream(Address { domain, ..address })
    }
}

/// Whether this is an SPDZ roster with such a slot.
pub(super) fn check_slot(roster: Roster, slot: Slot) -> Result<(), SharingError> {
    if roster.scheme() != Scheme::Spdz {
        return Err(SharingError::Scheme { found: Scheme::Spdz, roster });
    }
    if !roster.has(slot) {
        return Err(SharingError::Slot { slot, roster });
    }
    Ok(())
}

/// α_i, from the slot's key of this job: fresh for every job.
fn alpha(key: &PrgKey) -> Zeroizing<Fp61> {
    let mut alpha = Zeroizing::new([Fp61::ZERO]);
    let address = Address { domain: Domain::Mac, input: false, op: 0, part: 0, attempt: 0 };
    key.derive("beaverdam v1 mac key share", &[]).stream(address).fill(0, alpha.as_mut_slice());
    Zeroizing::new(alpha[0])
}

impl<B: Backend> Sharing for Spdz<B> {
    type Backend = B;
    type Secret = AuthShare<B::Words>;
    type Product = NoProduct;

    fn roster(&self) -> Roster {
        self.roster
    }
    fn slot(&self) -> Slot {
        self.slot
    }
    fn backend(&self) -> &B {
        &self.backend
    }
    fn len(&self, x: &Self::Secret) -> usize {
        self.backend.len(&x.value)
    }

    fn linear(
        &self,
        n: usize,
        secret: &[(Fp61, &Self::Secret)],
        public: &[(Fp61, &B::Words)],
        constant: Fp61,
    ) -> Self::Secret {
        let mut values: Vec<_> = secret.iter().map(|(k, x)| (*k, &x.value)).collect();
        if self.slot.0 == 1 {
            values.extend_from_slice(public);
        }
        let mut macs: Vec<_> = secret.iter().map(|(k, x)| (*k, &x.mac)).collect();
        macs.extend(public.iter().map(|(k, p)| (*k * *self.alpha, *p)));
        AuthShare {
            value: self.backend.linear(n, &values, constant * self.first),
            mac: self.backend.linear(n, &macs, constant * *self.alpha),
        }
    }
    fn view(&self, view: &View, inputs: &[&Self::Secret]) -> Self::Secret {
        let values: Vec<_> = inputs.iter().map(|x| &x.value).collect();
        let macs: Vec<_> = inputs.iter().map(|x| &x.mac).collect();
        AuthShare { value: self.backend.view(view, &values), mac: self.backend.view(view, &macs) }
    }
    fn times_public(&self, dims: Dims, x: &Self::Secret, p: &B::Words) -> Self::Secret {
        let times = |word| self.backend.product(dims, word, p, None);
        AuthShare { value: times(&x.value), mac: times(&x.mac) }
    }
    fn public_times(&self, dims: Dims, p: &B::Words, x: &Self::Secret) -> Self::Secret {
        let times = |word| self.backend.product(dims, p, word, None);
        AuthShare { value: times(&x.value), mac: times(&x.mac) }
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
        // The quotient is public: a constant like every other.
        let shift = |high, msb, one| self.backend.shift(c, thresholds, by, high, msb, one, constant * one);
        AuthShare { value: shift(&high.value, &msb.value, self.first), mac: shift(&high.mac, &msb.mac, *self.alpha) }
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
        let leaf = |one_hot, carry| self.backend.leaf(c, thresholds, from, bits, one_hot, carry);
        let (g, p) = leaf(&one_hot.value, carry.map(|x| &x.value));
        let (g_mac, p_mac) = leaf(&one_hot.mac, carry.map(|x| &x.mac));
        (AuthShare { value: g, mac: g_mac }, AuthShare { value: p, mac: p_mac })
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
        // D·E is public: a constant like every other.
        AuthShare {
            value: self.backend.beaver(dims, &c.value, d, e, &a.value, &b.value, self.first),
            mac: self.backend.beaver(dims, &c.mac, d, e, &a.mac, &b.mac, *self.alpha),
        }
    }

    fn raw(&self, address: Address, n: usize) -> Raw<B> {
        let stream = |domain| vec![(Fp61::ONE, self.stream(domain, address))];
        Raw::new(Domain::Value, n, [stream(Domain::Value), stream(Domain::Mac)])
    }
    fn correct(&self, raw: Raw<B>, dealt: bool, delta: Delta<'_>) -> Self::Secret {
        let n = raw.len();
        assert_eq!(delta.len(), Self::delta_words(self.roster, n, dealt), "Δ is as long as the plan states");
        // Corrections are public constants: the first slot adds them.
        let values = delta.len() - n;
        let corrections = |start, len| (self.slot.0 == 1 && len > 0).then(|| delta.cut(start, len));
        let parts = [corrections(0, values), corrections(values, n)];
        let [value, mac] = raw.corrected(&self.backend, Domain::Value, parts);
        AuthShare { value, mac }
    }
    fn delta_words(_roster: Roster, n: usize, dealt: bool) -> usize {
        if dealt { 2 * n } else { n }
    }

    /// # Panics
    /// Always: the planner gives an SPDZ roster no local products
    /// ([`Roster::local_products`]), so only a bug of the engine gets here.
    fn product(&self, _: Dims, _: &Self::Secret, _: &Self::Secret) -> NoProduct {
        panic!("SPDZ has no local products: the plan is not for this roster")
    }
    /// # Panics
    /// Always, like [`Sharing::product`].
    fn zeros(&self, _: Address, _: usize) -> Raw<B> {
        panic!("SPDZ has no zero sharings: the plan is not for this roster")
    }
    fn masked_product(&self, product: NoProduct, _: &Self::Secret, _: Raw<B>) -> B::Words {
        match product {}
    }
    /// Values alone: the MACs of a matrix product are made inside the check
    /// ([`Spdz::sigma_matrix`]), those of elementwise products by
    /// [`Sharing::beaver`] and [`Spdz::mac`].
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
        let terms = [(Fp61::ONE, &c.value), (Fp61::ONE, &mask.value)];
        let masked = self.backend.linear(dims.lens().2, &terms, Fp61::ZERO);
        self.backend.beaver(dims, &masked, d, e, &a.value, &b.value, self.first)
    }

    fn opening(&self, x: &Self::Secret) -> B::Words {
        x.value.clone()
    }
    /// The sum. Additive shares have no degree and no redundancy; nothing may
    /// be revealed before the check has passed.
    fn decode(&self, _: Degree, from: &[Slot], shares: &[B::Words]) -> Result<Decoded<B::Words>, DecodeError> {
        assert_eq!(shares.len(), usize::from(self.roster.nodes()), "one share per node");
        let own = self.backend.len(&shares[self.slot.index()]);
        decode::check_lengths(&self.backend, from.iter().copied().zip(shares), own)?;
        let terms: Vec<_> = shares.iter().map(|share| (Fp61::ONE, share)).collect();
        Ok(Decoded { words: self.backend.linear(own, &terms, Fp61::ZERO), blamed: Vec::new() })
    }
    /// The sum, as in [`Sharing::decode`]. No plan opens by kings here: a wrong
    /// sum of all shares is what the MAC check is for, so a king has nothing to
    /// leave to a combination.
    fn interpolate(&self, degree: Degree, shares: &[(Slot, B::Words)]) -> Result<B::Words, DecodeError> {
        let (from, words): (Vec<_>, Vec<_>) = shares.iter().cloned().unzip();
        Ok(self.decode(degree, &from, &words)?.words)
    }
    fn output(&self, x: &Self::Secret) -> Vec<B::Words> {
        vec![x.value.clone(), x.mac.clone()]
    }
    fn held(&self, output: Vec<B::Words>) -> Self::Secret {
        let [value, mac] = <[_; 2]>::try_from(output).ok().expect("a share is a value and its MAC");
        AuthShare { value, mac }
    }
}

/// The owner of an SPDZ job: it holds the keys of all slots, and α.
pub struct SpdzDealer {
    roster: Roster,
    keys: Vec<PrgKey>,
    alpha: Zeroizing<Fp61>,
}

impl SpdzDealer {
    /// Derives one key per slot from the job's key.
    pub(super) fn new(roster: Roster, job: &PrgKey) -> Self {
        let keys: Vec<_> = roster.slots().map(|slot| job.derive("beaverdam v1 slot key", &[slot.0])).collect();
        let sum = keys.iter().map(|key| *alpha(key)).sum();
        Self { roster, keys, alpha: Zeroizing::new(sum) }
    }

    fn sum_of_streams(&self, address: Address, first: u64, out: &mut [Fp61]) {
        super::prss::values(self.keys.iter(), address, first, out);
    }
}

impl Dealer for SpdzDealer {
    fn roster(&self) -> Roster {
        self.roster
    }
    fn uniform_range(&self, address: Address, first: u64, out: &mut [Fp61]) {
        self.sum_of_streams(Address { domain: Domain::Value, ..address }, first, out);
    }
    fn uniform_bits_range(&self, _: Address, _: u64, _: &mut [u64]) {
        unreachable!("only rosters that pack bits are dealt packed bits")
    }
    fn mac_corrections_range(&self, address: Address, first: u64, values: &[Fp61]) -> Option<Vec<Fp61>> {
        let mut macs = Zeroizing::new(vec![Fp61::ZERO; values.len()]);
        self.sum_of_streams(Address { domain: Domain::Mac, ..address }, first, &mut macs);
        Some(values.iter().zip(macs.iter()).map(|(x, drawn)| *self.alpha * *x - *drawn).collect())
    }
    fn slot_keys(&self, slot: Slot) -> SlotKeys {
        SlotKeys::Spdz(self.keys[slot.index()].clone())
    }
    fn key_hashes(&self) -> Vec<KeyHash> {
        self.keys.iter().map(KeyHash::of).collect()
    }

    /// All n nodes give their value shares and then their MAC shares; y = Σ
    /// of the values counts if Σ of the MACs is α·y. That alone does not say
    /// that the computation was right: the transcripts of all nodes must show
    /// a passed check over every opening.
    fn verify_output(&self, n: usize, shares: &[(Slot, Vec<Fp61>)]) -> Result<Verified, OutputError> {
        let shares = by_slot(self.roster, 2 * n, shares)?;
        let needed = usize::from(self.roster.nodes());
        if shares.len() < needed {
            return Err(OutputError::TooFew { found: shares.len(), needed, roster: self.roster });
        }
        let mut sums = Zeroizing::new(vec![Fp61::ZERO; 2 * n]);
        for share in shares.values() {
            slice::add(&mut sums, share);
        }
        let (words, macs) = sums.split_at(n);
        match words.iter().zip(macs).position(|(word, mac)| *self.alpha * *word != *mac) {
            Some(word) => Err(OutputError::Mac { word }),
            None => Ok(Verified { words: Zeroizing::new(words.to_vec()), blamed: Vec::new() }),
        }
    }
}
