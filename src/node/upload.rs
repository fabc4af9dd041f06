//! A job's way in: the assignment, the inputs and the material stream, each
//! checked before it costs anything and stored before it is used.

use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, timeout_at};
use zeroize::{Zeroize, Zeroizing};

use super::session::{Event, Means};
use super::setup::Keep;
use super::shell::{self, Letter, Shell};
use super::spare::Actor;
use super::visit::Answering;
use super::wire::{ADDRESS_LIMIT, ToNode, ToOwner, UPLOAD_LIMIT};
use super::{Node, Running, Status, Takes, lock, short};
use crate::entropy::Entropy;
use crate::job::{Assignment, CheckedManifest, Duty, InputEntry, SignedManifest};
use crate::keys::hex;
use crate::net::NetError;
use crate::net::link::Link;
use crate::transcript::{CheckedSegment, SignedHeader};

/// A job that has begun here and waits for its data.
pub(super) struct Begun {
    job: Arc<Running>,
    letters: mpsc::UnboundedSender<Letter>,
}

/// Checks an assignment and begins its job. The reason of a refusal is for
/// the owner.
pub(super) async fn begin(
    node: &Arc<Node>,
    peer: [u8; 32],
    assignment: &[u8],
    addresses: Vec<String>,
) -> Result<Begun, String> {
    // Before anything is parsed that only owners may make this node parse.
    if !node.config.allow.identity(&peer) {
        return Err(format!("this node takes no jobs from key {}: ask its operator to allow it", short(&peer)));
    }
    let place = Arc::clone(&node.places).try_acquire_owned().map_err(|_| {
        format!("this node runs {} jobs already, which is its limit: try again later", node.config.max_jobs)
    })?;
    let (checking, assignment) = (Arc::clone(node), Zeroizing::new(assignment.to_vec()));
    let duty = tokio::task::spawn_blocking(move || {
        let now = now();
        check(&checking, &peer, &assignment, &addresses, now).map(|duty| (duty, (addresses, now)))
    });
    let (duty, told) = duty.await.unwrap_or_else(|_| Err("the job could not be checked".to_owned()))?;
    start(node, duty, told, Some(place), false)
}

/// Everything that can be said before the job costs anything but planning;
/// its nonce is noted at the end.
fn check(node: &Node, peer: &[u8; 32], bytes: &[u8], addresses: &[String], now: u64) -> Result<Duty, String> {
    let assignment = Assignment::from_bytes(bytes).map_err(|e| e.to_string())?;
    let Node { config, .. } = node;
    let manifest = SignedManifest::verify(&assignment.manifest, now, &config.limits).map_err(|e| e.to_string())?;
    let signer = manifest.manifest().owner;
    if signer.identity() != peer || !config.allow.key(&signer) {
        return Err(format!(
            "the manifest is signed by {}, this link is of key {}: only an owner that this node allows may submit, and only its own jobs",
            signer.short(),
            short(peer)
        ));
    }
    let agents = usize::from(manifest.agents());
    if addresses.len() != agents || addresses.iter().any(|address| address.len() > ADDRESS_LIMIT) {
        return Err(format!(
            "{} addresses came for {agents} nodes and spares; expected one of at most {ADDRESS_LIMIT} bytes for each",
            addresses.len()
        ));
    }
    let node_key = config.key.public();
    let duty = Duty::check(assignment, &node_key, now, &config.limits).map_err(|e| e.to_string())?;
    let nonce = manifest.manifest().nonce;
    config.store.begin(nonce, manifest.digest()).map_err(|e| e.to_string())?;
    if matches!(duty, Duty::Spare(_)) && !config.recovery {
        let reason = "this node keeps nothing on disk to take a slot over by (--no-recovery): name another spare";
        config.store.fail(nonce, reason).map_err(|e| e.to_string())?;
        return Err(reason.to_owned());
    }
    if config.recovery && (duty.plan().replays() || manifest.has_attempts()) {
        let keep = Keep::new(Arc::clone(&config.store), nonce);
        let kept = keep.put_setup(&config.key, &manifest, duty.agent(), (bytes, addresses), now);
        if let Err(reason) = kept {
            config.store.fail(nonce, &reason).map_err(|e| e.to_string())?;
            return Err(reason);
        }
    }
    Ok(duty)
}

/// From here on the job runs, and ends only through its session; again, if an
/// earlier process has begun it.
pub(super) fn start(
    node: &Arc<Node>,
    duty: Duty,
    (addresses, accepted): (Vec<String>, u64),
    place: Option<OwnedSemaphorePermit>,
    again: bool,
) -> Result<Begun, String> {
    let manifest = duty.manifest().clone();
    let digest = manifest.digest();
    let segments_of = manifest.segments();
    let Ok(segments_of) = u32::try_from(segments_of) else {
        return Err(format!("the material has {segments_of} segments, expected at most {}", u32::MAX));
    };
    let segments = if again { segments_of } else { 0 };
    let has_attempts = manifest.has_attempts();
    let (links, links_in) = mpsc::unbounded_channel();
    let (orders, orders_in) = mpsc::unbounded_channel();
    let (letters, letters_in) = mpsc::unbounded_channel();
    let (actions_out, actions) = mpsc::unbounded_channel();
    // A seed that others may know serves marked jobs and no others.
    let entropy = if manifest.manifest().insecure_seeded { node.config.entropy } else { Entropy::system() };
    let job = Arc::new(Running {
        agent: duty.agent(),
        status: watch::Sender::new(Status {
            waits: matches!(duty, Duty::Spare(_)),
            segments,
            segments_of,
            ..Status::default()
        }),
        takes: Mutex::default(),
        links,
        orders,
        extending: tokio::sync::Mutex::default(),
        manifest,
        kept: node.config.recovery && (duty.plan().replays() || has_attempts),
        concluded: OnceLock::new(),
    });
    let plan = Arc::clone(duty.plan());
    let means = Means {
        checkpoints: plan.checkpoints(),
        addresses: addresses.clone(),
        accepted,
        key: Arc::clone(&node.config.key),
        store: Arc::clone(&node.config.store),
        entropy,
        devices: Arc::clone(&node.config.devices),
        deadline: node.config.deadline,
        patience: node.config.patience,
        recovery: node.config.recovery,
        replace_after: node.config.replace_after,
        expires: until(job.manifest.manifest().expires),
    };
    let actor = Actor::new(duty, means);
    // The receiver is here: it is taken.
    let _ = letters.send(Event::Begin { again }.into());
    let checking = Arc::clone(&node.checking);
    let thread = std::thread::Builder::new().name(format!("job {}", hex(&digest[..4])));
    thread
        .spawn(move || shell::run(actor, letters_in, &actions_out, &checking))
        .map_err(|error| format!("this node cannot start a thread: {error}"))?;
    let shell = Shell {
        node: Arc::clone(node),
        job: Arc::clone(&job),
        plan,
        addresses,
        letters: letters.clone(),
        actions,
        links: links_in,
        orders: orders_in,
        place,
    };
    lock(&node.jobs).running.insert(digest, Arc::clone(&job));
    {
        let mut sessions = lock(&node.sessions);
        while sessions.try_join_next().is_some() {}
        sessions.spawn(shell.run());
    }
    node.begun.send_modify(|count| *count += 1);
    tracing::info!(job = hex(&digest[..8]), agent = job.agent.0, again, "job begun");
    Ok(Begun { job, letters })
}

/// The time, in unix seconds.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(u64::MAX, |since| since.as_secs())
}

/// How long it is until then. No timer runs longer than for a year.
fn until(expires: u64) -> Duration {
    Duration::from_secs(expires.saturating_sub(now()).min(365 * 86_400))
}

/// Takes inputs and segments from the owner's link until all are there, while
/// telling it how the job goes.
pub(super) async fn upload(node: &Arc<Node>, mut link: Link, begun: Begun) {
    link.set_limit(UPLOAD_LIMIT);
    let mut status = begun.job.status.subscribe();
    let mut uploading = Uploading {
        node: Arc::clone(node),
        job: Arc::clone(&begun.job),
        letters: begun.letters,
        link: Answering::new(link),
        inputs: Some(Vec::new()),
        told_verified: false,
        told: (None, None),
    };
    let failed = match uploading.run(&mut status).await {
        Ok(()) => {
            let of = uploading.job.status.borrow().segments_of;
            return uploading.link.last(ToOwner::Stored { segments: of, of }).await;
        }
        Err(failed) => failed,
    };
    let stop = match &failed {
        Failed::Job(_) => None,
        Failed::Owner(reason) => Some(reason.clone()),
        Failed::Link(error) => Some(format!("the owner left before everything was stored here: {error}")),
    };
    if let Some(reason) = stop {
        // A session that is gone has ended the job already.
        let _ = uploading.job.orders.send(Event::Stop(reason));
    }
    if let Failed::Job(reason) | Failed::Owner(reason) = failed {
        uploading.link.last(ToOwner::Failed(reason)).await;
    }
}

/// Why an upload ends early.
enum Failed {
    /// the job is over
    Job(String),
    /// the owner sends what does not belong here, or nothing
    Owner(String),
    Link(NetError),
}

struct Uploading {
    node: Arc<Node>,
    job: Arc<Running>,
    letters: mpsc::UnboundedSender<Letter>,
    link: Answering,
    /// what has come so far; none once all inputs went to the engine
    inputs: Option<Vec<Vec<u8>>>,
    told_verified: bool,
    /// segments and round as the owner knows them
    told: (Option<u32>, Option<u32>),
}

impl Uploading {
    async fn run(&mut self, status: &mut watch::Receiver<Status>) -> Result<(), Failed> {
        self.link.say(&ToOwner::Accepted).await.map_err(Failed::Link)?;
        self.hand_over_inputs();
        let deadline = self.node.config.deadline;
        let mut due = Instant::now() + deadline;
        let (mut segments, mut syncing) = (0, JoinSet::new());
        while !self.tell(status).await? {
            let complete = self.inputs.is_none() && segments == status.borrow().segments_of;
            let frame = tokio::select! {
                changed = status.changed() => {
                    changed.map_err(|_| Failed::Job("the job is over".to_owned()))?;
                    continue;
                }
                Some(synced) = syncing.join_next() => {
                    self.stored(segments, synced)?;
                    continue;
                }
                frame = timeout_at(due, self.link.receiver.recv()), if !complete => frame,
            };
            let silent =
                |_| Failed::Owner(format!("the owner sent nothing for {} s: is it connected?", deadline.as_secs()));
            let frame = frame.map_err(silent)?.map_err(Failed::Link)?;
            match ToNode::decode(&frame) {
                Some(ToNode::Input { number, offset, bytes }) => self.input(number, offset, bytes)?,
                Some(ToNode::Segment { header, .. }) if self.inputs.is_none() => {
                    let header = SignedHeader::from_bytes(header).map_err(|e| Failed::Owner(e.to_string()))?;
                    self.segment(segments, header, frame).await?;
                    segments += 1;
                    if self.job.kept && segments == self.job.status.borrow().segments_of {
                        // The party goes on meanwhile.
                        let nonce = self.job.manifest.manifest().nonce;
                        let keep = Keep::new(Arc::clone(&self.node.config.store), nonce);
                        syncing.spawn_blocking(move || keep.sync());
                    } else {
                        self.stored(segments, Ok(Ok(())))?;
                    }
                }
                _ => {
                    let reason = "the owner sent something else than the next input or segment: use the same release";
                    return Err(Failed::Owner(reason.to_owned()));
                }
            }
            due = Instant::now() + deadline;
        }
        Ok(())
    }

    /// So many segments are stored. Of a job that can be taken up again the last is on disk, and all before: the
    /// owner may leave when it is told so, and nobody else could send them again.
    fn stored(&self, segments: u32, synced: Result<Result<(), String>, JoinError>) -> Result<(), Failed> {
        let lost = |_| Err("the segments could not be made durable: see this node's log".to_owned());
        match synced.unwrap_or_else(lost) {
            // Of a job that is over nothing is needed; its end is told next.
            Err(reason) if self.job.status.borrow().end.is_none() => return Err(Failed::Owner(reason)),
            _ => self.job.status.send_modify(|status| status.segments = segments),
        }
        Ok(())
    }

    /// Tells the owner what is new; true once nothing more is expected of it.
    async fn tell(&mut self, status: &mut watch::Receiver<Status>) -> Result<bool, Failed> {
        let now = status.borrow_and_update().clone();
        match now.end {
            Some(Err(reason)) => return Err(Failed::Job(reason)),
            Some(Ok(())) => return Ok(true),
            None => {}
        }
        if now.verified && !std::mem::replace(&mut self.told_verified, true) {
            self.link.say(&ToOwner::Verified).await.map_err(Failed::Link)?;
        }
        let complete = now.inputs && now.segments == now.segments_of;
        if now.inputs && !complete && self.told.0.replace(now.segments) != Some(now.segments) {
            let stored = ToOwner::Stored { segments: now.segments, of: now.segments_of };
            self.link.say(&stored).await.map_err(Failed::Link)?;
        }
        if now.rounds_of > 0 && self.told.1.replace(now.round) != Some(now.round) {
            let round = ToOwner::Round { round: now.round, of: now.rounds_of };
            self.link.say(&round).await.map_err(Failed::Link)?;
        }
        Ok(complete)
    }

    /// Takes the next part of the next input.
    fn input(&mut self, number: u32, offset: u64, bytes: &[u8]) -> Result<(), Failed> {
        let entries = &self.job.manifest.manifest().inputs;
        let Some(inputs) = &mut self.inputs else {
            return Err(Failed::Owner("the owner sent more than its inputs".to_owned()));
        };
        if is_whole(inputs, entries) {
            inputs.push(Vec::new());
        }
        let index = inputs.len() - 1;
        let (Some(input), Some(entry)) = (inputs.last_mut(), entries.get(index)) else {
            return Err(Failed::Owner(format!("the owner sent input {index}, the manifest has {}", entries.len())));
        };
        let held = input.len() as u64;
        let room = entry.words.saturating_mul(8).saturating_sub(held);
        if (u64::from(number), offset) != (index as u64, held) || bytes.is_empty() || bytes.len() as u64 > room {
            let found = bytes.len();
            return Err(Failed::Owner(format!(
                "the owner sent {found} bytes for place {offset} of input {number}, expected 1 to {room} for place {held} of input {index}"
            )));
        }
        input.extend_from_slice(bytes);
        self.hand_over_inputs();
        Ok(())
    }

    /// Gives the inputs to the engine once the last one is whole.
    fn hand_over_inputs(&mut self) {
        let entries = &self.job.manifest.manifest().inputs;
        while let Some(inputs) = &mut self.inputs
            && is_whole(inputs, entries)
        {
            match entries.get(inputs.len()) {
                Some(entry) if entry.words == 0 => inputs.push(Vec::new()),
                Some(_) => return,
                // A thread that is gone has said why to the session.
                None => drop(self.letters.send(Event::Inputs(self.inputs.take().unwrap_or_default()).into())),
            }
        }
    }

    /// Checks a segment, stores it if need be, and lets the engine know.
    async fn segment(&mut self, expected: u32, header: SignedHeader, frame: Bytes) -> Result<(), Failed> {
        let (store, manifest) = (Arc::clone(&self.node.config.store), self.job.manifest.clone());
        let kept = self.job.kept;
        let Takes { below, alone } = *lock(&self.job.takes);
        let taken = expected < below;
        let stored = tokio::task::spawn_blocking(move || {
            let attempts = manifest.manifest().attempts;
            let (segment, bytes) = checked(&manifest, attempts, expected, &header, &frame)?;
            if !(taken && alone) {
                Keep::new(store, manifest.manifest().nonce).put_segment(expected, &header, bytes, kept)?;
            }
            Ok(Some(segment).filter(|_| taken))
        });
        match stored.await.unwrap_or_else(|_| Err("a segment could not be stored: see this node's log".to_owned())) {
            Ok(segment) => {
                let _ = self.letters.send(Event::Header { header: Box::new(header), segment }.into());
                Ok(())
            }
            // The store takes nothing for a job that is over; that is told next.
            Err(_) if self.job.status.borrow().end.is_some() => Ok(()),
            Err(reason) => Err(Failed::Owner(reason)),
        }
    }
}

/// The segment in an owner's frame, if it is the expected one, counted over the streams of so many attempts.
pub(super) fn checked<'a>(
    manifest: &CheckedManifest,
    attempts: u32,
    expected: u32,
    header: &SignedHeader,
    frame: &'a [u8],
) -> Result<(CheckedSegment, &'a [u8]), String> {
    let (found, attempt) = (header.claimed().index, header.claimed().attempt);
    let place = manifest.stream_of(attempts);
    // Attempt by attempt.
    let of_each = place.segments().max(1);
    let (next, of) = (u64::from(expected) % of_each, u64::from(expected) / of_each);
    if u64::from(found) != next || u64::from(attempt) != of {
        return Err(format!("the owner sent segment {found} of attempt {attempt}, expected {next} of {of}"));
    }
    let checked = header.verify(&manifest.manifest().owner, &place).map_err(|error| error.to_string())?;
    let Some(ToNode::Segment { bytes, .. }) = ToNode::decode(frame) else {
        return Err("the owner sent a segment that changed on the way".to_owned());
    };
    Ok((checked.segment(bytes).map_err(|error| error.to_string())?, bytes))
}

/// Whether the last input that was begun has all its bytes.
fn is_whole(inputs: &[Vec<u8>], entries: &[InputEntry]) -> bool {
    match inputs.len().checked_sub(1) {
        Some(last) => entries.get(last).is_some_and(|entry| inputs[last].len() as u64 == entry.words.saturating_mul(8)),
        None => true,
    }
}

/// Wipes a frame that held keys, if nobody else has it.
pub(super) fn wipe(frame: Bytes) {
    if let Ok(mut bytes) = frame.try_into_mut() {
        bytes.as_mut().zeroize();
    }
}
