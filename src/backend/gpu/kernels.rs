//! The kernels' sources, as files in `shaders/`, and their pipelines.
//!
//! A source is plain WGSL but for lines that unroll a block:
//!
//! ```text
//! //: for i in 0..T {
//! let x${i} = …;        // once for each i; ${i+2} is the number plus 2
//! //: }
//! ```
//!
//! Bounds are numbers, names of the outer loops, or the [`Kernel`]'s own (`T`).
//! Drivers unroll loops as they please; registers that a loop indexes would
//! otherwise end in memory. A block that runs 0 times is an option switched off.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};

/// A kernel with the numbers that its source is unrolled by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kernel {
    /// Σ k·x over so many terms
    Linear { terms: u32 },
    /// x·y elementwise
    Product { add: bool },
    /// Beaver's combination, elementwise
    Beaver,
    /// strided moves
    Copy,
    /// words under a window
    Patches,
    /// sums over an axis
    Sum,
    /// a vector times a matrix
    Matvec,
    /// pseudorandom words
    Expand { add: bool },
    /// the exact shift of an opening
    Shift,
    /// comparison leaves
    Leaf { carry: bool },
    /// interpolation and parity of an opened batch
    Decode { base: u32, shares: u32 },
    /// matrix product by 64-bit integers
    MatmulWide { add: bool },
    /// matrix product by 32-bit integers
    MatmulNarrow { add: bool },
}

const FIELD: &str = include_str!("../../../shaders/field.wgsl");
const DIGIT: &str = include_str!("../../../shaders/digit.wgsl");

impl Kernel {
    /// The name of its file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Linear { .. } => "linear",
            Self::Product { .. } => "product",
            Self::Beaver => "beaver",
            Self::Copy => "copy",
            Self::Patches => "patches",
            Self::Sum => "sum",
            Self::Matvec => "matvec",
            Self::Expand { .. } => "expand",
            Self::Shift => "shift",
            Self::Leaf { .. } => "leaf",
            Self::Decode { .. } => "decode",
            Self::MatmulWide { .. } => "matmul_wide",
            Self::MatmulNarrow { .. } => "matmul_narrow",
        }
    }

    fn file(self) -> &'static str {
        match self {
            Self::Linear { .. } => include_str!("../../../shaders/linear.wgsl"),
            Self::Product { .. } => include_str!("../../../shaders/product.wgsl"),
            Self::Beaver => include_str!("../../../shaders/beaver.wgsl"),
            Self::Copy => include_str!("../../../shaders/copy.wgsl"),
            Self::Patches => include_str!("../../../shaders/patches.wgsl"),
            Self::Sum => include_str!("../../../shaders/sum.wgsl"),
            Self::Matvec => include_str!("../../../shaders/matvec.wgsl"),
            Self::Expand { .. } => include_str!("../../../shaders/expand.wgsl"),
            Self::Shift => include_str!("../../../shaders/shift.wgsl"),
            Self::Leaf { .. } => include_str!("../../../shaders/leaf.wgsl"),
            Self::Decode { .. } => include_str!("../../../shaders/decode.wgsl"),
            Self::MatmulWide { .. } => include_str!("../../../shaders/matmul_wide.wgsl"),
            Self::MatmulNarrow { .. } => include_str!("../../../shaders/matmul_narrow.wgsl"),
        }
    }

    /// The names in its file, with their numbers.
    fn numbers(self) -> Vec<(&'static str, u32)> {
        match self {
            Self::Linear { terms } => vec![("T", terms)],
            Self::Product { add } | Self::Expand { add } | Self::MatmulWide { add } | Self::MatmulNarrow { add } => {
                vec![("ADD", add.into())]
            }
            Self::Leaf { carry } => vec![("CARRY", carry.into())],
            Self::Decode { base, shares } => vec![("D", base), ("K", shares)],
            Self::Beaver | Self::Copy | Self::Patches | Self::Sum | Self::Matvec | Self::Shift => Vec::new(),
        }
    }

    /// The whole WGSL module: field arithmetic and the unrolled file.
    pub fn source(self) -> String {
        let mut source = String::from(FIELD);
        if matches!(self, Self::Shift | Self::Leaf { .. }) {
            source.push_str(DIGIT);
        }
        let lines: Vec<&str> = self.file().lines().collect();
        unroll(&lines, &mut self.numbers(), &mut source);
        source
    }

    /// What a dispatch with these parameters computes, counted roughly in
    /// multiply-adds of a matrix product.
    pub fn steps(self, params: &[u32]) -> u64 {
        let of = |from: usize, until: usize| params[from..until].iter().map(|p| u64::from(*p)).product();
        match self {
            Self::MatmulWide { .. } | Self::MatmulNarrow { .. } => of(0, 3),
            // Words and streams; a word takes an eighth of a ChaCha20 block.
            Self::Expand { .. } => 8 * of(0, 2),
            _ => of(0, 1),
        }
    }

    /// Bytes of workgroup memory and threads of a workgroup: wgpu does not
    /// compare the first with what the device has.
    pub fn workgroup(self) -> (u32, u32) {
        match self {
            Self::MatmulWide { .. } => (16 << 10, 256),
            Self::MatmulNarrow { .. } => (8 << 10, 256),
            Self::Expand { .. } => (0, 64),
            _ => (0, 256),
        }
    }
}

/// Writes lines with their blocks unrolled. The files are part of the crate
/// and every one is unrolled by a test, so a fault in them panics.
fn unroll<'a>(lines: &[&'a str], names: &mut Vec<(&'a str, u32)>, out: &mut String) {
    let mut at = 0;
    while at < lines.len() {
        let line = lines[at].trim_start();
        let Some(head) = line.strip_prefix("//: for ") else {
            writeln!(out, "{}", fill(lines[at], names)).expect("a String takes any text");
            at += 1;
            continue;
        };
        let (name, range) = head.split_once(" in ").expect("//: for NAME in A..B {");
        let (from, until) = range.strip_suffix(" {").and_then(|r| r.split_once("..")).expect("A..B {");
        let end = at + 1 + matching(&lines[at + 1..]);
        for i in number(from, names)..number(until, names) {
            names.push((name, i));
            unroll(&lines[at + 1..end], names, out);
            names.pop();
        }
        at = end + 1;
    }
}

/// The index of the line that closes the block in which `lines` begin.
fn matching(lines: &[&str]) -> usize {
    let mut depth = 1;
    let closes = lines.iter().position(|line| {
        let line = line.trim_start();
        depth += i32::from(line.starts_with("//: for ")) - i32::from(line == "//: }");
        depth == 0
    });
    closes.expect("every block is closed by //: }")
}

/// Replaces each `${sum}` by its number.
fn fill(line: &str, names: &[(&str, u32)]) -> String {
    let mut parts = line.split("${");
    let mut out = String::from(parts.next().unwrap_or_default());
    for part in parts {
        let (sum, rest) = part.split_once('}').expect("${…}");
        let sum: u32 = sum.split('+').map(|term| number(term, names)).sum();
        write!(out, "{sum}{rest}").expect("a String takes any text");
    }
    out
}

fn number(text: &str, names: &[(&str, u32)]) -> u32 {
    let named = names.iter().rev().find(|(name, _)| *name == text).map(|(_, value)| *value);
    named.or_else(|| text.parse().ok()).expect("a number or a name in scope")
}

/// Pipelines, each made when it is first wanted and kept.
#[derive(Default)]
pub struct Pipelines(Mutex<HashMap<Kernel, Arc<wgpu::ComputePipeline>>>);

impl Pipelines {
    /// The kernel's pipeline. An error goes to the device's error handler.
    pub fn get(&self, device: &wgpu::Device, kernel: Kernel) -> Arc<wgpu::ComputePipeline> {
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let make = || {
            let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
                label: Some(kernel.name()),
                source: wgpu::ShaderSource::Wgsl(kernel.source().into()),
            });
            Arc::new(device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(kernel.name()),
                layout: None,
                module: &module,
                entry_point: Some("main"),
                compilation_options: wgpu::PipelineCompilationOptions::default(),
                cache: None,
            }))
        };
        Arc::clone(made.entry(kernel).or_insert_with(make))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use naga::valid::{Capabilities, ValidationFlags, Validator};

    fn every_kernel() -> Vec<Kernel> {
        let mut kernels =
            vec![Kernel::Beaver, Kernel::Copy, Kernel::Patches, Kernel::Sum, Kernel::Matvec, Kernel::Shift];
        kernels.extend((0..=16).map(|terms| Kernel::Linear { terms }));
        for on in [false, true] {
            kernels.extend([Kernel::Product { add: on }, Kernel::Expand { add: on }, Kernel::Leaf { carry: on }]);
            kernels.extend([Kernel::MatmulWide { add: on }, Kernel::MatmulNarrow { add: on }]);
        }
        kernels.extend(
            [2, 3, 4, 7, 32]
                .into_iter()
                .flat_map(|shares: u32| (1..shares).map(move |base| Kernel::Decode { base, shares })),
        );
        kernels
    }

    /// Needs no adapter. Only the wide product may ask for 64-bit integers.
    #[test]
    fn every_kernel_is_valid() {
        for kernel in every_kernel() {
            let source = kernel.source();
            let module = naga::front::wgsl::parse_str(&source)
                .unwrap_or_else(|e| panic!("{kernel:?}: {}", e.emit_to_string(&source)));
            let wide = matches!(kernel, Kernel::MatmulWide { .. });
            let capabilities = if wide { Capabilities::SHADER_INT64 } else { Capabilities::empty() };
            let valid = Validator::new(ValidationFlags::all(), capabilities).validate(&module);
            valid.unwrap_or_else(|e| panic!("{kernel:?}: {}", e.emit_to_string(&source)));
            let shared: u32 = module
                .global_variables
                .iter()
                .filter(|(_, v)| v.space == naga::AddressSpace::WorkGroup)
                .map(|(_, v)| module.types[v.ty].inner.size(module.to_ctx()))
                .sum();
            let threads = module.entry_points[0].workgroup_size.iter().product();
            assert_eq!((shared, threads), kernel.workgroup(), "{kernel:?}");
        }
    }

    #[test]
    fn blocks_unroll() {
        let lines = ["a", "  //: for i in 0..N {", "b${i}", "//: for j in i..2 {", "${i+j+3}", "//: }", "//: }", "c"];
        let mut out = String::new();
        unroll(&lines, &mut vec![("N", 2)], &mut out);
        assert_eq!(out, "a\nb0\n3\n4\nb1\n5\nc\n");
        out.clear();
        unroll(&lines, &mut vec![("N", 0)], &mut out);
        assert_eq!(out, "a\nc\n");
    }
}
