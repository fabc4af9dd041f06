//! Linear secret sharing: what one node holds of a secret, what it may do with
//! it alone, and how shares are opened.
//!
//! Both schemes run the same programs (protocols.md section 2). A value of
//! [`Sharing`] is one node's end: its slot, its keys, its backend. It knows no
//! peer, no round and no program.

mod dealer;
mod decode;
pub mod packed;
mod prss;
mod raw;
mod shamir;
mod spdz;

pub use dealer::{Dealer, KeyHash, OutputError, SlotKeys, Verified, job_keys};
pub use raw::Raw;
pub use shamir::{Product, Shamir, ShamirDealer, Share};
pub use spdz::{AuthShare, MaskedMatrix, NoProduct, Spdz, SpdzDealer};

use crate::backend::{Backend, BackendError};
use crate::field::{Fp61, Parts};
use crate::prg::{Address, Domain, PrgKey};
use crate::roster::{Degree, Roster, Scheme, Slot, Subset};
use crate::tensor::{Dims, View};

/// A node could not be set up: its keys do not fit its place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SharingError {
    /// The roster is of the other scheme.
    #[error("keys of the scheme {found:?} do not serve the roster {roster}: ask the owner for this job's keys")]
    Scheme {
        /// the scheme of the keys
        found: Scheme,
        /// the roster
        roster: Roster,
    },
    /// The slot is not in the roster.
    #[error("{slot} is not in the roster {roster}: expected a slot from 1 to {}", .roster.nodes())]
    Slot {
        /// the slot
        slot: Slot,
        /// the roster
        roster: Roster,
    },
    /// A key of a subset that the node belongs to is missing.
    #[error("{slot} lacks the key of subset {:#b} of {roster}: ask the owner for this job's keys", .subset.0)]
    MissingKey {
        /// the node
        slot: Slot,
        /// whose key is missing
        subset: Subset,
        /// the roster
        roster: Roster,
    },
    /// A key that the node must not hold, or that no subset has.
    #[error(
        "{slot} was given a key of subset {:#b}, which is none of its subsets in {roster}: refuse the job, its sharing is not private",
        .subset.0
    )]
    ForeignKey {
        /// the node
        slot: Slot,
        /// whose key it is
        subset: Subset,
        /// the roster
        roster: Roster,
    },
    /// The manifest names another number of key hashes than the roster has keys.
    #[error("the manifest names {found} key hashes, {roster} has {expected}: refuse the manifest")]
    Hashes {
        /// hashes found
        found: usize,
        /// hashes expected
        expected: usize,
        /// the roster
        roster: Roster,
    },
    /// A key is not the one that the manifest names.
    #[error("the key{} given to {slot} is not the one in the manifest: refuse the job", subset_of(.of))]
    WrongKey {
        /// the node
        slot: Slot,
        /// the key's subset, or none for the slot's own key
        of: Option<Subset>,
    },
}

fn subset_of(of: &Option<Subset>) -> String {
    of.map(|subset| format!(" of subset {:#b}", subset.0)).unwrap_or_default()
}

/// Shares received for one opening could not be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A share vector has the wrong number of words.
    #[error("{from} sent {found} words for an opening of {expected}")]
    Length {
        /// who sent it
        from: Slot,
        /// words found
        found: usize,
        /// words expected
        expected: usize,
    },
    /// The shares lie on no polynomial of the degree, and too few are right to
    /// say which are wrong: the job must end (protocols.md section 2).
    #[error(
        "shares of word {word} of an opening lie on no polynomial of degree {degree}: a node cheats, the job ends with nothing revealed"
    )]
    Inconsistent {
        /// first word that fails
        word: usize,
        /// the degree expected
        degree: usize,
    },
    /// The device failed.
    #[error(transparent)]
    Backend(#[from] BackendErrorEq),
}

/// A [`BackendError`] that compares by its text.
#[derive(Debug, Clone, thiserror::Error)]
#[error(transparent)]
pub struct BackendErrorEq(#[from] pub BackendError);
impl PartialEq for BackendErrorEq {
    fn eq(&self, other: &Self) -> bool {
        self.0.to_string() == other.0.to_string()
    }
}
impl Eq for BackendErrorEq {}

/// What decoding an opening gave.
pub struct Decoded<W> {
    /// the opened words
    pub words: W,
    /// slots whose shares were wrong and were corrected, ascending
    pub blamed: Vec<Slot>,
}

/// The corrections Δ for one drawn part: verified, agreed words of the
/// dealer's stream, in the layout that [`Sharing::delta_words`] states.
pub type Delta<'a> = Parts<'a>;

/// One node's end of a linear secret-sharing scheme.
pub trait Sharing: Send + Sync + 'static {
    /// Where the words live.
    type Backend: Backend;
    /// This node's share of a tensor: no `Debug`, no `PartialEq`, wiped on drop.
    type Secret: Clone + Send + Sync;
    /// This node's word-wise product of two shares: degree 2t, another type
    /// than a sharing, good only to be opened under a mask.
    type Product: Send;

    /// Scheme, n and t.
    fn roster(&self) -> Roster;
    /// This node's slot.
    fn slot(&self) -> Slot;
    /// The device.
    fn backend(&self) -> &Self::Backend;
    /// This node's end of the sharing of packed bits, if the roster has one.
    fn packed(&self) -> Option<&packed::Replicated> {
        None
    }
    /// How many words the share has.
    fn len(&self, x: &Self::Secret) -> usize;

    /// Σ k·x + Σ k·p + constant, all of n words: x secret, p public.
    fn linear(
        &self,
        n: usize,
        secret: &[(Fp61, &Self::Secret)],
        public: &[(Fp61, &Words<Self>)],
        constant: Fp61,
    ) -> Self::Secret;
    /// Applies an index map to a secret.
    fn view(&self, view: &View, inputs: &[&Self::Secret]) -> Self::Secret;
    /// x·p by a public tensor: elementwise, or `x × p` as matrices.
    fn times_public(&self, dims: Dims, x: &Self::Secret, p: &Words<Self>) -> Self::Secret;
    /// p·x by a public matrix on the left.
    fn public_times(&self, dims: Dims, p: &Words<Self>, x: &Self::Secret) -> Self::Secret;
    /// The exact shift of an opening c under a mask r with `high` = r >> by
    /// and `msb` = bit 60 of r, see [`Backend::shift`].
    fn shift(
        &self,
        c: &Words<Self>,
        thresholds: &[i64],
        by: u8,
        high: &Self::Secret,
        msb: &Self::Secret,
        constant: Fp61,
    ) -> Self::Secret;
    /// Comparison leaves, see [`Backend::leaf`].
    fn leaf(
        &self,
        c: &Words<Self>,
        thresholds: &[i64],
        from: u8,
        bits: u8,
        one_hot: &Self::Secret,
        carry: Option<&Self::Secret>,
    ) -> (Self::Secret, Self::Secret);
    /// Beaver's combination c + D·b + a·E + D·E with D, E public.
    fn beaver(
        &self,
        dims: Dims,
        c: &Self::Secret,
        d: &Words<Self>,
        e: &Words<Self>,
        a: &Self::Secret,
        b: &Self::Secret,
    ) -> Self::Secret;

    /// This node's n pseudorandom words at an address, nothing of them expanded
    /// yet. The address's domain is set here, whatever it says.
    fn raw(&self, address: Address, n: usize) -> Raw<Self::Backend>;
    /// Shares made of pseudorandom words by Δ. `dealt` says whether the value
    /// itself is dealt (Δ holds n words of value corrections) or uniform; SPDZ
    /// has n words of MAC corrections after them in both cases. Δ must have
    /// [`Sharing::delta_words`] words.
    fn correct(&self, raw: Raw<Self::Backend>, dealt: bool, delta: Delta<'_>) -> Self::Secret;
    /// Draws n words of material at an address: both in one.
    fn draw(&self, address: Address, n: usize, dealt: bool, delta: &[Fp61]) -> Self::Secret {
        self.correct(self.raw(address, n), dealt, delta.into())
    }
    /// The words of Δ that a draw of n words takes under a roster.
    fn delta_words(roster: Roster, n: usize, dealt: bool) -> usize
    where
        Self: Sized;

    /// The local product, if the roster has one ([`Roster::local_products`]).
    fn product(&self, dims: Dims, x: &Self::Secret, y: &Self::Secret) -> Self::Product;
    /// This node's share of n zeros of degree 2t, nothing of it expanded yet.
    /// The address's domain is set here ([`Domain::Zero`]).
    ///
    /// # Panics
    /// Like [`Sharing::product`], where the scheme has none.
    fn zeros(&self, address: Address, n: usize) -> Raw<Self::Backend>;
    /// The share to send of x·y + mask + \[0\]_2t; the zero sharing
    /// ([`Sharing::zeros`], as long as the product) cannot be left out.
    fn masked_product(&self, product: Self::Product, mask: &Self::Secret, zeros: Raw<Self::Backend>) -> Words<Self>;

    /// The share to send of c + D·b + a·E + D·E + mask: a Beaver product that
    /// is opened at once under its mask (SPDZ: values alone, without MACs).
    #[allow(clippy::too_many_arguments)] // Beaver's combination has these parts
    fn masked_beaver(
        &self,
        dims: Dims,
        c: &Self::Secret,
        d: &Words<Self>,
        e: &Words<Self>,
        a: &Self::Secret,
        b: &Self::Secret,
        mask: &Self::Secret,
    ) -> Words<Self>;

    /// The share to send when x itself is opened.
    fn opening(&self, x: &Self::Secret) -> Words<Self>;
    /// Decodes one opening from the shares of some nodes, in slot order, own
    /// share included: interpolates from the first, checks the rest. Under
    /// Shamir at least d + 1, and [`Roster::needed`] if wrong ones must be
    /// noticed; in SPDZ all.
    fn decode(
        &self,
        degree: Degree,
        from: &[Slot],
        shares: &[Words<Self>],
    ) -> Result<Decoded<Words<Self>>, DecodeError>;
    /// Interpolates one opening from the shares of exactly degree + 1 nodes (in
    /// SPDZ those of all nodes), in slot order, and checks nothing: what a king
    /// does with what he gathered. The words count only after the check that
    /// covers them.
    fn interpolate(&self, degree: Degree, shares: &[(Slot, Words<Self>)]) -> Result<Words<Self>, DecodeError>;
    /// What is sealed to the dealer when it reads x: the share, in SPDZ
    /// followed by the MAC share, which nobody else may ever see. Only after a
    /// passed check ([`Dealer::verify_output`] is the other end).
    fn output(&self, x: &Self::Secret) -> Vec<Words<Self>>;
    /// The share whose [`Sharing::output`] these are: one that this node held before.
    fn held(&self, output: Vec<Words<Self>>) -> Self::Secret;
}

/// Σ ρ·word over several vectors, one after the other, with the same ρ for each of `of`:
/// opened words, and a node's shares of them, which gives its share of the combination. The
/// coefficients come from a key, independent ones for all words (never powers of
/// one); a piece of them is there at a time.
pub fn combination<B: Backend, const N: usize>(
    backend: &B,
    coefficients: &PrgKey,
    of: [&[B::Words]; N],
) -> Result<[Fp61; N], BackendError> {
    let (mut piece, mut sums) = (0, [const { Vec::new() }; N]);
    for (i, len) in of[0].iter().map(|words| backend.len(words)).enumerate() {
        for start in (0..len).step_by(COMBINED_AT_ONCE) {
            let end = len.min(start + COMBINED_AT_ONCE);
            let address = Address { domain: Domain::Value, input: false, op: piece, part: 0, attempt: 0 };
            let rho = backend.expand(end - start, &[(Fp61::ONE, coefficients.stream(address))], None);
            let dims = Dims::Matmul { m: 1, k: end - start, n: 1 };
            for (sums, vectors) in sums.iter_mut().zip(of) {
                sums.push(backend.product(dims, &rho, &backend.part(&vectors[i], start..end), None));
            }
            piece += 1;
        }
    }
    let mut combined = [Fp61::ZERO; N];
    for (combined, sums) in combined.iter_mut().zip(&sums) {
        let terms: Vec<_> = sums.iter().map(|sum| (Fp61::ONE, sum)).collect();
        *combined = backend.read(&backend.linear(1, &terms, Fp61::ZERO))?[0];
    }
    Ok(combined)
}

/// Words whose coefficients are expanded at a time: 1 MiB of them.
const COMBINED_AT_ONCE: usize = 1 << 17;

/// The resident words of a sharing's backend.
pub type Words<S> = <<S as Sharing>::Backend as Backend>::Words;

#[cfg(test)]
mod battery;
#[cfg(test)]
mod shamir_tests;
#[cfg(test)]
mod spdz_tests;
