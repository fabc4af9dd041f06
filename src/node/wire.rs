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

use crate::engine::frame::Frame;
use crate::field::Fp61;
use crate::field::slice::{as_bytes, encode_words};
use crate::job::Concluded;
use crate::net::Message;

/// The longest first frame of an owner that the node serves: an assignment.
pub(crate) const SUBMIT_LIMIT: usize = 4 << 20;
/// Bytes of an input in one frame, at most.
pub(crate) const INPUT_CHUNK: usize = 1 << 20;
/// The longest frame of an owner that uploads: a chunk or a segment.
pub(crate) const UPLOAD_LIMIT: usize = INPUT_CHUNK + 1024;
/// The longest reason that is told to others, in bytes.
pub(crate) const REASON_LIMIT: usize = 512;
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
    Running { segments: u32, segments_of: u32, round: u32, rounds_of: u32 },
    Done,
    Failed(String),
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

    /// The wire form.
    pub(crate) fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("plain data always encodes")
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
#[derive(Debug, PartialEq, Eq)]
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
}

impl<'a> Peer<'a> {
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
            ]),
        ];
        let peers = [
            Peer::Frame(&[1, 2]),
            Peer::Ready,
            Peer::Done,
            Peer::Abort("why".into()),
            Peer::Behind { round: 258 },
            Peer::Words { round: 3, transcript: [9; 32], words: &[7; 8] },
        ];
        for message in &to_node {
            assert_eq!(ToNode::decode(&message.encode()).as_ref(), Some(message));
        }
        for message in &to_owner {
            assert_eq!(ToOwner::decode(&message.encode()).as_ref(), Some(message));
        }
        for message in &peers {
            assert_eq!(Peer::decode(&message.encode()).as_ref(), Some(message));
        }
        let mut all: Vec<String> = to_node.iter().map(|m| hex(&m.encode())).collect();
        all.extend(to_owner.iter().map(|m| hex(&m.encode())));
        all.extend(peers.iter().map(|m| hex(&m.encode())));
        insta::assert_snapshot!(all.join(" "), @"000707070707070707070707070707070707070707070707070707070707070707 010201020203613a3103623a32 0201ac0203090909 030104020506 04080808080808080808080808080808080808080808080808080808080808080801 050909090909090909090909090909090909090909090909090909090909090909 06 00 0101ac02 020203 03020102 0401020304 05 06026e6f 07026168 08 090301010101010101010101010101010101010101010101010101010101010101010001020304020202020202020202020202020202020202020202020202020202020202020201030303030303030303030303030303030303030303030303030303030303030302026e6f 000102 01 02 03776879 0402010000 050300000009090909090909090909090909090909090909090909090909090909090909090707070707070707");
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
