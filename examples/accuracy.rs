//! What the functions on secret numbers are off by, measured: every table of
//! `docs/accuracy.md`, which is this program's output.
//!
//! ```text
//! cargo run --release --example accuracy > docs/accuracy.md
//! ```

use beaverdam::backend::Device;
use beaverdam::entropy::Entropy;
use beaverdam::job::local;
use beaverdam::ml::layers;
use beaverdam::program::graph::Op;
use beaverdam::program::table::Function;
use beaverdam::program::{Builder, Comparisons, Planning, Program, Tensor, Type};
use beaverdam::roster::Roster;

/// Any fault, already one line.
type Fault = Box<dyn std::error::Error>;

/// Points at which a function is taken, evenly over its range.
const POINTS: usize = 20_000;

/// A function on a range.
struct Case {
    name: &'static str,
    range: (f64, f64),
    private: Box<dyn Fn(&Tensor) -> Tensor>,
    plain: Box<dyn Fn(f64) -> f64>,
}

fn main() -> Result<(), Fault> {
    let function = |function: Function, lo: f64, hi: f64| Case {
        name: function.name(),
        range: (lo, hi),
        private: Box::new(move |x| x.apply(function)),
        plain: Box::new(move |x| function.of(x)),
    };
    let cases = [
        Case {
            name: "sigmoid, 16 linear pieces",
            range: (-12.0, 12.0),
            private: Box::new(Tensor::sigmoid),
            plain: Box::new(|x| Function::Sigmoid.of(x)),
        },
        function(Function::Sigmoid, -12.0, 12.0),
        function(Function::Tanh, -8.0, 8.0),
        function(Function::Gelu, -10.0, 10.0),
        function(Function::Silu, -16.0, 16.0),
        function(Function::Exp, -16.0, 0.0),
        function(Function::Exp, -4.0, 4.0),
        function(Function::Log, 0.0625, 16.0),
        function(Function::Log, 0.01, 100.0),
        function(Function::Reciprocal, 0.5, 1.0),
        function(Function::Reciprocal, 0.125, 16.0),
        function(Function::Sqrt, 0.25, 64.0),
        function(Function::Sqrt, 0.0, 64.0),
        function(Function::Rsqrt, 0.25, 1.0),
        function(Function::Rsqrt, 0.0625, 64.0),
        function(Function::Log, 0.00390625, 256.0),
        function(Function::Reciprocal, 0.00390625, 256.0),
        function(Function::Reciprocal, 0.000244140625, 4096.0),
        function(Function::Sqrt, 0.00390625, 256.0),
        function(Function::Rsqrt, 0.00390625, 256.0),
    ];
    println!("# Accuracy of functions on secret numbers");
    println!();
    println!("Made by `cargo run --release --example accuracy > docs/accuracy.md`, not typed in.");
    println!("Fixed point with 16 fractional bits (a unit in the last place, ulp, is {:.2e});", 1.0 / 65536.0);
    println!("{POINTS} points evenly over each range, computed by four nodes (Shamir, one corrupt),");
    println!("beside double precision at the same points. *Bound* is what the plan promises for");
    println!("inputs as they are encoded, the rounding of an input times the slope in it; *claimed* is");
    println!(
        "the table's own error, or on many octaves (rows of 17 rounds or more) that of the whole for exact inputs."
    );
    println!("Half of the points of those rows are spread evenly over the octaves.");
    println!();
    println!(
        "| function | range | pieces | claimed | worst | mean | bound | rounds | opened words each | material bytes each |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for case in cases {
        row(&case)?;
    }
    println!();
    println!("Relu, clamp, comparisons, minima and maxima, argmax, sorting, one-hot intervals and");
    println!("embeddings, quotients and remainders by public integers are exact on the words that they are given.");
    println!("What they cost at 31 bits ([−2^15, 2^15) with 16 fractional bits), as their plans say: rounds, opened");
    println!("words, bytes among all nodes and bytes of material for each result, by digits and on packed bits.");
    println!();
    println!("| operation | rounds | words | bytes | material | packed: rounds | words | bytes | material |");
    println!("|---|---|---|---|---|---|---|---|---|");
    let one = (Type::fixed(-32768.0..=32767.0), 1);
    let row = (Type::fixed(-32768.0..=32767.0), 16);
    let int = (Type::int(-(1 << 30)..=(1 << 30) - 1), 1);
    exact("x ≥ 0, x < 0", one, |x| x.ge0())?;
    exact("x = y", one, |x| x.eq(&x.zeros(x.shape().dims())))?;
    exact("ReLU", one, Tensor::relu)?;
    exact("absolute value", one, Tensor::abs)?;
    exact("clamp to −1..=1", one, |x| x.clamp(-1.0..=1.0))?;
    exact("maximum of 16", row, |x| x.max_along(1))?;
    exact("argmax of 16", row, |x| x.argmax(1))?;
    exact("sort of 16", row, Tensor::sort)?;
    exact("quotient by 10, integers", int, |x| x.floor_div(10))?;
    exact("remainder by 10, integers", int, |x| x.modulo(10))?;
    println!();
    println!("## Layers");
    println!();
    println!("Rows of 16 numbers in [−4, 4], 500 of them.");
    println!();
    println!("| layer | worst | mean | rounds | opened words a row | material bytes a row |");
    println!("|---|---|---|---|---|---|");
    layer("softmax", layers::softmax, |row| {
        let sum: f64 = row.iter().map(|x| x.exp()).sum();
        row.iter().map(|x| x.exp() / sum).collect()
    })?;
    let norm = |x: &Tensor| {
        let one = |v: f64| x.builder().constant(&[v], Type::fixed(v..=v), [16]);
        layers::layer_norm(x, &one(1.0), &one(0.0), 0.25..=16.0)
    };
    layer("layer norm, variance in 0.25..=16", norm, |row| {
        let mean = row.iter().sum::<f64>() / row.len() as f64;
        let var = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / row.len() as f64;
        row.iter().map(|x| (x - mean) / var.sqrt()).collect()
    })
}

fn roster() -> Result<Roster, Fault> {
    Ok(Roster::shamir(4, 1)?)
}

fn program(ty: Type, shape: &[usize], f: impl Fn(&Tensor) -> Tensor) -> Result<Program, Fault> {
    let b = Builder::new();
    let x = b.input("x", "owner", ty, shape);
    b.output("y", "owner", &f(&x));
    Ok(b.finish()?)
}

/// The same seed each time, so that the page changes only with the code.
fn run(program: &Program, x: Vec<f64>) -> Result<Vec<f64>, Fault> {
    let entropy = Entropy::insecure_from_seed(1);
    let mut run = local::run_with(program, roster()?, Planning::default(), &[("x", x)], entropy, &Device::Cpu)?;
    Ok(run.outputs.remove("y").ok_or("the program has an output y")?)
}

fn errors(found: &[f64], expected: &[f64]) -> (f64, f64) {
    let off: Vec<f64> = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).collect();
    (off.iter().copied().fold(0.0, f64::max), off.iter().sum::<f64>() / off.len() as f64)
}

fn row(case: &Case) -> Result<(), Fault> {
    let (lo, hi) = case.range;
    let ty = Type::fixed(lo..=hi);
    // Numbers as they are encoded: what rounding an input does is the input's affair.
    let (first, last) = ((lo / ty.ulp()).ceil(), (hi / ty.ulp()).floor());
    let program = program(ty, &[POINTS], &case.private)?;
    let octaves = program.nodes().iter().any(|node| matches!(node.op, Op::Claim { .. }));
    let point = |i: usize| {
        let at = i as f64 / (POINTS - 1) as f64;
        let scaled =
            if octaves && i.is_multiple_of(2) { first * (last / first).powf(at) } else { first + (last - first) * at };
        scaled.round() * ty.ulp()
    };
    let x: Vec<f64> = (0..POINTS).map(point).collect();
    let plan = program.plan(roster()?)?;
    let (worst, mean) = errors(&run(&program, x.clone())?, &x.iter().map(|x| (case.plain)(*x)).collect::<Vec<_>>());
    let table = program.nodes().iter().find_map(|node| match &node.op {
        Op::Approximate { table, .. } => Some(table),
        _ => None,
    });
    let (pieces, mut claimed) = table.map_or((0, 0.0), |t| (t.pieces.len(), t.claimed_error()));
    for node in program.nodes() {
        if let Op::Claim { error, .. } = node.op {
            claimed = error as f64 * 2f64.powi(-40);
        }
    }
    let cost = plan.cost();
    println!(
        "| {} | {lo}..={hi} | {pieces} | {claimed:.1e} | {worst:.1e} | {mean:.1e} | {:.1e} | {} | {} | {} |",
        case.name,
        plan.outputs[0].error,
        cost.rounds,
        cost.opened_words / POINTS as u64,
        each(cost.stream_words, POINTS)
    );
    Ok(())
}

fn layer(name: &str, private: impl Fn(&Tensor) -> Tensor, plain: impl Fn(&[f64]) -> Vec<f64>) -> Result<(), Fault> {
    let (rows, width) = (500, 16);
    let x: Vec<f64> = (0..rows * width).map(|i| (i * 7919 % 8191) as f64 / 1024.0 - 4.0).collect();
    let program = program(Type::fixed(-4.0..=4.0), &[rows, width], private)?;
    let cost = program.plan(roster()?)?.cost();
    let expected: Vec<f64> = x.chunks(width).flat_map(plain).collect();
    let (worst, mean) = errors(&run(&program, x)?, &expected);
    println!(
        "| {name} | {worst:.1e} | {mean:.1e} | {} | {} | {} |",
        cost.rounds,
        cost.opened_words / rows as u64,
        each(cost.stream_words, rows)
    );
    Ok(())
}

/// Bytes for each of n results.
fn each(words: u64, n: usize) -> String {
    format!("{:.0}", words as f64 * 8.0 / n as f64)
}

/// What an exact operation costs by both ways of comparing.
fn exact(name: &str, (ty, width): (Type, usize), f: impl Fn(&Tensor) -> Tensor) -> Result<(), Fault> {
    let program = program(ty, &[POINTS, width], f)?;
    let mut columns = String::new();
    for comparisons in [Comparisons::Digits, Comparisons::Packed] {
        let planning = Planning { comparisons, ..Planning::default() };
        let cost = program.plan_with(roster()?, planning)?.cost();
        let material = each(cost.stream_words, POINTS);
        let sent = cost.sent_bytes * 4 / POINTS as u64;
        columns += &format!(" {} | {} | {sent} | {material} |", cost.rounds, cost.opened_words / POINTS as u64);
    }
    println!("| {name} |{columns}");
    Ok(())
}
