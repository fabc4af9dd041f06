#![doc = include_str!("../README.md")]
#![deny(unsafe_code)]
#![deny(missing_docs)]

pub mod backend;
#[cfg(feature = "cli")]
pub mod cli;
pub mod engine;
pub mod entropy;
pub mod field;
pub mod job;
pub mod keys;
pub mod material;
pub mod ml;
#[cfg(feature = "net")]
pub mod net;
#[cfg(feature = "net")]
pub mod node;
pub mod owner;
pub mod prg;
pub mod program;
pub mod roster;
pub mod seal;
pub mod sharing;
pub mod store;
pub mod tensor;
pub mod transcript;
