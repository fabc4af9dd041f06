//! A model written into a program, node by node.

use super::onnx::{Model, Operand, Step};
use super::operator::{Operator, Padding, Refusal, Sliding, brief, refusal};
use super::{ImportError, Options, Values, Weights};
use crate::ml::layers::{self, Window};
use crate::program::table::Function;
use crate::program::{Builder, Tensor, Type};
use crate::tensor::MAX_RANK;

/// The most matrix products that one `MatMul` of batches comes to.
const MAX_BATCH: usize = 4096;

impl Model {
    /// Writes the model into the program that `input` belongs to: its result
    /// for it, on public or secret weights.
    ///
    /// `input` is fixed point, of the fractional bits of the options, or
    /// integers (a `Gather` of a table wants them); its shape must be the one
    /// the file declares, where it declares one. Functions have the cost and
    /// error of [`layers`] and of the builder's operations. After an error the
    /// program is of no use.
    pub fn apply(&self, input: &Tensor, weights: &Weights, options: &Options) -> Result<Tensor, ImportError> {
        let b = input.builder();
        let at = |place: String, b: &Builder| match b.fault() {
            Some(reason) => Err(ImportError::Program { at: place, reason }),
            None => Ok(()),
        };
        at("before the model".into(), b)?;
        for (name, value) in [("activation_bound", options.activation_bound), ("weight_bound", options.weight_bound)] {
            if !(value.is_finite() && value > 0.0) {
                let (found, expected) = (format!("the option {name} {value}"), "a finite number above 0".into());
                return Err(ImportError::Graph { found, expected });
            }
        }
        self.fits(input)?;
        let mut tensors = Vec::with_capacity(self.weights.len());
        for (name, values) in &self.weights {
            tensors.push(weight(b, name, values, weights, options)?);
            at(format!("weight {name:?}"), b)?;
        }
        let scope = Scope { model: self, weights: &tensors, public: *weights == Weights::Public, options };
        let mut values = vec![input.clone()];
        for step in &self.steps {
            let refused = |Refusal { found, expected }: Refusal| ImportError::Node {
                node: step.node.clone(),
                op: step.op.clone(),
                found,
                expected,
            };
            let result = scope.step(step, &values).map_err(refused)?;
            at(format!("node {:?} ({})", step.node, step.op), b)?;
            let result = bounded(&result, &step.node, options);
            at(format!("node {:?} ({})", step.node, step.op), b)?;
            values.push(result);
        }
        Ok(scope.get(self.result, &values))
    }

    fn fits(&self, input: &Tensor) -> Result<(), ImportError> {
        let (found, Some(declared)) = (input.shape().dims(), self.input_shape()) else { return Ok(()) };
        let alike = found.len() == declared.len()
            && found.iter().zip(declared).all(|(d, declared)| declared.is_none_or(|declared| declared == *d));
        if alike {
            return Ok(());
        }
        let declared: Vec<_> = declared.iter().map(|d| d.map_or("any".into(), |d| d.to_string())).collect();
        Err(ImportError::Tensor {
            name: self.input().to_owned(),
            found: format!("the shape {found:?}"),
            expected: format!("[{}]: reshape the input", declared.join(", ")),
        })
    }
}

/// A weight as a constant in the range of its values, or as an input in the
/// declared one, which tells nothing of them.
fn weight(b: &Builder, name: &str, v: &Values, weights: &Weights, options: &Options) -> Result<Tensor, ImportError> {
    let (frac, shape) = (options.frac, v.shape.clone());
    match weights {
        Weights::Public => {
            let (least, most) = v.values.iter().fold((f64::MAX, f64::MIN), |(a, b), v| (a.min(*v), b.max(*v)));
            Ok(b.constant(&v.values, Type::fixed_bits(frac, least..=most), shape))
        }
        Weights::Secret { owner } => {
            let bound = options.weight_bound;
            if let Some(i) = v.values.iter().position(|v| v.abs() > bound) {
                return Err(ImportError::Tensor {
                    name: name.to_owned(),
                    found: format!("{} at index {i}", v.values[i]),
                    expected: format!("numbers within ±{bound}: raise Options::weight_bound"),
                });
            }
            Ok(b.input(name, owner, Type::fixed_bits(frac, -bound..=bound), shape))
        }
    }
}

/// The result within ± the bound, declared where that is not known.
fn bounded(x: &Tensor, node: &str, options: &Options) -> Tensor {
    let (range, bound) = (x.ty().range(), options.activation_bound);
    if !x.ty().fixed || (-bound <= *range.start() && *range.end() <= bound) {
        return x.clone();
    }
    x.declare(node, range.start().max(-bound)..=range.end().min(bound))
}

struct Scope<'a> {
    model: &'a Model,
    weights: &'a [Tensor],
    public: bool,
    options: &'a Options,
}

impl Scope<'_> {
    fn get(&self, operand: Operand, values: &[Tensor]) -> Tensor {
        match operand {
            Operand::Value(i) => values[i].clone(),
            Operand::Weight(i) => self.weights[i].clone(),
        }
    }

    /// The one number of a public weight, if that is what it is.
    fn number(&self, operand: Operand) -> Option<f64> {
        match operand {
            Operand::Weight(i) if self.public => match self.model.weights[i].1.values[..] {
                [v] => Some(v),
                _ => None,
            },
            _ => None,
        }
    }

    fn step(&self, step: &Step, values: &[Tensor]) -> Result<Tensor, Refusal> {
        let operands: Vec<Tensor> = step.operands.iter().map(|o| self.get(*o, values)).collect();
        let x = &operands[0];
        let rank = x.shape().dims().len();
        Ok(match &step.operator {
            Operator::MatMul => matmul(x, &operands[1])?,
            Operator::Gemm { transposed, alpha, beta } => {
                let side = |i: usize| -> Result<Tensor, Refusal> {
                    let t = &operands[i];
                    if t.shape().dims().len() != 2 {
                        return Err(refusal(
                            format!("an operand of the shape {}", t.shape()),
                            "two matrices: flatten it",
                        ));
                    }
                    Ok(if transposed[i] { t.t() } else { t.clone() })
                };
                let product = scaled(&side(0)?.matmul(&side(1)?), *alpha);
                match operands.get(2) {
                    Some(c) => product + scaled(c, *beta),
                    None => product,
                }
            }
            Operator::Conv(sliding) => {
                let w = &operands[1];
                let [_, channels, rows, columns] = image(x)?;
                let [out, inner, ..] = image(w)?;
                if inner != channels {
                    return Err(refusal(format!("{channels} channels"), format!("{inner}, as the weights have")));
                }
                let y = layers::conv2d(x, w, window(sliding, rows, columns)?);
                match operands.get(2) {
                    Some(bias) if bias.shape().dims() == [out] => y + bias.reshape([1, out, 1, 1]),
                    Some(bias) => {
                        return Err(refusal(format!("a bias of the shape {}", bias.shape()), format!("[{out}]")));
                    }
                    None => y,
                }
            }
            Operator::Relu => x.relu(),
            Operator::Sigmoid => x.apply(Function::Sigmoid),
            Operator::Tanh => x.tanh(),
            Operator::Gelu => x.gelu(),
            Operator::Softmax { axis } => {
                last(*axis, x)?;
                layers::softmax(x)
            }
            Operator::MaxPool(sliding) => {
                let [_, _, rows, columns] = image(x)?;
                let window = window(sliding, rows, columns)?;
                let least = *x.ty().range().start();
                if window.padding == [0; 4] || least >= 0.0 {
                    layers::max_pool(x, window)
                } else {
                    // The layer pads with zeros: make that the least value there is.
                    layers::max_pool(&(x - least), window) + least
                }
            }
            Operator::AveragePool { sliding, padding_counts } => {
                let [_, _, rows, columns] = image(x)?;
                let window = window(sliding, rows, columns)?;
                let mean = layers::average_pool(x, window);
                if *padding_counts || window.padding == [0; 4] {
                    mean
                } else {
                    let (corrections, [down, across]) = corrections(window, rows, columns);
                    let most = corrections.iter().copied().fold(1.0, f64::max);
                    let ty = Type::fixed_bits(mean.ty().frac, 1.0..=most);
                    let factors = x.builder().constant(&corrections, ty, [1, 1, down, across]);
                    mean * factors
                }
            }
            Operator::GlobalAveragePool => {
                let [batch, channels, rows, columns] = image(x)?;
                x.reshape([batch, channels, rows * columns]).mean(2).reshape([batch, channels, 1, 1])
            }
            Operator::Add => x + &operands[1],
            Operator::Sub => x - &operands[1],
            Operator::Mul => {
                let y = &operands[1];
                let wider = |a: &Tensor, b: &Tensor| a.shape().dims().len() >= b.shape().dims().len();
                match (self.number(step.operands[0]), self.number(step.operands[1])) {
                    // By a public number there is nothing to open but the truncation.
                    (None, Some(v)) if wider(x, y) => x * v,
                    (Some(v), None) if wider(y, x) => y * v,
                    _ => x * y,
                }
            }
            Operator::Div => x.div(&operands[1]),
            Operator::Reshape { dims, zero_copies } => x.reshape(reshaped(x.shape().dims(), dims, *zero_copies)?),
            Operator::Flatten { axis } => {
                let axis = wrapped(*axis, rank, rank)?;
                let dims = x.shape().dims();
                x.reshape([dims[..axis].iter().product::<usize>(), dims[axis..].iter().product()])
            }
            Operator::Transpose { order } => match order {
                Some(order) => permuted(x, order)?,
                None => permuted(x, &(0..rank as i64).rev().collect::<Vec<_>>())?,
            },
            Operator::Concat { axis } => {
                let axis = wrapped(*axis, rank, rank.saturating_sub(1))?;
                x.builder().concat(&operands.iter().collect::<Vec<_>>(), axis)
            }
            Operator::Scale => {
                let channels = operands[1].shape().len();
                if x.shape().dims().get(1) != Some(&channels) {
                    return Err(refusal(format!("the shape {}", x.shape()), format!("[batch, {channels}, …]")));
                }
                let mut dims = vec![1; rank];
                dims[1] = channels;
                x * operands[1].reshape(dims.clone()) + operands[2].reshape(dims)
            }
            Operator::LayerNormalization { axis } => {
                last(*axis, x)?;
                let gain = &operands[1];
                let bias = operands.get(2).cloned().unwrap_or_else(|| gain.zeros(gain.shape().dims()));
                layers::layer_norm(x, gain, &bias, self.options.variance.clone())
            }
            Operator::Embedding => {
                let indices = &operands[1];
                let rows = x.shape().dims().first().map_or(0, |d| *d as i64);
                let ty = indices.ty();
                if ty.fixed || ty.lo < 0 || ty.hi >= rows {
                    return Err(refusal(format!("indices that are {ty}"), format!("integers in 0..={}", rows - 1)));
                }
                layers::embedding(indices, x)
            }
            Operator::Pick { axis, indices, shape } => {
                let axis = wrapped(*axis, rank, rank.saturating_sub(1))?;
                let Some(&length) = x.shape().dims().get(axis) else {
                    return Err(refusal("a scalar", "an axis to pick from"));
                };
                let mut parts = Vec::with_capacity(indices.len());
                for index in indices {
                    let i = wrapped(*index, length, length - 1)?;
                    parts.push(x.slice(axis, i..i + 1));
                }
                let picked = x.builder().concat(&parts.iter().collect::<Vec<_>>(), axis);
                // An index that is no list drops its axis.
                if shape.is_empty() { picked.sum(axis) } else { picked }
            }
            Operator::Clip { least, most } => {
                let range = x.ty().range();
                let (lo, hi) = (least.unwrap_or(f64::MIN), most.unwrap_or(f64::MAX));
                if lo <= *range.start() && *range.end() <= hi {
                    x.clone()
                } else {
                    // No further than the range: a bound of f32's greatest is none.
                    let (lo, hi) = (lo.max(*range.start()), hi.min(*range.end()));
                    if lo > hi {
                        let found = format!("the bounds {lo} and {hi}, where the operand is {}", x.ty());
                        return Err(refusal(found, "bounds that the operand can reach"));
                    }
                    x.clamp(lo..=hi)
                }
            }
            Operator::Squeeze { axes } => {
                let dims = x.shape().dims();
                let dropped: Vec<usize> = match axes {
                    Some(axes) => {
                        axes.iter().map(|a| wrapped(*a, rank, rank.saturating_sub(1))).collect::<Result<_, _>>()?
                    }
                    None => (0..rank).filter(|i| dims[*i] == 1).collect(),
                };
                if let Some(axis) = dropped.iter().find(|axis| dims.get(**axis) != Some(&1)) {
                    return Err(refusal(format!("axis {axis} of the shape {}", x.shape()), "an axis of length 1"));
                }
                let kept = (0..rank).filter(|i| !dropped.contains(i)).map(|i| dims[i]);
                x.reshape(kept.collect::<Vec<_>>())
            }
            Operator::Unsqueeze { axes } => {
                let wider = rank + axes.len();
                if wider > MAX_RANK {
                    return Err(refusal(format!("{wider} axes after it"), format!("at most {MAX_RANK}")));
                }
                let mut added = axes.iter().map(|a| wrapped(*a, wider, wider - 1)).collect::<Result<Vec<_>, _>>()?;
                added.sort_unstable();
                added.dedup();
                if added.len() < axes.len() {
                    return Err(refusal(format!("the axes {}", brief(axes)), "each once"));
                }
                let mut dims = x.shape().dims().to_vec();
                for axis in added {
                    dims.insert(axis, 1);
                }
                x.reshape(dims)
            }
        })
    }
}

fn scaled(x: &Tensor, factor: f64) -> Tensor {
    if factor == 1.0 { x.clone() } else { x * factor }
}

/// The dimensions of images.
fn image(x: &Tensor) -> Result<[usize; 4], Refusal> {
    let found = || refusal(format!("an operand of the shape {}", x.shape()), "[batch, channels, rows, columns]");
    <[usize; 4]>::try_from(x.shape().dims()).map_err(|_| found())
}

/// An axis or index from 0 to `most`, negative ones counted from `length`.
fn wrapped(axis: i64, length: usize, most: usize) -> Result<usize, Refusal> {
    let from_end = if axis < 0 { axis.checked_add(length as i64) } else { Some(axis) };
    let within = from_end.and_then(|v| usize::try_from(v).ok()).filter(|v| *v <= most);
    within.ok_or_else(|| refusal(format!("the axis or index {axis}"), format!("−{length} to {most}")))
}

fn last(axis: i64, x: &Tensor) -> Result<(), Refusal> {
    let rank = x.shape().dims().len();
    match wrapped(axis, rank, rank.saturating_sub(1))? + 1 == rank {
        true => Ok(()),
        false => Err(refusal(format!("axis {axis} of the shape {}", x.shape()), "the last axis: transpose before it")),
    }
}

/// A window on an image of known size.
fn window(sliding: &Sliding, rows: usize, columns: usize) -> Result<Window, Refusal> {
    let (size, stride) = (sliding.size, sliding.stride);
    let padding = match sliding.padding {
        Padding::Given(padding) => padding,
        Padding::Same { first } => {
            let around = |length: usize, i: usize| {
                let places = length.div_ceil(stride[i]);
                let zeros = ((places - 1) * stride[i] + size[i]).saturating_sub(length);
                let less = zeros / 2;
                if first { (zeros - less, less) } else { (less, zeros - less) }
            };
            let ((top, bottom), (left, right)) = (around(rows, 0), around(columns, 1));
            [top, left, bottom, right]
        }
    };
    let [top, left, bottom, right] = padding;
    if size[0] > rows + top + bottom || size[1] > columns + left + right {
        return Err(refusal(
            format!("a window of {size:?} on {rows} × {columns} with pads {padding:?}"),
            "one that fits: check the input's shape",
        ));
    }
    // Else there would be places with nothing but zeros.
    if top.max(bottom) >= size[0] || left.max(right) >= size[1] {
        return Err(refusal(format!("pads {padding:?} around a window of {size:?}"), "fewer than the window is long"));
    }
    Ok(Window { size, stride, padding })
}

/// Words under a window for each that is no padding, place by place.
fn corrections(window: Window, rows: usize, columns: usize) -> (Vec<f64>, [usize; 2]) {
    let [down, across] = window.places(rows, columns);
    let [top, left, ..] = window.padding;
    let inside = |place: usize, i: usize, before: usize, length: usize| {
        let start = place * window.stride[i];
        let end = (start + window.size[i]).min(before + length);
        end.saturating_sub(start.max(before)).max(1)
    };
    let all = (window.size[0] * window.size[1]) as f64;
    let at = |y, x| all / (inside(y, 0, top, rows) * inside(x, 1, left, columns)) as f64;
    ((0..down).flat_map(|y| (0..across).map(move |x| (y, x))).map(|(y, x)| at(y, x)).collect(), [down, across])
}

/// `Reshape`'s dimensions: 0 copies, one −1 takes what is left.
fn reshaped(from: &[usize], dims: &[i64], zero_copies: bool) -> Result<Vec<usize>, Refusal> {
    let refused = || {
        refusal(
            format!("the shape {} for a tensor of the shape {from:?}", brief(dims)),
            "as many elements: export with an open batch, or apply to the exported batch",
        )
    };
    if dims.len() > MAX_RANK {
        return Err(refused());
    }
    let (mut shape, mut open) = (Vec::with_capacity(dims.len()), None);
    for (i, d) in dims.iter().enumerate() {
        shape.push(match d {
            0 if zero_copies => *from.get(i).ok_or_else(refused)?,
            -1 if open.is_none() => {
                open = Some(i);
                1
            }
            d => usize::try_from(*d).map_err(|_| refused())?,
        });
    }
    let total: usize = from.iter().product();
    let known = shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d)).filter(|n| *n > 0).ok_or_else(refused)?;
    if let Some(i) = open {
        shape[i] = total / known;
    }
    if shape.iter().product::<usize>() != total {
        return Err(refused());
    }
    Ok(shape)
}

/// The axes in another order. Each move of an axis past others is at most two
/// transposes of the last two axes, which are local.
fn permuted(x: &Tensor, order: &[i64]) -> Result<Tensor, Refusal> {
    let dims = x.shape().dims();
    let mut sorted = order.to_vec();
    sorted.sort_unstable();
    if !sorted.iter().copied().eq(0..dims.len() as i64) {
        return Err(refusal(format!("perm {} for the shape {}", brief(order), x.shape()), "each axis once"));
    }
    let order: Vec<usize> = order.iter().map(|axis| *axis as usize).collect();
    let mut now: Vec<usize> = (0..dims.len()).collect();
    let mut x = x.clone();
    for (place, axis) in order.iter().enumerate() {
        let Some(at) = now.iter().position(|a| a == axis).filter(|at| *at > place) else { continue };
        let length = |axes: &[usize]| axes.iter().map(|a| dims[*a]).product::<usize>();
        let [outer, passed, moved, inner] =
            [length(&now[..place]), length(&now[place..at]), length(&now[at..=at]), length(&now[at + 1..])];
        // [passed, moved·inner] cannot move just `moved`: bring `inner` before it, then both.
        if inner > 1 {
            x = x.reshape([outer * passed, moved, inner]).t();
        }
        x = x.reshape([outer, passed * inner, moved]).t();
        now[place..=at].rotate_right(1);
    }
    Ok(x.reshape(order.iter().map(|a| dims[*a]).collect::<Vec<_>>()))
}

/// `[…, m, k] × [k, n]`, or products of matrices one by one.
fn matmul(a: &Tensor, b: &Tensor) -> Result<Tensor, Refusal> {
    let (left, right) = (a.shape().dims().to_vec(), b.shape().dims().to_vec());
    let refused = || {
        let found = format!("operands of the shapes {left:?} and {right:?}");
        refusal(found, "[…, m, k] and [k, n], or equal leading axes")
    };
    if left.is_empty() || right.is_empty() {
        return Err(refused());
    }
    // The inner lengths, a vector's being its own.
    let inner = right[right.len().saturating_sub(2)];
    if left[left.len() - 1] != inner {
        return Err(refused());
    }
    if right.len() <= 2 {
        if left.len() <= 2 {
            return Ok(a.matmul(b));
        }
        let rows: usize = left[..left.len() - 1].iter().product();
        let mut dims = left[..left.len() - 1].to_vec();
        dims.extend(right.get(1));
        return Ok(a.reshape([rows, inner]).matmul(b).reshape(dims));
    }
    let outer = &right[..right.len() - 2];
    if left.len() != right.len() || left[..left.len() - 2] != *outer {
        return Err(refused());
    }
    let batch: usize = outer.iter().product();
    if batch > MAX_BATCH {
        return Err(refusal(format!("{batch} products of matrices"), format!("at most {MAX_BATCH}: split the batch")));
    }
    let (m, n) = (left[left.len() - 2], right[right.len() - 1]);
    let (a, b) = (a.reshape([batch, m, inner]), b.reshape([batch, inner, n]));
    let products: Vec<Tensor> = (0..batch)
        .map(|i| {
            let [a, b] = [(&a, [m, inner]), (&b, [inner, n])].map(|(x, dims)| x.slice(0, i..i + 1).reshape(dims));
            a.matmul(&b).reshape([1, m, n])
        })
        .collect();
    let mut dims = outer.to_vec();
    dims.extend([m, n]);
    Ok(a.builder().concat(&products.iter().collect::<Vec<_>>(), 0).reshape(dims))
}
