//! Trains a classifier on secret data while nodes are killed and come back, and
//! one of them begins to lie: the result is, bit for bit, the one of a training
//! that nothing disturbs.
//!
//! ```text
//! cargo run --release --example survive
//! cargo run --release --example survive -- --kills 4 --epochs 120 --json
//! cargo run --release --example survive -- --nodes 4 --kills 0 --for-good
//! ```
//!
//! The data and the program are those of `breast_cancer`. Every node is a process
//! of its own with a store on disk. One after the other, nodes are killed at random
//! moments with SIGKILL, which leaves them no time for a last word, and started
//! again on the same store; each is waited for until it has caught up, since
//! the plan bears one loss. When all are there, one node sends wrong shares, or, with
//! `--for-good`, one is killed that does not come back, and what going on without it costs is
//! compared with what the plan predicts.
//!
//! Both trainings take the same randomness from a known seed, so that they can be
//! compared word for word; the moments and the nodes that they befall are new in each run.
//! Messages are made late (`--latency`): on one machine the training would be over before
//! a process has started.

#[path = "../common/agents.rs"]
#[allow(dead_code, reason = "shared with examples that tell more")]
mod agents;
#[path = "../breast_cancer/data.rs"]
mod data;
#[path = "../common/job.rs"]
#[allow(dead_code, reason = "shared with examples that tell more")]
mod job;
#[path = "../breast_cancer/model.rs"]
mod model;
mod picture;
mod story;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use beaverdam::cli::{self, BackendArgs};
use beaverdam::owner::Results;
use beaverdam::program::{Comparisons, Planning, Program};
use beaverdam::roster::{Roster, Slot};
use clap::Parser;

use agents::{Agents, Extra};
use data::Data;
use job::{Done, Owner, device};
use story::{Script, Story};

/// Trains logistic regression on secret data across node processes on this
/// machine, of which some are killed and started again and one lies, and
/// compares the result with that of an undisturbed training.
#[derive(Parser)]
#[command(name = "survive")]
struct Args {
    /// How many nodes compute
    #[arg(long, value_name = "N", default_value_t = 5)]
    nodes: u8,
    /// How many nodes may be corrupt
    #[arg(long, value_name = "T", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..))]
    threshold: u8,
    #[command(flatten)]
    backend: BackendArgs,
    /// Passes over the training data
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=1000))]
    epochs: u32,
    /// How often a node is killed and started again, before one lies
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(0..=100))]
    kills: u8,
    /// At the end no node lies, but one is killed and stays away
    #[arg(long)]
    for_good: bool,
    /// Seconds that the nodes wait for one of them before they go on without it
    #[arg(long, value_name = "SECS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    deadline: u64,
    /// Delay every message between nodes by so many milliseconds, so that the
    /// training lasts
    #[arg(long, value_name = "MS", default_value_t = 40, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    latency: u32,
    /// INSECURE: the number from which all random choices of owner and nodes are
    /// taken, in both trainings
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Print one JSON object as the last line
    #[arg(long)]
    json: bool,
    /// Where to write the picture of who was there when
    #[arg(long, value_name = "FILE.svg", default_value = "survive.svg")]
    out: PathBuf,
}

/// Any fault, already one line.
type Fault = Box<dyn std::error::Error>;

/// Seconds that nodes wait for one that they cannot do without. A job that hangs
/// is a failure that this example is to tell soon.
const PATIENCE: u64 = 60;

fn main() -> ExitCode {
    // The hidden argument with which this program starts itself as a node.
    if std::env::args().nth(1).as_deref() == Some(agents::HIDDEN) {
        return cli::exit(agents::be_one());
    }
    match cli::parse::<Args>(std::env::args_os()) {
        Ok(Some(args)) => cli::exit(run(&args)),
        Ok(None) => ExitCode::SUCCESS,
        Err(fault) => cli::exit(Err(fault)),
    }
}

fn run(args: &Args) -> Result<(), Fault> {
    let setting = Setting::of(args)?;
    // Before anything is computed: can the picture be written?
    let writable = std::fs::OpenOptions::new().append(true).create(true).open(&args.out);
    writable.map_err(|e| format!("cannot write {}: {e}", args.out.display()))?;
    let (roster, rounds) = (setting.roster, setting.rounds);
    println!("{roster}: {} epochs in {rounds} rounds, every message {} ms late", args.epochs, args.latency);
    let device = device(&args.backend)?;
    println!("computing on {device}");

    println!("a training that nothing disturbs");
    let (undisturbed, quiet) = setting.train(None)?;
    let script = Script::new(roster, rounds, args.kills.into(), args.for_good)?;
    println!("the same training, disturbed");
    let (disturbed, story) = setting.train(Some(&script))?;
    let title = format!("{roster}, {} epochs in {rounds} rounds", args.epochs);
    picture::draw(&args.out, &title, &story)?;

    let same = same_words(&undisturbed.results, &disturbed.results);
    let transcript = disturbed.transcript();
    let same_transcript = undisturbed.transcript() == transcript;
    let (last, blamed) = (script.last, &disturbed.results.blamed);
    let lost = story.went_on(&quiet).map(|(left, rest)| {
        let predicted = setting.seconds * f64::from(rounds - left.round) / f64::from(rounds);
        (left, rest, story.online - left.at, predicted)
    });
    let predictions = &disturbed.results.outputs["predictions"];
    let right = predictions.iter().zip(&setting.data.test.labels).filter(|(p, y)| p == y).count();
    let accuracy = right as f64 / predictions.len() as f64;
    let names = blamed.iter().map(Slot::to_string).collect::<Vec<_>>().join(", ");

    println!();
    println!("accuracy on the test samples   {accuracy:.4}");
    println!("weights, bit for bit           {}", if same { "those of the undisturbed training" } else { "OTHERS" });
    println!(
        "transcript                     {transcript}{}",
        if same_transcript { ", as there" } else { ", NOT as there" }
    );
    println!("killed and back again          {} and {}", story.kills, story.returns);
    let deed = if args.for_good { "was lost" } else { "has lied" };
    println!("blamed                         {}; {last} {deed}", if blamed.is_empty() { "nobody" } else { &names });
    println!("online, undisturbed            {:.2} s", quiet.online);
    println!("online, disturbed              {:.2} s", story.online);
    if let Some((left, rest, took, predicted)) = &lost {
        println!("from round {:4}, undisturbed    {rest:.2} s", left.round);
        println!("the same without {last}        {took:.2} s, predicted {predicted:.2} s");
    }
    println!("who was there when             {}", args.out.display());
    println!("The receipts are a threshold attestation, not a proof; SECURITY.md says what may be claimed.");
    if args.json {
        let events = story
            .events
            .iter()
            .map(|e| serde_json::json!({"s": e.at, "round": e.round, "node": e.slot.0, "what": e.what.name()}));
        let report = serde_json::json!({
            "nodes": roster.nodes(),
            "threshold": roster.threshold(),
            "epochs": args.epochs,
            "rounds": rounds,
            "latency_ms": args.latency,
            "deadline_s": args.deadline,
            "kills": story.kills,
            "returns": story.returns,
            "events": events.collect::<Vec<_>>(),
            "same_result": same,
            "same_transcript": same_transcript,
            "lied": (!args.for_good).then_some(last.0),
            "lost": args.for_good.then_some(last.0),
            "lost_in_round": lost.as_ref().map(|lost| lost.0.round),
            "rest_undisturbed_s": lost.as_ref().map(|lost| lost.1),
            "rest_s": lost.as_ref().map(|lost| lost.2),
            "rest_predicted_s": lost.as_ref().map(|lost| lost.3),
            "blamed": blamed.first().map(|slot| slot.0),
            "accuracy": accuracy,
            "online_s": story.online,
            "undisturbed_s": quiet.online,
            "transcript": transcript,
            "insecure_seed": args.seed,
            "device": device,
        });
        println!("{report}");
    }
    if !same || !same_transcript {
        return Err("the disturbed training came to another result than the undisturbed one".into());
    }
    let to_blame: &[Slot] = if args.for_good { &[] } else { &[last] };
    if blamed != to_blame {
        let names = if blamed.is_empty() { "nobody" } else { &names };
        return Err(format!("{last} {deed}, but {names} is blamed").into());
    }
    Ok(())
}

/// What both trainings have in common.
struct Setting {
    roster: Roster,
    planning: Planning,
    data: Data,
    program: Program,
    inputs: BTreeMap<String, Vec<f64>>,
    rounds: u32,
    /// that the plan predicts, of the whole
    seconds: f64,
    seed: u64,
    backend: BackendArgs,
    flags: Vec<String>,
}

impl Setting {
    fn of(args: &Args) -> Result<Self, Fault> {
        let roster = Roster::shamir(args.nodes, args.threshold)?;
        // Packed bits are told to one node each: who is killed cannot have them again.
        let latency = Duration::from_millis(args.latency.into());
        let planning = Planning {
            latency_us: u32::try_from(latency.as_micros()).unwrap_or(u32::MAX),
            comparisons: Comparisons::Digits,
            losses: 1,
            ..Planning::default()
        };
        let data = Data::read(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data/breast_cancer.csv")))?;
        let program = model::program(&data, args.epochs)?;
        let inputs = model::inputs(&data, &program)?;
        let plan = program.plan_with(roster, planning)?;
        // The links are made late, not narrow.
        let seconds = plan.cost().seconds(latency, f64::INFINITY);
        let rounds = plan.opening_rounds().try_into()?;
        let flag = |name: &str, value: u64| [name.to_owned(), value.to_string()];
        let flags = [
            flag("--shape-latency", args.latency.into()),
            flag("--deadline", args.deadline),
            flag("--patience", PATIENCE.max(args.deadline)),
        ];
        let (seed, backend, flags) = (args.seed, args.backend, flags.concat());
        Ok(Self { roster, planning, data, program, inputs, rounds, seconds, seed, backend, flags })
    }

    /// Trains on nodes of its own, with what the script makes happen.
    fn train(&self, script: Option<&Script>) -> Result<(Done, Story), Fault> {
        // A new owner each time: the same nonce, keys and masks.
        let mut owner = Owner::new(Some(self.seed))?;
        let extra = Extra { flags: self.flags.clone(), liar: script.and_then(Script::liar), ..Extra::default() };
        let agents = Agents::start(self.roster, &owner.key.public(), Some(self.seed), &self.backend, &extra)?;
        println!("node processes on this machine, process ids {:?}", agents.ids());
        let at = (self.roster, self.planning, &agents);
        story::played(self.roster, script, &agents, |watch| {
            owner.watched(&self.program, &self.inputs, at, "training that survives", watch)
        })
    }
}

/// Whether all outputs are the same, to the last bit.
fn same_words(a: &Results, b: &Results) -> bool {
    let bits = |results: &Results| -> BTreeMap<String, Vec<u64>> {
        results
            .outputs
            .iter()
            .map(|(name, values)| (name.clone(), values.iter().map(|v| v.to_bits()).collect()))
            .collect()
    };
    bits(a) == bits(b)
}
