//! Programs: what to compute on secrets, and the plan of how.
//!
//! A [`Builder`] records operations on [`Tensor`] handles and finishes a
//! [`Program`]: typed, ranged, digestible, independent of who computes it.
//! The room knows rosters, never nodes, keys, material or time.

mod attempts;
mod builder;
mod check;
mod checkpoints;
mod cost;
mod dry_run;
mod error;
mod evaluate;
mod functions;
pub mod graph;
#[doc(hidden)]
pub mod ideal;
pub mod kings;
mod lower;
mod octaves;
pub mod plan;
mod planning;
#[doc(hidden)]
pub mod random;
mod serial;
pub mod table;
mod tail;
mod types;

pub use attempts::Drawing;
#[cfg(test)]
pub(crate) use attempts::tests::with_a_bias;
pub use builder::{Builder, Tensor};
pub use check::{MAX_NAME, MAX_REPEAT, MAX_SHIFT, MAX_THRESHOLDS, MAX_VALUES};
pub use checkpoints::Live;
#[cfg(test)]
pub(crate) use checkpoints::tests::eager;
pub use cost::{
    Cost, LINK_BYTES_PER_SECOND, MATRIX_MULTIPLY_ADDS_PER_SECOND, MULTIPLY_ADDS_PER_SECOND, OUTPUT_WORDS_PER_SECOND,
    Report, SECONDS_PER_EXCHANGE, SECONDS_PER_JOB, WORDS_PER_SECOND,
};
pub use dry_run::{DryRun, MAX_DRY_ELEMENTS, Seen};
pub use error::ProgramError;
pub use graph::{MAX_DEPTH, Signature, Type};
pub use lower::{Departing, Departure, MAX_PRIMS, PlanError};
pub use planning::{Comparisons, LASTING_COST, LONG_JOB, Openings, Planning};
pub use serial::{MAX_BYTES, Program};
pub use tail::{Border, Crossing, Tail};
pub use types::{BOUND, DEFAULT_FRAC, MAX_FRAC};
