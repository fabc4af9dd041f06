//! Frames over an authenticated byte stream.
//!
//! A frame is a little-endian `u32` length, at least 1, and that many bytes.
//! A receiver refuses a length over its limit before it allocates, grows its
//! buffer only as bytes arrive, and gives every frame a deadline; a sender
//! gives every write one. So a peer that announces much, drips, or never
//! reads costs little and not for long.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout, timeout_at};

use super::error::hex;
use super::{Limits, NetError, PROTOCOL_VERSION};

/// Bytes of a frame's header.
const HEADER: usize = 4;
/// How much is allocated for a frame before any of it has arrived, at most.
const FIRST_ALLOCATION: usize = 64 << 10;
/// The longest hello, far above what [`Hello`] needs.
const HELLO_LIMIT: usize = 256;
/// The longest name of a peer's software.
const SOFTWARE_LIMIT: usize = 64;
const MAGIC: [u8; 8] = *b"bvrdamlk";

/// What a link can run over.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// An authenticated, full-duplex, framed connection with one peer.
pub struct Link {
    sender: Sender,
    receiver: Receiver,
}

/// The sending half of a [`Link`].
pub struct Sender {
    io: WriteHalf<Box<dyn Stream>>,
    about: Arc<About>,
    /// Bytes written since the last flush, for its deadline.
    unflushed: usize,
    /// Set while a frame is under way, so that a cancelled send is noticed.
    unusable: bool,
}

/// The receiving half of a [`Link`].
pub struct Receiver {
    io: ReadHalf<Box<dyn Stream>>,
    about: Arc<About>,
    limit: usize,
    state: State,
    /// When the frame, or the wait for its first byte, must end.
    deadline: Option<Instant>,
}

enum State {
    Header([u8; HEADER], usize),
    Body(BytesMut, usize),
    Unusable,
}

struct About {
    peer: [u8; 32],
    address: String,
    label: String,
    limits: Limits,
    meter: Meter,
    /// The listener's place for this link, free again when both halves are gone.
    _place: Option<OwnedSemaphorePermit>,
}

/// Counts a link's bytes; clones count together and outlive the link.
#[derive(Clone, Debug, Default)]
pub struct Meter(Arc<[AtomicU64; 2]>);

impl Meter {
    /// Bytes so far.
    pub fn traffic(&self) -> Traffic {
        let [sent, received] = &*self.0;
        Traffic { sent: sent.load(Ordering::Relaxed), received: received.load(Ordering::Relaxed) }
    }
    /// Counts a frame of `len` bytes that left.
    pub(super) fn sent(&self, len: usize) {
        self.0[0].fetch_add((HEADER + len) as u64, Ordering::Relaxed);
    }
    /// Counts a frame of `len` bytes that came.
    pub(super) fn received(&self, len: usize) {
        self.0[1].fetch_add((HEADER + len) as u64, Ordering::Relaxed);
    }
}

/// Bytes of frames with their headers, as counted on one link from its start;
/// what TLS and WebSocket add (about 0.2 % of long frames) is not in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// bytes that left
    pub sent: u64,
    /// bytes that came in whole frames
    pub received: u64,
}

/// Which side a hello comes from, so that an echo is not taken for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Role {
    Dialler,
    Listener,
}

/// The first frame each way. Magic and version stay where they are in all
/// versions, so that a mismatch can be named.
#[derive(Serialize, Deserialize)]
struct Hello {
    magic: [u8; 8],
    protocol_version: u16,
    role: Role,
    software: String,
}

impl Link {
    /// Frames over a stream that is already known to end at `peer`. Nothing
    /// is sent yet.
    pub(super) fn new(
        io: impl Stream + 'static,
        peer: [u8; 32],
        address: String,
        limits: &Limits,
        place: Option<OwnedSemaphorePermit>,
    ) -> Self {
        let (reader, writer) = tokio::io::split(Box::new(io) as Box<dyn Stream>);
        let about = Arc::new(About {
            label: format!("{}… at {address}", &hex(&peer)[..16]),
            peer,
            address,
            limits: limits.clone(),
            meter: Meter::default(),
            _place: place,
        });
        let state = State::Header([0; HEADER], 0);
        Self {
            sender: Sender { io: writer, about: about.clone(), unflushed: 0, unusable: false },
            receiver: Receiver { io: reader, about, limit: limits.first_frames, state, deadline: None },
        }
    }

    /// Exchanges hellos. Both sides send first, so that both can name the
    /// other's version; the caller sets the deadline.
    pub(super) async fn greet(self, role: Role) -> Result<Self, NetError> {
        let software = concat!("beaverdam ", env!("CARGO_PKG_VERSION")).to_owned();
        self.greet_as(&Hello { magic: MAGIC, protocol_version: PROTOCOL_VERSION, role, software }).await
    }

    async fn greet_as(mut self, ours: &Hello) -> Result<Self, NetError> {
        let frame = postcard::to_stdvec(ours).expect("a hello has no form that postcard refuses");
        // A peer that refuses us may have closed already: its reason, which
        // only a read shows, matters more than the failed write.
        let sent = match self.send(&frame).await {
            Ok(()) => self.flush().await,
            Err(error) => Err(error),
        };
        let limit = std::mem::replace(&mut self.receiver.limit, HELLO_LIMIT);
        let theirs = match (self.recv().await, sent) {
            (Ok(theirs), Ok(())) => theirs,
            (Err(refused @ NetError::Refused { .. }), _) => return Err(refused),
            (_, Err(error)) | (Err(error), _) => return Err(error),
        };
        check_hello(&theirs, ours, self.label())?;
        self.receiver.limit = limit;
        Ok(self)
    }

    /// The peer's identity key, proven by TLS.
    pub fn peer(&self) -> [u8; 32] {
        self.sender.about.peer
    }
    /// The address that was dialled, or that the dialler came from (perhaps a proxy's).
    pub fn address(&self) -> &str {
        &self.sender.about.address
    }
    /// The peer for logs and errors: the start of its key, and its address.
    pub fn label(&self) -> &str {
        &self.sender.about.label
    }
    /// Counts this link's bytes, hellos included.
    pub fn meter(&self) -> Meter {
        self.sender.about.meter.clone()
    }
    /// See [`Receiver::set_limit`].
    pub fn set_limit(&mut self, bytes: usize) {
        self.receiver.set_limit(bytes);
    }
    /// See [`Sender::send`].
    pub async fn send(&mut self, frame: &[u8]) -> Result<(), NetError> {
        self.sender.send(frame).await
    }
    /// See [`Sender::flush`].
    pub async fn flush(&mut self) -> Result<(), NetError> {
        self.sender.flush().await
    }
    /// See [`Receiver::recv`].
    pub async fn recv(&mut self) -> Result<Bytes, NetError> {
        self.receiver.recv().await
    }
    /// Halves for two tasks; the connection ends when both are dropped.
    pub fn split(self) -> (Sender, Receiver) {
        (self.sender, self.receiver)
    }
}

/// Takes the peer's hello apart, the version before all that may differ by it.
fn check_hello(frame: &[u8], ours: &Hello, peer: &str) -> Result<(), NetError> {
    let refuse = |reason| NetError::Hello { peer: peer.to_owned(), reason };
    let prefix = postcard::take_from_bytes::<([u8; 8], u16)>(frame);
    let ((magic, version), _) = prefix.map_err(|_| refuse("it is too short"))?;
    if magic != MAGIC {
        return Err(refuse("it starts with another magic word"));
    }
    let hello = postcard::take_from_bytes::<Hello>(frame);
    if version != ours.protocol_version {
        let software = hello.map(|(h, _)| h.software.chars().take(SOFTWARE_LIMIT).collect()).unwrap_or_default();
        let (peer, expected) = (peer.to_owned(), ours.protocol_version);
        return Err(NetError::Version { peer, found: version, expected, software });
    }
    let (hello, rest) = hello.map_err(|_| refuse("it cannot be decoded"))?;
    if !rest.is_empty() || hello.software.len() > SOFTWARE_LIMIT {
        return Err(refuse("it is longer than a hello of this version"));
    }
    if hello.role == ours.role {
        return Err(refuse("it is of our own side of the link, as if ours came back"));
    }
    Ok(())
}

impl Sender {
    /// Writes one frame of 1 to 2^32 − 1 bytes, without copying it. It leaves
    /// at [`Sender::flush`] at the latest, so that several frames can share
    /// packets. Fails if the peer takes less than [`Limits::min_rate`] bytes a
    /// second. Not cancel-safe: a dropped send makes the link unusable.
    pub async fn send(&mut self, frame: &[u8]) -> Result<(), NetError> {
        self.send_parts(&[], frame).await
    }

    /// Like [`Sender::send`], for a frame that is `head` followed by `body`.
    pub async fn send_parts(&mut self, head: &[u8], body: &[u8]) -> Result<(), NetError> {
        let len = head.len() + body.len();
        let peer = || self.about.label.clone();
        let header = match u32::try_from(len) {
            Ok(0) => return Err(NetError::Empty { peer: peer() }),
            Ok(len) => len.to_le_bytes(),
            Err(_) => return Err(NetError::TooLong { peer: peer(), found: len, limit: u32::MAX as usize }),
        };
        if std::mem::replace(&mut self.unusable, true) {
            return Err(NetError::Unusable { peer: peer() });
        }
        let after = self.about.limits.allowance(len);
        let mut bytes = Buf::chain(&header[..], Buf::chain(head, body));
        match timeout(after, self.io.write_all_buf(&mut bytes)).await {
            Ok(Ok(())) => {}
            Ok(Err(source)) => return Err(NetError::lost(&self.about.label, source)),
            Err(_) => return Err(NetError::TooSlow { peer: peer(), what: "taking a frame", after }),
        }
        self.unusable = false;
        self.unflushed = self.unflushed.saturating_add(len);
        self.about.meter.sent(len);
        Ok(())
    }

    /// Sends what still waits in buffers, with a deadline like a frame's.
    /// Cancel-safe.
    pub async fn flush(&mut self) -> Result<(), NetError> {
        let peer = || self.about.label.clone();
        if self.unusable {
            return Err(NetError::Unusable { peer: peer() });
        }
        let after = self.about.limits.allowance(self.unflushed);
        let result = match timeout(after, self.io.flush()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(source)) => Err(NetError::lost(&self.about.label, source)),
            Err(_) => Err(NetError::TooSlow { peer: peer(), what: "taking frames", after }),
        };
        self.unusable = result.is_err();
        self.unflushed = 0;
        result
    }

    /// Says goodbye, so that the peer can tell the end from a cut line.
    pub async fn close(mut self) -> Result<(), NetError> {
        self.flush().await?;
        let after = self.about.limits.frame;
        match timeout(after, self.io.shutdown()).await {
            Ok(result) => result.map_err(|source| NetError::lost(&self.about.label, source)),
            Err(_) => Err(NetError::TooSlow { peer: self.about.label.clone(), what: "taking a goodbye", after }),
        }
    }
}

impl Receiver {
    /// The longest frame accepted from now on, in bytes; a longer one ends the
    /// link with an error. Starts at [`Limits::first_frames`].
    pub fn set_limit(&mut self, bytes: usize) {
        self.limit = bytes;
    }

    /// The next frame. Waits [`Limits::idle`] for its first byte and
    /// [`Limits::allowance`] for the rest; a peer's goodbye is
    /// [`NetError::Closed`]. After any error the link is unusable.
    /// Cancel-safe, but the deadlines run on and the pings of the WebSocket
    /// below are driven from here: keep a `recv` pending.
    pub async fn recv(&mut self) -> Result<Bytes, NetError> {
        loop {
            let (what, after) = match &self.state {
                State::Header(_, 0) => ("the next frame", self.about.limits.idle),
                State::Header(..) => ("a whole frame", self.about.limits.frame),
                State::Body(_, len) => ("a whole frame", self.about.limits.allowance(*len)),
                State::Unusable => return Err(NetError::Unusable { peer: self.about.label.clone() }),
            };
            let deadline = *self.deadline.get_or_insert_with(|| at(after));
            let step = match timeout_at(deadline, self.step()).await {
                Ok(step) => step,
                Err(_) => Err(NetError::TooSlow { peer: self.about.label.clone(), what, after }),
            };
            match step {
                Ok(None) => {}
                Ok(Some(frame)) => return Ok(frame),
                Err(error) => {
                    self.state = State::Unusable;
                    return Err(error);
                }
            }
        }
    }

    /// One read, and what follows from it; the whole state is in `self`, so
    /// that a caller may drop this between two reads.
    async fn step(&mut self) -> Result<Option<Bytes>, NetError> {
        let label = &self.about.label;
        let lost = |source| NetError::lost(label, source);
        match &mut self.state {
            State::Header(bytes, filled) => {
                let n = self.io.read(&mut bytes[*filled..]).await.map_err(lost)?;
                match (n, *filled) {
                    (0, 0) => return Err(NetError::Closed { peer: label.clone() }),
                    (0, _) => return Err(cut_off(label)),
                    // The first byte: from here on the frame's own deadline counts.
                    (_, 0) => self.deadline = Some(at(self.about.limits.frame)),
                    _ => {}
                }
                *filled += n;
                if *filled < HEADER {
                    return Ok(None);
                }
                let len = u32::from_le_bytes(*bytes) as usize;
                if len == 0 {
                    return Err(NetError::Empty { peer: label.clone() });
                }
                if len > self.limit {
                    return Err(NetError::TooLong { peer: label.clone(), found: len, limit: self.limit });
                }
                self.state = State::Body(BytesMut::with_capacity(len.min(FIRST_ALLOCATION)), len);
                self.deadline = Some(at(self.about.limits.allowance(len)));
                Ok(None)
            }
            State::Body(body, len) => {
                if body.len() == body.capacity() {
                    // Doubling: never more than twice what has arrived.
                    body.reserve(body.len().min(*len - body.len()));
                }
                let room = (*len - body.len()).min(body.capacity() - body.len()) as u64;
                if (&mut self.io).take(room).read_buf(body).await.map_err(lost)? == 0 {
                    return Err(cut_off(label));
                }
                if body.len() < *len {
                    return Ok(None);
                }
                self.about.meter.received(*len);
                let frame = std::mem::take(body).freeze();
                (self.state, self.deadline) = (State::Header([0; HEADER], 0), None);
                Ok(Some(frame))
            }
            State::Unusable => Err(NetError::Unusable { peer: label.clone() }),
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link({})", self.label())
    }
}
impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sender({})", self.about.label)
    }
}
impl fmt::Debug for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Receiver({})", self.about.label)
    }
}

/// The moment `after` from now; a century stands for what the clock cannot hold.
fn at(after: Duration) -> Instant {
    Instant::now() + after.min(Duration::from_secs(100 * 365 * 86_400))
}

fn cut_off(label: &str) -> NetError {
    NetError::lost(label, io::Error::new(io::ErrorKind::UnexpectedEof, "the stream ended inside a frame"))
}

#[cfg(test)]
mod tests;
