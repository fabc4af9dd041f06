//! The online phase of whole jobs in one process: all nodes, every message, no
//! sockets. `cargo bench --no-default-features --bench online`.

use std::time::Duration;

use beaverdam::backend::Device;
use beaverdam::entropy::Entropy;
use beaverdam::job::local;
use beaverdam::program::{Builder, Comparisons, Planning, Program, Type};
use beaverdam::roster::Roster;
use criterion::{Criterion, criterion_group, criterion_main};

/// n products of secret integers.
fn products(n: usize) -> Program {
    let b = Builder::new();
    let x = b.input("x", "alice", Type::int(-1000..=1000), [n]);
    let y = b.input("y", "alice", Type::int(-1000..=1000), [n]);
    b.output("z", "alice", &(&x * &y).sum(0));
    b.finish().expect("well typed")
}

/// A matrix product of fixed-point numbers, truncated.
fn matrices(n: usize) -> Program {
    let b = Builder::new();
    let x = b.input("x", "alice", Type::fixed(-4.0..=4.0), [n, n]);
    let y = b.input("y", "alice", Type::fixed(-4.0..=4.0), [n, n]);
    b.output("z", "alice", &x.matmul(&y).sum(0));
    b.finish().expect("well typed")
}

/// The greater of each value and 0, at 31 bits.
fn relu(n: usize) -> Program {
    let b = Builder::new();
    let x = b.input("x", "alice", Type::fixed(-32768.0..=32767.0), [n]);
    b.output("z", "alice", &x.relu().sum(0));
    b.finish().expect("well typed")
}

/// A million ReLU by both ways of comparing.
fn comparisons(c: &mut Criterion) {
    let (n, roster) = (1_000_000, Roster::shamir(4, 1).expect("a valid roster"));
    let program = relu(n);
    let inputs = [("x", (0..n).map(|i| (i % 201) as f64 - 100.0).collect::<Vec<_>>())];
    let mut group = c.benchmark_group("1000000 ReLU");
    group.sample_size(10);
    for comparisons in [Comparisons::Packed, Comparisons::Digits] {
        let planning = Planning { comparisons, ..Planning::default() };
        group.bench_function(format!("{comparisons:?}"), |b| {
            let once = || local::run_with(&program, roster, planning, &inputs, Entropy::system(), &Device::Cpu);
            b.iter_custom(|runs| -> Duration { (0..runs).map(|_| once().expect("an honest run").online).sum() });
        });
    }
}

fn online(c: &mut Criterion, name: &str, program: &Program, words: usize) {
    let values: Vec<f64> = (0..words).map(|i| (i % 7) as f64 - 3.0).collect();
    let inputs = [("x", values.clone()), ("y", values)];
    let mut group = c.benchmark_group(name);
    group.sample_size(10);
    let rosters = [Roster::shamir(4, 1), Roster::shamir(3, 1), Roster::spdz(3)];
    for roster in rosters.map(|r| r.expect("a valid roster")) {
        group.bench_function(roster.to_string(), |b| {
            b.iter_custom(|runs| -> Duration {
                (0..runs).map(|_| local::run(program, roster, &inputs).expect("an honest run").online).sum()
            });
        });
    }
}

fn benches(c: &mut Criterion) {
    online(c, "1000000 products", &products(1_000_000), 1_000_000);
    online(c, "matrix product 256", &matrices(256), 256 * 256);
    comparisons(c);
}

criterion_group!(online_phase, benches);
criterion_main!(online_phase);
