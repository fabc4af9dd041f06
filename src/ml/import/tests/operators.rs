//! Every operator against plain numbers.

use super::*;
use crate::job::local;
use crate::roster::Roster;

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

/// Before version 13 axes, and before 11 bounds, are attributes.
#[test]
fn older_operator_sets() {
    let nodes = vec![
        node("Clip", &["x"], "c", &[("min", Att::F(-1.0))]),
        node("Unsqueeze", &["c"], "u", &[("axes", Att::L(&[0]))]),
        node("Squeeze", &["u"], "s", &[("axes", Att::L(&[0]))]),
        node("Softmax", &["s"], "y", &[]),
    ];
    let mut old = model(nodes, vec![]);
    old.opset_import[0].version = 9;
    let old = Model::from_bytes(&old.encode_to_vec()).unwrap();
    let x = [2.0, -3.0];
    let powers = [2f64.exp(), (-1f64).exp()];
    close(&dry(&old, &[1, 2], &x), &powers.map(|p| p / (powers[0] + powers[1])), 2e-3);
}
