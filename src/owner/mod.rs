//! The data owner: prepares a job, deals its material, and reads its result.
//!
//! [`prepare`] and [`read`] are pure functions of keys, programs and bytes;
//! the client that speaks to node agents is built upon them.
//!
//! The owner knows its data anyway, so it may deal the correlated randomness;
//! it must be the only owner of the inputs (a dealer together with one node
//! learns everything).

#[cfg(feature = "net")]
pub mod blocking;
#[cfg(feature = "net")]
mod client;
mod dealing;
mod moving;
mod prepare;
mod read;
#[cfg(test)]
mod tests;

#[cfg(feature = "cli")]
pub(crate) use client::stopped;
#[cfg(feature = "net")]
pub use client::{
    ClientError, Ended, Job, JobState, Node, Progress, cancel, cancel_each, data, fetch, jobs, resume, states, submit,
    wait,
};
pub use dealing::Dealing;
pub use moving::{Destination, Held, Moved, Moving, check_continues};
#[cfg(feature = "cli")]
pub(crate) use prepare::must_use_attempts;
pub use prepare::{Prepared, Request, prepare};
pub use read::{Results, Ticket, read};

use crate::entropy::NoEntropy;
use crate::field::DecodeError;
use crate::job::{ExtensionError, JobError, ManifestError, ReceiptError};
use crate::material::MaterialError;
use crate::program::{PlanError, ProgramError};
use crate::roster::{Roster, Slot};
use crate::seal::SealError;
use crate::sharing::OutputError;
use crate::transcript::TranscriptError;

/// Why a job could not be prepared, or its result not be relied on.
#[derive(Debug, thiserror::Error)]
pub enum OwnerError {
    /// The program or its inputs were refused.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The program has no plan for the roster.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The manifest was refused.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// More attempts cannot be dealt.
    #[error(transparent)]
    Extension(#[from] ExtensionError),
    /// The key is not the one that signed the job.
    #[error("this key ({found}) did not sign the job, {expected} did: use the owner's key")]
    NotOwner {
        /// short form of the key at hand
        found: String,
        /// short form of the owner's
        expected: String,
    },
    /// The material could not be dealt.
    #[error(transparent)]
    Material(#[from] MaterialError),
    /// Material that nobody would use.
    #[error(
        "{attempts} attempts are asked for on {roster}, expected 1: only SPDZ jobs go on with other material; under Shamir plan for losses instead (--losses)"
    )]
    Attempts {
        /// of which scheme
        roster: Roster,
        /// how many
        attempts: u32,
    },
    /// A job that cannot go on elsewhere from where it is.
    #[error("the job cannot be moved now: {reason}")]
    Unmovable {
        /// why, and what to do
        reason: String,
    },
    /// Δ of an input is not the signed one.
    #[error(
        "the data that the nodes gave is not what the manifest names: {source}; ask again, and distrust them if this repeats"
    )]
    Delta {
        /// what differs
        source: TranscriptError,
    },
    /// A value at the border is none that the program can produce.
    #[error(
        "{name:?} at the border leaves {signature}: a range that the program declares did not hold, so the job's result may be wrong too: submit it anew with a wider range"
    )]
    Carried {
        /// what crosses
        name: String,
        /// its type and shape
        signature: String,
    },
    /// A job does not go on from another one.
    #[error("the job is not what is left of the earlier one: {reason}")]
    Continues {
        /// what differs
        reason: String,
    },
    /// There is no randomness.
    #[error(transparent)]
    Entropy(#[from] NoEntropy),
    /// A reader that the program names has no key.
    #[error("output {output:?} is for {reader:?}, whose key is not known: give it with --reader {reader}=KEY")]
    Reader {
        /// the output
        output: String,
        /// the name in the program
        reader: String,
    },
    /// A file is no ticket.
    #[error("found {found} bytes that are no job ticket: give the file that `submit` wrote")]
    Ticket {
        /// bytes found
        found: usize,
    },
    /// What a node gave is no result.
    #[error("{slot}: {source}")]
    Node {
        /// who
        slot: Slot,
        /// why
        source: JobError,
    },
    /// The receipts do not agree.
    #[error(transparent)]
    Receipts(#[from] ReceiptError),
    /// A sealed share is not the one that its node signed.
    #[error(
        "{slot}: its sealed share of output {output:?} is not the one in its receipt: fetch it again, and distrust the node if this repeats"
    )]
    NotSigned {
        /// who
        slot: Slot,
        /// which output
        output: String,
    },
    /// A sealed share does not open.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// A sealed share holds no field elements.
    #[error("{slot}: its share of output {output:?}: {reason}; the result cannot be relied on")]
    Share {
        /// who
        slot: Slot,
        /// which output
        output: String,
        /// what was found
        reason: String,
    },
    /// The shares do not fit together.
    #[error("output {output:?}: {source}")]
    Output {
        /// which output
        output: String,
        /// why
        source: OutputError,
    },
    /// A value outside of what the program can produce.
    #[error("output {output:?}: {source}: a declared range did not hold")]
    Decode {
        /// which output
        output: String,
        /// why
        source: DecodeError,
    },
    /// This key reads none of the outputs.
    #[error("this key ({key}) is the reader of none of the job's outputs: use the key that the manifest names")]
    NotAReader {
        /// its short form
        key: String,
    },
}
