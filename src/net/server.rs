//! The one HTTP port of a node: `GET /healthz`, and links at `/v1/link`.
//!
//! A connection has [`Limits::handshake`] to become a link, whatever it does,
//! and only [`Limits::half_open`] connections at once are in that state; the
//! others wait unaccepted. Links are counted separately.

use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::extract::connect_info::Connected;
use axum::extract::ws::{WebSocket, WebSocketUpgrade};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::IncomingStream;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Sleep, sleep, timeout};

use super::link::{Link, Role};
use super::socket::{Socket, server_config};
use super::tls::{self, Identity};
use super::{Limits, NetError};

/// Serves until `shutdown` completes; then drops all handlers and returns.
///
/// `accept` is asked in each TLS handshake whether a key may have a link; it
/// must be quick. `on_link` runs once per link, in a task of its own. `health`
/// makes the body of `/healthz`, one JSON object, for each request; it is
/// shown to anybody.
pub async fn serve<F, D>(
    listener: TcpListener,
    identity: &Identity,
    limits: Limits,
    accept: impl Fn([u8; 32]) -> bool + Send + Sync + 'static,
    on_link: impl Fn(Link) -> F + Clone + Send + Sync + 'static,
    health: impl Fn() -> D + Clone + Send + Sync + 'static,
    shutdown: impl Future<Output = ()>,
) -> Result<(), NetError>
where
    F: Future<Output = ()> + Send + 'static,
    D: Display,
{
    let entrance = Arc::new(Entrance {
        tls: identity.server(Arc::new(accept))?,
        places: Arc::new(Semaphore::new(limits.links.min(Semaphore::MAX_PERMITS))),
        limits,
        stop: watch::Sender::new(false),
    });
    let at_link = {
        let entrance = entrance.clone();
        move |ConnectInfo(caller): ConnectInfo<Caller>, upgrade: WebSocketUpgrade| {
            let answer = entrance.clone().open(caller, upgrade, on_link.clone());
            std::future::ready(answer)
        }
    };
    let at_health = move || {
        let body = health().to_string();
        std::future::ready(([(header::CONTENT_TYPE, "application/json")], body))
    };
    let router = Router::new().route("/healthz", get(at_health)).route("/v1/link", get(at_link));
    let door = Door {
        listener,
        half_open: Arc::new(Semaphore::new(entrance.limits.half_open.min(Semaphore::MAX_PERMITS))),
        patience: entrance.limits.handshake,
    };
    let service = router.into_make_service_with_connect_info::<Caller>();
    let served = tokio::select! {
        served = axum::serve(door, service).into_future() => served.map_err(NetError::Serve),
        () = pin!(shutdown) => Ok(()),
    };
    entrance.stop.send_replace(true);
    entrance.stop.closed().await;
    served
}

/// What all connections share.
struct Entrance {
    tls: Arc<ServerConfig>,
    places: Arc<Semaphore>,
    limits: Limits,
    stop: watch::Sender<bool>,
}

impl Entrance {
    fn open<F>(
        self: Arc<Self>,
        caller: Caller,
        upgrade: WebSocketUpgrade,
        on_link: impl Fn(Link) -> F + Send + Sync + 'static,
    ) -> Response
    where
        F: Future<Output = ()> + Send + 'static,
    {
        if self.places.available_permits() == 0 {
            return (StatusCode::SERVICE_UNAVAILABLE, "all links of this node are taken, try again later\n")
                .into_response();
        }
        server_config(upgrade).on_upgrade(move |socket| async move {
            let mut stop = self.stop.subscribe();
            let linked = async {
                match self.link(socket, &caller).await {
                    Ok(link) => on_link(link).await,
                    Err(error) => tracing::info!(%error, "no link"),
                }
            };
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => {}
                () = linked => {}
            }
        })
    }

    async fn link(&self, socket: WebSocket, caller: &Caller) -> Result<Link, NetError> {
        let address = caller.address.to_string();
        let after = self.limits.handshake;
        let secured = async {
            let socket = Socket::new(socket, &self.limits);
            let (tls, peer) = tls::accept(self.tls.clone(), socket, &address).await?;
            let place = self
                .places
                .clone()
                .try_acquire_owned()
                .map_err(|_| NetError::Full { address: address.clone(), links: self.limits.links })?;
            Link::new(tls, peer, address.clone(), &self.limits, Some(place)).greet(Role::Listener).await
        };
        let link = timeout(after, secured).await.map_err(|_| NetError::TooSlow {
            peer: address.clone(),
            what: "the TLS handshake",
            after,
        })??;
        caller.pass.give_back();
        Ok(link)
    }
}

/// Accepts TCP connections, as many as may be half open.
struct Door {
    listener: TcpListener,
    half_open: Arc<Semaphore>,
    patience: Duration,
}

impl axum::serve::Listener for Door {
    type Io = HalfOpen;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (HalfOpen, SocketAddr) {
        let permit = self.half_open.clone().acquire_owned().await.expect("this semaphore is never closed");
        loop {
            match self.listener.accept().await {
                Ok((stream, address)) => {
                    // Without it links are slower, not wrong.
                    let _ = stream.set_nodelay(true);
                    let pass = Pass(Arc::new(Mutex::new(Some(permit))));
                    return (HalfOpen { stream, pass, patience: Box::pin(sleep(self.patience)) }, address);
                }
                Err(error) => {
                    // Mostly that the process is out of file descriptors.
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// The right to be half open; given back when the connection is a link.
#[derive(Clone)]
struct Pass(Arc<Mutex<Option<OwnedSemaphorePermit>>>);

impl Pass {
    fn give_back(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
    fn is_held(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

/// Where a request comes from.
#[derive(Clone)]
struct Caller {
    address: SocketAddr,
    pass: Pass,
}

impl Connected<IncomingStream<'_, Door>> for Caller {
    fn connect_info(stream: IncomingStream<'_, Door>) -> Self {
        Self { address: *stream.remote_addr(), pass: stream.io().pass.clone() }
    }
}

/// A TCP stream that fails when its patience ends before it is a link: the
/// HTTP library has no deadline for a request that never comes.
struct HalfOpen {
    stream: TcpStream,
    pass: Pass,
    patience: Pin<Box<Sleep>>,
}

impl HalfOpen {
    /// For a poll that is about to wait.
    fn wait<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if !self.patience.is_elapsed() && self.patience.as_mut().poll(cx).is_pending() || !self.pass.is_held() {
            return Poll::Pending;
        }
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "no link in time")))
    }
}

impl AsyncRead for HalfOpen {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_read(cx, buf) {
            Poll::Pending => self.wait(cx),
            ready => ready,
        }
    }
}

impl AsyncWrite for HalfOpen {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write(cx, data) {
            Poll::Pending => self.wait(cx),
            ready => ready,
        }
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write_vectored(cx, data) {
            Poll::Pending => self.wait(cx),
            ready => ready,
        }
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
