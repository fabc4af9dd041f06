//! `plan`: what a program will cost on a roster.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::CliError;
use crate::program::Program;
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
    /// Delay of a message from node to node, one way, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 10.0, value_parser = number(0.0, 1e6))]
    latency: f64,
    /// What a node can send, in megabits per second
    #[arg(long, value_name = "MBIT", default_value_t = 1000.0, value_parser = number(1e-3, 1e9))]
    bandwidth: f64,
}

impl Plan {
    pub(super) fn run(&self) -> Result<(), CliError> {
        let program = Program::load(&self.program)?;
        let plan = program.plan(self.roster.roster()?)?;
        println!("program {}", crate::keys::hex(&program.digest()));
        println!("{}", plan.report(Duration::from_secs_f64(self.latency / 1e3), self.bandwidth * 1e6));
        Ok(())
    }
}

/// A number within a range.
fn number(least: f64, most: f64) -> impl Fn(&str) -> Result<f64, String> + Clone {
    move |text| match text.parse::<f64>() {
        Ok(value) if (least..=most).contains(&value) => Ok(value),
        _ => Err(format!("expected a number from {least} to {most}")),
    }
}
