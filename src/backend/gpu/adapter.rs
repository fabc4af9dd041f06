//! Which devices there are, and opening one.

use std::sync::Arc;

use wgpu::{Backends, DeviceType};

use super::kernels::Kernel;
use super::queue::Queue;
use super::{ALIGN, Fp61Mask, Gpu, Limits};
use crate::backend::cpu::Cpu;
use crate::backend::{Backend, BackendError};
use crate::field::{Fp61, P};
use crate::prg::{Address, Domain, PrgKey};
use crate::tensor::Dims;

/// Set to 1, software adapters count too: for tests, they are slower than the
/// CPU backend and protect nothing more.
pub const ALLOW_SOFTWARE: &str = "BEAVERDAM_ALLOW_SOFTWARE_GPU";

/// How a device is opened.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// take a software adapter if there is no other
    pub software: bool,
    /// bytes that may be resident; what a job needs beyond them, it does not get
    pub memory: u64,
    /// refuse 64-bit integers even where they are right
    pub narrow: bool,
}

impl Default for Options {
    /// No software adapter unless [`ALLOW_SOFTWARE`] is 1, and 4 GiB.
    fn default() -> Self {
        let software = std::env::var_os(ALLOW_SOFTWARE).is_some_and(|value| value == "1");
        Self { software, memory: 4 << 30, narrow: false }
    }
}

/// What a device says of itself.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// its name
    pub name: String,
    /// the interface: Vulkan, Metal, Dx12
    pub interface: String,
    /// driver and version
    pub driver: String,
    /// discrete GPU, integrated GPU, …
    pub kind: &'static str,
    /// emulated on the CPU
    pub software: bool,
    /// bytes of the largest buffer
    pub buffer: u64,
    /// bytes of the largest operand of a kernel
    pub binding: u64,
    /// bytes of workgroup memory
    pub workgroup_memory: u32,
    /// threads of a workgroup
    pub workgroup_threads: u32,
    /// 64-bit integers in shaders
    pub int64: bool,
    /// why kernels cannot run on it, if they cannot
    pub unfit: Option<String>,
}

impl std::fmt::Display for Adapter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}, {}, {})", self.name, self.kind, self.interface, self.driver)
    }
}

impl Adapter {
    fn of(adapter: &wgpu::Adapter) -> Self {
        let (info, limits) = (adapter.get_info(), adapter.limits());
        let kind = match info.device_type {
            DeviceType::DiscreteGpu => "discrete GPU",
            DeviceType::IntegratedGpu => "integrated GPU",
            DeviceType::VirtualGpu => "virtual GPU",
            DeviceType::Cpu => "software",
            DeviceType::Other => "of unknown kind",
        };
        // wgpu does not compare a kernel's workgroup memory with the limit.
        let (memory, threads) = Kernel::MatmulWide { add: true }.workgroup();
        let needs = [
            ("workgroup memory", limits.max_compute_workgroup_storage_size, memory),
            ("threads of a workgroup", limits.max_compute_invocations_per_workgroup, threads),
            ("buffers of a kernel", limits.max_storage_buffers_per_shader_stage, 8),
            ("workgroups", limits.max_compute_workgroups_per_dimension, 1 << 10),
        ];
        let lacking = needs.iter().find(|(_, found, needed)| found < needed);
        Self {
            name: info.name,
            interface: format!("{:?}", info.backend),
            driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
            kind,
            software: info.device_type == DeviceType::Cpu,
            buffer: limits.max_buffer_size,
            binding: limits.max_storage_buffer_binding_size,
            workgroup_memory: limits.max_compute_workgroup_storage_size,
            workgroup_threads: limits.max_compute_invocations_per_workgroup,
            int64: adapter.features().contains(wgpu::Features::SHADER_INT64),
            unfit: lacking.map(|(what, found, needed)| format!("{found} {what}, kernels need {needed}")),
        }
    }
}

/// Real devices before software, discrete ones first, Vulkan before the others.
fn found() -> Vec<(Adapter, wgpu::Adapter)> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends: Backends::VULKAN | Backends::METAL | Backends::DX12,
        flags: wgpu::InstanceFlags::empty(),
        // Drivers that report what is free refuse a buffer before they fail.
        memory_budget_thresholds: wgpu::MemoryBudgetThresholds {
            for_resource_creation: Some(95),
            for_device_loss: None,
        },
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    });
    let adapters = pollster::block_on(instance.enumerate_adapters(Backends::all()));
    let mut adapters: Vec<_> = adapters.into_iter().map(|adapter| (Adapter::of(&adapter), adapter)).collect();
    adapters.sort_by_key(|(about, adapter)| {
        let kind = match adapter.get_info().device_type {
            DeviceType::DiscreteGpu => 0,
            DeviceType::IntegratedGpu => 1,
            DeviceType::VirtualGpu => 2,
            DeviceType::Other => 3,
            DeviceType::Cpu => 4,
        };
        (kind, about.unfit.is_some(), adapter.get_info().backend != wgpu::Backend::Vulkan)
    });
    adapters
}

/// All devices of this machine, in the order in which they would be taken.
pub fn list() -> Vec<Adapter> {
    found().into_iter().map(|(about, _)| about).collect()
}

impl Gpu {
    /// Opens the first device that is fit, and tests it against the CPU.
    ///
    /// # Errors
    /// No driver, no device, one that fails or computes wrong results.
    pub fn open(options: Options) -> Result<Self, BackendError> {
        let none = |reason: String| BackendError { backend: "gpu", reason };
        let adapters = found();
        let seen = adapters.len();
        let (about, adapter) = adapters
            .into_iter()
            .find(|(about, _)| about.unfit.is_none() && (options.software || !about.software))
            .ok_or_else(|| {
                none(match seen {
                    0 => "no adapter was found: is a Vulkan, Metal or Direct3D 12 driver installed?".to_owned(),
                    _ => format!(
                        "none of the {seen} adapters found is a fit GPU: see `beaverdam gpu` (software adapters only with {ALLOW_SOFTWARE}=1)"
                    ),
                })
            })?;
        let limits = adapter.limits();
        let int64 = about.int64 && !options.narrow;
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("beaverdam"),
            required_features: if int64 { wgpu::Features::SHADER_INT64 } else { wgpu::Features::empty() },
            required_limits: limits.clone(),
            experimental_features: wgpu::ExperimentalFeatures::disabled(),
            memory_hints: wgpu::MemoryHints::Performance,
            trace: wgpu::Trace::Off,
        };
        let (device, queue) = pollster::block_on(adapter.request_device(&descriptor))
            .map_err(|e| none(format!("{about} cannot be opened: {e}")))?;
        let most = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size).min(8 << 30);
        let mut gpu = Self {
            queue: Queue::new(device, queue, options.memory, limits.max_buffer_size),
            limits: Limits {
                binding: most as usize / 8 / ALIGN * ALIGN,
                groups: limits.max_compute_workgroups_per_dimension,
                buffers: limits.max_storage_buffers_per_shader_stage,
            },
            adapter: Arc::new(about),
            wide: int64,
            reject: Fp61Mask(P),
        };
        // Some drivers get 64-bit integers wrong.
        if int64 && gpu.right().is_err() {
            gpu.wide = false;
        }
        gpu.right().map_err(|reason| none(format!("{} is refused: {reason}", gpu.adapter)))?;
        Ok(gpu)
    }

    /// Compares a few kernels with the CPU, on words at the edges of limbs.
    fn right(&self) -> Result<(), String> {
        let (m, k, n) = (70, 83, 67);
        const EDGES: [u64; 8] = [0, 1, P - 1, P - 2, (1 << 31) - 1, 1 << 31, (1 << 60) - 1, 1 << 60];
        let stream =
            PrgKey([7; 32]).stream(Address { domain: Domain::Value, input: false, op: 0, part: 0, attempt: 0 });
        // Every other word is drawn.
        let words = |count: usize, step: usize| {
            let mut words = vec![Fp61::ZERO; count];
            stream.fill(0, &mut words);
            let edges = (0..count / 2).map(|i| Fp61::reduce(EDGES[i / step % EDGES.len()]));
            words.iter_mut().step_by(2).zip(edges).for_each(|(word, edge)| *word = edge);
            words
        };
        let (x, y, z) = (words(m * k, 1), words(k * n, 7), words(m * n, 3));
        fn all<B: Backend>(
            b: &B,
            (m, k, n): (usize, usize, usize),
            x: &[Fp61],
            y: &[Fp61],
            z: &[Fp61],
            stream: &crate::prg::Stream,
        ) -> Result<Vec<Fp61>, BackendError> {
            let [x, y, z] = [x, y, z].map(|words| b.load(words.to_vec()));
            let product = b.product(Dims::Matmul { m, k, n }, &x, &y, Some(&z));
            let square = b.product(Dims::Elementwise(m * n), &product, &z, Some(&product));
            let drawn = b.expand(m * n, &[(-Fp61::ONE, stream.clone())], Some(&square));
            let combined = b.linear(m * n, &[(Fp61::reduce(1 << 59), &drawn), (-Fp61::ONE, &z)], Fp61::ONE);
            b.read_all(&[product, combined])
        }
        let dims = (m, k, n);
        let expected = all(&Cpu, dims, &x, &y, &z, &stream).map_err(|e| e.to_string())?;
        let found = all(self, dims, &x, &y, &z, &stream).map_err(|e| e.reason)?;
        if found == expected { Ok(()) } else { Err("it computes other words than the CPU".to_owned()) }
    }
}
