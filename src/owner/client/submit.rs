//! A job, or more attempts of one, on its way to the nodes: dealt while it is sent, once for all of them.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::try_join_all;
use tokio::sync::mpsc;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::{ANSWER, ClientError, Node, Peers, Progress, hear, must_own, net, report, send};
use crate::keys::SecretKey;
use crate::net::Limits;
use crate::net::link::{Link, Receiver, Sender};
use crate::node::wire::{INPUT_CHUNK, ToNode, ToOwner};
use crate::owner::{Dealing, Prepared, Ticket};
use crate::roster::Slot;
use crate::transcript::SignedHeader;

/// Segments that wait for one node.
const AHEAD: usize = 8;

/// How long a node's reason is waited for after its link broke.
const LAST_WORDS: Duration = Duration::from_secs(2);

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
