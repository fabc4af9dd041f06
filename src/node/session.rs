//! One job from its acceptance to its end: the links to the other nodes, the
//! clock, and the words of the engine's thread.
//!
//! The lower slot dials, the higher accepts. Nodes tell each other when their
//! inputs are verified, and the engine starts when all have: from then on
//! every silence has a deadline.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::engine_thread::{Letter, Word};
use super::wire::{Peer, ToNode, one_line};
use super::{Kept, Node, Over, Parties, Running, lock};
use crate::engine::{Event, Outcome, largest_frame};
use crate::entropy::Entropy;
use crate::job::{Concluded, Conclusion};
use crate::keys::hex;
use crate::net::link::Link;
use crate::net::mesh::LinkMesh;
use crate::net::{Message, NetError, Transport, client};
use crate::program::plan::Plan;
use crate::roster::Slot;

/// How long an ended job listens on, so that its last words are read.
pub(super) const LINGER: Duration = Duration::from_secs(2);

/// What a session is made of.
pub(super) struct Session {
    pub(super) node: Arc<Node>,
    pub(super) job: Arc<Running>,
    pub(super) plan: Arc<Plan>,
    pub(super) entropy: Entropy,
    /// where the nodes can be dialled, in slot order
    pub(super) addresses: Vec<String>,
    pub(super) letters: UnboundedSender<Letter>,
    pub(super) words: UnboundedReceiver<Word>,
    pub(super) links: UnboundedReceiver<(Slot, Link)>,
    pub(super) stop: UnboundedReceiver<String>,
    pub(super) place: OwnedSemaphorePermit,
}

impl Session {
    /// Runs the job to its end and says it to everybody concerned.
    pub(super) async fn run(self) {
        let Self { node, job, plan, entropy, addresses, letters, words, links, stop, place } = self;
        let (digest, signed) = (job.manifest.digest(), job.manifest.manifest());
        let (nonce, roster, name) = (signed.nonce, signed.roster, hex(&digest[..8]));
        let mut driver = Driver {
            mesh: LinkMesh::new(&node.config.net),
            frame_limit: largest_frame(&plan).max(super::wire::REASON_LIMIT) + 1,
            room: Arc::new(Semaphore::new(4 * usize::from(roster.nodes()))),
            node: Arc::clone(&node),
            job: Arc::clone(&job),
            letters,
            words,
            links,
            stop,
            held: BTreeMap::new(),
            ready: BTreeSet::new(),
            done: BTreeSet::new(),
            gone: BTreeSet::new(),
            started: false,
            alarm: None,
        };
        let ended = match driver.compute(&addresses).await {
            Ok((outcome, conclusion)) => {
                let traffic = driver.mesh.traffic();
                let node = Arc::clone(&node);
                let manifest = job.manifest.clone();
                let kept = tokio::task::spawn_blocking(move || {
                    conclude(&node, &manifest, entropy, *outcome, &conclusion, (traffic.sent, traffic.received))
                });
                kept.await.unwrap_or_else(|_| Err("sealing the outputs failed: see this node's log".to_owned()))
            }
            Err(reason) => Err(reason),
        };
        if let Err(reason) = &ended {
            tracing::warn!(job = name, reason, "job failed");
            let (store, reason) = (Arc::clone(&node.config.store), reason.clone());
            let failed =
                tokio::task::spawn_blocking(move || store.fail(nonce, &reason).and_then(|()| store.forget(nonce)));
            if !matches!(failed.await, Ok(Ok(()))) {
                tracing::error!(job = name, "the failure of a job could not be noted in the store");
            }
        } else {
            tracing::info!(job = name, "job done");
        }
        {
            let mut jobs = lock(&node.jobs);
            jobs.running.remove(&digest);
            jobs.over.insert(digest, Over { nonce, parties: Some(Parties::of(&job.manifest)) });
            *(if ended.is_ok() { &mut jobs.done } else { &mut jobs.failed }) += 1;
        }
        drop(place);
        job.status.send_modify(|status| status.end = Some(ended.clone()));
        driver.say_goodbye(ended.map_or_else(|reason| Peer::Abort(one_line(&reason)), |()| Peer::Done)).await;
    }
}

/// Seals, signs and stores; from here on readers can fetch.
fn conclude(
    node: &Node,
    manifest: &crate::job::CheckedManifest,
    entropy: Entropy,
    outcome: Outcome,
    conclusion: &Conclusion,
    traffic: (u64, u64),
) -> Result<(), String> {
    let nonce = manifest.manifest().nonce;
    let mut rng = entropy
        .generator(&[b"seal", &manifest.digest(), node.config.key.public().identity()])
        .map_err(|e| e.to_string())?;
    let concluded: Concluded =
        conclusion.conclude(outcome, &node.config.key, traffic, &mut *rng).map_err(|e| e.to_string())?;
    let bytes = concluded.to_bytes();
    drop(concluded);
    let kept = Kept { parties: Parties::of(manifest), concluded: bytes };
    let record = postcard::to_stdvec(&kept).expect("plain data always encodes");
    drop(kept);
    let store = &node.config.store;
    store.finish(nonce, &record).map_err(|e| e.to_string())?;
    // The result stands; a disk that keeps the segments is its operator's matter.
    if let Err(error) = store.forget(nonce) {
        tracing::warn!(%error, "the segments of a finished job could not be dropped");
    }
    Ok(())
}

struct Driver {
    node: Arc<Node>,
    job: Arc<Running>,
    mesh: LinkMesh,
    frame_limit: usize,
    /// bounds the frames that wait for the engine
    room: Arc<Semaphore>,
    letters: UnboundedSender<Letter>,
    words: UnboundedReceiver<Word>,
    links: UnboundedReceiver<(Slot, Link)>,
    stop: UnboundedReceiver<String>,
    /// frames for slots that have no link yet: digests of segments
    held: BTreeMap<Slot, Vec<Message>>,
    ready: BTreeSet<Slot>,
    done: BTreeSet<Slot>,
    gone: BTreeSet<Slot>,
    started: bool,
    /// what the engine waits for, and until when
    alarm: Option<(Instant, u32)>,
}

type Dialled = (Slot, Result<Link, NetError>);

impl Driver {
    fn peers(&self) -> impl Iterator<Item = Slot> + '_ {
        self.job.manifest.manifest().roster.slots().filter(|slot| *slot != self.job.slot)
    }

    /// From no links to the engine's outcome, or the reason for the job's end.
    async fn compute(&mut self, addresses: &[String]) -> Result<(Box<Outcome>, Box<Conclusion>), String> {
        let linked_by = Instant::now() + self.node.config.deadline;
        let mut dials = self.dial(addresses, linked_by);
        loop {
            let all_linked = self.mesh.slots().count() == self.peers().count();
            tokio::select! {
                Some(reason) = self.stop.recv() => return Err(reason),
                Some((slot, link)) = self.links.recv() => self.attach(slot, link).await?,
                Some(dialled) = dials.join_next(), if !dials.is_empty() => {
                    let (slot, link) = dialled.map_err(|_| "dialling a node failed: see this node's log".to_owned())?;
                    let link = link.map_err(|error| format!("no link with {slot}: {error}"))?;
                    self.attach(slot, link).await?;
                }
                word = self.words.recv() => match word {
                    Some(Word::Outcome(outcome, conclusion)) => return Ok((outcome, conclusion)),
                    Some(word) => self.hear(word).await?,
                    None => return Err("the engine stopped without a word: see this node's log, report it as a bug".to_owned()),
                },
                (room, from, frame) = next_frame(&self.room, &mut self.mesh) => self.arrive(room, from, frame)?,
                () = sleep_until(linked_by), if !all_linked => return Err(self.not_linked(addresses)),
                () = sleep_until(self.alarm.map_or(linked_by, |(at, _)| at)), if self.alarm.is_some() => {
                    if let Some((_, token)) = self.alarm.take() {
                        self.tell(Letter::Event(Event::Deadline { token, last: true }))?;
                    }
                }
            }
            self.start_if_ready()?;
        }
    }

    /// Dials every higher slot, again and again until the deadline.
    fn dial(&self, addresses: &[String], until: Instant) -> JoinSet<Dialled> {
        let mut dials = JoinSet::new();
        for slot in self.peers().filter(|slot| *slot > self.job.slot) {
            let (node, address) = (Arc::clone(&self.node), addresses[slot.index()].clone());
            let digest = self.job.manifest.digest();
            let key = self.job.manifest.node(slot).map(|key| *key.identity()).unwrap_or_default();
            dials.spawn(async move {
                let dialled = async {
                    let mut link =
                        client::connect_retry(&address, &node.identity, key, &node.config.net, until).await?;
                    link.send(&ToNode::Peer { manifest: digest }.encode()).await?;
                    link.flush().await?;
                    Ok(link)
                };
                (slot, dialled.await)
            });
        }
        dials
    }

    fn not_linked(&self, addresses: &[String]) -> String {
        let linked: BTreeSet<Slot> = self.mesh.slots().collect();
        let missing = self.peers().filter(|slot| !linked.contains(slot));
        let missing: Vec<_> = missing.map(|slot| format!("{slot} at {}", addresses[slot.index()])).collect();
        let seconds = self.node.config.deadline.as_secs_f32();
        format!(
            "no link with {} within {seconds} s: see whether they run, are reached there, and have got the job",
            missing.join(", ")
        )
    }

    async fn attach(&mut self, slot: Slot, mut link: Link) -> Result<(), String> {
        if self.mesh.slots().any(|linked| linked == slot) {
            // One link a job: the first one counts, a second is of no use to anybody honest.
            tracing::info!(%slot, "a second link is dropped");
            return Ok(());
        }
        link.set_limit(self.frame_limit);
        self.mesh.attach(slot, link);
        for frame in self.held.remove(&slot).unwrap_or_default() {
            self.send(slot, frame).await?;
        }
        if self.ready.contains(&self.job.slot) {
            self.send(slot, Peer::Ready.encode()).await?;
        }
        Ok(())
    }

    async fn send(&mut self, to: Slot, frame: impl Into<Message> + Send) -> Result<(), String> {
        if !self.mesh.slots().any(|slot| slot == to) {
            self.held.entry(to).or_default().push(frame.into());
            return Ok(());
        }
        if self.done.contains(&to) || self.gone.contains(&to) {
            return Ok(());
        }
        // Why a link does not take frames any more is what reading it says;
        // that comes next, after all that the peer has sent before.
        let _ = self.mesh.send(to, frame).await;
        Ok(())
    }

    async fn hear(&mut self, word: Word) -> Result<(), String> {
        match word {
            Word::Verified => self.job.status.send_modify(|status| status.verified = true),
            Word::Ready => {
                self.ready.insert(self.job.slot);
                self.job.status.send_modify(|status| status.inputs = true);
                for slot in self.mesh.slots().collect::<Vec<_>>() {
                    self.send(slot, Peer::Ready.encode()).await?;
                }
            }
            Word::Send { to, frame } => self.send(to, frame).await?,
            Word::Arm { token } => self.alarm = Some((Instant::now() + self.node.config.deadline, token)),
            Word::Round { round, of } => {
                self.job.status.send_modify(|status| (status.round, status.rounds_of) = (round, of));
            }
            Word::Failed(reason) => return Err(reason),
            Word::Outcome(..) => return Err("the engine was done twice: report it as a bug".to_owned()),
        }
        Ok(())
    }

    fn arrive(&mut self, room: OwnedSemaphorePermit, from: Slot, frame: Result<Bytes, NetError>) -> Result<(), String> {
        let bytes = match frame {
            Ok(bytes) => bytes,
            Err(error) => {
                self.gone.insert(from);
                return match self.done.contains(&from) {
                    true => Ok(()),
                    false => Err(format!("the link with {from} ended before the job was done: {error}")),
                };
            }
        };
        match Peer::decode(&bytes) {
            _ if self.done.contains(&from) => Err(format!("{from} sent more after it was done")),
            Some(Peer::Frame(_)) => self.tell(Letter::Frame { from, bytes, _room: room }),
            Some(Peer::Ready) if self.ready.insert(from) => Ok(()),
            Some(Peer::Done) if self.started => {
                self.done.insert(from);
                Ok(())
            }
            Some(Peer::Abort(reason)) => {
                self.gone.insert(from);
                Err(format!("{from} says: {reason}"))
            }
            _ => Err(format!(
                "{from} sent something that does not belong here: it runs another version or sends garbage"
            )),
        }
    }

    fn start_if_ready(&mut self) -> Result<(), String> {
        if self.started || self.ready.len() != usize::from(self.job.manifest.manifest().roster.nodes()) {
            return Ok(());
        }
        self.started = true;
        self.tell(Letter::Event(Event::Start))
    }

    /// A thread that is gone has said why, or that it is done; its word is next.
    fn tell(&self, letter: Letter) -> Result<(), String> {
        let _ = self.letters.send(letter);
        Ok(())
    }

    /// The last frame to every peer. A finished job waits until all peers have
    /// finished too, a failed one only until its reason can have been read:
    /// closing earlier could cut off what was sent before.
    async fn say_goodbye(mut self, last: Peer<'_>) {
        let patience = if last == Peer::Done { self.node.config.deadline } else { LINGER };
        let last = Bytes::from(last.encode());
        // Links that are only just made hear it as well.
        while let Ok((slot, link)) = self.links.try_recv() {
            drop(self.attach(slot, link).await);
        }
        for slot in self.mesh.slots().collect::<Vec<_>>() {
            if !self.gone.contains(&slot) {
                let _ = timeout(LINGER, self.mesh.send(slot, last.clone())).await;
            }
        }
        let waiting = async {
            while self.mesh.slots().any(|slot| !self.gone.contains(&slot) && !self.done.contains(&slot)) {
                let (from, frame) = self.mesh.recv().await;
                match frame.as_deref().map(Peer::decode) {
                    Ok(Some(Peer::Done)) => drop(self.done.insert(from)),
                    Ok(Some(Peer::Abort(reason))) => {
                        tracing::warn!(%from, reason, "a node failed after the job was over here");
                        self.gone.insert(from);
                    }
                    Ok(_) => {}
                    Err(_) => drop(self.gone.insert(from)),
                }
            }
        };
        // Whoever is silent for so long is not waited for.
        let _ = timeout(patience, waiting).await;
    }
}

/// The next frame of a peer, once there is room for it before the engine.
/// Cancel-safe, like both of its parts.
async fn next_frame(
    room: &Arc<Semaphore>,
    mesh: &mut LinkMesh,
) -> (OwnedSemaphorePermit, Slot, Result<Bytes, NetError>) {
    let permit = Arc::clone(room).acquire_owned().await.expect("this semaphore is never closed");
    let (from, frame) = mesh.recv().await;
    (permit, from, frame)
}
