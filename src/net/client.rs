//! Dialling a peer: TCP, the WebSocket upgrade, TLS pinned to the expected
//! key, hello.

use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Error as WsError;

use super::link::{Link, Role};
use super::socket::{Socket, client_config};
use super::tls::Identity;
use super::{Limits, NetError};

/// The first pause between two attempts of [`connect_retry`], and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Dials `host:port` or `ws://host:port/prefix` and returns a link whose other
/// end has proven to hold the key `expected`. Takes at most
/// [`Limits::connect`] and [`Limits::handshake`].
pub async fn connect(
    address: &str,
    identity: &Identity,
    expected: [u8; 32],
    limits: &Limits,
) -> Result<Link, NetError> {
    let too_slow = |what, after| move |_| NetError::TooSlow { peer: address.to_owned(), what, after };
    let target = Target::parse(address).map_err(|reason| NetError::Address { address: address.to_owned(), reason })?;
    let upgraded = timeout(limits.connect, upgrade(address, &target)).await;
    let socket = Socket::new(upgraded.map_err(too_slow("connecting", limits.connect))??, limits);
    let secured = async {
        let tls = identity.connect(socket, expected, address).await?;
        Link::new(tls, expected, address.to_owned(), limits, None).greet(Role::Dialler).await
    };
    timeout(limits.handshake, secured).await.map_err(too_slow("the TLS handshake", limits.handshake))?
}

/// Like [`connect`], again and again until `deadline` while the error may pass
/// ([`NetError::is_transient`]): for peers that are not up yet. The pauses
/// double and are jittered, so that nodes that start together spread out.
pub async fn connect_retry(
    address: &str,
    identity: &Identity,
    expected: [u8; 32],
    limits: &Limits,
    deadline: Instant,
) -> Result<Link, NetError> {
    let mut pause = PAUSES.0;
    loop {
        let error = match connect(address, identity, expected, limits).await {
            Err(error) if error.is_transient() => error,
            done => return done,
        };
        // Without the system's generator there is no jitter, which harms nobody.
        let jitter = f64::from(getrandom::u32().unwrap_or(u32::MAX)) / f64::from(u32::MAX);
        let next = Instant::now() + pause.mul_f64(0.5 + jitter / 2.0);
        if next >= deadline {
            return Err(error);
        }
        tracing::debug!(address, %error, "will dial again");
        sleep_until(next).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

async fn upgrade(address: &str, target: &Target) -> Result<WebSocketStream<TcpStream>, NetError> {
    let unreachable = |source| NetError::Unreachable { address: address.to_owned(), source };
    let stream = TcpStream::connect((target.host.as_str(), target.port)).await.map_err(unreachable)?;
    stream.set_nodelay(true).map_err(unreachable)?;
    let request = tokio_tungstenite::client_async_with_config(&target.url, stream, Some(client_config()));
    let error = match request.await {
        Ok((socket, _)) => return Ok(socket),
        Err(error) => error,
    };
    let (reason, transient) = match error {
        // Gateways answer so while the node behind them is down, nodes while they are full.
        WsError::Http(answer) => {
            (format!("HTTP status {}", answer.status()), matches!(answer.status().as_u16(), 502..=504))
        }
        WsError::Io(error) => (error.to_string(), true),
        error => (error.to_string(), false),
    };
    Err(NetError::NoUpgrade { address: address.to_owned(), reason, transient })
}

/// An address, taken apart.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    host: String,
    port: u16,
    url: String,
}

impl Target {
    fn parse(address: &str) -> Result<Self, &'static str> {
        let (rest, default_port) = match address.split_once("://") {
            None => (address, None),
            Some(("ws", rest)) => (rest, Some(80)),
            Some(("wss", _)) => {
                return Err("wss is not spoken, because the TLS inside the link protects it already: \
                     use ws, or a local proxy that adds the outer TLS");
            }
            Some(_) => return Err("its scheme is not ws"),
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let host_end = if authority.starts_with('[') { authority.find(']').map_or(0, |i| i + 1) } else { 0 };
        let (host, port) = match authority[host_end..].rfind(':') {
            Some(colon) => {
                let port = authority[host_end + colon + 1..].parse().map_err(|_| "its port is not a number")?;
                (&authority[..host_end + colon], port)
            }
            None => (authority, default_port.ok_or("it has no port")?),
        };
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let good = match bare {
            Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
            None => !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)),
        };
        if !good {
            return Err("its host is neither a name nor an address (IPv6 goes in brackets)");
        }
        if !path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-._~%".contains(&b)) {
            return Err("its path holds other characters than letters, digits and /-._~%");
        }
        let url = format!("ws://{host}:{port}{}/v1/link", path.trim_end_matches('/'));
        Ok(Self { host: bare.unwrap_or(host).to_owned(), port, url })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart() {
        let of = |address| Target::parse(address).map(|t| (t.host, t.port, t.url));
        let good = |host: &str, port, url: &str| Ok((host.to_owned(), port, url.to_owned()));
        assert_eq!(of("a.b-c:70"), good("a.b-c", 70, "ws://a.b-c:70/v1/link"));
        assert_eq!(of("ws://h"), good("h", 80, "ws://h:80/v1/link"));
        assert_eq!(of("ws://h:1/x/y/"), good("h", 1, "ws://h:1/x/y/v1/link"));
        assert_eq!(of("[::1]:9"), good("::1", 9, "ws://[::1]:9/v1/link"));
        assert_eq!(of("ws://[::1]"), good("::1", 80, "ws://[::1]:80/v1/link"));
        let bad = [
            "",
            "h",
            ":1",
            "h:x",
            "h:70000",
            "::1:9",
            "[::1",
            "[x]:1",
            "http://h:1",
            "wss://h:1",
            "u@h:1",
            "h:1/a?b",
            "h:1/\r\n",
            "ws://",
        ];
        for address in bad {
            assert!(of(address).is_err(), "{address:?} was taken");
        }
        assert!(of("wss://h:1").unwrap_err().contains("TLS inside"));
    }
}
