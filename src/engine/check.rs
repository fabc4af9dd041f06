//! What is owed to a check, its exchanges, and the proof that it passed.
//!
//! SPDZ opens words whose MACs nobody has looked at yet. Each is kept here
//! until the check: fresh coefficients, one σ a node, committed before any is
//! opened (Damgård–Pastro–Smart–Zakarias, eprint 2011/535, and Damgård et al.,
//! eprint 2012/642; the matrix terms are derived in `docs/protocols.md`).
//! Shamir's openings carry their redundancy and owe nothing.

use std::mem::take;

use super::frame::{Body, Kind};
use super::{Action, EPOCH, Engine, EngineError, Own, Record, Step, VIEW, all_equal, digest};
use crate::backend::{Backend, BackendError};
use crate::field::Fp61;
use crate::prg::{Address, Domain};
use crate::roster::Slot;
use crate::sharing::{MaskedMatrix, Shamir, Sharing, Spdz, Words};
use crate::transcript::{CheckPoint, Coin, Commitment, Opened, Purpose};

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

/// The exchanges of a check: of MACs in SPDZ (eprint 2012/642, section 3: commit, then
/// open), of what kings opened in Shamir.
impl<S: Verify> Engine<S> {
    pub(super) fn begin_check(&mut self, out: &mut Vec<Action>) -> Step<()> {
        let body = Body::Digest(self.transcript.digest());
        self.exchange(Kind::Freeze, body, Own::Nothing, None, out)
    }

    /// An exchange of a check is complete.
    pub(super) fn checked(
        &mut self,
        (kind, own, said): (Kind, Own<S>, &Body),
        bodies: &[(Slot, Body)],
        out: &mut Vec<Action>,
    ) -> Step<()> {
        match kind {
            Kind::Freeze => {
                all_equal(kind, said, bodies)?;
                let point = CheckPoint {
                    manifest: self.manifest,
                    epoch: EPOCH,
                    view: VIEW,
                    check: self.checks,
                    transcript: self.transcript.digest(),
                };
                self.commit(Kind::CoinCommit, point, Purpose::Coin, &[], out)
            }
            Kind::CoinCommit => self.open_commitment(Kind::CoinOpen, own, said, bodies, None, out),
            Kind::CoinOpen => {
                let Own::Opened { point, commitments } = own else { unreachable!("set by open_commitment") };
                let opened = self.verify_openings(Purpose::Coin, &point, &commitments, said, bodies)?;
                let coin = Coin::toss(&point, self.roster().nodes(), &opened)?;
                let body = Body::Digest(coin.digest());
                self.exchange(Kind::CoinAgree, body, Own::Tossed { point, coin }, None, out)
            }
            Kind::CoinAgree => {
                all_equal(kind, said, bodies)?;
                let Own::Tossed { point, coin } = own else { unreachable!("set with the coin") };
                self.transcript.absorb_coins(self.checks, &coin);
                if !S::OWES {
                    return self.combine(&coin, out);
                }
                let sigma = self.machine.sharing.sigma_of(&take(&mut self.owed), &coin)?;
                self.commit(Kind::SigmaCommit, point, Purpose::Sigma, &sigma.word().to_le_bytes(), out)
            }
            Kind::SigmaCommit => {
                let record = Record::CheckOpened { check: self.checks };
                self.open_commitment(Kind::SigmaOpen, own, said, bodies, Some(record), out)
            }
            Kind::SigmaOpen => {
                let Own::Opened { point, commitments } = own else { unreachable!("set by open_commitment") };
                let opened = self.verify_openings(Purpose::Sigma, &point, &commitments, said, bodies)?;
                let mut sum = Fp61::ZERO;
                for o in &opened {
                    let words = crate::field::slice::decode_words(o.payload())
                        .map_err(|source| EngineError::Frame { from: o.sender(), source: source.into() })?;
                    sum += words.into_iter().sum();
                }
                // Both are public by now; nothing secret decides.
                if sum != Fp61::ZERO {
                    return Err(EngineError::CheckFailed { check: self.checks });
                }
                self.check_passed(out)
            }
            Kind::Passed => {
                all_equal(kind, said, bodies)?;
                self.checks += 1;
                if self.ending { self.done(out) } else { self.begin_round(out) }
            }
            _ => unreachable!("not an exchange of a check"),
        }
    }

    fn commit(
        &mut self,
        kind: Kind,
        point: CheckPoint,
        purpose: Purpose,
        payload: &[u8],
        out: &mut Vec<Action>,
    ) -> Step<()> {
        let mut nonce = [0; 32];
        self.rng.fill_bytes(&mut nonce);
        let (commitment, opening) = Commitment::commit(&point, purpose, self.slot(), nonce, payload);
        self.exchange(kind, Body::Digest(commitment.to_bytes()), Own::Commit { point, opening }, None, out)
    }

    /// The check passed here; it counts once all nodes say so. What was sent for it is without
    /// danger from now on, and whoever says so can go on from here: both are on disk first.
    pub(super) fn check_passed(&mut self, out: &mut Vec<Action>) -> Step<()> {
        self.transcript.absorb_check(self.checks, true);
        self.checkpoint_behind_check(out)?;
        let body = Body::Digest(self.transcript.digest());
        let record = Record::CheckPassed { check: self.checks };
        self.exchange(Kind::Passed, body, Own::Nothing, Some(record), out)
    }

    /// All commitments are held: only now is the own one opened.
    fn open_commitment(
        &mut self,
        kind: Kind,
        own: Own<S>,
        own_commitment: &Body,
        bodies: &[(Slot, Body)],
        record: Option<Record>,
        out: &mut Vec<Action>,
    ) -> Step<()> {
        let Own::Commit { point, opening } = own else { unreachable!("set by commit") };
        let mut commitments = Vec::with_capacity(bodies.len() + 1);
        for slot in self.roster().slots() {
            let body = bodies.iter().find(|(from, _)| *from == slot).map_or(own_commitment, |(_, body)| body);
            commitments.push(Commitment::from_bytes(*digest(body)));
        }
        self.exchange(kind, Body::Opening(opening), Own::Opened { point, commitments }, record, out)
    }

    /// Every opening must fit its sender's commitment.
    fn verify_openings(
        &self,
        purpose: Purpose,
        point: &CheckPoint,
        commitments: &[Commitment],
        own: &Body,
        bodies: &[(Slot, Body)],
    ) -> Step<Vec<Opened>> {
        let mut opened = Vec::with_capacity(commitments.len());
        for (slot, commitment) in self.roster().slots().zip(commitments) {
            let body = bodies.iter().find(|(from, _)| *from == slot).map_or(own, |(_, body)| body);
            let Body::Opening(opening) = body else { unreachable!("decoded by kind") };
            opened.push(commitment.verify(point, purpose, slot, opening)?);
        }
        Ok(opened)
    }
}
