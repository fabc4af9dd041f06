//! The dry run: a program on the owner's own data, in the clear, in real
//! arithmetic with exact functions.
//!
//! It tells before anyone pays whether the declared ranges hold, and what the
//! result should be near. It runs where the data lies and sends nothing.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use zeroize::Zeroizing;

use super::error::ProgramError;
use super::evaluate::{Arithmetic, evaluate};
use super::graph::{Node, Op, Signature, Type, ValueId};
use super::random::Choices;
use super::serial::Program;
use super::table::{Function, Table};
use crate::field::Fp61;

/// Checked values as field elements.
fn encode(ty: Type, values: &[f64]) -> Zeroizing<Vec<Fp61>> {
    let scaled = values.iter().map(|v| ty.scaled(*v).expect("checked against the type before"));
    Zeroizing::new(scaled.map(Fp61::from_i64).collect())
}

/// The most elements of one value that a dry run computes.
pub const MAX_DRY_ELEMENTS: usize = 1 << 27;

/// What a dry run saw.
#[derive(Clone, Debug, PartialEq)]
pub struct DryRun {
    /// the outputs by name, row-major
    pub outputs: BTreeMap<String, Vec<f64>>,
    /// every declaration in order of definition, over all iterations
    pub declarations: Vec<Seen>,
    /// every input in order
    pub inputs: Vec<Seen>,
}

impl DryRun {
    /// Whether all values lay within their declared ranges.
    pub fn holds(&self) -> bool {
        self.declarations.iter().all(Seen::holds)
    }
}

/// The values that a range was declared for.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// the name of the declaration or the input
    pub name: String,
    /// the declared range, in real units
    pub declared: RangeInclusive<f64>,
    /// the least value seen
    pub least: f64,
    /// the greatest value seen
    pub greatest: f64,
}

impl Seen {
    /// Whether all values lay within the declared range.
    pub fn holds(&self) -> bool {
        self.declared.contains(&self.least) && self.declared.contains(&self.greatest)
    }

    fn new(name: &str, ty: Type, values: &[f64]) -> Self {
        let mut seen =
            Self { name: name.into(), declared: ty.range(), least: f64::INFINITY, greatest: f64::NEG_INFINITY };
        seen.include(values);
        seen
    }

    fn include(&mut self, values: &[f64]) {
        self.least = values.iter().copied().fold(self.least, f64::min);
        self.greatest = values.iter().copied().fold(self.greatest, f64::max);
    }
}

impl Program {
    /// The inputs' words as they are shared, in the program's order.
    pub fn encode_inputs(
        &self,
        inputs: &BTreeMap<String, Vec<f64>>,
    ) -> Result<Vec<Zeroizing<Vec<Fp61>>>, ProgramError> {
        let values = self.inputs_in_order(inputs)?;
        Ok(self.inputs().zip(values).map(|((_, _, signature), values)| encode(signature.ty, values)).collect())
    }

    /// The inputs in the program's order, each checked against its type and shape.
    fn inputs_in_order<'a>(&self, inputs: &'a BTreeMap<String, Vec<f64>>) -> Result<Vec<&'a [f64]>, ProgramError> {
        let mut values = Vec::new();
        for (name, _, signature) in self.inputs() {
            let given = inputs.get(name).ok_or_else(|| ProgramError::Input {
                name: name.into(),
                found: "no values".into(),
                expected: signature.to_string(),
            })?;
            check_input(name, signature, given)?;
            values.push(given.as_slice());
        }
        if let Some(name) = inputs.keys().find(|name| self.inputs().all(|(known, ..)| known != name.as_str())) {
            return Err(ProgramError::Input {
                name: name.clone(),
                found: "values".into(),
                expected: "only inputs that the program names".into(),
            });
        }
        Ok(values)
    }

    /// Computes the program on inputs given by name, row-major, in real
    /// arithmetic: no rounding to fractional bits, exact functions.
    ///
    /// Random values are drawn anew, always the same ones for one program: they
    /// tell nothing of those of a job.
    ///
    /// Values outside declared ranges are reported, not refused. Inputs that
    /// are missing, unknown, of the wrong length, or hold a value that their
    /// type does not, are errors. Integers beyond 2^53 are rounded.
    pub fn dry_run(&self, inputs: &BTreeMap<String, Vec<f64>>) -> Result<DryRun, ProgramError> {
        let mut choices = Choices(0);
        self.dry_run_on(inputs, &mut |ty| choices.any(ty))
    }

    /// A dry run on random values as given, scaled, in the order in which the
    /// program asks for them.
    pub(crate) fn dry_run_on(
        &self,
        inputs: &BTreeMap<String, Vec<f64>>,
        random: &mut dyn FnMut(Type) -> i64,
    ) -> Result<DryRun, ProgramError> {
        refuse_huge(self.nodes())?;
        let words: Vec<Vec<f64>> = self.inputs_in_order(inputs)?.into_iter().map(<[f64]>::to_vec).collect();
        let seen = self.inputs().zip(&words).map(|((name, _, sig), values)| Seen::new(name, sig.ty, values)).collect();
        let mut reals = Reals { declarations: BTreeMap::new(), random };
        let outputs = evaluate(self, words, &mut reals);
        Ok(DryRun {
            outputs: self.outputs().iter().map(|output| output.name.clone()).zip(outputs).collect(),
            declarations: reals.declarations.into_values().collect(),
            inputs: seen,
        })
    }
}

fn check_input(name: &str, signature: &Signature, values: &[f64]) -> Result<(), ProgramError> {
    let refused = |found| ProgramError::Input { name: name.into(), found, expected: signature.to_string() };
    if values.len() != signature.shape.len() {
        return Err(refused(format!("{} values", values.len())));
    }
    match values.iter().position(|value| signature.ty.scaled(*value).is_none()) {
        Some(index) => Err(refused(format!("the value {} at index {index}", values[index]))),
        None => Ok(()),
    }
}

fn refuse_huge(nodes: &[Node]) -> Result<(), ProgramError> {
    for node in nodes {
        for signature in &node.defines {
            let found = signature.shape.len();
            if found > MAX_DRY_ELEMENTS {
                let (found, max) = (found as u64, MAX_DRY_ELEMENTS as u64);
                return Err(ProgramError::Limit { what: "elements in one value of a dry run", found, max });
            }
        }
        if let Op::Repeat { body, .. } = &node.op {
            refuse_huge(&body.nodes)?;
        }
    }
    Ok(())
}

struct Reals<'a> {
    declarations: BTreeMap<ValueId, Seen>,
    random: &'a mut dyn FnMut(Type) -> i64,
}

impl Arithmetic for Reals<'_> {
    type Word = f64;
    fn constant(&mut self, scaled: i64, ty: Type) -> f64 {
        scaled as f64 * ty.ulp()
    }
    fn random(&mut self, ty: Type) -> f64 {
        (self.random)(ty) as f64 * ty.ulp()
    }
    fn add(&mut self, a: f64, b: f64) -> f64 {
        a + b
    }
    fn neg(&mut self, a: f64) -> f64 {
        -a
    }
    fn dot(&mut self, pairs: impl Iterator<Item = (f64, f64)>, _shift: u8) -> f64 {
        pairs.map(|(a, b)| a * b).sum()
    }
    fn scale(&mut self, x: f64, mantissa: i64, shift: u8) -> f64 {
        x * (mantissa as f64 / (1u64 << shift) as f64)
    }
    fn rescale(&mut self, x: f64, _from: u8, _to: u8) -> f64 {
        x
    }
    fn at_least(&mut self, x: f64, threshold: i64, frac: u8) -> f64 {
        if x >= real(threshold, frac) { 1.0 } else { 0.0 }
    }
    fn clamp(&mut self, x: f64, lo: i64, hi: i64, frac: u8) -> f64 {
        x.clamp(real(lo, frac), real(hi, frac))
    }
    fn select(&mut self, c: f64, a: f64, b: f64) -> f64 {
        if c >= 0.5 { a } else { b }
    }
    fn approximate(&mut self, x: f64, function: Function, _: &Table, _: Type) -> f64 {
        function.of(x)
    }
    fn defined(&mut self, node: &Node, value: &[f64]) {
        if let Op::Declare { name, .. } = &node.op {
            let seen = self.declarations.entry(node.first);
            seen.and_modify(|seen| seen.include(value)).or_insert_with(|| Seen::new(name, node.defines[0].ty, value));
        }
    }
}

fn real(scaled: i64, frac: u8) -> f64 {
    scaled as f64 / (1u64 << frac) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::Builder;

    fn doubling(limit: f64) -> Program {
        let b = Builder::new();
        let x = b.input("x", "alice", Type::fixed(-8.0..=8.0), [2]);
        let (ends, all) = b.repeat(3, &[x.declare("start", -limit..=limit)], |_, states| {
            let next = (&states[0] * 2.0).declare("double", -limit..=limit);
            (vec![next.clone()], vec![next.ge0()])
        });
        b.output("end", "alice", &ends[0]);
        b.output("signs", "alice", &all[0]);
        b.finish().unwrap()
    }

    fn named(name: &str, values: &[f64]) -> BTreeMap<String, Vec<f64>> {
        BTreeMap::from([(name.to_string(), values.to_vec())])
    }

    #[test]
    fn declarations_report_what_was_seen() {
        let run = doubling(20.0).dry_run(&named("x", &[1.0, -3.0])).unwrap();
        assert_eq!(run.outputs["end"], [8.0, -24.0]);
        assert_eq!(run.outputs["signs"], [1.0, 0.0, 1.0, 0.0, 1.0, 0.0]);
        assert_eq!(
            run.declarations[1],
            Seen { name: "double".into(), declared: -20.0..=20.0, least: -24.0, greatest: 8.0 }
        );
        assert_eq!((run.inputs[0].least, run.inputs[0].greatest), (-3.0, 1.0));
        assert!(!run.holds());
        assert!(doubling(24.0).dry_run(&named("x", &[1.0, -3.0])).unwrap().holds());
    }

    #[test]
    fn unfit_inputs_are_named() {
        for (name, values, words) in [
            ("y", &[1.0, 1.0][..], "\"x\" has no values"),
            ("x", &[1.0], "1 values, expected [2] of fixed16 in -8..=8"),
            ("x", &[1.0, 8.5], "8.5 at index 1"),
            ("x", &[f64::NAN, 0.0], "NaN at index 0"),
        ] {
            let message = doubling(9.0).dry_run(&named(name, values)).unwrap_err().to_string();
            assert!(message.contains(words), "{message}");
        }
        let mut inputs = named("x", &[0.0, 0.0]);
        inputs.insert("z".into(), vec![]);
        assert!(doubling(9.0).dry_run(&inputs).unwrap_err().to_string().contains("\"z\""));
    }

    #[test]
    fn views_move_elements_as_numpy_does() {
        let b = Builder::new();
        let x = b.input("x", "alice", Type::int(0..=9), [2, 3]);
        b.output("t", "alice", &x.t());
        b.output("slice", "alice", &x.slice(1, 1..3));
        b.output("concat", "alice", &b.concat(&[&x, &x.slice(1, 0..1)], 1));
        b.output("column", "alice", &x.slice(1, 0..1).broadcast([2, 2, 2]));
        b.output("rows", "alice", &x.sum(0));
        b.output("columns", "alice", &x.sum(1));
        b.output("gram", "alice", &x.matmul(&x.t()));
        b.output("scaled", "alice", &(&x * &x.slice(0, 0..1).reshape([3])));
        let batch = x.reshape([1, 2, 3]).broadcast([2, 2, 3]);
        b.output("batch", "alice", &batch.t());
        let run = b.finish().unwrap().dry_run(&named("x", &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])).unwrap();
        for (name, values) in [
            ("t", &[1, 4, 2, 5, 3, 6][..]),
            ("slice", &[2, 3, 5, 6]),
            ("concat", &[1, 2, 3, 1, 4, 5, 6, 4]),
            ("column", &[1, 1, 4, 4, 1, 1, 4, 4]),
            ("rows", &[5, 7, 9]),
            ("columns", &[6, 15]),
            ("gram", &[14, 32, 32, 77]),
            ("scaled", &[1, 4, 9, 4, 10, 18]),
            ("batch", &[1, 4, 2, 5, 3, 6, 1, 4, 2, 5, 3, 6]),
        ] {
            assert_eq!(run.outputs[name], values.iter().map(|v| f64::from(*v)).collect::<Vec<_>>(), "{name}");
        }
    }
}
