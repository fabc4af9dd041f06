//! The owner's and the readers' side of the links to nodes.
//!
//! Nothing is submitted to any node before all of them are linked, so that a
//! node that is down costs no nonce. The material is dealt while it is sent,
//! once for all nodes, no faster than the slowest of them stores it.

mod jobs;
mod leaving;
mod results;
mod submit;

use std::sync::Mutex;
use std::time::Duration;

use super::OwnerError;
use crate::job::{CheckedManifest, JobError};
use crate::keys::{PublicKey, SecretKey};
use crate::net::link::Link;
use crate::net::tls::Identity;
use crate::net::{Limits, NetError, client};
use crate::node::wire::{ToOwner, one_line};
use crate::roster::Slot;

pub(crate) use self::jobs::stopped;
pub use self::jobs::{Ended, Job, JobState, cancel, cancel_each, jobs};
pub use self::leaving::{data, states};
pub use self::results::{fetch, wait};
pub use self::submit::{resume, submit};

/// A node or spare, and where it is reached. What is said of a spare names it by its number after
/// the nodes: spare 1 of four nodes is node 5.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// its key, which it must prove to hold
    pub key: PublicKey,
    /// `host:port` or `ws://host:port/prefix`
    pub address: String,
}

/// How far one node has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// it is linked, and its key is the expected one
    Connected {
        /// which node
        slot: Slot,
    },
    /// it has checked the job and begun it
    Accepted {
        /// which node
        slot: Slot,
    },
    /// it has verified all inputs, and expands ahead what needs no peer
    Verified {
        /// which node
        slot: Slot,
    },
    /// it is ready, and has verified and stored so many segments
    Stored {
        /// which node
        slot: Slot,
        /// segments stored
        segments: u32,
        /// segments in all
        of: u32,
    },
    /// so many rounds of openings are over there
    Round {
        /// which node
        slot: Slot,
        /// rounds done
        round: u32,
        /// rounds in all
        of: u32,
    },
    /// a process was lost: [`JobState::Stopped`]
    Stopped {
        /// which node
        slot: Slot,
        /// the attempt that comes next, counted from 1
        attempt: u32,
        /// of so many that the node holds
        of: u32,
    },
    /// its receipt and sealed shares have arrived
    Done {
        /// which node
        slot: Slot,
    },
}

/// Why a job could not be submitted, awaited, fetched or cancelled.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// A slot of the job has no address.
    #[error("no address is known for {slot} ({key}): name it in the roster file")]
    NoAddress {
        /// the slot
        slot: Slot,
        /// short form of the key that the manifest names
        key: String,
    },
    /// No link, or it broke.
    #[error("{slot}: {source}")]
    Net {
        /// which node
        slot: Slot,
        /// why
        source: NetError,
    },
    /// Our own key cannot be used for links.
    #[error(transparent)]
    Identity(NetError),
    /// A node refused the request; nothing has changed there.
    #[error("{slot} refuses: {reason}")]
    Refused {
        /// which node
        slot: Slot,
        /// in its words, one line
        reason: String,
    },
    /// The job ended at a node without a result.
    #[error("{slot} ended the job: {reason}")]
    Failed {
        /// which node
        slot: Slot,
        /// in its words, one line
        reason: String,
    },
    /// There is no result yet.
    #[error(
        "{slot} is not done: segment {segments} of {segments_of} is stored, round {round} of {rounds_of} is over; ask again later, or wait"
    )]
    NotYet {
        /// which node
        slot: Slot,
        /// segments stored
        segments: u32,
        /// segments in all
        segments_of: u32,
        /// rounds done
        round: u32,
        /// rounds in all
        rounds_of: u32,
    },
    /// There is no result yet, and nobody computes.
    #[error("{slot} is not done: the job {}", stopped(*attempt, *of))]
    Stopped {
        /// which node
        slot: Slot,
        /// the attempt that comes next, counted from 1
        attempt: u32,
        /// of so many that the node holds
        of: u32,
    },
    /// An answer that does not belong here.
    #[error("{slot} answered with {found} bytes that do not belong here: it runs another version or sends garbage")]
    Answer {
        /// which node
        slot: Slot,
        /// length of the answer
        found: usize,
    },
    /// A node's result cannot be read.
    #[error("{slot}: {source}")]
    Result {
        /// which node
        slot: Slot,
        /// why
        source: JobError,
    },
    /// The job itself.
    #[error(transparent)]
    Owner(#[from] OwnerError),
    /// The runtime of a blocking call.
    #[error("this process cannot start an async runtime: {0}")]
    Runtime(std::io::Error),
}

/// How long a node is waited for that is asked for something, until its answer begins.
const ANSWER: Duration = Duration::from_secs(60);

/// How long the other nodes are waited for once enough have answered.
const GRACE: Duration = Duration::from_secs(2);

/// The nodes of a job in slot order, its spares after them, and how to reach them.
struct Peers<'a> {
    nodes: Vec<(Slot, &'a Node)>,
    identity: Identity,
    limits: &'a Limits,
}

impl<'a> Peers<'a> {
    fn of(
        key: &SecretKey,
        manifest: &CheckedManifest,
        nodes: &'a [Node],
        limits: &'a Limits,
        spares: bool,
    ) -> Result<Self, ClientError> {
        let signed = manifest.manifest();
        let find = |(slot, key): (Slot, &PublicKey)| {
            let node = nodes.iter().find(|node| node.key == *key);
            Ok((slot, node.ok_or_else(|| ClientError::NoAddress { slot, key: key.short() })?))
        };
        let spares = signed.spares.iter().filter(|_| spares);
        let agents = (1..).map(Slot).zip(signed.nodes.iter().chain(spares));
        let nodes = agents.map(find).collect::<Result<_, ClientError>>()?;
        Ok(Self { nodes, identity: Identity::new(key).map_err(ClientError::Identity)?, limits })
    }

    fn slots(&self) -> impl Iterator<Item = Slot> + '_ {
        self.nodes.iter().map(|(slot, _)| *slot)
    }

    /// One question, and its answer of at most so many bytes, with its length.
    async fn ask(&self, slot: Slot, frame: &[u8], limit: usize) -> Result<(ToOwner, usize), ClientError> {
        let mut link = self.connect(slot).await?;
        link.set_limit(limit);
        send(slot, &mut link, frame).await?;
        hear(slot, &link.recv().await.map_err(net(slot))?)
    }

    async fn connect(&self, slot: Slot) -> Result<Link, ClientError> {
        let (_, node) = self.nodes[slot.index()];
        client::connect(&node.address, &self.identity, *node.key.identity(), self.limits).await.map_err(net(slot))
    }
}

fn must_own(key: &SecretKey, manifest: &CheckedManifest) -> Result<(), ClientError> {
    let owner = &manifest.manifest().owner;
    if key.public() == *owner {
        return Ok(());
    }
    Err(OwnerError::NotOwner { found: key.public().short(), expected: owner.short() }.into())
}

fn net(slot: Slot) -> impl Fn(NetError) -> ClientError {
    move |source| ClientError::Net { slot, source }
}

fn report(progress: &Mutex<impl FnMut(Progress)>, what: Progress) {
    // A callback that has panicked is not called again.
    if let Ok(mut progress) = progress.lock() {
        progress(what);
    }
}

async fn send(slot: Slot, link: &mut Link, frame: &[u8]) -> Result<(), ClientError> {
    link.send(frame).await.map_err(net(slot))?;
    link.flush().await.map_err(net(slot))
}

/// An answer and its length; refusals and failures become errors.
fn hear(slot: Slot, frame: &[u8]) -> Result<(ToOwner, usize), ClientError> {
    match ToOwner::decode(frame) {
        Some(ToOwner::Refused(reason)) => Err(ClientError::Refused { slot, reason: one_line(&reason) }),
        Some(ToOwner::Failed(reason)) => Err(ClientError::Failed { slot, reason: one_line(&reason) }),
        Some(answer) => Ok((answer, frame.len())),
        None => Err(ClientError::Answer { slot, found: frame.len() }),
    }
}
