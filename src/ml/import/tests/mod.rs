//! Models made here with a tiny encoder, for both files of tests.

mod operators;
mod refusals;

use std::collections::BTreeMap;

use prost::Message;

use super::proto::*;
use super::{ImportError, Model, Options, Weights};
use crate::program::random::Choices;
use crate::program::{Builder, Program, Type};

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

/// The message for one node and constants, when read or applied to [2, 3].
fn refused(node: NodeProto, constants: Vec<TensorProto>) -> String {
    let read = Model::from_bytes(&bytes(vec![node], constants));
    let applied = read.and_then(|m| program(&m, Type::fixed(-X..=X), &[2, 3], &Weights::Public));
    let message = applied.err().map_or(String::new(), |e| e.to_string());
    assert!(!message.contains('\n'), "{message}");
    message
}
