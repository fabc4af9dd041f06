//! Multilayer perceptrons: dense layers with ReLU between and softmax
//! cross-entropy at the end, by mini-batch gradient descent with momentum.

use super::layers::softmax;
use super::with_intercept;
use crate::program::random::Choices;
use crate::program::{Tensor, Type};

/// A classifier of dense layers with ReLU between them.
///
/// The weights of a layer are one tensor `[in + 1, out]`, the biases in its last
/// row. They start as **public** constants, He's (He, Zhang, Ren, Sun, ICCV
/// 2015), drawn from `seed` by a generator that anybody can run: the initial
/// weights are no secret and need not be one, and all that training adds to them is.
///
/// Ranges: what is declared cannot be noticed when it is left, so a dry run
/// should show that it is not ([`Program::dry_run`](crate::program::Program::dry_run)).
/// With features within ±B and batches of n rows, n·B·`gradient_bound` must stay
/// below 2^15 at 16 fractional bits, so that a gradient is scaled in the opening
/// that truncates it; beyond, training costs a round more a layer and step, up to
/// 2^27, from where the builder refuses it. The same holds for `activation_bound`
/// in the place of B.
#[derive(Clone, Debug, PartialEq)]
pub struct Mlp {
    /// features, the widths of hidden layers, classes: two at least
    pub sizes: Vec<usize>,
    /// the training
    pub sgd: Sgd,
    /// where the initial weights come from
    pub seed: u64,
    /// weights and biases are declared to stay within ±this
    pub weight_bound: f64,
    /// velocities are declared to stay within ±this
    pub velocity_bound: f64,
    /// sums before a ReLU or the softmax are declared to stay within ±this
    pub activation_bound: f64,
    /// derivatives of a row's loss by such a sum are declared to stay within ±this
    pub gradient_bound: f64,
}

/// How an [`Mlp`] descends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sgd {
    /// passes over all rows, at least 1
    pub epochs: u32,
    /// rows of a batch; the last one takes what remains
    pub batch: usize,
    /// step length, for the mean over a batch; learning_rate/rows is rounded to 12 bits
    pub learning_rate: f64,
    /// what remains of the velocity at the next step, 0 for none
    pub momentum: f64,
}

impl Default for Sgd {
    /// 8 epochs of batches of 96 at 0.1 with momentum 0.9.
    fn default() -> Self {
        Self { epochs: 8, batch: 96, learning_rate: 0.1, momentum: 0.9 }
    }
}

/// What training an [`Mlp`] gives back, one tensor for each layer.
pub struct MlpFit {
    /// the last weights, each `[in + 1, out]`
    pub weights: Vec<Tensor>,
    /// the weights after each epoch, each `[epochs, in + 1, out]`
    pub history: Vec<Tensor>,
}

impl Mlp {
    /// Layers of these sizes: [`Sgd::default`], seed 1, weights within ±8, velocities
    /// within ±2, sums within ±128, derivatives within ±16.
    pub fn new(sizes: impl Into<Vec<usize>>) -> Self {
        Self {
            sizes: sizes.into(),
            sgd: Sgd::default(),
            seed: 1,
            weight_bound: 8.0,
            velocity_bound: 2.0,
            activation_bound: 128.0,
            gradient_bound: 16.0,
        }
    }

    /// The weights that training starts from, row-major, one vector for each
    /// layer: uniform with variance 2/in, clipped to `weight_bound`, biases 0.
    /// The same on every machine up to the last bit of a square root.
    pub fn initial(&self) -> Vec<Vec<f64>> {
        let mut choices = Choices(self.seed);
        let layers = self.sizes.windows(2).map(|pair| {
            let (inputs, outputs) = (pair[0], pair[1]);
            let bound = (6.0 / inputs.max(1) as f64).sqrt();
            let mut uniform = || ((choices.word() >> 11) as f64 / (1u64 << 52) as f64 - 1.0) * bound;
            let weights = (0..inputs * outputs).map(|_| uniform().clamp(-self.weight_bound, self.weight_bound));
            weights.collect::<Vec<_>>().into_iter().chain(vec![0.0; outputs]).collect()
        });
        layers.collect()
    }

    /// Minimises the mean cross-entropy of softmax(logits) and one-hot labels.
    ///
    /// `x` is `[n, features]` fixed point, `y` is `[n, classes]` of integers 0 or
    /// 1, one 1 in each row. Batches are the rows in their order, the same in each
    /// epoch: shuffle them before. For each step of b rows, layers I → J: b·J
    /// truncated sums of products, for each hidden one a comparison on the same
    /// opening and two products (the derivative is the bit that the activation
    /// needed), a [`softmax`], b·I truncated sums backwards but for the first layer,
    /// and (I + 1)·J for the weights, with as many truncations for the velocities. An epoch is
    /// unrolled into its n/batch steps, so plans grow with epochs·n/batch.
    ///
    /// Momentum is w ← w − v, v ← momentum·v + rate·gradient: the rounding of v
    /// is one unit in the last place for each step, unbiased, however small an
    /// update is.
    pub fn train(&self, x: &Tensor, y: &Tensor) -> MlpFit {
        let b = x.builder();
        let (rows, layers) = (x.shape().dims().first().copied().unwrap_or(1), self.sizes.len().saturating_sub(1));
        // Sliced outside the loop, so that their masks are opened once.
        let x = with_intercept(x);
        let starts = (0..rows).step_by(self.sgd.batch.max(1));
        let batches = starts.map(|from| {
            let to = (from + self.sgd.batch.max(1)).min(rows);
            (x.slice(0, from..to), y.slice(0, from..to))
        });
        let batches: Vec<_> = batches.collect();
        let frac = x.ty().frac;
        let bounded = |bound: f64| Type::fixed_bits(frac, -bound..=bound);
        let shapes = || self.sizes.windows(2).map(|pair| [pair[0] + 1, pair[1]]);
        let weights = self.initial();
        let weights = weights.iter().zip(shapes()).map(|(w, dims)| b.constant(w, bounded(self.weight_bound), dims));
        let still = shapes().map(|dims| b.constant(&[0.0], bounded(self.velocity_bound), dims));
        let start: Vec<_> = weights.chain(still).collect();
        let (mut ends, history) = b.repeat(self.sgd.epochs, &start, |_, states| {
            let mut states = states.to_vec();
            for (x, y) in &batches {
                states = self.step(x, y, &states);
            }
            (states.clone(), states[..layers].to_vec())
        });
        ends.truncate(layers);
        MlpFit { weights: ends, history }
    }

    /// The sums before the softmax: `[n, features]` to `[n, classes]`.
    pub fn logits(&self, x: &Tensor, weights: &[Tensor]) -> Tensor {
        let mut passes = self.forward(&with_intercept(x), weights);
        passes.pop().map_or_else(|| x.clone(), |last| last.sums)
    }

    /// The probabilities of all classes: `[n, features]` to `[n, classes]`.
    pub fn predict_proba(&self, x: &Tensor, weights: &[Tensor]) -> Tensor {
        softmax(&self.logits(x, weights))
    }

    /// The likeliest class, integers: `[n, features]` to `[n]`.
    pub fn predict(&self, x: &Tensor, weights: &[Tensor]) -> Tensor {
        self.logits(x, weights).argmax(1)
    }

    /// What each layer saw and gave; `x` ends with a column of ones.
    fn forward(&self, x: &Tensor, weights: &[Tensor]) -> Vec<Pass> {
        let bound = self.activation_bound;
        let mut passes: Vec<Pass> = Vec::with_capacity(weights.len());
        for w in weights {
            let input = match passes.last_mut() {
                None => x.clone(),
                Some(before) => {
                    let active = before.sums.ge0();
                    let input = with_intercept(&(&active * &before.sums));
                    before.active = Some(active);
                    input
                }
            };
            let sums = input.matmul(w).declare("sums of a layer", -bound..=bound);
            passes.push(Pass { input, sums, active: None });
        }
        passes
    }

    /// One batch: the next weights, then the next velocities.
    fn step(&self, x: &Tensor, y: &Tensor, states: &[Tensor]) -> Vec<Tensor> {
        let (weights, velocities) = states.split_at(states.len() / 2);
        let passes = self.forward(x, weights);
        let rows = x.shape().dims().first().copied().unwrap_or(1);
        let rate = twelve_bits(self.sgd.learning_rate / rows as f64);
        let Some(last) = passes.last() else { return states.to_vec() };
        // Probabilities are off by less than the hundredth.
        let mut gradient = (softmax(&last.sums) - y).declare("error of a probability", -1.01..=1.01);
        let mut next = Vec::with_capacity(states.len());
        for (i, pass) in passes.iter().enumerate().rev() {
            let change = pass.input.t().matmul(&gradient) * rate;
            let velocity = match self.sgd.momentum {
                0.0 => change,
                kept => &velocities[i] * kept + change,
            };
            let velocity = velocity.declare("velocities", -self.velocity_bound..=self.velocity_bound);
            let weight = (&weights[i] - &velocity).declare("weights", -self.weight_bound..=self.weight_bound);
            next.push((weight, velocity));
            if let Some(active) = i.checked_sub(1).and_then(|before| passes[before].active.as_ref()) {
                let inputs = weights[i].slice(0, 0..self.sizes[i]);
                let bound = self.gradient_bound;
                let back = gradient.matmul(&inputs.t()).declare("derivatives", -bound..=bound);
                gradient = active * back;
            }
        }
        next.reverse();
        let (weights, velocities): (Vec<_>, Vec<_>) = next.into_iter().unzip();
        weights.into_iter().chain(velocities).collect()
    }
}

/// One layer on its way.
struct Pass {
    /// with a last column of ones
    input: Tensor,
    sums: Tensor,
    /// where the sums are positive, once somebody asked
    active: Option<Tensor>,
}

/// The nearest number with 12 significant bits: a factor that short is taken
/// into the product before it is truncated.
fn twelve_bits(value: f64) -> f64 {
    // Adding and taking away rounds to the bits that the sum has left.
    let large = value * ((1u64 << 41) + 1) as f64;
    large - (large - value)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{data, emulate};
    use super::*;
    use crate::job::local;
    use crate::program::{Builder, Program};
    use crate::roster::Roster;
    use std::collections::BTreeMap;

    const FEATURES: usize = 6;
    const CLASSES: usize = 3;

    fn program(model: &Mlp, rows: usize) -> Program {
        let b = Builder::new();
        let x = b.input("x", "alice", Type::fixed(-5.0..=5.0), [rows, model.sizes[0]]);
        let y = b.input("y", "alice", Type::bit(), [rows, CLASSES]);
        let fit = model.train(&x, &y);
        for (i, (w, h)) in fit.weights.iter().zip(&fit.history).enumerate() {
            b.output(&format!("weights {i}"), "alice", w);
            b.output(&format!("history {i}"), "alice", h);
        }
        b.output("logits", "alice", &model.logits(&x, &fit.weights));
        b.output("probabilities", "alice", &model.predict_proba(&x, &fit.weights));
        b.output("labels", "alice", &model.predict(&x, &fit.weights));
        b.finish().unwrap()
    }

    /// Features, and one-hot labels that follow two of them.
    fn classes(rows: usize) -> (Vec<f64>, Vec<f64>) {
        let (x, _) = data(rows, FEATURES);
        let label = |row: &[f64]| if row[0] > 0.3 { 0 } else { 1 + usize::from(row[1] > 0.0) };
        let labels = x.chunks(FEATURES).map(label);
        let one_hot = labels.flat_map(|l| (0..CLASSES).map(move |k| f64::from(k == l))).collect();
        (x, one_hot)
    }

    /// Sums of each layer for one row, and what goes into it.
    fn pass(row: &[f64], weights: &[Vec<f64>], sizes: &[usize]) -> (Vec<Vec<f64>>, Vec<f64>) {
        let (mut inputs, mut sums) = (Vec::new(), row.to_vec());
        for (i, w) in weights.iter().enumerate() {
            let mut input: Vec<f64> = sums.iter().map(|s| if i == 0 { *s } else { s.max(0.0) }).collect();
            input.push(1.0);
            let out = sizes[i + 1];
            sums = (0..out).map(|j| input.iter().enumerate().map(|(k, v)| v * w[k * out + j]).sum()).collect();
            inputs.push(input);
        }
        (inputs, sums)
    }

    /// What the model promises to follow.
    fn train_in_f64(model: &Mlp, x: &[f64], y: &[f64]) -> Vec<Vec<f64>> {
        let (sizes, batch) = (&model.sizes, model.sgd.batch);
        let mut weights = model.initial();
        let mut velocities: Vec<Vec<f64>> = weights.iter().map(|w| vec![0.0; w.len()]).collect();
        for _ in 0..model.sgd.epochs {
            for (x, y) in x.chunks(batch * sizes[0]).zip(y.chunks(batch * CLASSES)) {
                let mut gradients: Vec<Vec<f64>> = weights.iter().map(|w| vec![0.0; w.len()]).collect();
                for (row, y) in x.chunks(sizes[0]).zip(y.chunks(CLASSES)) {
                    let (inputs, logits) = pass(row, &weights, sizes);
                    let total: f64 = logits.iter().map(|z| z.exp()).sum();
                    let mut delta: Vec<f64> = logits.iter().zip(y).map(|(z, y)| z.exp() / total - y).collect();
                    for i in (0..weights.len()).rev() {
                        let out = sizes[i + 1];
                        for (k, input) in inputs[i].iter().enumerate() {
                            (0..out).for_each(|j| gradients[i][k * out + j] += input * delta[j]);
                        }
                        let back = |k: usize| -> f64 { (0..out).map(|j| delta[j] * weights[i][k * out + j]).sum() };
                        delta = (0..sizes[i]).map(|k| if inputs[i][k] > 0.0 { back(k) } else { 0.0 }).collect();
                    }
                }
                let rate = model.sgd.learning_rate * CLASSES as f64 / y.len() as f64;
                for ((w, v), g) in weights.iter_mut().zip(&mut velocities).zip(gradients) {
                    for ((w, v), g) in w.iter_mut().zip(v).zip(g) {
                        *v = model.sgd.momentum * *v + rate * g;
                        *w -= *v;
                    }
                }
            }
        }
        weights
    }

    fn model(sizes: &[usize], epochs: u32, batch: usize, momentum: f64) -> Mlp {
        Mlp { sgd: Sgd { epochs, batch, learning_rate: 0.1, momentum }, ..Mlp::new(sizes) }
    }

    /// Two hidden layers, batches that do not divide the rows, momentum. A value
    /// that is rounded across a ReLU's corner makes the two ways part, a little:
    /// weights of about 1 within 0.01 after 18 steps.
    #[test]
    fn fixed_point_training_follows_real_training() {
        let (x, y) = classes(80);
        for (sizes, momentum) in [(&[FEATURES, 8, 5, CLASSES][..], 0.9), (&[FEATURES, 8, CLASSES], 0.0)] {
            let model = model(sizes, 6, 32, momentum);
            let program = program(&model, 80);
            let found = emulate(&program, &[("x", &x), ("y", &y)]);
            let exact = train_in_f64(&model, &x, &y);
            for (i, (exact, start)) in exact.iter().zip(model.initial()).enumerate() {
                let weights = &found[&format!("weights {i}")];
                assert_eq!(found[&format!("history {i}")][5 * weights.len()..], weights[..]);
                for (found, exact) in weights.iter().zip(exact) {
                    assert!((found - exact).abs() < 0.01, "layer {i}: {found} for {exact}");
                }
                let moved = exact.iter().zip(start).map(|(e, s)| (e - s).abs()).fold(0.0, f64::max);
                assert!(moved > 0.05, "the data should move weights of layer {i}, not by {moved} only");
            }
            for (i, row) in x.chunks(FEATURES).enumerate() {
                let (_, logits) = pass(row, &exact, sizes);
                let total: f64 = logits.iter().map(|z| z.exp()).sum();
                for (j, z) in logits.iter().enumerate() {
                    assert!((found["logits"][i * CLASSES + j] - z).abs() < 0.1);
                    assert!((found["probabilities"][i * CLASSES + j] - z.exp() / total).abs() < 0.02);
                }
                let best = (0..CLASSES).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap();
                let close = (0..CLASSES).any(|j| j != best && logits[j] > logits[best] - 0.2);
                assert!(close || found["labels"][i] == best as f64);
            }
        }
    }

    #[test]
    fn the_dry_run_is_real_training() {
        let (x, y) = classes(40);
        let model = model(&[FEATURES, 5, CLASSES], 3, 16, 0.9);
        let inputs = BTreeMap::from([("x".to_string(), x.clone()), ("y".to_string(), y.clone())]);
        let run = program(&model, 40).dry_run(&inputs).unwrap();
        assert!(run.holds(), "{:?}", run.declarations);
        for (i, exact) in train_in_f64(&model, &x, &y).iter().enumerate() {
            for (w, found) in exact.iter().zip(&run.outputs[&format!("weights {i}")]) {
                // The rate has 12 bits, the initial weights 16.
                assert!((w - found).abs() < 1e-3, "{found} for {w}");
            }
        }
    }

    #[test]
    fn nodes_take_the_step_that_is_planned() {
        let (x, y) = classes(8);
        let model = model(&[FEATURES, 4, CLASSES], 1, 8, 0.9);
        let program = program(&model, 8);
        let exact = train_in_f64(&model, &x, &y);
        for roster in [Roster::shamir(4, 1).unwrap(), Roster::spdz(2).unwrap()] {
            let run = local::run(&program, roster, &[("x", x.clone()), ("y", y.clone())]).unwrap();
            let plan = program.plan(roster).unwrap();
            assert_eq!(u64::from(run.rounds), plan.cost().rounds, "{roster}");
            for (i, exact) in exact.iter().enumerate() {
                for (found, exact) in run.outputs[&format!("weights {i}")].iter().zip(exact) {
                    assert!((found - exact).abs() < 1e-3, "{roster}, layer {i}: {found} for {exact}");
                }
            }
        }
    }

    /// More rows than a batch is no new kind of step, and a layer more adds one.
    #[test]
    fn rounds_grow_with_steps_and_layers_not_with_width() {
        let rounds = |sizes: &[usize], epochs, batch| {
            let plan = program(&model(sizes, epochs, batch, 0.9), 8).plan(Roster::shamir(4, 1).unwrap()).unwrap();
            plan.opening_rounds()
        };
        let narrow = rounds(&[6, 4, 3], 1, 8);
        assert_eq!(narrow, rounds(&[6, 9, 3], 1, 8));
        assert_eq!(rounds(&[6, 4, 3], 3, 8), rounds(&[6, 4, 3], 1, 3));
        assert!(rounds(&[6, 4, 4, 3], 1, 8) < narrow + 40);
    }

    #[test]
    fn shapes_that_do_not_fit_are_an_error_not_a_panic() {
        for (features, sizes) in [(vec![3, 2], vec![4, 3]), (vec![3], vec![3, 3]), (vec![3, 2], vec![2])] {
            let b = Builder::new();
            let x = b.input("x", "alice", Type::fixed(-5.0..=5.0), features);
            let y = b.input("y", "alice", Type::bit(), [3, 3]);
            let model = Mlp::new(sizes.clone());
            let fit = model.train(&x, &y);
            b.output("labels", "alice", &model.predict(&x, &fit.weights));
            assert_eq!(b.finish().is_err(), sizes.len() > 1);
        }
    }

    #[test]
    fn a_rate_has_twelve_bits() {
        for value in [0.1 / 96.0, 0.1 / 93.0, 0.3, 1.0, 1e-7] {
            let (short, bits) = (twelve_bits(value), twelve_bits(value).to_bits());
            assert!((short - value).abs() <= value / 4096.0 && bits.trailing_zeros() >= 41, "{value}: {short}");
        }
    }
}
