//! A sharing that lies in one opening, so that the cheater's own engine goes on
//! as if nothing had happened: the strongest position against the checks.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::backend::Backend;
use crate::backend::BackendError;
use crate::backend::cpu::{Cpu, Words};
use crate::engine::{Owed, Verify};
use crate::field::Fp61;
use crate::prg::Address;
use crate::roster::{Degree, Roster, Slot};
use crate::sharing::{AuthShare, DecodeError, Decoded, Delta, Raw, Sharing, Spdz};
use crate::tensor::{Dims, View};
use crate::transcript::Coin;

/// SPDZ with δ = 1 added to the first word of one opening, counted from 0.
pub struct Cheat {
    pub honest: Spdz<Cpu>,
    pub at: usize,
    pub openings: Arc<AtomicUsize>,
}

impl Cheat {
    fn lie(&self, words: Words) -> Words {
        if self.openings.fetch_add(1, Ordering::Relaxed) != self.at {
            return words;
        }
        let mut words = Cpu.read(&words).unwrap().to_vec();
        words[0] += Fp61::ONE;
        Cpu.load(words)
    }
}

type Secret = AuthShare<Words>;

impl Sharing for Cheat {
    type Backend = Cpu;
    type Secret = Secret;
    type Product = <Spdz<Cpu> as Sharing>::Product;

    fn opening(&self, x: &Secret) -> Words {
        self.lie(self.honest.opening(x))
    }
    fn masked_beaver(
        &self,
        dims: Dims,
        c: &Secret,
        d: &Words,
        e: &Words,
        a: &Secret,
        b: &Secret,
        mask: &Secret,
    ) -> Words {
        self.lie(self.honest.masked_beaver(dims, c, d, e, a, b, mask))
    }

    fn roster(&self) -> Roster {
        self.honest.roster()
    }
    fn slot(&self) -> Slot {
        self.honest.slot()
    }
    fn backend(&self) -> &Cpu {
        self.honest.backend()
    }
    fn len(&self, x: &Secret) -> usize {
        self.honest.len(x)
    }
    fn linear(&self, n: usize, secret: &[(Fp61, &Secret)], public: &[(Fp61, &Words)], constant: Fp61) -> Secret {
        self.honest.linear(n, secret, public, constant)
    }
    fn view(&self, view: &View, inputs: &[&Secret]) -> Secret {
        self.honest.view(view, inputs)
    }
    fn times_public(&self, dims: Dims, x: &Secret, p: &Words) -> Secret {
        self.honest.times_public(dims, x, p)
    }
    fn public_times(&self, dims: Dims, p: &Words, x: &Secret) -> Secret {
        self.honest.public_times(dims, p, x)
    }
    fn shift(&self, c: &Words, thresholds: &[i64], by: u8, high: &Secret, msb: &Secret, constant: Fp61) -> Secret {
        self.honest.shift(c, thresholds, by, high, msb, constant)
    }
    fn leaf(
        &self,
        c: &Words,
        t: &[i64],
        from: u8,
        bits: u8,
        rows: &Secret,
        carry: Option<&Secret>,
    ) -> (Secret, Secret) {
        self.honest.leaf(c, t, from, bits, rows, carry)
    }
    fn beaver(&self, dims: Dims, c: &Secret, d: &Words, e: &Words, a: &Secret, b: &Secret) -> Secret {
        self.honest.beaver(dims, c, d, e, a, b)
    }
    fn raw(&self, address: Address, n: usize) -> Raw<Cpu> {
        self.honest.raw(address, n)
    }
    fn correct(&self, raw: Raw<Cpu>, dealt: bool, delta: Delta<'_>) -> Secret {
        self.honest.correct(raw, dealt, delta)
    }
    fn delta_words(roster: Roster, n: usize, dealt: bool) -> usize {
        Spdz::<Cpu>::delta_words(roster, n, dealt)
    }
    fn product(&self, dims: Dims, x: &Secret, y: &Secret) -> Self::Product {
        self.honest.product(dims, x, y)
    }
    fn zeros(&self, address: Address, n: usize) -> Raw<Cpu> {
        self.honest.zeros(address, n)
    }
    fn masked_product(&self, product: Self::Product, mask: &Secret, zeros: Raw<Cpu>) -> Words {
        self.honest.masked_product(product, mask, zeros)
    }
    fn decode(&self, degree: Degree, from: &[Slot], shares: &[Words]) -> Result<Decoded<Words>, DecodeError> {
        self.honest.decode(degree, from, shares)
    }
    fn interpolate(&self, degree: Degree, shares: &[(Slot, Words)]) -> Result<Words, DecodeError> {
        self.honest.interpolate(degree, shares)
    }
    fn output(&self, x: &Secret) -> Vec<Words> {
        self.honest.output(x)
    }
    fn held(&self, output: Vec<Words>) -> Secret {
        self.honest.held(output)
    }
}

impl Verify for Cheat {
    const OWES: bool = true;

    fn sigma_of(&self, owed: &[Owed<Self>], coin: &Coin) -> Result<Fp61, BackendError> {
        let owed: Vec<Owed<Spdz<Cpu>>> = owed
            .iter()
            .map(|o| match o {
                Owed::Words { opened, secret } => Owed::Words { opened: opened.clone(), secret: secret.clone() },
                Owed::Matrix { dims, secrets, operands, opened } => Owed::Matrix {
                    dims: *dims,
                    secrets: secrets.clone(),
                    operands: operands.clone(),
                    opened: opened.clone(),
                },
            })
            .collect();
        self.honest.sigma_of(&owed, coin)
    }
}
