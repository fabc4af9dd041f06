//! The port under attack: real sockets on loopback, hostile or broken callers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::Message;

use super::client::{connect, connect_retry};
use super::server::serve;
use super::tls::Identity;
use super::{Limits, Link, NetError};
use crate::keys::SecretKey;

fn identity(seed: u8) -> Identity {
    Identity::new(&SecretKey::from_seed([seed; 32])).unwrap()
}

/// A served port whose links come out of a channel.
struct Port {
    address: String,
    key: [u8; 32],
    links: mpsc::UnboundedReceiver<Link>,
    stop: oneshot::Sender<()>,
    served: JoinHandle<Result<(), NetError>>,
}

/// Serves key 100 to the keys with seeds 1 to 50.
async fn port(limits: Limits) -> Port {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let node = identity(100);
    let key = node.own();
    let friends: Vec<_> = (1..=50).map(|seed| identity(seed).own()).collect();
    let (sender, links) = mpsc::unbounded_channel();
    let (stop, stopped) = oneshot::channel::<()>();
    let served = tokio::spawn(async move {
        let on_link = move |link| {
            let sender = sender.clone();
            async move {
                let _ = sender.send(link);
            }
        };
        let health = || r#"{"status":"ok"}"#;
        let until = async {
            let _ = stopped.await;
        };
        serve(listener, &node, limits, move |key| friends.contains(&key), on_link, health, until).await
    });
    Port { address, key, links, stop, served }
}

impl Port {
    async fn dial(&self, seed: u8) -> Result<Link, NetError> {
        connect(&self.address, &identity(seed), self.key, &Limits::default()).await
    }
    async fn dial_until_up(&self, seed: u8) -> Result<Link, NetError> {
        let deadline = Instant::now() + Duration::from_secs(30);
        connect_retry(&self.address, &identity(seed), self.key, &Limits::default(), deadline).await
    }
    /// Whether the port still serves its friends.
    async fn works(&mut self) {
        let mut near = self.dial(1).await.unwrap();
        let mut far = self.links.recv().await.unwrap();
        near.send(b"ping").await.unwrap();
        near.flush().await.unwrap();
        assert_eq!(far.recv().await.unwrap(), "ping");
    }
    /// The answer to one plain HTTP request.
    async fn http(&self, head: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).await.unwrap();
        stream.write_all(format!("{head}\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }
    /// Past the upgrade, where TLS should begin.
    async fn upgraded(&self) -> tokio_tungstenite::WebSocketStream<TcpStream> {
        let stream = TcpStream::connect(&self.address).await.unwrap();
        let url = format!("ws://{}/v1/link", self.address);
        tokio_tungstenite::client_async(url, stream).await.unwrap().0
    }
}

/// Reads until the other side ends the connection, and fails if it does not.
async fn ends(stream: &mut TcpStream) {
    let mut sink = Vec::new();
    let _ = timeout(Duration::from_secs(20), stream.read_to_end(&mut sink)).await.expect("still open");
}

#[tokio::test]
async fn twenty_megabytes_pass_both_ways() {
    let mut port = port(Limits::default()).await;
    let mut near = port.dial(1).await.unwrap();
    let mut far = port.links.recv().await.unwrap();
    assert_eq!((near.peer(), far.peer()), (port.key, identity(1).own()));
    near.set_limit(20_000_000);
    far.set_limit(20_000_000);
    let frame: Vec<u8> = (0..20_000_000u32).map(|i| (i % 253) as u8).collect();
    let run = |link: Link| {
        let frame = frame.clone();
        async move {
            let (mut sender, mut receiver) = link.split();
            let out = async {
                sender.send(&frame).await.unwrap();
                sender.flush().await.unwrap();
            };
            let ((), got) = tokio::join!(out, receiver.recv());
            assert!(got.unwrap() == frame);
            (sender, receiver)
        }
    };
    let ((sender, _), (_, mut receiver)) = tokio::join!(run(near), run(far));
    sender.close().await.unwrap();
    assert!(matches!(receiver.recv().await, Err(NetError::Closed { .. })));
}

#[tokio::test]
async fn strangers_and_wrong_keys_get_no_link() {
    let mut port = port(Limits::default()).await;
    let stranger = port.dial(60).await.unwrap_err();
    assert!(matches!(stranger, NetError::Refused { .. }), "{stranger}");
    let own = identity(2).own();
    let wrong = connect(&port.address, &identity(1), own, &Limits::default()).await.unwrap_err();
    assert!(matches!(wrong, NetError::WrongKey { expected, found, .. } if expected == own && found == port.key));
    let deadline = Instant::now() + Duration::from_secs(60);
    let again = connect_retry(&port.address, &identity(1), own, &Limits::default(), deadline).await;
    assert!(matches!(again, Err(NetError::WrongKey { .. })), "what cannot pass is not tried again");
    assert!(port.links.try_recv().is_err());
    port.works().await;
}

#[tokio::test]
async fn plain_http_gets_plain_answers() {
    let mut port = port(Limits::default()).await;
    let health = port.http("GET /healthz HTTP/1.1").await;
    assert!(health.starts_with("HTTP/1.1 200") && health.ends_with(r#"{"status":"ok"}"#), "{health}");
    assert!(port.http("GET /v1/link HTTP/1.1").await.starts_with("HTTP/1.1 400"));
    assert!(port.http("POST /v1/link HTTP/1.1").await.starts_with("HTTP/1.1 405"));
    assert!(port.http("GET /else HTTP/1.1").await.starts_with("HTTP/1.1 404"));
    assert!(port.http("\u{16}\u{3}\u{1}").await.starts_with("HTTP/1.1 400"));
    port.works().await;
}

#[tokio::test]
async fn garbage_after_the_upgrade_ends_the_connection() {
    let mut port = port(Limits::default()).await;
    let garbage = [
        Message::binary(vec![0; 1000]),
        Message::binary(b"\x16\x03\x01\xff\xff\x01".to_vec()),
        Message::binary([b"\x16\x03\x01\x00\x05".to_vec(), vec![0xff; 5]].concat()),
        Message::binary(vec![0x17; 60_000]),
        Message::text("hello"),
        Message::Close(None),
    ];
    for message in garbage {
        let mut socket = port.upgraded().await;
        socket.send(message).await.unwrap();
        // The short ones may be held until the handshake's deadline.
        while let Ok(Some(Ok(_))) = timeout(Duration::from_secs(20), socket.next()).await {}
        ends(socket.get_mut()).await;
    }
    assert!(port.links.try_recv().is_err());
    port.works().await;
}

#[tokio::test]
async fn a_handshake_cut_anywhere_leaves_nothing_behind() {
    let limits = Limits { half_open: 2, handshake: Duration::from_millis(400), ..Limits::default() };
    let mut port = port(limits).await;
    // A real dialler's first bytes, taken by a listener that never answers.
    let tap = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tapped = tap.local_addr().unwrap().to_string();
    let dialler = tokio::spawn(async move { connect(&tapped, &identity(1), [0; 32], &Limits::default()).await });
    let mut victim = tokio_tungstenite::accept_async(tap.accept().await.unwrap().0).await.unwrap();
    let Some(Ok(Message::Binary(first))) = victim.next().await else { panic!("no ClientHello") };
    drop(victim);
    assert!(dialler.await.unwrap().is_err());
    assert_eq!(first[0], 0x16);

    for cut in [1, 5, 40, first.len() / 2, first.len() - 1, first.len()] {
        let mut leaves = port.upgraded().await;
        leaves.send(Message::Binary(first.slice(..cut))).await.unwrap();
        drop(leaves);
        let mut stays = port.upgraded().await;
        stays.send(Message::Binary(first.slice(..cut))).await.unwrap();
        ends(stays.get_mut()).await;
    }
    assert!(port.links.try_recv().is_err());
    port.works().await;
}

#[tokio::test]
async fn half_open_connections_are_capped_and_do_not_last() {
    let limits = Limits { half_open: 8, handshake: Duration::from_millis(300), ..Limits::default() };
    let mut port = port(limits).await;
    let open = Arc::new(AtomicUsize::new(0));
    let mut attackers = Vec::new();
    for i in 0..40 {
        let mut stream = TcpStream::connect(&port.address).await.unwrap();
        let open = open.clone();
        open.fetch_add(1, Ordering::Relaxed);
        attackers.push(tokio::spawn(async move {
            // Silent, in the middle of a request, or upgraded and then silent.
            match i % 3 {
                0 => {}
                1 => stream.write_all(b"GET /v1/link HTTP/1.1\r\nHost: x\r\n").await.unwrap(),
                _ => {
                    let upgrade = "GET /v1/link HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
                        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
                    stream.write_all(upgrade.as_bytes()).await.unwrap();
                }
            }
            ends(&mut stream).await;
            open.fetch_sub(1, Ordering::Relaxed);
        }));
    }
    // The honest caller queues behind them and is served when their time is over.
    let start = std::time::Instant::now();
    let _near = port.dial_until_up(1).await.unwrap();
    port.links.recv().await.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(300), "the cap held nobody up");
    for attacker in attackers {
        attacker.await.unwrap();
    }
    assert_eq!(open.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn more_honest_callers_than_half_open_places_are_all_served() {
    let mut port = port(Limits { half_open: 3, ..Limits::default() }).await;
    let key = port.key;
    let dials: Vec<_> = (1..=24)
        .map(|seed| {
            let address = port.address.clone();
            tokio::spawn(async move { connect(&address, &identity(seed), key, &Limits::default()).await.unwrap() })
        })
        .collect();
    let mut seen = Vec::new();
    for _ in 0..24 {
        seen.push(port.links.recv().await.unwrap().peer());
    }
    for dial in dials {
        dial.await.unwrap();
    }
    let mut expected: Vec<_> = (1..=24).map(|seed| identity(seed).own()).collect();
    seen.sort();
    expected.sort();
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn links_over_the_cap_are_told_to_wait() {
    let mut port = port(Limits { links: 1, ..Limits::default() }).await;
    let near = port.dial(1).await.unwrap();
    let far = port.links.recv().await.unwrap();
    let full = port.dial(2).await.unwrap_err();
    assert!(full.is_transient() && full.to_string().contains("503"), "{full}");
    assert!(port.http("GET /healthz HTTP/1.1").await.starts_with("HTTP/1.1 200"));
    let (sender, receiver) = far.split();
    drop((near, sender));
    assert!(port.dial(2).await.is_err(), "half a link still holds its place");
    drop(receiver);
    port.dial_until_up(2).await.unwrap();
}

#[tokio::test]
async fn a_silent_or_foreign_listener_is_named() {
    let limits =
        Limits { connect: Duration::from_millis(300), handshake: Duration::from_millis(300), ..Limits::default() };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let us = identity(1);
    let dial = || connect(&address, &us, [0; 32], &limits);
    let silent = dial().await.unwrap_err();
    assert!(matches!(silent, NetError::TooSlow { what: "connecting", .. }) && silent.is_transient(), "{silent}");
    drop(listener.accept().await.unwrap());

    for (answer, transient) in [
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", false),
        ("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", true),
        ("SSH-2.0-OpenSSH_9.9\r\n\r\n", false),
    ] {
        let foreign = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.read_buf(&mut vec![0; 4096]).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream
        };
        let (error, _stream) = tokio::join!(dial(), foreign);
        let error = error.unwrap_err();
        assert!(matches!(error, NetError::NoUpgrade { .. }) && error.is_transient() == transient, "{error}");
    }

    let upgraded_and_silent =
        async { tokio_tungstenite::accept_async(listener.accept().await.unwrap().0).await.unwrap() };
    let (error, _socket) = tokio::join!(dial(), upgraded_and_silent);
    assert!(matches!(error, Err(NetError::TooSlow { what: "the TLS handshake", .. })));

    drop(listener);
    assert!(matches!(dial().await, Err(NetError::Unreachable { .. })));
}

#[tokio::test]
async fn dialling_waits_for_a_peer_that_starts_late() {
    let reserved = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = reserved.local_addr().unwrap();
    drop(reserved);
    let node = identity(100);
    let key = node.own();
    let (sender, mut links) = mpsc::unbounded_channel();
    let late = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let listener = TcpListener::bind(address).await.unwrap();
        let on_link = move |link| {
            let _ = sender.send(link);
            std::future::ready(())
        };
        serve(listener, &node, Limits::default(), |_| true, on_link, || "{}", std::future::pending()).await
    });
    let dial = |wait| {
        let deadline = Instant::now() + Duration::from_millis(wait);
        async move { connect_retry(&address.to_string(), &identity(1), key, &Limits::default(), deadline).await }
    };
    assert!(matches!(dial(50).await, Err(NetError::Unreachable { .. })));
    dial(30_000).await.unwrap();
    links.recv().await.unwrap();
    late.abort();
}

#[tokio::test]
async fn stopping_drops_the_handlers_and_frees_the_port() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let node = identity(100);
    let key = node.own();
    let (stop, stopped) = oneshot::channel::<()>();
    let (started, mut starts) = mpsc::unbounded_channel();
    let served = tokio::spawn(async move {
        let on_link = move |link: Link| {
            let started = started.clone();
            async move {
                let _held = (link, started.send(()));
                std::future::pending::<()>().await;
            }
        };
        let until = async {
            let _ = stopped.await;
        };
        serve(listener, &node, Limits::default(), |_| true, on_link, || "{}", until).await
    });
    let mut near = connect(&address.to_string(), &identity(1), key, &Limits::default()).await.unwrap();
    starts.recv().await.unwrap();
    stop.send(()).unwrap();
    served.await.unwrap().unwrap();
    assert!(near.recv().await.is_err());
    assert!(starts.recv().await.is_none(), "a handler is still alive");
    TcpListener::bind(address).await.unwrap();
}

#[tokio::test]
async fn a_stopped_port_returns() {
    let port = port(Limits::default()).await;
    port.stop.send(()).unwrap();
    port.served.await.unwrap().unwrap();
}
