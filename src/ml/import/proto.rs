//! The messages of onnx.proto that an inference needs; fields that are not here
//! are skipped.
//!
//! Field numbers: <https://github.com/onnx/onnx/blob/main/onnx/onnx.proto>.
//! A message of two bytes becomes a struct of hundreds, so [`census`] counts
//! entries before anything is decoded.

use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use prost::{DecodeError, Message};

#[derive(Clone, PartialEq, Message)]
pub struct ModelProto {
    #[prost(message, repeated, tag = "8")]
    pub opset_import: Vec<OperatorSetIdProto>,
    #[prost(message, optional, tag = "7")]
    pub graph: Option<GraphProto>,
}

#[derive(Clone, PartialEq, Message)]
pub struct OperatorSetIdProto {
    #[prost(string, tag = "1")]
    pub domain: String,
    #[prost(int64, tag = "2")]
    pub version: i64,
}

#[derive(Clone, PartialEq, Message)]
pub struct GraphProto {
    #[prost(message, repeated, tag = "1")]
    pub node: Vec<NodeProto>,
    #[prost(message, repeated, tag = "5")]
    pub initializer: Vec<TensorProto>,
    #[prost(message, repeated, tag = "11")]
    pub input: Vec<ValueInfoProto>,
    #[prost(message, repeated, tag = "12")]
    pub output: Vec<ValueInfoProto>,
    /// only seen to be there
    #[prost(bytes = "vec", repeated, tag = "15")]
    pub sparse_initializer: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub struct NodeProto {
    #[prost(string, repeated, tag = "1")]
    pub input: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub output: Vec<String>,
    #[prost(string, tag = "3")]
    pub name: String,
    #[prost(string, tag = "4")]
    pub op_type: String,
    #[prost(message, repeated, tag = "5")]
    pub attribute: Vec<AttributeProto>,
    #[prost(string, tag = "7")]
    pub domain: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct AttributeProto {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(float, optional, tag = "2")]
    pub f: Option<f32>,
    #[prost(int64, optional, tag = "3")]
    pub i: Option<i64>,
    #[prost(bytes = "vec", optional, tag = "4")]
    pub s: Option<Vec<u8>>,
    #[prost(message, optional, tag = "5")]
    pub t: Option<TensorProto>,
    #[prost(float, repeated, tag = "7")]
    pub floats: Vec<f32>,
    #[prost(int64, repeated, tag = "8")]
    pub ints: Vec<i64>,
    /// what it holds: 1 float, 2 int, 3 string, 4 tensor, 6 floats, 7 ints
    #[prost(int32, tag = "20")]
    pub kind: i32,
}

#[derive(Clone, PartialEq, Message)]
pub struct TensorProto {
    #[prost(int64, repeated, tag = "1")]
    pub dims: Vec<i64>,
    #[prost(int32, tag = "2")]
    pub data_type: i32,
    #[prost(float, repeated, tag = "4")]
    pub float_data: Vec<f32>,
    #[prost(int32, repeated, tag = "5")]
    pub int32_data: Vec<i32>,
    #[prost(int64, repeated, tag = "7")]
    pub int64_data: Vec<i64>,
    #[prost(string, tag = "8")]
    pub name: String,
    #[prost(bytes = "vec", optional, tag = "9")]
    pub raw_data: Option<Vec<u8>>,
    #[prost(double, repeated, tag = "10")]
    pub double_data: Vec<f64>,
    /// 0 in this message, 1 in a file beside the model
    #[prost(int32, tag = "14")]
    pub data_location: i32,
}

#[derive(Clone, PartialEq, Message)]
pub struct ValueInfoProto {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(message, optional, tag = "2")]
    pub r#type: Option<TypeProto>,
}

#[derive(Clone, PartialEq, Message)]
pub struct TypeProto {
    #[prost(message, optional, tag = "1")]
    pub tensor_type: Option<TensorTypeProto>,
}

#[derive(Clone, PartialEq, Message)]
pub struct TensorTypeProto {
    #[prost(message, optional, tag = "2")]
    pub shape: Option<TensorShapeProto>,
}

#[derive(Clone, PartialEq, Message)]
pub struct TensorShapeProto {
    #[prost(message, repeated, tag = "1")]
    pub dim: Vec<DimensionProto>,
}

#[derive(Clone, PartialEq, Message)]
pub struct DimensionProto {
    /// absent where the length is open
    #[prost(int64, optional, tag = "1")]
    pub dim_value: Option<i64>,
}

/// How many strings and messages a model holds, at any depth that is decoded.
pub fn census(bytes: &[u8]) -> Result<usize, DecodeError> {
    let mut entries = 0;
    count(bytes, &MODEL, &mut entries)?;
    Ok(entries)
}

/// Fields of a message whose entries take more memory than bytes, and what
/// they hold.
struct Kind(&'static [(u32, Option<&'static Kind>)]);

const MODEL: Kind = Kind(&[(7, Some(&GRAPH)), (8, None)]);
const GRAPH: Kind = Kind(&[(1, Some(&NODE)), (5, None), (11, Some(&INFO)), (12, Some(&INFO)), (15, None)]);
const NODE: Kind = Kind(&[(1, None), (2, None), (5, None)]);
const INFO: Kind = Kind(&[(2, Some(&Kind(&[(1, Some(&Kind(&[(2, Some(&Kind(&[(1, None)])))])))])))]);

fn count(mut bytes: &[u8], kind: &Kind, entries: &mut usize) -> Result<(), DecodeError> {
    while !bytes.is_empty() {
        let (tag, wire) = decode_key(&mut bytes)?;
        let known = kind.0.iter().find(|(field, _)| *field == tag);
        let (Some((_, inner)), WireType::LengthDelimited) = (known, wire) else {
            skip_field(wire, tag, &mut bytes, DecodeContext::default())?;
            continue;
        };
        *entries += 1;
        let before = bytes;
        skip_field(wire, tag, &mut bytes, DecodeContext::default())?;
        if let Some(inner) = inner {
            let mut content = &before[..before.len() - bytes.len()];
            decode_varint(&mut content)?;
            count(content, inner, entries)?;
        }
    }
    Ok(())
}
