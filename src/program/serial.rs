//! The finished program: its accessors, bytes, file and digest.
//!
//! There is one encoding per program. Foreign bytes are parsed by replaying
//! their nodes through the same [`check`](super::check) that the builder uses;
//! what comes out was derived here, and bytes that say anything else are
//! refused.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::check::Checker;
use super::error::ProgramError;
use super::graph::{Node, Op, Output, Signature};

/// The most bytes of a serialised program.
pub const MAX_BYTES: usize = 64 << 20;
/// The first bytes; the last one is the version.
const MAGIC: &[u8; 8] = b"beavprg\x01";
/// Domain of the digest (BLAKE3 derive-key mode).
const DIGEST: &str = "beaverdam program digest v1";

/// A well-formed program: every shape, range and value number has been derived
/// and checked. Made by [`Builder::finish`](super::Builder::finish) or parsed.
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    nodes: Vec<Node>,
    outputs: Vec<Output>,
}

impl Program {
    /// The definitions, in order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }
    /// The outputs, in order.
    pub fn outputs(&self) -> &[Output] {
        &self.outputs
    }
    /// The inputs in order: name, owner, type and shape.
    pub fn inputs(&self) -> impl Iterator<Item = (&str, &str, &Signature)> {
        self.nodes.iter().filter_map(|node| match &node.op {
            Op::Input { name, owner } => Some((name.as_str(), owner.as_str(), &node.defines[0])),
            _ => None,
        })
    }

    /// The one encoding of the program: 8 bytes of magic and version, then postcard.
    pub fn to_bytes(&self) -> Vec<u8> {
        encode(&self.nodes, &self.outputs)
    }
    /// Parses untrusted bytes. Everything is derived again; bytes that are too
    /// many, of another version, ill-formed, or another encoding of the same
    /// program are errors.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ProgramError> {
        let refused = |found: String| ProgramError::Bytes { found };
        if bytes.len() > MAX_BYTES {
            return Err(ProgramError::Limit { what: "bytes", found: bytes.len() as u64, max: MAX_BYTES as u64 });
        }
        let Some(body) = bytes.strip_prefix(MAGIC) else {
            // What they begin with is not shown: it may be a file of secrets, given by mistake.
            return Err(refused("they do not begin as one does".into()));
        };
        let unchecked: Unchecked = postcard::from_bytes(body).map_err(|error| refused(error.to_string()))?;
        let mut checker = Checker::new();
        replay(&mut checker, unchecked.nodes)?;
        for Output { name, reader, value } in unchecked.outputs {
            checker.output(name, reader, value)?;
        }
        let (nodes, outputs) = checker.finish()?;
        if encode(&nodes, &outputs) != bytes {
            return Err(refused(
                "a type, shape, range or number in them is not the one that follows from the operations".into(),
            ));
        }
        Ok(Self { nodes, outputs })
    }

    /// Writes [`Program::to_bytes`] to a file, replacing it.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), ProgramError> {
        std::fs::write(&path, self.to_bytes()).map_err(|source| file_error(path.as_ref(), source))
    }
    /// Reads a program from a file.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, ProgramError> {
        use std::io::Read;
        let mut bytes = Vec::new();
        std::fs::File::open(&path)
            .and_then(|file| file.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes))
            .map_err(|source| file_error(path.as_ref(), source))?;
        let path = || path.as_ref().display().to_string();
        Self::from_bytes(&bytes).map_err(|e| ProgramError::Content { path: path(), source: Box::new(e) })
    }

    /// Names the program in manifests and transcripts: BLAKE3 of
    /// [`Program::to_bytes`] in a domain of its own.
    pub fn digest(&self) -> [u8; 32] {
        blake3::derive_key(DIGEST, &self.to_bytes())
    }

    /// From the builder's checked parts.
    pub(super) fn finished(nodes: Vec<Node>, outputs: Vec<Output>) -> Result<Self, ProgramError> {
        let program = Self { nodes, outputs };
        let found = program.to_bytes().len();
        if found > MAX_BYTES {
            return Err(ProgramError::Limit { what: "bytes", found: found as u64, max: MAX_BYTES as u64 });
        }
        Ok(program)
    }
}

/// What postcard sees: nothing in it is believed.
#[derive(Deserialize)]
struct Unchecked {
    nodes: Vec<Node>,
    outputs: Vec<Output>,
}

#[derive(Serialize)]
struct Checked<'a> {
    nodes: &'a [Node],
    outputs: &'a [Output],
}

fn encode(nodes: &[Node], outputs: &[Output]) -> Vec<u8> {
    let bytes = postcard::to_extend(&Checked { nodes, outputs }, MAGIC.to_vec());
    bytes.expect("plain data of known lengths into memory")
}

/// Defines foreign nodes anew. Their numbers and signatures are not looked at
/// beyond what the checker asks for; the caller compares the whole.
fn replay(checker: &mut Checker, nodes: Vec<Node>) -> Result<(), ProgramError> {
    for node in nodes {
        match node.op {
            Op::Repeat { count, init, body } => {
                checker.enter(count, &init)?;
                replay(checker, body.nodes)?;
                checker.leave(count, init, body.results, body.collect)?;
            }
            op => {
                let claimed = node
                    .defines
                    .first()
                    .ok_or_else(|| ProgramError::Bytes { found: format!("a {} that defines no value", op.name()) })?;
                checker.define(op, claimed)?;
            }
        }
    }
    Ok(())
}

fn file_error(path: &Path, source: std::io::Error) -> ProgramError {
    ProgramError::File { path: path.display().to_string(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::{Builder, Type};
    use proptest::prelude::*;

    fn small() -> Program {
        let b = Builder::new();
        let x = b.input("x", "alice", Type::fixed(-8.0..=8.0), [4, 3]);
        let y = b.input("y", "bob", Type::bit(), [4]);
        let start = b.constant(&[0.0], Type::fixed(-4.0..=4.0), [3]);
        let (ends, curve) = b.repeat(3, &[start], |_, states| {
            let error = x.matmul(&states[0]).sigmoid() - &y;
            let next = &states[0] - error.matmul(&x) * 0.025;
            (vec![next.declare("weights", -4.0..=4.0)], vec![error.square().sum_all()])
        });
        b.output("weights", "alice", &ends[0]);
        b.output("curve", "bob", &curve[0]);
        b.finish().unwrap()
    }

    #[test]
    fn bytes_and_files_round_trip() {
        let program = small();
        assert_eq!(Program::from_bytes(&program.to_bytes()).unwrap(), program);
        let file = tempfile::NamedTempFile::new().unwrap();
        program.save(file.path()).unwrap();
        assert_eq!(Program::load(file.path()).unwrap().digest(), program.digest());
        assert_eq!(
            program.inputs().map(|(name, owner, _)| (name, owner)).collect::<Vec<_>>(),
            [("x", "alice"), ("y", "bob")]
        );
        let message = Program::load("/nonexistent/program").unwrap_err().to_string();
        assert!(message.contains("/nonexistent/program"), "{message}");
    }

    /// Signed manifests name programs by this digest: it must not change by accident.
    #[test]
    fn the_digest_is_frozen() {
        let hex = small().digest().map(|byte| format!("{byte:02x}")).concat();
        insta::assert_snapshot!(hex, @"713a5debad2cfa0c66a6e516340eed2a6c2517c9ea03b362b37a54e3ca2e0c08");
    }

    #[test]
    fn the_digest_of_random_values_is_frozen() {
        let b = Builder::new();
        b.output("die", "alice", &b.random(Type::int(1..=6), [2, 3]));
        let program = b.finish().unwrap();
        assert_eq!(Program::from_bytes(&program.to_bytes()).unwrap(), program);
        let hex = program.digest().map(|byte| format!("{byte:02x}")).concat();
        insta::assert_snapshot!(hex, @"d610c80d9476fe0fd0335d7e57f00f52fbabab38ce8c44b5d3c8175fb6a879c6");
    }

    #[test]
    fn deep_nesting_and_long_lengths_are_refused_without_cost() {
        // a chain of repeats, each the only node of the one before: tag 21 is `Repeat`
        let level = [0, 0, 21, 1, 0, 0, 0, 1];
        let mut bytes = MAGIC.to_vec();
        bytes.push(1);
        for _ in 0..1_000_000 {
            bytes.extend(level);
        }
        let message = Program::from_bytes(&bytes).unwrap_err().to_string();
        assert!(message.contains("not a program"), "{message}");
        // Refused by the cap on nesting, not because it reads as something else.
        let Op::Repeat { .. } = small().nodes.pop().unwrap().op else { panic!("the last node is the repeat") };
        for bytes in [&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01][..], &[0xff; 9], &[]] {
            assert!(Program::from_bytes(&[MAGIC, bytes].concat()).is_err());
        }
        assert!(Program::from_bytes(b"beavprg\x02").unwrap_err().to_string().contains("begin as one"));
    }

    #[test]
    fn a_wider_claim_is_refused() {
        let mut program = small();
        let Op::Repeat { body, .. } = &mut program.nodes.last_mut().unwrap().op else {
            panic!("the last node is the repeat")
        };
        body.nodes[1].defines[0].ty.hi += 1;
        assert!(Program::from_bytes(&program.to_bytes()).unwrap_err().to_string().contains("follows from"));
        let mut program = small();
        program.outputs[0].value = super::super::graph::ValueId(u32::MAX);
        assert!(matches!(Program::from_bytes(&program.to_bytes()), Err(ProgramError::Scope { .. })));
        let mut trailing = small().to_bytes();
        trailing.push(0);
        assert!(Program::from_bytes(&trailing).is_err());
    }

    proptest! {
        #[test]
        fn mutated_bytes_never_panic(edits in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..6), cut in any::<proptest::sample::Index>(), keep in any::<bool>()) {
            let mut bytes = small().to_bytes();
            for (at, value) in edits {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            if !keep {
                bytes.truncate(cut.index(bytes.len()));
            }
            if let Ok(program) = Program::from_bytes(&bytes) {
                prop_assert_eq!(program.to_bytes(), bytes);
            }
        }
    }
}
