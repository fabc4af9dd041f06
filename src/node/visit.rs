//! One link from its first frame on: what is asked, and whether the key at the
//! other end may ask it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use super::session::{Event, LINGER};
use super::wire::{Peer, SUBMIT_LIMIT, ToNode, ToOwner, Told, ToldState, one_line};
use super::{Kept, Node, Over, Parties, Running, Status, extend, leaving, lock, short, upload};
use crate::keys::hex;
use crate::net::link::{Link, Receiver, Sender};
use crate::net::{NetError, PROTOCOL_VERSION};
use crate::store::{JobState, StoreError};

/// Serves one link to its end.
pub(super) async fn visit(node: Arc<Node>, mut link: Link) {
    let label = link.label().to_owned();
    if node.config.allow.identity(&link.peer()) {
        link.set_limit(SUBMIT_LIMIT);
    }
    let frame = match timeout(node.config.net.handshake, link.recv()).await {
        Ok(Ok(frame)) => frame,
        Ok(Err(error)) => return tracing::info!(%error, "a link without a request"),
        Err(_) => return tracing::info!(peer = label, "a link without a request in time"),
    };
    let peer = link.peer();
    match ToNode::decode(&frame) {
        Some(ToNode::Peer { manifest }) => other_node(&node, link, manifest).await,
        Some(ToNode::Submit { assignment, peers }) => {
            let begun = upload::begin(&node, peer, assignment, peers).await;
            upload::wipe(frame);
            match begun {
                Ok(begun) => upload::upload(&node, link, begun).await,
                Err(reason) => refuse(link, &label, reason).await,
            }
        }
        Some(ToNode::Fetch { manifest, wait }) => fetch(&node, link, manifest, wait).await,
        Some(ToNode::Cancel { manifest }) => {
            let answer = match cancel(&node, &peer, manifest).await {
                Ok(()) => ToOwner::Cancelled,
                Err(reason) => ToOwner::Refused(reason),
            };
            tracing::info!(peer = label, ?answer, "cancel");
            Answering::new(link).last(answer).await;
        }
        Some(ToNode::Jobs) => {
            let asked = Arc::clone(&node);
            answer(link, move || ToOwner::Jobs(jobs(&asked, &peer))).await;
        }
        Some(ToNode::State { manifest }) => {
            let _one = leaving::place(&node, &peer, manifest).await;
            let asked = Arc::clone(&node);
            answer(link, move || leaving::state(&asked, &peer, manifest)).await;
        }
        Some(ToNode::Data { manifest, number }) => {
            let _one = leaving::place(&node, &peer, manifest).await;
            let asked = Arc::clone(&node);
            answer(link, move || leaving::data(&asked, &peer, manifest, number)).await;
        }
        Some(ToNode::Extend { manifest }) => extend::extend(&node, link, manifest).await,
        Some(ToNode::Input { .. } | ToNode::Segment { .. } | ToNode::Extension { .. }) => {
            refuse(link, &label, "data came before a job was submitted on this link".to_owned()).await;
        }
        None => {
            let reason = format!(
                "the request of {} bytes is none of protocol version {PROTOCOL_VERSION}: use the same release",
                frame.len()
            );
            refuse(link, &label, reason).await;
        }
    }
}

/// Answers with what is found on disk.
async fn answer(link: Link, look: impl FnOnce() -> ToOwner + Send + 'static) {
    let found = tokio::task::spawn_blocking(look).await;
    let unread = |_| ToOwner::Refused("this node cannot read its store: see its log".to_owned());
    Answering::new(link).last(found.unwrap_or_else(unread)).await;
}

async fn refuse(link: Link, label: &str, reason: String) {
    tracing::info!(peer = label, reason, "refused");
    Answering::new(link).last(ToOwner::Refused(reason)).await;
}

/// A link on which the node answers an owner or reader.
pub(super) struct Answering {
    pub(super) receiver: Receiver,
    sender: Sender,
}

impl Answering {
    pub(super) fn new(link: Link) -> Self {
        let (sender, receiver) = link.split();
        Self { receiver, sender }
    }

    pub(super) async fn say(&mut self, answer: &ToOwner) -> Result<(), NetError> {
        self.send(&answer.encode(), &[]).await
    }

    async fn send(&mut self, head: &[u8], body: &[u8]) -> Result<(), NetError> {
        self.sender.send_parts(head, body).await?;
        self.sender.flush().await
    }

    /// Says it and goodbye.
    pub(super) async fn last(self, answer: ToOwner) {
        let answer = match answer {
            ToOwner::Refused(reason) => ToOwner::Refused(one_line(&reason)),
            ToOwner::Failed(reason) => ToOwner::Failed(one_line(&reason)),
            other => other,
        };
        self.end(&answer.encode(), &[]).await;
    }

    /// Sends it and goodbye, and listens until the other side has closed too,
    /// for a moment: closing on unread bytes could cut the answer off.
    async fn end(mut self, head: &[u8], body: &[u8]) {
        if self.send(head, body).await.is_err() {
            return;
        }
        let Self { mut receiver, sender } = self;
        if sender.close().await.is_ok() {
            let _ = timeout(LINGER, async { while receiver.recv().await.is_ok() {} }).await;
        }
    }
}

// --- other nodes --------------------------------------------------------------

/// Hands a link to the job it names, waiting a while for a job that this node
/// has not got yet.
async fn other_node(node: &Arc<Node>, link: Link, manifest: [u8; 32]) {
    let label = link.label().to_owned();
    // Places are for links whose job is not known: strangers must not keep nodes of running jobs away.
    let _place = match node.speaking(&manifest) {
        Some(_) => None,
        None => match node.early.try_acquire() {
            Ok(place) => Some(place),
            // It will dial again.
            Err(_) => return tracing::warn!(peer = label, "too many links wait for their jobs: one is dropped"),
        },
    };
    let mut begun = node.begun.subscribe();
    let until = Instant::now() + node.config.deadline;
    loop {
        if let Some(job) = node.speaking(&manifest) {
            return match job.manifest.agent_of(&link.peer()) {
                // A session that has just ended drops the link, which says enough.
                Some(agent) if agent < job.agent => drop(job.links.send((agent, link))),
                _ => {
                    tracing::warn!(peer = label, "its key is none of those before this one in the job it names");
                    abort(link, "your key has no business with this job here".to_owned()).await;
                }
            };
        }
        if lock(&node.jobs).over.contains_key(&manifest) {
            return abort(link, "this job is over here".to_owned()).await;
        }
        if !matches!(timeout_at(until, begun.changed()).await, Ok(Ok(()))) {
            let seconds = node.config.deadline.as_secs_f32();
            let name = hex(&manifest[..8]);
            let reason = format!("job {name}… was not submitted to this node within {seconds} s");
            return abort(link, reason).await;
        }
    }
}

async fn abort(link: Link, reason: String) {
    let (mut sender, mut receiver) = link.split();
    let frame = Peer::Abort(reason).encode();
    if sender.send(&frame).await.is_ok() && sender.close().await.is_ok() {
        let _ = timeout(LINGER, async { while receiver.recv().await.is_ok() {} }).await;
    }
}

// --- owners and readers -------------------------------------------------------

/// One answer for jobs that are not there and jobs of others, so that keys
/// cannot be tried.
fn no_such_job(peer: &[u8; 32], manifest: &[u8; 32]) -> String {
    format!(
        "no job {}… here that key {} may ask for: it must be the owner's or a reader's that the manifest names",
        hex(&manifest[..8]),
        short(peer)
    )
}

async fn fetch(node: &Arc<Node>, link: Link, manifest: [u8; 32], wait: bool) {
    let peer = link.peer();
    let mut answering = Answering::new(link);
    if let Some(job) = node.running(&manifest) {
        if !Parties::of(&job.manifest).0.contains(&peer) {
            return answering.last(ToOwner::Refused(no_such_job(&peer, &manifest))).await;
        }
        let mut status = job.status.subscribe();
        let now = status.borrow().clone();
        if !wait && now.end.is_none() && job.concluded.get().is_none() {
            let Status { segments, segments_of, round, rounds_of, next_attempt, .. } = now;
            return answering
                .last(match next_attempt {
                    Some((attempt, of)) => ToOwner::Stopped { attempt, of },
                    None => ToOwner::Running { segments, segments_of, round, rounds_of },
                })
                .await;
        }
        if follow(&mut answering, &job, &mut status).await.is_err() {
            return;
        }
        if let Some(concluded) = job.concluded.get() {
            let (head, body) = ToOwner::encode_concluded(concluded);
            return answering.end(&head, &body).await;
        }
    }
    let asked = Arc::clone(node);
    let answer = tokio::task::spawn_blocking(move || result(&asked, &peer, &manifest)).await;
    let answer = answer.unwrap_or_else(|_| ToOwner::Refused("this node cannot read its store: see its log".to_owned()));
    answering.last(answer).await;
}

/// The jobs that a key may ask for, those under way first.
fn jobs(node: &Node, peer: &[u8; 32]) -> Vec<Told> {
    let (mut told, over) = {
        let jobs = lock(&node.jobs);
        let running = jobs.running.iter().filter(|(_, job)| Parties::of(&job.manifest).0.contains(peer));
        let state = |job: &Running| {
            let Status { segments, segments_of, round, rounds_of, waits, next_attempt, .. } = *job.status.borrow();
            if let Some((attempt, of)) = next_attempt {
                return ToldState::Stopped { attempt, of };
            }
            if waits && segments == segments_of {
                return ToldState::Spare;
            }
            ToldState::Running { segments, segments_of, round, rounds_of }
        };
        let running: Vec<_> = running.map(|(manifest, job)| Told { manifest: *manifest, state: state(job) }).collect();
        // Whose a job was that was over before the last start only its record says, which
        // is not read for strangers.
        let may = |over: &Over| match &over.parties {
            Some(parties) => parties.0.contains(peer),
            None => node.config.allow.identity(peer),
        };
        let over = jobs.over.iter().filter(|(_, over)| may(over)).take(MOST_JOBS);
        (running, over.map(|(manifest, over)| (*manifest, over.nonce, over.parties.is_some())).collect::<Vec<_>>())
    };
    for (manifest, nonce, known) in over {
        let done = || matches!(node.config.store.state(nonce), Ok(Some(JobState::Finished)));
        let state = match known && done() {
            true => ToldState::Done,
            false => match result(node, peer, &manifest) {
                ToOwner::Concluded(_) => ToldState::Done,
                ToOwner::Failed(reason) => ToldState::Failed(one_line(&reason)),
                _ => continue,
            },
        };
        told.push(Told { manifest, state });
    }
    told
}

/// Jobs that are over and are looked at for one answer.
const MOST_JOBS: usize = 256;

/// Tells how the job goes on until there is a result, it is over or the reader has left.
async fn follow(answering: &mut Answering, job: &Running, status: &mut watch::Receiver<Status>) -> Result<(), ()> {
    let (mut told, mut stopped) = (None, None);
    loop {
        let now = status.borrow_and_update().clone();
        if now.end.is_some() || job.concluded.get().is_some() {
            return Ok(());
        }
        if let Some((attempt, of)) = now.next_attempt
            && stopped.replace((attempt, of)) != Some((attempt, of))
        {
            answering.say(&ToOwner::Stopped { attempt, of }).await.map_err(drop)?;
        }
        let round = (now.round, now.rounds_of);
        if now.rounds_of > 0 && told.replace(round) != Some(round) {
            answering.say(&ToOwner::Round { round: round.0, of: round.1 }).await.map_err(drop)?;
        }
        tokio::select! {
            changed = status.changed() => changed.map_err(drop)?,
            // Nothing is expected but the end of the link.
            _ = answering.receiver.recv() => return Err(()),
        }
    }
}

/// The result of a job that is over, or why there is none.
fn result(node: &Node, peer: &[u8; 32], manifest: &[u8; 32]) -> ToOwner {
    let unknown = || ToOwner::Refused(no_such_job(peer, manifest));
    let (nonce, parties) = match lock(&node.jobs).over.get(manifest) {
        Some(over) => (over.nonce, over.parties.clone()),
        None => return unknown(),
    };
    let disk = |error: StoreError| {
        tracing::error!(%error, "a result could not be read");
        ToOwner::Refused("this node cannot read its store: see its log".to_owned())
    };
    // Whose a job was that failed before the last start is not known any more:
    // its reason is told to any owner that this node serves.
    let may = |parties: Option<&Parties>| match parties {
        Some(parties) => parties.0.contains(peer),
        None => node.config.allow.identity(peer),
    };
    let not_kept = || {
        let reason = "the job is done, but this node does not keep its result any more";
        if may(parties.as_ref()) { ToOwner::Failed(reason.to_owned()) } else { unknown() }
    };
    match node.config.store.state(nonce) {
        Ok(Some(JobState::Finished)) => {
            match node.config.store.record(nonce).map(|r| r.map(|r| postcard::from_bytes(&r))) {
                Ok(Some(Ok(Kept { parties, concluded }))) if may(Some(&parties)) && concluded.is_empty() => {
                    ToOwner::Failed("this spare was not needed: the job is done at its nodes".to_owned())
                }
                Ok(Some(Ok(Kept { parties, concluded }))) if may(Some(&parties)) => ToOwner::Concluded(concluded),
                Ok(Some(Ok(_))) => unknown(),
                Ok(Some(Err(_)) | None) => not_kept(),
                Err(error @ StoreError::RecordLost { .. }) => {
                    let _in_the_log = disk(error);
                    not_kept()
                }
                Err(error) => disk(error),
            }
        }
        Ok(Some(JobState::Failed(reason))) if may(parties.as_ref()) => ToOwner::Failed(reason),
        Ok(_) => unknown(),
        Err(error) => disk(error),
    }
}

/// A running job of this owner; or why there is none.
pub(super) fn owned(node: &Node, peer: &[u8; 32], manifest: [u8; 32]) -> Result<Arc<Running>, String> {
    let owned = |job: &Arc<Running>| job.manifest.manifest().owner.identity() == peer;
    if let Some(job) = node.running(&manifest).filter(owned) {
        return Ok(job);
    }
    let over = lock(&node.jobs).over.get(&manifest).and_then(|over| over.parties.clone());
    Err(match over {
        Some(parties) if parties.0.contains(peer) => "the job is over, nothing of it can be changed".to_owned(),
        _ => format!("no running job {}… of key {} here", hex(&manifest[..8]), short(peer)),
    })
}

/// Ends a job of this owner and waits until it has ended.
async fn cancel(node: &Node, peer: &[u8; 32], manifest: [u8; 32]) -> Result<(), String> {
    let job = owned(node, peer, manifest)?;
    let mut status = job.status.subscribe();
    // A session that has just ended is over in any case.
    let _ = job.orders.send(Event::Stop("its owner cancelled the job".to_owned()));
    let over = timeout(Duration::from_secs(60), status.wait_for(|status| status.end.is_some())).await;
    match over.map(|end| end.map(|status| status.end.clone())) {
        Ok(Ok(Some(Err(_)))) => Ok(()),
        Ok(_) => Err("the job was done before it could be cancelled".to_owned()),
        Err(_) => Err("the job does not end: ask the node's operator".to_owned()),
    }
}
