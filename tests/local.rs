//! Programs run among all nodes of a roster in memory.

use beaverdam::entropy::Entropy;
use beaverdam::job::local;
use beaverdam::program::{Builder, PlanError, Program, Type};
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
            local::run_with(&dot(), roster, Default::default(), &inputs, entropy, &beaverdam::backend::Device::Cpu)
                .unwrap()
                .transcript
        };
        assert_eq!(once(7), once(7), "{roster}");
        assert_ne!(once(7), once(8), "{roster}");
    }
}

/// A value that a reshape stands between and two consumers use.
#[test]
fn a_product_behind_a_reshape_may_be_used_twice() {
    let b = Builder::new();
    let x = b.input("x", "alice", Type::fixed(-8.0..=8.0), [3]);
    let w = b.input("w", "alice", Type::fixed(-8.0..=8.0), [3]);
    let s = x.matmul(&w);
    b.output("half", "alice", &(&s * 0.5));
    b.output("quarter", "alice", &(&s * 0.25));
    b.output("whole", "alice", &s);
    let program = b.finish().unwrap();
    for roster in rosters() {
        let run = local::run(&program, roster, &[("x", vec![1.0, 2.0, 3.0]), ("w", vec![1.0; 3])]).unwrap();
        for (name, value) in [("half", 3.0), ("quarter", 1.5), ("whole", 6.0)] {
            assert!((run.outputs[name][0] - value).abs() < 1e-3, "{roster}: {name}");
        }
    }
}

/// A factor that is taken into a product before the truncation must not lead
/// out of the range that the types derive: with one fractional bit, every
/// fourth word would.
#[test]
fn a_negative_or_zero_factor_stays_in_the_derived_range() {
    let n = 512;
    for (factor, range) in [(-1.0, 0.0..=3.5), (0.0, 0.0..=0.0)] {
        let b = Builder::new();
        let x = b.input("x", "alice", Type { frac: 1, fixed: true, lo: -14, hi: 0 }, [n]);
        let y = b.input("y", "alice", Type { frac: 1, fixed: true, lo: 0, hi: 1 }, [n]);
        let z = (&x * &y) * factor;
        b.output("z", "alice", &z);
        b.output("sign", "alice", &z.ge0());
        let program = b.finish().unwrap();
        for roster in rosters() {
            let run = local::run(&program, roster, &[("x", vec![-7.0; n]), ("y", vec![0.5; n])]).unwrap();
            // The type allows for one unit below: [-0.5, 3.5] for the factor -1.
            assert!(run.outputs["z"].iter().all(|v| *v >= *range.start() - 0.5 && v <= range.end()), "{roster}");
            assert!(run.outputs["sign"].iter().all(|v| *v == 0.0 || *v == 1.0), "{roster}");
        }
    }
}

/// Every kind of output, and a program that opens nothing.
#[test]
fn outputs_may_be_inputs_constants_or_given_twice() {
    for roster in rosters() {
        let b = Builder::new();
        let x = b.input("x", "alice", Type::int(-5..=5), [4]);
        b.output("twice", "alice", &(&x + &x));
        b.output("id", "alice", &x);
        b.output("again", "alice", &x);
        b.output("constant", "alice", &b.integers(&[1, 2, 3], Type::int(0..=5), [3]));
        b.output("splat", "alice", &b.integers(&[4], Type::int(0..=5), [3]));
        let joined = b.concat(&[&x, &b.integers(&[5, 6], Type::int(0..=9), [2])], 0);
        b.output("joined", "alice", &joined);
        let run = local::run(&b.finish().unwrap(), roster, &[("x", vec![1.0, -2.0, 3.0, 4.0])]).unwrap();
        assert_eq!(run.rounds, 0);
        assert_eq!(run.outputs["twice"], [2.0, -4.0, 6.0, 8.0]);
        assert_eq!(run.outputs["id"], run.outputs["again"]);
        assert_eq!(run.outputs["constant"], [1.0, 2.0, 3.0]);
        assert_eq!(run.outputs["splat"], [4.0; 3]);
        assert_eq!(run.outputs["joined"], [1.0, -2.0, 3.0, 4.0, 5.0, 6.0]);
    }
}

/// Comparison and sigmoid on types of many widths, at both ends of the range
/// and around every breakpoint.
#[test]
fn comparison_and_sigmoid_hold_on_their_whole_range() {
    let mut state = 0x0123_4567_89ab_cdefu64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for round in 0..48 {
        let frac = [0u8, 1, 2, 3, 7, 16, 30, 37][next() as usize % 8];
        let width = 1i64 << (1 + next() % 52);
        let mut ends = [0; 2].map(|_| (next() % (2 * width as u64)) as i64 - width);
        match next() % 6 {
            0 => ends[0] = -width,
            1 => ends[1] = width - 1,
            2 => ends = [-width, width - 1],
            3 => ends[1] = 0,
            4 => ends[0] = ends[1],
            _ => {}
        }
        ends.sort();
        let [lo, hi] = ends;
        let one = 1i64 << frac;
        let mut scaled = vec![lo, hi];
        let near = (-9..=9).flat_map(|k| [-1, 0, 1].map(|d| k * one + d)).filter(|v| (lo..=hi).contains(v));
        scaled.extend(near);
        scaled.extend((0..8).map(|_| lo + (i128::from(next()) % (i128::from(hi) - i128::from(lo) + 1)) as i64));
        let real: Vec<f64> = scaled.iter().map(|v| *v as f64 / one as f64).collect();

        let b = Builder::new();
        let x = b.input("x", "alice", Type { frac, fixed: true, lo, hi }, [real.len()]);
        b.output("positive", "alice", &x.ge0());
        b.output("sigmoid", "alice", &x.sigmoid());
        let roster = rosters()[round % rosters().len()];
        let run = local::run(&b.finish().unwrap(), roster, &[("x", real.clone())]).unwrap();
        for (i, v) in real.iter().enumerate() {
            assert_eq!(run.outputs["positive"][i], f64::from(*v >= 0.0), "{roster}, {frac} bits in {lo}..={hi}: {v}");
            let off = (run.outputs["sigmoid"][i] - 1.0 / (1.0 + (-v).exp())).abs();
            assert!(off < 5.9e-3 + 2.0 / one as f64, "{roster}, {frac} bits in {lo}..={hi}: {v} is off by {off}");
        }
    }
}

/// More openings than one check holds: the plan checks on the way.
#[test]
fn a_check_in_the_middle_of_a_job_passes() {
    let n = 1_500_000;
    let b = Builder::new();
    let x = b.input("x", "alice", Type::int(-3..=3), [n]);
    let y = b.input("y", "alice", Type::int(-3..=3), [n]);
    let z = &(&(&x * &y) * &x) * &y;
    b.output("z", "alice", &z.sum(0));
    let program = b.finish().unwrap();
    let roster = Roster::spdz(2).unwrap();
    assert!(program.plan(roster).unwrap().rounds.iter().any(|r| r.check));
    let values = |m: usize| (0..n).map(|i| (i % m) as f64 - (m / 2) as f64).collect::<Vec<_>>();
    let (xs, ys) = (values(7), values(5));
    let expected: f64 = xs.iter().zip(&ys).map(|(x, y)| x * x * y * y).sum();
    let run = local::run(&program, roster, &[("x", xs), ("y", ys)]).unwrap();
    assert_eq!(run.outputs["z"], [expected]);
}

// --- programs that a hostile owner may send: refused before they cost much -----

#[test]
fn loops_that_emit_nothing_are_counted() {
    let b = Builder::new();
    let x = b.input("x", "alice", Type::bit(), [1]);
    let (ends, _) = b.repeat(1 << 20, &[x], |b, s| (b.repeat(1 << 20, s, |_, s| (s.to_vec(), vec![])).0, vec![]));
    b.output("x", "alice", &ends[0]);
    assert_eq!(b.finish().unwrap().plan(rosters()[0]).unwrap_err(), PlanError::TooLong);

    let b = Builder::new();
    let k = b.integers(&[1], Type::bit(), []);
    let (_, collected) = b.repeat(1 << 20, &[], |_, _| (vec![], vec![k.clone(); 64]));
    b.output("z", "alice", &collected[0]);
    assert_eq!(b.finish().unwrap().plan(rosters()[0]).unwrap_err(), PlanError::TooLong);
}

#[test]
fn a_constant_of_one_word_does_not_grow_to_gigabytes() {
    let b = Builder::new();
    let x = b.input("x", "alice", Type::bit(), [1, 1]);
    let ones = b.integers(&[1], Type::bit(), [1, 1 << 29]);
    b.output("z", "alice", &x.matmul(&ones).sum(1));
    assert_eq!(b.finish().unwrap().plan(rosters()[0]).unwrap_err(), PlanError::Constants);
}

#[test]
fn the_error_bound_of_a_long_loop_is_a_number_or_infinite() {
    let b = Builder::new();
    let x = b.input("x", "alice", Type::fixed(-1.0..=1.0), [1]);
    let bit = b.input("bit", "alice", Type::bit(), [1]);
    let (ends, _) = b.repeat(2000, &[x], |_, s| (vec![(&s[0] + &s[0]).declare("s", -1.0..=1.0)], vec![]));
    b.output("z", "alice", &(&ends[0] * &bit));
    assert_eq!(b.finish().unwrap().plan(rosters()[5]).unwrap().outputs[0].error, f64::INFINITY);
}

/// Where products are Beaver's an image is opened under its mask once, not once
/// for each place of the window.
#[test]
fn a_convolution_opens_its_image_once() {
    use beaverdam::ml::layers::{self, Window};
    let image: Vec<f64> = (0..2 * 6 * 6).map(|i| f64::from(i % 7) / 8.0).collect();
    let filters: Vec<f64> = (0..3 * 2 * 9).map(|i| f64::from(i % 5) / 8.0 - 0.25).collect();
    let b = Builder::new();
    let x = b.input("x", "alice", Type::fixed(-1.0..=1.0), [1, 2, 6, 6]);
    let w = b.input("w", "alice", Type::fixed(-1.0..=1.0), [3, 2, 3, 3]);
    b.output("y", "alice", &layers::conv2d(&x, &w, Window::sliding(3, 1)));
    let program = b.finish().unwrap();
    let expected = program.dry_run(&[("x".into(), image.clone()), ("w".into(), filters.clone())].into()).unwrap();
    for roster in [Roster::shamir(3, 1).unwrap(), Roster::spdz(3).unwrap()] {
        // Image and filters, and the truncated words of the result.
        let cost = program.plan(roster).unwrap().cost();
        assert_eq!((cost.rounds, cost.opened_words), (2, 72 + 54 + 3 * 36), "{roster}");
        let run = local::run(&program, roster, &[("x", image.clone()), ("w", filters.clone())]).unwrap();
        for (found, expected) in run.outputs["y"].iter().zip(&expected.outputs["y"]) {
            assert!((found - expected).abs() < 1e-3, "{roster}: {found}, expected {expected}");
        }
    }
}

/// The data set of a training loop is masked and opened once for all epochs
/// and for both sides of the product, where products are Beaver's.
#[test]
fn an_operand_used_again_is_masked_once() {
    use beaverdam::program::plan::Material;
    let (rows, columns) = (12, 5);
    let b = Builder::new();
    let x = b.input("x", "alice", Type::fixed(-5.0..=5.0), [rows, columns]);
    let y = b.input("y", "alice", Type::bit(), [rows]);
    let fit = beaverdam::ml::LogisticRegression::default().train(&x, &y);
    b.output("weights", "alice", &fit.weights);
    let program = b.finish().unwrap();
    for roster in [Roster::shamir(3, 1).unwrap(), Roster::spdz(2).unwrap()] {
        let plan = program.plan(roster).unwrap();
        let masks = plan.material.iter().filter(|d| d.material == Material::Mask { n: rows * columns });
        assert_eq!(masks.count(), 1, "{roster}");
    }
}
