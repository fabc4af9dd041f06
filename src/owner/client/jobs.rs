//! What an agent tells of its jobs, and their end.

use super::{ANSWER, ClientError, Node, Peers, hear, net, send};
use crate::keys::SecretKey;
use crate::net::tls::Identity;
use crate::net::{Limits, client};
use crate::node::wire::{ToNode, ToOwner, ToldState, one_line};
use crate::owner::Ticket;
use crate::roster::Slot;

/// The longest list of jobs that is taken from a node.
const JOBS_LIMIT: usize = 1 << 20;

/// A job at one node, as it tells its owner or a reader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// the manifest's digest, which names it
    pub manifest: [u8; 32],
    /// how far it is
    pub state: JobState,
}

/// How far a job is at one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobState {
    /// it is under way
    Running {
        /// segments stored
        segments: u32,
        /// segments in all
        segments_of: u32,
        /// rounds done
        round: u32,
        /// rounds in all; 0 before the first
        rounds_of: u32,
    },
    /// its result can be fetched
    Done,
    /// it ended without a result: why, in the node's words
    Failed(String),
    /// the agent is a spare that holds all data and waits to take over
    Spare,
    /// a process was lost, and the job goes on when all nodes are back, or its owner is
    Stopped {
        /// in this attempt, counted from 1
        attempt: u32,
        /// of so many that the node holds: if fewer, the owner must deal more
        of: u32,
    },
}

/// What a job waits for that has lost a process.
pub(crate) fn stopped(attempt: u32, of: u32) -> String {
    match attempt <= of {
        true => format!("has lost a process: attempt {attempt} of {of} begins when all nodes are back"),
        false => format!("waits for its owner: a process was lost in the last of {of} attempts; run beaverdam resume"),
    }
}

/// The jobs whose result this key may have, at one node: those under way, then at most 256
/// that are over. `slot` names the node in errors.
pub async fn jobs(key: &SecretKey, slot: Slot, node: &Node, limits: &Limits) -> Result<Vec<Job>, ClientError> {
    let identity = Identity::new(key).map_err(ClientError::Identity)?;
    let mut link = client::connect(&node.address, &identity, *node.key.identity(), limits).await.map_err(net(slot))?;
    link.set_limit(JOBS_LIMIT.max(limits.first_frames));
    send(slot, &mut link, &ToNode::Jobs.encode()).await?;
    let (told, found) = hear(slot, &link.recv().await.map_err(net(slot))?)?;
    let ToOwner::Jobs(told) = told else { return Err(ClientError::Answer { slot, found }) };
    let state = |state| match state {
        ToldState::Running { segments, segments_of, round, rounds_of } => {
            JobState::Running { segments, segments_of, round, rounds_of }
        }
        ToldState::Done => JobState::Done,
        ToldState::Failed(reason) => JobState::Failed(one_line(&reason)),
        ToldState::Spare => JobState::Spare,
        ToldState::Stopped { attempt, of } => JobState::Stopped { attempt, of },
    };
    Ok(told.into_iter().map(|told| Job { manifest: told.manifest, state: state(told.state) }).collect())
}

/// Ends a running job at all nodes and spares that can be reached; the first that
/// could not is the error. What is over stays as it is.
pub async fn cancel(owner: &SecretKey, ticket: &Ticket, nodes: &[Node], limits: &Limits) -> Result<(), ClientError> {
    cancel_each(owner, ticket, nodes, limits).await?.into_iter().try_for_each(|(_, ended)| ended)
}

/// What became of a cancellation at one node.
pub type Ended = Result<(), ClientError>;

/// The same, with what became of it at each node and spare: whether it says that the job has ended there without a
/// result and is erased.
pub async fn cancel_each(
    owner: &SecretKey,
    ticket: &Ticket,
    nodes: &[Node],
    limits: &Limits,
) -> Result<Vec<(Slot, Ended)>, ClientError> {
    let (manifest, _) = ticket.check()?;
    // A node waits for the end of the job before it answers.
    let limits = Limits { idle: limits.idle.min(2 * ANSWER), ..limits.clone() };
    let peers = Peers::of(owner, &manifest, nodes, &limits, true)?;
    let frame = ToNode::Cancel { manifest: manifest.digest() }.encode();
    let asked = peers.slots().map(async |slot| {
        let ended = peers.ask(slot, &frame, limits.first_frames).await;
        let ended = ended.and_then(|(answer, found)| match answer {
            ToOwner::Cancelled => Ok(()),
            _ => Err(ClientError::Answer { slot, found }),
        });
        (slot, ended)
    });
    Ok(futures_util::future::join_all(asked).await)
}
