#![doc = include_str!("../README.md")]
#![deny(unsafe_code)]
#![warn(missing_docs)]

pub mod backend;
pub mod engine;
pub mod field;
pub mod keys;
#[cfg(feature = "net")]
pub mod net;
pub mod prg;
pub mod program;
pub mod roster;
pub mod seal;
pub mod sharing;
pub mod store;
pub mod tensor;
pub mod transcript;
