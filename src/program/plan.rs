//! The plan: a program lowered for one roster into primitives, rounds and
//! material. Owner and nodes each compute it from the signed program, so it is
//! a deterministic function of program and roster.

use serde::{Deserialize, Serialize};

use super::kings::Kings;
use crate::field::Fp61;
use crate::program::graph::Type;
use crate::roster::{Degree, Roster, Scheme};
use crate::sharing::packed;
pub use crate::sharing::packed::{BitLeaf, MSB};
use crate::tensor::{Dims, Shape, View};

/// Words that a node may expand before they are drawn, at most: 64 MiB. They
/// count as alive in [`Cost::live_words`](crate::program::Cost::live_words).
pub const AHEAD_WORDS: u64 = 1 << 23;

/// A secret register: written once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Sec(pub u32);
/// A public register (an opened word or a constant): written once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Pub(pub u32);
/// A register of packed secret bits, shared over GF(2): written once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Bit(pub u32);
/// A register of any kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reg {
    /// secret
    Sec(Sec),
    /// public
    Pub(Pub),
    /// packed secret bits
    Bit(Bit),
}

/// The number of a material op in [`Plan::material`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MaterialId(pub u32);

/// One step of one node. Fields are registers and numbers of the plan; each
/// variant's text gives the formula.
#[allow(missing_docs)] // the fields are the letters of the formulas
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Prim {
    /// This node's share of an input.
    Input { input: u32, out: Sec },
    /// A constant of the program.
    Constant { constant: u32, out: Pub },
    /// Σ k·x + Σ k·p + constant.
    Linear { secret: Vec<(Fp61, Sec)>, public: Vec<(Fp61, Pub)>, constant: Fp61, out: Sec },
    /// An index map of secrets.
    View { view: View, inputs: Vec<Sec>, out: Sec },
    /// The same index map of public words (masked operands used again under a transpose).
    ViewPublic { view: View, inputs: Vec<Pub>, out: Pub },
    /// Product with a public constant: `x·p`, or `p·x` if `left`.
    Scale { dims: Dims, x: Sec, p: Pub, left: bool, out: Sec },
    /// A part of a material op.
    Draw { material: MaterialId, part: Part, out: Sec },
    /// c + D·b + a·E + D·E.
    Beaver { dims: Dims, c: Sec, d: Pub, e: Pub, a: Sec, b: Sec, out: Sec },
    /// (c' >> by) − high + (1 − msb c')·2^(61−by)·msb + constant for each
    /// threshold (docs/protocols.md, truncation and comparison).
    Shift { c: Pub, thresholds: Vec<i64>, by: u8, high: Sec, msb: Sec, constant: Fp61, out: Sec },
    /// Comparison leaves of one digit.
    Leaf { c: Pub, thresholds: Vec<i64>, from: u8, bits: u8, one_hot: Sec, carry: Option<Sec>, g: Sec, p: Sec },
    /// Packed bits of a material op.
    DrawBits { material: MaterialId, out: Bit },
    /// Leaves of a packed comparison: for each threshold T and each leaf, from
    /// the bits of c − T and the rows of the mask (from row `row` on, those of
    /// a leaf one after another), \[c < r\] and \[c = r\] there. P of the lowest
    /// leaf is left out unless `lowest`.
    BitLeaves { c: Pub, thresholds: Vec<i64>, leaves: Vec<BitLeaf>, lowest: bool, rows: Bit, row: u32, g: Bit, p: Bit },
    /// Joins neighbours of so many leaves, lowest first: G = G_h ⊕ P_h·G_l,
    /// P = P_h·P_l; or one leaf with what lies `below` it, the same for each
    /// threshold. Interactive.
    BitMerge {
        g: Bit,
        p: Bit,
        leaves: u32,
        lowest: bool,
        below: Option<Bit>,
        masks: MaterialId,
        out_g: Bit,
        out_p: Bit,
    },
    /// Bit `at` of c − T ⊕ row `row` of the mask ⊕ borrow ⊕ flip ⊕ mask, for each threshold T.
    BitSign { c: Pub, thresholds: Vec<i64>, at: u8, flip: bool, rows: Bit, row: u32, borrow: Bit, mask: Bit, out: Bit },
    /// Opens `rows` rows of n packed bits into words that are 0 or 1. Interactive.
    OpenBits { x: Bit, rows: u32, n: usize, out: Pub },
    /// Opens x (degree t). Interactive.
    Open { x: Sec, out: Pub },
    /// Opens x·y + mask + \[0\]_2t (degree 2t). Interactive.
    OpenProduct { dims: Dims, x: Sec, y: Sec, mask: Sec, zero: MaterialId, out: Pub },
    /// Opens c + D·b + a·E + D·E + mask: a product truncated in the same
    /// opening. Interactive. In SPDZ the MACs of a matrix product are made
    /// only inside the check (protocols.md section 4, lazy).
    OpenBeaver { dims: Dims, c: Sec, d: Pub, e: Pub, a: Sec, b: Sec, mask: Sec, out: Pub },
}

impl Prim {
    /// Whether the step opens words, and so ends its round.
    pub fn interactive(&self) -> bool {
        matches!(self, Prim::Open { .. } | Prim::OpenProduct { .. } | Prim::OpenBeaver { .. }) || self.packed()
    }

    /// The degree of the words that the step opens; none for local ones and those on packed bits.
    pub fn degree(&self) -> Option<Degree> {
        match self {
            Prim::OpenProduct { .. } => Some(Degree::TwoT),
            Prim::Open { .. } | Prim::OpenBeaver { .. } => Some(Degree::T),
            _ => None,
        }
    }

    /// Whether the step is interactive on packed bits: its messages are
    /// vouched for instead of redundant.
    pub fn packed(&self) -> bool {
        matches!(self, Prim::BitMerge { .. } | Prim::OpenBits { .. })
    }

    /// Calls back for every register read.
    pub fn reads(&self, mut read: impl FnMut(Reg)) {
        let mut secrets = |xs: &[Sec], ps: &[Pub]| {
            xs.iter().for_each(|x| read(Reg::Sec(*x)));
            ps.iter().for_each(|p| read(Reg::Pub(*p)));
        };
        match self {
            Prim::Input { .. } | Prim::Constant { .. } | Prim::Draw { .. } => {}
            Prim::Linear { secret, public, .. } => {
                secret.iter().for_each(|(_, x)| secrets(&[*x], &[]));
                public.iter().for_each(|(_, p)| secrets(&[], &[*p]));
            }
            Prim::View { inputs, .. } => secrets(inputs, &[]),
            Prim::ViewPublic { inputs, .. } => secrets(&[], inputs),
            Prim::Scale { x, p, .. } => secrets(&[*x], &[*p]),
            Prim::Beaver { c, d, e, a, b, .. } => secrets(&[*c, *a, *b], &[*d, *e]),
            Prim::OpenBeaver { c, d, e, a, b, mask, .. } => secrets(&[*c, *a, *b, *mask], &[*d, *e]),
            Prim::Shift { c, high, msb, .. } => secrets(&[*high, *msb], &[*c]),
            Prim::Leaf { c, one_hot, carry, .. } => {
                secrets(&[*one_hot], &[*c]);
                carry.iter().for_each(|x| secrets(&[*x], &[]));
            }
            Prim::Open { x, .. } => secrets(&[*x], &[]),
            Prim::OpenProduct { x, y, mask, .. } => secrets(&[*x, *y, *mask], &[]),
            Prim::DrawBits { .. } => {}
            Prim::BitLeaves { c, rows, .. } => {
                read(Reg::Pub(*c));
                read(Reg::Bit(*rows));
            }
            Prim::BitMerge { g, p, below, .. } => {
                [Some(*g), Some(*p), *below].into_iter().flatten().for_each(|b| read(Reg::Bit(b)));
            }
            Prim::BitSign { c, rows, borrow, mask, .. } => {
                read(Reg::Pub(*c));
                [*rows, *borrow, *mask].into_iter().for_each(|b| read(Reg::Bit(b)));
            }
            Prim::OpenBits { x, .. } => read(Reg::Bit(*x)),
        }
    }

    /// Calls back for every register written.
    pub fn writes(&self, mut write: impl FnMut(Reg)) {
        self.written_sec().for_each(|s| write(Reg::Sec(s)));
        self.written_pub().into_iter().for_each(|p| write(Reg::Pub(p)));
        self.written_bits().for_each(|b| write(Reg::Bit(b)));
    }

    /// The registers of packed bits written: none, one, or two.
    pub fn written_bits(&self) -> impl Iterator<Item = Bit> {
        let written = match self {
            Prim::DrawBits { out, .. } | Prim::BitSign { out, .. } => [Some(*out), None],
            Prim::BitLeaves { g, p, .. } => [Some(*g), Some(*p)],
            Prim::BitMerge { out_g, out_p, .. } => [Some(*out_g), Some(*out_p)],
            _ => [None, None],
        };
        written.into_iter().flatten()
    }

    /// The secret registers written: none, one, or two.
    pub fn written_sec(&self) -> impl Iterator<Item = Sec> {
        let written = match self {
            Prim::Input { out, .. }
            | Prim::Linear { out, .. }
            | Prim::View { out, .. }
            | Prim::Scale { out, .. }
            | Prim::Draw { out, .. }
            | Prim::Beaver { out, .. }
            | Prim::Shift { out, .. } => [Some(*out), None],
            Prim::Leaf { g, p, .. } => [Some(*g), Some(*p)],
            _ => [None, None],
        };
        written.into_iter().flatten()
    }

    /// The public register written, if any.
    pub fn written_pub(&self) -> Option<Pub> {
        match self {
            Prim::Constant { out, .. }
            | Prim::ViewPublic { out, .. }
            | Prim::Open { out, .. }
            | Prim::OpenProduct { out, .. }
            | Prim::OpenBeaver { out, .. }
            | Prim::OpenBits { out, .. } => Some(*out),
            _ => None,
        }
    }
}

/// A part of a material op; the number is the `part` of a stream's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Part {
    /// the mask, the product, or the zero sharing
    Value,
    /// r >> shift, or an integer below a size
    High,
    /// bit 60 of r
    Msb,
    /// one-hot rows of digit i of r, row-major `[2^bits, n]`
    Digit(u8),
    /// the rows of digit 0, each times msb(r)
    Carry,
    /// packed bits over GF(2)
    Rows,
}

impl Part {
    /// The address byte.
    pub fn number(self) -> u8 {
        match self {
            Part::Value => 0,
            Part::High => 1,
            Part::Msb => 2,
            Part::Carry => 3,
            Part::Digit(i) => 4 + i,
            Part::Rows => 255,
        }
    }
}

/// One piece of correlated randomness.
#[allow(missing_docs)] // the fields are the letters of the texts
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Material {
    /// n uniform words.
    Mask { n: usize },
    /// n zero sharings of degree 2t (Shamir only; drawn by the opening itself).
    Zero { n: usize },
    /// The product a·b of two masks under views.
    Triple { dims: Dims, a: MaskRef, b: MaskRef },
    /// n uniform words r with r >> shift, msb(r), and, for comparisons, the
    /// one-hot digits of r from bit `from` up to bit `shift` (widths in bits,
    /// lowest first), with the carry rows if they begin at bit 0.
    Bits { n: usize, from: u8, shift: u8, digits: Vec<u8> },
    /// n uniform words r with packed rows of their bits over GF(2): for each
    /// leaf its bit, or its two bits and their product; then bit `sign`. With
    /// `quotient` also r >> quotient and msb(r) as words.
    Packed { n: usize, quotient: Option<u8>, leaves: Vec<BitLeaf>, sign: u8 },
    /// `rows` rows of n random bits known in both worlds: packed, and as words.
    Bit { rows: usize, n: usize },
    /// masks of so many packed words of products.
    Layer { words: usize },
    /// n integers, uniform below `size`, which is at most 2^60.
    Uniform { n: usize, size: u64 },
}

/// A mask seen through views, applied first to last.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MaskRef {
    /// a [`Material::Mask`]
    pub mask: MaterialId,
    /// views of one input each that only move words: transposes and patches
    pub views: Vec<View>,
}

impl Material {
    /// The parts in the order of the dealer's stream, each with its number of
    /// words and whether its value is dealt (Δ) or uniform. Packed rows count
    /// as the words that their corrections take.
    pub fn parts(&self) -> Vec<(Part, usize, bool)> {
        match self {
            Material::Mask { n } => vec![(Part::Value, *n, false)],
            Material::Zero { .. } | Material::Layer { .. } => Vec::new(),
            Material::Packed { n, quotient, .. } => {
                let mut parts = vec![(Part::Value, *n, false)];
                if quotient.is_some() {
                    parts.extend([(Part::High, *n, true), (Part::Msb, *n, true)]);
                }
                parts.push((Part::Rows, packed::stream_words(self.packed_words()), true));
                parts
            }
            // The rows are uniform and take no correction.
            Material::Bit { rows, n } => vec![(Part::Value, rows * n, true)],
            Material::Triple { dims, .. } => vec![(Part::Value, dims.lens().2, true)],
            Material::Uniform { n, .. } => vec![(Part::High, *n, true)],
            Material::Bits { n, from, digits, .. } => {
                let mut parts = vec![(Part::Value, *n, false), (Part::High, *n, true), (Part::Msb, *n, true)];
                parts.extend(digits.iter().enumerate().map(|(i, b)| (Part::Digit(i as u8), n << b, true)));
                if let (Some(b), 0) = (digits.first(), from) {
                    parts.push((Part::Carry, n << b, true));
                }
                parts
            }
        }
    }
}

impl Material {
    /// The 64-bit words of the packed rows, or of the masks of a layer.
    pub fn packed_words(&self) -> usize {
        match self {
            Material::Packed { n, leaves, .. } => {
                let rows: usize = leaves.iter().map(|(_, high)| if high.is_some() { 3 } else { 1 }).sum();
                (rows + 1) * packed::lane(*n)
            }
            Material::Bit { rows, n } => rows * packed::lane(*n),
            Material::Layer { words } => *words,
            _ => 0,
        }
    }
}

/// A material op with its place in the dealer's stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Demand {
    /// what
    pub material: Material,
    /// the first Δ word, counted over the whole stream of the job
    pub offset: u64,
    /// Δ words of this op
    pub words: u64,
}

/// One round: local steps, then one batch of openings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// indices into [`Plan::prims`], all local, in order
    pub local: Vec<u32>,
    /// indices into [`Plan::prims`], all interactive, in order; empty only in the last round
    pub open: Vec<u32>,
    /// Δ words below this offset must be verified and agreed before the batch leaves
    pub stream_until: u64,
    /// Δ words below this offset are not needed by any later round
    pub stream_from: u64,
    /// whether openings of the degree that may go by kings do so
    /// ([`Roster::king_degree`]); all others go all to all
    pub king: bool,
    /// whether a check runs after this round's openings: of MACs in SPDZ, of
    /// the words that kings opened in Shamir
    pub check: bool,
    /// secret registers that die with this round
    pub free_sec: Vec<Sec>,
    /// public registers that die with this round
    pub free_pub: Vec<Pub>,
    /// registers of packed bits that die with this round
    pub free_bits: Vec<Bit>,
}

/// An input as the engine sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputPlan {
    /// its name in the program
    pub name: String,
    /// who gives it (a name of the program, bound to a key by the manifest)
    pub owner: String,
    /// how its words are read
    pub ty: Type,
    /// its shape
    pub shape: Shape,
    /// words of its Δ: n for Shamir, 2n for SPDZ
    pub words: u64,
}

/// An output as the engine sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OutputPlan {
    /// its name in the program
    pub name: String,
    /// who may read it
    pub reader: String,
    /// how its words are read
    pub ty: Type,
    /// its shape
    pub shape: Shape,
    /// the register
    pub value: Sec,
    /// bound on the absolute difference from real arithmetic on the inputs as
    /// given, in real units; infinite where none can be shown
    pub error: f64,
}

/// A program lowered for a roster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// for whom
    pub roster: Roster,
    /// all steps, each once
    pub prims: Vec<Prim>,
    /// the schedule
    pub rounds: Vec<Round>,
    /// lengths of the secret registers
    pub sec_lens: Vec<usize>,
    /// lengths of the public registers
    pub pub_lens: Vec<usize>,
    /// lengths of the registers of packed bits, in 64-bit words
    pub bit_lens: Vec<usize>,
    /// constants, in words
    pub constants: Vec<Vec<Fp61>>,
    /// material, in stream order
    pub material: Vec<Demand>,
    /// inputs, by number
    pub inputs: Vec<InputPlan>,
    /// outputs, by number
    pub outputs: Vec<OutputPlan>,
    /// Δ words of the whole stream
    pub stream_words: u64,
    /// ranges that the program declares; correctness is conditional on them
    pub declarations: Vec<Declaration>,
}

/// A range that a program declares of a value.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Declaration {
    /// its name in the program
    pub name: String,
    /// the range
    pub ty: Type,
}

impl Plan {
    /// Rounds in which words are opened; the last round only computes.
    pub fn opening_rounds(&self) -> usize {
        self.rounds.len() - 1
    }

    /// The words that the openings of a round take on the wire, and their degrees.
    pub fn openings(&self, round: usize) -> impl Iterator<Item = (u32, Degree, usize)> + '_ {
        self.rounds[round].open.iter().filter_map(|&i| {
            let prim = &self.prims[i as usize];
            let (degree, out) = (prim.degree()?, prim.written_pub().expect("what is opened is public"));
            Some((i, degree, self.pub_lens[out.0 as usize]))
        })
    }

    /// How many nodes the job needs at any time: all for SPDZ, packed bits and
    /// kings, else the most that any of its openings needs ([`Roster::needed`]).
    pub fn needed(&self) -> usize {
        if !self.replays() {
            return self.roster.nodes().into();
        }
        let rounds = 0..self.opening_rounds();
        let of_openings = rounds.flat_map(|r| self.openings(r)).map(|(_, degree, _)| self.roster.needed(degree)).max();
        // Outputs are opened to their reader, at degree t.
        of_openings.unwrap_or_default().max(self.roster.needed(Degree::T))
    }

    /// How many nodes may be lost at once without the job having to wait.
    pub fn spare(&self) -> usize {
        usize::from(self.roster.nodes()) - self.needed()
    }

    /// Whether a party can be made again from the words that were opened
    /// (docs/protocols.md, nodes that come and go): honest shares fix each of
    /// them, nothing is told to one node alone, and no king opens.
    pub fn replays(&self) -> bool {
        self.roster.scheme() == Scheme::Shamir && !self.has_kings() && !self.prims.iter().any(Prim::packed)
    }

    /// Whether openings of a degree go by kings in a round.
    pub fn by_king(&self, round: usize, degree: Degree) -> bool {
        self.rounds[round].king && self.roster.king_degree() == Some(degree)
    }

    /// Who opens which words of a round as their king, if the round has kings.
    pub fn kings(&self, round: usize) -> Option<Kings> {
        let degree = self.roster.king_degree().filter(|degree| self.by_king(round, *degree))?;
        let words = self.openings(round).filter(|(_, of, _)| *of == degree).map(|o| o.2).sum();
        Some(Kings::new(self.roster, degree, words, round))
    }

    /// Whether any word is opened by a king, so that a check ends the job.
    pub fn has_kings(&self) -> bool {
        self.rounds.iter().any(|round| round.king)
    }

    /// Words that a share of a word takes in memory: with its MAC in SPDZ.
    pub fn words_per_share(&self) -> u64 {
        if self.roster.scheme() == Scheme::Spdz { 2 } else { 1 }
    }

    /// The pseudorandom words that a step draws at one node, as they lie in
    /// memory: shares of inputs and material with their MACs, zero sharings.
    /// Packed bits, which are drawn on the host, are none.
    pub fn drawn_words(&self, prim: &Prim) -> u64 {
        let words = match prim {
            Prim::Input { out, .. } | Prim::Draw { out, .. } => self.sec_lens[out.0 as usize],
            Prim::OpenProduct { out, .. } => self.pub_lens[out.0 as usize],
            _ => 0,
        };
        words as u64 * self.words_per_share()
    }

    /// The steps of a round on packed bits.
    pub fn layer(&self, round: usize) -> impl Iterator<Item = &Prim> + '_ {
        self.rounds[round].open.iter().map(|i| &self.prims[*i as usize]).filter(|prim| prim.packed())
    }

    /// The 64-bit words that a node sends to its neighbour in a round's layer;
    /// 0 if the round has none.
    pub fn layer_words(&self, round: usize) -> usize {
        let words = |prim: &Prim| match prim {
            Prim::BitMerge { masks, .. } => self.material[masks.0 as usize].material.packed_words() * 3 / 2,
            Prim::OpenBits { x, .. } => self.bit_lens[x.0 as usize],
            _ => 0,
        };
        self.layer(round).map(words).sum()
    }
}
