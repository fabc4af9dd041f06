//! Measures works on node processes of this machine, as JSON lines.
//!
//! ```text
//! cargo run --release --example bench -- mul:1000000 matmul:256x256x256 --repeat 5
//! cargo run --release --example bench -- relu:100000 --scheme spdz --nodes 3
//! cargo run --release --example bench -- logreg:10 --latency 20 --bandwidth 100
//! cargo run --release --example bench -- mul:1000000 wire:24000000
//! cargo run --release --example bench -- logreg:20 --nodes 5 --recovery both --repeat 20
//! cargo run --release --example bench -- triples:1000000 --scheme spdz --nodes 2
//! cargo run --release --example bench -- --report docs/performance.md --repeat 5 --backend cpu
//! ```
//!
//! Every node is a process of its own that runs what `beaverdam node` runs.
//! Results are compared with the same work in the clear; a wrong one is an
//! error and no line.

#[allow(dead_code, reason = "shared with examples that tell more")]
#[path = "../common/agents.rs"]
mod agents;
#[path = "../breast_cancer/data.rs"]
mod data;
#[allow(dead_code, reason = "shared with examples that tell more")]
#[path = "../common/job.rs"]
mod job;
mod measure;
mod picture;
mod report;
mod wire;
mod works;

use std::path::PathBuf;
use std::process::ExitCode;

use beaverdam::cli::{self, BackendArgs, ComparisonsArg, OpeningsArg, PlanningArgs, RosterArgs};
use clap::{Parser, ValueEnum};

use agents::Extra;
use measure::{Line, Overhead, Setting, measure};
use works::Work;

/// Runs works across node processes on this machine and prints what they took
/// as JSON lines: each run, then the medians.
#[derive(Parser)]
#[command(name = "bench")]
struct Args {
    /// mul:N, fmul:N, add:N, matmul:MxKxN, cmp:N, relu:N, logreg:EPOCHS,
    /// mlp:BATCH, steps:N (a long program);
    /// what the owner deals alone: triples:N, trunc:N; the links alone, so many
    /// bytes from each node: wire:BYTES
    #[arg(value_name = "WORK", required_unless_present = "report")]
    works: Vec<Work>,
    /// Measure what docs/performance.md tells and write it, with its pictures
    #[arg(long, value_name = "FILE.md", conflicts_with_all = ["works", "scheme", "nodes", "threshold", "latency", "bandwidth"])]
    report: Option<PathBuf>,
    #[command(flatten)]
    roster: RosterArgs,
    /// How often each work is run
    #[arg(long, value_name = "R", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeat: u32,
    /// Delay messages between nodes by so many milliseconds, one way, and plan
    /// for that [default: no delay, planned for 0.05]
    #[arg(long, value_name = "MS")]
    latency: Option<f64>,
    /// Limit what each node can send to so many megabits per second, and plan
    /// for that [default: no limit, planned for 10000]
    #[arg(long, value_name = "MBIT")]
    bandwidth: Option<f64>,
    /// How comparisons are computed
    #[arg(long, value_enum, default_value_t = ComparisonsArg::Auto)]
    comparisons: ComparisonsArg,
    /// How many nodes the plan must bear to lose
    #[arg(long, value_name = "N", default_value_t = 0)]
    losses: u8,
    /// How words are opened
    #[arg(long, value_enum, default_value_t = OpeningsArg::Auto)]
    openings: OpeningsArg,
    /// Where the correlated randomness comes from
    #[arg(long, value_name = "owner", default_value = "owner", value_parser = ["owner"])]
    material: String,
    #[command(flatten)]
    backend: BackendArgs,
    /// Threads that each node computes with [default: as many as cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Whether nodes keep what they go on by after they were killed; both: in turns, and the last
    /// line tells what it costs
    #[arg(long, value_enum, default_value_t = RecoveryArg::On)]
    recovery: RecoveryArg,
    /// Seed of the random inputs; keys and masks are the system's
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

/// See [`Setting::recovery`].
#[derive(ValueEnum, Clone, Copy)]
enum RecoveryArg {
    On,
    Off,
    Both,
}

/// Any fault, already one line.
type Fault = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    // The hidden argument with which this program starts itself as a node.
    if std::env::args().nth(1).as_deref() == Some(agents::HIDDEN) {
        return cli::exit(agents::be_one());
    }
    if std::env::args().nth(1).as_deref() == Some(wire::HIDDEN) {
        return cli::exit(wire::be_one());
    }
    match cli::parse::<Args>(std::env::args_os()) {
        Ok(Some(args)) => cli::exit(run(&args)),
        Ok(None) => ExitCode::SUCCESS,
        Err(fault) => cli::exit(Err(fault)),
    }
}

fn run(args: &Args) -> Result<(), Fault> {
    let setting = args.setting()?;
    let mut show = |line: &Line| println!("{}", serde_json::json!(line));
    if let Some(path) = &args.report {
        // Before anything is measured: can it be written?
        let writable = std::fs::OpenOptions::new().append(true).create(true).open(path);
        writable.map_err(|e| format!("cannot write {}: {e}", path.display()))?;
        return report::write(path, &setting, &mut show);
    }
    for work in &args.works {
        let medians = measure(*work, &setting, &mut show)?;
        if let Some(cost) = Overhead::of(&medians) {
            println!("{}", serde_json::json!({ "work": work.to_string(), "recovery": "both", "overhead": cost }));
        }
    }
    Ok(())
}

impl Args {
    fn setting(&self) -> Result<Setting, Fault> {
        let within = |what, value: Option<f64>, least, most: f64| match value {
            Some(value) if !(least..=most).contains(&value) => {
                Err(format!("--{what}: found {value}, expected a number from {least} to {most}"))
            }
            _ => Ok(()),
        };
        within("latency", self.latency, 0.0, 1e6)?;
        within("bandwidth", self.bandwidth, 1e-3, 4e6)?;
        // What links of one machine are like, about, where nothing is shaped.
        let planning = PlanningArgs {
            latency: self.latency.unwrap_or(0.05),
            bandwidth: self.bandwidth.unwrap_or(1e4),
            comparisons: self.comparisons,
            losses: self.losses,
            openings: self.openings,
        };
        Ok(Setting {
            roster: self.roster.roster()?,
            planning: planning.planning(),
            backend: self.backend,
            extra: Extra {
                flags: measure::flags(self.latency, self.bandwidth),
                threads: self.threads.map(usize::from),
                ..Extra::default()
            },
            recovery: match self.recovery {
                RecoveryArg::On => &[true],
                RecoveryArg::Off => &[false],
                RecoveryArg::Both => &[true, false],
            },
            shaped: self.latency.is_some() || self.bandwidth.is_some(),
            seed: self.seed,
            repeat: self.repeat,
        })
    }
}
