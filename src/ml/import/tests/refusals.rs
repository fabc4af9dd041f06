//! What is refused, in which words; and hostile bytes.

use proptest::prelude::*;

use super::super::{MAX_ENTRIES, safetensors};
use super::*;

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
    let many = |m: &mut ModelProto| m.graph.as_mut().unwrap().node = vec![NodeProto::default(); MAX_ENTRIES];
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
