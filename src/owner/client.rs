//! The owner's and the readers' side of the links to nodes.
//!
//! Nothing is submitted to any node before all of them are linked, so that a
//! node that is down costs no nonce. The material is dealt while it is sent,
//! once for all nodes, no faster than the slowest of them stores it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::try_join_all;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use zeroize::Zeroizing;

use super::{Dealing, Held, OwnerError, Prepared, Ticket, read};
use crate::job::{CheckedManifest, Concluded, JobError, compare};
use crate::keys::{PublicKey, SecretKey};
use crate::net::link::{Link, Receiver, Sender};
use crate::net::tls::Identity;
use crate::net::{Limits, NetError, client};
use crate::node::wire::{INPUT_CHUNK, KEPT, StateOf, ToNode, ToOwner, ToldState, one_line};
use crate::program::plan::Plan;
use crate::roster::{Scheme, Slot};
use crate::transcript::SignedHeader;

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

/// Gives a job to its nodes and spares. Returns when every one of them has verified and stored
/// everything, so that the owner may leave; the job runs meanwhile. If this
/// fails, or is dropped, the job ends at all nodes and its nonce is used up.
pub async fn submit(
    prepared: &Prepared,
    owner: &SecretKey,
    nodes: &[Node],
    limits: &Limits,
    progress: impl FnMut(Progress),
) -> Result<(), ClientError> {
    must_own(owner, prepared.manifest())?;
    let stream = prepared.stream()?;
    let peers = Peers::of(owner, prepared.manifest(), nodes, limits, true)?;
    let progress = Mutex::new(progress);
    let say = |p| report(&progress, p);
    let links = try_join_all(peers.slots().map(async |slot| {
        let link = peers.connect(slot).await?;
        say(Progress::Connected { slot });
        Ok::<_, ClientError>((slot, link))
    }))
    .await?;
    let addresses: Vec<String> = peers.nodes.iter().map(|(_, node)| node.address.clone()).collect();
    let links = try_join_all(links.into_iter().map(async |(slot, mut link)| {
        let assignment = match prepared.manifest().node(slot) {
            Some(_) => prepared.assignment(slot),
            None => prepared.spare_assignment(),
        };
        let assignment = assignment.to_bytes();
        let frame = ToNode::Submit { assignment: &assignment, peers: addresses.clone() }.encode();
        send(slot, &mut link, &frame).await?;
        match hear(slot, &link.recv().await.map_err(net(slot))?)? {
            (ToOwner::Accepted, _) => say(Progress::Accepted { slot }),
            (_, found) => return Err(ClientError::Answer { slot, found }),
        }
        Ok((slot, link))
    }))
    .await?;

    give(links, stream, prepared.inputs(), &say).await
}

/// Deals so many more attempts to an SPDZ job that runs, or waits for them, and returns how many there are then in
/// all. If this fails, or is dropped, nothing is lost: it is begun again, and deals the same.
pub async fn resume(
    owner: &Arc<SecretKey>,
    ticket: &Ticket,
    nodes: &[Node],
    limits: &Limits,
    more: u32,
    progress: impl FnMut(Progress),
) -> Result<u32, ClientError> {
    let dealing = Dealing::again(owner, ticket)?;
    let signed = dealing.manifest().manifest().attempts;
    // Before anybody is asked.
    dealing.extension(signed.saturating_add(more))?;
    let limits = Limits { idle: limits.idle.min(2 * ANSWER), ..limits.clone() };
    let peers = Peers::of(owner, dealing.manifest(), nodes, &limits, false)?;
    let progress = Mutex::new(progress);
    let say = |p| report(&progress, p);
    let frame = ToNode::Extend { manifest: dealing.manifest().digest() }.encode();
    let links = try_join_all(peers.slots().map(async |slot| {
        let mut link = peers.connect(slot).await?;
        send(slot, &mut link, &frame).await?;
        match hear(slot, &link.recv().await.map_err(net(slot))?)? {
            (ToOwner::Holds { attempts }, _) => {
                say(Progress::Connected { slot });
                Ok(((slot, link), attempts))
            }
            (_, found) => Err(ClientError::Answer { slot, found }),
        }
    }))
    .await?;
    // An earlier run may have come to some of them only.
    let from = links.iter().map(|(_, held)| *held).min().unwrap_or_default().max(signed);
    let attempts = from.saturating_add(more);
    let statement = dealing.extension(attempts)?.to_bytes();
    let frame = ToNode::Extension { from, statement: &statement }.encode();
    let links = try_join_all(links.into_iter().map(async |((slot, mut link), _)| {
        send(slot, &mut link, &frame).await?;
        Ok::<_, ClientError>((slot, link))
    }))
    .await?;
    let streams = (from..attempts).map(|attempt| dealing.stream_of(attempt)).collect::<Result<Vec<_>, _>>()?;
    give(links, streams.into_iter().flatten(), &[], &say).await?;
    Ok(attempts)
}

/// Deals a stream while it is sent, and sees that all have stored it.
async fn give(
    links: Vec<(Slot, Link)>,
    stream: impl Iterator<Item = (SignedHeader, Vec<u8>)> + Send + 'static,
    inputs: &[Vec<u8>],
    say: &impl Fn(Progress),
) -> Result<(), ClientError> {
    let (queues, streams): (Vec<_>, Vec<_>) = links.iter().map(|_| mpsc::channel::<Bytes>(AHEAD)).unzip();
    // The dealer stops by itself when nobody takes its segments any more.
    let dealing = tokio::task::spawn_blocking(move || deal(stream, &queues));
    try_join_all(links.into_iter().zip(streams).map(async |((slot, link), segments)| {
        let (sender, mut receiver) = link.split();
        let sent = upload(slot, sender, inputs, segments);
        let stored = until_stored(slot, &mut receiver, say);
        tokio::pin!(sent, stored);
        tokio::select! {
            stored = &mut stored => stored,
            sent = &mut sent => match sent {
                Ok(_sender) => stored.await,
                // Why a node takes nothing more is what it said last.
                Err(error) => match timeout(LAST_WORDS, stored).await {
                    Ok(Err(said @ (ClientError::Failed { .. } | ClientError::Refused { .. }))) => Err(said),
                    _ => Err(error),
                },
            },
        }
    }))
    .await?;
    // All segments have arrived everywhere, so it has ended.
    drop(dealing);
    Ok(())
}

/// Waits until the job is over at enough nodes for [`read`](super::read), and a
/// moment for the others, and returns their receipts and sealed shares. A node
/// that cannot be reached is tried again for a minute.
pub async fn wait(
    key: &SecretKey,
    ticket: &Ticket,
    nodes: &[Node],
    limits: &Limits,
    progress: impl FnMut(Progress),
) -> Result<Vec<Concluded>, ClientError> {
    results(key, ticket, nodes, limits, true, progress).await
}

/// Returns the receipts and sealed shares of all nodes that have them now, or,
/// if they are too few, an error that says how far the job is.
pub async fn fetch(
    key: &SecretKey,
    ticket: &Ticket,
    nodes: &[Node],
    limits: &Limits,
) -> Result<Vec<Concluded>, ClientError> {
    results(key, ticket, nodes, limits, false, |_| {}).await
}

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

/// The longest list of jobs that is taken from a node.
const JOBS_LIMIT: usize = 1 << 20;

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

/// The checkpoints of a running job, from its nodes, and why some did not give theirs. For
/// [`Moving::find`](super::Moving::find). Once 2t + 1 nodes have answered, the others are waited for as long again.
pub async fn states(
    owner: &SecretKey,
    ticket: &Ticket,
    nodes: &[Node],
    limits: &Limits,
) -> Result<(Vec<Held>, Vec<ClientError>), ClientError> {
    let (manifest, plan) = ticket.check()?;
    let limits = Limits { idle: limits.idle.min(ANSWER), ..limits.clone() };
    // Whoever moves a job tells its spares too in the end, so that all addresses are needed.
    let peers = Peers::of(owner, &manifest, nodes, &limits, true)?;
    let words = plan.checkpoints().into_iter().map(|round| plan.live(round).words() as usize).max();
    let limit = KEPT as usize * (8 * words.unwrap_or(0) + 1024) + limits.first_frames;
    let frame = ToNode::State { manifest: manifest.digest() }.encode();
    let mut asked: FuturesUnordered<_> = peers
        .slots()
        // A spare that was called to a slot is not asked: nobody but the old nodes could tell who has been.
        .filter(|slot| manifest.node(*slot).is_some())
        .map(async |slot| {
            let (told, found) = peers.ask(slot, &frame, limit).await?;
            let ToOwner::State(told) = told else { return Err(ClientError::Answer { slot, found }) };
            // A node speaks for its own slot.
            Ok(told.into_iter().take(KEPT as usize).filter(|held| held.slot == slot.0).map(held_by).collect::<Vec<_>>())
        })
        .collect();
    let (began, mut until) = (Instant::now(), None);
    let (mut held, mut missing, mut answers) = (Vec::new(), Vec::new(), 0);
    loop {
        let answer = match until {
            Some(until) => tokio::select! { answer = asked.next() => answer, () = sleep_until(until) => None },
            None => asked.next().await,
        };
        match answer {
            None => return Ok((held, missing)),
            Some(Ok(told)) => {
                answers += 1;
                held.extend(told);
            }
            Some(Err(error)) => missing.push(error),
        }
        if until.is_none() && answers >= manifest.manifest().roster.to_read() {
            until = Some(Instant::now() + began.elapsed().max(GRACE));
        }
    }
}

fn held_by(mut told: StateOf) -> Held {
    let state = Zeroizing::new(std::mem::take(&mut told.state));
    Held { slot: Slot(told.slot), round: told.round, transcript: told.transcript, state }
}

/// Δ of some inputs of a running job, from the first node that gives the signed one. For
/// [`Moving::prepare`](super::Moving::prepare).
pub async fn data(
    owner: &SecretKey,
    ticket: &Ticket,
    nodes: &[Node],
    limits: &Limits,
    inputs: impl IntoIterator<Item = u32>,
) -> Result<BTreeMap<u32, Vec<u8>>, ClientError> {
    let (manifest, _) = ticket.check()?;
    let limits = Limits { idle: limits.idle.min(ANSWER), ..limits.clone() };
    let peers = Peers::of(owner, &manifest, nodes, &limits, false)?;
    let mut given = BTreeMap::new();
    for number in inputs {
        let words = manifest.manifest().inputs.get(number as usize).map_or(0, |entry| entry.words);
        let limit = 8 * words as usize + limits.first_frames;
        let frame = ToNode::Data { manifest: manifest.digest(), number }.encode();
        // All at once, so that one that is slow costs nothing.
        let ask = async |slot: Slot| match peers.ask(slot, &frame, limit).await? {
            (ToOwner::Data(bytes), found) => match manifest.accept_input(number, &bytes) {
                Some(Ok(_)) => Ok(bytes),
                _ => Err(ClientError::Answer { slot, found }),
            },
            (_, found) => Err(ClientError::Answer { slot, found }),
        };
        let asked = peers.slots().map(|slot| Box::pin(ask(slot)));
        let (bytes, _) = futures_util::future::select_ok(asked).await?;
        given.insert(number, bytes);
    }
    Ok(given)
}

/// How long a node is waited for that is asked for something, until its answer begins.
const ANSWER: Duration = Duration::from_secs(60);

/// Segments that wait for one node.
const AHEAD: usize = 8;
/// How long the other nodes are waited for once enough have answered.
const GRACE: Duration = Duration::from_secs(2);
/// How long a node that is gone is waited for, and how often it is tried.
const LOST: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_millis(500);
/// How long a node's reason is waited for after its link broke.
const LAST_WORDS: Duration = Duration::from_secs(2);

async fn results(
    key: &SecretKey,
    ticket: &Ticket,
    nodes: &[Node],
    limits: &Limits,
    wait: bool,
    progress: impl FnMut(Progress),
) -> Result<Vec<Concluded>, ClientError> {
    let (manifest, plan) = ticket.check()?;
    let peers = Peers::of(key, &manifest, nodes, limits, false)?;
    let limit = longest_result(&plan).max(limits.first_frames);
    let progress = Mutex::new(progress);
    let asked = Asked { peers: &peers, manifest: manifest.digest(), limit, wait };
    let mut asked: FuturesUnordered<_> = peers.slots().map(|slot| asked.result(slot, &progress)).collect();
    let (mut concluded, mut failed) = (Vec::new(), None);
    let roster = manifest.manifest().roster;
    // Enough nodes are enough, but whoever is about to answer is heard.
    let mut grace = None;
    loop {
        let patience = async {
            match grace {
                Some(until) => sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        let answer = tokio::select! {
            answer = asked.next() => answer,
            () = patience => None,
        };
        match answer {
            Some(Ok(result)) => concluded.push(result),
            // What a node says of the job tells more than that it cannot be reached.
            Some(Err(error)) if failed.as_ref().is_none_or(|f| matches!(f, ClientError::Net { .. })) => {
                failed = Some(error);
            }
            Some(Err(_)) => {}
            // Enough receipts may come with too few shares that can be read.
            None if !asked.is_empty() && !is_enough(key, ticket, &concluded) => {
                grace = Some(Instant::now() + GRACE);
            }
            None => break,
        }
        if asked.len() + concluded.len() < roster.to_read() {
            break;
        }
        let receipts: Vec<_> = concluded.iter().map(|c: &Concluded| c.receipt.clone()).collect();
        if grace.is_none() && compare(&receipts, &manifest).is_ok() {
            grace = Some(Instant::now() + GRACE);
        }
    }
    match failed {
        Some(failed) if grace.is_none() => Err(failed),
        _ => Ok(concluded),
    }
}

/// Whether others need not be waited for.
fn is_enough(key: &SecretKey, ticket: &Ticket, concluded: &[Concluded]) -> bool {
    matches!(read(key, ticket, concluded), Ok(_) | Err(OwnerError::NotAReader { .. }))
}

/// What is asked of every node.
struct Asked<'a> {
    peers: &'a Peers<'a>,
    manifest: [u8; 32],
    limit: usize,
    wait: bool,
}

impl Asked<'_> {
    /// A node's result. Who waits asks a node that is gone again, since it may
    /// be started again.
    async fn result(&self, slot: Slot, progress: &Mutex<impl FnMut(Progress)>) -> Result<Concluded, ClientError> {
        let mut reached = Instant::now();
        loop {
            match self.ask(slot, progress, &mut reached).await {
                Err(ClientError::Net { .. }) if self.wait && reached.elapsed() < LOST => sleep(AGAIN).await,
                answer => return answer,
            }
        }
    }

    async fn ask(
        &self,
        slot: Slot,
        progress: &Mutex<impl FnMut(Progress)>,
        reached: &mut Instant,
    ) -> Result<Concluded, ClientError> {
        let mut link = self.peers.connect(slot).await?;
        link.set_limit(self.limit);
        send(slot, &mut link, &ToNode::Fetch { manifest: self.manifest, wait: self.wait }.encode()).await?;
        loop {
            let answer = link.recv().await.map_err(net(slot))?;
            *reached = Instant::now();
            if let Some(bytes) = ToOwner::concluded(&answer) {
                let (found, start) = (answer.len(), answer.len() - bytes.len());
                let concluded = Concluded::from_message(answer.into(), start);
                let concluded = concluded.map_err(|source| ClientError::Result { slot, source })?;
                // Nobody speaks for another node.
                if concluded.receipt.claimed().slot != slot {
                    return Err(ClientError::Answer { slot, found });
                }
                report(progress, Progress::Done { slot });
                return Ok(concluded);
            }
            match hear(slot, &answer)? {
                (ToOwner::Round { round, of }, _) => report(progress, Progress::Round { slot, round, of }),
                (ToOwner::Stopped { attempt, of }, _) if self.wait => {
                    report(progress, Progress::Stopped { slot, attempt, of });
                }
                (ToOwner::Stopped { attempt, of }, _) => return Err(ClientError::Stopped { slot, attempt, of }),
                (ToOwner::Running { segments, segments_of, round, rounds_of }, _) => {
                    return Err(ClientError::NotYet { slot, segments, segments_of, round, rounds_of });
                }
                (_, found) => return Err(ClientError::Answer { slot, found }),
            }
        }
    }
}

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

/// Deals the stream once, for all nodes.
fn deal(stream: impl Iterator<Item = (SignedHeader, Vec<u8>)>, queues: &[mpsc::Sender<Bytes>]) {
    for (header, bytes) in stream {
        let mut frame = ToNode::Segment { header: &header.to_bytes(), bytes: &bytes }.encode();
        let frame = Bytes::from(std::mem::take(&mut *frame));
        for queue in queues {
            // Its node's own error ends the submission.
            if queue.blocking_send(frame.clone()).is_err() {
                return;
            }
        }
    }
}

/// Sends inputs and segments; gives the sender back, since the link lasts as
/// long as both its halves.
async fn upload(
    slot: Slot,
    mut sender: Sender,
    inputs: &[Vec<u8>],
    mut segments: mpsc::Receiver<Bytes>,
) -> Result<Sender, ClientError> {
    for (number, input) in (0..).zip(inputs) {
        for (part, bytes) in (0u64..).zip(input.chunks(INPUT_CHUNK)) {
            let frame: Zeroizing<Vec<u8>> = ToNode::Input { number, offset: part * INPUT_CHUNK as u64, bytes }.encode();
            sender.send(&frame).await.map_err(net(slot))?;
        }
    }
    sender.flush().await.map_err(net(slot))?;
    while let Some(frame) = segments.recv().await {
        sender.send(&frame).await.map_err(net(slot))?;
        sender.flush().await.map_err(net(slot))?;
    }
    Ok(sender)
}

async fn until_stored(slot: Slot, receiver: &mut Receiver, say: &impl Fn(Progress)) -> Result<(), ClientError> {
    loop {
        match hear(slot, &receiver.recv().await.map_err(net(slot))?)? {
            (ToOwner::Stored { segments, of }, _) => {
                say(Progress::Stored { slot, segments, of });
                if segments == of {
                    return Ok(());
                }
            }
            (ToOwner::Round { round, of }, _) => say(Progress::Round { slot, round, of }),
            (ToOwner::Verified, _) => say(Progress::Verified { slot }),
            (_, found) => return Err(ClientError::Answer { slot, found }),
        }
    }
}

/// The most bytes of a result: what its plan says, sealed, with a receipt.
fn longest_result(plan: &Plan) -> usize {
    let words_each = if plan.roster.scheme() == Scheme::Spdz { 2 } else { 1 };
    let sealed = plan.outputs.iter().map(|output| 8 * words_each * output.shape.len() + 1024);
    sealed.sum::<usize>() + (64 << 10)
}
