//! From checkpoints to what crosses a border, for a job that goes on elsewhere (docs/protocols.md, 16,
//! moving).
//!
//! Whoever dealt a job has the keys of all its parties. So it can take their next steps with what they held: all in this
//! process, from shares that it has found to be right. Nothing is sent.

use std::collections::BTreeMap;

use zeroize::Zeroizing;

use super::checkpoint::Checkpoint;
use super::execute::Machine;
use super::{Step, Verify};
use crate::backend::Backend;
use crate::field::{Fp61, Parts};
use crate::program::plan::Plan;
use crate::program::{Departing, Departure};
use crate::roster::{Degree, Slot};
use crate::sharing::Words;

/// The values that cross a border, one after another, from the checkpoints of parties under Shamir which have
/// **all been found to be right**: nothing is checked here. `inputs` are Δ of those that
/// [`Departure::reads`]; `delta` gives words of the dealer's stream, from an offset on.
///
/// # Errors
/// [`EngineError::Input`](super::EngineError::Input) if Δ is missing; a device's own.
///
/// # Panics
/// With fewer parties than the greatest degree that the steps open takes, or t + 1.
pub fn depart<'a, S: Verify>(
    parties: Vec<(S, &Checkpoint)>,
    plan: &Plan,
    departure: &Departure,
    inputs: &BTreeMap<u32, Vec<Fp61>>,
    delta: &dyn Fn(u64, u64) -> Parts<'a>,
) -> Step<Zeroizing<Vec<Fp61>>> {
    let mut machines = Vec::with_capacity(parties.len());
    for (sharing, checkpoint) in parties {
        let mut machine = Machine::without_inputs(sharing, plan, 0);
        machine.begin_at(plan, checkpoint.round(), &plan.live(checkpoint.round()), checkpoint.words())?;
        for input in departure.reads(plan) {
            machine.give(plan, input as usize, inputs.get(&input).cloned().unwrap_or_default())?;
        }
        machines.push(machine);
    }
    for step in &departure.steps {
        let prim = &plan.prims[*step as usize];
        match prim.degree() {
            None => machines.iter_mut().try_for_each(|machine| machine.local(plan, prim, delta))?,
            Some(degree) => {
                let shares = machines.iter_mut().map(|machine| (machine.sharing.slot(), machine.share(plan, prim)));
                let opened = together(&shares.collect::<Vec<_>>(), &machines[0].sharing, degree)?;
                machines.iter_mut().for_each(|machine| _ = machine.opened(prim, opened.clone()));
            }
        }
    }
    let mut values = Zeroizing::new(Vec::with_capacity(departure.tail.words()));
    for part in departure.registers.iter().flatten() {
        let opened = match part {
            Departing::Secret(x) => {
                let shares = machines.iter().map(|m| (m.sharing.slot(), m.sharing.opening(m.secret(*x))));
                together(&shares.collect::<Vec<_>>(), &machines[0].sharing, Degree::T)?
            }
            Departing::Public(p) => machines[0].public(*p).clone(),
            Departing::Word(word, n) => {
                values.extend(std::iter::repeat_n(*word, *n));
                continue;
            }
        };
        values.extend_from_slice(&machines[0].sharing.backend().read(&opened)?);
    }
    Ok(values)
}

/// The words that right shares stand for: of as many parties as it takes.
fn together<S: Verify>(shares: &[(Slot, Words<S>)], sharing: &S, degree: Degree) -> Step<Words<S>> {
    Ok(sharing.interpolate(degree, &shares[..=sharing.roster().degree(degree)])?)
}
