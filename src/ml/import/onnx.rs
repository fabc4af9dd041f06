//! From bytes to a checked graph: names resolved, constants read, attributes
//! understood. Shapes of values are known only when the model is applied.

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

use prost::Message;

use super::operator::{Known, Literal, Operator, Reading, Refusal, brief, refusal, shown};
use super::proto::{GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, census};
use super::{
    ImportError, MAX_ENTRIES, MAX_NAME, MAX_NUMBERS, SHAPE, Values, bfloat, elements, half, read, refuse_large,
};

/// The operator sets that are understood.
const OPSETS: std::ops::RangeInclusive<i64> = 7..=28;

/// A checked ONNX graph with one input and one output.
///
/// Operators: `MatMul`, `Gemm`, `Conv` (2-D, one group, no dilation), `Relu`,
/// `Sigmoid`, `Tanh`, `Gelu` (the exact one; `approximate = tanh` is computed as
/// it, at most 5e-4 apart), `Softmax` and `LayerNormalization` along the last
/// axis, `MaxPool`, `AveragePool`, `GlobalAveragePool`, `Add`, `Sub`, `Mul`,
/// `Div`, `Reshape`, `Flatten`, `Transpose`, `Concat`, `BatchNormalization`
/// (folded into a scale and a shift), `Gather` (rows of a constant table by secret
/// indices that are integers from 0 on, or constant indices into a value),
/// `Clip`, `Squeeze`, `Unsqueeze`, `Constant`, and `Identity` and `Dropout`,
/// which do nothing. Everything else is an error that names the node.
///
/// Weights are read as f64, f32, f16 or bf16. A model of more than
/// [`MAX_BYTES`](super::MAX_BYTES) bytes, [`MAX_ENTRIES`] nodes, names,
/// attributes and tensors, or [`MAX_NUMBERS`] numbers is refused.
#[derive(Clone, Debug)]
pub struct Model {
    pub(super) input: String,
    pub(super) input_shape: Option<Vec<Option<usize>>>,
    pub(super) output: String,
    pub(super) weights: Vec<(String, Rc<Values>)>,
    pub(super) steps: Vec<Step>,
    pub(super) result: Operand,
}

/// One operation of a model.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub node: String,
    pub op: String,
    pub operator: Operator,
    pub operands: Vec<Operand>,
}

/// What a step computes with: 0 is the model's input, k the result of step k − 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operand {
    Value(usize),
    Weight(usize),
}

impl Model {
    /// Reads a file; as [`Model::from_bytes`].
    pub fn load(path: impl AsRef<Path>) -> Result<Self, ImportError> {
        read(path.as_ref(), Self::from_bytes)
    }

    /// Reads the bytes of an ONNX file with its weights inside.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ImportError> {
        let garbled = |e: prost::DecodeError| ImportError::Bytes { expected: "an ONNX model", found: e.to_string() };
        refuse_large(bytes)?;
        let found = census(bytes).map_err(garbled)?;
        if found > MAX_ENTRIES {
            return Err(ImportError::Limit { what: "entries", found: found as u64, max: MAX_ENTRIES as u64 });
        }
        let model = ModelProto::decode(bytes).map_err(garbled)?;
        let default = |domain: &str| domain.is_empty() || domain == "ai.onnx";
        let opset = model.opset_import.iter().find(|set| default(&set.domain)).map_or(0, |set| set.version);
        if !OPSETS.contains(&opset) {
            let found = format!("version {opset} of the operator set");
            return Err(ImportError::Graph { found, expected: "7 to 28: export with another opset_version".into() });
        }
        let graph =
            model.graph.ok_or_else(|| ImportError::Bytes { expected: "an ONNX model", found: "no graph".into() })?;
        Graph::new(opset).read(&graph)
    }

    /// The name of the graph's input.
    pub fn input(&self) -> &str {
        &self.input
    }
    /// The name of the graph's output.
    pub fn output(&self) -> &str {
        &self.output
    }
    /// The input's dimensions as the file declares them, where it does;
    /// an open one, mostly the batch, is `None`.
    pub fn input_shape(&self) -> Option<&[Option<usize>]> {
        self.input_shape.as_deref()
    }
    /// The weights by name, as a program with secret weights takes them: the
    /// initializers that are computed with, row-major. Where a node is simplified
    /// its weights are what is left of them: `NAME.scale` and `NAME.shift` of a
    /// `BatchNormalization` with the result NAME, `NAME.reciprocal` of a divisor.
    pub fn weights(&self) -> BTreeMap<String, Vec<f64>> {
        self.weights.iter().map(|(name, weight)| (name.clone(), weight.values.clone())).collect()
    }
}

/// A graph that is being read.
pub(super) struct Graph {
    pub opset: i64,
    /// everything that has a name, up to the node that is read
    known: BTreeMap<String, Known>,
    weights: Vec<(String, Rc<Values>)>,
    weight_ids: BTreeMap<String, usize>,
    steps: Vec<Step>,
    /// numbers that may still come
    room: usize,
}

impl Graph {
    fn new(opset: i64) -> Self {
        Self {
            opset,
            known: BTreeMap::new(),
            weights: Vec::new(),
            weight_ids: BTreeMap::new(),
            steps: Vec::new(),
            room: MAX_NUMBERS,
        }
    }

    fn read(mut self, graph: &GraphProto) -> Result<Model, ImportError> {
        if !graph.sparse_initializer.is_empty() {
            let found = format!("{} sparse initializers", graph.sparse_initializer.len());
            return Err(ImportError::Graph { found, expected: "dense ones: export the weights dense".into() });
        }
        for tensor in &graph.initializer {
            let literal = self.literal(tensor)?;
            self.define(&tensor.name, Known::Literal(Rc::new(literal), tensor.name.clone()))?;
        }
        // Old files name their initializers among the inputs.
        let inputs: Vec<_> = graph.input.iter().filter(|info| !self.known.contains_key(&info.name)).collect();
        let [input] = inputs[..] else {
            let found = format!("{} inputs", inputs.len());
            return Err(ImportError::Graph {
                found,
                expected: "one: split the model, or make the others weights".into(),
            });
        };
        let [output] = &graph.output[..] else {
            let found = format!("{} outputs", graph.output.len());
            return Err(ImportError::Graph { found, expected: "one: export the model with one result".into() });
        };
        let input_shape = declared_shape(input)?;
        self.define(&input.name, Known::Value(0))?;
        for node in &graph.node {
            self.node(node)?;
        }
        let result = match self.known.get(&output.name) {
            Some(Known::Value(id)) => Operand::Value(*id),
            _ => {
                let found = format!("the output {:?}, which no node computes", shown(&output.name));
                return Err(ImportError::Graph { found, expected: "the result of a node".into() });
            }
        };
        Ok(Model {
            input: input.name.clone(),
            input_shape,
            output: output.name.clone(),
            weights: self.weights,
            steps: self.steps,
            result,
        })
    }

    fn define(&mut self, name: &str, known: Known) -> Result<(), ImportError> {
        let refused = |found: &str, expected: &str| ImportError::Tensor {
            name: shown(name),
            found: found.into(),
            expected: expected.into(),
        };
        if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
            return Err(refused("an unusable name", "1 to 256 bytes without control characters: rename it"));
        }
        match self.known.insert(name.to_owned(), known) {
            None => Ok(()),
            Some(_) => Err(refused("two definitions", "each name once: export the model again")),
        }
    }

    fn node(&mut self, node: &NodeProto) -> Result<(), ImportError> {
        let first = node.output.first().map_or("", String::as_str);
        let label = if node.name.is_empty() { first } else { &node.name };
        // It becomes the name of a declaration.
        let label = if label.is_empty() { format!("number {}", self.steps.len()) } else { shown(label) };
        let op = shown(&node.op_type);
        let refused = |Refusal { found, expected }: Refusal| ImportError::Node {
            node: label.clone(),
            op: op.clone(),
            found,
            expected,
        };
        let more = node.output.iter().skip(1).find(|name| !name.is_empty());
        if let Some(more) = more
            && node.op_type != "Dropout"
        {
            let found = format!("a second result, {:?}", shown(more));
            return Err(refused(refusal(found, "one: export the model for inference")));
        }
        let reading = Reading::new(self, node).map_err(&refused)?;
        let known = match reading.read().map_err(&refused)? {
            super::operator::Read::Same(known) => known,
            super::operator::Read::Constant(tensor) => {
                let tensor = TensorProto { name: first.to_owned(), ..tensor };
                Known::Literal(Rc::new(self.literal(&tensor)?), first.to_owned())
            }
            super::operator::Read::Step(operator, operands) => {
                self.steps.push(Step { node: label.clone(), op: op.clone(), operator, operands });
                Known::Value(self.steps.len())
            }
        };
        self.define(first, known)
    }

    /// What a name stands for.
    pub fn known(&self, name: &str) -> Option<&Known> {
        self.known.get(name)
    }

    /// A constant that is computed with.
    pub fn weight(&mut self, name: &str, values: &Rc<Values>) -> Operand {
        if let Some(id) = self.weight_ids.get(name) {
            return Operand::Weight(*id);
        }
        let id = self.weights.len();
        self.weights.push((name.to_owned(), values.clone()));
        self.weight_ids.insert(name.to_owned(), id);
        Operand::Weight(id)
    }

    /// A constant made of others, under a name that is not taken.
    pub fn derived(&mut self, name: String, values: Values) -> Result<Operand, Refusal> {
        let refused = |found: String, expected| Err(refusal(found, expected));
        if self.known.contains_key(&name) || name.len() > MAX_NAME {
            return refused(
                format!("the weight {:?} besides", shown(&name)),
                "a short name that is not taken: rename it",
            );
        }
        if let Some(i) = values.values.iter().position(|v| !v.is_finite()) {
            return refused(format!("weights without a finite quotient at index {i}"), "no division by 0");
        }
        self.room = match self.room.checked_sub(values.values.len()) {
            Some(room) => room,
            None => return refused("too many weights".into(), "at most 67108864 numbers"),
        };
        Ok(self.weight(&name, &Rc::new(values)))
    }

    fn literal(&mut self, tensor: &TensorProto) -> Result<Literal, ImportError> {
        let literal = read_literal(tensor, self.room).map_err(|Refusal { found, expected }| ImportError::Tensor {
            name: shown(&tensor.name),
            found,
            expected,
        })?;
        self.room -= literal.values.values.len();
        Ok(literal)
    }
}

/// The dimensions of the graph's input, `None` if there are none declared.
fn declared_shape(info: &ValueInfoProto) -> Result<Option<Vec<Option<usize>>>, ImportError> {
    let tensor = info.r#type.as_ref().and_then(|ty| ty.tensor_type.as_ref());
    let Some(shape) = tensor.and_then(|tensor| tensor.shape.as_ref()) else { return Ok(None) };
    // Exporters write −1 or 0 for what is open.
    let dims: Vec<Option<u64>> =
        shape.dim.iter().map(|d| d.dim_value.and_then(|v| u64::try_from(v).ok()).filter(|v| *v > 0)).collect();
    match elements(dims.iter().map(|d| d.unwrap_or(1))) {
        Some(_) => Ok(Some(dims.into_iter().map(|d| d.map(|d| d as usize)).collect())),
        None => Err(ImportError::Tensor {
            name: shown(&info.name),
            found: format!("the shape {:.200}", format!("{dims:?}")),
            expected: SHAPE.into(),
        }),
    }
}

/// A constant tensor of at most `room` numbers.
fn read_literal(tensor: &TensorProto, room: usize) -> Result<Literal, Refusal> {
    if tensor.data_location != 0 {
        return Err(refusal("its data in another file", "weights inside: save the model without external data"));
    }
    let dims = tensor.dims.iter().map(|d| u64::try_from(*d).unwrap_or(0));
    let Some((shape, count)) = elements(dims) else {
        return Err(refusal(format!("the shape {}", brief(&tensor.dims)), SHAPE));
    };
    if count > room {
        return Err(refusal(format!("{count} numbers"), format!("at most {room} more in this model")));
    }
    let raw = tensor.raw_data.as_deref();
    let (values, integer): (Vec<f64>, bool) = match (tensor.data_type, raw) {
        (1, Some(raw)) => (words(raw, |b| f32::from_le_bytes(b).into())?, false),
        (1, None) => (tensor.float_data.iter().map(|v| f64::from(*v)).collect(), false),
        (11, Some(raw)) => (words(raw, f64::from_le_bytes)?, false),
        (11, None) => (tensor.double_data.clone(), false),
        (10, Some(raw)) => (words(raw, |b| half(u16::from_le_bytes(b)))?, false),
        (10, None) => (tensor.int32_data.iter().map(|v| half(*v as u16)).collect(), false),
        (16, Some(raw)) => (words(raw, |b| bfloat(u16::from_le_bytes(b)))?, false),
        (16, None) => (tensor.int32_data.iter().map(|v| bfloat(*v as u16)).collect(), false),
        (7, Some(raw)) => (words(raw, |b| i64::from_le_bytes(b) as f64)?, true),
        (7, None) => (tensor.int64_data.iter().map(|v| *v as f64).collect(), true),
        (6, Some(raw)) => (words(raw, |b| i32::from_le_bytes(b).into())?, true),
        (9, Some(raw)) => (raw.iter().map(|b| f64::from(*b)).collect(), true),
        (6 | 9, None) => (tensor.int32_data.iter().map(|v| f64::from(*v)).collect(), true),
        (other, _) => {
            let expected = "FLOAT, DOUBLE, FLOAT16, BFLOAT16, INT32, INT64 or BOOL: export without quantisation";
            return Err(refusal(format!("data type {other}"), expected));
        }
    };
    if values.len() != count {
        return Err(refusal(format!("{} numbers", values.len()), format!("{count} for its shape {shape:?}")));
    }
    let usable = |v: &f64| v.is_finite() && (!integer || v.abs() <= 2f64.powi(53));
    if let Some(i) = values.iter().position(|v| !usable(v)) {
        return Err(refusal(format!("{} at index {i}", values[i]), "finite numbers, integers within 2^53"));
    }
    Ok(Literal { values: Rc::new(Values { shape, values }), integer })
}

/// Little-endian words of N bytes.
fn words<const N: usize>(raw: &[u8], read: impl Fn([u8; N]) -> f64) -> Result<Vec<f64>, Refusal> {
    match raw.as_chunks::<N>() {
        (words, []) => Ok(words.iter().map(|word| read(*word)).collect()),
        _ => Err(refusal(format!("{} bytes", raw.len()), format!("a multiple of {N}"))),
    }
}
