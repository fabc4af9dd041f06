//! Kernels in the vector instructions of the machine at hand, found at run
//! time. The only room where unsafe code is allowed: a kernel's type is the
//! proof that the machine has its instructions, and a parity test runs each
//! beside the portable one.
#![allow(unsafe_code)]

mod lanes;
mod matrix;

/// The machine has AVX2.
#[derive(Clone, Copy, Debug)]
pub struct Avx2(());

/// The machine has AVX-512 (the foundation is enough).
#[derive(Clone, Copy, Debug)]
pub struct Avx512(());

impl Avx2 {
    /// The proof, where it is true.
    pub fn detect() -> Option<Self> {
        std::arch::is_x86_feature_detected!("avx2").then_some(Self(()))
    }
    /// Runs what is inlined into it with AVX2.
    pub fn run<R>(self, run: impl FnOnce() -> R) -> R {
        #[target_feature(enable = "avx2")]
        fn enabled<R>(run: impl FnOnce() -> R) -> R {
            run()
        }
        // SAFETY: `self` proves that the machine has AVX2.
        unsafe { enabled(run) }
    }
}

impl Avx512 {
    /// The proof, where it is true.
    pub fn detect() -> Option<Self> {
        std::arch::is_x86_feature_detected!("avx512f").then_some(Self(()))
    }
    /// Runs what is inlined into it with AVX-512.
    pub fn run<R>(self, run: impl FnOnce() -> R) -> R {
        #[target_feature(enable = "avx512f")]
        fn enabled<R>(run: impl FnOnce() -> R) -> R {
            run()
        }
        // SAFETY: `self` proves that the machine has AVX-512.
        unsafe { enabled(run) }
    }
}
