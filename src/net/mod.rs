//! How agents and owners reach each other: authenticated links that carry
//! frames, on one HTTP port.
//!
//! A peer is its Ed25519 identity key and nothing else: no certificate, no
//! name, no address is trusted. `GET /healthz` answers in plain HTTP;
//! `/v1/link` is upgraded to a WebSocket, and inside it runs mutual TLS 1.3
//! with raw public keys (RFC 8446, RFC 7250). Tunnels and proxies that end an
//! outer TLS therefore see only inner ciphertext, and can delay or cut a link
//! but neither read nor change it.
//!
//! This room moves bytes. It must never know what they mean: no roster rules,
//! no jobs, no shares. Everything that a peer sends is bounded in length and
//! in time before it costs memory.
//!
//! | file | holds |
//! |---|---|
//! | [`link`] | frames over any byte stream, with caps and deadlines |
//! | [`tls`] | who the peer is |
//! | `socket` | a byte stream over WebSocket messages, kept alive by pings |
//! | [`client`], [`server`] | the two ends of the HTTP port |
//! | [`mesh`] | [`Transport`]: links by slot, over sockets or in memory |
//! | [`Shape`] | a worse network than there is, for measuring |
//! | `tamper` | a node that lies, for tests |

pub mod client;
mod error;
pub mod link;
pub mod mesh;
pub mod server;
mod shape;
mod socket;
mod tamper;
pub mod tls;

#[cfg(test)]
mod attacks;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::roster::Slot;

pub use error::NetError;
pub use link::{Link, Traffic};
pub use shape::Shape;
#[doc(hidden)]
pub use tamper::Tamper;

/// The version of everything that travels inside a link. Two agents of
/// different versions refuse each other with an error that names both.
pub const PROTOCOL_VERSION: u16 = 1;

/// Caps and time-outs of links and of the server; [`Default`] suits nodes on
/// the public internet.
#[derive(Clone, Debug)]
pub struct Limits {
    /// For a dialler: name look-up, TCP and the WebSocket upgrade. 10 s.
    pub connect: Duration,
    /// TLS and hello together; for a listener also the HTTP part before. 10 s.
    pub handshake: Duration,
    /// How long a link may stay without the first byte of another frame. 1 h.
    pub idle: Duration,
    /// The time that every frame has from its first byte to its last, sent or
    /// received, on top of its length over [`Limits::min_rate`]. 20 s.
    pub frame: Duration,
    /// The slowest peer that is worth waiting for, in bytes per second. 64 KiB/s.
    pub min_rate: u64,
    /// The longest frame that a fresh link accepts, in bytes, until
    /// [`link::Receiver::set_limit`]. 64 KiB.
    pub first_frames: usize,
    /// How often a WebSocket ping goes out on a link. 20 s.
    pub ping: Duration,
    /// A link on which nothing is heard for so long, pongs included, is dead. 60 s.
    pub dead: Duration,
    /// For a listener: connections that are not yet links, at most; more wait
    /// in the kernel's queue. 128, about 13 MB if all of them are hostile.
    pub half_open: usize,
    /// For a listener: links at most; more are answered 503. 256.
    pub links: usize,
    /// Bytes of frames that may wait in a [`mesh`], per peer and direction;
    /// one longer frame passes alone. 64 MiB.
    pub queue: u32,
    /// For measuring alone: a worse network than there is, for the frames of a
    /// [`mesh`] of links. Clones share one uplink. None.
    pub shape: Option<Arc<Shape>>,
    /// For tests alone: the node lies. None.
    #[doc(hidden)]
    pub tamper: Option<Tamper>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            handshake: Duration::from_secs(10),
            idle: Duration::from_secs(3600),
            frame: Duration::from_secs(20),
            min_rate: 64 << 10,
            first_frames: 64 << 10,
            ping: Duration::from_secs(20),
            dead: Duration::from_secs(60),
            half_open: 128,
            links: 256,
            queue: 64 << 20,
            shape: None,
            tamper: None,
        }
    }
}

impl Limits {
    /// The time that `bytes` may take, either way.
    pub fn allowance(&self, bytes: usize) -> Duration {
        let seconds = bytes as u64 / self.min_rate.max(1);
        self.frame.saturating_add(Duration::from_secs(seconds))
    }
}

/// A frame on its way out, in two parts that the receiver sees as one; the
/// second may be shared with frames to others.
#[derive(Clone, Debug)]
pub struct Message {
    /// what comes first
    pub head: Bytes,
    /// what follows, perhaps nothing
    pub body: Bytes,
}

impl Message {
    /// Bytes of the frame.
    pub fn len(&self) -> usize {
        self.head.len() + self.body.len()
    }
    /// Whether it has none, and is no frame.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// In one piece; copied only if it is in two.
    pub(crate) fn joined(self) -> Bytes {
        if self.body.is_empty() { self.head } else { [&self.head[..], &self.body].concat().into() }
    }
}

impl<T: Into<Bytes>> From<T> for Message {
    fn from(frame: T) -> Self {
        Self { head: frame.into(), body: Bytes::new() }
    }
}

/// What a node's session needs of its peers: frames to and from slots, in
/// order per peer, with no promise across peers.
pub trait Transport: Send {
    /// Queues a frame for a slot and returns once the queue has room; it goes
    /// out at once, together with what else waits. Errors if there is no link
    /// to the slot, or its link has failed.
    fn send(&mut self, to: Slot, frame: impl Into<Message> + Send)
    -> impl Future<Output = Result<(), NetError>> + Send;

    /// The next frame of any peer, or why a peer's link ended (then nothing
    /// more comes from that slot until it has another link). Waits for ever if
    /// all links have ended. Cancel-safe.
    fn recv(&mut self) -> impl Future<Output = (Slot, Result<Bytes, NetError>)> + Send;

    /// Bytes of frames to and from all slots so far.
    fn traffic(&self) -> Traffic;
}
