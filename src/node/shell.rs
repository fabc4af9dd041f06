//! What carries an [`Actor`], a session or a spare: its thread, its links to the other nodes, its
//! clock, and what others are told of it.
//!
//! The lower of two agents dials, nodes by their slots before spares, again and again while the job lasts; the
//! higher accepts. A new link takes the place of the one before it: only the holder of
//! the peer's key can make one, and whoever lets its own links break harms nobody else.
//!
//! Nothing here waits for one peer. What finds no room in the queue of a peer that does not
//! read is dropped; it will say what it lacks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::session::{Action, Event, Timer};
use super::spare::Actor;
use super::wire::{KEYS_LIMIT, REASON_LIMIT, ToNode};
use super::{Node, Over, Parties, Running, Takes, lock};
use crate::engine::largest_frame;
use crate::keys::hex;
use crate::net::link::Link;
use crate::net::mesh::LinkMesh;
use crate::net::{Message, NetError, Transport, client};
use crate::program::plan::Plan;
use crate::roster::Slot;

/// A session's event, and the room of a frame among those that wait for it.
pub(super) struct Letter {
    event: Event,
    _room: Option<OwnedSemaphorePermit>,
}

impl From<Event> for Letter {
    fn from(event: Event) -> Self {
        Self { event, _room: None }
    }
}

/// Runs a session until it is closed or nobody is left to speak to it. It
/// computes and waits for the disk: on a thread of its own.
///
/// Adds the microseconds of checks to `checking`.
pub(super) fn run(
    mut actor: Actor,
    mut letters: UnboundedReceiver<Letter>,
    actions: &UnboundedSender<Action>,
    checking: &AtomicU64,
) {
    let mut check = None;
    loop {
        let done = match if actor.prepares() { Err(TryRecvError::Empty) } else { letters.try_recv() } {
            Ok(letter) => actor.step(letter.event),
            Err(TryRecvError::Disconnected) => return,
            // While nothing else is to be done it works ahead.
            Err(TryRecvError::Empty) => match actor.work() {
                Some(done) => done,
                None => match letters.blocking_recv() {
                    Some(letter) => actor.step(letter.event),
                    None => return,
                },
            },
        };
        for action in done {
            if let Action::Check { passed } = action {
                match check.take() {
                    Some(begun) if passed => {
                        checking.fetch_add(Instant::elapsed(&begun).as_micros() as u64, Ordering::Relaxed);
                    }
                    _ => check = Some(Instant::now()),
                }
                continue;
            }
            let closed = matches!(action, Action::Closed);
            if actions.send(action).is_err() || closed {
                return;
            }
        }
        if actions.is_closed() {
            return;
        }
    }
}

/// What carries a session.
pub(super) struct Shell {
    pub(super) node: Arc<Node>,
    pub(super) job: Arc<Running>,
    pub(super) plan: Arc<Plan>,
    /// where the agents can be dialled, nodes first
    pub(super) addresses: Vec<String>,
    pub(super) letters: UnboundedSender<Letter>,
    pub(super) actions: UnboundedReceiver<Action>,
    pub(super) links: UnboundedReceiver<(Slot, Link)>,
    pub(super) orders: UnboundedReceiver<Event>,
    pub(super) place: Option<OwnedSemaphorePermit>,
}

/// Frames of the party that may be under way to a peer: those of three
/// exchanges, sent twice.
const FRAMES: usize = 6;

/// The first pause before a lost peer is dialled again, and the longest; it
/// doubles while links do not last.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));
/// A link that lasts so long was a good one.
const LASTING: Duration = Duration::from_secs(20);

type Dialled = (Slot, Result<Link, NetError>);

struct Driver {
    node: Arc<Node>,
    job: Arc<Running>,
    addresses: Vec<String>,
    mesh: LinkMesh,
    frame_limit: usize,
    /// bounds the frames that wait for the session
    room: Arc<Semaphore>,
    letters: UnboundedSender<Letter>,
    place: Option<OwnedSemaphorePermit>,
    timers: BTreeMap<Timer, Instant>,
    dials: JoinSet<Dialled>,
    /// when each peer's link was made, and the pause before it is dialled again
    made: BTreeMap<Slot, (Instant, Duration)>,
}

impl Shell {
    /// Runs the job to its end and says it to everybody concerned.
    pub(super) async fn run(self) {
        let Self { node, job, plan, addresses, letters, mut actions, mut links, mut orders, place } = self;
        let frame_limit = largest_frame(&plan).max(REASON_LIMIT).max(KEYS_LIMIT) + 1;
        let mut limits = node.config.net.clone();
        // Peers that are waited for never find their queue full.
        limits.queue = limits.queue.max(u32::try_from(FRAMES * frame_limit).unwrap_or(u32::MAX));
        let mut driver = Driver {
            mesh: LinkMesh::new(&limits),
            frame_limit,
            room: Arc::new(Semaphore::new(4 * addresses.len())),
            addresses,
            letters,
            place,
            timers: BTreeMap::new(),
            dials: JoinSet::new(),
            made: BTreeMap::new(),
            node,
            job,
        };
        for agent in (1..=driver.job.manifest.agents()).map(Slot) {
            driver.dial(agent, Duration::ZERO);
        }
        loop {
            let due = driver.timers.iter().map(|(timer, at)| (*at, *timer)).min();
            tokio::select! {
                action = actions.recv() => match action {
                    Some(Action::Closed) => break,
                    Some(action) => driver.carry_out(action),
                    None => {
                        driver.silenced();
                        break;
                    }
                },
                Some(order) = orders.recv() => driver.tell(order),
                Some((slot, link)) = links.recv() => driver.attach(slot, link),
                Some(dialled) = driver.dials.join_next(), if !driver.dials.is_empty() => {
                    if let Ok((slot, link)) = dialled {
                        driver.dialled(slot, link);
                    }
                }
                (room, from, frame) = next_frame(&driver.room, &mut driver.mesh) => driver.arrive(room, from, frame),
                () = sleep_until(due.map_or_else(Instant::now, |(at, _)| at)), if due.is_some() => {
                    if let Some((_, timer)) = due {
                        driver.timers.remove(&timer);
                        driver.tell(Event::Timer(timer));
                    }
                }
            }
        }
        lock(&driver.node.jobs).serving.remove(&driver.job.manifest.digest());
    }
}

impl Driver {
    /// A thread that is gone has said why, or that it is done; its word is next.
    fn tell(&self, event: Event) {
        let _ = self.letters.send(event.into());
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Send { to, message } => self.send(to, message),
            Action::Sync => self.sync(),
            Action::Arm { timer, after } => drop(self.timers.insert(timer, Instant::now() + after)),
            Action::Takes { below, alone } => *lock(&self.job.takes) = Takes { below, alone },
            Action::Verified => self.job.status.send_modify(|status| status.verified = true),
            Action::Ready => self.job.status.send_modify(|status| status.inputs = true),
            Action::Round { round, of } => {
                self.job.status.send_modify(|status| (status.round, status.rounds_of) = (round, of));
            }
            Action::Concluded(concluded) => {
                drop(self.job.concluded.set(concluded));
                // The reader may send the next job before the disk has this one.
                drop(self.place.take());
                // Whoever waits looks again.
                self.job.status.send_modify(|_| {});
            }
            Action::Ended(ended) => {
                let ended =
                    ended.map(|concluded| concluded.into_iter().for_each(|it| drop(self.job.concluded.set(it))));
                self.ended(&ended);
            }
            Action::Attempt { attempt, of, begun } => {
                let next = (!begun).then_some((attempt, of));
                if next.is_some_and(|(attempt, of)| attempt > of) && self.job.status.borrow().next_attempt != next {
                    let job = hex(&self.job.manifest.digest()[..8]);
                    tracing::warn!(job, of, "no attempt is left: the job waits for its owner (beaverdam resume)");
                }
                self.job.status.send_modify(|status| status.next_attempt = next);
            }
            Action::Called(slot) => {
                let job = hex(&self.job.manifest.digest()[..8]);
                tracing::warn!(job, %slot, "this spare takes over the slot of a node that has crashed");
                self.job.status.send_modify(|status| status.waits = false);
            }
            // The session's thread keeps to itself what checks take.
            Action::Closed | Action::Check { .. } => {}
        }
    }

    /// A thread that waits for the disk costs the job some milliseconds, and with it all others.
    fn sync(&self) {
        let (store, letters) = (Arc::clone(&self.node.config.store), self.letters.clone());
        let nonce = self.job.manifest.manifest().nonce;
        tokio::task::spawn_blocking(move || {
            if let Err(error) = store.sync(nonce) {
                let _ = letters.send(Event::Stop(error.to_string()).into());
            }
        });
    }

    fn send(&mut self, to: Slot, message: Message) {
        match self.mesh.try_send(to, message) {
            Ok(()) => {}
            // Why a link does not take frames any more is what reading it says.
            Err(NetError::NoRoom { .. }) => tracing::debug!(%to, "a frame is dropped: the peer does not read"),
            Err(error) => tracing::debug!(%to, %error, "a frame is dropped"),
        }
    }

    /// The session's thread has panicked.
    fn silenced(&mut self) {
        let reason = "the job's thread stopped without a word: see this node's log, report it as a bug";
        let nonce = self.job.manifest.manifest().nonce;
        if let Err(error) = self.node.config.store.fail(nonce, reason) {
            tracing::error!(%error, "the failure of a job could not be noted in the store");
        }
        self.ended(&Err(reason.to_owned()));
    }

    /// The job is over for its owner and readers.
    fn ended(&mut self, ended: &Result<(), String>) {
        let (digest, nonce) = (self.job.manifest.digest(), self.job.manifest.manifest().nonce);
        match ended {
            Ok(()) => tracing::info!(job = hex(&digest[..8]), "job done"),
            Err(reason) => tracing::warn!(job = hex(&digest[..8]), reason, "job failed"),
        }
        {
            let mut jobs = lock(&self.node.jobs);
            if let Some(job) = jobs.running.remove(&digest) {
                jobs.serving.insert(digest, job);
                *(if ended.is_ok() { &mut jobs.done } else { &mut jobs.failed }) += 1;
            }
            jobs.over.insert(digest, Over { nonce, parties: Some(Parties::of(&self.job.manifest)) });
        }
        drop(self.place.take());
        self.job.status.send_modify(|status| status.end = Some(ended.clone()));
    }

    // --- links ------------------------------------------------------------------

    /// Dials an agent after this one, again and again.
    fn dial(&mut self, slot: Slot, pause: Duration) {
        if slot <= self.job.agent {
            return;
        }
        let (node, address) = (Arc::clone(&self.node), self.addresses[slot.index()].clone());
        let digest = self.job.manifest.digest();
        let key = self.job.manifest.agent(slot).map(|key| *key.identity()).unwrap_or_default();
        self.dials.spawn(async move {
            sleep(pause).await;
            // The session's end ends the dialling.
            let never = Instant::now() + Duration::from_secs(30 * 365 * 86_400);
            let dialled = async {
                let mut link = client::connect_retry(&address, &node.identity, key, &node.config.net, never).await?;
                link.send(&ToNode::Peer { manifest: digest }.encode()).await?;
                link.flush().await?;
                Ok(link)
            };
            (slot, dialled.await)
        });
    }

    fn dialled(&mut self, slot: Slot, link: Result<Link, NetError>) {
        match link {
            Ok(link) => self.attach(slot, link),
            Err(error) => {
                let transient = error.is_transient();
                let reason = error.to_string();
                self.dial(slot, PAUSES.1);
                if !transient {
                    self.tell(Event::Unreachable { peer: slot, reason });
                }
            }
        }
    }

    fn attach(&mut self, slot: Slot, mut link: Link) {
        link.set_limit(self.frame_limit);
        self.mesh.attach(slot, link);
        let pause = self.made.get(&slot).map_or(PAUSES.0, |(_, pause)| *pause);
        self.made.insert(slot, (Instant::now(), pause));
        self.tell(Event::Linked(slot));
    }

    fn arrive(&mut self, room: OwnedSemaphorePermit, from: Slot, frame: Result<Bytes, NetError>) {
        match frame {
            Ok(bytes) => {
                let letter = Letter { event: Event::Message { from, bytes }, _room: Some(room) };
                // As in `tell`.
                let _ = self.letters.send(letter);
            }
            Err(error) => {
                let (made, pause) = self.made.get(&from).copied().unwrap_or((Instant::now(), PAUSES.0));
                let lasted = made.elapsed() >= LASTING;
                let next = if lasted { PAUSES.0 } else { (2 * pause).min(PAUSES.1) };
                self.made.insert(from, (made, next));
                self.tell(Event::Lost { peer: from, reason: error.to_string() });
                self.dial(from, if lasted { Duration::ZERO } else { pause });
            }
        }
    }
}

/// The next frame of a peer, once there is room for it before the session.
/// Cancel-safe, like both of its parts.
async fn next_frame(
    room: &Arc<Semaphore>,
    mesh: &mut LinkMesh,
) -> (OwnedSemaphorePermit, Slot, Result<Bytes, NetError>) {
    let permit = Arc::clone(room).acquire_owned().await.expect("this semaphore is never closed");
    let (from, frame) = mesh.recv().await;
    (permit, from, frame)
}
