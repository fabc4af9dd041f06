//! The agent: a long-running node that takes jobs from the owners it serves,
//! computes them with the other nodes of their rosters, and keeps the results
//! for their readers.
//!
//! It is the thin shell that gives [`engine`](crate::engine)s sockets, disk
//! and clock. It must never know what a share or an opened word means.
//!
//! | file | holds |
//! |---|---|
//! | `wire` | what travels inside links |
//! | `visit` | one link: an owner, a reader, or another node |
//! | `upload` | a job's inputs and material on their way from the owner to the store |
//! | `session` | one job: its links to the other nodes, its clock, its end |
//! | `engine_thread` | the engine of a job, and what it must have on disk |
//!
//! **Who may do what.** Every link ends at a proven identity key. A job is
//! taken from its manifest's signer alone, over the signer's own link, if
//! [`Config::allow`] has that key; its frames from the keys on its roster; its
//! result goes to its owner and to the readers that the manifest names; its
//! owner may cancel it. Anybody may open a link and is refused after one
//! frame of at most 64 KiB.
//!
//! **When something ends.** A job that fails at one node, for whatever reason,
//! ends at all: the node says why, in one line, and the links that it drops
//! say so in any case. Nothing is revealed by a job that ends early, and its
//! material is never used again.

mod engine_thread;
mod session;
mod upload;
mod visit;
pub(crate) mod wire;

#[cfg(test)]
mod attacks;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use crate::backend::Devices;
use crate::entropy::Entropy;
use crate::job::{self, CheckedManifest};
use crate::keys::{PublicKey, SecretKey, hex};
use crate::net::link::Link;
use crate::net::tls::Identity;
use crate::net::{self, NetError};
use crate::roster::Slot;
use crate::store::{JobState, Nonce, Store, StoreError};

/// Whose jobs a node takes.
#[derive(Clone, Debug)]
pub enum Allow {
    /// everybody's: for tests and closed networks
    Any,
    /// those of these keys
    Keys(BTreeSet<PublicKey>),
}

/// How a node runs.
pub struct Config {
    /// the node's key
    pub key: Arc<SecretKey>,
    /// whose jobs it takes
    pub allow: Allow,
    /// its memory; it belongs to this node alone
    pub store: Arc<dyn Store>,
    /// what one job may ask for
    pub limits: job::Limits,
    /// how long an owner or another node may keep a job waiting; usually 60 s
    pub deadline: Duration,
    /// randomness; a seed is used for jobs that are marked insecure and no others
    pub entropy: Entropy,
    /// where it computes
    pub devices: Arc<Devices>,
    /// caps and time-outs of links
    pub net: net::Limits,
    /// jobs at once; more are refused
    pub max_jobs: usize,
}

/// Why a node cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The port, or the node's key.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The node's memory.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Serves until `shutdown` completes. Jobs that a previous run left behind are
/// failed first; those that are running at the shutdown fail, and their other
/// nodes are told.
pub async fn serve(
    listener: TcpListener,
    config: Config,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), NodeError> {
    let node = Arc::new(Node::open(config)?);
    let (visited, asked) = (Arc::clone(&node), Arc::clone(&node));
    let served = net::server::serve(
        listener,
        &node.identity,
        node.config.net.clone(),
        // Readers and other nodes come by keys that only their job names.
        |_| true,
        move |link| visit::visit(Arc::clone(&visited), link),
        move || asked.health(),
        async {
            shutdown.await;
            node.stop_jobs();
        },
    )
    .await;
    node.stop_jobs();
    let mut sessions = std::mem::take(&mut *lock(&node.sessions));
    // They only say goodbye now; whoever does not listen is left.
    let _ = tokio::time::timeout(2 * session::LINGER, async { while sessions.join_next().await.is_some() {} }).await;
    Ok(served?)
}

/// What all links and jobs of a node share.
struct Node {
    config: Config,
    identity: Identity,
    jobs: Mutex<Jobs>,
    /// changes whenever a job has begun
    begun: watch::Sender<u64>,
    /// places for jobs
    places: Arc<Semaphore>,
    /// places for links of nodes whose job is not known here yet
    early: Semaphore,
    sessions: Mutex<JoinSet<()>>,
    /// microseconds that jobs spent in checks
    checking: Arc<AtomicU64>,
}

/// Links of other nodes that wait for a job which its owner has not submitted
/// here yet.
const EARLY_LINKS: usize = 64;

/// Jobs by the digest of their manifest.
#[derive(Default)]
struct Jobs {
    running: BTreeMap<[u8; 32], Arc<Running>>,
    over: BTreeMap<[u8; 32], Over>,
    done: u64,
    failed: u64,
}

/// A job under way, as links see it.
struct Running {
    manifest: CheckedManifest,
    slot: Slot,
    status: watch::Sender<Status>,
    /// links of other nodes, on their way to the session
    links: mpsc::UnboundedSender<(Slot, Link)>,
    /// reasons to end the job
    stop: mpsc::UnboundedSender<String>,
}

/// How far a job has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Status {
    /// all inputs are verified
    verified: bool,
    /// and what can be expanded ahead of the first round is
    inputs: bool,
    segments: u32,
    segments_of: u32,
    round: u32,
    rounds_of: u32,
    /// it is over; if without a result, why
    end: Option<Result<(), String>>,
}

/// A job that is over. Who may ask for it is not known if it failed before
/// the node was last started.
struct Over {
    nonce: Nonce,
    parties: Option<Parties>,
}

/// The identity keys of those who may ask for a result.
#[derive(Clone, Serialize, Deserialize)]
struct Parties(BTreeSet<[u8; 32]>);

/// What the store keeps of a finished job.
#[derive(Serialize, Deserialize)]
struct Kept {
    parties: Parties,
    /// [`Concluded`](crate::job::Concluded)
    #[serde(with = "serde_bytes")]
    concluded: Vec<u8>,
}

impl Parties {
    fn of(manifest: &CheckedManifest) -> Self {
        let manifest = manifest.manifest();
        let readers = manifest.outputs.iter().map(|output| *output.reader.identity());
        Self(readers.chain([*manifest.owner.identity()]).collect())
    }
}

impl Allow {
    fn identity(&self, key: &[u8; 32]) -> bool {
        match self {
            Self::Any => true,
            Self::Keys(keys) => keys.iter().any(|k| k.identity() == key),
        }
    }
    fn key(&self, key: &PublicKey) -> bool {
        match self {
            Self::Any => true,
            Self::Keys(keys) => keys.contains(key),
        }
    }
}

impl Node {
    fn open(config: Config) -> Result<Self, NodeError> {
        for job in config.store.interrupted()? {
            let reason =
                "the node was restarted in the middle of it; its material counts as used up, so submit the job again";
            tracing::warn!(job = hex(&job.digest[..8]), "interrupted: it is failed");
            config.store.fail(job.nonce, reason)?;
            config.store.forget(job.nonce)?;
        }
        let mut jobs = Jobs::default();
        for job in config.store.jobs()? {
            match job.state {
                JobState::Finished => jobs.done += 1,
                _ => jobs.failed += 1,
            }
            jobs.over.insert(job.digest, Over { nonce: job.nonce, parties: None });
        }
        Ok(Self {
            identity: Identity::new(&config.key)?,
            jobs: Mutex::new(jobs),
            begun: watch::Sender::new(0),
            places: Arc::new(Semaphore::new(config.max_jobs.min(Semaphore::MAX_PERMITS))),
            early: Semaphore::new(EARLY_LINKS),
            sessions: Mutex::default(),
            checking: Arc::default(),
            config,
        })
    }

    fn running(&self, digest: &[u8; 32]) -> Option<Arc<Running>> {
        lock(&self.jobs).running.get(digest).cloned()
    }

    fn stop_jobs(&self) {
        for job in lock(&self.jobs).running.values() {
            // A session that is gone has ended already.
            let _ = job.stop.send("this node was shut down".to_owned());
        }
    }

    /// One JSON object for anybody: no names, no owners.
    fn health(&self) -> String {
        let jobs = lock(&self.jobs);
        format!(
            "{{\"version\":\"{}\",\"key\":\"{}\",\"jobs_running\":{},\"jobs_done\":{},\"jobs_failed\":{},\"check_seconds\":{:.6}}}",
            env!("CARGO_PKG_VERSION"),
            self.config.key.public(),
            jobs.running.len(),
            jobs.done,
            jobs.failed,
            self.checking.load(Ordering::Relaxed) as f64 / 1e6
        )
    }
}

/// No critical section of this room leaves its data half-changed, so a panic
/// elsewhere harms nothing behind the lock.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The start of a key, for logs and refusals.
fn short(key: &[u8; 32]) -> String {
    format!("{}…", hex(&key[..8]))
}
