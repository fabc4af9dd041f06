//! The works that can be measured: programs with their inputs, and what must
//! come out.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use beaverdam::ml::{Descent, LogisticRegression, layers, with_intercept};
use beaverdam::program::plan::Plan;
use beaverdam::program::{Builder, Program, Tensor, Type};

use crate::Fault;
use crate::data::{BOUND, Data};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    Mul(usize),
    FixedMul(usize),
    Matmul(usize, usize, usize),
    Compare(usize),
    Relu(usize),
    Logistic(u32),
    Mlp(usize),
    Triples(usize),
    Truncations(usize),
    Add(usize),
    Steps(u32),
    Wire(usize),
}

/// All forms, for people.
pub const FORMS: &str = "mul:N, fmul:N, add:N, matmul:MxKxN, cmp:N, relu:N, logreg:EPOCHS, mlp:BATCH, steps:N, triples:N, trunc:N or wire:BYTES, numbers from 1";

/// The most elements of one input: 1 GB of masked values at each node.
const MOST: usize = 1 << 27;

impl FromStr for Work {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = || format!("found {text:?}, expected one of {FORMS}");
        let (name, size) = text.split_once(':').ok_or_else(refuse)?;
        let number = |text: &str| text.parse().ok().filter(|n| (1..=MOST).contains(n)).ok_or_else(refuse);
        Ok(match name {
            "mul" => Self::Mul(number(size)?),
            "fmul" => Self::FixedMul(number(size)?),
            "cmp" => Self::Compare(number(size)?),
            "relu" => Self::Relu(number(size)?),
            "logreg" => Self::Logistic(u32::try_from(number(size)?).map_err(|_| refuse())?),
            "mlp" => Self::Mlp(number(size)?),
            "triples" => Self::Triples(number(size)?),
            "trunc" => Self::Truncations(number(size)?),
            "add" => Self::Add(number(size)?),
            "steps" => Self::Steps(u32::try_from(number(size)?).map_err(|_| refuse())?),
            "wire" => Self::Wire(number(size)?),
            "matmul" => {
                let sides: Vec<usize> = size.split('x').map(number).collect::<Result<_, _>>()?;
                let [m, k, n] = sides[..] else { return Err(refuse()) };
                Self::Matmul(m, k, n)
            }
            _ => return Err(refuse()),
        })
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mul(n) => write!(f, "mul:{n}"),
            Self::FixedMul(n) => write!(f, "fmul:{n}"),
            Self::Matmul(m, k, n) => write!(f, "matmul:{m}x{k}x{n}"),
            Self::Compare(n) => write!(f, "cmp:{n}"),
            Self::Relu(n) => write!(f, "relu:{n}"),
            Self::Logistic(epochs) => write!(f, "logreg:{epochs}"),
            Self::Mlp(batch) => write!(f, "mlp:{batch}"),
            Self::Triples(n) => write!(f, "triples:{n}"),
            Self::Truncations(n) => write!(f, "trunc:{n}"),
            Self::Add(n) => write!(f, "add:{n}"),
            Self::Steps(n) => write!(f, "steps:{n}"),
            Self::Wire(bytes) => write!(f, "wire:{bytes}"),
        }
    }
}

/// A program, its inputs, and its results in the clear.
pub struct Ready {
    pub program: Program,
    pub inputs: BTreeMap<String, Vec<f64>>,
    expected: BTreeMap<String, Vec<f64>>,
}

impl Work {
    /// Whether only the owner works: what it deals is measured, and no node.
    pub fn is_material(self) -> bool {
        matches!(self, Self::Triples(_) | Self::Truncations(_))
    }

    /// The program on inputs from a seed, and what it gives in real arithmetic.
    pub fn ready(self, seed: u64) -> Result<Ready, Fault> {
        let task = Task { b: Builder::new(), random: Random(seed), inputs: BTreeMap::new() };
        let (program, inputs) = self.build(task)?;
        let run = program.dry_run(&inputs)?;
        if let Some(seen) = run.declarations.iter().find(|d| !d.holds()) {
            let (least, greatest) = (seen.least, seen.greatest);
            return Err(
                format!("{self}: {} would reach {least} to {greatest}, outside its declared range", seen.name).into()
            );
        }
        Ok(Ready { program, inputs, expected: run.outputs })
    }

    fn build(self, mut task: Task) -> Result<(Program, BTreeMap<String, Vec<f64>>), Fault> {
        let integers = Type::int(-(1 << 20)..=1 << 20);
        let reals = Type::fixed(-64.0..=64.0);
        let signed = Type::int(-(1 << 30)..=(1 << 30) - 1);
        let result = match self {
            Self::Mul(n) | Self::Triples(n) => task.input("x", integers, &[n]) * task.input("y", integers, &[n]),
            Self::FixedMul(n) => task.input("x", reals, &[n]) * task.input("y", reals, &[n]),
            Self::Truncations(n) => task.input("x", reals, &[n]) * 0.7,
            Self::Add(n) => task.input("x", integers, &[n]) + task.input("y", integers, &[n]),
            Self::Steps(n) => task.steps(n),
            Self::Wire(_) => return Err("the wire computes nothing".into()),
            Self::Matmul(m, k, n) => {
                let unit = Type::fixed(-1.0..=1.0);
                task.input("x", unit, &[m, k]).matmul(&task.input("y", unit, &[k, n]))
            }
            Self::Compare(n) => task.input("x", signed, &[n]).ge0(),
            Self::Relu(n) => task.input("x", signed, &[n]).relu(),
            Self::Logistic(epochs) => task.logistic(epochs)?,
            Self::Mlp(batch) => task.perceptron(batch),
        };
        task.b.output("result", "owner", &result);
        Ok((task.b.finish()?, task.inputs))
    }
}

impl Ready {
    /// Refuses results that are not the plain ones within the plan's bound.
    pub fn check(&self, work: Work, plan: &Plan, outputs: &BTreeMap<String, Vec<f64>>) -> Result<(), Fault> {
        for output in &plan.outputs {
            let name = &output.name;
            let found = outputs.get(name).ok_or_else(|| format!("{work}: the output {name} did not come back"))?;
            let expected = self.expected.get(name).map_or(&[][..], Vec::as_slice);
            if found.len() != expected.len() {
                return Err(format!("{work}: {} values came back, expected {}", found.len(), expected.len()).into());
            }
            // Where no bound can be shown, through sigmoids: what tests of training allow.
            let bound = if output.error.is_finite() { output.error } else { 1e-2 };
            let far = |(found, expected): &(&f64, &f64)| (*found - *expected).abs() > bound;
            if let Some((i, (found, expected))) = found.iter().zip(expected).enumerate().find(|(_, pair)| far(pair)) {
                return Err(format!("{work}: value {i} is {found}, expected {expected} within {bound:.1e}").into());
            }
        }
        Ok(())
    }
}

/// A program in the making.
struct Task {
    b: Builder,
    random: Random,
    inputs: BTreeMap<String, Vec<f64>>,
}

impl Task {
    /// An input with random values over the whole range of its type.
    fn input(&mut self, name: &str, ty: Type, shape: &[usize]) -> Tensor {
        let range = ty.range();
        let values = (0..shape.iter().product()).map(|_| self.random.within(*range.start(), *range.end(), ty.ulp()));
        self.inputs.insert(name.to_owned(), values.collect());
        self.b.input(name, "owner", ty, shape.to_vec())
    }

    /// So many steps one after another on eight numbers: a long program.
    fn steps(&mut self, n: u32) -> Tensor {
        let unit = Type::fixed(-1.0..=1.0);
        let (x, y) = (self.input("x", unit, &[8]), self.input("y", unit, &[8]));
        let (ends, _) = self.b.repeat(n, &[x], |_, states| (vec![&states[0] * 0.5 + &y * 0.25], vec![]));
        ends[0].clone()
    }

    /// The weights after full-batch descent on all samples of the breast-cancer data.
    fn logistic(&mut self, epochs: u32) -> Result<Tensor, Fault> {
        let data = Data::read(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data/breast_cancer.csv")))?;
        let rows = data.train.labels.len() + data.test.labels.len();
        let x = self.b.input("features", "owner", Type::fixed(-BOUND..=BOUND), [rows, data.features]);
        let y = self.b.input("labels", "owner", Type::bit(), [rows]);
        self.inputs.insert("features".to_owned(), [data.train.features, data.test.features].concat());
        self.inputs.insert("labels".to_owned(), [data.train.labels, data.test.labels].concat());
        let descent = Descent { epochs, learning_rate: 0.1, ..Descent::default() };
        let model = LogisticRegression { descent, ..LogisticRegression::default() };
        Ok(model.train(&with_intercept(&x), &y).weights)
    }

    /// The scores of a perceptron 784-128-128-10 with ReLU; its weights are secret.
    fn perceptron(&mut self, batch: usize) -> Tensor {
        const LAYERS: [usize; 4] = [784, 128, 128, 10];
        let mut x = self.input("images", Type::fixed(0.0..=1.0), &[batch, LAYERS[0]]);
        for (i, sides) in LAYERS.windows(2).enumerate() {
            let w = self.input(&format!("weights {i}"), Type::fixed(-0.125..=0.125), sides);
            let bias = self.input(&format!("bias {i}"), Type::fixed(-0.125..=0.125), &sides[1..]);
            let sums = layers::dense(&x, &w, &bias).declare(&format!("sums {i}"), -64.0..=64.0);
            x = if i + 2 < LAYERS.len() { sums.relu() } else { sums };
        }
        x
    }
}

/// splitmix64: the same inputs for everybody.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A multiple of `ulp`, so that nothing is rounded when it is encoded.
    fn within(&mut self, least: f64, greatest: f64, ulp: f64) -> f64 {
        let steps = ((greatest - least) / ulp) as u64 + 1;
        least + (self.next() % steps) as f64 * ulp
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn works_read_as_they_are_written() {
        for text in [
            "mul:3",
            "fmul:1",
            "matmul:2x3x4",
            "cmp:9",
            "relu:9",
            "logreg:10",
            "mlp:1",
            "triples:5",
            "trunc:5",
            "add:2",
            "steps:4",
            "wire:8",
        ] {
            assert_eq!(text.parse::<Work>().unwrap().to_string(), text);
        }
        for text in ["", "mul", "mul:", "mul:0", "mul:-1", "mul:1000000000", "matmul:2x3", "matmul:1x2x3x4", "sub:3"] {
            let message = text.parse::<Work>().unwrap_err();
            assert!(message.contains("expected one of") && !message.contains('\n'), "{message}");
        }
    }

    #[test]
    fn a_wrong_result_is_an_error() {
        let roster = beaverdam::roster::Roster::shamir(4, 1).unwrap();
        let ready = Work::Mul(3).ready(7).unwrap();
        let plan = ready.program.plan(roster).unwrap();
        assert!(ready.check(Work::Mul(3), &plan, &ready.expected.clone()).is_ok());
        let mut wrong = ready.expected.clone();
        wrong.get_mut("result").unwrap()[1] += 1.0;
        assert!(ready.check(Work::Mul(3), &plan, &wrong).unwrap_err().to_string().contains("value 1 is"));
        assert!(ready.check(Work::Mul(3), &plan, &BTreeMap::new()).is_err());
    }
}
