//! Every kernel at work on words that mean nothing: what the self-test of
//! `beaverdam gpu` and the benches run, on any backend.

use std::time::{Duration, Instant};

use super::{Backend, BackendError};
use crate::field::Fp61;
use crate::prg::{Address, Domain, PrgKey, Stream};
use crate::tensor::{Dims, Patches, View};

/// One kernel on operands that are resident already.
pub struct Trial<B: Backend> {
    /// which kernel
    pub name: &'static str,
    /// what one run does: words of results, or multiply-adds of a matrix product
    pub work: u64,
    /// bytes of memory that one run has to read and write at least
    pub bytes: u64,
    backend: B,
    run: Run<B>,
}

type Run<B> = Box<dyn Fn(&B) -> <B as Backend>::Words>;

impl<B: Backend> Trial<B> {
    /// Runs it once; a device may still be at work when this returns.
    pub fn run(&self) -> B::Words {
        (self.run)(&self.backend)
    }

    /// Seconds of one run: the median of a few batches, each of which ends with
    /// everything done and takes about a tenth of `time`.
    pub fn seconds(&self, finish: &dyn Fn(), time: Duration) -> f64 {
        let batch = |runs: u32| {
            let clock = Instant::now();
            (0..runs).for_each(|_| drop(self.run()));
            finish();
            clock.elapsed().as_secs_f64() / f64::from(runs)
        };
        // The first run makes the pipeline.
        batch(1);
        let once = batch(1).max(1e-7);
        let runs = (time.as_secs_f64() / 10.0 / once).clamp(1.0, 1000.0) as u32;
        let mut taken: Vec<f64> = (0..9).map(|_| batch(runs)).collect();
        taken.sort_by(f64::total_cmp);
        taken[taken.len() / 2]
    }
}

/// Digits have four bits, as in the plans of comparisons.
const BITS: u8 = 4;
/// Nodes of the roster that the decoding is for, of degree 2.
const NODES: usize = 4;

/// One trial of each kernel on vectors of n words and square matrices.
pub fn all<B: Backend>(backend: &B, n: usize, side: usize) -> Vec<Trial<B>> {
    let words = |seed: u32, n: usize| {
        let mut words = vec![Fp61::ZERO; n];
        stream(seed).fill(0, &mut words);
        words
    };
    let [a, b, c, d, e] = [0, 1, 2, 3, 4].map(|seed| backend.load(words(seed, n)));
    let k = words(5, 3);
    let wide = n as u64;
    let mut trials = Vec::new();
    let mut add = |name, work, bytes, run: Run<B>| {
        trials.push(Trial { name, work, bytes, backend: backend.clone(), run });
    };
    macro_rules! trial {
        ($name:expr, $work:expr, $bytes:expr, |$on:ident; $($held:ident),*| $run:expr) => {{
            $(let $held = $held.clone();)*
            add($name, $work, $bytes, Box::new(move |$on: &B| $run));
        }};
    }
    let one = Fp61::ONE;
    let half = View::Slice { outer: 1, axis: n, inner: 1, start: 0, end: n / 2 };
    trial!("copy", wide / 2, 16 * (wide / 2), |on; a| on.view(&half, &[&a]));
    trial!("add", wide, 24 * wide, |on; a, b| on.linear(n, &[(one, &a), (one, &b)], Fp61::ZERO));
    trial!("sub", wide, 24 * wide, |on; a, b| on.linear(n, &[(one, &a), (-one, &b)], Fp61::ZERO));
    trial!("scale", wide, 16 * wide, |on; a, k| on.linear(n, &[(k[0], &a)], Fp61::ZERO));
    let dims = Dims::Elementwise(n);
    trial!("multiply", wide, 24 * wide, |on; a, b| on.product(dims, &a, &b, None));
    trial!("Beaver combination", wide, 48 * wide, |on; a, b, c, d, e| on.beaver(dims, &c, &d, &e, &a, &b, one));
    let (rows, cols) = (1 << (n.ilog2() / 2), n >> (n.ilog2() / 2));
    let moved = rows * cols;
    let matrix = backend.load(words(6, moved));
    let turn = View::Transpose { outer: 1, rows, cols };
    trial!("transpose", moved as u64, 16 * moved as u64, |on; matrix| on.view(&turn, &[&matrix]));
    let sum = View::Sum { outer: 1, axis: rows, inner: cols };
    let window = crate::tensor::Window::sliding(3, 1);
    let under = View::Patches(Patches { batch: 1, channels: 1, rows, columns: cols, window });
    trial!("windows of 3 by 3", 9 * moved as u64, 80 * moved as u64, |on; matrix| on.view(&under, &[&matrix]));
    trial!("sum of rows", moved as u64, 8 * moved as u64, |on; matrix| on.view(&sum, &[&matrix]));
    trial!("expansion, 1 stream", wide, 8 * wide, |on;| on.expand(n, &[(one, stream(1))], None));
    let three = [0, 1, 2].map(|i| (k[i], stream(i as u32)));
    trial!("PRSS share, 3 keys", wide, 8 * wide, |on;| on.expand(n, &three, None));
    trial!("truncation", wide, 32 * wide, |on; a, b, c, k| on.shift(&c, &[0], 16, &a, &b, one, k[0]));
    let few = n >> BITS;
    let (digits, opened) = (backend.load(words(7, few << BITS)), backend.load(words(8, few)));
    let leaf = few as u64 * (16 + 8 * (2 + (1 << BITS) / 2));
    trial!("comparison digit", few as u64, leaf, |on; digits, opened| {
        on.leaf(&opened, &[0], 0, BITS, &digits, None).0
    });
    let (at_zero, parity) = (k.clone(), vec![k.clone()]);
    let shares: Vec<B::Words> = [&a, &b, &c, &d][..NODES].iter().map(|&share| share.clone()).collect();
    trial!("decoding, 4 shares", wide, 8 * (NODES as u64 + 1) * wide, |on; shares| {
        // The device's failure shows when the results are compared.
        on.decode(&at_zero, &parity, &shares.iter().collect::<Vec<_>>()).map_or_else(|_| on.load(Vec::new()), |d| d.0)
    });
    let row = Dims::Matmul { m: 1, k: rows, n: cols };
    let vector = backend.load(words(9, rows));
    trial!("row times matrix", moved as u64, 8 * moved as u64, |on; vector, matrix| {
        on.product(row, &vector, &matrix, None)
    });
    let square = Dims::Matmul { m: side, k: side, n: side };
    let [x, y, z] = [10, 11, 12].map(|seed| backend.load(words(seed, side * side)));
    trial!("matrix product", square.multiplications(), 32 * (side * side) as u64, |on; x, y, z| {
        on.product(square, &x, &y, Some(&z))
    });
    trials
}

fn stream(seed: u32) -> Stream {
    let address = Address { domain: Domain::Value, input: false, op: seed, part: 0, attempt: 0 };
    PrgKey([3; 32]).stream(address)
}

/// What one kernel reached, beside another backend that is the truth.
pub struct Reached {
    /// which kernel
    pub name: &'static str,
    /// results, or multiply-adds, a second
    pub rate: f64,
    /// bytes a second of what has to be read and written
    pub bytes: f64,
    /// the other backend's results a second
    pub truth: f64,
    /// both computed the same words
    pub equal: bool,
}

/// Runs every trial on both backends and compares. `finish` waits for the first.
pub fn compare<A: Backend, T: Backend>(
    (backend, finish): (&A, &dyn Fn()),
    truth: &T,
    (n, side): (usize, usize),
    time: Duration,
    mut done: impl FnMut(&Reached),
) -> Result<Vec<Reached>, BackendError> {
    let mut reached = Vec::new();
    for (trial, right) in all(backend, n, side).iter().zip(all(truth, n, side)) {
        let equal = *backend.read(&trial.run())? == *truth.read(&right.run())?;
        let rate = 1.0 / trial.seconds(finish, time);
        let truth = right.work as f64 / right.seconds(&|| {}, time);
        let one = Reached {
            name: trial.name,
            rate: trial.work as f64 * rate,
            bytes: trial.bytes as f64 * rate,
            truth,
            equal,
        };
        done(&one);
        reached.push(one);
    }
    Ok(reached)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::Cpu;

    #[test]
    fn every_kernel_is_tried_and_equals_itself() {
        let reached = compare((&Cpu, &|| {}), &Cpu, (1 << 10, 8), Duration::ZERO, |_| {}).unwrap();
        assert_eq!(reached.len(), 16);
        assert!(reached.iter().all(|r| r.equal && r.rate > 0.0 && r.bytes > 0.0 && r.truth > 0.0));
    }
}
