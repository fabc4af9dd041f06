//! A job that goes on elsewhere: from what its nodes hold at a checkpoint to a job of its own, on
//! another roster (docs/protocols.md, 16, moving).
//!
//! Shares of one roster are of no use to another, and neither is its material: both are made from keys that the
//! owner derives for one job. So whoever moves a job deals anew, and that is the owner, who knows its data anyway. It fetches what
//! enough of the old nodes hold, each over its own link, and puts together the values at a border of the
//! program; what is left to compute becomes a job whose inputs they are. The old nodes say nothing to each other or to the new ones.
//!
//! *Who may be corrupt:* at most t of the old nodes. Then the values are right, or there is an error: 2t + 1
//! checkpoints with one transcript are asked for, t + 1 of which honest nodes made, and every word's shares must
//! lie on one polynomial of degree t. From there to the border the owner computes with all parties' keys, in its
//! own process. Nothing is told to anyone but the owner.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use zeroize::{Zeroize, Zeroizing};

use super::prepare::prepare_words;
use super::{Dealing, OwnerError, Prepared, Request, Ticket};
use crate::backend::cpu::Cpu;
use crate::engine::{Checkpoint, depart};
use crate::entropy::Entropy;
use crate::field::{Fp61, Integers, Parts};
use crate::job::{CheckedManifest, Continues};
use crate::keys::{PublicKey, SecretKey};
use crate::material::dealt;
use crate::program::graph::{Node, Op};
use crate::program::plan::{Demand, Plan, Prim};
use crate::program::{Border, Departure, Planning, Program};
use crate::roster::{Degree, Roster, Slot};
use crate::sharing::{Dealer, Shamir, SlotKeys};

/// A checkpoint as a node gave it to its owner: shares of everything that was alive. Not checked.
pub struct Held {
    /// whose slot it is of: that of the node whose key its link has proved
    pub slot: Slot,
    /// the round that comes next
    pub round: u32,
    /// the transcript after the round before
    pub transcript: [u8; 32],
    /// [`Checkpoint::encode`]
    pub state: Zeroizing<Vec<u8>>,
}

/// Where a job goes on: as in a [`Request`].
pub struct Destination<'a> {
    /// scheme, n and t
    pub roster: Roster,
    /// for what network and by what ways the rest is planned
    pub planning: Planning,
    /// the nodes' keys in slot order
    pub nodes: &'a [PublicKey],
    /// the keys of agents that may take over
    pub spares: &'a [PublicKey],
    /// dealt copies of the material
    pub attempts: u32,
    /// when the rest must be over, in unix seconds
    pub expires: u64,
    /// for people, at most 280 bytes
    pub note: &'a str,
}

/// A job on its way: right checkpoints of enough nodes, and where they lead.
pub struct Moving {
    dealing: Dealing,
    program: Program,
    departure: Departure,
    transcript: [u8; 32],
    right: Vec<(Slot, Checkpoint)>,
    wrong: Vec<Slot>,
}

/// A job that goes on elsewhere.
pub struct Moved {
    /// to be submitted to the new roster
    pub prepared: Prepared,
    /// slots of the old roster whose shares were wrong, and were corrected
    pub blamed: Vec<Slot>,
}

impl Moving {
    /// Finds the newest checkpoint that 2t + 1 nodes hold alike, that is right and that leads to a border. What a node gave
    /// that is no checkpoint of this job is as good as nothing. Costs planning the job a few times.
    ///
    /// # Errors
    /// [`OwnerError::Unmovable`] for jobs that keep no such checkpoints, or before the first, where no border is
    /// near, or where the rest draws random values; [`OwnerError::Output`] if shares do not fit together; [`OwnerError::NotOwner`] for a key that did not deal.
    pub fn find(owner: &Arc<SecretKey>, ticket: &Ticket, held: &[Held]) -> Result<Self, OwnerError> {
        let dealing = Dealing::again(owner, ticket)?;
        let (plan, roster, planning) =
            (Arc::clone(dealing.plan()), dealing.plan().roster, dealing.manifest().manifest().planning);
        if !plan.replays() {
            return Err(unmovable(format!(
                "jobs on {roster} planned like this keep no checkpoints that can be taken elsewhere: only those on Shamir do that open all words all to all, none of them packed bits"
            )));
        }
        let mut alike: BTreeMap<(u32, [u8; 32]), BTreeMap<Slot, Checkpoint>> = BTreeMap::new();
        let (mut answered, mut refused) = (BTreeSet::new(), String::new());
        for Held { slot, round, transcript, state } in held.iter().filter(|held| roster.has(held.slot)) {
            match Checkpoint::decode(&plan, *round as usize, *transcript, state) {
                Ok(checkpoint) => {
                    answered.insert(*slot);
                    // A node that gives two of one place has given the first.
                    alike.entry((*round, *transcript)).or_default().entry(*slot).or_insert(checkpoint);
                }
                Err(error) => refused = format!("; {slot}: {error}"),
            }
        }
        let needed = roster.to_read();
        let found = answered.len();
        let mut why = unmovable(format!(
            "checkpoints came from {found} nodes, expected one that {needed} hold alike{refused}: a running job has the first after some seconds of computing, one that is over has none; wait, or submit it to the other roster"
        ));
        let program = Program::from_bytes(&ticket.program)?;
        for ((round, transcript), of) in alike.into_iter().filter(|(_, of)| of.len() >= needed).rev() {
            let Some(departure) = program.departure(roster, planning, round as usize)? else {
                why = unmovable("no iteration of a repeat ends where its nodes have kept their state: let the program repeat what takes long, or submit it to the other roster from the beginning".to_owned());
                continue;
            };
            if draws(departure.tail.program.nodes()) {
                return Err(unmovable("what is left of it draws random values, and would draw others than the job where it is, which may still finish: who reads both results could take noise out; cancel it and submit it to the other roster".to_owned()));
            }
            // One that a liar has spoilt may be less so with an older one, which more nodes hold.
            match sort(&plan, &**dealing.dealer(), round as usize, of) {
                Ok((right, wrong)) if right.len() >= takes(&plan, &departure) => {
                    return Ok(Self { dealing, program, departure, transcript, right, wrong });
                }
                Ok((right, _)) => {
                    let (found, takes) = (right.len(), takes(&plan, &departure));
                    why = unmovable(format!(
                        "right checkpoints came from {found} nodes, the next steps take {takes}: ask again when more nodes answer"
                    ));
                }
                Err(error) => why = error,
            }
        }
        Err(why)
    }

    /// The inputs whose Δ is needed, since nothing has read them yet, by their numbers.
    pub fn reads(&self) -> BTreeSet<u32> {
        self.departure.reads(self.dealing.plan()).collect()
    }

    /// Where the rest begins.
    pub fn border(&self) -> Border {
        self.departure.border
    }

    /// The iterations that are done, and the whole count of that repeat.
    pub fn done(&self) -> (u32, u32) {
        let border = self.departure.border;
        let count = self
            .program
            .nodes()
            .iter()
            .find(|node| node.first == border.repeat)
            .map_or(0, |node| if let Op::Repeat { count, .. } = node.op { count } else { 0 });
        (border.done, count)
    }

    /// Puts together what crosses the border, and makes the rest a job of its own: with a nonce, keys and material of
    /// its own, in the next epoch, for the same readers. `inputs` are Δ of those in [`Moving::reads`], as any node gives
    /// them; they are compared with the signed roots.
    ///
    /// # Errors
    /// [`OwnerError::Delta`] for Δ that is not the signed one; [`OwnerError::Carried`] for a value outside of its
    /// type; and those of [`prepare`](super::prepare).
    pub fn prepare(
        &self,
        inputs: &BTreeMap<u32, Vec<u8>>,
        to: &Destination<'_>,
        entropy: Entropy,
    ) -> Result<Moved, OwnerError> {
        let signed = self.dealing.manifest().manifest();
        let carried = self.carried(inputs)?;
        let program = &self.departure.tail.program;
        let readers = self.dealing.plan().outputs.iter().zip(&signed.outputs);
        let readers = readers.map(|(output, entry)| (output.reader.clone(), entry.reader)).collect();
        let none = BTreeMap::new();
        let request = Request {
            program,
            roster: to.roster,
            planning: to.planning,
            nodes: to.nodes,
            spares: to.spares,
            inputs: &none,
            readers: &readers,
            attempts: to.attempts,
            expires: to.expires,
            note: to.note,
        };
        let (manifest, border) = (self.dealing.manifest().digest(), self.departure.border);
        let continues = Continues { manifest, border, transcript: self.transcript };
        let Some(epoch) = signed.epoch.checked_add(1) else {
            return Err(unmovable("its epoch is the last that there is: submit it anew".to_owned()));
        };
        let prepared = prepare_words(self.dealing.owner(), &request, &carried, (epoch, Some(continues)), entropy)?;
        Ok(Moved { prepared, blamed: self.wrong.clone() })
    }

    /// The values that cross, in the order of the rest's inputs.
    pub(crate) fn carried(&self, inputs: &BTreeMap<u32, Vec<u8>>) -> Result<Vec<Zeroizing<Vec<Fp61>>>, OwnerError> {
        let mut delta = BTreeMap::new();
        for number in self.reads() {
            let bytes = inputs.get(&number).map_or(&[][..], |bytes| bytes);
            let accepted =
                self.dealing.manifest().accept_input(number, bytes).expect("the plan's inputs are the manifest's");
            delta.insert(number, accepted.map_err(|source| OwnerError::Delta { source })?);
        }
        let values = self.values(&delta)?;
        let (mut rest, mut carried) = (&values[..], Vec::new());
        for (name, _, signature) in self.departure.tail.program.inputs() {
            let (first, after) = rest.split_at(signature.shape.len());
            rest = after;
            let wrong = || OwnerError::Carried { name: name.to_owned(), signature: signature.to_string() };
            let integers = Zeroizing::new(Integers.decode(first).map_err(|_| wrong())?);
            // By its nodes the value is known to be this one; what is tested is a promise of the program.
            if integers.iter().any(|x| !(signature.ty.lo..=signature.ty.hi).contains(x)) {
                return Err(wrong());
            }
            carried.push(Zeroizing::new(first.to_vec()));
        }
        Ok(carried)
    }

    /// What crosses the border, from right checkpoints.
    fn values(&self, inputs: &BTreeMap<u32, Vec<Fp61>>) -> Result<Zeroizing<Vec<Fp61>>, OwnerError> {
        let (plan, dealer) = (self.dealing.plan(), self.dealing.dealer());
        let mut known = BTreeMap::new();
        for step in &self.departure.steps {
            if let Prim::Draw { material, .. } = plan.prims[*step as usize] {
                let Demand { offset, words, .. } = plan.material[material.0 as usize];
                if words > 0 && !known.contains_key(&offset) {
                    known.insert(offset, dealt(plan, dealer, offset, words)?);
                }
            }
        }
        let delta = |offset, words: u64| match known.range(..=offset).next_back() {
            Some((from, held)) if words > 0 => Parts::from(&held[(offset - from) as usize..][..words as usize]),
            _ => Parts::default(),
        };
        let mut parties = Vec::with_capacity(self.right.len());
        for (slot, checkpoint) in &self.right {
            let SlotKeys::Shamir(keys) = dealer.slot_keys(*slot) else { unreachable!("only jobs on Shamir replay") };
            let sharing = Shamir::new(plan.roster, *slot, keys, Cpu);
            parties.push((sharing.expect("the dealer's own keys fit its roster"), checkpoint));
        }
        let values = depart(parties, plan, &self.departure, inputs, &delta);
        values.map_err(|error| unmovable(error.to_string()))
    }
}

fn unmovable(reason: String) -> OwnerError {
    OwnerError::Unmovable { reason }
}

/// Whether any of the operations is [`Op::Random`].
fn draws(nodes: &[Node]) -> bool {
    nodes.iter().any(|node| match &node.op {
        Op::Random => true,
        Op::Repeat { body, .. } => draws(&body.nodes),
        _ => false,
    })
}

/// How many right checkpoints it takes to come to the border.
fn takes(plan: &Plan, departure: &Departure) -> usize {
    let degree = |step: &u32| plan.prims[*step as usize].degree();
    let greatest = departure.steps.iter().filter_map(degree).map(|degree| plan.roster.degree(degree)).max();
    greatest.unwrap_or(0).max(plan.roster.degree(Degree::T)) + 1
}

/// Checkpoints with their slots.
type Sorted = (Vec<(Slot, Checkpoint)>, Vec<Slot>);

/// The checkpoints before a round that are certainly right, and whose are not: every word's shares of the former lie on
/// one polynomial of degree t, and t + 1 nodes hold the same public words.
fn sort(
    plan: &Plan,
    dealer: &dyn Dealer,
    round: usize,
    held: BTreeMap<Slot, Checkpoint>,
) -> Result<Sorted, OwnerError> {
    let secrets = plan.live(round).secrets.iter().map(|x| x.1 as usize).sum();
    let mut shares: Vec<_> = held.iter().map(|(slot, of)| (*slot, of.words()[..secrets].to_vec())).collect();
    let verified = dealer.verify_output(secrets, &shares);
    shares.iter_mut().for_each(|(_, words)| words.zeroize());
    let output = || format!("the state before round {round}");
    let blamed = verified.map_err(|source| OwnerError::Output { output: output(), source })?.blamed;
    let alike =
        |of: &Checkpoint| held.values().filter(|other| other.words()[secrets..] == of.words()[secrets..]).count();
    let threshold = usize::from(plan.roster.threshold());
    let wrong: Vec<Slot> = held
        .iter()
        .filter(|(slot, of)| blamed.contains(slot) || alike(of) <= threshold)
        .map(|(slot, _)| *slot)
        .collect();
    Ok((held.into_iter().filter(|(slot, _)| !wrong.contains(slot)).collect(), wrong))
}

/// Whether one job is what is left of another: named in the signed manifest, and with the program that follows
/// from the other's at the border. What crossed it is the owner's word: it alone put it together.
///
/// # Errors
/// [`OwnerError::Continues`] if it is not.
pub fn check_continues(earlier: &Ticket, later: &Ticket) -> Result<(), OwnerError> {
    let ((before, _), (after, _)) = (earlier.check()?, later.check()?);
    let refused = |reason: String| Err(OwnerError::Continues { reason });
    let Some(continues) = after.manifest().continues else {
        return refused("it says that it continues none".to_owned());
    };
    if continues.manifest != before.digest() || after.manifest().owner != before.manifest().owner {
        return refused("it continues another one".to_owned());
    }
    let tail = Program::from_bytes(&earlier.program)?.tail(continues.border)?;
    if tail.program.digest() != after.manifest().program {
        return refused("its program is not what is left of the other's at that border".to_owned());
    }
    if Some(after.manifest().epoch) != before.manifest().epoch.checked_add(1) {
        return refused("it is of another epoch than the one after".to_owned());
    }
    let reader = |manifest: &CheckedManifest| {
        manifest.manifest().outputs.iter().map(|entry| (entry.name.clone(), entry.reader)).collect::<Vec<_>>()
    };
    if reader(&before) != reader(&after) {
        return refused("its outputs have other readers".to_owned());
    }
    Ok(())
}
