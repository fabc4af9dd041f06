//! The ideal functionality: what a trusted third party would answer, in scaled
//! integers. Protocols are tested against it; nothing else uses it.

use std::collections::BTreeMap;

use super::evaluate::{Arithmetic, evaluate};
use super::graph::{Node, Type};
use super::serial::Program;
use super::table::{Function, Table};

/// The places where a protocol may answer in more than one way.
pub trait Rules {
    /// x / 2^bits for bits ≥ 1, rounded as the protocol rounds: the floor, or one more.
    fn truncate(&mut self, x: i64, bits: u8) -> i64;
    /// A scaled value of the type, another one each time.
    fn random(&mut self, ty: Type) -> i64;
}

/// What the trusted third party saw and answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Ideal {
    /// the outputs by name, scaled, row-major
    pub outputs: BTreeMap<String, Vec<i64>>,
    /// operations whose results left their derived or declared range
    pub outside: Vec<String>,
}

/// Computes a program on scaled inputs by name, which must be there with the
/// right lengths. Rules are asked in order of definition, row-major.
///
/// # Panics
/// If an input is missing.
pub fn ideal(program: &Program, inputs: &BTreeMap<String, Vec<i64>>, rules: &mut impl Rules) -> Ideal {
    let words = program.inputs().map(|(name, ..)| inputs[name].clone()).collect();
    let mut integers = Integers { rules, outside: Vec::new() };
    let outputs = evaluate(program, words, &mut integers);
    let names = program.outputs().iter().map(|output| output.name.clone());
    Ideal { outside: integers.outside, outputs: names.zip(outputs).collect() }
}

struct Integers<'a, R> {
    rules: &'a mut R,
    outside: Vec<String>,
}

impl<R: Rules> Integers<'_, R> {
    fn truncated(&mut self, x: i128, bits: u8) -> i64 {
        let x = x as i64;
        if bits == 0 { x } else { self.rules.truncate(x, bits) }
    }
}

impl<R: Rules> Arithmetic for Integers<'_, R> {
    type Word = i64;
    fn constant(&mut self, scaled: i64, _ty: Type) -> i64 {
        scaled
    }
    fn random(&mut self, ty: Type) -> i64 {
        self.rules.random(ty)
    }
    fn add(&mut self, a: i64, b: i64) -> i64 {
        a.wrapping_add(b)
    }
    fn neg(&mut self, a: i64) -> i64 {
        a.wrapping_neg()
    }
    fn dot(&mut self, pairs: impl Iterator<Item = (i64, i64)>, shift: u8) -> i64 {
        let sum = pairs.map(|(a, b)| i128::from(a) * i128::from(b)).sum();
        self.truncated(sum, shift)
    }
    fn scale(&mut self, x: i64, mantissa: i64, shift: u8) -> i64 {
        self.truncated(i128::from(x) * i128::from(mantissa), shift)
    }
    fn rescale(&mut self, x: i64, from: u8, to: u8) -> i64 {
        if to >= from { x.wrapping_shl((to - from).into()) } else { self.truncated(x.into(), from - to) }
    }
    fn at_least(&mut self, x: i64, threshold: i64, _frac: u8) -> i64 {
        i64::from(x >= threshold)
    }
    fn clamp(&mut self, x: i64, lo: i64, hi: i64, _frac: u8) -> i64 {
        x.clamp(lo, hi)
    }
    fn select(&mut self, c: i64, a: i64, b: i64) -> i64 {
        if c == 1 { a } else { b }
    }
    fn approximate(&mut self, x: i64, _function: Function, table: &Table, ty: Type) -> i64 {
        let piece = table.breakpoints.iter().filter(|b| **b <= x).count();
        let start = table.breakpoints.get(piece.wrapping_sub(1)).copied().unwrap_or(ty.lo);
        let (constant, higher) = table.pieces[piece].split_first().expect("a checked table has a degree");
        let u = i128::from(x) - i128::from(start);
        let mut sum = higher[higher.len() - 1];
        for c in higher[..higher.len() - 1].iter().rev() {
            sum = self.truncated(i128::from(sum) * u, ty.frac) + c;
        }
        self.truncated(i128::from(sum) * u + i128::from(*constant), table.bits)
    }
    fn defined(&mut self, node: &Node, value: &[i64]) {
        let ty = node.defines[0].ty;
        if let Some(v) = value.iter().find(|v| !(ty.lo..=ty.hi).contains(v)) {
            self.outside.push(format!("{} v{}: {v} outside {}..={}", node.op.name(), node.first.0, ty.lo, ty.hi));
        }
    }
}
