//! What is left of a program behind a border: a place between two iterations of a `repeat`, or
//! behind its last one.
//!
//! A job that moves to another roster goes on as a job of its own, whose program is this rest and
//! whose inputs are what crosses the border (docs/protocols.md, 16, moving).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::check::Checker;
use super::error::ProgramError;
use super::graph::{Block, Node, Op, Signature, ValueId, uses};
use super::serial::Program;
use crate::tensor::Shape;

/// A place behind an iteration of a `repeat` that stands in no other one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Border {
    /// the first value that the repeat defines
    pub repeat: ValueId,
    /// iterations before the border, at least 1
    pub done: u32,
}

/// A value that is made before a border and used behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crossing {
    /// the state with this number, as the last iteration left it
    State(usize),
    /// the value collected with this number in each iteration so far, stacked
    Collected(usize),
    /// a value that was defined before the repeat
    Before(ValueId),
}

/// The rest of a program.
#[derive(Clone, Debug, PartialEq)]
pub struct Tail {
    /// what is left to compute; it has the outputs of the whole
    pub program: Program,
    /// what its inputs are, in their order
    pub crossing: Vec<Crossing>,
}

impl Tail {
    /// Words of all that crosses.
    pub fn words(&self) -> usize {
        self.program.inputs().map(|(_, _, signature)| signature.shape.len()).sum()
    }
}

impl Program {
    /// What is left behind a border. Its inputs have the types of the values that cross, and
    /// belong to the owner of the first input. Public constants, and what only moves or negates them, do not cross:
    /// the rest has them anew.
    ///
    /// # Errors
    /// [`ProgramError::Border`] if there is no such place.
    pub fn tail(&self, border: Border) -> Result<Tail, ProgramError> {
        let refused = || ProgramError::Border { repeat: border.repeat.0, done: border.done };
        let at = self.nodes().iter().position(|node| node.first == border.repeat).ok_or_else(refused)?;
        let (before, [node, after @ ..]) = self.nodes().split_at(at) else { return Err(refused()) };
        let Op::Repeat { count, body, .. } = &node.op else { return Err(refused()) };
        let left = count.checked_sub(border.done).filter(|_| border.done > 0).ok_or_else(refused)?;

        let mut used = BTreeSet::new();
        let mut note = |id| _ = used.insert(id);
        if left > 0 {
            body.uses(&mut note);
        }
        uses(after, &mut note);
        self.outputs().iter().for_each(|output| note(output.value));
        let kept = constants(before, &mut used);

        let owner = self.inputs().next().map_or("owner", |(_, owner, _)| owner);
        let mut rest = Rest { checker: Checker::new(), to: BTreeMap::new(), owner, crossing: Vec::new() };
        let end = |i: usize| ValueId(node.first.0 + i as u32);
        let (states, collected) = node.defines.split_at(body.params.len());
        let mut init = Vec::with_capacity(states.len());
        for (i, (state, param)) in states.iter().zip(&body.params).enumerate() {
            if left > 0 {
                init.push(rest.input(Crossing::State(i), param)?);
            } else if used.contains(&end(i)) {
                let id = rest.input(Crossing::State(i), state)?;
                rest.to.insert(end(i), id);
            }
        }
        let mut stacked = BTreeMap::new();
        for (i, whole) in collected.iter().enumerate() {
            let id = end(states.len() + i);
            if used.contains(&id) {
                let shape = [&[border.done as usize], &whole.shape.dims()[1..]].concat();
                let so_far = Signature { ty: whole.ty, shape: Shape::new(shape).map_err(|_| refused())? };
                stacked.insert(id, rest.input(Crossing::Collected(i), &so_far)?);
            }
        }
        for node in before {
            if kept.contains(&node.first) {
                rest.nodes(std::slice::from_ref(node))?;
                continue;
            }
            for (i, signature) in node.defines.iter().enumerate() {
                let id = ValueId(node.first.0 + i as u32);
                if used.contains(&id) {
                    let input = rest.input(Crossing::Before(id), signature)?;
                    rest.to.insert(id, input);
                }
            }
        }
        if left > 0 {
            rest.repeat(node.first, left, init, body)?;
        }
        for (id, so_far) in stacked {
            let whole = match rest.to.get(&id) {
                Some(later) => {
                    let signature = &node.defines[(id.0 - node.first.0) as usize];
                    rest.checker.define(Op::Concat { parts: vec![so_far, *later], axis: 0 }, signature)?
                }
                None => so_far,
            };
            rest.to.insert(id, whole);
        }
        rest.nodes(after)?;
        for output in self.outputs() {
            rest.checker.output(output.name.clone(), output.reader.clone(), rest.to[&output.value])?;
        }
        let (nodes, outputs) = rest.checker.finish()?;
        Ok(Tail { program: Program::finished(nodes, outputs)?, crossing: rest.crossing })
    }
}

/// Which of the values used are public constants, or those moved or negated; what they are made of is used too.
fn constants(nodes: &[Node], used: &mut BTreeSet<ValueId>) -> BTreeSet<ValueId> {
    let mut known = BTreeSet::new();
    for node in nodes {
        let moves = matches!(node.op, Op::Slice { .. } | Op::Concat { .. } | Op::Patches { .. } | Op::Transpose(_))
            || matches!(node.op, Op::Reshape(_) | Op::Broadcast(_) | Op::Neg(_));
        let mut constant = moves || matches!(node.op, Op::Constant { .. });
        node.op.operands(|id| constant &= known.contains(id));
        if constant {
            known.insert(node.first);
        }
    }
    for node in nodes.iter().rev().filter(|node| known.contains(&node.first)) {
        if used.contains(&node.first) {
            node.op.operands(|id| _ = used.insert(*id));
        }
    }
    known.retain(|id| used.contains(id));
    known
}

/// The rest under construction.
struct Rest<'a> {
    checker: Checker,
    /// the numbers of the whole's values in the rest
    to: BTreeMap<ValueId, ValueId>,
    owner: &'a str,
    crossing: Vec<Crossing>,
}

impl Rest<'_> {
    fn input(&mut self, crossing: Crossing, signature: &Signature) -> Result<ValueId, ProgramError> {
        let name = match crossing {
            Crossing::State(i) => format!("state {i}"),
            Crossing::Collected(i) => format!("collected {i}"),
            Crossing::Before(id) => format!("value {}", id.0),
        };
        self.crossing.push(crossing);
        self.checker.define(Op::Input { name, owner: self.owner.to_owned() }, signature)
    }

    /// The same nodes, on the rest's numbers.
    fn nodes(&mut self, nodes: &[Node]) -> Result<(), ProgramError> {
        for node in nodes {
            let mut op = node.op.clone();
            op.operands_mut(|id| *id = self.to[id]);
            if let Op::Repeat { count, init, body } = op {
                self.repeat(node.first, count, init, &body)?;
                continue;
            }
            let id = self.checker.define(op, &node.defines[0])?;
            self.to.insert(node.first, id);
        }
        Ok(())
    }

    /// The same loop; the initial states have the rest's numbers.
    fn repeat(&mut self, first: ValueId, count: u32, init: Vec<ValueId>, body: &Block) -> Result<(), ProgramError> {
        let param = self.checker.enter(count, &init)?;
        for i in 0..body.params.len() as u32 {
            self.to.insert(ValueId(body.first_param.0 + i), ValueId(param.0 + i));
        }
        self.nodes(&body.nodes)?;
        let [results, collect] =
            [&body.results, &body.collect].map(|ids| ids.iter().map(|id| self.to[id]).collect::<Vec<_>>());
        let defines = (results.len() + collect.len()) as u32;
        let ends = self.checker.leave(count, init, results, collect)?;
        for i in 0..defines {
            self.to.insert(ValueId(first.0 + i), ValueId(ends.0 + i));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::ideal::{Rules, ideal};
    use crate::program::{Builder, Type, random};

    /// Always the floor, and always the least value.
    struct Floor;
    impl Rules for Floor {
        fn truncate(&mut self, x: i64, bits: u8) -> i64 {
            x >> bits
        }
        fn random(&mut self, ty: Type) -> i64 {
            ty.lo
        }
    }

    /// What comes before a border, with what crosses it as outputs, named as the rest's inputs.
    fn head(whole: &Program, border: Border, tail: &Tail) -> Program {
        let at = whole.nodes().iter().position(|node| node.first == border.repeat).unwrap();
        let mut nodes = whole.nodes()[..=at].to_vec();
        let node = nodes.last_mut().unwrap();
        let Op::Repeat { count, body, .. } = &mut node.op else { panic!("no repeat") };
        *count = border.done;
        let states = body.params.len();
        for stacked in &mut node.defines[states..] {
            let dims = [&[border.done as usize], &stacked.shape.dims()[1..]].concat();
            stacked.shape = Shape::new(dims).unwrap();
        }
        let names = tail.program.inputs().map(|input| input.0.to_owned());
        let value = |crossing: &Crossing| match crossing {
            Crossing::State(i) => ValueId(border.repeat.0 + *i as u32),
            Crossing::Collected(i) => ValueId(border.repeat.0 + (states + i) as u32),
            Crossing::Before(id) => *id,
        };
        let outputs = names.zip(&tail.crossing).map(|(name, crossing)| super::super::graph::Output {
            name,
            reader: "alice".to_owned(),
            value: value(crossing),
        });
        Program::finished(nodes, outputs.collect()).unwrap()
    }

    fn borders(program: &Program) -> Vec<Border> {
        let repeats = program.nodes().iter().filter_map(|node| match &node.op {
            Op::Repeat { count, .. } => Some((node.first, *count)),
            _ => None,
        });
        repeats.flat_map(|(repeat, count)| (1..=count).map(move |done| Border { repeat, done })).collect()
    }

    /// A training with a nested loop, a public table, a test set that is read behind it, and curves.
    fn training() -> Program {
        let b = Builder::new();
        let x = b.input("x", "alice", Type::fixed(-2.0..=2.0), [3, 2]);
        let test = b.input("test", "alice", Type::fixed(-2.0..=2.0), [2, 2]);
        let table = b.constant(&[0.5, -0.25], Type::fixed(-1.0..=1.0), [2]).reshape([2, 1]);
        let start = b.constant(&[0.0, 0.5], Type::fixed(-4.0..=4.0), [2, 1]);
        let (ends, curves) = b.repeat(3, &[start], |_, state| {
            let (inner, _) = b.repeat(2, &[state[0].clone()], |_, s| {
                let step = (&s[0] * &table).declare("inner", -4.0..=4.0);
                (vec![step], vec![])
            });
            let error = x.matmul(&inner[0]);
            let next = (&state[0] - error.sum(0).reshape([1, 1]) * 0.125).declare("w", -4.0..=4.0);
            (vec![next], vec![error.square().sum_all()])
        });
        let scored = test.matmul(&ends[0]);
        let (more, _) = b.repeat(2, &[scored], |_, s| (vec![(&s[0] * 0.5).declare("s", -16.0..=16.0)], vec![]));
        b.output("scored", "alice", &more[0]);
        b.output("curve", "alice", &curves[0]);
        b.output("w", "alice", &ends[0]);
        b.finish().unwrap()
    }

    /// The rest computes from what crosses what the whole does: at every border.
    fn goes_on_as_the_whole(whole: &Program, inputs: &BTreeMap<String, Vec<i64>>) -> usize {
        let expected = ideal(whole, inputs, &mut Floor);
        for border in borders(whole) {
            let tail = whole.tail(border).unwrap();
            // It is a program like any other.
            assert_eq!(Program::from_bytes(&tail.program.to_bytes()).unwrap(), tail.program);
            let crossing = ideal(&head(whole, border, &tail), inputs, &mut Floor).outputs;
            let found = ideal(&tail.program, &crossing, &mut Floor);
            assert_eq!(found.outputs, expected.outputs, "{border:?}");
        }
        borders(whole).len()
    }

    #[test]
    fn the_rest_goes_on_as_the_whole() {
        let inputs = BTreeMap::from([
            ("x".to_owned(), vec![65536, -20000, 3000, 70000, -131072, 5]),
            ("test".to_owned(), vec![1000, -65536, 40000, 9]),
        ]);
        assert_eq!(goes_on_as_the_whole(&training(), &inputs), 5);
    }

    #[test]
    fn so_does_that_of_random_programs() {
        let mut seen = 0;
        for seed in 0..60 {
            let whole = random::program(seed, 16);
            let values = random::inputs(&whole, seed ^ 0x7a11);
            let scaled = whole.encode_inputs(&values).unwrap();
            let integers = |words: &Vec<crate::field::Fp61>| crate::field::Integers.decode(words).unwrap();
            let inputs = whole.inputs().zip(&scaled).map(|(i, words)| (i.0.to_owned(), integers(words))).collect();
            seen += goes_on_as_the_whole(&whole, &inputs);
        }
        assert!(seen > 20, "only {seen} borders");
    }

    #[test]
    fn only_what_is_used_behind_a_border_crosses_it() {
        let whole = training();
        let crossing = |done: u32, which: usize| {
            let repeat =
                borders(&whole).iter().map(|b| b.repeat).collect::<BTreeSet<_>>().into_iter().nth(which).unwrap();
            whole.tail(Border { repeat, done }).unwrap().program.inputs().map(|i| i.0.to_owned()).collect::<Vec<_>>()
        };
        // State, curve, x and the test set; not the public table.
        assert_eq!(crossing(1, 0), ["state 0", "collected 0", "value 0", "value 1"]);
        // x is not read any more.
        assert_eq!(crossing(3, 0), ["state 0", "collected 0", "value 1"]);
        assert_eq!(crossing(1, 1).len(), 3);
    }

    #[test]
    fn a_border_that_is_not_there_is_refused() {
        let whole = training();
        let at = borders(&whole)[0];
        for border in [
            Border { done: 0, ..at },
            Border { done: 4, ..at },
            Border { repeat: ValueId(0), ..at },
            Border { repeat: ValueId(u32::MAX), ..at },
        ] {
            let refused = whole.tail(border).unwrap_err().to_string();
            assert!(refused.contains("no border behind iteration"), "{refused}");
        }
    }
}
