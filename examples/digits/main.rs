//! Recognises handwritten digits on secret images: a network from an ONNX file,
//! computed across nodes, its logits opened with the owner's key only.
//!
//! ```text
//! cargo run --release --example digits
//! cargo run --release --example digits -- --model mlp --scheme spdz --nodes 3
//! cargo run --release --example digits -- --secret-weights --batch 120 --json
//! ```
//!
//! `export.py` beside this file has trained the two networks. Every node is an
//! operating-system process of its own, as in the example `breast_cancer`; all
//! of them run on this machine, so the example protects nothing.

#[path = "../common/agents.rs"]
mod agents;
mod data;
#[path = "../common/job.rs"]
mod job;
mod matrix;
mod plain;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use beaverdam::cli::{self, BackendArgs, PlanningArgs, RosterArgs};
use beaverdam::ml::import::{Model, Options, Weights};
use beaverdam::program::{Builder, Program, Type};
use clap::Parser;

use agents::{Agents, Extra};
use data::{CLASSES, Digits, PIXELS, SIDE};
use job::{Owner, device, shown};
use matrix::Confusion;

/// Private inference of a small network on handwritten digits, across node
/// processes on this machine, beside the same in the clear.
#[derive(Parser)]
#[command(name = "digits")]
struct Args {
    #[command(flatten)]
    roster: RosterArgs,
    #[command(flatten)]
    planning: PlanningArgs,
    #[command(flatten)]
    backend: BackendArgs,
    /// Which network
    #[arg(long, value_enum, default_value_t = Network::Cnn)]
    model: Network,
    /// Keep the weights secret too: they become inputs
    #[arg(long)]
    secret_weights: bool,
    /// How many images, the last ones; the first 1437 were trained on
    #[arg(long, value_name = "N", default_value_t = 360, value_parser = clap::value_parser!(u16).range(1..=360))]
    images: u16,
    /// Images of one job
    #[arg(long, value_name = "N", default_value_t = 120, value_parser = clap::value_parser!(u16).range(1..=360))]
    batch: u16,
    /// INSECURE: take every random choice of owner and nodes from this number,
    /// so that a run can be repeated
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Print one JSON object as the last line
    #[arg(long)]
    json: bool,
    /// Where to write the confusion matrix
    #[arg(long, value_name = "FILE.svg", default_value = "confusion_matrix.svg")]
    out: PathBuf,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum Network {
    /// two convolutions with pools and a dense layer
    Cnn,
    /// two dense layers
    Mlp,
}

impl Network {
    fn name(self) -> &'static str {
        match self {
            Self::Cnn => "cnn",
            Self::Mlp => "mlp",
        }
    }
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
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let digits = Digits::last(&here.join("data/digits.csv"), args.images.into())?;
    let model = Model::load(here.join(format!("digits/{}.onnx", args.model.name())))?;
    // Before anything is computed: can the picture be written?
    let writable = std::fs::OpenOptions::new().append(true).create(true).open(&args.out);
    writable.map_err(|e| format!("cannot write {}: {e}", args.out.display()))?;
    let whose = if args.secret_weights { "secret" } else { "public" };
    println!("{} images, the network {} with {whose} weights", args.images, args.model.name());

    let mut owner = Owner::new(args.seed)?;
    let device = device(&args.backend)?;
    println!("computing on {device}");
    let agents = Agents::start(roster, &owner.key.public(), args.seed, &args.backend, &Extra::default())?;
    println!("{roster}: {} node processes on this machine, process ids {:?}", roster.nodes(), agents.ids());

    let mut sum = Sum::default();
    for (number, pixels) in digits.pixels.chunks(usize::from(args.batch) * PIXELS).enumerate() {
        let program = program(&model, pixels.len() / PIXELS, args.secret_weights)?;
        let mut inputs = if args.secret_weights { model.weights() } else { BTreeMap::new() };
        inputs.insert("images".to_owned(), pixels.to_vec());
        // The owner may look at its own data: are the declared ranges honest?
        if let Some(seen) = program.dry_run(&inputs)?.declarations.iter().find(|d| !d.holds()) {
            let (name, least, greatest) = (&seen.name, seen.least, seen.greatest);
            return Err(format!("{name} would reach {least} to {greatest}, outside the declared range").into());
        }
        let done = owner.run(&program, &inputs, (roster, args.planning.planning(), &agents), "digits example")?;
        println!("batch {}: {:.2} s offline, {:.2} s online", number + 1, done.offline, done.online);
        sum.add(done)?;
    }
    let usage = agents.usage();
    drop(agents);

    let weights = plain::Weights::new(&model.weights());
    let exact = plain::logits(&digits.pixels, |image| match args.model {
        Network::Cnn => weights.cnn(image),
        Network::Mlp => weights.mlp(image),
    });
    let outcome = Outcome::of(&digits, &sum.logits, &exact);
    let caption = format!("{} on secret shares: {} of {} right", args.model.name(), outcome.right, args.images);
    outcome.confusion.draw(&args.out, &caption)?;
    let images = f64::from(args.images);
    let (accuracy, plain_accuracy) = (outcome.right as f64 / images, outcome.plain_right as f64 / images);

    println!();
    println!("accuracy                       {accuracy:.4} privately, {plain_accuracy:.4} in the clear");
    println!("predictions that differ        {}", outcome.differing);
    println!("largest difference of a logit  {:.2e}", outcome.max_logit_error);
    println!("offline (masking, inputs)      {:.2} s", sum.offline);
    println!("online (first to last message) {:.2} s", sum.online);
    println!("CPU, all processes             {}", shown(usage.cpu_seconds(), "s"));
    println!("peak memory, largest node      {}", shown(usage.peak_mb, "MB"));
    println!(
        "sent by a node, at most        {} bytes ({} predicted, without TLS framing)",
        sum.bytes, sum.predicted_bytes
    );
    println!("rounds, all batches            {} ({} predicted)", sum.rounds, sum.predicted_rounds);
    println!("confusion matrix               {}", args.out.display());
    println!("The receipts are a threshold attestation, not a proof; SECURITY.md says what may be claimed.");
    if args.json {
        let report = serde_json::json!({
            "scheme": RosterArgs::name(roster),
            "nodes": roster.nodes(),
            "threshold": roster.threshold(),
            "model": args.model.name(),
            "secret_weights": args.secret_weights,
            "images": args.images,
            "batch": args.batch,
            "accuracy": accuracy,
            "plaintext_accuracy": plain_accuracy,
            "differing_predictions": outcome.differing,
            "max_logit_error": outcome.max_logit_error,
            "offline_s": sum.offline,
            "online_s": sum.online,
            "cpu_s": usage.cpu_seconds().map(|s| (s * 100.0).round() / 100.0),
            "peak_mb": usage.peak_mb,
            "bytes_per_node": sum.bytes,
            "rounds": sum.rounds,
            "transcripts": sum.transcripts,
            "insecure_seed": args.seed,
            "device": device,
        });
        println!("{report}");
    }
    Ok(())
}

/// What the nodes compute: they see this and the shapes, and the weights unless
/// these are secret, never an image.
fn program(model: &Model, images: usize, secret_weights: bool) -> Result<Program, Fault> {
    let b = Builder::new();
    let x = b.input("images", "owner", Type::fixed(0.0..=1.0), [images, 1, SIDE, SIDE]);
    let weights = if secret_weights { Weights::Secret { owner: "owner".into() } } else { Weights::Public };
    b.output("logits", "owner", &model.apply(&x, &weights, &Options::default())?);
    Ok(b.finish()?)
}

/// All batches together.
#[derive(Default)]
struct Sum {
    logits: Vec<f64>,
    offline: f64,
    online: f64,
    bytes: u64,
    predicted_bytes: u64,
    rounds: u64,
    predicted_rounds: u64,
    transcripts: Vec<String>,
}

impl Sum {
    fn add(&mut self, done: job::Done) -> Result<(), Fault> {
        let logits = done.results.outputs.get("logits").ok_or("the results have no logits")?;
        self.logits.extend(logits);
        self.offline += done.offline;
        self.online += done.online;
        self.bytes += done.bytes();
        self.predicted_bytes += done.cost.sent_bytes;
        self.rounds += u64::from(done.results.agreed.rounds());
        self.predicted_rounds += done.cost.rounds;
        self.transcripts.push(done.transcript());
        Ok(())
    }
}

/// What came out, beside the same in the clear.
struct Outcome {
    right: usize,
    plain_right: usize,
    differing: usize,
    max_logit_error: f64,
    confusion: Confusion,
}

impl Outcome {
    fn of(digits: &Digits, logits: &[f64], exact: &[f64]) -> Self {
        let classes = |logits: &[f64]| logits.chunks(CLASSES).map(plain::predicted).collect::<Vec<_>>();
        let (found, plain) = (classes(logits), classes(exact));
        let right = |classes: &[usize]| classes.iter().zip(&digits.labels).filter(|(a, b)| a == b).count();
        Self {
            right: right(&found),
            plain_right: right(&plain),
            differing: found.iter().zip(&plain).filter(|(a, b)| a != b).count(),
            max_logit_error: logits.iter().zip(exact).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max),
            confusion: Confusion::of(&digits.labels, &found),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The importer and the networks written down by hand agree on all images.
    #[test]
    fn the_models_are_what_they_are_taken_for() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
        let digits = Digits::last(&here.join("data/digits.csv"), 360).unwrap();
        for network in [Network::Cnn, Network::Mlp] {
            let model = Model::load(here.join(format!("digits/{}.onnx", network.name()))).unwrap();
            assert_eq!(model.input_shape(), Some(&[None, Some(1), Some(SIDE), Some(SIDE)][..]));
            let inputs = BTreeMap::from([("images".to_owned(), digits.pixels.clone())]);
            let run = program(&model, 360, false).unwrap().dry_run(&inputs).unwrap();
            assert!(run.holds(), "{:?}", run.declarations);
            let weights = plain::Weights::new(&model.weights());
            let exact = plain::logits(&digits.pixels, |image| match network {
                Network::Cnn => weights.cnn(image),
                Network::Mlp => weights.mlp(image),
            });
            let outcome = Outcome::of(&digits, &run.outputs["logits"], &exact);
            assert!(outcome.max_logit_error < 2e-3, "{}", outcome.max_logit_error);
            assert_eq!(outcome.differing, 0);
            assert!(outcome.right > 320, "{} of 360 right", outcome.right);
        }
    }
}
