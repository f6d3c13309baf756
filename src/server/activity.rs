//! What a connection does, so that an idle one can be told from a busy one: its streams, and its bytes.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// What every client of HTTP/2 sends first (RFC 9113, 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What one connection has done so far; shared with its streams.
#[derive(Debug)]
pub struct Activity {
    begin: Instant,
    /// Requests that are not answered, whole body included.
    streams: AtomicUsize,
    /// Whether there has been a request.
    used: AtomicBool,
    /// When the last stream ended, milliseconds after `begin`.
    idle_since_ms: AtomicU64,
    /// Whether anything was written since somebody asked.
    wrote: AtomicBool,
}

impl Activity {
    /// A connection that has been accepted.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            begin: Instant::now(),
            streams: AtomicUsize::new(0),
            used: AtomicBool::new(false),
            idle_since_ms: AtomicU64::new(0),
            wrote: AtomicBool::new(false),
        })
    }

    /// When the connection was accepted.
    #[must_use]
    pub fn begin(&self) -> Instant {
        self.begin
    }

    /// Whether there has been a request.
    #[must_use]
    pub fn used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }

    /// Whether a request is being answered.
    #[must_use]
    pub fn busy(&self) -> bool {
        self.streams.load(Ordering::Acquire) > 0
    }

    /// Whether anything was written since the last call.
    #[must_use]
    pub fn wrote(&self) -> bool {
        self.wrote.swap(false, Ordering::Relaxed)
    }

    /// Since when there is no request, the moment of acceptance included.
    #[must_use]
    pub fn idle_since(&self) -> Instant {
        self.begin + Duration::from_millis(self.idle_since_ms.load(Ordering::Acquire))
    }
}

/// A request that is not answered yet; dropped with the last of its answer.
#[derive(Debug)]
pub struct Stream(Arc<Activity>);

impl Stream {
    /// A request has come.
    #[must_use]
    pub fn begin(activity: &Arc<Activity>) -> Self {
        activity.used.store(true, Ordering::Relaxed);
        activity.streams.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(activity))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let elapsed = u64::try_from(self.0.begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.idle_since_ms.store(elapsed, Ordering::Release);
        self.0.streams.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The body of an answer, which keeps its stream until it has been handed over.
#[derive(Debug)]
pub struct Answered<B> {
    body: B,
    _stream: Stream,
}

impl<B> Answered<B> {
    /// Ties a body to its stream.
    pub fn new(body: B, stream: Stream) -> Self {
        Self { body, _stream: stream }
    }
}

impl<B: Body + Unpin> Body for Answered<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A connection's bytes: the first of them can be looked at before they are read, and writing leaves a trace in
/// its [`Activity`].
#[derive(Debug)]
pub struct Watched<I> {
    inner: I,
    activity: Arc<Activity>,
    /// Bytes that were looked at and are to be read: `first[read..filled]`.
    first: [u8; PREFACE.len()],
    read: usize,
    filled: usize,
}

impl<I: AsyncRead + AsyncWrite + Unpin> Watched<I> {
    /// Watches a connection that nothing was read from.
    pub fn new(inner: I, activity: Arc<Activity>) -> Self {
        Self { inner, activity, first: [0; PREFACE.len()], read: 0, filled: 0 }
    }

    /// Whether the client speaks HTTP/2: waits for as many bytes as that takes, one where it does not.
    ///
    /// # Errors
    /// What reading gives; also `UnexpectedEof` where the client closes before it has sent anything.
    pub async fn speaks_http2(&mut self) -> io::Result<bool> {
        while self.filled < PREFACE.len() {
            let n = self.inner.read(&mut self.first[self.filled..]).await?;
            if n == 0 && self.filled == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.filled += n;
            if n == 0 || self.first[..self.filled] != PREFACE[..self.filled] {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Watched<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read < self.filled {
            let n = buf.remaining().min(self.filled - self.read);
            buf.put_slice(&self.first[self.read..self.read + n]);
            self.read += n;
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Watched<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.activity.wrote.store(true, Ordering::Relaxed);
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.activity.wrote.store(true, Ordering::Relaxed);
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
