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
use std::hint::black_box;
use std::time::{Duration, Instant};

const WORDS: usize = 1_000_000;
const SIDE: usize = 512;

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
    group.bench_function("mul", |b| b.iter(|| slice::mul(black_box(&mut out), &x)));
    group.bench_function("add_scaled", |b| b.iter(|| slice::add_scaled(black_box(&mut out), x[0], &x)));
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
    targets = field, cpu, gpu
}
criterion_main!(kernels);
