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
//! | `extend` | the material of attempts that the owner deals later |
//! | `session` | one node's side of one job, without sockets or clock: its party, its store, who is there |
//! | `setup` | what a job has on disk: what it is made again from, what was opened |
//! | `catch_up` | what others say was opened |
//! | `attempts` | in which attempt an SPDZ job goes on, and where |
//! | `checkpoints` | the state of a job on disk, sealed |
//! | `resume` | where a job begins that an earlier process had begun |
//! | `replace` | which agent stands at which slot; votes on who takes over from a crashed node |
//! | `spare` | a spare that waits to take over |
//! | `shell` | what carries a session: its thread, its links, its clock |
//!
//! **Who may do what.** Every link ends at a proven identity key. A job is
//! taken from its manifest's signer alone, over the signer's own link, if
//! [`Config::allow`] has that key; its frames from the keys on its roster; its
//! result goes to its owner and to the readers that the manifest names; its
//! owner may cancel it. Anybody may open a link and is refused after one
//! frame of at most 64 KiB.
//!
//! **When something ends.** A node that cannot go on says why, in one line. The others
//! go on if the plan bears the loss, else the job ends at all. A link that breaks
//! is made again; a process that dies takes its jobs up where they are, if they had
//! all their data and can go on: under SPDZ in another attempt, if one is dealt. Nothing is revealed by a job that ends early, and its material
//! is never used again.

mod attempts;
mod catch_up;
mod checkpoints;
mod extend;
mod leaving;
mod replace;
mod resume;
mod session;
mod setup;
mod shell;
mod spare;
mod upload;
mod visit;
pub(crate) mod wire;

#[cfg(test)]
mod attacks;
#[cfg(test)]
mod chaos;
#[cfg(test)]
mod replace_tests;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use crate::backend::Devices;
use crate::entropy::Entropy;
use crate::job::{self, CheckedManifest, Concluded, Duty};
use crate::keys::{PublicKey, SecretKey, hex};
use crate::net::link::Link;
use crate::net::tls::Identity;
use crate::net::{self, NetError};
use crate::roster::Slot;
use crate::store::{self, JobState, Nonce, Store, StoreError};

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
    /// how long an owner or another node may keep a job waiting; usually 60 s.
    /// Past it, a job goes on without those that it can do without
    pub deadline: Duration,
    /// how long a job waits for a node that it cannot do without; usually 600 s,
    /// never less than the deadline
    pub patience: Duration,
    /// how long a node may be away before the others give its slot to a spare, if the job
    /// names any; usually 180 s. Of no use if it is more than the patience
    pub replace_after: Duration,
    /// randomness; a seed is used for jobs that are marked insecure and no others
    pub entropy: Entropy,
    /// where it computes
    pub devices: Arc<Devices>,
    /// caps and time-outs of links
    pub net: net::Limits,
    /// jobs at once; more are refused
    pub max_jobs: usize,
    /// whether it keeps what a job can be taken up again by after the process ends, and what
    /// others may have missed
    pub recovery: bool,
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

/// Serves until `shutdown` completes. Jobs that a previous run left in the middle are
/// taken up again or failed first. Those that are running at the shutdown are left
/// to the next process; if it could not take them up, they fail, and their
/// other nodes are told.
pub async fn serve(
    listener: TcpListener,
    config: Config,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), NodeError> {
    let (node, again) = Node::open(config)?;
    let node = Arc::new(node);
    for Again { duty, addresses, accepted } in again {
        let place = Arc::clone(&node.places).try_acquire_owned().ok();
        let nonce = duty.manifest().manifest().nonce;
        if let Err(reason) = upload::start(&node, duty, (addresses, accepted), place, true) {
            node.config.store.fail(nonce, &reason)?;
        }
    }
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
    /// one answer at a time that holds the state or data of a whole job in memory
    giving: Semaphore,
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
    /// those that are over here and may still be of use to other nodes
    serving: BTreeMap<[u8; 32], Arc<Running>>,
    over: BTreeMap<[u8; 32], Over>,
    done: u64,
    failed: u64,
}

/// A job under way, as links see it.
struct Running {
    manifest: CheckedManifest,
    /// this agent's number: its slot, if it is a node of the roster
    agent: Slot,
    /// what the job can be taken up by is kept
    kept: bool,
    status: watch::Sender<Status>,
    /// what becomes of a segment that comes
    takes: Mutex<Takes>,
    /// links of other agents, by their numbers, on their way to the session
    links: mpsc::UnboundedSender<(Slot, Link)>,
    /// ends the job here, for a reason or with this process; and says that more attempts are held
    orders: mpsc::UnboundedSender<session::Event>,
    /// one owner's link at a time
    extending: tokio::sync::Mutex<()>,
    /// the result, as long as the session lasts: readers who wait for it need not
    /// have it read from the disk again, nor wait for it to be there
    concluded: OnceLock<Arc<Concluded>>,
}

/// Which segments the party takes as they come ([`session::Action::Takes`]).
#[derive(Clone, Copy, Default)]
struct Takes {
    below: u32,
    alone: bool,
}

/// How far a job has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Status {
    /// all inputs are verified
    verified: bool,
    /// and what can be expanded ahead of the first round is
    inputs: bool,
    /// it is a spare that waits
    waits: bool,
    segments: u32,
    segments_of: u32,
    round: u32,
    rounds_of: u32,
    /// it has stopped; the attempt that comes next, counted from 1, and how many are held
    next_attempt: Option<(u32, u32)>,
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

impl Kept {
    /// Its form on disk, in parts.
    fn parts<'a>(parties: &Parties, concluded: &'a Concluded) -> Vec<Cow<'a, [u8]>> {
        let head = postcard::to_stdvec(parties).expect("plain data always encodes");
        wire::with_length(head, concluded.parts())
    }
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

/// A job that an earlier process left in the middle, and that can go on.
struct Again {
    duty: Duty,
    addresses: Vec<String>,
    /// when it was accepted, in unix seconds
    accepted: u64,
}

impl Again {
    /// The job, checked as when it was submitted; or why it cannot go on.
    fn of(key: &SecretKey, store: &Arc<dyn Store>, limits: &job::Limits, job: &store::Job) -> Result<Self, String> {
        let keep = setup::Keep::new(Arc::clone(store), job.nonce);
        let (duty, addresses, accepted) = keep.setup(key, job.digest, limits)?;
        match keep.held(duty.manifest())? >= duty.manifest().manifest().attempts {
            true => Ok(Self { duty, addresses, accepted }),
            false => Err(format!("not all of its {} segments of material are on disk", duty.manifest().segments())),
        }
    }
}

impl Node {
    fn open(config: Config) -> Result<(Self, Vec<Again>), NodeError> {
        let mut again = Vec::new();
        for job in config.store.interrupted()? {
            match Again::of(&config.key, &config.store, &config.limits, &job) {
                Ok(job) => again.push(job),
                Err(why) => {
                    let reason = format!(
                        "the node was restarted in the middle of it, and {why}; its material counts as used up, so submit the job again"
                    );
                    tracing::warn!(job = hex(&job.digest[..8]), why, "interrupted: it is failed");
                    config.store.fail(job.nonce, &reason)?;
                    config.store.forget(job.nonce)?;
                }
            }
        }
        let mut jobs = Jobs::default();
        for job in config.store.jobs()? {
            match job.state {
                JobState::Finished => jobs.done += 1,
                JobState::Failed(_) => jobs.failed += 1,
                JobState::Running => continue,
            }
            jobs.over.insert(job.digest, Over { nonce: job.nonce, parties: None });
        }
        let node = Self {
            identity: Identity::new(&config.key)?,
            jobs: Mutex::new(jobs),
            begun: watch::Sender::new(0),
            places: Arc::new(Semaphore::new(config.max_jobs.min(Semaphore::MAX_PERMITS))),
            early: Semaphore::new(EARLY_LINKS),
            giving: Semaphore::new(1),
            sessions: Mutex::default(),
            checking: Arc::default(),
            config,
        };
        Ok((node, again))
    }

    fn running(&self, digest: &[u8; 32]) -> Option<Arc<Running>> {
        lock(&self.jobs).running.get(digest).cloned()
    }

    /// A job that speaks with other nodes: one that runs, or is over and waits for
    /// those that are behind.
    fn speaking(&self, digest: &[u8; 32]) -> Option<Arc<Running>> {
        let jobs = lock(&self.jobs);
        jobs.running.get(digest).or_else(|| jobs.serving.get(digest)).cloned()
    }

    fn stop_jobs(&self) {
        for job in lock(&self.jobs).running.values() {
            // A session that is gone has ended already.
            let _ = job.orders.send(session::Event::Leave);
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
