//! Trains a classifier on secret data across nodes, and opens it with the
//! owner's key only.
//!
//! ```text
//! cargo run --release --example breast_cancer
//! cargo run --release --example breast_cancer -- --scheme spdz --nodes 3
//! cargo run --release --example breast_cancer -- --backend gpu
//! cargo run --release --example breast_cancer -- --data FILE.csv --json
//! ```
//!
//! Every node is an operating-system process of its own that runs what
//! `beaverdam node` runs and speaks to the others over TCP; here they all run
//! on this machine, so the example shows the machinery and protects nothing.

#[path = "../common/agents.rs"]
mod agents;
mod curve;
mod data;
#[path = "../common/job.rs"]
mod job;
mod model;
mod plain;

use std::path::PathBuf;
use std::process::ExitCode;

use beaverdam::cli::{self, BackendArgs, PlanningArgs, RosterArgs};
use beaverdam::owner::Results;
use clap::Parser;

use agents::{Agents, Extra};
use data::Data;
use job::{Owner, device, shown};
use model::LEARNING_RATE;

/// Trains logistic regression on secret data across node processes on this
/// machine, beside the same training in the clear.
#[derive(Parser)]
#[command(name = "breast_cancer")]
struct Args {
    #[command(flatten)]
    roster: RosterArgs,
    #[command(flatten)]
    planning: PlanningArgs,
    #[command(flatten)]
    backend: BackendArgs,
    /// Passes over the training data
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    epochs: u32,
    /// A CSV with a header row and the label, 0 or 1, in its last column
    #[arg(long, value_name = "FILE.csv")]
    data: Option<PathBuf>,
    /// INSECURE: take every random choice of owner and nodes from this number,
    /// so that a run can be repeated
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Print one JSON object as the last line
    #[arg(long)]
    json: bool,
    /// Where to write the learning curve
    #[arg(long, value_name = "FILE.svg", default_value = "learning_curve.svg")]
    out: PathBuf,
}

/// Any fault, already one line.
type Fault = Box<dyn std::error::Error>;

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
    let roster = args.roster.roster()?;
    let built_in = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data/breast_cancer.csv"));
    let data = Data::read(args.data.as_ref().unwrap_or(&built_in))?;
    // Before anything is computed: can the curve be written?
    let writable = std::fs::OpenOptions::new().append(true).create(true).open(&args.out);
    writable.map_err(|e| format!("cannot write {}: {e}", args.out.display()))?;
    let (rows, test_rows, features) = (data.train.labels.len(), data.test.labels.len(), data.features);
    println!("{rows} samples to train on and {test_rows} to test on, {features} features, {} epochs", args.epochs);

    let program = model::program(&data, args.epochs)?;
    let inputs = model::inputs(&data, &program)?;

    let mut owner = Owner::new(args.seed)?;
    let device = device(&args.backend)?;
    println!("computing on {device}");
    let agents = Agents::start(roster, &owner.key.public(), args.seed, &args.backend, &Extra::default())?;
    println!("{roster}: {} node processes on this machine, process ids {:?}", roster.nodes(), agents.ids());

    let done = owner.run(&program, &inputs, (roster, args.planning.planning(), &agents), "breast cancer example")?;
    let (results, cost) = (&done.results, &done.cost);
    let usage = agents.usage();
    drop(agents);

    let outcome = Outcome::of(&data, results, args.epochs);
    curve::draw(&args.out, &outcome.private, &outcome.plain)?;
    let (bytes, transcript) = (done.bytes(), done.transcript());
    let (offline, online) = (done.offline, done.online);

    println!();
    println!(
        "accuracy on the test samples   {:.4} privately, {:.4} in the clear",
        outcome.accuracy, outcome.plain_accuracy
    );
    println!("largest difference of a weight {:.2e}", outcome.max_weight_error);
    println!("offline (masking, inputs)      {offline:.2} s");
    println!("online (first to last message) {online:.2} s");
    println!("CPU, all processes             {}", shown(usage.cpu_seconds(), "s"));
    println!("peak memory, largest node      {}", shown(usage.peak_mb, "MB"));
    println!("sent by a node, at most        {bytes} bytes ({} predicted, without TLS framing)", cost.sent_bytes);
    println!("rounds                         {} ({} predicted)", results.agreed.rounds(), cost.rounds);
    println!("transcript, signed by all      {transcript}");
    println!("learning curve                 {}", args.out.display());
    println!("The receipts are a threshold attestation, not a proof; SECURITY.md says what may be claimed.");
    if args.json {
        let report = serde_json::json!({
            "scheme": RosterArgs::name(roster),
            "nodes": roster.nodes(),
            "threshold": roster.threshold(),
            "epochs": args.epochs,
            "accuracy": outcome.accuracy,
            "plaintext_accuracy": outcome.plain_accuracy,
            "max_weight_error": outcome.max_weight_error,
            "offline_s": offline,
            "online_s": online,
            "cpu_s": usage.cpu_seconds().map(|s| (s * 100.0).round() / 100.0),
            "peak_mb": usage.peak_mb,
            "bytes_per_node": bytes,
            "rounds": results.agreed.rounds(),
            "transcript": transcript,
            "insecure_seed": args.seed,
            "device": device,
        });
        println!("{report}");
    }
    Ok(())
}

/// What came out, beside the same training in the clear.
struct Outcome {
    accuracy: f64,
    plain_accuracy: f64,
    max_weight_error: f64,
    private: Vec<plain::Score>,
    plain: Vec<plain::Score>,
}

impl Outcome {
    fn of(data: &Data, results: &Results, epochs: u32) -> Self {
        let exact = plain::train(&data.train, data.features, epochs, LEARNING_RATE);
        let last = &exact[exact.len() - 1];
        let weights = &results.outputs["weights"];
        let error = weights.iter().zip(last).map(|(w, e)| (w - e).abs()).fold(0.0, f64::max);
        let predictions = &results.outputs["predictions"];
        let right = predictions.iter().zip(&data.test.labels).filter(|(p, y)| p == y).count();
        let of_each = results.outputs["weights of each epoch"].chunks(data.features + 1);
        Self {
            accuracy: right as f64 / predictions.len() as f64,
            plain_accuracy: plain::score(data, last).accuracy,
            max_weight_error: error,
            private: of_each.map(|w| plain::score(data, w)).collect(),
            plain: exact.iter().map(|w| plain::score(data, w)).collect(),
        }
    }
}
