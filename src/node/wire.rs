//! What owners, readers and nodes say to a node and hear from it, inside the
//! frames of a [`Link`](crate::net::Link).
//!
//! The first frame of a link says what the link is for: one job's frames
//! between two nodes, one submission, one fetch, one cancellation. Every form
//! is postcard and frozen by a test; the version is exchanged when the link
//! opens. Nothing here is checked beyond its form.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

pub(crate) use super::checkpoints::KEPT;
use crate::engine::frame::Frame;
use crate::field::Fp61;
use crate::field::slice::{as_bytes, encode_words};
use crate::job::Concluded;
use crate::net::Message;
use crate::prg::PrgKey;
use crate::roster::{MAX_SUBSETS, Slot, Subset};
use crate::sharing::SlotKeys;

/// The longest first frame of an owner that the node serves: an assignment.
pub(crate) const SUBMIT_LIMIT: usize = 4 << 20;
/// Bytes of an input in one frame, at most.
pub(crate) const INPUT_CHUNK: usize = 1 << 20;
/// The longest frame of an owner that uploads: a chunk or a segment.
pub(crate) const UPLOAD_LIMIT: usize = INPUT_CHUNK + 1024;
/// The longest reason that is told to others, in bytes.
pub(crate) const REASON_LIMIT: usize = 512;
/// The longest [`Peer::Keys`]: no roster has more subsets.
pub(crate) const KEYS_LIMIT: usize = 16 + MAX_SUBSETS * SUBSET_KEY;
/// Bytes of a subset with its key.
const SUBSET_KEY: usize = 4 + 32;
/// The longest address of a peer.
pub(crate) const ADDRESS_LIMIT: usize = 256;

/// To a node.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ToNode<'a> {
    /// This link carries the frames of this job, from one node to another.
    Peer { manifest: [u8; 32] },
    /// A job begins: [`Assignment`](crate::job::Assignment), and where the
    /// nodes can be dialled, in slot order. Inputs and segments follow.
    Submit {
        #[serde(borrow, with = "serde_bytes")]
        assignment: &'a [u8],
        peers: Vec<String>,
    },
    /// A part of an input's Δ; inputs and their parts come in order.
    Input {
        number: u32,
        offset: u64,
        #[serde(with = "serde_bytes")]
        bytes: &'a [u8],
    },
    /// A segment of the material with its signed header; in order.
    Segment {
        header: &'a [u8],
        #[serde(with = "serde_bytes")]
        bytes: &'a [u8],
    },
    /// The result is wanted: now, or once the job is over.
    Fetch { manifest: [u8; 32], wait: bool },
    /// The owner gives the job up.
    Cancel { manifest: [u8; 32] },
    /// The jobs are wanted whose result the asking key may have.
    Jobs,
    /// The owner deals more attempts to a running job, once it is told how many are held.
    Extend { manifest: [u8; 32] },
    /// How many there are now: a [`SignedExtension`](crate::job::SignedExtension). The streams from
    /// this attempt on follow.
    Extension {
        from: u32,
        #[serde(borrow, with = "serde_bytes")]
        statement: &'a [u8],
    },
    /// The owner wants this node's checkpoints, to take the job elsewhere.
    State { manifest: [u8; 32] },
    /// And Δ of an input that nothing has read yet.
    Data { manifest: [u8; 32], number: u32 },
}

/// A job as a node tells its owner or reader.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Told {
    pub(crate) manifest: [u8; 32],
    pub(crate) state: ToldState,
}

/// How far a job is at a node.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ToldState {
    Running {
        segments: u32,
        segments_of: u32,
        round: u32,
        rounds_of: u32,
    },
    Done,
    Failed(String),
    /// all data is there, and no slot is free
    Spare,
    /// a process was lost; this attempt is next, of so many that are held: if it is none of them, the
    /// job waits for its owner
    Stopped {
        attempt: u32,
        of: u32,
    },
}

/// From a node to an owner or reader.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ToOwner {
    /// The job was checked and its nonce is noted; send the inputs.
    Accepted,
    /// Inputs are verified, and so many segments are stored.
    Stored { segments: u32, of: u32 },
    /// So many rounds of openings are over.
    Round { round: u32, of: u32 },
    /// [`Concluded`](crate::job::Concluded): the job is over.
    Concluded(#[serde(with = "serde_bytes")] Vec<u8>),
    /// Not over yet (the answer to a fetch that does not wait).
    Running { segments: u32, segments_of: u32, round: u32, rounds_of: u32 },
    /// The job was given up.
    Cancelled,
    /// The request was refused; nothing has changed.
    Refused(String),
    /// The job ended without a result.
    Failed(String),
    /// The inputs are verified; what can be expanded ahead is.
    Verified,
    /// The jobs that were asked for, those under way first.
    Jobs(Vec<Told>),
    /// The streams of so many attempts are whole at the node.
    Holds { attempts: u32 },
    /// Not over, and not running: [`ToldState::Stopped`].
    Stopped { attempt: u32, of: u32 },
    /// The checkpoints of this node.
    State(Vec<StateOf>),
    /// Δ of an input.
    Data(#[serde(with = "serde_bytes")] Vec<u8>),
}

/// A checkpoint for the job's owner. Wiped on drop, never printed.
#[derive(PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StateOf {
    pub(crate) slot: u8,
    pub(crate) round: u32,
    pub(crate) transcript: [u8; 32],
    #[serde(with = "serde_bytes")]
    pub(crate) state: Vec<u8>,
}

impl std::fmt::Debug for StateOf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the state of slot {} before round {}", self.slot, self.round)
    }
}

impl Drop for StateOf {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.state);
    }
}

impl<'a> ToNode<'a> {
    /// The wire form; wiped when dropped, since an assignment holds keys.
    pub(crate) fn encode(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(postcard::to_stdvec(self).expect("plain data always encodes"))
    }

    /// Reads the wire form; none for anything else, bytes left over included.
    pub(crate) fn decode(bytes: &'a [u8]) -> Option<Self> {
        match postcard::take_from_bytes(bytes) {
            Ok((message, [])) => Some(message),
            _ => None,
        }
    }
}

/// A head, and behind it bytes in parts as postcard writes bytes: after their length.
pub(crate) fn with_length<'a>(mut head: Vec<u8>, parts: Vec<Cow<'a, [u8]>>) -> Vec<Cow<'a, [u8]>> {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    head.extend(postcard::to_stdvec(&len).expect("a number always encodes"));
    [vec![Cow::Owned(head)], parts].concat()
}

/// Which variant of [`ToOwner`] is [`ToOwner::Concluded`].
const CONCLUDED: u8 = 3;

impl ToOwner {
    /// The wire form of [`ToOwner::Concluded`] as a head and a body: that of a result with one
    /// output is not copied.
    pub(crate) fn encode_concluded(concluded: &Concluded) -> (Vec<u8>, Cow<'_, [u8]>) {
        let mut parts = with_length(vec![CONCLUDED], concluded.parts());
        match parts.pop() {
            Some(body @ Cow::Borrowed(_)) if concluded.sealed.len() == 1 => (parts.concat(), body),
            last => (Vec::new(), Cow::Owned([parts.concat(), last.unwrap_or_default().into_owned()].concat())),
        }
    }

    /// The bytes in the wire form of [`ToOwner::Concluded`], without a copy.
    pub(crate) fn concluded(bytes: &[u8]) -> Option<&[u8]> {
        let (&CONCLUDED, rest) = bytes.split_first()? else { return None };
        match postcard::take_from_bytes(rest) {
            Ok((concluded, [])) => Some(concluded),
            _ => None,
        }
    }

    /// The wire form; wiped when dropped, since a state holds shares.
    pub(crate) fn encode(&self) -> Zeroizing<Vec<u8>> {
        let room = match self {
            // Nothing is left behind by growing.
            Self::State(held) => held.iter().map(|held| held.state.len() + 64).sum(),
            _ => 0,
        };
        Zeroizing::new(postcard::to_extend(self, Vec::with_capacity(room + 16)).expect("plain data always encodes"))
    }

    /// Reads the wire form; none for anything else, bytes left over included.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        match postcard::take_from_bytes(bytes) {
            Ok((message, [])) => Some(message),
            _ => None,
        }
    }
}

/// From node to node inside a job: one byte that says what, then the rest.
#[derive(Debug)]
pub(crate) enum Peer<'a> {
    /// A frame of the engine.
    Frame(&'a [u8]),
    /// All inputs are verified here; the job can start when all say so. It is
    /// said again on every new link.
    Ready,
    /// The job is done here. Only what was opened, and the last frames, follow,
    /// for those who ask.
    Done,
    /// The job has ended here without a result, for this reason.
    Abort(String),
    /// The sender holds what was opened below this round: it asks for the words of
    /// the round before that, of all from there on, then for the frames of the
    /// exchange that the receiver is in.
    Behind { round: u32 },
    /// What was opened in a round, 8 bytes a word, and the transcript after it.
    Words { round: u32, transcript: [u8; 32], words: &'a [u8] },
    /// The slots that the sender misses, as a bit mask; the latest counts.
    Missing { slots: u32 },
    /// The sender's vote: this spare, counted from 1, is to take this slot.
    Vote(Move),
    /// It is decided: this spare has the slot.
    Replaced(Move),
    /// To the spare that has the slot: the sender's keys that the slot holds too.
    Keys { slot: Slot, keys: SubsetKeys },
    /// From where the sender goes on, in an attempt that it has not begun. If it waits for it, else
    /// it has begun since, and answers one that waits.
    Offer { waits: bool, offer: Offer },
}

/// Where a node of an SPDZ job could go on, and in which attempt it has not spoken yet: those above its level.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Offer {
    pub(crate) level: u32,
    /// attempts whose streams are whole and durable at the node
    pub(crate) held: u32,
    /// rounds and transcripts of its checkpoints, the newest last
    pub(crate) checkpoints: Vec<(u32, [u8; 32])>,
}

impl Offer {
    fn append_to(&self, bytes: &mut Vec<u8>) {
        bytes.extend(self.level.to_le_bytes());
        bytes.extend(self.held.to_le_bytes());
        for (round, transcript) in &self.checkpoints {
            bytes.extend(round.to_le_bytes());
            bytes.extend(transcript);
        }
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (level, rest) = bytes.split_first_chunk()?;
        let (held, rest) = rest.split_first_chunk()?;
        let (checkpoints, rest) = rest.as_chunks::<36>();
        if !rest.is_empty() || checkpoints.len() as u64 > KEPT {
            return None;
        }
        let read = |bytes: &[u8; 36]| {
            let (round, transcript) = bytes.split_first_chunk()?;
            Some((u32::from_le_bytes(*round), transcript.try_into().ok()?))
        };
        let checkpoints = checkpoints.iter().map(read).collect::<Option<_>>()?;
        Some(Self { level: u32::from_le_bytes(*level), held: u32::from_le_bytes(*held), checkpoints })
    }
}

/// That a spare, counted from 1, takes a slot over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Move {
    pub(crate) slot: Slot,
    pub(crate) spare: u8,
}

impl std::fmt::Display for Move {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "spare {} for {}", self.spare, self.slot)
    }
}

/// Keys of subsets, each of which its receiver compares with a signed hash.
/// Wiped on drop, never printed.
#[derive(Default)]
pub(crate) struct SubsetKeys(pub(crate) Vec<(Subset, PrgKey)>);

impl SubsetKeys {
    /// Those of the keys that a slot holds too.
    pub(crate) fn shared_with(keys: &SlotKeys, slot: Slot) -> Self {
        match keys {
            SlotKeys::Shamir(keys) => {
                Self(keys.iter().filter(|(s, _)| s.contains(slot)).map(|(s, key)| (*s, key.clone())).collect())
            }
            SlotKeys::Spdz(_) => Self::default(),
        }
    }
}

impl std::fmt::Debug for SubsetKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} keys", self.0.len())
    }
}

impl<'a> Peer<'a> {
    /// The wire form of [`Peer::Keys`], wiped once it has left.
    pub(crate) fn encode_keys(slot: Slot, keys: SubsetKeys) -> Message {
        Message { head: Bytes::from_owner(Zeroizing::new(Self::Keys { slot, keys }.encode())), body: Bytes::new() }
    }

    /// The wire form of [`Peer::Frame`]. Shares are not copied: they leave from
    /// where the engine has written them, for all receivers.
    pub(crate) fn encode_frame(frame: &Frame) -> Message {
        let mut head = Self::Frame(&[]).encode();
        frame.append_head_to(&mut head);
        let shares = frame.shares().map_or_else(Bytes::new, |words| Bytes::from_owner(Shares::of(words)));
        Message { head: head.into(), body: shares }
    }

    /// The wire form.
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Frame(bytes) => [&[0], *bytes].concat(),
            Self::Ready => vec![1],
            Self::Done => vec![2],
            Self::Abort(reason) => [&[3], reason.as_bytes()].concat(),
            Self::Behind { round } => [&[4][..], &round.to_le_bytes()].concat(),
            Self::Words { round, transcript, words } => [&[5], &round.to_le_bytes()[..], transcript, words].concat(),
            Self::Missing { slots } => [&[6][..], &slots.to_le_bytes()].concat(),
            Self::Vote(Move { slot, spare }) => vec![7, slot.0, *spare],
            Self::Replaced(Move { slot, spare }) => vec![8, slot.0, *spare],
            Self::Offer { waits, offer } => {
                let mut bytes = vec![12, u8::from(*waits)];
                offer.append_to(&mut bytes);
                bytes
            }
            Self::Keys { slot, keys } => {
                // Never grown: what is left behind would not be wiped.
                let mut bytes = Vec::with_capacity(2 + SUBSET_KEY * keys.0.len());
                bytes.extend([9, slot.0]);
                for (subset, key) in &keys.0 {
                    bytes.extend(subset.0.to_le_bytes());
                    bytes.extend(key.0);
                }
                bytes
            }
        }
    }

    /// Reads the wire form; none for anything else. Reasons are cut and made
    /// one line, because they are shown to people.
    pub(crate) fn decode(bytes: &'a [u8]) -> Option<Self> {
        match bytes.split_first()? {
            (0, frame) => Some(Self::Frame(frame)),
            (1, []) => Some(Self::Ready),
            (2, []) => Some(Self::Done),
            (3, reason) => Some(Self::Abort(one_line(&String::from_utf8_lossy(reason)))),
            (4, round) => Some(Self::Behind { round: u32::from_le_bytes(round.try_into().ok()?) }),
            (5, rest) => {
                let (round, rest) = rest.split_first_chunk()?;
                let (transcript, words) = rest.split_first_chunk()?;
                Some(Self::Words { round: u32::from_le_bytes(*round), transcript: *transcript, words })
            }
            (6, slots) => Some(Self::Missing { slots: u32::from_le_bytes(slots.try_into().ok()?) }),
            (7, [slot, spare]) => Some(Self::Vote(Move { slot: Slot(*slot), spare: *spare })),
            (8, [slot, spare]) => Some(Self::Replaced(Move { slot: Slot(*slot), spare: *spare })),
            (12, [waits @ (0 | 1), offer @ ..]) => {
                Some(Self::Offer { waits: *waits == 1, offer: Offer::decode(offer)? })
            }
            (9, [slot, keys @ ..]) if keys.len() <= SUBSET_KEY * MAX_SUBSETS => {
                let keys = keys.chunks(SUBSET_KEY).map(|entry| {
                    let (subset, key) = entry.split_first_chunk()?;
                    Some((Subset(u32::from_le_bytes(*subset)), PrgKey(key.try_into().ok()?)))
                });
                Some(Self::Keys { slot: Slot(*slot), keys: SubsetKeys(keys.collect::<Option<_>>()?) })
            }
            _ => None,
        }
    }
}

/// Words that lie in memory as they are on the wire, or a copy that does.
enum Shares {
    Own(Arc<Vec<Fp61>>),
    Copy(Vec<u8>),
}

impl Shares {
    fn of(words: &Arc<Vec<Fp61>>) -> Self {
        match as_bytes(words) {
            Some(_) => Self::Own(Arc::clone(words)),
            None => Self::Copy(encode_words(words)),
        }
    }
}

impl AsRef<[u8]> for Shares {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Own(words) => as_bytes(words).unwrap_or_default(),
            Self::Copy(bytes) => bytes,
        }
    }
}

/// A text from elsewhere as it may be shown: one line, at most
/// [`REASON_LIMIT`] bytes.
pub(crate) fn one_line(text: &str) -> String {
    let mut line = String::new();
    for c in text.chars().map(|c| if c.is_control() { ' ' } else { c }) {
        if line.len() + c.len_utf8() > REASON_LIMIT {
            break;
        }
        line.push(c);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::hex;
    use proptest::prelude::*;

    #[test]
    fn the_wire_forms_are_frozen() {
        let to_node = [
            ToNode::Peer { manifest: [7; 32] },
            ToNode::Submit { assignment: &[1, 2], peers: vec!["a:1".into(), "b:2".into()] },
            ToNode::Input { number: 1, offset: 300, bytes: &[9; 3] },
            ToNode::Segment { header: &[4], bytes: &[5, 6] },
            ToNode::Fetch { manifest: [8; 32], wait: true },
            ToNode::Cancel { manifest: [9; 32] },
            ToNode::Jobs,
            ToNode::Extend { manifest: [9; 32] },
            ToNode::Extension { from: 300, statement: &[1, 2] },
            ToNode::State { manifest: [6; 32] },
            ToNode::Data { manifest: [6; 32], number: 2 },
        ];
        let to_owner = [
            ToOwner::Accepted,
            ToOwner::Stored { segments: 1, of: 300 },
            ToOwner::Round { round: 2, of: 3 },
            ToOwner::Concluded(vec![1, 2]),
            ToOwner::Running { segments: 1, segments_of: 2, round: 3, rounds_of: 4 },
            ToOwner::Cancelled,
            ToOwner::Refused("no".into()),
            ToOwner::Failed("ah".into()),
            ToOwner::Verified,
            ToOwner::Jobs(vec![
                Told {
                    manifest: [1; 32],
                    state: ToldState::Running { segments: 1, segments_of: 2, round: 3, rounds_of: 4 },
                },
                Told { manifest: [2; 32], state: ToldState::Done },
                Told { manifest: [3; 32], state: ToldState::Failed("no".into()) },
                Told { manifest: [4; 32], state: ToldState::Spare },
                Told { manifest: [5; 32], state: ToldState::Stopped { attempt: 2, of: 4 } },
            ]),
            ToOwner::Holds { attempts: 300 },
            ToOwner::Stopped { attempt: 5, of: 4 },
            ToOwner::State(vec![StateOf { slot: 3, round: 258, transcript: [8; 32], state: vec![1, 0, 9] }]),
            ToOwner::Data(vec![5, 6]),
        ];
        let peers = [
            Peer::Frame(&[1, 2]),
            Peer::Ready,
            Peer::Done,
            Peer::Abort("why".into()),
            Peer::Behind { round: 258 },
            Peer::Words { round: 3, transcript: [9; 32], words: &[7; 8] },
            Peer::Missing { slots: 5 },
            Peer::Vote(Move { slot: Slot(3), spare: 1 }),
            Peer::Replaced(Move { slot: Slot(3), spare: 1 }),
            Peer::Keys { slot: Slot(3), keys: SubsetKeys(vec![(Subset(7), PrgKey([1; 32]))]) },
            Peer::Offer { waits: true, offer: Offer { level: 2, held: 4, checkpoints: vec![(258, [5; 32])] } },
        ];
        for message in &to_node {
            assert_eq!(ToNode::decode(&message.encode()).as_ref(), Some(message));
        }
        for message in &to_owner {
            assert_eq!(ToOwner::decode(&message.encode()).as_ref(), Some(message));
        }
        for message in &peers {
            assert_eq!(Peer::decode(&message.encode()).unwrap().encode(), message.encode());
        }
        let mut all: Vec<String> = to_node.iter().map(|m| hex(&m.encode())).collect();
        all.extend(to_owner.iter().map(|m| hex(&m.encode())));
        all.extend(peers.iter().map(|m| hex(&m.encode())));
        insta::assert_snapshot!(all.join(" "), @"000707070707070707070707070707070707070707070707070707070707070707 010201020203613a3103623a32 0201ac0203090909 030104020506 04080808080808080808080808080808080808080808080808080808080808080801 050909090909090909090909090909090909090909090909090909090909090909 06 070909090909090909090909090909090909090909090909090909090909090909 08ac02020102 090606060606060606060606060606060606060606060606060606060606060606 0a060606060606060606060606060606060606060606060606060606060606060602 00 0101ac02 020203 03020102 0401020304 05 06026e6f 07026168 08 090501010101010101010101010101010101010101010101010101010101010101010001020304020202020202020202020202020202020202020202020202020202020202020201030303030303030303030303030303030303030303030303030303030303030302026e6f0404040404040404040404040404040404040404040404040404040404040404030505050505050505050505050505050505050505050505050505050505050505040204 0aac02 0b0504 0c01038202080808080808080808080808080808080808080808080808080808080808080803010009 0d020506 000102 01 02 03776879 0402010000 050300000009090909090909090909090909090909090909090909090909090909090909090707070707070707 0605000000 070301 080301 0903070000000101010101010101010101010101010101010101010101010101010101010101 0c010200000004000000020100000505050505050505050505050505050505050505050505050505050505050505");
    }

    #[test]
    fn reasons_are_one_short_line() {
        let Some(Peer::Abort(reason)) = Peer::decode(&[&[3][..], "é\n\u{1b}[2J".repeat(400).as_bytes()].concat())
        else {
            panic!()
        };
        assert!(reason.len() <= REASON_LIMIT && !reason.chars().any(char::is_control));
        assert!(Peer::decode(&[3, 0xff, 0xfe]).is_some());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = (ToNode::decode(&bytes), ToOwner::decode(&bytes), Peer::decode(&bytes));
        }
    }
}
