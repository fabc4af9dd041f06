//! What crosses a border of a plan, and how a party comes to hold it at a checkpoint.
//!
//! A checkpoint stands between two rounds, and a border in the program. At the first, what crosses the
//! second is mostly not there: it takes the steps that come next, sums, shifts and draws, and openings too where
//! a curve is still computed when the next iteration has begun.

use std::collections::{BTreeMap, BTreeSet};

use super::{Known, Lowering, PlanError, Value, lower};
use crate::field::Fp61;
use crate::program::graph::ValueId;
use crate::program::plan::{Plan, Prim, Pub, Reg, Sec};
use crate::program::tail::{Border, Crossing, Tail};
use crate::program::{Planning, Program};
use crate::roster::Roster;

/// How a party leaves a plan before a round, for a job that goes on with the rest of the program.
#[derive(Clone, Debug)]
pub struct Departure {
    /// where
    pub border: Border,
    /// what is left, and what its inputs are
    pub tail: Tail,
    /// for each input of the rest the registers that hold it, one after another
    pub registers: Vec<Vec<Departing>>,
    /// the steps that fill these registers from what is alive before the round: indices into
    /// [`Plan::prims`], in order
    pub steps: Vec<u32>,
}

impl Departure {
    /// The inputs that the steps read.
    pub fn reads<'a>(&'a self, plan: &'a Plan) -> impl Iterator<Item = u32> + 'a {
        self.steps.iter().filter_map(|step| match plan.prims[*step as usize] {
            Prim::Input { input, .. } => Some(input),
            _ => None,
        })
    }
}

/// A part of what crosses a border.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Departing {
    /// a secret register
    Secret(Sec),
    /// a public register
    Public(Pub),
    /// one public word, so many times
    Word(Fp61, usize),
}

impl Departing {
    fn register(self) -> Option<Reg> {
        match self {
            Self::Secret(x) => Some(Reg::Sec(x)),
            Self::Public(p) => Some(Reg::Pub(p)),
            Self::Word(..) => None,
        }
    }
}

/// What is noted of borders while a program is lowered.
#[derive(Default)]
pub(super) struct Watch {
    passed: Vec<Passed>,
    /// of the program's own values, bodies left out
    known: BTreeMap<ValueId, Departing>,
}

/// One border.
struct Passed {
    border: Border,
    states: Vec<Departing>,
    /// of the last iteration
    collected: Vec<Departing>,
}

impl Lowering {
    /// Notes a border, if it is one of the program's own.
    pub(super) fn passed(&mut self, border: Border, states: &[Known], collected: &[Vec<Value>]) {
        if self.depth > 1 {
            return;
        }
        let Some(watch) = &mut self.watch else { return };
        let states = states.iter().map(|known| departing(&known.value)).collect::<Option<_>>();
        let collected = collected.iter().map(|values| departing(values.last()?)).collect::<Option<_>>();
        if let (Some(states), Some(collected)) = (states, collected) {
            watch.passed.push(Passed { border, states, collected });
        }
    }

    /// What was noted, with what all values became in the end.
    pub(super) fn watched(&mut self) -> Option<Watch> {
        let mut watch = self.watch.take()?;
        watch.known = self.known.iter().filter_map(|(id, known)| Some((*id, departing(&known.value)?))).collect();
        Some(watch)
    }
}

/// None for what is not truncated yet, which nothing is at a border.
fn departing(value: &Value) -> Option<Departing> {
    match value {
        Value::Secret(x) => Some(Departing::Secret(*x)),
        Value::Public(p) => Some(Departing::Public(*p)),
        Value::Splat(word, n) => Some(Departing::Word(*word, *n)),
        Value::Pending(_) => None,
    }
}

impl Program {
    /// How those who hold what is alive before a round of the plan can leave it. At the last border that local
    /// steps lead to, or else at the first that can still be reached. `None` if there is none. Costs planning.
    ///
    /// # Errors
    /// As [`Program::plan_with`].
    pub fn departure(&self, roster: Roster, planning: Planning, round: usize) -> Result<Option<Departure>, PlanError> {
        let (plan, watch) = lower(self, roster, planning, true)?;
        let (watch, makers) = (watch.unwrap_or_default(), Makers::of(&plan, round));
        let borders = 0..watch.passed.len();
        let local = borders.clone().rev().find_map(|at| self.leave(&watch, at, &makers, false));
        Ok(local.or_else(|| borders.clone().find_map(|at| self.leave(&watch, at, &makers, true))))
    }

    fn leave(&self, watch: &Watch, at: usize, makers: &Makers<'_>, open: bool) -> Option<Departure> {
        let Passed { border, states, .. } = &watch.passed[at];
        // Most borders are too far, or passed: nothing else is looked at there.
        makers.steps(states.iter().copied(), open)?;
        let tail = self.tail(*border).ok()?;
        let so_far = || watch.passed[..=at].iter().filter(|other| other.border.repeat == border.repeat);
        let held = |crossing: &Crossing| match crossing {
            Crossing::State(i) => Some(vec![*states.get(*i)?]),
            Crossing::Collected(i) => so_far().map(|passed| passed.collected.get(*i).copied()).collect(),
            Crossing::Before(id) => Some(vec![*watch.known.get(id)?]),
        };
        let registers = tail.crossing.iter().map(held).collect::<Option<Vec<_>>>()?;
        let steps = makers.steps(registers.iter().flatten().copied(), open)?;
        Some(Departure { border: *border, tail, registers, steps })
    }
}

/// Which step makes which register, which registers are there already, and which steps come later.
struct Makers<'a> {
    plan: &'a Plan,
    alive: BTreeSet<Reg>,
    of: BTreeMap<Reg, u32>,
    later: BTreeSet<u32>,
}

impl<'a> Makers<'a> {
    fn of(plan: &'a Plan, round: usize) -> Self {
        let live = plan.live(round);
        let secrets = live.secrets.iter().map(|x| Reg::Sec(x.0));
        let publics = live.publics.iter().map(|p| p.0).chain(live.constants.iter().copied());
        let alive = secrets.chain(publics.map(Reg::Pub)).collect();
        let mut of = BTreeMap::new();
        for (i, prim) in (0..).zip(&plan.prims) {
            prim.writes(|reg| _ = of.insert(reg, i));
        }
        let later = plan.rounds[round..].iter().flat_map(|round| &round.open).copied().collect();
        Self { plan, alive, of, later }
    }

    /// The steps that fill these registers, with the openings among them that come later, or without any; none if that is
    /// not enough. What was opened before cannot be opened again from what is alive.
    fn steps(&self, wanted: impl Iterator<Item = Departing>, open: bool) -> Option<Vec<u32>> {
        let mut next: Vec<Reg> = wanted.filter_map(Departing::register).collect();
        let (mut seen, mut steps) = (BTreeSet::new(), BTreeSet::new());
        while let Some(reg) = next.pop() {
            if self.alive.contains(&reg) || !seen.insert(reg) {
                continue;
            }
            let step = *self.of.get(&reg)?;
            let prim: &Prim = &self.plan.prims[step as usize];
            if prim.interactive() && !(open && self.later.contains(&step)) {
                return None;
            }
            steps.insert(step);
            prim.reads(|reg| next.push(reg));
        }
        Some(steps.into_iter().collect())
    }
}
