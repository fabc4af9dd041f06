//! Random well-typed programs and inputs, for property tests and fuzzing. A
//! program is a function of its seed and size, and of no scheme.
//!
//! Shapes are small, every operation occurs, repeats nest, and declarations
//! are true: each declared value is within its range for all inputs.

use std::collections::BTreeMap;

use super::builder::{Builder, Tensor};
use super::graph::{Signature, Type};
use super::serial::Program;
use super::table::Function;
use crate::tensor::Window;

/// A generator of small numbers: splitmix64 (Steele, Lea, Flood, OOPSLA 2014).
/// Fit for choosing tests, not for secrets.
#[derive(Clone, Debug)]
pub struct Choices(pub u64);

impl Choices {
    /// The next 64 bits.
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    /// A number below n ≥ 1.
    pub fn below(&mut self, n: usize) -> usize {
        (self.word() % n as u64) as usize
    }
    /// A scaled value of a type, its ends and 0 more often than others.
    pub fn value(&mut self, ty: Type) -> i64 {
        match self.below(8) {
            0 => ty.lo,
            1 => ty.hi,
            2 => 0i64.clamp(ty.lo, ty.hi),
            _ => self.any(ty),
        }
    }
    /// A scaled value of a type, each as often as the others.
    pub fn any(&mut self, ty: Type) -> i64 {
        (i128::from(ty.lo) + i128::from(self.word()) % (i128::from(ty.hi) - i128::from(ty.lo) + 1)) as i64
    }
}

/// A program of about `size` operations.
pub fn program(seed: u64, size: usize) -> Program {
    let mut writer = Writer { choices: Choices(seed), b: Builder::new(), declarations: 0 };
    let [m, n] = [(); 2].map(|()| 1 + writer.choices.below(3));
    let mut pool = vec![
        writer.b.input("x", "alice", Type::fixed(-4.0..=4.0), [m, n]),
        writer.b.input("y", "bob", Type::fixed(-1.0..=2.0), [n]),
        writer.b.input("i", "alice", Type::int(-20..=30), [m, n]),
        writer.b.input("c", "bob", Type::bit(), [n]),
    ];
    writer.extend(&mut pool, size, 2);
    // recent values depend on most operations
    for (k, tensor) in pool.iter().rev().take(5).enumerate() {
        writer.b.output(&format!("out{k}"), if k % 2 == 0 { "alice" } else { "bob" }, tensor);
    }
    writer.b.finish().expect("the writer only writes well-typed programs")
}

/// Scaled inputs of a program, by name.
pub fn scaled_inputs(program: &Program, seed: u64) -> BTreeMap<String, Vec<i64>> {
    let mut choices = Choices(seed);
    let values = |(name, _, s): (&str, &str, &Signature)| {
        (name.to_string(), (0..s.shape.len()).map(|_| choices.value(s.ty)).collect())
    };
    program.inputs().map(values).collect()
}

/// The same inputs in real units.
pub fn inputs(program: &Program, seed: u64) -> BTreeMap<String, Vec<f64>> {
    let mut scaled = scaled_inputs(program, seed);
    let real = |(name, _, s): (&str, &str, &Signature)| {
        let values = scaled.remove(name).unwrap_or_default();
        (name.to_string(), values.into_iter().map(|v| v as f64 * s.ty.ulp()).collect())
    };
    program.inputs().map(real).collect()
}

struct Writer {
    choices: Choices,
    b: Builder,
    declarations: usize,
}

impl Writer {
    fn extend(&mut self, pool: &mut Vec<Tensor>, size: usize, depth: usize) {
        for _ in 0..size {
            let next = if depth > 0 && self.choices.below(8) == 0 {
                self.repeat(pool, depth)
            } else {
                vec![self.operation(pool)]
            };
            pool.extend(next);
        }
    }

    fn pick(&mut self, pool: &[Tensor]) -> Tensor {
        // late values more often, so that programs grow deep
        let from = if self.choices.below(2) == 0 { pool.len() / 2 } else { 0 };
        pool[from + self.choices.below(pool.len() - from)].clone()
    }
    fn small(&mut self, pool: &[Tensor]) -> Tensor {
        let x = self.pick(pool);
        self.shrunk(&x, 4.0)
    }
    fn fixed(&mut self, pool: &[Tensor]) -> Tensor {
        let x = self.pick(pool).rescale(16);
        self.shrunk(&x, 4.0)
    }
    fn integer(&mut self, pool: &[Tensor]) -> Tensor {
        let x = self.small(pool);
        if x.ty().fixed { x.ge0() } else { x }
    }

    /// The value scaled down to `bound` (fixed point), or compared with 0 if
    /// it is past 16·bound (integers).
    fn shrunk(&mut self, x: &Tensor, bound: f64) -> Tensor {
        let range = x.ty().range();
        let largest = range.start().abs().max(range.end().abs());
        if x.ty().fixed {
            // a truncation may add one unit in the last place
            if largest > bound + 0.01 { x * (bound / largest) } else { x.clone() }
        } else if largest > 16.0 * bound {
            x.ge0()
        } else {
            x.clone()
        }
    }
    fn flat(&mut self, x: &Tensor, length: usize) -> Tensor {
        // any tensor as a vector of the wanted length
        let n = x.shape().len();
        let x = x.reshape([n]);
        if n >= length { x.slice(0, 0..length) } else { x.slice(0, 0..1).broadcast([length]) }
    }
    fn factor(&mut self) -> f64 {
        [0.1, -0.5, 3.0, 0.0, -1.7, 1e-3, 0.75][self.choices.below(7)]
    }

    fn operation(&mut self, pool: &[Tensor]) -> Tensor {
        match self.choices.below(31) {
            0 => self.small(pool).rescale(16) + self.fixed(pool).sum_all(),
            1 => self.integer(pool).sum_all() - self.integer(pool),
            2 => -self.small(pool),
            3 => self.fixed(pool) * self.fixed(pool).rescale([10, 16][self.choices.below(2)]).sum_all(),
            4 => self.integer(pool) * self.small(pool).sum_all(),
            5 => self.small(pool).square(),
            6 => {
                let [m, k, n] = [(); 3].map(|()| 1 + self.choices.below(3));
                let (a, b) = (self.fixed(pool), self.fixed(pool));
                self.flat(&a, m * k).reshape([m, k]).matmul(&self.flat(&b, k * n).reshape([k, n]))
            }
            7 => {
                let (a, b) = (self.fixed(pool), self.integer(pool));
                self.flat(&a, 3).matmul(&self.flat(&b, 3))
            }
            8 => self.fixed(pool) * self.factor(),
            9 => self.fixed(pool) + self.factor(),
            10 => self.integer(pool) * 3.0 - 2.0,
            11 => {
                let x = self.fixed(pool);
                x.rescale(20).rescale(12)
            }
            12 => {
                let x = self.small(pool);
                self.flat(&x, 6).reshape([2, 3]).t()
            }
            13 => {
                let x = self.small(pool);
                self.flat(&x, 4).reshape([1, 4, 1]).broadcast([2, 4, 1]).slice(1, 1..3).sum(0)
            }
            14 => {
                let (a, b) = (self.small(pool), self.small(pool));
                let (a, b) = if a.ty().fixed || b.ty().fixed { (a.rescale(16), b.rescale(16)) } else { (a, b) };
                let (a, b) = (self.flat(&a, 4).reshape([2, 2]), self.flat(&b, 2).reshape([2, 1]));
                self.b.concat(&[&a, &b, &a], 1)
            }
            15 => {
                let x = self.fixed(pool);
                self.flat(&x, 6).reshape([2, 3]).mean(1)
            }
            16 => self.small(pool).ge0(),
            17 => {
                let (a, b) = (self.fixed(pool), self.fixed(pool).sum_all());
                match self.choices.below(4) {
                    0 => a.lt(&b),
                    1 => a.le(&b),
                    2 => a.gt(&b),
                    _ => a.ge(&b),
                }
            }
            18 => {
                let (c, a, b) = (self.small(pool).ge0(), self.fixed(pool), self.fixed(pool));
                c.sum_all().ge0().select(&a, &b.sum_all())
            }
            19 | 20 => (self.fixed(pool) * 3.0).sigmoid(),
            24 => {
                let x = self.fixed(pool);
                let function = [Function::Tanh, Function::Gelu, Function::Exp][self.choices.below(3)];
                if self.choices.below(2) == 0 { x.apply(function) } else { x.clamp(0.5..=2.0).reciprocal() }
            }
            25 => {
                let x = self.fixed(pool);
                let x = self.flat(&x, 2);
                let ends = [(0.0, 1.0), (-0.5, 9.0), (-9.0, 0.25), (-9.0, 9.0), (5.0, 6.0)][self.choices.below(5)];
                x.clamp(ends.0..=ends.1)
            }
            26 => {
                let x = self.small(pool);
                let x = self.flat(&x, 2);
                match self.choices.below(3) {
                    0 => x.at_least(&[-1.0, 0.0, 2.0]),
                    1 => x.between(&[-60.0, 1.0, 3.0]),
                    _ => x.eq(&x.clamp(0.0..=1.0)),
                }
            }
            27 => self.integer(pool).floor_div([3, 1, 70][self.choices.below(3)]),
            28 => {
                let x = self.small(pool);
                let x = self.flat(&x, 3);
                match self.choices.below(3) {
                    0 => x.sort(),
                    1 => x.argmax(0),
                    _ => x.max_along(0),
                }
            }
            29 => {
                let types = [Type::bit(), Type::int(-3..=5), Type::fixed(-1.0..=1.0)];
                self.b.random(types[self.choices.below(3)], [2])
            }
            30 => {
                let x = self.small(pool);
                let size = [1 + self.choices.below(2), 1 + self.choices.below(3)];
                let window = Window { size, stride: [1 + self.choices.below(2), 2], padding: [0, 1, 1, 0] };
                self.flat(&x, 12).reshape([2, 1, 2, 3]).patches(window).slice(2, 0..1)
            }
            21 => {
                let x = self.fixed(pool);
                let bound = self.b.constant(&[1.0], Type::fixed(1.0..=1.0), []);
                self.declarations += 1;
                let clamped = x.gt(&bound).select(&bound, &x);
                let least = *x.ty().range().start();
                clamped.declare(&format!("clamped {}", self.declarations), least.min(1.0)..=1.0)
            }
            22 => {
                let values = [self.choices.value(Type::int(-9..=9)), self.choices.value(Type::int(-9..=9))];
                self.b.integers(&values, Type::int(-9..=9), [2])
            }
            _ => {
                let x = self.small(pool);
                if x.shape().dims().is_empty() { x + 1.0 } else { x.slice(0, 0..1) }
            }
        }
    }

    /// A repeat whose states provably stay in range: one halved and moved a
    /// little, perhaps declared as well, and one selected.
    fn repeat(&mut self, pool: &[Tensor], depth: usize) -> Vec<Tensor> {
        let fixed = self.fixed(pool).declare("start", -8.0..=8.0);
        let integer = self.integer(pool);
        let count = 1 + self.choices.below(3) as u32;
        let declared = self.choices.below(2) == 0;
        let b = self.b.clone();
        let (ends, curves) = b.repeat(count, &[fixed, integer], |b, states| {
            let mut inner = pool.to_vec();
            inner.extend(states.iter().cloned());
            let size = 1 + self.choices.below(3);
            self.extend(&mut inner, size, depth - 1);
            let step = self.fixed(&inner).sum_all();
            let step = self.shrunk(&step, 3.5);
            let next = &states[0] * 0.5 + step;
            let next = if declared { next.declare("state", -8.0..=8.0) } else { next };
            let ty = states[1].ty();
            let least = b.integers(&[ty.lo], Type::int(ty.lo..=ty.lo), []);
            let raised = (&states[1] - 2.0).ge0().select(&states[1], &least);
            let last = inner.last().expect("inputs at least").clone();
            let last = self.flat(&last, 2);
            (vec![next, raised], vec![last])
        });
        ends.into_iter().chain(curves).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::graph::{Node, Op};
    use super::super::ideal::{Rules, ideal};
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// Rounds up or down by a coin, within what the protocol may answer.
    struct Coins(Choices);

    impl Rules for Coins {
        fn truncate(&mut self, x: i64, bits: u8) -> i64 {
            (x >> bits) + self.0.below(2) as i64
        }
        fn random(&mut self, ty: Type) -> i64 {
            self.0.value(ty)
        }
    }

    fn operations(nodes: &[Node], names: &mut BTreeSet<&'static str>) {
        for node in nodes {
            names.insert(node.op.name());
            if let Op::Repeat { body, .. } = &node.op {
                operations(&body.nodes, names);
            }
        }
    }

    #[test]
    fn every_operation_occurs() {
        let mut names = BTreeSet::new();
        for seed in 0..100 {
            operations(program(seed, 12).nodes(), &mut names);
        }
        assert_eq!(names.len(), 28, "{names:?}");
    }

    #[test]
    fn programs_are_functions_of_their_seed() {
        assert_eq!(program(7, 20).digest(), program(7, 20).digest());
        assert_ne!(program(7, 20).digest(), program(8, 20).digest());
    }

    proptest! {
        #[test]
        fn random_programs_round_trip(seed: u64, size in 1usize..30) {
            let program = program(seed, size);
            prop_assert_eq!(&Program::from_bytes(&program.to_bytes()).unwrap(), &program);
        }

        #[test]
        fn mutated_random_programs_never_panic(seed: u64, edits in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4)) {
            let mut bytes = program(seed, 10).to_bytes();
            for (at, value) in edits {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            if let Ok(program) = Program::from_bytes(&bytes) {
                prop_assert_eq!(program.to_bytes(), bytes);
            }
        }

        #[test]
        fn every_value_lies_in_its_derived_range(seed: u64, size in 1usize..30) {
            let program = program(seed, size);
            let ideal = ideal(&program, &scaled_inputs(&program, seed), &mut Coins(Choices(seed)));
            prop_assert_eq!(ideal.outside, Vec::<String>::new());
        }

        #[test]
        fn declarations_are_true(seed: u64, size in 1usize..30) {
            let program = program(seed, size);
            let run = program.dry_run(&inputs(&program, seed)).unwrap();
            prop_assert!(run.holds(), "{:?}", run.declarations);
            for (name, value) in &run.outputs {
                let output = program.outputs().iter().find(|output| output.name == *name).unwrap();
                prop_assert!(value.iter().all(|v| v.is_finite()), "{}", output.name);
            }
        }
    }
}
