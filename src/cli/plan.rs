//! `plan`: what a program will cost on a roster.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::CliError;
use crate::owner::must_use_attempts;
use crate::program::{Comparisons, Openings, Planning, Program};
use crate::roster::{Roster, Scheme};

/// Scheme, nodes and threshold as flags.
#[derive(Args, Clone, Copy, Debug)]
pub struct RosterArgs {
    /// shamir: an honest majority, little material. spdz: all nodes but one
    /// may be corrupt, and any can stop the job
    #[arg(long, value_enum, default_value_t = SchemeArg::Shamir)]
    scheme: SchemeArg,
    /// How many nodes compute
    #[arg(long, value_name = "N", default_value_t = 4)]
    nodes: u8,
    /// How many nodes may be corrupt [default: 1 for shamir; spdz always
    /// stands N − 1]
    #[arg(long, value_name = "T")]
    threshold: Option<u8>,
}

/// A scheme by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SchemeArg {
    /// honest majority
    Shamir,
    /// dishonest majority
    Spdz,
}

impl RosterArgs {
    /// The roster, if these go together.
    pub fn roster(&self) -> Result<Roster, CliError> {
        match self.scheme {
            SchemeArg::Shamir => Ok(Roster::shamir(self.nodes, self.threshold.unwrap_or(1))?),
            SchemeArg::Spdz => {
                let roster = Roster::spdz(self.nodes)?;
                match self.threshold {
                    Some(found) if found != roster.threshold() => {
                        Err(CliError::SpdzThreshold { found, nodes: self.nodes, expected: roster.threshold() })
                    }
                    _ => Ok(roster),
                }
            }
        }
    }
}

impl RosterArgs {
    /// The scheme's name, as the flag takes it.
    pub fn name(roster: Roster) -> &'static str {
        match roster.scheme() {
            Scheme::Shamir => "shamir",
            Scheme::Spdz => "spdz",
        }
    }
}

/// Prints what a program costs on a roster, before anybody pays for it:
/// rounds, bytes, material, work, and seconds for a stated network.
#[derive(Args, Debug)]
pub(super) struct Plan {
    /// The program, as `Program::save` writes it
    #[arg(value_name = "FILE")]
    program: PathBuf,
    #[command(flatten)]
    roster: RosterArgs,
    #[command(flatten)]
    planning: PlanningArgs,
    /// Copies of the material that are to be dealt (SPDZ alone)
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(crate::job::MAX_ATTEMPTS)))]
    attempts: u32,
}

/// What a program is planned for. All parties plan alike: it stands in the
/// signed manifest.
#[derive(Args, Clone, Copy, Debug)]
pub struct PlanningArgs {
    /// Delay of a message from node to node, one way, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 10.0, value_parser = number(0.0, 1e6))]
    pub latency: f64,
    /// What a node can send, in megabits per second
    #[arg(long, value_name = "MBIT", default_value_t = 1000.0, value_parser = number(1e-3, 4e6))]
    pub bandwidth: f64,
    /// How comparisons are computed; results are the same
    #[arg(long, value_enum, default_value_t = ComparisonsArg::Auto)]
    pub comparisons: ComparisonsArg,
    /// How many nodes may be lost at once without the job having to wait for
    /// them (Shamir alone; it costs more where local products need all nodes)
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub losses: u8,
    /// How words are opened; results are the same
    #[arg(long, value_enum, default_value_t = OpeningsArg::Auto)]
    pub openings: OpeningsArg,
}

/// Ways to compare, as flags name them.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum ComparisonsArg {
    /// whichever is faster on the network that is planned for; in jobs of more than
    /// a minute by digits, so that a killed process can come back
    Auto,
    /// by digits modulo p
    Digits,
    /// on packed bits, Shamir with 4 nodes and threshold 1 only
    Packed,
}

/// Ways to open, as flags name them.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpeningsArg {
    /// whichever is faster on the network that is planned for; in jobs of more than
    /// a minute all to all, so that a killed process can come back
    Auto,
    /// every node sends its share to every other: one exchange a round
    AllToAll,
    /// nodes open slices for each other: fewer bytes, more exchanges; Shamir
    /// where an opening detects wrong shares and cannot correct them
    King,
}

impl PlanningArgs {
    /// What they ask for.
    pub fn planning(&self) -> Planning {
        Planning {
            latency_us: (self.latency * 1e3) as u32,
            bandwidth_kbit: (self.bandwidth * 1e3).max(1.0) as u32,
            comparisons: match self.comparisons {
                ComparisonsArg::Auto => Comparisons::Auto,
                ComparisonsArg::Digits => Comparisons::Digits,
                ComparisonsArg::Packed => Comparisons::Packed,
            },
            losses: self.losses,
            openings: match self.openings {
                OpeningsArg::Auto => Openings::Auto,
                OpeningsArg::AllToAll => Openings::AllToAll,
                OpeningsArg::King => Openings::King,
            },
        }
    }
}

impl Plan {
    pub(super) fn run(&self) -> Result<(), CliError> {
        let program = Program::load(&self.program)?;
        let plan = program.plan_with(self.roster.roster()?, self.planning.planning())?;
        must_use_attempts(plan.roster, self.attempts)?;
        println!("program {}", crate::keys::hex(&program.digest()));
        println!(
            "{}",
            plan.report(Duration::from_secs_f64(self.planning.latency / 1e3), self.planning.bandwidth * 1e6)
        );
        if self.attempts > 1 {
            let (attempts, checkpoints) = (self.attempts, plan.checkpoints().len());
            let bytes = 8.0 * plan.stream_words as f64 * f64::from(attempts) / 1e6;
            println!(
                "in up to {attempts} attempts, one more whenever a process is lost, from the last of {checkpoints} checkpoints or the beginning: {bytes:.1} MB of material at each node"
            );
        }
        Ok(())
    }
}

/// A number within a range.
pub(super) fn number(least: f64, most: f64) -> impl Fn(&str) -> Result<f64, String> + Clone {
    move |text| match text.parse::<f64>() {
        Ok(value) if (least..=most).contains(&value) => Ok(value),
        _ => Err(format!("expected a number from {least} to {most}")),
    }
}
