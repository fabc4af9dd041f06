//! One node: its operator, its attributes, and which of its inputs are part of
//! the graph (shapes, axes, bounds) rather than numbers to compute with.

use std::rc::Rc;

use super::Values;
use super::onnx::{Graph, Operand};
use super::proto::{AttributeProto, NodeProto, TensorProto};

/// What is wrong with something that the caller can name.
#[derive(Debug)]
pub(super) struct Refusal {
    pub found: String,
    pub expected: String,
}

pub(super) fn refusal(found: impl Into<String>, expected: impl Into<String>) -> Refusal {
    Refusal { found: found.into(), expected: expected.into() }
}

/// Foreign text for a message: short, on one line.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(80).map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// The first of foreign numbers, for a message.
pub(super) fn brief(numbers: &[i64]) -> String {
    let first = numbers.iter().take(8).map(i64::to_string).collect::<Vec<_>>().join(", ");
    if numbers.len() > 8 { format!("[{first}, …]") } else { format!("[{first}]") }
}

/// A constant tensor.
#[derive(Clone, Debug)]
pub(super) struct Literal {
    pub values: Rc<Values>,
    pub integer: bool,
}

/// What a name stands for.
#[derive(Clone, Debug)]
pub(super) enum Known {
    /// the input, or the result of a step
    Value(usize),
    /// a constant, and the name under which it was first known
    Literal(Rc<Literal>, String),
}

/// What a node comes to.
pub(super) enum Read {
    /// nothing: its result is its input
    Same(Known),
    /// a constant
    Constant(TensorProto),
    /// a step
    Step(Operator, Vec<Operand>),
}

/// An operation with all that is public about it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Operator {
    MatMul,
    Gemm {
        transposed: [bool; 2],
        alpha: f64,
        beta: f64,
    },
    Conv(Sliding),
    Relu,
    Sigmoid,
    Tanh,
    Gelu,
    Softmax {
        axis: i64,
    },
    MaxPool(Sliding),
    AveragePool {
        sliding: Sliding,
        padding_counts: bool,
    },
    GlobalAveragePool,
    Add,
    Sub,
    Mul,
    Div,
    Reshape {
        dims: Vec<i64>,
        zero_copies: bool,
    },
    Flatten {
        axis: i64,
    },
    Transpose {
        order: Option<Vec<i64>>,
    },
    Concat {
        axis: i64,
    },
    /// x·scale + shift for each channel
    Scale,
    LayerNormalization {
        axis: i64,
    },
    /// rows of a table by secret indices
    Embedding,
    /// public indices of an axis; one that is no list drops the axis
    Pick {
        axis: i64,
        indices: Vec<i64>,
        shape: Vec<usize>,
    },
    Clip {
        least: Option<f64>,
        most: Option<f64>,
    },
    /// all axes of length 1 without a list
    Squeeze {
        axes: Option<Vec<i64>>,
    },
    Unsqueeze {
        axes: Vec<i64>,
    },
}

/// Where the window of a convolution or a pool lies.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sliding {
    pub size: [usize; 2],
    pub stride: [usize; 2],
    pub padding: Padding,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Padding {
    /// above, left, below, right
    Given([usize; 4]),
    /// as many as keep length / stride places; of an odd number, the odd one first
    Same { first: bool },
}

/// The most places under a window, zeros on a side, and steps of a stride.
const MAX_WINDOW: i64 = 4096;
/// Above this a layer norm's ε is no longer small beside the least variance.
const MAX_EPSILON: f64 = 1e-3;
/// The most rows of a table that secret indices point into: one comparison tells
/// them apart.
const MAX_ROWS: usize = crate::program::MAX_THRESHOLDS + 1;
/// The most constant indices of a `Gather`.
const MAX_PICKS: usize = 4096;

/// A node that is being read.
pub(super) struct Reading<'a> {
    graph: &'a mut Graph,
    node: &'a NodeProto,
    attributes: Vec<&'a AttributeProto>,
}

impl<'a> Reading<'a> {
    pub fn new(graph: &'a mut Graph, node: &'a NodeProto) -> Result<Self, Refusal> {
        if !node.domain.is_empty() && node.domain != "ai.onnx" {
            return Err(refusal(format!("the domain {:?}", shown(&node.domain)), "ONNX's own operators"));
        }
        for name in node.input.iter().filter(|name| !name.is_empty()) {
            if graph.known(name).is_none() {
                return Err(refusal(
                    format!("the input {:?}, which nothing before it defines", shown(name)),
                    "an initializer, the graph's input or the result of an earlier node: sort the graph",
                ));
            }
        }
        Ok(Self { graph, node, attributes: node.attribute.iter().collect() })
    }

    pub fn read(mut self) -> Result<Read, Refusal> {
        let read = self.operator()?;
        match self.attributes.first() {
            None => Ok(read),
            Some(left) => Err(refusal(
                format!("the attribute {:?}", shown(&left.name)),
                "only attributes that this operator has here: export without it",
            )),
        }
    }

    fn operator(&mut self) -> Result<Read, Refusal> {
        let step = |operator, operands| Ok(Read::Step(operator, operands));
        match self.node.op_type.as_str() {
            "MatMul" => step(Operator::MatMul, self.operands(2..=2)?),
            "Add" => step(Operator::Add, self.operands(2..=2)?),
            "Sub" => step(Operator::Sub, self.operands(2..=2)?),
            "Mul" => step(Operator::Mul, self.operands(2..=2)?),
            "Div" => self.division(),
            "Relu" => step(Operator::Relu, self.operands(1..=1)?),
            "Sigmoid" => step(Operator::Sigmoid, self.operands(1..=1)?),
            "Tanh" => step(Operator::Tanh, self.operands(1..=1)?),
            "Gelu" => {
                self.one_of("approximate", &["none", "tanh"])?;
                step(Operator::Gelu, self.operands(1..=1)?)
            }
            "Softmax" => {
                let axis = self.int("axis", if self.graph.opset < 13 { 1 } else { -1 })?;
                step(Operator::Softmax { axis }, self.operands(1..=1)?)
            }
            "Gemm" => {
                let transposed = [self.flag("transA", false)?, self.flag("transB", false)?];
                let [alpha, beta] = [self.float("alpha", 1.0)?, self.float("beta", 1.0)?];
                step(Operator::Gemm { transposed, alpha, beta }, self.operands(2..=3)?)
            }
            "Conv" => self.convolution(),
            "MaxPool" => {
                let sliding = self.sliding(None)?;
                self.must_be("ceil_mode", 0)?;
                self.must_be("storage_order", 0)?;
                step(Operator::MaxPool(sliding), self.operands(1..=1)?)
            }
            "AveragePool" => {
                let sliding = self.sliding(None)?;
                self.must_be("ceil_mode", 0)?;
                let padding_counts = self.flag("count_include_pad", false)?;
                step(Operator::AveragePool { sliding, padding_counts }, self.operands(1..=1)?)
            }
            "GlobalAveragePool" => step(Operator::GlobalAveragePool, self.operands(1..=1)?),
            "Reshape" => {
                self.count(2..=2)?;
                let (dims, zero_copies) = (self.integers(1)?, !self.flag("allowzero", false)?);
                step(Operator::Reshape { dims, zero_copies }, vec![self.operand(0)?])
            }
            "Flatten" => {
                let axis = self.int("axis", 1)?;
                step(Operator::Flatten { axis }, self.operands(1..=1)?)
            }
            "Transpose" => {
                let order = self.ints("perm")?;
                step(Operator::Transpose { order }, self.operands(1..=1)?)
            }
            "Concat" => {
                let axis = self.attribute("axis", 2)?.and_then(|a| a.i);
                let axis = axis.ok_or_else(|| refusal("no attribute \"axis\"", "the axis to join along"))?;
                step(Operator::Concat { axis }, self.operands(1..=usize::MAX)?)
            }
            "BatchNormalization" => self.batch_normalization(),
            "LayerNormalization" => {
                let (axis, epsilon) = (self.int("axis", -1)?, self.float("epsilon", 1e-5)?);
                self.attribute("stash_type", 2)?;
                if !(0.0..=MAX_EPSILON).contains(&epsilon) {
                    return Err(refusal(format!("epsilon {epsilon}"), "0 to 0.001: smaller than any variance"));
                }
                step(Operator::LayerNormalization { axis }, self.operands(2..=3)?)
            }
            "Gather" => self.gather(),
            "Clip" => {
                self.count(1..=3)?;
                let bounds = if self.graph.opset < 11 {
                    // Absent bounds are the ends of f32.
                    [self.float("min", f32::MIN.into())?, self.float("max", f32::MAX.into())?].map(Some)
                } else {
                    [self.number(1)?, self.number(2)?]
                };
                let [least, most] = bounds;
                if let (Some(a), Some(b)) = (least, most)
                    && a > b
                {
                    return Err(refusal(format!("the bounds {a} and {b}"), "the lesser first"));
                }
                step(Operator::Clip { least, most }, vec![self.operand(0)?])
            }
            "Squeeze" => {
                let axes = self.axes()?;
                step(Operator::Squeeze { axes }, vec![self.operand(0)?])
            }
            "Unsqueeze" => {
                let axes = self.axes()?.ok_or_else(|| refusal("no axes", "where to put axes of length 1"))?;
                step(Operator::Unsqueeze { axes }, vec![self.operand(0)?])
            }
            "Identity" => {
                self.count(1..=1)?;
                Ok(Read::Same(self.input(0)?))
            }
            "Dropout" => {
                self.count(1..=3)?;
                self.attributes.retain(|a| !["ratio", "seed", "is_test"].contains(&a.name.as_str()));
                match self.number(2)? {
                    None | Some(0.0) => Ok(Read::Same(self.input(0)?)),
                    Some(_) => Err(refusal("training_mode 1", "0: export the model for inference")),
                }
            }
            "Constant" => self.constant(),
            _ => Err(refusal(
                "an operator that is not supported",
                "one of those that ml::import::Model lists: replace it in the model, or export with a newer opset",
            )),
        }
    }

    // --- operators that need more than a line ---------------------------------

    /// By a constant: the product with its reciprocal.
    fn division(&mut self) -> Result<Read, Refusal> {
        self.count(2..=2)?;
        let Known::Literal(literal, name) = self.input(1)? else {
            return Ok(Read::Step(Operator::Div, self.operands(2..=2)?));
        };
        let values = literal.values.values.iter().map(|v| 1.0 / v).collect();
        let reciprocal = Values { shape: literal.values.shape.clone(), values };
        let operands = vec![self.operand(0)?, self.graph.derived(format!("{name}.reciprocal"), reciprocal)?];
        Ok(Read::Step(Operator::Mul, operands))
    }

    fn convolution(&mut self) -> Result<Read, Refusal> {
        self.count(2..=3)?;
        let literal = self.literal(1)?;
        let [_, _, rows, columns] = literal.values.shape[..] else {
            return Err(refusal(
                format!("weights of the shape {:?}", literal.values.shape),
                "[out, in, rows, columns]: convolutions of images only",
            ));
        };
        self.must_be("group", 1)?;
        let sliding = self.sliding(Some([rows, columns]))?;
        Ok(Read::Step(Operator::Conv(sliding), self.operands(2..=3)?))
    }

    /// γ(x − μ)/√(σ² + ε) + β = x·scale + shift.
    fn batch_normalization(&mut self) -> Result<Read, Refusal> {
        self.count(5..=5)?;
        let epsilon = self.float("epsilon", 1e-5)?;
        self.attribute("momentum", 1)?;
        self.must_be("training_mode", 0)?;
        self.must_be("spatial", 1)?;
        let [gain, bias, mean, variance] = [self.literal(1)?, self.literal(2)?, self.literal(3)?, self.literal(4)?];
        let shape = &gain.values.shape;
        for literal in [&gain, &bias, &mean, &variance] {
            if literal.values.shape.len() != 1 || literal.values.shape != *shape {
                let found = format!("parameters of the shapes {shape:?} and {:?}", literal.values.shape);
                return Err(refusal(found, "four vectors of one length"));
            }
        }
        if let Some(v) = variance.values.values.iter().find(|v| **v + epsilon <= 0.0) {
            return Err(refusal(format!("the variance {v}"), "variances above 0"));
        }
        let scale: Vec<f64> =
            gain.values.values.iter().zip(&variance.values.values).map(|(g, v)| g / (v + epsilon).sqrt()).collect();
        let shift =
            bias.values.values.iter().zip(&mean.values.values).zip(&scale).map(|((b, m), s)| b - m * s).collect();
        let name = self.node.output.first().cloned().unwrap_or_default();
        let derived = [("scale", scale), ("shift", shift)];
        let mut operands = vec![self.operand(0)?];
        for (kind, values) in derived {
            operands.push(self.graph.derived(format!("{name}.{kind}"), Values { shape: shape.clone(), values })?);
        }
        Ok(Read::Step(Operator::Scale, operands))
    }

    fn gather(&mut self) -> Result<Read, Refusal> {
        self.count(2..=2)?;
        let axis = self.int("axis", 0)?;
        match (self.input(0)?, self.input(1)?) {
            (Known::Literal(table, _), Known::Value(_)) => {
                if table.values.shape.len() != 2 || axis != 0 {
                    let found = format!("axis {axis} of a table of the shape {:?}", table.values.shape);
                    return Err(refusal(found, "axis 0 of [rows, columns]"));
                }
                let rows = table.values.shape[0];
                if rows > MAX_ROWS {
                    return Err(refusal(format!("a table of {rows} rows"), format!("at most {MAX_ROWS}: split it")));
                }
                Ok(Read::Step(Operator::Embedding, self.operands(2..=2)?))
            }
            (_, Known::Literal(indices, _)) => {
                let shape = indices.values.shape.clone();
                if !indices.integer || shape.len() > 1 || indices.values.values.len() > MAX_PICKS {
                    let found = format!("indices of the shape {shape:?}");
                    return Err(refusal(found, format!("one integer, or a list of at most {MAX_PICKS}")));
                }
                let indices = indices.values.values.iter().map(|v| *v as i64).collect();
                Ok(Read::Step(Operator::Pick { axis, indices, shape }, vec![self.operand(0)?]))
            }
            (Known::Value(_), Known::Value(_)) => {
                Err(refusal("a computed table and computed indices", "a constant table, or constant indices"))
            }
        }
    }

    fn constant(&mut self) -> Result<Read, Refusal> {
        self.count(0..=0)?;
        let [attribute] = self.attributes[..] else {
            return Err(refusal(format!("{} attributes", self.attributes.len()), "one: the value"));
        };
        self.attributes.clear();
        let tensor = |dims: Vec<i64>, data_type| TensorProto { dims, data_type, ..TensorProto::default() };
        let listed = |n: usize| vec![n as i64];
        Ok(Read::Constant(match (attribute.name.as_str(), attribute) {
            ("value", AttributeProto { t: Some(t), .. }) => t.clone(),
            ("value_float", AttributeProto { f: Some(f), .. }) => {
                TensorProto { float_data: vec![*f], ..tensor(vec![], 1) }
            }
            ("value_floats", a) => TensorProto { float_data: a.floats.clone(), ..tensor(listed(a.floats.len()), 1) },
            ("value_int", AttributeProto { i: Some(i), .. }) => {
                TensorProto { int64_data: vec![*i], ..tensor(vec![], 7) }
            }
            ("value_ints", a) => TensorProto { int64_data: a.ints.clone(), ..tensor(listed(a.ints.len()), 7) },
            (other, _) => {
                let found = format!("the attribute {:?}", shown(other));
                return Err(refusal(found, "value, value_float, value_floats, value_int or value_ints"));
            }
        }))
    }

    /// The window, its stride and what surrounds the image. The size is that of
    /// the weights, if there are any.
    fn sliding(&mut self, weights: Option<[usize; 2]>) -> Result<Sliding, Refusal> {
        let range = |name: &str, v: &[i64], least: i64| {
            let most = MAX_WINDOW;
            match v.iter().all(|v| (least..=most).contains(v)) {
                true => Ok(v.iter().map(|v| *v as usize).collect::<Vec<_>>()),
                false => Err(refusal(format!("{name} {}", brief(v)), format!("{least} to {most} each"))),
            }
        };
        let pair = |name: &str, v: Vec<i64>| -> Result<[usize; 2], Refusal> {
            let found = format!("{name} of {} numbers", v.len());
            range(name, &v, 1)?.try_into().map_err(|_| refusal(found, "two: windows over images only"))
        };
        let size = self.ints("kernel_shape")?.map(|v| pair("kernel_shape", v)).transpose()?;
        let size = match (size, weights) {
            (Some(size), Some(weights)) if size != weights => {
                return Err(refusal(format!("kernel_shape {size:?}"), format!("{weights:?}, as the weights have it")));
            }
            (Some(size), _) | (None, Some(size)) => size,
            (None, None) => return Err(refusal("no attribute \"kernel_shape\"", "the size of the window")),
        };
        if size[0].saturating_mul(size[1]) > MAX_WINDOW as usize {
            return Err(refusal(format!("a window of {size:?}"), format!("at most {MAX_WINDOW} places under it")));
        }
        let stride = self.ints("strides")?.map_or(Ok([1; 2]), |v| pair("strides", v))?;
        if let Some(dilations) = self.ints("dilations")?
            && dilations.iter().any(|d| *d != 1)
        {
            return Err(refusal(format!("dilations {}", brief(&dilations)), "1: windows without gaps"));
        }
        let kind = self.one_of("auto_pad", &["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"])?;
        let pads = self.ints("pads")?;
        let padding = match kind {
            "SAME_UPPER" => Padding::Same { first: false },
            "SAME_LOWER" => Padding::Same { first: true },
            "VALID" => Padding::Given([0; 4]),
            _ => {
                let pads = pads.unwrap_or_else(|| vec![0; 4]);
                let found = format!("pads of {} numbers", pads.len());
                let pads = range("pads", &pads, 0)?.try_into().map_err(|_| refusal(found, "four"))?;
                Padding::Given(pads)
            }
        };
        Ok(Sliding { size, stride, padding })
    }

    // --- inputs ------------------------------------------------------------------

    fn count(&self, expected: std::ops::RangeInclusive<usize>) -> Result<(), Refusal> {
        let found = self.node.input.len();
        match expected.contains(&found) {
            true => Ok(()),
            false => {
                Err(refusal(format!("{found} inputs"), format!("at least {}, no more than it has", expected.start())))
            }
        }
    }

    fn input(&self, i: usize) -> Result<Known, Refusal> {
        let name = self.node.input.get(i).map_or("", String::as_str);
        self.graph
            .known(name)
            .cloned()
            .ok_or_else(|| refusal(format!("no input {i}"), "one: only the last may be left out"))
    }

    /// An input to compute with.
    fn operand(&mut self, i: usize) -> Result<Operand, Refusal> {
        Ok(match self.input(i)? {
            Known::Value(id) => Operand::Value(id),
            Known::Literal(literal, name) => self.graph.weight(&name, &literal.values),
        })
    }

    /// All inputs, none left out but at the end.
    fn operands(&mut self, expected: std::ops::RangeInclusive<usize>) -> Result<Vec<Operand>, Refusal> {
        self.count(expected)?;
        let given = self.node.input.iter().rposition(|name| !name.is_empty()).map_or(0, |last| last + 1);
        (0..given).map(|i| self.operand(i)).collect()
    }

    /// An input that has to be a constant.
    fn literal(&self, i: usize) -> Result<Rc<Literal>, Refusal> {
        match self.input(i)? {
            Known::Literal(literal, _) => Ok(literal),
            Known::Value(_) => {
                let found = format!("the computed input {:?}", shown(&self.node.input[i]));
                Err(refusal(found, "a constant there: export with constant shapes and weights"))
            }
        }
    }

    fn integers(&self, i: usize) -> Result<Vec<i64>, Refusal> {
        let literal = self.literal(i)?;
        if !literal.integer || literal.values.shape.len() > 1 {
            let found = format!("the input {:?} of the shape {:?}", shown(&self.node.input[i]), literal.values.shape);
            return Err(refusal(found, "a list of integers"));
        }
        Ok(literal.values.values.iter().map(|v| *v as i64).collect())
    }

    /// A constant number, if there is such an input.
    fn number(&self, i: usize) -> Result<Option<f64>, Refusal> {
        if self.node.input.get(i).is_none_or(String::is_empty) {
            return Ok(None);
        }
        match self.literal(i)?.values.values[..] {
            [v] => Ok(Some(v)),
            _ => Err(refusal(format!("the input {:?} of several numbers", shown(&self.node.input[i])), "one number")),
        }
    }

    /// Axes, an attribute before version 13 and an input since.
    fn axes(&mut self) -> Result<Option<Vec<i64>>, Refusal> {
        self.count(1..=2)?;
        let listed = self.ints("axes")?;
        if self.node.input.get(1).is_some_and(|name| !name.is_empty()) {
            return self.integers(1).map(Some);
        }
        Ok(listed)
    }

    // --- attributes ------------------------------------------------------------------

    /// Takes an attribute, which must hold what the number says (see the message).
    fn attribute(&mut self, name: &str, kind: i32) -> Result<Option<&'a AttributeProto>, Refusal> {
        let Some(at) = self.attributes.iter().position(|a| a.name == name) else { return Ok(None) };
        let attribute = self.attributes.remove(at);
        let holds = match kind {
            1 => attribute.f.is_some(),
            2 => attribute.i.is_some(),
            3 => attribute.s.is_some(),
            // An empty list looks like none.
            _ => true,
        };
        // Old files do not say what an attribute holds.
        match holds && [0, kind].contains(&attribute.kind) {
            true => Ok(Some(attribute)),
            false => {
                let kinds = ["", "a float", "an integer", "a string", "", "", "", "integers"];
                let expected = kinds.get(kind as usize).copied().unwrap_or("another type");
                Err(refusal(format!("the attribute {name:?} of another type"), expected))
            }
        }
    }

    fn int(&mut self, name: &str, default: i64) -> Result<i64, Refusal> {
        Ok(self.attribute(name, 2)?.and_then(|a| a.i).unwrap_or(default))
    }

    fn flag(&mut self, name: &str, default: bool) -> Result<bool, Refusal> {
        match self.int(name, default.into())? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(refusal(format!("{name} {other}"), "0 or 1")),
        }
    }

    fn must_be(&mut self, name: &str, only: i64) -> Result<(), Refusal> {
        match self.int(name, only)? {
            found if found == only => Ok(()),
            found => Err(refusal(format!("{name} {found}"), format!("{only}: nothing else is supported"))),
        }
    }

    fn float(&mut self, name: &str, default: f64) -> Result<f64, Refusal> {
        let value = self.attribute(name, 1)?.and_then(|a| a.f).map_or(default, f64::from);
        if value.is_finite() { Ok(value) } else { Err(refusal(format!("{name} {value}"), "a finite number")) }
    }

    fn ints(&mut self, name: &str) -> Result<Option<Vec<i64>>, Refusal> {
        Ok(self.attribute(name, 7)?.map(|a| a.ints.clone()))
    }

    /// A string out of a few, the first if there is none.
    fn one_of(&mut self, name: &str, all: &[&'static str]) -> Result<&'static str, Refusal> {
        let Some(found) = self.attribute(name, 3)?.and_then(|a| a.s.as_deref()) else { return Ok(all[0]) };
        all.iter().find(|known| known.as_bytes() == found).copied().ok_or_else(|| {
            refusal(
                format!("{name} {:?}", shown(&String::from_utf8_lossy(found))),
                format!("one of {}", all.join(", ")),
            )
        })
    }
}
