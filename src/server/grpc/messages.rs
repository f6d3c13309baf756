//! The messages of a request's body: bounded before they are read, inflated within the same bound, on time or not at
//! all. What comes out is a body of messages that are not compressed, which tonic cuts and decodes.
//!
//! A message is a byte that says whether it is compressed, four of length, and that many bytes
//! (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>).

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use hyper::body::{Body, Frame, Incoming};
use tokio::time::{Instant, Sleep};
use tokio_stream::Stream;
use tokio_stream::wrappers::WatchStream;
use tonic::Status;

use super::call::Call;
use super::status::status;
use crate::error::{ErrorKind, InferError};
use crate::server::body::{Encoding, too_large};
use crate::server::state::{Reservation, ServerState};

const HEAD_BYTES: usize = 5;

/// How many messages a call brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One.
    Unary,
    /// Any number, with any time between them. Each holds its memory until its handler takes it from the call.
    Stream,
    /// Any number, each of which is done with when the next one begins.
    Dialogue,
}

/// A request's body on its way to tonic.
pub struct Messages {
    body: Incoming,
    state: Arc<ServerState>,
    call: Arc<Call>,
    kind: Kind,
    encoding: Encoding,
    /// Bytes of the largest message, as sent and inflated.
    limit: usize,
    /// Head of the message that is read, as far as it has come.
    head: [u8; HEAD_BYTES],
    head_len: usize,
    /// What is still to come of it.
    left: usize,
    /// Its memory.
    reservation: Option<Reservation>,
    /// Its bytes so far, where it is compressed.
    compressed: Option<BytesMut>,
    /// When it began.
    begun: Instant,
    /// Messages that are complete.
    complete: usize,
    /// What goes out next; used where messages may be compressed.
    ready: VecDeque<Bytes>,
    ended: bool,
    timer: Option<Pin<Box<Sleep>>>,
    closing: Option<WatchStream<bool>>,
}

impl Messages {
    /// The messages in `body`, none larger than `limit` bytes.
    #[must_use]
    pub fn new(
        body: Incoming,
        state: &Arc<ServerState>,
        call: &Arc<Call>,
        kind: Kind,
        encoding: Encoding,
        limit: usize,
    ) -> Self {
        Self {
            body,
            state: Arc::clone(state),
            call: Arc::clone(call),
            kind,
            encoding,
            limit,
            head: [0; HEAD_BYTES],
            head_len: 0,
            left: 0,
            reservation: None,
            compressed: None,
            begun: call.context.arrival.into(),
            complete: 0,
            ready: VecDeque::new(),
            ended: false,
            timer: None,
            closing: (kind != Kind::Unary).then(|| WatchStream::new(state.closing())),
        }
    }

    /// Looks through what has come. Returns what goes on as it is, where nothing can be compressed.
    fn take(&mut self, data: Bytes) -> Result<Option<Bytes>, InferError> {
        let mut rest = data.clone();
        while rest.has_remaining() {
            if self.head_len < HEAD_BYTES {
                if self.head_len == 0 {
                    self.start()?;
                }
                let n = rest.len().min(HEAD_BYTES - self.head_len);
                rest.copy_to_slice(&mut self.head[self.head_len..self.head_len + n]);
                self.head_len += n;
                if self.head_len < HEAD_BYTES {
                    break;
                }
                self.begin()?;
            }
            let part = rest.split_to(rest.len().min(self.left));
            self.left -= part.len();
            match &mut self.compressed {
                Some(compressed) => compressed.extend_from_slice(&part),
                None if self.encoding != Encoding::Identity && !part.is_empty() => self.ready.push_back(part),
                None => {}
            }
            if self.left == 0 {
                self.finish()?;
            }
        }
        Ok((self.encoding == Encoding::Identity).then_some(data))
    }

    /// The first byte of a message has come.
    fn start(&mut self) -> Result<(), InferError> {
        match self.kind {
            Kind::Unary if self.complete > 0 => {
                let text = "the call brings a second message; this method takes one";
                return Err(InferError::new(ErrorKind::MalformedProtobuf, text));
            }
            Kind::Unary => {}
            Kind::Dialogue => drop(self.call.release()),
            Kind::Stream => {}
        }
        if self.kind != Kind::Unary {
            self.begun = Instant::now();
            self.timer = None;
        }
        Ok(())
    }

    /// The head of a message is complete: its memory is reserved before anything takes it.
    fn begin(&mut self) -> Result<(), InferError> {
        let [flag, length @ ..] = self.head;
        let length = u32::from_be_bytes(length) as usize;
        if length > self.limit {
            return Err(if self.limit == self.state.limits.max_body_bytes {
                too_large(self.limit)
            } else {
                let text = format!("the message has {length} bytes; this method takes up to {}", self.limit);
                InferError::new(ErrorKind::BodyTooLarge, text)
            });
        }
        let compressed = match (flag, self.encoding) {
            (0, _) => false,
            (1, Encoding::Gzip | Encoding::Deflate) => true,
            (1, Encoding::Identity) => {
                let text = "the message says that it is compressed, and there is no grpc-encoding to say how";
                return Err(InferError::new(ErrorKind::CorruptEncoding, text));
            }
            _ => {
                let text = format!("a message begins with 0 or 1, got {flag}");
                return Err(InferError::new(ErrorKind::MalformedProtobuf, text));
            }
        };
        self.reservation = Some(self.state.budget.reserve(length)?);
        self.left = length;
        if compressed {
            self.compressed = Some(BytesMut::with_capacity(length));
        } else if self.encoding != Encoding::Identity {
            self.ready.push_back(Bytes::copy_from_slice(&self.head));
        }
        Ok(())
    }

    /// A message is complete.
    fn finish(&mut self) -> Result<(), InferError> {
        self.head_len = 0;
        self.complete += 1;
        let Some(mut reservation) = self.reservation.take() else { return Ok(()) };
        if let Some(compressed) = self.compressed.take() {
            let message =
                self.encoding.inflate("the message", compressed.freeze(), self.limit, &mut reservation)?;
            // At most `limit`, which came in four bytes itself or is smaller than the largest message of gRPC.
            let length = u32::try_from(message.len()).map_err(|_| too_large(self.limit))?.to_be_bytes();
            self.ready.push_back(Bytes::from([&[0][..], &length[..]].concat()));
            if !message.is_empty() {
                self.ready.push_back(message);
            }
        }
        self.call.hold(reservation);
        Ok(())
    }

    /// The body has ended.
    fn end(&mut self) -> Result<(), InferError> {
        self.ended = true;
        let fail = |text: String| Err(InferError::new(ErrorKind::MalformedProtobuf, text));
        if self.head_len == HEAD_BYTES {
            let length =
                u32::from_be_bytes([self.head[1], self.head[2], self.head[3], self.head[4]]) as usize;
            return fail(format!(
                "the call ends after {} of the message's {length} bytes",
                length - self.left
            ));
        }
        if self.head_len > 0 {
            return fail(format!(
                "the call ends after {} of {HEAD_BYTES} bytes of a message's head",
                self.head_len
            ));
        }
        if self.kind == Kind::Unary && self.complete == 0 {
            return fail("the call brings no message; this method takes one".to_owned());
        }
        Ok(())
    }

    /// Whether the client has to send something by now.
    fn due(&self) -> bool {
        self.kind == Kind::Unary || self.head_len > 0
    }

    /// Nothing has come: too late, or not wanted any more? Registers for both.
    fn idle(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.due() {
            let timeout = self.state.limits.request_read_timeout;
            let (begun, timer) = (self.begun, &mut self.timer);
            let timer = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(begun + timeout)));
            std::task::ready!(timer.as_mut().poll(cx));
            let what = if self.kind == Kind::Unary { "the request" } else { "a message" };
            let text =
                format!("{what} did not arrive within --request-read-timeout-secs {}", timeout.as_secs());
            return self.fail(&InferError::new(ErrorKind::SlowClient, text));
        }
        while let Some(closing) = &mut self.closing {
            match std::task::ready!(Pin::new(closing).poll_next(cx)) {
                Some(false) => {}
                Some(true) | None => {
                    self.ended = true;
                    return Poll::Ready(None);
                }
            }
        }
        Poll::Pending
    }

    fn fail(&mut self, error: &InferError) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.ended = true;
        self.ready.clear();
        Poll::Ready(Some(Err(status(error))))
    }
}

impl Body for Messages {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        loop {
            if let Some(data) = this.ready.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            if this.ended {
                return Poll::Ready(None);
            }
            let result = match Pin::new(&mut this.body).poll_frame(cx) {
                Poll::Pending => return this.idle(cx),
                Poll::Ready(None) => this.end().map(|()| None),
                Poll::Ready(Some(Err(e))) => {
                    let text = format!("the connection broke while the request was read: {e}");
                    Err(InferError::new(ErrorKind::Cancelled, text))
                }
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => this.take(data),
                    // Trailers; gRPC has none in a request.
                    Err(_) => continue,
                },
            };
            match result {
                Ok(Some(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Ok(None) => {}
                Err(e) => return this.fail(&e),
            }
        }
    }
}
