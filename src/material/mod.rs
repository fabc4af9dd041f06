//! Correlated randomness: where each piece lies in the dealer's stream, at
//! which address its pseudorandom part is drawn, and how the owner deals it.
//!
//! Node and owner derive the pseudorandom half of all material without talking
//! (PRSS: Cramer, Damgård, Ishai, TCC 2005; SPDZ: each slot's own stream); what
//! is missing to make sharings of chosen values is the public Δ that
//! [`SegmentStream`] writes. Material is used at most once: an address names
//! one op of one plan in one job and attempt, and a stream is consumed while
//! it is dealt.
//!
//! **Who may be corrupt.** The dealer knows every mask, so it must be the
//! owner of all data of the job; nodes trust it for nothing but its own
//! result. Δ is pseudorandom to any set of nodes that the roster allows to be
//! corrupt and may be stored anywhere, provided that it is authentic and
//! agreed, which is what segment headers and the transcript are for.

mod deal;

pub(crate) use deal::dealt;
pub use deal::{SegmentStream, input_corrections};

use std::ops::Range;

use crate::prg::{Address, Domain};
use crate::program::plan::{Demand, MaterialId, Part};
use crate::roster::{Roster, Scheme};

/// Material cannot be dealt for this plan. The owner's own inputs are at
/// fault; nothing here comes from a peer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MaterialError {
    /// The plan contradicts itself.
    #[error("material op {op} of the plan cannot be dealt: {reason}; report this as a bug of the planner")]
    Plan {
        /// the op
        op: usize,
        /// what is wrong
        reason: String,
    },
    /// The dealer's keys are for another roster than the plan.
    #[error("the dealer's keys are for {found}, the plan for {expected}: derive the keys for the plan's roster")]
    Roster {
        /// of the keys
        found: Roster,
        /// of the plan
        expected: Roster,
    },
    /// The signed stream is not the plan's.
    #[error(
        "the manifest names {found} words of material in {attempts} attempts, the plan needs {expected} for attempt {attempt}"
    )]
    Stream {
        /// words in the manifest
        found: u64,
        /// attempts in the manifest
        attempts: u32,
        /// words of the plan
        expected: u64,
        /// attempt asked for
        attempt: u32,
    },
    /// The plan has no such input.
    #[error("the plan has {inputs} inputs, there is no number {number}")]
    NoInput {
        /// number asked for
        number: u32,
        /// how many there are
        inputs: usize,
    },
    /// An input of the wrong length.
    #[error("input {name:?} has {found} values, the program expects {expected}: check the shape of the data")]
    Input {
        /// its name
        name: String,
        /// values found
        found: usize,
        /// values expected
        expected: usize,
    },
}

/// The address at which a part of a material op is drawn. In SPDZ the scheme
/// itself moves MAC words to their own domain.
pub fn address(material: MaterialId, part: Part, attempt: u32) -> Address {
    Address { domain: Domain::Value, input: false, op: material.0, part: part.number(), attempt }
}

/// The address of the zero sharing of a [`Material::Zero`](crate::program::plan::Material::Zero).
pub fn zero_address(material: MaterialId, attempt: u32) -> Address {
    Address { domain: Domain::Zero, ..address(material, Part::Value, attempt) }
}

/// The address at which an input is drawn.
pub fn input_address(number: u32) -> Address {
    Address { domain: Domain::Value, input: true, op: number, part: 0, attempt: 0 }
}

/// Where the Δ of a part lies in the job's stream; empty if it has none (a
/// uniform word of Shamir), `None` if the op has no such part.
pub fn delta_range(roster: Roster, demand: &Demand, part: Part) -> Option<Range<u64>> {
    let mut start = demand.offset;
    for (found, n, dealt) in demand.material.parts() {
        let end = start + delta_words(roster, n, dealt);
        if found == part {
            return Some(start..end);
        }
        start = end;
    }
    None
}

/// The Δ words of n drawn words: their value corrections if they are dealt,
/// then in SPDZ their MAC corrections.
fn delta_words(roster: Roster, n: usize, dealt: bool) -> u64 {
    let macs = roster.scheme() == Scheme::Spdz;
    n as u64 * (u64::from(dealt) + u64::from(macs))
}
