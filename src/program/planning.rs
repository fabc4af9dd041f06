//! What a plan is made for: the network that is expected, and the ways of
//! computing that are forced. It stands in the manifest, because owner and nodes
//! must come to the same plan.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How comparisons are computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Comparisons {
    /// packed bits where the roster has them and the values are many enough to
    /// pay for the rounds that they take more, else digits; in [long jobs](LONG_JOB) digits
    #[default]
    Auto,
    /// digits of 4 bits modulo p: every roster, fewest rounds
    Digits,
    /// packed bits over GF(2): least bytes and work; Shamir (4, 1) alone
    Packed,
}

/// How words are opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Openings {
    /// by kings in the rounds where the bytes that they save pay for the two more
    /// exchanges, if together they also pay for the check; else, and in [long jobs](LONG_JOB), all to all
    #[default]
    Auto,
    /// every node sends its share to every other: one exchange
    AllToAll,
    /// by kings wherever the roster allows them ([`Roster::king_degree`](crate::roster::Roster::king_degree))
    King,
}

/// A Shamir job that is predicted to take longer among its nodes is planned so that a node whose process is killed
/// can come back ([`Plan::replays`](super::plan::Plan::replays)), without packed bits and kings, if that is predicted to
/// take at most [`LASTING_COST`] times as long, with the sending of inputs and material. Whoever forces one of these keeps it.
pub const LONG_JOB: Duration = Duration::from_secs(60);
/// So many times the time of a job may be spent on that. Where material is what costs, as in many comparisons, to begin again is cheaper.
pub const LASTING_COST: f64 = 3.0;

/// What a plan is made for. Costs and predictions change with it, results do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planning {
    /// one way, between any two nodes, in microseconds
    pub latency_us: u32,
    /// uplink of each node, in kilobits per second, at least 1
    pub bandwidth_kbit: u32,
    /// how comparisons are computed
    pub comparisons: Comparisons,
    /// how many nodes may be lost at once without the job having to wait for
    /// them; products and comparisons are chosen so that it can go on
    pub losses: u8,
    /// how words are opened
    pub openings: Openings,
}

impl Default for Planning {
    /// 10 ms and 1 Gbit/s, nothing forced.
    fn default() -> Self {
        Self {
            latency_us: 10_000,
            bandwidth_kbit: 1_000_000,
            comparisons: Comparisons::Auto,
            losses: 0,
            openings: Openings::Auto,
        }
    }
}

impl Planning {
    /// One way, between any two nodes.
    pub fn latency(&self) -> Duration {
        Duration::from_micros(self.latency_us.into())
    }
    /// Uplink of each node in bits per second.
    pub fn bandwidth(&self) -> f64 {
        f64::from(self.bandwidth_kbit.max(1)) * 1e3
    }

    /// The same, with what is not forced such that a killed process can come back.
    pub(super) fn lasting(self) -> Self {
        let comparisons = match self.comparisons {
            Comparisons::Auto => Comparisons::Digits,
            forced => forced,
        };
        let openings = match self.openings {
            Openings::Auto => Openings::AllToAll,
            forced => forced,
        };
        Self { comparisons, openings, ..self }
    }

    /// Whether something that takes `rounds` more saves time by so many bytes
    /// less over each node's link.
    pub(super) fn pays(&self, rounds: u64, bytes: u64) -> bool {
        bytes as f64 * 8.0 / self.bandwidth() > rounds as f64 * self.latency().as_secs_f64()
    }
}
