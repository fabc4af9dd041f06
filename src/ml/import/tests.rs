use std::collections::BTreeMap;

use proptest::prelude::*;
use prost::Message;

use super::proto::*;
use super::{ImportError, Model, Options, Weights, safetensors};
use crate::job::local;
use crate::program::random::Choices;
use crate::program::{Builder, Program, Type};
use crate::roster::Roster;

// --- a tiny encoder -----------------------------------------------------------

fn floats(name: &str, dims: &[usize], values: &[f64]) -> TensorProto {
    TensorProto {
        name: name.into(),
        dims: dims.iter().map(|d| *d as i64).collect(),
        data_type: 1,
        float_data: values.iter().map(|v| *v as f32).collect(),
        ..Default::default()
    }
}

fn ints(name: &str, values: &[i64]) -> TensorProto {
    TensorProto {
        name: name.into(),
        dims: vec![values.len() as i64],
        data_type: 7,
        int64_data: values.to_vec(),
        ..Default::default()
    }
}

fn scalar(name: &str, value: i64) -> TensorProto {
    TensorProto { dims: vec![], ..ints(name, &[value]) }
}

enum Att<'a> {
    F(f32),
    I(i64),
    S(&'a str),
    L(&'a [i64]),
}

fn node(op: &str, inputs: &[&str], output: &str, attributes: &[(&str, Att)]) -> NodeProto {
    let attribute = |(name, value): &(&str, Att)| {
        let mut a = AttributeProto { name: (*name).into(), ..Default::default() };
        match value {
            Att::F(v) => (a.f, a.kind) = (Some(*v), 1),
            Att::I(v) => (a.i, a.kind) = (Some(*v), 2),
            Att::S(v) => (a.s, a.kind) = (Some(v.as_bytes().to_vec()), 3),
            Att::L(v) => (a.ints, a.kind) = (v.to_vec(), 7),
        }
        a
    };
    NodeProto {
        op_type: op.into(),
        name: format!("the {op}"),
        input: inputs.iter().map(|s| (*s).into()).collect(),
        output: vec![output.into()],
        attribute: attributes.iter().map(attribute).collect(),
        ..Default::default()
    }
}

fn info(name: &str) -> ValueInfoProto {
    ValueInfoProto { name: name.into(), r#type: None }
}

/// From "x" to "y".
fn model(nodes: Vec<NodeProto>, initializer: Vec<TensorProto>) -> ModelProto {
    ModelProto {
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: 20 }],
        graph: Some(GraphProto {
            node: nodes,
            initializer,
            input: vec![info("x")],
            output: vec![info("y")],
            sparse_initializer: vec![],
        }),
    }
}

fn bytes(nodes: Vec<NodeProto>, initializers: Vec<TensorProto>) -> Vec<u8> {
    model(nodes, initializers).encode_to_vec()
}

fn read(nodes: Vec<NodeProto>, initializers: Vec<TensorProto>) -> Model {
    Model::from_bytes(&bytes(nodes, initializers)).unwrap()
}

/// Numbers within ±`most`, the same each time.
fn numbers(seed: u64, count: usize, most: f64) -> Vec<f64> {
    let mut choices = Choices(seed);
    // Multiples of 2^−10, so that both f32 and 16 bits hold them.
    (0..count)
        .map(|_| ((choices.word() >> 11) as f64 / (1u64 << 53) as f64 * 2.0 - 1.0) * most)
        .map(|v| (v * 1024.0).round() / 1024.0)
        .collect()
}

fn program(model: &Model, ty: Type, dims: &[usize], weights: &Weights) -> Result<Program, ImportError> {
    let b = Builder::new();
    let x = b.input("x", "alice", ty, dims);
    let y = model.apply(&x, weights, &Options::default())?;
    b.output("y", "alice", &y);
    b.finish().map_err(|e| ImportError::Program { at: "finish".into(), reason: e.to_string() })
}

const X: f64 = 4.0;

/// A model on numbers in real arithmetic, with public and with secret weights.
fn dry(model: &Model, dims: &[usize], x: &[f64]) -> Vec<f64> {
    let inputs = BTreeMap::from([("x".to_owned(), x.to_vec())]);
    let run = |weights, inputs| {
        let run = program(model, Type::fixed(-X..=X), dims, &weights).unwrap().dry_run(inputs).unwrap();
        assert!(run.holds(), "{:?}", run.declarations);
        run.outputs["y"].clone()
    };
    let public = run(Weights::Public, &inputs);
    let with_weights = inputs.clone().into_iter().chain(model.weights()).collect();
    let secret = run(Weights::Secret { owner: "bob".into() }, &with_weights);
    close(&public, &secret, 1e-3);
    public
}

#[track_caller]
fn close(found: &[f64], expected: &[f64], most: f64) {
    assert_eq!(found.len(), expected.len());
    let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(worst <= most, "{worst}: {found:?}, expected {expected:?}");
}

/// One node with constants besides x; y as it should be.
#[track_caller]
fn check(node: NodeProto, constants: Vec<TensorProto>, dims: &[usize], expected: impl Fn(&[f64]) -> Vec<f64>) {
    let x = numbers(7, dims.iter().product(), X);
    close(&dry(&read(vec![node], constants), dims, &x), &expected(&x), 2e-3);
}

fn map(f: impl Fn(f64) -> f64) -> impl Fn(&[f64]) -> Vec<f64> {
    move |x| x.iter().map(|v| f(*v)).collect()
}

/// [m, k] × [k, n].
fn product(a: &[f64], b: &[f64], k: usize, n: usize) -> Vec<f64> {
    a.chunks(k).flat_map(|row| (0..n).map(|j| row.iter().enumerate().map(|(i, v)| v * b[i * n + j]).sum())).collect()
}

/// Words under each place of a window, `None` for padding, of one image plane.
fn under(
    plane: &[f64],
    [rows, columns]: [usize; 2],
    size: [usize; 2],
    stride: [usize; 2],
    pads: [usize; 4],
) -> Vec<Vec<Option<f64>>> {
    let down = (rows + pads[0] + pads[2] - size[0]) / stride[0] + 1;
    let across = (columns + pads[1] + pads[3] - size[1]) / stride[1] + 1;
    let at = |y: usize, x: usize| {
        let (y, x) = (y.checked_sub(pads[0])?, x.checked_sub(pads[1])?);
        (y < rows && x < columns).then(|| plane[y * columns + x])
    };
    let places = (0..down).flat_map(|i| (0..across).map(move |j| (i, j)));
    places
        .map(|(i, j)| {
            let cells = (0..size[0]).flat_map(|y| (0..size[1]).map(move |x| (y, x)));
            cells.map(|(y, x)| at(i * stride[0] + y, j * stride[1] + x)).collect()
        })
        .collect()
}

// --- operators --------------------------------------------------------------------

#[test]
fn products() {
    let w = numbers(1, 12, 1.0);
    check(node("MatMul", &["x", "w"], "y", &[]), vec![floats("w", &[4, 3], &w)], &[2, 4], |x| product(x, &w, 4, 3));
    check(node("MatMul", &["x", "w"], "y", &[]), vec![floats("w", &[4, 3], &w)], &[2, 5, 4], |x| product(x, &w, 4, 3));
    check(node("MatMul", &["x", "w"], "y", &[]), vec![floats("w", &[2, 2, 3], &w)], &[2, 5, 2], |x| {
        [product(&x[..10], &w[..6], 2, 3), product(&x[10..], &w[6..], 2, 3)].concat()
    });
    let bias = numbers(2, 3, 1.0);
    let constants = || vec![floats("w", &[4, 3], &w), floats("c", &[3], &bias)];
    check(node("Gemm", &["x", "w", "c"], "y", &[]), constants(), &[2, 4], |x| {
        product(x, &w, 4, 3).iter().zip(bias.iter().cycle()).map(|(a, b)| a + b).collect()
    });
    let attributes = [("transA", Att::I(1)), ("transB", Att::I(1)), ("alpha", Att::F(0.5)), ("beta", Att::F(2.0))];
    let flipped: Vec<f64> = (0..12).map(|i| w[i % 3 * 4 + i / 3]).collect();
    let constants = vec![floats("w", &[3, 4], &w), floats("c", &[3], &bias)];
    check(node("Gemm", &["x", "w", "c"], "y", &attributes), constants, &[4, 2], |x| {
        let x: Vec<f64> = (0..8).map(|i| x[i % 4 * 2 + i / 4]).collect();
        let products = product(&x, &flipped, 4, 3);
        products.iter().zip(bias.iter().cycle()).map(|(a, b)| 0.5 * a + 2.0 * b).collect()
    });
}

/// Attributes, and the stride and padding that they mean.
type Case<'a> = (&'a [(&'a str, Att<'a>)], [usize; 2], [usize; 4]);

#[test]
fn convolutions() {
    let (w, bias) = (numbers(3, 2 * 3 * 2 * 3, 0.5), numbers(4, 2, 1.0));
    let cases: [Case; 4] = [
        (&[], [1, 1], [0; 4]),
        (&[("strides", Att::L(&[2, 1])), ("pads", Att::L(&[1, 2, 0, 1]))], [2, 1], [1, 2, 0, 1]),
        (&[("auto_pad", Att::S("SAME_UPPER")), ("kernel_shape", Att::L(&[2, 3]))], [1, 1], [0, 1, 1, 1]),
        (&[("auto_pad", Att::S("SAME_LOWER")), ("strides", Att::L(&[2, 2]))], [2, 2], [1, 1, 0, 1]),
    ];
    for (attributes, stride, pads) in cases {
        let constants = vec![floats("w", &[2, 3, 2, 3], &w), floats("b", &[2], &bias)];
        check(node("Conv", &["x", "w", "b"], "y", attributes), constants, &[2, 3, 5, 5], |x| {
            let mut y = Vec::new();
            for image in x.chunks(75) {
                for (kernel, b) in w.chunks(18).zip(&bias) {
                    let planes: Vec<_> = image.chunks(25).map(|p| under(p, [5, 5], [2, 3], stride, pads)).collect();
                    for place in 0..planes[0].len() {
                        let words = planes.iter().flat_map(|plane| &plane[place]);
                        y.push(b + words.zip(kernel).map(|(v, w)| v.unwrap_or(0.0) * w).sum::<f64>());
                    }
                }
            }
            y
        });
    }
}

#[test]
fn pools() {
    let attributes =
        || [("kernel_shape", Att::L(&[3, 2])), ("strides", Att::L(&[2, 1])), ("pads", Att::L(&[1, 1, 1, 0]))];
    let pooled = |x: &[f64], of: fn(&[Option<f64>]) -> f64| -> Vec<f64> {
        x.chunks(20).flat_map(|p| under(p, [5, 4], [3, 2], [2, 1], [1, 1, 1, 0])).map(|w| of(&w)).collect()
    };
    // All below zero: zeros around must not win.
    let x: Vec<f64> = numbers(5, 2 * 2 * 20, 1.0).iter().map(|v| v - 2.0).collect();
    let max = read(vec![node("MaxPool", &["x"], "y", &attributes())], vec![]);
    let expected = pooled(&x, |w| w.iter().flatten().copied().fold(f64::MIN, f64::max));
    close(&dry(&max, &[2, 2, 5, 4], &x), &expected, 1e-6);
    check(node("AveragePool", &["x"], "y", &attributes()), vec![], &[2, 2, 5, 4], |x| {
        pooled(x, |w| w.iter().flatten().sum::<f64>() / w.iter().flatten().count() as f64)
    });
    let counted = attributes().into_iter().chain([("count_include_pad", Att::I(1))]).collect::<Vec<_>>();
    check(node("AveragePool", &["x"], "y", &counted), vec![], &[2, 2, 5, 4], |x| {
        pooled(x, |w| w.iter().flatten().sum::<f64>() / w.len() as f64)
    });
    check(node("GlobalAveragePool", &["x"], "y", &[]), vec![], &[2, 2, 5, 4], |x| {
        x.chunks(20).map(|p| p.iter().sum::<f64>() / 20.0).collect()
    });
}

#[test]
fn functions() {
    check(node("Relu", &["x"], "y", &[]), vec![], &[9], map(|v| v.max(0.0)));
    check(node("Sigmoid", &["x"], "y", &[]), vec![], &[9], map(|v| 1.0 / (1.0 + (-v).exp())));
    check(node("Tanh", &["x"], "y", &[]), vec![], &[9], map(f64::tanh));
    let tanh_form = map(|v| 0.5 * v * (1.0 + (0.7978845608 * (v + 0.044715 * v.powi(3))).tanh()));
    check(node("Gelu", &["x"], "y", &[("approximate", Att::S("tanh"))]), vec![], &[9], tanh_form);
    check(node("Softmax", &["x"], "y", &[("axis", Att::I(-1))]), vec![], &[3, 4], |x| {
        x.chunks(4)
            .flat_map(|r| {
                let s: f64 = r.iter().map(|v| v.exp()).sum();
                r.iter().map(move |v| v.exp() / s)
            })
            .collect()
    });
    let bounds = || vec![floats("lo", &[], &[-0.5]), floats("hi", &[], &[3.4e38])];
    check(node("Clip", &["x", "lo", "hi"], "y", &[]), bounds(), &[9], map(|v| v.max(-0.5)));
    check(node("Clip", &["x", "", "lo"], "y", &[]), bounds(), &[9], map(|v| v.min(-0.5)));
}

#[test]
fn arithmetic_and_normalisation() {
    let w: Vec<f64> = numbers(6, 3, 1.0).iter().map(|v| v + 2.0).collect();
    let by = |f: fn(f64, f64) -> f64, w: Vec<f64>| {
        move |x: &[f64]| x.iter().zip(w.iter().cycle()).map(|(a, b)| f(*a, *b)).collect::<Vec<f64>>()
    };
    let row = || vec![floats("w", &[3], &w)];
    check(node("Add", &["x", "w"], "y", &[]), row(), &[2, 3], by(|a, b| a + b, w.clone()));
    check(node("Sub", &["x", "w"], "y", &[]), row(), &[2, 3], by(|a, b| a - b, w.clone()));
    check(node("Sub", &["w", "x"], "y", &[]), row(), &[2, 3], by(|a, b| b - a, w.clone()));
    check(node("Mul", &["w", "x"], "y", &[]), row(), &[2, 3], by(|a, b| a * b, w.clone()));
    check(node("Div", &["x", "w"], "y", &[]), row(), &[2, 3], by(|a, b| a / b, w.clone()));
    let one = || vec![floats("w", &[], &[0.75])];
    check(node("Mul", &["x", "w"], "y", &[]), one(), &[2, 3], map(|v| v * 0.75));
    check(node("Div", &["x", "w"], "y", &[]), one(), &[2, 3], map(|v| v / 0.75));

    let parameters = |name: &str, seed, shift: f64| {
        let v: Vec<f64> = numbers(seed, 3, 0.5).iter().map(|v| v + shift).collect();
        (floats(name, &[3], &v), v)
    };
    let [(tg, g), (tb, b), (tm, m), (tv, v)] =
        [parameters("g", 1, 1.0), parameters("b", 2, 0.0), parameters("m", 3, 0.0), parameters("v", 4, 1.0)];
    let inputs = ["x", "g", "b", "m", "v"];
    check(
        node("BatchNormalization", &inputs, "y", &[("epsilon", Att::F(0.01))]),
        vec![tg.clone(), tb.clone(), tm, tv],
        &[2, 3, 2, 2],
        |x| {
            let channel = |i: usize| i / 4 % 3;
            let of = |(i, x): (usize, &f64)| {
                let c = channel(i);
                g[c] * (x - m[c]) / (v[c] + 0.01).sqrt() + b[c]
            };
            x.iter().enumerate().map(of).collect()
        },
    );
    check(node("LayerNormalization", &["x", "g", "b"], "y", &[]), vec![tg, tb], &[4, 3], |x| {
        let row = |r: &[f64]| {
            let mean = r.iter().sum::<f64>() / 3.0;
            let deviation = (r.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 3.0).sqrt();
            (0..3).map(|j| (r[j] - mean) / deviation * g[j] + b[j]).collect::<Vec<_>>()
        };
        x.chunks(3).flat_map(row).collect()
    });
}

#[test]
fn shapes() {
    let same = |x: &[f64]| x.to_vec();
    check(node("Reshape", &["x", "s"], "y", &[]), vec![ints("s", &[0, -1, 2])], &[2, 3, 4], same);
    check(node("Flatten", &["x"], "y", &[]), vec![], &[2, 3, 4], same);
    check(node("Squeeze", &["x", "a"], "y", &[]), vec![ints("a", &[-1])], &[2, 3, 1], same);
    check(node("Unsqueeze", &["x", "a"], "y", &[]), vec![ints("a", &[0, -1])], &[2, 3], same);
    check(node("Squeeze", &["x"], "y", &[]), vec![], &[1, 2, 1, 3], same);
}

#[test]
fn every_order_of_axes() {
    let dims = [2, 3, 4, 5];
    for code in 0..256i64 {
        let order = [code / 64, code / 16 % 4, code / 4 % 4, code % 4];
        if (0..4).any(|axis| !order.contains(&axis)) {
            continue;
        }
        let strides = [60, 20, 5, 1];
        let [a, b, c, d] = order.map(|axis| dims[axis as usize]);
        let mut expected = Vec::new();
        let x = numbers(7, 120, X);
        for i in 0..120 {
            let index = [i / (b * c * d), i / (c * d) % b, i / d % c, i % d];
            expected.push(x[index.iter().zip(order).map(|(i, axis)| i * strides[axis as usize]).sum::<usize>()]);
        }
        assert_eq!(a * b * c * d, 120);
        check(node("Transpose", &["x"], "y", &[("perm", Att::L(&order))]), vec![], &dims, |_| expected.clone());
    }
}

#[test]
fn gathers_and_graphs() {
    let table = numbers(8, 5 * 3, 1.0);
    let embedding = read(vec![node("Gather", &["t", "x"], "y", &[])], vec![floats("t", &[5, 3], &table)]);
    let program = program(&embedding, Type::int(0..=4), &[2, 2], &Weights::Public).unwrap();
    let run = program.dry_run(&BTreeMap::from([("x".into(), vec![4.0, 0.0, 2.0, 2.0])])).unwrap();
    let rows = [4, 0, 2, 2].map(|i| &table[i * 3..i * 3 + 3]).concat();
    close(&run.outputs["y"], &rows, 1e-4);

    check(node("Gather", &["x", "i"], "y", &[("axis", Att::I(1))]), vec![scalar("i", -1)], &[2, 3], |x| {
        vec![x[2], x[5]]
    });
    check(node("Gather", &["x", "i"], "y", &[("axis", Att::I(1))]), vec![ints("i", &[2, 0])], &[2, 3], |x| {
        vec![x[2], x[0], x[5], x[3]]
    });

    let large = floats("t", &[1026, 1], &[0.0; 1026]);
    let message = refused(node("Gather", &["t", "x"], "y", &[]), vec![large]);
    assert!(message.contains("(Gather) has a table of 1026 rows, expected at most 1025"), "{message}");

    let message = refused(node("Gather", &["t", "x"], "y", &[]), vec![floats("t", &[5, 3], &table)]);
    assert!(message.contains("expected integers in 0..=4"), "{message}");

    // A graph with a branch, a Constant, a Dropout and unused things.
    let mut two = node("Constant", &[], "two", &[]);
    two.attribute = vec![AttributeProto { name: "value_float".into(), f: Some(2.0), kind: 1, ..Default::default() }];
    let mut dropout = node("Dropout", &["x", "ratio"], "kept", &[]);
    dropout.output.push("mask".into());
    let nodes = vec![
        two,
        dropout,
        node("Mul", &["kept", "two"], "twice", &[]),
        node("Identity", &["w"], "v", &[]),
        node("Add", &["twice", "v"], "sum", &[]),
        node("Concat", &["sum", "x"], "y", &[("axis", Att::I(-1))]),
    ];
    let model = read(nodes, vec![floats("ratio", &[], &[0.5]), floats("w", &[2], &[0.25, -1.0])]);
    close(&dry(&model, &[1, 2], &[1.0, 3.0]), &[2.25, 5.0, 1.0, 3.0], 1e-6);
    assert_eq!(model.weights().into_keys().collect::<Vec<_>>(), ["two", "w"]);
}

/// A small network on nodes, with public and with secret weights, by both schemes.
#[test]
fn networks_run_on_nodes() {
    let (w, bias) = (numbers(3, 2 * 9, 0.5), numbers(4, 2, 1.0));
    let dense = numbers(5, 8 * 3, 0.5);
    let nodes = vec![
        node("Conv", &["x", "w", "b"], "c", &[("pads", Att::L(&[1; 4]))]),
        node("MaxPool", &["c"], "p", &[("kernel_shape", Att::L(&[2, 2])), ("strides", Att::L(&[2, 2]))]),
        node("Relu", &["p"], "r", &[]),
        node("Flatten", &["r"], "f", &[]),
        node("MatMul", &["f", "d"], "z", &[]),
        node("Tanh", &["z"], "y", &[]),
    ];
    let model =
        read(nodes, vec![floats("w", &[2, 1, 3, 3], &w), floats("b", &[2], &bias), floats("d", &[8, 3], &dense)]);
    let x = numbers(9, 2 * 16, X);
    let exact = dry(&model, &[2, 1, 4, 4], &x);
    for roster in [Roster::shamir(4, 1).unwrap(), Roster::spdz(2).unwrap()] {
        for weights in [Weights::Public, Weights::Secret { owner: "alice".into() }] {
            let program = program(&model, Type::fixed(-X..=X), &[2, 1, 4, 4], &weights).unwrap();
            let secret = if weights == Weights::Public { BTreeMap::new() } else { model.weights() };
            let mut inputs = vec![("x", x.clone())];
            inputs.extend(secret.iter().map(|(name, values)| (name.as_str(), values.clone())));
            close(&local::run(&program, roster, &inputs).unwrap().outputs["y"], &exact, 2e-3);
        }
    }
}

#[test]
fn wide_results_are_declared_under_the_nodes_name() {
    let model = read(
        vec![node("Mul", &["x", "w"], "h", &[]), node("Relu", &["h"], "y", &[])],
        vec![floats("w", &[2], &[100.0, 1.0])],
    );
    let run = program(&model, Type::fixed(-X..=X), &[2], &Weights::Public)
        .unwrap()
        .dry_run(&BTreeMap::from([("x".into(), vec![2.0, 1.0])]))
        .unwrap();
    let [seen] = &run.declarations[..] else { panic!("{:?}", run.declarations) };
    assert_eq!((seen.name.as_str(), seen.declared.clone(), seen.holds()), ("the Mul", -128.0..=128.0, false));
}

// --- refusals ------------------------------------------------------------------------

/// The message for one node and constants, when read or applied to [2, 3].
fn refused(node: NodeProto, constants: Vec<TensorProto>) -> String {
    let read = Model::from_bytes(&bytes(vec![node], constants));
    let applied = read.and_then(|m| program(&m, Type::fixed(-X..=X), &[2, 3], &Weights::Public));
    let message = applied.err().map_or(String::new(), |e| e.to_string());
    assert!(!message.contains('\n'), "{message}");
    message
}

#[test]
fn refusals_name_the_node() {
    let w = || vec![floats("w", &[2, 1, 3, 3], &[0.5; 18])];
    let pool =
        |more: (&'static str, Att<'static>)| node("MaxPool", &["x"], "y", &[("kernel_shape", Att::L(&[2, 2])), more]);
    let rows = |n: usize| vec![floats("w", &[n], &vec![1.0; n])];
    let cases = [
        (node("LSTM", &["x"], "y", &[]), vec![], "node \"the LSTM\" (LSTM) has an operator that is not supported"),
        (node("Conv", &["x", "w"], "y", &[("group", Att::I(2))]), w(), "(Conv) has group 2, expected 1"),
        (node("Conv", &["x", "w"], "y", &[("dilations", Att::L(&[2, 2]))]), w(), "(Conv) has dilations [2, 2]"),
        (node("Conv", &["x", "w"], "y", &[("strides", Att::L(&[0, 1]))]), w(), "strides [0, 1], expected 1 to 4096"),
        (node("Conv", &["x", "w"], "y", &[]), w(), "(Conv) has an operand of the shape [2, 3]"),
        (node("Conv", &["x", "w"], "y", &[("kernel_shape", Att::L(&[5, 5]))]), w(), "kernel_shape [5, 5]"),
        (pool(("ceil_mode", Att::I(1))), vec![], "(MaxPool) has ceil_mode 1, expected 0"),
        (pool(("pads", Att::L(&[i64::MAX; 4]))), vec![], "(MaxPool) has pads"),
        (pool(("novel", Att::I(1))), vec![], "(MaxPool) has the attribute \"novel\""),
        (node("Relu", &["z"], "y", &[]), vec![], "(Relu) has the input \"z\", which nothing before it defines"),
        (node("Relu", &["y"], "y", &[]), vec![], "(Relu) has the input \"y\", which nothing before it defines"),
        (node("Relu", &["x"], "x", &[]), vec![], "tensor \"x\" has two definitions"),
        (node("Reshape", &["x", "x"], "y", &[]), vec![], "(Reshape) has the computed input \"x\", expected a constant"),
        (node("Reshape", &["x", "s"], "y", &[]), vec![ints("s", &[5, -1])], "(Reshape) has the shape [5, -1]"),
        (node("Reshape", &["x", "s"], "y", &[]), vec![ints("s", &[1; 99])], "(Reshape) has the shape [1, 1"),
        (node("Transpose", &["x"], "y", &[("perm", Att::L(&[0, 0]))]), vec![], "(Transpose) has perm [0, 0]"),
        (node("Softmax", &["x"], "y", &[("axis", Att::I(0))]), vec![], "(Softmax) has axis 0 of the shape [2, 3]"),
        (node("MatMul", &["x", "w"], "y", &[]), rows(4), "node \"the MatMul\" (MatMul) has operands of the shapes"),
        (node("Add", &["x", "w"], "y", &[]), rows(4), "node \"the Add\" (Add): add"),
        (
            node("Div", &["x", "w"], "y", &[]),
            vec![floats("w", &[], &[0.0])],
            "(Div) has weights without a finite quotient",
        ),
        (node("Relu", &["x"], "y", &[("axis", Att::F(0.0))]), vec![], "(Relu) has the attribute \"axis\""),
        (node("Flatten", &["x"], "y", &[("axis", Att::F(0.0))]), vec![], "the attribute \"axis\" of another type"),
        (node("Relu", &["x", "x"], "y", &[]), vec![], "(Relu) has 2 inputs"),
        (
            node("Relu", &["x"], "y", &[]),
            vec![TensorProto { data_location: 1, ..ints("w", &[1]) }],
            "data in another file",
        ),
        (
            node("Relu", &["x"], "y", &[]),
            vec![TensorProto { dims: vec![3], ..ints("w", &[1]) }],
            "\"w\" has 1 numbers, expected 3",
        ),
        (
            node("Relu", &["x"], "y", &[]),
            vec![TensorProto { dims: vec![i64::MAX; 3], ..ints("w", &[1]) }],
            "\"w\" has the shape [9223",
        ),
        (
            node("Relu", &["x"], "y", &[]),
            vec![TensorProto { data_type: 3, ..ints("w", &[1]) }],
            "\"w\" has data type 3",
        ),
        (node("Relu", &["x"], "y", &[]), vec![floats("w", &[1], &[f64::NAN])], "\"w\" has NaN at index 0"),
        (node("Relu", &["x"], "h", &[]), vec![], "the output \"y\", which no node computes"),
    ];
    for (node, constants, words) in cases {
        let message = refused(node, constants);
        assert!(message.contains(words), "{message:?} should say {words:?}");
    }
}

#[test]
fn refusals_of_the_whole() {
    let message = |change: &dyn Fn(&mut ModelProto)| {
        let mut m = model(vec![node("Relu", &["x"], "y", &[])], vec![]);
        change(&mut m);
        Model::from_bytes(&m.encode_to_vec()).err().map_or(String::new(), |e| e.to_string())
    };
    assert_eq!(message(&|_| ()), "");
    assert!(message(&|m| m.graph = None).contains("no graph"));
    assert!(message(&|m| m.opset_import.clear()).contains("version 0 of the operator set"));
    assert!(message(&|m| m.graph.as_mut().unwrap().input.push(info("x2"))).contains("2 inputs"));
    assert!(message(&|m| m.graph.as_mut().unwrap().output.clear()).contains("0 outputs"));
    assert!(message(&|m| m.graph.as_mut().unwrap().sparse_initializer.push(vec![])).contains("sparse"));
    assert!(message(&|m| m.graph.as_mut().unwrap().node[0].output.push("z".into())).contains("a second result"));
    let many = |m: &mut ModelProto| m.graph.as_mut().unwrap().node = vec![NodeProto::default(); super::MAX_ENTRIES];
    assert!(message(&many).contains("entries, expected at most 262144"));
    assert!(Model::load("/does/not/exist.onnx").unwrap_err().to_string().contains("/does/not/exist.onnx"));

    let wrong = read(vec![node("Relu", &["x"], "y", &[])], vec![]);
    let wide = Options { activation_bound: f64::NAN, ..Options::default() };
    let b = Builder::new();
    let x = b.input("x", "alice", Type::fixed(-X..=X), [2]);
    assert!(wrong.apply(&x, &Weights::Public, &wide).err().unwrap().to_string().contains("activation_bound NaN"));
    let heavy = read(vec![node("Mul", &["x", "w"], "y", &[])], vec![floats("w", &[2], &[1.0, 9.0])]);
    let secret = Weights::Secret { owner: "bob".into() };
    let message = heavy.apply(&x, &secret, &Options::default()).err().unwrap().to_string();
    assert!(message.contains("tensor \"w\" has 9 at index 1, expected numbers within ±8"), "{message}");
}

// --- hostile bytes ----------------------------------------------------------------------

fn sample() -> Vec<u8> {
    bytes(
        vec![
            node("Conv", &["x", "w", "b"], "c", &[("pads", Att::L(&[1; 4])), ("strides", Att::L(&[2, 1]))]),
            node("BatchNormalization", &["c", "b", "b", "b", "v"], "n", &[("epsilon", Att::F(0.1))]),
            node("MaxPool", &["n"], "p", &[("kernel_shape", Att::L(&[2, 2]))]),
            node("Clip", &["p", "lo"], "k", &[]),
            node("Reshape", &["k", "s"], "r", &[]),
            node("Transpose", &["r"], "t", &[("perm", Att::L(&[0, 1]))]),
            node("Gather", &["t", "i"], "g", &[("axis", Att::I(1))]),
            node("Softmax", &["g"], "y", &[]),
        ],
        vec![
            floats("w", &[2, 1, 2, 2], &numbers(1, 8, 1.0)),
            floats("b", &[2], &[0.5, 0.25]),
            floats("v", &[2], &[0.5, 0.25]),
            floats("lo", &[], &[0.0]),
            ints("s", &[2, -1]),
            ints("i", &[1, 0]),
        ],
    )
}

/// Reads, and applies what can be read: neither may panic.
fn survive(bytes: &[u8]) {
    if let Ok(model) = Model::from_bytes(bytes) {
        drop(program(&model, Type::fixed(-X..=X), &[2, 1, 4, 4], &Weights::Public));
    }
}

#[test]
fn the_sample_is_sound() {
    let model = Model::from_bytes(&sample()).unwrap();
    program(&model, Type::fixed(-X..=X), &[2, 1, 4, 4], &Weights::Public).unwrap();
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        survive(&bytes);
        drop(safetensors::from_bytes(&bytes));
    }

    #[test]
    fn mutated_models_never_panic(changes in prop::collection::vec((any::<usize>(), any::<u8>()), 1..6), cut in any::<prop::sample::Index>()) {
        let mut bytes = sample();
        for (at, value) in changes {
            let n = bytes.len();
            bytes[at % n] = value;
        }
        survive(&bytes);
        survive(&bytes[..cut.index(bytes.len())]);
    }

    #[test]
    fn wild_attributes_never_panic(
        op in prop::sample::select(vec!["Conv", "MaxPool", "AveragePool", "Flatten", "Transpose", "Concat", "Gather",
            "Squeeze", "Unsqueeze", "Reshape", "Softmax", "LayerNormalization", "Clip"]),
        list in prop::collection::vec(prop_oneof![any::<i64>(), -7i64..7], 0..7),
        number in prop_oneof![any::<i64>(), -7i64..7],
        dims in prop::collection::vec(1usize..4, 0..6),
    ) {
        let names = ["perm", "pads", "strides", "kernel_shape", "axes"];
        let all: Vec<_> = names.iter().map(|name| (*name, Att::L(&list[..]))).chain([("axis", Att::I(number))]).collect();
        for attribute in &all {
            for inputs in [&["x"][..], &["x", "s"], &["x", "w"]] {
                let one = match attribute { (n, Att::L(l)) => (*n, Att::L(l)), (n, _) => (*n, Att::I(number)) };
                let constants = vec![ints("s", if list.is_empty() { &[1] } else { &list }), floats("w", &[1, 1, 2, 2], &[1.0; 4])];
                let fixed = ("kernel_shape", Att::L(&[2, 2]));
                let attributes = if op.ends_with("Pool") && one.0 != "kernel_shape" { vec![fixed, one] } else { vec![one] };
                if let Ok(model) = Model::from_bytes(&bytes(vec![node(op, inputs, "y", &attributes)], constants)) {
                    drop(program(&model, Type::fixed(-X..=X), &dims, &Weights::Public));
                }
            }
        }
    }
}

// --- safetensors -------------------------------------------------------------------------

fn tensors(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

#[test]
fn safetensors_are_read() {
    let header = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"h":{"dtype":"F16","shape":[1,2],"data_offsets":[8,12]},"b":{"dtype":"BF16","shape":[],"data_offsets":[12,14]},"i":{"dtype":"I64","shape":[1],"data_offsets":[14,22]}}"#;
    let mut data = [1.5f32, -2.0].iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>();
    data.extend([0x3e00u16, 0x0001, 0xc040].iter().flat_map(|v| v.to_le_bytes()));
    data.extend((-7i64).to_le_bytes());
    let read = safetensors::from_bytes(&tensors(header, &data)).unwrap();
    assert_eq!((read["a"].shape.as_slice(), read["a"].values.as_slice()), (&[2][..], &[1.5, -2.0][..]));
    assert_eq!((read["h"].shape.as_slice(), read["h"].values.as_slice()), (&[1, 2][..], &[1.5, 2f64.powi(-24)][..]));
    assert_eq!((read["b"].shape.len(), read["b"].values[0], read["i"].values[0]), (0, -3.0, -7.0));
}

#[test]
fn safetensors_are_refused() {
    let one = |dtype: &str, shape: &str, data: &[u8]| {
        let header = format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[0,{}]}}}}"#, data.len());
        safetensors::from_bytes(&tensors(&header, data)).unwrap_err().to_string()
    };
    for (message, words) in [
        (one("U8", "[2]", &[0; 2]), "tensor \"a\" has the type U8"),
        (one("F32", "[1]", &f32::NAN.to_le_bytes()), "tensor \"a\" has no usable number at index 0"),
        (one("I64", "[1]", &i64::MAX.to_le_bytes()), "tensor \"a\" has no usable number at index 0"),
        (one("F32", "[0]", &[]), "tensor \"a\" has the shape [0]"),
        (one("F32", "[2]", &[0; 4]), "not a safetensors file"),
        (one("F32", "[4294967296,4294967296,4]", &[0; 4]), "not a safetensors file"),
    ] {
        assert!(message.contains(words) && !message.contains('\n'), "{message}");
    }
}
