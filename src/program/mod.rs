//! Programs: what to compute on secrets, and the plan of how.

pub mod graph;
pub mod plan;
