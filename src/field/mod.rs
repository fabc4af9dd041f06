//! The field Fp61 with p = 2^61 − 1, slices of it, and encodings of integers
//! and fixed-point numbers. Knows nothing of shares.

mod encoding;
mod fp61;
#[cfg(target_arch = "x86_64")]
mod halves;
#[cfg(test)]
pub(crate) mod laws;
mod parts;
pub mod slice;

pub use encoding::{DecodeError, EncodeError, FixedPoint, Integers};
pub use fp61::{Fp61, NotCanonical, P, zeros};
pub use parts::Parts;
