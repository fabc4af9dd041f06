//! How fast the local half of the protocol runs: field slices, expansion and
//! the kernels of the CPU backend. `RAYON_NUM_THREADS=1` gives the figures of
//! one thread.

use beaverdam::backend::{Backend, cpu::Cpu};
use beaverdam::field::{Fp61, slice};
use beaverdam::prg::{Address, Domain, PrgKey, Stream};
use beaverdam::tensor::{Dims, View};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::time::Duration;

const WORDS: usize = 1_000_000;

fn stream(op: u32) -> Stream {
    PrgKey([3; 32]).stream(Address { domain: Domain::Value, input: false, op, part: 0, attempt: 0 })
}

fn words(n: usize, op: u32) -> Vec<Fp61> {
    let mut words = vec![Fp61::ZERO; n];
    stream(op).fill(0, &mut words);
    words
}

fn field(c: &mut Criterion) {
    let mut group = c.benchmark_group("field");
    group.throughput(Throughput::Elements(4096));
    let (x, mut out) = (words(4096, 1), words(4096, 2));
    group.bench_function("add", |b| b.iter(|| slice::add(black_box(&mut out), &x)));
    group.bench_function("mul", |b| b.iter(|| slice::mul(black_box(&mut out), &x)));
    group.bench_function("add_scaled", |b| b.iter(|| slice::add_scaled(black_box(&mut out), x[0], &x)));
    group.bench_function("dot", |b| b.iter(|| slice::dot(black_box(&out), &x)));
}

fn expansion(c: &mut Criterion) {
    let mut group = c.benchmark_group("expand");
    group.throughput(Throughput::Elements(WORDS as u64));
    let k = words(3, 9);
    let one = [(Fp61::ONE, stream(1))];
    let three: Vec<_> = (0..3).map(|i| (k[i], stream(i as u32))).collect();
    group.bench_function("1 stream", |b| b.iter(|| Cpu.expand(WORDS, &one, None)));
    group.bench_function("3 streams", |b| b.iter(|| Cpu.expand(WORDS, &three, None)));
}

fn elementwise(c: &mut Criterion) {
    let mut group = c.benchmark_group("elementwise");
    group.throughput(Throughput::Elements(WORDS as u64));
    let dims = Dims::Elementwise(WORDS);
    let v: Vec<_> = (0..5).map(|i| Cpu.load(words(WORDS, i))).collect();
    let k = words(1, 9)[0];
    let terms = [(Fp61::ONE, &v[0]), (-Fp61::ONE, &v[1])];
    group.bench_function("x - y", |b| b.iter(|| Cpu.linear(WORDS, &terms, Fp61::ZERO)));
    group.bench_function("product", |b| b.iter(|| Cpu.product(dims, &v[0], &v[1], None)));
    group.bench_function("beaver", |b| b.iter(|| Cpu.beaver(dims, &v[0], &v[1], &v[2], &v[3], &v[4], k)));
    let view = View::Transpose { outer: 1, rows: 1000, cols: 1000 };
    group.bench_function("transpose", |b| b.iter(|| Cpu.view(&view, &[&v[0]])));
    group.bench_function("load and wipe", |b| {
        b.iter_batched(|| vec![Fp61::ONE; WORDS], |words| Cpu.load(words), BatchSize::LargeInput);
    });
}

fn matrices(c: &mut Criterion) {
    let mut group = c.benchmark_group("matrix");
    for (name, m, k, n) in
        [("256^3", 256, 256, 256), ("512^3", 512, 512, 512), ("455x30x1", 455, 30, 1), ("1x1000x1000", 1, 1000, 1000)]
    {
        let dims = Dims::Matmul { m, k, n };
        group.throughput(Throughput::Elements(dims.multiplications()));
        let (x, y) = (Cpu.load(words(m * k, 1)), Cpu.load(words(k * n, 2)));
        group.bench_function(name, |b| b.iter(|| Cpu.product(dims, &x, &y, None)));
    }
}

criterion_group! {
    name = kernels;
    config = Criterion::default().sample_size(20).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = field, expansion, elementwise, matrices
}
criterion_main!(kernels);
