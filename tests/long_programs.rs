//! Programs of 10^5 steps: planning and running them must grow with their
//! length and not with its square.

use beaverdam::job::local;
use beaverdam::program::{Builder, Program, Type};
use beaverdam::roster::Roster;

const STEPS: u32 = 100_000;

/// Steps written out one by one; each is a linear one, every hundredth a product.
fn written_out() -> Program {
    let b = Builder::new();
    let ty = Type::int(-1..=1);
    let (x, y) = (b.input("x", "owner", ty, [8]), b.input("y", "owner", ty, [8]));
    let mut z = x.clone();
    for i in 0..STEPS {
        // Its range grows by one a step.
        z = if i % 100 == 0 { &(&z * &y) - &x } else { &x - &z };
    }
    b.output("z", "owner", &z);
    b.finish().unwrap()
}

fn repeated() -> Program {
    let b = Builder::new();
    let unit = Type::fixed(-1.0..=1.0);
    let (x, y) = (b.input("x", "owner", unit, [8]), b.input("y", "owner", unit, [8]));
    let (ends, _) = b.repeat(STEPS / 3, &[x], |_, states| (vec![&states[0] * 0.5 + &y * 0.25], vec![]));
    b.output("z", "owner", &ends[0]);
    b.finish().unwrap()
}

#[test]
fn long_programs_have_plans() {
    for program in [written_out(), repeated()] {
        for roster in [Roster::shamir(4, 1).unwrap(), Roster::spdz(3).unwrap()] {
            let cost = program.plan(roster).unwrap().cost();
            assert!(cost.rounds >= 1 && cost.live_words > 0, "{roster}");
        }
    }
}

/// Half a minute: `cargo test --release --test long_programs -- --ignored`.
#[test]
#[ignore = "takes half a minute"]
fn a_long_program_runs() {
    let program = repeated();
    let values = vec![0.5; 8];
    let inputs = [("x", values.clone()), ("y", values)];
    let run = local::run(&program, Roster::shamir(4, 1).unwrap(), &inputs).unwrap();
    assert_eq!(run.rounds, STEPS / 3);
}
