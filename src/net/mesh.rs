//! [`Transport`] over links, and in memory for tests of what runs above it.
//!
//! Frames wait in queues that are bounded in bytes per peer and direction, so
//! that a peer that is slow or floods holds up only itself. A protocol may
//! have [`Limits::queue`] bytes under way to each peer before anybody reads;
//! past that, senders wait, and nodes that all send without reading end in
//! the links' deadlines. A task per link reads and answers pings while the node
//! computes, until that peer's queue is full.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};

use super::link::{Link, Meter, Receiver, Sender, Traffic};
use super::{Limits, Message, NetError, Transport};
use crate::roster::Slot;

/// The links of one node, by slot.
pub struct LinkMesh {
    peers: BTreeMap<Slot, Peer>,
    limits: Limits,
    /// Counts links, so that what a replaced link still says is told apart.
    generation: u64,
    sender: UnboundedSender<Arrival>,
    inbox: UnboundedReceiver<Arrival>,
    /// Traffic of links that were replaced.
    past: Traffic,
}

struct Peer {
    outbox: Inlet<Outgoing>,
    generation: u64,
    meter: Meter,
}

/// A frame on its way out, and when a shaped network would have brought it.
struct Outgoing {
    frame: Message,
    due: Option<Instant>,
}

struct Arrival {
    from: Slot,
    generation: u64,
    frame: Result<Bytes, NetError>,
    /// The frame's room in the sender's queue, free when it is taken out.
    _room: Option<OwnedSemaphorePermit>,
}

impl LinkMesh {
    /// A node without peers. Needs the Tokio runtime from [`LinkMesh::attach`] on.
    pub fn new(limits: &Limits) -> Self {
        let (sender, inbox) = unbounded_channel();
        let (peers, limits) = (BTreeMap::new(), Limits { queue: limits.queue.max(1), ..limits.clone() });
        Self { peers, limits, generation: 0, sender, inbox, past: Traffic::default() }
    }

    /// Gives a slot its link, first or again after the last one ended; the
    /// caller has checked that the link's peer belongs to the slot, and has
    /// set the limit of frames. A link that is replaced is closed once what
    /// waits for it is sent.
    pub fn attach(&mut self, slot: Slot, link: Link) {
        self.generation += 1;
        let generation = self.generation;
        let meter = link.meter();
        let (outbox, queue) = inlet(self.limits.queue);
        if let Some(old) = self.peers.insert(slot, Peer { outbox, generation, meter }) {
            self.past = self.past + old.meter.traffic();
        }
        let inbox = self.sender.clone();
        let room = Arc::new(Semaphore::new(self.limits.queue as usize));
        let budget = self.limits.queue;
        let (sender, receiver) = link.split();
        tokio::spawn(async move {
            let deliver = |frame, room| inbox.send(Arrival { from: slot, generation, frame, _room: room });
            let error = tokio::select! {
                written = write_all(sender, queue) => match written {
                    // The mesh let go of the link.
                    Ok(()) => return,
                    Err(error) => error,
                },
                error = read_all(receiver, &room, budget, |frame, room| deliver(Ok(frame), Some(room)).is_ok()) => error,
            };
            // Nobody is left to be told only if the mesh is gone.
            let _ = deliver(Err(error), None);
        });
    }

    /// Queues a frame for a slot if there is room for it.
    ///
    /// # Errors
    /// [`NetError::NoRoom`] if there is none, else as [`Transport::send`].
    pub fn try_send(&mut self, to: Slot, frame: Message) -> Result<(), NetError> {
        let peer = self.peers.get(&to).ok_or(NetError::NoLink { slot: to })?;
        let frame = self.outgoing(to, frame);
        check(to, &frame)?;
        let cost = frame.len();
        let Some(room) = peer.outbox.room_for(cost) else { return Err(NetError::NoRoom { slot: to }) };
        let due = self.limits.shape.as_ref().map(|shape| shape.due(Instant::now(), cost));
        let queued = Queued { item: Outgoing { frame, due }, _room: Some(room) };
        peer.outbox.sender.send(queued).map_err(|_| NetError::Unusable { peer: to.to_string() })
    }

    /// The frame, unless this node is one that lies.
    fn outgoing(&self, to: Slot, frame: Message) -> Message {
        match &self.limits.tamper {
            Some(tamper) => tamper.change(to, frame),
            None => frame,
        }
    }

    /// The slots that have a link, whether or not it still works.
    pub fn slots(&self) -> impl Iterator<Item = Slot> + '_ {
        self.peers.keys().copied()
    }
}

impl Transport for LinkMesh {
    async fn send(&mut self, to: Slot, frame: impl Into<Message> + Send) -> Result<(), NetError> {
        let frame = frame.into();
        let peer = self.peers.get(&to).ok_or(NetError::NoLink { slot: to })?;
        let frame = self.outgoing(to, frame);
        check(to, &frame)?;
        let cost = frame.len();
        let due = self.limits.shape.as_ref().map(|shape| shape.due(Instant::now(), cost));
        peer.outbox.push(Outgoing { frame, due }, cost).await.map_err(|()| NetError::Unusable { peer: to.to_string() })
    }

    async fn recv(&mut self) -> (Slot, Result<Bytes, NetError>) {
        loop {
            let Some(arrival) = self.inbox.recv().await else {
                // Impossible while `self.sender` lives.
                return std::future::pending().await;
            };
            if self.peers.get(&arrival.from).is_some_and(|peer| peer.generation == arrival.generation) {
                return (arrival.from, arrival.frame);
            }
        }
    }

    fn traffic(&self) -> Traffic {
        self.peers.values().fold(self.past, |sum, peer| sum + peer.meter.traffic())
    }
}

/// Sends what waits, flushing whenever nothing more does, until the mesh lets
/// go of the queue; then says goodbye.
async fn write_all(mut sender: Sender, mut queue: UnboundedReceiver<Queued<Outgoing>>) -> Result<(), NetError> {
    while let Some(queued) = queue.recv().await {
        if let Some(due) = queued.item.due
            && due > Instant::now()
        {
            // What came before must not wait for this one.
            sender.flush().await?;
            sleep_until(due).await;
        }
        let Message { head, body } = &queued.item.frame;
        sender.send_parts(head, body).await?;
        if queue.is_empty() {
            sender.flush().await?;
        }
    }
    sender.close().await
}

/// Reads until the link ends, no faster than the node takes frames.
async fn read_all(
    mut receiver: Receiver,
    room: &Arc<Semaphore>,
    budget: u32,
    deliver: impl Fn(Bytes, OwnedSemaphorePermit) -> bool,
) -> NetError {
    loop {
        let frame = match receiver.recv().await {
            Ok(frame) => frame,
            Err(error) => return error,
        };
        let permit = take_room(room, budget, frame.len()).await;
        if !deliver(frame, permit) {
            // The mesh is gone; what it has sent is still being written.
            return std::future::pending().await;
        }
    }
}

/// One node of a mesh within this process: channels instead of sockets, the
/// same bounds and the same errors.
pub struct MemoryMesh {
    me: Slot,
    peers: BTreeMap<Slot, Inlet<Arrival>>,
    /// Kept so that waiting with no peer left never ends, as with links.
    _own: UnboundedSender<Queued<Arrival>>,
    inbox: UnboundedReceiver<Queued<Arrival>>,
    meter: Meter,
}

impl MemoryMesh {
    /// Nodes 1 to n, each linked with all others.
    pub fn all(n: u8, limits: &Limits) -> Vec<Self> {
        let channels: Vec<_> = (1..=n).map(|slot| (Slot(slot), unbounded_channel())).collect();
        let senders: Vec<_> = channels.iter().map(|(slot, (sender, _))| (*slot, sender.clone())).collect();
        let node = |(me, (own, inbox))| {
            let others = senders.iter().filter(|(slot, _)| *slot != me);
            let peers = others.map(|(slot, sender)| (*slot, Inlet::new(sender.clone(), limits.queue.max(1)))).collect();
            Self { me, peers, _own: own, inbox, meter: Meter::default() }
        };
        channels.into_iter().map(node).collect()
    }
}

impl Transport for MemoryMesh {
    async fn send(&mut self, to: Slot, frame: impl Into<Message> + Send) -> Result<(), NetError> {
        let frame = frame.into();
        let peer = self.peers.get(&to).ok_or(NetError::NoLink { slot: to })?;
        check(to, &frame)?;
        let cost = frame.len();
        let arrival = Arrival { from: self.me, generation: 0, frame: Ok(frame.joined()), _room: None };
        peer.push(arrival, cost).await.map_err(|()| NetError::Unusable { peer: to.to_string() })?;
        self.meter.sent(cost);
        Ok(())
    }

    async fn recv(&mut self) -> (Slot, Result<Bytes, NetError>) {
        let Some(queued) = self.inbox.recv().await else {
            // Impossible while `self._own` lives.
            return std::future::pending().await;
        };
        if let Ok(frame) = &queued.item.frame {
            self.meter.received(frame.len());
        }
        (queued.item.from, queued.item.frame)
    }

    fn traffic(&self) -> Traffic {
        self.meter.traffic()
    }
}

impl Drop for MemoryMesh {
    fn drop(&mut self) {
        for peer in self.peers.values() {
            let frame = Err(NetError::Closed { peer: self.me.to_string() });
            // A peer that is gone as well need not be told.
            let _ = peer
                .sender
                .send(Queued { item: Arrival { from: self.me, generation: 0, frame, _room: None }, _room: None });
        }
    }
}

impl std::ops::Add for Traffic {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self { sent: self.sent + other.sent, received: self.received + other.received }
    }
}

fn check(to: Slot, frame: &Message) -> Result<(), NetError> {
    if frame.is_empty() { Err(NetError::Empty { peer: format!("ourselves to {to}") }) } else { Ok(()) }
}

/// The writing end of a queue that is bounded in bytes.
struct Inlet<T> {
    sender: UnboundedSender<Queued<T>>,
    room: Arc<Semaphore>,
    budget: u32,
}

struct Queued<T> {
    item: T,
    _room: Option<OwnedSemaphorePermit>,
}

fn inlet<T>(budget: u32) -> (Inlet<T>, UnboundedReceiver<Queued<T>>) {
    let (sender, receiver) = unbounded_channel();
    (Inlet::new(sender, budget), receiver)
}

impl<T> Inlet<T> {
    fn new(sender: UnboundedSender<Queued<T>>, budget: u32) -> Self {
        Self { sender, room: Arc::new(Semaphore::new(budget as usize)), budget }
    }

    /// Room, if there is some now.
    fn room_for(&self, cost: usize) -> Option<OwnedSemaphorePermit> {
        self.room.clone().try_acquire_many_owned(room_of(self.budget, cost)).ok()
    }

    /// Waits for room; fails if nobody reads any more.
    async fn push(&self, item: T, cost: usize) -> Result<(), ()> {
        let room = tokio::select! {
            room = take_room(&self.room, self.budget, cost) => room,
            () = self.sender.closed() => return Err(()),
        };
        self.sender.send(Queued { item, _room: Some(room) }).map_err(drop)
    }
}

/// Room for a frame, and for what it costs beside its bytes; all of it for a
/// frame that is longer than the whole queue.
async fn take_room(room: &Arc<Semaphore>, budget: u32, len: usize) -> OwnedSemaphorePermit {
    room.clone().acquire_many_owned(room_of(budget, len)).await.expect("this semaphore is never closed")
}

fn room_of(budget: u32, len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX).saturating_add(64).min(budget)
}

#[cfg(test)]
mod tests;
