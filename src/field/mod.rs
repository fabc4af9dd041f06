//! The field Fp61 with p = 2^61 − 1, slices of it, and encodings of integers
//! and fixed-point numbers. Knows nothing of shares.

mod fp61;
pub use fp61::{Fp61, NotCanonical, P};
