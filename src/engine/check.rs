//! What is owed to a check, and the proof that it passed.
//!
//! SPDZ opens words whose MACs nobody has looked at yet. Each is kept here
//! until the check: fresh coefficients, one σ a node, committed before any is
//! opened (Damgård–Pastro–Smart–Zakarias, eprint 2011/535, and Damgård et al.,
//! eprint 2012/642; the matrix terms are derived in `docs/protocols.md`).
//! Shamir's openings carry their redundancy and owe nothing.

use crate::backend::{Backend, BackendError};
use crate::field::Fp61;
use crate::prg::{Address, Domain};
use crate::sharing::{MaskedMatrix, Shamir, Sharing, Spdz, Words};
use crate::transcript::Coin;

/// The proof that everything opened so far has been verified and that all
/// nodes hold the same transcript. Only a passed check makes one, and nothing
/// is revealed without it.
#[derive(Debug)]
pub struct Passed {
    pub(super) transcript: [u8; 32],
    pub(super) checks: u32,
}

impl Passed {
    /// The transcript that all nodes hold.
    pub fn transcript(&self) -> [u8; 32] {
        self.transcript
    }
    /// How many checks passed over the whole job.
    pub fn checks(&self) -> u32 {
        self.checks
    }
}

/// An opening that a check has to cover.
pub enum Owed<S: Sharing> {
    /// opened words, and the secret whose MACs they must fit
    Words {
        /// as opened
        opened: Words<S>,
        /// what was opened
        secret: S::Secret,
    },
    /// a matrix product opened under its mask, its MACs not yet made
    Matrix {
        /// m, k, n
        dims: (usize, usize, usize),
        /// shares c, a, b and the mask
        secrets: [S::Secret; 4],
        /// opened operands D and E
        operands: [Words<S>; 2],
        /// as opened
        opened: Words<S>,
    },
}

/// A sharing whose openings the engine can verify.
pub trait Verify: Sharing + Sized {
    /// Whether openings owe a MAC check.
    const OWES: bool;

    /// This node's σ over everything owed, with coefficients from the coin.
    fn sigma_of(&self, owed: &[Owed<Self>], coin: &Coin) -> Result<Fp61, BackendError>;
}

impl<B: Backend> Verify for Shamir<B> {
    const OWES: bool = false;

    fn sigma_of(&self, _: &[Owed<Self>], _: &Coin) -> Result<Fp61, BackendError> {
        Ok(Fp61::ZERO)
    }
}

impl<B: Backend> Verify for Spdz<B> {
    const OWES: bool = true;

    fn sigma_of(&self, owed: &[Owed<Self>], coin: &Coin) -> Result<Fp61, BackendError> {
        let key = coin.key();
        // Streams are numbered apart: 0 for the words, then u and v for each
        // matrix. All coefficients are independent, never powers of one.
        let stream =
            |op: u32, part: u8| key.stream(Address { domain: Domain::Value, input: false, op, part, attempt: 0 });
        let words: Vec<_> = owed
            .iter()
            .filter_map(|o| match o {
                Owed::Words { opened, secret } => Some((opened, self.mac(secret))),
                Owed::Matrix { .. } => None,
            })
            .collect();
        let mut sigma = self.sigma(&stream(0, 0), &words)?;
        let mut op = 0;
        for item in owed {
            let Owed::Matrix { dims: (m, k, n), secrets: [c, a, b, mask], operands: [d, e], opened } = item else {
                continue;
            };
            op += 1;
            let random = |part, len| self.backend().expand(len, &[(Fp61::ONE, stream(op, part))], None);
            let (u, v) = (random(1, *m), random(2, *n));
            let product = MaskedMatrix { m: *m, k: *k, n: *n, c, d, e, a, b, mask, opened };
            sigma += self.sigma_matrix(&product, &u, &v)?;
        }
        Ok(sigma)
    }
}
