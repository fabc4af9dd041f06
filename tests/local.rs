//! Programs run among all nodes of a roster in memory.

use beaverdam::entropy::Entropy;
use beaverdam::job::local;
use beaverdam::program::{Builder, Program, Type};
use beaverdam::roster::Roster;

fn rosters() -> Vec<Roster> {
    vec![
        Roster::shamir(4, 1).unwrap(),
        Roster::shamir(5, 1).unwrap(),
        Roster::shamir(3, 1).unwrap(),
        Roster::shamir(5, 2).unwrap(),
        Roster::spdz(2).unwrap(),
        Roster::spdz(3).unwrap(),
    ]
}

fn dot() -> Program {
    let b = Builder::new();
    let x = b.input("x", "alice", Type::fixed(-100.0..=100.0), [3]);
    let w = b.input("w", "alice", Type::fixed(-100.0..=100.0), [3]);
    b.output("dot", "alice", &(&x * &w).sum(0));
    b.finish().unwrap()
}

#[test]
fn a_dot_product_on_every_roster() {
    for roster in rosters() {
        let inputs = [("x", vec![1.0, 2.0, 3.0]), ("w", vec![4.0, -5.0, 6.5])];
        let run = local::run(&dot(), roster, &inputs).unwrap();
        assert!((run.outputs["dot"][0] - 13.5).abs() < 1e-3, "{roster}: {:?}", run.outputs);
    }
}

#[test]
fn comparison_selection_and_sigmoid_on_every_roster() {
    let b = Builder::new();
    let x = b.input("x", "alice", Type::fixed(-20.0..=20.0), [9]);
    b.output("positive", "alice", &x.ge0());
    b.output("abs", "alice", &x.ge0().select(&x, &(-&x)));
    b.output("sigmoid", "alice", &x.sigmoid());
    let program = b.finish().unwrap();
    let values = vec![-20.0, -8.0, -3.25, -1e-4, 0.0, 1e-4, 0.5, 7.99, 20.0];
    for roster in rosters() {
        let run = local::run(&program, roster, &[("x", values.clone())]).unwrap();
        for (i, v) in values.iter().enumerate() {
            let rounded = (v * 65536.0).round() / 65536.0;
            assert_eq!(run.outputs["positive"][i], f64::from(rounded >= 0.0), "{roster}: {v}");
            assert_eq!(run.outputs["abs"][i], rounded.abs(), "{roster}: {v}");
            let sigmoid = 1.0 / (1.0 + (-v).exp());
            assert!((run.outputs["sigmoid"][i] - sigmoid).abs() < 6e-3, "{roster}: {v}: {:?}", run.outputs["sigmoid"]);
        }
    }
}

#[test]
fn one_seed_gives_one_transcript() {
    let inputs = [("x", vec![1.0, 2.0, 3.0]), ("w", vec![4.0, -5.0, 6.5])];
    for roster in rosters() {
        let once = |seed| {
            let entropy = Entropy::insecure_from_seed(seed);
            local::run_with(&dot(), roster, &inputs, entropy, beaverdam::backend::cpu::Cpu).unwrap().transcript
        };
        assert_eq!(once(7), once(7), "{roster}");
        assert_ne!(once(7), once(8), "{roster}");
    }
}
