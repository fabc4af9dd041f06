//! A byte stream over WebSocket binary messages.
//!
//! Message boundaries carry no meaning: a proxy may cut or join messages, and
//! TLS above does not see them. Both sides ping, so that proxies keep an idle
//! link open and a dead peer is noticed; the pings are driven by reads, so a
//! link that nobody reads is silent.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::task::AtomicWaker;
use futures_util::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use tokio_tungstenite::tungstenite::{self, protocol::WebSocketConfig};

use super::Limits;

/// The longest message, sent or accepted. It bounds what a peer can make us
/// hold before it has shown its key.
pub(super) const MAX_MESSAGE: usize = 64 << 10;
const READ_BUFFER: usize = 32 << 10;
/// Our own messages, one waiting in the buffer and one more, with headers and
/// a pong: past it the library refuses a message instead of growing.
const WRITE_BUFFER: usize = 4 * MAX_MESSAGE;

/// The settings of the client's side; the server's are set to the same.
pub(super) fn client_config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(MAX_MESSAGE)
        .max_write_buffer_size(WRITE_BUFFER)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE))
}

/// The settings of the server's side.
pub(super) fn server_config(upgrade: axum::extract::WebSocketUpgrade) -> axum::extract::WebSocketUpgrade {
    upgrade
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(MAX_MESSAGE)
        .max_write_buffer_size(WRITE_BUFFER)
        .max_message_size(MAX_MESSAGE)
        .max_frame_size(MAX_MESSAGE)
}

/// What arrived.
pub(super) enum Arrival {
    Data(Bytes),
    Control,
    Close,
    Text,
}

/// The one thing in which the server's and the client's library differ.
pub(super) trait Message: Sized {
    fn binary(data: Bytes) -> Self;
    fn ping() -> Self;
    fn arrival(self) -> Arrival;
}

impl Message for tungstenite::Message {
    fn binary(data: Bytes) -> Self {
        Self::Binary(data)
    }
    fn ping() -> Self {
        Self::Ping(Bytes::new())
    }
    fn arrival(self) -> Arrival {
        match self {
            Self::Binary(data) => Arrival::Data(data),
            Self::Ping(_) | Self::Pong(_) => Arrival::Control,
            Self::Close(_) => Arrival::Close,
            Self::Text(_) | Self::Frame(_) => Arrival::Text,
        }
    }
}

impl Message for axum::extract::ws::Message {
    fn binary(data: Bytes) -> Self {
        Self::Binary(data)
    }
    fn ping() -> Self {
        Self::Ping(Bytes::new())
    }
    fn arrival(self) -> Arrival {
        match self {
            Self::Binary(data) => Arrival::Data(data),
            Self::Ping(_) | Self::Pong(_) => Arrival::Control,
            Self::Close(_) => Arrival::Close,
            Self::Text(_) => Arrival::Text,
        }
    }
}

/// The byte stream. Reads copy once, out of the message; writes copy once,
/// into it, and go out when [`MAX_MESSAGE`] bytes wait or on flush.
pub(super) struct Socket<W> {
    inner: W,
    rest: Bytes,
    ended: bool,
    tick: Interval,
    silent: u32,
    silent_max: u32,
    ping_due: bool,
    ping_unflushed: bool,
    waiting: Arc<Waiting>,
    waker: Waker,
}

/// Reads send pings and writes send data, from two tasks, but the WebSocket
/// remembers one waker for its sink: this one, which wakes both.
#[derive(Default)]
struct Waiting {
    read: AtomicWaker,
    write: AtomicWaker,
}

impl Wake for Waiting {
    fn wake(self: Arc<Self>) {
        self.read.wake();
        self.write.wake();
    }
}

impl<W, M, E> Socket<W>
where
    W: Stream<Item = Result<M, E>> + Sink<M, Error = E> + Unpin,
    M: Message,
    E: std::error::Error + Send + Sync + 'static,
{
    /// Wraps an upgraded WebSocket whose caps are those of [`client_config`].
    pub(super) fn new(inner: W, limits: &Limits) -> Self {
        let period = limits.ping.clamp(Duration::from_millis(1), Duration::from_secs(86_400));
        let mut tick = interval_at(Instant::now() + period, period);
        // Time in which nobody read does not count as the peer's silence.
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let waiting = Arc::new(Waiting::default());
        Self {
            inner,
            rest: Bytes::new(),
            ended: false,
            tick,
            silent: 0,
            silent_max: limits.dead.as_millis().div_ceil(period.as_millis()).min(1 << 20) as u32,
            ping_due: false,
            ping_unflushed: false,
            waker: Waker::from(waiting.clone()),
            waiting,
        }
    }

    /// Polls while nothing arrives: notices a dead peer, sends a due ping. A
    /// ping that finds no room waits; then other bytes are under way anyway.
    fn keep_alive(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while self.tick.poll_tick(cx).is_ready() {
            if self.silent >= self.silent_max {
                let text = format!("nothing heard, not even a pong, for {} pings", self.silent);
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
            self.silent += 1;
            self.ping_due = true;
        }
        if !self.ping_due && !self.ping_unflushed {
            return Ok(());
        }
        self.waiting.read.register(cx.waker());
        let waker = self.waker.clone();
        let mut both = Context::from_waker(&waker);
        if self.ping_due && Pin::new(&mut self.inner).poll_ready(&mut both).map_err(io::Error::other)?.is_ready() {
            Pin::new(&mut self.inner).start_send(M::ping()).map_err(io::Error::other)?;
            (self.ping_due, self.ping_unflushed) = (false, true);
        }
        if self.ping_unflushed && Pin::new(&mut self.inner).poll_flush(&mut both).map_err(io::Error::other)?.is_ready()
        {
            self.ping_unflushed = false;
        }
        Ok(())
    }

    fn poll_sink(
        &mut self,
        cx: &mut Context<'_>,
        poll: impl FnOnce(Pin<&mut W>, &mut Context<'_>) -> Poll<Result<(), E>>,
    ) -> Poll<io::Result<()>> {
        self.waiting.write.register(cx.waker());
        let waker = self.waker.clone();
        poll(Pin::new(&mut self.inner), &mut Context::from_waker(&waker)).map_err(io::Error::other)
    }
}

impl<W, M, E> AsyncRead for Socket<W>
where
    W: Stream<Item = Result<M, E>> + Sink<M, Error = E> + Unpin,
    M: Message,
    E: std::error::Error + Send + Sync + 'static,
{
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if !this.rest.is_empty() {
                let n = this.rest.len().min(buf.remaining());
                buf.put_slice(&this.rest[..n]);
                this.rest.advance(n);
                return Poll::Ready(Ok(()));
            }
            if this.ended {
                return Poll::Ready(Ok(()));
            }
            match Pin::new(&mut this.inner).poll_next(cx) {
                Poll::Ready(Some(Ok(message))) => {
                    this.silent = 0;
                    match message.arrival() {
                        Arrival::Data(data) => this.rest = data,
                        Arrival::Control => {}
                        Arrival::Close => this.ended = true,
                        Arrival::Text => {
                            let text = "a text message, where only binary ones belong";
                            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, text)));
                        }
                    }
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(io::Error::other(error))),
                Poll::Ready(None) => this.ended = true,
                Poll::Pending => {
                    this.keep_alive(cx)?;
                    return Poll::Pending;
                }
            }
        }
    }
}

impl<W, M, E> AsyncWrite for Socket<W>
where
    W: Stream<Item = Result<M, E>> + Sink<M, Error = E> + Unpin,
    M: Message,
    E: std::error::Error + Send + Sync + 'static,
{
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(data)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let total = slices.iter().map(|s| s.len()).sum::<usize>().min(MAX_MESSAGE);
        if total == 0 {
            return Poll::Ready(Ok(0));
        }
        ready!(self.poll_sink(cx, |sink, cx| sink.poll_ready(cx)))?;
        let mut message = BytesMut::with_capacity(total);
        for slice in slices {
            message.extend_from_slice(&slice[..slice.len().min(total - message.len())]);
        }
        Pin::new(&mut self.inner).start_send(M::binary(message.freeze())).map_err(io::Error::other)?;
        Poll::Ready(Ok(total))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_sink(cx, |sink, cx| sink.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_sink(cx, |sink, cx| sink.poll_close(cx))
    }
}

#[cfg(test)]
mod tests;
