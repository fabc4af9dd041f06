//! What can be wrong with a program, in one line each.

use super::graph::Signature;

/// A program was refused, or a dry run was given unfit inputs.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// A result may leave the range in which arithmetic is exact.
    #[error(
        "{op} of {operands}: the result may reach {lo}..={hi} (scaled integer), expected within −2^59..2^59: declare a smaller range on an operand"
    )]
    Range {
        /// the operation
        op: &'static str,
        /// the operands' types and shapes
        operands: String,
        /// least scaled result
        lo: i128,
        /// greatest scaled result
        hi: i128,
    },
    /// Operands have the wrong shapes, types or number.
    #[error("{op} of {operands}: expected {expected}")]
    Operands {
        /// the operation
        op: &'static str,
        /// the operands' types and shapes
        operands: String,
        /// what would fit, and what to do
        expected: String,
    },
    /// A type is no type.
    #[error("{op}: type {found} is not usable: expected {expected}")]
    Type {
        /// where it was used
        op: &'static str,
        /// the type
        found: String,
        /// what would fit
        expected: &'static str,
    },
    /// A public number does not fit where it is used.
    #[error("{op}: the public number {value} is not usable: expected {expected}")]
    Public {
        /// the operation
        op: &'static str,
        /// the number
        value: f64,
        /// what would fit, and what to do
        expected: String,
    },
    /// A carried state may leave the range of the value it started from.
    #[error(
        "repeat: state {index} starts as {parameter} but ends as {found}: declare the initial value's range wide enough and declare the result of the body within it"
    )]
    State {
        /// which state, from 0
        index: usize,
        /// its parameter
        parameter: Signature,
        /// the body's result
        found: Signature,
    },
    /// A value was used where it does not exist.
    #[error(
        "{op}: value {value} is not visible here: it belongs to the body of a repeat that has ended (collect it), or was never defined"
    )]
    Scope {
        /// the operation
        op: &'static str,
        /// the value's number
        value: u32,
    },
    /// Handles of two builders met.
    #[error("{op}: the operands belong to different builders: build a program with one builder")]
    Foreign {
        /// the operation
        op: &'static str,
    },
    /// A name is empty, too long, not printable, or used twice.
    #[error("{what} name {name:?} is not usable: expected {expected}")]
    Name {
        /// input, owner, output, reader or declaration
        what: &'static str,
        /// the name
        name: String,
        /// what would fit
        expected: &'static str,
    },
    /// A program is larger than anybody has to accept.
    #[error("the program has {found} {what}, expected at most {max}: make it smaller or split it")]
    Limit {
        /// what there is too much of
        what: &'static str,
        /// how much
        found: u64,
        /// the cap
        max: u64,
    },
    /// There is no such place in the program.
    #[error("the program has no border behind iteration {done} of a repeat that defines value {repeat}")]
    Border {
        /// the first value that the repeat defines
        repeat: u32,
        /// iterations before the border
        done: u32,
    },
    /// Nothing is computed.
    #[error("the program has no outputs: name at least one with Builder::output")]
    NoOutputs,
    /// Bytes are not a program.
    #[error(
        "these bytes are not a program of this version: {found}: save it again with the same version of this crate"
    )]
    Bytes {
        /// what was found, and what was expected
        found: String,
    },
    /// A file could not be read or written.
    #[error("program file {path}: {source}: check the path and its permissions")]
    File {
        /// which file
        path: String,
        /// why
        source: std::io::Error,
    },
    /// A file holds no usable program.
    #[error("program file {path}: {source}")]
    Content {
        /// which file
        path: String,
        /// why
        source: Box<ProgramError>,
    },
    /// The inputs given to a dry run are not the program's inputs.
    #[error("dry run: input {name:?} has {found}, expected {expected}")]
    Input {
        /// which input
        name: String,
        /// what was given
        found: String,
        /// what the program says
        expected: String,
    },
}
