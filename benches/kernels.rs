//! How fast the local half of the protocol runs: field slices, and every kernel
//! of the CPU backend and of the GPU's. `RAYON_NUM_THREADS=1` gives the figures
//! of one thread. Software GPUs are refused, unless
//! `BEAVERDAM_ALLOW_SOFTWARE_GPU=1`.

use beaverdam::backend::trial;
use beaverdam::backend::{Backend, cpu::Cpu};
use beaverdam::field::{Fp61, slice};
use beaverdam::prg::{Address, Domain, PrgKey};
use beaverdam::tensor::Dims;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ndarray::Array2;
use std::hint::black_box;
use std::time::{Duration, Instant};
use zeroize::Zeroize;

const WORDS: usize = 1_000_000;
const SIDE: usize = 512;
/// Words of a vector that no cache holds.
const MANY: usize = 10_000_000;

fn words(n: usize, op: u32) -> Vec<Fp61> {
    let mut words = vec![Fp61::ZERO; n];
    let address = Address { domain: Domain::Value, input: false, op, part: 0, attempt: 0 };
    PrgKey([3; 32]).stream(address).fill(0, &mut words);
    words
}

fn field(c: &mut Criterion) {
    let mut group = c.benchmark_group("field");
    group.throughput(Throughput::Elements(4096));
    let (x, mut out) = (words(4096, 1), words(4096, 2));
    group.bench_function("add", |b| b.iter(|| slice::add(black_box(&mut out), &x)));
    group.bench_function("dot", |b| b.iter(|| slice::dot(black_box(&out), &x)));
}

/// Every kernel; `finish` waits until a device has done what it was told.
fn kernels_of<B: Backend>(c: &mut Criterion, backend: &B, finish: &dyn Fn()) {
    let mut group = c.benchmark_group(backend.name());
    for trial in trial::all(backend, WORDS, SIDE) {
        group.throughput(Throughput::Elements(trial.work));
        group.bench_function(trial.name, |b| {
            b.iter_custom(|runs| {
                let clock = Instant::now();
                (0..runs).for_each(|_| drop(black_box(trial.run())));
                finish();
                clock.elapsed()
            });
        });
    }
}

fn cpu(c: &mut Criterion) {
    kernels_of(c, &Cpu, &|| {});
    let mut group = c.benchmark_group("cpu");
    group.throughput(Throughput::Elements(WORDS as u64));
    group.bench_function("load and wipe", |b| {
        b.iter_batched(|| vec![Fp61::ONE; WORDS], |words| Cpu.load(words), BatchSize::LargeInput);
    });
    for (m, k, n) in [(256, 256, 256), (455, 30, 1), (1, 1000, 1000)] {
        let dims = Dims::Matmul { m, k, n };
        group.throughput(Throughput::Elements(dims.multiplications()));
        let (x, y) = (Cpu.load(words(m * k, 1)), Cpu.load(words(k * n, 2)));
        group.bench_function(format!("matrix product {m}x{k}x{n}"), |b| b.iter(|| Cpu.product(dims, &x, &y, None)));
    }
}

/// What the machine can do at best, beside the same work on field elements:
/// products of f64, and a pass over memory that does next to nothing.
fn limits(c: &mut Criterion) {
    let mut group = c.benchmark_group("limits");
    let square = Dims::Matmul { m: SIDE, k: SIDE, n: SIDE };
    group.throughput(Throughput::Elements(square.multiplications()));
    let (x, y) = (Cpu.load(words(SIDE * SIDE, 1)), Cpu.load(words(SIDE * SIDE, 2)));
    group.bench_function("matrix product", |b| b.iter(|| Cpu.product(square, &x, &y, None)));
    let (x, y) = (Array2::from_elem((SIDE, SIDE), 1.5), Array2::from_elem((SIDE, SIDE), 2.5));
    group.bench_function("matrix product of f64, one thread", |b| b.iter(|| black_box(&x).dot(&y)));

    // A result is wiped when it is dropped, and its pages are used again: so here.
    let dims = Dims::Elementwise(MANY);
    group.throughput(Throughput::Elements(MANY as u64));
    let (x, y) = (Cpu.load(words(MANY, 1)), Cpu.load(words(MANY, 2)));
    group.bench_function("multiply", |b| b.iter(|| Cpu.product(dims, &x, &y, None)));
    let (x, y, mut out) = (vec![5u64; MANY], vec![6; MANY], vec![0; MANY]);
    group.bench_function("xor and wipe, one thread", |b| {
        b.iter(|| {
            out.iter_mut().zip(x.iter().zip(&y)).for_each(|(out, (x, y))| *out = x ^ y);
            black_box(&mut out).as_mut_slice().zeroize();
        });
    });
}

#[cfg(feature = "gpu")]
fn gpu(c: &mut Criterion) {
    use beaverdam::backend::gpu::{Gpu, Options};
    match Gpu::open(Options::default()) {
        Ok(gpu) => {
            println!("the GPU is {}", gpu.adapter());
            kernels_of(c, &gpu, &|| gpu.settle());
        }
        Err(error) => println!("the GPU's kernels are not measured: {error}"),
    }
}

#[cfg(not(feature = "gpu"))]
fn gpu(_: &mut Criterion) {
    println!("the GPU's kernels are not measured: this build lacks the feature `gpu`");
}

criterion_group! {
    name = kernels;
    config = Criterion::default().sample_size(20).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = field, limits, cpu, gpu
}
criterion_main!(kernels);
