//! `gpu`: the devices of this machine and what they reach; and the flags with
//! which a backend is chosen.

use clap::Args;

use super::CliError;
use crate::backend::{Choice, Devices};

/// Where to compute.
#[derive(Args, Clone, Copy, Debug)]
pub struct BackendArgs {
    /// auto: a GPU if there is a real one, else the CPU. gpu, cpu: that or nothing.
    /// The result is the same, bit for bit
    #[arg(long, value_name = "auto|gpu|cpu", env = "BEAVERDAM_BACKEND", default_value_t = Choice::Auto)]
    backend: Choice,
    /// Megabytes of the GPU that may be used, over all jobs
    #[arg(long, value_name = "MB", env = "BEAVERDAM_GPU_MEMORY_MB", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(16..))]
    gpu_memory_mb: u32,
}

impl BackendArgs {
    /// The same choice for another process.
    pub fn flags(&self) -> [String; 2] {
        [format!("--backend={}", self.backend), format!("--gpu-memory-mb={}", self.gpu_memory_mb)]
    }

    /// Opens nothing yet.
    pub fn devices(&self) -> Devices {
        Devices::new(self.backend, Some(u64::from(self.gpu_memory_mb) << 20))
    }
}

/// Lists the GPUs of this machine and tests the one that a node would take:
/// every kernel against the CPU, with its rate.
#[derive(Args, Debug)]
pub struct Gpu {
    /// Print the rates as a Markdown table, for docs/gpu.md, from longer runs
    #[arg(long)]
    table: bool,
    /// Memory bandwidth of the card in GB/s, to be compared with
    #[arg(long, value_name = "GB/S")]
    bandwidth: Option<f64>,
    /// Words of the vectors
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(256..=1 << 26))]
    words: Option<u32>,
    /// Rows and columns of the matrices
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=8192))]
    side: Option<u32>,
    /// Test the kernels for devices without 64-bit integers
    #[arg(long)]
    narrow: bool,
}

impl Gpu {
    #[cfg(not(feature = "gpu"))]
    pub(super) fn run(&self) -> Result<(), CliError> {
        Err(Devices::new(Choice::Gpu, None).open().err().map_or(CliError::Usage(String::new()), CliError::Backend))
    }

    #[cfg(feature = "gpu")]
    pub(super) fn run(&self) -> Result<(), CliError> {
        use std::time::Duration;

        use crate::backend::gpu::{self, Options, adapter};
        use crate::backend::trial::{Reached, compare};
        use crate::backend::{BackendError, cpu::Cpu};

        let options = Options { narrow: self.narrow, ..Options::default() };
        let adapters = adapter::list();
        println!("{} adapters", adapters.len());
        for adapter in &adapters {
            println!("\n{adapter}");
            println!("  largest buffer           {} MiB", adapter.buffer >> 20);
            println!("  largest operand          {} MiB", adapter.binding >> 20);
            println!("  workgroup memory         {} KiB", adapter.workgroup_memory >> 10);
            println!("  threads of a workgroup   {}", adapter.workgroup_threads);
            println!("  64-bit integers          {}", if adapter.int64 { "yes" } else { "no" });
            if let Some(unfit) = &adapter.unfit {
                println!("  not used                 {unfit}");
            } else if adapter.software && !options.software {
                println!("  not used                 software; {}=1 allows it", adapter::ALLOW_SOFTWARE);
            }
        }
        println!();
        let gpu = gpu::Gpu::open(options)?;
        let kernel = if gpu.is_wide() { "matmul_wide (64-bit integers)" } else { "matmul_narrow (32-bit integers)" };
        println!("taken: {}", gpu.adapter());
        println!("matrix products by {kernel}\n");
        // Software takes as long as the CPU, so it is not made to wait.
        let (words, side, time) = match (self.table, gpu.adapter().software) {
            (_, true) => (1 << 18, 128, 0.1),
            (false, false) => (1 << 22, 512, 0.1),
            (true, false) => (1 << 24, 2048, 1.0),
        };
        let n = self.words.map_or(words, |words| words as usize);
        let side = self.side.map_or(side, |side| side as usize);
        let against = self.bandwidth.map_or("", |_| " of the bandwidth |");
        if self.table {
            println!("{}, {n} words, matrices of {side} × {side}\n", gpu.adapter());
            println!("| kernel | G results/s | GB/s |{against} CPU, G results/s | ratio |");
            println!("|---|---|---|{}---|---|", if against.is_empty() { "" } else { "---|" });
        } else {
            println!("{:22} {:>12} {:>8} {:>12} {:>7}", "kernel", "M results/s", "GB/s", "CPU, M/s", "ratio");
        }
        let show = |r: &Reached| {
            let ratio = r.rate / r.truth;
            if self.table {
                let share = self.bandwidth.map(|b| format!(" {:.0} % |", r.bytes / b / 1e7)).unwrap_or_default();
                let (rate, bytes, cpu) = (r.rate / 1e9, r.bytes / 1e9, r.truth / 1e9);
                println!("| {} | {rate:.3} | {bytes:.2} |{share} {cpu:.3} | {ratio:.2} |", r.name);
            } else {
                let (rate, bytes, cpu) = (r.rate / 1e6, r.bytes / 1e9, r.truth / 1e6);
                let right = if r.equal { "" } else { "  WRONG" };
                println!("{:22} {rate:>12.1} {bytes:>8.2} {cpu:>12.1} {ratio:>7.2}{right}", r.name);
            }
        };
        let finish = || gpu.settle();
        let reached = compare((&gpu, &finish), &Cpu, (n, side), Duration::from_secs_f64(time), show)?;
        let wrong: Vec<_> = reached.iter().filter(|r| !r.equal).map(|r| r.name).collect();
        if let Some(reason) = gpu.fault() {
            return Err(BackendError { backend: "gpu", reason }.into());
        }
        if !wrong.is_empty() {
            let reason = format!("wrong results from: {}; compute with --backend cpu and report it", wrong.join(", "));
            return Err(BackendError { backend: "gpu", reason }.into());
        }
        println!("\nall kernels equal the CPU's, bit for bit");
        Ok(())
    }
}
