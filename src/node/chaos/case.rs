//! The jobs that are computed.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::ledger::Ledger;
use super::{Case, Chaos, World};
use crate::backend::{Choice, Devices};
use crate::entropy::Entropy;
use crate::keys::SecretKey;
use crate::owner::{Request, prepare};
use crate::program::{Builder, Comparisons, Openings, Planning, Type};
use crate::roster::{Roster, Slot};
use crate::store::Nonce;

impl Case {
    pub(super) fn nonce(&self) -> Nonce {
        self.job.manifest().manifest().nonce
    }

    pub(super) fn agents(&self) -> Vec<Slot> {
        (1..=self.keys.len() as u8).map(Slot).collect()
    }
}

/// `turns` is how much longer than three rounds it is.
pub(in crate::node) fn case(name: &'static str, roster: Roster, losses: u8, turns: usize, spares: u8) -> Case {
    case_of((name, roster), losses, turns, spares, 1)
}

pub(super) fn case_of(
    (name, roster): (&'static str, Roster),
    losses: u8,
    turns: usize,
    spares: u8,
    attempts: u32,
) -> Case {
    let b = Builder::new();
    let x = b.input("x", "alice", Type::fixed(-9.0..=9.0), [3]);
    let y = b.input("y", "alice", Type::fixed(-9.0..=9.0), [3]);
    let product = &x * &y;
    let mut last = &product * &x;
    for _ in 0..turns {
        last = &last.ge0() * &y;
    }
    b.output("product", "alice", &last);
    b.output("larger", "alice", &product.ge0());
    let program = b.finish().unwrap();
    let inputs = BTreeMap::from([("x".to_owned(), vec![1.5, -2.0, 3.25]), ("y".to_owned(), vec![4.0, 0.5, -6.0])]);
    let owner = Arc::new(SecretKey::insecure_from_seed(1, "owner"));
    let node = |slot: Slot| Arc::new(SecretKey::insecure_from_seed(1, &format!("node {}", slot.0)));
    let keys: Vec<_> = (1..=roster.nodes() + spares).map(|agent| node(Slot(agent))).collect();
    let public: Vec<_> = keys.iter().map(|key| key.public()).collect();
    let (nodes, spares) = public.split_at(roster.nodes().into());
    let (openings, comparisons) = match spares {
        [] => Default::default(),
        _ => (Openings::AllToAll, Comparisons::Digits),
    };
    let request = Request {
        program: &program,
        roster,
        planning: Planning { losses, openings, comparisons, ..Planning::default() },
        nodes,
        spares,
        inputs: &inputs,
        readers: &BTreeMap::new(),
        attempts,
        expires: u64::MAX,
        note: name,
    };
    let job = prepare(&owner, &request, Entropy::insecure_from_seed(1)).unwrap();
    let segments = job.stream().unwrap().collect();
    let devices = Arc::new(Devices::new(Choice::Cpu, None));
    let (right, ledger, real) = (BTreeMap::new(), Ledger::default(), program.dry_run(&inputs).unwrap().outputs);
    let mut case = Case { name, job, owner, keys, segments, devices, right, ledger, real };
    let mut world = World::new(&mut case, 0, Chaos::default());
    world.run();
    let right: BTreeMap<_, _> = roster.slots().map(|slot| (slot, world.result(slot).expect("undisturbed"))).collect();
    drop(world);
    case.right = right;
    case
}

pub(super) fn cases() -> Vec<Case> {
    let shamir = |n, t| Roster::shamir(n, t).unwrap();
    vec![
        case("(5, 1)", shamir(5, 1), 0, 0, 0),
        case("(5, 1), long", shamir(5, 1), 0, 8, 0),
        case("(6, 1)", shamir(6, 1), 0, 0, 0),
        case("(4, 1) that bears a loss", shamir(4, 1), 1, 0, 0),
        case("(7, 2)", shamir(7, 2), 0, 0, 0),
        case("(3, 1)", shamir(3, 1), 0, 0, 0),
        case("(4, 1)", shamir(4, 1), 0, 0, 0),
        case("SPDZ", Roster::spdz(3).unwrap(), 0, 0, 0),
    ]
}

pub(super) fn cases_with_attempts() -> Vec<Case> {
    let spdz = |n| Roster::spdz(n).unwrap();
    vec![
        case_of(("SPDZ, two nodes", spdz(2)), 0, 2, 0, 4),
        case_of(("SPDZ, three nodes", spdz(3)), 0, 4, 0, 4),
        case_of(("SPDZ, four nodes", spdz(4)), 0, 0, 0, 3),
        case_of(("SPDZ, two attempts", spdz(3)), 0, 4, 0, 2),
    ]
}

pub(super) fn cases_with_spares() -> Vec<Case> {
    let shamir = |n, t| Roster::shamir(n, t).unwrap();
    vec![
        case("(4, 1) with a spare", shamir(4, 1), 0, 0, 1),
        case("(5, 1) with a spare", shamir(5, 1), 0, 0, 1),
        case("(4, 1) with two spares", shamir(4, 1), 0, 0, 2),
        case("(7, 2) with two spares", shamir(7, 2), 0, 0, 2),
        case("(4, 1) that bears a loss, with a spare", shamir(4, 1), 1, 0, 1),
    ]
}
