//! What can go wrong between two peers, each in one line that names the peer.

use std::io;
use std::time::Duration;

use rustls::AlertDescription;

use crate::roster::Slot;

/// Why a link could not be made or did not last. `peer` is a short form of
/// the peer's key with its address, keys are 64 hexadecimal digits.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The address cannot be dialled.
    #[error("address {address:?} is not usable: {reason}; expected host:port or ws://host:port/prefix")]
    Address {
        /// as it was given
        address: String,
        /// what is wrong with it
        reason: &'static str,
    },
    /// No TCP connection.
    #[error("cannot reach {address}: {source}; check the address and that the node is up")]
    Unreachable {
        /// the address dialled
        address: String,
        /// what the system says
        source: io::Error,
    },
    /// Something answered, but not with the upgrade that was asked for.
    #[error("{address} did not open a link: {reason}; expected a beaverdam node at this address and path")]
    NoUpgrade {
        /// the address dialled
        address: String,
        /// what it answered instead
        reason: String,
        /// whether a gateway, a full node or a cut connection answered, so that it may pass
        transient: bool,
    },
    /// A time-out of [`Limits`](super::Limits) passed.
    #[error("{peer} was too slow: {what} not done within {} s; the peer or the way to it is down or overloaded", .after.as_secs_f32())]
    TooSlow {
        /// whom we waited for
        peer: String,
        /// what we waited for
        what: &'static str,
        /// how long
        after: Duration,
    },
    /// TLS failed for another reason than a key.
    #[error("no TLS 1.3 session with {peer}: {reason}; expected a beaverdam peer with a raw Ed25519 key")]
    Tls {
        /// the peer's address
        peer: String,
        /// what the TLS library says
        reason: String,
    },
    /// The listener has another key than the roster says.
    #[error("{address} shows key {}, expected {}: correct the roster if the node has a new key, else someone is in between", hex(.found), hex(.expected))]
    WrongKey {
        /// the address dialled
        address: String,
        /// the key in the roster
        expected: [u8; 32],
        /// the key that was shown
        found: [u8; 32],
    },
    /// The dialler's key is not one that the listener serves.
    #[error("{address} asks for a link with key {}, which is not allowed here: allow it if you know it", hex(.found))]
    Stranger {
        /// where the dialler comes from
        address: String,
        /// its key
        found: [u8; 32],
    },
    /// The peer did not accept our key.
    #[error("{peer} does not accept our key: ask its operator to allow it")]
    Refused {
        /// who refused
        peer: String,
    },
    /// An allowed dialler, but no link is left for it.
    #[error("no link for {address}: all {links} of them are taken; raise the cap or end some")]
    Full {
        /// where the dialler comes from
        address: String,
        /// the cap, [`Limits::links`](super::Limits::links)
        links: usize,
    },
    /// The peer showed our own key.
    #[error("{address} shows our own key: the address leads back to this node, or two nodes were given one key")]
    Ourselves {
        /// where it was met
        address: String,
    },
    /// The peer is of another protocol version.
    #[error("{peer} runs {software:?} with protocol version {found}, ours is {expected}: bring both to one release")]
    Version {
        /// the peer
        peer: String,
        /// its version
        found: u16,
        /// [`PROTOCOL_VERSION`](super::PROTOCOL_VERSION)
        expected: u16,
        /// what it calls itself, if that could be read
        software: String,
    },
    /// The peer authenticated itself but greets in no form that we know.
    #[error(
        "{peer} sent no valid hello: {reason}; expected a beaverdam peer of protocol version {}",
        super::PROTOCOL_VERSION
    )]
    Hello {
        /// the peer
        peer: String,
        /// what is wrong
        reason: &'static str,
    },
    /// A frame is longer than the limit in force.
    #[error("a frame of {found} bytes from {peer} is over the limit of {limit} bytes; the link is closed")]
    TooLong {
        /// the sender (ourselves, if we tried to send it)
        peer: String,
        /// announced length
        found: usize,
        /// limit in force
        limit: usize,
    },
    /// A frame of length 0.
    #[error("an empty frame from {peer}: every frame must hold at least 1 byte; the link is closed")]
    Empty {
        /// the sender
        peer: String,
    },
    /// The peer ended the link, between two frames and with a goodbye.
    #[error("{peer} has closed the link")]
    Closed {
        /// the peer
        peer: String,
    },
    /// The link broke.
    #[error("the link with {peer} broke: {source}; see whether it still runs and can be reached")]
    Lost {
        /// the peer
        peer: String,
        /// what the system or TLS says
        source: io::Error,
    },
    /// The link was used after an error or a cancelled send.
    #[error("the link with {peer} is unusable after an earlier error or a cancelled send: dial again")]
    Unusable {
        /// the peer
        peer: String,
    },
    /// No link to this slot.
    #[error("there is no link to {slot}: dial it first")]
    NoLink {
        /// the slot
        slot: Slot,
    },
    /// The queue of this slot is full.
    #[error("no room is left in the queue of {slot}: it does not read what is sent to it")]
    NoRoom {
        /// the slot
        slot: Slot,
    },
    /// Our own key or the TLS library cannot be used.
    #[error("TLS cannot be set up with our key: {0}; make a new key file")]
    OwnKey(String),
    /// The listening socket failed.
    #[error("the HTTP port failed: {0}; check that the port is free")]
    Serve(io::Error),
}

impl NetError {
    /// Whether dialling again may help, the configuration being right.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::TooSlow { .. } | Self::Closed { .. } | Self::Lost { .. } => true,
            Self::NoUpgrade { transient, .. } => *transient,
            _ => false,
        }
    }

    /// Names the cause of a failed read or write: an alert that says that our
    /// key is refused is told apart from a cut line.
    pub(super) fn lost(peer: &str, source: io::Error) -> Self {
        let peer = peer.to_owned();
        match tls_error(&source) {
            Some(rustls::Error::AlertReceived(AlertDescription::CertificateUnknown)) => Self::Refused { peer },
            _ => Self::Lost { peer, source },
        }
    }
}

/// The TLS library's error inside an I/O error, if it is one.
pub(super) fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// Lower-case hexadecimal, the form in which keys are shown to people.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_is_one_line_that_names_the_peer() {
        let (peer, address) = (String::from("ab… at h:1"), String::from("h:1"));
        let wrong = NetError::WrongKey { address: address.clone(), expected: [1; 32], found: [2; 32] };
        assert!(wrong.to_string().contains(&"01".repeat(32)) && wrong.to_string().contains(&"02".repeat(32)));
        for error in [
            wrong,
            NetError::Stranger { address: address.clone(), found: [3; 32] },
            NetError::Ourselves { address },
            NetError::Version { peer: peer.clone(), found: 2, expected: 1, software: "x\ny".into() },
            NetError::TooLong { peer: peer.clone(), found: 9, limit: 8 },
            NetError::TooSlow { peer, what: "a frame", after: Duration::from_millis(1500) },
        ] {
            let text = error.to_string();
            assert!(text.contains("h:1") && !text.contains('\n'), "{text}");
        }
    }
}
