//! One encoder block of a transformer on secret input: multi-head attention,
//! a feed-forward layer with GELU, layer norms and residuals, against the same
//! block in the clear.
//!
//! ```text
//! cargo run --release --example transformer_block
//! cargo run --release --example transformer_block -- --scheme spdz --nodes 2 --json
//! ```
//!
//! 32 tokens of 64 features, 4 heads, 128 features inside the feed-forward
//! layer. The weights are random and public, as those of a published model are; the
//! tokens are secret. All nodes run in this process
//! (`job::local`), so the times are of computing alone and nothing is protected. The
//! first command's largest error is 2 to 3e-4, in 98 rounds and 12.2 MB sent by each node.

mod plain;

use std::process::ExitCode;

use beaverdam::cli::{self, BackendArgs, PlanningArgs, RosterArgs};
use beaverdam::entropy::Entropy;
use beaverdam::job::local;
use beaverdam::ml::layers::{dense, layer_norm, softmax};
use beaverdam::program::random::Choices;
use beaverdam::program::{Builder, Program, Tensor, Type};
use clap::Parser;

use plain::Matrix;

/// Runs an encoder block on secret tokens among all nodes of a roster in this
/// process, beside the same block in the clear.
#[derive(Parser)]
#[command(name = "transformer_block")]
struct Args {
    #[command(flatten)]
    roster: RosterArgs,
    #[command(flatten)]
    planning: PlanningArgs,
    #[command(flatten)]
    backend: BackendArgs,
    /// INSECURE: take every random choice of owner and nodes from this number,
    /// so that a run can be repeated
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Print one JSON object as the last line
    #[arg(long)]
    json: bool,
}

/// Tokens.
const LENGTH: usize = 32;
/// Features of a token.
const WIDTH: usize = 64;
/// Attentions side by side.
const HEADS: usize = 4;
/// Features inside the feed-forward layer.
const INNER: usize = 128;
/// Secret features lie within ±this.
const BOUND: f64 = 4.0;
/// The model and the tokens are the same for everybody.
const MODEL: u64 = 2026;
/// Variances are clamped to this range; its ratio decides how well their roots are
/// approximated.
const VARIANCE: std::ops::RangeInclusive<f64> = 0.0625..=16.0;

fn main() -> ExitCode {
    match cli::parse::<Args>(std::env::args_os()) {
        Ok(Some(args)) => cli::exit(run(&args)),
        Ok(None) => ExitCode::SUCCESS,
        Err(fault) => cli::exit(Err(fault)),
    }
}

fn run(args: &Args) -> Result<(), Box<dyn std::error::Error>> {
    let (roster, planning) = (args.roster.roster()?, args.planning.planning());
    let mut choices = Choices(MODEL);
    let model = Model::random(&mut choices);
    let tokens = Matrix::random(LENGTH, WIDTH, 1.0, &mut choices);
    println!("{LENGTH} tokens of {WIDTH} features, {HEADS} heads, {INNER} features inside");

    let program = program(&model)?;
    let inputs = [("tokens", tokens.values.clone())];
    let named = inputs.iter().map(|(name, values)| ((*name).to_owned(), values.clone())).collect();
    if let Some(seen) = program.dry_run(&named)?.declarations.iter().find(|d| !d.holds()) {
        return Err(format!("{} would reach {} to {}, outside its range", seen.name, seen.least, seen.greatest).into());
    }
    let entropy = match args.seed {
        None => Entropy::system(),
        Some(seed) => {
            eprintln!("WARNING: INSECURE: all randomness of owner and nodes comes from the known seed {seed}");
            Entropy::insecure_from_seed(seed)
        }
    };
    let opened = args.backend.devices().open()?;
    if let Some(why) = &opened.fell_back {
        println!("no GPU is used: {why}");
    }
    println!("computing on {}", opened.device);
    println!("{roster}: {} nodes in this process", roster.nodes());
    let plan = program.plan_with(roster, planning)?;
    let cost = plan.cost();
    let run = local::run_with(&program, roster, planning, &inputs, entropy, &opened.device)?;

    let exact = plain::block(&model, &tokens);
    let found = &run.outputs["block"];
    let errors = || found.iter().zip(&exact.values).map(|(f, e)| (f - e).abs());
    let (largest, mean) = (errors().fold(0.0, f64::max), errors().sum::<f64>() / found.len() as f64);
    let reach = exact.values.iter().fold(0.0f64, |a, v| a.max(v.abs()));
    let online = run.online.as_secs_f64();

    println!();
    println!("largest error                  {largest:.2e}, mean {mean:.2e}, for values up to {reach:.2}");
    println!("online (first to last message) {online:.2} s");
    println!("rounds                         {} ({} predicted)", run.rounds, cost.rounds);
    println!("words opened                   {}", cost.opened_words);
    println!("sent by a node                 {} bytes, as planned", cost.sent_bytes);
    println!("material for a node            {} bytes", 8 * cost.stream_words);
    if args.json {
        let report = serde_json::json!({
            "scheme": RosterArgs::name(roster),
            "nodes": roster.nodes(),
            "threshold": roster.threshold(),
            "max_error": largest,
            "mean_error": mean,
            "online_s": online,
            "rounds": run.rounds,
            "opened_words": cost.opened_words,
            "bytes_per_node": cost.sent_bytes,
            "material_bytes_per_node": 8 * cost.stream_words,
            "insecure_seed": args.seed,
            "device": opened.device.to_string(),
        });
        println!("{report}");
    }
    Ok(())
}

/// A dense layer's weights.
struct Dense {
    weights: Matrix,
    bias: Matrix,
}

impl Dense {
    fn random(inputs: usize, outputs: usize, choices: &mut Choices) -> Self {
        // Sums of as many terms keep the variance.
        let weights = Matrix::random(inputs, outputs, 1.0 / (inputs as f64).sqrt(), choices);
        Self { weights, bias: Matrix::random(1, outputs, 0.1, choices) }
    }

    fn apply(&self, x: &Tensor) -> Tensor {
        let b = x.builder();
        let outputs = self.bias.columns;
        dense(x, &constant(b, &self.weights), &constant(b, &self.bias).reshape([outputs]))
    }
}

/// A layer norm's weights.
struct Norm {
    gain: Matrix,
    bias: Matrix,
}

impl Norm {
    fn random(choices: &mut Choices) -> Self {
        let mut gain = Matrix::random(1, WIDTH, 0.1, choices);
        gain.values.iter_mut().for_each(|v| *v += 1.0);
        Self { gain, bias: Matrix::random(1, WIDTH, 0.1, choices) }
    }

    fn apply(&self, x: &Tensor) -> Tensor {
        let b = x.builder();
        layer_norm(x, &constant(b, &self.gain), &constant(b, &self.bias), VARIANCE)
    }
}

/// The weights of the block.
struct Model {
    query: Dense,
    key: Dense,
    value: Dense,
    out: Dense,
    after_attention: Norm,
    widen: Dense,
    narrow: Dense,
    after_feed_forward: Norm,
}

impl Model {
    fn random(choices: &mut Choices) -> Self {
        let mut square = || Dense::random(WIDTH, WIDTH, choices);
        let (query, key, value, out) = (square(), square(), square(), square());
        Self {
            query,
            key,
            value,
            out,
            after_attention: Norm::random(choices),
            widen: Dense::random(WIDTH, INNER, choices),
            narrow: Dense::random(INNER, WIDTH, choices),
            after_feed_forward: Norm::random(choices),
        }
    }
}

/// A public matrix with 16 fractional bits, its range as narrow as it is.
fn constant(b: &Builder, matrix: &Matrix) -> Tensor {
    let largest = matrix.values.iter().fold(0.0f64, |a, v| a.max(v.abs()));
    b.constant(&matrix.values, Type::fixed(-largest..=largest), [matrix.rows, matrix.columns])
}

/// The block as the nodes compute it.
fn program(model: &Model) -> Result<Program, Box<dyn std::error::Error>> {
    let b = Builder::new();
    let x = b.input("tokens", "owner", Type::fixed(-BOUND..=BOUND), [LENGTH, WIDTH]);
    let [queries, keys, values] = [&model.query, &model.key, &model.value]
        .map(|layer| layer.apply(&x).declare("queries, keys and values", -8.0..=8.0));
    let depth = WIDTH / HEADS;
    // One matrix of scores for each head, then all heads in one softmax.
    let scores: Vec<_> = (0..HEADS)
        .map(|head| {
            let of = |x: &Tensor| x.slice(1, head * depth..(head + 1) * depth);
            of(&queries).matmul(&of(&keys).t()) * (1.0 / (depth as f64).sqrt())
        })
        .collect();
    let scores = b.concat(&scores.iter().collect::<Vec<_>>(), 0).declare("scores", -16.0..=16.0);
    let attention = softmax(&scores);
    let mixed: Vec<_> = (0..HEADS)
        .map(|head| {
            let rows = attention.slice(0, head * LENGTH..(head + 1) * LENGTH);
            rows.matmul(&values.slice(1, head * depth..(head + 1) * depth))
        })
        .collect();
    let mixed = b.concat(&mixed.iter().collect::<Vec<_>>(), 1).declare("mixed values", -8.0..=8.0);
    let x = (&x + model.out.apply(&mixed)).declare("sums before a norm", -16.0..=16.0);
    let x = model.after_attention.apply(&x).declare("normed tokens", -8.0..=8.0);
    let inner = model.widen.apply(&x).declare("sums before GELU", -8.0..=8.0).gelu();
    let x = (&x + model.narrow.apply(&inner)).declare("sums before a norm", -16.0..=16.0);
    b.output("block", "owner", &model.after_feed_forward.apply(&x));
    Ok(b.finish()?)
}
